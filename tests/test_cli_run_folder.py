"""The output folder: what is there is kept, what is written is whole, and one sentence says what is wrong."""

import os

import pytest
from test_cli_train import WRITTEN, labelled, log, pairs, train

from dpo_numpy.cli import models

pytestmark = pytest.mark.usefixtures("sketched")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


def test_a_folder_in_use_is_refused_and_kept(tmp_path, out, capsys):
    path = pairs(tmp_path)
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for words in ([], ["--resume"]):
        assert train(path, out, *words) == 2
        assert "output_dir" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["mine.txt"]


def test_overwriting_removes_what_a_run_wrote_and_nothing_else(tmp_path, out):
    path = pairs(tmp_path)
    assert train(path, out, "--max_steps", 6) == 0
    (out / "mine.txt").write_text("mine")
    assert train(path, out, "--loss", "ipo") == 2
    assert len(log(out)) == 6
    assert train(path, out, "--loss", "ipo", "--overwrite_output_dir") == 0
    assert len(log(out)) == 4
    assert {p.name for p in out.iterdir()} == WRITTEN | {"mine.txt"}


def test_bad_input_does_not_cost_an_earlier_run(tmp_path, out):
    assert train(pairs(tmp_path), out) == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    assert train(labelled(tmp_path), out, "--overwrite_output_dir") == 2
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


@pytest.mark.parametrize("content", ['{"model_type": "gpt2"}', "not json"])
@pytest.mark.parametrize("word", ["--overwrite_output_dir", "--resume"])
def test_the_files_of_others_under_our_names_are_not_touched(content, word, tmp_path, out, capsys):
    out.mkdir()
    (out / "config.json").write_text(content)
    assert train(pairs(tmp_path), out, word) == 2
    assert "not written by dpo-numpy train" in capsys.readouterr().err
    assert (out / "config.json").read_text() == content
    os.rename(out / "config.json", out / "params.npz")
    assert train(pairs(tmp_path), out, word) == 2
    assert (out / "params.npz").read_text() == content


def test_a_file_where_the_folder_should_be(tmp_path, out, capsys):
    out.write_text("mine")
    for where in (out, out / "deeper"):
        assert train(pairs(tmp_path), where) == 2
        assert "a file" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, out, capsys, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert train(pairs(tmp_path), out / "deeper") == 2
    assert "cannot be written: Permission denied" in capsys.readouterr().err
    assert not out.exists()


def test_a_disk_that_fills_up_is_one_sentence(tmp_path, out, capsys, monkeypatch):
    monkeypatch.setattr(
        models.np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    assert train(pairs(tmp_path), out) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not [p.name for p in out.iterdir() if p.name.endswith(".tmp")]


def test_a_second_process_is_kept_out(tmp_path, out, capsys):
    fcntl = pytest.importorskip("fcntl")
    path = pairs(tmp_path)
    assert train(path, out) == 0
    holder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert train(path, out, "--overwrite_output_dir") == 2
    finally:
        os.close(holder)
    assert "another process" in capsys.readouterr().err
    assert {p.name for p in out.iterdir()} == WRITTEN
