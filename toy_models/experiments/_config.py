"""What every experiment's `Config` shares: what its docstring says of a field, what a value may be, who draws what."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from math import isfinite
from typing import Any

import numpy as np

__all__ = ["explained", "require", "streams"]


def explained(config: type) -> dict[str, str]:
    """What the docstring says of each field: lines "name   meaning", or "name, name   meaning", and what hangs below

    >>> class Config:
    ...     '''Of a table.
    ...
    ...     beta   reward that a nat of KL costs,
    ...            the same everywhere
    ...     steps  of each training
    ...     '''
    >>> explained(Config)
    {'beta': 'reward that a nat of KL costs, the same everywhere', 'steps': 'of each training'}
    """
    meaning: dict[str, list[str]] = {}
    names: list[str] = []
    here = 0
    for line in (config.__doc__ or "").splitlines():
        indent = len(line) - len(line.lstrip())
        begins = re.fullmatch(r"\s*(\w+(?:, \w+)*)\s{2,}(\S.*)", line)
        if begins and (not names or indent <= here):
            names, here = begins[1].split(", "), indent
            meaning |= {name: [begins[2]] for name in names}
        elif names and line.strip() and indent > here:
            for name in names:
                meaning[name].append(line.strip())
        else:
            names = []
    return {name: " ".join(parts) for name, parts in meaning.items()}


def require(config: Any, *, positive: Collection[str] = (), nonnegative: Collection[str] = (),
            shares: Collection[str] = (), least: Mapping[str, int] | None = None,
            choices: Mapping[str, Iterable[str]] | None = None) -> None:
    """Raises `ValueError`, a sentence, on the first field whose value, or one of whose values, is not what is expected

    positive, nonnegative   finite numbers above 0, at least 0      shares   numbers of [0, 1)
    least                   whole numbers, at least that            choices  one of these words

    All other numbers have to be finite, and a field `seed` has to be a whole number, at least 0.
    """
    least, choices = {"seed": 0, **(least or {})}, choices or {}
    for field in fields(config):
        name, value = field.name, getattr(config, field.name)
        if value == ():
            raise ValueError(f"{name} is empty; expected at least one value")
        for x in value if isinstance(value, tuple) else (value,):
            where = f"{name} {'holds' if isinstance(value, tuple) else 'is'} {x}"
            if name in choices:
                allowed = tuple(choices[name])
                if x not in allowed:
                    raise ValueError(f"{where}; expected one of {', '.join(allowed)}")
            elif name in least:
                if type(x) is not int or x < least[name]:
                    raise ValueError(f"{where}; expected a whole number, at least {least[name]}")
            elif re.search(r"\b(int|float)\b", str(field.type)):
                if isinstance(x, bool) or not isinstance(x, (int, float)) or not isfinite(x):
                    raise ValueError(f"{where}; expected a finite number")
                if name in positive and not x > 0:
                    raise ValueError(f"{where}; expected a finite number above 0")
                if name in nonnegative and not x >= 0:
                    raise ValueError(f"{where}; expected a finite number, at least 0")
                if name in shares and not 0 <= x < 1:
                    raise ValueError(f"{where}; expected at least 0 and below 1")


def streams(seed: int, replicates: int) -> list[np.random.Generator]:
    """A generator a replicate; that of replicate r knows the seed and r alone, not how many there are"""
    return [np.random.default_rng([seed, r]) for r in range(replicates)]
