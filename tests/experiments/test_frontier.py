"""The frontier: each claim can fail, and its numbers are those of optimizers, quadrature and plain sums."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import softmax
from scipy.stats import norm

from analytic import optimum, temperature
from toy_models.experiments import frontier
from toy_models.experiments.frontier import LOSSES, PRINTED, Config

SMALL = Config(replicates=2, responses=3, betas=(1.0, 0.5), steps=60, policies=20, n=(3,), labels=10)


def replaced(result, key, row, value):
    changed = np.array(result[key], copy=True)
    changed[row] = value
    return {**result, key: changed}


def at(result, *beginnings):
    return np.s_[:, [k for k, name in enumerate(result["learner"].tolist()) if name.startswith(beginnings)]]


#: the beginning of a claim's name; what is put in the place of a measurement
BROKEN = {
    "dE r/dKL is": lambda r: replaced(r, "slope", (0, 0), 1.001),
    "dJ*/dβ is": lambda r: replaced(r, "fall", (0, 0), 1.001),
    "every learner is": lambda r: replaced(r, "tangent", (0, 3), 1e-6),
    "no learner is": lambda r: replaced(r, "ends_gap", (0, -1), -1e-6),
    "no random policy": lambda r: replaced(r, "random_gap", (0, 3), -1e-6),
    "who is told all": lambda r: replaced(r, "ends_gap", (0, 0), 1e-6),
    "but halfway": lambda r: replaced(r, "ends_gap", at(r, "½ π_ref + ½"), 1e-6),
    "but DPO of few": lambda r: replaced(r, "ends_gap", at(r, "DPO, labels"), 1e-6),
    "but clones": lambda r: replaced(r, "ends_gap", at(r, "best of 4"), 1e-6),
    "but other losses": lambda r: replaced(r, "ends_gap", at(r, "hinge"), 1e-8),
    "but DPO of every pair": lambda r: {**r, "path_gap": 0 * r["path_gap"]},
    "β -> 0": lambda r: replaced(r, "greedy", (0, 1), 1e-6),
    "β -> ∞": lambda r: replaced(r, "faint", 0, 1.1),
    "normal rewards: E r": lambda r: replaced(r, "normal", 0, 1.001),
    "normal rewards: best": lambda r: replaced(r, "best_of_n_gap", 0, 0.06),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail_alone(name, result):
    found = frontier.claims(BROKEN[name](result))
    assert [key.startswith(name) for key, claim in found.items() if not claim.holds] == [True]


def test_there_is_a_way_to_break_every_claim(result):
    found = frontier.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


def test_an_optimizer_that_knows_no_tilt_finds_no_more_reward_at_a_learners_kl(result):
    """max E r subject to KL <= that of DPO of labels, by SLSQP over logits"""
    ref, r = result["ref"][0], result["rewards"][0]
    k = result["learner"].tolist().index("DPO, labels")
    kl = result["ends_kl"][0, k]
    room = {"type": "ineq", "fun": lambda x: kl - softmax(x) @ np.log(softmax(x) / ref)}
    found = minimize(lambda x: -softmax(x) @ r, np.log(ref), method="SLSQP", constraints=[room],
                     options={"ftol": 1e-13, "maxiter": 500})
    assert -found.fun - result["ends_reward"][0, k] == pytest.approx(result["ends_gap"][0, k], abs=1e-5)


def test_told_every_pair_dpo_ends_at_the_boltzmann_policy_of_its_beta(result):
    for k, beta in enumerate(result["betas"]):
        weight = result["ref"] * np.exp(result["rewards"] / beta)
        pi = weight / weight.sum(axis=1, keepdims=True)
        assert_allclose(result["ends_reward"][:, k], (pi * result["rewards"]).sum(axis=1), rtol=0, atol=1e-9)
        assert_allclose(result["ends_kl"][:, k], (pi * np.log(pi / result["ref"])).sum(axis=1), rtol=0, atol=1e-9)


def test_clones_of_chosen_responses_by_a_sum_over_pairs(result):
    ref, r = result["ref"][2], result["rewards"][2]
    pi = np.zeros(len(ref))
    for i, p in enumerate(ref):
        for j, q in enumerate(ref):
            pi[i] += 2 * p * q / (1 + np.exp(r[j] - r[i]))
    assert result["ends_reward"][at(result, "SFT on")][2, 0] == pytest.approx(pi @ r, abs=1e-12)


@pytest.mark.parametrize("n", PRINTED)
def test_best_of_n_of_normal_rewards_by_quadrature(result, n):
    kl = np.log(n) - (n - 1) / n
    mean = quad(lambda x: n * x * norm.pdf(x) * norm.cdf(x) ** (n - 1), -10, 12)[0]
    k = result["best_of_n"].tolist().index(n)
    assert result["best_of_n_kl"][k] == pytest.approx(kl, abs=1e-5)
    assert result["best_of_n_gap"][k] == pytest.approx(np.sqrt(2 * kl) - mean, abs=1e-5)
    assert PRINTED[n] == pytest.approx(np.sqrt(2 * kl) - mean, abs=5.1e-5)


def test_of_two_responses_whoever_prefers_the_better_is_on_the_frontier():
    """A policy of two responses is one number: the twin of all the claims that begin with but"""
    ref, r = np.array([0.7, 0.3]), np.array([0.0, 1.0])
    for p in (0.31, 0.6, 0.95):
        pi = np.array([1 - p, p])
        assert temperature.frontier(ref, r, optimum.kl(pi, ref)).reward == pytest.approx(pi @ r, abs=1e-9)


def test_scalars_are_those_of_dpo_of_labels(result):
    k = result["learner"].tolist().index("DPO, labels")
    for name in ("reward", "kl", "gap"):
        assert result[name] == result[f"ends_{name}"][:, k].mean()
    beta, r, ref = result["beta"], result["rewards"], result["ref"]
    pi = ref * np.exp(r / beta) / (ref * np.exp(r / beta)).sum(axis=1, keepdims=True)
    assert result["optimum_reward"] == pytest.approx((pi * r).sum(axis=1).mean(), abs=1e-12)
    assert result["optimum_kl"] == pytest.approx((pi * np.log(pi / ref)).sum(axis=1).mean(), abs=1e-12)


def test_other_settings():
    small = frontier.run(SMALL)
    assert small["ends_gap"].shape == (2, 8 + len(LOSSES)) and small["slope"].shape == (2, 2)
    assert small["random_gap"].shape == (2, 20) and small["ends_gap"].min() > -1e-9
    more = frontier.run(Config(**{**vars(SMALL), "labels": 100_000, "steps": 400, "replicates": 1}))
    assert more["gap"] < 1e-3 < small["gap"]
    assert more["kl"] == pytest.approx(more["optimum_kl"], rel=0.1)


def test_a_world_knows_its_seed_and_number_alone():
    few, more = (frontier.run(Config(**{**vars(SMALL), "replicates": n, "steps": 10})) for n in (1, 3))
    assert (few["rewards"][0] == more["rewards"][0]).all()
    k = few["learner"].tolist().index("DPO, labels")
    assert few["ends_kl"][0, k] == pytest.approx(more["ends_kl"][0, k], rel=1e-9)


@pytest.mark.parametrize(("setting", "message"), [
    ({"beta": -1.0}, "beta is -1.0; expected a finite number above 0"),
    ({"betas": (1.0, 0.0)}, "betas holds 0.0; expected a finite number above 0"),
    ({"responses": 2}, "responses is 2; expected a whole number, at least 3"),
    ({"n": (1,)}, "n holds 1; expected a whole number, at least 2"),
    ({"labels": 0}, "labels is 0; expected a whole number, at least 1"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)
