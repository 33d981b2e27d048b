"""analytic.temperature: definitions in mpmath, their derivatives, a constrained maximizer, and references that move."""

import numpy as np
import pytest
from mpmath import mp
from numpy.testing import assert_allclose
from scipy.optimize import minimize

from analytic import optimum, temperature

EPS = np.finfo(float).eps
REF, REWARD = np.array([0.4, 0.3, 0.2, 0.1]), np.array([1.0, -0.5, 0.3, 2.0])


def softmax(x):
    p = np.exp(x - x.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def exact(ref, reward, inverse):
    """E r, Var r, KL and log Z at 1/β, in the precision of the context; inverse may be an mpmath number."""
    ref, reward = ([mp.mpf(float(x)) for x in array] for array in (ref, reward))
    ref = [q / sum(ref) for q in ref]
    weights = [q * mp.exp(inverse * r) for q, r in zip(ref, reward, strict=True)]
    p = [w / sum(weights) for w in weights]
    mean = sum(x * r for x, r in zip(p, reward, strict=True))
    variance = sum(x * (r - mean) ** 2 for x, r in zip(p, reward, strict=True))
    kl = sum(x * mp.log(x / q) for x, q in zip(p, ref, strict=True) if x)
    return mean, variance, kl, mp.log(sum(weights))


# Moments


def test_moments_in_a_hundred_digits_from_nearly_the_reference_to_nearly_one_response(rng):
    """Down to 1e-60. What is left is the rounding of exponents, r/β and log π_ref, as large as they are."""
    smallest = 1.0
    for _ in range(100):
        k = rng.integers(2, 6)
        ref = softmax(rng.normal(size=k) * rng.choice([0.5, 5, 30]))
        reward = rng.normal(size=k) * 10 ** rng.uniform(-3, 3)
        beta = np.ptp(reward) * 10 ** rng.uniform(-2, 9)
        with mp.workdps(150):
            mean, variance, kl, _ = (float(x) for x in exact(ref, reward, 1 / mp.mpf(beta)))
        rounding = 8 * EPS * (1 + np.ptp(reward) / beta + abs(np.log(ref)).max())
        found = temperature.moments(ref, reward, beta)
        assert_allclose(found.reward, mean, rtol=0, atol=rounding * abs(reward).max())
        assert_allclose(found.variance, variance, rtol=rounding)
        assert_allclose(found.kl, kl, rtol=rounding)
        smallest = min(smallest, kl, variance)
    assert smallest < 1e-30


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_variance_is_how_reward_and_divergence_move_and_divergence_how_the_value_does(beta):
    """dE r/d(1/β) = Var r, dKL/d(1/β) = Var r/β, dJ*/dβ = -KL; central differences in 60 digits."""
    with mp.workdps(60):
        t, h = 1 / mp.mpf(beta), mp.mpf("1e-15")
        up, down = exact(REF, REWARD, t + h), exact(REF, REWARD, t - h)
        d_reward, _, d_kl, _ = (float((a - b) / (2 * h)) for a, b in zip(up, down, strict=True))
        b = mp.mpf(beta)
        higher, lower = (x * exact(REF, REWARD, 1 / x)[3] for x in (b + h, b - h))
        d_value = float((higher - lower) / (2 * h))
    found = temperature.moments(REF, REWARD, beta)
    assert_allclose([d_reward, d_kl, d_value], [found.variance, found.variance / beta, -found.kl], rtol=1e-13)


def test_moments_at_the_limits():
    """β -> 0: the best response; β -> inf: the reference, KL -> Var_ref r/(2 β²), the next term a factor 1/β."""
    reward, variance, kl = temperature.moments(REF, REWARD, [5e-324, 1e-300, 1e-3])
    assert reward.tolist() == [2, 2, 2] and variance.tolist() == [0, 0, 0]
    assert_allclose(kl, -np.log(0.1), rtol=4 * EPS)
    spread = REF @ REWARD**2 - (REF @ REWARD) ** 2
    far = temperature.moments(REF, REWARD, np.array([1e5, 1e100]))
    assert_allclose(far.kl * np.array([2e10, 2e200]), spread, rtol=1e-4)
    assert_allclose(far.kl[1] * 2e200, spread, rtol=16 * EPS)
    assert_allclose(far.variance[1], spread, rtol=16 * EPS)


# The frontier


def test_the_frontier_inverts_the_moments(rng):
    """E r and its slope at the KL of a β are those of that β; the slope is as sure as KL knows β."""
    beta = 10 ** rng.uniform(-0.8, 6, size=(40, 1))
    reward = rng.normal(size=(40, 5))
    ref = softmax(2 * rng.normal(size=(40, 5)))
    there = temperature.moments(ref, reward, beta[:, 0])
    best, slope = temperature.frontier(ref, reward, there.kl)
    assert there.kl.min() < 1e-10 and there.kl.max() > 0.5
    assert_allclose(best, there.reward, rtol=0, atol=64 * EPS * abs(reward).max())
    known = there.kl * beta[:, 0] ** 2 / there.variance  # d log β/d log KL
    assert (abs(slope / beta[:, 0] - 1) <= 256 * EPS * (1 + known)).all()


@pytest.mark.parametrize(
    ("ref", "reward", "beta"),
    [((0.3, 0.3, 0.4), (1.0, 0.999, -5.0), 1e-4), ((1e-200, 1.0, 0.0), (1.0, 0.0, 0.0), 1 / 480)],
)
def test_the_frontier_inverts_the_moments_up_to_the_last_nat(ref, reward, beta):
    """Where a second is nearly as good, and where the reference hardly knows the best: 1/β is far out."""
    there = temperature.moments(ref, reward, beta)
    best, slope = temperature.frontier(ref, reward, there.kl)
    assert_allclose(best, there.reward, rtol=1e-12)
    assert_allclose(slope, beta, rtol=1e-9)


# SciPy before 1.14 oversteps bounds by rounding, says so and steps back
@pytest.mark.filterwarnings("ignore:Values in x were outside bounds:RuntimeWarning")
@pytest.mark.parametrize("kl", [0.01, 0.3, 1.5])
def test_a_constrained_maximizer_finds_no_more_and_no_less(kl):
    """SLSQP on probabilities knows the constraint and nothing of Boltzmann."""
    found = minimize(
        lambda p: -p @ REWARD, REF, method="SLSQP", bounds=[(1e-12, 1)] * 4, options={"ftol": 1e-14, "maxiter": 300},
        constraints=[{"type": "eq", "fun": lambda p: p.sum() - 1},
                     {"type": "ineq", "fun": lambda p: kl - p @ np.log(p / REF)}],
    )
    assert_allclose(temperature.frontier(REF, REWARD, kl).reward, -found.fun, rtol=0, atol=1e-6)


def test_no_policy_is_above_the_frontier(rng):
    """3000 policies: anywhere, near the reference, near one response, without some, and optimal for another reward."""
    ref, reward = softmax(rng.normal(size=5)), rng.normal(size=5)
    size = 10 ** rng.uniform(-4, 2, size=(2000, 1))
    pi = softmax(np.log(ref) + size * rng.normal(size=(2000, 5)))
    pi = np.vstack([pi, rng.dirichlet(np.full(5, 0.2), size=495), np.eye(5), optimum.boltzmann(
        ref, reward + 0.1 * rng.normal(size=(500, 5)), 0.5)])
    gap = temperature.frontier(ref, reward, optimum.kl(pi, ref)).reward - pi @ reward
    assert len(pi) == 3000 and gap.min() >= -1e-9
    best = optimum.boltzmann(ref, reward, 0.5)
    assert_allclose(temperature.frontier(ref, reward, optimum.kl(best, ref)).reward, best @ reward, rtol=0, atol=1e-14)


def test_the_frontier_is_flat_from_the_divergence_of_the_best_response_on():
    ceiling = -np.log(0.1)
    best, slope = temperature.frontier(REF, REWARD, [0, ceiling * (1 - 1e-9), ceiling * (1 + EPS), 50])
    assert best[0] == pytest.approx(REF @ REWARD, rel=4 * EPS) and slope[0] == np.inf
    assert 0 < 2 - best[1] < 1e-8 and slope[1] > 0.01
    assert best[2:].tolist() == [2, 2] and slope[2:].tolist() == [0, 0]
    several = temperature.frontier([0.2, 0.3, 0.5], [2, 2, 1], [-np.log(0.5) * 0.99, -np.log(0.5)])
    assert several.reward[0] < 2 == several.reward[1] and several.beta[1] == 0 < several.beta[0]
    for ref, reward in (([0.3, 0.7], [2, 2]), ([1, 0], [2, 5]), ([1], [2])):
        assert np.array(temperature.frontier(ref, reward, [0, 1])).tolist() == [[2, 2], [0, 0]]


def test_of_a_normal_reward_the_frontier_is_a_square_root_and_of_another_it_is_not():
    """The reference: Gauss-Hermite nodes, on which sums of e^{tx}, t <= 3, are those of the normal to 1e-12."""
    x, weight = np.polynomial.hermite_e.hermegauss(60)
    s, kl = 0.7, np.array([1e-6, 0.1, 0.5, 2.0, 4.0])
    best, slope = temperature.frontier(weight / weight.sum(), 1 + s * x, kl)
    assert_allclose(best, 1 + s * np.sqrt(2 * kl), rtol=1e-11)
    assert_allclose(slope, s / np.sqrt(2 * kl), rtol=1e-9)
    uniform = np.linspace(-np.sqrt(3), np.sqrt(3), 60)
    short = s * np.sqrt(2 * kl) - temperature.frontier(np.full(60, 1 / 60), s * uniform, kl).reward
    assert abs(short[0]) < 1e-4 and short[3] > 0.25


def test_another_beta_costs_the_value_it_misses(rng):
    """J* - J, by `optimum`'s value of the other's policy."""
    ref, reward, b = softmax(rng.normal(size=(3, 1, 5))), 3 * rng.normal(size=5), 10 ** rng.uniform(-1, 2, size=7)
    pi = np.stack([optimum.boltzmann(ref[:, 0], reward, x) for x in b], axis=1)
    missed = optimum.optimal_value(ref, reward, 0.4) - optimum.value(pi, ref, reward, 0.4)
    assert missed.max() > 0.1
    assert_allclose(temperature.cost(ref, reward, 0.4, b), missed, rtol=0, atol=1e-14)


def test_the_cost_where_policies_underflow_and_where_they_nearly_agree():
    """π* of β = 1e-3 leaves e^-4000 to the second; b = β (1 + δ) costs Var δ²/(2 β), up to a factor 1 + O(δ)."""
    missed = [5 + 1e-3 * np.log(0.1) - optimum.value(optimum.boltzmann([0.7, 0.2, 0.1], [0, 1, 5], b), [0.7, 0.2, 0.1],
                                                     [0, 1, 5], 1e-3) for b in (1.0, 1e6)]
    assert_allclose(temperature.cost([0.7, 0.2, 0.1], [0, 1, 5], 1e-3, [1.0, 1e6]), missed, rtol=1e-12)
    p, delta = optimum.boltzmann(REF, REWARD, 0.5), 2.0**-30
    variance = p @ REWARD**2 - (p @ REWARD) ** 2
    near = temperature.cost(REF, REWARD, 0.5, 0.5 * (1 + delta))
    assert_allclose(near, variance * delta**2 / (2 * 0.5), rtol=1e-8)
    assert temperature.cost(REF, REWARD, 0.5, 0.5) == 0


# Sums of log-ratios


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0, 4.0])
def test_realigned_is_optimal_for_beta_over_lambda(lam, rng):
    ref, reward = softmax(rng.normal(size=(3, 4))), rng.normal(size=4)
    target = ref if lam == 0 else optimum.boltzmann(ref, reward, 0.8 / lam)
    assert_allclose(temperature.realigned(ref, optimum.boltzmann(ref, reward, 0.8), lam), target, rtol=1e-13)


