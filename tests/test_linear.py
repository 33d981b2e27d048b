"""Log-linear in features: its closed forms, and what sharing does that no table can."""

import re

import numpy as np
import pytest

import dpo_numpy as dn
from dpo_numpy.gradient import read, value_and_grad
from toy_models import LogLinear, Tabular, bandit

EPS = np.finfo(np.float64).eps


def test_one_hot_features_are_a_table(rng):
    features = np.eye(6).reshape(2, 3, 6)
    W = rng.normal(size=(2, 3))
    tokens = np.array([[1, 2], [0, 0]])
    table, back = Tabular(vocab=3, prompts=2).logits({"W": W}, tokens)
    linear, linear_back = LogLinear(features).logits({"theta": W.ravel()}, tokens)
    np.testing.assert_allclose(linear, table, rtol=0, atol=4 * EPS)
    d = rng.normal(size=table.shape)
    np.testing.assert_allclose(linear_back(d)["theta"], back(d)["W"].ravel(), rtol=0, atol=8 * EPS)


def test_the_gradient_of_a_log_prob_is_the_feature_less_its_mean(rng):
    features, base = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4))
    policy, theta = LogLinear(features, base), rng.normal(size=3)
    world = bandit(np.zeros((2, 4)))
    p = np.exp(base + features @ theta)
    p /= p.sum(axis=1, keepdims=True)
    values, back = read(policy, {"theta": theta}, world.responses, np.arange(8), ["logp"])
    np.testing.assert_allclose(values["logp"], np.log(p).ravel(), rtol=16 * EPS)
    for i in range(8):
        expected = features[i // 4, i % 4] - p[i // 4] @ features[i // 4]
        np.testing.assert_allclose(back({"logp": np.eye(8)[i]})["theta"], expected, rtol=0, atol=16 * EPS)


def test_the_base_is_the_policy_at_zero_and_may_leave_responses_out():
    policy = LogLinear([[1.0], [2.0], [3.0]], np.log([[0.5, 0.25, 0.25]]))
    every = dn.enumerate_responses(policy, [0], 1)
    logp = read(policy, {"theta": np.zeros(1)}, every, np.arange(3), ["logp"])[0]["logp"]
    np.testing.assert_allclose(np.exp(logp), [0.5, 0.25, 0.25], rtol=4 * EPS)
    without = LogLinear([[1.0], [2.0], [3.0]], [[0.0, 0.0, -np.inf]])
    logp = read(without, {"theta": np.zeros(1)}, every, np.arange(3), ["logp"])[0]["logp"]
    np.testing.assert_allclose(np.exp(logp), [0.5, 0.5, 0.0], rtol=4 * EPS)


def rates(features, ref):
    """d log π/dt of 0 (chosen), 1 (rejected) and 2 along the gradient flow of DPO at the reference, over β/2"""
    policy = LogLinear(features, np.log([ref]))
    params = {"theta": np.zeros(2)}
    world = bandit([[0.0, 0.0, 0.0]])
    pairs = dn.Preferences(world.responses, np.array([[0, 1]])).with_reference(policy, params)
    _, grad = value_and_grad(policy, params, pairs, dn.LOSSES["dpo"](beta=1.0))
    scores = dn.scores_matrix(policy, params, world.responses, np.arange(3))
    return -2 * scores @ grad["theta"]


def test_shared_features_can_lower_the_chosen_response():
    features = [[1.0, 1.0], [0.0, 1.0], [3.0, 0.0]]
    np.testing.assert_allclose(rates(features, [0.45, 0.45, 0.1]), [0.25, -0.75, 2.25], rtol=1e-14)
    np.testing.assert_allclose(rates(features, [0.3, 0.3, 0.4]), [-0.5, -1.5, 1.5], rtol=1e-14)


def test_without_sharing_the_chosen_response_rises():
    for ref in ([0.45, 0.45, 0.1], [0.3, 0.3, 0.4], [0.9, 0.05, 0.05]):
        policy = LogLinear(np.eye(3), np.log([ref]))
        params, world = {"theta": np.zeros(3)}, bandit([[0.0, 0.0, 0.0]])
        pairs = dn.Preferences(world.responses, np.array([[0, 1]])).with_reference(policy, params)
        _, grad = value_and_grad(policy, params, pairs, dn.LOSSES["dpo"](beta=1.0))
        up = -dn.scores_matrix(policy, params, world.responses, np.arange(3)) @ grad["theta"]
        assert up[0] > 0 > up[1]


@pytest.mark.parametrize(("arguments", "message"), [
    (([1.0, 2.0],), "features has shape (2,); expected (prompts, K, d) with K at least 2"),
    (([[[1.0]]],), "features has shape (1, 1, 1); expected (prompts, K, d) with K at least 2"),
    (([[1.0], [np.nan]],), "features is nan at [0, 1, 0]; expected finite numbers"),
    (([[1.0], [2.0]], [[-np.inf, -np.inf]]), "base has a NaN, an infinity or a prompt without mass"),
    (([[1.0], [2.0]], [[0.0, np.nan]]), "base has a NaN, an infinity or a prompt without mass"),
    (([[1.0], [2.0]], [[0.0, 1.0, 2.0]]), "base has shape (1, 3); expected (1, 2), one for each response"),
])
def test_what_makes_no_policy_is_named(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LogLinear(*arguments)


def test_a_prompt_without_features_is_named():
    policy = LogLinear([[1.0], [2.0]])
    with pytest.raises(ValueError, match=re.escape("tokens hold prompt 1; expected ids below 1, as features has")):
        policy.logits({"theta": np.zeros(1)}, np.array([[1, 0]]))
