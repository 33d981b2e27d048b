"""Bradley-Terry and its kin, with ties and with rankings: probabilities, fits, and how sure a fit can be.

    P(i beats j) = σ(rᵢ - rⱼ)        r̂ = argmax_r Σᵢⱼ wins[i, j] log σ(rᵢ - rⱼ)        √n (r̂ - r) -> N(0, F⁺)

Zermelo 1929; Bradley & Terry 1952. All see differences of r alone: fits have mean 0, and so has what is said of a
reward by itself. wins (..., K, K) is the measure on comparisons that `population` takes: entry [i, j] is the weight, or
the number, of those in which i was preferred to j. DPO on a table is this fit of β (log π - log π_ref).

A ranking is a row of responses, best first, and -1 where it is shorter; responses that it leaves out play no part.
Plackett-Luce places them one after the other, each with a probability proportional to e^r among those that are left
(Luce 1959; Plackett 1975); two are Bradley-Terry.

Rewards are in nats. Every function raises `ValueError` where a reward is not finite, a weight is below 0, a row is no
ranking, or shapes do not fit; a fit also where it would not exist or not be unique, and it names the responses.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import NegativeCycleError, bellman_ford
from scipy.special import expit, log_expit, log_softmax, logsumexp, ndtri

from . import population
from ._checks import Array, _reject, finite, leading, nonnegative, pair_weights, positive, same_responses, square, whole
from ._solvers import minimize
from .graph import laplacian, pseudoinverse, require_connected, require_strongly_connected, resistance

__all__ = [
    "DavidsonFit", "Interval", "Outcomes", "covariance", "davidson", "difference_intervals", "fisher", "fit",
    "fit_davidson", "fit_rankings", "intervals", "probabilities", "ranking_fisher", "ranking_log_probability",
    "rao_kupper",
]

STEPS = 200  # of Newton's method


# ---- two responses

def probabilities(reward: ArrayLike) -> Array:
    """P[i, j] = σ(rᵢ - rⱼ), shape (..., K, K), ½ on the diagonal: that i is preferred to j

    reward (..., K). Bradley & Terry 1952; Rafailov et al. 2023, arXiv:2305.18290, eq. 1.

    >>> probabilities([np.log(3.0), 0.0])
    array([[0.5 , 0.75],
           [0.25, 0.5 ]])
    """
    P: Array = expit(_differences(reward))
    return P


def fit(wins: ArrayLike) -> Array:
    """r̂ = argmax_r Σᵢⱼ wins[i, j] log σ(rᵢ - rⱼ), shape (..., K), of mean 0

    wins (..., K, K). It exists, and is unique, if and only if the wins are strongly connected (`graph.mle_exists`).

    >>> fit([[0, 2, 1], [1, 0, 1], [1, 1, 0]]).round(8)
    array([ 0.25435063, -0.25435063,  0.        ])
    """
    return population.newton(wins, 1.0)


def fisher(reward: ArrayLike, weight: ArrayLike | None = None) -> Array:
    """F = the Laplacian of W[i, j] P[i, j] P[j, i], shape (..., K, K): the information of comparisons on rewards

    reward (..., K); pair weight W (..., K, K), symmetric. By default each pair of distinct responses weighs the same
    and together they weigh 1: that is the information of one comparison of a random pair, and W = wins + winsᵀ, of
    counts, gives that of all of them. DPO with β has β² F for log-ratios.

    >>> fisher([0.0, 0.0])
    array([[ 0.25, -0.25],
           [-0.25,  0.25]])
    """
    return population.hessian(reward, population.bradley_terry_wins(reward, weight), 1.0)


# ---- how sure

def covariance(fisher: ArrayLike, n: float = 1.0) -> Array:
    """F⁺/n, shape (..., K, K): what the covariance of r̂ - r tends to, in n observations of information F, at mean 0

    fisher (..., K, K) a Laplacian, from `fisher` or `ranking_fisher`; n = 1 where its weights are counts. Its entries
    may be of very different sizes, as they are where rewards differ much: see `graph.resistance`.

    Raises `ValueError` where `fisher` is no Laplacian, or leaves responses unconnected.

    >>> covariance(fisher([0.0, 0.0]), n=100)
    array([[ 0.01, -0.01],
           [-0.01,  0.01]])
    """
    return pseudoinverse(_links(fisher)) / positive("n", n)


class Interval(NamedTuple):
    """Both ends, entry by entry."""

    low: Array
    high: Array


def intervals(reward: ArrayLike, fisher: ArrayLike, n: float = 1.0, level: float = 0.95) -> Interval:
    """rᵢ - mean of r ± z √(F⁺ᵢᵢ/n), shapes (..., K), z = Φ⁻¹((1 + level)/2): each holds the truth `level` of the time

    reward (..., K) as fitted, fisher (..., K, K) there. To order n^-½ (Wald); one at a time, not all at once.

    >>> intervals([1.0, -1.0], fisher([1.0, -1.0]), n=100).low.round(4)
    array([ 0.6976, -1.3024])
    """
    reward = _rewards(reward)
    variance = np.diagonal(covariance(fisher, n), axis1=-2, axis2=-1)
    same_responses(reward=reward, fisher=variance)
    return _around(reward - reward.mean(axis=-1, keepdims=True), variance, level)


def difference_intervals(reward: ArrayLike, fisher: ArrayLike, n: float = 1.0, level: float = 0.95) -> Interval:
    """rᵢ - rⱼ ± z √(Rᵢⱼ/n), shapes (..., K, K): the variance Rᵢⱼ = F⁺ᵢᵢ + F⁺ⱼⱼ - 2 F⁺ᵢⱼ, but without cancellation

    As `intervals`. Rᵢⱼ is a resistance: what i and j are compared with, together, narrows the interval too.

    >>> difference_intervals([1.0, -1.0], fisher([1.0, -1.0]), n=100).low[0].round(4)
    array([0.    , 1.3951])
    """
    reward, variance = _rewards(reward), resistance(_links(fisher)) / positive("n", n)
    same_responses(reward=reward, fisher=variance[..., 0])
    return _around(_differences(reward), variance, level)


# ---- ties

class Outcomes(NamedTuple):
    """Probabilities (..., K, K) that i is preferred to j, that neither is, and that j is."""

    win: Array
    tie: Array
    loss: Array


def davidson(reward: ArrayLike, nu: float) -> Outcomes:
    """win : tie : loss = e^{d/2} : ν : e^{-d/2},   d = rᵢ - rⱼ: given a preference, Bradley-Terry, whatever ν

    reward (..., K). ν >= 0: equals tie with probability ν/(2 + ν). Davidson 1970, "On extending the Bradley-Terry model
    to accommodate ties in paired comparison experiments". The loss of Chen et al. 2024, arXiv:2409.17431.

    >>> davidson([0.0, 0.0], nu=2.0).tie
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    if not (np.ndim(nu) == 0 and 0 <= nu < np.inf):
        raise ValueError(f"nu is {nu}; expected a finite number, at least 0")
    d = _differences(reward)
    tied = np.exp(-abs(d) / 2)  # as likely as the stronger is, times nu
    total = 1 + nu * tied + tied**2
    win = np.where(d >= 0, 1, tied**2) / total
    return Outcomes(win, nu * tied / total, win.mT)


