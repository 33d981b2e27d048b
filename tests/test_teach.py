"""Predictions are kept; every exercise accepts its solution and names its mistakes."""

import math
import re

import numpy as np
import pytest

from dpo_numpy import teach
from dpo_numpy.teach.exercises import LESSONS, Exercise

EXERCISES = {each.name: each for each in teach.exercises()}


# ---- predictions

def test_a_prediction_is_printed_when_it_is_made_and_when_it_is_held_against_the_truth(capsys):
    mine = teach.predict("how many?", 3, among=())
    assert capsys.readouterr().out == "PREDICT  how many?\nyou say  3\n"
    mine.reveal(3)
    assert capsys.readouterr().out == "REVEAL   3; as you said\n"
    mine.reveal(3.2, because="so it is")
    assert capsys.readouterr().out == "REVEAL   3.2; as you said 3\n         so it is\n"
    mine.reveal(4)
    assert capsys.readouterr().out == "REVEAL   4; you said 3\n"
    mine.reveal(3.2, within=0.1)
    assert capsys.readouterr().out == "REVEAL   3.2; you said 3\n"


def test_a_word_is_one_of_the_choices_however_it_is_written(capsys):
    teach.predict("which?", " Rise ", among=["rise", "fall"]).reveal("rise")
    assert capsys.readouterr().out == "PREDICT  which? (rise or fall)\nyou say  rise\nREVEAL   rise; as you said\n"


@pytest.mark.parametrize("answer", [None, math.nan, math.inf, "3", True, [3]])
def test_no_number_is_no_prediction(answer):
    with pytest.raises(ValueError, match=re.escape(f"answer is {answer!r}, expected a finite number")):
        teach.predict("how many?", answer)


@pytest.mark.parametrize("answer", [None, "...", 1, ""])
def test_no_choice_is_no_prediction(answer):
    with pytest.raises(ValueError, match=re.escape(f"answer is {answer!r}, expected one of 'rise', 'fall'")):
        teach.predict("which?", answer, among=["rise", "fall"])


def test_one_word_is_no_choice():
    with pytest.raises(ValueError, match="among is 'rise', expected a list of words"):
        teach.predict("which?", "r", among="rise")  # whose letters would be the choices


def test_what_is_revealed_answers_the_question():
    with pytest.raises(ValueError, match="truth is 'grows', expected one of 'rise', 'fall'"):
        teach.predict("which?", "rise", among=["rise", "fall"]).reveal("grows")


# ---- exercises

def test_names_are_unique_and_every_lesson_has_some():
    assert len(EXERCISES) == len(teach.exercises()) >= len(LESSONS)


@pytest.mark.parametrize("name", EXERCISES)
def test_its_solution_is_right(name, capsys):
    found = EXERCISES[name]
    assert found.written is not found.right
    assert found.verdict(found.written) == ""
    found.hint()
    found.solve()
    out = capsys.readouterr().out
    assert out.startswith("HINT  ") and len(found.clue) > 20
    assert "def " in out


@pytest.mark.parametrize("name", EXERCISES)
def test_each_mistake_is_named_and_none_is_the_solution(name):
    found = EXERCISES[name]
    assert len(found.mistakes) >= 2
    for sentence, mistaken in found.mistakes.items():
        with np.errstate(all="ignore"):
            assert found.verdict(mistaken) == sentence


@pytest.mark.parametrize("name", EXERCISES)
def test_another_wrong_answer_is_wrong_too(name):
    found = EXERCISES[name]
    if isinstance(found.right(*found.cases[0]), str):
        assert found.verdict("none of these") != ""
        return

    def shifted(*case):
        truth = found.right(*case)
        return tuple(np.add(part, 0.7310) for part in truth) if isinstance(truth, tuple) else np.add(truth, 0.7310)

    assert found.verdict(shifted) not in {"", *found.mistakes}


@pytest.mark.parametrize("name", EXERCISES)
def test_it_is_printed_when_it_is_asked_for(name, capsys):
    assert teach.exercise(name) is EXERCISES[name]
    assert capsys.readouterr().out.startswith(f"EXERCISE {name}\n")


def test_there_is_no_other():
    with pytest.raises(ValueError, match="name is 'hessian', expected one of pair_gradient, "):
        teach.exercise("hessian")


SQUARES = Exercise("squares", "Write square(x).", "Multiply.", np.square, lambda x: x * x,
                   {"that doubles": lambda x: 2 * x}, cases=[(3.0,), (np.array([1.0, -2.0]),)])
INVERSES = Exercise("inverses", "Write inverse(x).", "1 over 0 is inf.", lambda x: 1 / x if x else math.inf,
                    lambda x: 1 / x if x else math.inf, {"that is x": lambda x: x}, cases=[(2.0,), (0.0,)])
