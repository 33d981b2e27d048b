"""`dpo-numpy losses`: every loss in two lines, as its docstring has it; `--json` for programs."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import textwrap
from typing import Any, NamedTuple

from ..losses import LOSSES, Loss
from ..surrogates import SURROGATES

__all__ = ["FACTORIES", "Entry", "add_parser", "entries", "entry", "run"]

FACTORIES = LOSSES | SURROGATES
WIDTH, INDENT = 120, 21


class Entry(NamedTuple):
    """What there is to say of a loss in two lines."""

    name: str
    section: str
    formula: str
    what: str
    paper: str
    hyperparameters: dict[str, Any]
    reads: tuple[str, ...]
    needs: tuple[str, ...]
    coupled: bool


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "losses",
        help="the losses there are: name, formula, what it is, paper",
        description="Lists every loss by name, with its formula, what it is in a line and the paper it comes from. "
        "a, b: log π/π_ref of the chosen and the rejected response; h = a - b; ℓ = log π in nats; of tokens: "
        "ρ = π/π_old, A the advantage.",
    )
    parser.add_argument("--json", action="store_true", help="the same and more, for programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    found = entries()
    print(json.dumps([each._asdict() for each in found], indent=1, ensure_ascii=False) if args.json else table(found))
    return 0


def table(found: list[Entry]) -> str:
    lines = []
    for section in dict.fromkeys(each.section for each in found):
        lines += ["", section, ""]
        for each in found:
            if each.section == section:
                lines += _rows(each)
    return "\n".join([*lines[1:], "", f"{len(found)} losses. dpo-numpy show LOSS says all there is to say of one."])


def _rows(each: Entry) -> list[str]:
    """The paper stands at the right of the first line that has room for it."""
    formula = textwrap.wrap(each.formula, WIDTH - INDENT)
    lines = [*formula, *textwrap.wrap(each.what, WIDTH - INDENT), ""]
    at = next(k for k, line in enumerate(lines) if len(line) + 2 + len(each.paper) <= WIDTH - INDENT)
    lines[at] += each.paper.rjust(WIDTH - INDENT - len(lines[at]))
    first, *more = lines if at == len(lines) - 1 else lines[:-1]
    return [f"  {each.name:<{INDENT - 2}}{first}".rstrip(), *(f"{'':{INDENT}}{line}".rstrip() for line in more)]


# ---- from the docstrings

def entries() -> list[Entry]:
    """Section by section, in the order of the registry"""
    found = [entry(name) for name in FACTORIES]
    order = list(dict.fromkeys(SECTIONS.values()))
    return sorted(found, key=lambda each: order.index(each.section))


def entry(name: str) -> Entry:
    loss, (first, *rest) = FACTORIES[name](), paragraphs(name)
    formula, what = _formula(first)
    default = {key: found.default for key, found in inspect.signature(FACTORIES[name]).parameters.items()}
    return Entry(name, SECTIONS[kind(loss)], formula, what or _sentence(*rest[:1]), _paper(rest), default, loss.reads,
                 loss.needs, loss.coupled)


def paragraphs(name: str) -> list[str]:
    """Of the docstring, each in one line; the formula comes first, three spaces between its parts."""
    first, *rest = (inspect.getdoc(FACTORIES[name]) or "").split("\n\n")
    return [re.sub(r"\s*\n\s*", " ", part) for part in (re.sub(r"(?<=[,;])\n", "   ", first), *rest)]


SECTIONS = {
    "reference": "pairs, against a reference",
    "free": "pairs, without a reference",
    "single": "single responses, desired or not",
    "ranking": "rankings of K responses",
    "reward": "reward models: they read rewards",
    "token": "policy gradients: the tokens of K sampled responses",
}


def kind(loss: Loss) -> str:
    """pairs with and without a reference, single responses, rankings, rewards, tokens of samples"""
    columns = {term.link.columns for term in loss.terms}
    if columns == {None} and "mask" in loss.needs:
        return "token"
    if "reward" in loss.reads:
        return "reward"
    if columns == {1}:
        return "single"
    if "ref_logp" in loss.needs or "ref_token_logp" in loss.needs:
        return "ranking" if columns == {None} else "reference"
    return "free"


def _formula(first: str) -> tuple[str, str]:
    """L = ..., with what its letters stand for and without its derivatives; and the words after it, if there are any"""
    first, _, words = first.partition(": ")
    value, *others = (part.strip() for part in re.split(r"[,;]   ", first))
    kept = [value]
    for part in others:
        letter, equals, _ = part.partition(" = ")
        letter = letter.partition("(")[0]  # φ(h) = ...
        end = "(?![A-Za-z])" if letter.isalpha() else ""  # β' is used in β'h
        used = re.search(f"(?<![A-Za-z]){re.escape(letter)}{end}", " ".join(kept))
        if not part.startswith("∂") and (used if equals else " where " in part):
            kept.append(part)
    return ",  ".join(kept), "" if words.startswith("`") else words[:1].upper() + words[1:]


def _sentence(paragraph: str = "") -> str:
    """The first; without what follows a semicolon where it is long"""
    sentence = re.split(r"(?<=\.) ", paragraph)[0].rstrip(".")
    return sentence if len(sentence) <= WIDTH - INDENT else sentence.partition("; ")[0]


def _paper(rest: list[str]) -> str:
    """Authors, year, and where to find it: of the first paper of the paragraph that names one"""
    for paragraph in rest:
        named = re.match(r"(?:After )?([^.;`]+?(?: al\.)?[^.;`]*? (?:19|20)\d\d)\b([^;]*)", paragraph)
        if named and not paragraph.startswith("Elsewhere"):
            where = re.search(r"arXiv:\d{4}\.\d{5}|[\w.]+/[\w./]+\.pdf", named[2])
            return named[1] + (f", {where[0]}" if where else "")
    return ""
