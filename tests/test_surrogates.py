"""Losses of tokens: values and gradients against the oracle, what they are in expectation, and what must not matter."""

import inspect
import itertools
import re
from dataclasses import replace
from functools import partial

import numpy as np
import oracle
import pytest
import strategies
from test_losses import units

import dpo_numpy as dn
from dpo_numpy import surrogates
from dpo_numpy.check import check_gradient, complex_step, finite_difference
from dpo_numpy.losses import LOSSES
from dpo_numpy.surrogates import REDUCTIONS, SURROGATES
from toy_models import NGram

EPS = np.finfo(float).eps
DEFAULTS = {name: {key: p.default for key, p in inspect.signature(factory).parameters.items()}
            for name, factory in SURROGATES.items()}
WITH_REDUCTION = [name for name, hyper in DEFAULTS.items() if "reduction" in hyper]
CLIPPING = ["ppo_clip", "grpo", "dr_grpo", "bnpo", "dapo", "gspo", "cispo"]


def numbers(name, seed=0, dtype=np.float64, regime="ordinary", shape=(4, 3, 5), **hyper):
    """A loss with the readings and facts of a batch."""
    loss = SURROGATES[name](**hyper)
    return loss, *strategies.draw_tokens(np.random.default_rng(seed), loss, dtype, regime, shape)


def alone(name, **hyper):
    """A loss that is asked for its only reading: f(x, **facts) -> value, grad"""
    loss = SURROGATES[name](**hyper)

    def call(x, **facts):
        value, grad = loss(x, **{key: facts[key] for key in loss.needs})
        return value, grad

    return call


# ---- against the oracle

def test_every_loss_has_an_oracle_and_a_name_of_its_own():
    assert set(oracle.SURROGATES) == set(SURROGATES)
    assert not set(SURROGATES) & set(LOSSES)


