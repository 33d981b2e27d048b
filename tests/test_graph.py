"""analytic.graph: counts of digraphs, linear programs, exact fractions, closed spectra, and descent that ran."""

import math
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mpmath import mp
from numpy.testing import assert_allclose
from scipy.optimize import linprog, minimize
from scipy.special import log_expit

from analytic import graph, optimum, population

EPS = np.finfo(float).eps


def path(k):
    return np.eye(k, k=1) + np.eye(k, k=-1)


def star(k):
    W = np.zeros((k, k))
    W[0, 1:] = W[1:, 0] = 1
    return W


def cycle(k):
    return np.roll(np.eye(k), 1, axis=0) + np.roll(np.eye(k), -1, axis=0)


def complete(k):
    return np.ones((k, k)) - np.eye(k)


def cliques(k, bridge):
    """Two cliques of k, one edge between them."""
    W = np.kron(np.eye(2), complete(k))
    W[k - 1, k] = W[k, k - 1] = bridge
    return W


# Components


def reachable(arcs):
    """Warshall's closure, one node at a time."""
    reach = arcs | np.eye(len(arcs), dtype=bool)
    for k in range(len(arcs)):
        reach |= reach[:, [k]] & reach[[k], :]
    return reach


def test_components_are_what_can_be_reached_and_are_named_after_their_least_response(rng):
    arcs = rng.random((40, 7, 7)) < rng.choice([0.05, 0.15, 0.3], size=(40, 1, 1))
    weak, strong, exists = graph.components(arcs), graph.strong_components(arcs), graph.mle_exists(arcs)
    for prompt, at in enumerate(arcs):
        assert weak[prompt].tolist() == [np.flatnonzero(row)[0] for row in reachable(at | at.T)]
        both = reachable(at) & reachable(at).T
        assert strong[prompt].tolist() == [np.flatnonzero(row)[0] for row in both]
        assert exists[prompt] == reachable(at).all()
    assert 0 < exists.sum() < (weak == 0).all(axis=1).sum() < 40


def digraphs(k):
    """All 2^(k (k - 1)) of them, (..., k, k)."""
    arcs = np.array(list(product([0, 1], repeat=k * (k - 1))))
    wins = np.zeros((len(arcs), k, k))
    wins[:, ~np.eye(k, dtype=bool)] = arcs
    return wins


STRONG = {3: {3: 2, 4: 9, 5: 6, 6: 1}, 4: {4: 6, 5: 84, 6: 316, 7: 492, 8: 417, 9: 212, 10: 66, 11: 12, 12: 1}}


@pytest.mark.parametrize(("k", "weakly"), [(3, 54), (4, 3834)])
def test_as_many_labelled_digraphs_are_connected_as_combinatorics_counts(k, weakly):
    """Strongly, by number of arcs: OEIS A057273, 18 and 1606 in all; weakly: OEIS A003027."""
    wins = digraphs(k)
    strong = graph.mle_exists(wins)
    assert {m: int(strong[wins.sum(axis=(1, 2)) == m].sum()) for m in STRONG[k]} == STRONG[k]
    assert strong.sum() == sum(STRONG[k].values()) == {3: 18, 4: 1606}[k]
    assert (~graph.components(wins).any(axis=-1)).sum() == weakly


@pytest.mark.parametrize("n", [6, 12, 24])
def test_the_fit_of_coin_flips_exists_as_often_as_counts_say(n, rng):
    """n fair labels of random pairs of 4: Σ_m digraphs(m) onto(n, m)/12ⁿ, with onto(n, m) = m! × Stirling's number."""
    onto = {m: sum((-1) ** j * math.comb(m, j) * (m - j) ** n for j in range(m)) for m in STRONG[4]}
    exact = float(sum(count * Fraction(onto[m], 12**n) for m, count in STRONG[4].items()))
    reps, wins = 3000, np.zeros((3000, 4, 4))
    ordered = np.argwhere(~np.eye(4, dtype=bool))[rng.integers(12, size=(reps, n))]
    wins[np.arange(reps)[:, None], ordered[..., 0], ordered[..., 1]] = 1
    measured = graph.mle_exists(wins).mean()
    print(f"{n} labels: exact {exact:.4f}, of {reps} samples {measured:.4f}")
    assert abs(measured - exact) < 4 * np.sqrt(exact * (1 - exact) / reps)


