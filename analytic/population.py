"""DPO on an exact population, for a table: log-ratios u of K responses, and how often each is preferred to each.

    L(u) = Σᵢⱼ wins[i, j] (-log σ(β (uᵢ - uⱼ)))        u = log π - log π_ref

wins (..., K, K) is a weighted measure on comparisons: entry [i, j] is the weight of those in which i was preferred to
j. A symmetric pair weight W and any preference probabilities P, P + Pᵀ = 1, make it W P; a diagonal adds a constant.
Leading axes are prompts.

The loss sees differences of u alone, and in a softmax over whole responses those are differences of logits: gradient
and Hessian in u are those in the logits, and gradient descent in the logits from π_ref is gradient descent in u from
0, up to a constant. Log-ratios and losses are in nats.

Every function raises `ValueError` where an entry is not finite, a weight is below 0, β is not a finite number above 0,
or shapes do not fit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, log_expit, logsumexp, softmax, xlogy

from ._checks import Array, _reject, distribution, finite, nonnegative, positive, same_responses, square
from ._solvers import Pulls, settle
from .graph import laplacian, require_strongly_connected

__all__ = [
    "MixedPairs", "Rate", "bradley_terry_wins", "drawn_pairs", "entropy", "gradient", "hessian", "hessian_product",
    "linear_rate", "mixed_pairs", "newton", "objective", "policy",
]


def bradley_terry_wins(reward: ArrayLike, weight: ArrayLike | None = None) -> Array:
    """wins[i, j] = W[i, j] σ(rᵢ - rⱼ) off the diagonal, shape (..., K, K): labels of an annotator of rewards r

    reward (..., K); pair weight W (..., K, K), symmetric, its diagonal ignored. By default every pair of distinct
    responses weighs the same and together they weigh 1. Bradley & Terry 1952; Rafailov et al. 2023, arXiv:2305.18290,
    eq. 1.

    >>> bradley_terry_wins([np.log(3.0), 0.0])
    array([[0.  , 0.75],
           [0.25, 0.  ]])
    """
    reward = finite("reward", reward)
    if reward.ndim < 1 or reward.shape[-1] < 2:
        raise ValueError(f"reward has shape {reward.shape}; expected (..., K) with K at least 2")
    K = reward.shape[-1]
    W = np.full((K, K), 2 / (K * (K - 1))) if weight is None else nonnegative("weight", weight)
    if W.shape[-2:] != (K, K):
        raise ValueError(f"weight has shape {W.shape}; expected (..., {K}, {K}) as reward has {K} responses")
    if (W != W.mT).any():
        raise ValueError(f"weight differs from its transpose by {abs(W - W.mT).max()}; expected a symmetric one")
    return np.where(np.eye(K, dtype=bool), 0.0, W * expit(_differences(reward)))


def drawn_pairs(mu: ArrayLike) -> Array:
    """W[i, j] = 2 μᵢ μⱼ/(1 - Σ μ²) off the diagonal, shape (..., K, K): pairs of two draws from μ that differ

    mu (..., K), probabilities. The weights of the pairs sum to 1, as those of `bradley_terry_wins` do by default.

    Raises `ValueError` where μ has fewer than two responses, so that there is no pair.

    >>> drawn_pairs([0.5, 0.25, 0.25]).round(8)
    array([[0. , 0.4, 0.4],
           [0.4, 0. , 0.2],
           [0.4, 0.2, 0. ]])
    """
    mu = distribution("mu", mu)
    product = np.where(np.eye(mu.shape[-1], dtype=bool), 0.0, mu[..., :, None] * mu[..., None, :])
    total: Array = product.sum(axis=(-2, -1)) / 2
    _reject("the weight of pairs of mu", total, total == 0, "expected two responses of probability above 0 at least")
    return product / total[..., None, None]


def objective(u: ArrayLike, wins: ArrayLike, beta: float) -> Array:
    """L(u) = Σᵢⱼ wins[i, j] (-log σ(β (uᵢ - uⱼ))), shape (...)

    u (..., K), wins (..., K, K). Rafailov et al. 2023, arXiv:2305.18290, eq. 7, its expectation taken exactly.

    >>> objective([0.0, 0.0], [[0.0, 0.75], [0.25, 0.0]], beta=0.1).round(8)
    np.float64(0.69314718)
    """
    u, wins, beta = _given(u, wins, beta)
    loss: Array = -(wins * log_expit(beta * _differences(u))).sum(axis=(-2, -1))
    return loss


def gradient(u: ArrayLike, wins: ArrayLike, beta: float) -> Array:
    """∂L/∂uᵢ = β Σⱼ (wins[j, i] σ(β (uᵢ - uⱼ)) - wins[i, j] σ(β (uⱼ - uᵢ))), shape (..., K)

    With W = wins + winsᵀ and P = wins/W it is β Σⱼ Wᵢⱼ (σ(β (uᵢ - uⱼ)) - Pᵢⱼ). It sums to 0 over every connected
    component of the comparisons: plain descent leaves the mean of u over each where it was.

    >>> gradient([0.0, 0.0], [[0.0, 0.75], [0.25, 0.0]], beta=1.0)
    array([-0.25,  0.25])
    """
    u, wins, beta = _given(u, wins, beta)
    surprise = wins * expit(-beta * _differences(u))
    slope: Array = beta * (surprise.sum(axis=-2) - surprise.sum(axis=-1))
    return slope


def hessian(u: ArrayLike, wins: ArrayLike, beta: float) -> Array:
    """H = β² × the Laplacian of the graph with edges (wins + winsᵀ)[i, j] σ(m) σ(-m), m = β (uᵢ - uⱼ)

    Shape (..., K, K). Positive semidefinite, so that L is convex; its null vectors are constant over each connected
    component of the comparisons.

    >>> hessian([0.0, 0.0], [[0.0, 0.75], [0.25, 0.0]], beta=1.0)
    array([[ 0.25, -0.25],
           [-0.25,  0.25]])
    """
    return beta**2 * laplacian(_edges(u, wins, beta))


def hessian_product(u: ArrayLike, wins: ArrayLike, beta: float, direction: ArrayLike) -> Array:
    """(H v)ᵢ = β² Σⱼ (wins + winsᵀ)[i, j] σ(m) σ(-m) (vᵢ - vⱼ), shape (..., K): how the gradient changes along v

    u, direction v (..., K), wins (..., K, K). The matrix H is not formed.

    >>> hessian_product([0.0, 0.0], [[0.0, 0.75], [0.25, 0.0]], beta=1.0, direction=[2.0, 0.0])
    array([ 0.5, -0.5])
    """
    edges, v = _edges(u, wins, beta), finite("direction", direction)
    same_responses(wins=edges[..., 0], direction=v)
    change: Array = (edges * _differences(v)).sum(axis=-1)
    return beta**2 * change


def newton(wins: ArrayLike, beta: float, steps: int = 200, start: ArrayLike | None = None) -> Array:
    """argmin_u L(u), shape (..., K), of mean 0: Newton's method in βu, steps cut where L might rise

    From `start` (..., K). If there is none: where each response has beaten each other, from the means of its log-odds
    against some of these, which Bradley-Terry labels leave nothing to improve on; else from 0.

    wins (..., K, K). Bradley-Terry labels of rewards r have it at r/β, up to a constant, whichever pairs are met as
    long as these connect all responses; then `policy(u, ref)` is π*. With labels that no reward explains it moves
    with W.

    Raises `ValueError`, naming the responses, where some are never compared with the others, so that the minimizer is
    not unique, and where some never lose to the others, so that there is none: L falls as those rise without end
    (Ford 1957). Raises `ArithmeticError` where `steps` steps are not enough, or weights too different for float64.

    >>> newton(bradley_terry_wins([1.0, 0.0, -1.0]), beta=0.5).round(12)
    array([ 2.,  0., -2.])
    """
    wins, beta = square("wins", wins), positive("beta", beta)
    first = None if start is None else finite("start", start)
    if first is not None:
        same_responses(wins=wins[..., 0], start=first)
    if wins.ndim > 2:
        starts = [None] * len(wins) if first is None else np.broadcast_to(first, wins.shape[:-1])
        return np.stack([newton(prompt, beta, steps, one) for prompt, one in zip(wins, starts, strict=True)])
    if len(wins) == 1:
        return np.zeros(1)
    wins = wins.copy()
    np.fill_diagonal(wins, 0.0)
    each_beat_each = np.count_nonzero(wins) == wins.size - len(wins)
    if not each_beat_each:
        require_strongly_connected("wins", wins)
    if first is not None:
        found = settle(Pulls(wins), beta * first, steps)
    else:
        found = settle(Pulls(wins), _mean_log_odds(wins) if each_beat_each else np.zeros(len(wins)), steps)
    centered: Array = (found - found.mean()) / beta
    return centered


def _mean_log_odds(wins: Array) -> Array:
    """(K,), over up to 32 opponents: r but for a constant, where wins are those of rewards r no more than 10 apart"""
    few = np.unique(np.linspace(0, len(wins) - 1, 32).astype(int))
    won, lost = wins[:, few], wins[few].T.copy()
    won[few, np.arange(len(few))] = lost[few, np.arange(len(few))] = 1.0
    mean: Array = np.clip(np.log(won) - np.log(lost), -10, 10).mean(axis=1)
    return mean


def policy(u: ArrayLike, ref: ArrayLike) -> Array:
    """π(y) = π_ref(y) e^{u(y)} / Σ, shape (..., K): the policy whose log-ratios are u up to a constant

    u, ref (..., K).

    >>> policy([np.log(3.0), 0.0], [0.5, 0.5])
    array([0.75, 0.25])
    """
    u, ref = finite("u", u), distribution("ref", ref)
    same_responses(u=u, ref=ref)
    with np.errstate(divide="ignore"):
        pi: Array = softmax(np.log(ref) + u, axis=-1)
    return pi


def entropy(wins: ArrayLike) -> Array:
    """H(label | pair) = -Σᵢⱼ wins[i, j] log P[i, j], P = wins/(wins + winsᵀ), in nats, shape (...): no loss is below it

    wins (..., K, K). Bradley-Terry labels attain it at π*; labels that no reward explains leave every policy above.

    >>> entropy([[0.0, 0.5], [0.5, 0.0]]).round(8)
    np.float64(0.69314718)
    """
    wins = square("wins", wins)
    total: Array = (xlogy(wins, wins + wins.mT) - xlogy(wins, wins)).sum(axis=(-2, -1))
    return total


class Rate(NamedTuple):
    """What plain gradient descent does near a minimum; `slowest` and `fastest` are the extreme eigenvalues above 0."""

    factor: float  # the error of a step is this times the error before, at the best step size
    best_step: float
    limit: float  # from this step size on, descent diverges
    slowest: float
    fastest: float

    def at(self, step: float) -> float:
        """max |1 - step λ|, the factor at another step size; descent converges where it is below 1"""
        return max(abs(1 - step * self.slowest), abs(1 - step * self.fastest))

    def steps(self, share: float, step: float | None = None) -> int:
        """⌈log share/log factor⌉: steps to a `share` of the error, at the best step size or at `step`

        About log(1/share)/(step λ₂) at a small one: as λ₂ of DPO rises as β², the number of steps of one size falls as
        β⁻². Raises `ValueError` where descent does not converge.

        >>> linear_rate([[0.25, -0.25], [-0.25, 0.25]]).steps(1e-6, step=0.1)
        270
        """
        if not 0 < share < 1:
            raise ValueError(f"share is {share}; expected above 0 and below 1")
        step = self.best_step if step is None else positive("step", step)
        if step >= self.limit:
            raise ValueError(f"step is {step}; expected below {self.limit}, where descent converges")
        progress = min(step * self.slowest, 2 - step * self.fastest)  # 1 - factor
        return max(1, math.ceil(math.log(share) / math.log1p(-progress))) if progress < 1 else 1


def linear_rate(hessian: ArrayLike) -> Rate:
    """factor = (λ_max - λ₂)/(λ_max + λ₂), best step 2/(λ₂ + λ_max), limit 2/λ_max

    hessian (..., K, K), symmetric, at the minimum; leading axes are the blocks of one. λ₂ is the least eigenvalue
    above 0: for connected comparisons the Fiedler value of their graph. Directions of eigenvalue 0 (up to rounding)
    are those that no comparison sees, and descent never moves along them.

    Raises `ValueError` where the matrix is not symmetric, has an eigenvalue below 0, or none above.

    >>> linear_rate([[0.25, -0.25], [-0.25, 0.25]])
    Rate(factor=0.0, best_step=2.0, limit=4.0, slowest=0.5, fastest=0.5)
    """
    H = finite("hessian", hessian)
    if H.ndim < 2 or H.shape[-1] != H.shape[-2] or not H.size:
        raise ValueError(f"hessian has shape {H.shape}; expected (..., K, K)")
    zero = 8 * H.shape[-1] * np.finfo(float).eps * abs(H).max()
    if not (abs(H - H.mT) <= zero).all():
        raise ValueError(f"hessian differs from its transpose by {abs(H - H.mT).max()}; expected a symmetric one")
    spectrum = np.linalg.eigvalsh(H)
    low, top = float(spectrum.min()), float(spectrum.max())
    if not (low >= -zero and top > zero):
        raise ValueError(f"hessian has eigenvalues from {low:.3g} to {top:.3g}; expected none below 0, one above")
    low = float(spectrum[spectrum > zero].min())
    return Rate((top - low) / (top + low), 2 / (low + top), 2 / top, low, top)


class MixedPairs(NamedTuple):
    """How often to draw each pair, and the step that is Newton's then."""

    weight: Array  # (..., K, K), symmetric, of sum 1 over the pairs
    step: Array  # (...)


