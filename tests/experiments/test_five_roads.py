"""The five roads: what they claim holds, each claim can fail, and docs/roads.md is what its script writes."""

import importlib.util
import sys
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import brentq
from scipy.special import softmax

import dpo_numpy as dn
from analytic import ngram, optimum, population
from dpo_numpy.advantages import gae, penalized_reward
from toy_models import NGram, Tabular, bandit
from toy_models.experiments import five_roads, train_exact_gradient
from toy_models.experiments.five_roads import REF, REWARD, TOKEN_REF, TOKEN_REWARD, Config

SCRIPT = Path(__file__).parents[2] / "docs" / "roads.py"
spec = importlib.util.spec_from_file_location("roads", SCRIPT)
roads = sys.modules["roads"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(roads)

SMALL = Config(copies=2, steps=60, language_group=8, language_steps=60, betas=(1.0,))
BETA = 0.5


@pytest.fixture(scope="module")
def small():
    return five_roads.run(SMALL)


# ---- the claims

def replaced(result, key, row, value):
    changed = np.array(result[key], copy=True)
    changed[row] = value
    return {**result, key: changed}


def row(result, part, road):
    found, = np.flatnonzero(result[f"{part}.road"] == road)
    return int(found)


LABELLED = "reward model of n labels, then e^{r/β}"
PUBLISHED = "GRPO as published, falling steps"

#: the beginning of a claim's name; what is put in the place of a measurement
BROKEN = {
    "table: J* - J = β": lambda r: replaced(r, "table.regret", 3, 1e-6),
    "language: J* - J = β": lambda r: replaced(r, "language.regret", 3, 1e-6),
    "table: told r, every road": lambda r: replaced(r, "table.kl", 3, 1e-6),
    "language: told r, every road": lambda r: replaced(r, "language.kl", 3, 1e-6),
    "table: of the same labels": lambda r: replaced(r, "table.policy", row(r, "table", "DPO, n labels"), REF[0]),
    "language: of the same labels": lambda r: replaced(r, "language.policy", row(r, "language", LABELLED), TOKEN_REF),
    "table: GRPO as published ends elsewhere": lambda r: replaced(r, "table.kl", row(r, "table", PUBLISHED), 1e-3),
    "language: GRPO as published ends elsewhere":
        lambda r: replaced(r, "language.kl", row(r, "language", PUBLISHED), 1e-3),
    "table: noise dies": lambda r: replaced(r, "table.path", (row(r, "table", "RLOO"), slice(30, 61)), 1e-3),
    "language: noise dies": lambda r: replaced(r, "language.path", (row(r, "language", "RLOO"), slice(30, 61)), 1e-3),
    "table: one natural step":
        lambda r: replaced(r, "table.path", (row(r, "table", "natural policy gradient, exact"), 1), 1e-3),
    "table: RLOO on a reward model": lambda r: replaced(r, "table.policy", row(r, "table", LABELLED), REF[1]),
    "table: n labels leave": lambda r: {**r, "table.theory": 3 * r["table.theory"]},
    "table: DPO falls as": lambda r: {**r, "table.fewer": r["table.fewer"] / 4},
    "table: online DPO falls as":
        lambda r: replaced(r, "table.path", (row(r, "table", "online DPO, drawn labels, falling steps"), 100), 1e-2),
    "table: noisy RLOO falls as":
        lambda r: replaced(r, "table.path", (row(r, "table", "RLOO, noisy rewards, falling steps"), 50), 10.0),
    "table: GRPO as published ends where": lambda r: {**r, "table.published": r["table.best"][:2]},
    "table: no road is above": lambda r: replaced(r, "table.below", 0, -1e-6),
    "table: told r, they are on it": lambda r: replaced(r, "table.below", 0, 1e-6),
    "memory: PPO's models": lambda r: replaced(r, "table.weights", row(r, "table", "PPO"), 6),
    "memory: and in training": lambda r: replaced(r, "table.state", row(r, "table", "PPO"), 18),
    "memory: but in training": lambda r: replaced(r, "table.state", row(r, "table", "DPO, every pair"), 4),
    "language: what the cut": lambda r: replaced(r, "language.goes_on", 0, 1e-5),
    "language: a value model that cannot": lambda r: replaced(
        r, "language.kl", row(r, "language", "PPO, values of the last token, λ = 1, falling steps"), 1e-7),
    "language: and, for λ < 1": lambda r: replaced(
        r, "language.kl", row(r, "language", "PPO, values of the last token, λ = ½, falling steps"), 1e-3),
    "conditioning: that of DPO does": lambda r: replaced(r, "conditioning.condition", (0, 1), 2.0),
    "conditioning: that of policy gradient grows": lambda r: replaced(r, "conditioning.condition", (-1, 0), 3.0),
    "conditioning: DPO on pairs drawn": lambda r: {**r, "conditioning.online": r["conditioning.condition"][:, 1]},
    "conditioning: factors a step": lambda r: replaced(r, "conditioning.measured", (0, 0), 0.5),
    "conditioning: steps to KL": lambda r: replaced(r, "conditioning.counted", (0, 0), 20),
    "conditioning: one natural step": lambda r: replaced(r, "conditioning.natural", 0, 1e-3),
    "conditioning: steps of policy gradient": lambda r: replaced(r, "conditioning.counted", (-1, 0), 10),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail(name, result):
    found = five_roads.claims(BROKEN[name](result))
    claim, = (key for key in found if key.startswith(name))
    assert not found[claim].holds


def test_there_is_a_way_to_break_every_claim(result):
    found = five_roads.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


def test_the_same_config_makes_the_same_arrays(small):
    again = five_roads.run(SMALL)
    assert again.keys() == small.keys()
    for name, x in small.items():
        np.testing.assert_array_equal(again[name], x, err_msg=name)


@pytest.mark.slow
def test_other_settings_draw_other_responses(small):
    other = five_roads.run(Config(**{**vars(SMALL), "seed": 1, "betas": (3.0,)}))
    assert (other["table.told"] == small["table.told"]).all()
    assert other["conditioning.beta"] == [3.0]
    for part, road in (("table", "RLOO, noisy rewards, falling steps"), ("language", LABELLED)):
        assert other[f"{part}.kl"][row(small, part, road)] != small[f"{part}.kl"][row(small, part, road)]


# ---- the same roads where a condition fails

def kl_of(steps, n, best):
    *_, last = islice(steps, n)
    return float(optimum.kl(softmax(last.params["W"], axis=1), best).mean())


@pytest.fixture
def table():
    world, policy, start = bandit(REWARD), Tabular(4, 2), {"W": np.log(REF)}
    return policy, start, world.task(), optimum.boltzmann(REF, REWARD, BETA)


def test_advantages_at_the_optimum_are_nothing_whatever_is_drawn(table, rng):
    policy, start, task, best = table
    at = {"W": np.log(best)}
    step = next(dn.train_rloo(policy, at, task, dn.sgd(1.0), rng, group=4, beta=BETA, reference=start))
    assert abs(step.grad["W"]).max() < 1e-15
    elsewhere = next(dn.train_rloo(policy, start, task, dn.sgd(1.0), rng, group=4, beta=BETA))
    assert abs(elsewhere.grad["W"]).max() > 1e-2


@pytest.mark.parametrize(("name", "setting"), [
    ("without the penalty", {"beta": 0.0}),
    ("at another beta", {"beta": 1.0}),
])
def test_rloo_of_another_objective_ends_elsewhere(table, rng, name, setting):
    policy, start, task, best = table
    assert kl_of(dn.train_rloo(policy, start, task, dn.sgd(8.0), rng, **setting), 200, best) > 0.05


def test_the_deviation_alone_moves_the_end_of_grpo(table, rng):
    policy, start, task, best = table
    loss = dn.SURROGATES["dr_grpo"](max_length=1)
    ends = [kl_of(dn.train_grpo(policy, start, task, dn.sgd(4.0), rng, group=4, beta=BETA, scale=scale, loss=loss), 400,
                  best) for scale in ("none", "std")]
    assert ends[0] < 1e-9 < 1e-2 < ends[1]


def test_noisy_rewards_at_a_constant_step_leave_a_distance_that_stays(table, rng):
    policy, start, task, best = table
    noisy = five_roads._noisy(task, 1.0, rng)
    path = [optimum.kl(softmax(step.params["W"], axis=1), best).mean() for step in islice(
        dn.train_rloo(policy, start, noisy, dn.sgd(4.0), rng, group=4, beta=BETA), 400)]
    assert np.mean(path[300:]) > 0.3 * np.mean(path[100:200])
    assert min(path) > 1e-6


def test_rso_that_keeps_few_may_leave_a_response_out(table, rng):
    policy, start, task, best = table

    def trained(keep):
        return dn.train_rso(policy, start, task, dn.sgd(20.0), rng, beta=BETA, candidates=400, keep=keep)

    assert kl_of(trained(64), 300, best) < 1e-9
    assert kl_of(trained(2), 300, best) > 1e-3


def test_a_step_that_is_too_large_for_sampling_is_not_for_the_exact_gradient(table, rng):
    policy, start, task, best = table
    assert kl_of(train_exact_gradient(policy, start, REWARD, BETA, dn.sgd(16.0)), 100, best) < 1e-12
    assert kl_of(dn.train_rloo(policy, start, task, dn.sgd(24.0), rng, group=4, beta=BETA), 200, best) > 1e-3


# ---- where GRPO as published comes to rest

def expected_gradient(policy, pi, ref, reward, beta, group):
    """Of the registry's loss: every ordered group as a row, weighted by its probability under π"""
    groups = np.array([*product(range(len(ref)), repeat=group)])
    responses = bandit([reward]).responses
    params = {"W": np.log(pi)[None]}
    old = np.column_stack([np.zeros(len(pi)), np.log(pi)])
    batch = dn.Preferences(responses.with_facts(old_token_logp=old), groups, pi[groups].prod(axis=1),
                           {"advantage": dn.group_advantage(np.asarray(reward)[groups])})
    batch = batch.with_reference(policy, {"W": np.log(ref)[None]}, "token_logp")
    return dn.value_and_grad(policy, params, batch, dn.SURROGATES["grpo"](beta=beta))[1]["W"]


@pytest.mark.parametrize("prompt", [0, 1])
@pytest.mark.parametrize("group", [2, 4])
def test_the_expected_step_of_grpo_is_nothing_there(prompt, group):
    ref, reward = REF[prompt], REWARD[prompt]
    end = five_roads.published(ref, reward, BETA, group)
    assert end.sum() == pytest.approx(1, abs=1e-14)
    assert abs(expected_gradient(Tabular(4), end, ref, reward, BETA, group)).max() < 1e-9
    best = optimum.boltzmann(ref, reward, BETA)
    assert abs(expected_gradient(Tabular(4), best, ref, reward, BETA, group)).max() > 1e-2


def test_of_two_responses_it_is_the_root_of_one_equation():
    """A group of three with j successes: (3-j) (1 - j/3)/s of the better one, by hand"""
    ref, beta = 0.3, 2.0

    def slope(p):
        gain = 0.0
        for j in (1, 2):
            mean = j / 3
            s = np.sqrt((j * (1 - mean) ** 2 + (3 - j) * mean**2) / 2) + 1e-4
            gain += 3 * p**j * (1 - p) ** (3 - j) * j * (1 - mean) / s / 3
        return gain + beta * (ref - p)

    end = five_roads.published([ref, 1 - ref], [1.0, 0.0], beta, 3)
    assert end[0] == pytest.approx(brentq(slope, 0.3, 0.999), abs=1e-10)


# ---- the language

def test_its_rewards_are_the_tables_read_as_a_reward(rng):
    policy, start = NGram(vocab=3), {"W": np.log(TOKEN_REF)}
    drawn = dn.rollout(policy, start, dn.Task([[0]], five_roads._rewarded, 60), 32, rng)
    read = dn.reward_model(policy, {"W": TOKEN_REWARD})(drawn.responses)
    assert_allclose(drawn.facts["reward"][0], read, rtol=0, atol=1e-14)
    texts = [tokens[mask].tolist() for tokens, mask in zip(drawn.responses.tokens, drawn.responses.mask, strict=True)]
    assert_allclose([five_roads._earned(text) for text in texts], read, rtol=0, atol=1e-14)


def test_the_table_of_a_reward_model_is_that_of_rewards_up_to_potentials():
    """W - ρ = φ(context) - φ(next context), which telescopes: four numbers for nine entries"""
    policy = NGram(vocab=3)
    pairs = five_roads.strings(3, five_roads.LONGEST, five_roads._earned).population()
    *_, last = dn.train_reward_model(policy, {"W": np.zeros((3, 3))}, [pairs] * 300, dn.momentum(0.5, 0.8))
    basis = np.zeros((3, 3, 4))
    for s, v in np.ndindex(3, 3):
        basis[s, v, s] += 1
        basis[s, v, 3 if v == 0 else v] -= 1
    off = (last.params["W"] - TOKEN_REWARD).ravel()
    phi, *_ = np.linalg.lstsq(basis.reshape(9, 4), off, rcond=None)
    assert_allclose(basis.reshape(9, 4) @ phi, off, rtol=0, atol=1e-7)
    assert abs(off).max() > 0.05


def test_values_of_what_was_said_leave_no_advantage_at_the_optimum_and_those_of_the_last_token_do(rng):
    best, _ = ngram.optimum(TOKEN_REF, TOKEN_REWARD, BETA)
    V = ngram.optimal_values(TOKEN_REF, TOKEN_REWARD, BETA).V
    policy, task = NGram(vocab=3), dn.Task([[0]], five_roads._rewarded, 60)
    drawn = dn.rollout(policy, {"W": np.log(best)}, task, 64, rng)
    drawn = drawn.with_reference(policy, {"W": np.log(TOKEN_REF)}, "token_logp")
    said = drawn.responses
    paid = penalized_reward(drawn.facts["reward"].reshape(-1), said.facts["old_token_logp"],
                            said.facts["ref_token_logp"], said.mask, BETA)

    def largest(critic, params, lam):
        value = dn.token_value(critic.logits(params, said.tokens)[0], said.tokens, said.mask)[0]
        return abs(gae(paid, value, said.mask, lam=lam)[0]).max()

    for lam in (0.0, 0.95, 1.0):
        assert largest(five_roads._Prefix(), {"V": V}, lam) < 1e-13
        assert largest(policy, {"W": np.repeat(V[:, None], 3, axis=1)}, lam) > 0.1


def test_the_pullback_of_its_value_model_is_the_transpose_of_its_derivative(rng):
    critic, tokens = five_roads._Prefix(), rng.integers(0, 3, size=(5, 4))
    # linear in V: differences have no error of theirs
    params, d = critic.init(rng), rng.normal(size=(5, 4, 3))
    along = rng.normal(size=3)
    moved = [critic.logits({"V": params["V"] + h * along}, tokens)[0] for h in (1e-3, -1e-3)]
    change = ((moved[0] - moved[1]) / 2e-3 * d).sum()
    assert critic.logits(params, tokens)[1](d)["V"] @ along == pytest.approx(change, rel=1e-10)


# ---- conditioning

def test_conditioning_is_that_of_the_hessians_by_differences():
    r, ref, beta, h = five_roads.MILD, five_roads.SLANTED, 0.3, 1e-3
    found = five_roads.conditioning([beta])
    x, e = np.log(optimum.boltzmann(ref, r, beta)), np.eye(4)
    wins = population.bradley_terry_wins(r)

    def gain(x):
        return -float(optimum.value(softmax(x), ref, r, beta))

    def loss(x):
        return float(population.objective(x - np.log(ref), wins, beta))

    for k, f in enumerate((gain, loss)):
        H = np.array([[(f(x + h * (a + b)) - f(x + h * (a - b)) - f(x - h * (a - b)) + f(x - h * (a + b))) / (4 * h * h)
                       for b in e] for a in e])
        spectrum = np.linalg.eigvalsh(H)
        assert found["condition"][0, k] == pytest.approx(spectrum[-1] / spectrum[1], rel=1e-4)


def test_where_every_direction_curves_alike_one_step_does():
    found = five_roads.conditioning([1.0], [0.01, 0.0, -0.01], [1 / 3, 1 / 3, 1 / 3])
    assert found["counted"].tolist() == [[1, 1]]
    assert found["factor"].max() < 0.01


def test_training_that_does_not_arrive_counts_no_steps():
    assert five_roads.conditioning([0.1], most=5)["counted"].tolist() == [[-1, 2]]


def test_a_reward_model_of_few_labels_may_have_no_policy():
    with pytest.raises(ValueError, match="has a divergent sum, no optimum exists"):
        five_roads._language(Config(language_group=2, language_steps=60))


# ---- config, figure, page

@pytest.mark.parametrize(("setting", "message"), [
    ({"beta": 0.0}, "beta is 0.0; expected a finite number above 0"),
    ({"noise": float("nan")}, "noise is nan; expected a finite number"),
    ({"betas": (1.0, -1.0)}, r"betas holds -1.0; expected a finite number above 0"),
    ({"betas": ()}, r"betas is empty; expected at least one value"),
    ({"copies": 1}, "copies is 1; expected a whole number, at least 2"),
    ({"group": 1}, "group is 1; expected a whole number, at least 2"),
    ({"steps": 10}, "steps is 10; expected a whole number, at least 60"),
    ({"cut": 0}, "cut is 0; expected a whole number, at least 1"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)


def test_the_figure_has_a_line_for_each_road_it_names(small):
    import matplotlib.pyplot as plt

    axes = five_roads.plot(small)
    labels = [line.get_label() for line in axes.get_lines()]
    assert "RLOO" in labels and len(labels) == 8
    assert five_roads.plot(small, axes) is axes
    plt.close(axes.figure)


def test_the_page_is_what_its_script_writes(result):
    assert roads.PAGE.read_text(encoding="utf-8") == roads.page(result)


def test_the_page_has_the_numbers_of_tutorials_and_those_of_training():
    text = " ".join(roads.PAGE.read_text(encoding="utf-8").split())
    assert "Tutorials compare PPO's 56 GB with DPO's 28 GB" in text
    assert "it is 252 GB against 126, and 112 once" in text
    assert "| DPO | policy\\* + reference | 4 | 18 | 28 | 126 |" in text


def test_small_numbers_are_not_printed():
    assert [roads.small(x) for x in (3e-10, -1e-17, 0.0123, 2e-9)] == ["< 1e-9", "< 1e-9", "0.012", "2e-09"]
    assert roads.small(-0.25) == "-0.25"
