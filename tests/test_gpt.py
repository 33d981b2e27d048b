"""The transformer: against a forward pass written token by token, its memory, and a training of useful size."""

import math
import re
import tracemalloc
from collections import deque
from itertools import islice, repeat

import numpy as np
import pytest
from policies import params_of

import dpo_numpy as dn
from dpo_numpy.gradient import read
from dpo_numpy.preferences import pad
from toy_models import GPT
from toy_models.gpt import attention, gelu


def naive(policy, params, tokens):
    """The logits after one row of tokens, every sum a loop: no matrix product, no batch, no head beside another"""
    p = {name: value.tolist() for name, value in params.items()}
    D, d = policy.width, policy.width // policy.heads

    def times(x, W):
        return [math.fsum(x[i] * W[i][j] for i in range(len(x))) for j in range(len(W[0]))]

    def norm(x, name):
        center = math.fsum(x) / D if policy.norm == "layer" else 0.0
        x = [a - center for a in x]
        scale = math.sqrt(math.fsum(a * a for a in x) / D + 1e-5)
        bias = p.get(f"{name}.bias", [0.0] * D)
        return [g * a / scale + b for g, a, b in zip(p[f"{name}.gain"], x, bias, strict=True)]

    def act(x):
        return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def plus(x, y):
        return [a + b for a, b in zip(x, y, strict=True)]

    rows = [plus(p["token"][v], p["position"][t]) for t, v in enumerate(tokens)]
    for i in range(policy.depth):
        qkv = [times(norm(x, f"{i}.norm1"), p[f"{i}.qkv"]) for x in rows]
        q, k, v = ([m[j * D:j * D + D] for m in qkv] for j in range(3))
        for t in range(len(tokens)):
            o = []
            for h in range(policy.heads):
                at = slice(h * d, h * d + d)
                e = [math.exp(math.fsum(a * b for a, b in zip(q[t][at], k[u][at], strict=True)) / math.sqrt(d))
                     for u in range(t + 1)]
                o += [math.fsum(e[u] * v[u][j] for u in range(t + 1)) / math.fsum(e) for j in range(h * d, h * d + d)]
            rows[t] = plus(rows[t], times(o, p[f"{i}.out"]))
        for t, x in enumerate(rows):
            up = [act(a) for a in times(norm(x, f"{i}.norm2"), p[f"{i}.up"])]
            rows[t] = plus(x, times(up, p[f"{i}.down"]))
    head = [list(column) for column in zip(*p["token"], strict=True)] if policy.tied else p["head"]
    return [times(norm(x, "norm"), head) for x in rows]


@pytest.mark.parametrize("options", [
    {}, {"norm": "layer"}, {"tied": False}, {"depth": 0}, {"depth": 3}, {"heads": 1}, {"heads": 4}, {"hidden": 5},
    {"norm": "layer", "tied": False, "heads": 4},
], ids=str)
def test_logits_are_those_of_the_formulas_written_token_by_token(options, rng):
    policy = GPT(vocab=5, context=7, width=4, **{"heads": 2, "depth": 1, **options})
    params = params_of(policy, rng)
    tokens = rng.integers(5, size=(3, 6))
    expected = [naive(policy, params, row) for row in tokens.tolist()]
    np.testing.assert_allclose(policy.logits(params, tokens)[0], expected, rtol=0, atol=1e-13)


def test_no_token_sees_the_next(rng):
    policy = GPT(vocab=5, context=8, width=4, heads=2)
    params, tokens = params_of(policy, rng), rng.integers(5, size=(2, 8))
    before = policy.logits(params, tokens)[0]
    for t in range(8):
        other = tokens.copy()
        other[:, t] = (other[:, t] + 1) % 5
        changed = abs(policy.logits(params, other)[0] - before).max(axis=(0, 2)) > 0
        # the gradient at t flows to tokens up to t alone
        assert changed.tolist() == [False] * t + [True] * (8 - t)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_beyond_the_range_of_exp_leave_the_largest_alone(dtype, rng):
    q, k, v = rng.normal(size=(3, 7, 4)).astype(dtype)
    scores = np.where(np.tri(7, dtype=bool), 1e5 * q @ k.T, -np.inf)
    best, second = np.sort(scores[1:], axis=-1)[:, :-3:-1].T
    assert (best - second).min() > 2000  # over √d = 2: all the others are 0 in either dtype
    out, pullback = attention(np.concatenate([1e5 * q, k, v], axis=-1).astype(dtype), 7, 1)
    np.testing.assert_array_equal(out, v[scores.argmax(axis=-1)])
    assert np.isfinite(pullback(np.ones_like(out))).all()


def test_gelu_is_nearly_that_of_the_normal_distribution():
    x = np.linspace(-6, 6, 401)
    exact = np.array([a * (1 + math.erf(a / math.sqrt(2))) / 2 for a in x])
    assert 1e-4 < abs(gelu(x)[0] - exact).max() < 5e-4  # the approximation's own error


def test_the_start_is_of_gpt_2s_scales(rng):
    policy = GPT(vocab=50, context=32, width=64, heads=4, depth=8)
    params = policy.init(rng)
    assert sum(p.size for p in params.values()) == 50 * 64 + 32 * 64 + 8 * (12 * 64 * 64 + 2 * 64) + 64
    for name, std in (("token", 0.02), ("3.qkv", 0.02), ("3.up", 0.02), ("3.out", 0.005), ("7.down", 0.005)):
        # the standard deviation of n normal numbers is known to 1/√(2n)
        assert params[name].std() == pytest.approx(std, rel=4 / math.sqrt(2 * params[name].size))
    assert (params["5.norm2.gain"] == 1).all()


