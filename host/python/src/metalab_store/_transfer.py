"""Copies between stores, and to and from archives.

All rules are the component's; this carries the stream between two instances of it. `docs/transfer.md` describes what is
copied and what is promised.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ._instance import Resource, Tool
from .config import PostgresStoreConfig, StoreConfig, parse_to_config
from .errors import AlreadyExistsError, DatabaseError, InvalidArgumentError, InvalidTypeError, LockedError, RootError, StoreError
from .store import Store

#: The most bytes of an archive that cross in one call.
_CHUNK = 256 * 1024

#: What an archive's name ends in.
_ARCHIVES = (".tar.zst", ".tar")

_EVERYTHING = {
    "experiments": [],
    "filter": "",
    "artifacts": True,
    "derived": True,
    "results": True,
    "logs": True,
}

Place = str | os.PathLike[str] | StoreConfig | Store[Any]


@dataclass(frozen=True)
class TransferCounts:
    """How much."""

    runs: int = 0
    files: int = 0
    bytes: int = 0

    def _plus(self, other: dict[str, int]) -> TransferCounts:
        return TransferCounts(
            self.runs + other["runs"], self.files + other["files"], self.bytes + other["bytes"]
        )


@dataclass(frozen=True)
class TransferFailure:
    """Something that was not copied, and why."""

    #: The experiment; empty for what belongs to none.
    experiment_id: str
    #: The run, if it is about one.
    run_id: str | None
    #: The file, if it is about one, relative to the experiment's directory.
    file: str | None
    #: What is wrong, in one sentence.
    reason: str


@dataclass(frozen=True)
class ExperimentDigest:
    """What an experiment holds, as one number: the same wherever the same content lies."""

    experiment_id: str
    #: How many runs it has.
    runs: int
    #: The digest, in hexadecimal.
    digest: str


@dataclass(frozen=True)
class TransferReport:
    """What became of a copy. Every run and file is counted once."""

    #: What was written.
    copied: TransferCounts = TransferCounts()
    #: What was there already, or was to be passed over.
    skipped: TransferCounts = TransferCounts()
    #: What was not copied.
    failed: TransferCounts = TransferCounts()
    #: How many files were removed: those of a replaced run that the source does not have.
    removed: int = 0
    #: What was not copied, and why; at most 10,000 for each experiment.
    failures: tuple[TransferFailure, ...] = ()
    #: The digests of what came, experiment by experiment.
    digests: tuple[ExperimentDigest, ...] = ()

    def _plus(self, found: dict[str, Any]) -> TransferReport:
        return TransferReport(
            self.copied._plus(found["copied"]),
            self.skipped._plus(found["skipped"]),
            self.failed._plus(found["failed"]),
            self.removed + found["removed"],
            self.failures
            + tuple(TransferFailure(**_underscored(failure)) for failure in found["failures"]),
            self.digests + tuple(ExperimentDigest(**_underscored(digest)) for digest in found["digests"]),
        )

    def _failing(self, failure: TransferFailure) -> TransferReport:
        return replace(self, failures=(*self.failures, failure))


def _underscored(record: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("-", "_"): value for name, value in record.items()}


def export_store(
    source: Place,
    destination: Place,
    *,
    experiment_id: str | Iterable[str] | None = None,
    where: str = "",
    include_derived: bool = True,
    include_logs: bool = True,
    include_results: bool = True,
    include_artifacts: bool = True,
    existing: Literal["fail", "skip", "overwrite"] = "fail",
    overwrite: bool = False,
    dry_run: bool = False,
    rewrite_uris: bool = False,
    max_archive_bytes: int | None = None,
    progress_callback: Callable[[int, int], object] | None = None,
) -> TransferReport:
    """Copies runs from one place to another, and says what became of each.

    A place is a locator, a configuration, an open store, or the path of an archive, which ends in `.tar.zst` or `.tar`.
    `experiment_id` names one experiment or several, `where` is a filter as `query` takes it. A run that the destination
    has with another content stays and is a failure, unless `existing` says otherwise; `overwrite=True` is
    `existing="overwrite"`.

    `progress_callback` is given how many runs were looked at, and how many there are, as far as it is known: both are
    0 for an archive. An exception of it stops the copy, and the same call goes on from there, as it does after a kill.
    What is wrong with one run ends nothing and is in the report: look at its `failures`.
    """
    if existing not in ("fail", "skip", "overwrite"):
        raise InvalidArgumentError(f"existing: there is no {existing!r}; there are fail, skip, overwrite")
    try:
        experiments = [experiment_id] if isinstance(experiment_id, str) else list(experiment_id or ())
    except TypeError as error:
        raise InvalidTypeError(f"experiment_id: {error}") from None
    selection = {
        "experiments": experiments,
        "filter": where,
        "artifacts": include_artifacts,
        "derived": include_derived,
        "results": include_results,
        "logs": include_logs,
    }
    options = {
        "existing": "overwrite" if overwrite else existing,
        "dry-run": dry_run,
        "rewrite-uris": rewrite_uris,
        "redirect": False,
    }
    begin, end = _place(source), _place(destination)
    _check(begin, end)
    with ExitStack() as stack:
        sender: _Sender | _Unpacked
        if isinstance(begin, Path):
            if selection != _EVERYTHING:
                raise InvalidArgumentError(
                    "an archive is copied whole: import it, and export from that store what is wanted"
                )
            sender = stack.enter_context(_Unpacked(begin, max_archive_bytes))
        else:
            sender = stack.enter_context(_Sender(begin, selection))
        if isinstance(end, StoreConfig):
            report = _into_store(sender, end, options, progress_callback)
        elif isinstance(sender, _Sender):
            report = _into_archive(sender, end, options, progress_callback)
        else:
            raise InvalidArgumentError("source and destination are both archives; copy the file")
        for damage in [] if experiments else sender.damaged():
            report = report._failing(TransferFailure("", None, damage["file"], damage["reason"]))
    return report


def _place(place: Place) -> StoreConfig | Path:
    if isinstance(place, Store):
        config: StoreConfig = place.config
        return config
    if isinstance(place, StoreConfig):
        return place
    try:
        text = os.fspath(place)
    except TypeError as error:
        raise InvalidTypeError(f"this is no place of runs: {error}") from None
    return Path(text) if text.endswith(_ARCHIVES) else parse_to_config(text)


def _check(source: StoreConfig | Path, destination: StoreConfig | Path) -> None:
    if isinstance(source, Path):
        return
    if isinstance(destination, Path):
        if destination.absolute().parent.resolve().is_relative_to(Path(source._root()).resolve()):
            raise InvalidArgumentError(
                f"the archive {destination} would lie within {source._root()}, which it is made of; name a place beside that"
            )
        return
    one, other = Path(source._root()), Path(destination._root())
    if one == other:
        raise InvalidArgumentError(f"source and destination are the same store, {one}")
    for outer, inner in ((one, other), (other, one)):
        if inner.is_relative_to(outer):
            raise InvalidArgumentError(f"{inner} lies within {outer}; name a destination beside the source")


class _Sender:
    """A store that hands the stream out."""

    def __init__(self, config: StoreConfig, selection: dict[str, Any]) -> None:
        self._store = replace(config, read_only=True, max_instances=1).connect()
        try:
            self._sender = self._store._pool.open_resource("send", selection, interface="transfer")
        except BaseException:
            self._store.close()
            raise

    def __enter__(self) -> _Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.close()
        self._store.close()

    def next(self) -> bytes:
        """Returns the next piece of the stream; an empty one is the end."""
        piece: bytes = self._sender.call("[method]sender.next-chunk")
        return piece

    def progress(self) -> tuple[int, int]:
        """Returns how many runs were looked at, and how many there are."""
        progress = self._sender.call_plain("[method]sender.progress")
        return progress["runs"], progress["total"]

    def damaged(self) -> list[dict[str, Any]]:
        """Returns what may be an experiment's directory and does not say whose."""
        damaged: list[dict[str, Any]] = self._sender.call_plain("[method]sender.damaged")
        return damaged

    def report(self) -> dict[str, Any]:
        """Returns what was handed out."""
        report: dict[str, Any] = self._sender.call_plain("[method]sender.report")
        return report


