"""Known mistakes per token: in surrogates the clip, the KL term, the reduction; in advantages what is subtracted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..advantages import rloo_advantage
from ..losses import Loss, term
from ..scores import Score
from ..surrogates import (
    ESTIMATORS,
    REDUCTIONS,
    SURROGATES,
    clipped,
    fixed,
    of_sequence,
    old_log_ratio,
    reduced,
    ref_log_ratio,
    reinforce_token,
    weighed,
)
from .functions import FUNCTIONS, PER_TOKEN, of_group
from .seams import Case

__all__ = ["ALTERED", "of_functions", "variants"]

Array = NDArray[Any]
WIDE = np.longdouble
Told = Mapping[str, Array]
Hyper = Mapping[str, Any]


def of_functions(name: str) -> Iterator[tuple[str, str, Callable[[Told, Hyper], Any]]]:
    """What may be computed in place of an estimator or an advantage: a mistake, its name, a function"""
    if name in ESTIMATORS:
        for kind, kernel in ESTIMATORS.items():
            if kind != name:
                yield "estimator", f"it computes {kind}", partial(_estimated, kernel, 1)
            yield "estimator", f"{kind} with the ratio upside down", partial(_estimated, kernel, -1)
        return
    yield from IN_PLACE_OF_GAE if name == "gae" else IN_PLACE_OF_GROUPS
    if name != "gae":
        for eps in (1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
            yield "hyper-ignored", f"eps is {eps:g} whatever is passed", partial(_with_eps, eps)
    yield "sign-flipped", "advantages have the wrong sign", lambda told, h: -FUNCTIONS[name](**h)(told)
    yield (
        "another-loss",
        "they are whitened afterwards: less their mean, over their deviation",
        lambda told, h: _whitened(FUNCTIONS[name](**h)(told)),
    )


def _estimated(kernel: Any, sign: int, told: Told, h: Hyper) -> tuple[Array, Array]:
    value, slope = kernel(sign * (told["token_logp"] - told["ref_token_logp"]))
    return value, sign * slope


def _with_eps(eps: float, told: Told, h: Hyper) -> Array:
    return of_group(told["rewards"], h.get("ddof", 1), eps)


def _whitened(x: Array) -> Array:
    return np.asarray((x - x.mean()) / np.sqrt(x.var(ddof=1) + 1e-8))


def _centered(told: Told, axis: int | None = -1) -> Array:
    return np.asarray(told["rewards"] - told["rewards"].mean(axis=axis, keepdims=True))


def _deviation(told: Told, h: Hyper, axis: int | None = -1) -> Array:
    size = told["rewards"].size if axis is None else told["rewards"].shape[axis]
    return np.asarray(told["rewards"].std(axis=axis, keepdims=True, ddof=min(int(h.get("ddof", 1)), size - 1)))


def _eps(h: Hyper) -> float:
    return float(h.get("eps", 0.0))


IN_PLACE_OF_GROUPS: tuple[tuple[str, str, Callable[[Told, Hyper], Any]], ...] = (
    ("ddof", "the population's deviation, not the sample's (or the reverse)",
     lambda told, h: of_group(told["rewards"], 1 - h.get("ddof", 1), _eps(h))),
    ("ddof", "the sum over the others is divided by their number and one more",
     lambda told, h: told["rewards"] * (1 + 1 / told["rewards"].shape[-1])
     - told["rewards"].mean(axis=-1, keepdims=True)),
    ("another-loss", "the group's mean is subtracted and nothing divides", lambda told, h: _centered(told)),
    ("another-loss", "it is divided by the deviation", lambda told, h: of_group(told["rewards"])),
    ("another-loss", "the mean of the others is subtracted", lambda told, h: rloo_advantage(told["rewards"])),
    ("hyper-ignored", "eps is ignored", lambda told, h: of_group(told["rewards"], h.get("ddof", 1), 0.0)),
    ("hyper-misread", "eps is added to the variance, inside the root",
     lambda told, h: _centered(told) / np.sqrt(_deviation(told, h) ** 2 + _eps(h))),
    ("hyper-misread", "eps is the least deviation, not added to it",
     lambda told, h: _centered(told) / np.maximum(_deviation(told, h), _eps(h))),
    ("hyper-misread", "divided by the variance, not its root",
     lambda told, h: _centered(told) / (_deviation(told, h) ** 2 + _eps(h))),
    ("batch-coupled", "mean and deviation of the whole batch",
     lambda told, h: _centered(told, None) / (_deviation(told, h, None) + _eps(h))),
    ("batch-coupled", "the deviation is the whole batch's",
     lambda told, h: _centered(told) / (_deviation(told, h, None) + _eps(h))),
    ("batch-coupled", "the mean is the whole batch's", lambda told, h: _centered(told, None)),
    ("batch-coupled", "the mean is the whole batch's, the deviation the group's",
     lambda told, h: _centered(told, None) / (_deviation(told, h) + _eps(h))),
    ("batch-coupled", "the baseline is the mean of all the others in the batch",
     lambda told, h: _centered(told, None) * told["rewards"].size / (told["rewards"].size - 1)),
    ("broadcast", "the statistics run across groups, not within them",
     lambda told, h: _centered(told, 0) / (_deviation(told, h, 0) + _eps(h))),
    ("broadcast", "the mean runs across groups, not within them", lambda told, h: _centered(told, 0)),
)


def _carried(told: Told, gamma: float, rate: float, beyond: float | None = 0.0) -> Array:
    """GAE with another rate, or another value after the end: `beyond` times the last; None: each token's own"""
    r, v = told["rewards"], told["values"]
    after = v if beyond is None else np.concatenate([v[:, 1:], beyond * v[:, -1:]], axis=1)
    delta, ahead, found = r + gamma * after - v, np.zeros(len(r), WIDE), np.zeros_like(r)
    for t in range(r.shape[1] - 1, -1, -1):
        ahead = delta[:, t] + rate * ahead
        found[:, t] = ahead
    return found


