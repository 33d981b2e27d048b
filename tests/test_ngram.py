"""The n-gram: what a context sees, which contexts are kept, smoothing as a recursion, and rows that nobody visits."""

import itertools
import math
import re
from collections import defaultdict

import numpy as np
import pytest
from policies import CORPUS, rows
from scipy.optimize import minimize

import dpo_numpy as dn
from dpo_numpy.gradient import read
from dpo_numpy.preferences import Responses, pad
from toy_models import NGram

EPS = np.finfo(np.float64).eps


def message(text):
    return pytest.raises(ValueError, match=re.escape(text))


def context(tokens, t, order):
    """The tokens that position t may look at, latest first, up to and including a boundary"""
    seen = []
    for token in reversed(tokens[max(0, t - order + 2):t + 1] if order > 1 else []):
        seen.append(int(token))
        if token == 0:
            break
    return (*seen, *[0] * (order - 1 - len(seen)))


# ---- contexts

@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_a_row_for_each_context_the_latest_token_counting_least(order):
    rng = np.random.default_rng(order)
    policy = NGram(vocab=3, order=order)
    W = rng.normal(size=(3 ** (order - 1), 3))
    tokens = rng.integers(3, size=(30, 8))
    logits, _ = policy.logits({"W": W}, tokens)
    for n, t in np.ndindex(tokens.shape):
        row = sum(token * 3**j for j, token in enumerate(context(tokens[n], t, order)))
        np.testing.assert_array_equal(logits[n, t], W[row])


def test_a_context_does_not_look_past_the_boundary():
    policy = NGram(vocab=3, order=4)
    params = policy.init(np.random.default_rng(0))
    responses = pad([(prompt, [1, 2, 1, 0]) for prompt in ([0], [1, 0], [2, 1, 2, 0], [0, 0])])
    logp = read(policy, params, responses, np.arange(4), ["logp"])[0]["logp"]
    assert len(set(logp.tolist())) == 1
    other = pad([([1], [1, 2, 1, 0]), ([2], [1, 2, 1, 0])])  # without it, it does
    logp = read(policy, params, other, np.arange(2), ["logp"])[0]["logp"]
    assert logp[0] != logp[1]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_an_n_gram_looks_back_n_minus_1_tokens_and_no_further(order):
    policy = NGram(vocab=3, order=order)
    params = policy.init(np.random.default_rng(1))
    tokens = np.array([[1, 2, 1, 2, 1, 2]])
    for back in range(1, 6):
        changed = tokens.copy()
        changed[0, -back] = 3 - changed[0, -back]  # not the boundary
        moved = (policy.logits(params, changed)[0][0, -1] != policy.logits(params, tokens)[0][0, -1]).any()
        assert moved == (back <= order - 1)


# ---- seen contexts

@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_seen_keeps_the_contexts_that_occur_of_every_length_and_no_others(order):
    policy = NGram.seen(4, order, CORPUS)
    occur = [set() for _ in range(order)]
    for tokens, mask in zip(CORPUS.tokens, CORPUS.mask, strict=True):
        for t in np.flatnonzero(mask):
            c = context(tokens, t - 1, order)
            for m in range(order):
                occur[m].add(sum(token * 4**j for j, token in enumerate(c[:m])))
    assert [keys.tolist() for keys in policy.contexts] == [sorted(keys) for keys in occur]
    assert policy.rows == sum(map(len, occur))
    assert policy.init(np.random.default_rng(0))["W"].shape == (policy.rows, 4)


def test_an_unseen_context_uses_the_row_of_its_longest_suffix_kept():
    policy = NGram.seen(4, 3, CORPUS)
    W = np.arange(policy.rows * 4.0).reshape(-1, 4)
    start, lengths = np.cumsum([0, *map(len, policy.contexts)]), set()
    for tokens in itertools.product(range(4), repeat=3):
        c = context(tokens, 2, 3)
        ids = [sum(token * 4**j for j, token in enumerate(c[:m])) for m in range(3)]
        kept = [m for m in range(3) if ids[m] in policy.contexts[m].tolist()]
        row = start[kept[-1]] + policy.contexts[kept[-1]].tolist().index(ids[kept[-1]])
        np.testing.assert_array_equal(policy.logits({"W": W}, np.array([tokens]))[0][0, -1], W[row])
        lengths.add(kept[-1])
    assert lengths == {1, 2}  # some back off, some do not


