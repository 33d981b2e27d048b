"""Adapters: what they add, what they leave, and the reference that is found by switching them off."""

import re

import numpy as np
import pytest
from policies import params_of

import dpo_numpy as dn
from dpo_numpy.gradient import read
from dpo_numpy.preferences import pad
from toy_models import GPT, LoRA, NGram, Tabular

EPS = np.finfo(np.float64).eps
RESPONSES = pad([([0], [1, 2, 0]), ([0], [2, 0]), ([0], [1, 1, 1, 0])])


def test_the_matrix_and_nothing_else_is_moved(rng):
    policy = GPT(vocab=3, context=8, width=4, heads=2, depth=1)
    frozen = params_of(policy, rng)
    lora = LoRA(policy, frozen, rank=2, alpha=6.0, targets=["0.qkv", "token"])
    params = params_of(lora, rng)
    merged = lora.merge(params)
    for name in frozen:
        moved = 3.0 * params[f"{name}.A"] @ params[f"{name}.B"] if name in lora.targets else 0
        np.testing.assert_allclose(merged[name], frozen[name] + moved, rtol=0, atol=8 * EPS)
    tokens = np.array([[0, 1, 2]])
    np.testing.assert_array_equal(lora.logits(params, tokens)[0], policy.logits(merged, tokens)[0])


def test_all_matrices_are_adapted_unless_told(rng):
    policy = GPT(vocab=3, context=8, width=4, heads=2, depth=1, tied=False)
    lora = LoRA(policy, policy.init(rng), rank=1)
    assert lora.targets == ("token", "position", "0.qkv", "0.out", "0.up", "0.down", "head")


@pytest.mark.parametrize("policy", [NGram(vocab=3), GPT(vocab=3, context=8, width=4, heads=2, depth=1)], ids=repr)
def test_adapters_off_is_the_reference(policy, rng):
    frozen = params_of(policy, rng)
    lora = LoRA(policy, frozen, rank=2)
    start, params = lora.init(rng), params_of(lora, rng)
    every = np.arange(3)
    exact = read(policy, frozen, RESPONSES, every, ["logp"])[0]["logp"]
    for off in (start, lora.off(params)):
        np.testing.assert_array_equal(read(lora, off, RESPONSES, every, ["logp"])[0]["logp"], exact)
    assert (read(lora, params, RESPONSES, every, ["logp"])[0]["logp"] != exact).all()
    pairs = dn.Preferences(RESPONSES, np.array([[0, 1], [2, 1]])).with_reference(lora, lora.off(params))
    value, grad = dn.value_and_grad(lora, start, pairs, dn.LOSSES["dpo"](beta=0.1))
    assert value == pytest.approx(np.log(2))
    # B = 0 hides A from the gradient, and A is not 0, so that training can begin
    assert all(bool(g.any()) == name.endswith(".B") for name, g in grad.items())


def test_training_leaves_what_is_frozen(rng):
    policy = NGram(vocab=3)
    frozen = params_of(policy, rng)
    kept = frozen["W"].copy()
    lora = LoRA(policy, frozen, rank=1)
    start = lora.init(rng)
    pairs = dn.Preferences(RESPONSES, np.array([[0, 1], [2, 1]])).with_reference(lora, start)
    *_, last = dn.train(lora, start, [pairs] * 50, dn.LOSSES["dpo"](beta=0.5), dn.sgd(0.5))
    assert last.value < 0.5 * np.log(2)
    frozen["W"][:] = np.nan  # the caller's arrays are the caller's
    np.testing.assert_array_equal(lora.frozen["W"], kept)
    assert np.linalg.matrix_rank(lora.merge(last.params)["W"] - kept, tol=1e-10) == 1


def test_full_rank_reaches_what_the_matrix_reaches(rng):
    """Two roads to one optimum: the margin of a pair under IPO is 1/(2τ) at the minimum."""
    policy = Tabular(vocab=3)
    frozen = {"W": rng.normal(size=(1, 3))}
    responses = pad([([0], [1]), ([0], [2])])
    for trained, start in ((policy, frozen), (lora := LoRA(policy, frozen, rank=1), lora.init(rng))):
        pairs = dn.Preferences(responses, np.array([[0, 1]])).with_reference(trained, start)
        *_, last = dn.train(trained, start, [pairs] * 400, dn.LOSSES["ipo"](tau=0.5), dn.sgd(0.1))
        logp = read(trained, last.params, responses, np.arange(2), ["logp"])[0]["logp"]
        ratio = logp - read(policy, frozen, responses, np.arange(2), ["logp"])[0]["logp"]
        assert ratio[0] - ratio[1] == pytest.approx(1.0, abs=1e-9)


def test_what_the_policy_does_faster_it_still_does(rng, monkeypatch):
    policy = NGram(vocab=3, order=3)
    lora = LoRA(policy, params_of(policy, rng), rank=1)
    params = params_of(lora, rng)
    want = policy.logits(lora.merge(params), np.array([[0, 1, 2]]))[0][:, -1]
    monkeypatch.setattr(NGram, "logits", None)
    read(lora, params, RESPONSES, np.arange(3), ["logp"])[1]({"logp": np.ones(3)})
    np.testing.assert_array_equal(lora.next_logits(params, np.array([[0, 1, 2]]), np.array([3])), want)
    plain = LoRA(GPT(vocab=3, context=4, width=4, heads=2), GPT(vocab=3, context=4, width=4, heads=2).init(rng), rank=1)
    assert not hasattr(plain, "logp")
    assert not hasattr(plain, "next_logits")


def test_it_holds_what_the_policy_holds(rng):
    policy = GPT(vocab=3, context=4, width=4, heads=2)
    assert LoRA(policy, policy.init(rng), rank=1).cells == policy.cells
    assert LoRA(NGram(vocab=3), {"W": np.zeros((3, 3))}, rank=1).cells == 3


@pytest.mark.parametrize(("options", "message"), [
    ({"rank": 0}, "rank is 0; expected at least 1"),
    ({"alpha": 0.0}, "alpha is 0.0; expected a finite number above 0"),
    ({"alpha": np.nan}, "alpha is nan; expected a finite number above 0"),
    ({"targets": ["V"]}, "targets names 'V'; expected matrices of frozen: W"),
    ({"targets": []}, "targets is empty; expected matrices of frozen: W"),
])
def test_what_cannot_be_adapted_is_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LoRA(NGram(vocab=3), {"W": np.zeros((3, 3))}, **{"rank": 1, **options})
