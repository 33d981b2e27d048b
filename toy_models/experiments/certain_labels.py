"""Labels that are always the same leave DPO no optimum: β sets how fast the margin grows, not where it ends.

One pair of a table, always judged alike; t is learning rate × steps, h the gap of log-ratios, m = βh:

    DPO    m + e^m = 1 + 2β²t: it grows like log t, whatever β, and π(y_w) -> 1   (Rafailov et al. 2023, 2305.18290)
    IPO    h ends at 1/(2τ)                                                       (Azar et al. 2023, 2310.12036)
    cDPO   m ends at log((1-ε)/ε)                                                 (Mitchell 2023)
    rDPO   m grows by 2β²ε/(1-2ε) a unit of t, and the loss falls for ever        (Chowdhury et al. 2024, 2403.00409)

Among other pairs, a certain one does no harm where a cycle of wins leads back (Ford 1957). The paper's example of a
response that IPO keeps and DPO drives to 0, {(a, b), (b, a)}, has no gradient at π_ref under either loss: it takes one
loss of the third, (a, c), to show it. On few labels, some are certain by chance: descent is best stopped early.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, repeat
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, softmax

import dpo_numpy as dn
from analytic import flow, graph, minimizers, optimum, population

from ..tabular import Tabular
from ..worlds import bandit
from ._claims import Claim, above, below, near
from ._config import require, streams
from ._figure import CHOSEN, COLORS, OPTIMUM, POLICY, REFERENCE, REJECTED, axes
from ._fits import draw

__all__ = ["PANELS", "REPLICATED", "Config", "claims", "plot", "run"]

Array = NDArray[Any]

REPLICATED = ("stopped_regret", "ipo_regret", "cdpo_regret")
GROWTH = 1.03  # of the learning rate a step, as the slope falls as 1/t: m moves by this share of a nat
AMONG = ("certain pair on a branch", "certain pair on a cycle", "(a, b), (b, a), (a, c)", "(a, b), (b, a)")


@dataclass(frozen=True)
class Config:
    """One pair that is always judged alike, and few labels of many

    ref         probability of the chosen response under the reference
    betas       of DPO on the pair
    beta        of all other trainings: nats of reward that a nat of KL costs
    tau, eps    of IPO; of cDPO and rDPO
    p           of the twin whose labels are not certain
    steps       of each training
    reward      of the responses of whom few labels are drawn, nats of the annotators' log-odds
    labels      drawn
    replicates  data sets
    seed        of the labels
    """

    seed: int = 0
    ref: float = 0.3
    betas: tuple[float, ...] = (0.1, 0.5, 2.0)
    beta: float = 0.5
    tau: float = 0.25
    eps: float = 0.1
    p: float = 0.8
    steps: int = 300
    reward: tuple[float, ...] = (0.8, 0.4, 0.0, -0.4, -0.8)
    labels: int = 30
    replicates: int = 80

    def __post_init__(self) -> None:
        require(self, positive=("ref", "betas", "beta", "tau", "eps", "p"), shares=("ref", "p"),
                least={"steps": 20, "labels": 1, "replicates": 1})
        if self.eps >= 0.5:
            raise ValueError(f"eps is {self.eps}; expected a finite number above 0 and below 0.5")
        if len(self.reward) < 2:
            raise ValueError(f"reward has {len(self.reward)} number; expected at least 2")


def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured, by name

    time, gap, predicted         (trainings, steps + 1): t, h of descent, and of gradient flow; a row for each `loss`
    uncertain                    (betas): π(y_w) where the label is right with probability p
    slope                        dm/dt of rDPO, at the end;   rdpo_p, rdpo_fit: its margin for p, and where descent ends
    among_margin, third          (steps + 1, 2): m of the certain pair, on a branch and on a cycle; π(c), two examples
    stopped_regret               (replicates, steps + 1): J* - J along the way;   ipo_regret, cdpo_regret: at their ends
    best_stop                    β²t of the least mean of it;   least_regret, end_regret: there, and at the end
    """
    config = config or Config()
    found = _pair(config) | _among(config) | _few(config)
    return {name: np.asarray(x) for name, x in found.items()}


def _rates(config: Config, cap: float) -> Array:
    """Learning rates in units of 1/β²"""
    rates: Array = np.minimum(0.02 * GROWTH ** np.arange(config.steps), cap)
    return rates


