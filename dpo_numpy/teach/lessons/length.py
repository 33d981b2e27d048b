"""08: the length of an optimum, and how many labels keep noise away from it."""

from __future__ import annotations

import math

import numpy as np

from ..exercises import Exercise

__all__ = ["EXERCISES"]

# the second has no optimum
CASES = [(0.5, 0.2, 1.0), (0.2, 0.5, 1.0), (0.1, 0.05, 0.6), (0.25, -1.0, 2.0)]


# ---- a model without memory, whose labels gain by length

def optimum_length(p_end: float, lam: float, beta: float) -> float:
    on = (1 - p_end) * math.exp(lam / beta)  # a string of k tokens weighs p_end onᵏ
    return on / (1 - on) if on < 1 else math.inf


def _right(p_end: float, lam: float, beta: float) -> float:
    from analytic import ngram

    ref = np.array([[p_end, 1 - p_end]] * 2)
    if beta <= ngram.critical_beta(ref, lam):
        return math.inf
    return ngram.expected_length(ngram.optimum(ref, np.array([[0.0, lam]] * 2), beta)[0])


def _tilted(p_end: float, lam: float, beta: float) -> float:
    return (1 - p_end) * math.exp(lam / beta)


def _unnormalized(p_end: float, lam: float, beta: float) -> float:
    on = _tilted(p_end, lam, beta)
    return p_end * on / (1 - on) ** 2 if on < 1 else math.inf


MISTAKES = {
    "e^(λ/β) is paid for each token; here the mean is scaled by it once, as if what follows a token were not paid too":
        lambda p_end, lam, beta: _tilted(p_end, lam, beta) / p_end,
    "a geometric series beyond its radius: where the factor a token is 1 or more there is no optimum, return math.inf":
        lambda p_end, lam, beta: _tilted(p_end, lam, beta) / (1 - _tilted(p_end, lam, beta)),
    "the weights p_end (1 - p_end)^k e^(λk/β) do not sum to 1: divide by their sum": _unnormalized,
    "β was left out: a token's weight is multiplied by e^(λ/β), not e^λ": lambda p_end, lam, beta:
        _right(p_end, lam * beta, beta),
    "the end was counted: |y| is of the tokens before it": lambda p_end, lam, beta: _right(p_end, lam, beta) + 1,
    "e^(λβ) was paid for a token: rewards are divided by β": lambda p_end, lam, beta:
        _right(p_end, lam * beta * beta, beta),
}


# ---- noise

def labels_needed() -> float:
    return 1000 * (0.2 / 0.1) ** 2  # what noise adds goes as 1/(β² n)


def _labels() -> float:
    """From the curvature of the DPO loss on three answers at the reference: labels that leave as much variance"""
    from analytic import population

    wins = population.bradley_terry_wins(np.zeros(3))
    spread = [np.trace(np.linalg.pinv(population.hessian(np.zeros(3), wins, beta))) for beta in (0.1, 0.2)]
    return float(1000 * spread[0] / spread[1])


EXERCISES = (
    Exercise(
        "length_of_the_optimum",
        "The reference ends with probability p_end after each token, whatever it said (and may end at once). Labels "
        "gain lam a token. Write optimum_length(p_end, lam, beta): E|y| of the optimum of DPO, in tokens before the "
        "end; math.inf where there is none.",
        "A string of k tokens has the reference's probability p_end (1 - p_end)^k, times e^(λk/β): a geometric series.",
        _right, optimum_length, MISTAKES, CASES,
    ),
    Exercise(
        "length_labels_needed",
        "Of 1000 pairs, at β = 0.2, noise adds half a token to answers. Somebody lowers β to 0.1. How many pairs are "
        "needed so that noise adds as much as before? A number.",
        "What it adds depends on β √n.",
        _labels, labels_needed,
        {"it is β √n that counts, not β n": lambda: 2000.0,
         "a smaller β magnifies noise: it needs more pairs, not fewer": lambda: 250.0,
         "the square was lost the other way: √n makes up for β, so that n makes up for β²":
             lambda: float(round(1000 * math.sqrt(2)))},
    ),
)
