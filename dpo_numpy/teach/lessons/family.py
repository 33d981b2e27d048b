"""11: what a mean is to a sum, and an estimator as value and as slope."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...losses import LOSSES
from ...surrogates import k3
from ..exercises import Exercise

__all__ = ["EXERCISES"]


def tau_of_sums(tau: float, tokens: int) -> float:
    # per token the target is 1/(2 tau); of the whole response it is `tokens` times that, 1/(2 tau/tokens)
    return tau / tokens


def _tau_of_sums(tau: float, tokens: int) -> Any:
    """From where the slope of the loss of means is 0; it is straight in h"""
    loss, length = LOSSES["ipo"](tau=tau, reduction="mean"), [[tokens, tokens]] * 2
    (low, _), (high, _) = loss([[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0]] * 2, length)[1]
    return 1 / (2 * low / (low - high))


def k3_of(d: float) -> tuple[float, float]:
    return math.expm1(-d) + d, -math.expm1(-d)


def _k3(d: float) -> Any:
    value, slope = k3(np.array(d))
    return float(value), float(slope)


EXERCISES = (
    Exercise(
        "ipo_tau_of_sums",
        "One library takes means of log-probs over tokens in IPO, another sums. Write tau_of_sums(tau, tokens): all "
        "responses have `tokens` tokens; return the τ that sums need, to end where means with `tau` end.",
        "With means the target of h/tokens is 1/(2 tau). What is the target of h?",
        _tau_of_sums, tau_of_sums,
        {"the other way round: a target for each token is a larger target for the sum, and a smaller τ":
             lambda tau, tokens: tau * tokens,
         "that is the target of h, 1/(2τ); the τ of a target is 1/(2 target)": lambda tau, tokens: tokens / (2 * tau),
         "the same τ is the same target, once for a token and once for the whole response": lambda tau, tokens: tau,
         "one `tokens` too many: the factor of the loss, tokens², does not move its minimum": lambda tau, tokens:
             tau / tokens**2},
        [(0.1, 10), (0.5, 64), (0.02, 3)],
    ),
    Exercise(
        "k3_value_and_slope",
        "Write k3(d), d = log π/π_ref of a sampled token: return the estimator's value, e^-d - 1 + d, and its slope "
        "in log π.",
        "d moves with log π one to one. Check that the value is never negative, and the slope 0 at d = 0.",
        _k3, k3_of,
        {"the ratio is upside down: π_ref/π is e^-d. That one has no mean KL, and its gradient runs away":
             lambda d: (math.exp(d) - 1 - d, math.exp(d) - 1),
         "the slope's sign: that of e^-d is -e^-d, that of d is 1": lambda d: (math.expm1(-d) + d, math.expm1(-d)),
         "the slope of e^-d is -e^-d: there is a minus before d": lambda d: (math.expm1(-d) + d, 1 + math.exp(-d)),
         "that slope is of e^-d alone: d has the slope 1": lambda d: (math.expm1(-d) + d, -math.exp(-d)),
         "that slope is k1's: the other part has a gradient too": lambda d: (math.expm1(-d) + d, 1.0),
         "that is k2, d²/2": lambda d: (d * d / 2, d)},
        [(0.5,), (-1.2,), (3.0,)],
    ),
)
