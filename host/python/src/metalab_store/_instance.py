"""The instances of an open store: started when needed, shared by threads, replaced when they fail.

An instance is taken for one call at a time. Readers and lists live in the instance that made them and take it again
for each of their calls, so that holding one never keeps others from working.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from wasmtime import Store, Trap, TrapCode, WasiConfig, WasmtimeError
from wasmtime import component as c

from . import _functions, _imports, _values
from ._engine import TICK, Engine, abandon, shared, starts
from ._grant import Grant
from ._postgres import Binding, PostgresContext
from ._roots import Roots
from .errors import ClosedError, EngineError, LimitExceededError, StoreError, TrapError, from_wire

#: How many bytes of what the component says when it fails are kept.
_STDERR_BYTES: Final = 4096


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an instance of the component may use."""

    #: Memory in bytes. Default 1 GiB.
    memory_bytes: int = 1 << 30
    #: Entries of tables. Default 100,000.
    table_entries: int = 100_000
    #: How long one call may take, in seconds; host calls such as waiting for a lock count once they are over.
    call_deadline: float = 600.0
    #: How many locks and database resources it may hold at once. Default 4,096.
    resources: int = 4096


class Instance:
    """An instance of the component."""

    def __init__(self, engine: Engine, grant: Grant | None, limits: Limits, bindings: dict[str, Binding]) -> None:
        if grant is not None:
            starts()
        self._engine = engine
        self._limits = limits
        self._said = bytearray()
        self._functions: dict[tuple[str, str], tuple[c.Func, _values.Signature]] = {}
        roots = Roots(None, False) if grant is None else grant.roots()
        self._context = _imports.Context(roots, PostgresContext(bindings, limits.resources), limits.resources)
        try:
            self.store = Store(engine.wasmtime)
            self.store.set_limits(memory_size=limits.memory_bytes, table_elements=limits.table_entries)
            wasi = WasiConfig()
            wasi.stderr_custom = self._hear
            if grant is not None:
                grant.apply(wasi)
            self.store.set_wasi(wasi)
            self.store.set_epoch_deadline(self._ticks())
            with engine.ticker, _imports.entered(self._context):
                self._instance = engine.linker.instantiate(self.store, engine.component)
        except WasmtimeError as error:
            self._context.close()
            raise EngineError(f"the store's component cannot be started: {error}") from error
        except BaseException:
            self._context.close()
            raise

    def _ticks(self) -> int:
        return int(self._limits.call_deadline / TICK) + 1

    def _hear(self, said: bytes) -> int:
        self._said += said[: _STDERR_BYTES - len(self._said)]
        return len(said)

    def function(self, interface: str, name: str) -> tuple[c.Func, _values.Signature]:
        """Returns a function that the component exports."""
        key = (interface, name)
        if (found := self._functions.get(key)) is not None:
            return found
        index = self._instance.get_export_index(self.store, name, self._engine.indices[interface])
        func = None if index is None else self._instance.get_func(self.store, index)
        if func is None:
            raise EngineError(f"the store's component has no function {name}")
        signature = self._engine.signatures.get(key)
        if signature is None:
            signature = self._engine.signatures[key] = _values.Signature.of(func.type(self.store))
        self._functions[key] = func, signature
        return func, signature

    def call(self, interface: str, name: str, *arguments: Any) -> Any:
        """Makes a call, which has its whole time. After a `_Failed` the instance must not be used again."""
        func, signature = self.function(interface, name)
        self.store.set_epoch_deadline(self._ticks())
        try:
            with self._engine.ticker, _imports.entered(self._context):
                return _values.call(func, signature, self.store, arguments)
        except WasmtimeError as error:
            raise _Failed(self._failure(error)) from error

    def checked(self, interface: str, name: str, *arguments: Any) -> Any:
        """Makes a call that returns a result, and raises its error."""
        good, value = self.call(interface, name, *arguments)
        if good:
            return value
        raise from_wire(value)

    def drop(self, resource: c.ResourceAny) -> None:
        """Drops a resource of the component."""
        self.store.set_epoch_deadline(self._ticks())
        try:
            with self._engine.ticker, _imports.entered(self._context):
                resource.drop(self.store)
        except WasmtimeError as error:
            raise _Failed(self._failure(error)) from error

    def _failure(self, error: WasmtimeError) -> BaseException:
        if (interrupt := _functions.take_interrupt()) is not None:
            return interrupt
        said = self._said.decode(errors="replace").strip()
        code = error.trap_code if isinstance(error, Trap) else None
        text = str(error)
        if code == TrapCode.INTERRUPT or "wasm trap: interrupt" in text:
            return LimitExceededError(
                f"the store's component exceeded its limit: a call took longer than {self._limits.call_deadline:g} s"
            )
        if code == TrapCode.STACK_OVERFLOW or "call stack exhausted" in text:
            return LimitExceededError("the store's component exceeded its limit: its stack is used up")
        # The runtime says so, or the function that makes room for arguments finds none.
        if "memory allocation of" in said or "cabi_realloc" in text:
            return LimitExceededError(
                f"the store's component exceeded its limit: more than {self._limits.memory_bytes} bytes of memory"
            )
        # The outer causes are a list of addresses; what the component said last is its panic's message.
        cause = text.strip().splitlines()[-1].strip()
        return TrapError(f"the store's component failed: {cause}" + (f": {said}" if said else ""))

    def close(self) -> None:
        """Ends what the instance held on the host's side, and frees it."""
        self._context.close()
        self.store.close()


