"""analytic.loglinear: sums in mpmath, tables, brute force on a line, and descent that was told the gradient alone."""

import numpy as np
import pytest
from mpmath import mp
from numpy.testing import assert_allclose
from scipy.optimize import linprog, minimize

from analytic import loglinear, optimum, population

EPS = np.finfo(float).eps


def softmax(x):
    p = np.exp(x - x.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


class World:
    """Three prompts of four responses with two features; comparisons that no θ explains."""

    def __init__(self, rng):
        self.features, self.wins = rng.normal(size=(3, 4, 2)), rng.random((3, 4, 4))
        self.theta, self.beta = rng.normal(size=2), rng.uniform(0.3, 2)

    @property
    def given(self):
        return self.features, self.wins, self.beta


def naive(w, theta):
    """L as it is defined, in the precision of the mpmath context."""
    total = mp.mpf(0)
    for x, i, j in np.ndindex(w.wins.shape):
        difference = w.features[x, i] - w.features[x, j]
        margin = sum(mp.mpf(float(d)) * t for d, t in zip(difference, theta, strict=True))
        total += mp.mpf(float(w.wins[x, i, j])) * mp.log(1 + mp.exp(-mp.mpf(w.beta) * margin))
    return total


def test_objective_and_derivatives_against_the_sum_written_out(rng):
    """Differences in 60 digits: h = 1e-15 leaves 1e-30 of the method. Features differ by their own rounding."""
    w = World(rng)
    with mp.workdps(60):
        at, h = [mp.mpf(float(t)) for t in w.theta], mp.mpf("1e-15")

        def f(a, b):
            return naive(w, [at[0] + a * h, at[1] + b * h])

        value = f(0, 0)
        slope = [(f(1, 0) - f(-1, 0)) / (2 * h), (f(0, 1) - f(0, -1)) / (2 * h)]
        cross = (f(1, 1) - f(1, -1) - f(-1, 1) + f(-1, -1)) / (4 * h**2)
        bend = [[(f(1, 0) - 2 * value + f(-1, 0)) / h**2, cross], [cross, (f(0, 1) - 2 * value + f(0, -1)) / h**2]]
    assert_allclose(loglinear.objective(w.theta, *w.given), float(value), rtol=1e-13)
    assert_allclose(loglinear.gradient(w.theta, *w.given), np.array(slope, float), rtol=0, atol=1e-13)
    assert_allclose(loglinear.hessian(w.theta, *w.given), np.array(bend, float), rtol=1e-12)


def test_the_hessian_times_a_direction_without_the_hessian(rng):
    w, v = World(rng), rng.normal(size=2)
    product = loglinear.hessian_product(w.theta, *w.given, v)
    assert_allclose(product, loglinear.hessian(w.theta, *w.given) @ v, rtol=1e-12)


def test_unit_features_are_a_table(rng):
    u, wins, ref, v = rng.normal(size=5), rng.random((5, 5)), softmax(rng.normal(size=5)), rng.normal(size=5)
    given = np.eye(5), wins, 0.7
    assert_allclose(loglinear.policy(u, np.eye(5), ref), population.policy(u, ref), rtol=4 * EPS)
    assert_allclose(loglinear.objective(u, *given), population.objective(u, wins, 0.7), rtol=1e-14)
    assert_allclose(loglinear.gradient(u, *given), population.gradient(u, wins, 0.7), rtol=0, atol=1e-14)
    assert_allclose(loglinear.hessian(u, *given), population.hessian(u, wins, 0.7), rtol=0, atol=1e-14)
    assert_allclose(loglinear.hessian_product(u, *given, v), population.hessian_product(u, wins, 0.7, v), atol=1e-14)
    theta = loglinear.newton(np.eye(5)[:, 1:], wins, 0.7)  # one response held
    assert_allclose(np.append(0, theta) - theta.sum() / 5, population.newton(wins, 0.7), rtol=0, atol=1e-12)


def test_prompts_add_up_and_replicates_do_not(rng):
    w, thetas = World(rng), rng.normal(size=(5, 2, 2))
    for f in (loglinear.objective, loglinear.gradient, loglinear.hessian):
        together = f(thetas, *w.given)
        for at in np.ndindex(5, 2):
            parts = sum(f(thetas[at], w.features[x], w.wins[x], w.beta) for x in range(3))
            assert_allclose(together[at], parts, rtol=1e-11, atol=1e-13)
    ref = softmax(rng.normal(size=(3, 4)))
    pi, product = loglinear.policy(thetas, w.features, ref), loglinear.hessian_product(thetas, *w.given, thetas[0, 0])
    assert pi.shape == (5, 2, 3, 4) and product.shape == (5, 2, 2)
    assert_allclose(pi[3, 1, 2], softmax(np.log(ref[2]) + w.features[2] @ thetas[3, 1]), rtol=1e-13)
    assert loglinear.objective([0, 0], w.features[0], w.wins, 1.0) == pytest.approx(w.wins.sum() * np.log(2))


# The minimizer


def test_newton_finds_what_a_minimizer_of_the_sum_finds(rng):
    w = World(rng)
    found = minimize(lambda t: loglinear.objective(t, *w.given), np.zeros(2), method="Nelder-Mead",
                     options={"xatol": 1e-9, "fatol": 1e-15, "maxiter": 2000}).x
    theta = loglinear.newton(*w.given)
    assert_allclose(theta, found, rtol=0, atol=1e-6)  # the simplex sees values, so √ε times a condition number
    assert abs(loglinear.gradient(theta, *w.given)).max() < 1e-14


@pytest.mark.parametrize("pairs", ["all", "few"])
def test_if_the_features_explain_the_rewards_dpo_finds_the_optimum_whichever_pairs_are_met(pairs, rng):
    features, true = rng.normal(size=(2, 6, 2)), np.array([1.5, -0.7])
    reward, ref = features @ true + rng.normal(size=(2, 1)), softmax(rng.normal(size=(2, 6)))
    W = np.zeros((6, 6))
    W[[0, 1, 3], [1, 0, 2]] = W[2, 3] = 1.0
    theta = loglinear.newton(features, population.bradley_terry_wins(reward, None if pairs == "all" else W), 0.4)
    assert_allclose(theta, true / 0.4, rtol=1e-9)
    assert_allclose(loglinear.policy(theta, features, ref), optimum.boltzmann(ref, reward, 0.4), rtol=0, atol=1e-10)
    best = loglinear.best_in_class(features, ref, reward, 0.4, np.zeros((1, 2)))
    assert_allclose(best.theta, theta, rtol=1e-9)
    assert best.value == pytest.approx(optimum.optimal_value(ref, reward, 0.4).mean(), rel=1e-12)


PHI = np.array([[1.0, 1.0], [0.0, 1.0], [2.0, 1.0]])  # all on a line: the second feature says nothing


@pytest.mark.parametrize(
    ("features", "wins", "sentence"),
    [
        (PHI, np.ones((3, 3)), "features of the responses compared do not differ along theta = [0.0, 1.0]; "
                               "expected differences that span all 2 directions"),
        (PHI, np.zeros((3, 3)), "features of the responses compared do not differ along theta = [0.0, 1.0]; "
                                "expected differences that span all 2 directions"),
        ([[1.0], [0.0], [0.0]], [[0, 1, 1], [0, 0, 1], [0, 1, 0]],
         "wins has no minimizer: L falls without end along theta = [1.0]; "
         "expected comparisons that are lost along every direction"),
        ([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], [[0, 1, 0], [1, 0, 0], [0, 1, 0]],
         "wins has no minimizer: L falls without end along theta = [0.0, 1.0]; "
         "expected comparisons that are lost along every direction"),
    ],
)
def test_no_minimizer_where_a_direction_is_not_seen_or_only_won(features, wins, sentence):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
        loglinear.newton(features, wins, 1.0)
    assert str(raised.value) == sentence


def test_a_minimizer_as_soon_as_every_direction_is_seen_and_lost_along():
    """Twins of the cases above: one more feature that differs, one more comparison; a weight of 1e-3 is enough."""
    bent = PHI.copy()
    bent[2, 1] += 0.1
    assert_allclose(loglinear.newton(bent, np.ones((3, 3)), 1.0), 0, atol=1e-12)
    for features, wins, lost in (([[1.0], [0.0], [0.0]], [[0, 1, 1], [0, 0, 1], [0, 1, 0]], (2, 0)),
                                 ([[1.0, 0], [0, 0], [0, 1]], [[0, 1, 0], [1, 0, 0], [0, 1, 0]], (0, 2))):
        wins = np.array(wins, float)
        wins[lost] = 1e-3
        theta = loglinear.newton(features, wins, 1.0)
        assert abs(loglinear.gradient(theta, features, wins, 1.0)).max() < 1e-15 and theta[-1] > 1


def test_separable_labels_are_told_from_labels_that_are_not(rng):
    """Stiemke: no direction wins some and loses none, just if some positive weights y of the wins have Dᵀ y = 0."""
    kinds = []
    for _ in range(12):
        features, wins = rng.normal(size=(6, 3)), np.zeros((6, 6))
        won, lost = rng.permutation(np.argwhere(np.eye(6) == 0))[:9].T
        wins[won, lost] = 1
        D = features[won] - features[lost]
        balanced = linprog(np.zeros(len(D)), A_eq=D.T, b_eq=np.zeros(3), bounds=(1, None)).status == 0
        kinds.append(balanced)
        if balanced:
            theta = loglinear.newton(features, wins, 1.0)
            assert abs(loglinear.gradient(theta, features, wins, 1.0)).max() < 1e-13
        else:
            with pytest.raises(ValueError, match="no minimizer"):
                loglinear.newton(features, wins, 1.0)
    assert 0 < sum(kinds) < 12


def test_a_direction_that_is_lost_along_by_a_billionth_is_lost_along():
    """Differences (1, 0), (-1, 1e-9), (0, -1): σ(θ₂) = 1e-9 σ(θ₁ - 1e-9 θ₂), which is about ½."""
    wins = np.zeros((4, 4))
    wins[:3, 3] = 1
    theta = loglinear.newton([[1, 0], [-1, 1e-9], [0, -1], [0, 0]], wins, 1.0)
    assert_allclose(theta, [0, np.log(5e-10)], rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="no minimizer"):
        loglinear.newton([[1, 0], [-1, 0], [0, -1], [0, 0]], wins, 1.0)


# Misspecified


ARMS, ARM_REWARD, EVEN = np.array([[1.0], [-1.0], [0.0]]), np.array([1.0, 2.0, 0.0]), np.full(3, 1 / 3)


def arms(n13):
    """Pairs {1, 2} and {2, 3} weigh 1, the pair {1, 3} n13."""
    return population.bradley_terry_wins(ARM_REWARD, [[0, 1, n13], [1, 0, 1], [n13, 1, 0]])


@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0])
def test_with_one_pair_alone_dpo_learns_to_prefer_the_worse_of_the_others(beta):
    """π ∝ (e^t, e^-t, 1), r = (1, 2, 0): 1 against 3 asks for βt = 1, though 2 is better than both."""
    only = population.bradley_terry_wins(ARM_REWARD, [[0, 0, 1], [0, 0, 0], [1, 0, 0]])
    t = loglinear.newton(ARMS, only, beta)
    assert_allclose(beta * t, 1, rtol=1e-12)
    pi = loglinear.policy(t, ARMS, EVEN)
    assert pi[0] > pi[1]
    if beta == 10:
        best = loglinear.best_in_class(ARMS, EVEN, ARM_REWARD, beta, [[0.0]])
        assert pi @ ARM_REWARD < 1 < loglinear.policy(best.theta, ARMS, EVEN) @ ARM_REWARD
        assert optimum.value(pi, EVEN, ARM_REWARD, beta) < 1 < best.value  # 1 is that of the reference
    of_all = loglinear.newton(ARMS, arms(1.0), beta)  # all three pairs
    assert of_all < 0 and loglinear.policy(of_all, ARMS, EVEN) @ ARM_REWARD > 1


