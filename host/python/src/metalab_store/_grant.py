"""What an instance is granted: one directory, by a descriptor that was opened before and is kept."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
from pathlib import Path

from wasmtime import WasiConfig, WasmtimeError

from ._bulk import Known
from ._roots import Roots, describe
from .errors import RootError

_log = logging.getLogger(__name__)

#: The name under which the component sees its directory.
GUEST_NAME = "store"

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
#: The number of the system call, which is the same on all architectures.
_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08


class _How(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class Grant:
    """A directory that instances may use."""

    def __init__(self, root: str, subdirectory: str | None, writable: bool) -> None:
        """Opens a directory to grant it. With write access, missing directories are created."""
        self.writable = writable
        self.path = root if subdirectory is None else os.path.join(root, subdirectory)
        #: The hashes of files that were placed in it and not asked for yet.
        self.known: Known = {}
        #: What the user is to know, once nothing could be locked.
        self.unlocked: str | None = None
        self._pid = os.getpid()
        self.directory = -1
        try:
            directory = _open_root(root, writable)
        except OSError as error:
            raise _refused(root, _reason(error), error) from error
        try:
            if subdirectory is not None:
                root_directory = directory
                directory = _open_below(root_directory, subdirectory, writable)
                os.close(root_directory)
        except OSError as error:
            os.close(directory)
            raise _refused(self.path, _reason(error), error) from error
        self.directory = directory
        if writable and not os.access(".", os.W_OK | os.X_OK, dir_fd=directory):
            number = errno.EACCES
            if os.statvfs(directory).f_flag & os.ST_RDONLY:
                number = errno.EROFS
            denied = OSError(number, os.strerror(number))
            self.close()
            reason = f"it cannot be written ({_reason(denied)}); it may be opened read-only"
            raise _refused(self.path, reason, denied)

    def apply(self, wasi: WasiConfig) -> None:
        """Grants the directory to an instance that is about to be made."""
        # The directory that was checked is the one that is granted, whatever its path leads to by now.
        handle = f"/proc/self/fd/{self.directory}"
        granted = handle if os.path.isdir(handle) else self.path
        try:
            wasi.preopen_dir(granted, GUEST_NAME, self.writable)
        except WasmtimeError as error:
            raise _refused(self.path, str(error), None) from error

    def roots(self) -> Roots:
        """Returns what the `roots` import of an instance works on."""
        try:
            return Roots(self.directory, self.writable, self.known, self._note)
        except OSError as error:
            raise _refused(self.path, _reason(error), error) from error

    def _note(self, unlocked: str) -> None:
        if self.unlocked is None:
            _log.warning("%s", unlocked)
        self.unlocked = unlocked

    def close(self) -> None:
        """Closes the descriptor."""
        if self.directory >= 0:
            os.close(self.directory)
            self.directory = -1

    def __del__(self) -> None:
        self.close()


def _open_root(root: str, create: bool) -> int:
    try:
        return os.open(root, _DIRECTORY)
    except FileNotFoundError:
        if not create:
            raise
    Path(root).mkdir(parents=True, exist_ok=True)
    return os.open(root, _DIRECTORY)


def _open_below(root: int, name: str, create: bool) -> int:
    try:
        return _beneath(root, name)
    except FileNotFoundError:
        if not create:
            raise
    try:
        os.mkdir(name, dir_fd=root)
    except FileExistsError:
        # Somebody else opens the same experiment for the first time; or it is a link to nothing.
        pass
    return _beneath(root, name)


def _beneath(root: int, name: str) -> int:
    """Opens a directory below another: links are followed as long as they do not lead out of it."""
    how = _How(_DIRECTORY, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    libc = ctypes.CDLL(None, use_errno=True)
    opened = libc.syscall(
        ctypes.c_long(_OPENAT2), root, os.fsencode(name), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
    )
    if opened >= 0:
        return int(opened)
    number = ctypes.get_errno()
    # An old kernel, or a sandbox that knows the call not yet: then no link at all is followed.
    if number in (errno.ENOSYS, errno.EPERM) and name not in (".", "..") and "/" not in name:
        try:
            return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
        except NotADirectoryError:
            if os.path.islink(f"/proc/self/fd/{root}/{name}"):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV)) from None
            raise
    raise OSError(number, os.strerror(number))


def _refused(path: str, reason: str, error: OSError | None) -> RootError:
    made = RootError(f"cannot open the store {path}: {reason}")
    made.errno = None if error is None else error.errno
    made.filename = path
    return made


def _reason(error: OSError) -> str:
    """Says in words why a directory cannot be opened."""
    match error.errno:
        case errno.ENOENT:
            return "there is no such directory"
        case errno.ENOTDIR:
            return "it is not a directory"
        case errno.EEXIST:
            return "a file is in its place"
        case errno.EXDEV:
            return "it leads outside of the store's root"
        case errno.EACCES | errno.EPERM:
            return "access is denied"
        case errno.EROFS:
            return "the file system is read-only"
        case _:
            return describe(error)
