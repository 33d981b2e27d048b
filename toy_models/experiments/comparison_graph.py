"""DPO learns differences along the edges of the comparison graph and nothing else: how fast is its connectivity.

Each pair of responses that is compared is an edge; its label says how far apart their rewards are. On exact labels:

    connected            the minimizer is π*, whichever pairs are met: a chain is enough. Descent at the best step size
                         loses the factor (λ_max - λ₂)/(λ_max + λ₂) a step, λ₂ the Fiedler value of the graph with edges
                         W σ(m) σ(-m)
    one link is cut      the loss leaves a constant free in each part, and J depends on it. Steps along the gradient,
                         with momentum or without, keep the mean logit of each part: unseen responses get the plain mean
                         reward of the part, not weighted by π_ref. Adam's steps do not sum to 0, and end elsewhere
    one certain pair     π = (0.1, 0, 0.9) has the least loss too (Xu et al. 2024, arXiv:2404.10719), but a table does
                         not go there: π(3) rises to ref₃/(2 √(ref₁ ref₂) + ref₃) if ref₂ > ref₁, and then falls to 0.
                         Shared features can lift it to 1

On n drawn labels there is a fit if and only if the wins are strongly connected (Ford 1957): simulated, and counted over
all 2²⁰ sets of wins that five responses can have.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

import dpo_numpy as dn
from analytic import graph, optimum, population

from ..linear import LogLinear
from ..tabular import Tabular
from ..worlds import bandit
from ._claims import Claim, above, below, between, near
from ._config import require, streams
from ._figure import COLORS, OPTIMUM, REFERENCE, axes
from ._fits import draw, fit

__all__ = ["PANELS", "REPLICATED", "Config", "claims", "existence", "plot", "run"]

Array = NDArray[Any]

REPLICATED = ("fitted",)
GRAPHS = ("path", "star", "two cliques and a bridge", "complete")
OPTIMIZERS = ("plain", "momentum", "Adam")
XU = np.array([[0.2, 0.7, 0.1], [0.05, 0.85, 0.1], [0.7, 0.2, 0.1]])  # references of the certain pair
ALONG = np.array([[0.5], [-0.5], [1.5]])  # a feature: the unseen response has more of what sets the pair apart
COUNTED = 5  # responses, at most, of which all sets of wins are counted


@dataclass(frozen=True)
class Config:
    """The world, how its responses are compared, and for how long it is trained

    reward      of the responses, in nats of the annotators' log-odds
    ref         their weights under the reference: divided by their sum
    beta        nats of reward that a nat of KL costs
    bridge      weight of the comparison that links two cliques; those within weigh 1
    steps       of descent
    adam        Adam's learning rate, in units of 1/beta
    counts      numbers of drawn comparisons, of the first five responses
    replicates  data sets of each number
    seed        of what is drawn
    """

    seed: int = 0
    reward: tuple[float, ...] = (0.8, -0.3, 0.5, 0.0, -0.9, 0.2)
    ref: tuple[float, ...] = (0.3, 0.1, 0.2, 0.1, 0.05, 0.25)
    beta: float = 1.0
    bridge: float = 0.1
    steps: int = 400
    adam: float = 0.05
    counts: tuple[int, ...] = (5, 8, 12, 20, 40)
    replicates: int = 1000

    def __post_init__(self) -> None:
        require(self, positive=("ref", "beta", "bridge", "adam"), least={"steps": 1, "counts": 1, "replicates": 1})
        if len(self.reward) < 4 or len(self.ref) != len(self.reward):
            raise ValueError(f"reward has {len(self.reward)} numbers and ref {len(self.ref)}; expected as many, "
                             "and at least 4")


def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured, by name

    graph, predicted, measured   of each graph: its factor a step by λ₂ and λ_max, and that of descent
    steps                        of each graph, to a millionth of the error, by its factor
    path                         (steps + 1, graphs): ‖u - u*‖ over that of the reference
    cut.* and unseen.*           of each optimizer: policy, moved (the largest change of a part's mean logit), regret
    set.*                        share of the first part, loss and value of the minimizers of the cut graph
    exists, counted, fitted      (counts): shares of data sets with a fit, simulated and exact; fitted (replicates,
                                 counts); disagree: data sets where strong connectivity and Newton's method differ
    unseen_path, peak, top, end  π(3) of the certain pair: at each step, its maximum, what the formula says, the end;
                                 u: the change of the chosen's logit; lifted: the end with a shared feature
    """
    config = config or Config()
    ref, r = np.array(config.ref) / sum(config.ref), np.array(config.reward)
    found = _graphs(config, ref, r) | _parts(config, ref, r) | _drawn(config, r) | _certain(config)
    return {name: np.asarray(x) for name, x in found.items()}


