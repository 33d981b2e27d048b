"""What the cases of training are about: a policy, its first parameters, and pairs that were told the reference.

The same seed gives every side the same numbers. NumPy alone, so that each worker can build them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import toy_models
from dpo_numpy.data import Bytes, load, to_preferences
from dpo_numpy.preferences import Preferences, pad

__all__ = ["BETA", "Problem", "arrays", "contexts", "counts", "problem"]

Array = NDArray[Any]
BETA = 0.1


@dataclass(frozen=True)
class Problem:
    """The reference is where the policy begins: params is both."""

    policy: Any
    params: dict[str, Array]
    pairs: Preferences


def problem(model: str, dtype: str = "float64", seed: int = 0, **sizes: int) -> Problem:
    """`sizes` are those of BUILD[model]; tables and pairs do not depend on the dtype but for rounding"""
    policy, pairs = BUILD[model](np.random.default_rng(seed), **sizes)
    params = {name: p.astype(dtype) for name, p in policy.init(np.random.default_rng(seed + 1)).items()}
    if model == "mlp":  # its last layer begins at 0, where no gradient reaches the others
        params["U"] = np.random.default_rng(seed + 2).normal(0, 0.1, params["U"].shape).astype(dtype)
    return Problem(policy, params, pairs.with_reference(policy, params))


def tabular(rng: np.random.Generator, responses: int) -> tuple[Any, Preferences]:
    """Every pair of one prompt's responses in both orders, each with its probability."""
    world = toy_models.bandit(rng.normal(size=(1, responses)))
    return toy_models.Tabular(vocab=responses), world.population()


def strings(rng: np.random.Generator, vocab: int, pairs: int, tokens: int) -> Preferences:
    """Rows of `tokens` tokens, all told: the boundary that is the prompt, a uniform string, and its end."""
    y = rng.integers(1, vocab, size=(2 * pairs, tokens - 1))
    y[:, -1] = 0
    return Preferences(pad(([0], row) for row in y), np.arange(2 * pairs).reshape(-1, 2))


def bigram(rng: np.random.Generator, vocab: int, pairs: int, tokens: int) -> tuple[Any, Preferences]:
    return toy_models.NGram(vocab), strings(rng, vocab, pairs, tokens + 1)


def oasst(rng: np.random.Generator, pairs: int | None = None) -> tuple[Any, Preferences]:
    """Bytes of OASST's answers, without the questions: a bigram does not see that far."""
    rows = load(Path(os.environ["DPO_NUMPY_DATA"]) / "oasst_en_100_tree.jsonl.gz").rows
    return toy_models.NGram(257), to_preferences([row._replace(prompt="") for row in rows][:pairs], Bytes())


def mlp(rng: np.random.Generator, vocab: int, order: int, width: int, hidden: int, pairs: int,
        tokens: int) -> tuple[Any, Preferences]:
    return toy_models.MLP(vocab, order, width, hidden), strings(rng, vocab, pairs, tokens + 1)


def gpt(rng: np.random.Generator, vocab: int, width: int, heads: int, depth: int, tokens: int,
        pairs: int) -> tuple[Any, Preferences]:
    return toy_models.GPT(vocab, tokens, width, heads, depth), strings(rng, vocab, pairs, tokens)


BUILD = {"tabular": tabular, "bigram": bigram, "bytes": oasst, "mlp": mlp, "gpt": gpt}


def arrays(pairs: Preferences) -> dict[str, Array]:
    """What a loss in another library needs: tokens (N, T), mask (N, T), index (B, 2), weight (B,), and the margins of
    the reference (B,)"""
    ref = pairs.fact("ref_logp")
    assert ref is not None
    responses = pairs.responses
    return {"tokens": responses.tokens, "mask": responses.mask, "index": pairs.index, "weight": pairs.weight,
            "ref": ref[:, 0] - ref[:, 1]}


def counts(problem: Problem) -> Any:
    """n of the chosen less n of the rejected (B, V²), a sparse matrix: its product with the table is the margin."""
    from scipy import sparse

    V, responses, index = problem.policy.vocab, problem.pairs.responses, problem.pairs.index
    if responses.tokens.shape[1] == 2 and problem.policy.eos is None:
        n = sparse.eye_array(len(responses), format="csr")
    else:
        row, at = np.nonzero(responses.mask)
        cell = responses.tokens[row, at - 1].astype(np.int64) * V + responses.tokens[row, at]
        n = sparse.coo_array((np.ones(len(cell)), (row, cell)), (len(responses), V * V)).tocsr()
    return (n[index[:, 0]] - n[index[:, 1]]).tocsr()


def contexts(problem: Problem, distinct: bool) -> tuple[Array, Array, Array, Array]:
    """For a network that sees order - 1 tokens: their windows (M, order - 1), the latest first, and for each token that
    counts its window, itself, and its response

    One window a token, or each that is `distinct` once.
    """
    responses, order = problem.pairs.responses, problem.policy.order
    row, at = np.nonzero(responses.mask)
    back = at[:, None] - np.arange(1, order)
    window = np.where(back >= 0, responses.tokens[row[:, None], np.maximum(back, 0)], 0)
    visible = np.cumprod(window != 0, axis=1)
    window[:, 1:] *= visible[:, :-1]  # a context does not look past a boundary
    if distinct:
        window, where = np.unique(window, axis=0, return_inverse=True)
        where = where.reshape(-1)
    else:
        where = np.arange(len(window))
    return window, where, responses.tokens[row, at], row
