"""What the component imports besides WASI, defined for a linker. The work is done by the context of the instance that
calls: host functions run on the thread that called the component.

No function here raises: what a host function raises traps the call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from wasmtime import component as c
from wasmtime.component import ResourceAny, ResourceHost

from . import _functions
from ._bulk import Reader
from ._postgres import PostgresContext
from ._roots import HeldLock, LockRefused, Roots, utc_offset

#: What the resource types are called between this module and the C library.
_LOCK, TRANSACTION, CURSOR, COPY_WRITER, _READER = 1, 2, 3, 4, 5


#: So many files are read ahead at once: of records and of derived metrics, and some more.
MAX_READERS = 8


class Context:
    """What the host calls of one instance work on."""

    def __init__(self, roots: Roots, postgres: PostgresContext, capacity: int) -> None:
        self.roots = roots
        self.postgres = postgres
        self.locks: dict[int, HeldLock] = {}
        self.readers: dict[int, Reader] = {}
        self._capacity = capacity
        self._next = 0

    def push(self, lock: HeldLock) -> int:
        """Keeps a lock for the component, and returns its number."""
        if len(self.locks) >= self._capacity:
            lock.release()
            raise LockRefused("io", f"more than {self._capacity} locks at once")
        self._next += 1
        self.locks[self._next] = lock
        return self._next

    def push_reader(self, reader: Reader) -> int | None:
        """Keeps a reader for the component, and returns its number."""
        if len(self.readers) >= MAX_READERS:
            reader.close()
            return None
        self._next += 1
        self.readers[self._next] = reader
        return self._next

    def close(self) -> None:
        """Ends what the instance left open."""
        for lock in self.locks.values():
            lock.release()
        self.locks.clear()
        for reader in self.readers.values():
            reader.close()
        self.readers.clear()
        self.postgres.close()
        self.roots.close()


class _Active(threading.local):
    context: Context | None = None


_active = _Active()


class entered:
    """Says whose host calls come from this thread."""

    __slots__ = ("_context", "_before")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._before: Context | None = None

    def __enter__(self) -> None:
        self._before = _active.context
        _active.context = self._context

    def __exit__(self, *_: object) -> None:
        _active.context = self._before


def active() -> Context:
    """Returns the context of the instance that calls."""
    context = _active.context
    if context is None:
        raise RuntimeError("a host function was called outside of a call of the component")
    return context


def representation(store: Any, borrowed: ResourceAny) -> int:
    """Returns the number behind a borrowed resource."""
    # That gives the borrow back, too. One that is kept traps the call.
    return borrowed.to_host(store).rep


def _refused(error: LockRefused) -> tuple[bool, Any]:
    return False, (error.case, error.reason)


def _broken(error: BaseException) -> tuple[bool, Any]:
    return False, ("io", f"the host failed: {error}")


def _acquire(_: Any, target: tuple[str, str | None], mode: str, timeout_ms: int) -> Any:
    lock = None
    try:
        context = active()
        lock = context.roots.acquire(target, mode == "exclusive", timeout_ms)
        content = lock.content()
        return True, (ResourceHost.own(context.push(lock), _LOCK), content)
    except LockRefused as error:
        if lock is not None:
            lock.release()
        return _refused(error)
    except Exception as error:
        if lock is not None:
            lock.release()
        return _broken(error)


def _set_content(store: Any, lock: ResourceAny, content: bytes) -> Any:
    number = representation(store, lock)
    try:
        active().locks[number].set_content(content)
        return True, None
    except LockRefused as error:
        return _refused(error)
    except Exception as error:
        return _broken(error)


def _drop_lock(_: Any, number: int) -> None:
    context = _active.context
    lock = context.locks.pop(number, None) if context is not None else None
    if lock is not None:
        lock.release()


def _sync(_: Any) -> tuple[bool, str | None]:
    try:
        failed = active().roots.sync()
    except Exception as error:
        failed = f"the host failed: {error}"
    return failed is None, failed


def _get_identity(_: Any) -> dict[str, object]:
    return active().roots.identity()


def _asked(answer: Callable[..., str | None]) -> Callable[..., str | None]:
    """Makes a function of `bulk` of one of the granted directory's."""

    def ask(_: Any, *arguments: str) -> str | None:
        try:
            return answer(active().roots, *arguments)
        except Exception:
            # Then WASI is asked, and says why.
            return None

    return ask


def _read(_: Any, directory: str, names: str) -> Any:
    try:
        context = active()
        reader = context.roots.read(directory, names)
        number = None if reader is None else context.push_reader(reader)
    except Exception:
        return None
    return None if number is None else ResourceHost.own(number, _READER)


def _next(store: Any, reader: ResourceAny) -> str:
    number = representation(store, reader)
    try:
        return active().readers[number].next()
    except Exception:
        return ""


def _drop_reader(_: Any, number: int) -> None:
    context = _active.context
    reader = context.readers.pop(number, None) if context is not None else None
    if reader is not None:
        reader.close()


def define(root: c.LinkerInstance, interface: Callable[[str], str]) -> None:
    """Defines the contract's imports."""
    from . import _postgres_imports

    with root.add_instance(interface("roots")) as roots:
        roots.add_resource("lock", c.ResourceType.host(_LOCK), _drop_lock)
        _functions.add(roots, "acquire", _acquire)
        _functions.add(roots, "[method]lock.set-content", _set_content)
        _functions.add(roots, "sync", _sync)
        _functions.add(roots, "get-identity", _get_identity)
        _functions.add(roots, "utc-offset", lambda _, at_seconds: utc_offset(at_seconds))
    with root.add_instance(interface("bulk")) as bulk:
        bulk.add_resource("reader", c.ResourceType.host(_READER), _drop_reader)
        _functions.add(bulk, "list", _asked(Roots.listing))
        _functions.add(bulk, "look", _asked(Roots.look))
        _functions.add(bulk, "digest", _asked(Roots.digest))
        _functions.add(bulk, "read", _read)
        _functions.add(bulk, "[method]reader.next", _next)
    with root.add_instance(interface("postgres")) as postgres:
        _postgres_imports.define(postgres)
