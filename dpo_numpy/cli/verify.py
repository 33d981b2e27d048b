"""`dpo-numpy verify FUNCTION`: hold somebody else's loss against one of ours; where it breaks, and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..conformance import profiles
from ..conformance.foreign import load
from ..conformance.frameworks import DTYPES
from ..conformance.verification import SEAMS, verify
from .options import _flags, _hyperparameters

__all__ = ["add_parser", "add_theirs", "asked", "run", "theirs"]

FACTORIES: dict[str, Callable[..., Any]] = {
    name: make for seam in SEAMS.values() for name, make in seam.losses().items()
}
TEXT = """Runs a loss function on probing inputs and holds what it returns, and the gradient that its own framework
takes, against the exact answers. FUNCTION is module:function or path/to/file.py:function; that module is imported
and run, because you name it.

An error counts in units of unavoidable rounding: 1 is what an ulp on each input does to the exact answer. It fails
when it exceeds 16 units and 4 eps of the size that values or slopes have at policy = reference; beyond the first
alone it is a note."""


def signatures() -> str:
    """Of all seams, for the help"""
    lines = [
        "canonical signatures (names like these are recognized; an example of each is in",
        "dpo_numpy.conformance.examples):",
    ]
    for name, seam in SEAMS.items():
        lines += [
            f"  {name:9} {part.strip()}" if not k else f"  {'':9} {part.strip()}"
            for k, part in enumerate(seam.signature.split(";"))
        ]
    return "\n".join([*lines, "", "exit code: 0 agrees, 1 differs, 2 could not be judged"])


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "verify",
        help="hold your loss function against ours: where it breaks, and why",
        description=TEXT,
        epilog=signatures(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_theirs(parser)
    parser.add_argument(
        "--loss",
        default=None,
        metavar="LOSS",
        help="ours, as in dpo-numpy losses (default: dpo; logp of the seam sequence)",
    )
    parser.add_argument(
        "--profile",
        choices=profiles.names(),
        metavar="NAME",
        help="take LOSS as that library means it: " + ", ".join(profiles.names()),
    )
    parser.add_argument("--strict", action="store_true", help="notes fail too")
    parser.set_defaults(run=run)


def add_theirs(parser: argparse.ArgumentParser) -> None:
    """The function, where it lives, and its hyper-parameters"""
    parser.add_argument("function", metavar="FUNCTION", help="module:function or path/to/file.py:function")
    parser.add_argument("--seam", choices=SEAMS, default="pair", help="where it takes over (default: pair)")
    parser.add_argument(
        "--framework",
        default="numpy",
        metavar="NAME",
        help="numpy (default), torch, jax, or dlpack:MODULE of a module with from_dlpack",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="default: float64 in NumPy, float32 elsewhere")
    parser.add_argument("--device", default="cpu", help="where its arrays live (default: cpu)")
    parser.add_argument(
        "--gradient",
        choices=("auto", "returned", "none"),
        default="auto",
        help="auto: its framework's autograd; in NumPy, what it returns after the losses",
    )
    parser.add_argument(
        "--layout",
        choices=("halves", "interleaved"),
        default="halves",
        help="of the seam batch: chosen rows first, or chosen and rejected in turn",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of FUNCTION that stays as it is: a number, true, false, null, or a word; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    group = parser.add_argument_group("hyper-parameters", "those of the loss, under our names")
    for name in _flags(FACTORIES):
        group.add_argument(f"--{name}", dest=f"loss_{name}", default=None, metavar="X")


def theirs(args: argparse.Namespace) -> Callable[..., Any]:
    """The function, with what is set of its arguments"""
    fixed = {}
    for one in args.set:
        name, equals, value = one.partition("=")
        if not (equals and name.isidentifier()):
            raise ValueError(f"set is {one!r}; expected NAME=VALUE")
        try:
            fixed[name] = json.loads(value)
        except json.JSONDecodeError:
            fixed[name] = value
    f = load(args.function)
    return partial(f, **fixed) if fixed else f


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """What `verify` and `identify` are both told"""
    return {name: getattr(args, name) for name in ("seam", "framework", "dtype", "device", "gradient", "layout")}


def run(args: argparse.Namespace) -> int:
    args.loss = args.loss or ("logp" if args.seam == "sequence" else "dpo")
    losses: Mapping[str, Callable[..., Any]] = SEAMS[args.seam].losses()
    if args.loss not in losses and args.loss in FACTORIES:
        there = [repr(name) for name, seam in SEAMS.items() if args.loss in seam.losses()]
        raise ValueError(f"seam is {args.seam!r}; expected {' or '.join(there)}, where {args.loss} is")
    hyper = _hyperparameters(args, losses)
    given = {name: hyper[name] for name in hyper if getattr(args, f"loss_{name}") is not None}
    report = verify(theirs(args), args.loss, profile=args.profile, strict=args.strict, **asked(args), **given)
    print(report.json() if args.json else report)
    return report.code
