"""Known mistakes between log-probs and losses, each by what it computes in place of the loss.

What may be exchanged, lost, or taken from an earlier call; a hyper-parameter lost or misread; another convention, or
another loss. In the order of simplicity: what is said first is believed first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain, permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import links
from ..links import Link, pair
from ..losses import LOSSES, Loss, term
from ..numerics import sigmoid
from ..scores import log_ratio
from .exact import Answer
from .exact import of_rows as exactly
from .seams import Case, Hypothesis, Parts, Question, Seam
from .settings import numeric, settings_of

__all__ = ["of_rows", "parts_of"]

Array = NDArray[Any]
Told = Mapping[str, Array]
Hyper = Mapping[str, Any]


def of_rows(seam: Seam, question: Question, own_sums: bool = False) -> Iterator[Hypothesis]:
    """All of them

    own_sums    the function sums over tokens itself: it knows lengths, and no log-probs of an earlier call are at hand
    """
    told = _Suspects(seam, question)
    with_lengths = own_sums or any("length" in role for role in question.call.arrays.values())
    return chain(
        told.exchanged(),
        told.reference(),
        () if own_sums else told.earlier(),
        told.baseline(),
        told.facts(),
        told.lengths(with_lengths),
        told.hyper(),
        told.family(),
    )


def parts_of(question: Question, lengths: bool, batch: bool = False) -> Iterator[Parts]:
    """The terms of the loss; and, where it is no term, the likelihood of the chosen response beside them

    lengths     the function knows them: a likelihood may be a mean over tokens
    batch       it averages over the batch itself: a likelihood may be a mean over all tokens
    """
    loss = LOSSES[question.name](**question.hyper)
    if loss.reads != ("logp",) or loss.coupled or not {link.columns for _, _, link in loss.terms} <= {2, None}:
        return
    terms = [Loss("part", (one._replace(coefficient=1.0),)) for one in loss.terms]
    right = tuple(one.coefficient for one in loss.terms)
    names = [_named(one, f"term {k} of {len(terms)}") for k, one in enumerate(terms, 1)]

    def answer(part: Loss, case: Case) -> Answer:
        told = _completed(case.told)
        return exactly(part, {name: told[name] for name in (*part.reads, *part.needs)}, question.dtype)

    answers = tuple(partial(answer, one) for one in terms)
    if len(terms) > 1:
        yield Parts(tuple(names), answers, right)
    if LIKELIHOOD not in names:
        over = {"sum": "a sum over its tokens"}
        over |= {"mean": "a mean over its tokens"} if lengths else {}
        over |= {"tokens": "a mean over the tokens of all"} if batch else {}
        for reduction, what in over.items():
            extra = partial(answer, LOSSES["sft"](reduction=reduction))
            yield Parts((*names, f"{LIKELIHOOD}, {what},"), (*answers, extra), (*right, 0.0))


LIKELIHOOD = "the chosen response's negative log-likelihood"


def _named(part: Loss, otherwise: str) -> str:
    """By what it computes: -log π of the chosen response, or something else"""
    if not set(part.needs) <= {"length"}:
        return otherwise
    value, _ = part([[-3.0, -7.0]], length=[[2, 5]])
    return LIKELIHOOD if value[0] in (3.0, 1.5) else otherwise


class _Suspects:
    def __init__(self, seam: Seam, question: Question) -> None:
        self.seam, self.question = seam, question
        self.loss = LOSSES[question.name](**question.hyper)
        self.pairs = any(link.columns == 2 for _, _, link in self.loss.terms)

    def _answer(
        self,
        case: Case,
        make: Callable[[Hyper], Loss],
        changes: Mapping[str, Callable[[Told], Any]],
        flipped: bool = False,
    ) -> Answer:
        """Of the loss that is made, with some of what it is told changed; `flipped`: slopes of exchanged columns"""
        loss = make(case.hyper)
        told = {**_completed(case.told), **{name: np.asarray(change(case.told)) for name, change in changes.items()}}
        found = exactly(loss, {name: told[name] for name in (*loss.reads, *loss.needs)}, self.question.dtype)
        if not flipped:
            return found
        return found._replace(
            grads={name: x[:, ::-1] for name, x in found.grads.items()},
            units={name: x[:, ::-1] for name, x in found.units.items()},
        )

    def _right(self, hyper: Hyper) -> Loss:
        return LOSSES[self.question.name](**hyper)

    def _told(self, mistake: str, says: str, flipped: bool = False, **changes: Callable[[Told], Any]) -> Hypothesis:
        """The loss itself, told something else"""
        return Hypothesis(mistake, says, partial(self._answer, make=self._right, changes=changes, flipped=flipped))

    def _set(self, mistake: str, says: str, change: Callable[[Hyper], Hyper]) -> Hypothesis:
        """The loss itself, with other hyper-parameters"""
        return Hypothesis(
            mistake, says, partial(self._answer, make=lambda h: self._right({**h, **change(h)}), changes={})
        )

    # ---- what it is told

    def exchanged(self) -> Iterator[Hypothesis]:
        def flip(name: str) -> Callable[[Told], Array]:
            return lambda told: told[name][:, ::-1]

        if self.pairs:
            responses = [x for x in (*self.loss.reads, *self.loss.needs) if x not in ("delta", "m0", "keep", "margin")]
            yield self._told(
                "sign-flipped" if self._of_difference() else "swapped",
                f"{'the sign is flipped: ' if self._of_difference() else ''}chosen and rejected are exchanged",
                flipped=True,
                **{name: flip(name) for name in responses},
            )
            yield self._told(
                "sign-flipped" if self._of_difference() else "swapped",
                "the policy's chosen and rejected are exchanged",
                flipped=True,
                **{name: flip(name) for name in self.loss.reads},
            )
            if "ref_logp" in self.loss.needs:
                yield self._told(
                    "swapped", "the reference's chosen and rejected are exchanged", ref_logp=flip("ref_logp")
                )
            # r_dpo with lengths exchanged is r_dpo with the other sign of α
            if "length" in self.loss.needs and self.question.name != "r_dpo":
                yield self._told("swapped", "the lengths of chosen and rejected are exchanged", length=flip("length"))
        if "label" in self.loss.needs:
            yield self._told("swapped", "labels are read the wrong way round", label=lambda told: ~told["label"])

    def _of_difference(self) -> bool:
        """Do both responses pull alike, in opposite directions? Then to exchange them is to turn the sign."""
        names = (*self.loss.reads, *self.loss.needs)
        told: dict[str, Array] = {name: np.full((1, 2), 3.0) for name in names}
        told |= {name: np.zeros(1) for name in ("delta", "margin", "m0") if name in told} | {"keep": np.ones(1, bool)}
        told |= {name: np.array([[-3.0, -4.0]]) for name in self.loss.reads}
        try:
            _, grads = self.loss(
                {name: told[name] for name in self.loss.reads}, **{name: told[name] for name in self.loss.needs}
            )
        except ValueError:
            return True
        return all(np.allclose(grad.sum(axis=-1), 0) for grad in grads.values())

    def reference(self) -> Iterator[Hypothesis]:
        if "ref_logp" not in self.loss.needs:
            return
        yield self._told("reference-ignored", "the reference is ignored", ref_logp=lambda told: 0 * told["ref_logp"])
        yield self._told("reference-ignored", "the policy is its own reference", ref_logp=lambda told: told["logp"])
        yield self._told(
            "swapped", "the reference is added where it should be subtracted", ref_logp=lambda told: -told["ref_logp"]
        )
        for k, side in enumerate(("chosen", "rejected") if self.pairs else ()):
            yield self._told(
                "reference-ignored",
                f"the reference of the {side} is ignored",
                ref_logp=partial(lambda k, told: told["ref_logp"] * (np.arange(2) != k), k),
            )
            yield self._told(
                "swapped",
                f"the {side}'s reference is subtracted from both",
                ref_logp=partial(lambda k, told: told["ref_logp"][:, [k, k]], k),
            )

    def earlier(self) -> Iterator[Hypothesis]:
        """What was kept from an earlier call: the first of its size, or the last"""
        cases = list(self.seam.cases(self.question))
        if "ref_logp" in self.loss.needs:
            first: dict[int, Array] = {}
            for case in cases:
                first.setdefault(len(case.told["ref_logp"]), case.told["ref_logp"])
            alone = cases[0].told["ref_logp"][:1]  # a function of means is asked row by row
            says = "the reference is that of an earlier call"
            yield self._told("reference-stale", says, ref_logp=lambda told: first[len(told["ref_logp"])])
            yield self._told(
                "reference-stale", says, ref_logp=lambda told: np.broadcast_to(alone, told["ref_logp"].shape)
            )
        if "z0" in self.loss.needs:
            before = {
                now.told["logp"].tobytes(): then.told["z0"] for now, then in zip(cases, cases[:1] + cases, strict=False)
            }
            yield self._told(
                "reference-stale",
                "the KL baseline is that of the call before",
                z0=lambda told: before[told["logp"].tobytes()],
            )

    def baseline(self) -> Iterator[Hypothesis]:
        """KTO's z₀ = max(0, mean)"""
        if "z0" not in self.loss.needs:
            return

        def ratio(told: Told) -> Array:
            return told["KL_logp"] - told["KL_ref_logp"]

        yield self._told("hyper-ignored", "the KL baseline is ignored", z0=lambda told: 0 * told["z0"])
        yield self._told(
            "clamp-order",
            "the KL baseline is cut at 0 before its mean is taken",
            z0=lambda told: np.maximum(ratio(told), 0).mean(),
        )
        yield self._told("clamp-order", "the KL baseline is not cut at 0", z0=lambda told: ratio(told).mean())
        yield self._told(
            "sum-for-mean", "the KL baseline is a sum, not a mean", z0=lambda told: np.maximum(ratio(told).sum(), 0)
        )
        yield self._told(
            "kl-matched",
            "the KL baseline comes from the matched responses",
            z0=lambda told: np.maximum((told["logp"] - told["ref_logp"]).mean(), 0),
        )

    def facts(self) -> Iterator[Hypothesis]:
        for fact in ("delta", "margin", "z0"):
            if fact not in self.loss.needs:
                continue
            yield self._fact("hyper-ignored", f"{fact} is ignored", fact, 0)
            yield self._fact("sign-flipped", f"{fact} has the wrong sign", fact, -1)
            for says, power in (("multiplied by beta once more", 1), ("not multiplied by beta", -1)):
                if "beta" in self.question.hyper:
                    yield Hypothesis("hyper-misread", f"{fact} is {says}", partial(self._scaled, fact, power))

    def _fact(self, mistake: str, says: str, fact: str, times: int) -> Hypothesis:
        return self._told(mistake, says, False, **{fact: lambda told: times * told[fact]})

    def _scaled(self, fact: str, power: int, case: Case) -> Answer:
        return self._answer(case, self._right, {fact: lambda told: told[fact] * case.hyper["beta"] ** power})

    def lengths(self, known: bool) -> Iterator[Hypothesis]:
        if "length" in self.loss.needs:
            yield self._told(
                "sum-for-mean",
                "log-probs are summed where it takes means per token",
                length=lambda told: np.ones_like(told["length"]),
            )
        if known:
            yield Hypothesis("mean-for-sum", "averages log-probs where it should sum", self._averaged)

    def _averaged(self, case: Case) -> Answer:
        names = [name for name in ("logp", "ref_logp") if name in case.told]
        found = self._answer(
            case, self._right, {name: partial(lambda name, told: told[name] / told["length"], name) for name in names}
        )
        return found._replace(grads={name: x / case.told["length"] for name, x in found.grads.items()})

    # ---- what it is set to

    def hyper(self) -> Iterator[Hypothesis]:
        """Each number, lost or misread"""
        hyper, name = self.question.hyper, self.question.name
        if name == "kto_pair":
            yield Hypothesis(
                "kl-matched",
                "each response is held against the mean of its own kind, not of the other",
                partial(self._answer, changes={}, make=lambda h: term("kto_pair", log_ratio, _own_kind(h["beta"]))),
            )
        if name == "dpop":
            yield Hypothesis(
                "sign-flipped",
                "the penalty falls on the chosen response's rise, not on its fall",
                partial(
                    self._answer,
                    changes={},
                    make=lambda h: term("dpop", log_ratio, pair(_dpop_of_rise, beta=h["beta"], lam=h["lam"])),
                ),
            )
            yield Hypothesis(
                "sign-flipped",
                "the penalty has the wrong sign: it rewards the fall",
                partial(
                    self._answer,
                    changes={},
                    make=lambda h: term("dpop", log_ratio, pair(links.dpop, beta=h["beta"], lam=-h["lam"])),
                ),
            )
        if {"lam_d", "lam_u"} <= hyper.keys():
            yield self._set(
                "hyper-misread", "lam_d and lam_u are exchanged", lambda h: {"lam_d": h["lam_u"], "lam_u": h["lam_d"]}
            )
        numbers = [key for key in numeric(LOSSES[name]) if hyper[key] is not None]
        for key in numbers:
            yield from self._lost(key)
            for mistake, says, turn in MISREAD:
                if hyper[key] and turn(hyper[key]) != hyper[key] and self._allowed(key, turn(hyper[key])):
                    yield self._set(mistake, says.format(key), partial(_turned, key, turn))
        for key, other in permutations(numbers, 2):
            if hyper[other]:
                for says, power in (
                    (f"{key} is not multiplied by {other}", -1),
                    (f"{key} is multiplied by {other}", 1),
                ):
                    x = hyper[key] * hyper[other] ** power
                    if x != hyper[key] and self._allowed(key, x):
                        yield self._set(
                            "hyper-misread",
                            says,
                            partial(lambda key, other, power, h: {key: h[key] * h[other] ** power}, key, other, power),
                        )

    def _lost(self, key: str) -> Iterator[Hypothesis]:
        """Another number whatever is passed; the right one, where another is passed"""
        at = self.question.hyper[key]
        usual = inspect.signature(LOSSES[self.question.name]).parameters[key].default
        passed = key in self.question.call.hyper.values()
        tried: dict[float, str] = {1.0: f"{key} is missing: 1 in its place", 0.0: f"{key} is ignored: 0 in its place"}
        for value in (at, usual):
            tried.setdefault(float(value), f"{key} is ignored: {value:g} whatever is passed")
        for value, says in tried.items():
            if (passed or value != at) and self._allowed(key, value):
                yield self._set("hyper-ignored", says, partial(lambda key, value, h: {key: value}, key, value))

    def _allowed(self, key: str, value: float) -> bool:
        try:
            self._right({**self.question.hyper, key: value})
        except ValueError:
            return False
        return True

    # ---- what else it may be

    def family(self) -> Iterator[Hypothesis]:
        """Other conventions of the loss, and other losses with the hyper-parameters that they share"""
        known = {*self.loss.needs, *DEFAULTS, "ref_logp", "z0", "delta"}
        for other in dict.fromkeys((self.question.name, *self.seam.losses())):
            for words in settings_of(LOSSES[other]):
                make = partial(_mapped, other, words)
                try:
                    instead = make(self.question.hyper)
                except ValueError:
                    continue
                changed = {
                    key for key, x in words.items() if other != self.question.name or self.question.hyper[key] != x
                }
                if (
                    instead.reads != self.loss.reads
                    or not known.issuperset(instead.needs)
                    or (other == self.question.name and not changed)
                ):
                    continue
                shown = ", ".join(f"{key}={x!r}" for key, x in words.items())
                says = f"it computes {other}" + (f" with {shown}" if shown else "")
                mistake = _of_words(changed, words) if other == self.question.name else "another-loss"
                yield Hypothesis(mistake, says, partial(self._answer, make=make, changes={}))


