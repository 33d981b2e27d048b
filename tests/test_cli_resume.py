"""Killed at any moment and resumed, a run ends at the same bits: parameters, log, table, report."""

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from test_cli_train import pairs

from dpo_numpy import cli

pytestmark = pytest.mark.usefixtures("sketched")

STEPS = 150
OPTIONS = (
    "--max_steps",
    STEPS,
    "--batch_size",
    4,
    "--optimizer",
    "adam",
    "--eval_steps",
    10,
    "--max_grad_norm",
    0.5,
    "--max_new_tokens",
    50,
)
SAME = ("log.jsonl", "metrics.csv", "params.npz", "config.json")


def words(path, out, *more):
    return ["train", str(path), "--output_dir", str(out), *map(str, (*OPTIONS, *more))]


def start(path, out, *more, script=None):
    program = ["-c", script] if script else ["-m", "dpo_numpy"]
    return subprocess.Popen(
        [sys.executable, *program, *words(path, out, *more)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def lines_of(out):
    try:
        return (out / "log.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def kill_at(process, out, line, delay=0.0):
    """SIGKILL once the log has that many lines."""
    while process.poll() is None and lines_of(out) < line:
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def finish(path, out):
    """In this process, which has Python and what we import behind it; what was killed was another."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert cli.main(words(path, out, "--resume")) == 0
    return said.getvalue()


def assert_same(out, whole):
    for name in SAME:
        a, b = ((folder / name).read_bytes().replace(str(folder).encode(), b"") for folder in (out, whole))
        assert a == b, name
    assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()}
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
    report = [(folder / "report.txt").read_text().replace(str(folder), "") for folder in (out, whole)]
    assert report[0] == report[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The file, and the run of it that nobody killed."""
    folder = tmp_path_factory.mktemp("whole")
    path = pairs(folder)
    assert cli.main(words(path, folder / "run")) == 0
    return path, folder / "run"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL is POSIX")
def test_killed_twice_it_ends_at_the_same_bits(whole, tmp_path):
    path, run = whole
    out = tmp_path / "run"
    for line in (3, 80):
        kill_at(start(path, out, "--resume", "--save_seconds", 0), out, line)
        assert not (out / "report.txt").exists(), "it was too fast to be killed: take more steps"
    process = start(path, out, "--resume")
    said, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert int(said.split("resumed at step ")[1].split()[0]) >= 80 - 1
    assert_same(out, run)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL is POSIX")
def test_checkpoints_are_rare_and_the_log_is_cut_back_to_them(whole, tmp_path):
    path, run = whole
    out = tmp_path / "run"
    kill_at(start(path, out, "--save_seconds", 1000), out, 20)
    with open(out / "log.jsonl", "ab") as file:
        file.write(b'{"step": 9999, "lo')  # a torn line
    assert "resumed at step 1\n" in finish(path, out)
    assert_same(out, run)


# A kill in the middle of what a kill can hit: the n-th replacement of a file, before or after it.
AT_REPLACE = """
import os, signal, sys
real, count = os.replace, [0]
def replace(a, b):
    count[0] += 1
    if count[0] == {n} and {before}:
        os.kill(os.getpid(), signal.SIGKILL)
    real(a, b)
    if count[0] == {n}:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
from dpo_numpy.cli import main, train
train.draw = lambda lines, run, file: file.write(b"a picture")  # to render one would take longer than all the rest
sys.exit(main(sys.argv[1:]))
"""


def survive(whole, out, n, before):
    path, run = whole
    process = start(path, out, "--save_seconds", 0, script=AT_REPLACE.format(n=n, before=before))
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert any(name.endswith(".tmp") for name in os.listdir(out)) == before
    finish(path, out)
    assert_same(out, run)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL is POSIX")
@pytest.mark.parametrize(
    ("n", "before"), [(1, True), (3, False), (STEPS + 5, False)]
)  # config, first checkpoint, curves
def test_killed_while_a_file_is_replaced(whole, tmp_path, n, before):
    survive(whole, tmp_path / "run", n, before)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL is POSIX")
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 50, STEPS + 2, STEPS + 3, STEPS + 4, STEPS + 5, STEPS + 6])
def test_killed_at_every_kind_of_replacement(whole, tmp_path, n, before):
    if n == STEPS + 6 and not before:
        pytest.skip("the report is there: the run is finished")
    survive(whole, tmp_path / "run", n, before)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL is POSIX")
@pytest.mark.parametrize("save_seconds", [0, 0.05])
def test_killed_at_random_until_it_is_done(whole, tmp_path, save_seconds):
    path, run = whole
    out, dice, kills = tmp_path / "run", random.Random(save_seconds), 0
    while kills < 15 or not (out / "report.txt").exists():
        process = start(path, out, "--resume", "--save_seconds", save_seconds)
        if kills >= 15:
            process.communicate(timeout=120)
            break
        kill_at(process, out, lines_of(out) + dice.randrange(0, STEPS // 15), dice.random() * 0.02)
        kills += 1
    finish(path, out)
    assert_same(out, run)


# ---- what resuming refuses

def test_with_nothing_there_it_starts(tmp_path, whole):
    path, run = whole
    assert cli.main(words(path, tmp_path / "run", "--resume")) == 0
    assert_same(tmp_path / "run", run)


def test_a_finished_run_is_left_alone(whole, capsys):
    path, run = whole
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.iterdir()}
    assert cli.main(words(path, run, "--resume")) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.iterdir()} == before


@pytest.mark.parametrize(("more", "sentence"), [
    (["--beta", 0.2], "beta is 0.2, but the run to resume was started with 0.1"),
    (["--loss", "ipo"], "loss is ipo, but the run to resume was started with dpo"),
    (["--max_steps", STEPS + 1], f"max_steps is {STEPS + 1}, but the run to resume was started with {STEPS}"),
    (["--max_grad_norm", 3], "max_grad_norm is 3.0, but the run to resume was started with 0.5"),
    (["--seed", 1], "seed is 1, but the run to resume was started with 0"),
])
def test_other_options_are_named_with_both_values(more, sentence, whole, capsys):
    path, run = whole
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    assert cli.main(words(path, run, "--resume", *more)) == 2
    assert sentence in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


@pytest.mark.parametrize(
    ("left_out", "sentence"),
    [
        ("--max_grad_norm", "max_grad_norm is None, but the run to resume was started with 0.5"),
        ("--batch_size", "batch_size is 10, but the run to resume was started with 4"),
    ],
)
def test_an_option_left_out_is_named_too(left_out, sentence, whole, capsys):
    path, run = whole
    given = words(path, run, "--resume")
    at = given.index(left_out)
    assert cli.main([*given[:at], *given[at + 2:]]) == 2
    assert sentence in capsys.readouterr().err


def test_a_changed_file_is_refused_and_a_moved_one_is_not(whole, tmp_path, capsys):
    path, run = whole
    other = tmp_path / "other.jsonl"
    other.write_bytes(path.read_bytes())
    assert cli.main(words(other, run, "--resume")) == 0
    other.write_bytes(path.read_bytes().replace(b"late", b"lost"))
    assert cli.main(words(other, run, "--resume")) == 2
    assert "FILE has changed since the run began: its sha256 is " in capsys.readouterr().err


def test_a_broken_checkpoint_is_one_sentence(whole, tmp_path, capsys):
    path, _ = whole
    out = tmp_path / "run"
    assert cli.main(words(path, out)) == 0
    (out / "report.txt").unlink()
    (out / "checkpoint.npz").write_bytes(b"PK\x03\x04 torn")
    assert cli.main(words(path, out, "--resume")) == 2
    assert "start again with --overwrite_output_dir" in capsys.readouterr().err


# Of a job that a shell has put into the background, SIGINT is ignored, and so it would be of what the job starts.
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from dpo_numpy.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_ctrl_c_is_one_line_and_can_be_resumed(whole, tmp_path):
    path, run = whole
    out = tmp_path / "run"
    process = start(path, out, script=INTERRUPTIBLE)
    while lines_of(out) < 10:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    said, err = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")
    assert err.startswith("dpo-numpy: interrupted: at step ")
    assert err.count("\n") == 1
    finish(path, out)
    assert_same(out, run)


def test_evaluation_does_not_disturb_training(whole, tmp_path):
    path, run = whole
    assert cli.main(words(path, tmp_path / "run", "--eval_steps", STEPS)) == 0
    a, b = (np.load(folder / "params.npz")["policy/W"] for folder in (tmp_path / "run", run))
    assert np.array_equal(a, b)