# ---- connected

def _edges(K: int, bridge: float) -> Array:
    """Pair weights (graphs, K, K), each of sum 1 over the pairs"""
    star, half = np.zeros((K, K)), np.arange(K) < K // 2
    star[0, 1:] = 1
    cliques = np.triu(half[:, None] == half, 1).astype(float)
    cliques[K // 2 - 1, K // 2] = bridge
    every = np.stack([np.eye(K, k=1), star, cliques, np.triu(np.ones((K, K)), 1)])
    weight: Array = (every + every.mT) / every.sum(axis=(1, 2), keepdims=True)
    return weight


def _trained(r: Array, ref: Array, wins: Array, config: Config, optimizer: Any) -> Array:
    """Logits (steps + 1, G, K) of a table on the populations wins (G, K, K): each is a prompt, they share nothing"""
    G, K = wins.shape[:2]
    at = np.argwhere(wins > 0)
    start = {"W": np.tile(np.log(ref), (G, 1))}
    pairs = dn.Preferences(bandit(np.tile(r, (G, 1))).responses, at[:, :1] * K + at[:, 1:], wins[tuple(at.T)])
    pairs = pairs.with_reference(Tabular(K, G), start)
    steps = dn.train(Tabular(K, G), start, repeat(pairs), dn.LOSSES["dpo"](beta=config.beta), optimizer)
    return np.stack([start["W"], *(step.params["W"] for step in islice(steps, config.steps))])


def _graphs(config: Config, ref: Array, r: Array) -> dict[str, Array]:
    beta, wins = config.beta, population.bradley_terry_wins(r, _edges(len(r), config.bridge))
    rates = [population.linear_rate(population.hessian(r / beta, each, beta)) for each in wins]
    # a step size for each graph: as a factor of its weights
    W = _trained(r, ref, wins * np.array([rate.best_step for rate in rates])[:, None, None], config, dn.sgd(1.0))
    u = W - np.log(ref)
    off = np.linalg.norm(u - u.mean(axis=-1, keepdims=True) - (r - r.mean()) / beta, axis=-1)
    path = off / np.where(off[0] > 0, off[0], 1)
    measured = []
    for error in path.T:
        late = np.flatnonzero((error > 1e-11) & (error < 1e-2))[-40:]
        measured.append((error[late[-1]] / error[late[0]]) ** (1 / (late[-1] - late[0])) if len(late) > 1 else np.nan)
    best = optimum.boltzmann(ref, r, beta)
    return {
        "graph": np.array(GRAPHS), "predicted": np.array([rate.factor for rate in rates]), "path": path,
        "measured": np.array(measured), "steps": np.array([rate.steps(1e-6) for rate in rates]),
        "best": best, "ref": ref, "chain_kl": optimum.kl(softmax(W[-1, 0]), best),
    } | {f"{name}_steps": np.asarray(rates[g].steps(1e-6)) for g, name in enumerate(("path", "star", "bridge", "all"))}


# ---- in parts

def _parts(config: Config, ref: Array, r: Array) -> dict[str, Array]:
    """Two graphs: a chain whose middle link is cut, and all pairs of all responses but the last"""
    K, beta = len(r), config.beta
    chain, seen = np.eye(K, k=1), np.triu(np.ones((K, K)), 1)
    chain[K // 2 - 1, K // 2] = seen[:, -1] = 0
    both = np.stack([chain, seen])
    weight = (both + both.mT) / both.sum(axis=(1, 2), keepdims=True)
    wins = population.bradley_terry_wins(r, weight)
    step = np.array([population.linear_rate(population.hessian(r / beta, each, beta)).best_step for each in wins])
    wins_scaled, part = wins * step[:, None, None], graph.components(wins)
    settled = optimum.boltzmann(ref, graph.settled_reward(r, wins), beta)
    ends, moved = [], []
    for optimizer in (dn.sgd(1.0), dn.momentum(0.2, 0.8), dn.adam(config.adam / beta)):
        W = _trained(r, ref, wins_scaled, config, optimizer)[-1]
        change = [[abs((w - np.log(ref))[label == k].mean()) for k in np.unique(label)]
                  for w, label in zip(W, part, strict=True)]
        ends.append(softmax(W, axis=-1))
        moved.append([max(each) for each in change])
    policy = np.array(ends)  # optimizers, graphs, K
    regret = optimum.optimal_value(ref, r, beta) - optimum.value(policy, ref, r, beta)
    found: dict[str, Array] = {}
    for g, name in enumerate(("cut", "unseen")):
        found |= {f"{name}.policy": policy[:, g], f"{name}.settled": settled[g],
                  f"{name}.moved": np.array(moved)[:, g], f"{name}.regret": regret[:, g],
                  f"{name}_regret": regret[0, g]}
    known = r[:-1]
    for name, worth in (("plain", known.mean()), ("weighted", ref[:-1] @ known / ref[:-1].sum())):
        there = optimum.boltzmann(ref, [*known, worth], beta)
        found[f"unseen_{name}_kl"] = optimum.kl(policy[0, 1], there)
    # all minimizers of the cut graph: its parts keep their ratios, and share the mass in any way
    share, first = np.linspace(0.01, 0.99, 99), part[0] == 0
    best = optimum.boltzmann(ref, r, beta)
    pi = np.where(first, share[:, None] * best / best[first].sum(), (1 - share[:, None]) * best / best[~first].sum())
    return found | {
        "set.share": share, "set.loss": population.objective(np.log(pi / ref), wins[0], beta),
        "set.value": optimum.value(pi, ref, r, beta), "set_best": best[first].sum(),
        "set.ends": policy[:, 0, first].sum(axis=-1), "set.end_value": optimum.value(policy[:, 0], ref, r, beta)}


# ---- drawn labels

def existence(wins: Array, counts: tuple[int, ...]) -> Array:
    """P(n comparisons drawn from wins have a fit), shape (counts,), exactly: Σ_A [A is strongly connected] P(support A)

    wins (K, K) of sum 1, K at most 5. P(support within B) = w(B)ⁿ, w(B) the weight of the arcs in B, and P(support A)
    the alternating sum of that over the subsets B of A: the signs go to [A is strongly connected] instead, once.

    >>> existence(np.array([[0.0, 0.75], [0.25, 0.0]]), (1, 2))  # 2 · 3/4 · 1/4
    array([0.   , 0.375])
    """
    K = len(wins)
    arcs = [(i, j) for i in range(K) for j in range(K) if i != j]
    sets = np.arange(2 ** len(arcs))
    strong = np.ones(len(sets), bool)
    for group in range(1, 2**K - 1):  # it has to lose to the others
        strong &= (sets & sum(1 << a for a, (i, j) in enumerate(arcs) if group >> j & 1 and not group >> i & 1)) != 0
    sign, weight = strong.astype(np.int64), np.zeros(1)
    for a, (i, j) in enumerate(arcs):
        halves = sign.reshape(-1, 2, 1 << a)
        halves[:, 0] -= halves[:, 1]
        weight = np.concatenate([weight, weight + wins[i, j]])
    matter = np.flatnonzero(sign)
    return np.clip([sign[matter] @ weight[matter] ** n for n in counts], 0, 1)


def _drawn(config: Config, r: Array) -> dict[str, Array]:
    wins = population.bradley_terry_wins(r[:COUNTED])
    rngs = streams(config.seed, config.replicates)
    data = np.stack([draw(wins, n, rngs) for n in config.counts], axis=1)
    connected = graph.mle_exists(data)
    fitted = np.isfinite(fit(data)).all(axis=-1)
    return {"counts": np.array(config.counts), "fitted": fitted, "exists": fitted.mean(axis=0),
            "counted": existence(wins, config.counts), "disagree": np.array((fitted != connected).sum())}


# ---- one certain pair

def _certain(config: Config) -> dict[str, Array]:
    """The table of three references, and a feature; steps that grow, 4 % each, show the maximum and the end"""
    beta, G = config.beta, len(XU)
    wins = np.zeros((G, 3, 3))
    wins[:, 0, 1] = 1.0
    grows = dn.sgd(lambda t: 0.05 * 1.04 ** min(t, 500) / beta**2)
    at = np.arange(G)[:, None] * 3 + [0, 1]
    start, policy = {"W": np.log(XU)}, Tabular(3, G)
    pairs = dn.Preferences(bandit(np.zeros((G, 3))).responses, at, np.ones(G)).with_reference(policy, start)
    loss = dn.LOSSES["dpo"](beta=beta)
    walk = [start["W"], *(step.params["W"] for step in islice(
        dn.train(policy, start, repeat(pairs), loss, grows), config.steps))]
    pi = softmax(walk, axis=-1)[..., 2]
    shared, theta = LogLinear(ALONG, base=np.log(XU[:1])), {"theta": np.zeros(1)}
    one = dn.Preferences(bandit(np.zeros((1, 3))).responses, at[:1]).with_reference(shared, theta)
    *_, end = islice(dn.train(shared, theta, repeat(one), loss, grows), config.steps)
    lifted = softmax(np.log(XU[0]) + ALONG @ end.params["theta"])
    u = np.stack(walk)[:, :, 0] - np.log(XU[:, 0])  # of y_w; the logit of y_l moves as much, the other way
    root = 2 * np.sqrt(XU[:, 0] * XU[:, 1])
    top = np.where(XU[:, 1] > XU[:, 0], XU[:, 2] / (root + XU[:, 2]), XU[:, 2])
    around = np.clip(pi.argmax(axis=0) + np.array([[-1], [0], [1]]), 0, config.steps)
    stride = np.diff(np.take_along_axis(u, around, axis=0), axis=0).max(axis=0)
    elsewhere = np.log([0.1, 1e-300, 0.9]) - np.log(XU[0])
    return {
        "unseen_path": pi, "u": u, "peak": pi.max(axis=0), "top": top,
        "missed": top * stride**2 / 8,  # at most, between two steps: π(3)'' is -π(3) (1 - π(3)) there
        "end": pi[-1], "lifted": lifted[2], "elsewhere": population.objective(elsewhere, wins[0], beta)}


# ---- the experiment

def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    off = abs(result["measured"] / result["predicted"] - 1)
    gradient = [OPTIMIZERS.index(name) for name in ("plain", "momentum")]
    conserved = max(result[f"{name}.moved"][gradient].max() for name in ("cut", "unseen"))
    there = max(abs(result[f"{name}.policy"][gradient] - result[f"{name}.settled"]).max() for name in ("cut", "unseen"))
    drift = min(result[f"{name}.moved"][OPTIMIZERS.index("Adam")] for name in ("cut", "unseen"))
    error = np.sqrt(result["counted"] * (1 - result["counted"]) / len(result["fitted"]))
    sigmas = abs(result["exists"] - result["counted"]) / np.maximum(error, 1 / len(result["fitted"]))
    missed = (result["top"] - result["peak"]) / result["missed"]
    return {
        "descent loses the factor of the Fiedler value: largest relative difference": below(off.max(), 0.01),
        "a chain is enough for descent: KL(π || π*)": below(result["chain_kl"], 1e-10),
        "a link cut, steps along the gradient keep the mean logit of each part: largest change":
            below(conserved, 1e-12),
        "and end where each part has mean reward 0: max |difference|": below(there, 1e-8),
        "Adam's steps do not keep that mean: least change": above(drift, 0.01),
        "an unseen response is worth the plain mean of the others: KL": below(result["unseen_plain_kl"], 1e-10),
        "and not their mean under the reference: KL": above(result["unseen_weighted_kl"], 1e-4),
        "all ways to share the mass among the parts have one loss: range": below(np.ptp(result["set.loss"]), 1e-12),
        "and not one value: range of J": above(np.ptp(result["set.value"]), 0.1),
        "the wins are strongly connected, or there is no fit: data sets that disagree":
            near(result["disagree"], 0, within=0),
        "n labels have a fit as often as all sets of wins say: largest difference, in standard errors":
            below(sigmas.max(), 4),
        "(0.1, 0, 0.9) has the least loss of a certain pair too: loss": below(result["elsewhere"], 1e-12),
        "a table's unseen response peaks where the formula says: what steps miss, over what they can":
            between(missed[abs(missed - 0.5).argmax()], -1e-9, 1.01),
        "and falls to 0: π(3) at the end": below(result["end"].max(), 0.01),
        "a shared feature lifts it to 1: π(3) at the end": above(result["lifted"], 0.99),
    }


def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """How far descent is from the minimizer, on each graph, beside its predicted factor; returns the axes"""
    ax = axes(ax)
    for g, name in enumerate(result["graph"]):
        path = result["path"][:, g]
        there = np.flatnonzero(path > 1e-12)
        color = COLORS[(4, 1, 2, 5)[g]]
        ax.semilogy(there, path[there], color=color, lw=2, label=f"{name}: {result['predicted'][g]:.3f} a step")
        if not len(there):
            continue
        middle = there[len(there) // 2]
        ax.semilogy(there, path[middle] * result["predicted"][g] ** (there - middle), "k:", lw=1)
    ax.plot([], [], "k:", lw=1, label="predicted factor")
    ax.set(xlabel="steps of descent", ylabel="‖u - u*‖, share of the first", ylim=(1e-12, 3),
           title="Connectivity is speed")
    ax.legend(fontsize=9)
    return ax


def _set(result: dict[str, Array], ax: Any = None) -> Any:
    """J of all policies that have the least loss on the chain with a link cut, and which the optimizers take"""
    ax = axes(ax)
    ax.plot(result["set.share"], result["set.value"], color=REFERENCE, lw=2, label="all of least loss")
    ax.axvline(result["set_best"], color=OPTIMUM, ls="--", lw=1, label="share under π*")
    for k, name in enumerate(OPTIMIZERS):
        ax.plot(result["set.ends"][k], result["set.end_value"][k], "osD"[k], ms=(14, 8, 8)[k], mew=2,
                mfc="none" if k == 0 else None, color=COLORS[(6, 2, 1)[k]], label=name)
    ax.set(xlabel="probability of the first part", ylabel="J = E r - β KL", title="What a cut link leaves open")
    ax.legend(fontsize=9)
    return ax


def _fits(result: dict[str, Array], ax: Any = None) -> Any:
    """How often n drawn comparisons have a fit, simulated and counted"""
    ax = axes(ax)
    n, p = result["counts"], result["counted"]
    order = np.argsort(n)
    error = 2 * np.sqrt(p * (1 - p) / len(result["fitted"]))
    ax.plot(n[order], p[order], color=OPTIMUM, lw=1.5, label="counted over all sets of wins")
    ax.errorbar(n, result["exists"], error, fmt="o", color=COLORS[6], capsize=4, label="drawn, 2 standard errors")
    ax.set(xlabel="comparisons drawn", ylabel="share of data sets with a fit", ylim=(-0.03, 1.03),
           title="A fit needs wins that are strongly connected")
    ax.legend(fontsize=9)
    return ax


def _unseen(result: dict[str, Array], ax: Any = None) -> Any:
    """π(3), never compared, as the pair's log-ratio gap grows"""
    ax = axes(ax)
    for g, ref in enumerate(XU):
        color = COLORS[g]
        gap = 2 * result["u"][:, g]
        ax.plot(gap, result["unseen_path"][:, g], color=color, lw=2, label="from (" + ", ".join(map(str, ref)) + ")")
        ax.plot(gap[result["unseen_path"][:, g].argmax()], result["top"][g], "o", ms=8, mfc="none", color=color)
    ax.plot([], [], "o", ms=8, mfc="none", color="k", label="ref₃/(2 √(ref₁ ref₂) + ref₃), or ref₃")
    ax.set(xlabel="gap of log-ratios h of the pair, nats", ylabel="π(3), never compared", ylim=(0, None),
           title="One certain pair: where the unseen goes")
    ax.legend(fontsize=9)
    return ax


PANELS = (plot, _set, _fits, _unseen)