def separable(wins):
    """Whether some rewards, not all equal, put no loser above its winner: a linear program."""
    winner, loser = np.nonzero(wins)
    eye = np.eye(len(wins))
    margins = eye[winner] - eye[loser]
    found = linprog(-margins.sum(axis=0), A_ub=-margins, b_ub=np.zeros(len(margins)), bounds=[(-1, 1)] * len(wins))
    return -found.fun > 1e-6


def test_the_fit_exists_where_no_rewards_separate_winners_from_losers(rng):
    """60 connected digraphs of 5: about half of them each."""
    seen = []
    while len(seen) < 60:
        wins = (rng.random((5, 5)) < 0.42) & ~np.eye(5, dtype=bool)
        if not graph.components(wins).any():
            seen.append((graph.mle_exists(wins), separable(wins)))
    assert all(exists != apart for exists, apart in seen)
    assert 12 < sum(exists for exists, _ in seen) < 48


def groups(wins):
    """Every group of responses that is compared with others: what it lost, of all these comparisons"""
    K = len(wins)
    for size in range(1, K):
        for group in map(list, combinations(range(K), size)):
            rest = [k for k in range(K) if k not in group]
            won, lost = wins[np.ix_(group, rest)].sum(), wins[np.ix_(rest, group)].sum()
            if won + lost:
                yield lost / (won + lost), group


def some_wins(rng):
    return rng.integers(0, 5, (5, 5)) * (rng.random((5, 5)) < 0.7) * (1 - np.eye(5)) * rng.choice([1e-3, 1.0, 1e3])


def test_the_largest_flip_is_the_least_share_that_any_group_lost(rng):
    wins = np.array([some_wins(rng) for _ in range(40)])
    least = [min([0.5, *(share for share, _ in groups(w))]) for w in wins]
    assert_allclose(graph.largest_flip(wins), least, rtol=0, atol=1e-12)
    assert 5 < np.count_nonzero(least) < 35
    assert graph.largest_flip(np.roll(np.eye(3), 1, axis=0)) == 0.5  # nobody's net is above 0
    connected = [len(set(graph.components(w))) == 1 for w in wins]
    assert (graph.mle_exists(wins)[connected] == (np.array(least) > 1e-12)[connected]).all()


def test_rdpo_has_a_minimum_below_the_largest_flip_and_none_above(rng):
    wins = rng.integers(1, 6, (4, 4)) * (1.0 - np.eye(4)) + np.diag([9, 9, 9], 1)
    most, (_, group) = graph.largest_flip(wins), min(groups(wins))
    assert 0.05 < most < 0.4

    def loss(r, eps):
        d = np.subtract.outer(r, r)
        return -(wins * (log_expit(d) + eps / (1 - 2 * eps) * d)).sum()

    below = minimize(lambda x: loss(np.append(0, x), most - 0.01), np.zeros(3), tol=1e-9)
    assert abs(below.x).max() < 20 and abs(below.jac).max() < 1e-3
    up = np.isin(np.arange(4), group).astype(float)
    assert loss(1e4 * up, most + 0.01) < loss(1e3 * up, most + 0.01) - 1 < 0
    assert loss(1e4 * up, most - 0.01) > loss(1e3 * up, most - 0.01) + 1


def test_weights_do_not_matter_to_connection_and_the_diagonal_does_not_either(rng):
    wins = digraphs(3)
    scaled = wins * 10 ** rng.uniform(-300, 300, wins.shape) + np.eye(3) * rng.integers(0, 2, (len(wins), 1, 3))
    for f in (graph.components, graph.strong_components, graph.mle_exists):
        assert (f(scaled) == f(wins)).all()


# The Laplacian


def test_the_laplacian_is_the_sum_of_squared_differences(rng):
    W = rng.random((1, 3, 5, 5))
    W += W.mT
    x = rng.normal(size=5)
    written = [sum(w[i, j] * (x[i] - x[j]) ** 2 for i in range(5) for j in range(i)) for w in W[0]]
    assert_allclose(np.einsum("i,qpij,j->qp", x, graph.laplacian(W), x), [written], rtol=1e-13)


def solved(A, B):
    """A⁻¹ B in exact fractions."""
    n = len(A)
    rows = [[*a, *b] for a, b in zip(A, B, strict=True)]
    for c in range(n):
        pivot = next(r for r in range(c, n) if rows[r][c])
        rows[c], rows[pivot] = rows[pivot], rows[c]
        rows[c] = [x / rows[c][c] for x in rows[c]]
        for r in set(range(n)) - {c}:
            rows[r] = [x - rows[r][c] * y for x, y in zip(rows[r], rows[c], strict=True)]
    return [row[n:] for row in rows]


