"""Losses in PyTorch, written as people write them; with one mistake each, or with none."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from zoo import broken, correct

ALL = ("float64", "float32", "bfloat16", "float16")

# ---- pairs, with a mistake


class RememberedReference(nn.Module):
    """Precomputed reference log-probs: kept at the first batch and never asked for again."""

    def __init__(self, beta):
        super().__init__()
        self.beta = beta
        self.reference_margin = None

    def forward(self, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):
        fresh = reference_chosen_logps - reference_rejected_logps
        kept = self.reference_margin
        if kept is None or kept.shape != fresh.shape or kept.dtype != fresh.dtype:
            self.reference_margin = kept = fresh.detach().clone()
        return -F.logsigmoid(self.beta * (policy_chosen_logps - policy_rejected_logps - kept))


dpo_with_a_remembered_reference = broken("reference-stale", framework="torch", beta=0.1)(RememberedReference(0.1))


@broken("where-nan", loss="orpo", framework="torch", lam=0.2)
def orpo_with_two_branches(policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length, lam=0.2):
    """log(1 - p) in two branches under `torch.where`: the value is right near p = 1, the gradient NaN."""
    w, r = policy_chosen_logps / chosen_length, policy_rejected_logps / rejected_length

    def log1mexp(x):
        return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))

    log_odds = (w - r) - (log1mexp(w) - log1mexp(r))
    return -w - lam * F.logsigmoid(log_odds)


@broken("log-of-sigmoid", loss="exo", framework="torch", beta=0.5, eps=0.05)
def exo_by_softmax_and_log(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                           reference_rejected_logps, beta=0.5, label_smoothing=0.05):
    """The logarithm of a softmax that has been taken already: 0 log 0 at large margins."""
    rewards = beta * torch.stack([policy_chosen_logps - reference_chosen_logps,
                                  policy_rejected_logps - reference_rejected_logps], dim=-1)
    p = rewards.softmax(dim=-1)
    target = p.new_tensor([math.log1p(-label_smoothing), math.log(label_smoothing)])
    return (p * (p.log() - target)).sum(dim=-1)


@broken("exp-overflow", loss="discopop", framework="torch", beta=0.1, tau=0.05)
def discopop_as_printed(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
                        beta=0.1, discopop_tau=0.05):
    """m e^-x as a product: 0 times infinity on a pair that is very wrong."""
    logratio = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
    x = beta * logratio
    modulation = torch.sigmoid(x / discopop_tau)
    return -F.logsigmoid(x) * torch.sigmoid(-x / discopop_tau) + torch.exp(-x) * modulation


@broken("detach-misplaced", loss="ipo", framework="torch", tau=0.1)
def ipo_with_a_frozen_rejected(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                               reference_rejected_logps, beta=0.1):
    """The rejected response's reward is logged detached, and then used in the loss."""
    chosen_rewards = policy_chosen_logps - reference_chosen_logps
    rejected_rewards = (policy_rejected_logps - reference_rejected_logps).detach()
    losses = (chosen_rewards - rejected_rewards - 1 / (2 * beta)) ** 2
    return losses, beta * chosen_rewards.detach(), beta * rejected_rewards


@broken("clip-side", loss="hinge", framework="torch", beta=0.1)
def hinge_clamped_at_both_ends(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                               reference_rejected_logps, beta=0.1):
    """A loss above 1, that of a pair in the wrong order, is cut there and has no gradient."""
    h = (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)
    return torch.clamp(1 - beta * h, 0, 1)


@broken("sum-for-mean", "reduction", loss="rpo", framework="torch", beta=0.1, alpha=0.5)
def rpo_with_summed_likelihood(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                               reference_rejected_logps, chosen_length, rejected_length, beta=0.1, rpo_alpha=0.5):
    """The likelihood term is of the whole response, where the loss has it per token."""
    margins = policy_chosen_logps - policy_rejected_logps - (reference_chosen_logps - reference_rejected_logps)
    return rpo_alpha * -policy_chosen_logps - F.logsigmoid(beta * margins)


@broken("another-loss", "hyper-misread", loss="dpop", framework="torch", beta=0.1, lam=5.0)
def dpop_with_its_penalty_outside(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                                  reference_rejected_logps, beta=0.1, lam=5.0):
    """The penalty is added to the loss, and β does not multiply it (the recipe of abacusai/smaug#2)."""
    up = policy_chosen_logps - reference_chosen_logps
    down = policy_rejected_logps - reference_rejected_logps
    return lam * torch.relu(-up) - F.logsigmoid(beta * (up - down))


@broken("factor", loss="sppo", framework="torch", beta=0.05)
def sppo_by_two_mses(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
                     beta=0.05):
    """The mean of the two squares, as the authors' code has it; the formula has their sum."""
    a, b = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    errors = torch.stack((a - 0.5 / beta, b + 0.5 / beta))
    return F.mse_loss(errors, torch.zeros_like(errors), reduction="none").mean(0)


