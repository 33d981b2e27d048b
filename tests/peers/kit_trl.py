"""TRL's trainers through the kit: docs/libraries/trl-1.16.md and trl-0.28.md, whichever version is installed.

As in `trl_losses.py`, whose functions these are, a trainer is made without its `__init__`, given the attributes that
its loss looks at, and asked for its own loss on a model that answers with numbers of the kit's.
"""

from __future__ import annotations

import functools
import sys
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import trl
from subjects import SHORT, THREE, call, main, subject
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer.utils import selective_log_softmax
from trl_losses import NEW, Model, bare, config_of, dpo_trainer_old, running

if NEW:
    from trl import KTOConfig, KTOTrainer
else:
    from trl.experimental.bco import BCOConfig, BCOTrainer
    from trl.experimental.kto import KTOConfig, KTOTrainer


def frozen(**config: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(config.items()))


def answer(log_probs: Any) -> Any:
    """What a model with a fused head gives back."""
    zero = torch.zeros_like(log_probs)
    return SimpleNamespace(log_probs=log_probs, entropy=zero, mean_logits=zero, is_top1=zero.bool(),
                           log_sum_sq_probs=zero)


# ---- DPO, from log-probs of pairs

@functools.cache
def dpo_trainer(kind: str, config: tuple[tuple[str, Any], ...]) -> Any:
    told = {"loss_type": [kind], **dict(config)}
    if not NEW:
        return dpo_trainer_old(told)
    args = config_of(trl.DPOConfig, told)
    names = "beta ld_alpha f_divergence_type f_alpha_divergence_coef label_smoothing use_weighting"
    return bare(trl.DPOTrainer, args, names, loss_types=[kind], loss_weights=[1.0])


def dpo_loss(kind: str, pc: Any, pr: Any, rc: Any, rr: Any, lengths: tuple[Any, Any] | None = None,
             **config: Any) -> Any:
    """The mean loss. The first token of a response carries its log-prob."""
    trainer = dpo_trainer(kind, frozen(**config))
    if not NEW:
        trainer.running = running()  # of a first batch
        if lengths is not None:  # its caller divides
            pc, rc, pr, rr = pc / lengths[0], rc / lengths[0], pr / lengths[1], rr / lengths[1]
        return trainer.dpo_loss(pc, pr, rc, rr, kind, None)[0].mean()
    length = torch.ones(2 * len(pc), dtype=torch.long) if lengths is None else torch.cat(lengths)
    width = int(length.max())

    def rows(chosen: Any, rejected: Any) -> Any:
        logp = torch.cat([chosen, rejected])[:, None]
        return torch.where(torch.arange(width) == 0, logp, torch.zeros((), dtype=logp.dtype))

    trainer.model = Model(lambda ids: answer(rows(pc, pr)))
    trainer.ref_model = Model(lambda ids: answer(rows(rc, rr)))
    trainer._metrics = {"train": defaultdict(list)}
    ids = torch.ones(len(length), width + 1, dtype=torch.long)
    real = torch.arange(width + 1)[None] <= length[:, None]
    completion = real & (torch.arange(width + 1) > 0)
    inputs = {"input_ids": ids, "attention_mask": real.long(), "completion_mask": completion.long()}
    return trainer._compute_loss(trainer.model, inputs, False)


def dpo(kind: str = "sigmoid", **fixed: Any) -> Callable[..., Any]:
    def f(pc: Any, pr: Any, rc: Any, rr: Any, beta: float = 0.1) -> Any:
        return dpo_loss(kind, pc, pr, rc, rr, beta=beta, **fixed)

    return f


def smoothed(kind: str) -> Callable[..., Any]:
    def f(pc: Any, pr: Any, rc: Any, rr: Any, beta: float = 0.1, label_smoothing: float = 0.1) -> Any:
        return dpo_loss(kind, pc, pr, rc, rr, beta=beta, label_smoothing=label_smoothing)

    return f


def ipo(policy_chosen_logps: Any, policy_rejected_logps: Any, reference_chosen_logps: Any,
        reference_rejected_logps: Any, chosen_length: Any, rejected_length: Any, tau: float = 0.1) -> Any:
    return dpo_loss("ipo", policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                    reference_rejected_logps, (chosen_length, rejected_length), beta=tau)


def normalized(policy_chosen_logps: Any, policy_rejected_logps: Any, reference_chosen_logps: Any,
               reference_rejected_logps: Any, chosen_length: Any, rejected_length: Any, beta: float = 0.1) -> Any:
    return dpo_loss("sigmoid_norm", policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                    reference_rejected_logps, (chosen_length, rejected_length), beta=beta)


