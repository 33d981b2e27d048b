"""A peak where π_ref seldom is: pairs from π_ref or from the policy, a table or features that express the reward.

    rounds       J* - J as labels come in, in tables and in features, and n (J* - J) of many labels
    per_label    the latter, exactly
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dpo_numpy as dn
from analytic import bradley_terry, optimum
from dpo_numpy.numerics import log_softmax, sigmoid
from dpo_numpy.policy import Params

from ..linear import LogLinear
from ..tabular import Tabular
from ._tables import preferences

__all__ = ["PEAK", "X", "per_label", "rounds"]

Array = NDArray[Any]

X = np.linspace(0, 4, 25)
PEAK = 0.4 * X**2


def rounds(rngs: Sequence[np.random.Generator], ref: Array, beta: float, n: int, count: int) -> dict[str, Array]:
    """A data set of n labels for each generator, in `count` rounds

    offline_, online_   and table, features: J* - J after each round, (data sets, 1 + count)
    many_               and the same: n (J* - J) of many labels, pairs from π_ref, uniform, and from π*, (3,)
    labels              (1 + count,) there are by then
    """
    R, K = len(rngs), len(X)
    labels = np.linspace(0, n, count + 1).astype(int)
    basis = np.linalg.qr(np.column_stack([np.ones(K), X, X**2]))[0][:, 1:]  # spans r
    own = np.einsum("kd,rs->rksd", basis, np.eye(R)).reshape(R, K, -1)  # parameters for each data set
    log_ref = np.tile(np.log(ref), (R, 1))
    found = {"labels": labels}
    for name, policy, start, features in (("table", Tabular(K, R), {"W": log_ref}, np.eye(K)),
                                          ("features", LogLinear(own, log_ref), {"theta": np.zeros(2 * R)}, basis)):
        # of the largest curvature that a pair can have
        rate = 4 / beta**2 / np.sum((features[:, None] - features) ** 2, axis=-1).max()
        for way in ("offline", "online"):
            same = deepcopy(rngs)  # luck is not what they differ in
            pi = _path(same, policy, start, ref, np.diff(labels), beta, rate, way == "online")
            lost = optimum.optimal_value(ref, PEAK, beta) - optimum.value(pi, ref, PEAK, beta)
            found[f"{way}_{name}"] = lost.T
        met = ref, np.full(K, 1 / K), optimum.boltzmann(ref, PEAK, beta)
        free = features[:, -(K - 1):]  # a constant added to all logits is none of a table's parameters
        found[f"many_{name}"] = np.array([per_label(free, ref, mu, beta) for mu in met])
    return found


def _path(rngs: Sequence[np.random.Generator], policy: Any, start: Params, ref: Array, labels: Array, beta: float,
          rate: float, online: bool) -> Array:
    """π (1 + rounds, data sets, K) after each round: new pairs, from π or π_ref, and 20 steps on all there are"""
    R, K = len(rngs), len(ref)
    loss = dn.LOSSES["dpo"](beta=beta)
    wins, params, path = np.zeros((R, K, K)), start, [np.tile(ref, (R, 1))]
    for new in labels:
        for data, rng in enumerate(rngs):
            first, second = rng.choice(K, size=(2, new), p=path[-1][data] if online else ref)
            won = rng.random(new) < sigmoid(PEAK[first] - PEAK[second])
            np.add.at(wins[data], (np.where(won, first, second), np.where(won, second, first)), 1)
        different = wins * (1 - np.eye(K))  # a response beside itself teaches nothing
        if different.any():
            batches = repeat(preferences(different / labels.sum()).with_reference(policy, start), 20)
            *_, last = dn.train(policy, params, batches, loss, dn.momentum(rate, 0.8))
            params = last.params
        path.append(np.exp(log_softmax(policy.logits(params, np.arange(R)[:, None])[0][:, 0])))
    return np.array(path)


def per_label(features: Array, ref: Array, mu: Array, beta: float) -> float:
    """n (J* - J) of many labels, tr((Φᵀ S Φ) (Φᵀ F Φ)⁻¹)/2β: S = diag π* - π* π*ᵀ, F what two different from μ tell"""
    met = np.outer(mu, mu) * (1 - np.eye(len(mu)))
    F = bradley_terry.fisher(PEAK, 2 * met / met.sum())  # either order is the same pair
    S = optimum.curvature(optimum.boltzmann(ref, PEAK, beta), 1.0)
    return float(np.trace(np.linalg.solve(features.T @ F @ features, features.T @ S @ features)) / (2 * beta))
