"""Losses in NumPy, written as people write them; with one mistake each, or with none."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from zoo import broken, correct

# ---- pairs, with a mistake


@broken("hyper-misread", loss="ipo", tau=0.2)
def ipo_whose_target_is_half_tau(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                                 reference_rejected_logps, tau=0.2):
    """The margin is regressed on τ/2 where it should be 1/(2τ)."""
    chosen = policy_chosen_logps - reference_chosen_logps
    rejected = policy_rejected_logps - reference_rejected_logps
    off = chosen - rejected - tau / 2
    return np.square(off), 2 * off, -2 * off


@broken("sign-flipped", "hyper-misread", loss="simpo", beta=2.0, gamma=0.6)
def simpo_that_adds_its_margin(policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length,
                               beta=2.0, gamma=0.6):
    """γ makes the pair easier: it is added to the margin and not taken off."""
    gap = policy_chosen_logps / chosen_length - policy_rejected_logps / rejected_length
    logits = beta * gap + gamma
    push = beta * np.exp(-np.logaddexp(0, logits))
    return np.logaddexp(0, -logits), -push / chosen_length, push / rejected_length


@broken("factor", loss="rdpo", beta=0.1, eps=0.2)
def robust_dpo_not_divided(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                           reference_rejected_logps, beta=0.1, label_smoothing=0.2):
    """The unbiased estimate lacks its division by 1 - 2ε."""
    z = beta * ((policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps))
    clean, flipped = np.logaddexp(0, -z), np.logaddexp(0, z)
    losses = (1 - label_smoothing) * clean - label_smoothing * flipped
    slope = -beta * ((1 - label_smoothing) * np.exp(-flipped) + label_smoothing * np.exp(-clean))
    return losses, slope, -slope


@broken("sign-flipped", "clip-side", loss="dpop", beta=0.1, lam=5.0)
def dpop_that_punishes_the_rise(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                                reference_rejected_logps, beta=0.1, lam=5.0):
    """The penalty falls on chosen responses above the reference (the sign that abacusai/smaug#2 first had)."""
    chosen_ratio = policy_chosen_logps - reference_chosen_logps
    rejected_ratio = policy_rejected_logps - reference_rejected_logps
    penalty = np.maximum(chosen_ratio, 0)
    z = beta * (chosen_ratio - rejected_ratio - lam * penalty)
    pull = beta * np.exp(-np.logaddexp(0, z))
    return np.logaddexp(0, -z), -pull * (1 - lam * (chosen_ratio > 0)), pull


@broken("wrong-gradient", loss="nca", beta=0.1)
def nca_with_a_forgotten_slope(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                               reference_rejected_logps, beta=0.1):
    """The value is right; the chosen's gradient is that of -log σ(βa) alone, without the half that pulls it back."""
    x = beta * (policy_chosen_logps - reference_chosen_logps)
    y = beta * (policy_rejected_logps - reference_rejected_logps)
    losses = np.logaddexp(0, -x) + np.logaddexp(0, x) / 2 + np.logaddexp(0, y) / 2
    return losses, -beta * np.exp(-np.logaddexp(0, x)), beta / 2 * np.exp(-np.logaddexp(0, -y))


@broken("another-loss", loss="exo", beta=0.5, eps=0.01)
def exo_with_the_kl_the_other_way(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                                  reference_rejected_logps, beta=0.5, label_smoothing=0.01):
    """KL(labels || model) where the loss is KL(model || labels)."""
    a = beta * (policy_chosen_logps - reference_chosen_logps)
    b = beta * (policy_rejected_logps - reference_rejected_logps)
    log_model = np.stack([-np.logaddexp(0, b - a), -np.logaddexp(0, a - b)])
    labels = np.array([[1 - label_smoothing], [label_smoothing]], dtype=log_model.dtype)
    return (labels * (np.log(labels) - log_model)).sum(axis=0)


@broken("hyper-misread", loss="discopop", beta=0.5, tau=0.25)
def discopop_times_its_temperature(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                                   reference_rejected_logps, beta=0.5, tau=0.25):
    """The margin is multiplied by τ, by which it should be divided, in the modulation."""
    x = beta * ((policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps))
    log_m, log_rest = -np.logaddexp(0, -x * tau), -np.logaddexp(0, x * tau)
    return np.exp(log_rest) * np.logaddexp(0, -x) + np.exp(log_m - x)


@broken("wrong-gradient", loss="hinge", beta=0.2)
def hinge_that_never_stops_pushing(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                                   reference_rejected_logps, beta=0.2):
    """The gradient is -β everywhere, beyond the hinge too."""
    margin = policy_chosen_logps - reference_chosen_logps - policy_rejected_logps + reference_rejected_logps
    losses = np.maximum(1 - beta * margin, 0)
    up = np.full_like(losses, -beta)
    return losses, up, -up


@broken("epsilon-in-log", "log-1-minus-exp", loss="orpo", lam=0.5)
def orpo_with_probabilities_clipped(policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length,
                                    lam=0.5):
    """1 - p comes from a probability cut at 1 - 1e-6, so that near-certain tokens have even odds."""
    mean_chosen, mean_rejected = policy_chosen_logps / chosen_length, policy_rejected_logps / rejected_length

    def log_odds(mean):
        return mean - np.log1p(-np.clip(np.exp(mean), None, 1 - 1e-6))

    ratio = log_odds(mean_chosen) - log_odds(mean_rejected)
    return -mean_chosen + lam * np.logaddexp(0, -ratio)


@broken("another-loss", loss="aot", beta=0.1, eps=0.0)
def aot_that_sorts_the_responses(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                                 reference_rejected_logps, beta=0.1):
    """Sorts the log-ratios of chosen and of rejected: the unpaired one, which a trainer's `aot_pair` used to be."""
    chosen = np.sort(policy_chosen_logps - reference_chosen_logps)
    rejected = np.sort(policy_rejected_logps - reference_rejected_logps)
    return np.logaddexp(0, -beta * (chosen - rejected)).mean()


@broken("exp-overflow", loss="alphapo", beta=2.5, gamma=0.1, alpha=0.25)
def alphapo_by_way_of_probabilities(policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length,
                                    beta=2.5, gamma=0.1, alpha=0.25):
    """Forms p first: where it underflows, its power is infinite though that of the log-prob is not."""
    with np.errstate(all="ignore"):
        p_chosen = np.exp(policy_chosen_logps / chosen_length, dtype=policy_chosen_logps.dtype)
        p_rejected = np.exp(policy_rejected_logps / rejected_length, dtype=policy_rejected_logps.dtype)
        reward_chosen = (1 - np.power(p_chosen, -alpha)) / alpha
        reward_rejected = (1 - np.power(p_rejected, -alpha)) / alpha
        return np.logaddexp(0, gamma - beta * (reward_chosen - reward_rejected))


@broken("swapped", "reduction", loss="rpo", beta=0.1, alpha=1.0)
def rpo_per_token_of_the_rejected(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                                  reference_rejected_logps, chosen_length, rejected_length, beta=0.1, alpha=1.0):
    """The chosen's likelihood is divided by the rejected's length, a slip of the pen."""
    z = beta * (policy_chosen_logps - reference_chosen_logps - policy_rejected_logps + reference_rejected_logps)
    nll = -policy_chosen_logps / rejected_length
    wrong = beta * np.exp(-np.logaddexp(0, z))
    return np.logaddexp(0, -z) + alpha * nll, -wrong - alpha / rejected_length, wrong


@broken("sum-for-mean", "another-loss", loss="ipo", tau=0.5, reduction="mean")
def ipo_told_lengths_it_does_not_use(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                                     reference_rejected_logps, chosen_length, rejected_length, beta=0.5):
    """Asked for the mean per token, it takes the sums (shape of huggingface/trl#1265)."""
    h = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
    return (h - 1 / (2 * beta)) ** 2


@broken("sign-flipped", "hyper-misread", loss="r_dpo", beta=0.1, alpha=0.05)
def r_dpo_that_rewards_length(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                              reference_rejected_logps, chosen_length, rejected_length, beta=0.1, alpha=0.05):
    """The length term has the sign of a survey's formula, whose optimum makes responses longer."""
    z = beta * (policy_chosen_logps - reference_chosen_logps - policy_rejected_logps + reference_rejected_logps)
    z = z - alpha * (chosen_length - rejected_length)
    g = beta * np.exp(-np.logaddexp(0, z))
    return np.logaddexp(0, -z), -g, g


@broken("another-loss", "hyper-misread", loss="f_dpo_alpha", beta=0.1, alpha=0.2)
def f_dpo_of_the_other_order(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                             reference_rejected_logps, beta=0.1, alpha=0.2):
    """α is taken for the order of the divergence, u^(α-1), where the paper's f' has u^-α."""
    a = policy_chosen_logps - reference_chosen_logps
    b = policy_rejected_logps - reference_rejected_logps
    score = [np.expm1((alpha - 1) * x) / (alpha - 1) for x in (a, b)]
    return np.logaddexp(0, -beta * (score[0] - score[1]))


@broken("constant", loss="sppo", beta=0.5)
def sppo_expanded(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
                  beta=0.5):
    """The squares multiplied out, without the one that no parameter is in."""
    a, b = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    target = 0.5 / beta
    return a * (a - 2 * target) + b * (b + 2 * target), 2 * (a - target), 2 * (b + target)


# ---- sequences, with a mistake


@broken("downcast", seam="sequence", loss="logp", dtypes=("float64",))
def logp_upcast_to_single(logits, tokens, mask):
    """`astype(float32)`, meant for half precision, takes digits from doubles."""
    x = logits[:, :-1].astype(np.float32)
    x = x - x.max(-1, keepdims=True)
    x -= np.log(np.exp(x).sum(-1, keepdims=True))
    picked = np.take_along_axis(x, tokens[:, 1:, None], -1).squeeze(-1)
    return np.where(mask[:, 1:], picked, 0).sum(-1)


@broken("mutates-inputs", seam="sequence", loss="logp")
def logp_that_fills_the_callers_labels(logits, labels):
    """Writes 0 over the caller's -100, so that a second call counts the prompt as token 0."""
    shifted = labels[:, 1:]
    counted = shifted != -100
    shifted[~counted] = 0
    x = logits[:, :-1]
    top = x.max(-1)
    norm = top + np.log(np.exp(x - top[..., None]).sum(-1))
    rows, columns = np.indices(shifted.shape)
    return ((x[rows, columns, shifted] - norm) * counted).sum(-1)


@broken("token-0-dropped", seam="sequence", loss="logp")
def logp_with_zero_as_nothing(logits, labels):
    """-100 becomes 0 and then all zeros are left out, a token of its own among them."""
    target = np.maximum(labels, 0)[:, 1:]
    shifted = logits[:, :-1] - logits[:, :-1].max(axis=2, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))
    picked = np.take_along_axis(log_probs, target[:, :, None], axis=2)[:, :, 0]
    return (picked * (target > 0)).sum(axis=1)