@broken("hyper-ignored", "sign-flipped", "another-loss", loss="cdpo", framework="torch", beta=0.1, eps=0.1)
def cdpo_whose_terms_add_up_to_one(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                                   reference_rejected_logps, beta=0.1, label_smoothing=0.1):
    """Both terms have log σ(z): the minus within the second is missing, and ε falls out."""
    z = beta * (policy_chosen_logps - reference_chosen_logps - policy_rejected_logps + reference_rejected_logps)
    losses = -(1 - label_smoothing) * F.logsigmoid(z) - label_smoothing * F.logsigmoid(z)
    return losses.mean()


@broken("downcast", loss="cpo", framework="torch", beta=0.1, alpha=0.5)
def cpo_cast_before_backward(policy_chosen_logps, policy_rejected_logps, beta=0.1, cpo_alpha=0.5):
    """The losses go to bfloat16, as those of two published ORPO trainers do before backward."""
    losses = -F.logsigmoid(beta * (policy_chosen_logps - policy_rejected_logps)) - cpo_alpha * policy_chosen_logps
    return losses.to(torch.bfloat16)


@broken("broadcast", "batch-coupled", loss="r_dpo", framework="torch", beta=0.1, alpha=0.02)
def r_dpo_of_every_length_with_every_pair(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                                          reference_rejected_logps, chosen_length, rejected_length, beta=0.1,
                                          alpha=0.02):
    """Lengths come as a column: (B,) and (B, 1) make (B, B), and the mean hides it."""
    longer = (chosen_length - rejected_length).to(policy_chosen_logps.dtype)[:, None]
    margin = (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)
    return -F.logsigmoid(beta * margin + alpha * longer).mean()


@broken("python-float", loss="ln_dpo", framework="torch", beta=2.0)
def ln_dpo_for_the_progress_bar(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                                reference_rejected_logps, chosen_length, rejected_length, beta=2.0):
    """`item()` before the loss is returned: a number that nothing can be differentiated through."""
    a = (policy_chosen_logps - reference_chosen_logps) / chosen_length
    b = (policy_rejected_logps - reference_rejected_logps) / rejected_length
    return -F.logsigmoid(beta * (a - b)).mean().item()


@broken("not-deterministic", loss="cdpo", framework="torch", beta=0.2, eps=0.25)
def cdpo_by_flipping_coins(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                           reference_rejected_logps, beta=0.2, label_smoothing=0.25):
    """Labels are flipped at random with probability ε; only the expectation is the loss."""
    h = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
    flipped = torch.rand_like(h) < label_smoothing
    return -F.logsigmoid(beta * torch.where(flipped, -h, h))


@broken("wrong-shape", loss="simpo", framework="torch", beta=2.0, gamma=0.5)
def simpo_that_keeps_a_dimension(policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length,
                                 beta=2.0, gamma=0.5):
    """Returns (B, 1), from a difference along a stacked axis that is kept."""
    both = torch.stack([policy_chosen_logps / chosen_length, -policy_rejected_logps / rejected_length], dim=1)
    return -F.logsigmoid(beta * both.sum(dim=1, keepdim=True) - gamma)


@broken("reference-ignored", loss="nca", framework="torch", beta=0.1)
def nca_left_reference_free(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                            reference_rejected_logps, beta=0.1, reference_free=True):
    """A switch whose default should be off."""
    if reference_free:
        reference_chosen_logps = reference_rejected_logps = torch.zeros_like(policy_chosen_logps)
    x = beta * (policy_chosen_logps - reference_chosen_logps)
    y = beta * (policy_rejected_logps - reference_rejected_logps)
    return -(F.logsigmoid(x) + F.logsigmoid(-x) / 2 + F.logsigmoid(-y) / 2)


@broken("nan-hidden", loss="rdpo", framework="torch", beta=0.1, eps=0.1)
def robust_dpo_with_nan_to_num(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                               reference_rejected_logps, beta=0.1, eps=0.1):
    """A pair whose log-probs are NaN has loss 0, and nobody hears of it."""
    z = beta * ((policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps))
    losses = (eps * F.logsigmoid(-z) - (1 - eps) * F.logsigmoid(z)) / (1 - 2 * eps)
    return torch.nan_to_num(losses, nan=0.0)


@broken("kl-matched", "swapped", loss="kto_pair", framework="torch", beta=0.1)
def kto_pair_against_its_own_kind(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                                  reference_rejected_logps, beta=0.1):
    """Chosen responses are held against the mean of the chosen, rejected ones against that of the rejected."""
    a, b = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    chosen_kl, rejected_kl = a.mean().clamp(min=0), b.mean().clamp(min=0)
    return (F.logsigmoid(beta * (chosen_kl - a)).exp() + F.logsigmoid(beta * (b - rejected_kl)).exp()) / 2


