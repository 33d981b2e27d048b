"""A sweep's file: whatever a kill or a disk leaves of it, no good row is lost and no bad one believed."""

import errno
import json
from contextlib import closing
from pathlib import Path

import pytest

from toy_models.experiments._rows import RowFile


def row(beta, replicate=0, seed=5, error="", **numbers):
    return {"beta": beta, "replicate": replicate, "seed": seed, "error": error, **numbers}


def key(beta, replicate=0, seed=5):
    return json.dumps([["beta", beta], replicate, seed])


@pytest.fixture
def filled(tmp_path):
    path = tmp_path / "rows.csv"
    file = RowFile(path, ["beta"])
    for beta in (0.1, 0.2, 0.3):
        file.append(row(beta, kl=beta / 3))
    file.close()
    return path


def reopened(path, names=("beta",)):
    file = RowFile(path, names)
    file.close()
    return file


def test_rows_come_back_to_the_same_bits(filled):
    assert filled.read_text().splitlines()[0] == "beta,replicate,seed,error,kl"
    held = reopened(filled)
    assert [held.get(key(beta)) for beta in (0.1, 0.2, 0.3)] == [row(beta, kl=beta / 3) for beta in (0.1, 0.2, 0.3)]
    assert held.get(key(0.4)) is None and held.get(key(0.1, replicate=1)) is None


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 5e-324, 1.7976931348623157e308, True, 7, 10**20])
def test_any_number_comes_back(tmp_path, value):
    file = RowFile(tmp_path / "rows.csv", ["beta"])
    file.append(row(1.0, x=value))
    file.close()
    assert reopened(tmp_path / "rows.csv").get(key(1.0))["x"] == value


def test_words_and_sentences_come_back(tmp_path):
    file = RowFile(tmp_path / "rows.csv", ["kind"])
    one = {"kind": "heavy, tailed", "replicate": 0, "seed": 1, "error": 'it said "no", twice'}
    file.append(one)
    file.close()
    assert list(reopened(tmp_path / "rows.csv", ["kind"]).rows.values()) == [one]


def test_a_kill_within_a_line_costs_that_line_alone(filled):
    whole = filled.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for cut in range(1, last + 1):
        filled.write_bytes(whole[:-cut])
        held = reopened(filled)
        assert len(held.rows) == 2
        assert filled.read_bytes() == whole[:-last]
        file = RowFile(filled, ["beta"])
        file.append(row(0.3, kl=0.3 / 3))
        file.close()
        assert filled.read_bytes() == whole


def test_a_kill_within_the_head_leaves_an_empty_file(filled):
    filled.write_bytes(filled.read_bytes()[:7])
    held = reopened(filled)
    assert held.rows == {} and filled.read_bytes() == b""


@pytest.mark.parametrize("damage", [
    lambda lines: [*lines[:2], b"\0" * 40 + b"\n", *lines[2:]],
    lambda lines: [lines[0], lines[1].replace(b",", b"", 1), *lines[2:]],
    lambda lines: [*lines[:2], lines[2].replace(b"0.2", b"0.z2", 1).replace(b",5,", b",q,"), lines[3]],
    lambda lines: [*lines[:2], b'"\n', *lines[3:]],
    lambda lines: [*lines[:2], b"\xff\xfe\n", *lines[3:]],
])
def test_a_damaged_file_is_kept_aside_and_its_good_rows_taken_over(filled, damage):
    lines = filled.read_bytes().splitlines(keepends=True)
    bad = b"".join(damage(lines))
    filled.write_bytes(bad)
    with pytest.warns(UserWarning, match=r"is damaged in line \d: kept as .*rows\.damaged-1\.csv, its \d good rows"):
        held = reopened(filled)
    assert (filled.parent / "rows.damaged-1.csv").read_bytes() == bad
    good = [line for line in bad.splitlines(keepends=True)[1:] if line in lines]
    assert filled.read_bytes() == b"".join([lines[0], *good])
    assert len(held.rows) == len(good) >= 2


def test_damaged_files_do_not_replace_each_other(filled):
    whole = filled.read_bytes()
    for n in (1, 2):
        filled.write_bytes(whole + b"nonsense\n")
        with pytest.warns(UserWarning, match=f"damaged-{n}"):
            reopened(filled)


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "beta,kl\n", "\n", "not a table\n"])
def test_a_file_of_someone_else_is_not_touched(tmp_path, text):
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match="holds no rows of a sweep over beta: name another file"):
        RowFile(path, ["beta"])
    assert path.read_text() == text


def test_a_cell_that_failed_first_makes_room_for_numbers(tmp_path):
    file = RowFile(tmp_path / "rows.csv", ["beta"])
    rows = [row(1.0, error="no optimum"), row(2.0, kl=0.5), row(3.0, regret=1.5, kl=2.0)]
    for one in rows:
        file.append(one)
    file.close()
    assert list(reopened(tmp_path / "rows.csv").rows.values()) == rows
    assert (tmp_path / "rows.csv").read_text().splitlines()[0] == "beta,replicate,seed,error,kl,regret"


def test_a_full_disk_is_a_sentence_and_loses_no_row(filled, monkeypatch):
    import os

    whole = filled.read_bytes()
    file = RowFile(filled, ["beta"])

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"rows\.csv cannot be written: No space left on device; rows before this"):
        file.append(row(0.4, kl=1.0))
    with pytest.raises(ValueError, match="No space left"):
        file.append(row(0.5, other=1.0))
    monkeypatch.undo()
    file.close()
    assert filled.read_bytes().startswith(whole)
    assert {key(0.1), key(0.2), key(0.3)} <= reopened(filled).rows.keys()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_what_did_not_fit_is_said_once(filled):
    with closing(RowFile(filled, ["beta"])) as file:
        file._file.close()
        file._file = open("/dev/full", "ab")  # noqa: SIM115 (the file of rows closes it)
        with pytest.raises(ValueError, match="No space left on device"):
            file.append(row(0.4, kl=1.0))


def test_a_folder_in_the_way_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="cannot be written: Is a directory"):
        RowFile(tmp_path, ["beta"])
    with pytest.raises(ValueError, match="cannot be written: No such file"):
        RowFile(tmp_path / "nowhere" / "rows.csv", ["beta"])
