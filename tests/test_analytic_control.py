"""Optima, values and gradients over all strings: against tilted strings one by one, fractions, finite differences."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from ngrams import REWARD, TOKENS, P, Q, along, brief, floats, lasting, rational, solution, strings, totals
from numpy.testing import assert_allclose

from analytic import _chains, ngram

EPS = np.finfo(float).eps
LOSSES = REWARD - 0.6  # every token loses: an optimum exists for every β


def softmax(W):
    p = np.exp(W - W.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


# ---- the optimum

@pytest.mark.parametrize("beta", [0.4, 1.0, 3.0])
def test_the_optimum_is_the_tilted_reference_over_all_strings(beta):
    table, log_z = ngram.optimum(P, REWARD, beta)
    assert_allclose(table.sum(axis=1), 1, rtol=4 * EPS)
    for y in strings(3, 5):
        tilted = np.log(along(P, y)).sum() + sum(along(REWARD, y)) / beta - log_z
        assert_allclose(np.log(along(table, y)).sum(), tilted, atol=1e-13)


@pytest.mark.parametrize(("vocab", "order"), [(2, 1), (3, 2), (2, 3), (3, 3)])
def test_z_and_the_optimum_of_rational_weights_in_exact_fractions(vocab, order):
    """e^{ρ/β} of 1/8 ... 7/8, so that every sum converges; π*(v|s) = ref e^{ρ/β} Z(s')/Z(s)."""
    ref, factor = rational(0, vocab, order), np.random.default_rng(1).integers(1, 8, size=(vocab ** (order - 1), vocab))
    weights = [[x * Fraction(int(f), 8) for x, f in zip(*rows, strict=True)] for rows in zip(ref, factor, strict=True)]
    Z = solution(weights, [row[0] for row in weights])
    table, log_z = ngram.optimum(floats(ref), 0.3 * np.log(factor / 8), 0.3)
    S = len(ref)
    exact = [[w * (Z[(v + vocab * s) % S] if v else 1) / Z[s] for v, w in enumerate(weights[s])] for s in range(S)]
    assert_allclose(log_z, np.log(float(Z[0])), rtol=1e-13)
    assert_allclose(ngram.log_partition(floats(ref), 0.3 * np.log(factor / 8), 0.3), log_z, rtol=0)
    assert_allclose(table, floats(exact), rtol=1e-13)


@pytest.mark.parametrize("order", [2, 3])
def test_z_over_strings_one_by_one(order):
    ref, reward = brief(1, order=order), np.random.default_rng(2).normal(size=(3 ** (order - 1), 3))
    weights = np.exp(totals(np.log(ref), 8, order) + totals(reward, 8, order) / 2.0)
    assert_allclose(ngram.log_partition(ref, reward, 2.0), np.log(weights.sum()), rtol=0, atol=1e-8)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.3, 5))
def test_every_policy_falls_short_of_the_optimum_by_beta_times_its_divergence(seed, beta):
    """J(p) = β log Z - β KL(p || π*), for any p: 32 roundings of terms as large as J and KL"""
    reward = np.random.default_rng(seed).normal(size=(3, 3)) - 1.5
    ref, p = brief(seed, end=0.3), brief(seed + 1, end=0.3)
    table, log_z = ngram.optimum(ref, reward, beta)
    best, short = beta * log_z, beta * ngram.kl(p, table)
    assert_allclose(ngram.value(table, ref, reward, beta), best, rtol=0, atol=32 * EPS * (10 + abs(best)))
    assert_allclose(ngram.value(p, ref, reward, beta), best - short, rtol=0, atol=1e-13 * (10 + short))


def test_the_value_is_minus_infinite_where_the_reference_cannot_follow():
    impossible = P.copy()
    impossible[1] = [0.7, 0.3, 0.0]
    assert ngram.value(P, impossible, REWARD, 1.0) == -np.inf
    assert ngram.value(impossible, P, REWARD, 1.0) > -np.inf


