"""Counts against tokens: loops over them, in every dtype, with replicates, on any number of threads."""

import numpy as np
import pytest

from dpo_numpy.preferences import Responses, pad
from toy_models import _table
from toy_models._table import counts, log_probs, sums

C, V = 3, 4
#: (context, token) of each response
WALKS = [[(0, 1), (1, 2), (2, 0)], [(0, 3), (2, 3), (2, 3), (2, 3)], [(1, 1)]]
DTYPES = [np.float32, np.float64, np.longdouble, np.complex128]


def of_walks(rows):
    responses = pad([([0], [1] * len(walk)) for walk in WALKS])
    cell = np.array([c * V + v for walk in WALKS for c, v in walk])
    return counts("walks", responses, rows, lambda: (cell, C * V))


def tables(rng, dtype, lead):
    W = 3 * rng.normal(size=(*lead, C, V))
    W[..., 1, 3] = -np.inf
    return W.astype(dtype)


def exact(W, of, rows):
    """A loop over tokens, in longdouble"""
    wide = W.astype(np.promote_types(W.dtype, np.longdouble))
    value, grad = np.zeros((*W.shape[:-2], len(rows)), wide.dtype), np.zeros((len(rows), *W.shape), wide.dtype)
    p = np.exp(wide) / np.exp(wide).sum(axis=-1, keepdims=True)
    for i, row in enumerate(rows):
        for c, v in WALKS[row]:
            value[..., i] += np.log(p[..., c, v]) if of is log_probs else wide[..., c, v]
            grad[i, ..., c, v] += 1
            if of is log_probs:
                grad[i, ..., c, :] -= p[..., c, :]
    return value, grad


@pytest.mark.parametrize("of", [log_probs, sums])
@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0], [1]])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_counts_are_tokens(of, rows, lead, dtype, rng):
    W, dvalue = tables(rng, dtype, lead), rng.normal(size=(*lead, len(rows))).astype(dtype)
    before = W.copy()
    value, pullback = of(W, of_walks(np.array(rows)))
    grad = pullback(dvalue)["W"]
    expected, slopes = exact(W, of, rows)
    assert value.dtype == grad.dtype == dtype
    # 4 tokens of at most 20 nats, and a few roundings each
    room = 4 * 20 * 8 * np.finfo(dtype).eps
    assert abs(value - expected).max() < room
    assert abs(grad - np.einsum("...i,i...cv->...cv", dvalue, slopes)).max() < room
    assert np.array_equal(pullback(dvalue)["W"], grad)  # asked twice
    assert np.array_equal(W, before)


@pytest.mark.parametrize("of", [log_probs, sums])
def test_no_replicates_and_no_responses(of, rng):
    for lead, rows in (((0,), [0, 1, 2]), ((), []), ((2,), [])):
        W = tables(rng, float, lead)
        value, pullback = of(W, of_walks(np.array(rows, int)))
        assert value.shape == (*lead, len(rows))
        grad = pullback(value)["W"]
        assert grad.shape == W.shape and not grad.any()


@pytest.mark.parametrize("of", [log_probs, sums])
def test_replicates_are_the_policies_alone_on_any_number_of_threads(of, rng, threading, monkeypatch):
    W, dvalue, rows = tables(rng, float, (20,)), rng.normal(size=(20, 3)), np.arange(3)
    found = []
    for cells, n in ((1, 1), (1, 2), (5 * V, 3), (1 << 14, 2)):
        monkeypatch.setattr(_table, "CELLS", cells)
        threading(n)
        value, pullback = of(W, of_walks(rows))
        found.append((value, pullback(dvalue)["W"]))
    alone = [of(one, of_walks(rows)) for one in W]
    found.append((np.stack([value for value, _ in alone]),
                  np.stack([back(d)["W"] for (_, back), d in zip(alone, dvalue, strict=True)])))
    for other in found[1:]:
        assert all(map(np.array_equal, other, found[0]))


def test_what_all_responses_count_is_found_once():
    responses, asked = Responses(np.array([[0, 1], [0, 0]]), np.array([[False, True]] * 2)), []

    def cells():
        asked.append(1)
        return np.array([1, 0]), 2

    for rows in (responses.every, np.array([0, 1]), np.array([1])):
        forth, back = counts("key", responses, rows, cells)
        assert (forth.toarray() == np.array([[0, 1], [1, 0]])[rows]).all()
        assert (back.toarray() == forth.toarray().T).all()
    assert len(asked) == 1
    counts("another", responses, responses.every, cells)
    assert len(asked) == 2
