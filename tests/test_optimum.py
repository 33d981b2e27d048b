"""analytic.optimum: golden values and naive sums in mpmath, identities, and a numerical maximizer that knows nothing of
Boltzmann.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mpmath import mp
from numpy.testing import assert_allclose
from scipy.optimize import minimize

from analytic import optimum

K = 5
logits = arrays(float, K, elements=st.floats(-8, 8))
betas = st.floats(0.05, 20)


def softmax(x):
    p = np.exp(x - x.max())
    return p / p.sum()


def exact(ref, reward, beta):
    """π* and log Z by the definition, 60 digits; inputs are the binary numbers they are."""
    with mp.workdps(60):
        weights = [
            mp.mpf(float(p)) * mp.exp(mp.mpf(float(r)) / mp.mpf(float(beta))) for p, r in zip(ref, reward, strict=True)
        ]
        return np.array([float(w / sum(weights)) for w in weights]), float(mp.log(sum(weights)))


@pytest.mark.parametrize(
    ("beta", "policy", "log_z"),
    [
        (0.5, (0.86681333, 0.11731043, 0.01587624), 1.0443193398),
        (1.0, (0.66524096, 0.24472847, 0.09003057), 0.3089936758),
        (2.0, (0.50648039, 0.30719589, 0.18632372), 0.0816573820),
    ],
)
def test_three_responses_of_reward_1_0_minus_1(beta, policy, log_z):
    ref, reward = np.full(3, 1 / 3), [1.0, 0.0, -1.0]
    assert_allclose(optimum.boltzmann(ref, reward, beta), policy, atol=5e-9)
    assert_allclose(optimum.log_partition(ref, reward, beta), log_z, atol=5e-11)


@given(logits, logits, betas)
def test_the_definition_in_sixty_digits(a, reward, beta):
    ref = softmax(a)
    policy, log_z = exact(ref, reward, beta)
    size = 1 + abs(reward).max() / beta  # an ulp of r/β, of this size, moves a log-probability by as much
    assert_allclose(optimum.boltzmann(ref, reward, beta), policy, rtol=8 * size * np.finfo(float).eps, atol=1e-300)
    assert_allclose(optimum.log_partition(ref, reward, beta), log_z, rtol=1e-14, atol=8 * size * np.finfo(float).eps)


def test_a_numerical_maximizer_of_the_objective_finds_it():
    """The objective is written out here, and BFGS knows nothing of exponentials of rewards."""
    ref, reward, beta = np.array([0.5, 0.3, 0.2]), np.array([0.2, 1.0, -0.7]), 0.4

    def negative(x):
        p = softmax(x)
        return -(p @ reward - beta * p @ np.log(p / ref))

    found = softmax(minimize(negative, np.zeros(3), tol=1e-12).x)
    assert_allclose(optimum.boltzmann(ref, reward, beta), found, atol=1e-6)  # BFGS stops at a gradient of 1e-7 or so
    assert_allclose(optimum.optimal_value(ref, reward, beta), -negative(np.log(found)), rtol=1e-10)


@given(logits, logits, logits, betas)
def test_every_policy_falls_short_by_beta_times_its_divergence(a, b, reward, beta):
    """J(π) = β log Z - β KL(π || π*), for any π."""
    ref, pi = softmax(a), softmax(b)
    star = optimum.boltzmann(ref, reward, beta)
    scale = abs(reward).max() + beta * 40  # the terms that the identity adds up
    assert_allclose(
        optimum.value(pi, ref, reward, beta),
        optimum.optimal_value(ref, reward, beta) - beta * optimum.kl(pi, star),
        atol=1e-14 * scale,
        rtol=0,
    )


@given(logits, logits, betas, st.floats(-50, 50))
def test_a_constant_of_the_prompt_changes_nothing(a, reward, beta, c):
    ref = softmax(a)
    moved = optimum.boltzmann(ref, reward + c, beta)
    assert_allclose(moved, optimum.boltzmann(ref, reward, beta), rtol=1e-13 * (1 + (abs(c) + 8) / beta))


@given(logits, logits, betas)
def test_the_reward_is_in_the_log_ratio(a, reward, beta):
    ref = softmax(a)
    star, log_z = optimum.boltzmann(ref, reward, beta), optimum.log_partition(ref, reward, beta)
    if star.min() > 1e-300:
        assert_allclose(
            optimum.implied_reward(star, ref, beta, log_z),
            reward,
            atol=1e-13 * beta * (1 + abs(reward).max() / beta) * 50,
        )


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_the_frontier_has_slope_beta(beta):
    """dE r/d(1/β) = Var r, dKL/d(1/β) = Var r/β, dJ*/dβ = -KL, by central differences."""
    ref, reward, h = np.array([0.4, 0.3, 0.2, 0.1]), np.array([1.0, -0.5, 0.3, 2.0]), 1e-5

    def at(inverse):
        p = optimum.boltzmann(ref, reward, 1 / inverse)
        return p @ reward, optimum.kl(p, ref), p @ reward**2 - (p @ reward) ** 2

    (up_r, up_kl, _), (down_r, down_kl, _), (_, kl, var) = at(1 / beta + h), at(1 / beta - h), at(1 / beta)
    assert_allclose((up_r - down_r) / (2 * h), var, rtol=1e-6)
    assert_allclose((up_kl - down_kl) / (2 * h), var / beta, rtol=1e-6)
    dJ = (optimum.optimal_value(ref, reward, beta + h) - optimum.optimal_value(ref, reward, beta - h)) / (2 * h)
    assert_allclose(dJ, -kl, rtol=1e-6)


def test_limits_of_beta():
    ref, reward = np.array([0.7, 0.2, 0.1]), np.array([0.0, 1.0, 5.0])
    assert_allclose(optimum.boltzmann(ref, reward, 1e-6), [0, 0, 1])
    assert_allclose(optimum.kl(optimum.boltzmann(ref, reward, 1e-6), ref), -np.log(0.1))
    assert_allclose(optimum.boltzmann(ref, reward, 1e12), ref, rtol=1e-10)


def test_no_mass_in_the_reference_is_no_mass_in_the_optimum():
    ref = [0.5, 0.5, 0.0]
    assert optimum.boltzmann(ref, [0.0, 1.0, 1e6], 0.1)[2] == 0
    assert np.isfinite(optimum.log_partition(ref, [0.0, 1.0, 1e6], 0.1))


def test_kl_keeps_its_digits_and_its_infinities():
    p = np.array([0.25, 0.5, 0.25])
    q = p + 1e-9 * np.array([1.0, -2.0, 1.0])
    with mp.workdps(60):
        P, Q = ([mp.mpf(float(x)) for x in row] for row in (p, q))
        naive = sum(x * mp.log(x / y) for x, y in zip(P, Q, strict=True)) - sum(P) + sum(Q)  # q sums to 1 + 1e-17 or so
    assert_allclose(optimum.kl(p, q), float(naive), rtol=1e-7)
    assert optimum.kl([0.5, 0.5, 0.0], [1.0, 0.0, 0.0]) == np.inf
    assert_allclose(optimum.kl([1.0, 0.0], [0.25, 0.75]), np.log(4))
    assert_allclose(optimum.kl([1e-300, 1.0], [0.5, 0.5]), np.log(2))


def test_leading_axes_are_problems_of_their_own(rng):
    ref, reward = rng.dirichlet(np.ones(4), size=(2, 3)), rng.normal(size=(2, 3, 4))
    star, log_z = optimum.boltzmann(ref, reward, 0.7), optimum.log_partition(ref, reward, 0.7)
    values = optimum.value(star, ref, reward, 0.7)
    for at in np.ndindex(2, 3):
        one, one_z = exact(ref[at], reward[at], 0.7)
        assert_allclose(star[at], one, rtol=1e-13)
        assert_allclose(log_z[at], one_z, rtol=1e-13)
        assert_allclose(values[at], 0.7 * one_z, rtol=1e-12)
    assert optimum.implied_reward(star, ref, 0.7, log_z) == pytest.approx(reward, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: optimum.boltzmann([0.5, 0.6], [0, 0], 1.0),
            r"ref has a row \[0.5, 0.6\] that sums to 1.1.*; expected probabilities",
        ),
        (lambda: optimum.boltzmann([[0.5, 0.5], [-0.5, 1.5]], [0, 0], 1.0), r"ref has a row \[-0.5, 1.5\]"),
        (lambda: optimum.boltzmann([0.5, np.nan], [0, 0], 1.0), r"ref has a row \[0.5, nan\]"),
        (
            lambda: optimum.boltzmann([1.0], [0.0], 1.0),
            r"ref has shape \(1,\); expected \(\.\.\., K\) with at least two",
        ),
        (lambda: optimum.boltzmann([0.5, 0.5], [0, np.inf], 1.0), "reward holds inf; expected finite numbers"),
        (lambda: optimum.boltzmann([0.5, 0.5], [0, 1], 0.0), "beta is 0.0; expected a finite number above 0"),
        (lambda: optimum.log_partition([0.5, 0.5], [0, 1], np.nan), "beta is nan; expected"),
        (lambda: optimum.kl([0.5, 0.5], [0.5, 0.4]), r"q has a row \[0.5, 0.4\]"),
        (lambda: optimum.value([0.9, 0.2], [0.5, 0.5], [0, 1], 1.0), "pi has a row"),
        (lambda: optimum.implied_reward([0.5, 0.5], [1.0, 0.0], 1.0), "pi has mass where ref has none"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
