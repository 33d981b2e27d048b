import ast
import inspect

import numpy as np
import pytest

import dpo_numpy as dn
from dpo_numpy import minimal
from toy_models import NGram

EPS = np.finfo(float).eps


def test_says_it_on_one_page_importing_nothing_of_the_package():
    source = inspect.getsource(minimal)
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imports] == ["import numpy as np"]
    assert len(source.splitlines()) <= 60


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0, 1e4])
def test_dpo_loss_is_the_librarys(scale):
    rng = np.random.default_rng(0)
    logp, ref = -scale * rng.random((200, 2)), -scale * rng.random((200, 2))
    value, grad = dn.LOSSES["dpo"](beta=0.3)(logp, ref)
    losses, up, down = minimal.dpo_loss(*logp.T, *ref.T, beta=0.3)
    # logaddexp and exp of it: the exponent, up to 0.3 * 2 * scale, is rounded once more
    room = EPS * (8 + 2 * scale)
    np.testing.assert_allclose(losses, value, rtol=room, atol=np.finfo(float).tiny)
    np.testing.assert_allclose(np.stack([up, down], axis=-1), grad, rtol=room, atol=np.finfo(float).tiny)


def prompts_and_responses(rng, vocab, rows):
    def some(longest):
        return [rng.integers(1, vocab, rng.integers(1, longest)).tolist() for _ in range(rows)]

    return some(4), some(7), some(7)


def rectangle(prompts, responses, width, filler):
    tokens, mask = np.full((len(prompts), width), filler), np.zeros((len(prompts), width), bool)
    for b, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        end = len(prompt) + len(response)
        tokens[b, :end], mask[b, len(prompt):end] = prompt + response, True
    return tokens, mask


def test_sequence_logps_are_the_librarys():
    rng = np.random.default_rng(1)
    prompts, chosen, _ = prompts_and_responses(rng, 6, 20)
    tokens, mask = rectangle(prompts, chosen, 11, filler=3)
    logits = rng.normal(size=(20, 11, 6))
    logp, slope = minimal.sequence_logps(logits, tokens, mask)
    value, pullback = dn.sequence_logp(logits, tokens, mask)
    np.testing.assert_allclose(logp, value, rtol=16 * EPS)  # at most ten tokens are added up
    np.testing.assert_allclose(slope, pullback(np.ones(20)), rtol=8 * EPS, atol=8 * EPS)


def test_training_is_the_librarys():
    """Three steps on a bigram, with prompts, padding, and responses of different lengths."""
    rng, vocab, beta, lr = np.random.default_rng(2), 5, 0.5, 2.0
    prompts, chosen, rejected = prompts_and_responses(rng, vocab, 12)
    policy = NGram(vocab)
    W_ref, W = policy.init(rng)["W"], policy.init(rng)["W"]
    pairs = dn.Preferences.of(prompts, chosen, rejected).with_reference(policy, {"W": W_ref})
    sides = [rectangle(prompts, responses, 10, filler=2) for responses in (chosen, rejected)]
    ours = W.copy()
    for _ in range(3):
        value, grad = dn.value_and_grad(policy, {"W": W}, pairs, dn.LOSSES["dpo"](beta=beta))
        W = W - lr * grad["W"]
        loss, ours = minimal.dpo_step(ours, W_ref, *sides, beta, lr)
        # a row of W collects up to 24 * 6 slopes below beta
        assert loss == pytest.approx(value, rel=64 * EPS)
        np.testing.assert_allclose(ours, W, rtol=0, atol=144 * beta * lr * EPS)
