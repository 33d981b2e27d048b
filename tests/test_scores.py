import numpy as np
import pytest

from dpo_numpy import scores
from dpo_numpy.check import check_gradient, complex_step
from dpo_numpy.scores import full_log_prob, log_prob, log_ratio, mean, reward, sequential_kl, shared_length

SHAPE = (3, 4, 2)


def naively(logp, mask):
    """Up to the length that both have each token counts 1, beyond it 0.7."""
    total = np.zeros(logp.shape[:-1], logp.dtype)
    for r, b in np.ndindex(logp.shape[:2]):
        shared = min(mask[b].sum(axis=-1))
        for k in (0, 1):
            counted = logp[r, b, k][mask[b, k]]
            total[r, b, k] = counted[:shared].sum() + np.array(0.7, logp.real.dtype) * counted[shared:].sum()
    return total


SCORES = {
    "log_prob": (log_prob, lambda x, f: x["logp"]),
    "log_ratio": (log_ratio, lambda x, f: x["logp"] - f["ref_logp"]),
    "mean log_prob": (mean(log_prob), lambda x, f: x["logp"] / f["length"]),
    "mean log_ratio": (mean(log_ratio), lambda x, f: (x["logp"] - f["ref_logp"]) / f["length"]),
    "full_log_prob": (full_log_prob, lambda x, f: x["full_logp"]),
    "mean full_log_prob": (mean(full_log_prob, "full_length"), lambda x, f: x["full_logp"] / f["full_length"]),
    "reward": (reward, lambda x, f: x["reward"]),
    "shared_length": (shared_length(0.7, True), lambda x, f: naively(x["token_logp"] - f["ref_token_logp"], f["mask"])),
    "half weighted": (shared_length(0.7, False), lambda x, f: naively(x["token_logp"], f["mask"]) - f["ref_logp"]),
    "sequential_kl": (sequential_kl(0.7, stop=False), lambda x, f: x["logp"] - f["ref_logp"] + 0.7 * x["kl"]),
    "stopped": (sequential_kl(0.7, stop=True), lambda x, f: x["logp"] - f["ref_logp"] + 0.7 * x["kl"]),
}


def numbers(dtype=float):
    rng = np.random.default_rng(0)
    x = {"logp": -10 * rng.random(SHAPE), "kl": rng.random(SHAPE)}
    facts = {"ref_logp": -10 * rng.random(SHAPE), "length": rng.integers(1, 9, SHAPE)}
    x |= {"full_logp": 2 * x["logp"], "reward": rng.normal(size=SHAPE), "token_logp": -rng.random((*SHAPE, 5))}
    facts |= {"full_length": rng.integers(9, 20, SHAPE), "ref_token_logp": -rng.random((4, 2, 5))}
    told = {name: v.astype(dtype) for name, v in facts.items()}
    told["mask"] = (np.arange(5) > 0) & (np.arange(5) <= rng.integers(1, 5, (4, 2, 1)))
    return {name: v.astype(dtype) for name, v in x.items()}, told


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_value_and_shape(name, dtype):
    score, formula = SCORES[name]
    x, facts = numbers(dtype)
    s, back = score.fn(x, facts)
    np.testing.assert_allclose(s, formula(x, facts), rtol=4 * np.finfo(dtype).eps, atol=16 * np.finfo(dtype).eps)
    grads = back(np.ones_like(s))
    assert set(grads) == set(score.reads)
    assert {g.dtype for g in grads.values()} == {s.dtype} == {np.dtype(dtype)}
    assert {key: g.shape for key, g in grads.items()} == {key: x[key].shape for key in score.reads}


def test_shared_tokens_are_counted_wherever_they_stand():
    """Three and two tokens: the third of the first counts 0.7, though their places differ."""
    mask = np.array([[[False, True, True, False, True], [True, False, False, True, False]]])
    x, facts = {"token_logp": np.ones((1, 2, 5))}, {"ref_token_logp": np.zeros((1, 2, 5)), "mask": mask}
    s, back = shared_length(0.7, True).fn(x, facts)
    np.testing.assert_allclose(s, [[2.7, 2]], rtol=2 * np.finfo(float).eps)
    np.testing.assert_array_equal(back(np.ones((1, 2)))["token_logp"], [[[0, 1, 1, 0, 0.7], [1, 0, 0, 1, 0]]])


@pytest.mark.parametrize("name", ["shared_length", "half weighted"])
def test_a_mask_may_be_numbers_and_tokens_that_do_not_count_anything(name):
    score, formula = SCORES[name]
    x, facts = numbers()
    expected, told = formula(x, facts), np.where(facts["mask"], x["token_logp"], np.nan)
    mask = facts["mask"].astype(float)
    for dtype in (bool, float):
        s, back = score.fn({"token_logp": told}, {**facts, "mask": mask.astype(dtype)})
        np.testing.assert_allclose(s, expected, rtol=4 * np.finfo(float).eps, atol=16 * np.finfo(float).eps)
        assert (back(np.ones_like(s))["token_logp"] * (1 - mask) == 0).all()


@pytest.mark.parametrize("name", [name for name in SCORES if name != "stopped"])
def test_pullback(name):
    score, _ = SCORES[name]
    x, facts = numbers()
    read = {key: x[key] for key in score.reads}
    rng = np.random.default_rng(1)
    ds = rng.normal(size=SHAPE)
    grads = score.fn(read, facts)[1](ds)
    check = check_gradient(lambda p: (ds * score.fn(p, facts)[0]).sum(), read, grads, rng, complex_step)
    assert check.units < 4  # linear: a product and a division, each rounded


def test_nothing_flows_into_the_stopped_kl():
    x, facts = numbers()
    ds = np.random.default_rng(2).normal(size=SHAPE)
    grads = sequential_kl(0.7, stop=True).fn(x, facts)[1](ds)
    np.testing.assert_array_equal(grads["logp"], ds)
    assert not grads["kl"][..., 0].any()
    np.testing.assert_array_equal(grads["kl"][..., 1], ds[..., 1] * 0.7)


@pytest.mark.parametrize("name", SCORES)
def test_declares_what_it_needs(name):
    """It runs with what it reads and needs, and not without any one of them."""
    score, _ = SCORES[name]
    x, facts = numbers()
    read, told = {k: x[k] for k in score.reads}, {k: facts[k] for k in score.needs}
    score.fn(read, told)
    for key in score.reads:
        with pytest.raises(KeyError):
            score.fn({k: v for k, v in read.items() if k != key}, told)
    for key in score.needs:
        with pytest.raises(KeyError):
            score.fn(read, {k: v for k, v in told.items() if k != key})


def test_everything_public_is_tested_here():
    assert set(scores.__all__) - {"Score"} <= set(globals())
