"""From the logits of a whole batch to its loss: masks, sums, the pairing of rows, the mean over pairs, accumulation.

A batch of B pairs is 2B rows: the chosen and then the rejected ("halves"), or chosen and rejected in turn
("interleaved").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..losses import LOSSES, Loss
from .exact import Answer, of_rows, of_tokens
from .mistakes import of_rows as suspects
from .mistakes import parts_of
from .numbers import step
from .probing import ignored, of_positions, of_rows_scaled
from .rows import PAIR
from .seams import (
    FAIL,
    NOTE,
    OK,
    Case,
    Evidence,
    Got,
    Hypothesis,
    Line,
    Parts,
    Problem,
    Question,
    asked,
    outputs_of,
    usual,
)
from .sequence_mistakes import EOS, Scored, following, readings_of, truly
from .sequences import SEQUENCE, VOCAB, Tokens, draw_tokens, handed, in_logits, nan_goes_through, role
from .symptoms import lost_digits

__all__ = ["BATCH"]

Array = NDArray[Any]
WIDE = np.longdouble


class Batch:
    """A seam: logits (2B, T, V) to the mean loss over B pairs."""

    name = "batch"
    signature = (
        "f(logits (2B, T, V), reference_logits, tokens (2B, T), mask (2B, T), beta=...) -> mean loss; "
        "labels with -100 will do for tokens and mask; --layout tells how rows are paired"
    )
    takes = (*SEQUENCE.takes, "reference_logits", "num_items_in_batch", "gradient_accumulation_steps")

    def losses(self) -> Mapping[str, Callable[..., Loss]]:
        return {
            name: make
            for name, make in LOSSES.items()
            if set(make().reads) <= {"logp", "full_logp"}
            and set(make().needs) <= {"ref_logp", "length", "full_length"}
            and make().terms[0].link.columns in (2, None)
        }

    def orders(self, name: str, hyper: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        reference = ["reference_logits"] if "ref_logp" in LOSSES[name](**hyper).needs else []
        return [["logits", *reference, "tokens", "mask"], ["logits", *reference, "labels"]]

    def role(self, parameter: str, name: str, hyper: Mapping[str, Any]) -> str | None:
        return role(parameter, self.takes)

    # ---- numbers

    def cases(self, question: Question) -> Iterator[Case]:
        rng = np.random.default_rng(40)

        def case(
            test: str,
            tokens: Tokens,
            scale: float = 2.0,
            hyper: dict[str, Any] | None = None,
            same: bool = False,
            **how: Any,
        ) -> Case:
            shape = (*tokens.tokens.shape, VOCAB)
            logits = question.dtype.round(scale * rng.normal(size=shape))
            near = logits if same else logits + 0.25 * rng.normal(size=shape)
            return Case(
                test,
                self._counted(
                    question, {"logits": logits, "reference_logits": question.dtype.round(near), **tokens.told()}
                ),
                hyper or question.hyper,
                **how,
            )

        yield case("ordinary", draw_tokens(rng, 6, 9))
        yield case("ordinary", draw_tokens(rng, 4, 11))
        for hyper in self._settings(question):
            yield case("other hyper-parameters", draw_tokens(rng, 6, 9), hyper=hyper)
        yield case("policy = reference", draw_tokens(rng, 6, 9), same=True)
        yield case("one pair", draw_tokens(rng, 2, 9))
        yield case("no padding", Tokens(rng, [(2, 5)] * 4, 7))
        yield case("padding on the left", draw_tokens(rng, 6, 9, side="left"))
        yield case("padding with the id of EOS", draw_tokens(rng, 6, 10, pad=EOS))
        yield case("token id 0 in a response", draw_tokens(rng, 6, 9, zeros=True))
        yield case("as many rows as positions", draw_tokens(rng, 8, 8))
        yield case("logits ten times as large", draw_tokens(rng, 6, 9), 20.0)
        yield self._certain(question, case("certain responses", draw_tokens(rng, 4, 8), lenient=True))
        yield self._emptied(question, case("a response without tokens", draw_tokens(rng, 4, 8), finite=True))

    def _certain(self, question: Question, case: Case) -> Case:
        """A chosen and a rejected response whose every token has probability 1 - 1e-8"""
        told, pairs = case.told, len(case.told["tokens"]) // 2
        rows = [0, 3] if question.layout == "interleaved" else [0, pairs + 1]
        logits = told["logits"].copy()
        logits[rows] = 20.0 * (following(told["tokens"])[rows][..., None] == np.arange(VOCAB))
        return case._replace(told={**told, "logits": logits})

    def _emptied(self, question: Question, case: Case) -> Case:
        mask = case.told["mask"].copy()
        mask[0] = False
        return case._replace(told=self._counted(question, {**case.told, "mask": mask}))

    def _settings(self, question: Question) -> Iterator[dict[str, Any]]:
        for name in dict.fromkeys(question.call.hyper.values()):
            x = question.hyper[name]
            if not isinstance(x, (bool, str)):
                yield {**question.hyper, name: 0.5 * x if x else 0.25}

    def _counted(self, question: Question, told: dict[str, Array]) -> dict[str, Array]:
        """With the number of items: pairs, or response tokens where the loss is a mean over those"""
        loss = LOSSES[question.name](**question.hyper)
        pairs = self._pairs(question, told["mask"])
        items = pairs[:, 0].sum() if loss.coupled else len(pairs)
        return {**told, "num_items": np.asarray(items), "steps": np.asarray(1)}

    def _pairs(self, question: Question, x: Array) -> Array:
        """(2B, ...) -> (B, 2, ...)"""
        return np.stack([x[0::2], x[1::2]] if question.layout == "interleaved" else np.split(x, 2), axis=1)

    def _unpaired(self, question: Question, x: Array) -> Array:
        """(B, 2, ...) -> (2B, ...)"""
        if question.layout == "interleaved":
            return x.reshape(-1, *x.shape[2:])
        return np.concatenate([x[:, 0], x[:, 1]])

    # ---- answers

    def truth(self, question: Question, case: Case) -> Answer:
        return self.answered(question, case)

    def answered(
        self,
        question: Question,
        case: Case,
        scored: Scored = truly,
        of_pairs: Callable[[Case], Answer] | None = None,
        width: int | None = None,
    ) -> Answer:
        """The mean over pairs of a loss of log-probs that are sums over tokens

        of_pairs: what is computed from log-probs, if not the loss itself
        width: lengths are T - width, whatever counts
        """
        told, loss = case.told, LOSSES[question.name](**case.hyper)
        targets, counts = scored(told)
        ours = of_tokens(told["logits"], targets, counts.astype(WIDE), question.dtype)
        pair = partial(self._pairs, question)
        rows = {"logp": pair(ours.value), "length": np.maximum(pair(counts.sum(axis=1)), 1)}
        if width is not None:
            rows["length"] = np.full_like(rows["length"], counts.shape[1] - width)
        by = {"logp": pair(ours.unit)}
        if "ref_logp" in loss.needs:
            theirs = of_tokens(told["reference_logits"], targets, counts.astype(WIDE), question.dtype)
            rows["ref_logp"], by["ref_logp"] = pair(theirs.value), pair(theirs.unit)
        if "full_logp" in loss.reads:
            full = np.concatenate([told["real"][:, 1:], told["real"][:, :1] & False], axis=1)
            full_targets = np.concatenate([told["tokens"][:, 1:], told["tokens"][:, :1]], axis=1)
            whole = of_tokens(told["logits"], full_targets, full.astype(WIDE), question.dtype)
            rows["full_logp"], rows["full_length"] = pair(whole.value), pair(full.sum(axis=1))
            by["full_logp"] = pair(whole.unit)
        found = of_pairs(case._replace(told=rows)) if of_pairs else of_rows(loss, rows, question.dtype, by)
        B = len(found.value)
        grad, unit = np.zeros_like(told["logits"]), np.zeros_like(told["logits"])
        for name, inner in (("logp", ours), *((("full_logp", whole),) if "full_logp" in found.grads else ())):
            slope = self._unpaired(question, found.grads[name] / B)[:, None, None]
            off = self._unpaired(question, found.units[name] / B)[:, None, None]
            grad += slope * inner.grads["logits"]
            unit += abs(slope) * inner.units["logits"] + off * abs(inner.grads["logits"])
        sizes = max(float(np.max(abs(g), initial=0)) for g in found.grads.values()) / B
        least = 1 / step(question.name, case.hyper) / B
        return Answer(
            found.value.mean(),
            {"logits": grad},
            found.unit.mean() + question.dtype.ulp(found.value.max()),
            {"logits": unit + question.dtype.ulp(grad)},
            abs(found.value).max(),
            {"logits": max(sizes, least)},
        )

    def ask(self, question: Question, case: Case) -> Got:
        told = handed(case.told, list(question.call.arrays.values()))
        found = asked(question, told, case.hyper, ["logits"])
        outputs, with_gradient = outputs_of(found, question)
        value = outputs[0]
        if value.size != 1:
            raise Problem(f"it returns shape {value.shape}; expected a number, the mean over pairs", "wrong-shape")
        grads = in_logits(found, outputs[1:] if with_gradient else [], case.told["logits"].shape)
        return Got(value.reshape(()), grads, outputs[1:], found.dtype, found.no_gradient)

    # ---- what is not a number

    def structure(self, question: Question, seen: dict[str, list[Evidence]]) -> Iterator[Line]:
        case, got, _ = seen["ordinary"][0]
        told = handed(case.told, list(question.call.arrays.values()))
        yield from usual(question, got, lambda: self.ask(question, case), (told, ["logits"]))
        yield self._accumulated(question, case, seen)
        yield nan_goes_through(self, question, case, "loss")

    def _accumulated(self, question: Question, case: Case, seen: dict[str, list[Evidence]]) -> Line:
        """One pair at a time: told a normalizer of the whole batch, losses add up; else their mean is the whole's"""
        test = "micro-batches"
        taken = set(question.call.arrays.values())
        told_whole = bool(taken & {"num_items_in_batch", "gradient_accumulation_steps"})
        B = len(case.told["tokens"]) // 2
        total = np.zeros((), WIDE)
        for b in range(B):
            part = {
                name: self._unpaired(question, self._pairs(question, x)[b : b + 1]) if x.ndim else x
                for name, x in case.told.items()
            }
            part["steps"] = np.asarray(B)
            try:
                total = total + self.ask(question, case._replace(told=part)).value
            except Problem as problem:
                return Line(test, FAIL, np.inf, f"of one pair: {problem}", mistake=problem.mistake)
        right = self.truth(question, case)
        if not told_whole:
            total = total / B
        error = float(abs(total - right.value) / right.unit)
        whole = seen["ordinary"][0]
        if error <= 64 or abs(whole.got.value - right.value) > 64 * right.unit:
            return Line(test, OK, error)
        says = (
            f"the losses of {B} micro-batches {'add up to' if told_whole else 'have the mean'} {float(total):.9g}; "
            f"that of the whole is {float(right.value):.9g}"
        )
        if told_whole:
            return Line(
                test, FAIL, error, f"{says}: the normalizer told is not used", mistake="accumulation-normaliser"
            )
        return Line(test, NOTE, error, f"{says}: each divides by its own count; take num_items_in_batch")

    # ---- what may have been done instead

    def hypotheses(self, question: Question) -> Iterator[Hypothesis]:
        answered = partial(self.answered, question)
        flipped = question._replace(layout="halves" if question.layout == "interleaved" else "interleaved")
        yield Hypothesis(
            "layout", f"pairs rows as {flipped.layout!r}, not as {question.layout!r}", partial(self.answered, flipped)
        )

        def times(by: Callable[[Case], float]) -> Callable[[Case], Answer]:
            def answer(case: Case) -> Answer:
                right, c = self.truth(question, case), by(case)
                return right._replace(
                    value=c * right.value,
                    unit=c * right.unit,
                    grads={n: c * g for n, g in right.grads.items()},
                    units={n: c * u for n, u in right.units.items()},
                )

            return answer

        def pairs(case: Case) -> float:
            return len(case.told["tokens"]) / 2

        yield Hypothesis("sum-for-mean", "sums over pairs where it should average", times(pairs))
        yield Hypothesis("reduction", "divides by the number of rows, not of pairs", times(lambda case: 0.5))
        twice = "accumulation-normaliser" if "num_items_in_batch" in question.call.arrays.values() else "reduction"
        yield Hypothesis(twice, "divides by the number of pairs twice", times(lambda case: 1 / pairs(case)))
        for mistake, says, scored in readings_of():
            yield Hypothesis(mistake, says, partial(answered, scored=scored))
        if "length" in LOSSES[question.name](**question.hyper).needs:
            for width, what in ((0, "T"), (1, "T - 1")):
                yield Hypothesis(
                    "length-with-padding", f"divides by {what}, padding included", partial(answered, width=width)
                )
        for one in suspects(PAIR, question, own_sums=True):
            yield Hypothesis(one.mistake, one.says, partial(answered, of_pairs=one.answer))
        yield Hypothesis(
            "wrong-gradient",
            "the gradient is that of the sum over pairs, the value their mean",
            partial(self._summed, question),
        )
        for mistake, says, scored in readings_of():
            if mistake in ("prompt-included", "padding-counted"):
                yield Hypothesis(
                    mistake,
                    f"in the likelihood alone, {says}",
                    partial(self._other_likelihood, question, scored=scored),
                )

    def parts(self, question: Question) -> Iterator[Parts]:
        for found in parts_of(question, lengths=True, batch=True):
            yield found._replace(
                answers=tuple(partial(self.answered, question, of_pairs=answer) for answer in found.answers)
            )

    def probe(self, question: Question, evidence: list[Evidence]) -> tuple[str, str] | None:
        return (
            of_positions(evidence, "logits", shifted=True)
            or of_rows_scaled(evidence, "logits")
            or ignored(self, question, evidence[0].case)
        )

    def _summed(self, question: Question, case: Case) -> Answer:
        right, B = self.truth(question, case), len(case.told["tokens"]) / 2
        return right._replace(grads={name: B * grad for name, grad in right.grads.items()})

    def _other_likelihood(self, question: Question, case: Case, scored: Scored) -> Answer:
        """The truth with the chosen's NLL over other tokens: the difference of the two likelihoods, added"""
        right = self.truth(question, case)
        weight = {
            "orpo": 1.0,
            "cpo": case.hyper.get("alpha"),
            "rpo": case.hyper.get("alpha"),
            "slic": case.hyper.get("lam"),
        }.get(question.name)
        if weight is None:
            raise ValueError("no likelihood in it")
        nll = case.hyper["nll"]
        value, grad = np.zeros((), WIDE), np.zeros_like(case.told["logits"])
        for sign, how in ((-1, truly), (1, scored)):
            targets, counts = how(case.told)
            share = self._pairs(question, counts.astype(WIDE))
            share[:, 1] = 0
            count = share[:, 0].sum(axis=1)
            by = {"sum": np.ones_like(count), "mean": np.maximum(count, 1), "tokens": count.mean() + 0 * count}[nll]
            share[:, 0] /= by[:, None]
            found = of_tokens(case.told["logits"], targets, self._unpaired(question, share), question.dtype)
            value = value - sign * float(weight) * found.value.sum() / len(count)
            grad = grad - sign * float(weight) * found.grads["logits"] / len(count)
        return right._replace(value=right.value + value, grads={"logits": right.grads["logits"] + grad})

    def numeric(self, question: Question, line: Line, seen: dict[str, list[Evidence]]) -> tuple[str, str] | None:
        if line.test == "a response without tokens":
            return "empty-row", "a response without tokens is 0/0"
        return lost_digits(question, seen.get("ordinary", []))

    def shrunk(self, question: Question, case: Case, row: int) -> Case | None:
        """Its cases are small as they are"""
        return None

    def describe(self, question: Question, case: Case, row: int) -> str:
        rows = len(case.told["tokens"])
        return "; ".join(
            SEQUENCE.describe(question, case, r)
            for r in ((0, 1) if question.layout == "interleaved" else (0, rows // 2))
        )


#: logits of a whole batch -> the mean loss
BATCH = Batch()
