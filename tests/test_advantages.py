"""Advantages against loops and closed forms; that they make gradients without bias is in test_surrogates."""

import re

import numpy as np
import pytest

import dpo_numpy as dn

EPS = np.finfo(float).eps
MASK = np.array([[0, 1, 1, 0, 1, 0], [0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], bool)


def soiled(x, mask=MASK):
    """NaN and infinities where nothing should look"""
    return np.where(mask, x, np.random.default_rng(0).choice([np.nan, np.inf, 1e300], mask.shape))


# ---- groups

@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("K", [2, 5])
def test_group_advantage_is_a_loop(K, ddof, rng):
    reward = rng.normal(size=(2, 3, K))
    advantage = dn.group_advantage(reward, ddof=ddof, eps=1e-3)
    for at in np.ndindex(2, 3):
        expected = (reward[at] - np.mean(reward[at])) / (np.std(reward[at], ddof=ddof) + 1e-3)
        np.testing.assert_allclose(advantage[at], expected, atol=32 * EPS)  # differences of numbers of size 1
    np.testing.assert_allclose(dn.group_advantage(reward, scale="none"), reward - reward.mean(axis=-1, keepdims=True),
                               atol=4 * EPS)


@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("reward", [[0.1, 0.1, 0.1], [0.7], [1e6 + 0.1] * 7])
def test_equal_rewards_and_groups_of_one_have_none(reward, ddof, scale):
    """exactly: rounding of a mean would be blown up by 1/ε"""
    assert not dn.group_advantage(reward, scale, ddof).any()


def test_the_deviation_sets_the_size():
    """of advantages, whatever that of rewards is, until ε matters"""
    reward = np.array([1.0, 0.0, 0.0, 0.5])
    np.testing.assert_allclose(dn.group_advantage(1e6 * reward), dn.group_advantage(1e9 * reward), rtol=1e-9)
    assert abs(dn.group_advantage(1e-9 * reward)).max() < 1e-4


@pytest.mark.parametrize("shape", [(2,), (4, 2), (4, 6), (3, 1, 5)])
def test_rloo_is_the_mean_of_the_others(shape, rng):
    reward, K = rng.normal(size=shape), shape[-1]
    expected = [[row[i] - np.delete(row, i).mean() for i in range(K)] for row in reward.reshape(-1, K)]
    advantage = dn.rloo_advantage(reward)
    np.testing.assert_allclose(advantage, np.reshape(expected, shape), atol=8 * EPS)
    np.testing.assert_allclose(advantage, K / (K - 1) * dn.group_advantage(reward, scale="none"), rtol=4 * EPS)


# ---- tokens

@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.99, 0.0), (0.9, 1.0), (0.0, 0.7)])
def test_gae_is_the_sum_that_defines_it(gamma, lam, rng):
    """over the tokens of the mask, its gap closed"""
    reward, value = rng.normal(size=(2, *MASK.shape))
    advantage, target = dn.gae(soiled(reward), soiled(value), MASK, gamma, lam)
    for b, mask in enumerate(MASK):
        r, v = reward[b][mask], np.append(value[b][mask], 0)
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(len(r))]
        expected = [sum((gamma * lam)**(u - t) * delta[u] for u in range(t, len(r))) for t in range(len(r))]
        np.testing.assert_allclose(advantage[b][mask], expected, atol=32 * EPS)
        np.testing.assert_allclose(target[b][mask], expected + v[:-1], atol=32 * EPS)
        if lam == 0:
            np.testing.assert_allclose(advantage[b][mask], delta, atol=4 * EPS)
        if lam == 1:
            returns = [sum(gamma**(u - t) * r[u] for u in range(t, len(r))) for t in range(len(r))]
            np.testing.assert_allclose(target[b][mask], returns, atol=32 * EPS)
    assert not advantage[~MASK].any()
    assert not target[~MASK].any()


