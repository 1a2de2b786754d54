"""The store in Python's own terms."""

from __future__ import annotations

import copy
import errno
import fcntl
import gc
import io
import json
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import metalab_store as m
from metalab_store import ArtifactDescriptor, FileStore, FileStoreConfig, Provenance, RunRecord, Status, TrapError
from metalab_store.store import _ahead, _pieces


def record(run_id: str, **more: Any) -> RunRecord:
    """Makes a record of which everything is said."""
    fields: dict[str, Any] = {
        "run_id": run_id,
        "experiment_id": "exp:1",
        "status": Status.SUCCESS,
        "context_fingerprint": "c",
        "params_fingerprint": "p",
        "seed_fingerprint": "s",
        "started_at": datetime(2026, 3, 1, 9, 0, 0, 123456),
        "finished_at": datetime(2026, 3, 1, 9, 0, 1),
        "duration_ms": 876,
    }
    return RunRecord(**{**fields, **more})


def test_a_record_comes_back_as_it_was_put(store: FileStore) -> None:
    put = record(
        "0123456789abcdef",
        status=Status.FAILED,
        started_at=datetime(2026, 3, 1, 9, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        metrics={
            "big": 2**70,
            "zero": -0.0,
            "tiny": 5e-324,
            "text": "a\ud800\u0000😀",
            "flag": True,
            "inf": float("inf"),
        },
        provenance=Provenance("hash", "3.11", "0.1.0", "local", "host", {"gpu": [1]}, {"later": True}),
        error={"type": "E", "message": "m", "traceback": None},
        params_resolved={"lr": 0.1, "nested": {"layers": [{"width": 64}]}},
        tags=["best", "a"],
        warnings=[{"w": 1}],
        notes="größer",
        artifacts=[ArtifactDescriptor("id", "n", "json", "json", "/x", "0" * 16, 3, {"_run_id": "r"}, {"new": 1})],
        unknown={"future": {"b": 1, "a": [2]}},
    )
    store.put_run_record(put)
    found = store.get_run_record("0123456789abcdef")
    assert found == put
    assert repr(found.metrics["zero"]) == "-0.0"
    assert store.list_run_records() == [put]


def test_a_put_returns_the_revision_that_a_later_put_can_expect(store: FileStore) -> None:
    first = store.put_run_record(record("a"), expect="")
    with pytest.raises(m.ConflictError) as info:
        store.put_run_record(record("a", notes="2"), expect="")
    assert info.value.current == first
    store.put_run_record(record("a", notes="2"), expect=first)
    assert store.get_versioned_run("a") is not None
    with pytest.raises(ValueError, match="somebody changed it"):
        store.put_run_record(record("a", notes="3"), expect=first)


class ForeignStatus(str, Enum):
    SUCCESS = "success"


@dataclass
class ForeignRecord:
    """A record of another library, with the attributes of the reference's and no others."""

    run_id: str
    experiment_id: str = "exp:1"
    status: ForeignStatus = ForeignStatus.SUCCESS
    context_fingerprint: str = ""
    params_fingerprint: str = ""
    seed_fingerprint: str = ""
    started_at: datetime = datetime(2026, 1, 1)
    finished_at: datetime = datetime(2026, 1, 1)
    duration_ms: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: Any = field(default_factory=lambda: SimpleNamespace(code_hash="h", extra={}))
    error: dict[str, Any] | None = None
    params_resolved: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    notes: str | None = None
    artifacts: list[Any] = field(default_factory=list)


def test_records_and_descriptors_of_another_library_are_taken_by_their_attributes(store: FileStore) -> None:
    descriptor = SimpleNamespace(
        artifact_id="id", name="thing", kind="json", format="json", uri="", content_hash=None, size_bytes=None,
        metadata={"_run_id": "foreign"},
    )  # fmt: skip
    stored = store.put_artifact(b"{}", descriptor)
    store.put_run_record(ForeignRecord("foreign", artifacts=[stored]))
    found = store.get_run_record("foreign")
    assert found is not None
    assert (found.status, found.provenance.code_hash, found.artifacts) == (Status.SUCCESS, "h", [stored])
    assert found.status == "success" and isinstance(found.started_at, datetime)


@pytest.mark.parametrize("value", [object(), {1, 2}, datetime(2026, 1, 1), b"bytes", {1: "a", "b": 2}])
def test_what_is_not_json_is_a_type_error_and_nothing_is_written(store: FileStore, root: Path, value: Any) -> None:
    before = sorted(path for path in root.rglob("*"))
    with pytest.raises(TypeError):
        store.put_run_record(record("a", params_resolved={"x": value}))
    with pytest.raises(TypeError):
        store.put_derived("a", {"x": value})
    with pytest.raises(TypeError):
        store.put_result("a", "r", value)
    with pytest.raises(TypeError):
        store.put_experiment_manifest("exp:1", {"x": value})
    assert sorted(path for path in root.rglob("*")) == before


def test_the_factories_fill_in_what_is_not_said() -> None:
    start, end = datetime(2026, 1, 1), datetime(2026, 1, 1, 0, 0, 1, 999_999)
    run = RunRecord.success(run_id="a", started_at=start, finished_at=end)
    assert (run.status, run.duration_ms, run.experiment_id) == (Status.SUCCESS, 1999, "")
    try:
        raise RuntimeError("broken")
    except RuntimeError as error:
        run = RunRecord.failed(run_id="a", error=error)
    assert run.error is not None
    assert (run.error["type"], run.error["message"]) == ("RuntimeError", "broken")
    assert "Traceback" in run.error["traceback"]
    run = RunRecord.running(started_at=start)
    assert (run.finished_at, run.duration_ms, run.status) == (start, 0, "running")
    assert RunRecord.cancelled().status is Status.CANCELLED
    assert isinstance(run.started_at, datetime)


def test_damaged_files_are_named_and_hide_no_others(store: FileStore, root: Path) -> None:
    store.put_run_record(record("good"))
    runs = root / "exp_1/runs"
    (runs / "cut.json").write_text('{"run_id": "cut')
    (runs / "status.json").write_text('{"run_id": "status", "status": "done"}')
    (runs / "minimal.json").write_text('{"run_id": "minimal"}')
    found = store.list_run_records()
    assert {run.run_id for run in found} == {"good", "minimal"}
    assert [damage.file for damage in found.damaged] == ["runs/cut.json", "runs/status.json"]
    minimal = store.get_run_record("minimal")
    assert minimal is not None
    # Absent, never now.
    assert (minimal.started_at, minimal.status, minimal.duration_ms) == (None, Status.FAILED, 0)
    with pytest.raises(m.CorruptError, match="runs/cut.json is damaged at byte 15") as info:
        store.get_run_record("cut")
    assert (info.value.code, info.value.file, info.value.offset) == ("corrupt", "runs/cut.json", 15)
    with pytest.raises(ValueError, match="not one of success"):
        store.get_run_record("status")
    (root / "exp_1/derived/good.json").write_text("[]")
    with pytest.raises(m.CorruptError):
        store.get_derived("good")


def test_errors_are_exceptions_of_pythons_own_kind_with_the_contracts_code(store: FileStore, root: Path) -> None:
    cases: list[tuple[Callable[[], object], type[BaseException], type[m.StoreError], str]] = [
        (lambda: store.run_exists("a/b"), ValueError, m.InvalidNameError, "invalid-name"),
        (lambda: store.put_run_text("{"), ValueError, m.InvalidArgumentError, "invalid-argument"),
        (lambda: store.query("status ="), ValueError, m.InvalidQueryError, "invalid-query"),
        (lambda: store.put_run_record(record("a", experiment_id="e:2")), ValueError, m.ConflictError, "conflict"),
        (lambda: store.get_artifact("/x/exp_1/artifacts/a/b"), FileNotFoundError, m.ArtifactNotFoundError, "not-found"),
        (lambda: store.open_artifact_of("a", "b"), KeyError, m.NotFoundError, "not-found"),
        (lambda: store.scoped("exp:2"), ValueError, m.InvalidArgumentError, "invalid-argument"),
        (
            lambda: FileStoreConfig(root=str(root / "none"), read_only=True).connect(),
            OSError,
            m.RootError,
            "root",
        ),
    ]
    for call, own, ours, code in cases:
        with pytest.raises(own) as info:
            call()
        error = info.value
        assert isinstance(error, ours) and isinstance(error, m.StoreError)
        assert error.code == code
        assert str(error) == error.message and not error.message.startswith(("'", '"a'))
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error) and again.code == code
    with pytest.raises(m.InvalidQueryError) as query:
        store.query("metrics.loss < nan")
    assert query.value.position == 15
    with pytest.raises(m.InvalidNameError) as name:
        store.put_log("a", "x/y", "")
    assert (name.value.kind, name.value.name) == ("log", "x/y")


