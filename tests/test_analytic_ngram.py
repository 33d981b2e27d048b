"""analytic.ngram against brute enumeration over all strings up to a length whose tail is negligible."""

import itertools

import numpy as np
import pytest
from mpmath import mp
from numpy.testing import assert_allclose

from analytic import ngram

P = np.array([[0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.4, 0.2, 0.4]])  # rows: begin, a, b; columns: end, a, b
Q = np.array([[0.3, 0.3, 0.4], [0.5, 0.2, 0.3], [0.6, 0.3, 0.1]])
REWARD = np.array([[0.0, 0.5, -0.5], [0.3, -0.4, 0.2], [0.0, 0.3, -0.6]])


def strings(vocab, longest):
    for length in range(longest + 1):
        yield from itertools.product(range(1, vocab), repeat=length)


def along(table, y, order=2):
    """The table's entries met by a string, its end included, the context kept as a tuple: no state arithmetic is
    shared.
    """
    context, met = (0,) * (order - 1), []
    for v in (*y, 0):
        row = sum(c * table.shape[1] ** j for j, c in enumerate(reversed(context)))
        met.append(table[row, v])
        context = (*context, v)[1:]
    return met


def trigram(seed):
    table = np.random.default_rng(seed).dirichlet(np.ones(3), size=9)
    table[:, 1:] *= 0.4  # ends soon: the tail beyond 14 tokens has a mass of 0.4^14 = 3e-6 at most
    table[:, 0] = 1 - table[:, 1:].sum(axis=1)
    return table


def test_visits_solve_a_textbook_chain():
    """Golden by hand: N(a) = .5 + .4 N(a) + .2 N(b), N(b) = .3 + .3 N(a) + .4 N(b)."""
    assert_allclose(ngram.visits(P), [1, 1.2, 1.1], rtol=1e-14)
    assert_allclose(ngram.expected_length(P), 2.3, rtol=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_trigram_sums_against_enumeration(seed):
    p, q = trigram(seed), trigram(seed + 10)
    length = divergence = mass = 0.0
    for y in strings(3, 11):
        log_p, log_q = np.log(along(p, y, 3)).sum(), np.log(along(q, y, 3)).sum()
        mass += np.exp(log_p)
        length += np.exp(log_p) * len(y)
        divergence += np.exp(log_p) * (log_p - log_q)
    # what is left out: at most 0.4^12 = 1.7e-5 of the mass, times a length or log-ratio of some tens
    assert 1 - mass < 2e-5
    assert_allclose(ngram.expected_length(p), length, atol=5e-4)
    assert_allclose(ngram.kl(p, q), divergence, atol=5e-4)


def test_kl_keeps_its_digits_where_the_models_are_close():
    """Second order in a change of 1e-9, so that `Σ p (log p - log q)` has no digit left; the oracle has 60."""
    step = 1e-9 * np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [-1.0, 0.0, 1.0]])
    near = P + step
    mp.dps = 60
    visits = [1, mp.mpf("1.2"), mp.mpf("1.1")]
    exact = mp.mpf(0)
    for s in range(3):
        row, other = [mp.mpf(float(x)) for x in P[s]], [mp.mpf(float(x)) for x in near[s]]
        row, other = [x / sum(row) for x in row], [x / sum(other) for x in other]  # decimals are not exact: 1e-17 off 1
        exact += visits[s] * sum(x * mp.log(x / y) for x, y in zip(row, other, strict=True))
    assert_allclose(ngram.kl(P, near), float(exact), rtol=1e-6)
    assert ngram.kl(P, P) == 0


def test_kl_is_infinite_where_the_second_model_cannot_follow():
    impossible = P.copy()
    impossible[1] = [0.7, 0.3, 0.0]
    assert ngram.kl(P, impossible) == np.inf
    assert np.isfinite(ngram.kl(impossible, P))


@pytest.mark.parametrize("beta", [0.4, 1.0, 3.0])
def test_the_optimum_is_the_tilted_reference_over_all_strings(beta):
    table, log_z = ngram.optimum(P, REWARD, beta)
    assert_allclose(table.sum(axis=1), 1, rtol=1e-12)
    for y in strings(3, 5):
        tilted = np.log(along(P, y)).sum() + sum(along(REWARD, y)) / beta - log_z
        assert_allclose(np.log(along(table, y)).sum(), tilted, atol=1e-12)


def test_the_value_of_the_optimum_is_beta_log_z():
    """J(π*) = E r - β KL = β log Z, with E r by expected visits; and any other table falls short by β KL(π || π*)."""
    beta = 0.7
    table, log_z = ngram.optimum(P, REWARD, beta)

    def value(p):
        return ngram.visits(p) @ (p * REWARD).sum(axis=1) - beta * ngram.kl(p, P)

    assert_allclose(value(table), beta * log_z, rtol=1e-12)
    assert_allclose(value(Q), beta * log_z - beta * ngram.kl(Q, table), rtol=1e-12)


def test_a_reward_per_token_has_a_critical_beta():
    """Z is finite above β_c = λ/(-log ρ(T_ref)) and no optimum exists at or below it."""
    per_token = np.where(np.arange(3) > 0, 1.0, 0.0) * np.ones((3, 1))
    critical = 1 / -np.log(max(abs(np.linalg.eigvals(P[1:, 1:]))))
    ngram.optimum(P, per_token, critical * 1.001)
    with pytest.raises(
        ValueError,
        match=r"Z at beta = .* has a divergent sum, no optimum exists: the spectral radius of its transitions is 1",
    ):
        ngram.optimum(P, per_token, critical * 0.999)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: ngram.visits([[0.0, 1.0], [0.0, 1.0]]),
            "it need not end: the spectral radius of its transitions is 1; expected below 1",
        ),
        (
            lambda: ngram.visits([[0.2, 0.9], [0.5, 0.5]]),
            r"p has row 0 = \[0.2, 0.9\]; expected probabilities that sum to 1",
        ),
        (
            lambda: ngram.visits([[0.5, 0.5], [1.5, -0.5]]),
            r"p has row 1 = \[1.5, -0.5\]; expected probabilities that sum to 1",
        ),
        (lambda: ngram.visits(np.full((5, 2), 0.5)), r"p has shape \(5, 2\); expected \(S, V\) with S a power of V"),
        (lambda: ngram.visits([[np.nan, 1.0], [0.5, 0.5]]), "p has row 0 = .*expected probabilities"),
        (lambda: ngram.kl(P, [[0.5, 0.5], [0.5, 0.5]]), r"q has shape \(2, 2\); expected that of p, \(3, 3\)"),
        (lambda: ngram.optimum(P, REWARD[:2], 1.0), r"reward has shape \(2, 3\)"),
        (lambda: ngram.optimum(P, REWARD * np.nan, 1.0), "reward .* expected finite numbers"),
        (lambda: ngram.optimum(P, REWARD, 0.0), "beta is 0.0; expected a finite number above 0"),
        (lambda: ngram.optimum(P, REWARD, 1e-4), r"beta is 0.0001: exp\(reward/beta\) overflows at reward 0.5"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
