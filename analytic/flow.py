"""Gradient flow on one pair, in closed form: how far descent with small steps has come, and when it gets there.

    dh/dt = -2 ∂L/∂h        h = log π(y_w)/π_ref(y_w) - log π(y_l)/π_ref(y_l)

The coordinates are the logits of a table, one a response: h rises with that of y_w and falls with that of y_l, so they
move by the slope each, oppositely, h by twice the slope, and other logits not at all. At h the policy is
`population.policy([h/2, -h/2, 0, ...], ref)`. Time t is learning rate × steps of plain descent on a loss in which the
pair weighs 1 (w t where it weighs w); at rate η descent stays within O(η). Pairs without a common response do not feel
each other.

Losses of β have the margin m = βh, and IPO, of τ, has h itself, in nats. p is the probability of the label: the loss is
p L(h) + (1-p) L(-h), as of soft labels, of annotators who disagree, or of cDPO, where it is p (1-ε) + (1-p) ε. start is
m, or h, at t = 0, by default that of π_ref. Each `*_time` is the inverse: inf for what is never reached, behind the
start or beyond the limit.

All but β and τ broadcast. Every function raises `ValueError` where a time is below 0, p is not from 0 to 1, a number is
not finite, β or τ is not one number above 0, or shapes do not fit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import wrightomega

from ._checks import Array, _reject, finite, leading, positive, probability
from .minimizers import cdpo_margin

__all__ = [
    "dpo_margin", "dpo_time", "exponential_margin", "exponential_time", "hinge_margin", "hinge_time", "ipo_gap",
    "ipo_time",
]


def dpo_margin(t: ArrayLike, beta: float, p: ArrayLike = 1.0, start: ArrayLike = 0.0) -> Array:
    """dm/dt = 2β² (p - σ(m)): for p = 1, from 0, m + e^m = 1 + 2β²t, or m = log ω(1 + 2β²t), ω Wright's function

    With p = 1 it grows for ever, a little below log(1 + 2β²t); else it ends at logit(p). Then `dpo_time` has a closed
    form, and m is its root, found by Newton's method. Rafailov et al. 2023, arXiv:2305.18290, eq. 7.

    >>> dpo_margin([0.0, 1.0, 100.0], beta=1.0).round(8)
    array([0.        , 0.79205997, 5.27670192])
    """
    t, p, start = _given("t", _times(t), p, start)
    sign, p, q, start, limit = _upwards(p, start, cdpo_margin(p, 0.0))
    total = 2 * positive("beta", beta) ** 2 * p * t
    # total = Δ + ζ, the terms of `dpo_time`: Δ = log(1 + b (1 - e^-qζ)/q) is concave in ζ, so that Newton's method
    # climbs to the root from any ζ below. Such are the root of the tangent at 0 and that of q = 0, by ω.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        log_b = np.log(_room(start, p, limit)) - start
        a, b = np.exp(-log_b), np.exp(log_b)
        zeta = np.maximum(total / (1 + b), np.where(b > 1, wrightomega(total + a - log_b) - a, 0))
        for _ in range(8):  # four are enough from here
            E = _damped(q, zeta)
            rise = np.where(b * E < np.inf, np.log1p(b * E), np.logaddexp(0, log_b + np.log(E)))
            zeta = zeta + (total - zeta - rise) / (1 + np.exp(log_b - q * zeta - rise))
    return sign * (start + np.where(zeta < total / 2, total - zeta, rise))


def dpo_time(margin: ArrayLike, beta: float, p: ArrayLike = 1.0, start: ArrayLike = 0.0) -> Array:
    """2β²t = (Δ - log(1 - q g)/q)/p,   Δ = m - start, q = 1-p, g = (e^m - e^start)/(p - q e^start);   Δ + g for p = 1

    The time at which `dpo_margin` is m: of certain labels each unit more costs e times the last.

    >>> dpo_time([0.0, 1.0, 2.0, -1.0], beta=0.1).round(8)
    array([  0.        , 135.91409142, 419.45280495,          inf])
    """
    m, p, start = _given("margin", finite("margin", margin), p, start)
    sign, p, q, start, limit = _upwards(p, start, cdpo_margin(p, 0.0))
    m = sign * m
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        g = np.exp(m) * -np.expm1(start - m) / _room(start, p, limit)
        total = m - start + np.where((q == 0) | (q * g < 1e-17), g, -np.log1p(-np.minimum(q * g, 1)) / q)
        return _reached(total / (2 * positive("beta", beta) ** 2 * p), m, start, limit)


def exponential_margin(t: ArrayLike, beta: float, p: ArrayLike = 1.0, start: ArrayLike = 0.0) -> Array:
    """dm/dt = 2β² (p e^-m - q e^m):   e^m = (e^start + pT)/(1 + qT e^start),   T = tanh(2β² √(pq) t)/√(pq),   q = 1-p

    Of L = e^-m. T is 2β²t for p = 1: from 0, m = log(1 + 2β²t), for ever; else it ends at logit(p)/2. Tang et al. 2024,
    arXiv:2402.05749.

    >>> exponential_margin([0.0, 0.5, 49.5], beta=1.0).round(8)  # log 1, log 2, log 100
    array([0.        , 0.69314718, 4.60517019])
    """
    t, p, start = _given("t", _times(t), p, start)
    sign, p, q, start, limit = _upwards(p, start, cdpo_margin(p, 0.0) / 2)
    s, k = 2 * positive("beta", beta) ** 2 * t, np.sqrt(p * q)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        T = np.where(k * s < 1e-9, s, np.tanh(k * s) / k)
        gain = T * _room(2 * start, p, 2 * limit) / (1 + q * T * np.exp(np.minimum(start, 700)))  # in e^m
        rise = np.where(start > -700, np.log1p(gain * np.exp(-start)), np.logaddexp(0, np.log(gain) - start))
    return sign * (start + rise)


def exponential_time(margin: ArrayLike, beta: float, p: ArrayLike = 1.0, start: ArrayLike = 0.0) -> Array:
    """2β²t = artanh(√(pq) T)/√(pq),   T = (e^m - e^start)/(p - q e^(m + start)),   q = 1-p;   T itself for p = 1

    The time at which `exponential_margin` is m.

    >>> exponential_time([0.0, np.log(2.0), -1.0], beta=0.1).round(8)
    array([ 0., 50., inf])
    """
    m, p, start = _given("margin", finite("margin", margin), p, start)
    sign, p, q, start, limit = _upwards(p, start, cdpo_margin(p, 0.0) / 2)
    m, k = sign * m, np.sqrt(p * q)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        T = np.exp(m) * -np.expm1(start - m) / _room(m + start, p, 2 * limit)
        total = np.where((k == 0) | (k * T < 1e-9), T, np.arctanh(np.minimum(k * T, 1)) / k)
        return _reached(total / (2 * positive("beta", beta) ** 2), m, start, limit)


def hinge_margin(t: ArrayLike, beta: float, p: ArrayLike = 1.0, start: ArrayLike = 0.0) -> Array:
    """dm/dt = 2β² (p [m < 1] - (1-p) [m > -1]): straight lines, to 1 if p > ½, to -1 if p < ½; min(1, 2β²t) for p = 1

    Of L = max(0, 1 - m); between -1 and 1 nothing moves for p = ½, nor above 1 for p = 1. SLiC's max(0, δ - h) is δ
    times the hinge of β = 1/δ: h = δ `hinge_margin(δ t, 1/δ)`. Zhao et al. 2023, arXiv:2305.10425.

    >>> hinge_margin([0.0, 20.0, 80.0], beta=0.1)
    array([0. , 0.4, 1. ])
    """
    t, p, start = _given("t", _times(t), p, start)
    sign, p, q, start, _ = _upwards(p, start, np.where(p < 0.5, -np.inf, np.inf))
    s = 2 * positive("beta", beta) ** 2 * t
    far = np.minimum(s, np.maximum(-1 - start, 0) / p)  # spent below -1, where both kinds of labels pull up
    rising = np.minimum(1, start + p * far + (p - q) * (s - far))
    return sign * np.where(start > 1, np.maximum(1, start - q * s), rising)


def hinge_time(margin: ArrayLike, beta: float, p: ArrayLike = 1.0, start: ArrayLike = 0.0) -> Array:
    """The first time at which `hinge_margin` is m: (m - start)/(2β²) for p = 1, from start to 1, which is reached

    >>> hinge_time([0.0, 0.5, 1.0, 1.5], beta=0.1).round(8)
    array([ 0., 25., 50., inf])
    """
    m, p, start = _given("margin", finite("margin", margin), p, start)
    sign, p, q, start, _ = _upwards(p, start, np.where(p < 0.5, -np.inf, np.inf))
    m = sign * m
    with np.errstate(divide="ignore", invalid="ignore"):
        far, near = np.maximum(np.minimum(m, -1) - start, 0), np.maximum(m - np.maximum(start, -1), 0)
        rising = np.where(far > 0, far / p, 0) + np.where(near > 0, near / (p - q), 0)
        s = np.where(start > 1, (start - m) / q, rising)
    on_the_way = (np.minimum(start, 1) <= m) & (m <= np.maximum(start, 1))
    return np.where(m == start, 0, np.where(on_the_way, s, np.inf)) / (2 * positive("beta", beta) ** 2)


def ipo_gap(t: ArrayLike, tau: float, p: ArrayLike = 1.0, start: ArrayLike = 0.0) -> Array:
    """dh/dt = -4 (h - h*):   h = h* + (start - h*) e^-4t,   h* = (2p - 1)/(2τ), in nats

    Of L = (h - 1/(2τ))². The rate is 4 for any τ; near its limit that of DPO is 2β² p (1-p). Azar et al. 2023,
    arXiv:2310.12036, eq. 17.

    >>> ipo_gap([0.0, 0.25, 10.0], tau=0.1).round(8)
    array([0.        , 3.16060279, 5.        ])
    """
    t, p, start = _given("t", _times(t), p, start)
    limit = (2 * p - 1) / (2 * positive("tau", tau))
    return start - (limit - start) * np.expm1(-4 * t)


def ipo_time(gap: ArrayLike, tau: float, p: ArrayLike = 1.0, start: ArrayLike = 0.0) -> Array:
    """t = -¼ log(1 - (h - start)/(h* - start)), the time at which `ipo_gap` is h

    >>> ipo_time([0.0, 2.5, 5.0], tau=0.1).round(8)
    array([0.       , 0.1732868,       inf])
    """
    h, p, start = _given("gap", finite("gap", gap), p, start)
    limit = (2 * p - 1) / (2 * positive("tau", tau))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (h - start) / (limit - start)
        return np.where(h == start, 0, np.where((share > 0) & (share < 1), -np.log1p(-share) / 4, np.inf))


# ---- pieces

def _upwards(p: Array, start: Array, limit: Array) -> tuple[Array, Array, Array, Array, Array]:
    """sign, p, 1-p, start and limit, labels exchanged where the limit is below the start: so that m only rises"""
    sign = np.where(start > limit, -1.0, 1.0)
    return sign, np.where(sign > 0, p, 1 - p), np.where(sign > 0, 1 - p, p), sign * start, sign * limit


def _room(m: Array, p: Array, limit: Array) -> Array:
    """p - (1-p) e^m, where it is 0 at m = limit"""
    return -p * np.expm1(m - limit)


def _damped(q: Array, x: Array) -> Array:
    """(1 - e^-qx)/q, x at q = 0"""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(q * x < 1e-17, x, -np.expm1(-q * x) / q)


def _reached(time: Array, m: Array, start: Array, limit: Array) -> Array:
    return np.where(m == start, 0, np.where((start < m) & (m < limit), time, np.inf))


# ---- domains

def _times(t: ArrayLike) -> Array:
    t = finite("t", t)
    _reject("t", t, t < 0, "expected times, at least 0")
    return t


def _given(name: str, x: Array, p: ArrayLike, start: ArrayLike) -> list[Array]:
    p, start = probability("p", p), finite("start", start)
    leading(**{name: x, "p": p, "start": start})
    return list(np.broadcast_arrays(x, p, start))
