"""Arrow 4: from scores to a loss. Kernels know one comparison, lifts know the axes.

A kernel takes scalars (arrays of any one shape) to `(value, slope)`, the slope being d value / d argument, or a tuple
of them. A lift makes a link of it, `(s (..., B, K), weight (B,), facts) -> (value (..., B), ds like s)`, where ds is
the gradient of Σ_b weight_b value_b. That lets a link couple the batch (`sorted_margins`). Facts that a kernel needs
come after its scores: those of a comparison in their shape, those of a response with its axis, (..., K), last. Only a
ranking's kernel takes scores and facts of the whole row, and responses first, (K, ...).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .numerics import (
    at_most_0,
    bernoulli_kl,
    exact_product,
    exp_times,
    log_loss,
    log_losses,
    log_sigmoid_difference,
    sigmoid_difference,
    sigmoids,
    signed_gap,
)
from .scores import Values

__all__ = [
    "Link", "apo_down", "apo_zero", "balanced", "batch_mean", "bco", "chosen", "classify", "discopop", "dpop",
    "dynamic", "each", "exo", "fallen", "gaps", "hinge", "infonca", "js", "kto", "kto_at_zero", "kto_pair",
    "length_margin", "logistic", "margin", "nca", "nca_listwise", "negative", "odds_ratio", "pair", "plackett_luce",
    "powers", "ranking", "reward_distance", "robust", "shifted", "sorted_columns", "sorted_margins", "square_sum",
    "squared", "squares", "weighted", "win_rates",
]

Array = NDArray[Any]
Kernel = Callable[..., tuple[Array, Any]]


class Link(NamedTuple):
    """From scores (..., B, K) to a value a comparison (..., B), with its slopes ∂value/∂score (..., B, K)."""

    fn: Callable[[Array, Array, Values], tuple[Array, Array]]
    needs: tuple[str, ...] = ()
    columns: int | None = 2  # the K it takes; None: any
    coupled: bool = False  # a row's value depends on the other rows


# ---- kernels of a margin: value, slope

def logistic(h: Array, beta: float, offset: float = 0.0, eps: float = 0.0) -> tuple[Array, Array]:
    """φ(h) = -(1-ε) log σ(z) - ε log σ(-z),   φ'(h) = β (ε σ(z) - (1-ε) σ(-z)),   z = βh - offset"""
    z = beta * h - offset if offset else beta * h
    if eps:
        value, slope = balanced(z, 1 - eps, eps, _turn(eps))
        return value, beta * slope
    value, not_p = log_loss(z)
    return value, -beta * not_p


def balanced(z: Array, up: Any, down: Any, root: Any) -> tuple[Array, Array]:
    """φ(z) = -p log σ(z) - q log σ(-z),   φ'(z) = q σ(z) - p σ(-z),   0 at the root log(p/q); p = `up`, q = `down`"""
    (value, of_not), (p, not_p) = log_losses(z)
    # the two terms of φ' may cancel; in the distance from the root nothing does
    return up * value + down * of_not, signed_gap(down * p, up * not_p, _beyond(z, root))


def _turn(eps: float) -> float:
    """log((1-ε)/ε), ε > 0; (1-2ε)/ε keeps the digits about ½, and may overflow next to 0"""
    return math.log1p((1 - 2 * eps) / eps) if eps > 0.25 else math.log1p(-eps) - math.log(eps)


def _beyond(z: Array, root: Any) -> Array:
    """z - root, whose root may be known to more digits than z has room for"""
    if z.real.dtype.itemsize >= np.asarray(root).itemsize:
        return np.asarray(z - root)
    near = np.asarray(root, z.real.dtype)
    rest = np.where(np.isinf(near), 0, root) - np.where(np.isinf(near), 0, near)
    distance: Array = (z - near) - rest.astype(near.dtype)
    return distance


