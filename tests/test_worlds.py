"""Worlds: the population of labelled pairs, by brute force; samples of it."""

import re

import numpy as np
import pytest

from dpo_numpy.preferences import Responses, pad
from toy_models import World, bandit, strings

EPS = np.finfo(np.float64).eps


def message(text):
    return pytest.raises(ValueError, match=re.escape(text))


def brute(world, mu, flip):
    """{(chosen, rejected): probability}: a prompt, then two of its responses, then a label, then a mistake"""
    prompts = sorted(set(world.prompt.tolist()))
    out = {}
    for prompt in prompts:
        rows = [i for i in range(len(world.reward)) if world.prompt[i] == prompt]
        total = sum(mu[i] * mu[j] for i in rows for j in rows if i != j)
        for i in rows:
            for j in rows:
                if i != j:
                    better = 1 / (1 + np.exp(world.reward[j] - world.reward[i]))
                    chosen = better * (1 - flip) + (1 - better) * flip
                    # (i, j) and (j, i) are the same meeting
                    out[i, j] = 2 * mu[i] * mu[j] / total * chosen / len(prompts)
    return out


def weights(batch):
    pairs = list(map(tuple, batch.index.tolist()))
    assert len(set(pairs)) == len(pairs)
    return dict(zip(pairs, batch.weight, strict=True))


