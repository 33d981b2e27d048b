"""What every seam is made of: a question, its cases, what a foreign function answered, and how that is compared.

A seam is a place where a trainer can be cut: from log-probs to losses, from logits to log-probs, from logits to the
batch's loss ... Each knows its arrays, its cases and the exact answers; all share what is here.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .exact import Answer
from .foreign import Call
from .frameworks import DTYPES, Dtype, Framework, Result

__all__ = [
    "AGREES",
    "FAIL",
    "NOTE",
    "OK",
    "SKIPPED",
    "Case",
    "Evidence",
    "Got",
    "Hypothesis",
    "Line",
    "Parts",
    "Problem",
    "Question",
    "Seam",
    "compare",
]

Array = NDArray[Any]
#: what a line of the report says of a test
OK, NOTE, FAIL, SKIPPED = "ok", "note", "FAIL", "-"
#: units up to which numbers agree
AGREES = 16.0
#: eps of the size at the reference that are forgiven: σ(1 - σ), where σ is rounded to 1, is off by eps β/2, which is
#: two eps of its β/4
FORGIVEN = 4.0


class Problem(Exception):
    """What a foreign function did that is no answer: one sentence, and which mistake that is, if it is one."""

    def __init__(self, says: str, mistake: str = "") -> None:
        super().__init__(says)
        self.mistake = mistake


class Question(NamedTuple):
    """What is asked of whom."""

    name: str  # of our loss
    hyper: dict[str, Any]  # all of them
    dtype: Dtype
    framework: Framework
    call: Call
    gradient: str  # "auto", "returned", "none"
    layout: str = "halves"
    masks: str = "booleans"  # or "floats"
    advantages: str = "responses"  # or "tokens"


class Case(NamedTuple):
    """Inputs in canonical form, for one line of the report."""

    test: str
    told: dict[str, Array]  # exact numbers of the dtype asked for, in longdouble; integers and booleans as they are
    hyper: dict[str, Any]
    margin: Array | None = None  # (B,): about where z of each row is
    lenient: bool = False  # at most a note
    finite: bool = False  # what is right is a convention: at most a note, if it is a number
    whole: bool = False  # the batch's mean, not row by row
    room: float = 1.0  # units that count as one


class Got(NamedTuple):
    """What came back, in the form of an `Answer`."""

    value: Array
    grads: dict[str, Array] | None
    extras: list[Any]
    dtype: str
    no_gradient: str


class Evidence(NamedTuple):
    """A case, what came back, and what is right."""

    case: Case
    got: Got
    right: Answer


class Line(NamedTuple):
    """One line of the report."""

    test: str
    verdict: str
    worst: float  # in units
    says: str = ""
    example: str = ""
    mistake: str = ""


class Hypothesis(NamedTuple):
    """A mistake, by what it would answer in place of the truth."""

    mistake: str
    says: str
    answer: Callable[[Case], Answer]


class Parts(NamedTuple):
    """Terms of which a loss may be the sum, each with its right coefficient."""

    names: tuple[str, ...]
    answers: tuple[Callable[[Case], Answer], ...]
    coefficients: tuple[float, ...]


class Seam(Protocol):
    """A place where a function is handed something: what it may compute, how it is asked, and what is right."""

    name: str
    signature: str

    def losses(self) -> Mapping[str, Callable[..., Any]]:
        """What it may compute there, by name"""
    def orders(self, name: str, hyper: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        """Meanings of its parameters by position, for names that say nothing"""
    def role(self, parameter: str, name: str, hyper: Mapping[str, Any]) -> str | None:
        """What a parameter of this name means; None where it is none of ours"""
    def cases(self, question: Question) -> Iterable[Case]:
        """Inputs to try, each for one line of the report"""
    def truth(self, question: Question, case: Case) -> Answer:
        """The exact answer"""
    def ask(self, question: Question, case: Case) -> Got:
        """What the function answers"""
    def structure(self, question: Question, seen: dict[str, list[Evidence]]) -> Iterable[Line]:
        """Lines on what no single number shows: rows that hang together, NaN, dtypes"""
    def hypotheses(self, question: Question) -> Iterable[Hypothesis]:
        """Mistakes, each with the answers that it would give"""
    def parts(self, question: Question) -> Iterable[Parts]:
        """Terms whose coefficients can be fitted to what it answers"""
    def probe(self, question: Question, evidence: list[Evidence]) -> tuple[str, str] | None:
        """What is found by changing its inputs one by one: what it says, and the mistake's name"""
    def numeric(self, question: Question, line: Line, seen: dict[str, list[Evidence]]) -> tuple[str, str] | None:
        """A line that fails in extreme numbers alone: what it says, and the mistake's name"""
    def shrunk(self, question: Question, case: Case, row: int) -> Case | None:
        """A simpler case that is as wrong, with that row alone; None where there is none"""
    def describe(self, question: Question, case: Case, row: int) -> str:
        """That row's inputs, in words"""


class Verdicts(NamedTuple):
    """Number by number: the error in units, whether it fails, and whether it is worth a note."""

    units: Array
    fails: Array
    notes: Array


