"""Training is a generator; logging, stopping and plotting are the caller's for-loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from .gradient import value_and_grad
from .losses import Loss
from .optim import Optimizer, State
from .policy import Params, Policy
from .preferences import Preferences

__all__ = ["Step", "train"]


class Step(NamedTuple):
    """params and state after the step; value and grad, those of the loss before it."""

    params: Params
    state: State
    value: Any
    grad: Params


def train(policy: Policy, params: Params, batches: Iterable[Preferences | Callable[[Params], Preferences]], loss: Loss,
          optimizer: Optimizer, state: State | None = None) -> Iterator[Step]:
    """Descend, one batch at a time.

    A batch may be a function of the current parameters, for data that depend on them (responses sampled from the
    policy, KTO's reference point). Neither `params` nor `state` is changed in place; to resume, pass both as a step
    left them.

    >>> import numpy as np, dpo_numpy as dn, toy_models
    >>> policy = toy_models.NGram(vocab=3)
    >>> params = {"W": np.zeros((3, 3))}
    >>> pairs = dn.Preferences.of([[0]], [[1, 2, 0]], [[2, 0]]).with_reference(policy, params)
    >>> for step in train(policy, params, [pairs] * 3, dn.LOSSES["dpo"](beta=1.0), dn.sgd(lr=1.0)):
    ...     print(f"{step.value:.4f}")
    0.6931
    0.2401
    0.1497
    """
    state = optimizer.init(params) if state is None else state
    for batch in batches:
        value, grad = value_and_grad(policy, params, batch(params) if callable(batch) else batch, loss)
        delta, state = optimizer.update(grad, state, params)
        params = {name: p + delta[name] for name, p in params.items()}
        yield Step(params, state, value, grad)
