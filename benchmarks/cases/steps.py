"""One step of DPO: loss, gradient, and the optimizer's update, of policies from a table to a transformer.

Ours is `train`, as anyone calls it. Log-probs of the reference are known beforehand on every side. Each peer has the
form that was the fastest of these (`torch_form`, `jax_form`); the others are here to be tried.

    gather  log_softmax of the table, looked up at each (token, next) of padded rows, summed over rows
    flat    the same at those that count, one after the other, added up by index
    cells   the same at the distinct cells of each pair, times their counts in the chosen less those in the rejected
    dense   a product of the matrix of these counts, (B, V²), and the table
    sparse  the same with a sparse matrix, and its transpose on the way back
    pairs   of a bandit: the difference of two entries for each pair
    square  all differences of its entries, a matrix
    all, distinct   of an MLP: a row for each token, or for each distinct context

Without DPO_NUMPY_DATA there is no case of bytes. Networks run in float32; compared are their parameters after three
steps in float64, and the losses of three in float32.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np

import dpo_numpy as dn
from benchmarks.harness import Case, Run
from benchmarks.problems import BETA, Problem, arrays, contexts, counts, problem

SMALL_GPT = {"vocab": 64, "width": 64, "heads": 4, "depth": 2, "tokens": 32, "pairs": 64}
LARGE_GPT = {"vocab": 256, "width": 128, "heads": 4, "depth": 5, "tokens": 64, "pairs": 32}
TINY_GPT = {"vocab": 8, "width": 8, "heads": 2, "depth": 1, "tokens": 6, "pairs": 3}
NETWORK: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-7}  # of the losses in float32; parameters agree to far more


def network(model: str) -> bool:
    return model in ("mlp", "gpt")


def case(name: str, model: str, sizes: dict[str, int], eager: float, jit: float, small: dict[str, int], lr: float,
         n: int, torch_form: str = "", jax_form: str = "", dtype: str = "float64", **tolerance: Any) -> Case:
    params = {"model": model, "sizes": sizes, "lr": lr, "n": n, "dtype": dtype, "torch_form": torch_form,
              "jax_form": jax_form}
    bound = {"gpt": {"threads of BLAS too": None}, "mlp": {"its products": None}}.get(model, {"bare NumPy": None})
    # blocks of sequences go through threads: those of BLAS would be in their way
    return Case(name, "steps", params, ours="numpy, BLAS on one thread" if model == "gpt" else "numpy",
                small={**params, "sizes": small, "n": 1},
                targets={"torch eager": eager, "jax jit": jit, "jax scan": None, **bound}, **tolerance)


def by_tokens(T: int) -> Case:
    """Ever longer sequences of as many tokens in all"""
    one = case(f"transformer, T = {T}, {2048 // T} pairs", "gpt", {**SMALL_GPT, "tokens": T, "pairs": 2048 // T}, 1, 1,
               TINY_GPT, 1e-5, 1, dtype="float32", **NETWORK)
    return replace(one, group="steps by T", params={**one.params, "T": T}, profiled=False,
                   targets={"torch eager": None, "jax jit": None})


CASES = [
    case("bandit, 100 responses, all pairs", "tabular", {"responses": 100}, 5, 1, {"responses": 5}, 1.0, 20,
         "square", "pairs"),
    case("bigram, V = 32", "bigram", {"vocab": 32, "pairs": 64, "tokens": 16}, 5, 1,
         {"vocab": 4, "pairs": 3, "tokens": 4}, 1.0, 20, "dense", "dense"),
    case("MLP, V = 64", "mlp", {"vocab": 64, "order": 3, "width": 16, "hidden": 128, "pairs": 64, "tokens": 32}, 1.5,
         0.7, {"vocab": 5, "order": 3, "width": 2, "hidden": 4, "pairs": 3, "tokens": 4}, 1e-5, 4,
         "distinct", "distinct", "float32", **NETWORK),
    case("transformer, 0.1M parameters", "gpt", SMALL_GPT, 1, 0.7, TINY_GPT, 1e-5, 1, dtype="float32", **NETWORK),
    case("transformer, 1M parameters", "gpt", LARGE_GPT, 1, 0.7, TINY_GPT, 1e-5, 1, dtype="float32", **NETWORK),
    *map(by_tokens, (8, 32, 128, 512)),
]
if os.environ.get("DPO_NUMPY_DATA"):
    of_bytes = case("bigram of bytes, 754 pairs of OASST", "bytes", {}, 3, 1, {"pairs": 3}, 1.0, 5, "flat", "flat")
    by_hand = {"torch, its gradient by hand": None}
    CASES.insert(2, replace(of_bytes, targets={**of_bytes.targets, **by_hand}))


# ---- ours

def ours(model: str, sizes: dict[str, int], lr: float, n: int, dtype: str, **_: Any) -> Run:
    def training(dtype: str) -> Any:
        given = problem(model, dtype, **sizes)
        optimizer = dn.sgd(lr) if dtype == "float64" and not network(model) else dn.adam(lr)
        return dn.train(given.policy, given.params, repeat(given.pairs), dn.LOSSES["dpo"](beta=BETA), optimizer)

    steps = training(dtype)

    def work() -> None:
        for _ in range(n):
            next(steps)

    def three(dtype: str) -> tuple[dict[str, Any], list[float]]:
        found = [step for step, _ in zip(training(dtype), range(3), strict=False)]
        return found[-1].params, [step.value for step in found]

    return Run(work, lambda: numbers(three, dtype), units=n)


def bare(model: str, sizes: dict[str, int], lr: float, n: int, dtype: str, **_: Any) -> Run:
    """The same step on a table as one straight line of NumPy calls into arrays that are kept: what any library pays
    that is made of such calls. The arithmetic is ours, with as many digits; pairs are counted at once, the chosen less
    the rejected."""
    def training() -> Callable[[], Any]:
        given = problem(model, dtype, **sizes)
        W = given.params["W"].copy()
        told, D = arrays(given.pairs), counts(given)
        Dt, ref, weight = D.T.tocsr(), told["ref"], told["weight"]
        descent = -lr * BETA * weight
        C, V = W.shape
        starts, ones = np.arange(0, W.size, V), np.ones(V)
        best, top, rest, share = np.empty(C, np.intp), np.empty(C), np.empty(C), np.empty(C)
        below, exp = np.empty_like(W), np.empty_like(W)
        flat, flat_exp, flat_below = W.reshape(-1), exp.reshape(-1), below.reshape(-1)

        def step() -> tuple[dict[str, Any], float]:
            W.argmax(axis=-1, out=best)
            np.add(best, starts, out=best)
            flat.take(best, out=top, mode="clip")
            np.subtract(W, top[:, None], out=below)
            np.exp(below, out=exp)
            flat_exp[best] = 0
            np.log1p(np.vecdot(ones, exp, out=rest), out=rest)
            flat_exp[best] = 1
            np.subtract(below, rest[:, None], out=below)
            z = D @ flat_below
            z -= ref
            z *= BETA
            e = np.abs(z)
            np.exp(np.negative(e, out=e), out=e)
            loss = np.log1p(e)
            np.maximum(loss, loss - z, out=loss)
            pull = np.maximum(np.signbit(z), e)
            e += 1
            pull /= e
            pull *= descent
            flat_slope = Dt @ pull
            slope = flat_slope.reshape(C, V)
            np.exp(np.negative(rest, out=share), out=share)
            np.multiply(share, np.vecdot(ones, slope), out=share)
            np.multiply(exp, share[:, None], out=exp)
            slope -= exp
            flat_slope[best] = 0
            flat_slope[best] = -np.vecdot(ones, slope)
            np.subtract(flat, flat_slope, out=flat)
            return {"W": W}, float(weight @ loss)

        return step

    step = training()

    def work() -> None:
        for _ in range(n):
            step()

    def three(dtype: str) -> tuple[dict[str, Any], list[float]]:
        step = training()
        found = [step() for _ in range(3)]
        return found[-1][0], [loss for _, loss in found]

    return Run(work, lambda: numbers(three, dtype), units=n)


def products(dtype: str, n: int, **params: Any) -> Run:
    """The matrix products of an MLP and its gradient, and its tangents, which no one can do without"""
    given = problem("mlp", dtype, **params["sizes"])
    W, U = given.params["W"], given.params["U"]
    x = np.ones((len(contexts(given, distinct=True)[0]), len(W)), dtype)
    h, logits = np.empty((len(x), len(U)), dtype), np.empty((len(x), U.shape[1]), dtype)
    dh, dx = np.empty_like(h), np.empty_like(x)

    def work() -> None:
        for _ in range(n):
            np.tanh(np.matmul(x, W, out=h), out=h)
            np.matmul(h, U, out=logits)
            np.matmul(logits, U.T, out=dh)
            np.matmul(dh, W.T, out=dx)
            np.matmul(x.T, dh), np.matmul(h.T, logits)

    return Run(work, None, units=n)


def numbers(three: Callable[[str], tuple[dict[str, Any], list[float]]], dtype: str) -> dict[str, Any]:
    params, losses = three("float64")
    found = {name: np.asarray(p) for name, p in params.items()} | {"losses": np.array(losses)}
    return found if dtype == "float64" else found | {f"losses in {dtype}": np.array(three(dtype)[1], float)}


# ---- the same in torch

def torch_eager(model: str, sizes: dict[str, int], lr: float, n: int, dtype: str, torch_form: str, **_: Any) -> Run:
    import torch

    if model in ("tabular", "bigram"):  # threads have nothing to gain on tables so small, and wait for each other
        torch.set_num_threads(1)
    else:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))

    def training(dtype: str) -> Callable[[], Any]:
        given = problem(model, dtype, **sizes)
        params = {name: torch.tensor(p, requires_grad=True) for name, p in given.params.items()}
        # an index in int64, all else in the dtype of the parameters
        told = {name: torch.as_tensor(x if x.dtype.kind in "ib" else x.astype(dtype))
                for name, x in arrays(given.pairs).items()}
        margins = TORCH[model](given, told, torch_form, dtype)
        flat = list(params.values())
        adam = torch.optim.Adam(flat, lr=lr, fused=True) if network(model) else None

        def step() -> Any:
            h = margins(params) - told["ref"]
            loss = -(told["weight"] * torch.nn.functional.logsigmoid(BETA * h)).sum()
            if adam:
                adam.zero_grad()
                loss.backward()
                adam.step()
            else:  # faster than torch.optim.SGD
                grads = torch.autograd.grad(loss, flat)
                with torch.no_grad():
                    for p, g in zip(flat, grads, strict=True):
                        p.sub_(g, alpha=lr)
            return params, loss

        return step

    step = training(dtype)

    def work() -> None:
        for _ in range(n):
            step()

    def three(dtype: str) -> tuple[dict[str, Any], list[float]]:
        step = training(dtype)
        found = [step() for _ in range(3)]
        return {name: p.detach().numpy() for name, p in found[-1][0].items()}, [loss.item() for _, loss in found]

    return Run(work, lambda: numbers(three, dtype), units=n)


def torch_by_hand(**params: Any) -> Run:
    """Autograd transposes a sparse matrix at every step: with a backward of one's own it need not."""
    return torch_eager(**{**params, "torch_form": "sparse"})


