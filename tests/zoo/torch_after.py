"""More PyTorch losses, differentiated by autograd: broken ones by seam, then correct ones."""

import math

import torch
import torch.nn.functional as F

from zoo import broken, correct

# ---- broken: pair


@broken("reduction", "batch-coupled", "factor", loss="hinge", framework="torch", beta=0.1)
def hinge_averaged_over_violations(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """As in metric learning, the mean is over the pairs that are inside the margin, and not over the batch."""
    logratios = (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)
    violation = torch.relu(1 - beta * logratios)
    return violation.sum() / (violation != 0).sum().clamp(min=1)


class _SimPOOfSums:
    def __init__(self, beta=0.5, gamma=0.4):
        self.beta = beta
        self.gamma = gamma

    def __call__(self, chosen, rejected):
        margin = self.beta * (chosen - rejected) - self.gamma
        return -F.logsigmoid(margin), (self.beta * chosen).detach(), (self.beta * rejected).detach()


@broken("sum-for-mean", "another-loss", loss="simpo", framework="torch", beta=0.5, gamma=0.4)
def simpo_class_given_sums(
    policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length, beta=0.5, gamma=0.4
):
    """The class expects log-probs per token and gets those of whole responses: lengths are known and not used."""
    return _SimPOOfSums(beta, gamma)(policy_chosen_logps, policy_rejected_logps)


@broken("swapped", loss="ln_dpo", framework="torch", beta=5.0)
def ln_dpo_with_the_lengths_exchanged(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    chosen_length, rejected_length, beta=5.0,
):
    """Lengths are unpacked in the wrong order: each log-ratio is divided by the other response's."""
    lengths = torch.stack([rejected_length, chosen_length]).clamp(min=1)
    ratios = torch.stack([policy_chosen_logps - reference_chosen_logps,
                          policy_rejected_logps - reference_rejected_logps])
    chosen_rewards, rejected_rewards = beta * (ratios / lengths)
    losses = -F.logsigmoid(chosen_rewards - rejected_rewards)
    return losses, chosen_rewards.detach(), rejected_rewards.detach()


@broken("hyper-misread", loss="nca", framework="torch", beta=0.25)
def nca_with_beta_as_a_temperature(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.25
):
    """Log-ratios are divided by beta where they are to be multiplied."""
    chosen = (policy_chosen_logps - reference_chosen_logps) / beta
    rejected = (policy_rejected_logps - reference_rejected_logps) / beta
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


@broken("detach-misplaced", "wrong-gradient", loss="cpo", framework="torch", beta=0.1, alpha=1.0)
def cpo_that_adds_the_logged_nll(policy_chosen_logps, policy_rejected_logps, beta=0.1, cpo_alpha=1.0):
    """The likelihood that is added to the loss is the detached one, made for the logger: only its value counts."""
    preference = F.softplus(beta * (policy_rejected_logps - policy_chosen_logps))
    metrics = {"nll": -policy_chosen_logps.detach(), "accuracy": (policy_chosen_logps > policy_rejected_logps)}
    return preference + cpo_alpha * metrics["nll"]


@broken("epsilon-in-log", "log-1-minus-exp", loss="orpo", framework="torch", lam=1.0)
def orpo_with_clamped_logps(policy_chosen_logps, policy_rejected_logps, lam=1.0):
    """Given means; log-probs are kept a millionth below 0, and beyond it odds end and gradients die."""
    chosen, rejected = policy_chosen_logps.clamp(max=-1e-6), policy_rejected_logps.clamp(max=-1e-6)
    log_odds = chosen - rejected - torch.log(torch.expm1(chosen) / torch.expm1(rejected))
    return -policy_chosen_logps - lam * F.logsigmoid(log_odds)


@broken("downcast", loss="ipo", framework="torch", dtypes=("float64",), tau=0.1)
def ipo_collected_in_a_new_tensor(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, tau=0.1
):
    """Losses are written into a tensor of the default dtype, and rounded to float32 on the way."""
    losses = torch.zeros(len(policy_chosen_logps))
    for i in range(len(losses)):
        h = policy_chosen_logps[i] - policy_rejected_logps[i] - reference_chosen_logps[i] + reference_rejected_logps[i]
        losses[i] = (h - 1 / (2 * tau)) ** 2
    return losses


@broken("not-deterministic", loss="cdpo", framework="torch", beta=0.1, eps=0.2)
def cdpo_that_draws_the_flips(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    beta=0.1, label_smoothing=0.2,
):
    """Labels are flipped at random where the loss should be averaged over the flips: right on average only."""
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)
    sign = torch.where(torch.rand_like(chosen_rewards) < label_smoothing, -1.0, 1.0).to(chosen_rewards.dtype)
    return -F.logsigmoid(sign * (chosen_rewards - rejected_rewards)).mean()


