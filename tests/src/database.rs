//! A schema of its own for each test on the server that the tests share.

use metalab_store::{PostgresStoreConfig, StoreConfig};
use metalab_store_guest::config::{from_locator, resolve};
use metalab_store_guest::native;
use metalab_store_postgres::{Pool, RowSet, Statement, Value};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Names the server.
const VARIABLE: &str = "METALAB_TEST_POSTGRES";

/// Returns the address of the server that the tests share.
///
/// # Panics
/// If there is none: no test that needs it passes without.
#[must_use]
pub fn server() -> String {
    std::env::var(VARIABLE).unwrap_or_else(|_| {
        panic!(
            "{VARIABLE} should name a PostgreSQL server to test with; `cargo xtask test` starts one"
        )
    })
}

/// A schema, and a way to look at it. It goes when this is dropped.
pub struct Schema {
    /// The address of the database.
    pub uri: String,
    /// The name.
    pub name: String,
    pool: Pool,
}

impl Schema {
    /// Names a schema that no other test has; it is not created.
    #[must_use]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::on(
            &server(),
            // No test depends on a friendly name.
            &format!("Test \"{}\" é; {count}", std::process::id()),
        )
    }

    /// Names a schema of a server.
    #[must_use]
    pub fn on(uri: &str, name: &str) -> Self {
        Self {
            uri: uri.to_owned(),
            name: name.to_owned(),
            pool: pool(uri),
        }
    }

    /// Returns the configuration of a store on a collection, with its index in this schema.
    #[must_use]
    pub fn config(&self, root: &Path) -> PostgresStoreConfig {
        PostgresStoreConfig::new(self.uri.clone(), root).schema(self.name.clone())
    }

    /// Returns the locator for it.
    #[must_use]
    pub fn locator(&self, root: &Path) -> String {
        let mut name = String::new();
        for byte in self.name.bytes() {
            name.push_str(&format!("%{byte:02x}"));
        }
        let separator = if self.uri.contains('?') { '&' } else { '?' };
        format!(
            "{}{separator}file_root={}&schema={name}",
            self.uri,
            root.display()
        )
    }

    /// Returns the quoted name of a table.
    #[must_use]
    pub fn table(&self, table: &str) -> String {
        format!("\"{}\".{table}", self.name.replace('"', "\"\""))
    }

    /// Runs statements, with `{table}` in them replaced by quoted names.
    ///
    /// # Panics
    /// If one fails.
    pub fn run(&self, sql: &str) {
        for sql in sql.split(";\n") {
            let statement = Statement {
                sql: self.quoted(sql),
                parameters: Vec::new(),
            };
            self.pool
                .execute(&statement)
                .unwrap_or_else(|failure| panic!("{sql}: {failure}"));
        }
    }

    /// Runs a query.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn rows(&self, sql: &str) -> Vec<Vec<Value>> {
        let statement = Statement {
            sql: self.quoted(sql),
            parameters: Vec::new(),
        };
        let RowSet { rows, .. } = self
            .pool
            .query(&statement, 1_000_000)
            .unwrap_or_else(|failure| panic!("{sql}: {failure}"));
        rows
    }

    /// Counts the rows of a table.
    #[must_use]
    pub fn count(&self, table: &str) -> i64 {
        let rows = self.rows(&format!("SELECT count(*) FROM {{{table}}}"));
        match rows[0][0] {
            Value::Integer(count) => count,
            ref other => panic!("{other:?}"),
        }
    }

    fn quoted(&self, sql: &str) -> String {
        let mut text = String::new();
        let mut rest = sql;
        while let Some((before, after)) = rest.split_once('{') {
            let (table, after) = after.split_once('}').unwrap();
            text.push_str(before);
            text.push_str(&self.table(table));
            rest = after;
        }
        text + rest
    }
}

impl Default for Schema {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let name = self.name.replace('"', "\"\"");
        let drop = Statement {
            sql: format!("DROP SCHEMA IF EXISTS \"{name}\" CASCADE"),
            parameters: Vec::new(),
        };
        // The server may be one that the test stopped.
        self.pool.execute(&drop).ok();
        self.pool.close();
    }
}

/// Makes a pool for an address, as a host does.
///
/// # Panics
/// If it is no address.
#[must_use]
pub fn pool(uri: &str) -> Pool {
    let separator = if uri.contains('?') { '&' } else { '?' };
    let config = from_locator(&format!("{uri}{separator}file_root=/")).unwrap();
    let connection = resolve(&config, None).unwrap().connection.unwrap();
    native::pool(connection).unwrap()
}

/// Returns the configuration of a locator.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn config(locator: &str) -> StoreConfig {
    StoreConfig::from_locator(locator).unwrap()
}