def test_all_the_way_to_the_empty_context():
    policy = NGram.seen(5, 3, CORPUS)
    W = np.arange(policy.rows * 5.0).reshape(-1, 5)
    np.testing.assert_array_equal(policy.logits({"W": W}, np.array([[1, 4]]))[0][0, -1], W[0])  # 4 never occurs


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_dense_and_seen_agree_on_seen_contexts(order):
    weight = np.random.default_rng(2).random(len(CORPUS)) + 0.1
    policies = NGram(4, order), NGram.seen(4, order, CORPUS)
    # the smoothing being a recursion through the suffixes, they agree on all other strings too
    for strings in (CORPUS, dn.enumerate_responses(policies[0], [0], 4)):
        every = np.arange(len(strings))
        a, b = (read(p, p.fit(CORPUS, weight, 0.3), strings, every, ["logp"])[0]["logp"] for p in policies)
        np.testing.assert_allclose(a, b, rtol=16 * EPS)


# ---- where outcomes lead

AFTER_A_BOUNDARY = pad([([0], [1, 2, 0]), ([0], [2, 2, 1, 0]), ([3, 0], [1, 2, 3, 0]), ([0], [3, 3, 3, 1, 0])])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("make", [NGram, lambda vocab, order: NGram.seen(vocab, order, AFTER_A_BOUNDARY)])
def test_following_leads_along_every_string_to_the_row_of_its_context(make, order):
    """All strings of 5 tokens over 3 letters, 2 and more of whose contexts back off; rows as `logits` reads them."""
    policy = make(4, order)
    rows, following = np.arange(policy.rows)[:, None], policy.following()
    assert following.shape == (policy.rows, 4)
    strings = np.array([[0, *y] for y in itertools.product((1, 2, 3), repeat=5)])
    visited = policy.logits({"W": np.repeat(rows, 4, axis=1)}, strings)[0][:, :, 0]
    assert (visited[:, 0] == policy.start).all()
    np.testing.assert_array_equal(following[visited[:, :-1], strings[:, 1:]], visited[:, 1:])
    assert (following[:, 0] == policy.start).all()


def test_a_row_that_does_not_know_what_follows_is_refused():
    """After the prompt 1 2 both (2) and (2, 1) are kept, but (1) is not: the empty context, then 2, may be either."""
    policy = NGram.seen(4, 3, pad([([1, 2], [3, 0])]))
    with message("contexts hold id 6 of 2 tokens but not its beginning, id 1 of 1"):
        policy.following()
    assert NGram.seen(4, 3, pad([([1, 2, 0], [3, 0])])).following().shape == (5, 4)


def test_high_orders_lead_on_without_overflow():
    """Contexts of 7 of 257 outcomes are numbered up to 257⁷; one token more and 64 bits are not enough."""
    policy = NGram.seen(257, 8, pad([([0], [256] * 9 + [0])]))
    row = policy.start
    for _ in range(7):
        row = policy.following()[row, 256]
    assert row == policy.rows - 1
    assert policy.following()[row, 256] == row


# ---- fit

