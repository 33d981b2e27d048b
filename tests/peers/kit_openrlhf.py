"""OpenRLHF's losses through the kit: docs/libraries/openrlhf.md.

`openrlhf.models.loss` and `openrlhf.models.utils` alone: the module that makes them importable is the report's.
"""

from __future__ import annotations

import sys
from typing import Any

from subjects import SHORT, THREE, call, main, run_modules, subject

run_modules("openrlhf.md")

from openrlhf.models.loss import DPOLoss, GPTLMLoss, LogExpLoss, PairWiseLoss, PolicyLoss  # noqa: E402
from openrlhf.models.utils import compute_approx_kl, log_probs_from_logits, masked_mean  # noqa: E402

ADDED = "convention: 1e-8 is added to counts"

# ---- from log-probs of pairs, or rewards


def dpo(pc: Any, pr: Any, rc: Any, rr: Any, beta: float = 0.1) -> Any:
    return DPOLoss(beta)(pc, pr, rc, rr)


def cdpo(pc: Any, pr: Any, rc: Any, rr: Any, beta: float = 0.1, label_smoothing: float = 0.1) -> Any:
    return DPOLoss(beta, label_smoothing)(pc, pr, rc, rr)


def ipo(pc: Any, pr: Any, rc: Any, rr: Any, tau: float = 0.1) -> Any:
    return DPOLoss(tau, ipo=True)(pc, pr, rc, rr)


def pairwise(chosen_reward: Any, rejected_reward: Any, margin: Any) -> Any:
    return PairWiseLoss()(chosen_reward, rejected_reward, margin)


def logexp(chosen_reward: Any, rejected_reward: Any) -> Any:
    return LogExpLoss()(chosen_reward, rejected_reward)


def logexp_margin(chosen_reward: Any, rejected_reward: Any, margin: Any) -> Any:
    return LogExpLoss()(chosen_reward, rejected_reward, margin)


subject(call("DPOLoss"), dpo, "dpo", dtypes=THREE, beta=0.1)
subject(call("DPOLoss.forward") + ", as it is", DPOLoss(0.1).forward, "dpo", dtypes=SHORT, beta=0.1)
subject(call("DPOLoss", label_smoothing=0.1), cdpo, "cdpo", beta=0.1, eps=0.1)
subject(call("DPOLoss", ipo=True), ipo, "ipo", tau=0.1, reduction="sum")
subject(call("PairWiseLoss"), pairwise, "bt_rm", dtypes=THREE)
subject(call("LogExpLoss"), logexp, "bt_rm", dtypes=THREE, because="finding 2")
subject(call("LogExpLoss") + " with a margin", logexp_margin, "bt_rm", because="finding 2")


# ---- from logits

def logp(logits: Any, tokens: Any, mask: Any) -> Any:
    return (log_probs_from_logits(logits[:, :-1], tokens[:, 1:]) * mask[:, 1:]).sum(-1)


def mean_logp(logits: Any, tokens: Any, mask: Any) -> Any:
    return masked_mean(log_probs_from_logits(logits[:, :-1], tokens[:, 1:]), mask[:, 1:], dim=-1)


def batch_dpo(logits: Any, reference_logits: Any, tokens: Any, mask: Any, beta: float = 0.1) -> Any:
    policy, reference = logp(logits, tokens, mask), logp(reference_logits, tokens, mask)
    return DPOLoss(beta)(*policy.chunk(2), *reference.chunk(2))


def sft(logits: Any, labels: Any) -> Any:
    chosen = len(logits) // 2
    return GPTLMLoss()(logits[:chosen], labels[:chosen])


subject(call("log_probs_from_logits") + ", summed", logp, "logp", "sequence", THREE)
subject(call("masked_mean") + " of " + call("log_probs_from_logits"), mean_logp, "mean_logp", "sequence", THREE,
        because="convention: the mean of nothing is 0/0")
subject(call("DPOLoss") + " of " + call("log_probs_from_logits"), batch_dpo, "dpo", "batch", THREE, beta=0.1)
subject(call("GPTLMLoss") + " of the chosen", sft, "sft", "batch", reduction="tokens")


# ---- tokens

def k1(logps: Any, ref_logps: Any) -> Any:
    return compute_approx_kl(logps, ref_logps, kl_estimator="k1")


def k2(logps: Any, ref_logps: Any) -> Any:
    return compute_approx_kl(logps, ref_logps, kl_estimator="k2")


def k3(logps: Any, ref_logps: Any) -> Any:
    return compute_approx_kl(logps, ref_logps, kl_estimator="k3")


def policy(loss: Any, logps: Any, old_logps: Any, advantages: Any, mask: Any) -> Any:
    return loss(logps, old_logps, advantages[:, None].expand_as(logps), mask.to(logps.dtype))


def dapo(logps: Any, old_logps: Any, advantages: Any, mask: Any, eps_low: float = 0.2, eps_high: float = 0.28) -> Any:
    return policy(PolicyLoss(eps_low, eps_high), logps, old_logps, advantages, mask)


def grpo(logps: Any, old_logps: Any, advantages: Any, mask: Any, eps: float = 0.2) -> Any:
    return policy(PolicyLoss(eps, eps, token_level_loss=False), logps, old_logps, advantages, mask)


def dual(logps: Any, old_logps: Any, advantages: Any, mask: Any, eps: float = 0.2, dual: float = 3.0) -> Any:
    return policy(PolicyLoss(eps, eps, dual_clip=dual), logps, old_logps, advantages, mask)


def gspo(logps: Any, old_logps: Any, advantages: Any, mask: Any, eps_low: float = 3e-4, eps_high: float = 4e-4) -> Any:
    return policy(PolicyLoss(eps_low, eps_high, policy_loss_type="gspo"), logps, old_logps, advantages, mask)


subject(call("compute_approx_kl", kl_estimator="k1"), k1, "k1", "token", because="finding 1")
subject(call("compute_approx_kl", kl_estimator="k2"), k2, "k2", "token", because="finding 1")
subject(call("compute_approx_kl", kl_estimator="k3"), k3, "k3", "token", because="finding 1")
subject(call("PolicyLoss"), dapo, "dapo", "token", eps_low=0.2, eps_high=0.28)
subject(call("PolicyLoss", token_level_loss=False), grpo, "grpo", "token", eps=0.2, beta=0.0, because=ADDED)
subject(call("PolicyLoss", dual_clip=3.0), dual, "ppo_clip", "token", eps=0.2, dual=3.0)
subject(call("PolicyLoss", policy_loss_type="gspo"), gspo, "gspo", "token", eps_low=3e-4, eps_high=4e-4,
        because=ADDED)

if __name__ == "__main__":
    sys.exit(main("openrlhf torch"))
