"""What a loss makes of a table, given endless data: the policies that minimize exact population losses, loss by loss.

Most losses are -log σ(s_w - s_l) with a score s(y) that rises with π(y) alone:

    dpo  β log π/π_ref      ln_dpo  β log(π/π_ref)/|y|      simpo  β log(π)/|y|      f-DPO  β f'(π/π_ref)      ...

Then there is one stationary point, the minimum, wherever the comparisons connect all responses: s = r + c. Here r are
the rewards that the labels are Bradley-Terry of, whichever pairs are met, or, where no reward explains the labels, the
one that fits them best, `population.newton(wins, 1.0)`, which moves with the pairs; and Σ π = 1 fixes c. (The slope in
logit k is cₖ - πₖ Σ cᵢ with g = ∂L/∂s, Σ g = 0, and cᵢ = gᵢ ∂sᵢ/∂log πᵢ. If it vanishes then c = π C, and Σ g = 0
leaves C = 0.) So each is a root of one increasing function of c. π* = π_ref e^{r/β}/Z, see `optimum.boltzmann`, is that
of dpo; the others say something else.

Two responses need no root: `*_margin` is the number βh = β log(π(1)/π_ref(1)) - β log(π(2)/π_ref(2)) at the minimum,
given p = P(1 beats 2), any p; the policy is `optimum.boltzmann(ref, [margin, 0], beta)`. Where there is no reference,
in SimPO and ORPO (a root after all), it is a margin of log-probs. For K responses and any labels, cDPO is DPO of the
labels smoothed, `population.newton((1-ε) * wins + ε * wins.mT, beta)`.

Responses lie on the last axis, (..., K), and leading axes broadcast; rewards, β and α|y| share a unit, log-ratios and
τ⁻¹ are in nats, |y| counts tokens, EOS included. A response without mass in the reference gets none.

Every function raises `ValueError` where a policy has an entry below 0 or a row that does not sum to 1, a probability is
not from 0 to 1, a reward not finite, a length not above 0, β or τ not a finite number above 0, or shapes do not fit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, log_expit, log_softmax, logsumexp, wrightomega

from . import population
from ._checks import Array, _reject, distribution, finite, nonnegative, positive, probability, same_responses, square
from ._solvers import minimize, root
from .graph import laplacian, require_connected
from .optimum import boltzmann

__all__ = [
    "alphapo", "cdpo_margin", "exo_margin", "f_dpo", "gpo_margin", "ipo", "ipo_pairs", "kto", "length_normalized",
    "orpo_margin", "r_dpo", "rdpo_margin", "rpo", "sft", "simpo", "simpo_margin", "sppo",
]

LINKS = ("logistic", "savage", "exponential", "squared", "truncated_squared", "hinge")
DIVERGENCES = ("forward_kl", "js", "alpha", "chi2", "mixed_chi2")


# ---- two responses

def cdpo_margin(p: ArrayLike, eps: float) -> Array:
    """σ(m) = (1-ε) p + ε (1-p),   m = 2 artanh((1-2ε) (2p-1)), shape of p; DPO's logit(p) at ε = 0, inf at p = 1

    Labels that are smoothed or flipped pull m towards 0; certain ones leave log((1-ε)/ε). With K > 2 responses it holds
    pair by pair where the comparisons form a tree; elsewhere the smoothed labels are in general not Bradley-Terry.

    Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO". 0 <= ε < 1/2.

    >>> cdpo_margin([1.0, 0.5], eps=0.25).round(8)
    array([1.09861229, 0.        ])
    """
    p, eps = probability("p", p), _flips(eps)
    return _logit(p * (1 - eps) + (1 - p) * eps, (1 - p) * (1 - eps) + p * eps, (1 - 2 * eps) * (2 * p - 1))


def rdpo_margin(p: ArrayLike, eps: float) -> Array:
    """σ(m) = (p-ε)/(1-2ε),   m = 2 artanh((2p-1)/(1-2ε)), shape of p; inf where p >= 1-ε, -inf where p <= ε

    The inverse of `cdpo_margin`: of Bradley-Terry labels flipped with probability ε the optimum is π*, for any K. Where
    labels are surer than such flips can be, there is no minimum: the loss falls towards the infinity that is returned,
    without bound if p > 1-ε or p < ε (a certain label: -ε/(1-2ε) for each unit of margin). With K > 2 that need not be:
    the loss has a minimum as long as no set S of responses has Σ W (1-q) <= 0 against the others, q = (p-ε)/(1-2ε).

    Chowdhury et al. 2024, arXiv:2403.00409, eq. 12. 0 <= ε < 1/2.

    >>> rdpo_margin([0.625, 0.75, 0.9], eps=0.25).round(8)
    array([1.09861229,        inf,        inf])
    """
    p, eps = probability("p", p), _flips(eps)
    scale = 1 - 2 * eps
    return _logit(np.maximum(p - eps, 0) / scale, np.maximum(1 - p - eps, 0) / scale, (2 * p - 1) / scale)


def exo_margin(p: ArrayLike, eps: float) -> Array:
    """m = (2p-1) log((1-ε)/ε), shape of p: straight in p, where `cdpo_margin` is curved; the two meet at p = 0, 1/2, 1

    Ji et al. 2024, arXiv:2402.00856, eq. 17: the reverse KL of σ(m) from a smoothed label. 0 < ε < 1/2.

    >>> exo_margin([1.0, 0.75], eps=0.25).round(8)
    array([1.09861229, 0.54930614])
    """
    p, eps = probability("p", p), _flips(eps)
    if not eps:
        raise ValueError(f"eps is {eps}; expected above 0 and below 0.5")
    odds: Array = (2 * p - 1) * (np.log1p(-eps) - np.log(eps))
    return odds


def simpo_margin(p: ArrayLike, gamma: float) -> Array:
    """m = ½ L + arsinh(e^γ sinh(½ L)),   L = logit(p), shape of p: β (ℓ₁/|y₁| - ℓ₂/|y₂|) at the minimum, any lengths

    γ = 0 gives L, large γ L ± γ, γ -> -∞ half of L, the exponential loss. With x = e^m and g = e^γ it is the root of
    (1-p) x² + g (1-2p) x - p = 0. The policy is `simpo([m, 0], length, beta)`. Any p; two responses: with more, the
    margins m of a Bradley-Terry p do not add up.

    Meng et al. 2024, arXiv:2405.14734, eq. 6. γ, in units of reward, is any finite number.

    >>> simpo_margin([0.8, 0.5], gamma=1.4).round(8)
    array([2.52460479, 0.        ])
    """
    p, offset = probability("p", p), finite("gamma", gamma)
    half = _logit(p, 1 - p, 2 * p - 1) / 2
    with np.errstate(divide="ignore", over="ignore"):
        size = offset + np.log(np.sinh(abs(half)))
        more = np.where(size < 350, np.arcsinh(np.exp(np.minimum(size, 350))), size + np.log(2))
    total: Array = half + np.sign(half) * more
    return total


def gpo_margin(p: ArrayLike, link: str) -> Array:
    """argmin_m p f(m) + (1-p) f(-m), shape of p: βh at the minimum of the loss f(βh), of two responses

    "logistic": f = log(1 + e^-m) and "savage": 1/(1 + e^m)², m = logit(p).   "exponential": e^-m, m = ½ logit(p).
    "squared": (1 - m)² and "truncated_squared": max(0, 1-m)², m = 2p-1.   "hinge": max(0, 1-m), m = sign(2p-1), and
    anything from -1 to 1 at p = ½. With K > 2 and Bradley-Terry labels the logits hold pair by pair, the others do not.

    Tang et al. 2024, arXiv:2402.05749. IPO is "squared" with β = 2τ.

    >>> [gpo_margin(0.75, link).round(6).item() for link in ("logistic", "exponential", "squared", "hinge")]
    [1.098612, 0.549306, 0.5, 1.0]
    """
    p = probability("p", p)
    if link not in LINKS:
        raise ValueError(f"link is {link!r}; expected {' or '.join(map(repr, LINKS))}")
    if link == "hinge":
        return np.sign(2 * p - 1)
    if link in ("squared", "truncated_squared"):
        return 2 * p - 1
    return _logit(p, 1 - p, 2 * p - 1) / (2 if link == "exponential" else 1)


def orpo_margin(p: ArrayLike, lam: float) -> Array:
    """m with σ(m) - p + 2λ (σ(2m) - p) = 0, shape of p: log(π(1)/π(2)) at the minimum, of two responses of one token

    λ = 0, SFT, gives logit(p); the odds ratio alone, λ -> inf, ½ logit(p), as 2m is its logarithm. In between they
    disagree: π(1) is below p where p > ½. No reference anywhere.

    Hong et al. 2024, arXiv:2403.07691, eq. 6 and 7. λ is a finite number, at least 0.

    >>> orpo_margin([0.8, 0.5, 0.2], lam=0.1).round(6)
    array([ 1.239459,  0.      , -1.239459])
    """
    p = probability("p", p)
    if not (np.ndim(lam) == 0 and 0 <= lam < np.inf):
        raise ValueError(f"lam is {lam}; expected a finite number, at least 0")
    rarer, likelier, lead = np.minimum(p, 1 - p), np.maximum(p, 1 - p), abs(2 * p - 1)

    def slope(m: Array) -> Array:  # of the margin m <= 0 of the rarer; over 1 + 2λ, the second line twice that
        a, b = 1 / (1 + 2 * lam), 2 * lam / (1 + 2 * lam)
        return np.where(lead > 0.5, a * expit(m) + b * expit(2 * m) - rarer,
                        a * np.tanh(m / 2) + b * np.tanh(m) + lead)

    logit = _logit(rarer, likelier, -lead)
    return -np.sign(2 * p - 1) * root(slope, logit, logit / 2)


# ---- K responses

def ipo(ref: ArrayLike, preference: ArrayLike, tau: float) -> Array:
    """π(y) = π_ref(y) e^{p(y ≻ μ)/τ} / Z, shape (..., K), of pairs whose responses are both drawn from μ, independently

    preference (..., K) holds p(y ≻ μ) = Σ_y' μ(y') p(y ≻ y'), with p(y ≻ y) = ½; labels are arbitrary, μ has full
    support. Least squares: with pair weights that are not a product it is another policy, `ipo_pairs`; and as p(y ≻ μ)
    is not linear in r, it is not π* of another β either. The variant that averages over tokens ends at
    `length_normalized(ref, preference, length, tau)`.

    Azar et al. 2023, arXiv:2310.12036, eq. 7 and section 5.2.

    >>> ipo([0.5, 0.5], [0.75, 0.25], tau=0.5).round(8)
    array([0.73105858, 0.26894142])
    """
    return boltzmann(ref, probability("preference", preference), positive("tau", tau))


def ipo_pairs(ref: ArrayLike, wins: ArrayLike, tau: float) -> Array:
    """π = π_ref e^u / Z,   Σⱼ W[i, j] (uᵢ - uⱼ) = Σⱼ (wins[i, j] - wins[j, i])/(2τ),   W = wins + winsᵀ, shape (..., K)

    The least-squares fit to any comparisons: wins (..., K, K) is what `population` takes, entry [i, j] the weight of
    those in which i was preferred to j. Certain labels do no harm.

    Azar et al. 2023, arXiv:2310.12036, eq. 17.

    Raises `ValueError` where the comparisons do not connect all responses, `ArithmeticError` where weights are too
    different for float64.

    >>> ipo_pairs([0.5, 0.5], [[0.0, 1.0], [0.0, 0.0]], tau=0.5).round(8)  # σ(1/(2τ))
    array([0.73105858, 0.26894142])
    """
    ref, wins = distribution("ref", ref), nonnegative("wins", wins)
    K = ref.shape[-1]
    if wins.shape[-2:] != (K, K):
        raise ValueError(f"wins has shape {wins.shape}; expected (..., {K}, {K}) as ref has {K} responses")
    require_connected("wins", wins)
    target = (wins.sum(axis=-1) - wins.sum(axis=-2)) / 2
    u = np.zeros(target.shape)  # only differences matter: u[0] is held
    try:
        u[..., 1:] = np.linalg.solve(laplacian(wins + wins.mT)[..., 1:, 1:], target[..., 1:, None])[..., 0]
    except np.linalg.LinAlgError:
        raise ArithmeticError("wins has weights too different for float64: the equations are singular") from None
    return boltzmann(ref, u, positive("tau", tau))


def r_dpo(ref: ArrayLike, reward: ArrayLike, length: ArrayLike, beta: float, alpha: float) -> Array:
    """π(y) = π_ref(y) e^{(r(y) - α |y|)/β} / Z, shape (..., K): α > 0 makes responses shorter

    Of the loss -log σ(βh + α (|y_w| - |y_l|)): its score β log π/π_ref + α |y| is r + c. Undoes labels whose reward
    grows by α a token. Bradley-Terry labels of r, any connected pairs. α, of reward a token, is any finite number.

    Park et al. 2024, arXiv:2403.19159, eq. 9.

    >>> r_dpo([0.5, 0.5], [np.log(3.0), 0.0], [2, 1], beta=1.0, alpha=np.log(3.0))
    array([0.5, 0.5])
    """
    reward, length = finite("reward", reward), _lengths(length)
    same_responses(reward=reward, length=length)
    return boltzmann(ref, reward - finite("alpha", alpha) * length, beta)


def length_normalized(ref: ArrayLike, reward: ArrayLike, length: ArrayLike, beta: float) -> Array:
    """π(y) = π_ref(y) e^{|y| (r(y)/β + c)},   c the root of Σ π = 1, shape (..., K); π* where all lengths are 1

    Of the loss -log σ(β (a/|y_w| - b/|y_l|)), `ln_dpo`. Equal lengths n give π* of β/n; else the sign of c
    tilts towards long responses or short ones. Bradley-Terry labels of r, any connected pairs.

    Lambert et al. 2024 (Tülu 3), arXiv:2411.15124, eq. 6.

    >>> length_normalized([0.5, 0.5], [0.0, 0.0], [1, 4], beta=1.0)  # c = 0
    array([0.5, 0.5])
    """
    ref, reward, length = distribution("ref", ref), finite("reward", reward), _lengths(length)
    same_responses(ref=ref, reward=reward, length=length)
    best = np.where(ref > 0, reward, -np.inf).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", over="ignore"):
        log_ref, below = np.log(ref), np.minimum(reward - best, 0) / positive("beta", beta)
    log_ref, below, length = np.broadcast_arrays(log_ref, below, length)
    # the response whose π reaches 1 first as c rises: its c is the largest possible, and all else is measured from it
    first = np.where(log_ref > -np.inf, below + log_ref / length, -np.inf).argmax(axis=-1, keepdims=True)
    top, ref_top, n_top = (np.take_along_axis(x, first, axis=-1) for x in (below, log_ref, length))
    full = np.where(log_ref > -np.inf, log_ref + length * ((below - top) - ref_top / n_top), -np.inf)
    lowest = -np.log(length.shape[-1]) / length.min(axis=-1)
    c = root(lambda c: logsumexp(full + length * c[..., None], axis=-1), lowest, np.zeros_like(lowest))
    return _normalized(full + length * c[..., None])


def simpo(reward: ArrayLike, length: ArrayLike, beta: float) -> Array:
    """π(y) = e^{|y| (r(y)/β + c)},   c the root of Σ π = 1, shape (..., K), of γ = 0: independent of any reference

    Equal lengths n give e^{n r/β}/Z; of equal rewards the shorter response is the likelier. Bradley-Terry
    labels of r, any connected pairs. With γ > 0 there is a closed form for two responses,
    `simpo([simpo_margin(p, gamma), 0], length, beta)`.

    Meng et al. 2024, arXiv:2405.14734, eq. 6.

    >>> simpo([0.0, 0.0], [1, 2], beta=1.0).round(8)  # x + x² = 1
    array([0.61803399, 0.38196601])
    """
    return alphapo(reward, length, beta, alpha=0.0)


def alphapo(reward: ArrayLike, length: ArrayLike, beta: float, alpha: float) -> Array:
    """π(y) = (1 - α (r(y)/β + c))^{-|y|/α},   c the root of Σ π = 1, shape (..., K), of γ = 0; `simpo` at α = 0

    The tail is a power: unlikely responses keep more than SimPO leaves them. Bradley-Terry labels of r, any connected
    pairs. α >= 0: with α < 0 the score is bounded, and large differences of r are out of reach.

    Gupta et al. 2025, arXiv:2501.03884, eq. 5.

    >>> alphapo([0.0, -1.0], [1, 1], beta=1.0, alpha=1.0).round(8)  # x + x/(1 + x) = 1
    array([0.61803399, 0.38196601])
    """
    reward, length = finite("reward", reward), _lengths(length)
    same_responses(reward=reward, length=length)
    if not (np.ndim(alpha) == 0 and 0 <= alpha < np.inf):
        raise ValueError(f"alpha is {alpha}; expected a finite number, at least 0")
    with np.errstate(over="ignore"):
        below = (reward.max(axis=-1, keepdims=True) - reward) / positive("beta", beta)
    lowest = -np.log(length.shape[-1]) / length.min(axis=-1)

    def log_pi(y: Array) -> Array:  # y the mean log-prob of the best response
        x: Array = length * _power(y[..., None], below, alpha)
        return x

    lowest = np.broadcast_to(lowest, np.broadcast_shapes(below.shape, length.shape)[:-1])
    return _normalized(log_pi(root(lambda y: logsumexp(log_pi(y), axis=-1), lowest, np.zeros_like(lowest))))


def f_dpo(ref: ArrayLike, reward: ArrayLike, beta: float, divergence: str, alpha: float = 0.5) -> Array:
    """π(y) = π_ref(y) f'⁻¹((r(y) - λ)/β),   λ the root of Σ π = 1, shape (..., K): argmax E_π r - β D_f(π || π_ref)

    "forward_kl": f' = -1/u, π = π_ref β/(λ - r).   "js": f' = log(2u/(1+u)), π = π_ref/(2 e^{(λ-r)/β} - 1).
    "alpha": f' = (1 - u^-α)/α, π = π_ref (1 - α (r-λ)/β)^{-1/α}, any finite α (π* at 0); the order is 1 - α.
    "mixed_chi2": f' = u + log u, π = π_ref W(e^{(r-λ)/β}).   "chi2": f' = u - 1, π = π_ref max(0, 1 + (r-λ)/β).

    It minimizes the f-DPO loss of Bradley-Terry labels of r, any connected pairs, *if no response is at 0*. With χ²
    and α < 0, f'(0) is finite and low rewards are clipped to 0. There the loss, which asks of u_w - u_l what u >= 0
    cannot give, has a minimum of its own, at other probabilities of the others that move with the pairs (K > 2).

    Wang et al. 2023, arXiv:2309.16240, section 4; Huang et al. 2024, arXiv:2407.13399 (mixed χ²).

    >>> f_dpo([0.5, 0.5], [1.0, 0.0], 1.0, "forward_kl").round(8)
    array([0.70710678, 0.29289322])
    >>> f_dpo([0.25, 0.5, 0.25], [2.0, 1.0, -9.0], 1.0, "chi2").round(8)
    array([0.5, 0.5, 0. ])
    """
    ref, reward, beta = distribution("ref", ref), finite("reward", reward), positive("beta", beta)
    same_responses(ref=ref, reward=reward)
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence is {divergence!r}; expected {' or '.join(map(repr, DIVERGENCES))}")
    exponent = {"forward_kl": 1.0, "chi2": -1.0}.get(divergence, alpha)
    if not (np.ndim(exponent) == 0 and np.isfinite(exponent)):
        raise ValueError(f"alpha is {exponent}; expected a finite number")
    with np.errstate(divide="ignore"):
        log_ref = np.log(ref)
    best = np.where(ref > 0, reward, -np.inf).max(axis=-1, keepdims=True)
    mass = np.where(reward == best, ref, 0).sum(axis=-1)
    with np.errstate(over="ignore"):
        below = np.where(ref > 0, np.maximum(best - reward, 0) / beta, 0)

    def log_pi(y: Array) -> Array:  # y the log-ratio of the best response: from 0 to where it has all the mass
        y = y[..., None]
        if divergence == "js":
            with np.errstate(divide="ignore"):
                x: Array = -np.logaddexp(below - y, below + np.log(-np.expm1(-below)))
        elif divergence == "mixed_chi2":
            s = np.exp(np.minimum(y, 709)) + y - below
            omega = wrightomega(s)
            x = np.where(s < 0, s - omega, np.log(np.where(s < 0, 1, omega)))
        else:
            x = _power(y, below, exponent)
        return log_ref + x

    highest = np.broadcast_to(-np.log(np.minimum(mass, 1)), below.shape[:-1])
    return _normalized(log_pi(root(lambda y: logsumexp(log_pi(y), axis=-1), np.zeros_like(highest), highest)))


def sppo(ref: ArrayLike, mu: ArrayLike, win_rate: ArrayLike, beta: float) -> Array:
    """π = π_ref e^u,   u = t - W(λ (π_ref/μ) e^t),   t = (P(y ≻ μ) - ½)/β,   λ the root of Σ π = 1, shape (..., K)

    W is Lambert's function. Without Σ π = 1 the loss, 2 Σ μ (u - t)² and a constant, would have u = t; the multiplier λ
    takes from where π is large against μ. Not π_ref e^{P/β}/Z, to which it tends as β grows. The same for hard labels
    and for soft ones. Arbitrary labels; pairs i.i.d. from μ, or any pairs if μ (..., K) is the share of all places, two
    a pair, that a response has among them, and win_rate (..., K) the share of its comparisons that it wins.

    Wu et al. 2024, arXiv:2405.00675, eq. 4.7, which regresses without the constraint.

    Raises `ValueError` where μ is 0 and π_ref is not, and where Σ π_ref e^t < 1, so that λ < 0: the loss may then have
    several minima. With μ = π_ref, Jensen's inequality keeps it at 1 or above.

    >>> sppo([0.5, 0.5], [0.5, 0.5], [0.75, 0.25], beta=10.0).round(6)
    array([0.512493, 0.487507])
    """
    ref, mu, win_rate = distribution("ref", ref), distribution("mu", mu), probability("win_rate", win_rate)
    same_responses(ref=ref, mu=mu, win_rate=win_rate)
    t = (win_rate - 0.5) / positive("beta", beta)
    ref, mu, t = np.broadcast_arrays(ref, mu, t)
    _reject("mu", mu, (mu == 0) & (ref > 0), "expected above 0 wherever ref is")
    with np.errstate(divide="ignore"):
        log_ref, log_mu = np.log(ref), np.log(np.where(mu > 0, mu, 1))
    total = logsumexp(log_ref + t, axis=-1)
    K = ref.shape[-1]
    _reject("the sum of ref exp((win_rate - 1/2)/beta)", np.exp(np.minimum(total, 0)),
            total < -8 * K * np.finfo(float).eps * (1 + abs(t).max()), "expected at least 1")

    def log_pi(lam: Array) -> Array:
        with np.errstate(divide="ignore"):
            x: Array = log_ref + t - wrightomega(np.log(lam)[..., None] + log_ref - log_mu + t).real
        return x

    # from here on each has at most a share 1/K
    highest = K * (mu * np.maximum(log_ref + t + np.log(K), 0)).max(axis=-1)
    return _normalized(log_pi(root(lambda lam: -logsumexp(log_pi(lam), axis=-1), np.zeros_like(highest), highest)))


def sft(mu: ArrayLike, win_rate: ArrayLike, length: ArrayLike | None = None) -> Array:
    """π(y) = 2 μ(y) P(y ≻ μ), shape (..., K): the chosen responses; divided by |y|, and normalized, given `length`

    With length it is that of likelihoods per token. μ and win_rate (..., K) as in `sppo`: pairs i.i.d. from μ, or any.

    >>> sft([0.5, 0.5], [0.75, 0.25])
    array([0.75, 0.25])
    """
    mu, win_rate = distribution("mu", mu), probability("win_rate", win_rate)
    tokens = np.ones(mu.shape[-1]) if length is None else _lengths(length)
    same_responses(mu=mu, win_rate=win_rate, length=tokens)
    chosen = mu * win_rate / tokens
    total = chosen.sum(axis=-1)
    _reject("the sum of mu * win_rate", total, total == 0, "expected some response to win")
    share: Array = chosen / total[..., None]
    return share


def rpo(ref: ArrayLike, wins: ArrayLike, beta: float, alpha: float, steps: int = 200) -> Array:
    """argmin_π Σᵢⱼ wins[i, j] (-log σ(β (uᵢ - uⱼ)) - α log π(i)),   u = log π/π_ref, shape (..., K): DPO and likelihood

    Convex in the logits, and strictly so; at the minimum α (π(i) C - cᵢ) is the slope of the gap, c the weight with
    which i is chosen, C their sum. Between π*, α -> 0, and c/C, `sft`, α -> inf: the chosen rise, on average, and
    regret is what it costs. Newton's method in u from 0.

    ref (..., K), above 0; wins (..., K, K) as in `population`; its diagonal, a response met by itself, counts for the
    likelihood alone. α, a nat of likelihood against one of the DPO loss, is a finite number above 0. Responses of one
    token, or likelihoods that are sums.

    Pang et al. 2024, arXiv:2404.19733, eq. 1 of its third version.

    Raises `ValueError` where a response is never chosen: it falls without end. Raises `ArithmeticError` where `steps`
    steps are not enough.

    >>> rpo([0.5, 0.5], [[0.0, 0.75], [0.25, 0.0]], beta=0.5, alpha=1.0).round(6)  # 0.9 by DPO alone, 0.75 by `sft`
    array([0.793801, 0.206199])
    """
    ref, wins, beta = distribution("ref", ref), square("wins", wins), positive("beta", beta)
    same_responses(ref=ref, wins=wins[..., 0])
    _reject("ref", ref, ref == 0, "expected above 0")
    alpha, chosen = positive("alpha", alpha), wins.sum(axis=-1)
    _reject("the weight with which a response is chosen", chosen, chosen == 0, "expected above 0")
    if wins.ndim > 2 or ref.ndim > 1:
        lead = np.broadcast_shapes(ref.shape[:-1], wins.shape[:-2])
        each = zip(np.broadcast_to(ref, lead + ref.shape[-1:]).reshape(-1, ref.shape[-1]),
                   np.broadcast_to(wins, lead + wins.shape[-2:]).reshape(-1, *wins.shape[-2:]), strict=True)
        return np.stack([rpo(p, w, beta, alpha, steps) for p, w in each]).reshape(*lead, -1)

    def log_pi(x: Array) -> Array:  # u[0] held: only differences matter
        logits: Array = log_softmax(np.log(ref) + np.append(0, x))
        return logits

    def derivatives(x: Array) -> tuple[Array, Array]:
        u, pi, total = np.append(0, x), np.exp(log_pi(x)), chosen.sum()
        slope = population.gradient(u, wins, beta) + alpha * (total * pi - chosen)
        bend = population.hessian(u, wins, beta) + alpha * total * (np.diag(pi) - np.outer(pi, pi))
        return slope[1:], bend[1:, 1:]

    def loss(x: Array) -> Array:
        value: Array = population.objective(np.append(0, x), wins, beta) - alpha * (chosen @ log_pi(x))
        return value

    return np.exp(log_pi(minimize(loss, derivatives, np.zeros(len(ref) - 1), steps)))


def kto(
    ref: ArrayLike, mu: ArrayLike, desired: ArrayLike, beta: float, lam_d: float = 1.0, lam_u: float = 1.0,
    z0: float = 0.0,
) -> Array:
    """c(y) σ(v) σ(-v) = ν π(y),   c = μ (λ_D q - λ_U (1-q)),   v = β (log π/π_ref - z₀),   ν the root of Σ π = 1, where
    c > 0; π = 0 elsewhere; shape (..., K)

    The loss is -Σ c σ(v) and a constant, monotone in each π(y): responses that are desired less often than λ_U/(λ_D +
    λ_U) go to 0 at every β, without end, as long as one is desired more often. If none is, the mass has to stay: all of
    it on the response whose |c| σ(v) at π = 1 is least. DPO leaves every response something.

    ref, mu and desired (..., K): μ is how often responses are shown, q = P(desirable | y). Pairs taken apart make them
    the share of all places, and of comparisons won, as in `sppo`; with λ_D = λ_U and z₀ = 0 it is the limit of
    `apo_zero` too. 0 < β <= 1: beyond, the loss is not concave in π(y), and may have several minima. z₀ is held, in
    nats.

    Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8.

    Raises `ValueError` where c is above 0 nowhere and several responses would do for all the mass.

    >>> kto([1/3, 1/3, 1/3], [1/3, 1/3, 1/3], [0.4, 0.3, 0.2], beta=0.1)
    array([1., 0., 0.])
    >>> kto([0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.8, 0.7, 0.4], beta=0.5).round(6)
    array([0.597585, 0.402415, 0.      ])
    """
    ref, mu, q = distribution("ref", ref), distribution("mu", mu), probability("desired", desired)
    same_responses(ref=ref, mu=mu, desired=q)
    beta, z0 = positive("beta", beta), float(finite("z0", z0))
    if beta > 1:
        raise ValueError(f"beta is {beta}; expected at most 1, as the loss may have several minima above")
    lam_d, lam_u = positive("lam_d", lam_d), positive("lam_u", lam_u)
    ref, c = np.broadcast_arrays(ref, mu * (lam_d * q - lam_u * (1 - q)))
    with np.errstate(divide="ignore"):
        log_ref = np.log(ref)
    kept = (c > 0) & (ref > 0)
    none = ~np.asarray(kept.any(axis=-1, keepdims=True))
    cost = np.where(ref > 0, -c * expit(beta * (-log_ref - z0)), np.inf)  # of all the mass on one response
    best = cost == cost.min(axis=-1, keepdims=True)
    ties = best.sum(axis=-1)
    _reject("the number of responses that might keep all mass", ties, none[..., 0] & (ties > 1), "expected one")
    log_ref, log_c = np.where(kept, log_ref, 0), np.log(np.where(kept, c, 1))

    def log_price(log_pi: Array) -> tuple[Array, Array]:  # log ν of each response by itself, and its slope, times -1
        v = beta * (log_pi - log_ref - z0)
        return log_c + log_expit(v) + log_expit(-v) - log_pi, 1 - beta + 2 * beta * expit(v)

    def log_pi(level: Array) -> Array:  # at log ν = -level
        x = np.zeros(c.shape)
        for _ in range(1000):  # log ν falls and is concave, for β <= 1: from the right, Newton's steps never overshoot
            price, fall = log_price(x)
            lower = np.maximum(x + (price + level[..., None]) / np.maximum(fall, 1e-300), -800)
            if (lower >= x).all():
                break
            x = np.minimum(lower, x)
        return np.where(kept, x, np.where(none & best, 0, -np.inf))

    lowest, highest = (-np.where(kept | none, log_price(np.full(c.shape, x))[0], -np.inf).max(axis=-1)
                       for x in (-np.log(c.shape[-1]), 0.0))
    return _normalized(log_pi(root(lambda level: logsumexp(log_pi(level), axis=-1), lowest, highest)))


# ---- roots

def _power(y: Array, d: Array, alpha: float) -> Array:
    """x with (1 - e^-αx)/α = (1 - e^-αy)/α - d, d >= 0; -inf where there is none; y - d at α = 0"""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        rate = np.exp(alpha * y)
        w = alpha * d * rate
        straight = abs(w) < 1e-16
        fall = np.where(np.isfinite(w), np.log1p(np.maximum(w, -1)), np.log(abs(alpha)) + np.log(d) + alpha * y)
        x: Array = np.where(d == 0, y, y - np.where(straight, d * rate, fall / alpha if alpha else d))
    return x


def _normalized(log_pi: Array) -> Array:
    """e^log π, its sum, which is 1 but for rounding, divided out"""
    pi: Array = np.exp(log_softmax(log_pi, axis=-1))
    return pi


def _logit(q: Array, not_q: Array, difference: Array) -> Array:
    """log(q/(1-q)), given 1-q and 2q-1 too: neither end nor middle loses digits"""
    with np.errstate(divide="ignore"):
        ends = np.log(q) - np.log(not_q)
    middle: Array = np.where(abs(difference) < 0.5, 2 * np.arctanh(np.clip(difference, -0.5, 0.5)), ends)
    return middle


# ---- domains

def _lengths(length: ArrayLike) -> Array:
    length = finite("length", length)
    _reject("length", length, length <= 0, "expected numbers of tokens, above 0")
    return length


def _flips(eps: float) -> float:
    if not (np.ndim(eps) == 0 and 0 <= eps < 0.5):
        raise ValueError(f"eps is {eps}; expected at least 0 and below 0.5")
    return float(eps)
