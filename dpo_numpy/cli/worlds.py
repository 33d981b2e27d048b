"""Worlds that are built in: small enough for exact answers, and asked for by name in place of a file.

    bandit    3 prompts, 5 responses each, rewards from a table               Tabular, uniform at first
    strings   a bigram language model; a reward a token, so that length pays  NGram(vocab=3)
    brackets  close what is open, and end: 1 if balanced, else 0              NGram(vocab=3, order=5), uniform at first
    sums      (a + b) mod 5: 1 if right, else 0                               NGram(vocab=7, order=4), uniform at first

The first two have annotators too, whose exact population of pairs DPO and its like learn from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..gradient import read
from ..policy import Params, sample
from ..preferences import Preferences, Responses
from ..rollouts import Task
from .exact import Enumerated, Exact, summed
from .models import Model, Problem, Whole, tokens, whole_of
from .options import PROMPTS, Options

__all__ = ["RULED", "Arena", "arena", "problem"]

Array = NDArray[Any]

BANDIT = [[1.0, 0.5, 0.0, -0.5, -1.0], [0.0, 2.0, -1.0, 0.5, -0.5], [-1.0, -0.5, 1.5, 1.0, 0.0]]
SPEECH = [[0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.4, 0.2, 0.4]]  # rows: begin, a, b; columns: end, a, b
PAY = [0.0, -0.25, 0.5]  # of the end, of an a, of a b
COMPARED, HEARD = 5, 64  # tokens of a string: of those that are compared, and of those that are sampled
MODULUS, BRACKETS, DEPTH = 5, 6, 2


@dataclass(frozen=True, kw_only=True)
class Arena(Model):
    """With a task to sample for."""

    task: Task


class Made(NamedTuple):
    """A world, made: `pairs` and `truth`, all responses and what they are worth, are None where nobody compares; `rho`
    is the reward of each context and token of an n-gram
    """

    policy: Any
    reference: Params
    task: Task
    pairs: Preferences | None
    say: Callable[[Sequence[int], Sequence[int]], str]
    meta: dict[str, Any]
    truth: Any = None
    rho: Array | None = None


def bandit() -> Made:
    from toy_models import Tabular
    from toy_models import bandit as world_of

    world, names = world_of(BANDIT), "abcde"
    prompts = [f"prompt {x}" for x in range(len(BANDIT))]
    meta = {"model": "tabular", "vocab": len(names), "prompts": prompts, "responses": [list(names)] * len(prompts)}
    return Made(Tabular(vocab=len(names), prompts=len(prompts)), {"W": np.zeros(np.shape(BANDIT))}, world.task(),
                world.population(), lambda prompt, said: f"{prompts[prompt[0]]}: {names[said[0]]}", meta, world)


def strings() -> Made:
    from toy_models import NGram
    from toy_models import strings as world_of

    policy, reference = NGram(vocab=3), {"W": np.log(SPEECH)}
    pay = np.array(PAY)
    world = world_of(3, COMPARED, lambda said: float(pay[list(said)].sum()))
    said = policy.logp(reference, world.responses, np.arange(len(world.responses)))[0]

    def reward(responses: Responses) -> Array:
        return np.asarray((pay[responses.tokens] * responses.mask).sum(axis=1))

    return Made(policy, reference, Task([[0]], reward, HEARD), world.population(mu=np.exp(said)),
                lambda _, said: "".join("ab"[i - 1] for i in said if i) or "(nothing)",
                {"model": "ngram", "vocab": 3, "order": 2}, world, np.tile(pay, (3, 1)))


def brackets() -> Made:
    from toy_models import NGram
    from toy_models import brackets as task_of

    order = 5
    return Made(NGram(3, order), {"W": np.zeros((3 ** (order - 1), 3))}, task_of(BRACKETS, DEPTH), None,
                lambda prompt, said: f"{_brackets(prompt)} {_brackets(said)}", {"model": "ngram", "vocab": 3,
                                                                                "order": order})


def sums() -> Made:
    from toy_models import NGram, modular_sums

    vocab, order = MODULUS + 2, 4
    return Made(NGram(vocab, order), {"W": np.zeros((vocab ** (order - 1), vocab))}, modular_sums(MODULUS), None,
                lambda prompt, said: f"{prompt[0] - 1} + {prompt[1] - 1} = {''.join(str(i - 1) for i in said if i)}",
                {"model": "ngram", "vocab": vocab, "order": order})


MAKE = {"bandit": bandit, "strings": strings, "brackets": brackets, "sums": sums}
RULED = ("brackets", "sums")  # by a rule: rewards are 1 for right, else 0


def problem(options: Options) -> Problem:
    """The world's exact population of pairs."""
    made, common = _made(options)
    if made.pairs is None:
        raise ValueError(
            f"{options.method} learns from pairs, and {options.world} has a rule and nobody who compares: expected "
            f"--world bandit or strings, or --method rloo, grpo, ppo or online_dpo"
        )
    pairs = made.pairs
    weight = np.asarray(pairs.weight, options.dtype)
    if options.method == "rm":
        common["exact"] = Exact(lambda params: {"reward/error": _error(made, params)}, None, None)
    return Problem(**common, train=Preferences(pairs.responses, pairs.index, weight, pairs.facts), held=None,
                   length=tokens)


