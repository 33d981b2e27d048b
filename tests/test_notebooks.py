"""The notebooks: what is committed is what their sources print, and each is fit to be read."""

import base64
import contextlib
import csv
import gzip
import io
import json
import re
from importlib import metadata, util
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from dpo_numpy import teach
from dpo_numpy.teach.exercises import LESSONS

ROOT = Path(__file__).parents[1]
SPEC = util.spec_from_file_location("build_notebooks", ROOT / "notebooks" / "build.py")
build = util.module_from_spec(SPEC)
SPEC.loader.exec_module(build)

SOURCES = {source.stem: source for source in build.sources()}


def committed(name):
    return json.loads(SOURCES[name].with_suffix(".ipynb").read_text(encoding="utf-8"))


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def printed(cell):
    """What a cell of a notebook printed"""
    return "".join("".join(out["text"]) for out in cell["outputs"] if out["output_type"] == "stream")


def pictures(cell):
    return [base64.b64decode(out["data"]["image/png"]) for out in cell["outputs"] if "image/png" in out.get("data", {})]


# ---- what a notebook is

def test_each_lesson_is_there_once():
    """Thirteen, as README.md and the contents say"""
    assert [*SOURCES] == [f"{number:02}_{name}" for number, name in enumerate(LESSONS, 1)]
    assert len(SOURCES) == 13
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == set(SOURCES)


def test_percent_format_is_read_as_it_is_meant():
    text = '# %% [markdown]\n# # Title\n#\n# word\n\n# %%\nx = 1\n\n\nprint(x)  # %% no cell\n'
    assert [*build.cells(text)] == [("markdown", "# Title\n\nword"), ("code", "x = 1\n\n\nprint(x)  # %% no cell")]


@pytest.mark.parametrize("name", SOURCES)
def test_the_committed_notebook_has_the_cells_of_its_source(name):
    notebook = committed(name)
    text = SOURCES[name].read_text(encoding="utf-8")
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]] == [*build.cells(text)]
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


@pytest.mark.parametrize("name", SOURCES)
def test_outputs_are_text_and_pictures(name):
    """No error, no warning, no value that happened to stand last in a cell"""
    for cell in code(committed(name)):
        for out in cell["outputs"]:
            assert (out["output_type"] == "stream" and out["name"] == "stdout") or "image/png" in out["data"], out
        assert all(len(line) <= 110 for line in printed(cell).splitlines()), cell["source"]


@pytest.mark.parametrize("name", SOURCES)
def test_it_begins_with_a_claim_and_asks_before_it_reveals(name):
    notebook = committed(name)
    first = "".join(notebook["cells"][0]["source"]).splitlines()
    assert re.fullmatch(rf"# {name[:2]} · .+", first[0]) and first[2].startswith("**Claim: "), first[:3]
    outputs = [printed(cell) for cell in code(notebook)]
    asked = [number for number, text in enumerate(outputs) if "PREDICT  " in text]
    told = [number for number, text in enumerate(outputs) if "REVEAL   " in text]
    assert len(asked) == len(told) >= 2
    assert all(ask < tell for ask, tell in zip(asked, told, strict=True))


@pytest.mark.parametrize("name", SOURCES)
def test_its_exercises_are_set_and_answered_wrongly_first(name):
    """A checker is seen to name a mistake; the solution stays hidden"""
    text = "\n".join(printed(cell) for cell in code(committed(name)))
    set_here = re.findall(r"^EXERCISE (\w+)$", text, re.MULTILINE)
    lesson = util.find_spec(f"dpo_numpy.teach.lessons.{name[3:]}")
    known = {each.name: each for each in teach.exercises()
             if lesson and each in __import__(lesson.name, fromlist=["EXERCISES"]).EXERCISES}
    assert set_here and set(set_here) == set(known)
    said = re.sub(r"\s+", " ", text)
    assert any(sentence in said for each in known.values() for sentence in each.mistakes)


@pytest.mark.parametrize("name", SOURCES)
def test_it_is_read_in_a_quarter_of_an_hour(name):
    assert 3 < build.minutes(committed(name)) <= 15


