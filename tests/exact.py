"""What theory predicts of small policies to the last digit, beside what a computation measures: docs/exact.md.

    python tests/exact.py        # writes the page

An entry yields rows, each a prediction and a measurement. Predictions come from closed forms, worked out by hand or in
`analytic`; measurements from enumeration, from training with the registry's losses, from SciPy's optimizers, from
simulation. A result that has a condition is followed by a twin in which the condition does not hold, and neither does
the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[1] / "docs" / "exact.md"


class Row(NamedTuple):
    what: str
    predicted: float
    measured: float
    tolerance: float  # absolute
    holds: bool = True  # False: a twin, whose two numbers must differ by more than the tolerance

    @property
    def right(self) -> bool:
        apart = abs(self.measured - self.predicted)
        return bool(apart <= self.tolerance if self.holds else apart > self.tolerance)


class Entry(NamedTuple):
    title: str
    rows: Callable[[], Iterator[Row]]

    @property
    def text(self) -> str:
        """The docstring, as one paragraph"""
        return " ".join((self.rows.__doc__ or "").split())


ENTRIES: dict[str, Entry] = {}


def entry(title: str) -> Callable[[Callable[[], Iterator[Row]]], Callable[[], Iterator[Row]]]:
    def add(rows: Callable[[], Iterator[Row]]) -> Callable[[], Iterator[Row]]:
        ENTRIES[rows.__name__] = Entry(title, rows)
        return rows
    return add


def relative(what: str, predicted: float, measured: float, tolerance: float) -> Row:
    return Row(what, float(predicted), float(measured), tolerance * abs(float(predicted)))


# ---- the page

HEAD = """# Exact results

What theory predicts of small policies, beside what a computation that does not know the theory measures: an
enumeration, a training with the registry's losses, a numerical optimizer, a simulation. Every line is asserted by
`tests/test_exact.py` within its tolerance. "but not" begins a twin, in which the condition of the result does not hold:
there the two numbers must differ by more than the tolerance. Logarithms are natural, |y| of a string counts the tokens
before its end unless a line says otherwise, u = log π/π_ref.
"""


def escaped(text: str) -> str:
    """For Markdown, where stars and bars mean something; in code they do not"""
    return "`".join(part if k % 2 else part.replace("*", r"\*").replace("|", r"\|")
                    for k, part in enumerate(text.split("`")))


def labelled(row: Row) -> str:
    return escaped(row.what if row.holds else f"but not: {row.what}")


def page() -> str:
    import exact_models
    import exact_roads
    import exact_tables

    parts = [HEAD]
    chapters = (
        (exact_tables, "Tables: one logit a response"),
        (exact_models, "Strings, and what is shared"),
        (exact_roads, "Roads: reward models, policy gradients, and when each wins"),
    )
    for module, heading in chapters:
        parts.append(f"\n## {heading}\n")
        for found in (found for found in ENTRIES.values() if found.rows.__module__ == module.__name__):
            text = [escaped(part) for part in (f"\n### {found.title}", found.text) if part]
            parts.append("\n\n".join(text) + "\n\n")
            parts.append("| | predicted | measured | tolerance |\n| --- | ---: | ---: | ---: |\n")
            for row in found.rows():
                parts.append(f"| {labelled(row)} | {row.predicted:.10g} | {row.measured:.10g} "
                             f"| {row.tolerance:.2g} |\n")
    return "".join(parts)


if __name__ == "__main__":
    import exact  # this file, under the name that the entries know

    exact.PAGE.write_text(exact.page(), encoding="utf-8")
