"""f-divergences and Rényi's, between distributions over finite response sets, with their generators.

    D_f(p || q) = Σ_y q(y) f(p(y)/q(y))        f convex,   f(1) = 0,   f'(1) = 0

    divergence           f(u)                                  f'(u)             D_f
    "reverse_kl"         u log u - u + 1                       log u             KL(p || q), as `optimum.kl`
    "forward_kl"         u - 1 - log u                         1 - 1/u           KL(q || p)
    "js"                 u log u - (1 + u) log ½(1 + u)        log 2u/(1 + u)    twice that of Jensen and Shannon
    "chi2"               ½ (u - 1)²                            u - 1             half of Pearson's χ²
    "mixed_chi2"         ½ (u - 1)² + u log u - u + 1          u - 1 + log u     of both
    "alpha"              u/α - u^(1-α)/(α (1-α)) + 1/(1-α)     (1 - u^-α)/α      of order 1-α, any finite α
    "squared_hellinger"  ½ (√u - 1)²                           ½ (1 - u^-½)      ½ Σ (√p - √q)²
    "total_variation"    ½ |u - 1|                             ½ sign(u - 1)     ½ Σ |p - q|

f'(1) = 0 is a choice: adding c (u - 1) to f adds c Σ (p - q) = 0. With it no term is below 0, so that none cancels
another, and D_f keeps its digits however close p and q are. Where q has no mass the term is p f'(∞), its limit.

Names, scales and α are those of `minimizers.f_dpo`, whose policy maximizes E_π r - β D_f(π || π_ref); its f' differ by
constants, which move λ alone. "alpha" is "reverse_kl" at α = 0, "forward_kl" at 1, "chi2" at -1 and four times
"squared_hellinger" at ½; α and 1-α are each other's D with p and q exchanged. Ali & Silvey 1966, Csiszár 1967; Wang et
al. 2023, arXiv:2309.16240; Huang et al. 2024, arXiv:2407.13399 (mixed χ²).

Responses lie on the last axis, (..., K); leading axes broadcast. Divergences are in nats.

Every function raises `ValueError` where a policy has an entry below 0 or a row that does not sum to 1, a divergence is
not one of these, α is not a finite number, or shapes do not fit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import wrightomega, xlogy

from ._checks import Array, _reject, distribution, finite, same_responses

__all__ = ["f_divergence", "generator", "renyi", "slope", "slope_inverse"]

#: scale and α of those that are multiples of "alpha"
_POWERS = {"reverse_kl": (1.0, 0.0), "forward_kl": (1.0, 1.0), "chi2": (1.0, -1.0), "squared_hellinger": (0.25, 0.5)}
DIVERGENCES = (*_POWERS, "alpha", "js", "mixed_chi2", "total_variation")


def f_divergence(p: ArrayLike, q: ArrayLike, divergence: str, alpha: float = 0.5) -> Array:
    """D_f(p || q) = Σ_y q(y) f(p(y)/q(y)), shape (...)

    p, q (..., K). inf where p has mass and q has none for "reverse_kl", "chi2", "mixed_chi2" and α <= 0; where q has
    mass and p has none for "forward_kl" and α >= 1; and nowhere else, up to float64's own range.

    >>> f_divergence([0.5, 0.5], [0.25, 0.75], "chi2").round(8)
    np.float64(0.16666667)
    >>> f_divergence([1.0, 0.0], [0.0, 1.0], "squared_hellinger")
    np.float64(1.0)
    """
    p, q = distribution("p", p), distribution("q", q)
    same_responses(p=p, q=q)
    total: Array = _terms(p, q, divergence, alpha).sum(axis=-1)
    return total


def renyi(p: ArrayLike, q: ArrayLike, order: float) -> Array:
    """D_a(p || q) = log(Σ_y p(y)^a q(y)^(1-a))/(a-1), a the order, shape (...); it never falls as the order rises

    p, q (..., K); the order from 0 to inf. Limits: -log q(p > 0) at 0, KL(p || q) at 1, log max p/q at inf. inf where p
    and q share no response and, from order 1 on, where p has mass and q has none. Rényi 1961; van Erven & Harremoës
    2014, arXiv:1206.2459.

    >>> renyi([0.5, 0.5], [0.25, 0.75], order=np.inf).round(8)
    np.float64(0.69314718)
    """
    p, q = distribution("p", p), distribution("q", q)
    same_responses(p=p, q=q)
    if not (np.ndim(order) == 0 and order >= 0):
        raise ValueError(f"order is {order}; expected one number, at least 0, or inf")
    a = float(order)
    shared, lost = (p > 0) & (q > 0), (p > 0) & (q == 0)
    log_ratio = np.where(shared, _log_ratio(p, q), -np.inf)
    top = log_ratio.max(axis=-1)
    if a == np.inf:
        total: Array = top
    elif a == 1:
        total = _terms(p, q, "reverse_kl", 0).sum(axis=-1)
    elif a == 0:
        total = -np.log1p(-np.minimum(np.where(p > 0, 0, q).sum(axis=-1), 1 - 2**-53))
    else:
        # Σ p^a q^(1-a) = 1 + a (a-1) D_f at α = 1-a; where that is far from 1, the sum, its largest p/q taken out
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            excess = (a - 1) * (a * _terms(p, q, "alpha", 1 - a).sum(axis=-1))
            rest = np.log((q * np.exp(np.where(shared, a * (log_ratio - top[..., None]), -np.inf))).sum(axis=-1))
            total = np.where(abs(excess) < 0.5, np.log1p(excess) / (a - 1), top / (1 - 1 / a) + rest / (a - 1))
    return np.where(~shared.any(axis=-1) | (lost.any(axis=-1) & (a >= 1)), np.inf, total)


def generator(u: ArrayLike, divergence: str, alpha: float = 0.5) -> Array:
    """f(u), shape of u, any finite numbers from 0

    >>> generator([0.0, 1.0, 3.0], "chi2")
    array([0.5, 0. , 2. ])
    """
    u = _ratio(u)
    return _terms(u, np.ones_like(u), divergence, alpha)


def slope(u: ArrayLike, divergence: str, alpha: float = 0.5) -> Array:
    """f'(u), shape of u, any finite numbers from 0, where it may be -inf

    >>> slope([0.0, 1.0, 2.0], "forward_kl")
    array([-inf, 0. , 0.5])
    """
    u = _ratio(u)
    if divergence == "total_variation":
        return np.sign(u - 1) / 2
    with np.errstate(divide="ignore"):
        return _slope(np.log(u), divergence, alpha)


def slope_inverse(t: ArrayLike, divergence: str, alpha: float = 0.5) -> Array:
    """u with f'(u) = t, shape of t, any finite numbers; 0 where t <= f'(0), inf where t >= f'(∞)

    e^t for "reverse_kl", 1/(1-t) for "forward_kl", 1/(2e^-t - 1) for "js", 1 + t for "chi2", W(e^(1+t)) for
    "mixed_chi2", (1 - αt)^(-1/α) for "alpha", (1 - 2t)⁻² for "squared_hellinger". The f-DPO policy is π_ref
    f'⁻¹((r - λ)/β). Raises `ValueError` for "total_variation", whose slope takes three values.

    >>> slope_inverse([-1.0, 0.0, 1.0], "chi2")
    array([0., 1., 2.])
    """
    t = finite("t", t)
    if divergence == "total_variation":
        raise ValueError("divergence is 'total_variation', whose slope has no inverse; expected another")
    scale, a = _member(divergence, alpha)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if divergence == "js":
            u: Array = 1 / np.maximum(1 + 2 * np.expm1(-t), 0)
        elif divergence == "mixed_chi2":
            u = wrightomega(1 + t)
        else:
            t = t / scale
            log_u = -np.log1p(np.maximum(-a * t, -1)) / (a or 1.0)
            u = np.exp(np.where(abs(a * t) < 1e-17, t, log_u))
    return u


# ---- one response

def _terms(p: Array, q: Array, divergence: str, alpha: float) -> Array:
    """q f(p/q), shape (..., K), none below 0"""
    if divergence == "total_variation":
        return abs(p - q) / 2
    if divergence == "mixed_chi2":
        return _terms(p, q, "chi2", alpha) + _terms(p, q, "reverse_kl", alpha)
    scale, a = _member(divergence, alpha)
    log_u = _log_ratio(p, q)
    near = abs(log_u) * max(1.0, abs(a)) < 1
    far = _js(p, q) if divergence == "js" else scale * _power(p, q, a)
    # near u = 1 f is the small difference of its terms, but also ∫ f'(e^x) e^x dx from 0 to log u, a sum of one sign
    log_u = np.where(near, log_u, 0)
    nodes, weights = np.polynomial.legendre.leggauss(10)
    x = log_u[..., None] * (1 + nodes) / 2
    return np.where(near, q * log_u * ((_slope(x, divergence, alpha) * np.exp(x)) @ weights / 2), far)


def _js(p: Array, q: Array) -> Array:
    with np.errstate(invalid="ignore"):
        terms: Array = xlogy(p, 2 * p / (p + q)) + xlogy(q, 2 * q / (p + q))
    return np.where(p + q > 0, terms, 0)


def _power(p: Array, q: Array, alpha: float) -> Array:
    """q f(p/q) = ((p - p^(1-α) q^α)/α - (p - q))/(1-α), for "alpha" """
    if alpha > 0.5:
        return _power(q, p, 1 - alpha)  # the same number, and 1-α is not small
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_u = _log_ratio(p, q)
        beyond = (p - np.exp(np.log(p) - alpha * log_u)) / (alpha or 1.0)  # where e^(-α log u) alone overflows
        terms = (np.where(abs(alpha * log_u) < 700, p * _expm1_over(-alpha, log_u), beyond) - (p - q)) / (1 - alpha)
        without_q = p / alpha if alpha > 0 else np.where(p > 0, np.inf, 0)
    return np.where(p == 0, q / (1 - alpha), np.where(q == 0, without_q, terms))


def _slope(log_u: Array, divergence: str, alpha: float) -> Array:
    scale, a = _member(divergence, alpha)
    if divergence == "js":
        return np.minimum(log_u, 0) - np.log1p(np.expm1(-abs(log_u)) / 2)
    if divergence == "mixed_chi2":
        return np.expm1(log_u) + log_u
    return scale * _expm1_over(-a, log_u)


def _expm1_over(c: float, x: Array) -> Array:
    """(e^cx - 1)/c, and x at c = 0"""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(abs(c * x) < 1e-17, x, np.expm1(c * x) / c) if c else x


def _log_ratio(p: Array, q: Array) -> Array:
    """log p/q, to its last digit: near 0, and where p/q itself leaves float64's range; nan where both are 0"""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio, change = p / q, (p - q) / q
        far = np.where((ratio > 1e-300) & (ratio < 1e300), np.log(ratio), np.log(p) - np.log(q))
        return np.where(abs(change) < 0.5, np.log1p(change), far)


# ---- domains

def _member(divergence: str, alpha: float) -> tuple[float, float]:
    """The scale and the α of `divergence`, 1 and 0 where it is no power"""
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence is {divergence!r}; expected {' or '.join(map(repr, DIVERGENCES))}")
    if divergence != "alpha":
        return _POWERS.get(divergence, (1.0, 0.0))
    if not (np.ndim(alpha) == 0 and np.isfinite(alpha)):
        raise ValueError(f"alpha is {alpha}; expected one finite number")
    return 1.0, float(alpha)


def _ratio(u: ArrayLike) -> Array:
    u = finite("u", u)
    _reject("u", u, u < 0, "expected ratios of probabilities, at least 0")
    return u
