"""Plugins: components of other people that compute derived metrics of runs, and see nothing but one experiment.

What a plugin asks of the store is passed on, value by value, to an instance of the store's component. Each run has an
instance of the plugin of its own. What this runtime can limit, and what it cannot, is in `docs/plugins.md`.
"""

from __future__ import annotations

import ctypes
import os
import threading
import unicodedata
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from wasmtime import WasmtimeError
from wasmtime import _ffi as ffi
from wasmtime import component as c

from . import _functions, _values
from ._engine import CONTRACT, TICK, VERSION, Engine, interface, shared
from ._instance import Instance, Pool
from .config import StoreConfig
from .errors import (
    InvalidArgumentError,
    InvalidTypeError,
    PluginMissingError,
    PluginVersionError,
    PluginWorldError,
    StoreError,
    from_wire,
)
from .store import Damage, parsed_lines

#: The most metrics of a run, and the most bytes of a metric's name.
_METRICS: Final = 10_000
_NAME_BYTES: Final = 256
#: The most bytes of names and texts of a run's metrics, and of those that are stored with one sync.
_ANSWER: Final = 2 << 20
_BATCH_BYTES: Final = 4 << 20
#: The most runs of a list, and the most bytes of a piece of an artifact.
_LIST: Final = 4096
_CHUNK: Final = 256 * 1024
#: How much of a list of names crosses at once, in bytes.
_LINES: Final = 1 << 20
#: The most runs that are stored with one sync.
_BATCH: Final = 128
#: The most runs that are computed at once, and how many are computed ahead of what is stored unless there are more workers.
_WORKERS: Final = 256
_AHEAD: Final = 64
#: A run that takes less time, in seconds, is not worth another thread: most of it is spent with the lock of Python's interpreter.
_CHEAP: Final = 0.001
#: How many characters of a plugin's reason are kept.
_REASON: Final = 1000


@dataclass(frozen=True, kw_only=True)
class PluginLimits:
    """What a plugin may use for one run."""

    #: Memory in bytes. Default 256 MiB. A plugin that wants more traps; this runtime does not tell why.
    memory_bytes: int = 256 << 20
    #: Entries of tables, all tables together. Default 10,000.
    table_entries: int = 10_000
    #: How long it may take, in seconds; what the store does for it counts once it is over. Default 10.
    time: float = 10.0
    #: How many calls of the view it may make. Default 10,000.
    calls: int = 10_000


@dataclass(frozen=True)
class DeriveProgress:
    """How far it is."""

    #: Runs of which is known what became of them.
    done: int
    #: Those of them that failed.
    failed: int
    #: All runs.
    total: int


@dataclass(frozen=True)
class RunFailure:
    """A run that nothing was derived from: it keeps the derived metrics that it had."""

    run_id: str
    #: `refused`, `trap`, `time`, `memory`, `calls`, `garbage` or `store`: the same in every host.
    code: str
    #: Why, in one sentence.
    message: str


@dataclass
class DeriveReport:
    """What became of the runs."""

    #: Runs that the filter matches.
    runs: int = 0
    #: Runs whose derived metrics were stored, or would be.
    derived: int = 0
    #: The runs that failed, in the order of the list.
    failures: list[RunFailure] = field(default_factory=list)
    #: The files found damaged: they hide no run.
    damaged: list[Damage] = field(default_factory=list)


