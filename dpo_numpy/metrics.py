"""What one watches while training, under the names that TRL logs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["accuracy_interval", "preference_metrics"]

Array = NDArray[Any]


def preference_metrics(
    logp: ArrayLike, ref_logp: ArrayLike, beta: float, weight: ArrayLike | None = None
) -> dict[str, float]:
    """Weighted means over comparisons (B, 2) of log-probs and implicit rewards β (log π - log π_ref), in nats

    rewards/chosen, rewards/rejected, rewards/margins : of the implicit rewards, and of their difference
    rewards/accuracies : share of pairs whose chosen reward is *above* the rejected one; a tie counts 0,
                         so at policy = reference this is 0, not 1/2
    logps/chosen, logps/rejected : of the log-probs, summed over tokens

    Elsewhere: some trainers log rewards without β, or with the reference left out.

    >>> {name: round(value, 6) for name, value in preference_metrics([[-2.1, -4.5]], [[-3.0, -3.2]], beta=0.1).items()}
    {'rewards/chosen': 0.09, 'rewards/rejected': -0.13, 'rewards/margins': 0.22, 'rewards/accuracies': 1.0, ...}
    """
    logp, ref_logp = np.asarray(logp, float), np.asarray(ref_logp, float)
    if logp.ndim != 2 or logp.shape[1] != 2 or ref_logp.shape != logp.shape:
        raise ValueError(f"logp has shape {logp.shape} and ref_logp {ref_logp.shape}; expected (B, 2) both")
    weight = _weights(weight, len(logp))
    share = weight / weight.sum()
    reward = beta * (logp - ref_logp)
    margin = reward[:, 0] - reward[:, 1]
    columns = {"rewards/chosen": reward[:, 0], "rewards/rejected": reward[:, 1], "rewards/margins": margin,
               "rewards/accuracies": margin > 0, "logps/chosen": logp[:, 0], "logps/rejected": logp[:, 1]}
    return {name: float(share @ column) for name, column in columns.items()}


def accuracy_interval(
    right: ArrayLike, group: ArrayLike, weight: ArrayLike | None = None
) -> tuple[float, float, float]:
    """A weighted share, and its 95% interval when the rows of a group go together: (share, low, high)

    share = Σ wᵢ rightᵢ / Σ wᵢ;  its standard error is that of a ratio of sums over G independent groups,
    se² = G/(G-1) Σ_g (Σ_{i in g} wᵢ (rightᵢ - share))² / (Σ wᵢ)²,  and the interval share ± 1.96 se, cut to [0, 1].
    With rows taken as independent it would be too narrow: one reply stands in several pairs. nan bounds for a single
    group.

    >>> [round(x, 4) for x in accuracy_interval([1, 1, 0, 1], ["a", "a", "b", "c"])]
    [0.75, 0.1886, 1.0]
    """
    right, group = np.asarray(right, float), np.asarray(group)
    if right.ndim != 1 or group.shape != right.shape:
        raise ValueError(f"right has shape {right.shape} and group {group.shape}; expected (B,) both")
    weight = _weights(weight, len(right))
    share = float(weight @ right / weight.sum())
    names, inverse = np.unique(group, return_inverse=True)
    if len(names) < 2:
        return share, float("nan"), float("nan")
    residual = np.bincount(inverse, weight * (right - share))
    se = float(np.sqrt(len(names) / (len(names) - 1) * residual @ residual) / weight.sum())
    return share, max(0.0, share - 1.96 * se), min(1.0, share + 1.96 * se)


def _weights(weight: ArrayLike | None, n: int) -> Array:
    given = np.ones(n) if weight is None else np.asarray(weight, float)
    if given.shape != (n,) or not (given >= 0).all() or not given.sum() > 0:
        raise ValueError(
            f"weight has shape {given.shape} and sum {given.sum()}; expected ({n},) numbers, none negative, not all 0"
        )
    return given
