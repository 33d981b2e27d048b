"""Arrow 4: from scores to a loss. Kernels know one comparison, lifts know the axes.

A kernel takes scalars (arrays of any one shape) to `(value, slope)`, the slope being d value / d argument, or a tuple
of them. A lift makes a link of it, `(s (..., B, K), weight (B,), facts) -> (value (..., B), ds like s)`, where ds is
the gradient of Σ_b weight_b value_b. That lets a link couple the batch (`sorted_margins`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .numerics import log_sigmoid, sigmoid
from .scores import Values

__all__ = ["Link", "chosen", "dpop", "each", "hinge", "kto", "logistic", "margin", "negative", "pair", "sorted_margins",
           "squared"]

Array = NDArray[Any]
Kernel = Callable[..., tuple[Array, Any]]


class Link(NamedTuple):
    fn: Callable[[Array, Array, Values], tuple[Array, Array]]
    needs: tuple[str, ...] = ()
    columns: int | None = 2  # the K it takes; None: any


# ---- kernels: value, slope

def logistic(h: Array, beta: float, offset: float = 0.0, eps: float = 0.0) -> tuple[Array, Array]:
    """φ(h) = -(1-ε) log σ(z) - ε log σ(-z),   φ'(h) = β (ε σ(z) - (1-ε) σ(-z)),   z = βh - offset"""
    z = beta * h - offset
    if eps == 0:
        return -log_sigmoid(z), -beta * sigmoid(-z)
    # φ' vanishes at z = log((1-ε)/ε), where its two terms cancel; in the distance d from there nothing does
    d = z - math.log1p((1 - 2 * eps) / eps)
    below = d.real < 0
    pull = np.where(below, (1 - eps) * sigmoid(-z), -eps * sigmoid(z)) * np.expm1(np.where(below, d, -d))
    return -(1 - eps) * log_sigmoid(z) - eps * log_sigmoid(-z), beta * pull


def squared(h: Array, target: float) -> tuple[Array, Array]:
    """φ(h) = (h - target)²,   φ'(h) = 2 (h - target)"""
    return (h - target) ** 2, 2 * (h - target)


def hinge(h: Array, beta: float) -> tuple[Array, Array]:
    """φ(h) = max(0, 1 - βh),   φ'(h) = -β where βh < 1, else 0 (at the kink too)"""
    slack = 1 - beta * h
    met = slack.real <= 0
    return np.where(met, 0, slack), np.where(met, 0, -beta).astype(h.dtype)


def dpop(a: Array, b: Array, beta: float, lam: float) -> tuple[Array, tuple[Array, Array]]:
    """φ(a, b) = -log σ(β (a - b - λ max(0, -a))),   ∂a = φ' (1 + λ [a < 0]),   ∂b = -φ'"""
    fallen = a.real < 0
    value, slope = logistic(a - b + lam * np.where(fallen, a, 0), beta)
    return value, (slope * np.where(fallen, 1 + lam, 1).astype(slope.dtype), -slope)


def kto(s: Array, label: Array, z0: Array, beta: float, lam_d: float, lam_u: float) -> tuple[Array, Array]:
    """φ(s) = λ (1 - σ(z)) = λ σ(-z),   φ'(s) = ∓λβ σ(z) σ(-z),   z = ±β (s - z₀);  + and λ_D if desired"""
    dtype, lam, rate = s.real.dtype, np.where(label, lam_d, lam_u), np.where(label, beta, -beta)
    z = rate.astype(dtype) * (s - z0)
    return lam.astype(dtype) * sigmoid(-z), (-lam * rate).astype(dtype) * sigmoid(z) * sigmoid(-z)


def negative(s: Array) -> tuple[Array, Array]:
    """φ(s) = -s,   φ'(s) = -1"""
    return -s, -np.ones_like(s)


# ---- lifts

