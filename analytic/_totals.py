"""Sums over pairs of strings, by the distribution of whole-numbered totals: strings are extended token by token.

Those still unfinished when less than `tail` is left are bounded, and what they could add is stated with the result.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, log_expit

from ._chains import Steps, advantages, model, require_few_tokens, rewards, steps, transitions
from ._checks import Array, finite, positive

__all__ = ["Truncated", "dpo_loss", "win_rate"]

TOTALS = 4096.0  # of a kind: a table of each against each holds their square


class Truncated(NamedTuple):
    """A sum over strings that was cut off: that over all is within `error` of `value`, rounding apart."""

    value: float
    error: float


def win_rate(
    p: ArrayLike, q: ArrayLike, reward: ArrayLike, unit: float = 1.0, tail: float = 1e-14, *,
    following: ArrayLike | None = None, start: int = 0,
) -> Truncated:
    """P(y ≻ y') = Σ_y Σ_y' p(y) q(y') σ(r(y) - r(y')): a string of p against one of q, before Bradley-Terry annotators

    reward (S, V) holds whole numbers, ρ is `unit` times these, in nats. A product for each token and each of them; the
    totals of n tokens are up to n times as many as their range.

    Raises `ValueError` where a reward is no whole number, and where tail is not between 0 and 1; `ArithmeticError`
    where totals would be more than some 4,000.

    >>> half, at_once, tokens = [[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [1.0, 0.0]], [[0, 1], [0, 1]]
    >>> round(win_rate(half, at_once, tokens, unit=1e3).value, 12)  # ties, half of the time, count half
    0.75
    """
    chain = steps("p", p, following, start)
    p, q, counts = model("p", p, chain), model("q", q, chain), _whole("reward", reward, chain)
    first, second = (_totals(name, table, counts[None], tail, chain) for name, table in (("p", p), ("q", q)))
    margin = finite("unit", unit) * np.subtract.outer(first.values(0), second.values(0))
    known = first.mass @ expit(margin) @ second.mass
    unknown = 1 - (1 - first.left) * (1 - second.left)
    return Truncated(float(known + unknown / 2), float(unknown / 2))


def dpo_loss(
    mu: ArrayLike, log_ratio: ArrayLike, reward: ArrayLike, beta: float, units: tuple[float, float] = (1.0, 1.0),
    tail: float = 1e-14, *, following: ArrayLike | None = None, start: int = 0,
) -> Truncated:
    """L = 2 Σ_y Σ_y' μ(y) μ(y') σ(r(y) - r(y')) (-log σ(β (u(y) - u(y')))): the DPO loss of the whole population

    Both responses are strings of μ, independent; equal ones are kept, at log 2 each. Labels are Bradley-Terry of r. u =
    log π/π_ref is summed over tokens, like r: log_ratio and reward (S, V) hold whole numbers, of units[0] and units[1]
    nats. Rafailov et al. 2023, arXiv:2305.18290, eq. 7, its expectation taken over all strings.

    Raises `ValueError` where a table holds no whole numbers, and where tail is not between 0 and 1; `ArithmeticError`
    where totals would be more than some 4,000.

    >>> half, tokens = [[0.5, 0.5], [0.5, 0.5]], [[0, 1], [0, 1]]
    >>> round(dpo_loss(half, tokens, tokens, beta=1.0, units=(0.0, 1.0)).value, 6)  # log 2: π is π_ref
    0.693147
    """
    chain = steps("mu", mu, following, start)
    mu, beta, (u_unit, r_unit) = model("mu", mu, chain), positive("beta", beta), finite("units", units)
    counts = np.stack([_whole("log_ratio", log_ratio, chain), _whole("reward", reward, chain)])
    pairs = _totals("mu", mu, counts, tail, chain)
    u, r = u_unit * pairs.values(0), r_unit * pairs.values(1)
    loss = -log_expit(beta * np.subtract.outer(u, u))
    known = 2 * float((expit(np.subtract.outer(r, r)) * (pairs.mass.T @ loss @ pairs.mass)).sum())
    # -log σ(β h) <= log 2 + β |h|, and |u(y)| is at most its largest step times the tokens of y
    longest = float(beta * abs(u_unit * counts[0]).max())
    unknown = 2 * (pairs.left * math.log(2) + longest * (pairs.left_tokens + pairs.left * pairs.tokens))
    return Truncated(known + unknown / 2, unknown / 2)


class _Totals(NamedTuple):
    low: Array  # (D,): the least total of each of D tables
    mass: Array  # (K₁ ... K_D): the probability of each combination of totals, low, low + 1 ...
    left: float  # the probability of strings that are longer
    left_tokens: float  # E[tokens, the end among them; those strings]
    tokens: float  # the same, of all strings

    def values(self, which: int) -> Array:
        return np.asarray(self.low[which] + np.arange(self.mass.shape[which]), float)


def _totals(name: str, p: Array, counts: Array, tail: float, chain: Steps) -> _Totals:
    """The joint distribution of the totals of D tables of whole numbers, counts (D, S, V), over strings of p"""
    if not (np.ndim(tail) == 0 and 0 < tail < 1):
        raise ValueError(f"tail is {tail}; expected a probability between 0 and 1")
    kinds, kind = np.unique(counts[:, p > 0], axis=1, return_inverse=True)
    low, high = np.minimum(kinds.min(axis=1), 0), np.maximum(kinds.max(axis=1), 0)
    require_few_tokens(name, p, chain, tail, TOTALS / float(max((high - low).max(), 1)))
    moves = []
    for k, by in enumerate(kinds.T - low):
        weights = np.zeros(p.shape)
        weights[p > 0] = np.where(kind.ravel() == k, p[p > 0], 0.0)
        moves.append((by, transitions(weights, chain).T, weights[:, 0]))

    D, S, length = len(counts), len(p), 0
    unfinished, mass = chain.begin().reshape(S, *[1] * D), np.zeros([1] * D)
    while (left := float(unfinished.sum())) > tail:
        longer, mass = np.zeros((S, *unfinished.shape[1:] + high - low)), np.pad(mass, np.stack([-low, high], axis=1))
        for by, T, ends in moves:
            there = tuple(slice(a, a + n) for a, n in zip(by, unfinished.shape[1:], strict=True))
            longer[:, *there] += (T @ unfinished.reshape(S, -1)).reshape(unfinished.shape)
            mass[there] += np.tensordot(ends, unfinished, 1)
        unfinished, length = longer, length + 1
    tokens, more, _ = advantages(p, np.ones(p.shape), chain)
    left_tokens = length * left + float(unfinished.reshape(S, -1).sum(axis=1) @ more)
    return _Totals(length * low, mass, left, left_tokens, tokens)


def _whole(name: str, counts: ArrayLike, chain: Steps) -> Array:
    table = rewards(name, counts, chain)
    if (table != np.rint(table)).any():
        s, v = np.argwhere(table != np.rint(table))[0]
        raise ValueError(f"{name} is {table[s, v]} at [{s}, {v}]; expected whole numbers")
    return np.rint(table).astype(np.intp)