def robust(h: Array, beta: float, eps: float) -> tuple[Array, Array]:
    """φ(h) = [ε log σ(-z) - (1-ε) log σ(z)] / (1-2ε) = -log σ(z) - cz,   φ'(h) = -β (σ(-z) + c),   c = ε/(1-2ε)"""
    z, c = beta * h, eps / (1 - 2 * eps)
    value, not_p = log_loss(z)
    return value - c * z, -beta * (not_p + c)


def length_margin(h: Array, length: Array, beta: float, alpha: float) -> tuple[Array, Array]:
    """φ(h) = -log σ(z),   φ'(h) = -β σ(-z),   z = βh + α (|y_w| - |y_l|), the product to twice the digits"""
    extra, lost = exact_product(alpha, length[..., 0] - length[..., 1])
    z = beta * h + extra
    lost = lost + (beta * h - (z - extra))  # what the sum was rounded by; where βh is the larger, its own ulp is more
    value, not_p = log_loss(z)
    return value - not_p * lost, -beta * not_p * (1 - (1 - not_p) * lost)


def squared(h: Array, target: float) -> tuple[Array, Array]:
    """φ(h) = (h - target)²,   φ'(h) = 2 (h - target)"""
    d = h - target
    return d * d, 2 * d


def hinge(h: Array, beta: float, delta: float = 1.0) -> tuple[Array, Array]:
    """φ(h) = max(0, δ - βh),   φ'(h) = -β where βh < δ, else 0 (at the kink too)"""
    z = beta * h - delta
    return 0 - at_most_0(z), 0 - np.multiply(~(z.real >= 0), beta, dtype=h.dtype)  # never -0


def exo(h: Array, beta: float, eps: float) -> tuple[Array, Array]:
    """φ(h) = KL(σ(z) || 1-ε),   φ'(h) = β σ(z) σ(-z) (z - z₀),   z = βh, z₀ = log((1-ε)/ε)"""
    z, target = beta * h, _turn(eps)
    near = np.full((1,) * z.ndim, target, z.real.dtype)
    x = _, (p, not_p) = log_losses(z)
    return bernoulli_kl(x, log_losses(near), z - near), beta * p * not_p * _beyond(z, target)


def discopop(h: Array, beta: float, tau: float) -> tuple[Array, Array]:
    """φ(h) = -(1-m) log σ(x) + m e⁻ˣ,   φ'(h) = β ((1-m) [m (e⁻ˣ + log σ(x))/τ - σ(-x)] - m e⁻ˣ),   m = σ(x/τ)"""
    x, tau = beta * h, _not_zero(tau, h)
    with np.errstate(over="ignore"):  # τ > 1, x far below 0: the loss itself is beyond the largest number
        at = x / tau
        m, rest = sigmoids(at)
        decay = np.exp(np.minimum(at * (1 - tau), -x)) * np.maximum(m, rest)  # m e⁻ˣ; below 0, e^(x/τ - x) (1 - m)
        value, not_p = log_loss(x)
        bend = np.where(np.isinf(decay), 0, decay) - m * value
        slope = beta * (rest * bend / tau - rest * not_p - decay)
    return rest * value + decay, slope


def weighted(h: Array, w: Array, beta: float, clamp: bool) -> tuple[Array, Array]:
    """φ(h) = -v log σ(βh),   φ'(h) = -v β σ(-βh),   v = w_w w_l, clamped: at most 1"""
    both = w[..., 0] * w[..., 1]
    v = np.minimum(both, 1) if clamp else both
    value, slope = logistic(h, beta)
    return v * value, v * slope


def gaps(h: Array, score: Array, beta: float, alpha: float, f: str) -> tuple[Array, Array]:
    """φ(h) = -log σ(z),   φ'(h) = -β σ(-z),   z = βh - α f(score_w - score_l), f the logarithm or the identity"""
    gap = score[..., 0] - score[..., 1]
    if f == "log":
        if (gap <= 0).any():
            raise ValueError(f"score of the chosen less that of the rejected is {gap[gap <= 0].flat[0]}; "
                             f"expected above 0, or f='identity'")
        gap = np.log(gap)
    value, slope = logistic(beta * h - alpha * gap, 1.0)
    return value, beta * slope


