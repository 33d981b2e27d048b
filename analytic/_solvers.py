"""Two ways to a root: halving, entry by entry, and Newton's with a convex function to watch over it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ._checks import Array

__all__ = ["minimize", "root"]


def root(f: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Where f, increasing in each entry by itself, is 0: a hundred halvings leave rounding alone.

    low and high, of one shape, hold it between them; high is returned where f is below 0 even there.

    >>> root(lambda x: x**3 - [2.0, 3.0], np.zeros(2), np.full(2, 2.0)).round(12)
    array([1.25992105, 1.44224957])
    """
    for _ in range(100):
        middle = (low + high) / 2
        if ((middle <= low) | (middle >= high)).all():
            break
        below = f(middle) < 0
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return high


def minimize(
    f: Callable[[Array], Array], derivatives: Callable[[Array], tuple[Array, Array]], start: Array, steps: int
) -> Array:
    """argmin f, f convex and above 0, shape of start (n,): Newton's method, steps halved until f falls enough

    f(x) is a number, derivatives(x) the gradient (n,) and the Hessian (n, n), which is positive definite. Raises
    `ArithmeticError` where `steps` steps are not enough, and where rounding leaves no way to go.

    >>> minimize(lambda x: np.cosh(x).sum(), lambda x: (np.sinh(x), np.diag(np.cosh(x))), np.array([3.0]), 20).round(12)
    array([0.])
    """
    x, previous = start, float("inf")
    for _ in range(steps):
        value, (slope, hessian) = f(x), derivatives(x)
        try:
            step = -np.linalg.solve(hessian, slope)
        except np.linalg.LinAlgError:
            raise ArithmeticError("newton is stuck: the Hessian is singular but for rounding") from None
        fall, size = -float(slope @ step), 1.0
        if fall <= 1e4 * np.finfo(float).eps * value:
            # f is too coarsely rounded to judge such a step; each squares the error, until the slope is rounding alone
            if fall >= previous / 4:
                return x
        else:
            while not f(x + size * step) <= value - size * fall / 4:
                size /= 2
                if size < 1e-16:
                    raise ArithmeticError(f"newton is stuck: L would still fall by {fall / 2:.3g}, but for rounding")
        x, previous = x + size * step, fall
    raise ArithmeticError(f"newton has not converged in {steps} steps: L would still fall by {previous / 2:.3g}")