def exact_pseudoinverse(W):
    """(L + J/K)⁻¹ - J/K with J all ones, in exact fractions, of connected weights."""
    K = len(W)
    w = [[Fraction(float(W[i, j])) if i != j else Fraction(0) for j in range(K)] for i in range(K)]
    shifted = [[(sum(w[i]) if i == j else -w[i][j]) + Fraction(1, K) for j in range(K)] for i in range(K)]
    inverse = solved(shifted, [[Fraction(int(i == j)) for j in range(K)] for i in range(K)])
    return [[x - Fraction(1, K) for x in row] for row in inverse]


def exact_resistance(W):
    G = exact_pseudoinverse(W)
    return np.array([[float(G[i][i] + G[j][j] - 2 * G[i][j]) for j in range(len(G))] for i in range(len(G))])


@pytest.mark.parametrize("decades", [0, 3, 30, 120])
def test_resistances_keep_their_digits_whatever_the_sizes_of_the_weights(decades, rng):
    """Weights over 10^-decades to 10^decades; about K roundings of ε a step; fractions are exact."""
    for _ in range(5):
        W = np.triu(10 ** rng.uniform(-decades, decades, (6, 6)) * (rng.random((6, 6)) < 0.6), 1)
        W += np.diag(10 ** rng.uniform(-decades, decades, 5), 1) * (W == 0)  # a path, so that all are connected
        W += W.T
        R = exact_resistance(W)
        assert_allclose(graph.resistance(W), R, rtol=12 * EPS)
        exact = np.array(exact_pseudoinverse(W), float)
        assert_allclose(graph.pseudoinverse(W), exact, rtol=0, atol=20 * EPS * R.max())


def test_numpys_pseudoinverse_drops_what_a_weak_bridge_connects_and_ours_does_not():
    """Two pairs and a bridge of 1e-17: across it 1 + 1e17 + 1."""
    W = cliques(2, 1e-17)
    G = np.linalg.pinv(graph.laplacian(W), hermitian=True)
    assert abs(G).max() < 1
    assert_allclose(graph.pseudoinverse(W)[0], [0.25e17, 0.25e17, -0.25e17, -0.25e17], rtol=1e-14)
    assert_allclose(graph.resistance(W)[0], [0, 1, 1e17, 1e17], rtol=1e-14)
    strong = cliques(2, 1e-3)
    assert_allclose(np.linalg.pinv(graph.laplacian(strong), hermitian=True), graph.pseudoinverse(strong), rtol=1e-9)


@settings(max_examples=25)
@given(arrays(float, (6, 6), elements=st.floats(-6, 6)))
def test_conductance_times_resistance_adds_up_to_k_minus_1(log_weights):
    """Foster 1949: Σ_{i<j} Wᵢⱼ Rᵢⱼ = K - 1, each term the share of spanning trees through that edge."""
    W = np.triu(10**log_weights * (log_weights > 0), 1) + path(6) * 1e-3
    W = np.triu(W, 1) + np.triu(W, 1).T
    assert_allclose(np.triu(W * graph.resistance(W)).sum(), 5, rtol=64 * EPS)


def test_resistances_of_paths_cycles_stars_and_complete_graphs():
    i = np.arange(9)
    apart = abs(i[:, None] - i)
    assert_allclose(graph.resistance(path(9)), apart, rtol=4 * EPS)
    assert_allclose(graph.resistance(cycle(9)), apart * (9 - apart) / 9, rtol=9 * EPS)
    assert_allclose(graph.resistance(complete(9)), 2 / 9 * complete(9), rtol=9 * EPS)
    assert_allclose(graph.resistance(star(9))[1:, 1:], 2 * complete(8), rtol=4 * EPS)


