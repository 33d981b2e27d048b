"""Proxies p = g + e of gold g, by kind of error e, and what π ∝ e^{p/β} makes of them as β falls.

    draw, frontier            of finitely many responses, equally likely; axes (replicates, kinds, ...)
    slope, given_heavy        E[g | p], where g and e are jointly normal, and where e is Student's
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "Proxies", "draw", "frontier", "given_heavy", "slope", "slope_error"]

Array = NDArray[Any]

#: of errors of a proxy of the reward
KINDS = ("gaussian", "correlated", "heavy", "adversarial")


def slope(gold_size: float, error_size: float, correlation: float = 0.0) -> float:
    """b = (s_g² + ρ s_g s_e)/(s_g² + s_e² + 2 ρ s_g s_e), E[g | p] = b p where g and e are jointly normal

    >>> slope(1.0, 1.0), round(slope(1.0, 2.0, correlation=-0.75), 6)
    (0.5, -0.25)
    """
    both = correlation * gold_size * error_size
    return (gold_size**2 + both) / (gold_size**2 + error_size**2 + 2 * both)


def given_heavy(proxy: Array, gold_size: float, scale: float, freedom: float) -> Array:
    """E[g | p] where e is `scale` times Student's t: ∫ b(λ) p w(λ) dλ/∫ w(λ) dλ, of the shape of `proxy`

    t is a normal variable over √λ, λ of a Gamma law of mean 1, and given λ all is normal: b = s_g²/(s_g² + scale²/λ), w
    the law of λ times the density of p. Trapezia in log λ, whose error falls faster than any power of their width.
    """
    log_lam = np.arange(-30.0, 6.0, 0.15)
    lam = np.exp(log_lam)
    variance = gold_size**2 + scale**2 / lam
    w = np.exp(freedom / 2 * (log_lam - lam) - np.log(variance) / 2 - proxy[..., None] ** 2 / (2 * variance))
    given: Array = proxy * (w @ (gold_size**2 / variance)) / w.sum(axis=-1)
    return given


def slope_error(gold_size: float, error_size: float, correlation: float, n: int) -> float:
    """√(Var(g | p)/(n Var p)), the standard error of Σ g p/Σ p² over n responses"""
    variance = gold_size**2 + error_size**2 + 2 * correlation * gold_size * error_size
    return gold_size * error_size * sqrt((1 - correlation**2) / n) / variance


class Proxies(NamedTuple):
    """Each (replicates, kinds, responses)."""

    proxy: Array
    gold: Array
    expected: Array  # E[g | p]


def draw(rngs: Sequence[np.random.Generator], responses: int, s_g: float, s_e: float, rho: float, freedom: float,
         scale: float, owned: int, harm: float) -> Proxies:
    """All kinds of the same normal draws; the adversary owns the best `owned` of the plain proxies, whose gold is -harm

    E[g | p] is told with the ranks of the proxies known: what the adversary does not own is b p.
    """
    drawn = [(rng.normal(size=responses), rng.normal(size=responses), rng.chisquare(freedom, size=responses))
             for rng in rngs]
    g, z, c = (np.array(column) for column in zip(*drawn, strict=True))
    g = s_g * g
    plain, tied = g + s_e * z, g + s_e * (rho * g / s_g + np.sqrt(1 - rho**2) * z)
    heavy = g + scale * z / np.sqrt(c / freedom)
    bad = plain.argsort(axis=1).argsort(axis=1) >= responses - owned
    b = slope(s_g, s_e)
    return Proxies(*(np.stack(column, axis=1) for column in (
        (plain, tied, heavy, plain),
        (g, g, g, np.where(bad, -harm, g)),
        (b * plain, slope(s_g, s_e, rho) * tied, given_heavy(heavy, s_g, scale, freedom),
         np.where(bad, -harm, b * plain)))))


def frontier(drawn: Proxies, at: Array) -> dict[str, Array]:
    """E p, E g and E E[g | p] of π ∝ e^{p/β} at KL = `at`, interpolated between 50 β, each (replicates, kinds, at)"""
    K = drawn.proxy.shape[-1]
    below = drawn.proxy - drawn.proxy.max(axis=-1, keepdims=True)
    # in units in which the best takes over at about 1
    inverse = np.append(0, np.geomspace(0.02, 200, 49)) * log(K) / -below.mean(axis=-1, keepdims=True)
    w = np.exp(inverse[..., None] * below[..., None, :])
    total = w.sum(axis=-1)
    means = np.einsum("...tk,...ky->...yt", w, np.stack([below, *drawn], axis=-1), optimize=True) / total[..., None, :]
    kl = inverse * means[..., 0, :] - np.log(total / K)
    found = np.array([[[np.interp(at, x, y) for y in rows] for x, rows in zip(*kind, strict=True)]
                      for kind in zip(kl, means[..., 1:, :], strict=True)])
    return {name: found[..., i, :] for i, name in enumerate(Proxies._fields)}
