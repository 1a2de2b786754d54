"""The engine: the compiled component, linked with what it imports, shared by all stores of a process."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import secrets
import stat
import threading
import time
from importlib import metadata, resources
from typing import Any

from wasmtime import Config, WasmtimeError
from wasmtime import Engine as WasmtimeEngine
from wasmtime import component as c

from . import _imports
from .errors import EngineError

_log = logging.getLogger(__name__)

#: The contract that this host speaks.
CONTRACT = "metalab:store"
VERSION = "0.1.0"
#: How often the epoch advances, in seconds: the resolution of the time limit of calls.
TICK = 0.05
#: How far the epoch advances at once, at most, in seconds.
LONGEST_STEP = 1.0


def interface(name: str) -> str:
    """Returns the full name of an interface of the contract."""
    return f"{CONTRACT}/{name}@{VERSION}"


def component_bytes() -> bytes:
    """Returns the component that this package carries: the same for every host of a build."""
    try:
        return (resources.files(__package__) / "component" / "metalab_store.wasm").read_bytes()
    except FileNotFoundError:
        raise EngineError(
            "the store's component cannot be started: the package was made without it; `cargo xtask python` makes one"
        ) from None


class Engine:
    """The compiled component with its imports, ready to be instantiated. Shared by threads."""

    def __init__(self, component: bytes | None = None) -> None:
        """Loads the component: from the user's cache if it is there, else it is compiled now."""
        try:
            config = Config()
            config.epoch_interruption = True
            self.wasmtime = WasmtimeEngine(config)
            binary = component_bytes() if component is None else component
            self.component = _load(self.wasmtime, binary)
            self._check_version()
            self.linker = c.Linker(self.wasmtime)
            self.linker.add_wasip2()
            with self.linker.root() as root:
                _imports.define(root, interface)
            self.indices = {name: self._index(name) for name in ("config", "store", "transfer", "maintenance")}
        except WasmtimeError as error:
            raise EngineError(f"the store's component cannot be started: {error}") from error
        #: The signatures of the functions that were called, by interface and name.
        self.signatures: dict[tuple[str, str], Any] = {}
        self.ticker = _Ticker(self.wasmtime)

    def _index(self, name: str) -> c.ExportIndex:
        index = self.component.get_export_index(interface(name))
        if index is None:
            raise EngineError(f"the store's component cannot be started: it has no {interface(name)}")
        return index

    def _check_version(self) -> None:
        if self.component.get_export_index(interface("store")) is not None:
            return
        exported = self.component.type.exports(self.wasmtime)
        versions = sorted(name.split("@")[1] for name in exported if name.startswith(f"{CONTRACT}/store@"))
        found = f"{CONTRACT}@{versions[0]}" if versions else "another contract"
        raise EngineError(
            f"the store's component cannot be started: it speaks {found}, and this host {CONTRACT}@{VERSION}; "
            "a component and a host of the same build fit"
        )


_shared: Engine | None = None
_shared_guard = threading.Lock()


def shared() -> Engine:
    """Returns the engine that all stores of this process share."""
    global _shared
    if (engine := _shared) is not None:
        return engine
    with _shared_guard:
        if _shared is None:
            _shared = Engine()
        return _shared


#: What a child of `fork` must never touch again: the threads that it leans on are the parent's.
_abandoned: list[object] = []


#: Whether a component of this process used a directory: WASI's own threads are at work then.
_started = False
#: Whether that was so in the parent, when this process was forked.
_orphaned = False


def starts() -> None:
    """Says that an instance is about to use a directory. `EngineError` where none can.

    The threads that WASI works with are the parent's, and a child of `fork` cannot have others: its calls would wait
    for them for ever.
    """
    global _started
    if _orphaned:
        raise EngineError(
            "a store cannot be used in a process that was forked from one that has used a store; "
            "start processes by `spawn` or `forkserver` (multiprocessing.set_start_method), or open stores after the fork"
        )
    _started = True


def _after_fork() -> None:
    global _shared, _shared_guard, _orphaned
    _orphaned = _orphaned or _started
    _shared_guard = threading.Lock()
    if _shared is not None:
        _abandoned.append(_shared)
        _shared = None


os.register_at_fork(after_in_child=_after_fork)


def abandon(*objects: object) -> None:
    """Keeps objects of a parent process from being destroyed in its child."""
    _abandoned.extend(objects)