class _Failed(Exception):
    """Nothing was derived from a run."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _View:
    """What the calls of one run work on."""

    def __init__(self, pool: Pool | None, limits: PluginLimits, engine: Engine, stop: threading.Event) -> None:
        self._pool = pool
        self._limits = limits
        self._calls = limits.calls
        self._ticker = engine.ticker
        self._stop = stop
        self._end_epoch = engine.ticker.epoch + int(limits.time / TICK) + 1
        #: Why the run was ended, if it was not the plugin that failed.
        self.ended: _Failed | None = None

    def may_go_on(self) -> bool:
        """Says, at each advance of the epoch, whether the plugin may go on."""
        if self._stop.is_set():
            self.ended = _Failed("time", "the work was ended")
        elif self._ticker.epoch >= self._end_epoch:
            self.ended = _Failed("time", f"the plugin took longer than {self._limits.time:g} s")
        return self.ended is None

    def call(self, function: Callable[[Instance, c.ResourceAny], Any]) -> Any:
        """Passes a call on to the store; what the store says is what the plugin is told."""
        if self._calls == 0 or self._pool is None:
            self._end("calls", f"the plugin called the store more than {self._limits.calls} times")
        self._calls -= 1
        try:
            return self._pool.in_any(function)  # type: ignore[union-attr]
        except StoreError as error:
            # The store's own failure: its next call finds a fresh instance, this run does not go on.
            self._end("store", str(error))

    def _end(self, code: str, message: str) -> None:
        self.ended = _Failed(code, message)
        raise WasmtimeError(message)


class _Active(threading.local):
    view: _View | None = None


_active = _Active()


def _view(function: Callable[[Instance, c.ResourceAny], Any]) -> Any:
    view = _active.view
    if view is None:
        raise WasmtimeError("the store cannot be asked before a run is computed")
    return view.call(function)


#: The runs that are being computed, by what the C library calls back with.
_watched: dict[int, _View] = {}


def _ticked(_: Any, number: int | None, delta: Any, kind: Any) -> Any:
    view = _watched.get(number or 0)
    if view is None or not view.may_go_on():
        return _functions.trap("the plugin was ended")
    delta[0], kind[0] = 1, _CONTINUE
    return 0


#: Tells the runtime that the call goes on.
_CONTINUE: Final = 0
_on_tick = ctypes.CFUNCTYPE(
    ctypes.c_size_t,
    ctypes.POINTER(ffi.wasmtime_context_t),
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(ctypes.c_uint8),
)(_ticked)


_new_store = _values.short_call("wasmtime_store_new")
_context_of = _values.short_call("wasmtime_store_context")
_limit = _values.short_call("wasmtime_store_limiter")
_call_at_epoch = _values.short_call("wasmtime_store_epoch_deadline_callback")
_set_epoch = _values.short_call("wasmtime_context_set_epoch_deadline")
_function_of = _values.short_call("wasmtime_component_instance_get_func")
#: A function that is none: there is nothing to be freed.
_nothing = ctypes.cast(0, ctypes.CFUNCTYPE(None, ctypes.c_void_p))


class _Started:
    """An instance of a plugin: store, instance and function in one, since one is made for each run."""

    __slots__ = ("_context", "_func", "_store")

    def __init__(self, engine: Engine, limits: PluginLimits, view: _View | None) -> None:
        self._store = _new_store(engine.wasmtime.ptr(), None, _nothing)
        self._context = _context_of(self._store)
        _limit(self._store, limits.memory_bytes, limits.table_entries, -1, -1, -1)
        if view is None:
            _set_epoch(self._context, int(limits.time / TICK) + 1)
        else:
            _set_epoch(self._context, 1)
            _call_at_epoch(self._store, _on_tick, id(view), _nothing)
        self._func = ffi.wasmtime_component_func_t()

    def instantiate(self, linker: c.Linker, component: c.Component, derive: c.ExportIndex) -> None:
        """Runs what the plugin runs at first. The epoch has to advance meanwhile."""
        instance = ffi.wasmtime_component_instance_t()
        failed = ffi.wasmtime_component_linker_instantiate(
            linker.ptr(), self._context, component.ptr(), ctypes.byref(instance)
        )
        if failed:
            raise WasmtimeError._from_ptr(failed)
        if not _function_of(ctypes.byref(instance), self._context, derive.ptr(), ctypes.byref(self._func)):
            raise PluginWorldError("this is no plugin: derive is no function")

    def signature(self) -> _values.Signature:
        """Returns the types of its function."""
        found = ffi.wasmtime_component_func_type(ctypes.byref(self._func), self._context)
        return _values.Signature.of(c.FuncType._from_ptr(found))

    def call(self, signature: _values.Signature, run_id: str) -> Any:
        """Calls its function. The epoch has to advance meanwhile."""
        return _values.call_raw(self._func, signature, self._context, (run_id,))

    def close(self) -> None:
        """Frees it."""
        ffi.wasmtime_store_delete(self._store)


def _same(name: str) -> _functions.Function:
    """Returns the function of the view that is the store's method of the same name."""
    method = f"[method]store.{name}"
    return lambda _, *arguments: _view(lambda instance, store: instance.call("store", method, store, *arguments))