def test_the_share_of_pairs_at_which_the_sign_turns():
    """∂L/∂t at 0 is β (2a + b - n₁₃ a), a = σ(1) - ½, b = σ(2) - ½: n₁₃ is then 3.648 times each of the other pairs."""
    a, b = 1 / (1 + np.exp(-1)) - 0.5, 1 / (1 + np.exp(-2)) - 0.5
    turn = (2 * a + b) / a
    assert turn == pytest.approx(3.6481, abs=5e-5)
    for beta in (0.1, 3.0):
        below, at, above = (loglinear.newton(ARMS, arms(turn * x), beta)[0] for x in (0.999, 1, 1.001))
        assert below < -1e-5 and abs(at) < 1e-12 and above > 1e-5
        assert_allclose(beta * below, 0.1 * loglinear.newton(ARMS, arms(turn * 0.999), 0.1)[0], rtol=1e-6)


LINE = np.linspace(-1, 1, 5)[:, None]


@pytest.mark.parametrize("reward", [(1.0, 0.0, 0.0, 0.0, 1.0), (1.0, 0.0, 0.0, 0.0, 1.2)])
def test_of_a_reward_with_two_modes_the_class_can_have_one_and_dpo_takes_none(reward):
    """A tilt of five points on a line; the best J by trial of 20 001 tilts."""
    ref, beta = np.full(5, 0.2), 0.3
    tilts = np.linspace(-40, 40, 20_001)
    values = optimum.value(loglinear.policy(tilts[:, None], LINE, ref), ref, reward, beta)
    best = loglinear.best_in_class(LINE, ref, reward, beta, [[-5.0], [5.0]])
    assert best.value >= values.max() > best.value - 1e-6
    assert abs(best.theta[0]) == pytest.approx(abs(tilts[values.argmax()]), abs=4e-3)
    t = loglinear.newton(LINE, population.bradley_terry_wins(reward), beta)
    of_dpo = optimum.value(loglinear.policy(t, LINE, ref), ref, reward, beta)
    assert of_dpo < best.value - 0.1 and abs(t[0]) < 0.25 and abs(best.theta[0]) > 6
    assert best.value < optimum.optimal_value(ref, reward, beta) - 0.1  # which no tilt has


