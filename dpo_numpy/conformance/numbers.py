"""The numbers that losses of log-probs are asked about: margins from 0 to the far ends, log-probs next to 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..losses import LOSSES, UNLESS_TOLD, Loss
from .seams import Case, Question

__all__ = ["KL_ROWS", "MARGINS", "NEUTRAL", "OF_RESPONSES", "SIDES", "Numbers", "sizes", "step"]

Array = NDArray[Any]
WIDE = np.longdouble
#: columns of a pair
SIDES = ("chosen", "rejected")
#: what a fact is where the function does not take it; length 1: log-probs are means per token
NEUTRAL: dict[str, Any] = {**UNLESS_TOLD, "delta": 0.0, "m0": 0.0, "keep": True, "length": 1}
#: facts with a number for each response
OF_RESPONSES = ("length", "reward", "score", "w", "win_rate", "kl", "present")
#: few sizes of batches: some frameworks compile for each
MARGINS = (3, 8, 12, 14, 17, 18.5, 25, 36, 40, 60, 86, 90, 100, 106, 200, 300, 700, 715, 740, 760, 1000, 2000, 5000,
           1e4)
EXPONENTIAL = ("f_dpo_forward_kl", "f_dpo_alpha", "f_dpo_chi2")
#: responses that a KL baseline is estimated from
KL_ROWS = 5


def sizes(question: Question, loss: Loss, told: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """How large values and slopes are at the reference, or a unit of margin from it, with each row's facts."""
    level = dict(told)
    B = len(told[loss.reads[0]])
    for name in ("logp", "ref_logp", "kl", "reward"):
        if name in told:
            level[name] = np.full(told[name].shape, 0.0 if name in ("kl", "reward") else -2.0, WIDE)
    if "length" in told and "logp" in level:
        level["logp"] = -2.0 * told["length"].astype(WIDE)
        level["ref_logp"] = level["logp"].copy()
    value, slope = np.zeros(B, WIDE), {name: np.zeros(B, WIDE) for name in loss.reads}
    unit = step(question.name, question.hyper)
    for by in (0.0, -1.0, 1.0):
        moved = {**level, loss.reads[0]: level[loss.reads[0]].copy()}
        moved[loss.reads[0]][..., 0] += by * unit
        with np.errstate(all="ignore"):
            v, g = loss(
                {name: moved[name] for name in loss.reads},
                **{name: moved[name] for name in loss.needs if name in moved},
            )
        value = np.fmax(value, abs(v))
        slope = {name: np.fmax(slope[name], abs(g[name]).max(axis=-1)) for name in slope}
    if question.name == "discopop":  # where its hollow begins, terms of that size cancel
        slope = {name: x + question.hyper["beta"] * (1 + 1 / question.hyper["tau"]) for name, x in slope.items()}
    return value, {name: x[:, None] for name, x in slope.items()}


def step(name: str, hyper: Mapping[str, Any]) -> float:
    """What moves the margin by about 1, in nats (nats a token)"""
    if name in (*EXPONENTIAL, "f_dpo_js", "cal_dpo", "orpo", "slic"):
        return 1.0
    if name == "ipo":
        return 0.5 / float(hyper["tau"])
    return 1 / float(hyper.get("beta", 1.0))


