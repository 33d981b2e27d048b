"""Exact E|y| over all strings of an n-gram: our solve, beside sparse LU, one product with the table, enumeration.

Models are fitted to sampled strings and smoothed, so that no entry is 0. Sparse LU, the usual choice for a chain,
factorizes I - Tᵀ, which smoothing fills; it is left out where that takes gigabytes. Enumeration sums over all strings
up to a length. On one thread.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.harness import Case, Run, number, text_of

VOCABULARIES, FEWEST, MOST, EXPONENT = (8, 16, 32, 64, 128, 256), 1 << 14, 4096, 1.3


def _cases() -> list[Case]:
    found = []
    for order in (2, 3):
        for V in VOCABULARIES:
            contexts = V ** (order - 1)
            peers = {"one product": None, **({"sparse LU": None} if contexts <= MOST else {})}
            found.append(Case(f"order {order}, V = {V}", "n-grams", {"order": order, "V": V, "contexts": contexts},
                              targets=peers, rtol=1e-8, small={"V": 4, "contexts": 4 ** (order - 1)}))
    if os.environ.get("DPO_NUMPY_DATA"):
        found.append(Case("order 3", "n-grams: bytes of OASST's answers", {"small": False}, ours="contexts that occur",
                          targets={"all contexts": None}, small={"small": True}))
    return [*found, Case("bigram, V = 8, to 6 tokens", "n-grams: enumeration", {"longest": 6},
                         targets={"enumeration": None}, small={"longest": 3})]


def sampled(V: int, strings: int, rng: np.random.Generator) -> Any:
    """Strings of some 50 tokens in which each token has a few likely successors."""
    from dpo_numpy.preferences import pad

    likely = rng.integers(1, V, size=(V, 4))
    texts = []
    for _ in range(strings):
        y = [0]
        for _ in range(rng.geometric(0.02)):
            y.append(int(likely[y[-1], rng.integers(4)]))
        texts.append(([0], [*y[1:], 0]))
    return pad(texts)


def table_of(order: int, V: int) -> Any:
    """(contexts, V), smoothed by a second model"""
    from toy_models import NGram

    rng = np.random.default_rng(0)
    policy = NGram(V, order)
    p, q = (np.exp(policy.fit(sampled(V, 200, rng))["W"]) for _ in range(2))
    return (p + q) / 2


def ours(order: int, V: int, contexts: int) -> Run:
    from analytic import ngram

    p = table_of(order, V)
    return Run(lambda: ngram.expected_length(p), lambda: {"E|y|": ngram.expected_length(p)},
               facts={"entries": p.size})


def product(order: int, V: int, contexts: int) -> Run:
    """y = T x on the table itself: reading it once"""
    p = table_of(order, V)
    blocks, x = p.reshape(-1, max(contexts // V, 1), V), np.ones((max(contexts // V, 1), V))
    return Run(lambda: np.einsum("kmv,mv->km", blocks, x), None)


def by_sparse_lu(order: int, V: int, contexts: int) -> Run:
    from scipy.sparse import csc_array, eye_array
    from scipy.sparse.linalg import splu

    p = table_of(order, V)
    to = (np.arange(1, V) + V * np.arange(contexts)[:, None]) % contexts

    def work() -> float:
        T = csc_array((p[:, 1:].ravel(), (np.repeat(np.arange(contexts), V - 1), to.ravel())), (contexts, contexts))
        visits = splu((eye_array(contexts) - T.T).tocsc()).solve(np.eye(1, contexts)[0])
        return float(visits.sum() - 1)

    return Run(work, lambda: {"E|y|": work()})


def ending_soon() -> Any:
    """(8, 8): one token in three ends a string"""
    return np.random.default_rng(0).dirichlet([4, *[1] * 7], size=8)


def solved(longest: int) -> Run:
    from analytic import ngram

    p = ending_soon()
    return Run(lambda: ngram.expected_length(p), lambda: {"E|y|": ngram.expected_length(p)})


def enumerated(longest: int) -> Run:
    from dpo_numpy.policy import enumerate_responses
    from toy_models import NGram

    policy, p = NGram(vocab=8), ending_soon()

    def work() -> tuple[int, float]:
        y = enumerate_responses(policy, [0], longest)
        log_p = policy.logp({"W": np.log(p)}, y, np.arange(len(y)))[0]
        mass = np.where(y.facts["finished"], np.exp(log_p), 0)
        _ = mass @ (y.length - 1)
        return len(y), 1 - float(mass.sum())

    strings, left = work()
    return Run(work, None, facts={"note": f"{strings:,} strings, a mass of {left:.1g} is longer"})


def oasst(small: bool, seen: bool) -> Run:
    """KL and E|y| of bytes, of the contexts that occur or of all: smoothing makes the answers differ"""
    from analytic import ngram
    from dpo_numpy.data import Bytes, load, to_preferences
    from toy_models import NGram

    path = os.path.join(os.environ["DPO_NUMPY_DATA"], "oasst_en_100_tree.jsonl.gz")
    rows = [row._replace(prompt="") for row in load(path).rows][:20 if small else None]
    responses, order = to_preferences(rows, Bytes()).responses, 2 if small else 3
    policy = NGram.seen(257, order, responses) if seen else NGram(257, order)
    p, q = (np.exp(policy.fit(responses, smoothing=s)["W"]) for s in (1.0, 10.0))
    where = {"following": policy.following(), "start": policy.start} if policy.contexts else {}

    def work() -> tuple[float, float]:
        return ngram.kl(p, q, **where), ngram.expected_length(p, **where)

    return Run(work, (lambda: {"KL, E|y|": work()}) if seen else None, facts={"note": f"{len(p):,} contexts"})


def those_that_occur(small: bool) -> Run:
    return oasst(small, seen=True)


def all_of_them(small: bool) -> Run:
    return oasst(small, seen=False)


def either(**params: int) -> Run:
    return solved(**params) if "longest" in params else ours(**params)


SIDES = {"numpy": ("numpy/1", either), "one product": ("numpy/1", product), "sparse LU": ("scipy/1", by_sparse_lu),
         "enumeration": ("numpy/1", enumerated), "contexts that occur": ("numpy/1", those_that_occur),
         "all contexts": ("numpy/1", all_of_them)}
CASES = _cases()
SCALING = {"ngrams": ("contexts", "contexts", lambda result, label: f"{label}, order {result['params']['order']}")}


def growth(results: list[Mapping[str, Any]]) -> float:
    """The slope of log seconds in log entries, of tables of `FEWEST` entries or more: below, calls are what costs."""
    points = [(result["facts"]["numpy"]["entries"], result["seconds"]["numpy"][1]) for result in results]
    entries, seconds = np.log([point for point in points if point[0] >= FEWEST]).T
    return float(np.polyfit(entries, seconds, 1)[0])


def table(results: list[Mapping[str, Any]]) -> str:
    if "entries" not in results[0]["facts"].get("numpy", {}):
        from benchmarks.run import plain

        return plain(results)
    lines = ["| order | V | contexts | entries | ours | products | sparse LU / ours |", "| --- " * 7 + "|"]
    for result in results:
        params, entries = result["params"], result["facts"]["numpy"]["entries"]
        lu = result["peers"].get("sparse LU", {}).get("ratio")
        lines.append(f"| {params['order']} | {params['V']} | {params['contexts']:,} | {entries:,} | "
                     f"{text_of(result['seconds']['numpy'][1])} | "
                     f"{number(1 / result['peers']['one product']['ratio'][1])} | {number(lu[1]) if lu else ''} |")
    slope = growth(results)
    met = "met" if slope <= EXPONENT else "**missed**"
    return "\n".join(lines) + (f"\n\nFrom {FEWEST:,} entries on, seconds grow like entries to the power {slope:.2f}; "
                               f"target: at most {EXPONENT}: {met}.")