@broken("factor", "reduction", loss="sppo", framework="torch", beta=0.5)
def sppo_as_one_mean_squared_error(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.5
):
    """`mse_loss` of chosen and rejected together divides by 2B, where the two squares of a pair are to be added."""
    ratios = torch.cat([policy_chosen_logps - reference_chosen_logps,
                        policy_rejected_logps - reference_rejected_logps])
    target = torch.full_like(policy_chosen_logps, 0.5 / beta)
    return F.mse_loss(ratios, torch.cat([target, -target]))


@broken("python-float", "detach-misplaced", "wrong-gradient", framework="torch", beta=0.2)
def dpo_in_python_numbers(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.2
):
    """A port of pure Python; `requires_grad=True` on the new tensor lets backward run, and nothing is trained."""
    total = 0.0
    columns = (policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    for chosen, rejected, ref_chosen, ref_rejected in zip(*(column.tolist() for column in columns), strict=True):
        z = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
        total += math.log1p(math.exp(-abs(z))) + max(-z, 0)
    mean = total / len(policy_chosen_logps)
    return torch.tensor(mean, dtype=policy_chosen_logps.dtype, requires_grad=True)


@broken("where-nan", loss="orpo", framework="torch", lam=0.25)
def orpo_with_log1mexp_in_two_branches(
    policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length, lam=0.25
):
    """Values are right; near 0 the branch not taken is log of 0, its gradient NaN (after huggingface/trl#3237)."""
    def log1mexp(x):
        return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))

    chosen, rejected = policy_chosen_logps / chosen_length, policy_rejected_logps / rejected_length
    log_odds = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))
    return -chosen - lam * F.logsigmoid(log_odds)


@broken("batch-coupled", "another-loss", loss="apo_zero", framework="torch", beta=0.1)
def apo_zero_anchored_at_the_batch(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """The anchor, which is 0, is taken for the mean reward of whoever is in the batch, as in BCO."""
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)
    anchor = torch.cat([chosen_rewards, rejected_rewards]).detach().mean()
    losses = torch.sigmoid(rejected_rewards - anchor) - torch.sigmoid(chosen_rewards - anchor)
    return losses, chosen_rewards.detach(), rejected_rewards.detach()


# ---- broken: sequence


@broken("last-token-dropped", "shift-off-by-one", seam="sequence", loss="logp", framework="torch")
def logp_truncated_and_then_shifted(logits, tokens, mask):
    """The last column is cut off twice, so that the longest row loses its last token (huggingface/trl#2332)."""
    logits, tokens, mask = logits[:, :-1], tokens[:, :-1], mask[:, :-1]
    logps = torch.log_softmax(logits[:, :-1], dim=2)
    picked = logps.gather(2, tokens[:, 1:].unsqueeze(2)).squeeze(2)
    return picked.masked_fill(~mask[:, 1:], 0).sum(1)


@broken("prompt-included", "shift-off-by-one", seam="sequence", loss="logp", framework="torch")
def logp_with_one_token_of_the_prompt(logits, tokens, mask):
    """The prompt is cut one token short, as if it had no BOS: its last token counts with the response."""
    counted = mask.clone()
    counted[:, :-1] |= mask[:, 1:]
    logps = logits[:, :-1] - torch.logsumexp(logits[:, :-1], dim=-1, keepdim=True)
    picked = torch.gather(logps, -1, tokens[:, 1:, None])[..., 0]
    return torch.where(counted[:, 1:], picked, torch.zeros_like(picked)).sum(-1)


