"""Small n-grams, their strings one by one, and linear equations over fractions: nothing is shared with the code."""

import itertools
from fractions import Fraction

import numpy as np

P = np.array([[0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.4, 0.2, 0.4]])  # rows: begin, a, b; columns: end, a, b
Q = np.array([[0.3, 0.3, 0.4], [0.5, 0.2, 0.3], [0.6, 0.3, 0.1]])
REWARD = np.array([[0.0, 0.5, -0.5], [0.3, -0.4, 0.2], [0.0, 0.3, -0.6]])
TOKENS = np.array([[0.0, 1.0, 1.0]] * 3)  # a reward of 1 a token


def strings(vocab, longest):
    for length in range(longest + 1):
        yield from itertools.product(range(1, vocab), repeat=length)


def along(table, y, order=2):
    """The table's entries met by a string, its end included, the context kept as a tuple: no state arithmetic is
    shared.
    """
    context, met = (0,) * (order - 1), []
    for v in (*y, 0):
        row = sum(c * table.shape[1] ** j for j, c in enumerate(reversed(context)))
        met.append(table[row, v])
        context = (*context, v)[1:]
    return met


def totals(table, longest, order=2):
    """Σₜ table(cₜ, yₜ) of every string of at most `longest` tokens, in the order of `strings`"""
    return np.array([sum(along(table, y, order)) for y in strings(table.shape[1], longest)])


def brief(seed, vocab=3, order=2, end=0.95):
    """A model that goes on with a probability of at most 1 - end: strings of n tokens or more have (1 - end)ⁿ"""
    table = np.random.default_rng(seed).dirichlet(np.ones(vocab), size=vocab ** (order - 1))
    table[:, 1:] *= 1 - end
    table[:, 0] = 1 - table[:, 1:].sum(axis=1)
    return table


def lasting(seed, end, vocab=3, order=2):
    """A model whose strings have some 1/end tokens"""
    rng = np.random.default_rng(seed)
    rows = vocab ** (order - 1)
    ends = end * rng.uniform(0.5, 2, size=rows)
    return np.column_stack([ends, (1 - ends)[:, None] * rng.dirichlet(np.ones(vocab - 1), size=rows)])


def rational(seed, vocab, order):
    """Rows of fractions that sum to 1"""
    weights = np.random.default_rng(seed).integers(1, 9, size=(vocab ** (order - 1), vocab)).tolist()
    return [[Fraction(w, sum(row)) for w in row] for row in weights]


def floats(rows):
    return np.array([[float(x) for x in row] for row in rows])


def solution(weights, b):
    """x = A_T x + b over fractions, by Gauss and Jordan: weights[s][v], v > 0, lead from s to (v + V s) mod S"""
    S, V = len(weights), len(weights[0])
    rows = [[Fraction(s == t) for t in range(S)] + [b[s]] for s in range(S)]
    for s in range(S):
        for v in range(1, V):
            rows[s][(v + V * s) % S] -= weights[s][v]
    for i in range(S):
        pivot = next(j for j in range(i, S) if rows[j][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for j in range(S):
            if j != i and rows[j][i]:
                rows[j] = [x - rows[j][i] * y for x, y in zip(rows[j], rows[i], strict=True)]
    return [row[S] for row in rows]
