"""The `postgres` import on a real server: `METALAB_TEST_POSTGRES` holds a URI of a database to make schemas in."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import psycopg.sql
import pytest

from metalab_store import (
    InvalidArgumentError,
    InvalidNameError,
    InvalidTypeError,
    OrphanedExperiment,
    PostgresStoreConfig,
    RunRecord,
    _postgres,
)
from metalab_store._postgres import (
    Binding,
    CopyWriter,
    Cursor,
    Failure,
    PostgresContext,
    Rows,
    Server,
    Transaction,
    Value,
)


def server(uri: str, schema: str, **more: Any) -> Server:
    """The server of the tests, with the tables of a schema."""
    parameters = psycopg.conninfo.conninfo_to_dict(uri)
    parameters["options"] = f"-c search_path={schema}"
    return Server(parameters={key: str(value) for key, value in parameters.items()}, **more)


@pytest.fixture
def context(uri: str, schema: str) -> Iterator[PostgresContext]:
    binding = Binding(server(uri, schema, max_size=3, pool_timeout=0.2))
    made = PostgresContext({"index": binding})
    yield made
    made.close()
    binding.close()


def one(context: PostgresContext, sql: str, *parameters: Value) -> Value:
    """Returns the one value of a query."""
    (row,) = context.query("index", sql, list(parameters), 10).rows
    (value,) = row
    return value


def failure(call: Callable[[], object]) -> Failure:
    with pytest.raises(Failure) as info:
        call()
    return info.value


VALUES: list[tuple[str, Value]] = [
    ("text", ("null", None)),
    ("boolean", ("boolean", True)),
    ("boolean", ("boolean", False)),
    ("smallint", ("integer", -32768)),
    ("integer", ("integer", 2**31 - 1)),
    ("bigint", ("integer", -(2**63))),
    ("double precision", ("float", 0.1)),
    ("double precision", ("float", float("-inf"))),
    ("double precision", ("float", 5e-324)),
    ("real", ("float", 0.5)),
    ("text", ("text", "a'\\ \n é 😀 %s $1")),
    ("text", ("text", "")),
    ("varchar", ("text", "x")),
    ("bytea", ("bytes", bytes(range(256)))),
    ("jsonb", ("json", '{"a": [1, null, "é"]}')),
    ("json", ("json", '{"b":1,   "a":2}')),
    ("timestamptz", ("timestamp", 0)),
    ("timestamptz", ("timestamp", 1_772_355_600_123_456)),
    ("timestamptz", ("timestamp", -62_135_596_800_000_000)),
    ("timestamptz", ("timestamp", 253_402_300_799_999_999)),
    ("text[]", ("text-array", [])),
    ("text[]", ("text-array", ["a", None, "NULL", 'q"\\,{} ', ""])),
]


@pytest.mark.parametrize(("type", "value"), VALUES)
def test_a_value_comes_back_as_it_went(context: PostgresContext, type: str, value: Value) -> None:
    assert one(context, f"SELECT $1::{type}", value) == value
    context.execute("index", f"CREATE TABLE kept (v {type})", [])
    assert context.execute("index", "INSERT INTO kept VALUES ($1)", [value]) == 1
    assert one(context, "SELECT v FROM kept") == value


def test_nan_comes_back_and_a_type_that_the_contract_has_not_is_named(context: PostgresContext) -> None:
    _, value = one(context, "SELECT $1::double precision", ("float", float("nan")))
    assert value != value
    found = failure(lambda: context.query("index", "SELECT 1::numeric AS n", [], 1))
    assert found.kind == "unsupported-type" and "'n'" in found.message
    found = failure(lambda: context.query("index", "SELECT ARRAY[['a']]", [], 1))
    assert found.kind == "unsupported-type"
    found = failure(lambda: context.execute("index", "SELECT $1::text", [("text", "a\0b")]))
    assert (found.kind, found.sqlstate) == ("refused", "22021")


def test_a_query_names_its_columns_and_keeps_to_its_rows(context: PostgresContext) -> None:
    found = context.query("index", 'SELECT n AS number, n::text AS "té" FROM generate_series(1, 3) n', [], 3)
    assert found == Rows(["number", "té"], [[("integer", n), ("text", str(n))] for n in (1, 2, 3)], 3)
    assert failure(lambda: context.query("index", "SELECT generate_series(1, 4)", [], 3)).kind == "too-large"
    assert context.execute("index", "CREATE TABLE t (a int)", []) == 0
    assert context.execute("index", "INSERT INTO t SELECT generate_series(1, 5)", []) == 5


def test_a_batch_is_done_whole_or_not_at_all(context: PostgresContext) -> None:
    context.execute("index", "CREATE TABLE t (a int PRIMARY KEY)", [])
    insert = "INSERT INTO t VALUES ($1)"
    assert context.batch("index", [(insert, [("integer", n)]) for n in range(300)]) == [1] * 300
    statements: list[tuple[str, list[Value]]] = [(insert, [("integer", 1000)]), (insert, [("integer", 5)])]
    found = failure(lambda: context.batch("index", statements))
    assert (found.kind, found.sqlstate, found.retryable) == ("refused", "23505", False)
    assert one(context, "SELECT count(*) FROM t") == ("integer", 300)


def test_a_transaction_is_there_after_its_commit_and_gone_without(context: PostgresContext) -> None:
    context.execute("index", "CREATE TABLE t (a int PRIMARY KEY)", [])
    transaction = context.begin("index", "serializable", False)
    assert transaction.execute("INSERT INTO t VALUES ($1)", [("integer", 1)]) == 1
    assert transaction.batch([("INSERT INTO t VALUES ($1)", [("integer", n)]) for n in (2, 3)]) == [1, 1]
    assert transaction.query("SELECT a FROM t ORDER BY a", [], 10).affected == 3
    assert one(context, "SELECT count(*) FROM t") == ("integer", 0)
    transaction.commit()
    assert one(context, "SELECT count(*) FROM t") == ("integer", 3)
    assert failure(lambda: transaction.execute("SELECT 1", [])).message == "the transaction is over"

    number = context.push(context.begin("index", "read-committed", False))
    dropped = context.held[number]
    dropped.execute("DELETE FROM t", [])  # type: ignore[union-attr]
    context.drop(number)
    assert one(context, "SELECT count(*) FROM t") == ("integer", 3)

    begun = context.begin_with("index", [("INSERT INTO t VALUES (4)", []), ("INSERT INTO t VALUES (5)", [])], True)
    assert one(context, "SELECT count(*) FROM t") == ("integer", 3)
    shown = begun.query("SELECT current_setting('synchronous_commit')", [], 1)
    assert shown.rows == [[("text", "off")]]
    begun.commit()
    assert one(context, "SELECT count(*) FROM t") == ("integer", 5)
    again: list[tuple[str, list[Value]]] = [("DELETE FROM t WHERE a > 3", []), ("INSERT INTO t VALUES (1)", [])]
    assert failure(lambda: context.begin_with("index", again, False).commit()).sqlstate == "23505"
    context.begin_with("index", again[:1], False).commit()
    assert one(context, "SELECT count(*) FROM t") == ("integer", 3)

    broken = context.begin("index", "repeatable-read", False)
    assert failure(lambda: broken.execute("INSERT INTO t VALUES (1)", [])).sqlstate == "23505"
    assert failure(broken.commit).kind == "refused"
    reader = context.begin("index", "repeatable-read", True)
    assert failure(lambda: reader.execute("DELETE FROM t", [])).sqlstate == "25006"
    reader.end()
    assert one(context, "SELECT count(*) FROM t") == ("integer", 3)


def test_a_cursor_gives_pages_of_so_many_rows_and_no_more_once_the_bytes_are_reached(context: PostgresContext) -> None:
    transaction = context.begin("index", "repeatable-read", True)
    cursor = transaction.open_cursor(
        "SELECT n, repeat('x', 100) FROM generate_series(1, $1::int) n", [("integer", 1000)]
    )
    first = cursor.next(10, 1 << 20)
    assert [row[0][1] for row in first.rows] == list(range(1, 11))
    small = cursor.next(1000, 500)
    assert len(small.rows) == 5
    rest = []
    while page := cursor.next(300, 1 << 20).rows:
        assert len(page) <= 300
        rest += page
    assert [row[0][1] for row in rest] == list(range(16, 1001))
    assert cursor.next(10, 10).rows == []
    cursor.close()
    transaction.end()


def test_a_copy_is_there_when_it_is_finished_and_gone_when_it_is_abandoned(context: PostgresContext) -> None:
    context.execute("index", "CREATE TABLE t (a int, b text)", [])
    transaction = context.begin("index", "read-committed", False)
    writer = transaction.copy_in("COPY t FROM STDIN")
    for number in range(100):
        writer.write(f"{number}\té\\n\n")
    assert failure(lambda: writer.write("x" * (256 * 1024 + 1))).kind == "too-large"
    assert writer.finish() == 100
    transaction.commit()
    assert one(context, "SELECT b FROM t LIMIT 1") == ("text", "é\n")
    transaction = context.begin("index", "read-committed", False)
    abandoned = transaction.copy_in("COPY t FROM STDIN")
    abandoned.write("1\tx\n")
    abandoned.close()
    transaction.end()
    transaction = context.begin("index", "read-committed", False)
    bad = transaction.copy_in("COPY t FROM STDIN")
    bad.write("no number\tx\n")
    assert failure(bad.finish).sqlstate == "22P02"
    transaction.end()
    assert one(context, "SELECT count(*) FROM t") == ("integer", 100)


def test_a_binding_that_was_not_granted_is_refused_and_no_address_is_known() -> None:
    found = failure(lambda: PostgresContext({}).query("index", "SELECT 1", [], 1))
    assert (found.kind, found.retryable) == ("not-granted", False)


def test_a_server_that_is_not_there_is_unreachable_and_the_message_holds_no_password(uri: str, schema: str) -> None:
    parts = urlsplit(uri)
    parameters = {"host": parts.hostname or "", "port": "1", "dbname": "x", "user": "u", "password": "s3cret"}
    binding = Binding(Server(parameters=parameters, connect_timeout=2))
    found = failure(binding.take)
    assert (found.kind, found.retryable) == ("unreachable", True)
    assert "s3cret" not in found.message and "s3cret" not in repr(binding.server)
    wrong = dict(server(uri, schema).parameters, dbname="no_such_database", password="s3cret")
    found = failure(Binding(Server(parameters=wrong)).take)
    assert found.kind == "unreachable" and "s3cret" not in found.message


def test_a_server_that_did_not_answer_is_tried_again_and_nobody_waits_for_it(uri: str) -> None:
    """Whoever asked a server that was known not to answer waited again for as long as a connection may take."""
    real = psycopg.conninfo.conninfo_to_dict(uri)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    parameters = {key: str(value) for key, value in real.items()}
    parameters |= {"host": "127.0.0.1", "port": str(port), "sslmode": "disable"}
    binding = Binding(Server(parameters=parameters, connect_timeout=20, max_size=1))
    assert failure(binding.take).kind == "unreachable"
    with socket.create_server(("127.0.0.1", port)) as listener:
        # Nobody takes its call, and the one who asked is back.
        for _ in range(5):
            assert failure(binding.take).kind == "unreachable"
        held, _ = listener.accept()
        held.setblocking(False)
        said = held.recv(4096)
        with pytest.raises(BlockingIOError):
            held.recv(1)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        # Once it is answered, all are.
        held.setblocking(True)
        with held, socket.create_connection((str(real["host"]), int(str(real["port"])))) as behind:
            behind.sendall(said)
            ways = [threading.Thread(target=_pass_on, args=way) for way in ((held, behind), (behind, held))]
            for way in ways:
                way.start()
            while True:
                try:
                    binding.give_back(binding.take())
                    break
                except Failure:
                    continue
            binding.close()
            for way in ways:
                way.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while said := source.recv(65536):
            target.sendall(said)
        target.shutdown(socket.SHUT_WR)


def test_a_pool_that_is_used_up_says_so_and_not_that_the_server_is_gone(context: PostgresContext) -> None:
    held = [context.begin("index", "read-committed", True) for _ in range(3)]
    found = failure(lambda: context.query("index", "SELECT 1", [], 1))
    assert (found.kind, found.retryable) == ("pool-exhausted", True)
    held[0].end()
    assert one(context, "SELECT 1") == ("integer", 1)
    for transaction in held:
        transaction.end()


def test_a_statement_that_takes_too_long_is_cancelled(uri: str, schema: str) -> None:
    binding = Binding(server(uri, schema, statement_timeout=0.05))
    context = PostgresContext({"index": binding})
    found = failure(lambda: context.query("index", "SELECT pg_sleep(60)", [], 1))
    assert (found.kind, found.sqlstate, found.retryable) == ("timed-out", "57014", True)
    assert one(context, "SELECT 1") == ("integer", 1)
    binding.close()


def timeouts(context: PostgresContext) -> list[str]:
    """Returns how long a statement may take outside of a transaction, within one, within another, and outside again."""
    sql = "SELECT current_setting('statement_timeout')"
    found = [one(context, sql)]
    statements: list[tuple[str, list[Value]]] = [("SELECT 1", [])]
    for begin in (
        lambda: context.begin("index", "serializable", True),
        lambda: context.begin_with("index", statements, False),
    ):
        transaction = begin()
        found.append(transaction.query(sql, [], 1).rows[0][0])
        transaction.commit()
    return [value for _, value in [*found, one(context, sql)]]


def test_a_transaction_that_is_held_for_too_long_gives_its_connection_to_others(uri: str, schema: str) -> None:
    binding = Binding(server(uri, schema, max_size=1, pool_timeout=0.2, transaction_max_age=0.0))
    context = PostgresContext({"index": binding})
    held = context.begin("index", "read-committed", False)
    assert one(context, "SELECT 1") == ("integer", 1)
    for call in (lambda: held.execute("SELECT 1", []), held.commit, lambda: held.copy_in("COPY t FROM STDIN")):
        found = failure(call)
        assert (found.kind, found.message) == ("refused", "the transaction is over")
    held.end()
    assert one(context, "SELECT 1") == ("integer", 1)
    binding.close()


def test_a_transaction_that_took_too_long_in_all_is_not_committed(uri: str, schema: str) -> None:
    binding = Binding(server(uri, schema, transaction_max_age=0.2))
    context = PostgresContext({"index": binding})
    context.execute("index", "CREATE TABLE t (a int)", [])

    def late(*calls: Callable[[Transaction], object]) -> Failure:
        transaction = context.begin("index", "read-committed", False)
        try:
            return failure(lambda: [call(transaction) for call in calls])
        finally:
            transaction.end()

    sleep = "INSERT INTO t SELECT 1 FROM pg_sleep(0.3)"
    cursor: list[Cursor] = []
    copy: list[CopyWriter] = []
    for found in (
        late(lambda begun: begun.execute(sleep, []), lambda begun: begun.commit()),
        late(
            lambda begun: cursor.append(begun.open_cursor("SELECT 1", [])),
            lambda begun: begun.execute(sleep, []),
            lambda _: cursor[0].next(1, 1),
        ),
        late(
            lambda begun: copy.append(begun.copy_in("COPY t FROM STDIN")),
            lambda _: one(context, "SELECT count(*) FROM t, pg_sleep(0.3)"),
            lambda _: copy[0].write("1\n"),
        ),
    ):
        assert (found.kind, found.message) == ("refused", "the transaction is over")
    assert one(context, "SELECT count(*) FROM t") == ("integer", 0)
    binding.close()


def test_a_statement_within_a_transaction_may_take_longer_and_the_user_s_own_options_stay(
    uri: str, schema: str
) -> None:
    plain = server(uri, schema, max_size=1)
    binding = Binding(plain)
    assert timeouts(PostgresContext({"index": binding})) == ["30s", "10min", "10min", "30s"]
    binding.close()
    options = f"{plain.parameters['options']} -c statement_timeout=5s -c idle_in_transaction_session_timeout=7s"
    binding = Binding(replace(plain, parameters={**plain.parameters, "options": options}))
    context = PostgresContext({"index": binding})
    assert timeouts(context) == ["5s"] * 4
    assert one(context, "SELECT current_setting('idle_in_transaction_session_timeout')") == ("text", "7s")
    binding.close()


def test_what_a_statement_left_in_a_session_is_gone_when_the_connection_comes_back(uri: str, schema: str) -> None:
    binding = Binding(server(uri, schema, max_size=1))
    context = PostgresContext({"index": binding})
    backend = one(context, "SELECT pg_backend_pid()")
    context.execute("index", "SET application_name = 'left'", [])
    context.query("index", "SELECT set_config('metalab.left', 'x', false)", [], 1)
    context.query("index", "SELECT pg_advisory_lock(42)::text", [], 1)
    context.execute("index", "/* -- */ CREATE TEMP TABLE left_over (a int)", [])
    context.execute("index", "LISTEN left_over", [])
    transaction = context.begin("index", "read-committed", False)
    transaction.execute("SET search_path = pg_catalog", [])
    transaction.batch([("SELECT set_config('metalab.left', 'y', false)", [])])
    transaction.commit()
    assert one(context, "SELECT pg_backend_pid()") == backend
    left = """SELECT current_setting('application_name') || coalesce(current_setting('metalab.left', true), '')
        || current_setting('search_path') || coalesce(to_regclass('left_over')::text, '')
        || (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory')
        || (SELECT count(*) FROM pg_listening_channels())"""
    assert one(context, left) == ("text", f"metalab-store{schema}00")
    assert one(context, "SELECT current_setting('statement_timeout')") == ("text", "30s")
    binding.close()


@pytest.mark.parametrize("least", [0, 1, 2])
def test_connections_beyond_those_to_keep_end_when_nobody_needed_them_for_long(
    uri: str, schema: str, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    binding = Binding(server(uri, schema, max_size=3, min_size=least))

    def open_after(count: int) -> int:
        for connection in [binding.take() for _ in range(count)]:
            binding.give_back(connection)
        return len(binding._idle)

    assert open_after(3) == 3 and open_after(1) == 3
    monkeypatch.setattr(_postgres, "_SURPLUS", -1.0)
    assert open_after(1) == least
    assert open_after(3) == least
    binding.close()


def test_the_least_number_of_connections_is_the_configuration_s() -> None:
    connection = {
        "parameters": [], "hosts": [("h", 1)], "database": "d", "tls-mode": "prefer", "user": None, "password": None,
        "ca-file": None, "connect-timeout-ms": 1000, "pool-min-size": 3, "pool-max-size": 5,
    }  # fmt: skip
    assert (Server.resolved(connection).min_size, Server.resolved(connection).max_size) == (3, 5)


def test_a_process_with_many_open_files_uses_its_connections(context: PostgresContext) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 2048:
        pytest.skip("a process may not open so many files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 2048), before[1]))
    many = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        backend = one(context, "SELECT pg_backend_pid()")
        assert one(context, "SELECT pg_backend_pid()") == backend
    finally:
        for descriptor in many:
            os.close(descriptor)
        context._bindings["index"].close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_connection_that_broke_is_named_and_the_next_call_has_a_new_one(context: PostgresContext, uri: str) -> None:
    transaction = context.begin("index", "read-committed", False)
    backend = transaction.query("SELECT pg_backend_pid()", [], 1).rows[0][0][1]
    with psycopg.connect(uri, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [backend])
    found = failure(lambda: transaction.query("SELECT 1", [], 1))
    assert (found.kind, found.retryable) == ("disconnected", True)
    transaction.end()
    assert one(context, "SELECT 1") == ("integer", 1)
    # One that lay idle, too.
    with psycopg.connect(uri, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'metalab-store'"
        )
    assert one(context, "SELECT 1") == ("integer", 1)


def test_deadlocks_and_serialization_failures_may_be_tried_again(context: PostgresContext) -> None:
    context.execute("index", "CREATE TABLE t (a int PRIMARY KEY, b int)", [])
    context.execute("index", "INSERT INTO t VALUES (1, 0), (2, 0)", [])
    first = context.begin("index", "serializable", False)
    second = context.begin("index", "serializable", False)
    for transaction in (first, second):
        transaction.query("SELECT sum(b) FROM t", [], 1)
    first.execute("UPDATE t SET b = 1 WHERE a = 1", [])
    second.execute("UPDATE t SET b = 1 WHERE a = 2", [])
    first.commit()
    found = failure(second.commit)
    assert (found.sqlstate, found.retryable, found.outcome_unknown) == ("40001", True, False)


def test_threads_share_a_binding(context: PostgresContext) -> None:
    context._bindings["index"] = Binding(server_of(context, pool_timeout=30.0))
    context.execute("index", "CREATE TABLE t (a int)", [])
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(20):
                context.execute("index", "INSERT INTO t VALUES ($1)", [("integer", number)])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert one(context, "SELECT count(*) FROM t") == ("integer", 120)
    context._bindings["index"].close()


def server_of(context: PostgresContext, **more: Any) -> Server:
    """The server of a context, with other deadlines."""
    binding = context._bindings["index"]
    binding.close()
    return replace(binding.server, **more)


def test_a_store_with_an_index_answers_as_its_files_do(uri: str, schema: str, tmp_path: Path) -> None:
    config = PostgresStoreConfig(connection_string=uri, file_root=str(tmp_path / "store"), schema=schema)
    with config.scoped("exp:1").connect() as store:
        # It is believed from where it was compared with the files.
        assert store.rebuild_index() == 0
        outcomes = store.put_run_records(
            RunRecord.success(run_id=f"r{number}", metrics={"loss": number / 10}) for number in range(20)
        )
        assert all(isinstance(outcome, str) for outcome in outcomes)
        store.put_run_record(RunRecord.failed(run_id="bad", error_message="x", metrics={"loss": float("nan")}))
        store.put_derived("r1", {"score": 2**70})
        assert store.delete_run("r0")
        assert store.index_state().standing == "current"
        with store.file_store as files:
            for query in ("metrics.loss < 0.5", 'status = "failed"', "derived.score exists", "metrics.loss = nan", ""):
                ours = store.query(query, sort="metrics.loss, run_id", columns="run_id, metrics, derived", limit=7)
                theirs = files.query(query, sort="metrics.loss, run_id", columns="run_id, metrics, derived", limit=7)
                assert repr(ours.rows) == repr(theirs.rows) and ours.total == theirs.total
            assert store.list_run_records()[:3] == files.list_run_records()[:3]
            assert store.get_run_record("r2") == files.get_run_record("r2")
        steps: list[tuple[int, int]] = []
        report = store.rebuild(lambda done, total: steps.append((done, total)))
        assert (report.runs, report.added, report.changed, report.removed, report.damaged) == (20, 0, 0, 0, [])
        assert steps and store.rebuild_index() == 20


def test_rows_of_an_experiment_whose_directory_is_gone_are_reported_and_pruned_on_request(
    uri: str, schema: str, tmp_path: Path
) -> None:
    config = PostgresStoreConfig(connection_string=uri, file_root=str(tmp_path / "store"), schema=schema)
    for experiment in ("a:1", "b:1"):
        with config.scoped(experiment).connect() as store:
            store.put_run_records(RunRecord.success(run_id=experiment[0] + name) for name in "xy")

    def runs() -> list[str]:
        with psycopg.connect(uri) as connection:
            name = psycopg.sql.Identifier(schema, "runs")
            found = connection.execute(psycopg.sql.SQL("SELECT run_id FROM {} ORDER BY run_id").format(name))
            return [run for (run,) in found]

    shutil.rmtree(tmp_path / "store" / "a_1")
    with config.connect() as store:
        report = store.rebuild()
        assert (report.runs, report.removed, report.pruned, report.orphan_count) == (2, 0, 0, 1)
        assert report.orphans == [OrphanedExperiment("a:1", 2)]
        with pytest.raises(InvalidArgumentError, match='"b:1"'):
            store.rebuild_index(prune=["a:1", "b:1"])
        with pytest.raises(InvalidNameError):
            store.rebuild_index(prune=["../a"])
        with pytest.raises(InvalidTypeError):
            store.rebuild_index(prune=[1])  # type: ignore[list-item]
        assert runs() == ["ax", "ay", "bx", "by"]
        assert store.rebuild_index(prune=["a:1"]) == 2
        assert runs() == ["bx", "by"]
        report = store.rebuild(prune="a:1")
        assert (report.runs, report.pruned, report.orphan_count, report.orphans) == (2, 0, 0, [])
    with config.scoped("b:1").connect() as store, pytest.raises(InvalidArgumentError, match='"a:1"'):
        store.rebuild_index(prune=["a:1"])


def test_a_store_whose_server_is_gone_answers_from_its_files_and_says_so(schema: str, tmp_path: Path) -> None:
    config = PostgresStoreConfig(
        connection_string="postgresql://u:s3cret@127.0.0.1:1/x",
        file_root=str(tmp_path / "store"),
        schema=schema,
        connect_timeout=2,
    )
    with config.scoped("exp:1").connect() as store:
        store.put_run_record(RunRecord.success(run_id="a"))
        assert [run.run_id for run in store.list_run_records()] == ["a"]
        state = store.index_state()
        assert state.standing == "unreachable" and state.trouble
        assert "s3cret" not in repr(state) and "s3cret" not in repr(store)


def test_a_server_is_found_where_the_collection_says_how_it_is_reached(uri: str, schema: str, tmp_path: Path) -> None:
    real = psycopg.conninfo.conninfo_to_dict(uri)
    config = PostgresStoreConfig(connection_string="postgresql://", file_root=str(tmp_path), schema=schema)
    said = {"host": real["host"], "port": int(str(real["port"])), "database": real["dbname"], "user": real["user"]}
    said["password"] = real.get("password", "s3cret-0815")
    (tmp_path / "services" / "postgres").mkdir(parents=True)
    (tmp_path / "services" / "postgres" / "service.json").write_text(json.dumps(said))
    with config.scoped("exp:1").connect() as store:
        store.put_run_record(RunRecord.success(run_id="a"))
        assert [run.run_id for run in store.list_run_records()] == ["a"]
        state = store.index_state()
        assert (state.standing, state.trouble) == ("current", None)
        assert "s3cret" not in repr(store)
