"""A sweep on one process, on two, on a dask cluster of two workers: seconds, and how many times as fast as one.

    python benchmarks/sweep.py [--experiment noise] [--grid beta=0.1:1:log:8] [--seeds 4]

Rows are asserted to be equal. The processes are started before the clock is: what they cost once is given apart.
On one thread each.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is imported, here and in the workers

import argparse
import time
from typing import Any

from dpo_numpy.cli.settings import experiment
from dpo_numpy.cli.sweep import read_axis
from toy_models.experiments import Measured, sweep


def nothing(k: int, seed: int) -> dict[str, int]:
    return {"k2": k * k}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", default="noise")
    parser.add_argument("--grid", nargs="+", default=["beta=0.1:1:log:8"])
    parser.add_argument("--seeds", type=int, default=4)
    args = parser.parse_args()
    fn = Measured(args.experiment)
    grid = dict(read_axis(experiment(args.experiment), text) for text in args.grid)

    def timed(**how: Any) -> tuple[float, float, list[dict[str, Any]]]:
        begun = time.perf_counter()
        sweep(nothing, {"k": range(8)}, **how)
        ready = time.perf_counter()
        rows = sweep(fn, grid, args.seeds, vectorized=fn.vectorized, **how)
        return ready - begun, time.perf_counter() - ready, rows

    _, alone, expected = timed()
    print(f"{args.experiment}, {' '.join(args.grid)}, {args.seeds} seeds: {len(expected)} cells")
    print(f"{'one process':<24}{alone:8.2f} s")
    found = {"loky, two processes": timed(n_jobs=2)}
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster:
        found["dask, two workers"] = timed(n_jobs=-1, backend="dask", scheduler=cluster.scheduler_address)
    for name, (start, seconds, rows) in found.items():
        assert rows == expected
        print(f"{name:<24}{seconds:8.2f} s   {alone / seconds:5.2f} times as fast; to start: {start:.2f} s")


if __name__ == "__main__":
    main()
