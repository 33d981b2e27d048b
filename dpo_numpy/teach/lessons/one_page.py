"""01: the tutorial pair, its gradient, and a step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import minimal
from ...numerics import sigmoid
from ..exercises import Exercise

__all__ = ["EXERCISES"]

PAIRS = [(-2.1, -4.5, -3.0, -3.2, 0.1), (-5.0, -1.0, -2.0, -2.5, 0.5), (-20.0, -30.0, -22.0, -27.0, 2.0)]
Two = tuple[float, float]


def gradient(pc, pr, rc, rr, beta):
    margin = beta * ((pc - rc) - (pr - rr))
    weight = 1 / (1 + math.exp(margin))  # σ(-margin)
    return -beta * weight, beta * weight


def right(*pair: float) -> Any:
    return minimal.dpo_loss(*pair)[1:]


def _slope(weight: Any, beta_outside: bool = True, reference: bool = True, beta_inside: bool = True) -> Any:
    def of(pc: float, pr: float, rc: float, rr: float, beta: float) -> Two:
        margin = (beta if beta_inside else 1.0) * ((pc - pr) - (rc - rr if reference else 0.0))
        push = float(weight(margin)) * (beta if beta_outside else 1.0)
        return -push, push

    return of


MISTAKES = {
    "the sign is turned, or chosen and rejected are: the gradient points up the loss, descent goes against it":
        lambda *pair: tuple(-x for x in right(*pair)),
    "σ(margin) stands where σ(-margin) should: the weight is the probability of the wrong order": _slope(sigmoid),
    "beta is missing in front: the margin is β times a difference, so its derivative has a β":
        _slope(lambda m: sigmoid(-m), beta_outside=False),
    "beta is missing in the margin: it stands there and in front": _slope(lambda m: sigmoid(-m), beta_inside=False),
    "the two slopes have one sign: the rejected log-prob stands in the margin with a minus":
        lambda *pair: (right(*pair)[0], right(*pair)[0]),
    "the reference is missing in the margin": _slope(lambda m: sigmoid(-m), reference=False),
    "the weight is missing: this is the slope of the margin, and -log σ(margin) has slope -σ(-margin)":
        _slope(lambda m: 1.0),
    "σ'(margin) = σ(margin) σ(-margin) is the slope of σ; that of -log σ is -σ(-margin)":
        _slope(lambda m: sigmoid(m) * sigmoid(-m)),
}


def beta_of_margin():
    return math.log(4) / (0.9 + 1.3)


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
        "people gave to be right with probability 0.8? A number.",
        "The margin is 2.2 β. So σ(2.2 β) = 0.8, and the inverse of σ is log(p / (1 - p)).",
        lambda: np.log(0.8 / 0.2) / 2.2, beta_of_margin,
        {"0.8 is the probability, not the margin: take log(p / (1 - p)) first": lambda: 0.8 / 2.2,
         "the two log-ratios differ by 2.2: the second one is negative": lambda: math.log(4) / (0.9 - 1.3),
         "2.2 is missing: σ(β) is 0.8 there, and the margin is 2.2 β": lambda: math.log(4),
         "that is upside down: 2.2 β is the log-odds": lambda: 2.2 / math.log(4)},
        rtol=5e-3,
    ),
)
