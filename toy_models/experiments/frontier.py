"""β is what a nat of KL costs: the frontier of reward against KL has slope β at π*, and no learner is above it.

The policies π_ref e^{r/β}/Z, as β falls, are the frontier: dE r/d(1/β) = Var r and dKL/d(1/β) = Var r/β, so that
dE r/dKL = β. Its tangent there is E r = J* + β KL, and any policy π is below the tangent by exactly β KL(π || π*). A
learner that knows r, or every pair, and can say π*, ends on the frontier, where β puts it. One that learns from few
labels, stops early, clones chosen responses, takes the best of n, or aims at another divergence gets less for its KL.

    worlds   random rewards and references: DPO told every pair, DPO of labels, other losses of the registry, best of n,
             clones of chosen responses, mixtures, random policies; all by exact sums
    normal   rewards that are N(0, 1) under π_ref: the frontier is √(2 KL), best of n is below by a constant

Rafailov et al. 2023, arXiv:2305.18290; best of n: Beirami et al. 2024, arXiv:2401.01879.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dpo_numpy as dn
from analytic import minimizers, optimum, population, sampling, temperature
from dpo_numpy.numerics import log_softmax

from ..tabular import Tabular
from ..worlds import bandit
from ._claims import Claim, above, below
from ._config import require, streams
from ._figure import COLORS, OPTIMUM, POLICY, REFERENCE, axes

__all__ = ["PANELS", "REPLICATED", "Config", "claims", "plot", "run"]

Array = NDArray[Any]

#: best of n of N(0, 1) rewards: how far it is below √(2 KL), to four digits
PRINTED = {2: 0.0573, 4: 0.0987, 8: 0.1285, 16: 0.1498, 64: 0.1760, 256: 0.1895}
#: other losses of the registry, trained on every pair
LOSSES = ("cdpo", "ipo", "hinge", "exo", "nca", "sppo", "apo_zero", "f_dpo_js", "f_dpo_chi2", "simpo", "cpo", "orpo",
          "slic", "sft")

REPLICATED = ("ref", "rewards", "ends_reward", "ends_kl", "ends_gap", "random_gap", "slope", "path_gap")


@dataclass(frozen=True)
class Config:
    """What is drawn, and who learns.

    beta        nats of reward that a nat of KL costs, of whoever has one
    betas       at which DPO is told every pair, and tangents are drawn
    responses   of a world
    labels      pairs that are drawn and judged, for DPO of labels
    steps       of training
    n           of best of n
    policies    random ones of a world
    replicates  worlds that are drawn
    seed        of all that is drawn
    """

    seed: int = 0
    replicates: int = 6
    beta: float = 0.3
    betas: tuple[float, ...] = (2.0, 1.0, 0.5, 0.25)
    responses: int = 6
    labels: int = 60
    steps: int = 450
    n: tuple[int, ...] = (2, 4, 16)
    policies: int = 500

    def __post_init__(self) -> None:
        require(self, positive=("beta", "betas"), least={
            "replicates": 1, "responses": 3, "labels": 1, "steps": 10, "n": 2, "policies": 1})


def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured. Axes: replicates R, learners L, steps T, responses K; rewards and gaps in nats of reward

    learner, told                      (L,): names, and whether the frontier is where it has to end
    ends_reward, ends_kl, ends_gap     (R, L): E r, KL(π || π_ref), and the frontier at this KL less E r
    tangent                            (R, L): J* + β KL less E r, less β KL(π || π*), at `beta`
    random_gap                         (R, policies)
    ref, rewards                       (R, K)
    path_kl, path_reward, path_gap     (R, T): on DPO's way at the least of `betas`
    slope, fall                        (R, betas): dE r/dKL over β, and dJ*/dβ over -KL, by central differences
    greedy                             (R, 2): where β -> 0, max r - E r and -log π_ref(best) - KL
    faint                              (R,): 2β² KL/Var_ref r where β is 10⁴
    normal                             (3,): E r/√(2 KL) of normal rewards, β = 2, 1, ½
    best_of_n, _kl, _gap               n; of normal rewards KL, and √(2 KL) - E r
    reward, kl, gap                    means over worlds, of DPO of labels
    optimum_reward, optimum_kl         means over worlds, of π*
    """
    config = config or Config()
    beta, K = config.beta, config.responses
    generators = streams(config.seed, config.replicates)
    r = np.stack([rng.normal(size=K) for rng in generators])
    ref = np.stack([rng.dirichlet(np.full(K, 3.0)) for rng in generators])
    others = np.stack([rng.dirichlet(np.full(K, 0.5), size=config.policies) for rng in generators])
    wins = population.bradley_terry_wins(r)
    drawn = np.stack([rng.multinomial(config.labels, (w / w.sum()).ravel()).reshape(K, K)
                      for rng, w in zip(generators, wins, strict=True)])
    names, told, ends, path = _learners(config, ref, r, wins, drawn / config.labels)

    def gap(pi: Array, ref: Array, r: Array) -> Array:
        under: Array = temperature.frontier(ref, r, optimum.kl(pi, ref)).reward - (pi * r).sum(axis=-1)
        return under

    here, there = ref[:, None], r[:, None]
    best = optimum.boltzmann(ref, r, beta)
    expected, kl, under = (ends * there).sum(axis=-1), optimum.kl(ends, here), gap(ends, here, there)
    top = optimum.optimal_value(ref, r, beta)[:, None]
    judged = names.index("DPO, labels")
    found = {
        "beta": beta, "betas": config.betas, "ref": ref, "rewards": r, "learner": names, "told": told,
        "ends_reward": expected, "ends_kl": kl, "ends_gap": under,
        "tangent": top + beta * kl - expected - beta * optimum.kl(ends, best[:, None]),
        "random_gap": gap(others, here, there),
        "path_kl": optimum.kl(path, here), "path_reward": (path * there).sum(axis=-1),
        "path_gap": gap(path, here, there), "reward": expected[:, judged].mean(), "kl": kl[:, judged].mean(),
        "gap": under[:, judged].mean(), "optimum_reward": (best * r).sum(axis=-1).mean(),
        "optimum_kl": optimum.kl(best, ref).mean(),
    }
    found |= _derivatives(config, ref, r) | _limits(ref, r) | _normal()
    return {name: np.asarray(x) for name, x in found.items()}


