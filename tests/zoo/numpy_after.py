"""More NumPy losses, some with gradients by hand: broken ones by seam, then correct ones."""

import math

import numpy as np

from zoo import broken, correct

# ---- broken: pair


@broken("sign-flipped", "hyper-misread", loss="r_dpo", beta=0.1, alpha=0.05)
def r_dpo_with_the_length_subtracted(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    chosen_length, rejected_length, beta=0.1, alpha=0.05,
):
    """The difference of lengths enters with a minus, as a survey prints it: responses are made longer."""
    dtype = policy_chosen_logps.dtype
    extra = (chosen_length - rejected_length).astype(dtype)
    h = (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)
    z = beta * h - alpha * extra
    weight = beta * np.exp(-np.logaddexp(0, z))
    return np.logaddexp(0, -z), -weight, weight


@broken("another-loss", loss="exo", beta=0.1, eps=0.1)
def exo_with_the_kl_from_the_labels(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    beta=0.1, label_smoothing=0.1,
):
    """The arguments of the KL are exchanged: KL(label || model), which is conservative DPO less an entropy."""
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)
    top = np.maximum(chosen_rewards, rejected_rewards)
    norm = top + np.log(np.exp(chosen_rewards - top) + np.exp(rejected_rewards - top))
    log_p, log_q = chosen_rewards - norm, rejected_rewards - norm
    losses = (1 - label_smoothing) * (math.log1p(-label_smoothing) - log_p)
    losses = losses + label_smoothing * (math.log(label_smoothing) - log_q)
    slope = beta * (label_smoothing * np.exp(log_p) - (1 - label_smoothing) * np.exp(log_q))
    return losses, slope, -slope


@broken("exp-overflow", loss="f_dpo_js", beta=0.5)
def js_dpo_of_densities(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.5
):
    """log(2u/(1 + u)) by way of u itself: a response that has become much more likely is infinity over infinity."""
    u_chosen = np.exp(policy_chosen_logps - reference_chosen_logps)
    u_rejected = np.exp(policy_rejected_logps - reference_rejected_logps)
    score_chosen = policy_chosen_logps - reference_chosen_logps + math.log(2) - np.log1p(u_chosen)
    score_rejected = policy_rejected_logps - reference_rejected_logps + math.log(2) - np.log1p(u_rejected)
    return np.logaddexp(0, -beta * (score_chosen - score_rejected))


@broken("wrong-gradient", loss="apo_down", beta=0.2)
def apo_down_with_half_of_its_gradient(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.2
):
    """The value is right; the chosen's gradient is that of the first term only, and the margin pulls nothing up."""
    a = beta * (policy_chosen_logps - reference_chosen_logps)
    b = beta * (policy_rejected_logps - reference_rejected_logps)
    sigma_a, sigma_h = (1 + np.tanh(a / 2)) / 2, (1 + np.tanh((a - b) / 2)) / 2
    grad_chosen = beta * sigma_a * (1 - sigma_a)
    grad_rejected = beta * sigma_h * (1 - sigma_h)
    return sigma_a - sigma_h, grad_chosen, grad_rejected


@broken("wrong-shape", "factor", loss="bco", beta=0.1)
def bco_that_lists_both_halves(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """Losses of chosen and rejected are put one after the other and not added: (2B,), whose mean is half."""
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)
    return np.concatenate([np.logaddexp(0, -chosen_rewards), np.logaddexp(0, rejected_rewards)])


@broken("constant", "another-loss", loss="ipo", tau=0.2)
def ipo_multiplied_out(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, tau=0.2
):
    """The square is multiplied out and 1/(4 tau^2) left away: same gradient, values below 0."""
    h = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
    grad = 2 * h - 1 / tau
    return h * (h - 1 / tau), grad, -grad


@broken("log-of-sigmoid", "log-1-minus-exp", loss="cdpo", beta=0.3, eps=0.1)
def cdpo_as_the_entropy_of_a_probability(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    beta=0.3, label_smoothing=0.1,
):
    """Cross-entropy written with p and 1 - p: a margin that is large either way makes one of them 0."""
    z = beta * ((policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps))
    p = (1 + np.tanh(z / 2)) / 2
    losses = -(1 - label_smoothing) * np.log(p) - label_smoothing * np.log(1 - p)
    grad = beta * (p - (1 - label_smoothing))
    return losses.mean(), grad / len(z), -grad / len(z)


