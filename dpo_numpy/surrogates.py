"""Losses of policy-gradient training: of each token of K sampled responses. `SURROGATES` names them.

    loss = SURROGATES["grpo"](eps=0.2, beta=0.0)
    value, grad = loss(token_logp, mask=mask, old_token_logp=old, advantage=advantage)  # (B, K, T) -> (B,), (B, K, T)

A row is a prompt with K responses sampled from an older policy (the group of GRPO; K = 1 is one response). They are of
the class `Loss`, as those of preferences: a score of each token, a kernel `(value, slope)` of it, and a reduction, the
share that each token has in the value of its row. Surrogates: their gradients are what is meant, at or near the policy
that sampled; their values measure nothing.

What they are told: `mask` (B, K, T), true on the tokens that count, what stands elsewhere being of no account, NaN and
infinities too; `old_token_logp`, `ref_token_logp` (B, K, T), of the policy that sampled and of the reference;
`advantage` (B, K), one a response, or (B, K, T): `dn.group_advantage`, `dn.rloo_advantage`, `dn.gae`. No gradient flows
into any of them. In a batch, facts of tokens are its responses': `batch.responses.with_facts(old_token_logp=...)`.
Notation: ℓ = log π of a token in nats, ρ = π/π_old, A its advantage, |y| the tokens of its response.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .links import Kernel, Link, negative
from .losses import Loss, between, mixture, one_of, positive, term, within
from .numerics import exp_minus_1_minus, exp_times
from .scores import Score, Values

__all__ = ["SURROGATES"]

Array = NDArray[Any]
Reduction = Callable[[Array, Array], Array]

#: name -> factory: hyper-parameters -> a `Loss` of the tokens of sampled responses
SURROGATES: dict[str, Callable[..., Loss]] = {}


def named(factory: Callable[..., Loss]) -> Callable[..., Loss]:
    """Enter a factory into `SURROGATES` under its own name."""
    SURROGATES[factory.__name__] = factory
    return factory


# ---- scores: a finite number per token, whatever stands off the mask

def of_tokens(reading: str, less: str | None = None) -> Score:
    """s = the reading, less the fact named: log π, log π/π_old, log π/π_ref, V, H"""
    needs = ("mask",) if less is None else ("mask", less)

    def fn(x: Values, facts: Values) -> tuple[Array, Callable[[Array], dict[str, Array]]]:
        mask = facts["mask"]
        s = np.where(mask, x[reading], 0)
        return s if less is None else s - np.where(mask, facts[less], 0), lambda ds: {reading: ds}

    return Score(fn, (reading,), needs)


def of_sequence(score: Score) -> Score:
    """s̄ = Σₜ sₜ/|y|, the mean over the response, at each of its tokens"""

    def fn(x: Values, facts: Values) -> tuple[Array, Callable[[Array], dict[str, Array]]]:
        s, back = score.fn(x, facts)
        mask, count = facts["mask"], _count(facts["mask"], s.real.dtype)
        mean = _sum(s, -1)[..., None] / count
        return np.broadcast_to(mean, s.shape), lambda ds: back(0 + mask * (_sum(ds, -1)[..., None] / count))

    return Score(fn, score.reads, score.needs)


log_prob = of_tokens("token_logp")
old_log_ratio = of_tokens("token_logp", less="old_token_logp")
ref_log_ratio = of_tokens("token_logp", less="ref_token_logp")


# ---- kernels of one token: value, slope

def reinforce_token(logp: Array, advantage: Array) -> tuple[Array, Array]:
    """φ(ℓ) = -A ℓ,   φ'(ℓ) = -A"""
    return -advantage * logp, (-advantage).astype(logp.dtype)


def clipped(d: Array, advantage: Array, low: float, high: float, dual: float = math.inf) -> tuple[Array, Array]:
    """φ(d) = -min(ρA, clip(ρ, 1-low, 1+high) A), at most -dual A where A < 0,   φ'(d) = -ρA where not clipped, else 0;

    ρ = eᵈ. That is -ρA with ρ held from 0 to 1 + high where A >= 0, from 1 - low to `dual` where A < 0; the slope is 0
    at the ends too. Whether ρ is beyond them is told by d: nothing is clipped at d = 0, however small `low` and `high`.
    """
    up = advantage >= 0
    least, most = np.where(up, 0, 1 - low), np.where(up, 1 + high, dual)
    below = d.real <= np.where(up, -math.inf, math.log1p(-low))
    above = d.real >= np.where(up, math.log1p(high), math.log(dual))
    held, pull = below | above, exp_times(d, -advantage)
    return np.where(held, -advantage * np.where(below, least, most).astype(d.real.dtype), pull), np.where(held, 0, pull)


