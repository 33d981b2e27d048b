"""Beyond the data: each claim can fail, and what is measured is what independent computations say."""

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import log_softmax, softmax

import dpo_numpy as dn
from analytic import finite_data, loglinear, optimum, population
from dpo_numpy.gradient import read
from toy_models import NGram, strings
from toy_models.experiments import _online, _tree, beyond_the_data
from toy_models.experiments._config import streams
from toy_models.experiments.beyond_the_data import TOKEN_REF, TOKEN_REWARD, Config

SMALL = {"replicates": 2, "starts": 2, "steps": 20, "n": 40, "rounds": 2}


def replaced(result, key, where, value):
    changed = np.array(result[key], copy=True)
    changed[where] = value
    return {**result, key: changed}


LAST = slice(None), -1

#: the beginning of a claim's name; what is put in the place of a measurement
BROKEN = {
    "language: from every": lambda r: {**r, "kl": np.array(1e-6)},
    "language: and at its": lambda r: replaced(r, "language.length", 1, 2.7),
    "language: no start": lambda r: replaced(r, "language.excess", 1, 1e-6),
    "language: a reward": lambda r: {**r, "language.misfit": np.array(1e-6)},
    "language: a table": lambda r: {**r, "language.table_off": np.array(1e-6)},
    "language: and is not": lambda r: {**r, "language.table_kl": np.array(1e-6)},
    "coverage: what has": lambda r: replaced(r, "coverage.excess", (3, 3), -1e-9),
    "coverage: but not": lambda r: {**r, "coverage.worst": 2 * r["coverage.descent"]},
    "coverage: descent": lambda r: replaced(r, "coverage.off", 3, 1e-6),
    "coverage: and loses": lambda r: replaced(r, "coverage.guessed", 3, 0.9 * r["coverage.descent"][3]),
    "coverage: where features": lambda r: replaced(r, "coverage.features_off", 3, 1e-6),
    "tree: in a table": lambda r: replaced(r, "tree.table", -1, 0.62 * r["tree.table"][0]),
    "tree: shared": lambda r: replaced(  # the same median, some draws far below
        r, "tree.features", (np.argsort(r["tree.features"][:, -1])[:12], -1), -1.0),
    "tree: and many": lambda r: replaced(r, "tree.features", LAST, np.linspace(0.7, 0.75, 32)),
    "online: features gain": lambda r: replaced(  # both gain little, and the table less
        replaced(r, "online.online_features", LAST, r["online.offline_features"][LAST] + wide(0.2)),
        "online.online_table", LAST, r["online.offline_table"][LAST] + 1 + wide(0.2)),
    "online: a table": lambda r: replaced(
        r, "online.online_table", LAST, r["online.offline_table"][LAST] - 1),
    "online: many labels, table: pairs": lambda r: replaced(r, "online.many_table", 0, 1.0),
    "online: many labels, table: and": lambda r: replaced(r, "online.many_table", 1, 1e3),
    "online: many labels, features: pairs": lambda r: replaced(r, "online.many_features", 0, 0.1),
    "online: many labels, features: and": lambda r: replaced(r, "online.many_features", 1, 1e3),
}


def wide(x):
    return x * np.where(np.arange(32) % 2, 1, -1)


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail_alone(name, result):
    found = beyond_the_data.claims(BROKEN[name](result))
    assert [key for key, claim in found.items() if not claim.holds] == [key for key in found if key.startswith(name)]


def test_there_is_a_way_to_break_every_claim(result):
    found = beyond_the_data.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


# ---- language

def test_the_reward_is_a_sum_over_tokens_and_the_other_is_none():
    world = strings(4, 3, beyond_the_data._local)
    read_off, _ = NGram(vocab=4).reward({"W": TOKEN_REWARD}, world.responses, np.arange(len(world.responses)))
    assert_allclose(world.reward, read_off, rtol=0, atol=1e-15)
    assert [beyond_the_data._first_is_last(y) for y in ([0], [1, 0], [1, 1, 0], [1, 2, 0], [2, 1, 2, 0])] == [
        0, 0, 1, 0, 1]


