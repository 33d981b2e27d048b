"""analytic.bradley_terry: sums over all outcomes and all rankings, other people's fits, and samples by the thousand."""

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mpmath import mp
from numpy.testing import assert_allclose
from scipy.optimize import linprog, minimize
from scipy.stats import binom

from analytic import bradley_terry as bt
from analytic import graph, optimum, population

EPS = np.finfo(float).eps
rewards = arrays(float, 4, elements=st.floats(-20, 20))


def exactly(x):
    return [mp.mpf(float(number)) for number in x]


# Two responses


@settings(max_examples=25)
@given(rewards)
def test_probabilities_are_strengths_over_their_sum(reward):
    with mp.workdps(40):
        strength = [mp.exp(r) for r in exactly(reward)]
        P = [[float(a / (a + b)) for b in strength] for a in strength]
    assert_allclose(bt.probabilities(reward), P, rtol=64 * EPS)  # a difference up to 40, rounded once


def test_probabilities_far_apart_and_prompts():
    assert bt.probabilities([1e3, -1e3]).tolist() == [[0.5, 1], [0, 0.5]]
    assert_allclose(bt.probabilities([0.0, 700.0])[0, 1], np.exp(-700), rtol=4 * EPS)
    many = bt.probabilities([[0.0, 1.0], [0.0, 2.0]])
    assert_allclose(many[:, 1, 0], 1 / (1 + np.exp([-1.0, -2.0])), rtol=4 * EPS)


def test_fits_are_those_of_choix(rng):
    """Its spectral method, iterated to 1e-12 or so of strengths that add up to 1."""
    choix = pytest.importorskip("choix")
    for _ in range(4):
        wins = rng.integers(0, 4, (5, 5)) + np.roll(np.eye(5, dtype=int), 1, axis=0)
        np.fill_diagonal(wins, 0)
        data = [(i, j) for i, j in np.ndindex(5, 5) for _ in range(wins[i, j])]
        assert_allclose(bt.fit(wins), choix.ilsr_pairwise(5, data, tol=1e-12), rtol=0, atol=1e-8)


def test_fits_whose_answer_is_known():
    """Two: log odds. A cycle: nothing. p = (t, 1/t, 1) where 3 = 3 t/(t + 1/t) + 2 t/(t + 1), wins against expected."""
    assert_allclose(bt.fit([[0, 7], [2, 0]]), np.log(7 / 2) / 2 * np.array([1, -1]), rtol=8 * EPS)
    assert_allclose(bt.fit(np.roll(np.eye(3), 1, axis=0)), 0, atol=1e-15)
    with mp.workdps(40):
        log_t = float(mp.log(mp.findroot(lambda t: 3 * t / (t + 1 / t) + 2 * t / (t + 1) - 3, mp.mpf("1.3"))))
    assert_allclose(bt.fit([[0, 2, 1], [1, 0, 1], [1, 1, 0]]), [log_t, -log_t, 0], rtol=0, atol=8 * EPS)
    reward = np.array([[1.0, -3.0, 2.0], [0.5, 0.25, -0.75]])
    assert_allclose(bt.fit(1e3 * bt.probabilities(reward)), reward, rtol=0, atol=1e-12)


def test_fits_that_do_not_exist_name_who_never_loses_and_who_is_never_met():
    with pytest.raises(ValueError, match=r"wins has no minimizer: responses \[1\] never lose to the others"):
        bt.fit([[0, 0, 1], [1, 0, 1], [1, 0, 0]])
    with pytest.raises(ValueError, match=r"wins never compares responses \[0, 2\] and \[1\]"):
        bt.fit([[0, 0, 1], [0, 0, 0], [1, 0, 0]])


def test_information_is_the_covariance_of_the_score(rng):
    """Σ P ∇log P ∇log Pᵀ over every outcome, ∇ by central differences of the naive logarithm: 1e-10 from h = 1e-5."""
    reward, W = np.array([0.4, -1.1, 0.7, 2.0]), np.triu(rng.random((4, 4)), 1)
    W += W.T

    def log_p(r, i, j):
        return np.log(np.exp(r[i]) / (np.exp(r[i]) + np.exp(r[j])))

    F = np.zeros((4, 4))
    for i, j in permutations(range(4), 2):
        score = [(log_p(reward + h, i, j) - log_p(reward - h, i, j)) / 2e-5 for h in 1e-5 * np.eye(4)]
        F += W[i, j] * np.exp(log_p(reward, i, j)) * np.outer(score, score)
    assert_allclose(bt.fisher(reward, W), F, rtol=0, atol=1e-9)
    assert_allclose(bt.fisher(reward), bt.fisher(reward, np.full((4, 4), 1 / 6)), rtol=8 * EPS)  # of 6 pairs, one
    assert_allclose(bt.fisher([reward, 2 * reward], W)[0], bt.fisher(reward, W), rtol=8 * EPS)