def reward_distance(h: Array, reward: Array, beta: float, eta: float, distance: str) -> tuple[Array, Array]:
    """φ(h) = KL(σ(t) || σ(z)), KL(σ(z) || σ(t)), (z - t)²;   φ'(h) = β (σ(z) - σ(t)), β σ(z) σ(-z) (z - t), 2β (z - t),

    in this order of `distance`;   z = βh, t = η (reward_w - reward_l)
    """
    z, t = beta * h, np.broadcast_to(eta * (reward[..., 0] - reward[..., 1]), h.shape)
    d = z - t
    if distance == "squared":
        return d * d, 2 * beta * d
    x = _, (p, not_p) = log_losses(z)
    target = _, (q, not_q) = log_losses(t)
    if distance == "kl":
        return bernoulli_kl(target, x, -d), beta * sigmoid_difference((p, not_p), (q, not_q), d)
    return bernoulli_kl(x, target, d), beta * p * not_p * d


def shifted(h: Array, margin: Array) -> tuple[Array, Array]:
    """φ(h) = -log σ(h - m),   φ'(h) = -σ(m - h),   m = `margin`"""
    value, not_p = log_loss(h - margin)
    return value, -not_p


# ---- kernels of two scores: value, (slope, slope)

def dpop(a: Array, b: Array, beta: float, lam: float) -> tuple[Array, tuple[Array, Array]]:
    """φ(a, b) = -log σ(β (a - b - λ max(0, -a))),   ∂a = φ' (1 + λ [a < 0]),   ∂b = -φ'"""
    value, slope = logistic(a - b + lam * at_most_0(a), beta)
    return value, (slope * (1 + np.multiply(a.real < 0, lam, dtype=slope.dtype)), -slope)


def nca(a: Array, b: Array, beta: float) -> tuple[Array, tuple[Array, Array]]:
    """φ = -log σ(x) - ½ log σ(-x) - ½ log σ(-y),   ∂a = β (½ σ(x) - σ(-x)),   ∂b = ½ β σ(y),   x = βa, y = βb"""
    value, slope = balanced(beta * a, 1.0, 0.5, math.log(2))
    of_not, q = log_loss(-beta * b)
    return value + 0.5 * of_not, (beta * slope, 0.5 * beta * q)


def bco(a: Array, b: Array, delta: Array, beta: float) -> tuple[Array, tuple[Array, Array]]:
    """φ = -log σ(x) - log σ(-y),   ∂a = -β σ(-x),   ∂b = β σ(y),   x = βa - δ, y = βb - δ"""
    (value, not_p), (of_not, q) = log_loss(beta * a - delta), log_loss(delta - beta * b)
    return value + of_not, (-beta * not_p, beta * q)


def squares(a: Array, b: Array, target: float) -> tuple[Array, tuple[Array, Array]]:
    """φ = (a - target)² + (b + target)²,   ∂a = 2 (a - target),   ∂b = 2 (b + target)"""
    return (a - target) ** 2 + (b + target) ** 2, (2 * (a - target), 2 * (b + target))


def win_rates(a: Array, b: Array, win_rate: Array, beta: float) -> tuple[Array, tuple[Array, Array]]:
    """φ = (a - t_w)² + (b - t_l)²,   ∂a = 2 (a - t_w),   ∂b = 2 (b - t_l),   t = (P - ½)/β"""
    t = (win_rate - 0.5) / beta
    da, db = a - t[..., 0], b - t[..., 1]
    return da**2 + db**2, (2 * da, 2 * db)


def apo_zero(a: Array, b: Array, beta: float, plus_one: bool) -> tuple[Array, tuple[Array, Array]]:
    """φ = σ(y) - σ(x) (+ 1),   ∂a = -β σ(x) σ(-x),   ∂b = β σ(y) σ(-y),   x = βa, y = βb"""
    (p, not_p), (q, not_q) = sigmoids(beta * a), sigmoids(beta * b)
    value = not_p + q if plus_one else sigmoid_difference((q, not_q), (p, not_p), beta * (b - a))
    return value, (-beta * p * not_p, beta * q * not_q)


