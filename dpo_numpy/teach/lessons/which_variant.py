"""10: what undoes flips, and which loss cures which bug."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..exercises import Exercise

__all__ = ["EXERCISES"]

SHARES = [(0.7, 0.2), (0.55, 0.1), (0.3, 0.25), (0.62, 0.3)]
BUGS = ("clean", "certain", "flips", "length", "skewed")


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def unflip(q: float, eps: float) -> float:
    p = (q - eps) / (1 - 2 * eps)  # as q = (1 - eps) p + eps (1 - p)
    return math.log(p / (1 - p))


def _unflipped(q: float, eps: float) -> Any:
    from analytic import minimizers

    return minimizers.rdpo_margin(q, eps)


def cure(bug: str) -> str:
    return {"clean": "dpo", "certain": "cdpo", "flips": "rdpo", "length": "r_dpo", "skewed": "dpo"}[bug]


def _least(bug: str) -> str:
    """Of the four, that with the least KL from its optimum to π*; one without an optimum is out"""
    from analytic import graph, minimizers, optimum, population

    r, length, beta, eps, alpha = np.array([1.0, 0.3, -0.6]), np.array([1, 4, 2]), 0.5, 0.2, 0.3
    ref, mu = np.array([0.2, 0.5, 0.3]), np.array([0.1, 0.2, 0.7])
    judged = r + alpha * length if bug == "length" else r
    wins = population.bradley_terry_wins(judged, np.outer(mu, mu) if bug == "skewed" else None)
    if bug == "certain":
        wins = (wins + wins.T) * (r[:, None] > r)
    if bug == "flips":
        wins = (1 - eps) * wins + eps * wins.T
    fitted = {"dpo": wins, "cdpo": (1 - eps) * wins + eps * wins.T,
              "rdpo": ((1 - eps) * wins - eps * wins.T) / (1 - 2 * eps)}
    found = {}
    for name, w in fitted.items():
        if (w >= 0).all() and graph.mle_exists(w):
            found[name] = population.policy(population.newton(w, beta), ref)
    if "dpo" in found:
        u = population.newton(wins, 1.0)
        found["r_dpo"] = minimizers.r_dpo(ref, u, length, beta, alpha)
    best = optimum.boltzmann(ref, r, beta)
    return min(found, key=lambda name: float(optimum.kl(found[name], best)))


def _but(**wrong: str) -> Any:
    return lambda bug: wrong.get(bug, cure(bug))


EXERCISES = (
    Exercise(
        "noise_unflip",
        "Write unflip(q, eps): of endless labels a share q prefers the first of two responses, each label having "
        "been flipped with probability eps. Return the margin β h that makes the policy π*.",
        "First the share p before the flips: solve q = (1-ε) p + ε (1-p). Then σ(margin) = p.",
        _unflipped, unflip,
        {"that smooths: it flips the labels once more, as cDPO does; flips are undone by subtracting them":
             lambda q, eps: _logit((1 - eps) * q + eps * (1 - q)),
         "that is DPO's optimum, of labels as they were reported: ε has no part in it": lambda q, eps: _logit(q),
         "logit(q)/(1-2ε) undoes flips only where preferences are weak: take logit last": lambda q, eps:
             _logit(q) / (1 - 2 * eps),
         "that is the probability; the margin is its logit": lambda q, eps: (q - eps) / (1 - 2 * eps),
         "1-2ε is missing: the shares of both responses, q - ε and 1-q-ε, sum to 1-2ε": lambda q, eps:
             math.log(abs(q - eps) / (1 - (q - eps)))},
        SHARES,
    ),
    Exercise(
        "variant_for_bug",
        "Write cure(bug): \"dpo\", \"cdpo\", \"rdpo\" or \"r_dpo\", whose optimum is nearest to π* on endless labels. "
        "bug is \"clean\", \"certain\" (the better response always wins), \"flips\" (a known share), \"length\" (the "
        "judge adds reward for each token) or \"skewed\" (some pairs are met far more often). Whatever the bug, cDPO "
        "and rDPO assume the flips of \"flips\", R-DPO the judge of \"length\".",
        "Ask of each loss where its mean over such labels is least, and whether there is such a point at all.",
        _least, cure,
        {"flips: cDPO adds flips of its own to those of the labels; rDPO takes them out": _but(flips="cdpo"),
         "certain: rDPO's loss has no bottom there; smoothed labels have a finite optimum": _but(certain="rdpo"),
         "certain: DPO's margins have no end there; smoothed labels have a finite optimum": _but(certain="dpo"),
         "flips: DPO takes reported labels for true ones, and its margins are too small; rDPO takes the flips out":
             _but(flips="dpo"),
         "clean: a cure costs where nothing is wrong, and DPO ends at π*": _but(clean="cdpo"),
         "skewed: DPO's optimum does not know how often a pair is met, where labels are Bradley-Terry":
             _but(skewed="rdpo"),
         "length: only R-DPO has a length in its margin": _but(length="dpo")},
        [(bug,) for bug in BUGS],
    ),
)
