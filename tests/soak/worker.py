"""A process that uses a store as the soak tells it: a call a line on standard input, its answer a line on standard output.

`worker.py LOCATOR`; it ends with its standard input. `tests/src/bin/soak` says what the calls are.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from metalab_store import ArtifactDescriptor, FileStoreConfig, PostgresStoreConfig, StoreError, parse_to_config

NAME = "a"


def record(run: str, tag: int) -> str:
    """Makes a record's text."""
    return json.dumps(
        {"run_id": run, "experiment_id": "exp:1", "status": "success", "notes": str(tag), "metrics": {"tag": tag}}
    )


def content(tag: int) -> bytes:
    """Makes an artifact's content."""
    length = 1000 + tag % 7 * 60_000
    return (tag.to_bytes(8, "little") * (length // 8 + 1))[:length]


class Worker:
    """The calls."""

    def __init__(self, config: FileStoreConfig | PostgresStoreConfig) -> None:
        self.store = config.connect()

    def put(self, run: str, tag: int) -> None:
        self.store.put_run_text(record(run, tag))

    def many(self, runs: list[str], tag: int) -> None:
        for outcome in self.store.put_run_lines("\n".join(record(run, tag) for run in runs)):
            if isinstance(outcome, StoreError):
                raise outcome

    def derived(self, run: str, tag: int) -> None:
        self.store.put_derived(run, {"tag": tag})

    def result(self, run: str, tag: int) -> None:
        self.store.put_result(run, NAME, tag)

    def append(self, run: str, tag: int) -> None:
        self.store.append_log(run, "run", f"{tag}\n", sync=True)

    def artifact(self, run: str, tag: int) -> None:
        descriptor = ArtifactDescriptor(f"{run}-{NAME}", NAME, "blob", "bin", metadata={"_run_id": run})
        self.store.put_artifact(content(tag), descriptor)

    def delete(self, run: str) -> None:
        self.store.delete_run(run)

    def observe(self, run: str) -> dict[str, Any]:
        found = self.store.get_run_record(run)
        derived = self.store.get_derived(run)
        result = self.store.get_result(run, NAME)
        log = self.store.get_log(run, "run")
        artifact = None
        if self.store.list_artifacts(run):
            with self.store.open_artifact_of(run, NAME, verify=True) as reader:
                read = reader.read()
            artifact = int.from_bytes(read[:8], "little")
            if read != content(artifact):
                raise RuntimeError(f"the artifact of {run} is not what was stored")
        return {
            "record": None if found is None else int(found.notes or ""),
            "derived": None if derived is None else derived["tag"],
            "result": None if result is None else result["data"],
            "artifact": artifact,
            "log": [] if log is None else [int(line) for line in log.splitlines()],
        }

    def list(self) -> dict[str, int]:
        records = self.store.list_run_records()
        if records.damaged:
            raise RuntimeError(f"damaged: {records.damaged[0]}")
        return {record.run_id: int(record.notes or "") for record in records}

    def query(self, tag: int) -> list[str]:
        page = self.store.query(f"metrics.tag >= {tag}", columns="run_id")
        if page.damaged:
            raise RuntimeError(f"damaged: {page.damaged[0]}")
        return [row["run_id"] for row in page.rows]

    def close(self) -> None:
        self.store.close()


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def main() -> None:
    worker = Worker(parse_to_config(sys.argv[1]).scoped("exp:1"))
    say({"ok": None, "us": 0})
    for line in sys.stdin:
        call = json.loads(line)
        begun = time.perf_counter()
        try:
            done = {"ok": getattr(worker, call.pop("op"))(**call)}
        except StoreError as error:
            unknown = bool(getattr(error, "outcome_unknown", False))
            done = {"error": error.code, "unknown": unknown, "message": str(error)}
        say({**done, "us": int((time.perf_counter() - begun) * 1e6)})


if __name__ == "__main__":
    main()