def _backwards(told: Told, h: Hyper) -> Array:
    """GAE whose sum runs over what came before"""
    r, v = told["rewards"], told["values"]
    delta, behind, found = r - v, np.zeros(len(r), WIDE), np.zeros_like(r)
    delta[:, :-1] += h["gamma"] * v[:, 1:]
    for t in range(r.shape[1]):
        behind = delta[:, t] + h["gamma"] * h["lam"] * behind
        found[:, t] = behind
    return found


def _without_last(told: Told, h: Hyper) -> Array:
    before = {"rewards": told["rewards"][:, :-1], "values": told["values"][:, :-1]}
    before["rewards"] = before["rewards"].copy()
    before["rewards"][:, -1] += h["gamma"] * told["values"][:, -1]
    found = _carried(before, h["gamma"], h["gamma"] * h["lam"])
    return np.concatenate([found, 0 * told["rewards"][:, -1:]], axis=1)


IN_PLACE_OF_GAE: tuple[tuple[str, str, Callable[[Told, Hyper], Any]], ...] = (
    ("hyper-ignored", "lam is ignored: 1 in its place", lambda told, h: _carried(told, h["gamma"], h["gamma"])),
    ("hyper-ignored", "lam is ignored: 0 in its place", lambda told, h: _carried(told, h["gamma"], 0.0)),
    ("hyper-ignored", "gamma is ignored: 1 in its place", lambda told, h: _carried(told, 1.0, h["lam"])),
    ("hyper-misread", "gamma and lam are exchanged",
     lambda told, h: _carried(told, h["lam"], h["gamma"] * h["lam"])),
    ("hyper-misread", "errors are carried on by lam alone, not gamma lam",
     lambda told, h: _carried(told, h["gamma"], h["lam"])),
    ("hyper-misread", "the next value is not multiplied by gamma",
     lambda told, h: _carried(told, 1.0, h["gamma"] * h["lam"])),
    ("padding-counted", "the last value is carried past the end",
     lambda told, h: _carried(told, h["gamma"], h["gamma"] * h["lam"], 1.0)),
    ("shift-off-by-one", "the value of the token itself is taken for that of the next",
     lambda told, h: _carried(told, h["gamma"], h["gamma"] * h["lam"], None)),
    ("shift-off-by-one", "the sum runs over the tokens before, not after", _backwards),
    ("last-token-dropped", "the last token has no advantage, and its error is not carried back", _without_last),
    ("another-loss", "it returns the returns, advantages plus values",
     lambda told, h: _carried(told, h["gamma"], h["gamma"] * h["lam"]) + told["values"]),
)


# ---- surrogates, and what may stand in their place


def _after(mask: Array) -> Array:
    return np.concatenate([mask[..., 1:], mask[..., :1] & False], axis=-1)


