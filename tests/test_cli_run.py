"""`dpo-numpy run`: the list, an experiment with its settings, its files, and one sentence for whatever is wrong."""

import csv
import errno
import json
import os

import a_toy_experiment
import numpy as np
import pytest

from dpo_numpy import cli
from dpo_numpy.cli.outcome import carried_out, draw, tidy
from toy_models.experiments import EXPERIMENTS

pytestmark = pytest.mark.usefixtures("sketched")


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    for name, module in a_toy_experiment.modules().items():
        monkeypatch.setitem(EXPERIMENTS, name, module)


def said(capsys, *words):
    code = cli.main(["run", *map(str, words)])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err


def test_without_a_name_all_are_listed_with_their_claims(capsys):
    code, out, err = said(capsys)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    starts = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert starts == [*EXPERIMENTS] and starts[-2:] == ["toy", "plain"]
    assert any(line.startswith("toy ") and line.endswith(" A mean of few draws is small.") for line in lines)
    assert max(map(len, lines)) <= 110


def test_claims_are_lines_with_verdict_number_and_where_it_has_to_be(capsys):
    code, out, err = said(capsys, "toy", "--beta", "1e-3")
    assert (code, err) == (0, "")
    assert out.startswith("toy: A mean of few draws is small.\n\nbeta 0.001 <table>\n\nok  ")
    assert "\nok      0.001  > 0    β is positive: β\n" in out
    assert "\n2 of 2 claims hold, " in out


@pytest.mark.parametrize("spelled", ["toy", "five-roads", "five_roads"])
def test_settings_are_told_by_help(capsys, spelled):
    code, out, _ = said(capsys, spelled, "--help")
    assert code == 0
    assert "--seed X" in out and "--output_dir" in out and "--out FOLDER" in out
    if spelled == "toy":
        assert "a list (default: 1.0 2.0)" in out and "a switch (default: false)" in out
        assert "of the draws (default: 3)" in out


