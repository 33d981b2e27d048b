"""`dpo-numpy sweep EXPERIMENT --grid ...`: an experiment over its settings and many seeds, and what that looks like."""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..figures import COLORS, styled
from .environment import environment
from .methods import named
from .outcome import save_figure
from .run_folder import RunFolder
from .settings import add_fields, claim_of, config_of, experiment, read_field
from .terminal import progress, tell, warnings_as_sentences

__all__ = ["add_parser", "draw", "read_axis", "run"]

PROGRAM = "dpo-numpy sweep"
OURS = ("sweep.png", "rows.csv", "env.json", "config.json")
EXPECTED = "NAME=A,B,C or NAME=FROM:TO:log:COUNT or NAME=FROM:TO:lin:COUNT"
PANELS, LINES = 4, 8  # in the picture
SHOWN = 40  # points, in the terminal
MOST_VALUES = 1_000_000
EPILOG = """dpo-numpy sweep NAME --help lists the settings of an experiment: what has no --grid stays as it is given.
A cell is a point of the grid and a seed. Each has a seed of its own, made from the point's values, so that the
same numbers come from any number of processes, from a cluster, and from a run that was killed and resumed.
Writes rows.csv (a row a cell, as it arrives), sweep.png (medians with 95% bootstrap bands), config.json, env.json.
What is nan is left out of medians, and counted. The exit code is 1 if no cell could be computed."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "sweep", usage="%(prog)s NAME --grid SETTING=VALUES [--grid ...] [--seeds N] [--jobs N] [options]",
        help="an experiment over a grid of its settings and many seeds, on several processes or a cluster",
        description="Runs an experiment at every point of a grid.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="NAME ...", help="the experiment and the rest")
    parser.set_defaults(run=run, parser=type(parser))


def run(args: argparse.Namespace) -> int:
    if not args.words:
        raise ValueError("expected the name of an experiment (dpo-numpy run lists them)")
    from toy_models.experiments import Measured, Skipped, sweep
    from toy_models.experiments._sweep import check_sweep

    module = experiment(args.words[0])
    name = module.__name__.rpartition(".")[2]
    chosen = _parser(args.parser, module, name).parse_args(args.words[1:])
    if not chosen.grid:
        raise ValueError(f"expected at least one --grid {EXPECTED}")
    axes = [read_axis(module, text) for text in chosen.grid]
    grid = dict(axes)
    if len(grid) < len(axes):
        raise ValueError("--grid names a setting twice; expected each once")
    fixed = _fixed(chosen, module, grid)
    measured = Measured(name, **fixed)
    if chosen.seeds > 1 and not measured.draws:
        raise ValueError(f"seeds is {chosen.seeds}, but {name} draws nothing: expected 1")
    backend = chosen.backend or ("dask" if chosen.scheduler else "loky")
    if chosen.scheduler and backend != "dask":
        raise ValueError(f"scheduler is an address of dask's, and backend is {backend}: expected --backend dask")
    check_sweep(grid, chosen.seeds, chosen.jobs, backend, chosen.scheduler)  # before the work and the folder
    for values in _points(grid):
        measured.config(**values)
        _enough_seeds(measured, values, chosen.seeds)
    folder = RunFolder(chosen.output_dir, PROGRAM, OURS)
    folder.check(chosen.resume, chosen.overwrite_output_dir)
    config = {"experiment": name, "settings": {key: _plain(value) for key, value in fixed.items()}, "seed": chosen.seed}
    _same(folder.config() if chosen.resume else None, config, [*grid])
    folder.open({**config, "grid": grid, "seeds": chosen.seeds}, environment(), chosen.resume)
    cells = chosen.seeds * math.prod(len(values) for values in grid.values())
    done = 0
    with closing(folder), warnings_as_sentences(), progress(cells, 0, chosen.no_progress, "cell") as bar:
        def arrived(count: int, _: int) -> None:
            nonlocal done
            if bar is not None:
                bar.update(count - done)
            done = count

        try:
            with np.errstate(all="ignore"):
                rows = sweep(measured, grid, chosen.seeds, chosen.jobs, seed=chosen.seed, backend=backend,
                             vectorized=measured.vectorized, scheduler=chosen.scheduler,
                             file=folder.path / "rows.csv", arrived=arrived)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{done} of {cells} cells are kept; --resume goes on") from None
        except Skipped as reason:
            raise ValueError(f"{name} is skipped: {reason}") from reason
        shown = _measures(rows, grid, chosen.measure)
        if shown:
            folder.write("sweep.png", lambda file: save_figure(draw(rows, [*grid], shown, name), name, "png", file))
    written = [file for file in reversed(OURS) if (folder.path / file).is_file()]
    tell("\n".join([*_said(rows, grid, shown), f"written to {folder.path}: {', '.join(written)}"]))
    return int(all(row["error"] for row in rows))


def _parser(kind: Any, module: ModuleType, name: str) -> Any:
    parser = kind(prog=f"{PROGRAM} {name}", description=textwrap.fill(claim_of(module), 110), epilog=EPILOG,
                  formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", action="append", metavar="AXIS", help=f"{EXPECTED}; once for each setting to vary")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="replicates of each point (default: 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sweep (default: 0)")
    parser.add_argument("--jobs", "--n_jobs", type=int, default=1, metavar="N",
                        help="processes, -1: one a core (default: 1)")
    parser.add_argument("--backend", metavar="NAME",
                        help="joblib's: loky, threading, dask, ray (default: loky)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a dask cluster, tcp://host:8786")
    parser.add_argument("--measure", nargs="+", metavar="NAME",
                        help="what to draw (default: the first that vary, from seed to seed if any do)")
    parser.add_argument("--output_dir", "--out", type=Path, default=Path("dpo-sweep"), metavar="FOLDER",
                        help="default: dpo-sweep")
    parser.add_argument("--resume", action="store_true",
                        help="go on with what is there; the grid and the number of seeds may have grown")
    parser.add_argument("--overwrite_output_dir", action="store_true",
                        help="remove what an earlier sweep wrote there, and nothing else")
    parser.add_argument("--no_progress", action="store_true", help="no progress bar")
    replicated = bool(getattr(module, "REPLICATED", ()))
    add_fields(parser, module, skip=("seed", "replicates") if replicated else ("seed",))
    if replicated:
        parser.add_argument("--replicates", action=_Seeds, help=argparse.SUPPRESS)
    return parser


class _Seeds(argparse.Action):
    def __call__(self, *_: Any) -> None:
        raise ValueError("the replicates of a sweep are its seeds: expected --seeds N in place of --replicates")


def read_axis(module: ModuleType, text: str) -> tuple[str, list[Any]]:
    """"beta=0.01:10:log:13", "n=100,200", "kind=heavy" -> the setting and its values; `ValueError` where it is none"""
    name, equals, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not values:
        raise ValueError(f"grid is {text!r}; expected {EXPECTED}")
    named("setting", name, {field.name: field for field in fields(module.Config)})
    if name in ("seed", "replicates"):
        raise ValueError(f"grid is over {name}; expected --seeds N, which gives every cell a seed of its own")
    default = next(field.default for field in fields(module.Config) if field.name == name)
    if isinstance(default, tuple):
        raise ValueError(f"grid is over {name}, which is itself a list; expected a setting with one value")
    if ":" not in values:
        return name, [read_field(module, name, word.strip()) for word in values.split(",")]
    parts = values.split(":")
    if len(parts) != 4 or parts[2] not in ("lin", "log"):
        raise ValueError(f"grid is {text!r}; expected {EXPECTED}")
    try:
        low, high, count = float(parts[0]), float(parts[1]), int(parts[3])
    except ValueError:
        raise ValueError(f"grid is {text!r}; expected numbers in {EXPECTED}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high and count >= 2):
        raise ValueError(f"grid is {text!r}; expected FROM below TO and at least 2 values")
    if count > MOST_VALUES:
        raise ValueError(f"grid is {text!r}; expected at most {MOST_VALUES:,} values")
    if parts[2] == "log" and not low > 0:
        raise ValueError(f"grid is {text!r}; expected numbers above 0 for log")
    # powers of the nearest digits that are not rounding: 0.1, not 0.10000000000000002
    spaced = (np.geomspace if parts[2] == "log" else np.linspace)(low, high, count)
    if isinstance(default, (bool, str)):
        raise ValueError(f"grid is {text!r}, but {name} is no number; expected {name}=A,B")
    if isinstance(default, int):
        return name, list(dict.fromkeys(round(value) for value in spaced.tolist()))
    return name, [float(f"{value:.12g}") for value in spaced.tolist()]


def _fixed(chosen: argparse.Namespace, module: ModuleType, grid: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were given and do not vary"""
    given = [field.name for field in fields(module.Config)
             if getattr(chosen, f"field_{field.name}", None) is not None]
    for name in given:
        if name in grid:
            raise ValueError(f"{name} is given by --{name} and by --grid; expected one of them")
    config = config_of(chosen, module)
    return {name: getattr(config, name) for name in given}