def _descended(wins: Array, ref: Array, loss: dn.Loss, rates: Array) -> Array:
    """Log-ratios (steps + 1, G, K), up to a constant, of a table with prompts of their own wins (G, K, K)"""
    G, K = wins.shape[:2]
    at, policy = np.argwhere(wins > 0), Tabular(K, G)
    start = {"W": np.tile(np.log(ref), (G, 1))}
    pairs = dn.Preferences(bandit(np.zeros((G, K))).responses, at[:, :1] * K + at[:, 1:], wins[tuple(at.T)])
    steps = dn.train(policy, start, repeat(pairs.with_reference(policy, start)), loss, dn.sgd(lambda t: rates[t]))
    return np.stack([0 * start["W"], *(step.params["W"] - start["W"] for step in islice(steps, len(rates)))])


# ---- one pair

def _pair(config: Config) -> dict[str, Array]:
    ref, eps, tau, b = np.array([config.ref, 1 - config.ref]), config.eps, config.tau, config.beta
    certain = np.array([[[0.0, 1.0], [0.0, 0.0]]])
    c, far = eps / (1 - 2 * eps), np.inf
    trainings: list[tuple[str, dn.Loss, Array, Any]] = [
        (f"DPO, β = {beta:g}", dn.LOSSES["dpo"](beta=beta), _rates(config, far) / beta**2,
         lambda t, beta=beta: flow.dpo_margin(t, beta) / beta) for beta in config.betas]
    trainings += [
        ("IPO", dn.LOSSES["ipo"](tau=tau), _rates(config, 0.05), lambda t: flow.ipo_gap(t, tau)),
        ("cDPO", dn.LOSSES["cdpo"](beta=b, eps=eps), _rates(config, 1.0) / b**2,
         lambda t: flow.dpo_margin(t, b, p=1 - eps) / b),
        ("rDPO", dn.LOSSES["rdpo"](beta=b, eps=eps), _rates(config, far) / b**2, None),
    ]
    time, gap, predicted = [], [], []
    for _, loss, rates, theory in trainings:
        time.append(np.append(0, rates.cumsum()))
        gap.append(_descended(certain, ref, loss, rates)[:, 0] @ [1, -1])
        predicted.append(theory(time[-1]) if theory else np.full(len(rates) + 1, np.nan))
    rdpo, t = gap[-1] * b, time[-1]
    noisy = np.array([[[0.0, config.p], [1 - config.p, 0.0]]])
    fitted = _descended(noisy, ref, dn.LOSSES["rdpo"](beta=b, eps=eps), _rates(config, 1.0) / b**2)[-1, 0] @ [b, -b]
    wins = [population.newton(noisy[0], beta) for beta in config.betas]
    return {
        "loss": np.array([name for name, *_ in trainings]), "time": np.array(time), "gap": np.array(gap),
        "predicted": np.array(predicted), "betas": np.array(config.betas), "ref": ref,
        "chosen": expit(np.array(gap) + logit(config.ref)), "uncertain": population.policy(wins, ref)[:, 0],
        "slope": (rdpo[-1] - rdpo[-2]) / (t[-1] - t[-2]), "slope_theory": 2 * b**2 * c,
        "ipo_end": 1 / (2 * tau), "cdpo_end": minimizers.cdpo_margin(1.0, eps) / b,
        "rdpo_p": minimizers.rdpo_margin(config.p, eps), "rdpo_fit": fitted}


# ---- among others

def _among(config: Config) -> dict[str, Array]:
    """Three responses, in four ways"""
    b, flat = config.beta, np.full(3, 1 / 3)
    wins = np.zeros((4, 3, 3))
    wins[:2, 0, 1] = 1  # certain
    wins[:2, 1, 2], wins[:2, 2, 1] = 0.7, 0.3
    wins[1, 0, 2], wins[1, 2, 0] = 0.6, 0.4  # leads back
    wins[2:, 0, 1] = wins[2:, 1, 0] = wins[2, 0, 2] = 1
    exists = graph.mle_exists(wins)
    rates = _rates(config, 1.0)
    dpo = _descended(wins, flat, dn.LOSSES["dpo"](beta=b), rates / b**2)
    ipo = _descended(wins[2:], flat, dn.LOSSES["ipo"](tau=config.tau), np.minimum(rates, 0.1))
    kept = minimizers.ipo_pairs(flat, wins[2], config.tau)
    fitted = population.newton(wins[1], b)
    return {
        "among": np.array(AMONG), "among_exists": exists, "among_time": np.append(0, rates.cumsum()),
        "among_margin": b * (dpo[:, :2, 0] - dpo[:, :2, 1]), "cycle_fit": b * (fitted[0] - fitted[1]),
        "third": softmax(dpo[:, 2:], axis=-1)[..., 2], "third_ipo": softmax(ipo, axis=-1)[..., 2],
        "kept": kept, "printed": max(abs(dpo[1:, 3]).max(), abs(ipo[1:, 1]).max())}


