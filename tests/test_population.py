"""analytic.population: sums written out in mpmath, their differences, and descent that was told the gradient alone."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mpmath import mp
from numpy.testing import assert_allclose
from scipy.optimize import minimize

from analytic import _solvers, optimum, population

EPS = np.finfo(float).eps
K = 4
ratios = arrays(float, K, elements=st.floats(-30, 30))
weights = arrays(float, (K, K), elements=st.floats(0, 1, allow_subnormal=False))
betas = st.floats(0.05, 3)


def naive(u, wins, beta):
    """L as it is defined, in the precision of the mpmath context; u may be mpmath numbers."""
    total = mp.mpf(0)
    for i, j in np.ndindex(wins.shape):
        total -= mp.mpf(float(wins[i, j])) * mp.log(1 / (1 + mp.exp(-mp.mpf(float(beta)) * (u[i] - u[j]))))
    return total


def derivative(f, u, *directions):
    """Central differences in 60 digits with h = 1e-15: both the method's h² and the rounding are below 1e-25."""
    if not directions:
        return f(u)
    h, (d, *rest) = mp.mpf("1e-15"), directions
    up, down = ([x + sign * h * int(y) for x, y in zip(u, d, strict=True)] for sign in (1, -1))
    return (derivative(f, up, *rest) - derivative(f, down, *rest)) / (2 * h)


# The objective and its derivatives


@settings(max_examples=40)
@given(ratios, weights, betas)
def test_objective_and_gradient_against_the_sum_written_out(u, wins, beta):
    axes, size = np.eye(K, dtype=int), wins.sum() + 1e-300
    with mp.workdps(60):
        exact_u = [mp.mpf(float(x)) for x in u]
        value = float(naive(exact_u, wins, beta))
        slope = [float(derivative(lambda x: naive(x, wins, beta), exact_u, d)) for d in axes]
    margins = 1 + beta * (u.max() - u.min())  # what ε is multiplied with
    assert_allclose(population.objective(u, wins, beta), value, rtol=0, atol=4 * EPS * size * margins)
    assert_allclose(population.gradient(u, wins, beta), slope, rtol=0, atol=4 * EPS * size * beta * margins)


def test_hessian_against_second_differences_of_the_sum(rng):
    axes = np.eye(K, dtype=int)
    for _ in range(10):
        u, wins, beta = rng.normal(size=K) * 3, rng.random((K, K)), rng.uniform(0.1, 2)
        with mp.workdps(60):
            exact_u = [mp.mpf(float(x)) for x in u]
            f = functools.partial(naive, wins=wins, beta=beta)
            bend = [[float(derivative(f, exact_u, d, e)) for d in axes] for e in axes]
        assert_allclose(population.hessian(u, wins, beta), bend, rtol=1e-12, atol=1e-14)


def test_gradient_as_the_surprise_of_each_pair(rng):
    """β Σⱼ Wᵢⱼ (σ(β (uᵢ - uⱼ)) - Pᵢⱼ), one pair at a time."""
    u, W, beta = rng.normal(size=K), rng.random((K, K)), 0.7
    W += W.T
    P = rng.random((K, K))
    P = np.triu(P, 1) + np.tril(1 - P.T, -1)
    np.fill_diagonal(P, 0.5)
    slope = [
        beta * sum(W[i, j] * (1 / (1 + np.exp(-beta * (u[i] - u[j]))) - P[i, j]) for j in range(K)) for i in range(K)
    ]
    assert_allclose(population.gradient(u, W * P, beta), slope, rtol=1e-13, atol=1e-15)


@given(ratios, weights, betas)
def test_the_objective_is_convex_and_blind_to_constants(u, wins, beta):
    u = np.round(u * 64) / 64  # so that adding 7 rounds nothing
    H, scale = population.hessian(u, wins, beta), beta**2 * wins.sum()
    assert (H == H.T).all()
    assert_allclose(H.sum(axis=1), 0, rtol=0, atol=8 * EPS * scale)
    assert np.linalg.eigvalsh(H).min() >= -16 * EPS * scale
    assert abs(population.gradient(u, wins, beta).sum()) <= 16 * EPS * beta * wins.sum()
    for f in (population.objective, population.gradient, population.hessian):
        assert (f(u + 7, wins, beta) == f(u, wins, beta)).all()


def test_margins_far_out_cost_what_they_should():
    u, won = np.array([1e4, -1e4]), [[0, 1], [0, 0]]
    assert population.objective(u, won, 1.0) == 0
    assert population.objective(-u, won, 1.0) == 2e4
    assert population.gradient(u, won, 1.0).tolist() == [0, 0]
    assert population.gradient(-u, won, 1.0).tolist() == [-1, 1]
    assert population.hessian(u, won, 1.0).tolist() == [[0, 0], [0, 0]]


