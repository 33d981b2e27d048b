"""torchtune's DPO, RSO and PPO losses through the kit: docs/libraries/torchtune.md."""

from __future__ import annotations

import sys
from typing import Any

import torch
from subjects import SHORT, THREE, call, main, subject
from torchtune.rlhf import estimate_advantages, get_batch_log_probs, get_rewards_ppo
from torchtune.rlhf.loss import DPOLoss, PPOLoss, RSOLoss

# ---- from log-probs of pairs


def dpo(pc: Any, pr: Any, rc: Any, rr: Any, beta: float = 0.1) -> Any:
    return DPOLoss(beta)(pc, pr, rc, rr)


def cdpo(pc: Any, pr: Any, rc: Any, rr: Any, beta: float = 0.1, label_smoothing: float = 0.1) -> Any:
    return DPOLoss(beta, label_smoothing)(pc, pr, rc, rr)


def rso(pc: Any, pr: Any, rc: Any, rr: Any, beta: float = 0.1) -> Any:
    return RSOLoss(beta)(pc, pr, rc, rr)


subject(call("DPOLoss"), dpo, "dpo", dtypes=THREE, beta=0.1)
subject(call("DPOLoss.forward") + ", as it is", DPOLoss(0.1).forward, "dpo", dtypes=SHORT, beta=0.1)
subject(call("DPOLoss", label_smoothing=0.1), cdpo, "cdpo", dtypes=THREE, beta=0.1, eps=0.1)
subject(call("RSOLoss"), rso, "hinge", dtypes=THREE, beta=0.1)


# ---- from logits

def logp(logits: Any, labels: Any) -> Any:
    return get_batch_log_probs(logits, labels)


def mean_logp(logits: Any, labels: Any) -> Any:
    return get_batch_log_probs(logits, labels, return_average_logprobs=True)


def batch_dpo(logits: Any, reference_logits: Any, labels: Any, beta: float = 0.1) -> Any:
    policy, reference = get_batch_log_probs(logits, labels), get_batch_log_probs(reference_logits, labels)
    return DPOLoss(beta)(*policy.chunk(2), *reference.chunk(2))[0].mean()


subject(call("get_batch_log_probs"), logp, "logp", "sequence", THREE)
subject(call("get_batch_log_probs", return_average_logprobs=True), mean_logp, "mean_logp", "sequence", THREE)
subject(call("DPOLoss") + " of " + call("get_batch_log_probs"), batch_dpo, "dpo", "batch", THREE, beta=0.1)


# ---- PPO

def ppo(logps: Any, old_logps: Any, advantages: Any, mask: Any, eps: float = 0.2) -> Any:
    """The values play no part."""
    values = torch.zeros_like(logps)
    loss = PPOLoss(epsilon=eps, value_coeff=0.0)
    return loss(old_logps, logps, advantages[:, None], values, values, values, padding_masks=mask,
                value_padding_masks=mask)[0]


def returns(rewards: Any, values: Any, gamma: float = 0.9, lam: float = 0.95) -> Any:
    """The returns, less the values: the advantages before they are whitened."""
    return estimate_advantages(values, rewards, gamma, lam)[1] - values


def kl(logps: Any, ref_logps: Any) -> Any:
    return get_rewards_ppo(torch.zeros(len(logps), dtype=logps.dtype), logps, ref_logps, 1.0)[1]


subject(call("PPOLoss", value_coeff=0.0), ppo, "ppo_clip", "token", eps=0.2)
subject(call("estimate_advantages") + "[1], less values", returns, "gae", "token", gamma=0.9, lam=0.95)
subject(call("get_rewards_ppo") + "[1]", kl, "k1", "token")

if __name__ == "__main__":
    sys.exit(main("torchtune torch"))
