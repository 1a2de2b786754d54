"""The data of the store: run records, artifact descriptors, provenance, and their text.

Everything is accepted by its attributes, not by its class, so that the records of another library can be stored as
they are. Nothing here knows what is valid: that is the component's to say.
"""

from __future__ import annotations

import json
import re
import traceback as _traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from operator import itemgetter
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


def loads(text: str, file: str = "") -> Any:
    """Returns the value of JSON text of the store. Python cannot read all of it: `UnrepresentableError`."""
    try:
        return json.loads(text)
    except (RecursionError, ValueError) as error:
        raise not_loaded(error, file) from None


def not_loaded(error: Exception, file: str) -> UnrepresentableError:
    """Says why Python cannot read JSON that the component takes."""
    # Sound it is: the component has read it. Python counts the frames of its caller too.
    reason = "it nests too deep" if isinstance(error, RecursionError) else str(error)
    made = UnrepresentableError(f"{file or 'this'} cannot be read by Python's json: {reason}; read it as text")
    made.file = file
    return made


#: The tokens of JSON that say where in it one is.
_TOKENS = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"\s*(:?)|[\[\]{}]')


def run_of(line: str) -> str:
    """Returns the run id of a record that Python cannot read, or an empty text."""
    depth, key, run = 0, "", ""
    for token in _TOKENS.finditer(line):
        match token[0][0]:
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
            case _ if depth == 1 and token[2]:
                key = token[1]
            case _ if depth == 1 and key == "run_id":
                run = json.loads(f'"{token[1]}"')
    return run


def file_of(run: str) -> str:
    """Returns the file of a run's record."""
    return f"runs/{run}.json"


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
        "extra": getattr(provenance, "extra", None) or {},
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
        "metadata": getattr(artifact, "metadata", None) or {},
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
        "metrics": getattr(record, "metrics", None) or {},
        "provenance": provenance_to_dict(getattr(record, "provenance", None)),
        "error": getattr(record, "error", None),
        "params_resolved": getattr(record, "params_resolved", None) or {},
        "tags": list(getattr(record, "tags", None) or ()),
        "warnings": list(getattr(record, "warnings", None) or ()),
        "notes": getattr(record, "notes", None),
        "artifacts": [artifact_to_dict(artifact) for artifact in getattr(record, "artifacts", None) or ()],
    }


def record_to_text(record: Any) -> str:
    """Returns a record's text."""
    return dumps(_taken("the record", record_to_dict, record))


_STATUS = {status.value: status for status in Status}
#: What a key means that a file does not have. None where an empty value is made of it, and `()` where null is none.
_RECORD_DEFAULTS: dict[str, Any] = {
    "_schema_version": None,
    "run_id": "",
    "experiment_id": "",
    "status": "failed",
    "context_fingerprint": "",
    "params_fingerprint": "",
    "seed_fingerprint": "",
    "started_at": None,
    "finished_at": None,
    "duration_ms": 0,
    "metrics": None,
    "provenance": None,
    "error": None,
    "params_resolved": None,
    "tags": (),
    "warnings": (),
    "notes": None,
    "artifacts": (),
}
_ARTIFACT_DEFAULTS: dict[str, Any] = {
    "artifact_id": "",
    "name": "",
    "kind": "blob",
    "format": "binary",
    "uri": "",
    "content_hash": None,
    "size_bytes": None,
    "metadata": None,
}
_RECORD_KEYS = frozenset(_RECORD_DEFAULTS)
_ARTIFACT_KEYS = frozenset(_ARTIFACT_DEFAULTS)
_PROVENANCE_TEXTS = ("code_hash", "python_version", "metalab_version", "executor_id", "host")
_PROVENANCE_KEYS = frozenset((*_PROVENANCE_TEXTS, "extra"))
_texts_of_record = itemgetter(
    "run_id", "experiment_id", "context_fingerprint", "params_fingerprint", "seed_fingerprint"
)
_texts_of_provenance = itemgetter(*_PROVENANCE_TEXTS)
_texts_of_artifact = itemgetter("artifact_id", "name", "kind", "format", "uri")


