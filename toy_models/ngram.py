"""The n-gram softmax language model: small enough for sums over all strings, rich enough for length and shift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpo_numpy.preferences import Responses

from ._scatter import add_rows
from ._table import Counts, counts, log_probs, sums

__all__ = ["NGram"]

Array = NDArray[Any]
Params = dict[str, Array]


class NGram:
    """p(next | the last n-1 tokens) = softmax(W[context]);   ∂ log p(v|c)/∂W[c] = onehot(v) - p(·|c)

    Token 0 is the boundary: it ends a response (EOS), and as the last token of a prompt it begins one (BOS). A context
    does not look past it, so a response that follows a boundary has the same probability after every prompt, and sums
    over all strings start from one state.

    vocab    V outcomes, the boundary included
    order    n; 1 is memoryless, 2 the bigram: `W[current, next]`
    contexts None for a dense table, `W` (Vⁿ⁻¹, V), row c₁ + c₂V + ... with c₁ the latest token; or, from `NGram.seen`,
             sorted ids of the contexts to keep for each length 0 ... n-1. Any other context then uses the row of the
             longest suffix kept.

    Raises `ValueError` when an order is too high for its contexts to be numbered or held.

    >>> policy = NGram(vocab=3)
    >>> logits, pullback = policy.logits({"W": np.arange(9.0).reshape(3, 3)}, np.array([[0, 2, 1]]))
    >>> logits[0].tolist()
    [[0.0, 1.0, 2.0], [6.0, 7.0, 8.0], [3.0, 4.0, 5.0]]
    """

    eos = 0

    def __init__(self, vocab: int, order: int = 2, contexts: tuple[Array, ...] | None = None) -> None:
        if vocab < 2 or order < 1:
            raise ValueError(f"vocab is {vocab} and order is {order}; expected at least 2 outcomes and order 1")
        if vocab ** (order - 1) >= 1 << 62:
            raise ValueError(
                f"order is {order}: contexts over {vocab} outcomes are too many to number; expected a lower order"
            )
        if contexts is None and vocab ** order > 1 << 28:
            raise ValueError(
                f"order is {order}: a dense table has {vocab}**{order} entries; keep the contexts that occur: "
                "NGram.seen(...)"
            )
        self.vocab, self.order, self.contexts = vocab, order, contexts
        self._start = np.cumsum([0] + [len(keys) for keys in contexts or ()])

    def __repr__(self) -> str:
        return f"NGram(vocab={self.vocab}, order={self.order}{', seen contexts' if self.contexts else ''})"

    @classmethod
    def seen(cls, vocab: int, order: int, responses: Responses) -> NGram:
        """An n-gram that keeps a row for each context, of every length up to n-1, that occurs in `responses`."""
        if vocab ** (order - 1) >= 1 << 62:
            return cls(vocab, order)  # which says why not
        ids = _contexts(responses.tokens, vocab, order)[_before(responses.mask)]
        return cls(vocab, order, tuple(np.unique(ids % vocab ** m) for m in range(order)))

    @property
    def rows(self) -> int:
        """How many contexts have a row of `W`"""
        return int(self._start[-1]) if self.contexts else self.vocab ** (self.order - 1)

    @property
    def start(self) -> int:
        """The row that a response begins in, after a boundary."""
        return int(self._longest(np.zeros(1, int), self.order)[0])

    def following(self) -> Array:
        """(rows, V): the row that each outcome leads to, `start` for the boundary; what sums over all strings ask for

        Raises `ValueError` where a context is kept and, its latest token dropped, is not: then the next row depends on
        more than this one. Responses that begin after a boundary leave no such context.

        >>> NGram(vocab=3).following().tolist()
        [[0, 1, 2], [0, 1, 2], [0, 1, 2]]
        """
        V, n = self.vocab, self.order
        levels = {n - 1: np.arange(self.rows)} if self.contexts is None else dict(enumerate(self.contexts))
        found = []
        for m, keys in levels.items():
            alone = keys[~np.isin(keys // V, levels.get(m - 1, keys // V))]
            if len(alone):
                raise ValueError(
                    f"contexts hold id {alone[0]} of {m} tokens but not its beginning, id {alone[0] // V} of {m - 1}: "
                    "what follows some row is not one row; expected contexts of responses that begin after a boundary"
                )
            ids = (np.arange(V) + V * (keys[:, None] % V ** max(n - 2, 0))) % V ** (n - 1)
            found.append(self._longest(ids, m + 2))  # a longer suffix would hold tokens that the row does not know
        rows = np.concatenate(found)
        rows[:, 0] = self.start
        return rows

    def init(self, rng: np.random.Generator) -> Params:
        """`W` of normal numbers of scale 1"""
        return {"W": rng.normal(size=(self.rows, self.vocab))}

    def fit(self, responses: Responses, weight: ArrayLike | None = None, smoothing: float = 1.0) -> Params:
        """Maximum likelihood with smoothing: p(v|c) = (n(c,v) + s p(v|c')) / (n(c) + s), c' the context c without
        its earliest token, uniform below the empty one

        n counts the masked tokens of `responses`, each response `weight` times (N,); s > 0 is the mass given to the
        shorter context. A context that never occurs has exactly its suffix's probabilities. W holds log p. MacKay &
        Peto 1995.

        >>> r = Responses(np.array([[0, 1, 0]]), np.array([[False, True, True]]))
        >>> np.exp(NGram(vocab=2).fit(r)["W"]).round(4).tolist()
        [[0.25, 0.75], [0.75, 0.25]]
        """
        if not (np.isfinite(smoothing) and smoothing > 0):
            raise ValueError(f"smoothing is {smoothing}; expected a finite number above 0")
        V = self.vocab
        ids = _contexts(responses.tokens, V, self.order)[_before(responses.mask)]
        target = responses.tokens[responses.mask]
        mass = np.repeat(np.ones(len(responses)) if weight is None else np.asarray(weight, float), responses.length)
        levels = self.contexts or tuple(np.arange(V ** m) for m in range(self.order))
        tables = [np.full((1, V), 1 / V)]
        for m, keys in enumerate(levels):
            suffix = ids % V ** m
            row = np.minimum(np.searchsorted(keys, suffix), len(keys) - 1)
            here = keys[row] == suffix
            n = np.bincount((row * V + target)[here], mass[here], len(keys) * V).reshape(-1, V)
            parent = np.searchsorted(levels[m - 1], keys % V ** (m - 1)) if m else np.zeros(1, int)
            total = n.sum(axis=1, keepdims=True) + smoothing
            tables.append(n / total + smoothing / total * tables[-1][parent])  # the second factor is 1 where n = 0
        return {"W": np.log(np.concatenate(tables[1:]) if self.contexts else tables[-1])}

    def logits(self, params: Params, tokens: Array) -> tuple[Array, Callable[[Array], Params]]:
        """Logits (..., N, T, V) of tokens (N, T), those at t for the token at t + 1; and dlogits -> dparams"""
        W, rows = params["W"], self._rows(tokens)

        def pullback(dlogits: Array) -> Params:
            each = dlogits.reshape(*W.shape[:-2], -1, self.vocab)
            return {"W": add_rows(each, rows.reshape(-1), self.rows)}

        return np.take(W, rows, axis=-2), pullback

    def next_logits(self, params: Params, tokens: Array, length: Array) -> Array:
        """Logits (N, V) of the token after the first `length` ones, for `sample`: no other position is computed"""
        latest = length[:, None] + np.arange(-max(self.order - 1, 1), 0)
        window = np.where(latest >= 0, np.take_along_axis(tokens, np.maximum(latest, 0), axis=1), 0)
        return params["W"][self._rows(window)[:, -1]]

    def logp(self, params: Params, responses: Responses, rows: Array) -> tuple[Array, Callable[[Array], Params]]:
        """log π(y|x) = Σ n_y(c, v) log p(v|c): a step costs the table and the distinct pairs (c, v), not the tokens

        ∂/∂W[c] of Σ_y d_y log π(y|x) is N(c, ·) - p(·|c) Σᵥ N(c, v), N = Σ_y d_y n_y.
        """
        return log_probs(params["W"], self._counts(responses, rows))

    def reward(self, params: Params, responses: Responses, rows: Array) -> tuple[Array, Callable[[Array], Params]]:
        """r(x, y) = Σ n_y(c, v) W(c, v): a reward that is added up along the way, ρ of `analytic.ngram`"""
        return sums(params["W"], self._counts(responses, rows))

    def _counts(self, responses: Responses, rows: Array) -> Counts:
        def cells() -> tuple[Array, int]:
            context = self._rows(responses.tokens)[_before(responses.mask)].astype(np.int64)
            return context * self.vocab + responses.tokens[responses.mask], self.rows * self.vocab

        return counts(self, responses, rows, cells)

    def _rows(self, tokens: Array) -> Array:
        return self._longest(_contexts(tokens, self.vocab, self.order), self.order)

    def _longest(self, ids: Array, levels: int) -> Array:
        """The row of the longest suffix that is kept, of those shorter than `levels`."""
        if self.contexts is None:
            return ids
        rows = np.zeros(ids.shape, np.int64)
        for m, keys in enumerate(self.contexts[:levels]):  # the longest has the last word
            suffix = ids % self.vocab ** m
            row = np.minimum(np.searchsorted(keys, suffix), len(keys) - 1)
            rows = np.where(keys[row] == suffix, self._start[m] + row, rows)
        return rows


def _contexts(tokens: Array, vocab: int, order: int) -> Array:
    """Σⱼ tokenₜ₋ⱼ Vʲ over the last n-1 tokens, 0 for all that lies beyond a boundary or the beginning"""
    if tokens.size and tokens.max() >= vocab:
        raise ValueError(f"tokens hold id {tokens.max()}; expected ids below vocab, {vocab}")
    ids = np.zeros(tokens.shape, np.int64)
    visible = np.ones(tokens.shape, bool)
    for j in range(order - 1):
        earlier = np.zeros(tokens.shape, np.int64)
        earlier[..., j:] = tokens[..., :tokens.shape[-1] - j]
        earlier *= visible
        ids += earlier * vocab ** j
        visible &= earlier != 0
    return ids


def _before(mask: Array) -> Array:
    """The positions whose logits predict a masked token."""
    return np.concatenate([mask[..., 1:], np.zeros((*mask.shape[:-1], 1), bool)], axis=-1)
