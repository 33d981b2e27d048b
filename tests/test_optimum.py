"""analytic.optimum: definitions summed in mpmath, identities, and a maximizer that knows nothing of Boltzmann."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mpmath import mp
from numpy.testing import assert_allclose
from scipy.optimize import minimize

from analytic import optimum, population

EPS = np.finfo(float).eps
numbers = arrays(float, 5, elements=st.floats(-8, 8))
betas = st.floats(0.05, 20)


def softmax(x):
    p = np.exp(x - x.max())
    return p / p.sum()


def exactly(x):
    """The binary numbers as they are, for mpmath."""
    return [mp.mpf(float(number)) for number in np.atleast_1d(x)]


def exact(ref, reward, beta):
    """π* and log Z as section 4 of the paper writes them, in 50 digits."""
    with mp.workdps(50):
        weights = [p * mp.exp(r / exactly(beta)[0]) for p, r in zip(exactly(ref), exactly(reward), strict=True)]
        return np.array([float(w / sum(weights)) for w in weights]), float(mp.log(sum(weights)))


def divergence(p, q):
    """Σ p log(p/q), naively, of the two as normalized in 50 digits."""
    with mp.workdps(50):
        p, q = exactly(p), exactly(q)
        return float(sum(x / sum(p) * mp.log((x / sum(p)) / (y / sum(q))) for x, y in zip(p, q, strict=True) if x))


# Values


@pytest.mark.parametrize(
    ("beta", "policy", "log_z"),
    [
        ("0.5", (0.86681333, 0.11731043, 0.01587624), 1.0443193398),
        ("1", (0.66524096, 0.24472847, 0.09003057), 0.3089936758),
        ("2", (0.50648039, 0.30719589, 0.18632372), 0.0816573820),
    ],
)
def test_three_responses_of_reward_1_0_minus_1(beta, policy, log_z):
    """The printed digits follow from the definition at 50 digits, and the code from both."""
    with mp.workdps(50):
        weights = [mp.exp(r / mp.mpf(beta)) / 3 for r in (1, 0, -1)]
        exact_policy, exact_log_z = [float(w / sum(weights)) for w in weights], float(mp.log(sum(weights)))
    assert_allclose(policy, exact_policy, rtol=0, atol=5e-9)
    assert_allclose(log_z, exact_log_z, rtol=0, atol=5e-11)
    given = np.full(3, 1 / 3), [1.0, 0.0, -1.0], float(beta)
    assert_allclose(optimum.boltzmann(*given), exact_policy, rtol=8 * EPS)
    assert_allclose(optimum.log_boltzmann(*given), np.log(exact_policy), rtol=8 * EPS)
    assert_allclose(optimum.log_partition(*given), exact_log_z, rtol=0, atol=4 * EPS)
    assert_allclose(optimum.optimal_value(*given), float(beta) * exact_log_z, rtol=0, atol=8 * EPS)


@given(numbers, numbers, betas)
def test_the_definitions_in_fifty_digits(a, reward, beta):
    ref = softmax(a)
    policy, log_z = exact(ref, reward, beta)
    rounding = 4 * EPS * (abs(np.log(ref)).max() + 2 * abs(reward).max() / beta + 1)  # ulps of their terms
    assert_allclose(optimum.boltzmann(ref, reward, beta), policy, rtol=rounding, atol=1e-300)
    assert_allclose(optimum.log_partition(ref, reward, beta), log_z, rtol=0, atol=rounding)
    assert_allclose(optimum.optimal_value(ref, reward, beta), beta * log_z, rtol=0, atol=beta * rounding)


@given(numbers, numbers)
def test_kl_in_fifty_digits(a, b):
    p, q = softmax(a), softmax(b)
    assert_allclose(optimum.kl(p, q), divergence(p, q), rtol=0, atol=16 * EPS * (1 + abs(np.log(q)).max()))


@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-9])
def test_kl_keeps_digits_where_the_two_are_close(distance):
    """Terms rounded to ε·distance add up to distance²: ε/distance is left, where Σ p log(p/q) leaves ε/distance²."""
    p = np.array([0.25, 0.5, 0.25])
    q = p + distance * np.array([1.0, -1.0, 0.0])
    q[2] = 1 - q[0] - q[1]
    assert_allclose(optimum.kl(p, q), divergence(p, q), rtol=100 * EPS / distance)
    assert optimum.kl(p, p) == 0


def test_kl_at_the_border():
    assert optimum.kl([0.5, 0.5, 0.0], [1.0, 0.0, 0.0]) == np.inf
    assert_allclose(optimum.kl([1.0, 0.0], [0.25, 0.75]), np.log(4), rtol=4 * EPS)
    assert_allclose(optimum.kl([1.0, 0.0, 0.0], [0.25, 0.75, 0.0]), np.log(4), rtol=4 * EPS)
    tiny = 5e-324
    assert_allclose(optimum.kl([tiny, 1.0], [0.5, 0.5]), np.log(2), rtol=4 * EPS)
    assert_allclose(optimum.kl([1.0, 0.0], [tiny, 1.0]), -np.log(tiny), rtol=4 * EPS)


@given(numbers, numbers, numbers, betas)
def test_the_value_written_out(a, b, reward, beta):
    pi, ref = softmax(a), softmax(b)
    written = float(np.sum(pi * reward)) - beta * divergence(pi, ref)
    assert_allclose(optimum.value(pi, ref, reward, beta), written, rtol=0, atol=32 * EPS * (8 + beta * 17))


# The optimum


@pytest.mark.parametrize("beta", [0.1, 0.4, 3.0])
def test_a_numerical_maximizer_of_the_objective_finds_it(beta):
    """J is written out here and left to BFGS; a slope of 1e-7 over a curvature of 1e-3 is 1e-11 in J."""
    ref, reward = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.2, 0.5, -0.7, 0.6])

    def negative(x):
        p = softmax(x)
        return -(p @ reward - beta * p @ np.log(p / ref)) / beta

    found = minimize(negative, np.zeros(4), method="BFGS", options={"gtol": 1e-7})
    assert_allclose(optimum.boltzmann(ref, reward, beta), softmax(found.x), rtol=0, atol=1e-6)
    assert_allclose(optimum.optimal_value(ref, reward, beta), -beta * found.fun, rtol=1e-10)


@given(numbers, numbers, numbers, betas)
def test_every_policy_falls_short_by_beta_times_its_divergence(a, b, reward, beta):
    """J(π) = J* - β KL(π || π*), for any π; KL written out."""
    ref, pi = softmax(a), softmax(b)
    log_star = optimum.log_boltzmann(ref, reward, beta)
    short = beta * (pi @ (np.log(pi) - log_star))
    terms = 8 + beta * (17 + abs(log_star).max())
    J, best = optimum.value(pi, ref, reward, beta), optimum.optimal_value(ref, reward, beta)
    assert_allclose(J, best - short, rtol=0, atol=32 * EPS * terms)
    assert J <= best + 32 * EPS * terms
    star = optimum.boltzmann(ref, reward, beta)
    assert_allclose(optimum.value(star, ref, reward, beta), best, rtol=0, atol=32 * EPS * terms)


@given(numbers, numbers, betas, st.integers(-40, 40))
def test_a_constant_a_prompt_moves_log_z_and_nothing_else(a, reward, beta, c):
    ref, reward = softmax(a), np.round(reward * 64) / 64  # so that adding c rounds nothing
    assert (optimum.boltzmann(ref, reward + c, beta) == optimum.boltzmann(ref, reward, beta)).all()
    moved = optimum.log_partition(ref, reward + c, beta) - optimum.log_partition(ref, reward, beta)
    assert_allclose(moved, c / beta, rtol=0, atol=8 * EPS * (50 / beta + 20))


@given(numbers, numbers, betas)
def test_the_reward_is_in_the_log_ratio(a, reward, beta):
    ref = softmax(a)
    log_z = optimum.log_partition(ref, reward, beta)
    star = exact(ref, reward, beta)[0]
    if star.min() > 1e-300:
        terms = abs(reward).max() + beta * (abs(np.log(ref)).max() + 1)
        assert_allclose(optimum.implied_reward(star, ref, beta, log_z), reward, rtol=0, atol=32 * EPS * terms)
        assert_allclose(optimum.implied_reward(star, ref, beta), reward - beta * log_z, rtol=0, atol=32 * EPS * terms)


def test_no_finite_reward_where_one_of_the_two_has_no_mass():
    reward = optimum.implied_reward([0.0, 0.5, 0.5, 0.0], [0.5, 0.0, 0.5, 0.0], beta=2.0, log_z=3.0)
    assert_allclose(reward, [-np.inf, np.inf, 6, np.nan])


# The frontier


REF, REWARD = np.array([0.4, 0.3, 0.2, 0.1]), np.array([1.0, -0.5, 0.3, 2.0])


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_the_frontier_has_slope_beta(beta):
    """dE r/d(1/β) = Var r, dKL/d(1/β) = Var r/β, so dE r/dKL = β, and dJ*/dβ = -KL; central differences."""
    h = 1e-5  # h² from the method, 1e-16/h from rounding

    def at(inverse):
        p = optimum.boltzmann(REF, REWARD, 1 / inverse)
        return np.array([p @ REWARD, optimum.kl(p, REF), optimum.optimal_value(REF, REWARD, 1 / inverse)])

    d_reward, d_kl, d_best = (at(1 / beta + h) - at(1 / beta - h)) / (2 * h)
    p = optimum.boltzmann(REF, REWARD, beta)
    variance = p @ REWARD**2 - (p @ REWARD) ** 2
    assert_allclose(d_reward, variance, rtol=1e-8)
    assert_allclose(d_kl, variance / beta, rtol=1e-8)
    assert_allclose(d_reward / d_kl, beta, rtol=1e-8)
    assert_allclose(d_best, beta**2 * optimum.kl(p, REF), rtol=1e-8)  # dβ = -β² d(1/β)


@given(numbers, numbers, betas)
def test_no_policy_is_above_the_tangents_of_the_frontier(a, reward, beta):
    """E_π r <= β KL(π || π_ref) + J*(β) for every β: the frontier is the envelope of these lines."""
    pi = softmax(a[:4])
    assert pi @ REWARD <= beta * optimum.kl(pi, REF) + optimum.optimal_value(REF, REWARD, beta) + 32 * EPS * (
        2 + 20 * beta
    )


def test_small_beta_is_the_best_response():
    ref, reward = np.array([0.7, 0.2, 0.1]), np.array([0.0, 1.0, 5.0])
    for beta in (1e-3, 1e-6, 1e-300, 5e-324):
        assert optimum.boltzmann(ref, reward, beta).tolist() == [0, 0, 1]
        assert_allclose(optimum.kl(optimum.boltzmann(ref, reward, beta), ref), -np.log(0.1), rtol=4 * EPS)
        assert_allclose(optimum.optimal_value(ref, reward, beta), 5 + beta * np.log(0.1), rtol=4 * EPS)
    assert_allclose(optimum.boltzmann(ref, [1e10, 0.0, 1e10], 1e-305), [0.875, 0, 0.125], rtol=8 * EPS)
    assert optimum.log_partition(ref, reward, 5e-324) == np.inf


def test_large_beta_is_the_reference():
    """KL → Var_ref r/(2 β²), the next term a factor 1/β."""
    variance = REF @ REWARD**2 - (REF @ REWARD) ** 2
    for beta in (1e3, 1e5):
        p = optimum.boltzmann(REF, REWARD, beta)
        assert_allclose(p, REF, rtol=4 / beta)
        assert_allclose(optimum.kl(p, REF), variance / (2 * beta**2), rtol=4 / beta)
        assert_allclose(optimum.optimal_value(REF, REWARD, beta), REF @ REWARD, rtol=4 / beta)


def test_no_mass_in_the_reference_is_no_mass_in_the_optimum():
    ref, reward = [0.5, 0.5, 0.0], [0.0, 1.0, 1e300]
    assert optimum.boltzmann(ref, reward, 1e-10)[2] == 0
    assert optimum.log_boltzmann(ref, reward, 1e-10)[2] == -np.inf
    for f in (optimum.log_partition, optimum.optimal_value):
        assert f(ref, reward, 0.1) == f(ref[:2], reward[:2], 0.1)
    assert optimum.value([0.5, 0.25, 0.25], ref, [0.0, 0.0, 0.0], 0.1) == -np.inf


def test_log_boltzmann_goes_where_probabilities_underflow():
    assert_allclose(optimum.log_boltzmann([0.5, 0.5], [0.0, 1.0], 1e-4), [-1e4, 0], rtol=EPS, atol=1e-300)


def test_leading_axes_are_problems_of_their_own(rng):
    ref, reward = rng.dirichlet(np.ones(4), size=(2, 1)), rng.normal(size=(3, 4))
    star, log_star = optimum.boltzmann(ref, reward, 0.7), optimum.log_boltzmann(ref, reward, 0.7)
    log_z, best = optimum.log_partition(ref, reward, 0.7), optimum.optimal_value(ref, reward, 0.7)
    values, gaps = optimum.value(ref, star, reward, 0.7), optimum.kl(ref, star)
    back = optimum.implied_reward(star, ref, 0.7, log_z)
    assert star.shape == log_star.shape == back.shape == (2, 3, 4)
    assert log_z.shape == best.shape == values.shape == gaps.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        one, one_z = exact(ref[i, 0], reward[j], 0.7)
        gap = divergence(ref[i, 0], one)
        assert_allclose(star[i, j], one, rtol=1e-14)
        assert_allclose(log_star[i, j], np.log(one), rtol=1e-14, atol=1e-14)
        assert_allclose([log_z[i, j], best[i, j]], [one_z, 0.7 * one_z], rtol=0, atol=1e-14)
        assert_allclose([gaps[i, j], values[i, j]], [gap, ref[i, 0] @ reward[j] - 0.7 * gap], rtol=0, atol=1e-14)
        assert_allclose(back[i, j], reward[j], rtol=0, atol=1e-14)


# Ascent on the value


def written_value(theta, ref, reward, beta):
    """J(softmax θ), naively, in the precision of the mpmath context; θ are mpmath numbers."""
    weights = [mp.exp(t) for t in theta]
    p = [w / sum(weights) for w in weights]
    terms = (x * (r - beta * mp.log(x / q)) for x, q, r in zip(p, exactly(ref), exactly(reward), strict=True))
    return sum(terms)


def test_the_policy_gradient_against_differences_of_the_value(rng):
    """In 50 digits, h = 1e-12: h² of the method is 1e-24."""
    ref, theta, beta = rng.dirichlet(np.ones(4)), rng.normal(size=4), 0.4
    with mp.workdps(50):
        h, slopes = mp.mpf("1e-12"), []
        for axis in np.eye(4, dtype=int):
            up, down = ([t + sign * h * int(a) for t, a in zip(exactly(theta), axis, strict=True)] for sign in (1, -1))
            difference = written_value(up, ref, REWARD, beta) - written_value(down, ref, REWARD, beta)
            slopes.append(float(difference / (2 * h)))
    assert_allclose(optimum.gradient(softmax(theta), ref, REWARD, beta), slopes, rtol=1e-13, atol=1e-15)


def test_the_policy_gradient_vanishes_at_the_optimum_and_where_there_is_no_mass():
    star = optimum.boltzmann(REF, REWARD, 0.5)
    assert_allclose(optimum.gradient(star, REF, REWARD, 0.5), 0, atol=4 * EPS)
    assert optimum.gradient([0.5, 0.5, 0, 0], [0.5, 0.25, 0.25, 0], [1, 0, 9, 9], 1.0)[2:].tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"pi is 0\.5 at \[1\]; expected 0 wherever ref is"):
        optimum.gradient([0.5, 0.5], [1, 0], [0, 0], 1.0)


def test_the_curvature_against_differences_of_the_policy_gradient():
    """Central, h = 1e-5: h² of the method, 1e-16/h of rounding."""
    log_star, h, bend = optimum.log_boltzmann(REF, REWARD, 0.7), 1e-5, []
    for axis in np.eye(4):
        up, down = (optimum.gradient(softmax(log_star + sign * h * axis), REF, REWARD, 0.7) for sign in (1, -1))
        bend.append((down - up) / (2 * h))
    assert_allclose(optimum.curvature(np.exp(log_star), 0.7), bend, rtol=0, atol=1e-9)


def test_ascent_on_the_value_is_ill_conditioned_at_small_beta_and_descent_on_dpo_is_not():
    """r = (1, 0, -1), uniform reference: diag π* - π* π*ᵀ in 50 digits, about 4/3 e^{1/β} as β falls; the Laplacian of
    DPO's pairs, of weights a = σ'(1) and b = σ'(2), has eigenvalues 3a and a + 2b, times β²."""
    reward, ref, found = [1.0, 0.0, -1.0], np.full(3, 1 / 3), {}
    wins = population.bradley_terry_wins(reward)
    a, b = (1 / (2 + np.exp(x) + np.exp(-x)) for x in (1, 2))
    for beta, printed in ((3.0, 1.5), (1.0, 3.1), (0.3, 36.7), (0.1, 29368.0)):
        with mp.workdps(50):
            p = mp.matrix([mp.exp(r / exactly(beta)[0]) for r in exactly(reward)])
            p /= sum(p)
            spectrum = sorted(mp.eigsy(mp.diag(p) - p * p.T, eigvals_only=True))
            exact = float(spectrum[2] / spectrum[1])
        assert round(exact, 1) == printed
        ascent = population.linear_rate(optimum.curvature(optimum.boltzmann(ref, reward, beta), beta))
        assert_allclose(ascent.fastest / ascent.slowest, exact, rtol=16 * EPS * exact)  # ε of the largest, and no less
        descent = population.linear_rate(population.hessian(np.array(reward) / beta, wins, beta))
        found[beta] = descent.fastest / descent.slowest
    assert_allclose([*found.values()], 3 * a / (a + 2 * b), rtol=1e-12)


