"""The `bulk` import: listing a directory, looking at many files of it, and reading them, in one call.

It gives no more than the granted directory does. What the component names is checked here again, every part of a path is
opened as one name without following a link, and only what was seen to be a regular file is opened.
"""

from __future__ import annotations

import hashlib
import os
import stat

#: The most names of one call.
MAX_NAMES = 65_536
#: The most bytes of a file that is read.
MAX_FILE = 1 << 20
#: The most bytes of a file that is hashed: nothing interrupts that.
MAX_DIGEST = 1 << 30
#: So many characters of files are given at once.
PAGE = 256 << 10

_KIND = 0o170000
_REGULAR = stat.S_IFREG

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def look(root: int, directory: str, names: str) -> str | None:
    """Says of each file what it is like."""
    listed = _listed(names)
    opened = None if listed is None else _open_directory(root, directory)
    if listed is None or opened is None:
        return None
    lines: list[str] = []
    # Thousands are looked at in one call.
    look_at, add = os.stat, lines.append
    try:
        for name in listed:
            try:
                found = look_at(name, dir_fd=opened, follow_symlinks=False)
            except FileNotFoundError:
                add("-\n")
            except (OSError, ValueError):
                add("?\n")
            else:
                add(_line(found) if found.st_mode & _KIND == _REGULAR else "?\n")
    finally:
        os.close(opened)
    return "".join(lines)


def listing(root: int, directory: str) -> str | None:
    """Lists a directory."""
    path = _open_directory(root, directory)
    if path is None:
        return None
    try:
        opened = os.open(".", _LISTED, dir_fd=path)
    finally:
        os.close(path)
    try:
        with os.scandir(opened) as entries:
            return "".join([_entry(entry) for entry in entries])
    finally:
        os.close(opened)


def _entry(entry: os.DirEntry[str]) -> str:
    name = entry.name
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            return "!/"
    if entry.is_file(follow_symlinks=False):
        return f"f{name}/"
    if entry.is_symlink():
        return f"l{name}/"
    return f"d{name}/" if entry.is_dir(follow_symlinks=False) else f"o{name}/"


#: The SHA-256 of files that this host wrote itself, by what they were like then: `identified`.
Known = dict[tuple[int, ...], str]


def identified(found: os.stat_result) -> tuple[int, ...]:
    """Returns what changes whenever a file is another one, or holds something else."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def digest(root: int, directory: str, name: str, known: Known | None = None) -> str | None:
    """Says what a file is like, and what the SHA-256 of its content is.

    What is known is asked for once, and forgotten.
    """
    opened = _open_directory(root, directory) if _is_name(name) else None
    if opened is None:
        return None
    try:
        descriptor, found = _open(opened, name)
    except (OSError, ValueError):
        return None
    finally:
        os.close(opened)
    if found.st_size > MAX_DIGEST:
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if known and (hashed_before := known.pop(identified(found), None)) is not None:
            return f"{_line(found)[:-1]} {hashed_before}"
        hashed = hashlib.file_digest(file, "sha256").hexdigest()
        # What grew meanwhile is read again in another way.
        if os.fstat(file.fileno()).st_size != found.st_size or file.tell() != found.st_size:
            return None
    return f"{_line(found)[:-1]} {hashed}"


class Reader:
    """Files that are being read."""

    __slots__ = ("_directory", "_names")

    def __init__(self, directory: int, names: list[str]) -> None:
        self._directory = directory
        self._names = iter(names)

    def next(self) -> str:
        """Says of the next files what they are like, and what is in them; nothing is the end."""
        pieces: list[str] = []
        size = 0
        for name in self._names:
            try:
                piece = _read(self._directory, name)
            except FileNotFoundError:
                piece = "-\n"
            except (OSError, ValueError):
                piece = "?\n"
            pieces.append(piece)
            size += len(piece)
            if size >= PAGE:
                break
        return "".join(pieces)

    def close(self) -> None:
        """Ends it."""
        os.close(self._directory)


def read(root: int, directory: str, names: str) -> Reader | None:
    """Begins to read files."""
    listed = _listed(names)
    opened = None if listed is None else _open_directory(root, directory)
    return None if listed is None or opened is None else Reader(opened, listed)


def _listed(names: str) -> list[str] | None:
    listed = names.split("/", MAX_NAMES)
    if len(listed) > MAX_NAMES or "" in listed or "." in listed or ".." in listed or "\0" in names:
        return None
    return listed


def _is_name(name: str) -> bool:
    """Says whether a text is one name, and not a way to somewhere else."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _open_directory(root: int, path: str) -> int | None:
    """Opens a directory below the root, name by name."""
    opened = None
    for name in path.split("/"):
        above = root if opened is None else opened
        try:
            below = os.open(name, _DIRECTORY, dir_fd=above) if _is_name(name) else None
        except (OSError, ValueError):
            below = None
        if opened is not None:
            os.close(opened)
        if below is None:
            return None
        opened = below
    return opened


def _line(found: os.stat_result) -> str:
    modified, changed = found.st_mtime_ns, found.st_ctime_ns
    if modified < 0 or changed < 0:
        # A time before 1970 is none, as in the other hosts.
        modified, changed = max(modified, 0), max(changed, 0)
    return f"{found.st_size} {found.st_nlink} {modified} {changed}\n"


def _open(directory: int, name: str) -> tuple[int, os.stat_result]:
    """Opens a regular file."""
    # To open a device can do something, so it is looked at first, and once more in case that it is another by then.
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(name)
    descriptor = os.open(name, _FILE, dir_fd=directory)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(name)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, found


def _read(directory: int, name: str) -> str:
    descriptor, found = _open(directory, name)
    try:
        if found.st_size > MAX_FILE:
            return "?\n"
        # One byte more tells the end from a file that grew.
        content = bytearray()
        while piece := os.read(descriptor, found.st_size + 1 - len(content)):
            content += piece
    finally:
        os.close(descriptor)
    if len(content) != found.st_size:
        return "?\n"
    return f"{_line(found)}{content.decode()}\n"
