//! The `postgres` import: no binding is granted yet, and every call says so.

use crate::bindings::metalab::store::postgres::{
    CopyWriter, Cursor, Failure, FailureKind, Host, HostCopyWriter, HostCursor, HostTransaction,
    Isolation, RowSet, Statement, Transaction,
};
use wasmtime::component::Resource;

/// What the `postgres` import may reach: nothing.
#[derive(Debug, Default)]
pub struct PostgresView;

fn not_granted<T>() -> wasmtime::Result<Result<T, Failure>> {
    Ok(Err(Failure {
        kind: FailureKind::NotGranted,
        sqlstate: None,
        retryable: false,
        outcome_unknown: false,
        message: "the host granted no PostgreSQL binding".to_owned(),
    }))
}

/// The guest can hold no such resource, because none is ever made: the call itself is the mistake.
fn no_resource<T>() -> wasmtime::Result<T> {
    Err(wasmtime::Error::msg(
        "the component used a PostgreSQL resource that the host never made",
    ))
}

impl Host for PostgresView {
    fn query(
        &mut self,
        _: String,
        _: Statement,
        _: u32,
    ) -> wasmtime::Result<Result<RowSet, Failure>> {
        not_granted()
    }

    fn execute(&mut self, _: String, _: Statement) -> wasmtime::Result<Result<u64, Failure>> {
        not_granted()
    }

    fn batch(
        &mut self,
        _: String,
        _: Vec<Statement>,
    ) -> wasmtime::Result<Result<Vec<u64>, Failure>> {
        not_granted()
    }
}

impl HostTransaction for PostgresView {
    fn begin(
        &mut self,
        _: String,
        _: Isolation,
        _: bool,
    ) -> wasmtime::Result<Result<Resource<Transaction>, Failure>> {
        not_granted()
    }

    fn query(
        &mut self,
        _: Resource<Transaction>,
        _: Statement,
        _: u32,
    ) -> wasmtime::Result<Result<RowSet, Failure>> {
        no_resource()
    }

    fn execute(
        &mut self,
        _: Resource<Transaction>,
        _: Statement,
    ) -> wasmtime::Result<Result<u64, Failure>> {
        no_resource()
    }

    fn batch(
        &mut self,
        _: Resource<Transaction>,
        _: Vec<Statement>,
    ) -> wasmtime::Result<Result<Vec<u64>, Failure>> {
        no_resource()
    }

    fn open_cursor(
        &mut self,
        _: Resource<Transaction>,
        _: Statement,
    ) -> wasmtime::Result<Result<Resource<Cursor>, Failure>> {
        no_resource()
    }

    fn copy_in(
        &mut self,
        _: Resource<Transaction>,
        _: String,
    ) -> wasmtime::Result<Result<Resource<CopyWriter>, Failure>> {
        no_resource()
    }

    fn commit(&mut self, _: Resource<Transaction>) -> wasmtime::Result<Result<(), Failure>> {
        no_resource()
    }

    fn drop(&mut self, _: Resource<Transaction>) -> wasmtime::Result<()> {
        no_resource()
    }
}

impl HostCursor for PostgresView {
    fn next(
        &mut self,
        _: Resource<Cursor>,
        _: u32,
        _: u32,
    ) -> wasmtime::Result<Result<RowSet, Failure>> {
        no_resource()
    }

    fn drop(&mut self, _: Resource<Cursor>) -> wasmtime::Result<()> {
        no_resource()
    }
}

impl HostCopyWriter for PostgresView {
    fn write(
        &mut self,
        _: Resource<CopyWriter>,
        _: String,
    ) -> wasmtime::Result<Result<(), Failure>> {
        no_resource()
    }

    fn finish(&mut self, _: Resource<CopyWriter>) -> wasmtime::Result<Result<u64, Failure>> {
        no_resource()
    }

    fn drop(&mut self, _: Resource<CopyWriter>) -> wasmtime::Result<()> {
        no_resource()
    }
}
