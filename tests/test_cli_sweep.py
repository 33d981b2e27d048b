"""`dpo-numpy sweep`: the grid's grammar, rows and picture, going on after a stop, a sentence for what is wrong."""

import csv
import os

import a_toy_experiment
import numpy as np
import pytest

from dpo_numpy import cli
from dpo_numpy.cli.sweep import _measures, draw, read_axis
from toy_models.experiments import EXPERIMENTS
from toy_models.experiments._sweep import cell_seed

pytestmark = pytest.mark.usefixtures("sketched")


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    for name, module in a_toy_experiment.modules().items():
        monkeypatch.setitem(EXPERIMENTS, name, module)


def swept(capsys, *words):
    code = cli.main(["sweep", *map(str, words)])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err


def rows(folder):
    with open(folder / "rows.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("text", "name", "values"), [
    ("beta=0.01:10:log:4", "beta", [0.01, 0.1, 1.0, 10.0]),
    ("beta=1:2:lin:3", "beta", [1.0, 1.5, 2.0]),
    ("n=1:1000:log:4", "n", [1, 10, 100, 1000]),
    ("n=1:3:log:5", "n", [1, 2, 3]),
    ("n=3, 5", "n", [3, 5]),
    ("kind=normal,uniform", "kind", ["normal", "uniform"]),
    ("fast=true,false", "fast", [True, False]),
])
def test_an_axis_is_a_list_or_a_range(text, name, values):
    assert read_axis(EXPERIMENTS["toy"], text) == (name, values)
    assert [type(value) for value in read_axis(EXPERIMENTS["toy"], text)[1]] == [type(value) for value in values]


GRAMMAR = "expected NAME=A,B,C or NAME=FROM:TO:log:COUNT or NAME=FROM:TO:lin:COUNT"


@pytest.mark.parametrize(("words", "sentence"), [
    ([], "expected the name of an experiment"),
    (["toi", "--grid", "beta=1"], "no experiment is called 'toi'; did you mean toy?"),
    (["toy"], f"expected at least one --grid {GRAMMAR.removeprefix('expected ')}"),
    (["toy", "--grid", "beta"], f"grid is 'beta'; {GRAMMAR}"),
    (["toy", "--grid", "beta="], f"grid is 'beta='; {GRAMMAR}"),
    (["toy", "--grid", "beta=1:2"], f"grid is 'beta=1:2'; {GRAMMAR}"),
    (["toy", "--grid", "beta=1:2:exp:3"], f"grid is 'beta=1:2:exp:3'; {GRAMMAR}"),
    (["toy", "--grid", "beta=a:2:log:3"], "grid is 'beta=a:2:log:3'; expected numbers in"),
    (["toy", "--grid", "beta=2:1:log:3"], "grid is 'beta=2:1:log:3'; expected FROM below TO and at least 2 values"),
    (["toy", "--grid", "beta=1:2:log:1"], "grid is 'beta=1:2:log:1'; expected FROM below TO and at least 2 values"),
    (["toy", "--grid", "beta=0:2:log:3"], "grid is 'beta=0:2:log:3'; expected numbers above 0 for log"),
    (["toy", "--grid", "beta=1:inf:lin:3"], "grid is 'beta=1:inf:lin:3'; expected FROM below TO"),
    (["toy", "--grid", "kind=1:2:lin:3"], "grid is 'kind=1:2:lin:3', but kind is no number; expected kind=A,B"),
    (["toy", "--grid", "bta=1"], "no setting is called 'bta'; did you mean beta?"),
    (["toy", "--grid", "betas=1,2"], "grid is over betas, which is itself a list"),
    (["toy", "--grid", "seed=1,2"], "grid is over seed; expected --seeds N"),
    (["toy", "--grid", "n=1.5"], "n is '1.5'; expected a whole number"),
    (["toy", "--grid", "beta=1,-1"], "beta is -1.0; expected a finite number above 0"),
    (["toy", "--grid", "beta=1,1"], "grid: beta holds a value twice; expected each once"),
    (["toy", "--grid", "beta=1", "--grid", "beta=2"], "--grid names a setting twice"),
    (["toy", "--grid", "beta=1", "--beta", "2"], "beta is given by --beta and by --grid; expected one of them"),
    (["toy", "--grid", "beta=1", "--seeds", "0"], "seeds is 0; expected a whole number, at least 1"),
    (["root_n", "--grid", "beta=1"], "seeds is 1, the replicates of a point: replicates is 1; expected a whole number"),
    (["toy", "--grid", "beta=1:2:lin:1000000000"], "grid is 'beta=1:2:lin:1000000000'; expected at most 1,000,000"),
    (["toy", "--grid", "beta=1:2:lin:9999", "--grid", "n=1:9999:lin:9999"],
     "grid and seeds make 99,980,001 cells; expected at most 10,000,000"),
    (["toy", "--grid", "beta=1", "--jobs", "0"], "n_jobs is 0; expected a number of processes"),
    (["toy", "--grid", "beta=1", "--backend", "mpi"], "backend is 'mpi'; expected one of loky, threading, dask, ray"),
    (["toy", "--grid", "beta=1", "--backend", "dask"], "backend dask needs a scheduler"),
    (["toy", "--grid", "beta=1", "--backend", "loky", "--scheduler", "tcp://x:1"],
     "scheduler is an address of dask's, and backend is loky: expected --backend dask"),
    (["toy", "--grid", "beta=1", "--measure", "maen"], "no measure is called 'maen'; did you mean mean?"),
    (["toy", "--grid", "beta=1", "--replicates", "3"], "the replicates of a sweep are its seeds: expected --seeds N"),
    (["plain", "--grid", "x=1,2", "--seeds", "3"], "seeds is 3, but plain draws nothing: expected 1"),
    (["toy", "--grid", "beta=1", "--trouble", "no data"], "toy is skipped: DPO_NUMPY_DATA names no folder"),
])
def test_what_makes_no_sense_is_one_sentence(capsys, tmp_path, words, sentence):
    code, out, err = swept(capsys, *words, *(["--out", tmp_path / "o"] if words else []))
    assert (code, out) == (2, "")
    assert err.startswith(f"dpo-numpy: {sentence}") and err.count("\n") == 1
    begun = ("no measure", "toy is skipped")  # known by running it
    assert (tmp_path / "o").exists() == sentence.startswith(begun)


