//! The database ports on a pool of connections of this process.

use crate::ports::{
    CopyWriter, Cursor, Database, DatabaseFailure, DatabaseFailureKind, DatabaseResult, Databases,
    Isolation, NoDatabases, RowSet, SqlValue, Statement, Transaction,
};
use metalab_store_postgres as driver;
use std::cell::RefCell;
use std::rc::Rc;

/// One pool under a name.
pub(crate) struct NativeDatabases {
    pub(crate) binding: String,
    pub(crate) pool: driver::Pool,
}

struct NativeDatabase(driver::Pool);

struct NativeTransaction(driver::Transaction);

struct NativeCursor(RefCell<driver::Cursor>);

struct NativeCopyWriter(RefCell<driver::CopyWriter>);

impl From<&SqlValue> for driver::Value {
    fn from(value: &SqlValue) -> Self {
        match value {
            SqlValue::Null => Self::Null,
            SqlValue::Boolean(value) => Self::Boolean(*value),
            SqlValue::Integer(value) => Self::Integer(*value),
            SqlValue::Float(value) => Self::Float(*value),
            SqlValue::Text(value) => Self::Text(value.clone()),
            SqlValue::Bytes(value) => Self::Bytes(value.clone()),
            SqlValue::Json(value) => Self::Json(value.clone()),
            SqlValue::Timestamp(value) => Self::Timestamp(*value),
            SqlValue::TextArray(value) => Self::TextArray(value.clone()),
        }
    }
}

impl From<driver::Value> for SqlValue {
    fn from(value: driver::Value) -> Self {
        match value {
            driver::Value::Null => Self::Null,
            driver::Value::Boolean(value) => Self::Boolean(value),
            driver::Value::Integer(value) => Self::Integer(value),
            driver::Value::Float(value) => Self::Float(value),
            driver::Value::Text(value) => Self::Text(value),
            driver::Value::Bytes(value) => Self::Bytes(value),
            driver::Value::Json(value) => Self::Json(value),
            driver::Value::Timestamp(value) => Self::Timestamp(value),
            driver::Value::TextArray(value) => Self::TextArray(value),
        }
    }
}

impl From<driver::Failure> for DatabaseFailure {
    fn from(failure: driver::Failure) -> Self {
        Self {
            kind: match failure.kind {
                driver::FailureKind::Unreachable => DatabaseFailureKind::Unreachable,
                driver::FailureKind::PoolExhausted => DatabaseFailureKind::PoolExhausted,
                driver::FailureKind::TimedOut => DatabaseFailureKind::TimedOut,
                driver::FailureKind::Disconnected => DatabaseFailureKind::Disconnected,
                driver::FailureKind::Refused => DatabaseFailureKind::Refused,
                driver::FailureKind::UnsupportedType => DatabaseFailureKind::UnsupportedType,
                driver::FailureKind::TooLarge => DatabaseFailureKind::TooLarge,
            },
            sqlstate: failure.sqlstate,
            retryable: failure.retryable,
            outcome_unknown: failure.outcome_unknown,
            message: failure.message,
        }
    }
}

impl From<driver::RowSet> for RowSet {
    fn from(set: driver::RowSet) -> Self {
        let row = |row: Vec<driver::Value>| row.into_iter().map(Into::into).collect();
        Self {
            columns: set.columns,
            rows: set.rows.into_iter().map(row).collect(),
            affected: set.affected,
        }
    }
}

fn statement(statement: &Statement) -> driver::Statement {
    driver::Statement {
        sql: statement.sql.clone(),
        parameters: statement.parameters.iter().map(Into::into).collect(),
    }
}

fn statements(statements: &[Statement]) -> Vec<driver::Statement> {
    statements.iter().map(statement).collect()
}

impl Databases for NativeDatabases {
    fn named(&self, binding: &str) -> Rc<dyn Database> {
        if binding == self.binding {
            Rc::new(NativeDatabase(self.pool.clone()))
        } else {
            Rc::new(NoDatabases)
        }
    }
}

impl Database for NativeDatabase {
    fn query(&self, query: &Statement, max_rows: u32) -> DatabaseResult<RowSet> {
        Ok(self.0.query(&statement(query), max_rows)?.into())
    }

    fn execute(&self, command: &Statement) -> DatabaseResult<u64> {
        Ok(self.0.execute(&statement(command))?)
    }

    fn batch(&self, commands: &[Statement]) -> DatabaseResult<Vec<u64>> {
        Ok(self.0.batch(&statements(commands))?)
    }

    fn begin(&self, isolation: Isolation, read_only: bool) -> DatabaseResult<Box<dyn Transaction>> {
        let isolation = match isolation {
            Isolation::ReadCommitted => driver::Isolation::ReadCommitted,
            Isolation::RepeatableRead => driver::Isolation::RepeatableRead,
            Isolation::Serializable => driver::Isolation::Serializable,
        };
        let begun = self.0.begin(isolation, read_only)?;
        Ok(Box::new(NativeTransaction(begun)))
    }

    fn begin_with(
        &self,
        commands: &[Statement],
        may_be_lost: bool,
    ) -> DatabaseResult<Box<dyn Transaction>> {
        let begun = self.0.begin_with(statements(commands), may_be_lost)?;
        Ok(Box::new(NativeTransaction(begun)))
    }
}

impl Transaction for NativeTransaction {
    fn query(&self, query: &Statement, max_rows: u32) -> DatabaseResult<RowSet> {
        Ok(self.0.query(&statement(query), max_rows)?.into())
    }

    fn execute(&self, command: &Statement) -> DatabaseResult<u64> {
        Ok(self.0.execute(&statement(command))?)
    }

    fn batch(&self, commands: &[Statement]) -> DatabaseResult<Vec<u64>> {
        Ok(self.0.batch(&statements(commands))?)
    }

    fn open_cursor(&self, query: &Statement) -> DatabaseResult<Box<dyn Cursor>> {
        let cursor = self.0.open_cursor(&statement(query))?;
        Ok(Box::new(NativeCursor(RefCell::new(cursor))))
    }

    fn copy_in(&self, sql: &str) -> DatabaseResult<Box<dyn CopyWriter>> {
        let writer = self.0.copy_in(sql)?;
        Ok(Box::new(NativeCopyWriter(RefCell::new(writer))))
    }

    fn commit(self: Box<Self>) -> DatabaseResult<()> {
        Ok(self.0.commit()?)
    }
}

impl Cursor for NativeCursor {
    fn next(&self, max_rows: u32, max_bytes: u32) -> DatabaseResult<RowSet> {
        Ok(self.0.borrow_mut().next(max_rows, max_bytes)?.into())
    }
}

impl CopyWriter for NativeCopyWriter {
    fn write(&self, lines: &str) -> DatabaseResult<()> {
        Ok(self.0.borrow_mut().write(lines)?)
    }

    fn finish(self: Box<Self>) -> DatabaseResult<u64> {
        Ok(self.0.borrow_mut().finish()?)
    }
}