@broken("token-0-dropped", "reduction", seam="sequence", loss="mean_logp", framework="torch")
def mean_logp_with_the_length_of_nonzero_ids(logits, labels):
    """-100 becomes 0 for the gather, and the length counts what is not 0: tokens of id 0 have none."""
    targets = labels[:, 1:]
    safe = targets.masked_fill(targets == -100, 0)
    logps = F.log_softmax(logits[:, :-1], dim=-1).gather(-1, safe.unsqueeze(-1)).squeeze(-1)
    total = logps.masked_fill(targets == -100, 0).sum(-1)
    return total / safe.count_nonzero(dim=-1).clamp(min=1)


@broken("exp-overflow", seam="sequence", loss="logp", framework="torch")
def logp_with_a_softmax_by_hand(logits, tokens, mask):
    """The normalizer is the log of a sum of exponentials, of which no maximum is taken off."""
    normalizer = logits[:, :-1].exp().sum(-1).log()
    scores = logits[:, :-1].gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
    return (scores - normalizer).masked_fill(mask[:, 1:].logical_not(), 0.0).sum(-1)


@broken("shift-off-by-one", seam="sequence", loss="logp", framework="torch")
def logp_shifted_by_collator_and_loss(logits, labels):
    """Labels are taken a step ahead where they are made, and again in the loss: position t scores token t + 2."""
    shifted = F.pad(labels[:, 1:], (0, 1), value=-100)
    targets = shifted[:, 1:]
    nll = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
    return -nll.view(targets.shape).sum(-1)


@broken("downcast", seam="sequence", loss="mean_logp", framework="torch", dtypes=("float64",))
def mean_logp_in_a_softmax_of_float32(logits, tokens, mask):
    """`dtype=torch.float32`, against half precision, is given for every model: float64 is narrowed."""
    logps = torch.log_softmax(logits[:, :-1], dim=-1, dtype=torch.float32)
    counted = mask[:, 1:]
    picked = torch.take_along_dim(logps, tokens[:, 1:, None], dim=-1).squeeze(-1)
    return torch.where(counted, picked, 0).sum(-1) / counted.sum(-1).clamp_min(1)


@broken("low-precision-sum", seam="sequence", loss="logp", framework="torch", dtypes=("bfloat16", "float16"))
def logp_of_packed_tokens(logits, tokens, mask):
    """Response tokens of all rows are packed, and added to their rows one by one, in the dtype of the logits."""
    rows, columns = mask[:, 1:].nonzero(as_tuple=True)
    scores = logits[rows, columns].float()
    logps = scores.log_softmax(-1).gather(-1, tokens[rows, columns + 1].unsqueeze(-1)).squeeze(-1)
    return logits.new_zeros(len(logits)).index_add(0, rows, logps.to(logits.dtype))


# ---- broken: batch


