"""Readings that are sums over entries of one table, Σ n_y(c, v) x(c, v): counts in place of tokens."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
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

CELLS = 1 << 14  # entries of a table in a block for one thread, where there are many contexts or replicates


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

    def pullback(dvalue: Array) -> Params:
        return {"W": _times(back, dvalue).reshape(W.shape).astype(dvalue.dtype, copy=False)}

    return _times(forth, W.reshape(*W.shape[:-2], -1)).astype(W.dtype, copy=False), pullback


def log_probs(W: Array, n: Counts) -> tuple[Array, Callable[[Array], Params]]:
    """Σ n_y(c, v) log p(v|c), p(·|c) = softmax(W[c]), (..., n) for tables W (..., C, V); and its pullback

    ∂/∂W[c] of Σ_y d_y of it is N(c, ·) - p(·|c) Σᵥ N(c, v), N = Σ_y d_y n_y.
    """
    V, (forth, back) = W.shape[-1], n
    logits = W.reshape(-1, V)
    exp, table = np.empty(logits.shape, W.dtype), np.empty(logits.shape, W.dtype)
    rest, best = np.empty(len(logits), W.dtype), np.empty(len(logits), np.intp)

    def normalize(contexts: Iterator[slice]) -> None:
        for c in contexts:
            top, rest[c] = log_normalizer(logits[c], exp[c], best[c])
            np.subtract(logits[c], top[:, None], out=table[c])
            table[c] -= rest[c, None]

    over_blocks(normalize, len(logits), max(1, CELLS // V))

    def pullback(dvalue: Array) -> Params:
        dW = _times(back, dvalue).reshape(exp.shape)

        def through(contexts: Iterator[slice]) -> None:
            for c in contexts:
                N = dW[c]
                N -= exp[c] * (np.exp(-rest[c]) * row_sums(N))[:, None]
                # 1 - p of a token that is nearly certain, to its last digit: a row sums to 0
                flat = N.reshape(-1)
                flat[best[c]] = 0
                flat[best[c]] = 0 - row_sums(N)

        over_blocks(through, len(dW), max(1, CELLS // V))
        return {"W": dW.reshape(W.shape).astype(dvalue.dtype, copy=False)}

    return _times(forth, table.reshape(*W.shape[:-2], -1)).astype(W.dtype, copy=False), pullback


def _times(matrix: Any, x: Array) -> Array:
    """matrix @ x over the last axis of x (..., n)"""
    if x.ndim == 1:
        return np.asarray(matrix @ x)
    out = np.empty((*x.shape[:-1], matrix.shape[0]), np.result_type(matrix.dtype, x.dtype))
    rows, found = x.reshape(-1, x.shape[-1]), out.reshape(-1, out.shape[-1])

    def worker(blocks: Iterator[slice]) -> None:
        for block in blocks:
            found[block] = (matrix @ rows[block].T).T

    over_blocks(worker, len(rows), max(1, CELLS // max(matrix.shape)))
    return out
