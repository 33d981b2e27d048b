"""`dpo-numpy golden LOSS`: the golden cases of a loss, to hold another program to them: as JSON, a case a line, or as

    case SEAM LOSS WHAT
    hyper.NAME  SHAPE NUMBER ...
    inputs.NAME SHAPE NUMBER ...
    value       SHAPE NUMBER ...
    grad.NAME   SHAPE NUMBER ...
    end

for languages that have no reader of JSON at hand: an array a line, words between single spaces. SHAPE is `3x2` or `3`,
the last index running fastest, or `scalar`, one number, or `word`, a hyper-parameter that is a word. Floats are
hexadecimal (`%a`) or inf or -inf, integers decimal, false and true 0 and 1: `strtod` reads them all.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from ..conformance.golden import SEAMS, Case, cases, raw
from .losses import FACTORIES
from .options import _flags, _hyperparameters

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "golden",
        help="exact values and gradients of a loss, for any language",
        description="Prints the golden cases of a loss: inputs, value and gradient, correct to the last bit, each "
        "float as a decimal and in hexadecimal. LOSS may be logp: log-probs of sequences of tokens, from logits.",
    )
    parser.add_argument("loss", metavar="LOSS", help="as in dpo-numpy losses, or logp")
    parser.add_argument("--seam", choices=SEAMS, help="only where it takes these (default: all there are)")
    parser.add_argument(
        "--format", choices=("json", "lines"), default="json",
        help="lines: an array a line, its name, its shape and its numbers in hexadecimal, to be read without a parser "
        "of JSON (default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.loss not in {case["loss"] for _, case in raw()}:
        check_loss(args.loss)
    found = list(raw(args.seam, args.loss))
    if not found:
        there = " or ".join(repr(seam) for seam in dict.fromkeys(seam for seam, _ in raw(loss=args.loss)))
        raise ValueError(f"seam is {args.seam!r}; expected {there}, where {args.loss} has cases")
    if args.format == "lines":
        print("\n".join(line for case in cases(args.seam, args.loss) for line in lines(case)))
    else:
        told = [json.dumps({"seam": seam, **case}, ensure_ascii=False) for seam, case in found]
        print("[\n" + ",\n".join(told) + "\n]")
    return 0


def lines(case: Case) -> Iterator[str]:
    """as the docstring of the module says"""
    yield f"case {case.seam} {case.loss} {case.what}"
    for name, x in case.hyper.items():
        yield f"hyper.{name} {f'word {x}' if isinstance(x, str) else f'scalar {_number(x)}'}"
    arrays = [(f"inputs.{name}", x) for name, x in case.inputs.items()]
    arrays += [("value", case.value), *((f"grad.{name}", x) for name, x in case.grad.items())]
    for place, array in arrays:
        yield " ".join([place, "x".join(map(str, array.shape)) or "scalar", *map(_number, array.ravel().tolist())])
    yield "end"


def _number(x: float | int | bool) -> str:
    return x.hex() if isinstance(x, float) else str(int(x))


def check_loss(name: str) -> None:
    """Raises `ValueError` on the name of no loss; says which are near."""
    nothing = dict.fromkeys(f"loss_{flag}" for flag in _flags(FACTORIES))
    _hyperparameters(argparse.Namespace(loss=name, **nothing), FACTORIES)
