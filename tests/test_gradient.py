"""The chain rule, end to end: every policy x every loss, against differences, complex steps and itself another way."""

import functools
import re
import tracemalloc

import numpy as np
import pytest
from policies import CORPUS, DEEP, POLICIES, Plain, Prefix, batch_for, params_of, rows, unlisted
from strategies import draw_hyper

import dpo_numpy as dn
from dpo_numpy import gradient
from dpo_numpy.check import check_gradient, complex_step, finite_difference
from dpo_numpy.gradient import AXIS, compare, read, value_and_grad
from dpo_numpy.preferences import Preferences, pad
from dpo_numpy.readings import READINGS
from toy_models import NGram, Tabular

EPS = np.finfo(np.float64).eps
#: those that read what a policy has; rewards are a reward model's
LOSSES = sorted(name for name in dn.LOSSES if set(dn.LOSSES[name]().reads) <= set(READINGS))


def tdpo2(loss, x, at, **facts):
    return loss({**x, "kl": np.concatenate([at["kl"][..., :1], x["kl"][..., 1:]], axis=-1)}, **facts)


def beta_dpo(loss, x, at, m0, keep, weight, **facts):
    """The mean of h moves, and M₀ with it."""
    def mean(x):
        return (keep * weight * (x["logp"].real @ [1, -1] - facts["ref_logp"] @ [1, -1])).sum(axis=-1)

    moved = (mean(x) - mean(at)) / max((keep * weight).sum(), 1e-9)
    return loss(x, m0=m0 + moved, keep=keep, weight=weight, **facts)


def kto_pair(loss, x, at, ref_logp, weight):
    if not loss.hyper["detach"]:
        return loss(x, ref_logp=ref_logp, weight=weight)
    _, slope = loss(at, ref_logp=ref_logp, weight=weight)
    baseline = np.maximum(0, weight @ (at["logp"] - ref_logp) / weight.sum())
    z = loss.hyper["beta"] * np.array([1, -1]) * (x["logp"] - ref_logp - baseline[..., None, ::-1])
    return (1 / (1 + np.exp(z))).sum(axis=-1) / 2, {"logp": slope["logp"].astype(z.dtype)}


# What a loss holds still, put in place of what would move: x the readings now, at those the gradient is taken at.
STOPPED = {"beta_dpo": beta_dpo, "kto_pair": kto_pair, "tdpo2": tdpo2}


class Frozen:
    """A loss whose stopped facts stay what they are at `at`, so that its value differentiates to its gradient"""

    def __init__(self, name, loss, at):
        self.stop, self.loss, self.at = STOPPED.get(name, lambda loss, x, at, **facts: loss(x, **facts)), loss, at
        self.name, self.reads, self.needs = loss.name, loss.reads, loss.needs

    def __call__(self, x, **facts):
        return self.stop(self.loss, x, self.at, **facts)


def facts_of(batch, loss):
    return {name: fact for name in loss.needs if (fact := batch.fact(name)) is not None}


def compared(policy, params, batch, loss):
    """Readings in comparisons (B, K), and the way back, step by step"""
    index = batch.index
    present = np.unique(index[index >= 0])
    where = np.where(index < 0, -1, np.searchsorted(present, index))
    values, to_params = read(policy, params, batch.responses, present, loss.reads)
    return values, {name: compare(x, where, AXIS.get(name, -1)) for name, x in values.items()}, to_params


def value_alone(policy, params, batch, loss):
    """What `value_and_grad` says first: differences have no use for the rest, which takes longer."""
    values = {name: x for name, (x, _) in compared(policy, params, batch, loss)[1].items()}
    return batch.weight @ loss(values, weight=batch.weight, **facts_of(batch, loss))[0]