def test_a_response_compared_with_itself_costs_log_2_and_teaches_nothing():
    wins, with_itself = np.array([[0.0, 0.7], [0.3, 0.0]]), np.array([[0.5, 0.7], [0.3, 0.25]])
    u = [0.3, -0.2]
    more = population.objective(u, with_itself, 0.5) - population.objective(u, wins, 0.5)
    assert_allclose(more, 0.75 * np.log(2), rtol=1e-14)
    assert_allclose(population.entropy(with_itself) - population.entropy(wins), 0.75 * np.log(2), rtol=1e-14)
    for f in (population.gradient, population.hessian):
        assert_allclose(f(u, with_itself, 0.5), f(u, wins, 0.5), rtol=1e-14)
    assert_allclose(population.newton(with_itself, 0.5), population.newton(wins, 0.5), rtol=1e-14)


# Populations


REF = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
REWARD = np.array([0.3, -1.2, 0.8, 2.0, -0.4])
SKEWED = np.array([0.9, 0.09, 0.009, 0.0009, 0.0001])


def chain(k):
    return np.eye(k, k=1) + np.eye(k, k=-1)


PAIRS = {"uniform": None, "reference": np.outer(REF, REF), "skewed": np.outer(SKEWED, SKEWED), "chain": chain(5)}


def test_bradley_terry_wins_one_pair_at_a_time(rng):
    W = rng.random((5, 5))
    W += W.T
    by_default = population.bradley_terry_wins(REWARD)
    for weight, wins in ((W, population.bradley_terry_wins(REWARD, W)), (np.full((5, 5), 0.1), by_default)):
        for i, j in np.ndindex(5, 5):
            P = np.exp(REWARD[i]) / (np.exp(REWARD[i]) + np.exp(REWARD[j]))
            assert wins[i, j] == pytest.approx(weight[i, j] * P if i != j else 0, rel=1e-14)
    assert_allclose(population.bradley_terry_wins(REWARD).sum(), 1, rtol=4 * EPS)
    of_prompts = population.bradley_terry_wins(REWARD, np.array([W, 2 * W]))
    assert_allclose(of_prompts, population.bradley_terry_wins(REWARD, W) * [[[1.0]], [[2.0]]], rtol=1e-14)


def label_entropy(W, P):
    """Σ over pairs of distinct responses of W times the entropy of one label, in 50 digits."""
    with mp.workdps(50):
        total = mp.mpf(0)
        for i in range(len(P)):
            for j in range(i):
                p = mp.mpf(float(P[i, j]))
                total -= mp.mpf(float(W[i, j])) * (p * mp.log(p) + (1 - p) * mp.log(1 - p))
        return float(total)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("pairs", PAIRS)
def test_the_minimizer_is_the_boltzmann_policy_whatever_pairs_are_met(pairs, beta):
    wins = population.bradley_terry_wins(REWARD, PAIRS[pairs])
    u = population.newton(wins, beta)
    weights = REF * np.exp(REWARD / beta)
    assert_allclose(population.policy(u, REF), weights / weights.sum(), rtol=0, atol=1e-10)
    assert_allclose(population.policy(u, REF), optimum.boltzmann(REF, REWARD, beta), rtol=0, atol=1e-10)
    assert_allclose(u, (REWARD - REWARD.mean()) / beta, rtol=0, atol=1e-10)
    P = 1 / (1 + np.exp(REWARD[None, :] - REWARD[:, None]))
    floor = label_entropy(wins + wins.T, P)
    assert_allclose(population.objective(u, wins, beta), floor, rtol=1e-13)
    assert_allclose(population.entropy(wins), floor, rtol=1e-13)


CYCLE_ON_REWARDS = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]])


def test_labels_that_no_reward_explains_stay_above_the_entropy_and_move_with_the_pairs():
    """The twin of the test above."""
    P, W = CYCLE_ON_REWARDS, {"uniform": np.ones((3, 3)), "uneven": np.array([[1, 9, 1], [9, 1, 1], [1, 1, 1.0]])}
    found = {}
    for name, w in W.items():
        wins = np.where(np.eye(3) == 1, 0, w * P)
        u = found[name] = population.newton(wins, 1.0)
        assert_allclose(population.entropy(wins), label_entropy(w, P), rtol=1e-13)
        assert population.objective(u, wins, 1.0) > population.entropy(wins) + 0.05
        with mp.workdps(60):
            f, exact_u = functools.partial(naive, wins=wins, beta=1.0), [mp.mpf(float(x)) for x in u]
            slope = [derivative(f, exact_u, d) for d in np.eye(3, dtype=int)]
        assert max(map(abs, slope)) < 1e-14
    assert abs(found["uniform"] - found["uneven"]).max() > 0.2


