"""The data of the store: run records, artifact descriptors, provenance, and their text.

Everything is accepted by its attributes, not by its class, so that the records of another library can be stored as
they are. Nothing here knows what is valid: that is the component's to say.
"""

from __future__ import annotations

import json
import traceback as _traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Self, SupportsIndex

from .errors import InvalidArgumentError, InvalidTypeError, UnrepresentableError

#: The value of a metric.
Metric = float | int | str | bool


class Status(str, Enum):
    """How a run ended, or that it has not."""

    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RUNNING = "running"

    def __str__(self) -> str:
        return self.value


@dataclass
class Provenance:
    """Where a run's code ran, and which code it was."""

    code_hash: str | None = None
    python_version: str | None = None
    metalab_version: str | None = None
    executor_id: str | None = None
    host: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    #: Keys that this version does not know; kept when the record is stored again.
    unknown: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass
class ArtifactDescriptor:
    """What the store knows about an artifact."""

    artifact_id: str
    name: str
    kind: str = "blob"
    format: str = "binary"
    uri: str = ""
    content_hash: str | None = None
    size_bytes: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    #: Keys that this version does not know.
    unknown: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass
class RunRecord:
    """One run of an experiment.

    A time that the file does not have is None. It is written as `isoformat` prints it, a text as it is, and a time that was
    read as it was written.
    """

    run_id: str
    experiment_id: str
    status: Status
    context_fingerprint: str
    params_fingerprint: str
    seed_fingerprint: str
    started_at: datetime | None
    finished_at: datetime | None
    duration_ms: int
    metrics: dict[str, Metric] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    error: dict[str, Any] | None = None
    params_resolved: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    notes: str | None = None
    artifacts: list[ArtifactDescriptor] = field(default_factory=list)
    #: Top-level keys that this version does not know; kept when the record is stored again.
    unknown: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def success(cls, **fields: Any) -> Self:
        """Makes the record of a run that finished. Ids default to an empty text, times to now."""
        return cls._made(Status.SUCCESS, fields)

    @classmethod
    def failed(
        cls,
        *,
        error: BaseException | Mapping[str, Any] | None = None,
        error_type: str = "",
        error_message: str = "",
        error_traceback: str | None = None,
        **fields: Any,
    ) -> Self:
        """Makes the record of a run that ended with an error: an exception, its dictionary, or its parts."""
        if isinstance(error, BaseException):
            told: dict[str, Any] = {
                "type": type(error).__name__,
                "message": str(error),
                "traceback": "".join(_traceback.format_exception(error)),
            }
        elif error is not None:
            told = dict(error)
        else:
            told = {"type": error_type, "message": error_message, "traceback": error_traceback}
        return cls._made(Status.FAILED, {**fields, "error": told})

    @classmethod
    def cancelled(cls, **fields: Any) -> Self:
        """Makes the record of a run that was stopped on request."""
        return cls._made(Status.CANCELLED, fields)

    @classmethod
    def running(cls, **fields: Any) -> Self:
        """Makes the record of a run that has not finished: it ends when it started, after no time."""
        started = fields.setdefault("started_at", datetime.now())
        fields.setdefault("finished_at", started)
        fields.setdefault("duration_ms", 0)
        return cls._made(Status.RUNNING, fields)

    @classmethod
    def _made(cls, status: Status, fields: dict[str, Any]) -> Self:
        now = datetime.now()
        for name in ("run_id", "experiment_id", "context_fingerprint", "params_fingerprint", "seed_fingerprint"):
            fields.setdefault(name, "")
        started = fields.setdefault("started_at", now)
        finished = fields.setdefault("finished_at", now)
        if "duration_ms" not in fields:
            known = isinstance(started, datetime) and isinstance(finished, datetime)
            fields["duration_ms"] = int((finished - started).total_seconds() * 1000) if known else 0
        return cls(status=status, **fields)


def dumps(value: Any) -> str:
    """Returns the text of a value. What is not JSON is an `InvalidArgumentError`, before anything is written.

    Keys are sorted here already, since keys of several types cannot be, and that is to be an error too.
    """
    try:
        return json.dumps(value, sort_keys=True)
    except TypeError as error:
        raise InvalidTypeError(f"this is not JSON: {error}") from error
    except ValueError as error:
        raise InvalidArgumentError(f"this is not JSON: {error}") from error
    except RecursionError:
        raise InvalidArgumentError("this is not JSON: it nests too deep") from None


