"""Files that are no records, or hold what Python's own JSON cannot: each is an error of the contract, the same as in the
other hosts, and hides nothing else."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import random
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import metalab_store as m
from metalab_store import FileStore, FileStoreConfig, RunRecord
from metalab_store.records import WrittenTime, _parsed

#: Read and stored again, this record has the same bytes.
GOOD = {"run_id": "a", "experiment_id": "exp:1", "status": "success"}


def write(root: Path, run: str, record: Any) -> str:
    """Writes the file of a record as another program does, and returns its name in the store."""
    text = record if isinstance(record, str) else json.dumps(record)
    file = root / "exp_1" / "runs" / f"{run}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return f"runs/{run}.json"


def deep(levels: int) -> str:
    """Returns the JSON text of so many lists, one in the other."""
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    "wrong",
    [
        {"metrics": [1]},
        {"metrics": "text"},
        {"metrics": 0},
        {"metrics": {"\ud800": 1}},
        {"duration_ms": "x"},
        {"duration_ms": 1.5},
        {"duration_ms": True},
        {"duration_ms": 2**63},
        {"run_id": 5},
        {"run_id": "\ud800"},
        {"experiment_id": ["exp:1"]},
        {"context_fingerprint": {}},
        {"seed_fingerprint": 1},
        {"notes": 1},
        {"notes": "a \udc00 b"},
        {"status": ["success"]},
        {"status": None},
        {"started_at": 5},
        {"started_at": True},
        {"finished_at": {}},
        {"params_resolved": []},
        {"params_resolved": [1]},
        {"tags": "abc"},
        {"tags": None},
        {"tags": {"a": 1}},
        {"tags": [1]},
        {"tags": ["\ud800"]},
        {"warnings": ""},
        {"warnings": None},
        {"warnings": {"a": 1}},
        {"artifacts": None},
        {"artifacts": {}},
        {"artifacts": [5]},
        {"artifacts": [{"name": 5}]},
        {"artifacts": [{"size_bytes": -1}]},
        {"artifacts": [{"size_bytes": 1.0}]},
        {"artifacts": [{"metadata": [1]}]},
        {"provenance": {"host": 5}},
        {"provenance": {"extra": [1]}},
        {"_schema_version": 1},
    ],
)
def test_a_record_that_the_list_calls_damaged_is_an_error_when_it_is_asked_for(
    store: FileStore, root: Path, wrong: dict[str, Any]
) -> None:
    file = write(root, "a", {**GOOD, **wrong})
    listed = store.list_run_records()
    assert [damage.file for damage in listed.damaged] == [file] and listed == []
    with pytest.raises(m.CorruptError) as info:
        store.get_run_record("a")
    assert (info.value.code in ("corrupt", "unrepresentable"), info.value.file) == (True, file)
    assert listed.damaged[0].reason in str(info.value)
    with pytest.raises(m.CorruptError):
        store.get_versioned_run("a")


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"run_id": None, "experiment_id": None, "context_fingerprint": None, "duration_ms": None},
        {"metrics": None, "params_resolved": None, "provenance": [1], "error": "text", "notes": None},
        {"warnings": ["text", 1], "started_at": "", "finished_at": None},
        {"metrics": {"a": [1], "b": None, "c": "\ud800"}, "error": [1], "later": {"x": 1}},
        {"artifacts": [{"size_bytes": None, "metadata": None, "kind": None, "new": 1}]},
        {"started_at": "2026-03-01T09:00:00Z", "finished_at": "2026-03-01"},
    ],
)
def test_what_the_contract_takes_is_read_as_the_typed_call_reads_it(
    store: FileStore, root: Path, odd: dict[str, Any]
) -> None:
    write(root, "a", {**GOOD, **odd})
    found, typed = store.get_run_record("a"), store.get_versioned_run("a")
    assert found is not None and typed is not None and found == typed[1]
    assert store.list_run_records() == [found]


def test_a_result_has_all_four_keys_and_is_checked(store: FileStore, root: Path) -> None:
    results = root / "exp_1" / "results" / "a"
    results.mkdir(parents=True)
    empty = {"data": 1, "dtype": None, "metadata": {}, "shape": None}
    for text, expected in [
        ({"data": 1}, empty),
        ({}, {**empty, "data": None}),
        ({**empty, "metadata": None}, empty),
        ({**empty, "later": [1], "shape": [2, 0]}, {**empty, "later": [1], "shape": [2, 0]}),
    ]:
        (results / "r.json").write_text(json.dumps(text))
        assert store.get_result("a", "r") == expected
    for wrong in [{"shape": ["x"]}, {"shape": 5}, {"shape": [True]}, {"shape": [-1]}, {"dtype": 5}, {"metadata": [1]}]:
        (results / "r.json").write_text(json.dumps({**empty, **wrong}))
        with pytest.raises(m.CorruptError) as info:
            store.get_result("a", "r")
        assert info.value.file == "results/a/r.json"


def too_deep(text: str) -> bool:
    """Says whether Python's own JSON cannot read this. Newer versions of Python go deeper."""
    try:
        json.loads(text)
    except RecursionError:
        return True
    return False


