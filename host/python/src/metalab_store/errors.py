"""Why a call failed: one class for each case of the contract, with its data, and the host's own.

The message is the component's, word for word: it names the thing, the place and, if there is one, the way out.
Where Python has an exception of its own for the case, the class is one of those too.
"""

from __future__ import annotations

import errno as _errno
from typing import Any


class StoreError(Exception):
    """A call of a store failed. `code` names the kind of failure, the same in every host."""

    code: str = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        # KeyError and OSError have their own idea of it.
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.message, self.__dict__)


def _restore(kind: type[StoreError], message: str, data: dict[str, Any]) -> StoreError:
    error = kind(message)
    error.__dict__.update(data)
    return error


class _NameError(StoreError):
    #: What the name is one of: `run`, `experiment`, `artifact`, `result`, `log`, …
    kind: str = ""
    #: The name as it was given.
    name: str = ""


class InvalidNameError(_NameError, ValueError):
    """A name is not a safe name. Nothing was touched."""

    code = "invalid-name"


class InvalidArgumentError(StoreError, ValueError):
    """An argument other than a name cannot be used. Nothing was touched."""

    code = "invalid-argument"


class InvalidTypeError(InvalidArgumentError, TypeError):
    """An argument is of a type that cannot be used. Nothing was touched."""


class SourceError(InvalidArgumentError, OSError):
    """The file that an artifact is to be copied from cannot be opened. Nothing was touched."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """The file that an artifact is to be copied from is not there. Nothing was touched."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = _errno.ENOENT


class NotFoundError(_NameError, KeyError):
    """What the call needs is not there."""

    code = "not-found"


class ArtifactNotFoundError(NotFoundError, FileNotFoundError):
    """The artifact is not there."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = _errno.ENOENT


class AlreadyExistsError(StoreError, ValueError):
    """What the call would create is there already."""

    code = "already-exists"


class ConflictError(StoreError, ValueError):
    """The call would undo a write that it does not know of, or has no single answer."""

    code = "conflict"
    #: The revision that is there now, if a revision was required and something is there.
    current: str | None = None


class CorruptError(StoreError, ValueError):
    """A file is damaged."""

    code = "corrupt"
    #: The file, relative to the store's directory.
    file: str = ""
    #: The byte offset of the problem, where there is one.
    offset: int | None = None


class UnrepresentableError(CorruptError):
    """A file is sound, but holds a value that the typed form cannot."""

    code = "unrepresentable"


class LockedError(StoreError, TimeoutError):
    """A lock was held by somebody else until the deadline."""

    code = "locked"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = _errno.EWOULDBLOCK


class LocksUnavailableError(StoreError, OSError):
    """The file system has no working locks, and the call needs them."""

    code = "locks-unavailable"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = _errno.ENOLCK


class ReadOnlyError(StoreError, PermissionError):
    """The store was opened read-only, or lies on a read-only file system."""

    code = "read-only"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = _errno.EROFS


class DatabaseError(StoreError):
    """The database refused or did not answer."""

    code = "database"
    #: The SQLSTATE, if the server answered.
    sqlstate: str | None = None
    #: Whether the same call may succeed later.
    retryable: bool = False


class NotGrantedError(StoreError, PermissionError):
    """The host granted no such directory or binding."""

    code = "not-granted"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = _errno.EACCES


class InvalidQueryError(StoreError, ValueError):
    """A query cannot be understood."""

    code = "invalid-query"
    #: Where in the text, in bytes of UTF-8.
    position: int = 0


class TooLargeError(StoreError, ValueError):
    """A value is larger than the store takes in one piece."""

    code = "too-large"


class IoError(StoreError, OSError):
    """The operating system reported an error."""

    code = "io"
    #: The file or directory, relative to the store's directory.
    file: str = ""
    #: The operation that failed, for instance `open` or `rename`.
    operation: str = ""
    #: The reason as a WASI error code, for instance `insufficient-space`.
    reason: str = ""
    #: Whether the write may or may not have happened: read before writing again.
    outcome_unknown: bool = False


class RootError(StoreError, OSError):
    """The store's directory cannot be opened."""

    code = "root"


