"""Preference optimization in NumPy, every derivative written by hand.

    params --policy--> logits --reading--> log π(y|x) --score--> one number per response --link--> loss

    policy.py       what a policy owes; sample, enumerate, exact KL        toy_models has the policies
    readings.py     logits to log-probs and back                           numerics.py   overflow and cancellation
    scores.py       log-ratio, mean log-prob ...                           links.py      kernels with their slopes, lifts
    losses.py       LOSSES, by name                                        gradient.py   the chain rule
    preferences.py  Responses, Preferences                                 data          preference files, tokenizers
    optim.py        sgd, momentum, adam, clip                              training.py   train, a generator
    metrics.py      what one logs                                          check.py      gradients against differences
    minimal.py      all of DPO on one page, importing none of the above

Names are loaded when first used, so that `import dpo_numpy` costs what `import numpy` costs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "check_gradient": "check", "complex_step": "check", "finite_difference": "check",
    "Examples": "data", "Bytes": "data", "Words": "data", "load": "data", "to_preferences": "data",
    "compare": "gradient", "read": "gradient", "scores_matrix": "gradient", "value_and_grad": "gradient",
    "LOSSES": "losses", "Loss": "losses",
    "accuracy_interval": "metrics", "preference_metrics": "metrics",
    "Optimizer": "optim", "adam": "optim", "clip": "optim", "global_norm": "optim", "momentum": "optim", "sgd": "optim",
    "Policy": "policy", "enumerate_responses": "policy", "exact_kl": "policy", "sample": "policy",
    "Preferences": "preferences", "Responses": "preferences",
    "sequence_kl": "readings", "sequence_logp": "readings", "token_logp": "readings",
    "Step": "training", "train": "training",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .check import check_gradient, complex_step, finite_difference
    from .data import Bytes, Examples, Words, load, to_preferences
    from .gradient import compare, read, scores_matrix, value_and_grad
    from .losses import LOSSES, Loss
    from .metrics import accuracy_interval, preference_metrics
    from .optim import Optimizer, adam, clip, global_norm, momentum, sgd
    from .policy import Policy, enumerate_responses, exact_kl, sample
    from .preferences import Preferences, Responses
    from .readings import sequence_kl, sequence_logp, token_logp
    from .training import Step, train


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
