import itertools
import re

import numpy as np
import pytest

import dpo_numpy as dn
from analytic import sampling
from dpo_numpy.preferences import Preferences, pad
from dpo_numpy.rollouts import Task, best_of, ranked_pairs, rejection_sample, reward_model, rollout
from toy_models import NGram, Tabular, bandit

EPS = np.finfo(float).eps


class Forced:
    """In place of a generator: the numbers that it is to draw"""

    def __init__(self, *draws):
        self.draws = list(draws)

    def random(self, size):
        drawn = np.asarray(self.draws.pop(0), float)
        assert drawn.size == np.prod(size)
        return drawn.reshape(size)


def groups(p, size):
    """Every group of `size` draws from p: outcomes, probability, and the numbers that make a generator draw them"""
    between = np.cumsum(p) - p / 2
    for outcome in itertools.product(range(len(p)), repeat=size):
        at = np.array(outcome)
        yield at, float(np.prod(p[at])), between[at]


def judged(reward, weight=None):
    """Groups (B, K) of single-token responses with these rewards"""
    reward = np.asarray(reward, float)
    index = np.arange(reward.size).reshape(reward.shape)
    return Preferences(pad([([0], [k + 1]) for k in range(reward.size)]), index, weight, {"reward": reward})


# ---- a rollout

def test_a_rollout_is_what_the_policy_says():
    """Every group of two, by its probability: tokens, rewards, log-probs"""
    p, world = np.array([0.5, 0.2, 0.3]), bandit([[1.0, 0.0, -1.0]])
    policy, params = Tabular(3), {"W": np.log(p)[None]}
    for outcome, _, draws in groups(p, 2):
        drawn = rollout(policy, params, world.task(), 2, Forced(draws))
        assert drawn.responses.tokens[:, 1].tolist() == outcome.tolist()
        assert drawn.facts["reward"].tolist() == [world.reward[outcome].tolist()]
        np.testing.assert_allclose(drawn.responses.facts["old_token_logp"], np.log([[1, p[k]] for k in outcome]),
                                   atol=4 * EPS)
        assert (drawn.index.tolist(), drawn.weight.tolist()) == ([[0, 1]], [1.0])


def test_groups_are_of_one_prompt_each():
    task = Task([[1, 2], [2], [1, 1, 1]], lambda responses: responses.length, max_length=5)
    drawn = rollout(NGram(3), NGram(3).init(np.random.default_rng(0)), task, 4, np.random.default_rng(1))
    begin = np.argmax(drawn.responses.mask, axis=1)
    assert drawn.index.shape == (3, 4)
    for prompt, rows in zip(task.prompts, drawn.index, strict=True):
        for row in rows:
            assert drawn.responses.tokens[row, :begin[row]].tolist() == prompt
    assert drawn.facts["reward"].tolist() == drawn.responses.length[drawn.index].tolist()
    assert drawn.weight.tolist() == [1 / 3] * 3


def test_a_rollout_has_the_dtype_of_the_parameters():
    task = Task([[0]], lambda responses: responses.tokens[:, 1] > 0)
    drawn = rollout(Tabular(2), {"W": np.zeros((1, 2), np.float32)}, task, 3, np.random.default_rng(0))
    told = drawn.facts["reward"], drawn.weight, drawn.responses.facts["old_token_logp"]
    assert {x.dtype for x in told} == {np.dtype(np.float32)}
    assert ranked_pairs(drawn).weight.dtype == np.float32


def test_a_reward_model_is_frozen():
    params = {"W": np.array([[2.0, -1.0]])}
    reward = reward_model(Tabular(2), params)
    params["W"][:] = 9
    assert reward(bandit([[0.0, 0.0]]).responses).tolist() == [2.0, -1.0]


# ---- comparisons

def test_expected_labels_are_bradley_terry():
    reward = np.array([[0.0, 1.0, 3.0], [2.0, 2.0, -1.0]])
    pairs = ranked_pairs(judged(reward, [0.75, 0.25]))
    weight = {tuple(row): w for row, w in zip(pairs.index.tolist(), pairs.weight.tolist(), strict=True)}
    assert len(weight) == 12
    for b, share in ((0, 0.75), (1, 0.25)):
        for i, j in itertools.permutations(range(3), 2):
            expected = share / 3 / (1 + np.exp(reward[b, j] - reward[b, i]))
            assert weight[3 * b + i, 3 * b + j] == pytest.approx(expected, rel=8 * EPS)


def test_sampled_labels_are_expected_ones_on_average():
    """20,000 groups of two, one label each; four standard errors"""
    reps, ahead = 20_000, 0.7
    pairs = ranked_pairs(judged(np.tile([[ahead, 0.0]], (reps, 1))), "sampled", np.random.default_rng(0))
    assert len(pairs) == reps
    assert pairs.weight.sum() == pytest.approx(1)
    p = 1 / (1 + np.exp(-ahead))
    assert (pairs.index[:, 0] % 2 == 0).mean() == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / reps))


