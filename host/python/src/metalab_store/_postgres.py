"""PostgreSQL for the `postgres` import: connections, statements, transactions, cursors and COPY, by psycopg 3.

Parameters go as text of no type and the server says what they are, as it does for the other hosts; results come in
the binary format, so that nothing depends on settings of the session.
"""

from __future__ import annotations

import math
import os
import re
import select
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import psycopg

#: The most bytes of COPY data in one call.
MAX_COPY_CHUNK = 256 * 1024
#: The most statements of one batch, and the most bytes of one answer to the component.
MAX_BATCH = 10_000
MAX_RESULT_BYTES = 64 << 20
#: How many rows of a cursor are asked for at once.
_CURSOR_STEP = 256
#: How many seconds a caller waits for a connection to a server that did not answer before.
_PROMPT = 0.04
#: A connection beyond those that are kept ends when nobody needed it for so many seconds.
_SURPLUS = 60.0
#: Ends what others that use the connection later must not find. The session is then as the options made it.
_RESET = (
    "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); "
    "DISCARD TEMP; DISCARD SEQUENCES"
)
#: From 1970 to 2000, where the binary format of timestamps begins, in microseconds.
_EPOCH = 946_684_800_000_000
_UNIX = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: Conditions of which the next try may know nothing: a serialization failure, a full server, one that restarts.
_RETRYABLE_CLASSES = ("08", "40", "53", "57")
_LOCK_NOT_AVAILABLE = "55P03"

Answer = TypeVar("Answer")
#: A value of the contract: its case and what is in it.
Value = tuple[str, Any]


class Failure(Exception):
    """A statement failed: the contract's `failure`."""

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        sqlstate: str | None = None,
        retryable: bool = False,
        outcome_unknown: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.sqlstate = sqlstate
        self.retryable = retryable
        self.outcome_unknown = outcome_unknown

    def again(self) -> Failure:
        """Returns the same failure of a call that did nothing: it knows nothing of the one that failed first."""
        return Failure(self.kind, self.message, sqlstate=self.sqlstate, retryable=self.retryable)


@dataclass(frozen=True)
class Rows:
    """Rows of a result: the contract's `row-set`."""

    columns: list[str] = field(default_factory=list)
    rows: list[list[Value]] = field(default_factory=list)
    affected: int = 0


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server and how to reach it, as `config.resolve` says, with the host's deadlines in seconds."""

    parameters: dict[str, str] = field(repr=False)
    connect_timeout: float = 10.0
    #: For a statement outside a transaction.
    statement_timeout: float = 30.0
    #: For a statement within one: a rebuild creates indexes.
    transaction_timeout: float = 600.0
    #: How long a transaction may be open before its connection is taken back for others.
    transaction_max_age: float = 1800.0
    pool_timeout: float = 30.0
    #: How many connections stay open, and how many there may be.
    min_size: int = 1
    max_size: int = 2

    @property
    def tells_timeout(self) -> bool:
        """Whether the server is told how long statements may take: not if the user's own options tell it."""
        return "statement_timeout" not in self.parameters.get("options", "")

    @classmethod
    def resolved(cls, connection: dict[str, Any]) -> Server:
        """Takes the contract's `connection`."""
        parameters = dict(connection["parameters"])
        hosts = connection["hosts"]
        parameters["host"] = ",".join(host for host, _ in hosts)
        parameters["port"] = ",".join(str(port) for _, port in hosts)
        parameters["dbname"] = connection["database"]
        parameters["sslmode"] = connection["tls-mode"]
        for name, key in (("user", "user"), ("password", "password"), ("sslrootcert", "ca-file")):
            if connection[key] is not None:
                parameters[name] = connection[key]
        return cls(
            parameters=parameters,
            connect_timeout=connection["connect-timeout-ms"] / 1000,
            pool_timeout=connection["connect-timeout-ms"] / 1000,
            min_size=connection["pool-min-size"],
            max_size=max(connection["pool-max-size"], 1),
        )


