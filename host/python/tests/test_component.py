"""The component, and the cache of what it was compiled to."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from metalab_store import EngineError, component_bytes
from metalab_store._engine import Engine


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setenv("METALAB_STORE_CACHE", str(path))
    return path


def only(cache: Path) -> Path:
    (found,) = cache.iterdir()
    return found


def test_what_was_compiled_is_kept_for_this_user_alone_and_used_again(cache: Path) -> None:
    Engine()
    compiled = only(cache)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(compiled.stat().st_mode) == 0o600
    assert "wasmtime-50" in compiled.name
    before = compiled.stat()
    Engine()
    assert only(cache).stat().st_ino == before.st_ino


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o702])
def test_a_cache_that_others_can_use_is_not_used(cache: Path, mode: int, caplog: pytest.LogCaptureFixture) -> None:
    cache.mkdir()
    cache.chmod(mode)
    with caplog.at_level(logging.WARNING):
        Engine()
    assert list(cache.iterdir()) == []
    assert "0700" in caplog.text


def test_a_file_that_others_could_have_written_is_not_loaded(cache: Path) -> None:
    Engine()
    compiled = only(cache)
    compiled.chmod(0o666)
    before = compiled.stat().st_ino
    Engine()
    assert only(cache).stat().st_ino != before


def test_links_and_rubbish_in_the_cache_are_replaced(cache: Path, tmp_path: Path) -> None:
    Engine()
    compiled = only(cache)
    elsewhere = tmp_path / "elsewhere"
    compiled.rename(elsewhere)
    compiled.symlink_to(elsewhere)
    Engine()
    assert not only(cache).is_symlink()
    compiled.write_bytes(b"rubbish")
    Engine()
    assert only(cache).stat().st_size > 1_000_000


def test_a_cache_that_is_a_link_or_cannot_be_made_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    for path in (tmp_path / "link", Path("/proc/none/cache")):
        monkeypatch.setenv("METALAB_STORE_CACHE", str(path))
        Engine()
    assert os.listdir(tmp_path / "real") == []


def test_a_component_of_another_version_or_of_another_contract_is_named(cache: Path) -> None:
    other = component_bytes().replace(b"metalab:store/store@0.1.0", b"metalab:store/store@0.9.0")
    with pytest.raises(EngineError, match=r"metalab:store@0\.9\.0, and this host metalab:store@0\.1\.0"):
        Engine(other)
    with pytest.raises(EngineError, match="another contract"):
        Engine(bytes(wat2wasm("(component)")))
    with pytest.raises(EngineError, match="cannot be started"):
        Engine(b"no component")
