"""The KL-constrained objective on finite response sets and its Boltzmann-optimal policy.

Responses lie on the last axis; leading axes are prompts or replicates. Rewards, β and all values are in nats.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp, rel_entr

from ._checks import Array, distribution, finite, positive

__all__ = ["boltzmann", "implied_reward", "kl", "log_boltzmann", "log_partition", "optimal_value", "value"]


def log_partition(ref: ArrayLike, reward: ArrayLike, beta: float) -> Array:
    """log Z = log Σ_y π_ref(y) e^{r(y)/β}, shape (...)

    ref, reward (..., K). Rafailov et al. 2023, arXiv:2305.18290, eq. 4. Raises `ValueError` where ref is no
    distribution, a reward is not finite or β is not above 0.

    >>> float(log_partition([1/3, 1/3, 1/3], [1.0, 0.0, -1.0], beta=1.0))
    0.30899367...
    """
    tilted, ref = _tilt(ref, reward, beta)
    return logsumexp(tilted, b=ref, axis=-1)  # type: ignore[no-any-return]


def log_boltzmann(ref: ArrayLike, reward: ArrayLike, beta: float) -> Array:
    """log π*(y) = log π_ref(y) + r(y)/β - log Z; -inf where the reference has no mass"""
    tilted, ref = _tilt(ref, reward, beta)
    # before the sum, not after: an ulp of a large log Z would denormalize
    tilted = tilted - tilted.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return tilted + np.log(ref) - logsumexp(tilted, b=ref, axis=-1, keepdims=True)  # type: ignore[no-any-return]


def boltzmann(ref: ArrayLike, reward: ArrayLike, beta: float) -> Array:
    """π*(y) = π_ref(y) e^{r(y)/β} / Z, the policy that maximizes J = E_π r - β KL(π || π_ref)

    Shapes and errors as in `log_partition`. Rafailov et al. 2023, arXiv:2305.18290, eq. 4.

    >>> boltzmann([1/3, 1/3, 1/3], [1.0, 0.0, -1.0], beta=0.5).round(8)
    array([0.86681333, 0.11731043, 0.01587624])
    """
    return np.exp(log_boltzmann(ref, reward, beta))


def kl(p: ArrayLike, q: ArrayLike) -> Array:
    """KL(p || q) = Σ p log(p/q) in nats, shape (...): 0 log 0 is 0; inf where p has mass and q has none

    >>> float(kl([0.5, 0.5], [0.25, 0.75]))
    0.14384103...
    """
    p, q = distribution("p", p), distribution("q", q)
    # Σ (p log(p/q) - p + q): each term is at least 0, so that the sum keeps its digits where p is close to q
    change = np.divide(q - p, p, out=np.zeros(np.broadcast_shapes(p.shape, q.shape)), where=p > 0)
    near = (abs(change) < 0.5) & (p > 0)
    close = p * (change - np.log1p(np.where(near, change, 0)))
    return np.where(near, close, rel_entr(p, q) - p + q).sum(axis=-1)  # type: ignore[no-any-return]


def value(pi: ArrayLike, ref: ArrayLike, reward: ArrayLike, beta: float) -> Array:
    """J(π) = E_π r - β KL(π || π_ref) = β log Z - β KL(π || π*), shape (...)

    Rafailov et al. 2023, arXiv:2305.18290, eq. 3. Errors as in `log_partition`.

    >>> float(value([0.5, 0.5], [0.5, 0.5], [1.0, 0.0], beta=1.0))
    0.5
    """
    pi, reward = distribution("pi", pi), finite("reward", reward)
    return (pi * reward).sum(axis=-1) - positive("beta", beta) * kl(pi, ref)  # type: ignore[no-any-return]


def optimal_value(ref: ArrayLike, reward: ArrayLike, beta: float) -> Array:
    """J* = max_π J(π) = β log Z, shape (...)

    >>> float(optimal_value([0.5, 0.5], [1.0, 1.0], beta=0.3))
    1.0
    """
    return beta * log_partition(ref, reward, beta)


def implied_reward(pi: ArrayLike, ref: ArrayLike, beta: float, log_z: ArrayLike = 0.0) -> Array:
    """r(y) = β log(π(y)/π_ref(y)) + β log Z: the reward that π is optimal for, known up to a constant a prompt

    log_z (...) fixes the constant. Rafailov et al. 2023, arXiv:2305.18290, eq. 5. -inf where π has no mass and the
    reference has. Raises `ValueError` where the reference has no mass and π has: no reward makes that optimal.

    >>> implied_reward([0.75, 0.25], [0.5, 0.5], beta=1.0).round(6)
    array([ 0.405465, -0.693147])
    """
    pi, ref = distribution("pi", pi), distribution("ref", ref)
    if ((ref == 0) & (pi > 0)).any():
        raise ValueError("pi has mass where ref has none; expected a policy that some reward makes optimal")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(pi) - np.log(ref)
    return positive("beta", beta) * (ratio + np.asarray(log_z, float)[..., None])  # type: ignore[no-any-return]


def _tilt(ref: ArrayLike, reward: ArrayLike, beta: float) -> tuple[Array, Array]:
    """r/β and the weights it is summed with: where the reference has no mass, the reward does not matter, however
    large.
    """
    ref, reward = np.broadcast_arrays(distribution("ref", ref), finite("reward", reward))
    return np.where(ref > 0, reward / positive("beta", beta), 0), ref
