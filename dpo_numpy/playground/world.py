"""The worlds of the page: three responses with rewards; three pairs of a support desk, and a bigram over their words.

`toy_models` has the same bigram and many more policies, but loads SciPy; in a browser NumPy must do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..losses import LOSSES
from ..optim import sgd
from ..policy import Params
from ..preferences import Preferences
from ..training import train

__all__ = ["PAIRS", "RESPONSES", "WORDS", "Bigram", "pairs", "reference"]

Array = NDArray[Any]

#: the answers to "my order is late" of the derivation
RESPONSES = ("we refund you today", "it is on its way", "please wait")

#: prompt, chosen, rejected
PAIRS = (
    ("my order is late", "sorry it ships today", "no idea"),
    ("where is my parcel", "it is here", "it is late it is late"),
    ("can I return it", "yes it is free", "yes it is here"),
)
END = "·"  # ends a response and begins it; token 0
#: the vocabulary, by token
WORDS = (END, *sorted({word for _, *answers in PAIRS for answer in answers for word in answer.split()}))
SFT_STEPS, SFT_LR = 5, 0.5


class Bigram:
    """p(next | current) = softmax(W[current]);   ∂ log p(v|c)/∂W[c] = onehot(v) - p(·|c)

    Parameters: `W` (V, V). Token 0 begins a response and ends it; with `eos=None` a response is one token.

    >>> logits, pullback = Bigram(2).logits({"W": np.array([[0.0, 1.0], [2.0, 3.0]])}, np.array([[0, 1]]))
    >>> logits[0].tolist(), pullback(np.ones((1, 2, 2)))["W"].tolist()
    ([[0.0, 1.0], [2.0, 3.0]], [[1.0, 1.0], [1.0, 1.0]])
    """

    def __init__(self, vocab: int, eos: int | None = 0) -> None:
        self.vocab, self.eos = vocab, eos

    def init(self, rng: np.random.Generator) -> Params:
        """Parameters to start from"""
        return {"W": rng.normal(size=(self.vocab, self.vocab))}

    def logits(self, params: Params, tokens: Array) -> tuple[Array, Callable[[Array], Params]]:
        """Logits (..., N, T, V) of tokens (N, T), those at t for the token at t + 1; and dlogits -> dparams"""
        W = params["W"]

        def pullback(dlogits: Array) -> Params:
            dW = np.zeros_like(W)
            np.add.at(dW, tokens, dlogits)  # a row was used wherever its token stood
            return {"W": dW}

        return W[tokens], pullback


@cache
def pairs() -> Preferences:
    """The three pairs as tokens: chosen and rejected answers of `PAIRS`, each begun and ended by token 0."""
    number = {word: i for i, word in enumerate(WORDS)}
    chosen, rejected = ([[*(number[word] for word in row[side].split()), 0] for row in PAIRS] for side in (1, 2))
    return Preferences.of([[0]] * len(PAIRS), chosen, rejected)


@cache
def reference() -> Params:
    """What training begins at: the chosen answers learned a little, by gradient descent on `sft`, as in practice."""
    policy = Bigram(len(WORDS))
    params: Params = {"W": np.zeros((len(WORDS), len(WORDS)))}
    for step in train(policy, params, repeat(pairs(), SFT_STEPS), LOSSES["sft"](), sgd(SFT_LR)):
        params = step.params
    return params
