"""What a failure looks like tells where it comes from: infinities from a margin on, a ceiling, NaN in gradients only.

For mistakes of arithmetic, which leave the ordinary numbers right. `of_rows` looks at the failing cases of a test of
margins; `lost_digits` at errors everywhere, of the size of another dtype's rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..losses import LOSSES, Loss
from .exact import call
from .frameworks import DTYPES
from .judging import side_by_side, verdicts
from .seams import Evidence, Line, Question

__all__ = ["lost_digits", "of_rows"]

Array = NDArray[Any]
Found = tuple[str, str] | None
#: -log σ(z) of one z
LOGISTIC = ("dpo", "cdpo", "rdpo", "simpo", "cpo", "ln_dpo", "r_dpo", "tdpo1", "tdpo2", "rpo", "wpo", "odpo",
            "beta_dpo", "aot", "aot_unpaired", "bt_rm", "dpop", "bco", "bco_unpaired", "nca")
NUMPY = {"float64": np.float64, "float32": np.float32, "float16": np.float16}


def lost_digits(question: Question, evidence: list[Evidence]) -> Found:
    """Errors of ordinary numbers, values and slopes alike, that are the rounding of a lower dtype"""
    worst = 0.0
    for _, got, right in evidence:
        for theirs, exact, size in side_by_side(got, right):
            with np.errstate(all="ignore"):
                off = abs(theirs - exact) / np.maximum(abs(exact), np.asarray(size) + 0 * exact)
            worst = max(worst, float(np.nan_to_num(off, nan=np.inf).max(initial=0)))
    for name in ("float32", "bfloat16", "float16"):
        lower = DTYPES[name]
        if lower.digits < question.dtype.digits and lower.eps / 256 < worst < 4 * lower.eps:
            return "downcast", f"computed in {name}, or rounded to it on the way"
    return None


def of_rows(question: Question, line: Line, seen: dict[str, list[Evidence]]) -> Found:
    """What the failing rows of a test have in common"""
    evidence = seen.get(line.test, [])
    bad_values, infinite, nan, gradient_nan, near_zero = [], False, False, False, line.test.startswith("log-probs ")
    for _, got, right in evidence:
        found = verdicts(question, got, right)
        off = np.atleast_1d(found["value"].fails)
        infinite |= bool(np.isinf(np.atleast_1d(got.value)[off]).any())
        nan |= bool(np.isnan(np.atleast_1d(got.value)[off]).any())
        bad_values.append(off)
        for name, grad in (got.grads or {}).items():
            if name in found and not off.any():
                gradient_nan |= bool((~np.isfinite(grad) & found[name].fails).any())
    any_value = any(off.any() for off in bad_values)
    if line.test == "the mean over the batch":
        return lost_digits(question, seen.get("ordinary", [])) or _of_mean(question, evidence)
    ceiling = _ceiling(question, [one for ones in seen.values() for one in ones])
    if gradient_nan and not any_value:
        return "where-nan", "the value is right and its gradient NaN: a branch that is not taken overflows (0 · inf)"
    if near_zero and any_value and "orpo" in question.name:
        return "log-1-minus-exp", "1 - exp(x) has no digits next to x = 0: use log1mexp, -expm1(x)"
    if near_zero and any_value and "alphapo" in question.name:
        return "log-1-minus-exp", "1 - exp(x) has no digits next to x = 0: use expm1"
    if ceiling is not None and question.name not in LOGISTIC:
        return "clip-side", f"values stop at {ceiling:.4g}: they are clamped"
    if ceiling is not None:
        return (
            "epsilon-in-log",
            f"values stop at {ceiling:.4g}: {np.exp(-ceiling):.2g} is added inside a logarithm, or clamped",
        )
    if infinite or nan:
        if near_zero:
            return "log-1-minus-exp", "log(1 - exp(x)) where x is next to 0"
        return _which_naive(question, seen)
    if question.dtype.name == "float64" and _softplus(evidence):
        return "threshold", "e^-z is dropped from |z| = 20 on, as torch's softplus does: use logsigmoid"
    return lost_digits(question, seen.get("ordinary", []))


def _softplus(evidence: list[Evidence]) -> bool:
    """Do slopes go wrong beyond a margin of 20 only, and by no more than e^-20?"""
    margins: list[float] = []
    for case, got, right in evidence:
        for name, grad in (got.grads or {}).items():
            if case.margin is None or name not in right.grads:
                return False
            exact = right.grads[name]
            with np.errstate(invalid="ignore"):
                off = np.nan_to_num(abs(grad - exact).max(axis=-1) / abs(exact).max(), nan=1.0)
            margins += [0.0] if off.max() > 1e-7 else list(abs(case.margin)[off > 1e-13])
    return bool(margins) and min(margins) > 18


def _of_mean(question: Question, evidence: list[Evidence]) -> Found:
    case, got, right = evidence[0]
    B = max(map(len, (x for x in case.told.values() if x.ndim > 1)))
    if np.allclose(float(got.value.mean()), B * float(right.value.mean()), rtol=1e-2):
        return "sum-for-mean", "sums over the batch where it should average"
    for mixed, across in _crossed(LOSSES[question.name](**case.hyper), case.told, B):
        square = float(call(LOSSES[question.name](**case.hyper), mixed)[0].mean())
        if abs(float(got.value.mean()) - square) <= 1e-2 * abs(square - float(right.value.mean())):
            return "broadcast", f"a row and a column are broadcast to (B, B): {across} of each row with all others"
    return "reduction", "the loss of a batch is not the mean of its rows' losses"


def _crossed(loss: Loss, told: Mapping[str, Array], B: int) -> Iterator[tuple[dict[str, Array], str]]:
    """B² rows, some of the columns of i, the others of j: all ways to split the columns in two"""
    i, j = (x.ravel() for x in np.indices((B, B)))
    columns = [
        (name, k)
        for name in (*loss.reads, *loss.needs)
        if name in told and told[name].shape[:1] == (B,)
        for k in (range(told[name].shape[1]) if told[name].ndim > 1 else (None,))
    ]
    for size in range(1, len(columns) // 2 + 1):
        for some in combinations(columns, size):
            mixed = dict(told)
            for name in {name for name, _ in columns}:
                x = told[name][i].copy()
                for k in (k for other, k in some if other == name):
                    x[..., slice(None) if k is None else k] = told[name][j][..., slice(None) if k is None else k]
                mixed[name] = x
            yield mixed, " and ".join(dict.fromkeys(name for name, _ in some))


def _infinite(seen: Mapping[str, list[Evidence]]) -> Iterator[float]:
    """The margins at which what should be a number is none"""
    for case, got, right in (one for ones in seen.values() for one in ones):
        if case.margin is not None and got.value.ndim and not case.lenient:
            yield from case.margin[~np.isfinite(got.value) & np.isfinite(right.value)]


def _ceiling(question: Question, evidence: list[Evidence]) -> float | None:
    """The value at which the losses of the wrongest rows stop"""
    for case, got, right in evidence:
        if case.margin is None or got.value.ndim == 0:
            continue
        wrong = np.argsort(case.margin)[:3]
        top, exact = got.value[wrong], right.value[wrong]
        if (
            len(wrong) == 3
            and np.isfinite(top).all()
            and abs(top).max() < 0.5 * abs(exact).min()
            and (np.ptp(top) < 1e-2 * abs(top).max())
        ):
            return float(top[0])
    return None


def _which_naive(question: Question, seen: dict[str, list[Evidence]]) -> Found:
    """log(1 + e⁻ᶻ) and log σ(z) both end in infinity; how they round where z is large and right tells them apart."""
    if question.name not in LOGISTIC:
        least = -(question.dtype.least - question.dtype.digits) * np.log(2)  # e^-z is 0 from here on
        first = min((abs(z) for z in _infinite(seen)), default=0.0)
        if 0.98 * least < first < 1.1 * least and not question.name.startswith("f_dpo"):
            return "log-of-sigmoid", "a probability is 0 where its logarithm is taken: use log_softmax, logsigmoid"
        return "exp-overflow", "an exponential overflows, or is 0 where its logarithm is taken"
    kind = NUMPY.get(question.dtype.name, np.float32)
    off_sum = off_sigmoid = 0.0
    for case, got, right in seen.get("right, and sure of it", []):
        if case.margin is None or got.value.ndim == 0:
            continue
        with np.errstate(all="ignore"):
            z = -np.log(np.expm1(right.value))  # of a logistic loss
            e = np.exp(-z.astype(kind))
            plus, sigmoid = np.log(1 + e), -np.log(1 / (1 + e))
        for x, theirs, a, b in zip(z, got.value, plus, sigmoid, strict=True):
            if np.isfinite(x) and 0.3 * -np.log(question.dtype.eps) < x < 1.1 * -np.log(question.dtype.eps):
                off_sum += float(abs(theirs - a))
                off_sigmoid += float(abs(theirs - b))
    if off_sum < off_sigmoid:
        return "exp-overflow", "log(1 + exp(-z)) overflows: use log1p and logaddexp, or softplus"
    return "log-of-sigmoid", "log(sigmoid(z)) is log 0 where z is far below 0: use logsigmoid"