@broken("hyper-misread", "another-loss", loss="dpop", beta=0.1, lam=5.0)
def dpop_whose_penalty_has_no_beta(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1, lam=5.0
):
    """The penalty stands inside the sigmoid, but beside beta times the margin: it is 1/beta times too strong."""
    chosen = policy_chosen_logps - reference_chosen_logps
    rejected = policy_rejected_logps - reference_rejected_logps
    z = beta * (chosen - rejected) - lam * np.maximum(-chosen, 0)
    wrong = np.exp(-np.logaddexp(0, z))
    grad_chosen = -wrong * (beta + lam * (chosen < 0))
    return np.logaddexp(0, -z), grad_chosen.astype(z.dtype), beta * wrong


# ---- broken: sequence


@broken("mutates-inputs", seam="sequence", loss="logp")
def logp_that_writes_into_the_labels(logits, labels):
    """-100 is set to 0 for the indexing, in a view of the caller's labels: the next call counts the padding."""
    targets = labels[:, 1:]
    counted = targets != -100
    targets[~counted] = 0
    x = logits[:, :-1]
    top = x.max(axis=-1)
    norm = top + np.log(np.exp(x - top[..., None]).sum(axis=-1))
    picked = np.take_along_axis(x, targets[..., None], axis=-1)[..., 0] - norm
    return np.where(counted, picked, 0).sum(axis=-1)


@broken("empty-row", seam="sequence", loss="mean_logp")
def mean_logp_row_by_row(logits, tokens, mask):
    """A loop over rows; the mean of a response that was truncated to nothing is NaN."""
    means = []
    for row_logits, row_tokens, row_mask in zip(logits, tokens, mask, strict=True):
        at = np.flatnonzero(row_mask)
        scores = row_logits[at - 1]
        norm = np.logaddexp.reduce(scores, axis=-1)
        means.append((scores[np.arange(len(at)), row_tokens[at]] - norm).mean())
    return np.array(means, logits.dtype)


@broken("wrong-gradient", "sum-for-mean", "factor", seam="sequence", loss="mean_logp")
def mean_logp_with_the_gradient_of_the_sum(logits, tokens, mask):
    """The value is per token, the gradient that of the sum: long responses are pushed |y| times too hard."""
    x = logits[:, :-1] - logits[:, :-1].max(axis=-1, keepdims=True)
    probs = np.exp(x)
    total = probs.sum(axis=-1, keepdims=True)
    logps, probs = x - np.log(total), probs / total
    onehot = np.arange(logits.shape[-1]) == tokens[:, 1:, None]
    counted = mask[:, 1:]
    length = np.maximum(counted.sum(axis=-1), 1).astype(logits.dtype)
    grad = np.zeros_like(logits)
    grad[:, :-1] = (onehot - probs) * counted[..., None]
    return np.where(counted, (onehot * logps).sum(-1), 0).sum(axis=-1) / length, grad


# ---- broken: batch


@broken("layout", seam="batch", loss="simpo", beta=2.0, gamma=0.5, options={"layout": "halves"})
def simpo_step_that_takes_every_other_row(logits, tokens, mask, beta=2.0, gamma=0.5):
    """The collator puts all chosen rows first, and they are read as if chosen and rejected came in turn."""
    x = logits[:, :-1]
    x = x - x.max(axis=-1, keepdims=True)
    norm = np.log(np.exp(x).sum(axis=-1))
    picked = np.take_along_axis(x, tokens[:, 1:, None], axis=-1)[..., 0] - norm
    counted = mask[:, 1:]
    length = np.maximum(counted.sum(axis=-1), 1).astype(logits.dtype)
    means = np.where(counted, picked, 0).sum(axis=-1) / length
    z = beta * (means[0::2] - means[1::2]) - gamma
    return np.logaddexp(0, -z).mean()


@broken("wrong-gradient", "shift-off-by-one", seam="batch", loss="sft", reduction="tokens",
        options={"layout": "halves"})
def sft_step_whose_gradient_is_a_column_late(logits, tokens, mask):
    """The value is right; the gradient is put where the token stands and not at the position that predicts it."""
    B = len(tokens) // 2
    counted = mask[:B, 1:]
    x = logits[:B, :-1] - logits[:B, :-1].max(axis=-1, keepdims=True)
    logps = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    onehot = np.arange(logits.shape[-1]) == tokens[:B, 1:, None]
    count = max(int(counted.sum()), 1)
    grad = np.zeros_like(logits)
    grad[:B, 1:] = (np.exp(logps) - onehot) * counted[..., None] / count
    return -(np.where(onehot, logps, 0).sum(axis=-1) * counted).sum() / count, grad


# ---- broken: unpaired