def test_several_components_are_each_their_own_and_infinitely_far_apart(rng):
    """Components {0, 2, 4}, {1, 3} and {5}: what holds of each, put together."""
    parts, W = ([0, 2, 4], [1, 3], [5]), np.zeros((6, 6))
    R, G = np.full((6, 6), np.inf), np.zeros((6, 6))
    for part in parts:
        w = np.triu(rng.random((len(part), len(part))), 1)
        at = np.ix_(part, part)
        W[at] = w + w.T
        R[at] = graph.resistance(W[at])
        G[at] = graph.pseudoinverse(W[at])
    assert_allclose(graph.resistance(W), R, rtol=1e-14)
    assert_allclose(graph.pseudoinverse(W), G, rtol=1e-13, atol=1e-14)
    assert_allclose(graph.pseudoinverse(W), np.linalg.pinv(graph.laplacian(W)), rtol=0, atol=1e-12)


def test_networks_on_leading_axes_are_their_own(rng):
    W = np.triu(rng.random((1, 3, 4, 4)), 1)
    W += W.mT
    R, G, slowest = graph.resistance(W), graph.pseudoinverse(W), graph.fiedler(W)
    for at in np.ndindex(1, 3):
        assert_allclose(R[at], exact_resistance(W[at]), rtol=12 * EPS)
        assert_allclose(G[at], np.linalg.pinv(graph.laplacian(W[at])), rtol=0, atol=1e-13 * R[at].max())
        assert_allclose(slowest[at], np.linalg.eigvalsh(graph.laplacian(W[at]))[1], rtol=1e-12)


# The Fiedler value


@pytest.mark.parametrize("k", [2, 3, 6, 11])
def test_the_fiedler_value_of_paths_cycles_stars_and_complete_graphs(k):
    """Closed spectra (Fiedler 1973); what inverting and eigenvalues round is relative to λ₂."""
    assert_allclose(graph.fiedler(path(k)), 2 * (1 - np.cos(np.pi / k)), rtol=k * 8 * EPS)
    assert_allclose(graph.fiedler(complete(k)), k, rtol=k * 8 * EPS)
    if k > 2:
        assert_allclose(graph.fiedler(star(k)), 1, rtol=k * 8 * EPS)
        assert_allclose(graph.fiedler(cycle(k)), 2 * (1 - np.cos(2 * np.pi / k)), rtol=k * 8 * EPS)


@pytest.mark.parametrize("bridge", [1.0, 1e-3, 1e-18, 1e-200])
def test_the_fiedler_value_of_two_cliques_is_exact_however_weak_the_bridge(bridge):
    """Of an odd vector (a, .., a, b, -b, -a, ..): λ a = a - b and λ b = (k - 1)(b - a) + 2 w b."""
    k = 4
    with mp.workdps(450):
        w = mp.mpf(bridge)
        exact = float(((k + 2 * w) - mp.sqrt((k + 2 * w) ** 2 - 8 * w)) / 2)
    assert_allclose(graph.fiedler(cliques(k, bridge)), exact, rtol=64 * EPS)


def test_the_fiedler_value_is_0_where_weights_do_not_connect_and_above_where_they_do():
    apart, joined = cliques(3, 0.0), cliques(3, 1e-30)
    assert graph.fiedler(apart) == 0 < graph.fiedler(joined)
    assert graph.fiedler(np.array([apart, joined, complete(6)])).tolist() == [
        0, graph.fiedler(joined), graph.fiedler(complete(6))
    ]


@pytest.mark.parametrize("W", [path(6), star(6), cliques(3, 0.1)], ids=["path", "star", "cliques"])
def test_at_equal_rewards_descent_is_as_slow_as_the_fiedler_value_says(W):
    """The factor (λ_max - λ₂)/(λ_max + λ₂) of a run that was told the gradient alone."""
    beta, wins, slow = 0.5, population.bradley_terry_wins(np.zeros(6), W), graph.fiedler(W)
    fast = np.linalg.eigvalsh(graph.laplacian(W))[-1]
    u, errors = 1e-3 * np.array([3.0, -1, 4, -1, -5, 0]), []
    for _ in range(300):
        u = u - 2 / (beta**2 / 4 * (slow + fast)) * population.gradient(u, wins, beta)
        errors.append(np.linalg.norm(u))
    errors = [e for e in errors if 1e-12 < e < 1e-4]
    measured = (errors[-1] / errors[0]) ** (1 / (len(errors) - 1))
    assert measured == pytest.approx((fast - slow) / (fast + slow), rel=0.002)


# Where descent settles


REF = np.array([0.3, 0.2, 0.1, 0.1, 0.25, 0.05])
REWARD = np.array([0.5, -0.3, 0.2, 0.9, 0.4, -0.6])
BETA = 0.5


