"""What the README and the guide say is executed: code as doctests, commands, the family against the registry."""

import doctest
import math
import re
from importlib import util
from pathlib import Path

import numpy as np
import pytest

import dpo_numpy as dn
from dpo_numpy import cli

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": 15, "docs/experiment.md": 30, "docs/play.md": 6}  # and how many examples each has at least
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_its_code_prints_what_it_shows(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, page, page, 0)
    report: list[str] = []
    failed, tried = doctest.DocTestRunner().run(test, out=report.append)
    assert tried >= PAGES[page]
    assert not failed, "".join(report)


def test_its_picture_shows_what_its_titles_say():
    spec = util.spec_from_file_location("picture", ROOT / "docs/picture.py")
    picture = util.module_from_spec(spec)
    spec.loader.exec_module(picture)
    path, best = picture.run()
    far = picture.kl(path, best)
    assert (np.diff(far) < 0).all() and abs(path[-1] - best).max() < 1e-6
    e = [0.1 * math.exp(4), 0.2 * math.exp(2), 0.3, 0.4 * math.exp(-2)]  # π_ref exp(r/β) by hand
    assert best == pytest.approx([x / sum(e) for x in e], rel=1e-12)
    assert (far[30] / far[24]) ** (1 / 12) == pytest.approx(picture.predicted(best), rel=0.01)


def test_the_family_is_named_whole_and_once():
    rows = re.findall(r"^\| [^|]+ \| (`.+`) \|$", README[README.index("## The family"):README.index("## Exact")], re.M)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted([*dn.LOSSES, *dn.SURROGATES])
    assert set(re.findall(r"`(\w+)`", rows[-1])) == set(dn.SURROGATES)


def test_three_hundred_numbers_of_theory():
    rows = re.findall(r"^\|(?! ---|---)", (ROOT / "docs/exact.md").read_text(encoding="utf-8"), re.MULTILINE)
    heads = re.findall(r"^\|[ -]*---", (ROOT / "docs/exact.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) - len(heads) >= 300


def test_its_experiment_runs_and_its_sweep_sweeps(tmp_path, sketched, capsys):
    """But for seeds and processes, as they are written"""
    for word, instead in (("run", {}), ("sweep", {"--seeds": "2", "--jobs": "1"})):
        line = re.search(rf"^dpo-numpy {word} \w+ --[^#\n]*", README, re.MULTILINE)
        words = line[0].split()[1:]
        for flag, value in {**instead, "--output_dir": str(tmp_path / word)}.items():
            words[words.index(flag) + 1] = value
        assert cli.main(words) == 0, capsys.readouterr()
        assert (tmp_path / word / ("figure.svg" if word == "run" else "rows.csv")).stat().st_size > 0


@pytest.mark.parametrize("page", PAGES)
def test_its_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```|`[^`]*`(?!\])", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", prose):
        assert (ROOT / page).parent.joinpath(target).exists(), target
