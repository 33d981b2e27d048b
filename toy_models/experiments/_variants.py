"""Losses of the registry with the hyper-parameters that experiments compare them under."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["MEAN_LENGTH", "Column", "columns"]

MEAN_LENGTH = 3.0  # tokens: a β of log-probs per token is so much larger
FACTORS = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)  # of β, in the grids


class Column(NamedTuple):
    """A loss of the registry, and its hyper-parameters: what is not in `matched` is as published, a grid is of both"""

    name: str
    published: Mapping[str, Any]
    matched: Mapping[str, Any]
    grid: Mapping[str, tuple[Any, ...]]
    kinks: bool = False


def columns(beta: float, eps: float, alpha: float) -> dict[str, Column]:
    """title: column, for a J of that β, and where matched, of that share of flips and bias of reward a token"""
    b = beta
    betas, per_token = tuple(b * f for f in FACTORS), tuple(MEAN_LENGTH * b * f for f in FACTORS)
    noise, weights = (0.05, 0.1, 0.2, 0.3, 0.4), (0.01, 0.03, 0.1, 0.3, 1.0)
    return {
        "DPO": Column("dpo", {"beta": b}, {}, {"beta": betas}),
        "IPO": Column("ipo", {"tau": b}, {}, {"tau": tuple(b * f / 4 for f in FACTORS)}),
        "hinge": Column("hinge", {"beta": b}, {}, {"beta": betas}, kinks=True),
        "cDPO": Column("cdpo", {"beta": b}, {"eps": eps}, {"beta": betas, "eps": noise}),
        "rDPO": Column("rdpo", {"beta": b}, {"eps": eps}, {"beta": betas, "eps": noise}),
        "R-DPO": Column("r_dpo", {"beta": b}, {"alpha": alpha}, {"beta": betas, "alpha": (0.05, 0.15, 0.3, 0.45)}),
        "LN-DPO": Column("ln_dpo", {}, {"beta": MEAN_LENGTH * b}, {"beta": per_token}),
        "χPO": Column("f_dpo_chi2", {"beta": b, "mixed": True}, {}, {"beta": betas, "mixed": (True,)}),
        "KTO": Column("kto", {"beta": b}, {}, {"beta": betas, "lam_u": (0.7, 1.0, 1.4)}),
        "DPO + NLL": Column("rpo", {"beta": b}, {"alpha": 0.3}, {"beta": betas, "alpha": weights}),
        "DPOP": Column("dpop", {"beta": b}, {"lam": 1.0}, {"beta": betas, "lam": weights}, kinks=True),
        "SimPO": Column("simpo", {}, {"beta": MEAN_LENGTH * b, "gamma": 0.0},
                        {"beta": per_token, "gamma": (0.0, 0.5, 1.0)}),
        "CPO": Column("cpo", {"beta": b}, {"alpha": 0.3}, {"beta": betas, "alpha": weights}),
        "ORPO": Column("orpo", {}, {"lam": 1.0}, {"lam": (0.1, 0.3, 1.0, 3.0, 10.0)}),
    }
