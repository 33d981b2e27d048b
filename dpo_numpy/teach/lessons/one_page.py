"""01: the tutorial pair, its gradient, and a step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import minimal
from ...numerics import sigmoid
from ..exercises import Exercise

__all__ = ["EXERCISES"]

PAIRS = [(-2.1, -4.5, -3.0, -3.2, 0.1), (-5.0, -1.0, -2.0, -2.5, 0.5), (-20.0, -30.0, -28.0, -21.0, 2.0)]
Two = tuple[float, float]


def gradient(pc: float, pr: float, rc: float, rr: float, beta: float) -> Two:
    margin = beta * ((pc - rc) - (pr - rr))
    weight = 1 / (1 + math.exp(margin))  # σ(-margin)
    return -beta * weight, beta * weight


def right(*pair: float) -> Any:
    return minimal.dpo_loss(*pair)[1:]


def _slope(weight: Any, beta_outside: bool = True, reference: bool = True) -> Any:
    def of(pc: float, pr: float, rc: float, rr: float, beta: float) -> Two:
        margin = beta * ((pc - pr) - (rc - rr if reference else 0.0))
        push = float(weight(margin)) * (beta if beta_outside else 1.0)
        return -push, push

    return of


MISTAKES = {
    "the sign is turned, or chosen and rejected are: the gradient points up the loss, descent goes against it":
        lambda *pair: tuple(-x for x in right(*pair)),
    "σ(margin) stands where σ(-margin) should: the weight is the probability of the wrong order": _slope(sigmoid),
    "beta is missing in front: the margin is β times a difference, so its derivative has a β":
        _slope(lambda m: sigmoid(-m), beta_outside=False),
    "the reference is missing in the margin": _slope(lambda m: sigmoid(-m), reference=False),
    "the weight is missing: this is the slope of the margin, and -log σ(margin) has slope -σ(-margin)":
        _slope(lambda m: 1.0),
    "σ'(margin) = σ(margin) σ(-margin) is the slope of σ; that of -log σ is -σ(-margin)":
        _slope(lambda m: sigmoid(m) * sigmoid(-m)),
}


def beta_of_margin() -> float:
    return math.log(9) / 2.2


EXERCISES = (
    Exercise(
        "pair_gradient",
        "Write gradient(pc, pr, rc, rr, beta): log-probs of chosen and rejected under the policy, then under the "
        "reference, in nats. Return ∂L/∂pc, ∂L/∂pr of the DPO loss.",
        "With m = β ((pc - rc) - (pr - rr)) the loss is -log σ(m). What is its slope in m? And that of m in pc?",
        right, gradient, MISTAKES, PAIRS,
    ),
    Exercise(
        "beta_for_certainty",
        "The tutorial pair has log-ratios +0.9 and -1.3. At which β does the implicit reward hold the order that "
        "people gave to be right with probability 0.9? A number.",
        "σ(2.2 β) = 0.9, and the inverse of σ is log(p / (1 - p)).",
        lambda: np.log(0.9 / 0.1) / 2.2, beta_of_margin,
        {"0.9 is the probability, not the margin: take log(p / (1 - p)) first": lambda: 0.9 / 2.2,
         "the two log-ratios differ by 2.2: the second one is negative": lambda: math.log(9) / (0.9 - 1.3),
         "2.2 is missing: σ(β) is 0.9 there, and the margin is 2.2 β": lambda: math.log(9),
         "that is 2.2 / log 9, upside down": lambda: 2.2 / math.log(9)},
        rtol=1e-3,
    ),
)