def test_a_start_on_a_saddle_leads_nowhere_and_one_beside_it_does():
    reward = [1.0, 0.0, 0.0, 0.0, 1.0]
    with pytest.raises(ArithmeticError, match="none of 1 starts has led to a maximum of J"):
        loglinear.best_in_class(LINE, np.full(5, 0.2), reward, 0.3, [[0.0]])
    beside = loglinear.best_in_class(LINE, np.full(5, 0.2), reward, 0.3, [[0.0], [1e-3]])
    assert beside.theta == pytest.approx(6.025208, abs=1e-6)


def test_features_that_say_the_same_twice_leave_the_best_value_as_it_is(rng):
    features, ref, reward = rng.normal(size=(5, 1)), softmax(rng.normal(size=5)), rng.normal(size=5)
    once = loglinear.best_in_class(features, ref, reward, 0.5, [[0.0]])
    twice = loglinear.best_in_class(features * [1.0, -2.0], ref, reward, 0.5, [[0.0, 0.0]])
    assert twice.value == pytest.approx(once.value, rel=1e-14)
    assert_allclose(twice.theta @ [1, -2], once.theta[0], rtol=1e-9)


def test_the_best_of_several_prompts_is_a_maximum(rng):
    """Of the mean of `optimum.value`: it has no slope, by differences, and is above all that surrounds it."""
    features, ref, reward = rng.normal(size=(3, 4, 2)), softmax(rng.normal(size=(3, 4))), rng.normal(size=(3, 4))
    theta, value = loglinear.best_in_class(features, ref, reward, 0.5, np.zeros((1, 2)))
    around = theta + rng.normal(size=(200, 2)) * 10 ** rng.uniform(-3, 0, size=(200, 1))
    others = optimum.value(loglinear.policy(around, features, ref), ref, reward, 0.5).mean(axis=-1)
    assert others.max() < value == optimum.value(loglinear.policy(theta, features, ref), ref, reward, 0.5).mean()
    h = 1e-5 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    near = optimum.value(loglinear.policy(theta + h, features, ref), ref, reward, 0.5).mean(axis=-1)
    assert_allclose([near[0] - near[1], near[2] - near[3]], 0, atol=1e-15)  # 2e-5 of the slope


