"""06: one path for every β, and how long a certain pair takes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..exercises import Exercise

__all__ = ["EXERCISES"]


# ---- one path

def same_path():
    return 0.5 * 0.4**2 / 0.1**2  # lr β² is the same


def right_same_path() -> float:
    """The step from the reference that moves implied rewards β u as far"""
    from analytic import population

    wins = population.bradley_terry_wins([1.0, 0.0, -1.0])
    moved, unit = (lr * beta * population.gradient(np.zeros(3), wins, beta)[0] for lr, beta in ((0.5, 0.4), (1.0, 0.1)))
    return float(moved / unit)


# ---- a certain pair

def time_until(m, beta):
    # dm/dt = 2 β² σ(-m), so that 2 β² dt = (1 + e^m) dm
    return (m + math.exp(m) - 1) / (2 * beta**2)


def right_time(m: float, beta: float) -> float:
    from analytic import flow

    return float(flow.dpo_time(m, beta))


def _times(of: Any) -> Any:
    return lambda m, beta: of(right_time(m, beta), m, beta)


EXERCISES = (
    Exercise(
        "beta_same_path",
        "DPO at β = 0.4 takes plain steps of learning rate 0.5. With which rate does DPO at β = 0.1 have the same "
        "implied rewards β log(π/π_ref) after each step? A number.",
        "The implied rewards move by lr · β² times a slope that does not know β.",
        right_same_path, same_path,
        {"the pace is lr · β², not lr · β: β enters once in the loss's slope and once in the reward": lambda: 2.0,
         "the other way round: a smaller β is slower, and needs the larger rate": lambda: 0.5 / 16,
         "at the same rate implied rewards move by lr · β², a sixteenth as far": lambda: 0.5,
         "the other way round, and the pace is lr · β², not lr · β": lambda: 0.5 / 4,
         "that is the ratio of the two rates: times 0.5": lambda: 16.0},
        rtol=1e-3,
    ),
    Exercise(
        "beta_certain_time",
        "A pair that is always judged alike, in a table: its margin starts at 0 and moves by dm/dt = 2 β² σ(-m). Write "
        "time_until(m, beta), the time at which the margin is m.",
        "Separate: 2 β² dt = dm/σ(-m), and 1/σ(-m) is 1 + e^m. Integrate from 0.",
        right_time, time_until,
        {"the 2 is missing: the chosen logit rises and the rejected one falls": _times(lambda t, m, beta: 2 * t),
         "β enters squared, once in the loss's slope and once in the margin": _times(lambda t, m, beta: t * beta),
         "1/σ(-m) is 1 + e^m: the integral of the 1 is missing": _times(lambda t, m, beta: t - m / (2 * beta**2)),
         "the integral of e^m from 0 is e^m - 1": _times(lambda t, m, beta: t + 1 / (2 * beta**2)),
         "that is as if the slope stayed what it is at m = 0: σ(-m) falls as the margin grows":
            lambda m, beta: m / beta**2,
         "that is as if the slope were all along what it is at the end: integrate 1/σ(-m) from 0 to m":
            lambda m, beta: m * (1 + math.exp(m)) / (2 * beta**2),
         "1/σ(-m) is 1 + e^m, not 1 + e^-m": lambda m, beta: (m + 1 - math.exp(-m)) / (2 * beta**2)},
        cases=[(1.0, 0.1), (3.0, 0.5), (0.2, 2.0)],
    ),
)