# ---- few labels

def _few(config: Config) -> dict[str, Array]:
    r, b = np.array(config.reward), config.beta
    K = len(r)
    ref = np.full(K, 1 / K)
    best = optimum.boltzmann(ref, r, b)
    data = draw(population.bradley_terry_wins(r), config.labels, streams(config.seed, config.replicates))
    wins = data / config.labels
    rates = _rates(config, 3.0)  # below 2/λ: λ is at most ½, that of one pair alone

    def regret(u: Array) -> Array:
        return b * optimum.kl(softmax(u + np.log(ref), axis=-1), best)

    way = _descended(wins, ref, dn.LOSSES["dpo"](beta=b), rates / b**2)
    along = regret(way).T
    mean = along.mean(axis=0)
    found = {"few_time": np.append(0, rates.cumsum()), "stopped_regret": along,
             "without_fit": np.asarray(1 - graph.mle_exists(data).mean()), "best_stop": rates[:mean.argmin()].sum(),
             "least_regret": mean.min(), "end_regret": mean[-1]}
    connected = ~graph.components(data).any(axis=-1)
    for name in ("ipo", "cdpo"):
        found[f"{name}_regret"] = np.full(len(data), np.nan)
    if connected.any():
        smooth = (1 - config.eps) * data + config.eps * data.mT
        found["cdpo_regret"][connected] = regret(population.newton(smooth[connected], b))
        pi = minimizers.ipo_pairs(ref, wins[connected], b / 4)  # logit p ≈ 2 (2p - 1): as DPO, where labels are even
        found["ipo_regret"][connected] = b * optimum.kl(pi, best)
    return found


# ---- the experiment