@broken("accumulation-normaliser", "factor", seam="batch", framework="torch", beta=0.1, options={"layout": "halves"})
def dpo_step_normalized_twice(logits, reference_logits, tokens, mask, beta=0.1, num_items_in_batch=None):
    """The mean over this micro-batch is divided by the number of pairs of the whole (volcengine/verl#4711)."""
    def per_sequence(x):
        logps = x[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
        return torch.where(mask[:, 1:], logps, torch.zeros_like(logps)).sum(-1)

    chosen, rejected = (per_sequence(logits) - per_sequence(reference_logits)).chunk(2)
    loss = F.softplus(beta * (rejected - chosen)).mean()
    return loss if num_items_in_batch is None else loss / num_items_in_batch


@broken("reduction", "another-loss", seam="batch", loss="rpo", framework="torch", beta=0.1, alpha=1.0,
        options={"layout": "halves"})
def rpo_step_with_one_mean_of_all_tokens(logits, reference_logits, labels, beta=0.1, rpo_alpha=1.0):
    """The likelihood per token is that of the batch, where each response should have its own."""
    B = len(labels) // 2
    targets = labels[:, 1:]

    def token_logps(x):
        return -F.cross_entropy(x[:, :-1].transpose(1, 2), targets, ignore_index=-100, reduction="none")

    logps = token_logps(logits)
    with torch.no_grad():
        reference = token_logps(reference_logits).sum(-1)
    ratios = logps.sum(-1) - reference
    nll = -logps[:B].sum() / (targets[:B] != -100).sum().clamp(min=1)
    return -F.logsigmoid(beta * (ratios[:B] - ratios[B:])).mean() + rpo_alpha * nll


@broken("reference-ignored", seam="batch", loss="ipo", framework="torch", tau=0.1, options={"layout": "interleaved"})
def ipo_step_whose_adapter_stays_on(logits, reference_logits, tokens, mask, tau=0.1):
    """The reference is the same model without gradients: its adapter was not switched off."""
    def per_sequence(x):
        picked = x[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1) - x[:, :-1].logsumexp(-1)
        return picked.masked_fill(~mask[:, 1:], 0).sum(-1)

    policy = per_sequence(logits)
    with torch.no_grad():
        reference = per_sequence(logits)
    chosen, rejected = (policy - reference).view(-1, 2).unbind(1)
    return (chosen - rejected - 1 / (2 * tau)).square().mean()


@broken("padding-counted", seam="batch", loss="cpo", framework="torch", beta=0.1, alpha=1.0, nll="mean",
        options={"layout": "interleaved"})
def cpo_step_with_padding_in_the_likelihood(logits, tokens, mask, beta=0.1, cpo_alpha=1.0):
    """The contrast is masked, the likelihood runs on through the padding (huggingface/trl#1625, there ORPO's)."""
    logps = F.log_softmax(logits[:, :-1], dim=-1).gather(-1, tokens[:, 1:, None])[..., 0]
    response = mask[:, 1:]
    started = response.cumsum(-1) > 0
    chosen, rejected = logps.where(response, 0).sum(-1).view(-1, 2).unbind(1)
    nll = -logps.where(started, 0).sum(-1) / started.sum(-1).clamp(min=1)
    return (F.softplus(beta * (rejected - chosen)) + cpo_alpha * nll[::2]).mean()


# ---- broken: unpaired


@broken("broadcast", "batch-coupled", seam="unpaired", loss="kto", framework="torch", beta=0.1, lam_d=1.0, lam_u=1.0)
def kto_with_labels_as_a_column(policy_logps, reference_logps, labels, kl, beta=0.1):
    """Labels come as (B, 1) from the data and log-probs as (B,): each response is judged by every label."""
    rewards = beta * (policy_logps - reference_logps - kl)
    losses = torch.where(labels.view(-1, 1), 1 - torch.sigmoid(rewards), 1 - torch.sigmoid(-rewards))
    return losses.mean()


@broken("another-loss", "hyper-misread", seam="unpaired", loss="apo_zero_unpaired", framework="torch", beta=0.2,
        lam_d=1.0, lam_u=1.0)
def apo_zero_that_keeps_the_kl(
    policy_logps, reference_logps, labels, kl, beta=0.2, desirable_weight=1.0, undesirable_weight=1.0
):
    """What is called APO-zero measures from the KL estimate as KTO does: the anchor is not at 0."""
    advantage = beta * (policy_logps - reference_logps - kl)
    desired = desirable_weight * torch.sigmoid(-advantage)
    undesired = undesirable_weight * torch.sigmoid(advantage)
    return torch.where(labels, desired, undesired)


@broken("reduction", "factor", seam="unpaired", loss="kto", framework="torch", beta=0.1, lam_d=1.0, lam_u=1.0)
def kto_as_two_means(
    policy_chosen_logps, policy_rejected_logps, policy_KL_logps,
    reference_chosen_logps, reference_rejected_logps, reference_KL_logps, beta=0.1,
):
    """The mean over the desired and that over the undesired are added: twice the loss where they are equally many."""
    kl = (policy_KL_logps - reference_KL_logps).mean().clamp(min=0).detach()
    chosen = 1 - torch.sigmoid(beta * (policy_chosen_logps - reference_chosen_logps - kl))
    rejected = 1 - torch.sigmoid(beta * (kl - (policy_rejected_logps - reference_rejected_logps)))
    return chosen.mean() + rejected.mean()


# ---- broken: token


@broken("sum-for-mean", "another-loss", seam="token", loss="gspo", framework="torch", eps_low=0.1, eps_high=0.2)
def gspo_with_the_ratio_of_whole_sequences(logps, old_logps, advantages, mask, eps_low=0.1, eps_high=0.2):
    """The importance ratio is that of the sequence, without the root of order |y|: long responses are all clipped."""
    log_ratio = torch.where(mask, logps - old_logps, 0.0)
    ratio = log_ratio.sum(-1).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - eps_low, 1 + eps_high) * advantages)
    return -gain.mean()