def weighed(logp: Array, old: Array, advantage: Array, low: float, high: float) -> tuple[Array, Array]:
    """φ(ℓ) = -w A ℓ,   φ'(ℓ) = -w A,   w = clip(e^(ℓ - old), 1-low, 1+high) without a gradient"""
    with np.errstate(over="ignore"):
        weight = np.clip(np.exp(logp.real - old), 1 - low, 1 + high)
    return reinforce_token(logp, weight * advantage)


def k1(d: Array) -> tuple[Array, Array]:
    """φ(d) = d,   φ'(d) = 1"""
    return d, np.ones_like(d)


def k2(d: Array) -> tuple[Array, Array]:
    """φ(d) = d²/2,   φ'(d) = d"""
    return d**2 / 2, d


def k3(d: Array) -> tuple[Array, Array]:
    """φ(d) = e⁻ᵈ - 1 + d,   φ'(d) = 1 - e⁻ᵈ"""
    return exp_minus_1_minus(-d), -np.expm1(-d)


def value_error(v: Array, old: Array, target: Array, eps: float) -> tuple[Array, Array]:
    """φ(V) = ½ max(e², c²),   φ'(V) = e, 0 where |V - V_old| > ε and c² >= e²

    e = V - R, c = V_old + clip(V - V_old, ±ε) - R
    """
    error, moved = v - target, v - old
    held = (old - target) + np.clip(moved.real, -eps, eps)
    stays = ~((abs(moved.real) <= eps) | (abs(held) < abs(error.real)))  # also where there is a NaN, to pass it on
    return np.where(stays, held, error) ** 2 / 2, np.where(stays, 0, error)


ESTIMATORS: dict[str, Kernel] = {"k1": k1, "k2": k2, "k3": k3}


# ---- reductions: the share of each token, (..., B, K, T), in the value of its row; weight (B,)

def sequence_mean(mask: Array, weight: Array) -> Array:
    """1/(K |y|): the mean over responses of the mean over tokens; a response without tokens counts, as 0"""
    share: Array = mask / (_count(mask, weight.dtype) * mask.shape[-2])
    return share


def tokens(mask: Array, weight: Array) -> Array:
    """Σw / Σ w n, n the tokens of a row: the mean over rows is the batch's sum over the batch's count of tokens"""
    counted = (weight * mask.sum(axis=(-2, -1), dtype=weight.dtype)).sum(axis=-1)[..., None, None, None]
    share: Array = mask * np.divide(weight.sum(), counted, out=np.zeros_like(counted), where=counted > 0)
    return share


def fixed(length: float) -> Reduction:
    """1/(K length): the mean over responses of the sum over tokens, over a length that is the same for all"""
    return lambda mask, weight: mask / (weight.dtype.type(length) * mask.shape[-2])


REDUCTIONS: dict[str, Reduction] = {"sequence_mean": sequence_mean, "sequence_sum": fixed(1.0), "tokens": tokens}


def _count(mask: Array, dtype: Any) -> Array:
    """|y|, (..., K, 1), at least 1"""
    count: Array = np.maximum(mask.sum(axis=-1, keepdims=True, dtype=dtype), 1)
    return count


def _sum(x: Array, axis: int | tuple[int, int]) -> Array:
    """In float64 at least, rounded once"""
    total: Array = x.sum(axis=axis, dtype=np.result_type(x.dtype, np.float64)).astype(x.dtype)
    return total


# ---- the lift