def rao_kupper(reward: ArrayLike, theta: float) -> Outcomes:
    """win = σ(d - log θ),   loss = σ(-d - log θ),   tie = (θ² - 1) win loss,   d = rᵢ - rⱼ

    reward (..., K). θ >= 1: less than log θ apart is too close to call. Equals tie with probability (θ - 1)/(θ + 1).
    Rao & Kupper 1967, "Ties in paired-comparison experiments". The other loss of Chen et al. 2024, arXiv:2409.17431.

    >>> rao_kupper([0.0, 0.0], theta=3.0).tie
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    if not (np.ndim(theta) == 0 and 1 <= theta < np.inf):
        raise ValueError(f"theta is {theta}; expected a finite number, at least 1")
    d = _differences(reward)
    odds = np.exp(-abs(d))  # of the weaker
    win = np.where(d >= 0, 1 / (1 + theta * odds), odds / (odds + theta))
    return Outcomes(win, (theta - 1) / (theta + odds) * ((theta + 1) * odds / (1 + theta * odds)), win.mT)


class DavidsonFit(NamedTuple):
    """Rewards (K,) and the ν of `davidson`."""

    reward: Array
    nu: float


def fit_davidson(wins: ArrayLike, ties: ArrayLike) -> DavidsonFit:
    """argmax_{r, ν} Σᵢⱼ wins[i, j] log win[i, j] + Σ_{i<j} ties[i, j] log tie[i, j], of `davidson`, r of mean 0

    wins (K, K); ties (K, K) symmetric, entry [i, j] = [j, i] the weight of the ties of i and j, counted once. Without
    ties ν = 0 and r is `fit(wins)`. Else it exists, and is unique, if and only if wins, and ties both ways, are
    strongly connected and a cycle of them has more wins than ties (Gyarmati et al. 2025, arXiv:2502.13617). Without
    such a cycle rewards can fall by 1 or more with each win and move by 1 at most with each tie: the likelihood rises
    as they, times t, and log ν = t/2 do.

    >>> fit_davidson([[0, 3], [1, 0]], [[0, 4], [4, 0]]).nu.round(8)  # 4/√(3·1)
    np.float64(2.30940108)
    """
    wins, ties = square("wins", wins), pair_weights("ties", ties)
    if wins.ndim > 2 or wins.shape != ties.shape:
        raise ValueError(f"the shapes of wins {wins.shape} and ties {ties.shape} do not fit; expected (K, K), both")
    if not ties.any():
        return DavidsonFit(fit(wins), 0.0)
    wins = np.where(np.eye(len(wins), dtype=bool), 0.0, wins)
    require_strongly_connected("wins + ties", wins + ties)
    if not _more_wins_than_ties(wins, ties):
        raise ValueError("no cycle has more wins than ties: nu and the rewards would rise without end; expected one")

    def rewards(x: Array) -> Array:  # x holds rewards 1 to K - 1, against reward 0, and log ν
        return np.append(0, x[:-1])

    def surprise(x: Array) -> Array:
        half = _differences(rewards(x)) / 2
        log_win, log_tie, _ = log_softmax([half, np.full(half.shape, x[-1]), -half], axis=0)
        total: Array = -(wins * log_win + ties / 2 * log_tie).sum()
        return total

    def derivatives(x: Array) -> tuple[Array, Array]:
        win, tie, loss = davidson(rewards(x), np.exp(x[-1]))
        pull = wins * (loss + tie / 2) + ties * loss / 2
        slope = np.append(pull.sum(axis=0) - pull.sum(axis=1), (wins * tie - ties * win).sum())
        weight = wins + wins.T + ties
        bend = laplacian(weight * (win * loss + tie * (win + loss) / 4))
        cross = (weight * tie * (loss - win)).sum(axis=1) / 2
        whole = np.block([[bend, cross[:, None]], [cross, (weight * tie * win).sum()]])
        return slope[1:], whole[1:, 1:]

    x = minimize(surprise, derivatives, np.zeros(len(wins)), STEPS)
    return DavidsonFit(rewards(x) - rewards(x).mean(), np.exp(x[-1]))


# ---- rankings

def ranking_log_probability(reward: ArrayLike, ranking: ArrayLike, top: int | None = None) -> Array:
    """log P = Σₘ log σ(r_m - log Σ_{k after m} e^{r_k}), in nats, shape (...): each place is won against all after it

    reward (..., K), ranking (..., M), leading axes broadcast. `top` counts the first places alone, and leaves the order
    of the rest open: top=1 is a choice of the best.

    >>> np.exp(ranking_log_probability([np.log(3.0), 0.0, 0.0], [0, 1, 2])).round(8)  # 3/5 · 1/2
    np.float64(0.3)
    """
    reward = _rewards(reward)
    first, later = _places(ranking, reward.shape[-1], top)
    leading(reward=reward[..., 0], ranking=np.zeros(first.shape[:-2]))
    rows = reward[..., None, :]
    duels = np.where(first, rows, 0).sum(axis=-1) - logsumexp(np.where(later, rows, -np.inf), axis=-1)
    total: Array = log_expit(duels).sum(axis=-1)
    return total


def fit_rankings(ranking: ArrayLike, weight: ArrayLike | None = None, top: int | None = None) -> Array:
    """r̂ = argmax_r Σ weight log P(ranking), shape (K,), of mean 0: Plackett-Luce, by Newton's method

    ranking (R, M), its responses 0 to K - 1; weight (R,), 1 by default; `top` as above. It exists, and is unique, if
    and only if the digraph of "was placed before" is strongly connected (Hunter 2004, "MM algorithms for generalized
    Bradley-Terry models").

    >>> fit_rankings([[0, 1], [1, 0]], weight=[3, 1]).round(8)  # log(3)/2
    array([ 0.54930614, -0.54930614])
    """
    ranking, weight = _weighted(ranking, weight)
    K = int(ranking.max()) + 1
    first, later = _places(ranking, K, top)
    before = np.einsum("r,rmi,rmj->ij", weight, first, later)
    require_strongly_connected("ranking", before)

    def surprise(x: Array) -> Array:  # x holds rewards 1 to K - 1, against reward 0
        return -weight @ ranking_log_probability(np.append(0, x), ranking, top)

    def derivatives(x: Array) -> tuple[Array, Array]:
        r = np.append(0, x)
        others = weight[:, None, None] * np.where(later, _choice(r, first | later), 0)
        slope = (others - first * others.sum(axis=-1, keepdims=True)).sum(axis=(0, 1))
        return slope[1:], ranking_fisher(r, ranking, weight, top)[1:, 1:]

    r = np.append(0, minimize(surprise, derivatives, np.zeros(K - 1), STEPS))
    fitted: Array = r - r.mean()
    return fitted


def ranking_fisher(
    reward: ArrayLike, ranking: ArrayLike, weight: ArrayLike | None = None, top: int | None = None
) -> Array:
    """F = Σ weight Σₘ diag(p) - p pᵀ, p the choice among those that are left for place m, shape (K, K)

    reward (K,), ranking (R, M), weight (R,), 1 by default; `top` as above. The information of the rankings that came,
    or, with all there are weighted by their probabilities, of one to come. One full ranking of K equals is worth
    2 (K - H_K) comparisons of random pairs, H_K = 1 + 1/2 + ... + 1/K.

    >>> ranking_fisher([0.0, 0.0, 0.0], [[0, 1, 2], [2, 1, 0]], weight=[0.5, 0.5]).diagonal().round(4)
    array([0.3472, 0.4722, 0.3472])
    """
    reward = _rewards(reward)
    if reward.ndim > 1:
        raise ValueError(f"reward has shape {reward.shape}; expected (K,)")
    ranking, weight = _weighted(ranking, weight)
    first, later = _places(ranking, len(reward), top)
    p = (np.sqrt(weight)[:, None, None] * _choice(reward, first | later)).reshape(-1, len(reward))
    return laplacian(p.T @ p)


# ---- of use above

def _rewards(reward: ArrayLike) -> Array:
    reward = finite("reward", reward)
    if reward.ndim < 1 or not reward.shape[-1]:
        raise ValueError(f"reward has shape {reward.shape}; expected (..., K)")
    return reward


def _differences(reward: ArrayLike) -> Array:
    reward = _rewards(reward)
    return reward[..., :, None] - reward[..., None, :]


def _links(fisher: ArrayLike) -> Array:
    """The weights that it is the Laplacian of."""
    F = finite("fisher", fisher)
    if F.ndim < 2 or F.shape[-1] != F.shape[-2]:
        raise ValueError(f"fisher has shape {F.shape}; expected (..., K, K)")
    links = pair_weights("-fisher off its diagonal", np.where(np.eye(F.shape[-1], dtype=bool), 0.0, -F))
    total, size = F.sum(axis=-1), links.sum(axis=-1)
    _reject("the sum of fisher", total, abs(total) > 8 * F.shape[-1] * np.finfo(float).eps * size, "expected 0")
    require_connected("fisher", links)
    return links


def _around(center: Array, variance: Array, level: float) -> Interval:
    if not (np.ndim(level) == 0 and 0 < level < 1):
        raise ValueError(f"level is {level}; expected above 0 and below 1")
    half = -ndtri((1 - level) / 2) * np.sqrt(variance)
    return Interval(center - half, center + half)


def _more_wins_than_ties(wins: Array, ties: Array) -> bool:
    """Whether any cycle has."""
    try:
        bellman_ford(np.where(wins > 0, -1.0, np.where(ties > 0, 1.0, 0.0)))
    except NegativeCycleError:
        return True
    return False


def _rows(ranking: ArrayLike) -> NDArray[np.intp]:
    ranking = np.asarray(ranking)
    if ranking.ndim < 1 or ranking.dtype.kind not in "iu":
        raise ValueError(f"ranking has shape {ranking.shape} and dtype {ranking.dtype}; expected (..., M), of integers")
    return ranking


def _weighted(ranking: ArrayLike, weight: ArrayLike | None) -> tuple[NDArray[np.intp], Array]:
    ranking = _rows(ranking)
    if ranking.ndim != 2 or not ranking.size or ranking.max() < 0:
        raise ValueError(f"ranking has shape {ranking.shape}; expected (R, M), rows of responses, one at least")
    weight = np.ones(len(ranking)) if weight is None else nonnegative("weight", weight)
    if weight.shape != (len(ranking),):
        raise ValueError(f"weight has shape {weight.shape}; expected ({len(ranking)},), one for each ranking")
    return ranking, weight


def _places(ranking: ArrayLike, K: int, top: int | None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of K responses stands at place m, and which after it, both (..., M, K)"""
    ranking = _rows(ranking)
    places = ranking.shape[-1] if top is None else whole("top", top)
    _reject("ranking", ranking, (ranking < -1) | (ranking >= K), f"expected responses, 0 to {K - 1}, or -1")
    M = ranking.shape[-1]
    before = np.tri(M, M, -1, dtype=bool)
    repeats = ((ranking[..., :, None] == ranking[..., None, :]) & before).any(axis=-1) & (ranking >= 0)
    resumes = ((ranking[..., None, :] < 0) & before).any(axis=-1) & (ranking >= 0)
    _reject("ranking", ranking, repeats | resumes, "expected each response once, and -1 after the last alone")
    place = np.full((*ranking.shape[:-1], K + 1), -1)
    np.put_along_axis(place, ranking, np.broadcast_to(np.arange(M), ranking.shape), axis=-1)  # -1 writes to the last
    place, m = place[..., None, :K], np.arange(M)[:places, None]
    return place == m, place > m


def _choice(reward: Array, left: NDArray[np.bool_]) -> Array:
    """P(k) among those that are left, (..., M, K): all 0 where none is"""
    rows = reward[..., None, :]
    log_sum = logsumexp(np.where(left, rows, -np.inf), axis=-1, keepdims=True)
    p: Array = np.exp(np.where(left, rows - log_sum, -np.inf))
    return p