def test_the_loss_is_not_convex_where_it_starts():
    """The Hessian by complex steps"""
    policy, world = NGram(vocab=4), strings(4, 4, beyond_the_data._local)
    pairs = world.population().with_reference(policy, {"W": np.log(TOKEN_REF)})
    W = streams(0, 1)[0].normal(size=(4, 4))
    slopes = [dn.value_and_grad(policy, {"W": W + 1e-30j * e}, pairs, dn.LOSSES["dpo"](beta=0.5))[1]["W"]
              for e in np.eye(16).reshape(16, 4, 4)]
    H = np.array([slope.imag.ravel() for slope in slopes]) / 1e-30
    assert np.linalg.eigvalsh((H + H.T) / 2)[0] < -1e-3


def test_40_of_121_strings_are_labelled_and_twelve_numbers_are_enough(result):
    assert (result["language.labelled"], result["language.strings"]) == (40, 121)
    assert result["language.kl"].shape == (8, len(result["language.steps"]))
    assert (result["language.kl"][:, 0] > 0.1).all()
    assert result["language.table_unseen"] < result["language.best_unseen"]


def test_the_mean_length_is_that_of_the_strings(result):
    """E|y| = Σ P(|y| > t) by powers of the letters' part of π*, the end included"""
    reach = TOKEN_REF * np.exp(TOKEN_REWARD / 0.5)
    h = np.ones(4)  # of what follows a token: Σ over ways to end
    for _ in range(2000):
        h = reach[:, 0] + reach[:, 1:] @ h[1:]
    best = reach * np.append(1, h[1:]) / h[:, None]
    assert_allclose(best.sum(axis=1), 1, rtol=0, atol=1e-12)
    at, length = np.array([1.0, 0, 0, 0]), 0.0
    for _ in range(2000):
        length += at.sum()
        at = np.append(0, (at @ best)[1:])
    assert result["language.best_length"] == pytest.approx(length - 1, rel=1e-10)  # letters, without the end


# ---- coverage

def worlds(config):
    for rng in beyond_the_data._streams(config, 0):
        ref = rng.dirichlet(np.ones(config.K))
        reward = rng.normal(size=(config.K, config.dimensions)) @ rng.normal(size=config.dimensions)
        yield ref, reward / np.ptp(reward)


def test_no_least_loss_is_worse_than_the_worst(result):
    config, rng = Config(), np.random.default_rng(0)
    for (ref, reward), worst in zip(worlds(config), result["coverage.worst"], strict=True):
        best = softmax(np.log(ref) + reward / config.beta)
        top = best @ (reward - config.beta * np.log(best / ref))
        found = []
        for mass in [*rng.dirichlet(np.full(3, 0.3), size=300), *(np.eye(3) * (1 - 3e-12) + 1e-12)]:
            pi = np.append(mass[0] * best[:4] / best[:4].sum(), mass[1:])
            found.append(top - pi @ (reward - config.beta * np.log(np.maximum(pi, 1e-300) / ref)))
        assert max(found) == pytest.approx(worst, rel=1e-7)
        assert min(found) >= -1e-12


def test_no_guess_within_range_is_worse_than_one_of_the_corners(result):
    config = Config()
    for (ref, reward), guessed, line in zip(
            worlds(config), result["coverage.guessed"], result["coverage.line"], strict=True):
        best = softmax(np.log(ref) + reward / config.beta)
        low, high = reward[:4].min(), reward[:4].max()
        lost = []
        for guess in product(np.linspace(low, high, 9), repeat=2):
            pi = softmax(np.log(ref) + np.append(reward[:4], guess) / config.beta)
            lost.append(config.beta * pi @ np.log(pi / best))
        assert max(lost) == pytest.approx(guessed, rel=1e-10)
        mass = result["coverage.share"][7]
        pi = np.append(mass * best[:4] / best[:4].sum(), (1 - mass) * ref[4:] / ref[4:].sum())
        assert line[7] == pytest.approx(config.beta * pi @ np.log(pi / best), rel=1e-9)


# ---- tree

@pytest.fixture
def grown():
    rng = np.random.default_rng(1)
    return _tree.Tree(rng.normal(size=(2, 7, 2, 3))), {"theta": rng.normal(size=(2, 3))}, _tree.leaves(2, 3)


def test_a_leaf_is_as_likely_as_its_choices_one_after_the_other(grown):
    policy, params, responses = grown
    logp = read(policy, params, responses, np.arange(8), ["logp"])[0]["logp"]
    for r, (row, path) in product(range(2), enumerate(product(range(2), repeat=3))):
        node, total = 0, 0.0
        for action in path:
            total += log_softmax(policy.features[r, node] @ params["theta"][r])[action]
            node = 2 * node + action + 1
        assert logp[r, row] == pytest.approx(total, abs=1e-14)
    assert_allclose(np.exp(logp).sum(axis=1), 1, rtol=1e-14)