@broken("exp-overflow", seam="sequence", loss="mean_logp")
def mean_logp_of_a_plain_softmax(logits, tokens, mask):
    """exp of the logits as they come: infinite from 89 on in float32, from 710 on in float64."""
    with np.errstate(all="ignore"):
        e = np.exp(logits[:, :-1])
        p = np.take_along_axis(e, tokens[:, 1:, None], axis=-1)[..., 0] / e.sum(-1)
        lp = np.where(mask[:, 1:], np.log(p), 0)
    return lp.sum(1) / np.maximum(mask[:, 1:].sum(1), 1)


@broken("batch-coupled", "reduction", seam="sequence", loss="mean_logp")
def mean_logp_per_average_length(logits, tokens, mask):
    """Each row is divided by the mean length of the batch."""
    z = logits - logits.max(-1, keepdims=True)
    logp = z - np.log(np.exp(z).sum(-1, keepdims=True))
    total = np.zeros(len(logits), logits.dtype)
    for row, (ids, counted) in enumerate(zip(tokens, mask, strict=True)):
        for t in np.flatnonzero(counted):
            total[row] += logp[row, t - 1, ids[t]]
    return total / max(mask.sum() / len(mask), 1)


@broken("last-token-dropped", "eos-masked", seam="sequence", loss="logp")
def logp_by_slices_one_short(logits, tokens, mask):
    """From the first response token to the last, which the end of the slice leaves out."""
    out = []
    for x, ids, counted in zip(logits, tokens, mask, strict=True):
        where = np.flatnonzero(counted)
        if len(where) == 0:
            out.append(0.0)
            continue
        span = where[:-1]
        rows = x[span - 1]
        top = rows.max(-1, keepdims=True)
        norm = top[:, 0] + np.log(np.exp(rows - top).sum(-1))
        out.append((rows[np.arange(len(span)), ids[span]] - norm).sum())
    return np.array(out, logits.dtype)


