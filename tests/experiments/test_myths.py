"""MYTHS.md is what its script writes, and each of its rows what claims say that hold."""

import importlib.util
import sys
from pathlib import Path

import pytest
from conftest import of_defaults  # that of this folder

from toy_models.experiments import EXPERIMENTS, Claim

SCRIPT = Path(__file__).parents[2] / "docs" / "myths.py"
spec = importlib.util.spec_from_file_location("myths", SCRIPT)
myths = sys.modules["myths"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(myths)

LINES = myths.PAGE.read_text(encoding="utf-8").splitlines()


def claims_of(name):
    return EXPERIMENTS[name].claims(of_defaults(name))


@pytest.mark.parametrize("experiment", sorted({name for myth in myths.MYTHS for name in myth.needs}))
def test_rows_say_what_claims_say(experiment):
    """Those whose first experiment it is: the tests of an experiment share a process"""
    for myth in myths.MYTHS:
        if myth.shown[0][0] == experiment:
            assert myth.row(claims_of) in LINES, myth.said


def test_the_page_has_its_head_and_its_rows_and_nothing_else():
    assert "\n".join(LINES[:-len(myths.MYTHS)]) + "\n" == myths.HEAD
    assert [line.split(" | ")[0].removeprefix("| ") for line in LINES[-len(myths.MYTHS):]] == [
        myth.said for myth in myths.MYTHS]


@pytest.mark.parametrize("claims", [
    {}, {"it is so: number": Claim(False, 2.0, "> 3")}, {"it is so: one": Claim(True, 2.0, "> 1")} | {
        "it is so: two": Claim(True, 2.0, "> 1")},
])
def test_a_row_whose_claim_does_not_hold_is_refused(claims):
    myth = myths.Myth("They say.", "It is {0:.1f}.", (("noise", "it is so"),))
    with pytest.raises(ValueError, match=r"noise: \d claims begin with 'it is so'; expected one"):
        myth.row(lambda name: claims)
    row = myth.row(lambda name: {"it is so: number": Claim(True, 2.0, "> 1")})
    assert row == "| They say. | It is 2.0. | `noise` |"
