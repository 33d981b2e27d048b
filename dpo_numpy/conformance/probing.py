"""What no known mistake explains may be asked about: what changes nothing when it is changed, and which tokens count.

These name less than a hypothesis does, and miss less: it does not matter what stands in the place of what is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .seams import Case, Evidence, Problem, Question, Seam

__all__ = ["ignored", "of_positions", "of_rows_scaled"]

Array = NDArray[Any]
Found = tuple[str, str] | None
#: facts that may be lost: what is lost, and which mistake that is
FACTS = {
    "ref_logp": ("the reference", "reference-ignored"),
    "reference_logits": ("the reference", "reference-ignored"),
    "ref_token_logp": ("the reference", "reference-ignored"),
    "old_token_logp": ("the policy that sampled", "reference-ignored"),
    "advantage": ("the advantage", "hyper-ignored"),
    "values": ("the values", "hyper-ignored"),
    "length": ("the number of tokens", "sum-for-mean"),
    "margin": ("the margin", "hyper-ignored"),
    "delta": ("delta", "hyper-ignored"),
    "z0": ("the KL baseline", "hyper-ignored"),
    "w": ("the weight", "hyper-ignored"),
    "kl": ("the KL divergence", "hyper-ignored"),
    "keep": ("which rows are kept", "hyper-ignored"),
}


def ignored(seam: Seam, question: Question, case: Case) -> Found:
    """Is there a hyper-parameter, or an input, that it could be told anything for?"""
    try:
        here, right = seam.ask(question, case).value, seam.truth(question, case).value
        for changed, what, mistake in _changes(question, case):
            if np.array_equal(seam.truth(question, changed).value, right):
                continue
            if np.array_equal(seam.ask(question, changed).value, here, equal_nan=True):
                return mistake, f"{what} is ignored: another changes nothing"
    except (Problem, ValueError):
        return None
    return None


def _changes(question: Question, case: Case) -> Iterable[tuple[Case, str, str]]:
    for key in dict.fromkeys(question.call.hyper.values()):
        x = case.hyper[key]
        if isinstance(x, (int, float)) and not isinstance(x, bool):
            yield case._replace(hyper={**case.hyper, key: 0.5 * x if x else 0.25}), key, "hyper-ignored"
    for fact, (what, mistake) in FACTS.items():
        if fact not in case.told:
            continue
        told = dict(case.told)
        x = told[fact]
        wave = np.sin(1.0 + np.arange(x.size)).reshape(x.shape)
        if x.dtype.kind != "f":
            told[fact] = ~x if x.dtype == bool else x + 1 + (np.arange(x.size).reshape(x.shape) % 3)
        else:
            told[fact] = question.dtype.round(x - 0.6 + 0.5 * wave if fact.endswith("logp") else x + 0.5 * wave)
        if fact == "z0" and "KL_logp" in told:
            told["KL_logp"] = told["KL_logp"] + 1
            told["z0"] = np.maximum(0, (told["KL_logp"] - told["KL_ref_logp"]).mean())
        yield case._replace(told=told), what, mistake


def of_positions(evidence: Iterable[Evidence], name: str, shifted: bool) -> Found:
    """From the gradient by position: which tokens count that should not, and which should and do not?

    name      the gradient's: "logits" (N, T, V), or "token_logp" (N, 1, T)
    shifted   position t scores token t + 1
    """
    added: set[str] = set()
    lost: set[str] = set()
    for case, got, right in evidence:
        if not got.grads or name not in got.grads or not np.isfinite(got.grads[name]).all():
            return None
        over = -1 if name == "logits" else 1
        theirs, ours = (np.any(g != 0, axis=over) for g in (got.grads[name], right.grads[name]))
        what = _kinds(case.told, theirs.shape, shifted)
        added |= set(what[theirs & ~ours])
        lost |= set(what[ours & ~theirs])
    said = f"{' and '.join(sorted(lost))} does not count" if lost else f"{' and '.join(sorted(added))} counts too"
    if added and lost:
        if name == "token_logp":  # a clipped token has no gradient either
            return None
        return "shift-off-by-one", f"other tokens are scored: {said}"
    if added and added <= {"padding", "the prompt"}:
        return "padding-counted" if "padding" in added else "prompt-included", said
    if lost == {"a response's last token"}:
        return "eos-masked", said
    if lost == {"a response's first token"}:
        return "shift-off-by-one", said
    return None


def _kinds(told: Mapping[str, Array], shape: tuple[int, ...], shifted: bool) -> Array:
    """What is scored at each position"""
    mask = np.asarray(told["mask"]).reshape(shape)
    real = np.asarray(told.get("real", mask)).reshape(shape)
    if shifted:
        mask, real = (np.concatenate([x[:, 1:], x[:, :1] & False], axis=1) for x in (mask, real))
    ends = np.concatenate([mask[:, 1:], mask[:, :1] & False], axis=1)
    kinds = np.full(shape, "padding", dtype=object)
    kinds[real] = "the prompt"
    kinds[mask] = "a response's token"
    kinds[mask & ~ends] = "a response's last token"
    kinds[mask & (np.cumsum(mask, axis=1) == 1) & ends] = "a response's first token"
    return kinds


def of_rows_scaled(evidence: Iterable[Evidence], name: str) -> Found:
    """Is each row's gradient the right one times a number of its own?"""
    apart = False
    for _, got, right in evidence:
        if not got.grads or name not in got.grads:
            return None
        theirs, ours = (g.reshape(len(g), -1) for g in (got.grads[name], right.grads[name]))
        size = (ours**2).sum(axis=1)
        by = np.where(size > 0, (theirs * ours).sum(axis=1) / np.where(size > 0, size, 1), 0)
        if not np.all(abs(theirs - by[:, None] * ours) <= 1e-3 * abs(by[:, None] * ours).max(initial=0)):
            return None
        apart |= bool(np.ptp(by[size > 0]) > 1e-2 * abs(by).max(initial=0))
    return ("reduction", "each row counts, but not in the right proportion") if apart else None