def reduced(reduction: Reduction, kernel: Kernel, *needs: str, **hyper: Any) -> Link:
    """value_b = Σ over the row's tokens of share · φ(s, the facts named)"""

    def fn(s: Array, weight: Array, facts: Values) -> tuple[Array, Array]:
        mask = facts["mask"]
        phi, slope = kernel(s, *(np.where(mask, facts[name], 0) for name in needs), **hyper)
        share = reduction(mask, weight)
        return _sum(share * phi, (-2, -1)), 0 + weight[:, None, None] * share * slope  # never -0

    return Link(fn, ("mask", *needs), columns=None, coupled=reduction is tokens)


def _reduction(name: str) -> Reduction:
    return REDUCTIONS[one_of("reduction", name, *REDUCTIONS)]


# ---- policy gradient

@named
def reinforce(reduction: str = "sequence_sum") -> Loss:
    """L = -1/K Σₖ Σₜ A ℓₜ,   ∂L/∂ℓₜ = -A/K

    The score function: on samples of the policy itself the gradient is, in expectation, that of the expected reward. A
    is the reward, with or without a baseline that does not look at the response; with `dn.rloo_advantage` this is RLOO.
    `reduction`: "sequence_mean" divides by the tokens of each response, "tokens" by those of the batch; both change
    what is optimized, as |y| is the policy's doing.

    Williams 1992, doi:10.1007/BF00992696; Ahmadian et al. 2024, arXiv:2402.14740 (RLOO).

    Elsewhere: RLOO trainers treat the response as one action, `sequence_sum`, or weigh it by the clipped ratio of
    `ppo_clip`; many divide by tokens.

    >>> value, grad = reinforce()([[[-1.0, -2.0], [-0.5, 0.0]]], mask=[[[1, 1], [1, 0]]], advantage=[[1.0, -1.0]])
    >>> value, grad
    (array([1.25]), array([[[-0.5, -0.5],
            [ 0.5,  0. ]]]))
    """
    link = reduced(_reduction(reduction), reinforce_token, "advantage")
    return term("reinforce", log_prob, link, reduction=reduction)


@named
def ppo_clip(eps: float = 0.2, dual: float = 0.0, reduction: str = "tokens") -> Loss:
    """L = -Σₜ min(ρₜ A, clip(ρₜ, 1-ε, 1+ε) A) / Σ|y|,   ∂L/∂ℓₜ = -ρₜ A/Σ|y| where not clipped, else 0

    Proximal policy optimization: a token whose probability has moved by more than ε the way that A asks for is left
    alone; at the ends themselves too. `dual` c > 1 also stops it where A < 0 and ρ >= c, the loss of a token being at
    most c|A|; 0 is without. Sum and count run over the batch, so that rows depend on each other ("tokens"); or as in
    `reinforce`.

    Schulman et al. 2017, arXiv:1707.06347, eq. 7; Ye et al. 2019, arXiv:1912.09729 (dual clip, c = 3 there).

    Elsewhere: verl has c = 3 by default. What a batch is differs: one device's, one micro-batch's, or all.

    >>> value, grad = ppo_clip(eps=0.25)(np.log([[[0.5, 0.5]]]), old_token_logp=np.log([[[0.25, 0.625]]]),
    ...                                  mask=[[[True, True]]], advantage=[[1.0]])
    >>> value.round(6), grad.round(6)
    (array([-1.025]), array([[[ 0. , -0.4]]]))
    """
    if dual != 0:
        between("dual", dual, 1, math.inf)
    clip = _clip(_reduction(reduction), between("eps", eps, 0, 1), eps, dual or math.inf)
    return mixture("ppo_clip", clip, eps=eps, dual=dual, reduction=reduction)


def _clip(reduction: Reduction, low: float, high: float, dual: float = math.inf, score: Score = old_log_ratio) -> Loss:
    return term("clip", score, reduced(reduction, clipped, "advantage", low=low, high=positive("eps_high", high),
                                       dual=dual))


def _penalized(loss: Loss, beta: float, estimator: str, reduction: str) -> Loss:
    """Where β = 0 no reference is asked for."""
    penalty = within("beta", beta, 0, math.inf) * kl(estimator, reduction)
    return loss + penalty if beta else loss


