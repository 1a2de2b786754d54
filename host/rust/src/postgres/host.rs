//! The interface's calls. Numbers and sizes that the component passes are bounded here; handles that are not in the
//! table are the component's mistake and end the instance.

use super::PostgresView;
use crate::bindings::metalab::store::postgres::{
    CopyWriter, Cursor, Failure, FailureKind, Host, HostCopyWriter, HostCursor, HostTransaction,
    Isolation, RowSet, Statement, Transaction,
};
use metalab_store_postgres as driver;
use wasmtime::component::Resource;

/// The most statements of one batch.
const MAX_BATCH: usize = 10_000;

/// How much of the name of a binding is shown, in characters.
const SHOWN: usize = 64;

/// The most bytes of one page of a cursor.
const MAX_PAGE: u32 = 16 * 1024 * 1024;

/// The most bytes of one piece of a COPY.
const MAX_LINES: usize = 256 * 1024;

/// A transaction in the table.
pub struct HeldTransaction(driver::Transaction);

/// A cursor in the table.
pub struct HeldCursor(driver::Cursor);

/// A running COPY in the table.
pub struct HeldCopy(driver::CopyWriter);

type Answer<T> = wasmtime::Result<Result<T, Failure>>;

fn failure(kind: FailureKind, message: String) -> Failure {
    Failure {
        kind,
        sqlstate: None,
        retryable: false,
        outcome_unknown: false,
        message,
    }
}

fn too_many(statements: &[Statement]) -> Option<Failure> {
    (statements.len() > MAX_BATCH).then(|| {
        failure(
            FailureKind::TooLarge,
            format!("a batch has at most {MAX_BATCH} statements"),
        )
    })
}

impl PostgresView<'_> {
    fn pool(&self, binding: &str) -> Result<&driver::Pool, Failure> {
        self.bindings.get(binding).ok_or_else(|| {
            // A name may be as large as what the component may pass at all, and the message goes back to it.
            let shown: String = binding.chars().take(SHOWN).collect();
            failure(
                FailureKind::NotGranted,
                format!("the host granted no PostgreSQL binding {shown:?}"),
            )
        })
    }
}

impl PostgresView<'_> {
    fn hold(
        &mut self,
        begun: Result<driver::Transaction, Failure>,
    ) -> Answer<Resource<HeldTransaction>> {
        match begun {
            Ok(transaction) => Ok(Ok(self.table.push(HeldTransaction(transaction))?)),
            Err(failure) => Ok(Err(failure)),
        }
    }
}

fn all(statements: Vec<Statement>) -> Vec<driver::Statement> {
    statements.into_iter().map(Into::into).collect()
}

impl Host for PostgresView<'_> {
    fn query(&mut self, binding: String, statement: Statement, max_rows: u32) -> Answer<RowSet> {
        let answer = self
            .pool(&binding)
            .and_then(|pool| Ok(pool.query(&statement.into(), max_rows)?.into()));
        Ok(answer)
    }

    fn execute(&mut self, binding: String, statement: Statement) -> Answer<u64> {
        let answer = self
            .pool(&binding)
            .and_then(|pool| Ok(pool.execute(&statement.into())?));
        Ok(answer)
    }

    fn batch(&mut self, binding: String, statements: Vec<Statement>) -> Answer<Vec<u64>> {
        if let Some(failure) = too_many(&statements) {
            return Ok(Err(failure));
        }
        let answer = self
            .pool(&binding)
            .and_then(|pool| Ok(pool.batch(&all(statements))?));
        Ok(answer)
    }
}