class _Unpacked:
    """An archive that the stream comes from."""

    def __init__(self, path: Path, limit: int | None) -> None:
        self._file: BinaryIO = path.open("rb")
        try:
            self._unpacker = Tool("transfer", "[constructor]unpacker", limit)
        except BaseException:
            self._file.close()
            raise
        self._ended = False

    def __enter__(self) -> _Unpacked:
        return self

    def __exit__(self, *_: object) -> None:
        self._unpacker.close()
        self._file.close()

    def next(self) -> bytes:
        """Returns the next piece of the stream; an empty one is the end."""
        while True:
            piece: bytes = self._unpacker.call("[method]unpacker.read", self._ended)
            if piece or self._ended:
                return piece
            packed = self._file.read(_CHUNK)
            self._ended = not packed
            self._unpacker.call("[method]unpacker.write", packed)

    def progress(self) -> tuple[int, int]:
        """An archive does not know how many runs it holds."""
        return 0, 0

    def damaged(self) -> list[dict[str, Any]]:
        """What an archive holds was told to be an experiment's."""
        return []


class _Destination:
    """A store that takes the stream."""

    def __init__(self, config: StoreConfig, options: dict[str, Any], handover: bytes | None) -> None:
        unwritten = replace(config, max_instances=1)
        self._stand_in: tempfile.TemporaryDirectory[str] | None = None
        try:
            self._store = (replace(unwritten, read_only=True) if options["dry-run"] else unwritten).connect()
        except RootError:
            if not options["dry-run"] or os.path.exists(config._root()):
                raise
            # An empty store stands for one that does not exist yet.
            self._stand_in = tempfile.TemporaryDirectory(prefix="metalab-store-")
            root: dict[str, Any] = {"root": self._stand_in.name}
            if isinstance(config, PostgresStoreConfig):
                root = {"file_root": self._stand_in.name}
            writer = replace(unwritten, **root)
            writer.connect().close()
            self._store = replace(writer, read_only=True).connect()
        try:
            wire = {**options, "redirect": handover is not None}
            self._receiver: Resource = self._store._pool.open_resource(
                "receive", wire, handover, interface="transfer"
            )
        except BaseException:
            self._store.close()
            raise

    def write(self, piece: bytes) -> dict[str, Any]:
        """Hands a piece of the stream over."""
        step: dict[str, Any] = self._receiver.call("[method]receiver.write", piece)
        return step

    def refuse(self, reason: str) -> None:
        """Passes over the part that belongs elsewhere."""
        self._receiver.call_plain("[method]receiver.refuse", reason)

    def finish(self, report: TransferReport) -> TransferReport:
        """Makes everything durable, and adds up what became of it."""
        found = self._receiver.call("[method]receiver.finish")
        self.close()
        return report._plus(found)

    def close(self) -> None:
        """Ends it; what is in place stays."""
        self._receiver.close()
        self._store.close()
        if self._stand_in is not None:
            self._stand_in.cleanup()
            self._stand_in = None