LONG, WIDE = (
    Exercise("long", "Write square(x).", "Multiply.", np.square, lambda x: x * x, cases=[(np.arange(n),)])
    for n in (9, 30))
SMALL = Exercise("small", "Return x.", "It is there.", lambda x: x, lambda x: 1 * x, cases=[(1.0,), (1e-12,)])
SIZES = Exercise("sizes", "Write square(x).", "Multiply.", np.square, lambda x: x * x,
                 {"that doubles": lambda x: 2 * x}, cases=[(1.0,), (1e-4,)])
WORD = Exercise("word", "Up or down?", "Up.", lambda: "up", lambda: "up", {"the other way": lambda: "down"})
NINE = Exercise("nine", "What is three times three?", "Multiply.", lambda: 9.0, lambda: 3.0 * 3.0,
                {"that adds": lambda: 6.0})


@pytest.mark.parametrize(
    ("found", "theirs", "says"),
    [
        (SQUARES, lambda x: x * x, ""),
        (SQUARES, lambda x: x + x, "that doubles"),
        (SQUARES, lambda x: None, "at x = 3: it gives None: is there a return?"),
        (SQUARES, lambda x: 3 * x * x, "right but for a factor: yours is 3 times what is expected"),
        (SQUARES, lambda x: x**3, "at x = 3: yours gives 27, expected 9"),
        (SQUARES, abs, "at x = 3: yours gives 3, expected 9"),
        (SQUARES, lambda x: x * x if np.ndim(x) == 0 else x, "at x = (1, -2): yours gives (1, -2), expected (1, 4)"),
        (SQUARES, lambda x: (x * x, x), "at x = 3: yours gives (9, 3), 2 numbers; expected 1 number"),
        (SQUARES, lambda x: x * math.inf, "at x = 3: yours gives inf: something overflows; expected 9"),
        (SQUARES, lambda x: x / 0, "at x = 3: it raises ZeroDivisionError: float division by zero"),
        (SQUARES, lambda: 1, "at x = 3: it raises TypeError: "),
        (SQUARES, lambda x: {"x": x}, "at x = 3: yours gives {'x': 3.0}, expected numbers like 9"),
        (SQUARES, lambda x: (None, x), "at x = 3: yours gives (None, 3), expected numbers like 9"),
        (SQUARES, lambda x: x * x + 1j, "at x = 3: yours gives (9+1j), expected numbers like 9"),
        (SQUARES, lambda x: "nine", "at x = 3: yours gives nine, 1 word; expected 1 number"),
        (SQUARES, 9.0, "9 is no function; expected one of (x)"),
        (INVERSES, lambda x: 3 / x if x else math.inf, "at x = 2: yours gives 1.5, expected 0.5"),
        (SMALL, lambda x: x + 1e-12, "at x = 1e-12: yours gives 2e-12, expected 1e-12"),
        (LONG, lambda x: np.where(x == 4, 0, x * x), "at x = (0, 1, 2, 3, 4, 5, 6, 7, 8): entry [4] of yours is 0"),
        (LONG, lambda x: x + 1, "at x = (0, 1, 2, 3, 4, 5, 6, 7, 8): entry [8] of yours is 9, expected 64"),
        (WIDE, lambda x: x + 1, "at x = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, ...: entry"),
        (SIZES, lambda x: -x * x if x > 0.5 else 0.0, "at x = 1: yours gives -1, expected 1"),
        (WORD, " Up ", ""),
        (WORD, "Down", "the other way"),
        (WORD, "left", "left it is not"),
        (NINE, 9, ""),
        (NINE, 6, "that adds"),
        (NINE, 10.0, "10 it is not"),
        (NINE, math.nan, "nan it is not"),
        (NINE, ..., "yours gives Ellipsis, expected 1 number"),
        (NINE, "nine", "yours gives nine, 1 word; expected 1 number"),
        (NINE, [9.0], "yours gives (9), 1 number in a list; expected 1 number"),
    ],
)
def test_what_the_checker_says(found, theirs, says):
    verdict = found.verdict(theirs)
    assert verdict.startswith(says) if says else verdict == ""


def test_who_writes_into_an_argument_leaves_the_case_as_it_was():
    def in_place(x):
        x *= x
        return x

    for _ in range(2):
        assert SQUARES.verdict(in_place) == ""
    assert SQUARES.cases[1][0].tolist() == [1.0, -2.0]


def test_what_a_value_should_be_is_not_given_away():
    assert all("9" not in NINE.verdict(wrong) for wrong in (8.0, 10.0, math.inf, "nein", ..., 1j, [[1], [1, 2]]))
