"""The seam "batch": logits of chosen and rejected rows in, the mean loss out.

    dpo-numpy verify dpo_numpy.conformance.examples.batch:dpo --seam batch --loss dpo --beta 0.1
"""

import numpy as np


def dpo(logits, reference_logits, tokens, mask, beta=0.1):
    """The mean over B pairs: the first B rows are chosen, the others rejected; its gradient is not returned"""
    def logp(x):
        x = x[:, :-1] - x[:, :-1].max(axis=-1, keepdims=True)
        log_p = np.take_along_axis(x, tokens[:, 1:, None], axis=-1)[..., 0] - np.log(np.exp(x).sum(axis=-1))
        return (log_p * mask[:, 1:]).sum(axis=-1)

    chosen, rejected = np.split(logp(logits) - logp(reference_logits), 2)
    return np.logaddexp(0, -beta * (chosen - rejected)).mean()
