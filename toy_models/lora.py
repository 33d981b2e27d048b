"""Low-rank adapters over any policy's matrices: train a few numbers, and find the reference by switching them off."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpo_numpy.policy import Policy
from dpo_numpy.preferences import Responses
from dpo_numpy.readings import READINGS

__all__ = ["LoRA"]

Array = NDArray[Any]
Params = dict[str, Array]
Pullback = Callable[[Array], Params]


class LoRA:
    """W' = W + (α/r) A B,   dA = (α/r) dW' Bᵀ,   dB = (α/r) Aᵀ dW',   for matrices W of a policy that stays frozen

    Hu et al. 2021, arXiv:2106.09685, section 4.1, transposed (x W and not W x): A (in, r) is normal of variance 1/in at
    the start, B (r, out) is 0, so that training starts from the frozen policy. That policy, adapters off, is the
    reference: `.with_reference(lora, lora.off(params))`, or `.with_reference(policy, frozen)`.

    policy   any policy; what it can do faster (`logp` from counts) it still does
    frozen   its parameters, which no gradient reaches
    rank     r, at least 1; `alpha` is r unless told, so that the factor is 1
    targets  the names to adapt, by default every matrix of `frozen`

    Parameters: `NAME.A` and `NAME.B` for each target.

    Raises `ValueError` on a rank below 1, an α that is not above 0, and a target that is no matrix of `frozen`.

    >>> from toy_models import NGram
    >>> lora = LoRA(NGram(vocab=3), {"W": np.zeros((3, 3))}, rank=1)
    >>> params = lora.init(np.random.default_rng(0))
    >>> {name: p.shape for name, p in params.items()}, lora.merge(params)["W"].any()
    ({'W.A': (3, 1), 'W.B': (1, 3)}, np.False_)
    """

    def __init__(self, policy: Policy, frozen: Params, rank: int, alpha: float | None = None,
                 targets: Iterable[str] | None = None) -> None:
        matrices = [name for name, p in frozen.items() if p.ndim == 2]
        chosen = matrices if targets is None else list(targets)
        for name in chosen:
            if name not in matrices:
                raise ValueError(f"targets names {name!r}; expected matrices of frozen: {', '.join(matrices)}")
        if not chosen:
            raise ValueError(f"targets is empty; expected matrices of frozen: {', '.join(matrices) or 'it has none'}")
        if rank < 1:
            raise ValueError(f"rank is {rank}; expected at least 1")
        if alpha is not None and not 0 < alpha < np.inf:
            raise ValueError(f"alpha is {alpha}; expected a finite number above 0")
        self.policy, self.targets, self.rank = policy, tuple(chosen), rank
        self.frozen = {name: np.array(p) for name, p in frozen.items()}
        self.scale = 1.0 if alpha is None else alpha / rank
        for name in READINGS:
            if hasattr(policy, name):
                setattr(self, name, partial(self._offered, name))
        if hasattr(policy, "next_logits"):
            self.next_logits = lambda params, tokens, length: policy.next_logits(self.merge(params), tokens, length)

    @property
    def vocab(self) -> int:
        """That of the policy underneath"""
        return self.policy.vocab

    @property
    def eos(self) -> int | None:
        """That of the policy underneath"""
        return self.policy.eos

    @property
    def cells(self) -> int:
        """Numbers held for each token between forward and backward pass, as the policy underneath holds them"""
        return getattr(self.policy, "cells", self.vocab)

    def init(self, rng: np.random.Generator) -> Params:
        """A normal of variance 1/in, and B = 0: the frozen policy"""
        params = {}
        for name in self.targets:
            W = self.frozen[name]
            params[f"{name}.A"] = (rng.normal(size=(len(W), self.rank)) / np.sqrt(len(W))).astype(W.dtype)
            params[f"{name}.B"] = np.zeros((self.rank, W.shape[1]), W.dtype)
        return params

    def off(self, params: Params) -> Params:
        """The same A, and B = 0: the frozen policy, as parameters of this one."""
        return {name: np.zeros_like(p) if name.endswith(".B") else p for name, p in params.items()}

    def merge(self, params: Params) -> Params:
        """Parameters of the policy underneath, W + (α/r) A B in the place of each target W."""
        lead = np.shape(params[f"{self.targets[0]}.A"])[:-2]
        dtype = params[f"{self.targets[0]}.A"].dtype
        frozen = {name: p.astype(dtype, copy=False) for name, p in self.frozen.items()}
        merged = {name: np.broadcast_to(p, (*lead, *p.shape)) for name, p in frozen.items()}
        for name in self.targets:
            merged[name] = merged[name] + self.scale * (params[f"{name}.A"] @ params[f"{name}.B"])
        return merged

    def logits(self, params: Params, tokens: Array) -> tuple[Array, Pullback]:
        """Those of the policy underneath with W + (α/r) A B for W; and dlogits -> dA, dB"""
        value, pullback = self.policy.logits(self.merge(params), tokens)
        return value, lambda dlogits: self._adapters(params, pullback(dlogits))

    def _offered(self, name: str, params: Params, responses: Responses, rows: Array) -> tuple[Array, Pullback]:
        value, pullback = getattr(self.policy, name)(self.merge(params), responses, rows)
        return value, lambda dvalue: self._adapters(params, pullback(dvalue))

    def _adapters(self, params: Params, grads: Params) -> Params:
        found = {}
        for name in self.targets:
            A, B, dW = params[f"{name}.A"], params[f"{name}.B"], self.scale * grads[name]
            found[f"{name}.A"], found[f"{name}.B"] = dW @ B.mT, A.mT @ dW
        return found
