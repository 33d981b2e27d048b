"""Advantages: what rewards come to, per response or token, before `SURROGATES` are told. No gradient flows into them.

Rewards and values are cast to floats (integers to float64) and keep their dtype; what stands off a mask does not matter
and is 0 in what is returned. A mask (..., T) is true on the tokens that count, in the order in which they were drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .losses import one_of, positive, share, within

__all__ = ["gae", "group_advantage", "penalized_reward", "rloo_advantage", "whiten"]

Array = NDArray[Any]


def group_advantage(reward: ArrayLike, scale: str = "std", ddof: int = 1, eps: float = 1e-4) -> Array:
    """Aᵢ = (rᵢ - r̄)/(s + ε),   s² = Σ (rᵢ - r̄)²/(K - ddof), over the K rewards of a prompt, (..., K); "none": rᵢ - r̄

    The advantage of GRPO; `scale="none"` that of Dr. GRPO. Where all rewards are equal it is exactly 0, and so it is in
    a group of one. The mean holds the response's own reward: in expectation the gradient is (K-1)/K of the policy's
    (`rloo_advantage` is without that factor), and s, which depends on the response too, makes it another one.

    Shao et al. 2024, arXiv:2402.03300, section 4.1.2, without ddof and ε; Liu et al. 2025, arXiv:2503.20783.

    Elsewhere: ddof = 1 in TRL (ε = 1e-4), verl (1e-6), OpenRLHF (1e-9) and the RLHF book (1e-8), 0 in MLX (1e-4),
    open-instruct (1e-8, and by default no scale) and HALOs (1e-2). A group of one: 0 in TRL and MLX; verl then takes a
    mean of 0 and s = 1, so that the reward itself is the advantage.

    >>> group_advantage([[1.0, 0.0, 0.0], [2.0, 2.0, 2.0]]).round(4)
    array([[ 1.1545, -0.5773, -0.5773],
           [ 0.    ,  0.    ,  0.    ]])
    """
    if ddof not in (0, 1):
        raise ValueError(f"ddof is {ddof!r}; expected 0 or 1")
    positive("eps", eps)
    centered = _centered(_floats(reward))
    if one_of("scale", scale, "std", "none") == "none":
        return centered
    variance = (centered**2).sum(axis=-1, keepdims=True) / max(centered.shape[-1] - ddof, 1)
    advantage: Array = centered / (np.sqrt(variance) + eps)
    return advantage


def rloo_advantage(reward: ArrayLike) -> Array:
    """Aᵢ = rᵢ - mean of the others = K/(K-1) (rᵢ - r̄), over the K rewards of a prompt, (..., K)

    REINFORCE leave-one-out: the baseline does not look at the response, so that the gradient has no bias. Kool et al.
    2019; Ahmadian et al. 2024, arXiv:2402.14740.

    Raises `ValueError` on a group of one, which leaves none.

    >>> rloo_advantage([[3.0, 0.0, 0.0]])
    array([[ 3. , -1.5, -1.5]])
    """
    r = _floats(reward)
    if r.shape[-1] < 2:
        raise ValueError(f"reward has shape {r.shape}; expected (..., K), K at least 2")
    advantage: Array = _centered(r) * (r.shape[-1] / (r.shape[-1] - 1))
    return advantage


def gae(reward: ArrayLike, value: ArrayLike, mask: ArrayLike, gamma: float = 1.0,
        lam: float = 0.95) -> tuple[Array, Array]:
    """Aₜ = Σ_{u>=t} (γλ)ᵘ⁻ᵗ δᵤ,   δₜ = rₜ + γ Vₜ₊₁ - Vₜ, and the returns Rₜ = Aₜ + Vₜ; reward, value, mask (..., T)

    Generalized advantage estimation, over the tokens of the mask one after the other; the value after the last is 0.
    λ = 1: Rₜ = Σ γᵘ⁻ᵗ rᵤ, whatever the values say. λ = 0: Aₜ = δₜ.

    Schulman et al. 2015, arXiv:1506.02438, eq. 16. γ and λ from 0 to 1.

    >>> advantage, target = gae([[0.0, 1.0, 9.0]], [[0.5, 0.5, 9.0]], [[True, True, False]], lam=0.5)
    >>> advantage, target
    (array([[0.25, 0.5 , 0.  ]]), array([[0.75, 1.  , 0.  ]]))
    """
    share("gamma", gamma)
    share("lam", lam)
    here = np.asarray(mask, bool)
    r, v = (np.where(here, _floats(x), 0) for x in (reward, value))
    advantage = np.zeros_like(r - v)
    ahead, value_ahead = np.zeros_like(advantage[..., 0]), np.zeros_like(advantage[..., 0])
    for t in reversed(range(advantage.shape[-1])):
        now = r[..., t] + gamma * value_ahead - v[..., t] + gamma * lam * ahead
        ahead, value_ahead = np.where(here[..., t], now, ahead), np.where(here[..., t], v[..., t], value_ahead)
        advantage[..., t] = np.where(here[..., t], now, 0)
    return advantage, advantage + v


def penalized_reward(reward: ArrayLike, token_logp: ArrayLike, ref_token_logp: ArrayLike, mask: ArrayLike,
                     beta: float) -> Array:
    """rₜ = -β (log π - log π_ref of token t), the reward of the response being added at its last token; (..., T)

    reward (...), token_logp, ref_token_logp, mask (..., T). The rewards of a response add up to r - β log π/π_ref(y|x),
    whose expectation is r - β KL(π || π_ref): k1 as part of the reward, where the sampling's share in the gradient is
    seen. In nats. Ziegler et al. 2019, arXiv:1909.08593; Ouyang et al. 2022, arXiv:2203.02155, eq. 2.

    Raises `ValueError` where a response has no token.

    >>> penalized_reward([1.0], [[-1.0, -2.0, 0.0]], [[-1.5, -1.0, 0.0]], [[True, True, False]], beta=0.5)
    array([[-0.25,  1.5 ,  0.  ]])
    """
    here = np.asarray(mask, bool)
    if not here.any(axis=-1).all():
        raise ValueError("mask has no response token in a row; expected at least one in each")
    logp, ref = (np.where(here, _floats(x), 0) for x in (token_logp, ref_token_logp))
    last = here & (np.cumsum(here[..., ::-1], axis=-1)[..., ::-1] == 1)
    return np.where(last, _floats(reward)[..., None], 0) - within("beta", beta, 0, np.inf) * (logp - ref)


def whiten(x: ArrayLike, mask: ArrayLike, center: bool = True) -> Array:
    """(x - x̄)/√(s² + 1e-8), x̄ and s² the mean and the mean square deviation over all the mask, 0 off it; x, mask alike

    `center=False` leaves the mean what it was: x̄ is added again.

    After the code of Ziegler et al. 2019, arXiv:1909.08593. Elsewhere: TRL divides the sum of squares by n - 1.

    >>> whiten([[1.0, 3.0, 7.0]], [[True, True, False]]).round(6)
    array([[-1.,  1.,  0.]])
    """
    here = np.asarray(mask, bool)
    x = np.where(here, _floats(x), 0)
    count = max(int(here.sum()), 1)
    mean = x.sum() / count
    deviation = np.where(here, x - mean, 0)
    white = deviation / np.sqrt((deviation**2).sum() / count + 1e-8)
    return white if center else np.where(here, white + mean, 0)


def _floats(x: ArrayLike) -> Array:
    array = np.asarray(x)
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _centered(r: Array) -> Array:
    """r - r̄ over the last axis, by way of differences, which are exactly 0 where all are equal"""
    ahead = r - r[..., :1]
    centered: Array = ahead - ahead.mean(axis=-1, keepdims=True)
    return centered