# ---- who learns

def _learners(config: Config, ref: Array, r: Array, wins: Array, drawn: Array) -> tuple[list[str], Array, Array, Array]:
    """Names, who is told all, policies (R, L, K), and the way (R, T, K) of DPO at the least of `betas`"""
    beta, (rows, K) = config.beta, r.shape
    best = optimum.boltzmann(ref, r, beta)
    found: dict[str, Array] = {}
    for b in config.betas:
        # the curvature is at most β²/(2 (K-1)) in a world, and each weighs 1/rows
        *_, found[f"DPO, every pair, β = {b:g}"] = _path(config, ref, wins, dn.LOSSES["dpo"](beta=b),
                                                         dn.momentum(2 * rows * (K - 1) / b**2))
    b = min(config.betas)
    slowly = _path(config, ref, wins, dn.LOSSES["dpo"](beta=b), dn.sgd(rows * (K - 1) / b**2 / 4))
    path = np.stack([ref, *islice(slowly, 150)], axis=1)
    found["natural policy gradient, one step"] = optimum.natural_step(ref, ref, r, beta, 1 / beta)
    found["π_ref^½ π*^½"] = temperature.realigned(ref, best, 0.5)
    on = len(found)
    found["½ π_ref + ½ π*"] = (ref + best) / 2
    *_, found["DPO, labels"] = _path(config, ref, drawn, dn.LOSSES["dpo"](beta=beta),
                                     dn.momentum(2 * rows * (K - 1) / beta**2))
    found["SFT on chosen"] = np.stack([minimizers.sft(q, w @ q) for q, w in zip(ref, _judged(r), strict=True)])
    found |= {f"best of {n}": sampling.best_of_n(ref, r, n) for n in config.n}
    for name in LOSSES:
        *_, found[name] = islice(_path(config, ref, wins, dn.LOSSES[name](), dn.adam(0.05)), min(config.steps, 80))
    return list(found), np.arange(len(found)) < on, np.stack(list(found.values()), axis=1), path


def _path(config: Config, ref: Array, wins: Array, loss: dn.Loss, optimizer: Any) -> Iterator[Array]:
    """Policies after each step, all worlds at once: each is a row of a table; wins (R, K, K) are weights of pairs"""
    rows, K = ref.shape
    policy, start = Tabular(K, rows), {"W": np.log(ref)}
    row, i, j = np.nonzero(wins)
    index = np.column_stack([row * K + i, row * K + j])
    pairs = dn.Preferences(bandit(np.zeros((rows, K))).responses, index, wins[row, i, j] / rows)
    pairs = pairs.with_reference(policy, start)
    for step in dn.train(policy, start, repeat(pairs, config.steps), loss, optimizer):
        p: Array = np.exp(log_softmax(step.params["W"]))
        yield p