# How sure


def test_the_covariance_is_the_pseudoinverse_over_n():
    reward = np.array([0.4, -1.1, 0.7, 2.0])
    F = bt.fisher(reward)
    assert_allclose(bt.covariance(F, 50), np.linalg.pinv(F) / 50, rtol=1e-12)
    assert_allclose(bt.covariance(bt.fisher([[0 * reward, reward]]), 50)[0, 1], bt.covariance(F, 50), rtol=1e-14)
    assert_allclose(bt.covariance(F), 50 * bt.covariance(F, 50), rtol=4 * EPS)


def test_a_response_far_below_is_uncertain_and_the_others_are_not():
    """Reward -40 has information 2 e^-40/3; between the others 1/4 each, in series and parallel, decides."""
    F = bt.fisher([0.0, 0.0, -40.0])
    with mp.workdps(60):
        far = 1 / ((1 / (1 + mp.exp(-40))) * (1 / (1 + mp.exp(40))) / 3)
        near = mp.mpf(12)  # 1/(1/4 · 1/3)
        between, across = [float(1 / (1 / a + 1 / b)) for a, b in ((near, 2 * far), (far, far + near))]
    low, high = bt.difference_intervals([0.0, 0.0, -40.0], F, n=10, level=0.5)
    quartile = float(mp.sqrt(2) * mp.erfinv(0.5))
    assert_allclose((high - low)[0, 1:] / 2, quartile * np.sqrt([between / 10, across / 10]), rtol=1e-14)
    assert_allclose(np.diagonal(high - low), 0)
    assert np.linalg.pinv(F)[2, 2] < 100 < 1e16 < bt.covariance(F)[2, 2]  # what cuts small eigenvalues off is sure


@pytest.mark.parametrize("level", [1e-9, 0.5, 0.95, 1 - 1e-12])
def test_intervals_are_normal_quantiles_wide(level):
    reward, F = np.array([1.0, 3.0, 2.0]), bt.fisher([1.0, 3.0, 2.0])
    with mp.workdps(40):
        z = float(mp.sqrt(2) * mp.erfinv(mp.mpf(level)))
    G = np.linalg.pinv(F) / 40
    for found, center, variance in (
        (bt.intervals(reward, F, 40, level), reward - 2, G.diagonal()),
        (
            bt.difference_intervals(reward, F, 40, level),
            reward[:, None] - reward,
            G.diagonal()[:, None] + G.diagonal() - 2 * G,
        ),
    ):
        assert_allclose((found.low + found.high) / 2, center, rtol=0, atol=1e-14)
        assert_allclose(found.high - found.low, 2 * z * np.sqrt(abs(variance)), rtol=1e-6, atol=1e-7 * z)
    for f in (bt.intervals, bt.difference_intervals):  # 40 counted, not averaged; a level of 0.95 is the default
        assert_allclose(f(reward, 40 * F, level=level), f(reward, F, 40, level), rtol=0, atol=1e-12)
        assert_allclose(f(reward, F), f(reward, F, 1, 0.95), rtol=0)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_intervals_of_two_responses_hold_the_truth_as_often_as_they_say(level):
    """Exactly: over the binomial numbers of wins of 2000 comparisons; Wald's error is of order 1/√n for steps, 1/n."""
    n, odds = 2000, 0.6
    k = np.arange(n + 1)
    chance, inner = binom.pmf(k, n, 1 / (1 + np.exp(-odds))), slice(1, n)
    log_odds = np.log(k[inner] / (n - k[inner]))
    reward = np.stack([log_odds, 0 * log_odds], axis=-1)
    low, high = bt.difference_intervals(reward, bt.fisher(reward), n, level)
    held = (low[:, 0, 1] <= odds) & (odds <= high[:, 0, 1])
    assert chance[inner][held].sum() == pytest.approx(level, abs=0.012)
    low, high = bt.intervals(reward, bt.fisher(reward), n, level)
    assert (((low[:, 0] <= odds / 2) & (odds / 2 <= high[:, 0])) == held).all()


