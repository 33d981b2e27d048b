"""A sweep of the experiment `noise` on two processes, on a dask cluster of two workers, and on one process.

Rows are asserted to be equal, to the last digit. Processes are started before the clock is. On one thread each.
"""

from __future__ import annotations

from typing import Any

from benchmarks.harness import Case, Run

CASES = [Case("noise, 8 values of beta, 4 seeds", "sweep", {"points": 8, "seeds": 4}, ours="two processes",
              targets={"one process": 1.7, "dask, two workers": None}, rtol=0, atol=0, small={"points": 2, "seeds": 1})]


def nothing(k: int, seed: int) -> dict[str, int]:
    return {"k2": k * k}


def sweeping(points: int, seeds: int, close: Any = None, **how: Any) -> Run:
    from dpo_numpy.cli.settings import experiment
    from dpo_numpy.cli.sweep import read_axis
    from toy_models.experiments import Measured, sweep

    fn = Measured("noise")
    grid = dict([read_axis(experiment("noise"), f"beta=0.1:1:log:{points}")])
    sweep(nothing, {"k": range(8)}, **how)

    def work() -> Any:
        return sweep(fn, grid, seeds, vectorized=fn.vectorized, **how)

    def numbers() -> dict[str, Any]:
        rows = work()
        return {name: [row[name] for row in rows] for name, x in rows[0].items() if isinstance(x, (int, float))}

    return Run(work, numbers, close=close)


def two_processes(**params: int) -> Run:
    from joblib.externals.loky import get_reusable_executor

    return sweeping(n_jobs=2, close=lambda: get_reusable_executor().shutdown(wait=True), **params)


def dask(**params: int) -> Run:
    from distributed import LocalCluster

    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50)
    return sweeping(n_jobs=-1, backend="dask", scheduler=cluster.scheduler_address, close=cluster.close, **params)


SIDES = {"two processes": ("numpy/1", two_processes), "one process": ("numpy/1", sweeping),
         "dask, two workers": ("dask/1", dask)}
