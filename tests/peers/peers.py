"""Measures the store beside MLflow's stores: the same runs, the same questions, in one process.

    python peers.py RUNS [JSON]

MLflow's file store syncs nothing; its sqlite store syncs each transaction; the store syncs each put unless it is opened with
relaxed durability. All are called from Python.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# What it would print, send or refuse otherwise.
os.environ.update(MLFLOW_ALLOW_FILE_STORE="true", MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

from metalab_store import FileStoreConfig, RunRecord  # noqa: E402
from mlflow import __version__ as version  # noqa: E402
from mlflow.entities import Metric, Param  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

#: How often each question is asked.
ROUNDS = 5

measured: list[dict[str, Any]] = []


def show(title: str, rows: Iterable[tuple[str, list[float]]]) -> None:
    """Prints medians, and how many times as long as the first each takes."""
    print(f"\n{title}")
    base = None
    for name, times in rows:
        low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
        base = base or median
        print(f"  {name:40} {median * 1e3:>10.2f} ms  (quartiles {low * 1e3:.2f} to {high * 1e3:.2f})  {median / base:.2f} x")
        measured.append(
            {
                "title": title,
                "name": name,
                "median_us": median * 1e6,
                "quartiles_us": [low * 1e6, high * 1e6],
                "times": len(times),
            }
        )


def timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


class Ours:
    """The store, in this process."""

    def __init__(self, root: Path, durability: str) -> None:
        self.name = f"this store, files, {durability}"
        self._store = FileStoreConfig(root=root, durability=durability).scoped("peers:1").connect()

    def put(self, index: int) -> None:
        metrics = {f"metric_{at}": index + at / 8 for at in range(5)}
        params = {f"param_{at}": index for at in range(5)}
        self._store.put_run_record(
            RunRecord.success(run_id=f"{index:016x}", metrics=metrics, params_resolved=params)
        )

    def page(self, least: int) -> int:
        return len(self._store.query(f"metrics.metric_1 > {least}", sort="metrics.metric_2 desc", limit=100).rows)

    def all(self) -> int:
        return len(self._store.list_run_records())


class Peer:
    """MLflow with one of its stores."""

    def __init__(self, name: str, uri: str) -> None:
        self.name = f"MLflow {version}, {name}"
        self._client = MlflowClient(tracking_uri=uri)
        self._experiment = self._client.create_experiment("peers")

    def put(self, index: int) -> None:
        run = self._client.create_run(self._experiment).info.run_id
        metrics = [Metric(f"metric_{at}", index + at / 8, 0, 0) for at in range(5)]
        params = [Param(f"param_{at}", str(index)) for at in range(5)]
        self._client.log_batch(run, metrics=metrics, params=params)
        self._client.set_terminated(run)

    def page(self, least: int) -> int:
        query = f"metrics.metric_1 > {least}"
        return len(self._search(query, ["metrics.metric_2 DESC"], 100, None))

    def all(self) -> int:
        count, token = 0, None
        while True:
            page = self._search("", [], 1000, token)
            count, token = count + len(page), page.token
            if not token:
                return count

    def _search(self, query: str, order: list[str], most: int, token: str | None) -> Any:
        return self._client.search_runs(
            [self._experiment], filter_string=query, order_by=order, max_results=most, page_token=token
        )


def main(runs: int, file: str | None) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        stores: list[Ours | Peer] = [
            Ours(root / "full", "full"),
            Ours(root / "relaxed", "relaxed"),
            Peer("files", str(root / "mlruns")),
            Peer("sqlite", f"sqlite:///{root}/mlflow.db"),
        ]
        puts: list[list[float]] = [[] for _ in stores]
        # In turns, so that what disturbs one disturbs all.
        for index in range(runs):
            for store, times in zip(stores, puts):
                times.append(timed(lambda: store.put(index)))
        names = [store.name for store in stores]
        show(f"a run with 5 metrics and 5 parameters is stored, {runs} times", zip(names, puts))
        pages: list[list[float]] = [[] for _ in stores]
        lists: list[list[float]] = [[] for _ in stores]
        for _ in range(ROUNDS):
            for store, page, whole in zip(stores, pages, lists):
                page.append(timed(lambda: expect(store.page(runs // 2), min(100, runs - runs // 2), store.name)))
                whole.append(timed(lambda: expect(store.all(), runs, store.name)))
        show(f"filter, sort, first 100 of {runs} runs", zip(names, pages))
        show(f"list of all {runs} runs", zip(names, lists))
    if file is not None:
        path = Path(file)
        whole = json.loads(path.read_text()) if path.exists() else {"measured": []}
        whole["measured"] += measured
        path.write_text(json.dumps(whole, indent=2))


def expect(found: int, wanted: int, name: str) -> None:
    """No store is fast because it finds less."""
    if found != wanted:
        raise SystemExit(f"{name} found {found} runs instead of {wanted}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
