"""What training logs, read off π* itself: log-ratios of the chosen and the rejected, and how often π ranks pairs right.

    Σ_y c(y) log(π*(y)/π_ref(y)) = (E_c r - J*)/β        c(y): how often the chosen response is y;   J* = β log Z

J* runs from E_ref r, as β -> ∞, to the largest reward, as β -> 0, and E_c r is in between: below the β where J* = E_c r
the log-probs of the chosen have fallen, on average, at the exact optimum; above it they have risen. Those of the
rejected have fallen at every β if E r of the rejected is below E_ref r.

Responses lie on the last axis, (..., K); leading axes (prompts, replicates) broadcast. Log-ratios are in nats, β is in
units of reward a nat; labels are Bradley-Terry's of the rewards.

Every function raises `ValueError` where a policy has an entry below 0 or a row that does not sum to 1, a number is not
finite, β is not finite and above 0, or shapes do not fit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, log_expit

from ._checks import Array, _reject, distribution, finite, leading, positive, positives, same_responses, square
from ._solvers import root
from .temperature import _ceiling, _problem, _tilted

__all__ = ["Pairs", "crossover", "mean_log_ratio", "pairs", "ranking_accuracy", "ranking_loss"]


class Pairs(NamedTuple):
    """How often each response is the chosen one, and the rejected one; each (..., K), of sum 1."""

    chosen: Array
    rejected: Array


def pairs(ref: ArrayLike, reward: ArrayLike, distinct: bool = False) -> Pairs:
    """chosen(y) = 2 π_ref(y) Σ_y' π_ref(y') σ(r(y) - r(y')), rejected: σ(r(y') - r(y)): two draws, compared

    ref, reward (..., K). A response that is drawn twice is kept, and a coin labels it. distinct=True draws again until
    the two differ: the terms y' = y are left out, and both are normalized. Raises `ValueError` where that cannot be.

    >>> pairs([0.5, 0.5], [np.log(3.0), 0.0])
    Pairs(chosen=array([0.625, 0.375]), rejected=array([0.375, 0.625]))
    >>> pairs([0.5, 0.5], [np.log(3.0), 0.0], distinct=True)
    Pairs(chosen=array([0.75, 0.25]), rejected=array([0.25, 0.75]))
    """
    ref, reward = distribution("ref", ref), finite("reward", reward)
    same_responses(ref=ref, reward=reward)
    wins = ref[..., :, None] * ref[..., None, :] * expit(reward[..., :, None] - reward[..., None, :])
    if distinct:
        held = (ref > 0).sum(axis=-1)
        _reject("the number of responses with mass in ref", held, held < 2, "expected two that differ")
        wins = np.where(np.eye(ref.shape[-1], dtype=bool), 0, wins)
    total = wins.sum(axis=(-2, -1))[..., None]
    return Pairs(wins.sum(axis=-1) / total, wins.sum(axis=-2) / total)


def mean_log_ratio(share: ArrayLike, ref: ArrayLike, reward: ArrayLike, beta: ArrayLike) -> Array:
    """Σ_y share(y) log(π*(y)/π_ref(y)) = (E_share r - J*)/β, in nats, shape (...)

    share, ref, reward (..., K); beta (...). Of `pairs(...).chosen` it is what training logs, less the reference's, for
    the chosen. Raises `ValueError` where share has mass and the reference has none.

    >>> chosen, rejected = pairs([0.5, 0.5], [1.0, 0.0])
    >>> mean_log_ratio([chosen, rejected], [0.5, 0.5], [1.0, 0.0], beta=[[0.1], [2.0]]).round(4)
    array([[-3.1516, -5.4622],
           [ 0.0268, -0.0887]])
    """
    share, log_ref, reward = _given(share, ref, reward)
    beta = positives("beta", beta)
    leading(share=share[..., 0], reward=reward[..., 0], beta=beta)
    return _mean_log_ratio(share, log_ref, reward, beta)


def crossover(share: ArrayLike, ref: ArrayLike, reward: ArrayLike) -> Array:
    """The β below which `mean_log_ratio` is negative, and above which it is positive, shape (...): J* = E_share r there

    share, ref, reward (..., K). inf where E_share r is not above E_ref r: negative at every β. 0 where share is on the
    best responses alone: negative at none. Otherwise there is just one, as J* falls with β from one end to the other.
    Of `pairs(...).chosen` there is one wherever rewards differ, and it tends to 1 as they come together, whatever the
    reference; of pairs that are distinct there need not be one, and at a uniform reference that limit is (K-1)/K.

    >>> crossover(pairs([0.5, 0.5], [1.0, 0.0]).chosen, [0.5, 0.5], [1.0, 0.0]).round(6)
    np.float64(1.042903)
    """
    share, log_ref, reward = _given(share, ref, reward)
    leading(share=share[..., 0], reward=reward[..., 0])
    below = reward - reward.max(axis=-1, keepdims=True)
    short = -(share * below).sum(axis=-1)  # of the best
    ahead = ((share - np.exp(log_ref)) * below).sum(axis=-1)  # of the reference
    ceiling = _ceiling(log_ref, below == 0)
    crosses = (short > 0) & (ahead > 0)
    # J* is no less than the best less β ceiling, and no more than E_ref r + (largest - least)²/(8 β), Hoeffding's lemma
    lowest = np.log(np.where(crosses, short, 1)) - np.log(np.where(crosses, ceiling, 1))
    highest = 2 * np.log(-np.where(crosses, below.min(axis=-1), -1)) - np.log(8 * np.where(crosses, ahead, 1))
    log_beta = root(lambda t: _mean_log_ratio(share, log_ref, reward, np.exp(t)), lowest, highest)
    return np.where(crosses, np.exp(log_beta), np.where(short > 0, np.inf, 0))


def ranking_accuracy(score: ArrayLike, wins: ArrayLike) -> Array:
    """Σ wins[i, j] ([sᵢ > sⱼ] + ½ [sᵢ = sⱼ]) / Σ wins, i ≠ j, shape (...): how often scores agree with labels

    score (..., K), ±inf allowed; wins (..., K, K), entry [i, j] the weight of comparisons in which i was preferred to
    j. Scores log π* give the ranking accuracy of the optimum, which is that of π_ref for large β, log-ratios
    log π*/π_ref its implicit-reward accuracy, which is 1 for labels that are always those of the rewards. Chen et al.
    2024, arXiv:2405.19534.

    >>> ranking_accuracy([0.3, 0.2, 0.5], [[0, 1, 1], [0, 0, 0], [0, 1, 0]]).round(6)
    np.float64(0.666667)
    """
    score, wins = np.asarray(score, float), square("wins", wins)
    _reject("score", score, np.isnan(score), "expected numbers")
    same_responses(score=score, wins=wins[..., 0])
    wins = np.where(np.eye(wins.shape[-1], dtype=bool), 0, wins)
    total = wins.sum(axis=(-2, -1))
    _reject("the sum of wins off its diagonal", total, total == 0, "expected comparisons")
    mine, other = score[..., :, None], score[..., None, :]
    right = np.where(mine == other, 0.5, mine > other)
    accuracy: Array = (wins * right).sum(axis=(-2, -1)) / total
    return accuracy


def ranking_loss(ref: ArrayLike, beta: float) -> Array:
    """[i, j] = -log σ(βc) = log(1 + (π_ref(i)/π_ref(j))^β),   c = log(π_ref(j)/π_ref(i)), in nats, shape (..., K, K)

    π(i) > π(j) if the DPO loss -log σ(βh) of "i is better than j" is below [i, j], and π(i) = π(j) if it is that. A
    pair that the reference ranks wrong by c = 30 nats must come down to 0.049 at β = 0.1. ref (..., K), above 0. Chen
    et al. 2024, arXiv:2405.19534.

    >>> ranking_loss([0.2, 0.8], beta=0.5)[0, 1].round(6)  # log(1 + ½)
    np.float64(0.405465)
    """
    ref = distribution("ref", ref)
    _reject("ref", ref, ref == 0, "expected probabilities above 0")
    log_ref = np.log(ref)
    loss: Array = -log_expit(positive("beta", beta) * (log_ref[..., None, :] - log_ref[..., :, None]))
    return loss


def _given(share: ArrayLike, ref: ArrayLike, reward: ArrayLike) -> tuple[Array, Array, Array]:
    share, held = distribution("share", share), np.asarray(ref) > 0
    log_ref, reward = _problem(ref, reward)
    same_responses(share=share, ref=log_ref)
    _reject("share", share + 0 * held, (share > 0) & ~held, "expected 0 wherever ref is")
    return share, log_ref, reward


def _mean_log_ratio(share: Array, log_ref: Array, reward: Array, beta: Array) -> Array:
    with np.errstate(invalid="ignore"):
        terms = share * _tilted(log_ref, reward, beta).log_ratio
    mean: Array = np.where(share > 0, terms, 0).sum(axis=-1)
    return mean