@pytest.mark.parametrize("beta", [1e-2, 1e-3, 1e-6, 1e-11])
def test_small_beta_is_the_best_string(beta):
    """"a" gains 0.5 - 0.6 and 0.3 - 0.6 at its end, more than "" or any other, at a probability of .5 × .3."""
    table, log_z = ngram.optimum(P, LOSSES, beta)
    best = -0.4 + beta * np.log(0.15)
    assert_allclose(beta * log_z, best, rtol=0, atol=4 * EPS + beta * np.exp(-0.1 / beta))
    assert_allclose(ngram.optimal_values(P, LOSSES, beta).V[0], best, rtol=0, atol=4 * EPS + beta * np.exp(-0.1 / beta))
    assert_allclose(table[:2], [[0, 1, 0], [1, 0, 0]], rtol=0, atol=1e-4)
    assert_allclose(ngram.expected_length(table), 1, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [1e3, 1e-3, -1e3])
def test_rewards_beyond_the_range_of_exp(size):
    """Forced along 20 tokens and free at the end: weights of e^±20,000, and their ratio, in 50 digits."""
    n = 20
    following = np.minimum(np.arange(n + 1)[:, None] + 1, n) * np.ones((1, 3), int)
    ref = np.vstack([np.tile([0.0, 0.5, 0.5], (n, 1)), [0.2, 0.4, 0.4]])
    reward = np.vstack([np.tile([0.0, size, size], (n, 1)), [1.0, -2.0, -2.0]])
    with mp.workdps(50):
        end = mp.mpf("0.2") * mp.e / (1 - mp.mpf("0.8") * mp.exp(-2))
        exact = float(n * mp.mpf(size) + mp.log(end))
    table, log_z = ngram.optimum(ref, reward, 1.0, following=following)
    assert_allclose(log_z, exact, rtol=8 * EPS, atol=1e-15)
    assert_allclose(table[:n], ref[:n], rtol=1e-12)
    assert_allclose(table[n, 1:], 0.4 * np.exp(-2), rtol=1e-12)
    rising = reward + size * np.array([1.0, 0, 0])  # moved to the end, as if from the beginning
    assert_allclose(ngram.log_partition(ref, rising, 1.0, following=following), exact + size, rtol=8 * EPS, atol=1e-15)


@pytest.mark.parametrize("dense", [1000, 3])
def test_what_no_string_visits_may_be_rewarded_at_will(dense, monkeypatch):
    """By LU, and over sparse rows."""
    monkeypatch.setattr(_chains, "DENSE", dense)
    following = np.tile([0, 1, 2], (4, 1))
    following[3] = 3
    ref, reward = np.vstack([P, [0.2, 0.4, 0.4]]), np.vstack([REWARD, [0.0, 1e6, 1e6]])
    table, log_z = ngram.optimum(ref, reward, 1.0, following=following)
    assert_allclose(log_z, ngram.log_partition(P, REWARD, 1.0), rtol=1e-14)
    assert_allclose(table[:3], ngram.optimum(P, REWARD, 1.0)[0], rtol=1e-14)
    assert_allclose(table[3].sum(), 1, rtol=4 * EPS)
    assert_allclose(ngram.critical_beta(ref, reward, following=following), ngram.critical_beta(P, REWARD), rtol=1e-13)
    following[2, 1] = 3
    with pytest.raises(ValueError, match="no optimum exists: the spectral radius of its transitions is e"):
        ngram.optimum(ref, reward, 1.0, following=following)


# ---- where there is none

def test_a_reward_of_one_a_token_has_the_critical_beta_of_the_closed_form():
    """Golden: 1/(-log ρ(T)), T = [[.4, .3], [.2, .4]], ρ = .4 + √.06."""
    assert_allclose(1 / -np.log(0.4 + np.sqrt(0.06)), 2.2800645465, rtol=0, atol=5e-11)
    for reward in (1.0, TOKENS):
        assert_allclose(ngram.critical_beta(P, reward), 1 / -np.log(0.4 + np.sqrt(0.06)), rtol=8 * EPS)
    assert_allclose(ngram.critical_beta(P, 3.5), 3.5 * ngram.critical_beta(P, TOKENS), rtol=8 * EPS)
    assert_allclose(ngram.spectral_radius(P), 0.4 + np.sqrt(0.06), rtol=8 * EPS)


