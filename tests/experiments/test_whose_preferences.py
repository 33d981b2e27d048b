"""Whose preferences: each claim can fail, the votes are counted by hand and by SciPy, settings are obeyed."""

from itertools import permutations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit

import dpo_numpy as dn
from analytic import population, voting
from toy_models.experiments import whose_preferences
from toy_models.experiments._config import streams
from toy_models.experiments.whose_preferences import EXAMPLE, STAKES, Config, trained

SMALL = Config(replicates=6, responses=3, rounds=20, copies=(0, 2))


@pytest.fixture(scope="module")
def small():
    return whose_preferences.run(SMALL)


# ---- the claims

def replaced(result, key, at, value):
    changed = np.array(result[key], copy=True)
    changed[at] = value
    return {**result, key: changed}


#: the beginning of a claim's sentence; what is put in the place of a measurement
BROKEN = {
    "all pairs alike": lambda r: replaced(r, "order", (3, 0, 1), False),
    "pairs of μ: DPO and IPO": lambda r: replaced(r, "order", (3, 1, 0), False),
    "pairs of μ: who": lambda r: {**r, "moved": np.array(0.1)},
    "other weights": lambda r: replaced(r, "order", (slice(None), 2, 0), True),
    "DPO does not always": lambda r: {**r, "missed": np.array(0.0)},
    "clones: without": lambda r: replaced(r, "clone_gap", 0, -0.1),
    "clones: with copies": lambda r: replaced(r, "clone_gap", -1, 0.1),
    "clones: Nash": lambda r: replaced(r, "clone_nash", 2, 0.9),
    "KTO drops": lambda r: replaced(r, "kto_losers", 5, 0.1),
    "DPO does not drop": lambda r: {**r, "dpo_losers": r["kto_losers"]},
    "cycle: DPO and IPO": lambda r: replaced(r, "cycle_stays", 1, 1e-6),
    "cycle: self-play": lambda r: replaced(r, "cycle_kl", 7, 0.0),
    "cycle: but the mean": lambda r: {**r, "cycle_mean": r["cycle_last"]},
    "judges: labels of λr": lambda r: replaced(r, "combined", 3, 1e-6),
    "judges: labels of r or s": lambda r: {**r, "mixed": r["combined"]},
    "judges: policies mixed": lambda r: replaced(r, "mixture", 3, 1e-6),
    "judges: mixed with": lambda r: {**r, "naive": r["mixture"]},
    "judges: votes": lambda r: replaced(r, "stakes", 0, -1.4),
    "judges: labels of the mean": lambda r: replaced(r, "stakes", 1, 0.3),
    "verifier: DPO": lambda r: {**r, "dpo_success": r["grpo_success"]},
    "verifier: on certain": lambda r: {**r, "dpo_certain": r["dpo_success"]},
    "verifier: GRPO's iteration ends": lambda r: replaced(r, "grid_grpo", 4, 0.0),
    "verifier: GRPO's iteration, begun": lambda r: {**r, "grpo_sure": r["grpo_success"]},
    "verifier: groups": lambda r: {**r, "silent": r["silent"] + 0.02},
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail_by_itself(name, result):
    found = whose_preferences.claims(BROKEN[name](result))
    assert [key for key, claim in found.items() if not claim.holds] == [key for key in found if key.startswith(name)]


def test_there_is_a_way_to_break_every_claim(result):
    found = whose_preferences.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


# ---- votes

def by_scipy(wins):
    K = len(wins)

    def risk(u):
        return -(wins * log_expit(u[:, None] - u)).sum() + 1e-3 * u.mean() ** 2

    return minimize(risk, np.zeros(K), method="BFGS", options={"gtol": 1e-9}).x


def test_training_ends_where_scipy_does(rng):
    P = rng.uniform(0.1, 0.9, (4, 4))
    P = np.triu(P, 1) + np.tril(1 - P.T, -1)
    u = by_scipy(P / 6)
    found = trained(dn.LOSSES["dpo"](beta=0.5), P / 6, np.full(4, 0.25))
    np.testing.assert_allclose(0.5 * found, u - u.mean(), atol=1e-6)


def test_the_orders_are_those_of_a_count_by_hand():
    config = Config(replicates=30, responses=4)
    result = whose_preferences._votes(config, streams(0, 30))
    orders, elected, winners, moved, losing = np.zeros((30, 3), bool), [], [], [], []
    for r, rng in enumerate(streams(0, 30)):
        draw, mu, W = rng.random((4, 4)), rng.dirichlet(np.ones(4)), rng.random((4, 4))
        P = np.array([[draw[i, j] if i < j else 1 - draw[j, i] if i > j else 0.5 for j in range(4)] for i in range(4)])
        mu = (mu + 0.02) / 1.08
        borda = [sum(P[i, j] for j in range(4)) for i in range(4)]
        against = [sum(mu[j] * P[i, j] for j in range(4)) for i in range(4)]
        weights = (np.ones((4, 4)), np.outer(mu, mu), W + W.T)
        fits = [by_scipy(P * w * ~np.eye(4, dtype=bool) / w.sum()) for w in weights]
        scores = (borda, against, borda)
        orders[r] = [list(np.argsort(u)) == list(np.argsort(s)) for u, s in zip(fits, scores, strict=True)]
        elected.append(int(np.argmax(fits[0])))
        pi = np.exp(fits[0] / 0.5) / np.exp(fits[0] / 0.5).sum()
        losing.append(sum(pi[i] for i in range(4) if borda[i] < 2))
        beats = [all(P[i, j] > 0.5 for j in range(4) if j != i) for i in range(4)]
        winners.append(beats.index(True) if any(beats) else -1)
        moved.append(list(np.argsort(borda)) != list(np.argsort(against)))
    np.testing.assert_array_equal(result["order"][..., 0], orders)
    np.testing.assert_array_equal(result["elected"], elected)
    np.testing.assert_array_equal(result["winner"], winners)
    assert result["moved"] == np.mean(moved)
    np.testing.assert_allclose(result["dpo_losers"], losing, atol=1e-5)
    assert not orders[:, 2].all() and orders[:, :2].all()


def test_what_the_proofs_of_bordas_order_say_holds(result):
    assert result["borda_gap"] < 1e-9  # mean σ(βh) over responses, the own one as a tie
    assert result["ipo_gap"] < 1e-9  # log π/π_ref - P(y ≻ μ)/τ


def test_condorcet_winners_are_missed_as_often_as_in_another_count(result):
    """Which missed 87 of 1107: within three standard errors of either"""
    there = (result["winner"] >= 0).sum()
    assert abs(result["missed"] - 87 / 1107) < 3 * np.sqrt(0.08 * 0.92 * (1 / there + 1 / 1107))
    assert result["broken"] > 0.5


def test_who_wins_among_clones_is_bordas_by_hand(result):
    """0: 0.6 + 0.7 n, 1: 0.4 + n; log-odds 0 where n = 2/3, and of two alone logit 0.6"""
    for n, gap in zip(result["copies"], result["clone_gap"], strict=True):
        assert np.sign(gap) == np.sign(0.6 + 0.7 * n - (0.4 + n))
    assert result["clone_gap"][0] == pytest.approx(logit(0.6), abs=1e-9)
    assert voting.condorcet(EXAMPLE) == 0
    # ties of clones with each other do not tell them apart from one response of that weight
    who = [0, 1, 2, 2]
    P = EXAMPLE[np.ix_(who, who)] * ~np.eye(4, dtype=bool)
    merged = np.array([[0, 0.6, 1.4], [0.4, 0, 2.0], [0.6, 0.0, 0]]) / 6
    u, v = by_scipy(P / 6), trained(dn.LOSSES["dpo"](beta=1.0), merged, np.full(3, 1 / 3))
    assert u[0] - u[1] == pytest.approx(v[0] - v[1], abs=1e-5)


def test_kto_keeps_winners_alone():
    """Of win rates 0.7, 0.55 and 0.25 against all"""
    P = np.array([[0.5, 0.7, 0.9], [0.3, 0.5, 0.85], [0.1, 0.15, 0.5]])
    pi = whose_preferences.softmax(trained(
        dn.LOSSES["kto"](beta=0.5), P * ~np.eye(3, dtype=bool) / 3, np.full(3, 1 / 3)))
    assert pi[2] < 1e-3 < 0.1 < pi[1]


# ---- cycle, judges, verifier

def test_a_cycle_that_is_not_symmetric_moves_dpo():
    P = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]])
    wins = P * ~np.eye(3, dtype=bool) / 3
    assert abs(trained(dn.LOSSES["dpo"](beta=0.5), wins, np.array([0.5, 0.3, 0.2]))).max() > 0.1


