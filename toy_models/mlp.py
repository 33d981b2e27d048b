"""Bengio's neural n-gram: contexts share an embedding and a hidden layer, and yet sums over strings stay exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpo_numpy.preferences import Responses

from ._scatter import add_rows
from ._table import counts, log_probs
from .ngram import _before, _contexts

__all__ = ["MLP"]

Array = NDArray[Any]
Params = dict[str, Array]


@dataclass(frozen=True)
class MLP:
    """p(next | the last n-1 tokens) = softmax(b + tanh(c + x W) U),   x = the embeddings of those tokens, side by side

    Bengio et al. 2003, A Neural Probabilistic Language Model, eq. 1, there with a direct connection from x to the
    logits too. Contexts are those of `NGram`: token 0 ends a response, and a context does not look past it. What one
    context learns moves the others, which no n-gram table can show; as the contexts are as few as a table's, `table` is
    an n-gram with the same probabilities, for sums over all strings.

    vocab   V outcomes, the boundary included
    order   n, at least 2
    width   numbers in the embedding of a token; `hidden`, units in between

    Parameters: `E` (V, width), `W` ((n-1) width, hidden), `c` (hidden,), `U` (hidden, V), `b` (V,).

    Raises `ValueError` on sizes that leave nothing, and on token ids outside of the vocabulary.

    >>> policy = MLP(vocab=3, width=2, hidden=4)
    >>> policy.table(policy.init(np.random.default_rng(0))).shape
    (3, 3)
    """

    vocab: int
    order: int = 2
    width: int = 8
    hidden: int = 32
    eos = 0

    def __post_init__(self) -> None:
        for name, least in (("vocab", 2), ("order", 2), ("width", 1), ("hidden", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if self.vocab ** (self.order - 1) >= 1 << 62:
            raise ValueError(f"order is {self.order}: contexts over {self.vocab} outcomes are too many to number")

    def init(self, rng: np.random.Generator) -> Params:
        """Embeddings of scale 1, `W` of variance 1/inputs, the last layer and the biases 0: uniform, but not stuck."""
        wide = (self.order - 1) * self.width
        return {
            "E": rng.normal(size=(self.vocab, self.width)),
            "W": rng.normal(size=(wide, self.hidden)) / np.sqrt(wide),
            "c": np.zeros(self.hidden),
            "U": np.zeros((self.hidden, self.vocab)),
            "b": np.zeros(self.vocab),
        }

    def logits(self, params: Params, tokens: Array) -> tuple[Array, Callable[[Array], Params]]:
        """Logits (..., N, T, V) of tokens (N, T), those at t for the token at t + 1; and dlogits -> dparams"""
        ids, inverse = np.unique(_contexts(tokens, self.vocab, self.order), return_inverse=True)
        table, to_params = self._rows(params, ids)
        lead = table.shape[:-2]

        def pullback(dlogits: Array) -> Params:
            return to_params(add_rows(dlogits.reshape(*lead, -1, self.vocab), inverse.reshape(-1), len(ids)))

        return np.take(table, inverse.reshape(tokens.shape), axis=-2), pullback

    def logp(self, params: Params, responses: Responses, rows: Array) -> tuple[Array, Callable[[Array], Params]]:
        """log π(y|x) by counts, as an n-gram's: each context is computed once, however often it occurs"""
        if rows is not responses.every:
            responses = responses.take(rows)

        def build() -> tuple[Array, Array]:
            ids = _contexts(responses.tokens, self.vocab, self.order)[_before(responses.mask)]
            distinct, inverse = np.unique(ids, return_inverse=True)
            return distinct, inverse * self.vocab + responses.tokens[responses.mask]

        ids, cell = responses.memo((self, "contexts"), build)
        table, to_params = self._rows(params, ids)
        value, back = log_probs(table, counts(self, responses, responses.every, lambda: (cell, len(ids) * self.vocab)))
        return value, lambda dvalue: to_params(back(dvalue)["W"])

    def table(self, params: Params) -> Array:
        """The logits of every context, (Vⁿ⁻¹, V): the `W` of an `NGram` that is the same policy"""
        return self._rows(params, np.arange(self.vocab ** (self.order - 1)))[0]

    def _rows(self, params: Params, ids: Array) -> tuple[Array, Callable[[Array], Params]]:
        """Contexts, by number (S,), to logits (..., S, V)."""
        E, W, U = params["E"], params["W"], params["U"]
        window = ids[:, None] // self.vocab ** np.arange(self.order - 1) % self.vocab  # (S, n-1), the latest first
        x = np.take(E, window.reshape(-1), axis=-2).reshape(*E.shape[:-2], len(ids), W.shape[-2])
        z = params["c"][..., None, :] + x @ W
        h = np.tanh(z, out=z)

        def pullback(dlogits: Array) -> Params:
            dz = h * h
            np.subtract(1, dz, out=dz)
            dz *= dlogits @ U.mT
            dx = (dz @ W.mT).reshape(*E.shape[:-2], -1, self.width)
            return {
                "E": add_rows(dx, window.reshape(-1), self.vocab),
                "W": x.mT @ dz,
                "c": dz.sum(axis=-2),
                "U": h.mT @ dlogits,
                "b": dlogits.sum(axis=-2),
            }

        return params["b"][..., None, :] + h @ U, pullback
