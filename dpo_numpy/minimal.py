"""All of DPO on one page, from logits to updated weights. Copy it, print it; the library is tested equal to it.

    W --rows--> logits --log-softmax, pick, sum--> log π(y|x) --minus reference--> margin --(-log σ)--> loss, and back
"""

import numpy as np


def sequence_logps(logits, tokens, mask):
    """log π(y|x) = Σₜ log softmax(logitsₜ₋₁)[tokenₜ] over the masked tokens, and ∂/∂logits = onehot - softmax there"""
    logits, tokens, mask = logits[:, :-1], tokens[:, 1:], mask[:, 1:]  # logits at t - 1 predict the token at t
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logps = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    picked = np.take_along_axis(logps, tokens[..., None], axis=-1)[..., 0]
    onehot = np.arange(logits.shape[-1]) == tokens[..., None]
    slope = (onehot - np.exp(logps)) * mask[..., None]
    slope = np.pad(slope, [(0, 0), (0, 1), (0, 0)])  # the last logits predict nothing
    return (picked * mask).sum(axis=-1), slope


def dpo_loss(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta):
    """-log σ(z),  z = β [(log-ratio of the chosen) - (log-ratio of the rejected)];  ∂/∂chosen = -β σ(-z) = -∂/∂rejected

    Rafailov et al. 2023, eq. 7. Nats; one loss and one gradient a pair.

    >>> loss, up, down = dpo_loss(-2.1, -4.5, -3.0, -3.2, beta=0.1)
    >>> print(f"loss {loss:.6f}, d/d chosen {up:+.6f}, d/d rejected {down:+.6f}")
    loss 0.589185, d/d chosen -0.044522, d/d rejected +0.044522
    """
    z = beta * ((policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps))
    wrong = np.exp(-np.logaddexp(0, z))  # σ(-z): how sure the implicit reward is of the wrong order
    return np.logaddexp(0, -z), -beta * wrong, beta * wrong


def dpo_step(W, W_ref, chosen, rejected, beta, lr):
    """One step of gradient descent on a bigram LM, `W[current, next]`, over B pairs: the mean loss and the new W

    chosen, rejected: (tokens, mask), each (B, T).
    """
    (tokens_w, mask_w), (tokens_l, mask_l) = chosen, rejected
    logps_w, slope_w = sequence_logps(W[tokens_w], tokens_w, mask_w)
    logps_l, slope_l = sequence_logps(W[tokens_l], tokens_l, mask_l)
    ref_w, _ = sequence_logps(W_ref[tokens_w], tokens_w, mask_w)
    ref_l, _ = sequence_logps(W_ref[tokens_l], tokens_l, mask_l)
    losses, up, down = dpo_loss(logps_w, logps_l, ref_w, ref_l, beta)
    dW = np.zeros_like(W)  # a row of W was used wherever its token stood
    np.add.at(dW, tokens_w, up[:, None, None] * slope_w / len(losses))
    np.add.at(dW, tokens_l, down[:, None, None] * slope_l / len(losses))
    return losses.mean(), W - lr * dW
