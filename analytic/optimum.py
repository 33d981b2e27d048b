"""The KL-constrained objective over finite response sets, and the Boltzmann policy that maximizes it.

    J(π) = E_π r - β KL(π || π_ref)        π*(y) = π_ref(y) e^{r(y)/β} / Z        J(π) = β log Z - β KL(π || π*)

Responses lie on the last axis, (..., K); leading axes (prompts, replicates) broadcast. Policies are probabilities,
log Z and KL are in nats; β is in units of reward a nat. Rafailov et al. 2023, arXiv:2305.18290, section 4 and
appendix A.1.

Every function raises `ValueError` where a policy has an entry below 0 or a row that does not sum to 1 (up to rounding
in its dtype), a reward is not finite, β is not a finite number above 0, or shapes do not fit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax, logsumexp, softmax, xlogy

from ._checks import Array, _reject, distribution, finite, positive, same_responses
from .graph import laplacian

__all__ = [
    "boltzmann", "curvature", "gradient", "implied_reward", "kl", "log_boltzmann", "log_partition", "natural_step",
    "optimal_value", "value",
]


def log_partition(ref: ArrayLike, reward: ArrayLike, beta: float) -> Array:
    """log Z = log Σ_y π_ref(y) e^{r(y)/β}, in nats, shape (...)

    ref, reward (..., K). Rafailov et al. 2023, eq. 4. inf where max r/β is beyond float64; `optimal_value` is not.

    >>> log_partition([1/3, 1/3, 1/3], [1.0, 0.0, -1.0], beta=1.0).round(8)
    np.float64(0.30899368)
    """
    logits, top = _tilt(ref, reward, beta)
    with np.errstate(over="ignore"):
        log_z: Array = top / beta + logsumexp(logits, axis=-1)
    return log_z


def log_boltzmann(ref: ArrayLike, reward: ArrayLike, beta: float) -> Array:
    """log π*(y) = log π_ref(y) + r(y)/β - log Z, shape (..., K); -inf where the reference has no mass

    >>> log_boltzmann([0.5, 0.5], [0.0, 1000.0], beta=1.0)
    array([-1000.,     0.])
    """
    log_pi: Array = log_softmax(_tilt(ref, reward, beta)[0], axis=-1)
    return log_pi


def boltzmann(ref: ArrayLike, reward: ArrayLike, beta: float) -> Array:
    """π*(y) = π_ref(y) e^{r(y)/β} / Z = argmax_π E_π r - β KL(π || π_ref), shape (..., K)

    ref, reward (..., K). A response without mass in the reference has none here, whatever its reward. Rafailov et al.
    2023, eq. 4.

    >>> boltzmann([1/3, 1/3, 1/3], [1.0, 0.0, -1.0], beta=0.5).round(8)
    array([0.86681333, 0.11731043, 0.01587624])
    """
    pi: Array = softmax(_tilt(ref, reward, beta)[0], axis=-1)
    return pi


def kl(p: ArrayLike, q: ArrayLike) -> Array:
    """KL(p || q) = Σ_y p(y) log(p(y)/q(y)), in nats, shape (...): 0 log 0 is 0; inf where p has mass and q has none

    p, q (..., K). Summed as Σ (p log(p/q) - p + q): what is added is 0 for distributions, leaves no term below 0, and
    lets the sum keep digits where p and q are close, down to 1e-20 and less.

    >>> kl([0.5, 0.5], [0.25, 0.75]).round(8)
    np.float64(0.14384104)
    """
    p, q = distribution("p", p), distribution("q", q)
    same_responses(p=p, q=q)
    near = abs(q - p) < p / 2
    change = np.divide(q - p, p, out=np.zeros(near.shape), where=near)
    terms = np.where(near, p * (change - np.log1p(change)), xlogy(p, p) - xlogy(p, q) - p + q)
    total: Array = terms.sum(axis=-1)
    return total


def value(pi: ArrayLike, ref: ArrayLike, reward: ArrayLike, beta: float) -> Array:
    """J(π) = E_π r - β KL(π || π_ref), in units of reward, shape (...)

    pi, ref, reward (..., K). -inf where π has mass and the reference has none. For every π, J(π) = β log Z - β KL(π
    || π*). Rafailov et al. 2023, eq. 3.

    >>> value([0.5, 0.5], [0.5, 0.5], [1.0, 0.0], beta=1.0)
    np.float64(0.5)
    """
    pi, reward = distribution("pi", pi), finite("reward", reward)
    same_responses(pi=pi, reward=reward)
    gained: Array = (pi * reward).sum(axis=-1)
    return gained - positive("beta", beta) * kl(pi, ref)


def optimal_value(ref: ArrayLike, reward: ArrayLike, beta: float) -> Array:
    """J* = max_π J(π) = β log Z, in units of reward, shape (...)

    ref, reward (..., K). As β falls it rises to the largest reward that the reference can reach.

    >>> optimal_value([0.5, 0.5], [1.0, 0.0], beta=1e-300)
    np.float64(1.0)
    """
    logits, top = _tilt(ref, reward, beta)
    best: Array = top + beta * logsumexp(logits, axis=-1)
    return best


def implied_reward(pi: ArrayLike, ref: ArrayLike, beta: float, log_z: ArrayLike = 0.0) -> Array:
    """r(y) = β log(π(y)/π_ref(y)) + β log Z, shape (..., K): the reward that π is optimal for

    pi, ref (..., K); log_z (...), in nats: π fixes the reward up to this constant a prompt. Rafailov et al. 2023, eq.
    5. -inf where only the reference has mass, inf where only π has, nan where neither has: any reward would do.

    >>> implied_reward([0.75, 0.25], [0.5, 0.5], beta=1.0).round(6)
    array([ 0.405465, -0.693147])
    """
    pi, ref, log_z = distribution("pi", pi), distribution("ref", ref), finite("log_z", log_z)
    same_responses(pi=pi, ref=ref)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.log(pi) - np.log(ref)
    return positive("beta", beta) * (log_ratio + log_z[..., None])


def gradient(pi: ArrayLike, ref: ArrayLike, reward: ArrayLike, beta: float) -> Array:
    """∂J/∂θ(y) = π(y) (A(y) - E_π A),   A = r - β log(π/π_ref), shape (..., K): the exact policy gradient

    π = softmax(θ); pi, ref, reward (..., K). It sums to 0, and is 0 at π* and wherever π has no mass. Raises
    `ValueError` where π has mass and the reference has none.

    >>> gradient([0.5, 0.5], [0.5, 0.5], [1.0, 0.0], beta=1.0)
    array([ 0.25, -0.25])
    """
    implied, pi, reward = implied_reward(pi, ref, beta), distribution("pi", pi), finite("reward", reward)
    same_responses(pi=pi, reward=reward)
    _reject("pi", np.broadcast_to(pi, implied.shape), implied == np.inf, "expected 0 wherever ref is")
    A = np.where(pi > 0, reward - implied, 0)
    ascent: Array = pi * (A - (pi * A).sum(axis=-1, keepdims=True))
    return ascent


def curvature(pi: ArrayLike, beta: float) -> Array:
    """-∂²J/∂θ² = β (diag π - π πᵀ) where π = softmax(θ) is π*, shape (..., K, K): β times the Fisher information of θ

    pi (..., K). The Laplacian of weights β πᵢ πⱼ, with entries as small as π* has: ascent on J needs the more steps the
    smaller β is, see `population.linear_rate`. The Laplacian of DPO, `population.hessian`, has σ(m) σ(-m), m = rᵢ - rⱼ,
    in the place of πᵢ πⱼ, and its condition number does not depend on β.

    >>> curvature([0.5, 0.5], beta=2.0)
    array([[ 0.5, -0.5],
           [-0.5,  0.5]])
    """
    pi = distribution("pi", pi)
    return positive("beta", beta) * laplacian(pi[..., :, None] * pi[..., None, :])


def natural_step(pi: ArrayLike, ref: ArrayLike, reward: ArrayLike, beta: float, step: float) -> Array:
    """π^{1-ηβ} (π*)^{ηβ} / Z, shape (..., K): a step η of natural gradient ascent on J from π; at η = 1/β it ends at π*

    pi, ref, reward (..., K). (diag π - π πᵀ)⁺ ∂J/∂θ is A = r - β log(π/π_ref) up to a constant, and θ + η A is this
    mixture of logits: whatever the rewards, log π - log π* shrinks by 1 - ηβ. Kakade 2001, "A natural policy gradient".

    Raises `ValueError` where only one of π and the reference has mass.

    >>> natural_step([0.9, 0.1], [0.5, 0.5], [0.0, 0.0], beta=2.0, step=0.25).round(8)  # odds 9^½
    array([0.75, 0.25])
    """
    pi, log_best = distribution("pi", pi), log_boltzmann(ref, reward, beta)
    same_responses(pi=pi, reward=log_best)
    held = np.asarray(ref) > 0
    _reject("pi", pi + 0 * held, (pi > 0) != held, "expected mass where ref has mass, and there alone")
    share = positive("step", step) * beta
    with np.errstate(divide="ignore", invalid="ignore"):
        logits = (1 - share) * np.log(pi) + share * log_best
    after: Array = softmax(np.where(held, logits, -np.inf), axis=-1)
    return after


def _tilt(ref: ArrayLike, reward: ArrayLike, beta: float) -> tuple[Array, Array]:
    """log π_ref + (r - top)/β, and top (...), the largest reward that the reference can reach

    Taking top away before the division leaves nothing that overflows upwards, however small β.
    """
    ref, reward, beta = distribution("ref", ref), finite("reward", reward), positive("beta", beta)
    same_responses(ref=ref, reward=reward)
    top: Array = np.where(ref > 0, reward, -np.inf).max(axis=-1)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        tilted = np.log(ref) + (reward - top[..., None]) / beta
    return np.where(ref > 0, tilted, -np.inf), top
