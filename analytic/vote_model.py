"""Bradley-Terry of single votes: strengths beside covariates, ties, and errors that know which votes hang together.

    d = s_left - s_right + x·γ        davidson:    left : tie : right = e^{d/2} : ν : e^{-d/2}
                                      rao_kupper:  left = σ(d - log θ), right = σ(-d - log θ), tie is the rest

One row a vote: left, right (n,) say which items were compared; x (n, D) is what else speaks for the left one (a
difference of log lengths; 1, for being on the left); outcome (n,) is 1, 0 or -1: left, tie, right. Strengths s (K,)
have mean 0. Where left and right are one item throughout, covariates alone are fitted. `bradley_terry` has the same
models without covariates, of counts.

Strengths, γ, log ν and log θ are in nats. Every function raises `ValueError` where shapes do not fit, a number is not
finite, or an outcome or a cluster is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_expit, log_softmax, ndtri

from ._checks import Array, _reject, finite, nonnegative
from ._solvers import minimize
from .bradley_terry import Interval, davidson, rao_kupper

__all__ = ["VoteFit", "clustered", "fit", "intervals", "probabilities"]

STEPS = 200  # of Newton's method


class VoteFit(NamedTuple):
    """What `fit` found. Parameters θ, P = K + D + 1 of them, are (strength, γ, log of the tie parameter)

    strength       (K,), of mean 0               gamma  (D,)
    tie            ν of `davidson`, 0 without ties; θ of `rao_kupper`, 1 without ties
    ties           which of them
    log_likelihood of all votes, in nats
    covariance     (P, P) the inverse information; 0 for what was not fitted
    scores         (n, P) of each vote: ∂/∂θ of its log-likelihood, times its weight
    """

    strength: Array
    gamma: Array
    tie: float
    ties: str
    log_likelihood: float
    covariance: Array
    scores: Array


def fit(outcome: ArrayLike, left: ArrayLike, right: ArrayLike, covariates: ArrayLike | None = None,
        weight: ArrayLike | None = None, ties: str = "davidson") -> VoteFit:
    """argmax Σ weight log P(outcome | d, tie),   d = s_left - s_right + x·γ, by Newton's method

    outcome (n,) of 1, 0, -1; left, right (n,) whole numbers below K; covariates (n, D) or (n,); weight (n,), 1 by
    default. Without ties it is Bradley-Terry, whatever `ties` says. Davidson 1970; Rao & Kupper 1967; covariates as in
    Springall 1973, "Response surface fitting using a generalization of the Bradley-Terry paired comparison model".

    Raises `ValueError` where the maximum would not be unique, as items are unconnected or covariates are combinations
    of others, and where it is not finite: some direction agrees with every vote (Albert & Anderson 1984, "On the
    existence of maximum likelihood estimates in logistic regression models").

    >>> found = fit([1, 1, 1, -1, 0, 0], [0] * 6, [1] * 6)  # ν = ties/√(wins losses)
    >>> np.round(found.strength[0] - found.strength[1], 8), np.round(found.tie, 8)
    (np.float64(1.09861229), np.float64(1.15470054))
    """
    if ties not in KERNELS:
        raise ValueError(f"ties is {ties!r}; expected one of {', '.join(KERNELS)}")
    outcome = finite("outcome", outcome)
    _reject("outcome", outcome, ~np.isin(outcome, (-1, 0, 1)), "expected 1, 0 or -1: left, tie, right")
    X, items = _design(left, right, covariates)
    weight = np.ones(len(X)) if weight is None else nonnegative("weight", weight)
    if not outcome.shape == weight.shape == (len(X),):
        raise ValueError(f"the shapes of outcome {outcome.shape} and weight {weight.shape} do not fit left "
                         f"({len(X)},); expected one a vote")
    counted = weight > 0
    tied = bool((outcome[counted] == 0).any())
    kernel = KERNELS[ties] if tied else _rao_kupper  # at log θ = 0 it is Bradley-Terry
    basis = _basis(X[counted], items, tied)
    full, start = np.column_stack([X, np.zeros(len(X))]), np.zeros(basis.shape[1])
    if tied:
        start[-1] = 1.0

    def surprise(z: Array) -> Array:
        value = kernel(full @ (basis @ z), (basis @ z)[-1], outcome).value
        return -(weight[counted] @ value[counted])

    def derivatives(z: Array) -> tuple[Array, Array]:
        at = kernel(full @ (basis @ z), (basis @ z)[-1], outcome)
        cross = X.T @ (weight * at.d_tie)
        bend = np.block([[X.T @ ((weight * at.dd)[:, None] * X), cross[:, None]], [cross, weight @ at.tie_tie]])
        return -basis.T @ _scores(X, at, weight).sum(axis=0), -basis.T @ bend @ basis

    try:
        z = minimize(surprise, derivatives, start, STEPS)
        slope, bend = derivatives(z)
        missing = abs(basis @ np.linalg.solve(bend, slope)).max()
    except (ArithmeticError, np.linalg.LinAlgError):
        missing = np.inf
    if not missing < 1e-3:  # where there is a maximum, another step is rounding; where there is none, about 1
        raise ValueError("no finite fit: the likelihood rises without end along a direction that agrees with every "
                         "vote; expected votes that contradict each other")
    theta = basis @ z
    at = kernel(full @ theta, theta[-1], outcome)
    covariance = basis @ np.linalg.solve(bend, basis.T)
    tie = float(np.exp(theta[-1])) if tied else float(ties == "rao_kupper")
    return VoteFit(theta[:items], theta[items:-1], tie, ties, float(weight @ at.value), (covariance + covariance.T) / 2,
                   _scores(X, at, weight) * (abs(basis).sum(axis=1) > 0))


def probabilities(found: VoteFit, left: ArrayLike, right: ArrayLike, covariates: ArrayLike | None = None) -> Array:
    """P(left), P(tie), P(right) of each comparison, shape (n, 3)

    left, right (n,), covariates (n, D), as in `fit`. Raises `ValueError` on items or covariates that `found` lacks.

    >>> found = fit([1, 1, 1, -1, 0, 0], [0] * 6, [1] * 6)
    >>> probabilities(found, [0], [1]).round(8)
    array([[0.5       , 0.33333333, 0.16666667]])
    """
    X, _ = _design(left, right, covariates, len(found.strength))
    theta = np.append(found.strength, found.gamma)
    if X.shape[1] != len(theta):
        raise ValueError(f"covariates have {X.shape[1] - len(found.strength)} columns; expected those of the fit, "
                         f"{len(found.gamma)}")
    d = X @ theta
    model = davidson if found.ties == "davidson" else rao_kupper
    each = model(np.stack([d, np.zeros(len(d))], axis=-1), found.tie)
    return np.stack([x[:, 0, 1] for x in each], axis=-1)


def clustered(found: VoteFit, cluster: ArrayLike) -> Array:
    """V Σ_c s_c s_cᵀ V, (P, P): V the model's covariance, s_c the sum of the scores of the votes of cluster c

    cluster (n,), any labels. It holds too where votes of one cluster depend on each other in whatever way, if clusters
    do not and are many; without a small-sample factor. Huber 1967; Liang & Zeger 1986, "Longitudinal data analysis
    using generalized linear models".

    >>> found = fit([1, 1, 1, -1], [0] * 4, [0] * 4, np.ones(4))
    >>> clustered(found, [0, 0, 0, 1])[1, 1].round(6), found.covariance[1, 1].round(6)  # γ: two voices, not four
    (np.float64(2.0), np.float64(1.333333))
    """
    _, index = np.unique(np.asarray(cluster), return_inverse=True)
    if index.shape != (len(found.scores),):
        raise ValueError(f"cluster has shape {index.shape}; expected one a vote, ({len(found.scores)},)")
    total = np.zeros((index.max() + 1, found.scores.shape[1]))
    np.add.at(total, index, found.scores)
    if len(total) < 2:
        raise ValueError("cluster holds one label; expected at least two clusters")
    root = total @ found.covariance
    return root.T @ root


def intervals(found: VoteFit, cluster: ArrayLike | None = None, level: float = 0.95) -> Interval:
    """θ ± z √(variance), both (P,), z = Φ⁻¹((1 + level)/2): of the model, or `clustered`; each by itself (Wald)

    >>> found = fit([1, 1, 1, -1], [0] * 4, [0] * 4, np.ones(4))
    >>> intervals(found).low[1].round(6)
    np.float64(-1.164559)
    """
    if not (np.ndim(level) == 0 and 0 < level < 1):
        raise ValueError(f"level is {level}; expected above 0 and below 1")
    V = found.covariance if cluster is None else clustered(found, cluster)
    tie = np.log(found.tie) if found.tie > 0 else -np.inf
    theta = np.concatenate([found.strength, found.gamma, [tie]])
    half = -ndtri((1 - level) / 2) * np.sqrt(np.diag(V))
    return Interval(theta - half, theta + half)


# ---- log P(outcome) and its derivatives by d and by the log of the tie parameter, each (n,)

class _At(NamedTuple):
    value: Array
    d: Array
    tie: Array
    dd: Array
    d_tie: Array
    tie_tie: Array


def _davidson(d: Array, log_nu: Any, outcome: Array) -> _At:
    log_p = log_softmax(np.stack([d / 2, np.full(d.shape, log_nu), -d / 2]), axis=0)
    win, tie, loss = np.exp(log_p)
    mean, tied = (win - loss) / 2, outcome == 0
    value = np.where(tied, log_p[1], np.where(outcome > 0, log_p[0], log_p[2]))
    return _At(value, outcome / 2 - mean, tied - tie, mean**2 - (win + loss) / 4, mean * tie, tie**2 - tie)


def _rao_kupper(d: Array, log_theta: Any, outcome: Array) -> _At:
    """A tie is both σ(d - log θ) and σ(-d - log θ), times θ² - 1"""
    tied, not_lost, not_won = outcome == 0, outcome >= 0, outcome <= 0
    if log_theta <= 0 and tied.any():  # no model of these: the minimizer turns back
        return _At(np.full(d.shape, -np.inf), *np.zeros((5, *d.shape)))
    win, loss = expit(d - log_theta), expit(-d - log_theta)
    value = not_lost * log_expit(d - log_theta) + not_won * log_expit(-d - log_theta)
    up, down = not_lost * (1 - win), not_won * (1 - loss)
    bend_up, bend_down = up * win, down * loss
    tie, tie_tie = -up - down, -bend_up - bend_down
    if tied.any():
        rest = -np.expm1(-2 * log_theta)
        value = value + tied * (2 * log_theta + np.log(rest))
        tie, tie_tie = tie + tied * 2 / rest, tie_tie - tied * 4 * (1 - rest) / rest**2
    return _At(value, up - down, tie, -bend_up - bend_down, bend_up - bend_down, tie_tie)


KERNELS: dict[str, Callable[[Array, Any, Array], _At]] = {"davidson": _davidson, "rao_kupper": _rao_kupper}


# ---- of use above

def _scores(X: Array, at: _At, weight: Array) -> Array:
    return np.column_stack([X * (weight * at.d)[:, None], weight * at.tie])


def _design(left: ArrayLike, right: ArrayLike, covariates: ArrayLike | None, items: int | None = None) -> tuple[
        Array, int]:
    """[1 of left, -1 of right, covariates], (n, K + D), and K"""
    i, j = _items("left", left), _items("right", right)
    if i.shape != j.shape or not len(i):
        raise ValueError(f"the shapes of left {i.shape} and right {j.shape} do not fit; expected (n,), both, n above 0")
    K = int(max(i.max(), j.max())) + 1 if items is None else items
    if items is not None and max(i.max(), j.max()) >= K:
        raise ValueError(f"left or right holds item {max(i.max(), j.max())}; expected items of the fit, below {K}")
    x = np.zeros((len(i), 0)) if covariates is None else finite("covariates", covariates)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or len(x) != len(i):
        raise ValueError(f"covariates have shape {x.shape}; expected ({len(i)}, D), a row a vote")
    X = np.zeros((len(i), K))
    np.add.at(X, (np.arange(len(i)), i), 1.0)
    np.add.at(X, (np.arange(len(i)), j), -1.0)
    return np.column_stack([X, x]), K


def _items(name: str, index: ArrayLike) -> NDArray[np.int64]:
    index = np.asarray(index)
    if index.dtype.kind not in "iu" or index.ndim != 1 or (index.size and index.min() < 0):
        raise ValueError(f"{name} has dtype {index.dtype} and shape {index.shape}; expected (n,) whole numbers, at "
                         "least 0")
    return index.astype(np.int64)


def _basis(X: Array, items: int, tied: bool) -> Array:
    """(P, m): what is free of θ; strengths of mean 0, and the tie parameter where there are ties"""
    free = X.shape[1] - 1
    basis = np.zeros((X.shape[1] + 1, free + tied))
    basis[:items, :items - 1] = np.eye(items)[:, :-1] - 1 / items
    basis[items:-1, items - 1:free] = np.eye(X.shape[1] - items)
    if tied:
        basis[-1, -1] = 1.0
    if not free + tied:
        raise ValueError("there is nothing to fit: one item, no covariates, no ties")
    scale = np.sqrt((X**2).sum(axis=0, keepdims=True))
    reduced = (X / np.where(scale > 0, scale, 1)) @ basis[:-1, :free]
    if np.linalg.matrix_rank(reduced.T @ reduced, rtol=1e-12) < free:
        raise ValueError("the fit is not unique: items are unconnected, or a covariate is a combination of the others; "
                         "expected columns that are independent")
    return basis