def _judged(r: Array) -> Array:
    """P(i is preferred to j), a tie with itself by a coin"""
    P: Array = 1 / (1 + np.exp(r[:, None, :] - r[:, :, None]))
    return P


# ---- the frontier

def _derivatives(config: Config, ref: Array, r: Array) -> dict[str, Any]:
    """Over a difference of 2·10⁻⁴ in log β, which leaves an error of 10⁻⁸ or so"""
    slope, fall = [], []
    for beta in config.betas:
        near_by = beta * np.exp([-1e-4, 1e-4])
        pi = np.stack([optimum.boltzmann(ref, r, b) for b in near_by])
        E, KL = (pi * r).sum(axis=-1), optimum.kl(pi, ref)
        J = np.stack([optimum.optimal_value(ref, r, b) for b in near_by])
        slope.append((E[1] - E[0]) / (KL[1] - KL[0]) / beta)
        middle = optimum.kl(optimum.boltzmann(ref, r, beta), ref)
        fall.append((J[1] - J[0]) / np.ptp(near_by) / -middle)
    return {"slope": np.stack(slope, axis=-1), "fall": np.stack(fall, axis=-1)}


def _limits(ref: Array, r: Array) -> dict[str, Any]:
    ranked = np.sort(r, axis=-1)
    cold = temperature.moments(ref, r, (ranked[:, -1] - ranked[:, -2]) / 60)  # e^-60 is left of the second best
    top = np.log(np.take_along_axis(ref, r.argmax(axis=-1)[:, None], axis=-1))[:, 0]
    hot, variance = optimum.kl(optimum.boltzmann(ref, r, 1e4), ref), (ref * r**2).sum(axis=-1) - (ref * r).sum(-1) ** 2
    return {"greedy": np.stack([ranked[:, -1] - cold.reward, -top - cold.kl], axis=-1),
            "faint": 2e8 * hot / variance}


def _normal() -> dict[str, Any]:
    x = np.linspace(-12, 12, 20001)
    q = np.exp(-x * x / 2)
    q /= q.sum()
    tilted = temperature.moments(q, x, [2.0, 1.0, 0.5])
    best = np.stack([sampling.best_of_n(q, x, n) for n in PRINTED])
    kl = optimum.kl(best, q)
    return {"normal": tilted.reward / np.sqrt(2 * tilted.kl), "best_of_n": list(PRINTED), "best_of_n_kl": kl,
            "best_of_n_gap": np.sqrt(2 * kl) - best @ x}


def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    told, gap, names = result["told"], result["ends_gap"], result["learner"].tolist()

    def least(*beginnings: str) -> Any:
        """The least gap of these learners: of each of them the mean over worlds"""
        return min(gap[:, k].mean() for k, name in enumerate(names) if name.startswith(beginnings))

    printed = np.array(list(PRINTED.values()))
    return {
        "dE r/dKL is β along the frontier: max |ratio - 1|": below(abs(result["slope"] - 1).max(), 1e-6),
        "dJ*/dβ is -KL: max |ratio - 1|": below(abs(result["fall"] - 1).max(), 1e-6),
        "every learner is below the tangent at π* by β KL(π || π*): max |difference|": below(
            abs(result["tangent"]).max(), 1e-10),
        "no learner is above the frontier: least gap": above(gap.min(), -1e-9),
        "no random policy is above it either: least gap": above(result["random_gap"].min(), -1e-9),
        "who is told all, and can say π*, is on it: largest gap": below(gap[:, told].max(), 1e-9),
        "but halfway there by a mixture of probabilities is not: gap": above(least("½ π_ref + ½ π*"), 1e-3),
        "but DPO of few labels is not: gap": above(least("DPO, labels"), 1e-3),
        "but clones of chosen responses are not, nor the best of n: least gap": above(least("SFT", "best of"), 1e-4),
        "but other losses, trained on every pair, are not: least gap": above(least(*LOSSES), 1e-6),
        "but DPO of every pair is off it on its way there, if by little: largest gap, mean over worlds": above(
            result["path_gap"].max(axis=-1).mean(), 1e-5),
        "β -> 0 says the best response alone: max |difference| of reward, and of KL and -log π_ref(best)": below(
            abs(result["greedy"]).max(), 1e-9),
        "β -> ∞ leaves KL = Var_ref r/2β²: max |ratio - 1|": below(abs(result["faint"] - 1).max(), 1e-3),
        "normal rewards: E r = √(2 KL), max |ratio - 1|": below(abs(result["normal"] - 1).max(), 1e-9),
        "normal rewards: best of n is below it by what is printed: max |difference|": below(
            abs(result["best_of_n_gap"] - printed).max(), 5.1e-5),
    }