def naive_fit(responses, weight, V, order, s):
    """p(v|c) = (n(c,v) + s p(v|c')) / (n(c) + s), with dictionaries: context (latest first) -> probabilities"""
    n = defaultdict(lambda: [0.0] * V)
    for tokens, mask, w in zip(responses.tokens, responses.mask, weight, strict=True):
        for t in np.flatnonzero(mask):
            c = context(tokens, t - 1, order)
            for m in range(order):
                n[c[:m]][tokens[t]] += w

    def p(c):
        below = [1 / V] * V if not c else p(c[:-1])
        return [(n[c][v] + s * below[v]) / (sum(n[c]) + s) for v in range(V)]

    return p


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("s", [1.0, 0.3, 1e-6, 1e3])
def test_fit_is_the_smoothing_recursion(order, s):
    rng = np.random.default_rng(3)
    responses = pad(rows(rng, NGram(vocab=3), 10))
    weight = rng.random(10) * 3
    policy = NGram(3, order)
    W = policy.fit(responses, weight, s)["W"]
    p = naive_fit(responses, weight, 3, order, s)
    for c in itertools.product(range(3), repeat=order - 1):
        row = sum(token * 3**j for j, token in enumerate(c))
        np.testing.assert_allclose(np.exp(W[row]), p(c), rtol=64 * EPS)
    np.testing.assert_allclose(np.exp(W).sum(axis=1), 1, rtol=16 * EPS)


@pytest.mark.parametrize("s", [1.0, 0.3, 1e-3, 0.7])
def test_a_context_that_never_occurs_has_its_suffixs_probabilities_exactly(s):
    responses = pad([([0], [1, 2, 1, 0])])
    W = [NGram(3, order).fit(responses, smoothing=s)["W"] for order in (1, 2, 3)]
    occurs = {(0, 0), (1, 0), (2, 1), (1, 2)}  # latest first
    for latest, earlier in itertools.product(range(3), repeat=2):
        equal = (W[2][latest + 3 * earlier] == W[1][latest]).all()
        assert equal == ((latest, earlier) not in occurs)


def test_without_smoothing_it_is_maximum_likelihood():
    responses = pad([([0], [1, 2, 1, 0]), ([0], [2, 2, 0]), ([0], [1, 0]), ([0], [1, 1, 0])])
    weight = np.array([1.0, 2.0, 0.5, 1.5])
    policy = NGram(vocab=3)
    batch = dn.Preferences(responses, np.arange(4)[:, None], weight)

    def nll(w):
        value, grad = dn.value_and_grad(policy, {"W": w.reshape(3, 3)}, batch, dn.LOSSES["sft"]())
        return value, grad["W"].ravel()

    best = minimize(nll, np.zeros(9), jac=True, method="BFGS", options={"gtol": 1e-9})
    found = policy.fit(responses, weight, 1e-9)["W"]
    # where the maximum is at probability 0 the search only comes near
    assert nll(found.ravel())[0] == pytest.approx(best.fun, abs=1e-6)
    assert nll(found.ravel())[0] <= best.fun + 1e-8
    assert nll(policy.fit(responses, weight, 1.0)["W"].ravel())[0] > best.fun + 0.1
    moved = found + 0.01 * np.random.default_rng(0).normal(size=(3, 3))
    assert nll(moved.ravel())[0] > nll(found.ravel())[0]


def test_weight_two_is_the_response_twice():
    policy = NGram(vocab=4, order=3)
    twice = Responses(CORPUS.tokens[[0, 0, 1, 2]], CORPUS.mask[[0, 0, 1, 2]])
    np.testing.assert_allclose(policy.fit(CORPUS, [2, 1, 1])["W"], policy.fit(twice)["W"], rtol=8 * EPS)
    np.testing.assert_array_equal(policy.fit(CORPUS)["W"], policy.fit(CORPUS, np.ones(3))["W"])


@pytest.mark.parametrize("s", [0.0, -1.0, np.inf, np.nan])
def test_fit_refuses_a_smoothing(s):
    with message(f"smoothing is {s}; expected a finite number above 0"):
        NGram(vocab=4).fit(CORPUS, smoothing=s)


# ---- ids and orders

@pytest.mark.parametrize("order", [1, 2])
def test_ids_outside_the_vocabulary_are_refused_everywhere(order):
    policy, params = NGram(3, order), NGram(3, order).init(np.random.default_rng(0))
    text = "tokens hold id 3; expected ids below vocab, 3"
    with message(text):
        policy.fit(CORPUS)
    with message(text):
        NGram.seen(3, order, CORPUS)
    with message(text):
        policy.logits(params, CORPUS.tokens)
    with message(text):
        policy.logp(params, CORPUS, np.arange(3))
    with message(text):
        policy.next_logits(params, np.array([[0, 3]]), np.array([2]))


