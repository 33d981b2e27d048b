"""Shifts of the pairs: what is claimed holds, each claim can fail, and loops that know no matrix end where it ends."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize

from analytic import graph, population
from toy_models.experiments import _shift, distribution_shift
from toy_models.experiments.distribution_shift import CHANNELS, SHIFTS, Config

SMALL = Config(replicates=3, rounds=2)


def row(result, key, name, place, value):
    names = result["line"].tolist() if key == "rounds" else list(CHANNELS)
    changed = result[key].copy()
    changed[names.index(name), place] = value
    return {**result, key: changed}


BROKEN = {
    "nothing amiss: uniform": lambda r: {**r, "whichever": np.array([0.0, 1e-6])},
    "nothing amiss, a table": lambda r: {**r, "enough": r["enough"] + 1e-6},
    "disconnected, wrong class": lambda r: row(r, "theory", "disconnected", 3, 0.1),
    "disconnected: two powers": lambda r: {**r, "shared": r["shared"] + 1e-6},
    "finite n: J* - J": lambda r: {**r, "drawn_regret": 2 * r["drawn_regret"]},
    "finite n: labels say": lambda r: row(r, "theory", "finite n", 2, r["theory"][1, 2] * 1.3),
    "wrong class: s decides": lambda r: {**r, **{k: row(r, k, "wrong class", 0, 0.1)[k] for k in ("sweep", "theory")}},
    "not Bradley-Terry: pairs of": lambda r: {
        **r, **{k: row(r, k, "not Bradley-Terry", 4, 1e-6)[k] for k in ("sweep", "theory")}},
    "not Bradley-Terry: those of": lambda r: {
        **r, **{k: row(r, k, "not Bradley-Terry", 0, 1e-6)[k] for k in ("sweep", "theory")}},
    "finite steps: the slowest": lambda r: {**r, "factor": r["factor"] ** 1.02},
    "finite steps: those of": lambda r: {**r, "trained": np.array([0.0, 1e-6])},
    "new pairs from the policy": lambda r: row(r, "rounds", "disconnected, then across", -1, 1e-6),
    "new pairs take": lambda r: row(r, "rounds", "wrong class", -1, 0.05),
    "new pairs, n of them": lambda r: {**r, "drawn_rounds": 2 * r["drawn_rounds"]},
    "new pairs make": lambda r: row(r, "rounds", "not Bradley-Terry", -1, 0.02),
    "new pairs hasten": lambda r: row(r, "rounds", "finite steps", -1, 0.01),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail(name, result):
    found = distribution_shift.claims(BROKEN[name](result))
    assert [key for key, claim in found.items() if not claim.holds] == [key for key in found if key.startswith(name)]


def test_there_is_a_way_to_break_every_claim(result):
    found = distribution_shift.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


# ---- where training ends

def loss_of(theta, features, wins, beta):
    """Pair by pair"""
    u, total = [sum(f * t for f, t in zip(row, theta, strict=True)) for row in features], 0.0
    for i, j in np.ndindex(wins.shape):
        total += wins[i, j] * math.log1p(math.exp(-beta * (u[i] - u[j])))
    return total


@pytest.mark.parametrize("features", [1, 2, 4])
def test_it_settles_where_a_search_finds_the_loss_least(features, rng):
    phi, wins = rng.normal(size=(4, features)), rng.random((3, 4, 4))
    found = _shift.settled(phi, wins, 0.7)
    for theta, w in zip(found, wins, strict=True):
        end = minimize(loss_of, np.zeros(features), args=(phi, w, 0.7), method="BFGS", options={"gtol": 1e-8})
        u = phi @ (theta - end.x)
        assert_allclose(u - u.mean(), 0, atol=1e-5)


def test_what_pairs_do_not_see_stays_where_descent_leaves_it(rng):
    wins = np.zeros((5, 5))
    wins[:3, :3], wins[3:, 3:] = rng.random((3, 3)), rng.random((2, 2))
    found = _shift.settled(np.eye(5), wins, 0.5)
    assert_allclose([found[:3].sum(), found[3:].sum()], 0, atol=1e-14)
    assert_allclose(_shift.descended(np.eye(5), wins / 4, 0.5, 3000), found, atol=1e-10)
    phi = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert_allclose(_shift.descended(phi, wins / 4, 0.5, 3000), phi.T @ found, atol=1e-10)
    assert_allclose(_shift.settled(phi, wins, 0.5), phi.T @ found, atol=1e-12)


def test_data_sets_have_an_end_where_ford_says_that_they_have_a_fit():
    rng, wins = np.random.default_rng(5), population.bradley_terry_wins([1.0, 0.3, 0.0, -0.6])
    sets = rng.multinomial(14, wins.ravel(), size=400).reshape(-1, 4, 4) / 14
    sets = sets[~graph.components(sets).any(axis=-1)]
    found, there = _shift.settled(np.eye(4), sets, 0.3), graph.mle_exists(sets)
    assert (np.isfinite(found).all(axis=-1) == there).all()
    assert 0.2 < there.mean() < 0.9
    assert_allclose(found[there], population.newton(sets[there], 0.3), atol=1e-9)


def test_it_settles_where_undamped_steps_run_off():
    """The table of `test_newton_converges_where_undamped_steps_do_not`"""
    wins = np.zeros((5, 5))
    wins[[0, 0, 1, 2, 2, 3, 4, 4], [2, 3, 4, 1, 4, 0, 2, 3]] = [1e-4, 1, 1, 1e-3, 1e-5, 1e-6, 1e-4, 0.1]
    assert_allclose(_shift.settled(np.eye(5), wins, 1.0), population.newton(wins, 1.0), rtol=1e-6)


def test_weights_too_small_to_see_have_no_end():
    wins = population.bradley_terry_wins([1.0, 0.0, 0.5])
    wins[2] *= 1e-25
    wins[:, 2] *= 1e-25
    assert np.isnan(_shift.settled(np.eye(3), wins, 0.5)).all()
    wins[2], wins[:, 2] = 1e9 * wins[2], 1e9 * wins[:, 2]
    wins[2], wins[:, 2] = 1e9 * wins[2], 1e9 * wins[:, 2]
    assert_allclose(_shift.settled(np.eye(3), wins, 0.5), [1.0, -1.0, 0.0], atol=1e-6)


def test_labels_of_a_data_set_do_not_know_how_many_there_are():
    wins = np.array([population.bradley_terry_wins([1.0, 0.0, 0.5])] * 2)
    few, many = ([np.random.default_rng([0, r]) for r in range(R)] for R in (2, 5))
    drawn = _shift.drawn([wins] * 5, 100, many)
    assert_allclose(_shift.drawn([wins] * 2, 100, few), drawn[:2], rtol=0)
    assert drawn.shape == (5, 2, 3, 3)
    assert_allclose(drawn.sum(axis=(-2, -1)), 1, atol=1e-14)
    assert (drawn[0] != drawn[1]).any()
    assert abs(_shift.drawn([wins], 10**7, few) - wins).max() < 5 * 0.5 / np.sqrt(10**7)


# ---- the world

def test_circles_flow_out_as_they_flow_in_and_leave_probabilities():
    world = distribution_shift._world(Config(K=7, twist=0.99))
    plain, circles = world.preferred
    assert_allclose(circles + circles.T, 1, atol=1e-15)
    assert 0 < circles.min() < 0.02 * plain.max()
    mu = world.ref
    for i in range(7):
        flow = sum(mu[i] * mu[j] * (circles[i, j] - plain[i, j]) for j in range(7) if j != i)
        assert abs(flow) < 1e-16
    other = world.sampler(-1.0)
    assert max(abs(sum(other[i] * other[j] * (circles[i, j] - plain[i, j]) for j in range(7))) for i in range(7)) > 1e-3


def test_the_sampler_goes_from_the_optimum_over_the_reference_to_its_opposite():
    world = distribution_shift._world(Config())
    x = np.linspace(-1, 1, 6)
    r = x + 0.6 * x**2
    for s, tilt in ((-1.0, 1 / 0.5), (0.0, 0.0), (0.5, -0.5 / 0.5)):
        p = np.exp(-0.5 * x + tilt * r)
        assert_allclose(world.sampler(s), p / p.sum(), rtol=1e-13)
    assert_allclose(world.best, world.sampler(-1.0), rtol=1e-14)


# ---- the factorial

def test_a_cell_of_four_is_what_a_loop_makes_of_it(result):
    x = np.linspace(-1, 1, 6)
    r, ref = x + 0.6 * x**2, np.exp(-0.5 * x)
    groups = [4, 5, 0], [1, 2, 3]
    around = {(a, b): 1.0 for g in groups for a, b in zip(g, (*g[1:], g[0]), strict=True)}
    around |= {(b, a): -1.0 for a, b in around}

    def p(i, j):
        return 1 / (1 + math.exp(r[j] - r[i]))

    scale = 0.8 / max(1 / (ref[i] * ref[j]) / min(p(i, j), p(j, i)) for i, j in around)
    mu = ref * np.exp(-0.5 * r / 0.5)
    wins = {(i, j): mu[i] * mu[j] * (p(i, j) + scale * sign / (ref[i] * ref[j])) for (i, j), sign in around.items()}
    total = sum(wins.values())
    # the class has one direction: x, of mean 0 and norm 1
    phi, t, beta = x / np.sqrt((x**2).sum()), 0.0, 0.5
    for _ in range(30):
        t += 2 / beta**2 * sum(w / total * beta * (phi[i] - phi[j]) / (1 + math.exp(beta * t * (phi[i] - phi[j])))
                               for (i, j), w in wins.items())
    pi, best = ref * np.exp(phi * t), ref * np.exp(r / beta)
    pi, best = pi / pi.sum(), best / best.sum()
    assert result["cells"][1, 1, 0, 1, 1, 1] == pytest.approx(beta * (pi @ np.log(pi / best)), rel=1e-10)


def test_effects_of_costs_that_add_up_and_of_costs_that_do_not():
    cost, on = np.arange(1.0, 7), np.indices((2,) * 6)
    assert_allclose(distribution_shift._effects(np.tensordot(cost, on, 1)), np.diag(cost), atol=1e-14)
    pair = distribution_shift._effects(8.0 * on[1] * on[4])
    assert pair[1, 4] == pair[4, 1] == 8
    assert pair[1, 1] == pair[4, 4] == 4  # half the time
    assert np.count_nonzero(pair) == 4


def test_the_configured_cell_is_one_of_the_factorial(result):
    found = distribution_shift.run(replace(SMALL, wrong_class=True, finite_steps=True))
    assert found["regret"] == result["cells"][1, 0, 0, 1, 0, 1]
    assert found["shift_adds"] == result["cells"][1, 0, 0, 1, 0, 1] - result["cells"][0, 0, 0, 1, 0, 1]
    assert found["fits"] == 1
    off = distribution_shift.run(SMALL)
    assert off["alone_not_bradley_terry"] == result["cells"][1, 0, 0, 0, 1, 0]
    assert off["alone_finite_steps"] == result["cells"][1, 0, 0, 0, 0, 1]
    assert off["regret"] < 1e-20 < found["regret"]
    world = distribution_shift._world(SMALL)
    assert off["kl"] == pytest.approx(world.best @ np.log(world.best / world.ref), rel=1e-12)


# ---- more labels, more steps, other settings

def test_four_times_as_many_labels_leave_a_quarter(result):
    more = distribution_shift.run(Config(n=8000, replicates=32, rounds=1))
    assert_allclose(more["theory"][1], result["theory"][1] / 4, rtol=1e-12)
    # a mean of 32 against one of 64, each with the deviation that is predicted
    z = (4 * more["sweep"][1] - result["sweep"][1])[:7] / (result["drawn_spread"][:7] * np.sqrt(1 / 32 + 1 / 64))
    assert abs(z).max() < 4


def test_the_deviation_is_that_of_a_quadratic_form():
    world = distribution_shift._world(Config())
    wins = world.wins(world.sampler(-0.5))
    F = population.hessian(world.reward, wins, 1.0)
    S = (np.diag(world.best) - np.outer(world.best, world.best)) / 0.5
    g = np.random.default_rng(3).multivariate_normal(np.zeros(6), np.linalg.pinv(F), size=200_000)
    form = np.einsum("ni,ij,nj->n", g, S, g) / (2 * 2000)
    # about 6 √(2/200,000) of it, as tails are those of a square
    assert distribution_shift._spread(world, wins, 2000) == pytest.approx(form.std(), rel=0.02)


def test_late_steps_fall_mode_by_mode(result):
    later, steps = distribution_shift.run(replace(SMALL, steps=120)), CHANNELS.index("finite steps")
    for k in (1, 2, 4):
        assert later["theory"][steps, k] == pytest.approx(later["sweep"][steps, k], rel=0.02)
        assert later["sweep"][steps, k] < 0.01 * result["sweep"][steps, k]


def test_steps_without_end_leave_nothing():
    found = distribution_shift.run(replace(SMALL, steps=600))
    assert found["sweep"][CHANNELS.index("finite steps")][:6].max() < 1e-10
    assert found["sweep"][CHANNELS.index("finite steps")][-1] > 1e-4  # a rare peak is met too seldom even so


def test_a_class_that_holds_the_reward_and_labels_without_circles_cost_nothing():
    found = distribution_shift.run(replace(SMALL, features=2, twist=0.0, shift=1.0))
    lost = dict(zip(CHANNELS, found["alone"], strict=True))
    assert max(lost["wrong class"].max(), lost["not Bradley-Terry"].max()) < 1e-12
    assert found["cells"][1, 1, 0, 1, 0, 0] < 1e-12 < 0.1 < found["cells"][1, 1, 0, 0, 0, 0]


def test_labels_that_are_too_few_have_no_number():
    found = distribution_shift.run(replace(SMALL, n=6, finite_n=True))
    assert np.isnan(found["regret"]) and np.isnan(found["kl"]) and found["fits"] < 1
    assert np.isfinite(found["cells"][:, :, 0]).all()
    assert np.isfinite(found["cells"][..., 1]).all()  # steps that end have an end


def test_what_has_no_number_is_said_in_the_picture(result):
    alone, effect = result["alone"].copy(), result["effect"].copy()
    alone[1, 1] = effect[2, 2] = np.nan
    for panel, said in ((distribution_shift.PANELS[0], " no fit"),
                        (distribution_shift.PANELS[2], "no fit")):
        texts = [text.get_text() for text in panel({**result, "alone": alone, "effect": effect}).texts]
        assert texts.count(said) == 1 and not any("nan" in text for text in texts)


def test_pairs_that_float64_cannot_tell_apart_have_no_number():
    found = distribution_shift.run(replace(SMALL, beta=0.02))
    assert np.isnan(found["regret"]) and np.isnan(found["none"]).any() and np.isfinite(found["none"][4])
    assert not all(claim.evaluated for claim in distribution_shift.claims(found).values())


def test_other_sizes_run():
    found = distribution_shift.run(replace(SMALL, K=9, beta=1.0, shift=-1.0, tilt=0.0, features=3, steps=5))
    assert found["cells"].shape == (2,) * 6 and np.isfinite(found["cells"]).all()
    assert found["sweep"].shape == found["theory"].shape == (5, len(SHIFTS))
    assert found["none"].max() < 1e-12
    assert found["rounds"].shape == (7, 2)


@pytest.mark.parametrize(("setting", "message"), [
    ({"twist": 1.0}, "twist is 1.0; expected at least 0 and below 1"),
    ({"K": 5}, "K is 5; expected a whole number, at least 6"),
    ({"features": 6}, "features is 6 for 6 responses; expected fewer than these"),
    ({"beta": 0.0}, "beta is 0.0; expected a finite number above 0"),
    ({"replicates": 1}, "replicates is 1; expected a whole number, at least 2"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)
