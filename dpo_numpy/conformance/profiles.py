"""What a library at a version means by a loss, and how its batches become numbers.

`profiles.json` names the libraries, `conventions.json` holds their options, `batches.json` layout, masks and sums.

translate("trl-1.16", "ipo", {"tau": 0.1})   ->  "ipo", {"tau": 0.1, "reduction": "mean"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from .conventions import Aspect, Convention, aspects, load, value

__all__ = [
    "Difference", "Option", "Profile", "batches", "disagreements", "listed", "names", "options", "profile",
    "translate",
]


class Profile(NamedTuple):
    """A library as it was read: `at` is a release or a commit."""

    name: str
    library: str
    version: str  # "" where there is but one
    repository: str
    at: str

    def __str__(self) -> str:
        return f"{self.name:14} {self.repository}@{self.at}, {len(_entries(self))} options"


class Option(NamedTuple):
    """An option of a library, and what it is in our names"""

    topic: str
    option: str
    ours: str
    value: float | None
    source: str

    def __str__(self) -> str:
        number = "-" if self.value is None else f"{self.value:.6f}"
        return f"{self.option:48} {number:>12}  {self.ours}\n{'':61}  {self.source}"


class Difference(NamedTuple):
    """The same thing asked of two libraries"""

    asked: str
    one: str
    one_value: float | None
    other: str
    other_value: float | None

    def __str__(self) -> str:
        numbers = self.one_value is not None or self.other_value is not None

        def side(x: float | None, what: str) -> str:
            return f"{'' if not numbers else '-' if x is None else f'{x:.6f}':>12}  {what}"

        return f"{self.asked}\n  {side(self.one_value, self.one)}\n  {side(self.other_value, self.other)}"


@cache
def _profiles() -> dict[str, Profile]:
    text = files(__package__).joinpath("profiles.json").read_text(encoding="utf-8")
    return {entry["name"]: Profile(**entry) for entry in json.loads(text)}


def names() -> list[str]:
    """Of all profiles

    >>> "trl-1.16" in names()
    True
    """
    return list(_profiles())


def profile(name: str) -> Profile:
    """By name; `ValueError` if there is none of that name"""
    if name not in _profiles():
        raise ValueError(f"no profile is called {name!r}; there are {', '.join(_profiles())}")
    return _profiles()[name]


def listed() -> list[Profile]:
    """Every profile there is"""
    return list(_profiles().values())


def _entries(one: Profile) -> list[Convention]:
    return [c for c in load() if c.library == one.library and _holds(c.versions, one.version)]


def _holds(versions: str, version: str) -> bool:
    """Is the version among ">= 0.29", "<= 0.28", "0.12 to 0.28", ""? Words ("before May 2025") are of the past."""
    if not versions:
        return True
    if not version:
        return False

    def number(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(".")))

    if versions.startswith(">="):
        return number(version) >= number(versions.split()[1])
    if versions.startswith("<="):
        return number(version) <= number(versions.split()[1])
    low, _, high = versions.partition(" to ")
    return number(low) <= number(version) <= number(high)


def options(name: str) -> list[Option]:
    """What is known of a library"""
    return [
        Option(
            c.topic,
            c.option,
            _ours(c),
            None if c.ours is None else value(c),
            f"{c.source['repository']}@{c.source['at']} {c.source['where']}".strip(),
        )
        for c in _entries(profile(name))
    ]


def batches(name: str) -> list[Aspect]:
    """How a library makes a number of a batch

    >>> {name: a.value for name in ("mitchell", "trl-1.16") for a in batches(name) if a.aspect == "log-probs of ipo"}
    {'mitchell': 'sum', 'trl-1.16': 'mean'}
    """
    return [one for one in aspects() if one.profile == profile(name).name]


def _ours(c: Convention) -> str:
    if c.ours is None:
        return c.note or "no sum of ours"
    told = dict(c.options)
    terms = []
    for term in c.ours:
        hyper = ", ".join(f"{key}={told.get(x, x) if isinstance(x, str) else x}" for key, x in term.hyper.items())
        factor = "" if term.coefficient == 1 else f"{term.coefficient:g} * "
        terms.append(f"{factor}{term.loss}({hyper})" + "".join(f", {key}={x}" for key, x in term.facts.items()))
    return " + ".join(terms)


def disagreements(one: str, other: str) -> list[Difference]:
    """Where two libraries have an option of the same topic and name, or of the same loss of ours, and other numbers;
    and where they make a number of a batch in other ways

    >>> found = disagreements("trl-0.28", "trl-1.16")
    >>> print(next(d for d in found if "alpha_divergence" in d.asked))
    f-divergences: alpha_divergence
          0.729409  trl-0.28: f_dpo_alpha(beta=0.1, alpha=0.2)
          0.759347  trl-1.16: f_dpo_alpha(beta=0.1, alpha=0.2, convention=order)
    """
    here, there = _entries(profile(one)), _entries(profile(other))
    found = []
    for c in here:
        if c in there:
            continue
        for d in there:
            if d in here or c.topic != d.topic or not (c.option == d.option or _of_one_loss(c, d)):
                continue
            a, b = (None if x.ours is None else value(x) for x in (c, d))
            if a is None or b is None or abs(a - b) > 1e-9:
                asked = c.option if c.option == d.option else f"{c.option} | {d.option}"
                found.append(Difference(f"{c.topic}: {asked}", f"{one}: {_ours(c)}", a, f"{other}: {_ours(d)}", b))
    theirs = {a.aspect: a.value for a in batches(other)}
    return found + [
        Difference(f"batch: {a.aspect}", f"{one}: {a.value}", None, f"{other}: {theirs[a.aspect]}", None)
        for a in batches(one)
        if theirs.get(a.aspect, a.value) != a.value
    ]


def _of_one_loss(c: Convention, d: Convention) -> bool:
    return bool(
        c.ours and d.ours and c.ours[0].loss == d.ours[0].loss and dict(c.options).keys() == dict(d.options).keys()
    )


def translate(name: str, loss: str, hyper: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Our loss as a library means it: the conventions of its option, at the hyper-parameters given

    Raises `ValueError` where the library has no such loss, or one that is no single loss of ours.

    >>> translate("trl-1.16", "ipo", {"tau": 0.25})
    ('ipo', {'tau': 0.25, 'reduction': 'mean'})
    """
    entries = [c for c in _entries(profile(name)) if c.ours and c.ours[0].loss == loss]
    if not entries:
        there = dict.fromkeys(c.ours[0].loss for c in _entries(profile(name)) if c.ours)
        raise ValueError(f"loss is {loss!r}; the profile {name} has {', '.join(there)}")
    first = min(entries, key=lambda c: len(c.option))  # the plain option, before those of special trainers
    assert first.ours
    if len(first.ours) > 1 or first.ours[0].coefficient != 1:
        raise ValueError(
            f"{first.library}'s {first.option} is {_ours(first)}, which is no single loss of ours: verify "
            f"{loss} without a profile"
        )
    told = dict(first.options)
    meant = {key: told.get(x, x) if isinstance(x, str) else x for key, x in first.ours[0].hyper.items()}
    return loss, {**meant, **hyper}