class Binding:
    """A named binding: the connections to one server. Shared by threads.

    It is not a pool that connects in the background: there a server that is down and a pool that is used up look
    alike, and the component has to know which it is.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        #: With the time since when, the one that lies longest first.
        self._idle: list[tuple[psycopg.Connection[Any], float]] = []
        #: Those that are in use, and those that lie here.
        self._open = 0
        self._guard = threading.Lock()
        self._free = threading.Semaphore(server.max_size)
        self._begun: weakref.WeakSet[Transaction] = weakref.WeakSet()
        #: Why the server did not answer last, if it did not; and the thread that tries to reach it again.
        self._silence: Failure | None = None
        self._attempt: threading.Thread | None = None
        self._closed = False
        self._pid = os.getpid()

    def reopened(self) -> Binding:
        """Returns a binding of the same server for a child of `fork`: connections cannot be shared."""
        return Binding(self.server)

    def take(self) -> psycopg.Connection[Any]:
        """Returns a connection that nobody else uses.

        A server that did not answer is tried again by a thread of its own: who asks meanwhile is told so, and waits for an
        answer at most as long as one that is there takes.
        """
        self._hear()
        if not self._free.acquire(blocking=False) and not self._acquired_late():
            raise Failure(
                "pool-exhausted",
                f"all {self.server.max_size} connections were in use for {self.server.pool_timeout:g} s: "
                "read long lists to their end or close them, or allow more by pool_max_size",
                retryable=True,
            )
        try:
            with self._guard:
                while self._idle:
                    connection, _ = self._idle.pop()
                    if _usable(connection):
                        return connection
                    self._open -= 1
                    connection.close()
            try:
                connection = self._connect()
            except Failure as failure:
                self._silence = failure.again()
                raise
            with self._guard:
                self._open += 1
            return connection
        except BaseException:
            self._free.release()
            raise

    def _hear(self) -> None:
        """Waits a moment for a server that did not answer, and raises why if it still does not."""
        if self._silence is None:
            return
        with self._guard:
            if self._attempt is None and not self._idle and self._free.acquire(blocking=False):
                attempt = threading.Thread(target=self._reach, name="metalab-postgres", daemon=True)
                try:
                    attempt.start()
                    self._attempt = attempt
                except RuntimeError:
                    # There is no room for another thread: the next caller tries again.
                    self._free.release()
            current = self._attempt
        if current is not None:
            current.join(_PROMPT)
        with self._guard:
            silence = None if self._idle else self._silence
        if silence is not None:
            raise silence.again()

    def _reach(self) -> None:
        try:
            connection = self._connect()
        except Failure as failure:
            self._free.release()
            with self._guard:
                self._silence, self._attempt = failure.again(), None
        except BaseException:
            self._free.release()
            with self._guard:
                self._attempt = None
            raise
        else:
            with self._guard:
                self._silence, self._attempt = None, None
                self._open += 1
            self.give_back(connection)

    def _acquired_late(self) -> bool:
        """Waits for a connection that is in use, after those of transactions that were forgotten were taken back."""
        with self._guard:
            begun = list(self._begun)
        for transaction in begun:
            transaction.end_if_old()
        return self._free.acquire(timeout=self.server.pool_timeout)

    def began(self, transaction: Transaction) -> None:
        """Notes who may hold a connection for too long."""
        with self._guard:
            self._begun.add(transaction)

    def give_back(self, connection: psycopg.Connection[Any]) -> None:
        """Takes a connection back, or ends it if it is in the middle of anything."""
        from psycopg.pq import TransactionStatus

        try:
            idle = not connection.closed and connection.info.transaction_status == TransactionStatus.IDLE
            if idle and connection in _traced:
                idle = _reset(connection)
            now = time.monotonic()
            surplus: list[psycopg.Connection[Any]] = []
            with self._guard:
                if idle and not self._closed:
                    self._idle.append((connection, now))
                else:
                    surplus.append(connection)
                while (
                    self._open - len(surplus) > self.server.min_size
                    and self._idle
                    and now - self._idle[0][1] > _SURPLUS
                ):
                    surplus.append(self._idle.pop(0)[0])
                self._open -= len(surplus)
            for ended in surplus:
                ended.close()
        finally:
            self._free.release()

    def close(self) -> None:
        """Ends the connections that nobody uses; the others end when they are given back."""
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
        if self._pid == os.getpid():
            for connection, _ in idle:
                connection.close()

    def _connect(self) -> psycopg.Connection[Any]:
        driver = _driver()
        milliseconds = int(self.server.statement_timeout * 1000)
        options = self.server.parameters.get("options", "")
        parameters: dict[str, Any] = {
            "application_name": "metalab-store",
            # A peer that vanished must not hold a call for ever.
            "keepalives_idle": "10",
            "keepalives_interval": "5",
            "keepalives_count": "3",
            "tcp_user_timeout": str(milliseconds),
            **self.server.parameters,
            # What the user says comes later, and is what counts.
            "options": f"-c statement_timeout={milliseconds} -c idle_in_transaction_session_timeout=600000 {options}",
            "client_encoding": "UTF8",
            # libpq counts whole seconds, and takes 1 for 2.
            "connect_timeout": str(max(math.ceil(self.server.connect_timeout), 2)),
        }
        try:
            connection: psycopg.Connection[Any] = driver.Connection.connect(
                autocommit=True, prepare_threshold=None, cursor_factory=driver.RawCursor, **parameters
            )
            return connection
        except driver.Error as error:
            raise Failure(
                "unreachable",
                self._harmless(str(error)),
                sqlstate=error.sqlstate,
                retryable=True,
            ) from None

    def _harmless(self, message: str) -> str:
        password = self.server.parameters.get("password")
        line = " ".join(message.split())
        if password:
            line = line.replace(password, "…")
        _, fatal, refusal = line.rpartition("FATAL: ")
        if fatal:
            return f"the server refused the connection: {refusal.strip()}"
        return f"no connection could be made: {line}"


def _usable(connection: psycopg.Connection[Any]) -> bool:
    """Says whether a connection that lay idle is still there.

    A server says nothing to an idle client but that it ends the connection; rather than to read what it says, another
    one is made.
    """
    if connection.closed:
        return False
    # `select` takes no descriptor above 1023.
    looked = select.poll()
    looked.register(connection.fileno(), select.POLLIN)
    return not looked.poll(0)


#: Connections whose session may hold what a statement left.
_traced: weakref.WeakSet[psycopg.Connection[Any]] = weakref.WeakSet()


def _note(connection: psycopg.Connection[Any], sql: str) -> None:
    if _leaves_traces(sql):
        _traced.add(connection)


def _reset(connection: psycopg.Connection[Any]) -> bool:
    """Makes a session as good as new, and says whether that worked."""
    try:
        connection.execute(_RESET)
    except Exception:  # noqa: BLE001
        return False
    _traced.discard(connection)
    return True


_PLAIN = frozenset("SELECT INSERT UPDATE DELETE MERGE WITH VALUES TABLE LOCK".split())
#: What stands before the first word of a statement, but for comments in brackets.
_BEFORE = re.compile(r"(?:[\s;(]+|--[^\n\r]*)*")
_WORD = re.compile(r"[A-Za-z0-9_]*")
_TELLTALES = re.compile("set_config|advisory|temp", re.IGNORECASE)


def _leaves_traces(sql: str) -> bool:
    """Says whether a statement may leave something in the session: settings, temporary tables, locks, cursors."""
    at = _end_of(_BEFORE, sql, 0)
    while sql.startswith("/*", at):
        at = _end_of(_BEFORE, sql, _after_comment(sql, at + 2))
    return sql[at : _end_of(_WORD, sql, at)].upper() not in _PLAIN or _TELLTALES.search(sql) is not None


def _end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return start if found is None else found.end()


def _after_comment(sql: str, at: int) -> int:
    """Returns where a comment ends; comments nest."""
    depth = 1
    for found in re.compile(r"/\*|\*/").finditer(sql, at):
        depth += 1 if found[0] == "/*" else -1
        if depth == 0:
            return found.end()
    return len(sql)


class Transaction:
    """A transaction on a connection of its own."""

    def __init__(self, binding: Binding, isolation: str, read_only: bool) -> None:
        self._binding = binding
        self._cursors = 0
        self._over = False
        #: Held while the connection is used: whoever ends a transaction that is too old must not come between.
        self._used = threading.RLock()
        self._since = time.monotonic()
        self.connection = binding.take()
        mode = "READ ONLY" if read_only else "READ WRITE"
        begin = f"BEGIN ISOLATION LEVEL {isolation.replace('-', ' ').upper()} {mode}"
        if binding.server.tells_timeout:
            begin += f"; SET LOCAL statement_timeout = {max(int(binding.server.transaction_timeout * 1000), 1)}"
        try:
            with _translated():
                # Both in one message.
                self.connection.execute(begin)
        except BaseException:
            self.end()
            raise
        self._since = time.monotonic()
        binding.began(self)

    @contextmanager
    def use(self) -> Iterator[psycopg.Connection[Any]]:
        """Hands out the connection for a call, unless the transaction is over, or open for longer than it may be."""
        self.end_if_old()
        with self._used:
            if self._over:
                raise Failure("refused", "the transaction is over")
            yield self.connection

    def query(self, sql: str, parameters: list[Value], max_rows: int) -> Rows:
        """Runs a query."""
        with self.use() as connection:
            _note(connection, sql)
            return _query(connection, sql, parameters, max_rows)

    def execute(self, sql: str, parameters: list[Value]) -> int:
        """Runs a statement, and returns how many rows it changed."""
        with self.use() as connection:
            _note(connection, sql)
            return _affected(_run(connection, sql, parameters))

    def batch(self, statements: list[tuple[str, list[Value]]]) -> list[int]:
        """Runs statements, pipelined."""
        with self.use() as connection:
            for sql, _ in statements:
                _note(connection, sql)
            return _batch(connection, statements)

    def open_cursor(self, sql: str, parameters: list[Value]) -> Cursor:
        """Opens a cursor."""
        with self.use() as connection:
            _note(connection, sql)
            self._cursors += 1
            name = f"metalab_{self._cursors}"
            _run(connection, f"DECLARE {name} NO SCROLL CURSOR FOR {sql}", parameters)
            return Cursor(self, name)

    def copy_in(self, sql: str) -> CopyWriter:
        """Begins a COPY."""
        return CopyWriter(self, sql)

    def commit(self) -> None:
        """Commits. The transaction is over afterwards, also when this fails."""
        with self.use() as connection:
            try:
                cursor = _run(connection, "COMMIT", [])
                if cursor.statusmessage != "COMMIT":
                    raise Failure("refused", "the transaction was rolled back: a statement in it had failed")
            finally:
                self.end()

    def end_if_old(self) -> None:
        """Ends the transaction if it is open for longer than it may be and is not used at this moment."""
        if time.monotonic() - self._since <= self._binding.server.transaction_max_age:
            return
        if self._used.acquire(blocking=False):
            try:
                self.end()
            finally:
                self._used.release()

    def end(self) -> None:
        """Rolls back what was not committed, and gives the connection back. One that cannot is discarded."""
        with self._used:
            if self._over:
                return
            self._over = True
            from psycopg.pq import TransactionStatus

            try:
                status = self.connection.info.transaction_status
                if status == TransactionStatus.ACTIVE:
                    # It cannot be asked for anything before the COPY ends.
                    self.connection.close()
                elif not self.connection.closed and status != TransactionStatus.IDLE:
                    self.connection.execute("ROLLBACK")
            except Exception:  # noqa: BLE001
                self.connection.close()
            finally:
                self._binding.give_back(self.connection)


class Cursor:
    """A cursor within a transaction."""

    def __init__(self, transaction: Transaction, name: str) -> None:
        self._transaction = transaction
        self._name = name
        self._columns: list[str] = []
        self._kept: list[tuple[int, list[Value]]] = []
        self._done = False

    def next(self, max_rows: int, max_bytes: int) -> Rows:
        """Returns the next rows: at most so many, and no more once so many bytes are reached."""
        rows: list[list[Value]] = []
        size = 0
        while len(rows) < max_rows and (not rows or size < max_bytes):
            if not self._kept:
                if self._done:
                    break
                self._fetch(min(max_rows - len(rows), _CURSOR_STEP))
                continue
            weight, row = self._kept.pop(0)
            size += weight
            rows.append(row)
        return Rows(self._columns, rows, len(rows))

    def _fetch(self, count: int) -> None:
        with self._transaction.use() as connection:
            cursor = _run(connection, f"FETCH FORWARD {count} FROM {self._name}", [])
        self._columns, decoded = _decode(cursor, count)
        self._kept = decoded
        self._done = len(decoded) < count

    def close(self) -> None:
        """Closes it, if its transaction goes on."""
        try:
            with self._transaction.use() as connection:
                _run(connection, f"CLOSE {self._name}", [])
        except Failure:
            # The end of the transaction, or its failure, has closed it.
            pass


class CopyWriter:
    """A running COPY."""

    def __init__(self, transaction: Transaction, sql: str) -> None:
        self._transaction = transaction
        with transaction.use() as connection:
            self._cursor = connection.cursor()
            self._entered = self._cursor.copy(sql.encode())
            with _translated():
                self._copy = self._entered.__enter__()
        self._over = False

    def write(self, lines: str) -> None:
        """Sends lines."""
        data = lines.encode()
        if len(data) > MAX_COPY_CHUNK:
            raise Failure("too-large", f"at most {MAX_COPY_CHUNK} bytes are taken at once")
        if self._over:
            raise Failure("refused", "the COPY is over")
        with self._transaction.use(), _translated():
            self._copy.write(data)

    def finish(self) -> int:
        """Ends it, and returns the number of rows."""
        if self._over:
            raise Failure("refused", "the COPY is over")
        with self._transaction.use(), _translated():
            self._over = True
            self._entered.__exit__(None, None, None)
        return max(self._cursor.rowcount, 0)

    def close(self) -> None:
        """Abandons it, if it was not finished: its transaction fails."""
        if self._over:
            return
        self._over = True
        try:
            abandoned = Failure("refused", "the COPY was abandoned")
            self._entered.__exit__(Failure, abandoned, None)
        except Exception:  # noqa: BLE001
            # The server answers that it was abandoned: so it was.
            pass


class PostgresContext:
    """What an instance may reach, and what it holds open."""

    def __init__(self, bindings: dict[str, Binding], capacity: int = 4096) -> None:
        self._bindings = bindings
        self._capacity = capacity
        self._next = 0
        self.held: dict[int, Transaction | Cursor | CopyWriter] = {}

    def push(self, resource: Transaction | Cursor | CopyWriter) -> int:
        """Keeps a resource for the component, and returns its number."""
        if len(self.held) >= self._capacity:
            _end(resource)
            raise Failure("too-large", f"more than {self._capacity} database resources at once")
        self._next += 1
        self.held[self._next] = resource
        return self._next

    def drop(self, number: int) -> None:
        """Ends a resource."""
        resource = self.held.pop(number, None)
        if resource is not None:
            _end(resource)

    def close(self) -> None:
        """Ends what is left: what lives in a transaction first."""
        for number in sorted(self.held, reverse=True):
            self.drop(number)

    def binding(self, name: str) -> Binding:
        """Returns a binding by its name."""
        found = self._bindings.get(name)
        if found is None:
            raise Failure("not-granted", "the host granted no PostgreSQL binding" + (f" {name!r}" if name else ""))
        return found

    def query(self, binding: str, sql: str, parameters: list[Value], max_rows: int) -> Rows:
        """Runs a query outside a transaction."""
        return self._with(binding, [sql], lambda connection: _query(connection, sql, parameters, max_rows))

    def execute(self, binding: str, sql: str, parameters: list[Value]) -> int:
        """Runs a statement outside a transaction."""
        return self._with(binding, [sql], lambda connection: _affected(_run(connection, sql, parameters)))

    def batch(self, binding: str, statements: list[tuple[str, list[Value]]]) -> list[int]:
        """Runs statements pipelined in one transaction: all or none."""
        texts = [sql for sql, _ in statements]
        return self._with(binding, texts, lambda connection: _batch(connection, statements, alone=True))

    def _with(
        self, binding: str, texts: list[str], function: Callable[[psycopg.Connection[Any]], Answer]
    ) -> Answer:
        found = self.binding(binding)
        connection = found.take()
        try:
            for sql in texts:
                _note(connection, sql)
            return function(connection)
        finally:
            found.give_back(connection)

    def begin(self, binding: str, isolation: str, read_only: bool) -> Transaction:
        """Begins a transaction."""
        return Transaction(self.binding(binding), isolation, read_only)

    def begin_with(
        self, binding: str, statements: list[tuple[str, list[Value]]], may_be_lost: bool
    ) -> Transaction:
        """Begins a transaction and runs statements in it. A crash of the server may lose it if it may be lost."""
        transaction = self.begin(binding, "read-committed", read_only=False)
        try:
            if may_be_lost:
                # It ends with the transaction, and is no trace.
                _run(transaction.connection, "SET LOCAL synchronous_commit = off", [])
            transaction.batch(statements)
        except BaseException:
            transaction.end()
            raise
        return transaction


def _end(resource: Transaction | Cursor | CopyWriter) -> None:
    if isinstance(resource, Transaction):
        resource.end()
    else:
        resource.close()


def _driver() -> Any:
    try:
        import psycopg
    except ImportError:
        raise Failure(
            "unreachable", "psycopg is not installed; `pip install metalab-store[postgres]` installs it"
        ) from None
    return psycopg


class _Encoded:
    """A parameter, as the server reads it."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