def test_arguments_of_a_wrong_type_are_type_errors_and_the_store_goes_on(store: FileStore) -> None:
    for call in (
        lambda: store.get_run_text(1),  # type: ignore[arg-type]
        lambda: store.put_log("a", "run", b"bytes"),  # type: ignore[arg-type]
        lambda: store.query("", limit="3"),  # type: ignore[arg-type]
        lambda: store.put_artifact(b"", ArtifactDescriptor("i", None, metadata={})),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError):
        store.query("", limit=1 << 40)
    with pytest.raises(ValueError):
        store.put_log("a", "run", "\ud800")
    store.put_run_record(record("a"))


def test_artifacts_of_bytes_of_any_size_and_from_files(store: FileStore, tmp_path: Path) -> None:
    for size in (0, 1, 256 * 1024, 256 * 1024 + 1, 1_000_000):
        content = os.urandom(size)
        given = ArtifactDescriptor("i", f"n{size}", "blob", "bin", metadata={"_run_id": "a", "k": [1]})
        stored = store.put_artifact(content, given)
        assert (stored.size_bytes, stored.metadata) == (size, {"_run_id": "a", "k": [1]})
        assert Path(stored.uri).read_bytes() == content == store.get_artifact(stored.uri)
    source = tmp_path / "source.dat"
    source.write_bytes(content)
    stored = store.put_artifact(source, ArtifactDescriptor("i", "file", format="dat", metadata={"_run_id": "a"}))
    assert Path(stored.uri).name == "file.dat"
    assert source.read_bytes() == content
    with pytest.raises(FileNotFoundError):
        store.put_artifact(tmp_path / "nothing", stored)
    with pytest.raises(ValueError, match="not a regular file"):
        store.put_artifact(tmp_path, stored)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="not a regular file"):
        store.put_artifact(tmp_path / "fifo", stored)
    assert [found.name for found in store.list_artifacts("a")][-1] == "file"