def apo_down(a: Array, b: Array, beta: float, plus_one: bool) -> tuple[Array, tuple[Array, Array]]:
    """φ = σ(x) - σ(z) (+ 1),   ∂a = β (σ(x) - σ(z)) (σ(-x) - σ(z)),   ∂b = β σ(z) σ(-z),   x = βa, z = β (a - b)"""
    (p, not_p), (q, not_q) = sigmoids(beta * a), sigmoids(beta * (a - b))
    gap = sigmoid_difference((p, not_p), (q, not_q), beta * b)
    # σ'(x) - σ'(z), as a product
    up = gap * sigmoid_difference((not_p, p), (q, not_q), -beta * (2 * a - b))
    return p + not_q if plus_one else gap, (beta * up, beta * q * not_q)


def js(a: Array, b: Array, beta: float) -> tuple[Array, tuple[Array, Array]]:
    """φ = -log σ(z),   ∂a = -β σ(-z) σ(-a),   ∂b = β σ(-z) σ(-b),   z = β (log σ(a) - log σ(b))"""
    x, y = log_loss(a), log_loss(b)
    value, slope = logistic(log_sigmoid_difference(x, y, a - b), beta)
    return value, (slope * x[1], -slope * y[1])


def powers(a: Array, b: Array, beta: float, alphas: tuple[float, ...], offset: float = 0.0,
           eps: float = 0.0) -> tuple[Array, tuple[Array, Array]]:
    """φ = -(1-ε) log σ(z) - ε log σ(-z),   ∂a = φ'(z) β Σ e^-αa,   ∂b = -φ'(z) β Σ e^-αb,

    z = β Σ (e^-αb - e^-αa)/α - offset, summed over `alphas`; where α = 0, (a - b). Each difference is one product.
    """
    high, low = np.maximum(a, b), np.minimum(a, b)
    apart: Array = low - high
    gap = np.zeros(apart.shape, apart.dtype)
    least = np.finfo(apart.real.dtype).smallest_normal ** 0.5  # α below it is 0 to rounding, and 1/α may be infinite
    for alpha in alphas:
        share = -beta / abs(alpha) * np.expm1(abs(alpha) * apart) if abs(alpha) > least else -beta * apart
        gap += exp_times(-alpha * (low if alpha > 0 else high), share)
    with np.errstate(over="ignore", invalid="ignore"):  # ends that are out of reach
        z = np.where(high == a, gap, -gap) - offset
        if eps:
            value, slope = balanced(z, 1 - eps, eps, _turn(eps))
            k, pull = np.zeros((), z.dtype), beta * slope
        else:  # σ(-z) vanishes where e^-αx overflows: one exponential of both
            (value, of_not), _ = log_losses(z)
            k, pull = -of_not, np.full((), -beta, z.dtype)

        def through(x: Array) -> Array:
            first, *more = (exp_times(k - alpha * x, pull) for alpha in alphas)
            return sum(more, start=first)

        return value, (through(a), -through(b))