def arena(options: Options) -> Arena:
    """Each of the world's prompts, `batch_size` in all."""
    made, common = _made(options)
    prompts, size = made.task.prompts, options.batch_size
    if size and size % len(prompts):
        raise ValueError(f"batch_size is {size}; expected a multiple of {len(prompts)}, the prompts of {options.world},"
                         f" which are asked equally often in each step")
    often = size // len(prompts) if size else PROMPTS if len(prompts) == 1 else 1
    return Arena(**common, task=made.task._replace(prompts=[prompt for prompt in prompts for _ in range(often)]))


def _made(options: Options) -> tuple[Made, dict[str, Any]]:
    """The world, and what any model of it is made of."""
    made = MAKE[options.world or ""]()
    reference = {name: p.astype(options.dtype) for name, p in made.reference.items()}
    policy, task, beta = made.policy, made.task, options.kl_coefficient

    def draw(params: Params, n: int, rng: np.random.Generator) -> list[str]:
        every = len(task.prompts)
        asked = [task.prompts[i] for i in np.sort(rng.permutation(max(n, every))[:n] % every)]
        drawn = sample(policy, params, asked, rng, task.max_length)
        return [made.say(prompt, ids[mask].tolist())
                for prompt, ids, mask in zip(asked, drawn.tokens, drawn.mask, strict=True)]

    whole: Callable[[Params], Whole]
    exact: Exact
    if made.rho is not None:
        whole, exact = whole_of(policy, reference, options), summed(policy, reference, made.rho, beta)
    else:
        counted = Enumerated(policy, reference, task)
        exact = counted.exact(beta)

        def whole(params: Params) -> Whole:
            kl, length = counted.kl_and_length(params)
            return Whole(kl, 0.0, length, 0.0, None)

    return made, {"policy": policy, "reference": reference, "unit": "tokens", "draw": draw, "whole": whole,
                  "meta": {"world": options.world, **made.meta}, "arrays": {}, "exact": exact}


def _error(made: Made, params: Params) -> float:
    """Of a reward model: root of the mean square over responses, prompts' means aside, which no comparison knows of"""
    told, world = made.truth.responses, made.truth
    error = read(made.policy, params, told, np.arange(len(told)), ["reward"])[0]["reward"] - world.reward
    mean = np.bincount(world.prompt, error) / np.bincount(world.prompt)
    return float(np.sqrt(np.square(error - mean[world.prompt]).mean()))


def _brackets(ids: Sequence[int]) -> str:
    return "".join("()"[i - 1] for i in ids if i)
