"""The `roots` import: locks, sync and identity of the one directory that is granted; and what `bulk` says of it.

Everything goes through a descriptor of that directory. Names come from the component and are checked here again:
whatever runs in its place cannot lock a file anywhere else.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import stat
import threading
import time
import unicodedata
from collections.abc import Callable
from datetime import datetime, timezone
from functools import cache

from . import _bulk

#: The most bytes of a lock's file that are read or written.
MAX_CONTENT = 4096
#: The longest name of a lock, in bytes: with its suffix it is a file name.
MAX_NAME = 250
#: What the user is to know where nothing can be locked.
UNLOCKED = (
    "nothing can be locked on the file system of this store: writers cannot exclude each other, so that of two that change "
    "one run at the same time one may undo what the other did, and what a killed writer left is not put right; let one "
    "process write at a time, or use a file system with working flock"
)
#: The longest pause between two tries to take a lock, in seconds.
LONGEST_PAUSE = 0.02
#: How often a lock's file may be replaced while it is locked before the waiting begins. A reference delete
#: replaces it once.
FREE_RETRIES = 16

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A FIFO must not block, and a terminal must not become ours.
_FILE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_UNAVAILABLE = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

#: What may lie in the place of a lock's file.
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class LockRefused(Exception):
    """A lock was not taken, or its file not read or written: a case of `lock-error` with its payload."""

    def __init__(self, case: str, reason: str | None = None) -> None:
        super().__init__(case if reason is None else f"{case}: {reason}")
        self.case = case
        self.reason = reason


def describe(error: OSError) -> str:
    """Says what an error of the operating system is, as the other hosts do."""
    return f"{error.strerror} (os error {error.errno})" if error.errno else str(error)


def _failed(error: OSError) -> LockRefused:
    if error.errno == errno.EROFS:
        return LockRefused("read-only")
    return LockRefused("io", describe(error))


#: The descriptors of all locks that this process holds. A lock belongs to what was opened, and a child of `fork` has
#: that open too: it would keep the lock when the parent is gone.
_held: set[int] = set()
# The collector of garbage may close a store in the middle of anything.
_held_guard = threading.RLock()


def _forget_locks() -> None:
    global _held_guard
    _held_guard = threading.RLock()
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_locks)


class HeldLock:
    """A lock that is held until it is released."""

    __slots__ = ("_descriptor", "_empty", "_pid")

    def __init__(self, descriptor: int, empty: bool) -> None:
        self._descriptor = descriptor
        self._empty = empty
        self._pid = os.getpid()
        with _held_guard:
            _held.add(descriptor)

    def content(self) -> bytes:
        """Returns the content of its file."""
        # Whether there was nothing in the file when it was locked.
        if self._empty:
            return b""
        try:
            return os.pread(self._descriptor, MAX_CONTENT, 0)
        except OSError as error:
            raise _failed(error) from error

    def set_content(self, content: bytes) -> None:
        """Replaces the content of its file."""
        if len(content) > MAX_CONTENT:
            raise LockRefused("refused", f"a lock's file holds at most {MAX_CONTENT} bytes")
        try:
            written = 0
            while written < len(content):
                written += os.pwrite(self._descriptor, content[written:], written)
            os.ftruncate(self._descriptor, len(content))
        except OSError as error:
            raise _failed(error) from error

    def release(self) -> None:
        """Releases it; its file stays."""
        if self._pid != os.getpid():
            # Closed already, and the number may be another file's by now.
            return
        with _held_guard:
            if self._descriptor not in _held:
                return
            _held.discard(self._descriptor)
        try:
            # Not by closing alone: a child of `fork` may have it open too.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        finally:
            os.close(self._descriptor)


class Roots:
    """The directory that the `roots` import is about, or none."""

    def __init__(
        self,
        directory: int | None,
        writable: bool,
        known: _bulk.Known | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Takes a descriptor of the directory, which stays the caller's and has to outlive this.

        `tell` is told what the user is to know, once nothing could be locked.
        """
        self._tell = tell
        self._directory = directory
        self._writable = writable
        self._known = known
        # Opened once: the kernel reports a failed write-back to the descriptors that were open when it happened,
        # and a descriptor opened later may never hear of it.
        self._sync: int | None = None
        if directory is not None:
            self._sync = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)

    def close(self) -> None:
        """Closes what it opened."""
        if self._sync is not None:
            os.close(self._sync)
            self._sync = None

    def acquire(self, target: tuple[str, str | None], exclusive: bool, timeout_ms: int) -> HeldLock:
        """Takes a lock, waiting for it at most so many milliseconds."""
        place = _Place(target)
        if self._directory is None:
            raise LockRefused("no-directory")
        if not self._writable:
            raise LockRefused("read-only")
        operation = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB
        deadline = time.monotonic() + timeout_ms / 1000
        pause = 0.00005
        replaced = 0
        while True:
            descriptor, opened = place.open(self._directory)
            locked = False
            try:
                fcntl.flock(descriptor, operation)
                named = place.named(self._directory, opened)
                if named is not None:
                    locked = True
                    return HeldLock(descriptor, named.st_size == 0)
                replaced += 1
                if replaced <= FREE_RETRIES:
                    continue
            except OSError as error:
                if error.errno in _UNAVAILABLE:
                    self._tell(UNLOCKED)
                    reason = f"{place.path} cannot be locked on this file system"
                    raise LockRefused("unavailable", reason) from error
                if error.errno == errno.EINTR:
                    continue
                if error.errno != errno.EWOULDBLOCK:
                    raise _failed(error) from error
            finally:
                if not locked:
                    os.close(descriptor)
            left = deadline - time.monotonic()
            if left <= 0:
                raise LockRefused("timed-out")
            time.sleep(min(pause, left))
            pause = min(pause * 2, LONGEST_PAUSE)

    def sync(self) -> str | None:
        """Makes durable what was written to the file system of the directory. Returns why not, if it failed."""
        if self._sync is None:
            return "no directory is granted"
        syncfs = _syncfs()
        if syncfs is None:
            os.sync()
            return None
        if syncfs(self._sync) == 0:
            return None
        number = ctypes.get_errno()
        return describe(OSError(number, os.strerror(number)))

    def look(self, directory: str, names: str) -> str | None:
        """Says of files in a directory what they are like: see `_bulk`."""
        return None if self._directory is None else _bulk.look(self._directory, directory, names)

    def read(self, directory: str, names: str) -> _bulk.Reader | None:
        """Begins to read files in a directory: see `_bulk`."""
        return None if self._directory is None else _bulk.read(self._directory, directory, names)

    def digest(self, directory: str, name: str) -> str | None:
        """Hashes a file in a directory: see `_bulk`."""
        return None if self._directory is None else _bulk.digest(self._directory, directory, name, self._known)

    def listing(self, directory: str) -> str | None:
        """Lists a directory: see `_bulk`."""
        return None if self._directory is None else _bulk.listing(self._directory, directory)

    def identity(self) -> dict[str, object]:
        """Says which machine, boot and directory this is."""
        machine, boot = _tokens()
        found = None
        if self._directory is not None:
            try:
                found = os.fstat(self._directory)
            except OSError:
                # Zero says that it is not known.
                found = None
        return {
            "machine": machine,
            "boot": boot,
            "device": found.st_dev if found else 0,
            "inode": found.st_ino if found else 0,
        }