def rounding(policy, params, batch, loss, direction):
    """How far <grad, direction> moves when each number that is rounded on the way moves by its eps

    Two kinds: entries of d reading/d params, and the readings and facts themselves, which bend the loss's slope.
    """
    wide = {name: p.astype(np.longdouble) for name, p in params.items()}
    values, _, to_params = compared(policy, wide, batch, loss)
    facts = facts_of(batch, loss)
    facts = {name: fact.astype(np.longdouble) if fact.dtype.kind == "f" else fact for name, fact in facts.items()}

    def slopes(values, facts=facts):
        pairs = {name: compare(values[name], *where) for name, where in at.items()}
        found = loss({name: x for name, (x, _) in pairs.items()}, weight=batch.weight, **facts)[1]
        return {name: pairs[name][1](g) for name, g in found.items()}

    index = batch.index
    present = np.unique(index[index >= 0])
    at = {name: (np.where(index < 0, -1, np.searchsorted(present, index)), AXIS.get(name, -1)) for name in values}
    along = {name: np.zeros(x.shape, np.longdouble) for name, x in values.items()}
    summed = {name: np.zeros(x.shape, np.longdouble) for name, x in values.items()}
    for name, x in values.items():
        for i in np.ndindex(x.shape):
            one = {other: np.zeros(y.shape, np.longdouble) for other, y in values.items()}
            one[name][i] = 1
            terms = [g * direction[p] for p, g in to_params(one).items()]
            along[name][i] = sum(term.sum() for term in terms)
            summed[name][i] = sum(abs(term).sum() for term in terms)
    base = slopes(values)
    first = sum((abs(base[name]) * summed[name]).sum() for name in values)
    second = 0
    for told in (values, facts):  # one number after the other moves, each in a replicate of its own
        for name, x in told.items():
            if x.dtype.kind != "f":
                continue
            one = np.eye(x.size, dtype=bool).reshape(x.size, *x.shape) if x.ndim else np.True_
            nudged = {name: np.where(one, x * (1 + 1e-6), x)}
            replicates = {k: np.broadcast_to(y, (x.size, *y.shape)) for k, y in values.items()}
            moved = slopes(replicates | nudged) if told is values else slopes(replicates, facts | nudged)
            by = sum(((moved[k] - base[k]) * along[k]).reshape(x.size, -1).sum(axis=1) for k in values)
            second += abs(by).sum() / 1e-6
    eps = np.finfo(next(iter(params.values())).dtype).eps
    return float(eps * (first + second))


def bending(policy, params, batch, frozen, direction):
    """How far <grad, direction> moves when each parameter moves by its eps, the most of 8 random choices of signs: what
    rounding on the way may do where there are layers, and a table has none.
    """
    if len(params) == 1:
        return 0.0
    rng = np.random.default_rng(0)
    wide = {name: p.astype(np.longdouble) for name, p in params.items()}

    def along(nudge):
        moved = {name: p * (1 + nudge * rng.choice([-1, 1], p.shape)) for name, p in wide.items()}
        return sum((g * direction[name]).sum() for name, g in value_and_grad(policy, moved, batch, frozen)[1].items())

    base = along(0)
    return float(max(abs(along(1e-9) - base) for _ in range(8)) / 1e-9 * np.finfo(params[next(iter(params))].dtype).eps)


def wide_complex_step(f, params, direction):
    return complex_step(f, {name: p.astype(np.longdouble) for name, p in params.items()}, direction)


def case(policy, name, rng, dtype, magnitude):
    """A loss, parameters and a batch at random"""
    hyper = draw_hyper(rng, dn.LOSSES[name])
    loss = dn.LOSSES[name](**hyper)
    loss.hyper = hyper
    params = params_of(policy, rng, magnitude, dtype)
    return loss, params, batch_for(policy, params, loss, rng)


# ---- against differences and complex steps

def test_every_policy_has_its_line():
    assert unlisted() == [], "give these policies a line in tests/policies.py: POLICIES"


# Measured over 6 seeds x 3 settings: at most 3.8 units (LoRA, n-grams, MLP, a transformer), 1.1 for tables.
UNITS = 4


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_meets_the_value(policy, name, rng):
    # Of a product of many parameters the third power is not of the size that training meets. It bends, too: at a step
    # of 1e-6 differences were wrong by up to 2e-11 of the terms of the gradient, where complex steps were not.
    calm, step, own = (1 / 3, 1e-6, 1e-10) if policy in DEEP else (1.0, 1e-5, 1e-12)
    policy = POLICIES[policy]()
    for dtype, magnitude in ((np.float64, 0.3), (np.float64, 3.0 * calm), (np.float32, calm)):
        loss, params, batch = case(policy, name, rng, dtype, magnitude)
        value, grad = value_and_grad(policy, params, batch, loss)
        assert isinstance(value, float)
        assert {g.dtype for g in grad.values()} == {np.dtype(dtype)}
        assert {k: g.shape for k, g in grad.items()} == {k: p.shape for k, p in params.items()}
        at = {k: x for k, (x, _) in compared(policy, params, batch, loss)[1].items()}
        frozen = Frozen(name, loss, at)

        def f(p, batch=batch, frozen=frozen):
            return value_and_grad(policy, p, batch, frozen)[0]

        def quick(p, batch=batch, frozen=frozen):
            return value_alone(policy, p, batch, frozen)

        assert f(params) == pytest.approx(value, rel=8 * float(np.finfo(dtype).eps))
        assert quick(params) == pytest.approx(value, rel=8 * float(np.finfo(dtype).eps))
        state = rng.bit_generator.state
        direction = {k: rng.normal(size=p.shape) for k, p in params.items()}  # the one that check_gradient draws next
        unit = rounding(policy, params, batch, loss, direction)
        size = sum(abs(g * direction[k]).sum() for k, g in grad.items()) + abs(value)
        lost = 1e3 * np.finfo(dtype).tiny  # slopes that small have no digits left
        # both in longdouble; the difference has a noise of some 1e-19/step
        difference = functools.partial(finite_difference, step=step)
        for of, method, slack in ((f, wide_complex_step, 0.0), (quick, difference, own * size)):
            rng.bit_generator.state = state
            check = check_gradient(of, params, grad, rng, method)
            error = max(0.0, abs(check.claimed - check.measured) - slack - lost)
            if error > UNITS * unit:  # costs as much as all the rest, and is seldom needed
                unit += bending(policy, params, batch, loss, direction)
            assert error <= UNITS * unit, (dtype, magnitude, loss, check)