def _encode(value: Value) -> _Encoded | None:
    tag, payload = value
    match tag:
        case "null":
            return None
        case "boolean":
            text = "t" if payload else "f"
        case "integer":
            text = str(payload)
        case "float":
            # `inf`, `-inf` and `nan` are read too.
            text = repr(float(payload))
        case "text" | "json":
            text = payload
        case "bytes":
            text = "\\x" + payload.hex()
        case "timestamp":
            text = _timestamp(payload)
        case "text-array":
            text = "{" + ",".join(map(_array_item, payload)) + "}"
        case _:
            raise Failure("unsupported-type", f"there is no value of the kind {tag}")
    if "\0" in text:
        raise Failure("refused", "PostgreSQL keeps no NUL in a text", sqlstate="22021")
    return _Encoded(text.encode())


def _array_item(item: str | None) -> str:
    if item is None:
        return "NULL"
    return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _timestamp(microseconds: int) -> str:
    try:
        at = _UNIX + timedelta(microseconds=microseconds)
    except OverflowError:
        raise Failure("refused", "the time is out of range", sqlstate="22008") from None
    return at.strftime("%Y-%m-%d %H:%M:%S.%f+00").rjust(29, "0")


def _run(connection: psycopg.Connection[Any], sql: str, parameters: list[Value]) -> psycopg.Cursor[Any]:
    cursor = connection.cursor()
    _register(cursor)
    encoded = [_encode(value) for value in parameters]
    with _translated():
        cursor.execute(sql.encode(), encoded or None, binary=True)
    return cursor


