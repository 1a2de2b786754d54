"""Makes the calls of the conformance script, as `tests/conformance/README.md` says: `conformance.py SCRIPT ROOT`.

It uses the package's public methods and turns what they return into what the script has. Left to calls of the contract are

* those about the text itself: `put_derived_text`, `get_derived_text`, `get_result_text` and the lines of `list_runs`;
* `put_derived`, `put_result`, `put_artifact` and `put_manifest` where their arguments have no value in Python: a name
  that is there twice, a text that is no JSON, keys of a result that this version does not know;
* what the package does not offer: `put_derived_batch`, `write_artifact` (in pieces), `parse_locator`, and of what was
  read the header of a manifest and the descriptor of an artifact.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from metalab_store import (
    ArtifactDescriptor,
    ClosedError,
    FileStoreConfig,
    Page,
    PluginLimits,
    PostgresStoreConfig,
    StoreError,
    _instance,
    collect_garbage,
    derive,
    export_store,
    verify,
)
from metalab_store.errors import from_wire
from metalab_store.store import Store

Arguments = dict[str, Any]

CHECKOUT = Path(os.environ.get("METALAB_CHECKOUT", Path(__file__).parents[3]))
TARGET = Path(os.environ.get("METALAB_TARGET", CHECKOUT / "target"))

#: Directories whose content is no part of the tree.
_HIDDEN = (".index", ".locks", ".quarantine")


class Executor:
    """Makes calls on a root, and keeps the stores that are open."""

    def __init__(self, root: Path, index: dict[str, Any] | None = None) -> None:
        """Takes the root, and the fields of a configuration with PostgreSQL if there is to be an index."""
        self.root = root
        self.index = index
        self.stores: dict[str, Store[Any]] = {}
        self.cursor: str | None = None

    def run(self, operations: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Makes the calls and returns the transcript."""
        for operation in operations:
            yield self._hidden(self._one(operation["call"], operation["args"]))
        for store in self.stores.values():
            store.close()
        files = self._files()
        text = "".join(f"{path}\0{digest}\n" for path, digest in files.items())
        yield {"tree": hashlib.sha256(text.encode()).hexdigest(), "files": files}

    def _one(self, call: str, args: Arguments) -> dict[str, Any]:
        try:
            if (without := _WITHOUT_STORE.get(call)) is not None:
                return {"answer": without(self, args)}
            store = self.stores.get(args["store"])
            if store is None:
                raise ClosedError()
            if call == "close":
                del self.stores[args["store"]]
            return {"answer": _CALLS[call](self, store, args)}
        except StoreError as error:
            return {"error": _error(error)}

    def _hidden(self, value: Any) -> Any:
        """Replaces the root's path, wherever it is."""
        text = json.dumps(value)
        return json.loads(text.replace(json.dumps(str(self.root))[1:-1], "<root>"))

    def _files(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for directory, names, files in os.walk(self.root):
            below = Path(directory).relative_to(self.root)
            for name in names:
                found[f"{(below / name).as_posix()}/"] = ""
            if below.name in _HIDDEN:
                names.clear()
                continue
            for name in files:
                content = (Path(directory) / name).read_bytes().replace(os.fsencode(self.root), b"<root>")
                found[(below / name).as_posix()] = hashlib.sha256(content).hexdigest()
            names[:] = [name for name in names if below.name not in _HIDDEN]
        kept = {
            path: digest
            for path, digest in found.items()
            if not any(part in _HIDDEN for part in path.rstrip("/").split("/")[:-1])
        }
        return dict(sorted(kept.items(), key=lambda item: item[0].encode()))


def _error(error: StoreError) -> dict[str, str]:
    return {"code": error.code, "message": str(error)}


def _open(executor: Executor, args: Arguments) -> None:
    executor.stores[args["store"]] = _config(executor, args).connect()


def _config(executor: Executor, args: Arguments) -> FileStoreConfig | PostgresStoreConfig:
    config: FileStoreConfig | PostgresStoreConfig
    read_only = args.get("read_only", False)
    if executor.index is None or "below" in args:
        config = FileStoreConfig(root=str(executor.root / args.get("below", "")), read_only=read_only)
    else:
        config = PostgresStoreConfig(file_root=str(executor.root), read_only=read_only, **executor.index)
    return config if args["experiment"] is None else config.scoped(args["experiment"])


def _verify(executor: Executor, args: Arguments) -> Any:
    report = verify(_config(executor, args), repair=args["repair"])
    counts = ("runs", "damage", "warnings", "orphans", "leftovers", "repaired")
    return {
        "findings": [vars(finding) for finding in report.findings],
        "report": {name: getattr(report, name) for name in counts},
    }


def _collect_garbage(executor: Executor, args: Arguments) -> Any:
    report = collect_garbage(_config(executor, args), apply=args["apply"], grace=0)
    return {**vars(report), "found": [vars(garbage) for garbage in report.found]}


def _transfer(executor: Executor, args: Arguments) -> Any:
    report = export_store(
        executor.root / args["from"],
        executor.root / args["to"],
        experiment_id=args["experiments"],
        where=args["filter"],
        existing=args["existing"],
        dry_run=args["dry_run"],
    )
    return {
        **{
            name: {"runs": counts.runs, "files": counts.files}
            for name, counts in (("copied", report.copied), ("skipped", report.skipped), ("failed", report.failed))
        },
        "removed": report.removed,
        "failures": [vars(failure) for failure in report.failures],
    }


def _derive(executor: Executor, args: Arguments) -> Any:
    plugin = TARGET / "plugins" / f"{args['plugin']}.wasm"
    limits = PluginLimits(calls=100, time=300.0)
    report = derive(_config(executor, args), plugin, args["filter"], limits=limits, dry_run=args["dry_run"])
    failures = [{"run_id": failure.run_id, "code": failure.code} for failure in report.failures]
    return {"runs": report.runs, "derived": report.derived, "failures": failures}


def _metrics_in(metrics: list[list[Any]]) -> list[dict[str, Any]]:
    return [{"name": name, "value": (case, _number(case, given))} for name, case, given in metrics]


def _number(case: str, given: Any) -> Any:
    if case == "integer":
        return int(given)
    return struct.unpack(">d", bytes.fromhex(given))[0] if case == "float" else given


def _values(metrics: list[list[Any]]) -> dict[str, Any] | None:
    """Returns metrics as Python has them, or None if it cannot: a name twice, or a text that is no JSON."""
    try:
        values = {
            name: json.loads(given) if case in ("big-integer", "other") else _number(case, given)
            for name, case, given in metrics
        }
    except ValueError:
        return None
    return values if len(values) == len(metrics) else None


def _metrics_out(metrics: Mapping[str, Any] | None) -> Any:
    return None if metrics is None else [[name, *_case(value)] for name, value in metrics.items()]


def _case(value: Any) -> tuple[str, Any]:
    """Returns the contract's case of a metric, and the value as the script has it."""
    if isinstance(value, bool):
        return "boolean", value
    if isinstance(value, int):
        return "integer" if -(2**63) <= value < 2**63 else "big-integer", str(value)
    if isinstance(value, float):
        return "float", struct.pack(">d", value).hex()
    if isinstance(value, str) and not _LONE.search(value):
        return "text", value
    return "other", _compact(value)


#: What no text of the contract holds.
_LONE = re.compile("[\ud800-\udfff]")


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _run_metrics(_: Executor, store: Store[Any], args: Arguments) -> Any:
    record = store.get_run_record(args["run"])
    return None if record is None else _metrics_out(record.metrics)


def _get_derived(_: Executor, store: Store[Any], args: Arguments) -> Any:
    return _metrics_out(store.get_derived(args["run"]))


def _put_derived(_: Executor, store: Store[Any], args: Arguments) -> Any:
    values = _values(args["metrics"])
    if values is None:
        return store._pool.call("[method]store.put-derived", args["run"], _metrics_in(args["metrics"]))
    return store.put_derived(args["run"], values)


def _put_derived_batch(_: Executor, store: Store[Any], args: Arguments) -> Any:
    derived = [(run, _metrics_in(metrics)) for run, metrics in args["derived"]]
    outcomes = store._pool.call("[method]store.put-derived-batch", derived)
    return [{"revision": value} if good else {"error": _error(from_wire(value))} for good, value in outcomes]


def _list_experiments(executor: Executor, _: Arguments) -> Any:
    found = FileStoreConfig(root=str(executor.root)).list_experiments()
    return {"experiments": list(found), "damaged": found.damaged}  # type: ignore[attr-defined]


def _parse_locator(_: Executor, args: Arguments) -> Any:
    found = _instance.configure("parse-locator", args["locator"])
    return {**found, "parameters": [list(pair) for pair in found["parameters"]]}


def _plant(executor: Executor, args: Arguments) -> None:
    path = executor.root / args["file"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(args["text"].encode())


def _remove(executor: Executor, args: Arguments) -> None:
    (executor.root / args["file"]).unlink()


def _expect(value: Any) -> str | None:
    if value == "anything":
        return None
    return "" if value == "absent" else value["revision"]


def _raw(name: str, *keys: str) -> Callable[[Executor, Store[Any], Arguments], Any]:
    """A call of the contract that takes and returns plain values."""
    return lambda _, store, args: store._pool.call(f"[method]store.{name}", *(args[key] for key in keys))


def _list_runs(_: Executor, store: Store[Any], args: Arguments) -> Any:
    runs = store._list("[method]store.list-run-records", args["experiment"])
    lines = [line for text in runs.texts() for line in text.rstrip("\n").split("\n")]
    damaged = runs.damaged()
    # As many records as lines: what has no typed form is damaged there.
    records = store.list_run_records(args["experiment"])
    assert len(records) + len(records.damaged) == len(lines) + len(damaged)
    return {
        "total": runs.total(),
        "columns": runs.columns(),
        "lines": lines,
        "cursor": runs.cursor(),
        "damaged": [vars(damage) for damage in damaged],
    }


def _query(executor: Executor, args: Arguments) -> dict[str, Any]:
    query = {key: args[key] for key in ("filter", "sort", "columns", "limit", "cursor")}
    query["check"] = args.get("check", False)
    if query["cursor"] == "<last>":
        query["cursor"] = executor.cursor
    return query


def _query_runs(executor: Executor, store: Store[Any], args: Arguments) -> Any:
    page = store.query(**_query(executor, args))
    cursor = page.cursor
    if cursor is not None:
        executor.cursor, cursor = cursor, "<cursor>"
    return {
        "total": page.total,
        "columns": page.columns,
        "lines": [_line(page, row) for row in page],
        "cursor": cursor,
        "damaged": [vars(damage) for damage in page.damaged],
    }


def _line(page: Page, row: dict[str, Any]) -> str:
    """Returns a row's text: there are spaces between columns, and none in values and whole records."""
    if not page.columns:
        return _compact(row)
    members = [(column, row[column]) for column in page.columns if column in row]
    return "{" + ", ".join(f"{json.dumps(name)}: {_compact(value)}" for name, value in members) + "}"


def _query_rows(executor: Executor, store: Store[Any], args: Arguments) -> Any:
    page = store.query(**_query(executor, args))
    rows = [[_compact(row[column]) if column in row else None for column in page.columns] for row in page]
    return {"columns": page.columns, "rows": rows}


def _put_run_lines(_: Executor, store: Store[Any], args: Arguments) -> Any:
    outcomes = store.put_run_lines(args["lines"])
    return [
        {"error": _error(outcome)} if isinstance(outcome, StoreError) else {"revision": outcome} for outcome in outcomes
    ]


def _run_status(_: Executor, store: Store[Any], args: Arguments) -> Any:
    record = store.get_run_record(args["run"])
    return None if record is None else str(record.status)


def _list_fields(_: Executor, store: Store[Any], args: Arguments) -> Any:
    def text(value: Any) -> str | None:
        return None if value is None else _compact(value)

    found = store.fields(args["filter"])
    return {
        "fields": [
            {
                **vars(summary),
                "min": text(summary.min),
                "max": text(summary.max),
                "values": [_compact(value) for value in summary.values],
            }
            for summary in found
        ],
        "complete": found.complete,
        "runs": found.runs,
        "damaged": [vars(damage) for damage in found.damaged],
    }


def _put_result(_: Executor, store: Store[Any], args: Arguments) -> Any:
    data, metadata, unknown = (_loaded(args[name]) for name in ("data", "metadata", "unknown"))
    if unknown != {} or _NO_JSON in (data, metadata):
        result = {key: args[key] for key in ("data", "dtype", "shape", "metadata", "unknown")}
        return store._pool.call("[method]store.put-result", args["run"], args["name"], result)
    return store.put_result(args["run"], args["name"], data, args["dtype"], args["shape"], metadata)


#: What stands for a text that Python has no value for.
_NO_JSON = object()


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return _NO_JSON


def _append_log(_: Executor, store: Store[Any], args: Arguments) -> Any:
    return store.append_log(args["run"], args["name"], args["content"], sync=args["sync"])


def _read_log(_: Executor, store: Store[Any], args: Arguments) -> Any:
    chunk = store.read_log(args["run"], args["name"], args["offset"], args["max_bytes"])
    return None if chunk is None else vars(chunk)


def _content(content: dict[str, Any]) -> bytes:
    return bytes(content["text"].encode() * content["times"])


def _wire(descriptor: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("_", "-"): value for key, value in descriptor.items()}


def _unwire(descriptor: dict[str, Any] | None) -> dict[str, Any] | None:
    if descriptor is None:
        return None
    return {key.replace("-", "_"): value for key, value in descriptor.items()}


def _descriptor(descriptor: dict[str, Any]) -> ArtifactDescriptor | None:
    """Returns a descriptor as Python has it, or None if it cannot: its metadata are no JSON."""
    metadata, unknown = _loaded(descriptor["metadata"]), _loaded(descriptor["unknown"])
    if _NO_JSON in (metadata, unknown):
        return None
    return ArtifactDescriptor(**{**descriptor, "metadata": metadata, "unknown": unknown})


def _described(descriptor: ArtifactDescriptor) -> dict[str, Any]:
    texts = {"metadata": _compact(descriptor.metadata), "unknown": _compact(descriptor.unknown)}
    return {**vars(descriptor), **texts}


def _stored(descriptor: ArtifactDescriptor, given: dict[str, Any]) -> dict[str, Any]:
    """A put returns the texts that it was given, whose keys Python sorted."""

    def ordered(found: dict[str, Any], text: str) -> str:
        return json.dumps({**{key: found[key] for key in json.loads(text) if key in found}, **found})

    metadata = ordered(descriptor.metadata, given["metadata"])
    return {**vars(descriptor), "metadata": metadata, "unknown": ordered(descriptor.unknown, given["unknown"])}


def _put_artifact(_: Executor, store: Store[Any], args: Arguments) -> Any:
    content, descriptor = _content(args["content"]), _descriptor(args["descriptor"])
    if descriptor is None:
        return _unwire(store._pool.call("[method]store.put-artifact", content, _wire(args["descriptor"])))
    return _stored(store.put_artifact(content, descriptor), args["descriptor"])


def _write_artifact(_: Executor, store: Store[Any], args: Arguments) -> Any:
    writer = store._pool.open_resource("[method]store.create-artifact", _wire(args["descriptor"]))
    try:
        for chunk in args["chunks"]:
            writer.call("[method]artifact-writer.write", _content(chunk))
        return _unwire(writer.call("[method]artifact-writer.finish"))
    finally:
        writer.close()


def _put_artifact_file(executor: Executor, store: Store[Any], args: Arguments) -> Any:
    source = executor.root.with_name(executor.root.name + "-source")
    source.write_bytes(_content(args["content"]))
    try:
        return _stored(store.put_artifact(source, _descriptor(args["descriptor"])), args["descriptor"])
    finally:
        source.unlink()


def _open_artifact(executor: Executor, store: Store[Any], artifact: dict[str, str], verify: bool) -> Any:
    if "uri" in artifact:
        return store.open_artifact(artifact["uri"].replace("<root>", str(executor.root)), verify=verify)
    return store.open_artifact_of(artifact["run"], artifact["name"], verify=verify)


def _hashed(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _get_artifact(executor: Executor, store: Store[Any], args: Arguments) -> Any:
    artifact = args["artifact"]
    if "uri" in artifact:
        return _hashed(store.get_artifact(artifact["uri"].replace("<root>", str(executor.root))))
    with _open_artifact(executor, store, artifact, False) as reader:
        return _hashed(reader.read())


def _read_artifact(executor: Executor, store: Store[Any], args: Arguments) -> Any:
    with _open_artifact(executor, store, args["artifact"], args["verify"]) as buffered:
        # Each read below the buffer is one of the component.
        reader = buffered.raw

        def piece(offset: int, length: int) -> dict[str, Any]:
            reader.seek(offset)
            return _hashed(reader.read(length))

        pieces = [piece(offset, length) for offset, length in args["reads"]]
        return {"size": reader.seek(0, os.SEEK_END), "pieces": pieces, "descriptor": _unwire(reader.descriptor())}


def _list_artifacts(_: Executor, store: Store[Any], args: Arguments) -> Any:
    return [_described(descriptor) for descriptor in store.list_artifacts(args["run"])]


def _put_manifest(_: Executor, store: Store[Any], args: Arguments) -> Any:
    experiment, timestamp, body = args["experiment"], args["timestamp"], _loaded(args["body"])
    if body is _NO_JSON:
        return store._pool.call("[method]store.put-experiment-manifest", experiment, args["body"], timestamp)
    return vars(store.put_experiment_manifest(experiment, body, timestamp))


def _get_manifest(_: Executor, store: Store[Any], args: Arguments) -> Any:
    body = store.get_experiment_manifest(args["experiment"])
    if body is None:
        return None
    found = store._pool.call("[method]store.get-experiment-manifest", args["experiment"])
    return {"header": _unwire(found["header"]), "body": _compact(body)}


def _list_manifests(_: Executor, store: Store[Any], args: Arguments) -> Any:
    return [vars(header) for header in store.list_experiment_manifests(args["experiment"])]


_WITHOUT_STORE: dict[str, Callable[[Executor, Arguments], Any]] = {
    "open": _open,
    "list_experiments": _list_experiments,
    "parse_locator": _parse_locator,
    "plant": _plant,
    "remove": _remove,
    "verify": _verify,
    "collect_garbage": _collect_garbage,
    "transfer": _transfer,
    "derive": _derive,
}

_CALLS: dict[str, Callable[[Executor, Store[Any], Arguments], Any]] = {
    "close": lambda _, store, __: store.close(),
    "working_directory": lambda _, store, __: str(store.get_working_directory()),
    "put_run_text": lambda _, store, args: store.put_run_text(args["record"], expect=_expect(args["expect"])),
    "put_run_lines": _put_run_lines,
    "get_run_text": lambda _, store, args: store.get_run_text(args["run"]),
    "run_status": _run_status,
    "run_metrics": _run_metrics,
    "get_derived": _get_derived,
    "put_derived": _put_derived,
    "put_derived_batch": _put_derived_batch,
    "list_runs": _list_runs,
    "query_runs": _query_runs,
    "query_rows": _query_rows,
    "list_fields": _list_fields,
    "run_exists": lambda _, store, args: store.run_exists(args["run"]),
    "delete_run": lambda _, store, args: store.delete_run(args["run"]),
    "put_derived_text": _raw("put-derived-text", "run", "derived"),
    "get_derived_text": _raw("get-derived-text", "run"),
    "derived_exists": lambda _, store, args: store.derived_exists(args["run"]),
    "put_result": _put_result,
    "get_result_text": _raw("get-result-text", "run", "name"),
    "list_results": lambda _, store, args: store.list_results(args["run"]),
    "put_log": lambda _, store, args: store.put_log(args["run"], args["name"], args["content"]),
    "append_log": _append_log,
    "get_log": lambda _, store, args: store.get_log(args["run"], args["name"]),
    "read_log": _read_log,
    "list_logs": lambda _, store, args: store.list_logs(args["run"]),
    "log_path": lambda _, store, args: str(store.get_log_path(args["run"], args["name"])),
    "put_artifact": _put_artifact,
    "write_artifact": _write_artifact,
    "put_artifact_file": _put_artifact_file,
    "get_artifact": _get_artifact,
    "read_artifact": _read_artifact,
    "list_artifacts": _list_artifacts,
    "put_manifest": _put_manifest,
    "get_manifest": _get_manifest,
    "list_manifests": _list_manifests,
}


def transcript(script: Path, root: Path, index: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Makes the calls of a script on an empty root."""
    return list(Executor(root.resolve(), index).run(json.loads(script.read_text("utf-8"))["operations"]))


if __name__ == "__main__":
    for line in transcript(Path(sys.argv[1]), Path(sys.argv[2])):
        print(json.dumps(line))