def _points(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = [{}]
    for name, values in grid.items():
        points = [{**point, name: value} for point in points for value in values]
    return points


def _enough_seeds(measured: Any, values: Mapping[str, Any], seeds: int) -> None:
    """Where an experiment draws all replicates of a point at once, it may need more than one"""
    if measured.vectorized:
        try:
            measured.config(**values, replicates=seeds)
        except ValueError as error:
            raise ValueError(f"seeds is {seeds}, the replicates of a point: {error}") from error


def _same(before: Mapping[str, Any] | None, now: Mapping[str, Any], axes: Sequence[str]) -> None:
    for name, value in now.items() if before else ():
        if before is not None and before.get(name) != value:
            raise ValueError(f"{name} is {value}, but the sweep to resume was started with {before.get(name)}: give "
                             "that, or start anew with --overwrite_output_dir")
    held = before.get("grid") if before else None
    if isinstance(held, dict) and {*held} != {*axes}:
        raise ValueError(f"grid is over {', '.join(axes)}, but the sweep to resume was started over {', '.join(held)}: "
                         "give these, or start anew with --overwrite_output_dir")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# ---- what it looks like

def _measures(rows: Sequence[Mapping[str, Any]], grid: Mapping[str, Any], wanted: Sequence[str] | None) -> list[str]:
    ours = {*grid, "replicate", "seed", "error"}
    there = list(dict.fromkeys(name for row in rows for name in row if name not in ours))
    for name in wanted or ():
        named("measure", name, dict.fromkeys(there))
    if wanted:
        return list(wanted)
    within: dict[tuple[Any, ...], dict[str, set[float]]] = {}
    for row in rows:
        at = within.setdefault(tuple(row[name] for name in grid), {})
        for name in there:
            at.setdefault(name, set()).update([row[name]] if name in row else [])
    drawn = [name for name in there if any(len(at[name]) > 1 for at in within.values())]
    vary = [name for name in there if len({row[name] for row in rows if name in row}) > 1]
    return list(dict.fromkeys([*drawn, *vary, *there]))[:PANELS]


@styled
def draw(rows: Sequence[Mapping[str, Any]], axes: Sequence[str], measures: Sequence[str], name: str) -> Any:
    """Median and band of each measure against the first axis; a line for each value of the others"""
    from matplotlib.figure import Figure

    from toy_models.experiments import bands

    first, others = axes[0], axes[1:]
    lines = list(dict.fromkeys(tuple(row[other] for other in others) for row in rows))
    columns = min(2, len(measures))
    tall = -(-len(measures) // columns)
    figure = Figure(figsize=(6.5 * columns, 4.2 * tall))
    every = np.ravel(figure.subplots(tall, columns, squeeze=False))
    values = list(dict.fromkeys(row[first] for row in rows))
    numeric = not any(isinstance(value, (str, bool)) for value in values)
    for measure, ax in zip(measures, every, strict=False):
        low, high = math.inf, -math.inf
        for line, color in zip(lines[:LINES], COLORS, strict=False):
            here = [row for row in rows if tuple(row[other] for other in others) == line]
            band = bands(here, first, measure)
            x = band.x if numeric else np.array([values.index(value) for value in band.x.tolist()])
            label = ", ".join(f"{other} = {_short(value)}" for other, value in zip(others, line, strict=True))
            ax.plot(x, band.median, "o-", ms=3, color=color, label=label or None)
            ax.fill_between(x, band.low, band.high, color=color, alpha=0.2, lw=0)
            low, high = min(low, *band.median, math.inf), max(high, *band.median, -math.inf)
        if numeric and min(values) > 0 and max(values) > 20 * min(values):
            ax.set_xscale("log")
        if not numeric:
            ax.set_xticks(range(len(values)), [_short(value) for value in values])
        if 0 < low and high > 100 * low and math.isfinite(high):
            ax.set_yscale("log")
        ax.set(xlabel=first, ylabel=measure)
        if others:
            ax.legend(fontsize="small", title=None if len(lines) <= LINES else f"the first {LINES} of {len(lines)}")
    for ax in every[len(measures):]:
        ax.set_axis_off()
    figure.suptitle(f"{name}: median over seeds, 95% bootstrap band", fontsize="medium")
    return figure


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _said(rows: Sequence[Mapping[str, Any]], grid: Mapping[str, Any], measures: Sequence[str]) -> list[str]:
    """Medians at each point, in columns; how many cells failed, and how the first of them did"""
    points = list(dict.fromkeys(tuple(row[name] for name in grid) for row in rows))
    table = [[*grid, *measures]]
    for point in points:
        here = [row for row in rows if tuple(row[name] for name in grid) == point]
        found = [[row[name] for row in here if not math.isnan(row.get(name, math.nan))] for name in measures]
        table.append([*map(_short, point), *(f"{np.median(x):.4g}" if x else "-" for x in found)])
    wide = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(f"{text:>{w}}" for text, w in zip(row, wide, strict=True)) for row in table]
    missing = {name: sum(math.isnan(row.get(name, 0.0)) for row in rows) for name in measures}
    left_out = ", ".join(f"{name} in {count}" for name, count in missing.items() if count)
    failed = [row for row in rows if row["error"]]
    told = f"; {len(failed)} of them failed, the first: {failed[0]['error']}" if failed else ""
    return [*lines[:SHOWN], *([f"... {len(lines) - SHOWN} more points"] if len(lines) > SHOWN else []), "",
            f"{len(rows)} cells{told}", *([f"left out of medians, as nan: {left_out}"] if left_out else [])]
