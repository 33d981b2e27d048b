"""12: a loss that holds at large margins, and log-probs of the right tokens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...losses import LOSSES
from ...readings import sequence_logp
from ..exercises import Exercise

__all__ = ["EXERCISES"]

Array = NDArray[Any]

PAIRS = [(-2.1, -4.5, -3.0, -3.2, 0.1), (-2.0, -402.0, -1.0, -1.0, 0.1), (-2000.0, -1.0, -1.0, -1.0, 0.5)]


def stable_loss(pc: float, pr: float, rc: float, rr: float, beta: float) -> float:
    m = beta * ((pc - rc) - (pr - rr))
    # log(1 + e^-m), with the larger of 1 and e^-m taken out
    return max(0.0, -m) + math.log1p(math.exp(-abs(m)))


def _loss(pc: float, pr: float, rc: float, rr: float, beta: float) -> Any:
    return LOSSES["dpo"](beta)([[pc, pr]], [[rc, rr]])[0][0]


def _of_margin(link: Any) -> Any:
    def of(pc: float, pr: float, rc: float, rr: float, beta: float) -> float:
        with np.errstate(over="ignore", divide="ignore"):
            return float(link(np.float64(beta * ((pc - rc) - (pr - rr)))))

    return of


def logp(logits: np.ndarray, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    x, target, counted = logits[:, :-1], tokens[:, 1:], mask[:, 1:]
    x = x - x.max(axis=-1, keepdims=True)
    x = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    each = np.take_along_axis(x, target[..., None], axis=-1)[..., 0]
    total: np.ndarray = (each * counted).sum(axis=-1)
    return total


def _logp(logits: Array, tokens: Array, mask: Array) -> Any:
    return sequence_logp(logits, tokens, mask.astype(bool))[0]


def _read(logits: Array, target: Array, counted: Array) -> Array:
    x = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    total: Array = (np.take_along_axis(x, target[..., None], axis=-1)[..., 0] * counted).sum(axis=-1)
    return total


def _rows() -> list[tuple[Array, Array, Array]]:
    rng = np.random.default_rng(12)
    masks = np.array([[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0]]), np.array([[0, 0, 0, 1, 1]])
    return [(rng.normal(size=(*mask.shape, 4)).round(3), rng.integers(0, 4, size=mask.shape), mask) for mask in masks]


EXERCISES = (
    Exercise(
        "verify_stable_loss",
        "This overflows: np.log(1 + np.exp(-m)), m = beta * ((pc - rc) - (pr - rr)).\n"
        "Write loss(pc, pr, rc, rr, beta), of numbers, that is right at m = -1000 and at m = 40 too, to 6 digits.",
        "Which of the two terms of log(1 + e^-m) is the larger depends on the sign of m: take that one out.",
        _loss, stable_loss,
        {"e^-m overflows where m is far below 0, and 1 + e^-m is 1 where it is far above": _of_margin(
            lambda m: np.log(1 + np.exp(-m))),
         "log1p saves the small losses; e^-m still overflows where m is far below 0": _of_margin(
             lambda m: np.log1p(np.exp(-m))),
         "1e-8 within the logarithm: a ceiling of 18.4 on the loss, without a gradient, just where it matters":
             _of_margin(lambda m: -np.log(1e-8 + 1 / (1 + np.exp(-m)))),
         "a clamp on the exponent: beyond it the loss is flat, and has no gradient": _of_margin(
             lambda m: np.log1p(np.exp(np.minimum(-m, 50)))),
         "right where m is below 0; far above, -m + log(1 + e^m) is a difference of equals, and 0": _of_margin(
             lambda m: -m + np.logaddexp(0, m)),
         "the sign is turned: chosen and rejected are exchanged": _of_margin(lambda m: np.logaddexp(0, m))},
        PAIRS,
    ),
    Exercise(
        "verify_sequence_logp",
        "Write logp(logits, tokens, mask): logits (B, T, V), tokens (B, T), mask (B, T), 1 on response tokens. Return "
        "log π(y|x) of each row (B,), in nats.",
        "logits[:, t] are of tokens[:, t + 1]. Slice all three accordingly, and normalize logits before you look up.",
        _logp, logp,
        {"the logits at t are asked for the token at t: they predict the one at t + 1":
             lambda logits, tokens, mask: _read(logits, tokens, mask),
         "tokens are shifted and the mask is not: it has to be sliced as the tokens are, mask[:, 1:]":
             lambda logits, tokens, mask: _read(logits[:, :-1], tokens[:, 1:], mask[:, :-1]),
         "prompt and padding count too: multiply by the mask": lambda logits, tokens, mask: _read(
             logits[:, :-1], tokens[:, 1:], np.ones_like(mask[:, 1:])),
         "that is the mean over tokens; log π(y|x) is the sum": lambda logits, tokens, mask: _read(
             logits[:, :-1], tokens[:, 1:], mask[:, 1:]) / mask[:, 1:].sum(axis=-1),
         "that is -log π(y|x), a loss: log-probs are below 0": lambda logits, tokens, mask: -_read(
             logits[:, :-1], tokens[:, 1:], mask[:, 1:]),
         "logits are normalized over the tokens of the vocabulary, the last axis, not over positions":
             lambda logits, tokens, mask: (np.take_along_axis((logits - np.log(np.exp(logits).sum(
                 axis=1, keepdims=True)))[:, :-1], tokens[:, 1:, None], axis=-1)[..., 0] * mask[:, 1:]).sum(axis=-1),
         "those are logits: subtract log Σ e^logit first": lambda logits, tokens, mask: (np.take_along_axis(
             logits[:, :-1], tokens[:, 1:, None], axis=-1)[..., 0] * mask[:, 1:]).sum(axis=-1)},
        _rows(),
    ),
)