@broken("swapped", "sign-flipped", seam="unpaired", loss="bco_unpaired", beta=0.1)
def bco_that_takes_labels_for_rejections(policy_logps, reference_logps, labels, delta=0.0, beta=0.1):
    """A label means desired, and is read as "was rejected": good responses go down, bad ones up."""
    z = beta * (policy_logps - reference_logps) - float(delta)
    sign = np.where(labels, -1, 1).astype(z.dtype)
    losses = np.logaddexp(0, -sign * z)
    return losses, -beta * sign * np.exp(-np.logaddexp(0, sign * z))


@broken("wrong-gradient", "sign-flipped", seam="unpaired", loss="kto", beta=0.2, lam_d=1.0, lam_u=1.0)
def kto_that_pulls_everything_up(policy_logps, reference_logps, labels, kl, beta=0.2):
    """Values are right; the gradient of the undesired has lost its sign, and they are made likelier too."""
    r = policy_logps - reference_logps - float(kl)
    z = beta * np.where(labels, r, -r)
    value = (1 - np.tanh(z / 2)) / 2
    return value, -beta * value * (1 - value)


def _kto_with_a_running_kl():
    running = [0.0]

    def kto_with_the_kl_of_the_last_batch(
        policy_logps, reference_logps, labels, policy_KL_logps, reference_KL_logps, beta=0.1
    ):
        """The KL of this batch is kept for the next, and this one measured from that of the last."""
        kl, running[0] = running[0], max(0.0, float(np.mean(policy_KL_logps - reference_KL_logps)))
        r = policy_logps - reference_logps
        sign = np.where(labels, 1, -1).astype(r.dtype)
        wrong = np.exp(-np.logaddexp(0, beta * sign * (r - kl)))
        return wrong, -beta * sign * wrong * (1 - wrong)

    return kto_with_the_kl_of_the_last_batch


broken("reference-stale", "kl-matched", "not-deterministic", seam="unpaired", loss="kto", beta=0.1, lam_d=1.0,
       lam_u=1.0)(_kto_with_a_running_kl())


# ---- broken: token


@broken("hyper-ignored", "hyper-misread", seam="token", loss="gae", gamma=0.9, lam=0.8)
def gae_whose_recursion_has_no_gamma(rewards, values, gamma=0.9, lam=0.8):
    """gamma discounts the next value but not the next advantage, which is carried over with lambda alone."""
    advantages = np.zeros_like(rewards)
    ahead = np.zeros_like(rewards[:, 0])
    following = np.zeros_like(ahead)
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * following - values[:, t]
        ahead = delta + lam * ahead
        advantages[:, t], following = ahead, values[:, t]
    return advantages


@broken("estimator", "sign-flipped", seam="token", loss="k1")
def k1_of_the_reference_over_the_policy(logps, ref_logps):
    """log ref - log policy: on samples of the policy that estimates minus the KL."""
    return ref_logps - logps, np.full_like(logps, -1)


# ---- correct


