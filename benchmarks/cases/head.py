"""Hidden states times an output head to token log-probs, and the gradients in both for a given dL/dvalue, in float32.

One pass: dL/dvalue is known beforehand. Two passes: the value first, as a loss of whole sequences needs it. torch is
plain, which holds all logits, or in blocks of as many logits as ours at once, by hand and without autograd; blocks in
two passes take the product with the head twice, as ours do. "three products" are the bare ones, in NumPy, which ours
cannot do without. JAX has one program for both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases.logits import faster
from benchmarks.harness import Case, Run

CELLS = 1 << 24  # logits that are held at once, where they are held in blocks
# Logits are sums over 512, gradients over 32,000 and 2,048, told as a product over 32,000: √(512 * 2,048) roundings.
NEAR = dict.fromkeys(("rtol", "atol"), 1024 * float(np.finfo(np.float32).eps))
SHAPE, SMALL = {"rows": 2048, "D": 512, "V": 32000}, {"rows": 6, "D": 3, "V": 5}
CASES = [
    Case("one pass", "head", {**SHAPE, "passes": 1}, small=SMALL, **NEAR,
         targets={"torch": 1.0, "torch in blocks": 1.0, "JAX": None, "three products": None}),
    Case("two passes", "head", {**SHAPE, "passes": 2}, small=SMALL, **NEAR,
         targets={"torch": 0.75, "torch in blocks": 1.0, "JAX": None, "three products": None}),
]


def data(rows: int, D: int, V: int) -> tuple[Any, Any, Any, Any]:
    """hidden (rows, D), head (D, V), the token that each row scores, dL/dvalue of it"""
    rng = np.random.default_rng(0)
    hidden, head = (rng.standard_normal(shape, np.float32) for shape in ((rows, D), (D, V)))
    return hidden, head / np.float32(D**0.5), rng.integers(0, V, rows), rng.standard_normal(rows, np.float32)


def told(value: Any, dhidden: Any, dhead: Any) -> dict[str, Any]:
    left, right = (np.random.default_rng(1).normal(size=n) for n in dhead.shape)
    return {"log-probs": value, "gradient in hidden": dhidden, "gradient in head, by rows": dhead @ right,
            "gradient in head, by columns": left @ dhead}


def ours(rows: int, D: int, V: int, passes: int) -> Run:
    from dpo_numpy.fused import head_logp, head_logp_grad

    hidden, head, target, d = data(rows, D, V)
    hidden = np.concatenate([hidden, hidden[:1]])[None]  # of the last position nothing is scored
    tokens, mask = np.concatenate([[0], target])[None], (np.arange(rows + 1) > 0)[None]
    dvalue = np.concatenate([[0], d]).astype(np.float32)[None]

    def work() -> Any:
        if passes == 1:
            return head_logp_grad(hidden, head, tokens, mask, dvalue)
        value, pullback = head_logp(hidden, head, tokens, mask)
        return value, *pullback(dvalue)

    def numbers() -> dict[str, Any]:
        value, dhidden, dhead = work()
        return told(value[0, 1:], dhidden[0, :-1], dhead)

    return Run(work, numbers)


def products(rows: int, D: int, V: int, passes: int) -> Run:
    hidden, head, _, _ = data(rows, D, V)
    logits, dhidden, dhead = np.empty((rows, V), np.float32), np.empty_like(hidden), np.empty_like(head)

    def work() -> None:
        np.matmul(hidden, head, out=logits)
        np.matmul(logits, head.T, out=dhidden)
        np.matmul(hidden.T, logits, out=dhead)

    return Run(work, None)


def by_torch(rows: int, D: int, V: int, passes: int) -> Run:
    import torch
    import torch.nn.functional as F

    hidden, head, target, d = map(torch.tensor, data(rows, D, V))
    leaves = [hidden.requires_grad_(), head.requires_grad_()]

    def run(read: Any) -> Any:
        for leaf in leaves:
            leaf.grad = None
        value = read(hidden @ head)
        value.backward(d)
        return value.detach(), hidden.grad, head.grad

    name, work = faster({
        "log_softmax and gather": lambda: run(lambda x: F.log_softmax(x, -1).gather(1, target[:, None])[:, 0]),
        "cross_entropy": lambda: run(lambda x: -F.cross_entropy(x, target, reduction="none"))})
    return Run(work, lambda: told(*(x.numpy() for x in work())), facts={"note": f"torch: {name}"})


def by_torch_in_blocks(rows: int, D: int, V: int, passes: int) -> Run:
    import torch

    hidden, head, target, d = map(torch.tensor, data(rows, D, V))
    step = max(1, CELLS // V)
    parts = [slice(start, start + step) for start in range(0, rows, step)]
    buffer = torch.empty(min(step, rows), V)

    def read(part: slice) -> tuple[Any, Any, Any]:
        x = torch.mm(hidden[part], head, out=buffer[:len(target[part])])
        normalizer = torch.logsumexp(x, 1, keepdim=True)
        return x, normalizer, x.gather(1, target[part, None]) - normalizer

    @torch.no_grad()
    def work() -> Any:
        value, dhidden, dhead = torch.empty(rows), torch.empty_like(hidden), torch.zeros_like(head)
        if passes == 2:
            for part in parts:
                value[part] = read(part)[2][:, 0]
        for part in parts:
            x, normalizer, picked = read(part)
            value[part] = picked[:, 0]
            slope = d[part, None]
            x.sub_(normalizer).exp_().mul_(-slope).scatter_add_(1, target[part, None], slope)
            torch.mm(x, head.T, out=dhidden[part])
            dhead.addmm_(hidden[part].T, x)
        return value, dhidden, dhead

    return Run(work, lambda: told(*(x.numpy() for x in work())))


def by_jax(rows: int, D: int, V: int, passes: int) -> Run:
    import jax
    import jax.numpy as jnp

    hidden, head, target, d = map(jnp.asarray, data(rows, D, V))

    def read(hidden: Any, head: Any) -> Any:
        x = hidden @ head
        return jnp.take_along_axis(x, target[:, None], -1)[:, 0] - jax.nn.logsumexp(x, -1)

    @jax.jit
    def both(hidden: Any, head: Any, d: Any) -> Any:
        value, pullback = jax.vjp(read, hidden, head)
        return value, *pullback(d)

    def work() -> Any:
        return jax.block_until_ready(both(hidden, head, d))

    return Run(work, lambda: told(*map(np.asarray, work())))


SIDES = {"numpy": ("numpy", ours), "three products": ("numpy", products), "torch": ("torch", by_torch),
         "torch in blocks": ("torch", by_torch_in_blocks), "JAX": ("jax", by_jax)}
