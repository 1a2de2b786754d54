"""Copies between stores and archives."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metalab_store import (
    AlreadyExistsError,
    ArtifactDescriptor,
    FileStoreConfig,
    InvalidArgumentError,
    InvalidQueryError,
    LockedError,
    NotFoundError,
    RootError,
    RunRecord,
    TransferCounts,
    export_store,
)

TARGET = Path(os.environ.get("METALAB_TARGET", Path(__file__).parents[3] / "target"))


def collection(root: Path) -> None:
    """Makes a collection of two experiments."""
    for experiment in ("a:1", "b"):
        with FileStoreConfig(root=str(root)).scoped(experiment).connect() as store:
            for index in range(5):
                run = f"run{index}"
                store.put_run_record(RunRecord.success(run_id=run, metrics={"loss": float(index)}))
                descriptor = ArtifactDescriptor(
                    artifact_id=f"{run}w", name="w", kind="bytes", format="bin", uri="", metadata={"_run_id": run}
                )
                store.put_artifact(bytes([index]) * 300_000, descriptor)
                store.put_log(run, "run", "a line\r\n")


def files(root: Path) -> dict[str, bytes]:
    """The files of the format."""
    own = ("_meta.json",)
    found = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in found.items()
        if name not in own and ".index/" not in name and ".locks/" not in name
    }


def test_a_collection_is_the_same_in_a_store_and_in_an_archive_and_what_the_command_makes_of_it(tmp_path: Path) -> None:
    source, copy, again = (tmp_path / name for name in ("source", "copy", "again"))
    collection(source)
    seen: list[tuple[int, int]] = []
    report = export_store(source, f"file://{copy}", progress_callback=lambda *told: seen.append(told))
    assert report.failures == ()
    assert (report.copied.runs, report.skipped, report.removed) == (10, TransferCounts(), 0)
    assert seen[-1] == (10, 10)
    assert files(copy) == files(source)
    with FileStoreConfig(root=str(copy)).connect() as store:
        assert export_store(FileStoreConfig(root=str(source)), store).skipped == report.copied

    for name in ("one.tar.zst", "two.tar.zst", "plain.tar"):
        assert export_store(copy, tmp_path / name).digests == report.digests
    command: list[str | Path] = [TARGET / "release/metalab-store", "export", "--from", source]
    command += ["--to", tmp_path / "command.tar.zst"]
    subprocess.run(command, check=True, capture_output=True)
    archives = [(tmp_path / f"{name}.tar.zst").read_bytes() for name in ("one", "two", "command")]
    assert archives[0] == archives[1] == archives[2]
    assert export_store(tmp_path / "one.tar.zst", again).digests == report.digests
    assert export_store(tmp_path / "plain.tar", again).skipped.runs == 10
    assert files(again) == files(source)


def test_what_is_selected_is_copied_and_what_differs_is_told(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    collection(source)
    chosen: dict[str, Any] = {"experiment_id": "b", "where": "metrics.loss >= 3", "include_artifacts": False}
    dry = export_store(source, copy, **chosen, dry_run=True)
    assert not copy.exists()
    assert export_store(source, copy, **chosen) == dry
    assert sorted(path.name for path in (copy / "b/runs").iterdir()) == ["run3.json", "run4.json"]
    assert not (copy / "a_1").exists()

    (copy / "b/runs/run3.json").write_text('{"run_id": "run3", "status": "failed"}')
    refused = export_store(source, copy, experiment_id=["b"])
    assert [failure.run_id for failure in refused.failures] == ["run3"]
    assert export_store(source, copy, experiment_id="b", existing="skip").failures == ()
    assert export_store(source, copy, experiment_id="b", overwrite=True).failures == ()


def test_a_copy_that_is_stopped_or_killed_is_finished_by_the_same_call(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    collection(source)

    def stop(_runs: int, _total: int) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        export_store(source, copy, progress_callback=stop)
    program = (
        "import os, signal, sys\n"
        "from metalab_store import export_store\n"
        "told = []\n"
        "def kill(runs, total):\n"
        "    told.append(runs)\n"
        "    if len(told) == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        "export_store(sys.argv[1], sys.argv[2], progress_callback=kill)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, source, copy], check=False)
    assert killed.returncode == -signal.SIGKILL
    report = export_store(source, copy)
    assert report.failures == ()
    assert report.skipped.files > 0
    assert files(copy) == files(source)


def test_what_cannot_be_copied_is_one_error_of_its_kind(tmp_path: Path) -> None:
    source, copy, text = tmp_path / "source", tmp_path / "copy", tmp_path / "text.tar.zst"
    collection(source)
    text.write_text("no archive")
    cases: list[tuple[Any, Any, dict[str, Any], type[Exception]]] = [
        (source, source, {}, InvalidArgumentError),
        (source, source / "inside", {}, InvalidArgumentError),
        (tmp_path / "nowhere", copy, {}, RootError),
        (tmp_path / "nowhere.tar", copy, {}, FileNotFoundError),
        (text, copy, {}, InvalidArgumentError),
        (text, tmp_path / "other.tar", {}, InvalidArgumentError),
        (text, copy, {"include_logs": False}, InvalidArgumentError),
        (source, text, {}, AlreadyExistsError),
        (source, copy, {"experiment_id": "c"}, NotFoundError),
        (source, copy, {"where": "loss <"}, InvalidQueryError),
    ]
    for begin, end, options, kind in cases:
        with pytest.raises(kind):
            export_store(begin, end, **options)


def test_two_exports_do_not_write_one_archive(tmp_path: Path) -> None:
    source, archive = tmp_path / "source", tmp_path / "a.tar.zst"
    collection(source)

    def again(_runs: int, _total: int) -> None:
        with pytest.raises(LockedError, match="another export"):
            export_store(source, archive)

    export_store(source, archive, progress_callback=again)
    assert not (tmp_path / "a.tar.zst.part").exists()
    assert export_store(archive, tmp_path / "copy").copied.runs == 10


def test_an_archive_within_the_store_that_it_is_made_of_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "store"
    config = FileStoreConfig(root=str(root), experiment_id="a:1")
    with config.connect() as store:
        store.put_run_record(RunRecord.success(run_id="r"))
    (tmp_path / "link").symlink_to(root)
    for place in (root / "new.tar.zst", root / "runs/new.tar", tmp_path / "link/new.tar"):
        with pytest.raises(InvalidArgumentError, match="would lie within"):
            export_store(config, place)
        assert not place.exists()
    export_store(config, tmp_path / "new.tar")