@pytest.mark.parametrize("regime", strategies.RATIOS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", SURROGATES)
def test_values_and_gradients_are_exact_to_four_units(name, dtype, regime):
    rng = np.random.default_rng(0)
    for _ in range(3):
        hyper = strategies.draw_hyper(rng, SURROGATES[name])
        read, facts = strategies.draw_tokens(rng, SURROGATES[name](**hyper), dtype, regime, (2, 2, 3))
        found, where = max(units(name, hyper, read, facts))
        assert found <= 4, f"{found:.1f} units, {regime}: {where}"


@pytest.mark.parametrize("name", SURROGATES)
def test_defaults_are_the_oracles_too(name):
    """and those of the signature; by default one ε does for both ends"""
    hyper = DEFAULTS[name] | ({"eps_high": DEFAULTS[name]["eps"]} if name == "grpo" else {})
    loss, read, facts = numbers(name, shape=(2, 2, 4))
    assert max(units(name, hyper, read, facts))[0] <= 4
    np.testing.assert_array_equal(loss(read, **facts)[0], SURROGATES[name](**hyper)(read, **facts)[0])


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_the_dtype_stays(name, dtype):
    """and nothing passes through float64: two draws apart by 1e-18 of themselves are told apart by longdoubles"""
    loss, read, facts = numbers(name, dtype=dtype)
    value, grad = loss(read, **facts)
    assert value.dtype == dtype
    assert all(x.dtype == dtype for x in grad.values())
    if dtype == np.longdouble:
        moved, _ = loss({key: x * (1 + 64 * np.finfo(dtype).eps) for key, x in read.items()}, **facts)
        assert (moved != value).any()


# ---- kernels

AT = np.array([-3.0, -0.7, -0.25, -1e-9, 0.0, 1e-9, 0.1, 0.25, 0.6, 4.0])
A = np.array([[1.5], [-0.7]])
#: with what they are told
KERNELS = {
    "reinforce": (surrogates.reinforce_token, [A], {}),
    "clipped": (surrogates.clipped, [A], {"low": 0.3, "high": 0.4}),
    "dual": (surrogates.clipped, [A], {"low": 0.3, "high": 0.4, "dual": 3.0}),
    "weighed": (surrogates.weighed, [np.float64(-0.2), A], {"low": 0.3, "high": 0.4}),
    "k1": (surrogates.k1, [], {}), "k2": (surrogates.k2, [], {}), "k3": (surrogates.k3, [], {}),
    "value_error": (surrogates.value_error, [np.float64(0.1), np.float64(0.4)], {"eps": 0.3}),
}


@pytest.mark.parametrize("name", KERNELS)
def test_slopes_of_kernels(name):
    """What carries no gradient looks at the real part alone."""
    kernel, told, hyper = KERNELS[name]
    d = np.broadcast_to(AT, (2, 10))
    _, slope = kernel(d, *told, **hyper)
    value, _ = kernel(d + 1e-100j, *told, **hyper)
    np.testing.assert_allclose(value.imag / 1e-100, np.broadcast_to(slope, d.shape), rtol=4 * EPS, atol=1e-150)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", [np.float32, np.longdouble])
def test_dtypes_of_kernels(name, dtype):
    kernel, told, hyper = KERNELS[name]
    assert {x.dtype for x in kernel(AT.astype(dtype), *(x.astype(dtype) for x in told), **hyper)} == {np.dtype(dtype)}


def test_the_ends_of_the_clip():
    """At an end the slope is 0 where it would be left behind, and nothing happens at the other."""
    kernel = surrogates.clipped
    ends = np.log([[0.75, 1.25]])
    for advantage, slopes in ((2.0, [True, False]), (-2.0, [False, True])):
        value, slope = kernel(ends, np.full((1, 2), advantage), 0.25, 0.25)
        np.testing.assert_allclose(value, [[-0.75 * advantage, -1.25 * advantage]], rtol=4 * EPS)
        assert (slope != 0).tolist() == [slopes]
    for eps, dtype in itertools.product((5e-324, 1e-300, 1e-17), (np.float64, np.float32)):  # 1 + ε is 1
        _, slope = kernel(np.zeros((1, 2), dtype), np.array([[1.0, -1.0]], dtype), eps, eps)
        assert slope.tolist() == [[-1, 1]]


def test_ratios_beyond_the_floats():
    """finite where the answer is: clipped, without an advantage, or with one that is small enough"""
    d = np.array([[1000.0, 1000.0, -1000.0, -1000.0, 1000.0, 800.0, -np.inf]])
    advantage = np.array([[1.0, 0.0, 1.0, -1.0, -1.0, -1e-300, 1.0]])
    value, slope = surrogates.clipped(d, advantage, 0.2, 0.3)
    small = np.exp(800 - 300 * np.log(10))  # good to the rounding of 691
    np.testing.assert_allclose(value, [[-1.3, 0, 0, 0.8, np.inf, small, 0]], rtol=1e3 * EPS)
    np.testing.assert_allclose(slope, [[0, 0, 0, 0, np.inf, small, 0]], rtol=1e3 * EPS)
    _, slope = surrogates.weighed(d[:, :-1] - 2000, np.full((1, 6), -2000.0), advantage[:, :-1], 1.0, 0.3)
    np.testing.assert_allclose(slope, [[-1.3, 0, 0, 0, 1.3, 1.3e-300]], rtol=4 * EPS)


@pytest.mark.parametrize("regime", strategies.RATIOS)
def test_the_dual_clip_is_a_bound(regime):
    rng = np.random.default_rng(1)
    d = 10 * strategies.RATIOS[regime](rng, (1000,)) if regime != "far" else strategies.RATIOS[regime](rng, (1000,))
    advantage = rng.normal(size=1000)
    value, slope = surrogates.clipped(d, advantage, 0.2, 0.2, dual=3.0)
    bad = advantage < 0
    assert (value[bad] <= -3 * advantage[bad]).all()
    plain, steep = surrogates.clipped(d, advantage, 0.2, 0.2)
    same = ~bad | (d < np.log(3))
    np.testing.assert_array_equal(value[same], plain[same])
    np.testing.assert_array_equal(slope[same], steep[same])
    assert not slope[~same].any()


def test_kl_estimators_of_policies_that_are_near():
    """e⁻ᵈ - 1 + d as it is written has no digits left at d = 1e-9."""
    d = np.array([1e-9, -1e-9, 1e-20])
    for kernel, value, slope in ((surrogates.k2, d**2 / 2, d), (surrogates.k3, d**2 / 2 - d**3 / 6, d - d**2 / 2)):
        np.testing.assert_allclose(kernel(d)[0], value, rtol=4 * EPS)
        np.testing.assert_allclose(kernel(d)[1], slope, rtol=4 * EPS)


def test_the_value_clip_by_cases():
    """V_old = 0, ε = 1. Too far towards its return: left alone; away from it, or past it: pulled."""
    for v, target, value, slope in [
        (0.5, 2.0, 1.125, -1.5),   # near: the square alone
        (1.5, 2.0, 0.5, 0.0),      # went 1.5 towards 2, and counts as 1
        (-1.5, 2.0, 6.125, -3.5),  # away from it
        (1.0, -2.0, 4.5, 3.0),     # at the end, away from it: no kink
        (4.0, 2.0, 2.0, 2.0),      # past it
        (2.0, 1.5, 0.125, 0.0),    # past it by as much as 1 is short of it
    ]:
        told = (np.array([x]) for x in (v, 0.0, target))
        assert [x.tolist() for x in surrogates.value_error(*told, eps=1.0)] == [[value], [slope]]


# ---- reductions

@pytest.mark.parametrize("name", [*REDUCTIONS, "fixed"])
def test_reductions_are_loops(name):
    """The second row has a response without tokens, the third has none at all."""
    rng = np.random.default_rng(2)
    mask = rng.random((4, 3, 5)) < 0.6
    mask[1, 2], mask[2] = False, False
    weight, phi = rng.random(4), rng.normal(size=mask.shape)
    share = {**REDUCTIONS, "fixed": surrogates.fixed(7.0)}[name](mask, weight)
    count = sum(weight[b] * mask[b].sum() for b in range(4))
    for b in range(4):
        value = 0
        for k in range(3):
            of_response = phi[b, k][mask[b, k]]
            value += {"sequence_mean": of_response.sum() / max(len(of_response), 1) / 3,
                      "sequence_sum": of_response.sum() / 3, "fixed": of_response.sum() / 21,
                      "tokens": of_response.sum() * weight.sum() / count}[name]
        # a share, a product and a sum of 15 terms
        assert abs((share * phi)[b].sum() - value) <= 8 * EPS * abs(phi).sum()
    assert not share[~mask].any()


@pytest.mark.parametrize("name", SURROGATES)
def test_no_tokens_is_zero(name):
    loss, read, facts = numbers(name)
    facts["mask"] = np.zeros_like(facts["mask"])
    value, grad = loss(read, **facts)
    assert not value.any()
    assert not any(x.any() for x in grad.values())


@pytest.mark.parametrize("name", SURROGATES)
def test_no_prompts(name):
    loss, read, facts = numbers(name)
    value, grad = loss({key: x[:0] for key, x in read.items()}, **{key: x[:0] for key, x in facts.items()})
    assert value.shape == (0,)
    assert all(x.shape == (0, 3, 5) for x in grad.values())


def test_the_mean_of_a_batch_by_tokens_is_that_of_its_tokens():
    loss, read, facts = numbers("reinforce", reduction="tokens")
    weight = np.array([0.5, 1.0, 2.0, 0.0])
    value, grad = loss(read, weight=weight, **facts)
    advantage = facts["advantage"].reshape(4, 3, -1) * facts["mask"]
    each = weight[:, None, None] * advantage
    count = (weight[:, None, None] * facts["mask"]).sum()
    expected = -(each * read["token_logp"]).sum() / count
    assert (weight @ value) / weight.sum() == pytest.approx(expected, rel=1e-13)  # sums of 60 terms
    np.testing.assert_allclose(grad["token_logp"], -each * weight.sum() / count, rtol=8 * EPS)


def test_float32_is_summed_in_float64():
    """2,049 tokens, rounded once"""
    logp = -np.random.default_rng(8).random((20, 1, 2049)).astype(np.float32)
    value, _ = SURROGATES["reinforce"]()(logp, mask=np.ones(logp.shape, bool), advantage=1.0)
    np.testing.assert_array_equal(value, -logp.sum(axis=(1, 2), dtype=np.float64).astype(np.float32))
    assert (value != -logp.sum(axis=(1, 2))).any()


# ---- what must not matter

@pytest.mark.parametrize("name", SURROGATES)
def test_what_is_off_the_mask_is_invisible(name):
    """More padding, with whatever numbers in it"""
    loss, read, facts = numbers(name)
    value, grad = loss(read, **facts)
    rng = np.random.default_rng(3)
    mask = np.pad(facts["mask"], ((0, 0), (0, 0), (0, 2)))
    rubbish = rng.choice([np.nan, np.inf, -np.inf, 1e300, -7.0], mask.shape)

    def soiled(x):
        if x.ndim < 3:
            return x
        return np.where(mask, np.pad(x, ((0, 0), (0, 0), (0, 2))), rubbish)

    told = {**{key: soiled(x) for key, x in facts.items()}, "mask": mask}
    again, dagain = loss({key: soiled(x) for key, x in read.items()}, **told)
    np.testing.assert_allclose(again, value, rtol=8 * EPS, atol=8 * EPS)  # added in another order
    for key, x in grad.items():
        np.testing.assert_allclose(dagain[key], np.pad(x, ((0, 0), (0, 0), (0, 2))), rtol=8 * EPS)
        assert not dagain[key][~mask].any()


@pytest.mark.parametrize("name", SURROGATES)
def test_nan_propagates(name):
    loss, read, facts = numbers(name)
    at = tuple(np.argwhere(facts["mask"])[0])
    for key, x in {**read, **facts}.items():
        if key == "mask":
            continue
        spoilt = x.copy()
        spoilt[at[:x.ndim]] = np.nan
        value, _ = loss({**read, key: spoilt} if key in read else read,
                        **{**facts, key: spoilt} if key in facts else facts)
        assert np.isnan(value[at[0]]), key
        assert not np.isnan(np.delete(value, at[0])).any()


@pytest.mark.parametrize("name", SURROGATES)
def test_responses_have_no_order(name):
    loss, read, facts = numbers(name)
    value, grad = loss(read, **facts)
    order = [2, 0, 1]
    facts = {key: x[:, order] for key, x in facts.items()}
    again, dagain = loss({key: x[:, order] for key, x in read.items()}, **facts)
    np.testing.assert_allclose(again, value, rtol=8 * EPS, atol=8 * EPS)
    for key, x in grad.items():
        np.testing.assert_allclose(dagain[key], x[:, order], rtol=4 * EPS)


@pytest.mark.parametrize("name", SURROGATES)
def test_weight_two_is_the_row_twice(name):
    loss, read, facts = numbers(name)
    value, grad = loss(read, weight=np.array([2.0, 1.0, 1.0, 0.0]), **facts)
    twice = np.array([0, 0, 1, 2])
    again, dagain = loss({key: x[twice] for key, x in read.items()}, **{key: x[twice] for key, x in facts.items()})
    np.testing.assert_allclose(value[:3], again[1:], rtol=8 * EPS)
    for key, x in grad.items():
        np.testing.assert_allclose(x[:3], np.stack([2 * dagain[key][0], *dagain[key][2:]]), rtol=8 * EPS)
        assert not x[3].any()


@pytest.mark.parametrize("name", SURROGATES)
def test_leading_axes_are_a_loop(name):
    loss, read, facts = numbers(name)
    read = {key: np.stack([x, x - 0.125, x - 0.25]) for key, x in read.items()}
    weight = np.array([0.5, 1.0, 2.0, 0.0])
    value, grad = loss(read, weight=weight, **facts)
    for i in range(3):
        one, done = loss({key: x[i] for key, x in read.items()}, weight=weight, **facts)
        np.testing.assert_array_equal(value[i], one)
        for key, x in grad.items():
            np.testing.assert_array_equal(x[i], done[key])


@pytest.mark.parametrize("name", [name for name in SURROGATES if "advantage" in SURROGATES[name]().needs])
def test_an_advantage_is_a_responses_or_a_tokens(name):
    """by its number of axes, also where K = T"""
    loss, read, facts = numbers(name, shape=(4, 3, 3))
    of_response = np.random.default_rng(4).normal(size=(4, 3))
    expected = loss(read, **facts | {"advantage": np.repeat(of_response[..., None], 3, axis=-1)})
    for told in (of_response, of_response[..., None], of_response.tolist()):
        value, grad = loss(read, **facts | {"advantage": told})
        np.testing.assert_array_equal(value, expected[0])
        np.testing.assert_array_equal(grad["token_logp"], expected[1]["token_logp"])


def test_a_mask_of_numbers_will_do():
    loss, read, facts = numbers("grpo")
    again, _ = loss(read, **facts | {"mask": facts["mask"].astype(int)})
    np.testing.assert_array_equal(again, loss(read, **facts)[0])


# ---- at the policy that sampled

@pytest.mark.parametrize(("name", "hyper", "reduction", "by"), [
    *[("ppo_clip", {"reduction": reduction}, reduction, 1) for reduction in REDUCTIONS],
    *[("grpo", {"beta": 0.0, "reduction": reduction}, reduction, 1) for reduction in REDUCTIONS],
    ("bnpo", {}, "tokens", 1), ("dapo", {}, "tokens", 1), ("cispo", {}, "tokens", 1),
    ("dr_grpo", {"max_length": 8.0}, "sequence_sum", 8), ("gspo", {}, "sequence_mean", 1),
])
def test_on_policy_all_of_them_are_reinforce(name, hyper, reduction, by):
    loss, read, facts = numbers(name, regime="on_policy", **hyper)
    facts["advantage"] = np.random.default_rng(5).normal(size=(4, 3))
    expected = alone("reinforce", reduction=reduction)(read["token_logp"], **facts)[1] / by
    np.testing.assert_allclose(loss(read, **facts)[1]["token_logp"], expected, rtol=8 * EPS)


@pytest.mark.parametrize("name", [name for name in CLIPPING if name != "cispo"])
def test_far_from_it_they_are_not(name):
    """The gradient of what is clipped is 0; the value stays behind."""
    logp, told = np.full((1, 2, 1), -1.0), {"mask": np.ones((1, 2, 1), bool), "advantage": [[1.0, -1.0]]}
    loss = SURROGATES[name](**{"beta": 0.0} if name == "grpo" else {})
    old = logp - np.array([[[2.0], [-2.0]]])
    value, grad = loss(logp, old_token_logp=old, **told)
    assert not grad.any()
    assert loss(logp, old_token_logp=old - [[[1.0], [-1.0]]], **told)[0] == value


def test_one_family():
    """The named ones are settings of each other."""
    _, read, facts = numbers("grpo", regime="far", seed=6)
    x = read["token_logp"]
    for one, other in [
        (alone("grpo", beta=0.0, reduction="tokens"), alone("ppo_clip")),
        (alone("grpo", beta=0.3, reduction="tokens"), alone("bnpo", beta=0.3)),
        (alone("grpo", beta=0.0, eps_high=0.28, reduction="tokens"), alone("dapo")),
        (alone("grpo", beta=0.0, reduction="sequence_sum"), alone("dr_grpo", max_length=1)),
    ]:
        for ours, theirs in zip(one(x, **facts), other(x, **facts), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=8 * EPS)
    assert "ref_token_logp" not in SURROGATES["grpo"](beta=0.0).needs
    mixed = SURROGATES["grpo"](beta=0.0) + 0.3 * SURROGATES["kl"]()
    np.testing.assert_array_equal(mixed(x, **facts)[0], SURROGATES["grpo"](beta=0.3)(x, **facts)[0])


# ---- expectations, exactly: a row an outcome, its weight the outcome's probability

P, REF = np.array([0.5, 0.2, 0.3]), np.array([0.1, 0.6, 0.3])
ONE = np.ones((3, 1, 1), bool)


def in_logits(grad, p):
    """Σ_v gᵥ ∂log pᵥ/∂logits"""
    return grad - p * grad.sum()


@pytest.mark.parametrize(("estimator", "value", "grad"), [
    ("k1", P @ np.log(P / REF), np.zeros(3)),
    ("k2", P @ np.log(P / REF)**2 / 2, P * (np.log(P / REF) - P @ np.log(P / REF))),  # of KL(π || π_ref)
    ("k3", P @ np.log(P / REF), P - REF),  # of KL(π_ref || π)
])
def test_kl_estimators_in_expectation(estimator, value, grad):
    """k1 and k3 are KL; their gradients are not its gradient, which k2 has, whose value is another."""
    logp, ref = (np.log(x)[:, None, None] for x in (P, REF))
    ours, slopes = dn.SURROGATES["kl"](estimator)(logp, ref_token_logp=ref, mask=ONE, weight=P)
    assert P @ ours == pytest.approx(value, rel=8 * EPS)
    np.testing.assert_allclose(in_logits(slopes.ravel(), P), grad, rtol=16 * EPS, atol=4 * EPS)


def test_k1_belongs_into_the_reward():
    """The score function's gradient of r - β k1 is that of E r - β KL(π || π_ref)."""
    reward, beta, shape = np.array([1.0, 0.5, -2.0]), 0.3, (3, 1, 1)
    logp, ref = np.log(P).reshape(shape), np.log(REF).reshape(shape)
    advantage = dn.penalized_reward(reward[:, None], logp, ref, ONE, beta)
    _, grad = SURROGATES["reinforce"]()(logp, mask=ONE, advantage=advantage, weight=P)
    gain = reward - beta * np.log(P / REF)
    np.testing.assert_allclose(-in_logits(grad.ravel(), P), P * (gain - P @ gain), rtol=16 * EPS)


@pytest.mark.parametrize(("advantage", "factor"), [
    (dn.rloo_advantage, 1.0),
    (lambda r: dn.group_advantage(r, scale="none"), 2 / 3),
    (lambda r: r, 1.0),
])
def test_groups_without_bias(advantage, factor):
    """All 27 groups of three draws from three arms; with the mean of the group, (K-1)/K of the gradient"""
    reward = np.array([1.0, 0.25, -2.0])
    groups = np.array(list(itertools.product(range(3), repeat=3)))
    _, grad = SURROGATES["reinforce"]()(np.log(P)[groups][..., None], mask=np.ones((27, 3, 1), bool),
                                        advantage=advantage(reward[groups]), weight=P[groups].prod(axis=1))
    by_arm = np.array([grad[groups == arm].sum() for arm in range(3)])
    expected = -factor * P * (reward - P @ reward)
    np.testing.assert_allclose(in_logits(by_arm, P), expected, rtol=16 * EPS)


POLICY = NGram(vocab=3)


def sampled(rng, params, weighted=True):
    """Every string of up to three tokens, a row of its own, with its probability; and a reward each"""
    responses = dn.enumerate_responses(POLICY, [0], 3)
    batch = dn.Preferences(responses, np.arange(len(responses))[:, None])
    logp = dn.read(POLICY, params, responses, np.arange(len(responses)), ["logp"])[0]["logp"]
    return replace(batch, weight=np.exp(logp)) if weighted else batch, rng.normal(size=len(responses))


def test_the_score_function_is_the_gradient_of_the_expected_reward(rng):
    params = {"W": rng.normal(size=(3, 3))}
    batch, reward = sampled(rng, params)
    _, grad = dn.value_and_grad(POLICY, params, batch.with_facts(advantage=reward[:, None]), SURROGATES["reinforce"]())

    def expected_reward(at):
        logp = dn.read(POLICY, at, batch.responses, np.arange(len(reward)), ["logp"])[0]["logp"]
        return (np.exp(logp) * reward).sum(axis=-1)

    check = check_gradient(expected_reward, params, {"W": -grad["W"]}, rng, complex_step)
    assert check.units < 16  # each string's probability is a product of up to three, added up


# ---- from logits

@pytest.mark.parametrize(("method", "room"), [
    (complex_step, 16 * EPS),  # as of the readings, test_readings.test_pullback
    (partial(finite_difference, step=1e-5), 1e-12),  # as of all losses, test_gradient
])
@pytest.mark.parametrize("name", [name for name in SURROGATES if name != "value_clip"])
def test_gradients_end_to_end(name, method, room, rng):
    """Through an n-gram. What CISPO holds still looks wrong to a difference."""
    params = {"W": rng.normal(size=(3, 3))}
    batch, _ = sampled(rng, params, weighted=False)
    every = np.arange(len(batch.responses))
    near = {"W": params["W"] + 0.2 * rng.normal(size=(3, 3))}
    old = dn.read(POLICY, near, batch.responses, every, ["token_logp"])[0]["token_logp"]
    responses = batch.responses.with_facts(old_token_logp=old, advantage=rng.normal(size=len(old)))
    batch = replace(batch, responses=responses, index=every[:14].reshape(7, 2), weight=rng.random(7))
    batch = batch.with_reference(POLICY, {"W": params["W"] + 0.5 * rng.normal(size=(3, 3))}, "token_logp")
    loss = SURROGATES[name]()
    _, grad = dn.value_and_grad(POLICY, params, batch, loss)
    assert grad["W"].any()
    check = check_gradient(lambda at: dn.value_and_grad(POLICY, at, batch, loss)[0], params, grad, rng, method)
    assert (check.units < room / EPS) == (name != "cispo" or method is complex_step)


def test_the_gradient_of_cispo_is_that_of_weighed_log_probs():
    """-w A ℓ, w held at what it is"""
    loss, read, facts = numbers("cispo", regime="far", eps_low=0.5)
    value, grad = loss(read, **facts)
    ratio = np.exp(np.clip(read["token_logp"] - facts["old_token_logp"], np.log(0.5), np.log(1.28)))
    told = {"mask": facts["mask"], "advantage": ratio * facts["advantage"].reshape(4, 3, -1)}
    expected = alone("reinforce", reduction="tokens")(read["token_logp"], **told)
    np.testing.assert_allclose(value, expected[0], rtol=16 * EPS, atol=16 * EPS)
    np.testing.assert_allclose(grad["token_logp"], expected[1], rtol=8 * EPS)


def test_bonus_and_surrogate_add_up():
    """to a loss of two readings"""
    mixed = SURROGATES["reinforce"]() + SURROGATES["entropy_bonus"](coefficient=0.5)
    assert mixed.reads == ("token_logp", "token_entropy")
    rng = np.random.default_rng(7)
    params = {"W": rng.normal(size=(3, 3))}
    batch, reward = sampled(rng, params)
    batch = batch.with_facts(advantage=reward[:, None])
    _, grad = dn.value_and_grad(POLICY, params, batch, mixed)
    parts = [dn.value_and_grad(POLICY, params, batch, loss)[1]["W"] for loss in
             (SURROGATES["reinforce"](), SURROGATES["entropy_bonus"](coefficient=0.5))]
    np.testing.assert_allclose(grad["W"], sum(parts), rtol=1e-13, atol=1e-15)  # sums over 15 strings


# ---- names and errors

@pytest.mark.parametrize("name", SURROGATES)
def test_names_show_hyper_parameters(name):
    shown = repr(SURROGATES[name]())
    assert re.fullmatch(rf"{name}\(.*\)", shown)
    assert re.findall(r"(\w+)=", shown) == list(DEFAULTS[name])


@pytest.mark.parametrize("name", SURROGATES)
def test_only_what_counts_over_the_batch_is_coupled(name):
    for reduction in REDUCTIONS if name in WITH_REDUCTION else (None,):
        loss = SURROGATES[name](**{"reduction": reduction} if reduction else {})
        assert loss.coupled == (reduction == "tokens" or name in ("bnpo", "dapo", "cispo"))


@pytest.mark.parametrize(("name", "hyper", "expected"), [
    *[(name, {"reduction": "mean"}, "'sequence_mean' or 'sequence_sum' or 'tokens'") for name in WITH_REDUCTION],
    *[(name, {"eps": eps}, "above 0 and below 1")
      for name in ("ppo_clip", "grpo", "dr_grpo", "bnpo") for eps in (0, 1)],
    *[(name, {"eps_low": eps}, "above 0 and below 1") for name in ("dapo", "gspo") for eps in (0.0, 1.0)],
    *[(name, {"eps_high": 0.0}, "a finite number above 0") for name in ("grpo", "dapo", "gspo", "cispo")],
    ("cispo", {"eps_low": 0.0}, "a finite number above 0"),
    ("ppo_clip", {"dual": 1.0}, "above 1 and below inf"),
    ("ppo_clip", {"dual": None}, "a finite number"),
    ("dr_grpo", {"max_length": 0}, "a finite number above 0"),
    ("grpo", {"beta": -0.1}, "at least 0"),
    ("bnpo", {"beta": -0.1}, "at least 0"),
    ("grpo", {"estimator": "k4"}, "'k1' or 'k2' or 'k3'"),
    ("kl", {"estimator": 3}, "'k1' or 'k2' or 'k3'"),
    ("value_clip", {"eps": 0.0}, "a finite number above 0"),
    ("entropy_bonus", {"coefficient": -1.0}, "at least 0"),
])
def test_domains(name, hyper, expected):
    (key, value), = hyper.items()
    with pytest.raises(ValueError, match=f"^{re.escape(f'{key} is {value!r}; expected {expected}')}$"):
        SURROGATES[name](**hyper)


@pytest.mark.parametrize("name", SURROGATES)
def test_missing_and_misshapen_facts(name):
    loss, read, facts = numbers(name)
    for need in loss.needs:
        rest = {key: x for key, x in facts.items() if key != need}
        with pytest.raises(ValueError, match=f"^{re.escape(loss.name)} needs {need}, which was not given"):
            loss(read, **rest)
        with pytest.raises(ValueError, match=rf"^{need} has shape \(5,\), which does not fit .* \(4, 3, 5\)$"):
            loss(read, **rest, **{need: np.zeros(5)})
    with pytest.raises(ValueError, match=r"has shape \(3, 5\); .* expected \(\.\.\., B, K, T\)$"):
        loss({key: x[0] for key, x in read.items()}, **facts)