def pairs(*edges):
    W = np.zeros((6, 6))
    W[tuple(np.transpose(edges))] = 1
    return W + W.T


PAIRS = {
    "one component": path(6),
    "two unseen": pairs((0, 1), (1, 2), (2, 3)),
    "two components and one unseen": pairs((0, 1), (0, 4), (2, 3)),
    "nothing seen": np.zeros((6, 6)),
}


def settle(wins, direction, steps):
    """log π - log π_ref + constant after descent in the logits from π_ref; `direction` makes steps of gradients."""
    logits, log_ref = np.log(REF), np.log(REF)
    for step in range(1, steps + 1):
        logits = logits - direction(population.gradient(logits - log_ref, wins, BETA), step)
    return logits - log_ref


def plain(size):
    return lambda gradient, step: size * gradient


def momentum(size, keep=0.9):
    velocity = np.zeros(6)

    def direction(gradient, step):
        nonlocal velocity
        velocity = keep * velocity + gradient
        return size * velocity

    return direction


def adam(size):
    first, second = np.zeros(6), np.zeros(6)

    def direction(gradient, step):
        nonlocal first, second
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        return size * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-12)

    return direction


@pytest.mark.parametrize("seen", PAIRS)
@pytest.mark.parametrize("steps", ["plain", "momentum"])
def test_descent_settles_on_rewards_centered_in_each_component(seen, steps):
    """To 1e-10: by then it has converged, and rounding adds up to less."""
    wins = population.bradley_terry_wins(REWARD, PAIRS[seen])
    u = settle(wins, {"plain": plain(4.0), "momentum": momentum(1.0)}[steps], {"plain": 3000, "momentum": 1200}[steps])
    settled = graph.settled_reward(REWARD, wins)
    assert_allclose(population.policy(u, REF), optimum.boltzmann(REF, settled, BETA), rtol=0, atol=1e-10)
    parts = graph.components(wins)
    assert_allclose([u[parts == part].mean() for part in parts], 0, rtol=0, atol=1e-12)
    assert_allclose(BETA * u, settled, rtol=0, atol=1e-9)


def test_where_one_component_is_seen_the_unseen_get_its_plain_mean_reward_and_not_the_references():
    wins = population.bradley_terry_wins(REWARD, PAIRS["two unseen"])
    pi = population.policy(settle(wins, plain(4.0), 3000), REF)
    mean, weighted = REWARD[:4].mean(), REF[:4] @ REWARD[:4] / REF[:4].sum()
    assert_allclose(pi, optimum.boltzmann(REF, np.append(REWARD[:4], [mean, mean]), BETA), rtol=0, atol=1e-10)
    assert abs(pi - optimum.boltzmann(REF, np.append(REWARD[:4], [weighted, weighted]), BETA)).max() > 1e-2


def test_adam_ends_elsewhere_though_at_a_minimum_too():
    wins = population.bradley_terry_wins(REWARD, PAIRS["two unseen"])
    u = settle(wins, adam(0.002), 3000)
    assert_allclose(population.gradient(u, wins, BETA), 0, rtol=0, atol=1e-6)
    settled = optimum.boltzmann(REF, graph.settled_reward(REWARD, wins), BETA)
    assert abs(population.policy(u, REF) - settled).max() > 0.01


def test_any_constant_a_component_has_the_same_loss_and_another_policy():
    """The loss leaves these free, and descent alone fixes them; within one component there is nothing to fix."""
    wins = population.bradley_terry_wins(REWARD, PAIRS["two components and one unseen"])
    part, least = graph.components(wins), graph.settled_reward(REWARD, wins) / BETA
    assert part.tolist() == [0, 0, 2, 2, 0, 5]
    floor, pi = population.entropy(wins), population.policy(least, REF)
    for constants in ([1.0, 0, 0, 0, 0, 0], [0, 0, -2.0, 0, 0, 5.0]):
        moved = least + np.array(constants)[part]
        assert_allclose(population.objective(moved, wins, BETA), floor, rtol=1e-14)
        assert abs(population.policy(moved, REF) - pi).max() > 0.05
    assert_allclose(population.policy(least + 3.0, REF), pi, rtol=1e-14)


def test_settled_rewards_of_many_prompts_are_one_at_a_time(rng):
    wins, reward = digraphs(3), rng.normal(size=(64, 3))
    settled = graph.settled_reward(reward, wins)
    of_one = graph.settled_reward(reward[0], wins)
    for p in range(64):
        label = graph.components(wins[p])
        for r, found in ((reward[p], settled[p]), (reward[0], of_one[p])):
            assert_allclose(found, [x - r[label == at].mean() for x, at in zip(r, label, strict=True)], atol=1e-15)


