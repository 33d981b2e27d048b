"""A prediction is written down before the cell that reveals: a wrong one teaches most."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

__all__ = ["Prediction", "predict"]

Answer = str | float
WIDTH = 100


@dataclass(frozen=True)
class Prediction:
    """What somebody expects, and of what; made by `predict`."""

    question: str
    answer: Answer
    among: tuple[str, ...] = ()

    def reveal(self, truth: Answer, because: str = "", within: float | None = None) -> None:
        """Print what was predicted beside what is so

        truth    one of the choices, or a number
        because  a sentence on why it is so, printed whether the prediction was right or wrong
        within   how far a predicted number may be off; by default a tenth of its size

        Raises `ValueError` if `truth` is no answer to the question: a word for a number, or none of the choices.

        >>> predict("the loss of a policy that equals its reference, in nats", 0.5).reveal(0.693147)
        PREDICT  the loss of a policy that equals its reference, in nats
        you say  0.5
        REVEAL   0.693147; you said 0.5
        """
        truth = _answer("truth", truth, self.among)
        if isinstance(truth, str) or isinstance(self.answer, str):
            right = truth == self.answer
        else:
            right = abs(truth - self.answer) <= (abs(truth) / 10 if within is None else within)
        said = "as you said" if right else "you said"
        _tell("REVEAL", f"{_short(truth)}; {said}{'' if right and truth == self.answer else f' {_short(self.answer)}'}")
        if because:
            _tell("", because)


def predict(question: str, answer: Answer, among: Sequence[str] = ()) -> Prediction:
    """Write down what you expect: one of the words of `among`, or, without them, a number

    Prints question and answer, so that the notebook's output keeps them.

    Raises `ValueError` if `answer` is missing, not among the choices, or no finite number, or if `among` is one word.

    >>> mine = predict("will the chosen answer's log-prob rise or fall?", "rise", among=["rise", "fall"])
    PREDICT  will the chosen answer's log-prob rise or fall? (rise or fall)
    you say  rise
    >>> mine.reveal("fall", because="only the gap is trained")
    REVEAL   fall; you said rise
             only the gap is trained
    """
    if isinstance(among, str):
        raise ValueError(f"among is {among!r}, expected a list of words")
    made = Prediction(question, _answer("answer", answer, tuple(among)), tuple(among))
    _tell("PREDICT", question + (f" ({' or '.join(among)})" if among else ""))
    _tell("you say", _short(made.answer))
    return made


def _answer(name: str, answer: object, among: tuple[str, ...]) -> Answer:
    if among:
        found = [word for word in among if isinstance(answer, str) and word.casefold() == answer.strip().casefold()]
        if not found:
            raise ValueError(f"{name} is {answer!r}, expected one of {', '.join(map(repr, among))}")
        return found[0]
    if isinstance(answer, (bool, str)) or not isinstance(answer, Real) or not math.isfinite(answer):
        raise ValueError(f"{name} is {answer!r}, expected a finite number")
    return float(answer)


def _short(answer: Answer) -> str:
    return answer if isinstance(answer, str) else f"{answer:.6g}"


def _tell(label: str, text: str) -> None:
    print(textwrap.fill(text, WIDTH, initial_indent=f"{label:<9}", subsequent_indent=" " * 9))
