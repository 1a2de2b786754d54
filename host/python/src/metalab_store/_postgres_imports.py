"""The `postgres` import: the contract's functions on the context of the instance that calls. None of them raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wasmtime import component as c
from wasmtime.component import ResourceAny, ResourceHost

from . import _functions
from ._imports import COPY_WRITER, CURSOR, TRANSACTION, active, representation
from ._postgres import CopyWriter, Cursor, Failure, PostgresContext, Rows, Transaction, Value


def _guarded(function: Callable[[PostgresContext], Any]) -> tuple[bool, Any]:
    try:
        return True, function(active().postgres)
    except Failure as failure:
        return False, _failure(failure)
    except Exception as error:  # noqa: BLE001
        return False, _failure(Failure("refused", f"the host failed: {type(error).__name__}"))


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "kind": failure.kind,
        "sqlstate": failure.sqlstate,
        "retryable": failure.retryable,
        "outcome-unknown": failure.outcome_unknown,
        "message": failure.message,
    }


def _statement(statement: dict[str, Any]) -> tuple[str, list[Value]]:
    return statement["sql"], statement["parameters"]


def _rows(rows: Rows) -> dict[str, Any]:
    return {"columns": rows.columns, "rows": rows.rows, "affected": rows.affected}


def _transaction(context: PostgresContext, number: int) -> Transaction:
    found = context.held.get(number)
    if not isinstance(found, Transaction):
        raise Failure("refused", "there is no such transaction")
    return found


def _cursor(context: PostgresContext, number: int) -> Cursor:
    found = context.held.get(number)
    if not isinstance(found, Cursor):
        raise Failure("refused", "there is no such cursor")
    return found


def _copy(context: PostgresContext, number: int) -> CopyWriter:
    found = context.held.get(number)
    if not isinstance(found, CopyWriter):
        raise Failure("refused", "there is no such COPY")
    return found


def _drop(_: Any, number: int) -> None:
    _guarded(lambda context: context.drop(number))


def define(postgres: c.LinkerInstance) -> None:
    """Defines the interface."""

    def query(_: Any, binding: str, statement: Any, max_rows: int) -> Any:
        return _guarded(lambda context: _rows(context.query(binding, *_statement(statement), max_rows)))

    def execute(_: Any, binding: str, statement: Any) -> Any:
        return _guarded(lambda context: context.execute(binding, *_statement(statement)))

    def batch(_: Any, binding: str, statements: list[Any]) -> Any:
        return _guarded(lambda context: context.batch(binding, list(map(_statement, statements))))

    def begin(_: Any, binding: str, isolation: str, read_only: bool) -> Any:
        def run(context: PostgresContext) -> Any:
            number = context.push(context.begin(binding, isolation, read_only))
            return ResourceHost.own(number, TRANSACTION)

        return _guarded(run)

    def begin_with(_: Any, binding: str, statements: list[Any], may_be_lost: bool) -> Any:
        def run(context: PostgresContext) -> Any:
            begun = context.begin_with(binding, list(map(_statement, statements)), may_be_lost)
            number = context.push(begun)
            return ResourceHost.own(number, TRANSACTION)

        return _guarded(run)

    def transaction_query(store: Any, borrowed: ResourceAny, statement: Any, max_rows: int) -> Any:
        number = representation(store, borrowed)
        return _guarded(lambda context: _rows(_transaction(context, number).query(*_statement(statement), max_rows)))

    def transaction_execute(store: Any, borrowed: ResourceAny, statement: Any) -> Any:
        number = representation(store, borrowed)
        return _guarded(lambda context: _transaction(context, number).execute(*_statement(statement)))

    def transaction_batch(store: Any, borrowed: ResourceAny, statements: list[Any]) -> Any:
        number = representation(store, borrowed)
        return _guarded(lambda context: _transaction(context, number).batch(list(map(_statement, statements))))

    def open_cursor(store: Any, borrowed: ResourceAny, statement: Any) -> Any:
        number = representation(store, borrowed)

        def run(context: PostgresContext) -> Any:
            cursor = _transaction(context, number).open_cursor(*_statement(statement))
            return ResourceHost.own(context.push(cursor), CURSOR)

        return _guarded(run)

    def copy_in(store: Any, borrowed: ResourceAny, sql: str) -> Any:
        number = representation(store, borrowed)

        def run(context: PostgresContext) -> Any:
            writer = _transaction(context, number).copy_in(sql)
            return ResourceHost.own(context.push(writer), COPY_WRITER)

        return _guarded(run)

    def commit(store: Any, borrowed: ResourceAny) -> Any:
        number = representation(store, borrowed)
        return _guarded(lambda context: _transaction(context, number).commit())

    def next_rows(store: Any, borrowed: ResourceAny, max_rows: int, max_bytes: int) -> Any:
        number = representation(store, borrowed)
        return _guarded(lambda context: _rows(_cursor(context, number).next(max_rows, max_bytes)))

    def write(store: Any, borrowed: ResourceAny, lines: str) -> Any:
        number = representation(store, borrowed)
        return _guarded(lambda context: _copy(context, number).write(lines))

    def finish(store: Any, borrowed: ResourceAny) -> Any:
        number = representation(store, borrowed)
        return _guarded(lambda context: _copy(context, number).finish())

    postgres.add_resource("transaction", c.ResourceType.host(TRANSACTION), _drop)
    postgres.add_resource("cursor", c.ResourceType.host(CURSOR), _drop)
    postgres.add_resource("copy-writer", c.ResourceType.host(COPY_WRITER), _drop)
    functions: dict[str, Callable[..., Any]] = {
        "query": query,
        "execute": execute,
        "batch": batch,
        "[static]transaction.begin": begin,
        "[static]transaction.begin-with": begin_with,
        "[method]transaction.query": transaction_query,
        "[method]transaction.execute": transaction_execute,
        "[method]transaction.batch": transaction_batch,
        "[method]transaction.open-cursor": open_cursor,
        "[method]transaction.copy-in": copy_in,
        "[method]transaction.commit": commit,
        "[method]cursor.next": next_rows,
        "[method]copy-writer.write": write,
        "[method]copy-writer.finish": finish,
    }
    for name, function in functions.items():
        _functions.add(postgres, name, function)
