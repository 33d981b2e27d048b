"""The few functions where overflow and cancellation live; nothing else in the package thinks of them.

All keep the dtype they are given (float32, float64, longdouble) and take complex arrays too, branching on the real
part, so that complex steps can differentiate through them.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["at_most_0", "bernoulli_kl", "exact_product", "exp_minus_1_minus", "exp_times", "kl_terms",
           "log_loss", "log_losses", "log_normalizer", "log_sigmoid", "log_sigmoid_difference", "log_softmax",
           "row_sums", "sigmoid", "sigmoid_difference", "sigmoids", "signed_gap"]

Array = NDArray[Any]
Both = tuple[Array, Array]


def log_sigmoid(z: Array) -> Array:
    """log σ(z) = -log(1 + e⁻ᶻ) = min(z, 0) - log1p(e^-|z|)

    `log(sigmoid(z))` is -inf below z = -745 and 0 above z = 37; the two ends here are z and -e⁻ᶻ.

    >>> log_sigmoid(np.array([-1000.0, 0.0, 40.0]))
    array([-1.00000000e+03, -6.93147181e-01, -4.24835426e-18])
    """
    z = np.asarray(z)
    return -_log_loss(z, _decay(z))


def sigmoid(z: Array) -> Array:
    """σ(z) = 1 / (1 + e⁻ᶻ) = eᶻ / (1 + eᶻ), whichever exponential is at most 1

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    z = np.asarray(z)
    e = _decay(z)
    return np.asarray(_one_where(~np.signbit(z.real), e) / (1 + e))


def sigmoids(z: Array) -> tuple[Array, Array]:
    """σ(z), σ(-z), by one exponential

    >>> sigmoids(np.array([-1000.0, 0.0, 1000.0]))
    (array([0. , 0.5, 1. ]), array([1. , 0.5, 0. ]))
    """
    z = np.asarray(z)
    e, negative = _decay(z), np.signbit(z.real)
    whole = 1 + e
    return _one_where(~negative, e) / whole, _one_where(negative, e) / whole


def log_loss(z: Array) -> Both:
    """-log σ(z) and σ(-z), which is minus its slope, by one exponential

    >>> log_loss(np.array([-1000.0, 1000.0]))
    (array([1000.,    0.]), array([1., 0.]))
    """
    z = np.asarray(z)
    e = _decay(z)
    return _log_loss(z, e), _one_where(np.signbit(z.real), e) / (1 + e)


def log_losses(z: Array) -> Both:
    """[-log σ(z), -log σ(-z)] and [σ(z), σ(-z)], by one exponential

    >>> log_losses(np.array(-1000.0))
    (array([1000.,    0.]), array([0., 1.]))
    """
    z = np.asarray(z)
    both, e = _and_opposite(z), _decay(z)
    return _log_loss(both, e), _one_where(~np.signbit(both.real), e) / (1 + e)


def sigmoid_difference(x: Both, y: Both, d: Array) -> Array:
    """σ(x) - σ(y) = σ(x) σ(-y) (1 - e⁻ᵈ), of the `sigmoids` of x and y

    d = x - y, which the caller may know to more digits than x and y have.

    >>> x, y = np.array([50.0]), np.array([49.0])
    >>> sigmoid_difference(sigmoids(x), sigmoids(y), x - y)
    array([3.31413582e-22])
    """
    return signed_gap(x[0] * y[1], y[0] * x[1], d)


def signed_gap(x: Array, y: Array, d: Array) -> Array:
    """x - y, x = eᵈ y both positive: the larger times ±(1 - e^-|d|), in which nothing cancels

    >>> signed_gap(np.array([3.0]), np.array([3.0]), np.array([1e-30]))
    array([3.e-30])
    """
    ahead = np.copysign(np.ones((), d.real.dtype), d.real)
    gap: Array = ahead * np.maximum(x, y) * -np.expm1(-ahead * d)
    return gap


def log_sigmoid_difference(x: Both, y: Both, d: Array) -> Array:
    """log σ(x) - log σ(y) = -log1p(σ(-y) (e⁻ᵈ - 1)), of the `log_loss` of x and of y, d = x - y

    Far apart, the difference itself loses nothing.

    >>> x, y = np.array([1e-20, 800.0]), np.array([0.0, -800.0])
    >>> log_sigmoid_difference(log_loss(x), log_loss(y), x - y)
    array([5.e-21, 8.e+02])
    """
    near = abs(d) < 1
    return np.where(near, -np.log1p(y[1] * np.expm1(-_within(d, 1))), y[0] - x[0])


