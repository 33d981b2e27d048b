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


def probability(name: str, p: ArrayLike) -> Array:
    p = np.asarray(p, float)
    _reject(name, p, ~((p >= 0) & (p <= 1)), "expected probabilities, from 0 to 1")
    return p


def nonnegative(name: str, x: ArrayLike) -> Array:
    x = finite(name, x)
    _reject(name, x, x < 0, "expected weights, at least 0")
    return x


def positive(name: str, x: float) -> float:
    if not (np.ndim(x) == 0 and 0 < x < np.inf):
        raise ValueError(f"{name} is {x}; expected one finite number above 0")
    return float(x)


def positives(name: str, x: ArrayLike) -> Array:
    """Finite numbers above 0, one or one a problem: (...)."""
    x = np.asarray(x, float)
    _reject(name, x, ~((x > 0) & (x < np.inf)), "expected finite numbers above 0")
    return x


def leading(**arrays: Array) -> None:
    """Shapes that broadcast: one number a problem, (...)."""
    try:
        np.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError:
        came = " and ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"the leading shapes of {came} do not fit; expected them to broadcast") from None


def whole(name: str, n: int) -> int:
    if not (np.ndim(n) == 0 and n >= 1 and n == n // 1):
        raise ValueError(f"{name} is {n}; expected one whole number, at least 1")
    return int(n)


def square(name: str, wins: ArrayLike) -> Array:
    """Weights of ordered pairs, (..., K, K)."""
    wins = nonnegative(name, wins)
    if wins.ndim < 2 or wins.shape[-1] != wins.shape[-2] or not wins.shape[-1]:
        raise ValueError(f"{name} has shape {wins.shape}; expected (..., K, K)")
    return wins


def pair_weights(name: str, weight: ArrayLike) -> Array:
    """Weights of pairs, (..., K, K), symmetric up to rounding: a copy that is so exactly, its diagonal 0."""
    weight = square(name, weight)
    off = abs(weight - weight.mT)
    if (off > 8 * np.finfo(float).eps * weight).any():
        raise ValueError(f"{name} differs from its transpose by {off.max()}; expected a symmetric one")
    return np.where(np.eye(weight.shape[-1], dtype=bool), 0.0, np.maximum(weight, weight.mT))


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
