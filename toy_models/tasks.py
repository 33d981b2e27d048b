"""Tasks whose answers a rule can check: a reward of 1 where it is right, of 0 where not, and no judge to be fooled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpo_numpy.preferences import Responses
from dpo_numpy.rollouts import Task

__all__ = ["brackets", "modular_sums"]

Array = NDArray[Any]

END, OPEN, CLOSE = 0, 1, 2


def brackets(most: int, depth: int = 1) -> Task:
    """Close what is open, and end: after 1 to `depth` opening brackets, anything balanced of at most `most` brackets

    Tokens: 0 ends the response, 1 opens, 2 closes; a policy of vocab 3. The prompt is k opening brackets, for each k
    from 1 to `depth`; the response is right if all of it is balanced and it ended. An n-gram counts no further than it
    sees, so that it can only learn short answers; a transformer can count.

    Raises `ValueError` where the deepest prompt cannot be closed.

    >>> from dpo_numpy.preferences import pad
    >>> task = brackets(most=3)
    >>> task.prompts, task.reward(pad([([1], [2, 0]), ([1], [1, 2, 2, 0]), ([1], [2, 2, 0]), ([1], [2])])).tolist()
    ([[1]], [1.0, 1.0, 0.0, 0.0])
    """
    if not 1 <= depth <= most:
        raise ValueError(f"depth is {depth} and most is {most}; expected a depth of at least 1 and no more than most")

    def right(text: list[int], _: int) -> bool:
        *said, end = text
        level = np.cumsum([{OPEN: 1, CLOSE: -1}.get(token, -np.inf) for token in said])
        return bool(end == END and level[-1] == 0 and level.min() >= 0)

    return Task([[OPEN] * k for k in range(1, depth + 1)], _checked(right), most + 1)


def modular_sums(modulus: int) -> Task:
    """a b = (a + b) mod m, for all a and b: a prompt of two digits and "=", a response of one digit and the end

    Digits 0 to m - 1 are tokens 1 to m, "=" is m + 1, 0 ends the response; a policy of vocab m + 2 that sees three
    tokens back, such as `NGram(vocab=m + 2, order=4)`. Of a uniform policy 1 in (m + 2)² answers is right.

    Raises `ValueError` on a modulus below 2.

    >>> from dpo_numpy.preferences import pad
    >>> task = modular_sums(3)
    >>> prompt = task.prompts[5]
    >>> prompt, task.reward(pad([(prompt, [1, 0]), (prompt, [2, 0]), (prompt, [1])])).tolist()
    ([2, 3, 4], [1.0, 0.0, 0.0])
    """
    if modulus < 2:
        raise ValueError(f"modulus is {modulus}; expected at least 2")

    def right(text: list[int], begin: int) -> bool:
        return text[begin:] == [(text[0] + text[1] - 2) % modulus + 1, END]

    digits = range(1, modulus + 1)
    return Task([[a, b, modulus + 1] for a in digits for b in digits], _checked(right), 2)


def _checked(right: Callable[[list[int], int], bool]) -> Callable[[Responses], Array]:
    """1 or 0 of each row, by a rule that is shown prompt and response, and where the response begins."""
    def reward(responses: Responses) -> Array:
        begin, end = np.argmax(responses.mask, axis=1), responses.width
        rows = zip(responses.tokens, begin.tolist(), end.tolist(), strict=True)
        return np.array([right(tokens[:stop].tolist(), start) for tokens, start, stop in rows], float)

    return reward