def discopop(pc: Any, pr: Any, rc: Any, rr: Any, beta: float = 0.1, tau: float = 0.05) -> Any:
    return dpo_loss("discopop", pc, pr, rc, rr, beta=beta, discopop_tau=tau)


def alpha_divergence(pc: Any, pr: Any, rc: Any, rr: Any, beta: float = 0.1, alpha: float = 0.5) -> Any:
    return dpo_loss("sigmoid", pc, pr, rc, rr, beta=beta, f_divergence_type="alpha_divergence",
                    f_alpha_divergence_coef=alpha)


D = "DPOTrainer"
subject(call(D, loss_type="sigmoid"), dpo(), "dpo", dtypes=THREE, beta=0.1)
subject(call(D, loss_type="sigmoid", label_smoothing=0.1), smoothed("sigmoid"), "cdpo", beta=0.1, eps=0.1,
        because="finding 3" if NEW else "")
subject(call(D, loss_type="hinge"), dpo("hinge"), "hinge", beta=0.1)
subject(call(D, loss_type="ipo"), ipo, "ipo", tau=0.1, reduction="mean")
subject(call(D, loss_type="exo_pair"), smoothed("exo_pair"), "exo", beta=0.1, eps=0.001,
        because="convention: ε is a float32 tensor" if NEW else "")
subject(call(D, loss_type="nca_pair"), dpo("nca_pair"), "nca", beta=0.1)
subject(call(D, loss_type="robust"), smoothed("robust"), "rdpo", beta=0.1, eps=0.1)
if NEW:
    subject(call(D, loss_type="bco_pair"), dpo("bco_pair"), "bco", beta=0.1)
subject(call(D, loss_type="sppo_hard"), dpo("sppo_hard"), "sppo", beta=0.1)
subject(call(D, loss_type="apo_zero"), dpo("apo_zero"), "apo_zero", beta=0.1, plus_one=True)
subject(call(D, loss_type="apo_down"), dpo("apo_down"), "apo_down", beta=0.1, plus_one=True)
subject(call(D, loss_type="aot"), smoothed("aot"), "aot", beta=0.1, eps=0.1)
subject(call(D, loss_type="aot_unpaired"), smoothed("aot_unpaired"), "aot_unpaired", beta=0.1, eps=0.1)
subject(call(D, loss_type="discopop"), discopop, "discopop", beta=0.1, tau=0.05,
        because="finding 4" if NEW else "as finding 4 of 1.16")
BOUNDED = ("convention: exponents are bounded, and have no gradient there" if NEW else
           "NaN where a response has lost 177 nats")
if NEW:
    subject(call(D, f_divergence_type="forward_kl"), dpo(f_divergence_type="forward_kl"), "f_dpo_forward_kl", beta=0.1,
            because="finding 7")
subject(call(D, f_divergence_type="js_divergence"), dpo(f_divergence_type="js_divergence"), "f_dpo_js", beta=0.1,
        because="" if NEW else "digits cancel where log-ratios are hundreds")
if NEW:
    subject(call(D, f_divergence_type="alpha_divergence"), alpha_divergence, "f_dpo_alpha", dtypes=SHORT, beta=0.1,
            alpha=0.5, convention="order", because=BOUNDED)
    subject(call(D, loss_type="sigmoid_norm"), normalized, "ln_dpo", beta=0.1)
else:
    subject(call(D, f_divergence_type="alpha_divergence"), alpha_divergence, "f_dpo_alpha", beta=0.1, alpha=0.5,
            because=BOUNDED)


# ---- CPO, SimPO, AlphaPO and ORPO, from log-probs of pairs

@functools.cache
def cpo_trainer(config: tuple[tuple[str, Any], ...]) -> Any:
    names = "beta label_smoothing loss_type cpo_alpha simpo_gamma alpha"
    return bare(CPOTrainer, config_of(CPOConfig, dict(config)), names)


@functools.cache
def orpo_trainer(lam: float) -> Any:
    return bare(ORPOTrainer, config_of(ORPOConfig, {"beta": lam}), "beta")


def cpo(pc: Any, pr: Any, beta: float = 0.1, label_smoothing: float = 0.0) -> Any:
    return cpo_trainer(frozen(beta=beta, label_smoothing=label_smoothing, loss_type="sigmoid")).cpo_loss(pc, pr)