def _taken(what: str, take: Callable[[Any], dict[str, Any]], given: Any) -> dict[str, Any]:
    """Takes something by its attributes; what lacks them is an `InvalidArgumentError`."""
    try:
        return take(given)
    except KeyError as error:
        raise InvalidArgumentError(f"{what} has no {error}") from error
    except (AttributeError, TypeError) as error:
        raise InvalidTypeError(f"{what} is none: {error}") from error


def loads(text: str) -> Any:
    """Returns the value of JSON text of the store. Python cannot read all of it: `UnrepresentableError`."""
    try:
        return json.loads(text)
    except (RecursionError, ValueError) as error:
        raise not_loaded(error) from None


def not_loaded(error: Exception, file: str = "") -> UnrepresentableError:
    """Says why Python cannot read JSON that the component takes."""
    # Sound it is: the component has read it. Python counts the frames of its caller too.
    reason = "it nests too deep" if isinstance(error, RecursionError) else str(error)
    made = UnrepresentableError(f"{file or 'this'} cannot be read by Python's json: {reason}; read it as text")
    made.file = file
    made.__cause__ = error
    return made


class WrittenTime(datetime):
    """A time that was read, and was written in another way than `isoformat` prints it.

    It is stored again as it was written. What is made of it (by `replace`, `astimezone` or arithmetic) is not.
    """

    #: The text, if this is what was read.
    written: str | None = None

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return super().__reduce_ex__(protocol) if self.written is None else (_parsed, (self.written,))


