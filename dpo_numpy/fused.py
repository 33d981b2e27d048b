"""Readings with their gradient in one pass, for whoever knows dL/dvalue beforehand: each exponential is taken once.

    logits (..., T, V)                    token_logp_grad
    hidden (..., T, D) times head (D, V)  head_logp_grad, and head_logp where dL/dvalue is known only after the value

`readings.token_logp` is the same in plain words, and what tests hold these to. The limit of `token_logp_grad` is one
read, one write and one exponential a logit; that of `head_logp_grad` three matrix products. Where a loss weighs a
token by what all tokens of a sequence add up to, as DPO does, the value must be known first: a fourth product.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import readings
from .numerics import log_normalizer, row_sums
from .parallel import over_blocks

__all__ = ["head_logp", "head_logp_grad", "token_logp_grad"]

Array = NDArray[Any]

CELLS = 1 << 24  # logits that the head makes at once: 64 MB of float32


def token_logp_grad(logits: Array, tokens: Array, mask: Array, dvalue: Array, out: Array | None = None
                    ) -> tuple[Array, Array]:
    """ℓₜ of `token_logp` (..., T) and Σₜ dvalueₜ dℓₜ/dlogits, shaped like the logits: value, dlogits

    dvalue (..., T), or what broadcasts to that, is dL/dℓ, which off the mask has no effect. The gradient is written
    into `out`, C-contiguous and of the logits' dtype, where it is given; and `out` may be the logits themselves, which
    are lost then. Besides it needs a few numbers a row, a block a thread where the mask has gaps, and a copy of logits
    that are not C-contiguous.

    Elsewhere: cross-entropy kernels (Liger's, Apex's) write the gradient of a mean over tokens into the logits.

    Raises `ValueError` as `token_logp`, and on a `dvalue` or an `out` that does not fit.

    >>> logits, tokens, mask = np.zeros((1, 3, 2)), np.array([[0, 1, 0]]), np.array([[False, True, False]])
    >>> value, dlogits = token_logp_grad(logits, tokens, mask, dvalue=np.ones((1, 3)))
    >>> value.round(6), dlogits[0].tolist()
    (array([[ 0.      , -0.693147,  0.      ]]), [[-0.5, 0.5], [0.0, 0.0], [0.0, 0.0]])
    """
    where, target = readings._scored(logits.shape, logits.dtype, tokens, mask)
    dlogits = np.empty(logits.shape, logits.dtype) if out is None else out
    if not dlogits.flags.writeable:
        raise ValueError("out is read-only; expected an array that can be written")
    if dlogits.shape != logits.shape or dlogits.dtype != logits.dtype or not dlogits.flags.c_contiguous:
        raise ValueError(f"out is {dlogits.dtype} {dlogits.shape}, C-contiguous: {dlogits.flags.c_contiguous}; "
                         f"expected {logits.dtype} {logits.shape}, C-contiguous: True")
    V = logits.shape[-1]
    flat, dflat = logits.reshape(-1, V), dlogits.reshape(-1, V)
    value = np.zeros(logits.shape[:-1], logits.dtype)
    after = _run(where + 1)
    d = _upstream(dvalue, value)[after]
    scored = np.empty(len(where), logits.dtype)

    def visit(block: slice) -> None:
        rows = _run(where[block])
        if isinstance(rows, slice):
            scored[block] = _token_logp_grad(flat[rows], target[block], d[block], dflat[rows])
        else:
            x = flat[rows]
            scored[block] = _token_logp_grad(x, target[block], d[block], x)
            dflat[rows] = x

    over_blocks(visit, len(where), max(1, readings.BLOCK // V))
    value.reshape(-1)[after] = scored
    silent = np.ones(len(dflat), bool)
    silent[where] = False
    dflat[silent] = 0
    return value, dlogits


def head_logp(hidden: Array, head: Array, tokens: Array, mask: Array, cells: int = CELLS
              ) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    """`token_logp` of the logits hidden @ head, (..., T), of which no more than `cells` are ever held

    hidden (..., T, D), head (D, V). The pullback takes dvalue (..., T) to dhidden and dhead, and computes the logits
    again: four matrix products in all. Errors as in `head_logp_grad`.

    >>> hidden, head = np.ones((1, 2, 1)), np.zeros((1, 2))
    >>> value, pullback = head_logp(hidden, head, np.array([[0, 1]]), np.array([[False, True]]))
    >>> dhidden, dhead = pullback(np.ones((1, 2)))
    >>> value.round(6), dhead.tolist()
    (array([[ 0.      , -0.693147]]), [[-0.5, 0.5]])
    """
    where, target, h = _projected(hidden, head, tokens, mask, cells)
    V = head.shape[-1]
    value, scored = np.zeros(hidden.shape[:-1], h.dtype), np.empty(len(where), h.dtype)
    step = max(1, cells // V)
    logits = np.empty((min(step, len(where)), V), h.dtype)

    for start in range(0, len(where), step):
        block = slice(start, start + step)
        x = np.matmul(h[block], head, out=logits[:len(where[block])])

        def visit(part: slice, x: Array = x, target: Array = target[block], into: Array = scored[block]) -> None:
            into[part] = _token_logp(x[part], target[part])

        over_blocks(visit, len(x), max(1, readings.BLOCK // V))
    value.reshape(-1)[where + 1] = scored

    def pullback(dvalue: Array) -> tuple[Array, Array]:
        _, dhidden, dhead = head_logp_grad(hidden, head, tokens, mask, dvalue, cells)
        return dhidden, dhead

    return value, pullback


def head_logp_grad(hidden: Array, head: Array, tokens: Array, mask: Array, dvalue: Array, cells: int = CELLS
                   ) -> tuple[Array, Array, Array]:
    """ℓₜ of the logits hidden @ head, (..., T), and Σₜ dvalueₜ dℓₜ in hidden and head: value, dhidden, dhead

    hidden (..., T, D), head (D, V); hidden[..., t, :] predicts tokens[..., t + 1]. Rows are taken in blocks of `cells`
    logits, whose gradient overwrites them: dhidden = dlogits headᵀ, dhead = Σ hiddenᵀ dlogits.

    Elsewhere: Liger's fused linear losses do so a block of sequences at a time, Cut Cross-Entropy in tiles on a GPU.
    Wijmans et al. 2024, arXiv:2411.09009.

    Raises `ValueError` as `token_logp`, where hidden and head do not fit or differ in dtype, and on a `dvalue` that
    does not fit.

    >>> hidden, head = np.ones((1, 2, 1)), np.zeros((1, 2))
    >>> value, dhidden, dhead = head_logp_grad(hidden, head, np.array([[0, 1]]), np.array([[False, True]]), np.ones(2))
    >>> dhidden.tolist(), dhead.tolist()
    ([[[0.0], [0.0]]], [[-0.5, 0.5]])
    """
    where, target, h = _projected(hidden, head, tokens, mask, cells)
    V = head.shape[-1]
    value, scored = np.zeros(hidden.shape[:-1], h.dtype), np.empty(len(where), h.dtype)
    d = _upstream(dvalue, value)[where + 1]
    dh, dhead = np.empty_like(h), np.zeros(head.shape, h.dtype)
    step = max(1, cells // V)
    logits = np.empty((min(step, len(where)), V), h.dtype)
    tile = np.empty((len(head), min(V, TILE)), h.dtype)

    for start in range(0, len(where), step):
        block = slice(start, start + step)
        x = np.matmul(h[block], head, out=logits[:len(where[block])])

        def visit(part: slice, x: Array = x, target: Array = target[block], d: Array = d[block],
                  into: Array = scored[block]) -> None:
            into[part] = _token_logp_grad(x[part], target[part], d[part], x[part])

        over_blocks(visit, len(x), max(1, readings.BLOCK // V))
        np.matmul(x, head.T, out=dh[block])
        for left in range(0, V, TILE):  # what is added to dhead is added while it is in the cache
            part = tile[:, :V - left]
            dhead[:, left:left + TILE] += np.matmul(h[block].T, x[:, left:left + TILE], out=part)
    value.reshape(-1)[where + 1] = scored
    dhidden = np.zeros(hidden.shape, h.dtype)
    dhidden.reshape(-1, h.shape[-1])[where] = dh
    return value, dhidden, dhead


TILE = 1 << 11  # columns of the head


def _token_logp(x: Array, target: Array) -> Array:
    """ℓ (rows,) of logits x (rows, V), which are lost"""
    at = readings._at(target, x)
    if _exp(x, x):
        return _log_share(*_odds(x, at))
    value = x.reshape(-1).take(at)
    top, rest = log_normalizer(x)
    value -= top
    value -= rest
    return value


def _token_logp_grad(x: Array, target: Array, d: Array, out: Array) -> Array:
    """ℓ (rows,) of logits x (rows, V), and its slopes, times d, into `out`, which may be x"""
    at, flat = readings._at(target, x), out.reshape(-1)
    if not _faint(d, x.dtype) and _exp(x, out):
        own, others = _odds(out, at)
        value = _log_share(own, others)
        share = np.divide(d, np.add(own, others, out=own), out=own)
        slope = np.multiply(others, share, out=others)  # d (1 - p) of the target
        out *= np.negative(share, out=share)[:, None]
        flat[at] = slope
        return value
    value = x.reshape(-1).take(at)
    top, rest = log_normalizer(x, out)
    value -= top
    value -= rest
    share = np.negative(rest, out=rest)
    np.exp(share, out=share)
    share *= d
    out *= np.negative(share, out=share)[:, None]
    # 1 - p of a token that is nearly certain, to its last digit
    flat[at] = -d * np.expm1(value)
    return value


LARGEST = 32.0  # e^32 times 128,000 tokens, over e^-32, is still a number in float32
FAINT = 1e20  # more than e^32 times 128,000


def _exp(x: Array, out: Array) -> bool:
    """exp x into `out`; False, and x as it was, if one is so large or small that softmax should be shifted row by row

    A row's largest logit takes as long to find as all of its exponentials where rows are short; the largest and the
    smallest of all rows do not.
    """
    if x.dtype not in (np.float32, np.float64):
        return False
    if np.may_share_memory(x, out):
        if not (x.max() <= LARGEST and x.min() >= -LARGEST):
            return False
        np.exp(x, out=out)
        return True
    with np.errstate(all="ignore"):
        np.exp(x, out=out)
    return bool(out.max() <= math.exp(LARGEST) and out.min() >= math.exp(-LARGEST))


def _faint(d: Array, dtype: np.dtype[Any]) -> bool:
    """Whether a d is so small that d / Σ eˣ has no digits left"""
    least = np.min(abs(d), where=d != 0, initial=np.inf)
    return bool(least < FAINT * np.finfo(dtype).tiny)


def _odds(exp: Array, at: Array) -> tuple[Array, Array]:
    """The exponential that stands `at`, which becomes 0, and the sum of the others, in each row"""
    flat = exp.reshape(-1)
    own = flat.take(at)
    flat[at] = 0
    return own, row_sums(exp)


def _log_share(own: Array, others: Array) -> Array:
    """log own / (own + others): all digits, from 0 to certainty, for nothing is subtracted"""
    value = np.divide(others, own)
    return np.subtract(0, np.log1p(value, out=value), out=value)


def _upstream(dvalue: Array, value: Array) -> Array:
    d = np.asarray(dvalue)
    if d.dtype.kind not in ("iufc" if value.dtype.kind == "c" else "iuf"):
        raise ValueError(f"dvalue has dtype {d.dtype}; expected numbers like the value's, {value.dtype}")
    d = d.astype(value.dtype) if d.dtype.kind in "iu" else d
    try:
        return np.broadcast_to(d, value.shape).reshape(-1)
    except ValueError:
        raise ValueError(f"dvalue has shape {d.shape}; expected that of the value, {value.shape}") from None


def _run(rows: Array) -> Array | slice:
    """The same rows as a slice, whose view costs nothing, where they follow one another"""
    return slice(rows[0], rows[-1] + 1) if len(rows) and rows[-1] - rows[0] == len(rows) - 1 else rows


def _projected(hidden: Array, head: Array, tokens: Array, mask: Array, cells: int) -> tuple[Array, Array, Array]:
    """Positions that predict a masked token, those tokens, and the hidden states there"""
    if isinstance(cells, bool) or not hasattr(cells, "__index__") or operator.index(cells) < 1:
        raise ValueError(f"cells is {cells!r}; expected a whole number of logits, at least 1")
    if head.ndim != 2 or hidden.ndim < 2 or hidden.shape[-1] != len(head) or hidden.dtype != head.dtype:
        raise ValueError(f"hidden is {hidden.dtype} {hidden.shape} and head {head.dtype} {head.shape}; expected "
                         f"(..., T, D) and (D, V) of one dtype")
    where, target = readings._scored((*hidden.shape[:-1], head.shape[-1]), head.dtype, tokens, mask)
    return where, target, hidden.reshape(-1, hidden.shape[-1])[where]
