"""02: the optimum of reward minus KL, and the β that a policy gives away."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..exercises import Exercise

__all__ = ["EXERCISES"]

WORLDS = [(np.array([0.2, 0.5, 0.3]), np.array([1.0, 0.0, -1.0]), 0.5),
          (np.array([0.7, 0.1, 0.15, 0.05]), np.array([0.3, 2.0, -0.4, 1.1]), 1.7)]
#: a policy and its reference; the policy is optimal for rewards 2, 1, 0
PI, REF = (0.6, 0.3, 0.1), (0.25, 0.375, 0.375)


def optimal(ref: Any, r: Any, beta: float) -> Any:
    from analytic import optimum

    return optimum.boltzmann(ref, r, beta)


def best_policy(ref, r, beta):
    weight = ref * np.exp(r / beta)
    return weight / weight.sum()


def _share(weight: Any) -> Any:
    return weight / weight.sum()


def _beta() -> Any:
    from analytic import optimum

    slope = np.diff(optimum.implied_reward(PI, REF, 1.0))[0]
    return -1 / slope


def beta_of_policy():
    return 1 / (math.log(0.6 / 0.25) - math.log(0.3 / 0.375))


EXERCISES = (
    Exercise(
        "derivation_optimum",
        "Write best_policy(ref, r, beta): probabilities of the reference, rewards, the price of a nat of KL. Return "
        "the probabilities of the policy with the largest J.",
        "Tilt the reference by e^(r/β), answer by answer; then make the sum 1.",
        optimal, best_policy,
        {"the reference is missing: that is the optimum for a uniform one":
             lambda ref, r, beta: _share(np.exp(r / beta)),
         "r is multiplied by β: a small β should tilt more, not less":
             lambda ref, r, beta: _share(ref * np.exp(r * beta)),
         "the sign is turned: a larger reward should make an answer likelier":
             lambda ref, r, beta: _share(ref * np.exp(-r / beta)),
         "Z is a sum over the reference too: multiply by it first, then divide by the sum of the products":
             lambda ref, r, beta: ref * _share(np.exp(r / beta)),
         "these are log-probs: probabilities were asked for": lambda ref, r, beta: np.log(optimal(ref, r, beta)),
         "β is missing: e^r is right for β = 1 only": lambda ref, r, beta: _share(ref * np.exp(r)),
         "these do not sum to 1: divide by Z": lambda ref, r, beta: ref * np.exp(r / beta),
         "probabilities were added to rewards: it is log π_ref that r/β is added to, before the softmax":
             lambda ref, r, beta: _share(np.exp(ref + r / beta)),
         "that is the answer with the largest reward, always: the optimum without the KL term":
             lambda ref, r, beta: (r == r.max()).astype(float)},
        WORLDS,
    ),
    Exercise(
        "derivation_beta_of_policy",
        "A policy with probabilities (0.6, 0.3, 0.1) is optimal for rewards (2, 1, 0) and the reference (0.25, "
        "0.375, 0.375). At which β? A number.",
        "β log-ratio is the reward up to a constant. How much more reward has the first answer than the second?",
        _beta, beta_of_policy,
        {"the reference is missing: 0.6 and 0.3 are probabilities, and rewards are in their ratios to the reference's":
             lambda: 1 / math.log(0.6 / 0.3),
         "that is 1/β: log-ratios are r/β, up to a constant": lambda: math.log(3.0),
         "the first and the third answer differ in reward by 2, not by 1":
             lambda: 1 / (math.log(0.6 / 0.25) - math.log(0.1 / 0.375)),
         "the first log-ratio alone is r/β - log Z: take a difference, so that Z is gone":
             lambda: 2 / math.log(0.6 / 0.25),
         "the sign is turned: the first answer has more reward and the larger log-ratio": lambda: -1 / math.log(3.0)},
        rtol=1e-2,
    ),
)
