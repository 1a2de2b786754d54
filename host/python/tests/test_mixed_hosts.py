"""Rust and Python on one store: locks exclude each other, each reads what the other wrote, and what a killed writer
left undone is done by the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Worker

from metalab_store import FileStoreConfig, LockedError, Status


def notes(root: Path, run: str) -> str | None:
    """Returns the notes of a run."""
    with FileStoreConfig(root=str(root), read_only=True).scoped("exp:1").connect() as store:
        found = store.get_run_record(run)
        return None if found is None else found.notes


def test_writers_of_both_hosts_count_together_and_lose_nothing(root: Path) -> None:
    times = 40
    workers = [
        Worker.python("count", root, "counter", str(times)),
        Worker.rust("count", root, "counter", str(times)),
        Worker.python("count", root, "counter", str(times)),
        Worker.rust("count", root, "counter", str(times)),
    ]
    assert [worker.end() for worker in workers] == [times] * 4
    assert notes(root, "counter") == str(4 * times)


def test_a_lock_of_this_host_keeps_the_rust_host_out_until_it_is_released(root: Path) -> None:
    with Worker.python("hold", root, "counter") as holder:
        assert holder.line() == "held"
        with Worker.rust("count", root, "counter", "1") as other:
            config = FileStoreConfig(root=str(root), lock_timeout=0.2).scoped("exp:1")
            with config.connect() as store:
                # Nobody counts as long as it is held.
                with pytest.raises(LockedError):
                    store.put_derived("counter", {})
            assert notes(root, "counter") is None
            holder.end()
            assert other.line() == "counted"
            other.end()
    assert notes(root, "counter") == "1"


@pytest.mark.parametrize("killed", ["python", "rust"])
def test_what_a_killed_writer_said_was_done_is_there_for_the_other_host(root: Path, killed: str) -> None:
    if killed == "python":
        writer = Worker.python("write", root, "w")
    else:
        writer = Worker.rust("script", root, "w", "7")
    done = 0
    while done < 30:
        assert writer.line() is not None
        done += 1
    done += writer.kill()
    if killed == "python":
        # The Rust host recovers, and goes on.
        with Worker.rust("count", root, "other", "1") as other:
            other.end()
        with FileStoreConfig(root=str(root)).scoped("exp:1").connect() as store:
            numbers = {run.run_id: int(run.notes or "") for run in store.list_run_records() if run.run_id != "other"}
            # The last call may have been done, and not said.
            assert max(numbers.values()) in (done - 1, done)
            for run, number in numbers.items():
                log = store.get_log(run, "run")
                assert log is not None and log.splitlines()[-1] in (str(number), str(number - 5))
                for artifact in store.list_artifacts(run):
                    with store.open_artifact(artifact.uri, verify=True) as opened:
                        assert len(opened.read()) == artifact.size_bytes
    else:
        with FileStoreConfig(root=str(root)).scoped("exp:1").connect() as store:
            records = store.list_run_records()
            assert records.damaged == []
            assert records and all(run.status is Status.SUCCESS for run in records)
            for run in records:
                for artifact in store.list_artifacts(run.run_id):
                    with store.open_artifact(artifact.uri, verify=True) as opened:
                        assert len(opened.read()) == artifact.size_bytes
    # Whoever came next cleaned up after it.
    left = [
        path.name for path in (root / "exp_1").rglob("*") if ".tmp." in path.name or path.name.startswith("journal-")
    ]
    assert [name for name in left if not name.endswith(".lock")] == []


def test_each_host_reads_what_the_other_wrote(root: Path) -> None:
    with Worker.rust("script", root, "r", "3") as rust, Worker.python("write", root, "p") as python:
        for _ in range(20):
            assert rust.line() and python.line()
        rust.end()
        python.end()
    with FileStoreConfig(root=str(root), read_only=True).scoped("exp:1").connect() as store:
        runs = {run.run_id for run in store.list_run_records()}
    assert {run[0] for run in runs} == {"p", "r"}
    # A reader of the Rust host checks what it finds of this one's runs.
    with Worker.rust("list", root, *sorted(run for run in runs if run[0] == "p")) as reader:
        assert reader.line() == "listed"
        reader.end()
