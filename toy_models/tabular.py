"""One logit per prompt and whole response: the policy in which everything about DPO has a closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpo_numpy.preferences import Responses

from ._scatter import add_rows
from ._table import counts, log_probs

__all__ = ["Tabular"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Tabular:
    """π(y|x) = softmax(W[x])[y],   ∂ log π(y|x)/∂W[x] = onehot(y) - π(·|x)

    Responses are single tokens, 0 to `vocab` - 1, and tokens are rows [x, y]. Parameters: `W` (prompts, vocab); -inf
    marks a response that a prompt does not have. Raises `ValueError` on a prompt id outside the table.

    >>> policy = Tabular(vocab=2)
    >>> logits, pullback = policy.logits({"W": np.array([[0.0, 1.0]])}, np.array([[0, 1]]))
    >>> logits[0, 0].tolist(), pullback(np.ones((1, 2, 2)) * [[[1.0], [0.0]]])["W"].tolist()
    ([0.0, 1.0], [[1.0, 1.0]])
    """

    vocab: int
    prompts: int = 1
    eos: None = None

    def init(self, rng: np.random.Generator) -> dict[str, Array]:
        """`W` of normal numbers of scale 1"""
        return {"W": rng.normal(size=(self.prompts, self.vocab))}

    def logits(self, params: dict[str, Array], tokens: Array) -> tuple[Array, Callable[[Array], dict[str, Array]]]:
        """W[x] at each position of tokens (N, 2), (..., N, 2, V); and dlogits -> dparams"""
        W, prompt = params["W"], self._prompts(params["W"], tokens)
        rows = np.take(W, prompt, axis=-2)
        shape = (*rows.shape[:-1], tokens.shape[-1], W.shape[-1])

        def pullback(dlogits: Array) -> dict[str, Array]:
            each = dlogits.sum(axis=-2).reshape(*W.shape[:-2], -1, W.shape[-1])
            return {"W": add_rows(each, prompt.reshape(-1), W.shape[-2])}

        return np.broadcast_to(rows[..., None, :], shape), pullback

    def logp(self, params: dict[str, Array], responses: Responses, rows: Array
             ) -> tuple[Array, Callable[[Array], dict[str, Array]]]:
        """log π(y|x), (..., n), by one softmax a prompt; and its pullback"""
        C, V = params["W"].shape[-2:]

        def cells() -> tuple[Array, int]:
            context = np.repeat(self._prompts(params["W"], responses.tokens), responses.length)
            return context * V + responses.tokens[responses.mask], C * V

        return log_probs(params["W"], counts((self, C, V), responses, rows, cells))

    def _prompts(self, W: Array, tokens: Array) -> Array:
        prompt = tokens[..., 0]
        if prompt.max(initial=0) >= W.shape[-2]:
            raise ValueError(f"tokens hold prompt {prompt.max()}; expected ids below the table's {W.shape[-2]} prompts")
        return np.asarray(prompt)
