"""Functions of rewards and of log-probs, as the seam of tokens asks for them: advantages, estimators of the KL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..advantages import gae, group_advantage, rloo_advantage
from ..losses import between, finite
from ..surrogates import ESTIMATORS, SURROGATES

__all__ = ["FUNCTIONS", "PER_TOKEN", "of_group"]

Array = NDArray[Any]


#: those of `SURROGATES` that are functions of the tokens' log-probs
PER_TOKEN = [name for name, make in SURROGATES.items() if make().reads == ("token_logp",) and name != "kl"]


def of_group(reward: Array, ddof: float = 1, eps: float = 1e-4, scale: str = "std") -> Array:
    """(r - mean)/(std + ε) over each group, as `group_advantage` has it"""
    return group_advantage(reward, scale=scale, ddof=int(ddof), eps=eps)


def group(ddof: float = 1, eps: float = 1e-4) -> Callable[..., Array]:
    """(r - mean)/(std + ε) over the group"""
    return lambda told: of_group(told["rewards"], ddof, eps)


def rloo() -> Callable[..., Array]:
    """r less the mean of the others' rewards"""
    return lambda told: rloo_advantage(told["rewards"])


def generalized(gamma: float = 1.0, lam: float = 0.95) -> Callable[..., Array]:
    """Σ (γλ)ˡ δₜ₊ₗ, δₜ = rₜ + γVₜ₊₁ - Vₜ, V = 0 after the end"""
    between("gamma", gamma, -1, 2), finite("lam", lam)
    return lambda told: gae(told["rewards"], told["values"], np.ones(told["rewards"].shape, bool), gamma, lam)[0]


def estimate(kind: str) -> Callable[[], Callable[..., Any]]:
    return lambda: lambda told: ESTIMATORS[kind](told["token_logp"] - told["ref_token_logp"])


#: what is no loss and yet has a seam: KL estimators and advantages, by name
FUNCTIONS: dict[str, Callable[..., Callable[..., Any]]] = {
    **{kind: estimate(kind) for kind in ESTIMATORS},
    "group_advantage": group,
    "rloo": rloo,
    "gae": generalized,
}
