"""`dpo-numpy run [EXPERIMENT]`: what can be shown; or one of these, run, judged and drawn."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .environment import environment
from .outcome import Outcome, carried_out, draw, save_figure, tidy
from .run_folder import RunFolder
from .settings import add_fields, claim_of, config_of, experiment
from .terminal import tell

__all__ = ["add_parser", "run"]

PROGRAM = "dpo-numpy run"
OURS = ("claims.json", "figure.svg", "figure.png", "result.csv", "result.npz", "env.json", "config.json")
WIDTH = 110
EPILOG = """dpo-numpy run NAME --help lists the settings of an experiment. The exit code is 1 if a claim fails.
With --output_dir: result.npz (all arrays), result.csv (the same as name,index,value), claims.json, figure.png
and figure.svg, config.json, env.json."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "run", usage="%(prog)s [NAME [--setting value ...] [--output_dir FOLDER]]",
        help="exact experiments: list them, or run one and see whether its claims hold",
        description="Without a name, lists the experiments and what they claim.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="NAME ...", help="the experiment and its settings")
    parser.set_defaults(run=run, parser=type(parser))


def run(args: argparse.Namespace) -> int:
    if not args.words:
        tell(listing())
        return 0
    module = experiment(args.words[0])
    name = module.__name__.rpartition(".")[2]
    parser = args.parser(prog=f"{PROGRAM} {name}", description=textwrap.fill(claim_of(module), WIDTH), epilog=EPILOG,
                         formatter_class=argparse.RawDescriptionHelpFormatter)
    add_fields(parser, module)
    parser.add_argument("--output_dir", "--out", type=Path, metavar="FOLDER", help="write result and figure there")
    parser.add_argument("--overwrite_output_dir", action="store_true",
                        help="remove what an earlier run wrote there, and nothing else")
    chosen = parser.parse_args(args.words[1:])
    config = config_of(chosen, module)
    folder = RunFolder(chosen.output_dir, PROGRAM, OURS, resumes=False) if chosen.output_dir is not None else None
    if folder is not None:
        folder.check(False, chosen.overwrite_output_dir)
    with np.errstate(all="ignore"):  # what is not finite shows in the claims
        outcome = carried_out(module, config)
    tell("\n".join([*said(outcome), ""]))
    if folder is not None and not outcome.skipped:
        save(folder, outcome)
        tell(f"written to {folder.path}: {', '.join(reversed(OURS))}")
    return 0 if outcome.holds else 1


def listing() -> str:
    """Each experiment and what it claims, in the order in which one teaches them"""
    from toy_models.experiments import EXPERIMENTS

    wide = max(map(len, EXPERIMENTS)) + 2
    return "\n".join(
        textwrap.fill(f"{name:<{wide}}{claim_of(module)}", WIDTH, subsequent_indent=" " * wide, break_on_hyphens=False)
        for name, module in EXPERIMENTS.items())


def said(outcome: Outcome) -> Sequence[str]:
    """What the terminal shows"""
    table = getattr(outcome.module, "table", None)
    shown = ["", table(outcome.result)] if table is not None and outcome.result else []
    return [textwrap.fill(f"{outcome.name}: {claim_of(outcome.module)}", WIDTH), *shown, "", *outcome.lines(), "",
            outcome.summary()]


def save(folder: RunFolder, outcome: Outcome) -> None:
    """All files, each whole or not at all, the claims last"""
    told = outcome.to_json()
    folder.open({"experiment": outcome.name, **told["config"]}, environment(), resume=False)
    with closing(folder):
        arrays: dict[str, Any] = dict(outcome.result)
        folder.write("result.npz", lambda file: np.savez(file, **arrays))
        folder.write("result.csv", lambda file: file.write(tidy(outcome.result).encode()))
        with np.errstate(all="ignore"):
            figure = draw(outcome)
        for kind in ("png", "svg"):
            folder.write(f"figure.{kind}", partial(save_figure, figure, outcome.name, kind))
        folder.write_json("claims.json", told)