def test_a_symmetric_cycle_teaches_nothing():
    wins = np.array([[0, 0.8, 0.2], [0.2, 0, 0.8], [0.8, 0.2, 0]])
    assert_allclose(population.newton(wins, 0.3), 0, atol=1e-15)
    assert_allclose(population.policy(population.newton(wins, 0.3), [0.5, 0.3, 0.2]), [0.5, 0.3, 0.2], rtol=1e-14)


# Newton


def test_newton_against_a_minimizer_that_knows_no_derivative(rng):
    wins = rng.random((4, 4))
    found = minimize(
        lambda x: population.objective(np.append(x, 0), wins, 0.5),
        np.zeros(3),
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-15, "maxiter": 4000, "maxfev": 4000},
    ).x
    u = population.newton(wins, 0.5)
    assert_allclose(
        u - u[-1], np.append(found, 0), rtol=0, atol=1e-6
    )  # the simplex sees values, so √ε times a condition number


def test_four_games_of_three_players():
    """Strengths pᵢ = e^uᵢ solve winsᵢ = Σⱼ nᵢⱼ pᵢ/(pᵢ + pⱼ): p = (t, 1/t, 1) with 3 = 3 t/(t + 1/t) + 2 t/(t + 1)."""
    wins = np.array([[0, 2, 1], [1, 0, 1], [1, 1, 0]])
    with mp.workdps(50):
        log_t = float(mp.log(mp.findroot(lambda t: 3 * t / (t + 1 / t) + 2 * t / (t + 1) - 3, mp.mpf("1.3"))))
    assert_allclose(log_t, 0.25435063, rtol=0, atol=5e-9)
    assert_allclose(population.newton(wins, 1.0), [log_t, -log_t, 0], rtol=0, atol=8 * EPS)
    assert_allclose(population.newton(100 * wins, 0.1), [10 * log_t, -10 * log_t, 0], rtol=0, atol=80 * EPS)


@settings(max_examples=40)
@given(arrays(float, (6, 6), elements=st.floats(-6, 0)), arrays(float, 6, elements=st.floats(-6, 6)), betas)
def test_newton_converges_on_weights_of_all_sizes(log_weights, reward, beta):
    """A ring of wins, so that the minimizer exists, plus anything; margins up to 12, weights from 1e-6 to 1."""
    wins = 10**log_weights * (log_weights > -3) + 1e-6 * np.roll(np.eye(6), 1, axis=0)
    u = population.newton(wins, beta)
    assert abs(u.sum()) <= 1e-13 * (1 + abs(u).max())
    pulls = wins * np.exp(-np.logaddexp(0, beta * (u[:, None] - u[None, :])))  # won, though the margin says otherwise
    flow_in, flow_out = pulls.sum(axis=0), pulls.sum(axis=1)  # equal at the minimizer, for each response
    assert_allclose(flow_in, flow_out, rtol=1e-9, atol=1e-15)
    bt = population.bradley_terry_wins(reward, np.where(np.eye(6) == 1, 0, wins + wins.T))
    # what the slope, a sum of all weights, is rounded by, over the least curvature: that of a weight of 1e-6
    least = 1e-6 * np.exp(-np.ptp(reward)) / 4
    room = 8 * EPS * (1 + bt.sum() / least)
    assert_allclose(beta * population.newton(bt, beta), reward - reward.mean(), rtol=0, atol=room)


@pytest.mark.parametrize("pairs", ["all", "neighbors"])
def test_newton_on_many_responses(rng, pairs):
    """Conjugate gradients are fast where all pairs are met, and give way to Cholesky where a path alone is."""
    K = 400
    reward = rng.normal(size=K)
    weight = None if pairs == "all" else abs(np.subtract.outer(np.arange(K), np.arange(K))) == 1
    wins = population.bradley_terry_wins(reward, weight)
    # digits that sums of K weights lose, over the least curvature: that of the mean, or of a path's longest wave
    least = wins[wins > 0].min() * (K if pairs == "all" else np.pi**2 / K**2) / 2
    room = 8 * EPS * wins.sum(axis=1).max() / least
    assert_allclose(population.newton(wins, 0.5), (reward - reward.mean()) / 0.5, rtol=0, atol=room)