class _Place:
    """Where a lock's file is, below the granted directory."""

    __slots__ = ("directory", "file", "path")

    def __init__(self, target: tuple[str, str | None]) -> None:
        kind, name = target
        self.directory = ".locks" if kind == "run" else ".index"
        name = "maintenance" if name is None else name
        harmless = (
            name != ""
            and len(name.encode()) <= MAX_NAME
            and not name.startswith(".")
            and not any(c in "/\\" or unicodedata.category(c) == "Cc" for c in name)
        )
        if not harmless:
            raise LockRefused("refused", f"{name!r} is not the name of a file")
        self.file = f"{name}.lock"
        # Both, joined: to look at, never to open.
        self.path = f"{self.directory}/{self.file}"

    def open(self, root: int) -> tuple[int, os.stat_result]:
        """Opens the file, and creates it if it is missing.

        Each of the two steps is one name without a `/`, and neither follows a link: nothing outside the granted
        directory can be reached.
        """
        try:
            directory = os.open(self.directory, _DIRECTORY, dir_fd=root)
        except FileNotFoundError as error:
            raise LockRefused("no-directory") from error
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise LockRefused("refused", f"{self.directory} is not a directory") from error
            raise _failed(error) from error
        try:
            # What is no file is not opened: opening alone does something to some devices.
            self._refuse(_mode_of(self.file, directory))
            descriptor = os.open(self.file, _FILE, 0o666, dir_fd=directory)
        except FileNotFoundError as error:
            # The directory was removed meanwhile.
            raise LockRefused("no-directory") from error
        except OSError as error:
            what = {
                errno.ELOOP: "a symbolic link",
                errno.EISDIR: "a directory",
                errno.ENXIO: "not a regular file",
            }.get(error.errno or 0)
            if what is not None:
                raise LockRefused("refused", f"{self.path} is {what}") from error
            raise _failed(error) from error
        finally:
            os.close(directory)
        try:
            opened = os.fstat(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise _failed(error) from error
        try:
            # It may have taken the file's place since.
            self._refuse(opened.st_mode)
        except LockRefused:
            os.close(descriptor)
            raise
        return descriptor, opened

    def _refuse(self, mode: int | None) -> None:
        """Refuses what is no regular file."""
        if mode is None or stat.S_ISREG(mode):
            return
        what = _KINDS.get(stat.S_IFMT(mode), "not a regular file")
        raise LockRefused("refused", f"{self.path} is {what}")

    def named(self, root: int, opened: os.stat_result) -> os.stat_result | None:
        """Looks at the file again, if the name still leads to the one that was opened.

        A reference delete unlinks it, and a lock on a file without a name excludes nobody.
        """
        try:
            named = os.stat(self.path, dir_fd=root, follow_symlinks=False)
        except OSError:
            return None
        same = (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
        return named if same else None


def _mode_of(name: str, directory: int) -> int | None:
    """Returns what kind of thing a name in a directory is; none where that cannot be told."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except OSError:
        return None


def utc_offset(at_seconds: int) -> int:
    """Returns the local time zone's offset from UTC in seconds, at a time in seconds since 1970."""
    try:
        offset = datetime.fromtimestamp(at_seconds, timezone.utc).astimezone().utcoffset()
    except (ValueError, OverflowError, OSError):
        return 0
    return 0 if offset is None else int(offset.total_seconds())


@cache
def _syncfs() -> Callable[[int], int] | None:
    # The library of the process itself. Not every C library has the function.
    try:
        function = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int]
    function.restype = ctypes.c_int
    found: Callable[[int], int] = function
    return found


@cache
def _tokens() -> tuple[str, str]:
    """Returns the tokens of the machine and of its boot. They are read once: they do not change."""
    return _token("/etc/machine-id"), _token("/proc/sys/kernel/random/boot_id")


def _token(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""
    # In containers the file is often there, and empty: that is no machine's id. And the id itself is not to be shown
    # to others as it is.
    return hashlib.sha256(text.encode()).hexdigest()[:32] if text else ""
