"""`dpo-numpy golden LOSS`: the golden cases of a loss as JSON, one a line, to hold another program to them."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..conformance.golden import SEAMS, raw
from .losses import FACTORIES
from .options import _flags, _hyperparameters

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "golden",
        help="exact values and gradients of a loss, as JSON",
        description="Prints the golden cases of a loss: inputs, value and gradient, correct to the last bit, each "
        "float as a decimal and in hexadecimal. LOSS may be logp: log-probs of sequences of tokens, from logits.",
    )
    parser.add_argument("loss", metavar="LOSS", help="as in dpo-numpy losses, or logp")
    parser.add_argument("--seam", choices=SEAMS, help="only where it takes these (default: all there are)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.loss not in {case["loss"] for _, case in raw()}:
        check_loss(args.loss)
    found = [json.dumps({"seam": seam, **case}, ensure_ascii=False) for seam, case in raw(args.seam, args.loss)]
    if not found:
        there = " or ".join(repr(seam) for seam in dict.fromkeys(seam for seam, _ in raw(loss=args.loss)))
        raise ValueError(f"seam is {args.seam!r}; expected {there}, where {args.loss} has cases")
    print("[\n" + ",\n".join(found) + "\n]")
    return 0


def check_loss(name: str) -> None:
    """Raises `ValueError` on the name of no loss; says which are near."""
    nothing = dict.fromkeys(f"loss_{flag}" for flag in _flags(FACTORIES))
    _hyperparameters(argparse.Namespace(loss=name, **nothing), FACTORIES)