def test_a_response_without_mass_keeps_none_and_one_that_lost_it_gets_none_back():
    assert temperature.realigned([0.5, 0.5, 0], [0.8, 0.2, 0], 2).tolist()[2] == 0
    assert temperature.realigned([0.25, 0.25, 0.5], [0.5, 0.5, 0], 0.5).tolist() == [0.5, 0.5, 0]
    assert temperature.realigned([0.25, 0.25, 0.5], [0.5, 0.5, 0], 0).tolist() == [0.25, 0.25, 0.5]


def test_mixtures_of_optimal_policies_are_optimal_for_the_sum_of_rewards(rng):
    """Weights of several β are λβ/Σλβ, at β = Σλβ; with the reference, at any β; weights λ belong to another reward."""
    ref, rewards = softmax(rng.normal(size=5)), 2 * rng.normal(size=(3, 5))
    lam, betas = np.array([0.5, 0.3, 0.2]), np.array([0.2, 1.0, 3.0])
    policies = np.array([optimum.boltzmann(ref, r, b) for r, b in zip(rewards, betas, strict=True)])
    weight, beta = temperature.mixture_weights(lam, betas)
    assert weight.sum() == pytest.approx(1) and beta == pytest.approx(0.1 + 0.3 + 0.6)
    best = optimum.boltzmann(ref, lam @ rewards, beta)
    assert_allclose(temperature.geometric_mixture(ref, policies, weight), best, rtol=1e-12)
    assert_allclose(softmax(weight @ np.log(policies)), best, rtol=1e-12)  # weights of sum 1 need no reference
    elsewhere = temperature.geometric_mixture(ref, policies, lam * betas / 0.7)
    assert_allclose(elsewhere, optimum.boltzmann(ref, lam @ rewards, 0.7), rtol=1e-12)
    assert abs(temperature.geometric_mixture(ref, policies, lam) - best).max() > 0.1
    common = np.array([optimum.boltzmann(ref, r, 0.7) for r in rewards])
    weight, beta = temperature.mixture_weights(lam, np.full(3, 0.7))
    assert_allclose([*weight, beta], [*lam, 0.7], rtol=4 * EPS)
    both = optimum.boltzmann(ref, lam @ rewards, 0.7)
    assert_allclose(temperature.geometric_mixture(ref, common, lam), both, rtol=1e-12)
    assert abs(lam @ common - both).max() > 0.1  # an average of policies is not


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_rounds_against_a_reference_that_follows_divide_beta(alpha, rng):
    """Each round solved by `boltzmann`, its reference moved in log-probs; one moved in probabilities ends elsewhere."""
    start, reward, beta = softmax(rng.normal(size=5)), rng.normal(size=5), 0.6
    ref = mixed = start
    for k in range(1, 6):
        pi, other = optimum.boltzmann(ref, reward, beta), optimum.boltzmann(mixed, reward, beta)
        effective = float(temperature.trust_region_beta(beta, k, alpha))
        assert_allclose(pi, optimum.boltzmann(start, reward, effective), rtol=1e-12)
        ref, mixed = softmax((1 - alpha) * np.log(ref) + alpha * np.log(pi)), (1 - alpha) * mixed + alpha * other
    assert effective == pytest.approx(0.6 / (1 + 4 * alpha))
    apart = abs(other - pi).max()
    assert apart > 5e-3 if alpha == 0.3 else apart < 1e-12


