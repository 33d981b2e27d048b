"""Sums of weights in logarithms: radii against eigenvalues and cycles one by one, sums against the heaviest strings."""

import itertools

import numpy as np
import pytest
from ngrams import brief, lasting, strings
from numpy.testing import assert_allclose

from analytic import _chains, _weights, ngram

EPS = np.finfo(float).eps
INF = np.inf


def chain_of(G, following=None):
    return _chains.steps("table", G, following, 0)


def random_weights(seed, rows=5, share=0.7):
    """Log-weights, some outcomes impossible, and where outcomes lead"""
    rng = np.random.default_rng(seed)
    G = np.where(rng.random((rows, 3)) < share, rng.normal(size=(rows, 3)), -INF)
    return G, rng.integers(rows, size=(rows, 3))


def cycles(G, following):
    """Mean log-weights of all simple cycles"""
    found = []
    for n in range(1, len(G) + 1):
        for contexts in itertools.permutations(range(len(G)), n):
            if contexts[0] == min(contexts):
                steps = [max([G[s, v] for v in (1, 2) if following[s, v] == t], default=-INF)
                         for s, t in zip(contexts, (*contexts[1:], contexts[0]), strict=True)]
                found.append(np.mean(steps) if min(steps) > -INF else -INF)
    return found


def matrix(G, following):
    T = np.zeros((len(G), len(G)))
    np.add.at(T, (np.arange(len(G))[:, None], following[:, 1:]), np.exp(G[:, 1:]))
    return T


# ---- radii

@pytest.mark.parametrize("seed", range(20))
def test_the_radius_is_the_largest_eigenvalue_and_the_steepest_cycle_bounds_it(seed):
    """e^m <= ρ(T) with m the largest mean of a cycle; every step loses against it, once potentials are taken out."""
    G, following = random_weights(seed)
    chain = chain_of(G, following)
    radius = max(abs(np.linalg.eigvals(matrix(G, following))))
    assert_allclose(np.exp(_weights.log_radius(G, 1.0, chain)), radius, rtol=1e-13)
    h, m = _weights.steepest(G, 1e-12, chain)
    assert_allclose(m, max(cycles(G, following)), rtol=0, atol=1e-11)
    assert m <= np.log(radius) + 1e-12 if radius else m == -INF
    if m > -INF:
        assert (G[:, 1:] - m + h[following[:, 1:]] - h[:, None] <= 3e-12).all()


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
def test_the_radius_of_weights_beyond_float64(scale):
    """ρ is that of the heaviest cycle, e^{±scale}, once others are e^-scale of it: in logarithms, m/β."""
    for seed in range(5):
        G, following = random_weights(seed, share=1.0)
        m = sorted(set(cycles(G, following)))
        found = _weights.log_radius(scale * G, 1.0, chain_of(G, following))
        assert scale * m[-1] - 1e-9 * scale <= found <= scale * m[-1] + np.log(5)
        assert_allclose(_weights.log_radius(G, 1 / scale, chain_of(G, following)), found, rtol=1e-12)
        down = _weights.log_radius(scale * G - 2e3, 1.0, chain_of(G, following))
        assert_allclose(down, found - 2e3, rtol=1e-12)


def test_parts_of_equal_radius_keep_their_digits():
    """Three circles of radius ∛.042, one leading to the next: a triple eigenvalue of one matrix loses most of them."""
    n = np.random.default_rng(1).permutation(9)  # circles 0 1 2, 3 4 5 and 6 7 8, their contexts in any order
    following, G = np.zeros((9, 3), int), np.full((9, 3), -INF)
    for s, p in enumerate([0.3, 0.7, 0.2] * 3):
        following[n[s]] = [0, n[s - s % 3 + (s + 1) % 3], n[min(s + 3, 8)]]
        G[n[s]] = np.log([0.9 - p, p, 0.1])
    G[n[6:], 2] = -INF
    assert_allclose(np.exp(_weights.log_radius(G, 1.0, chain_of(G, following))), np.cbrt(0.042), rtol=4 * EPS)


def test_many_contexts_by_arnoldi():
    """Rows of a bigram for each context of three tokens, over the table and over sparse rows: the bigram's radius."""
    p = lasting(0, 0.1, vocab=11)
    G = np.log(np.tile(p, (121, 1)))
    chain = chain_of(G)
    bigram = np.log(max(np.linalg.eigvals(p[1:, 1:]).real))
    assert_allclose(_weights.log_radius(G, 1.0, chain), bigram, rtol=1e-12)
    G[11] = [0.0, *[-INF] * 10]  # which no string visits
    assert_allclose(_weights.log_radius(_weights.settled(G, chain)[0], 1.0, chain), bigram, rtol=1e-12)
    assert_allclose(_weights.log_radius(2e3 * G, 2e3, chain), bigram, rtol=1e-12)


