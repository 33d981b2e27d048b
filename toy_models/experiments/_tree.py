"""A tree of choices: every response is as many tokens as the tree is deep, and nodes may share what is learned of them.

    Tree      logits θ·φ(node, token): one-hot φ is a table, with parameters of its own for every node
    leaves    all responses
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpo_numpy.preferences import Responses

from .._scatter import add_rows

__all__ = ["Tree", "leaves", "nodes"]

Array = NDArray[Any]


def nodes(actions: int, depth: int) -> int:
    """Those with a choice: 1 + A + ... + A^(depth - 1)"""
    return sum(actions**level for level in range(depth))


def leaves(actions: int, depth: int) -> Responses:
    """All A^depth of them, in the order of counting

    >>> leaves(2, 2).tokens.tolist()
    [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    """
    tokens = np.array([(0, *path) for path in product(range(actions), repeat=depth)])
    mask = np.ones(tokens.shape, bool)
    mask[:, 0] = False
    return Responses(tokens, mask)


@dataclass(frozen=True, eq=False)
class Tree:
    """π(a | node) = softmax(θ·φ(node, ·))[a]; features φ (..., nodes, A, d), parameters `theta` (..., d)

    The root is node 0, and action a of node n leads to A n + a + 1. Leading axes are replicates.
    """

    features: Array
    eos = None

    @property
    def vocab(self) -> int:
        return int(self.features.shape[-2])

    def init(self, rng: np.random.Generator) -> dict[str, Array]:
        return {"theta": rng.normal(size=(*self.features.shape[:-3], self.features.shape[-1]))}

    def logits(self, params: dict[str, Array], tokens: Array) -> tuple[Array, Callable[[Array], dict[str, Array]]]:
        table, at = np.einsum("...nad,...d->...na", self.features, params["theta"]), self._nodes(tokens)

        def pullback(dlogits: Array) -> dict[str, Array]:
            each = dlogits.reshape(*table.shape[:-2], -1, self.vocab)
            dtable = add_rows(each, at.reshape(-1), table.shape[-2])
            return {"theta": np.einsum("...nad,...na->...d", self.features, dtable)}

        return np.take(table, at, axis=-2), pullback

    def _nodes(self, tokens: Array) -> Array:
        """The node that each token leads to; the last leads out of the tree, to any"""
        at = np.zeros(tokens.shape, int)
        for position in range(1, tokens.shape[-1] - 1):
            at[..., position] = self.vocab * at[..., position - 1] + tokens[..., position] + 1
        return at
