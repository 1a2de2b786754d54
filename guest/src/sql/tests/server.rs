//! A schema of our own on the server that the environment names, and the port to it.

use std::cell::{Cell, RefCell, RefMut};
use std::error::Error;
use std::rc::Rc;
use std::time::SystemTime;

use postgres::types::private::BytesMut;
use postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, NoTls};

use super::*;
use crate::ports::{
    CopyWriter, Cursor, DatabaseFailure, DatabaseFailureKind, DatabaseResult, Isolation, RowSet,
    Transaction,
};

/// Names the server: a libpq URI of a database in which schemas may be created.
const VARIABLE: &str = "METALAB_TEST_POSTGRES";

type Shared = Rc<RefCell<Client>>;

/// A schema with our table. It goes with the value.
pub(super) struct Server {
    client: Shared,
    pub(super) schema: Schema,
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
        let uri = std::env::var(VARIABLE)
            .unwrap_or_else(|_| panic!("{VARIABLE} should name a PostgreSQL server to test with"));
        let client = Client::connect(&uri, NoTls).unwrap();
        let time = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        // No test depends on a friendly name.
        let name = format!("test \"é\"; --{time}{:?}", std::thread::current().id());
        let server = Self {
            client: Rc::new(RefCell::new(client)),
            schema: Schema::new(name).unwrap(),
            asked: Rc::default(),
        };
        server.run(&format!("CREATE SCHEMA {}", server.schema));
        server
    }

    pub(super) fn run(&self, sql: &str) {
        let mut client = self.client.borrow_mut();
        client
            .batch_execute(sql)
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
        }
    }

    pub(super) fn copy(&self, sql: &str, lines: &str) {
        use std::io::Write as _;
        let mut client = self.client.borrow_mut();
        let mut writer = client.copy_in(sql).unwrap();
        writer.write_all(lines.as_bytes()).unwrap();
        writer.finish().unwrap();
    }

    pub(super) fn in_one_transaction(&self, statements: &[Statement]) {
        self.run("BEGIN");
        for statement in statements {
            self.execute(statement).unwrap();
        }
        self.run("COMMIT");
    }

    fn asks(&self) -> RefMut<'_, Client> {
        self.asked.set(self.asked.get() + 1);
        self.client.borrow_mut()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let sql = format!("DROP SCHEMA {} CASCADE", self.schema);
        let dropped = self.client.borrow_mut().batch_execute(&sql);
        if !std::thread::panicking() {
            dropped.unwrap();
        }
    }
}

/// A parameter goes as what the statement takes it for.
#[derive(Debug)]
struct Parameter<'p>(&'p SqlValue);

impl ToSql for Parameter<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self.0 {
            SqlValue::Null => Ok(IsNull::Yes),
            SqlValue::Boolean(value) if *ty == Type::BOOL => value.to_sql(ty, out),
            SqlValue::Integer(value) if *ty == Type::INT8 => value.to_sql(ty, out),
            SqlValue::Text(text) if *ty == Type::TEXT => text.to_sql(ty, out),
            SqlValue::TextArray(texts) if *ty == Type::TEXT_ARRAY => texts.to_sql(ty, out),
            SqlValue::Json(text) if *ty == Type::JSONB => {
                out.extend_from_slice(&[1]);
                out.extend_from_slice(text.as_bytes());
                Ok(IsNull::No)
            }
            other => Err(format!("{other:?} is no {ty}").into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A value of a row.
struct Received(SqlValue);

impl<'a> FromSql<'a> for Received {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(match *ty {
            Type::BOOL => SqlValue::Boolean(bool::from_sql(ty, raw)?),
            Type::INT4 => SqlValue::Integer(i32::from_sql(ty, raw)?.into()),
            Type::INT8 => SqlValue::Integer(i64::from_sql(ty, raw)?),
            Type::TEXT => SqlValue::Text(String::from_sql(ty, raw)?),
            Type::JSON => SqlValue::Json(String::from_utf8(raw.to_vec())?),
            Type::JSONB => SqlValue::Json(String::from_utf8(raw[1..].to_vec())?),
            Type::TEXT_ARRAY => SqlValue::TextArray(Vec::from_sql(ty, raw)?),
            _ => return Err(format!("{ty} is no type of the port").into()),
        }))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(SqlValue::Null))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn failure(error: &postgres::Error) -> DatabaseFailure {
    DatabaseFailure {
        kind: DatabaseFailureKind::Refused,
        sqlstate: error.code().map(|code| code.code().to_owned()),
        retryable: false,
        outcome_unknown: false,
        message: format!("{error:?}"),
    }
}

fn query_on(client: &mut Client, statement: &Statement, max_rows: u32) -> DatabaseResult<RowSet> {
    let parameters: Vec<_> = statement.parameters.iter().map(Parameter).collect();
    let parameters: Vec<_> = parameters
        .iter()
        .map(|parameter| -> &(dyn ToSql + Sync) { parameter })
        .collect();
    let rows = client
        .query(&statement.sql, &parameters)
        .map_err(|error| failure(&error))?;
    assert!(rows.len() <= max_rows as usize, "too many rows");
    let value = |row: &postgres::Row, index| row.get::<_, Received>(index).0;
    Ok(RowSet {
        columns: Vec::new(),
        affected: rows.len() as u64,
        rows: rows
            .iter()
            .map(|row| (0..row.len()).map(|index| value(row, index)).collect())
            .collect(),
    })
}

fn execute_on(client: &mut Client, statement: &Statement) -> DatabaseResult<u64> {
    let parameters: Vec<_> = statement.parameters.iter().map(Parameter).collect();
    let parameters: Vec<_> = parameters
        .iter()
        .map(|parameter| -> &(dyn ToSql + Sync) { parameter })
        .collect();
    client
        .execute(&statement.sql, &parameters)
        .map_err(|error| failure(&error))
}

impl Database for Server {
    fn query(&self, statement: &Statement, max_rows: u32) -> DatabaseResult<RowSet> {
        query_on(&mut self.asks(), statement, max_rows)
    }

