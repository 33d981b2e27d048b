"""The checker is checked: it passes what is right to the last digits, and flags one wrong entry."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_numpy.check import Check, check_gradient, complex_step, finite_difference

METHODS = {
    "complex": complex_step,
    "difference": functools.partial(finite_difference, step=1e-4),
    "default": finite_difference,
}


def f(p):
    """Analytic, not a polynomial, of two arrays: Σ sin(a_i) eᵇ"""
    return (np.sin(p["a"]) * np.exp(p["b"]).sum()).sum()


def grad_f(p):
    return {"a": np.cos(p["a"]) * np.exp(p["b"]).sum(), "b": np.sin(p["a"]).sum() * np.exp(p["b"])}


def point(seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {"a": rng.normal(size=5).astype(dtype), "b": rng.normal(size=(2, 3)).astype(dtype)}


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_right_gradient_passes(method, dtype):
    for seed in range(10):
        p = point(seed, dtype)
        check = check_gradient(f, p, grad_f(p), np.random.default_rng(seed), METHODS[method])
        # a complex step loses what float64 does; a difference in longdouble keeps 1e-12, some 5e3 eps of float64
        assert check.units < (50 if method == "complex" or dtype == np.float32 else 5e3)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("wrong", ["entry", "sign", "factor", "missing", "swapped", "small"])
def test_a_wrong_gradient_is_flagged(method, wrong):
    for seed in range(10):
        p = point(seed)
        g = grad_f(p)
        if wrong == "entry":
            g["b"][1, 2] *= 1.01
        elif wrong == "sign":
            g["a"] = -g["a"]
        elif wrong == "factor":
            g = {k: 2 * x for k, x in g.items()}
        elif wrong == "missing":
            g["b"] = np.zeros_like(g["b"])
        elif wrong == "swapped":
            g["a"][[0, 1]] = g["a"][[1, 0]]
        else:
            g["a"][0] += 1e-4
        assert check_gradient(f, p, g, np.random.default_rng(seed), METHODS[method]).units > 1e5


def test_what_is_reported():
    p = {"x": np.array([1.0, 2.0])}
    rng = np.random.default_rng(0)
    check = check_gradient(lambda q: (q["x"] ** 2).sum(), p, {"x": np.array([2.0, 5.0])}, rng)
    d = np.random.default_rng(0).normal(size=2)
    assert isinstance(check, Check)
    assert check.claimed == pytest.approx(2 * d[0] + 5 * d[1], rel=1e-15)
    assert check.measured == pytest.approx(2 * d[0] + 4 * d[1], rel=1e-13)
    eps = np.finfo(np.float64).eps
    assert check.units == pytest.approx(abs(d[1]) / (eps * (2 * abs(d[0]) + 5 * abs(d[1]))), rel=1e-8)
    ones, wrong = {"x": np.ones(2, np.float32)}, {"x": np.full(2, 3, np.float32)}
    single = check_gradient(lambda q: (q["x"] ** 2).sum(), ones, wrong, np.random.default_rng(0))
    assert single.units == pytest.approx(abs(d.sum()) / (np.finfo(np.float32).eps * 3 * abs(d).sum()), rel=1e-6)


def test_a_gradient_of_zeros_passes_only_where_nothing_is_measured():
    p = {"x": np.array([1.0, 2.0])}
    zero = {"x": np.zeros(2)}
    assert check_gradient(lambda q: 0 * q["x"].sum(), p, zero, np.random.default_rng(0)).units == 0
    wrong = check_gradient(lambda q: q["x"].sum(), p, zero, np.random.default_rng(0))
    assert wrong.units == pytest.approx(1 / np.finfo(np.float64).eps)
    assert abs(wrong.measured) < 0.01  # however little that is


def test_the_smallest_gradients_are_checked_too():
    p = {"x": np.array([1.0, 2.0])}
    for size in (1e-300, 1e-318):  # in longdouble: beside 1e-40, a complex step's, there is no room for them in float64
        right, wrong = {"x": np.array([size, size])}, {"x": np.array([-size, -size])}

        def tiny(q, size=size):
            return size * q["x"].sum()

        assert check_gradient(tiny, p, right, np.random.default_rng(1)).units < 5e3
        assert check_gradient(tiny, p, wrong, np.random.default_rng(1)).units > 4e15


def test_nan_is_no_pass():
    p = {"x": np.array([1.0])}
    check = check_gradient(lambda q: q["x"].sum(), p, {"x": np.array([np.nan])}, np.random.default_rng(0), complex_step)
    assert not check.units < 1e300


def test_the_parameters_are_not_touched():
    p = point(0)
    for x in p.values():
        x.setflags(write=False)
    check_gradient(f, p, grad_f(p), np.random.default_rng(0))
    check_gradient(f, p, grad_f(p), np.random.default_rng(0), complex_step)


@given(st.integers(0, 4), st.floats(-2, 2), st.floats(0.1, 10))
@settings(max_examples=50)
def test_a_difference_is_exact_for_polynomials_up_to_degree_4(degree, x, norm):
    """The step is a distance: a direction ten times as long gives ten times the derivative"""
    p, d = {"x": np.array([x])}, {"x": np.array([norm])}
    found = finite_difference(lambda q: (q["x"] ** degree).sum(), p, d, step=0.1)
    exact = degree * float(x) ** (degree - 1) * norm if degree else 0.0
    assert float(found) == pytest.approx(exact, abs=1e-15 * norm * 2**degree * 10)


def test_the_error_of_a_difference_is_h4_f5_over_30():
    p, d = {"x": np.array([0.3])}, {"x": np.array([1.0])}
    for h in (0.1, 0.05):
        exact = 3 * np.cos(3 * np.longdouble(p["x"][0]))
        error = finite_difference(lambda q: np.sin(3 * q["x"]).sum(), p, d, step=h) - exact
        assert float(error) == pytest.approx(-(h**4) * 3**5 * np.cos(0.9) / 30, rel=0.05)
    long = finite_difference(lambda q: np.sin(3 * q["x"]).sum(), p, {"x": np.array([100.0])}, step=0.05)
    assert float(long / 100 - exact) == pytest.approx(float(error), rel=1e-6)  # the distance, not the direction


def test_the_default_step_suits_functions_steep_and_flat():
    for scale in (1e-3, 1.0, 30.0):
        p = {"x": np.array([0.3])}
        found = finite_difference(lambda q, scale=scale: np.sin(scale * q["x"]).sum(), p, {"x": np.array([1.0])})
        assert float(found) == pytest.approx(scale * np.cos(scale * 0.3), rel=1e-10)


def test_a_complex_step_keeps_every_digit():
    p, d = {"x": np.array([0.3, 2.0])}, {"x": np.array([1.0, -3.0])}
    found = complex_step(lambda q: np.exp(q["x"]).sum(), p, d)
    assert found == pytest.approx(np.exp(0.3) - 3 * np.exp(2.0), rel=1e-15)
    assert complex_step(lambda q: np.exp(q["x"]).sum(), p, d, step=1e-100) == pytest.approx(found, rel=1e-15)
