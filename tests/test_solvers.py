"""analytic._solvers: roots and minima that are known, and what happens where there is none."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from analytic import _solvers

EPS = np.finfo(float).eps


def test_root_finds_each_entry_to_the_last_bit():
    a = np.array([2.0, 3.0, 1e-8, 1e8])
    found = _solvers.root(lambda x: x * x - a, np.zeros(4), np.maximum(a, 1))
    assert_allclose(found, np.sqrt(a), rtol=4 * EPS)


def test_root_returns_the_end_where_the_sign_does_not_change():
    assert _solvers.root(lambda x: x - 5, np.array([0.0]), np.array([1.0])) == 1
    assert_allclose(_solvers.root(lambda x: x + 5, np.array([0.0]), np.array([1.0])), 0, atol=1e-29)
    assert _solvers.root(lambda x: x, np.array([np.inf]), np.array([np.inf])) == np.inf


def quartic(x):
    return 1 + (x**4).sum() + (x**2).sum()


def derivatives(x):
    return 4 * x**3 + 2 * x, np.diag(12 * x**2 + 2)


def test_minimize_damps_steps_that_would_overshoot():
    """Newton's steps on log cosh diverge from 2; halved ones do not."""
    def of(x):
        return 1 + np.log(np.cosh(x)).sum()

    x = np.array([2.0])
    for _ in range(2):
        x = x - np.tanh(x) * np.cosh(x) ** 2
    assert abs(x) > 1e8
    found = _solvers.minimize(of, lambda x: (np.tanh(x), np.diag(np.cosh(x) ** -2.0)), np.array([2.0, -1.5]), 50)
    assert_allclose(found, 0, atol=1e-15)


def test_minimize_says_when_its_steps_are_not_enough():
    assert_allclose(_solvers.minimize(quartic, derivatives, np.array([8.0, -3.0]), 20), 0, atol=1e-15)
    with pytest.raises(ArithmeticError, match=r"newton has not converged in 3 steps: L would still fall by \d"):
        _solvers.minimize(quartic, derivatives, np.array([8.0, -3.0]), 3)
    assert _solvers.minimize(quartic, derivatives, np.zeros(0), 3).shape == (0,)


def test_minimize_says_when_rounding_leaves_no_way_to_go():
    with pytest.raises(ArithmeticError, match="newton is stuck: the Hessian is singular"):
        _solvers.minimize(lambda x: 1 + x @ x, lambda x: (2 * x, np.zeros((1, 1))), np.ones(1), 3)
    with pytest.raises(ArithmeticError, match=r"newton is stuck: L would still fall by 2\b"):
        _solvers.minimize(lambda x: 1.0, lambda x: (2 * x, np.eye(1)), np.ones(1), 3)  # a value that never falls
    with pytest.raises(ArithmeticError, match="newton is stuck: L would still fall"):
        _solvers.minimize(lambda x: np.where(x == 1, 1, np.nan).sum(), lambda x: (2 * x, np.eye(1)), np.ones(1), 3)
