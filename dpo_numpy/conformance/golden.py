"""Golden numbers: what each loss is at given inputs, and its gradient, correct to the last bit.

`golden.json` beside this file is for readers in any language. Every number in it was computed to at least 25 digits
from the papers' formulas, apart from this package, and rounded once to the nearest float64 (ties to even); the inputs
and hyper-parameters are exactly the float64 numbers written there. One case stands on one line:

    {"format": 1, SEAM: {LOSS: [CASE, ...], ...}, ...}

    CASE = {"loss"  : LOSS,
            "what"  : which inputs, in a word: ordinary, reference, right, wrong, huge, edge, on_policy ...
            "hyper" : {name: number, string or boolean},  all that the loss takes, defaults too
            "inputs": {name: nested arrays},  readings and facts; a fact of the whole batch is one number
            "value" : nested arrays, or a number,
            "grad"  : {reading: nested arrays, shaped like inputs[reading]},
            "hex"   : {"hyper", "inputs", "value", "grad"}}  the same floats again

A float is the shortest decimal that a correct parser turns into that float64; in "hex" the same number stands at the
same place in C99's hexadecimal notation (`%a`, `strtod`), without any rounding to trust; integers, booleans and strings
are left out there. Infinities are the strings "inf" and "-inf". Lengths and tokens are integers, masks and labels
booleans.

    SEAM        inputs                                     value, grad
    "pair"      log-probs (B, K), K >= 2, best first       (B,); that of the sum of values, (B, K)
    "unpaired"  log-probs (B, 1), label (B,)               (B,); (B, 1)
    "token"     per-token log-probs, values or entropies   (B,); (B, K, T)
                (B, K, T), mask
    "batch"     log-probs (B, 2), or of tokens (B, K, T),  a number, the mean over rows; its gradient, in what "grad"
                of a loss that couples the batch; or       names: logp (B, 2), logits (B, 2, T, V) ...
                logits (B, 2, T, V) with tokens, mask
                (B, 2, T) and ref_logits
    "sequence"  logits (N, T, V), tokens, mask (N, T);     log π(y|x) (N,); (N, T, V), each row that of its own value
                LOSS is "logp"

`logits[t]` scores `tokens[t + 1]`; the mask is true on the response's tokens. Reward models read `reward` in place of
`logp`. No answer is -0.0: 0.0 stands also for what is smaller than half the least subnormal number, of either sign.
What a fact means says the loss's docstring: `dpo-numpy show LOSS`; `dpo-numpy golden LOSS` prints its cases.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["SEAMS", "Case", "cases", "raw"]

Array = NDArray[Any]
#: in the order of the stored file
SEAMS = ("pair", "unpaired", "token", "batch", "sequence")


class Case(NamedTuple):
    """One line of the file; its numbers as arrays of float64, int64 or bool."""

    seam: str
    loss: str
    what: str
    hyper: dict[str, Any]
    inputs: dict[str, Array]
    value: Array
    grad: dict[str, Array]


def cases(seam: str | None = None, loss: str | None = None) -> list[Case]:
    """The cases of a seam, of a loss, of both; by default all of them, in the order of the file.

    Raises `ValueError` on a seam or a loss that is not in the file.

    >>> from dpo_numpy import LOSSES
    >>> case = cases("pair", "dpo")[0]
    >>> case.what, case.hyper, case.inputs["logp"].shape
    ('ordinary', {'beta': 0.1}, (3, 2))
    >>> value, grad = LOSSES[case.loss](**case.hyper)(**case.inputs)
    >>> bool(abs(value - case.value).max() < 1e-15), bool(abs(grad - case.grad["logp"]).max() < 1e-15)
    (True, True)
    """
    return [
        Case(where, case["loss"], case["what"], case["hyper"], _arrays(case["inputs"]), _array(case["value"]),
             _arrays(case["grad"]))
        for where, case in raw(seam, loss)
    ]


def raw(seam: str | None = None, loss: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(seam, case) as JSON has them; arguments and errors as in `cases`"""
    if seam is not None and seam not in SEAMS:
        raise ValueError(f"seam is {seam!r}; expected {', '.join(map(repr, SEAMS[:-1]))} or {SEAMS[-1]!r}")
    document = _document()
    known = dict.fromkeys(name for where in SEAMS for name in document[where])
    if loss is not None and loss not in known:
        raise ValueError(f"loss is {loss!r}; expected one of {', '.join(known)}")
    return ((where, case) for where in SEAMS if seam in (None, where)
            for name, found in document[where].items() if loss in (None, name) for case in found)


@cache
def _document() -> dict[str, Any]:
    text = (files("dpo_numpy.conformance") / "golden.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _arrays(found: dict[str, Any]) -> dict[str, Array]:
    return {name: _array(x) for name, x in found.items()}


def _array(x: Any) -> Array:
    return np.array(_numbers(x))


def _numbers(x: Any) -> Any:
    if isinstance(x, list):
        return [_numbers(each) for each in x]
    return float(x) if isinstance(x, str) else x