#: mistakes in what is told: name, in words, and what is told in its place
ALTERED: tuple[tuple[str, str, Callable[[Told], dict[str, Array]]], ...] = (
    (
        "reference-ignored",
        "the policy that sampled is ignored: every ratio is 1",
        lambda told: {"old_token_logp": told["token_logp"]},
    ),
    (
        "estimator",
        "the ratio is upside down",
        lambda told: {"old_token_logp": 2 * told["token_logp"] - told["old_token_logp"]},
    ),
    ("sign-flipped", "advantages have the wrong sign", lambda told: {"advantage": -told["advantage"]}),
    (
        "another-loss",
        "advantages are whitened in the batch",
        lambda told: {"advantage": _whitened(told["advantage"])},
    ),
    (
        "broadcast",
        "every response is weighed by every advantage",
        lambda told: {"advantage": np.full_like(told["advantage"], told["advantage"].mean())},
    ),
    ("padding-counted", "the mask is ignored", lambda told: {"mask": np.ones_like(told["mask"])}),
    (
        "eos-masked",
        "the last token of each response is dropped",
        lambda told: {"mask": told["mask"] & _after(told["mask"])},
    ),
    (
        "shift-off-by-one",
        "the first token of each response is dropped",
        lambda told: {"mask": told["mask"] & (np.arange(told["mask"].shape[-1]) > 0)},
    ),
)


def variants(name: str) -> Iterator[tuple[str, str, Callable[[Case], Loss]]]:
    """One thing changed: the kernel, the KL term, or the reduction"""
    for mistake, says, kernel in CLIPS:
        yield mistake, says, partial(_built, name, kernel=kernel)
    for reduction, says in _REDUCED.items():
        yield (
            "length-with-padding" if reduction == "padded" else "reduction",
            f"tokens are averaged otherwise: {says}",
            partial(_built, name, reduction=reduction),
        )
    if name in ("grpo", "bnpo"):
        for mistake, says, kl in KL_TERMS:
            yield mistake, says, partial(_built, name, kl=kl)
        for reduction, says in _REDUCED.items():
            otherwise = f"the KL term is averaged otherwise: {says}"
            yield "reduction", otherwise, partial(_built, name, kl_reduction=reduction)
    if name == "cispo":
        for mistake, says, kernel in WEIGHTS:
            yield mistake, says, partial(_built, name, kernel=kernel)
    if name == "gspo":
        yield "another-loss", "the ratio is each token's, not the response's", partial(_built, name, sequence=False)
        yield (
            "sum-for-mean",
            "the response's ratio is the product over tokens, not their geometric mean",
            partial(_built, name, product=True),
        )
    elif name != "reinforce":
        yield "another-loss", "the ratio is the response's, not each token's", partial(_built, name, sequence=True)
    for power in (4, 5, 6, 8, 10, 12):
        yield (
            "reduction",
            f"1e-{power} is added to the number of tokens that divides",
            partial(_built, name, reduction=f"1e-{power}"),
        )
    for other in PER_TOKEN:
        if other != name:
            yield "another-loss", f"it computes {other}", partial(_of_name, other)


def _of_name(other: str, case: Case) -> Loss:
    takes = inspect.signature(SURROGATES[other]).parameters
    return SURROGATES[other](**{key: x for key, x in case.hyper.items() if key in takes})


_REDUCED = {
    "sequence_mean": "over each response, then over responses",
    "sequence_sum": "not at all: a sum over tokens, a mean over responses",
    "tokens": "over all tokens of the batch",
    "padded": "over the width of the batch, padding included",
    "fixed": "over max_length",
    "batch sum": "not at all: a sum over the batch",
    "responses": "a sum over responses of their means",
}
KL_TERMS = (
    ("hyper-ignored", "the KL term is missing", "none"),
    ("sign-flipped", "the KL term has the wrong sign", "minus"),
    ("estimator", "the KL term is k1", "k1"),
    ("estimator", "the KL term is k2", "k2"),
    ("estimator", "k3 has its ratio upside down", "inverted"),
    ("reference-ignored", "the KL is taken from the policy that sampled", "old"),
    ("hyper-ignored", "beta is missing: the KL term counts in full", "full"),
    ("another-loss", "the KL term is multiplied by the ratio", "weighted"),
    ("detach-misplaced", "the KL term is in the value, and has no gradient", "detached"),
)