def test_several_outcomes_may_lead_to_the_same_context():
    G, following = np.log([[0.5, 0.3, 0.2]]), np.zeros((1, 3), int)
    assert_allclose(_weights.log_radius(G, 1.0, chain_of(G, following)), np.log(0.5), rtol=4 * EPS)


# ---- sums

@pytest.mark.parametrize("seed", range(10))
def test_the_heaviest_string_one_by_one(seed):
    """`climb` from the ends: log-weights of the best string, of at most 6 tokens as no cycle gains; or one that does"""
    G, following = random_weights(seed)
    chain = chain_of(G, following)
    G, _ = _weights.settled(G, chain)
    h, gain = _weights.climb(G, 1e-12, chain, G[:, 0])
    if max(cycles(G, following)) > 0:
        assert h is None
        assert any(np.isclose(gain, mean) for mean in cycles(G, following))
        assert gain > 0
    for s in range(len(G)) if h is not None else ():
        best = -INF
        for y in strings(3, 6):
            at, total = s, 0.0
            for v in y:
                total, at = total + G[at, v], following[at, v]
            best = max(best, total + G[at, 0])
        assert_allclose(h[s], best, rtol=0, atol=1e-11)


@pytest.mark.parametrize("size", [1.0, 1e2, 1e4])
def test_potentials_move_sums_and_nothing_else(size):
    """G(s, v) + h(s') - h(s) has V(s) - h(s): however far the weights then are apart"""
    G, h = np.log(brief(0, order=3, end=0.3)) - 1, size * np.random.default_rng(0).normal(size=9)
    chain = chain_of(G)
    V = _weights.log_sums(G, 1.0, chain)
    moved = chain.differences(G, h)
    assert_allclose(_weights.log_sums(moved, 1.0, chain), V - h, rtol=1e-14, atol=1e-14 * size + 1e-13)
    assert_allclose(_weights.log_sums(size * G, size, chain), size * V, rtol=1e-13)


def test_sums_are_infinite_from_a_radius_of_1_on():
    """Of one context, Σ e^{Gⁿ} e^{G₀}: finite for 1 - 1e-9, infinite at 1 and beyond, at any size of the end."""
    for end in (0.0, -1e4, 1e4):
        for step, V in ((np.log1p(-1e-9), end - np.log(1e-9)), (0.0, INF), (1e-9, INF), (1e4, INF)):
            G = np.array([[end, step]])
            assert_allclose(_weights.log_sums(G, 1.0, chain_of(G)), V, rtol=1e-7)
    G = np.array([[0.0, INF]])
    assert _weights.log_sums(G, 1.0, chain_of(G)) == INF


def test_settled_weights_end_at_once_where_no_string_passes():
    G = np.array([[0.0, 1.0, -INF], [2.0, -INF, -INF], [0.5, 0.5, 0.5]])
    settled, here = _weights.settled(G, chain_of(G))
    assert here.tolist() == [True, True, False]
    np.testing.assert_array_equal(settled, [*G[:2], [0, -INF, -INF]])


def test_no_sum_is_found_where_products_do_not_suffice(monkeypatch):
    """The radius being below 1, it is an error, not infinity."""
    monkeypatch.setattr(_weights, "forward", lambda *_: np.full(2, np.nan))
    G = np.log([[0.5, 0.25], [0.5, 0.25]])
    with pytest.raises(ArithmeticError, match="a sum of weights is finite, but was not found"):
        _weights.log_sums(G, 1.0, chain_of(G))


def test_a_long_way_to_the_end_is_no_obstacle():
    """800 tokens one after the other at log-weights of -5 and +5: from a context on, their sum, e^-4000 to e^4000."""
    n = 800
    G, following = np.full((n, 2), -INF), np.minimum(np.arange(n)[:, None] + 1, n - 1) * np.ones((1, 2), int)
    G[:, 1] = np.where(np.arange(n) < n // 2, -5.0, 5.0)
    G[-1] = [0.0, -INF]
    V = _weights.log_sums(G, 1.0, chain_of(G, following))
    assert_allclose(V, np.append(np.cumsum(G[-2::-1, 1])[::-1], 0.0), rtol=1e-13, atol=1e-10)
    assert ngram.spectral_radius(np.exp(G), following=following) == 0
