"""Data that the policy makes itself: responses sampled from it as it is, judged, and turned into comparisons.

    Task               prompts, a reward of responses, and how long these may become
    reward_model       a trained policy, read as a reward: what a Task may be judged by
    rollout            K responses to each prompt, judged                       Preferences (B, K)
    ranked_pairs       every two of a group, labelled by their rewards          Preferences (B', 2)
    best_of            the best of each group                                   Preferences (B, 1)
    rejection_sample   those of a group that are kept as samples of π*          Preferences (B, keep)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .gradient import read
from .losses import one_of, positive
from .numerics import sigmoid
from .policy import Params, Policy, sample
from .preferences import Preferences, Responses

__all__ = ["Task", "best_of", "ranked_pairs", "rejection_sample", "reward_model", "rollout"]

Array = NDArray[Any]


class Task(NamedTuple):
    """What is asked, and what an answer is worth.

    prompts     token ids of each
    reward      responses (N, T) -> (N,), one number each, known once a response is whole; what `dn.sample` cut off has
                `responses.facts["finished"]` false
    max_length  tokens of a response, its end included
    """

    prompts: Sequence[Sequence[int]]
    reward: Callable[[Responses], ArrayLike]
    max_length: int = 1


def reward_model(policy: Policy, params: Params) -> Callable[[Responses], Array]:
    """r(x, y), the reading `reward` of a policy trained as a reward model, for a `Task`; parameters are copied

    >>> from toy_models import Tabular, bandit
    >>> reward_model(Tabular(vocab=2), {"W": np.array([[2.0, -1.0]])})(bandit([[0.0, 0.0]]).responses).tolist()
    [2.0, -1.0]
    """
    frozen = {name: np.array(p) for name, p in params.items()}

    def reward(responses: Responses) -> Array:
        return read(policy, frozen, responses, np.arange(len(responses)), ["reward"])[0]["reward"]

    return reward


def rollout(policy: Policy, params: Params, task: Task, group: int, rng: np.random.Generator) -> Preferences:
    """K = `group` responses to each of B prompts, drawn from the policy, (B, K); facts `reward`, `old_token_logp`

    `reward` (B, K) is the task's; `old_token_logp`, of each token under the policy that drew it, is told to surrogates.

    Raises `ValueError` where there is no prompt, `group` is below 1, and where the reward of a response is not one
    finite number.

    >>> from toy_models import Tabular
    >>> task = Task([[0]], lambda responses: responses.tokens[:, 1] == 1)
    >>> drawn = rollout(Tabular(vocab=2), {"W": np.zeros((1, 2))}, task, group=4, rng=np.random.default_rng(0))
    >>> drawn.responses.tokens[:, 1].tolist(), drawn.facts["reward"].tolist()
    ([1, 0, 0, 0], [[1.0, 0.0, 0.0, 0.0]])
    """
    if not len(task.prompts) or group < 1:
        raise ValueError(f"task has {len(task.prompts)} prompts and group is {group}; expected at least 1 of each")
    drawn = sample(policy, params, [prompt for prompt in task.prompts for _ in range(group)], rng, task.max_length)
    reward = np.asarray(task.reward(drawn))
    if reward.shape != (len(drawn),):
        raise ValueError(f"task.reward gave shape {reward.shape}; expected ({len(drawn)},), one for each response")
    reward = reward.astype(np.result_type(*params.values()))
    if not np.isfinite(reward).all():
        row = int(np.argmin(np.isfinite(reward)))
        raise ValueError(f"task.reward is {reward[row]} for response {row}; expected finite numbers")
    old = read(policy, params, drawn, np.arange(len(drawn)), ["token_logp"])[0]["token_logp"]
    index = np.arange(len(drawn)).reshape(-1, group)
    weight = np.full(len(index), 1 / len(index), reward.dtype)
    return Preferences(drawn.with_facts(old_token_logp=old), index, weight, {"reward": reward.reshape(-1, group)})


def ranked_pairs(
    judged: Preferences, labels: str = "expected", rng: np.random.Generator | None = None
) -> Preferences:
    """Every two responses of a group, the chosen one first; by Δ, how much the reward of one is above the other's

    judged     (B, K) with a fact `reward`, as from `rollout`
    labels     "expected": both orders, weighed σ(Δ) and σ(-Δ), the labels of Bradley and Terry's annotator without
               their noise; "sampled": one order, drawn with these probabilities by `rng`; "sign": the better one is
               chosen, and equal rewards say nothing

    Pairs of a prompt share its weight; what says nothing has weight 0, so that a step is the smaller the less is said.

    Raises `ValueError` where there are no rewards, on groups of one, and on labels to be sampled without `rng`.

    >>> from dpo_numpy.preferences import pad
    >>> judged = Preferences(pad([([0], [1]), ([0], [2])]), [[0, 1]], facts={"reward": [[0.0, np.log(3.0)]]})
    >>> pairs = ranked_pairs(judged)
    >>> pairs.index.tolist(), pairs.weight.round(12).tolist()
    ([[0, 1], [1, 0]], [0.25, 0.75])
    """
    reward = _rewards(judged)
    if reward.shape[1] < 2:
        raise ValueError(f"judged has groups of {reward.shape[1]}; expected at least 2 responses to compare")
    i, j = np.triu_indices(reward.shape[1], 1)
    ahead = reward[:, i] - reward[:, j]
    if one_of("labels", labels, "expected", "sampled", "sign") == "sign":
        first, second = ahead > 0, ahead < 0
    elif labels == "expected":
        first, second = sigmoid(ahead), sigmoid(-ahead)
    elif rng is None:
        raise ValueError("rng is None; expected a generator to sample labels with")
    else:
        first = rng.random(ahead.shape) < sigmoid(ahead)
        second = ~first
    each = (judged.weight / len(i))[:, None]
    one, other = judged.index[:, i], judged.index[:, j]
    index = np.stack([np.concatenate([one, other]), np.concatenate([other, one])], axis=-1).reshape(-1, 2)
    weight = np.concatenate([each * first, each * second]).reshape(-1)
    said = weight > 0 if weight.any() else np.ones(len(weight), bool)
    return Preferences(judged.responses, index[said], weight[said].astype(reward.dtype))


def best_of(judged: Preferences) -> Preferences:
    """The best of each group of K, the first among equals, (B, 1): draws with the law `analytic.sampling.best_of_n`

    Supervised fine-tuning on them distills best-of-n: `dn.train_best_of_n`. Weights stay. Raises `ValueError` where
    there are no rewards.

    >>> from dpo_numpy.preferences import pad
    >>> judged = Preferences(pad([([0], [k]) for k in (1, 2, 3)]), [[0, 1, 2]], facts={"reward": [[0.0, 2.0, 1.0]]})
    >>> best_of(judged).index.tolist()
    [[1]]
    """
    return _columns(judged, np.argmax(_rewards(judged), axis=1)[:, None])


def rejection_sample(judged: Preferences, beta: float, keep: int, rng: np.random.Generator) -> Preferences:
    """`keep` of each group of K candidates, (B, keep), each candidate kept with probability e^((r - max r)/β)

    Gone through in order, and again with those that are left and *their* best, until there are enough. The first kept
    has the law `analytic.sampling.rejection_sampling`, and tends to π* of (π_ref, r, β) as K grows, if the candidates
    were drawn from π_ref; those after it are the nearer to π_ref the more of K are kept. Liu et al. 2023 (RSO),
    arXiv:2309.06657, algorithm 1, where equal candidates count once.

    Raises `ValueError` where there are no rewards, more are to be kept than there are, or β is not above 0.

    >>> from dpo_numpy.preferences import pad
    >>> judged = Preferences(pad([([0], [k]) for k in (1, 2, 3)]), [[0, 1, 2]], facts={"reward": [[0.0, 2.0, 1.0]]})
    >>> rejection_sample(judged, beta=0.01, keep=2, rng=np.random.default_rng(0)).index.tolist()  # greedy, nearly
    [[1, 2]]
    """
    reward = _rewards(judged)
    if not 1 <= keep <= reward.shape[1]:
        raise ValueError(f"keep is {keep}; expected 1 to {reward.shape[1]}, the candidates of a group")
    beta, kept = positive("beta", beta), []
    for r in reward:
        left, chosen = list(range(len(r))), list[int]()
        while len(chosen) < keep:
            top = r[left].max()
            for k in tuple(left):
                if len(chosen) < keep and rng.random() < np.exp((r[k] - top) / beta):
                    chosen.append(k)
                    left.remove(k)
        kept.append(chosen)
    return _columns(judged, np.array(kept))


def _rewards(judged: Preferences) -> Array:
    if "reward" not in judged.facts:
        raise ValueError("judged has no fact `reward`; expected one number for each response, as `dn.rollout` tells")
    return np.asarray(judged.facts["reward"])


def _columns(judged: Preferences, columns: Array) -> Preferences:
    """Some of each group's responses, by their places in it"""
    index, reward = (np.take_along_axis(x, columns, axis=1) for x in (judged.index, _rewards(judged)))
    return Preferences(judged.responses, index, judged.weight, {"reward": reward})
