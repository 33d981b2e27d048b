"""Readings that are sums over entries of one table, Σ n_y(c, v) x(c, v): counts in place of tokens."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from dpo_numpy.numerics import log_normalizer, row_sums
from dpo_numpy.parallel import over_blocks
from dpo_numpy.preferences import Responses

__all__ = ["counts", "log_probs", "sums"]

Array = NDArray[Any]
Params = dict[str, Array]
Counts = tuple[Any, Any]

CELLS = 1 << 15  # entries of a table in a block for one thread, where there are many contexts or replicates


def counts(key: Hashable, responses: Responses, rows: Array, cells: Callable[[], tuple[Array, int]]) -> Counts:
    """n_y(c, v) of those rows as a sparse (n, entries) matrix, and its transpose

    `cells` says, token after token where the mask is, in which entry of the table it is counted; and how many entries
    there are. What is made of all responses is kept under `key`.
    """
    def build() -> Counts:
        cell, entries = cells()
        response = np.repeat(responses.every, responses.length)
        n = sparse.coo_array((np.ones(len(cell)), (response, cell)), (len(responses), entries)).tocsr()
        return n, n.T.tocsr()

    n, back = responses.memo((key, "counts"), build)
    if rows is responses.every or np.array_equal(rows, responses.every):
        return n, back
    part = n[rows]
    return part, part.T


def sums(W: Array, n: Counts) -> tuple[Array, Callable[[Array], Params]]:
    """Σ n_y(c, v) W(c, v), (..., n) for tables W (..., C, V); and its pullback"""
    forth, back = n
    *lead, C, V = W.shape
    value = _times(forth, W.reshape(prod(lead), C * V)).reshape(*lead, forth.shape[0])

    def pullback(dvalue: Array) -> Params:
        dW = _times(back, dvalue.reshape(prod(lead), back.shape[1])).reshape(W.shape)
        return {"W": dW.astype(dvalue.dtype, copy=False)}

    return value.astype(W.dtype, copy=False), pullback


def log_probs(W: Array, n: Counts) -> tuple[Array, Callable[[Array], Params]]:
    """Σ n_y(c, v) log p(v|c), p(·|c) = softmax(W[c]), (..., n) for tables W (..., C, V); and its pullback

    ∂/∂W[c] of Σ_y d_y of it is N(c, ·) - p(·|c) Σᵥ N(c, v), N = Σ_y d_y n_y. Threads share the contexts of a table, or
    the tables of many replicates.
    """
    forth, back = n
    *lead, C, V = W.shape
    R, logits = prod(lead), W.reshape(-1, V)
    exp, log_p = np.empty(logits.shape, W.dtype), np.empty(logits.shape, W.dtype)
    rest, best = np.empty(len(logits), W.dtype), np.empty(len(logits), np.intp)

    def normalize(c: slice) -> None:
        _, rest[c] = log_normalizer(logits[c], exp[c], log_p[c], best[c])
        log_p[c] -= rest[c, None]

    def forward(r: slice) -> None:
        c = slice(r.start * C, r.stop * C)
        normalize(c)
        value[r] = _times(forth, log_p[c].reshape(-1, C * V))

    value = np.empty((R, forth.shape[0]), W.dtype)
    if R == 1:
        over_blocks(normalize, C, max(1, CELLS // V))
        value[:] = _times(forth, log_p.reshape(1, -1))
    else:
        over_blocks(forward, R, max(1, CELLS // (C * V)))

    def pullback(dvalue: Array) -> Params:
        d = dvalue.reshape(R, forth.shape[0])
        dW = np.empty(logits.shape, np.result_type(back.dtype, d.dtype))

        def through(c: slice) -> None:
            N = dW[c]
            N -= exp[c] * (np.exp(-rest[c]) * row_sums(N))[:, None]
            # 1 - p of a token that is nearly certain, to its last digit: a row sums to 0
            flat, at = N.reshape(-1), best[c]
            flat[at] = 0
            flat[at] = 0 - row_sums(N)

        def backward(r: slice) -> None:
            c = slice(r.start * C, r.stop * C)
            dW[c] = _times(back, d[r]).reshape(-1, V)
            through(c)

        if R == 1:
            dW[:] = _times(back, d).reshape(-1, V)
            over_blocks(through, C, max(1, CELLS // V))
        else:
            over_blocks(backward, R, max(1, CELLS // (C * V)))
        return {"W": dW.reshape(W.shape).astype(dvalue.dtype, copy=False)}

    return value.reshape(*lead, forth.shape[0]), pullback


def _times(matrix: Any, x: Array) -> Array:
    """(R, n) to (R, m), by the matrix (m, n); one row by itself spares SciPy two transposes"""
    return np.asarray(matrix @ x[0])[None] if len(x) == 1 else (matrix @ x.T).T
