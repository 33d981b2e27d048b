"""Optimizers as two pure functions: `init(params) -> state`, `update(grad, state, params) -> (delta, state)`.

The new parameters are params + delta. A state is a flat dict of arrays, so that a checkpoint is one `np.savez`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .losses import positive, within

__all__ = ["Optimizer", "adam", "clip", "global_norm", "momentum", "sgd"]

Params = dict[str, NDArray[Any]]
State = dict[str, NDArray[Any]]
Rate = float | Callable[[int], float]


class Optimizer(NamedTuple):
    """init(params) -> state;   update(gradient, state, params) -> Δ, state, and params + Δ are the new ones"""

    init: Callable[[Params], State]
    update: Callable[[Params, State, Params], tuple[Params, State]]


def sgd(lr: Rate) -> Optimizer:
    """Δ = -lr g. `lr` is a number or a function of the step, counted from 0."""
    rate = _rate(lr)

    def update(grad: Params, state: State, params: Params) -> tuple[Params, State]:
        return {name: -rate(state) * g for name, g in grad.items()}, _next(state)

    return Optimizer(_start, update)


def momentum(lr: Rate, decay: float = 0.9) -> Optimizer:
    """m ← decay m + g,   Δ = -lr m (Polyak's heavy ball)"""
    rate, decay = _rate(lr), within("decay", decay, 0, 1)

    def init(params: Params) -> State:
        return {**_start(params), **{f"m/{name}": np.zeros_like(p) for name, p in params.items()}}

    def update(grad: Params, state: State, params: Params) -> tuple[Params, State]:
        m = {name: decay * state[f"m/{name}"] + g for name, g in grad.items()}
        delta = {name: -rate(state) * v for name, v in m.items()}
        return delta, {**_next(state), **{f"m/{name}": v for name, v in m.items()}}

    return Optimizer(init, update)


def adam(lr: Rate, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Optimizer:
    """m ← b₁m + (1-b₁)g,  v ← b₂v + (1-b₂)g²,  Δ = -lr m̂/(√v̂ + eps),  m̂ = m/(1-b₁ᵗ),  v̂ = v/(1-b₂ᵗ),  t from 1

    Kingma & Ba 2015, arXiv:1412.6980, algorithm 1. A parameter whose gradient has always been 0 does not move.
    """
    rate, b1, b2 = _rate(lr), within("b1", b1, 0, 1), within("b2", b2, 0, 1)
    positive("eps", eps)

    def init(params: Params) -> State:
        return {**_start(params), **{f"{kind}/{name}": np.zeros_like(p) for kind in "mv" for name, p in params.items()}}

    def update(grad: Params, state: State, params: Params) -> tuple[Params, State]:
        new, delta, t = _next(state), {}, int(state["step"]) + 1
        for name, g in grad.items():
            m = new[f"m/{name}"] = b1 * state[f"m/{name}"] + (1 - b1) * g
            v = new[f"v/{name}"] = b2 * state[f"v/{name}"] + (1 - b2) * g * g
            delta[name] = (-rate(state) / (1 - b1 ** t)) * m / (np.sqrt(v / (1 - b2 ** t)) + eps)
        return delta, new

    return Optimizer(init, update)


def clip(optimizer: Optimizer, max_norm: float) -> Optimizer:
    """g ← g · min(1, max_norm / ‖g‖) before the optimizer sees it, ‖g‖ over all parameters together"""
    positive("max_norm", max_norm)

    def update(grad: Params, state: State, params: Params) -> tuple[Params, State]:
        norm = global_norm(grad)
        if norm > max_norm:
            grad = {name: g * (max_norm / norm) for name, g in grad.items()}
        return optimizer.update(grad, state, params)

    return Optimizer(optimizer.init, update)


def global_norm(grad: Params) -> float:
    """√Σ g², over all parameters"""
    # float32 squares leave their range at 1e19
    return float(np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in grad.values())))


def _rate(lr: Rate) -> Callable[[State], float]:
    if callable(lr):
        return lambda state: float(lr(int(state["step"])))
    fixed = positive("lr", lr)
    return lambda state: fixed


def _start(params: Params) -> State:
    return {"step": np.array(0)}


def _next(state: State) -> State:
    return {**state, "step": np.asarray(state["step"] + 1)}
