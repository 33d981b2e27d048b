"""A claim: a sentence, the number that decides on it, and where that number has to be."""

from __future__ import annotations

from math import isnan
from typing import Any, NamedTuple

__all__ = ["Claim", "Skipped", "above", "below", "between", "near"]


class Claim(NamedTuple):
    """number: what was found; expected: where it has to be, as one reads it; both in the unit of the sentence

    A number that is NaN decides nothing: the claim does not hold, and could not be evaluated.
    """

    holds: bool
    number: float
    expected: str

    @property
    def evaluated(self) -> bool:
        """It has a number; at some settings there is none"""
        return not isnan(self.number)


class Skipped(Exception):
    """An experiment needs what is not here, such as data; its sentence says what, and how to bring it."""


def below(number: Any, limit: float) -> Claim:
    """number < limit

    >>> below(0.5, 1)
    Claim(holds=True, number=0.5, expected='< 1')
    """
    return Claim(bool(number < limit), float(number), f"< {limit:g}")


def above(number: Any, limit: float) -> Claim:
    """number > limit"""
    return Claim(bool(number > limit), float(number), f"> {limit:g}")


def near(number: Any, value: Any, within: float) -> Claim:
    """|number - value| <= within: `value` is what theory, or another computation, says

    >>> near(1.1567716, 1.15677, within=1e-5).expected
    '1.15677 ± 1e-05'
    """
    return Claim(bool(abs(number - value) <= within), float(number), f"{float(value):.6g} ± {within:.2g}")


def between(number: Any, low: float, high: float) -> Claim:
    """low < number < high"""
    return Claim(bool(low < number < high), float(number), f"{low:g} to {high:g}")