class Numbers:
    """Draws the cases of one question."""

    def __init__(self, question: Question, K: int) -> None:
        self.question, self.K = question, K
        self.loss = LOSSES[question.name](**question.hyper)
        self.taken = set(question.call.arrays.values())
        self.rng = np.random.default_rng(20)
        self.drawn = 0
        self.step = step(question.name, question.hyper)
        self.per_token = self._per_token()
        self.with_length = any("length" in name for name in self.taken)
        self.reach = 10.0 if question.name == "alphapo" else 1e4

    def _per_token(self) -> bool:
        """Is the loss one of means? Twice the log-probs over twice the tokens would not be noticed."""
        if "length" not in self.loss.needs:
            return False
        one = self._filled(
            np.array([[-3.0, -7.0][: self.K]], WIDE),
            np.array([[-4.0, -5.0][: self.K]], WIDE),
            np.array([[2, 5][: self.K]]),
        )
        two = {name: 2 * x if name in ("logp", "ref_logp", "length") else x for name, x in one.items()}

        def value(told: Mapping[str, Array]) -> Array:
            return self.loss(
                {name: told[name] for name in self.loss.reads}, **{name: told[name] for name in self.loss.needs}
            )[0]

        return bool(np.allclose(value(one), value(two)))

    def settings(self) -> Iterator[dict[str, Any]]:
        """Each hyper-parameter that can be passed, changed by itself."""
        for name in dict.fromkeys(self.question.call.hyper.values()):
            x = self.question.hyper[name]
            if isinstance(x, (bool, str)):
                continue
            for other in (0.25, 0.05) if name == "eps" else (0.5 * x, 3 * x) if x else (0.5, 2.0):
                if other != x:
                    try:
                        LOSSES[self.question.name](**{**self.question.hyper, name: other})
                    except ValueError:
                        continue
                    yield {**self.question.hyper, name: other}

    def case(
        self,
        test: str,
        drawn: tuple[Array, Array, Array, Array | None],
        hyper: dict[str, Any] | None = None,
        **how: Any,
    ) -> Case:
        """The case of numbers that were drawn, with a fact of every kind that the function takes"""
        logp, ref, length, margin = drawn
        return Case(test, self._filled(logp, ref, length), hyper or self.question.hyper, margin, **how)

    def margins(self, z: Array, wander: bool = False, base: float = 0.0) -> tuple[Array, Array, Array, Array]:
        """Rows whose margins are about z, the shift split between chosen and rejected in three ways"""
        B = len(z)
        length = self.rng.integers(3, 60, (B, self.K)) if self.with_length else np.ones((B, self.K), int)
        typical = 3.0 if self.per_token else 40.0
        scale = length if self.per_token else 1
        if self.K == 1:
            shift = (z * self.step)[:, None]
        else:
            split = np.array([[0.5, -0.5], [1.0, 0.0], [0.0, -1.0]])[np.arange(B) % 3]
            shift = split * (z * self.step)[:, None]
        shift = shift * scale
        level = -(base or typical) * self.rng.uniform(0.25, 1.0, (B, 1)) * (scale if self.per_token else 1)
        far = np.maximum(shift, 0).max(axis=-1, keepdims=True)
        ref = level - far - 2.0 + self.rng.uniform(-2, 2, (B, self.K)) * wander
        if wander:
            shift = shift + self.rng.uniform(-0.5, 0.5, (B, self.K)) * min(self.step, 10.0)
        if "ref_logp" in self.loss.needs:
            logp = ref + shift
        else:  # the rejected one is what the chosen is held against
            logp = (ref if wander else level - far - 2.0 * scale + 0 * shift) + shift
        return self._round(np.minimum(logp, -0.125)), self._round(np.minimum(ref, -0.125)), length, z

    def near_zero(self) -> tuple[Array, Array, Array, None]:
        """Log-probs next to 0, where log(1 - e^ℓ) cancels"""
        least = -self.question.dtype.tiny
        some = [-1e-2, -1e-4, -0.7, -1e-7, -1e-10, -1.2, -1e-17, -1e-20]
        logp = np.array([some, some[::-1]]).T[:, : self.K]
        ref = np.array([some[3:] + some[:3], some[5:] + some[:5]]).T[:, : self.K]
        logp, ref = (np.minimum(self._round(x), least) for x in (logp, ref))
        return logp, ref, np.ones((len(some), self.K), int), None

    def zero(self) -> tuple[Array, Array, Array, None]:
        """Log-probs of 0 and just below it"""
        logp, ref = (
            np.array([[0.0, -1.0], [-1.0, 0.0], [-1e-20, -1.0]]),
            np.array([[-1.0, 0.0], [-0.5, -0.5], [0.0, 0.0]]),
        )
        return self._round(logp[:, : self.K]), self._round(ref[:, : self.K]), np.ones((3, self.K), int), None

    def _round(self, x: ArrayLike) -> Array:
        return self.question.dtype.round(x)

    def _filled(self, logp: Array, ref: Array, length: Array) -> dict[str, Array]:
        """With all that a loss is told; neutral where the function does not take it"""
        B, K = logp.shape
        self.drawn += 1  # each case has facts of its own, or what is kept from the last would not be seen
        rng, told = np.random.default_rng([B, self.drawn]), {}
        others = () if K > 1 else ("z0",) if "delta" in self.loss.needs else ("z0", "delta")
        for name in dict.fromkeys((*self.loss.reads, *self.loss.needs, "ref_logp", "length", *others)):
            roles = {name, *(f"{side}_{name}" for side in SIDES)}
            if name == "logp":
                told[name] = logp
            elif name == "ref_logp":
                told[name] = ref
            elif name == "length":
                told[name] = length
            elif name == "label":
                told[name] = np.arange(B) < (B + 1) // 2
            elif name in NEUTRAL and not roles & self.taken:
                shape = (B, K) if name in OF_RESPONSES else (B,)
                told[name] = np.full(shape, NEUTRAL[name], bool if NEUTRAL[name] is True else WIDE)
            elif name == "z0":
                told["KL_logp"] = self._round(rng.uniform(-9, -3, KL_ROWS))
                told["KL_ref_logp"] = self._round(told["KL_logp"] - rng.uniform(-1, 3, KL_ROWS) * (-1 if B == 5 else 1))
                if "policy_KL_logps" in self.taken:
                    told[name] = np.maximum(0, (told["KL_logp"] - told["KL_ref_logp"]).mean())
                else:
                    told[name] = self._round(np.asarray(0.75))
            elif name in ("delta", "m0"):
                told[name] = self._round(np.asarray(0.375))
            elif name == "reward" and name in self.loss.reads:
                told[name] = self._round((logp - ref) * (1 if self.K == 1 else self.step))
            elif name == "present":
                told[name] = np.ones((B, K), bool)
            elif name == "keep":
                told[name] = np.arange(B) % 3 != 1
            elif name == "score":
                told[name] = self._round(np.sort(rng.uniform(0.1, 3, (B, K)), axis=-1)[:, ::-1])
            elif name in OF_RESPONSES:
                told[name] = self._round(rng.uniform(0.1, 1.2 if name != "win_rate" else 0.9, (B, K)))
            else:
                told[name] = self._round(rng.uniform(0, 1, B))
        return told
