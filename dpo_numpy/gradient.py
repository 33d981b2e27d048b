"""The chain rule: params -> logits -> readings -> comparisons -> loss, and back.

    read            each distinct response once: (N,) or (N, T)
    compare         (N,) -> (B, K) by the comparisons' index, and its transpose
    value_and_grad  the whole way there and back
    scores_matrix   ∂ log π(y|x)/∂params, response by response
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .losses import Loss
from .parallel import over_blocks, threads
from .policy import Params, Policy
from .preferences import Preferences, Responses
from .readings import READINGS

__all__ = ["compare", "read", "scores_matrix", "value_and_grad"]

Array = NDArray[Any]
ToParams = Callable[[Mapping[str, Array]], Params]

CELLS = 1 << 26  # numbers kept for the way back, most often logits: 512 MB of float64
BLOCK, TOKENS = 1 << 20, 512  # numbers of a block, tokens in it at least: below, matrices are not worth a thread
# where the responses lie, counted from the end: (..., N) unless the tokens stay apart, (..., N, T)
AXIS = {"token_logp": -2, "token_entropy": -2, "token_value": -2}


def read(policy: Policy, params: Params, responses: Responses, rows: Array, names: Iterable[str],
         cells: int = CELLS) -> tuple[dict[str, Array], ToParams]:
    """The named readings of n rows of `responses`, {name: (..., n) or (..., n, T)}, and a pullback to the parameters.

    A policy that offers a reading itself (`policy.logp`) is asked for it. Otherwise the rows are walked in blocks, like
    lengths together, by several threads. What a policy holds for the way back, its logits or as many numbers a token as
    `policy.cells` says, is kept up to `cells` numbers in all. Where that is too little, each block is computed again on
    the way back: memory is a block's a thread, whatever the size of the data. The gradient is exact also for losses
    that couple the whole batch.

    Raises `ValueError` on an unknown reading and on token ids outside the policy's vocabulary.
    """
    names = list(names)
    unknown = [name for name in names if name not in READINGS]
    if unknown:
        raise ValueError(f"no reading is called {unknown[0]!r}; expected one of {', '.join(READINGS)}")
    _check_vocabulary(policy, responses)
    offered = {name: getattr(policy, name)(params, responses, rows) for name in names if hasattr(policy, name)}
    values = {name: value for name, (value, _) in offered.items()}

    def of_offered(grads: Mapping[str, Array]) -> list[Params]:
        return [back(grads[name]) for name, (_, back) in offered.items()]

    walked = [name for name in names if name not in offered]
    if not walked:
        return values, lambda grads: _add(*of_offered(grads))
    each = getattr(policy, "cells", policy.vocab)
    parts = _parts(responses, rows, each, min(cells, max(BLOCK, TOKENS * each)))
    keep = len(parts) == 1 or sum(part.tokens.size for _, part in parts) * each <= cells
    kept: list[tuple[dict[str, Array], ToParams] | None] = [None] * len(parts)

    def forward(numbers: slice) -> None:
        for i in range(numbers.start, numbers.stop):
            block, part = parts[i]
            got, to_params = _read_block(policy, params, part, walked)
            kept[i] = (got, to_params) if keep else None
            for name, value in got.items():
                at, shape = _at(name, block, value, len(rows), responses)
                values.setdefault(name, np.zeros(shape, value.dtype))[at] = value

    over_blocks(forward, len(parts), 1)

    def pullback(grads: Mapping[str, Array]) -> Params:
        total = of_offered(grads)
        for start in range(0, len(parts), threads()):
            found: list[Params] = [{}] * min(threads(), len(parts) - start)

            def backward(numbers: slice, start: int = start, found: list[Params] = found) -> None:
                for i in range(numbers.start, numbers.stop):
                    block, part = parts[start + i]
                    got, to_params = kept[start + i] or _read_block(policy, params, part, walked)
                    found[i] = to_params({name: grads[name][_at(name, block, value, len(rows), responses)[0]]
                                          for name, value in got.items()})

            over_blocks(backward, len(found), 1)
            total = [_add(*total, *found)]  # in the order of the blocks, however many threads there are
        return _add(*total)

    return values, pullback


def compare(values: Array, where: Array, axis: int = -1) -> tuple[Array, Callable[[Array], Array]]:
    """The response axis (n) replaced by comparisons (B, K) of its rows `where`, 0 where it is -1; and back.

    The pullback adds up over the comparisons that one response is in.

    >>> out, back = compare(np.array([1.0, 2.0, 3.0]), np.array([[2, 0], [2, 1]]))
    >>> out.tolist(), back(np.array([[1.0, -1.0], [10.0, -10.0]])).tolist()
    ([[3.0, 1.0], [3.0, 2.0]], [-1.0, -10.0, 11.0])
    """
    absent, rows = None, where
    if (where < 0).any():
        # -1 would fetch the last row: fetch row 0 there, and leave nothing of it.
        absent, rows = (where < 0).reshape(where.shape + (1,) * (-1 - axis)), np.maximum(where, 0)
    out = values.take(rows, axis=axis)
    if absent is not None:
        out = np.where(absent, 0, out)

    def pullback(dout: Array) -> Array:
        dout = dout if absent is None else np.where(absent, 0, dout)
        if axis == -1 and dout.dtype in (np.float64, np.float32):  # as below, in a fifth of the time
            at = rows.reshape(-1)
            if values.ndim > 1:
                at = (np.arange(0, values.size, values.shape[-1])[:, None] + at).reshape(-1)
            flat = np.bincount(at, dout.reshape(-1), values.size)
            return flat.reshape(values.shape).astype(dout.dtype, copy=False)
        dvalues = np.zeros(values.shape, dout.dtype)
        trailing: Any = (..., rows, *(slice(None),) * (-1 - axis))
        np.add.at(dvalues, trailing, dout)
        return dvalues

    return out, pullback


def value_and_grad(policy: Policy, params: Params, batch: Preferences, loss: Loss) -> tuple[Any, Params]:
    """L = Σ_b weight_b value_b and dL/dparams, in nats and nats per unit of each parameter.

    A float; with replicates (leading axes on the parameters) an array of their shape.

    Raises `ValueError` when the loss needs a fact that the batch was not told, and when a loss of complete rows meets
    rankings of unequal length.

    >>> import dpo_numpy as dn, toy_models
    >>> policy = toy_models.NGram(vocab=3)
    >>> params = policy.init(np.random.default_rng(0))
    >>> pairs = dn.Preferences.of([[0]], [[1, 2, 0]], [[2, 0]]).with_reference(policy, params)
    >>> value, grad = value_and_grad(policy, params, pairs, dn.LOSSES["dpo"](beta=0.1))
    >>> round(value, 6), grad["W"].shape
    (0.693147, (3, 3))
    """
    rows, where = batch.distinct()
    if batch.shorter and "present" not in loss.needs:
        short = np.argmax((where < 0).any(axis=1))
        raise ValueError(f"{loss.name} compares complete rows; index row {short} is a shorter ranking")
    values, to_params = read(policy, params, batch.responses, rows, loss.reads)
    compared = {name: compare(value, where, AXIS.get(name, -1)) for name, value in values.items()}
    facts = {name: fact for name in loss.needs if (fact := batch.fact(name)) is not None}
    value, grad = loss({name: x for name, (x, _) in compared.items()}, weight=batch.weight, **facts)
    total = (batch.weight * value).sum(axis=-1)  # no BLAS: of a long sum its threads make another
    dreadings = {name: back(grad[name]) for name, (_, back) in compared.items()}
    return (total if total.ndim else total.item()), to_params(dreadings)


def scores_matrix(policy: Policy, params: Params, responses: Responses, rows: Array) -> Array:
    """∂ log π(y|x)/∂params for each of n rows of `responses`: (n, P), the parameters flattened one after the other

    To first order, a step Δ moves their log-probs by `scores_matrix(...) @ Δ`. Every row costs a pullback and P
    numbers.

    >>> from toy_models import Tabular, bandit
    >>> scores_matrix(Tabular(vocab=2), {"W": np.zeros((1, 2))}, bandit([[0.0, 0.0]]).responses, np.arange(2)).tolist()
    [[0.5, -0.5], [-0.5, 0.5]]
    """
    size = sum(p.size for p in params.values())
    scores = np.zeros((len(rows), size), np.result_type(*params.values()))
    for score, row in zip(scores, rows, strict=True):  # alone: with n rows at once, each pullback would walk all n
        value, to_params = read(policy, params, responses, np.array([row]), ["logp"])
        grad = to_params({"logp": np.ones_like(value["logp"])})
        np.concatenate([grad[name].ravel() for name in params], out=score)
    return scores


def _check_vocabulary(policy: Policy, responses: Responses) -> None:
    largest = responses.memo("largest", lambda: int(responses.tokens[responses.mask].max()))
    if largest >= policy.vocab:
        row = np.argmax(((responses.tokens >= policy.vocab) & responses.mask).any(axis=1))
        raise ValueError(
            f"tokens hold id {largest}, row {row} the first that is too large; expected ids below vocab, {policy.vocab}"
        )


def _parts(responses: Responses, rows: Array, each: int, cells: int) -> list[tuple[Array, Responses]]:
    """Positions in `rows`, shortest first, as many as fit `cells` padded alike, `each` a token; and those responses

    All of them are cut up once, not in each step.
    """
    def build(source: Responses) -> list[tuple[Array, Responses]]:
        return [(block, source.take(rows[block])) for block in _blocks(source.width[rows], each, cells)]

    if rows is not responses.every:
        return build(responses)
    bare = Responses(responses.tokens, responses.mask, {}, responses.reference)  # what is kept knows no facts
    return responses.memo(("parts", each, cells), lambda: build(bare))


def _blocks(width: Array, each: int, cells: int) -> Iterator[Array]:
    """Positions, shortest first, as many to a block as fit `cells` when padded alike, `each` a token (at least one)."""
    order, start = np.argsort(width, kind="stable"), 0
    width = width[order]
    while start < len(order):
        padded = np.arange(1, len(order) - start + 1) * width[start:] * each  # cells of so many
        stop = start + max(1, int(np.searchsorted(padded, cells, side="right")))
        yield order[start:stop]
        start = stop


def _read_block(policy: Policy, params: Params, part: Responses, names: list[str]) -> tuple[dict[str, Array], ToParams]:
    logits, to_params = policy.logits(params, part.tokens)
    readings = {name: READINGS[name](logits, part) for name in names}

    def pullback(grads: Mapping[str, Array]) -> Params:
        first, *more = (back(grads[name]) for name, (_, back) in readings.items())
        return to_params(sum(more, start=first))

    return {name: value for name, (value, _) in readings.items()}, pullback


def _at(name: str, block: Array, value: Array, n: int, responses: Responses) -> tuple[Any, tuple[int, ...]]:
    """Where a block's reading stands among all, and the shape of all; the tokens a block was trimmed of stay 0."""
    if AXIS.get(name, -1) == -2:
        return (..., block, slice(value.shape[-1])), (*value.shape[:-2], n, responses.tokens.shape[1])
    return (..., block), (*value.shape[:-1], n)


def _add(first: Params, *more: Params) -> Params:
    return {name: sum((part[name] for part in more), start=p) for name, p in first.items()} if more else first