@pytest.mark.parametrize("flip", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("uniform", [True, False])
def test_the_population_is_mu_i_mu_j_p_ij(flip, uniform):
    rng = np.random.default_rng(0)
    world = bandit(rng.normal(size=(3, 4)))
    mu = rng.random(12)
    batch = world.population(None if uniform else mu, flip)
    expected = brute(world, np.ones(12) if uniform else mu, flip)
    found = weights(batch)
    assert found.keys() == expected.keys()
    for pair, w in expected.items():
        assert found[pair] == pytest.approx(w, rel=32 * EPS)
    assert batch.weight.sum() == pytest.approx(1, rel=16 * EPS)


def test_prompts_with_unequal_numbers_of_responses_are_met_equally_often():
    world = World(bandit(np.zeros((1, 5))).responses, np.array([0, 1, 1, 0, 1]), np.arange(5.0))
    found = weights(world.population())
    assert sum(w for (i, _), w in found.items() if world.prompt[i] == 0) == pytest.approx(0.5, rel=8 * EPS)
    assert found.keys() == brute(world, np.ones(5), 0).keys()
    for pair, w in brute(world, np.ones(5), 0).items():
        assert found[pair] == pytest.approx(w, rel=32 * EPS)


def test_what_mu_leaves_out_is_not_met():
    world = bandit([[0.0, 1.0, 2.0]])
    assert set(weights(world.population([1, 0, 2]))) == {(0, 2), (2, 0)}
    assert set(weights(world.sample(50, np.random.default_rng(0), [1, 0, 2]))) <= {(0, 2), (2, 0)}


def test_labels_that_are_nearly_certain_keep_their_probability():
    found = weights(bandit([[50.0, 0.0]]).population())
    assert found[1, 0] == pytest.approx(np.exp(-50), rel=4 * EPS)
    assert found[0, 1] == 1
    flipped = weights(bandit([[50.0, 0.0]]).population(flip=1.0))
    assert flipped[0, 1] == pytest.approx(np.exp(-50), rel=4 * EPS)


@pytest.mark.parametrize("flip", [0.0, 0.2])
def test_samples_converge_to_the_population(flip):
    rng = np.random.default_rng(1)
    world = bandit(rng.normal(size=(2, 3)) * 2)
    mu = rng.random(6) + 0.2
    expected = weights(world.population(mu, flip))
    n = 40_000
    batch = world.sample(n, np.random.default_rng(2), mu, flip)
    assert batch.weight.sum() == pytest.approx(1, rel=16 * EPS)
    assert (np.round(batch.weight * n) == pytest.approx(batch.weight * n, rel=1e-9))
    found = weights(batch)
    assert found.keys() <= expected.keys()
    z = [(found.get(pair, 0) - w) / np.sqrt(w * (1 - w) / n) for pair, w in expected.items()]
    assert np.abs(z).max() < 4  # 12 pairs, each within 4 sigma
    assert np.abs([(found.get((j, i), 0) - w) / np.sqrt(w * (1 - w) / n) for (i, j), w in expected.items()]).max() > 10


def test_a_sample_depends_on_the_generator_alone_and_may_be_of_one():
    world = bandit([[0.0, 1.0, 2.0]])
    one, same = (world.sample(30, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one.index, same.index)
    np.testing.assert_array_equal(one.weight, same.weight)
    assert world.sample(1, np.random.default_rng(3)).weight.tolist() == [1.0]
    same = world.sample(30, np.random.default_rng(3), np.ones(3), 0.0)  # by default: uniform pairs, honest labels
    np.testing.assert_array_equal(one.index, same.index)
    np.testing.assert_array_equal(world.population().weight, world.population(np.ones(3), 0.0).weight)


def test_bandit_and_strings_lay_out_responses():
    world = bandit([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert world.responses.tokens.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert world.responses.mask.tolist() == [[False, True]] * 6
    assert world.prompt.tolist() == [0, 0, 0, 1, 1, 1]
    assert world.reward.tolist() == [1, 2, 3, 4, 5, 6]
    told = []
    world = strings(3, 3, lambda y: told.append(y) or float(sum(y)))
    assert told == [[0], [1, 0], [2, 0], [1, 1, 0], [1, 2, 0], [2, 1, 0], [2, 2, 0]]
    assert world.reward.tolist() == [0, 1, 2, 2, 3, 3, 4]
    assert set(world.prompt.tolist()) == {0}
    assert (world.responses.tokens[:, 0] == 0).all()
    assert world.responses.length.tolist() == [1, 2, 2, 3, 3, 3, 3]


def test_worlds_refuse():
    r = bandit(np.zeros((1, 3))).responses
    with message("prompt has shape (2,); expected (3,), one for each response"):
        World(r, np.zeros(2, int), np.zeros(3))
    with message("reward has shape (3, 1); expected (3,), one for each response"):
        World(r, np.zeros(3, int), np.zeros((3, 1)))
    with message("reward is inf in row 1; expected finite numbers"):
        bandit([[0.0, np.inf]])
    with message("reward is nan in row 2; expected finite numbers"):
        bandit([[0.0, 1.0, np.nan]])
    with message("prompt 1 has a single response; expected at least two to compare"):
        World(r, np.array([0, 0, 1]), np.zeros(3))
    with message("prompt 0 has a single response"):
        strings(3, 1, lambda y: 0.0)
    with message("reward has shape (3,); expected (prompts, K)"):
        bandit([0.0, 1.0, 2.0])
    with message("responses is empty; expected at least two to compare"):
        bandit(np.zeros((0, 3)))
    with message("n is 0; expected at least 1"):
        bandit([[0.0, 1.0]]).sample(0, np.random.default_rng(0))


@pytest.mark.parametrize(("mu", "text"), [
    ([1.0], "mu has shape (1,); expected (2,), one for each response"),
    ([[1.0, 1.0]], "mu has shape (1, 2); expected (2,), one for each response"),
    ([], "mu has shape (0,); expected (2,), one for each response"),
    ([0.0, -1.0], "mu is -1.0 in row 1; expected a finite number, at least 0"),
    ([np.nan, 1.0], "mu is nan in row 0; expected a finite number, at least 0"),
    ([1.0, 0.0], "mu leaves prompt 0 no pair with a probability above 0"),
])
def test_mu_is_checked(mu, text):
    with message(text):
        bandit([[0.0, 1.0]]).population(mu)


@pytest.mark.parametrize("flip", [-0.1, 1.1, np.nan])
def test_flip_is_a_probability(flip):
    with message(f"flip is {flip}; expected a probability"):
        bandit([[0.0, 1.0]]).population(flip=flip)
    with message(f"flip is {flip}; expected a probability"):
        bandit([[0.0, 1.0]]).sample(5, np.random.default_rng(0), flip=flip)


def test_any_responses_make_a_world():
    tokens = np.array([[7, 1, 2], [7, 2, 0], [9, 1, 0], [9, 2, 2]])
    world = World(
        Responses(tokens, np.array([[False, True, True]] * 4)), np.array([7, 7, 9, 9]), np.arange(4))
    assert world.population().index.tolist() == [[0, 1], [2, 3], [1, 0], [3, 2]]
    assert world.reward.dtype == np.float64


def test_a_task_knows_what_each_response_is_worth_and_of_others_what_it_is_told():
    world = strings(3, 2, lambda y: float(len(y)))
    task = world.task(outside=-7.0)
    assert task.prompts == [[0]]
    assert task.max_length == 2
    assert task.reward(world.responses).tolist() == world.reward.tolist()
    assert task.reward(pad([([0], [1, 1]), ([0], [1, 0]), ([1], [1, 0])])).tolist() == [-7.0, 2.0, -7.0]
    message = ("the world has no response [1, 1] to prompt [0]; expected one of its own, or `outside`, a reward for "
               "others")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        world.task().reward(pad([([0], [1, 1])]))