#: As deep as the contract takes it within a record.
DEEP = deep(990)
pytestmark_deep = pytest.mark.skipif(not too_deep(DEEP), reason="this Python reads everything that the store takes")


@pytestmark_deep
def test_a_record_that_nests_too_deep_for_python_hides_no_other(root: Path) -> None:
    text = '{"z": "\\"run_id\\": {", "params_resolved": {"run_id": "no", "x": %s}, "run_id": "de\\u0065p", "status": "success"}'
    with FileStoreConfig(root=str(root)).scoped("exp:1").connect() as store:
        for run in ("a", "b"):
            store.put_run_record(RunRecord.success(run_id=run, experiment_id="exp:1"))
        store.put_run_text(text % DEEP)
        listed = store.list_run_records()
        assert sorted(run.run_id for run in listed) == ["a", "b"]
        assert [damage.file for damage in listed.damaged] == ["runs/deep.json"]
        assert "too deep" in listed.damaged[0].reason

        page = store.query()
        assert sorted(row["run_id"] for row in page) == ["a", "b"]
        assert [damage.file for damage in page.damaged] == ["runs/deep.json"] and page.total == 3
        page = store.query(columns="run_id, params.x")
        assert [damage.file for damage in page.damaged] == ["runs/deep.json"]
        # Nothing of this one is too deep.
        assert len(store.query(columns="run_id")) == 3

        for call in (store.get_run_record, store.get_versioned_run):
            with pytest.raises(m.UnrepresentableError, match="too deep") as info:
                call("deep")
            assert (info.value.code, info.value.file) == ("unrepresentable", "runs/deep.json")
        found = store.get_run_text("deep")
        assert found is not None and DEEP in "".join(found.split())

        # Beside one that is no record at all.
        write(root, "wrong", {**GOOD, "run_id": "wrong", "metrics": [1]})
        listed = store.list_run_records()
        assert sorted(run.run_id for run in listed) == ["a", "b"]
        assert [damage.file for damage in listed.damaged] == ["runs/deep.json", "runs/wrong.json"]
    with FileStoreConfig(root=str(root)).connect() as whole:
        assert sorted(run.run_id for run in whole.list_run_records()) == ["a", "b"]


@pytestmark_deep
def test_what_else_nests_too_deep_for_python_is_an_error_with_a_code(store: FileStore, root: Path) -> None:
    within = root / "exp_1"
    for name in ("derived", "results/a", "artifacts/a", "experiments"):
        (within / name).mkdir(parents=True, exist_ok=True)
    store.put_artifact(b"x", m.ArtifactDescriptor("i", "x", "blob", "bin", metadata={"_run_id": "a"}))
    manifest = within / "artifacts/a/_manifest.json"
    manifest.write_text(manifest.read_text().replace('"metadata": {}', f'"metadata": {{"x": {DEEP}}}'))
    (within / "derived/a.json").write_text(f'{{"x": {DEEP}}}')
    (within / "results/a/r.json").write_text(f'{{"data": {DEEP}}}')
    (within / "experiments/exp_1_20260101_000000.json").write_text(f'{{"experiment_id": "exp:1", "x": {DEEP}}}')
    calls: list[tuple[str, Any]] = [
        ("derived/a.json", lambda: store.get_derived("a")),
        ("results/a/r.json", lambda: store.get_result("a", "r")),
        ("artifacts/a/_manifest.json", lambda: store.list_artifacts("a")),
        ("experiments/exp_1_20260101_000000.json", lambda: store.get_experiment_manifest("exp:1")),
    ]
    for file, call in calls:
        with pytest.raises(m.UnrepresentableError, match="too deep") as info:
            call()
        assert info.value.file == file