def test_settings_reach_the_config_in_their_types(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(EXPERIMENTS["toy"], "run", lambda config: seen.append(config) or a_toy_experiment.run(config))
    said(capsys, "toy", "--beta", "0.5", "--n=3", "--kind", "uniform", "--betas", "1", "2,3", "--fast", "--seed", "7")
    said(capsys, "toy", "--fast", "false")
    assert seen == [a_toy_experiment.Config(beta=0.5, n=3, kind="uniform", betas=(1.0, 2.0, 3.0), fast=True, seed=7),
                    a_toy_experiment.Config()]
    assert type(seen[0].n) is int and type(seen[0].betas) is tuple


@pytest.mark.parametrize(("words", "sentence"), [
    (["toi"], "no experiment is called 'toi'; did you mean toy? There are "),
    (["qqqq"], "no experiment is called 'qqqq'. There are z_cancels"),
    (["toy", "--beta", "x"], "beta is 'x'; expected a number"),
    (["toy", "--n", "1.5"], "n is '1.5'; expected a whole number"),
    (["toy", "--fast", "maybe"], "fast is 'maybe'; expected true or false"),
    (["toy", "--beta", "-1"], "beta is -1.0; expected a finite number above 0"),
    (["toy", "--beta", "nan"], "beta is nan; expected a finite number"),
    (["toy", "--kind", "heavy"], "kind is heavy; expected one of normal, uniform"),
    (["toy", "--betas", "1,x"], "betas is 'x'; expected a number"),
    (["toy", "--betas", ","], "betas is empty; expected at least one value"),
    (["toy", "--bet", "1"], "unrecognized arguments: --bet 1; did you mean --beta? (dpo-numpy run toy --help lists"),
    (["toy", "--trouble", "no optimum"], "toy cannot be run at these settings: there is no optimum"),
    (["--out", "x", "toy"], "unrecognized arguments: --out"),
])
def test_what_makes_no_sense_is_one_sentence(capsys, words, sentence):
    code, out, err = said(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"dpo-numpy: {sentence}") and err.count("\n") == 1


@pytest.mark.parametrize(("trouble", "code", "shown"), [
    ("fails", 1, "\nFAIL "),
    ("undecided", 1, "cannot be evaluated at these settings: the mean is small <&>: largest"),
    ("no claims", 1, "FAIL  the claims cannot be evaluated: KeyError: 'mean'"),
    ("no data", 0, "skipped: DPO_NUMPY_DATA names no folder"),
])
def test_a_claim_that_fails_or_cannot_be_told_is_exit_code_1_and_one_that_is_skipped_is_not(
        capsys, tmp_path, trouble, code, shown):
    found, out, err = said(capsys, "toy", "--trouble", trouble, "--out", tmp_path / "o")
    assert (found, err) == (code, "") and shown in out
    assert (tmp_path / "o").exists() == (trouble != "no data")
    if code:
        told = json.loads((tmp_path / "o" / "claims.json").read_text())
        assert told["holds"] is False and told["skipped"] is None


# ---- files

def test_the_folder_holds_arrays_table_claims_and_pictures(capsys, tmp_path, rendered):
    folder = tmp_path / "a" / "b"
    code, out, _ = said(capsys, "toy", "--beta", "0.5", "--output_dir", folder)
    assert code == 0 and f"written to {folder}: config.json, env.json, result.npz" in out
    assert sorted(os.listdir(folder)) == ["claims.json", "config.json", "env.json", "figure.png", "figure.svg",
                                          "result.csv", "result.npz"]
    expected = a_toy_experiment.run(a_toy_experiment.Config(beta=0.5))
    with np.load(folder / "result.npz", allow_pickle=False) as held:
        assert set(held.files) == set(expected)
        for name in held.files:
            np.testing.assert_array_equal(held[name], expected[name])
    rows = list(csv.reader((folder / "result.csv").read_text().splitlines()))
    assert rows[0] == ["name", "index", "value"]
    assert [float(value) for name, _, value in rows if name == "mean"] == expected["mean"].tolist()
    for row in ("grid", "1 2", "5.0"), ("grid", "0 1", "1.0"), ("name", "1", "b, c"), ("beta", "", "0.5"):
        assert [*row] in rows
    told = json.loads((folder / "claims.json").read_text())
    assert told["experiment"] == "toy" and told["config"]["betas"] == [1.0, 2.0] and told["holds"] is True
    assert told["claims"][1] == {"claim": "β is positive: β", "holds": True, "expected": "> 0", "number": 0.5}
    assert (folder / "figure.png").read_bytes()[:4] == b"\x89PNG" and b"<svg" in (folder / "figure.svg").read_bytes()
    assert json.loads((folder / "config.json").read_text())["program"] == "dpo-numpy run"


def test_a_number_that_is_none_is_a_word_in_json(capsys, tmp_path):
    said(capsys, "toy", "--trouble", "undecided", "--out", tmp_path / "o")
    text = (tmp_path / "o" / "claims.json").read_text()
    assert json.loads(text, parse_constant=lambda word: pytest.fail(word))["claims"][0]["number"] == "nan"


def test_the_same_run_writes_the_same_pictures(capsys, tmp_path, rendered):
    for name in "ab":
        said(capsys, "toy", "--out", tmp_path / name)
    for kind in ("png", "svg"):
        assert (tmp_path / "a" / f"figure.{kind}").read_bytes() == (tmp_path / "b" / f"figure.{kind}").read_bytes()


def test_what_is_there_is_replaced_only_when_asked(capsys, tmp_path):
    folder = tmp_path / "o"
    said(capsys, "toy", "--out", folder)
    before = (folder / "claims.json").read_bytes()
    code, _, err = said(capsys, "toy", "--beta", "2", "--out", folder)
    assert code == 2 and "is not empty: --overwrite_output_dir removes it, or name another --output_dir" in err
    assert "--resume" not in err and (folder / "claims.json").read_bytes() == before
    (folder / "mine.txt").write_text("mine")
    code, _, _ = said(capsys, "toy", "--beta", "0.2", "--out", folder, "--overwrite_output_dir")
    assert code == 0 and json.loads((folder / "claims.json").read_text())["config"]["beta"] == 0.2
    assert (folder / "mine.txt").read_text() == "mine"


def test_a_folder_of_another_program_is_not_touched(capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"program": "dpo-numpy train"}')
    code, _, err = said(capsys, "toy", "--out", tmp_path, "--overwrite_output_dir")
    assert code == 2 and "was not written by dpo-numpy run" in err


def test_a_full_disk_is_a_sentence_and_leaves_nothing_half_written(capsys, tmp_path, monkeypatch):
    real, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if str(target).endswith("figure.png"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    code, out, err = said(capsys, "toy", "--out", tmp_path / "o")
    assert code == 2 and "figure.png cannot be written: No space left on device" in err
    assert "claims hold" in out
    assert not [name for name in os.listdir(tmp_path / "o") if name.endswith(".tmp") or name == "claims.json"]


# ---- pieces

def test_panels_share_a_figure_two_in_a_row():
    toy, plain = EXPERIMENTS["toy"], EXPERIMENTS["plain"]
    figure = draw(carried_out(toy, toy.Config()))
    assert [axes.has_data() for axes in figure.axes] == [True, True, True, False]
    assert len(draw(carried_out(plain, plain.Config())).axes) == 1


def test_a_table_of_nothing_is_its_head():
    assert tidy({}) == "name,index,value\n"
