"""From logits to log-probs of sequences: which token each position scores, which tokens count, and what divides.

Tokens are those of real batches: a prompt, a response that ends in EOS, padding on either side, whose id may be that of
EOS or of an ordinary token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..numerics import log_softmax
from .exact import Answer, of_tokens
from .frameworks import DTYPES, Result
from .probing import of_positions, of_rows_scaled
from .seams import (
    FAIL,
    OK,
    Case,
    Evidence,
    Got,
    Hypothesis,
    Line,
    Parts,
    Problem,
    Question,
    Seam,
    asked,
    outputs_of,
    usual,
)
from .sequence_mistakes import EOS, Scored, following, readings_of, truly
from .symptoms import lost_digits

__all__ = ["SEQUENCE", "Tokens", "draw_tokens"]

Array = NDArray[Any]
WIDE = np.longdouble
VOCAB, LONG = 7, 1000
IGNORED = -100
NAMES = {
    "logits": ("logits", "policy_logits", "pi_logits", "all_logits", "lm_logits"),
    "reference_logits": ("reference_logits", "ref_logits"),
    "tokens": ("tokens", "input_ids", "ids", "token_ids", "sequences", "input_tokens"),
    "labels": ("labels", "targets", "target_ids"),
    "mask": ("mask", "loss_mask", "completion_mask", "response_mask", "masks", "label_mask", "action_mask"),
    "attention_mask": ("attention_mask", "attn_mask", "padding_mask"),
    "pad_token_id": ("pad_token_id", "pad_id", "padding_value"),
    "eos_token_id": ("eos_token_id", "eos_id"),
    "num_items_in_batch": ("num_items_in_batch", "num_items", "normalizer"),
    "gradient_accumulation_steps": ("gradient_accumulation_steps", "accumulation_steps", "grad_accum"),
}


class Tokens:
    """Tokens (N, T) of prompts and responses, what counts, what is real, and the id of padding"""

    def __init__(
        self,
        rng: np.random.Generator,
        shape: Sequence[tuple[int, int]],
        width: int,
        side: str = "right",
        pad: int = 0,
        zeros: bool = False,
    ) -> None:
        N = len(shape)
        self.pad = pad
        self.tokens = np.full((N, width), pad)
        self.mask, self.real = np.zeros((N, width), bool), np.zeros((N, width), bool)
        for row, (prompt, response) in enumerate(shape):
            start = 0 if side == "right" else width - prompt - response
            middle, stop = start + prompt, start + prompt + response
            ids = rng.integers(0 if zeros else 3, VOCAB, prompt + response)
            if zeros and response > 1:
                ids[prompt] = 0
            if prompt > 1:
                ids[prompt - 1] = EOS if row % 2 else 1  # a prompt of several turns has ends of its own
            if response:
                ids[-1] = EOS
            self.tokens[row, start:stop] = ids
            self.real[row, start:stop] = True
            self.mask[row, middle:stop] = True

    def told(self) -> dict[str, Array]:
        """As inputs of a case, by name"""
        return {"tokens": self.tokens, "mask": self.mask, "real": self.real, "pad": np.asarray(self.pad)}


def draw_tokens(rng: np.random.Generator, N: int, width: int, **how: Any) -> Tokens:
    """Of different lengths; the first row is as long as the batch is wide"""
    shape = [(2, width - 2)] + [
        (int(p), int(r))
        for p, r in zip(rng.integers(1, 4, N - 1), rng.integers(2, max(3, width - 4), N - 1), strict=True)
    ]
    return Tokens(rng, shape, width, **how)


def role(parameter: str, takes: Sequence[str]) -> str | None:
    return next((name for name in takes if parameter in NAMES[name]), None)


def handed(told: Mapping[str, Array], taken: Sequence[str]) -> dict[str, Any]:
    """By canonical name"""
    given: dict[str, Any] = {
        "logits": told["logits"],
        "reference_logits": told.get("reference_logits"),
        "tokens": told["tokens"],
        "labels": np.where(told["mask"], told["tokens"], IGNORED),
        "mask": told["mask"],
        "attention_mask": told["real"],
        "pad_token_id": int(told["pad"]),
        "eos_token_id": EOS,
        "num_items_in_batch": told.get("num_items"),
        "gradient_accumulation_steps": told.get("steps"),
    }
    return {
        name: given[name]
        if name in ("pad_token_id", "eos_token_id") or given[name] is None or given[name].ndim
        else given[name].item()
        for name in taken
    }


def in_logits(found: Result, returned: list[Any], shape: tuple[int, ...]) -> dict[str, Array] | None:
    """The gradient in the logits: autograd's, or the first thing returned after the value; where none flows, 0"""
    if found.grads is None and not returned:
        return None
    grad = returned[0] if returned else (found.grads or {})["logits"]
    if returned and (not isinstance(grad, np.ndarray) or grad.shape != shape):
        came = getattr(grad, "shape", type(grad).__name__)
        raise Problem(
            f"after the value it returns {came}; expected the gradient in the logits, {shape}", "wrong-shape"
        )
    return {"logits": np.zeros(shape, WIDE) if grad is None else grad}


