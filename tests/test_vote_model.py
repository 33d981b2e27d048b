"""analytic.vote_model: a naive likelihood climbed by others; counts, linear programs, simulated votes."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import linprog, minimize

from analytic import bradley_terry as bt
from analytic import vote_model

BOTH = pytest.mark.parametrize("ties", ["davidson", "rao_kupper"])


def sigma(x):
    return 1 / (1 + np.exp(-x))


def naive(theta, outcome, left, right, x, ties):
    """log P of each vote, one at a time: theta is (strengths, γ, log of the tie parameter)"""
    K, found = len(theta) - x.shape[1] - 1, []
    for o, i, j, row in zip(outcome, left, right, x, strict=True):
        d, tie = theta[i] - theta[j] + row @ theta[K:-1], np.exp(theta[-1])
        if ties == "davidson":
            parts = np.exp(d / 2), tie, np.exp(-d / 2)
            p = np.array(parts) / sum(parts)
        else:
            win, loss = sigma(d - np.log(tie)), sigma(-d - np.log(tie))
            p = win, (tie**2 - 1) * win * loss, loss
        found.append(np.log(p[1 - o]))
    return np.array(found)


def drawn(rng, n=60, K=3, D=2):
    return (rng.integers(-1, 2, n), rng.integers(0, K, n), rng.integers(0, K, n), rng.normal(size=(n, D)))


def parameters(found):
    return np.concatenate([found.strength, found.gamma, [np.log(found.tie)]])


@BOTH
def test_it_is_where_others_climb_to(rng, ties):
    outcome, left, right, x = drawn(rng)
    weight = rng.uniform(0.2, 2, len(outcome))
    found = vote_model.fit(outcome, left, right, x, weight, ties)

    def loss(z):
        return -weight @ naive(np.array([z[0], z[1], -z[0] - z[1], *z[2:]]), outcome, left, right, x, ties)

    best = minimize(loss, [0, 0, 0, 0, 0.5], method="BFGS", options={"gtol": 1e-7})
    # BFGS with differences stops where its gradient's error, 1e-7 or so, does
    assert_allclose(parameters(found), [*best.x[:2], -best.x[:2].sum(), *best.x[2:]], rtol=0, atol=1e-6)
    assert found.log_likelihood == pytest.approx(-best.fun, abs=1e-10)


@BOTH
def test_scores_and_covariance_are_derivatives_by_differences(rng, ties):
    outcome, left, right, x = drawn(rng)
    found = vote_model.fit(outcome, left, right, x, ties=ties)
    theta, h, steps = parameters(found), 1e-5, np.eye(6)

    def each(theta):
        return naive(theta, outcome, left, right, x, ties)

    slopes = np.stack([(each(theta + h * e) - each(theta - h * e)) / (2 * h) for e in steps], axis=1)
    assert_allclose(found.scores, slopes, rtol=0, atol=1e-9)
    h = 1e-4
    H = np.array([[(each(theta + h * (a + b)) - each(theta + h * (a - b)) - each(theta - h * (a - b))
                    + each(theta - h * (a + b))).sum() / (4 * h * h) for b in steps] for a in steps])
    H[:3, :3] -= 1  # strengths move together for nothing: any curvature there leaves the others as they are
    off = np.linalg.inv(-H)
    center = np.eye(6)
    center[:3, :3] -= 1 / 3
    assert_allclose(found.covariance, center @ off @ center, rtol=0, atol=1e-6)


def test_without_covariates_it_is_the_fit_of_counts(rng):
    wins = rng.integers(1, 6, (4, 4))
    np.fill_diagonal(wins, 0)
    ties = np.triu(rng.integers(1, 4, (4, 4)), 1)
    i, j = np.nonzero(wins)
    k, m = np.nonzero(ties)
    outcome, left, right = np.repeat([1, 0], [len(i), len(k)]), np.append(i, k), np.append(j, m)
    weight = np.append(wins[i, j], ties[k, m])
    found, counts = vote_model.fit(outcome, left, right, weight=weight), bt.fit_davidson(wins, ties + ties.T)
    assert_allclose(found.strength, counts.reward, rtol=0, atol=1e-10)
    assert found.tie == pytest.approx(counts.nu, rel=1e-10)
    decided = vote_model.fit(np.ones(len(i), int), i, j, weight=wins[i, j])
    assert_allclose(decided.strength, bt.fit(wins), rtol=0, atol=1e-10)
    assert decided.tie == 0
    assert not decided.scores[:, -1].any()
    assert not decided.covariance[-1].any()
    information = bt.fisher(decided.strength, np.array(wins + wins.T, float))
    assert_allclose(decided.covariance[:4, :4], bt.covariance(information), rtol=0, atol=1e-12)


def test_the_side_of_a_vote_does_not_matter(rng):
    outcome, left, right, x = drawn(rng)
    turned = rng.random(len(outcome)) < 0.5
    other = vote_model.fit(np.where(turned, -outcome, outcome), np.where(turned, right, left),
                           np.where(turned, left, right), np.where(turned[:, None], -x, x))
    assert_allclose(parameters(other), parameters(vote_model.fit(outcome, left, right, x)), rtol=0, atol=1e-10)


@BOTH
def test_votes_of_weight_0_were_not_cast(rng, ties):
    outcome, left, right, x = drawn(rng)
    weight = np.repeat([1.0, 0.0], 30)
    found = vote_model.fit(outcome, left, right, x, weight, ties)
    half = vote_model.fit(outcome[:30], left[:30], right[:30], x[:30], ties=ties)
    assert_allclose(parameters(found), parameters(half), rtol=0, atol=1e-10)
    assert_allclose(found.covariance, half.covariance, rtol=0, atol=1e-10)


@BOTH
def test_probabilities_are_those_of_the_likelihood(rng, ties):
    outcome, left, right, x = drawn(rng)
    found = vote_model.fit(outcome, left, right, x, ties=ties)
    p = vote_model.probabilities(found, left, right, x)
    for column, o in enumerate((1, 0, -1)):
        said = naive(parameters(found), np.full(len(outcome), o), left, right, x, ties)
        assert_allclose(np.log(p[:, column]), said, rtol=0, atol=1e-12)
    assert_allclose(p.sum(axis=1), 1, rtol=0, atol=1e-14)


# ---- errors of votes that hang together

def test_the_sandwich_is_a_double_sum(rng):
    outcome, left, right, x = drawn(rng)
    cluster = rng.integers(0, 9, len(outcome))
    found = vote_model.fit(outcome, left, right, x)
    meat = np.zeros((6, 6))
    for a in range(len(outcome)):
        for b in range(len(outcome)):
            if cluster[a] == cluster[b]:
                meat += np.outer(found.scores[a], found.scores[b])
    expected = found.covariance @ meat @ found.covariance
    assert_allclose(vote_model.clustered(found, cluster), expected, rtol=0, atol=1e-13)
    names = np.array([f"pair {c}" for c in cluster])
    assert_allclose(vote_model.clustered(found, names), expected, rtol=0, atol=1e-13)


def test_clustered_intervals_hold_where_others_do_not(rng):
    """Five votes on each of 200 pairs that share a margin; the covariate, one a pair, says nothing"""
    pair, trials, held = np.repeat(np.arange(200), 5), 400, np.zeros(2)
    nobody = np.zeros(1000, int)
    for _ in range(trials):
        p = sigma(2 * rng.normal(size=200))[pair]
        outcome, x = np.where(rng.random(1000) < p, 1, -1), rng.normal(size=200)[pair]
        found = vote_model.fit(outcome, nobody, nobody, x)
        for k, cluster in enumerate((pair, None)):
            low, high = vote_model.intervals(found, cluster)
            held[k] += low[1] < 0 < high[1]
    spread = 3 * np.sqrt(0.95 * 0.05 / trials)
    assert abs(held[0] / trials - 0.95) < spread + 0.01  # a sandwich of 200 clusters is short by 1%
    assert held[1] / trials < 0.85


def test_intervals_are_around_the_parameters(rng):
    outcome, left, right, x = drawn(rng)
    found = vote_model.fit(outcome, left, right, x)
    low, high = vote_model.intervals(found, level=0.5)
    assert_allclose((low + high) / 2, parameters(found), rtol=0, atol=1e-14)
    assert_allclose((high - low) / 2, 0.6744897501960817 * np.sqrt(np.diag(found.covariance)), rtol=1e-12)


# ---- where there is no fit

def separated(outcome, X, tied):
    """Whether a direction agrees with every vote: a linear program over all of them"""
    rows = []
    for o, x in zip(outcome, X, strict=True):
        if o:
            rows += [[*(o * x), 0], [*(o * x / 2), -1]]
        else:
            rows += [[*(x / 2), 1], [*(-x / 2), 1]]
    R = np.array(rows)
    if not tied:
        R = R[::2, :-1]
    bounds = np.append(np.ones(len(R)), np.zeros(len(R)))
    best = linprog(-R.sum(axis=0), A_ub=np.vstack([R, -R]), b_ub=bounds, bounds=(None, None))
    return -best.fun > 1e-6


@BOTH
def test_it_is_refused_where_a_linear_program_finds_a_direction(rng, ties):
    counted = {True: 0, False: 0}
    for _ in range(60):
        n = int(rng.integers(5, 16))
        x = rng.integers(-2, 3, (n, 2)).astype(float)
        outcome = np.sign(x.sum(axis=1) + rng.integers(-1, 2, n)).astype(int)
        if np.linalg.matrix_rank(x) < 2:
            continue
        none = np.zeros(n, int)
        apart = separated(outcome, x, (outcome == 0).any())
        counted[bool(apart)] += 1
        if apart:
            with pytest.raises(ValueError, match="no finite fit: the likelihood rises without end"):
                vote_model.fit(outcome, none, none, x, ties=ties)
        else:
            found = vote_model.fit(outcome, none, none, x, ties=ties)
            assert abs(found.scores.sum(axis=0)).max() < 1e-6
    assert min(counted.values()) > 10


VOTES = {"outcome": [1, -1, 0, 1], "left": [0, 0, 0, 0], "right": [1, 1, 1, 1]}


@pytest.mark.parametrize(("change", "message"), [
    ({"ties": "half"}, "ties is 'half'; expected one of davidson, rao_kupper"),
    ({"outcome": [1, 2, 0, 1]}, r"outcome is 2.0 at \[1\]; expected 1, 0 or -1: left, tie, right"),
    ({"outcome": [1, -1, 0]}, r"the shapes of outcome \(3,\) and weight \(4,\) do not fit left \(4,\); expected one a"),
    ({"left": [0.0] * 4}, r"left has dtype float64 and shape \(4,\); expected \(n,\) whole numbers, at least 0"),
    ({"right": [1, 1, 1, -1]}, r"right has dtype int64 and shape \(4,\); expected \(n,\) whole numbers, at least 0"),
    ({"right": [1, 1]}, r"the shapes of left \(4,\) and right \(2,\) do not fit; expected \(n,\), both, n above 0"),
    ({"covariates": np.ones((3, 1))}, r"covariates have shape \(3, 1\); expected \(4, D\), a row a vote"),
    ({"covariates": [np.inf] * 4}, r"covariates is inf at \[0\]; expected finite numbers"),
    ({"covariates": np.ones(4)}, "the fit is not unique: items are unconnected, or a covariate is a combination of"),
    ({"right": [1, 1, 3, 3]}, "the fit is not unique: items are unconnected"),
    ({"right": [1, 1, 1, 2], "weight": [1, 1, 1, 0]}, "the fit is not unique: items are unconnected"),
    ({"weight": [1, -1, 1, 1]}, r"weight is -1.0 at \[1\]; expected weights, at least 0"),
    ({"outcome": [1, 1, 1, 1]}, "no finite fit: the likelihood rises without end along a direction that agrees with"),
    ({"outcome": [0, 0, 0, 0]}, "no finite fit: the likelihood rises without end along a direction that agrees with"),
    ({"outcome": [1, 1, -1, -1], "right": [0] * 4}, "there is nothing to fit: one item, no covariates, no ties"),
])
def test_votes_that_make_no_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        vote_model.fit(**{**VOTES, **change})


def test_questions_that_do_not_fit_are_refused():
    found = vote_model.fit(**VOTES)
    for bad, message in (({"cluster": [0, 1]}, r"cluster has shape \(2,\); expected one a vote, \(4,\)"),
                         ({"cluster": [0] * 4}, "cluster holds one label; expected at least two clusters"),
                         ({"level": 1.0}, "level is 1.0; expected above 0 and below 1")):
        with pytest.raises(ValueError, match=message):
            vote_model.intervals(found, **bad)
    with pytest.raises(ValueError, match="left or right holds item 2; expected items of the fit, below 2"):
        vote_model.probabilities(found, [0], [2])
    with pytest.raises(ValueError, match="covariates have 1 columns; expected those of the fit, 0"):
        vote_model.probabilities(found, [0], [1], [1.0])
