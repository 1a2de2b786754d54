"""Artifacts: read as binary files, and copied from files."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import io
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

from ._bulk import Known, identified
from ._instance import Resource
from ._roots import describe
from .errors import InvalidArgumentError, InvalidTypeError, IoError, SourceError, SourceNotFoundError

#: The most bytes that cross into or out of the component in one call.
CHUNK = 256 * 1024
#: How much is copied at once, and how many of these pieces may wait to be hashed.
_PIECE = 1 << 20
_BEHIND = 8
_SYNC_FILE_RANGE_WRITE = 2
_FICLONE = 0x40049409


class ArtifactReader(io.RawIOBase):
    """An artifact open for reading. It lives in the store: after its `close` reads are `ClosedError`."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._position = 0
        self.size: int = resource.call_plain("[method]artifact-reader.size")

    def descriptor(self) -> dict[str, Any] | None:
        """Returns its descriptor as the contract has it, if the run's artifact manifest has one for this file."""
        found: dict[str, Any] | None = self._resource.call_plain("[method]artifact-reader.descriptor")
        return found

    def read_at(self, offset: int, length: int) -> bytes:
        """Reads from a byte offset: at most `length` bytes, or 256 KiB. Empty at and beyond the end."""
        length = min(length, CHUNK)
        # A text crosses in one piece, a list of bytes a value at a time.
        text: str = self._resource.call("[method]artifact-reader.read-text", offset, length)
        content = text.encode("latin-1")
        # The length is the component's: more than was asked for would not fit the caller's buffer.
        return content[:length]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if not view:
            return 0
        content = self.read_at(self._position, len(view))
        view[: len(content)] = content
        self._position += len(content)
        return len(content)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError("negative seek position")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if not self.closed:
            self._resource.close()
        super().close()


def open_source(path: str | os.PathLike[str]) -> int:
    """Opens the file that an artifact is to be copied from. `SourceNotFoundError` if there is none."""
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidTypeError(f"the artifact: expected bytes or a path, not {type(path).__name__}")
    refused = f"cannot read the artifact's source {os.fspath(path)}"
    try:
        # Opening a FIFO without a writer must not block, and what was opened is what is looked at.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        kind = SourceNotFoundError if isinstance(error, FileNotFoundError) else SourceError
        failed = kind(f"{refused}: {describe(error)}")
        failed.errno, failed.filename = error.errno, error.filename
        raise failed from error
    except ValueError as error:
        raise InvalidArgumentError(f"{refused}: {error}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidArgumentError(f"{refused}: it is not a regular file")
    return descriptor


def place(
    directory: int, name: str, source: int | bytes, known: Known | None = None, *, durable: bool = False
) -> tuple[int, ...]:
    """Copies a file, or writes bytes, to a name in the store's directory that must not exist.

    Notes the hash of what was written in `known`, and returns under what. With `durable`, the
    system begins to write it to the disk at once: it will be synced.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    parent, _, file = name.rpartition("/")
    try:
        below = _descend(directory, parent)
        try:
            target = os.open(file, flags, 0o666, dir_fd=below)
            try:
                hashed = _fill(target, source, durable)
                placed = identified(os.fstat(target))
                if known is not None and hashed is not None:
                    known[placed] = hashed
                return placed
            except BaseException:
                os.unlink(file, dir_fd=below)
                raise
            finally:
                os.close(target)
        finally:
            os.close(below)
    except OSError as error:
        message = f"cannot copy the artifact into the store's file {name}: {describe(error)}"
        failed = IoError(message)
        failed.file, failed.operation, failed.errno = name, "copy", error.errno
        failed.reason = _WASI_CODES.get(error.errno or 0, "io")
        raise failed from error


def _descend(directory: int, path: str) -> int:
    """Opens a directory below another, one name at a time, through no link and no `..`."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    below = os.dup(directory)
    for name in filter(None, path.split("/")):
        try:
            if name == "..":
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            deeper = os.open(name, flags, dir_fd=below)
        finally:
            os.close(below)
        below = deeper
    return below


def _fill(target: int, source: int | bytes, durable: bool) -> str | None:
    """Writes what is to be there, and returns its SHA-256, unless it was not looked at."""
    if isinstance(source, int):
        try:
            # A file system that shares blocks needs no copy; any reason why not is a reason to copy.
            fcntl.ioctl(target, _FICLONE, source)
            return None
        except OSError:
            pass
    begin = _write_back() if durable else None
    hashed = _Hashed(target)
    # Hashing takes longer than copying, and both work without the lock of Python's interpreter.
    with ThreadPoolExecutor(1) as hasher:
        behind: deque[Future[None]] = deque()
        written = 0
        for length in _written(target, source):
            behind.append(hasher.submit(hashed.update, length))
            if begin is not None:
                begin(target, written, length, _SYNC_FILE_RANGE_WRITE)
            written += length
            if len(behind) > _BEHIND:
                behind.popleft().result()
        for piece in behind:
            piece.result()
    return hashed.hexdigest()


def _written(target: int, source: int | bytes) -> Iterator[int]:
    """Writes a piece after the other, and says how long each is."""
    if isinstance(source, int):
        # Within the kernel. What comes of a file that changes meanwhile is in the target, and hashed there.
        while length := os.sendfile(target, source, None, _PIECE):
            yield length
        return
    view = memoryview(source)
    while view:
        length = os.write(target, view[:_PIECE])
        yield length
        view = view[length:]


class _Hashed:
    """The SHA-256 of a file that is being written, as it is there."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._hashed = hashlib.sha256()
        self._at = 0
        self._piece = memoryview(bytearray(_PIECE))

    def update(self, length: int) -> None:
        """Hashes what was written next."""
        end = self._at + length
        while self._at < end:
            read = os.preadv(self._file, [self._piece[: end - self._at]], self._at)
            if read == 0:
                raise OSError(errno.EIO, "the file became shorter while it was written")
            self._hashed.update(self._piece[:read])
            self._at += read

    def hexdigest(self) -> str:
        """Returns it, in hexadecimal."""
        return self._hashed.hexdigest()


@cache
def _write_back() -> Callable[[int, int, int, int], int] | None:
    """Returns the function of the C library that begins to write a part of a file to the disk, if it has one."""
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is None:
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    function.restype = ctypes.c_int
    found: Callable[[int, int, int, int], int] = function
    return found


_WASI_CODES = {
    errno.ENOSPC: "insufficient-space",
    errno.EDQUOT: "quota",
    errno.EFBIG: "file-too-large",
    errno.EACCES: "access",
    errno.EPERM: "access",
    errno.EROFS: "read-only",
    errno.EEXIST: "exist",
    errno.ENOENT: "no-entry",
}