@pytest.mark.parametrize("name", sorted(STOPPED))
def test_a_stopped_fact_looks_wrong_to_a_difference_unless_it_is_frozen(name):
    rng = np.random.default_rng(0)
    policy = Prefix()
    _, params, batch = case(policy, name, rng, np.float64, 1.0)
    loss, batch = dn.LOSSES[name](**{"kto_pair": {"detach": True}}.get(name, {})), batch.with_facts(m0=-20.0)
    _, grad = value_and_grad(policy, params, batch, loss)
    check = check_gradient(lambda p: value_and_grad(policy, p, batch, loss)[0], params, grad, rng, finite_difference)
    assert check.units > 1e10


def test_the_reference_point_of_kto_is_told_and_carries_no_gradient():
    rng = np.random.default_rng(1)
    policy = NGram(vocab=4)
    loss, params, batch = case(policy, "kto", rng, np.float64, 1.0)

    def moving(p):  # z0 read off the policy itself
        ratio = read(policy, p, batch.responses, np.arange(8), ["logp"])[0]["logp"] - batch.responses.facts["ref_logp"]
        return np.maximum(ratio.mean().real, 0.5)

    told = batch.with_facts(z0=moving(params))
    _, grad = value_and_grad(policy, params, told, loss)
    check = check_gradient(lambda p: value_and_grad(policy, p, told, loss)[0], params, grad, rng, complex_step)
    assert check.units < 100
    again = batch.with_facts(z0=moving(params) + 1.0)
    assert abs(value_and_grad(policy, params, again, loss)[1]["W"] - grad["W"]).max() > 1e-3  # it matters


# ---- blocks

def in_blocks_of(monkeypatch, cells):
    monkeypatch.setattr(gradient, "read", functools.partial(read, cells=cells))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("policy", ["prefix", "plain"])
def test_blocks_change_nothing(policy, name, rng, monkeypatch):
    policy = POLICIES[policy]()
    loss, params, batch = case(policy, name, rng, np.float64, 1.0)
    value, grad = value_and_grad(policy, params, batch, loss)
    for cells in (1, 40, 100):  # one response a block; two or three
        in_blocks_of(monkeypatch, cells)
        blocked, blocked_grad = value_and_grad(policy, params, batch, loss)
        # The same readings, up to the order in which matrix products add; the gradient adds up in another order.
        assert blocked == pytest.approx(value, rel=1e-13)
        for k, g in grad.items():
            np.testing.assert_allclose(blocked_grad[k], g, rtol=0, atol=1e-13 * abs(g).max())


def test_blocks_hold_like_lengths_and_no_more_cells_than_allowed():
    rng = np.random.default_rng(2)
    width = rng.integers(2, 40, size=100)
    for cells in (1, 200, 1000, 10**6):
        blocks = list(gradient._blocks(width, 5, cells))
        assert sorted(np.concatenate(blocks)) == list(range(100))
        assert (np.diff(width[np.concatenate(blocks)]) >= 0).all()
        for block, after in zip(blocks, [*blocks[1:], None], strict=True):
            assert len(block) == 1 or len(block) * width[block].max() * 5 <= cells
            if after is not None:  # as many as fit
                assert (len(block) + 1) * width[after[0]] * 5 > cells


def test_a_reading_of_tokens_keeps_its_width_whatever_the_block():
    policy = Prefix()
    params = params_of(policy, np.random.default_rng(3))
    responses = pad([([0], [1, 2, 3, 0]), ([0], [0]), ([1, 2], [2, 0])])
    whole, back = read(policy, params, responses, np.arange(3), ["token_logp", "logp"])
    parts, back_parts = read(policy, params, responses, np.arange(3), ["token_logp", "logp"], cells=1)
    assert whole["token_logp"].shape == (3, 5)
    grads = {name: np.random.default_rng(4).normal(size=x.shape) for name, x in whole.items()}
    for name, x in whole.items():
        np.testing.assert_allclose(parts[name], x, rtol=1e-14)
    assert (parts["token_logp"][~responses.mask] == 0).all()
    for name, g in back(grads).items():
        np.testing.assert_allclose(back_parts(grads)[name], g, rtol=0, atol=1e-14 * abs(g).max())
    flipped, _ = read(policy, params, responses, np.array([2, 0]), ["token_logp"], cells=1)
    np.testing.assert_allclose(flipped["token_logp"], whole["token_logp"][[2, 0]], rtol=1e-14)


