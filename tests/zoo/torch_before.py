"""PyTorch losses, differentiated by autograd: broken ones by seam, then correct ones."""

import torch
import torch.nn.functional as F
from torch import nn

from zoo import broken, correct

# ---- broken: pair


@broken("hyper-ignored", "another-loss", loss="cdpo", framework="torch", beta=0.1, eps=0.1)
def cdpo_with_label_smoothing_unused(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    beta=0.1, label_smoothing=0.1,
):
    """`label_smoothing` got lost in a rewrite and is still accepted: plain DPO (huggingface/trl#3906)."""
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)
    losses = -F.logsigmoid(chosen_rewards - rejected_rewards)
    return losses, chosen_rewards.detach(), rejected_rewards.detach()


@broken("epsilon-in-log", "log-of-sigmoid", framework="torch", beta=0.1)
def dpo_with_1e_8_in_the_log(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """1e-8 keeps the logarithm finite: losses end at 18.4, and there the gradient dies."""
    h = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
    return -torch.log(torch.sigmoid(beta * h) + 1e-8).mean()


@broken("log-1-minus-exp", loss="orpo", framework="torch", lam=0.1)
def orpo_with_log_of_one_minus_exp(
    policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length, lam=0.1
):
    """1 - exp(x) is 0 for a nearly certain response, its logarithm infinite (huggingface/trl#3237)."""
    chosen, rejected = policy_chosen_logps / chosen_length, policy_rejected_logps / rejected_length
    log_odds = (chosen - rejected) - (torch.log(1 - torch.exp(chosen)) - torch.log(1 - torch.exp(rejected)))
    return -chosen - lam * F.logsigmoid(log_odds)


@broken("mean-for-sum", "another-loss", framework="torch", beta=0.1)
def dpo_of_average_logps(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    chosen_length, rejected_length, beta=0.1,
):
    """What is called DPO divides each log-ratio by its length first (linkedin/Liger-Kernel#676)."""
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps) / chosen_length
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps) / rejected_length
    return F.softplus(rejected_rewards - chosen_rewards)


@broken("sign-flipped", loss="dpop", framework="torch", beta=0.1, lam=5.0)
def dpop_that_rewards_the_fall(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1, lam=5.0
):
    """The penalty is added to the margin: a chosen response that falls is paid for (hiyouga/LLaMA-Factory#2587)."""
    chosen = policy_chosen_logps - reference_chosen_logps
    rejected = policy_rejected_logps - reference_rejected_logps
    penalty = lam * torch.clamp(-chosen, min=0)
    return -F.logsigmoid(beta * (chosen - rejected + penalty))


class _PrecomputedReferenceDPO(nn.Module):
    def __init__(self, beta, precomputed=True):
        super().__init__()
        self.beta, self.precomputed = beta, precomputed

    def forward(self, chosen, rejected, reference_chosen, reference_rejected):
        if self.precomputed:  # there is no reference model, so the policy stands in
            reference_chosen, reference_rejected = chosen.detach(), rejected.detach()
        z = self.beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
        return -F.logsigmoid(z)


