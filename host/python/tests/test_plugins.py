"""Plugins: what they see, what they may use, and what becomes of a run when one misbehaves."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import TARGET

from metalab_store import (
    ArtifactDescriptor,
    DeriveProgress,
    FileStore,
    FileStoreConfig,
    InvalidQueryError,
    Plugin,
    PluginLimits,
    RunRecord,
    StoreError,
    component_bytes,
    derive,
)
from metalab_store.plugins import _computed

EXAMPLE = TARGET / "plugins" / "example.wasm"
#: Nothing here takes long, but machines are busy.
LIMITS = PluginLimits(time=300.0, calls=100)


@pytest.fixture(scope="module")
def plugin() -> Plugin:
    """The plugin for tests: it does what the id of the run says."""
    return Plugin(TARGET / "plugins" / "test.wasm")


def put(store: FileStore, *runs: str) -> None:
    """Stores runs with a loss."""
    store.put_run_records(RunRecord.success(run_id=run, metrics={"loss": 0.25}) for run in runs)


def config(root: Path) -> FileStoreConfig:
    """The configuration of the experiment."""
    return FileStoreConfig(root=str(root)).scoped("exp:1")


def test_whatever_a_plugin_does_fails_that_run_with_a_reason_and_stops_no_other(
    store: FileStore, root: Path, plugin: Plugin
) -> None:
    bad = {
        "badinteger": "garbage",
        "badjson": "garbage",
        "call": "calls",
        "control": "garbage",
        # This runtime does not tell a plugin that wants too much memory from one that fails otherwise.
        "exhaust": "trap",
        "longname": "garbage",
        "overflow": "trap",
        "refuse": "refused",
        "shout": "refused",
        "some": "garbage",
        "trap": "trap",
        "twice": "garbage",
        "unnamed": "garbage",
    }
    good = ["count-1", "count-2", "hash", "nan", "zero"]
    put(store, *bad, *good)
    store.put_derived("trap", {"kept": 1})
    seen: list[DeriveProgress] = []
    report = derive(config(root), plugin, limits=LIMITS, progress=seen.append)
    assert {failure.run_id: failure.code for failure in report.failures} == bad
    assert (report.runs, report.derived) == (18, 5)
    assert [progress.done for progress in seen] == list(range(1, 19))
    assert all(len(failure.message) < 2000 for failure in report.failures)
    for run in good:
        assert store.derived_exists(run), run
    for run in bad:
        assert store.derived_exists(run) == (run == "trap"), run
    assert store.get_derived("trap") == {"kept": 1}
    assert store.get_derived("count-2") == {"runs": 1}


@pytest.mark.parametrize("workers", [1, 3])
def test_a_plugin_that_loops_ends_when_its_time_is_over(
    store: FileStore, root: Path, plugin: Plugin, workers: int
) -> None:
    put(store, "loop-1", "loop-2", "zero")
    report = derive(config(root), plugin, limits=PluginLimits(time=0.2), workers=workers)
    assert {failure.run_id: failure.code for failure in report.failures} == {"loop-1": "time", "loop-2": "time"}
    assert report.derived == 1


def test_many_workers_derive_what_one_does(store: FileStore, root: Path, plugin: Plugin) -> None:
    names = [f"run-{number:03}" for number in range(300)] + ["trap-1", "refuse-1"]
    put(store, *names)
    answers = []
    for workers in (1, 4):
        seen: list[DeriveProgress] = []
        report = derive(config(root), plugin, 'run_id contains "-"', workers=workers, progress=seen.append)
        assert [progress.done for progress in seen] == list(range(1, 303)) and seen[-1].failed == 2
        answers.append((report, [store.get_derived(name) for name in names]))
    (one, first), (four, second) = answers
    assert one == four
    # The second time each of them saw the four metrics that it had by then.
    assert second == [derived and {**derived, "derived": "4"} for derived in first]
    assert first.count(None) == 2 and first[0] is not None and first[0]["derived"] == "0"
    for workers in (0, -1, 257):
        with pytest.raises(StoreError) as refused:
            derive(config(root), plugin, workers=workers)
        assert refused.value.code == "invalid-argument"


def test_an_answer_that_is_too_large_is_a_failure_of_that_run(store: FileStore, root: Path, plugin: Plugin) -> None:
    put(store, "large", "zero")
    report = derive(config(root), plugin)
    assert [(failure.run_id, failure.code) for failure in report.failures] == [("large", "garbage")]
    assert report.derived == 1


def test_a_plugin_reads_all_of_a_run_through_the_store(store: FileStore, root: Path, plugin: Plugin) -> None:
    put(store, "run")
    store.put_derived("run", {"a": 1, "b": 2})
    store.put_result("run", "curve", [1, 2])
    store.put_log("run", "out", "0123456789")
    store.put_artifact(b"abcdefgh", ArtifactDescriptor("a", "model", "blob", "bin", metadata={"_run_id": "run"}))
    report = derive(config(root), plugin)
    assert report.failures == []
    text = store.get_run_text("run")
    assert text is not None
    assert store.get_derived("run") == {
        "artifact model": "abcdefgh",
        "derived": "2",
        "log out": "23456",
        "result curve": "[1,2]",
        "runs": "run",
        "status": "Status::Success",
        "text": str(len(text.encode())),
    }


def test_a_plugin_sees_no_other_experiment_and_no_other_file(store: FileStore, root: Path, plugin: Plugin) -> None:
    put(store, "other")
    with FileStoreConfig(root=str(root)).scoped("other:1").connect() as other:
        put(other, "secret")
    assert derive(config(root), plugin).failures == []
    seen = store.get_derived("other")
    assert seen is not None
    assert seen["parent"].endswith("InvalidName") and seen["absolute"].endswith("InvalidName")
    assert seen["foreign"] == "false"


def test_the_example_derives_what_queries_find_and_a_dry_run_stores_nothing(store: FileStore, root: Path) -> None:
    put(store, "a", "b", "c")
    assert derive(config(root), EXAMPLE, dry_run=True).derived == 3
    assert not store.derived_exists("a")
    assert derive(config(root), EXAMPLE, 'run_id != "c"').derived == 2
    found = store.query("derived.metric_norm = 0.25", sort="run_id", columns="run_id, derived.metric_count")
    assert [row["run_id"] for row in found] == ["a", "b"]
    with pytest.raises(InvalidQueryError):
        derive(config(root), EXAMPLE, "metrics.loss <")


def test_progress_that_raises_ends_the_work(store: FileStore, root: Path, plugin: Plugin) -> None:
    put(store, "one", "two", "zero")

    def stop(progress: DeriveProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        derive(config(root), plugin, progress=stop)


def test_a_plugin_that_loops_is_ended_with_the_work(store: FileStore, root: Path, plugin: Plugin) -> None:
    put(store, "loop", "zero")

    def stop(_: DeriveProgress) -> None:
        raise KeyboardInterrupt

    # It would loop for an hour.
    with pytest.raises(KeyboardInterrupt):
        derive(config(root), plugin, limits=PluginLimits(time=3600.0), workers=2, progress=stop)


class FakePlugin:
    """Computes nothing, and counts."""

    def __init__(self, enough: int, bad: str = "") -> None:
        self.started = 0
        self.taken = 0
        self.most = 0
        self.enough = threading.Event()
        self._enough = enough
        self._bad = bad
        self._guard = threading.Lock()

    def run(self, pool: Any, run_id: str, limits: PluginLimits, stop: threading.Event) -> list[dict[str, Any]]:
        """What a plugin does."""
        with self._guard:
            self.started += 1
            self.most = max(self.most, self.started - self.taken)
            if self.started >= self._enough:
                self.enough.set()
        if run_id == self._bad:
            raise KeyboardInterrupt
        return []


def test_workers_are_no_further_ahead_than_they_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metalab_store.plugins._AHEAD", 6)
    names = [f"run{number}" for number in range(1000)]
    fake: Any = FakePlugin(enough=6)
    seen = []
    for name, _ in _computed(fake, fake, names, LIMITS, 3):
        # Whoever takes results is slow, and they wait.
        fake.enough.wait()
        fake.taken += 1
        seen.append(name)
    assert sorted(seen) == sorted(names) and fake.started == 1000
    # What is computed while the last place is taken comes on top.
    assert 6 <= fake.most <= 6 + 3 + 1


class MeetingPlugin:
    """Its runs are done only once three are computed at once."""

    def __init__(self) -> None:
        self._met = threading.Barrier(3)

    def run(self, _reader: object, _run_id: str, _limits: object, _stop: threading.Event) -> list[object]:
        self._met.wait(60)
        return []


def test_runs_that_take_long_have_all_workers() -> None:
    fake: Any = MeetingPlugin()
    assert len(list(_computed(fake, fake, [f"run{number}" for number in range(6)], LIMITS, 3))) == 6


@pytest.mark.parametrize("workers", [1, 4])
def test_what_interrupts_a_worker_interrupts_the_work(workers: int) -> None:
    fake: Any = FakePlugin(enough=0, bad="run50")
    computed = _computed(fake, fake, [f"run{number}" for number in range(1000)], LIMITS, workers)
    with pytest.raises(KeyboardInterrupt):
        for _ in computed:
            fake.taken += 1
    assert fake.taken < 1000


def code_of(source: Path | bytes) -> str:
    """Returns the code of the error that a plugin is refused with."""
    with pytest.raises(StoreError) as refused:
        Plugin(source)
    return refused.value.code


def test_what_is_no_plugin_has_the_code_that_it_has_in_every_host(root: Path) -> None:
    assert code_of(root / "nowhere.wasm") == "plugin-missing"
    for binary in (b"", b"no wasm", b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0", component_bytes()):
        assert code_of(binary) == "plugin-world"
    example = EXAMPLE.read_bytes()
    other = example.replace(b"metalab:store/view@0.1.0", b"metalab:store/view@0.9.0")
    assert code_of(other) == "plugin-version"
    with pytest.raises(StoreError) as refused:
        derive(FileStoreConfig(root=str(root)), EXAMPLE)
    assert refused.value.code == "invalid-argument"
