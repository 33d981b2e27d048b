"""The graph of the comparisons: what it connects, what the labels leave open, and where descent leaves the rest.

    Bradley-Terry rewards have a maximum-likelihood fit, and one only  <=>  every response loses, directly or through
    others, to every other: the digraph with an arc i -> j where i was preferred to j is strongly connected
    (Zermelo 1929; Ford 1957, "Solution of a ranking problem from binary comparisons")

wins (..., K, K) is the measure on comparisons that `population` takes: entry [i, j] is the weight of those in which i
was preferred to j. weight (..., K, K) is that of pairs: symmetric, for instance wins + winsᵀ. Diagonals say nothing.
Leading axes are prompts, or replicates. A component is named after its least response.

Every function raises `ValueError` where a weight is below 0 or not finite, where `weight` is not symmetric, or where
shapes do not fit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ._checks import Array, _reject, finite, pair_weights, same_responses, square

__all__ = [
    "components", "fiedler", "laplacian", "largest_flip", "mle_exists", "pseudoinverse", "require_connected",
    "require_strongly_connected", "resistance", "settled_reward", "strong_components",
]


def components(wins: ArrayLike) -> NDArray[np.intp]:
    """The least response that is connected with each by comparisons, whoever won them, shape (..., K)

    wins (..., K, K). A response that is never compared is a component of its own.

    >>> components([[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    array([0, 0, 2, 2])
    """
    return _least(square("wins", wins), "weak")


def strong_components(wins: ArrayLike) -> NDArray[np.intp]:
    """The least of the responses that each has beaten and lost to, directly or through others, shape (..., K)

    wins (..., K, K).

    >>> strong_components([[0, 1, 0], [1, 0, 1], [0, 0, 0]])
    array([0, 0, 2])
    """
    return _least(square("wins", wins), "strong")


def mle_exists(wins: ArrayLike) -> NDArray[np.bool_]:
    """Whether `bradley_terry.fit` has an answer: the wins are strongly connected, shape (...)

    wins (..., K, K). Then the fit is unique. Else some responses never lose to the others: the likelihood rises as
    their rewards do, without end; or some are never compared with the others, and nothing fixes what is between them.

    >>> mle_exists([[[0, 1, 0], [0, 0, 1], [1, 0, 0]], [[0, 1, 1], [0, 0, 1], [0, 1, 0]]])
    array([ True, False])
    """
    return np.asarray(~strong_components(wins).any(axis=-1))


def largest_flip(wins: ArrayLike) -> Array:
    """ε* = min_S lost(S)/(won(S) + lost(S)), shape (...): what the group S won against all others, and lost to them

    wins (..., K, K). Robust DPO (rDPO) on a table has a minimum if and only if ε < ε*: else its loss falls without end
    as the rewards of some group rise. ε* > 0 is `mle_exists`, where responses are compared at all; ½ at most, as where
    all groups win as often as they lose. Of two responses it is the share of the one that wins less. A linear program:
    rewards that lose least for a net of 1; groups are its corners, as those of every sum of max(0, rᵢ - rⱼ) (Lovász
    1983, "Submodular functions and convexity").

    >>> largest_flip([[0, 3], [1, 0]]), largest_flip([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    (array(0.25), array(0.5))
    """
    wins = square("wins", wins)
    found: Array = np.vectorize(_largest_flip, signature="(k,k)->()")(wins)
    return found


def _largest_flip(wins: Array) -> float:
    i, j = np.nonzero(wins)
    n, w = len(i), wins[i, j]
    arcs = np.arange(n)
    falls = coo_array((np.repeat([-1.0, 1.0, -1.0], n), (np.tile(arcs, 3), np.concatenate([i, j, len(wins) + arcs]))),
                      (n, len(wins) + n))  # rⱼ - rᵢ - t <= 0: t is what the arc i -> j loses, where it does
    net = np.append(np.bincount(i, w, len(wins)) - np.bincount(j, w, len(wins)), np.zeros(n))
    if not net.any():
        return 0.5
    least = linprog(np.append(np.zeros(len(wins)), w), A_ub=falls, b_ub=np.zeros(n), A_eq=net[None] / w.sum(),
                    b_eq=[1.0], bounds=[(0, 0)] + [(None, None)] * (len(wins) - 1) + [(0, None)] * n)
    if least.status:
        raise ArithmeticError(f"no largest flip was found: {least.message}")
    c = max(float(least.fun / w.sum()), 0.0)
    return c / (1 + 2 * c)


def require_connected(name: str, wins: ArrayLike) -> None:
    """Raises `ValueError`, naming the groups, where responses are never compared; `name` is what to call the wins

    wins (..., K, K). A population loss has one minimizer, whichever pairs are met, as soon as this holds.

    >>> require_connected("wins", [[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    Traceback (most recent call last):
    ValueError: wins never compares responses [0, 1] and [2]; expected comparisons that connect all of them
    """
    label = components(wins)
    if (at := _apart(label)) is not None:
        groups = _names(label[at], np.unique(label[at]))
        raise ValueError(f"{name}{_prompt(at)} never compares responses {groups}; "
                         "expected comparisons that connect all of them")


def require_strongly_connected(name: str, wins: ArrayLike) -> None:
    """Raises `ValueError`, naming the groups, where `mle_exists` is false; `name` is what to call the wins

    wins (..., K, K).

    >>> require_strongly_connected("wins", [[0, 1, 1], [0, 0, 1], [0, 1, 0]])
    Traceback (most recent call last):
    ValueError: wins has no minimizer: responses [0] never lose to the others; expected all to lose
    """
    label = strong_components(wins)
    if (at := _apart(label)) is not None:
        require_connected(name, wins)
        beats, part = np.asarray(wins)[at] > 0, label[at]
        unbeaten = [p for p in np.unique(part) if not beats[np.ix_(part != p, part == p)].any()]
        raise ValueError(f"{name}{_prompt(at)} has no minimizer: responses {_names(part, unbeaten)} "
                         "never lose to the others; expected all to lose")


def laplacian(weight: ArrayLike) -> Array:
    """L = diag(Σⱼ Wᵢⱼ) - W, shape (..., K, K): xᵀ L x = Σ_{i<j} Wᵢⱼ (xᵢ - xⱼ)²

    weight (..., K, K). Its null vectors are constant over each component.

    >>> laplacian([[0.0, 2.0], [2.0, 0.0]])
    array([[ 2., -2.],
           [-2.,  2.]])
    """
    W = pair_weights("weight", weight)
    L: Array = W.sum(axis=-1, keepdims=True) * np.eye(W.shape[-1]) - W
    return L


def resistance(weight: ArrayLike) -> Array:
    """Rᵢⱼ = (eᵢ - eⱼ)ᵀ L⁺ (eᵢ - eⱼ), shape (..., K, K): effective resistances between nodes linked by conductances W

    weight (..., K, K); inf between components. If L is the information on rewards, then Rᵢⱼ is the variance of rᵢ - rⱼ.

    Responses are taken out, last first, and put back: Rₖⱼ = 1/s + Σᵢ pᵢ Rᵢⱼ - ½ Σᵢₕ pᵢ pₕ Rᵢₕ, with s the sum of the
    conductances from k to what is still there and p their shares. What is taken away is at most K/s (Foster 1949), so
    every entry keeps its digits, to about K ulps, where eigenvalues lose what is 1e-16 times the largest.

    Raises `ValueError` where a weight other than 0 is not from 1e-300 to 1e300.

    >>> resistance([[0.0, 1.0, 0.0], [1.0, 0.0, 0.5], [0.0, 0.5, 0.0]])
    array([[0., 1., 3.],
           [1., 0., 2.],
           [3., 2., 0.]])
    """
    W = pair_weights("weight", weight)
    _reject("weight", W, (W > 0) & ~((W >= 1e-300) & (W <= 1e300)), "expected 0, or from 1e-300 to 1e300")
    R, share, own = np.zeros_like(W), np.zeros_like(W), np.zeros(W.shape[:-1])
    for k in reversed(range(1, W.shape[-1])):
        links = W[..., k, :k].copy()
        total = links.sum(axis=-1, keepdims=True)
        np.divide(links, total, out=share[..., k, :k], where=total > 0)
        np.divide(1, total, out=own[..., k, None], where=total > 0)
        W[..., :k, :k] += links[..., :, None] * share[..., k, None, :k]  # what ran through k now runs past it
    for k in range(1, W.shape[-1]):
        p = share[..., k, :k]
        from_mean = (R[..., :k, :k] @ p[..., None])[..., 0]
        spread = (p * from_mean).sum(axis=-1, keepdims=True) / 2
        R[..., k, :k] = R[..., :k, k] = own[..., k, None] + (from_mean - spread)
    return np.where(_same(components(weight)), R, np.inf)


def pseudoinverse(weight: ArrayLike) -> Array:
    """L⁺, shape (..., K, K), of the Laplacian L of the weights: -½ C R C, C taking the mean over each component away

    weight (..., K, K). The weights may be of very different sizes: see `resistance`, and its errors.

    >>> pseudoinverse([[0.0, 0.5], [0.5, 0.0]])
    array([[ 0.5, -0.5],
           [-0.5,  0.5]])
    """
    label = components(weight)
    same = _same(label)
    R = np.where(same, resistance(weight), 0)
    mean = R.sum(axis=-1) / same.sum(axis=-1)
    inner = (mean[..., :, None] + mean[..., None, :]) - (R + _component_mean(mean, label)[..., None])
    return np.where(same, inner / 2, 0)


def fiedler(weight: ArrayLike) -> Array:
    """λ₂, the second least eigenvalue of the Laplacian, shape (...): 0 where the weights do not connect all responses

    weight (..., K, K), K at least 2. The slowest direction of descent falls with it: at equal rewards the Hessian of
    `population` has β²/4 λ₂(wins + winsᵀ). As 1/λ_max(L⁺) it has its digits however weak a bridge is. Fiedler 1973,
    "Algebraic connectivity of graphs".

    >>> fiedler([[0, 1, 0], [1, 0, 1], [0, 1, 0]]).round(12)
    np.float64(1.0)
    """
    inverse = pseudoinverse(weight)
    if inverse.shape[-1] < 2:
        raise ValueError(f"weight has shape {inverse.shape}; expected (..., K, K) with K at least 2")
    top = np.linalg.eigvalsh(inverse)[..., -1]
    least: Array = np.divide(1, top, out=np.zeros(top.shape), where=~components(weight).any(axis=-1))
    return least


def settled_reward(reward: ArrayLike, wins: ArrayLike) -> Array:
    """r(y) - the mean of r over the component of y, shape (..., K): the reward that plain descent from π_ref settles on

    reward (..., K), wins (..., K, K): the labels are Bradley-Terry of r, or r fits them best in each component. The
    loss leaves a constant free in each, and π depends on it. But its gradient in the logits sums to 0 over each, so
    that steps along it, with momentum or without, leave the mean change of the logits at 0. Where they converge, it is
    to `optimum.boltzmann(ref, settled_reward(reward, wins), beta)`. A response that is never compared has reward 0: if
    all others are one component, the plain mean of theirs, not weighted by π_ref. Adam, whose steps do not sum to 0,
    ends elsewhere.

    >>> settled_reward([3.0, 1.0, 100.0], [[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    array([ 1., -1.,  0.])
    """
    reward, label = finite("reward", reward), components(wins)
    same_responses(reward=reward, wins=square("wins", wins)[..., 0])
    return reward - _component_mean(reward, label)


def _least(wins: Array, connection: str) -> NDArray[np.intp]:
    """All prompts are one graph, with rows of wins as its nodes."""
    K = wins.shape[-1]
    if np.count_nonzero(wins) - np.count_nonzero(np.diagonal(wins, axis1=-2, axis2=-1)) == wins.size // K * (K - 1):
        return np.zeros(wins.shape[:-1], np.intp)  # each has beaten each
    node, rival = np.nonzero(wins.reshape(-1, K))
    arcs = coo_array((np.ones(len(node), bool), (node, node - node % K + rival)), shape=2 * (wins.size // K,))
    _, part = connected_components(arcs, connection=connection)
    _, first = np.unique(part, return_index=True)
    least: NDArray[np.intp] = (first[part] % K).reshape(wins.shape[:-1])
    return least


def _same(label: NDArray[np.intp]) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = label[..., :, None] == label[..., None, :]
    return same


def _component_mean(x: Array, label: NDArray[np.intp]) -> Array:
    same = _same(label)
    mean: Array = (same @ x[..., None])[..., 0] / same.sum(axis=-1)
    return mean


def _apart(label: NDArray[np.intp]) -> tuple[int, ...] | None:
    """The first prompt with more than one component."""
    several = np.argwhere(label.any(axis=-1))
    return tuple(several[0].tolist()) if len(several) else None


def _prompt(at: tuple[int, ...]) -> str:
    return f" at {list(at)}" if at else ""


def _names(label: NDArray[np.intp], parts: ArrayLike) -> str:
    return " and ".join(str(np.flatnonzero(label == part).tolist()) for part in np.atleast_1d(parts))