def test_an_open_artifact_is_a_binary_file(store: FileStore) -> None:
    content = bytes(range(256)) * 4000
    uri = store.put_artifact(content, ArtifactDescriptor("i", "n", metadata={"_run_id": "a"})).uri
    with store.open_artifact(uri, verify=True) as opened:
        assert isinstance(opened, io.BufferedReader)
        assert opened.read(10) == content[:10]
        assert opened.seek(-5, os.SEEK_END) == len(content) - 5
        assert opened.read() == content[-5:]
        opened.seek(0)
        assert opened.read() == content
        assert opened.read() == b""
    with pytest.raises(ValueError, match="closed"):
        opened.read()
    left = store.open_artifact(uri)
    store.close()
    with pytest.raises(m.ClosedError):
        left.read()


def test_logs_results_derived_and_manifests(store: FileStore, root: Path) -> None:
    store.put_log("a", "run", "one\r\ntwo\n")
    assert store.append_log("a", "run", "é", sync=True) == 11
    assert store.get_log("a", "run") == "one\r\ntwo\né"
    assert store.get_log("a", "none") is None
    chunk = store.read_log("a", "run", 5)
    assert chunk is not None and (chunk.text, chunk.next_offset, chunk.end) == ("two\né", 11, True)
    path = store.get_log_path("a", "stream")
    assert isinstance(path, Path) and path.parent.is_dir() and not path.exists()
    path.write_text("streamed")
    assert store.list_logs("a") == ["run", "stream"]
    assert store.get_working_directory() == root / "exp_1"

    store.put_result("a", "matrix", [[1.0, float("nan")]], dtype="float64", shape=[1, 2], metadata={"k": 1})
    found = store.get_result("a", "matrix")
    assert (
        found is not None and found["shape"] == [1, 2] and found["dtype"] == "float64" and found["metadata"] == {"k": 1}
    )
    assert store.list_results("a") == ["matrix"]
    assert store.get_result("a", "none") is None

    store.put_derived("a", {"x": 2**70, "y": None, "z": [1]})
    assert store.get_derived("a") == {"x": 2**70, "y": None, "z": [1]}
    assert store.derived_exists("a") and not store.derived_exists("b")
    assert store.get_derived("b") is None

    header = store.put_experiment_manifest("exp:1", {"description": "first"}, "20260301_090000")
    again = store.put_experiment_manifest("exp:1", {"description": "second"}, "20260301_090000")
    assert (header.counter, again.counter) == (0, 1)
    assert store.get_experiment_manifest("exp:1") == {"description": "second"}
    assert store.list_experiment_manifests("exp:1") == [again, header]


