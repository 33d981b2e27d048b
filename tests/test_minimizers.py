"""analytic.minimizers: where the registry's losses, on exact populations, have no slope and where descent ends.

A population is every ordered pair of K responses, weighted by how often the first is preferred to the second. The loss
is `dn.LOSSES[name]` on log-softmax log-probs; nothing of `analytic` takes part in it.
"""

import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mpmath import mp
from numpy.testing import assert_allclose
from scipy.optimize import minimize

import dpo_numpy as dn
from analytic import minimizers, optimum, population, temperature

EPS = np.finfo(float).eps


def softmax(x):
    p = np.exp(x - x.max())
    return p / p.sum()


def sigma(x):
    return 1 / (1 + np.exp(-x))


def bradley_terry(reward):
    return sigma(reward[:, None] - reward)


class Population:
    """A loss over (B, 2) log-probs as a function of K logits: `f(logits)` is its value and gradient."""

    def __init__(self, loss, wins, ref, length=None, **facts):
        self.loss, self.wins = loss, np.asarray(wins, float)
        self.index = np.array([*np.ndindex(self.wins.shape)])
        of_responses = {"ref_logp": np.log(ref), "length": np.ones(len(ref)) if length is None else length, **facts}
        self.facts = {name: np.asarray(x)[self.index] for name, x in of_responses.items() if name in loss.needs}

    def __call__(self, logits):
        logp = logits - logits.max()
        logp = logp - np.log(np.exp(logp).sum())
        value, grad = self.loss(logp[self.index], weight=self.wins.ravel(), **self.facts)
        slope = np.zeros(len(logits))
        np.add.at(slope, self.index, grad)
        self.size = abs(grad).sum()  # of the terms that cancel
        return self.wins.ravel() @ value, slope - softmax(logits) * slope.sum()

    def vanishes_at(self, pi, sharp, size=None):
        """The slope is rounding: terms of size `size`, each moved by the errors, ε times `sharp`, of its exponents."""
        slope = self(np.log(pi))[1]
        size = self.size if size is None else size
        assert abs(slope).max() <= 64 * EPS * sharp * size, (abs(slope).max(), size, sharp)

    def descent(self, start):
        return softmax(minimize(self, start, jac=True, method="BFGS", options={"gtol": 1e-10}).x)


class World:
    def __init__(self, rng, k):
        self.k, self.beta = k, rng.uniform(0.3, 1.5)
        self.ref, self.reward = softmax(rng.normal(size=k)), rng.normal(size=k)
        self.length = rng.integers(1, 7, size=k).astype(float)
        W = rng.random((k, k)) * (rng.random((k, k)) < 0.5)
        W += np.eye(k, k=1)  # a chain connects them
        self.W = W + W.T
        self.wins = self.W * bradley_terry(self.reward)
        self.mu = softmax(rng.normal(size=k))


def f_dpo(divergence, alpha=0.5):
    return lambda w, r: minimizers.f_dpo(w.ref, r, w.beta, divergence, alpha)


#: loss, hyper-parameters besides beta, its policy for rewards r; every one a score that rises with π
SCORES = {
    "dpo": ("dpo", {}, lambda w, r: optimum.boltzmann(w.ref, r, w.beta)),
    "r_dpo": ("r_dpo", {"alpha": 0.3}, lambda w, r: minimizers.r_dpo(w.ref, r, w.length, w.beta, 0.3)),
    "r_dpo, longer": ("r_dpo", {"alpha": -0.2}, lambda w, r: minimizers.r_dpo(w.ref, r, w.length, w.beta, -0.2)),
    "ln_dpo": ("ln_dpo", {}, lambda w, r: minimizers.length_normalized(w.ref, r, w.length, w.beta)),
    "simpo": ("simpo", {"gamma": 0.0}, lambda w, r: minimizers.simpo(r, w.length, w.beta)),
    "alphapo": ("alphapo", {"gamma": 0.0, "alpha": 0.4}, lambda w, r: minimizers.alphapo(r, w.length, w.beta, 0.4)),
    "forward KL": ("f_dpo_forward_kl", {}, f_dpo("forward_kl")),
    "JS": ("f_dpo_js", {}, f_dpo("js")),
    "alpha": ("f_dpo_alpha", {"alpha": 0.7}, f_dpo("alpha", 0.7)),
    "alpha, order": ("f_dpo_alpha", {"alpha": 0.7, "convention": "order"}, f_dpo("alpha", 0.3)),
    "alpha = 2": ("f_dpo_alpha", {"alpha": 2.0}, f_dpo("alpha", 2.0)),
    "mixed chi2": ("f_dpo_chi2", {"mixed": True}, f_dpo("mixed_chi2")),
}


# The minimum itself


