//! What the tests share: a server, a schema of their own in it, and short ways to say what they ask.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use metalab_store_postgres::{Pool, Settings, Statement, Value};
use std::hash::{BuildHasher, Hasher, RandomState};
use tokio_postgres::config::{Config, Host};

/// Returns the settings of the server that the tests are given.
pub fn settings() -> Settings {
    let uri = std::env::var("METALAB_TEST_POSTGRES").unwrap_or_default();
    assert!(
        !uri.is_empty(),
        "METALAB_TEST_POSTGRES names no database for the tests; `cargo xtask test` starts a server and sets it"
    );
    settings_of(&uri)
}

/// Returns the settings that a URI stands for.
pub fn settings_of(uri: &str) -> Settings {
    let config: Config = uri.parse().unwrap();
    let host = match &config.get_hosts()[0] {
        Host::Tcp(host) => host.clone(),
        Host::Unix(path) => path.to_str().unwrap().to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let mut settings = Settings::new(host, port, config.get_dbname().unwrap_or_default());
    settings.user = config.get_user().map(str::to_owned);
    settings.password = config
        .get_password()
        .map(|password| String::from_utf8(password.to_vec()).unwrap());
    settings
}

/// Returns a name that nothing else has.
pub fn random_name(prefix: &str) -> String {
    format!("{prefix}_{:x}", RandomState::new().build_hasher().finish())
}

pub fn statement(sql: &str, parameters: Vec<Value>) -> Statement {
    Statement {
        sql: sql.to_owned(),
        parameters,
    }
}

/// A statement without parameters.
pub fn sql(sql: &str) -> Statement {
    statement(sql, Vec::new())
}

/// Returns the only value of the only row.
pub fn one(pool: &Pool, sql_text: &str) -> Value {
    let mut set = pool.query(&sql(sql_text), 1).unwrap();
    set.rows.remove(0).remove(0)
}

/// A schema of a test's own, dropped with it. Pools of its settings find it first.
pub struct Schema {
    pub name: String,
    pub settings: Settings,
}

impl Schema {
    pub fn new() -> Self {
        let mut settings = settings();
        let name = random_name("driver_test");
        Pool::new(settings.clone())
            .unwrap()
            .execute(&sql(&format!("CREATE SCHEMA {name}")))
            .unwrap();
        settings
            .parameters
            .push(("options".to_owned(), format!("-csearch_path={name}")));
        // By this name the tests find their own sessions.
        settings
            .parameters
            .push(("application_name".to_owned(), name.clone()));
        Self { name, settings }
    }

    pub fn pool(&self) -> Pool {
        Pool::new(self.settings.clone()).unwrap()
    }

    /// Returns how many sessions of this test's pools the server has.
    pub fn sessions(&self, observer: &Pool) -> i64 {
        let count = statement(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1",
            vec![Value::Text(self.name.clone())],
        );
        match observer.query(&count, 1).unwrap().rows[0][0] {
            Value::Integer(count) => count,
            _ => unreachable!("count is a number"),
        }
    }

    /// Waits until the server has so many: it notices the end of a connection a little later.
    pub fn wait_for_sessions(&self, observer: &Pool, expected: i64) {
        while self.sessions(observer) != expected {
            std::thread::yield_now();
        }
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let pool = Pool::new(settings()).unwrap();
        let dropped = pool.execute(&sql(&format!("DROP SCHEMA {} CASCADE", self.name)));
        if !std::thread::panicking() {
            dropped.unwrap();
        }
    }
}
