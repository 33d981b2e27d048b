"""The comparison graph: its claims can fail, its numbers are those of other computations."""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit, softmax

from analytic import bradley_terry, graph, population
from toy_models.experiments import comparison_graph
from toy_models.experiments.comparison_graph import Config, existence

SMALL = Config(reward=(0.5, 0.0, -0.2, 0.4), ref=(1.0, 2.0, 3.0, 4.0), beta=0.5, bridge=0.3, steps=150,
               counts=(4, 9), replicates=50, seed=3)


@pytest.fixture(scope="module")
def small():
    return comparison_graph.run(SMALL)


def changed(result, key, at, value):
    x = np.array(result[key], copy=True)
    x[at] = value
    return {**result, key: x}


#: the beginning of a claim; what is put in the place of a measurement
BROKEN = {
    "descent loses the factor": lambda r: changed(r, "measured", 1, 0.9),
    "a chain is enough": lambda r: changed(r, "chain_kl", (), 1e-6),
    "a link cut, steps along": lambda r: changed(r, "cut.moved", 1, 1e-6),
    "and end where each part": lambda r: changed(r, "unseen.policy", 0, r["ref"]),
    "Adam's steps do not keep": lambda r: changed(r, "unseen.moved", 2, 1e-14),
    "an unseen response is worth": lambda r: changed(r, "unseen_plain_kl", (), 1e-3),
    "and not their mean": lambda r: changed(r, "unseen_weighted_kl", (), 0),
    "all ways to share": lambda r: changed(r, "set.loss", 4, 0.0),
    "and not one value": lambda r: {**r, "set.value": np.zeros(99)},
    "the wins are strongly": lambda r: changed(r, "disagree", (), 1),
    "n labels have a fit": lambda r: changed(r, "exists", 3, r["exists"][3] - 0.1),
    "(0.1, 0, 0.9) has": lambda r: changed(r, "elsewhere", (), 0.1),
    "a table's unseen": lambda r: changed(r, "peak", 1, r["top"][1] + 1e-4),
    "and falls to 0": lambda r: changed(r, "end", 0, 0.1),
    "a shared feature": lambda r: changed(r, "lifted", (), 0.3),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail_by_itself(name, result):
    found = comparison_graph.claims(BROKEN[name](result))
    failed, = (sentence for sentence, claim in found.items() if not claim.holds)
    assert failed.startswith(name)


def test_there_is_a_way_to_break_every_claim(result):
    found = comparison_graph.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


def test_descent_on_the_star_is_a_loop_over_its_edges(small):
    r, beta = np.array(SMALL.reward), SMALL.beta
    wins = population.bradley_terry_wins(r, (comparison_graph._edges(4, 0.3))[1])
    step = population.linear_rate(population.hessian(r / beta, wins, beta)).best_step
    u, errors = np.zeros(4), []
    for _ in range(20):
        errors.append(np.linalg.norm(u - u.mean() - (r - r.mean()) / beta))
        slope = np.zeros(4)
        for j in range(1, 4):
            pull = beta * (expit(beta * (u[0] - u[j])) - expit(r[0] - r[j])) / 3
            slope += pull * (np.eye(4)[0] - np.eye(4)[j])
        u = u - step * slope
    assert_allclose(small["path"][:20, 1], np.array(errors) / errors[0], rtol=1e-9)


def test_of_a_path_of_equals_the_factor_is_that_of_cosines():
    """The path of K has eigenvalues 4 sin²(πk/2K): the rewards are so close that all edges weigh the same"""
    found = comparison_graph.run(Config(reward=(1e-6, 0.0, 0.0, 0.0, 0.0), ref=(1.0,) * 5, steps=2, replicates=1))
    low, top = np.sin(np.pi / 10) ** 2, np.sin(np.pi * 4 / 10) ** 2
    assert found["predicted"][:2] == pytest.approx([(top - low) / (top + low), 4 / 6], rel=1e-6)
    assert found["predicted"][3] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_count_of_all_sets_is_that_of_all_sequences(n):
    wins = population.bradley_terry_wins([0.7, 0.0, -0.4])
    arcs = [(i, j) for i in range(3) for j in range(3) if i != j]
    total = 0.0
    for sequence in product(arcs, repeat=n):
        seen = np.zeros((3, 3))
        for arc in sequence:
            seen[arc] += 1
        total += np.prod([wins[arc] for arc in sequence]) * bool(graph.mle_exists(seen))
    assert existence(wins, (n,))[0] == pytest.approx(total, abs=1e-13)


def test_five_equals_have_a_fit_as_often_as_simulated(rng):
    """With four standard errors"""
    wins = bradley_terry.probabilities(np.zeros(5)) * (1 - np.eye(5)) / 10
    drawn = rng.multinomial(20, wins.ravel(), size=4000).reshape(-1, 5, 5)
    assert graph.mle_exists(drawn).mean() == pytest.approx(existence(wins, (20,))[0], abs=4 * np.sqrt(0.25 / 4000))


def test_peaks_are_those_known(result):
    assert_allclose(result["peak"], [0.1179, 0.1952, 0.1], rtol=0, atol=1e-4)


def test_all_of_the_set_have_the_ratios_of_the_optimum(result):
    """The best share of the set is that of π* itself, and what descent takes is worse, by its regret"""
    assert abs(result["set.share"][result["set.value"].argmax()] - result["set_best"]) < 0.01
    top = result["set.value"].max()
    assert result["cut.regret"][0] == pytest.approx(top - result["set.end_value"][0], abs=1e-3)


def test_a_cut_chain_ends_where_a_naive_descent_does(small):
    r, beta, u = np.array(SMALL.reward), SMALL.beta, np.zeros(4)
    for _ in range(4000):
        for i, j in ((0, 1), (2, 3)):
            pull = expit(beta * (u[i] - u[j])) - expit(r[i] - r[j])
            u[i], u[j] = u[i] - pull, u[j] + pull
    ref = np.array(SMALL.ref) / 10
    assert_allclose(small["cut.policy"][0], softmax(u + np.log(ref)), rtol=0, atol=1e-10)


def test_other_settings_make_sensible_numbers(small):
    found = comparison_graph.claims(small)
    assert small["exists"].shape == (2,) and small["fitted"].shape == (50, 2)
    assert found["a chain is enough for descent: KL(π || π*)"].holds
    assert small["bridge_steps"] > small["all_steps"]


def test_one_step_measures_no_rate():
    found = comparison_graph.run(Config(steps=1, replicates=2, counts=(3,)))
    assert np.isnan(found["measured"]).all()
    assert not comparison_graph.claims(found)["descent loses the factor of the Fiedler value: largest relative "
                                              "difference"].evaluated


def test_of_equal_rewards_there_is_no_way_to_go():
    found = comparison_graph.run(Config(reward=(0.0,) * 6, steps=3, replicates=2, counts=(3,)))
    assert found["chain_kl"] == 0 and np.isnan(found["measured"]).all()
    axes = comparison_graph.plot(found)
    assert len(axes.get_lines()) == 5  # a name for each graph
    plt.close(axes.figure)


@pytest.mark.parametrize(("setting", "message"), [
    ({"bridge": 0.0}, "bridge is 0.0; expected a finite number above 0"),
    ({"counts": (0,)}, "counts holds 0; expected a whole number, at least 1"),
    ({"reward": (1.0, 0.0)}, "reward has 2 numbers and ref 6; expected as many, and at least 4"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)
