"""What is exact of a policy whose reward is known: E r, J and how far π* is, summed over all that it can say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..gradient import read
from ..numerics import log_softmax
from ..policy import Params, enumerate_responses
from ..rollouts import Task

__all__ = ["Enumerated", "Exact", "summed"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Exact:
    """of(params): `reward/expected`, E r; where there is a β, `J` = E r - β KL(π || π_ref); `kl/optimum`, that to π*

    best: J*, or None without a β or where no π* exists; `why` is then said.
    """

    of: Callable[[Params], dict[str, float]]
    beta: float | None
    best: float | None
    why: str = ""


class Enumerated:
    """Responses that can be counted: tables (prompts, K) of their probabilities, prompts being asked equally often."""

    def __init__(self, policy: Any, reference: Params, task: Task) -> None:
        self.policy = policy
        self.parts = [enumerate_responses(policy, prompt, task.max_length) for prompt in task.prompts]
        self.reward = np.array([task.reward(part) for part in self.parts], float)
        self.length = np.array([part.length for part in self.parts], float)
        self.ref = self.table(reference)

    def table(self, params: Params) -> Array:
        rows = [read(self.policy, params, part, np.arange(len(part)), ["logp"])[0]["logp"] for part in self.parts]
        p = np.exp(np.array(rows, float))
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    def kl_and_length(self, params: Params) -> tuple[float, float]:
        from analytic import optimum

        p = self.table(params)
        return float(optimum.kl(p, self.ref).mean()), float((p * self.length).sum(axis=1).mean())

    def exact(self, beta: float | None) -> Exact:
        from analytic import optimum

        best = float(optimum.optimal_value(self.ref, self.reward, beta).mean()) if beta else None
        target = optimum.boltzmann(self.ref, self.reward, beta) if beta else self.ref

        def of(params: Params) -> dict[str, float]:
            p = self.table(params)
            found = {"reward/expected": float((p * self.reward).sum(axis=1).mean())}
            if beta:
                found["J"] = float(optimum.value(p, self.ref, self.reward, beta).mean())
                found["kl/optimum"] = float(optimum.kl(p, target).mean())
            return found

        return Exact(of, beta or None, best)


def summed(policy: Any, reference: Params, reward: Array, beta: float | None) -> Exact:
    """Over all strings of an n-gram, however long; reward (rows, V), of each context and token"""
    from analytic import ngram

    where: dict[str, Any] = {"following": policy.following(), "start": policy.start}
    ref, target, best, why = _probabilities(reference), reference["W"], None, ""
    if beta:
        try:
            target, log_z = ngram.optimum(ref, reward, beta, **where)
            best = beta * log_z
        except (ValueError, ArithmeticError):
            why = _divergence(ref, reward, where)

    def of(params: Params) -> dict[str, float]:
        p, found = _probabilities(params), {}
        try:
            found["reward/expected"] = ngram.expected(p, reward, **where)
            if beta:
                found["J"] = ngram.value(p, ref, reward, beta, **where)
            if best is not None:
                found["kl/optimum"] = ngram.kl(p, target, **where)
        except (ValueError, ArithmeticError):  # strings that hardly ever end: nothing more is known of them
            pass
        return found

    return Exact(of, beta or None, best, why)


def _divergence(ref: Array, reward: Array, where: dict[str, Any]) -> str:
    from analytic import ngram

    try:
        least = ngram.critical_beta(ref, reward, **where)
    except (ValueError, ArithmeticError):
        return "Z was not found"
    return f"ever longer responses pay more than their KL costs; there is one for beta above {least:.4g}"


def _probabilities(params: Params) -> Array:
    p: Array = np.exp(log_softmax(np.asarray(params["W"], float)))
    return p
