"""`dpo-numpy report [EXPERIMENT ...]`: all experiments, run and judged, as one page that needs nothing else."""

from __future__ import annotations

import argparse
import base64
import inspect
import io
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from .environment import environment
from .outcome import Outcome, carried_out, draw, save_figure
from .run_folder import write_whole
from .settings import claim_of, experiment
from .terminal import progress, tell

__all__ = ["add_parser", "page", "run"]

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 74rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 3.5rem; border-top: 1px solid #ddd; padding-top: 1.5rem; }
h2 code { font-size: .8em; font-weight: normal; color: #595959; margin-left: .5rem; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #e4e4e4; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.expected { white-space: nowrap; }
.ok { color: #00664a; } .fails { color: #a63c00; font-weight: bold; } .skipped { color: #595959; }
.claim { font-size: 1.1rem; max-width: 50rem; }
pre { overflow-x: auto; font-size: .85rem; background: #f6f6f6; padding: .8rem; }
.wide { overflow-x: auto; } a { color: #0057a3; }
@media print { h2 { break-before: page; border: 0; } }
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "report", help="run all experiments: one HTML page of claims, numbers and pictures",
        description="Runs every experiment at its defaults, or those that are named, and writes one HTML page with "
        "claims, numbers, pictures and where it was made. The page needs no other file and no network. The exit code "
        "is 1 if a claim fails.",
    )
    parser.add_argument("names", nargs="*", metavar="EXPERIMENT", help="as in dpo-numpy run (default: all)")
    parser.add_argument("--output", "--out", type=Path, default=Path("dpo-report.html"), metavar="FILE",
                        help="the page (default: dpo-report.html)")
    parser.add_argument("--no_progress", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from toy_models.experiments import EXPERIMENTS

    modules = [experiment(name) for name in args.names] or [*EXPERIMENTS.values()]
    writable(args.output)
    outcomes, parts = [], []
    with np.errstate(all="ignore"), progress(len(modules), 0, args.no_progress, "experiment") as bar:
        for module in modules:
            outcomes.append(carried_out(module, module.Config()))
            parts.append(section(outcomes[-1]))
            if bar is None:
                tell(f"{outcomes[-1].name:<24}{outcomes[-1].summary()}")
            else:
                bar.update()
    write_whole(args.output, lambda file: file.write(page(outcomes, parts).encode()))
    tell(f"{total(outcomes)}\nwritten: {args.output}")
    for outcome in outcomes:
        if not outcome.holds:
            tell("\n".join([f"\n{outcome.name}", *(line for line in outcome.lines() if not line.startswith("ok"))]))
    return 0 if all(outcome.holds for outcome in outcomes) else 1


def writable(path: Path) -> None:
    """Told before the work, not after; raises `ValueError`"""
    if path.is_dir():
        raise ValueError(f"output is {path}, a folder; expected the name of a file")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"output is {path}, but there is no folder {path.absolute().parent}")
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise ValueError(f"output is {path}, but {path.absolute().parent} cannot be written to")


def total(outcomes: Sequence[Outcome]) -> str:
    claims = [claim for outcome in outcomes for claim in outcome.claims.values()]
    left = sum(bool(outcome.skipped) for outcome in outcomes)
    return (f"{len(outcomes) - left} experiments, {sum(claim.holds for claim in claims)} of {len(claims)} claims hold, "
            f"{sum(outcome.seconds for outcome in outcomes):.0f} s") + (f"; {left} skipped" if left else "")


def page(outcomes: Sequence[Outcome], sections: Iterable[str]) -> str:
    contents = "\n".join(
        f'<tr><td><a href="#{outcome.name}">{title(outcome)}</a></td><td>{escape(claim_of(outcome.module))}</td>'
        f'<td class="number {grade(outcome)}">{held(outcome)}</td></tr>' for outcome in outcomes)
    where = "\n".join(f"<tr><td>{escape(name)}</td><td>{escape(_shown(value))}</td></tr>"
                      for name, value in environment().items() if value)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Exact experiments on preference optimization</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>Exact experiments on preference optimization</h1>
<p>Each experiment claims something of DPO and its kin, measures it in a world small enough to sum over, and says by
which numbers the claim holds. <code>dpo-numpy run NAME</code> runs one, with other settings too.</p>
<p><strong>{escape(total(outcomes))}</strong></p>
<div class="wide"><table>
<tr><th>experiment</th><th>what it claims</th><th class="number">claims hold</th></tr>
{contents}
</table></div>
{"".join(sections)}
<h2 id="environment">Where this was made</h2>
<div class="wide"><table>
{where}
</table></div>
</main>
</body>
</html>
"""


def section(outcome: Outcome) -> str:
    head = (f'<h2 id="{outcome.name}">{title(outcome)}<code>dpo-numpy run {outcome.name}</code></h2>\n'
            f'<p class="claim">{escape(claim_of(outcome.module))}</p>\n')
    _, _, setting = (inspect.getdoc(outcome.module) or "").partition("\n\n")
    if setting:
        head += f"<details><summary>setting and formulas</summary><pre>{escape(setting)}</pre></details>\n"
    if outcome.skipped:
        return head + f'<p class="skipped">Skipped: {escape(outcome.skipped)}</p>\n'
    drawn = io.BytesIO()
    save_figure(draw(outcome), outcome.name, "png", drawn)
    coded = base64.b64encode(drawn.getvalue()).decode("ascii")
    table = getattr(outcome.module, "table", None)
    shown = f"<pre>{escape(table(outcome.result))}</pre>\n" if table is not None else ""
    rows = "\n".join(
        f'<tr><td>{escape(sentence)}</td><td class="number">{claim.number:.4g}</td>'
        f'<td class="expected">{escape(claim.expected)}</td>'
        f'<td class="{"ok" if claim.holds else "fails"}">{"holds" if claim.holds else "fails"}</td></tr>'
        for sentence, claim in outcome.claims.items())
    failed = f'<p class="fails">The claims cannot be evaluated: {escape(outcome.unevaluated)}</p>\n'
    return (head + f'<img alt="{escape(claim_of(outcome.module))}" src="data:image/png;base64,{coded}">\n' + shown
            + (failed if outcome.unevaluated else "") + '<div class="wide"><table>\n'
            '<tr><th>claim</th><th class="number">found</th><th>expected</th><th></th></tr>\n'
            f"{rows}\n</table></div>\n")


def title(outcome: Outcome) -> str:
    return outcome.name.replace("_", " ").capitalize()


def held(outcome: Outcome) -> str:
    if outcome.skipped:
        return "skipped"
    return f"{sum(claim.holds for claim in outcome.claims.values())} of {len(outcome.claims)}"


def grade(outcome: Outcome) -> str:
    return "skipped" if outcome.skipped else "ok" if outcome.holds else "fails"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_shown(inner)}" for name, inner in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
