//! The database ports on the `postgres` import.

use crate::component::metalab::store::postgres;
use crate::ports::{
    CopyWriter, Cursor, Database, DatabaseFailure, DatabaseFailureKind, DatabaseResult, Databases,
    Isolation, RowSet, SqlValue, Statement, Transaction,
};
use std::rc::Rc;

/// The bindings that the host granted.
pub(crate) struct HostDatabases;

/// A binding, by its name.
struct HostDatabase(String);

struct HostTransaction(postgres::Transaction);

struct HostCursor(postgres::Cursor);

struct HostCopyWriter(postgres::CopyWriter);

impl From<&SqlValue> for postgres::Value {
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

impl From<postgres::Value> for SqlValue {
    fn from(value: postgres::Value) -> Self {
        match value {
            postgres::Value::Null => Self::Null,
            postgres::Value::Boolean(value) => Self::Boolean(value),
            postgres::Value::Integer(value) => Self::Integer(value),
            postgres::Value::Float(value) => Self::Float(value),
            postgres::Value::Text(value) => Self::Text(value),
            postgres::Value::Bytes(value) => Self::Bytes(value),
            postgres::Value::Json(value) => Self::Json(value),
            postgres::Value::Timestamp(value) => Self::Timestamp(value),
            postgres::Value::TextArray(value) => Self::TextArray(value),
        }
    }
}

impl From<postgres::FailureKind> for DatabaseFailureKind {
    fn from(kind: postgres::FailureKind) -> Self {
        match kind {
            postgres::FailureKind::NotGranted => Self::NotGranted,
            postgres::FailureKind::Unreachable => Self::Unreachable,
            postgres::FailureKind::PoolExhausted => Self::PoolExhausted,
            postgres::FailureKind::TimedOut => Self::TimedOut,
            postgres::FailureKind::Disconnected => Self::Disconnected,
            postgres::FailureKind::Refused => Self::Refused,
            postgres::FailureKind::UnsupportedType => Self::UnsupportedType,
            postgres::FailureKind::TooLarge => Self::TooLarge,
        }
    }
}

impl From<postgres::Failure> for DatabaseFailure {
    fn from(failure: postgres::Failure) -> Self {
        Self {
            kind: failure.kind.into(),
            sqlstate: failure.sqlstate,
            retryable: failure.retryable,
            outcome_unknown: failure.outcome_unknown,
            message: failure.message,
        }
    }
}

impl From<postgres::RowSet> for RowSet {
    fn from(set: postgres::RowSet) -> Self {
        let row = |row: Vec<postgres::Value>| row.into_iter().map(Into::into).collect();
        Self {
            columns: set.columns,
            rows: set.rows.into_iter().map(row).collect(),
            affected: set.affected,
        }
    }
}

fn statement(statement: &Statement) -> postgres::Statement {
    postgres::Statement {
        sql: statement.sql.clone(),
        parameters: statement.parameters.iter().map(Into::into).collect(),
    }
}

fn statements(statements: &[Statement]) -> Vec<postgres::Statement> {
    statements.iter().map(statement).collect()
}

impl Databases for HostDatabases {
    fn named(&self, binding: &str) -> Rc<dyn Database> {
        Rc::new(HostDatabase(binding.to_owned()))
    }
}

impl Database for HostDatabase {
    fn query(&self, query: &Statement, max_rows: u32) -> DatabaseResult<RowSet> {
        Ok(postgres::query(&self.0, &statement(query), max_rows)?.into())
    }

    fn execute(&self, command: &Statement) -> DatabaseResult<u64> {
        Ok(postgres::execute(&self.0, &statement(command))?)
    }

    fn batch(&self, commands: &[Statement]) -> DatabaseResult<Vec<u64>> {
        Ok(postgres::batch(&self.0, &statements(commands))?)
    }

    fn begin(&self, isolation: Isolation, read_only: bool) -> DatabaseResult<Box<dyn Transaction>> {
        let isolation = match isolation {
            Isolation::ReadCommitted => postgres::Isolation::ReadCommitted,
            Isolation::RepeatableRead => postgres::Isolation::RepeatableRead,
            Isolation::Serializable => postgres::Isolation::Serializable,
        };
        let begun = postgres::Transaction::begin(&self.0, isolation, read_only)?;
        Ok(Box::new(HostTransaction(begun)))
    }

    fn begin_with(
        &self,
        commands: &[Statement],
        may_be_lost: bool,
    ) -> DatabaseResult<Box<dyn Transaction>> {
        let commands = statements(commands);
        let begun = postgres::Transaction::begin_with(&self.0, &commands, may_be_lost)?;
        Ok(Box::new(HostTransaction(begun)))
    }
}

impl Transaction for HostTransaction {
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
        Ok(Box::new(HostCursor(self.0.open_cursor(&statement(query))?)))
    }

    fn copy_in(&self, sql: &str) -> DatabaseResult<Box<dyn CopyWriter>> {
        Ok(Box::new(HostCopyWriter(self.0.copy_in(sql)?)))
    }

    fn commit(self: Box<Self>) -> DatabaseResult<()> {
        Ok(self.0.commit()?)
    }
}

impl Cursor for HostCursor {
    fn next(&self, max_rows: u32, max_bytes: u32) -> DatabaseResult<RowSet> {
        Ok(self.0.next(max_rows, max_bytes)?.into())
    }
}

impl CopyWriter for HostCopyWriter {
    fn write(&self, lines: &str) -> DatabaseResult<()> {
        Ok(self.0.write(lines)?)
    }

    fn finish(self: Box<Self>) -> DatabaseResult<u64> {
        Ok(self.0.finish()?)
    }
}