def _time(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    return getattr(value, "written", None) or value.isoformat()


def _object(value: Any) -> Any:
    # An empty list is no object, and is the component's to refuse.
    return {} if value is None else value


def provenance_to_dict(provenance: Any) -> dict[str, Any]:
    """Returns a provenance as it is stored."""
    if provenance is None or isinstance(provenance, Mapping):
        return dict(provenance or {})
    return {
        **(getattr(provenance, "unknown", None) or {}),
        "code_hash": getattr(provenance, "code_hash", None),
        "python_version": getattr(provenance, "python_version", None),
        "metalab_version": getattr(provenance, "metalab_version", None),
        "executor_id": getattr(provenance, "executor_id", None),
        "host": getattr(provenance, "host", None),
        "extra": _object(getattr(provenance, "extra", None)),
    }


def artifact_to_dict(artifact: Any) -> dict[str, Any]:
    """Returns a descriptor as it is stored."""
    if isinstance(artifact, Mapping):
        return dict(artifact)
    return {
        **(getattr(artifact, "unknown", None) or {}),
        "artifact_id": artifact.artifact_id,
        "name": artifact.name,
        "kind": getattr(artifact, "kind", "blob"),
        "format": getattr(artifact, "format", "binary"),
        "uri": getattr(artifact, "uri", "") or "",
        "content_hash": getattr(artifact, "content_hash", None),
        "size_bytes": getattr(artifact, "size_bytes", None),
        "metadata": _object(getattr(artifact, "metadata", None)),
    }


def record_to_dict(record: Any) -> dict[str, Any]:
    """Returns a record as it is stored."""
    status = record.status
    return {
        **(getattr(record, "unknown", None) or {}),
        "run_id": record.run_id,
        "experiment_id": record.experiment_id,
        "status": status.value if isinstance(status, Enum) else status,
        "context_fingerprint": getattr(record, "context_fingerprint", ""),
        "params_fingerprint": getattr(record, "params_fingerprint", ""),
        "seed_fingerprint": getattr(record, "seed_fingerprint", ""),
        "started_at": _time(getattr(record, "started_at", None)),
        "finished_at": _time(getattr(record, "finished_at", None)),
        "duration_ms": getattr(record, "duration_ms", 0),
        "metrics": _object(getattr(record, "metrics", None)),
        "provenance": provenance_to_dict(getattr(record, "provenance", None)),
        "error": getattr(record, "error", None),
        "params_resolved": _object(getattr(record, "params_resolved", None)),
        "tags": list(getattr(record, "tags", None) or ()),
        "warnings": list(getattr(record, "warnings", None) or ()),
        "notes": getattr(record, "notes", None),
        "artifacts": [artifact_to_dict(artifact) for artifact in getattr(record, "artifacts", None) or ()],
    }


def record_to_text(record: Any) -> str:
    """Returns a record's text."""
    return dumps(_taken("the record", record_to_dict, record))


_STATUS = {status.value: status for status in Status}
_ARTIFACT_KEYS = frozenset(
    ("artifact_id", "name", "kind", "format", "uri", "content_hash", "size_bytes", "metadata")
)


def _parsed(value: str | None, parse: Any = datetime.fromisoformat) -> datetime | None:
    if value is None:
        return None
    time: datetime = parse(value)
    # With months, six digits after the second and no zone it is printed as it was read. Printing takes longer than reading.
    if len(value) == 26 and value[10::9] == "T." and value[5] != "W" and time.tzinfo is None and time.microsecond:
        return time
    if time.isoformat() == value:
        return time
    # `Z`, nine digits after the second, a week: a time is kept as it was written.
    kept = WrittenTime.fromisoformat(value)
    kept.written = value
    return kept


def record_from_line(data: dict[str, Any]) -> RunRecord:
    """Returns the record of one of the component's typed lines, and keeps the dictionary."""
    # Thousands are made at once: not by the constructors, and of the dictionaries that are there. What is in them the
    # component has checked.
    del data["_schema_version"]
    data["status"] = _STATUS[data["status"]]
    data["started_at"] = _parsed(data["started_at"])
    data["finished_at"] = _parsed(data["finished_at"])
    provenance, artifacts = data["provenance"], data["artifacts"]
    if "unknown" not in provenance:
        provenance["unknown"] = {}
    data["provenance"] = made = _new(Provenance)
    made.__dict__ = provenance
    for index, artifact in enumerate(artifacts):
        if "unknown" not in artifact:
            artifact["unknown"] = {}
        artifacts[index] = made = _new(ArtifactDescriptor)
        made.__dict__ = artifact
    if "unknown" not in data:
        data["unknown"] = {}
    record: RunRecord = _new(RunRecord)
    record.__dict__ = data
    return record


_new: Any = object.__new__


def descriptor_to_wire(descriptor: Any) -> dict[str, Any]:
    """Returns a descriptor as the contract has it."""
    return _taken("the descriptor", _descriptor_to_wire, descriptor)


def _descriptor_to_wire(descriptor: Any) -> dict[str, Any]:
    data = artifact_to_dict(descriptor)
    return {
        "artifact-id": data["artifact_id"],
        "name": data["name"],
        "kind": data["kind"],
        "format": data["format"],
        "uri": data["uri"],
        "content-hash": data["content_hash"],
        "size-bytes": data["size_bytes"],
        "metadata": dumps(data["metadata"]),
        "unknown": dumps({key: value for key, value in data.items() if key not in _ARTIFACT_KEYS}),
    }


def descriptor_from_wire(wire: dict[str, Any]) -> ArtifactDescriptor:
    """Returns a descriptor of the contract."""
    return ArtifactDescriptor(
        artifact_id=wire["artifact-id"],
        name=wire["name"],
        kind=wire["kind"],
        format=wire["format"],
        uri=wire["uri"],
        content_hash=wire["content-hash"],
        size_bytes=wire["size-bytes"],
        metadata=loads(wire["metadata"]),
        unknown=loads(wire["unknown"]),
    )


def record_from_wire(wire: dict[str, Any]) -> RunRecord:
    """Returns a typed record of the contract: dear, and only for what the text alone does not settle."""
    provenance = wire["provenance"]
    return RunRecord(
        run_id=wire["run-id"],
        experiment_id=wire["experiment-id"],
        status=Status(wire["status"]),
        context_fingerprint=wire["context-fingerprint"],
        params_fingerprint=wire["params-fingerprint"],
        seed_fingerprint=wire["seed-fingerprint"],
        started_at=_parsed(wire["started-at"]),
        finished_at=_parsed(wire["finished-at"]),
        duration_ms=wire["duration-ms"],
        metrics={metric["name"]: metric_from_wire(metric["value"]) for metric in wire["metrics"]},
        provenance=Provenance(
            code_hash=provenance["code-hash"],
            python_version=provenance["python-version"],
            metalab_version=provenance["metalab-version"],
            executor_id=provenance["executor-id"],
            host=provenance["host"],
            extra=loads(provenance["extra"]),
            unknown=loads(provenance["unknown"]),
        ),
        error=None if wire["error"] is None else loads(wire["error"]),
        params_resolved=loads(wire["params-resolved"]),
        tags=wire["tags"],
        warnings=[loads(warning) for warning in wire["warnings"]],
        notes=wire["notes"],
        artifacts=[descriptor_from_wire(artifact) for artifact in wire["artifacts"]],
        unknown=loads(wire["unknown"]),
    )


def metric_from_wire(value: tuple[str, Any]) -> Any:
    """Returns a metric's value."""
    tag, payload = value
    return loads(payload) if tag in ("other", "big-integer") else payload