# ---- batches, with a mistake


@broken("layout", seam="batch", loss="dpo", options={"layout": "interleaved"}, beta=0.1)
def dpo_batch_cut_in_the_middle(logits, reference_logits, tokens, mask, beta=0.1):
    """Rows are chosen and rejected in turn; the first half is taken for chosen."""
    def score(x):
        x = x[:, :-1] - x[:, :-1].max(-1, keepdims=True)
        x = x - np.log(np.exp(x).sum(-1, keepdims=True))
        return (np.take_along_axis(x, tokens[:, 1:, None], -1)[..., 0] * mask[:, 1:]).sum(-1)

    ratio = score(logits) - score(reference_logits)
    chosen, rejected = np.split(ratio, 2)
    return np.logaddexp(0, -beta * (chosen - rejected)).mean()


@broken("wrong-gradient", seam="batch", loss="cpo", options={"layout": "halves"}, beta=0.2, alpha=0.5)
def cpo_batch_with_the_gradient_of_the_sum(logits, tokens, mask, beta=0.2, alpha=0.5):
    """The value is the mean over pairs, the gradient that of their sum."""
    x, ids, here = logits[:, :-1], tokens[:, 1:], mask[:, 1:]
    x = x - x.max(-1, keepdims=True)
    x = x - np.log(np.exp(x).sum(-1, keepdims=True))
    logp, p = np.take_along_axis(x, ids[..., None], -1)[..., 0], np.exp(x)
    total = (logp * here).sum(-1)
    B = len(total) // 2
    z = beta * (total[:B] - total[B:])
    value = (np.logaddexp(0, -z) - alpha * total[:B]).mean()
    push = beta * np.exp(-np.logaddexp(0, z))
    up = np.concatenate([-push - alpha, push])
    slope = (np.eye(x.shape[-1], dtype=x.dtype)[ids] - p) * (here * up[:, None])[..., None]
    return value, np.concatenate([slope, np.zeros_like(logits[:, :1])], axis=1)


