"""Lengths of all strings at once: tilted bigrams, fits to pairs by Newton's method, and a set of all short strings."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

__all__ = [
    "QUALITY", "REF", "TOKEN", "Short", "drawn", "every_short", "fitted", "ld_dpo", "lengths", "limited_lengths",
    "quantile", "summed",
]

Array = NDArray[Any]

# rows: begin, a, b; columns: end, a, b
TOKEN = np.array([[0.0, 1.0, 1.0]] * 3)
QUALITY = np.array([[0.0, 0.5, -0.5], [0.3, -0.4, 0.2], [0.0, 0.3, -0.6]])
REF = np.array([[0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.4, 0.2, 0.4]])


# ---- all strings

def lengths(tilt: Array) -> Array:
    """E|y| of REF e^θ/Z over all strings, |y| without the end; inf where Z diverges; tilt θ (..., 3, 3), shape (...)

    With A = REF e^θ, its first column the end: Z = v(begin), v = (I - A_T)⁻¹ A_end, and E|y| = y(begin)/Z where
    y = (I - A_T)⁻¹ A_T v. Z is finite where the spectral radius of A_T is below 1. NaN where θ is.

    >>> lengths(np.zeros((3, 3))).round(12)
    np.float64(2.3)
    """
    told = np.asarray(~np.isnan(tilt).any(axis=(-2, -1)))
    A = REF * np.exp(np.minimum(np.where(told[..., None, None], tilt, 0.0), 300.0))
    finite = abs(np.linalg.eigvals(A[..., 1:, 1:])).max(axis=-1) < 1
    T = np.where(finite[..., None, None], A, REF) * [0.0, 1.0, 1.0]
    v = np.linalg.solve(np.eye(3) - T, A[..., :1])
    y = np.linalg.solve(np.eye(3) - T, T @ v)
    return np.where(told, np.where(finite, (y / v)[..., 0, 0], np.inf), np.nan)


def limited_lengths(tilt: Array, longest: int) -> Array:
    """The same over strings of at most that many tokens; tilt (..., 3, 3), shape (...)

    >>> limited_lengths(np.zeros((3, 3)), 1).round(12)  # 0.2 end at once, 0.5 * 0.3 + 0.3 * 0.4 after a token
    np.float64(0.574468085106)
    """
    # what every token brings is counted apart, so that no sum overflows
    top = tilt[..., 1:].max(axis=(-2, -1))
    T = REF * np.exp(tilt - top[..., None, None]) * [0.0, 1.0, 1.0]
    scale = abs(np.linalg.eigvals(T[..., 1:, 1:])).max(axis=-1)
    T, end = T / scale[..., None, None], REF[:, 0] * np.exp(tilt[..., 0])
    ends, x = [], np.broadcast_to(np.eye(3)[0], (*scale.shape, 3))
    for _ in range(longest + 1):
        ends.append((x * end).sum(axis=-1))
        x = np.einsum("...s,...st->...t", x, T)
    n = np.arange(longest + 1)
    log_mass = np.log(np.stack(ends, axis=-1)) + n * (np.log(scale) + top)[..., None]
    mass = np.exp(log_mass - log_mass.max(axis=-1, keepdims=True))
    total: Array = mass @ n / mass.sum(axis=-1)
    return total


def quantile(x: Array, share: float) -> Array:
    """The least value that so many do not exceed, along the first axis; inf counts, NaN does not

    >>> quantile(np.array([np.inf, 1.0, np.nan, 2.0]), 0.5)
    np.float64(2.0)
    """
    count = (~np.isnan(x)).sum(axis=0)
    row = np.maximum(np.ceil(share * count).astype(int) - 1, 0)
    found: Array = np.take_along_axis(np.sort(x, axis=0), row[None], axis=0)[0]
    return found


# ---- pairs that are drawn

def drawn(count: int, rng: np.random.Generator) -> Array:
    """Strings of REF, their ends included, 0 beyond, (count, longest)"""
    columns, row = [], np.zeros(count, int)
    live = np.ones(count, bool)
    while live.any():
        token = (rng.random(count)[:, None] > REF.cumsum(axis=1)[row, :2]).sum(axis=1) * live
        columns.append(token)
        row, live = token, live & (token > 0)
    return np.stack(columns, axis=1)


def summed(tokens: Array) -> Array:
    """How often a string has each token in each context, (count, 9): times a table, its sum along the string"""
    before = np.concatenate([np.zeros((len(tokens), 1), int), tokens[:, :-1]], axis=1)
    said = (before > 0) | (np.arange(tokens.shape[1]) == 0)
    cell = before * 3 + tokens + 9 * np.arange(len(tokens))[:, None]
    return np.bincount(cell[said], minlength=9 * len(tokens)).reshape(-1, 9).astype(float)


def fitted(difference: Array, most: int = 40) -> Array:
    """argmin_θ Σ -log σ((n_w - n_l)·θ), a table (replicates, 3, 3); NaN where the pairs have none

    difference (replicates, pairs, 9) of `summed`, chosen less rejected. A logistic regression, and convex: its θ/β is
    the log-ratio of DPO's bigram up to what adds a constant to all strings, if strings of REF e^{θ/β} end.
    """
    theta = np.zeros((len(difference), 9))
    for _ in range(most):
        lost = expit(-np.einsum("rnd,rd->rn", difference, theta))
        slope = np.einsum("rnd,rn->rd", difference, lost)
        H = difference.mT @ (difference * (lost * (1 - lost))[..., None])
        step = np.einsum("rde,re->rd", np.linalg.pinv(H, rcond=1e-10, hermitian=True), slope)
        far = abs(np.einsum("rnd,rd->rn", difference, step)).max(axis=1, keepdims=True)
        theta = theta + step / np.maximum(far / 3, 1)
        if (far < 1e-9).all():
            break
    return np.where(far < 1e-9, theta, np.nan).reshape(-1, 3, 3)


# ---- all short strings

class Short(NamedTuple):
    """All strings of at most so many letters; |y| counts the end here, as losses do."""

    texts: list[tuple[int, ...]]  # (K,), ends left out
    length: Array  # (K,)
    summed: Array  # (K, 9), of `summed`
    ref: Array  # (K,): REF, given that no more is said
    cells: Array  # (K, tokens, 3 prefixes): which entry of a table by prefix each token reads; the last end is certain
    pairs: tuple[Array, Array]
    met: Array  # how often each pair is drawn from ref, two different strings

    def policy(self, log_table: Array) -> Array:
        """π (..., K) of a table by prefix, (..., 3 prefixes) log-probs"""
        pi: Array = np.exp(log_table @ self.cells.sum(axis=1).T)
        return pi


def every_short(letters: int) -> Short:
    """The 2^(letters+1) - 1 strings of at most `letters` letters

    >>> every_short(1).ref.round(6)  # 0.2, 0.5 * 0.3 and 0.3 * 0.4, of 0.47
    array([0.425532, 0.319149, 0.255319])
    """
    texts = [text for k in range(letters + 1) for text in product((1, 2), repeat=k)]
    tokens = np.array([[*text, *[0] * (letters + 1 - len(text))] for text in texts])
    prefix = {text: row for row, text in enumerate(t for t in texts if len(t) < letters)}
    cells = np.zeros((len(texts), letters + 1, 3 * len(prefix)))
    for row, text in enumerate(texts):
        for t, token in enumerate((*text, 0)):
            if t < letters:
                cells[row, t, 3 * prefix[text[:t]] + token] = 1
    count = summed(tokens)
    ref = np.exp(count @ np.log(REF).ravel())
    ref /= ref.sum()
    i, j = np.triu_indices(len(texts), 1)
    met = ref[i] * ref[j]
    return Short(texts, np.array([len(text) + 1 for text in texts]), count, ref, cells, (i, j), met / met.sum())


def ld_dpo(short: Short, reward: Array, beta: float, alpha: Array, most: int = 60) -> Array:
    """Minima of the population loss of LD-DPO, (alphas, 3 prefixes): log-probs by prefix, every policy allowed

    A pair's margin is β Σ_t cₜ (log π/π_ref)(yₜ), cₜ = 1 up to the length of the shorter, α beyond: linear in the
    log-probs, so that its curvature along them is that of a regression (Gauss and Newton), from the reference.
    """
    i, j = short.pairs
    wins = expit(reward[i] - reward[j])
    shared = np.arange(short.cells.shape[1]) < np.minimum(short.length[i], short.length[j])[:, None]
    count = np.where(shared, 1.0, np.asarray(alpha)[:, None, None])
    C = np.einsum("apt,ptc->apc", count, short.cells[i]) - np.einsum("apt,ptc->apc", count, short.cells[j])
    prefixes = short.cells.shape[2] // 3
    same = np.kron(np.eye(prefixes), np.ones((3, 3)))
    mass = short.ref @ short.cells.sum(axis=1)
    log_ref = np.log(mass / (same @ mass))
    x = np.broadcast_to(log_ref, (len(C), 3 * prefixes))
    for _ in range(most):
        x = x - np.log(np.exp(x) @ same)
        z = beta * np.einsum("apc,ac->ap", C, x - log_ref)
        J = C @ (np.eye(len(same)) - same * np.exp(x)[:, None, :])
        slope = np.einsum("apc,ap->ac", J, short.met * (wins - expit(z)))
        H = beta * J.mT @ (J * (short.met * expit(z) * expit(-z))[..., None])
        step = np.einsum("acd,ad->ac", np.linalg.pinv(H, rcond=1e-10, hermitian=True), slope)
        x = x + step
        if abs(step).max() < 1e-13:
            break
    log_table: Array = x - np.log(np.exp(x) @ same)
    return log_table
