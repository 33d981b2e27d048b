"""Ways to a root: halving, entry by entry; Newton's with a convex function to watch over it; and, for comparisons,
Newton's without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from scipy.linalg.lapack import dposv
from scipy.special import expit

from ._checks import Array

__all__ = ["Pulls", "PullsOnFeatures", "minimize", "root", "settle"]


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


SMALL = 100  # equations that are solved sooner than threads begin
BLOCK = 1 << 15  # entries of matrices that are worked on at a time


class Slopes(Protocol):
    """L(x) = Σᵢⱼ wins[i, j] (-log σ(mᵢ - mⱼ)), m linear in x (n,)"""

    def at(self, x: Array) -> Array:
        """The gradient (n,) at x, where `step` is taken from now on"""

    def step(self) -> tuple[Array, float]:
        """Newton's step (n,), and by how much it moves a difference mᵢ - mⱼ at most; NaN where there is none"""


def settle(slopes: Slopes, start: Array, steps: int) -> Array:
    """argmin L, shape of start (n,), by Newton's method. No loss is evaluated: a step that moves no margin by more
    than d has

        L(x + t s) - L(x) <= -t fall + fall (e^(d t) - d t - 1)/d²,   fall = sᵀ H s,   0 <= t <= 1

    as |σ''| <= σ' (Bach 2010, "Self-concordant analysis for logistic regression", prop. 1). A whole step lowers it
    where d <= 1.5, or where the slope along it is not above 0 at its end; log(1 + d)/d of one always does.

    Raises `ArithmeticError` where `steps` steps are not enough, and where rounding leaves no way to go.

    >>> settle(Pulls(np.array([[0.0, 3.0], [1.0, 0.0]])), np.zeros(2), 20).round(12)  # log 3 apart
    array([ 0.        , -1.09861229])
    """
    x, before = start, (np.inf, np.inf)
    slope = slopes.at(x)
    for _ in range(steps):
        step, d = slopes.step()
        fall = -float(slope @ step)
        if not np.isfinite(d):
            raise ArithmeticError("newton is stuck: the Hessian is singular but for rounding")
        if d <= 2e-8:  # the error of what follows is the square of this
            return x + step
        if d <= 0.5 and before[1] <= 0.5 and fall >= before[0] / 4:  # a quarter at most, but for rounding
            return x
        slope = slopes.at(x + step)
        if d > 1.5 and not slope @ step <= 0:
            step = step * (np.log1p(d) / d)
            slope = slopes.at(x + step)
        x, before = x + step, (fall, d)
    raise ArithmeticError(f"newton has not converged in {steps} steps: L would still fall by {before[0] / 2:.3g}")


class Pulls:
    """L of log-odds x (K,), of which differences matter alone, by K exponentials: σ(xᵢ - xⱼ) = eᵢ/(eᵢ + eⱼ), each to a
    few units of rounding

    wins (K, K), 0 on the diagonal. Where exponentials would leave the range of float64 there are K² of them. Rows are
    taken as many at a time as a cache holds: else reading and writing matrices takes most of the time.

    >>> pulls = Pulls(np.array([[0.0, 3.0], [1.0, 0.0]]))
    >>> pulls.at(np.zeros(2)), pulls.hessian()
    (array([-1.,  1.]), array([[ 1., -1.],
           [-1.,  1.]]))
    """

    def __init__(self, wins: Array) -> None:
        self.wins, self.both, self.bend = wins, wins + wins.T, np.empty_like(wins)

    def at(self, x: Array) -> Array:
        top, low, K = x.max(), x.min(), len(x)
        far = top - low > 600
        self.e = e = np.ones(K) if far else np.exp(x - (top + low) / 2)
        won, lost, height = np.empty(K), np.zeros(K), max(1, BLOCK // K)
        for start in range(0, K, height):
            rows = slice(start, start + height)
            if far:
                p, q = expit(x[rows, None] - x), expit(x - x[rows, None])
                won[rows] = (self.wins[rows] * q).sum(axis=1)
                lost += (self.wins[rows] * q).sum(axis=0)
                np.multiply(self.both[rows], p * q, out=self.bend[rows])
            else:
                inverse = 1 / (e[rows, None] + e)
                rates = self.wins[rows] * inverse
                won[rows] = rates @ e
                lost += rates.sum(axis=0)
                np.multiply(self.both[rows], np.multiply(inverse, inverse, out=inverse), out=self.bend[rows])
        self.slope: Array = e * lost - won
        return self.slope

    def edges(self) -> Array:
        """The degrees: sums of rows of wins + winsᵀ times σ(m) σ(-m), which `bend` is but for a factor eᵢ eⱼ"""
        degree: Array = self.e * (self.bend @ self.e)
        return degree

    def hessian(self, degree: Array | None = None) -> Array:
        degree = self.edges() if degree is None else degree
        self.bend *= -self.e[:, None] * self.e
        self.bend.flat[::len(degree) + 1] = degree
        return self.bend

    def step(self) -> tuple[Array, float]:
        degree = self.edges()
        step = self._conjugate(degree) if len(degree) > 300 else None
        if step is None:
            step = np.append(0, _solve(self.hessian(degree)[1:, 1:], -self.slope[1:]))  # x[0] held
        return step, float(step.max() - step.min())

    def _conjugate(self, degree: Array) -> Array | None:
        """-H⁺ slope to eight digits by conjugate gradients, where thirty products are enough"""
        x, r = np.zeros(len(degree)), self.slope.mean() - self.slope
        z = p = r / degree
        rz = enough = float(r @ z)
        for _ in range(30):
            if rz <= 1e-16 * enough:
                return x
            Hp = degree * p - self.e * (self.bend @ (self.e * p))
            a = rz / float(p @ Hp)
            x, r = x + a * p, r - a * Hp
            z = r / degree
            rz, last = float(r @ z), rz
            p = z + rz / last * p
        return None


class PullsOnFeatures:
    """L of weights x (d,) of features (P, K, d): log-odds φ x of each of P prompts, wins (P, K, K)

    >>> pulls = PullsOnFeatures(np.array([[[2.0], [0.0]]]), np.array([[[0.0, 3.0], [1.0, 0.0]]]))
    >>> pulls.at(np.zeros(1)), pulls.step()
    (array([-2.]), (array([0.5]), 1.0))
    """

    def __init__(self, features: Array, wins: Array) -> None:
        self.prompts = [(phi, Pulls(w)) for phi, w in zip(features, wins, strict=True)]

    def at(self, x: Array) -> Array:
        slope: Array = np.sum([pulls.at(phi @ x) @ phi for phi, pulls in self.prompts], axis=0)
        self.slope = slope
        return slope

    def step(self) -> tuple[Array, float]:
        step = _solve(np.sum([phi.T @ (pulls.hessian() @ phi) for phi, pulls in self.prompts], axis=0), -self.slope)
        return step, max(float(np.ptp(phi @ step)) for phi, _ in self.prompts)


def _solve(H: Array, y: Array) -> Array:
    """H⁻¹ y; NaN where H is not positive definite"""
    x: Array
    if len(y) <= SMALL:
        _, x, info = dposv(H, y)
        return x if not info else np.full(len(y), np.nan)
    try:  # SciPy's BLAS has threads of its own, which would wait for those of NumPy's, and these made H
        np.linalg.cholesky(H)
    except np.linalg.LinAlgError:
        return np.full(len(y), np.nan)
    return np.asarray(np.linalg.solve(H, y), float)
