"""Many policies at once: R bigrams trained on the same pairs, a leading axis on the parameters.

Ours is `train`, which is told nothing but the axis. The peers do the same in a product with the dense counts of the
chosen less those of the rejected, which was the fastest form of one policy too (`steps`): JAX maps one policy's step
and scans over a hundred, torch is batched by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dpo_numpy as dn
from benchmarks.harness import Case, Run
from benchmarks.problems import BETA, Problem, arrays, counts, problem

STEPS = 100  # in one call of JAX
SIZES, TINY = {"vocab": 32, "pairs": 64, "tokens": 16}, {"vocab": 4, "pairs": 3, "tokens": 4}


def case(R: int, form: str, target: float | None) -> Case:
    params = {"R": R, "sizes": SIZES, "lr": 1.0, "n": max(1, 20 // R), "form": form}
    return Case(f"bigram, V = 32, R = {R}", "replicates", params, small={"R": 2, "sizes": TINY, "n": 1},
                targets={"torch by hand": None, "jax vmap, scan": target, "bare NumPy": None})


CASES = [case(R, "dense", 1.0 if R == 64 else None) for R in (1, 4, 16, 64, 256)]


def given(R: int, sizes: dict[str, int]) -> tuple[Problem, NDArray[Any]]:
    """The pairs are told the reference of `problem`; each replicate begins elsewhere."""
    one = problem("bigram", **sizes)
    V = one.policy.vocab
    return one, np.random.default_rng(7).normal(size=(R, V, V))


def ours(R: int, sizes: dict[str, int], lr: float, n: int, **_: Any) -> Run:
    one, W = given(R, sizes)

    def training() -> Any:
        return dn.train(one.policy, {"W": W}, repeat(one.pairs), dn.LOSSES["dpo"](beta=BETA), dn.sgd(lr))

    steps = training()

    def work() -> None:
        for _ in range(n):
            next(steps)

    def numbers() -> dict[str, Any]:
        found = [step for step, _ in zip(training(), range(3), strict=False)]
        return {"W": found[-1].params["W"], "losses": np.stack([step.value for step in found])}

    return Run(work, numbers, units=n)


def bare(R: int, sizes: dict[str, int], lr: float, n: int, **_: Any) -> Run:
    """The same as one straight line of NumPy calls on one thread: what any library pays that is made of such calls"""
    one, start = given(R, sizes)
    told, D = arrays(one.pairs), counts(one)
    Dt, ref, weight = D.T.tocsr(), told["ref"][:, None], told["weight"][:, None]
    V = one.policy.vocab

    def training() -> tuple[NDArray[Any], Callable[[], Any]]:
        W = start.reshape(-1, V).copy()
        log_p, exp, slope, ones = np.empty_like(W), np.empty_like(W), np.empty_like(W), np.ones(V)

        def step() -> Any:
            np.subtract(W, W.max(axis=1, keepdims=True), out=log_p)
            np.exp(log_p, out=exp)
            total = np.vecdot(exp, ones)
            np.subtract(log_p, np.log(total)[:, None], out=log_p)
            z = BETA * (D @ log_p.reshape(R, -1).T - ref)
            e = np.exp(-abs(z))
            loss = np.log1p(e) - np.minimum(z, 0)
            slope.reshape(R, -1)[:] = (Dt @ (-lr * BETA * weight * (np.where(z < 0, 1, e) / (1 + e)))).T
            np.multiply(exp, (np.vecdot(slope, ones) / total)[:, None], out=exp)
            np.subtract(slope, exp, out=slope)
            np.subtract(W, slope, out=W)
            return (weight * loss).sum(axis=0)

        return W, step

    _, step = training()

    def work() -> None:
        for _ in range(n):
            step()

    def numbers() -> dict[str, Any]:
        W, step = training()
        losses = np.stack([step() for _ in range(3)])
        return {"W": W.reshape(start.shape), "losses": losses}

    return Run(work, numbers, units=n)


def torch_by_hand(R: int, sizes: dict[str, int], lr: float, n: int, **_: Any) -> Run:
    import torch

    one, W = given(R, sizes)
    told = {name: torch.as_tensor(x) for name, x in arrays(one.pairs).items()}
    D = torch.as_tensor(counts(one).toarray().T.copy())

    def training() -> tuple[Any, Callable[[], Any]]:
        p = torch.tensor(W, requires_grad=True)

        def step() -> Any:
            h = torch.log_softmax(p, -1).reshape(R, -1) @ D - told["ref"]
            loss = -(told["weight"] * torch.nn.functional.logsigmoid(BETA * h)).sum(-1)
            (grad,) = torch.autograd.grad(loss.sum(), p)
            with torch.no_grad():
                p.sub_(grad, alpha=lr)
            return loss

        return p, step

    _, step = training()

    def work() -> None:
        for _ in range(n):
            step()

    def numbers() -> dict[str, Any]:
        p, step = training()
        losses = torch.stack([step() for _ in range(3)])
        return {"W": p.detach().numpy(), "losses": losses.detach().numpy()}

    return Run(work, numbers, units=n)


def jax_scan(R: int, sizes: dict[str, int], lr: float, form: str, **_: Any) -> Run:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    one, W = given(R, sizes)
    V, responses = one.policy.vocab, one.pairs.responses
    row, at = np.nonzero(responses.mask)
    D = counts(one).tocoo()
    told = {**arrays(one.pairs), "D": D.toarray(), "pair": D.row, "cell": D.col, "count": D.data, "row": row,
            "each": responses.tokens[row, at - 1] * V + responses.tokens[row, at]}
    told = {name: jnp.asarray(x) for name, x in told.items()}

    def margins(W: Any, told: Any) -> Any:
        table = jax.nn.log_softmax(W).reshape(-1)
        if form == "dense":
            return told["D"] @ table
        if form == "cells":
            return jax.ops.segment_sum(told["count"] * table[told["cell"]], told["pair"], len(one.pairs),
                                       indices_are_sorted=True)
        if form == "flat":
            logp = jax.ops.segment_sum(table[told["each"]], told["row"], len(responses), indices_are_sorted=True)
        else:
            tokens = told["tokens"]
            logp = (table[tokens[:, :-1] * V + tokens[:, 1:]] * told["mask"][:, 1:]).sum(-1)
        return logp[told["index"][:, 0]] - logp[told["index"][:, 1]]

    def loss(W: Any, told: Any) -> Any:
        return -(told["weight"] * jax.nn.log_sigmoid(BETA * (margins(W, told) - told["ref"]))).sum()

    def step(W: Any, told: Any) -> tuple[Any, Any]:
        value, grad = jax.vmap(jax.value_and_grad(loss), (0, None))(W, told)
        return W - lr * grad, value

    def training(length: int) -> Callable[[Any], Any]:
        scan = jax.jit(lambda W, told: jax.lax.scan(lambda W, _: step(W, told), W, length=length), donate_argnums=0)
        return lambda W: scan(W, told)

    many, holds = training(STEPS), [jnp.asarray(W)]

    def work() -> None:
        holds[0], losses = many(holds[0])
        jax.block_until_ready((holds[0], losses))

    def numbers() -> dict[str, Any]:
        end, losses = training(3)(jnp.asarray(W))
        return {"W": np.asarray(end), "losses": np.asarray(losses)}

    return Run(work, numbers, units=STEPS)


SIDES = {"numpy": ("numpy", ours), "bare NumPy": ("numpy/1", bare), "torch by hand": ("torch", torch_by_hand),
         "jax vmap, scan": ("jax", jax_scan)}
SCALING = {"replicates": ("replicates", "R", lambda result, label: label)}
