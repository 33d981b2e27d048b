"""Paired timings: every library in a process of its own, one after the other, round by round, once they agree.

A module of `benchmarks/cases` has `CASES`, a list of `Case`, and `SIDES`, {label: (worker, function)}. The function
gets a case's parameters and answers with a `Run`. It is called in a process of that worker, so importing the module
imports no library. A worker is `numpy`, `torch` ...; the libraries of `numpy/1` are told to use one thread, and in
`numpy/blas 1` the BLAS is, while NumPy's caller has as many as the others.

A ratio is peer's seconds / ours, of one round each: what the machine does beside it hits both. Above 1 ours is faster.
A module may have `table(results) -> str`, its group's part of the page, and `SCALING`, its pictures (`pictures.py`).
"""

from __future__ import annotations

import cProfile
import gc
import math
import multiprocessing
import os
import pstats
import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

STRETCH, PAUSE, LONG = 0.05, 0.06, 0.5  # seconds: a timed stretch, the pause after it, a run that is timed less often
ROUNDS, FEWER, QUICK = 15, 7, 3
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Clock = Callable[[], float]


class Unequal(Exception):
    """A side computes other numbers than ours: its time would mean nothing."""


class Failed(Exception):
    """A side raised; the message is its traceback."""


class Missing(Exception):
    """A side's library is not installed."""


@dataclass(frozen=True)
class Case:
    """What is timed. Its sides are `ours` and those that `targets` names.

    targets : the least ratio of each peer that is aimed at; None: shown without a target
    rtol, atol : how near a peer's numbers are to ours
    small : the parameters that differ where it must be quick
    profiled : whether it is told where our time goes
    """

    name: str
    group: str
    params: Mapping[str, Any]
    ours: str = "numpy"
    targets: Mapping[str, float | None] = field(default_factory=dict)
    rtol: float = 1e-9
    atol: float = 1e-12
    small: Mapping[str, Any] = field(default_factory=dict)
    profiled: bool = True

    @property
    def sides(self) -> list[str]:
        return [self.ours, *self.targets]

    def parameters(self, small: bool = False) -> dict[str, Any]:
        return {**self.params, **(self.small if small else {})}


@dataclass
class Run:
    """A side that is built.

    work    : what is timed; returns when the numbers are there (JAX: `block_until_ready`)
    numbers : {name: array}, the same names on every side; called once, before `work` is. None: a bound, which computes
              something else, as copying does
    units   : how many units one call of `work` is; seconds are divided by it
    facts   : {name: what JSON can hold}, stored beside the seconds; `note` is printed
    close   : called when the case is over, as to end processes that were started
    """

    work: Callable[[], object]
    numbers: Callable[[], Mapping[str, Any]] | None
    units: int = 1
    facts: dict[str, Any] = field(default_factory=dict)
    close: Callable[[], object] | None = None


# ---- arithmetic

def stretch(work: Callable[[], object], count: int, clock: Clock = time.perf_counter) -> float:
    """Seconds of `count` runs, without the collector of garbage, as in `timeit`."""
    on = gc.isenabled()
    gc.disable()
    try:
        begin = clock()
        for _ in range(count):
            work()
        return clock() - begin
    finally:
        if on:
            gc.enable()


def calibrate(work: Callable[[], object], clock: Clock = time.perf_counter) -> tuple[int, float]:
    """How many runs fill a stretch, at least 1, and the seconds of one."""
    count = 1
    while (seconds := stretch(work, count, clock)) < STRETCH / 5:
        count *= 2
    return max(1, round(count * STRETCH / seconds)), seconds / count


