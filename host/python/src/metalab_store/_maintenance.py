"""Verifying a store, repairing what has one right answer, and removing what dead writers left.

All rules are the component's; `docs/verify.md` says what they are. This opens the stores of a collection's experiments one
after the other where they are to be changed: an instance of the component can lock the runs of its own directory alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ._transfer import ExperimentDigest
from .config import StoreConfig, parse_to_config
from .errors import AlreadyExistsError, InvalidArgumentError, InvalidTypeError, IoError, ReadOnlyError, StoreError
from .store import Store

Severity = Literal["damage", "warning", "orphan", "leftover"]

#: What is verified: a locator, a configuration or an open store.
Verifiable = str | os.PathLike[str] | StoreConfig | Store[Any]


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    #: How bad it is.
    severity: Severity
    #: What it is: `unreadable`, `altered`, …; `docs/verify.md` lists them.
    kind: str
    #: The file or directory, relative to the collection's root, or to the directory of the experiment's store.
    file: str
    #: The run that it belongs to.
    run_id: str | None
    #: What is wrong, in one sentence.
    reason: str
    #: What can be done about it, in one sentence.
    way_out: str
    #: What was done about it, if it was put right.
    repaired: str | None


@dataclass(frozen=True)
class VerifyProgress:
    """How far a verification is."""

    #: The directory, relative to the store's; empty for the store's own.
    directory: str
    #: `journal`, `runs`, `other files`, `index`, `database` or `done`.
    phase: str
    #: How much of the phase is done.
    done: int
    #: Out of how much.
    total: int
    #: The bytes read so far.
    bytes: int


@dataclass
class VerifyReport:
    """What was looked at, and what was found."""

    runs: int = 0
    files: int = 0
    #: Bytes that were read.
    bytes: int = 0
    #: Files of which nothing was known before.
    fresh: int = 0
    #: Files that this store's own writers replaced since, or that have only grown.
    replaced: int = 0
    #: Damaged things that are not put right.
    damage: int = 0
    warnings: int = 0
    #: Things that belong to nothing.
    orphans: int = 0
    #: Things that dead writers left.
    leftovers: int = 0
    #: Findings that were put right.
    repaired: int = 0
    #: What each experiment holds, as one number: the same that a transfer computes.
    digests: list[ExperimentDigest] = field(default_factory=list)
    #: What was found.
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether there is no damage that is not repaired."""
        return self.damage == 0


@dataclass(frozen=True)
class Garbage:
    """Something that a dead writer left, or that belongs to nothing."""

    #: What it is.
    kind: str
    #: The file, relative to the collection's root, or to the directory of the experiment's store.
    file: str
    #: Its size in bytes.
    bytes: int
    #: Why it is not needed, in one sentence.
    reason: str
    #: Why it stays; None if it is removed, or would be.
    kept: str | None


@dataclass(frozen=True)
class GarbageProgress:
    """How far a collection of garbage is."""

    #: The directory, relative to the store's; empty for the store's own.
    directory: str
    #: The runs looked at.
    runs: int
    #: The runs there are.
    total: int


@dataclass
class GarbageReport:
    """What was found, and what became of it."""

    #: The files that were removed, or would be.
    files: int = 0
    bytes: int = 0
    #: The files that stay.
    kept_files: int = 0
    kept_bytes: int = 0
    #: Directories that could not be looked at: what is left in them is not known.
    unseen: int = 0
    #: All of them.
    found: list[Garbage] = field(default_factory=list)


def verify(
    store: Verifiable,
    *,
    repair: bool = False,
    progress: Callable[[VerifyProgress], object] | None = None,
    on_finding: Callable[[Finding], object] | None = None,
) -> VerifyReport:
    """Reads every file of a store, of a collection all of it, and says what is not as it should be.

    A store that may be written notes what each file was, for the next time. With `repair`, what has exactly one right answer
    is put right. `progress` is called often, `on_finding` for each finding; an exception of theirs stops it, and what was put
    right stays so. What is wrong with a file, or with one experiment, is a finding and ends nothing.
    """
    config = _config(store)
    report = VerifyReport()
    work = _Verification(report, progress, on_finding)
    # What does not exist is not made.
    replace(config, read_only=True, max_instances=1).connect().close()
    if config.is_scoped or not repair:
        with _writer(config) if repair else _writer_or_reader(config) as opened:
            work.run(opened, "", repair=repair, below=True)
        return report
    list_ = config.list_experiments()
    for experiment in list_:
        try:
            opened = _writer(config.scoped(experiment))
        except StoreError as error:
            work.unverified(experiment, _not_opened(experiment, error), "open it by itself when that is put right")
            continue
        with opened:
            work.run(opened, _directory_of(config, opened), repair=True, below=False)
    for damage in getattr(list_, "damaged", []):
        work.unverified(damage["file"], damage["reason"], "restore its _meta.json, or move it away")
    with _writer(config) as opened:
        work.run(opened, "", repair=True, below=False)
    return report


