"""Tables of one prompt each, side by side: every data set a row, all of them one training.

    preferences   of wins, a matrix for each row
    growing       sizes of steps, small ones first
    descended     log π/π_ref along plain descent
"""

from __future__ import annotations

from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dpo_numpy as dn

from ..tabular import Tabular
from ..worlds import bandit

__all__ = ["descended", "growing", "preferences"]

Array = NDArray[Any]


def preferences(wins: Array) -> dn.Preferences:
    """wins (rows, K, K): each row a prompt of its own"""
    row, i, j = np.nonzero(wins)
    K = wins.shape[-1]
    responses = bandit(np.zeros((len(wins), K))).responses
    return dn.Preferences(responses, np.column_stack([row * K + i, row * K + j]), wins[row, i, j])


def growing(steps: int) -> Array:
    """Steps from 0.01 to 1, each of the first 41 larger by 12 %"""
    sizes: Array = np.minimum(0.01 * 1.12 ** np.arange(steps), 1)
    return sizes


def descended(wins: Array, ref: Array, loss: dn.Loss, sizes: Array) -> Array:
    """log π/π_ref along the way, (1 + steps, rows, K), in the gauge of descent: sums of a row are those of the start"""
    policy, start = Tabular(wins.shape[-1], len(wins)), {"W": np.tile(np.log(ref), (len(wins), 1))}
    pairs = preferences(wins).with_reference(policy, start)
    optimizer = dn.sgd(lambda step: float(sizes[step]))
    path = [step.params["W"] for step in dn.train(policy, start, repeat(pairs, len(sizes)), loss, optimizer)]
    moved: Array = np.array([start["W"], *path]) - start["W"]
    return moved
