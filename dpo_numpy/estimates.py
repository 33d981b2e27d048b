"""Facts that are estimated from the policy as it is now, and carry no gradient: told to a loss, never formed inside it.

Where they follow the policy, let the batch be a function of the parameters (`dn.train`):

    def batch(params):
        ratio = log_ratio_of_mismatched_responses(params)
        return pairs.with_facts(z0=kl_baseline(ratio))
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .numerics import log_softmax
from .readings import token_logp

__all__ = ["bco_shift", "kl_baseline", "wpo_weight"]

Array = NDArray[Any]


def kl_baseline(log_ratio: ArrayLike, weight: ArrayLike | None = None) -> float:
    """z₀ = max(0, mean of log π/π_ref), in nats: the reference point of KTO

    log_ratio (N,) of responses set after prompts that are not theirs (each response rotated to the next prompt, in the
    authors' code), so that the mean estimates KL(π || π_ref) up to the mismatch; cut at 0 after the mean is taken.
    Ethayarajh et al. 2024, arXiv:2402.01306, section 4.1.

    Elsewhere: TRL and HALOs rotate within a batch (over all devices in HALOs), LLaMA-Factory within blocks of 1,000
    rows before it shuffles; some take the matched responses themselves.

    >>> kl_baseline([4.0, -6.0]), kl_baseline([4.0, -2.0])
    (0.0, 1.0)
    """
    x, share = _weighted("log_ratio", log_ratio, weight)
    return max(0.0, float(share @ x))


def bco_shift(reward: ArrayLike, label: ArrayLike, weight: ArrayLike | None = None, pooled: bool = False) -> float:
    """δ = (mean reward of the desired + mean reward of the undesired) / 2: the shift of BCO, in units of reward

    reward (N,) = β log π/π_ref, label (N,) true where desired. `pooled`: the mean over all, which is another number
    where the two are not equally many. Jung et al. 2024, arXiv:2404.04656, eq. 7 of the ACL version.

    Elsewhere: TRL keeps a running, pooled mean over everything seen, the current batch among it.

    >>> bco_shift([1.0, 1.0, 4.0], [True, True, False]), bco_shift([1.0, 1.0, 4.0], [True, True, False], pooled=True)
    (2.5, 2.0)
    """
    x, share = _weighted("reward", reward, weight)
    label = np.asarray(label, bool)
    if label.shape != x.shape:
        raise ValueError(f"label has shape {label.shape}; expected that of reward, {x.shape}")
    if pooled:
        return float(share @ x)
    desired, undesired = (share[side].sum() for side in (label, ~label))
    if not (desired > 0 and undesired > 0):
        raise ValueError(
            f"label is {'never' if not desired > 0 else 'always'} true; expected both kinds, or pooled=True"
        )
    return float(share[label] @ x[label] / desired + share[~label] @ x[~label] / undesired) / 2


def wpo_weight(logits: Array, tokens: Array, mask: Array) -> Array:
    """w = exp mean_t [log pₜ - log Σᵥ pᵥ²] over the response tokens: how likely the policy is to give this response

    logits (..., T, V), tokens and mask (..., T), as in `dn.sequence_logp`; w (...). The mean's second term sets w = 1
    where each token is as likely as one drawn from the policy is on average, so w can be above 1. Zhou et al. 2024,
    arXiv:2406.11827, eq. 2.

    Elsewhere: open-instruct leaves Σ p² out.

    >>> wpo_weight(np.zeros((1, 2, 4)), np.array([[0, 1]]), np.array([[False, True]]))
    array([1.])
    """
    logp, _ = token_logp(logits, tokens, mask)
    log_p = log_softmax(logits)[..., :-1, :]
    expected = np.log(np.exp(2 * log_p).sum(axis=-1))
    aligned = np.concatenate([np.zeros_like(logp[..., :1]), expected], axis=-1)
    count = mask.sum(axis=-1)
    if not count.all():
        raise ValueError("mask has no response token in a row; expected at least one in each")
    return np.asarray(np.exp(np.where(mask, logp - aligned, 0).sum(axis=-1) / count.astype(logp.dtype)))


def _weighted(name: str, x: ArrayLike, weight: ArrayLike | None) -> tuple[Array, Array]:
    """x (N,) and the share of each, which sum to 1."""
    x = np.asarray(x, float)
    w = np.ones(x.shape) if weight is None else np.asarray(weight, float)
    if x.ndim != 1 or not x.size or w.shape != x.shape:
        raise ValueError(f"{name} has shape {x.shape} and weight {w.shape}; expected (N,) both, N at least 1")
    if not ((w >= 0).all() and w.sum() > 0):
        raise ValueError(f"weight sums to {w.sum()}; expected none negative and not all 0")
    return x, w / w.sum()
