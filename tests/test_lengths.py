"""Lengths of tilted bigrams, fits to drawn pairs, all short strings: enumeration, SciPy and the registry's losses."""

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import expit, softmax

import dpo_numpy as dn
from analytic import ngram, optimum
from toy_models import NGram, strings
from toy_models.experiments import _lengths
from toy_models.experiments._lengths import QUALITY, REF, TOKEN, drawn, every_short, fitted, ld_dpo, summed


def along(table, text):
    return [table[c, v] for c, v in zip((0, *text), (*text, 0), strict=True)]


# ---- all strings

def test_lengths_are_those_of_the_optimum(rng):
    tilt = 0.3 * rng.normal(size=(2, 5, 3, 3))
    found = _lengths.lengths(tilt)
    assert found.shape == (2, 5)
    for theta, length in zip(tilt.reshape(-1, 3, 3), found.ravel(), strict=True):
        assert length == pytest.approx(ngram.expected_length(ngram.optimum(REF, theta, 1.0)[0]), rel=1e-11)


def test_lengths_are_inf_where_Z_diverges_and_nan_where_nothing_is_known():
    beta_c = ngram.critical_beta(REF, QUALITY + TOKEN)
    tilt = np.stack([(QUALITY + TOKEN) / beta for beta in (0.99 * beta_c, 1.01 * beta_c, 1e-3)])
    assert np.isfinite(_lengths.lengths(tilt)).tolist() == [False, True, False]
    tilt[0, 1, 1] = np.nan
    found = _lengths.lengths(tilt)
    assert np.isnan(found).tolist() == [True, False, False] and found[2] == np.inf


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_limited_lengths_are_sums_over_strings(rng, scale):
    tilt = scale * rng.normal(size=(3, 3))
    texts = [text for n in range(7) for text in product((1, 2), repeat=n)]
    log_mass = np.array([sum(along(np.log(REF) + tilt, text)) for text in texts])
    expected = softmax(log_mass) @ [len(text) for text in texts]
    assert _lengths.limited_lengths(tilt, 6) == pytest.approx(expected, rel=1e-12)
    assert _lengths.limited_lengths(np.stack([tilt, 0 * tilt]), 6)[0] == pytest.approx(expected, rel=1e-12)


def test_limited_lengths_of_large_rewards_do_not_overflow():
    assert _lengths.limited_lengths(2000 * TOKEN, 9) == pytest.approx(9, abs=1e-12)


def test_quantiles_count_what_is_inf_and_not_what_is_nan():
    x = np.array([[3.0, np.nan], [np.inf, np.nan], [1.0, np.nan], [2.0, np.nan], [np.nan, np.nan]])
    assert [_lengths.quantile(x, q)[0] for q in (0.0, 0.25, 0.5, 0.75, 0.76)] == [1.0, 1.0, 2.0, 3.0, np.inf]
    assert np.isnan(_lengths.quantile(x, 0.5)[1])


# ---- pairs that are drawn

def test_drawn_strings_are_the_references(rng):
    tokens = drawn(20_000, rng)
    said = summed(tokens).mean(axis=0).reshape(3, 3)
    expected = ngram.visits(REF)[:, None] * REF
    # a sum of counts has at most the variance of strings' lengths; five standard errors
    assert abs(said - expected).max() < 5 * np.sqrt(ngram.length_variance(REF) / 20_000)
    ends = np.argmax(tokens == 0, axis=1)
    assert (tokens[np.arange(len(tokens)), ends] == 0).all()
    assert not any(row[end:].any() for row, end in zip(tokens, ends, strict=True))
    assert abs(ends.mean() - 2.3) < 5 * np.sqrt(ngram.length_variance(REF) / 20_000)


def test_summed_counts_each_token_in_its_context(rng):
    tokens = drawn(50, rng)
    table = rng.normal(size=(3, 3))
    texts = [row[:np.argmax(row == 0)] for row in tokens]
    assert_allclose(summed(tokens) @ table.ravel(), [sum(along(table, text)) for text in texts], rtol=0, atol=1e-12)


def pairs_of(tokens):
    """Drawn strings, two by two, as what losses read; the first of each is chosen"""
    texts = [[*row[:np.argmax(row == 0)].tolist(), 0] for row in tokens]
    return texts[::2], texts[1::2]


