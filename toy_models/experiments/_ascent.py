"""Policy gradients without samples: J and its gradient are sums over all responses, and so is the natural gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analytic import ngram, optimum
from dpo_numpy.numerics import log_softmax
from dpo_numpy.optim import Optimizer, State
from dpo_numpy.policy import Params
from dpo_numpy.training import Step

from ..ngram import NGram
from ..tabular import Tabular

__all__ = ["train_exact_gradient"]

Array = NDArray[Any]


def train_exact_gradient(policy: Tabular | NGram, params: Params, reward: ArrayLike, beta: float, optimizer: Optimizer,
                         *, natural: bool = False, reference: Params | None = None,
                         state: State | None = None) -> Iterator[Step]:
    """Ascend J = E r - β KL(π || π_ref) along ∂J/∂W, or along F⁺ ∂J/∂W, F the Fisher information of the policy

    reward     in the shape of `W`: of each prompt and response for `Tabular`, whose prompts are asked equally often; of
               each context and token for an `NGram`, whose J is a sum over all strings that follow a boundary
    natural    with `dn.sgd(lr=1/β)` a table is at π* after one step, whatever the reward; an n-gram takes some, as its
               advantages are those of the policy as it is: each step is one of soft policy iteration
    reference  by default `params`

    Steps are those of `train`: value -J, in units of reward, and grad -∂J/∂W (-F⁺ ∂J/∂W). Kakade 2001; the formulas are
    those of `analytic.optimum` and `analytic.ngram`.

    Raises `ValueError` on a policy that is neither, and what these raise.

    >>> import dpo_numpy as dn
    >>> table, flat = Tabular(vocab=3), {"W": np.zeros((1, 3))}
    >>> step = next(train_exact_gradient(table, flat, [[1.0, 0.0, -1.0]], 0.5, dn.sgd(lr=2.0), natural=True))
    >>> np.exp(log_softmax(step.params["W"])).round(8).tolist()
    [[0.86681333, 0.11731043, 0.01587624]]
    """
    if not isinstance(policy, Tabular | NGram):
        raise ValueError(f"policy is {type(policy).__name__}; expected Tabular or NGram, whose sums are known")
    reward = np.asarray(reward, float)
    ref = _probabilities(params if reference is None else reference)
    state = optimizer.init(params) if state is None else state
    where: dict[str, Any] = {}
    if isinstance(policy, NGram):
        where = {"following": policy.following(), "start": policy.start}
    while True:
        p = _probabilities(params)
        if isinstance(policy, Tabular):
            value = float(optimum.value(p, ref, reward, beta).mean())
            gradient = optimum.gradient(p, ref, reward, beta) / len(p)
            if natural:
                gradient = _centered(reward - beta * (_log(p) - _log(ref)), p > 0)
        else:
            value = ngram.value(p, ref, reward, beta, **where)
            ascend = ngram.natural_gradient if natural else ngram.policy_gradient
            gradient = ascend(p, ref, reward, beta, **where)
        grad = {"W": -gradient}
        delta, state = optimizer.update(grad, state, params)
        params = {"W": params["W"] + delta["W"]}
        yield Step(params, state, -value, grad)


def _centered(gain: Array, there: NDArray[np.bool_]) -> Array:
    """Less the mean over the responses that there are"""
    mean = np.where(there, gain, 0).sum(axis=-1, keepdims=True) / there.sum(axis=-1, keepdims=True)
    return np.where(there, gain - mean, 0)


def _log(p: Array) -> Array:
    return np.log(p, out=np.zeros_like(p), where=p > 0)


def _probabilities(params: Params) -> Array:
    p: Array = np.exp(log_softmax(np.asarray(params["W"], float)))
    return p