def _unknown(data: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    if data.keys() <= known:
        return {}
    return {key: value for key, value in data.items() if key not in known}


def _without_null(data: dict[str, Any], defaults: dict[str, Any]) -> None:
    for key, default in defaults.items():
        if data[key] is None:
            data[key] = default


def _check_texts(values: Iterable[Any]) -> None:
    # Raises `TypeError` if one is no text: in one call, since thousands are looked at.
    joined = "".join(values)
    if not joined.isascii():
        # A `ValueError` if a lone surrogate is in it.
        joined.encode()


def _check_whole(value: Any, least: int) -> None:
    # A truth value is an integer only for Python.
    if type(value) is not int or not least <= value < 1 << 63:
        raise TypeError("no integer of 64 bits")


def _object(value: Any) -> dict[str, Any]:
    if type(value) is dict:
        return value
    if value is None:
        return {}
    raise TypeError("no object")


def _list(value: Any) -> list[Any]:
    if type(value) is list:
        return value
    if value == ():
        return []
    raise TypeError("no list")


def provenance_from_dict(data: Any) -> Provenance:
    """Returns a provenance as it was stored, and keeps the dictionary; what is none is empty."""
    made = Provenance.__new__(Provenance)
    if not isinstance(data, dict):
        data = {}
    if data.keys() != _PROVENANCE_KEYS:
        unknown = _unknown(data, _PROVENANCE_KEYS)
        data = {key: data.get(key) for key in _PROVENANCE_KEYS}
        data["unknown"] = unknown
    else:
        data["unknown"] = {}
    _check_texts([text for text in _texts_of_provenance(data) if text is not None])
    data["extra"] = _object(data["extra"])
    made.__dict__ = data
    return made


def artifact_from_dict(data: dict[str, Any]) -> ArtifactDescriptor:
    """Returns a descriptor as it was stored, and keeps the dictionary."""
    made = ArtifactDescriptor.__new__(ArtifactDescriptor)
    if data.keys() != _ARTIFACT_KEYS:
        unknown = _unknown(data, _ARTIFACT_KEYS)
        data = {key: data.get(key, default) for key, default in _ARTIFACT_DEFAULTS.items()}
        data["unknown"] = unknown
    else:
        data["unknown"] = {}
    texts = _texts_of_artifact(data)
    if None in texts:
        _without_null(data, _ARTIFACT_DEFAULTS)
        texts = _texts_of_artifact(data)
    _check_texts(texts)
    if data["content_hash"] is not None:
        _check_texts((data["content_hash"],))
    if data["size_bytes"] is not None:
        _check_whole(data["size_bytes"], 0)
    data["metadata"] = _object(data["metadata"])
    made.__dict__ = data
    return made


def _parsed(value: Any, parse: Any = datetime.fromisoformat) -> datetime | None:
    if value is None or value == "":
        return None
    time: datetime = parse(value)
    if time.isoformat() == value:
        return time
    # `Z`, nine digits after the second, a week: a time is kept as it was written.
    kept = WrittenTime.fromisoformat(value)
    kept.written = value
    return kept


def record_from_dict(data: dict[str, Any]) -> RunRecord:
    """Returns a record as it was stored, and keeps the dictionary.

    Raises one of `NOT_TYPED` if it is none that the contract's types hold: what is wrong with it is the component's to say.
    """
    # Thousands are made at once: not by the constructor, and of the dictionary that is there. A record has the keys that
    # this host itself writes; what another one wrote may lack some.
    made = RunRecord.__new__(RunRecord)
    if data.keys() == _RECORD_KEYS:
        unknown = {}
    else:
        unknown = _unknown(data, _RECORD_KEYS)
        data = {key: data.get(key, default) for key, default in _RECORD_DEFAULTS.items()}
    data["status"] = _STATUS[data["status"]]
    texts = _texts_of_record(data)
    if None in texts or data["duration_ms"] is None:
        _without_null(data, _RECORD_DEFAULTS)
        texts = _texts_of_record(data)
    _check_texts(texts)
    version, notes = data.pop("_schema_version"), data["notes"]
    if version != "0.1" and version is not None:
        _check_texts((version,))
    if notes is not None:
        _check_texts((notes,))
    data["started_at"] = _parsed(data["started_at"])
    data["finished_at"] = _parsed(data["finished_at"])
    _check_whole(data["duration_ms"], -1 << 63)
    data["metrics"] = _object(data["metrics"])
    _check_texts(data["metrics"])
    data["provenance"] = provenance_from_dict(data["provenance"])
    data["params_resolved"] = _object(data["params_resolved"])
    data["tags"] = _list(data["tags"])
    _check_texts(data["tags"])
    data["warnings"] = _list(data["warnings"])
    data["artifacts"] = [artifact_from_dict(artifact) for artifact in _list(data["artifacts"])]
    data["unknown"] = unknown
    made.__dict__ = data
    return made


#: What `record_from_dict` and `result_from_dict` raise.
NOT_TYPED = (ValueError, TypeError, KeyError, AttributeError)


def result_from_dict(data: dict[str, Any]) -> dict[str, Any]:
    """Returns a structured result as it was stored. Raises one of `NOT_TYPED`, as `record_from_dict` does."""
    dtype, shape = data.pop("dtype", None), data.pop("shape", None)
    if dtype is not None:
        _check_texts((dtype,))
    if shape is not None:
        for size in _list(shape):
            _check_whole(size, 0)
    content, metadata = data.pop("data", None), _object(data.pop("metadata", None))
    return {"data": content, "dtype": dtype, "metadata": metadata, "shape": shape, **data}


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


def descriptor_from_wire(wire: dict[str, Any], file: str = "") -> ArtifactDescriptor:
    """Returns a descriptor of the contract."""
    return ArtifactDescriptor(
        artifact_id=wire["artifact-id"],
        name=wire["name"],
        kind=wire["kind"],
        format=wire["format"],
        uri=wire["uri"],
        content_hash=wire["content-hash"],
        size_bytes=wire["size-bytes"],
        metadata=loads(wire["metadata"], file),
        unknown=loads(wire["unknown"], file),
    )


def record_from_wire(wire: dict[str, Any]) -> RunRecord:
    """Returns a typed record of the contract: dear, and only for what the text alone does not settle."""
    provenance, file = wire["provenance"], file_of(wire["run-id"])
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
        metrics={metric["name"]: metric_from_wire(metric["value"], file) for metric in wire["metrics"]},
        provenance=Provenance(
            code_hash=provenance["code-hash"],
            python_version=provenance["python-version"],
            metalab_version=provenance["metalab-version"],
            executor_id=provenance["executor-id"],
            host=provenance["host"],
            extra=loads(provenance["extra"], file),
            unknown=loads(provenance["unknown"], file),
        ),
        error=None if wire["error"] is None else loads(wire["error"], file),
        params_resolved=loads(wire["params-resolved"], file),
        tags=wire["tags"],
        warnings=[loads(warning, file) for warning in wire["warnings"]],
        notes=wire["notes"],
        artifacts=[descriptor_from_wire(artifact, file) for artifact in wire["artifacts"]],
        unknown=loads(wire["unknown"], file),
    )


def metric_from_wire(value: tuple[str, Any], file: str) -> Any:
    """Returns a metric's value."""
    tag, payload = value
    return loads(payload, file) if tag in ("other", "big-integer") else payload