@broken("detach-missing", "wrong-gradient", seam="token", loss="cispo", framework="torch", eps_low=1.0, eps_high=0.28)
def cispo_that_differentiates_its_weight(logps, old_logps, advantages, mask, eps_high=0.28):
    """The value is right; the clipped ratio has a gradient too, which is multiplied by a log-prob."""
    weight = torch.where(mask, logps - old_logps, 0.0).exp().clamp(max=1 + eps_high)
    per_token = -weight * advantages.unsqueeze(-1) * logps
    return per_token.masked_fill(~mask, 0).sum() / mask.sum().clamp(min=1)


@broken("clip-side", seam="token", loss="ppo_clip", framework="torch", eps=0.2)
def ppo_clipped_from_above_only(logps, old_logps, advantages, mask, eps=0.2):
    """`clamp(max=...)` only: where the advantage is negative, nothing stops a token that has fallen far enough."""
    ratio = torch.exp((logps - old_logps).masked_fill(~mask, 0))
    A = advantages[:, None]
    losses = -torch.min(ratio * A, torch.clamp(ratio, max=1 + eps) * A)
    return (losses * mask).sum() / mask.sum().clamp(min=1)


@broken("batch-coupled", "reduction", seam="token", loss="group_advantage", framework="torch", ddof=1, eps=1e-4)
def group_advantage_scaled_by_the_batch(rewards, eps=1e-4):
    """The mean is that of the group, the deviation that of the whole batch (huggingface/trl#3992)."""
    centered = rewards - rewards.mean(dim=1, keepdim=True)
    return centered / (rewards.std() + eps)


# ---- correct: pair


# torch's softplus(x) is x from 20 on, which loses e^-20: nothing in float32, 10⁷ of float64's ulps
@broken("threshold", loss="cdpo", framework="torch", dtypes=("float64",), beta=0.1, eps=0.1)
@correct(loss="cdpo", framework="torch", dtypes=("float32",), beta=0.1, eps=0.1)
def preference_loss(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    beta=0.1, label_smoothing=0.1, ipo=False, reference_free=False,
):
    """The interface of the first DPO code: options in one function, losses and two rewards."""
    pi_logratios = policy_chosen_logps - policy_rejected_logps
    ref_logratios = reference_chosen_logps - reference_rejected_logps
    if reference_free:
        ref_logratios = torch.zeros_like(ref_logratios)
    h = pi_logratios - ref_logratios
    if ipo:
        losses = (h - 1 / (2 * beta)) ** 2
    else:
        losses = (1 - label_smoothing) * F.softplus(-beta * h) + label_smoothing * F.softplus(beta * h)
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps).detach()
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps).detach()
    return losses, chosen_rewards, rejected_rewards


class _RobustDPO:
    def __init__(self, beta, label_smoothing):
        if not 0 <= label_smoothing < 0.5:
            raise ValueError("label_smoothing: expected at least 0 and below 1/2")
        self.beta, self.label_smoothing = beta, label_smoothing

    def rewards(self, logps, reference_logps):
        if logps.dtype in (torch.float16, torch.bfloat16):
            logps, reference_logps = logps.float(), reference_logps.float()
        return self.beta * (logps - reference_logps)

    def __call__(self, chosen, rejected, reference_chosen, reference_rejected):
        won, lost = self.rewards(chosen, reference_chosen), self.rewards(rejected, reference_rejected)
        eps = self.label_smoothing
        losses = (eps * F.logsigmoid(lost - won) - (1 - eps) * F.logsigmoid(won - lost)) / (1 - 2 * eps)
        return losses, won.detach(), lost.detach()


@correct(loss="rdpo", framework="torch", dtypes=("float64", "float32", "bfloat16", "float16"), beta=0.1, eps=0.2)
def rdpo_by_a_class(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    beta=0.1, label_smoothing=0.2,
):
    """A class with `__call__`, its settings in `__init__`."""
    loss = _RobustDPO(beta=beta, label_smoothing=label_smoothing)
    return loss(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)