def bernoulli_kl(x: Both, y: Both, d: Array) -> Array:
    """KL(σ(x) || σ(y)) = σ(x) log σ(x)/σ(y) + σ(-x) log σ(-x)/σ(-y), never negative

    As a sum of q (eᵈ - 1 - d), d = log p - log q, in which nothing cancels; of the `log_losses` of x and y, which
    have as many axes, and d = x - y.

    >>> x, y = np.array([0.0, 0.0, 1000.0]), np.array([1e-9, np.log(3.0), -1000.0])
    >>> bernoulli_kl(log_losses(x), log_losses(y), x - y)
    array([1.25000000e-19, 1.43841036e-01, 1.00000000e+03])
    """
    (of_x, q), (_, p) = x, y
    gap = log_sigmoid_difference(y, (of_x, q[::-1]), _and_opposite(-d))
    near = gap.real < 2  # beyond, nothing cancels, and eᵈ would multiply the rounding of d
    terms = np.where(near, q * exp_minus_1_minus(np.where(near, gap, 0)), p - q - q * gap)
    return np.asarray(terms[0] + terms[1])


# Of real numbers without a branch: a processor guesses wrong at every other margin, and that costs it ten additions.

def _decay(z: Array) -> Array:
    """e^-|z|"""
    return np.exp(np.where(np.signbit(z.real), z, -z) if z.dtype.kind == "c" else -abs(z))


def _log_loss(z: Array, e: Array) -> Array:
    """-log σ(z) = log1p(e) + max(0, -z), e = e^-|z|"""
    rest = np.log1p(e)
    return rest - np.where(np.signbit(z.real), z, 0) if z.dtype.kind == "c" else np.maximum(rest, rest - z)


def at_most_0(z: Array) -> Array:
    """min(z, 0)"""
    # of two arrays NumPy takes the lesser several at a time, of an array and a number one by one
    return np.where(z.real < 0, z, 0) if z.dtype.kind == "c" else np.minimum(z, np.zeros(z.shape, z.dtype))


def _one_where(certain: Array, e: Array) -> Array:
    """1 where it is `certain`, else e, which is at most 1"""
    return np.where(certain, 1, e) if e.dtype.kind == "c" else np.maximum(certain, e)


def _within(d: Array, limit: float) -> Array:
    """d where |d| < `limit`; elsewhere some number that is no larger"""
    return np.minimum(np.maximum(d, -limit), limit)


def _and_opposite(z: Array) -> Array:
    """[z, -z]"""
    both = np.empty((2, *z.shape), z.dtype)
    both[0] = z
    both[1] = -z
    return both


def exp_times(k: Array, x: Array) -> Array:
    """eᵏ x, finite wherever it is, and 0 where x is, though eᵏ overflow; else inf of the sign of x

    >>> exp_times(np.array([800.0, 800.0]), np.array([1e-300, 0.0]))
    array([2.72637457e+47, 0.00000000e+00])
    """
    with np.errstate(over="ignore", invalid="ignore"):
        root = np.exp(k / 2)
        return np.asarray(np.where(x == 0, x, root * x * root))


def exact_product(factor: float, n: Array) -> tuple[Array, Array]:
    """(high, low), high + low = factor · n without any rounding, for whole numbers |n| <= 2²⁴; high in the dtype of n

    A product that enters an exponential is wanted to more digits than a float has.

    >>> exact_product(0.1, np.array([3.0]))
    (array([0.3]), array([-2.77555756e-17]))
    """
    wide = n.astype(np.promote_types(n.dtype, np.float64))
    digits, exponent = math.frexp(factor)
    top = float(np.float32(digits))
    a, b = top * wide, (digits - top) * wide  # 24 + 24 bits, and at most 29 + 24
    whole = a + b
    with np.errstate(over="ignore", invalid="ignore"):  # high may be infinite, and then it is all there is
        product = np.ldexp(whole, exponent)
        high = product.astype(n.dtype)
        lost = (product - high) + np.ldexp((a - whole) + b, exponent)
    return high, np.where(np.isinf(high), 0, lost).astype(n.dtype)