@pytest.mark.parametrize("reward", [TOKENS, REWARD, 1e3 * REWARD, REWARD + np.array([[9e3], [0], [0]]) * [-1, 1, 1]])
def test_z_is_finite_above_the_critical_beta_and_nowhere_else(reward):
    critical = ngram.critical_beta(P, reward)
    assert_allclose(max(np.linalg.eigvals(P[1:, 1:] * np.exp(reward[1:, 1:] / critical)).real), 1, rtol=1e-13)
    ngram.optimum(P, reward, critical * 1.001)
    for beta in (critical * 0.999, critical / 3, critical / 300):
        with pytest.raises(ValueError, match=r"Z at beta = .* no optimum exists: the spectral radius of its"):
            ngram.optimum(P, reward, beta)


def test_the_message_states_the_radius():
    radius = max(np.linalg.eigvals(P[1:, 1:] * np.exp(REWARD[1:, 1:] / 0.1)).real)
    with pytest.raises(ValueError, match=rf"is {radius:.10g}; expected below 1"):
        ngram.optimum(P, REWARD, 0.1)
    with pytest.raises(ValueError, match=r"is 1.000000921; expected below 1"):  # e^{1/β - 1/β_c}, and not "1"
        ngram.optimum(P, TOKENS, ngram.critical_beta(P, TOKENS) * (1 - 2.1e-6))
    # a -> b -> a gains .5 in two tokens of probabilities .3 and .2; all else is e^-2000 of that
    with pytest.raises(ValueError, match=rf"is e\^{0.25e4 + np.log(0.06) / 2:.6g}; expected below 1"):
        ngram.optimum(P, REWARD, 1e-4)


@pytest.mark.parametrize("gain", [1e-2, 1.0, 1e3])
def test_one_cycle_that_gains_is_enough(gain):
    """a -> b -> a, at a loss of 999 and a gain of 999 + gain: (.3 × .2) e^{gain/β} is 1 at β_c, e^-2800 all else."""
    reward = np.array([[0.0, 0.0, 0.0], [0.0, -1e6, -999.0], [0.0, 999.0 + gain, -1e6]])
    assert_allclose(ngram.critical_beta(P, reward), gain / -np.log(0.06), rtol=1e-9)


def test_no_cycle_gains_and_every_beta_has_an_optimum():
    """Whatever the first token or the end may gain; twin: so does the cycle a -> a, by 1e-9."""
    reward = np.array([[5.0, 9.0, 7.0], [1e3, 0.0, -0.5], [3.0, 0.25, -0.25]])
    assert ngram.critical_beta(P, reward) == ngram.critical_beta(P, -1.0) == ngram.critical_beta(P, 0.0) == 0
    ngram.optimum(P, reward, 1e-6)
    reward[1, 1] = 1e-9
    assert_allclose(ngram.critical_beta(P, reward), 1e-9 / -np.log(0.4), rtol=1e-6)


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_the_critical_beta_is_at_most_that_of_the_steepest_cycle(seed):
    """m/(-log ρ(T)) with m the largest mean over the cycles a, b, ab; equal where all cycles have that mean."""
    rng = np.random.default_rng(seed)
    ref, reward = brief(seed, end=0.2), rng.normal(size=(3, 3))
    m = max(reward[1, 1], reward[2, 2], (reward[1, 2] + reward[2, 1]) / 2)
    bound = max(m, 0) / -np.log(ngram.spectral_radius(ref))
    assert ngram.critical_beta(ref, reward) <= bound * (1 + 1e-12)
    assert (ngram.critical_beta(ref, reward) > 0) == (m > 0)
    h = rng.normal(size=3)  # 2 a token, and what telescopes along any cycle
    assert_allclose(ngram.critical_beta(ref, 2 + h - h[:, None]), 2 / -np.log(ngram.spectral_radius(ref)), rtol=1e-12)


def test_a_longest_string_has_no_critical_beta():
    """Without a cycle the transitions are nilpotent."""
    ref, following = np.array([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]]), np.array([[0, 1], [0, 2], [0, 2]])
    assert ngram.spectral_radius(ref, following=following) == 0
    assert ngram.critical_beta(ref, 1.0, following=following) == 0
    assert ngram.critical_beta(ref, np.ones((3, 2)), following=following) == 0
    ngram.optimum(ref, np.ones((3, 2)), 1e-3, following=following)


