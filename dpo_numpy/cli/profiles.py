"""`dpo-numpy profiles [A B]`: the libraries whose conventions are known; where two of them disagree, with numbers."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..conformance import profiles

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "profiles",
        help="conventions of libraries: list them, or set two side by side",
        description="Without names, lists the profiles. With one, its options and which of our losses they are, and "
        "how a batch becomes a number: layout, masks, sums. With two, where they disagree: options with their values "
        "on the numbers of CONVENTIONS.md, then batches.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(profiles.names()))
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if len(args.names) > 2:
        raise ValueError(f"{len(args.names)} profiles were given; expected at most two")
    for name in args.names:
        profiles.profile(name)
    rows: list[Any] = (
        profiles.listed()
        if not args.names
        else [*profiles.options(args.names[0]), *profiles.batches(args.names[0])]
        if len(args.names) == 1
        else profiles.disagreements(*args.names)
    )
    if args.json:
        print(json.dumps([row._asdict() for row in rows], ensure_ascii=False, indent=1))
    else:
        print("\n".join(map(str, rows)) or f"no disagreement between {' and '.join(args.names)} is known")
    return 0