def compare(got: Array, exact: Array, unit: Array, size: Array | float, dtype: Dtype) -> Verdicts:
    """An error fails when it exceeds 16 units and 4 eps of the size that values or slopes have at the reference."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = abs(got - exact)
        unit = np.maximum(unit, 2.0 ** (dtype.least - dtype.digits))
        units = np.asarray(error / unit)
        same = (got == exact) | (np.isnan(got) & np.isnan(exact))
        beyond = (abs(exact) + AGREES * unit >= dtype.most) & np.isinf(got) & (np.sign(got) == np.sign(exact))
        # an infinite unit: the answer hangs on digits that the inputs do not have
        units = np.where(same | beyond | (np.isinf(unit) & ~np.isnan(got)), 0, np.where(np.isnan(units), np.inf, units))
        off = units > AGREES
        tiny = (abs(exact) < dtype.tiny) & (error <= dtype.tiny)
        forgiven = tiny | (error <= FORGIVEN * dtype.eps * np.asarray(size))
    return Verdicts(units, off & ~forgiven, off & forgiven)


def outputs_of(result: Result, question: Question) -> tuple[list[Any], bool]:
    """The outputs, and whether gradients are among them (as told, or as NumPy functions do that return several)"""
    if not result.outputs:
        raise Problem("it returns nothing", "wrong-shape")
    first = result.outputs[0]
    if not isinstance(first, np.ndarray):
        raise Problem(f"it returns a {type(first).__name__}; expected an array of losses", "wrong-shape")
    return result.outputs, question.gradient == "returned" or (
        question.gradient == "auto" and question.framework.gradient is None
    )


def asked(question: Question, told: Mapping[str, Any], hyper: Mapping[str, Any], wrt: Sequence[str]) -> Result:
    """Call the function; what it raises is a `Problem`."""
    keywords = _keywords(question, told, hyper)
    theirs = [name for name, ours in question.call.arrays.items() if ours in wrt]
    try:
        with np.errstate(all="ignore"):
            found = question.framework.call(
                question.call.f, keywords, question.dtype.name, theirs if question.gradient == "auto" else ()
            )
    except Exception as error:
        first = (str(error).strip().splitlines() or [_where(error)])[0][:200]
        raise Problem(f"it raises {type(error).__name__}: {first}") from error
    if found.grads is None:
        return found
    return found._replace(grads={question.call.arrays[name]: g for name, g in found.grads.items()})


def _keywords(question: Question, told: Mapping[str, Any], hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays and hyper-parameters by the names of their parameters, in the form in which it takes them"""
    keywords = question.call.keywords(told, hyper)
    for name, ours in question.call.arrays.items():
        if question.masks == "floats" and ours in ("mask", "attention_mask"):
            keywords[name] = np.asarray(keywords[name], np.longdouble)
        if question.advantages == "tokens" and ours == "advantages":
            keywords[name] = np.repeat(keywords[name][:, None], told["logps"].shape[1], axis=1)
    return keywords


def _where(error: BaseException) -> str:
    """The line that raised, for an exception that says nothing"""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.line} ({frame.filename.rpartition('/')[2]}:{frame.lineno})"


def usual(
    question: Question, got: Got, again: Callable[[], Got], handed: tuple[dict[str, Any], list[str]]
) -> Iterable[Line]:
    """Of any function: is its answer repeated, are its inputs left alone, its dtype kept, and is there a gradient?"""
    second = again()
    same = np.array_equal(got.value, second.value, equal_nan=True) and (
        got.grads is None
        or second.grads is None
        or all(np.array_equal(grad, second.grads[name], equal_nan=True) for name, grad in got.grads.items())
    )
    yield (
        Line("the same twice", OK, 0.0)
        if same
        else Line(
            "the same twice",
            FAIL,
            np.inf,
            "the same inputs give other numbers the second time",
            mistake="not-deterministic",
        )
    )
    told, _ = handed
    try:
        result = question.framework.call(
            question.call.f, _keywords(question, told, question.hyper), question.dtype.name, ()
        )
    except Exception as error:
        yield Line("inputs untouched", FAIL, np.inf, f"without gradients it raises {type(error).__name__}")
    else:
        yield (
            Line("inputs untouched", OK, 0.0)
            if not result.moved
            else Line(
                "inputs untouched", FAIL, np.inf, f"it writes into {', '.join(result.moved)}", mistake="mutates-inputs"
            )
        )
    lower = DTYPES.get(got.dtype)
    if lower and lower.digits < question.dtype.digits:
        yield Line(
            "dtype kept", FAIL, np.inf, f"given {question.dtype.name} it returns {got.dtype}", mistake="downcast"
        )
    else:
        yield Line("dtype kept", OK, 0.0)
    if got.grads is None and question.gradient != "none" and question.framework.gradient:
        mistake = "python-float" if "Python" in got.no_gradient else "detach-misplaced"
        yield Line("gradient", FAIL, np.inf, f"no gradient: {got.no_gradient}", mistake=mistake)
    elif got.grads is None:
        yield Line("gradient", SKIPPED, 0.0, "not seen: it returns values only")
