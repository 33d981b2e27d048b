"""Noise: the claims can fail, and regrets are those of the losses as they are printed."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import expit, log_expit, log_softmax
from scipy.stats import binom

from analytic import population
from toy_models.experiments import noise
from toy_models.experiments._config import streams
from toy_models.experiments._fits import draw
from toy_models.experiments.noise import METHODS, Config, corrected, flipped

SMALL = Config(flip=0.15, assumed=0.1, n=150, beta=0.8, responses=4, features=1, flips=(0.1, 0.3),
               assumptions=(0.0, 0.15), counts=(80, 400), replicates=12, seed=5)
OF = {name: k for k, name in enumerate(METHODS)}


@pytest.fixture(scope="module")
def small():
    return noise.run(SMALL)


def scaled(result, key, factor, at=...):
    x = np.array(result[key], dtype=float)
    x[at] = x[at] * factor
    return {**result, key: x}


#: the beginning of a claim; what is put in the place of a measurement
BROKEN = {
    "two responses": lambda r: {**r, "same_two": np.array(1e-3)},
    "rDPO that is told": lambda r: {**r, "same_rdpo": np.array(1e-3)},
    "and elsewhere if": lambda r: scaled(r, "assuming_bias", 0, 3),
    "cDPO of clean": lambda r: {**r, "same_cdpo": np.array(1e-3)},
    "so that it adds": lambda r: scaled(r, "bias", 0.3, OF["cDPO"]),
    "flips shrink IPO": lambda r: {**r, "same_ipo": np.array(1e-6)},
    "and DPO nearly": lambda r: scaled(r, "bias", 20, OF["DPO at β(1-2ε)"]),
    "reward model, then": lambda r: {**r, "same_features": r["other_features"]},
    "what smooths is": lambda r: scaled(r, "mean_curve", 3, (0, OF["rDPO, features"])),
    "and the bias stays": lambda r: scaled(r, "mean_curve", 0.5, (-1, OF["DPO, features"])),
    "rDPO of n labels": lambda r: scaled(r, "theory", 1.5),
    "most labels repay rDPO": lambda r: scaled(r, "mean_curve", 0.01, (-1, OF["DPO"])),
    "few labels do not": lambda r: scaled(r, "mean_curve", 3, (0, OF["DPO"])),
    "rDPO has an optimum": lambda r: {**r, "disagree": np.array(2)},
    "few labels: data": lambda r: scaled(r, "curve_unbounded", 0),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail_by_itself(name, result):
    found = noise.claims(BROKEN[name](result))
    failed, = (sentence for sentence, claim in found.items() if not claim.holds)
    assert failed.startswith(name)


def test_there_is_a_way_to_break_every_claim(result):
    found = noise.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


# ---- one data set

def objective(name, wins, phi, eps, beta):
    """The loss as printed, of log-ratios u, or of θ where there are features"""
    def terms(h):
        if name == "IPO":
            return (h - 2 / beta) ** 2  # τ = β/4
        m = beta * h
        if name == "cDPO":
            return -(1 - eps) * log_expit(m) - eps * log_expit(-m)
        if "rDPO" in name:
            return -((1 - eps) * log_expit(m) - eps * log_expit(-m)) / (1 - 2 * eps)
        if "(1-2ε)" in name:
            return -log_expit((1 - 2 * eps) * m)
        return -log_expit(m)

    def loss(x):
        u = phi @ x if "features" in name else x
        return (wins * terms(u[:, None] - u)).sum() / wins.sum()

    return loss


@pytest.mark.parametrize("name", METHODS)
def test_regret_is_that_of_the_least_loss(name, small):
    phi, r, ref = noise.world(SMALL)
    rng = streams(SMALL.seed, 3)[2:]
    clean = population.bradley_terry_wins(r)
    drawn = [draw(flipped(clean, 0.15), n, rng)[0] for n in (150, 80, 400)]
    for wins, regret in zip(drawn, [small["regret"][2], *small["curve"][2]], strict=True):
        start = np.zeros(1 if "features" in name else 4)
        x = minimize(objective(name, wins, phi, 0.1, 0.8), start, options={"gtol": 1e-8}).x
        u = phi @ x if "features" in name else x
        found, best = log_softmax(np.log(ref) + u), log_softmax(np.log(ref) + r / 0.8)

        def value(logp):
            return np.exp(logp) @ (r - 0.8 * (logp - np.log(ref)))

        assert regret[OF[name]] == pytest.approx(value(best) - value(found), abs=2e-6)


def test_averages_are_over_the_data_sets_in_which_all_tables_have_an_optimum():
    found = noise.run(Config(**{**vars(SMALL), "counts": (25,), "assumed": 0.3, "replicates": 40}))
    there = [all(np.isfinite(regret[:5])) for regret in found["curve"][:, 0]]
    assert 2 < sum(there) < 38
    for k in range(len(METHODS)):
        mean = np.mean([regret[k] for regret, all_there in zip(found["curve"][:, 0], there, strict=True) if all_there])
        assert found["mean_curve"][0, k] == pytest.approx(mean, rel=1e-12)


def test_flips_are_undone_by_their_correction(rng):
    wins = rng.random((3, 4, 4))
    assert_allclose(corrected(flipped(wins, 0.3), 0.3), wins, rtol=1e-12)
    assert_allclose(flipped(flipped(wins, 0.3), 0.1), flipped(wins, 0.3 + 0.1 - 2 * 0.03), rtol=1e-12)


# ---- many

def test_of_two_responses_a_binomial_says_how_often_no_optimum_is():
    """Of n labels x say the first: rDPO that assumes a has none if x/n <= a or >= 1-a. Four standard errors."""
    n, a, R = 10, 0.25, 3000
    found = noise.run(Config(responses=2, features=1, flip=0.1, assumed=a, counts=(n,), n=n, replicates=R,
                             flips=(0.0,), assumptions=(a,)))
    q = 0.9 * expit(1.4) + 0.1 * expit(-1.4)  # spread 0.7: rewards are ±0.7
    x = np.arange(n + 1)
    p = binom.pmf(x, n, q)
    no_mle = p[(x == 0) | (x == n)].sum()
    without = p[(x <= a * n) | (x >= (1 - a) * n)].sum() - no_mle
    assert 0.05 < without < 0.95
    for measured, exact in ((found["curve_unbounded"][0], without), (found["no_mle"], no_mle)):
        assert measured == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / R) + 1e-9)


def test_theory_is_the_sandwich_of_slopes_by_differences():
    """F and V of each possible label, from the printed loss of rDPO alone"""
    config = Config(responses=3, features=2, flip=0.2, assumed=0.2, counts=(500,), replicates=2)
    _, r, ref = noise.world(config)
    h, arcs = 1e-4, [(i, j) for i in range(3) for j in range(3) if i != j]
    told = flipped(population.bradley_terry_wins(r), 0.2)

    def loss(x, i, j):
        m = x[i] - x[j]
        return -(0.8 * log_expit(m) - 0.2 * log_expit(-m)) / 0.6

    def mean(x):
        return sum(told[arc] * loss(x, *arc) for arc in arcs)

    e = h * np.eye(3)
    F = np.array([[(mean(r + a + b) - mean(r + a - b) - mean(r - a + b) + mean(r - a - b)) / (4 * h * h) for a in e]
                  for b in e])
    V = np.zeros((3, 3))
    for arc in arcs:
        g = np.array([(loss(r + a, *arc) - loss(r - a, *arc)) / (2 * h) for a in e])
        V += told[arc] * np.outer(g, g)
    best = np.exp(log_softmax(np.log(ref) + r / config.beta))
    inverse = np.linalg.pinv(F, rcond=1e-4)
    expected = np.trace((np.diag(best) - np.outer(best, best)) @ inverse @ V @ inverse) / (2 * config.beta * 500)
    assert noise._theory(r, ref, config)["theory"][0] == pytest.approx(expected, rel=1e-4)


def test_equals_are_worth_the_square_of_what_flips_leave():
    config = Config(spread=1e-4, flip=0.3, assumed=0.3)
    found = noise._theory(*noise.world(config)[1:], config)
    assert found["worth"] == pytest.approx(0.16, rel=1e-6)
    assert found["equals_worth"] == pytest.approx(0.16)


def test_the_bias_of_flips_is_that_of_scipy_s_minimum(result):
    _, r, ref = noise.world(Config())
    wins = flipped(population.bradley_terry_wins(r), 0.2)
    x = minimize(lambda x: -(wins * log_expit(x[:, None] - x)).sum(), np.zeros(6), options={"gtol": 1e-10}).x
    found, best = log_softmax(np.log(ref) + x / 0.5), log_softmax(np.log(ref) + r / 0.5)
    assert result["dpo_bias"] == pytest.approx(0.5 * np.exp(found) @ (found - best), rel=1e-6)
    assert result["bias_of_flips"][2, 0] == result["dpo_bias"]


def test_few_labels_ask_for_fewer_flips_than_there_are(result):
    assert result["best_assumption"][0] < result["best_assumption"][-1] == 0.2


# ---- other settings

def test_where_another_share_is_assumed_no_theory_is_given(small):
    assert np.isnan(small["theory"]).all()
    claim = noise.claims(small)["rDPO of n labels has the regret that theory says: ratio, most labels"]
    assert not claim.evaluated


def test_shapes_follow_the_config(small):
    assert small["regret"].shape == (12, 7) and small["curve"].shape == (12, 2, 7)
    assert small["grid"].shape == (2, 2, 7) and small["assuming"].shape == (2, 2)
    assert small["disagree"] == 0


def test_without_flips_all_corrections_are_none():
    found = noise.run(Config(flip=0.0, assumed=0.0, counts=(300,), replicates=5, flips=(0.0,), assumptions=(0.0, 0.1)))
    for name in ("cDPO", "rDPO", "DPO at β(1-2ε)"):
        assert_allclose(found["curve"][..., OF[name]], found["curve"][..., OF["DPO"]], rtol=1e-12)
    assert found["worth"] == pytest.approx(1) and found["dpo_bias"] < 1e-20


def test_one_label_has_no_optimum_and_gives_nan():
    found = noise.run(Config(n=1, counts=(1,), replicates=2, flips=(0.1,), assumptions=(0.1,)))
    assert np.isnan(found["dpo_regret"]) and np.isnan(found["mean_curve"]).all() and found["no_mle"] == 1
    assert not noise.claims(found)["few labels do not repay rDPO: its regret over DPO's"].evaluated


@pytest.mark.parametrize(("setting", "message"), [
    ({"flip": 0.5}, "flip is 0.5; expected below 0.5, where labels still say something"),
    ({"assumptions": (0.1, 0.6)}, "assumptions is 0.6; expected below 0.5"),
    ({"assumed": -0.1}, "assumed is -0.1; expected at least 0 and below 1"),
    ({"responses": 13, "features": 2}, "responses is 13; expected at most 12, as all groups of them are tried"),
    ({"features": 6}, "features is 6; expected at most 5, as a table of 6 responses has"),
    ({"counts": ()}, "counts is empty; expected at least one value"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)
