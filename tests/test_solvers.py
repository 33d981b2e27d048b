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


@pytest.mark.parametrize("spread", [0.0, 1.0, 90.0, 350.0])
def test_pulls_are_the_derivatives_of_the_loss(rng, spread):
    """By sums over pairs, each of its own exponential; at 350 the quotients of exponentials leave float64."""
    wins, x = rng.random((5, 5)) * (np.eye(5) == 0), spread * np.array([1.0, -1.0, 0.2, 0.0, 0.9])
    slope, H = np.zeros(5), np.zeros((5, 5))
    for i in range(5):
        for j in range(5):
            apart = np.eye(5)[i] - np.eye(5)[j]
            p = 1 / (1 + np.exp(apart @ x))
            slope -= wins[i, j] * p * apart
            H += wins[i, j] * p / (1 + np.exp(-apart @ x)) * np.outer(apart, apart)
    pulls = _solvers.Pulls(wins)
    assert_allclose(pulls.at(x), slope, rtol=64 * EPS, atol=64 * EPS * wins.sum())
    bend = pulls.hessian()
    assert_allclose(bend, H, rtol=8 * (1 + spread) * EPS)  # x itself is rounded
    assert_allclose(bend.sum(axis=0), 0, atol=16 * EPS * abs(H).max())


def test_settle_from_anywhere():
    """σ(x) = 3/4 has one solution. From 30 a whole step would go to -1e12."""
    pulls = _solvers.Pulls(np.array([[0.0, 3.0], [1.0, 0.0]]))
    for start in (-700.0, -30.0, 0.0, 1.0, 30.0):
        found = _solvers.settle(pulls, np.array([start, 0.0]), 100 if abs(start) < 100 else 1000)
        assert found[0] - found[1] == pytest.approx(np.log(3), rel=16 * EPS)


def test_settle_says_when_there_is_no_step():
    with pytest.raises(ArithmeticError, match="newton is stuck: the Hessian is singular"):
        _solvers.settle(_solvers.Pulls(np.zeros((2, 2))), np.zeros(2), 3)


def test_settle_ends_where_rounding_is_all_that_is_left(rng):
    """Two groups whose members meet 1e12 times as often as members of different ones: how far these are apart is known
    to four digits, and no step is ever shorter."""
    group = np.arange(8) // 4
    met = np.where(group[:, None] == group, 1.0, 1e-12) * (np.eye(8) == 0)
    wins = met * (0.2 + rng.random((8, 8)))
    x = _solvers.settle(_solvers.Pulls(wins), np.zeros(8), 12)
    p = 1 / (1 + np.exp(x[None, :] - x[:, None]))
    apart = group[:, None] != group
    won, expected = (wins[:4] * apart[:4]).sum(), ((wins + wins.T) * p * apart)[:4].sum()
    assert won == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("n", [1, _solvers.SMALL, _solvers.SMALL + 1])
def test_equations_of_a_matrix_that_is_positive_definite_or_not(n):
    x, sides = np.linspace(1, 2, n), np.geomspace(1, 100, n)
    turn = np.eye(n) - 2 / n  # symmetric, its own inverse
    assert_allclose(_solvers._solve(turn * sides @ turn, turn * sides @ turn @ x), x, rtol=1e-12)
    sides[0] = -1
    assert np.isnan(_solvers._solve(turn * sides @ turn, x)).all()