def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    rows = {name: k for k, name in enumerate(result["loss"])}
    dpo = slice(0, len(result["betas"]))
    off = abs(result["gap"][dpo] - result["predicted"][dpo]).max(axis=1) * result["betas"]
    t, m = result["time"][0], result["gap"][0] * result["betas"][0]
    gained = (m[-1] - np.interp(t[-1] / 10, t, m)) / log(10)
    grows = result["among_margin"][-1, 0] - result["among_margin"][len(result["among_time"]) // 2, 0]
    stopped = result["stopped_regret"].mean(axis=0)
    there = np.isfinite(result["ipo_regret"])  # responses are connected: the same data sets on both sides
    ends = result["stopped_regret"][:, -1], result["ipo_regret"], result["cdpo_regret"]
    end, *both = (x[there].mean() if there.any() else np.nan for x in ends)
    return {
        "DPO's margin is that of gradient flow: largest |difference|, nats": below(off.max(), GROWTH - 1),
        "it grows like log t: gain of the last tenfold of time, over log 10": near(gained, 1, within=0.05),
        "no β keeps π(y_w) from 1: least, at the end": above(result["chosen"][dpo, -1].min(), 0.95),
        "where labels are not certain, β sets π(y_w): range": above(np.ptp(result["uncertain"]), 0.1),
        "IPO stops at 1/(2τ): h": near(result["gap"][rows["IPO"], -1], result["ipo_end"], within=1e-9),
        "cDPO stops at log((1-ε)/ε)/β: h": near(result["gap"][rows["cDPO"], -1], result["cdpo_end"], within=1e-9),
        "rDPO does not stop: dm/dt at the end, over 2β²ε/(1-2ε)":
            near(result["slope"] / result["slope_theory"], 1, within=1e-6),
        "but it does where labels are less sure than 1-ε, at logit((p-ε)/(1-2ε)): m":
            near(result["rdpo_fit"], result["rdpo_p"], within=1e-6),
        "a certain pair on a branch has no optimum: nats gained in the second half": above(grows, 0.3),
        "a certain pair on a cycle of wins has one: |m - Newton's|":
            below(abs(result["among_margin"][-1, 1] - result["cycle_fit"]), 1e-6),
        "(a, b), (b, a) as printed moves nothing: largest |log-ratio|": below(result["printed"], 1e-12),
        "with (a, c) DPO drives c to 0: π(c)": below(result["third"][-1, 0], 1e-3),
        "and IPO keeps it: π(c)": near(result["third_ipo"][-1, 0], result["kept"][2], within=1e-9),
        "few labels: stopped early, descent is better: regret at the end over the least": above(
            stopped[-1] / stopped.min(), 1.1),
        "the optima of IPO and cDPO are better than that end: its regret over the larger of theirs":
            above(end / max(both), 1),
    }


def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """The gap of log-ratios of a certain pair against time, of each loss; returns the axes"""
    ax = axes(ax)
    for k, name in enumerate(result["loss"]):
        color = COLORS[(2, 3, 0, 5, 1, 4, 6, 7)[k % 8]]
        t = result["time"][k][1:]
        ax.loglog(t, result["gap"][k][1:], color=color, lw=2, label=name)
        ax.loglog(t, result["predicted"][k][1:], "k:", lw=1)
    ax.plot([], [], "k:", lw=1, label="gradient flow")
    ax.set(xlabel="time: learning rate × steps", ylabel="gap of log-ratios h, nats",
           title="One pair, always judged alike")
    ax.legend(fontsize=9)
    return ax


def _policy(result: dict[str, Array], ax: Any = None) -> Any:
    """π(y_w) against β²t, at each β, and where labels that are not certain end"""
    ax = axes(ax)
    for k, beta in enumerate(result["betas"]):
        color = COLORS[(2, 3, 0, 5, 1)[k % 5]]
        ax.semilogx(beta**2 * result["time"][k][1:], result["chosen"][k][1:], color=color, lw=2, label=f"β = {beta:g}")
        ax.axhline(result["uncertain"][k], color=color, lw=1, ls="--")
    ax.plot([], [], "k--", lw=1, label="ends, of labels that are not certain")
    ax.axhline(result["ref"][0], color=REFERENCE, lw=1, label="π_ref")
    ax.set(xlabel="β²t", ylabel="π(y_w)", ylim=(0, 1.03), title="β sets the pace, not the end")
    ax.legend(fontsize=9)
    return ax


def _others(result: dict[str, Array], ax: Any = None) -> Any:
    """A certain pair among other pairs: its margin on a branch, and on a cycle"""
    ax = axes(ax)
    t = result["among_time"]
    for k, color in enumerate((REJECTED, CHOSEN)):
        ax.plot(t, result["among_margin"][:, k], color=color, lw=2, label=result["among"][k])
    ax.axhline(result["cycle_fit"], color=OPTIMUM, ls="--", lw=1, label="the optimum that it has there")
    ax.set(xlabel="β²t", ylabel="margin m of the certain pair, nats", title="A cycle of wins holds a certain pair")
    ax.legend(fontsize=9, loc="center right")
    return ax


def _stopping(result: dict[str, Array], ax: Any = None) -> Any:
    """Mean regret along DPO's descent on few labels, beside the optima of IPO and cDPO"""
    ax = axes(ax)
    t, regret = result["few_time"][1:], result["stopped_regret"][:, 1:]
    mean, error = regret.mean(axis=0), 2 * regret.std(axis=0) / np.sqrt(len(regret))
    ax.fill_between(t, mean - error, mean + error, color=POLICY, alpha=0.25, lw=0)
    ax.semilogx(t, mean, color=POLICY, lw=2, label="DPO, 2 standard errors")
    ax.semilogx(t[mean.argmin()], mean.min(), "o", ms=9, mfc="none", color=POLICY)
    for name, color in (("ipo", COLORS[1]), ("cdpo", COLORS[2])):
        there = result[f"{name}_regret"][np.isfinite(result[f"{name}_regret"])]
        ax.axhline(there.mean() if len(there) else np.nan, color=color, ls="--",
                   label={"ipo": "IPO, τ = β/4, its optimum", "cdpo": "cDPO, its optimum"}[name])
    ax.set(xlabel="β²t", ylabel="regret J* - J, reward", ylim=(0, None),
           title=f"Few labels: {100 * result['without_fit']:.0f} % of data sets have no optimum")
    ax.legend(fontsize=9)
    return ax


PANELS = (plot, _policy, _others, _stopping)
