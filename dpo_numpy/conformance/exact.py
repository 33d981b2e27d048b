"""The right answers, in longdouble, and how much of an error rounding the inputs excuses.

One unit is the distance by which the exact answer moves when every floating-point input moves by one ulp of its dtype,
and an ulp of the answer itself: no code that is handed rounded numbers, and hands one back, does better. (Where
longdouble is float64, as on Windows and Apple, the answers are good to 4 units of float64 themselves.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..losses import Loss
from ..numerics import log_softmax
from .frameworks import Dtype

__all__ = ["Answer", "call", "of_rows", "of_tokens"]

Array = NDArray[Any]
WIDE = np.longdouble
#: facts that are not rounded
WHOLE = ("length", "full_length", "label", "present", "keep", "mask")


class Answer(NamedTuple):
    """A value (B,) and its gradients by name, each with its unit and with the size below which an eps is forgiven."""

    value: Array
    grads: dict[str, Array]
    unit: Array
    units: dict[str, Array]
    size: Array | float = 0.0
    sizes: Mapping[str, Array | float] = {}


def call(loss: Loss, told: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
    """value (..., B) and gradients by reading, of a loss that is told everything by name"""
    facts = {name: x for name, x in told.items() if name not in loss.reads and name in loss.needs}
    with np.errstate(all="ignore"):
        value, grads = loss({name: told[name] for name in loss.reads}, **facts)
    return value, grads


def of_rows(loss: Loss, told: Mapping[str, Array], dtype: Dtype, by: Mapping[str, Array] | None = None) -> Answer:
    """Of a loss that reads numbers of responses: value (B,), gradients (B, K)

    by: how far an input may be off, where that is more than its ulp
    """
    told = {name: np.asarray(x) for name, x in told.items()}
    value, grads = call(loss, told)
    unit = dtype.ulp(value)
    units = {name: dtype.ulp(grad) for name, grad in grads.items()}
    for name, x in told.items():
        if name in WHOLE or x.dtype.kind != "f" or not x.size:
            continue
        step = np.broadcast_to((by or {}).get(name, dtype.ulp(x)), x.shape)
        places = _places(x, loss.coupled)
        moved = np.broadcast_to(x, (2, len(places), *x.shape)).copy()
        for i, where in enumerate(places):
            moved[0, i, *where] -= step[where]
            moved[1, i, *where] += step[where]
        if name.endswith("logp"):  # no log-prob is above 0
            moved = np.where(x <= 0, np.minimum(moved, 0), moved)
        read = {key: np.broadcast_to(told[key], (*moved.shape[:2], *told[key].shape)) for key in loss.reads}
        v, g = call(loss, {**told, **read, name: _beside(name, moved, value)})
        unit = unit + _spread(v, value)
        units = {key: units[key] + _spread(g[key], grads[key]) for key in units}
    return Answer(value, grads, unit, units)


def _beside(name: str, moved: Array, value: Array) -> Array:
    """Two axes before the rows: numbers of comparisons and responses in a shape that a loss takes for what they are"""
    if name == "advantage" and moved.ndim == 4:
        return moved[..., None]
    if moved.ndim == 2:  # one number for all
        moved = np.repeat(moved[..., None], value.shape[-1], axis=-1)
    return moved[..., None] if moved.ndim == 3 and moved.shape[-1] == 1 else moved


def _spread(moved: Array, exact: Array) -> Array:
    """By how much it moves, place by place in the worse direction, added up"""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.fmax.reduce(abs(moved - exact), axis=0, initial=0).sum(axis=0))


def _places(x: Array, coupled: bool) -> list[tuple[Any, ...]]:
    """A column at a time where rows are independent, else a number at a time."""
    if coupled:
        return list(np.ndindex(x.shape))
    return [(..., k) for k in range(x.shape[-1])] if x.ndim > 1 else [(...,)]


def of_tokens(logits: Array, targets: Array, weight: Array, dtype: Dtype) -> Answer:
    """Of Σₜ weightₜ log softmax(logitsₜ)[targetₜ]: logits (N, T, V), targets and weight (N, T); value (N,)

    An ulp in each logit moves log-probs by Σᵤ |onehotᵤ - pᵤ| ulpᵤ and pᵥ by pᵥ (ulpᵥ (1 - 2pᵥ) + Σᵤ pᵤ ulpᵤ).
    """
    log_p = log_softmax(logits)
    p = np.exp(log_p)
    hit = np.arange(logits.shape[-1]) == targets[..., None]
    chosen = np.where(hit, log_p, 0).sum(axis=-1)
    counts = weight != 0
    value = np.where(counts, weight * chosen, 0).sum(axis=-1)
    slope = np.where(counts[..., None], np.where(hit, -np.expm1(chosen)[..., None], -p), 0)
    grad = weight[..., None] * slope
    with np.errstate(invalid="ignore"):
        ulp = np.where(np.isfinite(logits), dtype.ulp(logits), 0)
    moved = (abs(slope) * ulp).sum(axis=-1) + dtype.ulp(np.where(counts, chosen, 0))
    unit = dtype.ulp(value) + (abs(weight) * np.where(counts, moved, 0)).sum(axis=-1)
    spread = p * (ulp * abs(1 - 2 * p) + (p * ulp).sum(axis=-1, keepdims=True))
    units = dtype.ulp(grad) + abs(weight)[..., None] * np.where(counts[..., None], spread, 0)
    return Answer(value, {"logits": grad}, unit, {"logits": units})