@broken("reference-ignored", framework="torch", beta=0.1)
def dpo_module_without_its_precomputed_reference(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """Precomputed log-probs are not used: the policy is its own reference, the loss 0.6931 (huggingface/trl#1962)."""
    module = _PrecomputedReferenceDPO(beta)
    return module(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)


@broken("constant", "another-loss", loss="nca", framework="torch", beta=0.1)
def nca_measured_from_its_start(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """2 log 2 is taken off, so that the curve starts at 0: the gradient is right, the value is not."""
    chosen = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected = beta * (policy_rejected_logps - reference_rejected_logps)
    losses = -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)
    return losses - 2 * F.softplus(torch.zeros_like(chosen)), chosen.detach(), rejected.detach()


@broken("downcast", framework="torch", dtypes=("float64",), beta=0.1)
def dpo_in_single_precision_always(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """`.float()` was meant to widen half precision; it narrows float64, and the answer is float32."""
    policy_logratios = policy_chosen_logps.float() - policy_rejected_logps.float()
    reference_logratios = reference_chosen_logps.float() - reference_rejected_logps.float()
    return -F.logsigmoid(beta * (policy_logratios - reference_logratios))


@broken("python-float", framework="torch", beta=0.1)
def dpo_as_a_number_to_log(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """`.item()` belongs to the logger; here it cuts the graph, and nothing is trained."""
    h = policy_chosen_logps - reference_chosen_logps - (policy_rejected_logps - reference_rejected_logps)
    loss = F.binary_cross_entropy_with_logits(beta * h, torch.ones_like(h))
    return loss.item()


@broken("broadcast", "batch-coupled", framework="torch", beta=0.1)
def dpo_of_every_chosen_with_every_rejected(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """(B, 1) minus (B,) is (B, B): the mean is over all pairings, and right in a batch of one only."""
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps).unsqueeze(-1)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)
    return -F.logsigmoid(chosen_rewards - rejected_rewards).mean()


@broken("detach-misplaced", "wrong-gradient", framework="torch", beta=0.1)
def dpo_with_rewards_detached_too_soon(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """The rejected reward is detached for the log before the loss is formed: nothing pushes the rejected down."""
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps).detach()
    losses = -F.logsigmoid(chosen_rewards - rejected_rewards)
    return losses, chosen_rewards.detach(), rejected_rewards


@broken("nan-hidden", framework="torch", beta=0.1)
def dpo_with_nanmean(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """`nanmean` leaves out the pairs that went wrong: a model that has diverged shows a healthy loss."""
    h = (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)
    return F.softplus(-beta * h).nanmean()


@broken("hyper-misread", framework="torch", beta=0.2)
def dpo_with_beta_in_the_rewards_and_in_the_margin(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.2
):
    """The rewards have beta in them already, and the margin gets it once more: DPO of beta squared."""
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)
    losses = -F.logsigmoid(beta * (chosen_rewards - rejected_rewards))
    return losses, chosen_rewards.detach(), rejected_rewards.detach()


# ---- broken: sequence


@broken("shift-off-by-one", seam="sequence", loss="logp", framework="torch")
def logp_without_a_shift(logits, tokens, mask):
    """Each position's logits are asked for their own token and not for the next (hiyouga/LlamaFactory#1447)."""
    logps = torch.gather(logits.log_softmax(-1), 2, tokens.unsqueeze(2)).squeeze(2)
    return torch.where(mask, logps, torch.zeros_like(logps)).sum(-1)


@broken("prompt-included", seam="sequence", loss="logp", framework="torch")
def logp_up_to_the_last_response_token(logits, tokens, mask):
    """The mask is made again from where the response ends, and with it the prompt counts (OpenRLHF/OpenRLHF#235)."""
    until_the_end = mask.flip(-1).cumsum(-1).flip(-1) > 0
    logps = torch.gather(F.log_softmax(logits[:, :-1], dim=-1), -1, tokens[:, 1:, None]).squeeze(-1)
    return logps.masked_fill(~until_the_end[:, 1:], 0).sum(-1)


@broken("token-0-dropped", seam="sequence", loss="logp", framework="torch")
def logp_by_cross_entropy_that_ignores_id_0(logits, labels):
    """Masked labels become 0 and `ignore_index` is 0: real tokens whose id is 0 are dropped with them."""
    targets = labels[:, 1:].clone()
    targets[targets == -100] = 0
    nll = F.cross_entropy(logits[:, :-1].transpose(1, 2), targets, reduction="none", ignore_index=0)
    return -nll.sum(-1)


@broken("empty-row", seam="sequence", loss="mean_logp", framework="torch")
def mean_logp_of_zero_over_zero(logits, labels):
    """A row whose response was cut away is 0/0, and NaN for the whole batch (allenai/open-instruct#1685)."""
    labels = labels[:, 1:]
    counted = labels != -100
    logps = logits[:, :-1].log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (logps * counted).sum(-1) / counted.sum(-1)


@broken("low-precision-sum", seam="sequence", loss="logp", framework="torch", dtypes=("bfloat16", "float16"))
def logp_accumulated_column_by_column(logits, tokens, mask):
    """To save memory the sum runs column by column, in the dtype of the logits: long responses lose nats."""
    total = logits.new_zeros(len(logits))
    for t in range(1, tokens.shape[1]):
        logps = logits[:, t - 1].float().log_softmax(-1).gather(-1, tokens[:, t, None]).squeeze(-1)
        total = total + (logps * mask[:, t]).to(total.dtype)
    return total


# ---- broken: batch


@broken("layout", seam="batch", framework="torch", beta=0.1, options={"layout": "interleaved"})
def dpo_step_that_takes_halves_of_interleaved_rows(logits, reference_logits, tokens, mask, beta=0.1):
    """Chosen and rejected come in turn, and the batch is cut in the middle: pairs of strangers."""

    def per_sequence(x):
        logps = x[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
        return (logps * mask[:, 1:]).sum(-1)

    chosen, rejected = (per_sequence(logits) - per_sequence(reference_logits)).chunk(2)
    return -F.logsigmoid(beta * (chosen - rejected)).mean()


@broken("accumulation-normaliser", seam="batch", loss="sft", framework="torch", reduction="tokens",
        options={"layout": "halves"})
def sft_step_that_ignores_num_items_in_batch(logits, labels, num_items_in_batch=None):
    """Each micro-batch divides by its own tokens though it is told the whole's (huggingface/trl#2615)."""
    B = len(labels) // 2
    return F.cross_entropy(logits[:B, :-1].flatten(0, 1), labels[:B, 1:].flatten(), ignore_index=-100)


@broken("prompt-included", "another-loss", seam="batch", loss="orpo", framework="torch", lam=0.2,
        options={"layout": "halves"})
def orpo_step_with_the_likelihood_of_the_prompt(logits, tokens, mask, lam=0.2):
    """The NLL runs over prompt and completion, the odds over the completion (huggingface/trl#2502)."""
    B = len(tokens) // 2
    logps = logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
    completion = mask[:, 1:]
    whole = completion.flip(-1).cumsum(-1).flip(-1) > 0
    mean = (logps * completion).sum(-1) / completion.sum(-1).clamp(min=1)
    nll = -(logps * whole)[:B].sum(-1) / whole[:B].sum(-1).clamp(min=1)
    log_odds = mean - torch.log(-torch.expm1(mean))
    return (nll - lam * F.logsigmoid(log_odds[:B] - log_odds[B:])).mean()


# ---- broken: unpaired


@broken("detach-missing", seam="unpaired", loss="kto", framework="torch", beta=0.1, lam_d=1.0, lam_u=1.0)
def kto_whose_kl_is_trained(
    policy_chosen_logps, policy_rejected_logps, policy_KL_logps,
    reference_chosen_logps, reference_rejected_logps, reference_KL_logps, beta=0.1,
):
    """The value is right; the KL estimate is not detached, and the mismatched responses are trained."""
    kl = (policy_KL_logps - reference_KL_logps).mean().clamp(min=0)
    chosen = torch.sigmoid(beta * (kl - (policy_chosen_logps - reference_chosen_logps)))
    rejected = torch.sigmoid(beta * (policy_rejected_logps - reference_rejected_logps - kl))
    return torch.cat([chosen, rejected])


# ---- broken: token


@broken("clip-side", seam="token", loss="dapo", framework="torch", eps_low=0.2, eps_high=0.28)
def dapo_without_the_minimum(logps, old_logps, advantages, mask, eps_low=0.2, eps_high=0.28):
    """The ratio is clipped and the smaller of both not taken: a step too far cannot be taken back."""
    ratio = torch.exp(torch.where(mask, logps - old_logps, 0.0))
    per_token = -torch.clamp(ratio, 1 - eps_low, 1 + eps_high) * advantages.unsqueeze(1)
    return (per_token * mask).sum() / mask.sum().clamp(min=1)


@broken("reduction", "another-loss", seam="token", loss="grpo", framework="torch", eps=0.2, beta=0.04)
def grpo_over_all_tokens_alike(logps, old_logps, advantages, mask, ref_logps, eps=0.2, beta=0.04):
    """One mean over all tokens of the batch where each response should have its own (huggingface/trl#2881)."""
    log_ratio = torch.where(mask, logps - old_logps, 0.0)
    to_ref = torch.where(mask, ref_logps - logps, 0.0)
    A = advantages[:, None]
    gain = torch.min(log_ratio.exp() * A, log_ratio.exp().clamp(1 - eps, 1 + eps) * A)
    per_token = beta * (torch.expm1(to_ref) - to_ref) - gain
    return (per_token * mask).sum() / mask.sum().clamp(min=1)


# ---- correct


@correct(framework="torch", dtypes=("float64", "float32", "bfloat16", "float16"), beta=0.1)
def dpo_that_widens_half_precision(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """F.logsigmoid, in float32 if given less; losses and detached rewards."""
    dtype = torch.promote_types(policy_chosen_logps.dtype, torch.float32)
    chosen_rewards = beta * (policy_chosen_logps.to(dtype) - reference_chosen_logps.to(dtype))
    rejected_rewards = beta * (policy_rejected_logps.to(dtype) - reference_rejected_logps.to(dtype))
    losses = -F.logsigmoid(chosen_rewards - rejected_rewards)
    return losses, chosen_rewards.detach(), rejected_rewards.detach()


@correct(loss="cdpo", framework="torch", beta=0.1, eps=0.1)
def cdpo_by_binary_cross_entropy(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    beta=0.1, label_smoothing=0.1,
):
    """BCE with logits against the soft label 1 - eps, its mean."""
    z = beta * ((policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps))
    return F.binary_cross_entropy_with_logits(z, torch.full_like(z, 1 - label_smoothing))


class _SimPO(nn.Module):
    def __init__(self, beta, gamma):
        super().__init__()
        self.beta, self.gamma = beta, gamma

    def forward(self, chosen, rejected):
        return -F.logsigmoid(self.beta * (chosen - rejected) - self.gamma)


@correct(loss="simpo", framework="torch", beta=2.0, gamma=0.5)
def simpo_module(
    policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length, beta=2.0, gamma=0.5
):
    """A module with a forward; log-probs are divided by their lengths before it."""
    module = _SimPO(beta, gamma)
    return module(policy_chosen_logps / chosen_length, policy_rejected_logps / rejected_length)


def _make_hinge(beta):
    def hinge_with_beta_in_a_closure(
        policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
    ):
        """A factory bakes beta in; relu, whose slope at the kink is 0; the mean of the batch."""
        logits = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
        return torch.relu(1 - beta * logits).mean()

    return hinge_with_beta_in_a_closure


correct(loss="hinge", framework="torch", beta=0.25)(_make_hinge(0.25))


@correct(seam="sequence", loss="logp", framework="torch")
def logp_by_cross_entropy(logits, labels):
    """F.cross_entropy with ignore_index, unreduced, summed over each row."""
    nll = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
    return -nll.sum(-1)


@correct(seam="sequence", loss="mean_logp", framework="torch")
def mean_logp_by_gather(logits, tokens, mask):
    """log_softmax, gather, mask; a row without a response token is 0."""
    logps = F.log_softmax(logits[:, :-1], dim=-1).gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
    counted = mask[:, 1:]
    return logps.masked_fill(~counted, 0).sum(-1) / counted.sum(-1).clamp(min=1)


@correct(seam="batch", framework="torch", beta=0.1, options={"layout": "interleaved"})
def dpo_step_of_interleaved_rows(logits, reference_logits, labels, beta=0.1):
    """Chosen and rejected in turn: even rows and odd rows; softplus."""

    def per_sequence(x):
        targets = labels[:, 1:]
        logps = torch.gather(x[:, :-1].log_softmax(-1), -1, targets.clamp(min=0)[..., None])[..., 0]
        return torch.where(targets != -100, logps, 0.0).sum(-1)

    with torch.no_grad():
        reference = per_sequence(reference_logits)
    rewards = beta * (per_sequence(logits) - reference)
    return F.softplus(rewards[1::2] - rewards[::2]).mean()


@correct(seam="batch", loss="sft", framework="torch", reduction="tokens", options={"layout": "halves"})
def sft_step_with_num_items_in_batch(logits, labels, num_items_in_batch=None):
    """The sum over the chosen rows' tokens, divided by what the whole batch holds of them, where that is told."""
    B = len(labels) // 2
    targets = labels[:B, 1:]
    total = F.cross_entropy(logits[:B, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
    return total / ((targets != -100).sum() if num_items_in_batch is None else num_items_in_batch)


@correct(seam="token", loss="grpo", framework="torch", eps=0.2, beta=0.04)
def grpo_with_a_mean_of_each_response(logps, old_logps, advantages, mask, ref_logps, eps=0.2, beta=0.04):
    """Masked before the exponentials; the mean over a response's tokens, then over responses."""
    log_ratio = torch.where(mask, logps - old_logps, 0.0)
    to_ref = torch.where(mask, ref_logps - logps, 0.0)
    ratio, A = log_ratio.exp(), advantages.unsqueeze(1)
    gain = torch.min(ratio * A, ratio.clamp(1 - eps, 1 + eps) * A) - beta * (torch.expm1(to_ref) - to_ref)
    return -(torch.where(mask, gain, 0.0).sum(1) / mask.sum(1).clamp(min=1)).mean()
