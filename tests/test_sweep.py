"""Sweeps: the same rows from one process, from several, from a cluster, and after a kill; and what is no grid."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from toy_models.experiments import EXPERIMENTS, Measured, bands, sweep
from toy_models.experiments import _sweep as module
from toy_models.experiments._sweep import cell_seed

GRID = {"scale": [0.5, 1.0, 2.0], "kind": ["normal", "uniform"]}


def drawn(scale, kind, seed):
    rng = np.random.default_rng(seed)
    return {"x": scale * (rng.normal() if kind == "normal" else rng.uniform()), "twice": 2 * scale}


def drawn_at_once(scale, kind, seed, replicates):
    rng = np.random.default_rng(seed)
    return {"x": scale * rng.normal(size=replicates), "scale_again": scale}


# ---- rows

def test_rows_come_in_the_order_of_the_grid_with_what_fn_returned():
    rows = sweep(drawn, GRID, seeds=2)
    assert [(row["scale"], row["kind"], row["replicate"]) for row in rows] == [
        (scale, kind, r) for scale in (0.5, 1.0, 2.0) for kind in ("normal", "uniform") for r in (0, 1)]
    for row in rows:
        assert list(row) == ["scale", "kind", "replicate", "seed", "error", "x", "twice"]
        assert row["x"] == drawn(row["scale"], row["kind"], row["seed"])["x"] and row["error"] == ""


def test_no_two_cells_share_a_seed_and_another_sweep_has_others():
    seeds = [row["seed"] for row in sweep(drawn, GRID, seeds=50)]
    assert len(set(seeds)) == 300
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert not set(seeds) & {row["seed"] for row in sweep(drawn, GRID, seeds=50, seed=1)}


def test_a_cell_does_not_know_what_else_is_in_the_grid():
    rows = {(row["scale"], row["kind"], row["replicate"]): row["x"] for row in sweep(drawn, GRID, seeds=2)}
    grown = {"kind": ["uniform", "cauchy", "normal"][::2], "scale": [4.0, 2.0]}
    for row in sweep(drawn, grown, seeds=3):
        here = rows.get((row["scale"], row["kind"], row["replicate"]))
        assert (here is None) == (row["scale"] == 4.0 or row["replicate"] == 2)
        assert here in (None, row["x"])
    assert cell_seed(0, {"a": 1, "b": 2}) == cell_seed(0, {"b": 2, "a": 1}) != cell_seed(0, {"a": 2, "b": 1})


def test_replicates_at_once_are_a_row_each_with_one_seed_a_point():
    rows = sweep(drawn_at_once, GRID, seeds=4, vectorized=True)
    assert len(rows) == 24 and len({row["seed"] for row in rows}) == 6
    for row in rows:
        expected = drawn_at_once(row["scale"], row["kind"], row["seed"], 4)
        assert row["x"] == expected["x"][row["replicate"]] and row["scale_again"] == row["scale"]


def test_a_cell_that_cannot_be_computed_says_why_and_the_others_are():
    def picky(beta, seed):
        if beta < 0:
            raise ValueError(f"beta is {beta};\n expected more")
        return {"y": np.float32(1) / np.float32(beta)}

    rows = sweep(picky, {"beta": [-1.0, 3.0]})
    assert rows[0] == {"beta": -1.0, "replicate": 0, "seed": rows[0]["seed"], "error": "beta is -1.0; expected more"}
    assert rows[1]["y"] == pytest.approx(1 / 3) and rows[1]["error"] == ""


def test_what_fn_says_of_its_own_settings_is_not_a_measurement():
    row, = sweep(lambda n, seed: {"n": 7, "seed": 8, "replicate": 9, "y": 1}, {"n": [2]})
    assert (row["n"], row["seed"], row["replicate"], row["y"]) == (2, cell_seed(0, {"n": 2}, 0), 0, 1)


def test_numpy_values_of_a_grid_are_numbers():
    rows = sweep(lambda n, seed: {"n2": n**2}, {"n": np.arange(3)})
    assert [row["n2"] for row in rows] == [0, 1, 4] and type(rows[0]["n"]) is int


@pytest.mark.parametrize(("words", "sentence"), [
    ({"grid": {"a": []}}, "grid: a has no values; expected at least one"),
    ({"grid": {"seed": [1]}}, "grid has an axis 'seed', a name that rows use themselves; expected another"),
    ({"grid": {"a": [float("nan")]}}, "grid: a holds nan; expected finite numbers, words, true or false"),
    ({"grid": {"a": [[1]]}}, r"grid: a holds \[1\]; expected finite numbers, words, true or false"),
    ({"grid": {"a": [1, 1]}}, "grid: a holds a value twice; expected each once"),
    ({"seeds": 0}, "seeds is 0; expected a whole number, at least 1"),
    ({"seeds": 1.5}, "seeds is 1.5; expected a whole number, at least 1"),
    ({"backend": "mpi"}, "backend is 'mpi'; expected one of loky, threading, dask, ray"),
    ({"backend": "dask"}, "backend dask needs a scheduler, an address such as tcp://host:8786"),
    ({"seeds": 10**12}, "grid and seeds make 1,000,000,000,000 cells; expected at most 10,000,000"),
    ({"n_jobs": 0}, "n_jobs is 0; expected a number of processes, or -1 for one a core"),
])
def test_what_makes_no_sense_is_refused_in_a_sentence(words, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        sweep(**{"fn": lambda **_: {}, "grid": {"a": [1]}, **words})


@pytest.mark.parametrize("returned", [{"x": "word"}, {"x": [1, 2]}, {"x": None}])
def test_what_is_no_number_is_a_mistake_of_fn(returned):
    with pytest.raises(TypeError, match=r"fn returned x of shape .* expected a number"):
        sweep(lambda a, seed: returned, {"a": [1]})


@pytest.mark.parametrize(("backend", "missing", "says"), [
    ("loky", "joblib", r"need joblib, which is not installed: pip install 'dpo-numpy\[sweep\]'"),
    ("dask", "distributed", r"need distributed, which is not installed: pip install 'dpo-numpy\[cluster\]'"),
    ("ray", "ray", "need ray, which is not installed: pip install ray"),
])
def test_what_is_not_installed_is_named(monkeypatch, backend, missing, says):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=says):
        sweep(drawn, GRID, n_jobs=2, backend=backend, scheduler="tcp://127.0.0.1:1")


# ---- processes

@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_processes_change_no_digit_and_no_place(backend, tmp_path):
    alone = sweep(drawn, GRID, seeds=3)
    assert sweep(drawn, GRID, seeds=3, n_jobs=2, backend=backend, file=tmp_path / "rows.csv") == alone
    assert sweep(drawn, GRID, seeds=3, file=tmp_path / "rows.csv") == alone
    at_once = sweep(drawn_at_once, GRID, seeds=3, vectorized=True)
    assert sweep(drawn_at_once, GRID, seeds=3, vectorized=True, n_jobs=2, backend=backend) == at_once


def test_a_worker_that_dies_is_a_sentence_and_its_finished_cells_are_kept(tmp_path):
    def deadly(n, seed):
        if n == 3:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        return {"n2": n * n}

    path = tmp_path / "rows.csv"
    with pytest.raises(ValueError, match="a worker process died, killed or out of memory: finished cells are kept"):
        sweep(deadly, {"n": range(4)}, n_jobs=2, file=path)
    assert 1 <= len(path.read_text().splitlines()) - 1 < 4
    rows = sweep(lambda n, seed: {"n2": n * n}, {"n": range(4)}, file=path)
    assert [row["n2"] for row in rows] == [0, 1, 4, 9]


KILLED = """
import sys, time
from toy_models.experiments import sweep