@broken("accumulation-normaliser", seam="batch", loss="sft", options={"layout": "halves"}, reduction="tokens")
def sft_batch_of_its_own_tokens(logits, tokens, mask, num_items_in_batch=None):
    """Told how many tokens the whole batch has, it divides by those of the micro-batch."""
    half = len(tokens) // 2
    x, ids, counted = logits[:half, :-1], tokens[:half, 1:], mask[:half, 1:]
    top = x.max(-1, keepdims=True)
    logp = np.take_along_axis(x - top, ids[..., None], -1)[..., 0] - np.log(np.exp(x - top).sum(-1))
    return -logp[counted].sum() / max(counted.sum(), 1)


# ---- single responses, with a mistake


@broken("clamp-order", seam="unpaired", loss="kto", beta=0.1, lam_d=1.0, lam_u=1.0)
def kto_with_a_baseline_cut_row_by_row(policy_logps, reference_logps, labels, policy_KL_logps, reference_KL_logps,
                                       beta=0.1):
    """Log-ratios below 0 are cut before they are averaged, which makes the baseline too high."""
    z0 = np.maximum(policy_KL_logps - reference_KL_logps, 0).mean()
    sign = np.where(labels, 1, -1).astype(policy_logps.dtype)
    z = beta * sign * (policy_logps - reference_logps - z0)
    return np.exp(-np.logaddexp(0, z)), -beta * sign * np.exp(-np.logaddexp(0, z) - np.logaddexp(0, -z))


@broken("swapped", "hyper-misread", seam="unpaired", loss="kto", beta=0.1, lam_d=1.0, lam_u=2.0)
def kto_with_its_weights_exchanged(policy_logps, reference_logps, labels, kl, beta=0.1, desirable_weight=1.0,
                                   undesirable_weight=2.0):
    """Desired responses carry the weight of the undesired."""
    ratio = policy_logps - reference_logps - kl
    weight = np.where(labels, undesirable_weight, desirable_weight).astype(ratio.dtype)
    return weight * np.exp(-np.logaddexp(0, np.where(labels, beta, -beta).astype(ratio.dtype) * ratio))


