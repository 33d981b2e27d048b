"""What the README says is executed: its code as doctests, its list of losses against the registry."""

import doctest
import re
from pathlib import Path

import dpo_numpy as dn
from dpo_numpy import cli

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_its_code_prints_what_it_shows():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "README.md", "README.md", 0)
    report: list[str] = []
    failed, tried = doctest.DocTestRunner().run(test, out=report.append)
    assert tried > 10
    assert not failed, "".join(report)


def test_it_names_every_loss():
    section = README[README.index("`dn.LOSSES` holds") : README.index("each with its formula")]
    assert re.findall(r"`(\w+)`", section) == [*dn.LOSSES]


def test_it_names_every_surrogate():
    section = README[README.index("`dn.SURROGATES` holds") : README.index("documented alike")]
    assert re.findall(r"`(\w+)`", section) == [*dn.SURROGATES]


def test_its_experiment_runs_and_its_sweep_sweeps(tmp_path, sketched, capsys):
    """But for seeds and processes, as they are written"""
    for word, instead in (("run", {}), ("sweep", {"--seeds": "2", "--jobs": "1"})):
        line = re.search(rf"^dpo-numpy {word} \w+ --[^#\n]*", README, re.MULTILINE)
        words = line[0].split()[1:]
        for flag, value in {**instead, "--output_dir": str(tmp_path / word)}.items():
            words[words.index(flag) + 1] = value
        assert cli.main(words) == 0, capsys.readouterr()
        assert (tmp_path / word / ("figure.svg" if word == "run" else "rows.csv")).stat().st_size > 0


def test_its_links_lead_somewhere():
    prose = re.sub(r"```.*?```|`[^`]*`(?!\])", "", README, flags=re.DOTALL)
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", prose):
        assert (Path(__file__).parents[1] / target).exists(), target