def peak(policy, n):
    """Bytes at the top of a forward and a backward pass over n rows as long as the context"""
    rng = np.random.default_rng(0)
    params, tokens = policy.init(rng), rng.integers(policy.vocab, size=(n, policy.context))
    d = rng.normal(size=(*tokens.shape, policy.vocab))
    tracemalloc.start()
    policy.logits(params, tokens)[1](d)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_memory_is_linear_in_depth():
    depths = (GPT(vocab=8, context=24, width=16, heads=2, depth=depth) for depth in (1, 2, 4, 8))
    one, two, four, eight = (peak(policy, 32) for policy in depths)
    each = two - one
    assert (four - two) == pytest.approx(2 * each, rel=0.02)
    assert (eight - four) == pytest.approx(4 * each, rel=0.02)


@pytest.mark.parametrize("options", [{}, {"norm": "layer", "heads": 8, "depth": 5}, {"hidden": 400}], ids=str)
def test_cells_say_how_much_a_token_holds(options):
    policy = GPT(vocab=16, context=24, **{"width": 32, "heads": 2, "depth": 3, **options})
    held = (peak(policy, 64) - peak(policy, 32)) / (32 * 24 * 8)  # numbers a token
    assert 0.5 * held < policy.cells < held  # besides, the block that is on its way back


def test_reading_walks_in_blocks_of_what_is_held(monkeypatch):
    policy = GPT(vocab=4, context=8, width=8, heads=2, depth=2)
    params, responses = policy.init(np.random.default_rng(0)), pad([([0], [1, 2, 3, 0])] * 10)
    seen = []
    logits = GPT.logits
    monkeypatch.setattr(GPT, "logits", lambda self, p, tokens: seen.append(len(tokens)) or logits(self, p, tokens))
    read(policy, params, responses, np.arange(10), ["logp"], cells=3 * 5 * policy.cells)
    assert seen == [3, 3, 3, 1]


def copying(rng, n, T=12, V=24):
    """Prompts of random tokens; the chosen response says the first four again, the rejected one says other tokens"""
    prompts = [[0, *rng.integers(1, V, size=T).tolist()] for _ in range(n)]
    wrong = [rng.integers(1, V, size=T).tolist() for _ in range(n)]
    return dn.Preferences.of(prompts, [[*p[1:5], 0] for p in prompts], [[*w[:4], 0] for w in wrong])


def test_a_step_of_dpo_lowers_the_loss_it_measured(rng):
    policy = GPT(vocab=24, context=18, width=16, heads=2, depth=2)
    params = policy.init(rng)
    pairs = copying(rng, 16).with_reference(policy, params)
    steps = list(dn.train(policy, params, repeat(pairs, 40), dn.LOSSES["dpo"](beta=0.1), dn.adam(3e-3)))
    assert steps[0].value == pytest.approx(np.log(2))
    assert steps[-1].value < 0.5 * steps[0].value


@pytest.mark.slow
def test_a_hundred_thousand_parameters_learn_to_copy_from_preferences_alone():
    rng = np.random.default_rng(0)
    policy = GPT(vocab=16, context=14, width=64, heads=4, depth=2)
    params = {name: p.astype(np.float32) for name, p in policy.init(rng).items()}
    assert 90_000 < sum(p.size for p in params.values()) < 110_000
    pairs, held = (copying(rng, n, T=8, V=16).with_reference(policy, params) for n in (2048, 256))
    batches = islice(pairs.batches(32, rng), 80)
    last = deque(dn.train(policy, params, batches, dn.LOSSES["dpo"](beta=0.1), dn.adam(3e-3)), maxlen=1).pop()
    logp = read(policy, last.params, held.responses, held.index.ravel(), ["logp"])[0]["logp"].reshape(-1, 2)
    margin = (logp - held.fact("ref_logp")) @ [1, -1]
    assert (margin > 0).mean() > 0.95  # of prompts that it has not seen; what it learned is where to look


@pytest.mark.parametrize(("options", "message"), [
    ({"vocab": 1}, "vocab is 1; expected at least 2"),
    ({"depth": -1}, "depth is -1; expected at least 0"),
    ({"hidden": 0}, "hidden is 0; expected at least 1"),
    ({"width": 6, "heads": 4}, "width is 6; expected a multiple of heads, 4"),
    ({"norm": "batch"}, "norm is 'batch'; expected 'rms' or 'layer'"),
])
def test_sizes_that_make_no_transformer_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        GPT(**{"vocab": 4, "context": 8, **options})


def test_tokens_that_do_not_fit_are_named(rng):
    policy = GPT(vocab=4, context=3, width=4, heads=2)
    params = policy.init(rng)
    with pytest.raises(ValueError, match=re.escape("tokens has rows of 4; expected at most context, 3")):
        policy.logits(params, np.zeros((1, 4), int))
    with pytest.raises(ValueError, match=re.escape("tokens hold id 4; expected ids below vocab, 4")):
        policy.logits(params, np.array([[0, 4]]))
