import re

import mpmath
import numpy as np
import pytest

from dpo_numpy import estimates
from dpo_numpy.estimates import bco_shift, kl_baseline, wpo_weight

EPS = np.finfo(float).eps


def test_the_baseline_is_cut_after_the_mean_is_taken():
    assert kl_baseline([4.0, -6.0]) == 0
    assert kl_baseline([4.0, -2.0]) == 1
    assert kl_baseline([4.0, -2.0], weight=[3.0, 1.0]) == 2.5
    assert kl_baseline([4.0, -2.0, -2.0]) == kl_baseline([4.0, -2.0], weight=[1.0, 2.0]) == 0


def test_the_shift_weighs_both_kinds_alike_unless_pooled():
    reward, label = [1.0, 1.0, 4.0], [True, True, False]
    assert bco_shift(reward, label) == 2.5
    assert bco_shift(reward, label, pooled=True) == 2
    assert bco_shift(reward, label, weight=[1.0, 3.0, 4.0], pooled=True) == 2.5
    assert bco_shift([0.0, 2.0, 4.0], label, weight=[1.0, 3.0, 4.0]) == 2.75


def test_wpo_weight_against_its_definition():
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(size=(2, 3, 5, 4)), rng.integers(4, size=(3, 5))
    mask = np.array([[0, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]], bool)
    ours = wpo_weight(logits, tokens, mask)
    assert ours.shape == (2, 3)
    for r, b in np.ndindex(2, 3):
        terms = []
        for t in np.flatnonzero(mask[b]):
            p = [mpmath.exp(x) for x in logits[r, b, t - 1]]
            p = [x / sum(p) for x in p]
            terms.append(mpmath.log(p[tokens[b, t]]) - mpmath.log(sum(x * x for x in p)))
        assert ours[r, b] == pytest.approx(float(mpmath.exp(sum(terms) / len(terms))), rel=32 * EPS)


def test_wpo_weight_is_one_of_a_uniform_policy_and_above_it_of_the_likeliest():
    tokens, mask = np.array([[0, 1]]), np.array([[False, True]])
    assert wpo_weight(np.zeros((1, 2, 4)), tokens, mask).tolist() == [1]
    assert wpo_weight(np.array([[[0.0, 2.0], [0.0, 0.0]]]), tokens, mask)[0] > 1
    assert wpo_weight(np.array([[[2.0, 0.0], [0.0, 0.0]]]), tokens, mask)[0] < 1


def test_errors():
    none, mask = np.zeros((1, 2), int), np.zeros((1, 2), bool)
    for call, message in [
        (lambda: kl_baseline([[1.0]]),
         "log_ratio has shape (1, 1) and weight (1, 1); expected (N,) both, N at least 1"),
        (lambda: kl_baseline([]), "log_ratio has shape (0,) and weight (0,); expected (N,) both, N at least 1"),
        (lambda: kl_baseline([1.0], weight=[1.0, 2.0]),
         "log_ratio has shape (1,) and weight (2,); expected (N,) both, N at least 1"),
        (lambda: kl_baseline([1.0], weight=[0.0]), "weight sums to 0.0; expected none negative and not all 0"),
        (lambda: bco_shift([1.0], [True, False]), "label has shape (2,); expected that of reward, (1,)"),
        (lambda: bco_shift([1.0], [True]), "label is always true; expected both kinds, or pooled=True"),
        (lambda: bco_shift([1.0], [False]), "label is never true; expected both kinds, or pooled=True"),
        (lambda: wpo_weight(np.zeros((1, 2, 3)), none, mask),
         "mask has no response token in a row; expected at least one in each"),
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()


def test_everything_public_is_tested_here():
    assert set(estimates.__all__) <= set(globals())
