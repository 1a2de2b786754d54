"""Locks, sync and identity, as the Rust host has them."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalab_store._grant import Grant
from metalab_store._roots import LockRefused, Roots, utc_offset
from metalab_store.errors import RootError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / ".locks").mkdir()
    (tmp_path / ".index").mkdir()
    return tmp_path


@pytest.fixture
def roots(directory: Path) -> Iterator[list[Roots]]:
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    made = [Roots(descriptor, True), Roots(descriptor, True)]
    yield made
    for one in made:
        one.close()
    os.close(descriptor)


def refused(roots: Roots, target: tuple[str, str | None], exclusive: bool = True) -> str:
    with pytest.raises(LockRefused) as info:
        roots.acquire(target, exclusive, 1).release()
    return info.value.case


def test_a_run_is_locked_by_one_holder_at_a_time_and_free_after_it(roots: list[Roots]) -> None:
    held = roots[0].acquire(("run", "a"), True, 0)
    assert refused(roots[1], ("run", "a")) == "timed-out"
    roots[1].acquire(("run", "b"), True, 0).release()
    held.release()
    roots[1].acquire(("run", "a"), True, 0).release()


def test_shared_holders_exclude_only_an_exclusive_one(roots: list[Roots]) -> None:
    one = roots[0].acquire(("maintenance", None), False, 0)
    other = roots[1].acquire(("maintenance", None), False, 0)
    assert refused(roots[1], ("maintenance", None)) == "timed-out"
    one.release()
    other.release()


def test_the_lock_excludes_a_plain_flock_on_the_same_file(directory: Path, roots: list[Roots]) -> None:
    with open(directory / ".locks/a.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert refused(roots[0], ("run", "a")) == "timed-out"
    roots[0].acquire(("run", "a"), True, 0).release()


def test_a_lock_on_a_file_that_was_unlinked_meanwhile_does_not_count(directory: Path, roots: list[Roots]) -> None:
    path = directory / ".locks/a.lock"
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting = threading.Thread(target=lambda: held.append(roots[0].acquire(("run", "a"), True, 10_000)))
        held: list[object] = []
        waiting.start()
        # Whoever waits has the old file open; the one of the name is another, and free.
        path.unlink()
        path.touch()
        waiting.join()
    assert refused(roots[1], ("run", "a")) == "timed-out"
    held[0].release()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a", "a\\b", "a\nb", "a\0b", "é" * 126])
def test_a_name_that_is_no_file_name_is_refused(directory: Path, roots: list[Roots], name: str) -> None:
    assert refused(roots[0], ("run", name)) == "refused"
    assert refused(roots[0], ("segment", name)) == "refused"
    assert list((directory / ".locks").iterdir()) == []


def test_links_directories_and_fifos_are_refused_and_nothing_is_touched(directory: Path, roots: list[Roots]) -> None:
    outside = directory / "outside"
    (directory / ".locks/link.lock").symlink_to(outside)
    (directory / ".locks/directory.lock").mkdir()
    os.mkfifo(directory / ".locks/fifo.lock")
    for name in ("link", "directory", "fifo"):
        assert refused(roots[0], ("run", name)) == "refused"
    assert not outside.exists()


def test_what_lies_in_the_place_of_a_lock_s_file_and_is_none_is_named_and_not_opened(
    directory: Path, roots: list[Roots]
) -> None:
    locks = directory / ".locks"
    os.mkfifo(locks / "fifo.lock")
    (locks / "directory.lock").mkdir()
    (locks / "link.lock").symlink_to("x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(locks / "socket.lock"))
    kinds = {"fifo": "a FIFO", "directory": "a directory", "link": "a symbolic link", "socket": "a socket"}
    try:
        # A number that no driver has, so that opening it would be another error; only root may make one.
        os.mknod(locks / "device.lock", 0o600 | stat.S_IFCHR, os.makedev(511, 1))
        kinds["device"] = "a device"
    except PermissionError:
        print("no device was tried: it takes root to make one")
    for name, what in kinds.items():
        with pytest.raises(LockRefused) as refusal:
            roots[0].acquire(("run", name), True, 0)
        assert (refusal.value.case, refusal.value.reason) == ("refused", f".locks/{name}.lock is {what}")


def test_a_directory_of_locks_that_is_a_link_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    outside = tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / ".locks").symlink_to(outside)
    descriptor = os.open(inside, os.O_PATH | os.O_DIRECTORY)
    roots = Roots(descriptor, True)
    assert refused(roots, ("run", "a")) == "refused"
    assert list(outside.iterdir()) == []
    roots.close()
    os.close(descriptor)


def test_without_its_directory_a_lock_is_not_taken_and_nothing_is_created(directory: Path, roots: list[Roots]) -> None:
    (directory / ".locks").rmdir()
    assert refused(roots[0], ("run", "a")) == "no-directory"
    assert not (directory / ".locks").exists()


def test_a_read_only_directory_and_none_at_all_give_no_lock(directory: Path) -> None:
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    roots = Roots(descriptor, False)
    assert refused(roots, ("run", "a")) == "read-only"
    assert refused(Roots(None, True), ("run", "a")) == "no-directory"
    assert list((directory / ".locks").iterdir()) == []
    roots.close()
    os.close(descriptor)


def test_the_content_of_a_locks_file_is_replaced_whole_and_read_by_the_next(roots: list[Roots]) -> None:
    held = roots[0].acquire(("run", "a"), True, 0)
    assert held.content() == b""
    held.set_content(b"a long content")
    held.set_content(b"short")
    with pytest.raises(LockRefused, match="at most 4096"):
        held.set_content(b"x" * 4097)
    held.release()
    held = roots[1].acquire(("run", "a"), True, 0)
    assert held.content() == b"short"
    held.release()


def test_a_lock_of_a_parent_is_not_kept_by_its_child(roots: list[Roots]) -> None:
    held = roots[0].acquire(("run", "a"), True, 0)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    held.release()
    roots[1].acquire(("run", "a"), True, 0).release()
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0


def test_the_identity_is_that_of_the_directory_and_of_this_machine(directory: Path, roots: list[Roots]) -> None:
    found = directory.stat()
    identity = roots[0].identity()
    assert (identity["device"], identity["inode"]) == (found.st_dev, found.st_ino)
    assert roots[1].identity() == identity
    assert roots[0].sync() is None


def test_the_offset_follows_the_zone_and_its_summer(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert utc_offset(1_767_225_600) == 3600
        assert utc_offset(1_782_864_000) == 7200
        assert utc_offset(1 << 60) == 0
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("name", ["absolute", "relative", "chain", "..", "../inner", "/etc"])
@pytest.mark.parametrize("writable", [False, True])
def test_a_subdirectory_that_leads_out_of_the_root_is_refused_for_that_reason(
    tmp_path: Path, name: str, writable: bool
) -> None:
    (tmp_path / "inner").mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / "absolute").symlink_to(tmp_path)
    (root / "relative").symlink_to("../inner")
    (root / "chain").symlink_to("absolute")
    with pytest.raises(RootError, match="it leads outside of the store's root"):
        Grant(str(root), name, writable)


def test_a_missing_directory_is_created_to_write_and_refused_to_read(tmp_path: Path) -> None:
    root = str(tmp_path / "a/b")
    for subdirectory in (None, "exp"):
        with pytest.raises(RootError, match="there is no such directory"):
            Grant(root, subdirectory, False)
        assert list(tmp_path.iterdir()) == []
    Grant(root, "exp", True).close()
    Grant(root, "exp", False).close()


def test_a_file_in_the_place_of_a_directory_is_named_as_that(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root, subdirectory in (("file", None), ("file/below", None), ("", "file")):
        with pytest.raises(RootError, match="it is not a directory"):
            Grant(str(tmp_path / root), subdirectory, True)