def test_the_fit_is_where_the_registry_has_no_slope(rng):
    tokens, beta, policy = drawn(400, rng), 0.8, NGram(vocab=3)
    count = summed(tokens).reshape(200, 2, 9)
    theta, = fitted((count[:, 0] - count[:, 1])[None])
    W = np.log(ngram.optimum(REF, theta, beta)[0])
    chosen, rejected = pairs_of(tokens)
    differ = [w != l_ for w, l_ in zip(chosen, rejected, strict=True)]
    chosen, rejected = ([text for text, kept in zip(texts, differ, strict=True) if kept]
                        for texts in (chosen, rejected))
    pairs = dn.Preferences.of([[0]] * len(chosen), chosen, rejected).with_reference(policy, {"W": np.log(REF)})
    slope = dn.value_and_grad(policy, {"W": W}, pairs, dn.LOSSES["dpo"](beta=beta))[1]["W"]
    before = dn.value_and_grad(policy, {"W": np.log(REF)}, pairs, dn.LOSSES["dpo"](beta=beta))[1]["W"]
    assert abs(slope).max() < 1e-11 < 1e-3 < abs(before).max()


def test_fits_do_not_know_of_each_other_and_turn_with_their_labels(rng):
    count = summed(drawn(600, rng)).reshape(3, 100, 2, 9)
    apart = count[:, :, 0] - count[:, :, 1]
    together = fitted(apart)
    for alone, theta in zip(apart, together, strict=True):
        assert_allclose(fitted(alone[None])[0], theta, rtol=0, atol=1e-9)
    assert_allclose(fitted(-apart), -together, rtol=0, atol=1e-9)


def test_the_fit_minimizes_what_scipy_does(rng):
    count = summed(drawn(300, rng)).reshape(150, 2, 9)
    apart = count[:, 0] - count[:, 1]

    def loss(theta):
        return np.logaddexp(0, -apart @ theta).sum()

    least = minimize(loss, np.zeros(9), jac=lambda theta: -expit(-apart @ theta) @ apart, tol=1e-10).fun
    assert loss(fitted(apart[None]).ravel()) == pytest.approx(least, abs=1e-8)


def test_pairs_that_agree_on_everything_have_no_fit(rng):
    count = summed(drawn(200, rng)).reshape(2, 50, 2, 9)
    apart = count[:, :, 0] - count[:, :, 1]
    longer = apart.reshape(2, 50, 3, 3)[..., 1:].sum(axis=(-2, -1))
    always = np.where(longer[..., None] > 0, apart, -apart)[:, :, :] * (longer != 0)[..., None]
    found = fitted(np.stack([always[0], apart[1]]))
    assert np.isnan(found[0]).all() and np.isfinite(found[1]).all()


# ---- all short strings

def test_short_strings_are_all_there_are():
    short = every_short(3)
    world = strings(3, 4, lambda y: 0.0)
    assert sorted(short.texts) == sorted(
        tuple(tokens[mask][:-1].tolist())
        for tokens, mask in zip(world.responses.tokens, world.responses.mask, strict=True))
    mass = np.array([np.prod(along(REF, text)) for text in short.texts])
    assert_allclose(short.ref, mass / mass.sum(), rtol=1e-14)
    assert short.length.tolist() == [len(text) + 1 for text in short.texts]
    assert short.met.sum() == pytest.approx(1, abs=1e-14)
    i, j = short.pairs
    assert_allclose(short.met / short.met[0], short.ref[i] * short.ref[j] / (short.ref[i[0]] * short.ref[j[0]]))


def test_a_policy_by_prefix_is_a_product_of_its_tokens(rng):
    short = every_short(3)
    table = np.log(rng.dirichlet(np.ones(3), size=7)).ravel()
    pi = short.policy(table)
    assert pi.sum() == pytest.approx(1, abs=1e-14)
    # prefixes: none, a, b, aa, ab, ba, bb; text bab: b, a after b, b after ba, then a certain end
    assert pi[short.texts.index((2, 1, 2))] == pytest.approx(np.exp(table[2] + table[3 * 2 + 1] + table[3 * 5 + 2]))
    assert pi[short.texts.index((1,))] == pytest.approx(np.exp(table[1] + table[3]))


