"""analytic.sampling: every sequence of draws enumerated in exact fractions, quadrature, a numerical maximizer, DPO."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm

from analytic import optimum, population, sampling

EPS = np.finfo(float).eps
masses = st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any)
counts = st.integers(1, 2000)


def normalized(weights):
    return np.array(weights) / np.sum(weights)


# The best of n


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("reward", [(0, 1, 2, 3), (1, 0, 1, 2), (0, 2, 2, 0), (5, 5, 5, 5), (3, -1, 2, -1)])
def test_best_of_n_is_the_first_of_the_best_in_every_sequence_of_draws(reward, n):
    ref = [Fraction(k, 16) for k in (5, 8, 1, 2)]
    law = [Fraction(0)] * 4
    for drawn in product(range(4), repeat=n):
        law[max(drawn, key=lambda y: reward[y])] += np.prod([ref[y] for y in drawn])
    pi = sampling.best_of_n(np.array(ref, float), np.array(reward, float), n)
    assert_allclose(pi, np.array(law, float), rtol=16 * EPS)


def test_tiny_masses_and_a_million_draws_in_fifty_digits():
    """F^n - F₋^n with all sums from above; of a million draws none is left for the lowest."""
    ref, reward = np.array([2.0**-1000, 0.5, 0.5 - 2.0**-20, 2.0**-20, 2.0**-60]), np.array([9.0, 0, 1, 2, 3])
    for n in (2, 1000, 10**6):
        pi = sampling.best_of_n(ref, reward, n)
        with mp.workdps(700):
            above = {y: mp.fsum(mp.mpf(ref[z]) for z in range(5) if reward[z] > reward[y]) for y in range(5)}
            exact = [(1 - above[y]) ** n - (1 - above[y] - mp.mpf(ref[y])) ** n for y in range(5)]
            exact[1] = (1 - above[1]) ** n  # the lowest: nothing is below
            if n == 10**6:
                assert exact[1] < mp.mpf("1e-300000") and pi[1] == 0
                exact[1] = 0
            for got, wanted in zip(pi, map(float, exact), strict=True):  # e^x is rounded by |x| ulps of x
                assert_allclose(got, wanted, rtol=EPS * (8 + abs(np.log(wanted or 1))))


@settings(max_examples=50)
@given(masses, st.data(), counts)
def test_kl_and_win_rate_stay_below_their_bounds_and_reach_them_for_n_1_alone(weights, data, n):
    K = len(weights)
    ref, reward = normalized(weights), np.array(data.draw(st.lists(st.integers(0, 4), min_size=K, max_size=K)), float)
    pi, bounds = sampling.best_of_n(ref, reward, n), sampling.best_of_n_bounds(n)
    kl, rate = optimum.kl(pi, ref), sampling.win_rate(pi, ref, reward)
    assert kl <= bounds.kl + 8 * EPS
    assert rate <= bounds.win_rate + 8 * EPS
    if n == 1:
        assert_allclose([kl, rate, bounds.kl, bounds.win_rate], [0, 0.5, 0, 0.5], rtol=0, atol=8 * EPS)
    else:  # lumped together: the nearest here are 120 masses of n = 2
        assert bounds.kl - kl > 1e-6
        assert bounds.win_rate - rate > 1e-9


@pytest.mark.parametrize("n", [2, 16, 1000])
def test_the_bounds_are_those_of_continuous_rewards(n):
    """U = F(r) has density n u^(n-1) against 1, and U^n is uniform; K equal masses come within O((n/K)²) of it."""
    kl = quad(lambda v: np.log(n * v ** (1 - 1 / n)), 0, 1, epsabs=1e-12)[0]
    rate = quad(lambda v: v ** (1 / n), 0, 1, epsabs=1e-12)[0]
    assert_allclose(sampling.best_of_n_bounds(n), [kl, rate], rtol=0, atol=1e-9)
    gaps = []
    for K in (10_000, 20_000):
        ref, reward = np.full(K, 1 / K), np.arange(K, dtype=float)
        pi = sampling.best_of_n(ref, reward, n)
        gaps.append(sampling.best_of_n_bounds(n) - np.array([optimum.kl(pi, ref), sampling.win_rate(pi, ref, reward)]))
    assert_allclose(gaps[1], [0, 0], rtol=0, atol=(n / K) ** 2)
    if n == 1000:  # smaller gaps are rounding
        assert_allclose(np.divide(*gaps), 4, rtol=1e-2)


def test_log_n_is_not_the_kl_of_few_responses():
    """Two equal masses: KL ends at log 2, where log n - (n-1)/n has no end."""
    pi = sampling.best_of_n([0.5, 0.5], [0.0, 1.0], 10**6)
    assert_allclose(optimum.kl(pi, [0.5, 0.5]), np.log(2), rtol=4 * EPS)
    assert sampling.best_of_n_bounds(10**6).kl > 12


@settings(max_examples=30)
@given(masses, st.data())
def test_win_rate_pair_by_pair(weights, data):
    K = len(weights)
    ref, reward = normalized(weights), np.array(data.draw(st.lists(st.integers(0, 3), min_size=K, max_size=K)), float)
    pi = normalized(data.draw(st.lists(st.integers(1, 9), min_size=K, max_size=K)))
    wins = (reward[:, None] > reward) + (reward[:, None] == reward) / 2
    assert_allclose(sampling.win_rate(pi, ref, reward), pi @ wins @ ref, rtol=16 * EPS)
    assert_allclose(sampling.win_rate(ref, ref, reward), 0.5, rtol=16 * EPS)


def test_what_best_of_n_loses_to_the_boltzmann_policy_of_equal_kl():
    """Rewards N(0, 1): E r = √(2 KL) along the frontier, and the mean of the largest of n by quadrature."""
    reward = np.linspace(-9, 9, 6001)
    ref = normalized(norm.pdf(reward))
    for n, gap in ((2, 0.0573), (4, 0.0987), (8, 0.1285), (16, 0.1498), (64, 0.1760), (256, 0.1895)):
        largest = quad(lambda x, n=n: x * n * norm.pdf(x) * norm.cdf(x) ** (n - 1), -9, 9, epsabs=1e-10)[0]
        lost = np.sqrt(2 * sampling.best_of_n_bounds(n).kl) - largest
        assert_allclose(lost, gap, rtol=0, atol=5e-5)
        pi = sampling.best_of_n(ref, reward, n)
        kl = float(optimum.kl(pi, ref))
        beta = brentq(lambda b, kl=kl: float(optimum.kl(optimum.boltzmann(ref, reward, b), ref)) - kl, 0.1, 10)
        # a grid of step 0.003 has n/1000 of the mass at a point at most: (n/1000)² in KL
        assert_allclose((optimum.boltzmann(ref, reward, beta) - pi) @ reward, lost, rtol=0, atol=1e-6 * n)


# Rejection sampling


@settings(max_examples=40)
@given(masses, st.data(), st.floats(1e-3, 1e3))
def test_what_is_kept_has_the_law_of_the_boltzmann_policy(weights, data, beta):
    K = len(weights)
    ref, reward = normalized(weights), np.array(data.draw(st.lists(st.floats(-5, 5), min_size=K, max_size=K)))
    kept = ref * np.exp(np.minimum(reward - reward[ref > 0].max(), 0) / beta)
    rate = sampling.acceptance_rate(ref, reward, beta)
    assert 0 < rate <= 1 + 8 * EPS
    assert_allclose(kept / rate, optimum.boltzmann(ref, reward, beta), rtol=64 * EPS * (1 + 10 / beta), atol=1e-300)
    log_rate = optimum.log_partition(ref, reward, beta) - reward[ref > 0].max() / beta
    assert_allclose(np.log(rate), log_rate, rtol=0, atol=32 * EPS * (1 + 10 / beta))


def test_acceptance_overflows_nowhere_and_asks_for_what_the_reference_can_draw():
    assert sampling.acceptance_rate([0.25, 0.75, 0.0], [1e3, -1e3, 1e300], 1e-3) == 0.25
    assert_allclose(sampling.acceptance_rate([0.25, 0.75], [1e300, 1e300], 1e-300), 1, rtol=EPS)
    assert_allclose(sampling.acceptance_rate([0.25, 0.75], [1.0, 0.0], 1e300), 1, rtol=EPS)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("levels", [3, 10])
def test_rejection_among_n_candidates_in_every_sequence_of_draws(n, levels, rng):
    """Published algorithm 1, equal candidates kept: in order, each against the best of the n."""
    ref, reward = np.append(rng.dirichlet(np.ones(3)), 0), rng.integers(levels, size=4) / 2
    beta, law = rng.uniform(0.3, 2), np.zeros(4)
    for drawn in product(range(4), repeat=n):
        still = np.prod(ref[[*drawn]])
        for y in drawn:
            a = np.exp((reward[y] - max(reward[[*drawn]])) / beta)
            law[y] += still * a
            still *= 1 - a
    assert_allclose(sampling.rejection_sampling(ref, reward, beta, n), law, rtol=0, atol=16 * EPS)


def test_rejection_lies_between_the_reference_the_best_of_n_and_the_boltzmann_policy(rng):
    ref, reward = rng.dirichlet(np.ones(6)), rng.normal(size=6)
    law = sampling.rejection_sampling
    assert_allclose(law(ref, reward, 0.3, 1), ref, rtol=16 * EPS)
    assert_allclose(law(ref, reward, 1e10, 7), ref, rtol=1e-8)
    assert_allclose(law(ref, reward, 1e-300, 7), sampling.best_of_n(ref, reward, 7), rtol=64 * EPS, atol=1e-15)
    star = optimum.boltzmann(ref, reward, 0.5)
    assert_allclose(law(ref, reward, 0.5, 10**6), star, rtol=0, atol=16 * EPS)
    off = [abs(law(ref, reward, 0.5, n) - star).max() for n in (1, 4, 16, 64)]
    assert (np.diff(off) < 0).all()


# GRPO


@settings(max_examples=30)
@given(st.floats(0, 1), st.floats(0.01, 0.99), st.floats(0.3, 5), st.floats(1e-5, 0.1))
def test_a_step_of_grpo_maximizes_whitened_advantages_less_kl(p, p0, beta, eps):
    right, wrong = ((r - p) / np.sqrt(p * (1 - p) + eps) for r in (1, 0))

    def negative(x):  # x = log odds
        a, b = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(x))
        return -(a * right + b * wrong - beta * (a * np.log(a / p0) + b * np.log(b / (1 - p0))))

    after = sampling.grpo_step(p, p0, beta, eps)
    x = np.log(p0 / (1 - p0)) + (right - wrong) / beta
    if x < 15:  # beyond, the objective is flat to rounding
        found = minimize_scalar(negative, bracket=(x - 1, x + 1.5), tol=1e-10).x
        assert_allclose(after, 1 / (1 + np.exp(-found)), rtol=0, atol=1e-6)  # √ε over the curvature β p (1-p), in p
    assert after > p0 or p0 == after == 1
    assert_allclose(after, 1 / (1 + (1 - p0) / p0 * np.exp(-1 / (beta * np.sqrt(p * (1 - p) + eps)))), rtol=1e-11)


@pytest.mark.parametrize("beta", [0.1, 1.0, 7.0])
def test_dpo_on_labels_of_right_and_wrong_is_plain_kl_regularized_rl(beta, rng):
    ref, reward = rng.dirichlet(np.ones(5)), np.array([1.0, 0, 0, 1, 0])
    pi = population.policy(population.newton(population.bradley_terry_wins(reward), beta), ref)
    assert_allclose(sampling.success_rate(ref @ reward, beta), pi @ reward, rtol=1e-12)


def test_success_rate_at_the_ends():
    assert sampling.success_rate([0.0, 1.0, 0.5], 5e-324).tolist() == [0, 1, 1]
    assert_allclose(sampling.success_rate([0.1, 0.9], 1e300), [0.1, 0.9], rtol=4 * EPS)
    assert_allclose(sampling.success_rate(1e-300, 0.01), np.exp(100) * 1e-300, rtol=1e-13)


def grpo_gap(x, p0, beta, eps):
    """log odds less what a step makes of them: 0 where p is a fixed point"""
    return x - mp.log(p0 / (1 - p0)) - 1 / (beta * mp.sqrt(1 / ((1 + mp.exp(x)) * (1 + mp.exp(-x))) + eps))


def test_three_fixed_points_of_which_two_attract():
    """The equation in mpmath. From 0.2 or 0.99 it ends at 0.336114, from 1 - 10⁻⁶ at 1, and the third repels."""
    with mp.workdps(30):
        p0, beta, eps = mp.mpf(0.2), 3, mp.mpf(1e-5)
        low, middle, high = (mp.findroot(lambda x: grpo_gap(x, p0, beta, eps), guess) for guess in (-0.7, 6, 100))
        low, middle = (float(1 / (1 + mp.exp(-x))) for x in (low, middle))
        assert high > 50
    assert_allclose(low, 0.336114, rtol=0, atol=5e-7)
    limits = sampling.grpo_limit([0.2, 0.99, middle - 1e-6, middle + 1e-6, 1 - 1e-6], 0.2, 3.0)
    assert_allclose(limits, [low, low, low, 1, 1], rtol=1e-12)
    assert_allclose(sampling.grpo_step(middle, 0.2, 3.0), middle, rtol=1e-10)


def test_fixed_points_are_one_or_three(rng):
    found = set()
    for _ in range(300):
        x0, beta, eps = rng.uniform(-9, 4), 10 ** rng.uniform(-1, 1.3), 10 ** rng.uniform(-8, -1)
        end = x0 + 1 / (beta * np.sqrt(eps)) + 1
        x = np.unique(np.concatenate([np.linspace(x0, min(end, 50), 2000), np.linspace(min(end, 50), end, 20)]))
        curve = x - x0 - 1 / (beta * np.sqrt(1 / (2 + 2 * np.cosh(np.minimum(abs(x), 700))) + eps))
        assert curve[0] < 0 < curve[-1]
        found.add(int((np.diff(np.sign(curve)) != 0).sum()))
    assert found == {1, 3}


def test_a_small_reference_can_swing_for_ever_and_a_larger_one_comes_to_rest():
    with pytest.raises(ArithmeticError, match=r"has not come to rest in 400 steps: the last moved p by 0\.234"):
        sampling.grpo_limit(0.002, 0.002, 3.0, steps=400)
    one = brentq(lambda p: sampling.grpo_step(sampling.grpo_step(p, 0.002, 3.0), 0.002, 3.0) - p, 0.002, 0.006)
    other = float(sampling.grpo_step(one, 0.002, 3.0))
    assert_allclose([one, other], [0.00436, 0.23872], rtol=0, atol=5e-6)
    rest = sampling.grpo_limit(0.02, 0.02, 3.0)
    assert_allclose(sampling.grpo_step(rest, 0.02, 3.0), rest, rtol=1e-12)


def test_from_the_reference_it_ends_above_it(rng):
    p0 = rng.uniform(0.03, 0.99, size=300)
    for beta in (1.0, 3.0, 9.0):
        assert (sampling.grpo_limit(p0, p0, beta) > p0).all()


def test_groups_without_a_signal_counted():
    for G in (1, 2, 5):
        for p in (Fraction(0), Fraction(1, 8), Fraction(3, 4), Fraction(1)):
            equal = sum(np.prod([p if r else 1 - p for r in group]) for group in product((0, 1), repeat=G)
                        if len(set(group)) == 1)
            assert_allclose(sampling.no_signal(float(p), G), float(equal), rtol=8 * EPS)
    assert_allclose(sampling.no_signal([0.01, 0.1], 8), [0.92, 0.43], rtol=0, atol=5e-3)
    assert_allclose(1 - sampling.no_signal(1e-12, 10**6), 1e-6, rtol=1e-6)


# All of them


def test_leading_axes_are_problems_of_their_own(rng):
    ref, reward, pi = rng.dirichlet(np.ones(4), size=(2, 1)), rng.integers(3, size=(3, 4)) / 2, np.full(4, 0.25)
    for f in (
        lambda ref, reward: sampling.best_of_n(ref, reward, 3),
        lambda ref, reward: sampling.rejection_sampling(ref, reward, 0.5, 3),
        lambda ref, reward: sampling.win_rate(pi, ref, reward),
        lambda ref, reward: sampling.acceptance_rate(ref, reward, 0.5),
    ):
        together = f(ref, reward)
        for i, j in np.ndindex(2, 3):
            assert_allclose(together[i, j], f(ref[i, 0], reward[j]), rtol=8 * EPS)
    starts, refs = np.array([[0.2], [0.99]]), np.array([0.2, 0.5, 0.7])
    for f in (sampling.grpo_step, sampling.grpo_limit):
        assert_allclose(f(starts, refs, 3.0), [[f(p, p0, 3.0) for p0 in refs] for p in starts[:, 0]], rtol=1e-12)


def test_a_single_response():
    assert sampling.best_of_n([1.0], [3.0], 5) == 1
    assert sampling.rejection_sampling([1.0], [3.0], 0.1, 5) == 1
    assert sampling.win_rate([1.0], [1.0], [3.0]) == 0.5
    assert sampling.acceptance_rate([1.0], [3.0], 0.1) == 1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: sampling.best_of_n([0.5, 0.25], [0, 0], 2), "the sum of ref is 0.75; expected 1"),
        (lambda: sampling.best_of_n([0.5, 0.5], [0, np.inf], 2), "reward is inf at [1]; expected finite numbers"),
        (lambda: sampling.best_of_n([0.5, 0.5], [0, 1], 1.5), "n is 1.5; expected one whole number, at least 1"),
        (lambda: sampling.best_of_n([0.5, 0.5], [0, 1], [1]), "n is [1]; expected one whole number, at least 1"),
        (lambda: sampling.best_of_n_bounds(0), "n is 0; expected one whole number, at least 1"),
        (lambda: sampling.best_of_n_bounds(np.inf), "n is inf; expected one whole number, at least 1"),
        (
            lambda: sampling.win_rate([0.5, 0.5], [1.0], [0.0]), "the shapes of pi (2,) and ref (1,) and reward (1,) "
            "do not fit; expected (..., K) with one K, responses last",
        ),
        (lambda: sampling.win_rate([2.0], [1.0], [0.0]), "the sum of pi is 2.0; expected 1"),
        (
            lambda: sampling.acceptance_rate([0.5, 0.5], [0, 1], 0),
            "beta is 0; expected one finite number above 0",
        ),
        (
            lambda: sampling.rejection_sampling([0.5, 0.5], [0, 1], 1.0, 0),
            "n is 0; expected one whole number, at least 1",
        ),
        (lambda: sampling.success_rate(1.5, 1.0), "p0 is 1.5; expected probabilities, from 0 to 1"),
        (lambda: sampling.grpo_step([0.5, -1], 0.5, 1.0), "p is -1.0 at [1]; expected probabilities, from 0 to 1"),
        (lambda: sampling.grpo_step(0.5, 0.5, 1.0, eps=0.0), "eps is 0.0; expected one finite number above 0"),
        (
            lambda: sampling.grpo_step([0.5, 0.5], [0.5] * 3, 1.0),
            "the leading shapes of p (2,) and p0 (3,) do not fit; expected them to broadcast",
        ),
        (lambda: sampling.grpo_limit(np.nan, 0.5, 1.0), "start is nan; expected probabilities, from 0 to 1"),
        (lambda: sampling.no_signal(0.5, -1), "group is -1; expected one whole number, at least 1"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
        call()
    assert str(raised.value) == sentence
