"""Fixes of labels that gain by length: each claim can fail, and minima are those of the registry's losses."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import expit, softmax

import dpo_numpy as dn
from analytic import ngram, optimum
from toy_models import Tabular, bandit
from toy_models.experiments import length_of_labels
from toy_models.experiments._lengths import QUALITY, REF, TOKEN, every_short
from toy_models.experiments.length_of_labels import LOSSES, Config


def replaced(result, key, row, value):
    changed = np.array(result[key], copy=True)
    changed[row] = value
    return {**result, key: changed}


#: the beginning of a claim; what is put in the place of a measurement
BROKEN = {
    "R-DPO with α = λ": lambda r: replaced(r, "r_dpo_regrets", (1, r["r_dpo_swept"] == r["lam"]), 1e-9),
    "R-DPO, trained on short": lambda r: {**r, "kl_all_r_dpo": np.array(1e-8)},
    "trained alike": lambda r: {**r, "kl_all_dpo": np.array(1e-3)},
    "R-DPO with another": lambda r: {**r, "wrong_alpha": 2 * r["wrong_alpha"]},
    "no other fix": lambda r: {**r, "best_regret_simpo": np.array(0.01)},
    "without the gain": lambda r: {**r, "unbiased_best_regret_ld_dpo": np.array(1e-9)},
    "but dividing": lambda r: {**r, "unbiased_best_regret_ln_dpo": np.array(1e-4)},
    "LD-DPO hardly": lambda r: replaced(r, "ld_dpo_lengths", (1, 0), 1.6),
    "length control": lambda r: {**r, "controlled_win_dpo": r["raw_win_dpo"]},
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail_and_alone(name, result):
    found = length_of_labels.claims(BROKEN[name](result))
    claim, = (key for key in found if key.startswith(name))
    assert [key for key in found if not found[key].holds] == [claim]


def test_there_is_a_way_to_break_every_claim(result):
    found = length_of_labels.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


# ---- the minima

SHORT = every_short(2)
LETTERS = SHORT.length - 1


def along(table):
    return np.array([sum(table[c, v] for c, v in zip((0, *text), (*text, 0), strict=True)) for text in SHORT.texts])


@pytest.mark.parametrize(("name", "loss", "value"), [
    ("dpo", dn.LOSSES["dpo"](beta=0.9), 0.9),
    ("r_dpo", dn.LOSSES["r_dpo"](beta=0.6, alpha=0.2), 0.2),
    ("ln_dpo", dn.LOSSES["ln_dpo"](beta=5.0), 5.0),
    ("simpo", dn.LOSSES["simpo"](beta=2.0, gamma=0.0), 2.0),
])
def test_minima_are_those_of_the_registrys_losses(name, loss, value):
    """SciPy on the logits of a table; lengths are told, as responses of a table are single tokens"""
    gained = along(QUALITY) + 0.5 * SHORT.length
    world, policy = bandit([gained.tolist()]), Tabular(len(gained))
    pairs = world.population(SHORT.ref)

    def f(x):
        logp = np.log(softmax(x))[pairs.index]
        each, grad = loss(logp, np.log(SHORT.ref)[pairs.index], SHORT.length[pairs.index], weight=pairs.weight)
        slope = np.zeros(len(x))
        np.add.at(slope, pairs.index, grad)
        return pairs.weight @ each, slope - softmax(x) * slope.sum()

    assert policy.vocab == len(gained)
    found = softmax(minimize(f, np.log(SHORT.ref), jac=True, method="BFGS", options={"gtol": 1e-10}).x)
    pi, = length_of_labels._minima(name, np.array([value]), SHORT, gained, 0.6)
    assert_allclose(pi, found, rtol=0, atol=1e-6)


def test_simpo_does_not_know_the_reference():
    gained, other = along(QUALITY), SHORT._replace(ref=SHORT.ref[::-1])
    for name, knows in (("simpo", False), ("ln_dpo", True)):
        two = [length_of_labels._minima(name, np.array([3.0]), short, gained, 1.0) for short in (SHORT, other)]
        assert (abs(two[0] - two[1]).max() > 1e-3) == knows


def test_regret_and_length_are_those_of_the_minimum(result):
    short = every_short(4)
    q = short.summed @ QUALITY.ravel()
    J_star = np.log(short.ref @ np.exp(q))
    for labels, prefix in enumerate(("unbiased_", "")):
        w = short.ref * np.exp(q + 0.5 * labels * short.length)
        pi = w / w.sum()
        J = pi @ q - pi @ np.log(pi / short.ref)
        assert result[f"{prefix}regret_dpo"] == pytest.approx(J_star - J, abs=1e-12)
        assert result[f"{prefix}mean_length_dpo"] == pytest.approx(pi @ [len(text) for text in short.texts], rel=1e-12)
        w = w * np.exp(-0.1 * short.length)
        assert result[f"{prefix}mean_length_r_dpo"] == pytest.approx(
            w @ [len(text) for text in short.texts] / w.sum(), rel=1e-12)


def test_the_configured_value_is_beside_the_swept_ones(result):
    swept = length_of_labels._swept(Config())
    assert [each for _, each in swept.values()] == [1.0, 0.1, 5.0, 2.0, 0.5]
    for name, (values, _) in swept.items():
        assert result[f"{name}_regrets"].shape == result[f"{name}_lengths"].shape == (2, len(values))
        least = min(result[f"{name}_regrets"][1].min(), result[f"regret_{name}"])
        assert result[f"best_regret_{name}"] == least
    where = result["ld_dpo_swept"] == 0.5
    assert result["ld_dpo_regrets"][1][where] == pytest.approx(float(result["regret_ld_dpo"]), rel=1e-9)


def test_ld_dpo_may_lengthen_and_where_responses_are_equally_long_is_dpo(result):
    assert result["ld_dpo_lengths"][1].max() > result["mean_length_dpo"]
    assert result["ld_dpo_lengths"][0].max() == pytest.approx(result["unbiased_mean_length_dpo"], rel=1e-9)


def test_trained_bigrams_say_what_the_optimum_says(result):
    # close to its critical β DPO gets there slowly
    for name, reward, within in (("dpo", QUALITY + 0.5 * TOKEN, 1e-3), ("r_dpo", QUALITY, 1e-6)):
        best, _ = ngram.optimum(REF, reward, 1.0)
        assert result[f"length_all_{name}"] == pytest.approx(ngram.expected_length(best), rel=within)


# ---- win rates

def test_win_rates_label_by_label(result):
    pi = optimum.boltzmann(SHORT.ref, along(QUALITY) + 0.5 * SHORT.length, 1.0)
    quality, raw, controlled = length_of_labels._win_rates(pi, SHORT, along(QUALITY), 0.5)
    r, n, rows = along(QUALITY), SHORT.length, range(len(pi))
    assert quality == pytest.approx(sum(pi[i] * SHORT.ref[j] * expit(r[i] - r[j]) for i in rows for j in rows))
    judged = np.array([[expit(r[i] - r[j] + 0.5 * (n[i] - n[j])) for j in rows] for i in rows])
    assert raw == pytest.approx((pi[:, None] * SHORT.ref * judged).sum())

    def loss(theta):
        z = theta[0] + theta[1] * np.subtract.outer(n, n)
        return (pi[:, None] * SHORT.ref * (judged * np.logaddexp(0, -z) + (1 - judged) * np.logaddexp(0, z))).sum()

    assert controlled == pytest.approx(expit(minimize(loss, np.zeros(2), tol=1e-12).x[0]), abs=1e-6)


def test_length_control_of_a_judge_of_length_alone_finds_nothing():
    pi = optimum.boltzmann(SHORT.ref, 1.0 * SHORT.length, 1.0)
    quality, raw, controlled = length_of_labels._win_rates(pi, SHORT, np.zeros(len(pi)), 0.7)
    assert quality == pytest.approx(0.5, abs=1e-14) and controlled == pytest.approx(0.5, abs=1e-12) and raw > 0.52


# ---- other settings

@pytest.mark.parametrize("setting", [
    {"lam": 0.0},
    {"beta": 0.2, "lam": 0.3, "letters": 3, "ld_alpha": 0.0, "alpha": -0.5},
    {"beta": 4.0, "ln_beta": 0.5, "simpo_beta": 30.0, "ld_alpha": 1.0},
])
def test_other_settings_run(setting):
    import matplotlib.pyplot as plt

    config = Config(**({"letters": 2, "steps": 20} | setting))
    found = length_of_labels.run(config)
    for name in LOSSES:
        assert -1e-12 < found[f"best_regret_{name}"] <= found[f"regret_{name}"]
        assert 0 <= found[f"mean_length_{name}"] <= config.letters
        assert 0 < found[f"win_{name}"] < 1
    assert len(length_of_labels.claims(found)) == len(BROKEN)
    for draw in length_of_labels.PANELS:
        draw(found)
    plt.close("all")


def test_where_quality_has_no_optimum_over_all_strings_there_is_no_distance_to_it():
    found = length_of_labels.run(Config(beta=0.5 * ngram.critical_beta(REF, QUALITY), letters=2, steps=1))
    assert np.isnan(found["kl_all_dpo"]) and np.isnan(found["kl_all_r_dpo"]) and np.isfinite(found["regret_dpo"])


@pytest.mark.parametrize(("setting", "message"), [
    ({"beta": -1.0}, "beta is -1.0; expected a finite number above 0"),
    ({"simpo_beta": 0.0}, "simpo_beta is 0.0; expected a finite number above 0"),
    ({"lam": -0.1}, "lam is -0.1; expected a finite number, at least 0"),
    ({"ld_alpha": 1.5}, "ld_alpha is 1.5; expected at most 1"),
    ({"letters": 1}, "letters is 1; expected a whole number, at least 2"),
    ({"alpha": float("nan")}, "alpha is nan; expected a finite number"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)
