"""Measures this host against plain Python on the same files: `python host/python/bench.py [--runs N] [--mib N]`.

Each figure is the median of some rounds; both sides take turns. What else uses the disk shows in what is synced. In the
last column is what is to be reached: a time, or the ratio.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from metalab_store import ArtifactDescriptor, FileStoreConfig, Plugin, RunRecord, derive
from metalab_store.records import record_from_line, record_to_text

ROUNDS = 5
#: Where `cargo xtask build` puts what is measured beside this host.
TARGET = Path(os.environ.get("METALAB_TARGET", Path(__file__).parents[2] / "target"))
RUST = TARGET / "release" / "store-worker"
#: A plugin that answers one number for runs of these names.
PLUGIN = TARGET / "plugins" / "test.wasm"
ONE_NUMBER = "count-"


def timed(function: Callable[[], object]) -> float:
    """Returns how long a call takes, in seconds."""
    gc.collect()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compared(one: Callable[[], object], other: Callable[[], object], rounds: int = ROUNDS) -> tuple[float, float]:
    """Returns the medians of two calls that take turns."""
    pairs = [(timed(one), timed(other)) for _ in range(rounds)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def record(number: int) -> RunRecord:
    """Makes a record of the size that real ones have."""
    artifact = ArtifactDescriptor(
        f"{number:08x}-0000", "model", "numpy", "npz", f"/data/artifacts/{number:016x}/model.npz", "0" * 16, 1000
    )
    return RunRecord.success(
        run_id=f"{number:016x}",
        context_fingerprint="c" * 16,
        params_fingerprint="p" * 16,
        seed_fingerprint="s" * 16,
        metrics={f"metric{index}": number * 0.1 + index for index in range(5)},
        params_resolved={f"param{index}": index * 0.01 for index in range(5)},
        tags=["bench"],
        artifacts=[artifact],
    )


def show(what: str, ours: str, theirs: str = "", ratio: str = "", reach: str = "") -> None:
    """Prints a line."""
    print(f"{what:<46}{ours:>12}{theirs:>14}{ratio:>10}{reach:>10}", flush=True)


def against(what: str, ours: float, theirs: float, unit: float = 1e3, name: str = "ms", reach: str = "") -> None:
    """Prints a line of two times."""
    show(what, f"{ours * unit:.1f} {name}", f"{theirs * unit:.1f} {name}", f"{ours / theirs:.2f}", reach)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=10_000)
    arguments.add_argument("--mib", type=int, default=100)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("METALAB_BENCH_DIR")) as directory:
        measure(Path(directory), given.runs, given.mib)


def measure(directory: Path, runs: int, mib: int) -> None:
    """Measures everything."""
    root = directory / "store"
    config = FileStoreConfig(root=str(root)).scoped("bench:1")
    store = config.connect()
    show("", "component", "plain Python", "ratio", "reach")

    start = time.perf_counter()
    for first in range(0, runs, 1000):
        store.put_run_records(record(number) for number in range(first, min(first + 1000, runs)))
    show(f"put {runs} runs in batches", f"{runs / (time.perf_counter() - start):.0f}/s")
    store.close()

    code = (
        "import time; import metalab_store as m; start = time.perf_counter();"
        f"m.FileStoreConfig(root={str(root)!r}).scoped('bench:1').connect();"
        "print(time.perf_counter() - start)"
    )
    fresh = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(ROUNDS)]
    show("open in a fresh process (component cached)", f"{statistics.median(fresh) * 1e3:.1f} ms", reach="50 ms")
    again = [timed(lambda: config.connect().close()) for _ in range(ROUNDS)]
    show("open and close again", f"{statistics.median(again) * 1e3:.1f} ms")

    store = config.connect()
    files = root / "bench_1" / "runs"

    def plain_list() -> list[RunRecord]:
        return [record_from_line(json.loads(path.read_bytes())) for path in files.iterdir() if path.suffix == ".json"]

    assert len(store.list_run_records()) == len(plain_list()) == runs
    against(f"list {runs} runs as records", *compared(store.list_run_records, plain_list, 3), reach="0.5 x")

    def plain_json() -> list[object]:
        return [json.loads(path.read_bytes()) for path in files.iterdir() if path.suffix == ".json"]

    bare = compared(store.list_run_records, plain_json, 3)
    against("  the same, theirs without making records", *bare, reach="0.5 x")
    against(
        f"query {runs} runs, first 100",
        *compared(
            lambda: store.query("metrics.metric0 < 500", sort="metrics.metric1", columns="run_id", limit=100),
            lambda: sorted(
                (run for run in plain_list() if run.metrics["metric0"] < 500), key=lambda run: run.metrics["metric1"]
            )[:100],
            3,
        ),
    )

    names = [f"{number:016x}" for number in range(0, runs, max(runs // 500, 1))]
    ours, theirs = compared(
        lambda: [store.get_run_record(name) for name in names],
        lambda: [record_from_line(json.loads((files / f"{name}.json").read_bytes())) for name in names],
    )
    against("get a run", ours / len(names), theirs / len(names), 1e6, "us", "300 us")

    other = directory / "plain"
    other.mkdir()
    records = [record(runs + number) for number in range(100)]

    def plain_put() -> None:
        for one in records:
            staged = other / f"{one.run_id}.tmp"
            with open(staged, "w") as file:
                file.write(json.dumps(json.loads(record_to_text(one)), sort_keys=True, indent=2))
                file.flush()
                os.fsync(file.fileno())
            os.rename(staged, other / f"{one.run_id}.json")

    def put() -> None:
        for one in records:
            store.put_run_record(one)

    ours, theirs = compared(put, plain_put)
    against("put a run (theirs: fsync, rename)", ours / len(records), theirs / len(records), 1e6, "us")

    beside_rust(directory, records)
    plugin(directory, runs)

    source = directory / "source"
    with open(source, "wb") as file:
        for _ in range(mib):
            file.write(os.urandom(1 << 20))
    descriptor = ArtifactDescriptor("bench", "big", "blob", "bin", metadata={"_run_id": names[0]})

    def import_file() -> None:
        store.put_artifact(source, descriptor)

    def copy_file() -> None:
        shutil.copy(source, other / "big")

    def copy_file_synced() -> None:
        copy_file()
        os.sync()

    against(f"artifact of {mib} MiB from a file", *compared(import_file, copy_file, 3), reach="2 x")
    against("  the same, theirs synced", *compared(import_file, copy_file_synced, 3), reach="2 x")
    # What is not synced survives a kill on both sides, and a power cut on none.
    with FileStoreConfig(root=str(directory / "relaxed"), durability="relaxed").scoped("bench:1").connect() as relaxed:

        def import_relaxed() -> None:
            relaxed.put_artifact(source, descriptor)

        against("  the same, neither side synced", *compared(import_relaxed, copy_file, 3), reach="2 x")
    content = os.urandom(1 << 20)
    small = ArtifactDescriptor("bench", "small", "blob", "bin", metadata={"_run_id": names[0]})
    uri = store.put_artifact(content, small).uri
    show(
        "put 1 MiB of bytes",
        f"{statistics.median(timed(lambda: store.put_artifact(content, small)) for _ in range(ROUNDS)) * 1e3:.1f} ms",
    )
    show(
        "get 1 MiB of bytes",
        f"{statistics.median(timed(lambda: store.get_artifact(uri)) for _ in range(ROUNDS)) * 1e3:.1f} ms",
    )
    store.close()


def beside_rust(directory: Path, records: list[RunRecord]) -> None:
    """Measures durable puts beside those of the Rust host: the same records, in turns, each put by itself."""
    if not RUST.exists():
        show("put a run beside the Rust host", "not built")
        return
    texts = [record_to_text(one) for one in records]
    lines = directory / "records"
    lines.write_text("".join(f"{text}\n" for text in texts))
    root = directory / "beside"
    ours: list[float] = []
    theirs: list[float] = []
    with FileStoreConfig(root=str(root)).scoped("python:1").connect() as store:
        # The first turn makes the files that the others replace.
        for turn in range(ROUNDS + 1):
            gc.collect()
            mine = []
            for text in texts:
                start = time.perf_counter()
                store.put_run_text(text)
                mine.append(time.perf_counter() - start)
            said = subprocess.check_output([RUST, "timed", root, lines], stdin=subprocess.DEVNULL, text=True)
            if turn > 0:
                ours += mine
                theirs += [int(line) / 1e6 for line in said.split()]
    against("put a run (theirs: the Rust host, durable)", statistics.median(ours), statistics.median(theirs), 1e6, "us")


def plugin(directory: Path, runs: int) -> None:
    """Measures what a plugin costs beside its own work: it answers one number, and nothing is stored."""
    if not PLUGIN.exists():
        show("a plugin", "not built")
        return
    config = FileStoreConfig(root=str(directory / "plugin"), durability="relaxed").scoped("bench:1")
    with config.connect() as store:
        store.put_run_records(replace(record(number), run_id=f"{ONE_NUMBER}{number}") for number in range(runs))
    loaded = Plugin(PLUGIN)

    def compute() -> None:
        assert derive(config, loaded, dry_run=True).derived == runs

    taken = statistics.median(timed(compute) for _ in range(3))
    show(f"a plugin over {runs} runs, not stored, a run", f"{taken / runs * 1e6:.0f} us", reach="100 us")


if __name__ == "__main__":
    main()
