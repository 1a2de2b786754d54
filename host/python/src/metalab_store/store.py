"""Open stores: the calls of the contract as methods with Python's own values."""

from __future__ import annotations

import gc
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from collections import deque
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, Self, TypeVar

from . import _artifacts
from ._instance import Resource
from .config import FileStoreConfig, PostgresStoreConfig, StoreConfig
from .errors import InvalidTypeError, ReadOnlyError, StoreError, UnrepresentableError, from_wire
from .records import (
    ArtifactDescriptor,
    RunRecord,
    descriptor_from_wire,
    descriptor_to_wire,
    dumps,
    loads,
    metric_from_wire,
    not_loaded,
    record_from_line,
    record_from_wire,
    record_to_text,
)

if TYPE_CHECKING:
    import pandas

_log = logging.getLogger(__name__)

#: How much of a list crosses at once, in bytes: first, for a beginning, and at most.
_PAGE = 128 << 10
_LARGEST_PAGE = 4 << 20
_MOST_LINES = 4096
#: How much of it is parsed at once, in characters: what is made of that should fit into the processor's cache.
_PIECE = 256 << 10
_LINE_FEED = "\n"

Config = TypeVar("Config", bound=StoreConfig)


@dataclass(frozen=True)
class Damage:
    """A file that could not be read as what it should be."""

    #: The file, relative to the store's directory.
    file: str
    #: The byte offset of the problem, where there is one.
    offset: int | None
    #: What is wrong with it, in one sentence.
    reason: str


class RunRecords(list[RunRecord]):
    """Run records, and the files that could not be read: they hide no record."""

    damaged: list[Damage]


@dataclass
class Page:
    """What a query found."""

    #: One dictionary a run: of the columns that it has, or the whole record as it is stored.
    rows: list[dict[str, Any]]
    #: The columns that the query named, in its order; none if it named none.
    columns: list[str] = field(default_factory=list)
    #: How many runs the filter matches: those before the cursor and beyond the limit too.
    total: int = 0
    #: What asks for the next runs, if the query had a limit and there are more.
    cursor: str | None = None
    #: The files found damaged.
    damaged: list[Damage] = field(default_factory=list)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def to_dataframe(self) -> pandas.DataFrame:
        """Returns the rows as a pandas DataFrame, which has to be installed."""
        import pandas

        return pandas.DataFrame(self.rows, columns=self.columns or None)


@dataclass(frozen=True)
class Field:
    """What some runs have in one field."""

    #: The field, as a query names it.
    field: str
    #: The types of its values, sorted.
    types: list[str]
    #: How many runs have it.
    runs: int
    #: The least number or time.
    min: Any
    #: The greatest.
    max: Any
    #: Different values, sorted; of a list, its items.
    values: list[Any]
    #: Whether these are all of them.
    complete: bool


@dataclass(frozen=True)
class Fields:
    """Which fields some runs have."""

    fields: list[Field]
    #: Whether these are all.
    complete: bool
    #: How many runs the filter matches.
    runs: int
    #: The files found damaged.
    damaged: list[Damage]

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)


@dataclass(frozen=True)
class LogChunk:
    """A piece of a log."""

    #: The text. Bytes that are not UTF-8 appear as U+FFFD; carriage returns are kept.
    text: str
    #: The byte offset to read on from.
    next_offset: int
    #: How many replacement characters stand for bytes that are not UTF-8.
    replaced: int
    #: Whether the end of the file was reached; more may be appended later.
    end: bool


@dataclass(frozen=True)
class ManifestHeader:
    """Which version of an experiment's manifest a body is."""

    experiment_id: str
    timestamp: str
    #: Counts manifests with an equal timestamp: 0 for the first.
    counter: int


