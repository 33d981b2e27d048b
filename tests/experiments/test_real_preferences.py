"""docs/real-preferences.md is what its script writes, with no text of the data; its numbers counted one by one."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from dpo_numpy.data import load
from dpo_numpy.data.files import records
from toy_models.experiments import Skipped, human_votes

SCRIPT = Path(__file__).parents[2] / "docs" / "real_preferences.py"
spec = importlib.util.spec_from_file_location("real_preferences", SCRIPT)
script = sys.modules["real_preferences"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


@pytest.fixture(scope="module")
def tied(data_dir):
    return human_votes.run(script.TIED)


@pytest.fixture
def runs(tied, defaults):
    return defaults("human_votes"), tied, defaults("longer_wins")


def text():
    return script.PAGE.read_text(encoding="utf-8")


def test_the_page_is_what_its_script_writes_but_for_what_takes_half_a_minute(runs):
    whole, quick = text().splitlines(), script.page(*runs, None).splitlines()
    rest = iter(whole)
    assert [line for line in quick if line not in rest] == []  # all of them, in this order
    slow = len(whole) - len(quick)
    trees = 2 + 2 * 4 + 3 + 1
    settings = 2 + len(script.SETTINGS) + 1
    assert slow == 1 + trees + settings  # HH, growth by tree, bytes at other settings


@pytest.mark.slow
def test_the_page_is_what_its_script_writes(runs):
    assert script.page(*runs, script.slowly()) == text()


def test_no_text_of_the_data_is_shown(data_dir):
    shown = " ".join(text().split())
    said = [reply for name in ("oasst_en_100_tree", "hh_harmless_test")
            for row in load(data_dir / f"{name}.jsonl.gz").rows for reply in (row.prompt, *row.responses)]
    said += [row[side] for _, row in records(data_dir / "llmfao_pairs.jsonl.gz") for side in ("result_x", "result_y")]
    parts = {" ".join(reply.split())[:24] for reply in said}
    long = [part for part in parts if len(part) == 24]
    assert len(long) > 4000 and not any(part in shown for part in long)


def test_ties_are_counted_and_clustered_one_by_one(runs, data_dir):
    cast = {}
    for _, vote in records(data_dir / "llmfao_crowd_comparisons.csv.gz"):
        cast.setdefault(vote["id"], []).append(vote["winner"] == "tie")
    n = sum(map(len, cast.values()))
    share = sum(map(sum, cast.values())) / n
    half = 1.96 * np.sqrt(sum((sum(votes) - share * len(votes))**2 for votes in cast.values())) / n
    assert script.of_votes(runs[0])["tie"] == f"{share:.3f} ± {half:.3f}" == "0.389 ± 0.014"


def test_the_jackknife_of_a_mean_is_students_interval(rng):
    x = rng.normal(size=12)
    without = np.array([np.delete(x, k).mean() for k in range(12)])
    half = 2.201 * x.std(ddof=1) / np.sqrt(12)  # of 11 degrees of freedom, as in any table
    assert script.jackknife(without[:, None]) == pytest.approx([half], rel=3e-4)


@pytest.mark.parametrize(("x", "half", "shown"), [
    (0.69761, 0.041196, "0.698 ± 0.041"), (-0.0754, 0.2026, "-0.08 ± 0.20"), (0.1786, 0.118, "0.18 ± 0.12"),
    (1747.4, 12.3, "1747 ± 12"), (1.5, np.nan, "1.5"), (np.nan, 0.1, ""),
])
def test_as_many_digits_as_the_interval_warrants(x, half, shown):
    assert script.interval(x, half) == shown


def test_three_digits():
    assert [script.three(x) for x in (1747.4, 387.65, 0.58461, 177.04)] == ["1,750", "388", "0.585", "177"]


def test_claims_of_the_page_hold(runs):
    """What its sentences say, of the numbers that they are about"""
    votes, tied, longer = runs
    few, Z = human_votes._few(votes), human_votes.Z
    for found in (votes, tied):
        effect, error = found["effect"], found["error"]
        by_pair, by_prompt = Z * error[1], few * error[3]
        assert effect[0, 0, 1] > by_pair[0, 0, 1] and effect[0, 1, 1] < -by_pair[0, 1, 1]
        assert (abs(effect[0]) < by_prompt[0]).all()
        assert (effect[1] < -by_pair[1]).all() and (effect[1] < -Z * error[0, 1]).all()
        assert (effect[1, 1] < -by_prompt[1, 1]).all() and (effect[1, 0] > -by_prompt[1, 0]).all()
    assert (np.diff(longer["hh_share_by_times"]) < 0).all()
    assert votes["limit"] < votes["told_eps"]
    assert longer["noise"][1] > 2.776 * longer["noise_error"][1]  # Student's, of five sets


def test_the_figure_has_four_pictures(runs):
    import matplotlib.pyplot as plt

    votes, _, longer = runs
    made = script.figure(votes, longer)
    assert len(made.axes) == 4 and all(ax.get_title() for ax in made.axes)
    first = made.axes[0].containers[0].lines[0]
    assert first.get_ydata().tolist() == longer["oasst_share_by_times"].tolist()
    plt.close(made)


def test_without_the_data_there_is_no_page(monkeypatch):
    monkeypatch.delenv("DPO_NUMPY_DATA", raising=False)
    with pytest.raises(Skipped, match="DPO_NUMPY_DATA names no folder"):
        script.slowly()