def sampled_fits(reward, n, reps, rng):
    """Newton's method on all samples at once; whoever does not converge has no fit, which n makes unlikely."""
    K, chance = len(reward), population.bradley_terry_wins(reward)
    wins = rng.multinomial(n, chance.ravel(), size=reps).reshape(reps, K, K) / n
    r = np.broadcast_to(reward, (reps, K)).copy()
    for _ in range(6):
        H, slope = population.hessian(r, wins, 1.0)[:, 1:, 1:], population.gradient(r, wins, 1.0)[:, 1:, None]
        r[:, 1:] -= np.linalg.solve(H, slope)[..., 0]
    assert abs(population.gradient(r, wins, 1.0)).max() < 1e-12
    return r - r.mean(axis=1, keepdims=True), wins


def test_root_n_times_the_error_is_normal_with_the_inverse_information(rng):
    """20 000 comparisons of 6, 2000 samples: F, its inverse, the excess loss (K - 1)/2n, the regret and the coverage.

    Each within 4 standard errors of its prediction; what is of order 1/n next to it is below a tenth of one.
    """
    n, reps, beta, ref = 20_000, 2000, 0.5, np.array([0.3, 0.2, 0.1, 0.1, 0.25, 0.05])
    reward = np.array([0.5, -0.3, 0.2, 0.9, -0.7, -0.6])
    F = bt.fisher(reward)
    G = bt.covariance(F, n)
    fits, wins = sampled_fits(reward, n, reps, rng)
    assert_allclose(fits[0], bt.fit(wins[0]), rtol=0, atol=1e-10)

    off = fits - reward
    spread = np.sqrt((np.trace(G) ** 2 + np.trace(G @ G)) / reps)  # of a sample covariance, in Frobenius norm
    assert np.linalg.norm(off.T @ off / reps - G) < 2 * spread < 0.15 * np.linalg.norm(G)

    star, values = optimum.boltzmann(ref, reward, beta), population.bradley_terry_wins(reward)
    quantities = {
        "mahalanobis": (n * np.einsum("ri,ij,rj->r", off, F, off), 5),
        "excess": (n * (population.objective(fits, values, 1.0) - population.entropy(values)), 5 / 2),
        "regret": (
            optimum.optimal_value(ref, reward, beta)
            - optimum.value(optimum.boltzmann(ref, fits, beta), ref, reward, beta),
            np.trace((np.diag(star) - np.outer(star, star)) @ G) / (2 * beta),
        ),
    }
    for name, (measured, predicted) in quantities.items():
        error = measured.std() / np.sqrt(reps)
        print(f"{name}: {measured.mean():.4g} ± {error:.2g}, predicted {predicted:.4g}")
        assert abs(measured.mean() - predicted) < 4 * error < 0.1 * predicted

    at_fit, (i, j) = bt.fisher(fits), np.triu_indices(6, 1)
    alone, apart = bt.intervals(fits, at_fit, n, 0.9), bt.difference_intervals(fits, at_fit, n, 0.9)
    difference = reward[i] - reward[j]
    for held in (
        (alone.low <= reward) & (reward <= alone.high),
        (apart.low[:, i, j] <= difference) & (difference <= apart.high[:, i, j]),
    ):
        assert_allclose(held.mean(axis=0), 0.9, rtol=0, atol=4 * np.sqrt(0.9 * 0.1 / reps))


# Ties


@settings(max_examples=25)
@given(rewards, st.floats(0, 50))
def test_davidson_is_win_tie_loss_as_strengths_to_their_geometric_mean(reward, nu):
    with mp.workdps(40):
        p, v = [mp.exp(r) for r in exactly(reward)], mp.mpf(nu)
        total = [[a + b + v * mp.sqrt(a * b) for b in p] for a in p]
        win = [[float(p[i] / total[i][j]) for j in range(4)] for i in range(4)]
        tie = [[float(v * mp.sqrt(p[i] * p[j]) / total[i][j]) for j in range(4)] for i in range(4)]
    found = bt.davidson(reward, nu)
    assert_allclose(found.win, win, rtol=64 * EPS)
    assert_allclose(found.tie, tie, rtol=64 * EPS, atol=1e-300)
    assert (found.loss == found.win.mT).all()