def margin(kernel: Kernel, **hyper: float) -> Link:
    """value_b = φ(s_w - s_l): one slope, up for the chosen and down for the rejected"""

    def fn(s: Array, weight: Array, facts: Values) -> tuple[Array, Array]:
        value, slope = kernel(s[..., 0] - s[..., 1], **hyper)
        slope = weight * slope
        return value, np.stack([slope, -slope], axis=-1)

    return Link(fn)


def pair(kernel: Kernel, **hyper: float) -> Link:
    """value_b = φ(s_w, s_l), with a slope for each"""

    def fn(s: Array, weight: Array, facts: Values) -> tuple[Array, Array]:
        value, slopes = kernel(s[..., 0], s[..., 1], **hyper)
        return value, np.stack([weight * slope for slope in slopes], axis=-1)

    return Link(fn)


def chosen(kernel: Kernel, **hyper: float) -> Link:
    """value_b = φ(s_w), whatever else the row holds"""

    def fn(s: Array, weight: Array, facts: Values) -> tuple[Array, Array]:
        value, slope = kernel(s[..., 0], **hyper)
        ds = np.zeros_like(s)
        ds[..., 0] = weight * slope
        return value, ds

    return Link(fn, columns=None)


def each(kernel: Kernel, *needs: str, **hyper: float) -> Link:
    """value_b = φ(s, label_b, the facts named): unpaired data, one response a row"""

    def fn(s: Array, weight: Array, facts: Values) -> tuple[Array, Array]:
        # (B, 1) or (B,)
        told = (facts[name][..., 0] if facts[name].ndim > 1 else facts[name] for name in ("label", *needs))
        value, slope = kernel(s[..., 0], *told, **hyper)
        return value, (weight * slope)[..., None]

    return Link(fn, ("label", *needs), columns=1)


def sorted_margins(kernel: Kernel, **hyper: float) -> Link:
    """Σ_k w φ(u₍ₖ₎ - v₍ₖ₎): the policy's margins u = s_w - s_l and the reference's v, each sorted, meet rank by rank

    With weights, the ranks are those of the two weighted distributions (the monotone coupling of optimal transport), so
    that weight 2 is the row twice. A row's value is the mean over the mass it meets. Ties: any order gives the same
    total.
    """

    def fn(s: Array, weight: Array, facts: Values) -> tuple[Array, Array]:
        u = s[..., 0] - s[..., 1]
        ref = np.broadcast_to(facts["ref_logp"], s.shape)
        v = ref[..., 0] - ref[..., 1]
        value, slope = np.zeros_like(u), np.zeros_like(u)
        for at in np.ndindex(u.shape[:-1]):
            rows, cols, mass = _coupling(u[at].real, v[at], weight)
            phi, dphi = kernel(u[at][rows] - v[at][cols], **hyper)
            np.add.at(value[at], rows, mass * phi)
            np.add.at(slope[at], rows, mass * dphi)
        value = np.divide(value, weight, out=np.zeros_like(value), where=weight > 0)
        return value, np.stack([slope, -slope], axis=-1)

    return Link(fn, ("ref_logp",))


def _coupling(u: Array, v: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Pieces (i, j, mass) that match equal quantiles of u and v, both weighted by `weight`."""
    by_u, by_v = np.argsort(u, kind="stable"), np.argsort(v, kind="stable")
    # in longdouble: a small mass is the difference of two large ends
    ends_u, ends_v = (np.cumsum(weight[order], dtype=np.longdouble) for order in (by_u, by_v))
    ends_v[-1:] = ends_u[-1:]  # the same total, added in another order
    ends = np.union1d(ends_u, ends_v)
    mass = np.diff(ends, prepend=0).astype(weight.dtype)
    rows = by_u[np.minimum(np.searchsorted(ends_u, ends), len(u) - 1)]
    cols = by_v[np.minimum(np.searchsorted(ends_v, ends), len(v) - 1)]
    return rows, cols, mass