def _register(cursor: psycopg.Cursor[Any]) -> None:
    cursor.adapters.register_dumper(_Encoded, _dumper())


_dumper_class: Any = None


def _dumper() -> Any:
    global _dumper_class
    if _dumper_class is None:
        from psycopg.adapt import Dumper

        class EncodedDumper(Dumper):
            """Sends what is encoded already, and leaves its type to the server."""

            oid = 0

            def dump(self, obj: _Encoded) -> bytes:
                return obj.data

        _dumper_class = EncodedDumper
    return _dumper_class


def _affected(cursor: psycopg.Cursor[Any]) -> int:
    return max(cursor.rowcount, 0)


def _query(connection: psycopg.Connection[Any], sql: str, parameters: list[Value], max_rows: int) -> Rows:
    cursor = _run(connection, sql, parameters)
    columns, decoded = _decode(cursor, max_rows)
    return Rows(columns, [row for _, row in decoded], _affected(cursor))


def _batch(
    connection: psycopg.Connection[Any], statements: list[tuple[str, list[Value]]], *, alone: bool = False
) -> list[int]:
    if len(statements) > MAX_BATCH:
        raise Failure("too-large", f"a batch has at most {MAX_BATCH} statements")
    encoded = [(sql.encode(), [_encode(value) for value in parameters]) for sql, parameters in statements]
    cursors = []
    try:
        with _translated(), connection.pipeline():
            if alone:
                connection.execute("BEGIN")
            for sql, parameters in encoded:
                cursor = connection.cursor()
                _register(cursor)
                cursor.execute(sql, parameters or None, binary=True)
                cursors.append(cursor)
            if alone:
                connection.execute("COMMIT")
    except Failure:
        if alone and not connection.closed:
            try:
                connection.execute("ROLLBACK")
            except Exception:  # noqa: BLE001
                connection.close()
        raise
    return [_affected(cursor) for cursor in cursors]


