"""`dpo-numpy identify FUNCTION`: which loss is it, with which conventions; or what is it nearest to?"""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..conformance.identification import identify
from .options import _flags
from .verify import FACTORIES, add_theirs, asked, theirs

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "identify",
        help="name what your loss function computes",
        description="Tries every loss of the seam, each with its conventions, on a function, then known mistakes, and "
        "prints the best name first. FUNCTION is module:function or path/to/file.py:function; that module is imported "
        "and run, because you name it. Exit code: 0 it is one of ours, 1 it is not, 2 it could not be judged.",
    )
    add_theirs(parser)
    parser.add_argument("--loss", metavar="LOSS", help="what it is meant to be (default: anything)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    hyper = {name: _number(text) for name in _flags(FACTORIES) if (text := getattr(args, f"loss_{name}")) is not None}
    found = identify(theirs(args), args.loss, **asked(args), **hyper)
    print(json.dumps(found.as_dict(), ensure_ascii=False, indent=1) if args.json else found)
    return 0 if found.exact else 1


def _number(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        return text