@named
def grpo(eps: float = 0.2, eps_high: float | None = None, beta: float = 0.04, estimator: str = "k3",
         reduction: str = "sequence_mean") -> Loss:
    """L = -1/K Σₖ 1/|y| Σₜ [min(ρₜ A, clip(ρₜ, 1-ε, 1+ε_h) A) - β k3(dₜ)],   d = log π/π_ref,
    ∂L/∂ℓₜ = (-ρₜ A or 0 + β (1 - e⁻ᵈ))/(K|y|)

    Group relative policy optimization: PPO's clip, advantages from K responses to one prompt (`dn.group_advantage`) in
    place of a learned value, and a KL penalty in the loss. By default ε_h = ε. `estimator`: as in `kl`; where β = 0, no
    reference is asked for. `reduction`: as in `reinforce`.

    Shao et al. 2024, arXiv:2402.03300, eq. 3 and 4; β = 0.04 and no ε there.

    Elsewhere: TRL's `loss_type="grpo"` was the mean over tokens for a while; MLX and HALOs call that one GRPO;
    OpenRLHF has either. β = 0 by default in TRL. On the penalty: `kl`.

    >>> value, grad = grpo(beta=0.0)([[[-1.0, -1.0], [-1.0, 0.0]]], old_token_logp=[[[-1.0, -1.0], [-1.0, 0.0]]],
    ...                              mask=[[[1, 1], [1, 0]]], advantage=[[1.0, -1.0]])
    >>> value, grad
    (array([0.]), array([[[-0.25, -0.25],
            [ 0.5 ,  0.  ]]]))
    """
    high = eps if eps_high is None else eps_high
    clip = _clip(_reduction(reduction), between("eps", eps, 0, 1), high)
    penalized = _penalized(clip, beta, estimator, reduction)
    return mixture("grpo", penalized, eps=eps, eps_high=high, beta=beta, estimator=estimator, reduction=reduction)


@named
def dr_grpo(eps: float = 0.2, max_length: float = 1024.0) -> Loss:
    """L = -1/K Σₖ Σₜ min(ρₜ A, clip(ρₜ, 1-ε, 1+ε) A) / M,   ∂L/∂ℓₜ = -ρₜ A/(K M) where not clipped, else 0

    GRPO done right: a constant M, the longest response allowed, divides in place of |y|, by which failures cost the
    less the longer they are; and rewards are not divided by their deviation: `dn.group_advantage(reward, "none")`.
    No KL penalty.

    Liu et al. 2025, arXiv:2503.20783, whose formula has no M; its code has.

    Elsewhere: TRL's M is `max_completion_length`; verl's `seq-mean-token-sum-norm` divides by M and not by the number
    of responses.

    >>> logp = [[[-1.0, -1.0], [-1.0, 0.0]]]
    >>> dr_grpo(max_length=2)(logp, old_token_logp=logp, mask=[[[1, 1], [1, 0]]], advantage=[[1.0, -1.0]])[1]
    array([[[-0.25, -0.25],
            [ 0.25,  0.  ]]])
    """
    clip = _clip(fixed(positive("max_length", max_length)), between("eps", eps, 0, 1), eps)
    return mixture("dr_grpo", clip, eps=eps, max_length=max_length)


@named
def bnpo(eps: float = 0.2, beta: float = 0.0) -> Loss:
    """L = -Σₜ [min(ρₜ A, clip(ρₜ, 1-ε, 1+ε) A) - β k3(dₜ)] / Σ|y|: `grpo(eps, beta=beta, reduction="tokens")`

    GRPO's loss as the mean over all tokens of the batch, long responses counting more; rows depend on each other.

    After Shao et al. 2024, arXiv:2402.03300; the name is that of `loss_type="bnpo"` in TRL.

    Elsewhere: TRL's batch is that of one device, so that the number of devices matters; HALOs the same. The paper of
    that name, Xiao et al. 2025, arXiv:2506.02864, is about advantages.

    >>> logp = [[[-1.0, -1.0], [-1.0, 0.0]]]
    >>> bnpo()(logp, old_token_logp=logp, mask=[[[1, 1], [1, 0]]], advantage=[[1.0, -1.0]])[1].round(6)
    array([[[-0.333333, -0.333333],
            [ 0.333333,  0.      ]]])
    """
    clip = _clip(tokens, between("eps", eps, 0, 1), eps)
    return mixture("bnpo", _penalized(clip, beta, "k3", "tokens"), eps=eps, beta=beta)


