"""What the notebooks teach with: predictions that are written down before the answer, exercises that name mistakes.

    predict(question, answer)     write yours down; `.reveal(truth)` holds it against what is so
    exercise(name)                a task; `.hint()`, `.check(yours)`, `.solve()`
    exercises()                   all of them, by notebook
"""

from .exercises import Exercise, exercise, exercises
from .predictions import Prediction, predict

__all__ = ["Exercise", "Prediction", "exercise", "exercises", "predict"]