def _into_store(
    source: _Sender | _Unpacked,
    config: StoreConfig,
    options: dict[str, Any],
    progress: Callable[[int, int], object] | None,
) -> TransferReport:
    report = TransferReport()
    indexed = config if isinstance(config, PostgresStoreConfig) and not options["dry-run"] else None
    if indexed is not None:
        _check_database(indexed)
    destination = _Destination(config, options, None)
    try:
        while piece := source.next():
            while piece:
                step = destination.write(piece)
                piece = piece[step["consumed"] :]
                if (elsewhere := step["elsewhere"]) is None:
                    continue
                try:
                    scoped = config.scoped(elsewhere["experiment-id"])
                    following = _Destination(scoped, options, elsewhere["handover"])
                except StoreError as error:
                    destination.refuse(str(error))
                    continue
                report = destination.finish(report)
                destination = following
            if progress is not None:
                progress(*source.progress())
        report = destination.finish(report)
    except BaseException:
        destination.close()
        raise
    if indexed is not None:
        try:
            _update_database(indexed)
        except StoreError as error:
            told = f"the database does not know all of them yet: {error}; call `rebuild_index`"
            reason = f"the files are in place, and {told}"
            report = report._failing(TransferFailure("", None, None, reason))
    return report


def _check_database(config: PostgresStoreConfig) -> None:
    """Refuses a destination whose database does not answer, before anything is copied."""
    with replace(config, max_instances=1).connect() as store:
        if store.index_state().standing != "unreachable":
            return
        try:
            # A schema that has no tables yet gets them.
            store.rebuild_index()
        except DatabaseError as error:
            raise DatabaseError(
                f"nothing was copied: the destination's database cannot be used: {error}",
            ) from error


def _update_database(config: PostgresStoreConfig) -> None:
    with replace(config, max_instances=1).connect() as store:
        if store.index_state().standing != "current":
            store.rebuild_index()


def _into_archive(
    source: _Sender,
    path: Path,
    options: dict[str, Any],
    progress: Callable[[int, int], object] | None,
) -> TransferReport:
    if path.exists() and options["existing"] != "overwrite":
        raise AlreadyExistsError(f"the archive {path} exists already; pass overwrite=True to replace it")
    plain = path.suffix == ".tar"
    with ExitStack() as stack:
        packer = Tool("transfer", "[constructor]packer")
        stack.callback(packer.close)
        part = None if options["dry-run"] else stack.enter_context(_Part(path))
        while True:
            piece = source.next()
            if plain:
                packed = piece
            elif piece:
                packed = packer.call_plain("[method]packer.write", piece)
            else:
                packed = packer.call_plain("[method]packer.finish")
            if part is not None:
                part.write(packed)
            if not piece:
                break
            if progress is not None:
                progress(*source.progress())
        if part is not None:
            part.publish()
    return TransferReport()._plus(source.report())


class _Part:
    """An archive that is being written, beside the one that it becomes.

    It is locked as long as it is open, and has always the same name, so that what a killed export left is written over
    and no other export writes it too.
    """

    def __init__(self, becomes: Path) -> None:
        self._becomes = becomes
        self._path = becomes.with_name(becomes.name + ".part")
        self._published = False
        while True:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._file = os.fdopen(descriptor, "wb")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._file.close()
                raise LockedError(
                    f"another export is writing the archive {becomes}; wait for it, or name another archive"
                ) from error
            except OSError as error:
                # Without working locks, nobody else is told.
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    self._file.close()
                    raise
            # Who held the lock before may have renamed it meanwhile.
            try:
                same = os.path.samestat(os.lstat(self._path), os.fstat(descriptor))
            except FileNotFoundError:
                same = False
            if same:
                self._file.truncate(0)
                return
            self._file.close()

    def __enter__(self) -> _Part:
        return self

    def write(self, piece: bytes) -> None:
        """Writes a piece."""
        self._file.write(piece)

    def publish(self) -> None:
        """Puts it in place, durably."""
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(self._path, self._becomes)
        self._published = True
        directory = os.open(self._becomes.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def __exit__(self, *_: object) -> None:
        if not self._published:
            self._path.unlink(missing_ok=True)
        self._file.close()