def exp_minus_1_minus(d: Array) -> Array:
    """eᵈ - 1 - d, never negative: what a KL divergence sums

    Near 0, where the two terms of `expm1(d) - d` cancel, Taylor's series d²/2 (1 + d/3 + d²/12 + ...).

    >>> exp_minus_1_minus(np.array([-1e-9, 0.0, 1.0]))
    array([5.00000000e-19, 0.00000000e+00, 7.18281828e-01])
    """
    near = abs(d) < 0.25
    small = _within(d, 0.25)
    first, *rest, last = _taylor(d.real.dtype)
    series = last * small
    for coefficient in reversed(rest):
        series += coefficient
        series *= small
    series += first
    return np.where(near, 0.5 * small * small * series, np.expm1(d) - d)


@functools.cache
def _taylor(dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """2/k!, k = 2, 3 ..., as far as a quarter to that power counts"""
    terms = [dtype.type(2) / dtype.type(math.factorial(k)) for k in range(2, 25)]
    return tuple(x for k, x in enumerate(terms) if x * 0.25**k > np.finfo(dtype).eps / 16)


def kl_terms(log_q: Array, log_p: Array) -> tuple[Array, Array]:
    """q (eᵈ - 1 - d) and p - q, d = log p - log q: what KL(q || p) sums over outcomes, and its slopes in p's logits

    As p and q both sum to 1, the terms add up to Σ q log(q/p); but none is negative, and none cancels where p = q. An
    outcome without q counts too, as p.

    >>> kl_terms(np.array([0.0, -np.inf]), np.log([0.5, 0.5]))
    (array([0.19314718, 0.5       ]), array([-0.5,  0.5]))
    """
    p, q = np.exp(log_p), np.exp(log_q)
    none = q == 0
    with np.errstate(invalid="ignore"):  # -inf - -inf: an outcome that neither has
        d = np.where(none, 0, log_p - log_q)
    near = (d.real < 2) & ~none  # beyond, nothing cancels, and eᵈ may overflow though p does not
    small, large = np.where(near, d, 0), np.where(near, 0, d)
    return (np.where(near, q * exp_minus_1_minus(small), p - q - q * large),
            np.where(near, q * np.expm1(small), p - q))


def log_normalizer(x: Array, out: Array | None = None, below: Array | None = None, best: Array | None = None
                   ) -> tuple[Array, Array]:
    """(top, rest) with log Σᵥ exp xᵥ = top + rest, top = max x, over the last axis, row after row: (rows,)

    `out` receives exp(x - top); where it is not given, **x is overwritten**. Either is C-contiguous. `below` receives
    x - top, and `best` (rows,) where the largest stand in x.reshape(-1).

    rest = log1p(Σ of all the others): when one outcome is nearly certain its log-prob is -rest, and `log(sum)`, rounded
    at 1, would lose it.
    """
    V = x.shape[-1]
    x = x.reshape(-1, V)
    out = x if out is None else out.reshape(-1, V)
    best = x.real.argmax(axis=-1, out=best)
    best += np.arange(0, x.size, V)
    top, flat = x.reshape(-1).take(best), out.reshape(-1)
    np.exp(np.subtract(x, top[:, None], out=out if below is None else below), out=out)
    flat[best] = 0
    rest = row_sums(out)
    flat[best] = 1
    return top, np.log1p(rest, out=rest)


def row_sums(x: Array) -> Array:
    """Σᵥ xᵥ over the last axis

    Along short rows NumPy's pairwise sum takes twice the time of BLAS; along long ones BLAS adds in too few places.

    >>> row_sums(np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([3., 7.])
    """
    V = x.shape[-1]
    return np.asarray(np.vecdot(np.ones(V, x.dtype), x) if V <= 512 else x.sum(axis=-1))


def log_softmax(logits: Array) -> Array:
    """log pᵥ = xᵥ - log Σ exp x, over the last axis; a logit of -inf is probability 0

    >>> log_softmax(np.array([[1000.0, 1000.0], [50.0, 0.0], [0.0, -np.inf]]))
    array([[-6.93147181e-01, -6.93147181e-01],
           [-1.92874985e-22, -5.00000000e+01],
           [ 0.00000000e+00,            -inf]])
    """
    top, rest = log_normalizer(np.array(logits))
    lead = (*logits.shape[:-1], 1)
    return (logits - top.reshape(lead)) - rest.reshape(lead)