def test_a_query_gives_dictionaries_pages_and_a_data_frame(store: FileStore) -> None:
    outcomes = store.put_run_records(
        [*(record(f"r{number}", metrics={"loss": number / 10}) for number in range(10)), record("a/b")]
    )
    assert all(isinstance(outcome, str) for outcome in outcomes[:-1])
    assert isinstance(outcomes[-1], m.InvalidNameError)
    page = store.query("metrics.loss >= 0.2", sort="metrics.loss desc", columns=["run_id", "metrics.loss"], limit=3)
    assert page.rows == [{"run_id": f"r{number}", "metrics.loss": number / 10} for number in (9, 8, 7)]
    assert (page.total, page.columns, len(page)) == (8, ["run_id", "metrics.loss"], 3)
    rest = store.query(
        "metrics.loss >= 0.2", sort="metrics.loss desc", columns=["run_id", "metrics.loss"], cursor=page.cursor
    )
    assert [row["run_id"] for row in rest] == ["r6", "r5", "r4", "r3", "r2"]
    assert rest.cursor is None
    frame = page.to_dataframe()
    assert list(frame.columns) == ["run_id", "metrics.loss"] and frame["metrics.loss"].sum() == pytest.approx(2.4)
    assert store.query("run_id = 'r1'").rows[0]["metrics"] == {"loss": 0.1}
    fields = {summary.field: summary for summary in store.fields("metrics.loss < 0.3")}
    assert (fields["metrics.loss"].min, fields["metrics.loss"].max, fields["metrics.loss"].values) == (
        0,
        0.2,
        [0, 0.1, 0.2],
    )


def test_a_configuration_is_a_value_and_a_collection_lists_its_experiments(root: Path) -> None:
    config = FileStoreConfig(root=str(root / "x/.."))
    assert config.root == str(root) and not config.is_scoped
    assert config.list_experiments() == []
    scoped = config.scoped("a:1")
    assert scoped.scoped("a:1") is scoped and config.for_experiment("a:1") == scoped
    with pytest.raises(ValueError, match="a:1"):
        scoped.scoped("b:1")
    with pytest.raises(ValueError, match="scoped"):
        scoped.list_experiments()
    assert not root.exists()
    for name in ("b:1", "a:1"):
        config.scoped(name).connect().close()
    assert config.list_experiments() == ["a:1", "b:1"]
    assert pickle.loads(pickle.dumps(scoped)) == scoped
    assert m.StoreConfig.from_dict(scoped.to_dict()) == scoped