def _decode(cursor: psycopg.Cursor[Any], max_rows: int) -> tuple[list[str], list[tuple[int, list[Value]]]]:
    result = cursor.pgresult
    if result is None or result.nfields == 0:
        return [], []
    if result.ntuples > max_rows:
        raise Failure("too-large", f"the query has more than {max_rows} rows")
    columns = [(result.fname(column) or b"").decode() for column in range(result.nfields)]
    decoders = [_decoder(result.ftype(column), columns[column]) for column in range(result.nfields)]
    rows, total = [], 0
    for number in range(result.ntuples):
        row: list[Value] = []
        size = 0
        for column, decode in enumerate(decoders):
            raw = result.get_value(number, column)
            if raw is None:
                row.append(("null", None))
            else:
                size += len(raw)
                row.append(decode(raw))
        total += size
        if total > MAX_RESULT_BYTES:
            raise Failure("too-large", f"the query has more than {MAX_RESULT_BYTES} bytes")
        rows.append((size, row))
    return columns, rows


def _decoder(oid: int, column: str) -> Any:
    found = _DECODERS.get(oid)
    if found is None:
        raise Failure("unsupported-type", f"the column {column!r} has a type (oid {oid}) that has to be cast")
    return found


def _integer(raw: bytes) -> Value:
    return "integer", int.from_bytes(raw, "big", signed=True)


