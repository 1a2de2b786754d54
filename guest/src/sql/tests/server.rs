//! A schema of our own on the server that the environment names, and the port to it.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::SystemTime;

use super::*;
use crate::native;
use crate::ports::{CopyWriter, Cursor, Database, DatabaseResult, Isolation, RowSet, Transaction};

/// A schema with our table. It goes with the value.
pub(super) struct Server {
    database: Rc<dyn Database>,
    pub(super) schema: Schema,
    /// The indexes that a store would know of.
    pub(super) indexes: BTreeSet<String>,
    /// How many times the server was asked.
    pub(super) asked: Rc<Cell<usize>>,
}

impl Server {
    pub(super) fn new() -> Self {
        let server = Self::empty();
        for statement in runs::create(&server.schema) {
            server.run(&statement);
        }
        server
    }

    /// A schema without any table.
    pub(super) fn empty() -> Self {
        let time = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        // No test depends on a friendly name.
        let name = format!("test \"é\"; --{time}{:?}", std::thread::current().id());
        let server = Self {
            database: native::databases("test", native::test_pool()).named("test"),
            schema: Schema::new(name).unwrap(),
            indexes: BTreeSet::new(),
            asked: Rc::default(),
        };
        server.run(&format!("CREATE SCHEMA {}", server.schema));
        server
    }

    pub(super) fn run(&self, sql: &str) {
        let statement = Statement {
            sql: sql.to_owned(),
            parameters: Vec::new(),
        };
        self.database
            .execute(&statement)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub(super) fn put(&self, rows: &[Row]) {
        for rows in rows.chunks(runs::MAX_ROWS) {
            self.execute(&runs::upsert(&self.schema, rows)).unwrap();
        }
    }

    pub(super) fn within<'q>(&'q self, scopes: &'q [String]) -> Within<'q> {
        Within {
            schema: &self.schema,
            scopes,
            experiment: None,
            indexes: &self.indexes,
        }
    }

    pub(super) fn copy(&self, sql: &str, lines: &str) {
        let transaction = self
            .database
            .begin(Isolation::ReadCommitted, false)
            .unwrap();
        let writer = transaction.copy_in(sql).unwrap();
        writer.write(lines).unwrap();
        writer.finish().unwrap();
        transaction.commit().unwrap();
    }

    pub(super) fn in_one_transaction(&self, statements: &[Statement]) {
        self.database.batch(statements).unwrap();
    }

    fn asks(&self) -> &dyn Database {
        self.asked.set(self.asked.get() + 1);
        &*self.database
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let drop = Statement {
            sql: format!("DROP SCHEMA {} CASCADE", self.schema),
            parameters: Vec::new(),
        };
        let dropped = self.database.execute(&drop);
        if !std::thread::panicking() {
            dropped.unwrap();
        }
    }
}

impl Database for Server {
    fn query(&self, statement: &Statement, max_rows: u32) -> DatabaseResult<RowSet> {
        self.asks().query(statement, max_rows)
    }

    fn execute(&self, statement: &Statement) -> DatabaseResult<u64> {
        self.asks().execute(statement)
    }

    fn batch(&self, statements: &[Statement]) -> DatabaseResult<Vec<u64>> {
        self.asks().batch(statements)
    }

    fn begin(&self, isolation: Isolation, read_only: bool) -> DatabaseResult<Box<dyn Transaction>> {
        assert_eq!((isolation, read_only), (Isolation::RepeatableRead, true));
        Ok(Box::new(Begun(self.asks().begin(isolation, read_only)?)))
    }

    fn begin_with(&self, _: &[Statement], _: bool) -> DatabaseResult<Box<dyn Transaction>> {
        panic!("no query writes")
    }
}

struct Begun(Box<dyn Transaction>);

impl Transaction for Begun {
    fn query(&self, statement: &Statement, max_rows: u32) -> DatabaseResult<RowSet> {
        self.0.query(statement, max_rows)
    }

    fn execute(&self, statement: &Statement) -> DatabaseResult<u64> {
        self.0.execute(statement)
    }

    fn batch(&self, statements: &[Statement]) -> DatabaseResult<Vec<u64>> {
        self.0.batch(statements)
    }

    fn open_cursor(&self, statement: &Statement) -> DatabaseResult<Box<dyn Cursor>> {
        Ok(Box::new(Opened(self.0.open_cursor(statement)?)))
    }

    fn copy_in(&self, _sql: &str) -> DatabaseResult<Box<dyn CopyWriter>> {
        panic!("no query copies")
    }

    fn commit(self: Box<Self>) -> DatabaseResult<()> {
        panic!("no query changes anything")
    }
}

struct Opened(Box<dyn Cursor>);

impl Cursor for Opened {
    fn next(&self, max_rows: u32, max_bytes: u32) -> DatabaseResult<RowSet> {
        // Small pieces, so that every list has several.
        self.0.next(max_rows.min(50), max_bytes)
    }
}