def as_square(told: dict[str, Any]) -> dict[str, Any]:
    """All pairs of a bandit as entries of a matrix: row the chosen, column the rejected."""
    K = len(told["tokens"])
    cell = told["index"][:, 0] * K + told["index"][:, 1]
    return {name: np.bincount(cell, told[name], K * K) for name in ("weight", "ref")}


Margins = Callable[[dict[str, Any]], Any]


def torch_table(given: Problem, told: dict[str, Any], form: str, dtype: str) -> Margins:
    import torch

    index, log_softmax = told["index"], torch.nn.functional.log_softmax
    chosen, rejected = index[:, 0].contiguous(), index[:, 1].contiguous()
    if form == "pairs":
        return lambda p: (table := log_softmax(p["W"][0], -1))[chosen] - table[rejected]
    if form == "square":
        told |= {name: torch.as_tensor(x) for name, x in as_square(arrays(given.pairs)).items()}
        return lambda p: (table := log_softmax(p["W"], -1)).mT.sub(table).reshape(-1)
    if form == "cells":
        D = counts(given).tocoo()
        row, cell, count = torch.as_tensor(D.row).long(), torch.as_tensor(D.col).long(), torch.as_tensor(D.data)
        zero = torch.zeros(len(index), dtype=count.dtype)
        return lambda p: zero.index_add(0, row, count * log_softmax(p["W"], -1).reshape(-1).index_select(0, cell))
    if form in ("dense", "sparse"):
        n = counts(given)
        if form == "dense":
            D = torch.as_tensor(n.toarray())
            return lambda p: D @ log_softmax(p["W"], -1).reshape(-1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # sparse tensors are in beta state
            D, Dt = (torch.sparse_csr_tensor(*map(torch.as_tensor, (x.indptr, x.indices, x.data)), x.shape)
                     for x in (n, n.T.tocsr()))

        class Product(torch.autograd.Function):  # autograd's own transposes the matrix at every step
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                return D @ x

            @staticmethod
            def backward(ctx: Any, dy: Any) -> Any:
                return Dt @ dy

        return lambda p: Product.apply(log_softmax(p["W"], -1).reshape(-1))
    tokens, mask = told["tokens"], told["mask"]
    if form == "gather":
        now, then, counted = tokens[:, :-1], tokens[:, 1:], mask[:, 1:]

        def padded(p: dict[str, Any]) -> Any:
            logp = (log_softmax(p["W"], -1)[now, then] * counted).sum(-1)
            return logp[chosen] - logp[rejected]

        return padded
    row, at = torch.nonzero(mask, as_tuple=True)
    cell = (tokens[row, at - 1] * given.policy.vocab + tokens[row, at]).long()

    def flat(p: dict[str, Any]) -> Any:
        each = log_softmax(p["W"], -1).reshape(-1).index_select(0, cell)
        logp = torch.zeros(len(tokens), dtype=each.dtype).index_add(0, row, each)
        return logp[chosen] - logp[rejected]

    return flat


def torch_mlp(given: Problem, told: dict[str, Any], form: str, dtype: str) -> Margins:
    import torch

    window, where, token, row = map(torch.as_tensor, contexts(given, form == "distinct"))
    chosen, rejected, N = told["index"][:, 0], told["index"][:, 1], len(told["tokens"])
    cell = where * given.policy.vocab + token

    def margins(p: dict[str, Any]) -> Any:
        x = torch.nn.functional.embedding(window, p["E"]).flatten(1)
        logits = torch.addmm(p["b"], torch.tanh(torch.addmm(p["c"], x, p["W"])), p["U"])
        if form == "distinct":
            each = torch.take(torch.nn.functional.log_softmax(logits, -1), cell)
        else:
            each = -torch.nn.functional.cross_entropy(logits, token, reduction="none")
        logp = torch.zeros(N, dtype=each.dtype).index_add(0, row, each)
        return logp[chosen] - logp[rejected]

    return margins


def torch_gpt(given: Problem, told: dict[str, Any], form: str, dtype: str) -> Margins:
    from torch.nn import functional as F

    tokens, index = told["tokens"], told["index"]
    now, then, counted = tokens[:, :-1], tokens[:, 1:].reshape(-1), told["mask"][:, 1:]
    (N, T), heads, D = now.shape, given.policy.heads, given.policy.width

    def norm(x: Any, gain: Any) -> Any:
        return F.rms_norm(x, (D,), gain, 1e-5)

    def margins(p: dict[str, Any]) -> Any:
        x = F.embedding(now, p["token"]) + p["position"][:T]
        for i in range(given.policy.depth):
            qkv = (norm(x, p[f"{i}.norm1.gain"]) @ p[f"{i}.qkv"]).view(N, T, 3, heads, D // heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + seen.transpose(1, 2).reshape(N, T, D) @ p[f"{i}.out"]
            up = norm(x, p[f"{i}.norm2.gain"]) @ p[f"{i}.up"]
            x = x + F.gelu(up, approximate="tanh") @ p[f"{i}.down"]
        logits = norm(x, p["norm.gain"]) @ p["token"].T
        each = F.cross_entropy(logits.view(N * T, -1), then, reduction="none").view(N, T)
        logp = -(each * counted).sum(-1)
        return logp[index[:, 0]] - logp[index[:, 1]]

    return margins


TORCH = {"tabular": torch_table, "bigram": torch_table, "bytes": torch_table, "mlp": torch_mlp, "gpt": torch_gpt}


# ---- the same in JAX

def jax_jit(scan: int = 0, **params: Any) -> Run:
    model, sizes, lr, n, dtype = (params[name] for name in ("model", "sizes", "lr", "n", "dtype"))
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)  # arrays of float32 stay what they are

    def training(dtype: str, length: int) -> tuple[Any, Any]:
        given = problem(model, dtype, **sizes)
        told = {name: jnp.asarray(x if x.dtype.kind in "ib" else x.astype(dtype))
                for name, x in arrays(given.pairs).items()}
        margins, data = JAX[model](given, params["jax_form"], dtype)
        data = told | {name: jnp.asarray(x) for name, x in data.items()}
        start = {name: jnp.array(p) for name, p in given.params.items()}
        zero = {name: jnp.zeros_like(p) for name, p in start.items()}
        state = (start, zero, {name: jnp.zeros_like(p) for name, p in start.items()}, 0) if network(model) else (start,)

        def loss(p: Any, data: Any) -> Any:
            return -(data["weight"] * jax.nn.log_sigmoid(BETA * (margins(p, data) - data["ref"]))).sum()

        def step(state: Any, data: Any) -> Any:
            value, grad = jax.value_and_grad(loss)(state[0], data)
            if not network(model):
                return (jax.tree.map(lambda p, g: p - lr * g, state[0], grad),), value
            p, m, v, t = state
            t = t + 1
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grad)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grad)
            a, b = (lr / (1 - 0.9**t)).astype(dtype), (1 / (1 - 0.999**t)).astype(dtype)
            p = jax.tree.map(lambda p, m, v: p - a * m / (jnp.sqrt(v * b) + 1e-8), p, m, v)
            return (p, m, v, t), value

        if not scan:
            return jax.jit(step, donate_argnums=0), (state, data)

        def many(state: Any, data: Any) -> Any:
            return jax.lax.scan(lambda s, _: step(s, data), state, length=length)

        return jax.jit(many, donate_argnums=0), (state, data)

    step, (state, data) = training(dtype, scan)
    holds = [state]

    def work() -> None:
        for _ in range(1 if scan else n):
            holds[0], value = step(holds[0], data)
        jax.block_until_ready((holds[0], value))

    def three(dtype: str) -> tuple[dict[str, Any], list[float]]:
        step, (state, data) = training(dtype, 3)
        losses: list[float] = []
        while len(losses) < 3:
            state, value = step(state, data)
            losses += np.ravel(value).tolist()
        return state[0], losses

    return Run(work, lambda: numbers(three, dtype), units=scan or n)


