"""`identify`: which loss is this? The whole registry is tried, each loss with its conventions, then known mistakes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .frameworks import Converters
from .judging import explain, fitting, verdicts
from .seams import Evidence, Problem, Question, Seam
from .settings import settings_of
from .verification import SEAMS, ask, one_of, suited

__all__ = ["Identification", "identify"]

ORDINARY = ("ordinary", "other hyper-parameters")


class Identification(NamedTuple):
    """What a function computes: one of ours, `exact`ly; or what it is nearest to, and how it `differs`."""

    loss: str
    hyper: dict[str, Any]
    exact: bool
    differs: str
    mistake: str
    others: tuple[str, ...]

    def __str__(self) -> str:
        hyper = ", ".join(f"{name}={f'{x:g}' if isinstance(x, float) else x}" for name, x in self.hyper.items())
        first = f"{self.loss}({hyper})"
        if not self.exact:
            first = (
                f"{first}, but {self.differs}" if self.mistake else f"none of ours; nearest: {first}, {self.differs}"
            )
        return "\n".join([first, *(f"also {other}" for other in self.others)])

    def as_dict(self) -> dict[str, Any]:
        """For JSON"""
        return self._asdict()


class Candidate(NamedTuple):
    question: Question
    evidence: list[Evidence]
    wrong: float  # the share of numbers that fail
    distance: float  # of values, relative


def identify(
    theirs: Callable[..., Any],
    loss: str | None = None,
    *,
    seam: str = "pair",
    framework: str | Converters = "numpy",
    dtype: str | None = None,
    device: str = "cpu",
    gradient: str = "auto",
    layout: str = "halves",
    **hyper: Any,
) -> Identification:
    """Name what a function computes: `ipo(tau=0.1, reduction=mean)`, or `dpo(beta=0.1), but beta is missing`

    theirs      a function as for `dn.verify`; seam, framework, dtype, device, gradient, layout as there
    loss        what it is meant to be, tried first when mistakes are looked for; by default every loss is tried alike
    **hyper     the settings it has, under our names (β is also tried as τ); passed on by name where it takes them

    Ambiguity is resolved in favor of the first of `dn.LOSSES`; what else fits is listed. Where its hyper-parameters
    can be passed, they are varied: at a single setting two conventions may agree.

    Raises `ValueError` on a setting that is not known, and where the function gives no answer that could be judged.

    >>> def theirs(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):
    ...     h = policy_chosen_logps - policy_rejected_logps - reference_chosen_logps + reference_rejected_logps
    ...     return (h - 1 / (2 * 0.1)) ** 2
    >>> print(identify(theirs, beta=0.1))  # it takes no lengths, so that its log-probs may be means
    ipo(tau=0.1, reduction=sum)
    also ipo(tau=0.1, reduction=mean)
    """
    one_of("seam", seam, SEAMS)
    there = SEAMS[seam]
    names = list(there.losses())
    if loss is not None:
        one_of("loss", loss, names)
        names = [loss, *(name for name in names if name != loss)]
    known = {key for make in there.losses().values() for key in inspect.signature(make).parameters}
    for key in hyper:
        if key not in known:
            raise ValueError(
                f"no loss of the seam {seam!r} has a hyper-parameter {key!r}; there are {', '.join(sorted(known))}"
            )
    found, problem = [], ""
    for name in names:
        for settings in _settings(there.losses()[name], hyper):
            try:
                question = ask(theirs, name, seam, framework, dtype, device, gradient, layout, settings)
                question, _ = suited(there, question)
                found.append(_candidate(there, question))
            except (ValueError, Problem) as error:
                problem = problem or str(error)
    if not found:
        raise ValueError(f"nothing to go by: {problem}")
    right = [one for one in found if one.wrong == 0]
    if right:
        first, *rest = sorted(right, key=lambda one: _strangeness(one, hyper))
        return Identification(
            first.question.name,
            first.question.hyper,
            True,
            "",
            "",
            tuple(dict.fromkeys(_spelled(one.question) for one in rest if not _same(one.question, first.question)))[:4],
        )
    return _mistaken(there, found, loss)


def _settings(make: Callable[..., Any], hyper: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The numbers given, under the names of this loss; its conventions in turn, unless one is given"""
    names = inspect.signature(make).parameters
    told = {key: x for key, x in hyper.items() if key in names}
    for one, other in (("tau", "beta"), ("beta", "tau")):
        if one in names and one not in hyper and other in hyper and other not in names:
            told[one] = hyper[other]
    for words in settings_of(make):
        if all(words[key] == told[key] for key in words if key in told):
            yield {**words, **told}


def _candidate(seam: Seam, question: Question) -> Candidate:
    evidence, bad, total, distance = [], 0, 0, 0.0
    for case in seam.cases(question):
        if case.test not in ORDINARY:
            continue
        got = seam.ask(question, case)
        right = fitting(seam.truth(question, case), got, case)
        evidence.append(Evidence(case, got, right))
        for found in verdicts(question, got, right).values():
            bad += int(found.fails.sum())
            total += found.fails.size
        with np.errstate(all="ignore"):
            off = abs(got.value - right.value) / (abs(right.value) + np.asarray(right.size) + 1e-9)
        distance = max(distance, float(np.nan_to_num(np.max(off), nan=math.inf)))
        if bad > total / 2 and len(evidence) > 1:
            break
    return Candidate(question, evidence, bad / max(total, 1), distance)


def _strangeness(one: Candidate, hyper: Mapping[str, Any]) -> int:
    """How many hyper-parameters stand at numbers that nobody gave"""
    return sum(key not in hyper for key in one.question.hyper)


def _same(one: Question, other: Question) -> bool:
    return one.name == other.name and one.hyper == other.hyper


def _spelled(question: Question) -> str:
    return str(Identification(question.name, question.hyper, True, "", "", ()))


def _mistaken(seam: Seam, found: list[Candidate], loss: str | None) -> Identification:
    """The first known mistake that explains all; else the nearest"""
    nearest = sorted(found, key=lambda one: (one.question.name != loss, one.wrong, one.distance))
    tried = []
    for one in (*(each for each in found if loss in (None, each.question.name)), *nearest):
        if one.question.name in tried:
            continue
        tried.append(one.question.name)
        why = explain(seam, one.question, one.evidence, probing=False)
        if why and not why[1].startswith("it computes"):
            return Identification(one.question.name, one.question.hyper, False, why[1], why[0], ())
    first = nearest[0] if loss else min(found, key=lambda one: (one.wrong, one.distance))
    if why := explain(seam, first.question, first.evidence):
        return Identification(first.question.name, first.question.hyper, False, why[1], why[0], ())
    return Identification(
        first.question.name,
        first.question.hyper,
        False,
        f"values off by up to {first.distance:.2g} of their size",
        "",
        (),
    )
