"""A small sweep kept in a store: `python sweep.py [DIRECTORY]` (default ./experiments), and again to see it grow.

It fits a line to noisy points with several learning rates, as an experiment runner would do it: a run record for each,
its log, its parameters as an artifact; then it asks which were good.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from datetime import datetime

from metalab_store import ArtifactDescriptor, FileStore, FileStoreConfig, RunRecord

EXPERIMENT = "line_fit:1.0"


def fit(rate: float, points: list[tuple[float, float]]) -> tuple[float, float, list[float]]:
    """Fits a line by gradient descent, and returns it with the loss of each step."""
    slope = offset = 0.0
    losses = []
    for _ in range(50):
        errors = [(slope * x + offset - y, x) for x, y in points]
        losses.append(sum(error * error for error, _ in errors) / len(points))
        slope -= rate * sum(error * x for error, x in errors) / len(points)
        offset -= rate * sum(error for error, _ in errors) / len(points)
    return slope, offset, losses


def run(store: FileStore, rate: float, seed: int) -> None:
    """Makes one run and stores all of it."""
    params = {"optimizer": {"rate": rate}, "seed": seed}
    run_id = hashlib.sha256(json.dumps([EXPERIMENT, params], sort_keys=True).encode()).hexdigest()[:16]
    started = datetime.now()
    store.put_run_record(RunRecord.running(run_id=run_id, params_resolved=params, started_at=started))
    numbers = random.Random(seed)
    points = [(x / 10, 2 * x / 10 + 1 + numbers.gauss(0, 0.1)) for x in range(20)]
    slope, offset, losses = fit(rate, points)
    store.put_log(run_id, "run", "".join(f"step {step}: {loss:.6f}\n" for step, loss in enumerate(losses)))
    store.put_result(run_id, "loss", [[step, loss] for step, loss in enumerate(losses)], shape=[len(losses), 2])
    model = ArtifactDescriptor(f"{run_id}-model", "model", "json", "json", metadata={"_run_id": run_id})
    stored = store.put_artifact(json.dumps({"slope": slope, "offset": offset}).encode(), model)
    store.put_run_record(
        RunRecord.success(
            run_id=run_id,
            params_resolved=params,
            started_at=started,
            metrics={"loss": losses[-1], "slope": slope},
            artifacts=[stored],
            tags=["sweep"],
        )
    )


def main() -> None:
    root = sys.argv[1] if len(sys.argv) > 1 else "./experiments"
    with FileStoreConfig(root=root).scoped(EXPERIMENT).connect() as store:
        for rate in (0.01, 0.1, 0.5):
            for seed in range(3):
                run(store, rate, seed)
        best = store.query(
            'status = "success" and metrics.loss < 1',
            sort="metrics.loss",
            columns=["run_id", "params.optimizer.rate", "metrics.loss"],
            limit=3,
        )
        print(f"{best.total} of {len(store.list_run_records())} runs have a loss below 1; the best are")
        for row in best:
            print(f"  {row['run_id']}  rate {row['params.optimizer.rate']:<5} loss {row['metrics.loss']:.4f}")
        winner = best.rows[0]["run_id"]
        with store.open_artifact_of(winner, "model", verify=True) as file:
            print(f"the model of {winner}: {json.load(file)}")


if __name__ == "__main__":
    main()