def peak(n, cells):
    rng = np.random.default_rng(5)
    policy = Plain(NGram(vocab=64))
    responses = pad([([0], rng.integers(1, 64, size=31)) for _ in range(n)])
    params = {"W": rng.normal(size=(64, 64))}
    batch = Preferences(responses, np.arange(n).reshape(-1, 2))
    tracemalloc.start()
    _, back = read(policy, params, batch.responses, np.arange(n), ["logp"], cells)
    back({"logp": np.ones(n)})
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_memory_is_a_blocks_whatever_the_size_of_the_data(threading):
    cells = 1 << 15  # 0.25 MB of float64, 16 responses
    threading(1)
    assert peak(512, 1 << 30) > 8 * 512 * 32 * 64  # all at once: over 8 MB, which the blocks below do not need
    small, large = peak(128, cells), peak(1024, cells)
    assert small < 12 * 8 * cells
    assert large - small < 500 * (1024 - 128)  # the data themselves, 300 bytes a response; its logits are 16,384
    threading(2)
    assert peak(1024, cells) < 2 * 12 * 8 * cells + 500 * 1024


@pytest.mark.parametrize("cells", [1 << 26, 300])  # kept, and computed again
@pytest.mark.parametrize("policy", ["gpt", "plain"])
def test_any_number_of_threads_gives_the_same_bits(policy, cells, rng, threading, monkeypatch):
    policy = Plain(NGram(vocab=4)) if policy == "plain" else POLICIES[policy]()
    monkeypatch.setattr(gradient, "BLOCK", 100)
    monkeypatch.setattr(gradient, "TOKENS", 10)  # blocks of a few responses
    params, found = params_of(policy, rng), []
    responses = pad([([0], [*rng.integers(1, 4, size=rng.integers(1, 6)), 0]) for _ in range(30)])
    d = rng.normal(size=30)
    for n in (1, 2, 5):
        threading(n)
        values, back = read(policy, params, responses, responses.every, ["logp"], cells)
        found.append([values["logp"], *back({"logp": d}).values()])
    for other in found[1:]:
        assert all(map(np.array_equal, other, found[0]))


def test_what_does_not_change_from_step_to_step_is_found_once(monkeypatch):
    """Distinct responses, their places, an n-gram's counts, the padded blocks of a policy that walks"""
    counts = {"unique": 0, "take": 0, "contexts": 0}

    def counting(owner, name, key):
        plain = getattr(owner, name)

        def counted(*args, **how):
            counts[key] += 1
            return plain(*args, **how)

        monkeypatch.setattr(owner, name, counted)

    counting(np, "unique", "unique"), counting(dn.Responses, "take", "take")
    counting(NGram, "_rows", "contexts")
    batch = Preferences.of([[0]] * 3, [[1, 2, 0], [2, 0], [1, 0]], [[2, 0], [1, 0], [1, 1, 1, 0]])
    ngram = NGram(vocab=3)
    for policy in (ngram, Plain(ngram)):
        params = {"W": np.zeros((3, 3))}
        told = batch.with_reference(policy, params)
        counts.update(dict.fromkeys(counts, 0))
        for step in dn.train(policy, params, [told] * 5, dn.LOSSES["dpo"](), dn.sgd(lr=1.0)):
            params = step.params
        assert counts == {"unique": 1, "take": 0, "contexts": 0 if policy is ngram else 5}, policy
        later = told.with_facts(margin=0.0)
        assert value_and_grad(policy, params, later, dn.LOSSES["dpo"]())[0] == pytest.approx(
            value_and_grad(policy, params, told, dn.LOSSES["dpo"]())[0], rel=1e-15)


def test_a_step_of_an_n_gram_costs_the_table_and_the_pairs_not_the_tokens(monkeypatch):
    """Exponentials: one an entry of the table and one a context, and one or two a pair, however long the responses"""
    taken, exp = [], np.exp

    def counting(x, *args, **how):
        taken.append(np.size(x))
        return exp(x, *args, **how)

    def spent(length):
        rng, policy, pairs = np.random.default_rng(0), NGram(vocab=5), 7
        told = Preferences.of([[0]] * pairs, *(rng.integers(1, 5, size=(pairs, length)).tolist() for _ in range(2)))
        params = policy.init(rng)
        told = told.with_reference(policy, params)
        taken.clear()
        value_and_grad(policy, params, told, dn.LOSSES["dpo"]())
        return sum(taken) - 5 * 5 - 5, pairs

    monkeypatch.setattr(np, "exp", counting)
    for length in (3, 300):
        of_pairs, pairs = spent(length)
        assert of_pairs in (pairs, 2 * pairs)


# ---- the same another way

