"""Rust, Node and Python on one store: locks exclude each other, each reads what the others wrote, and what a killed writer
left undone is done by the others."""

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


@pytest.mark.parametrize("others", [["rust"], ["node"], ["rust", "node"]])
def test_writers_of_several_hosts_count_together_and_lose_nothing(root: Path, others: list[str]) -> None:
    times = 30
    workers = [Worker.of(host, "count", root, "counter", str(times)) for host in ["python", *others] * 2]
    assert [worker.end() for worker in workers] == [times] * len(workers)
    assert notes(root, "counter") == str(len(workers) * times)


@pytest.mark.parametrize(("holding", "waiting"), [("python", "rust"), ("python", "node"), ("node", "python")])
def test_a_lock_of_one_host_keeps_another_out_until_it_is_released(root: Path, holding: str, waiting: str) -> None:
    with Worker.of(holding, "hold", root, "counter") as holder:
        assert holder.line() == "held"
        with Worker.of(waiting, "count", root, "counter", "1") as other:
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


@pytest.mark.parametrize(
    ("killed", "successor"), [("python", "rust"), ("python", "node"), ("node", "python"), ("rust", "python")]
)
def test_what_a_killed_writer_said_was_done_is_there_for_another_host(root: Path, killed: str, successor: str) -> None:
    if killed == "rust":
        writer = Worker.rust("script", root, "w", "7")
    else:
        writer = Worker.of(killed, "write", root, "w")
    done = 0
    while done < 30:
        assert writer.line() is not None
        done += 1
    done += writer.kill()
    if killed != "rust":
        # The next one recovers, and goes on.
        with Worker.of(successor, "count", root, "other", "1") as other:
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


def test_node_and_this_host_read_what_the_other_wrote(root: Path) -> None:
    with Worker.node("write", root, "n") as node, Worker.python("write", root, "p") as python:
        for _ in range(20):
            assert node.line() and python.line()
        node.end()
        python.end()
    with FileStoreConfig(root=str(root), read_only=True).scoped("exp:1").connect() as store:
        listed = store.list_run_records()
        assert listed.damaged == [] and {run.run_id[0] for run in listed} == {"n", "p"}
        told: dict[str, str] = {}
        for run in listed:
            derived, log = store.get_derived(run.run_id), store.get_log(run.run_id, "run")
            [artifact] = store.list_artifacts(run.run_id)
            with store.open_artifact(artifact.uri, verify=True) as opened:
                assert opened.read() == (run.notes or "").encode() * 1000
            assert derived == {"number": int(run.notes or "")}
            assert log is not None and log.splitlines()[-1] == run.notes
            told[run.run_id] = f"{run.run_id} {run.notes} {artifact.content_hash}"
    # A reader of the Node host sees the same.
    with Worker.node("read", root) as reader:
        assert [reader.line() for _ in told] == [told[run] for run in sorted(told)]
        reader.end()
