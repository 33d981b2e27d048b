"""What selecting among samples makes of a reference: best-of-n, rejection sampling, and GRPO where rewards are 0 or 1.

Responses lie on the last axis, (..., K); leading axes (prompts, replicates) broadcast. KL is in nats.

Every function raises `ValueError` where a policy has an entry below 0 or a row that does not sum to 1, a probability is
not from 0 to 1, a reward is not finite, n is not one whole number above 0, β or ε is not one finite number above 0, or
shapes do not fit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._checks import Array, distribution, finite, leading, positive, probability, same_responses, whole
from .optimum import boltzmann

__all__ = [
    "Bounds", "acceptance_rate", "best_of_n", "best_of_n_bounds", "grpo_limit", "grpo_step", "no_signal",
    "rejection_sampling", "success_rate", "win_rate",
]


def best_of_n(ref: ArrayLike, reward: ArrayLike, n: int) -> Array:
    """π(y) = π_ref(y) (F^n - F₋^n)/(F - F₋),   F = π_ref(r <= r(y)),   F₋ = π_ref(r < r(y)), shape (..., K)

    ref, reward (..., K). The law of the best of n independent draws, the first of them among equals: responses of equal
    reward keep the proportions they have in the reference. Its KL is `optimum.kl(best_of_n(ref, reward, n), ref)`.
    Beirami et al. 2024, arXiv:2401.01879, for distinct rewards.

    >>> best_of_n([0.5, 0.25, 0.25], [0.0, 1.0, 1.0], n=2)
    array([0.25 , 0.375, 0.375])
    """
    ref, reward = _given(ref, reward)
    mass, below, above, level = _levels(ref, reward)
    F, n = below + mass, whole("n", n)
    with np.errstate(divide="ignore", invalid="ignore"):
        won = _power(F, above, n) * -np.expm1(n * np.log1p(-np.minimum(mass / F, 1)))  # F₋/F = 1 - mass/F
        gain = np.where(mass > 0, won / mass, 0)
    pi: Array = ref * np.take_along_axis(gain, level, axis=-1)
    return pi


class Bounds(NamedTuple):
    """What `best_of_n` has where rewards are continuous, and never exceeds."""

    kl: float
    win_rate: float


def best_of_n_bounds(n: int) -> Bounds:
    """KL <= log n - (n-1)/n nats,   win rate against the reference <= n/(n+1), whatever the reference and the rewards

    Equality holds for n = 1 alone: finitely many responses lump a continuum of rewards together, which lowers both, the
    less the smaller n times the largest mass is. Beirami et al. 2024, arXiv:2401.01879.

    >>> best_of_n_bounds(4)
    Bounds(kl=0.6362943611198906, win_rate=0.8)
    """
    n = whole("n", n)
    return Bounds(float(np.log(n)) - (n - 1) / n, n / (n + 1))


def win_rate(pi: ArrayLike, ref: ArrayLike, reward: ArrayLike) -> Array:
    """P(r(y) > r(y')) + ½ P(r(y) = r(y')),   y from π, y' from the reference, shape (...)

    pi, ref, reward (..., K).

    >>> win_rate([0.25, 0.75], [0.5, 0.5], [0.0, 1.0])
    np.float64(0.625)
    """
    pi = distribution("pi", pi)
    ref, reward = _given(ref, reward)
    same_responses(pi=pi, ref=ref, reward=reward)
    mass, below, _, level = _levels(ref, reward)
    rate: Array = (pi * np.take_along_axis(below + mass / 2, level, axis=-1)).sum(axis=-1)
    return rate


def acceptance_rate(ref: ArrayLike, reward: ArrayLike, beta: float) -> Array:
    """Z e^(-max r/β) = E_ref e^((r - max r)/β), shape (...): how often a draw from the reference is kept as one of π*

    ref, reward (..., K); the largest reward is that of what the reference can draw. Kept with probability e^((r - max
    r)/β), draws have law π*, `optimum.boltzmann`, and n of them hold one with probability 1 - (1 - rate)^n. Liu et al.
    2023, arXiv:2309.06657.

    >>> acceptance_rate([0.5, 0.5], [1000.0, 0.0], beta=1.0)
    np.float64(0.5)
    """
    ref, reward = _given(ref, reward)
    top = np.where(ref > 0, reward, -np.inf).max(axis=-1, keepdims=True)
    with np.errstate(over="ignore"):
        rate: Array = (ref * np.exp(np.minimum(reward - top, 0) / positive("beta", beta))).sum(axis=-1)
    return rate


def rejection_sampling(ref: ArrayLike, reward: ArrayLike, beta: float, n: int) -> Array:
    """π(y) = π_ref(y) Σᵢ aᵢ(y) (G(Fᵢ, Aᵢ) - G(Fᵢ₋, Aᵢ₋)),   G(F, A) = (F^n - (F - A)^n)/A, shape (..., K)

    ref, reward (..., K); K² numbers a prompt. The law of the first kept of n draws from the reference, gone through in
    order, each kept with probability aᵢ(y) = e^((r(y) - rᵢ)/β), where i is the best *of the n*, which is kept for
    certain. Fᵢ and Aᵢ are the sums of π_ref and of π_ref aᵢ over responses up to i, by reward; those with ₋ leave i
    out, and y = i has no second term. It is the reference at n = 1 and for large β, π* for large n, the best of n for
    small β; and the first sample of algorithm 1 in Liu et al. 2023, arXiv:2309.06657, if equal candidates stay.

    >>> rejection_sampling([0.5, 0.5], [np.log(2.0), 0.0], beta=1.0, n=2)
    array([0.625, 0.375])
    """
    ref, reward = _given(ref, reward)
    beta, n = positive("beta", beta), whole("n", n)
    order = np.argsort(reward, axis=-1)
    p, r = np.take_along_axis(ref, order, axis=-1), np.take_along_axis(reward, order, axis=-1)
    with np.errstate(over="ignore"):
        a = np.tril(np.exp(np.minimum(r[..., None, :] - r[..., :, None], 0) / beta), -1)  # [i, y], y before i

    def G(F: Array, above: Array, A: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            kept = _power(F, above, n) * -np.expm1(n * np.log1p(-np.minimum(A / F, 1)))
            return np.where(A > 0, kept / A, 0)

    below, above = _beside(p)
    A = (a @ p[..., None])[..., 0]
    largest = G(below + p, above, A + p)
    gain = largest + ((largest - G(below, above + p, A))[..., None, :] @ a)[..., 0, :]
    pi = np.empty(p.shape)
    np.put_along_axis(pi, order, p * gain, axis=-1)
    return pi


# ---- rewards 0 and 1

def success_rate(p0: ArrayLike, beta: float) -> Array:
    """p = p₀ e^(1/β)/(p₀ e^(1/β) + 1 - p₀), shape of p0: P(r = 1) under π* where it is p₀ under the reference

    What RLHF with the reward r reaches, and DPO on labels that are Bradley-Terry of it: a right response beats a wrong
    one with probability σ(1).

    >>> success_rate([0.0, 0.5, 1.0], beta=1.0).round(8)
    array([0.        , 0.73105858, 1.        ])
    """
    return _tilted(probability("p0", p0), np.ones(np.shape(p0)), beta)


def grpo_step(p: ArrayLike, p0: ArrayLike, beta: float, eps: float = 1e-5) -> Array:
    """p⁺ = 1/(1 + (1-p₀)/p₀ e^(-1/(βs))),   s = √(p(1-p) + ε): success after GRPO's inner problem is solved exactly

    p, the success rate of the policy that samples, and p0, that of the reference, broadcast. Advantages are whitened,
    (r - p)/s, nothing is clipped, and β is the coefficient of KL to the reference: plain KL-RL, `success_rate`, at βs.
    Mroueh 2025, arXiv:2503.06639.

    >>> grpo_step(0.2, 0.2, beta=3.0).round(8)
    np.float64(0.36517166)
    """
    p, p0 = probability("p", p), probability("p0", p0)
    leading(p=p, p0=p0)
    return _tilted(p0, 1 / np.sqrt(p * (1 - p) + positive("eps", eps)), beta)


def grpo_limit(start: ArrayLike, p0: ArrayLike, beta: float, eps: float = 1e-5, steps: int = 10_000) -> Array:
    """Where p ← `grpo_step(p, p0, beta, eps)` from p = start comes to rest, p⁺ = p up to rounding

    start and p0 broadcast. It depends on the start: of fixed points, all above p₀, there are one or three. Where ε is
    small one is at p = 1, almost: there whitening magnifies what is left to gain, and holds what comes close. Where p₀
    is small the lowest may repel, and p swing between two values for ever: p₀ = 0.002, β = 3.

    Raises `ArithmeticError` where `steps` steps do not come to rest.

    >>> grpo_limit([0.2, 0.99, 1 - 1e-6], p0=0.2, beta=3.0).round(6)
    array([0.336114, 0.336114, 1.      ])
    """
    p, p0 = probability("start", start), probability("p0", p0)
    leading(start=p, p0=p0)
    for _ in range(whole("steps", steps)):
        previous, p = p, grpo_step(p, p0, beta, eps)
        if (abs(p - previous) <= 64 * np.finfo(float).eps * p).all():
            return p
    moved = abs(p - previous).max()
    raise ArithmeticError(f"grpo_limit has not come to rest in {steps} steps: the last moved p by {moved:.3g}")


def no_signal(p: ArrayLike, group: int) -> Array:
    """p^G + (1-p)^G, shape of p: how often all G rewards of a group are equal, so that no advantage and no pair is left

    >>> no_signal([0.01, 0.1, 0.5], group=8).round(6)
    array([0.922745, 0.430467, 0.007812])
    """
    p, G = probability("p", p), whole("group", group)
    with np.errstate(divide="ignore"):
        equal: Array = p**G + np.exp(G * np.log1p(-p))
    return equal


# ---- pieces

def _given(ref: ArrayLike, reward: ArrayLike) -> tuple[Array, Array]:
    ref, reward = distribution("ref", ref), finite("reward", reward)
    same_responses(ref=ref, reward=reward)
    ref, reward = np.broadcast_arrays(ref, reward)
    return ref, reward


def _levels(ref: Array, reward: Array) -> tuple[Array, Array, Array, NDArray[np.intp]]:
    """The mass of each distinct reward, in order and 0 where there are fewer than K; the mass below and above each; and
    which of them each response has. All (..., K).
    """
    order = np.argsort(reward, axis=-1)
    ranked = np.take_along_axis(reward, order, axis=-1)
    steps = np.zeros(order.shape, np.intp)
    steps[..., 1:] = ranked[..., 1:] > ranked[..., :-1]
    level: NDArray[np.intp] = np.empty(order.shape, np.intp)
    np.put_along_axis(level, order, np.cumsum(steps, axis=-1), axis=-1)
    mass = np.zeros(ref.shape)
    np.add.at(mass, (*np.indices(ref.shape, sparse=True)[:-1], level), ref)
    below, above = _beside(mass)
    return mass, below, above, level


def _beside(mass: Array) -> tuple[Array, Array]:
    """The sums of what is before and of what is after each, neither by a difference"""
    before = np.zeros(mass.shape)
    after = np.zeros(mass.shape)
    before[..., 1:] = np.cumsum(mass[..., :-1], axis=-1)
    after[..., :-1] = np.cumsum(mass[..., :0:-1], axis=-1)[..., ::-1]
    return before, after


def _power(F: Array, above: Array, n: int) -> Array:
    """F^n, from 1 - F where that is smaller"""
    return np.where(above < 0.5, np.exp(n * np.log1p(-np.minimum(above, 0.5))), F**n)


def _tilted(p0: Array, reward: Array, beta: float) -> Array:
    """P(r > 0) under the Boltzmann policy of a reward that is 0 with probability 1 - p0 and `reward` with p0"""
    both = np.broadcast_arrays(p0, reward)
    ref = np.stack([1 - both[0], both[0]], axis=-1)
    return boltzmann(ref, np.stack([np.zeros(both[1].shape), both[1]], axis=-1), beta)[..., 1]
