"""Win rates and DPO losses of whole populations: against pairs of strings one by one, and a simulation."""

import numpy as np
import pytest
from ngrams import TOKENS, P, Q, brief, totals
from numpy.testing import assert_allclose

from analytic import _chains, _totals, ngram, population

EPS = np.finfo(float).eps
COUNTS = np.array([[0, 1, -2], [3, 0, 1], [0, -1, 0]])
RATIO = np.array([[1, 1, -1], [0, -1, 2], [-2, 0, 1]])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(("order", "unit"), [(1, 0.7), (2, 0.7), (3, 0.7), (2, -3.0), (2, 0.0)])
def test_the_win_rate_pair_by_pair(order, unit):
    """Strings of 8 tokens or more have 0.05⁸ = 4e-11 of the mass."""
    p, q, counts = brief(0, order=order), brief(1, order=order), np.tile(COUNTS, (3, 1))[: 3 ** (order - 1)]
    mass_p, mass_q = (np.exp(totals(np.log(table), 7, order)) for table in (p, q))
    r = unit * totals(counts, 7, order)
    found = ngram.win_rate(p, q, counts, unit=unit)
    assert_allclose(found.value, mass_p @ sigmoid(np.subtract.outer(r, r)) @ mass_q, rtol=0, atol=2e-10)
    assert 0 <= found.error < 1e-13


def simulated(table, counts, n, rng):
    """Totals of n strings, all extended together"""
    total, at, alive = np.zeros(n), np.zeros(n, int), np.ones(n, bool)
    edges = table.cumsum(axis=1)
    while alive.any():
        v = (rng.random(n)[:, None] > edges[at]).sum(axis=1)
        total += np.where(alive, counts[at, v], 0)
        at, alive = v, alive & (v > 0)
    return total


def test_the_win_rate_of_a_simulation(rng):
    """60,000 pairs: a standard error of 0.002, within 4 of them; that of the models swapped is 70 away."""
    n = 60_000
    r, other = 0.7 * simulated(P, COUNTS, n, rng), 0.7 * simulated(Q, COUNTS, n, rng)
    wins = rng.random(n) < sigmoid(r - other)
    found = ngram.win_rate(P, Q, COUNTS, unit=0.7).value
    assert_allclose(found, wins.mean(), rtol=0, atol=4 * wins.std() / np.sqrt(n))
    assert abs(found - ngram.win_rate(Q, P, COUNTS, unit=0.7).value) > 0.1


def test_a_win_is_a_loss_of_the_other():
    one, other = ngram.win_rate(P, Q, COUNTS), ngram.win_rate(Q, P, COUNTS)
    assert_allclose(one.value + other.value, 1, rtol=16 * EPS)
    assert_allclose(ngram.win_rate(P, P, COUNTS).value, 0.5, rtol=16 * EPS)
    assert one.value != 0.5


def test_annotators_who_only_count_tokens():
    """Sure ones: P(n > n') + P(n = n')/2, from the distributions of lengths."""
    p, q = ngram.length_pmf(P, 80), ngram.length_pmf(Q, 80)
    longer = p @ (np.cumsum(q) - q / 2)
    assert_allclose(ngram.win_rate(P, Q, TOKENS, unit=1e3).value, longer, rtol=1e-13)


def test_the_error_covers_what_was_cut_off():
    """From a tail of 1/2 down; and no more than 1e4 times over."""
    exact = (ngram.win_rate(P, Q, COUNTS, tail=1e-11).value, ngram.dpo_loss(P, RATIO, COUNTS, 0.3, tail=1e-11).value)
    for tail in (0.5, 1e-2, 1e-6):
        cut = ngram.win_rate(P, Q, COUNTS, tail=tail), ngram.dpo_loss(P, RATIO, COUNTS, 0.3, tail=tail)
        for found, value in zip(cut, exact, strict=True):
            assert abs(found.value - value) <= found.error
            assert found.error < 100 * tail
        assert cut[0].error <= tail
    assert abs(cut[0].value - exact[0]) > 1e-9  # something was


def test_from_what_is_summed_to_what_is_stated():
    """Value - error is the sum over the strings that were finished, one by one; twice the error is the bound on the
    rest, 2 E[log 2 + β |u| + β |u'|; y longer] with |u| at most 2 × 0.5 a token, of the lengths by themselves.
    """
    found, beta = ngram.dpo_loss(P, RATIO, COUNTS, 0.3, units=(0.5, 0.8), tail=0.2), 0.3
    pmf, n = ngram.length_pmf(P), np.arange(len(ngram.length_pmf(P)))
    cut = next(length for length in n if pmf[length:].sum() <= 0.2)
    mass = np.exp(totals(np.log(P), cut - 1))
    u, r = 0.5 * totals(RATIO, cut - 1), 0.8 * totals(COUNTS, cut - 1)
    losses = 2 * sigmoid(np.subtract.outer(r, r)) * np.log1p(np.exp(-beta * np.subtract.outer(u, u)))
    assert_allclose(found.value - found.error, mass @ losses @ mass, rtol=1e-13)
    left, tokens = pmf[cut:].sum(), pmf @ (n + 1)
    bound = 2 * (left * np.log(2) + beta * (pmf[cut:] @ (n[cut:] + 1) + left * tokens))
    assert_allclose(2 * found.error, bound, rtol=1e-13)


