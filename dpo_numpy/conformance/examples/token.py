"""The seam "token": surrogates of policy gradients, KL estimators, advantages.

    dpo-numpy verify dpo_numpy.conformance.examples.token:grpo --seam token --loss grpo --eps 0.2 --beta 0.04
    dpo-numpy verify dpo_numpy.conformance.examples.token:k3 --seam token --loss k3
    dpo-numpy verify dpo_numpy.conformance.examples.token:group_advantage --seam token --loss group_advantage
"""

import numpy as np


def grpo(logps, old_logps, advantages, mask, ref_logps, eps=0.2, beta=0.04):
    """The mean over responses of the mean over their tokens; its gradient is not returned"""
    ratio, A = np.exp(logps - old_logps), advantages[:, None]
    gain = np.minimum(ratio * A, np.clip(ratio, 1 - eps, 1 + eps) * A) - beta * k3(logps, ref_logps)[0]
    return -((gain * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)).mean()


def k3(logps, ref_logps):
    """e⁻ᵈ - 1 + d of each token, and the gradient of the sum"""
    d = logps - ref_logps
    return np.expm1(-d) + d, -np.expm1(-d)


def group_advantage(rewards, ddof=1, eps=1e-4):
    """Rewards (P, G) of G responses to each of P prompts"""
    return (rewards - rewards.mean(axis=1, keepdims=True)) / (rewards.std(axis=1, ddof=ddof, keepdims=True) + eps)