def test_every_cell_is_a_row_and_every_point_a_median(capsys, tmp_path, rendered):
    code, out, err = swept(capsys, "toy", "--grid", "beta=0.5,2", "--grid", "kind=normal,uniform", "--seeds", 4,
                           "--n", 9, "--out", tmp_path / "o")
    assert (code, err) == (0, "")
    found = rows(tmp_path / "o")
    assert len(found) == 16
    for row in found:
        point = {"beta": float(row["beta"]), "kind": row["kind"]}
        assert int(row["seed"]) == cell_seed(0, point)
        config = a_toy_experiment.Config(**point, n=9, seed=int(row["seed"]), replicates=4)
        assert float(row["mean"]) == a_toy_experiment.run(config)["mean"][int(row["replicate"])]
    median = np.median([float(row["mean"]) for row in found if (row["beta"], row["kind"]) == ("2.0", "uniform")])
    assert f"{median:.4g}" in out and "16 cells\n" in out
    assert sorted(os.listdir(tmp_path / "o")) == ["config.json", "env.json", "rows.csv", "sweep.png"]
    assert (tmp_path / "o" / "sweep.png").read_bytes()[:4] == b"\x89PNG"


def test_a_sweep_goes_on_in_a_grid_that_has_grown(capsys, tmp_path):
    folder = tmp_path / "o"
    swept(capsys, "toy", "--grid", "beta=1,2", "--seeds", 2, "--out", folder)
    before = (folder / "rows.csv").read_bytes()
    code, _, err = swept(capsys, "toy", "--grid", "beta=1,2", "--out", folder)
    assert code == 2 and "--resume goes on with the run that is there" in err
    code, out, _ = swept(capsys, "toy", "--grid", "beta=1,2,3", "--seeds", 2, "--out", folder, "--resume")
    assert code == 0 and "6 cells" in out
    assert (folder / "rows.csv").read_bytes().startswith(before) and len(rows(folder)) == 6
    for words, sentence in ((["--n", 3], "settings is {'n': 3}, but the sweep to resume was started with {}"),
                            (["--seed", 3], "seed is 3, but the sweep to resume was started with 0"),
                            (["--grid", "n=3"], "grid is over beta, n, but the sweep to resume was started over beta")):
        code, _, err = swept(capsys, "toy", "--grid", "beta=1", "--out", folder, "--resume", *words)
        assert code == 2 and sentence in err
        assert '"n"' not in (folder / "config.json").read_text()
    assert swept(capsys, "toy", "--grid", "beta=1", "--n", 3, "--out", folder, "--overwrite_output_dir")[0] == 0
    assert len(rows(folder)) == 1