def test_the_length_of_the_optimum_grows_without_end_towards_the_critical_beta():
    """E|y| (β/β_c - 1) → β_c/λ: E|y| = d log Z/d(λ/β) has a simple pole at ρ(T) e^{λ/β} = 1, and loses its digits."""
    critical = ngram.critical_beta(P, 1.0)
    for distance in (1e-3, 1e-6, 1e-9):
        table, _ = ngram.optimum(P, TOKENS, critical * (1 + distance))
        assert_allclose(ngram.expected_length(table) * distance, critical, rtol=30 * distance + 1e-14 / distance)


def limited(longest, at_the_limit):
    """P over contexts that count their tokens: after `longest` of them the row is `at_the_limit` of the table's"""
    n = np.arange(longest + 1)[:, None, None]
    following = np.arange(3) + 3 * np.minimum(n + 1, longest) + np.zeros((1, 3, 1), int)
    table = np.concatenate([np.tile(P, (longest, 1)), at_the_limit])
    return table, following.reshape(-1, 3)


def test_below_the_critical_beta_a_limit_on_length_is_where_the_length_goes():
    """At β = β_c/2, strings of at most 160 tokens have 158.9 on average; the oracle goes backwards from the limit."""
    longest, beta = 160, ngram.critical_beta(P, 1.0) / 2
    ref, following = limited(longest, np.tile([1.0, 0.0, 0.0], (3, 1)))
    table, log_z = ngram.optimum(ref, np.tile(TOKENS, (longest + 1, 1)), beta, following=following)
    # Z(n, s): of what follows n tokens, in units of e^{λ/β} a token; and its derivative, Z(n, s) E|further|
    Z, dZ, growth = np.ones(3), np.zeros(3), np.exp(1 / beta)
    for _ in range(longest):
        Z, dZ = P[:, 0] + growth * P[:, 1:] @ Z[1:], growth * P[:, 1:] @ (Z[1:] + dZ[1:])
    assert_allclose(ngram.expected_length(table, following=following), dZ[0] / Z[0], rtol=1e-12)
    assert_allclose(log_z, np.log(Z[0]), rtol=1e-13)
    assert_allclose(dZ[0] / Z[0], 158.9, rtol=0, atol=0.05)
    above, _ = ngram.optimum(ref, np.tile(TOKENS, (longest + 1, 1)), 8 * beta, following=following)
    assert ngram.expected_length(above, following=following) < 5  # above it, nowhere near


# ---- values

@pytest.mark.parametrize("beta", [0.3, 2.0])
def test_the_soft_bellman_equation_and_the_token_identity(beta):
    """V*, Q* and π*, written out: β log π*/ref is the advantage of a token."""
    V, Q_ = ngram.optimal_values(P, REWARD, beta)
    following = np.array([0, V[1], V[2]])
    assert_allclose(Q_, REWARD + following, rtol=8 * EPS)
    assert_allclose(V, beta * np.log((P * np.exp(Q_ / beta)).sum(axis=1)), rtol=1e-13)
    table, log_z = ngram.optimum(P, REWARD, beta)
    assert_allclose(beta * np.log(table / P), Q_ - V[:, None], rtol=0, atol=1e-14)
    assert_allclose(V[0], beta * log_z, rtol=4 * EPS)
    ours = ngram.policy_values(table, P, REWARD, beta)
    assert_allclose(ours.V, V, rtol=1e-13)
    assert_allclose(ours.Q, Q_, rtol=1e-13)


def test_the_values_of_a_policy_are_those_of_its_strings():
    """V(s) = J of strings that begin in s; Q(s, v) is one step of it."""
    V, Q_ = ngram.policy_values(Q, P, REWARD, 0.7)
    assert_allclose(V, [ngram.value(Q, P, REWARD, 0.7, start=s) for s in range(3)], rtol=1e-14)
    assert_allclose(V, (Q * (Q_ - 0.7 * np.log(Q / P))).sum(axis=1), rtol=1e-14)
    p = brief(3)
    log_p, log_ref, r = (totals(table, 8) for table in (np.log(p), np.log(P), REWARD))
    J = np.exp(log_p) @ (r - 0.7 * (log_p - log_ref))
    assert_allclose(ngram.policy_values(p, P, REWARD, 0.7).V[0], J, rtol=0, atol=1e-9)
    assert_allclose(ngram.value(p, P, REWARD, 0.7), J, rtol=0, atol=1e-9)