@pytest.mark.parametrize("k", [2, 3, 4, 5])
@pytest.mark.parametrize("case", SCORES)
def test_the_gradient_vanishes_and_descent_ends_at_the_formula(case, k, rng):
    name, hyper, policy = SCORES[case]
    for _ in range(3):
        w = World(rng, k)
        loss, pi = dn.LOSSES[name](beta=w.beta, **hyper), policy(w, w.reward)
        f = Population(loss, w.wins, w.ref, w.length)
        f.vanishes_at(pi, sharp=1 + abs(np.log(pi)).max() + abs(w.reward).max() / w.beta)
        floor = Population(dn.LOSSES["dpo"](beta=1.0), w.wins, np.ones(k) / k)(w.reward)[0]  # the labels' entropy
        assert_allclose(f(np.log(pi))[0], floor, rtol=1e-13)
        for start in rng.normal(size=(2, k)) / 2:
            # a slope of 1e-10, or values equal to ε, over the curvature: √ε times what a pair weighs
            assert_allclose(f.descent(np.log(pi) + start), pi, rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", SCORES)
def test_labels_that_no_reward_explains_put_the_fit_in_the_place_of_r(case, rng):
    name, hyper, policy = SCORES[case]
    w = World(rng, 4)
    P = rng.uniform(0.1, 0.9, size=(4, 4))
    wins = np.triu(w.W * P, 1) + np.tril(w.W * (1 - P.T), -1)
    fit = population.newton(wins, 1.0)
    f, pi = Population(dn.LOSSES[name](beta=w.beta, **hyper), wins, w.ref, w.length), policy(w, fit)
    f.vanishes_at(pi, sharp=64 * (1 + abs(np.log(pi)).max() + abs(fit).max() / w.beta))  # newton has its own rounding
    assert_allclose(f.descent(np.log(pi) + rng.normal(size=4) / 2), pi, rtol=0, atol=2e-5)
    refit = population.newton(wins * (1 + 3 * np.eye(4, k=1) + 3 * np.eye(4, k=-1)), 1.0)
    assert abs(policy(w, refit) - pi).max() > 1e-3  # and it moves with the pairs


@pytest.mark.parametrize("k", [2, 3, 5])
def test_ipo_is_least_squares(k, rng):
    for _ in range(3):
        w, tau = World(rng, k), rng.uniform(0.1, 1)
        P = rng.random((k, k))
        P = np.triu(P, 1) + np.tril(1 - P.T, -1) + np.eye(k) / 2
        loss = dn.LOSSES["ipo"](tau=tau)
        product, chain = np.outer(w.mu, w.mu) * P, w.W * P
        for wins, pi in ((product, minimizers.ipo(w.ref, P @ w.mu, tau)),
                         (product, minimizers.ipo_pairs(w.ref, product, tau)),
                         (chain, minimizers.ipo_pairs(w.ref, chain, tau))):
            f = Population(loss, wins, w.ref)
            f.vanishes_at(pi, sharp=4, size=wins.sum() * (abs(np.log(pi)).max() + 1 / tau))
            assert_allclose(f.descent(rng.normal(size=k)), pi, rtol=0, atol=1e-7)
        per_token = minimizers.length_normalized(w.ref, P @ w.mu, w.length, tau)
        f = Population(dn.LOSSES["ipo"](tau=tau, reduction="mean"), product, w.ref, w.length)
        f.vanishes_at(per_token, sharp=4, size=abs(np.log(per_token)).max() + 1 / tau)


def test_ipo_with_weights_of_very_different_sizes():
    """Heavy ones say u₀ - u₂ = -⅓; light ones alone place u₁, 4 (u₀ - u₁ + ½)² + 3 (u₁ - u₂ + ⅓)²."""
    wins = np.array([[0, 1e-40, 1e40], [3e-40, 0, 1e-40], [2e40, 2e-40, 0]])
    u = np.log(minimizers.ipo_pairs(np.full(3, 1 / 3), wins, 0.5))
    assert_allclose([u[2] - u[0], u[1] - u[0]], [1 / 3, 2 / 7], rtol=1e-14)
    with pytest.raises(ArithmeticError, match="wins has weights too different for float64"):
        minimizers.ipo_pairs(np.full(3, 1 / 3), [[0, 1e-34, 1], [3e-85, 0, 1e-73], [1e-22, 9e36, 0]], 1)


@pytest.mark.parametrize("labels", ["hard", "soft"])
@pytest.mark.parametrize("pairs", ["from mu", "any"])
def test_sppo_meets_its_targets_as_well_as_a_normalized_table_can(pairs, labels, rng):
    for k in (2, 3, 5):
        w, beta = World(rng, k), rng.uniform(0.1, 0.6)
        P = rng.random((k, k))
        P = np.triu(P, 1) + np.tril(1 - P.T, -1) + np.eye(k) / 2
        mu = w.ref
        wins = np.outer(mu, mu) * P if pairs == "from mu" else w.W * P
        places = wins.sum(axis=1) + wins.sum(axis=0)
        mu, rate = places / places.sum(), wins.sum(axis=1) / places
        if pairs == "from mu":
            assert_allclose(mu, w.ref, rtol=1e-14)
            assert_allclose(rate, P @ w.ref, rtol=1e-14)
        ref = mu  # so that there is one minimum
        pi = minimizers.sppo(ref, mu, rate, beta)
        f = Population(dn.LOSSES["sppo"](beta=beta, labels=labels), wins, ref, win_rate=rate)
        f.vanishes_at(pi, sharp=4, size=wins.sum() * (abs(np.log(pi)).max() + 1 / beta))  # terms u - t
        assert_allclose(f.descent(np.log(pi) + rng.normal(size=k)), pi, rtol=0, atol=1e-6)


def test_sft_is_the_distribution_of_the_chosen(rng):
    w = World(rng, 4)
    P = bradley_terry(w.reward)
    wins, rate = 2 * np.outer(w.mu, w.mu) * P, P @ w.mu
    assert_allclose(minimizers.sft(w.mu, rate), 2 * w.mu * rate, rtol=1e-14)
    for name, pi in (("sft", minimizers.sft(w.mu, rate)), ("sft_mean", minimizers.sft(w.mu, rate, w.length))):
        Population(dn.LOSSES[name](), wins, w.ref, w.length).vanishes_at(pi, sharp=10)


@pytest.mark.parametrize("p", [0.03, 0.4, 0.5, 0.8, 0.97])
def test_margins_of_two_responses(p, rng):
    ref, length, beta = np.array([0.3, 0.7]), np.array([2.0, 5.0]), 0.4
    wins = [[0, p], [1 - p, 0]]

    def check(loss, pi):
        f = Population(loss, wins, ref, length)
        f.vanishes_at(pi, sharp=1 + abs(np.log(pi)).max() + 10 / beta)
        # a flat bottom: half the digits of the value over the smallest curvature here
        assert_allclose(f.descent(np.log(pi) + rng.normal(size=2) / 4), pi, rtol=0, atol=1e-5)

    for name, m in (("cdpo", minimizers.cdpo_margin(p, 0.2)), ("exo", minimizers.exo_margin(p, 0.2))):
        check(dn.LOSSES[name](beta=beta, eps=0.2), optimum.boltzmann(ref, [float(m), 0], beta))
    check(dn.LOSSES["rdpo"](beta=beta, eps=0.02), optimum.boltzmann(ref, [minimizers.rdpo_margin(p, 0.02), 0], beta))
    for gamma in (-1.0, 0.0, 1.4):
        m = float(minimizers.simpo_margin(p, gamma))
        check(dn.LOSSES["simpo"](beta=beta, gamma=gamma), minimizers.simpo([m, 0], length, beta))
        g, x = np.exp(gamma), np.exp(m)
        terms = np.array([(1 - p) * x**2, g * (1 - 2 * p) * x, -p])
        assert abs(terms.sum()) <= 16 * EPS * (1 + abs(m)) * abs(terms).sum()


def test_cdpo_of_many_responses_is_dpo_of_smoothed_labels_and_rdpo_undoes_flips(rng):
    w, eps = World(rng, 4), 0.15
    smoothed, flipped = ((1 - eps) * w.wins + eps * w.wins.T for _ in range(2))
    pi = population.policy(population.newton(smoothed, w.beta), w.ref)
    Population(dn.LOSSES["cdpo"](beta=w.beta, eps=eps), w.wins, w.ref).vanishes_at(pi, sharp=1e3)
    best = optimum.boltzmann(w.ref, w.reward, w.beta)
    Population(dn.LOSSES["rdpo"](beta=w.beta, eps=eps), flipped, w.ref).vanishes_at(best, sharp=20)


# f-divergences: the objective that they maximize


F = {
    "forward_kl": lambda u: -np.log(u),
    "js": lambda u: u * np.log(u) - (1 + u) * np.log((1 + u) / 2),
    "alpha": lambda u: (u - u**0.3 / 0.3) / 0.7,  # α = 0.7
    "chi2": lambda u: (u - 1) ** 2 / 2,
    "mixed_chi2": lambda u: u**2 / 2 + u * np.log(u) - u,
}


@pytest.mark.parametrize("divergence", F)
def test_f_dpo_maximizes_reward_less_the_divergence(divergence, rng):
    for _ in range(3):
        w = World(rng, 4)
        pi = minimizers.f_dpo(w.ref, w.reward, 2.0, divergence, 0.7)
        assert pi.min() > 1e-4

        def negative(x, w=w):
            p = softmax(x)
            return 2.0 * w.ref @ F[divergence](p / w.ref) - p @ w.reward

        found = softmax(minimize(negative, np.log(w.ref), method="BFGS", options={"gtol": 1e-8}).x)
        assert_allclose(found, pi, rtol=0, atol=1e-5)  # slopes by differences: 1e-8 over the curvature


def clipped(ref, reward, beta):
    """The χ² optimum by trial of every support: what is kept has 1 + (r-λ)/β > 0, what is not would have it below."""
    for kept in sorted(np.ndindex(*(2,) * len(ref)), key=sum, reverse=True):
        kept = np.array(kept, bool)
        if kept.any():
            lam = ref[kept] @ (reward[kept] + beta) / ref[kept].sum() - beta / ref[kept].sum()
            u = 1 + (reward - lam) / beta
            if (u[kept] > 0).all() and (u[~kept] <= 0).all():
                return np.where(kept, ref * u, 0)
    raise AssertionError


def test_chi2_clips_what_is_far_below(rng):
    zeros = 0
    for _ in range(50):
        w = World(rng, 5)
        pi = minimizers.f_dpo(w.ref, 2 * w.reward, w.beta, "chi2")
        assert_allclose(pi, clipped(w.ref, 2 * w.reward, w.beta), rtol=1e-13, atol=1e-15)
        assert_allclose(minimizers.f_dpo(w.ref, 2 * w.reward, w.beta, "alpha", -1.0), pi, rtol=0)
        zeros += (pi == 0).sum()
    assert zeros > 50


def test_where_chi2_clips_the_loss_has_a_minimum_of_its_own_and_where_it_does_not_it_has_not():
    ref, far, near = np.array([0.2, 0.2, 0.6]), np.array([2.0, 0.5, -4.0]), np.array([1.0, 0.5, 0.2])
    loss, apart = dn.LOSSES["f_dpo_chi2"](beta=1.0), {}
    for name, reward in (("far", far), ("near", near)):
        pi = minimizers.f_dpo(ref, reward, 1.0, "chi2")
        assert (pi == 0).tolist() == [False, False, name == "far"]
        for weight in (1.0, 20.0):
            W = np.array([[1, 1, weight], [1, 1, 1], [weight, 1, 1]])
            found = Population(loss, W * bradley_terry(reward), ref).descent(np.log(ref))
            apart[name, weight] = abs(found - pi).max()
    assert max(apart["near", 1.0], apart["near", 20.0]) < 1e-6
    assert apart["far", 1.0] > 0.025
    assert apart["far", 20.0] > 0.09
    reward = np.array([1.0, -3.0])
    assert minimizers.f_dpo([0.5, 0.5], reward, 1.0, "chi2").tolist() == [1, 0]
    assert Population(loss, bradley_terry(reward), [0.5, 0.5]).descent(np.zeros(2))[0] > 1 - 1e-6


# Values, by another way


def test_simpo_with_a_target_margin():
    with mp.workdps(40):
        m = mp.findroot(lambda m: -mp.mpf("0.8") / (1 + mp.exp(m - mp.mpf("1.4")))
                        + mp.mpf("0.2") / (1 + mp.exp(-m - mp.mpf("1.4"))), 2)
    assert_allclose(float(m), 2.52460, rtol=0, atol=5e-6)
    assert_allclose(minimizers.simpo_margin(0.8, 1.4), float(m), rtol=8 * EPS)
    assert_allclose(minimizers.simpo_margin(0.2, 1.4), -float(m), rtol=8 * EPS)


@pytest.mark.parametrize(
    ("tau", "policy"),
    [(0.1, (0.96437, 0.03440, 0.00123)), (0.5, (0.56274, 0.28892, 0.14834)), (1.0, (0.44844, 0.32132, 0.23024))],
)
def test_ipo_on_a_total_order(tau, policy):
    """Three pairs, each with certain labels: gaps 1/(3τ), as least squares in mpmath has it. A cycle gives π_ref."""
    order = np.triu(np.ones((3, 3)), 1)
    with mp.workdps(30):
        # u₁ - u₂ = x, u₂ - u₃ = y: (x - c)² + (y - c)² + (x + y - c)² is least at 2x + y = 2c = x + 2y
        gap = mp.lu_solve(mp.matrix([[2, 1], [1, 2]]), mp.matrix([1 / mp.mpf(tau)] * 2))
        weights = [mp.exp(gap[0] + gap[1]), mp.exp(gap[1]), mp.mpf(1)]
        exact = [float(x / sum(weights)) for x in weights]
    assert_allclose(exact, policy, rtol=0, atol=5e-6)
    uniform = np.full(3, 1 / 3)
    assert_allclose(minimizers.ipo_pairs(uniform, order, tau), exact, rtol=32 * EPS / tau)
    wins = (order + np.eye(3) / 2) / 3
    assert_allclose(minimizers.ipo(uniform, wins.sum(axis=1), tau), exact, rtol=32 * EPS / tau)
    ref, cycle = [0.2, 0.3, 0.5], np.roll(np.eye(3), 1, axis=1)
    assert_allclose(minimizers.ipo_pairs(ref, cycle, tau), ref, rtol=8 * EPS)
    assert_allclose(minimizers.ipo_pairs([0.5, 0.5], [[0, 1], [0, 0]], tau)[0], sigma(1 / (2 * tau)), rtol=8 * EPS)


@given(st.floats(0, 1), st.floats(0, 0.45))
def test_margins_in_fifty_digits(p, eps):
    with mp.workdps(50):
        q, e = mp.mpf(p), mp.mpf(eps)

        def log_odds(x, not_x):  # 1 - x has more digits than 50 where x is 1 but for 5e-324
            return np.inf if not_x <= 0 else -np.inf if x <= 0 else float(mp.log(x) - mp.log(not_x))

        smooth = log_odds(q * (1 - e) + (1 - q) * e, (1 - q) * (1 - e) + q * e)
        flip = log_odds(q - e, 1 - q - e)
        edge = min(float(min(abs(q - e), abs(1 - q - e))), 1.0)
        labels = float((2 * q - 1) * mp.log((1 - e) / e)) if eps else None
    assert_allclose(minimizers.cdpo_margin(p, eps), smooth, rtol=64 * EPS, atol=1e-300)
    if edge > 1e-12:  # closer, p - ε and 1 - p - ε are their rounding; they lose ε/edge
        assert_allclose(minimizers.rdpo_margin(p, eps), flip, rtol=64 * EPS, atol=8 * EPS / edge)
    if eps:
        assert_allclose(minimizers.exo_margin(p, eps), labels, rtol=64 * EPS / (1 - 2 * eps), atol=4 * EPS)


def test_a_certain_label():
    assert_allclose(minimizers.cdpo_margin([1.0, 0.0], 0.1), [2.1972245773362196, -2.1972245773362196], rtol=4 * EPS)
    assert_allclose(minimizers.exo_margin(1.0, 0.1), 2.1972245773362196, rtol=4 * EPS)
    assert minimizers.cdpo_margin([1.0, 0.0], 0.0).tolist() == [np.inf, -np.inf]
    assert minimizers.rdpo_margin([1.0, 0.95, 0.9], 0.1).tolist() == [np.inf] * 3
    assert minimizers.rdpo_margin([0.1, 0.05, 0.0], 0.1).tolist() == [-np.inf] * 3
    assert np.isfinite(minimizers.rdpo_margin([0.89, 0.11], 0.1)).all()
    assert minimizers.simpo_margin([1.0, 0.0], 1.0).tolist() == [np.inf, -np.inf]


def exactly(*arrays_):
    return ([mp.mpf(float(x)) for x in array] for array in arrays_)


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_roots_in_forty_digits(k, rng):
    w = World(rng, k)
    beta, win_rate = mp.mpf(w.beta), bradley_terry(w.reward) @ w.ref
    with mp.workdps(40):
        ref, r, n, rate = exactly(w.ref, w.reward, w.length, win_rate)
        ref, every = [x / sum(ref) for x in ref], range(k)
        t = [(rate[i] - mp.mpf("0.5")) / beta for i in every]

        def solved(weight, start):
            c = mp.findroot(lambda c: mp.log(sum(weight(c, i) for i in every)), start)
            return [float(weight(c, i)) for i in every]

        per_token = solved(lambda c, i: ref[i] * mp.exp(n[i] * (r[i] / beta + c)), 0)
        no_ref = solved(lambda c, i: mp.exp(n[i] * (r[i] / beta + c)), -3)
        forward = solved(lambda c, i: ref[i] * beta / (max(r) + mp.exp(c) - r[i]), 0)
        lambert = solved(lambda c, i: ref[i] * mp.exp(t[i] - mp.lambertw(mp.exp(c + t[i])).real),
                         mp.log(sum(ref[i] * mp.exp(t[i]) for i in every)))
    assert_allclose(minimizers.length_normalized(w.ref, w.reward, w.length, w.beta), per_token, rtol=1e-12)
    assert_allclose(minimizers.simpo(w.reward, w.length, w.beta), no_ref, rtol=1e-12)
    assert_allclose(minimizers.f_dpo(w.ref, w.reward, w.beta, "forward_kl"), forward, rtol=1e-12)
    assert_allclose(minimizers.sppo(w.ref, w.ref, win_rate, w.beta), lambert, rtol=1e-12)


# Laws


@settings(max_examples=20)
@given(arrays(float, 4, elements=st.floats(-20, 0)), arrays(float, 4, elements=st.floats(-5, 5)), st.floats(0.05, 5))
def test_limits_that_are_dpo(log_ref, reward, beta):
    ref = softmax(log_ref)
    best = optimum.boltzmann(ref, reward, beta)
    rounding = 64 * EPS * (21 + abs(reward).max() / beta)
    assert_allclose(minimizers.length_normalized(ref, reward, np.ones(4), beta), best, rtol=rounding, atol=1e-300)
    longer = minimizers.length_normalized(ref, reward, np.full(4, 3.0), 3 * beta)
    assert_allclose(longer, best, rtol=rounding, atol=1e-300)
    assert_allclose(minimizers.f_dpo(ref, reward, beta, "alpha", 0.0), best, rtol=rounding, atol=1e-300)
    assert_allclose(minimizers.f_dpo(ref, reward, beta, "alpha", 1e-320), best, rtol=rounding, atol=1e-300)
    assert_allclose(minimizers.simpo(reward, np.ones(4), beta), optimum.boltzmann(np.full(4, 0.25), reward, beta),
                    rtol=rounding, atol=1e-300)
    assert_allclose(minimizers.r_dpo(ref, reward + 2 * np.arange(1, 5), np.arange(1, 5), beta, 2.0), best,
                    rtol=64 * EPS * (21 + 13 / beta), atol=1e-300)


@settings(max_examples=20)
@given(arrays(float, 4, elements=st.floats(-600, 0)), arrays(float, 4, elements=st.floats(-1e3, 1e3)),
       arrays(float, 4, elements=st.floats(1, 1e4)), st.floats(1e-3, 1e3))
def test_nothing_overflows(log_ref, reward, length, beta):
    ref = softmax(log_ref)
    policies = [minimizers.length_normalized(ref, reward, length, beta), minimizers.simpo(reward, length, beta),
                minimizers.alphapo(reward, length, beta, 0.5), minimizers.r_dpo(ref, reward, length, beta, 1.0)]
    policies += [minimizers.f_dpo(ref, reward, beta, d, a) for d, a in
                 [(d, 0.5) for d in minimizers.DIVERGENCES] + [("alpha", 30.0), ("alpha", -3.0)]]
    policies += [minimizers.sppo(ref, ref, sigma(reward / 1e3), beta)] if ref @ sigma(reward / 1e3) > 0.5 else []
    for pi in policies:
        assert (pi >= 0).all()
        assert_allclose(pi.sum(), 1, rtol=8 * EPS)


def test_leading_axes_and_responses_without_mass(rng):
    ref, reward, length = rng.dirichlet(np.ones(3), size=(4, 1)), rng.normal(size=(2, 3)), np.array([1.0, 2.0, 5.0])
    rate = (ref[..., None, :] * sigma(reward[:, :, None] - reward[:, None, :])).sum(axis=-1)
    functions = [lambda p, r, q: minimizers.length_normalized(p, r, length, 0.5),
                 lambda p, r, q: minimizers.simpo(r, length + 0 * p, 0.5),
                 lambda p, r, q: minimizers.alphapo(r + 0 * p, length, 0.5, 0.5),
                 lambda p, r, q: minimizers.r_dpo(p, r, length, 0.5, 0.1),
                 lambda p, r, q: minimizers.ipo(p, q, 0.5),
                 lambda p, r, q: minimizers.sft(p, q, length),
                 lambda p, r, q: minimizers.sppo(p, p, q, 0.2),
                 lambda p, r, q: minimizers.kto(p, p, q, 0.4),
                 lambda p, r, q: minimizers.ipo_pairs(p, np.exp(r[..., :, None] - r[..., None, :]), 0.5)]
    functions += [lambda p, r, q, d=d: minimizers.f_dpo(p, r, 0.5, d) for d in minimizers.DIVERGENCES]
    for f in functions:
        together = f(ref, reward, rate)
        assert together.shape == (4, 2, 3)
        for at in np.ndindex(4, 2):
            assert_allclose(together[at], f(ref[at[0], 0], reward[at[1]], rate[at]), rtol=1e-13)
    short, longer = ([0.5, 0.5], [1.0, 0.0], [0.75, 0.25]), ([0.5, 0.0, 0.5], [1.0, 9.0, 0.0], [0.75, 0.5, 0.25])
    for f in (lambda p, r, q: minimizers.length_normalized(p, r, np.arange(1, len(p) + 1) // 2 + 1, 0.5),
              lambda p, r, q: minimizers.sppo(p, p, q, 0.2),
              lambda p, r, q: minimizers.kto(p, p, q, 0.4),
              *(lambda p, r, q, d=d: minimizers.f_dpo(p, r, 0.5, d) for d in minimizers.DIVERGENCES)):
        without, with_ = f(*short), f(*longer)
        assert with_[1] == 0
    assert_allclose(with_[[0, 2]], without, rtol=1e-14)
    assert_allclose(minimizers.sppo(longer[0], longer[0], longer[2], 0.2)[[0, 2]],
                    minimizers.sppo(short[0], short[0], short[2], 0.2), rtol=1e-14)


SLOPES = {
    "forward_kl": lambda u, alpha: -1 / u,
    "js": lambda u, alpha: mp.log(2 * u / (1 + u)),
    "alpha": lambda u, alpha: (1 - u**-alpha) / alpha,
    "mixed_chi2": lambda u, alpha: u + mp.log(u),
}


@pytest.mark.parametrize("rare", [0.2, 1e-2, 1e-5])
@pytest.mark.parametrize(("name", "alpha"), [*((name, 0.5) for name in SLOPES), ("alpha", 1e-6), ("alpha", 200.0)])
def test_slopes_of_f_differ_as_rewards_do(name, alpha, rare):
    """β (f'(u₀) - f'(uᵢ)) = r₀ - rᵢ, the best response being rare: one step of Newton's towards it, in forty digits"""
    ref, reward, beta = np.array([rare, 0.25, 0.75 - rare]), np.array([8.0, 1.5, -1.0]), 0.5
    pi = minimizers.f_dpo(ref, reward, beta, name, alpha)
    with mp.workdps(40):
        u = [x / y for x, y in zip(*exactly(pi, ref), strict=True)]

        def slope(x):
            return SLOPES[name](x, mp.mpf(alpha))

        elasticity = [x * mp.diff(slope, x) for x in u]
        for i in (1, 2):
            asked = slope(u[0]) - mp.mpf(float(reward[0] - reward[i])) / beta
            known = max(1, elasticity[0] / elasticity[i])  # u₀, known to ε, says of uᵢ no more than this
            assert abs((slope(u[i]) - asked) / elasticity[i]) <= 64 * EPS * known * (1 - np.log(rare))


def test_margins_next_to_even_odds_keep_their_digits():
    p = 0.5 + 3.3e-13
    odds = 4 * (p - 0.5)  # logit(p), up to its cube
    for margin, slope in ((minimizers.cdpo_margin(p, 0.25), 0.5), (minimizers.rdpo_margin(p, 0.25), 2.0),
                          (minimizers.simpo_margin(p, 0.0), 1.0)):
        assert_allclose(margin, slope * odds, rtol=8 * EPS)


def test_what_needs_no_root_is_there_at_once():
    equal = [[1.0, 1.0, 1.0], [2.0, 0.0, -1.0]]
    ref = np.array([0.5, 0.2, 0.3])
    for divergence in minimizers.DIVERGENCES:
        both = minimizers.f_dpo(ref, equal, 2.0, divergence)
        assert_allclose(both, [ref, minimizers.f_dpo(ref, equal[1], 2.0, divergence)], rtol=1e-14)
    for beta in (0.1, 1e6, 1e12):
        assert_allclose(minimizers.sppo(ref, ref, [0.5, 0.5, 0.5], beta), ref, rtol=1e-14)
    assert_allclose(minimizers.sppo(ref, ref, [0.6, 0.4, 0.4], 1e12), ref, rtol=1e-12)
    assert minimizers.length_normalized([0.5, 0, 0.5], [1, 9, 0], [1, 1, 1], 1e-308).tolist() == [1, 0, 0]


def test_far_margins():
    """Where e^γ or sinh are out of float64's reach, and where they are tiny."""
    with mp.workdps(60):
        for p, gamma in ((1e-300, 600.0), (0.5 + 1e-12, 0.5), (0.7, -800.0), (0.7, 800.0), (0.9, 30.0), (0.95, 3.0)):
            half = mp.log(mp.mpf(p) / (1 - mp.mpf(p))) / 2
            exact = half + mp.asinh(mp.exp(mp.mpf(gamma)) * mp.sinh(half))
            assert_allclose(minimizers.simpo_margin(p, gamma), float(exact), rtol=1e-13)


# What is not π*, by how much; and twins


def test_ipo_needs_pairs_that_are_a_product():
    ref, tau, P = np.full(3, 1 / 3), 0.2, bradley_terry(np.array([2.0, 0.0, -1.0]))
    product = np.outer(ref, ref) * P
    uneven = product * np.array([[1, 9, 1], [9, 1, 1], [1, 1, 1]])
    said = minimizers.ipo(ref, P @ ref, tau)
    found = {name: Population(dn.LOSSES["ipo"](tau=tau), wins, ref).descent(np.zeros(3))
             for name, wins in (("product", product), ("uneven", uneven))}
    assert abs(found["product"] - said).max() < 1e-8
    assert abs(found["uneven"] - said).max() > 0.01
    assert abs(found["uneven"] - minimizers.ipo_pairs(ref, uneven, tau)).max() < 1e-8


def test_simpo_forgets_the_reference_and_dpo_does_not():
    reward, length, beta = np.array([1.0, 0.0, -1.0]), np.ones(3), 1.0
    refs = np.array([[0.1, 0.2, 0.7], [1 / 3, 1 / 3, 1 / 3]])
    pi = minimizers.simpo(reward, length, beta)
    best = optimum.boltzmann(refs, reward, beta)
    assert abs(best[0] - pi).max() > 0.29
    assert_allclose(best[1], pi, rtol=1e-14)
    loss = dn.LOSSES["simpo"](beta=beta, gamma=0.0)
    for ref in refs:
        Population(loss, bradley_terry(reward), ref, length).vanishes_at(pi, sharp=4)


def test_smoothed_labels_of_three_are_no_longer_bradley_terry_and_along_a_tree_they_are():
    reward, eps, ref = np.array([2.0, 0.0, -2.0]), 0.1, np.full(3, 1 / 3)
    P = bradley_terry(reward)
    asked = minimizers.cdpo_margin(P, eps)
    gaps = {}
    for name, W in (("all", np.ones((3, 3))), ("tree", np.eye(3, k=1) + np.eye(3, k=-1))):
        pi = Population(dn.LOSSES["cdpo"](beta=1.0, eps=eps), W * P, ref).descent(np.zeros(3))
        met = np.log(pi[:, None] / pi)
        gaps[name] = abs(met - asked)[W > 0].max()
    assert gaps["tree"] < 1e-6
    assert gaps["all"] > 0.3
    assert abs(asked[0, 1] + asked[1, 2] - asked[0, 2]) > 0.78


def ray(loss, wins, direction, ref, sizes):
    f = Population(loss, wins, ref)
    return np.array([f(t * np.asarray(direction, float))[0] for t in sizes])


def test_rdpo_falls_without_bound_where_labels_are_surer_than_flips_can_be():
    """p = 1, ε = 0.1: -ε/(1-2ε) = -1/8 a unit of margin. At p below 1-ε it rises again."""
    loss, ref, sizes = dn.LOSSES["rdpo"](beta=1.0, eps=0.1), [0.5, 0.5], (10, 100, 1000)
    assert_allclose(ray(loss, [[0, 1], [0, 0]], [1, 0], ref, sizes), [-1.25, -12.5, -125], rtol=0, atol=1e-4)
    assert np.diff(ray(loss, [[0, 0.91], [0.09, 0]], [1, 0], ref, sizes)).max() < 0
    below = ray(loss, [[0, 0.89], [0.11, 0]], [1, 0], ref, sizes)
    assert np.diff(below).min() > 0
    m = minimizers.rdpo_margin(0.89, 0.1)
    assert ray(loss, [[0, 0.89], [0.11, 0]], [1, 0], ref, [m])[0] < below.min()


def test_rdpo_of_three_may_have_a_minimum_although_one_pair_is_too_sure():
    """Σ W (1-q) of {0} against the rest is -0.125 + W₀₂ (1 - q₀₂): what the pair saves, losses elsewhere cost."""
    loss, ref = dn.LOSSES["rdpo"](beta=1.0, eps=0.1), np.full(3, 1 / 3)
    for often, bounded in ((1.0, True), (0.1, False)):
        wins = np.array([[0, 1.0, 0.5 * often], [0, 0, 0.6], [0.5 * often, 0.4, 0]])
        slope = np.diff(ray(loss, wins, [1, 0, 0], ref, (100, 200)))[0]
        assert (slope > 0) == bounded
        if bounded:
            f = Population(loss, wins, ref)
            assert abs(f(np.log(f.descent(np.zeros(3))))[1]).max() < 1e-8


def test_dpo_of_a_certain_label_tends_to_0_and_cdpo_turns():
    values = {name: ray(dn.LOSSES[name](beta=1.0), [[0, 1], [0, 0]], [1, 0], [0.5, 0.5], (1, 2, 4, 8, 16))
              for name in ("dpo", "cdpo", "exo")}
    assert np.diff(values["dpo"]).max() < 0 and values["dpo"][-1] < 2e-7
    for name in ("cdpo", "exo"):
        assert np.diff(values[name])[-1] > 0


def test_sppo_is_not_an_exponential_of_win_rates_unless_beta_is_large():
    ref = np.array([0.2, 0.5, 0.3])
    rate = bradley_terry(np.array([3.0, 0.0, -3.0])) @ ref
    apart = [abs(minimizers.sppo(ref, ref, rate, beta) - optimum.boltzmann(ref, rate, beta)).max()
             for beta in (0.1, 1, 10)]
    assert apart[0] > 0.1
    assert_allclose(apart[1] / apart[2], 1000, rtol=0.1)  # third order in 1/β: of the second, W takes a constant
    assert_allclose(minimizers.sppo([0.5, 0.5], [0.5, 0.5], [0, 1], 5e-4), [0, 1], atol=1e-15)  # e^1000 is no float


def test_sppo_from_other_responses_than_the_reference_gives_may_have_two_minima():
    ref, mu = np.array([0.02, 0.49, 0.49]), np.array([0.98, 0.01, 0.01])
    P = np.array([[0.5, 1, 1], [0, 0.5, 0.5], [0, 0.5, 0.5]])
    f = Population(dn.LOSSES["sppo"](beta=0.1), np.outer(mu, mu) * P, ref)
    ends = [f.descent(np.log(start)) for start in ([0.02, 0.88, 0.1], [0.02, 0.1, 0.88])]
    assert abs(ends[0] - ends[1]).max() > 0.9
    assert_allclose(f(np.log(ends[0]))[0], f(np.log(ends[1]))[0], rtol=1e-9)
    with pytest.raises(ValueError, match=r"the sum of ref exp.* is 0\.\d+; expected at least 1"):
        minimizers.sppo(ref, mu, P @ mu, 0.1)
    assert minimizers.sppo(mu, mu, P @ mu, 0.1).shape == (3,)


def kto_loss(pi, ref, mu, q, **hyper):
    """`dn.LOSSES["kto"]`, each response desired μ q and undesired μ (1-q) of the time; pi (..., K), mass 0 allowed."""
    z0, k = hyper.pop("z0", 0.0), len(ref)
    log_pi = np.log(np.maximum(pi, 1e-300)).reshape(-1, k)
    rows = log_pi[..., None].repeat(2, axis=-1)  # desired, undesired
    loss = dn.LOSSES["kto"](**hyper)
    value = loss(rows.reshape(-1, 1), np.broadcast_to(np.log(ref)[:, None], rows.shape).reshape(-1, 1),
                 label=np.tile([True, False], rows.size // 2), z0=z0)[0]
    weighed = value.reshape(rows.shape) * mu[:, None] * np.stack([q, 1 - q], axis=-1)
    return weighed.sum(axis=(-2, -1))


KTO = ((0.1, {}, 0.0), (0.7, {"lam_d": 1.5, "lam_u": 1.0}, 0.3), (1.0, {"lam_d": 1.0, "lam_u": 2.0}, 1.0))


@pytest.mark.parametrize(("beta", "weights", "z0"), KTO)
def test_kto_is_below_every_other_policy_and_has_no_slope_among_those_it_keeps(beta, weights, z0, rng):
    """2000 policies, some close to it, some at corners and edges; slopes by differences of the loss, 1e-5 of mass."""
    kept = set()
    for _ in range(4):
        ref, mu, q = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4)), rng.random(4)
        hyper = {"beta": beta, "z0": z0, **weights}
        pi = minimizers.kto(ref, mu, q, **hyper)
        others = np.vstack([rng.dirichlet(np.full(4, a), size=500) for a in (1.0, 0.1)] + [np.eye(4)])
        near = 10 ** rng.uniform(-6, 0, size=(1000, 1))
        others = np.vstack([others, (1 - near) * pi + near * rng.dirichlet(np.ones(4), size=1000)])
        least = kto_loss(pi, ref, mu, q, **hyper)
        assert (kto_loss(others, ref, mu, q, **hyper) >= least - 4 * EPS).all()
        passed = q > weights.get("lam_u", 1) / (weights.get("lam_d", 1) + weights.get("lam_u", 1))
        assert (pi[~passed] == 0).all() if passed.any() else sorted(pi) == [0, 0, 0, 1]
        kept.add(passed.sum())
        held = np.flatnonzero(pi > 1e-3)
        for i, j in itertools.pairwise(held):
            move = 1e-5 * (np.eye(4)[i] - np.eye(4)[j])
            up, down = kto_loss(pi + move, ref, mu, q, **hyper), kto_loss(pi - move, ref, mu, q, **hyper)
            assert abs(up - down) / 2e-5 < 1e-6
    assert max(kept) > 1


def test_kto_keeps_what_is_desired_more_often_than_not_and_all_else_goes():
    """Threshold λ_U/(λ_D + λ_U): just above it a response has mass, just below it none. DPO leaves it some."""
    third = np.full(3, 1 / 3)
    for lam_d, lam_u, threshold in ((1.0, 1.0, 0.5), (1.0, 3.0, 0.75), (1.5, 1.0, 0.4)):
        for beta in (0.1, 0.5):
            above, below = (minimizers.kto(third, third, [0.9, threshold + x, 0.1], beta, lam_d, lam_u)[1]
                            for x in (0.05, -0.05))
            assert above > 1e-3 and below == 0
    assert minimizers.kto(third, third, [0.4, 0.3, 0.2], 0.1).tolist() == [1, 0, 0]
    assert minimizers.kto(third, third, [0.4, 0.5, 0.2], 0.1).tolist() == [0, 1, 0]
    rate = bradley_terry(np.array([1.0, 0.0, -0.3])) @ third
    assert (minimizers.kto(third, third, rate, 0.5) == 0).tolist() == (rate < 0.5).tolist() == [False, True, True]
    assert optimum.boltzmann(third, [1.0, 0.0, -0.3], 0.5).min() > 0.05


def test_if_nothing_passes_the_cheapest_response_keeps_all_and_beyond_beta_1_they_may_share():
    """One that the reference has much of is cheap: u = -log π_ref is small. At β = 3 a mixture may beat each alone."""
    ref, mu, q = np.array([0.9, 0.05, 0.05]), np.full(3, 1 / 3), np.array([0.45, 0.46, 0.1])
    assert minimizers.kto(ref, mu, q, 0.5).tolist() == [1, 0, 0]
    even, rate = np.full(3, 1 / 3), np.array([0.4, 0.4, 0.4])
    for beta, z0, shared_is_better in ((1.0, 0.0, False), (1.0, 1.0, False), (3.0, 1.0, True)):
        one, shared = (kto_loss(np.array(pi), even, even, rate, beta=beta, z0=z0) for pi in ([1.0, 0, 0], even))
        assert (shared < one) == shared_is_better


def test_apo_zero_of_pairs_ends_where_kto_does(rng):
    """The registry's loss at the formula, and on 1000 others; z₀ = 0 and λ_D = λ_U."""
    w = World(rng, 4)
    places = w.wins.sum(axis=1) + w.wins.sum(axis=0)
    pi = minimizers.kto(w.ref, places / places.sum(), w.wins.sum(axis=1) / places, 0.4)
    assert (pi == 0).any() and (pi > 0).sum() > 1
    f = Population(dn.LOSSES["apo_zero"](beta=0.4), w.wins, w.ref)
    least = f(np.log(np.maximum(pi, 1e-300)))[0]
    size = 10 ** rng.uniform(-4, 0, size=(200, 1))
    for other in (1 - size) * pi + size * rng.dirichlet(np.ones(4), size=200):
        assert f(np.log(other))[0] >= least


@pytest.mark.parametrize("p", [0.02, 0.4, 0.5, 0.8, 0.99])
def test_orpo_of_two_tokens_is_between_sft_and_the_odds_ratio(p):
    ref, wins = np.array([0.3, 0.7]), [[0, p], [1 - p, 0]]
    logit = np.log(p / (1 - p))
    for lam in (0.1, 1.0, 20.0):
        m = float(minimizers.orpo_margin(p, lam))
        pi = np.array([sigma(m), sigma(-m)])
        Population(dn.LOSSES["orpo"](lam=lam), wins, ref, np.ones(2)).vanishes_at(pi, sharp=8)
        assert min(logit, logit / 2) <= m <= max(logit, logit / 2) and (m != logit or p == 0.5)
        with mp.workdps(40):
            def slope(x, lam=lam):
                return 1 / (1 + mp.exp(-x)) - mp.mpf(p) + 2 * mp.mpf(lam) * (1 / (1 + mp.exp(-2 * x)) - mp.mpf(p))

            assert_allclose(m, float(mp.findroot(slope, m)), rtol=32 * EPS, atol=EPS)
    assert_allclose(minimizers.orpo_margin(p, 0.0), logit, rtol=16 * EPS, atol=EPS)
    assert_allclose(minimizers.orpo_margin(p, 1e15), logit / 2, rtol=16 * EPS, atol=EPS)


def test_orpo_at_the_ends_and_next_to_even_odds():
    """Small odds: (1 + 4λ) e^m = (1 + 2λ) p; near even ones: (1 + 4λ) m/4 = (1 + 2λ) (p - ½)."""
    assert minimizers.orpo_margin([1.0, 0.0], 0.3).tolist() == [np.inf, -np.inf]
    tiny = minimizers.orpo_margin(1e-200, 0.3)
    # at e^m << 1 the odds ratio's σ(2m) is below it by e^m
    assert_allclose(tiny, np.log(1e-200 * 1.6), rtol=4 * EPS)
    assert_allclose(minimizers.orpo_margin(0.5 + 3.3e-13, 0.3), 4 * 1.6 * (0.5 + 3.3e-13 - 0.5) / 2.2, rtol=8 * EPS)


LINKS = {
    "logistic": lambda m: np.log1p(np.exp(-m)),
    "savage": lambda m: 1 / (1 + np.exp(m)) ** 2,
    "exponential": lambda m: np.exp(-m),
    "squared": lambda m: (1 - m) ** 2,
    "truncated_squared": lambda m: np.maximum(0, 1 - m) ** 2,
    "hinge": lambda m: np.maximum(0, 1 - m),
}


@pytest.mark.parametrize("p", [0.1, 0.4, 0.8])
@pytest.mark.parametrize("link", LINKS)
def test_margins_of_the_links(link, p):
    """The least of 4000 margins, 0.002 apart, and nothing below the formula."""
    f, grid = LINKS[link], np.linspace(-4, 4, 4001)
    m = float(minimizers.gpo_margin(p, link))
    risk = p * f(grid) + (1 - p) * f(-grid)
    assert abs(grid[risk.argmin()] - m) < 2e-3
    assert p * f(m) + (1 - p) * f(-m) <= risk.min() + EPS


def test_links_that_have_losses_and_what_even_odds_leave():
    ref, p = np.array([0.3, 0.7]), 0.8
    for name, hyper, link, beta in (("dpo", {"beta": 0.4}, "logistic", 0.4), ("ipo", {"tau": 0.35}, "squared", 0.7)):
        pi = optimum.boltzmann(ref, [float(minimizers.gpo_margin(p, link)), 0], beta)
        Population(dn.LOSSES[name](**hyper), [[0, p], [1 - p, 0]], ref).vanishes_at(pi, sharp=16)
    for link in LINKS:
        assert minimizers.gpo_margin(0.5, link) == 0
    assert minimizers.gpo_margin([1.0, 0.0], "exponential").tolist() == [np.inf, -np.inf]


def test_with_three_responses_logits_add_up_and_other_margins_do_not():
    """r = (1, 0, -1): what its pairs ask for is met by the exponential loss, at half the reward."""
    reward = np.array([1.0, 0.0, -1.0])
    P = bradley_terry(reward)
    for link, adds_up in (("logistic", True), ("exponential", True), ("squared", False), ("hinge", False)):
        m = minimizers.gpo_margin(P, link)
        assert (abs(m[0, 1] + m[1, 2] - m[0, 2]) < 1e-14) == adds_up
    u = np.log(optimum.boltzmann(np.full(3, 1 / 3), reward, 2.0))
    slopes = (P * np.exp(-(u[:, None] - u))).sum(axis=1) - (P * np.exp(-(u[:, None] - u))).sum(axis=0)
    assert_allclose(slopes, 0, atol=1e-14)


def test_sft_on_the_chosen_is_inside_the_frontier_and_of_two_responses_on_it(rng):
    """Pairs from the reference. Two responses: every policy that prefers the better one is optimal for some β."""
    gaps = {}
    for k in (2, 3, 6):
        ref, reward = rng.dirichlet(np.ones(k), size=50), rng.normal(size=(50, k))
        pi = minimizers.sft(ref, np.stack([bradley_terry(r) @ q for r, q in zip(reward, ref, strict=True)]))
        best = temperature.frontier(ref, reward, optimum.kl(pi, ref))
        gaps[k] = (best.reward - (pi * reward).sum(axis=1)) / np.ptp(reward, axis=1)
    assert abs(gaps[2]).max() < 1e-14
    assert min(gaps[3].min(), gaps[6].min()) > 1e-9 and np.median(gaps[6]) > 1e-4


# Errors

HALF = [0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: minimizers.cdpo_margin(1.2, 0.1), "p is 1.2; expected probabilities, from 0 to 1"),
        (lambda: minimizers.rdpo_margin([0.5, np.nan], 0.1), "p is nan at [1]; expected probabilities, from 0 to 1"),
        (lambda: minimizers.cdpo_margin(0.5, 0.5), "eps is 0.5; expected at least 0 and below 0.5"),
        (lambda: minimizers.rdpo_margin(0.5, -0.1), "eps is -0.1; expected at least 0 and below 0.5"),
        (lambda: minimizers.exo_margin(0.5, 0), "eps is 0.0; expected above 0 and below 0.5"),
        (lambda: minimizers.simpo_margin(0.5, np.inf), "gamma is inf; expected finite numbers"),
        (lambda: minimizers.ipo(HALF, [0.5, -1], 1), "preference is -1.0 at [1]; expected probabilities, from 0 to 1"),
        (lambda: minimizers.ipo(HALF, HALF, 0), "tau is 0; expected one finite number above 0"),
        (lambda: minimizers.ipo_pairs(HALF, np.ones((3, 3)), 1),
         "wins has shape (3, 3); expected (..., 2, 2) as ref has 2 responses"),
        (lambda: minimizers.ipo_pairs(HALF, -np.eye(2), 1), "wins is -1.0 at [0, 0]; expected weights, at least 0"),
        (lambda: minimizers.ipo_pairs([0.5, 0.25, 0.25], np.eye(3, k=1) * [[1], [0], [0]], 1),
         "wins never compares responses [0, 1] and [2]; expected comparisons that connect all of them"),
        (lambda: minimizers.r_dpo(HALF, [0, 0], [1, 2], 1, np.nan), "alpha is nan; expected finite numbers"),
        (lambda: minimizers.simpo(HALF, [1, 0], 1), "length is 0.0 at [1]; expected numbers of tokens, above 0"),
        (lambda: minimizers.length_normalized(HALF, HALF, HALF, -1), "beta is -1; expected one finite number above 0"),
        (lambda: minimizers.length_normalized(HALF, [0, 0], [1, 1, 1], 1),
         "the shapes of ref (2,) and reward (2,) and length (3,) do not fit;"
         " expected (..., K) with one K, responses last"),
        (lambda: minimizers.simpo([0, np.inf], [1, 1], 1), "reward is inf at [1]; expected finite numbers"),
        (lambda: minimizers.simpo([0, 0], [1, 1], 0), "beta is 0; expected one finite number above 0"),
        (lambda: minimizers.alphapo(HALF, HALF, 1, -0.5), "alpha is -0.5; expected a finite number, at least 0"),
        (lambda: minimizers.f_dpo(HALF, [0, 0], 1, "kl"),
         "divergence is 'kl'; expected 'forward_kl' or 'js' or 'alpha' or 'chi2' or 'mixed_chi2'"),
        (lambda: minimizers.f_dpo(HALF, [0, 0], 1, "alpha", np.inf), "alpha is inf; expected a finite number"),
        (lambda: minimizers.f_dpo([0.5, 0.25], [0, 0], 1, "js"), "the sum of ref is 0.75; expected 1"),
        (lambda: minimizers.sppo(HALF, [1, 0], HALF, 1), "mu is 0.0 at [1]; expected above 0 wherever ref is"),
        (lambda: minimizers.sppo(HALF, HALF, [1, 2], 1), "win_rate is 2.0 at [1]; expected probabilities, from 0 to 1"),
        (lambda: minimizers.sft(HALF, HALF, [1, -1]), "length is -1.0 at [1]; expected numbers of tokens, above 0"),
        (lambda: minimizers.sft([1, 0], [0, 1]), "the sum of mu * win_rate is 0.0; expected some response to win"),
        (lambda: minimizers.gpo_margin(0.5, "cubic"),
         "link is 'cubic'; expected 'logistic' or 'savage' or 'exponential' or 'squared' or 'truncated_squared'"
         " or 'hinge'"),
        (lambda: minimizers.gpo_margin(1.5, "hinge"), "p is 1.5; expected probabilities, from 0 to 1"),
        (lambda: minimizers.orpo_margin(0.5, -1), "lam is -1; expected a finite number, at least 0"),
        (lambda: minimizers.kto(HALF, HALF, [0, 2], 0.1), "desired is 2.0 at [1]; expected probabilities, from 0 to 1"),
        (lambda: minimizers.kto(HALF, HALF, HALF, 0), "beta is 0; expected one finite number above 0"),
        (lambda: minimizers.kto(HALF, HALF, HALF, 1.5),
         "beta is 1.5; expected at most 1, as the loss may have several minima above"),
        (lambda: minimizers.kto(HALF, HALF, HALF, 0.1, lam_d=0), "lam_d is 0; expected one finite number above 0"),
        (lambda: minimizers.kto(HALF, HALF, HALF, 0.1, z0=np.inf), "z0 is inf; expected finite numbers"),
        (lambda: minimizers.kto(HALF, HALF, [0.5, 0.5], 0.1),
         "the number of responses that might keep all mass is 2; expected one"),
        (lambda: minimizers.kto([HALF, HALF], HALF, [[0.9, 0.1], [0.2, 0.2]], 0.1),
         "the number of responses that might keep all mass is 2 at [1]; expected one"),
    ],
)
def test_sentences(call, sentence):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
        call()
    assert str(raised.value) == sentence


