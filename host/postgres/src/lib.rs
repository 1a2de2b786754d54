//! Bounded pools of PostgreSQL connections with typed values, for hosts of metalab-store.
//!
//! It holds no storage logic: it runs the statements that the storage logic makes, and knows the types of the
//! contract's `postgres` interface and no others. A pool has at most so many connections, makes the first when it
//! is needed, waits for one to become free only until a deadline, and never gives out one that broke or on which a
//! transaction may be open. Statements are prepared once a connection, so that one outside a transaction is one
//! round trip. Calls block; within a Tokio runtime they run on another thread meanwhile.
//!
//! ```no_run
//! use metalab_store_postgres::{Pool, Settings, Statement, Value};
//!
//! let mut settings = Settings::new("localhost", 5432, "metalab");
//! settings.user = Some("lab".to_owned());
//! let pool = Pool::new(settings)?;
//! let statement = Statement {
//!     sql: "SELECT $1::bigint + 1".to_owned(),
//!     parameters: vec![Value::Integer(41)],
//! };
//! assert_eq!(pool.query(&statement, 1)?.rows, [[Value::Integer(42)]]);
//! # Ok::<(), metalab_store_postgres::Failure>(())
//! ```

#![deny(missing_docs)]

mod connection;
mod failure;
mod pool;
mod settings;
mod text;
mod tls;
mod transaction;
mod value;

pub use connection::{RowSet, Statement};
pub use failure::{Failure, FailureKind};
pub use pool::Pool;
pub use settings::{Settings, TlsMode};
pub use transaction::{CopyWriter, Cursor, Isolation, Transaction};
pub use value::Value;