def test_locators_of_this_library_and_of_others_name_stores(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for locator in (
        f"{root}?experiment_id=a:1",
        f"file://{root}?experiment_id=a:1",
        f"component:file://{root}?experiment_id=a:1",
    ):
        made = m.parse_to_config(locator)
        if "file:" in locator:
            assert made == FileStoreConfig(root=str(root), experiment_id="a:1")
    monkeypatch.chdir(root.parent)
    assert m.parse_to_config("component:./store") == FileStoreConfig(root=str(root))
    info = SimpleNamespace(scheme="file", path=str(root), params={"experiment_id": "a:1"}, raw=f"file://{root}")
    assert FileStoreConfig.from_locator(info, experiment_id="b:1").experiment_id == "b:1"
    assert FileStoreConfig.from_locator(info).experiment_id == "a:1"
    info = SimpleNamespace(scheme="component", path="./store", params={}, raw="component:./store")
    assert m.ComponentStoreConfig.from_locator(info, experiment_id="c:1").experiment_id == "c:1"
    with m.create_store(str(root), experiment_id="d:1") as store:
        assert store.is_scoped and store.root == root
    with pytest.raises(ValueError, match="ftp"):
        m.parse_to_config("ftp://x")
    config = m.parse_to_config("postgresql://u:secret@h/db?file_root=/data&schema=s")
    assert isinstance(config, m.PostgresStoreConfig) and config.schema == "s"
    assert "secret" not in repr(config)
    assert m.parse_to_config("postgresql://h/db", file_root="/data").file_root == "/data"
    with pytest.raises(ValueError, match="file_root"):
        m.parse_to_config("postgresql://h/db")


def test_an_empty_experiment_is_the_whole_collection(root: Path) -> None:
    whole = FileStoreConfig(root=str(root), experiment_id="")
    assert not whole.is_scoped and whole.list_experiments() == []
    with whole.connect() as store:
        assert not store.is_scoped
        with store.scoped("a:1") as scoped:
            assert scoped.is_scoped
        assert whole.list_experiments() == ["a:1"]


def test_a_keyword_that_is_none_leaves_what_the_locator_says(root: Path) -> None:
    text = f"file://{root}?experiment_id=a:1"
    info = SimpleNamespace(scheme="file", path=str(root), params={"experiment_id": "a:1"}, raw=text)
    for given in (text, info):
        made = FileStoreConfig.from_locator(given, experiment_id=None, read_only=True, lock_timeout=2.0)
        assert (made.experiment_id, made.read_only, made.lock_timeout) == ("a:1", True, 2.0)
        assert FileStoreConfig.from_locator(given, experiment_id="b:1").experiment_id == "b:1"


class OthersConfig:
    """What another library does with configurations: it knows classes by the entry points, and calls them."""

    CLASSES: dict[str, Any] = {"component": m.ComponentStoreConfig}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        values = dict(data)
        return cls.CLASSES[values.pop("_type")](**values)


@pytest.mark.parametrize(
    "locator",
    ["component:file://{root}?experiment_id=a:1", "component:postgresql://u:p@h/db?file_root={root}&schema=s&pool_max_size=5"],
)
def test_a_configuration_by_the_entry_point_survives_another_library_s_dictionaries(root: Path, locator: str) -> None:
    text = locator.format(root=root)
    info = SimpleNamespace(scheme="component", path="", params={}, raw=text)
    config = m.ComponentStoreConfig.from_locator(info, lock_timeout=3.0)
    told = config.to_dict()
    assert told["_type"] == "component"
    # It crosses a process as JSON.
    told = json.loads(json.dumps(told))
    again = OthersConfig.from_dict(told)
    assert again == config and again.to_dict() == told and type(again) is type(config)
    assert m.StoreConfig.from_dict(told) == config
    for same in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config), replace(config)):
        assert same == config and isinstance(same, m.ComponentStoreConfig) and isinstance(same, m.StoreConfig)
    plain = m.parse_to_config(text, lock_timeout=3.0)
    assert isinstance(config, type(plain)) and {**told, "_type": plain.scheme} == plain.to_dict()
    if isinstance(config, FileStoreConfig):
        with again.connect() as store:
            assert isinstance(store, FileStore) and store.is_scoped
        assert config.scoped("a:1") is config
    with pytest.raises(TypeError):
        m.ComponentStoreConfig(nonsense=1)
    with pytest.raises(TypeError) as info_:
        m.StoreConfig.from_dict({**told, "nonsense": 1})
    assert isinstance(info_.value, m.InvalidArgumentError)