    fn execute(&self, statement: &Statement) -> DatabaseResult<u64> {
        execute_on(&mut self.asks(), statement)
    }

    fn batch(&self, statements: &[Statement]) -> DatabaseResult<Vec<u64>> {
        statements
            .iter()
            .map(|statement| self.execute(statement))
            .collect()
    }

    fn begin(&self, isolation: Isolation, read_only: bool) -> DatabaseResult<Box<dyn Transaction>> {
        assert_eq!((isolation, read_only), (Isolation::RepeatableRead, true));
        self.asks()
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .map_err(|error| failure(&error))?;
        Ok(Box::new(Begun(Rc::clone(&self.client), Cell::new(0))))
    }
}

struct Begun(Shared, Cell<usize>);

impl Transaction for Begun {
    fn query(&self, statement: &Statement, max_rows: u32) -> DatabaseResult<RowSet> {
        query_on(&mut self.0.borrow_mut(), statement, max_rows)
    }

    fn execute(&self, statement: &Statement) -> DatabaseResult<u64> {
        execute_on(&mut self.0.borrow_mut(), statement)
    }

    fn batch(&self, statements: &[Statement]) -> DatabaseResult<Vec<u64>> {
        statements
            .iter()
            .map(|statement| self.execute(statement))
            .collect()
    }

    fn open_cursor(&self, statement: &Statement) -> DatabaseResult<Box<dyn Cursor>> {
        self.1.set(self.1.get() + 1);
        let name = format!("cursor{}", self.1.get());
        self.execute(&Statement {
            sql: format!("DECLARE {name} NO SCROLL CURSOR FOR {}", statement.sql),
            parameters: statement.parameters.clone(),
        })?;
        Ok(Box::new(Opened(Rc::clone(&self.0), name)))
    }

    fn copy_in(&self, _sql: &str) -> DatabaseResult<Box<dyn CopyWriter>> {
        panic!("no query copies")
    }

    fn commit(self: Box<Self>) -> DatabaseResult<()> {
        panic!("no query changes anything")
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.borrow_mut().batch_execute("ROLLBACK").unwrap();
    }
}

struct Opened(Shared, String);

impl Cursor for Opened {
    fn next(&self, max_rows: u32, _max_bytes: u32) -> DatabaseResult<RowSet> {
        let statement = Statement {
            // Small pieces, so that every list has several.
            sql: format!("FETCH FORWARD {} FROM {}", max_rows.min(50), self.1),
            parameters: Vec::new(),
        };
        query_on(&mut self.0.borrow_mut(), &statement, max_rows)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // In a transaction that failed nothing can be closed.
        drop(
            self.0
                .borrow_mut()
                .batch_execute(&format!("CLOSE {}", self.1)),
        );
    }
}
