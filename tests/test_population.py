"""analytic.population: sums written out in mpmath, differences, and descent that was only told the gradient."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mpmath import mp
from numpy.testing import assert_allclose

from analytic import optimum, population

K = 4
margins = arrays(float, K, elements=st.floats(-30, 30))
weights = arrays(float, (K, K), elements=st.floats(0, 1))


def naive(u, wins, beta):
    with mp.workdps(60):
        return -sum(
            mp.mpf(float(wins[i, j]))
            * mp.log(1 / (1 + mp.exp(-mp.mpf(float(beta)) * (mp.mpf(float(u[i])) - mp.mpf(float(u[j]))))))
            for i in range(len(u))
            for j in range(len(u))
        )


def differences(f, x, h):
    """∂f/∂x by central differences in mpmath-exact values: error h² only."""
    grad = []
    for i in range(len(x)):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        grad.append((f(up) - f(down)) / (mp.mpf(float(up[i])) - mp.mpf(float(down[i]))))
    return np.array([float(g) if np.ndim(g) == 0 else g for g in grad])


@given(margins, weights, st.floats(0.05, 3))
def test_objective_against_the_sum_written_out(u, wins, beta):
    assert_allclose(population.objective(u, wins, beta), float(naive(u, wins, beta)), rtol=1e-13 * 60, atol=1e-14)


def test_gradient_and_hessian_against_differences(rng):
    for _ in range(20):
        u, wins, beta = rng.normal(size=K) * 3, rng.random((K, K)), rng.uniform(0.1, 2)
        with mp.workdps(60):
            slope = differences(lambda x, wins=wins, beta=beta: naive(x, wins, beta), u, 2.0**-20)
        assert_allclose(population.gradient(u, wins, beta), slope, atol=1e-11)  # h² f''' = 1e-12 f'''
        bend = [
            (population.gradient(u + e, wins, beta) - population.gradient(u - e, wins, beta)) / 2e-4
            for e in 1e-4 * np.eye(K)
        ]
        assert_allclose(population.hessian(u, wins, beta), bend, atol=2e-8)  # h² f⁗/6 and eps/h


@given(margins, weights, st.floats(0.05, 3))
def test_the_objective_is_convex_and_blind_to_constants(u, wins, beta):
    H = population.hessian(u, wins, beta)
    assert_allclose(H, H.T)
    assert_allclose(H @ np.ones(K), 0, atol=1e-14)
    assert np.linalg.eigvalsh(H).min() >= -1e-14
    assert_allclose(population.gradient(u, wins, beta).sum(), 0, atol=1e-14)
    assert_allclose(
        population.objective(u + 7, wins, beta), population.objective(u, wins, beta), rtol=1e-12, atol=1e-13
    )


def chain(k):
    return np.eye(k, k=1) + np.eye(k, k=-1)


REF = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
REWARD = np.array([0.3, -1.2, 0.8, 2.0, -0.4])
SKEWED = np.array([0.9, 0.09, 0.009, 0.0009, 0.0001])
WEIGHTS = {"uniform": None, "reference": np.outer(REF, REF), "skewed": np.outer(SKEWED, SKEWED), "chain": chain(5)}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_the_minimizer_is_the_boltzmann_policy_whatever_pairs_are_met(name, beta):
    wins = population.bradley_terry_wins(REWARD, WEIGHTS[name])
    u = population.newton(wins, beta)
    assert_allclose(population.policy(u, REF), optimum.boltzmann(REF, REWARD, beta), atol=1e-10)
    assert_allclose(population.objective(u, wins, beta), population.entropy(wins), rtol=1e-13)


def test_labels_that_no_reward_explains_stay_above_the_entropy_and_depend_on_the_pairs():
    """A cycle on top of rewards: the twin of the test above."""
    P = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]])
    W = {"uniform": np.ones((3, 3)), "uneven": np.array([[0, 9, 1], [9, 0, 1], [1, 1, 0.0]])}
    found = {name: population.newton(P * w / (P * w).sum(), 1.0) for name, w in W.items()}
    wins = P * W["uniform"]
    assert population.objective(found["uniform"], wins, 1.0) > population.entropy(wins) + 0.01
    assert abs(found["uniform"] - found["uneven"]).max() > 0.1
    for name, u in found.items():
        assert_allclose(population.gradient(u, P * W[name], 1.0), 0, atol=1e-12)


def test_no_minimizer_where_some_never_lose_and_one_where_each_is_beaten():
    never_loses = np.array([[0, 1, 1], [0, 0, 1], [0, 1, 0.0]])
    with pytest.raises(ValueError, match=r"wins has no minimizer: responses \[0\] never lose to the others"):
        population.newton(never_loses, 1.0)
    apart = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0.0]])
    with pytest.raises(ValueError, match=r"responses \[.*\] never lose"):
        population.newton(apart, 1.0)
    u = population.newton(np.array([[0, 2, 1], [1, 0, 1], [1, 1, 0.0]]), 1.0)
    assert_allclose(
        u, [0.25435063, -0.25435063, 0], atol=5e-9
    )  # the published example of Bradley-Terry's maximum likelihood
    assert_allclose(population.newton(np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0.0]]), 1.0), 0, atol=1e-15)


def cliques():
    W = np.zeros((6, 6))
    W[:3, :3] = W[3:, 3:] = 1
    W[2, 3] = W[3, 2] = 0.05
    return W


GRAPHS = {
    "path": chain(6),
    "star": np.pad(np.ones((1, 5)), ((0, 5), (1, 0))) + np.pad(np.ones((1, 5)), ((0, 5), (1, 0))).T,
    "two cliques and a bridge": cliques(),
    "complete": np.ones((6, 6)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_descent_converges_at_the_predicted_rate(name):
    """The last ratio of errors against (λ_max - λ₂)/(λ_max + λ₂), within 1%."""
    reward, beta = np.array([0.5, -0.3, 0.2, 0.0, 0.4, -0.6]), 1.0
    wins = population.bradley_terry_wins(reward, GRAPHS[name])
    target = reward / beta - (reward / beta).mean()
    rate = population.linear_rate(population.hessian(target, wins, beta))
    u, errors = np.zeros(6), []
    for _ in range(60_000):
        u = u - rate.best_step * population.gradient(u, wins, beta)
        errors.append(np.linalg.norm(u - target))
        if errors[-1] < 1e-9:
            break
    last = min(10, len(errors) // 3)
    measured = (errors[-1] / errors[-1 - last]) ** (1 / last)
    assert measured == pytest.approx(rate.factor, rel=0.01)
    assert rate.at(rate.best_step) == pytest.approx(rate.factor, rel=1e-12)


def test_descent_diverges_beyond_the_limit_and_not_before():
    reward, beta = np.array([0.5, -0.3, 0.2]), 0.5
    wins = population.bradley_terry_wins(reward)
    target = reward / beta - (reward / beta).mean()
    rate = population.linear_rate(population.hessian(target, wins, beta))
    for times, converges in ((0.975, True), (1.025, False)):
        u = target + 1e-3 * np.array([1.0, -2.0, 1.0])
        for _ in range(2000):
            u = u - times * rate.limit * population.gradient(u, wins, beta)
        assert (np.linalg.norm(u - target) < 1e-8) == converges


def test_steps_scale_with_one_over_beta_squared_and_the_condition_number_does_not():
    wins = population.bradley_terry_wins(REWARD)
    rates = {beta: population.linear_rate(population.hessian(REWARD / beta, wins, beta)) for beta in (1.0, 0.1)}
    assert_allclose(rates[1.0].fastest / rates[0.1].fastest, 100, rtol=1e-12)
    assert_allclose(rates[1.0].factor, rates[0.1].factor, rtol=1e-12)


def test_leading_axes_are_problems_of_their_own(rng):
    u, reward = rng.normal(size=(2, 3, K)), rng.normal(size=(2, 3, K))
    wins = population.bradley_terry_wins(reward)
    for at in np.ndindex(2, 3):
        assert_allclose(wins[at], population.bradley_terry_wins(reward[at]), rtol=1e-14)
        for f in (population.objective, population.gradient, population.hessian):
            assert_allclose(f(u, wins, 0.4)[at], f(u[at], wins[at], 0.4), rtol=1e-13, atol=1e-16)


def test_margins_far_out_cost_what_they_should():
    u = np.array([1e4, -1e4])
    assert population.objective(u, [[0, 1], [0, 0]], 1.0) == 0
    assert population.objective(-u, [[0, 1], [0, 0]], 1.0) == 2e4
    assert_allclose(population.gradient(-u, [[0, 1], [0, 0]], 1.0), [-1, 1])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: population.objective([0, 0], np.ones((3, 3)), 1.0), r"wins has shape \(3, 3\) and u \(2,\); expected"),
        (lambda: population.objective([0, 0], [[0, -1], [1, 0]], 1.0), "wins holds -1.0; expected weights, at least 0"),
        (lambda: population.objective([0, np.nan], np.ones((2, 2)), 1.0), "u holds nan; expected finite numbers"),
        (lambda: population.gradient([0, 0], np.ones((2, 2)), -1.0), "beta is -1.0; expected a finite number above 0"),
        (lambda: population.newton(np.ones((2, 3, 3)), 1.0), r"wins has shape \(2, 3, 3\)"),
        (
            lambda: population.bradley_terry_wins([0, 1], [[0, 1], [2, 0]]),
            r"weight has shape \(2, 2\); expected .* symmetric",
        ),
        (lambda: population.bradley_terry_wins([0, 1], np.zeros((2, 2))), "weight leaves no pair"),
        (
            lambda: population.linear_rate(np.zeros((2, 2))),
            "hessian has the largest eigenvalue 0.0; expected one above 0",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
