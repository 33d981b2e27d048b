"""Arbitrary preferences, as of many annotators: what rules of voting, and games, make of a matrix of probabilities.

    P[i, j] = P(response i is preferred to j)        P + Pᵀ = 1        P(y ≻ μ) = Σ_y' P[y, y'] μ(y')

preference (..., K, K) is P, ½ on the diagonal; policies are (..., K); leading axes (prompts, replicates) broadcast. No
reward need explain it: 0 may beat 1, 1 beat 2, and 2 beat 0. DPO sees such labels through the reward that fits them
best, `population.newton(W * P, beta)`, W the weight of each pair. Where all pairs weigh the same, the order of this
reward is Borda's, as Σⱼ σ(rᵢ - rⱼ) = Σⱼ Pᵢⱼ at the fit and the left side rises with rᵢ. With other weights it need not
be, and with none need a Condorcet winner come first.

Every function raises `ValueError` where P is no such matrix, a policy has an entry below 0 or a row that does not sum
to 1, τ or η is not one finite number above 0, or shapes do not fit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog
from scipy.special import log_softmax, softmax

from ._checks import Array, _reject, distribution, positive, probability, same_responses, whole

__all__ = ["borda", "condorcet", "copeland", "exploitability", "nash", "regularized_nash", "self_play"]


def borda(preference: ArrayLike, mu: ArrayLike | None = None) -> Array:
    """P(y ≻ μ), shape (..., K): the win rate of each against μ, itself included as a tie; by default μ is uniform

    preference (..., K, K), mu (..., K). `minimizers.ipo`, `sppo` and `sft` see P through it alone.

    >>> borda([[0.5, 0.75], [0.25, 0.5]])
    array([0.625, 0.375])
    """
    lead = _lead(preference)
    mu = np.full(lead.shape[-1], 1 / lead.shape[-1]) if mu is None else distribution("mu", mu)
    return _against(lead, "mu", mu) + 0.5


def copeland(preference: ArrayLike) -> Array:
    """How many of the others each beats, P > ½, ties counted half, shape (..., K)

    >>> copeland([[0.5, 0.9, 0.6], [0.1, 0.5, 0.5], [0.4, 0.5, 0.5]])
    array([2. , 0.5, 0.5])
    """
    lead = _lead(preference)
    wins: Array = (np.sign(lead).sum(axis=-1) + lead.shape[-1] - 1) / 2
    return wins


def condorcet(preference: ArrayLike) -> NDArray[np.intp]:
    """The response that beats every other, P > ½, shape (...): its index, or -1 where there is none

    >>> condorcet([[0.5, 0.9, 0.6], [0.1, 0.5, 0.7], [0.4, 0.3, 0.5]])
    array(0)
    """
    wins = copeland(preference)
    return np.where(wins.max(axis=-1) == wins.shape[-1] - 1, wins.argmax(axis=-1), -1)


def exploitability(pi: ArrayLike, preference: ArrayLike) -> Array:
    """max_y P(y ≻ π) - ½, shape (...): by how much the best answer to π beats it; 0 for Nash policies alone

    pi (..., K), preference (..., K, K).

    >>> exploitability([1.0, 0.0], [[0.5, 0.25], [0.75, 0.5]])
    np.float64(0.25)
    """
    best: Array = _against(_lead(preference), "pi", distribution("pi", pi)).max(axis=-1)
    return best


def nash(preference: ArrayLike) -> Array:
    """π with P(y ≻ π) <= ½ for every y, shape (..., K): no policy is preferred to it; a maximal lottery

    preference (..., K, K). The Nash equilibrium, with itself, of the symmetric game whose payoff is P, by linear
    programming; all on the Condorcet winner where there is one. It is unique but for coincidences, such as ties, where
    it is a corner of the set. Kreweras 1965; Fishburn 1984.

    >>> nash([[0.5, 0.75, 0.0], [0.25, 0.5, 0.75], [1.0, 0.25, 0.5]]).round(8)
    array([0.25, 0.5 , 0.25])
    """
    lead = _lead(preference)
    pi = np.empty(lead.shape[:-1])
    for prompt in np.ndindex(lead.shape[:-2]):
        pi[prompt] = _maximal_lottery(lead[prompt])
    return pi


def regularized_nash(ref: ArrayLike, preference: ArrayLike, tau: float) -> Array:
    """π(y) = π_ref(y) e^{P(y ≻ π)/τ}/Z, shape (..., K): no π' has a greater P(π' ≻ π) - τ KL(π' || π_ref)

    ref (..., K), preference (..., K, K). The only Nash equilibrium of P(π ≻ π') - τ KL(π || π_ref) + τ KL(π' || π_ref).
    As τ rises it tends to the reference, as τ falls to a `nash` policy, that of least KL from the reference. Nash-MD
    comes to it with steps η that fall to 0; with one η it ends O(η) away, at π_ref e^{P(y ≻ π')/τ}/Z with π' ∝
    π^{1-ητ} π_ref^{ητ}. Munos et al. 2023, arXiv:2312.00886.

    By Newton's method; log π is rounded by about 1e-16/τ.

    >>> regularized_nash([0.5, 0.5], [[0.5, 0.75], [0.25, 0.5]], tau=0.25).round(8)  # σ(1)
    array([0.73105858, 0.26894142])
    """
    lead, ref, tau = _lead(preference), distribution("ref", ref), positive("tau", tau)
    shape = _against(lead, "ref", ref).shape
    refs, leads = np.broadcast_to(ref, shape), np.broadcast_to(lead, (*shape, shape[-1]))
    pi = np.empty(shape)
    for prompt in np.ndindex(shape[:-1]):
        pi[prompt] = _fixed_point(refs[prompt], leads[prompt], tau)
    return pi


def self_play(preference: ArrayLike, start: ArrayLike, eta: float, steps: int) -> Array:
    """π_{t+1}(y) = π_t(y) e^{η P(y ≻ π_t)}/Z_t, shape (steps + 1, ..., K): SPPO's iteration, exactly, from π_0 = start

    preference (..., K, K), start (..., K). Multiplicative weights against itself. A Condorcet winner takes all. Where
    the Nash policy π* has full support, as in a cycle, they leave it: KL(π* || π_t) rises by log E_π_t e^{η (P(y ≻ π_t)
    - ½)} >= 0 a step, and they circle ever closer to the border (Bailey & Piliouras 2018). Their mean comes close: the
    `exploitability` of that of the first T is at most -log(min start)/(ηT) + η/8. Wu et al. 2024, arXiv:2405.00675,
    theorem 4.1.

    >>> self_play([[0.5, 0.75], [0.25, 0.5]], [0.5, 0.5], eta=4.0, steps=1)[-1].round(8)  # σ(η/4)
    array([0.73105858, 0.26894142])
    """
    lead, pi, eta = _lead(preference), distribution("start", start), positive("eta", eta)
    with np.errstate(divide="ignore"):
        path = [np.log(np.broadcast_to(pi, _against(lead, "start", pi).shape))]
    for _ in range(whole("steps", steps)):
        path.append(log_softmax(path[-1] + eta * _against(lead, "start", np.exp(path[-1])), axis=-1))
    return np.exp(path)


# ---- one game

def _maximal_lottery(lead: Array) -> Array:
    """argmin_π v,   S π <= v,   S = P - ½: v is by how much the best answer leads"""
    K = len(lead)
    found = linprog(
        np.append(np.zeros(K), 1), A_ub=np.column_stack([lead / (abs(lead).max() or 1), -np.ones(K)]), b_ub=np.zeros(K),
        A_eq=np.append(np.ones(K), 0)[None], b_eq=[1.0], bounds=[*[(0, None)] * K, (None, None)],
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    pi = np.maximum(found.x[:K], 0)
    lottery: Array = pi / pi.sum()
    return lottery


def _fixed_point(ref: Array, lead: Array, tau: float) -> Array:
    """π ∝ π_ref e^u,   u = s S π,   S = P - ½ = -Sᵀ,   followed from s = 0 to 1/τ by doubling s

    The derivative of u - s S π, 1 - s S (diag π - π πᵀ), has eigenvalues 1 + imaginary numbers. So it has an inverse
    everywhere, one path leads from s = 0, and on it Newton's method, its steps halved, is stuck by rounding alone.
    """
    with np.errstate(divide="ignore"):
        log_ref = np.log(ref)
    u, s = np.zeros(ref.shape), 0.0

    def policy(u: Array) -> Array:
        pi: Array = softmax(log_ref + u)
        return pi

    def off(u: Array) -> float:
        return float(np.linalg.norm(u - s * lead @ policy(u)))

    def solve(pi: Array, x: Array) -> Array:
        return np.linalg.solve(np.eye(len(pi)) - s * lead @ (np.diag(pi) - np.outer(pi, pi)), x).astype(float)

    doublings = max(0, int(np.ceil(np.log2(max(abs(lead).max() / tau, 1)))))
    for goal in 2.0 ** -np.arange(doublings, -1, -1) / tau:
        pi = policy(u)
        u, s, part = u + (goal - s) * solve(pi, lead @ pi), float(goal), 1.0  # along the tangent
        while part:
            pi, part = policy(u), 1.0
            step = solve(pi, s * lead @ pi - u)
            while part and off(u + part * step) >= (1 - part / 4) * off(u):
                part = part / 2 if part > 1e-6 else 0.0
            u = u + part * step
    return policy(u)


# ---- pieces

def _against(lead: Array, name: str, mu: Array) -> Array:
    """P(y ≻ μ) - ½"""
    same_responses(preference=lead[..., 0], **{name: mu})
    margin: Array = (lead @ mu[..., None])[..., 0]
    return margin


def _lead(preference: ArrayLike) -> Array:
    """P - ½, as (P - Pᵀ)/2"""
    P = probability("preference", preference)
    if P.ndim < 2 or P.shape[-1] != P.shape[-2] or not P.shape[-1]:
        raise ValueError(f"preference has shape {P.shape}; expected (..., K, K)")
    given = np.asarray(preference).dtype
    off = 8 * np.finfo(given if given.kind == "f" else float).eps
    _reject("preference + its transpose", P + P.mT, abs(P + P.mT - 1) > off, "expected 1")
    return (P - P.mT) / 2