@pytest.mark.parametrize("shape", [(1,), (4,), (3, 1), (2, 3, 5)])
def test_one_token_one_response_and_groups(shape, rng):
    """of any shape: at λ = 1 returns are the rewards to come, and a response's penalized rewards are its own"""
    reward, value, logp, ref = rng.normal(size=(4, *shape))
    every = np.ones(shape, bool)
    advantage, target = dn.gae(reward, value, every, lam=1.0)
    to_come = np.cumsum(reward[..., ::-1], axis=-1)[..., ::-1]
    np.testing.assert_allclose(target, to_come, atol=32 * EPS)
    np.testing.assert_allclose(advantage, to_come - value, atol=32 * EPS)
    expected = -0.3 * (logp - ref)
    expected[..., -1] += reward[..., 0]
    told = dn.penalized_reward(reward[..., 0], logp, ref, every, beta=0.3)
    np.testing.assert_allclose(told, expected, rtol=4 * EPS, atol=4 * EPS)


def test_a_penalized_reward_adds_up(rng):
    """to r - β log π/π_ref(y|x), r at the last token; nothing off the mask"""
    logp, ref = rng.normal(size=(2, 2, 6))
    mask, reward = MASK[:2], np.array([3.0, -1.0])
    told = dn.penalized_reward(reward, soiled(logp, mask), soiled(ref, mask), mask, beta=0.3)
    np.testing.assert_allclose(told.sum(axis=-1), reward - 0.3 * ((logp - ref) * mask).sum(axis=-1), rtol=16 * EPS)
    expected = np.where(mask, -0.3 * (logp - ref), 0)
    expected[[0, 1], [4, 5]] += reward
    np.testing.assert_allclose(told, expected, rtol=4 * EPS)
    with pytest.raises(ValueError, match=r"^mask has no response token in a row; expected at least one in each$"):
        dn.penalized_reward(np.zeros(3), np.zeros((3, 6)), np.zeros((3, 6)), MASK, beta=0.3)


def test_white_is_of_mean_zero_and_deviation_one(rng):
    x = rng.normal(3.0, 5.0, MASK.shape)
    white = dn.whiten(soiled(x), MASK)
    assert white[MASK].mean() == pytest.approx(0, abs=8 * EPS)
    assert white[MASK].std() == pytest.approx(1, rel=1e-8)  # 1e-8 under the root
    np.testing.assert_allclose(dn.whiten(soiled(x), MASK, center=False)[MASK], white[MASK] + x[MASK].mean(),
                               rtol=8 * EPS)
    for center in (True, False):
        assert not dn.whiten(soiled(x), MASK, center)[~MASK].any()
        assert not dn.whiten(x, np.zeros_like(MASK), center).any()
    assert not dn.whiten(np.full(MASK.shape, 0.125), MASK).any()
    assert dn.whiten([3.0, 7.0], [True, False]).tolist() == [0, 0]  # of one token
    assert dn.whiten([3.0, 7.0], [True, False], center=False).tolist() == [3, 0]


# ---- dtypes and errors

@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble, int])
def test_dtypes_stay_and_integers_are_float64(dtype, rng):
    x = (4 * rng.normal(size=MASK.shape)).astype(dtype)
    found = [dn.group_advantage(x), dn.group_advantage(x, "none"), dn.rloo_advantage(x), *dn.gae(x, x, MASK),
             dn.penalized_reward(x[:2, 0], x[:2], x[:2], MASK[:2], 0.1), dn.whiten(x, MASK), dn.whiten(x, MASK, False)]
    assert {each.dtype for each in found} == {np.dtype(float if dtype is int else dtype)}


@pytest.mark.parametrize(("call", "sentence"), [
    (lambda: dn.group_advantage([1.0], scale="mad"), "scale is 'mad'; expected 'std' or 'none'"),
    (lambda: dn.group_advantage([1.0], ddof=2), "ddof is 2; expected 0 or 1"),
    (lambda: dn.group_advantage([1.0], eps=0.0), "eps is 0.0; expected a finite number above 0"),
    (lambda: dn.rloo_advantage([[1.0]]), "reward has shape (1, 1); expected (..., K), K at least 2"),
    (lambda: dn.gae([1.0], [1.0], [True], gamma=1.1), "gamma is 1.1; expected a number from 0 to 1"),
    (lambda: dn.gae([1.0], [1.0], [True], lam=-0.1), "lam is -0.1; expected a number from 0 to 1"),
    (lambda: dn.penalized_reward([1.0], [[0.0]], [[0.0]], [[True]], beta=-1.0), "beta is -1.0; expected at least 0"),
])
def test_errors_are_sentences(call, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        call()
