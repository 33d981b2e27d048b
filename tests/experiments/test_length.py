"""Length's critical temperature: each claim can fail, and its numbers are those of sums that share no code."""

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit, softmax

from analytic import ngram
from toy_models.experiments import _lengths, length
from toy_models.experiments._lengths import QUALITY, REF, TOKEN, drawn, every_short, fitted, lengths, summed
from toy_models.experiments.length import CLAIMED, TURNING, Config

SMALL = {"replicates": 4, "n": 30, "steps": 100, "letters": 2, "longest": 20}


def replaced(result, key, row, value):
    changed = np.array(result[key], copy=True)
    changed[row] = value
    return {**result, key: changed}


def at(result, width):
    column, = np.flatnonzero(result["width"] == width)
    return (slice(None), column)


def more(result, key, width, factor):
    """What coin flips add at one width, times a factor"""
    where, ref = at(result, width), result["mean_length_ref"]
    return replaced(result, key, where, ref + factor * (result[key][where] - ref))


#: the beginning of a claim; what is put in the place of a measurement
BROKEN = {
    "length alone": lambda r: {**r, "beta_c_token": r["beta_c_token"] + 1e-9},
    "towards β_c": lambda r: {**r, "growth": r["growth"] * 1.1},
    "below β_c, limited": lambda r: {**r, "pinned": r["pinned"] + 1e-6},
    "a bounded reward": lambda r: {**r, "bounded_cold": r["bounded_cold"] + 1e-6},
    "above β_c, DPO": lambda r: replaced(r, "warm_kl", 2, 1e-8),
    "below β_c, such": lambda r: replaced(r, "cold", (1, 3), r["cold"][0, 3]),
    "coin flips lengthen": lambda r: replaced(r, "coin_length", (slice(0, 100), at(r, 4.2)[1]), 1.0),
    "coin flips hardly do": lambda r: replaced(replaced(r, "coin_length", at(r, 30), r["coin_length"][at(r, 30)] + 0.1),
                                            "coin_mirrored", at(r, 30), r["coin_mirrored"][at(r, 30)] - 0.1),
    "coin flips may": lambda r: replaced(r, "coin_length", at(r, 1.4), 9.0),
    "what coins and": lambda r: more(more(r, "coin_length", 100, 1.2), "coin_mirrored", 100, 1.2),
    "shorter chosen": lambda r: replaced(r, "turning_length", 1, 2.2),
    "at large β the": lambda r: {**r, "hot_change": -r["hot_change"], "covariance": -r["covariance"]},
    "at large β E|y|": lambda r: replaced(r, "covariance", 0, 1.01 * r["covariance"][0]),
    "length may fall": lambda r: replaced(r, "path", (-1, 1), 2.5),
    "what a gain": lambda r: {**r, "kl_quality": r["kl_quality"] + 1e-8},
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail_and_alone(name, result):
    found = length.claims(BROKEN[name](result))
    claim, = (key for key in found if key.startswith(name))
    failing = [key for key in found if not found[key].holds]
    assert failing == [claim]


def test_there_is_a_way_to_break_every_claim(result):
    assert [key for key in length.claims(result) if sum(key.startswith(name) for name in BROKEN) != 1] == []


# ---- length alone

def test_the_numbers_of_the_golden_rows(result):
    assert result["beta_c_token"] == pytest.approx(2.2800645465, abs=5e-11)
    assert result["mean_length_ref"] == pytest.approx(2.3, abs=1e-12)


def test_the_critical_beta_is_in_proportion_to_the_gain():
    alone = ngram.critical_beta(REF, 1.0)
    for lam in (0.1, 3.0):
        assert ngram.critical_beta(REF, lam * TOKEN) == pytest.approx(lam * alone, rel=1e-9)


def masses(weight, longest):
    """Of each length, by steps of the chain"""
    x, found = np.eye(3)[0], []
    for n in range(longest + 1):
        found.append((x @ REF[:, 0]) * weight(n))
        x = x @ (REF * [0, 1, 1])
    return np.array(found) / np.sum(found)


@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.6])
def test_lengths_are_means_of_their_masses(result, ratio):
    beta, n = ratio * 2.2800645465462672, np.arange(161)
    where, = np.flatnonzero(result["ratio"] == ratio)
    limited = masses(lambda n: np.exp((n - 160) / beta), 160)
    assert result["limited_length"][where] == pytest.approx(limited @ n, rel=1e-10)
    bounded = masses(lambda n: np.exp((min(n, 5) - 5) / beta), 160)
    assert result["bounded_length"][where] == pytest.approx(bounded @ n, rel=1e-10)
    if ratio > 1:
        assert result["all_length"][where] == pytest.approx(masses(lambda n: np.exp(n / beta), 300) @ np.arange(301))
    else:
        assert result["all_length"][where] == np.inf