class _Failed(Exception):
    """The component trapped: the instance is gone."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


_pure: Instance | None = None
_pure_guard = threading.Lock()


def _after_fork() -> None:
    global _pure, _pure_guard
    _pure_guard = threading.Lock()
    if _pure is not None:
        abandon(_pure)
        _pure = None


os.register_at_fork(after_in_child=_after_fork)


def configure(name: str, *arguments: Any, grant: Grant | None = None) -> Any:
    """Calls a function of the contract's `config`: in an instance that sees a directory, or none."""
    global _pure
    try:
        if grant is not None:
            instance = Instance(shared(), grant, Limits(), {})
            try:
                return instance.checked("config", name, *arguments)
            finally:
                instance.close()
        with _pure_guard:
            if _pure is None:
                _pure = Instance(shared(), None, Limits(), {})
            try:
                return _pure.checked("config", name, *arguments)
            except _Failed:
                _pure = None
                raise
    except _Failed as failed:
        raise failed.error from failed.__cause__


class _Slot:
    """A place for an instance. Empty and not busy, it is free for a new one."""

    __slots__ = ("instance", "store", "resources", "busy", "generation", "orphans")

    def __init__(self) -> None:
        self.instance: Instance | None = None
        #: The store that is open in it.
        self.store: c.ResourceAny | None = None
        #: Its readers and lists that are still held.
        self.resources: list[c.ResourceAny] = []
        #: Those that nobody holds any more. They are dropped before the next call: whoever collects garbage may be
        #: in the middle of one.
        self.orphans: list[c.ResourceAny] = []
        self.busy = False
        #: Counts the instances that failed here: resources of an earlier one are gone.
        self.generation = 0


#: The pools that are closed when the process ends, if nobody closes them before.
_open_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _close_all() -> None:
    for pool in list(_open_pools):
        try:
            pool.close()
        except StoreError:
            # Who wants to know whether it worked calls `close`.
            pass


atexit.register(_close_all)