impl HostTransaction for PostgresView<'_> {
    fn begin(
        &mut self,
        binding: String,
        isolation: Isolation,
        read_only: bool,
    ) -> Answer<Resource<HeldTransaction>> {
        let begun = self
            .pool(&binding)
            .and_then(|pool| Ok(pool.begin(isolation.into(), read_only)?));
        self.hold(begun)
    }

    fn begin_with(
        &mut self,
        binding: String,
        statements: Vec<Statement>,
        may_be_lost: bool,
    ) -> Answer<Resource<HeldTransaction>> {
        if let Some(failure) = too_many(&statements) {
            return Ok(Err(failure));
        }
        let begun = self
            .pool(&binding)
            .and_then(|pool| Ok(pool.begin_with(all(statements), may_be_lost)?));
        self.hold(begun)
    }

    fn query(
        &mut self,
        transaction: Resource<Transaction>,
        statement: Statement,
        max_rows: u32,
    ) -> Answer<RowSet> {
        let HeldTransaction(transaction) = self.table.get(&transaction)?;
        let answer = transaction.query(&statement.into(), max_rows);
        Ok(answer.map(Into::into).map_err(Into::into))
    }

    fn execute(&mut self, transaction: Resource<Transaction>, statement: Statement) -> Answer<u64> {
        let HeldTransaction(transaction) = self.table.get(&transaction)?;
        Ok(transaction.execute(&statement.into()).map_err(Into::into))
    }

    fn batch(
        &mut self,
        transaction: Resource<Transaction>,
        statements: Vec<Statement>,
    ) -> Answer<Vec<u64>> {
        if let Some(failure) = too_many(&statements) {
            return Ok(Err(failure));
        }
        let HeldTransaction(transaction) = self.table.get(&transaction)?;
        Ok(transaction.batch(&all(statements)).map_err(Into::into))
    }

    fn open_cursor(
        &mut self,
        transaction: Resource<Transaction>,
        statement: Statement,
    ) -> Answer<Resource<Cursor>> {
        let HeldTransaction(transaction) = self.table.get(&transaction)?;
        match transaction.open_cursor(&statement.into()) {
            Ok(cursor) => Ok(Ok(self.table.push(HeldCursor(cursor))?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }

    fn copy_in(
        &mut self,
        transaction: Resource<Transaction>,
        sql: String,
    ) -> Answer<Resource<CopyWriter>> {
        let HeldTransaction(transaction) = self.table.get(&transaction)?;
        match transaction.copy_in(&sql) {
            Ok(copy) => Ok(Ok(self.table.push(HeldCopy(copy))?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }

    fn commit(&mut self, transaction: Resource<Transaction>) -> Answer<()> {
        let HeldTransaction(transaction) = self.table.get(&transaction)?;
        Ok(transaction.commit().map_err(Into::into))
    }

    fn drop(&mut self, transaction: Resource<Transaction>) -> wasmtime::Result<()> {
        self.table.delete(transaction)?;
        Ok(())
    }
}

impl HostCursor for PostgresView<'_> {
    fn next(&mut self, cursor: Resource<Cursor>, max_rows: u32, max_bytes: u32) -> Answer<RowSet> {
        let HeldCursor(cursor) = self.table.get_mut(&cursor)?;
        let page = cursor.next(max_rows, max_bytes.min(MAX_PAGE));
        Ok(page.map(Into::into).map_err(Into::into))
    }

    fn drop(&mut self, cursor: Resource<Cursor>) -> wasmtime::Result<()> {
        self.table.delete(cursor)?;
        Ok(())
    }
}

impl HostCopyWriter for PostgresView<'_> {
    fn write(&mut self, copy: Resource<CopyWriter>, lines: String) -> Answer<()> {
        if lines.len() > MAX_LINES {
            return Ok(Err(failure(
                FailureKind::TooLarge,
                format!("a COPY takes at most {MAX_LINES} bytes at a time"),
            )));
        }
        let HeldCopy(copy) = self.table.get_mut(&copy)?;
        Ok(copy.write(&lines).map_err(Into::into))
    }

    fn finish(&mut self, copy: Resource<CopyWriter>) -> Answer<u64> {
        let HeldCopy(copy) = self.table.get_mut(&copy)?;
        Ok(copy.finish().map_err(Into::into))
    }

    fn drop(&mut self, copy: Resource<CopyWriter>) -> wasmtime::Result<()> {
        self.table.delete(copy)?;
        Ok(())
    }
}
