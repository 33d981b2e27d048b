"""What is said of a Config's fields, and what their values may be."""

from dataclasses import dataclass, replace
from math import inf, nan

import numpy as np
import pytest

from toy_models.experiments._config import explained, require, streams


@dataclass(frozen=True)
class Config:
    """Of nothing.

    Words that explain no field  are no field.

    seed, count   of what is
                  drawn
    beta          an exchange rate
    eps           of flips:
                    a share
    betas, rule   more

    last words    after a blank line begin again
    """

    seed: int = 0
    count: int = 3
    beta: float = 1.0
    eps: float = 0.0
    shift: float = -1.0
    betas: tuple[float, ...] = (1.0, 2.0)
    rule: str = "mean"
    rules: tuple[str, ...] = ("mean",)
    fast: bool = False

    def __post_init__(self) -> None:
        require(self, positive=("beta", "betas"), shares=("eps",), least={"count": 2}, nonnegative=(),
                choices={"rule": ("mean", "sum"), "rules": ("mean", "sum")})


def test_fields_are_explained_by_the_lines_that_name_them():
    found = explained(Config)
    assert found["seed"] == found["count"] == "of what is drawn"
    assert found["beta"] == "an exchange rate" and found["eps"] == "of flips: a share"
    assert found["betas"] == found["rule"] == "more"


@pytest.mark.parametrize(("setting", "sentence"), [
    ({"seed": -1}, "seed is -1; expected a whole number, at least 0"),
    ({"seed": 1.0}, "seed is 1.0; expected a whole number, at least 0"),
    ({"count": 1}, "count is 1; expected a whole number, at least 2"),
    ({"count": True}, "count is True; expected a whole number, at least 2"),
    ({"beta": 0.0}, "beta is 0.0; expected a finite number above 0"),
    ({"beta": nan}, "beta is nan; expected a finite number"),
    ({"beta": inf}, "beta is inf; expected a finite number"),
    ({"beta": True}, "beta is True; expected a finite number"),
    ({"beta": "1"}, "beta is 1; expected a finite number"),
    ({"eps": 1.0}, "eps is 1.0; expected at least 0 and below 1"),
    ({"eps": -0.1}, "eps is -0.1; expected at least 0 and below 1"),
    ({"shift": inf}, "shift is inf; expected a finite number"),
    ({"betas": (1.0, -1.0)}, "betas holds -1.0; expected a finite number above 0"),
    ({"betas": ()}, "betas is empty; expected at least one value"),
    ({"rule": "median"}, "rule is median; expected one of mean, sum"),
    ({"rules": ("mean", "x")}, "rules holds x; expected one of mean, sum"),
])
def test_a_value_that_makes_no_sense_is_refused_in_a_sentence(setting, sentence):
    with pytest.raises(ValueError, match="^" + sentence.replace("(", r"\(") + "$"):
        Config(**setting)


@pytest.mark.parametrize("setting", [{"seed": 7}, {"count": 2}, {"beta": 1e-300}, {"beta": 2}, {"eps": 0.0},
                                     {"betas": (3.0,)}, {"rule": "sum"}, {"fast": True}, {"shift": 0.0}])
def test_a_value_that_makes_sense_is_kept(setting):
    assert replace(Config(), **setting) == Config(**setting)


def test_zero_may_be_allowed():
    @dataclass(frozen=True)
    class Lenient:
        x: float = 0.0

    require(Lenient(), nonnegative=("x",))
    with pytest.raises(ValueError, match=r"x is -1.0; expected a finite number, at least 0"):
        require(Lenient(-1.0), nonnegative=("x",))


def test_a_replicate_does_not_know_how_many_there_are():
    few, many = streams(5, 2), streams(5, 4)
    assert [g.integers(1 << 60) for g in few] == [g.integers(1 << 60) for g in many][:2]
    draws = {int(g.integers(1 << 60)) for seed in range(3) for g in streams(seed, 3)}
    assert len(draws) == 9 and isinstance(few[0], np.random.Generator)