def _runs(instance: Instance, store: c.ResourceAny, filter: str, limit: int | None) -> Any:
    """Asks for the ids of runs, and for the damaged files."""
    query = {"filter": filter, "sort": "", "columns": "run_id", "limit": limit, "cursor": None, "check": False}
    good, found = instance.call("store", "[method]store.query-runs", store, query)
    if not good:
        return good, found
    names: list[str] = []
    try:
        while True:
            good, lines = instance.call("store", "[method]run-list.next-lines", found, _LINES)
            if not good:
                return good, lines
            if not lines:
                break
            # One text crosses in a fraction of the time that its rows take.
            names += [row["run_id"] for row in parsed_lines(lines[:-1])]
        damaged = instance.call("store", "[method]run-list.damaged", found)
    finally:
        instance.drop(found)
    return True, (names, damaged)


def _list_runs(_: Any, filter: str, limit: int) -> Any:
    good, found = _view(lambda instance, store: _runs(instance, store, filter, min(limit, _LIST)))
    return good, found[0] if good else found


def _read_artifact(_: Any, run_id: str, name: str, offset: int, max_bytes: int) -> Any:
    def read(instance: Instance, store: c.ResourceAny) -> Any:
        artifact = ("name", (run_id, name))
        good, reader = instance.call("store", "[method]store.open-artifact", store, artifact, False)
        if not good:
            return good, reader
        try:
            return instance.call("store", "[method]artifact-reader.read", reader, offset, min(max_bytes, _CHUNK))
        finally:
            instance.drop(reader)

    return _view(read)


_linkers: dict[int, tuple[Engine, c.Linker]] = {}
_linkers_guard = threading.Lock()


def _linker(engine: Engine) -> c.Linker:
    """Returns the linker of an engine that has the view and nothing else."""
    with _linkers_guard:
        if (found := _linkers.get(id(engine))) is not None:
            return found[1]
        linker = c.Linker(engine.wasmtime)
        with linker.root() as root, root.add_instance(interface("view")) as view:
            _functions.add(view, "list-runs", _list_runs)
            for name in (
                "get-run-record",
                "get-run-text",
                "get-derived",
                "list-results",
                "get-result",
                "list-logs",
                "read-log",
                "list-artifacts",
            ):
                _functions.add(view, name, _same(name))
            _functions.add(view, "read-artifact", _read_artifact)
        _linkers[id(engine)] = engine, linker
        return linker


class Plugin:
    """A plugin, compiled and checked."""

    def __init__(self, source: str | os.PathLike[str] | bytes) -> None:
        """Compiles a plugin of a file, or of its bytes, and checks that it is of the contract's world `plugin`."""
        if isinstance(source, bytes):
            binary = source
        else:
            try:
                binary = Path(source).read_bytes()
            except OSError as error:
                missing = PluginMissingError(f"cannot read the plugin {os.fspath(source)}: {error.strerror}")
                missing.errno = error.errno
                raise missing from None
        self._engine = shared()
        if not binary.startswith(b"\0asm"):
            # The runtime would take text for WebAssembly's text format.
            raise PluginWorldError("this is no plugin: it is no WebAssembly")
        try:
            self._component = c.Component(self._engine.wasmtime, binary)
        except WasmtimeError as error:
            raise PluginWorldError(f"this is no plugin: {_last(error)}") from None
        self._check_imports()
        self._linker = _linker(self._engine)
        derive = self._component.get_export_index("derive")
        if derive is None:
            raise PluginWorldError("this is no plugin: it exports no function derive")
        self._derive = derive
        started = _Started(self._engine, PluginLimits(), None)
        try:
            with self._engine.ticker:
                started.instantiate(self._linker, self._component, derive)
            # The same in every instance, and longer to make than an instance.
            self._signature = started.signature()
        except WasmtimeError as error:
            raise PluginWorldError(f"this is no plugin: {_last(error)}") from None
        finally:
            started.close()

    def _check_imports(self) -> None:
        foreign = []
        for name in self._component.type.imports(self._engine.wasmtime):
            found, _, version = name.partition("@")
            if found not in (f"{CONTRACT}/view", f"{CONTRACT}/types"):
                foreign.append(name)
            elif version.split(".")[:2] != VERSION.split(".")[:2]:
                raise PluginVersionError(
                    f"this plugin cannot be used: it is made for version {version} of the store's contract, "
                    f"and this store has {VERSION}"
                )
        if foreign:
            raise PluginWorldError(
                f"this is no plugin: it imports {', '.join(foreign)}, and a plugin gets nothing but {CONTRACT}/view; "
                "docs/plugins.md says how to build one"
            )

    def run(self, pool: Pool, run_id: str, limits: PluginLimits, stop: threading.Event) -> list[dict[str, Any]]:
        """Computes the derived metrics of one run, and stores nothing."""
        view = _active.view = _View(pool, limits, self._engine, stop)
        _watched[id(view)] = view
        started = _Started(self._engine, limits, view)
        try:
            with self._engine.ticker:
                started.instantiate(self._linker, self._component, self._derive)
                good, derived = started.call(self._signature, run_id)
        except WasmtimeError as error:
            if (interrupt := _functions.take_interrupt()) is not None:
                raise interrupt from None
            raise view.ended or _failure(error) from None
        except (TypeError, ValueError, OverflowError) as error:
            raise _Failed("garbage", f"the plugin's answer cannot be used: {error}") from None
        finally:
            _active.view = None
            started.close()
            del _watched[id(view)]
        if not good:
            raise _Failed("refused", _short(derived))
        return _metrics(derived)


