"""One chain solved in three ways, by LU, over sparse rows and over the table itself; and what these cannot solve."""

import numpy as np
import pytest
from ngrams import brief, lasting
from numpy.testing import assert_allclose

from analytic import _chains, ngram

VOCAB, ORDER = 11, 4
S = VOCAB ** (ORDER - 1)  # 1,331: more than are solved by LU
EVERYTHING = {
    "visits": lambda p, q, r, **where: ngram.visits(p, **where),
    "expected_length": lambda p, q, r, **where: ngram.expected_length(p, **where),
    "length_variance": lambda p, q, r, **where: ngram.length_variance(p, **where),
    "length_pmf": lambda p, q, r, **where: ngram.length_pmf(p, 9, **where),
    "entropy": lambda p, q, r, **where: ngram.entropy(p, **where),
    "expected": lambda p, q, r, **where: ngram.expected(p, r, **where),
    "variance": lambda p, q, r, **where: ngram.variance(p, r, **where),
    "kl": lambda p, q, r, **where: ngram.kl(p, q, **where),
    "renyi": lambda p, q, r, **where: ngram.renyi(p, q, 0.5, **where),
    "close": lambda p, q, r, **where: ngram.chi2(p, 0.99 * p + 0.01 * q, **where),
    "collision": lambda p, q, r, **where: ngram.collision(p, q, **where),
    "log_z": lambda p, q, r, **where: ngram.log_partition(p, r, 1.0, **where),
    "optimum": lambda p, q, r, **where: ngram.optimum(p, r, 1.0, **where)[0],
    "optimal_values": lambda p, q, r, **where: ngram.optimal_values(p, r, 1.0, **where).V[0],
    "policy_values": lambda p, q, r, **where: ngram.policy_values(p, q, r, 1.0, **where).V[0],
    "policy_gradient": lambda p, q, r, **where: ngram.policy_gradient(p, q, r, 1.0, **where),
    "natural_gradient": lambda p, q, r, **where: ngram.natural_gradient(p, q, r, 1.0, **where),
    "fisher": lambda p, q, r, **where: ngram.fisher(p, **where),
    "value": lambda p, q, r, **where: ngram.value(p, q, r, 1.0, **where),
    "spectral_radius": lambda p, q, r, **where: ngram.spectral_radius(p, **where),
    "critical_beta": lambda p, q, r, **where: ngram.critical_beta(p, r + 1, **where),
    "win_rate": lambda p, q, r, **where: ngram.win_rate(p, q, np.rint(r), tail=1e-6, **where)[0],
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_lu_sparse_rows_and_the_table_itself_agree(name, monkeypatch):
    """A trigram over 4 outcomes: 12 of its 16 contexts occur."""
    p, q = brief(0, vocab=4, order=3, end=0.3), brief(1, vocab=4, order=3, end=0.3)
    reward = np.random.default_rng(0).normal(size=p.shape) / 2
    following = (np.arange(4) + 4 * np.arange(16)[:, None]) % 16
    by_lu = EVERYTHING[name](p, q, reward)
    monkeypatch.setattr(_chains, "DENSE", 3)
    occurs = np.ones(p.shape, bool)
    occurs[[4, 8, 12]] = name not in ("optimum", "fisher")  # a boundary, then more: reached by nothing
    for where in ({}, {"following": following}):
        found = EVERYTHING[name](p, q, reward, **where)
        close = {"rtol": 1e-11, "atol": 1e-13}
        assert_allclose(found[occurs[:, 0]] if np.ndim(found) > 1 else found,
                        by_lu[occurs[:, 0]] if np.ndim(found) > 1 else by_lu, **close)


@pytest.fixture(scope="module")
def fourgram():
    return lasting(0, 0.01, vocab=VOCAB, order=ORDER)


def matrix(table):
    """T of the numbering of all contexts, entry by entry"""
    T = np.zeros((S, S))
    for s in range(S):
        for v in range(1, VOCAB):
            T[s, (v + VOCAB * s) % S] += table[s, v]
    return T


def test_products_with_the_table_are_products_with_the_matrix(fourgram):
    chain = _chains.steps("p", fourgram, None, 0)
    assert chain.to is None  # so that no index is stored
    T, exact, x = _chains.transitions(fourgram, chain), matrix(fourgram), np.random.default_rng(0).normal(size=S)
    assert_allclose(T @ x, exact @ x, rtol=0, atol=1e-14)
    assert_allclose(T.T @ x, exact.T @ x, rtol=0, atol=1e-14)
    sparse = _chains.transitions(fourgram, chain._replace(to=chain.rows()))
    assert_allclose(sparse.toarray(), exact, rtol=0, atol=0)


def test_a_thousand_contexts_and_more_by_gmres(fourgram):
    N = np.linalg.solve(np.eye(S) - matrix(fourgram).T, np.eye(S)[0])
    for following in (None, _chains.steps("p", fourgram, None, 0).rows()):
        assert_allclose(ngram.visits(fourgram, following=following), N, rtol=1e-10, atol=1e-13)
        assert_allclose(ngram.expected_length(fourgram, following=following), N.sum() - 1, rtol=1e-11)


def test_long_strings_cost_no_digits_by_gmres_either():
    """A bigram's rows for each context of three tokens, 1e12 tokens a string: its sums are the bigram's, by LU."""
    p, q = lasting(0, 1e-12, vocab=VOCAB), lasting(1, 1e-12, vocab=VOCAB)
    P4, Q4 = np.tile(p, (VOCAB**2, 1)), np.tile(q, (VOCAB**2, 1))
    assert_allclose(ngram.expected_length(P4), ngram.expected_length(p), rtol=1e-13)
    assert_allclose(ngram.kl(P4, Q4), ngram.kl(p, q), rtol=1e-13)
    assert_allclose(ngram.length_variance(P4), ngram.length_variance(p), rtol=1e-13)


def test_a_context_that_no_string_visits_is_never_visited(fourgram):
    """Exactly, so that infinities there are no matter: a boundary in the middle is what no string has."""
    N = ngram.visits(fourgram)
    latest = np.arange(S) % VOCAB
    assert (N[(latest == 0) & (np.arange(S) > 0)] == 0).all()
    assert (N[[s for s in range(S) if s % VOCAB and s // VOCAB % VOCAB and s >= VOCAB**2]] > 0).all()
    impossible = fourgram.copy()
    impossible[VOCAB] = np.eye(VOCAB)[0]
    assert ngram.kl(fourgram, impossible) == 0


@pytest.mark.parametrize(("sixty", "found"), [(60, True), (1200, False)])
def test_a_hundred_products_see_a_hundred_tokens(sixty, found):
    """1,200 contexts in a row, of which the last 60 or all lead to the end: what GMRES cannot solve is an error."""
    n = 1200
    table, following = np.tile([0.0, 1.0], (n, 1)), np.minimum(np.arange(n)[:, None] + 1, n - 1) * np.ones((1, 2), int)
    table[: n - sixty], table[-1] = 0, [1.0, 0.0]
    T = _chains.transitions(table, _chains.steps("p", table, following, 0))
    if found:
        assert_allclose(_chains.forward(T, table[:, 0], restarts=1), np.arange(n) >= n - sixty, rtol=0, atol=1e-12)
    else:
        with pytest.raises(ArithmeticError, match=r"GMRES left a residual of .* after 1 times 100 products"):
            _chains.forward(T, table[:, 0], restarts=1)


def test_lu_says_that_a_matrix_is_singular():
    with pytest.raises(ArithmeticError, match="the equations are singular but for rounding"):
        _chains.forward(np.eye(2), np.ones(2))
    with pytest.raises(ArithmeticError, match="strings hardly ever end"):
        ngram.expected_length([[1.0, 1e-238], [1e-184, 1.0]])


def test_strings_that_hardly_ever_end_are_not_walked():
    """A context that ends once in 10¹² tokens: equations tell its length, but no sum token by token would return."""
    long = [[1e-12, 1 - 1e-12]]
    assert_allclose(ngram.expected_length(long), 1e12, rtol=1e-4)  # 1 - 1e-12 is rounded to 1e-16
    what = "too long to be extended token by token: it takes about"
    with pytest.raises(ArithmeticError, match=f"strings of p are {what} 3.68e\\+13 tokens"):
        ngram.length_pmf(long)
    assert ngram.length_pmf(long, longest=3).shape == (4,)
    with pytest.raises(ArithmeticError, match=f"strings of q are {what}"):
        ngram.win_rate([[0.5, 0.5]], long, [[0, 1]])
    with pytest.raises(ArithmeticError, match=f"strings of mu are {what}"):
        ngram.dpo_loss(long, [[0, 1]], [[0, 1]], 0.1)
    for reward in (1.0, [[0.0, 1.0]]):
        with pytest.raises(ArithmeticError, match="spectral radius of ref is 1 but for rounding"):
            ngram.critical_beta([[1e-143, 1.0]], reward)


@pytest.mark.parametrize("seed", range(5))
def test_visited_contexts_by_walking(seed):
    rng = np.random.default_rng(seed)
    possible, following = rng.random((8, 3)) < 0.35, rng.integers(8, size=(8, 3))

    def walk(start):
        seen, ahead = {start}, [start]
        while ahead:
            s = ahead.pop()
            for v in (1, 2):
                if possible[s, v] and following[s, v] not in seen:
                    seen.add(int(following[s, v]))
                    ahead.append(int(following[s, v]))
        return seen

    chain = _chains.steps("p", possible, following, 3)
    reached, ends = _chains.visited(possible, chain)
    assert set(np.flatnonzero(reached)) == walk(3)
    assert ends.tolist() == [any(possible[t, 0] for t in walk(s)) for s in range(8)]