@pytest.mark.parametrize("policy", sorted({"bigram", "trigram", "unigram", "seen", "tabular", "mlp"}))
@pytest.mark.parametrize("magnitude", [1.0, 10.0, 40.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_probs_from_counts_are_those_of_the_generic_path(policy, magnitude, dtype, rng):
    policy = POLICIES[policy]()
    params = params_of(policy, rng, magnitude, dtype)
    responses = pad(rows(rng, policy, 12))
    d = rng.normal(size=12).astype(dtype)
    for some in (np.arange(12), np.array([7, 3, 8]), np.arange(11)):
        fast, back = read(policy, params, responses, some, ["logp"])
        slow, back_slow = read(Plain(policy), params, responses, some, ["logp"])
        assert fast["logp"].dtype == dtype
        np.testing.assert_allclose(fast["logp"], slow["logp"], rtol=4 * np.finfo(dtype).eps)
        one, other = back({"logp": d[some]})["W"], back_slow({"logp": d[some]})["W"]
        assert one.dtype == dtype
        # Up to 40 terms of d meet in an entry.
        np.testing.assert_allclose(one, other, rtol=0, atol=40 * np.finfo(dtype).eps * abs(d).max())


@pytest.mark.parametrize("gap", [1.0, 20.0, 36.0, 300.0])
def test_the_gradient_of_a_nearly_certain_token_keeps_its_digits(gap):
    responses = pad([([0], [0]), ([0], [0])])
    W = np.array([[gap, 0.0, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    rest = np.exp(-gap) * (1 + np.exp(0.5))
    ngram = NGram(vocab=3)
    for policy in (ngram, Plain(ngram)):
        _, back = read(policy, {"W": W}, responses, np.arange(2), ["logp"])
        got = back({"logp": np.array([2.0, 1.0])})["W"]
        expected = 3 / (1 + rest) * np.exp(-gap) * np.array([1 + np.exp(0.5), -1, -np.exp(0.5)])
        np.testing.assert_allclose(got[0], expected, rtol=8 * EPS)
        assert (got[1:] == 0).all()


class Fused(NGram):
    """An n-gram that offers `token_logp` as well as `logp`"""

    def token_logp(self, params, responses, rows):
        values, back = read(Plain(self), params, responses, rows, ["token_logp"])
        return values["token_logp"], lambda d: back({"token_logp": d})


@pytest.mark.parametrize("reads", [("logp", "token_logp"), ("token_logp", "kl", "logp"), ("token_logp",)])
def test_what_a_policy_offers_and_what_is_walked_add_up(reads):
    rng = np.random.default_rng(14)
    policy = Fused(vocab=4)
    params = params_of(policy, rng)
    batch = Preferences(CORPUS, np.array([[0, 1], [2, 1]])).with_reference(policy, params_of(policy, rng), *reads)
    some = np.array([0, 2])
    want, want_back = read(Plain(policy), params, batch.responses, some, reads)
    grads = {k: rng.normal(size=x.shape) for k, x in want.items()}
    for cells in (1, 10**6):
        got, back = read(policy, params, batch.responses, some, reads, cells)
        assert set(got) == set(reads)
        for k, x in want.items():
            np.testing.assert_allclose(got[k], x, rtol=1e-14)
        np.testing.assert_allclose(back(grads)["W"], want_back(grads)["W"], rtol=0, atol=1e-14)


@pytest.mark.parametrize("policy", ["bigram", "trigram", "unigram", "seen"])
def test_next_logits_are_those_of_the_whole_sequence(policy, rng):
    policy = POLICIES[policy]()
    params = params_of(policy, rng)
    tokens = rng.integers(policy.vocab, size=(50, 7))
    length = rng.integers(1, 8, size=50)
    whole, _ = policy.logits(params, tokens)
    np.testing.assert_array_equal(policy.next_logits(params, tokens, length), whole[np.arange(50), length - 1])


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("name", LOSSES)
def test_replicates_equal_a_loop(policy, name, rng, monkeypatch):
    policy = POLICIES[policy]()
    loss, params, batch = case(policy, name, rng, np.float64, 1.0)
    if "kl" in loss.reads and "logp" not in vars(type(policy)):
        in_blocks_of(monkeypatch, 60)
    many = {k: rng.normal(size=(2, 3, *p.shape)) for k, p in params.items()}
    value, grad = value_and_grad(policy, many, batch, loss)
    assert value.shape == (2, 3)
    for at in np.ndindex(2, 3):
        one, one_grad = value_and_grad(policy, {k: p[at] for k, p in many.items()}, batch, loss)
        assert value[at] == pytest.approx(one, rel=1e-13)
        for k, g in one_grad.items():
            np.testing.assert_allclose(grad[k][at], g, rtol=0, atol=1e-13 * max(abs(g).max(), 1e-300))


@pytest.mark.parametrize("name", LOSSES)
def test_weight_two_is_the_row_twice(name, rng):
    policy = Prefix()
    loss, params, batch = case(policy, name, rng, np.float64, 1.0)
    double = np.array([0, 0, 1, 1, 1, 2, 3, 4, 5, 5])
    heavy = Preferences(batch.responses, batch.index, batch.weight * np.bincount(double), batch.facts)
    value, grad = value_and_grad(policy, params, batch.slice(double), loss)
    other, other_grad = value_and_grad(policy, params, heavy, loss)
    assert value == pytest.approx(other, rel=1e-13)
    for k, g in grad.items():
        np.testing.assert_allclose(other_grad[k], g, rtol=0, atol=1e-12 * abs(g).max())
    light = value_and_grad(policy, params, batch, loss)[0]
    assert value == 0 or abs(light - value) > 1e-6 * abs(value)


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_comparisons_does_not_matter(name, rng):
    policy = Prefix()
    loss, params, batch = case(policy, name, rng, np.float64, 1.0)
    value, grad = value_and_grad(policy, params, batch, loss)
    other, other_grad = value_and_grad(policy, params, batch.slice(rng.permutation(len(batch))), loss)
    assert value == pytest.approx(other, rel=1e-13)
    for k, g in grad.items():
        np.testing.assert_allclose(other_grad[k], g, rtol=0, atol=1e-12 * abs(g).max())


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"tabular"}))
@pytest.mark.parametrize("reads", [("logp",), ("token_logp",), ("logp", "kl")])
def test_padding_is_invisible(policy, reads, rng):
    policy = POLICIES[policy]()
    params, reference = params_of(policy, rng), params_of(policy, rng)
    pairs = rows(rng, policy, 6)
    narrow = Preferences(pad(pairs), np.arange(6).reshape(3, 2)).with_reference(policy, reference, *reads).responses
    want, want_back = read(policy, params, narrow, np.arange(6), reads)
    grads = {k: rng.normal(size=x.shape) for k, x in want.items()}
    T = narrow.tokens.shape[1]
    for filler in (0, 1, 2):
        tokens = np.full((6, T + 3), filler)
        mask = np.zeros((6, T + 3), bool)
        for row, (prompt, response) in enumerate(pairs):
            tokens[row, :len(prompt) + len(response)] = [*prompt, *response]
            mask[row, len(prompt):len(prompt) + len(response)] = True
        wide = dn.Responses(tokens, mask, reference=narrow.reference)
        for cells in (1, 10**6):
            got, back = read(policy, params, wide, np.arange(6), reads, cells)
            for k, x in want.items():
                np.testing.assert_allclose(got[k][..., :T] if k == "token_logp" else got[k], x, rtol=1e-13)
            wider = {**grads}
            if "token_logp" in reads:  # what is said of padding is not heard
                wider["token_logp"] = np.pad(grads["token_logp"], ((0, 0), (0, 3)), constant_values=9.9)
            for k, g in back(wider).items():
                expected = want_back(grads)[k]
                np.testing.assert_allclose(g, expected, rtol=0, atol=1e-13 * abs(expected).max())


def test_prompt_tokens_receive_no_credit():
    policy = NGram(vocab=5)
    params = params_of(policy, np.random.default_rng(6))
    batch = Preferences.of([[0, 1, 2, 3]], [[4, 0]], [[3, 0]])  # contexts 0, 1 and 2 predict prompt tokens only
    for name in ("sft", "sft_mean"):
        for p in (policy, Plain(policy)):
            _, grad = value_and_grad(p, params, batch, dn.LOSSES[name]())
            assert (grad["W"][:3] == 0).all()
            assert (grad["W"][3:] != 0).all()


def test_what_only_the_length_of_the_prompt_changes_is_nothing():
    policy = NGram(vocab=3)
    params = params_of(policy, np.random.default_rng(7))
    short = Preferences.of([[0]], [[1, 0]], [[2, 0]])
    long = Preferences.of([[1, 2, 2, 0]], [[1, 0]], [[2, 0]])
    one, other = (value_and_grad(policy, params, batch, dn.LOSSES["sft_mean"]()) for batch in (short, long))
    assert one[0] == other[0]
    np.testing.assert_array_equal(one[1]["W"], other[1]["W"])


# ---- compare

def test_compare_gathers_and_its_pullback_is_the_transpose():
    rng = np.random.default_rng(8)
    where = np.array([[2, 0, 1], [3, 2, -1], [2, -1, -1]])
    for shape, axis in (((4,), -1), ((5, 4), -1), ((4, 6), -2), ((2, 4, 6), -2)):
        values = rng.normal(size=shape)
        out, back = compare(values, where, axis)
        d = rng.normal(size=out.shape)
        for b, k in np.ndindex(where.shape):
            at = (..., b, k) if axis == -1 else (..., b, k, slice(None))
            from_ = (..., where[b, k]) if axis == -1 else (..., where[b, k], slice(None))
            np.testing.assert_array_equal(out[at], values[from_] if where[b, k] >= 0 else 0)
        assert (out * d).sum() == pytest.approx((values * back(d)).sum(), rel=1e-12)
        assert back(d).shape == values.shape
        assert back(d.astype(np.float32)).dtype == np.float32


def test_a_response_absent_from_a_ranking_receives_nothing():
    _, back = compare(np.array([1.0, 2.0]), np.array([[1, -1]]))
    assert back(np.array([[3.0, np.nan]])).tolist() == [0.0, 3.0]


def test_rankings_of_unequal_length_go_to_losses_that_know_what_is_present():
    """A made-up loss of rankings: the mean log-prob of those present"""
    class Mean:
        name, reads, needs = "mean of those present", ("logp",), ("present",)

        def __call__(self, x, weight=None, present=None):
            n = present.sum(axis=-1, keepdims=True)
            return (x["logp"] * present / n).sum(axis=-1), {"logp": weight[:, None] * present / n}

    policy = Prefix()
    params = params_of(policy, np.random.default_rng(9))
    batch = Preferences.of([[0], [0]], [[1, 0], [2, 0]], [[2, 2, 0], [1, 0]], [[3, 0], None])
    value, grad = value_and_grad(policy, params, batch, Mean())
    logp = read(policy, params, batch.responses, np.arange(4), ["logp"])[0]["logp"]
    rank = batch.index
    assert value == pytest.approx((logp[rank[0]].mean() + logp[rank[1, :2]].mean()) / 2, rel=1e-14)
    check = check_gradient(lambda p: value_and_grad(policy, p, batch, Mean())[0], params, grad,
                           np.random.default_rng(0), complex_step)
    assert check.units < 20
    with pytest.raises(ValueError, match="compares complete rows; index row 1 is a shorter ranking"):
        value_and_grad(policy, params, batch, dn.LOSSES["sft"]())


# ---- odd arrays

def test_odd_arrays_give_the_same_answer():
    rng = np.random.default_rng(10)
    policy = NGram(vocab=4, order=3)
    batch = batch_for(policy, {"W": np.zeros((16, 4))}, dn.LOSSES["dpo"](), rng)
    W = rng.normal(size=(16, 4))
    want, want_grad = value_and_grad(policy, {"W": W}, batch, dn.LOSSES["dpo"]())
    frozen = W.copy()
    frozen.setflags(write=False)
    strided = np.repeat(np.repeat(W, 2, axis=0), 3, axis=1)[::2, ::3]
    for p in (policy, Plain(policy)):
        for odd in (frozen, strided, np.asfortranarray(W)):
            keep = odd.copy()
            value, grad = value_and_grad(p, {"W": odd}, batch, dn.LOSSES["dpo"]())
            assert value == pytest.approx(want, rel=1e-14)
            np.testing.assert_allclose(grad["W"], want_grad["W"], rtol=0, atol=1e-16)
            np.testing.assert_array_equal(odd, keep)
    r = batch.responses
    for dtype in (np.int8, np.int32, np.uint16, np.uint64):
        tokens = np.asfortranarray(r.tokens.astype(dtype))
        tokens.setflags(write=False)
        other = Preferences(dn.Responses(tokens, np.asfortranarray(r.mask), r.facts), batch.index, batch.weight)
        value, grad = value_and_grad(policy, {"W": W}, other, dn.LOSSES["dpo"]())
        assert value == want
        np.testing.assert_array_equal(grad["W"], want_grad["W"])


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_parameters_are_not_touched(policy, rng):
    policy = POLICIES[policy]()
    for name in LOSSES:
        loss, params, batch = case(policy, name, rng, np.float64, 1.0)
        kept = {k: p.copy() for k, p in params.items()}
        for p in params.values():
            p.setflags(write=False)
        value_and_grad(policy, params, batch, loss)
        for k, p in params.items():
            np.testing.assert_array_equal(p, kept[k])


def test_the_smallest_case():
    """V = 2, T = 2, one row, K = 1: -log σ(w₁ - w₀)"""
    W = np.array([[0.3, 1.0], [0.0, 0.0]])
    value, grad = value_and_grad(NGram(vocab=2), {"W": W}, Preferences.of([[0]], [[1]]), dn.LOSSES["sft"]())
    assert value == pytest.approx(np.log1p(np.exp(-0.7)), rel=4 * EPS)
    q = 1 / (1 + np.exp(0.7))
    np.testing.assert_allclose(grad["W"], [[q, -q], [0, 0]], rtol=4 * EPS)


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (2, 1)])
def test_logits_of_no_rows_and_of_one_token(policy, shape, rng):
    policy = POLICIES[policy]()
    params = params_of(policy, rng)
    logits, pullback = policy.logits(params, np.zeros(shape, int))
    assert logits.shape == (*shape, policy.vocab)
    grads = pullback(np.zeros_like(logits))
    assert {name: g.shape for name, g in grads.items()} == {name: p.shape for name, p in params.items()}
    assert not any(g.any() for g in grads.values())