def _times(d: Array, factor: Array) -> tuple[Array, Array]:
    value = np.exp(d) * factor
    return value, value


def _no_minimum(d: Array, A: Array, low: float, high: float) -> tuple[Array, Array]:
    ratio = np.exp(d)
    held = (ratio < 1 - low) | (ratio > 1 + high)
    return -np.clip(ratio, 1 - low, 1 + high) * A, np.where(held, 0, -ratio * A)


def _maximum(d: Array, A: Array, low: float, high: float) -> tuple[Array, Array]:
    ratio = np.exp(d)
    kept = np.clip(ratio, 1 - low, 1 + high)
    held = (kept != ratio) & (kept * A > ratio * A)
    return -np.maximum(ratio * A, kept * A), np.where(held, 0, -ratio * A)


def _held(limit: Callable[[Array, float, float], Array]) -> Any:
    """CISPO with another limit on its ratio"""

    def kernel(logp: Array, old: Array, A: Array, low: float, high: float) -> tuple[Array, Array]:
        weight = limit(np.exp(logp - old), low, high)
        return -weight * A * logp, -weight * A

    return kernel


def _weight_trained(logp: Array, old: Array, A: Array, low: float, high: float) -> tuple[Array, Array]:
    ratio = np.exp(logp - old)
    kept = np.clip(ratio, 1 - low, 1 + high)
    return -kept * A * logp, -kept * A - np.where(kept == ratio, ratio * A * logp, 0)


def _least_ratio(d: Array, A: Array, low: float, high: float) -> tuple[Array, Array]:
    """The least of the ratio and its clip, whatever the advantage's sign"""
    ratio = np.exp(d)
    kept = np.clip(ratio, 1 - low, 1 + high)
    return -np.minimum(ratio, kept) * A, np.where(ratio <= kept, -ratio * A, 0)


def _detached(d: Array, A: Array, low: float, high: float) -> tuple[Array, Array]:
    value, slope = clipped(d, A, low, high)
    return value, 0 * slope


CLIPS: tuple[tuple[str, str, Any], ...] = (
    ("clip-side", "ratios are not clipped", lambda d, A, low, high: _times(d, -A)),
    ("clip-side", "ratios are clipped and no minimum is taken", _no_minimum),
    ("clip-side", "the maximum where the minimum should be", _maximum),
    ("clip-side", "ratios are clipped from above only", lambda d, A, low, high: clipped(d, A, 0.999999999, high)),
    ("clip-side", "ratios are clipped from below only", lambda d, A, low, high: clipped(d, A, low, 1e9)),
    ("hyper-ignored", "the lower bound's width is used on both sides", lambda d, A, low, high: clipped(d, A, low, low)),
    (
        "hyper-ignored",
        "the upper bound's width is used on both sides",
        lambda d, A, low, high: clipped(d, A, min(high, 0.999), high),
    ),
    ("clip-side", "the least of ratio and clip is taken before the advantage multiplies them", _least_ratio),
    (
        "clip-side",
        "the logarithm of the ratio is clipped",
        lambda d, A, low, high: clipped(d, A, -np.expm1(-low), np.expm1(high)),
    ),
    ("detach-misplaced", "the ratio is detached", _detached),
    ("another-loss", "it is REINFORCE: no ratio at all", lambda d, A, low, high: _times(0 * d, -A)),
)


WEIGHTS: tuple[tuple[str, str, Any], ...] = (
    ("detach-missing", "the clipped ratio is differentiated too", _weight_trained),
    ("clip-side", "the ratio is not clipped", _held(lambda ratio, low, high: ratio)),
    ("clip-side", "the ratio is clipped from above only", _held(lambda ratio, low, high: np.minimum(ratio, 1 + high))),
    ("clip-side", "the ratio is clipped from below only", _held(lambda ratio, low, high: np.maximum(ratio, 1 - low))),
    (
        "hyper-misread",
        "eps_high is the ratio's ceiling itself, not 1 + eps_high",
        _held(lambda ratio, low, high: np.minimum(ratio, high)),
    ),
    ("hyper-ignored", "the lower width is used on both sides",
     _held(lambda ratio, low, high: np.clip(ratio, 1 - low, 1 + low))),
    ("hyper-ignored", "the upper width is used on both sides",
     _held(lambda ratio, low, high: np.clip(ratio, 1 - high, 1 + high))),
    ("another-loss", "it is REINFORCE: no ratio at all", _held(lambda ratio, low, high: np.ones_like(ratio))),
)


