"""Sums over strings of products of weights, in logarithms: where they are finite, and what they are.

Weights are e^{G/β}, one for each outcome in each context, G (S, V) in units of β and -inf where an outcome cannot be.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs

from ._chains import Steps, forward, transitions, visited
from ._checks import Array

LARGEST = 300.0  # nats: weights above e^300 are scaled before they are multiplied


def log_weights(table: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(table), float)


def settled(G: Array, chain: Steps) -> tuple[Array, NDArray[np.bool_]]:
    """G, but contexts on the way of no string end at once, with weight 1; and which are on the way of one, (S,)"""
    if chain.to is None and np.isfinite(G).all():
        return G, np.ones(len(G), bool)
    reached, ends = visited(G > -np.inf, chain)
    return np.where((reached & ends)[:, None], G, log_weights(np.eye(1, G.shape[1]))), reached & ends


def log_sums(G: Array, beta: float, chain: Steps) -> Array:
    """V(s) = β log Σ_v e^{(G(s, v) + V(s'))/β}, V = 0 after the end, (S,), of a `settled` G; inf where sums diverge

    In units of e^{V/β}, for any V, the sums v solve v = A_T v + A_end with A = e^{(G(s, v) + V(s') - V(s))/β}, and V +
    β log v is next. As every context leads to the end, v > 0 proves that the spectral radius of A_T is below 1. Solved
    in units of 1, then of the solution. Where that fails, the radius is asked for itself, and the units are the weights
    of the heaviest strings, which there are unless a cycle of contexts gains.

    Raises `ArithmeticError` where the sums are finite but not found.
    """
    if G.max() == np.inf:
        return np.full(len(G), np.inf)
    V = _refined(np.zeros(len(G)), G, beta, chain, restarts=5)
    if V is None:
        heaviest, _ = climb(G, 10 * beta, chain, G[:, 0])
        if heaviest is None or log_radius(G, beta, chain) >= 0:
            return np.full(len(G), np.inf)
        V = _refined(heaviest, G, beta, chain, restarts=20)
    if V is None:
        raise ArithmeticError("a sum of weights is finite, but was not found in thousands of products")
    return V


def _refined(V: Array, G: Array, beta: float, chain: Steps, restarts: int) -> Array | None:
    """V of `log_sums`, from units that are near enough; None where no positive solution is found"""
    for _ in range(5):
        with np.errstate(over="ignore"):
            A = np.exp(chain.differences(G, V) / beta)
        if not A.max() <= np.exp(LARGEST):
            return None
        try:
            v = forward(transitions(A, chain), A[:, 0], restarts)
        except ArithmeticError:
            return None
        if not (np.isfinite(v).all() and v.min() > np.exp(-LARGEST)):
            return None
        step = beta * np.log(v)
        V = V + step
        if abs(step).max() <= max(1e-6 * beta, 1e-15 * abs(V).max()):
            return V
    return None


def log_radius(G: Array, beta: float, chain: Steps) -> float:
    """log of the spectral radius of T of the table e^{G/β}, of a `settled` G; -inf where T is nilpotent"""
    if not np.isfinite(G).all():
        chain = chain._replace(to=chain.rows())  # what is reducible needs a graph
    G = np.where(np.arange(G.shape[1]) > 0, G, -np.inf)
    if abs(G.max()) <= LARGEST * beta:
        radius = _radius(transitions(np.exp(G / beta), chain))
        if radius > np.exp(-LARGEST):
            return float(np.log(radius))
    h, m = steepest(G, max(beta, 1e-15 * abs(G[G > -np.inf]).max(initial=0)), chain)
    if m == -np.inf:
        return m
    scaled = np.exp(np.minimum(chain.differences(G - m, h) / beta, LARGEST))
    with np.errstate(divide="ignore"):
        return m / beta + float(np.log(_radius(transitions(scaled, chain))))


def _radius(T: Any) -> float:
    """Of each strongly connected part by itself: of one matrix, parts of equal radius would cost half of the digits"""
    if isinstance(T, LinearOperator):
        return _perron(T)
    T = csr_array(T)
    T.eliminate_zeros()
    count, part = connected_components(T, connection="strong")
    order = np.argsort(part, kind="stable")
    T, edges = T[order][:, order], np.searchsorted(part[order], np.arange(count + 1))
    largest = float(T.diagonal().max())
    for a, b in pairwise(edges):
        if b - a > 1:
            largest = max(largest, _perron(T[a:b, a:b]))
    return largest


def _perron(T: Any) -> float:
    """The eigenvalue of largest real part: as no weight is below 0 it is real, and none is larger in modulus"""
    if T.shape[0] <= 300:
        return float(np.linalg.eigvals(T @ np.eye(T.shape[0])).real.max())
    try:
        found = eigs(T, k=1, which="LR", v0=np.ones(T.shape[0]), return_eigenvectors=False)
    except ArpackNoConvergence as error:
        raise ArithmeticError(f"the spectral radius of {T.shape[0]} contexts has not converged: {error}") from error
    return float(found[0].real)


# ---- the heaviest strings and cycles

def climb(G: Array, slack: float, chain: Steps, h: Array) -> tuple[Array | None, float]:
    """(h, -inf), h(s) >= G(s, v) + h(s') - slack, raised from the h given; or (None, mean of G) of a cycle that gains

    Bellman-Ford over all contexts at once. While the steps that raised h last form no cycle, each leads back to an h
    that was given; a cycle of them has Σ G >= 0.
    """
    S, every, rows = len(G), np.arange(len(G)), chain.rows()
    to, step = np.full(S + 1, S), np.zeros(S, np.intp)  # S: not raised yet
    while True:
        raised = (chain.blocks(G) + chain.ahead(h, -np.inf)).reshape(chain.shape)
        best = raised.argmax(axis=1)
        top = raised[every, best]
        more = top > h + slack
        if not more.any():
            return h, -np.inf
        h, step = np.where(more, top, h), np.where(more, best, step)
        to[:S] = np.where(more, rows[every, best], to[:S])
        end = to
        for _ in range(S.bit_length()):
            end = end[end]
        if (end < S).any():
            s = first = int(end[end < S][0])
            gains: list[float] = []
            while not gains or s != first:
                gains.append(G[s, step[s]])
                s = int(to[s])
            return None, float(np.mean(gains))


def steepest(G: Array, slack: float, chain: Steps) -> tuple[Array, float]:
    """(h, m), G(s, v) - m + h(s') - h(s) <= 2 slack, m the largest mean of G over a cycle, up to slack; -inf without

    A mean that some cycle exceeds is raised to that of the cycle found.
    """
    weights = G[:, 1:][G[:, 1:] > -np.inf]
    h, m, floor = None, -np.inf, weights.min(initial=0) - 2 * slack
    while h is None:
        h, gain = climb(G - floor, slack, chain, np.zeros(len(G)))
        if h is None:
            m = floor + gain
            floor = m + slack
    return h, m
