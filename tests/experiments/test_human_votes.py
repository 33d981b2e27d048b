"""human_votes: claims that can fail, votes counted one by one, a likelihood climbed by others, fits in closed form."""

import csv
import gzip
import json
import re
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import block_diag
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from analytic import bradley_terry, graph, vote_model
from toy_models.experiments import Skipped, _real, human_votes
from toy_models.experiments.human_votes import Config


def replaced(result, key, row, value):
    changed = np.array(result[key], float, copy=True)
    changed[row] = value
    return {**result, key: changed}


def row(result, method):
    found, = np.flatnonzero(result["method"] == method)
    return int(found)


def worse(result, method, by):
    rows = (slice(None), row(result, method), -1)
    return replaced(result, "heldout_loss", rows, result["heldout_loss"][rows] + by)


#: claim's beginning -> a way to break its measurement
BROKEN = {
    "2,139 pairs": lambda r: {**r, "empty": np.array(62)},
    "people, γ is": lambda r: replaced(r, "effect", (0, 0, 0), -0.06),
    "people, strengths known, with empty": lambda r: replaced(r, "error", (1, 0, 0, 1), 0.05),
    "people, strengths known, without": lambda r: replaced(r, "error", (1, 0, 1, 1), 0.05),
    "but 13 prompts": lambda r: replaced(r, "error", (3, 0, 1, 1), 0.01),
    "GPT-4 is sure": lambda r: replaced(r, "error", (3, 1, 1, 1), 0.2),
    "and GPT-4 is harder": lambda r: {**r, "apart": np.array(-0.05)},
    "people lean": lambda r: replaced(r, "side", 0, 0.05),
    "GPT-4 leans": lambda r: replaced(r, "side", 1, -0.05),
    "ties are": lambda r: replaced(r, "ties", 1, 0.2),
    "voters agree more": lambda r: {**r, "explained": r["agreement"]},
    "no one ε": lambda r: {**r, "empty_gap": np.array(0.02)},
    "but elsewhere": lambda r: {**r, "spread": 4 * r["spread_error"]},
    "GPT-4 agrees": lambda r: {**r, "less": np.array(0.0)},
    "rDPO at that ε": lambda r: replaced(r, "limits", 0, 0.3),
    "rDPO's log-odds": lambda r: replaced(r, "size", (row(r, "rDPO, one vote"), -1), 1.0),
    "those of DPO": lambda r: replaced(r, "size", (row(r, "DPO, one vote"), -1), 2.0),
    "rDPO costs": lambda r: worse(r, "rDPO, one vote", -1),
    "but rDPO leaves": lambda r: replaced(r, "heldout_accuracy", (0, row(r, "rDPO, one vote"), -1), 0.5),
    "all votes": lambda r: worse(r, "DPO, all votes", 0.05),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail(name, result):
    found = human_votes.claims(BROKEN[name](result))
    assert [key[:len(name)] for key, claim in found.items() if not claim.holds] == [name]


def test_there_is_a_way_to_break_every_claim(result):
    found = human_votes.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


# ---- the files, read again

@pytest.fixture(scope="module")
def votes(data_dir):
    """[(pair, left, right, prompt, log length difference, empty, winner, winner for GPT-4)] of people"""
    def read(name):
        with gzip.open(data_dir / name, "rt", encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    with gzip.open(data_dir / "llmfao_pairs.jsonl.gz", "rt", encoding="utf-8") as file:
        pairs = {str(pair["id"]): pair for pair in map(json.loads, file)}
    judge = {row["id"]: row["winner"] for row in read("llmfao_gpt4_crowd_comparisons.csv.gz")}
    rows = []
    for vote in read("llmfao_crowd_comparisons.csv.gz"):
        pair = pairs[vote["id"]]
        x, y = pair["result_x"], pair["result_y"]
        rows.append((vote["id"], pair["model_x"], pair["model_y"], pair["prompt"],
                     np.log1p(len(x)) - np.log1p(len(y)), not x.strip() or not y.strip(), vote["winner"],
                     judge[vote["id"]]))
    return rows


def test_figures_of_the_data(result, votes):
    assert result["pairs"] == 2139 and result["votes"] == len(votes) == 8931 and result["empty"] == 289
    assert result["models"] == 59 and result["prompts"] == 13
    assert result["ties"][0] == pytest.approx(np.mean([vote[6] == "tie" for vote in votes]), abs=1e-15)
    assert result["ties"].round(3).tolist() == [0.389, 0.031]
    assert result["effect"][0].round(2).tolist() == [[-0.02, 0.06], [-0.21, -0.08]]
    assert result["error"][1, 0].round(2).tolist() == [[0.01, 0.02], [0.02, 0.03]]


@pytest.mark.parametrize("strengths", [False, True])
def test_the_effect_of_length_is_where_others_climb_to(result, votes, strengths):
    kept = [vote for vote in votes if not vote[5] and vote[6] != "tie"]
    X = np.zeros((len(kept), 2200))
    for row, (_, left, right, _, longer, *_) in zip(X, kept, strict=True):
        row[0] = longer
        row[1 + int(left)] += strengths
        row[1 + int(right)] -= strengths
    X = X[:, abs(X).sum(axis=0) > 0]
    X = X[:, :-1] if strengths else X
    y = np.array([1 if vote[6] == "left" else -1 for vote in kept])
    best = minimize(lambda w: -log_expit(y * (X @ w)).sum(), np.zeros(X.shape[1]),
                    jac=lambda w: -X.T @ (y * expit(-y * (X @ w))), method="BFGS", options={"gtol": 1e-6})
    assert result["effect"][0, 1, int(strengths)] == pytest.approx(best.x[0], abs=1e-6)


def test_agreement_is_counted_two_by_two_and_four_by_four(result, votes):
    cast, empty, judge = {}, {}, {}
    for pair, *_, hollow, winner, other in votes:
        empty[pair], judge[pair] = hollow, other
        if winner != "tie":
            cast.setdefault(pair, []).append(winner)
    alike = {pair: [a == b for a, b in combinations(said, 2)] for pair, said in cast.items()}
    A = np.mean([*chain.from_iterable(alike.values())])
    assert result["agreement"] == pytest.approx(A, abs=1e-13)
    assert 1 - 2 * result["eps"] * (1 - result["eps"]) == pytest.approx(A, abs=1e-13) and result["eps"] < 0.5
    there, elsewhere = (np.mean([x for pair, two in alike.items() if empty[pair] is hollow for x in two])
                        for hollow in (True, False))
    assert result["empty_gap"] == pytest.approx(there - elsewhere, abs=1e-13)
    with_it = [a == judge[pair] for pair, said in cast.items() if judge[pair] != "tie" for a in said]
    assert result["gpt4_agreement"] == pytest.approx(np.mean(with_it), abs=1e-13)
    shares = [np.bincount([min(four.count("left"), four.count("right")) for four in combinations(said, 4)], minlength=3)
              for pair, said in cast.items() if len(said) >= 4 and not empty[pair]]
    assert_allclose(result["split"], np.mean([x / x.sum() for x in shares], axis=0), rtol=0, atol=1e-13)


def test_errors_by_pair_are_those_of_a_bootstrap_of_pairs(result, votes, rng):
    pairs = {}
    for pair, *_, winner, _ in votes:
        pairs.setdefault(pair, [0, 0, 0])[("left", "right", "tie").index(winner)] += 1
    a, b, _ = np.array(list(pairs.values())).T
    same, met = a * (a - 1) + b * (b - 1), (a + b) * (a + b - 1)
    drawn = rng.integers(0, len(a), (2000, len(a)))
    A = same[drawn].sum(axis=1) / met[drawn].sum(axis=1)
    within = 3 / np.sqrt(2 * len(A))  # of a standard deviation of 2,000
    assert result["agreement_error"] == pytest.approx(A.std(), rel=within)
    assert result["eps_error"] == pytest.approx(((1 - np.sqrt(2 * A - 1)) / 2).std(), rel=within + 0.02)


def test_one_eps_has_no_spread_and_two_have(rng):
    n, eps, many = rng.integers(4, 6, 4000), np.full(4000, 0.2), np.ones(4000, bool)
    for flips, found in ((eps, False), (np.where(rng.random(4000) < 0.5, 0.05, 0.4), True)):
        left = rng.binomial(n, np.where(rng.random(4000) < 0.5, flips, 1 - flips))
        four = human_votes._four_votes(left, n - left, many, np.zeros(4000))
        assert (abs(four["spread"]) > 4 * four["spread_error"]) == found
        u = flips * (1 - flips)
        assert four["spread"] == pytest.approx(u.var(), abs=4 * four["spread_error"])
    few = np.array([human_votes._four_votes(a, 4 - a, np.ones(5, bool), np.zeros(5))["spread"]
                    for a in rng.binomial(4, 0.3, (4000, 5))])
    assert abs(few.mean()) < 3 * few.std() / np.sqrt(4000)  # without bias, however few the pairs


def test_people_and_gpt4_in_one_fit_have_the_same_difference_and_error(result):
    """Every strength a covariate, those of GPT-4 apart, clustered by pair"""
    two = [_real.of_rows(votes, ~votes.empty & (votes.outcome != 0)) for votes in _real.llmfao(
        "characters")[:2]]
    blocks = []
    for votes in two:
        X = np.zeros((len(votes.pair), 59))
        np.add.at(X, (np.arange(len(X)), votes.left), 1.0)
        np.add.at(X, (np.arange(len(X)), votes.right), -1.0)
        X[:, 0] = votes.longer  # for a strength that is 0
        blocks.append(X)
    none, at = np.zeros(sum(map(len, blocks)), int), [1, 60]
    found = vote_model.fit(np.concatenate([votes.outcome for votes in two]), none, none, block_diag(*blocks))
    V = vote_model.clustered(found, np.concatenate([votes.pair for votes in two]))[np.ix_(at, at)]
    assert result["apart"] == pytest.approx(found.gamma[59] - found.gamma[0], abs=1e-9)
    assert result["apart_error"] == pytest.approx(np.sqrt(V[0, 0] + V[1, 1] - 2 * V[0, 1]), rel=1e-8)
    assert abs(V[0, 1]) > 1e-5


def test_ties_are_read_as_told(result):
    human = _real.llmfao("characters")[0]
    kinds = [human_votes._fit(human, False, ties).ties for ties in ("decided", "davidson", "rao_kupper")]
    assert kinds == ["davidson", "davidson", "rao_kupper"]


def test_of_13_prompts_errors_are_students(result):
    assert human_votes._few(result) == pytest.approx(2.179, abs=5e-4)  # of 12 degrees of freedom, as in any table


# ---- what learns

def test_dpo_ends_at_the_fit_of_its_votes(result):
    human, _, models = _real.llmfao("characters")
    told, asked = human_votes._splits(human, models, 2139, Config())
    limits = graph.largest_flip(told["one vote"])
    assert_allclose(result["limits"], limits, rtol=0, atol=1e-12)
    for k in np.flatnonzero(limits > 0):
        r = bradley_terry.fit(told["one vote"][k])
        loss = -(asked[k] * log_expit(np.subtract.outer(r, r))).sum() / asked[k].sum()
        assert result["heldout_loss"][k, row(result, "DPO, one vote"), -1] == pytest.approx(loss, abs=2e-3)
    # a pair is in one half, with one voice
    total = told["all votes"] + asked
    assert_allclose(total, np.broadcast_to(total[0], total.shape), rtol=0, atol=1e-12)
    for name in told:
        assert_allclose(told[name].sum(axis=(1, 2)), told["all votes"].sum(axis=(1, 2)), atol=1e-9)


def test_asked_is_what_the_least_of_the_splits_leaves_over(result, votes):
    """Pairs on which anyone decides are learned from or asked about, with one voice each"""
    human, _, models = _real.llmfao("characters")
    decided = len({vote[0] for vote in votes if vote[6] != "tie"})
    learned = human_votes._splits(human, models, 2139, Config())[0]["one vote"].sum(axis=(1, 2))
    assert result["asked"] == pytest.approx(decided - learned.max(), abs=1e-9)
    assert np.ptp(learned) > 1


@pytest.mark.parametrize("setting", [
    {"ties": "davidson", "unit": "words", "replicates": 1, "steps": 2},
    {"ties": "rao_kupper", "unit": "bytes", "replicates": 2, "share": 0.8, "eps": 0.05, "steps": 5},
])
def test_other_settings(setting, result):
    found = human_votes.run(Config(**setting))
    assert found.keys() == result.keys()
    assert found["heldout_loss"].shape == (setting["replicates"], 5, setting["steps"])
    assert found["effect"][0, 1, 1] < 0 < found["effect"][0, 0, 1]
    assert 0 < found["told_eps"] < 0.5
    human_votes.claims(found)
    for draw in human_votes.PANELS:
        import matplotlib.pyplot as plt

        plt.close(draw(found).figure)


@pytest.mark.parametrize(("setting", "message"), [
    ({"unit": "tokens"}, "unit is tokens; expected one of characters, bytes, words"),
    ({"ties": "half"}, "ties is half; expected one of decided, davidson, rao_kupper"),
    ({"share": 1.0}, "share is 1.0; expected at least 0 and below 1"),
    ({"share": 0.0}, "share is 0.0; expected a finite number above 0"),
    ({"eps": 0.5}, "eps is 0.5; expected below 0.5"),
    ({"steps": 1}, "steps is 1; expected a whole number, at least 2"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)


def test_without_the_data_it_is_skipped_by_a_sentence(monkeypatch, tmp_path):
    monkeypatch.delenv("DPO_NUMPY_DATA", raising=False)
    with pytest.raises(Skipped, match="DPO_NUMPY_DATA names no folder of real preferences: expected one with llmfao"):
        human_votes.run()
    monkeypatch.setenv("DPO_NUMPY_DATA", str(tmp_path))
    with pytest.raises(Skipped, match=r"DPO_NUMPY_DATA names a folder without llmfao_pairs\.jsonl\.gz, llmfao_crowd"):
        human_votes.run()


def test_what_is_missing_is_to_be_had_where_the_sentence_says(monkeypatch):
    monkeypatch.delenv("DPO_NUMPY_DATA", raising=False)
    files = ("oasst_en_100_tree.jsonl.gz", "hh_harmless_test.jsonl.gz", "llmfao_pairs.jsonl.gz")
    with pytest.raises(Skipped) as skipped:
        _real.files(*files)
    page = re.search(r"\((\S+\.md) says where", str(skipped.value))[1]
    assert all(name in (Path(__file__).parents[2] / page).read_text("utf-8") for name in files)
