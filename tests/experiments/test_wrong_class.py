"""Wrong classes: what is claimed holds, each claim can fail, and minimizers that know no gradient find the same."""

import itertools
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_expit, softmax

from toy_models.experiments import wrong_class
from toy_models.experiments.wrong_class import ARM_REWARD, BIGRAM, Config

BROKEN = {
    "a class that holds π*": lambda r: {**r, "modes_same": np.array(1e-6)},
    "arms: of pairs {1, 3}": lambda r: {**r, "arms_margins": np.array([1.0, 1.0, 1.1])},
    "arms: t is 0": lambda r: {**r, "arms_root": r["arms_root"] + 1e-6},
    "arms: and with all pairs": lambda r: {**r, "arms_met": r["arms_reference"]},
    "arms: of those pairs alone E r": lambda r: {**r, "arms_alone": r["arms_reference"]},
    "modes: J has": lambda r: {**r, "modes_maxima": r["modes_maxima"][:1]},
    "modes: DPO stays": lambda r: {**r, "modes_share": np.array(0.2)},
    "modes: at 40 β": lambda r: {**r, "modes_warm_share": np.array(0.5)},
    "modes: pairs of": lambda r: {**r, "modes_apart": np.array(0.1)},
    "strings: a trigram": lambda r: {**r, "strings_slope": np.array([0.0, 1e-6])},
    "strings: a bigram": lambda r: {**r, "strings_excess": np.array([0.1, 0.0])},
    "strings: and moves": lambda r: {**r, "strings_apart": np.array(0.0)},
    "peak: pairs of the reference": lambda r: {**r, "peak_regret": np.array([0.1, 0.4, 0.0091, 0.0095])},
    "peak: pairs of the policy": lambda r: {**r, "peak_least": np.array(0.01)},
    "peak: training": lambda r: {**r, "peak_trained": r["peak_trained"] + 1e-6},
    "peak: a reference still": lambda r: {**r, "peak_far": r["peak_far_least"]},
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail(name, result):
    found = wrong_class.claims(BROKEN[name](result))
    assert [key for key, claim in found.items() if not claim.holds] == [key for key in found if key.startswith(name)]


def test_there_is_a_way_to_break_every_claim(result):
    found = wrong_class.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


# ---- arms

def arm_loss(t, beta, weights):
    """L as it is defined, pair by pair"""
    u, total = (t, -t, 0.0), 0.0
    for (i, j), weight in weights.items():
        p = 1 / (1 + math.exp(ARM_REWARD[j] - ARM_REWARD[i]))
        m = beta * (u[i] - u[j])
        total += weight * (p * math.log1p(math.exp(-m)) + (1 - p) * math.log1p(math.exp(m)))
    return total


def test_t_of_the_arms_is_where_a_search_finds_the_loss_least(result):
    found = minimize_scalar(arm_loss, args=(10.0, {(0, 1): 1, (0, 2): 10, (1, 2): 1}), bracket=(-1, 1), tol=1e-10)
    assert result["arms_t"] == pytest.approx(found.x, abs=1e-7)
    pi = softmax([found.x, -found.x, 0])
    assert_allclose(result["arms_regret"], 10 * np.log(np.exp(ARM_REWARD / 10).mean()) - (
        pi @ ARM_REWARD - 10 * (pi @ np.log(3 * pi))), atol=1e-9)


def test_the_threshold_is_where_the_loss_is_flat_at_the_reference():
    h, ratio = 1e-5, wrong_class.threshold()
    assert ratio == pytest.approx(3.648054, abs=1e-6)
    for beta in (0.1, 10.0):
        rise = [arm_loss(s * h / beta, beta, {(0, 1): 1, (0, 2): ratio, (1, 2): 1}) for s in (1, -1)]
        assert abs(rise[0] - rise[1]) / (2 * h) < 1e-9
    assert wrong_class.threshold([2.0, 1.0, 0.0]) < 0  # no share of such pairs turns it


def test_at_a_small_beta_the_reward_is_below_the_reference_and_comes_back_to_it():
    low = [wrong_class._arms(Config(arms_beta=beta))["alone"] for beta in (10.0, 1.0, 0.1)]
    assert low[1] < low[0] < low[2] < 1
    assert 1 - low[2] < 1e-4


# ---- modes

def test_the_maxima_of_J_are_those_that_a_search_finds(result):
    x = np.linspace(-1, 1, 21)
    r = np.exp(-((x - 1) / 0.2) ** 2 / 2) + 0.9 * np.exp(-((x + 1) / 0.2) ** 2 / 2)

    def loss(t):
        pi = softmax(t * x)
        return 0.1 * (pi @ np.log(21 * pi)) - pi @ r

    found = [minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x
             for bounds in ((-20, -10), (10, 20))]
    assert_allclose(result["modes_maxima"], found, atol=1e-5)

    def moved(t, h):
        """The loss of t + h, on pairs from the policy at t"""
        mu, total = softmax(t * x), 0.0
        for i, j in itertools.permutations(range(21), 2):
            total -= mu[i] * mu[j] / (1 + np.exp(r[j] - r[i])) * log_expit(0.1 * (t + h) * (x[i] - x[j]))
        return total

    for t in result["modes_rests"]:
        assert abs(moved(t, 1e-3) - moved(t, -1e-3)) / 2e-3 < 1e-7
        assert moved(t, 0.5) > moved(t, 0) < moved(t, -0.5)


# ---- strings

def test_the_bigram_is_where_a_minimizer_without_gradients_ends(result):
    words = [y for n in range(4) for y in itertools.product((1, 2, 3), repeat=n)]
    counts = np.zeros((40, 4, 4))
    for row, y in enumerate(words):
        for a, b in zip((0, *y), (*y, 0), strict=True):
            counts[row, a, b] += 1
    r = np.array([float(len(y) == 3 and y[0] == y[2]) for y in words])
    ref = np.exp((counts * np.log(BIGRAM)).sum(axis=(1, 2)))
    P = 1 / (1 + np.exp(r[None] - r[:, None]))
    for k, mu in enumerate((np.ones(40), ref)):
        W = np.outer(mu, mu) * (1 - np.eye(40))
        W /= W.sum()

        def loss(w, W=W):
            logp = (counts * np.log(softmax(w.reshape(4, 4), axis=1))).sum(axis=(1, 2))
            u = logp - np.log(ref)
            return -(2 * W * P * log_expit(u[:, None] - u)).sum()

        end = minimize(loss, np.log(BIGRAM).ravel(), method="BFGS", options={"gtol": 1e-6})
        entropy = -(2 * W * P * np.log(P)).sum()
        assert result["strings_excess"][k] == pytest.approx(end.fun - entropy, abs=1e-8)


def test_without_an_echo_to_speak_of_the_bigram_misses_nothing():
    assert abs(wrong_class.run(Config(echo=1e-4, steps=1))["strings_excess"]).max() < 1e-8


def test_an_echo_that_leaves_no_optimum_is_refused():
    with pytest.raises(ValueError, match="has a divergent sum, no optimum exists"):
        wrong_class.run(Config(echo=5.0, steps=1))


# ---- the peak

def test_the_peak_costs_what_the_exact_results_say(result):
    assert_allclose(result["peak_regret"][[0, 3]], [1.832652113, 0.009523408361], atol=1e-9)
    assert_allclose([result["peak_regret_reference"], result["peak_regret_policy"]], result["peak_regret"][[0, 3]])
    assert_allclose([result["peak_least"], result["peak_far"], result["peak_far_least"]],
                    [0.009091268232, 0.5352061972, 0.1978325371], atol=1e-9)


def test_the_slope_on_given_pairs_is_where_a_search_finds_the_loss_least(result):
    x, r = np.arange(9) / 2, 0.4 * (np.arange(9) / 2) ** 2
    for name, mu in (("the reference", softmax(-2 * x)), ("all x alike", np.ones(9)),
                     ("π*", softmax(-2 * x + r / 0.5))):

        def loss(t, mu=mu):
            return -sum(mu[i] * mu[j] / (1 + math.exp(r[j] - r[i])) * log_expit(0.5 * t * (x[i] - x[j]))
                        for i, j in itertools.permutations(range(9), 2))

        found = minimize_scalar(loss, bounds=(0, 7), method="bounded", options={"xatol": 1e-9}).x
        assert result["peak_t"][result["sampler"] == name][0] == pytest.approx(found, abs=1e-6)


# ---- other settings

def test_a_reference_that_is_even_hides_nothing():
    found = wrong_class.run(Config(tilt=0.0, second=1.0, peak_beta=1.0, ratio=0.5, steps=400))
    even, policy = found["peak_regret"][[0, 3]]
    assert found["peak_t"][0] == pytest.approx(found["peak_t"][1], rel=1e-12)
    assert policy < even < 0.5
    assert found["modes_t"] == pytest.approx(0, abs=1e-12)
    assert found["arms_t"] < 0
    assert found["modes_maxima"][0] == pytest.approx(-found["modes_maxima"][1], rel=1e-9)


def test_one_mode_and_a_class_that_sees_it():
    found = wrong_class.run(Config(modes_beta=4.0, curve=0.1, steps=1))
    assert len(found["modes_maxima"]) == 1
    assert found["modes_share"] > 0.9
    assert found["modes_same"] < 1e-10


def test_far_out_settings_make_numbers():
    found = wrong_class.run(Config(modes_beta=0.002, peak_beta=0.08, tilt=6.0, steps=1))
    assert all(np.isfinite(found[name]) for name in ("arms_t", "modes_t", "modes_regret", "strings_apart"))


@pytest.mark.parametrize(("setting", "message"), [
    ({"ratio": 0.0}, "ratio is 0.0; expected a finite number above 0"),
    ({"steps": 0}, "steps is 0; expected a whole number, at least 1"),
    ({"curve": 4.0}, "curve is 4.0 at peak_beta 0.5; expected at most 5 times as much"),
    ({"tilt": -1.0}, "tilt is -1.0; expected a finite number, at least 0"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)
