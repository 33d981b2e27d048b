"""Training is a generator; logging, stopping and plotting are the caller's for-loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from .gradient import value_and_grad
from .losses import Loss
from .optim import Optimizer, State
from .policy import Params, Policy
from .preferences import Preferences

__all__ = ["Step", "staged_reference", "trailing_reference", "train"]

Batch = Callable[[Params], Preferences]


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


def trailing_reference(policy: Policy, params: Params, batches: Iterable[Preferences], alpha: float = 0.6,
                       every: int = 512) -> Iterator[Batch]:
    """TR-DPO: the reference follows the policy, θ_ref <- α θ + (1 - α) θ_ref before each `every`-th step but the first

    `params` is the first reference; the batches are told its `ref_logp`, and those of its successors, as they come up.
    It is the *parameters* that are mixed: in a table of logits π_ref is then proportional to π^α π_ref^(1-α), in a
    network it is no mixture of probabilities at all. α = 1 replaces the reference ("hard update"), α = 0 never moves
    it. Gorbatovski et al. 2024, arXiv:2404.09656, eq. 4 and 5.

    Elsewhere: `sync_ref_model` in TRL; its defaults were 0.9 and 64 before they became the 0.6 and 512 of the paper
    (huggingface/trl#1991).

    Raises `ValueError` where α is not in [0, 1] or `every` below 1.

    >>> import numpy as np, dpo_numpy as dn, toy_models
    >>> policy, params = toy_models.NGram(vocab=3), {"W": np.zeros((3, 3))}
    >>> pairs = dn.Preferences.of([[0]], [[1, 2, 0]], [[2, 0]])
    >>> moving = trailing_reference(policy, params, [pairs] * 3, alpha=1.0, every=1)
    >>> for step in train(policy, params, moving, dn.LOSSES["dpo"](beta=1.0), dn.sgd(lr=1.0)):
    ...     print(f"{step.value:.4f}")  # always at its reference
    0.6931
    0.6931
    0.6931
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha!r}; expected a number from 0 to 1")
    if every < 1:
        raise ValueError(f"every is {every!r}; expected at least 1")
    return _following(policy, params, ((batch, alpha if number and number % every == 0 else 0.0)
                                       for number, batch in enumerate(batches)))


def staged_reference(policy: Policy, params: Params, stages: Iterable[Iterable[Preferences]]) -> Iterator[Batch]:
    """sDPO: stages of batches; the policy as it is when a stage begins is the reference of that stage

    `params` is the reference of the first. Kim et al. 2024, arXiv:2403.19270.

    >>> import numpy as np, dpo_numpy as dn, toy_models
    >>> policy, params = toy_models.NGram(vocab=3), {"W": np.zeros((3, 3))}
    >>> pairs = dn.Preferences.of([[0]], [[1, 2, 0]], [[2, 0]])
    >>> staged = staged_reference(policy, params, [[pairs] * 2, [pairs] * 2])
    >>> for step in train(policy, params, staged, dn.LOSSES["dpo"](beta=1.0), dn.sgd(lr=1.0)):
    ...     print(f"{step.value:.4f}")
    0.6931
    0.2401
    0.6931
    0.2696
    """
    return _following(policy, params, ((batch, 1.0 if number and not position else 0.0)
                                       for number, stage in enumerate(stages) for position, batch in enumerate(stage)))


def _following(policy: Policy, reference: Params, batches: Iterable[tuple[Preferences, float]]) -> Iterator[Batch]:
    """Each batch with the share of the current parameters that enters the reference when its turn comes."""

    def told(batch: Preferences, share: float) -> Batch:
        def now(current: Params) -> Preferences:
            nonlocal reference
            if share:
                reference = {name: share * current[name] + (1 - share) * p for name, p in reference.items()}
            return batch.with_reference(policy, reference)

        return now

    return (told(batch, share) for batch, share in batches)