def test_ascent_on_the_value_converges_at_the_predicted_rate():
    """From errors of 1e-4 to 1e-8, where the curvature at the optimum decides."""
    log_star, beta = optimum.log_boltzmann(REF, REWARD, 0.6), 0.6
    rate = population.linear_rate(optimum.curvature(np.exp(log_star), beta))
    theta, errors = log_star + 1e-4 * np.array([1, -2, 3, -2]), []
    while not errors or errors[-1] > 1e-8:
        theta = theta + rate.best_step * optimum.gradient(softmax(theta), REF, REWARD, beta)
        errors.append(np.linalg.norm(softmax(theta) - np.exp(log_star)))
    assert (errors[-1] / errors[-21]) ** (1 / 20) == pytest.approx(rate.factor, rel=0.01)


@settings(max_examples=20)
@given(numbers, numbers, numbers, betas)
def test_one_natural_step_of_1_over_beta_is_the_optimum(a, b, reward, beta):
    pi, ref = softmax(a), softmax(b)
    star = optimum.boltzmann(ref, reward, beta)
    rounding = 16 * EPS * (18 + abs(a).max() + abs(reward).max() / beta)
    assert_allclose(optimum.natural_step(pi, ref, reward, beta, 1 / beta), star, rtol=rounding, atol=1e-300)


