"""Root n: its claims can fail, and its means are those of an enumeration of all data sets."""

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import log_expit, log_softmax

from analytic import graph, population
from toy_models.experiments import root_n
from toy_models.experiments._config import streams
from toy_models.experiments._fits import draw
from toy_models.experiments.root_n import Config

SMALL = Config(responses=4, features=3, counts=(60, 200), replicates=30, betas=(1.0,), times=(1.0, 2.0), seed=2)


@pytest.fixture(scope="module")
def small():
    return root_n.run(SMALL)


def scaled(result, key, factor, at=...):
    x = np.array(result[key], dtype=float)
    x[at] = x[at] * factor
    return {**result, key: x}


#: the beginning of a claim; what is put in the place of a measurement
BROKEN = {
    "the covariance": lambda r: scaled(r, "covariance", 4, -1),
    "excess loss of a table": lambda r: scaled(r, "mean_excess", 1.2),
    "regret is tr(S F⁺)": lambda r: scaled(r, "theory", 1.2),
    "it falls as 1/n": lambda r: scaled(scaled(r, "regret", 0.8, np.s_[:, -2:-1]), "missing_regret", 1),
    "KL to π* is": lambda r: scaled(r, "kl_theory", 1.3, 1),
    "a low β buys": lambda r: {**r, "betas": -r["betas"]},
    "features leave": lambda r: scaled(r, "mean_shared_excess", 1.3),
    "regret of features": lambda r: scaled(r, "shared_theory", 1.3),
    "sharing is worth": lambda r: scaled(scaled(r, "shared_regret", 4), "shared_theory", 4),
    "features that cannot tell r": lambda r: scaled(r, "missing_regret", 2, np.s_[:, -2]),
    "and yet beat a table": lambda r: scaled(r, "missing_regret", 2, np.s_[:, 0]),
    "few labels are best": lambda r: scaled(r, "best_times", 0.625, 0),
    "many at the price": lambda r: scaled(r, "best_times", 2, -1),
    "a ranking of K": lambda r: {**r, "equals_worth": r["equals_worth"] + 1e-9},
    "and that of unequals": lambda r: {**r, "ranking_worth": r["equals_theory"]},
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail_by_itself(name, result):
    found = root_n.claims(BROKEN[name](result))
    failed, = (sentence for sentence, claim in found.items() if not claim.holds)
    assert failed.startswith(name)


def test_there_is_a_way_to_break_every_claim(result):
    found = root_n.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


def test_one_data_set_by_scipy(small):
    _, r, ref = root_n.world(SMALL)
    wins = draw(population.bradley_terry_wins(r), 60, streams(2, 1))[0]
    x = minimize(lambda x: -(wins * log_expit(x[:, None] - x)).sum(), np.zeros(4), options={"gtol": 1e-9}).x
    found, best = log_softmax(np.log(ref) + x / SMALL.beta), log_softmax(np.log(ref) + r / SMALL.beta)

    def value(logp):
        return np.exp(logp) @ (r - SMALL.beta * (logp - np.log(ref)))

    assert small["regret"][0, 0] == pytest.approx(value(best) - value(found), abs=1e-6)
    slower = log_softmax(np.log(ref) + x / (2 * SMALL.beta))
    judged = root_n.lost(ref, r, x[None] - x.mean(), 2 * SMALL.beta, SMALL.beta)
    assert judged[0] == pytest.approx(value(best) - value(slower), abs=1e-10)


def test_the_mean_is_that_over_all_data_sets():
    """Five comparisons of three responses: 7,776 sequences; the simulation within four standard errors"""
    config = Config(responses=3, features=1, counts=(5,), replicates=4000)
    _, r, ref = root_n.world(config)
    wins, arcs = population.bradley_terry_wins(r), [(i, j) for i in range(3) for j in range(3) if i != j]
    chance: dict[bytes, float] = {}
    for sequence in product(range(6), repeat=5):
        seen = np.bincount(sequence, minlength=6)
        chance[seen.tobytes()] = chance.get(seen.tobytes(), 0) + np.prod([wins[arcs[a]] for a in sequence])
    total = exists = 0.0
    for key, p in chance.items():
        games = np.zeros((3, 3))
        games[tuple(np.transpose(arcs))] = np.frombuffer(key, np.int64)
        if graph.mle_exists(games):
            u = population.newton(games, config.beta)
            best = log_softmax(np.log(ref) + r / config.beta)
            logp = log_softmax(np.log(ref) + u)
            total, exists = total + p * config.beta * (np.exp(logp) @ (logp - best)), exists + p
    found = root_n.run(config)
    there = found["regret"][np.isfinite(found["regret"])]
    assert found["unfitted"][0] == pytest.approx(1 - exists, abs=4 * np.sqrt(exists * (1 - exists) / 4000))
    assert there.mean() == pytest.approx(total / exists, abs=4 * there.std() / np.sqrt(len(there)))
    assert found["mean_regret"] == pytest.approx(there.mean(), rel=1e-12)


def test_as_many_features_as_a_table_has_are_the_table(small):
    assert_allclose(small["shared_regret"], small["regret"], rtol=1e-6)
    assert_allclose(small["shared_theory"], small["theory"], rtol=1e-9)
    assert small["spread_shared_regret"] == pytest.approx(small["spread_regret"], rel=1e-9)


def test_the_spread_of_a_square_is_that_of_chi_square():
    """x ~ N(0, 1): Var x² = 2"""
    assert root_n._spread(np.eye(1), np.eye(1)) == pytest.approx(np.sqrt(2))
    assert root_n._spread(np.eye(4), 3 * np.eye(4)) == pytest.approx(np.sqrt(2 / 4))


def test_two_labels_fit_no_table_and_say_nothing():
    found = root_n.run(Config(counts=(2,), replicates=5))
    assert found["unfitted"] == [1.0] and np.isnan(found["mean_regret"])
    assert np.isnan(found["best_times"]).all()
    claims = root_n.claims(found)
    assert not claims["regret is tr(S F⁺)/(2βn): ratio"].evaluated


def test_one_feature_leaves_none_to_drop():
    found = root_n.run(Config(features=1, counts=(200,), replicates=5))
    assert np.isnan(found["missing_regret"]).all() and np.isfinite(found["shared_regret"]).all()


def test_the_order_of_counts_is_no_matter():
    one, other = (root_n.run(Config(counts=counts, replicates=5)) for counts in ((100, 300), (300, 100)))
    np.testing.assert_array_equal(one["regret"], other["regret"])


def test_a_lower_beta_has_the_larger_error():
    kl = [root_n.run(Config(counts=(2000,), replicates=50, betas=(b,)))["kl_of_beta"][0] for b in (0.25, 1.0)]
    assert kl[0] > 4 * kl[1]


@pytest.mark.parametrize(("setting", "message"), [
    ({"features": 8}, "features is 8; expected at most 7, as a table of 8 responses has"),
    ({"responses": 2}, "responses is 2; expected a whole number, at least 3"),
    ({"times": (0.0,)}, "times holds 0.0; expected a finite number above 0"),
    ({"replicates": 1}, "replicates is 1; expected a whole number, at least 2"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)
