"""Arrow 3: from readings to one number per response.

A score is a function `(readings, facts) -> (s, pullback)` with what it reads (and differentiates) and what it needs to
be told. The pullback takes ds to {reading: gradient}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .numerics import row_sums

__all__ = ["Score", "full_log_prob", "log_prob", "log_ratio", "mean", "reward", "sequential_kl", "shared_length"]

Array = NDArray[Any]
Values = Mapping[str, Array]


class Score(NamedTuple):
    """From readings (..., B, K) to a number a response, s (..., B, K), and the pullback of ∂L/∂s to each reading."""

    fn: Callable[[Values, Values], tuple[Array, Callable[[Array], dict[str, Array]]]]
    reads: tuple[str, ...] = ("logp",)
    needs: tuple[str, ...] = ()


#: s = log π(y|x)
log_prob = Score(lambda x, facts: (x["logp"], lambda ds: {"logp": ds}))

#: s = the reward that a model gives
reward = Score(lambda x, facts: (x["reward"], lambda ds: {"reward": ds}), reads=("reward",))

#: s = log π(x, y), the prompt's tokens (but for the first) among those of the response
full_log_prob = Score(lambda x, facts: (x["full_logp"], lambda ds: {"full_logp": ds}), reads=("full_logp",))

#: s = log π(y|x) - log π_ref(y|x)
log_ratio = Score(lambda x, facts: (x["logp"] - facts["ref_logp"], lambda ds: {"logp": ds}), needs=("ref_logp",))


def mean(score: Score, length: str = "length") -> Score:
    """s / |y|, the mean over the response tokens that count, EOS included (over the tokens that the fact counts)"""

    def fn(x: Values, facts: Values) -> tuple[Array, Callable[[Array], dict[str, Array]]]:
        s, back = score.fn(x, facts)
        return s / facts[length], lambda ds: back(ds / facts[length])

    return Score(fn, score.reads, (*score.needs, length))


def sequential_kl(alpha: float, stop: bool) -> Score:
    """s = log π/π_ref + α D, D = Σₜ KL(π_ref || π) along the response; `stop`: no gradient into the chosen one's D"""
    through = np.array([0.0 if stop else alpha, alpha])

    def fn(x: Values, facts: Values) -> tuple[Array, Callable[[Array], dict[str, Array]]]:
        s = x["logp"] - facts["ref_logp"] + alpha * x["kl"]
        return s, lambda ds: {"logp": ds, "kl": 0 + ds * through.astype(ds.dtype)}  # never -0

    return Score(fn, ("logp", "kl"), ("ref_logp",))


def shared_length(alpha: float, ref_weighted: bool) -> Score:
    """s = Σₜ cₜ ℓₜ - (Σₜ cₜ ℓₜ of the reference, or its whole log-prob),   cₜ = 1 up to the shorter length, then α <= 1

    Over the responses of a comparison; tokens are counted on the mask. What is summed, is summed in float64 at least.
    """
    reference = "ref_token_logp" if ref_weighted else "ref_logp"

    def fn(x: Values, facts: Values) -> tuple[Array, Callable[[Array], dict[str, Array]]]:
        logp, mask, ref = x["token_logp"], facts["mask"], facts[reference]
        place = np.cumsum(mask, axis=-1, dtype=np.int32)
        both = place <= place[..., -1:].min(axis=-2, keepdims=True)
        counted = np.maximum(both * mask, np.multiply(mask, alpha, dtype=logp.real.dtype))
        of_tokens = counted * np.where(mask, logp - ref if ref_weighted else logp, 0)
        total = row_sums(of_tokens.astype(np.result_type(logp.dtype, np.float64), copy=False))
        s = (total if ref_weighted else total - ref).astype(logp.dtype)
        return s, lambda ds: {"token_logp": 0 + ds[..., None] * counted}  # never -0

    return Score(fn, ("token_logp",), (reference, "mask"))