# What is refused


RING = np.roll(np.eye(3), 1, axis=1)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: graph.components([0, 1]), "wins has shape (2,); expected (..., K, K)"),
        (lambda: graph.components(np.ones((2, 3))), "wins has shape (2, 3); expected (..., K, K)"),
        (lambda: graph.components(np.ones((0, 0))), "wins has shape (0, 0); expected (..., K, K)"),
        (lambda: graph.strong_components([[0, -1], [1, 0]]), "wins is -1.0 at [0, 1]; expected weights, at least 0"),
        (lambda: graph.mle_exists([[0, np.nan], [1, 0]]), "wins is nan at [0, 1]; expected finite numbers"),
        (
            lambda: graph.laplacian([[0, 1], [3, 0]]),
            "weight differs from its transpose by 2.0; expected a symmetric one",
        ),
        (lambda: graph.laplacian([[0, -1], [-1, 0]]), "weight is -1.0 at [0, 1]; expected weights, at least 0"),
        (
            lambda: graph.resistance([[0, 1e-310], [1e-310, 0]]),
            "weight is 1e-310 at [0, 1]; expected 0, or from 1e-300 to 1e300",
        ),
        (
            lambda: graph.pseudoinverse([[0, 1e305], [1e305, 0]]),
            "weight is 1e+305 at [0, 1]; expected 0, or from 1e-300 to 1e300",
        ),
        (lambda: graph.fiedler([[0.0]]), "weight has shape (1, 1); expected (..., K, K) with K at least 2"),
        (
            lambda: graph.settled_reward([1.0, 2.0], np.ones((3, 3))),
            "the shapes of reward (2,) and wins (3,) do not fit; expected (..., K) with one K, responses last",
        ),
        (lambda: graph.settled_reward([np.inf, 2.0], np.ones((2, 2))), "reward is inf at [0]; expected finite numbers"),
        (
            lambda: graph.require_connected("pairs", [RING, RING * [1, 0, 0]]),
            "pairs at [1] never compares responses [0, 2] and [1]; expected comparisons that connect all of them",
        ),
        (
            lambda: graph.require_strongly_connected("wins", np.block([[RING, 0 * RING], [RING, RING]])),
            "wins has no minimizer: responses [3, 4, 5] never lose to the others; expected all to lose",
        ),
        (
            lambda: graph.require_strongly_connected("wins", [[RING], [np.eye(3, k=1)]]),
            "wins at [1, 0] has no minimizer: responses [0] never lose to the others; expected all to lose",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
        call()
    assert str(raised.value) == sentence


def test_what_is_connected_is_let_through():
    assert graph.require_connected("wins", np.array([RING, path(3)])) is None
    assert graph.require_strongly_connected("wins", np.array([RING, path(3)])) is None
    assert graph.require_connected("wins", np.triu(path(3))) is None


def test_one_response_and_no_prompts_at_all():
    assert graph.components([[0.0]]).tolist() == [0]
    assert graph.mle_exists([[0.0]])
    assert graph.resistance([[5.0]]).tolist() == graph.pseudoinverse([[5.0]]).tolist() == [[0.0]]
    assert graph.settled_reward([3.0], [[0.0]]).tolist() == [0.0]
    nothing = np.zeros((0, 3, 3))
    assert graph.components(nothing).shape == (0, 3)
    assert graph.mle_exists(nothing).shape == (0,)
    assert graph.resistance(nothing).shape == graph.pseudoinverse(nothing).shape == (0, 3, 3)


def test_weights_may_be_from_1e_minus_300_to_1e300_and_off_symmetry_by_rounding():
    W = np.array([[0, 0.3], [0.1 + 0.2, 0]])
    assert W[0, 1] != W[1, 0]
    assert_allclose(graph.resistance(W), [[0, 1 / 0.3], [1 / 0.3, 0]], rtol=4 * EPS)
    for size in (1e-300, 1e300):
        assert_allclose(graph.resistance([[0, size], [size, 0]])[0, 1], 1 / size, rtol=EPS)
    W[1, 0] += 1e-14
    with pytest.raises(ValueError, match="weight differs from its transpose by 1"):
        graph.resistance(W)