def _weights(which: str, max_length: float) -> Any:
    if which in REDUCTIONS:
        return REDUCTIONS[which]
    return {
        "padded": lambda mask, w: mask / WIDE(mask.shape[-1]),
        "fixed": fixed(max_length),
        "batch sum": lambda mask, w: mask * WIDE(mask.shape[-3]),
        "responses": lambda mask, w: REDUCTIONS["sequence_mean"](mask, w) * mask.shape[-3],
    }[which]


def _more(weights: Any, eps: float, whole: bool) -> Any:
    """A mean with ε beside the count"""

    def shares(mask: Array, w: Array) -> Array:
        count = mask.sum(axis=(-3, -2, -1) if whole else (-2, -1), keepdims=True)
        return np.asarray(weights(mask, w) * (count / (count + WIDE(eps))))

    return shares


def _built(
    name: str,
    case: Case,
    kernel: Any = clipped,
    reduction: str = "",
    kl: str = "",
    kl_reduction: str = "",
    sequence: bool | None = None,
    product: bool = False,
) -> Loss:
    """The family once more, with something changed"""
    h = case.hyper
    low = float(h.get("eps", h.get("eps_low", 0.2)))
    high = float(h.get("eps_high") or h.get("eps", 0.28))
    usual_reduction = {
        "grpo": "sequence_mean",
        "gspo": "sequence_mean",
        "dr_grpo": "fixed",
        "reinforce": "sequence_sum",
    }
    usual = h.get("reduction") or usual_reduction.get(name, "tokens")
    if reduction.startswith("1e-"):
        weights = _more(REDUCTIONS[usual], float(reduction), whole=usual == "tokens")
    else:
        weights = _weights(reduction or usual, h.get("max_length", 1024.0))
    if name == "reinforce":
        return term(name, _LOGP, reduced(weights, reinforce_token, "advantage"))
    if name == "cispo":
        if kernel in [one for _, _, one in CLIPS]:
            raise ValueError("a clip of another surrogate")
        weight = weighed if kernel is clipped else kernel
        return term(name, _LOGP, reduced(weights, weight, "old_token_logp", "advantage", low=low, high=high))
    whole = name == "gspo" if sequence is None else sequence
    score = _product() if product else of_sequence(old_log_ratio) if whole else old_log_ratio
    if product:
        weights = REDUCTIONS["sequence_mean"]
    loss = term(name, score, reduced(weights, kernel, "advantage", low=low, high=high))
    beta = float(h.get("beta", 0.0))
    if kl == "none" or (not beta and not kl):
        return loss
    estimator = h.get("estimator", "k3")
    ratio = ref_log_ratio if kl != "old" else old_log_ratio
    kernel_of: Any = ESTIMATORS.get(kl, ESTIMATORS[estimator])
    kernel_of = {"inverted": _inverted, "detached": _still}.get(kl, kernel_of)
    coefficient = {"minus": -beta, "full": 1.0}.get(kl, beta)
    if kl_reduction:
        weights = _weights(kl_reduction, h.get("max_length", 1024.0))
    if kl == "weighted":
        return loss + beta * term("kl", _LOGP, reduced(weights, _k3_of_ratio, "old_token_logp", "ref_token_logp"))
    return loss + coefficient * term("kl", ratio, reduced(weights, kernel_of))


def _still(d: Array) -> tuple[Array, Array]:
    value, slope = ESTIMATORS["k3"](d)
    return value, 0 * slope


def _k3_of_ratio(logp: Array, old: Array, ref: Array) -> tuple[Array, Array]:
    value, slope = ESTIMATORS["k3"](logp - ref)
    ratio = np.exp(logp - old)
    return ratio * value, ratio * (value + slope)


def _inverted(d: Array) -> tuple[Array, Array]:
    value, slope = ESTIMATORS["k3"](-d)
    return value, -slope


def _product() -> Score:
    def fn(x: Any, facts: Any) -> Any:
        s, back = old_log_ratio.fn(x, facts)
        mask = facts["mask"]
        return np.broadcast_to(s.sum(axis=-1, keepdims=True), s.shape), lambda ds: back(
            mask * ds.sum(axis=-1, keepdims=True)
        )

    return Score(fn, old_log_ratio.reads, old_log_ratio.needs)


_LOGP = SURROGATES["reinforce"]().terms[0].score