def test_another_reference_is_in_the_policy_as_it_is(rng):
    ref, other, reward = softmax(rng.normal(size=(4, 1, 5))), softmax(rng.normal(size=5)), rng.normal(size=(2, 5))
    pi, moved = optimum.boltzmann(ref, reward, 0.3), optimum.boltzmann(other, reward, 0.3)
    assert_allclose(temperature.rereferenced(pi, ref, other), np.broadcast_to(moved, (4, 2, 5)), rtol=1e-12)
    ratio = np.log(moved) - np.log(pi) - (np.log(other) - np.log(ref))
    assert_allclose(ratio, ratio[..., :1] + 0 * ratio, rtol=0, atol=1e-13)  # a constant a prompt
    assert temperature.rereferenced([0.6, 0.4, 0], [0.5, 0.25, 0.25], [0, 0.5, 0.5]).tolist() == [0, 1, 0]


def test_leading_axes_are_problems_of_their_own(rng):
    ref, reward = softmax(rng.normal(size=(2, 1, 4))), rng.normal(size=(3, 4))
    beta, kl = rng.uniform(0.1, 2, size=3), rng.uniform(0, 1, size=(2, 1))
    several = temperature.moments(ref, reward, beta)
    up = temperature.frontier(ref, reward, kl)
    cost = temperature.cost(ref, reward, 0.5, beta)
    mixture = temperature.geometric_mixture(ref, [optimum.boltzmann(ref, reward, 1.0)] * 2, [0.5, 1.5])
    assert several.kl.shape == up.beta.shape == cost.shape == (2, 3) and mixture.shape == (2, 3, 4)
    for i, j in np.ndindex(2, 3):
        one = ref[i, 0], reward[j]
        assert_allclose([x[i, j] for x in several], temperature.moments(*one, beta[j]), rtol=1e-13)
        assert_allclose([x[i, j] for x in up], temperature.frontier(*one, kl[i, 0]), rtol=1e-12)
        assert_allclose(cost[i, j], temperature.cost(*one, 0.5, beta[j]), rtol=1e-13)
        assert_allclose(mixture[i, j], optimum.boltzmann(*one, 0.5), rtol=1e-13)


