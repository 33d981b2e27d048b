"""Is a hand-written gradient right? One random direction at a time, by differences in longdouble or complex steps.

    check = check_gradient(f, params, grad, rng)          # f: params -> value, grad: what is claimed to be df/dparams
    check.units                                           # 1.0: what rounding each entry of the gradient once can do
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Check", "check_gradient", "complex_step", "finite_difference"]

Params = dict[str, NDArray[Any]]


class Check(NamedTuple):
    """A gradient against differences, along one direction; in units of unavoidable rounding."""

    claimed: float  # <grad, direction>
    measured: float  # the directional derivative
    units: float  # |claimed - measured| / (eps Σ |gradᵢ directionᵢ|); 1/eps where 0 is claimed and not measured


def finite_difference(f: Callable[[Params], Any], params: Params, direction: Params, step: float | None = None) -> Any:
    """(f(-2h) - 8 f(-h) + 8 f(h) - f(2h)) / 12h along `direction`, in longdouble; error h⁴ f⁽⁵⁾/30 and eps |f|/h

    `step` is the distance moved in parameter space, whatever the direction's norm. By default steps of eps^(1/5)
    times 1/64 to 512 are tried, and the larger of the two that agree best is used: how far one may go depends on how
    steep f is, and on how many parameters share the distance. Where longdouble is no more than float64 (Windows,
    Apple), expect 1e-12, not 1e-15.
    """
    if step is None:
        usual = float(np.finfo(np.longdouble).eps) ** 0.2
        tries = [finite_difference(f, params, direction, usual * 8.0**k) for k in range(-2, 4)]
        return tries[int(np.argmin(np.abs(np.diff(tries)))) + 1]
    h = np.longdouble(step) / np.sqrt(sum(np.vdot(d, d) for d in direction.values()))

    def at(k: int) -> Any:
        return f({name: p.astype(np.longdouble) + k * h * direction[name] for name, p in params.items()})

    return (at(-2) - at(2) + 8 * (at(1) - at(-1))) / (12 * h)


def complex_step(f: Callable[[Params], Any], params: Params, direction: Params, step: float = 1e-40) -> Any:
    """Im f(params + i h direction) / h: no difference is taken, so no digits are lost; f must be analytic

    Squire & Trapp 1998. The package's kernels take complex arrays and branch on the real part. Not through a stopped
    gradient: what is stopped still varies.
    """
    return f({name: p + 1j * step * direction[name] for name, p in params.items()}).imag / step


def check_gradient(f: Callable[[Params], Any], params: Params, grad: Params, rng: np.random.Generator,
                   method: Callable[..., Any] = finite_difference) -> Check:
    """Compare <grad, d> with the derivative of f along one random normal direction d over all parameters.

    A wrong entry of the gradient shows with probability 1. Check at random parameters of the size that training meets,
    never only at zero, where much cancels.

    >>> x = {"x": np.array([1.0, 2.0])}
    >>> check = check_gradient(lambda p: (p["x"] ** 3).sum(), x, {"x": 3 * x["x"] ** 2}, np.random.default_rng(0))
    >>> wrong = check_gradient(lambda p: (p["x"] ** 3).sum(), x, {"x": x["x"] ** 2}, np.random.default_rng(0))
    >>> check.units < 4, wrong.units > 1e12
    (True, True)
    """
    direction = {name: rng.normal(size=p.shape) for name, p in params.items()}
    terms = np.concatenate([(grad[name].astype(np.longdouble) * direction[name]).ravel() for name in params])
    measured = method(f, params, direction)
    eps = np.finfo(next(iter(params.values())).dtype).eps
    claimed, scale = terms.sum(), max(np.abs(terms).sum(), abs(measured))
    return Check(float(claimed), float(measured), float(abs(claimed - measured) / scale / eps) if scale else 0.0)