def slow(n, seed):
    with open(sys.argv[2], "a") as calls:
        calls.write(f"{n} ")
    time.sleep(0.05)
    return {"y": seed / (n + 1)}

rows = sweep(slow, {"n": range(12)}, seeds=2, file=sys.argv[1])
__import__('pathlib').Path(sys.argv[3]).write_text(repr(rows))
"""


def test_a_killed_sweep_goes_on_without_repeating_a_finished_cell_or_losing_one(tmp_path):
    rows, calls, done = (tmp_path / name for name in ("rows.csv", "calls", "done"))
    words = [sys.executable, "-c", KILLED, str(rows), str(calls), str(done)]
    for finished in (3, 11):
        process = subprocess.Popen(words)
        while len(rows.read_bytes().splitlines() if rows.exists() else ()) <= finished:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = rows.read_bytes()
        assert not done.exists()
    subprocess.run(words, check=True, timeout=60)
    assert rows.read_bytes().startswith(kept[:kept.rfind(b"\n") + 1])
    called = calls.read_text().split()
    assert 24 <= len(called) <= 26  # a cell that was being computed at a kill is computed again
    found = eval(done.read_text())
    assert [(row["n"], row["replicate"]) for row in found] == [(n, r) for n in range(12) for r in (0, 1)]
    assert all(row["y"] == cell_seed(0, {"n": row["n"]}, row["replicate"]) / (row["n"] + 1) for row in found)


def test_a_point_is_computed_again_if_one_of_its_replicates_is_missing(tmp_path):
    path, calls = tmp_path / "rows.csv", []

    def counted(n, seed, replicates):
        calls.append(n)
        return {"y": np.arange(replicates) + n}

    first = sweep(counted, {"n": [1, 2]}, seeds=3, vectorized=True, file=path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert sweep(counted, {"n": [1, 2]}, seeds=3, vectorized=True, file=path) == first
    assert calls == [1, 2, 2] and len(path.read_bytes().splitlines()) == 7


def test_it_tells_how_far_it_is(tmp_path):
    path, told = tmp_path / "rows.csv", []
    sweep(drawn, {"scale": [1.0], "kind": ["normal"]}, seeds=2, file=path)
    sweep(drawn, {"scale": [1.0], "kind": ["normal"]}, seeds=4, file=path, arrived=lambda *now: told.append(now))
    assert told == [(2, 4), (3, 4), (4, 4)]


# ---- a cluster

def slow(n, seed):
    time.sleep(0.1)
    return {"y": seed / (n + 1)}


def test_a_cluster_gives_the_same_rows_even_if_one_of_its_workers_is_killed(tmp_path):
    distributed = pytest.importorskip("distributed")
    grid, path = {"n": range(12)}, tmp_path / "rows.csv"
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0",
                                  silence_logs=50) as cluster:
        with distributed.Client(cluster) as client:
            victim = next(iter(client.run(os.getpid).values()))
        killed = []

        def arrived(count, _):
            if count == 4 and not killed:
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

        rows = sweep(slow, grid, seeds=2, n_jobs=-1, backend="dask", scheduler=cluster.scheduler_address, file=path,
                     arrived=arrived)
    assert killed
    assert rows == [{"n": n, "replicate": r, "seed": seed, "error": "", "y": seed / (n + 1)}
                    for n in range(12) for r in (0, 1) for seed in [cell_seed(0, {"n": n}, r)]]
    assert len(path.read_text().splitlines()) == 25


def test_a_scheduler_that_does_not_answer_is_given_up(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(module, "UNREACHED", 0.5)
    begun = time.monotonic()
    with pytest.raises(ValueError, match=r"^scheduler tcp://127.0.0.1:9 does not answer"):
        sweep(drawn, GRID, backend="dask", scheduler="tcp://127.0.0.1:9")
    assert time.monotonic() - begun < 30


def test_a_cluster_without_workers_is_a_sentence():
    distributed = pytest.importorskip("distributed")
    with (distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
          pytest.raises(ValueError, match="has no workers: start some, as in dask worker")):
        sweep(drawn, GRID, backend="dask", scheduler=cluster.scheduler_address)


def test_ray_gives_the_same_rows_where_it_is_installed(tmp_path):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        rows = sweep(drawn, GRID, seeds=20, n_jobs=2, backend="ray", file=tmp_path / "rows.csv")
        assert rows == sweep(drawn, GRID, seeds=20)
    finally:
        ray.shutdown()


# ---- bands

def test_a_band_is_what_medians_of_resamples_are(rng):
    values = rng.normal(size=40)
    few = [{"beta": 0.5, "x": 3.0}, {"beta": 0.5}, {"beta": 0.5, "x": np.nan}]
    rows = [{"beta": 1.0, "x": x} for x in values] + few
    band = bands(rows, "beta", "x")
    assert band.x.tolist() == [0.5, 1.0] and band.median.tolist() == [3.0, np.median(values)]
    assert (band.low[0], band.high[0]) == (3.0, 3.0)
    medians = [np.median(rng.choice(values, size=40)) for _ in range(4000)]
    spread = np.quantile(medians, [0.025, 0.975])
    # a quantile of 1,000 medians strays by about a tenth of the band's width
    assert np.allclose([band.low[1], band.high[1]], spread, atol=0.25 * np.ptp(spread))


def test_bands_cover_the_median_as_often_as_they_say(rng):
    covered = [band.low[0] < 0 < band.high[0] for band in (
        bands([{"a": 0, "x": x} for x in rng.normal(size=30)], "a", "x", resamples=200) for _ in range(400))]
    assert abs(np.mean(covered) - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 400) + 0.01


# ---- experiments as functions

def test_an_experiment_is_a_function_of_its_settings_whose_replicates_are_rows_by_name(tmp_path):
    measured = Measured("noise", n=50, counts=(50, 100), replicates=2)
    assert measured.vectorized and measured.draws
    row, other = sweep(measured, {"flip": [0.1]}, seeds=2, vectorized=True, file=tmp_path / "rows.csv")
    read = np.genfromtxt(tmp_path / "rows.csv", delimiter=",", names=True)  # which knows no quotes
    assert read["regretDPO"].tolist() == [row["regret.DPO"], other["regret.DPO"]]
    config = EXPERIMENTS["noise"].Config(flip=0.1, n=50, counts=(50, 100), replicates=2, seed=row["seed"])
    result = EXPERIMENTS["noise"].run(config)
    for i, method in enumerate(word.replace(",", "") for word in result["method"]):
        np.testing.assert_equal([row[f"regret.{method}"], other[f"regret.{method}"]], result["regret"][:, i])
        np.testing.assert_equal(row[f"curve.1.{method}"], result["curve"][0, 1, i])
    assert row["rdpo_bias"] == other["rdpo_bias"] == result["rdpo_bias"]


def test_an_experiment_that_draws_nothing_needs_no_seed():
    measured = Measured("comparison_graph")
    assert measured.draws
    assert not Measured("length_of_labels").draws
    assert "beta" not in Measured("length_of_labels", letters=2)(seed=5, lam=0.0)


def test_an_experiment_that_is_none_is_a_sentence():
    with pytest.raises(ValueError, match="no experiment is called 'nois'; there are z_cancels"):
        Measured("nois")