def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """One world, of the widest rewards: the frontier, tangents of slope β, and where learners end"""
    ax = axes(ax)
    world = np.ptp(result["rewards"], axis=-1).argmax()
    ref, r, kl, reward = (result[name][world] for name in ("ref", "rewards", "ends_kl", "ends_reward"))
    told, names = result["told"], result["learner"]
    labels, best_of = names == "DPO, labels", np.char.startswith(names, "best of")
    most = 1.1 * kl[told | labels].max()
    nats = np.linspace(0, most, 200)
    best = temperature.frontier(ref, r, nats).reward
    ax.plot(nats, best, color=OPTIMUM, lw=2, label="frontier")
    for k, beta in enumerate(result["betas"]):
        along = kl[k] + np.array([-0.12, 0.12]) * most / np.hypot(1, 1.3 * beta * most / np.ptp(best))
        ax.plot(along, reward[k] + beta * (along - kl[k]), color="0.3", lw=1)
        ax.annotate(f"slope {beta:g}", (kl[k], reward[k]), (-6, 8), ha="right", textcoords="offset points", fontsize=9)
    ax.plot(result["path_kl"][world], result["path_reward"][world], ":", color=POLICY, label="DPO, on its way")
    clones, others = names == "SFT on chosen", np.isin(names, LOSSES)
    for which, marker, color, label in (
        (told, "o", OPTIMUM, "told r, or every pair"), (labels, "*", POLICY, "DPO of labels"),
        (best_of, "^", COLORS[1], "best of n"), (clones, "s", COLORS[0], "SFT on chosen"),
        (others, ".", COLORS[2], "other losses, every pair"),
        (names == "½ π_ref + ½ π*", "D", REFERENCE, "½ π_ref + ½ π*"),
    ):
        ax.plot(kl[which], reward[which], marker, color=color, ms=9 if marker == "*" else 6, label=label)
    ax.set(xlabel="KL(π || π_ref), nats", ylabel="E r, nats", xlim=(-0.02 * most, most),
           title="β is the slope of the frontier, and nobody is above it")
    ax.legend(fontsize=8, loc="lower right")
    return ax


def _gaps(result: dict[str, Array], ax: Any = None) -> Any:
    """How far below the frontier learners end, each world a point"""
    ax = axes(ax)
    at, floor = np.arange(len(result["learner"])), 1e-17
    gap = np.maximum(result["ends_gap"], floor)
    for world in gap:
        ax.plot(world, at, ".", color=REFERENCE, ms=4, alpha=0.6)
    ax.scatter(np.maximum(result["ends_gap"].mean(axis=0), floor), at, s=25, zorder=2,
               color=np.where(result["told"], OPTIMUM, COLORS[0]))
    ax.set_yticks(at, result["learner"], fontsize=7)
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="reward below the frontier, nats: worlds, and their mean",
           title="Who pays for KL with less reward than it could buy")
    return ax


def _normal_rewards(result: dict[str, Array], ax: Any = None) -> Any:
    """Normal rewards: √(2 KL), and the best of n below it"""
    ax = axes(ax)
    kl, gap = result["best_of_n_kl"], result["best_of_n_gap"]
    nats = np.linspace(0, 1.1 * kl.max(), 200)
    ax.plot(nats, np.sqrt(2 * nats), color=OPTIMUM, label="frontier, √(2 KL)")
    ax.plot(kl, np.sqrt(2 * kl) - gap, "^", color=COLORS[1], label="best of n")
    for n, x, y, d in zip(result["best_of_n"], kl, np.sqrt(2 * kl) - gap, gap, strict=True):
        ax.annotate(f"n = {n}: {d:.4f} below", (x, y), (8, -8), textcoords="offset points", fontsize=8)
    ax.set(xlabel="KL(π || π_ref), nats", ylabel="E r, standard deviations", xlim=(0, 1.45 * kl.max()),
           title="Rewards that are normal under the reference")
    ax.legend(loc="upper left")
    return ax


PANELS = (plot, _gaps, _normal_rewards)
