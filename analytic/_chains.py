"""The chain of contexts that strings walk along, and the linear equations on it.

A table (S, V) of weights, one for each outcome in each context, moves sums from a context to the next:

    (T x)(s) = Σ_v≠0 table(s, v) x(s')        s' is where v leads from s; v = 0 ends the string

Up to `DENSE` contexts T is an array and equations are solved by LU. Beyond, T is never formed: of the numbering of all
contexts it is the table itself, its rows read in V blocks that lead to the same contexts, otherwise a sparse array; and
equations are solved by GMRES.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order
from scipy.sparse.linalg import LinearOperator, gmres

from ._checks import Array, distribution, finite
from .optimum import kl

DENSE = 1000  # contexts: LU of a thousand takes as long as some hundred products


class Steps(NamedTuple):
    """Where strings begin, and where outcomes lead; `to` is None for the numbering of all contexts beyond `DENSE`."""

    name: str  # of the table whose shape is the others' too
    shape: tuple[int, int]
    start: int
    to: NDArray[np.intp] | None  # (S, V)

    def begin(self) -> Array:
        """e_start, (S,)"""
        e = np.zeros(self.shape[0])
        e[self.start] = 1
        return e

    def rows(self) -> NDArray[np.intp]:
        return _numbered(*self.shape) if self.to is None else self.to

    def blocks(self, table: Array) -> Array:
        """(S, V) as (S/M, M, V), such that `ahead` is the same for each block"""
        return table.reshape(-1, len(table) // self.shape[1], self.shape[1]) if self.to is None else table[None]

    def ahead(self, x: Array, end: float) -> Array:
        """x of the context that each outcome leads to, `end` where it ends the string, (M, V)"""
        found: Array = x.reshape(-1, self.shape[1]).copy() if self.to is None else x[self.to]
        found[:, 0] = end
        return found

    def differences(self, table: Array, x: Array) -> Array:
        """table(s, v) + x(s') - x(s), x = 0 after the end, (S, V)"""
        return (self.blocks(table) + self.ahead(x, 0.0)).reshape(self.shape) - x[:, None]


def _numbered(S: int, V: int) -> NDArray[np.intp]:
    return np.asarray((np.arange(V) + V * np.arange(S)[:, None]) % S, np.intp)


# ---- what is given

def steps(name: str, table: ArrayLike, following: ArrayLike | None, start: int) -> Steps:
    """The chain of tables in the shape of this one."""
    shape = np.shape(table)
    if len(shape) != 2 or shape[1] < 2 or shape[0] < 1:
        raise ValueError(f"{name} has shape {shape}; expected (S, V): a row for each context, at least 2 outcomes")
    S, V = shape
    if not (isinstance(start, int | np.integer) and 0 <= start < S):
        raise ValueError(f"start is {start}; expected one of the {S} rows of {name}")
    if following is None:
        if S not in {V**n for n in range(64)}:
            raise ValueError(f"{name} has shape {shape}; expected (S, V) with S a power of V, or `following`")
        return Steps(name, shape, int(start), None if S > DENSE else _numbered(S, V))
    to = np.asarray(following)
    if to.shape != shape or to.dtype.kind not in "iu":
        raise ValueError(f"following has shape {to.shape} and dtype {to.dtype}; expected whole numbers, {shape}")
    if not ((to >= 0) & (to < S)).all():
        row, v = np.argwhere((to < 0) | (to >= S))[0]
        raise ValueError(f"following is {to[row, v]} at [{row}, {v}]; expected one of the {S} rows of {name}")
    return Steps(name, shape, int(start), to.astype(np.intp, copy=False))


def model(name: str, p: ArrayLike, chain: Steps) -> Array:
    """A table of probabilities whose strings end; contexts that none of them visits end at once."""
    p = distribution(name, _same_shape(name, p, chain))
    if len(p) > DENSE and p.all():
        return p
    reached, ends = visited(p > 0, chain)
    if not ends[reached].all():
        s = int(np.flatnonzero(reached & ~ends)[0])
        raise ValueError(
            f"{name} has a string that cannot end: it reaches row {s}, from where no outcome of a probability above 0 "
            "leads to outcome 0; expected a way to it from every row that strings reach"
        )
    p[~reached] = np.eye(1, p.shape[1])
    return p


def rewards(name: str, reward: ArrayLike, chain: Steps) -> Array:
    return finite(name, _same_shape(name, reward, chain))


def _same_shape(name: str, table: ArrayLike, chain: Steps) -> ArrayLike:
    if np.shape(table) != chain.shape:
        raise ValueError(f"{name} has shape {np.shape(table)}; expected that of {chain.name}, {chain.shape}")
    return table


def visited(possible: NDArray[np.bool_], chain: Steps) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(contexts that the start leads to, contexts that lead to the end), (S,) each"""
    S, V = chain.shape
    to = np.where(np.arange(V) == 0, S, chain.rows())[possible]  # S is the end
    graph = csr_array((np.ones(len(to)), to, np.r_[0, np.cumsum(possible.sum(axis=1)), len(to)]), (S + 1, S + 1))
    reached, ends = np.zeros((2, S + 1), bool)
    reached[breadth_first_order(graph, chain.start, return_predecessors=False)] = True
    ends[breadth_first_order(graph.T.tocsr(), S, return_predecessors=False)] = True
    return reached[:S], ends[:S]


# ---- linear equations

def transitions(table: Array, chain: Steps) -> Any:
    """T, (S, S): what `T @ x` and `T.T @ x` can be written of"""
    S, V = chain.shape
    if chain.to is not None:
        T = csr_array((table[:, 1:].ravel(), chain.to[:, 1:].ravel(), np.arange(S + 1) * (V - 1)), (S, S))
        return T.toarray() if S <= DENSE else T
    blocks = chain.blocks(table)

    def forward(x: Array) -> Array:
        return np.asarray(np.einsum("kmv,mv->km", blocks, chain.ahead(x, 0.0)).ravel())

    def backward(y: Array) -> Array:
        flow: Array = np.einsum("kmv,km->mv", blocks, y.reshape(V, -1))
        flow[:, 0] = 0
        return flow.ravel()

    return LinearOperator((S, S), matvec=forward, rmatvec=backward, dtype=float)


def solve(equations: Callable[[Array], Array], b: Array, restarts: int = 20) -> Array:
    """x with equations(x) = b, a linear function of columns; what rounding left of the residual is solved for once more

    Raises `ArithmeticError` where GMRES does not converge, or LU meets a pivot of 0.
    """
    S, x, r = len(b), np.zeros(len(b)), b
    matrix = equations(np.eye(S)) if S <= DENSE else LinearOperator((S, S), matvec=equations, dtype=float)
    for accuracy in (1e-12, 1e-4):
        if S <= DENSE:
            try:
                x = x + np.linalg.solve(matrix, r)
            except np.linalg.LinAlgError:
                raise ArithmeticError("the equations are singular but for rounding: strings hardly ever end") from None
        else:
            x = x + gmres(matrix, r, rtol=accuracy, restart=100, maxiter=restarts)[0]
        r = b - equations(x)
    if not np.linalg.norm(r) <= 1e-11 * (np.linalg.norm(b) + np.linalg.norm(x)):
        raise ArithmeticError(f"GMRES left a residual of {np.linalg.norm(r):.3g} after {restarts} times 100 products")
    return x


def forward(T: Any, b: Array, restarts: int = 20) -> Array:
    """v = T v + b"""
    return solve(lambda v: v - T @ v, b, restarts)


def visit_counts(p: Array, chain: Steps) -> Array:
    """N = e_start + Tᵀ N

    One equation is replaced by the sum of all, Σ N(s) p(end|s) = 1, here in units of the largest p(end|s): T says that
    strings end by sums of rows slightly below 1, p(end|s) says it to the last digit.
    """
    T, start, often = transitions(p, chain), chain.start, p[:, 0].max()

    def equations(N: Array) -> Array:
        y: Array = N - T.T @ N
        y[start] = p[:, 0] / often @ N
        return y

    N = solve(equations, chain.begin()) / often
    return np.asarray(chain.begin() + T.T @ np.maximum(N, 0))  # a last sweep, for what is rarely visited


def require_few_tokens(name: str, p: Array, chain: Steps, tail: float, most: float) -> None:
    """Raises `ArithmeticError` where it takes more than `most` tokens until less than `tail` of the strings is left, as
    it would at one rate of ending
    """
    tokens = -np.log(tail) * visit_counts(p, chain).sum()
    if tokens > most:
        raise ArithmeticError(
            f"strings of {name} are too long to be extended token by token: it takes about {tokens:.3g} tokens until "
            f"less than {tail:g} of them is left; expected at most {most:.3g}"
        )


def divergence(N: Array, p: Array, q: Array) -> float:
    """Σₛ N(s) KL(p(·|s) || q(·|s)) over visited contexts, by as many rows at a time as a cache holds"""
    n = max(2**16 // p.shape[1], 1)
    parts = (slice(s, s + n) for s in range(0, len(p), n))
    return float(sum(N[part] @ np.where(N[part] > 0, kl(p[part], q[part]), 0.0) for part in parts))


def advantages(p: Array, reward: Array, chain: Steps) -> tuple[float, Array, Array]:
    """(J, V, D): V(s) = Σ_v p(v|s) (ρ(s, v) + V(s')), J = V(start), and D(s, v) = ρ(s, v) + V(s') - V(s), (S, V)

    Solved for J and the differences V - J by the transpose of the equations of `visit_counts`: D keeps its digits where
    strings are long.
    """
    T, start, often = transitions(p, chain), chain.start, p[:, 0].max()

    def equations(z: Array) -> Array:
        W = z.copy()
        W[start] = 0
        return np.asarray(W - T @ W + np.multiply.outer(p[:, 0] / often, z[start]))

    W = solve(equations, (p * reward).sum(axis=1))
    J, W[start] = float(W[start] / often), 0
    D = chain.differences(reward, W)
    D[:, 0] -= J
    return J, J + W, D
