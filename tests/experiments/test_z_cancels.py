"""Z cancels: each claim can fail, and its numbers are those of sums and optimizers that do not know the theory."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import expit, log_expit, log_softmax, softmax

import dpo_numpy as dn
from toy_models.experiments import z_cancels
from toy_models.experiments.z_cancels import BETAS, OF_MARGIN, OF_MORE, REWARD, Config

SMALL = Config(replicates=2, beta=2.0, responses=2, prompts=3, policies=2)


def replaced(result, key, row, value):
    changed = np.array(result[key], copy=True)
    changed[row] = value
    return {**result, key: changed}


#: the beginning of a claim's name; what is put in the place of a measurement
BROKEN = {
    "π* of r = (1, 0, -1)": lambda r: {**r, "printed": r["printed"] + 1e-7},
    "log Z of it:": lambda r: {**r, "printed_log_z": r["printed_log_z"] + 1e-9},
    "J(π) = β log Z": lambda r: replaced(r, "duality", 3, 1e-9),
    "so that no policy": lambda r: replaced(r, "regret", 3, -1e-9),
    "r = β log π*/π_ref": lambda r: replaced(r, "implied", 3, 1e-9),
    "r + c(x) has": lambda r: {**r, "moved": np.array(1e-9)},
    "log Z of r + c(x)": lambda r: {**r, "log_z_moved": np.array(1e-9)},
    "the pairs cannot tell": lambda r: {**r, "retrained": np.array(1e-6)},
    "trained DPO": lambda r: {**r, "apart": np.array(1e-6)},
    "what r has beyond": lambda r: {**r, "hidden": np.array(1e-6)},
    "a loss of the margin": lambda r: replaced(r, "change", 0, 1e-6),
    "but a loss that sees more": lambda r: replaced(r, "change", -1, 0.0),
    "a pair across": lambda r: replaced(r, "across", (3, 0), 7.0),
    "which is not 0": lambda r: {**r, "across": 0 * r["across"]},
    "but a pair of one prompt": lambda r: replaced(r, "within", 3, 1e-9),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail_alone(name, result):
    found = z_cancels.claims(BROKEN[name](result))
    assert [key.startswith(name) for key, claim in found.items() if not claim.holds] == [True]


def test_there_is_a_way_to_break_every_claim(result):
    found = z_cancels.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


def test_the_optimum_is_where_an_optimizer_finds_the_objective_largest(result):
    for pi, log_z, beta in zip(result["printed"], result["printed_log_z"], BETAS, strict=True):
        found = minimize(lambda x, beta=beta: -softmax(x) @ (REWARD - beta * (log_softmax(x) + np.log(3))), np.zeros(3),
                         method="BFGS", options={"gtol": 1e-10})
        assert_allclose(softmax(found.x), pi, rtol=0, atol=1e-7)
        assert -found.fun == pytest.approx(beta * log_z, abs=1e-10)


def test_what_dpo_learned_is_where_an_optimizer_finds_its_loss_least(result):
    beta, r, ref = result["beta"], result["reward"][3, 1], result["ref"][3, 1]
    P = expit(r[:, None] - r)

    def loss(x):
        u = log_softmax(x) - np.log(ref)
        return -(P * log_expit(beta * (u[:, None] - u))).sum()

    found = minimize(loss, np.log(ref), method="BFGS", options={"gtol": 1e-9})
    assert_allclose(softmax(found.x), result["trained"][3, 1], rtol=0, atol=1e-5)


def test_scalars_are_means_of_plain_sums(result):
    beta, value, kl, expected = result["beta"], [], [], []
    for r, ref in zip(result["reward"].reshape(-1, 5), result["ref"].reshape(-1, 5), strict=True):
        weight = [p * np.exp(x / beta) for p, x in zip(ref, r, strict=True)]
        pi = np.array(weight) / sum(weight)
        value.append(beta * np.log(sum(weight)))
        kl.append(sum(p * np.log(p / q) for p, q in zip(pi, ref, strict=True)))
        expected.append(sum(pi * r))
    assert_allclose([result["value"], result["kl"], result["expected"]], np.mean([value, kl, expected], axis=1),
                    rtol=1e-12)
    assert result["value"] == pytest.approx(result["expected"] - beta * result["kl"], rel=1e-12)


def test_whether_a_loss_is_of_the_margin_is_what_its_gradient_says(rng):
    """Of h alone: what it asks of the chosen it asks of the rejected, with the other sign"""
    logp, ref_logp = rng.normal(-5, 1, size=(2, 6, 2))
    for name in (*OF_MARGIN, *OF_MORE):
        if name == "kto":
            continue
        grad = dn.LOSSES[name]()(logp, ref_logp, rng.integers(2, 9, size=(6, 2)))[1]
        assert (abs(grad.sum(axis=1)).max() < 1e-12) == (name in OF_MARGIN), name


def test_two_prompts_are_apart_by_their_own_log_z(result):
    r, pi, ref, beta = (result[name] for name in ("reward", "best", "ref", "beta"))
    for k in range(3):
        gap = r[k, 0, 0] - r[k, 1, 0]
        margin = beta * (np.log(pi[k, 0, 0] / ref[k, 0, 0]) - np.log(pi[k, 1, 0] / ref[k, 1, 0]))
        assert result["across"][k, 0] == pytest.approx(gap - margin, abs=1e-12)


def test_other_settings(result):
    small = z_cancels.run(SMALL)
    assert small["learned"].shape == (2, 3, 2) and small["duality"].shape == (2,)
    assert small["kl"] < result["kl"] / 4  # β is four times as large
    assert not [name for name, claim in z_cancels.claims(small).items() if not claim.holds]
    short = z_cancels.claims(z_cancels.run(Config(replicates=1, steps=3)))
    assert [name[:11] for name, claim in short.items() if not claim.holds] == ["trained DPO", "what r has "]


def test_a_world_knows_its_seed_and_number_alone():
    few, more = (z_cancels.run(Config(replicates=n, steps=1)) for n in (1, 3))
    assert (more["reward"][0] == few["reward"][0]).all() and (more["reward"][1] != few["reward"][0]).all()


@pytest.mark.parametrize(("setting", "message"), [
    ({"beta": 0.0}, "beta is 0.0; expected a finite number above 0"),
    ({"shift": -1.0}, "shift is -1.0; expected a finite number above 0"),
    ({"responses": 1}, "responses is 1; expected a whole number, at least 2"),
    ({"prompts": 1}, "prompts is 1; expected a whole number, at least 2"),
    ({"replicates": 0}, "replicates is 0; expected a whole number, at least 1"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)
