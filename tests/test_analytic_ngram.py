"""analytic.ngram against strings one by one, fractions, 50 digits, and identities between divergences."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from ngrams import REWARD, P, Q, along, brief, floats, lasting, rational, solution, strings, totals
from numpy.testing import assert_allclose

from analytic import ngram
from dpo_numpy.data import Bytes, load, to_preferences
from dpo_numpy.gradient import read
from dpo_numpy.policy import enumerate_responses
from dpo_numpy.preferences import pad
from toy_models import NGram

EPS = np.finfo(float).eps


# ---- one model

def test_visits_solve_a_textbook_chain():
    """Golden by hand: N(a) = .5 + .4 N(a) + .2 N(b), N(b) = .3 + .3 N(a) + .4 N(b)."""
    assert_allclose(ngram.visits(P), [1, 1.2, 1.1], rtol=4 * EPS)
    assert_allclose(ngram.expected_length(P), 2.3, rtol=4 * EPS)


@pytest.mark.parametrize(("vocab", "order"), [(2, 1), (3, 2), (2, 3), (3, 3)])
def test_sums_of_rational_tables_in_exact_fractions(vocab, order):
    """Moments by first steps from each context; Σ p q and Σ p²/q as sums of rational weights."""
    p, q = rational(0, vocab, order), rational(1, vocab, order)
    S, further = len(p), [1 - row[0] for row in p]
    visits = [solution(p, [Fraction(s == t) for s in range(S)])[0] for t in range(S)]
    mean = solution(p, further)
    square = solution(p, [2 * m - f for m, f in zip(mean, further, strict=True)])  # (1 + n)² = 1 + 2 n + n²
    assert_allclose(ngram.visits(floats(p)), [float(n) for n in visits], rtol=1e-13)
    assert_allclose(ngram.expected_length(floats(p)), float(mean[0]), rtol=1e-13)
    assert_allclose(ngram.length_variance(floats(p)), float(square[0] - mean[0] ** 2), rtol=1e-13)
    both = [[x * y for x, y in zip(*rows, strict=True)] for rows in zip(p, q, strict=True)]
    assert_allclose(ngram.collision(floats(p), floats(q)), float(solution(both, [r[0] for r in both])[0]), rtol=1e-13)
    near = [[(9 * x + y) / 10 for x, y in zip(*rows, strict=True)] for rows in zip(p, q, strict=True)]
    ratio = [[x * x / y for x, y in zip(*rows, strict=True)] for rows in zip(p, near, strict=True)]
    chi2 = solution(ratio, [r[0] for r in ratio])[0] - 1
    assert_allclose(ngram.chi2(floats(p), floats(near)), float(chi2), rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_sums_over_strings_one_by_one(order):
    """What is left out has a mass of 0.05⁸ = 4e-11, times some tens."""
    rng = np.random.default_rng(order)
    p, q, reward = brief(1, order=order), brief(2, order=order), rng.normal(size=(3 ** (order - 1), 3))
    log_p, log_q, r = (totals(table, 7, order) for table in (np.log(p), np.log(q), reward))
    n = np.array([len(y) for y in strings(3, 7)])
    mass = np.exp(log_p)
    near = {"rtol": 0, "atol": 1e-8}
    assert_allclose(mass.sum(), 1, rtol=0, atol=4e-11)
    assert_allclose(ngram.expected_length(p), mass @ n, **near)
    assert_allclose(ngram.length_variance(p), mass @ n**2 - (mass @ n) ** 2, **near)
    assert_allclose(ngram.length_pmf(p, 7), np.bincount(n, mass), rtol=1e-14)
    assert_allclose(ngram.entropy(p), -mass @ log_p, **near)
    assert_allclose(ngram.expected(p, reward), mass @ r, **near)
    assert_allclose(ngram.variance(p, reward), mass @ r**2 - (mass @ r) ** 2, **near)
    assert_allclose(ngram.kl(p, q), mass @ (log_p - log_q), **near)
    assert_allclose(ngram.collision(p, q), mass @ np.exp(log_q), rtol=1e-10)
    for a in (0.3, 0.9, 1.2):
        assert_allclose(ngram.renyi(p, q, a), np.log(np.exp(a * log_p + (1 - a) * log_q).sum()) / (a - 1), **near)


def test_the_probabilities_of_lengths_add_up():
    """To 1, E|y| and Var |y|; the 1e-16 that are left out have some 85 tokens, 7e-13 of E|y|²."""
    pmf = ngram.length_pmf(P)
    n = np.arange(len(pmf))
    assert_allclose([pmf.sum(), pmf @ n], [1, 2.3], rtol=1e-14)
    assert_allclose(pmf @ n**2 - 2.3**2, ngram.length_variance(P), rtol=0, atol=1e-12)
    assert ngram.length_pmf(P, 0).tolist() == [0.2]
    assert_allclose(pmf[60] / pmf[59], ngram.spectral_radius(P), rtol=1e-12)  # 0.64..., the next eigenvalue is 0.1...


@pytest.mark.parametrize("end", [1e-3, 1e-8, 1e-13, 1e-30])
def test_long_strings_cost_no_digits(end):
    """Where T no longer tells 1 - p(end) from 1: visits, E|y|, KL and variance against 80 digits."""
    p, q = lasting(0, end), lasting(1, end)
    with mp.workdps(80):
        rows = [[mp.mpf(float(x)) for x in row] for row in p]
        rows = [[x / sum(row) for x in row] for row in rows]
        A = mp.eye(3)
        for s in range(3):
            for v in (1, 2):
                A[s, v] -= rows[s][v]
        N = [mp.lu_solve(A.T, mp.matrix([1, 0, 0]))[s] for s in range(3)]
        length = sum(n * (1 - row[0]) for n, row in zip(N, rows, strict=True))
        kl = sum(n * sum(x * mp.log(x / mp.mpf(float(y))) for x, y in zip(row, other, strict=True))
                 for n, row, other in zip(N, rows, q, strict=True))
        left = mp.lu_solve(A, mp.matrix([1 - row[0] for row in rows]))
        square = mp.lu_solve(A, mp.matrix([2 * m - (1 - row[0]) for m, row in zip(left, rows, strict=True)]))
        variance = square[0] - left[0] ** 2
    assert_allclose(ngram.visits(p), [float(n) for n in N], rtol=1e-14)
    assert_allclose(ngram.expected_length(p), float(length), rtol=1e-14)
    assert_allclose(ngram.length_variance(p), float(variance), rtol=1e-14)
    assert_allclose(ngram.kl(p, q), float(kl), rtol=1e-14)


def test_short_strings_cost_no_digits():
    """E|y| is 1e-13 and not the rounding of a sum of visits less 1."""
    p = np.array([[1 - 1e-13, 1e-13], [0.5, 0.5]])
    assert_allclose(ngram.expected_length(p), (1 - p[0, 0]) * 2, rtol=1e-3)  # 1 - 1e-13 is rounded itself
    p = np.array([[1.0, 1e-30], [0.5, 0.5]])
    assert_allclose(ngram.expected_length(p), 2e-30, rtol=1e-14)


# ---- two models

def test_kl_keeps_its_digits_where_the_models_are_close():
    """Second order in a change of 1e-9, so that `Σ p (log p - log q)` has no digit left; the oracle has 60."""
    step = 1e-9 * np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [-1.0, 0.0, 1.0]])
    near = P + step
    with mp.workdps(60):
        visits = [1, mp.mpf("1.2"), mp.mpf("1.1")]
        exact = chi2 = mp.mpf(0)
        for s in range(3):
            row, other = [mp.mpf(float(x)) for x in P[s]], [mp.mpf(float(x)) for x in near[s]]
            # decimals are not exact: 1e-17 off 1
            row, other = [x / sum(row) for x in row], [x / sum(other) for x in other]
            exact += visits[s] * sum(x * mp.log(x / y) for x, y in zip(row, other, strict=True))
            chi2 += visits[s] * sum((x - y) ** 2 / y for x, y in zip(row, other, strict=True))  # to first order
    assert_allclose(ngram.kl(P, near), float(exact), rtol=1e-6)
    assert_allclose(ngram.chi2(P, near), float(chi2), rtol=1e-6)
    assert_allclose(ngram.renyi(P, near, 0.5), float(chi2) / 4, rtol=1e-6)  # D_a = a χ²/2 where models are close
    assert ngram.kl(P, P) == ngram.chi2(P, P) == ngram.renyi(P, P, 0.5) == 0


def test_divergences_are_infinite_where_the_second_model_cannot_follow():
    impossible = P.copy()
    impossible[1] = [0.7, 0.3, 0.0]
    assert ngram.kl(P, impossible) == ngram.renyi(P, impossible, 1.5) == ngram.chi2(P, impossible) == np.inf
    finite = ngram.kl(impossible, P), ngram.renyi(impossible, P, 1.1), ngram.renyi(P, impossible, 0.5)
    assert np.isfinite(finite).all()


def test_models_without_a_common_string():
    p, q = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]])
    assert ngram.renyi(p, q, 0.5) == np.inf
    assert ngram.collision(p, q) == 0
    assert ngram.collision(p, p) == 1
    assert_allclose(ngram.collision(q, q), 1 / 3, rtol=4 * EPS)


def test_a_renyi_divergence_is_infinite_from_a_spectral_radius_of_1_on():
    """Of one context p^a q^(1-a) is a number, here 1 at a = 2: D_a is finite below and infinite from there on."""
    p, q = np.array([[0.2, 0.8]]), np.array([[0.36, 0.64]])
    D = [ngram.renyi(p, q, a) for a in (1.5, 1.99, 1.9999)]
    assert_allclose(D[0], np.log(0.2**1.5 / 0.36**0.5 / (1 - 0.8**1.5 / 0.64**0.5)) / 0.5, rtol=1e-14)
    assert D[0] < D[1] < D[2] < np.inf
    assert ngram.renyi(p, q, 2.0001) == ngram.chi2(p, np.array([[0.4, 0.6]])) == np.inf


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.05, 0.95))
def test_renyi_divergences_obey_their_laws(seed, a):
    """a D_{1-a}(q || p) = (1 - a) D_a(p || q), and D_a rises with a, to KL at 1: van Erven & Harremoës 2014"""
    p, q = brief(seed, end=0.5), brief(seed + 1, end=0.5)
    D = ngram.renyi(p, q, a)
    assert_allclose(a * ngram.renyi(q, p, 1 - a), (1 - a) * D, rtol=1e-9)
    assert ngram.renyi(p, q, a / 2) <= D * (1 + 1e-9)
    assert D <= ngram.kl(p, q) * (1 + 1e-9)


def test_the_renyi_divergence_passes_through_kl():
    assert ngram.renyi(P, Q, 1.0) == ngram.kl(P, Q)
    around = [ngram.renyi(P, Q, a) for a in (1 - 1e-4, 1 + 1e-4)]
    assert_allclose(np.mean(around), ngram.kl(P, Q), rtol=1e-7)  # h² D'''


# ---- contexts

STRINGS = pad([([0], [1, 2, 0]), ([0], [2, 2, 1, 0]), ([0], [1, 1, 2, 3, 0])])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_contexts_a_policy_keeps(order):
    """Their rows and following give what the package's own enumeration gives, and what all contexts give."""
    policies = NGram.seen(4, order, STRINGS), NGram(4, order)
    found = []
    for policy in policies:
        p, q = (np.exp(policy.fit(STRINGS, weight, 0.5)["W"]) for weight in ([1, 2, 3], [2, 1, 1]))
        p, q = p * [1, *[0.1] * 3], q * [1, *[0.1] * 3]  # ends soon
        p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
        where = {"following": policy.following(), "start": policy.start}
        sums = (ngram.expected_length, ngram.entropy, ngram.length_variance)
        found.append([*(f(p, **where) for f in sums), ngram.kl(p, q, **where), ngram.chi2(q, p, **where)])
        y = enumerate_responses(policy, [0], 6)
        y = y.take(np.flatnonzero(y.facts["finished"]))
        log_p, log_q = (read(policy, {"W": np.log(t)}, y, np.arange(len(y)), ["logp"])[0]["logp"] for t in (p, q))
        n, mass = y.length - 1, np.exp(log_p)
        one_by_one = [mass @ n, -mass @ log_p, mass @ n**2 - (mass @ n) ** 2, mass @ (log_p - log_q)]
        assert 1e-8 < 1 - mass.sum() < 2e-3  # what is left out
        assert_allclose(found[-1][:4], one_by_one, rtol=0, atol=40 * (1 - mass.sum()))
    assert_allclose(*found, rtol=1e-12)


