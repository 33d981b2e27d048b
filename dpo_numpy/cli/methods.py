"""What `train --method` can be: a loss of given data, or a trainer that makes its own.

A method's flags are the keywords of its function here, as those of a loss are its factory's; names are TRL's where TRL
has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np

from ..losses import LOSSES, between, one_of, positive, share, within
from ..optim import Optimizer, State
from ..policy import Params, Policy
from ..rollouts import Task
from ..surrogates import SURROGATES
from ..trainers import OnlineStep, PPOStep, train_grpo, train_online_dpo, train_ppo, train_rloo

__all__ = ["FACTORIES", "GIVEN", "METHODS", "ONLINE", "WORLDS", "WORLD_BETA", "Online", "Start", "named"]


class Start(NamedTuple):
    """Where a trainer starts or goes on; the critic's part is for methods that have one."""

    policy: Policy
    task: Task
    reference: Params
    params: Params
    state: State | None
    critic_params: Params
    critic_state: State | None
    optimizer: Optimizer
    critic_optimizer: Optimizer
    rng: np.random.Generator


class Online(NamedTuple):
    """A method that samples: responses a prompt, steps on each rollout, and the trainer."""

    group: int
    epochs: int
    steps: Callable[[Start], Iterator[OnlineStep | PPOStep]]
    critic_rate: float | None = None


#: method -> its loss, where the data are given; None: the one that --loss names
GIVEN: Mapping[str, str | None] = {"dpo": None, "sft": "sft", "rm": "bt_rm"}


def rloo(num_generations: int = 4, beta: float = 0.05, num_iterations: int = 1) -> Online:
    _counts("rloo", num_generations, num_iterations)
    within("beta", beta, 0, np.inf)

    def steps(at: Start) -> Iterator[OnlineStep]:
        return train_rloo(at.policy, at.params, at.task, at.optimizer, at.rng, group=num_generations, beta=beta,
                          epochs=num_iterations, reference=at.reference, state=at.state)

    return Online(num_generations, num_iterations, steps)


def grpo(num_generations: int = 8, beta: float = 0.04, num_iterations: int = 1, epsilon: float = 0.2,
         scale_rewards: bool = True) -> Online:
    _counts("grpo", num_generations, num_iterations)
    between("epsilon", epsilon, 0, 1)
    loss = SURROGATES["grpo"](eps=epsilon, beta=beta)

    def steps(at: Start) -> Iterator[OnlineStep]:
        return train_grpo(at.policy, at.params, at.task, at.optimizer, at.rng, group=num_generations, loss=loss,
                          scale="std" if scale_rewards else "none", epochs=num_iterations, reference=at.reference,
                          state=at.state)

    return Online(num_generations, num_iterations, steps)


def ppo(num_generations: int = 8, beta: float = 0.05, num_iterations: int = 4, epsilon: float = 0.2,
        gamma: float = 1.0, lam: float = 0.95, vf_learning_rate: float = 0.1) -> Online:
    _counts("ppo", num_generations, num_iterations, least=1)
    within("beta", beta, 0, np.inf)
    between("epsilon", epsilon, 0, 1)
    share("gamma", gamma)
    share("lam", lam)
    loss = SURROGATES["ppo_clip"](eps=epsilon)

    def steps(at: Start) -> Iterator[PPOStep]:
        return train_ppo(at.policy, at.params, at.policy, at.critic_params, at.task, at.optimizer, at.critic_optimizer,
                         at.rng, group=num_generations, beta=beta, gamma=gamma, lam=lam, epochs=num_iterations,
                         loss=loss, reference=at.reference, state=at.state, critic_state=at.critic_state)

    return Online(num_generations, num_iterations, steps, positive("vf_learning_rate", vf_learning_rate))


def online_dpo(num_generations: int = 2, beta: float = 0.1, num_iterations: int = 1,
               labels: str = "expected") -> Online:
    _counts("online_dpo", num_generations, num_iterations)
    one_of("labels", labels, "expected", "sampled", "sign")
    loss = LOSSES["dpo"](beta=beta)

    def steps(at: Start) -> Iterator[OnlineStep]:
        return train_online_dpo(at.policy, at.params, at.task, at.optimizer, at.rng, group=num_generations, loss=loss,
                                labels=labels, epochs=num_iterations, reference=at.reference, state=at.state)

    return Online(num_generations, num_iterations, steps)


ONLINE: Mapping[str, Callable[..., Online]] = {"rloo": rloo, "grpo": grpo, "ppo": ppo, "online_dpo": online_dpo}


#: all that has hyper-parameters; `rm` takes those of its loss
FACTORIES: Mapping[str, Callable[..., Any]] = {**LOSSES, **ONLINE, "rm": LOSSES["bt_rm"]}
METHODS = {
    "dpo": "pairs and a loss, --loss NAME",
    "sft": "supervised fine-tuning on the chosen responses",
    "rm": "a reward model on the same features, by Bradley and Terry",
    "rloo": "policy gradient, the other samples of a prompt as the baseline",
    "grpo": "PPO's clip, rewards compared within a group, a KL in the loss",
    "ppo": "PPO's clip, advantages from a critic that learns beside it",
    "online_dpo": "DPO on pairs of its own samples, labelled by reward",
}
WORLDS = {
    "bandit": "3 prompts, 5 responses each, rewards from a table",
    "strings": "a bigram's strings of a and b; each a costs 0.25, each b pays 0.5",
    "brackets": "close 1 or 2 brackets in at most 6: 1 if balanced, else 0",
    "sums": "(a + b) mod 5: 1 if right, else 0",
}
#: world -> its β, unless --beta says otherwise: one for all methods, so that they have one J and one π*
WORLD_BETA = {"bandit": 0.5, "strings": 1.0, "brackets": 0.05, "sums": 0.05}


def named(kind: str, name: str, known: Mapping[str, Any]) -> str:
    """The name; `ValueError` with the nearest where there is none."""
    if name not in known:
        near = get_close_matches(name, known, 1)
        raise ValueError(f"no {kind} is called {name!r}" + (f"; did you mean {near[0]}?" if near else ".")
                         + f" There are {', '.join(known)}")
    return name


def _counts(method: str, group: int, epochs: int, least: int = 2) -> None:
    if group < least:
        why = f": {method} compares the responses to one prompt" if least > 1 else ""
        raise ValueError(f"num_generations is {group}; expected at least {least}{why}")
    if epochs < 1:
        raise ValueError(f"num_iterations is {epochs}; expected at least 1")