def test_training_below_the_critical_beta_hardly_slows():
    found = [length._trained(Config(steps=steps))["cold"] for steps in (200, 400)]
    second, later = ((each[1] - each[0]) / (steps / 2) for each, steps in zip(found, (200, 400), strict=True))
    assert_allclose(later, second, rtol=0.15)


def test_training_knows_its_optimum(result):
    best, _ = ngram.optimum(REF, TOKEN, 1.5 * ngram.critical_beta(REF, 1.0))
    # KL below 1e-10 is lengths to its root, about
    assert_allclose(result["warm"][1], ngram.expected_length(best), rtol=1e-5)
    assert abs(result["warm"][1] - result["mean_length_ref"]).min() > 1


# ---- coin flips

def test_the_first_data_set_is_what_its_stream_draws(result):
    rng = np.random.default_rng([0, 0])
    count = summed(drawn(400, rng)).reshape(200, 2, 9)
    flips = rng.random((2, 200, 1))
    apart = count[:, 0] - count[:, 1]
    theta, = fitted(np.where(flips[0] < 0.5, apart, -apart)[None])
    tilts = np.sqrt(200) * theta / result["width"][:, None, None]
    assert_allclose(result["coin_length"][0], lengths(tilts), rtol=1e-9)
    assert_allclose(result["coin_mirrored"][0], lengths(-tilts), rtol=1e-9)
    labels = np.where(flips[1] < expit(apart @ TURNING[0].reshape(9, 1)), apart, -apart)
    learned = lengths(fitted(labels[None])[0] / 0.3)
    assert_allclose(result["overshoot"][0], learned, rtol=1e-9)


def test_coins_fall_on_either_side(rng):
    found = length._coins(Config(replicates=60, n=400))
    # 9.5 and more: symmetric to a few percent, three standard errors of a share of 60
    assert abs(np.mean(found["coin_length"][:, -1] > 2.3) - 0.5) < 3 * 0.5 / np.sqrt(60)


def test_the_share_without_an_optimum_falls_with_width(result):
    share = np.mean(result["coin_length"] == np.inf, axis=0)
    assert (np.diff(share) <= 0).all() and share[0] > 0.4 and share[-1] == 0


def test_few_pairs_may_overshoot_and_many_do_not(result):
    optimum = result["turning_length"][0]
    assert np.mean(result["overshoot"] == np.inf) > 0.2
    many = length._coins(Config(replicates=2, n=20_000))["overshoot"]
    assert np.isfinite(many).all() and abs(np.median(many) / optimum - 1) < 0.3


