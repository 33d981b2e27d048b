"""The negative gradient: each claim can fail; the numbers are known figures, or those of loops and differences."""

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit, log_softmax, softmax

import dpo_numpy as dn
from toy_models import MLP, NGram
from toy_models.experiments import negative_gradient as experiment
from toy_models.experiments.negative_gradient import EDITED, LANGUAGE, UNSEEN, Config

SMALL = Config(replicates=3, steps=10, language_steps=20, network_steps=4, problems=5, longest=1)


@pytest.fixture(scope="module")
def small():
    return experiment.run(SMALL)


def changed(result, name, at, value):
    found = np.array(result[name], copy=True)
    found[at] = value
    return {**result, name: found}


#: the beginning of a claim's name; what is put in the place of a measurement
BROKEN = {
    "alone, the pushed never": lambda r: {**r, "against": np.array(1e-3)},
    "alone, a bystander rises iff": lambda r: {**r, "wrong_sign": np.array(1)},
    "alone, bystanders go apart": lambda r: {**r, "alone_ratio": np.array(0.0)},
    "in a pair they keep": lambda r: {**r, "pair_ratio": np.array(1e-3)},
    "the imbalance": lambda r: {**r, "units_off": np.array(2.0)},
    "an unseen response rises": lambda r: changed(r, "unseen", (0, 3, 2), 0.72),
    "from where the chosen is likelier": lambda r: changed(r, "unseen", (1, 3, 2), 0.7),
    "strings: contexts that both": lambda r: {**r, "kept_ratio": np.array(1e-3)},
    "strings: where only the rejected": lambda r: {**r, "squeezed": np.array(-0.1)},
    "strings: where only the chosen": lambda r: {**r, "flattened": np.array(0.1)},
    "a pair is convex iff": lambda r: {**r, "convexity_wrong": np.array(1)},
    "of two outcomes": lambda r: {**r, "two_convex": np.array(0)},
    "a table of trigrams": lambda r: changed(r, "table_change", (1, -1), 1e-9),
    "shared weights push": lambda r: changed(r, "dpo_change", (slice(None), 0), 0.0) | {"far": np.arange(8) == 0},
    "the chosen's likelihood": lambda r: {**r, "rpo_change": r["dpo_change"]},
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail_alone(name, result):
    found = experiment.claims(BROKEN[name](result))
    failed, = (key for key, claim in found.items() if not claim.holds)
    assert failed.startswith(name)


def test_there_is_a_way_to_break_every_claim(result):
    found = experiment.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


# ---- tables

def test_known_figures_of_squeezing(result):
    """Ren & Sutherland's p = (0.70, 0.20, 0.08, 0.02), steps of 1 and 3"""
    golden = [[0.8064, 0.1397, 0.0496, 0.0043], [0.9244, 0.0589, 0.0164, 0.0002]]
    assert_allclose(result["once"], golden, rtol=0, atol=5e-5)


def test_the_paths_of_a_table_are_those_of_loops(small):
    ref = np.array([0.70, 0.20, 0.08, 0.02])
    alone, pair = np.log(ref), np.log(ref)
    for step in range(11):
        assert_allclose(small["alone"][step], log_softmax(alone), rtol=0, atol=1e-12)
        assert_allclose(small["pair"][step], log_softmax(pair), rtol=0, atol=1e-12)
        alone = alone - 0.1 * (np.eye(4)[3] - softmax(alone))
        margin = pair[1] - pair[3] - np.log(0.2 / 0.02)
        pair = pair + 0.2 * expit(-0.1 * margin) * (np.eye(4)[1] - np.eye(4)[3])
    assert small["alone_ratio"] > 1e-2 > small["pair_ratio"]


def test_a_bystander_below_the_rule_falls_and_one_above_rises():
    """π = (0.5, 0.3, 0.2), the third pushed down: |π|² - 0.2 = 0.18, and both others rise"""
    for p, pushed, signs in (((0.5, 0.3, 0.2), 2, (1, 1, -1)), ((0.55, 0.3, 0.1, 0.05), 3, (1, -1, -1, -1)),
                             ((0.5, 0.3, 0.2), 0, (-1, 1, 1))):
        p = np.array(p)
        step = 1e-6 * (p - np.eye(len(p))[pushed])
        assert (np.sign(log_softmax(np.log(p) + step) - np.log(p)) == signs).all()
        others = np.arange(len(p)) != pushed
        assert ((p > p @ p - p[pushed])[others] == (np.array(signs) > 0)[others]).all()


def test_some_bystanders_fall(result):
    assert 0.05 < result["falls"] < 0.95
    assert result["rates_off"] < 1e-13


def test_a_loss_that_knows_more_than_the_gap_moves_the_ratios(result):
    assert result["nll_ratio"] > 0.01


def test_known_figures_of_an_unseen_response(result):
    """0.70, 0.71, and 0.015 where the margin has grown by 12.28 nats: 0.7/(0.1 e^6.14 + 0.2 e^-6.14 + 0.7)"""
    path = result["unseen"][0]
    margin = np.log(path[:, 0] / path[:, 1]) - np.log(0.5)
    assert path[0, 2] == pytest.approx(0.70) and path[:, 2].max() == pytest.approx(0.71, abs=5e-3)
    assert np.interp(12.28, margin, path[:, 2]) == pytest.approx(0.015, abs=2e-4)
    assert result["unseen_off"] < 1e-12


def test_the_top_of_an_unseen_response_is_that_of_a_search(small):
    u = np.linspace(-1, 3, 400_001)
    for ref, top in zip(UNSEEN, small["unseen_top"], strict=True):
        there = ref[2] / (ref[0] * np.exp(u[u >= 0]) + ref[1] * np.exp(-u[u >= 0]) + ref[2])
        assert top == pytest.approx(there.max(), abs=1e-10)


# ---- strings

def test_known_figures_of_a_bigram_in_which_only_the_rejected_meets_a_context():
    W = np.log([[0.2, 0.4, 0.4], [0.3, 0.3, 0.4], [0.2, 0.2, 0.6]])
    path = np.exp(experiment._language(W, [1, 0], [2, 1, 0], 1.0, 1.0, 500))
    assert path[[0, -1], 2, 2] == pytest.approx([0.60, 0.91], abs=5e-3)  # its likeliest
    ratio = path[:, 2, 0] / path[:, 2, 2]
    assert ratio[-1] < 0.5 * ratio[0]


@pytest.mark.parametrize(("chosen", "rejected"), [([3, 1, 0], [2, 1, 0]), ([1, 1, 2, 0], [2, 1, 0]),
                                                  ([0], [4, 4, 4, 0]), ([2, 3, 2, 0], [3, 2, 3, 0])])
def test_a_context_keeps_its_p_with_the_factor_of_its_visits(chosen, rejected):
    """A step moves row c by n_w(c, ·) - n_l(c, ·) - (n_w(c) - n_l(c)) p(·|c): differences of what is said by neither"""
    path = experiment._language(np.log(LANGUAGE), chosen, rejected, 0.1, 1.0, 1)
    push = 0.1 / 2
    for c in range(5):
        said = [[v for before, v in zip([0, *y], y, strict=False) if before == c] for y in (chosen, rejected)]
        silent = [v for v in range(5) if v not in said[0] + said[1]]
        moved = (path[1] - path[0])[c, silent]
        visits = len(said[0]) - len(said[1])
        assert_allclose(moved - moved[0], -push * visits * (LANGUAGE[c, silent] - LANGUAGE[c, silent[0]]),
                        rtol=0, atol=1e-13)


def test_what_a_context_does_is_decided_by_who_visits_it(result):
    path = result["language"]
    assert_allclose(path[0], LANGUAGE, rtol=0, atol=1e-15)
    assert path[-1, 2, 3] > 0.9 and path[-1, 3, 3] < 0.1
    ratio = path[:, 0, 1] / path[:, 0, 4]
    assert_allclose(ratio, ratio[0], rtol=1e-11)
    assert abs(path[-1, 0, 4] - path[0, 0, 4]) > 0.05  # and yet they move


def test_convexity_is_that_of_differences():
    """H = β² σσ' m mᵀ + βσ(-βm) Σ_c (n_w - n_l)(c) (diag p - p pᵀ), assembled by hand for all pairs of two letters"""
    config = Config(replicates=2, longest=1)
    found = experiment._convexity(config)
    strings = [(), (1,), (2,)]
    wrong = 0
    for w, lost in product(strings, repeat=2):
        if w == lost:
            continue
        for replicate in range(2):
            W = NGram(3).init(np.random.default_rng([0, replicate]))["W"]
            p, slope, bend, margin, rule = softmax(W, axis=1), np.zeros((3, 3)), np.zeros((9, 9)), 0.0, True
            for sign, y in ((1, w), (-1, lost)):
                for c, v in zip((0, *y), (*y, 0), strict=True):
                    slope[c, v] += sign
                    slope[c] -= sign * p[c]
                    margin += sign * np.log(p[c, v])
                    bend[3 * c:3 * c + 3, 3 * c:3 * c + 3] += sign * (np.diag(p[c]) - np.outer(p[c], p[c]))
            for c in range(3):
                rule &= (0, *w).count(c) >= (0, *lost).count(c)
            H = expit(margin) * expit(-margin) * np.outer(slope, slope) + expit(-margin) * bend
            wrong += (np.linalg.eigvalsh(H)[0] > -1e-12) != rule
    assert wrong == found["convexity_wrong"] == 0
    assert found["convexity_cases"] == 12 and found["two_cases"] == 2 * 10


@pytest.mark.slow
def test_the_rule_of_convexity_holds_for_longer_strings():
    found = experiment._convexity(Config(longest=4, replicates=8, seed=7))
    assert found["convexity_cases"] == 8 * 31 * 30
    assert found["convexity_wrong"] == 0
    assert 0 < found["two_convex"] < found["two_cases"]


# ---- shared weights

def test_networks_are_trained_as_one_by_one(small):
    """By `dn.train`, each with its own reference"""
    pair, policy = dn.Preferences.of([[0]], [EDITED[0]], [EDITED[1]]), MLP(7, 3, 3, 6)
    losses = {"dpo": (dn.LOSSES["dpo"](beta=0.1), 0.3), "dpop": (dn.LOSSES["dpop"](beta=0.1, lam=50.0), 0.05),
              "rpo": (dn.LOSSES["rpo"](beta=0.1, alpha=1.0, nll="sum"), 0.05)}
    for replicate in range(3):
        rng = np.random.default_rng([0, replicate])
        start = {name: rng.normal(size=p.shape) for name, p in policy.init(rng).items()}
        for name, (loss, lr) in losses.items():
            *_, last = dn.train(policy, start, [pair.with_reference(policy, start)] * 4, loss, dn.sgd(lr))
            change = np.diff([log_softmax(policy.logits(params, pair.responses.tokens)[0], axis=-1)[0][
                np.arange(8), EDITED[0]] for params in (start, last.params)], axis=0)[0]
            assert_allclose(small[f"{name}_change"][replicate], change, rtol=0, atol=1e-9)


def test_only_contexts_with_the_edit_move_in_a_table_and_all_do_where_weights_are_shared(small):
    assert small["far"].tolist() == [True, True, False, False, False, True, True, True]
    assert (small["table_change"][:, small["far"]] == 0).all()
    assert (abs(small["table_change"][:, ~small["far"]]) > 1e-6).all()
    assert (abs(small["dpo_change"]) > 1e-9).all()


def test_dpop_keeps_the_chosen_as_a_whole_where_dpo_lets_it_fall(result):
    assert result["dpop_change"].sum(axis=1).min() > -0.05
    assert result["dpo_change"].sum(axis=1).min() < -1
    assert 0 < result["chosen_falls"] < 1
    assert result["dpop_far"] - result["dpo_far"] > 0.5


# ---- other settings

@pytest.mark.parametrize("setting", [
    {"ref": (0.1, 0.2, 0.3, 0.15, 0.25), "chosen": 0, "rejected": 2, "beta": 1.0, "push": 0.5, "seed": 4},
    {"ref": (0.25, 0.25, 0.25, 0.25), "hidden": 12, "width": 2, "lam": 1.0, "alpha": 0.0, "language_steps": 1},
])
def test_other_settings(setting):
    found = experiment.run(Config(**{**vars(SMALL), **setting}))
    claims = experiment.claims(found)
    assert all(claim.evaluated for claim in claims.values())
    assert found["alone"].shape == (11, len(setting["ref"])) and np.isfinite(found["dpo_change"]).all()
    for name in ("alone, the pushed never", "in a pair they keep", "the imbalance", "strings: where only the rejected",
                 "a pair is convex iff", "a table of trigrams"):
        assert [claim.holds for key, claim in claims.items() if key.startswith(name)] == [True], name
    for draw in experiment.PANELS:
        import matplotlib.pyplot as plt

        plt.close(draw(found).figure)


@pytest.mark.parametrize(("setting", "message"), [
    ({"beta": 0.0}, "beta is 0.0; expected a finite number above 0"),
    ({"ref": (0.5, 0.3, 0.2)}, "ref holds 3 numbers of sum 1; expected 4 or more of sum 1"),
    ({"ref": (0.5, 0.3, 0.2, 0.2)}, "ref holds 4 numbers of sum 1.2; expected 4 or more of sum 1"),
    ({"chosen": 3}, "chosen and rejected are 3 and 3; expected two different ones of 0 to 3"),
    ({"rejected": 4}, "chosen and rejected are 1 and 4; expected two different ones of 0 to 3"),
    ({"network_steps": 0}, "network_steps is 0; expected a whole number, at least 1"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)
