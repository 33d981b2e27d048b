"""One logit per prompt and response."""

import re

import numpy as np
import pytest

import dpo_numpy as dn
from dpo_numpy.gradient import read
from toy_models import Tabular, bandit

EPS = np.finfo(np.float64).eps


def test_logits_are_the_prompts_row_at_every_position():
    W = np.arange(6.0).reshape(2, 3)
    logits, _ = Tabular(vocab=3, prompts=2).logits({"W": W}, np.array([[1, 2], [0, 1], [1, 0]]))
    np.testing.assert_array_equal(logits, W[[1, 0, 1]][:, None, :].repeat(2, axis=1))


def test_the_pullback_adds_up_prompts_and_positions():
    _, back = Tabular(vocab=2, prompts=3).logits({"W": np.zeros((3, 2))}, np.array([[2, 0], [0, 1], [2, 1]]))
    d = np.arange(12.0).reshape(3, 2, 2)
    expected = [d[1].sum(axis=0), [0, 0], d[0].sum(axis=0) + d[2].sum(axis=0)]
    np.testing.assert_array_equal(back(d)["W"], expected)
    assert back(d.astype(np.float32))["W"].dtype == np.float32


def test_log_probs_and_their_gradient_are_the_closed_form():
    rng = np.random.default_rng(0)
    policy, W = Tabular(vocab=4, prompts=2), rng.normal(size=(2, 4)) * 3
    p = np.exp(W) / np.exp(W).sum(axis=1, keepdims=True)
    world = bandit(np.zeros((2, 4)))
    values, back = read(policy, {"W": W}, world.responses, np.arange(8), ["logp"])
    np.testing.assert_allclose(values["logp"], np.log(p).ravel(), rtol=16 * EPS)
    for i in range(8):
        expected = np.zeros((2, 4))
        expected[i // 4] = np.eye(4)[i % 4] - p[i // 4]
        np.testing.assert_allclose(back({"logp": np.eye(8)[i]})["W"], expected, rtol=0, atol=4 * EPS)


def test_init_is_random_and_of_the_right_shape():
    policy = Tabular(vocab=3, prompts=5)
    one, other = policy.init(np.random.default_rng(0))["W"], policy.init(np.random.default_rng(1))["W"]
    assert one.shape == (5, 3)
    assert (one != other).all()
    assert policy.init(np.random.default_rng(0))["W"].tolist() == one.tolist()


def test_a_prompt_outside_the_table_is_named():
    with pytest.raises(ValueError, match=re.escape("tokens hold prompt 2; expected ids below the table's 2 prompts")):
        Tabular(vocab=3, prompts=2).logits({"W": np.zeros((2, 3))}, np.array([[0, 1], [2, 1]]))


def test_prompts_with_fewer_responses_than_the_table_is_wide():
    W = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, -np.inf]])
    every = dn.enumerate_responses(Tabular(vocab=3, prompts=2), [1], 1)
    logp = read(Tabular(vocab=3, prompts=2), {"W": W}, every, np.arange(3), ["logp"])[0]["logp"]
    assert logp[2] == -np.inf
    assert np.exp(logp).sum() == pytest.approx(1, rel=4 * EPS)


def test_equal_policies_are_equal():
    assert Tabular(vocab=3) == Tabular(vocab=3, prompts=1)
    assert Tabular(vocab=3) != Tabular(vocab=4)