def test_where_strings_end_no_better_minimum_is_found_and_where_not_training_lengthens(result):
    """Gradient descent on the normalized bigram, with the loss written out: two data sets, β√n = 1.4"""
    where = at(result, 1.4)[1]
    endless, ending = (int(np.flatnonzero(kind)[0]) for kind in (
        result["coin_length"][:, where] == np.inf, result["coin_length"][:, where] < 5))
    beta = 1.4 / np.sqrt(200)
    for replicate, runs_away in ((endless, True), (ending, False)):
        rng = np.random.default_rng([0, replicate])
        count = summed(drawn(400, rng)).reshape(200, 2, 9)
        flips = rng.random((2, 200, 1))
        apart = beta * np.where(flips[0] < 0.5, 1, -1) * (count[:, 0] - count[:, 1])
        W, means = np.log(REF), []
        for step in range(6001):
            p = softmax(W, axis=1)
            z = apart @ (np.log(p) - np.log(REF)).ravel()
            slope = (expit(-z) @ apart / 200).reshape(3, 3)
            W = W + 1.0 / beta**2 * (slope - p * slope.sum(axis=1, keepdims=True))
            if step in (3000, 6000):
                means.append(ngram.expected_length(softmax(W, axis=1)))
        if runs_away:
            assert means[1] > 1.2 * means[0] > 10
        else:
            assert_allclose(means, result["coin_length"][replicate, where], rtol=1e-3)


def test_the_curvature_is_the_third_moment_of_lengths_and_scores(monkeypatch):
    """tr(F⁻¹H), H = E (|y| - E|y|) s sᵀ, F = E s sᵀ, s the score: strings one by one, of a reference whose are short"""
    brief = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.75, 0.1, 0.15]])
    monkeypatch.setattr(_lengths, "REF", brief)
    monkeypatch.setattr(length, "REF", brief)
    texts = [text for n in range(13) for text in product((1, 2), repeat=n)]
    score = np.zeros((len(texts), 3, 3))
    for each, text in zip(score, texts, strict=True):
        for c, v in zip((0, *text), (*text, 0), strict=True):
            each[c] -= brief[c]
            each[c, v] += 1
    p = np.array([np.prod([brief[c, v] for c, v in zip((0, *text), (*text, 0), strict=True)]) for text in texts])
    s, n = score.reshape(-1, 9), np.array([len(text) for text in texts])
    H, F = s.T @ (s * (p * (n - p @ n))[:, None]), s.T @ (s * p[:, None])
    # differences of step 1e-3
    expected = np.trace(np.linalg.pinv(F, rcond=1e-8, hermitian=True) @ H)
    assert length._excess() == pytest.approx(expected, rel=1e-4) and expected > 0.1


@pytest.mark.slow
def test_on_average_coin_flips_add_what_the_curvature_says():
    found = length._coins(Config(replicates=200, n=4000))
    where = at(found, 100)
    added = 100**2 * ((found["coin_length"][where] + found["coin_mirrored"][where]) / 2 - 2.3)
    # three standard errors, and what is of order 1/n: 6 directions of 4,000 pairs, some fifty times
    assert abs(added.mean() - found["excess_limit"]) < 3 * added.std() / np.sqrt(200) + 0.08 * found["excess_limit"]


def test_length_is_convex_on_average_over_directions(rng):
    """Σ ∂²E|y|/∂W² of random bigrams is almost always positive; of one logit alone it need not be"""
    W, h = rng.normal(size=(200, 1, 3, 3)), 1e-2
    steps = h * np.eye(9).reshape(9, 3, 3)

    def mean(W):
        return lengths(np.log(softmax(W, axis=-1)) - np.log(REF))

    curvature = (mean(W + steps) + mean(W - steps) - 2 * mean(W)) / h**2
    assert np.mean(curvature.sum(axis=1) > 0) > 0.9
    assert np.mean(curvature > 0) < 0.9


# ---- two rewards

def test_chosen_less_rejected_label_by_label(result):
    short = every_short(4)
    for k, table in enumerate(TURNING):
        r = [sum(table[c, v] for c, v in zip((0, *text), (*text, 0), strict=True)) for text in short.texts]
        total = mass = 0.0
        for i, a in enumerate(short.texts):
            for j, b in enumerate(short.texts):
                if i != j:
                    met = short.ref[i] * short.ref[j]
                    total += met * (2 * expit(r[i] - r[j]) - 1) * (len(a) - len(b))
                    mass += met
        assert result["chosen_longer"][k] == pytest.approx(total / mass, abs=1e-12)