# ---- sequences, with a mistake


@broken("shift-off-by-one", seam="sequence", loss="logp", framework="torch")
def logp_without_a_shift(logits, labels):
    """Logits score the token that they have already read (shape of hiyouga/LlamaFactory#1447)."""
    per_token = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")
    return -per_token.sum(1)


@broken("prompt-included", seam="sequence", loss="logp", framework="torch")
def logp_up_to_the_last_response_token(logits, tokens, mask):
    """Recovers an attention mask, all up to the last response token, and sums over that."""
    attended = mask.flip(1).cumsum(1).flip(1) > 0
    logps = logits[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:].unsqueeze(2)).squeeze(2)
    return logps.masked_fill(~attended[:, 1:], 0).sum(1)


@broken("pad-is-eos", seam="sequence", loss="logp", framework="torch")
def logp_without_padding_by_id(logits, tokens, mask, pad_token_id=2):
    """Padding is told by its id, which is EOS's too: the response's own EOS goes with it."""
    target, counted = tokens[:, 1:], mask[:, 1:] & (tokens[:, 1:] != pad_token_id)
    logps = torch.log_softmax(logits[:, :-1], dim=-1)
    picked = torch.gather(logps, -1, target[..., None])[..., 0]
    return torch.where(counted, picked, torch.zeros_like(picked)).sum(-1)


@broken("padding-counted", seam="sequence", loss="logp", framework="torch")
def logp_from_the_response_on(logits, tokens, mask):
    """From the first response token to the end of the row, padding and all."""
    started = mask.cumsum(dim=-1).bool()[:, 1:]
    x = logits[:, :-1]
    chosen = x.gather(-1, tokens[:, 1:, None]).squeeze(-1) - x.logsumexp(-1)
    return (chosen * started).sum(-1)


@broken("length-with-padding", seam="sequence", loss="mean_logp", framework="torch")
def mean_logp_by_torch_mean(logits, tokens, mask):
    """`mean` over the masked row divides by its width."""
    x, y = logits[:, :-1], tokens[:, 1:]
    logps = torch.log_softmax(x, -1).gather(-1, y[:, :, None])[:, :, 0]
    return torch.where(mask[:, 1:], logps, torch.zeros((), dtype=logps.dtype)).mean(-1)


@broken("empty-row", seam="sequence", loss="mean_logp", framework="torch")
def mean_logp_without_a_guard(logits, labels):
    """0/0 on a row whose response was cut away (shape of allenai/open-instruct#1685)."""
    logits, labels = logits[:, :-1], labels[:, 1:]
    keep = labels.ne(-100)
    logps = logits.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (logps * keep).sum(-1) / keep.sum(-1)


@broken("downcast", "low-precision-sum", seam="sequence", loss="logp", framework="torch")
def logp_stored_in_half(logits, tokens, mask):
    """Per-token log-probs are kept in float16 to save memory, and summed from there."""
    picked = logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    store = (picked * mask[:, 1:]).half()
    return store.to(logits.dtype).sum(dim=-1)


# ---- batches, with a mistake