@pytest.mark.parametrize(("vocab", "order", "text"), [
    (1, 2, "vocab is 1 and order is 2; expected at least 2 outcomes and order 1"),
    (2, 0, "vocab is 2 and order is 0; expected at least 2 outcomes and order 1"),
    (256, 5, "order is 5: a dense table has 256**5 entries; keep the contexts that occur: NGram.seen(...)"),
    (256, 9, "order is 9: contexts over 256 outcomes are too many to number; expected a lower order"),
])
def test_what_cannot_be_held_is_refused(vocab, order, text):
    with message(text):
        NGram(vocab, order)


def test_high_orders_are_fine_where_only_seen_contexts_are_kept():
    byte = pad([([0], [200, 255, 200, 255, 200, 255, 200, 0])])
    policy = NGram.seen(256, 8, byte)
    assert policy.rows <= 8 * 8
    W = policy.fit(byte, smoothing=1e-6)
    logp = read(policy, W, byte, np.arange(1), ["logp"])[0]["logp"]
    assert -1e-3 < logp[0] < 0  # it knows its only string by heart
    with message("order is 9: contexts over 256 outcomes are too many to number"):
        NGram.seen(256, 9, byte)
    with message("too many to number"):
        NGram(2, 63, policy.contexts)
    assert NGram(4, 14).rows == 4**13


def test_the_representation_says_what_it_is():
    assert repr(NGram(vocab=3)) == "NGram(vocab=3, order=2)"
    assert repr(NGram.seen(4, 3, CORPUS)) == "NGram(vocab=4, order=3, seen contexts)"


# ---- training

@pytest.mark.parametrize("optimizer", [dn.sgd(0.5), dn.momentum(0.5), dn.adam(0.1)])
def test_rows_of_contexts_not_visited_stay_as_they_are_bit_for_bit(optimizer):
    policy = NGram(vocab=5, order=3)
    params = policy.init(np.random.default_rng(4))
    params["W"][24, 2] = -0.0
    batch = dn.Preferences.of([[0], [0]], [[1, 2, 0], [2, 0]], [[2, 2, 0], [1, 0]]).with_reference(policy, params)
    *_, last = dn.train(policy, params, [batch] * 20, dn.LOSSES["dpo"](beta=1.0), optimizer)
    r = batch.responses
    visited = {sum(token * 5**j for j, token in enumerate(context(tokens, t - 1, 3)))
               for tokens, mask in zip(r.tokens, r.mask, strict=True) for t in np.flatnonzero(mask)}
    still = [row for row in range(25) if row not in visited]
    assert params["W"][still].tobytes() == last.params["W"][still].tobytes()
    moved = [row for row in visited if (params["W"][row] != last.params["W"][row]).any()]
    assert len(moved) >= 3


def test_a_zero_order_model_has_one_row():
    policy = NGram(vocab=3, order=1)
    W = np.log([[0.2, 0.5, 0.3]])
    logp = read(policy, {"W": W}, pad([([2], [1, 1, 0])]), np.arange(1), ["logp"])[0]["logp"]
    assert logp[0] == pytest.approx(2 * math.log(0.5) + math.log(0.2), rel=4 * EPS)


def test_the_layout_of_the_parameters_in_memory_changes_nothing():
    rng = np.random.default_rng(0)
    policy, rows = NGram(3), np.arange(2)
    responses = Responses(np.array([[0, 1, 2, 0], [0, 2, 2, 0]]), np.array([[False, True, True, True]] * 2))
    W = rng.normal(size=(2, 3, 3))
    found = [policy.logp({"W": given}, responses, rows) for given in (W, np.asfortranarray(W), W[:, ::-1][:, ::-1])]
    for value, pullback in found[1:]:
        np.testing.assert_array_equal(value, found[0][0])
        np.testing.assert_array_equal(pullback(np.ones((2, 2)))["W"], found[0][1](np.ones((2, 2)))["W"])
