"""What the `kit_*.py` of this folder share: a library's functions, run through `dn.verify`, and a table of verdicts.

    PYTHONPATH=. .venv-peers/liger/bin/python tests/peers/kit_liger.py [--only NAME] [--write docs/libraries/liger.md]

A subject is one function of the library and what it is held against. Where it is known to differ, `because` says which
finding or which convention of the report it is; then it must differ. Exit code 1 where a subject differs that should
agree, agrees that should differ, or cannot be judged. `--write` puts the table into the report, between its markers.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402  (the environment is set before what reads it)

import dpo_numpy as dn  # noqa: E402

BEGIN, END = "<!-- made by the kit -->\n", "<!-- until here -->\n"
SHORT, BOTH, THREE = ("float32",), ("float32", "float64"), ("float32", "float64", "bfloat16")
WIDTH = 150  # of what is said about a failure
REPORTS = Path(__file__).parents[2] / "docs" / "libraries"


class Subject(NamedTuple):
    called: str
    function: Callable[..., Any]
    loss: str
    seam: str
    dtypes: Sequence[str]
    framework: Any
    because: str
    told: dict[str, Any]
    hyper: dict[str, Any]


SUBJECTS: list[Subject] = []


def subject(
    called: str,
    function: Callable[..., Any],
    loss: str,
    seam: str = "pair",
    dtypes: Sequence[str] = BOTH,
    *,
    framework: Any = "torch",
    because: str = "",
    gradient: str = "auto",
    **hyper: Any,
) -> None:
    """`called`: what of the library; `because`: why it differs, if it does; `hyper`: ours, with which it is held."""
    SUBJECTS.append(Subject(called, function, loss, seam, dtypes, framework, because, {"gradient": gradient}, hyper))


def call(function: str, **options: Any) -> str:
    """How a table shows a call."""
    told = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return f"`{function}({told})`" if told else f"`{function}`"


def modules(report: str) -> dict[str, str]:
    """The modules that a report brings along, by file name: blocks whose first line is a comment with that name."""
    text = (REPORTS / report).read_text()
    return {found[1]: found[0][len("```python\n"):-len("```")]
            for found in re.finditer(r"```python\n# (\w+\.py)\n.*?```", text, re.DOTALL)}


def run_modules(report: str) -> None:
    """Run the modules of a report, for what they do: they make a library importable alone."""
    for name, source in modules(report).items():
        exec(compile(source, name, "exec"), {"__name__": name.removesuffix(".py")})


class Row(NamedTuple):
    cells: tuple[str, ...]
    differs: bool
    wrong: str


def judge(s: Subject) -> Row:
    """One subject in its dtypes: a row of the table, and what is not as it is said to be."""
    verdicts, why, differs, wrong = [], "", False, ""
    for dtype in s.dtypes:
        try:
            report = dn.verify(s.function, s.loss, seam=s.seam, framework=s.framework, dtype=dtype, **s.told, **s.hyper)
        except Exception as error:  # the kit itself failed: the row says so, the others go on
            verdicts.append(f"{dtype} **not called**")
            why = wrong = f"{type(error).__name__}: {error}"
            continue
        verdict = ("agrees", "differs", "not judged")[report.code]
        verdicts.append(f"{dtype} {verdict if report.agrees else f'**{verdict}**'}")
        differs |= not report.agrees
        failed = [line for line in report.lines if line.verdict == "FAIL"]
        if not why and not report.agrees:
            more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
            why = report.unjudged or f"`{failed[0].test}`{more}: {failed[0].says}"
    if differs and not s.because:
        wrong = wrong or "differs, and is not said to"
    if not differs and s.because:
        wrong = wrong or f"agrees, and was said to differ: {s.because}"
    why = why if len(why) <= WIDTH else why[:WIDTH].rsplit(" ", 1)[0] + " ..."
    hyper = ", ".join(f"{name}={value!r}" for name, value in s.hyper.items())
    last = ". ".join(filter(None, [s.because[:1].upper() + s.because[1:], why])).replace("|", "\\|")
    return Row((s.called, f"`{s.loss}({hyper})`", s.seam, "; ".join(verdicts), last), differs, wrong)


def main(distributions: str) -> int:
    """Judge all subjects; `distributions`: those whose versions are told."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="NAME", help="subjects whose name has this in it")
    parser.add_argument("--write", metavar="REPORT", type=Path, help="put the table into this report")
    args = parser.parse_args()
    told = ", ".join(f"{name} {metadata.version(name)}" for name in distributions.split())
    rows = []
    for s in SUBJECTS:
        if not args.only or args.only in s.called:
            rows.append(judge(s))
            print(" | ".join(rows[-1].cells[:4]), f"   <- {rows[-1].wrong}" if rows[-1].wrong else "", flush=True)
    differ, wrong = sum(row.differs for row in rows), sum(bool(row.wrong) for row in rows)
    summary = f"{len(rows)} subjects: {len(rows) - differ} agree, {differ} differ."
    print(summary, f"{wrong} not as they are said to be." if wrong else "")
    if args.write and not args.only:
        heads = "called", "held against", "seam", "verdict", "why, and what the kit says first"
        first = f"{told}, NumPy {np.__version__}, Python {platform.python_version()}, on a CPU. {summary}"
        lines = [textwrap.fill(first, 120), "",
                 *(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *(row.cells for row in rows)))]
        before, _, rest = args.write.read_text().partition(BEGIN)
        args.write.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + rest.partition(END)[2])
    return 1 if wrong else 0
