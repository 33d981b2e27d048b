"""Liger-Kernel's chunked losses through the kit: docs/libraries/liger.md.

At the seams of log-probs the functions `preference_loss_fn` and `ppo_loss_fn` are called, which the chunked modules
differentiate; at the seam of logits the modules themselves, uncompiled, with an identity for a head.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from liger_kernel.chunked_loss import (
    LigerFusedLinearCPOLoss,
    LigerFusedLinearDPOLoss,
    LigerFusedLinearORPOLoss,
    LigerFusedLinearSimPOLoss,
)
from liger_kernel.chunked_loss.cpo_loss import LigerFusedLinearCPOFunction
from liger_kernel.chunked_loss.dpo_loss import LigerFusedLinearDPOFunction
from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOFunction, k3_loss_fn
from liger_kernel.chunked_loss.kto_loss import LigerFusedLinearKTOFunction
from liger_kernel.chunked_loss.orpo_loss import LigerFusedLinearORPOFunction
from liger_kernel.chunked_loss.simpo_loss import LigerFusedLinearSimPOFunction
from subjects import SHORT, THREE, call, main, subject


def target(pairs: int) -> Any:
    """Of the full target the functions read the number of rows alone."""
    return torch.zeros(2 * pairs, 1, dtype=torch.long)


# ---- from log-probs of pairs

def dpo(kind: str) -> Callable[..., Any]:
    def f(pc: Any, pr: Any, rc: Any, rr: Any, beta: float = 0.1) -> Any:
        return LigerFusedLinearDPOFunction.preference_loss_fn(pc, pr, target(len(pc)), rc, rr, beta, kind)

    return f


def smoothed(kind: str) -> Callable[..., Any]:
    def f(pc: Any, pr: Any, rc: Any, rr: Any, beta: float = 0.1, label_smoothing: float = 0.1) -> Any:
        return LigerFusedLinearDPOFunction.preference_loss_fn(pc, pr, target(len(pc)), rc, rr, beta, kind,
                                                              label_smoothing)

    return f


def discopop(pc: Any, pr: Any, rc: Any, rr: Any, beta: float = 0.1, tau: float = 0.05) -> Any:
    return LigerFusedLinearDPOFunction.preference_loss_fn(pc, pr, target(len(pc)), rc, rr, beta, "discopop",
                                                          discopop_tau=tau)


def cpo(pc: Any, pr: Any, beta: float = 0.1, label_smoothing: float = 0.0) -> Any:
    return LigerFusedLinearCPOFunction.preference_loss_fn(pc, pr, target(len(pc)), beta, label_smoothing)


def simpo(pc: Any, pr: Any, beta: float = 2.0, gamma: float = 0.5, label_smoothing: float = 0.0) -> Any:
    return LigerFusedLinearSimPOFunction.preference_loss_fn(pc, pr, target(len(pc)), beta, gamma, label_smoothing)


def orpo(pc: Any, pr: Any, lam: float = 0.1) -> Any:
    """Ours has the likelihood in it, theirs adds it outside."""
    return LigerFusedLinearORPOFunction.preference_loss_fn(pc, pr, target(len(pc)), lam)[0] - pc.mean()


DPO = "LigerFusedLinearDPOFunction.preference_loss_fn"
subject(call(DPO, loss_type="sigmoid"), dpo("sigmoid"), "dpo", dtypes=THREE, beta=0.1)
subject(call(DPO, loss_type="sigmoid", label_smoothing=0.1), smoothed("sigmoid"), "cdpo", beta=0.1, eps=0.1,
        because="finding 4")
subject(call(DPO, loss_type="hinge"), dpo("hinge"), "hinge", beta=0.1)
subject(call(DPO, loss_type="exo_pair"), smoothed("exo_pair"), "exo", beta=0.1, eps=0.001,
        because="convention: ε is a float32 tensor")
subject(call(DPO, loss_type="nca_pair"), dpo("nca_pair"), "nca", beta=0.1)
subject(call(DPO, loss_type="robust"), smoothed("robust"), "rdpo", beta=0.1, eps=0.1)
subject(call(DPO, loss_type="bco_pair"), dpo("bco_pair"), "bco", beta=0.1)
subject(call(DPO, loss_type="sppo_hard"), dpo("sppo_hard"), "sppo", beta=0.1)
subject(call(DPO, loss_type="apo_zero"), dpo("apo_zero"), "apo_zero", beta=0.1, plus_one=True)
subject(call(DPO, loss_type="apo_down"), dpo("apo_down"), "apo_down", beta=0.1, plus_one=True)
subject(call(DPO, loss_type="discopop"), discopop, "discopop", beta=0.1, tau=0.05, because="finding 2")
subject(call("LigerFusedLinearCPOFunction.preference_loss_fn"), cpo, "cpo", beta=0.1, alpha=0.0)
subject(call("LigerFusedLinearSimPOFunction.preference_loss_fn"), simpo, "simpo", dtypes=THREE, beta=2.0, gamma=0.5)
subject(call("LigerFusedLinearORPOFunction.preference_loss_fn") + " and the likelihood", orpo, "orpo", lam=0.1,
        because="finding 1")


# ---- single responses

def kto(policy_logps: Any, reference_logps: Any, labels: Any, kl: Any, beta: float = 0.1) -> Any:
    return LigerFusedLinearKTOFunction.preference_loss_fn(policy_logps, labels, policy_logps[:, None], reference_logps,
                                                          beta, kl)[0]


def kto_without_kl(policy_logps: Any, reference_logps: Any, labels: Any, beta: float = 0.1) -> Any:
    return LigerFusedLinearKTOFunction.preference_loss_fn(policy_logps, labels, policy_logps[:, None], reference_logps,
                                                          beta)[0]


KTO = "LigerFusedLinearKTOFunction.preference_loss_fn"
subject(call(KTO), kto, "kto", "unpaired", THREE, beta=0.1)
subject(call(KTO, kl=None), kto_without_kl, "apo_zero_unpaired", "unpaired", beta=0.1)


# ---- from logits: the modules

def whole(module: Any, logits: Any, labels: Any, reference_logits: Any = None) -> Any:
    """With an identity for a head, hidden states are logits."""
    head = torch.eye(logits.shape[-1], dtype=logits.dtype)
    told = {} if reference_logits is None else {"ref_input": reference_logits[:, :-1], "ref_weight": head}
    return module(head, logits[:, :-1], labels[:, 1:].contiguous(), **told)[0]


def fused_dpo(**options: Any) -> Callable[..., Any]:
    def f(logits: Any, reference_logits: Any, labels: Any, beta: float = 0.1) -> Any:
        return whole(LigerFusedLinearDPOLoss(beta=beta, compiled=False, **options), logits, labels, reference_logits)

    return f


def fused_simpo(**options: Any) -> Callable[..., Any]:
    def f(logits: Any, labels: Any, beta: float = 2.0, gamma: float = 0.5) -> Any:
        return whole(LigerFusedLinearSimPOLoss(beta=beta, gamma=gamma, compiled=False, **options), logits, labels)

    return f


def fused_cpo(logits: Any, labels: Any, beta: float = 0.1, alpha: float = 1.0) -> Any:
    return whole(LigerFusedLinearCPOLoss(beta=beta, alpha=alpha, compiled=False), logits, labels)


def fused_orpo(logits: Any, labels: Any, lam: float = 0.1) -> Any:
    return whole(LigerFusedLinearORPOLoss(beta=lam, compiled=False), logits, labels)


subject(call("LigerFusedLinearDPOLoss"), fused_dpo(), "dpo", "batch", THREE, beta=0.1,
        because="convention: log-softmax is float32")
subject(call("LigerFusedLinearDPOLoss", chunk_size=2), fused_dpo(chunk_size=2), "dpo", "batch", SHORT, beta=0.1)
subject(call("LigerFusedLinearDPOLoss", loss_type="apo_down"), fused_dpo(loss_type="apo_down"), "apo_down", "batch",
        SHORT, beta=0.1, plus_one=True)
subject(call("LigerFusedLinearDPOLoss", compute_nll_loss=True), fused_dpo(compute_nll_loss=True), "rpo", "batch",
        SHORT, beta=0.1, alpha=1.0, nll="tokens")
subject(call("LigerFusedLinearDPOLoss", average_log_prob=True), fused_dpo(average_log_prob=True), "ln_dpo", "batch",
        SHORT, beta=0.1, because="finding 5")
subject(call("LigerFusedLinearSimPOLoss", compute_nll_loss=False), fused_simpo(compute_nll_loss=False), "simpo",
        "batch", SHORT, beta=2.0, gamma=0.5, because="finding 5")
subject(call("LigerFusedLinearSimPOLoss") + ", defaults", fused_simpo(), "simpo", "batch", SHORT, beta=2.0, gamma=0.5,
        because="findings 5 and 6")
subject(call("LigerFusedLinearCPOLoss"), fused_cpo, "cpo", "batch", SHORT, beta=0.1, alpha=1.0, nll="tokens")
subject(call("LigerFusedLinearORPOLoss"), fused_orpo, "orpo", "batch", SHORT, lam=0.1, nll="tokens",
        because="findings 1 and 5")


# ---- policy gradients

def ppo(logps: Any, old_logps: Any, advantages: Any, mask: Any, ref_logps: Any = None, **options: Any) -> Any:
    return LigerFusedLinearGRPOFunction.ppo_loss_fn(logps, mask, advantages, mask, ref_logps, old_logps, **options)[0]


def with_kl(kind: str) -> Callable[..., Any]:
    def f(logps: Any, old_logps: Any, advantages: Any, mask: Any, ref_logps: Any, eps: float = 0.2,
          beta: float = 0.04) -> Any:
        return ppo(logps, old_logps, advantages, mask, ref_logps, epsilon_low=eps, epsilon_high=eps, beta=beta,
                   loss_type=kind)

    return f


def without_kl(kind: str, level: str = "token") -> Callable[..., Any]:
    def f(logps: Any, old_logps: Any, advantages: Any, mask: Any, eps_low: float = 0.2, eps_high: float = 0.28) -> Any:
        return ppo(logps, old_logps, advantages, mask, epsilon_low=eps_low, epsilon_high=eps_high, beta=0.0,
                   loss_type=kind, importance_sampling_level=level)

    return f


def cispo(logps: Any, old_logps: Any, advantages: Any, mask: Any, eps_high: float = 0.28) -> Any:
    """Their `epsilon_high` is the ceiling of the ratio; there is no floor."""
    return ppo(logps, old_logps, advantages, mask, epsilon_high=1 + eps_high, beta=0.0, loss_type="cispo")


def dr_grpo(logps: Any, old_logps: Any, advantages: Any, mask: Any, eps: float = 0.2, max_length: int = 16) -> Any:
    return ppo(logps, old_logps, advantages, mask, epsilon_low=eps, epsilon_high=eps, beta=0.0, loss_type="dr_grpo",
               max_completion_length=max_length)


def k3(logps: Any, ref_logps: Any) -> Any:
    return k3_loss_fn(ref_logps, logps)


GRPO = "LigerFusedLinearGRPOFunction.ppo_loss_fn"
subject(call(GRPO, loss_type="grpo"), with_kl("grpo"), "grpo", "token", eps=0.2, beta=0.04)
subject(call(GRPO, loss_type="bnpo"), with_kl("bnpo"), "bnpo", "token", eps=0.2, beta=0.04)
subject(call(GRPO, loss_type="dapo"), without_kl("dapo"), "dapo", "token", eps_low=0.2, eps_high=0.28)
subject(call(GRPO, loss_type="dr_grpo"), dr_grpo, "dr_grpo", "token", eps=0.2, max_length=16)
subject(call(GRPO, importance_sampling_level="sequence"), without_kl("grpo", "sequence"), "gspo", "token")
subject(call(GRPO, loss_type="cispo", epsilon_high=1.28), cispo, "cispo", "token", eps_low=1.0, eps_high=0.28)
subject("`k3_loss_fn`", k3, "k3", "token", THREE)

if __name__ == "__main__":
    sys.exit(main("liger_kernel torch"))
