"""More JAX losses, differentiated by jax.grad: broken ones by seam, then correct ones."""

import jax
import jax.numpy as jnp

from zoo import broken, correct

# ---- broken


@broken("exp-overflow", loss="discopop", framework="jax", beta=0.5, tau=0.5)
def discopop_as_it_is_printed(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.5, tau=0.5
):
    """The exponential part is a product: where a pair is badly wrong, 0 times infinity."""
    x = beta * (policy_chosen_logps - policy_rejected_logps - (reference_chosen_logps - reference_rejected_logps))
    modulation = jax.nn.sigmoid(x / tau)
    return -(1 - modulation) * jax.nn.log_sigmoid(x) + modulation * jnp.exp(-x)


@broken("nan-hidden", loss="ipo", framework="jax", tau=0.1)
def ipo_with_nan_to_num(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, tau=0.1
):
    """A NaN log-prob counts as a loss of 0: runs that have diverged look as if they had converged."""
    h = (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)
    losses = jnp.square(h - 0.5 / tau)
    return jnp.mean(jnp.where(jnp.isnan(losses), 0.0, losses))


@broken("reference-ignored", "another-loss", loss="hinge", framework="jax", beta=0.1)
def hinge_that_is_reference_free_by_default(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
    beta=0.1, reference_free=True,
):
    """An option for ablations stands at True: the reference is taken and multiplied by 0."""
    keep = 0.0 if reference_free else 1.0
    reference_logratios = keep * (reference_chosen_logps - reference_rejected_logps)
    logits = policy_chosen_logps - policy_rejected_logps - reference_logratios
    return jax.nn.relu(1 - beta * logits)


@broken("eos-masked", "pad-is-eos", "last-token-dropped", seam="sequence", loss="logp", framework="jax")
def logp_until_the_first_eos(logits, tokens, mask, eos_token_id=2):
    """What counts ends before the first EOS of the response, not with it: how to stop is never learned."""
    seen = jnp.cumsum(mask & (tokens == eos_token_id), axis=-1) > 0
    counted = (mask & ~seen)[:, 1:]
    x = logits[:, :-1]
    picked = jnp.take_along_axis(x, tokens[:, 1:, None], axis=-1).squeeze(-1)
    return jnp.sum(jnp.where(counted, picked - jax.nn.logsumexp(x, axis=-1), 0), axis=-1)


@broken("prompt-included", "length-with-padding", "reduction", seam="sequence", loss="mean_logp", framework="jax")
def mean_logp_over_prompt_and_response(logits, tokens, mask):
    """The sum is over the response, the length that of prompt and response: a long prompt makes it small."""
    position = jnp.arange(1, tokens.shape[1] + 1)
    length = jnp.maximum(jnp.max(jnp.where(mask, position, 0), axis=-1), 1)
    logps = jax.nn.log_softmax(logits[:, :-1])
    picked = jnp.take_along_axis(logps, tokens[:, 1:, None], axis=-1).squeeze(-1)
    return jnp.sum(picked, axis=-1, where=mask[:, 1:]) / length


@broken("length-with-padding", seam="batch", loss="simpo", framework="jax", beta=2.5, gamma=0.5,
        options={"layout": "halves"})
def simpo_step_with_mean_over_the_last_axis(logits, tokens, mask, beta=2.5, gamma=0.5):
    """`mean` over positions after the mask: lengths are the width of the batch, for every response."""
    logps = jax.nn.log_softmax(logits[:, :-1], axis=-1)
    picked = jnp.take_along_axis(logps, tokens[:, 1:, None], axis=-1)[..., 0]
    chosen, rejected = jnp.split(jnp.mean(jnp.where(mask[:, 1:], picked, 0), axis=-1), 2)
    return -jax.nn.log_sigmoid(beta * (chosen - rejected) - gamma).mean()


@broken("hyper-misread", seam="unpaired", loss="kto", framework="jax", beta=0.2, lam_d=1.0, lam_u=1.0)
def kto_with_beta_twice_on_the_kl(policy_logps, reference_logps, labels, kl, beta=0.2):
    """The reference point is made a reward, beta times the KL, and then gets beta with the rest once more."""
    log_ratio = policy_logps - reference_logps
    baseline = jax.lax.stop_gradient(beta * kl)
    z = beta * jnp.where(labels, log_ratio - baseline, baseline - log_ratio)
    return jax.nn.sigmoid(-z)


@broken("length-with-padding", "hyper-ignored", seam="token", loss="dr_grpo", framework="jax", eps=0.2, max_length=32)
def dr_grpo_over_the_width_of_the_batch(logps, old_logps, advantages, mask, eps=0.2, max_length=32):
    """The constant that divides is the width of this batch, which its longest response decides."""
    log_ratio = jnp.where(mask, logps - old_logps, 0)
    ratio, A = jnp.exp(log_ratio), advantages[:, None]
    gain = jnp.minimum(ratio * A, jnp.clip(ratio, 1 - eps, 1 + eps) * A)
    return -jnp.sum(jnp.where(mask, gain, 0)) / (logps.shape[0] * logps.shape[1])


# ---- correct


@correct(loss="nca", framework="jax", beta=0.1)
def nca_with_softplus(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """jax.nn.softplus of rewards, three times; the mean."""
    chosen = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected = beta * (policy_rejected_logps - reference_rejected_logps)
    losses = jax.nn.softplus(-chosen) + 0.5 * jax.nn.softplus(chosen) + 0.5 * jax.nn.softplus(rejected)
    return losses.mean()


@correct(seam="sequence", loss="logp", framework="jax")
def logp_with_one_hot(logits, labels):
    """one_hot of -100 is a row of zeros, so that a sum with it picks and masks at once."""
    onehot = jax.nn.one_hot(labels[:, 1:], logits.shape[-1], dtype=logits.dtype)
    return jnp.einsum("btv,btv->b", jax.nn.log_softmax(logits[:, :-1], axis=-1), onehot)


@correct(seam="unpaired", loss="kto", framework="jax", beta=0.1, lam_d=1.0, lam_u=1.0)
def kto_with_a_given_kl(policy_logps, reference_logps, labels, kl, beta=0.1):
    """A sign for each label, sigmoid of minus the advantage over the KL; the mean."""
    sign = jnp.where(labels, 1, -1).astype(policy_logps.dtype)
    z = sign * (policy_logps - reference_logps - jax.lax.stop_gradient(kl))
    return jnp.mean(jax.nn.sigmoid(-beta * z))