def test_a_cycle_of_no_strength_has_nothing_to_turn():
    found = whose_preferences._cycle(Config(strength=0.5, rounds=5))
    np.testing.assert_allclose(found["cycle_path"], found["cycle_path"][:1].repeat(6, axis=0), atol=1e-12)
    np.testing.assert_allclose(found["cycle_regularized"], found["cycle_ref"], atol=1e-12)


def test_mixed_labels_are_those_of_the_better_policy_of_two_by_hand():
    config = Config(replicates=3, responses=3)
    found = whose_preferences._judges(config, streams(0, 3))
    for k, rng in enumerate(streams(0, 3)):
        (r, s), ref = rng.normal(size=(2, 3)), rng.dirichlet(np.full(3, 3.0))
        wins = np.zeros((3, 3))
        for i, j in permutations(range(3), 2):
            wins[i, j] = (0.4 * expit(r[i] - r[j]) + 0.6 * expit(s[i] - s[j])) / 3
        best, pi = (ref * np.exp(x) for x in ((0.4 * r + 0.6 * s) / 0.5, by_scipy(wins) / 0.5))
        assert found["mixed"][k] == pytest.approx(abs(pi / pi.sum() - best / best.sum()).max(), abs=1e-6)
        own = (r / 0.5, s / 2.0)
        naive, target = (ref * np.exp(x) for x in (0.4 * own[0] + 0.6 * own[1], (0.4 * r + 0.6 * s) / (0.2 + 1.2)))
        assert found["naive"][k] == pytest.approx(abs(naive / naive.sum() - target / target.sum()).max(), abs=1e-12)