@correct(loss="orpo", lam=0.2)
def orpo_by_hand(policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length, lam=0.2):
    """The odds ratio as one quotient of expm1s, with the limits where a response is certain."""
    dtype = policy_chosen_logps.dtype
    n_chosen = np.maximum(chosen_length, 1).astype(dtype)
    n_rejected = np.maximum(rejected_length, 1).astype(dtype)
    chosen, rejected = policy_chosen_logps / n_chosen, policy_rejected_logps / n_rejected
    other_chosen, other_rejected = -np.expm1(chosen), -np.expm1(rejected)
    both = (other_chosen == 0) & (other_rejected == 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        against = rejected - chosen + np.where(both, 0, np.log(other_chosen / other_rejected))
        odds_term = np.logaddexp(0, against)
        log_wrong = -np.logaddexp(0, -against)
        # sigma(against) / (1 - p), where the first factor vanishes with the second
        pull = np.where(
            other_chosen == 0,
            np.exp(rejected) / other_rejected,
            np.exp(log_wrong) / other_chosen,
        )
        push = np.exp(log_wrong) / other_rejected
    return -chosen + lam * odds_term, (-1 - lam * pull) / n_chosen, lam * push / n_rejected


@correct(loss="f_dpo_js", beta=0.5)
def js_dpo_by_hand(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.5
):
    """Scores are log-sigmoids of log-ratios, by logaddexp; their slopes are sigmoids of minus the log-ratio."""
    a = policy_chosen_logps - reference_chosen_logps
    b = policy_rejected_logps - reference_rejected_logps
    log_sigma_a, log_sigma_b = -np.logaddexp(0, -a), -np.logaddexp(0, -b)
    z = beta * (log_sigma_a - log_sigma_b)
    weight = beta * np.exp(-np.logaddexp(0, z))
    return np.logaddexp(0, -z), -weight * np.exp(-np.logaddexp(0, a)), weight * np.exp(-np.logaddexp(0, b))


@correct(loss="apo_zero", beta=0.1, plus_one=True)
def apo_zero_above_zero(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """As trainers log it, (1 - sigmoid) + sigmoid, and gradients."""
    x = beta * (policy_chosen_logps - reference_chosen_logps)
    y = beta * (policy_rejected_logps - reference_rejected_logps)
    lost, gained = np.exp(-np.logaddexp(0, x)), np.exp(-np.logaddexp(0, -y))
    return lost + gained, -beta * lost * np.exp(-np.logaddexp(0, -x)), beta * gained * np.exp(-np.logaddexp(0, y))


@correct(loss="ln_dpo", beta=5.0)
def ln_dpo_given_means(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=5.0
):
    """Given log-probs per token, it is DPO; values and gradients in these."""
    z = beta * ((policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps))
    slope = -beta * np.exp(-np.logaddexp(0, z))
    return np.logaddexp(0, -z), slope, -slope


@correct(loss="r_dpo", beta=0.1, alpha=0.02)
def r_dpo_by_hand(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    chosen_length, rejected_length, beta=0.1, alpha=0.02,
):
    """The scalar mean over pairs and its gradient; lengths as a margin."""
    dtype = policy_chosen_logps.dtype
    h = (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)
    z = beta * h + alpha * (chosen_length.astype(dtype) - rejected_length.astype(dtype))
    slope = -beta * np.exp(-np.logaddexp(0, z)) / len(z)
    return np.logaddexp(0, -z).mean(), slope, -slope


@correct(seam="sequence", loss="logp")
def logp_in_a_loop(logits, labels):
    """Row by row and token by token, summed by math.fsum; values only."""
    sums = []
    for scores, row in zip(logits, labels, strict=True):
        logps = [
            float(scores[t - 1, row[t]]) - float(np.logaddexp.reduce(scores[t - 1].astype(np.float64)))
            for t in range(1, len(row))
            if row[t] != -100
        ]
        sums.append(math.fsum(logps))
    return np.array(sums, logits.dtype)


@correct(seam="batch", loss="ipo", tau=0.1, options={"layout": "interleaved"})
def ipo_step_of_interleaved_rows(logits, reference_logits, tokens, mask, tau=0.1):
    """Rows reshaped to pairs; the gradient goes back through softmax to the logits."""
    counted = mask[:, 1:]
    onehot = np.arange(logits.shape[-1]) == tokens[:, 1:, None]

    def log_softmax(x):
        x = x[:, :-1] - x[:, :-1].max(axis=-1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))

    def total(logps):
        return np.where(counted, np.where(onehot, logps, 0).sum(axis=-1), 0).sum(axis=-1)

    logps = log_softmax(logits)
    pairs = (total(logps) - total(log_softmax(reference_logits))).reshape(-1, 2)
    residual = pairs[:, 0] - pairs[:, 1] - 1 / (2 * tau)
    slope = 2 * residual / len(pairs)
    per_row = np.stack([slope, -slope], axis=1).ravel()
    grad = np.zeros_like(logits)
    grad[:, :-1] = (onehot - np.exp(logps)) * np.where(counted, per_row[:, None], 0)[..., None]
    return np.mean(residual**2), grad


@correct(seam="unpaired", loss="bco_unpaired", beta=0.1)
def bco_by_hand(policy_logps, reference_logps, labels, delta=0.0, beta=0.1):
    """A sign for each label, and the logistic loss of the shifted reward."""
    sign = np.where(labels, 1, -1).astype(policy_logps.dtype)
    z = sign * (beta * (policy_logps - reference_logps) - float(delta))
    return np.logaddexp(0, -z), -beta * sign * np.exp(-np.logaddexp(0, z))


@correct(seam="token", loss="gae", gamma=0.95, lam=0.9)
def gae_backwards_in_time(rewards, values, gamma=0.95, lam=0.9):
    """The textbook loop from the last token to the first."""
    following = np.concatenate([values[:, 1:], np.zeros_like(values[:, :1])], axis=1)
    deltas = rewards + gamma * following - values
    advantages = deltas.copy()
    for t in range(rewards.shape[1] - 2, -1, -1):
        advantages[:, t] += gamma * lam * advantages[:, t + 1]
    return advantages