@named
def dapo(eps_low: float = 0.2, eps_high: float = 0.28) -> Loss:
    """L = -Σₜ min(ρₜ A, clip(ρₜ, 1-ε_l, 1+ε_h) A) / Σ|y|,   ∂L/∂ℓₜ = -ρₜ A/Σ|y| where not clipped, else 0

    Decoupled clip: unlikely tokens have more room to rise than to fall, and all tokens count alike. No KL penalty. The
    rest of the paper is about the batch: no groups of equal rewards, and a penalty on overlong responses.

    Yu et al. 2025, arXiv:2503.14476, eq. 8, where Σ|y| is that of a group.

    Elsewhere: TRL counts the tokens of the whole batch, on all devices, as here; with one group it is the same.

    >>> value, grad = dapo()(np.log([[[0.5], [0.5]]]), old_token_logp=np.log([[[0.4], [0.4]]]), mask=[[[1], [1]]],
    ...                      advantage=[[1.0, 1.0]])
    >>> value.round(6), grad.round(6)
    (array([-1.25]), array([[[-0.625],
            [-0.625]]]))
    """
    clip = _clip(tokens, between("eps_low", eps_low, 0, 1), eps_high)
    return mixture("dapo", clip, eps_low=eps_low, eps_high=eps_high)


@named
def gspo(eps_low: float = 3e-4, eps_high: float = 4e-4) -> Loss:
    """L = -1/K Σₖ min(sA, clip(s, 1-ε_l, 1+ε_h) A),   ∂L/∂ℓₜ = -sA/(K|y|) where not clipped, else 0;
    s = exp Σₜ log ρₜ/|y|

    Group sequence policy optimization: a response is clipped as a whole, by the geometric mean of its ratios, whose
    moves are that much smaller. Where the advantage is told by token, its mean counts where not clipped: the loss is
    1/|y| Σₜ of each token's, all with the same s, and so is the gradient.

    Zheng et al. 2025, arXiv:2507.18071, eq. 5 to 7, the ends of section 5.1.

    Elsewhere: verl takes GSPO-token, whose gradient is the same where the advantage is a response's, and clamps log s
    at 10.

    >>> gspo()([[[-1.0, -1.5]]], old_token_logp=[[[-1.5, -1.0]]], mask=[[[True, True]]], advantage=[[1.0]])
    (array([-1.]), array([[[-0.5, -0.5]]]))
    """
    low = between("eps_low", eps_low, 0, 1)
    clip = _clip(sequence_mean, low, eps_high, score=of_sequence(old_log_ratio))
    return mixture("gspo", clip, eps_low=eps_low, eps_high=eps_high)


@named
def cispo(eps_low: float = 1.0, eps_high: float = 0.28) -> Loss:
    """L = -Σₜ wₜ A ℓₜ / Σ|y|,   ∂L/∂ℓₜ = -wₜ A/Σ|y|,   wₜ = clip(ρₜ, 1-ε_l, 1+ε_h) without a gradient

    Clipped importance sampling: REINFORCE of samples that are not the policy's own, each weighed by its ratio, which
    has a ceiling. No token falls silent. From ε_l = 1 on there is no floor.

    MiniMax 2025, arXiv:2506.13585, eq. 4 and 5: no floor, and ε_h tuned; neither number is printed. Here ε_h is that of
    DAPO; Σ|y| is a group's there.

    Elsewhere: in TRL, Liger and unsloth `epsilon_high` is the ceiling itself, min(ρ, ε_h); open-instruct has min(ρ,
    1+ε); verl, NeMo and the RLHF book clip at both ends.

    >>> value, grad = cispo()(np.log([[[0.5]]]), old_token_logp=np.log([[[0.25]]]), mask=[[[True]]], advantage=[[1.0]])
    >>> value.round(6), grad
    (array([0.887228]), array([[[-1.28]]]))
    """
    low, high = positive("eps_low", eps_low), positive("eps_high", eps_high)
    link = reduced(tokens, weighed, "old_token_logp", "advantage", low=low, high=high)
    return term("cispo", log_prob, link, eps_low=eps_low, eps_high=eps_high)


