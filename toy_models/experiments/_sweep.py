"""A function over a grid: every cell with a seed of its own, on as many processes or machines as there are."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import fields
from itertools import product
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._rows import RowFile

__all__ = ["MOST_CELLS", "Band", "Measured", "bands", "cell_seed", "check_sweep", "sweep"]

Array = NDArray[Any]
Row = dict[str, Any]
BACKENDS = ("loky", "threading", "dask", "ray")
OWN = ("replicate", "seed", "error")  # columns beside the grid's and what fn returns
MOST_COLUMNS = 32
RAY_BLOCK = 64  # tasks whose rows arrive together
MOST_CELLS = 10_000_000  # rows are held in memory
UNREACHED = 10.0  # seconds until a scheduler that does not answer is given up


def sweep(fn: Callable[..., Mapping[str, Any]], grid: Mapping[str, Iterable[Any]], seeds: int = 1, n_jobs: int = 1, *,
          seed: int = 0, vectorized: bool = False, backend: str = "loky", scheduler: str | None = None,
          file: str | PathLike[str] | None = None, arrived: Callable[[int, int], None] | None = None) -> list[Row]:
    """fn(**point, seed=...) for each point of the grid and each of `seeds` replicates: a tidy row each

    A row holds the point's values by name, `replicate` (0, 1, ...), the `seed` that fn was given, and the numbers that
    it returned. Rows come in the order of the grid, last name fastest, whatever order they were computed in.

    seed         of the sweep; that of a cell depends on it, on the point's values and on the replicate, and on nothing
                 else, so that a grid can grow, and backend, order and number of processes change no digit
    vectorized   fn(**point, seed=..., replicates=seeds) is called once a point; of what it returns, arrays (seeds,)
                 have an entry for each replicate, numbers belong to all
    n_jobs       processes (-1: one a core); 1 computes in this one
    backend      joblib's: "loky", "threading"; "dask" with `scheduler`, an address; "ray" on the cluster that
                 `ray.init` has joined, or that it finds by RAY_ADDRESS; there rows arrive 64 tasks at a time
    file         a CSV to which each row is appended as it arrives; cells that it holds are not computed again
    arrived      told how many cells are there, and of how many

    A cell whose fn raises `ValueError` or `ArithmeticError` has a row with the sentence in `error`, and no numbers.

    Raises `ValueError` on an empty grid, a name that fn's rows use themselves, values that are no numbers or words,
    more than ten million cells, a scheduler that does not answer in 10 s, a backend that is not installed, and a
    worker that died.

    >>> def noisy(scale, seed):
    ...     return {"x": scale * np.random.default_rng(seed).normal()}
    >>> rows = sweep(noisy, {"scale": [1.0, 2.0]}, seeds=3)
    >>> [(row["scale"], row["replicate"]) for row in rows]
    [(1.0, 0), (1.0, 1), (1.0, 2), (2.0, 0), (2.0, 1), (2.0, 2)]
    >>> sweep(noisy, {"scale": [2.0]}, seeds=3) == rows[3:]
    True
    """
    axes = {name: list(values) for name, values in grid.items()}
    check_sweep(axes, seeds, n_jobs, backend, scheduler)
    points = list(_points(axes))
    wanted = [_Cell(point, r, cell_seed(seed, point, None if vectorized else r))
              for point in points for r in range(seeds)]
    with closing(RowFile(file, tuple(grid))) if file is not None else nullcontext() as kept:
        found = {cell.key: row for cell in wanted if kept and (row := kept.get(cell.key)) is not None}
        if vectorized:
            tasks = [_Task(point, cell_seed(seed, point), range(seeds)) for point in points
                     if any(_Cell(point, r, cell_seed(seed, point)).key not in found for r in range(seeds))]
        else:
            tasks = [_Task(cell.point, cell.seed, range(cell.replicate, cell.replicate + 1))
                     for cell in wanted if cell.key not in found]
        if arrived:
            arrived(len(found), len(wanted))
        for rows in _computed(fn, tasks, vectorized, n_jobs, backend, scheduler):
            for cell, row in rows:
                if cell.key not in found:
                    found[cell.key] = row
                    if kept:
                        kept.append(row)
            if arrived:
                arrived(len(found), len(wanted))
    return [found[cell.key] for cell in wanted]


def check_sweep(grid: Mapping[str, Sequence[Any]], seeds: int, n_jobs: int, backend: str,
                scheduler: str | None) -> None:
    """Raises `ValueError` as `sweep` does of its arguments, and makes nothing"""
    if type(seeds) is not int or seeds < 1:
        raise ValueError(f"seeds is {seeds}; expected a whole number, at least 1")
    if type(n_jobs) is not int or n_jobs < -1 or n_jobs == 0:
        raise ValueError(f"n_jobs is {n_jobs}; expected a number of processes, or -1 for one a core")
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected one of {', '.join(BACKENDS)}")
    cells = seeds * math.prod(len(values) for values in grid.values())
    if cells > MOST_CELLS:
        raise ValueError(f"grid and seeds make {cells:,} cells; expected at most {MOST_CELLS:,}")
    next(_points(grid))
    if backend == "dask" and scheduler is None:
        raise ValueError("backend dask needs a scheduler, an address such as tcp://host:8786")
    if n_jobs != 1 or backend in ("dask", "ray"):
        for module in ("joblib", *{"dask": ("distributed",), "ray": ("ray.util.joblib",)}.get(backend, ())):
            _installed(module, backend)


class _Cell(NamedTuple):
    point: Mapping[str, Any]
    replicate: int
    seed: int

    @property
    def key(self) -> str:
        return json.dumps([[name, value] for name, value in self.point.items()] + [self.replicate, self.seed])


class _Task(NamedTuple):
    """What one call of fn computes"""

    point: Mapping[str, Any]
    seed: int
    replicates: range


def _points(grid: Mapping[str, Iterable[Any]]) -> Iterator[dict[str, Any]]:
    axes = {name: list(values) for name, values in grid.items()}
    for name, values in axes.items():
        if name in OWN or name == "replicates":
            raise ValueError(f"grid has an axis {name!r}, a name that rows use themselves; expected another")
        if not values:
            raise ValueError(f"grid: {name} has no values; expected at least one")
        axes[name] = values = [value.item() if isinstance(value, np.generic) else value for value in values]
        for value in values:
            known = isinstance(value, (bool, int, float, str))
            if not known or (isinstance(value, float) and not math.isfinite(value)):
                raise ValueError(f"grid: {name} holds {value!r}; expected finite numbers, words, true or false")
        if len(set(axes[name])) < len(values):
            raise ValueError(f"grid: {name} holds a value twice; expected each once")
    yield from (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))


def cell_seed(seed: int, point: Mapping[str, Any], replicate: int | None = None) -> int:
    """What a cell draws from: 31 bits of a digest of all that it is named by, in whatever order"""
    name = json.dumps([seed, sorted(point.items()), replicate])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1


def _rows_of(fn: Callable[..., Mapping[str, Any]], task: _Task, vectorized: bool) -> list[tuple[_Cell, Row]]:
    try:
        found = dict(fn(**task.point, seed=task.seed, **({"replicates": len(task.replicates)} if vectorized else {})))
        error = None
    except (ValueError, ArithmeticError) as reason:
        found, error = {}, f"{' '.join(str(reason).split())}"
    rows = []
    for i, r in enumerate(task.replicates):
        numbers = {name: _number(name, value, i if vectorized else None, len(task.replicates))
                   for name, value in found.items() if name not in {*task.point, *OWN}}
        cell = _Cell(task.point, r, task.seed)
        rows.append((cell, {**task.point, "replicate": r, "seed": task.seed, "error": error or "", **numbers}))
    return rows


def _number(name: str, value: Any, row: int | None, replicates: int) -> Any:
    array = np.asarray(value)
    if row is not None and array.shape == (replicates,):
        array = array[row]
    if array.shape != () or array.dtype.kind not in "biuf":
        raise TypeError(f"fn returned {name} of shape {array.shape} and type {array.dtype}; expected a number"
                        + (f", or {replicates} of them" if row is not None else ""))
    return array.item()


def _computed(fn: Callable[..., Mapping[str, Any]], tasks: Sequence[_Task], vectorized: bool, n_jobs: int, backend: str,
              scheduler: str | None) -> Iterator[list[tuple[_Cell, Row]]]:
    if n_jobs == 1 and backend not in ("dask", "ray"):
        yield from (_rows_of(fn, task, vectorized) for task in tasks)
        return
    joblib = _installed("joblib", backend)
    calls = [joblib.delayed(_rows_of)(fn, task, vectorized) for task in tasks]
    with _cluster(backend, scheduler), joblib.parallel_config(backend=backend):
        if backend == "ray":  # returns all results of a call together
            pool = joblib.Parallel(n_jobs=n_jobs)
            for begin in range(0, len(calls), RAY_BLOCK):
                yield from pool(calls[begin:begin + RAY_BLOCK])
            return
        try:
            yield from joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)(calls)
        except _installed("joblib.externals.loky.process_executor", backend).TerminatedWorkerError as death:
            raise ValueError("a worker process died, killed or out of memory: finished cells are kept, and fewer jobs "
                             "need less memory") from death


@contextmanager
def _cluster(backend: str, scheduler: str | None) -> Iterator[None]:
    if backend == "ray":
        _installed("ray.util.joblib", backend).register_ray()
    if backend != "dask":
        yield
        return
    distributed = _installed("distributed", backend)
    try:
        client = distributed.Client(scheduler, timeout=UNREACHED)
    except (OSError, ValueError, TimeoutError) as error:
        raise ValueError(f"scheduler {scheduler} does not answer: {error}") from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise ValueError(f"scheduler {scheduler} has no workers: start some, as in dask worker {scheduler}")
        yield


def _installed(module: str, backend: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        extra = {"dask": "cluster", "ray": "ray"}.get(backend, "sweep")
        package = "ray" if extra == "ray" else f"'dpo-numpy[{extra}]'"
        raise ValueError(f"several processes by {backend} need {module.partition('.')[0]}, which is not installed: "
                         f"pip install {package}") from error


class Measured:
    """What an experiment measures, as a function of its settings, for `sweep`: its numbers, and arrays of replicates

    Of an array with more axes than that of replicates, each entry is a column, such as `regret.rDPO` where the result
    has one array of words that fits the axis, else `regret.2`; without commas, at which readers of CSV that do not know
    quotes would split. One of more than 32 entries a replicate is left out.

    Raises `ValueError` where there is no such experiment, and as its `Config` does.

    >>> measured = Measured("root_n", counts=(100,))
    >>> found = measured(beta=2.0, replicates=5, seed=3)
    >>> found["K"].item(), found["regret.0"].shape
    (8, (5,))
    """

    def __init__(self, name: str, **fixed: Any) -> None:
        self.name, self.fixed = name, fixed
        self.draws = "seed" in {field.name for field in fields(self._module.Config)}
        self.vectorized = bool(self._replicated)

    @property
    def _module(self) -> Any:
        from . import EXPERIMENTS

        if self.name not in EXPERIMENTS:
            raise ValueError(f"no experiment is called {self.name!r}; there are {', '.join(EXPERIMENTS)}")
        return EXPERIMENTS[self.name]

    @property
    def _replicated(self) -> tuple[str, ...]:
        return getattr(self._module, "REPLICATED", ())

    def config(self, **settings: Any) -> Any:
        """The experiment's `Config`, with what is fixed and these settings"""
        return self._module.Config(**{**self.fixed, **settings})

    def __call__(self, *, seed: int, **settings: Any) -> dict[str, Any]:
        result = self._module.run(self.config(**settings, **({"seed": seed} if self.draws else {})))
        numbers = {name: x for name, x in result.items() if x.dtype.kind in "biuf"}
        found = {name: x for name, x in numbers.items() if x.ndim == 0}
        for name in self._replicated:
            entries = numbers[name].shape[1:]
            if math.prod(entries) <= MOST_COLUMNS:
                called = [[word.replace(",", "") for word in _words(result, size)] for size in entries]
                found |= {".".join([name, *(words[i] for words, i in zip(called, at, strict=True))]):
                          numbers[name][:, *at] for at in np.ndindex(entries)}
        return found