@pytest.mark.parametrize(
    "written",
    [
        "2026-03-01T09:00:00Z",
        "2026-03-01T09:00:00.123456789",
        "2026-03-01T09:00:00.123456789Z",
        "2026-03-01T09:00:00.000000",
        "2026-03-01T09:00:00.5+05:30",
        "2026-03-01 09:00:00",
        "2026-03-01",
        "20260301T090000Z",
        "2026-W09-7",
        "2026-03-01T09:00:00.123456",
        "2026-03-01T09:00:00+00:00",
    ],
)
def test_a_time_is_kept_as_it_was_written(store: FileStore, root: Path, written: str) -> None:
    store.put_run_text(json.dumps({**GOOD, "started_at": written, "finished_at": written}))
    file = root / "exp_1" / "runs" / "a.json"
    before = file.read_bytes()
    assert written.encode() in before
    [listed] = store.list_run_records()
    found, typed = store.get_run_record("a"), store.get_versioned_run("a")
    assert found is not None and typed is not None and found.started_at is not None
    for read in (found, listed, typed[1]):
        assert read == found and hash(read.started_at) == hash(found.started_at)
        for same in (read, copy.deepcopy(read), copy.copy(read), pickle.loads(pickle.dumps(read)), replace(read)):
            assert same == found and isinstance(same.started_at, datetime)
            store.put_run_record(same)
            assert file.read_bytes() == before

    # It is a time like any other, and what is made of it is another one.
    plain = datetime.fromisoformat(written)
    assert found.started_at == plain and found.started_at.isoformat() == plain.isoformat()
    later = found.started_at + timedelta(seconds=1)
    assert later == plain + timedelta(seconds=1)
    assert found.started_at.replace(year=2025) == plain.replace(year=2025)
    store.put_run_record(replace(found, started_at=later, finished_at=found.started_at.replace(year=2025)))
    again = json.loads(file.read_bytes())
    assert again["started_at"] == later.isoformat() and again["finished_at"] == plain.replace(year=2025).isoformat()
    if plain.tzinfo is not None:
        moved = found.started_at.astimezone(timezone(timedelta(hours=2)))
        store.put_run_record(replace(found, started_at=moved))
        assert json.loads(file.read_bytes())["started_at"] == moved.isoformat()


def test_a_time_is_plain_just_where_it_is_printed_as_it_was_read() -> None:
    days = ("2026-03-01", "2026-W09-7", "20260301", "2026W097", "2026W09", "0001-01-01", "9999-12-31")
    hours = ("09:00:01.123456", "23:59:59.000000", "09:00:01.000001", "090001.123456", "09:00:01", "24:00:00.000000")
    # So long that they make up for the digits that are not there.
    hours += ("09:00:01.12345", "09:00:01.123", "09:00:01.1", "09:00:01.123456789", "09:00:01,123456")
    zones = ("", "Z", "+01", "-0130", "+05:30", "+00:00", "+01:00:00.000001")
    texts = ["".join(parts) for parts in itertools.product(days, ("T", " ", "t", "."), hours, zones)]
    chance = random.Random(1)
    for text in texts[:]:
        for _ in range(50):
            at = chance.randrange(len(text))
            texts.append(text[:at] + chance.choice("0123456789-:.,+TWZ \u0663") + text[at + 1 :])
    kinds = set()
    for text in texts:
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            continue
        found = _parsed(text)
        assert found == time, text
        assert (type(found) is datetime) == (time.isoformat() == text), text
        kinds.add((len(text) == 26, type(found)))
    assert kinds == {(long, kind) for long in (True, False) for kind in (datetime, WrittenTime)}