# The page

SCRIPT = Path(__file__).parents[1] / "docs" / "optima.py"
spec = importlib.util.spec_from_file_location("optima", SCRIPT)
optima = sys.modules["optima"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(optima)


def test_the_page_has_a_row_for_every_loss_in_its_order():
    text = optima.PAGE.read_text(encoding="utf-8")
    assert text.startswith(optima.HEAD)
    assert ", ".join(f"{p:.4f}" for p in optima.WORLD.best) in " ".join(text.split())
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [*dn.LOSSES]
    assert set(optima.TABLE) == set(dn.LOSSES)


@pytest.mark.slow
@pytest.mark.parametrize("name", dn.LOSSES)
def test_the_page_says_what_comes_out(name):
    """Minimized again: same digits, 4 of them; and what the row says of π*, and the formula it names, hold."""
    row, pi = optima.TABLE[name], optima.minimum(name)
    assert optima.entry(name, pi) in optima.PAGE.read_text(encoding="utf-8").splitlines()
    digits = abs(pi - optima.WORLD.best).max() * 1e4
    assert digits < 1e-4 or abs(digits % 1 - 0.5) > 1e-3  # far enough from where rounding turns for another CPU
    kinks = 1e-6 if row.solve == "rough" else 1e-9
    if row.formula is not None:
        assert_allclose(row.formula(optima.WORLD), pi, rtol=0, atol=kinks)
    if row.verdict == "yes":
        assert digits < 1e-4
    if row.verdict == "no":
        assert digits > 1
    assert row.verdict.startswith("yes, if") == (row.where is not None)
    if row.where is not None:
        world, hyper = row.where
        assert_allclose(optima.minimum(name, world, hyper), world.best, rtol=0, atol=kinks)


@pytest.mark.parametrize("k", [2, 4])
def test_rpo_has_no_slope_left_and_is_where_descent_on_the_registry_ends(k, rng):
    ref, wins = rng.dirichlet(np.ones(k)), rng.uniform(0.1, 1, size=(k, k))
    index = np.array([*itertools.product(range(k), repeat=2)])
    weight = wins.ravel() / wins.sum()
    for beta, alpha in ((0.1, 0.01), (0.5, 1.0), (2.0, 30.0)):
        pi = minimizers.rpo(ref, wins / wins.sum(), beta, alpha)
        loss = dn.LOSSES["rpo"](beta=beta, alpha=alpha, nll="sum")

        def value(x, loss=loss, index=index, weight=weight, ref=ref):
            logp = x - np.log(np.exp(x).sum())
            each, grad = loss(logp[index], ref_logp=np.log(ref)[index], length=np.ones(index.shape), weight=weight)
            d = np.bincount(index.ravel(), grad.ravel(), len(x))
            return float(weight @ each), d - np.exp(logp) * d.sum()

        assert abs(value(np.log(pi))[1]).max() < 1e-13 * (1 + alpha)
        found = minimize(value, np.log(ref), jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 3000}).x
        assert_allclose(pi, np.exp(found) / np.exp(found).sum(), rtol=0, atol=1e-7)