@settings(max_examples=25)
@given(rewards, st.floats(1, 50))
def test_rao_kupper_is_win_against_theta_times_the_other(reward, theta):
    with mp.workdps(40):
        p, t = [mp.exp(r) for r in exactly(reward)], mp.mpf(theta)
        win = [[float(a / (a + t * b)) for b in p] for a in p]
        tie = [[float((t**2 - 1) * a * b / ((a + t * b) * (b + t * a))) for b in p] for a in p]
    found = bt.rao_kupper(reward, theta)
    assert_allclose(found.win, win, rtol=64 * EPS)
    assert_allclose(found.tie, tie, rtol=128 * EPS, atol=1e-300)
    assert_allclose(found.win + found.tie + found.loss, 1, rtol=8 * EPS)


def test_ties_at_the_ends_of_their_ranges():
    reward = np.array([0.3, -2.0, 1e3])
    for found in (bt.davidson(reward, 0.0), bt.rao_kupper(reward, 1.0)):
        assert_allclose(found.win, bt.probabilities(reward), rtol=8 * EPS)
        assert not found.tie.any()
    assert_allclose(bt.davidson(reward, 1e300).tie[:2, :2], 1, rtol=4 * EPS)
    assert_allclose(bt.rao_kupper(reward, 1e300).tie[:2, :2], 1, rtol=4 * EPS)
    assert_allclose(bt.davidson(reward, 1.5).tie.diagonal(), 1.5 / 3.5, rtol=4 * EPS)
    assert_allclose(bt.rao_kupper(reward, 1.5).tie.diagonal(), 0.5 / 2.5, rtol=4 * EPS)


def test_a_preference_is_bradley_terry_under_davidson_and_not_under_rao_kupper():
    reward = np.array([0.3, -2.0, 1.0])
    given_one = {f: f(reward, 2.0).win / (1 - f(reward, 2.0).tie) for f in (bt.davidson, bt.rao_kupper)}
    assert_allclose(given_one[bt.davidson], bt.probabilities(reward), rtol=8 * EPS)
    assert abs(given_one[bt.rao_kupper] - bt.probabilities(reward)).max() > 0.02


def tied(W):
    return np.triu(W, 1) + np.triu(W, 1).T


def test_davidsons_fit_against_a_minimizer_that_knows_no_derivative(rng):
    for _ in range(2):
        wins, ties = rng.integers(1, 5, (3, 3)), tied(rng.integers(0, 4, (3, 3))) + tied(np.ones((3, 3)))

        def surprise(x, wins=wins, ties=ties):
            p, nu, total = np.exp([0, *x[:2]]), np.exp(x[2]), 0.0
            for i, j in combinations(range(3), 2):
                tie = nu * np.sqrt(p[i] * p[j])
                for weight, part in ((wins[i, j], p[i]), (wins[j, i], p[j]), (ties[i, j], tie)):
                    total -= weight * np.log(part / (p[i] + p[j] + tie))
            return total

        tight = {"xatol": 1e-10, "fatol": 1e-14, "maxfev": 5000, "maxiter": 5000}
        x = minimize(surprise, np.zeros(3), method="Nelder-Mead", options=tight).x
        reward, nu = bt.fit_davidson(wins, ties)
        assert_allclose(reward - reward[0], [0, *x[:2]], rtol=0, atol=1e-6)  # values alone: √ε
        assert_allclose(nu, np.exp(x[2]), rtol=1e-6)


def test_davidsons_fit_whose_answer_is_known():
    """Two: a wins, b losses, t ties are a : t : b. Expected outcomes as data: what expects them. No ties: no nu."""
    reward, nu = bt.fit_davidson([[9, 12], [3, 9]], [[5, 4], [4, 5]])  # the diagonal says nothing
    assert_allclose(reward, np.log(12 / 3) / 2 * np.array([1, -1]), rtol=1e-14)
    assert_allclose(nu, 4 / np.sqrt(36), rtol=1e-14)
    truth, W = np.array([1.0, -3.0, 2.0, 0.0]), tied(np.arange(16.0).reshape(4, 4))
    for chance in (1e-5, 0.7, 300.0):
        expected = bt.davidson(truth, chance)
        reward, nu = bt.fit_davidson(W * expected.win, W * expected.tie)
        assert_allclose(reward, truth, rtol=0, atol=1e-10)
        assert_allclose(nu, chance, rtol=1e-10)
    wins = [[0, 2, 1], [1, 0, 1], [1, 1, 0]]
    reward, nu = bt.fit_davidson(wins, np.zeros((3, 3)))
    assert nu == 0 and (reward == bt.fit(wins)).all()


