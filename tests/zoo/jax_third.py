"""Losses in JAX, written as people write them; with one mistake each, or with none."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax, nn

from zoo import broken, correct

# ---- pairs, with a mistake


@broken("log-of-sigmoid", loss="simpo", framework="jax", beta=2.0, gamma=1.0)
@jax.jit
def simpo_with_the_log_of_a_sigmoid(policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length,
                                    beta=2.0, gamma=1.0):
    """log(sigmoid(z)): -inf where the sigmoid underflows, and no slope where it is 1."""
    z = beta * (policy_chosen_logps / chosen_length - policy_rejected_logps / rejected_length) - gamma
    return -jnp.log(nn.sigmoid(z))


@broken("detach-misplaced", loss="dpop", framework="jax", beta=0.1, lam=5.0)
def dpop_with_a_frozen_penalty(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                               reference_rejected_logps, beta=0.1, lam=5.0):
    """The penalty is in the value, its gradient is stopped."""
    chosen = policy_chosen_logps - reference_chosen_logps
    rejected = policy_rejected_logps - reference_rejected_logps
    penalty = lax.stop_gradient(jnp.maximum(0, -chosen))
    return -nn.log_sigmoid(beta * (chosen - rejected - lam * penalty))


@broken("swapped", loss="nca", framework="jax", beta=0.1)
def nca_with_exchanged_roles(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                             reference_rejected_logps, beta=0.1):
    """Unpacked in the wrong order: the rejected response is the one that is classified as good."""
    rejected, chosen = (beta * (ours - theirs) for ours, theirs in (
        (policy_chosen_logps, reference_chosen_logps), (policy_rejected_logps, reference_rejected_logps)))
    return nn.softplus(-chosen) + 0.5 * nn.softplus(chosen) + 0.5 * nn.softplus(rejected)


@broken("downcast", loss="hinge", framework="jax", dtypes=("float64",), beta=0.1)
def hinge_in_single_precision(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                              reference_rejected_logps, beta=0.1):
    """Everything is made float32 at the door, doubles too."""
    pc, pr, rc, rr = (jnp.asarray(x, jnp.float32) for x in (policy_chosen_logps, policy_rejected_logps,
                                                          reference_chosen_logps, reference_rejected_logps))
    return nn.relu(1 - beta * ((pc - rc) - (pr - rr)))


@broken("hyper-misread", loss="ipo", framework="jax", tau=0.25, reduction="mean")
def ipo_with_the_inverse_of_tau(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps,
                                reference_rejected_logps, chosen_length, rejected_length, tau=0.25):
    """The target is 1/τ, without the 2."""
    ratio = (policy_chosen_logps - reference_chosen_logps) / chosen_length
    ratio -= (policy_rejected_logps - reference_rejected_logps) / rejected_length
    return jnp.mean(jnp.square(ratio - 1 / tau))


# ---- sequences, with a mistake


@broken("epsilon-in-log", seam="sequence", loss="logp", framework="jax")
def logp_with_a_little_added(logits, tokens, mask):
    """log(p + 1e-8): a token of probability e^-30 comes out at e^-18."""
    p = nn.softmax(logits[:, :-1], axis=-1)
    picked = jnp.take_along_axis(p, tokens[:, 1:, None], axis=-1).squeeze(-1)
    return jnp.sum(jnp.log(picked + 1e-8) * mask[:, 1:], axis=-1)


@broken("eos-masked", "last-token-dropped", seam="sequence", loss="logp", framework="jax")
@jax.jit
def logp_without_what_ends_a_response(logits, tokens, mask):
    """A token counts if the one after it does too, which EOS's does not."""
    logps = nn.log_softmax(logits[:, :-1], axis=-1)
    picked = jnp.take_along_axis(logps, tokens[:, 1:, None], axis=-1)[..., 0]
    followed = jnp.concatenate([mask[:, 2:], jnp.zeros_like(mask[:, :1])], axis=1)
    return jnp.where(mask[:, 1:] & followed, picked, 0).sum(axis=-1)


# ---- batches, with a mistake


@broken("factor", "reduction", seam="batch", loss="dpo", framework="jax", options={"layout": "interleaved"}, beta=0.1)
def dpo_batch_per_row(logits, reference_logits, tokens, mask, beta=0.1):
    """The sum over pairs is divided by the number of rows, which is twice that of the pairs."""
    def logp(x):
        hot = nn.one_hot(tokens[:, 1:], x.shape[-1], dtype=x.dtype) * mask[:, 1:, None]
        return jnp.einsum("btv,btv->b", hot, nn.log_softmax(x[:, :-1]))

    ratio = logp(logits) - logp(reference_logits)
    return -nn.log_sigmoid(beta * (ratio[0::2] - ratio[1::2])).sum() / len(ratio)


# ---- single responses and tokens, with a mistake


@broken("factor", "hyper-misread", seam="unpaired", loss="apo_zero_unpaired", framework="jax", beta=0.1)
def apo_zero_unpaired_scaled_by_beta(policy_logps, reference_logps, labels, kl=0.0, beta=0.1):
    """The loss as a whole is multiplied by β, as if it were a reward."""
    reward = beta * (policy_logps - reference_logps)
    return beta * jnp.exp(nn.log_sigmoid(jnp.where(labels, -reward, reward)))


@broken("estimator", seam="token", loss="k3", framework="jax")
def k3_with_its_ratio_upside_down(logps, ref_logps):
    """π/π_ref where k3 has π_ref/π (as in a book's code)."""
    d = logps - ref_logps
    return jnp.expm1(d) - d


