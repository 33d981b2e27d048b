"""Short losses with one realistic bug each, and correct ones: what the conformance kit is measured on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Animal(NamedTuple):
    function: Callable[..., Any]
    seam: str  # pair, sequence, batch, unpaired, token
    loss: str
    hyper: dict[str, Any]  # of our loss, to which it should be equal
    framework: str
    dtypes: tuple[str, ...]  # in which the verdict must hold
    mistakes: tuple[str, ...]  # right diagnoses, best first; none: correct
    options: dict[str, Any]


ANIMALS: list[Animal] = []
DTYPES = ("float64", "float32")


def broken(
    *mistakes: str,
    seam: str = "pair",
    loss: str = "dpo",
    framework: str = "numpy",
    dtypes: tuple[str, ...] = DTYPES,
    options: dict[str, Any] | None = None,
    **hyper: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter the function that follows into `ANIMALS`."""
    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        ANIMALS.append(Animal(function, seam, loss, hyper, framework, tuple(dtypes), mistakes, dict(options or {})))
        return function

    return enter


def correct(
    seam: str = "pair",
    loss: str = "dpo",
    framework: str = "numpy",
    dtypes: tuple[str, ...] = DTYPES,
    options: dict[str, Any] | None = None,
    **hyper: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The same, without a mistake."""
    return broken(seam=seam, loss=loss, framework=framework, dtypes=dtypes, options=options, **hyper)
