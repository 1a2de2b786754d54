//! Store for experiment runs: records, metrics, results, logs, artifacts and manifests in plain files.
//!
//! The storage logic is a WebAssembly component, the same bytes in every host. This crate runs it in
//! wasmtime and grants it one directory and locks on that directory, and, where the configuration names a
//! database, a pool of connections under a name; and nothing else.
//!
//! Supported today: the file store, whole; PostgreSQL as its query index; copies between stores and archives;
//! verification and repair; sandboxed plugins that derive metrics.
//!
//! ```
//! use metalab_store::types::{Expectation, RunRecord, Status};
//! use metalab_store::FileStoreConfig;
//!
//! # fn main() -> Result<(), metalab_store::Error> {
//! # let directory = std::env::temp_dir().join(format!("metalab-store-doc-{}", std::process::id()));
//! let store = FileStoreConfig::new(&directory).scoped("my_exp:1.0").connect()?;
//! store.put_run_record(&RunRecord::new("0123456789abcdef", Status::Success), &Expectation::Anything)?;
//! let run = store.get_run_record("0123456789abcdef")?.expect("it was just put");
//! assert_eq!(run.experiment_id, "my_exp:1.0");
//! # store.close()?;
//! # std::fs::remove_dir_all(&directory).ok();
//! # Ok(())
//! # }
//! ```

#![deny(missing_docs)]

mod artifact;
mod bindings;
mod bulk;
mod config;
mod engine;
mod engine_config;
mod error;
mod grant;
mod instance;
pub mod maintenance;
pub mod plugin;
mod pool;
mod postgres;
mod roots;
mod store;
pub mod transfer;
mod typed_line;
pub mod types;

pub use artifact::{ArtifactReader, ArtifactWriter};
pub use bulk::HeldReader;
pub use config::{FileStoreConfig, PostgresStoreConfig, StoreConfig};
pub use engine::{Engine, add_to_linker, component_bytes};
pub use error::{Error, Result};
pub use instance::Limits;
pub use postgres::{Bindings, HeldCopy, HeldCursor, HeldTransaction, PostgresView};
pub use roots::{HeldLock, RootsContext, RootsView};
pub use store::{IndexRebuild, RunList, RunPage, Store};