def _last(error: WasmtimeError) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _failure(error: WasmtimeError) -> _Failed:
    text = str(error)
    if "wasm trap" in text or "call stack exhausted" in text:
        return _Failed("trap", f"the plugin failed: {_short(_last(error))}")
    return _Failed("garbage", f"the plugin's answer cannot be used: {_short(_last(error))}")


def _metrics(derived: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    """Checks what a plugin derived. That values are what they say, and names unique, the store checks."""
    if len(derived) > _METRICS:
        raise _Failed(
            "garbage", f"the plugin's answer cannot be used: {len(derived)} metrics; a run may have {_METRICS}"
        )
    for name, _ in derived:
        length = len(name.encode())
        # What can be printed has no control characters, and to look at each sign is dear.
        printable = name.isprintable() or all(unicodedata.category(sign) != "Cc" for sign in name)
        if not 1 <= length <= _NAME_BYTES or not printable:
            raise _Failed(
                "garbage",
                f"the plugin's answer cannot be used: {_short(name)!r} is no name of a metric: "
                f"1 to {_NAME_BYTES} bytes without control characters",
            )
    metrics = [{"name": name, "value": value} for name, value in derived]
    if _weight(metrics) > _ANSWER:
        raise _Failed("garbage", f"the plugin's answer cannot be used: it has more than {_ANSWER} bytes")
    return metrics


def _weight(metrics: list[dict[str, Any]]) -> int:
    """Returns how much text metrics have."""
    texts = (metric["value"][1] for metric in metrics)
    return sum(len(metric["name"]) for metric in metrics) + sum(len(text) for text in texts if isinstance(text, str))


def _short(text: str) -> str:
    return text if len(text) <= _REASON else f"{text[:_REASON]}…"


def derive(
    config: StoreConfig,
    plugin: Plugin | str | os.PathLike[str],
    where: str = "",
    *,
    limits: PluginLimits | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    progress: Callable[[DeriveProgress], object] | None = None,
) -> DeriveReport:
    """Runs a plugin over the runs of an experiment, and stores what it derives in place of what they had.

    The plugin sees that experiment, read-only. What happens to one run is in the report, and stops nothing. Up to
    `workers` runs are computed at once, each in a thread: one a core, if there is no number. `progress` is called after each run; what it
    raises ends the work, as Ctrl-C does, also a plugin that loops; what was stored until then stays.
    """
    if not config.experiment_id:
        raise InvalidArgumentError("a plugin sees one experiment: limit the store to it")
    count = len(os.sched_getaffinity(0)) if workers is None else workers
    if not isinstance(count, int):
        raise InvalidTypeError(f"workers: expected an integer, not {type(count).__name__}")
    if not 1 <= count <= _WORKERS:
        raise InvalidArgumentError(f"{count} workers make no sense; there may be 1 to {_WORKERS}")
    loaded = plugin if isinstance(plugin, Plugin) else Plugin(plugin)
    with _opened(config, dry_run, count) as (writer, reader):
        good, found = reader.in_any(lambda instance, store: _runs(instance, store, where, None))
        if not good:
            raise from_wire(found)
        names, damaged = found
        report = DeriveReport(len(names), damaged=[Damage(**one) for one in damaged])
        work = _Work(report, writer)
        computed = _computed(loaded, reader, names, limits or PluginLimits(), count)
        try:
            for number, (name, metrics) in enumerate(computed, 1):
                if isinstance(metrics, _Failed):
                    report.failures.append(RunFailure(name, metrics.code, str(metrics)))
                else:
                    work.keep(name, metrics)
                if progress is not None:
                    progress(DeriveProgress(number, len(report.failures), len(names)))
        finally:
            # Ends what is still computed.
            computed.close()
        work.store()
        order = {name: number for number, name in enumerate(names)}
        report.failures.sort(key=lambda failure: order[failure.run_id])
        return report


_Computed = list[dict[str, Any]] | _Failed


def _computed(
    plugin: Plugin, reader: Pool, names: list[str], limits: PluginLimits, workers: int
) -> Generator[tuple[str, _Computed], None, None]:
    """Computes runs, some at once, and returns what became of each as it comes."""
    stop, some, room = threading.Event(), threading.Event(), threading.Event()
    # What is not stored is kept, so there may be only so many.
    most = max(workers, _AHEAD)
    done: deque[tuple[str, _Computed | BaseException]] = deque()
    following = iter(names)
    taking = threading.Lock()

    def work() -> None:
        while not stop.is_set():
            if len(done) >= most:
                room.clear()
                if len(done) >= most and not stop.is_set():
                    some.set()
                    room.wait()
                continue
            with taking:
                name = next(following, None)
            if name is None:
                break
            try:
                done.append((name, plugin.run(reader, name, limits, stop)))
            except BaseException as error:  # noqa: BLE001
                done.append((name, error))
            # Not for each: threads that wait for each other take longer than a run of a simple plugin.
            if len(done) * 2 >= most and not some.is_set():
                some.set()
        some.set()

    with ThreadPoolExecutor(workers, "metalab-store-derive") as threads:
        try:
            threads.submit(work)
            idle = workers - 1
            left = len(names)
            while left:
                while done:
                    name, computed = done.popleft()
                    left -= 1
                    if isinstance(computed, BaseException) and not isinstance(computed, _Failed):
                        raise computed
                    yield name, computed
                room.set()
                if left:
                    # What is slow is seen all the same, and only that is worth more threads.
                    if not some.wait(min(TICK, most / 2 * _CHEAP) if idle else TICK):
                        for _ in range(idle):
                            threads.submit(work)
                        idle = 0
                    some.clear()
        finally:
            stop.set()
            room.set()


class _opened:
    """A store to write, unless nothing is to be written, and one to read."""

    def __init__(self, config: StoreConfig, dry_run: bool, readers: int) -> None:
        # The writer first: it makes what is then read.
        self._writer = None if dry_run else replace(config, read_only=False, max_instances=1).connect()
        try:
            self._reader = replace(config, read_only=True, max_instances=readers).connect()
        except BaseException:
            if self._writer is not None:
                self._writer.close()
            raise

    def __enter__(self) -> tuple[Pool | None, Pool]:
        return None if self._writer is None else self._writer._pool, self._reader._pool

    def __exit__(self, *_: object) -> None:
        try:
            self._reader.close()
        finally:
            if self._writer is not None:
                self._writer.close()


class _Work:
    """What was computed and is not stored yet."""

    def __init__(self, report: DeriveReport, writer: Pool | None) -> None:
        self._report = report
        self._writer = writer
        self._batch: list[tuple[str, list[dict[str, Any]]]] = []
        self._bytes = 0

    def keep(self, run_id: str, metrics: list[dict[str, Any]]) -> None:
        self._batch.append((run_id, metrics))
        self._bytes += _weight(metrics)
        if len(self._batch) == _BATCH or self._bytes > _BATCH_BYTES:
            self.store()

    def store(self) -> None:
        batch, self._batch, self._bytes = self._batch, [], 0
        if self._writer is None or not batch:
            self._report.derived += len(batch)
            return
        outcomes = self._writer.call("[method]store.put-derived-batch", batch)
        for (run_id, _), (good, value) in zip(batch, outcomes, strict=True):
            if good:
                self._report.derived += 1
                continue
            error = from_wire(value)
            if isinstance(error, InvalidArgumentError):
                # The store was asked to keep what the plugin said, and what it said is none.
                failure = RunFailure(run_id, "garbage", f"the plugin's answer cannot be used: {error}")
            else:
                failure = RunFailure(run_id, "store", str(error))
            self._report.failures.append(failure)