def simpo(pc: Any, pr: Any, beta: float = 2.0, gamma: float = 1.0, label_smoothing: float = 0.0) -> Any:
    config = frozen(beta=beta, simpo_gamma=gamma, label_smoothing=label_smoothing, loss_type="simpo")
    return cpo_trainer(config).cpo_loss(pc, pr)


def alphapo(pc: Any, pr: Any, beta: float = 2.0, gamma: float = 1.0, alpha: float = 0.25) -> Any:
    config = frozen(beta=beta, simpo_gamma=gamma, alpha=alpha, loss_type="simpo")
    return cpo_trainer(config).cpo_loss(pc, pr)


def orpo(pc: Any, pr: Any, lam: float = 0.1) -> Any:
    """Ours has the likelihood in it, theirs adds it outside."""
    return -orpo_trainer(lam).odds_ratio_loss(pc, pr)[0] - pc


subject(call("CPOTrainer.cpo_loss", loss_type="sigmoid"), cpo, "cpo", beta=0.1, alpha=0.0)
subject(call("CPOTrainer.cpo_loss", loss_type="simpo"), simpo, "simpo", dtypes=THREE, beta=2.0, gamma=1.0)
subject(call("CPOTrainer.cpo_loss", loss_type="simpo", alpha=0.25), alphapo, "alphapo", beta=2.0, gamma=1.0,
        alpha=0.25, because="convention: p̄ is computed, and underflows")
subject(call("ORPOTrainer.odds_ratio_loss") + " and the likelihood", orpo, "orpo", lam=0.1,
        because="finding 2" if NEW else "as finding 2 of 1.16")


# ---- the same, from logits

def halves(tokens: Any, mask: Any, attention_mask: Any) -> dict[str, Any]:
    batch, n = {}, len(tokens) // 2
    for name, rows in (("chosen", slice(0, n)), ("rejected", slice(n, None))):
        batch[f"{name}_input_ids"] = tokens[rows]
        batch[f"{name}_attention_mask"] = attention_mask[rows].long()
        batch[f"{name}_labels"] = torch.where(mask, tokens, -100)[rows]
    return batch


def whole(trainer: Any, logits: Any, tokens: Any, mask: Any, attention_mask: Any) -> Any:
    trainer.model, trainer._metrics = Model(lambda ids: SimpleNamespace(logits=logits)), {"train": defaultdict(list)}
    return trainer.get_batch_loss_metrics(trainer.model, halves(tokens, mask, attention_mask))[0]


def batch_orpo(logits: Any, tokens: Any, mask: Any, attention_mask: Any, lam: float = 0.1) -> Any:
    return whole(orpo_trainer(lam), logits, tokens, mask, attention_mask)


def batch_cpo(logits: Any, tokens: Any, mask: Any, attention_mask: Any, beta: float = 0.1, alpha: float = 1.0) -> Any:
    trainer = cpo_trainer(frozen(beta=beta, cpo_alpha=alpha, loss_type="sigmoid"))
    return whole(trainer, logits, tokens, mask, attention_mask)


def batch_simpo(logits: Any, tokens: Any, mask: Any, attention_mask: Any, beta: float = 2.0, gamma: float = 1.0) -> Any:
    trainer = cpo_trainer(frozen(beta=beta, cpo_alpha=0.0, loss_type="simpo", simpo_gamma=gamma))
    return whole(trainer, logits, tokens, mask, attention_mask)


def logp(logits: Any, tokens: Any, mask: Any) -> Any:
    return (selective_log_softmax(logits[:, :-1], tokens[:, 1:]) * mask[:, 1:]).sum(-1)


def cpo_logps(logits: Any, labels: Any) -> Any:
    return CPOTrainer.get_batch_logps(logits, labels)


def cpo_mean_logps(logits: Any, labels: Any) -> Any:
    return CPOTrainer.get_batch_logps(logits, labels, average_log_prob=True)


BATCH = "get_batch_loss_metrics"
EMPTY = "finding 6" if NEW else "as finding 6 of 1.16"
subject(call(f"ORPOTrainer.{BATCH}"), batch_orpo, "orpo", "batch", SHORT, lam=0.1, nll="tokens",
        scope="prompt_and_completion", because=EMPTY)
subject(call(f"CPOTrainer.{BATCH}", loss_type="sigmoid"), batch_cpo, "cpo", "batch", THREE, beta=0.1, alpha=1.0,
        nll="tokens")
subject(call(f"CPOTrainer.{BATCH}", loss_type="simpo"), batch_simpo, "simpo", "batch", beta=2.0, gamma=1.0,
        because=EMPTY)