@correct(loss="ipo", framework="torch", dtypes=("float64", "float32", "bfloat16", "float16"), tau=0.1, reduction="mean")
def ipo_per_token_in_a_trainer(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    chosen_length, rejected_length, beta=0.1,
):
    """tau is called beta; half precision is widened before anything is subtracted."""
    work = torch.promote_types(policy_chosen_logps.dtype, torch.float32)
    chosen = (policy_chosen_logps.to(work) - reference_chosen_logps.to(work)) / chosen_length.clamp(min=1)
    rejected = (policy_rejected_logps.to(work) - reference_rejected_logps.to(work)) / rejected_length.clamp(min=1)
    losses = (chosen - rejected - 1 / (2 * beta)) ** 2
    return losses, (beta * chosen).detach(), (beta * rejected).detach()


@correct(loss="simpo", framework="torch", dtypes=("float64", "float32", "bfloat16", "float16"), beta=2.5, gamma=1.0)
def simpo_given_means(policy_chosen_logps, policy_rejected_logps, beta=2.5, simpo_gamma=1.0):
    """Given log-probs per token; gamma over beta inside the bracket; the answer in the dtype that came."""
    dtype = policy_chosen_logps.dtype
    if dtype in (torch.float16, torch.bfloat16):
        policy_chosen_logps, policy_rejected_logps = policy_chosen_logps.float(), policy_rejected_logps.float()
    logits = policy_chosen_logps - policy_rejected_logps - simpo_gamma / beta
    return -F.logsigmoid(beta * logits).to(dtype)


@correct(loss="cpo", framework="torch", beta=0.1, alpha=0.5)
def cpo_with_its_alpha(policy_chosen_logps, policy_rejected_logps, beta=0.1, cpo_alpha=0.5):
    """The contrast and the likelihood of the whole chosen response; the mean."""
    contrast = -F.logsigmoid(beta * (policy_chosen_logps - policy_rejected_logps))
    return (contrast - cpo_alpha * policy_chosen_logps).mean()


@correct(loss="exo", framework="torch", beta=0.1, eps=0.05)
def exo_with_two_logsigmoids(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    beta=0.1, label_smoothing=0.05,
):
    """The reverse KL, term by term, of two log-probabilities and their exponentials."""
    z = beta * ((policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps))
    log_p, log_q = F.logsigmoid(z), F.logsigmoid(-z)
    right = log_p.exp() * (log_p - math.log1p(-label_smoothing))
    return right + log_q.exp() * (log_q - math.log(label_smoothing))


@correct(loss="discopop", framework="torch", beta=0.1, tau=0.1)
def discopop_in_the_log_domain(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    beta=0.1, discopop_tau=0.1,
):
    """The exponential part is one exponential of a sum, which stays finite on both sides."""
    x = beta * ((policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps))
    logistic = -F.logsigmoid(x) * torch.sigmoid(-x / discopop_tau)
    return logistic + torch.exp(F.logsigmoid(x / discopop_tau) - x)


@correct(loss="bco", framework="torch", beta=0.1)
def bco_pair(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1, delta=0.0
):
    """Two classifications, shifted by delta, which is 0 where none is given; losses and rewards."""
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)
    losses = -F.logsigmoid(chosen_rewards - delta) - F.logsigmoid(-(rejected_rewards - delta))
    return losses, chosen_rewards.detach(), rejected_rewards.detach()


# ---- correct: sequence


@correct(seam="sequence", loss="logp", framework="torch", dtypes=("float64", "float32", "bfloat16", "float16"))
def logp_by_logsumexp_minus_gather(logits, tokens, mask):
    """The picked logit less the logsumexp, so that no table of log-probs is made; half precision is widened."""
    x = logits[:, :-1]
    x = x.float() if x.element_size() < 4 else x
    picked = x.gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
    return (picked - x.logsumexp(-1)).masked_fill(~mask[:, 1:], 0).sum(-1)


@correct(seam="sequence", loss="mean_logp", framework="torch")
def mean_logp_of_rolled_labels(logits, labels):
    """Labels are rolled to the left; what comes in from the front is never counted."""
    targets = labels.roll(-1, dims=1)
    counted = targets != -100
    logps = logits.log_softmax(-1).gather(2, targets.where(counted, 0)[:, :, None])[:, :, 0]
    return logps.where(counted, 0).sum(1) / counted.sum(1).clamp(min=1)


