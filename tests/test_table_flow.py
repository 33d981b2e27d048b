"""Gradient flow of tables: its curvature by differences, its way by plain descent, its end by SciPy."""

from itertools import islice, repeat

import numpy as np
import pytest
from scipy.optimize import linprog, minimize
from scipy.special import log_softmax, softmax

import dpo_numpy as dn
from analytic import flow, optimum, population
from analytic import minimizers as closed
from toy_models import Tabular, bandit
from toy_models.experiments._table_flow import Problems, of_pairs, of_singles, train

K = 4
REWARD, LENGTH = np.array([1.0, 0.3, -0.2, -0.8]), np.array([2.0, 1.0, 4.0, 3.0])
REF = np.array([0.1, 0.2, 0.3, 0.4])
WINS = population.bradley_terry_wins(REWARD)
CERTAIN = (REWARD[:, None] > REWARD) / 6


def given(wins=WINS, told=REF):
    return Problems(np.asarray(wins), np.log(told), REF, REWARD, LENGTH)


LOSSES = {
    "dpo": dn.LOSSES["dpo"](beta=0.5), "r_dpo": dn.LOSSES["r_dpo"](beta=0.5, alpha=0.2),
    "rpo": dn.LOSSES["rpo"](beta=0.5, alpha=0.3), "orpo": dn.LOSSES["orpo"](lam=1.0),
    "simpo": dn.LOSSES["simpo"](beta=2.0, gamma=0.5), "chi2": dn.LOSSES["f_dpo_chi2"](beta=0.5, mixed=True),
    "cpo": dn.LOSSES["cpo"](beta=0.5, alpha=0.3),
}


def risk(loss, logp, wins=WINS):
    """The mean over wins, pair by pair"""
    total = 0.0
    for i, j in np.argwhere(wins > 0):
        facts = {"ref_logp": [np.log(REF)[[i, j]]], "length": [LENGTH[[i, j]]]}
        told = {name: facts[name] for name in loss.needs}
        total += wins[i, j] * float(loss([logp[[i, j]]], **told)[0][0])
    return total


@pytest.mark.parametrize("name", LOSSES)
def test_slope_and_curvature_are_those_of_the_mean_over_wins(name, rng):
    logp, h, e = rng.normal(size=K) - 2, 1e-5, np.eye(K)
    slope, curved = of_pairs(LOSSES[name], given())
    d, H = curved(logp)
    by_differences = [(risk(LOSSES[name], logp + h * x) - risk(LOSSES[name], logp - h * x)) / (2 * h) for x in e]
    np.testing.assert_allclose(d, by_differences, atol=1e-9)  # of order h² and eps/h
    np.testing.assert_array_equal(slope(logp), d)
    of_slopes = [(slope(logp + h * x) - slope(logp - h * x)) / (2 * h) for x in e]
    np.testing.assert_allclose(H, of_slopes, atol=1e-5)  # one-sided steps of 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_on_its_way_it_is_where_plain_descent_is(name):
    policy, start, loss = Tabular(K), {"W": np.log(REF)[None]}, LOSSES[name]
    pairs = bandit([REWARD]).population().with_reference(policy, start)
    pairs = pairs.with_facts(length=LENGTH[pairs.index])
    *_, step = islice(dn.train(policy, start, repeat(pairs), loss, dn.sgd(0.1)), 400)
    found = np.exp(train(loss, given(), 40.0, 400))
    # both of first order, in steps of 0.1 and of 1.5% of the time
    np.testing.assert_allclose(found, softmax(step.params["W"][0]), atol=3e-3)
    assert abs(found - REF).max() > 0.02


def test_kto_follows_its_own_kl():
    policy, start, loss = Tabular(K), {"W": np.log(REF)[None]}, dn.LOSSES["kto"](beta=0.5)
    index = np.tile(np.arange(K), 2)[:, None]
    label, weight = np.repeat([True, False], K), np.concatenate([WINS.sum(axis=1), WINS.sum(axis=0)])
    rows = dn.Preferences(bandit([REWARD]).responses, index, weight, {"label": label}).with_reference(policy, start)

    def batch(params):
        pi = softmax(params["W"][0])
        return rows.with_facts(z0=dn.kl_baseline(np.log(pi / REF), pi) if held is None else held)

    for held in (None, 0.0):
        *_, step = islice(dn.train(policy, start, repeat(batch), loss, dn.sgd(1.0)), 400)
        off = abs(np.exp(train(loss, given(), 400.0, 400)) - softmax(step.params["W"][0])).max()
        assert off < 3e-3 if held is None else off > 3e-3