def test_newton_begins_where_it_is_told(monkeypatch):
    """Rewards are their own mean log-odds: two looks at the slopes are enough, from 0 it takes several"""
    looked, at = [], _solvers.Pulls.at
    monkeypatch.setattr(_solvers.Pulls, "at", lambda pulls, x: (looked.append(x), at(pulls, x))[1])
    rng = np.random.default_rng(0)
    reward, weight = rng.normal(size=50), rng.random((50, 50))
    wins = population.bradley_terry_wins(reward, weight + weight.T)

    def looks(**start):
        looked.clear()
        u = population.newton(wins, 0.5, **start)
        assert_allclose(u, (reward - reward.mean()) / 0.5, rtol=0, atol=1e-12)
        return len(looked), looked[0]

    count, first = looks()
    assert count <= 2
    assert_allclose(first - first.mean(), reward - reward.mean(), rtol=0, atol=1e-13)
    count, first = looks(start=np.zeros(50))
    assert count >= 4
    assert (first == 0).all()
    _, first = looks(start=np.linspace(-1, 1, 50))
    assert_allclose(first, np.linspace(-0.5, 0.5, 50))
    wins[3, 4] = 0.0
    looked.clear()
    population.newton(wins, 0.5)
    assert (looked[0] == 0).all()


def test_newton_begins_at_log_odds_that_are_bounded():
    wins = np.array([[0.0, 1e300, 1.0], [1e-300, 0.0, 1.0], [1.0, 1.0, 0.0]])
    with np.errstate(all="raise"):
        assert abs(population._mean_log_odds(wins)).max() <= 20 / 3


def test_starts_of_several_prompts(rng):
    wins = rng.random((2, 4, 4)) + 0.1
    both = population.newton(wins, 1.0, start=np.ones(4))
    for u, prompt in zip(both, wins, strict=True):
        assert_allclose(u, population.newton(prompt, 1.0), rtol=0, atol=1e-12)
    assert_allclose(population.newton(wins, 1.0, start=rng.normal(size=(2, 4))), both, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="start"):
        population.newton(wins, 1.0, start=np.ones(3))
    with pytest.raises(ValueError, match="start is inf"):
        population.newton(wins, 1.0, start=[0.0, np.inf, 0.0, 0.0])


def test_newton_on_margins_beyond_the_range_of_float64():
    """A path of 41 responses, each of which wins e^20 times as often as it loses to the next: 800 nats."""
    wins = np.diag(np.ones(40), 1) + np.diag(np.full(40, np.exp(-20.0)), -1)
    assert_allclose(population.newton(wins, 1.0), 20.0 * np.arange(20, -21, -1), rtol=0, atol=1e-5)  # 40 e^20 EPS


