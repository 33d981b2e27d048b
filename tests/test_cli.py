"""The command line itself: help, version, spelling, and one sentence for whatever is wrong."""

import os
import shlex
import subprocess
import sys

import pytest

import dpo_numpy
from dpo_numpy import cli


def command(*words, **more):
    return subprocess.run(
        [sys.executable, "-m", "dpo_numpy", *map(str, words)], capture_output=True, text=True, timeout=120, **more
    )


def test_python_m_dpo_numpy_is_the_command():
    found = command("--version")
    assert (found.returncode, found.stdout, found.stderr) == (0, f"dpo-numpy {dpo_numpy.__version__}\n", "")


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in cli.COMMANDS)])
def test_help_is_help(words, capsys):
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "usage: dpo-numpy" in out
    assert len(words) > 1 or all(name in out for name in cli.COMMANDS)
    assert ("--output_dir" in out) == (words[0] in ("demo", "train", "run"))


@pytest.mark.parametrize(("words", "sentence"), [
    ([], "required: COMMAND"),
    (["trian"], "invalid choice: 'trian'"),
    (["train"], "takes either FILE or --world NAME"),
    (["train", "x", "--max_step", "3"], "--max_step 3; did you mean --max_steps? (dpo-numpy train"),
    (["train", "x", "--max_steps", "three"], "invalid int value: 'three'"),
])
def test_a_command_line_that_makes_no_sense_is_one_sentence(words, sentence, capsys):
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dpo-numpy: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_options_are_spelled_with_either_dash(monkeypatch):
    seen = []
    monkeypatch.setattr("dpo_numpy.cli.train.run", lambda args: seen.append(args) or 0)
    for words in (
        ["--max-steps", "3", "--eval-fraction=0.5"],
        ["--max_steps=3", "--eval_fraction", "0.5"],
        ["--max-steps=3", "--eval-fraction=0.5"],
    ):
        assert cli.main(["train", "a-b", *words, "--output-dir=c-d"]) == 0
        args = seen.pop()
        assert (args.max_steps, args.eval_fraction, str(args.file), str(args.output_dir)) == (3, 0.5, "a-b", "c-d")


def test_a_lone_dash_dash_ends_the_options(monkeypatch):
    seen = []
    monkeypatch.setattr("dpo_numpy.cli.train.run", lambda args: seen.append(args) or 0)
    assert cli.main(["train", "--", "--a-b"]) == 0
    assert str(seen[0].file) == "--a-b"


@pytest.mark.parametrize(("error", "code", "sentence"), [
    (ValueError("beta is -1;\nexpected more"), 2, "dpo-numpy: beta is -1; expected more\n"),
    (MemoryError("8 GB"), 2, "dpo-numpy: not enough memory: 8 GB\n"),
    (KeyboardInterrupt(), 130, "dpo-numpy: interrupted\n"),
    (KeyboardInterrupt("at step 3"), 130, "dpo-numpy: interrupted: at step 3\n"),
])
def test_what_stops_a_command_is_one_sentence(error, code, sentence, monkeypatch, capsys):
    def run(args):
        raise error

    monkeypatch.setattr("dpo_numpy.cli.train.run", run)
    assert cli.main(["train", "x"]) == code
    assert capsys.readouterr().err == sentence


def test_a_bug_is_not_hidden(monkeypatch):
    def run(args):
        raise TypeError("a bug")

    monkeypatch.setattr("dpo_numpy.cli.train.run", run)
    with pytest.raises(TypeError, match="a bug"):
        cli.main(["train", "x"])


@pytest.mark.skipif(os.name != "posix", reason="pipes are tried on POSIX")
def test_a_reader_that_left_is_no_traceback():
    read, write = os.pipe()
    os.close(read)
    try:
        found = subprocess.run(
            [sys.executable, "-m", "dpo_numpy", "--help"],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    finally:
        os.close(write)
    assert found.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(("where", "code", "says"), [
    (">/dev/full", 2, "dpo-numpy: standard output cannot be written: No space left on device\n"),
    (">&-", 0, ""),
])
def test_an_output_that_takes_nothing_is_no_traceback(where, code, says):
    found = subprocess.run(f"{shlex.quote(sys.executable)} -m dpo_numpy run {where}", shell=True, timeout=120,
                           stderr=subprocess.PIPE, text=True)
    assert (found.returncode, found.stderr) == (code, says)


def test_a_terminal_without_greek_gets_escapes():
    script = "from dpo_numpy import cli\nfrom dpo_numpy.cli import train\n" \
             "train.run = lambda args: print('β') or 0\nraise SystemExit(cli.main(['train', 'x']))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120,
                           env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (found.returncode, found.stdout) == (0, "\\u03b2\n")