def test_a_damaged_file_is_named_and_kept(capsys, tmp_path):
    folder = tmp_path / "o"
    swept(capsys, "toy", "--grid", "beta=1,2", "--seeds", 2, "--out", folder)
    good = (folder / "rows.csv").read_bytes()
    (folder / "rows.csv").write_bytes(good.replace(b"2.0,1,", b"2.0,\0,"))
    code, _, err = swept(capsys, "toy", "--grid", "beta=1,2", "--seeds", 2, "--out", folder, "--resume")
    assert code == 0 and "is damaged in line 5: kept as" in err and err.count("\n") == 1
    assert (folder / "rows.damaged-1.csv").exists() and (folder / "rows.csv").read_bytes() == good


def test_a_cell_that_cannot_be_run_is_a_row_with_a_sentence(capsys, tmp_path):
    code, out, _ = swept(capsys, "toy", "--grid", "trouble=no optimum,no claims", "--out", tmp_path / "o")
    assert code == 0 and "2 cells; 1 of them failed, the first: there is no optimum" in out
    assert [row["error"] for row in rows(tmp_path / "o")] == ["there is no optimum", ""]
    code, out, _ = swept(capsys, "toy", "--grid", "trouble=no optimum", "--out", tmp_path / "none")
    assert code == 1 and out.endswith("none: config.json, env.json, rows.csv\n")


def test_what_is_nan_is_counted_and_left_out_of_medians(capsys, tmp_path, monkeypatch):
    means = {1.0: [5.0, np.nan, 7.0], 2.0: [np.nan] * 3}
    monkeypatch.setattr(EXPERIMENTS["toy"], "run", lambda config: {"mean": np.array(means[config.beta])})
    _, out, _ = swept(capsys, "toy", "--grid", "beta=1,2", "--seeds", 3, "--out", tmp_path / "o")
    assert [line.split() for line in out.splitlines()[:3]] == [["beta", "mean"], ["1", "6"], ["2", "-"]]
    assert "\n6 cells\nleft out of medians, as nan: mean in 4\n" in out


def test_processes_change_no_digit(capsys, tmp_path):
    for jobs, backend in ((1, "loky"), (2, "threading")):
        swept(capsys, "toy", "--grid", "beta=1:4:lin:5", "--seeds", 3, "--jobs", jobs, "--backend", backend, "--out",
              tmp_path / str(jobs))
    assert sorted(rows(tmp_path / "1"), key=str) == sorted(rows(tmp_path / "2"), key=str)


def test_an_interrupted_sweep_says_how_to_go_on(capsys, tmp_path, monkeypatch):
    real, calls = EXPERIMENTS["toy"].run, []

    def stopped(config):
        calls.append(config.beta)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(config)

    monkeypatch.setattr(EXPERIMENTS["toy"], "run", stopped)
    words = ["toy", "--grid", "beta=1,2,3,4", "--seeds", 2, "--out", tmp_path / "o"]
    code, _, err = swept(capsys, *words)
    assert code == 130 and "4 of 8 cells are kept; --resume goes on" in err
    assert swept(capsys, *words, "--resume")[0] == 0
    assert calls == [1.0, 2.0, 3.0, 3.0, 4.0] and len(rows(tmp_path / "o")) == 8


def test_what_chance_moves_is_drawn_first():
    rows = [{"beta": beta, "replicate": r, "seed": 1, "error": "", "same": 1.0, "theory": beta, "found": beta + r}
            for beta in (1.0, 2.0) for r in (0, 1)]
    assert _measures(rows, {"beta": [1.0, 2.0]}, None) == ["found", "theory", "same"]
    assert _measures(rows, {"beta": [1.0, 2.0]}, ["same"]) == ["same"]


def test_the_picture_has_a_line_a_value_and_scales_that_fit():
    many = [{"beta": beta, "kind": kind, "replicate": r, "seed": 1, "error": "", "kl": beta**2 * (1 + r), "up": r - 1.0}
            for beta in (0.01, 0.1, 1.0) for kind in ("a", "b") for r in range(3)]
    figure = draw(many, ["beta", "kind"], ["kl", "up"], "toy")
    kl, up = figure.axes
    assert (kl.get_xscale(), kl.get_yscale(), up.get_yscale()) == ("log", "log", "linear")
    assert [line.get_label() for line in kl.get_lines()] == ["kind = a", "kind = b"]
    np.testing.assert_allclose(kl.get_lines()[0].get_ydata(), 2 * np.array([1e-4, 1e-2, 1.0]))
    words = draw(many, ["kind"], ["kl"], "toy").axes[0]
    assert [tick.get_text() for tick in words.get_xticklabels()] == ["a", "b"]
