"""Worlds: prompts, all their responses, a reward for each, and Bradley-Terry annotators who judge pairs by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpo_numpy.numerics import sigmoid
from dpo_numpy.policy import enumerate_responses
from dpo_numpy.preferences import Preferences, Responses
from dpo_numpy.rollouts import Task

from .ngram import NGram

__all__ = ["World", "bandit", "strings"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class World:
    """responses: all there are; prompt (N,): which one each answers; reward (N,): in nats of the annotators' log-odds.

    An annotator prefers i to j with probability σ(rᵢ - rⱼ) (Bradley & Terry 1952), and reports the opposite with
    probability `flip`.

    Raises `ValueError` on shapes that do not fit, rewards that are not finite, and a prompt with a single response.
    """

    responses: Responses
    prompt: Array
    reward: Array

    def __post_init__(self) -> None:
        prompt, reward = np.asarray(self.prompt), np.asarray(self.reward, float)
        for name, value in (("prompt", prompt), ("reward", reward)):
            if value.shape != (len(self.responses),):
                raise ValueError(
                    f"{name} has shape {value.shape}; expected ({len(self.responses)},), one for each response"
                )
        if not np.isfinite(reward).all():
            row = np.argmin(np.isfinite(reward))
            raise ValueError(f"reward is {reward[row]} in row {row}; expected finite numbers")
        if not len(prompt):
            raise ValueError("responses is empty; expected at least two to compare")
        ids, count = np.unique(prompt, return_counts=True)
        if (count < 2).any():
            raise ValueError(f"prompt {ids[np.argmin(count)]} has a single response; expected at least two to compare")
        object.__setattr__(self, "prompt", prompt)
        object.__setattr__(self, "reward", reward)

    def population(self, mu: ArrayLike | None = None, flip: float = 0.0) -> Preferences:
        """The exact distribution of labelled pairs: each two responses of a prompt in both orders, with probabilities.

        mu (N,) >= 0: a pair is met in proportion to μᵢ μⱼ (uniform by default), prompts equally often. Total weight 1.

        >>> world = bandit([[1.0, 0.0, -1.0]])
        >>> world.population().index.tolist()
        [[0, 1], [0, 2], [1, 2], [1, 0], [2, 0], [2, 1]]
        """
        first, second, met = self._pairs(mu)
        index = np.concatenate([np.column_stack([first, second]), np.column_stack([second, first])])
        p = self._probability(index[:, 0], index[:, 1], flip)
        return Preferences(self.responses, index, np.concatenate([met, met]) * p)

    def sample(self, n: int, rng: np.random.Generator, mu: ArrayLike | None = None, flip: float = 0.0) -> Preferences:
        """n independent labelled pairs of `population`; equal ones are merged, their weight their share."""
        if n < 1:
            raise ValueError(f"n is {n}; expected at least 1")
        first, second, met = self._pairs(mu)
        drawn = rng.choice(len(met), size=n, p=met)
        wins = rng.random(n) < self._probability(first, second, flip)[drawn]
        chosen, rejected = np.where(wins, (first[drawn], second[drawn]), (second[drawn], first[drawn]))
        index, count = np.unique(np.column_stack([chosen, rejected]), axis=0, return_counts=True)
        return Preferences(self.responses, index, count / n)

    def task(self, outside: float | None = None) -> Task:
        """The world's prompts, its rewards, and its longest response, for what samples its own data

        `outside` is the reward of any response that the world does not have; without it, such a response is an error.

        >>> task = bandit([[1.0, 0.0], [0.0, 2.0]]).task()
        >>> task.prompts, task.reward(bandit([[0.0, 0.0], [0.0, 0.0]]).responses).tolist()
        ([[0], [1]], [1.0, 0.0, 0.0, 2.0])
        """
        known = dict(zip(_spoken(self.responses), self.reward.tolist(), strict=True))
        prompts = dict.fromkeys(prompt for prompt, _ in known)

        def reward(responses: Responses) -> Array:
            said = _spoken(responses)
            strange = [pair for pair in said if pair not in known]
            if strange and outside is None:
                raise ValueError(f"the world has no response {list(strange[0][1])} to prompt {list(strange[0][0])}; "
                                 "expected one of its own, or `outside`, a reward for others")
            return np.array([known.get(pair, outside) for pair in said], float)

        return Task([list(prompt) for prompt in prompts], reward, int(self.responses.length.max()))

    def _probability(self, first: Array, second: Array, flip: float) -> Array:
        if not 0 <= flip <= 1:
            raise ValueError(f"flip is {flip}; expected a probability")
        gap = self.reward[first] - self.reward[second]
        return (1 - flip) * sigmoid(gap) + flip * sigmoid(-gap)

    def _pairs(self, mu: ArrayLike | None) -> tuple[Array, Array, Array]:
        """Each unordered pair of a prompt's responses once, and how often it is met (sums to 1)."""
        mass = np.ones(len(self.reward)) if mu is None else np.asarray(mu, float)
        if mass.shape != self.reward.shape:
            raise ValueError(f"mu has shape {mass.shape}; expected {self.reward.shape}, one for each response")
        if not (np.isfinite(mass) & (mass >= 0)).all():
            row = np.argmin(np.isfinite(mass) & (mass >= 0))
            raise ValueError(f"mu is {mass[row]} in row {row}; expected a finite number, at least 0")
        parts = []
        for prompt in np.unique(self.prompt):
            rows = np.flatnonzero(self.prompt == prompt)
            i, j = np.triu_indices(len(rows), 1)
            met = mass[rows[i]] * mass[rows[j]]
            if not met.sum() > 0:
                raise ValueError(f"mu leaves prompt {prompt} no pair with a probability above 0")
            parts.append((rows[i][met > 0], rows[j][met > 0], met[met > 0] / met.sum()))
        first, second, met = (np.concatenate(column) for column in zip(*parts, strict=True))
        return first, second, met / met.sum()


def _spoken(responses: Responses) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(prompt, response) of each row, as token ids."""
    begin = np.argmax(responses.mask, axis=1)
    return [(tuple(tokens[:start].tolist()), tuple(tokens[mask].tolist()))
            for tokens, mask, start in zip(responses.tokens, responses.mask, begin, strict=True)]


def bandit(reward: ArrayLike) -> World:
    """Whole responses as single tokens, for `Tabular`: reward (prompts, K)

    >>> bandit([[1.0, 0.0]]).responses.tokens.tolist()
    [[0, 0], [0, 1]]
    """
    reward = np.asarray(reward, float)
    if reward.ndim != 2:
        raise ValueError(f"reward has shape {reward.shape}; expected (prompts, K)")
    prompt, response = (axis.ravel() for axis in np.indices(reward.shape))
    tokens = np.column_stack([prompt, response])
    return World(Responses(tokens, np.tile([False, True], (len(tokens), 1))), prompt, reward.ravel())


def strings(vocab: int, max_length: int, reward: Callable[[Sequence[int]], float]) -> World:
    """All strings over tokens 1 ... vocab - 1 that end (token 0) within `max_length` tokens, the end included

    `reward` is a function of the response's tokens.

    >>> strings(3, 2, lambda y: float(len(y))).responses.tokens.tolist()
    [[0, 0, 0], [0, 1, 0], [0, 2, 0]]
    """
    every = enumerate_responses(NGram(vocab, order=1), [0], max_length)
    ended = every.take(np.flatnonzero(every.facts["finished"]))
    rewards = [reward(tokens[mask].tolist()) for tokens, mask in zip(ended.tokens, ended.mask, strict=True)]
    return World(Responses(ended.tokens, ended.mask), np.zeros(len(ended), int), np.array(rewards, float))
