"""Methods that sample: their trainers' steps, logged, checkpointed between rollouts; and their task, on a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..gradient import read
from ..policy import Params
from ..preferences import Preferences
from ..rollouts import Task, reward_model
from .exact import summed
from .loop import Loop, made, part
from .methods import Start
from .models import Problem, Trained
from .options import Options, make_method
from .worlds import Arena

__all__ = ["OnlineRun", "judged"]

Array = NDArray[Any]


class OnlineRun(Loop):
    """On responses of its own; the critic, of the policy's kind, is at 0 at first."""

    def __init__(self, arena: Arena, options: Options) -> None:
        super().__init__(arena, options)
        self.arena, self.method = arena, make_method(options)
        self._critic: Params = {}
        self._seen: dict[str, float] = {}

    def rehearse(self) -> None:
        self.params = self.arena.reference
        next(self.begin({}, {}))

    def begin(self, arrays: Mapping[str, Array], progress: Mapping[str, Any]) -> Iterator[Any]:
        arena = self.arena
        self._rng = np.random.default_rng([self.options.seed, 1])
        if "rng" in progress:
            self._rng.bit_generator.state = progress["rng"]
        if self.method.critic_rate:
            self._critic = part(arrays, "critic_params/") or {name: np.zeros_like(p) for name, p in self.params.items()}
        return self.method.steps(Start(
            arena.policy, arena.task, arena.reference, self.params, part(arrays, "state/") or None, self._critic,
            part(arrays, "critic_state/") or None, self.optimizer,
            made(self.options, self.method.critic_rate or self.options.learning_rate), self._rng,
        ))

    def line(self, step: Any, number: int) -> dict[str, Any]:
        rollouts, more = divmod(number - 1, self.method.epochs)
        if more == 0:
            self._seen = measured(self.arena, step.rollout)
        line = {"loss": step.value, **self._seen, "samples": (rollouts + 1) * step.rollout.index.size}
        if self.method.critic_rate:
            self._critic = step.critic_params
            line["loss/value_avg"] = step.critic_value
        return line

    def check(self, step: Any, number: int) -> None:
        super().check(step, number)
        if self.method.critic_rate and not (
            np.isfinite(step.critic_value) and all(np.isfinite(p).all() for p in step.critic_params.values())
        ):
            raise ValueError(f"the critic diverged at step {number}, its loss being {step.critic_value:g}: "
                             f"vf_learning_rate {self.method.critic_rate:g} is too large; expected a smaller one")

    def resumable(self, number: int) -> bool:
        return number % self.method.epochs == 0

    def kept(self, step: Any) -> dict[str, Array]:
        kept = super().kept(step)
        if self.method.critic_rate:
            kept |= {f"critic_params/{name}": p for name, p in step.critic_params.items()}
            kept |= {f"critic_state/{name}": s for name, s in step.critic_state.items()}
        return kept

    def position(self) -> dict[str, Any]:
        return {"rng": self._rng.bit_generator.state}

    @property
    def critic_params(self) -> Params:
        return self._critic


def measured(arena: Arena, rollout: Preferences) -> dict[str, float]:
    """TRL's metrics of a rollout; `kl` is the mean of log π/π_ref(y|x), in nats a response."""
    reward, responses = np.asarray(rollout.facts["reward"], float), rollout.responses
    ref = read(arena.policy, arena.reference, responses, np.arange(len(responses)), ["token_logp"])[0]["token_logp"]
    ratio = (responses.facts["old_token_logp"] - ref).sum(axis=1, dtype=float)
    found = {"reward": float(reward.mean())}
    if reward.shape[1] > 1:
        spread = reward.std(axis=1, ddof=1)
        equal = (reward == reward[:, :1]).all(axis=1)
        found |= {"reward_std": float(spread.mean()), "frac_reward_zero_std": float(equal.mean())}
    found |= {"kl": float(ratio.mean()), "completions/mean_length": float(responses.length.mean())}
    if arena.policy.eos is not None:
        found["completions/clipped_ratio"] = float((~responses.facts["finished"]).mean())
    return found


def judged(problem: Problem, judge: Trained, options: Options) -> Arena:
    """The n-gram of a file, asked for responses that a reward model judges: one prompt, as it knows no other."""
    task = Task([[0]] * (options.batch_size or 1), reward_model(judge.policy, judge.params), options.max_new_tokens)
    exact = None
    own, theirs = problem.policy.contexts, judge.policy.contexts
    if len(own) == len(theirs) and all(map(np.array_equal, own, theirs)):
        exact = summed(problem.policy, problem.reference, np.asarray(judge.params["W"], float), options.kl_coefficient)
    return Arena(policy=problem.policy, reference=problem.reference, unit=problem.unit, draw=problem.draw,
                 whole=problem.whole, meta=problem.meta, arrays=problem.arrays, exact=exact, task=task)