@broken("hyper-ignored", "clip-side", seam="token", loss="dapo", framework="jax", eps_low=0.2, eps_high=0.28)
def dapo_with_one_epsilon(logps, old_logps, advantages, mask, eps_low=0.2, eps_high=0.28):
    """The upper end of the clip takes the lower ε."""
    ratio = jnp.exp(jnp.where(mask, logps - old_logps, 0))
    A = advantages[:, None]
    gain = jnp.minimum(ratio * A, jnp.clip(ratio, 1 - eps_low, 1 + eps_low) * A)
    return -jnp.sum(gain * mask) / jnp.maximum(mask.sum(), 1)


# ---- without a mistake


@correct(loss="hinge", framework="jax", beta=0.2)
@partial(jax.jit, static_argnames="beta")
def hinge_jitted(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps,
                 beta=0.2):
    """`jit` with a static β, and `relu`."""
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    rewards = lax.stop_gradient((beta * chosen, beta * rejected))
    return nn.relu(1 - beta * (chosen - rejected)), *rewards


@correct(loss="simpo", framework="jax", beta=2.5, gamma=0.5, eps=0.1)
def simpo_by_vmap(policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length, beta=2.5, gamma=0.5,
                  label_smoothing=0.1):
    """One pair at a time under `vmap`, smoothed."""
    def one(chosen, rejected, of_chosen, of_rejected):
        z = beta * (chosen / of_chosen - rejected / of_rejected) - gamma
        return (1 - label_smoothing) * nn.softplus(-z) + label_smoothing * nn.softplus(z)

    return jax.vmap(one)(policy_chosen_logps, policy_rejected_logps, chosen_length, rejected_length)


class Hyper:
    """β kept in an object, the loss a bound method."""

    def __init__(self, beta):
        self.beta = beta

    def loss(self, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):
        a = self.beta * (policy_chosen_logps - lax.stop_gradient(reference_chosen_logps))
        b = self.beta * (policy_rejected_logps - lax.stop_gradient(reference_rejected_logps))
        return jnp.logaddexp(0, b - a).mean()


dpo_as_a_bound_method = correct(loss="dpo", framework="jax", beta=0.05)(Hyper(0.05).loss)


@correct(seam="sequence", loss="logp", framework="jax")
def logp_by_scan(logits, tokens, mask):
    """`lax.scan` over positions, with a running sum."""
    def step(total, at):
        x, token, counted = at
        picked = jnp.take_along_axis(x, token[:, None], axis=-1)[:, 0] - nn.logsumexp(x, axis=-1)
        return total + jnp.where(counted, picked, 0), None

    steps = (logits[:, :-1].swapaxes(0, 1), tokens[:, 1:].T, mask[:, 1:].T)
    return lax.scan(step, jnp.zeros(len(tokens), logits.dtype), steps)[0]


@correct(seam="sequence", loss="mean_logp", framework="jax")
def mean_logp_by_comparison(logits, labels):
    """A comparison with the vocabulary in place of a gather; -100 equals no token."""
    hot = labels[:, 1:, None] == jnp.arange(logits.shape[-1])
    total = jnp.where(hot, nn.log_softmax(logits[:, :-1], axis=-1), 0).sum((1, 2))
    return total / jnp.maximum(hot.sum((1, 2)), 1)


@correct(seam="batch", loss="cpo", framework="jax", options={"layout": "halves"}, beta=0.1, alpha=0.2)
def cpo_batch_in_halves(logits, tokens, mask, beta=0.1, alpha=0.2):
    """Halves by `reshape`; the likelihood of whole responses."""
    x = logits[:, :-1]
    each = jnp.take_along_axis(x, tokens[:, 1:, None], -1)[..., 0] - nn.logsumexp(x, -1)
    chosen, rejected = jnp.where(mask[:, 1:], each, 0).sum(-1).reshape(2, -1)
    return (nn.softplus(beta * (rejected - chosen)) - alpha * chosen).mean()


@correct(seam="unpaired", loss="kto", framework="jax", beta=0.1, lam_d=1.0, lam_u=1.0)
def kto_with_a_stopped_baseline(policy_logps, reference_logps, labels, policy_KL_logps, reference_KL_logps, beta=0.1):
    """The mean first, then the bound at 0, then `stop_gradient`."""
    z0 = lax.stop_gradient(nn.relu(jnp.mean(policy_KL_logps - reference_KL_logps)))
    gain = beta * (policy_logps - reference_logps - z0)
    return jnp.exp(-nn.softplus(jnp.where(labels, gain, -gain)))


@correct(seam="token", loss="ppo_clip", framework="jax", eps=0.2)
def ppo_clipped_in_the_exponent(logps, old_logps, advantages, mask, eps=0.2):
    """The side that counts is picked before the exponential."""
    d = jnp.where(mask, logps - old_logps, 0)
    up = jnp.broadcast_to(advantages[:, None] >= 0, d.shape)
    bound = jnp.where(up, math.log1p(eps), math.log1p(-eps)).astype(d.dtype)
    stopped = jnp.where(up, d >= bound, d <= bound)
    ratio = jnp.exp(jnp.where(stopped, bound, d))
    return -jnp.sum(jnp.where(mask, ratio * advantages[:, None], 0)) / jnp.maximum(mask.sum(), 1)


@correct(seam="token", loss="gae", framework="jax", gamma=1.0, lam=0.95)
def gae_by_reverse_scan(rewards, values, gamma=1.0, lam=0.95):
    """`lax.scan` from the end."""
    ahead = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
    delta = rewards + gamma * ahead - values

    def step(carry, now):
        carry = now + gamma * lam * carry
        return carry, carry

    return lax.scan(step, jnp.zeros_like(delta[:, 0]), delta.T, reverse=True)[1].T
