"""What β buys, and what becomes of π* under another β, another reference, several rewards.

    dE r/d(1/β) = Var r     dKL/d(1/β) = Var r/β     dJ*/dβ = -KL     and so  dE r/dKL = β

under π* = π_ref e^{r/β}/Z, see `optimum.boltzmann`: log Z is the cumulant generating function of r, at 1/β. As β falls,
(KL, E r) runs along the frontier of reward against divergence, whose slope it is: β is what a nat costs. Log-ratios
log π*/π_ref are r/β up to a constant, so that they add: mixtures of optimal policies are optimal policies.

Responses lie on the last axis, (..., K); leading axes (prompts, replicates) broadcast. KL is in nats; β is in units of
reward a nat. A response without mass in the reference has none in any of these policies.

Every function raises `ValueError` where a policy has an entry below 0 or a row that does not sum to 1, a reward is not
finite, β is not finite and above 0, or shapes do not fit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammainc, logsumexp, softmax, xlogy

from ._checks import Array, _reject, distribution, finite, leading, nonnegative, positive, positives, same_responses
from ._solvers import root
from .optimum import log_boltzmann

__all__ = [
    "Frontier", "Moments", "cost", "frontier", "geometric_mixture", "mixture_weights", "moments", "realigned",
    "rereferenced", "trust_region_beta",
]


# ---- the frontier

class Moments(NamedTuple):
    """Of π*, each of shape (...)."""

    reward: Array  # E r
    variance: Array  # Var r = dE r/d(1/β) = β dKL/d(1/β)
    kl: Array  # KL(π* || π_ref) = -dJ*/dβ


def moments(ref: ArrayLike, reward: ArrayLike, beta: ArrayLike) -> Moments:
    """E r, Var r and KL(π* || π_ref) under π*, each of shape (...): where the frontier is, and how it goes on

    ref, reward (..., K); beta (...), so that a row of them draws the frontier. KL -> Var_ref r/(2β²) as β rises, and
    -log π_ref(argmax r) as it falls; KL and Var r have all their digits even where they are tiny.

    >>> moments([0.5, 0.5], [1.0, -1.0], beta=1.0)
    Moments(reward=np.float64(0.761594...), variance=np.float64(0.419974...), kl=np.float64(0.327813...))
    >>> moments([0.5, 0.5], [1.0, -1.0], beta=[1.0, 1e9]).kl
    array([3.27813325e-01, 5.00000000e-19])
    """
    log_ref, reward = _problem(ref, reward)
    beta = positives("beta", beta)
    leading(reward=reward[..., 0], beta=beta)
    return _moments(log_ref, reward, beta)


class Frontier(NamedTuple):
    """Each of shape (...)."""

    reward: Array  # the largest E r
    beta: Array  # its slope dE r/dKL: the β whose π* attains it


def frontier(ref: ArrayLike, reward: ArrayLike, kl: ArrayLike) -> Frontier:
    """max {E_π r : KL(π || π_ref) <= kl} and its slope β, each of shape (...): π* of that β attains it

    ref, reward (..., K); kl (...), in nats, at least 0. It rises from E_ref r, with slope inf, ever less steeply, to
    the largest reward that the reference can reach, at kl = -log π_ref(argmax r); from there on it is flat, slope 0. No
    policy is above it. Of a reward that is normal under π_ref, with standard deviation s, it is E_ref r + s √(2 kl).

    >>> frontier([0.5, 0.5], [1.0, -1.0], kl=[0.0, 0.327813325, 5.0])
    Frontier(reward=array([0.        , 0.76159416, 1.        ]), beta=array([inf,  1.,  0.]))
    """
    log_ref, reward = _problem(ref, reward)
    kl = np.asarray(kl, float)
    _reject("kl", kl, ~((kl >= 0) & (kl < np.inf)), "expected finite numbers, at least 0")
    leading(reward=reward[..., 0], kl=kl)
    below = reward.max(axis=-1, keepdims=True) - reward
    ceiling = _ceiling(log_ref, below == 0)
    nearest, farthest = (f(below, axis=-1, where=below > 0, initial=x) for f, x in ((np.min, np.inf), (np.max, 1e-300)))
    with np.errstate(divide="ignore"):
        # the root in log 1/β: KL <= (spread/β)²/8, Hoeffding's lemma; at the other end only the best have mass
        lowest = np.log(8 * kl) / 2 - np.log(farthest)
        highest = np.log(800 + ceiling) - np.log(np.clip(nearest, 1e-300, farthest))

    def at(log_inverse: Array) -> Moments:
        return _moments(log_ref, reward, np.exp(-log_inverse))

    log_inverse = root(lambda t: at(t).kl - kl, *np.broadcast_arrays(lowest, highest))
    return Frontier(at(log_inverse).reward, np.where(kl < ceiling, np.exp(-log_inverse), 0))


def cost(ref: ArrayLike, reward: ArrayLike, beta: float, trained_beta: ArrayLike) -> Array:
    """J* - J(π*_b) = β KL(π*_b || π*_β), J being that of β, in units of reward, shape (...): optimal for another b

    ref, reward (..., K); trained_beta (...) are the b.

    >>> cost([0.5, 0.5], [1.0, -1.0], beta=1.0, trained_beta=[0.5, 1.0, 2.0]).round(8)
    array([0.07280566, 0.        , 0.08260774])
    """
    log_best, b = log_boltzmann(ref, reward, beta), positives("trained_beta", trained_beta)
    _, reward = _problem(ref, reward)
    leading(reward=reward[..., 0], trained_beta=b)
    with np.errstate(divide="ignore", over="ignore"):
        return beta * _moments(log_best, reward, b / ((beta - b) / beta)).kl  # π*_b = π*_β e^{r/b - r/β} / Z


# ---- sums of log-ratios

def geometric_mixture(ref: ArrayLike, policies: ArrayLike, weight: ArrayLike) -> Array:
    """π(y) = π_ref(y) Πₙ (πₙ(y)/π_ref(y))^wₙ / Z, shape (..., K): log-ratios add

    ref (..., K), policies (N, ..., K), weight (N,), any sign. If πₙ is optimal for rₙ at βₙ, it is π* of Σ wₙ rₙ/βₙ (at
    β = 1). Weights that sum to 1 need no reference. Exact for whole responses; what decoders do, the same mixture token
    by token, is something else. Shi et al. 2024, arXiv:2406.18853.

    Raises `ValueError` where a policy has mass and the reference has none, where one with wₙ < 0 has none and the
    reference has, and where no response has mass in all policies with wₙ > 0.

    >>> geometric_mixture([0.5, 0.5], [[0.8, 0.2], [0.5, 0.5]], [0.5, 0.5]).round(8)  # odds 4^½
    array([0.66666667, 0.33333333])
    """
    ref, policies, weight = distribution("ref", ref), distribution("policies", policies), finite("weight", weight)
    if policies.ndim < 2 or weight.shape != policies.shape[:1]:
        raise ValueError(f"the shapes of weight {weight.shape} and policies {policies.shape} do not fit; "
                         "expected (N,) and (N, ..., K)")
    same_responses(ref=ref, policies=policies[0])
    w = weight.reshape(-1, *[1] * (policies.ndim - 1))
    _reject("policies", policies, (policies > 0) & (ref == 0), "expected 0 wherever ref is")
    _reject("policies", policies, (policies == 0) & (ref > 0) & (w < 0), "expected above 0 where its weight is below")
    with np.errstate(divide="ignore", invalid="ignore"):
        logits = (1 - weight.sum()) * np.log(ref) + xlogy(w, policies).sum(axis=0)
    return _normalized("policies", np.where(ref > 0, logits, -np.inf))


def realigned(ref: ArrayLike, pi: ArrayLike, lam: float) -> Array:
    """π_ref^{1-λ} π^λ / Z, shape (..., K): of π = π*, optimal for β, the policy that is optimal for β/λ

    ref, pi (..., K); λ is 0 at the reference, 1 at π, and goes on beyond. Liu et al. 2024, arXiv:2402.02992 (DeRa), who
    decode it token by token, which is an approximation. Errors as in `geometric_mixture`.

    >>> realigned([0.5, 0.5], [0.8, 0.2], lam=2.0).round(8)  # odds 4²
    array([0.94117647, 0.05882353])
    """
    if not (np.ndim(lam) == 0 and 0 <= lam < np.inf):
        raise ValueError(f"lam is {lam}; expected a finite number, at least 0")
    return geometric_mixture(ref, distribution("pi", pi)[None], [lam])


class Mixture(NamedTuple):
    weight: Array  # (N,), of sum 1
    beta: float


def mixture_weights(lam: ArrayLike, beta: ArrayLike) -> Mixture:
    """wₙ = λₙ βₙ / Σ λ β: the mixture of π*ₙ, of rₙ at βₙ, that is π* of Σ λₙ rₙ, and its β = Σ λₙ βₙ

    lam, beta (N,). With one β and Σ λ = 1 the weights are λ and the β is that one; with several, weights λ belong to
    other rewards. For another β' take `geometric_mixture` with weights λₙ βₙ/β', which need the reference. Zhou et al.
    2023, arXiv:2310.03708, train for Σ λₙ rₙ; Shi et al. 2024, arXiv:2406.18853, mix.

    >>> mixture_weights([0.5, 0.5], [0.1, 0.3])
    Mixture(weight=array([0.25, 0.75]), beta=0.2)
    """
    lam, beta = nonnegative("lam", lam), positives("beta", beta)
    if lam.ndim != 1 or lam.shape != beta.shape:
        raise ValueError(f"the shapes of lam {lam.shape} and beta {beta.shape} do not fit; expected (N,) and (N,)")
    if not lam.any():
        raise ValueError(f"lam is {lam.tolist()}; expected a weight above 0")
    total = (lam * beta).sum()
    return Mixture(lam * beta / total, float(total))


def trust_region_beta(beta: float, rounds: ArrayLike, alpha: float = 1.0) -> Array:
    """β/(1 + α (k-1)), shape of rounds: the β whose π* k rounds end at, each of them optimal for its reference

    After a round the reference moves: log π_ref' = (1-α) log π_ref + α log π + constant. α = 1 puts π in its place, and
    k rounds end at β/k; α = 0 leaves it. Gorbatovski et al. 2024, arXiv:2404.09656 (TR-DPO), average parameters: of a
    table's logits that is the same. rounds are whole numbers, at least 1.

    >>> trust_region_beta(0.6, [1, 2, 3]), trust_region_beta(0.6, 3, alpha=0.5)
    (array([0.6, 0.3, 0.2]), np.float64(0.3))
    """
    k = np.asarray(rounds, float)
    _reject("rounds", k, ~((k >= 1) & (k < np.inf) & (k == np.floor(k))), "expected whole numbers, at least 1")
    if not (np.ndim(alpha) == 0 and 0 <= alpha <= 1):
        raise ValueError(f"alpha is {alpha}; expected a number from 0 to 1")
    return positive("beta", beta) / (1 + alpha * (k - 1))


def rereferenced(pi: ArrayLike, ref: ArrayLike, other: ArrayLike) -> Array:
    """π(y) π_other(y)/π_ref(y) / Z, shape (..., K): of π = π*, what is optimal for the other reference, same r and β

    pi, ref, other (..., K). A loss that is given the wrong reference log-probs ends off by exactly this factor. Raises
    `ValueError` where the other has mass and the reference has none, and where nothing is left.

    >>> rereferenced([0.75, 0.25], [0.5, 0.5], [0.25, 0.75])
    array([0.5, 0.5])
    """
    pi, ref, other = distribution("pi", pi), distribution("ref", ref), distribution("other", other)
    same_responses(pi=pi, ref=ref, other=other)
    _reject("other", other + 0 * ref, (other > 0) & (ref == 0), "expected 0 wherever ref is")
    with np.errstate(divide="ignore"):
        return _normalized("pi and other", np.log(pi) + np.log(other) - np.log(np.where(ref > 0, ref, 1)))


# ---- tilted distributions, in logarithms

def _problem(ref: ArrayLike, reward: ArrayLike) -> tuple[Array, Array]:
    """log π_ref, and r, which is the largest within reach where the reference has no mass"""
    ref, reward = distribution("ref", ref), finite("reward", reward)
    same_responses(ref=ref, reward=reward)
    top = np.where(ref > 0, reward, -np.inf).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.log(ref / ref.sum(axis=-1, keepdims=True)), np.where(ref > 0, reward, top)


def _ceiling(log_ref: Array, best: NDArray[np.bool_]) -> Array:
    """-log π_ref(best): KL with all mass there, the largest on the frontier"""
    rest = np.where(best, 0, np.exp(log_ref)).sum(axis=-1)
    nearly: Array = -np.log1p(-np.minimum(rest, 0.5))
    return np.where(rest < 0.5, nearly, -logsumexp(np.where(best, log_ref, -np.inf), axis=-1))


class _Tilted(NamedTuple):
    """p = q e^{r/β} / Z."""

    log_ratio: Array  # log p/q, (..., K)
    p: Array  # (..., K)
    likeliest: Array  # the reward of the response with the largest p, (..., 1)


def _tilted(log_q: Array, reward: Array, beta: Array) -> _Tilted:
    """β of any sign. Exponents are measured from the likeliest response: log p/q has its digits where it is tiny, be it
    that p is close to q or that both are close to certain."""
    q, beta = np.exp(log_q), beta[..., None]
    extreme = np.where(beta > 0, reward.max(axis=-1, keepdims=True), reward.min(axis=-1, keepdims=True))
    with np.errstate(over="ignore"):
        logits = log_q + (reward - extreme) / beta
        mode = logits.argmax(axis=-1)[..., None]
        likeliest, log_mode = (np.take_along_axis(np.broadcast_to(a, logits.shape), mode, -1) for a in (reward, log_q))
        x = np.where(log_q > -np.inf, (reward - likeliest) / beta, 0)
    share = np.exp(log_q + x - log_mode)
    total = share.sum(axis=-1, keepdims=True)
    change = np.where(x < 1, q * np.expm1(np.minimum(x, 1)), np.exp(log_q + x) - q).sum(axis=-1, keepdims=True)
    log_z = np.where(change > -0.5, np.log1p(np.maximum(change, -0.5)), log_mode + np.log(total))
    return _Tilted(x - log_z, share / total, likeliest)


def _moments(log_q: Array, reward: Array, beta: Array) -> Moments:
    """Under p = q e^{r/β} / Z; KL is KL(p || q) = Σ q ψ(log p/q),   ψ(d) = d e^d - e^d + 1 >= 0

    ψ(d) is P(2, -d) for d <= 0 and e^d (d (1 - e^-d) - P(2, d)) for d >= 0, P the incomplete gamma function: nothing is
    lost to differences.
    """
    d, p, likeliest = _tilted(log_q, reward, beta)
    up, down = np.maximum(d, 0), np.maximum(-d, 0)
    kl = (p * (-up * np.expm1(-up) - gammainc(2, up)) + np.exp(log_q) * gammainc(2, down)).sum(axis=-1)
    apart = np.where(p > 0, reward - likeliest, 0)
    mean = (p * apart).sum(axis=-1)
    variance = (p * (apart - mean[..., None]) ** 2).sum(axis=-1)
    return Moments(likeliest[..., 0] + mean, variance, kl)


def _normalized(name: str, logits: Array) -> Array:
    if (logits.max(axis=-1) == -np.inf).any():
        raise ValueError(f"{name} leave no response any mass; expected one that all have in common")
    pi: Array = softmax(logits, axis=-1)
    return pi