def mixed_pairs(u: ArrayLike, beta: float) -> MixedPairs:
    """W[i, j] = 1/(Z σ(m) σ(-m)) = (2 + e^m + e^-m)/Z, m = β (uᵢ - uⱼ), and the step Z/(β² K): descent becomes Newton's

    u (..., K), at least two responses. Pairs drawn so from the policy as it is make β²/Z (K I - 11ᵀ) of the Hessian at
    the minimum, so that one such step squares the error, where pairs drawn once and for all take a share of it. Part of
    them are uniform, and part a draw from softmax(βu) against one from softmax(-βu). Shi et al. 2024, arXiv:2409.19605
    (DPO-Mix-P).

    >>> weight, step = mixed_pairs([np.log(4.0), 0.0, 0.0], beta=1.0)
    >>> weight.round(4), step.round(4)  # 6.25, 6.25 and 4
    (array([[0.    , 0.3788, 0.3788],
           [0.3788, 0.    , 0.2424],
           [0.3788, 0.2424, 0.    ]]), np.float64(5.5))
    """
    u, beta = finite("u", u), positive("beta", beta)
    if u.ndim < 1 or u.shape[-1] < 2:
        raise ValueError(f"u has shape {u.shape}; expected (..., K) with K at least 2")
    m, K = beta * _differences(u), u.shape[-1]
    log_weight = np.where(np.eye(K, dtype=bool), -np.inf, -log_expit(m) - log_expit(-m))
    log_z = logsumexp(log_weight, axis=(-2, -1)) - np.log(2)
    with np.errstate(over="ignore"):
        return MixedPairs(np.exp(log_weight - log_z[..., None, None]), np.exp(log_z) / (beta**2 * K))


def _differences(x: Array) -> Array:
    return x[..., :, None] - x[..., None, :]


def _edges(u: ArrayLike, wins: ArrayLike, beta: float) -> Array:
    u, wins, beta = _given(u, wins, beta)
    m = beta * _differences(u)
    edges: Array = (wins + wins.mT) * (expit(m) * expit(-m))
    return edges


def _given(u: ArrayLike, wins: ArrayLike, beta: float) -> tuple[Array, Array, float]:
    u, wins = finite("u", u), square("wins", wins)
    if u.ndim < 1 or u.shape[-1] != wins.shape[-1]:
        K = wins.shape[-1]
        raise ValueError(f"u has shape {u.shape}; expected (..., {K}) as wins has {K} responses")
    return u, wins, positive("beta", beta)