class Pool:
    """The instances of an open store."""

    def __init__(
        self,
        engine: Engine,
        grant: Grant,
        options: dict[str, Any],
        limits: Limits,
        max_instances: int,
        bindings: dict[str, Binding],
    ) -> None:
        """Starts the first of at most so many instances, so that errors of the directory show at once."""
        self._engine = engine
        self.grant = grant
        self._options = options
        self._limits = limits
        self._bindings = bindings
        self._max_instances = max(max_instances, 1)
        self._closed = False
        self._reset()
        _open_pools.add(self)
        self._give_back(self._take_any())

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._slots = [_Slot() for _ in range(self._max_instances)]
        self._returned = threading.Condition()

    def _check_process(self) -> None:
        """In a child of `fork` the instances are the parent's: it starts its own, or says that it cannot."""
        if self._pid != os.getpid():
            generation = max(slot.generation for slot in self._slots) + 1
            abandon(self._slots)
            self._engine = shared()
            self._bindings = {name: binding.reopened() for name, binding in self._bindings.items()}
            self._reset()
            for slot in self._slots:
                slot.generation = generation

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls a method of the component's store in any instance, and raises its error."""
        return self.in_any(lambda instance, store: instance.checked("store", name, store, *arguments))

    def call_plain(self, name: str, *arguments: Any) -> Any:
        """As `call`, for a method that cannot fail."""
        return self.in_any(lambda instance, store: instance.call("store", name, store, *arguments))

    def open_resource(self, name: str, *arguments: Any) -> Resource:
        """As `call`, for a method that returns a resource."""
        self._check_process()
        slot = self._take_any()
        try:
            handle = self._run(slot, lambda instance, store: instance.checked("store", name, store, *arguments))
            slot.resources.append(handle)
            return Resource(self, slot, handle)
        finally:
            self._give_back(slot)

    def in_any(self, function: Callable[[Instance, c.ResourceAny], Any]) -> Any:
        """Makes calls of the component's store in any instance, which works for nobody else meanwhile."""
        self._check_process()
        slot = self._take_any()
        try:
            return self._run(slot, function)
        finally:
            self._give_back(slot)

    def _run(self, slot: _Slot, function: Callable[[Instance, c.ResourceAny], Any]) -> Any:
        instance, store = slot.instance, slot.store
        if instance is None or store is None:
            raise TrapError("the store's component failed: the instance is gone")
        try:
            while slot.orphans:
                orphan = slot.orphans.pop()
                # One of an instance that is gone may have been late.
                if orphan in slot.resources:
                    slot.resources.remove(orphan)
                    instance.drop(orphan)
            return function(instance, store)
        except _Failed as failed:
            # After a trap the component cannot be entered again.
            self._discard(slot)
            raise failed.error from failed.__cause__

    def _discard(self, slot: _Slot) -> None:
        instance, slot.instance, slot.store = slot.instance, None, None
        slot.resources = []
        slot.orphans = []
        slot.generation += 1
        if instance is not None:
            instance.close()

    def _take_any(self) -> _Slot:
        with self._returned:
            while True:
                if self._closed:
                    raise ClosedError()
                free = [slot for slot in self._slots if not slot.busy]
                if free:
                    break
                self._returned.wait()
            # Started ones first, and among them one that nobody reads a list or an artifact from.
            slot = min(free, key=lambda slot: len(slot.resources) if slot.instance is not None else 1 << 30)
            slot.busy = True
        if slot.instance is None:
            try:
                self._start(slot)
            except BaseException:
                self._give_back(slot)
                raise
        return slot

    def take(self, slot: _Slot, generation: int) -> None:
        """Takes the instance that a resource lives in."""
        with self._returned:
            while True:
                if self._closed:
                    raise ClosedError()
                if self._pid != os.getpid() or slot.generation != generation:
                    raise TrapError(
                        "the store's component failed: the instance that this was opened in is gone; open it again"
                    )
                if not slot.busy:
                    slot.busy = True
                    return
                self._returned.wait()

    def call_resource(self, slot: _Slot, generation: int, function: Callable[[Instance], Any]) -> Any:
        """Calls a method of a resource."""
        self.take(slot, generation)
        try:
            return self._run(slot, lambda instance, _: function(instance))
        finally:
            self._give_back(slot)

    def _give_back(self, slot: _Slot) -> None:
        with self._returned:
            slot.busy = False
            self._returned.notify_all()

    def _start(self, slot: _Slot) -> None:
        instance = Instance(self._engine, self.grant, self._limits, self._bindings)
        try:
            slot.store = instance.checked("store", "[static]store.open", self._options)
            slot.instance = instance
        except _Failed as failed:
            instance.close()
            raise failed.error from failed.__cause__
        except BaseException:
            instance.close()
            raise

    def close(self) -> None:
        """Closes all instances, when the calls that run have ended."""
        if self._closed:
            return
        if self._pid != os.getpid():
            # What is open is the parent's, and its to close.
            self._closed = True
            abandon(self._slots)
            return
        with self._returned:
            self._closed = True
            self._returned.notify_all()
            while any(slot.busy for slot in self._slots):
                self._returned.wait()
        failed: StoreError | None = None
        for slot in self._slots:
            try:
                self._close(slot)
            except StoreError as error:
                failed = failed or error
        for binding in self._bindings.values():
            binding.close()
        self.grant.close()
        if failed is not None:
            raise failed

    def _close(self, slot: _Slot) -> None:
        instance, store = slot.instance, slot.store
        if instance is None or store is None:
            return
        try:
            # An unfinished writer would leave its file behind.
            for resource in slot.resources:
                instance.drop(resource)
            instance.checked("store", "[method]store.close", store)
        except _Failed as failed:
            raise failed.error from failed.__cause__
        finally:
            slot.instance = None
            instance.close()

    def __del__(self) -> None:
        # Who wants to know whether it worked calls `close`.
        try:
            if not self.__dict__.get("_closed", True):
                self.close()
        except Exception:  # noqa: BLE001
            pass


class Resource:
    """A reader, writer or list of the component. Dropped there when it is closed or forgotten here."""

    def __init__(self, pool: Pool, slot: _Slot, handle: c.ResourceAny) -> None:
        self._pool: Pool | None = pool
        self._slot = slot
        self._generation = slot.generation
        self._handle = handle

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls a method that can fail, and raises its error."""
        return self._call(lambda instance: instance.checked("store", name, self._handle, *arguments))

    def call_plain(self, name: str, *arguments: Any) -> Any:
        """Calls a method that cannot fail."""
        return self._call(lambda instance: instance.call("store", name, self._handle, *arguments))

    def _call(self, function: Callable[[Instance], Any]) -> Any:
        if self._pool is None:
            raise ClosedError("this was closed")
        return self._pool.call_resource(self._slot, self._generation, function)

    def close(self) -> None:
        """Drops it."""
        pool, self._pool = self._pool, None
        if pool is not None and self._slot.generation == self._generation:
            # Not now: this may be the collector of garbage, at work within a call of the same instance.
            self._slot.orphans.append(self._handle)

    def __del__(self) -> None:
        self.close()