@broken("hyper-misread", seam="unpaired", loss="bco_unpaired", beta=0.2)
def bco_with_beta_around_its_shift(policy_logps, reference_logps, labels, delta, beta=0.2):
    """δ is a reward already, and is multiplied by β once more."""
    z = beta * (policy_logps - reference_logps - delta)
    z = np.where(labels, z, -z)
    return np.logaddexp(0, -z)


# ---- tokens, with a mistake


@broken("clip-side", seam="token", loss="ppo_clip", eps=0.2)
def ppo_with_the_ratio_clipped_alone(logps, old_logps, advantages, mask, eps=0.2):
    """clip(ρ)A without the minimum: a ratio that went the wrong way is never brought back."""
    ratio = np.exp(np.where(mask, logps - old_logps, 0))
    inside = (ratio > 1 - eps) & (ratio < 1 + eps)
    count = max(mask.sum(), 1)
    loss = -(np.clip(ratio, 1 - eps, 1 + eps) * advantages[:, None] * mask).sum() / count
    return loss, -np.where(inside & mask, ratio * advantages[:, None], 0) / count


@broken("factor", seam="token", loss="k2")
def k2_without_its_half(logps, ref_logps):
    """The square of the log-ratio; k2 is half of it."""
    return np.square(logps - ref_logps)


@broken("ddof", seam="token", loss="group_advantage", ddof=1, eps=1e-4)
def group_advantage_by_np_std(rewards, eps=1e-4):
    """`np.std` divides by n where the trainer it was ported from divides by n - 1."""
    centered = rewards - rewards.mean(axis=1, keepdims=True)
    return centered / (rewards.std(axis=1, keepdims=True) + eps)


@broken("factor", "another-loss", seam="token", loss="rloo")
def rloo_that_leaves_nobody_out(rewards):
    """The baseline is the mean of the group, the response's own reward in it."""
    return rewards - rewards.mean(axis=-1, keepdims=True)


@broken("hyper-misread", "hyper-ignored", seam="token", loss="gae", gamma=0.9, lam=0.8)
def gae_whose_next_value_is_not_discounted(rewards, values, gamma=0.9, lam=0.8):
    """γ is in the trace and missing from the temporal difference."""
    steps = rewards.shape[1]
    out, trace = np.zeros_like(rewards), np.zeros_like(rewards[:, 0])
    for t in range(steps - 1, -1, -1):
        ahead = values[:, t + 1] if t + 1 < steps else 0
        trace = rewards[:, t] + ahead - values[:, t] + gamma * lam * trace
        out[:, t] = trace
    return out


@broken("length-with-padding", "hyper-ignored", seam="token", loss="dr_grpo", eps=0.2, max_length=64.0)
def dr_grpo_over_the_padded_width(logps, old_logps, advantages, mask, eps=0.2, max_length=64):
    """Divides by the width of this batch and not by the longest response allowed."""
    ratio = np.exp(np.where(mask, logps - old_logps, 0))
    A = advantages[:, None]
    surrogate = np.minimum(ratio * A, np.clip(ratio, 1 - eps, 1 + eps) * A)
    return -np.where(mask, surrogate, 0).sum() / mask.size


@broken("sum-for-mean", seam="token", loss="gspo", eps_low=3e-4, eps_high=4e-4)
def gspo_with_the_ratio_of_whole_responses(logps, old_logps, advantages, mask, eps_low=3e-4, eps_high=4e-4):
    """exp of the sum of log-ratios: the root over the length is missing."""
    ratio = np.exp(np.where(mask, logps - old_logps, 0).sum(axis=1))
    kept = np.minimum(ratio * advantages, np.clip(ratio, 1 - eps_low, 1 + eps_high) * advantages)
    return -np.where(mask.any(axis=1), kept, 0).mean()


# ---- pairs, without


def _factory(beta):
    @correct(loss="dpo", beta=beta)
    def dpo_from_a_factory(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                           reference_rejected_logps):
        """A closure over β, values only."""
        theirs = reference_chosen_logps - reference_rejected_logps
        return np.logaddexp(0, beta * (theirs - (policy_chosen_logps - policy_rejected_logps)))

    return dpo_from_a_factory


