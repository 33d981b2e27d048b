"""Three pairs: each claim can fail, and its numbers are those of an n-gram trained alone, and of fractions."""

from dataclasses import replace
from fractions import Fraction
from itertools import repeat

import numpy as np
import pytest
from numpy.testing import assert_allclose

import dpo_numpy as dn
from dpo_numpy.gradient import read
from toy_models import NGram
from toy_models.experiments import predict_three_pairs
from toy_models.experiments._config import streams
from toy_models.experiments.predict_three_pairs import BY_HAND, NAMED, Config

SMALL = Config(replicates=5, steps=(1, 30), letters=2, longest=4, lr=0.3, beta=0.2)


def put(result, key, row, value):
    changed = np.array(result[key], copy=True)
    changed[row] = value
    return {**result, key: changed}


#: the beginning of a claim's name; what is put in the place of a measurement
BROKEN = {
    "G is all": lambda r: {**r, "order": np.array(1.0)},
    "after the first step chosen": lambda r: put(r, "chosen", (np.s_[:30], 0), 2 / 3),
    "after the first step rejected": lambda r: put(r, "rejected", (np.s_[:30], 0), 2 / 3),
    "but after the last": lambda r: put(r, "chosen", np.s_[:, -1], r["chosen"][::-1, 0]),
    "while most": lambda r: put(r, "rejected", (np.s_[:150], -1), 2 / 3),
    "that every chosen rises": lambda r: put(r, "rises", np.s_[:, 0], r["chosen"][:, 0]),
    "and a worse one of the last": lambda r: put(r, "rises", np.s_[:, -1], r["chosen"][:, -1]),
    "G held fixed": lambda r: put(r, "kernel", np.s_[:, -1], 1.0),
    "what is sure": lambda r: put(r, "widens", (np.s_[:30], -1), 2 / 3),
    "but not at the first": lambda r: put(r, "widens", np.s_[:, 0], 1.0),
    "no problem": lambda r: put(r, "loss_change", 0, 0.1),
    "the named problem": lambda r: put(r, "named_predicted", (0, 0), 1.001 * r["named_predicted"][0, 0]),
    "there the first": lambda r: put(r, "named_change", (0, 0, 0), 0.0),
    "and in the end": lambda r: put(r, "named_change", (-1, 2, 0), 0.1),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail_alone(name, result):
    found = predict_three_pairs.claims(BROKEN[name](result))
    assert [key.startswith(name) for key, claim in found.items() if not claim.holds] == [True]


def test_there_is_a_way_to_break_every_claim(result):
    found = predict_three_pairs.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


def alone(config, problem):
    """The n-gram of one problem, its pairs, and the change of its log-probs after each of the config's steps"""
    W, ys = predict_three_pairs._drawn(config, streams(config.seed, problem + 1)[problem])
    policy, params = NGram(vocab=config.letters + 1), {"W": W}
    pairs = dn.Preferences.of([[0]] * 3, ys[::2], ys[1::2]).with_reference(policy, params)
    every = pairs.index.ravel()

    def logp(params):
        return read(policy, params, pairs.responses, every, ["logp"])[0]["logp"].reshape(3, 2)

    way = dn.train(policy, params, repeat(pairs, max(config.steps)), dn.LOSSES["dpo"](beta=config.beta),
                   dn.sgd(config.lr))
    changes = [logp(step.params) - logp(params) for t, step in enumerate(way, 1) if t in config.steps]
    return policy, params, pairs, np.array(changes)


@pytest.mark.parametrize("problem", [0, 4])
def test_problems_side_by_side_are_n_grams_trained_alone(problem):
    small = predict_three_pairs.run(SMALL)
    policy, params, pairs, changes = alone(SMALL, problem)
    assert_allclose(small["change"][:, problem], changes, rtol=0, atol=1e-12)
    _, grad = dn.value_and_grad(policy, params, pairs, dn.LOSSES["dpo"](beta=SMALL.beta))
    scores = dn.scores_matrix(policy, params, pairs.responses, pairs.index.ravel())
    assert_allclose(small["predicted"][problem].ravel(), -SMALL.lr * scores @ grad["W"].ravel(), rtol=0, atol=1e-13)


def test_the_named_problem_in_fractions():
    """Of a uniform bigram over four outcomes each visit of a context subtracts 1/4 from every outcome"""
    def score(y):
        found, context = {}, "."
        for x in y + ".":
            for v in ".abc":
                found[context, v] = found.get((context, v), 0) + Fraction(v == x) - Fraction(1, 4)
            context = x
        return found

    def product(y, z):
        one, other = score(y), score(z)
        return sum(value * other.get(key, 0) for key, value in one.items())

    for k, ys in enumerate(NAMED):
        for p, y in enumerate(ys):
            change = sum(product(y, up) - product(y, down) for up, down in zip(*NAMED, strict=True))
            assert float(change) == BY_HAND[p, k]


def test_g_held_fixed_is_a_linear_model_trained():
    """Features are scores: log-ratios S θ, by a loop over pairs"""
    config = replace(SMALL, steps=(1, 7))
    small = predict_three_pairs.run(config)
    policy, params, pairs, changes = alone(config, 2)
    S = dn.scores_matrix(policy, params, pairs.responses, pairs.index.ravel()).reshape(3, 2, -1)
    theta = np.zeros(S.shape[-1])
    for _ in range(7):
        step = np.zeros(len(theta))
        for up, down in S:
            step += config.beta / 3 * (up - down) / (1 + np.exp(config.beta * (up - down) @ theta))
        theta += config.lr * step
    agree = np.sign(S[:, 0] @ theta) == np.sign(changes[-1, :, 0])
    assert small["kernel"][2, -1] == agree.mean()
    kernel = predict_three_pairs._held_fixed(*_problems(config), config)
    assert_allclose(kernel[-1, 2], S @ theta, rtol=0, atol=1e-12)


def _problems(config):
    draws = [predict_three_pairs._drawn(config, rng) for rng in streams(config.seed, config.replicates)]
    problems = predict_three_pairs._Problems([ys for _, ys in draws], config.letters + 1)
    return problems, np.stack([W for W, _ in draws])


def test_shares_are_those_of_a_loop(result):
    for k in (0, 3):
        for r in (0, 17, 123):
            pairs = list(zip(result["change"][k, r], result["predicted"][r], strict=True))
            for name, right in (("chosen", [c[0] * p[0] > 0 for c, p in pairs]),
                                ("rises", [c[0] > 0 for c, _ in pairs]),
                                ("rejected", [c[1] * p[1] > 0 for c, p in pairs]),
                                ("widens", [c[0] > c[1] for c, _ in pairs])):
                assert result[name][r, k] == pytest.approx(np.mean(right), abs=1e-15)
    assert result["chosen_right"] == result["chosen"][:, -1].mean()
    assert result["naive_right"] == result["rises"][:, -1].mean()
    assert result["rejected_right"] == result["rejected"][:, -1].mean()
    assert result["widened"] == result["widens"][:, -1].mean()


def near_theirs(share, theirs):
    """Within three standard errors of the difference from 900 signs of other problems"""
    theirs = np.array(theirs)
    error = np.hypot(predict_three_pairs._error(share), np.sqrt(theirs * (1 - theirs) / 900))
    assert (abs(share.mean(axis=0) - theirs) < 3 * error).all()


def test_signs_agree_as_often_as_in_three_hundred_other_problems(result):
    near_theirs(result["chosen"], [0.999, 0.991, 0.934, 0.796])
    near_theirs(result["rejected"], [0.999, 0.989, 0.943, 0.923])
    near_theirs(result["rises"][:, :1], [0.898])


@pytest.mark.slow
def test_signs_agree_as_often_after_three_thousand_steps():
    longer = predict_three_pairs.run(Config(steps=(1, 3000)))
    near_theirs(longer["chosen"], [0.999, 0.736])
    near_theirs(longer["rejected"], [0.999, 0.921])
    assert longer["naive_right"] < longer["chosen_right"] < 0.8


def test_other_settings():
    small = predict_three_pairs.run(SMALL)
    assert small["start"].shape == (5, 3, 3) and small["change"].shape == (2, 5, 3, 2)
    assert small["chosen"].shape == (5, 2) and small["named_change"].shape == (30, 3, 2)
    assert small["chosen_right"] == small["chosen"][:, -1].mean()
    found = predict_three_pairs.claims(small)
    assert found["the named problem is predicted by hand: max |difference| in units of ηβ/6"].holds
    one = predict_three_pairs.claims(predict_three_pairs.run(replace(SMALL, steps=(1,), replicates=2)))
    assert not one["but after the last fewer chosen do: how much fewer, in standard errors"].evaluated


def test_a_problem_knows_its_seed_and_number_alone():
    few, more = (predict_three_pairs.run(replace(SMALL, replicates=n, steps=(1,))) for n in (2, 4))
    assert_allclose(more["change"][:, :2], few["change"], rtol=0, atol=1e-13)


def test_a_policy_that_reads_whole_responses_says_so(rng):
    problems = predict_three_pairs._Problems([[[1, 0], [2, 0], [1, 1, 0], [2, 1, 0], [0], [2, 2, 0]]], 3)
    assert problems.init(rng)["W"].shape == (1, 3, 3)
    with pytest.raises(NotImplementedError, match="whole responses alone are read"):
        problems.logits({}, np.zeros((1, 1)))


@pytest.mark.parametrize(("setting", "message"), [
    ({"beta": 0.0}, "beta is 0.0; expected a finite number above 0"),
    ({"lr": -0.1}, "lr is -0.1; expected a finite number above 0"),
    ({"steps": (10, 1)}, r"steps is \(10, 1\); expected each larger than the one before"),
    ({"letters": 2, "longest": 2}, "letters is 2 and longest is 2; expected more strings than the six of a problem"),
    ({"replicates": 1}, "replicates is 1; expected a whole number, at least 2"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)