def test_without_following_all_contexts_have_a_row():
    table = brief(0, order=3, end=0.5)
    following = np.array([[3 * latest + v for v in range(3)] for earlier in range(3) for latest in range(3)])
    assert_allclose(ngram.visits(table, following=following), ngram.visits(table), rtol=4 * EPS)
    following[:, 0] = 8  # where the end would lead
    assert_allclose(ngram.visits(table, following=following), ngram.visits(table), rtol=4 * EPS)


def test_strings_may_begin_in_any_context():
    """Conditioned on their first token they begin in its row: E|y| = p(a) (1 + E_a|y|) + p(b) (1 + E_b|y|)."""
    first = [ngram.expected_length(P, start=s) for s in range(3)]
    assert_allclose(first[0], P[0, 1:] @ (1 + np.array(first[1:])), rtol=8 * EPS)
    assert first[1] != first[2]


def with_a_dead_end(table):
    """A row more, of a context that leads to itself forever"""
    following = np.tile([0, 1, 2], (4, 1))
    following[3] = 3
    return np.vstack([table, [0.0, 0.5, 0.5]]), following


def test_a_context_that_no_string_visits_changes_nothing():
    p, following = with_a_dead_end(P)
    q, _ = with_a_dead_end(Q)
    reward = np.vstack([REWARD, [1e6, 1e6, -1e6]])
    where = {"following": following}
    assert ngram.visits(p, **where)[3] == 0
    for f in (ngram.expected_length, ngram.entropy, ngram.length_variance, ngram.spectral_radius):
        assert_allclose(f(p, **where), f(P), rtol=8 * EPS)
    for f in (ngram.kl, ngram.collision):
        assert_allclose(f(p, q, **where), f(P, Q), rtol=8 * EPS)
    assert_allclose(ngram.renyi(p, q, 0.5, **where), ngram.renyi(P, Q, 0.5), rtol=8 * EPS)
    assert_allclose(ngram.expected(p, reward, **where), ngram.expected(P, REWARD), rtol=8 * EPS)
    impossible = q.copy()
    impossible[3] = [1.0, 0.0, 0.0]
    assert_allclose(ngram.kl(p, impossible, **where), ngram.kl(P, Q), rtol=8 * EPS)


