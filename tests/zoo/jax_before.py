"""JAX losses, differentiated by jax.grad: broken ones by seam, then correct ones."""

import jax
import jax.numpy as jnp

from zoo import broken, correct

# ---- broken


@broken("where-nan", framework="jax", beta=0.5)
def dpo_with_both_branches_of_a_where(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.5
):
    """Each branch is right where it is taken; the gradient of the other, which overflows, is 0 times infinity."""
    z = beta * ((policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps))
    return jnp.where(z > 0, jnp.log1p(jnp.exp(-z)), jnp.log1p(jnp.exp(z)) - z)


@broken("log-of-sigmoid", framework="jax", beta=0.1)
def dpo_with_log_of_sigmoid(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """The formula as it is printed: the sigmoid of a badly wrong pair is 0, its logarithm minus infinity."""
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)
    return -jnp.log(1 / (1 + jnp.exp(rejected_rewards - chosen_rewards))).mean()


@broken("wrong-shape", loss="sppo", framework="jax", beta=0.5)
def sppo_that_keeps_the_axis(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.5
):
    """`keepdims` is left over from an earlier version: losses are (B, 1), ready to broadcast with weights (B,)."""
    ratios = jnp.stack(
        [policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps], axis=-1
    )
    target = jnp.array([0.5, -0.5], ratios.dtype) / beta
    return jnp.sum((ratios - target) ** 2, axis=-1, keepdims=True)


@broken("eos-masked", "last-token-dropped", seam="sequence", loss="logp", framework="jax")
def logp_of_positions_with_a_successor(logits, tokens, mask):
    """A position counts if the next one does too, which the last of each response, EOS, has not."""
    counted = mask[:, 1:] & jnp.pad(mask[:, 2:], ((0, 0), (0, 1)))
    logps = jax.nn.log_softmax(logits[:, :-1], axis=-1)
    picked = jnp.take_along_axis(logps, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.where(counted, picked, 0).sum(axis=-1)


@broken("sum-for-mean", "factor", seam="batch", framework="jax", beta=0.1, options={"layout": "halves"})
def dpo_step_summed_over_pairs(logits, reference_logits, tokens, mask, beta=0.1):
    """The sum over pairs where the mean is meant: the step grows with the batch."""

    def per_sequence(x):
        x = x[:, :-1]
        picked = jnp.take_along_axis(x, tokens[:, 1:, None], axis=-1).squeeze(-1)
        return jnp.where(mask[:, 1:], picked - jax.nn.logsumexp(x, axis=-1), 0).sum(axis=-1)

    ratios = per_sequence(logits) - jax.lax.stop_gradient(per_sequence(reference_logits))
    chosen, rejected = jnp.split(ratios, 2)
    return -jax.nn.log_sigmoid(beta * (chosen - rejected)).sum()


@broken("kl-matched", seam="unpaired", loss="kto", framework="jax", beta=0.1, lam_d=1.0, lam_u=1.0)
def kto_with_the_kl_of_matched_pairs(
    policy_chosen_logps, policy_rejected_logps, policy_KL_logps,
    reference_chosen_logps, reference_rejected_logps, reference_KL_logps, beta=0.1,
):
    """The KL estimate is that of the responses to their own prompts, and the mismatched ones are not looked at."""
    chosen = policy_chosen_logps - reference_chosen_logps
    rejected = policy_rejected_logps - reference_rejected_logps
    kl = jax.lax.stop_gradient(jnp.maximum(jnp.concatenate([chosen, rejected]).mean(), 0))
    return jnp.concatenate([jax.nn.sigmoid(beta * (kl - chosen)), jax.nn.sigmoid(beta * (rejected - kl))])


@broken("ddof", seam="token", loss="group_advantage", framework="jax", ddof=1, eps=1e-4)
def group_advantage_with_the_population_std(rewards, eps=1e-4):
    """`std` without ddof divides by G, not by G - 1: in small groups advantages are larger."""
    mean = rewards.mean(axis=-1, keepdims=True)
    return (rewards - mean) / (jnp.std(rewards, axis=-1, keepdims=True) + eps)


# ---- correct


@correct(framework="jax", beta=0.1)
def dpo_with_log_sigmoid(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):
    """jax.nn.log_sigmoid; losses and rewards behind a stop_gradient."""
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)
    losses = -jax.nn.log_sigmoid(chosen_rewards - rejected_rewards)
    return losses, jax.lax.stop_gradient(chosen_rewards), jax.lax.stop_gradient(rejected_rewards)


@correct(seam="sequence", loss="mean_logp", framework="jax")
def mean_logp_with_take_along_axis(logits, labels):
    """log_softmax and take_along_axis; labels of -100 do not count, a row of them is 0."""
    targets = labels[:, 1:]
    counted = targets != -100
    logps = jax.nn.log_softmax(logits[:, :-1], axis=-1)
    picked = jnp.take_along_axis(logps, jnp.where(counted, targets, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(counted, picked, 0).sum(axis=-1) / jnp.maximum(counted.sum(axis=-1), 1)