def test_a_natural_step_is_the_gradient_over_the_fisher_information_and_takes_a_share_of_the_error(rng):
    pi, ref = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4))
    fisher = np.diag(pi) - np.outer(pi, pi)
    moved = softmax(np.log(pi) + 0.8 * np.linalg.pinv(fisher) @ optimum.gradient(pi, ref, REWARD, 0.5))
    after = optimum.natural_step(pi, ref, REWARD, 0.5, 0.8)
    assert_allclose(after, moved, rtol=1e-12)
    star = optimum.boltzmann(ref, REWARD, 0.5)
    left, error = np.log(after / star), np.log(pi / star)
    assert_allclose(left - left.mean(), (1 - 0.4) * (error - error.mean()), rtol=0, atol=1e-14)
    assert optimum.natural_step([0.5, 0.5, 0], [0.25, 0.75, 0], [1e3, 0, 1e9], 1e-3, 1e3).tolist() == [1, 0, 0]
    for pi, ref, came in (([1, 0], [0.5, 0.5], "0.0"), ([0.5, 0.5], [1, 0], "0.5")):
        with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
            optimum.natural_step(pi, ref, [0, 0], 1.0, 1.0)
        assert str(raised.value) == f"pi is {came} at [1]; expected mass where ref has mass, and there alone"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: optimum.gradient([0.5, 0.5], [0.5, 0.5], [1.0], 1.0),
         "the shapes of pi (2,) and reward (1,) do not fit; expected (..., K) with one K, responses last"),
        (lambda: optimum.gradient([0.5, 0.5], [1], [1.0, 0.0], 1.0),
         "the shapes of pi (2,) and ref (1,) do not fit; expected (..., K) with one K, responses last"),
        (lambda: optimum.natural_step([1], [0.5, 0.5], [1.0, 0.0], 1.0, 1.0),
         "the shapes of pi (1,) and reward (2,) do not fit; expected (..., K) with one K, responses last"),
        (lambda: optimum.natural_step([0.5, 0.5], [0.5, 0.5], [1.0, 0.0], 1.0, 0),
         "step is 0; expected one finite number above 0"),
        (lambda: optimum.curvature([0.5, 0.25], 1.0), "the sum of pi is 0.75; expected 1"),
        (lambda: optimum.curvature([0.5, 0.5], 0.0), "beta is 0.0; expected one finite number above 0"),
    ],
)
def test_bad_input_to_ascent_is_one_sentence(call, sentence):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
        call()
    assert str(raised.value) == sentence