def test_kto_ends_at_its_minimum_of_the_kl_it_ends_with():
    pi = np.exp(train(dn.LOSSES["kto"](beta=0.5), given(), 1e7, 60))
    share, wins = (WINS + WINS.T).sum(axis=1) / 2, WINS.sum(axis=1) / (WINS + WINS.T).sum(axis=1)
    expected = closed.kto(REF, share, wins, 0.5, z0=float(optimum.kl(pi, REF)))
    np.testing.assert_allclose(pi, expected, atol=1e-4)  # what is left of the responses that go to 0
    assert (wins < 0.5).sum() == 2 and expected.min() == 0


def test_certain_labels_leave_the_margin_that_time_gives_them():
    wins, two = np.array([[0.0, 1.0], [0.0, 0.0]]), np.full(2, 0.5)
    problem = Problems(wins, np.log(two), two, np.array([1.0, 0.0]), np.ones(2))
    for time in (10.0, 1e4):
        logp = train(dn.LOSSES["dpo"](beta=0.5), problem, time, 2000)
        # both logits move, each by its slope
        assert 0.5 * (logp[0] - logp[1]) == pytest.approx(float(flow.dpo_margin(time, 0.5)), rel=2e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_it_ends_where_scipy_finds_the_least(name):
    loss = LOSSES[name]
    found = minimize(lambda x: risk(loss, log_softmax(x)), np.log(REF), method="BFGS", options={"gtol": 1e-9})
    end = train(loss, given(), 1e5, 40)
    np.testing.assert_allclose(np.exp(end), softmax(found.x), atol=1e-5)


def test_problems_side_by_side_are_those_problems():
    loss = LOSSES["rpo"]
    both = Problems(np.stack([WINS, CERTAIN]), *(np.stack([x, x]) for x in given()[1:]))
    together = train(loss, both, 1e3, 20)
    for k, wins in enumerate((WINS, CERTAIN)):
        np.testing.assert_allclose(together[k], train(loss, given(wins), 1e3, 20), rtol=1e-12)


def test_it_starts_at_the_reference_not_at_what_it_is_told_of_it():
    told = REF[::-1]
    early = np.exp(train(LOSSES["dpo"], given(told=told), 1e-6, 5))
    np.testing.assert_allclose(early, REF, atol=1e-6)
    end = np.exp(train(LOSSES["dpo"], given(told=told), 1e5, 40))
    np.testing.assert_allclose(end, optimum.boltzmann(told, REWARD, 0.5), atol=1e-9)


def test_the_hinge_comes_to_the_least_that_linear_programming_finds():
    loss, beta = dn.LOSSES["hinge"](beta=0.5), 0.5
    edges = np.argwhere(WINS > 0)
    rows = np.zeros((len(edges), K + len(edges)))
    for e, (i, j) in enumerate(edges):  # slack >= 1 - β (u_i - u_j)
        rows[e, [i, j, K + e]] = -beta, beta, -1
    cost = np.concatenate([np.zeros(K), [WINS[i, j] for i, j in edges]])
    least = linprog(cost, rows, -np.ones(len(edges)), bounds=[(None, None)] * K + [(0, None)] * len(edges)).fun
    reached = risk(loss, train(loss, given(), 1.0, 40, steepness=1.0))
    assert least - 1e-12 < reached < least + 1e-3 < risk(loss, np.log(REF)) - 0.05


@pytest.mark.slow
def test_dpop_comes_to_the_least_of_a_simplex_search():
    loss = dn.LOSSES["dpop"](beta=0.5, lam=1.0)
    options = {"xatol": 1e-7, "fatol": 1e-12, "maxiter": 4000, "maxfev": 4000}
    x = np.log(REF)
    for _ in range(3):  # again from where it stopped: kinks make the simplex flat
        x = minimize(lambda x: risk(loss, log_softmax(x)), x, method="Nelder-Mead", options=options).x
    reached = risk(loss, train(loss, given(), 1.0, 40, steepness=2.0))
    assert reached == pytest.approx(risk(loss, log_softmax(x)), abs=1e-4)
    assert reached < risk(loss, np.log(REF)) - 0.01


def test_single_responses_have_no_cross_curvature():
    loss, logp, h, e = dn.LOSSES["kto"](beta=0.5), np.log(REF[::-1]), 1e-5, np.eye(K)
    slope, curved = of_singles(dn.LOSSES["apo_zero_unpaired"](beta=0.5), given())
    d, H = curved(logp)
    np.testing.assert_allclose(H, [(slope(logp + h * x) - slope(logp - h * x)) / (2 * h) for x in e], atol=1e-5)
    assert abs(of_singles(loss, given())[0](logp) - d).max() > 1e-3  # z₀ is not 0 there
