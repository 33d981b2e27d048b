"""The few functions where overflow and cancellation live; nothing else in the package thinks of them.

All keep the dtype they are given (float32, float64, longdouble) and take complex arrays too, branching on the real
part, so that complex steps can differentiate through them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["bernoulli_kl", "exact_product", "exp_minus_1_minus", "exp_times", "kl_terms", "log_normalizer",
           "log_sigmoid", "log_sigmoid_difference", "log_softmax", "row_sums", "sigmoid", "sigmoid_difference"]

Array = NDArray[Any]


def log_sigmoid(z: Array) -> Array:
    """log σ(z) = -log(1 + e⁻ᶻ) = min(z, 0) - log1p(e^-|z|)

    `log(sigmoid(z))` is -inf below z = -745 and 0 above z = 37; the two ends here are z and -e⁻ᶻ.

    >>> log_sigmoid(np.array([-1000.0, 0.0, 40.0]))
    array([-1.00000000e+03, -6.93147181e-01, -4.24835426e-18])
    """
    negative = z.real < 0
    return np.where(negative, z, 0) - np.log1p(np.exp(np.where(negative, z, -z)))


def sigmoid(z: Array) -> Array:
    """σ(z) = 1 / (1 + e⁻ᶻ) = eᶻ / (1 + eᶻ), whichever exponential is at most 1

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    negative = z.real < 0
    e = np.exp(np.where(negative, z, -z))
    return np.asarray(np.where(negative, e, 1) / (1 + e))


def sigmoid_difference(x: Array, y: Array, d: Array) -> Array:
    """σ(x) - σ(y) = σ(x) σ(-y) (1 - e⁻ᵈ),   d = x - y, which the caller may know to more digits than x and y have

    >>> sigmoid_difference(np.array([50.0]), np.array([49.0]), np.array([1.0]))
    array([3.31413582e-22])
    """
    ahead = d.real >= 0
    high, low = np.where(ahead, x, y), np.where(ahead, y, x)
    gap = sigmoid(high) * sigmoid(-low) * np.expm1(np.where(ahead, -d, d))
    return np.where(ahead, -gap, gap)


def log_sigmoid_difference(x: Array, y: Array) -> Array:
    """log σ(x) - log σ(y) = -log1p(σ(-y) (e⁻ᵈ - 1)),   d = x - y; far apart, the difference itself loses nothing

    >>> log_sigmoid_difference(np.array([1e-20, 800.0]), np.array([0.0, -800.0]))
    array([5.e-21, 8.e+02])
    """
    d = x - y
    near = abs(d) < 1
    close = np.where(near, d, 0)
    return np.where(near, -np.log1p(sigmoid(-y) * np.expm1(-close)), log_sigmoid(x) - log_sigmoid(y))


def bernoulli_kl(x: Array, y: Array) -> Array:
    """KL(σ(x) || σ(y)) = σ(x) log σ(x)/σ(y) + σ(-x) log σ(-x)/σ(-y), never negative

    As a sum of q (eᵈ - 1 - d), d = log p - log q, in which nothing cancels.

    >>> bernoulli_kl(np.array([0.0, 0.0, 1000.0]), np.array([1e-9, np.log(3.0), -1000.0]))
    array([1.25000000e-19, 1.43841036e-01, 1.00000000e+03])
    """

    def term(x: Array, y: Array) -> Array:
        q, d = sigmoid(x), log_sigmoid_difference(y, x)
        small = d.real < 2  # beyond, nothing cancels, and eᵈ would multiply the rounding of d
        return np.where(small, q * exp_minus_1_minus(np.where(small, d, 0)), sigmoid(y) - q - q * d)

    return np.asarray(term(x, y) + term(-x, -y))


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

    Near 0, where the two terms of `expm1(d) - d` cancel, Taylor's series d²/2 (1 + d/3 (1 + d/4 (1 + ...))).

    >>> exp_minus_1_minus(np.array([-1e-9, 0.0, 1.0]))
    array([5.00000000e-19, 0.00000000e+00, 7.18281828e-01])
    """
    near = abs(d) < 0.25
    small = np.where(near, d, 0)
    series = np.ones_like(small)
    for k in range(18, 2, -1):  # 0.25^17 / 19! is far below longdouble's eps
        series = 1 + small / k * series
    return np.where(near, small * small / 2 * series, np.expm1(d) - d)


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


def log_normalizer(x: Array, out: Array | None = None, best: Array | None = None) -> tuple[Array, Array]:
    """(top, rest) with log Σᵥ exp xᵥ = top + rest, top = max x, over the last axis, row after row: (rows,)

    `out` receives exp(x - top); where it is not given, **x is overwritten**. Either is C-contiguous. `best` receives
    where the largest stand in x.reshape(-1), (rows,).

    rest = log1p(Σ of all the others): when one outcome is nearly certain its log-prob is -rest, and `log(sum)`, rounded
    at 1, would lose it.
    """
    V = x.shape[-1]
    x = x.reshape(-1, V)
    out = x if out is None else out.reshape(-1, V)
    best = x.real.argmax(axis=-1, out=best)
    best += np.arange(0, x.size, V)
    top, flat = x.reshape(-1).take(best), out.reshape(-1)
    np.exp(np.subtract(x, top[:, None], out=out), out=out)
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
