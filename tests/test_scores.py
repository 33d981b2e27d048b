import numpy as np
import pytest

from dpo_numpy import scores
from dpo_numpy.check import check_gradient, complex_step
from dpo_numpy.scores import log_prob, log_ratio, mean, sequential_kl

SHAPE = (3, 4, 2)
SCORES = {
    "log_prob": (log_prob, lambda x, f: x["logp"]),
    "log_ratio": (log_ratio, lambda x, f: x["logp"] - f["ref_logp"]),
    "mean log_prob": (mean(log_prob), lambda x, f: x["logp"] / f["length"]),
    "mean log_ratio": (mean(log_ratio), lambda x, f: (x["logp"] - f["ref_logp"]) / f["length"]),
    "sequential_kl": (sequential_kl(0.7, stop=False), lambda x, f: x["logp"] - f["ref_logp"] + 0.7 * x["kl"]),
    "stopped": (sequential_kl(0.7, stop=True), lambda x, f: x["logp"] - f["ref_logp"] + 0.7 * x["kl"]),
}


def numbers(dtype=float):
    rng = np.random.default_rng(0)
    x = {"logp": -10 * rng.random(SHAPE), "kl": rng.random(SHAPE)}
    facts = {"ref_logp": -10 * rng.random(SHAPE), "length": rng.integers(1, 9, SHAPE)}
    return ({name: v.astype(dtype) for name, v in x.items()}, {name: v.astype(dtype) for name, v in facts.items()})


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_value_and_shape(name, dtype):
    score, formula = SCORES[name]
    x, facts = numbers(dtype)
    s, back = score.fn(x, facts)
    np.testing.assert_allclose(s, formula(x, facts), rtol=4 * np.finfo(dtype).eps)
    grads = back(np.ones_like(s))
    assert set(grads) == set(score.reads)
    assert {g.dtype for g in grads.values()} == {s.dtype} == {np.dtype(dtype)}
    assert {g.shape for g in grads.values()} == {SHAPE}


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
