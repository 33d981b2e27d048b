"""07: the chosen answer's log-prob by one pair of a table, and at the optimum of all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..exercises import Exercise

__all__ = ["EXERCISES"]

Array = NDArray[Any]

TABLES = [(np.array([0.1, 0.2, 0.7]), 0, 1), (np.array([0.4, 0.1, 0.3, 0.2]), 2, 0)]
PROBLEMS = [(np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.0, -1.0]), 0.1),
            (np.array([0.2, 0.8]), np.array([2.0, 1.0]), 3.0)]


# ---- a pair in a table

def rates(pi: Array, w: int, lost: int) -> Array:
    push = np.zeros(len(pi))
    push[w], push[lost] = 1, -1
    return push - pi @ push  # log π_k = z_k - log Σ e^z


def _measured_rates(pi: Array, w: int, lost: int) -> Array:
    """By scores of a table's log-probs"""
    from analytic import loglinear

    every = np.eye(len(pi))
    return loglinear.drift(pi, every, every[w] - every[lost])


RATE_MISTAKES = {
    "these are the rates of the logits: the softmax subtracts Σ π_j times the rate of logit j from each":
        lambda pi, w, lost: np.eye(len(pi))[w] - np.eye(len(pi))[lost],
    "these are rates of the probabilities: those of log π are them over π": lambda pi, w, lost:
        pi * _measured_rates(pi, w, lost),
    "the sign of what the softmax takes is turned: it subtracts π(chosen) - π(rejected)": lambda pi, w, lost:
        2 * (np.eye(len(pi))[w] - np.eye(len(pi))[lost]) - _measured_rates(pi, w, lost),
    "chosen and rejected are interchanged": lambda pi, w, lost: _measured_rates(pi, lost, w),
    "this is a step on the chosen alone: the rejected's logit goes down too": lambda pi, w, lost:
        np.eye(len(pi))[w] - pi,
    "the bystanders stay, and should not: the sum in their softmax changes": lambda pi, w, lost:
        np.where(np.isin(np.arange(len(pi)), [w, lost]), _measured_rates(pi, w, lost), 0),
}


# ---- all pairs, at the optimum

def change(ref: Array, reward: Array, beta: float) -> float:
    K = len(ref)
    chosen = [2 * ref[i] * sum(ref[j] / (1 + math.exp(reward[j] - reward[i])) for j in range(K)) for i in range(K)]
    Z = sum(ref[i] * math.exp(reward[i] / beta) for i in range(K))
    return float(sum(chosen[i] * (reward[i] / beta - math.log(Z)) for i in range(K)))


def _mean(of: str, ref: ArrayLike, reward: ArrayLike, beta: float) -> Any:
    from analytic import metrics

    drawn = metrics.pairs(ref, reward, distinct=of == "distinct")
    share = {"rejected": drawn.rejected, "reference": ref}.get(of, drawn.chosen)
    return metrics.mean_log_ratio(share, ref, reward, beta)


def _of_the_policy(ref: Array, reward: Array, beta: float) -> Any:
    from analytic import metrics, optimum

    return metrics.mean_log_ratio(optimum.boltzmann(ref, reward, beta), ref, reward, beta)


def _by_policy_beta(ref: Array, reward: Array, beta: float) -> Any:
    from analytic import metrics

    return metrics.mean_log_ratio(metrics.pairs(ref, reward / beta).chosen, ref, reward, beta)


CHANGE_MISTAKES = {
    "log Z is missing: log π*/π_ref is r/β - log Z": lambda ref, reward, beta:
        _mean("chosen", ref, reward, beta) + _log_z(ref, reward, beta),
    "this is the rejected answers' change: σ is of the chosen's reward less the other's": lambda ref, reward, beta:
        _mean("rejected", ref, reward, beta),
    "this is the mean over the reference's answers, of which people choose the better ones more often":
        lambda ref, reward, beta: _mean("reference", ref, reward, beta),
    "this is the mean over answers of π*, its KL: the pairs were drawn from the reference": _of_the_policy,
    "pairs of an answer with itself were left out: here both draws may be the same": lambda ref, reward, beta:
        _mean("distinct", ref, reward, beta),
    "π* is taken to be e^(r/β)/Z: it is π_ref e^(r/β)/Z, and π_ref is in Z too": lambda ref, reward, beta:
        _mean("chosen", ref, reward, beta) + _log_z(ref, reward, beta) - _log_sum(reward, beta) - _cross(ref, reward),
    "people choose by σ(r_i - r_j): β is the policy's, not theirs": _by_policy_beta,
    "this is β times the change, a reward: nats have no β in front": lambda ref, reward, beta:
        beta * _mean("chosen", ref, reward, beta),
    "this is the mean of log π*: subtract that of log π_ref": lambda ref, reward, beta:
        _mean("chosen", ref, reward, beta) + _cross(ref, reward),
}


def _log_z(ref: Array, reward: Array, beta: float) -> Any:
    from analytic import optimum

    return optimum.log_partition(ref, reward, beta)


def _log_sum(reward: Array, beta: float) -> Any:
    return np.log(np.exp(reward / beta).sum())


def _cross(ref: Array, reward: Array) -> Any:
    from analytic import metrics

    return metrics.pairs(ref, reward).chosen @ np.log(ref)


EXERCISES = (
    Exercise(
        "winning_bystanders",
        "Write rates(pi, w, lost): pi are the probabilities of a table's answers. A step of DPO raises the logit of "
        "answer w (chosen) and lowers that of answer lost (rejected), both at rate 1. Return the rates of all "
        "log-probs, in the order of pi.",
        "log π_k = z_k - log Σ e^z. How does the second term change?",
        _measured_rates, rates, RATE_MISTAKES, TABLES,
    ),
    Exercise(
        "winning_chosen_change",
        "Write change(ref, reward, beta): two answers are drawn from ref, maybe the same twice; people choose i over j "
        "with probability σ(r_i - r_j). Return the mean of log π*/π_ref over the chosen answers, in nats.",
        "How often is i the chosen one? Twice ref_i Σ_j ref_j σ(r_i - r_j). And log π*/π_ref is r/β less one number.",
        lambda ref, reward, beta: _mean("chosen", ref, reward, beta), change, CHANGE_MISTAKES, PROBLEMS,
    ),
)
