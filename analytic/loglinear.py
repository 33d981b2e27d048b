"""DPO on an exact population, for a log-linear policy: fewer directions than responses, and what they cannot say.

    π_θ(y) = π_ref(y) e^{φ(y)·θ} / Z        L(θ) = Σₓ Σᵢⱼ wins[x, i, j] (-log σ(β (φᵢ - φⱼ)·θ))

features φ (..., K, d): d numbers a response. Leading axes are prompts, which share θ (d,) and whose losses add up; wins
(..., K, K) is what `population` takes, entry [i, j] the weight of comparisons in which i was preferred to j. With
features np.eye(K) it is `population`'s table. theta may have leading axes of its own, replicates: (..., d). Log-ratios
and losses are in nats; β is in units of reward a nat.

If some θ has β φ·θ = r + constant, it is the minimizer, whichever pairs are met, and π_θ is π*. Otherwise the class is
misspecified, and two ways part: DPO's minimizer fits differences of r on the pairs that are met, and moves with them;
the best J in the class, `best_in_class`, does not. The first may be worse than π_ref. Gopalan et al. 2025,
arXiv:2510.20413; Ji et al. 2024, arXiv:2402.00856.

Every function raises `ValueError` where a number is not finite, a weight is below 0, β is not a finite number above 0,
a policy has an entry below 0 or a row that does not sum to 1, or shapes do not fit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from . import optimum, population
from ._checks import Array, distribution, finite, positive, same_responses, square
from ._solvers import PullsOnFeatures, settle
from .graph import mle_exists

__all__ = [
    "Best", "best_in_class", "drift", "gradient", "hessian", "hessian_product", "log_ratio", "newton", "objective",
    "policy",
]


def log_ratio(theta: ArrayLike, features: ArrayLike) -> Array:
    """φ(y)·θ = log(π_θ(y)/π_ref(y)) + log Z, shape (replicates..., prompts..., K)

    theta (replicates..., d), features (prompts..., K, d).

    >>> log_ratio([0.5], [[2.0], [0.0], [-1.0]])
    array([ 1. ,  0. , -0.5])
    """
    theta, features = finite("theta", theta), _features(features)
    if theta.ndim < 1 or theta.shape[-1] != features.shape[-1]:
        d = features.shape[-1]
        raise ValueError(f"theta has shape {theta.shape}; expected (..., {d}) as each response has {d} features")
    u: Array = np.tensordot(theta, features, axes=(-1, -1))
    return u


def policy(theta: ArrayLike, features: ArrayLike, ref: ArrayLike) -> Array:
    """π_θ(y) = π_ref(y) e^{φ(y)·θ} / Z, shape (replicates..., prompts..., K)

    theta (replicates..., d), features (prompts..., K, d), ref (prompts..., K).

    >>> policy([np.log(3.0)], [[1.0], [0.0]], [0.5, 0.5])
    array([0.75, 0.25])
    """
    return population.policy(log_ratio(theta, features), ref)


def objective(theta: ArrayLike, features: ArrayLike, wins: ArrayLike, beta: float) -> Array:
    """L(θ) = Σₓ Σᵢⱼ wins[x, i, j] (-log σ(β (φᵢ - φⱼ)·θ)), in nats, shape (replicates...)

    theta (replicates..., d), features (prompts..., K, d), wins (prompts..., K, K).

    >>> objective([0.0], [[1.0], [0.0]], [[0.0, 0.75], [0.25, 0.0]], beta=0.1).round(8)
    np.float64(0.69314718)
    """
    features, wins = _flat(features, wins)
    loss: Array = population.objective(log_ratio(theta, features), wins, beta).sum(axis=-1)
    return loss


def gradient(theta: ArrayLike, features: ArrayLike, wins: ArrayLike, beta: float) -> Array:
    """∂L/∂θ = Σₓ Σᵢ ∂L/∂uᵢ φᵢ, that of the log-ratios (`population.gradient`) seen by the features, shape (..., d)

    theta (replicates..., d), features (prompts..., K, d), wins (prompts..., K, K).

    >>> gradient([0.0], [[2.0], [0.0]], [[0.0, 0.75], [0.25, 0.0]], beta=1.0)
    array([-0.5])
    """
    features, wins = _flat(features, wins)
    slope: Array = np.tensordot(population.gradient(log_ratio(theta, features), wins, beta), features, axes=2)
    return slope


def hessian(theta: ArrayLike, features: ArrayLike, wins: ArrayLike, beta: float) -> Array:
    """∂²L/∂θ² = Σₓ φᵀ H φ, H that of the log-ratios (`population.hessian`), shape (replicates..., d, d)

    theta (replicates..., d), features (prompts..., K, d), wins (prompts..., K, K). Positive semidefinite.

    >>> hessian([0.0], [[2.0], [0.0]], [[0.0, 0.75], [0.25, 0.0]], beta=1.0)
    array([[1.]])
    """
    features, wins = _flat(features, wins)
    H = population.hessian(log_ratio(theta, features), wins, beta)
    bend: Array = (features.mT @ H @ features).sum(axis=-3)
    return bend


def hessian_product(
    theta: ArrayLike, features: ArrayLike, wins: ArrayLike, beta: float, direction: ArrayLike
) -> Array:
    """∂²L/∂θ² v, shape (replicates..., d), with neither that matrix formed nor those of the prompts

    theta, direction v (replicates..., d), features (prompts..., K, d), wins (prompts..., K, K).

    >>> hessian_product([0.0], [[2.0], [0.0]], [[0.0, 0.75], [0.25, 0.0]], 1.0, [3.0])
    array([3.])
    """
    features, wins = _flat(features, wins)
    along = population.hessian_product(log_ratio(theta, features), wins, beta, log_ratio(direction, features))
    change: Array = np.tensordot(along, features, axes=2)
    return change


def drift(pi: ArrayLike, features: ArrayLike, direction: ArrayLike) -> Array:
    """d log π(y) = (φ(y) - E_π φ)·dθ, shape (..., K): what a small change of θ does to each log-prob

    pi (..., K), features (..., K, d), direction dθ (d,). One pair pushes along φ_w - φ_l: its margin rises by the
    square of that, and the chosen falls where (φ_w - E_π φ)·(φ_w - φ_l) < 0, likelihood displacement; in a table it
    never does. Razin et al. 2024, arXiv:2410.08847.

    >>> phi = np.array([[1.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    >>> drift([0.3, 0.3, 0.4], phi, phi[0] - phi[1])
    array([-0.5, -1.5,  1.5])
    """
    pi, along = distribution("pi", pi), log_ratio(direction, features)
    same_responses(pi=pi, features=along)
    change: Array = along - (pi * along).sum(axis=-1, keepdims=True)
    return change


def newton(features: ArrayLike, wins: ArrayLike, beta: float, steps: int = 200) -> Array:
    """argmin_θ L(θ), shape (d,): Newton's method from θ = 0, steps cut where L might rise

    features (prompts..., K, d), wins (prompts..., K, K).

    Raises `ValueError` where L is the same all along some direction, so that the minimizer is not unique: features of
    responses that are compared do not differ along it; and where L falls along one without end, so that there is none:
    no comparison is lost along it, and some are won. Raises `ArithmeticError` where `steps` steps are not enough.

    >>> wins = population.bradley_terry_wins([1.0, 2.0, 0.0], [[0, 0, 1], [0, 0, 0], [1, 0, 0]])  # 2 is never seen
    >>> newton([[1.0], [-1.0], [0.0]], wins, beta=0.5).round(12)  # and yet it falls: π ∝ e^θ, e^-θ, 1
    array([2.])
    """
    features, wins = _flat(features, wins)
    beta = positive("beta", beta)
    wins = np.where(np.eye(wins.shape[-1], dtype=bool), 0.0, wins)
    _unique_minimizer_exists(features, wins)
    return settle(PullsOnFeatures(features, wins), np.zeros(features.shape[-1]), steps) / beta


class Best(NamedTuple):
    """The best policy of a class: its θ, and its J."""

    theta: Array  # (d,)
    value: float  # J, the mean over prompts


def best_in_class(features: ArrayLike, ref: ArrayLike, reward: ArrayLike, beta: float, starts: ArrayLike) -> Best:
    """max_θ J(π_θ), J = E_π r - β KL(π || π_ref), the mean over prompts: the best of the maxima that starts lead to

    features (prompts..., K, d), ref, reward (prompts..., K), starts (S, d). What RLHF aims at with this class: the
    least KL(π_θ || π*). J is not concave in θ, and may have a maximum at each mode of the reward: start on all sides.

        ∂J/∂θ = E[(φ - Eφ) A]     ∂²J/∂θ² = E[(φ - Eφ)(φ - Eφ)ᵀ (A - EA)] - β Cov φ     A = r - β φ·θ

    Raises `ArithmeticError` where no start has led to a maximum.

    >>> theta, J = best_in_class([[1.0], [-1.0], [0.0]], np.ones(3) / 3, [1.0, 2.0, 0.0], beta=2.0, starts=[[0.0]])
    >>> theta.round(6), round(J, 6)
    (array([-0.333326]), 1.055049)
    """
    features, ref, reward = _features(features), distribution("ref", ref), finite("reward", reward)
    same_responses(features=features[..., 0], ref=ref, reward=reward)
    starts, beta, d = finite("starts", starts), positive("beta", beta), features.shape[-1]
    if starts.ndim != 2 or starts.shape[-1] != d or not len(starts):
        raise ValueError(f"starts has shape {starts.shape}; expected (S, {d}) as each response has {d} features")

    def loss(theta: Array) -> float:
        return -float(optimum.value(policy(theta, features, ref), ref, reward, beta).mean())

    def derivatives(theta: Array) -> tuple[Array, Array]:
        pi, A = policy(theta, features, ref), reward - beta * log_ratio(theta, features)
        phi = features - (pi[..., None] * features).sum(axis=-2, keepdims=True)
        gain = pi * (A - (pi * A).sum(axis=-1, keepdims=True))
        slope, bend = phi.mT @ gain[..., None], phi.mT @ (phi * (gain - beta * pi)[..., None])
        return -slope.reshape(-1, d).mean(axis=0), -bend.reshape(-1, d, d).mean(axis=0)

    found = []
    for start in starts:
        end = optimize.minimize(loss, start, jac=lambda x: derivatives(x)[0], hess=lambda x: derivatives(x)[1],
                                method="trust-exact", options={"gtol": 1e-6})
        theta = end.x
        for _ in range(3):  # J itself is too coarsely rounded to lead further
            slope, bend = derivatives(theta)
            theta = theta - np.linalg.lstsq(bend, slope, rcond=1e-12)[0]
        spectrum = np.linalg.eigvalsh(derivatives(theta)[1])
        if end.success and spectrum[0] >= -1e-9 * spectrum[-1]:  # a start may lie on a saddle
            found.append(Best(theta, -loss(theta)))
    if not found:
        raise ArithmeticError(f"none of {len(starts)} starts has led to a maximum of J")
    return max(found, key=lambda best: best.value)


def _features(features: ArrayLike) -> Array:
    features = finite("features", features)
    if features.ndim < 2 or not features.shape[-1]:
        raise ValueError(f"features has shape {features.shape}; expected (..., K, d) with d at least 1")
    return features


def _flat(features: ArrayLike, wins: ArrayLike) -> tuple[Array, Array]:
    """(P, K, d) and (P, K, K), P prompts"""
    features, wins = _features(features), square("wins", wins)
    same_responses(features=features[..., 0], wins=wins[..., 0])
    prompts, (K, d) = np.broadcast_shapes(features.shape[:-2], wins.shape[:-2]), features.shape[-2:]
    features, wins = np.broadcast_to(features, (*prompts, K, d)), np.broadcast_to(wins, (*prompts, K, K))
    return features.reshape(-1, K, d), wins.reshape(-1, K, K)


def _unique_minimizer_exists(features: Array, wins: Array) -> None:
    """Differences of features, the chosen's less the rejected's, span all directions, and no direction has them all on
    one side, or else there is a largest sum of the differences along it in a box (linear programming).

    Where each response of a prompt loses to each other, through others at least, none has: it is enough that they span.
    """
    d = features.shape[-1]
    if mle_exists(wins).all():
        centered = (features - features.mean(axis=-2, keepdims=True)).reshape(-1, d)
        squares = np.linalg.eigvalsh(centered.T @ centered)
        if squares[0] > 1e-8 * squares[-1]:  # a tenth of the time, where it can tell
            return
        sizes = np.linalg.svd(centered, compute_uv=False)
        if len(sizes) == d and sizes[-1] > 8 * len(centered) * np.finfo(float).eps * sizes[0]:
            return
    prompt, better, worse = np.nonzero(wins)
    difference = features[prompt, better] - features[prompt, worse]
    difference = difference[difference.any(axis=-1)]
    _, sizes, directions = np.linalg.svd(np.vstack([difference, np.zeros((d, d))]))
    if not (sizes[-1] > 8 * len(difference) * np.finfo(float).eps * sizes[0]):
        raise ValueError(f"features of the responses compared do not differ along theta = {_pointed(directions[-1])}; "
                         f"expected differences that span all {d} directions")
    difference /= abs(difference).max(axis=-1, keepdims=True)
    side = optimize.linprog(-difference.sum(axis=0), A_ub=-difference, b_ub=np.zeros(len(difference)), bounds=(-1, 1)).x
    along = difference @ side
    if along.max() > 1e-9 and along.min() > -1e-12:
        raise ValueError(f"wins has no minimizer: L falls without end along theta = {_pointed(side)}; "
                         "expected comparisons that are lost along every direction")


def _pointed(direction: Array) -> list[float]:
    """Its length is of no interest."""
    rounded: list[float] = (np.round(direction / abs(direction).max(), 3) + 0.0).tolist()
    return rounded
