"""Arrow 2: from logits to the numbers a loss reads, and back.

    logits (..., T, V), tokens (..., T), mask (..., T)  ->  token_logp, token_entropy, token_value (..., T)
                                                        |  logp, kl, reward (...)

`logits[..., t, :]` scores `tokens[..., t + 1]`: that shift happens here and nowhere else. Each reading returns its
value and a pullback, which takes the gradient in the value to the gradient in the logits. Rows of logits are visited in
blocks that fit the cache, by several threads (`parallel.set_threads`); beyond the gradient returned and some blocks a
thread there is never a second (..., V) array, if logits are C-contiguous. `fused.py` has both ways in one.

A policy is what softmax makes of logits. Read without it they are other models on the same features: the logits of a
response's tokens add up to its reward, and their mean at a position is the value of what has been said so far.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .numerics import kl_terms, log_normalizer, log_softmax
from .parallel import over_blocks
from .preferences import Responses

__all__ = [
    "READINGS", "sequence_kl", "sequence_logp", "sequence_reward", "token_entropy", "token_logp", "token_value",
]

Array = NDArray[Any]
Pullback = Callable[[Array], Array]

# logits in a block: what is done to it stays in a cache, of level 2 in float32, and takes so long that threads seldom
# wait for the interpreter's lock
BLOCK = 1 << 18


def token_logp(logits: Array, tokens: Array, mask: Array) -> tuple[Array, Pullback]:
    """ℓₜ = log softmax(logitsₜ₋₁)[tokenₜ] on the mask, 0 off it;  dℓₜ/dlogitsₜ₋₁ = onehot(tokenₜ) - softmax(logitsₜ₋₁)

    logits (..., T, V), tokens and mask (..., T), which broadcast over leading axes that only logits have. Nats a token.
    The value (..., T) is aligned with `tokens`: position 0 is always 0. In the dtype of the logits.

    Elsewhere: several trainers shift tokens and mask apart, or count the prompt or the padding; others return T - 1
    columns.

    Raises `ValueError` on shapes that do not fit, logits that are integers or float16, a mask on the first token, ids
    outside the vocabulary.

    >>> value, pullback = token_logp(np.zeros((1, 3, 2)), np.array([[0, 1, 0]]), np.array([[False, True, False]]))
    >>> value
    array([[ 0.        , -0.69314718,  0.        ]])
    >>> pullback(np.ones((1, 3)))[0].tolist()
    [[-0.5, 0.5], [0.0, 0.0], [0.0, 0.0]]
    """
    where, target = _scored(logits.shape, logits.dtype, tokens, mask)
    flat = logits.reshape(-1, logits.shape[-1])
    value = np.zeros(logits.shape[:-1], logits.dtype)
    scored = np.empty(len(where), logits.dtype)

    def forward(block: slice) -> None:
        x = flat[where[block]]
        picked = x.reshape(-1).take(_at(target[block], x))
        top, rest = log_normalizer(x)
        scored[block] = (picked - top) - rest

    _walk(forward, len(where), flat.shape[-1])
    value.reshape(-1)[where + 1] = scored

    def pullback(dvalue: Array) -> Array:
        dlogits = np.zeros(logits.shape, logits.dtype)  # C order, whatever that of the logits
        dflat, d = dlogits.reshape(flat.shape), np.broadcast_to(dvalue, value.shape).reshape(-1)[where + 1]

        def backward(block: slice) -> None:
            x = flat[where[block]]
            _, rest = log_normalizer(x)
            x *= (-d[block] * np.exp(-rest))[:, None]
            # 1 - p of a token that is nearly certain, to its last digit
            x.reshape(-1)[_at(target[block], x)] = -d[block] * np.expm1(scored[block])
            dflat[where[block]] = x

        _walk(backward, len(where), flat.shape[-1])
        return dlogits

    return value, pullback


def sequence_logp(logits: Array, tokens: Array, mask: Array) -> tuple[Array, Pullback]:
    """log π(y|x) = Σₜ ℓₜ over the mask, in nats: shapes, errors and gradient as in `token_logp`, value (...)

    Tokens are summed in float64 even where the logits are float32, and the sum is rounded once: 2,048 float32 terms
    added in their own dtype can lose 1e-4 nats.

    >>> value, pullback = sequence_logp(np.zeros((1, 3, 2)), np.array([[0, 1, 0]]), np.array([[False, True, True]]))
    >>> value
    array([-1.38629436])
    >>> pullback(np.ones(1))[0].tolist()
    [[-0.5, 0.5], [0.5, -0.5], [0.0, 0.0]]
    """
    tokenwise, back = token_logp(logits, tokens, mask)
    total = tokenwise.sum(axis=-1, dtype=np.result_type(logits.dtype, np.float64)).astype(logits.dtype)
    return total, lambda dtotal: back(dtotal[..., None])


def sequence_kl(logits: Array, ref_logits: Array, mask: Array) -> tuple[Array, Pullback]:
    """D(y) = Σₜ KL(π_ref(·|x, y₍<t₎) || π(·|x, y₍<t₎)) over the mask, in nats;  dD/dlogits = π - π_ref at each position

    Forward KL at the positions of *this* response, not an expectation over responses. Computed as Σᵥ q (eᵈ - 1 - d)
    with d = log p - log q, which is 0 where p = q, never negative, and keeps its digits in between; `Σ q (log q - log
    p)` has none left once d < 1e-8. inf where the policy cannot produce what the reference does. Zeng et al. 2024
    (TDPO), arXiv:2404.11999. Shapes and errors as in `sequence_logp`.

    >>> x = np.array([[[0.0, 1.0], [0.0, 0.0]]])
    >>> value, pullback = sequence_kl(x, np.zeros_like(x), np.array([[False, True]]))
    >>> value
    array([0.12011451])
    >>> pullback(np.ones(1))[0].round(8).tolist()
    [[-0.23105858, 0.23105858], [0.0, 0.0]]
    """
    if ref_logits.shape[-2:] != logits.shape[-2:]:
        raise ValueError(f"ref_logits has shape {ref_logits.shape}; expected that of logits, {logits.shape}")
    where, _ = _scored(logits.shape, logits.dtype, np.zeros(mask.shape, int), mask)
    flat = logits.reshape(-1, logits.shape[-1])
    ref = np.broadcast_to(ref_logits, logits.shape).reshape(flat.shape)
    each = np.zeros(logits.shape[:-1], logits.dtype)

    def terms(block: slice) -> tuple[Array, Array]:
        return kl_terms(log_softmax(ref[where[block]]), log_softmax(flat[where[block]]))

    def forward(block: slice) -> None:
        each.reshape(-1)[where[block]] = terms(block)[0].sum(axis=-1)

    _walk(forward, len(where), flat.shape[-1])
    total = each.sum(axis=-1, dtype=np.result_type(logits.dtype, np.float64)).astype(logits.dtype)

    def pullback(dtotal: Array) -> Array:
        dlogits = np.zeros(logits.shape, logits.dtype)  # C order, whatever that of the logits
        dflat = dlogits.reshape(flat.shape)
        dposition = np.broadcast_to(dtotal[..., None], each.shape).reshape(-1)[where]

        def backward(block: slice) -> None:
            dflat[where[block]] = dposition[block, None] * terms(block)[1]

        _walk(backward, len(where), flat.shape[-1])
        return dlogits

    return total, pullback


def token_entropy(logits: Array, tokens: Array, mask: Array) -> tuple[Array, Pullback]:
    """Hₜ = -Σᵥ pᵥ log pᵥ, p = softmax(logitsₜ₋₁), on the mask, 0 off it;  dHₜ/dlogitsₜ₋₁ᵥ = -pᵥ (log pᵥ + Hₜ)

    The entropy of the distribution that token t was drawn from, in nats; which token it was does not matter. Computed
    as log Σ eᵇ - Σ p b and -p (b - Σ p b), b = logits - their largest: two numbers that are never negative, of which a
    nearly certain token keeps all digits, and differences of logits, which vanish with the slope where all are alike. A
    logit of -inf has no share. Shapes, alignment and errors as in `token_logp`.

    >>> value, pullback = token_entropy(np.zeros((1, 3, 2)), np.array([[0, 1, 0]]), np.array([[False, True, False]]))
    >>> value
    array([[0.        , 0.69314718, 0.        ]])
    """
    where, _ = _scored(logits.shape, logits.dtype, tokens, mask)
    flat = logits.reshape(-1, logits.shape[-1])
    value = np.zeros(logits.shape[:-1], logits.dtype)

    def parts(block: slice) -> tuple[Array, Array, Array, Array]:
        """p, b, Σ p b and log Σ eᵇ"""
        x = flat[where[block]]
        p = x.copy()
        top, rest = log_normalizer(p)
        p *= np.exp(-rest)[:, None]
        below = np.where(p == 0, 0, x - top[:, None])  # -inf where the logit is
        return p, below, (p * below).sum(axis=-1), rest

    def forward(block: slice) -> None:
        _, _, mean, rest = parts(block)
        value.reshape(-1)[where[block] + 1] = rest - mean

    _walk(forward, len(where), flat.shape[-1])

    def pullback(dvalue: Array) -> Array:
        dlogits = np.zeros(logits.shape, logits.dtype)  # C order, whatever that of the logits
        dflat, d = dlogits.reshape(flat.shape), np.broadcast_to(dvalue, value.shape).reshape(-1)[where + 1]

        def backward(block: slice) -> None:
            p, below, mean, _ = parts(block)
            dflat[where[block]] = -d[block, None] * p * (below - mean[:, None])

        _walk(backward, len(where), flat.shape[-1])
        return dlogits

    return value, pullback


def sequence_reward(logits: Array, tokens: Array, mask: Array) -> tuple[Array, Pullback]:
    """r(x, y) = Σₜ logitsₜ₋₁[tokenₜ] over the mask;  dr/dlogitsₜ₋₁ = onehot(tokenₜ)

    A reward model: a policy that is not normalized. What it can express is what the policy's own logits can: a number a
    response (`Tabular`), θ·φ(x, y) and the base (`LogLinear`), a number a context and token (`NGram`), a score a token
    where weights are shared. Trained by `LOSSES["bt_rm"]` or `pl_rm`, in nats of the annotators' log-odds. Added up in
    float64 and rounded once. Shapes and errors as in `sequence_logp`.

    Elsewhere: reward models put a head with one output on the last token's hidden state, in place of these logits.

    >>> x = np.array([[[1.0, 2.0], [4.0, 8.0], [0.0, 0.0]]])
    >>> value, pullback = sequence_reward(x, np.array([[0, 1, 0]]), np.array([[False, True, True]]))
    >>> value
    array([6.])
    >>> pullback(np.ones(1))[0].tolist()
    [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
    """
    where, target = _scored(logits.shape, logits.dtype, tokens, mask)
    each = np.zeros(logits.shape[:-1], logits.dtype)
    each.reshape(-1)[where] = logits.reshape(-1, logits.shape[-1])[where, target]
    total = each.sum(axis=-1, dtype=np.result_type(logits.dtype, np.float64)).astype(logits.dtype)

    def pullback(dtotal: Array) -> Array:
        dlogits = np.zeros(logits.shape, logits.dtype)
        dposition = np.broadcast_to(dtotal[..., None], each.shape).reshape(-1)[where]
        dlogits.reshape(-1, logits.shape[-1])[where, target] = dposition
        return dlogits

    return total, pullback


def token_value(logits: Array, tokens: Array, mask: Array) -> tuple[Array, Pullback]:
    """Vₜ = mean_v logitsₜ₋₁[v], the value of what stands before token t, on the mask, 0 off it;  dVₜ/dlogitsₜ₋₁ = 1/V

    A value head of fixed weights on the last layer, which is free. Softmax does not see the mean of logits, and the
    value sees nothing else: where a row of logits belongs to one context (`Tabular`, `NGram`), policy and value may
    share one table without a word to each other. Logits of -inf, outcomes that there are not, are left out. Shapes,
    alignment and errors as in `token_logp`; which token came does not matter.

    Elsewhere: a matrix with one column in place of the output layer, on the last hidden state.

    >>> x = np.array([[[1.0, 2.0], [4.0, 8.0], [0.0, 0.0]]])
    >>> value, pullback = token_value(x, np.array([[0, 1, 0]]), np.array([[False, True, True]]))
    >>> value
    array([[0. , 1.5, 6. ]])
    >>> pullback(np.ones((1, 3)))[0].tolist()
    [[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]]
    """
    where, _ = _scored(logits.shape, logits.dtype, tokens, mask)
    flat = logits.reshape(-1, logits.shape[-1])
    value = np.zeros(logits.shape[:-1], logits.dtype)

    def shares(block: slice) -> tuple[Array, Array]:
        """The logits, 0 where there is no outcome, and the weight of each"""
        x = flat[where[block]]
        there = ~np.isneginf(x.real)
        return np.where(there, x, 0), there / there.sum(axis=-1, keepdims=True, dtype=x.real.dtype)

    def forward(block: slice) -> None:
        x, share = shares(block)
        value.reshape(-1)[where[block] + 1] = (x * share).sum(axis=-1)

    _walk(forward, len(where), flat.shape[-1])

    def pullback(dvalue: Array) -> Array:
        dlogits = np.zeros(logits.shape, logits.dtype)  # C order, whatever that of the logits
        dflat, d = dlogits.reshape(flat.shape), np.broadcast_to(dvalue, value.shape).reshape(-1)[where + 1]

        def backward(block: slice) -> None:
            dflat[where[block]] = d[block, None] * shares(block)[1]

        _walk(backward, len(where), flat.shape[-1])
        return dlogits

    return value, pullback


def _scored(shape: tuple[int, ...], dtype: np.dtype[Any], tokens: Array, mask: Array) -> tuple[Array, Array]:
    """Flat positions (row-major over `shape[:-1]`) whose logits, of that shape, predict a masked token; those tokens"""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "fc" or dtype.itemsize < 4:  # sums of 2 bytes overflow
        raise ValueError(f"logits have dtype {dtype}; expected NumPy's floating-point numbers, of 32 bits at least")
    if tokens.shape != mask.shape or shape[-1 - tokens.ndim:-1] != tokens.shape:
        raise ValueError(f"logits {shape}, tokens {tokens.shape} and mask {mask.shape} do not fit; "
                         f"expected (..., T, V), (..., T), (..., T)")
    if mask.dtype != bool:
        raise ValueError(f"mask has dtype {mask.dtype}; expected bool")
    if mask[..., :1].any():
        raise ValueError("mask counts the first token, which no logits predict; expected mask[..., 0] false")
    target = tokens[mask]
    if target.size and not (0 <= target.min() and target.max() < shape[-1]):
        raise ValueError(f"tokens hold id {target.max() if target.min() >= 0 else target.min()} under the mask; "
                         f"expected ids from 0 to {shape[-1] - 1}")
    here, copies = np.flatnonzero(mask) - 1, prod(shape[:-1]) // max(mask.size, 1)
    if copies == 1:
        return here, target
    return (np.arange(copies)[:, None] * mask.size + here).reshape(-1), np.tile(target, copies)


def _at(target: Array, x: Array) -> Array:
    """Where x[row, target[row]] stands in x.reshape(-1)"""
    return target + np.arange(0, x.size, x.shape[-1])


def _walk(visit: Callable[[slice], None], rows: int, vocab: int) -> None:
    over_blocks(visit, rows, max(1, BLOCK // vocab))


def _kl(logits: Array, responses: Responses) -> tuple[Array, Pullback]:
    if responses.reference is None:
        raise ValueError(
            "the reading kl needs the reference's distributions: call batch.with_reference(policy, params, "
            "'logp', 'kl')"
        )
    ref_logits, _ = responses.reference.policy.logits(responses.reference.params, responses.tokens)
    return sequence_kl(logits, ref_logits, responses.mask)


#: name -> logits, responses -> the reading and its pullback to the logits
READINGS: dict[str, Callable[[Array, Responses], tuple[Array, Pullback]]] = {
    "logp": lambda logits, responses: sequence_logp(logits, responses.tokens, responses.mask),
    "full_logp": lambda logits, responses: sequence_logp(logits, responses.tokens, responses.whole),
    "token_logp": lambda logits, responses: token_logp(logits, responses.tokens, responses.mask),
    "token_entropy": lambda logits, responses: token_entropy(logits, responses.tokens, responses.mask),
    "token_value": lambda logits, responses: token_value(logits, responses.tokens, responses.mask),
    "reward": lambda logits, responses: sequence_reward(logits, responses.tokens, responses.mask),
    "kl": _kl,
}
