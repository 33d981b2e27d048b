"""A decoder-only transformer whose forward and backward pass read as one page: each step returns its pullback.

    x = E[token] + P[position]
    x = x + attention(norm(x)),   x = x + mlp(norm(x)),   `depth` times
    logits = norm(x) H,   H = Eᵀ where tied

Vaswani et al. 2017, arXiv:1706.03762, as GPT-2 arranges it (Radford et al. 2019): a norm before each step, a residual
around it. All N T tokens of a batch are rows of one matrix x (..., M, D); attention alone knows which belong together.
A pullback takes the gradient in what came out to the gradient in x, and leaves those in the parameters in `grads`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._scatter import add_rows

__all__ = ["GPT"]

Array = NDArray[Any]
Params = dict[str, Array]
Pullback = Callable[[Array, Params], Array]


def linear(x: Array, params: Params, name: str) -> tuple[Array, Pullback]:
    """y = x W;   dx = dy Wᵀ,   dW = xᵀ dy"""
    W = params[name]

    def pullback(dy: Array, grads: Params) -> Array:
        grads[name] = x.mT @ dy
        return dy @ W.mT

    return x @ W, pullback


def norm(x: Array, params: Params, name: str) -> tuple[Array, Pullback]:
    """y = g x̂,   x̂ = x/s,   s² = mean x² + 1e-5;   dx = (g dy - x̂ mean(g dy x̂))/s,   dg = Σ dy x̂

    RMSNorm: Zhang & Sennrich 2019, arXiv:1910.07467. Where there is a bias it is LayerNorm, Ba et al. 2016,
    arXiv:1607.06450: the mean is taken out of x, and so out of dx, and the bias is added.
    """
    g, b = params[f"{name}.gain"][..., None, :], params.get(f"{name}.bias")
    x = x if b is None else x - x.mean(axis=-1, keepdims=True)
    s = np.sqrt(_mean_product(x, x) + 1e-5)
    unit = x / s

    def pullback(dy: Array, grads: Params) -> Array:
        grads[f"{name}.gain"] = np.einsum("...md,...md->...d", dy, unit)
        dx: Array = dy * g
        dx -= unit * _mean_product(dx, unit)
        dx /= s
        if b is None:
            return dx
        grads[f"{name}.bias"] = dy.sum(axis=-2)
        dx -= dx.mean(axis=-1, keepdims=True)
        return dx

    return unit * g if b is None else unit * g + b[..., None, :], pullback


def attention(qkv: Array, T: int, heads: int) -> tuple[Array, Callable[[Array], Array]]:
    """o = A v,   A = softmax(q kᵀ/√d), own token and those before;   dv = Aᵀ do,   dS = A (dA - Σ do o),   dA = do vᵀ

    qkv (..., N T, 3 D): q, k and v of each token side by side, and in each of these the heads, of d = D/heads columns.
    Held is Aᵀ: the largest and the sum over keys are fast where these come before the queries. Σ A dA = Σ do o.
    """
    q, k, v = _heads(qkv, 3, T, heads)  # (..., N, heads, T, d)
    scale = 1 / sqrt(q.shape[-1])
    At = k @ (q * scale).mT  # (..., N, heads, T, T)
    At += np.tril(np.full((T, T), -np.inf, At.real.dtype), -1)
    At -= At.real.max(axis=-2, keepdims=True)
    np.exp(At, out=At)
    At /= np.ones(T, At.dtype)[None] @ At
    out = np.empty((*qkv.shape[:-1], qkv.shape[-1] // 3), qkv.dtype)
    o, = _heads(out, 1, T, heads)
    np.matmul(At.mT, v, out=o)

    def pullback(dout: Array) -> Array:
        do, = _heads(dout, 1, T, heads)
        dqkv = np.empty(qkv.shape, np.result_type(qkv, dout))
        dq, dk, dv = _heads(dqkv, 3, T, heads)
        dSt = v @ do.mT
        dSt -= np.einsum("...td,...td->...t", do, o)[..., None, :]
        dSt *= At
        dSt *= scale
        np.matmul(dSt.mT, k, out=dq)
        np.matmul(dSt, q, out=dk)
        np.matmul(At, do, out=dv)
        return dqkv

    return out, pullback


def gelu(x: Array) -> tuple[Array, Callable[[Array], Array]]:
    """y = x h,   h = ½ (1 + tanh(c x (1 + a x²))) = σ(2 c x (1 + a x²));   dy/dx = h (1 + (x - y) 2c (1 + 3a x²))

    c = √(2/π), a = 0.044715: Hendrycks & Gimpel 2016, arXiv:1606.08415, in the form that GPT-2 takes.
    """
    c, a = sqrt(2 / np.pi), 0.044715
    h = x * x
    h *= c * a
    h += c
    h *= x
    np.tanh(h, out=h)
    h += 1
    h *= 0.5
    y = x * h

    def pullback(dy: Array) -> Array:
        slope: Array = x * x
        slope *= 6 * c * a
        slope += 2 * c
        slope *= x - y
        slope += 1
        slope *= h
        return dy * slope

    return y, pullback


def block(x: Array, params: Params, name: str, T: int, heads: int) -> tuple[Array, Pullback]:
    """x + attention(norm(x) Wqkv) Wout, and to that + gelu(norm(x) Wup) Wdown"""
    normed, from_norm1 = norm(x, params, f"{name}.norm1")
    qkv, from_qkv = linear(normed, params, f"{name}.qkv")
    attended, from_attention = attention(qkv, T, heads)
    moved, from_out = linear(attended, params, f"{name}.out")
    moved += x
    x = moved
    normed, from_norm2 = norm(x, params, f"{name}.norm2")
    up, from_up = linear(normed, params, f"{name}.up")
    active, from_gelu = gelu(up)
    moved, from_down = linear(active, params, f"{name}.down")
    moved += x

    def pullback(dx: Array, grads: Params) -> Array:
        dmoved: Array = from_norm2(from_up(from_gelu(from_down(dx, grads)), grads), grads)
        dmoved += dx
        dx = dmoved
        dmoved = from_norm1(from_qkv(from_attention(from_out(dx, grads)), grads), grads)
        dmoved += dx
        return dmoved

    return moved, pullback


def _mean_product(x: Array, y: Array) -> Array:
    """mean of x y over the last axis, which stays; no array of the products"""
    return np.asarray(np.einsum("...d,...d->...", x, y)[..., None] / x.shape[-1])


def _heads(x: Array, parts: int, T: int, heads: int) -> Array:
    """x (..., N T, parts D) as views (parts, ..., N, heads, T, d), to be read and written"""
    apart = x.reshape(*x.shape[:-2], -1, T, parts, heads, x.shape[-1] // parts // heads)
    return np.moveaxis(apart, (-3, -2), (0, -3))


@dataclass(frozen=True)
class GPT:
    """p(next | all tokens before) = softmax(logits), by a transformer of `depth` blocks

    vocab    V outcomes; token 0 ends a response
    context  the longest sequence, prompt and response together, in tokens
    width    D, divided among `heads`; `hidden` is the width inside of the MLP, 4 D by default
    norm     "rms", or "layer" for LayerNorm
    tied     logits through the embedding's transpose, or through a matrix of their own

    Parameters: `token` (V, D), `position` (context, D), of block i `i.norm1.gain` (D,), `i.qkv` (D, 3 D), `i.out` (D,
    D), `i.norm2.gain` (D,), `i.up` (D, hidden), `i.down` (hidden, D), with LayerNorm a `.bias` beside each `.gain`,
    then `norm.gain` (D,) and, unless tied, `head` (D, V). Linear maps have no bias.

    Raises `ValueError` where the heads do not divide the width, on an unknown norm, on sequences beyond `context` and
    token ids beyond `vocab`.

    >>> policy = GPT(vocab=5, context=8, width=4, heads=2, depth=1)
    >>> params = policy.init(np.random.default_rng(0))
    >>> logits, pullback = policy.logits(params, np.array([[0, 1, 2]]))
    >>> logits.shape, sorted(pullback(logits)) == sorted(params)
    ((1, 3, 5), True)
    """

    vocab: int
    context: int
    width: int = 64
    heads: int = 4
    depth: int = 2
    hidden: int | None = None
    norm: str = "rms"
    tied: bool = True
    eos = 0

    def __post_init__(self) -> None:
        for name, least in (("vocab", 2), ("context", 1), ("width", 1), ("heads", 1), ("depth", 0), ("hidden", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; expected at least {least}")
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}; expected a multiple of heads, {self.heads}")
        if self.norm not in ("rms", "layer"):
            raise ValueError(f"norm is {self.norm!r}; expected 'rms' or 'layer'")

    @property
    def cells(self) -> int:
        """Numbers held for each token between forward and backward pass."""
        return self.vocab + self.depth * (8 * self.width + 3 * self._hidden + self.heads * self.context)

    def init(self, rng: np.random.Generator) -> Params:
        """Normal numbers of scale 0.02, as GPT-2: those into the residual stream divided by √(2 depth); gains 1."""
        D, F = self.width, self._hidden
        shapes = {"token": (self.vocab, D), "position": (self.context, D), **self._norm("norm")}
        for i in range(self.depth):
            shapes |= self._norm(f"{i}.norm1") | {f"{i}.qkv": (D, 3 * D), f"{i}.out": (D, D)}
            shapes |= self._norm(f"{i}.norm2") | {f"{i}.up": (D, F), f"{i}.down": (F, D)}
        if not self.tied:
            shapes["head"] = (D, self.vocab)
        params = {name: np.ones(shape) if name.endswith("gain") else np.zeros(shape) for name, shape in shapes.items()}
        for name in params:
            if params[name].ndim == 2:
                into_residual = name.endswith(("out", "down"))
                params[name] = rng.normal(0, 0.02 / sqrt(2 * self.depth) if into_residual else 0.02, shapes[name])
        return params

    def logits(self, params: Params, tokens: Array) -> tuple[Array, Callable[[Array], Params]]:
        """Logits (..., N, T, V) of tokens (N, T), those at t for the token at t + 1; and dlogits -> dparams"""
        E, P, T, flat = params["token"], params["position"], tokens.shape[-1], tokens.reshape(-1)
        self._check(tokens)
        lead = E.shape[:-2]
        x = np.take(E, flat, axis=-2).reshape(*lead, -1, T, self.width) + P[..., None, :T, :]
        x, backs = x.reshape(*lead, flat.size, self.width), []
        for i in range(self.depth):
            x, back = block(x, params, str(i), T, self.heads)
            backs.append(back)
        x, from_norm = norm(x, params, "norm")
        logits, from_head = linear(x, {"head": E.mT} if self.tied else params, "head")

        def pullback(dlogits: Array) -> Params:
            grads: Params = {}
            dx = from_norm(from_head(dlogits.reshape(*lead, flat.size, self.vocab), grads), grads)
            for back in reversed(backs):
                dx = back(dx, grads)
            dE = add_rows(dx, flat, self.vocab)
            grads["token"] = dE + grads.pop("head").mT if self.tied else dE
            grads["position"] = np.zeros(P.shape, dx.dtype)
            grads["position"][..., :T, :] = dx.reshape(*lead, -1, T, self.width).sum(axis=-3)
            return {name: grads[name] for name in params}

        return logits.reshape(*lead, *tokens.shape, self.vocab), pullback

    def _check(self, tokens: Array) -> None:
        if tokens.shape[-1] > self.context:
            raise ValueError(f"tokens has rows of {tokens.shape[-1]}; expected at most context, {self.context}")
        if tokens.max(initial=0) >= self.vocab:
            raise ValueError(f"tokens hold id {tokens.max()}; expected ids below vocab, {self.vocab}")

    @property
    def _hidden(self) -> int:
        return 4 * self.width if self.hidden is None else self.hidden

    def _norm(self, name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.{part}": (self.width,) for part in (["gain", "bias"] if self.norm == "layer" else ["gain"])}