# ---- what is added to them

@named
def kl(estimator: str = "k3", reduction: str = "sequence_mean") -> Loss:
    """L = 1/K Σₖ 1/|y| Σₜ k(dₜ),   ∂L/∂ℓₜ = k'(dₜ)/(K|y|),   d = log π/π_ref,   k(d) = d, d²/2 or e⁻ᵈ - 1 + d

    Three estimators of KL(π || π_ref) from samples of π, k1, k2 and k3: the first and the last without bias, the last
    never negative. As losses they are something else, as no gradient flows into the sampling: in expectation, that of
    k1 is 0, that of k2 is that of KL(π || π_ref), that of k3 is that of KL(π_ref || π).

    Schulman 2020, "Approximating KL divergence" (joschu.net/blog/kl-approx.html). `reduction`: as in `reinforce`.

    Elsewhere: `grpo` has k3; k1 belongs into the reward (`dn.penalized_reward`). verl and NeMo clamp d
    at 20 and k3 at 10, open-instruct d at 40, TRL and HALOs neither; NeMo multiplies by a score-function term. MLX and
    the RLHF book have the ratio of k3 upside down. Written as `exp(-d) - 1 + d`, k3 of d = 1e-4 is 0 in float32.

    >>> value, grad = kl("k2")([[[-1.0, -2.0]]], ref_token_logp=[[[-1.5, -1.0]]], mask=[[[True, True]]])
    >>> value, grad
    (array([0.3125]), array([[[ 0.25, -0.5 ]]]))
    """
    kernel = ESTIMATORS[one_of("estimator", estimator, *ESTIMATORS)]
    link = reduced(_reduction(reduction), kernel)
    return term("kl", ref_log_ratio, link, estimator=estimator, reduction=reduction)


@named
def value_clip(eps: float = 0.2, reduction: str = "tokens") -> Loss:
    """L = Σₜ ½ max(e², c²)/Σ|y|,   ∂L/∂V = e/Σ|y|, 0 where |V - V_old| > ε and c² >= e²;   e = V - R,
    c = V_old + clip(V - V_old, ±ε) - R

    The regression of PPO's value model: it reads `token_value` (B, K, T), and is told `old_token_value` and the returns
    `token_return` (`dn.gae`). The larger of the two errors counts: a value that went further than ε towards its return
    is left alone. `reduction`: as in `reinforce`.

    Schulman et al. 2017, arXiv:1707.06347, has the square without a clip; the clip is that of its code, `ppo2` of
    openai/baselines.

    Elsewhere: TRL, verl and OpenRLHF clip so too, each with a coefficient of its own.

    >>> value_clip(eps=0.5)([[[1.0, 6.0]]], old_token_value=[[[0.0, 5.0]]], token_return=[[[2.0, 2.0]]],
    ...                     mask=[[[True, True]]])
    (array([4.5625]), array([[[0., 2.]]]))
    """
    link = reduced(_reduction(reduction), value_error, "old_token_value", "token_return", eps=positive("eps", eps))
    return term("value_clip", of_tokens("token_value"), link, eps=eps, reduction=reduction)


@named
def entropy_bonus(coefficient: float = 0.01, reduction: str = "sequence_mean") -> Loss:
    """L = -c 1/K Σₖ 1/|y| Σₜ Hₜ,   ∂L/∂Hₜ = -c/(K|y|)

    Keeps a policy from becoming certain: it reads `token_entropy` (B, K, T), the entropy of the distribution that each
    token was drawn from, whose gradient `dn.token_entropy` takes on to the logits. `reduction`: as in `reinforce`.

    Schulman et al. 2017, arXiv:1707.06347, eq. 9; c = 0.01 in its runs on Atari games.

    >>> entropy_bonus(coefficient=0.5)([[[0.5, 1.5]]], mask=[[[True, True]]])
    (array([-0.5]), array([[[-0.25, -0.25]]]))
    """
    bonus = term("bonus", of_tokens("token_entropy"), reduced(_reduction(reduction), negative))
    scaled = within("coefficient", coefficient, 0, math.inf) * bonus
    return mixture("entropy_bonus", scaled, coefficient=coefficient, reduction=reduction)
