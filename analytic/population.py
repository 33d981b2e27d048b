"""DPO on the exact population, for a table: log-ratios u of K responses, and how often each beat each.

wins (..., K, K): entry [i, j] is the weight of comparisons in which i was preferred to j; a symmetric pair weight W and
a preference probability P give wins = W P. With u = log π - log π_ref the loss sees differences of u only, and those
are differences of logits, so gradient and Hessian in u are those in the logits of a softmax over whole responses.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_expit

from ._checks import Array, distribution, finite, positive

__all__ = [
    "Rate",
    "bradley_terry_wins",
    "entropy",
    "gradient",
    "hessian",
    "linear_rate",
    "newton",
    "objective",
    "policy",
]


def bradley_terry_wins(reward: ArrayLike, weight: ArrayLike | None = None) -> Array:
    """wins[i, j] = W[i, j] σ(rᵢ - rⱼ), summing to 1: an annotator of rewards r (..., K) who meets the pair i, j with
    weight W[i, j]

    W (..., K, K) is symmetric and non-negative, uniform over distinct pairs by default; its diagonal is ignored.
    Bradley & Terry 1952.

    >>> bradley_terry_wins([np.log(3.0), 0.0])
    array([[0.  , 0.75],
           [0.25, 0.  ]])
    """
    reward = finite("reward", reward)
    K = reward.shape[-1]
    W = np.ones((K, K)) if weight is None else finite("weight", weight)
    if W.shape[-2:] != (K, K) or (W < 0).any() or (W != W.mT).any():
        raise ValueError(f"weight has shape {W.shape}; expected (..., {K}, {K}), symmetric and non-negative")
    wins = W * ~np.eye(K, dtype=bool) * expit(reward[..., :, None] - reward[..., None, :])
    total = wins.sum(axis=(-2, -1), keepdims=True)
    if not (total > 0).all():
        raise ValueError("weight leaves no pair of two responses; expected at least one above 0")
    return wins / total  # type: ignore[no-any-return]


def objective(u: ArrayLike, wins: ArrayLike, beta: float) -> Array:
    """L(u) = -Σᵢⱼ wins[i, j] log σ(β (uᵢ - uⱼ)), shape (...)

    Rafailov et al. 2023, arXiv:2305.18290, eq. 7, with its expectation taken exactly.

    >>> float(objective([0.0, 0.0], [[0.0, 0.75], [0.25, 0.0]], beta=0.1))
    0.69314718...
    """
    u, wins = _given(u, wins)
    # a pair that is never met costs nothing, wherever its margin has gone
    return -np.where(wins > 0, wins * log_expit(positive("beta", beta) * _margins(u)), 0).sum(axis=(-2, -1))  # type: ignore[no-any-return]


def gradient(u: ArrayLike, wins: ArrayLike, beta: float) -> Array:
    """∂L/∂uᵢ = β Σⱼ (wins[j, i] σ(β (uᵢ - uⱼ)) - wins[i, j] σ(β (uⱼ - uᵢ))), shape (..., K); sums to 0

    >>> gradient([0.0, 0.0], [[0.0, 0.75], [0.25, 0.0]], beta=1.0)
    array([-0.25,  0.25])
    """
    u, wins = _given(u, wins)
    pull = wins * expit(-positive("beta", beta) * _margins(u))
    return beta * (pull.sum(axis=-2) - pull.sum(axis=-1))  # type: ignore[no-any-return]


def hessian(u: ArrayLike, wins: ArrayLike, beta: float) -> Array:
    """H = β² × the Laplacian of the graph with edge weights Wᵢⱼ σ(m) σ(-m), W = wins + winsᵀ, m = β (uᵢ - uⱼ); shape
    (..., K, K)

    Positive semidefinite: convex in the logits of whole responses. Its null vectors are constants, one for each
    connected component of the comparisons.

    >>> hessian([0.0, 0.0], [[0.0, 0.75], [0.25, 0.0]], beta=1.0)
    array([[ 0.25, -0.25],
           [-0.25,  0.25]])
    """
    u, wins = _given(u, wins)
    m = positive("beta", beta) * _margins(u)
    edges = (wins + wins.mT) * expit(m) * expit(-m)
    edges = edges * ~np.eye(u.shape[-1], dtype=bool)
    return beta**2 * (edges.sum(axis=-1)[..., None] * np.eye(u.shape[-1]) - edges)  # type: ignore[no-any-return]


def newton(wins: ArrayLike, beta: float, steps: int = 100) -> Array:
    """The minimizer of `objective`, (K,), with mean 0; Newton's method with halving, from u = 0

    Bradley-Terry labels of reward r give u = r/β up to a constant, so that π_ref eᵘ/Z is π*; other labels give the best
    fit.

    Raises `ValueError` where the minimum is not attained (Ford 1957): some responses never lose to the others, and the
    loss falls as those rise without end; the sentence names them.

    >>> newton(bradley_terry_wins([1.0, 0.0, -1.0]), beta=0.5).round(12)
    array([ 2.,  0., -2.])
    """
    wins = np.asarray(wins, float)
    u, wins = _given(np.zeros(wins.shape[-1]), wins)
    if wins.ndim != 2:
        raise ValueError(f"wins has shape {wins.shape}; expected (K, K), one problem at a time")
    beat = (wins > 0) & ~np.eye(len(wins), dtype=bool)
    parts, label = connected_components(beat, connection="strong")
    if parts > 1:
        lost = [bool(beat[np.ix_(label != part, label == part)].any()) for part in range(parts)]
        who = np.flatnonzero(label == lost.index(False)).tolist()
        raise ValueError(
            f"wins has no minimizer: responses {who} never lose to the others; expected each to be beaten, "
            "directly or through others"
        )
    K, now = len(u), objective(u, wins, beta)
    for _ in range(steps):
        step = -np.linalg.solve(hessian(u, wins, beta) + beta**2 * wins.sum() / K**2, gradient(u, wins, beta))
        slope = float(step @ gradient(u, wins, beta))
        size = 1.0
        while size > 1e-8 and objective(u + size * step, wins, beta) > now + 1e-4 * size * slope:
            size /= 2
        # at the bottom the value rounds, and the gradient still points
        moved = u + size * step if size > 1e-8 else u + step
        moved -= moved.mean()
        settled = abs(moved - u).max() <= 4 * np.finfo(float).eps * max(1, abs(u).max())
        u, now = moved, objective(moved, wins, beta)
        if settled:
            break
    return u


def policy(u: ArrayLike, ref: ArrayLike) -> Array:
    """π(y) = π_ref(y) e^{u(y)} / Σ: the policy with log-ratios u up to a constant, shape (..., K)

    >>> policy([np.log(3.0), 0.0], [0.5, 0.5])
    array([0.75, 0.25])
    """
    u, ref = finite("u", u), distribution("ref", ref)
    tilted = ref * np.exp(u - u.max(axis=-1, keepdims=True))
    return tilted / tilted.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]


def entropy(wins: ArrayLike) -> Array:
    """H(label | pair) = -Σ wins[i, j] log P[i, j], P = wins / (wins + winsᵀ): no policy's loss is below it

    Bradley-Terry labels attain it at π*; others stay above. Shape (...).

    >>> float(entropy([[0.0, 0.5], [0.5, 0.0]]))
    0.69314718...
    """
    wins = finite("wins", wins)
    met = wins + wins.mT
    share = np.divide(wins, met, out=np.ones_like(wins), where=wins > 0)
    return -(wins * np.log(share)).sum(axis=(-2, -1))  # type: ignore[no-any-return]


class Rate(NamedTuple):
    """Of plain gradient descent near a minimum: `best_step` multiplies the error by `factor` a step; from `limit` on it
    diverges.
    """

    factor: float
    best_step: float
    limit: float
    slowest: float
    fastest: float

    def at(self, step: float) -> float:
        """The factor of the slowest direction at another step size: max |1 - step λ|"""
        return max(abs(1 - step * self.slowest), abs(1 - step * self.fastest))


def linear_rate(hessian: ArrayLike) -> Rate:
    """factor = (λ_max - λ_min)/(λ_max + λ_min), best step 2/(λ_min + λ_max), limit 2/λ_max; λ_min the least eigenvalue
    above 0

    For a connected comparison graph λ_min is the Fiedler value λ₂. Eigenvalues below 1e-12 λ_max count as 0: the
    directions that no comparison sees, which descent leaves alone.

    >>> linear_rate([[0.25, -0.25], [-0.25, 0.25]])
    Rate(factor=0.0, best_step=2.0, limit=4.0, slowest=0.5, fastest=0.5)
    """
    values = np.linalg.eigvalsh(finite("hessian", hessian))
    top = float(values.max())
    if not top > 0:
        raise ValueError(f"hessian has the largest eigenvalue {top}; expected one above 0")
    low = float(values[values > 1e-12 * top].min())
    return Rate((top - low) / (top + low), 2 / (low + top), 2 / top, low, top)


def _margins(u: Array) -> Array:
    return u[..., :, None] - u[..., None, :]


def _given(u: ArrayLike, wins: ArrayLike) -> tuple[Array, Array]:
    u, wins = finite("u", u), finite("wins", wins)
    if wins.ndim < 2 or wins.shape[-1] != wins.shape[-2] or wins.shape[-1] != u.shape[-1] or u.shape[-1] < 2:
        raise ValueError(
            f"wins has shape {wins.shape} and u {u.shape}; expected (..., K, K) and (..., K) with K at least 2"
        )
    if (wins < 0).any():
        raise ValueError(f"wins holds {wins.min()}; expected weights, at least 0")
    return u, wins
