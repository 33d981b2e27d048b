"""NumPy losses, gradients by hand where they are returned: broken ones by seam, then correct ones."""

import numpy as np

from zoo import broken, correct

# ---- broken: pair


@broken("swapped", "sign-flipped", beta=0.1)
def dpo_with_rejected_minus_chosen(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """Both log-ratios are taken of the rejected over the chosen, so that training prefers what was rejected."""
    policy_logratios = policy_rejected_logps - policy_chosen_logps
    reference_logratios = reference_rejected_logps - reference_chosen_logps
    z = beta * (policy_logratios - reference_logratios)
    losses = np.logaddexp(0, -z)
    weight = beta * np.exp(-np.logaddexp(0, z))
    return losses, weight, -weight


@broken("hyper-misread", "another-loss", loss="simpo", beta=2.0, gamma=1.0)
def simpo_with_gamma_as_ratio(
    policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length, beta=2.0, gamma=1.0
):
    """gamma is taken for gamma over beta, as in code that calls its argument `gamma_beta_ratio`."""
    chosen = policy_chosen_logps / chosen_length
    rejected = policy_rejected_logps / rejected_length
    return np.logaddexp(0, -beta * (chosen - rejected - gamma))


@broken("hyper-ignored", loss="hinge", beta=0.1)
def hinge_that_forgets_beta(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """The margin is that of bare log-ratios: beta is accepted, and used for nothing."""
    h = (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)
    active = (h < 1).astype(h.dtype)
    return np.maximum(0, 1 - h), -active, active


def _dpo_with_cached_reference():
    cache = {}

    def dpo_with_a_reference_cache_by_shape(
        policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
    ):
        """The reference's log-ratios are kept from the first batch of each size, and later ones never looked at."""
        key = policy_chosen_logps.shape
        if key not in cache:
            cache[key] = np.array(reference_chosen_logps - reference_rejected_logps)
        z = beta * (policy_chosen_logps - policy_rejected_logps - cache[key])
        return np.logaddexp(0, -z).mean()

    return dpo_with_a_reference_cache_by_shape


broken("reference-stale", "reference-ignored", beta=0.1)(_dpo_with_cached_reference())


@broken("factor", loss="rdpo", beta=0.1, eps=0.2)
def robust_dpo_without_its_denominator(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    beta=0.1, label_smoothing=0.2,
):
    """The division by 1 - 2 eps, which makes the flips cancel, is left out of value and gradient."""
    z = beta * ((policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps))
    losses = (1 - label_smoothing) * np.logaddexp(0, -z) - label_smoothing * np.logaddexp(0, z)
    wrong, right = np.exp(-np.logaddexp(0, z)), np.exp(-np.logaddexp(0, -z))
    slope = -beta * ((1 - label_smoothing) * wrong + label_smoothing * right)
    return losses, slope, -slope


@broken("wrong-gradient", beta=0.1)
def dpo_with_the_weight_of_the_right_order(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """The value is right; the gradient is weighted by how sure the order is, not how wrong (LuJunru/SamPO#1)."""
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)
    losses = np.logaddexp(0, rejected_rewards - chosen_rewards)
    weight = np.exp(-np.logaddexp(0, rejected_rewards - chosen_rewards))
    return losses, -beta * weight, beta * weight


@broken("exp-overflow", beta=0.5)
def dpo_with_log_of_one_plus_exp(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.5
):
    """log1p(exp(-z)) is infinite where a pair is badly wrong, and the gradient exp/(1 + exp) NaN."""
    z = beta * ((policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps))
    e = np.exp(-z)
    slope = -beta * e / (1 + e)
    return np.log1p(e), slope, -slope


@broken("mutates-inputs", beta=0.1)
def dpo_that_subtracts_in_place(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """The log-ratios overwrite the caller's log-probs: a second call on the same batch answers something else."""
    policy_chosen_logps -= reference_chosen_logps
    policy_rejected_logps -= reference_rejected_logps
    z = beta * (policy_chosen_logps - policy_rejected_logps)
    return np.logaddexp(0, -z)


@broken("hyper-misread", loss="ipo", tau=0.05)
def ipo_with_a_half_times_tau(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, tau=0.05
):
    """The target is 1 / 2 * tau, which Python reads as tau/2, in place of 1/(2 tau)."""
    h = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
    residual = h - 1 / 2 * tau
    return residual**2, 2 * residual, -2 * residual


# ---- broken: sequence


@broken("shift-off-by-one", seam="sequence", loss="logp")
def logp_with_the_mask_of_the_inputs(logits, tokens, mask):
    """Tokens are shifted and the mask is not: the first response token is lost, the one after EOS counted."""
    inputs, targets, weights = logits[:, :-1], tokens[:, 1:], mask[:, :-1]
    top = inputs.max(axis=-1, keepdims=True)
    logps = inputs - top - np.log(np.exp(inputs - top).sum(axis=-1, keepdims=True))
    picked = np.take_along_axis(logps, targets[..., None], axis=-1)[..., 0]
    return (picked * weights).sum(axis=-1)


@broken("padding-counted", seam="sequence", loss="logp")
def logp_from_the_first_response_token_on(logits, tokens, mask):
    """All that follows the prompt counts, the padding behind EOS too (0xallam/Direct-Preference-Optimization#4)."""
    prompt_length = np.where(mask.any(axis=1), mask.argmax(axis=1), mask.shape[1])
    counted = np.arange(1, tokens.shape[1])[None, :] >= prompt_length[:, None]
    shifted = logits[:, :-1] - logits[:, :-1].max(axis=-1, keepdims=True)
    norm = np.log(np.exp(shifted).sum(axis=-1))
    picked = np.take_along_axis(shifted, tokens[:, 1:, None], axis=-1).squeeze(-1) - norm
    return np.where(counted, picked, 0).sum(axis=1)


@broken("length-with-padding", seam="sequence", loss="mean_logp")
def mean_logp_over_all_columns(logits, tokens, mask):
    """`mean` over the masked log-probs divides by the width of the batch: padding changes the answer."""
    x = logits[:, :-1, :]
    logps = x - np.logaddexp.reduce(x, axis=-1, keepdims=True)
    rows, columns = np.indices(tokens[:, 1:].shape)
    picked = logps[rows, columns, tokens[:, 1:]]
    return (picked * mask[:, 1:]).mean(axis=-1)


@broken("pad-is-eos", "eos-masked", seam="sequence", loss="logp")
def logp_that_masks_the_pad_id(logits, tokens, mask, pad_token_id=2):
    """Padding is found by id, and pad is EOS: a response's own EOS is not trained on (huggingface/trl#741)."""
    keep = mask & (tokens != pad_token_id)
    x = logits[:, :-1] - logits[:, :-1].max(-1, keepdims=True)
    p = np.exp(x)
    total = p.sum(-1, keepdims=True)
    onehot = np.arange(logits.shape[-1]) == tokens[:, 1:, None]
    logps = np.where(onehot, x - np.log(total), 0).sum(-1)
    grad = np.zeros_like(logits)
    grad[:, :-1] = (onehot - p / total) * keep[:, 1:, None]
    return np.where(keep[:, 1:], logps, 0).sum(-1), grad


# ---- broken: batch


@broken("wrong-gradient", "factor", seam="batch", beta=0.1, options={"layout": "halves"})
def dpo_step_whose_gradient_is_not_averaged(logits, reference_logits, tokens, mask, beta=0.1):
    """The value is the mean over pairs, the gradient that of the sum: a learning rate that grows with the batch."""
    B = len(tokens) // 2
    onehot = np.arange(logits.shape[-1]) == tokens[:, 1:, None]

    def per_sequence(x):
        x = x[:, :-1] - x[:, :-1].max(-1, keepdims=True)
        logps = x - np.log(np.exp(x).sum(-1, keepdims=True))
        return np.where(mask[:, 1:], np.where(onehot, logps, 0).sum(-1), 0).sum(-1), np.exp(logps)

    policy, probs = per_sequence(logits)
    reference, _ = per_sequence(reference_logits)
    rewards = beta * (policy - reference)
    z = rewards[:B] - rewards[B:]
    weight = beta * np.exp(-np.logaddexp(0, z))
    dlogp = np.concatenate([-weight, weight])
    grad = np.zeros_like(logits)
    grad[:, :-1] = (onehot - probs) * (dlogp[:, None] * mask[:, 1:])[..., None]
    return np.logaddexp(0, -z).mean(), grad


# ---- broken: unpaired


@broken("hyper-misread", "swapped", seam="unpaired", loss="kto", beta=0.1, lam_d=1.0, lam_u=1.5)
def kto_with_the_weights_exchanged(
    policy_logps, reference_logps, labels, kl, beta=0.1, desirable_weight=1.0, undesirable_weight=1.5
):
    """The weight of desired examples is given to the undesired ones, and theirs to the desired."""
    r = policy_logps - reference_logps
    sign = np.where(labels, 1, -1).astype(r.dtype)
    weight = np.where(labels, undesirable_weight, desirable_weight).astype(r.dtype)
    z = beta * sign * (r - float(kl))
    wrong, right = np.exp(-np.logaddexp(0, z)), np.exp(-np.logaddexp(0, -z))
    return weight * wrong, -weight * beta * sign * wrong * right


@broken("clamp-order", seam="unpaired", loss="kto", beta=0.1, lam_d=1.0, lam_u=1.0)
def kto_that_clamps_each_kl_term(policy_logps, reference_logps, labels, policy_KL_logps, reference_KL_logps, beta=0.1):
    """Each mismatched log-ratio is cut at 0 before they are averaged, so that the KL estimate is too large."""
    kl = np.maximum(policy_KL_logps - reference_KL_logps, 0).mean()
    r = policy_logps - reference_logps
    z = np.where(labels, beta * (r - kl), beta * (kl - r))
    wrong = np.exp(-np.logaddexp(0, z))
    slope = -beta * wrong * np.exp(-np.logaddexp(0, -z))
    return wrong, np.where(labels, slope, -slope)


# ---- broken: token


@broken("estimator", seam="token", loss="k3")
def k3_with_the_ratio_inverted(logps, ref_logps):
    """The ratio is policy over reference: for samples of the policy that estimates no KL."""
    log_ratio = logps - ref_logps
    return np.expm1(log_ratio) - log_ratio, np.expm1(log_ratio)


@broken("factor", "another-loss", seam="token", loss="rloo")
def rloo_with_the_baseline_of_all(rewards):
    """Nobody is left out: the baseline is the mean of the whole group, which shrinks advantages by (G - 1)/G."""
    return rewards - rewards.mean(axis=1, keepdims=True)


# ---- correct


@correct(beta=0.1)
def dpo_by_hand(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1):
    """Value and gradient from one exponential of -|z|, which cannot overflow."""
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)
    z = chosen_rewards - rejected_rewards
    e = np.exp(-np.abs(z))
    wrong = np.where(z > 0, e, 1) / (1 + e)
    return np.maximum(-z, 0) + np.log1p(e), -beta * wrong, beta * wrong


@correct(loss="ipo", tau=0.1, reduction="mean")
def ipo_per_token_by_hand(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    chosen_length, rejected_length, tau=0.1,
):
    """The scalar mean over pairs, and its gradient, of log-ratios that are divided by their lengths."""
    dtype, B = policy_chosen_logps.dtype, len(policy_chosen_logps)
    n_chosen = np.maximum(chosen_length, 1).astype(dtype)
    n_rejected = np.maximum(rejected_length, 1).astype(dtype)
    chosen = (policy_chosen_logps - reference_chosen_logps) / n_chosen
    rejected = (policy_rejected_logps - reference_rejected_logps) / n_rejected
    residual = chosen - rejected - 1 / (2 * tau)
    return np.mean(residual**2), 2 * residual / (n_chosen * B), -2 * residual / (n_rejected * B)


@correct(loss="sppo", beta=0.5)
def sppo_hard_values_only(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.5
):
    """Two squares, no gradient returned."""
    target = 0.5 / beta
    won = policy_chosen_logps - reference_chosen_logps
    lost = policy_rejected_logps - reference_rejected_logps
    return (won - target) ** 2 + (lost + target) ** 2


@correct(seam="sequence", loss="logp")
def logp_with_its_gradient(logits, tokens, mask):
    """Max-shifted log-softmax, tokens summed in float64, onehot minus softmax at the positions that score."""
    x, targets, counted = logits[:, :-1], tokens[:, 1:], mask[:, 1:].astype(bool)
    x = x - x.max(axis=-1, keepdims=True)
    logps = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    picked = np.take_along_axis(logps, targets[..., None], axis=-1)[..., 0]
    slope = -np.exp(logps)
    np.put_along_axis(slope, targets[..., None], -np.expm1(picked)[..., None], axis=-1)
    grad = np.zeros_like(logits)
    grad[:, :-1] = np.where(counted[..., None], slope, 0)
    return np.where(counted, picked, 0).sum(axis=-1, dtype=np.float64).astype(logits.dtype), grad


@correct(seam="unpaired", loss="kto", beta=0.1, lam_d=1.0, lam_u=1.0)
def kto_by_hand(policy_logps, reference_logps, labels, kl, beta=0.1, lam_d=1.0, lam_u=1.0):
    """One sign and one weight a row; both sigmoids from one exponential of -|z|."""
    labels = np.asarray(labels, bool)
    r = policy_logps - reference_logps
    sign = np.where(labels, 1, -1).astype(r.dtype)
    weight = np.where(labels, lam_d, lam_u).astype(r.dtype)
    z = beta * sign * (r - r.dtype.type(kl))
    e = np.exp(-np.abs(z))
    wrong = np.where(z > 0, e, 1) / (1 + e)
    return weight * wrong, -weight * beta * sign * (e / (1 + e) ** 2)


@correct(seam="token", loss="k2")
def k2_by_hand(logps, ref_logps):
    """Half the square of the log-ratio, whose gradient is the log-ratio."""
    log_ratio = logps - ref_logps
    return log_ratio**2 / 2, log_ratio


@correct(seam="token", loss="group_advantage", ddof=1, eps=1e-4)
def group_advantage_with_bessel(rewards, eps=1e-4):
    """The unbiased standard deviation of each prompt's rewards; a group of one has advantage 0."""
    if rewards.shape[1] < 2:
        return np.zeros_like(rewards)
    centered = rewards - rewards.mean(axis=1, keepdims=True)
    return centered / (rewards.std(axis=1, ddof=1, keepdims=True) + eps)