def collect_garbage(
    store: Verifiable,
    *,
    apply: bool = False,
    grace: float = 86_400.0,
    progress: Callable[[GarbageProgress], object] | None = None,
    on_found: Callable[[Garbage], object] | None = None,
) -> GarbageReport:
    """Looks for what dead writers left in a store, in all of a collection, and removes it with `apply`.

    What was changed within `grace` seconds stays. `progress` is called often, `on_found` for everything that is found; an
    exception of theirs stops it, and what was removed stays so. A directory or a store of a collection that cannot be looked at is
    told as something that stays, with the reason, and counted as unseen; all others are done.
    """
    if not isinstance(grace, (int, float)):
        raise InvalidTypeError(f"grace: expected a number of seconds, not {type(grace).__name__}")
    if not grace >= 0:
        raise InvalidArgumentError(f"a grace period of {grace} seconds makes no sense; it is 0 or more")
    config = _config(store)
    report = GarbageReport()
    options = {"apply": apply, "grace-seconds": int(min(grace, float(1 << 62)))}
    open_ = _writer if apply else _writer_or_reader
    # What does not exist is not made.
    replace(config, read_only=True, max_instances=1).connect().close()
    list_ = [] if config.is_scoped else config.list_experiments()
    for experiment in list_:
        try:
            opened = open_(config.scoped(experiment))
        except StoreError as error:
            _unseen(report, experiment, _not_opened(experiment, error), on_found)
            continue
        with opened:
            _collect_one(opened, options, _directory_of(config, opened), report, progress, on_found)
    for damage in getattr(list_, "damaged", []):
        _unseen(report, damage["file"], damage["reason"], on_found)
    with open_(config) as opened:
        _collect_one(opened, options, "", report, progress, on_found)
    return report


def _config(store: Verifiable) -> StoreConfig:
    if isinstance(store, Store):
        config: StoreConfig = store.config
        return config
    return store if isinstance(store, StoreConfig) else parse_to_config(os.fspath(store))


def _writer(config: StoreConfig) -> Store[Any]:
    return replace(config, max_instances=1).connect()


def _writer_or_reader(config: StoreConfig) -> Store[Any]:
    """Opens a store to write; to read where that is not allowed.

    So too where something lies in the place of one of its directories: then it is a finding.
    """
    try:
        return _writer(config)
    except (ReadOnlyError, AlreadyExistsError):
        pass
    except IoError as error:
        if error.reason != "access":
            raise
    return replace(config, read_only=True, max_instances=1).connect()


def _directory_of(config: StoreConfig, store: Store[Any]) -> str:
    """Returns the name of a store's directory in its collection."""
    return os.path.relpath(store.get_working_directory(), config._root())


def _within(directory: str, file: str) -> str:
    return "/".join(filter(None, (directory, file)))


def _not_opened(experiment: str, error: StoreError) -> str:
    return f"the store of experiment {json.dumps(experiment, ensure_ascii=False)} cannot be opened: {error}"


def _unseen(report: GarbageReport, file: str, reason: str, on_found: Callable[[Garbage], object] | None) -> None:
    """Tells of a directory whose garbage is not looked for."""
    report.unseen += 1
    _tell(report, Garbage("unreadable", file, 0, reason, "what is in it was not looked at"), on_found)


def _tell(report: GarbageReport, garbage: Garbage, on_found: Callable[[Garbage], object] | None) -> None:
    report.found.append(garbage)
    if on_found is not None:
        on_found(garbage)


class _Verification:
    """Verifies stores one after the other, and adds up what was found."""

    def __init__(
        self,
        report: VerifyReport,
        progress: Callable[[VerifyProgress], object] | None,
        on_finding: Callable[[Finding], object] | None,
    ) -> None:
        self._report = report
        self._progress = progress
        self._on_finding = on_finding

    def unverified(self, file: str, reason: str, way_out: str) -> None:
        """Tells of a directory that cannot be verified."""
        self._report.damage += 1
        self._tell(Finding("damage", "unreadable", file, None, reason, way_out, None))

    def _tell(self, finding: Finding) -> None:
        self._report.findings.append(finding)
        if self._on_finding is not None:
            self._on_finding(finding)

    def run(self, store: Store[Any], directory: str, *, repair: bool, below: bool) -> None:
        """Verifies a store."""
        report, before = self._report, self._report.bytes
        options = {"repair": repair, "below": below}
        verification = store._pool.open_resource("verify", options, interface="maintenance")
        try:
            step: dict[str, Any] | None = {}
            while step is not None:
                step = verification.call("[method]verification.step")
                for one in verification.call_plain("[method]verification.findings"):
                    self._tell(
                        Finding(
                            one["severity"],
                            one["kind"],
                            _within(directory, one["file"]),
                            one["run-id"],
                            one["reason"],
                            one["way-out"],
                            one["repaired"],
                        )
                    )
                if step is not None and self._progress is not None:
                    where = _within(directory, step["directory"])
                    read = before + step["bytes"]
                    self._progress(VerifyProgress(where, step["phase"], step["done"], step["total"], read))
            part = verification.call_plain("[method]verification.report")
        finally:
            verification.close()
        report.digests += [
            ExperimentDigest(digest["experiment-id"], digest["runs"], digest["digest"]) for digest in part.pop("digests")
        ]
        for name, count in part.items():
            setattr(report, name, getattr(report, name) + count)


def _collect_one(
    store: Store[Any],
    options: dict[str, Any],
    directory: str,
    report: GarbageReport,
    progress: Callable[[GarbageProgress], object] | None,
    on_found: Callable[[Garbage], object] | None,
) -> None:
    collection = store._pool.open_resource("collect-garbage", options, interface="maintenance")
    try:
        step: dict[str, Any] | None = {}
        while step is not None:
            step = collection.call("[method]collection.step")
            for one in collection.call_plain("[method]collection.found"):
                file = _within(directory, one["file"])
                _tell(report, Garbage(one["kind"], file, one["bytes"], one["reason"], one["kept"]), on_found)
            if step is not None and progress is not None:
                progress(GarbageProgress(directory, step["runs"], step["total"]))
        part = collection.call_plain("[method]collection.report")
    finally:
        collection.close()
    report.files += part["files"]
    report.bytes += part["bytes"]
    report.kept_files += part["kept-files"]
    report.kept_bytes += part["kept-bytes"]
    report.unseen += part["unseen"]