def davidson_is_separable(wins, ties):
    """Whether rewards and log nu can go somewhere where no outcome that came gets less likely, and one more."""
    K, rows = len(wins), []
    eye = np.eye(K + 1)
    for i, j in permutations(range(K), 2):
        half = (eye[i] - eye[j]) / 2
        if wins[i, j]:
            rows += [2 * half, half - eye[K]]  # at least as high as the loss, and as the tie
        if ties[i, j]:
            rows += [eye[K] - half]
    rows = np.array(rows)
    found = linprog(-rows.sum(axis=0), A_ub=-rows, b_ub=np.zeros(len(rows)), bounds=[(-1, 1)] * (K + 1))
    return -found.fun > 1e-6


def test_davidsons_fit_exists_where_nothing_separates_the_outcomes(rng):
    """Sets of wins and ties of 4 responses, all connected."""
    seen = []
    while len(seen) < 30:
        wins = (rng.random((4, 4)) < rng.choice([0.2, 0.4])) * (1 - np.eye(4))
        ties = tied((rng.random((4, 4)) < rng.choice([0.3, 0.6])) * 1.0)
        if ties.any() and not graph.components(wins + ties).any():
            try:
                fitted = np.isfinite(bt.fit_davidson(wins, ties).nu)
            except ValueError:
                fitted = False
            seen.append((fitted, davidson_is_separable(wins, ties)))
    assert all(fitted != apart for fitted, apart in seen)
    assert 6 < sum(fitted for fitted, _ in seen) < 24


# Rankings


def all_rankings(K):
    return np.array(list(permutations(range(K))))


def naive(reward, ranking, places=None):
    """Π e^r over the sum of what is left, of the first places."""
    strength, chance = np.exp(reward), 1.0
    for m in range(len(ranking) if places is None else places):
        chance *= strength[ranking[m]] / strength[ranking[m:]].sum()
    return chance


FIVE = np.array([0.5, -1.3, 0.2, 0.9, -0.7])


def test_a_ranking_is_one_choice_after_the_other():
    chance = np.exp(bt.ranking_log_probability(FIVE, all_rankings(5)))
    assert_allclose(chance, [naive(FIVE, ranking) for ranking in all_rankings(5)], rtol=32 * EPS)
    assert_allclose(chance.sum(), 1, rtol=32 * EPS)
    choix = pytest.importorskip("choix")
    rankings = all_rankings(5)[::7]
    total = bt.ranking_log_probability(FIVE, rankings).sum()
    assert_allclose(total, choix.log_likelihood_rankings(rankings.tolist(), FIVE), rtol=1e-13)


def test_a_partial_ranking_is_the_sum_of_all_that_agree_with_it():
    """Those of some responses: of their order. The first places alone: of what comes first."""
    rankings = all_rankings(5)
    chance = np.array([naive(FIVE, ranking) for ranking in rankings])
    for some in ([3, 0], [4, 1, 2], [0, 4, 2, 1]):
        agree = [[y for y in ranking if y in some] == some for ranking in rankings]
        padded = some + [-1] * (5 - len(some))
        assert_allclose(bt.ranking_log_probability(FIVE, padded), np.log(chance[agree].sum()), rtol=64 * EPS)
        assert_allclose(bt.ranking_log_probability(FIVE, some), np.log(chance[agree].sum()), rtol=64 * EPS)
    for top in (1, 2, 5, 9):
        agree = (rankings[:, :top] == [2, 0, 4, 1, 3][:top]).all(axis=1)
        found = bt.ranking_log_probability(FIVE, [2, 0, 4, 1, 3], top)
        assert_allclose(found, np.log(chance[agree].sum()), rtol=64 * EPS)
    assert bt.ranking_log_probability(FIVE, [3, -1, -1]) == bt.ranking_log_probability(FIVE, [[-1]]) == 0


def test_rankings_of_two_are_bradley_terry():
    pairs = [(i, j) for i, j in permutations(range(5), 2)]
    P = bt.probabilities(FIVE)
    assert_allclose(bt.ranking_log_probability(FIVE, pairs), [np.log(P[pair]) for pair in pairs], rtol=32 * EPS)
    weight = np.arange(1.0, 21)
    wins = np.zeros((5, 5))
    wins[tuple(np.transpose(pairs))] = weight
    assert_allclose(bt.fit_rankings(pairs, weight), bt.fit(wins), rtol=0, atol=1e-13)
    assert_allclose(bt.ranking_fisher(FIVE, pairs, weight), bt.fisher(FIVE, wins + wins.T), rtol=0, atol=1e-13)