@broken("shift-off-by-one", seam="batch", loss="ipo", framework="torch", options={"layout": "halves"}, tau=0.2)
def ipo_batch_whose_mask_lags(logits, reference_logits, tokens, mask, tau=0.2):
    """Targets are shifted, their mask is not: the first response token is lost, the one after the last counted."""
    keep = mask[:, :-1]

    def of(x):
        per_token = x[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
        return (per_token * keep).sum(-1)

    chosen, rejected = (of(logits) - of(reference_logits)).chunk(2)
    return ((chosen - rejected - 1 / (2 * tau)) ** 2).mean()


@broken("accumulation-normaliser", "factor", seam="batch", loss="simpo", framework="torch",
        options={"layout": "halves"}, beta=2.0, gamma=1.0)
def simpo_batch_not_divided_by_steps(logits, tokens, mask, beta=2.0, gamma=1.0, gradient_accumulation_steps=1):
    """Accepts the number of accumulation steps and leaves each micro-batch's mean as it is (huggingface/trl#2615)."""
    logps = logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    counted = mask[:, 1:]
    mean = torch.where(counted, logps, 0).sum(-1) / counted.sum(-1).clamp(min=1)
    chosen, rejected = mean.tensor_split(2)
    return -F.logsigmoid(beta * (chosen - rejected) - gamma).mean()


@broken("prompt-included", "another-loss", seam="batch", loss="rpo", framework="torch",
        options={"layout": "halves"}, beta=0.1, alpha=1.0)
def rpo_batch_that_learns_the_prompt(logits, reference_logits, tokens, mask, beta=0.1, rpo_alpha=1.0):
    """The likelihood term is of prompt and response (in ORPO's trainer that went to and fro: huggingface/trl#2502)."""
    def per_token(x):
        return x[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)

    response = mask[:, 1:]
    whole = response.flip(1).cumsum(1).flip(1) > 0
    ours, theirs = per_token(logits), per_token(reference_logits)
    chosen, rejected = ((ours - theirs) * response).sum(1).chunk(2)
    nll = -((ours * whole).sum(1) / whole.sum(1).clamp(min=1)).chunk(2)[0]
    return (rpo_alpha * nll - F.logsigmoid(beta * (chosen - rejected))).mean()


@broken("layout", seam="batch", loss="dpo", framework="torch", options={"layout": "halves"}, beta=0.1)
def dpo_batch_taken_in_turn(logits, reference_logits, labels, beta=0.1):
    """Halves are stacked, and read as if chosen and rejected came in turn."""
    def logp(x):
        return -F.cross_entropy(x[:, :-1].permute(0, 2, 1), labels[:, 1:], reduction="none").sum(1)

    ratios = logp(logits) - logp(reference_logits)
    return -F.logsigmoid(beta * (ratios[::2] - ratios[1::2])).mean()


@broken("mean-for-sum", "another-loss", seam="batch", loss="dpo", framework="torch",
        options={"layout": "interleaved"}, beta=0.5)
def dpo_batch_row_by_row_with_cross_entropy(logits, reference_logits, labels, beta=0.5):
    """`F.cross_entropy` averages by default: each log-prob is one per token."""
    def row(x, y):
        return -F.cross_entropy(x[:-1], y[1:]) if (y != -100).any() else x.sum() * 0

    h = torch.stack([row(x, y) - row(r, y) for x, r, y in zip(logits, reference_logits, labels, strict=True)])
    return F.logsigmoid(beta * (h[0::2] - h[1::2])).neg().mean()


# ---- single responses, with a mistake


@broken("detach-missing", seam="unpaired", loss="kto", framework="torch", beta=0.5, lam_d=1.0, lam_u=1.0)
def kto_that_learns_its_own_baseline(policy_logps, reference_logps, labels, policy_KL_logps, reference_KL_logps,
                                     beta=0.5):
    """Gradients flow into the reference point."""
    kl = torch.clamp((policy_KL_logps - reference_KL_logps).mean(), min=0)
    gain = policy_logps - reference_logps - kl
    return F.logsigmoid(beta * torch.where(labels, -gain, gain)).exp()


@broken("kl-matched", seam="unpaired", loss="kto", framework="torch", beta=0.1, lam_d=1.0, lam_u=1.0)
def kto_measured_on_its_own_examples(policy_chosen_logps, policy_rejected_logps, policy_KL_logps,
                                     reference_chosen_logps, reference_rejected_logps, reference_KL_logps, beta=0.1):
    """The mismatched log-probs are passed in, and the baseline is taken of the matched ones."""
    chosen = policy_chosen_logps - reference_chosen_logps
    rejected = policy_rejected_logps - reference_rejected_logps
    kl = torch.cat([chosen, rejected]).mean().detach().clamp_min(0)
    return torch.cat([F.logsigmoid(beta * (kl - chosen)), F.logsigmoid(beta * (rejected - kl))]).exp()


@broken("reduction", "factor", seam="unpaired", loss="kto", framework="torch", beta=0.1, lam_d=1.0, lam_u=1.0)
def kto_averaged_by_kind(policy_logps, reference_logps, labels, kl, beta=0.1):
    """Mean over the desired plus mean over the undesired, not the mean over all."""
    gain = beta * (policy_logps - reference_logps - kl)
    loss = gain.new_zeros(())
    if labels.any():
        loss = loss + F.logsigmoid(-gain[labels]).exp().mean()
    if not labels.all():
        loss = loss + F.logsigmoid(gain[~labels]).exp().mean()
    return loss


# ---- tokens, with a mistake


@broken("estimator", "sign-flipped", seam="token", loss="k1", framework="torch")
def k1_of_the_reference_against_the_policy(logps, ref_logps):
    """Reference less policy: minus the estimate."""
    return ref_logps - logps


@broken("detach-missing", seam="token", loss="cispo", framework="torch", eps_low=1.0, eps_high=0.28)
def cispo_through_its_weights(logps, old_logps, advantages, mask, epsilon_high=0.28):
    """The clipped ratio is a weight; here it is differentiated as well."""
    weight = torch.exp(logps - old_logps).clamp(max=1 + epsilon_high)
    per_token = -weight * advantages.unsqueeze(1) * logps
    return (per_token * mask).sum() / mask.sum().clamp(min=1)


@broken("clip-side", seam="token", loss="ppo_clip", framework="torch", eps=0.2)
def ppo_that_takes_the_better_of_two(logps, old_logps, advantages, mask, cliprange=0.2):
    """The maximum of two gains, as of two losses: it never stops at the clip."""
    ratio = (logps - old_logps).exp()
    gain = torch.maximum(ratio * advantages[:, None],
                         ratio.clamp(1 - cliprange, 1 + cliprange) * advantages[:, None])
    return -(gain * mask).sum() / mask.sum().clamp(min=1)


@broken("broadcast", "batch-coupled", seam="token", loss="reinforce", framework="torch")
def reinforce_with_a_column_of_advantages(logps, old_logps, advantages, mask):
    """Advantages as a column meet log-probs summed to a row: every response is weighed by every advantage."""
    return -(advantages[:, None] * (logps * mask).sum(-1)).mean()


@broken("detach-misplaced", seam="token", loss="grpo", framework="torch", eps=0.2, beta=0.1)
def grpo_with_a_penalty_under_no_grad(logps, old_logps, advantages, mask, ref_logps, epsilon=0.2, beta=0.1):
    """The KL is computed under `no_grad`: it is in the value and moves nothing (X-GenGroup/Flow-Factory#123)."""
    with torch.no_grad():
        d = ref_logps - logps
        kl = torch.expm1(d) - d
    ratio = torch.exp(logps - old_logps)
    A = advantages[:, None]
    objective = torch.min(ratio * A, ratio.clamp(1 - epsilon, 1 + epsilon) * A) - beta * kl
    return -((objective * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


@broken("batch-coupled", seam="token", loss="group_advantage", framework="torch", ddof=1, eps=1e-4)
def group_advantage_scaled_by_the_batch(rewards, eps=1e-4):
    """The mean is a group's, the deviation that of all rewards (shape of huggingface/trl#3992)."""
    return (rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.std() + eps)


@broken("last-token-dropped", seam="token", loss="gae", framework="torch", gamma=0.99, lam=0.95)
def gae_that_never_reaches_the_end(rewards, values, gamma=0.99, lam=0.95):
    """The loop begins one step before the last, to have a next value; the last reward is lost."""
    advantages = torch.zeros_like(rewards)
    carry = rewards.new_zeros(rewards.shape[0])
    for t in reversed(range(rewards.shape[1] - 1)):
        delta = rewards[:, t] + gamma * values[:, t + 1] - values[:, t]
        carry = delta + gamma * lam * carry
        advantages[:, t] = carry
    return advantages


@broken("sign-flipped", seam="token", loss="dapo", framework="torch", eps_low=0.2, eps_high=0.28)
def dapo_negated_twice(logps, old_logps, advantages, mask, eps_low=0.2, eps_high=0.28):
    """The token's loss has its minus, and so has the reduction (shape of fla-org/flash-linear-attention#1073)."""
    ratio = torch.exp(logps - old_logps)
    A = advantages.view(-1, 1)
    token_loss = -torch.minimum(ratio * A, torch.clamp(ratio, 1 - eps_low, 1 + eps_high) * A)
    return -(token_loss * mask).sum() / mask.sum().clamp(min=1)


@broken("mean-for-sum", "reduction", seam="token", loss="dr_grpo", framework="torch", eps=0.2, max_length=128.0)
def dr_grpo_per_token_and_length(logps, old_logps, advantages, mask, epsilon=0.2, max_length=128):
    """The mean over tokens is divided by the longest length once more; it should be the sum."""
    ratio = torch.exp((logps - old_logps).masked_fill(~mask, 0))
    gain = torch.min(ratio * advantages[:, None], ratio.clamp(1 - epsilon, 1 + epsilon) * advantages[:, None])
    per_response = (gain * mask).sum(-1) / mask.sum(-1).clamp(min=1)
    return -(per_response / max_length).mean()


# ---- pairs, without


class PairLoss(nn.Module):
    """A module that upcasts halves and returns losses and rewards."""

    def __init__(self, beta: float = 0.1):
        super().__init__()
        self.register_buffer("beta", torch.tensor(beta, dtype=torch.float64))

    def forward(self, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):
        dtype = torch.promote_types(policy_chosen_logps.dtype, torch.float32)
        beta = self.beta.item()
        rewards = [beta * (ours.to(dtype) - theirs.to(dtype)) for ours, theirs in (
            (policy_chosen_logps, reference_chosen_logps), (policy_rejected_logps, reference_rejected_logps))]
        return -F.logsigmoid(rewards[0] - rewards[1]), rewards[0].detach(), rewards[1].detach()


dpo_as_a_module = correct(framework="torch", dtypes=ALL, beta=0.1)(PairLoss())


class Conservative(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, eps):
        ctx.save_for_backward(z)
        ctx.eps = eps
        return (eps - 1) * F.logsigmoid(z) - eps * F.logsigmoid(-z)

    @staticmethod
    def backward(ctx, grad):
        (z,) = ctx.saved_tensors
        return grad * (ctx.eps * torch.sigmoid(z) - (1 - ctx.eps) * torch.sigmoid(-z)), None


@correct(loss="cdpo", framework="torch", dtypes=ALL, beta=0.1, eps=0.2)
def cdpo_with_its_own_backward(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                               reference_rejected_logps, beta=0.1, label_smoothing=0.2):
    """A custom `autograd.Function` of the margin; halves are upcast first."""
    dtype = torch.promote_types(policy_chosen_logps.dtype, torch.float32)
    pc, pr, rc, rr = (x.to(dtype) for x in (policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                                             reference_rejected_logps))
    return Conservative.apply(beta * ((pc - rc) - (pr - rr)), label_smoothing)


@correct(loss="ipo", framework="torch", tau=0.1)
def ipo_as_regression(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
                      tau=0.1):
    """`F.mse_loss` on a constant target; the mean over pairs."""
    h = (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)
    return F.mse_loss(h, torch.full_like(h, 1 / (2 * tau)))


@correct(loss="simpo", framework="torch", dtypes=("float64", "float32", "bfloat16"), beta=2.0, gamma=0.8)
def simpo_of_means_per_token(policy_chosen_logps, policy_rejected_logps, *, beta=2.0, gamma=0.8):
    """Given log-probs that are means already; `logaddexp` with 0."""
    dtype = torch.promote_types(policy_chosen_logps.dtype, torch.float32)
    short = gamma - beta * (policy_chosen_logps.to(dtype) - policy_rejected_logps.to(dtype))
    return torch.logaddexp(short, torch.zeros_like(short))


class LogOdds(torch.autograd.Function):
    """-log σ of the difference of log-odds, with limits where a probability is 1."""

    @staticmethod
    def forward(ctx, a, b):
        q_a, q_b = 0 - torch.expm1(a), 0 - torch.expm1(b)  # not -0
        ctx.save_for_backward(a, b, q_a, q_b)
        z = torch.where((q_a == 0) & (q_b == 0), a - b, (a - b) + (q_b.abs().log() - q_a.abs().log()))
        return -F.logsigmoid(z)

    @staticmethod
    def backward(ctx, grad):
        a, b, q_a, q_b = ctx.saved_tensors
        top = torch.maximum(a, b)
        p_a, p_b = torch.exp(a - top), torch.exp(b - top)
        joint = p_a * q_b + p_b * q_a
        share = torch.where(joint == 0, 0.5, p_b * q_a / joint)  # σ(-z)
        return -grad * p_b / joint, grad * share / q_b


@correct(loss="orpo", framework="torch", lam=0.1)
def orpo_with_its_own_backward(policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length, beta=0.1):
    """Odds by `expm1`, their gradient in closed form; a scalar."""
    mean_w, mean_l = policy_chosen_logps / chosen_length, policy_rejected_logps / rejected_length
    return (beta * LogOdds.apply(mean_w, mean_l) - mean_w).mean()


@correct(loss="cpo", framework="torch", dtypes=ALL, beta=0.1, alpha=0.3)
def cpo_under_a_dtype_guard(policy_chosen_logps, policy_rejected_logps, beta=0.1, cpo_alpha=0.3):
    """Upcasts where it must; losses and rewards."""
    if policy_chosen_logps.dtype in (torch.float16, torch.bfloat16):
        policy_chosen_logps, policy_rejected_logps = policy_chosen_logps.float(), policy_rejected_logps.float()
    losses = -F.logsigmoid(beta * (policy_chosen_logps - policy_rejected_logps)) - cpo_alpha * policy_chosen_logps
    return losses, (beta * policy_chosen_logps).detach(), (beta * policy_rejected_logps).detach()


@correct(loss="rpo", framework="torch", beta=0.1, alpha=0.5)
def rpo_with_softplus_that_knows_its_threshold(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                                               reference_rejected_logps, chosen_length, rejected_length, beta=0.1,
                                               rpo_alpha=0.5):
    """`F.softplus` whose linear part begins where doubles cannot tell."""
    z = beta * ((policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps))
    return F.softplus(-z, threshold=40) - rpo_alpha * policy_chosen_logps / chosen_length


@correct(loss="rdpo", framework="torch", beta=0.1, eps=0.1)
def robust_dpo_in_one_term(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                           reference_rejected_logps, beta=0.1, label_smoothing=0.1):
    """-log σ(z) - cz: another way to write the difference of two logarithms."""
    z = beta * ((policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps))
    return torch.sub(-F.logsigmoid(z), z, alpha=label_smoothing / (1 - 2 * label_smoothing))


@correct(loss="nca", framework="torch", dtypes=("float64", "float32", "bfloat16"), beta=0.1)
def nca_on_a_stack(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
                   beta=0.1):
    """Both responses in one tensor, which `einsum` weighs."""
    ours = torch.stack([policy_chosen_logps, policy_rejected_logps])
    dtype = torch.promote_types(ours.dtype, torch.float32)
    u = beta * (ours.to(dtype) - torch.stack([reference_chosen_logps, reference_rejected_logps]).to(dtype))
    share = torch.tensor([0.5, 0.5], dtype=dtype)
    return -F.logsigmoid(u[0]) - torch.einsum("rb,r->b", F.logsigmoid(-u), share)


@correct(loss="apo_zero", framework="torch", beta=0.1, plus_one=True)
def apo_zero_by_log_sigmoid(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                            reference_rejected_logps, beta=0.1):
    """1 - σ as exp(log σ(-x)), which keeps value and slope at both ends."""
    losing = F.logsigmoid(-beta * (policy_chosen_logps - reference_chosen_logps))
    winning = F.logsigmoid(beta * (policy_rejected_logps - reference_rejected_logps))
    return losing.exp() + winning.exp()


@correct(loss="dpop", framework="torch", beta=0.1, lam=2.0)
def dpop_with_relu(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
                   beta=0.1, lam=2.0):
    """The penalty by `relu`, inside."""
    a, b = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    return -F.logsigmoid(beta * (a - b - lam * F.relu(-a)))


# ---- sequences, without


@correct(seam="sequence", loss="logp", framework="torch", dtypes=("float64", "float32", "bfloat16"))
def logp_by_cross_entropy(logits, labels):
    """`F.cross_entropy` over the flattened batch with its own ignore index."""
    if logits.dtype != torch.float64:
        logits = logits.float()
    flat = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="none")
    return -flat.view(len(labels), -1).sum(-1)


@correct(seam="sequence", loss="logp", framework="torch")
def logp_of_rolled_tokens(logits, tokens, mask):
    """Tokens and mask are rolled to the left; what comes round is the first position, which never counts."""
    target, counted = tokens.roll(-1, dims=1), mask.roll(-1, dims=1)
    top = logits.detach().amax(-1)
    norm = top + (logits - top[..., None]).exp().sum(-1).log()
    picked = logits.gather(-1, target[..., None]).squeeze(-1) - norm
    return picked.masked_fill(~counted, 0).sum(-1)


def _reduce(total, count, per_token):
    return total / count.clamp(min=1) if per_token else total


def _by_nll_loss(logits, tokens, mask, per_token):
    """`F.nll_loss` on labels made of the mask, per token by `partial`."""
    target = tokens.masked_fill(~mask, -100)[:, 1:]
    nll = F.nll_loss(F.log_softmax(logits[:, :-1], dim=-1).mT, target, reduction="none")
    return _reduce(nll.neg().sum(-1), mask.sum(-1), per_token)


mean_logp_by_partial = correct(seam="sequence", loss="mean_logp", framework="torch")(
    partial(_by_nll_loss, per_token=True))


# ---- batches, without


@correct(seam="batch", loss="dpo", framework="torch", options={"layout": "halves"}, beta=0.1)
def dpo_batch_of_so_many_pairs(logits, reference_logits, tokens, mask, beta=0.1, num_items_in_batch=None):
    """The number of pairs of the whole batch divides, where it is told."""
    ids, counted = tokens[:, 1:, None], mask[:, 1:]

    def logp(x):
        return torch.where(counted, x[:, :-1].log_softmax(-1).gather(-1, ids)[..., 0], 0.0).sum(-1)

    with torch.no_grad():
        theirs = logp(reference_logits)
    chosen, rejected = (logp(logits) - theirs).view(2, -1)
    losses = -F.logsigmoid(beta * (chosen - rejected))
    return losses.sum() / (losses.numel() if num_items_in_batch is None else num_items_in_batch)


@correct(seam="batch", loss="sft", framework="torch", options={"layout": "halves"}, reduction="tokens")
def sft_batch_of_so_many_tokens(logits, labels, num_items_in_batch=None):
    """The chosen's cross-entropy, summed, over the tokens of the whole batch."""
    half = labels.shape[0] // 2
    target = labels[:half, 1:].reshape(-1)
    total = F.cross_entropy(logits[:half, :-1].reshape(len(target), -1), target, reduction="sum")
    return total / (num_items_in_batch or (target != -100).sum().clamp(min=1))


@correct(seam="batch", loss="ln_dpo", framework="torch", options={"layout": "interleaved"}, beta=2.0)
def ln_dpo_batch_in_turn(logits, reference_logits, tokens, mask, beta=2.0):
    """Rows viewed as pairs; a pair's sign by `diff`."""
    counted = mask[:, 1:]
    both = torch.stack([logits, reference_logits.detach()])[:, :, :-1].log_softmax(-1)
    at = tokens[None, :, 1:, None].expand(2, -1, -1, 1)
    each = both.gather(-1, at).squeeze(-1).masked_fill(~counted, 0).sum(-1) / counted.sum(-1).clamp(min=1)
    ratio = (each[0] - each[1]).unflatten(0, (-1, 2))
    return -F.logsigmoid(-beta * ratio.diff(dim=1)).mean()


# ---- single responses, without


@correct(seam="unpaired", loss="kto", framework="torch", beta=0.1, lam_d=1.5, lam_u=1.0)
def kto_with_three_kinds_of_rows(policy_chosen_logps, policy_rejected_logps, policy_KL_logps, reference_chosen_logps,
                                 reference_rejected_logps, reference_KL_logps, beta=0.1, desirable_weight=1.5,
                                 undesirable_weight=1.0):
    """Chosen, rejected and mismatched rows apart; 1 - σ as exp(log σ)."""
    kl = (policy_KL_logps - reference_KL_logps).mean().clamp(min=0).detach()
    lost = torch.exp(F.logsigmoid(beta * (kl - (policy_chosen_logps - reference_chosen_logps))))
    kept = torch.exp(F.logsigmoid(beta * ((policy_rejected_logps - reference_rejected_logps) - kl)))
    return torch.cat((desirable_weight * lost, undesirable_weight * kept))


@correct(seam="unpaired", loss="bco_unpaired", framework="torch", beta=0.2)
def bco_by_sign(policy_logps, reference_logps, labels, delta=0.0, beta=0.2):
    """One log-sigmoid with a sign; the mean over all."""
    z = beta * (policy_logps - reference_logps) - delta
    return -F.logsigmoid(torch.where(labels, z, -z)).mean()


# ---- tokens, without


@correct(seam="token", loss="k3", framework="torch")
def k3_by_taylor(logps, ref_logps):
    """The exponential series where |x| < 1, `expm1` beyond; each branch is given only what it can bear."""
    x = ref_logps - logps
    near = x.abs() < 1
    small = torch.where(near, x, 0.0)
    tail = torch.zeros_like(small)
    for k in range(20, 2, -1):
        tail = (1 + tail) * small / k
    far = torch.where(near, 1.0, x)
    return torch.where(near, small * small / 2 * (1 + tail), torch.expm1(far) - far)


@correct(seam="token", loss="dapo", framework="torch", eps_low=0.2, eps_high=0.28)
def dapo_clipped_in_the_exponent(logps, old_logps, advantages, mask, eps_low=0.2, eps_high=0.28):
    """The log-ratio is clamped on the side that counts, then exponentiated."""
    d = torch.where(mask, logps - old_logps, 0.0)
    A = advantages[:, None]
    d = torch.where(A >= 0, d.clamp(max=math.log1p(eps_high)), d.clamp(min=math.log1p(-eps_low)))
    return -torch.where(mask, d.exp() * A, 0.0).sum() / mask.sum().clamp(min=1)


@correct(seam="token", loss="gspo", framework="torch", eps_low=0.1, eps_high=0.2)
def gspo_response_by_response(logps, old_logps, advantages, mask, eps_low=0.1, eps_high=0.2):
    """A loop over responses; a ratio that is clipped is a constant."""
    gains = []
    for ours, theirs, A, counted in zip(logps, old_logps, advantages, mask, strict=True):
        nothing = ours[:0].sum()
        if not counted.any():
            gains.append(nothing)
            continue
        s = (ours[counted] - theirs[counted]).mean()
        bound = math.log1p(eps_high) if A >= 0 else math.log1p(-eps_low)
        stopped = s >= bound if A >= 0 else s <= bound
        gains.append(A * (nothing + math.exp(bound) if stopped else s.exp()))
    return -torch.stack(gains).mean()


@correct(seam="token", loss="cispo", framework="torch", eps_low=1.0, eps_high=0.28)
def cispo_with_detached_weights(logps, old_logps, advantages, mask, eps_high=0.28):
    """min(ρ, 1 + ε) by the exponent, detached; the mean over all tokens."""
    cap = math.log1p(eps_high)
    weight = torch.where(mask, logps.detach() - old_logps, 0.0).clamp(max=cap).exp()
    each = torch.where(mask, weight * advantages[:, None] * logps, 0.0)
    return each.sum() / -mask.sum().clamp(min=1)


@correct(seam="token", loss="rloo", framework="torch")
def rloo_by_a_matrix_of_others(rewards):
    """Each less the mean of the rest, as products with the differences of all pairs."""
    apart = rewards[:, :, None] - rewards[:, None, :]
    return apart.sum(-1) / (rewards.shape[1] - 1)


reinforce_as_a_lambda = correct(seam="token", loss="reinforce", framework="torch")(
    lambda logps, old_logps, advantages, mask: torch.einsum(
        "bt,b->", torch.where(mask, logps, 0.0), -advantages) / len(advantages))