def test_its_pullback_is_the_derivative_of_each_replicate(grown):
    policy, params, responses = grown
    _, pullback = read(policy, params, responses, np.arange(8), ["logp"])
    weight = np.random.default_rng(2).normal(size=(2, 8))
    slope = pullback({"logp": weight})["theta"]
    for r, k in np.ndindex(2, 3):
        moved = params["theta"].astype(complex)
        moved[r, k] += 1e-30j
        change = read(policy, {"theta": moved}, responses, np.arange(8), ["logp"])[0]["logp"].imag / 1e-30
        assert slope[r, k] == pytest.approx((weight * change).sum(), abs=1e-13)


def test_of_27_leaves_21_are_in_no_pair_at_first_and_25_of_one_pair(result):
    assert result["tree.table"][0] == pytest.approx(21 / 27, abs=1e-14)
    assert_allclose(result["tree.features"][:, 0], 21 / 27, rtol=1e-14)
    one = beyond_the_data._tree(Config(pairs=1, replicates=2))
    assert one["table"][0] == pytest.approx(25 / 27, abs=1e-14)
    assert (np.diff(one["table"]) < 1e-3).all() and one["table"][-1] < 0.75


def test_draws_of_features_that_are_a_table_do_as_the_table_does(result):
    """One-hot features of its own for every node, in replicates"""
    size = _tree.nodes(3, 3)
    assert size == 13
    own = np.eye(39).reshape(13, 3, 39)
    responses = _tree.leaves(3, 3)
    both = _tree.Tree(np.stack([own, own[..., ::-1]]))
    pairs = dn.Preferences(responses, np.array([[0, 5], [13, 20]]))
    alone = pairs.with_reference(_tree.Tree(own), {"theta": np.zeros(39)})
    ends = [next(dn.train(policy, {"theta": np.zeros((*lead, 39))}, [alone], dn.LOSSES["dpo"](beta=0.5), dn.sgd(1.0)))
            for policy, lead in ((_tree.Tree(own), ()), (both, (2,)))]
    theta = ends[0].params["theta"]
    assert_allclose(ends[1].params["theta"], [theta, theta[::-1]], rtol=0, atol=1e-15)


# ---- online

REF = softmax(-2 * _online.X)


@pytest.mark.parametrize("mu", [REF, np.full(25, 1 / 25)])
def test_a_tables_regret_per_label_is_that_of_finite_data(mu):
    met = np.outer(mu, mu) * (1 - np.eye(25))
    wins = population.bradley_terry_wins(_online.PEAK, met / met.sum())
    # free of the constant by leaving out another response
    found = _online.per_label(np.eye(25)[:, :-1], REF, mu, 0.5)
    assert found == pytest.approx(finite_data.regret(REF, wins, 0.5, 1.0), rel=1e-6)
    assert found == pytest.approx(_online.per_label(np.eye(25)[:, 1:], REF, mu, 0.5), rel=1e-6)


def test_that_of_features_is_half_the_trace_of_one_hessian_in_the_metric_of_the_other():
    """Of n labels θ has the covariance H⁻¹/n, H that of the loss a label; J by differences"""
    phi, mu, h = np.column_stack([_online.X, _online.X**2]) / 4, np.full(25, 1 / 25), 1e-4
    wins = population.bradley_terry_wins(_online.PEAK, np.outer(mu, mu) * (1 - np.eye(25)))
    best, e = np.array([0, 3.2]), np.eye(2) * h  # 0.4 x² = β θ·φ
    assert abs(loglinear.gradient(best, phi, wins, 0.5)).max() < 1e-15

    def J(theta):
        return optimum.value(loglinear.policy(theta, phi, REF), REF, _online.PEAK, 0.5)

    bend = [[J(best + a + b) - J(best + a - b) - J(best - a + b) + J(best - a - b) for a in e] for b in e]
    covariance = np.linalg.inv(loglinear.hessian(best, phi, wins / wins.sum(), 0.5))
    expected = -np.trace(np.array(bend) / (4 * h * h) @ covariance) / 2
    assert _online.per_label(phi, REF, mu, 0.5) == pytest.approx(expected, rel=1e-5)


