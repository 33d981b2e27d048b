"""What one logs, against naive loops; and an interval that covers."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dpo_numpy as dn

EPS = np.finfo(np.float64).eps
NAMES = ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
         "logps/chosen", "logps/rejected"]


def message(text):
    return pytest.raises(ValueError, match=re.escape(text))


def naive(logp, ref_logp, beta, weight):
    out = dict.fromkeys(NAMES, 0.0)
    for (w, l), (ref_w, ref_l), share in zip(logp, ref_logp, weight, strict=True):  # noqa: E741
        chosen, rejected = beta * (w - ref_w), beta * (l - ref_l)
        for name, x in zip(NAMES, (chosen, rejected, chosen - rejected, float(chosen > rejected), w, l), strict=True):
            out[name] += share * x / sum(weight)
    return out


@given(st.lists(st.tuples(*[st.floats(-100, 0)] * 4, st.floats(0.1, 10)), min_size=1, max_size=6), st.floats(0.01, 10))
def test_metrics_against_a_loop(rows, beta):
    table = np.array(rows)
    logp, ref_logp, weight = table[:, :2], table[:, 2:4], table[:, 4]
    for told, w in ((weight, weight), (None, np.ones(len(rows)))):
        found, want = dn.preference_metrics(logp, ref_logp, beta, told), naive(logp, ref_logp, beta, w)
        assert list(found) == NAMES
        for name, x in want.items():
            assert type(found[name]) is float
            assert found[name] == pytest.approx(x, rel=1e-12, abs=1e-12 * max(1, beta))


def test_ties_count_0_so_that_accuracy_at_the_reference_is_0():
    logp = [[-1.0, -2.0], [-3.0, -0.5]]
    assert dn.preference_metrics(logp, logp, 0.1)["rewards/accuracies"] == 0
    up = [[-1.0, -2.5], [-3.0, -0.5]]
    assert dn.preference_metrics(up, logp, 0.1)["rewards/accuracies"] == 0.5
    assert dn.preference_metrics(up, logp, 0.1, [3, 1])["rewards/accuracies"] == 0.75
    assert dn.preference_metrics([[-0.0, 0.0]], [[0.0, -0.0]], 0.1)["rewards/accuracies"] == 0


def test_weights_count_in_proportion_and_float32_is_summed_in_float64():
    rng = np.random.default_rng(0)
    logp, ref, weight = -rng.random((5, 2)), -rng.random((5, 2)), rng.integers(1, 4, size=5)
    one = dn.preference_metrics(logp, ref, 0.2, weight)
    twice = dn.preference_metrics(logp.repeat(weight, axis=0), ref.repeat(weight, axis=0), 0.2)
    scaled = dn.preference_metrics(logp, ref, 0.2, weight * 1e-3)
    without = dn.preference_metrics(logp[1:], ref[1:], 0.2)
    assert dn.preference_metrics(logp, ref, 0.2, [0, 1, 1, 1, 1]) == pytest.approx(without, rel=1e-14)
    single = dn.preference_metrics(logp.astype(np.float32), ref.astype(np.float32), 0.2, weight)
    for name in NAMES:
        assert one[name] == pytest.approx(twice[name], rel=1e-14)
        assert one[name] == pytest.approx(scaled[name], rel=1e-14)
        assert one[name] == pytest.approx(single[name], abs=1e-6)


@pytest.mark.parametrize(("logp", "ref", "text"), [
    ([-1.0, -2.0], [-1.0, -2.0], "logp has shape (2,) and ref_logp (2,); expected (B, 2) both"),
    ([[-1.0, -2.0, -3.0]], [[-1.0, -2.0, -3.0]], "logp has shape (1, 3) and ref_logp (1, 3); expected (B, 2) both"),
    ([[-1.0, -2.0]], [[-1.0]], "logp has shape (1, 2) and ref_logp (1, 1); expected (B, 2) both"),
])
def test_metrics_refuse_shapes(logp, ref, text):
    with message(text):
        dn.preference_metrics(logp, ref, 0.1)


@pytest.mark.parametrize(("weight", "text"), [
    ([1.0, 2.0], "weight has shape (2,) and sum 3.0; expected (1,) numbers, none negative, not all 0"),
    ([0.0], "weight has shape (1,) and sum 0.0; expected (1,) numbers"),
    ([-1.0], "weight has shape (1,) and sum -1.0; expected (1,) numbers"),
    ([np.nan], "weight has shape (1,) and sum nan; expected (1,) numbers"),
])
def test_weights_are_checked(weight, text):
    with message(text):
        dn.preference_metrics([[-1.0, -2.0]], [[-1.0, -2.0]], 0.1, weight)
    with message(text):
        dn.accuracy_interval([1], [0], weight)


# ---- the interval

def by_hand(right, group, weight):
    rows = list(zip(weight, right, group, strict=True))
    share = sum(w * r for w, r, _ in rows) / sum(weight)
    groups = set(group)
    square = sum(sum(w * (r - share) for w, r, g in rows if g == name) ** 2 for name in groups)
    se = np.sqrt(len(groups) / (len(groups) - 1) * square) / sum(weight)
    return share, max(0, share - 1.96 * se), min(1, share + 1.96 * se)


def test_the_interval_is_the_formula():
    rng = np.random.default_rng(1)
    for _ in range(20):
        n = int(rng.integers(3, 30))
        right, group, weight = rng.integers(2, size=n), rng.integers(4, size=n).tolist(), rng.random(n) + 0.1
        group[:2] = [0, 1]
        for told, w in ((weight, weight), (None, np.ones(n))):
            found, want = dn.accuracy_interval(right, group, told), by_hand(right, group, w)
            np.testing.assert_allclose(found, want, rtol=1e-12, atol=1e-15)


def test_rows_on_their_own_give_the_textbook_interval():
    right = np.array([1] * 30 + [0] * 10)
    share, low, high = dn.accuracy_interval(right, np.arange(40))
    se = np.sqrt(0.75 * 0.25 / 39)  # with n - 1, as G/(G-1) has it
    np.testing.assert_allclose([share, low, high], [0.75, 0.75 - 1.96 * se, 0.75 + 1.96 * se], rtol=1e-14)


def test_the_interval_covers_where_one_for_independent_rows_does_not():
    """2,000 data sets of 80 groups of 10 rows, each group with an accuracy of its own: sigma is 0.5%"""
    rng, runs, groups, rows = np.random.default_rng(2), 2000, 80, 10
    p = rng.beta(1.4, 0.6, size=(runs, groups, 1))  # mean 0.7
    right = rng.random((runs, groups, rows)) < p
    group = np.repeat(np.arange(groups), rows)
    clustered = independent = 0
    for data in right.reshape(runs, -1):
        share, low, high = dn.accuracy_interval(data, group)
        clustered += low <= 0.7 <= high
        independent += abs(share - 0.7) <= 1.96 * np.sqrt(share * (1 - share) / len(data))
    sigma = np.sqrt(0.95 * 0.05 / runs)
    # normal instead of t with 79 degrees of freedom costs 0.4%, skewness about as much
    assert abs(clustered / runs - 0.945) < 4 * sigma
    assert independent / runs < 0.8


def test_unequal_groups_and_weights_are_covered_too():
    rng, runs, covered = np.random.default_rng(3), 1000, 0
    for _ in range(runs):
        size = rng.integers(1, 12, size=100)
        group = np.repeat(np.arange(100), size)
        weight = np.repeat(rng.random(100) + 0.5, size)
        right = rng.random(len(group)) < np.repeat(rng.beta(2.0, 2.0, size=100), size)
        _, low, high = dn.accuracy_interval(right, group, weight)
        covered += low <= 0.5 <= high
    assert abs(covered / runs - 0.945) < 4 * np.sqrt(0.95 * 0.05 / runs)


def test_edges():
    assert dn.accuracy_interval([1, 1, 1], ["a", "b", "b"]) == (1, 1, 1)
    share, low, high = dn.accuracy_interval([1, 0], ["a", "a"])
    assert share == 0.5
    assert np.isnan([low, high]).all()
    assert dn.accuracy_interval([True, False], [0, 1])[1:] == (0, 1)  # cut
    with message("right has shape (2, 1) and group (2,); expected (B,) both"):
        dn.accuracy_interval([[1], [0]], [0, 1])
    with message("right has shape (2,) and group (3,); expected (B,) both"):
        dn.accuracy_interval([1, 0], [0, 1, 2])
    with message("weight has shape (0,) and sum 0.0"):
        dn.accuracy_interval([], [])