dpo_from_a_factory = _factory(0.3)


def _any_simpo(policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length, *, beta, gamma):
    """A general function whose arguments are keyword-only, settled by `functools.partial`."""
    up, down = policy_chosen_logps / chosen_length, policy_rejected_logps / rejected_length
    short = gamma - beta * (up - down)
    push = beta * np.exp(-np.logaddexp(0, -short))
    return np.logaddexp(0, short), -push / chosen_length, push / rejected_length


simpo_by_partial = correct(loss="simpo", beta=2.5, gamma=1.4)(partial(_any_simpo, beta=2.5, gamma=1.4))


@dataclass
class Smoothed:
    """An object that is called: two loops over signs and shares."""

    beta: float = 0.1
    label_smoothing: float = 0.15

    def __call__(self, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):
        z = self.beta * ((policy_chosen_logps - reference_chosen_logps)
                         - (policy_rejected_logps - reference_rejected_logps))
        losses, slope = np.zeros_like(z), np.zeros_like(z)
        for sign, share in ((1, 1 - self.label_smoothing), (-1, self.label_smoothing)):
            losses += share * np.logaddexp(0, -sign * z)
            slope -= sign * share * self.beta * np.exp(-np.logaddexp(0, sign * z))
        return losses, slope, -slope


cdpo_as_a_dataclass = correct(loss="cdpo", beta=0.1, eps=0.15)(Smoothed())


@correct(loss="ipo", tau=0.1, reduction="mean")
def ipo_per_token_with_keywords_only(*, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                                     reference_rejected_logps, chosen_length, rejected_length, tau=0.1):
    """Keyword-only; the mean over pairs, whose gradient is divided by B."""
    h = ((policy_chosen_logps - reference_chosen_logps) / chosen_length
         - (policy_rejected_logps - reference_rejected_logps) / rejected_length)
    error = h - 0.5 / tau
    step = 2 * error / error.size
    return np.mean(error * error), step / chosen_length, -step / rejected_length


@correct(loss="hinge", beta=0.5)
def hinge_by_boolean_index(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                           reference_rejected_logps, beta=0.5):
    """Rows short of the margin are picked by a mask."""
    reached = beta * ((policy_chosen_logps - reference_chosen_logps)
                      - (policy_rejected_logps - reference_rejected_logps))
    losses, up = np.zeros_like(reached), np.zeros_like(reached)
    short = ~(reached >= 1)
    losses[short] = 1 - reached[short]
    up[short] = -beta
    return losses, up, -up


@correct(loss="sppo", beta=0.01)
def sppo_by_einsum(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
                   beta=0.01):
    """Both responses stacked, their squares summed by `einsum`."""
    ratio = np.stack([policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps])
    off = ratio - np.array([[0.5 / beta], [-0.5 / beta]], dtype=ratio.dtype)
    return np.einsum("rb,rb->b", off, off), 2 * off[0], 2 * off[1]


@correct(loss="orpo", lam=0.25)
def orpo_in_terms_of_what_is_left(policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length,
                                  lam=0.25):
    """1 - p by `expm1`; the gradients in a form without a difference or a division by 1 - p of the chosen."""
    a, b = policy_chosen_logps / chosen_length, policy_rejected_logps / rejected_length
    top = np.maximum(a, b)
    p_w, p_l, q_w, q_l = np.exp(a - top), np.exp(b - top), 0 - np.expm1(a), 0 - np.expm1(b)
    even = (q_w == 0) & (q_l == 0)
    q_w, q_l = np.where(even, 1, q_w), np.where(even, 1, q_l)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        value = np.logaddexp(0, (b - a) + (np.log(q_w) - np.log(q_l)))
        joint = p_w * q_l + p_l * q_w
        up = np.where(even, np.inf, p_l / joint)
        down = np.where(even, np.inf, p_l * (q_w / joint) / q_l)
    return lam * value - a, -(lam * up + 1) / chosen_length, lam * down / rejected_length


@correct(loss="aot", beta=0.1, eps=0.0)
def aot_by_argsort(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
                   beta=0.1):
    """Values and slopes are carried back to the rows that they came from."""
    ours, theirs = policy_chosen_logps - policy_rejected_logps, reference_chosen_logps - reference_rejected_logps
    order = np.argsort(ours, kind="stable")
    z = np.empty_like(ours)
    z[order] = beta * (ours[order] - np.sort(theirs))
    push = beta * np.exp(-np.logaddexp(0, z))
    return np.logaddexp(0, -z), -push, push


