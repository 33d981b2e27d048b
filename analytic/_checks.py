"""The sentences for arrays that are not what the mathematics needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def distribution(name: str, p: ArrayLike) -> Array:
    """Rows, over the last axis, that are non-negative and sum to 1 up to 1e-12."""
    p = np.asarray(p, float)
    if p.ndim < 1 or p.shape[-1] < 2:
        raise ValueError(f"{name} has shape {p.shape}; expected (..., K) with at least two responses")
    worst = np.where((p >= 0).all(axis=-1), abs(p.sum(axis=-1) - 1), np.inf)
    if not worst.max() <= 1e-12:
        row = np.unravel_index(np.argmax(np.nan_to_num(worst, nan=np.inf)), worst.shape)
        raise ValueError(
            f"{name} has a row {p[row].tolist()} that sums to {p[row].sum():.17g}; expected probabilities that sum to 1"
        )
    return p


def finite(name: str, x: ArrayLike) -> Array:
    x = np.asarray(x, float)
    if not np.isfinite(x).all():
        raise ValueError(f"{name} holds {x[~np.isfinite(x)][0]}; expected finite numbers")
    return x


def positive(name: str, x: float) -> float:
    if not (np.ndim(x) == 0 and np.isfinite(x) and x > 0):
        raise ValueError(f"{name} is {x}; expected a finite number above 0")
    return float(x)
