"""Writes MYTHS.md: what people say of preference optimization, what is exactly true, and the claims that show it.

    python docs/myths.py

A row's numbers are those of claims of `toy_models.experiments`, each of which has to hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from toy_models.experiments import EXPERIMENTS, Claim

PAGE = Path(__file__).parents[1] / "MYTHS.md"

Claims = Mapping[str, Claim]


class Myth(NamedTuple):
    """truth: format fields are the numbers of the claims, whose beginnings `shown` names, by experiment"""

    said: str
    truth: str
    shown: tuple[tuple[str, str], ...]

    def row(self, claims_of: Callable[[str], Claims]) -> str:
        """A line of the table; raises `ValueError` where a claim does not hold, or is none"""
        numbers = []
        for experiment, beginning in self.shown:
            found = [claim for sentence, claim in claims_of(experiment).items() if sentence.startswith(beginning)]
            if len(found) != 1 or not found[0].holds:
                raise ValueError(f"{experiment}: {len(found)} claims begin with {beginning!r}; expected one that holds")
            numbers.append(found[0].number)
        by = ", ".join(f"`{name}`" for name in dict.fromkeys(name for name, _ in self.shown))
        return f"| {self.said} | {self.truth.format(*numbers)} | {by} |"

    @property
    def needs(self) -> set[str]:
        return {name for name, _ in self.shown}


HEAD = """# What people say, and what is true

Sentences of tutorials, papers, interviews and discussions, beside what exact computation says in worlds small enough to
sum over. Most are true on a condition that was left out. `dpo-numpy run NAME` runs the experiment of that name and
prints the claims behind the row, with the numbers that decide them. Made by `python docs/myths.py`, which refuses a row
whose claims do not hold.

| people say | what is true | shown by |
| --- | --- | --- |
"""


def page(claims_of: Callable[[str], Claims]) -> str:
    return HEAD + "".join(myth.row(claims_of) + "\n" for myth in MYTHS)


MYTHS: tuple[Myth, ...] = (
    Myth("β only scales the loss.", "{0:.3f}", (("beta_two_knobs", "the β that moves most"),)),
)


def main() -> None:
    held: dict[str, Claims] = {}

    def claims_of(name: str) -> Claims:
        if name not in held:
            held[name] = EXPERIMENTS[name].claims(EXPERIMENTS[name].run())
        return held[name]

    PAGE.write_text(page(claims_of), encoding="utf-8")


if __name__ == "__main__":
    main()
