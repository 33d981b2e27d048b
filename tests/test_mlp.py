"""The neural n-gram: it is an n-gram whose table is computed, and its contexts share what they learn."""

import math
import re

import numpy as np
import pytest
from policies import params_of

import dpo_numpy as dn
from analytic import ngram
from dpo_numpy.gradient import read
from dpo_numpy.numerics import log_softmax
from toy_models import MLP, NGram


def naive(policy, params, context):
    """Logits after the tokens `context`, latest first, every sum a loop"""
    p = {name: value.tolist() for name, value in params.items()}
    x = [a for token in context for a in p["E"][token]]
    h = [math.tanh(c + math.fsum(x[i] * p["W"][i][j] for i in range(len(x)))) for j, c in enumerate(p["c"])]
    return [b + math.fsum(h[j] * p["U"][j][v] for j in range(len(h))) for v, b in enumerate(p["b"])]


def test_logits_are_those_of_the_formula(rng):
    policy = MLP(vocab=4, order=3, width=2, hidden=5)
    params = params_of(policy, rng)
    logits, _ = policy.logits(params, np.array([[0, 3, 2, 1, 0, 2]]))
    windows = [(0, 0), (3, 0), (2, 3), (1, 2), (0, 0), (2, 0)]  # nothing beyond a boundary
    np.testing.assert_allclose(logits[0], [naive(policy, params, w) for w in windows], rtol=0, atol=1e-14)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_its_table_is_the_n_gram_that_it_is(order, rng):
    policy, same = MLP(vocab=3, order=order, width=2, hidden=4), NGram(vocab=3, order=order)
    params = params_of(policy, rng)
    tokens = rng.integers(3, size=(4, 9))
    table = {"W": policy.table(params)}
    np.testing.assert_allclose(policy.logits(params, tokens)[0], same.logits(table, tokens)[0], rtol=0, atol=1e-14)


def test_sums_over_all_strings_are_exact_through_the_table(rng):
    policy = MLP(vocab=3, order=3, width=2, hidden=4)
    params, other = params_of(policy, rng, 0.5), params_of(policy, rng, 0.5)
    for p in (params, other):
        p["b"] = np.array([1.5, 0.0, 0.0])  # short strings, so that enumeration reaches nearly all
    p, q = (np.exp(log_softmax(policy.table(given))) for given in (params, other))
    exact = ngram.kl(p, q)
    enumerated = dn.exact_kl(policy, params, policy, other, [0], 12)
    assert enumerated < exact < enumerated + 1e-3
    assert dn.exact_kl(policy, params, policy, other, [0], 6) < enumerated


def test_what_one_context_learns_moves_the_others_and_in_a_table_it_does_not(rng):
    responses = dn.Responses(np.array([[0, 1]]), np.array([[False, True]]))
    moved = {}
    for name, policy in (("shared", MLP(vocab=3, width=2, hidden=4)), ("table", NGram(vocab=3))):
        params = params_of(policy, rng)
        _, back = read(policy, params, responses, np.array([0]), ["logp"])
        after = {k: params[k] + g for k, g in back({"logp": np.ones(1)}).items()}
        every = np.array([[0], [1], [2]])
        moved[name] = abs(policy.logits(after, every)[0] - policy.logits(params, every)[0]).max(axis=(1, 2)) > 1e-6
    assert moved["shared"].tolist() == [True, True, True]
    assert moved["table"].tolist() == [True, False, False]


def test_it_starts_uniform_and_not_stuck(rng):
    policy = MLP(vocab=3, order=2, width=4, hidden=8)
    params = policy.init(rng)
    assert not policy.table(params).any()
    pairs = dn.Preferences.of([[0]], [[1, 0]], [[2, 0]]).with_reference(policy, params)
    _, grad = dn.value_and_grad(policy, params, pairs, dn.LOSSES["dpo"](beta=0.1))
    assert grad["U"].any()


@pytest.mark.parametrize(("options", "message"), [
    ({"vocab": 1}, "vocab is 1; expected at least 2"),
    ({"order": 1}, "order is 1; expected at least 2"),
    ({"hidden": 0}, "hidden is 0; expected at least 1"),
    ({"vocab": 300, "order": 10}, "order is 10: contexts over 300 outcomes are too many to number"),
])
def test_sizes_that_leave_nothing_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MLP(**{"vocab": 4, **options})


def test_a_token_outside_of_the_vocabulary_is_named(rng):
    policy = MLP(vocab=3)
    with pytest.raises(ValueError, match=re.escape("tokens hold id 3; expected ids below vocab, 3")):
        policy.logits(policy.init(rng), np.array([[0, 3]]))