# ---- gradients

def difference(f, W, h=1e-3):
    """Of 4 points, fifth order: h⁴ f''''' and the rounding ε f/h"""
    slope = np.zeros(W.shape)
    for at in np.ndindex(W.shape):
        for k, c in ((1, 2 / 3), (-1, -2 / 3), (2, -1 / 12), (-2, 1 / 12)):
            moved = W.copy()
            moved[at] += k * h
            slope[at] += c / h * f(moved)
    return slope


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_policy_gradient_against_differences_of_the_exact_value(order):
    rng = np.random.default_rng(order)
    W, reward = rng.normal(size=(3 ** (order - 1), 3)), rng.normal(size=(3 ** (order - 1), 3))
    W[:, 0] += 1
    ref = brief(0, order=order, end=0.4)
    exact = ngram.policy_gradient(softmax(W), ref, reward, 0.7)
    assert_allclose(exact, difference(lambda W: ngram.value(softmax(W), ref, reward, 0.7), W), rtol=0, atol=1e-9)
    assert_allclose(exact.sum(axis=1), 0, rtol=0, atol=1e-14)
    table, _ = ngram.optimum(ref, reward - 1.5, 0.7)
    assert_allclose(ngram.policy_gradient(table, ref, reward - 1.5, 0.7), 0, rtol=0, atol=1e-14)