def test_the_entry_point_names_the_component(root: Path) -> None:
    from importlib.metadata import entry_points

    found = [point for point in entry_points(group="metalab.stores") if point.name == "component"]
    if not found:
        pytest.skip("the package is not installed: run by `cargo xtask test`")
    assert found[0].load() is m.ComponentStoreConfig


def test_a_closed_store_says_so_and_closes_again(store: FileStore) -> None:
    store.close()
    store.close()
    for call in (store.get_working_directory, store.list_run_records, lambda: store.put_run_record(record("a"))):
        with pytest.raises(m.ClosedError, match="the store is closed"):
            call()
    with pytest.raises(ValueError):
        store.run_exists("a")


def test_a_read_only_store_writes_nothing_and_sees_what_is_there(store: FileStore, root: Path) -> None:
    store.put_run_record(record("a"))
    store.close()
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    with FileStoreConfig(root=str(root), read_only=True).scoped("exp:1").connect() as reader:
        assert [run.run_id for run in reader.list_run_records()] == ["a"]
        for call in (
            lambda: reader.put_run_record(record("b")),
            lambda: reader.delete_run("a"),
            lambda: reader.put_artifact(os.urandom(300_000), ArtifactDescriptor("i", "n", metadata={"_run_id": "a"})),
        ):
            with pytest.raises(m.ReadOnlyError):
                call()
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_threads_share_a_store(root: Path) -> None:
    failed: list[BaseException] = []
    with FileStoreConfig(root=str(root), max_instances=3).scoped("exp:1").connect() as store:

        def work(name: str) -> None:
            try:
                for number in range(20):
                    store.put_run_record(record(f"{name}{number % 3}", notes=str(number)))
                    store.append_log(name, "run", f"{number}\n")
                    assert store.get_run_record(f"{name}{number % 3}") is not None
                    store.list_run_records()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(f"t{index}",)) for index in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert len(store.list_run_records()) == 18
        assert store.get_log("t0", "run") == "".join(f"{number}\n" for number in range(20))


def test_after_a_call_that_took_too_long_the_store_goes_on_with_a_fresh_instance(root: Path) -> None:
    limits = m.Limits(call_deadline=1.0)
    with FileStoreConfig(root=str(root), max_instances=1, limits=limits).scoped("exp:1").connect() as store:
        for number in range(50):
            store.put_run_record(record(f"r{number}", notes=f"{number}" + "ab" * 250_000))
        # A thousand patterns, each tried at every place of fifty long texts: of equal ones, the index tries one.
        slow = " or ".join(['notes like "%b%b%b%c%"'] * 1000)
        listed = store._list("[method]store.list-run-records", None)
        with pytest.raises(m.LimitExceededError, match="longer than 1 s") as info:
            store.fields(slow)
        assert info.value.code == "limit-exceeded"
        assert store.get_run_text("r1") is not None
        # What lived in the instance that is gone says so.
        with pytest.raises(m.TrapError, match="open it again"):
            listed.total()


def test_an_instance_that_takes_too_much_memory_costs_its_call(root: Path) -> None:
    config = FileStoreConfig(root=str(root), max_instances=1, limits=m.Limits(memory_bytes=16 << 20)).scoped("exp:1")
    with config.connect() as store:
        store.put_run_record(record("a"))
        with pytest.raises(m.LimitExceededError, match="16777216 bytes of memory"):
            store.put_log("a", "run", "x" * (32 << 20))
        assert store.get_run_text("a") is not None


def _in_child(work: Callable[[], str]) -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            said = work()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    assert os.waitpid(child, 0)[1] == 0
    return said


def test_a_child_of_fork_is_told_what_to_do_and_does_not_hang_or_disturb_its_parent(
    store: FileStore, root: Path
) -> None:
    store.put_run_record(record("a"))
    for work in (
        lambda: str(store.get_run_record("a")),
        lambda: str(FileStoreConfig(root=str(root)).scoped("exp:1").connect()),
    ):
        said = _in_child(work)
        assert said.startswith("EngineError: ") and "spawn" in said
    assert _in_child(lambda: str(store.close())) == "None"
    store.put_run_record(record("b"))
    assert len(store.list_run_records()) == 2


