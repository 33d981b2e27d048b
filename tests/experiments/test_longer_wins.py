"""longer_wins: claims that can fail, pairs counted from the trees, slopes by differences, scores on texts made up."""

import gzip
import json
from itertools import combinations, pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, log_softmax, softmax

import dpo_numpy as dn
from analytic import ngram
from dpo_numpy.data import Bytes, Row, load, to_preferences
from toy_models import NGram
from toy_models.experiments import Skipped, longer_wins
from toy_models.experiments.longer_wins import Config, Kinds

SMALL = {"replicates": 1, "betas": (1.0,), "steps": 20, "folds": 2, "order": 1, "byte_steps": 2}


def replaced(result, key, row, value):
    changed = np.array(result[key], float, copy=True)
    changed[row] = value
    return {**result, key: changed}


#: claim's beginning -> a way to break its measurement
BROKEN = {
    "OASST: the longer": lambda r: {**r, "oasst_share": np.array(0.6)},
    "trees are": lambda r: {**r, "oasst_alone": r["oasst_error"]},
    "log-odds": lambda r: {**r, "oasst_gamma_error": np.array(1.0)},
    "HH: the longer": lambda r: {**r, "hh_share": np.array(0.49)},
    "4 pairs": lambda r: {**r, "hh_empty": np.array(9)},
    "bytes, held out": lambda r: {**r, "oasst_score": np.array(0.6)},
    "as bytes prefer": lambda r: {**r, "oasst_fresh_longer": np.array(0.51)},
    "bytes, pairs split": lambda r: {**r, "oasst_leak": np.array(0.01)},
    "the bigram's": lambda r: {**r, "mean": 1.02 * r["mean"]},
    "at the reference": lambda r: replaced(r, "pull", 2, r["pull"][2] * (1 + 1e-9)),
    "people's labels": lambda r: replaced(r, "growth", (slice(None), slice(0, 1)), [[3.0], [-0.1]]) | {
        "noise": np.array([0.0, -0.05])},
    "reversed": lambda r: replaced(r, "growth", (1, 2), 0.1),
    "balanced": lambda r: replaced(r, "growth", (0, 3), r["growth"][0, 0]),
    "at the largest β": lambda r: replaced(r, "noise", 0, 0.5),
    "at the least β": lambda r: replaced(r, "noise", 1, 0.2),
    "R-DPO": lambda r: replaced(r, "loss_length", (1, -1), 900),
    "LN-DPO": lambda r: replaced(r, "loss_length", (2, -1), 2000),
    "SimPO": lambda r: replaced(r, "loss_kl", (3, -1), 1),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail(name, result):
    found = longer_wins.claims(BROKEN[name](result))
    assert [key[:len(name)] for key, claim in found.items() if not claim.holds] == [name]


def test_there_is_a_way_to_break_every_claim(result):
    found = longer_wins.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


# ---- the files

@pytest.fixture(scope="module")
def trees(data_dir):
    """[[(chosen, rejected), ...] of each tree]"""
    def pairs(message):
        said = [reply for reply in message["replies"] if reply["role"] == "assistant"]
        ranked = [reply for reply in said if reply.get("rank") is not None]
        for a, b in combinations(ranked, 2):
            better, worse = sorted((a, b), key=lambda reply: reply["rank"])
            yield better["text"], worse["text"]
        for reply in message["replies"]:
            yield from pairs(reply)

    with gzip.open(data_dir / "oasst_en_100_tree.jsonl.gz", "rt", encoding="utf-8") as file:
        return [list(pairs(json.loads(line)["prompt"])) for line in file]


@pytest.fixture(scope="module")
def rows(data_dir):
    return load(data_dir / "oasst_en_100_tree.jsonl.gz").rows


def test_figures_of_the_data(result, trees):
    longer = [[len(chosen) > len(rejected) for chosen, rejected in tree] for tree in trees]
    share = np.mean([won for tree in longer for won in tree])
    assert result["oasst_groups"] == len(trees) == 100 and result["oasst_pairs"] == sum(map(len, trees)) == 754
    assert result["oasst_share"] == pytest.approx(share, abs=1e-14)
    within = np.sqrt(sum(sum(won - share for won in tree) ** 2 for tree in longer)) / 754
    assert result["oasst_error"] == pytest.approx(within, rel=1e-12)
    assert result["oasst_alone"] == pytest.approx(np.sqrt(share * (1 - share) / 754), rel=1e-12)
    assert result["oasst_share"].round(3) == 0.698 and result["oasst_error"].round(3) == 0.021
    assert result["hh_share"].round(3) == 0.446 and result["hh_error"].round(3) == 0.010
    # 2,312 pairs; 0.2% have different prompts
    assert result["hh_pairs"] + result["hh_dropped"] == 2312 and result["hh_empty"] == 4
    assert (result["hh_dropped"] - 4) / 2312 == pytest.approx(0.002, abs=5e-4)


def test_words_and_trees_of_equal_weight_have_the_longer_one_win_as_often(trees):
    shares = [np.mean([len(a.split()) > len(b.split()) for tree in trees for a, b in tree]),
              np.mean([np.mean([len(a) > len(b) for a, b in tree]) for tree in trees if tree])]
    assert_allclose(shares, [0.683, 0.724], atol=5e-4)


def test_the_slope_of_log_length_is_where_the_likelihood_peaks(result, trees):
    x = np.array([np.log(len(a) / len(b)) for tree in trees for a, b in tree])
    best = minimize_scalar(lambda slope: -log_expit(slope * x).sum(), bounds=(0, 5), options={"xatol": 1e-10})
    assert result["oasst_gamma"] == pytest.approx(best.x, abs=1e-6)


def test_bins_by_how_many_times_longer_are_counted_one_by_one(result, trees):
    for k, (low, high) in enumerate(pairwise(result["oasst_times"])):
        here = [[len(a) > len(b) for a, b in tree if low < max(len(a), len(b)) / min(len(a), len(b)) <= high or (
            k == 0 and len(a) == len(b))] for tree in trees]
        n = sum(map(len, here))
        assert n == pytest.approx(754 / 5, abs=1)
        share = sum(map(sum, here)) / n
        assert result["oasst_share_by_times"][k] == pytest.approx(share, abs=1 / n)  # the shortest ratio is an edge
        if k:
            assert result["oasst_share_by_times"][k] == pytest.approx(share, abs=1e-13)
            error = np.sqrt(sum((sum(tree) - share * len(tree))**2 for tree in here)) / n
            assert result["oasst_error_by_times"][k] == pytest.approx(error, rel=1e-12)
            assert result["oasst_alone_by_times"][k] == pytest.approx(np.sqrt(share * (1 - share) / n), rel=1e-12)


def test_a_bin_without_pairs_has_no_share():
    rows = tuple(Row("", ("aa", "a"), "", f"row {k}") for k in range(3))
    found = longer_wins._wins((*rows, Row("", ("a", "aa"), "", "row 3")), np.arange(4), 3)
    assert found["share_by_times"][0] == 0.75 and np.isnan(found["share_by_times"][1:]).all()


# ---- bytes

def texts(rng, chosen, rejected, n=60):
    """Pairs whose answers hold these letters"""
    def text(letters):
        return "".join(rng.choice(list(letters), 20))

    return to_preferences([Row("", (text(chosen), text(rejected)), "", f"row {k}") for k in range(n)], Bytes())


def test_scores_are_of_pairs_that_were_not_read(rng):
    fold, sure = np.arange(60) % 3, 0.5 + 4 * 0.5 / np.sqrt(60)
    for order in (1, 3):
        config = Config(order=order, byte_steps=10)
        assert longer_wins._score(texts(rng, "acc", "add"), fold, config)[0].mean() > sure
        assert abs(longer_wins._score(texts(rng, "acc", "acc"), fold, config)[0].mean() - 0.5) < sure - 0.5
        # what one fold says of c, no other does
        pairs = texts(rng, "acc", "add")
        pairs = dn.Preferences(pairs.responses, np.where((fold == 0)[:, None], pairs.index[:, ::-1], pairs.index))
        assert longer_wins._score(pairs, fold, config)[0, fold == 0].mean() < 1 - sure


def test_scores_are_of_sums_and_of_means_of_bytes_added_up_one_by_one(rng):
    texts = [["".join(rng.choice(list("abcd"), n)) for n in rng.integers(3, 40, 2)] for _ in range(40)]
    pairs = to_preferences([Row("", tuple(text), "", f"row {k}") for k, text in enumerate(texts)], Bytes())
    fold, config, policy = np.arange(40) % 2, Config(order=1, folds=2, byte_steps=5), NGram(257, 1)
    expected = np.empty((2, 40))
    for k in (0, 1):
        learn = np.flatnonzero(fold != k)
        start = policy.fit(pairs.responses, np.isin(np.arange(len(pairs.responses)), pairs.index[learn]))
        told = dn.Preferences(pairs.responses, pairs.index[learn]).with_reference(policy, start)
        *_, last = dn.train(policy, start, [told] * 5, dn.LOSSES["dpo"](beta=0.1), dn.adam(0.01))
        gain = (log_softmax(last.params["W"], axis=1) - log_softmax(start["W"], axis=1))[0]
        for b in np.flatnonzero(fold == k):
            won, lost = (gain[[*(1 + np.frombuffer(text.encode(), np.uint8)), 0]] for text in texts[b])  # 0: the end
            expected[:, b] = won.sum() > lost.sum(), won.mean() > lost.mean()
    found = longer_wins._score(pairs, fold, config)
    assert_allclose(found, expected, atol=0)
    assert (found[0] != found[1]).any()


def test_a_model_that_reads_nothing_of_use_prefers_the_shorter_of_fresh_replies(rng):
    """Labels by coin, of texts of 10 and 40 letters: what is not read loses log π/π_ref with every letter"""
    texts = [("".join(rng.choice(list("abcdefgh"), n)) for n in (10, 40)) for _ in range(60)]
    rows = [Row("", tuple(text)[::side], f"{k}", f"row {k}") for k, (text, side) in enumerate(
        zip(texts, np.tile([1, -1], 30), strict=True))]
    found = longer_wins._scores(rows, np.arange(60), Config(order=2, byte_steps=100), rng)
    assert found["fresh_longer"] < 0.5 - 4 * found["fresh_longer_error"]
    assert abs(found["score"] - 0.5) < 3 * 0.5 / np.sqrt(60)


@pytest.mark.slow
def test_hh_scores_60_percent_and_has_nothing_to_leak(data_dir):
    found = longer_wins.run(Config(**{**SMALL, "order": 2, "byte_steps": 30, "folds": 3, "score_hh": True}))
    assert 0.58 < found["hh_score"] < 0.63
    assert abs(found["hh_leak"]) < 3 * found["hh_leak_error"]
    assert found["oasst_leak"] > 3 * found["oasst_leak_error"]


# ---- the language

@pytest.fixture(scope="module")
def language(rows):
    return longer_wins._Language(rows)


def test_kinds_of_characters():
    text = "Né 3\n(x)."
    assert Kinds().encode(f" {text} ") == [2, 1, 4, 3, 5, 7, 1, 7, 6]
    assert Kinds().decode(Kinds().encode(text)) == "Aa 0\n#a#."


def test_its_reference_is_of_the_length_of_the_replies(result, trees):
    replies = {text for tree in trees for pair in tree for text in pair}
    assert result["mean"] == pytest.approx(np.mean([len(text.strip()) for text in replies]), rel=2e-3)


def test_the_pull_is_what_a_short_step_adds_to_the_length(result, language):
    loss, rate = dn.LOSSES["dpo"](beta=1.0), 1e-7
    _, gradient = dn.value_and_grad(language.policy, language.start, language.people, loss)
    up, down = (ngram.expected_length(longer_wins._probabilities({
        "W": language.start["W"] - side * rate * gradient["W"]})) for side in (1, -1))
    assert result["pull"][0] == pytest.approx((up - down) / (2 * rate), rel=1e-5)


def test_labels_are_turned_where_they_should_be(language):
    by = np.where(np.arange(754) % 2, 1, -1)
    index = language.labelled(by).index
    assert (index[1::2] == language.people.index[1::2]).all()
    assert (index[::2] == language.people.index[::2, ::-1]).all()
    length = language.people.responses.length
    longer = language.labelled(language.longer).index
    assert (length[longer[:, 0]] >= length[longer[:, 1]]).all()


@pytest.mark.parametrize("bins", [1, 5])
def test_balanced_weights_leave_length_no_say(language, bins):
    weight, size = language.balanced(bins), abs(language.ratio)
    assert weight.sum() == pytest.approx(1) and (weight >= 0).all()
    assert weight[language.longer > 0].sum() == pytest.approx(0.5, abs=0.005)  # like lengths, of no side, have a few
    edges = [-1, *np.quantile(size, np.arange(1, bins) / bins), np.inf]
    for low, high in pairwise(edges):
        here = (size > low) & (size <= high)
        won, lost = (weight[here & (language.longer == side)].sum() for side in (1, -1))
        assert won == pytest.approx(lost, abs=1e-12) and won > 0


def test_trainings_are_those_of_their_labels_and_losses(language):
    found = longer_wins.run(Config(**SMALL, alpha=0.0))
    people, length = language.people, language.people.responses.length
    by_length = [(i, j) if length[i] >= length[j] else (j, i) for i, j in people.index.tolist()]
    longer = dn.Preferences(people.responses, np.array(by_length))
    each = dn.LOSSES["ln_dpo"](beta=(length - 1).mean())
    for pairs, loss, path in ((longer, dn.LOSSES["dpo"](beta=1.0), found["length"][0, 1]),
                              (people, each, found["loss_length"][2])):
        *_, last = dn.train(language.policy, language.start, [pairs] * 20, loss, dn.adam(0.005))
        assert path[-1] == pytest.approx(ngram.expected_length(softmax(last.params["W"], axis=1)), rel=1e-9)
    dpo, r_dpo = found["loss_length"][:2]
    assert_allclose(r_dpo, dpo, rtol=1e-9)  # as α is 0
    assert_allclose(found["length"][0, 0], dpo, rtol=1e-12)
    assert found["steps"].tolist() == list(range(1, 21))


@pytest.mark.slow
def test_other_settings(result):
    found = longer_wins.run(Config(seed=3, replicates=2, betas=(0.3,), steps=30, folds=2, byte_steps=1, bins=2))
    assert found.keys() == result.keys()
    assert found["coin_length"].shape == (2, 1, 20) and found["steps"][-1] == 30
    one = longer_wins.run(Config(**{**SMALL, "seed": 3, "betas": (0.3,), "steps": 30}))
    assert_allclose(one["coin_length"][0], found["coin_length"][0], rtol=1e-12)
    assert np.isnan(one["noise_error"]).all() and np.isnan(one["hh_score"])
    assert one["growth"][0, 0] > 0 > one["growth"][0, 2]
    assert np.isfinite(found["noise_error"]).all()
    last = np.log(found["coin_length"][:, 0, -1] / found["start"])
    assert found["from_noise"] == pytest.approx(last.mean(), abs=1e-14)
    assert found["from_noise"] + found["from_labels"] == pytest.approx(found["growth"][0, 0], abs=1e-14)
    assert found["noise_error"][0] == pytest.approx(abs(last[0] - last[1]) / 2, rel=1e-9)  # of the mean of two
    other = longer_wins.run(Config(**{**SMALL, "seed": 4, "betas": (0.3,), "steps": 30}))
    assert other["coin_length"][0, 0, -1] != one["coin_length"][0, 0, -1]
    for draw in longer_wins.PANELS:
        import matplotlib.pyplot as plt

        plt.close(draw(one).figure)
    longer_wins.claims(one)


@pytest.mark.parametrize(("setting", "message"), [
    ({"betas": (1.0, 0.0)}, "betas holds 0.0; expected a finite number above 0"),
    ({"alpha": -1.0}, "alpha is -1.0; expected a finite number, at least 0"),
    ({"steps": 19}, "steps is 19; expected a whole number, at least 20"),
    ({"folds": 1}, "folds is 1; expected a whole number, at least 2"),
    ({"bins": 0}, "bins is 0; expected a whole number, at least 1"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)


def test_without_the_data_it_is_skipped_by_a_sentence(monkeypatch):
    monkeypatch.delenv("DPO_NUMPY_DATA", raising=False)
    with pytest.raises(Skipped, match="DPO_NUMPY_DATA names no folder of real preferences: expected one with oasst_en"):
        longer_wins.run()