def odds_ratio(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    """φ = -log σ(z),   ∂a = -σ(-z)/(1 - eᵃ),   ∂b = σ(-z)/(1 - eᵇ),   z = log odds(a) - log odds(b)

    odds(a) = eᵃ/(1 - eᵃ), a and b logarithms of probabilities. At a = 0, whose odds are infinite, the limits.
    """
    high, low = np.maximum(a, b), np.minimum(a, b)
    ahead = high == a  # z >= 0
    more, less = 0 - np.expm1(low), 0 - np.expm1(high)  # never -0
    certain = more == 0  # both of them: even odds, by symmetry
    even = np.where(certain, 1, less / np.where(certain, 1, more))
    apart: Array = low - high
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        farther = np.exp(apart)
        e = farther * even  # e^-|z|
        value = np.log1p(e) + np.where(ahead, 0, -apart - np.log(even))
        up = np.where(ahead, farther, 1) / (more * (1 + e))
        down = np.where(ahead, e / more, 1 / less) / (1 + e)
    return value, (-up, down)


# ---- kernels of one score: value, slope

def kto(s: Array, label: Array, z0: Array | float, beta: float, lam_d: float, lam_u: float) -> tuple[Array, Array]:
    """φ(s) = λ (1 - σ(z)) = λ σ(-z),   φ'(s) = ∓λβ σ(z) σ(-z),   z = ±β (s - z₀);  + and λ_D if desired"""
    sign, lam = _sign(label, s), lam_d if lam_d == lam_u else np.where(label, lam_d, lam_u).astype(s.real.dtype)
    p, not_p = sigmoids(beta * sign * (s - z0))
    return lam * not_p, -beta * lam * sign * p * not_p


def kto_at_zero(s: Array, label: Array, beta: float, lam_d: float, lam_u: float) -> tuple[Array, Array]:
    """`kto` at z₀ = 0"""
    return kto(s, label, 0.0, beta, lam_d, lam_u)


def classify(s: Array, label: Array, delta: Array, beta: float) -> tuple[Array, Array]:
    """φ(s) = -log σ(z),   φ'(s) = ∓β σ(-z),   z = ±(βs - δ);  + if desired"""
    sign = _sign(label, s)
    value, not_p = log_loss(sign * (beta * s - delta))
    return value, -beta * sign * not_p


def _sign(label: Array, of: Array) -> Array:
    """1 where the label is true, else -1"""
    sign: Array = np.multiply(np.asarray(label, bool), 2, dtype=of.real.dtype) - 1
    return sign


def negative(s: Array) -> tuple[Array, Array]:
    """φ(s) = -s,   φ'(s) = -1"""
    return -s, -np.ones_like(s)


def fallen(s: Array) -> tuple[Array, Array]:
    """φ(s) = max(0, -s),   φ'(s) = -1 where s < 0, else 0 (at the kink too)"""
    return -at_most_0(s), np.multiply(s.real < 0, -1, dtype=s.dtype)


def square_sum(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    """φ = (a + b)²,   ∂a = ∂b = 2 (a + b)"""
    total = a + b
    return total * total, (2 * total, 2 * total)


# ---- kernels of a whole row, responses first (K, ...): value (...), slopes (K, ...)

def plackett_luce(s: Array, present: Array, beta: float) -> tuple[Array, Array]:
    """φ(s) = Σₖ log Σ_{j≥k} exp β(sⱼ - sₖ),   ∂ⱼ = β (Σ_{k<j} pⱼ⁽ᵏ⁾ - Σ_{i>j} pᵢ⁽ʲ⁾),   p⁽ᵏ⁾ = softmax of βs from k on

    best first; a response that is not `present` (at the end of a row) takes no part.
    """
    short = not present.all()
    if short:
        s = np.where(present, s, 0)
    value = np.zeros(s.shape[1:], s.dtype)
    ds, lost = np.zeros((2, *s.shape), s.dtype)
    for k in range(len(s) - 1):
        x, log_p = _softmax(s[k:], beta, here=present[k:] if short else None)
        value -= log_p[0]
        x[0] = -x[1:].sum(axis=0)
        # the rejections of one response are many numbers of like size, and it may be all but chosen: keep what + rounds
        total = ds[k:] + x
        part = total - x
        lost[k:] += (ds[k:] - part) + (x - (total - part))
        ds[k:] = total
    return value, beta * (ds + lost)


def infonca(s: Array, score: Array, beta: float, alpha: float) -> tuple[Array, Array]:
    """φ(s) = -Σᵢ qᵢ log pᵢ,   ∂ᵢ = β (pᵢ - qᵢ),   p = softmax(βs), q = softmax(score/α)"""
    alpha = _not_zero(alpha, score)
    (p, log_p), (q, _) = _softmax(s, beta), _softmax(score, per=alpha)
    gap = p - q
    # p - q = q (eᵈ - 1), with d from differences that vanish where p = q
    with np.errstate(over="ignore"):
        d = beta * (s - s[0]) - (score - score[0]) / alpha
    near = (abs(d) < 1).all(axis=0)
    if near.any():
        small = np.where(near, d, 0)
        small = np.expm1(small - np.log1p((q * np.expm1(small)).sum(axis=0)))
        gap = np.where(near, q * small, gap)
    # of two numbers near 1, by what they leave to the others
    likely = (p.real > 0.5) & (q > 0.5)
    if likely.any():
        gap = np.where(likely, -np.where(likely, 0, gap).sum(axis=0), gap)
    return -(q * log_p).sum(axis=0), beta * gap


def nca_listwise(s: Array, score: Array, beta: float, alpha: float) -> tuple[Array, Array]:
    """φ(s) = -Σᵢ [qᵢ log σ(xᵢ) + log σ(-xᵢ)/K],   ∂ᵢ = β (σ(xᵢ)/K - qᵢ σ(-xᵢ)),   q = softmax(score/α), x = βs"""
    alpha = _not_zero(alpha, score)
    (q, log_q), K = _softmax(score, per=alpha), len(s)
    level = log_q + math.log(K)  # log Kq, where ∂ vanishes: near 0 from the differences of scores
    with np.errstate(over="ignore"):
        near = (score.max(axis=0) - score.min(axis=0)) / alpha < 1
    if near.any():
        ahead = np.where(near, score - score[:, None], 0) / alpha
        level = np.where(near, -np.log1p(np.expm1(ahead).mean(axis=1)), level)
    value, slope = balanced(beta * s, q, 1 / K, level)
    return value.sum(axis=0), beta * slope


def _not_zero(x: float, of: Array) -> float:
    """A positive divisor that float32 would take for 0"""
    return max(x, float(np.finfo(of.real.dtype).smallest_normal))


def _softmax(x: Array, rate: float = 1.0, per: float = 1.0, here: Array | None = None) -> tuple[Array, Array]:
    """softmax(rate x / per) over what is here, and its logarithm; not one by way of the other, so that 1/K is exact

    The first is always here.
    """
    if here is not None:
        x = np.where(here, x, x[0])
    top = x.max(axis=0)
    best = x == top
    with np.errstate(over="ignore"):  # what is that far below has no probability
        below = rate * (x - top) / per
    e = np.exp(below)
    if here is not None:
        e[1:] *= here[1:]
        best[1:] &= here[1:]
    others = (e - best).sum(axis=0) + (best.sum(axis=0, dtype=x.real.dtype) - 1)
    return e / (1 + others), below - np.log1p(others)


def _rows(x: Array) -> Array:
    """(..., B, K) -> (K, ..., B): loops along a few responses would be short"""
    return np.ascontiguousarray(x.transpose(-1, *range(x.ndim - 1)))


def _columns(x: Array) -> Array:
    """(K, ..., B) -> (..., B, K)"""
    return np.ascontiguousarray(x.transpose(*range(1, x.ndim), 0))


# ---- lifts

def margin(kernel: Kernel, *needs: str, **hyper: Any) -> Link:
    """value_b = φ(s_w - s_l, the facts named): one slope, up for the chosen and down for the rejected"""

    def fn(s: Array, weight: Array, facts: Values) -> tuple[Array, Array]:
        value, slope = kernel(s[..., 0] - s[..., 1], *[facts[name] for name in needs], **hyper)
        ds = np.empty(s.shape, s.dtype)
        np.subtract(0, np.multiply(weight, slope, out=ds[..., 0]), out=ds[..., 1])
        return value, ds

    return Link(fn, needs)


def pair(kernel: Kernel, *needs: str, **hyper: Any) -> Link:
    """value_b = φ(s_w, s_l, the facts named), with a slope for each"""

    def fn(s: Array, weight: Array, facts: Values) -> tuple[Array, Array]:
        value, (up, down) = kernel(s[..., 0], s[..., 1], *[facts[name] for name in needs], **hyper)
        ds = np.empty(s.shape, s.dtype)
        np.multiply(weight, up, out=ds[..., 0])
        np.multiply(weight, down, out=ds[..., 1])
        return value, ds

    return Link(fn, needs)


def chosen(kernel: Kernel, **hyper: Any) -> Link:
    """value_b = φ(s_w), whatever else the row holds"""

    def fn(s: Array, weight: Array, facts: Values) -> tuple[Array, Array]:
        value, slope = kernel(s[..., 0], **hyper)
        ds = np.zeros_like(s)
        ds[..., 0] = weight * slope
        return value, ds

    return Link(fn, columns=None)


def each(kernel: Kernel, *needs: str, **hyper: Any) -> Link:
    """value_b = φ(s, label_b, the facts named): unpaired data, one response a row"""

    def fn(s: Array, weight: Array, facts: Values) -> tuple[Array, Array]:
        value, slope = kernel(s[..., 0], *(facts[name] for name in ("label", *needs)), **hyper)
        return value, (weight * slope)[..., None]

    return Link(fn, ("label", *needs), columns=1)


def ranking(kernel: Kernel, *needs: str, **hyper: Any) -> Link:
    """value_b = φ(all scores of the row, the facts named), with a slope for each"""

    def fn(s: Array, weight: Array, facts: Values) -> tuple[Array, Array]:
        value, ds = kernel(_rows(s), *(_rows(facts[name]) for name in needs), **hyper)
        return value, _columns(weight * ds)

    return Link(fn, needs, columns=None)


# ---- links of a whole batch

def batch_mean(length: str = "length") -> Link:
    """value_b = -s_w Σw / Σ w |y_w|, so that the mean over rows is the batch's sum over the batch's count of tokens"""

    def fn(s: Array, weight: Array, facts: Values) -> tuple[Array, Array]:
        tokens = (weight * facts[length][..., 0]).sum(axis=-1, keepdims=True)
        share = np.divide(weight.sum(), tokens, out=np.zeros_like(tokens), where=tokens > 0)
        ds = np.zeros_like(s)
        ds[..., 0] = -weight * share
        return -s[..., 0] * share, ds

    return Link(fn, (length,), columns=None, coupled=True)


def kto_pair(beta: float, detach: bool) -> Link:
    """value_b = ½ σ(-β (a_b - K_l)) + ½ σ(β (b_b - K_w)),   K_w = max(0, mean of a), K_l = max(0, mean of b)"""

    def fn(s: Array, weight: Array, facts: Values) -> tuple[Array, Array]:
        x = _rows(s)
        share = np.divide(weight, weight.sum(), out=np.zeros_like(weight), where=weight > 0)
        means = (share * x).sum(axis=-1, keepdims=True)
        above = means.real > 0
        slope = np.array([beta, -beta], s.real.dtype).reshape(2, *(1,) * (s.ndim - 1))
        p, not_p = sigmoids(slope * (x - np.where(above, means, 0)[::-1]))
        pull = -0.5 * weight * slope * p * not_p
        if not detach:  # through the other column's mean: s and its K enter as a difference
            pull -= np.where(above, pull.sum(axis=-1, keepdims=True)[::-1], 0) * share
        return 0.5 * (not_p[0] + not_p[1]), _columns(pull)

    return Link(fn, coupled=True)


def dynamic(beta: float, alpha: float, floor: float) -> Link:
    """value_b = -log σ(β' h_b), 0 for rows not kept;   β' = max(floor, β (1 + α (mean h - M₀))), no gradient in it"""

    def fn(s: Array, weight: Array, facts: Values) -> tuple[Array, Array]:
        h, kept = s[..., 0] - s[..., 1], np.broadcast_to(facts["keep"], weight.shape)
        share = np.where(kept, weight, 0)
        total = share.sum()
        centre = (share * np.where(kept, h.real, 0)).sum(axis=-1, keepdims=True) / (total if total > 0 else 1)
        rate = np.maximum(floor, beta * (1 + alpha * (centre - facts["m0"])))
        value, slope = logistic(rate * h, 1.0)
        slope = np.where(kept, share * rate * slope, 0)
        return np.where(kept, value, 0), np.stack([slope, 0 - slope], axis=-1)

    return Link(fn, ("m0", "keep"), coupled=True)


def sorted_margins(kernel: Kernel, **hyper: Any) -> Link:
    """Σ_k w φ(u₍ₖ₎ - v₍ₖ₎): the policy's margins u = s_w - s_l and the reference's v, each sorted, meet rank by rank

    With weights, the ranks are those of the two weighted distributions (the monotone coupling of optimal transport), so
    that weight 2 is the row twice. A row's value is the mean over the mass it meets. Ties: any order gives the same
    total.
    """

    def fn(s: Array, weight: Array, facts: Values) -> tuple[Array, Array]:
        u = s[..., 0] - s[..., 1]
        v = facts["ref_logp"][..., 0] - facts["ref_logp"][..., 1]
        value, slope = np.empty_like(u), np.empty_like(u)
        for at in np.ndindex(u.shape[:-1]):
            v_at = v[at] if v.ndim == u.ndim else v
            value[at], slope[at], _ = _by_rank(functools.partial(kernel, **hyper), u[at], v_at, weight)
        return value, np.stack([slope, -slope], axis=-1)

    return Link(fn, ("ref_logp",), coupled=True)


def sorted_columns(kernel: Kernel, **hyper: Any) -> Link:
    """Σ_k w φ(a₍ₖ₎ - b₍ₖ₎): scores of chosen and of rejected, each sorted, meet rank by rank, as in `sorted_margins`"""

    def fn(s: Array, weight: Array, facts: Values) -> tuple[Array, Array]:
        value, ds = np.empty(s.shape[:-1], s.dtype), np.empty(s.shape, s.dtype)
        for at in np.ndindex(s.shape[:-2]):
            a, b = s[at][:, 0], s[at][:, 1]
            value[at], ds[at][:, 0], ds[at][:, 1] = _by_rank(functools.partial(kernel, **hyper), a, b, weight)
        return value, ds

    return Link(fn, coupled=True)


def _by_rank(kernel: Kernel, u: Array, v: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Σ_k w φ(u₍ₖ₎ - v₍ₖ₎) as a value for each of u (n,), with the slopes in u and in v"""
    if (weight == weight[:1]).all() and (weight > 0).all():  # one to one
        met = np.empty(len(u), np.intp)
        met[_order(u.real)] = _order(v.real)
        value, slope = kernel(u - v[met])
        du = weight * slope
        dv = np.empty_like(du)
        dv[met] = -du
        return value, du, dv
    rows, cols, mass = _coupling(u.real, v.real, weight)
    value, slope = kernel(u[rows] - v[cols])
    total, du, dv = np.zeros((3, len(u)), u.dtype)
    np.add.at(total, rows, mass * value)
    np.add.at(du, rows, mass * slope)
    np.add.at(dv, cols, -mass * slope)
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0), du, dv


def _order(x: Array) -> Array:
    """A stable sort: a faster one where nothing is tied, which then finds the same"""
    order = np.argsort(x)
    ranked = x[order]
    return np.argsort(x, kind="stable") if (ranked[1:] == ranked[:-1]).any() else order


def _coupling(u: Array, v: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Pieces (i, j, mass) that match equal quantiles of u and v, both weighted by `weight`."""
    by_u, by_v = _order(u), _order(v)
    # in longdouble: a small mass is the difference of two large ends
    ends_u, ends_v = (np.cumsum(weight[order], dtype=np.longdouble) for order in (by_u, by_v))
    ends_v[-1:] = ends_u[-1:]  # the same total, added in another order
    ends = np.union1d(ends_u, ends_v)
    mass = np.diff(ends, prepend=0).astype(weight.dtype)
    rows = by_u[np.minimum(np.searchsorted(ends_u, ends), len(u) - 1)]
    cols = by_v[np.minimum(np.searchsorted(ends_v, ends), len(v) - 1)]
    return rows, cols, mass