def _put(root: str, run: str) -> str:
    with FileStoreConfig(root=root).scoped("exp:1").connect() as store:
        return store.put_run_record(record(run))


def test_processes_that_are_spawned_share_a_store(store: FileStore, root: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(_put, [(str(root), f"r{number}") for number in range(6)])
    assert len(store.list_run_records()) == 6


def test_a_wait_that_is_interrupted_raises_the_interrupt_and_the_store_goes_on(store: FileStore, root: Path) -> None:
    import fcntl
    import signal

    store.put_run_record(record("a"))
    with open(root / "exp_1/.locks/a.lock", "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyboardInterrupt):
                store.put_run_record(record("a", notes="2"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
    store.put_run_record(record("a", notes="3"))


def test_a_store_that_nobody_closed_is_closed_when_the_process_ends(root: Path) -> None:
    code = (
        "import sys; import metalab_store as m\n"
        "store = m.FileStoreConfig(root=sys.argv[1]).scoped('exp:1').connect()\n"
        "store.put_run_record(m.RunRecord.success(run_id='a'))\n"
    )
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", code, str(root)], check=True)
    assert [path.name for path in (root / "exp_1/.index").glob("journal-*") if path.suffix != ".lock"] == []


def test_a_list_of_many_pages_is_whole_and_what_fails_in_one_of_them_is_raised(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"run{number:03}" for number in range(100)]
    store.put_run_records(RunRecord.success(run_id=name, started_at=None, notes="a\nb") for name in names)
    monkeypatch.setattr("metalab_store.store._PAGE", 2000)
    monkeypatch.setattr("metalab_store.store._PIECE", 700)
    assert [record.run_id for record in store.list_run_records()] == names
    assert [row["notes"] for row in store.query(sort="run_id")] == ["a\nb"] * 100
    assert gc.isenabled()

    pages = iter(["x" * 2000, "y" * 2000])

    def failing() -> Iterator[str]:
        yield from pages
        raise TrapError("in the middle")

    got = _ahead(failing())
    assert next(got)[0] == "x" and next(got)[0] == "y"
    with pytest.raises(TrapError, match="in the middle"):
        next(got)


def test_pieces_of_a_page_are_its_lines_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metalab_store.store._PIECE", 4)
    for text in ("1", "12345678", "1 2 3 4 5", "12 34 5", "1234 5", "123 45678 9"):
        lines = text.split()
        pieces = list(_pieces("".join(f"{line}\n" for line in lines)))
        assert "\n".join(pieces).split("\n") == lines
        assert all(len(piece) >= 4 for piece in pieces[:-1])


def test_the_collector_of_garbage_sees_a_long_list_once_a_piece_and_only_if_it_is_on(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_run_records(RunRecord.success(run_id=f"run{number:03}") for number in range(100))
    monkeypatch.setattr("metalab_store.store._PAGE", 2000)
    monkeypatch.setattr("metalab_store.store._PIECE", 8000)
    seen: list[tuple[int, bool]] = []

    def collects(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.append((info["generation"], gc.isenabled()))

    gc.callbacks.append(collects)
    try:
        gc.collect()
        seen.clear()
        records = store.list_run_records()
        during, left = seen[:], gc.get_count()[0]
        gc.disable()
        seen.clear()
        assert len(store.list_run_records()) == len(records) == 100
        assert not seen and not gc.isenabled()
    finally:
        gc.enable()
        gc.callbacks.remove(collects)
    # None by itself, and what is left for the next is not the list.
    assert [at for at in during if not at[1]].count((0, False)) > 3
    assert left < 100


def test_where_nothing_can_be_locked_the_user_is_told_once(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    assert store.warnings == []
    monkeypatch.setattr(fcntl, "flock", no_locks)
    for run in ("a", "b"):
        store.put_run_record(record(run))
    [warning] = store.warnings
    assert warning.startswith("nothing can be locked")
    assert [logged.getMessage() for logged in caplog.records] == [warning]
    with pytest.raises(m.LocksUnavailableError):
        store.put_run_record(record("c"), expect="")
