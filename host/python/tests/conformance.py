"""Makes the calls of the conformance script, as `tests/conformance/README.md` says: `conformance.py SCRIPT ROOT`."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from metalab_store import (
    ClosedError,
    FileStoreConfig,
    PluginLimits,
    PostgresStoreConfig,
    StoreError,
    _artifacts,
    _instance,
    collect_garbage,
    derive,
    export_store,
    verify,
)
from metalab_store.errors import from_wire
from metalab_store.store import RunList, Store

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
    def value(case: str, given: Any) -> Any:
        if case == "integer":
            return int(given)
        return struct.unpack(">d", bytes.fromhex(given))[0] if case == "float" else given

    return [{"name": name, "value": (case, value(case, given))} for name, case, given in metrics]


def _metrics_out(metrics: list[dict[str, Any]] | None) -> Any:
    def value(case: str, found: Any) -> Any:
        if case == "integer":
            return str(found)
        return struct.pack(">d", found).hex() if case == "float" else found

    if metrics is None:
        return None
    return [[metric["name"], metric["value"][0], value(*metric["value"])] for metric in metrics]


def _run_metrics(_: Executor, store: Store[Any], args: Arguments) -> Any:
    record = store._pool.call("[method]store.get-run-record", args["run"])
    return None if record is None else _metrics_out(record["metrics"])


def _get_derived(_: Executor, store: Store[Any], args: Arguments) -> Any:
    return _metrics_out(store._pool.call("[method]store.get-derived", args["run"]))


def _put_derived(_: Executor, store: Store[Any], args: Arguments) -> Any:
    return store._pool.call("[method]store.put-derived", args["run"], _metrics_in(args["metrics"]))


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


def _lines(runs: RunList) -> dict[str, Any]:
    lines = [line for text in runs.texts() for line in text.rstrip("\n").split("\n")]
    return {
        "total": runs.total(),
        "columns": runs.columns(),
        "lines": lines,
        "cursor": runs.cursor(),
        "damaged": [vars(damage) for damage in runs.damaged()],
    }


def _query(executor: Executor, args: Arguments) -> dict[str, Any]:
    query = {key: args[key] for key in ("filter", "sort", "columns", "limit", "cursor")}
    query["check"] = args.get("check", False)
    if query["cursor"] == "<last>":
        query["cursor"] = executor.cursor
    return query


def _query_runs(executor: Executor, store: Store[Any], args: Arguments) -> Any:
    answer = _lines(store._list("[method]store.query-runs", _query(executor, args)))
    if answer["cursor"] is not None:
        executor.cursor, answer["cursor"] = answer["cursor"], "<cursor>"
    return answer


def _query_rows(executor: Executor, store: Store[Any], args: Arguments) -> Any:
    runs = store._list("[method]store.query-runs", _query(executor, args))
    rows: list[Any] = []
    while page := runs.rows(4096):
        rows += page
    return {"columns": runs.columns(), "rows": rows}


def _put_run_lines(_: Executor, store: Store[Any], args: Arguments) -> Any:
    outcomes = store.put_run_lines(args["lines"])
    return [
        {"error": _error(outcome)} if isinstance(outcome, StoreError) else {"revision": outcome} for outcome in outcomes
    ]


def _run_status(_: Executor, store: Store[Any], args: Arguments) -> Any:
    record = store._pool.call("[method]store.get-run-record", args["run"])
    return None if record is None else record["status"]


def _list_fields(_: Executor, store: Store[Any], args: Arguments) -> Any:
    return store._pool.call("[method]store.list-fields", args["filter"])


def _put_result(_: Executor, store: Store[Any], args: Arguments) -> Any:
    result = {key: args[key] for key in ("data", "dtype", "shape", "metadata", "unknown")}
    return store._pool.call("[method]store.put-result", args["run"], args["name"], result)


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


def _put_artifact(_: Executor, store: Store[Any], args: Arguments) -> Any:
    wire = _wire(args["descriptor"])
    return _unwire(store._pool.call("[method]store.put-artifact", _content(args["content"]), wire))


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
    descriptor = _artifacts.open_source(source)
    try:
        wire = _wire(args["descriptor"])
        staged = store._pool.call("[method]store.stage-artifact", wire)
        _artifacts.place(store._pool.grant.directory, staged, descriptor)
        return _unwire(store._pool.call("[method]store.import-artifact", staged, wire))
    finally:
        os.close(descriptor)
        source.unlink()


def _reference(executor: Executor, artifact: dict[str, str]) -> tuple[str, Any]:
    if "uri" in artifact:
        return "uri", artifact["uri"].replace("<root>", str(executor.root))
    return "name", (artifact["run"], artifact["name"])


def _hashed(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _get_artifact(executor: Executor, store: Store[Any], args: Arguments) -> Any:
    with store._reader(_reference(executor, args["artifact"]), False) as reader:
        return _hashed(reader.readall() or b"")


def _read_artifact(executor: Executor, store: Store[Any], args: Arguments) -> Any:
    with store._reader(_reference(executor, args["artifact"]), args["verify"]) as reader:
        pieces = [_hashed(reader.read_at(offset, length)) for offset, length in args["reads"]]
        return {"size": reader.size, "pieces": pieces, "descriptor": _unwire(reader.descriptor())}


def _list_artifacts(_: Executor, store: Store[Any], args: Arguments) -> Any:
    return [_unwire(wire) for wire in store._pool.call("[method]store.list-artifacts", args["run"])]


def _put_manifest(_: Executor, store: Store[Any], args: Arguments) -> Any:
    return _unwire(
        store._pool.call("[method]store.put-experiment-manifest", args["experiment"], args["body"], args["timestamp"])
    )


def _get_manifest(_: Executor, store: Store[Any], args: Arguments) -> Any:
    found = store._pool.call("[method]store.get-experiment-manifest", args["experiment"])
    return None if found is None else {"header": _unwire(found["header"]), "body": found["body"]}


def _list_manifests(_: Executor, store: Store[Any], args: Arguments) -> Any:
    found = store._pool.call("[method]store.list-experiment-manifests", args["experiment"])
    return [_unwire(header) for header in found]


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
    "get_run_text": _raw("get-run-text", "run"),
    "run_status": _run_status,
    "run_metrics": _run_metrics,
    "get_derived": _get_derived,
    "put_derived": _put_derived,
    "put_derived_batch": _put_derived_batch,
    "list_runs": lambda _, store, args: _lines(store._list("[method]store.list-run-records", args["experiment"])),
    "query_runs": _query_runs,
    "query_rows": _query_rows,
    "list_fields": _list_fields,
    "run_exists": _raw("run-exists", "run"),
    "delete_run": _raw("delete-run", "run"),
    "put_derived_text": _raw("put-derived-text", "run", "derived"),
    "get_derived_text": _raw("get-derived-text", "run"),
    "derived_exists": _raw("derived-exists", "run"),
    "put_result": _put_result,
    "get_result_text": _raw("get-result-text", "run", "name"),
    "list_results": _raw("list-results", "run"),
    "put_log": _raw("put-log", "run", "name", "content"),
    "append_log": _raw("append-log", "run", "name", "content", "sync"),
    "get_log": _raw("get-log", "run", "name"),
    "read_log": _read_log,
    "list_logs": _raw("list-logs", "run"),
    "log_path": _raw("get-log-path", "run", "name"),
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
