"""Exact KL and E|y| over all strings: what the linear solve costs, beside enumeration and sparse LU, in one run.

    python benchmarks/ngram_dp.py [--vocab 8 16 32 64 128 256]

Models are n-grams fitted to sampled strings and smoothed, so that no entry is 0. "products" is the time of E|y| in
units of that of one product with the table; KL needs logarithms of both tables besides. Sparse LU, the usual choice for
a chain, factorizes I - Tᵀ, which smoothing fills; it is left out where that takes gigabytes. Enumeration sums the same
two numbers over all strings up to a length. On one thread. With DPO_NUMPY_DATA, the trigram of the bytes of OASST's
answers too.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is imported

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, eye_array
from scipy.sparse.linalg import splu

from analytic import ngram
from dpo_numpy.data import Bytes, load, to_preferences
from dpo_numpy.policy import enumerate_responses
from dpo_numpy.preferences import Responses, pad
from toy_models import NGram

Array = NDArray[Any]


def seconds(f: Callable[[], object], repeats: int = 3) -> float:
    """The shortest of a few runs: what else the machine does only adds."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        f()
        times.append(time.perf_counter() - begin)
    return min(times)


def sampled(vocab: int, strings: int, rng: np.random.Generator) -> Responses:
    """Strings of some 50 tokens in which each token has a few likely successors."""
    likely = rng.integers(1, vocab, size=(vocab, 4))
    texts = []
    for _ in range(strings):
        y = [0]
        for _ in range(rng.geometric(0.02)):
            y.append(int(likely[y[-1], rng.integers(4)]))
        texts.append(([0], [*y[1:], 0]))
    return pad(texts)


def two_models(vocab: int, order: int, rng: np.random.Generator) -> tuple[Array, Array]:
    policy = NGram(vocab, order)
    p, q = (np.exp(policy.fit(sampled(vocab, 200, rng))["W"]) for _ in range(2))
    return p, q / 2 + p / 2


def solve(p: Array, q: Array, **where: Any) -> tuple[float, float]:
    return ngram.kl(p, q, **where), ngram.expected_length(p, **where)


def product(p: Array) -> float:
    """Seconds of y = T x on the table itself: reading it once."""
    S, V = p.shape
    blocks, x = p.reshape(-1, max(S // V, 1), V), np.ones((max(S // V, 1), V))
    return seconds(lambda: np.einsum("kmv,mv->km", blocks, x), 10)


def by_sparse_lu(p: Array) -> float:
    S, V = p.shape
    to = (np.arange(1, V) + V * np.arange(S)[:, None]) % S
    T = csc_array((p[:, 1:].ravel(), (np.repeat(np.arange(S), V - 1), to.ravel())), (S, S))
    visits = splu((eye_array(S) - T.T).tocsc()).solve(np.eye(1, S)[0])
    return float(visits.sum() - 1)


def by_enumeration(policy: NGram, p: Array, q: Array, longest: int) -> tuple[int, float]:
    """(strings, the mass of those that are longer)"""
    y = enumerate_responses(policy, [0], longest)
    log_p, log_q = (policy.logp({"W": np.log(table)}, y, np.arange(len(y)))[0] for table in (p, q))
    mass = np.where(y.facts["finished"], np.exp(log_p), 0)
    _, _ = mass @ (log_p - log_q), mass @ (y.length - 1)
    return len(y), float(1 - mass.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256])
    vocabularies = parser.parse_args().vocab
    rng = np.random.default_rng(0)

    print("By linear equations; vocab**(order - 1) contexts\n")
    print("order  vocab     entries     E|y| s  products  ns/entry   KL and E|y| s       KL     E|y|  sparse LU/ours")
    for order in (2, 3):
        for vocab in vocabularies:
            p, q = two_models(vocab, order, rng)
            kl, length = solve(p, q)
            ours, once = seconds(lambda p=p: ngram.expected_length(p)), product(p)
            both = seconds(lambda p=p, q=q: solve(p, q))
            line = f"{order:5} {vocab:6} {p.size:11,} {ours:10.4f} {ours / once:9.0f} {ours / p.size * 1e9:9.0f} "
            line += f"{both:15.4f} {kl:8.3f} {length:8.2f}"
            if len(p) <= 4096:
                assert abs(by_sparse_lu(p) / length - 1) < 1e-9
                line += f"{seconds(lambda p=p: by_sparse_lu(p), 1) / ours:15.1f}x"
            print(line)

    print("\nThe same by enumeration: bigram, vocab 8, one in three tokens ends a string\n")
    policy = NGram(vocab=8)
    p, q = (rng.dirichlet([4, *[1] * 7], size=8) for _ in range(2))
    ours = seconds(lambda: solve(p, q))
    print("longest   strings  mass left   seconds  enumeration/ours")
    for longest in range(1, 8):
        strings, left = by_enumeration(policy, p, q, longest)
        theirs = seconds(lambda n=longest: by_enumeration(policy, p, q, n), 1)
        print(f"{longest:7} {strings:9,} {left:10.1e} {theirs:9.4f} {theirs / ours:16.1f}x")

    folder = os.environ.get("DPO_NUMPY_DATA")
    if folder:
        rows = [row._replace(prompt="") for row in load(Path(folder) / "oasst_en_100_tree.jsonl.gz").rows]
        responses = to_preferences(rows, Bytes()).responses
        print("\nBytes of OASST's answers, order 3: the contexts that occur, and all of them\n")
        for policy in (NGram.seen(257, 3, responses), NGram(257, 3)):
            p, q = (np.exp(policy.fit(responses, smoothing=s)["W"]) for s in (1.0, 10.0))
            where = {"following": policy.following(), "start": policy.start} if policy.contexts else {}
            begin = time.perf_counter()
            kl, length = solve(p, q, **where)
            print(f"{len(p):9,} contexts {p.size:11,} entries {time.perf_counter() - begin:7.2f} s   KL {kl:.6f}   "
                  f"E|y| {length:.6f}")


if __name__ == "__main__":
    main()
