"""The sentences for arrays that are not what the mathematics needs; each says where the offending number stands."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def distribution(name: str, p: ArrayLike) -> Array:
    """Rows, over the last axis, that are non-negative and sum to 1 up to the rounding of their own dtype."""
    given = np.asarray(p)
    p = given.astype(float)
    if p.ndim < 1 or p.shape[-1] < 1:
        raise ValueError(f"{name} has shape {p.shape}; expected (..., K), probabilities of K responses")
    _reject(name, p, ~(p >= 0), "expected probabilities, at least 0")
    total = p.sum(axis=-1)
    eps = np.finfo(given.dtype if given.dtype.kind == "f" else float).eps
    _reject(f"the sum of {name}", total, ~(abs(total - 1) <= 8 * p.shape[-1] * eps), "expected 1")
    return p


def finite(name: str, x: ArrayLike) -> Array:
    x = np.asarray(x, float)
    _reject(name, x, ~np.isfinite(x), "expected finite numbers")
    return x


def nonnegative(name: str, x: ArrayLike) -> Array:
    x = finite(name, x)
    _reject(name, x, x < 0, "expected weights, at least 0")
    return x


def positive(name: str, x: float) -> float:
    if not (np.ndim(x) == 0 and 0 < x < np.inf):
        raise ValueError(f"{name} is {x}; expected one finite number above 0")
    return float(x)


def same_responses(**arrays: Array) -> None:
    """Shapes (..., K) of one K, whose leading axes broadcast."""
    shapes = {name: array.shape for name, array in arrays.items()}
    try:
        np.broadcast_shapes(*shapes.values())
        fit = len({shape[-1:] for shape in shapes.values()}) == 1
    except ValueError:
        fit = False
    if not fit:
        came = " and ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"the shapes of {came} do not fit; expected (..., K) with one K, responses last")


def _reject(name: str, x: NDArray[Any], bad: NDArray[np.bool_], expected: str) -> None:
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        where = f" at {list(index)}" if index else ""
        raise ValueError(f"{name} is {x[index]}{where}; {expected}")