class _Ticker:
    """The thread that advances the epoch while calls run. It sleeps while none does."""

    def __init__(self, engine: WasmtimeEngine) -> None:
        self._engine = engine
        #: How often the epoch was advanced.
        self.epoch = 0
        self._running = 0
        self._changed = threading.Condition()
        self._started = False
        self._asleep = False

    def __enter__(self) -> None:
        with self._changed:
            self._running += 1
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="metalab-store-epoch", daemon=True).start()
            elif self._asleep:
                self._changed.notify()

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._running -= 1

    def _run(self) -> None:
        advanced = time.monotonic()
        left = 0.0
        while True:
            with self._changed:
                while self._running == 0:
                    self._asleep = True
                    self._changed.wait()
                    advanced = time.monotonic()
                self._asleep = False
            time.sleep(TICK)
            # On a busy machine a sleep takes longer, and time passes all the same. But a process that was stopped for a while
            # goes on where it was.
            now = time.monotonic()
            left += min(now - advanced, LONGEST_STEP)
            advanced = now
            while left >= TICK:
                left -= TICK
                self.epoch += 1
                self._engine.increment_epoch()


# --- the cache of compiled components ------------------------------------------------------------------------------


def _load(engine: WasmtimeEngine, binary: bytes) -> c.Component:
    """Returns the component, compiled: from the cache, or now, to be found there the next time."""
    # Loading compiled code is executing it. So the file comes from a directory that only this user can write, and
    # whatever is odd about it means that the component is compiled anew.
    directory = _cache_directory()
    name = _cache_name(binary)
    if directory is not None:
        try:
            found = _read(engine, directory, name)
            if found is not None:
                return found
        finally:
            os.close(directory)
    component = c.Component(engine, binary)
    directory = _cache_directory(create=True)
    if directory is not None:
        try:
            _write(directory, name, bytes(component.serialize()))
        except OSError as error:
            _log.debug("the compiled component is not kept: %s", error)
        finally:
            os.close(directory)
    return component


def _cache_name(binary: bytes) -> str:
    digest = hashlib.sha256(binary).hexdigest()[:32]
    version = metadata.version("wasmtime")
    return f"{digest}-wasmtime-{version}-{platform.system().lower()}-{platform.machine()}-epoch.cwasm"


def _cache_path() -> str | None:
    if given := os.environ.get("METALAB_STORE_CACHE"):
        return given if os.path.isabs(given) else None
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        home = os.environ.get("HOME", "")
        if not os.path.isabs(home):
            return None
        cache = os.path.join(home, ".cache")
    return os.path.join(cache, "metalab-store", "python")


def _cache_directory(create: bool = False) -> int | None:
    """Opens the cache, if it is this user's and nobody else can write to it."""
    path = _cache_path()
    if path is None:
        return None
    try:
        if create:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                pass
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        _log.debug("there is no cache of compiled components: %s", error)
        return None
    found = os.fstat(directory)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        _log.warning(
            "%s is not used to keep the compiled component: it has to be yours, and of nobody else (mode 0700)", path
        )
        os.close(directory)
        return None
    return directory


def _read(engine: WasmtimeEngine, directory: int, name: str) -> c.Component | None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(name, flags, dir_fd=directory)
    except OSError:
        return None
    try:
        found = os.fstat(file)
        mine = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
        if not mine or found.st_nlink != 1:
            _log.warning("%s in the cache of compiled components is not this user's file", name)
            return None
        handle = f"/proc/self/fd/{file}"
        try:
            if os.path.exists(handle):
                # Mapped, not copied.
                return c.Component.deserialize_file(engine, handle)
            with open(file, "rb", closefd=False) as opened:
                return c.Component.deserialize(engine, opened.read())
        except WasmtimeError as error:
            # Another CPU, for instance, in a home directory on a network.
            _log.debug("the compiled component does not fit: %s", error)
            return None
    finally:
        os.close(file)


def _write(directory: int, name: str, compiled: bytes) -> None:
    staged = f".{name}.{secrets.token_hex(4)}"
    file = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        with open(file, "wb") as opened:
            opened.write(compiled)
            opened.flush()
            # A file that a power cut left half written would be refused, and not only once.
            os.fsync(opened.fileno())
        os.rename(staged, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.unlink(staged, dir_fd=directory)
        raise
