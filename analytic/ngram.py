"""Exact sums over all strings of an n-gram language model that ends: a linear equation each.

Tables are (S, V) arrays, a row for each context: probabilities of the next token (p, q, ref), or rewards of it (reward,
ρ). Outcome 0 is the boundary and ends the string. |y| counts the tokens before it; r(y) = Σₜ ρ(cₜ, yₜ) is summed over
them and the end. Log-probabilities and entropies are in nats, β is in units of reward a nat.

Two keywords say where outcomes lead. `following` (S, V) holds rows, its first column ignored; without it there is a row
for all contexts of n - 1 tokens, S = Vⁿ⁻¹, and row s and token v lead to (v + V s) mod S: the latest token counts
least, and for a bigram, S = V, it is the row. `start`, 0 unless told, is the row that strings begin in. With
`following` any finite automaton will do: contexts of several lengths, a limit on |y|, a reward that remembers. What
tables say in contexts that no string visits changes nothing, and what is returned there means nothing.

Sums of probabilities times rewards are sums over visits N(s), exact however long strings are. Sums of weights, such as
Z, solve v = A_T v + A_end, and lose the digits that 1 - radius of A_T loses. Up to a thousand contexts this is LU;
beyond, some dozens of products with the table, never a matrix: seconds for the 66,049 contexts of a trigram of bytes.

Every function raises `ValueError` where a probability is below 0, a row does not sum to 1, a reward is not finite, β
not a finite number above 0, shapes do not fit, or a string comes to a context from which none can end; and
`ArithmeticError` where thousands of products would not be enough.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from ._chains import (
    Steps,
    advantages,
    divergence,
    forward,
    model,
    require_few_tokens,
    rewards,
    steps,
    transitions,
    visit_counts,
)
from ._checks import Array, positive
from ._control import (
    Values,
    critical_beta,
    fisher,
    fisher_product,
    log_partition,
    natural_gradient,
    optimal_values,
    optimum,
    policy_gradient,
    policy_values,
    spectral_radius,
    value,
)
from ._totals import Truncated, dpo_loss, win_rate
from ._weights import log_sums, log_weights, settled

__all__ = [
    "Truncated", "Values", "chi2", "collision", "critical_beta", "dpo_loss", "entropy", "expected", "expected_length",
    "fisher", "fisher_product", "kl", "length_pmf", "length_variance", "log_partition", "natural_gradient",
    "optimal_values", "optimum", "policy_gradient", "policy_values", "renyi", "spectral_radius", "value", "variance",
    "visits", "win_rate",
]


# ---- one model

def visits(p: ArrayLike, *, following: ArrayLike | None = None, start: int = 0) -> Array:
    """N = (I - Tᵀ)⁻¹ e_start: how often a string is expected to be in each context, (S,);  T[s, s'] = p(v|s) where v
    leads to s'

    >>> visits([[0.2, 0.8], [0.5, 0.5]])
    array([1. , 1.6])
    """
    chain = steps("p", p, following, start)
    return visit_counts(model("p", p, chain), chain)


def expected_length(p: ArrayLike, *, following: ArrayLike | None = None, start: int = 0) -> float:
    """E|y| = Σₛ N(s) (1 - p(end|s)), tokens before the end

    >>> round(expected_length([[0.2, 0.8], [0.5, 0.5]]), 12)
    1.6
    """
    chain = steps("p", p, following, start)
    p = model("p", p, chain)
    return float(visit_counts(p, chain) @ p[:, 1:].sum(axis=1))


def length_variance(p: ArrayLike, *, following: ArrayLike | None = None, start: int = 0) -> float:
    """Var |y|: `variance` of a reward of 1 for each outcome, as the end, which comes once, adds a constant

    >>> round(length_variance([[0.2, 0.8], [0.5, 0.5]]), 12)
    2.24
    """
    chain = steps("p", p, following, start)
    p = model("p", p, chain)
    return _variance(p, np.ones(p.shape), chain)


def length_pmf(
    p: ArrayLike, longest: int | None = None, *, following: ArrayLike | None = None, start: int = 0
) -> Array:
    """P(|y| = n) = e_startᵀ Tⁿ p(end), n = 0 ... longest, (longest + 1,); until less than 1e-16 is left, unless told

    A product a token: some 37 E|y| of them, unless `longest` is given; `ArithmeticError` beyond ten million.

    >>> length_pmf([[0.2, 0.8], [0.5, 0.5]], longest=3)
    array([0.2, 0.4, 0.2, 0.1])
    """
    chain = steps("p", p, following, start)
    p = model("p", p, chain)
    if longest is not None and not (isinstance(longest, int | np.integer) and longest >= 0):
        raise ValueError(f"longest is {longest}; expected a number of tokens, at least 0, or None")
    if longest is None:
        require_few_tokens("p", p, chain, 1e-16, 10_000_000)
    T, unfinished = transitions(p, chain), chain.begin()
    pmf: list[float] = []
    while unfinished.sum() > 1e-16 if longest is None else len(pmf) <= longest:
        pmf.append(float(p[:, 0] @ unfinished))
        unfinished = T.T @ unfinished
    return np.array(pmf)


def entropy(p: ArrayLike, *, following: ArrayLike | None = None, start: int = 0) -> float:
    """H = -Σ_y p(y) log p(y) = -Σₛ N(s) Σ_v p(v|s) log p(v|s), in nats

    >>> round(entropy([[0.5, 0.5], [0.5, 0.5]]), 6)  # two tosses of a coin on average, log 2 each
    1.386294
    """
    chain = steps("p", p, following, start)
    p = model("p", p, chain)
    return float(visit_counts(p, chain) @ entr(p).sum(axis=1))


def expected(p: ArrayLike, reward: ArrayLike, *, following: ArrayLike | None = None, start: int = 0) -> float:
    """E r(y) = Σₛ N(s) Σ_v p(v|s) ρ(s, v)

    >>> round(expected([[0.2, 0.8], [0.5, 0.5]], [[0.0, 1.0], [-1.0, 1.0]]), 12)
    0.8
    """
    chain = steps("p", p, following, start)
    p, reward = model("p", p, chain), rewards("reward", reward, chain)
    return float(visit_counts(p, chain) @ (p * reward).sum(axis=1))


def variance(p: ArrayLike, reward: ArrayLike, *, following: ArrayLike | None = None, start: int = 0) -> float:
    """Var r(y) = Σₛ N(s) Σ_v p(v|s) D(s, v)²,   D(s, v) = ρ(s, v) + U(s') - U(s),   U(s) = E[rewards from s on]

    The D along a string are uncorrelated, and r(y) = U(start) + Σ D. Sobel 1982.

    >>> round(variance([[0.2, 0.8], [0.5, 0.5]], [[0.0, 1.0], [0.0, 1.0]]), 12)
    2.24
    """
    chain = steps("p", p, following, start)
    return _variance(model("p", p, chain), rewards("reward", reward, chain), chain)


def _variance(p: Array, reward: Array, chain: Steps) -> float:
    _, _, D = advantages(p, reward, chain)
    return float(visit_counts(p, chain) @ (p * D**2).sum(axis=1))


# ---- two models

def kl(p: ArrayLike, q: ArrayLike, *, following: ArrayLike | None = None, start: int = 0) -> float:
    """KL(p || q) = Σ_y p(y) log p(y)/q(y) = Σₛ N_p(s) KL(p(·|s) || q(·|s)), in nats; inf where q cannot follow p

    Keeps digits where p and q are close, as `optimum.kl` does.

    >>> round(kl([[0.2, 0.8], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]), 6)
    0.192745
    """
    chain = steps("p", p, following, start)
    p, q = model("p", p, chain), model("q", q, chain)
    return divergence(visit_counts(p, chain), p, q)


def renyi(
    p: ArrayLike, q: ArrayLike, order: float, *, following: ArrayLike | None = None, start: int = 0
) -> float:
    """D_a(p || q) = log(Σ_y p(y)^a q(y)^{1-a}) / (a - 1), in nats, a > 0 the order; KL(p || q) at a = 1

    inf where a > 1 and the sum diverges, for which two models may be quite close if strings are long, or q cannot
    follow p; and where a < 1 and no string is common to both. Rényi 1961; van Erven & Harremoës 2014, arXiv:1206.2459.

    >>> round(renyi([[0.2, 0.8], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]], 2.0), 6)  # log(.08 + 1.28), the first token's
    0.307485
    """
    a = positive("order", order)
    if a == 1:
        return kl(p, q, following=following, start=start)
    chain = steps("p", p, following, start)
    p, q = model("p", p, chain), model("q", q, chain)
    with np.errstate(divide="ignore", invalid="ignore"):
        G = np.where(p > 0, a * np.log(p) + (1 - a) * np.log(q), -np.inf)
    G, here = settled(G, chain)
    if not here[chain.start]:
        return np.inf
    total = float(log_sums(G, 1.0, chain)[chain.start])
    if abs(total) < 0.1:
        total = float(np.log1p(_excess(p, q, a, np.exp(G), here, chain)))
    return total / (a - 1)


def _excess(p: Array, q: Array, a: float, A: Array, here: NDArray[np.bool_], chain: Steps) -> float:
    """Σ_y p(y)^a q(y)^{1-a} - 1, not as a difference of numbers close to 1, A = p^a q^{1-a} in the contexts `here`

    v = A_T v + A_end is x = A_T x + e with v = 1 + x: e = Σ_v (p^a q^{1-a} - a p - (1 - a) q) is of second order in
    q - p.
    """
    near = abs(q - p) < p / 2
    change = np.divide(q - p, p, out=np.zeros(p.shape), where=near)
    e = np.where(near, p * (np.expm1((1 - a) * np.log1p(change)) - (1 - a) * change), A - a * p - (1 - a) * q)
    return float(forward(transitions(A, chain), np.where(here, e.sum(axis=1), 0.0))[chain.start])


def chi2(p: ArrayLike, q: ArrayLike, *, following: ArrayLike | None = None, start: int = 0) -> float:
    """χ²(p || q) = Σ_y p(y)²/q(y) - 1 = e^{D_2} - 1: the variance of p/q over strings of q; inf where it diverges

    >>> round(chi2([[0.2, 0.8], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]), 12)
    0.36
    """
    with np.errstate(over="ignore"):
        return float(np.expm1(renyi(p, q, 2.0, following=following, start=start)))


def collision(p: ArrayLike, q: ArrayLike, *, following: ArrayLike | None = None, start: int = 0) -> float:
    """P(y = y') = Σ_y p(y) q(y), y drawn from p and y' from q

    >>> round(collision([[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]), 12)
    0.333333333333
    """
    chain = steps("p", p, following, start)
    p, q = model("p", p, chain), model("q", q, chain)
    G, here = settled(log_weights(p) + log_weights(q), chain)
    return float(np.exp(log_sums(G, 1.0, chain)[chain.start])) if here[chain.start] else 0.0
