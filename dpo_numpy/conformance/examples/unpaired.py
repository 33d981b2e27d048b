"""The seam "unpaired": log-probs of single responses, their labels and a KL baseline in, losses out.

    dpo-numpy verify dpo_numpy.conformance.examples.unpaired:kto --seam unpaired --loss kto --beta 0.1
"""

import numpy as np


def kto(policy_logps, reference_logps, labels, kl, beta=0.1):
    """Losses (B,), and the gradient of their sum in the log-probs; kl counts as a constant"""
    sign = np.where(labels, 1, -1).astype(policy_logps.dtype)
    z = sign * beta * (policy_logps - reference_logps - kl)
    loss = np.exp(-np.logaddexp(0, z))  # σ(-z)
    return loss, -sign * beta * loss * np.exp(-np.logaddexp(0, -z))
