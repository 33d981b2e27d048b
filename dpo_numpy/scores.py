"""Arrow 3: from readings to one number per response.

A score is a function `(readings, facts) -> (s, pullback)` with what it reads (and differentiates) and what it needs to
be told. The pullback takes ds to {reading: gradient}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Score", "log_prob", "log_ratio", "mean", "sequential_kl"]

Array = NDArray[Any]
Values = Mapping[str, Array]


class Score(NamedTuple):
    fn: Callable[[Values, Values], tuple[Array, Callable[[Array], dict[str, Array]]]]
    reads: tuple[str, ...] = ("logp",)
    needs: tuple[str, ...] = ()


#: s = log π(y|x)
log_prob = Score(lambda x, facts: (x["logp"], lambda ds: {"logp": ds}))

#: s = log π(y|x) - log π_ref(y|x)
log_ratio = Score(lambda x, facts: (x["logp"] - facts["ref_logp"], lambda ds: {"logp": ds}), needs=("ref_logp",))


def mean(score: Score) -> Score:
    """s / |y|, the mean over the response tokens that count, EOS included"""

    def fn(x: Values, facts: Values) -> tuple[Array, Callable[[Array], dict[str, Array]]]:
        s, back = score.fn(x, facts)
        return s / facts["length"], lambda ds: back(ds / facts["length"])

    return Score(fn, score.reads, (*score.needs, "length"))


def sequential_kl(alpha: float, stop: bool) -> Score:
    """s = log π/π_ref + α D, D = Σₜ KL(π_ref || π) along the response; `stop`: no gradient into the chosen one's D"""
    through = np.array([0.0 if stop else alpha, alpha])

    def fn(x: Values, facts: Values) -> tuple[Array, Callable[[Array], dict[str, Array]]]:
        s = x["logp"] - facts["ref_logp"] + alpha * x["kl"]
        return s, lambda ds: {"logp": ds, "kl": ds * through.astype(ds.dtype)}

    return Score(fn, ("logp", "kl"), ("ref_logp",))