def test_totals_have_the_moments_of_the_linear_equations():
    """And the strings not finished are those of `length` tokens or more."""
    chain = _chains.steps("p", P, None, 0)
    found = _totals._totals("p", P, np.stack([COUNTS, RATIO]), 1e-12, chain)
    for which, counts in enumerate((COUNTS, RATIO)):
        mass, x = found.mass.sum(axis=1 - which), found.values(which)
        assert_allclose(mass @ x, ngram.expected(P, counts), rtol=0, atol=1e-10)  # some 70 tokens of 1e-12
        assert_allclose(mass @ x**2 - (mass @ x) ** 2, ngram.variance(P, counts), rtol=0, atol=1e-7)
    assert_allclose(found.tokens, ngram.expected_length(P) + 1, rtol=1e-14)
    cut = _totals._totals("p", P, COUNTS[None], 0.3, chain)
    pmf, n = ngram.length_pmf(P), np.arange(len(ngram.length_pmf(P)))
    longer = n >= next(length for length in n if pmf[length:].sum() <= 0.3)
    assert_allclose(cut.left, pmf[longer].sum(), rtol=1e-14)
    assert_allclose(cut.left_tokens, pmf[longer] @ (n[longer] + 1), rtol=1e-13)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_dpo_loss_pair_by_pair(order):
    """Also as `population` sums it, of all pairs of the strings of at most 5 tokens: what is left out has 0.05⁶."""
    rows = 3 ** (order - 1)
    mu, ratio, counts = brief(0, order=order), np.tile(RATIO, (3, 1))[:rows], np.tile(COUNTS, (3, 1))[:rows]
    mass = np.exp(totals(np.log(mu), 5, order))
    u, r = 0.5 * totals(ratio, 5, order), 0.8 * totals(counts, 5, order)
    pairs = np.multiply.outer(mass, mass)
    wins = pairs * sigmoid(np.subtract.outer(r, r))
    exact = 2 * (wins * np.log1p(np.exp(-0.3 * np.subtract.outer(u, u)))).sum()
    found = ngram.dpo_loss(mu, ratio, counts, 0.3, units=(0.5, 0.8))
    assert_allclose(found.value, exact, rtol=0, atol=1e-6)
    off = population.bradley_terry_wins(r, pairs * 2)  # without the diagonal: equal strings, log 2 each
    assert_allclose(found.value, population.objective(u, off, 0.3) + np.log(2) * mass @ mass, rtol=0, atol=1e-6)
    assert 0 <= found.error < 1e-11


def test_the_dpo_loss_is_least_where_the_log_ratio_is_the_reward_over_beta():
    """Of u = c r: least at c = 1/β, by differences; there it is the annotators' own entropy."""
    counts = np.array([[0, 1, 0], [0, 0, -1], [1, 0, 0]])

    def loss(c):
        return ngram.dpo_loss(P, counts, counts, 0.3, units=(c, 0.7), tail=1e-10).value

    best, h = 0.7 / 0.3, 1e-3
    below, least, above = loss(best - h), loss(best), loss(best + h)
    assert (above + below - 2 * least) / h**2 > 1e-3
    assert abs(above - below) / (2 * h) < 1e-7  # h²
    assert loss(0.0) == pytest.approx(np.log(2), rel=1e-9)


def test_contexts_of_ones_own():
    """The limit on length as a context: strings "", "a", "aa" of probabilities 1/2, 1/4, 1/4."""
    table, following = np.array([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]]), np.array([[0, 1], [0, 2], [0, 2]])
    mass, n = np.array([0.5, 0.25, 0.25]), np.arange(3)
    exact = mass @ sigmoid(np.subtract.outer(n, n)) @ np.array([0, 0.5, 0.5])
    begun = ngram.win_rate(table, [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]], [[0, 1]] * 3, following=following)
    assert_allclose(begun, (exact, 0), rtol=1e-14)
    later = ngram.win_rate(table, table, [[0, 1]] * 3, following=following, start=1)
    assert_allclose(later.value, 0.5, rtol=1e-14)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: ngram.win_rate(P, Q, COUNTS / 2), r"reward is 0.5 at \[0, 1\]; expected whole numbers"),
        (lambda: ngram.win_rate(P, Q, COUNTS[0]), r"reward has shape \(3,\); expected that of p, \(3, 3\)"),
        (lambda: ngram.win_rate(P, Q, COUNTS, unit=np.inf), "unit is inf; expected finite numbers"),
        (lambda: ngram.win_rate(P, Q, COUNTS, tail=0.0), "tail is 0.0; expected a probability between 0 and 1"),
        (lambda: ngram.win_rate(P, Q, COUNTS, tail=1.0), "tail is 1.0; expected a probability between 0 and 1"),
        (lambda: ngram.dpo_loss(P, RATIO / 2, COUNTS, 0.3), r"log_ratio is 0.5 at \[0, 0\]; expected whole numbers"),
        (lambda: ngram.dpo_loss(P, RATIO, COUNTS, 0.0), "beta is 0.0; expected one finite number above 0"),
        (lambda: ngram.dpo_loss(P, RATIO, COUNTS, 1.0, units=(1.0, np.nan)), r"units is nan at \[1\]; expected finite"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
