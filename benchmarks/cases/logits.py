"""Logits to token log-probs and their gradient for a given dL/dvalue, beside torch and JAX, and beside a bare copy.

Logits are a batch of one sequence of rows + 1 tokens, each but the first scored. Ours writes the gradient into an array
that is kept. torch and JAX have two natural forms each, log_softmax and gather, and picked less logsumexp (in torch by
`F.cross_entropy`); the faster of the two is the side, and the note says which.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.harness import Case, Run, calibrate

SHAPES = {(16384, 64): 1.0, (65536, 512): 2.0, (2048, 32000): 3.0}
# A gradient's product with a vector sums over 65,536 rows at most, whose roundings go either way: √65,536 of them.
NEAR = {dtype: dict.fromkeys(("rtol", "atol"), 256 * float(np.finfo(dtype).eps)) for dtype in ("float32", "float64")}
CELLS = 1 << 22  # of the cases over V
SMALL = {"rows": 6, "V": 5}


def _cases() -> list[Case]:
    found = [Case(f"{rows:,} rows, V = {V:,}, {dtype}", "logits", {"rows": rows, "V": V, "dtype": dtype},
                  targets={"torch": target, "JAX": target, "copyto": 1 / 3 if V == 32000 else None}, small=SMALL,
                  **NEAR[dtype]) for (rows, V), target in SHAPES.items() for dtype in ("float32", "float64")]
    return found + [Case(f"{CELLS // V:,} rows, V = {V:,}", "logits by V", {"rows": CELLS // V, "V": V, "dtype": dtype},
                         targets={"torch": None, "JAX": None, "copyto": None}, small=SMALL, **NEAR[dtype])
                    for dtype in ("float32",) for V in (64, 256, 1024, 4096, 16384, 32000)]


def data(rows: int, V: int, dtype: str) -> tuple[Any, Any, Any]:
    """logits (rows + 1, V), the token that each row but the last scores, dL/dvalue of it"""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((rows + 1, V), np.float32).astype(dtype)
    return logits, rng.integers(0, V, rows), rng.normal(size=rows).astype(dtype)


def told(value: Any, dlogits: Any) -> dict[str, Any]:
    """The gradient itself may be half a GB: told are its products with random vectors from both sides."""
    rng = np.random.default_rng(1)
    left, right = rng.normal(size=len(dlogits)), rng.normal(size=dlogits.shape[1])
    by_row = np.concatenate([part @ right for part in np.array_split(dlogits, 1 + dlogits.size // (1 << 24))])
    by_column = sum(x @ part for x, part in zip(np.array_split(left, 64), np.array_split(dlogits, 64), strict=True))
    return {"log-probs": value, "gradient, by rows": by_row, "gradient, by columns": by_column}


def ours(rows: int, V: int, dtype: str) -> Run:
    from dpo_numpy import readings
    from dpo_numpy.fused import token_logp_grad

    logits, target, d = data(rows, V, dtype)
    logits, out = logits[None], np.empty_like(logits[None])
    tokens, mask = np.concatenate([[0], target])[None], (np.arange(rows + 1) > 0)[None]
    dvalue = np.concatenate([[0], d]).astype(dtype)[None]

    def work() -> Any:
        return token_logp_grad(logits, tokens, mask, dvalue, out=out)

    def numbers() -> dict[str, Any]:
        value, _ = work()
        return told(value[0, 1:], out[0, :-1])

    tracemalloc.start()
    value, _ = work()
    extra = tracemalloc.get_traced_memory()[1] - value.nbytes
    tracemalloc.stop()
    block = readings.BLOCK * logits.itemsize
    note = f"{extra:,} bytes beside value and gradient, {extra / rows:.0f} a row; a block has {block:,}"
    return Run(work, numbers, facts={"note": note, "extra bytes": extra, "block bytes": block})


def copying(rows: int, V: int, dtype: str) -> Run:
    logits = data(rows, V, dtype)[0]
    out = np.empty_like(logits)
    return Run(lambda: np.copyto(out, logits), None)


def faster(forms: Mapping[str, Callable[[], Any]]) -> tuple[str, Callable[[], Any]]:
    for form in forms.values():
        form()
    return min(forms.items(), key=lambda named: min(calibrate(named[1])[1] for _ in range(2)))


def by_torch(rows: int, V: int, dtype: str) -> Run:
    import torch
    import torch.nn.functional as F

    logits, target, d = data(rows, V, dtype)
    leaf = torch.tensor(logits[:-1], requires_grad=True)
    token, upstream = torch.tensor(target), torch.tensor(d)

    def gather() -> Any:
        leaf.grad = None
        value = F.log_softmax(leaf, -1).gather(1, token[:, None])[:, 0]
        value.backward(upstream)
        return value

    def cross_entropy() -> Any:
        leaf.grad = None
        value = -F.cross_entropy(leaf, token, reduction="none")
        value.backward(upstream)
        return value

    name, work = faster({"log_softmax and gather": gather, "cross_entropy": cross_entropy})

    def numbers() -> dict[str, Any]:
        value = work().detach().numpy()
        return told(value, leaf.grad.numpy())

    return Run(work, numbers, facts={"note": f"torch: {name}"})


def by_jax(rows: int, V: int, dtype: str) -> Run:
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    import jax.numpy as jnp

    logits, target, d = data(rows, V, dtype)
    x, token, upstream = jnp.asarray(logits[:-1]), jnp.asarray(target), jnp.asarray(d)
    del logits

    def log_softmax(x: Any) -> Any:
        return jnp.take_along_axis(jax.nn.log_softmax(x, -1), token[:, None], -1)[:, 0]

    def logsumexp(x: Any) -> Any:
        return jnp.take_along_axis(x, token[:, None], -1)[:, 0] - jax.nn.logsumexp(x, -1)

    def form(read: Callable[[Any], Any]) -> Callable[[], Any]:
        def both(x: Any, upstream: Any) -> Any:
            value, pullback = jax.vjp(read, x)
            return value, pullback(upstream)[0]

        jitted = jax.jit(both)
        return lambda: jax.block_until_ready(jitted(x, upstream))

    name, work = faster({"log_softmax and gather": form(log_softmax), "logsumexp": form(logsumexp)})
    return Run(work, lambda: told(*map(np.asarray, work())), facts={"note": f"JAX: {name}"})


SIDES = {"numpy": ("numpy", ours), "copyto": ("numpy", copying), "torch": ("torch", by_torch), "JAX": ("jax", by_jax)}
CASES = _cases()
SCALING = {"logits": (f"V, at {CELLS:,} logits of float32", "V",
                      lambda result, label: label if result["group"] == "logits by V" else None)}