def _words(result: Mapping[str, Array], size: int) -> Sequence[str]:
    """What entries of an axis are called"""
    fitting = [x.tolist() for x in result.values() if x.dtype.kind == "U" and x.shape == (size,)]
    return fitting[0] if len(fitting) == 1 else [str(i) for i in range(size)]


class Band(NamedTuple):
    """Medians over replicates, and 95% of what they are when replicates are drawn again; each like x"""

    x: Array
    median: Array
    low: Array
    high: Array


def bands(rows: Iterable[Mapping[str, Any]], x: str, measure: str, resamples: int = 1000) -> Band:
    """Median of `measure` at each value of `x`, with the percentile bootstrap (Efron 1979); rows without it left out

    >>> rows = [{"beta": b, "kl": b + r} for b in (1.0, 2.0) for r in (-1, 0, 1)]
    >>> band = bands(rows, "beta", "kl")
    >>> band.median.tolist(), (band.low <= band.median).all()
    ([1.0, 2.0], np.True_)
    """
    held: dict[Any, list[float]] = {}
    for row in rows:
        value = row.get(measure)
        if isinstance(value, (int, float)) and not math.isnan(value):
            held.setdefault(row[x], []).append(float(value))
    places = sorted(held)
    spread = [_resampled(np.array(held[place]), resamples) for place in places]
    return Band(np.array(places), np.array([np.median(held[place]) for place in places]),
                np.array([low for low, _ in spread]), np.array([high for _, high in spread]))


def _resampled(values: ArrayLike, resamples: int) -> tuple[float, float]:
    values = np.asarray(values)
    drawn = np.random.default_rng(len(values)).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(np.median(values[drawn], axis=1), (0.025, 0.975), method="nearest")
    return float(low), float(high)