class ClosedError(StoreError, ValueError):
    """The store was closed."""

    code = "closed"

    def __init__(self, message: str = "the store is closed") -> None:
        super().__init__(message)


class LimitExceededError(StoreError, RuntimeError):
    """The component used more memory or time than it may. The store goes on with a fresh instance."""

    code = "limit-exceeded"

    def __init__(self, message: str) -> None:
        super().__init__(message)


class TrapError(StoreError, RuntimeError):
    """The component failed. The store goes on with a fresh instance; whether the call had an effect is not known."""

    code = "trap"


class PluginMissingError(StoreError, OSError):
    """The plugin cannot be read."""

    code = "plugin-missing"


class PluginWorldError(StoreError, ValueError):
    """The file is no plugin: no component, or one that imports or exports something else."""

    code = "plugin-world"


class PluginVersionError(StoreError, ValueError):
    """The plugin was made for another version of the contract."""

    code = "plugin-version"


class EngineError(StoreError, RuntimeError):
    """The host failed: the component cannot be compiled, linked or started."""

    code = "engine"


#: The error numbers of WASI's error codes, where Linux has one of the same meaning.
_ERRNO = {
    "access": _errno.EACCES,
    "bad-descriptor": _errno.EBADF,
    "busy": _errno.EBUSY,
    "cross-device": _errno.EXDEV,
    "exist": _errno.EEXIST,
    "file-too-large": _errno.EFBIG,
    "insufficient-memory": _errno.ENOMEM,
    "insufficient-space": _errno.ENOSPC,
    "interrupted": _errno.EINTR,
    "invalid": _errno.EINVAL,
    "io": _errno.EIO,
    "is-directory": _errno.EISDIR,
    "loop": _errno.ELOOP,
    "name-too-long": _errno.ENAMETOOLONG,
    "no-entry": _errno.ENOENT,
    "no-lock": _errno.ENOLCK,
    "not-directory": _errno.ENOTDIR,
    "not-empty": _errno.ENOTEMPTY,
    "not-permitted": _errno.EPERM,
    "quota": _errno.EDQUOT,
    "read-only": _errno.EROFS,
    "too-many-links": _errno.EMLINK,
    "unsupported": _errno.ENOTSUP,
}

_PLAIN: dict[str, type[StoreError]] = {
    "invalid-argument": InvalidArgumentError,
    "already-exists": AlreadyExistsError,
    "locked": LockedError,
    "locks-unavailable": LocksUnavailableError,
    "read-only": ReadOnlyError,
    "not-granted": NotGrantedError,
    "too-large": TooLargeError,
}


def from_wire(error: tuple[str, Any]) -> StoreError:
    """Returns the exception for an error of the contract: the one place that converts them."""
    code, data = error
    if (plain := _PLAIN.get(code)) is not None:
        return plain(data)
    message: str = data["message"]
    made: StoreError
    match code:
        case "invalid-name":
            made = InvalidNameError(message)
            made.kind, made.name = data["kind"], data["name"]
        case "not-found":
            kind = data["kind"]
            made = (ArtifactNotFoundError if kind == "artifact" else NotFoundError)(message)
            made.kind, made.name = kind, data["name"]
        case "conflict":
            made = ConflictError(message)
            made.current = data["current"]
        case "corrupt" | "unrepresentable":
            made = (CorruptError if code == "corrupt" else UnrepresentableError)(message)
            made.file, made.offset = data["file"], data["offset"]
        case "database":
            made = DatabaseError(message)
            made.sqlstate, made.retryable = data["sqlstate"], data["retryable"]
        case "invalid-query":
            made = InvalidQueryError(message)
            made.position = data["position"]
        case "io":
            made = IoError(message)
            made.file, made.operation = data["file"], data["operation"]
            made.reason, made.outcome_unknown = data["code"], data["outcome-unknown"]
            made.errno = _ERRNO.get(made.reason)
        case _:
            made = StoreError(message)
            made.code = code
    return made