def test_a_context_that_strings_visit_and_none_leaves_is_named():
    p, following = with_a_dead_end(P)
    following[1, 2] = 3
    with pytest.raises(ValueError, match="p has a string that cannot end: it reaches row 3, from where no outcome"):
        ngram.visits(p, following=following)
    p[1] = [0.6, 0.4, 0.0]  # no string takes that step
    assert ngram.visits(p, following=following)[3] == 0


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: ngram.visits([[0.0, 1.0], [0.0, 1.0]]),
            "p has a string that cannot end: it reaches row 0, from where no outcome of a probability above 0 leads to",
        ),
        (lambda: ngram.kl(P, [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), "q has .* end: it reaches row 1"),
        (lambda: ngram.visits([[0.2, 0.9], [0.5, 0.5]]), r"the sum of p is 1.1 at \[0\]; expected 1"),
        (lambda: ngram.visits([[0.5, 0.5], [1.5, -0.5]]), r"p is -0.5 at \[1, 1\]; expected probabilities, at least 0"),
        (lambda: ngram.visits([[np.nan, 1.0], [0.5, 0.5]]), r"p is nan at \[0, 0\]; expected probabilities"),
        (
            lambda: ngram.visits(np.full((5, 2), 0.5)),
            r"p has shape \(5, 2\); expected \(S, V\) with S a power of V, or `following`",
        ),
        (lambda: ngram.visits([0.5, 0.5]), r"p has shape \(2,\); expected \(S, V\): a row for each context"),
        (lambda: ngram.visits([[1.0]]), r"p has shape \(1, 1\); .* at least 2 outcomes"),
        (lambda: ngram.visits(P, start=3), "start is 3; expected one of the 3 rows of p"),
        (lambda: ngram.visits(P, start=-1), "start is -1; expected one of the 3 rows of p"),
        (lambda: ngram.visits(P, start=0.0), "start is 0.0; expected one of the 3 rows of p"),
        (
            lambda: ngram.visits(P, following=[[0, 1, 2]] * 2),
            r"following has shape \(2, 3\) and dtype int64; expected whole numbers, \(3, 3\)",
        ),
        (lambda: ngram.visits(P, following=P), r"following has .* dtype float64; expected whole numbers"),
        (
            lambda: ngram.visits(P, following=[[0, 1, 2], [0, 1, 3], [0, 1, 2]]),
            r"following is 3 at \[1, 2\]; expected one of the 3 rows of p",
        ),
        (lambda: ngram.kl(P, [[0.5, 0.5], [0.5, 0.5]]), r"q has shape \(2, 2\); expected that of p, \(3, 3\)"),
        (lambda: ngram.expected(P, REWARD[:2]), r"reward has shape \(2, 3\); expected that of p, \(3, 3\)"),
        (lambda: ngram.variance(P, REWARD + np.inf), r"reward is inf at \[0, 0\]; expected finite numbers"),
        (lambda: ngram.renyi(P, Q, 0.0), "order is 0.0; expected one finite number above 0"),
        (lambda: ngram.length_pmf(P, -1), "longest is -1; expected a number of tokens, at least 0, or None"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_nothing_that_is_given_is_written_to():
    p, following = with_a_dead_end(P)
    kept = p.copy()
    ngram.visits(p, following=following)
    assert (p == kept).all()


# ---- sizes

@pytest.mark.slow
def test_a_trigram_of_bytes_in_less_than_two_gigabytes():
    """66,049 contexts, 17 million entries. A bigram's rows for whatever came before: the bigram's sums, by LU."""
    V = 257
    p, q = lasting(0, 1e-3, vocab=V), lasting(1, 1e-3, vocab=V)
    reward = np.random.default_rng(2).normal(size=(V, V)) - 1
    sums = {
        "length": lambda p, q, r: ngram.expected_length(p),
        "variance": lambda p, q, r: ngram.length_variance(p),
        "kl": lambda p, q, r: ngram.kl(p, q),
        "log_z": lambda p, q, r: ngram.optimum(p, r, 1.0)[1],
        "critical": lambda p, q, r: ngram.critical_beta(p, 1.0),
        "gradient": lambda p, q, r: ngram.policy_gradient(p, q, r, 1.0).sum(axis=0)[0],
    }
    bigram = {name: f(p, q, reward) for name, f in sums.items()}
    tables = [np.tile(table, (V, 1)) for table in (p, q, reward)]
    tracemalloc.start()
    trigram = {name: f(*tables) for name, f in sums.items()}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e9
    for name, exact in bigram.items():
        assert_allclose(trigram[name], exact, rtol=1e-10, err_msg=name)
    visits = ngram.visits(tables[0]).reshape(V, V)
    assert_allclose(visits.sum(axis=0), ngram.visits(p), rtol=1e-9)


@pytest.mark.slow
def test_the_trigram_of_real_answers_has_their_length(data_dir, monkeypatch):
    """Of bytes, smoothed: E|y| is that of the data, as maximum likelihood makes it, but for the smoothing's 5%; some 90
    products, a third of them for the last digits.
    """
    rows = [row._replace(prompt="") for row in load(data_dir / "oasst_en_100_tree.jsonl.gz").rows]
    responses = to_preferences(rows, Bytes()).responses
    policy = NGram.seen(257, 3, responses)
    p = np.exp(policy.fit(responses)["W"])
    from analytic import _chains

    products = []
    gmres = _chains.gmres

    def counted(operator, b, **options):
        return gmres(operator, b, callback=lambda _: products.append(1), callback_type="pr_norm", **options)

    monkeypatch.setattr(_chains, "gmres", counted)
    length = ngram.expected_length(p, following=policy.following(), start=policy.start)
    assert_allclose(length, (responses.length - 1).mean(), rtol=0.05)
    assert 20 < len(products) < 100
    dense = np.exp(NGram(257, 3).fit(responses)["W"])  # the same strings have the same probabilities
    assert_allclose(ngram.expected_length(dense), length, rtol=1e-10)


def test_along_is_the_context_arithmetic_of_the_package():
    """The enumeration of these tests numbers contexts as the policies do."""
    policy, y = NGram(3, 3), (1, 2, 2, 1)
    W = np.arange(27.0).reshape(9, 3)
    logits = policy.logits({"W": W}, np.array([[0, *y]]))[0][0]
    assert along(W, y, 3) == [logits[t, v] for t, v in enumerate((*y, 0))]
