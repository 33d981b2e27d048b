"""Certain labels: the claims can fail, the ends are those of other computations."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_expit, logit, softmax

from analytic import population
from toy_models.experiments import certain_labels
from toy_models.experiments._config import streams
from toy_models.experiments._fits import draw
from toy_models.experiments.certain_labels import Config

SMALL = Config(ref=0.6, betas=(1.0,), beta=1.0, tau=0.5, eps=0.2, p=0.7, steps=200, reward=(0.5, 0.0, -0.5), labels=9,
               replicates=6, seed=4)


@pytest.fixture(scope="module")
def small():
    return certain_labels.run(SMALL)


def changed(result, key, at, value):
    x = np.array(result[key], copy=True)
    x[at] = value
    return {**result, key: x}


def row(result, name):
    found, = np.flatnonzero(result["loss"] == name)
    return found


#: the beginning of a claim; what is put in the place of a measurement
BROKEN = {
    "DPO's margin is": lambda r: changed(r, "gap", (1, 100), r["gap"][1, 100] + 0.1),
    "it grows like log t": lambda r: {**r, "gap": np.concatenate([1.1 * r["gap"][:1], r["gap"][1:]]),
                                      "predicted": np.concatenate([1.1 * r["predicted"][:1], r["predicted"][1:]])},
    "no β keeps": lambda r: changed(r, "chosen", (2, -1), 0.9),
    "where labels are not certain": lambda r: changed(r, "uncertain", ..., 0.7),
    "IPO stops": lambda r: changed(r, "gap", (row(r, "IPO"), -1), 2.1),
    "cDPO stops": lambda r: changed(r, "gap", (row(r, "cDPO"), -1), 4.3),
    "rDPO does not stop": lambda r: changed(r, "slope", (), 0.06),
    "but it does where labels are less sure": lambda r: changed(r, "rdpo_fit", (), 1.9),
    "a certain pair on a branch": lambda r: changed(r, "among_margin", (-1, 0), 4.0),
    "a certain pair on a cycle of wins": lambda r: changed(r, "among_margin", (-1, 1), 1.5),
    "(a, b), (b, a) as printed": lambda r: changed(r, "printed", (), 1e-3),
    "with (a, c) DPO": lambda r: changed(r, "third", (-1, 0), 0.1),
    "and IPO keeps": lambda r: changed(r, "third_ipo", (-1, 0), 0.0),
    "few labels: stopped early": lambda r: {**r, "stopped_regret": np.full_like(r["stopped_regret"], 0.2)},
    "the optima of IPO and cDPO": lambda r: {**r, "cdpo_regret": 2 * r["cdpo_regret"]},
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail_by_itself(name, result):
    found = certain_labels.claims(BROKEN[name](result))
    failed, = (sentence for sentence, claim in found.items() if not claim.holds)
    assert failed.startswith(name)


def test_there_is_a_way_to_break_every_claim(result):
    found = certain_labels.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


def test_gradient_flow_is_an_initial_value_problem(result):
    k = row(result, "DPO, β = 0.5")
    ends = result["time"][k][[50, 150]]
    h = solve_ivp(lambda t, h: 2 * 0.5 * expit(-0.5 * h), (0, ends[-1]), [0.0], t_eval=ends, rtol=1e-9, atol=1e-9).y[0]
    assert_allclose(result["predicted"][k][[50, 150]], h, rtol=1e-6)
    assert_allclose(result["gap"][k][[50, 150]], h, rtol=0.02)


@pytest.mark.parametrize(("name", "slope"), [
    ("IPO", lambda h: -4 * (h - 2.0)),
    ("cDPO", lambda h: 2 * 0.5 * (0.9 - expit(0.5 * h))),
])
def test_so_is_that_of_others(name, slope, result):
    """Descent is behind or ahead by about half of its last step"""
    k = row(result, name)
    ends = result["time"][k][[5, 20]]
    h = solve_ivp(lambda t, h: slope(h), (0, ends[-1]), [0.0], t_eval=ends, rtol=1e-9, atol=1e-9).y[0]
    assert_allclose(result["predicted"][k][[5, 20]], h, rtol=1e-6)
    assert_allclose(result["gap"][k][[5, 20]], h, rtol=0.1)


def test_the_policy_starts_at_the_reference(result):
    assert_allclose(result["chosen"][:, 0], 0.3, rtol=1e-12)
    assert_allclose(result["chosen"][1, -1], 0.3 / (0.3 + 0.7 * np.exp(-result["gap"][1, -1])), rtol=1e-12)


def test_ends_are_where_the_losses_printed_are_least(small):
    eps, tau = SMALL.eps, SMALL.tau
    cdpo = minimize_scalar(lambda h: -(1 - eps) * log_expit(h) - eps * log_expit(-h), bracket=(0, 1), tol=1e-10).x
    ipo = minimize_scalar(lambda h: (h - 1 / (2 * tau)) ** 2, bracket=(0, 1), tol=1e-10).x
    p = SMALL.p
    rdpo = minimize_scalar(lambda h: -(((1 - eps) * p - eps * (1 - p)) * log_expit(h)
                                       + ((1 - eps) * (1 - p) - eps * p) * log_expit(-h)), bracket=(0, 1), tol=1e-10).x
    assert small["gap"][row(small, "cDPO"), -1] == pytest.approx(cdpo, abs=1e-6)
    assert small["gap"][row(small, "IPO"), -1] == pytest.approx(ipo, abs=1e-6)
    assert small["rdpo_fit"] == pytest.approx(rdpo, abs=1e-6)
    assert small["rdpo_fit"] == pytest.approx(logit((p - eps) / (1 - 2 * eps)), abs=1e-6)


def test_ipo_of_the_paper_s_example_with_one_loss_more():
    """τ = 1: (0.38365, 0.38365, 0.2327)"""
    found = certain_labels.run(Config(tau=1.0, steps=200, replicates=1))
    assert_allclose(found["kept"], [0.38365, 0.38365, 0.2327], rtol=0, atol=5e-6)
    assert found["third_ipo"][-1, 0] == pytest.approx(0.2327, abs=5e-6)


def test_a_certain_pair_on_a_cycle_by_scipy(result):
    wins = np.array([[0, 1, 0.6], [0, 0, 0.7], [0.4, 0.3, 0]])
    x = minimize(lambda x: -(wins * log_expit(x[:, None] - x)).sum(), np.zeros(3), options={"gtol": 1e-9}).x
    assert result["cycle_fit"] == pytest.approx(x[0] - x[1], abs=1e-6)


def test_regret_on_the_way_is_that_of_a_naive_descent(small):
    """The same data set, a loop over its pairs"""
    r = np.array(SMALL.reward)
    wins = draw(population.bradley_terry_wins(r), 9, streams(4, 6))[2] / 9
    u, path = np.zeros(3), []
    for k in range(120):
        path.append(u)
        slope = np.zeros(3)
        for i, j in np.argwhere(wins):
            pull = wins[i, j] * expit(u[j] - u[i])
            slope[i], slope[j] = slope[i] - pull, slope[j] + pull
        u = u - min(0.02 * 1.03**k, 3.0) * slope
    best = softmax(r)
    lost = [float(p @ (np.log(p) - np.log(best))) for p in map(softmax, path)]
    assert_allclose(small["stopped_regret"][2, :120], lost, rtol=1e-8, atol=1e-12)


def test_ipo_and_cdpo_are_at_their_least_loss(small):
    r = np.array(SMALL.reward)
    data = draw(population.bradley_terry_wins(r), 9, streams(4, 6))[1]
    best = softmax(r)

    def regret(loss):
        x = minimize(lambda x: loss(x[:, None] - x), np.zeros(3), options={"gtol": 1e-9}).x
        p = softmax(x)
        return float(p @ (np.log(p) - np.log(best)))

    smooth = 0.8 * data + 0.2 * data.T
    assert small["cdpo_regret"][1] == pytest.approx(regret(lambda m: -(smooth * log_expit(m)).sum()), abs=1e-6)
    assert small["ipo_regret"][1] == pytest.approx(regret(lambda h: (data * (h - 2) ** 2).sum()), abs=1e-6)


def test_labels_that_are_surer_than_flips_can_be_have_no_end():
    found = certain_labels.run(Config(p=0.95, steps=30, replicates=1))
    assert found["rdpo_p"] == np.inf
    claims = certain_labels.claims(found)
    assert not claims["but it does where labels are less sure than 1-ε, at logit((p-ε)/(1-2ε)): m"].holds


def test_too_few_labels_to_connect_all_leave_ipo_and_cdpo_none():
    found = certain_labels.run(Config(labels=1, steps=30, replicates=3))
    assert np.isnan(found["ipo_regret"]).all() and np.isnan(found["cdpo_regret"]).all()
    assert found["without_fit"] == 1
    assert not certain_labels.claims(found)["the optima of IPO and cDPO are better than that end: its regret over the "
                                            "larger of theirs"].evaluated


@pytest.mark.parametrize(("setting", "message"), [
    ({"ref": 1.0}, "ref is 1.0; expected at least 0 and below 1"),
    ({"eps": 0.5}, "eps is 0.5; expected a finite number above 0 and below 0.5"),
    ({"steps": 3}, "steps is 3; expected a whole number, at least 20"),
    ({"reward": (1.0,)}, "reward has 1 number; expected at least 2"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)