# What one pair does to the others


@pytest.mark.parametrize(
    ("ref", "rates"), [((0.45, 0.45, 0.1), (0.25, -0.75, 2.25)), ((0.3, 0.3, 0.4), (-0.5, -1.5, 1.5))]
)
def test_the_chosen_may_fall_where_features_are_shared_and_never_in_a_table(ref, rates):
    """φ = (1, 1), (0, 1), (3, 0); the first is preferred to the second. A small step of descent moves log-probs so."""
    phi, certain = np.array([[1.0, 1.0], [0.0, 1.0], [3.0, 0.0]]), np.eye(3)[:1].T @ np.eye(3)[1:2]
    assert_allclose(loglinear.drift(ref, phi, phi[0] - phi[1]), rates, rtol=1e-14)
    step = 1e-6 * -loglinear.gradient(np.zeros(2), phi, certain, 1.0) / 0.5  # 0.5 = βσ(-m) at the reference
    moved = np.log(loglinear.policy(step, phi, ref) / ref) / 1e-6
    assert_allclose(moved, rates, rtol=0, atol=1e-5)
    in_table = loglinear.drift(ref, np.eye(3), [1, -1, 0])
    assert in_table[0] > 0 > in_table[1]


def path(features, ref, steps, rate=2.0):
    """π along plain descent on one certain pair, the first preferred to the second."""
    theta, certain = np.zeros(np.shape(features)[1]), np.eye(3)[:1].T @ np.eye(3)[1:2]
    for _ in range(steps):
        yield loglinear.policy(theta, features, ref)
        theta = theta - rate * loglinear.gradient(theta, features, certain, 1.0)