def test_rankings_far_apart_keep_their_digits_and_prompts_broadcast():
    assert bt.ranking_log_probability([0, 1e3, -1e3], [[0, 1, 2], [2, 0, 1]]).tolist() == [-1e3, -3e3]
    assert_allclose(bt.ranking_log_probability([60.0, 30.0, 0.0], [0, 1, 2]), -2 * np.exp(-30.0), rtol=1e-12)
    assert not bt.ranking_fisher([0, 1e3, -1e3], [[0, 1, 2], [2, 0, 1]]).any()
    many = bt.ranking_log_probability([[FIVE], [2 * FIVE]], all_rankings(5)[:3])
    assert many.shape == (2, 3)
    partial = np.where(np.arange(5) < 3, all_rankings(5)[:6], -1)
    deep = bt.ranking_log_probability(FIVE, partial.reshape(2, 3, 5))
    assert_allclose(deep.ravel(), bt.ranking_log_probability(FIVE, partial[:, :3]), rtol=8 * EPS)
    assert many[1, 2] == bt.ranking_log_probability(2 * FIVE, all_rankings(5)[2])


def test_fits_of_rankings_are_those_of_choix(rng):
    """Rankings of 2 to 5 of 5 responses; its spectral method, to 1e-10 or so."""
    choix = pytest.importorskip("choix")
    rankings = [rng.permutation(5)[: rng.integers(2, 6)] for _ in range(25)]
    padded = [[*ranking, *[-1] * (5 - len(ranking))] for ranking in rankings]
    fitted = choix.ilsr_rankings(5, [ranking.tolist() for ranking in rankings], tol=1e-12)
    assert_allclose(bt.fit_rankings(padded), fitted, rtol=0, atol=1e-8)


def test_the_population_of_rankings_gives_the_rewards_back_and_so_do_its_first_places():
    rankings = all_rankings(5)
    for top in (1, 2, None):
        chance = [naive(FIVE, ranking, top) / (24, 6)[top - 1] if top else naive(FIVE, ranking) for ranking in rankings]
        assert_allclose(bt.fit_rankings(rankings, chance, top), FIVE - FIVE.mean(), rtol=0, atol=1e-12)


def test_choices_of_the_best_are_fitted_by_their_shares():
    rankings, chosen = [[0, 1, 2], [1, 0, 2], [2, 1, 0]], np.array([5.0, 2.0, 1.0])
    log_share = np.log(chosen)
    assert_allclose(bt.fit_rankings(rankings, chosen, top=1), log_share - log_share.mean(), rtol=0, atol=1e-14)


def test_information_of_rankings_is_the_covariance_of_their_score():
    """Σ P ∇log P ∇log Pᵀ over all 120, and over the choices of the first two; central differences as above."""
    rankings = all_rankings(5)
    for top, same in ((None, 1), (2, 6)):
        chance = np.array([naive(FIVE, ranking, top) for ranking in rankings]) / same
        scores = [
            [(np.log(naive(FIVE + h, y, top)) - np.log(naive(FIVE - h, y, top))) / 2e-5 for h in 1e-5 * np.eye(5)]
            for y in rankings
        ]
        F = np.einsum("r,ri,rj->ij", chance, scores, scores)
        assert_allclose(bt.ranking_fisher(FIVE, rankings, chance, top), F, rtol=0, atol=1e-9)


@pytest.mark.parametrize("K", [2, 3, 4, 5, 6])
def test_a_ranking_of_equals_is_worth_2_k_minus_h_random_pairs(K):
    """2 (K - H_K): 1, 2.333, 3.833, 5.433, 7.1; and in every direction, so it is a multiple of the whole matrix."""
    rankings, equal = all_rankings(K), np.zeros(K)
    one = bt.ranking_fisher(equal, rankings, np.full(len(rankings), 1 / len(rankings)))
    worth = 2 * (K - sum(1 / k for k in range(1, K + 1)))
    assert_allclose(one, worth * bt.fisher(equal), rtol=0, atol=1e-14)


def test_a_ranking_is_worth_more_pairs_where_rewards_differ(rng):
    """Ratio of the variances tr F⁺, at 5 rewards from N(0, 1)."""
    for reward in rng.normal(size=(10, 5)):
        chance = np.exp(bt.ranking_log_probability(reward, all_rankings(5)))
        one = bt.covariance(bt.ranking_fisher(reward, all_rankings(5), chance))
        worth = np.trace(bt.covariance(bt.fisher(reward))) / np.trace(one)
        print(f"worth {worth:.2f} pairs")
        assert 5.4333 < worth < 10