def profile(work: Callable[[], object], count: int) -> dict[str, float]:
    """{function: share of the time that is spent in it and nothing it calls}, the largest first, from a twentieth on

    Of the calling thread. NumPy's ufuncs are no functions to Python: theirs is the time of whoever calls them.
    """
    profiler = cProfile.Profile()
    profiler.runcall(stretch, work, count)
    spent: dict[str, float] = {}
    for (file, _, function), (_, _, seconds, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        told = re.search(r"(?:method |\.)'?(\w+)'?(?: of|>)", function) if file == "~" else None
        name = told[1] if told else f"{Path(file).stem}.{function}"
        spent[name] = spent.get(name, 0.0) + seconds
    total = sum(spent.values())
    shares = sorted(((seconds / total, name) for name, seconds in spent.items()), reverse=True)
    return {name: round(share, 3) for share, name in shares if share >= 0.05}


def in_rounds(sides: Mapping[str, Callable[[], float]], rounds: int,
              pause: Callable[[], object] = lambda: time.sleep(PAUSE)) -> dict[str, list[float]]:
    """{label: seconds, one a round}: in each round every side once, each time another side first."""
    labels, seconds = list(sides), {label: [] for label in sides}
    for k in range(rounds):
        first = k % len(labels)
        for label in labels[first:] + labels[:first]:
            pause()
            seconds[label].append(sides[label]())
    return seconds


def quartiles(x: Sequence[float]) -> list[float]:
    """[25 %, median, 75 %]"""
    return [float(q) for q in np.percentile(x, [25, 50, 75])]


def ratios(peer: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Quartiles of peer / ours, round by round."""
    return quartiles([p / o for p, o in zip(peer, ours, strict=True)])


def compare(case: Case, label: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raises `Unequal` unless every number is finite and near to ours."""
    where = f"{case.group}, {case.name}, {label}"
    if theirs.keys() != ours.keys():
        raise Unequal(f"{where}: gives {sorted(theirs)}; {case.ours} gives {sorted(ours)}")
    for key, expected in ours.items():
        x, y = np.asarray(theirs[key]), np.asarray(expected)
        if x.shape != y.shape:
            raise Unequal(f"{where}: {key} has shape {x.shape}; {case.ours} gives {y.shape}")
        if not np.isfinite(x).all():
            raise Unequal(f"{where}: {key} is not finite")
        off = abs(x.astype(float) - y)
        if (off > case.atol + case.rtol * abs(y)).any():
            raise Unequal(f"{where}: {key} is off by {off.max():.2g}, where {case.ours} is up to {abs(y).max():.2g}")


# ---- workers

def serve(connection: Connection) -> None:
    """A worker's loop: build, MODULE, LABEL, PARAMS; numbers, calibrate, LABEL; time, profile, LABEL, COUNT; drop."""
    runs: dict[str, Run] = {}
    while True:
        try:
            request = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        answer: Any = None
        try:
            match request:
                case ("build", module, label, params):
                    runs[label] = run = import_module(module).SIDES[label][1](**params)
                    answer = {"units": run.units, "facts": run.facts, "compared": run.numbers is not None}
                case ("numbers", label):
                    answer = {name: np.asarray(x) for name, x in runs[label].numbers().items()}
                case ("calibrate", label):
                    runs[label].work()  # what is done once, as compiling, is no part of a run
                    answer = calibrate(runs[label].work)
                case ("time", label, count):
                    stretch(runs[label].work, count)  # processors that slept take as long to be back at full speed
                    answer = stretch(runs[label].work, count)
                case ("profile", label, count):
                    answer = profile(runs[label].work, count)
                case ("drop",):
                    run = None
                    while runs:
                        _, last = runs.popitem()
                        if last.close:
                            last.close()
                        del last
                    gc.collect()
            connection.send(("answer", answer))
        except ImportError as e:
            connection.send(("missing", str(e)))
        except Exception:
            connection.send(("failed", traceback.format_exc()))


def threads_of(worker: str, threads: int) -> dict[str, str]:
    """What a worker's environment says of threads."""
    told = worker.partition("/")[2]
    found = dict.fromkeys(THREADS, told if told.isdecimal() else str(threads))
    return found | {"OPENBLAS_NUM_THREADS": "1"} if told == "blas 1" else found


@contextmanager
def environment(**names: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


class Worker:
    """A process that is asked, one request at a time; it ends when the connection is closed."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        with environment(**threads_of(name, threads)):  # libraries read it when they are imported
            self.process = context.Process(target=serve, args=(other,))
            self.process.start()
        other.close()

    def ask(self, *request: Any) -> Any:
        try:
            self.connection.send(request)
            kind, answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(10)
            raise Failed(f"the process of {self.name} ended with code {self.process.exitcode}") from None
        if kind == "missing":
            raise Missing(answer)
        if kind == "failed":
            raise Failed(answer)
        return answer

    def drop(self) -> None:
        """Frees what was built, of all sides; a process that has ended has none."""
        with suppress(Failed):
            self.ask("drop")

    def close(self) -> None:
        self.connection.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


class Workers:
    """By name, started when they are first asked for."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.known: dict[str, Worker] = {}

    def __getitem__(self, name: str) -> Worker:
        if name not in self.known or not self.known[name].process.is_alive():
            self.known[name] = Worker(name, self.threads)
        return self.known[name]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.known.values():
            worker.close()


def measure(module: str, case: Case, workers: Workers, rounds: int | None = None,
            small: bool = False) -> dict[str, Any]:
    """A case's result, as it is stored; `rounds` None: as many as its run is long.

    Raises `Unequal` if a side's numbers are not ours, `Failed` if a side raised or ours is missing.
    """
    sides, params = import_module(module).SIDES, case.parameters(small)
    ready: dict[str, Worker] = {}
    built: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    expected: Any = None
    try:
        for label in case.sides:
            worker = workers[sides[label][0]]
            try:
                built[label] = worker.ask("build", module, label, params)
                if built[label]["compared"]:
                    numbers = worker.ask("numbers", label)
                    expected = numbers if label == case.ours else expected
                    compare(case, label, numbers, expected)
                ready[label] = worker
            except Missing as e:
                missing[label] = str(e)
                if label == case.ours:
                    raise Failed(f"{case.group}, {case.name}: {e}") from None
        counts, longest = {}, 0.0
        for label, worker in ready.items():
            time.sleep(PAUSE)
            counts[label], once = worker.ask("calibrate", label)
            longest = max(longest, once)
        rounds = rounds or (FEWER if longest > LONG else ROUNDS)

        def timer(label: str) -> Callable[[], float]:
            units = counts[label] * built[label]["units"]
            return lambda: ready[label].ask("time", label, counts[label]) / units

        seconds = in_rounds({label: timer(label) for label in ready}, rounds)
        shares = ready[case.ours].ask("profile", case.ours, counts[case.ours]) if case.profiled else {}
    finally:
        for worker in ready.values():
            worker.drop()
    peers = {label: {"missing": missing[label]} if label in missing else
             {"ratio": ratios(seconds[label], seconds[case.ours])} for label in case.targets}
    return {
        "module": module, "name": case.name, "group": case.group, "ours": case.ours, "rounds": rounds,
        "seconds": {label: quartiles(x) for label, x in seconds.items()},
        "peers": {label: {**peer, "target": case.targets[label]} for label, peer in peers.items()},
        "facts": {label: side["facts"] for label, side in built.items() if side["facts"]},
        "params": {name: value for name, value in params.items() if isinstance(value, (int, float, str))},
        "profile": shares, "load": round(os.getloadavg()[0], 2), "date": time.strftime("%Y-%m-%d"),
    }


# ---- how numbers are told

def verdict(ratio: float, target: float | None) -> str:
    return "" if target is None else "met" if ratio >= target else "**missed**"


def number(x: float) -> str:
    """Two digits at least: 0.042, 0.51, 3.1, 48"""
    return f"{x:.0f}" if x >= 9.95 else f"{x:.1f}" if x >= 0.995 else f"{x:.2g}"


def text_of(seconds: float, digits: int = 3) -> str:
    """To three digits: 512 µs, 1.20 ms, 61.0 s"""
    units = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}
    unit = next((unit for unit, size in units.items() if seconds >= 0.9995 * size), "ns")
    x = seconds / units[unit]
    places = max(0, digits - 1 - math.floor(math.log10(1.0005 * x))) if x > 0 else 0
    return f"{x:.{places}f} {unit}"