HALF = [0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: temperature.moments(HALF, [0, 1], [1, 0]), "beta is 0.0 at [1]; expected finite numbers above 0"),
        (lambda: temperature.moments(HALF, [0, np.inf], 1), "reward is inf at [1]; expected finite numbers"),
        (lambda: temperature.moments([HALF] * 2, [0, 1], [1, 2, 3]),
         "the leading shapes of reward (2,) and beta (3,) do not fit; expected them to broadcast"),
        (lambda: temperature.frontier(HALF, [0, 1], -0.1), "kl is -0.1; expected finite numbers, at least 0"),
        (lambda: temperature.frontier(HALF, [0, 1], [0, np.inf]),
         "kl is inf at [1]; expected finite numbers, at least 0"),
        (lambda: temperature.frontier(HALF, [0, 1, 2], 1),
         "the shapes of ref (2,) and reward (3,) do not fit; expected (..., K) with one K, responses last"),
        (lambda: temperature.frontier([HALF] * 2, [0, 1], [1, 2, 3]),
         "the leading shapes of reward (2,) and kl (3,) do not fit; expected them to broadcast"),
        (lambda: temperature.cost([HALF] * 2, [0, 1], 1, [1, 2, 3]),
         "the leading shapes of reward (2,) and trained_beta (3,) do not fit; expected them to broadcast"),
        (lambda: temperature.cost(HALF, [0, 1], 0, 1), "beta is 0; expected one finite number above 0"),
        (lambda: temperature.cost(HALF, [0, 1], 1, -1), "trained_beta is -1.0; expected finite numbers above 0"),
        (lambda: temperature.geometric_mixture(HALF, HALF, [1]),
         "the shapes of weight (1,) and policies (2,) do not fit; expected (N,) and (N, ..., K)"),
        (lambda: temperature.geometric_mixture(HALF, [HALF, HALF], [1]),
         "the shapes of weight (1,) and policies (2, 2) do not fit; expected (N,) and (N, ..., K)"),
        (lambda: temperature.geometric_mixture([1], [HALF], [1]),
         "the shapes of ref (1,) and policies (2,) do not fit; expected (..., K) with one K, responses last"),
        (lambda: temperature.geometric_mixture([1, 0], [HALF], [1]),
         "policies is 0.5 at [0, 1]; expected 0 wherever ref is"),
        (lambda: temperature.geometric_mixture(HALF, [[1, 0]], [-1]),
         "policies is 0.0 at [0, 1]; expected above 0 where its weight is below"),
        (lambda: temperature.geometric_mixture(HALF, np.eye(2), [1, 1]),
         "policies leave no response any mass; expected one that all have in common"),
        (lambda: temperature.realigned(HALF, HALF, -1), "lam is -1; expected a finite number, at least 0"),
        (lambda: temperature.mixture_weights([0, 0], [1, 1]), "lam is [0.0, 0.0]; expected a weight above 0"),
        (lambda: temperature.mixture_weights([1], [1, 1]),
         "the shapes of lam (1,) and beta (2,) do not fit; expected (N,) and (N,)"),
        (lambda: temperature.trust_region_beta(1, [1, 1.5]),
         "rounds is 1.5 at [1]; expected whole numbers, at least 1"),
        (lambda: temperature.trust_region_beta(1, 0), "rounds is 0.0; expected whole numbers, at least 1"),
        (lambda: temperature.trust_region_beta(1, np.inf), "rounds is inf; expected whole numbers, at least 1"),
        (lambda: temperature.trust_region_beta(1, 2, 1.1), "alpha is 1.1; expected a number from 0 to 1"),
        (lambda: temperature.rereferenced([1, 0], [1, 0], HALF), "other is 0.5 at [1]; expected 0 wherever ref is"),
        (lambda: temperature.rereferenced([1], HALF, HALF),
         "the shapes of pi (1,) and ref (2,) and other (2,) do not fit;"
         " expected (..., K) with one K, responses last"),
        (lambda: temperature.rereferenced([1, 0], HALF, [0, 1]),
         "pi and other leave no response any mass; expected one that all have in common"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
        call()
    assert str(raised.value) == sentence