class Store(Generic[Config]):
    """An open store. Threads may use it at once. `FileStoreConfig(…).connect()` opens one.

    Calls block, and let other threads of Python work meanwhile. A put that returned has the durability of the
    configuration.
    """

    def __init__(self, config: Config) -> None:
        """Opens the store of a configuration; its `connect` does the same."""
        self._config = config
        self._pool, self._warnings = config._open()
        for warning in self._warnings:
            _log.warning("%s", warning)

    @property
    def config(self) -> Config:
        """The configuration that the store was opened with."""
        return self._config

    @property
    def is_scoped(self) -> bool:
        """Whether the store is limited to an experiment."""
        return self._config.is_scoped

    @property
    def warnings(self) -> list[str]:
        """What the user should know, in sentences: about the configuration, and that nothing can be locked where the store
        lies, once a write has found that."""
        unlocked = self._pool.grant.unlocked
        return [*self._warnings, *([] if unlocked is None else [unlocked])]

    @property
    def root(self) -> Path:
        """The collection root."""
        return Path(self._config._root())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._config!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Makes everything durable and ends the store's work; later calls are `ClosedError`.

        Waits for calls that run. Closing again does nothing.
        """
        self._pool.close()

    def scoped(self, experiment_id: str) -> Self:
        """Opens the store of an experiment of this store's collection."""
        return type(self)(self._config.scoped(experiment_id))

    def get_working_directory(self) -> Path:
        """Returns the store's directory."""
        return Path(self._pool.call_plain("[method]store.get-working-directory"))

    # --- run records -----------------------------------------------------------------------------------------------

    def put_run_record(self, record: Any, *, expect: str | None = None) -> str:
        """Stores a run record whole, in place of an earlier one, and returns its revision.

        `expect` is the revision that the record has to have now, or an empty text if there must be none; another
        one is a `ConflictError`. Without it the last writer wins. An empty experiment id becomes the store's.
        """
        return self.put_run_text(record_to_text(record), expect=expect)

    def put_run_text(self, record: str, *, expect: str | None = None) -> str:
        """Stores a run record given as JSON text in the format of its file."""
        revision: str = self._pool.call("[method]store.put-run-text", record, _expectation(expect))
        return revision

    def put_run_records(self, records: Iterable[Any]) -> list[str | StoreError]:
        """Stores many records, each as durably as one. Returns what became of each: its revision or its error."""
        if not isinstance(records, Iterable):
            raise InvalidTypeError(f"the records: expected a list, not {type(records).__name__}")
        return self.put_run_lines("\n".join(map(record_to_text, records)))

    def put_run_lines(self, lines: str) -> list[str | StoreError]:
        """Stores many records, each on a line of JSON text. Empty lines are skipped and have no outcome."""
        outcomes = self._pool.call("[method]store.put-run-lines", lines)
        return [outcome if good else from_wire(outcome) for good, outcome in outcomes]

    def get_run_record(self, run_id: str) -> RunRecord | None:
        """Returns a run record, or None if there is no such run. `CorruptError` if its file is damaged."""
        text = self._pool.call("[method]store.get-typed-run-text", run_id)
        if text is None:
            return None
        with self._read_by_python("run-record", run_id):
            return record_from_line(loads(text))

    def get_versioned_run(self, run_id: str) -> tuple[str, RunRecord] | None:
        """Returns a run record after the revision to expect in a later put, or None."""
        found = self._pool.call("[method]store.get-versioned-run", run_id)
        if found is None:
            return None
        with self._read_by_python("run-record", run_id):
            return found["revision"], record_from_wire(found["record"])

    def get_run_text(self, run_id: str) -> str | None:
        """Returns the text of a run record's file as it is, or None."""
        text: str | None = self._pool.call("[method]store.get-run-text", run_id)
        return text

    def list_run_records(self, experiment_id: str | None = None) -> RunRecords:
        """Lists run records, of one experiment or of all, the newest start first.

        A file that cannot be read is in the answer's `damaged`, and hides no other.
        """
        found, runs = self._rows_of("[method]store.list-run-records", experiment_id, record_from_line)
        records = RunRecords(found)
        records.damaged = runs.damaged()
        for damage in records.damaged:
            _log.warning("%s is left out: %s", damage.file, damage.reason)
        return records

    def query(
        self,
        filter: str = "",
        *,
        sort: str = "",
        columns: str | Iterable[str] = "",
        limit: int | None = None,
        cursor: str | None = None,
        check: bool = False,
    ) -> Page:
        """Returns the runs that a query asks for, as dictionaries. `docs/query-language.md` is about queries.

        With `check`, every file is looked at, so that one that another program rewrote in place is noticed even if its
        run would not have been among the rows.
        """
        if not isinstance(columns, str):
            try:
                columns = ", ".join(columns)
            except TypeError as error:
                raise InvalidTypeError(f"columns: expected a text or a list of texts: {error}") from None
        query = {"filter": filter, "sort": sort, "columns": columns, "limit": limit, "cursor": cursor, "check": check}
        rows, runs = self._rows_of("[method]store.query-runs", query)
        return Page(rows, runs.columns(), runs.total(), runs.cursor(), runs.damaged())

    def fields(self, filter: str = "") -> Fields:
        """Returns which fields the runs have that a filter matches, and what is in them."""
        found = self._pool.call("[method]store.list-fields", filter)
        fields = [
            Field(
                field=summary["field"],
                types=summary["types"],
                runs=summary["runs"],
                min=_loaded(summary["min"]),
                max=_loaded(summary["max"]),
                values=[loads(value) for value in summary["values"]],
                complete=summary["complete"],
            )
            for summary in found["fields"]
        ]
        return Fields(fields, found["complete"], found["runs"], _damages(found["damaged"]))

    def run_exists(self, run_id: str) -> bool:
        """Says whether there is a file for the run's record, readable or not."""
        exists: bool = self._pool.call("[method]store.run-exists", run_id)
        return exists

    def delete_run(self, run_id: str) -> bool:
        """Deletes a run with everything that belongs to it, and says whether there was anything."""
        deleted: bool = self._pool.call("[method]store.delete-run", run_id)
        return deleted

    # --- derived metrics -------------------------------------------------------------------------------------------

    def put_derived(self, run_id: str, derived: Mapping[str, Any]) -> str:
        """Stores the derived metrics of a run, in place of earlier ones. The run need not exist."""
        revision: str = self._pool.call("[method]store.put-derived-text", run_id, dumps(derived))
        return revision

    def get_derived(self, run_id: str) -> dict[str, Any] | None:
        """Returns the derived metrics of a run, or None. `CorruptError` if their file is damaged."""
        text = self._pool.call("[method]store.get-derived-text", run_id)
        if text is None:
            return None
        found = _object(text)
        if found is None:
            metrics = self._pool.call("[method]store.get-derived", run_id) or ()
            with self._read_by_python("derived", run_id):
                found = {metric["name"]: metric_from_wire(metric["value"]) for metric in metrics}
        return found

    def derived_exists(self, run_id: str) -> bool:
        """Says whether a run has derived metrics."""
        exists: bool = self._pool.call("[method]store.derived-exists", run_id)
        return exists

    # --- structured results ----------------------------------------------------------------------------------------

    def put_result(
        self,
        run_id: str,
        name: str,
        data: Any,
        dtype: str | None = None,
        shape: Iterable[int] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Stores structured result data of a run, in place of earlier data of this name."""
        result = {
            "data": dumps(data),
            "dtype": dtype,
            "shape": shape,
            "metadata": dumps({} if metadata is None else metadata),
            "unknown": "{}",
        }
        revision: str = self._pool.call("[method]store.put-result", run_id, name, result)
        return revision

    def get_result(self, run_id: str, name: str) -> dict[str, Any] | None:
        """Returns structured result data with its `dtype`, `shape` and `metadata`, or None."""
        result = self._pool.call("[method]store.get-result", run_id, name)
        if result is None:
            return None
        with self._read_by_python("result", (run_id, name)):
            return {
                "data": loads(result["data"]),
                "dtype": result["dtype"],
                "metadata": loads(result["metadata"]),
                "shape": result["shape"],
                **loads(result["unknown"]),
            }

    def list_results(self, run_id: str) -> list[str]:
        """Lists the names of a run's results, sorted."""
        names: list[str] = self._pool.call("[method]store.list-results", run_id)
        return names

    # --- logs ------------------------------------------------------------------------------------------------------

    def put_log(self, run_id: str, name: str, content: str) -> None:
        """Stores a log whole, in place of an earlier one."""
        self._pool.call("[method]store.put-log", run_id, name, content)

    def append_log(self, run_id: str, name: str, content: str, *, sync: bool = False) -> int:
        """Appends to a log and returns its new size in bytes. With `sync`, it is durable then."""
        size: int = self._pool.call("[method]store.append-log", run_id, name, content, sync)
        return size

    def get_log(self, run_id: str, name: str) -> str | None:
        """Returns a log whole, or None. Carriage returns are kept."""
        text: str | None = self._pool.call("[method]store.get-log", run_id, name)
        return text

    def read_log(self, run_id: str, name: str, offset: int = 0, max_bytes: int = 256 * 1024) -> LogChunk | None:
        """Reads a piece of a log from a byte offset, or None if there is no such log."""
        chunk = self._pool.call("[method]store.read-log", run_id, name, offset, max_bytes)
        if chunk is None:
            return None
        return LogChunk(chunk["text"], chunk["next-offset"], chunk["replaced"], chunk["end"])

    def list_logs(self, run_id: str) -> list[str]:
        """Lists the names of a run's logs, sorted."""
        names: list[str] = self._pool.call("[method]store.list-logs", run_id)
        return names

    def get_log_path(self, run_id: str, name: str) -> Path:
        """Returns where a program may write a log itself. The directory exists then, the file need not."""
        return Path(self._pool.call("[method]store.get-log-path", run_id, name))

    # --- artifacts -------------------------------------------------------------------------------------------------

    def put_artifact(
        self, data: bytes | bytearray | memoryview | os.PathLike[str] | str, descriptor: Any
    ) -> ArtifactDescriptor:
        """Stores an artifact of bytes or from a file, and returns its descriptor as stored.

        The run is the metadata's `_run_id`, or else the first 16 characters of the artifact id. Size and hash are
        computed; if given, they are checked. `SourceNotFoundError`, a `FileNotFoundError`, if there is no such file.
        """
        wire = descriptor_to_wire(descriptor)
        if isinstance(data, (bytes, bytearray, memoryview)):
            content = bytes(data)
            if len(content) <= _artifacts.CHUNK:
                return descriptor_from_wire(self._pool.call("[method]store.put-artifact", content, wire))
            return self._import(content, wire)
        source = _artifacts.open_source(data)
        try:
            return self._import(source, wire)
        finally:
            os.close(source)

    def _import(self, source: int | bytes, wire: dict[str, Any]) -> ArtifactDescriptor:
        """Places an artifact's bytes in the store, and lets the component take them from there."""
        staged = self._pool.call("[method]store.stage-artifact", wire)
        # The component refuses to stage in a read-only store; the host's own descriptor could write there.
        if not self._pool.grant.writable:
            raise ReadOnlyError("the store was opened read-only")
        grant, durable = self._pool.grant, self._config.durability == "full"
        placed = _artifacts.place(grant.directory, staged, source, grant.known, durable=durable)
        try:
            return descriptor_from_wire(self._pool.call("[method]store.import-artifact", staged, wire))
        finally:
            grant.known.pop(placed, None)

    def get_artifact(self, uri: str) -> bytes:
        """Returns the bytes of an artifact. `FileNotFoundError` if there is none."""
        with self._reader(("uri", str(uri)), False) as reader:
            return _all_of(reader)

    def open_artifact(self, uri: str, *, verify: bool = False) -> BinaryIO:
        """Opens an artifact for reading. With `verify`, its content is hashed first: a difference is `CorruptError`."""
        return io.BufferedReader(self._reader(("uri", str(uri)), verify), _artifacts.CHUNK)

    def open_artifact_of(self, run_id: str, name: str, *, verify: bool = False) -> BinaryIO:
        """As `open_artifact`, by the run and the artifact's name."""
        return io.BufferedReader(self._reader(("name", (run_id, name)), verify), _artifacts.CHUNK)

    def _reader(self, artifact: tuple[str, Any], verify: bool) -> _artifacts.ArtifactReader:
        return _artifacts.ArtifactReader(self._pool.open_resource("[method]store.open-artifact", artifact, verify))

    def list_artifacts(self, run_id: str) -> list[ArtifactDescriptor]:
        """Lists the artifacts of a run; the one put last is last."""
        artifacts = self._pool.call("[method]store.list-artifacts", run_id)
        with self._read_by_python("artifact-manifest", run_id):
            return [descriptor_from_wire(wire) for wire in artifacts]

    # --- experiment manifests --------------------------------------------------------------------------------------

    def put_experiment_manifest(
        self, experiment_id: str, manifest: Mapping[str, Any], timestamp: str | None = None
    ) -> ManifestHeader:
        """Stores a manifest of an experiment. The timestamp is the local time by default."""
        header = self._pool.call("[method]store.put-experiment-manifest", experiment_id, dumps(manifest), timestamp)
        return _header(header)

    def get_experiment_manifest(self, experiment_id: str) -> dict[str, Any] | None:
        """Returns the newest manifest of an experiment, or None."""
        found = self._pool.call("[method]store.get-experiment-manifest", experiment_id)
        if found is None:
            return None
        with self._read_by_python("experiment-manifest", found["header"]):
            body: dict[str, Any] = loads(found["body"])
            return body

    def list_experiment_manifests(self, experiment_id: str) -> list[ManifestHeader]:
        """Lists the manifests of an experiment, the newest first."""
        return [_header(header) for header in self._pool.call("[method]store.list-experiment-manifests", experiment_id)]

    def _list(self, name: str, argument: Any) -> RunList:
        return RunList(self._pool.open_resource(name, argument))

    def _rows_of(self, name: str, argument: Any, make: Callable[[Any], Any] | None = None) -> tuple[list[Any], RunList]:
        """Returns all of a list: made out of typed lines, or the lines' own dictionaries."""
        runs = self._list(name, argument)
        rows: list[Any] = []
        try:
            with _not_collecting() as collect:
                for page in runs.pages(typed=make is not None):
                    rows.extend(page if make is None else map(make, page))
                    collect()
        except (RecursionError, ValueError):
            # Python cannot read one of them: which one, only each by itself tells.
            runs = self._list(name, argument)
            rows = list(runs.each(make))
        return rows, runs

    @contextmanager
    def _read_by_python(self, *document: Any) -> Iterator[None]:
        """Names the file of what the component could read, and Python cannot."""
        try:
            yield
        except UnrepresentableError as error:
            file: str = self._pool.call("[method]store.file-of", document)
            cause = error.__cause__
            raise not_loaded(cause if isinstance(cause, Exception) else error, file) from None


class FileStore(Store[FileStoreConfig]):
    """A store of files."""


@dataclass(frozen=True)
class IndexState:
    """What is known of a query index."""

    #: `none`, `current`, `behind` or `unreachable`.
    standing: str
    #: Notes of runs that it was not told of.
    pending: int
    #: Why it was not asked last, if it was not.
    trouble: str | None


@dataclass(frozen=True)
class OrphanedExperiment:
    """An experiment that a query index has something of, and whose directory is not in the collection any more."""

    #: The experiment, as `prune` takes it.
    experiment: str
    #: The runs that the index has of it. None, if it has manifests alone.
    runs: int


@dataclass(frozen=True)
class RebuildReport:
    """What the rebuild of an index found and did."""

    #: Runs with a record.
    runs: int
    #: Runs that the index did not know.
    added: int
    #: Runs of which it knew something else.
    changed: int
    #: Runs that it knew and that are gone.
    removed: int
    #: Manifests that were written to metalab's own tables.
    manifests: int
    #: Files that are no records, and are not in the index.
    damaged: list[Damage]
    #: Runs that were removed from the index because their experiment was to be pruned.
    pruned: int = 0
    #: Experiments with rows whose directories are not in the collection any more: the first 100.
    orphans: list[OrphanedExperiment] = field(default_factory=list)
    #: How many these are.
    orphan_count: int = 0


class PostgresStore(Store[PostgresStoreConfig]):
    """A store of files with PostgreSQL as query index."""

    @property
    def file_store(self) -> FileStore:
        """Opens a store of the same files without the index. Whoever asks for it closes it."""
        config = self.config
        return FileStoreConfig(
            root=config.file_root,
            experiment_id=config.experiment_id,
            read_only=config.read_only,
            durability=config.durability,
            lock_timeout=config.lock_timeout,
            limits=config.limits,
            max_instances=config.max_instances,
        ).connect()

    def index_state(self) -> IndexState:
        """Says how the query index is, without changing anything."""
        found = self._pool.call("[method]store.index-state")
        return IndexState(found["standing"], found["pending"], found["trouble"])

    def rebuild_index(self, progress: Callable[[int, int], object] | None = None, *, prune: str | Iterable[str] = ()) -> int:
        """Brings the query index up to date with the files, and returns how many runs there are.

        `progress` is called with how much of the present phase is done, and out of how much. What the index has of the experiments
        in `prune`, whose directories were removed, goes first; no file is touched. An experiment that has a directory is refused
        with `ValueError`.
        """
        return self.rebuild(progress, prune=prune).runs

    def rebuild(self, progress: Callable[[int, int], object] | None = None, *, prune: str | Iterable[str] = ()) -> RebuildReport:
        """As `rebuild_index`, and returns what was found and done."""
        experiments = [prune] if isinstance(prune, str) else list(prune)
        rebuild = self._pool.open_resource("[method]store.rebuild-index", experiments)
        try:
            while (step := rebuild.call("[method]index-rebuild.step")) is not None:
                if progress is not None:
                    progress(step["done"], step["total"])
            report = rebuild.call_plain("[method]index-rebuild.report")
        finally:
            rebuild.close()
        return RebuildReport(
            report["runs"],
            report["added"],
            report["changed"],
            report["removed"],
            report["manifests"],
            _damages(report["damaged"]),
            report["pruned"],
            [OrphanedExperiment(orphan["experiment"], orphan["runs"]) for orphan in report["orphans"]],
            report["orphan-count"],
        )


class RunList:
    """A list of the component, handed out a page at a time."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        #: What the component could read, and Python cannot.
        self._unread: list[Damage] = []

    def texts(self, *, typed: bool = False) -> Iterator[str]:
        """Returns pages of lines of JSON, each line ended by a line feed. Typed ones hold whole records of the contract's types."""
        name, limit = ("[method]run-list.next-typed-lines", (_MOST_LINES,)) if typed else ("[method]run-list.next-lines", ())
        size = _PAGE
        while text := self._resource.call(name, *limit, size):
            yield text
            size = min(size * 2, _LARGEST_PAGE)

    def pages(self, *, typed: bool) -> Iterator[list[dict[str, Any]]]:
        """Returns the records, or the rows of the query's columns, some at a time, as long as Python can read them."""
        for text in _ahead(self.texts(typed=typed)):
            for lines in _pieces(text):
                yield parsed_lines(lines)

    def each(self, make: Callable[[Any], Any] | None) -> Iterator[Any]:
        """Returns the same, of lines or made of typed ones. What Python cannot read is among the damaged."""
        for text in self.texts(typed=make is not None):
            files = self._resource.call_plain("[method]run-list.files")
            for line, file in zip_longest(text[:-1].split(_LINE_FEED), files, fillvalue=""):
                try:
                    row = json.loads(line)
                    yield row if make is None else make(row)
                except (RecursionError, ValueError) as error:
                    damage = not_loaded(error, file)
                    self._unread.append(Damage(damage.file, damage.offset, damage.message))

    def columns(self) -> list[str]:
        """Returns the names of the query's columns."""
        columns: list[str] = self._resource.call_plain("[method]run-list.columns")
        return columns

    def total(self) -> int:
        """Returns how many runs the filter matches."""
        total: int = self._resource.call_plain("[method]run-list.total")
        return total

    def cursor(self) -> str | None:
        """Returns the cursor of the next runs."""
        cursor: str | None = self._resource.call_plain("[method]run-list.cursor")
        return cursor

    def rows(self, limit: int) -> list[list[str | None]]:
        """Returns the next rows of the query's columns."""
        rows: list[list[str | None]] = self._resource.call_plain("[method]run-list.next-rows", limit)
        return rows

    def damaged(self) -> list[Damage]:
        """Returns the files found damaged so far."""
        damaged = _damages(self._resource.call_plain("[method]run-list.damaged"))
        return sorted([*damaged, *self._unread], key=lambda damage: damage.file) if self._unread else damaged


def parsed_lines(lines: str) -> list[dict[str, Any]]:
    """Returns what is on some lines of JSON, the last one without its line feed."""
    # One text is parsed in a fraction of the time that its lines take.
    parsed: list[dict[str, Any]] = json.loads(f"[{lines.replace(_LINE_FEED, ',')}]")
    return parsed


def _pieces(text: str) -> Iterator[str]:
    """Returns a page of lines in pieces of whole lines, without the line feed at the end of each."""
    start, end = 0, len(text) - 1
    while start < end:
        cut = text.find(_LINE_FEED, start + _PIECE, end)
        if cut < 0:
            cut = end
        yield text[start:cut]
        start = cut + 1


def _ahead(pages: Iterator[str]) -> Iterator[str]:
    """Fetches a page while the one before it is used: the component works without the lock of Python's interpreter."""
    first = next(pages, "")
    if len(first) < _PAGE // 2:
        # There is hardly another one, and a thread is dearer than that.
        if first:
            yield first
        yield from pages
        return
    with ThreadPoolExecutor(1) as thread:
        # Two, for the thread gets the lock to begin one only when a page has been parsed.
        following = deque(thread.submit(next, pages, "") for _ in range(2))
        page = first
        while page:
            yield page
            page = following.popleft().result()
            following.append(thread.submit(next, pages, ""))


@contextmanager
def _not_collecting() -> Iterator[Callable[[], object]]:
    """Keeps the collector of garbage from looking at thousands of new objects again and again.

    They are in no cycle, and it takes longer than to make them. It has to see them once: soonest, while they are in the
    processor's cache, is cheapest, so it does when what this gives is called.
    """
    if not gc.isenabled():
        yield lambda: None
        return
    gc.disable()
    try:
        yield lambda: gc.collect(0)
    finally:
        gc.enable()


def _expectation(expect: str | None) -> tuple[str, Any]:
    if expect is None:
        return "anything", None
    return ("absent", None) if expect == "" else ("revision", expect)


def _damages(damaged: list[dict[str, Any]]) -> list[Damage]:
    return [Damage(damage["file"], damage["offset"], damage["reason"]) for damage in damaged]


def _header(wire: dict[str, Any]) -> ManifestHeader:
    return ManifestHeader(wire["experiment-id"], wire["timestamp"], wire["counter"])


def _loaded(text: str | None) -> Any:
    return None if text is None else loads(text)


def _object(text: str) -> dict[str, Any] | None:
    """Returns the JSON object in a text, or None if there is none: what is wrong the component says."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _all_of(reader: _artifacts.ArtifactReader) -> bytes:
    # No more than it said: what the component hands out must not fill the host's memory.
    pieces, position = [], 0
    while position < reader.size and (piece := reader.read_at(position, _artifacts.CHUNK)):
        pieces.append(piece)
        position += len(piece)
    return b"".join(pieces)