def test_the_first_round_is_the_same_and_the_second_is_not(result):
    for name in ("table", "features"):
        offline, online = result[f"online.offline_{name}"], result[f"online.online_{name}"]
        assert offline.shape == (32, 9)
        np.testing.assert_array_equal(offline[:, :2], online[:, :2])
        assert (offline[:, 2] != online[:, 2]).all()
        start = optimum.optimal_value(REF, _online.PEAK, 0.5) - REF @ _online.PEAK
        assert_allclose(offline[:, 0], start, rtol=1e-12)
    assert result["online.labels"].tolist() == list(range(0, 401, 50))


def test_rounds_are_descent_on_all_labels_so_far():
    """A table, written out: two rounds of labels from π_ref, momentum that begins anew"""
    ref, beta, n = softmax(-0.5 * _online.X), 0.5, 30
    found = _online.rounds(streams(7, 1), ref, beta, n, 2)["offline_table"][0]
    rng, wins, u, lost = streams(7, 1)[0], np.zeros((25, 25)), np.zeros(25), []
    for _ in range(2):
        first, second = rng.choice(25, size=(2, 15), p=ref)
        gap = _online.PEAK[first] - _online.PEAK[second]
        for i, j, won in zip(first, second, rng.random(15) < 1 / (1 + np.exp(-gap)), strict=True):
            wins[(i, j) if won else (j, i)] += i != j
        speed = np.zeros(25)
        for _ in range(20):
            speed = 0.8 * speed + population.gradient(u, wins / n, beta)
            u = u - 4 / beta**2 / 2 * speed
        pi = population.policy(u, ref)
        lost.append(optimum.optimal_value(ref, _online.PEAK, beta) - optimum.value(pi, ref, _online.PEAK, beta))
    assert_allclose(found[1:], lost, rtol=0, atol=1e-11)


# ---- other settings

def test_worlds_do_not_know_of_each_other():
    one, other = (beyond_the_data.run(Config(**SMALL | {"shared": shared})) for shared in (2, 3))
    for name in ("language.end_kl", "coverage.descent", "online.online_table"):
        np.testing.assert_array_equal(one[name], other[name])
    assert (one["tree.features"][:, -1] != other["tree.features"][:, -1]).all()


@pytest.mark.parametrize("setting", [
    {"beta": 2.0, "longest": 1, "K": 5, "covered": 2, "dimensions": 1, "depth": 2, "actions": 2, "pairs": 1, "n": 1,
     "rounds": 1}, {"beta": 0.4, "longest": 2, "K": 7, "covered": 5, "depth": 1, "pairs": 1, "slope": 0.5, "starts": 3},
])
def test_other_settings_run_and_give_numbers(setting):
    config = Config(**SMALL | setting)
    found = beyond_the_data.run(config)
    assert not any(np.isnan(x).any() for x in found.values())
    assert found["language.kl"].shape[0] == config.starts
    assert found["online.online_table"].shape == (2, config.rounds + 1)
    numbers = [claim.number for claim in beyond_the_data.claims(found).values()]
    assert not np.isnan(numbers).any()
    assert found["language.table_off"] < 1e-3 and found["coverage.off"].max() < 1e-6


def test_a_bigram_of_which_too_little_is_labelled_stays_where_it_starts():
    """Of one letter at most no string says what follows a letter but the end: the twin of what three letters say"""
    found = beyond_the_data.run(Config(**SMALL | {"longest": 1, "steps": 200}))
    assert found["language.excess"].max() < 1e-9 and found["language.end_kl"].min() > 1e-2


@pytest.mark.parametrize(("setting", "message"), [
    ({"beta": -1.0}, "beta is -1.0; expected a finite number above 0"),
    ({"covered": 6}, "dimensions, covered and K are 2, 6 and 6; expected each to be less than the next"),
    ({"dimensions": 4}, "dimensions, covered and K are 4, 4 and 6; expected each to be less than the next"),
    ({"K": 20}, "covered leaves 16 of K out; expected at most 10"),
    ({"pairs": 14}, "pairs is 14; expected less than half of the 27 leaves"),
    ({"rounds": 500}, "rounds is 500; expected at most n, 400"),
    ({"steps": 1}, "steps is 1; expected a whole number, at least 10"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)