def test_rpo_is_between_dpo_and_likelihood():
    ref, r = np.array([0.2, 0.3, 0.5]), np.array([1.0, 0.0, -1.0])
    wins = population.bradley_terry_wins(r)
    c = wins.sum(axis=1)
    assert_allclose(minimizers.rpo(ref, wins, 0.5, 1e-9), optimum.boltzmann(ref, r, 0.5), rtol=0, atol=1e-7)
    assert_allclose(minimizers.rpo(ref, wins, 0.5, 1e7), c / c.sum(), rtol=0, atol=1e-6)
    assert abs(minimizers.rpo(ref, wins, 0.5, 1.0) - optimum.boltzmann(ref, r, 0.5)).max() > 0.1
    assert_allclose(minimizers.rpo(ref, 1e3 * wins, 0.5, 1.0, steps=12), minimizers.rpo(ref, wins, 0.5, 1.0),
                    rtol=0, atol=1e-12)  # Newton: a wrong curvature would need more
    # a response met by itself is a likelihood and nothing else
    twice = wins + np.diag([0.0, 0.5, 0.0])
    assert minimizers.rpo(ref, twice, 0.5, 1.0)[1] > minimizers.rpo(ref, wins, 0.5, 1.0)[1] + 0.05


def test_rpo_of_several_prompts_and_what_it_refuses(rng):
    refs, wins = rng.dirichlet(np.ones(3), size=(2, 1)), rng.uniform(0.1, 1, size=(4, 3, 3))
    found = minimizers.rpo(refs, wins, 0.5, 0.3)
    assert found.shape == (2, 4, 3)
    assert_allclose(found[1, 2], minimizers.rpo(refs[1, 0], wins[2], 0.5, 0.3), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"the weight with which a response is chosen is 0.*expected above 0"):
        minimizers.rpo([0.5, 0.5], [[0, 1], [0, 0]], 0.5, 1.0)
    with pytest.raises(ValueError, match=r"ref is 0.*expected above 0"):
        minimizers.rpo([1.0, 0.0], [[0, 1], [1, 0]], 0.5, 1.0)
    for bad in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="alpha is"):
            minimizers.rpo([0.5, 0.5], [[0, 1], [1, 0]], 0.5, bad)
    with pytest.raises(ValueError, match="do not fit"):
        minimizers.rpo([0.5, 0.5], np.ones((3, 3)), 0.5, 1.0)
    with pytest.raises(ArithmeticError, match="has not converged in 1 steps"):
        minimizers.rpo([0.2, 0.8], [[0, 1], [0.2, 0]], 0.1, 1.0, steps=1)