def test_the_contents_are_those_of_the_notebooks():
    assert (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8") == build.contents()


# ---- what it prints

@pytest.mark.parametrize("name", SOURCES)
def test_its_code_prints_what_is_committed(name, tmp_path, monkeypatch):
    """Whatever the CPU and the versions: only digits that survive another one are printed"""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DPO_NUMPY_DATA", raising=False)
    names = {"__name__": "__main__"}
    with np.printoptions(), matplotlib.rc_context():
        matplotlib.use("Agg")
        for cell in code(committed(name)):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                run(compile("".join(cell["source"]), name, "exec"), names)
            assert out.getvalue() == printed(cell)
        from matplotlib import pyplot

        pyplot.close("all")
    assert not [*tmp_path.iterdir()]


def run(source, names):
    exec(source, names)  # in a frame of its own


def test_bradley_terry_shows_the_votes_of_people_where_they_are(data_dir, tmp_path, monkeypatch, capsys):
    """Counts and the side that is favored are read off the file here"""
    with gzip.open(data_dir / "llmfao_crowd_comparisons.csv.gz", "rt", encoding="utf-8") as file:
        winners = [row["winner"] for row in csv.DictReader(file)]
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    names = {"__name__": "__main__"}
    with np.printoptions(), matplotlib.rc_context():
        for cell in code(committed("05_bradley_terry")):
            run(compile("".join(cell["source"]), "05_bradley_terry", "exec"), names)
        from matplotlib import pyplot

        pyplot.close("all")
    said = capsys.readouterr().out
    assert f"{len(winners):,} votes, 59 models" in said and "No votes here" not in said
    assert winners.count("left") > winners.count("right")
    assert re.search(r"^left answer +\+0\.\d\d ± 0\.\d\d$", said, re.MULTILINE)


# ---- the builder

pinned = {line.partition("==")[0]: line.partition("==")[2].strip()
          for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}


def as_pinned():
    draws = ("matplotlib", "numpy", "pillow", "contourpy", "scipy", "matplotlib-inline", "ipykernel")
    with contextlib.suppress(metadata.PackageNotFoundError):
        return all(metadata.version(name) == pinned.get(name) for name in draws)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_rebuilding_it_changes_nothing(name):
    pytest.importorskip("nbclient", reason="notebooks are executed by nbclient, of the extra `notebooks`")
    pytest.importorskip("ipykernel", reason="notebooks are executed by ipykernel, of the extra `notebooks`")
    rebuilt, there = json.loads(build.execute(SOURCES[name])), committed(name)
    assert [printed(cell) for cell in code(rebuilt)] == [printed(cell) for cell in code(there)]
    if not as_pinned():
        return
    for new, old in zip(code(rebuilt), code(there), strict=True):
        for one, other in zip(pictures(new), pictures(old), strict=True):
            assert close(one, other), "".join(new["source"])


def close(one, other):
    """The same picture: another CPU's last bits may move the edge of a line"""
    from matplotlib.image import imread

    a, b = imread(io.BytesIO(one)), imread(io.BytesIO(other))
    return one == other or (a.shape == b.shape and bool(np.mean(np.abs(a - b) > 0.1) < 1e-3))


@pytest.mark.slow
def test_the_same_source_makes_the_same_bytes():
    pytest.importorskip("nbclient", reason="notebooks are executed by nbclient, of the extra `notebooks`")
    pytest.importorskip("ipykernel", reason="notebooks are executed by ipykernel, of the extra `notebooks`")
    first = next(iter(SOURCES.values()))
    assert build.execute(first) == build.execute(first)


def test_pictures_are_close_or_they_are_not():
    from matplotlib.image import imsave

    def png(pixels):
        file = io.BytesIO()
        imsave(file, pixels, format="png")
        return file.getvalue()

    blank = np.ones((100, 100, 3))
    edge, line = blank.copy(), blank.copy()
    edge[0, :5] = 0
    line[50] = 0
    assert close(png(blank), png(edge)) and not close(png(blank), png(line))
    assert not close(png(blank), png(np.ones((100, 90, 3))))
