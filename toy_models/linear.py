"""Log-linear in features: the policy in which responses share what is learned, and may share too little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._scatter import add_rows

__all__ = ["LogLinear"]

Array = NDArray[Any]
Params = dict[str, Array]


@dataclass(frozen=True, eq=False)
class LogLinear:
    """π(y|x) = b(x, y) e^{θ·φ(x, y)} / Z(x),   ∂ log π(y|x)/∂θ = φ(x, y) - E_π φ(x, ·)

    Responses are single tokens, 0 to K - 1, and tokens are rows [x, y]. Parameters: `theta` (d,).

    features  φ (prompts, K, d); (K, d) where there is one prompt
    base      log b (prompts, K), up to a constant a prompt: the policy at θ = 0, by default uniform; -inf marks a
              response that a prompt does not have

    One-hot features make it `Tabular`; fewer than K - 1 leave most policies, and most often π*, out of reach.

    Raises `ValueError` on shapes that do not fit, features that are not finite, a base without mass, and a prompt id
    outside of the features.

    >>> policy = LogLinear([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> logits, pullback = policy.logits({"theta": np.array([2.0, 3.0])}, np.array([[0, 1]]))
    >>> logits[0, 0].tolist(), pullback(np.ones((1, 2, 3)) * [[[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])["theta"].tolist()
    ([2.0, 3.0, 5.0], [0.0, 1.0])
    """

    features: ArrayLike
    base: ArrayLike | None = None
    eos = None

    def __post_init__(self) -> None:
        features = np.asarray(self.features, float)
        features = features[None] if features.ndim == 2 else features
        if features.ndim != 3 or features.shape[1] < 2 or not features.size:
            raise ValueError(f"features has shape {features.shape}; expected (prompts, K, d) with K at least 2")
        if not np.isfinite(features).all():
            at = [int(i) for i in np.argwhere(~np.isfinite(features))[0]]
            raise ValueError(f"features is {features[tuple(at)]} at {at}; expected finite numbers")
        base = np.zeros(features.shape[:2]) if self.base is None else np.asarray(self.base, float)
        if base.shape != features.shape[:2]:
            raise ValueError(f"base has shape {base.shape}; expected {features.shape[:2]}, one for each response")
        if np.isnan(base).any() or (base == np.inf).any() or np.isneginf(base).all(axis=1).any():
            raise ValueError("base has a NaN, an infinity or a prompt without mass; expected log-probs, or -inf")
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "base", base)

    @property
    def vocab(self) -> int:
        """K, responses a prompt"""
        return int(np.shape(self.features)[1])

    @property
    def prompts(self) -> int:
        """How many prompts have features"""
        return len(np.asarray(self.features))

    def init(self, rng: np.random.Generator) -> Params:
        """`theta` of normal numbers of scale 1"""
        return {"theta": rng.normal(size=np.shape(self.features)[2:])}

    def logits(self, params: Params, tokens: Array) -> tuple[Array, Callable[[Array], Params]]:
        """log b + θ·φ at each position of tokens (N, 2), (..., N, 2, K); and dlogits -> dparams"""
        theta, prompt = params["theta"], tokens[..., 0]
        if prompt.max(initial=0) >= self.prompts:
            raise ValueError(f"tokens hold prompt {prompt.max()}; expected ids below {self.prompts}, as features has")
        features, base = (np.asarray(given, theta.real.dtype) for given in (self.features, self.base))
        rows = np.take(base + np.einsum("xkd,...d->...xk", features, theta), prompt, axis=-2)

        def pullback(dlogits: Array) -> Params:
            each = dlogits.sum(axis=-2).reshape(*theta.shape[:-1], -1, self.vocab)
            return {"theta": np.einsum("xkd,...xk->...d", features, add_rows(each, prompt.reshape(-1), self.prompts))}

        return np.broadcast_to(rows[..., None, :], (*rows.shape[:-1], tokens.shape[-1], self.vocab)), pullback
