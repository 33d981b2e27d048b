import itertools
import math

import numpy as np
import pytest

from dpo_numpy.policy import enumerate_responses
from dpo_numpy.preferences import pad
from toy_models import NGram, brackets, modular_sums


def balanced(text):
    """By striking out what closes at once, until nothing does"""
    while "()" in text:
        text = text.replace("()", "")
    return not text


@pytest.mark.parametrize(("most", "depth"), [(1, 1), (4, 2), (5, 3)])
def test_brackets_of_every_string(most, depth):
    task = brackets(most, depth)
    assert len(task.prompts) == depth
    right = 0
    for prompt in task.prompts:
        every = enumerate_responses(NGram(3), prompt, task.max_length)
        for tokens, mask, reward in zip(every.tokens, every.mask, task.reward(every), strict=True):
            said = tokens[mask].tolist()
            text = "".join(" ()"[token] for token in (*prompt, *said) if token)
            assert reward == (said[-1] == 0 and balanced(text))
            right += reward
    # paths of n steps from height k to 0 that stay above -1 (the ballot theorem)
    paths = [(k + 1) * math.comb(n + 1, (n - k) // 2) // (n + 1)
             for k in range(1, depth + 1) for n in range(k, most + 1, 2)]
    assert right == sum(paths)


def test_a_sum_has_one_right_answer():
    task = modular_sums(4)
    assert task.prompts == [[*pair, 5] for pair in itertools.product(range(1, 5), repeat=2)]
    for a, b, equals in task.prompts:
        every = enumerate_responses(NGram(6), [a, b, equals], task.max_length)
        reward = task.reward(every)
        assert reward.sum() == 1
        row = int(np.argmax(reward))
        assert every.tokens[row][every.mask[row]].tolist() == [((a - 1) + (b - 1)) % 4 + 1, 0]


def test_what_did_not_end_is_wrong():
    said = pad([([1, 1, 3], [1, 1]), ([1, 1, 3], [1]), ([1, 1, 3], [1, 0])])
    assert modular_sums(2).reward(said).tolist() == [0.0, 0.0, 1.0]
    assert brackets(2).reward(pad([([1], [0]), ([1], [2]), ([1], [2, 0])])).tolist() == [0.0, 0.0, 1.0]


def test_only_brackets_close():
    """A policy may know other tokens, and a response of another tool hold an end before its end."""
    assert brackets(3).reward(pad([([1], [3, 0]), ([1], [1, 2, 3, 0]), ([1], [0, 0]), ([1], [2, 0])])).tolist() == [
        0.0, 0.0, 0.0, 1.0]


def test_bad_input_is_one_sentence():
    for call, message in [
        (lambda: brackets(2, 3), "^depth is 3 and most is 2; expected a depth of at least 1 and no more than most$"),
        (lambda: brackets(2, 0), "^depth is 0 and most is 2; expected a depth of at least 1 and no more than most$"),
        (lambda: modular_sums(1), "^modulus is 1; expected at least 2$"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