def test_the_optimum_of_a_reward_is_what_analytic_says(result):
    for k, table in enumerate(TURNING):
        best, _ = ngram.optimum(REF, table, 0.3)
        assert result["turning_length"][k] == pytest.approx(ngram.expected_length(best), rel=1e-10)
    assert result["path"][-1, 1] == pytest.approx(result["turning_length"][0], rel=0.02)
    assert result["path"][0].tolist() == [0, pytest.approx(2.3)]


# ---- other settings

def test_labels_without_an_optimum_have_no_length():
    beta_c = ngram.critical_beta(REF, QUALITY + 0.5 * TOKEN)
    warm, cold, coldest = (length._gain(Config(beta=beta)) for beta in (1.1 * beta_c, 0.9 * beta_c, 0.05))
    best, _ = ngram.optimum(REF, QUALITY + 0.5 * TOKEN, 1.1 * beta_c)
    assert warm["mean_length"] == pytest.approx(ngram.expected_length(best), rel=1e-12)
    assert warm["beta_c"] == pytest.approx(beta_c, rel=1e-12)
    assert np.isnan(cold["mean_length"]) and np.isnan(cold["regret_quality"]) and cold["mean_length_quality"] < 3
    assert ngram.critical_beta(REF, QUALITY) < 0.05 or np.isnan(coldest["mean_length_quality"])


def test_without_a_gain_nothing_is_lost():
    found = length._gain(Config(lam=0.0))
    assert found["mean_length"] == found["mean_length_quality"]
    assert abs(found["regret_quality"]) < 1e-12


@pytest.mark.parametrize("setting", [
    {"beta": 0.05, "lam": 0.0, "ratios": (0.002, 0.5, 4.0), "widths": (0.3, 7.0)},
    {"beta": 3.0, "lam": 1.0, "cap": 1, "n": 20, "turning_beta": 0.15, "seed": 7},
    {"turning_beta": 2.0, "longest": 1, "ratios": (2.0,)},
])
def test_other_settings_run(setting):
    config = Config(**(SMALL | setting))
    found = length.run(config)
    assert found["limited_length"].shape == found["all_length"].shape == (len(config.ratios),)
    assert found["limited_length"].max() <= config.longest
    assert found["coin_length"].shape == (4, len(found["width"])) and set(CLAIMED) < set(found["width"].tolist())
    assert ((found["all_length"] == np.inf) == (found["ratio"] <= 1)).all()
    assert len(length.claims(found)) == len(BROKEN)
    for draw in length.PANELS:
        draw(found)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.mark.parametrize(("setting", "message"), [
    ({"beta": 0.0}, "beta is 0.0; expected a finite number above 0"),
    ({"lam": -1.0}, "lam is -1.0; expected a finite number, at least 0"),
    ({"ratios": ()}, "ratios is empty; expected at least one value"),
    ({"widths": (1.0, 0.0)}, r"widths holds 0.0; expected a finite number above 0"),
    ({"n": 5}, "n is 5; expected a whole number, at least 20"),
    ({"longest": 0}, "longest is 0; expected a whole number, at least 1"),
    ({"letters": 1}, "letters is 1; expected a whole number, at least 2"),
    ({"turning_beta": float("inf")}, "turning_beta is inf; expected a finite number"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)


def test_the_curves_of_two_rewards_are_those_of_their_optima(result):
    for row in (0, 30):
        beta = result["turning_betas"][row]
        expected = [ngram.expected_length(ngram.optimum(REF, table, beta)[0]) for table in TURNING]
        assert_allclose(result["turning_lengths"][row], expected, rtol=1e-9)
    assert result["share_overshoot_endless"] == np.mean(result["overshoot"] == np.inf)