def rankings_are_separable(rankings, K, top):
    rows = [np.eye(K)[y[m]] - np.eye(K)[worse] for y in rankings for m in range(top) for worse in y[m + 1 :]]
    rows = np.array(rows)
    found = linprog(-rows.sum(axis=0), A_ub=-rows, b_ub=np.zeros(len(rows)), bounds=[(-1, 1)] * K)
    return -found.fun > 1e-6


@pytest.mark.parametrize("top", [1, 3])
def test_fits_of_rankings_exist_where_no_rewards_separate_first_from_later(top, rng):
    seen = []
    for _ in range(16):
        rankings = np.array([[*rng.permutation(4)[:3]] for _ in range({1: 6, 3: 3}[top])])
        rankings = np.append(rankings, [[3, 2, 1], [0, 1, 2]][: rng.integers(1, 3)], axis=0)
        try:
            fitted = np.isfinite(bt.fit_rankings(rankings, top=top)).all()
        except ValueError:
            fitted = False
        seen.append((fitted, rankings_are_separable(rankings, 4, top)))
    assert all(fitted != apart for fitted, apart in seen)
    assert 2 < sum(fitted for fitted, _ in seen) < 14


# What is refused


F = bt.fisher([0.0, 0.0])
ONE = np.ones((2, 2))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: bt.probabilities([0, np.nan]), "reward is nan at [1]; expected finite numbers"),
        (lambda: bt.probabilities(1.0), "reward has shape (); expected (..., K)"),
        (lambda: bt.davidson([], 1.0), "reward has shape (0,); expected (..., K)"),
        (lambda: bt.fit([[0, -1], [1, 0]]), "wins is -1.0 at [0, 1]; expected weights, at least 0"),
        (lambda: bt.fisher([1.0]), "reward has shape (1,); expected (..., K) with K at least 2"),
        (lambda: bt.covariance([1.0, 2.0]), "fisher has shape (2,); expected (..., K, K)"),
        (lambda: bt.covariance(np.ones((2, 3))), "fisher has shape (2, 3); expected (..., K, K)"),
        (lambda: bt.covariance(F - np.eye(2) / 8), "the sum of fisher is -0.125 at [0]; expected 0"),
        (lambda: bt.covariance(F, n=0), "n is 0; expected one finite number above 0"),
        (lambda: bt.covariance(-F), "-fisher off its diagonal is -0.25 at [0, 1]; expected weights, at least 0"),
        (lambda: bt.covariance([F, F + np.eye(2)]), "the sum of fisher is 1.0 at [1, 0]; expected 0"),
        (
            lambda: bt.covariance([[1, -1], [-2, 2]]),
            "-fisher off its diagonal differs from its transpose by 1.0; expected a symmetric one",
        ),
        (
            lambda: bt.difference_intervals([0, 0], np.zeros((2, 2))),
            "fisher never compares responses [0] and [1]; expected comparisons that connect all of them",
        ),
        (lambda: bt.intervals([0, 0], F, level=1.0), "level is 1.0; expected above 0 and below 1"),
        (lambda: bt.difference_intervals([0, 0], F, level=0), "level is 0; expected above 0 and below 1"),
        (
            lambda: bt.intervals([0, 0, 0], F),
            "the shapes of reward (3,) and fisher (2,) do not fit; expected (..., K) with one K, responses last",
        ),
        (
            lambda: bt.difference_intervals([0], F),
            "the shapes of reward (1,) and fisher (2,) do not fit; expected (..., K) with one K, responses last",
        ),
        (lambda: bt.davidson([0, 0], -1.0), "nu is -1.0; expected a finite number, at least 0"),
        (lambda: bt.davidson([0, 0], np.inf), "nu is inf; expected a finite number, at least 0"),
        (lambda: bt.rao_kupper([0, 0], np.inf), "theta is inf; expected a finite number, at least 1"),
        (lambda: bt.rao_kupper([0, 0], 0.5), "theta is 0.5; expected a finite number, at least 1"),
        (
            lambda: bt.fit_davidson(ONE, np.ones((3, 3))),
            "the shapes of wins (2, 2) and ties (3, 3) do not fit; expected (K, K), both",
        ),
        (
            lambda: bt.fit_davidson([ONE], [ONE]),
            "the shapes of wins (1, 2, 2) and ties (1, 2, 2) do not fit; expected (K, K), both",
        ),
        (
            lambda: bt.fit_davidson(ONE, [[0, 1], [2, 0]]),
            "ties differs from its transpose by 1.0; expected a symmetric one",
        ),
        (
            lambda: bt.fit_davidson([[0, 1, 1], [0, 0, 1], [0, 1, 0]], tied(np.diag([0.0, 1], 1))),
            "wins + ties has no minimizer: responses [0] never lose to the others; expected all to lose",
        ),
        (
            lambda: bt.fit_davidson([[0, 1], [0, 0]], ONE),
            "no cycle has more wins than ties: nu and the rewards would rise without end; expected one",
        ),
        (
            lambda: bt.fit_davidson(np.zeros((2, 2)), ONE),
            "no cycle has more wins than ties: nu and the rewards would rise without end; expected one",
        ),
        (
            lambda: bt.fit_davidson([[0, 1], [0, 0]], np.zeros((2, 2))),
            "wins has no minimizer: responses [0] never lose to the others; expected all to lose",
        ),
        (
            lambda: bt.ranking_log_probability([0, 0], [0, 2]),
            "ranking is 2 at [1]; expected responses, 0 to 1, or -1",
        ),
        (
            lambda: bt.ranking_log_probability([0, 0], [0, -2]),
            "ranking is -2 at [1]; expected responses, 0 to 1, or -1",
        ),
        (
            lambda: bt.ranking_log_probability([0, 0], [[0, 1], [1, 1]]),
            "ranking is 1 at [1, 1]; expected each response once, and -1 after the last alone",
        ),
        (
            lambda: bt.ranking_log_probability([0, 0], [0, 0]),
            "ranking is 0 at [1]; expected each response once, and -1 after the last alone",
        ),
        (
            lambda: bt.ranking_log_probability([0, 0], [-1, 0]),
            "ranking is 0 at [1]; expected each response once, and -1 after the last alone",
        ),
        (
            lambda: bt.ranking_log_probability([0, 0], [0.0, 1.0]),
            "ranking has shape (2,) and dtype float64; expected (..., M), of integers",
        ),
        (lambda: bt.ranking_log_probability([0, 0], [0, 1], top=0), "top is 0; expected one whole number, at least 1"),
        (
            lambda: bt.ranking_log_probability(np.zeros((2, 2)), np.zeros((3, 1), int)),
            "the leading shapes of reward (2,) and ranking (3,) do not fit; expected them to broadcast",
        ),
        (
            lambda: bt.ranking_fisher(np.zeros((2, 2)), [[0, 1]]),
            "reward has shape (2, 2); expected (K,)",
        ),
        (
            lambda: bt.fit_rankings([[0, np.nan]]),
            "ranking has shape (1, 2) and dtype float64; expected (..., M), of integers",
        ),
        (
            lambda: bt.fit_rankings([0, 1]),
            "ranking has shape (2,); expected (R, M), rows of responses, one at least",
        ),
        (
            lambda: bt.fit_rankings(np.zeros((0, 3), int)),
            "ranking has shape (0, 3); expected (R, M), rows of responses, one at least",
        ),
        (lambda: bt.fit_rankings([[0, 1]], [1, 2]), "weight has shape (2,); expected (1,), one for each ranking"),
        (lambda: bt.fit_rankings([[0, 1]], [-1]), "weight is -1.0 at [0]; expected weights, at least 0"),
        (
            lambda: bt.fit_rankings([[0, 1, 2], [0, 2, 1]]),
            "ranking has no minimizer: responses [0] never lose to the others; expected all to lose",
        ),
        (
            lambda: bt.fit_rankings([[0, 1], [1, 0], [3, -1]]),
            "ranking never compares responses [0, 1] and [2] and [3]; expected comparisons that connect all of them",
        ),
        (
            lambda: bt.fit_rankings([[0, 1], [1, 0]], [1, 0]),
            "ranking has no minimizer: responses [0] never lose to the others; expected all to lose",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
        call()
    assert str(raised.value) == sentence


def test_one_response_is_certain_and_no_prompts_are_nothing():
    assert bt.probabilities(np.zeros((0, 3))).shape == bt.davidson(np.zeros((0, 3)), 1.0).tie.shape == (0, 3, 3)
    assert bt.probabilities([3.0]).tolist() == [[0.5]]
    assert bt.fit([[0.0]]).tolist() == bt.fit_rankings([[0]]).tolist() == [0.0]
    assert bt.covariance([[0.0]]).tolist() == [[0.0]]
    assert bt.intervals([3.0], [[0.0]]).high.tolist() == [0.0]
    assert bt.ranking_log_probability([3.0], [0]) == 0
