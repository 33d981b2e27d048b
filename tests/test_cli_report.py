"""`dpo-numpy report`: one page, complete in itself, true to the claims."""

import base64
import re
from html.parser import HTMLParser

import a_toy_experiment
import pytest

from dpo_numpy import cli
from toy_models.experiments import EXPERIMENTS

pytestmark = pytest.mark.usefixtures("sketched")


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """They are all that there is."""
    for name in [*EXPERIMENTS]:
        monkeypatch.delitem(EXPERIMENTS, name)
    for name, module in a_toy_experiment.modules().items():
        monkeypatch.setitem(EXPERIMENTS, name, module)


class Page(HTMLParser):
    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.ids, self.sources, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [found[name] for name in ("href",) if name in found]
        self.sources += [found[name] for name in ("src", "srcset", "data") if name in found]
        self.ids += [found["id"]] if "id" in found else []
        assert tag != "img" or found.get("alt")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def report(capsys, *words):
    code = cli.main(["report", *map(str, words)])
    return code, *capsys.readouterr()


def test_the_page_has_every_claim_number_and_picture_and_needs_nothing_else(capsys, tmp_path, rendered):
    path = tmp_path / "page.html"
    code, out, err = report(capsys, "--output", path)
    assert (code, err) == (0, "")
    assert "2 experiments, 3 of 3 claims hold, " in out and f"written: {path}" in out
    text = path.read_text("utf-8")
    page = Page(text)
    shown = " ".join(page.text)
    for sentence in ("A mean of few draws is small.", "the mean is small <&>: largest", "Nothing is drawn <here>.",
                     "More is said below.", "beta 1 <table>", "numpy", "3 of 3 claims hold"):
        assert sentence in shown
    assert {link.removeprefix("#") for link in page.links} <= {*page.ids} and "environment" in page.ids
    assert len(page.sources) == 2
    for source in page.sources:
        assert base64.b64decode(source.removeprefix("data:image/png;base64,"))[:4] == b"\x89PNG"
    assert not re.search(r"https?://|url\(|@import|<script", text)


def test_some_can_be_named(capsys, tmp_path):
    code, out, _ = report(capsys, "plain", "--out", tmp_path / "x.html")
    assert code == 0 and "1 experiments, 1 of 1 claims hold" in out
    assert "A mean of few" not in (tmp_path / "x.html").read_text("utf-8")


@pytest.mark.parametrize(("trouble", "code", "shown"), [
    ("fails", 1, "fails"), ("undecided", 1, "nan"), ("no claims", 1, "The claims cannot be evaluated: KeyError"),
    ("no data", 0, "Skipped: DPO_NUMPY_DATA names no folder"),
])
def test_what_fails_is_on_the_page_and_in_the_exit_code(capsys, tmp_path, monkeypatch, trouble, code, shown):
    toy = EXPERIMENTS["toy"]
    monkeypatch.setattr(toy, "Config", lambda: a_toy_experiment.Config(trouble=trouble))
    found, out, _ = report(capsys, "--out", tmp_path / "x.html")
    assert found == code and shown in " ".join(Page((tmp_path / "x.html").read_text("utf-8")).text)
    assert ("\ntoy\n" in out) == (code == 1)
    assert ("; 1 skipped" in out) == (trouble == "no data")


def test_what_cannot_be_written_is_told_before_the_work(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(EXPERIMENTS["toy"], "run", lambda config: pytest.fail("it was run"))
    for path, sentence in ((tmp_path, "a folder; expected the name of a file"),
                           (tmp_path / "no" / "x.html", "but there is no folder")):
        code, out, err = report(capsys, "--out", path)
        assert (code, out) == (2, "") and sentence in err


def test_a_name_that_is_none_is_a_sentence(capsys, tmp_path):
    code, _, err = report(capsys, "plane", "--out", tmp_path / "x.html")
    assert code == 2 and "no experiment is called 'plane'; did you mean plain?" in err