def test_votes_are_a_mean_of_probabilities(result):
    expected = logit(0.6 * expit(3.0) + 0.4 * expit(-8.0))
    assert result["stakes"][0] == pytest.approx(expected, abs=1e-9)
    assert 0.6 * STAKES[0, 0] + 0.4 * STAKES[1, 0] == pytest.approx(-1.4)


def test_the_fixed_point_of_grpo_is_the_published_one(result):
    """p₀ = 0.2, β = 3: 0.336114 from there, 1 from near 1; and by the inner problems over all four responses"""
    assert result["grpo_success"] == pytest.approx(0.336114, abs=5e-7)
    assert result["grpo_sure"] == pytest.approx(1.0, abs=5e-7)
    assert result["grpo_iterated"] == pytest.approx(float(result["grpo_success"]), abs=1e-9)


def test_best_of_n_is_right_unless_all_are_wrong(result):
    assert result["best_success"] == pytest.approx(1 - 0.8**4, abs=1e-12)
    np.testing.assert_allclose(result["grid_best"], 1 - (1 - result["grid"]) ** 4)


def test_a_verifiers_labels_by_hand():
    """A right response beats a wrong one with probability σ(1): log-ratios of right and wrong differ by 1/β"""
    found = whose_preferences._verifier(Config(success=0.3, beta=0.25), np.random.default_rng(0))
    odds = found["dpo_success"] / (1 - found["dpo_success"])
    assert np.log(odds / (0.3 / 0.7)) == pytest.approx(1 / 0.25, abs=1e-8)
    wins = population.bradley_terry_wins([1.0, 0.0])
    assert wins[0, 1] == pytest.approx(expit(1.0))


# ---- settings

def test_what_swings_for_ever_is_not_a_number():
    assert np.isnan(whose_preferences._rest(0.002, 0.002, 3.0))
    assert whose_preferences._rest(0.2, 0.2, 3.0) == pytest.approx(0.336114, abs=5e-7)


def test_other_settings_run(small):
    assert small["order"].shape == (6, 3, 2) and small["cycle_path"].shape == (21, 3)
    assert small["copies"].tolist() == [0, 2] and small["clone_gap"].shape == (2,)
    other = whose_preferences.run(Config(replicates=2, responses=6, beta=2.0, tau=0.1, strength=0.3, lam=0.7,
                                         spread=0.5, success=0.05, best_of=16, group=2, rounds=5, copies=(1,)))
    assert all(np.isfinite(x).all() for name, x in other.items() if x.dtype.kind == "f" and name not in (
        "missed", "grid_grpo", "grpo_success"))
    assert other["best_success"] == pytest.approx(1 - 0.95**16, abs=1e-9)
    claims = whose_preferences.claims(other)
    assert claims["cycle: DPO and IPO stay at the reference: largest |log-ratio|"].holds
    assert claims["judges: policies mixed with weights λβ/Σλβ make its π* at β = Σλβ: max |difference|"].holds
    # there was no 0 among the copies: nothing to say
    assert not next(claim for key, claim in claims.items() if key.startswith("clones: without")).evaluated


def test_replicates_do_not_know_how_many_there_are(small):
    fewer = whose_preferences.run(Config(**{**vars(SMALL), "replicates": 4}))
    for name in whose_preferences.REPLICATED:
        np.testing.assert_allclose(fewer[name], small[name][:4], atol=1e-9)


def test_one_beta_for_both_judges_needs_no_weights_of_its_own():
    found = whose_preferences._judges(Config(spread=1.0, replicates=3), streams(0, 3))
    assert found["naive"].max() < 1e-12


@pytest.mark.parametrize(("setting", "message"), [
    ({"lam": 1.0}, "lam is 1.0; expected at least 0 and below 1"),
    ({"lam": 0.0}, "lam is 0.0; expected a finite number above 0"),
    ({"strength": 1.5}, "strength is 1.5; expected at least 0 and below 1"),
    ({"responses": 2}, "responses is 2; expected a whole number, at least 3"),
    ({"copies": (-1,)}, "copies holds -1; expected a whole number, at least 0"),
    ({"success": 0.0}, "success is 0.0; expected a finite number above 0"),
    ({"replicates": 0}, "replicates is 0; expected a whole number, at least 2"),
    ({"copies": ()}, "copies is empty; expected at least one value"),
])
def test_a_setting_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)