def jax_scan(**params: Any) -> Run:
    """A hundred steps in one call, five of a transformer: what is left where Python is not asked between them."""
    return jax_jit(scan=100 if params["n"] > 1 else 5, **params)


def jax_table(given: Problem, form: str, dtype: str) -> tuple[Any, dict[str, Any]]:
    import jax

    log_softmax, N = jax.nn.log_softmax, len(given.pairs.responses)

    def compared(logp: Any, data: Any) -> Any:
        return logp[data["index"][:, 0]] - logp[data["index"][:, 1]]

    if form == "pairs":
        return lambda p, data: compared(log_softmax(p["W"][0]), data), {}
    if form == "square":
        return lambda p, data: (log_softmax(p["W"]).T - log_softmax(p["W"])).reshape(-1), as_square(arrays(given.pairs))
    if form == "dense":
        return lambda p, data: data["D"] @ log_softmax(p["W"]).reshape(-1), {"D": counts(given).toarray()}
    if form == "gather":
        return lambda p, data: compared((log_softmax(p["W"])[data["tokens"][:, :-1], data["tokens"][:, 1:]]
                                         * data["mask"][:, 1:]).sum(-1), data), {}
    if form == "cells":
        D = counts(given).tocoo()
        cells = {"row": D.row, "cell": D.col, "count": D.data}
        return lambda p, data: jax.ops.segment_sum(
            data["count"] * log_softmax(p["W"]).reshape(-1)[data["cell"]], data["row"], len(given.pairs),
            indices_are_sorted=True), cells
    row, at = np.nonzero(given.pairs.responses.mask)
    tokens = given.pairs.responses.tokens
    cell = tokens[row, at - 1] * given.policy.vocab + tokens[row, at]
    return lambda p, data: compared(jax.ops.segment_sum(log_softmax(p["W"]).reshape(-1)[data["cell"]], data["row"], N,
                                                        indices_are_sorted=True), data), {
        "cell": cell, "row": row}


