"""A process that uses a store as a test tells it, and says on standard output what it has done.

`worker.py MODE ROOT ARGUMENTS…`; it ends with its standard input, if it does not end by itself.
"""

from __future__ import annotations

import sys
import threading
from itertools import count
from pathlib import Path

from metalab_store import ArtifactDescriptor, ConflictError, FileStore, FileStoreConfig, RunRecord, Status


def say(line: str) -> None:
    """Tells the test."""
    print(line, flush=True)


def record(run: str, notes: str) -> RunRecord:
    """Makes a record."""
    return RunRecord(
        run_id=run,
        experiment_id="",
        status=Status.SUCCESS,
        context_fingerprint="",
        params_fingerprint="",
        seed_fingerprint="",
        started_at=None,
        finished_at=None,
        duration_ms=0,
        notes=notes,
    )


def count_up(store: FileStore, run: str, times: int) -> None:
    """Adds one to the number in a run's notes, so many times, by compare and swap."""
    while times > 0:
        found = store.get_versioned_run(run)
        expect, number = ("", 0) if found is None else (found[0], int(found[1].notes or "0"))
        try:
            store.put_run_record(record(run, str(number + 1)), expect=expect)
        except ConflictError:
            continue
        times -= 1
        say("counted")


def write(store: FileStore, prefix: str, over: threading.Event) -> None:
    """Puts records, metrics, logs and artifacts until it is killed or told to end."""
    for number in count():
        if over.is_set():
            return
        run = f"{prefix}{number % 5}"
        store.put_run_record(record(run, str(number)))
        store.put_derived(run, {"number": number})
        store.append_log(run, "run", f"{number}\n", sync=True)
        descriptor = ArtifactDescriptor(f"{run}-data", "data", "blob", "bin", metadata={"_run_id": run})
        store.put_artifact(str(number).encode() * 1000, descriptor)
        say(f"done {number}")


def hold(store: FileStore, run: str, over: threading.Event) -> None:
    """Holds the lock of a run, as a call in the middle does."""
    lock = store._pool.grant.roots().acquire(("run", run), True, 10_000)
    say("held")
    over.wait()
    lock.release()


def main() -> None:
    mode, root, *rest = sys.argv[1:]
    over = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    with FileStoreConfig(root=str(Path(root))).scoped("exp:1").connect() as store:
        match mode:
            case "count":
                count_up(store, rest[0], int(rest[1]))
            case "write":
                write(store, rest[0], over)
            case "hold":
                hold(store, rest[0], over)
            case _:
                raise SystemExit(f"no such mode: {mode}")


if __name__ == "__main__":
    main()
