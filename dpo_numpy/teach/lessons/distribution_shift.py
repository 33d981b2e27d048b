"""09: answers that no pair connects, and a class that misses the reward."""

from __future__ import annotations

import math

import numpy as np

from ..exercises import Exercise

__all__ = ["EXERCISES"]

REWARD = (2.0, 0.0, 5.0, 3.0, 4.0)
ARMS = (1.0, 2.0, 0.0)
BETA = 0.5


# ---- two groups that are never compared

def third_answer() -> float:
    first, second = [2.0, 0.0], [5.0, 3.0, 4.0]
    u = [r - sum(first) / 2 for r in first] + [r - sum(second) / 3 for r in second]
    return math.exp(u[2]) / sum(map(math.exp, u))


def _third(two_groups: bool = True) -> float:
    from analytic import graph, optimum, population

    first = np.arange(5) < 2
    wins = population.bradley_terry_wins(REWARD, (first[:, None] == first).astype(float))
    reward = graph.settled_reward(REWARD, wins) if two_groups else REWARD
    return float(optimum.boltzmann(np.full(5, 0.2), reward, 1.0)[2])


# ---- three arms, one parameter

def mean_reward() -> float:
    t = (1.0 - 0.0) / 0.5  # βt = r₁ - r₃
    weights = [math.exp(t), math.exp(-t), 1.0]
    return (1.0 * weights[0] + 2.0 * weights[1]) / sum(weights)


def _of_arms(t: float) -> float:
    from analytic import loglinear

    return float(loglinear.policy([t], [[1.0], [-1.0], [0.0]], [1 / 3, 1 / 3, 1 / 3]) @ ARMS)


def _trained_arms() -> float:
    from analytic import loglinear, population

    met = np.zeros((3, 3))
    met[0, 2] = met[2, 0] = 1
    theta = loglinear.newton([[1.0], [-1.0], [0.0]], population.bradley_terry_wins(ARMS, met), BETA)
    return _of_arms(float(theta[0]))


def _table_of_arms() -> float:
    from analytic import optimum

    return float(optimum.boltzmann([1 / 3, 1 / 3, 1 / 3], ARMS, BETA) @ ARMS)


EXERCISES = (
    Exercise(
        "shift_two_groups",
        "Five answers of rewards 2, 0 | 5, 3, 4, a reference that likes all the same, β = 1. All pairs on one side of "
        "the bar are compared, none across; a table is trained by plain descent from the reference to the end. What "
        "is the probability of the third answer, whose reward is 5? A number.",
        "The gradient in the logits sums to 0 over each group, so that the mean change of a group's logits stays 0.",
        _third, third_answer,
        {"this is π*, but no label says how much better the second group is": lambda: _third(two_groups=False),
         "groups do not keep their mass: what descent keeps is the mean of the logits of each":
             lambda: 0.6 * math.exp(1) / (math.exp(1) + math.exp(-1) + 1),
         "the sum over the second group alone: divide by both groups": lambda:
             math.exp(1) / (math.exp(1) + math.exp(-1) + 1),
         "groups do not get one half each: what descent keeps is the mean of the logits of each":
             lambda: 0.5 * math.exp(1) / (math.exp(1) + math.exp(-1) + 1)},
        rtol=1e-3,
    ),
    Exercise(
        "shift_three_arms",
        "Three answers of rewards 1, 2, 0, a uniform reference, and policies (e^t, e^-t, 1)/Z. Only the first and "
        "the third are ever compared. What is E r (1 under the reference) where DPO ends at β = 0.5? A number.",
        "One pair, one parameter: the margin β (t - 0) is fitted to the difference of rewards.",
        _trained_arms, mean_reward,
        {"β t is the difference of rewards, not t: divide by β": lambda: _of_arms(1.0),
         "β t is the difference of rewards: β divides it, and was multiplied by": lambda: _of_arms(0.5),
         "this is E r of a table, which can have any log-ratios; here the second has -t": _table_of_arms,
         "so it would be if the second answer kept its logit, or nothing moved; here it has -t": lambda: 1.0,
         "the pair that is compared is the first and the third: 1 - 0, not 1 - 2": lambda: _of_arms(-2.0)},
        rtol=1e-3,
    ),
)
