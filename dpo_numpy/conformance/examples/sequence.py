"""The seam "sequence": logits in, log-probs of responses out.

    dpo-numpy verify dpo_numpy.conformance.examples.sequence:logp --seam sequence --loss logp
"""

import numpy as np


def logp(logits, labels):
    """Log-probs (B,) of the labels that are not -100, and the gradient of their sum in the logits"""
    x, targets = logits[:, :-1], labels[:, 1:]
    counted = targets != -100
    x = x - x.max(axis=-1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    onehot = np.arange(x.shape[-1]) == targets[..., None]
    grad = np.zeros_like(logits)
    grad[:, :-1] = np.where(counted[..., None], onehot - np.exp(log_p), 0)
    return np.where(onehot, log_p, 0).sum(axis=(1, 2)), grad