def rewarded(short, lam):
    return short.summed @ QUALITY.ravel() + lam * short.length


def test_ld_dpo_that_counts_everything_is_dpo():
    short = every_short(4)
    pi, = short.policy(ld_dpo(short, rewarded(short, 0.5), 0.7, np.ones(1)))
    assert_allclose(pi, optimum.boltzmann(short.ref, rewarded(short, 0.5), 0.7), rtol=0, atol=1e-13)


def by_prefix(short, log_table, letters):
    """The table as logits of an n-gram whose contexts are all prefixes; the longest end for sure"""
    W = np.zeros((3**letters, 3))
    W[:, 1:] = -1e3
    prefixes = [text for text in short.texts if len(text) < letters]
    for prefix, row in zip(prefixes, log_table.reshape(-1, 3), strict=True):
        W[sum(v * 3**k for k, v in enumerate(reversed(prefix)))] = row
    return {"W": W}


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_ld_dpo_is_where_the_registry_has_no_slope(alpha):
    letters, beta = 3, 0.6
    short = every_short(letters)
    r = rewarded(short, 0.5)
    known = dict(zip(short.texts, r, strict=True))
    policy = NGram(vocab=3, order=letters + 1)
    log_table, = ld_dpo(short, r, beta, np.array([alpha]))
    world = strings(3, letters + 1, lambda y: known[tuple(y[:-1])])
    mass = short.ref @ short.cells.sum(axis=1)
    log_ref = np.log(mass.reshape(-1, 3) / mass.reshape(-1, 3).sum(axis=1, keepdims=True)).ravel()
    ref = by_prefix(short, log_ref, letters)
    pairs = world.population(short.ref[[short.texts.index(tuple(y[m][:-1].tolist())) for y, m in zip(
        world.responses.tokens, world.responses.mask, strict=True)]]).with_reference(policy, ref, "token_logp")

    def slope(params, alpha=alpha):
        return abs(dn.value_and_grad(policy, params, pairs, dn.LOSSES["ld_dpo"](beta=beta, alpha=alpha))[1]["W"]).max()

    there = by_prefix(short, log_table, letters)
    assert slope(there) < 1e-12 < 1e-4 < min(slope(ref), slope(there, alpha=1.0))


def naive_ld_loss(short, r, beta, alpha, x):
    """Token by token, pair by pair, label by label"""
    prefixes = [text for text in short.texts if len(text) < len(short.texts[-1])]
    mass = {p: np.array([sum(short.ref[k] for k, t in enumerate(short.texts) if (*t, 0)[:len(p) + 1] == (*p, v))
                         for v in range(3)]) for p in prefixes}
    logs = {p: np.log(softmax(row)) - np.log(mass[p] / mass[p].sum())
            for p, row in zip(prefixes, x.reshape(-1, 3), strict=True)}

    def told(k, shared):
        text = (*short.texts[k], 0)
        return sum((1 if t < shared else alpha) * logs[text[:t]][v] for t, v in enumerate(text) if text[:t] in logs)

    loss = 0.0
    for i, j, met in zip(*short.pairs, short.met, strict=True):
        shared = min(short.length[i], short.length[j])
        z, p = beta * (told(i, shared) - told(j, shared)), expit(r[i] - r[j])
        loss += met * (p * np.logaddexp(0, -z) + (1 - p) * np.logaddexp(0, z))
    return loss


def test_ld_dpo_minimizes_what_scipy_does_from_elsewhere(rng):
    short = every_short(2)
    r = rewarded(short, 0.5)
    log_table, = ld_dpo(short, r, 0.6, np.array([0.3]))
    least = minimize(lambda x: naive_ld_loss(short, r, 0.6, 0.3, x), rng.normal(size=9), tol=1e-12)
    assert naive_ld_loss(short, r, 0.6, 0.3, log_table) == pytest.approx(least.fun, abs=1e-10)
    assert_allclose(short.policy(log_table), short.policy(np.log(softmax(least.x.reshape(3, 3), axis=1)).ravel()),
                    rtol=0, atol=1e-4)