def test_the_policy_gradient_of_long_strings_keeps_its_digits():
    """Strings of 1e10 tokens: N(s) p (Q - V) with Q and V of 1e10, in 60 digits."""
    p, ref = lasting(0, 1e-10), lasting(1, 1e-10)
    with mp.workdps(60):
        rows = [[mp.mpf(float(x)) for x in row] for row in p]
        rows = [[x / sum(row) for x in row] for row in rows]
        gain = [[mp.mpf(float(REWARD[s, v])) - mp.log(rows[s][v] / mp.mpf(float(ref[s, v]))) for v in range(3)]
                for s in range(3)]
        A = mp.eye(3)
        for s in range(3):
            for v in (1, 2):
                A[s, v] -= rows[s][v]
        V = mp.lu_solve(A, mp.matrix([sum(x * g for x, g in zip(rows[s], gain[s], strict=True)) for s in range(3)]))
        N = mp.lu_solve(A.T, mp.matrix([1, 0, 0]))
        exact = [[float(N[s] * rows[s][v] * (gain[s][v] + (V[v] if v else 0) - V[s])) for v in range(3)]
                 for s in range(3)]
    assert_allclose(ngram.policy_gradient(p, ref, REWARD, 1.0), exact, rtol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_fisher_information_is_that_of_the_scores_of_strings(order):
    """E ∂log p ∂log pᵀ, string by string: diagonal blocks as returned, and 0 between contexts."""
    p = brief(order, order=order)
    S = len(p)
    F = np.zeros((S, 3, S, 3))
    for y, mass in zip(strings(3, 8), np.exp(totals(np.log(p), 8, order)), strict=True):
        met = np.array(along(np.arange(3 * S).reshape(S, 3), y, order))
        score = np.zeros((S, 3))
        np.add.at(score, (met // 3, met % 3), 1)
        np.add.at(score, met // 3, -p[met // 3])
        F += mass * np.multiply.outer(score, score)
    blocks = F[np.arange(S), :, np.arange(S)]
    F[np.arange(S), :, np.arange(S)] = 0
    assert_allclose(F, 0, rtol=0, atol=1e-9)
    assert_allclose(ngram.fisher(p), blocks, rtol=0, atol=1e-9)
    x = np.random.default_rng(0).normal(size=(S, 3))
    assert_allclose(ngram.fisher_product(p, x), np.einsum("suv,sv->su", ngram.fisher(p), x), rtol=0, atol=1e-15)


def test_the_fisher_information_is_the_curvature_of_kl():
    """KL(p_W || p_{W+x}) = xᵀ F x/2 + O(x³), the odd order taken out by both signs"""
    W, x = np.log(P), 1e-3 * np.random.default_rng(0).normal(size=(3, 3))
    both = ngram.kl(P, softmax(W + x)) + ngram.kl(P, softmax(W - x))
    assert_allclose((x * ngram.fisher_product(P, x)).sum(), both, rtol=1e-5)


def test_the_natural_gradient_solves_the_fisher_system():
    """F⁺ ∂J/∂W by the pseudo-inverse of each block; also where a probability is 0 and where no string comes."""
    p = np.array([[0.2, 0.8, 0.0], [0.3, 0.4, 0.3], [0.5, 0.0, 0.5]])
    q = np.array([[0.2, 0.8, 0.0], [0.7, 0.3, 0.0], [0.4, 0.2, 0.4]])  # b never occurs
    for policy in (p, q, Q):
        gradient = ngram.policy_gradient(policy, P, REWARD, 0.7)
        blocks = np.linalg.pinv(ngram.fisher(policy), rcond=1e-10, hermitian=True)
        natural = ngram.natural_gradient(policy, P, REWARD, 0.7)
        assert_allclose(natural, np.einsum("suv,sv->su", blocks, gradient), rtol=0, atol=1e-13)
        assert_allclose(ngram.fisher_product(policy, natural), gradient, rtol=0, atol=1e-14)


def test_steps_of_one_over_beta_along_the_natural_gradient_are_soft_policy_iteration():
    """p → ref e^{Q/β}/Σ, J rises with each, and π* is where it ends."""
    p, beta, J = Q, 0.7, [ngram.value(Q, P, LOSSES, 0.7)]
    for _ in range(30):
        improved = P * np.exp(ngram.policy_values(p, P, LOSSES, beta).Q / beta)
        p = softmax(np.log(p) + ngram.natural_gradient(p, P, LOSSES, beta) / beta)
        assert_allclose(p, improved / improved.sum(axis=1, keepdims=True), rtol=1e-13)
        J.append(ngram.value(p, P, LOSSES, beta))
    assert (np.diff(J) > -1e-14).all()
    assert_allclose(p, ngram.optimum(P, LOSSES, beta)[0], rtol=1e-12)


# ---- sentences

@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: ngram.optimum(P, REWARD[:2], 1.0), r"reward has shape \(2, 3\); expected that of ref, \(3, 3\)"),
        (lambda: ngram.optimum(P, REWARD * np.nan, 1.0), r"reward is nan at \[0, 0\]; expected finite numbers"),
        (lambda: ngram.optimum(P, REWARD, 0.0), "beta is 0.0; expected one finite number above 0"),
        (lambda: ngram.value(P, P, REWARD, -1.0), "beta is -1.0; expected one finite number above 0"),
        (lambda: ngram.policy_gradient(P, P, REWARD, 0.0), "beta is 0.0; expected one finite number above 0"),
        (lambda: ngram.optimum(P, LOSSES, 1e-13), "beta is 1e-13, rewards are up to 1.2; expected above 1e-12 of"),
        (lambda: ngram.optimum(P, 1e3 * LOSSES, 1e-9), "beta is 1e-09, rewards are up to 1.2e"),
        (lambda: ngram.critical_beta(P, np.inf), "reward is inf; expected finite numbers"),
        (lambda: ngram.critical_beta(P, REWARD[0]), r"reward has shape \(3,\); expected that of ref, \(3, 3\)"),
        (lambda: ngram.spectral_radius(-P), r"table is -0.2 at \[0, 0\]; expected weights, at least 0"),
        (lambda: ngram.fisher_product(P, [1.0]), r"x has shape \(1,\); expected that of p, \(3, 3\)"),
        (
            lambda: ngram.policy_gradient(P, [[0.2, 0.5, 0.3], [0.5, 0.5, 0.0], [0.4, 0.2, 0.4]], REWARD, 1.0),
            r"p is 0.3 at \[1, 2\], where ref is 0; expected no mass where ref has none",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_mass_where_the_reference_has_none_is_no_matter_where_no_string_comes():
    p = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.4, 0.2, 0.4]])
    ref = np.array([[0.4, 0.6, 0.0], [0.5, 0.4, 0.1], [1.0, 0.0, 0.0]])
    gradient = ngram.policy_gradient(p, ref, REWARD, 1.0)
    assert gradient[2].tolist() == [0, 0, 0]
    assert_allclose(gradient[:2], ngram.policy_gradient(p, P * 0 + ref[[0, 1, 1]], REWARD, 1.0)[:2], rtol=1e-14)