@correct(loss="slic", delta=1.0, lam=0.1)
def slic_row_by_row(policy_chosen_logps, policy_rejected_logps, delta=1.0, lam=0.1):
    """A loop over Python's own comparisons."""
    rows = []
    for chosen, rejected in zip(policy_chosen_logps, policy_rejected_logps, strict=True):
        gap = delta - (chosen - rejected)
        rows.append((0 * gap if gap <= 0 else gap) - lam * chosen)
    return np.array(rows, policy_chosen_logps.dtype)


# ---- sequences, without


@correct(seam="sequence", loss="logp")
def logp_by_one_hot(logits, tokens, mask):
    """Comparison with the vocabulary, and the gradient of the sum."""
    x = logits[:, :-1] - logits[:, :-1].max(axis=-1, keepdims=True)
    e = np.exp(x)
    norm = e.sum(axis=-1, keepdims=True)
    hot = tokens[:, 1:, None] == np.arange(logits.shape[-1])
    counted = mask[:, 1:, None]
    logp = np.where(hot & counted, x - np.log(norm), 0).sum(axis=(1, 2))
    grad = np.zeros_like(logits)
    grad[:, :-1] = np.where(counted, hot - e / norm, 0)
    return logp, grad


@correct(seam="sequence", loss="mean_logp")
def mean_logp_from_labels_row_by_row(logits, labels):
    """Each row by itself with `logaddexp.reduce`; a row without labels has mean 0."""
    means = np.zeros(len(labels), logits.dtype)
    for row, (x, y) in enumerate(zip(logits[:, :-1], labels[:, 1:], strict=True)):
        keep = y >= 0
        if keep.any():
            scores = x[keep]
            means[row] = np.mean(scores[np.arange(len(scores)), y[keep]] - np.logaddexp.reduce(scores, axis=1))
    return means


@correct(seam="sequence", loss="logp")
def logp_by_flat_indices(logits, tokens, mask):
    """Only what counts is looked at; `bincount` adds up the rows."""
    row, t = np.nonzero(mask)
    x = logits[row, t - 1].astype(np.float64)
    top = x.max(axis=1, keepdims=True)
    each = x[np.arange(len(row)), tokens[row, t]] - top[:, 0] - np.log(np.exp(x - top).sum(axis=1))
    return np.bincount(row, weights=each, minlength=len(tokens)).astype(logits.dtype)


# ---- batches, without


@correct(seam="batch", loss="dpo", options={"layout": "interleaved"}, beta=0.1)
def dpo_batch_in_turn(logits, reference_logits, tokens, mask, beta=0.1, gradient_accumulation_steps=1):
    """Even rows chosen, odd rows rejected; value and gradient."""
    ids, here = tokens[:, 1:], mask[:, 1:]

    def forward(x):
        x = x[:, :-1] - x[:, :-1].max(-1, keepdims=True)
        x = x - np.log(np.exp(x).sum(-1, keepdims=True))
        return np.where(here, np.take_along_axis(x, ids[..., None], -1)[..., 0], 0).sum(-1), np.exp(x)

    (ours, p), (theirs, _) = forward(logits), forward(reference_logits)
    ratio = (ours - theirs).reshape(-1, 2)
    z = beta * (ratio[:, 0] - ratio[:, 1])
    scale = 1 / (len(z) * gradient_accumulation_steps)
    wrong = beta * scale * np.exp(-np.logaddexp(0, z))
    drow = np.stack([-wrong, wrong], axis=1).reshape(-1)
    grad = np.zeros_like(logits)
    grad[:, :-1] = np.where(here, drow[:, None], 0)[..., None] * ((ids[..., None] == np.arange(p.shape[-1])) - p)
    return np.logaddexp(0, -z).sum() * scale, grad


