"""Rewards and policies: the optimum over all strings, where there is one, and the landscape around it.

`ngram` offers these functions, and says what tables, `following` and `start` are.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import softmax

from ._chains import Steps, advantages, divergence, model, rewards, steps, visit_counts, visited
from ._checks import Array, finite, nonnegative, positive
from ._weights import log_radius, log_sums, log_weights, settled, steepest

__all__ = [
    "Values", "critical_beta", "fisher", "fisher_product", "log_partition", "natural_gradient", "optimal_values",
    "optimum", "policy_gradient", "policy_values", "spectral_radius", "value",
]


# ---- the optimum

class Values(NamedTuple):
    """V(s) is what a string gains from context s on, (S,); Q(s, v) = ρ(s, v) + V(s') if outcome v is next, (S, V)."""

    V: Array
    Q: Array


def optimal_values(
    ref: ArrayLike, reward: ArrayLike, beta: float, *, following: ArrayLike | None = None, start: int = 0
) -> Values:
    """V*(s) = β log Σ_v ref(v|s) e^{Q*(s, v)/β},   Q*(s, v) = ρ(s, v) + V*(s'),   V* = 0 after the end

    In units of reward. β log π*(v|s)/ref(v|s) = Q*(s, v) - V*(s): the optimum's log-ratio of a token is its advantage.
    J* = V*(start), to which small β are no obstacle.

    Rafailov et al. 2024, arXiv:2404.12358. Raises `ValueError` where Z diverges: see `critical_beta`.

    >>> V, Q = optimal_values([[0.5, 0.5], [0.5, 0.5]], [[0.0, -1.0], [0.0, -1.0]], beta=1.0)
    >>> V.round(6).tolist(), Q[0].round(6).tolist()
    ([-0.48988, -0.48988], [0.0, -1.48988])
    """
    chain, _, V = _optimal(ref, reward, beta, following, start)
    return Values(V, chain.differences(rewards("reward", reward, chain), V) + V[:, None])


def optimum(
    ref: ArrayLike, reward: ArrayLike, beta: float, *, following: ArrayLike | None = None, start: int = 0
) -> tuple[Array, float]:
    """π*(y) = ref(y) e^{r(y)/β} / Z over all strings: (its table, log Z)

    π*(v|s) = ref(v|s) e^{(Q*(s, v) - V*(s))/β}: again an n-gram of the same order (soft Bellman equation; Doob's
    h-transform). log Z = V*(start)/β, in nats.

    Rafailov et al. 2024, arXiv:2404.12358. Raises `ValueError` where Z diverges: see `critical_beta`.

    >>> table, log_z = optimum([[0.5, 0.5], [0.5, 0.5]], [[0.0, -1.0], [0.0, -1.0]], beta=1.0)
    >>> table.round(6).tolist(), round(log_z, 6)
    ([[0.81606, 0.18394], [0.81606, 0.18394]], -0.48988)
    """
    chain, G, V = _optimal(ref, reward, beta, following, start)
    return softmax(chain.differences(G, V) / beta, axis=1), float(V[chain.start] / beta)


def log_partition(
    ref: ArrayLike, reward: ArrayLike, beta: float, *, following: ArrayLike | None = None, start: int = 0
) -> float:
    """log Z = log Σ_y ref(y) e^{r(y)/β}, in nats

    Raises `ValueError` where Z diverges: see `critical_beta`.

    >>> round(log_partition([[0.5, 0.5], [0.5, 0.5]], [[0.0, -1.0], [0.0, -1.0]], beta=1.0), 6)
    -0.48988
    """
    chain, _, V = _optimal(ref, reward, beta, following, start)
    return float(V[chain.start] / beta)


def critical_beta(
    ref: ArrayLike, reward: ArrayLike, *, following: ArrayLike | None = None, start: int = 0
) -> float:
    """β_c, where the spectral radius of ref e^{ρ/β} is 1: Z is finite, and an optimum exists, for β > β_c alone

    λ/(-log radius of ref) for a reward of λ a token, which may be given as a number. In general at most m/(-log radius
    of ref), m the largest mean reward a token of any cycle of contexts; 0 if no cycle gains, m <= 0: then every β has
    an optimum. As β falls to β_c, E|y| of the optimum grows without end. Never inf: strings of ref end.

    >>> round(critical_beta([[0.5, 0.5], [0.5, 0.5]], 1.0), 6)  # 1/log 2
    1.442695
    """
    chain = steps("ref", ref, following, start)
    log_ref, _ = settled(log_weights(model("ref", ref, chain)), chain)
    free = log_radius(log_ref, 1.0, chain)
    if not free < 0:
        raise ArithmeticError("the spectral radius of ref is 1 but for rounding: its strings hardly ever end")
    if np.ndim(reward) == 0:
        return max(float(finite("reward", reward)), 0.0) / -free
    reward = rewards("reward", reward, chain)
    gains = np.where(log_ref > -np.inf, reward, -np.inf)
    rounding = 1e-13 * abs(gains[:, 1:]).max(where=gains[:, 1:] > -np.inf, initial=0)
    _, m = steepest(gains, rounding, chain)
    if m <= rounding:
        return 0.0

    @cache
    def log_r(t: float) -> float:  # convex in t = 1/β, and at most what it is at 0, plus m t
        return log_radius(log_ref + t * reward, 1.0, chain)

    low = high = -free / m
    while log_r(high) < -1e-14:
        low, high = high, 2 * high
    return 1 / float(high if log_r(high) <= 1e-14 else brentq(log_r, low, high, xtol=1e-300))


def spectral_radius(table: ArrayLike, *, following: ArrayLike | None = None, start: int = 0) -> float:
    """ρ(T): a factor each token multiplies by the sum over longer strings; 0 where there is a longest string

    table (S, V) holds any weights, at least 0: of p, P(|y| = n) falls as ρⁿ; the sum of ref e^{ρ/β} is finite where its
    radius is below 1. Of the contexts that strings visit.

    >>> round(spectral_radius([[0.2, 0.8], [0.5, 0.5]]), 12)
    0.5
    """
    chain = steps("table", table, following, start)
    return float(np.exp(log_radius(settled(log_weights(nonnegative("table", table)), chain)[0], 1.0, chain)))


# ---- any policy

def policy_values(
    p: ArrayLike, ref: ArrayLike, reward: ArrayLike, beta: float, *, following: ArrayLike | None = None, start: int = 0
) -> Values:
    """V(s) = Σ_v p(v|s) (Q(s, v) - β log p(v|s)/ref(v|s)),   Q(s, v) = ρ(s, v) + V(s'),   V = 0 after the end

    In units of reward; J(p) = V(start). `optimal_values` for p = π*.

    >>> half, flat = [[0.5, 0.5], [0.5, 0.5]], [[0.0, -1.0], [0.0, -1.0]]
    >>> policy_values(half, half, flat, beta=1.0).V
    array([-1., -1.])
    """
    chain, p, gain = _regularized(p, ref, reward, beta, following, start)
    _, V, _ = advantages(p, gain, chain)
    return Values(V, chain.differences(rewards("reward", reward, chain), V) + V[:, None])


def value(
    p: ArrayLike, ref: ArrayLike, reward: ArrayLike, beta: float, *, following: ArrayLike | None = None, start: int = 0
) -> float:
    """J(p) = E_p r(y) - β KL(p || ref) = Σₛ N(s) (Σ_v p(v|s) ρ(s, v) - β KL(p(·|s) || ref(·|s))), in units of reward

    -inf where ref cannot follow p. For every p, J(p) = β log Z - β KL(p || π*).

    >>> table, log_z = optimum([[0.5, 0.5], [0.5, 0.5]], [[0.0, -1.0], [0.0, -1.0]], beta=2.0)
    >>> J = value(table, [[0.5, 0.5], [0.5, 0.5]], [[0.0, -1.0], [0.0, -1.0]], beta=2.0)
    >>> abs(J - 2.0 * log_z) < 1e-12
    True
    """
    chain = steps("p", p, following, start)
    p, ref, reward = model("p", p, chain), model("ref", ref, chain), rewards("reward", reward, chain)
    beta, N = positive("beta", beta), visit_counts(p, chain)
    return float(N @ (p * reward).sum(axis=1)) - beta * divergence(N, p, ref)


def policy_gradient(
    p: ArrayLike, ref: ArrayLike, reward: ArrayLike, beta: float, *, following: ArrayLike | None = None, start: int = 0
) -> Array:
    """∂J/∂W(s, v) = N(s) p(v|s) D(s, v),   D = Q(s, v) - β log p(v|s)/ref(v|s) - V(s), p = softmax(W), (S, V)

    D is the advantage, of mean 0 in each context; Q and V are those of `policy_values`. Sutton et al. 2000, with the
    whole distribution of strings in place of a sample.

    >>> half, flat = [[0.5, 0.5], [0.5, 0.5]], [[0.0, -1.0], [0.0, -1.0]]
    >>> policy_gradient(half, half, flat, beta=1.0)
    array([[ 0.5, -0.5],
           [ 0.5, -0.5]])
    """
    chain, p, gain = _regularized(p, ref, reward, beta, following, start)
    _, _, D = advantages(p, gain, chain)
    return visit_counts(p, chain)[:, None] * p * D


def natural_gradient(
    p: ArrayLike, ref: ArrayLike, reward: ArrayLike, beta: float, *, following: ArrayLike | None = None, start: int = 0
) -> Array:
    """F⁺ ∂J/∂W = D(s, v) - mean_v D(s, v), (S, V), F = `fisher(p)`: the advantage, centered over outcomes, visits gone

    0 where F is: for outcomes of probability 0, and in contexts that no string visits. A step of 1/β along it
    leads to ref e^{Q/β}/Σ, soft policy iteration, of which π* is the fixed point. Kakade 2001.

    >>> half, flat = [[0.5, 0.5], [0.5, 0.5]], [[0.0, -1.0], [0.0, -1.0]]
    >>> natural_gradient(half, half, flat, beta=1.0)
    array([[ 1., -1.],
           [ 1., -1.]])
    """
    chain, p, gain = _regularized(p, ref, reward, beta, following, start)
    _, _, D = advantages(p, gain, chain)
    moves = (p > 0) & (visit_counts(p, chain) > 0)[:, None]
    D = np.where(moves, D, 0.0)
    return np.where(moves, D - D.sum(axis=1, keepdims=True) / np.maximum(moves.sum(axis=1, keepdims=True), 1), 0.0)


def fisher(p: ArrayLike, *, following: ArrayLike | None = None, start: int = 0) -> Array:
    """F = E_y ∂log p(y)/∂W ∂log p(y)/∂Wᵀ, in blocks N(s) (diag p(·|s) - p(·|s) p(·|s)ᵀ), (S, V, V); 0 between contexts

    The scores of tokens are uncorrelated, so that no two contexts share an entry.

    >>> fisher([[0.5, 0.5], [0.5, 0.5]])[1]
    array([[ 0.25, -0.25],
           [-0.25,  0.25]])
    """
    chain = steps("p", p, following, start)
    p = model("p", p, chain)
    spread = p[:, :, None] * (np.eye(p.shape[1]) - p[:, None, :])
    return visit_counts(p, chain)[:, None, None] * spread


def fisher_product(p: ArrayLike, x: ArrayLike, *, following: ArrayLike | None = None, start: int = 0) -> Array:
    """F x = N(s) p(v|s) (x(s, v) - Σ_u p(u|s) x(s, u)), (S, V), without the blocks of `fisher`

    >>> fisher_product([[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.0, 0.0]])
    array([[ 0.25, -0.25],
           [ 0.  ,  0.  ]])
    """
    chain = steps("p", p, following, start)
    p, x = model("p", p, chain), rewards("x", x, chain)
    centered: Array = x - (p * x).sum(axis=1, keepdims=True)
    return visit_counts(p, chain)[:, None] * p * centered


# ---- shared

def _optimal(
    ref: ArrayLike, reward: ArrayLike, beta: float, following: ArrayLike | None, start: int
) -> tuple[Steps, Array, Array]:
    """The chain, β log ref + ρ, and V*"""
    chain = steps("ref", ref, following, start)
    visited_ref, reward, beta = model("ref", ref, chain), rewards("reward", reward, chain), positive("beta", beta)
    every = beta * log_weights(np.asarray(ref, float)) + reward
    G, _ = settled(np.where(visited_ref > 0, every, -np.inf), chain)
    largest = abs(G).max(where=G > -np.inf, initial=0)
    if not beta > 1e-12 * largest:
        raise ValueError(f"beta is {beta}, rewards are up to {largest:.3g}; expected above 1e-12 of these")
    V = log_sums(G, beta, chain)
    if V[chain.start] == np.inf:
        radius = log_radius(G, beta, chain)
        said = f"{np.exp(radius):.10g}" if radius < 700 else f"e^{radius:.6g}"
        raise ValueError(
            f"Z at beta = {beta} has a divergent sum, no optimum exists: the spectral radius of its transitions is "
            f"{said}; expected below 1"
        )
    return chain, every, V


def _regularized(
    p: ArrayLike, ref: ArrayLike, reward: ArrayLike, beta: float, following: ArrayLike | None, start: int
) -> tuple[Steps, Array, Array]:
    """The chain, p, and ρ - β log p/ref where p is above 0"""
    chain = steps("p", p, following, start)
    p, ref, reward = model("p", p, chain), model("ref", ref, chain), rewards("reward", reward, chain)
    alien = (p > 0) & (ref == 0)
    if alien.any():
        alien &= visited(p > 0, chain)[0][:, None]
        if alien.any():
            s, v = np.argwhere(alien)[0]
            raise ValueError(f"p is {p[s, v]} at [{s}, {v}], where ref is 0; expected no mass where ref has none")
    both = (p > 0) & (ref > 0)
    log_ratio = np.log(p, out=np.zeros(p.shape), where=both) - np.log(ref, out=np.zeros(p.shape), where=both)
    return chain, p, reward - positive("beta", beta) * log_ratio
