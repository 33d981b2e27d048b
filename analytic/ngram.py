"""Exact sums over all strings of an n-gram language model with an end-of-string token: one linear solve each.

Tables are (S, V) arrays, a row of next-token probabilities (or rewards) for each context. Token 0 is the boundary: as
an outcome it ends the string, and row 0 is the context a string begins in. S = Vⁿ⁻¹, and the context after token v ≠ 0
in context s is (v + V s) mod S: for a bigram, S = V, the token itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["expected_length", "kl", "optimum", "visits"]

Array = NDArray[np.float64]


def visits(p: ArrayLike) -> Array:
    """N = (I - Tᵀ)⁻¹ e₀: how often a string from `p` is expected to be in each context, (S,);  T[s, s'] = p(v|s) where
    v leads to s'

    Raises `ValueError` where rows do not sum to 1, and where a string need not end (spectral radius of T not below 1).

    >>> visits([[0.2, 0.8], [0.5, 0.5]])
    array([1. , 1.6])
    """
    p = _table("p", p)
    T = _transitions(p)
    _converges("a string of this model", "it need not end", T)
    start = np.zeros(len(p))
    start[0] = 1
    return np.asarray(np.linalg.solve(np.eye(len(p)) - T.T, start), np.float64)


def expected_length(p: ArrayLike) -> float:
    """E|y| = Σₛ N(s) - 1, tokens before the end-of-string token

    >>> round(expected_length([[0.2, 0.8], [0.5, 0.5]]), 12)
    1.6
    """
    return float(visits(p).sum() - 1)


def kl(p: ArrayLike, q: ArrayLike) -> float:
    """KL(p || q) over all strings = Σₛ N_p(s) KL(p(·|s) || q(·|s)), in nats; inf where q cannot follow p

    >>> round(kl([[0.2, 0.8], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]), 6)
    0.192745
    """
    p, q = _table("p", p), _table("q", q)
    if p.shape != q.shape:
        raise ValueError(f"q has shape {q.shape}; expected that of p, {p.shape}")
    change = np.divide(q - p, p, out=np.zeros_like(p), where=p > 0)
    with np.errstate(divide="ignore"):
        # Σ p (q/p - 1 - log q/p) + the mass q has where p has none: no term is negative, and q - p keeps its digits
        # where they are close
        rows = (p * (change - np.log1p(change))).sum(axis=1) + np.where(p > 0, 0, q).sum(axis=1)
    return float(visits(p) @ rows)


def optimum(ref: ArrayLike, reward: ArrayLike, beta: float) -> tuple[Array, float]:
    """π* ∝ ref(y) e^{r(y)/β} over all strings, for a reward that is a sum over tokens, r(y) = Σₜ ρ(cₜ, yₜ): (table of
    π*, log Z)

    With A = ref e^{ρ/β}, the partition function of what follows context s solves v = A_T v + A_eos, a linear equation,
    and π*(v|s) = A(v|s) v(s')/v(s): again an n-gram of the same order (soft Bellman, Doob's h-transform). log Z = log
    v(0). Rafailov et al. 2024, arXiv:2404.12358, give the token-level identity.

    Raises `ValueError` where Z diverges (spectral radius of A_T not below 1), where shapes do not fit and where β is
    not above 0.

    >>> table, log_z = optimum([[0.5, 0.5], [0.5, 0.5]], [[0.0, -1.0], [0.0, -1.0]], beta=1.0)
    >>> table.round(6).tolist(), round(log_z, 6)
    ([[0.81606, 0.18394], [0.81606, 0.18394]], -0.48988)
    """
    ref, reward = _table("ref", ref), np.asarray(reward, float)
    if reward.shape != ref.shape or not np.isfinite(reward).all():
        raise ValueError(f"reward has shape {reward.shape}; expected finite numbers in the shape of ref, {ref.shape}")
    if not (np.isfinite(beta) and beta > 0):
        raise ValueError(f"beta is {beta}; expected a finite number above 0")
    if reward.max() / beta > 700:
        raise ValueError(f"beta is {beta}: exp(reward/beta) overflows at reward {reward.max()}; expected a larger beta")
    A = ref * np.exp(reward / beta)
    T = _transitions(A)
    _converges(f"Z at beta = {beta}", "no optimum exists", T)
    v = np.linalg.solve(np.eye(len(A)) - T, A[:, 0])
    following = np.column_stack([np.ones(len(A)), v[_next(A)[:, 1:]]])
    return A * following / v[:, None], float(np.log(v[0]))


def _next(table: Array) -> NDArray[np.intp]:
    S, V = table.shape
    return np.asarray((np.arange(V) + V * np.arange(S)[:, None]) % S, np.intp)


def _transitions(table: Array) -> Array:
    T = np.zeros((len(table), len(table)))
    np.add.at(T, (np.arange(len(table))[:, None], _next(table)[:, 1:]), table[:, 1:])
    return T


def _converges(what: str, why: str, T: Array) -> None:
    radius = float(abs(np.linalg.eigvals(T)).max())
    if not radius < 1:
        raise ValueError(
            f"{what} has a divergent sum, {why}: the spectral radius of its transitions is {radius:.6g}; "
            "expected below 1"
        )


def _table(name: str, rows: ArrayLike) -> Array:
    table: Array = np.asarray(rows, np.float64)
    if table.ndim != 2 or table.shape[1] < 2 or table.shape[0] not in {table.shape[1] ** n for n in range(64)}:
        raise ValueError(f"{name} has shape {table.shape}; expected (S, V) with S a power of V, a row for each context")
    off = abs(table.sum(axis=1) - 1)
    if not ((table >= 0).all() and off.max() <= 1e-12 * table.shape[1]):
        row = int(np.argmax(np.where((table >= 0).all(axis=1), off, np.inf)))
        raise ValueError(f"{name} has row {row} = {table[row].tolist()}; expected probabilities that sum to 1")
    return table