def test_logits_too_large_to_exponentiate():
    W = np.array([[1e308, -1e308], [1e300, 1e300]])
    for policy in (NGram(vocab=2), Plain(NGram(vocab=2))):
        with np.errstate(over="ignore"):  # -1e308 - 1e308 is -inf: probability 0
            value, grad = value_and_grad(policy, {"W": W}, Preferences.of([[1]], [[1, 0]]), dn.LOSSES["sft"]())
        assert value == pytest.approx(2 * np.log(2), rel=4 * EPS)
        np.testing.assert_allclose(grad["W"], [[0, 0], [0, 0]], atol=EPS)  # one of each after token 1


def test_responses_that_the_policy_cannot_give():
    policy, params = Tabular(vocab=3), {"W": np.array([[0.0, 1.0, -np.inf]])}
    batch = Preferences.of([[0]], [[0]], [[1]])
    value, grad = value_and_grad(policy, params, batch, dn.LOSSES["sft"]())
    assert value == pytest.approx(np.log1p(np.e), rel=4 * EPS)
    p = np.e / (1 + np.e)
    np.testing.assert_allclose(grad["W"], [[-p, p, 0]], rtol=4 * EPS)
    impossible = Preferences.of([[0]], [[2]], [[1]])
    assert value_and_grad(policy, params, impossible, dn.LOSSES["sft"]())[0] == np.inf


