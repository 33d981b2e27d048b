"""Many data sets at once: comparisons drawn, and the rewards that fit each best, by one Newton's method for all.

    r̂ = argmin_r Σᵢⱼ wins[i, j] (-log σ(rᵢ - rⱼ))        rᵢ = φᵢ·θ, where there are features

`analytic.population.newton` and `analytic.loglinear.newton` do the same, one problem after the other, and raise
`ValueError` where there is no minimizer. Here such a data set gets NaN, and entries of wins may be below 0, as those of
rDPO's corrected labels are: the loss is convex as long as wins + winsᵀ is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from analytic import optimum

__all__ = ["average", "draw", "fit", "has_fit", "lost", "waves"]

Array = NDArray[Any]

STEPS = 200
FARTHEST = 30.0  # nats between two that are compared: no fit to fewer than e^30 comparisons is there


def waves(responses: int, features: int, spread: float) -> tuple[Array, Array]:
    """Features cos(π a (k + ½)/K), a = 1 ... d, and rewards -Σ φ_a/a, of standard deviation `spread`: (K, d) and (K,)

    Any two features are orthogonal, so that none can be told by the others. d is at most K - 1.

    >>> phi, r = waves(4, 2, 1.0)
    >>> (phi.T @ phi).round(12)
    array([[2., 0.],
           [0., 2.]])
    """
    if features > responses - 1:
        raise ValueError(f"features is {features}; expected at most {responses - 1}, as a table of {responses} "
                         "responses has")
    k, a = np.arange(responses), np.arange(1, features + 1)
    phi: Array = np.cos(np.pi * a * (k[:, None] + 0.5) / responses)
    r = phi @ (-1 / a)
    return phi, spread * r / r.std()


def draw(wins: ArrayLike, n: int, streams: Iterable[np.random.Generator]) -> Array:
    """Counts (R, K, K) of n comparisons from the measure wins (K, K), of sum 1 up to rounding: one draw a stream"""
    share = np.asarray(wins, float)
    share = share / share.sum()
    return np.stack([rng.multinomial(n, share.ravel()).reshape(share.shape) for rng in streams]).astype(float)


def fit(wins: ArrayLike, features: ArrayLike | None = None) -> Array:
    """r̂ (..., K), of mean 0: NaN where no r̂ exists, or more than one

    wins (..., K, K), wins + winsᵀ at least 0; features (K, d). A step is Newton's, times log(1 + D)/D, D the largest
    change of a margin that it makes: the loss falls, without a search, as its third derivative is at most its second
    (Sun & Tran-Dinh 2017, arXiv:1703.04599).

    >>> fit([[[0, 3], [1, 0]], [[0, 4], [0, 0]]]).round(8)  # log(3)/2; and a response that never loses
    array([[ 0.54930614, -0.54930614],
           [        nan,         nan]])
    """
    wins = np.asarray(wins, float)
    K = wins.shape[-1]
    basis = np.eye(K)[:, 1:] if features is None else np.asarray(features, float)
    i, j = np.triu_indices(K, 1)
    won, weight = wins[..., i, j].reshape(-1, len(i)), (wins + wins.mT)[..., i, j].reshape(-1, len(i))
    apart = basis[i] - basis[j]
    square = (apart[:, :, None] * apart[:, None, :]).reshape(len(i), -1)
    d = basis.shape[1]
    left = np.linalg.matrix_rank((weight @ square).reshape(-1, d, d), hermitian=True) == d
    theta, found, met = np.zeros((len(won), d)), np.full((len(won), d), np.nan), weight > 0
    rows = np.flatnonzero(left)
    for _ in range(STEPS):
        if not len(rows):
            break
        p = expit(theta[rows] @ apart.T)
        slope = (weight[rows] * p - won[rows]) @ apart
        bend = ((weight[rows] * p * (1 - p)) @ square).reshape(-1, d, d)
        step = -np.linalg.solve(bend, slope[..., None])[..., 0]
        size = (abs(step @ apart.T) * met[rows]).max(axis=1)
        theta[rows] += step * (np.log1p(size) / np.maximum(size, 1e-300))[:, None]
        there = size < 1e-9  # each step squares it from here
        found[rows[there]] = theta[rows[there]]
        rows = rows[~there & ((abs(theta[rows] @ apart.T) * met[rows]).max(axis=1) < FARTHEST)]
    r: Array = (found @ basis.T).reshape(wins.shape[:-1])
    centered: Array = r - r.mean(axis=-1, keepdims=True)
    return centered


def lost(ref: Array, reward: Array, fitted: Array, beta: float, price: float | None = None) -> Array:
    """J* - J of π_ref e^{r̂/β}/Z, fitted r̂ (..., K), at a price of a nat that is β unless told: NaN where r̂ is"""
    price = beta if price is None else price
    there = np.isfinite(fitted[..., :1])
    pi = optimum.boltzmann(ref, np.where(there, fitted, 0), beta)
    gap: Array = price * optimum.kl(pi, optimum.boltzmann(ref, reward, price))
    return np.where(there[..., 0], gap, np.nan)


def average(x: Array) -> Array:
    """Over the first axis, of what is not NaN; NaN where all is"""
    there = np.isfinite(x)
    found: Array = np.where(there, x, 0).sum(axis=0) / np.where(there.any(axis=0), there.sum(axis=0), np.nan)
    return found


def has_fit(wins: ArrayLike) -> NDArray[np.bool_]:
    """Whether every group of responses S loses to the others: min_S Σ_{i in S, j not in S} wins[j, i] > 0, shape (...)

    wins (..., K, K), entries below 0 too, K at most 12: all groups are tried. Then, and only then, there is a `fit`:
    along r = 1 on S, 0 elsewhere, the loss falls without end where the sum is below 0, or to its infimum where it is 0,
    and every direction is a sum of such. Of counts it says that the wins are strongly connected (Ford 1957).

    >>> has_fit([[[0.0, 3.0], [1.0, 0.0]], [[0.0, 3.0], [-0.1, 0.0]]])
    array([ True, False])
    """
    wins = np.asarray(wins, float)
    K = wins.shape[-1]
    if K > 12:
        raise ValueError(f"wins has {K} responses; expected at most 12, as all groups of them are tried")
    inside = (np.arange(1, 2**K - 1)[:, None] >> np.arange(K) & 1).astype(float)
    groups = (inside[:, :, None] * (1 - inside)[:, None, :]).reshape(-1, K * K)  # [S, (i, j)]: i in S, j not
    least = (wins.mT.reshape(*wins.shape[:-2], K * K) @ groups.T).min(axis=-1)
    found: NDArray[np.bool_] = least > 8 * K * K * np.finfo(float).eps * abs(wins).sum(axis=(-2, -1))
    return found
