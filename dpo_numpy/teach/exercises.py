"""Tasks for a reader, and a checker that names the mistake.

An exercise is a function to write, or a value to find. It knows what is right (from the library), a solution written
out, and the mistakes that people make, as functions that make them: who answers as one of them does is told its name.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LESSONS", "Exercise", "exercise", "exercises"]

#: the notebooks that have exercises: notebooks/NN_NAME.py, dpo_numpy/teach/lessons/NAME.py
LESSONS = (
    "one_page",
    "derivation",
    "gradient",
    "four_models",
    "bradley_terry",
    "beta",
    "winning_not_likelier",
    "length",
    "distribution_shift",
    "which_variant",
    "family",
    "verify_yours",
    "capstone",
)
WIDTH = 100
Answers = Callable[..., Any]


@dataclass(frozen=True)
class Exercise:
    """A task, and how an answer is judged

    name      by which `exercise` finds it
    task      what is asked for, with arguments, order of results and units
    clue      what `hint` prints
    right     called with each case: the right results, computed by the library
    written   the solution, written out as a reader would; `solve` prints it
    mistakes  sentence -> a function that makes this mistake
    cases     arguments for each call; one empty call where a value is asked for
    rtol      relative distance that is still right
    """

    name: str
    task: str
    clue: str
    right: Answers
    written: Answers
    mistakes: Mapping[str, Answers] = field(default_factory=dict)
    cases: Sequence[tuple[Any, ...]] = ((),)
    rtol: float = 1e-6

    def __str__(self) -> str:
        return "\n".join(textwrap.fill(line, WIDTH) for line in [f"EXERCISE {self.name}", *self.task.splitlines()])

    def hint(self) -> None:
        """Print what may help"""
        print(textwrap.fill(f"HINT  {self.clue}", WIDTH))

    def solve(self) -> None:
        """Print a solution"""
        print(textwrap.dedent(inspect.getsource(self.written)).rstrip())

    def check(self, theirs: Any) -> None:
        """Print whether `theirs` is right, and if not, the mistake; a function, or the value asked for

        >>> from dpo_numpy.teach import exercise
        >>> exercise("pair_gradient").check(lambda pc, pr, rc, rr, beta: (0.0, 0.0))
        EXERCISE pair_gradient
        ...
        NOT YET  at pc = -2.1, pr = -4.5, rc = -3, rr = -3.2, beta = 0.1: yours gives (0, 0), expected
                 (-0.0445221, 0.0445221)
        """
        wrong = self.verdict(theirs)
        said = f"NOT YET  {wrong}" if wrong else f"RIGHT    {self.name}"
        print(textwrap.fill(said, WIDTH, subsequent_indent=" " * 9))

    def verdict(self, theirs: Any) -> str:
        """What is wrong with `theirs`, in a sentence; nothing if nothing is"""
        if callable(theirs):
            answers: Answers = theirs
        elif self.cases == ((),):
            answers = lambda: theirs  # noqa: E731
        else:
            return f"{_shown(theirs)} is no function; expected one of ({', '.join(self._arguments())})"
        expected = [_numbers(self.right(*case)) for case in self.cases]
        found: list[NDArray[Any]] = []
        for case, truth in zip(self.cases, expected, strict=True):
            answer = self._answer(answers, case, truth)
            if isinstance(answer, str):
                return answer
            found.append(answer)
        if self._same(found, expected):
            return ""
        for sentence, mistaken in self.mistakes.items():
            if self._same(found, [_numbers(mistaken(*case)) for case in self.cases]):
                return sentence
        return self._difference(found, expected)

    def _answer(self, answers: Answers, case: tuple[Any, ...], truth: NDArray[Any]) -> NDArray[Any] | str:
        """What a reader's function gives for a case; a sentence where that is nothing to compare with the truth"""
        try:
            result = answers(*deepcopy(case))  # which a reader's function may write into
        except Exception as error:  # whatever a reader's function raises is told to the reader
            return f"{self._at(case)}it raises {type(error).__name__}: {error}"
        if result is None:
            return f"{self._at(case)}it gives None: is there a return?"
        try:
            numbers = _numbers(result)
        except (TypeError, ValueError):
            like = f"numbers like {_shown(truth)}" if case else _count(truth)  # or the answer would be given away
            return f"{self._at(case)}yours gives {_shown(result)}, expected {like}"
        if numbers.shape != truth.shape or numbers.dtype.kind != truth.dtype.kind:
            boxed = " in a list" if _count(numbers) == _count(truth) and numbers.ndim > truth.ndim else ""
            return f"{self._at(case)}yours gives {_shown(result)}, {_count(numbers)}{boxed}; expected {_count(truth)}"
        return numbers

    def _difference(self, found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> str:
        """Where answers that make no known mistake go wrong first"""
        case, mine, truth = next(each for each in zip(self.cases, found, expected, strict=True)
                                 if not self._same(each[1:2], each[2:]))
        if truth.dtype.kind == "f":
            if case and not np.isfinite(mine).all() and np.isfinite(truth).all():
                return f"{self._at(case)}yours gives {_shown(mine)}: something overflows; expected {_shown(truth)}"
            factor = self._factor(found, expected)
            if case and factor is not None:
                return f"right but for a factor: yours is {factor:.6g} times what is expected"
        if not case:  # the answer would be given away
            return f"{_shown(mine)} it is not"
        if truth.dtype.kind == "f" and truth.size > 8:
            far = tuple(map(int, np.unravel_index(np.abs(mine - truth).argmax(), truth.shape)))
            where = ", ".join(map(str, far))
            return f"{self._at(case)}entry [{where}] of yours is {_shown(mine[far])}, expected {_shown(truth[far])}"
        return f"{self._at(case)}yours gives {_shown(mine)}, expected {_shown(truth)}"

    def _same(self, some: Sequence[NDArray[Any]], others: Sequence[NDArray[Any]]) -> bool:
        return all(
            x.shape == y.shape and bool(
                np.allclose(x, y, rtol=self.rtol, atol=self.rtol * _size(y), equal_nan=True) if y.dtype.kind == "f"
                else (x == y).all())
            for x, y in zip(some, others, strict=True))

    def _factor(self, found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float | None:
        mine, truth = np.concatenate([*map(np.ravel, found)]), np.concatenate([*map(np.ravel, expected)])
        if mine.size < 2 or not (truth.any() and mine.any() and np.isfinite([mine, truth]).all()):
            return None
        factor = float(mine @ truth / (truth @ truth))
        if abs(factor - 1) <= self.rtol:  # what is wrong is small beside the largest
            return None
        return factor if self._same(found, [factor * each for each in expected]) else None

    def _arguments(self) -> list[str]:
        return [*inspect.signature(self.written).parameters]

    def _at(self, case: tuple[Any, ...]) -> str:
        named = zip(self._arguments(), (textwrap.shorten(_shown(value), 60, placeholder=" ...") for value in case),
                    strict=False)
        return f"at {', '.join(f'{name} = {value}' for name, value in named)}: " if case else ""


def exercise(name: str) -> Exercise:
    """The exercise of that name, printed

    Raises `ValueError` if there is none.

    >>> mine = exercise("pair_gradient")
    EXERCISE pair_gradient
    Write gradient(pc, pr, rc, rr, beta): log-probs of chosen and rejected under the policy, then under the
    reference, in nats. Return ∂L/∂pc, ∂L/∂pr of the DPO loss.
    """
    named = {found.name: found for found in exercises()}
    if name not in named:
        raise ValueError(f"name is {name!r}, expected one of {', '.join(named)}")
    print(named[name])
    return named[name]


def exercises() -> list[Exercise]:
    """All of them, in the order of the notebooks"""
    return [found for lesson in LESSONS for found in import_module(f"{__package__}.lessons.{lesson}").EXERCISES]


def _numbers(result: Any) -> NDArray[Any]:
    """What was given, as an array of floats or of words; a tuple of arrays end to end

    Raises `TypeError` or `ValueError` on anything else: NumPy would make NaN of None, and drop an imaginary part.
    """
    if isinstance(result, tuple) and any(np.ndim(part) for part in result):
        return np.concatenate([np.ravel(_numbers(part)) for part in result])
    array = np.asarray(result)
    if array.dtype.kind == "c" or any(x is None for x in array.flat):
        raise TypeError
    return np.char.lower(np.char.strip(array)) if array.dtype.kind == "U" else array.astype(float)


def _size(array: NDArray[Any]) -> float:
    return float(np.abs(array).max(initial=0.0, where=np.isfinite(array)))


def _count(array: NDArray[Any]) -> str:
    kind = "word" if array.dtype.kind == "U" else "number"
    shape = f" of shape {array.shape}" if array.ndim > 1 else ""
    return f"{array.size} {kind}{'s' if array.size != 1 else ''}{shape}"


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_shown, value))})"
    if isinstance(value, np.ndarray):
        return _shown(value.tolist()) if value.ndim else _shown(value.item())
    return f"{value:.6g}" if isinstance(value, (float, np.floating)) else str(value)