subject(call("selective_log_softmax") + ", summed", logp, "logp", "sequence", THREE)
subject(call("CPOTrainer.get_batch_logps"), cpo_logps, "logp", "sequence", THREE)
subject(call("CPOTrainer.get_batch_logps", average_log_prob=True), cpo_mean_logps, "mean_logp", "sequence", THREE,
        because=EMPTY)


# ---- single responses

@functools.cache
def kto_trainer(beta: float, desirable: float, undesirable: float) -> Any:
    told = {"beta": beta, "desirable_weight": desirable, "undesirable_weight": undesirable, "loss_type": "kto"}
    names = "beta loss_type desirable_weight undesirable_weight"
    return bare(KTOTrainer, config_of(KTOConfig, told), names, calculate_KL=True)


def kto(policy_logps: Any, reference_logps: Any, labels: Any, policy_KL_logps: Any, reference_KL_logps: Any,
        beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> Any:
    trainer = kto_trainer(beta, desirable_weight, undesirable_weight)

    def tokens(n: int) -> dict[str, Any]:
        ones = torch.ones(n, 2, dtype=torch.long)
        return {"input_ids": ones, "attention_mask": ones, "completion_mask": torch.tensor([[0, 1]]).repeat(n, 1)}

    mismatched = {f"KL_{name}": x for name, x in tokens(len(policy_KL_logps)).items()}

    def model(matched: Any, other: Any) -> Any:
        return Model(lambda ids: answer((other if ids is mismatched["KL_input_ids"] else matched)[:, None]))

    trainer.model = model(policy_logps, policy_KL_logps)
    trainer.ref_model = model(reference_logps, reference_KL_logps)
    trainer._metrics = {"train": defaultdict(list)}
    return trainer._compute_loss(trainer.model, {**tokens(len(labels)), **mismatched, "label": labels}, False)


def kto_old(policy_chosen_logps: Any, policy_rejected_logps: Any, policy_KL_logps: Any, reference_chosen_logps: Any,
            reference_rejected_logps: Any, reference_KL_logps: Any, beta: float = 0.1, desirable_weight: float = 1.0,
            undesirable_weight: float = 1.0) -> Any:
    trainer = kto_trainer(beta, desirable_weight, undesirable_weight)
    return trainer.kto_loss(policy_chosen_logps, policy_rejected_logps, policy_KL_logps, reference_chosen_logps,
                            reference_rejected_logps, reference_KL_logps)[0]


def bco_old(policy_chosen_logps: Any, policy_rejected_logps: Any, reference_chosen_logps: Any,
            reference_rejected_logps: Any) -> Any:
    trainer = bare(BCOTrainer, config_of(BCOConfig, {"beta": 0.1}), "beta", running=running(), embedding_func=None,
                   embedding_tokenizer=None)
    return trainer.bco_loss(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                            reference_rejected_logps, None, None, False)


if NEW:
    subject(call("KTOTrainer"), kto, "kto", "unpaired", THREE, beta=0.1, lam_d=1.0, lam_u=1.0, because="finding 1")
else:
    subject(call("KTOTrainer.kto_loss"), kto_old, "kto", "unpaired", THREE, beta=0.1, lam_d=1.0, lam_u=1.0)
    subject(call("BCOTrainer.bco_loss") + " of a first batch", bco_old, "bco_unpaired", "unpaired", SHORT, beta=0.1)


# ---- rewards

@functools.cache
def reward_trainer(center: float) -> Any:
    return bare(trl.RewardTrainer, config_of(trl.RewardConfig, {"center_rewards_coefficient": center}), "")


def reward(chosen_reward: Any, rejected_reward: Any, margin: Any, center: float = 0.01) -> Any:
    trainer = reward_trainer(center)
    rewards = torch.cat([chosen_reward, rejected_reward])[:, None]
    trainer.model = Model(lambda ids: SimpleNamespace(logits=rewards))
    trainer._metrics = {"train": defaultdict(list)}
    ones = torch.ones(len(rewards), 1, dtype=torch.long)
    inputs = {"input_ids": ones, "attention_mask": ones, "completion_mask": ones, "margin": margin}
    return trainer.compute_loss(trainer.model, inputs)


subject(call("RewardTrainer", center_rewards_coefficient=0.01) + " with margins", reward, "bt_rm", center=0.01)


# ---- policy gradients

@functools.cache
def grpo_trainer(config: tuple[tuple[str, Any], ...]) -> Any:
    args = config_of(trl.GRPOConfig, dict(config))
    high = args.epsilon if args.epsilon_high is None else args.epsilon_high
    off = dict.fromkeys(("use_vllm", "vllm_importance_sampling_correction", "_entropy_bonus_enabled",
                         "use_adaptive_entropy", "use_liger_kernel", "use_liger_loss"), False)
    return bare(trl.GRPOTrainer, args, "beta loss_type importance_sampling_level top_entropy_quantile "
                "max_completion_length", epsilon_low=args.epsilon, epsilon_high=high, off_policy_mask_threshold=None,
                current_gradient_accumulation_steps=1, tools=None, max_tool_calling_iterations=None, **off)


class Training:
    training = True


def grpo_loss(logps: Any, old_logps: Any, advantages: Any, mask: Any, ref_logps: Any = None, **config: Any) -> Any:
    trainer = grpo_trainer(frozen(**config))
    trainer.model, trainer._metrics = Training(), {"train": defaultdict(list), "eval": defaultdict(list)}
    returned = (logps, torch.zeros_like(logps), None)[: 3 if NEW else 2]
    trainer._get_per_token_logps_and_entropies = lambda *args, **rest: returned
    prompt = torch.ones(len(logps), 1, dtype=torch.long)
    inputs = {"prompt_ids": prompt, "prompt_mask": prompt, "completion_ids": torch.ones(logps.shape, dtype=torch.long),
              "completion_mask": mask.long(), "advantages": advantages, "old_per_token_logps": old_logps,
              "num_items_in_batch": mask.sum()}
    if ref_logps is not None:
        inputs["ref_per_token_logps"] = ref_logps
    return trainer._compute_loss(trainer.model, inputs)


def with_kl(kind: str, **fixed: Any) -> Callable[..., Any]:
    def f(logps: Any, old_logps: Any, advantages: Any, mask: Any, ref_logps: Any, eps: float = 0.2,
          beta: float = 0.04) -> Any:
        return grpo_loss(logps, old_logps, advantages, mask, ref_logps, loss_type=kind, epsilon=eps, beta=beta, **fixed)

    return f


def without_kl(kind: str, **fixed: Any) -> Callable[..., Any]:
    def f(logps: Any, old_logps: Any, advantages: Any, mask: Any, eps_low: float = 0.2, eps_high: float = 0.28) -> Any:
        return grpo_loss(logps, old_logps, advantages, mask, loss_type=kind, epsilon=eps_low, epsilon_high=eps_high,
                         beta=0.0, **fixed)

    return f


def cispo(logps: Any, old_logps: Any, advantages: Any, mask: Any, eps_high: float = 0.28) -> Any:
    """Their `epsilon_high` is the ceiling of the ratio; there is no floor."""
    return grpo_loss(logps, old_logps, advantages, mask, loss_type="cispo", epsilon_high=1 + eps_high, beta=0.0)


def dr_grpo(logps: Any, old_logps: Any, advantages: Any, mask: Any, eps: float = 0.2, max_length: int = 16) -> Any:
    return grpo_loss(logps, old_logps, advantages, mask, loss_type="dr_grpo", epsilon=eps, beta=0.0,
                     max_completion_length=max_length)


G = "GRPOTrainer"
PLAIN = {"use_bias_correction_kl": False} if NEW else {}
subject(call(G, loss_type="grpo", **PLAIN), with_kl("grpo", **PLAIN), "grpo", "token", eps=0.2, beta=0.04)
subject(call(G, loss_type="bnpo", **PLAIN), with_kl("bnpo", **PLAIN), "bnpo", "token", eps=0.2, beta=0.04)
if NEW:
    subject(call(G, loss_type="grpo"), with_kl("grpo"), "grpo", "token", eps=0.2, beta=0.04,
            because="convention: the KL term is multiplied by the ratio")
subject(call(G, loss_type="dapo"), without_kl("dapo"), "dapo", "token", eps_low=0.2, eps_high=0.28)
subject(call(G, importance_sampling_level="sequence"), without_kl("grpo", importance_sampling_level="sequence"), "gspo",
        "token")
subject(call(G, loss_type="cispo", epsilon_high=1.28), cispo, "cispo", "token", eps_low=1.0, eps_high=0.28)
subject(call(G, loss_type="dr_grpo"), dr_grpo, "dr_grpo", "token", eps=0.2, max_length=16)

if __name__ == "__main__":
    sys.exit(main("trl transformers torch"))
