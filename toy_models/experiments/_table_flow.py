"""Gradient flow of a loss of the registry in the logits of tables, (..., K), for each place of the leading axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analytic import optimum
from dpo_numpy.losses import Loss
from dpo_numpy.numerics import log_softmax

__all__ = ["Problems", "of_pairs", "of_singles", "train"]

Array = NDArray[Any]


class Problems(NamedTuple):
    """What is compared, what a loss is told, and what J is of; leading axes are the same."""

    wins: Array  # (..., K, K), of sum 1
    told: Array  # log-probs of the reference that the loss is told, (..., K)
    ref: Array
    reward: Array  # which J is of
    length: Array

    def best(self, beta: float) -> Array:
        return optimum.boltzmann(self.ref, self.reward, beta)


STEP = 1e-6  # nats, of differences of slopes: an error of the curvature bends the way, not where it ends

Slopes = Callable[[Array], Array]


def of_pairs(loss: Loss, given: Problems) -> tuple[Slopes, Callable[[Array], tuple[Array, Array]]]:
    """Functions of log π (..., K), taken as free: ∂L/∂log π (..., K); that and its derivative (..., K, K)

    L is the mean of the loss over wins. All K² pairs are a row each, (i, j) is chosen i and rejected j.
    """
    wins, K = given.wins, given.wins.shape[-1]
    index = np.stack(np.divmod(np.arange(K * K), K), axis=-1)
    facts = {"ref_logp": given.told, "length": given.length}
    told = {name: facts[name][..., index] for name in loss.needs}

    def each(x: Array) -> tuple[Array, Array]:
        d = loss(x, **told)[1].reshape(*wins.shape, 2)
        return wins * d[..., 0], (wins * d[..., 1]).mT  # both [k, m]: the slope of k in a pair with m

    def slope(logp: Array) -> Array:
        first, second = each(logp[..., index])
        total: Array = (first + second).sum(axis=-1)
        return total

    def curved(logp: Array) -> tuple[Array, Array]:
        x = logp[..., index]
        a, b = each(x)
        (aa, ba), (ab, bb) = (each(x + moved) for moved in ([STEP, 0.0], [0.0, STEP]))
        own = (aa - a + bb - b).sum(axis=-1, keepdims=True) * np.eye(K)
        return (a + b).sum(axis=-1), (own + ab - a + ba - b) / STEP

    return slope, curved


def of_singles(loss: Loss, given: Problems) -> tuple[Slopes, Callable[[Array], tuple[Array, Array]]]:
    """The same of a loss of single responses: the chosen are desired, the rejected not, and z₀ is KL(π || π_ref)"""
    K = given.wins.shape[-1]
    label = np.repeat([True, False], K)
    ref = np.tile(given.told, 2)[..., None]
    weight = np.concatenate([given.wins.sum(axis=-1), given.wins.sum(axis=-2)], axis=-1)

    def at(logp: Array, moved: float) -> Array:
        z0 = np.repeat((np.exp(logp) * (logp - given.told)).sum(axis=-1, keepdims=True), 2 * K, axis=-1)
        d: Array = weight * loss(np.tile(logp + moved, 2)[..., None], ref_logp=ref, label=label, z0=z0)[1][..., 0]
        both: Array = d[..., :K] + d[..., K:]
        return both

    def curved(logp: Array) -> tuple[Array, Array]:
        d = at(logp, 0.0)
        return d, ((at(logp, STEP) - d) / STEP)[..., None] * np.eye(K)

    return lambda logp: at(logp, 0.0), curved


def train(loss: Loss, given: Problems, time: float, steps: int, steepness: float = 0.0) -> Array:
    """log π (..., K) after gradient flow from the reference

    Each step is W ← W - (1/τ + H)⁻¹ ∂L/∂W, of implicit Euler's method, linearized: plain descent's where τ is small,
    Newton's where it is large. The τ rise by a factor to a sum of `time`. Kinks, told by a steepness above 0, have no
    H: there ten times as many plain steps of K over it, the second half falling from that by a factor, to 1e-4 of it.
    """
    W, K = np.log(given.ref), given.ref.shape[-1]
    slope, curved = (of_singles if "label" in loss.needs else of_pairs)(loss, given)
    if steepness:
        half = np.ones(5 * steps)
        for size in np.concatenate([half, half * np.geomspace(1, 1e-4, len(half))]) * K / steepness:
            logp = log_softmax(W)
            d = slope(logp)
            W = W - size * (d - np.exp(logp) * d.sum(axis=-1, keepdims=True))
        return log_softmax(W)
    rising = np.geomspace(1.0, time, steps)
    for tau in rising * (time / rising.sum()):
        logp = log_softmax(W)
        pi = np.exp(logp)
        d, H = curved(logp)
        total = d.sum(axis=-1, keepdims=True)
        H = H - pi[..., None] * H.sum(axis=-2, keepdims=True)  # d log π = (1 - 1πᵀ) dW
        H = H - pi[..., None, :] * H.sum(axis=-1, keepdims=True)
        H -= total[..., None] * (pi[..., None] * (np.eye(K) - pi[..., None, :]))
        W = W - np.linalg.solve(H + np.eye(K) / tau, (d - pi * total)[..., None])[..., 0]
    return log_softmax(W)