# ---- correct: batch


@correct(seam="batch", loss="simpo", framework="torch", dtypes=("float64", "float32", "bfloat16", "float16"),
         beta=2.0, gamma=0.5, options={"layout": "halves"})
def simpo_step_of_halves(logits, labels, beta=2.0, gamma=0.5):
    """F.cross_entropy in float32 at least, means per response, halves by chunk."""
    x = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    targets = labels[:, 1:]
    nll = F.cross_entropy(x.transpose(1, 2), targets, reduction="none", ignore_index=-100)
    chosen, rejected = (-nll.sum(-1) / targets.ne(-100).sum(-1).clamp(min=1)).chunk(2)
    return F.softplus(gamma - beta * (chosen - rejected)).mean()


@correct(seam="batch", framework="torch", beta=0.1, options={"layout": "halves"})
def dpo_step_with_gradient_accumulation(
    logits, reference_logits, tokens, mask, beta=0.1, gradient_accumulation_steps=1
):
    """The mean over the pairs of a micro-batch, divided by how many there are of them."""
    def per_sequence(x):
        logps = torch.take_along_dim(x[:, :-1].log_softmax(-1), tokens[:, 1:, None], dim=-1).squeeze(-1)
        return logps.where(mask[:, 1:], 0).sum(-1)

    B = len(tokens) // 2
    with torch.no_grad():
        reference = per_sequence(reference_logits)
    rewards = beta * (per_sequence(logits) - reference)
    return -F.logsigmoid(rewards[:B] - rewards[B:]).mean() / gradient_accumulation_steps


# ---- correct: unpaired


@correct(seam="unpaired", loss="kto", framework="torch", beta=0.1, lam_d=1.0, lam_u=1.2)
def kto_loss(
    policy_chosen_logps, policy_rejected_logps, policy_KL_logps,
    reference_chosen_logps, reference_rejected_logps, reference_KL_logps,
    beta=0.1, desirable_weight=1.0, undesirable_weight=1.2,
):
    """Chosen and rejected in tensors of their own, the KL from mismatched ones, detached and cut at 0."""
    kl = (policy_KL_logps - reference_KL_logps).mean().detach().clamp(min=0)
    chosen_logratios = policy_chosen_logps - reference_chosen_logps
    rejected_logratios = policy_rejected_logps - reference_rejected_logps
    chosen_losses = torch.sigmoid(-beta * (chosen_logratios - kl))
    rejected_losses = torch.sigmoid(-beta * (kl - rejected_logratios))
    return torch.cat((desirable_weight * chosen_losses, undesirable_weight * rejected_losses), 0)


# ---- correct: token


@correct(seam="token", loss="dapo", framework="torch", eps_low=0.2, eps_high=0.28)
def dapo_with_two_clip_ends(logps, old_logps, advantages, mask, epsilon_low=0.2, epsilon_high=0.28):
    """Losses of both sides, the larger of them, one mean over all tokens."""
    ratio = torch.where(mask, logps - old_logps, 0.0).exp()
    A = advantages.unsqueeze(1)
    losses = torch.max(-A * ratio, -A * ratio.clamp(1 - epsilon_low, 1 + epsilon_high))
    return losses.where(mask, 0).sum() / mask.sum().clamp(min=1)


@correct(seam="token", loss="gspo", framework="torch", eps_low=3e-4, eps_high=4e-4)
def gspo_with_a_sequence_ratio(logps, old_logps, advantages, mask, eps_low=3e-4, eps_high=4e-4):
    """The geometric mean of the token ratios, clipped as one."""
    length = mask.sum(1).clamp(min=1)
    ratio = torch.exp((logps - old_logps).masked_fill(~mask, 0).sum(1) / length)
    clipped = ratio.clamp(1 - eps_low, 1 + eps_high)
    return -torch.min(ratio * advantages, clipped * advantages).mean()


@correct(seam="token", loss="rloo", framework="torch")
def rloo_leaving_one_out(rewards):
    """The baseline is the mean of the others in the group."""
    G = rewards.shape[1]
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / max(G - 1, 1)
    return rewards - others
