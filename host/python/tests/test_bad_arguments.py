"""What cannot be used as an argument is an exception of Python's own kind and has the contract's code; nothing was touched."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import metalab_store as m
from metalab_store import ArtifactDescriptor, FileStore, FileStoreConfig, RunRecord

#: A call of a store that cannot be made.
Call = Callable[[FileStore], Any]

DESCRIPTOR = ArtifactDescriptor("id", "x", "blob", "bin", metadata={"_run_id": "a"})


def record(**more: Any) -> RunRecord:
    return RunRecord.success(run_id="a", experiment_id="exp:1", **more)


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


WRONG_TYPES: dict[str, Call] = {
    "record none": lambda store: store.put_run_record(None),
    "record dict": lambda store: store.put_run_record({"run_id": "a"}),
    "record tags": lambda store: store.put_run_record(record(tags=5)),
    "record metric": lambda store: store.put_run_record(record(metrics={"a": object()})),
    "record keys": lambda store: store.put_run_record(record(params_resolved={1: 1, "a": 2})),
    "record artifacts": lambda store: store.put_run_record(record(artifacts=[5])),
    "records": lambda store: store.put_run_records(None),  # type: ignore[arg-type]
    "one of the records": lambda store: store.put_run_records([None]),
    "record text": lambda store: store.put_run_text(b"{}"),  # type: ignore[arg-type]
    "expect": lambda store: store.put_run_record(record(), expect=0),  # type: ignore[arg-type]
    "run": lambda store: store.get_run_record(5),  # type: ignore[arg-type]
    "experiment": lambda store: store.list_run_records(5),  # type: ignore[arg-type]
    "filter": lambda store: store.query(5),  # type: ignore[arg-type]
    "columns": lambda store: store.query(columns=5),  # type: ignore[arg-type]
    "a column": lambda store: store.query(columns=[5]),  # type: ignore[list-item]
    "limit": lambda store: store.query(limit="x"),  # type: ignore[arg-type]
    "derived": lambda store: store.put_derived("a", {"x": {1}}),
    "shape": lambda store: store.put_result("a", "r", 1, shape=5),  # type: ignore[arg-type]
    "a size": lambda store: store.put_result("a", "r", 1, shape=["x"]),  # type: ignore[list-item]
    "dtype": lambda store: store.put_result("a", "r", 1, dtype=5),  # type: ignore[arg-type]
    "log": lambda store: store.put_log("a", "l", b"x"),  # type: ignore[arg-type]
    "offset": lambda store: store.read_log("a", "l", 1.5),  # type: ignore[arg-type]
    "artifact": lambda store: store.put_artifact(5, DESCRIPTOR),  # type: ignore[arg-type]
    "descriptor": lambda store: store.put_artifact(b"", None),
    "descriptor's size": lambda store: store.put_artifact(b"", replace(DESCRIPTOR, size_bytes="x")),
    "scope": lambda store: FileStoreConfig(root=str(store.root)).scoped(5),  # type: ignore[arg-type]
    "root": lambda store: FileStoreConfig(root=5),  # type: ignore[arg-type]
    "lock timeout": lambda store: FileStoreConfig(root="x", lock_timeout="x").connect(),  # type: ignore[arg-type]
    "instances": lambda store: FileStoreConfig(root=str(store.root), max_instances="x").connect(),  # type: ignore[arg-type]
    "locator": lambda store: m.parse_to_config(5),  # type: ignore[arg-type]
    "place": lambda store: m.export_store(5, store),  # type: ignore[arg-type]
    "experiments": lambda store: m.export_store(store, "x", experiment_id=5),  # type: ignore[arg-type]
    "grace": lambda store: m.collect_garbage(store, grace="x"),  # type: ignore[arg-type]
    "workers": lambda store: m.derive(store.config, "x", workers="x"),  # type: ignore[arg-type]
}
WRONG_VALUES: dict[str, Call] = {
    "surrogate in a run": lambda store: store.get_run_record("\ud800"),
    "surrogate in a log": lambda store: store.put_log("a", "l", "\udfff"),
    "offset": lambda store: store.read_log("a", "l", -1),
    "size": lambda store: store.read_log("a", "l", 0, 1 << 32),
    "limit": lambda store: store.query(limit=10**5000),
    "a size": lambda store: store.put_result("a", "r", 1, shape=[-1]),
    "circle": lambda store: store.put_derived("a", {"x": circle()}),
    "too deep": lambda store: store.put_derived("a", {"x": nested(100_000)}),
    "descriptor's keys": lambda store: store.put_artifact(b"", {"name": "x"}),
    "durability": lambda store: FileStoreConfig(root=str(store.root), durability="fulll").connect(),  # type: ignore[arg-type]
    "existing": lambda store: m.export_store(store, str(store.root) + "2", existing="nonsense"),  # type: ignore[arg-type]
    "lock timeout": lambda store: FileStoreConfig(root="x", lock_timeout=float("nan")).connect(),
    "root": lambda store: FileStoreConfig(root="a\0b"),
    "source": lambda store: store.put_artifact("a\0b", DESCRIPTOR),
    "grace": lambda store: m.collect_garbage(store, grace=float("nan")),
    "workers": lambda store: m.derive(store.config, "x", workers=0),
}


@pytest.mark.parametrize("call", WRONG_TYPES.values(), ids=WRONG_TYPES.keys())
def test_a_wrong_type_is_a_type_error_with_a_code(store: FileStore, root: Path, call: Call) -> None:
    before = sorted(root.rglob("*"))
    with pytest.raises(TypeError) as info:
        call(store)
    assert isinstance(info.value, m.InvalidArgumentError) and info.value.code == "invalid-argument"
    assert sorted(root.rglob("*")) == before
    # The instance goes on: nothing trapped.
    assert store.list_run_records() == []


@pytest.mark.parametrize("call", WRONG_VALUES.values(), ids=WRONG_VALUES.keys())
def test_a_wrong_value_is_a_value_error_with_a_code(store: FileStore, root: Path, call: Call) -> None:
    before = sorted(root.rglob("*"))
    with pytest.raises(ValueError) as info:
        call(store)
    assert isinstance(info.value, m.InvalidArgumentError) and info.value.code == "invalid-argument"
    assert sorted(root.rglob("*")) == before


def test_the_message_names_the_argument(store: FileStore, root: Path) -> None:
    with pytest.raises(TypeError, match="run-id: expected a text, not int"):
        store.get_run_record(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="durability: there is no 'fulll'; there are full, relaxed"):
        FileStoreConfig(root=str(root), durability="fulll").connect()  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the record is none: 'NoneType' object has no attribute 'status'"):
        store.put_run_record(None)


def test_a_missing_source_is_a_file_not_found_error_with_the_contract_s_code(store: FileStore, tmp_path: Path) -> None:
    for call in (lambda: store.put_artifact(tmp_path / "none", DESCRIPTOR), lambda: store.put_artifact("", DESCRIPTOR)):
        with pytest.raises(FileNotFoundError) as info:
            call()
        error = info.value
        assert isinstance(error, m.InvalidArgumentError) and error.code == "invalid-argument"
        assert error.errno == 2 and "cannot read the artifact's source" in str(error)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.errno) == (type(error), str(error), 2)
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as other:
        store.put_artifact(tmp_path / "file" / "below", DESCRIPTOR)
    assert isinstance(other.value, m.InvalidArgumentError) and other.value.errno == 20
