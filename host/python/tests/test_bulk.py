"""Listing, looking at and reading many files in one call."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalab_store._artifacts import place
from metalab_store._bulk import MAX_DIGEST, MAX_NAMES, Known
from metalab_store._roots import Roots


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A directory to be granted, beside one of which nothing may be seen."""
    inside = tmp_path / "in"
    (inside / "runs").mkdir(parents=True)
    (inside / "deep" / "er").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "secret").write_text("secret")
    return inside


@pytest.fixture
def roots(inside: Path) -> Iterator[Roots]:
    descriptor = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    roots = Roots(descriptor, writable=False)
    yield roots
    roots.close()
    os.close(descriptor)


def line(path: Path) -> str:
    found = path.lstat()
    return f"{found.st_size} {found.st_nlink} {found.st_mtime_ns} {found.st_ctime_ns}\n"


def read(roots: Roots, directory: str, names: str) -> tuple[str, int] | None:
    """Reads files to the end, and says in how many pages."""
    reader = roots.read(directory, names)
    if reader is None:
        return None
    pages = list(iter(reader.next, ""))
    reader.close()
    return "".join(pages), len(pages)


def test_files_are_listed_looked_at_and_read_in_the_order_of_their_names(inside: Path, roots: Roots) -> None:
    runs = inside / "runs"
    (runs / "b.json").write_text("{\n}")
    (runs / "a.json").write_text("")
    (inside / "deep/er/ä").write_text("ö", encoding="utf-8")
    assert sorted((roots.listing("runs") or "").split("/")) == ["", "fa.json", "fb.json"]
    assert roots.listing("deep") == "der/"
    a, b = line(runs / "a.json"), line(runs / "b.json")
    assert roots.look("runs", "b.json/none/a.json") == f"{b}-\n{a}"
    assert read(roots, "runs", "b.json/none/a.json") == (f"{b}{{\n}}\n-\n{a}\n", 1)
    assert read(roots, "deep/er", "ä") == (f"{line(inside / 'deep/er/ä')}ö\n", 1)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 1_000_001])
def test_a_file_of_any_bytes_is_hashed(inside: Path, roots: Roots, content: bytes) -> None:
    path = inside / "runs" / "a"
    path.write_bytes(content)
    (inside / "runs" / "link").symlink_to("a")
    assert roots.digest("runs", "a") == f"{line(path)[:-1]} {hashlib.sha256(content).hexdigest()}"
    (inside / "runs" / "large").touch()
    os.truncate(inside / "runs" / "large", MAX_DIGEST + 1)
    for name in ["large", "link", "none", "..", "", "../runs/a"]:
        assert roots.digest("runs", name) is None
    assert roots.digest("..", "in") is None


@pytest.mark.parametrize("size", [0, 1, 1 << 20, 20_000_001])
def test_the_hash_of_what_was_placed_is_known_until_it_is_asked_for_or_the_file_changes(inside: Path, size: int) -> None:
    known: Known = {}
    content = os.urandom(size)
    (inside / "source").write_bytes(content)
    descriptor = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    source = os.open(inside / "source", os.O_RDONLY)
    roots = Roots(descriptor, False, known)
    hashed = hashlib.sha256(content).hexdigest()
    try:
        for name, given in (("runs/bytes", content), ("runs/copy", source)):
            placed = place(descriptor, name, given, known, durable=True)
            assert known[placed] == hashed
            # Nobody reads it again: it would not tell this.
            known[placed] = "known"
            assert (roots.digest("runs", name[5:]) or "").endswith(" known")
            assert known == {} and (roots.digest("runs", name[5:]) or "").endswith(f" {hashed}")
            assert (inside / name).read_bytes() == content
        os.lseek(source, 0, os.SEEK_SET)
        place(descriptor, "runs/changed", source, known)
        (inside / "runs/changed").write_bytes(content + b"x")
        now = hashlib.sha256(content + b"x").hexdigest()
        assert (roots.digest("runs", "changed") or "").endswith(f" {now}")
        with pytest.raises(OSError):
            place(descriptor, "runs/changed", source, known)
    finally:
        roots.close()
        os.close(descriptor)
        os.close(source)


def test_many_files_come_in_pages_and_all_of_them(inside: Path, roots: Roots) -> None:
    names = [f"{run:04}.json" for run in range(2000)]
    expected = ""
    for name in names:
        path = inside / "runs" / name
        path.write_text(name * 100)
        expected += f"{line(path)}{name * 100}\n"
    found = read(roots, "runs", "/".join(names))
    assert found is not None
    assert found[0] == expected
    assert found[1] > 4


def test_what_is_no_regular_file_is_told_apart_and_never_opened(inside: Path, roots: Roots) -> None:
    runs = inside / "runs"
    (runs / "directory").mkdir()
    (runs / "link").symlink_to("../../out/secret")
    # Who opened this to read would wait for ever.
    os.mkfifo(runs / "fifo")
    (runs / "bytes").write_bytes(b"\xff\xfe")
    (runs / "large").write_bytes(b"x" * ((1 << 20) + 1))
    (runs / os.fsdecode(b"\xff")).touch()
    assert sorted((roots.listing("runs") or "").split("/")) == ["", "!", "ddirectory", "fbytes", "flarge", "llink", "ofifo"]
    assert roots.look("runs", "directory/link/fifo") == "?\n?\n?\n"
    assert read(roots, "runs", "directory/link/fifo/bytes/large") == ("?\n?\n?\n?\n?\n", 1)


@pytest.mark.parametrize(
    "directory",
    ["", ".", "..", "../out", "runs/../../out", "/", "/etc", "link", "root", "root/etc", "runs/", "runs//", "none", "a\0b"],
)
def test_nothing_but_a_directory_below_the_granted_one_is_looked_at(inside: Path, roots: Roots, directory: str) -> None:
    (inside / "link").symlink_to("../out")
    (inside / "root").symlink_to("/")
    assert roots.listing(directory) is None
    assert roots.look(directory, "secret") is None
    assert roots.read(directory, "secret") is None


@pytest.mark.parametrize("names", ["", ".", "..", "a//b", "../x", "a/../b", "/", "a\0", "/".join(["a"] * (MAX_NAMES + 1))])
def test_nothing_but_names_is_looked_at(roots: Roots, names: str) -> None:
    assert roots.look("runs", names) is None
    assert roots.read("runs", names) is None