def test_signs_leave_equal_rewards_out():
    pairs = ranked_pairs(judged([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), "sign")
    assert sorted(pairs.index.tolist()) == [[0, 1], [2, 1]]
    np.testing.assert_allclose(pairs.weight, 1 / 6)  # of six pairs, two say something


def test_where_all_are_equal_nothing_is_said():
    """and a step on it is 0, as is that of GRPO"""
    silent = ranked_pairs(judged([[1.0, 1.0]]), "sign")
    assert not silent.weight.any()
    policy, params = NGram(4), {"W": np.zeros((4, 4))}
    value, grad = dn.value_and_grad(policy, params, silent.with_reference(policy, params), dn.LOSSES["dpo"]())
    assert value == 0
    assert not grad["W"].any()


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_best_of_n_has_its_law(n):
    p, reward = np.array([0.2, 0.5, 0.3]), np.array([1.0, 0.0, 1.0])  # two are equally good
    law = np.zeros(3)
    for outcome, probability, _ in groups(p, n):
        best = best_of(judged([reward[outcome]]))
        law[outcome[best.index[0, 0]]] += probability
        assert best.facts["reward"].tolist() == [[reward[outcome].max()]]
    np.testing.assert_allclose(law, sampling.best_of_n(p, reward, n), rtol=16 * EPS)


def test_the_first_that_rejection_sampling_keeps_has_its_law():
    """30,000 groups of four candidates; five standard errors (three frequencies, and the law sums to 1)"""
    p, reward, beta, reps = np.array([0.6, 0.3, 0.1]), np.array([0.0, 1.0, 2.0]), 0.7, 30_000
    rng = np.random.default_rng(3)
    outcome = rng.choice(3, size=(reps, 4), p=p)
    kept = rejection_sample(judged(reward[outcome]), beta, 1, rng)
    found = np.bincount(outcome.reshape(-1)[kept.index[:, 0]], minlength=3) / reps
    law = sampling.rejection_sampling(p, reward, beta, 4)
    assert (abs(found - law) < 5 * np.sqrt(law * (1 - law) / reps)).all()
    assert abs(law - sampling.best_of_n(p, reward, 4)).max() > 0.05  # it is not the best of four


def test_rejection_sampling_keeps_each_once():
    kept = rejection_sample(judged(np.random.default_rng(0).normal(size=(5, 6))), 0.1, 6, np.random.default_rng(1))
    assert np.sort(kept.index, axis=1).tolist() == np.arange(30).reshape(5, 6).tolist()
    np.testing.assert_array_equal(kept.facts["reward"], np.random.default_rng(0).normal(size=30)[kept.index])


# ---- errors

def silent_judge(value):
    return lambda responses: value


@pytest.mark.parametrize(("call", "message"), [
    (lambda: rollout(Tabular(2), {"W": np.zeros((1, 2))}, Task([], silent_judge([])), 1, np.random.default_rng(0)),
     "task has 0 prompts and group is 1; expected at least 1 of each"),
    (lambda: rollout(Tabular(2), {"W": np.zeros((1, 2))}, Task([[0]], silent_judge([])), 0, np.random.default_rng(0)),
     "task has 1 prompts and group is 0; expected at least 1 of each"),
    (lambda: rollout(Tabular(2), {"W": np.zeros((1, 2))}, Task([[0]], silent_judge(1.0)), 3, np.random.default_rng(0)),
     "task.reward gave shape (); expected (3,), one for each response"),
    (lambda: rollout(Tabular(2), {"W": np.zeros((1, 2))}, Task([[0]], silent_judge([1.0, np.nan])), 2,
                     np.random.default_rng(0)),
     "task.reward is nan for response 1; expected finite numbers"),
    (lambda: ranked_pairs(judged([[1.0]])), "judged has groups of 1; expected at least 2 responses to compare"),
    (lambda: ranked_pairs(judged([[1.0, 0.0]]), "sampled"), "rng is None; expected a generator to sample labels with"),
    (lambda: ranked_pairs(judged([[1.0, 0.0]]), "hard"),
     "labels is 'hard'; expected 'expected' or 'sampled' or 'sign'"),
    (lambda: rejection_sample(judged([[1.0, 0.0]]), 1.0, 3, np.random.default_rng(0)),
     "keep is 3; expected 1 to 2, the candidates of a group"),
    *[(lambda call=call: call(Preferences(judged([[1.0, 0.0]]).responses, [[0, 1]])),
       "judged has no fact `reward`; expected one number for each response, as `dn.rollout` tells")
      for call in (ranked_pairs, best_of, lambda given: rejection_sample(given, 1.0, 1, np.random.default_rng(0)))],
    (lambda: rejection_sample(judged([[1.0, 0.0]]), 0.0, 1, np.random.default_rng(0)),
     "beta is 0.0; expected a finite number above 0"),
])
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
