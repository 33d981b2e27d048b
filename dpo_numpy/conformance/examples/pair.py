"""The seam "pair": log-probs in, losses out.

    dpo-numpy verify dpo_numpy.conformance.examples.pair:dpo --loss dpo --beta 0.1
"""

import numpy as np


def dpo(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1):
    """Losses (B,), and the gradients of their sum in the chosen's and the rejected's log-probs"""
    z = beta * ((policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps))
    slope = -beta * np.exp(-np.logaddexp(0, z))  # -β σ(-z)
    return np.logaddexp(0, -z), slope, -slope
