"""The hyper-parameters of a loss: which are numbers, and which words and switches there are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

__all__ = ["numeric", "settings_of"]


def numeric(make: Callable[..., Any]) -> list[str]:
    """The names of those that are numbers

    >>> from dpo_numpy import LOSSES
    >>> numeric(LOSSES["simpo"])
    ['beta', 'gamma', 'eps']
    """
    return [key for key, p in inspect.signature(make).parameters.items() if not isinstance(p.default, (bool, str))]


def settings_of(make: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """Each convention of a loss: its words and switches at every choice, the default first

    >>> from dpo_numpy import LOSSES
    >>> list(settings_of(LOSSES["ipo"]))
    [{'reduction': 'sum'}, {'reduction': 'mean'}]
    """
    choices: dict[str, list[Any]] = {}
    for key, p in inspect.signature(make).parameters.items():
        if isinstance(p.default, bool):
            choices[key] = [p.default, not p.default]
        elif isinstance(p.default, str):
            choices[key] = [p.default, *_words(make, key, p.default)]
    for values in product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def _words(make: Callable[..., Any], key: str, default: str) -> list[str]:
    """What else a word may be: the loss says so when it refuses one"""
    try:
        make(**{key: "?"})
    except ValueError as error:
        said = str(error).partition("expected ")[2]
        return [word.strip("'") for word in said.split(" or ") if word.strip("'") != default]
    return []