def nan_goes_through(seam: Seam, question: Question, case: Case, what: str) -> Line:
    """A row of NaN must come out as NaN: what hides it trains on"""
    test, logits = "NaN goes through", case.told["logits"].copy()
    logits[0] = np.nan
    try:
        value = seam.ask(question, case._replace(told={**case.told, "logits": logits})).value
    except Problem as problem:
        return Line(test, FAIL, np.inf, str(problem), mistake=problem.mistake)
    if np.isnan(value.flat[0]):
        return Line(test, OK, 0.0)
    return Line(test, FAIL, np.inf, f"logits of NaN give a {what} that is a number", mistake="nan-hidden")


def _counted(how: Scored, told: Mapping[str, Array], count: Array) -> Array:
    """How many tokens count under it"""
    return np.asarray(np.maximum(how(told)[1].sum(axis=1), 1))


def _size(case: Case) -> float:
    """Of a log-prob where all tokens are as likely, or of the logits: x - logsumexp(x) is good enough"""
    logits = case.told["logits"]
    return max(float(np.log(VOCAB)), float(abs(logits[np.isfinite(logits)]).max(initial=0)))


class Sequences:
    """A seam: logits (B, T, V) to log-probs (B,) of responses, or (B, T) of tokens."""

    name = "sequence"
    signature = (
        "f(logits (B, T, V), tokens (B, T), mask (B, T)) or f(logits, labels), -100 where not counted -> (B,); "
        "token_logp: f(logits (B, T, V), index (B, T)) -> (B, T), without a shift"
    )
    takes = ("logits", "tokens", "labels", "mask", "attention_mask", "pad_token_id", "eos_token_id")

    def losses(self) -> Mapping[str, Callable[..., Any]]:
        return {"logp": lambda: None, "mean_logp": lambda: None, "token_logp": lambda: None}

    def orders(self, name: str, hyper: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        return [("logits", "tokens")] if name == "token_logp" else [("logits", "tokens", "mask"), ("logits", "labels")]

    def role(self, parameter: str, name: str, hyper: Mapping[str, Any]) -> str | None:
        if name == "token_logp" and parameter in (*NAMES["labels"], "index", "indices"):
            return "tokens"
        return role(parameter, self.takes)

    def cases(self, question: Question) -> Iterator[Case]:
        rng = np.random.default_rng(30)

        def case(test: str, tokens: Tokens, scale: float = 2.0, offset: float = 0.0, **how: Any) -> Case:
            shape = (*tokens.tokens.shape, VOCAB)
            logits = question.dtype.round(offset + scale * rng.normal(size=shape))
            return Case(test, {"logits": logits, **tokens.told()}, question.hyper, **how)

        yield case("ordinary", draw_tokens(rng, 4, 9))
        yield case("ordinary", draw_tokens(rng, 5, 11))
        yield case("no padding", Tokens(rng, [(2, 5)] * 3, 7))
        yield case("padding on the left", draw_tokens(rng, 4, 9, side="left"))
        yield case("padding with the id of EOS", draw_tokens(rng, 4, 10, pad=EOS))
        yield case("token id 0 in a response", draw_tokens(rng, 4, 9, zeros=True))
        yield case("one token each", Tokens(rng, [(3, 1), (1, 1), (2, 1)], 5))
        yield case("as many rows as positions", draw_tokens(rng, VOCAB, VOCAB))
        yield case("one row", Tokens(rng, [(2, 4)], 8))
        yield case("certain tokens", draw_tokens(rng, 4, 9), 40.0)
        yield case("logits far from 0", draw_tokens(rng, 4, 9), 2.0, 800.0)
        excluded = case("logits of -inf", draw_tokens(rng, 4, 9))
        never = np.broadcast_to(np.arange(VOCAB) == 1, excluded.told["logits"].shape)
        excluded.told["logits"] = np.where(
            never & (excluded.told["tokens"] != 1).all(), -np.inf, excluded.told["logits"]
        )
        yield excluded
        # all as likely: a log-prob is known to its last digit, and what is lost, is lost in the sum
        # (added up one by one in float32 or more, they are good to 4 digits: a note)
        exact = question.dtype.digits >= DTYPES["float32"].digits
        yield case("a long response", Tokens(rng, [(2, LONG - 2), (2, LONG // 2)], LONG), 0.0, lenient=exact)
        if question.name != "token_logp":
            yield case("a row where nothing counts", Tokens(rng, [(3, 4), (5, 0), (2, 3)], 8), finite=True)

    def truth(self, question: Question, case: Case) -> Answer:
        if question.name == "token_logp":
            return self.each(question, case.told["tokens"], case)
        return self.scored(question, case, truly)

    def each(self, question: Question, targets: Array, case: Case) -> Answer:
        """(B, T): of each token under the logits at its own index"""
        logits = case.told["logits"]
        found = of_tokens(
            logits.reshape(-1, 1, VOCAB), targets.reshape(-1, 1), np.ones((targets.size, 1), WIDE), question.dtype
        )
        return Answer(
            found.value.reshape(targets.shape),
            {"logits": found.grads["logits"].reshape(logits.shape)},
            found.unit.reshape(targets.shape),
            {"logits": found.units["logits"].reshape(logits.shape)},
            _size(case),
            {"logits": 1.0},
        )

    def scored(self, question: Question, case: Case, how: Scored, divide: Callable[..., Array] | None = None) -> Answer:
        targets, counts = how(case.told)
        count = counts.sum(axis=1)
        by = np.maximum(count, 1) if question.name == "mean_logp" else np.ones_like(count)
        by = by if divide is None else divide(case.told, count)
        weight = counts / by[:, None].astype(WIDE)
        found = of_tokens(case.told["logits"], targets, weight, question.dtype)
        return found._replace(size=count * _size(case) / by, sizes={"logits": (1.0 / by)[:, None, None]})

    def padded(self, question: Question, eps: float, case: Case) -> Answer:
        """With log(p + ε) in the place of log p"""
        right, told = self.truth(question, case), case.told
        counts = following(told["mask"])
        chosen = np.take_along_axis(log_softmax(told["logits"]), following(told["tokens"])[..., None], axis=-1)[..., 0]
        by = np.maximum(counts.sum(axis=1), 1) if question.name == "mean_logp" else np.ones(len(counts))
        added = np.where(counts, np.log1p(eps * np.exp(-chosen)), 0).sum(axis=1) / by
        share = np.where(counts, 1 / (1 + eps * np.exp(-chosen)), 0)[..., None]
        return right._replace(value=right.value + added, grads={"logits": share * right.grads["logits"]})

    def ask(self, question: Question, case: Case) -> Got:
        B = len(case.told["tokens"])
        told = handed(case.told, list(question.call.arrays.values()))
        found = asked(question, told, case.hyper, ["logits"])
        outputs, with_gradient = outputs_of(found, question)
        value = outputs[0]
        expected = case.told["tokens"].shape if question.name == "token_logp" else (B,)
        if value.shape != expected:
            raise Problem(
                f"for {B} rows it returns shape {value.shape}; expected {expected}",
                "broadcast" if value.shape == (B, B) else "wrong-shape",
            )
        grads = in_logits(found, outputs[1:] if with_gradient else [], case.told["logits"].shape)
        return Got(value, grads, outputs[1:], found.dtype, found.no_gradient)

    def structure(self, question: Question, seen: dict[str, list[Evidence]]) -> Iterator[Line]:
        case, got, _ = seen["ordinary"][0]
        told = handed(case.told, list(question.call.arrays.values()))
        yield from usual(question, got, lambda: self.ask(question, case), (told, ["logits"]))
        yield nan_goes_through(self, question, case, "log-prob")

    def hypotheses(self, question: Question) -> Iterator[Hypothesis]:
        if question.name == "token_logp":
            for says, by in (("the next token is scored", -1), ("the token before is scored", 1)):
                yield Hypothesis(
                    "shift-off-by-one",
                    f"{says}, not the one at the index of the logits",
                    partial(lambda by, case: self.each(question, np.roll(case.told["tokens"], by, axis=1), case), by),
                )
            return
        other = "mean-for-sum" if question.name == "logp" else "sum-for-mean"
        says = (
            "averages log-probs where it should sum"
            if question.name == "logp"
            else ("sums log-probs where it should average")
        )

        scored = partial(self.scored, question)

        def by_count(told: Mapping[str, Array], count: Array) -> Array:
            return np.asarray(np.maximum(count, 1)) if question.name == "logp" else np.ones_like(count)

        def width(less: int) -> Callable[..., Array]:
            return lambda told, count: np.full_like(count, told["tokens"].shape[1] - less)

        yield Hypothesis(other, says, partial(scored, how=truly, divide=by_count))
        for less, what in ((0, "T"), (1, "T - 1")):
            yield Hypothesis(
                "length-with-padding",
                f"divides by {what}, padding included",
                partial(scored, how=truly, divide=width(less)),
            )
        yield Hypothesis(
            "length-with-padding",
            "divides by the number of tokens of prompt and response",
            partial(scored, how=truly, divide=lambda told, count: told["real"].sum(axis=1)),
        )
        yield Hypothesis(
            "batch-coupled",
            "divides by the mean number of tokens in the batch, not by each row's",
            partial(scored, how=truly, divide=lambda told, count: np.full(count.shape, count.mean(), WIDE)),
        )
        for power in range(4, 13):
            yield Hypothesis(
                "epsilon-in-log",
                f"1e-{power} is added to probabilities inside the logarithm",
                partial(self.padded, question, 10.0**-power),
            )
        for mistake, says, how in readings_of():
            yield Hypothesis(mistake, says, partial(scored, how=how))
            if question.name == "mean_logp":
                yield Hypothesis(
                    mistake,
                    f"{says} (divided by the right length)",
                    partial(scored, how=how, divide=partial(_counted, truly)),
                )
                slug = "length-with-padding" if mistake in ("prompt-included", "padding-counted") else mistake
                yield Hypothesis(
                    slug, f"in the length alone: {says}", partial(scored, how=truly, divide=partial(_counted, how))
                )

    def parts(self, question: Question) -> Iterator[Parts]:
        return iter(())

    def probe(self, question: Question, evidence: list[Evidence]) -> tuple[str, str] | None:
        return of_positions(evidence, "logits", shifted=True) or of_rows_scaled(evidence, "logits")

    def numeric(self, question: Question, line: Line, seen: dict[str, list[Evidence]]) -> tuple[str, str] | None:
        if line.test == "a row where nothing counts":
            return "empty-row", "a row without response tokens is 0/0"
        if line.test == "a long response":
            return "low-precision-sum", "tokens are added up in the dtype of the logits: sum in float32 or more"
        if line.test in ("logits far from 0", "certain tokens"):
            return "exp-overflow", "exp of a logit overflows, or log of a probability that is 0: use log_softmax"
        if line.test == "logits of -inf":
            return "where-nan", "0 · inf where a token of the vocabulary is excluded"
        return lost_digits(question, seen.get("ordinary", []))

    def shrunk(self, question: Question, case: Case, row: int) -> Case | None:
        """Its cases are small as they are"""
        return None

    def describe(self, question: Question, case: Case, row: int) -> str:
        told = case.told
        spelled = " ".join(
            f"[{t}]" if m else str(t) if r else "."
            for t, m, r in zip(told["tokens"][row], told["mask"][row], told["real"][row], strict=True)
        )
        return f"row {row}: {spelled[:120]} ([counted], . padding with id {int(told['pad'])})"


#: logits, tokens and mask -> log-probs
SEQUENCE = Sequences()