def _dpop_of_rise(a: Array, b: Array, beta: float, lam: float) -> tuple[Array, tuple[Array, Array]]:
    above = a > 0
    value, slope = links.logistic(a - b - lam * np.where(above, a, 0), beta)
    return value, (slope * np.where(above, 1 - lam, 1), -slope)


def _own_kind(beta: float) -> Link:
    """½ σ(-β (a_b - K_w)) + ½ σ(β (b_b - K_l)),   K_w = max(0, mean of a), K_l = max(0, mean of b)"""

    def fn(s: Array, weight: Array, facts: Told) -> tuple[Array, Array]:
        means = s.mean(axis=-2, keepdims=True)
        z = beta * np.array([1, -1]) * (s - np.maximum(means, 0))
        pull = -0.5 * beta * np.array([1, -1]) * sigmoid(z) * sigmoid(-z)
        return 0.5 * sigmoid(-z).sum(axis=-1), pull - np.where(means > 0, pull.mean(axis=-2, keepdims=True), 0)

    return Link(fn, coupled=True)


#: facts of a loss that another loss, which is asked, is not told
DEFAULTS: dict[str, Callable[[tuple[int, ...]], Array]] = {
    "length": lambda shape: np.ones(shape, int),
    "present": lambda shape: np.ones(shape, bool),
    "margin": lambda shape: np.zeros(shape[0], np.longdouble),
}
MISREAD: tuple[tuple[str, str, Callable[[float], float]], ...] = (
    ("hyper-misread", "{} is applied twice", lambda x: x * x),
    ("hyper-misread", "1/{0} in place of {0}", lambda x: 1 / x),
    ("hyper-misread", "twice {}", lambda x: 2 * x),
    ("hyper-misread", "half of {}", lambda x: x / 2),
    ("hyper-misread", "1 - {0} in place of {0}", lambda x: 1 - x),
    ("hyper-misread", "the root of {}", lambda x: x**0.5 if x > 0 else x),
    ("sign-flipped", "{} has the wrong sign", lambda x: -x),
)


def _turned(key: str, turn: Callable[[float], float], h: Hyper) -> Hyper:
    return {key: turn(h[key])}


def _completed(told: Told) -> dict[str, Array]:
    shape = next(told[name] for name in ("logp", "reward") if name in told).shape
    return {**{name: make(shape) for name, make in DEFAULTS.items()}, **told}


def _mapped(other: str, words: Hyper, h: Hyper) -> Loss:
    """Another loss at the same numbers: β for τ where it has no other, defaults where nothing is given"""
    found: dict[str, Any] = {}
    for key, p in inspect.signature(LOSSES[other]).parameters.items():
        alias = {"tau": "beta", "beta": "tau"}.get(key, key)
        found[key] = words.get(key, h.get(key, h.get(alias, p.default)))
    return LOSSES[other](**found)


def _of_words(changed: set[str], words: Hyper) -> str:
    """What another convention of the same loss is called"""
    if changed <= {"scale", "convention"}:
        return "hyper-misread"
    if changed <= {"reduction", "nll", "scope"}:
        return {"sum": "sum-for-mean", "mean": "mean-for-sum"}.get(str(words.get("reduction")), "reduction")
    return "another-loss"