@correct(seam="batch", loss="simpo", options={"layout": "halves"}, beta=2.0, gamma=1.0)
def simpo_batch_from_labels(logits, labels, beta=2.0, gamma=1.0, num_items_in_batch=None):
    """Labels with -100, the number of pairs told where batches are split."""
    y = labels[:, 1:]
    counted = y != -100
    x = logits[:, :-1]
    top = x.max(-1, keepdims=True)
    norm = top[..., 0] + np.log(np.exp(x - top).sum(-1))
    each = np.take_along_axis(x, np.where(counted, y, 0)[..., None], -1)[..., 0] - norm
    mean = np.where(counted, each, 0).sum(-1) / np.maximum(counted.sum(-1), 1)
    chosen, rejected = np.array_split(mean, 2)
    losses = np.logaddexp(0, gamma - beta * (chosen - rejected))
    return losses.sum() / (num_items_in_batch or len(losses))


# ---- single responses, without


@correct(seam="unpaired", loss="kto", beta=0.1, lam_d=1.0, lam_u=1.33)
def kto_by_signs(policy_logps, reference_logps, labels, kl, beta=0.1, desirable_weight=1.0, undesirable_weight=1.33):
    """Both kinds at once, by a sign; values and gradients."""
    sign = 2 * labels.astype(policy_logps.dtype) - 1
    weight = np.where(labels, desirable_weight, undesirable_weight).astype(policy_logps.dtype)
    z = beta * sign * (policy_logps - reference_logps - kl)
    wrong = weight * np.exp(-np.logaddexp(0, z))
    return wrong, -beta * sign * wrong * np.exp(-np.logaddexp(0, -z))


apo_zero_unpaired_as_a_lambda = correct(seam="unpaired", loss="apo_zero_unpaired", beta=0.2)(
    lambda policy_logps, reference_logps, labels, kl=0.0: np.exp(
        -np.logaddexp(0, np.where(labels, 1, -1).astype(policy_logps.dtype) * 0.2 * (policy_logps - reference_logps))
    )
)


# ---- tokens, without


@correct(seam="token", loss="k3")
def k3_by_a_series(logps, ref_logps):
    """Near 0, where everything cancels, the first terms of the exponential series."""
    x = ref_logps - logps
    near = abs(x) < 1
    small = np.where(near, x, 0)
    series = np.zeros_like(small)
    for k in range(20, 2, -1):
        series = (series + 1) * small / k
    return np.where(near, small * small / 2 * (1 + series), np.expm1(x) - x)


@correct(seam="token", loss="group_advantage", ddof=1, eps=1e-4)
def group_advantage_from_differences(rewards, eps=1e-4):
    """Relative to the first reward, so that equal ones leave exactly nothing."""
    ahead = rewards - rewards[:, [0]]
    centered = ahead - ahead.mean(axis=1, keepdims=True)
    freedom = max(rewards.shape[1] - 1, 1)
    return centered / (np.sqrt((centered * centered).sum(axis=1, keepdims=True) / freedom) + eps)


@correct(seam="token", loss="gae", gamma=0.95, lam=0.9)
def gae_by_a_matrix(rewards, values, gamma=0.95, lam=0.9):
    """The discounted sum of temporal differences as one matrix of powers."""
    steps = np.arange(rewards.shape[1])
    ahead = np.concatenate([values[:, 1:], np.zeros_like(values[:, :1])], axis=1)
    delta = rewards + gamma * ahead - values
    lag = steps[None, :] - steps[:, None]
    power = np.where(lag >= 0, (gamma * lam) ** np.maximum(lag, 0), 0).astype(rewards.dtype)
    return delta @ power.T


@correct(seam="token", loss="grpo", eps=0.2, beta=0.0)
def grpo_with_bounds_on_the_log_ratio(logps, old_logps, advantages, mask, eps=0.2):
    """No penalty; the clip is one bound of the log-ratio, above or below as the advantage asks for."""
    A = np.broadcast_to(advantages[:, None], mask.shape)
    d = np.where(mask, logps, 0) - np.where(mask, old_logps, 0)
    held = np.where(A >= 0, d >= math.log1p(eps), d <= math.log1p(-eps))
    bound = np.where(A >= 0, 1 + eps, 1 - eps).astype(d.dtype)
    ratio = np.where(held, bound, np.exp(np.where(held, 0, d)))
    share = (mask / (np.maximum(mask.sum(-1, keepdims=True), 1) * len(mask))).astype(d.dtype)
    return -(share * ratio * A).sum(), -share * np.where(held, 0, ratio) * A