@pytest.mark.parametrize(("ref", "highest"), [((0.2, 0.7, 0.1), 0.1179), ((0.05, 0.85, 0.1), 0.1952)])
def test_an_unseen_response_takes_all_with_shared_features_and_in_a_table_ends_with_nothing(ref, highest):
    """In a table it rises to ref₃/(2 √(ref₁ ref₂) + ref₃) at most; with φ₃ = 3 (φ₁ - φ₂) the margin feeds it."""
    ref = np.array(ref)
    exact = ref[2] / (2 * np.sqrt(ref[0] * ref[1]) + ref[2])
    assert exact == pytest.approx(highest, abs=5e-5)
    table = np.array([pi[2] for pi in path(np.eye(3), ref, 250, rate=0.05)])
    assert exact - 1e-4 < table.max() <= exact
    *_, late = path(np.eye(3), ref, 20, rate=20.0)
    assert late[2] < 1e-3
    *_, shared = path([[1.0], [0.0], [3.0]], ref, 60)
    assert shared[2] > 0.99 and shared[0] < ref[0]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: loglinear.log_ratio([1.0], [1.0, 2.0]),
         "features has shape (2,); expected (..., K, d) with d at least 1"),
        (lambda: loglinear.policy([1.0, 2.0], ARMS, EVEN),
         "theta has shape (2,); expected (..., 1) as each response has 1 features"),
        (lambda: loglinear.policy([np.nan], ARMS, EVEN), "theta is nan at [0]; expected finite numbers"),
        (lambda: loglinear.policy([1.0], ARMS, [0.5, 0.5]),
         "the shapes of u (3,) and ref (2,) do not fit; expected (..., K) with one K, responses last"),
        (lambda: loglinear.objective([1.0], ARMS, np.ones((2, 2)), 1),
         "the shapes of features (3,) and wins (2,) do not fit; expected (..., K) with one K, responses last"),
        (lambda: loglinear.hessian([1.0], ARMS, -np.ones((3, 3)), 1),
         "wins is -1.0 at [0, 0]; expected weights, at least 0"),
        (lambda: loglinear.gradient([1.0], ARMS, np.ones((3, 3)), 0), "beta is 0; expected one finite number above 0"),
        (lambda: loglinear.drift([0.5, 0.5], ARMS, [1.0]),
         "the shapes of pi (2,) and features (3,) do not fit; expected (..., K) with one K, responses last"),
        (lambda: loglinear.best_in_class(ARMS, EVEN, ARM_REWARD, 1, [0.0]),
         "starts has shape (1,); expected (S, 1) as each response has 1 features"),
        (lambda: loglinear.best_in_class(ARMS, EVEN, [1.0, 2.0], 1, [[0.0]]),
         "the shapes of features (3,) and ref (3,) and reward (2,) do not fit;"
         " expected (..., K) with one K, responses last"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
        call()
    assert str(raised.value) == sentence