def test_newton_takes_any_beta_and_no_weights_that_float64_cannot_compare():
    wins = np.array([[0.0, 2.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    for beta in (1e-300, 1e300):  # β² is beyond float64
        assert_allclose(beta * population.newton(wins, beta), population.newton(wins, 1.0), rtol=1e-14, atol=1e-15)
    apart = [[0, 1e-52, 1e-94], [1e-40, 0, 1e82], [1e-28, 1e-73, 0]]
    with pytest.raises(ArithmeticError, match="newton is stuck"):
        population.newton(apart, 1.0)


def test_newton_converges_where_undamped_steps_do_not():
    """Full steps from 0 run off to margins that leave the Hessian nothing; halved ones do not."""
    wins = np.zeros((5, 5))
    wins[[0, 0, 1, 2, 2, 3, 4, 4], [2, 3, 4, 1, 4, 0, 2, 3]] = [1e-4, 1, 1, 1e-3, 1e-5, 1e-6, 1e-4, 0.1]
    u, lost = np.zeros(5), False
    for _ in range(40):
        H = population.hessian(u, wins, 1.0)[1:, 1:]
        if lost := np.linalg.cond(H) > 1 / EPS:
            break
        u = u - np.append(0, np.linalg.solve(H, population.gradient(u, wins, 1.0)[1:]))
    assert lost
    assert_allclose(population.gradient(population.newton(wins, 1.0), wins, 1.0), 0, atol=1e-17)


def test_steps_that_are_not_enough_are_an_error():
    wins = population.bradley_terry_wins(REWARD)
    with pytest.raises(ArithmeticError, match="newton has not converged in 3 steps: L would still fall by"):
        population.newton(wins, 0.1, steps=3, start=np.zeros(5))
    assert population.newton(wins, 0.1, steps=12) == pytest.approx((REWARD - REWARD.mean()) / 0.1, rel=1e-10, abs=1e-10)


RING = np.roll(np.eye(3), 1, axis=1)


@pytest.mark.parametrize(
    ("wins", "sentence"),
    [
        (
            [[0, 1, 1], [0, 0, 1], [0, 1, 0]],
            "wins has no minimizer: responses [0] never lose to the others; expected all to lose",
        ),
        (
            [[0, 1, 0], [0, 0, 1], [0, 0, 0]],
            "wins has no minimizer: responses [0] never lose to the others; expected all to lose",
        ),
        (
            [[0, 0, 1], [0, 0, 1], [0, 0, 0]],
            "wins has no minimizer: responses [0] and [1] never lose to the others; expected all to lose",
        ),
        (
            np.block([[RING, 0 * RING], [RING, RING]]),
            "wins has no minimizer: responses [3, 4, 5] never lose to the others; expected all to lose",
        ),
        (
            np.block([[RING, 0 * RING], [0 * RING, RING]]),
            "wins never compares responses [0, 1, 2] and [3, 4, 5]; expected comparisons that connect all of them",
        ),
        (np.eye(2), "wins never compares responses [0] and [1]; expected comparisons that connect all of them"),
        (
            [[[0, 1], [1, 0]], [[0, 1], [0, 0]]],
            "wins has no minimizer: responses [0] never lose to the others; expected all to lose",
        ),
    ],
)
def test_no_minimizer_where_some_never_lose_or_never_meet(wins, sentence):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
        population.newton(wins, 1.0)
    assert str(raised.value) == sentence


def test_a_minimizer_as_soon_as_each_has_lost_directly_or_through_others():
    """Twins of the cases above, one comparison more: a weight of 1e-3 is enough."""
    for wins, i, j in (
        ([[0, 1, 1], [0, 0, 1], [0, 1, 0]], 2, 0),
        ([[0, 1, 0], [0, 0, 1], [0, 0, 0]], 2, 0),
        (np.block([[RING, 0 * RING], [RING, RING]]), 0, 3),
    ):
        wins = np.array(wins, float)
        wins[i, j] = 1e-3
        u = population.newton(wins, 1.0)
        assert_allclose(population.gradient(u, wins, 1.0), 0, atol=1e-15)
        assert u[j] > u[i]


def test_where_some_never_lose_the_loss_falls_without_end_and_with_one_loss_it_does_not():
    wins = np.array([[0, 1.0, 1], [0, 0, 1], [0, 1, 0]])
    away = np.array([1.0, 0, 0])
    falls = [population.objective(t * away, wins, 1.0) for t in (0, 10, 20, 30)]
    assert np.diff(falls).max() < 0
    wins[1, 0] = 1e-3
    assert (
        population.objective(30 * away, wins, 1.0)
        > population.objective(population.newton(wins, 1.0), wins, 1.0) + 0.01
    )


# Gradient descent


def descend(wins, beta, step, u, steps):
    for _ in range(steps):
        u = u - step * population.gradient(u, wins, beta)
        yield u


def cliques():
    W = np.kron(np.eye(2), np.ones((3, 3)))
    W[2, 3] = W[3, 2] = 0.1
    return W


def star():
    W = np.zeros((6, 6))
    W[0, 1:] = W[1:, 0] = 1
    return W


GRAPHS = {"path": chain(6), "star": star(), "two cliques and a bridge": cliques(), "complete": np.ones((6, 6))}
SIX = np.array([0.5, -0.3, 0.2, 0.0, 0.4, -0.6])


@pytest.mark.parametrize("graph", GRAPHS)
def test_descent_converges_at_the_predicted_rate(graph):
    """Errors 1e-5 to 1e-9: from the first the Hessian at the minimum decides, to the last rounding does not."""
    wins, beta = population.bradley_terry_wins(SIX, GRAPHS[graph]), 0.8
    goal = (SIX - SIX.mean()) / beta
    rate = population.linear_rate(population.hessian(goal, wins, beta))
    errors = []
    for u in descend(wins, beta, rate.best_step, np.zeros(6), 10_000):
        errors.append(np.linalg.norm(u - goal))
        if errors[-1] < 1e-9:
            break
    errors = [e for e in errors if e < 1e-5]
    measured = (errors[-1] / errors[0]) ** (1 / (len(errors) - 1))
    print(f"{graph}: predicted {rate.factor:.5f}, measured {measured:.5f}")
    assert measured == pytest.approx(rate.factor, rel=0.01)


@pytest.mark.parametrize("share", [0.5, 0.8, 1.3])
def test_descent_converges_as_predicted_at_other_step_sizes(share):
    wins, beta = population.bradley_terry_wins(SIX, chain(6)), 0.8
    goal = (SIX - SIX.mean()) / beta
    rate = population.linear_rate(population.hessian(goal, wins, beta))
    step = min(share * rate.best_step, 0.99 * rate.limit)
    steps = int(np.log(1e-5) / np.log(rate.at(step)))  # from 1e-4 to 1e-9: near the minimum, far from rounding
    *_, before, after = descend(wins, beta, step, goal + 1e-4 * np.array([3, -1, 4, -1, -5, 0]), steps)
    assert np.linalg.norm(after - goal) / np.linalg.norm(before - goal) == pytest.approx(rate.at(step), rel=0.01)
    assert rate.at(step) > rate.factor == pytest.approx(rate.at(rate.best_step), rel=1e-12)


@pytest.mark.parametrize(("share", "converges"), [(1.95, True), (2.05, False)])
def test_descent_diverges_beyond_the_limit_and_not_before(share, converges):
    wins, beta = population.bradley_terry_wins(SIX, star()), 0.5
    goal = (SIX - SIX.mean()) / beta
    rate = population.linear_rate(population.hessian(goal, wins, beta))
    assert rate.limit == pytest.approx(2 / rate.fastest)
    *_, u = descend(wins, beta, share / rate.fastest, goal + 1e-3 * np.array([5, -1, -1, -1, -1, -1]), 1000)
    assert (np.linalg.norm(u - goal) < 1e-9) == converges
    assert (np.linalg.norm(u - goal) > 1e-2) != converges


def test_the_spectrum_of_stars_and_complete_graphs():
    """Closed spectra of Laplacians, star {0, 1, K} and complete {0, K}; at equal rewards an edge is β²/4 times W."""
    edge = 0.3**2 / 4
    of_star = population.linear_rate(
        population.hessian(np.zeros(6), population.bradley_terry_wins(np.zeros(6), star()), 0.3)
    )
    assert_allclose(of_star, [5 / 7, 2 / (7 * edge), 2 / (6 * edge), edge, 6 * edge], rtol=1e-13)
    complete = population.linear_rate(population.hessian(np.zeros(6), population.bradley_terry_wins(np.zeros(6)), 0.3))
    assert_allclose(
        complete, [0, 15 / (6 * edge), 2 * 15 / (6 * edge), 6 * edge / 15, 6 * edge / 15], rtol=1e-13, atol=1e-14
    )


def test_steps_scale_with_one_over_beta_squared_and_the_condition_number_does_not():
    wins = population.bradley_terry_wins(REWARD)
    rates = {beta: population.linear_rate(population.hessian(REWARD / beta, wins, beta)) for beta in (1.0, 0.1)}
    assert_allclose(rates[1.0].fastest / rates[0.1].fastest, 100, rtol=1e-12)
    assert_allclose(rates[0.1].best_step / rates[1.0].best_step, 100, rtol=1e-12)
    assert_allclose(rates[1.0].factor, rates[0.1].factor, rtol=1e-12)


def test_the_rate_of_several_prompts_is_the_rate_of_the_block_diagonal():
    pair = np.array([[0, 0.5], [0.5, 0]])
    H = np.array([population.hessian(np.zeros(2), weight * pair, 1.0) for weight in (2, 4, 6)])
    whole = np.zeros((6, 6))
    for i, block in enumerate(H):
        whole[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = block
    assert_allclose(population.linear_rate(H), population.linear_rate(whole), rtol=1e-14)
    assert population.linear_rate(H).factor == pytest.approx(0.5)


def test_descent_keeps_the_mean_of_each_component_so_unseen_responses_have_the_plain_mean_reward():
    """Responses 4 and 5 are never compared: descent ends at the π* with the mean reward of the others for theirs."""
    ref, beta, pairs = np.array([0.3, 0.2, 0.1, 0.1, 0.25, 0.05]), 0.5, np.zeros((6, 6))
    pairs[:4, :4] = chain(4)
    wins = population.bradley_terry_wins(SIX, pairs)
    filled = np.append(SIX[:4], 2 * [SIX[:4].mean()])
    rate = population.linear_rate(population.hessian(filled / beta, wins, beta))
    *_, u = descend(wins, beta, rate.best_step, np.zeros(6), int(np.log(1e-12) / np.log(rate.factor)))
    assert abs(u[:4].mean()) < 1e-13
    assert u[4:].tolist() == [0, 0]
    assert_allclose(population.policy(u, ref), optimum.boltzmann(ref, filled, beta), rtol=0, atol=1e-11)
    weighted = np.append(SIX[:4], 2 * [ref[:4] @ SIX[:4] / ref[:4].sum()])
    assert abs(population.policy(u, ref) - optimum.boltzmann(ref, weighted, beta)).max() > 1e-3


def test_descent_in_logits_is_descent_in_log_ratios(rng):
    """Logits start at log π_ref; log π - log π_ref stays what descent in u makes of 0, up to a constant."""
    ref, wins, beta = rng.dirichlet(np.ones(4)), population.bradley_terry_wins(rng.normal(size=4)), 0.6
    logits = np.log(ref)
    for u in descend(wins, beta, 3.0, np.zeros(4), 50):
        ratio = logits - np.log(np.exp(logits).sum()) - np.log(ref)
        logits = logits - 3.0 * population.gradient(ratio, wins, beta)
        pi = np.exp(logits) / np.exp(logits).sum()
        assert_allclose(population.policy(u, ref), pi, rtol=1e-13)


def test_policy_needs_no_constant_no_scale_and_no_mass_everywhere():
    ref = np.array([0.5, 0.25, 0.25, 0.0])
    assert_allclose(population.policy([0, np.log(2), np.log(4), 1e5], ref), [0.25, 0.25, 0.5, 0], rtol=4 * EPS)
    assert_allclose(
        population.policy(np.array([0, np.log(2), np.log(4), 0]) + 1e4, ref), [0.25, 0.25, 0.5, 0], rtol=1e-11
    )


# Leading axes


def test_leading_axes_are_problems_of_their_own(rng):
    u, reward, ref = rng.normal(size=(2, 3, K)), rng.normal(size=(2, 3, K)), rng.dirichlet(np.ones(K), size=(2, 1))
    wins = population.bradley_terry_wins(reward)
    found, pi = population.newton(wins, 0.4), population.policy(u, ref)
    for at in np.ndindex(2, 3):
        assert_allclose(wins[at], population.bradley_terry_wins(reward[at]), rtol=1e-14)
        assert_allclose(found[at], (reward[at] - reward[at].mean()) / 0.4, rtol=0, atol=1e-11)
        assert_allclose(pi[at], population.policy(u[at], ref[at[0], 0]), rtol=1e-14)
        assert_allclose(population.entropy(wins)[at], population.entropy(wins[at]), rtol=1e-14)
        for f in (population.objective, population.gradient, population.hessian):
            assert_allclose(f(u, wins, 0.4)[at], f(u[at], wins[at], 0.4), rtol=1e-13, atol=1e-16)
            assert_allclose(f(u[0, 0], wins, 0.4)[at], f(u[0, 0], wins[at], 0.4), rtol=1e-13, atol=1e-16)


# The Hessian along a direction, steps, and pairs drawn from the policy


def test_the_hessian_times_a_direction_against_differences_of_the_gradient(rng):
    """In 60 digits, and next to the matrix; leading axes are problems of their own."""
    u, wins, v = rng.normal(size=K), rng.random((K, K)), np.array([1, -2, 0, 3])
    with mp.workdps(60):
        exact_u, f = [mp.mpf(float(x)) for x in u], functools.partial(naive, wins=wins, beta=0.7)
        product = [float(derivative(f, exact_u, v, d)) for d in np.eye(K, dtype=int)]
    assert_allclose(population.hessian_product(u, wins, 0.7, v), product, rtol=1e-12)
    us, vs = rng.normal(size=(3, 1, K)), rng.normal(size=(2, K))
    together = (population.hessian(us, wins, 0.7) @ vs[..., None])[..., 0]
    assert_allclose(population.hessian_product(us, wins, 0.7, vs), together, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("beta", "share"), [(1.0, 0.2), (0.5, 0.1), (1.0, 1.0), (1.0, 1.05)])
def test_the_predicted_number_of_steps_is_the_number_it_takes(beta, share):
    """At shares of the best step, from an error of 1e-6 along the slowest direction and the fastest, to 1e-9."""
    wins = population.bradley_terry_wins(SIX, chain(6)) / 2
    H = population.hessian(SIX / beta, wins, beta)
    rate, (_, vectors) = population.linear_rate(H), np.linalg.eigh(H)
    goal = (SIX - SIX.mean()) / beta
    ends = vectors[:, [1, -1]].T
    expected = rate.steps(1e-3, share * rate.best_step)
    path = descend(wins, beta, share * rate.best_step, goal + 1e-6 * ends.sum(axis=0), expected)
    *_, before, last = (abs(ends @ (u - goal)).max() for u in path)
    assert last <= 1e-9 * (1 + 1e-3) and before > 1e-9 * (1 - 1e-3)
    assert share != 1 or rate.steps(1e-3) == expected


def test_steps_of_one_size_grow_as_one_over_beta_squared():
    wins = population.bradley_terry_wins(SIX)
    counts = {beta: population.linear_rate(population.hessian(SIX / beta, wins, beta)).steps(1e-6, 0.01)
              for beta in (1.0, 0.1, 0.01)}
    assert counts[0.1] / counts[1.0] == pytest.approx(100, rel=0.01)
    assert counts[0.01] / counts[0.1] == pytest.approx(100, rel=1e-4)


def test_steps_where_one_is_enough_and_where_none_are():
    rate = population.linear_rate([[0.25, -0.25], [-0.25, 0.25]])
    assert rate.steps(1e-12) == 1
    assert rate.steps(0.5, 1e-12) == pytest.approx(np.log(2) / 0.5e-12, rel=1e-9)  # 1 - factor keeps its digits
    for share, step, sentence in ((1e-6, 4.0, "step is 4.0; expected below 4.0, where descent converges"),
                                  (1e-6, -1, "step is -1; expected one finite number above 0"),
                                  (1.0, None, "share is 1.0; expected above 0 and below 1")):
        with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
            rate.steps(share, step)
        assert str(raised.value) == sentence


def test_a_direction_has_a_number_for_each_response():
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
        population.hessian_product([0, 0], np.ones((2, 2)), 1.0, [1.0])
    assert str(raised.value) == (
        "the shapes of wins (2,) and direction (1,) do not fit; expected (..., K) with one K, responses last")


def test_mixed_pairs_are_uniform_ones_and_draws_from_both_tempers(rng):
    """Of weight 2 a pair, and softmax(βu) against softmax(-βu), either way round; all divided by their sum."""
    u, beta = rng.normal(size=5), 0.6
    up, down = np.exp(beta * u), np.exp(-beta * u)
    raw = np.where(np.eye(5) == 1, 0, 2 + np.outer(up, down) + np.outer(down, up))
    Z = np.triu(raw).sum()
    weight, step = population.mixed_pairs(u, beta)
    assert_allclose(weight, raw / Z, rtol=1e-13)
    assert_allclose(step, Z / (beta**2 * 5), rtol=1e-13)
    several = population.mixed_pairs(np.array([[u], [2 * u]]), beta)
    assert_allclose(several.weight[0, 0], weight, rtol=1e-13)
    assert several.weight.shape == (2, 1, 5, 5) and several.step.shape == (2, 1)
    far = population.mixed_pairs([1e4, 0.0, 0.0], 1.0)
    assert_allclose(far.weight[0], [0, 0.5, 0.5], rtol=1e-11)
    assert far.step == np.inf
    assert_allclose(population.mixed_pairs([0.0, 0.0], 0.5).step, 8, rtol=8 * EPS)
    with pytest.raises(ValueError, match=r"u has shape \(1,\); expected \(\.\.\., K\) with K at least 2"):
        population.mixed_pairs([0.0], 1.0)


def test_pairs_drawn_from_the_policy_square_the_error_and_uniform_ones_take_a_share():
    """Errors of β u - r: the Hessian with these pairs is β²/Z (K I - 11ᵀ), so the step is Newton's."""
    beta, centered = 0.5, SIX - SIX.mean()
    weight, step = population.mixed_pairs(centered / beta, beta)
    H = population.hessian(centered / beta, population.bradley_terry_wins(SIX, weight), beta)
    assert_allclose(H * step, np.eye(6) - 1 / 6, rtol=0, atol=1e-13)
    u, errors = np.zeros(6), []
    for _ in range(5):
        weight, step = population.mixed_pairs(u, beta)
        u = u - step * population.gradient(u, population.bradley_terry_wins(SIX, weight), beta)
        errors.append(np.linalg.norm(beta * u - centered))
    assert errors[0] < 0.1 and errors[4] < 1e-14
    assert all(after < before**2 + 1e-15 for before, after in itertools.pairwise(errors))
    wins = population.bradley_terry_wins(SIX)
    rate = population.linear_rate(population.hessian(centered / beta, wins, beta))
    uniform = descend(wins, beta, rate.best_step, np.zeros(6), 9)
    *_, before, after = (np.linalg.norm(beta * u - centered) for u in uniform)
    assert after / before == pytest.approx(rate.factor, rel=0.05) and before > 1e-10


def test_drawn_pairs_are_two_draws_that_differ(rng):
    mu = rng.dirichlet(np.ones(K), size=3)
    found = population.drawn_pairs(mu)
    for row, W in zip(mu, found, strict=True):
        kept = {(i, j): row[i] * row[j] for i, j in itertools.permutations(range(K), 2)}
        for (i, j), p in kept.items():
            assert_allclose(W[i, j], (p + kept[j, i]) / sum(kept.values()), rtol=8 * EPS)
        assert_allclose(np.triu(W).sum(), 1, rtol=8 * EPS)
        assert not np.diagonal(W).any() and (W == W.T).all()
    even = population.bradley_terry_wins(np.zeros(K))
    assert_allclose(population.drawn_pairs(np.full(K, 1 / K)), even + even.T, rtol=8 * EPS)


def test_one_response_makes_no_pair():
    with pytest.raises(ValueError, match=r"the weight of pairs of mu is 0.0 at \[1\]; expected two responses of"):
        population.drawn_pairs([[0.5, 0.5], [1.0, 0.0]])
