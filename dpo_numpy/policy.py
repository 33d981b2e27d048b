"""Arrow 1: what a policy owes, and what any policy can then do: sample, enumerate, exact KL.

A policy is an object with

    vocab                      the number of outcomes of one step, V
    eos                        the outcome that ends a response; None where every response is one token
    init(rng) -> params        a flat dict of arrays
    logits(params, tokens)     (..., T, V) with a pullback; `logits[..., t, :]` may look at tokens[..., :t + 1] only

and, where it knows a faster way, any reading under the reading's name (`logp(params, responses, rows) -> value,
pullback`) and `next_logits(params, tokens, length)`, the logits (N, V) after the first `length` tokens of each row. If
it holds more for a token than its V logits until the pullback is called, `cells` says how many numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .numerics import exp_minus_1_minus, log_softmax
from .preferences import Responses

__all__ = ["Params", "Policy", "enumerate_responses", "exact_kl", "sample"]

Array = NDArray[Any]
Params = dict[str, Array]


class Policy(Protocol):
    """π(next token | tokens so far) = softmax(logits), and the pullback that takes ∂L/∂logits to ∂L/∂params."""

    @property
    def vocab(self) -> int:
        """V, how many outcomes a token has"""

    @property
    def eos(self) -> int | None:
        """The token that ends a response; None where a response is a single token"""

    def init(self, rng: np.random.Generator) -> Params:
        """Parameters to start from, by name"""

    def logits(self, params: Params, tokens: Array) -> tuple[Array, Callable[[Array], Params]]:
        """Logits (..., N, T, V) of tokens (N, T), those at t for the token at t + 1; and dlogits -> dparams"""


def sample(policy: Policy, params: Params, prompts: Sequence[Sequence[int]], rng: np.random.Generator,
           max_length: int) -> Responses:
    """One response to each prompt, at most `max_length` tokens long, drawn token by token from the policy.

    The fact `finished` (N,) is false where `max_length` came before the end-of-string token.

    Raises `ValueError` on an empty prompt, `max_length` below 1, and parameters of several replicates.
    """
    if max_length < 1:
        raise ValueError(f"max_length is {max_length}; expected at least 1")
    length = np.array([len(prompt) for prompt in prompts], int)
    if not length.all():
        raise ValueError(f"the prompt of row {np.argmin(length)} is empty; expected at least one token")
    steps = max_length if policy.eos is not None else 1
    tokens = np.zeros((len(prompts), length.max(initial=1) + steps), int)
    mask = np.zeros(tokens.shape, bool)
    for row, prompt in enumerate(prompts):
        tokens[row, :len(prompt)] = prompt
    alive = np.arange(len(prompts))
    for _ in range(steps if len(alive) else 0):
        width = length[alive].max()
        logits = _next_logits(policy, params, tokens[alive, :width], length[alive])
        if logits.ndim != 2:
            raise ValueError(f"params give logits of shape {logits.shape}; expected (N, V), those of one policy")
        logp = log_softmax(logits)
        cdf = np.cumsum(np.exp(logp), axis=-1, dtype=np.float64)
        u = rng.random(len(alive))[:, None] * cdf[:, -1:]
        drawn = (cdf <= u).sum(axis=-1)
        tokens[alive, length[alive]], mask[alive, length[alive]] = drawn, True
        length[alive] += 1
        alive = alive[drawn != policy.eos] if policy.eos is not None else alive[:0]
        if not len(alive):
            break
    finished = np.ones(len(tokens), bool)
    finished[alive] = False
    return Responses(tokens[:, :length.max(initial=1)], mask[:, :length.max(initial=1)], {"finished": finished})


def enumerate_responses(policy: Policy, prompt: Sequence[int], max_length: int) -> Responses:
    """Every response to a prompt, shortest first: those that end within `max_length` tokens, and those of that length
    that have not ended (fact `finished` false). Their probabilities sum to 1.

    Their number grows as V^max_length: raises `ValueError` beyond 2²⁴ tokens in all.

    >>> from toy_models import NGram
    >>> enumerate_responses(NGram(vocab=2), [0], 2).tokens.tolist()
    [[0, 0, 0], [0, 1, 0], [0, 1, 1]]
    """
    if not len(prompt) or max_length < 1:
        raise ValueError(f"prompt has {len(prompt)} tokens and max_length is {max_length}; expected at least 1 of each")
    if policy.eos is None:
        open_, done = np.empty((1, 0), int), [np.arange(policy.vocab)[:, None]]
    else:
        open_, done = np.zeros((1, 0), int), []
        others = np.delete(np.arange(policy.vocab), policy.eos)
        for _ in range(max_length):
            if len(open_) * len(others) * (len(prompt) + max_length) > 1 << 24:
                raise ValueError(
                    f"max_length is {max_length}: more than 2**24 tokens of responses over {policy.vocab} "
                    "outcomes; expected fewer"
                )
            done.append(np.column_stack([open_, np.full(len(open_), policy.eos)]))
            open_ = np.column_stack([np.repeat(open_, len(others), axis=0), np.tile(others, len(open_))])
        done.append(open_)
    width = len(prompt) + max(part.shape[1] for part in done)
    tokens = np.zeros((sum(map(len, done)), width), int)
    mask = np.zeros(tokens.shape, bool)
    tokens[:, :len(prompt)] = prompt
    row = 0
    for part in done:
        here = slice(row, row + len(part)), slice(len(prompt), len(prompt) + part.shape[1])
        tokens[here], mask[here] = part, True
        row += len(part)
    finished = np.ones(len(tokens), bool)
    if policy.eos is not None:
        finished[len(tokens) - len(open_):] = False
    return Responses(tokens, mask, {"finished": finished})


def exact_kl(policy: Policy, params: Params, ref_policy: Policy, ref_params: Params, prompt: Sequence[int],
             max_length: int) -> float:
    """KL(π || π_ref) = Σ_y π(y|x) log π(y|x)/π_ref(y|x) in nats, over the first `max_length` tokens, by enumeration

    A lower bound on the KL over unbounded responses, which it reaches as unfinished prefixes lose their mass. inf where
    the reference cannot produce what the policy does.

    >>> from toy_models import NGram
    >>> policy, flat, sure = NGram(vocab=2), {"W": np.zeros((2, 2))}, {"W": np.array([[0.0, -40.0]] * 2)}
    >>> round(exact_kl(policy, sure, policy, flat, [0], 8), 6)
    0.693147
    """
    from .gradient import read

    every = enumerate_responses(policy, prompt, max_length)
    rows = np.arange(len(every))
    logp = read(policy, params, every, rows, ["logp"])[0]["logp"]
    ref = read(ref_policy, ref_params, every, rows, ["logp"])[0]["logp"]
    possible = logp > -np.inf
    if np.isneginf(ref[possible]).any():
        return float("inf")
    p, q, d = np.exp(logp[possible]), np.exp(ref[possible]), ref[possible] - logp[possible]
    # Σ p (e^d - 1 - d) with d = log q/p: no term is negative, so nothing cancels where the two are close
    terms = np.where(d < 1, p * exp_minus_1_minus(np.minimum(d, 1)), q - p * (1 + d))
    return float(terms.sum() + np.exp(ref[~possible]).sum())


def _next_logits(policy: Policy, params: Params, tokens: Array, length: Array) -> Array:
    if hasattr(policy, "next_logits"):
        return policy.next_logits(params, tokens, length)  # type: ignore[no-any-return]
    logits, _ = policy.logits(params, tokens)
    return np.asarray(logits[..., np.arange(len(tokens)), length - 1, :])