def jax_mlp(given: Problem, form: str, dtype: str) -> tuple[Any, dict[str, Any]]:
    import jax
    import jax.numpy as jnp

    names, N = ("window", "where", "token", "row"), len(given.pairs.responses)
    data = dict(zip(names, contexts(given, form == "distinct"), strict=True))

    def margins(p: Any, data: Any) -> Any:
        x = p["E"][data["window"]].reshape(len(data["window"]), -1)
        table = jax.nn.log_softmax(p["b"] + jnp.tanh(p["c"] + x @ p["W"]) @ p["U"])
        each = (table[data["where"], data["token"]] if form == "distinct"
                else jnp.take_along_axis(table, data["token"][:, None], 1)[:, 0])
        logp = jax.ops.segment_sum(each, data["row"], N, indices_are_sorted=True)
        return logp[data["index"][:, 0]] - logp[data["index"][:, 1]]

    return margins, data


def jax_gpt(given: Problem, form: str, dtype: str) -> tuple[Any, dict[str, Any]]:
    import jax
    import jax.numpy as jnp

    heads, D = given.policy.heads, given.policy.width

    def norm(x: Any, gain: Any) -> Any:
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * gain

    def margins(p: Any, data: Any) -> Any:
        now, then = data["tokens"][:, :-1], data["tokens"][:, 1:]
        N, T = now.shape
        causal = jnp.tril(jnp.ones((T, T), bool))
        x = p["token"][now] + p["position"][:T]
        for i in range(given.policy.depth):
            qkv = (norm(x, p[f"{i}.norm1.gain"]) @ p[f"{i}.qkv"]).reshape(N, T, 3, heads, D // heads)
            q, k, v = qkv.transpose(2, 0, 3, 1, 4)
            scores = jnp.where(causal, q @ k.swapaxes(-1, -2) * (D // heads) ** -0.5, -jnp.inf)
            seen = jax.nn.softmax(scores) @ v
            x = x + seen.transpose(0, 2, 1, 3).reshape(N, T, D) @ p[f"{i}.out"]
            up = norm(x, p[f"{i}.norm2.gain"]) @ p[f"{i}.up"]
            x = x + jax.nn.gelu(up, approximate=True) @ p[f"{i}.down"]
        table = jax.nn.log_softmax(norm(x, p["norm.gain"]) @ p["token"].T)
        logp = (jnp.take_along_axis(table, then[..., None], -1)[..., 0] * data["mask"][:, 1:]).sum(-1)
        return logp[data["index"][:, 0]] - logp[data["index"][:, 1]]

    return margins, {}


JAX = {"tabular": jax_table, "bigram": jax_table, "bytes": jax_table, "mlp": jax_mlp, "gpt": jax_gpt}

SIDES = {"numpy": ("numpy", ours), "numpy, BLAS on one thread": ("numpy/blas 1", ours),
         "threads of BLAS too": ("numpy", ours), "bare NumPy": ("numpy", bare),
         "its products": ("numpy", products), "torch eager": ("torch", torch_eager),
         "torch, its gradient by hand": ("torch", torch_by_hand), "jax jit": ("jax", jax_jit),
         "jax scan": ("jax", jax_scan)}
SCALING = {"steps": ("tokens T of a sequence, 4,096 in all", "T", lambda result, label: label)}
