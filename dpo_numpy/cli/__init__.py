"""The command `dpo-numpy`: what it is asked, and how it says no.

Each subcommand is a module of this package that offers `add_parser(subparsers)`, with `run=` a default: args -> int.
A `ValueError` from any layer is one sentence on standard error and exit code 2; a traceback is always a bug.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from io import TextIOWrapper
from typing import Any, NoReturn

from .. import __version__

__all__ = ["main"]

COMMANDS = ("demo", "train", "losses", "show", "golden", "verify", "identify", "profiles", "run",
            "report", "sweep", "play")
DESCRIPTION = """Preference optimization in NumPy, every derivative written by hand.
Options may be spelled with - or _ alike: --max-steps is --max_steps."""
BAD_INPUT, INTERRUPTED, NO_READER = 2, 130, 141


class Parser(argparse.ArgumentParser):
    """Its errors are raised, to look like all others; no abbreviations, which new options could make ambiguous."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """What is not known is an error here, where the command is known too, and not of the parser above."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].partition("=")[0]
            near = get_close_matches(flag, self._option_string_actions, 1) if flag.startswith("--") else []
            self.error(f"unrecognized arguments: {' '.join(unknown)}" + (f"; did you mean {near[0]}?" if near else ""))
        return found, unknown

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} ({self.prog} --help lists the options)")


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="dpo-numpy", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        import_module(f".{name}", __name__).add_parser(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process); the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without β is no reason to stop
    try:
        args = parser().parse_args(_underscored(sys.argv[1:] if argv is None else argv))
        code: int = args.run(args)
        if sys.stdout is not None:  # as where it was closed before we began
            sys.stdout.flush()
        return code
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    except ValueError as error:
        return _say(str(error), BAD_INPUT)
    except MemoryError as error:
        return _say(f"not enough memory: {error}", BAD_INPUT)
    except KeyboardInterrupt as stop:
        return _say(f"interrupted{f': {stop}' if str(stop) else ''}", INTERRUPTED)
    except BrokenPipeError:
        discard_output()
        return NO_READER


def discard_output() -> None:
    """Nobody reads standard output any more: write the rest, and what Python flushes at exit, to nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(sentence: str, code: int) -> int:
    print(f"dpo-numpy: {' '.join(sentence.split())}", file=sys.stderr)
    return code


def _underscored(argv: Sequence[str]) -> list[str]:
    """--max-steps=3 -> --max_steps=3; only the names of options, before a lone --."""
    end = list(argv).index("--") if "--" in argv else len(argv)
    spelled = []
    for word in argv[:end]:
        name, equals, value = word.partition("=")
        spelled.append("--" + name[2:].replace("-", "_") + equals + value if name.startswith("--") else word)
    return [*spelled, *argv[end:]]
