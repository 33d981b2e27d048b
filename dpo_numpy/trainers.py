"""Ways to a policy: each a short generator of steps over `train`. Stopping and logging are the caller's for-loop.

    of given data        train_sft, train_reward_model; DPO and its family are `train` itself
    of their own data    train_rloo, train_grpo, train_ppo, train_online_dpo, train_iterative_dpo
    of the reference's   train_rso, train_best_of_n

Those that make their data take a `Task`, whose reward is a rule, a world's, or a trained reward model's, and `rng`, by
which they sample. π_ref is frozen at the parameters they begin with, unless `reference` says otherwise. They go on for
ever; steps are those of `train`, with the data they were made on. With J = E r - β KL(π || π_ref), "of J" below says
that the expected step at the policy that sampled is along the gradient of J. To go on after the last step of a rollout,
pass `params` and `state` as that step left them, the first `reference`, and the same `rng`.

Each raises `ValueError` at its first step: where `epochs` is below 1, a group too small to compare, β below 0, and what
`dn.rollout`, the loss and the optimizer raise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .advantages import gae, group_advantage, penalized_reward, rloo_advantage
from .gradient import read
from .losses import LOSSES, Loss, within
from .optim import Optimizer, State
from .policy import Params, Policy
from .preferences import Preferences
from .rollouts import Task, best_of, ranked_pairs, rejection_sample, rollout
from .surrogates import SURROGATES
from .training import Step, train

__all__ = [
    "OnlineStep", "PPOStep", "train_best_of_n", "train_grpo", "train_iterative_dpo", "train_online_dpo", "train_ppo",
    "train_reward_model", "train_rloo", "train_rso", "train_sft",
]

Array = NDArray[Any]


class OnlineStep(NamedTuple):
    """As `Step`, and the responses (B, K) that it was made on: `rollout.facts["reward"]`, `rollout.responses`."""

    params: Params
    state: State
    value: Any
    grad: Params
    rollout: Preferences


class PPOStep(NamedTuple):
    """As `OnlineStep`, and the value model after the step, with its loss before."""

    params: Params
    state: State
    value: Any
    grad: Params
    rollout: Preferences
    critic_params: Params
    critic_state: State
    critic_value: Any


# ---- of given data

def train_sft(policy: Policy, params: Params, batches: Iterable[Preferences], optimizer: Optimizer,
              state: State | None = None) -> Iterator[Step]:
    """Supervised fine-tuning: `train` by `LOSSES["sft"]`, -log π(y|x) of column 0, the chosen responses

    >>> import dpo_numpy as dn, toy_models
    >>> policy, pairs = toy_models.NGram(vocab=3), dn.Preferences.of([[0]], [[1, 2, 0]], [[2, 0]])
    >>> for step in train_sft(policy, {"W": np.zeros((3, 3))}, [pairs] * 3, dn.sgd(lr=1.0)):
    ...     print(f"{step.value:.4f}")
    3.2958
    1.6543
    0.9870
    """
    only = (Preferences(batch.responses, batch.index[:, :1], batch.weight) for batch in batches)
    return train(policy, params, only, LOSSES["sft"](), optimizer, state)


def train_reward_model(policy: Policy, params: Params, batches: Iterable[Preferences], optimizer: Optimizer,
                       center: float = 0.0, state: State | None = None) -> Iterator[Step]:
    """Bradley-Terry for pairs, `LOSSES["bt_rm"](center)`; Plackett-Luce for rankings, `pl_rm`

    The policy is read as a reward, `dn.sequence_reward`; then `dn.reward_model` judges by it. What a reward model
    smooths is decided by the features it shares, as for DPO with the same features: of a table neither smooths
    anything, and both arrive at the same policy.

    >>> import dpo_numpy as dn, toy_models
    >>> world, table = toy_models.bandit([[1.0, 0.0]]), toy_models.Tabular(vocab=2)
    >>> for step in train_reward_model(table, {"W": np.zeros((1, 2))}, [world.population()] * 100, dn.sgd(lr=4.0)):
    ...     pass
    >>> step.params["W"].round(6).tolist()
    [[0.5, -0.5]]
    """
    def loss(batch: Preferences) -> Loss:
        return LOSSES["bt_rm"](center=center) if batch.index.shape[1] == 2 else LOSSES["pl_rm"]()

    for batch in batches:
        for step in train(policy, params, [batch], loss(batch), optimizer, state):
            params, state = step.params, step.state
            yield step


# ---- of their own data

def train_rloo(policy: Policy, params: Params, task: Task, optimizer: Optimizer, rng: np.random.Generator, *,
               group: int = 4, beta: float = 0.05, epochs: int = 1, loss: Loss | None = None,
               reference: Params | None = None, state: State | None = None) -> Iterator[OnlineStep]:
    """REINFORCE leave-one-out, of J: A = R - mean R of the others,   R = r - β log π/π_ref(y|x)

    Without bias: `SURROGATES["reinforce"]` unless another `loss` is given. Ahmadian et al. 2024, arXiv:2402.14740. From
    the second of `epochs` steps on the same responses, the policy is no longer the one that sampled them.

    >>> import dpo_numpy as dn, toy_models
    >>> table, task = toy_models.Tabular(vocab=2), toy_models.bandit([[1.0, 0.0]]).task()
    >>> steps = train_rloo(table, {"W": np.zeros((1, 2))}, task, dn.sgd(lr=1.0), np.random.default_rng(0), beta=0.5)
    >>> W = [step.params["W"][0] for step, _ in zip(steps, range(400))][-1]
    >>> float((W[0] - W[1]).round(9))  # (r₁ - r₂)/β: π*
    2.0
    """
    frozen = _copy(params if reference is None else reference)

    def told(batch: Preferences, _: Params) -> Preferences:
        return batch.with_facts(advantage=rloo_advantage(_penalized(policy, frozen, batch, beta)))

    return _online(policy, params, task, told, loss or SURROGATES["reinforce"](), optimizer, rng, group, epochs, state)


def train_grpo(policy: Policy, params: Params, task: Task, optimizer: Optimizer, rng: np.random.Generator, *,
               group: int = 8, loss: Loss | None = None, scale: str = "std", beta: float = 0.0, epochs: int = 1,
               reference: Params | None = None, state: State | None = None) -> Iterator[OnlineStep]:
    """Group relative policy optimization: advantages are rewards less their group's mean, over its deviation

    loss   by default `SURROGATES["grpo"]()`: PPO's clip, and 0.04 k3 to π_ref as a term of the loss
    scale  "std", or "none", as in Dr. GRPO: `dn.group_advantage`
    beta   of a penalty in the reward, r - β log π/π_ref(y|x), in place of one in the loss

    Only without a deviation, without 1/|y| and with the penalty in the reward (or k2 in the loss) is it of J, by the
    factor (K-1)/K: `scale="none"` and `SURROGATES["dr_grpo"]`. The deviation s makes βs of a β in the loss, and leaves
    one in the reward what it is: π* stays at rest. k3 in the loss is a KL(π_ref || π), and 1/|y| makes failures the
    cheaper the longer they are. Each is shown in docs/exact.md. Shao et al. 2024, arXiv:2402.03300, algorithm 1 with μ
    = `epochs`.

    >>> import dpo_numpy as dn, toy_models
    >>> policy, task = toy_models.NGram(vocab=4, order=4), toy_models.modular_sums(2)
    >>> steps = train_grpo(policy, {"W": np.zeros((64, 4))}, task, dn.adam(lr=0.1), np.random.default_rng(0))
    >>> reward = [step.rollout.facts["reward"].mean() for step, _ in zip(steps, range(60))]
    >>> bool(np.mean(reward[:5]) < 0.2), bool(np.mean(reward[-5:]) > 0.8)
    (True, True)
    """
    loss = loss or SURROGATES["grpo"]()
    frozen = _copy(params if reference is None else reference)

    def told(batch: Preferences, _: Params) -> Preferences:
        batch = batch.with_facts(advantage=group_advantage(_penalized(policy, frozen, batch, beta), scale=scale))
        return _told(batch, policy, frozen, "token_logp") if "ref_token_logp" in loss.needs else batch

    return _online(policy, params, task, told, loss, optimizer, rng, group, epochs, state)


def train_online_dpo(policy: Policy, params: Params, task: Task, optimizer: Optimizer, rng: np.random.Generator, *,
                     group: int = 2, loss: Loss | None = None, labels: str = "expected", epochs: int = 1,
                     reference: Params | None = None, state: State | None = None) -> Iterator[OnlineStep]:
    """DPO on pairs of the policy's own responses, labelled by the task's reward (`ranked_pairs`)

    loss   of pairs, by default `LOSSES["dpo"]()`
    labels by default "expected": at π* the expected step is then 0. With "sign" rewards have no size, labels are
           certain, and training goes on for ever.

    Guo et al. 2024, arXiv:2402.04792, there two responses and one of them preferred.

    >>> import dpo_numpy as dn, toy_models
    >>> table, task = toy_models.Tabular(vocab=2), toy_models.bandit([[1.0, 0.0]]).task()
    >>> steps = train_online_dpo(table, {"W": np.zeros((1, 2))}, task, dn.sgd(lr=8.0), np.random.default_rng(0),
    ...                          loss=dn.LOSSES["dpo"](beta=0.5))
    >>> W = [step.params["W"][0] for step, _ in zip(steps, range(200))][-1]
    >>> float((W[0] - W[1]).round(6))  # (r₁ - r₂)/β: π*
    2.0
    """
    loss = loss or LOSSES["dpo"]()
    frozen = _copy(params if reference is None else reference)

    def told(batch: Preferences, _: Params) -> Preferences:
        return _compared(policy, frozen, ranked_pairs(batch, labels, rng), loss)

    return _online(policy, params, task, told, loss, optimizer, rng, group, epochs, state)


def train_iterative_dpo(policy: Policy, params: Params, task: Task, optimizer: Optimizer, rng: np.random.Generator, *,
                        group: int = 8, loss: Loss | None = None, labels: str = "expected", epochs: int = 100,
                        state: State | None = None) -> Iterator[OnlineStep]:
    """Rounds of DPO: sampled from the policy, labelled, `epochs` steps; what a round begins with is its reference

    k rounds, each to its optimum, end at π* of β/k: `analytic.temperature.trust_region_beta`. Pang et al. 2024,
    arXiv:2404.19733, with another loss. Elsewhere: the first reference is kept (Xiong et al. 2023, arXiv:2312.11456),
    which is `train_online_dpo` with many epochs.

    >>> import dpo_numpy as dn, toy_models
    >>> table, task = toy_models.Tabular(vocab=2), toy_models.bandit([[0.1, 0.0]]).task()
    >>> steps = train_iterative_dpo(table, {"W": np.zeros((1, 2))}, task, dn.sgd(lr=200.0), np.random.default_rng(0),
    ...                             group=64)
    >>> gap = [float(np.diff(-step.params["W"][0])[0]) for step, _ in zip(steps, range(300))]
    >>> [round(x, 6) for x in gap[99::100]]  # k (r₁ - r₂)/β after round k, β = 0.1
    [1.0, 2.0, 3.0]
    """
    loss = loss or LOSSES["dpo"]()

    def told(batch: Preferences, now: Params) -> Preferences:
        return _compared(policy, now, ranked_pairs(batch, labels, rng), loss)

    return _online(policy, params, task, told, loss, optimizer, rng, group, epochs, state)


def train_ppo(policy: Policy, params: Params, critic: Policy, critic_params: Params, task: Task, optimizer: Optimizer,
              critic_optimizer: Optimizer, rng: np.random.Generator, *, group: int = 1, beta: float = 0.05,
              gamma: float = 1.0, lam: float = 0.95, epochs: int = 4, loss: Loss | None = None,
              critic_loss: Loss | None = None, reference: Params | None = None, state: State | None = None,
              critic_state: State | None = None) -> Iterator[PPOStep]:
    """Proximal policy optimization with its four models: policy, reference, reward model (`task.reward`), value model

    A rollout is judged, each token is paid -β log π/π_ref and the last one r besides (`dn.penalized_reward`), values
    turn that into advantages and returns (`dn.gae`), and both models take `epochs` steps on them.

    critic        a policy read as values, `dn.token_value`; it may be the same kind as the policy
    loss          by default `SURROGATES["ppo_clip"]()`; the critic's `SURROGATES["value_clip"]()`

    The first of the epochs is of J where γ = 1, and λ = 1 or the values are right, but for the default loss's division
    by the mean length of what was drawn; `SURROGATES["ppo_clip"](reduction="sequence_sum")` is without. Schulman et al.
    2017, arXiv:1707.06347; Ziegler et al. 2019, arXiv:1909.08593.

    >>> import dpo_numpy as dn, toy_models
    >>> table, task, flat = toy_models.Tabular(vocab=2), toy_models.bandit([[1.0, 0.0]]).task(), {"W": np.zeros((1, 2))}
    >>> steps = train_ppo(table, flat, table, flat, task, dn.sgd(lr=0.5), dn.sgd(lr=1.0), np.random.default_rng(0),
    ...                   group=8, beta=0.5)
    >>> *_, (W, value) = ((s.params["W"][0], s.critic_params["W"].mean()) for s, _ in zip(steps, range(1200)))
    >>> J = 0.5 * np.log((np.exp(2.0) + 1) / 2)
    >>> float((W[0] - W[1]).round(6)), float((value - J).round(6))  # π*, and the value of the prompt is β log Z
    (2.0, 0.0)
    """
    loss, critic_loss = loss or SURROGATES["ppo_clip"](), critic_loss or SURROGATES["value_clip"]()
    frozen = _copy(params if reference is None else reference)
    state = optimizer.init(params) if state is None else state
    critic_state = critic_optimizer.init(critic_params) if critic_state is None else critic_state
    while True:
        batch = _told(rollout(policy, params, task, group, rng), policy, frozen, "token_logp")
        responses = batch.responses
        value = read(critic, critic_params, responses, np.arange(len(responses)), ["token_value"])[0]["token_value"]
        paid = penalized_reward(np.asarray(batch.facts["reward"]).reshape(-1), responses.facts["old_token_logp"],
                                responses.facts["ref_token_logp"], responses.mask, beta)
        advantage, target = gae(paid, value, responses.mask, gamma, lam)
        facts = {"advantage": advantage, "old_token_value": value, "token_return": target}
        told = replace(batch, responses=responses.with_facts(**facts))
        for _ in range(_at_least_one("epochs", epochs)):
            actor, = train(policy, params, [told], loss, optimizer, state)
            judge, = train(critic, critic_params, [told], critic_loss, critic_optimizer, critic_state)
            params, state, critic_params, critic_state = actor.params, actor.state, judge.params, judge.state
            yield PPOStep(*actor, batch, critic_params, critic_state, judge.value)


# ---- of the reference's data

def train_rso(policy: Policy, params: Params, task: Task, optimizer: Optimizer, rng: np.random.Generator, *,
              beta: float = 0.5, candidates: int = 64, keep: int = 8, loss: Loss | None = None,
              labels: str = "expected", state: State | None = None) -> Iterator[OnlineStep]:
    """Statistical rejection sampling: of `candidates` drawn from π_ref, `keep` are kept as samples of π*, and compared

    loss   by default `LOSSES["dpo"](beta)`; the paper's own is `hinge`

    Liu et al. 2023, arXiv:2309.06657. Each step is on the same pairs, which were made at the start.

    >>> import dpo_numpy as dn, toy_models
    >>> table, task = toy_models.Tabular(vocab=2), toy_models.bandit([[1.0, 0.0]]).task()
    >>> steps = train_rso(table, {"W": np.zeros((1, 2))}, task, dn.sgd(lr=10.0), np.random.default_rng(0), keep=16)
    >>> W = [step.params["W"][0] for step, _ in zip(steps, range(100))][-1]
    >>> float((W[0] - W[1]).round(6))  # (r₁ - r₂)/β, β = 0.5
    2.0
    """
    loss = loss or LOSSES["dpo"](beta=beta)
    drawn = rollout(policy, params, task, candidates, rng)
    kept = rejection_sample(drawn, beta, keep, rng)
    pairs = _compared(policy, _copy(params), ranked_pairs(kept, labels, rng), loss)
    return (OnlineStep(*step, drawn) for step in train(policy, params, repeat(pairs), loss, optimizer, state))


def train_best_of_n(policy: Policy, params: Params, task: Task, optimizer: Optimizer, rng: np.random.Generator, *,
                    n: int = 8, reference: Params | None = None, state: State | None = None) -> Iterator[OnlineStep]:
    """Supervised fine-tuning on the best of n responses of π_ref, new ones each step: best-of-n distilled

    Where the policy can be anything the end is `analytic.sampling.best_of_n`. Elsewhere: RAFT (Dong et al. 2023,
    arXiv:2304.06767) samples from the policy as it is.

    >>> import dpo_numpy as dn, toy_models
    >>> table, task = toy_models.Tabular(vocab=2), toy_models.bandit([[1.0, 0.0]]).task()
    >>> steps = train_best_of_n(table, {"W": np.zeros((1, 2))}, task, dn.sgd(lr=1.0), np.random.default_rng(0), n=4)
    >>> step = next(steps)
    >>> step.rollout.facts["reward"].shape, step.params["W"].tolist()
    ((1, 4), [[0.5, -0.5]])
    """
    frozen = _copy(params if reference is None else reference)
    state = optimizer.init(params) if state is None else state
    while True:
        drawn = rollout(policy, frozen, task, n, rng)
        step, = train_sft(policy, params, [best_of(drawn)], optimizer, state)
        params, state = step.params, step.state
        yield OnlineStep(*step, drawn)


# ---- pieces

def _online(policy: Policy, params: Params, task: Task, told: Callable[[Preferences, Params], Preferences], loss: Loss,
            optimizer: Optimizer, rng: np.random.Generator, group: int, epochs: int,
            state: State | None) -> Iterator[OnlineStep]:
    """Sample, tell the loss what it needs to know, and take `epochs` steps on that; again and again."""
    state = optimizer.init(params) if state is None else state
    while True:
        drawn = rollout(policy, params, task, group, rng)
        batch = told(drawn, params)
        for step in train(policy, params, [batch] * _at_least_one("epochs", epochs), loss, optimizer, state):
            params, state = step.params, step.state
            yield OnlineStep(*step, drawn)


def _penalized(policy: Policy, reference: Params, batch: Preferences, beta: float) -> Array:
    """r - β log π/π_ref(y|x), (B, K), π the policy that sampled"""
    reward = np.asarray(batch.facts["reward"])
    if not within("beta", beta, 0, np.inf):
        return reward
    facts = _told(batch, policy, reference, "token_logp").responses.facts
    log_ratio = (facts["old_token_logp"] - facts["ref_token_logp"]).sum(axis=-1)
    return np.asarray(reward - beta * log_ratio[batch.index])


def _compared(policy: Policy, reference: Params, pairs: Preferences, loss: Loss) -> Preferences:
    return _told(pairs, policy, reference, *dict.fromkeys(["logp", *loss.reads]))


def _told(batch: Preferences, policy: Policy, reference: Params, *readings: str) -> Preferences:
    """With what the reference says of the responses, which must be something: else KL is infinite"""
    told = batch.with_reference(policy, reference, *readings)
    ref = next(iter(fact for name, fact in told.responses.facts.items() if name.startswith("ref_")))
    if np.isneginf(ref).any():
        row = np.argwhere(np.isneginf(ref))[0][0]
        tokens, mask = told.responses.tokens[row], told.responses.mask[row]
        raise ValueError(f"reference has probability 0 for the response {tokens[mask].tolist()}, which the policy "
                         "gave; expected one that can say whatever the policy can")
    return told


def _copy(params: Params) -> Params:
    return {name: np.array(p) for name, p in params.items()}


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} is {value}; expected at least 1")
    return value