def _float(raw: bytes) -> Value:
    return "float", struct.unpack("!d" if len(raw) == 8 else "!f", raw)[0]


def _text(raw: bytes) -> Value:
    return "text", raw.decode()


def _jsonb(raw: bytes) -> Value:
    # A version number stands before the text.
    return "json", raw[1:].decode()


def _time(raw: bytes) -> Value:
    return "timestamp", int.from_bytes(raw, "big", signed=True) + _EPOCH


def _text_array(raw: bytes) -> Value:
    dimensions, _, _ = struct.unpack_from("!iiI", raw)
    if dimensions == 0:
        return "text-array", []
    if dimensions != 1:
        raise Failure("unsupported-type", "an array of more than one dimension has to be cast")
    (count,) = struct.unpack_from("!i", raw, 12)
    place = 20
    items: list[str | None] = []
    for _ in range(count):
        (length,) = struct.unpack_from("!i", raw, place)
        place += 4
        if length < 0:
            items.append(None)
            continue
        items.append(raw[place : place + length].decode())
        place += length
    return "text-array", items


_DECODERS: dict[int, Any] = {
    16: lambda raw: ("boolean", raw != b"\0"),
    17: lambda raw: ("bytes", raw),
    19: _text,
    20: _integer,
    21: _integer,
    23: _integer,
    25: _text,
    114: lambda raw: ("json", raw.decode()),
    700: _float,
    701: _float,
    1009: _text_array,
    1043: _text,
    1184: _time,
    3802: _jsonb,
}


class _translated:
    """Turns psycopg's errors into failures of the contract."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None or isinstance(error, Failure):
            return
        psycopg = _driver()
        if not isinstance(error, psycopg.Error):
            return
        state = error.sqlstate
        message = error.diag.message_primary
        if state is None:
            # The server answers no more; what the driver says may name the server, and nothing secret.
            raise Failure(
                "disconnected",
                "the connection broke: the server closed it or does not answer",
                retryable=True,
                outcome_unknown=True,
            ) from None
        retryable = state[:2] in _RETRYABLE_CLASSES or state == _LOCK_NOT_AVAILABLE
        kind = {"57014": "timed-out", "57P01": "disconnected", "57P02": "disconnected"}.get(state, "refused")
        raise Failure(
            kind,
            message or "the server refused the statement",
            sqlstate=state,
            retryable=retryable,
        ) from None
