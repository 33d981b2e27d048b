"""verl's policy losses, KL estimators and advantages through the kit: docs/libraries/verl.md."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from subjects import SHORT, THREE, call, main, subject
from verl.trainer.ppo import core_algos
from verl.utils.torch_functional import logprobs_from_logits_v2, masked_mean
from verl.workers.config import ActorConfig

ADDED = "convention: 1e-8 is added to counts"
NO_DUAL_CLIP = 1e30


def config(low: float, high: float, dual: float = NO_DUAL_CLIP) -> Any:
    return ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, clip_ratio=low, clip_ratio_low=low,
                       clip_ratio_high=high, clip_ratio_c=dual)


def policy(loss: Callable[..., Any], mode: str, told: Any, logps: Any, old_logps: Any, advantages: Any,
           mask: Any) -> Any:
    return loss(old_logps, logps, advantages[:, None].expand_as(logps), mask.to(logps.dtype), mode, told)[0]


def dapo(logps: Any, old_logps: Any, advantages: Any, mask: Any, eps_low: float = 0.2, eps_high: float = 0.28) -> Any:
    return policy(core_algos.compute_policy_loss_vanilla, "token-mean", config(eps_low, eps_high), logps, old_logps,
                  advantages, mask)


def grpo(logps: Any, old_logps: Any, advantages: Any, mask: Any, eps: float = 0.2) -> Any:
    return policy(core_algos.compute_policy_loss_vanilla, "seq-mean-token-mean", config(eps, eps), logps, old_logps,
                  advantages, mask)


def dual(logps: Any, old_logps: Any, advantages: Any, mask: Any, eps: float = 0.2, dual: float = 3.0) -> Any:
    return policy(core_algos.compute_policy_loss_vanilla, "token-mean", config(eps, eps, dual), logps, old_logps,
                  advantages, mask)


def gspo(logps: Any, old_logps: Any, advantages: Any, mask: Any, eps_low: float = 3e-4, eps_high: float = 4e-4) -> Any:
    return policy(core_algos.compute_policy_loss_gspo, "seq-mean-token-mean", config(eps_low, eps_high), logps,
                  old_logps, advantages, mask)


def cispo(logps: Any, old_logps: Any, advantages: Any, mask: Any, eps_low: float = 0.2, eps_high: float = 0.28) -> Any:
    return policy(core_algos.compute_policy_loss_cispo, "token-mean", config(eps_low, eps_high), logps, old_logps,
                  advantages, mask)


VANILLA = "compute_policy_loss_vanilla"
subject(call(VANILLA, loss_agg_mode="token-mean"), dapo, "dapo", "token", eps_low=0.2, eps_high=0.28)
subject(call(VANILLA, loss_agg_mode="seq-mean-token-mean"), grpo, "grpo", "token", eps=0.2, beta=0.0, because=ADDED)
subject(call(VANILLA, clip_ratio_c=3.0), dual, "ppo_clip", "token", eps=0.2, dual=3.0)
subject(call("compute_policy_loss_gspo"), gspo, "gspo", "token", eps_low=3e-4, eps_high=4e-4, because=ADDED)
subject(call("compute_policy_loss_cispo"), cispo, "cispo", "token", eps_low=0.2, eps_high=0.28)


# ---- KL

def kl(kind: str) -> Callable[..., Any]:
    def f(logps: Any, ref_logps: Any) -> Any:
        return core_algos.kl_penalty(logps, ref_logps, kind)

    return f


subject(call("kl_penalty", kl_penalty="k1"), kl("k1"), "k1", "token")
subject(call("kl_penalty", kl_penalty="k2"), kl("k2"), "k2", "token")
subject(call("kl_penalty", kl_penalty="k3"), kl("k3"), "k3", "token", because="finding 1")


# ---- advantages

def outcome(estimate: Callable[..., Any], rewards: Any, **told: Any) -> Any:
    """(P, N) rewards of N responses to each of P prompts, as rewards of their second tokens."""
    prompts, responses = rewards.shape
    tokens = torch.zeros(prompts * responses, 2, dtype=rewards.dtype)
    tokens[:, 1] = rewards.reshape(-1)
    of = np.repeat(np.arange(prompts), responses)
    return estimate(tokens, torch.ones_like(tokens), of, **told)[0][:, 0].reshape(prompts, responses)


def group(rewards: Any, eps: float = 1e-6) -> Any:
    return outcome(core_algos.compute_grpo_outcome_advantage, rewards, epsilon=eps)


def rloo(rewards: Any) -> Any:
    return outcome(core_algos.compute_rloo_outcome_advantage, rewards)


def gae(rewards: Any, values: Any, gamma: float = 0.9, lam: float = 0.95) -> Any:
    """The returns, less the values: the advantages before they are whitened."""
    return core_algos.compute_gae_advantage_return(rewards, values, torch.ones_like(rewards), gamma, lam)[1] - values


subject(call("compute_grpo_outcome_advantage"), group, "group_advantage", "token", eps=1e-6, ddof=1)
subject(call("compute_rloo_outcome_advantage"), rloo, "rloo", "token")
subject(call("compute_gae_advantage_return") + "[1], less values", gae, "gae", "token", gamma=0.9, lam=0.95)


# ---- from logits

def logp(logits: Any, tokens: Any, mask: Any) -> Any:
    return (logprobs_from_logits_v2(logits[:, :-1], tokens[:, 1:]) * mask[:, 1:]).sum(-1)


def mean_logp(logits: Any, tokens: Any, mask: Any) -> Any:
    return masked_mean(logprobs_from_logits_v2(logits[:, :-1], tokens[:, 1:]), mask[:, 1:], axis=-1)


subject(call("logprobs_from_logits_v2") + ", summed", logp, "logp", "sequence", THREE)
subject(call("masked_mean") + " of " + call("logprobs_from_logits_v2"), mean_logp, "mean_logp", "sequence", SHORT)

if __name__ == "__main__":
    sys.exit(main("verl torch"))