# ---- errors

@pytest.mark.parametrize("name", [name for name in LOSSES if "ref_logp" in dn.LOSSES[name]().needs])
def test_a_missing_reference_says_what_to_call(name):
    policy = NGram(vocab=3)
    loss = dn.LOSSES[name]()
    columns = [[[1, 0]], [[2, 0]]] if "label" not in loss.needs else [[[1, 0]]]
    batch = Preferences.of([[0]], *columns)
    if "kl" in loss.reads:
        batch = batch.with_reference(policy, {"W": np.zeros((3, 3))}, "kl")
    text = "needs ref_logp, which was not given: call batch.with_reference(policy, params)"
    with pytest.raises(ValueError, match=re.escape(text)):
        value_and_grad(policy, {"W": np.zeros((3, 3))}, batch, loss)


def test_a_missing_reference_for_kl_says_what_to_call():
    policy, params = NGram(vocab=3), {"W": np.zeros((3, 3))}
    batch = Preferences.of([[0]], [[1, 0]], [[2, 0]]).with_reference(policy, params)
    with pytest.raises(ValueError, match=re.escape("call batch.with_reference(policy, params, 'logp', 'kl')")):
        value_and_grad(policy, params, batch, dn.LOSSES["tdpo1"]())


def test_an_unknown_reading_is_named():
    r = pad([([0], [1])])
    text = f"no reading is called 'log'; expected one of {', '.join(READINGS)}"
    with pytest.raises(ValueError, match=re.escape(text)):
        read(NGram(vocab=2), {"W": np.zeros((2, 2))}, r, np.arange(1), ["logp", "log"])


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_ids_outside_the_vocabulary_are_named(policy):
    policy = POLICIES[policy]()
    params = policy.init(np.random.default_rng(0))
    for large in (policy.vocab, 10**12):
        r = pad([([0], [1]), ([0], [1, large]), ([0], [large])])
        text = f"tokens hold id {large}, row 1 the first that is too large; expected ids below vocab, {policy.vocab}"
        with pytest.raises(ValueError, match=re.escape(text)):
            read(policy, params, r, np.arange(3), ["logp"])


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_scores_matrix_holds_the_gradient_of_each_log_prob(policy, rng):
    policy = POLICIES[policy]()
    params, responses = params_of(policy, rng), pad(rows(rng, policy, 6))
    some = np.array([4, 0, 5])
    matrix = gradient.scores_matrix(policy, params, responses, some)
    assert matrix.shape == (3, sum(p.size for p in params.values()))
    for _ in range(3):
        d = {name: rng.normal(size=p.shape) for name, p in params.items()}
        flat = np.concatenate([d[name].ravel() for name in params])
        measured = wide_complex_step(lambda p: read(policy, p, responses, some, ["logp"])[0]["logp"], params, d)
        np.testing.assert_allclose(matrix @ flat, measured.astype(float), rtol=0, atol=1e-11 * abs(matrix @ flat).max())


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_scores_are_zero_on_average_over_all_responses(policy, rng):
    policy = POLICIES[policy]()
    params = params_of(policy, rng)
    every = dn.enumerate_responses(policy, [1], 3)  # those that have not ended after 3 tokens included
    at = np.arange(len(every))
    p = np.exp(read(policy, params, every, at, ["logp"])[0]["logp"])
    scores = gradient.scores_matrix(policy, params, every, at)
    assert p.sum() == pytest.approx(1, rel=1e-14)
    assert abs(scores).max() > 0.1
    np.testing.assert_allclose(p @ scores, 0, atol=1e-14 * abs(scores).max())
