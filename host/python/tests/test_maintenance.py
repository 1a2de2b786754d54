"""Verifying, repairing and collecting garbage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from metalab_store import (
    ArtifactDescriptor,
    FileStoreConfig,
    Finding,
    Garbage,
    GarbageProgress,
    InvalidArgumentError,
    ReadOnlyError,
    RootError,
    RunRecord,
    VerifyProgress,
    collect_garbage,
    export_store,
    verify,
)

LONG_AGO = 1_700_000_000 * 10**9


@pytest.fixture
def collection(root: Path) -> Iterator[FileStoreConfig]:
    """A collection of two experiments, whose files have a time long ago."""
    config = FileStoreConfig(root=str(root))
    for experiment in ("a:1", "b"):
        with config.scoped(experiment).connect() as store:
            for run in ("r1", "r2"):
                descriptor = ArtifactDescriptor(run, "w", "blob", "bin", metadata={"_run_id": run})
                record = RunRecord.success(run_id=run, artifacts=[store.put_artifact(b"weights", descriptor)])
                store.put_run_record(record)
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(LONG_AGO, LONG_AGO))
    yield config


def change_behind(path: Path) -> None:
    """Changes a byte of a file, and gives it back the time that it had."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))


def kinds(findings: list[Finding]) -> list[tuple[str, str, str | None]]:
    return sorted((finding.kind, finding.file, finding.run_id) for finding in findings)


def test_a_sound_collection_is_verified_with_progress_and_without_findings(collection: FileStoreConfig) -> None:
    seen: list[VerifyProgress] = []
    report = verify(collection, progress=seen.append)
    assert (report.findings, report.is_sound, report.runs, report.damage) == ([], True, 4, 0)
    assert report.files == report.fresh > 8 and report.bytes > 0
    assert seen[-1].phase == "done" and {step.directory for step in seen} >= {"a_1", "b"}
    assert [step.bytes for step in seen] == sorted(step.bytes for step in seen)
    moved = export_store(collection, collection.root + "-copy")
    # The numbers are those that a transfer computes.
    assert sorted(moved.digests, key=str) == sorted(report.digests, key=str) != []
    assert verify(collection).fresh == 0


def test_what_is_damaged_is_found_by_name_and_what_has_one_answer_is_repaired(
    collection: FileStoreConfig, root: Path
) -> None:
    verify(collection)
    change_behind(root / "a_1/artifacts/r1/w.bin")
    (root / "b/artifacts/r2/_manifest.json").write_text("{")
    told: list[Finding] = []
    report = verify(root, on_finding=told.append)
    assert told == report.findings and not report.is_sound
    assert kinds(report.findings) == [
        ("altered", "a_1/artifacts/r1/w.bin", "r1"),
        ("artifact-differs", "a_1/artifacts/r1/w.bin", "r1"),
        ("changed", "b/artifacts/r2/_manifest.json", "r2"),
        ("unreadable", "b/artifacts/r2/_manifest.json", "r2"),
    ]
    assert {finding.severity for finding in told} == {"damage", "warning"}
    assert all(finding.reason and finding.way_out and finding.repaired is None for finding in told)

    repaired = verify(collection, repair=True)
    assert [finding.file for finding in repaired.findings if finding.repaired] == ["b/artifacts/r2/_manifest.json"]
    assert repaired.repaired == 1 and repaired.damage == 2
    with collection.scoped("b").connect() as store:
        assert [artifact.name for artifact in store.list_artifacts("r2")] == ["w"]
        # An open store is verified too.
        assert verify(store).is_sound


def test_what_a_callback_raises_ends_a_verification(collection: FileStoreConfig, root: Path) -> None:
    class Enough(Exception):
        pass

    def stop(_: object) -> None:
        raise Enough

    with pytest.raises(Enough):
        verify(collection, progress=stop)
    (root / "a_1/runs/r1.json").write_text("{")
    with pytest.raises(Enough):
        verify(collection, on_finding=stop)
    # It noted nothing, and nothing is left that would be in the way.
    assert kinds(verify(collection).findings) == [("unreadable", "a_1/runs/r1.json", "r1")]


def test_garbage_is_listed_and_only_removed_when_told(collection: FileStoreConfig, root: Path) -> None:
    left = root / "a_1/artifacts/r1/old.bin"
    left.write_bytes(b"nobody's")
    seen: list[GarbageProgress] = []
    told: list[Garbage] = []
    listed = collect_garbage(collection, grace=0, progress=seen.append, on_found=told.append)
    assert [(garbage.kind, garbage.file, garbage.bytes, garbage.kept) for garbage in told] == [
        ("unlisted", "a_1/artifacts/r1/old.bin", 8, None)
    ]
    assert listed.found == told and (listed.files, listed.bytes) == (1, 8)
    assert {step.directory for step in seen} == {"", "a_1", "b"} and left.exists()

    # Young files may be a writer's.
    young = collect_garbage(collection, apply=True)
    assert (young.files, young.kept_files) == (0, 1) and young.found[0].kept is not None
    removed = collect_garbage(collection, apply=True, grace=0)
    assert removed.files == 1 and not left.exists()
    assert (root / "a_1/artifacts/r1/w.bin").exists() and verify(collection).is_sound


def test_garbage_of_all_others_is_removed_where_one_store_cannot_be_opened(collection: FileStoreConfig, root: Path) -> None:
    left = root / "b/artifacts/r1/old.bin"
    left.write_bytes(b"nobody's")
    # Something lies in the place of a directory.
    shutil.rmtree(root / "a_1/runs")
    (root / "a_1/runs").write_bytes(b"")
    # And one that does not say whose it is.
    (root / "c").mkdir()
    (root / "c/_meta.json").write_bytes(b"{")
    for apply, unseen in ((False, ["a_1/runs", "c/_meta.json"]), (True, ["a:1", "c/_meta.json"])):
        report = collect_garbage(collection, apply=apply, grace=0)
        assert (report.files, report.unseen) == (1, 2) and left.exists() is not apply
        kept = [(garbage.file, garbage.kept) for garbage in report.found if garbage.kind == "unreadable"]
        assert kept == [(file, "what is in it was not looked at") for file in unseen]


def test_maintenance_makes_nothing_and_repairs_nothing_that_is_read_only(
    collection: FileStoreConfig, root: Path, tmp_path: Path
) -> None:
    for work in (verify, collect_garbage):
        with pytest.raises(RootError):
            work(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    read_only = FileStoreConfig(root=str(root), read_only=True)
    assert verify(read_only).is_sound and not (root / "a_1/.index/digests").exists()
    with pytest.raises(ReadOnlyError):
        verify(read_only, repair=True)
    with pytest.raises(ReadOnlyError):
        collect_garbage(read_only.scoped("b"), apply=True)
    for grace in (-1.0, float("nan")):
        with pytest.raises(InvalidArgumentError):
            collect_garbage(collection, grace=grace)
