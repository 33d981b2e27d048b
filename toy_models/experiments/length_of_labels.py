"""Of labels that gain λ a token, R-DPO with α = λ alone recovers the optimum of quality; a larger β, lengths divided
out and lengths left out trade the gain against something else.

Labels are Bradley-Terry of quality, a sum over tokens in context, plus λ|y|, and without the gain, λ = 0. Responses are
all strings of at most a few letters, rarer ones as rare as a bigram makes them; |y| counts the end here, as losses do,
while E|y| is printed without it. Measured, of both kinds of labels: J*(quality) - J and E|y| at the population minimum
over all policies, at every value of one hyper-parameter,

    DPO, β'      π_ref e^{r/β'}/Z                LN-DPO, β'             π_ref e^{|y| (r/β' + c)}
    R-DPO, α     π_ref e^{(r - α|y|)/β}/Z        SimPO, β', γ = 0       e^{|y| (r/β' + c)}, whatever the reference
                                                 LD-DPO, α              a policy by prefix, by Newton's method

so that R-DPO with another α than λ loses (α - λ)² Var|y|/(2β), to second order. LD-DPO hardly shortens: it counts less
of what is said beyond the shorter response, but the token at which that one ends and the other goes on counts in full,
and takes up the gain. The win rates of a judge with the gain are compared with those of quality alone, raw and
length-controlled: a logistic regression on the difference in length, read where there is none.

Park et al. 2024, arXiv:2403.19159 (R-DPO); Meng et al. 2024, arXiv:2405.14734 (SimPO); Lambert et al. 2024,
arXiv:2411.15124 (LN-DPO); Liu et al. 2024, arXiv:2409.06411 (LD-DPO, pairs drawn from π_ref); Dubois et al. 2024,
arXiv:2404.04475 (length-controlled win rates).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, softmax

import dpo_numpy as dn
from analytic import minimizers, ngram, optimum

from ..ngram import NGram
from ..worlds import strings
from ._claims import Claim, above, below, near
from ._config import require
from ._figure import COLORS, OPTIMUM, POLICY, REFERENCE, axes
from ._lengths import QUALITY, REF, Short, every_short, ld_dpo, lengths

__all__ = ["PANELS", "Config", "claims", "plot", "run"]

Array = NDArray[Any]

LOSSES = ("dpo", "r_dpo", "ln_dpo", "simpo", "ld_dpo")
# name and color
SHOWN = {"dpo": ("DPO, its β", POLICY), "r_dpo": ("R-DPO, α", OPTIMUM), "ln_dpo": ("LN-DPO, its β", COLORS[1]),
         "simpo": ("SimPO, its β", COLORS[2]), "ld_dpo": ("LD-DPO, α", COLORS[0])}


@dataclass(frozen=True)
class Config:
    """What labels gain by length, and the hyper-parameter of each loss

    beta         reward that a nat of KL costs: of J, of DPO, R-DPO and LD-DPO
    lam          what labels gain a token, λ
    alpha        what R-DPO takes off a token
    ld_alpha     what LD-DPO counts of what is longer
    ln_beta      of LN-DPO, 5 in its paper
    simpo_beta   of SimPO
    letters      of the longest string
    steps        of each training
    """

    beta: float = 1.0
    lam: float = 0.5
    alpha: float = 0.1
    ld_alpha: float = 0.5
    ln_beta: float = 5.0
    simpo_beta: float = 2.0
    letters: int = 4
    steps: int = 400

    def __post_init__(self) -> None:
        require(self, positive=("beta", "ln_beta", "simpo_beta"), nonnegative=("lam", "ld_alpha"), least={
            "letters": 2, "steps": 1})
        if self.ld_alpha > 1:
            raise ValueError(f"ld_alpha is {self.ld_alpha}; expected at most 1")


# ---- what is measured

def _minima(name: str, grid: Array, short: Short, reward: Array, beta: float) -> Array:
    """The policy at each value of the loss's hyper-parameter, (grid, K)"""
    ref, length, column = short.ref, short.length, grid[:, None]
    if name == "dpo":
        return optimum.boltzmann(ref, reward / column, 1.0)
    if name == "r_dpo":
        return np.array([minimizers.r_dpo(ref, reward, length, beta, alpha) for alpha in grid])
    if name == "ln_dpo":
        return minimizers.length_normalized(ref, reward / column, length, 1.0)
    if name == "simpo":
        return minimizers.simpo(reward / column, length, 1.0)
    return short.policy(ld_dpo(short, reward, beta, grid))


def _swept(config: Config) -> dict[str, tuple[Array, float]]:
    """Values of the hyper-parameter of each loss, and the one that is configured"""
    alphas = np.union1d([0.0, config.lam], config.lam + np.linspace(-0.5, 0.5, 21))
    betas = config.beta * np.geomspace(1, 60, 25)
    return {"dpo": (config.beta * np.geomspace(0.3, 30, 25), config.beta), "r_dpo": (alphas, config.alpha),
            "ln_dpo": (betas, config.ln_beta), "simpo": (betas, config.simpo_beta),
            "ld_dpo": (np.linspace(0, 1, 11), config.ld_alpha)}


def _win_rates(pi: Array, short: Short, quality: Array, lam: float) -> list[float]:
    """P(π beats the reference), by quality alone, by the labels, and by these, controlled for length"""
    gap, better = short.length[:, None] - short.length, quality[:, None] - quality
    met, wins = pi[:, None] * short.ref, expit(better + lam * gap)
    term, theta = np.stack([np.ones(gap.shape), gap]), np.zeros(2)
    for _ in range(20):
        fit = expit(np.tensordot(theta, term, axes=1))
        H = np.einsum("aij,ij,bij->ab", term, met * fit * (1 - fit), term)
        theta = theta + np.linalg.solve(H, (term * (met * (wins - fit))).sum(axis=(1, 2)))
    return [(met * expit(better)).sum(), (met * wins).sum(), expit(theta[0])]


def _all_strings(config: Config) -> dict[str, Any]:
    """A bigram trained on strings of at most three letters, labels with the gain, and what it says of all strings:
    KL(π || π*) of quality, NaN where quality has no optimum
    """
    short, beta, policy, start = every_short(3), config.beta, NGram(vocab=3), {"W": np.log(REF)}
    gained = short.summed @ QUALITY.ravel() + config.lam * short.length
    known = dict(zip(short.texts, gained.tolist(), strict=True))
    pairs = strings(3, 4, lambda y: known[tuple(y[:-1])]).population().with_reference(policy, start)
    found: dict[str, Any] = {"kl_all_dpo": np.nan, "kl_all_r_dpo": np.nan}
    losses = {"dpo": dn.LOSSES["dpo"](beta=beta), "r_dpo": dn.LOSSES["r_dpo"](beta=beta, alpha=config.lam)}
    for name, loss in losses.items():
        walk = dn.train(policy, start, repeat(pairs, config.steps), loss, dn.momentum(5 / beta**2, 0.9))
        W = deque(walk, maxlen=1).pop().params["W"]
        found[f"length_all_{name}"] = lengths(log_softmax(W, axis=1) - np.log(REF))
        if beta > ngram.critical_beta(REF, QUALITY):
            found[f"kl_all_{name}"] = ngram.kl(softmax(W, axis=1), ngram.optimum(REF, QUALITY, beta)[0])
    return found


def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured, by name; E|y| in tokens before the end, regret J*(quality) - J in units of reward

    regret_LOSS, mean_length_LOSS    as configured, labels with the gain; unbiased_...: labels without it
    best_regret_LOSS                 labels with the gain, the least of all values of its hyper-parameter; unbiased_...
    LOSS_swept                       these values; LOSS_regrets, LOSS_lengths: (labels without and with it, values)
    win_LOSS, raw_win_LOSS           against the reference, by quality, and by a judge with the gain; controlled_win_...
    mean_length_ref, _quality        of the reference, and of the optimum of quality
    wrong_alpha                      regret of R-DPO with α = λ ± h over h² Var|y|/(2β), h small
    kl_all_LOSS, length_all_LOSS     of a bigram trained on short strings, R-DPO with α = λ: KL to the optimum of
                                     quality over all strings, and E|y|
    """
    config = config or Config()
    short = every_short(config.letters)
    quality, beta, letters = short.summed @ QUALITY.ravel(), config.beta, short.length - 1
    highest, best = optimum.optimal_value(short.ref, quality, beta), optimum.boltzmann(short.ref, quality, beta)

    def regret(pi: Array) -> Array:
        return highest - optimum.value(pi, short.ref, quality, beta)

    gained = quality + config.lam * short.length
    found: dict[str, Any] = {
        "loss": np.array(LOSSES), "lam": config.lam, "mean_length_ref": short.ref @ letters,
        "mean_length_quality": best @ letters, "regret_ref": regret(short.ref),
    } | _all_strings(config)
    for name, (values, configured) in _swept(config).items():
        both = np.array([_minima(name, np.append(values, configured), short, r, beta) for r in (quality, gained)])
        regrets, means = regret(both), both @ letters
        found |= {f"{name}_swept": values, f"{name}_regrets": regrets[:, :-1], f"{name}_lengths": means[:, :-1]}
        for row, prefix in enumerate(("unbiased_", "")):
            found |= {f"{prefix}regret_{name}": regrets[row, -1], f"{prefix}mean_length_{name}": means[row, -1],
                      f"{prefix}best_regret_{name}": regrets[row].min()}
        found |= zip((f"win_{name}", f"raw_win_{name}", f"controlled_win_{name}"),
                     _win_rates(both[1, -1], short, quality, config.lam), strict=True)
    h = 1e-3
    off = _minima("r_dpo", config.lam + np.array([-h, h]), short, gained, beta)
    spread = best @ letters**2 - (best @ letters) ** 2
    found["wrong_alpha"] = regret(off).mean() / (h**2 * spread / (2 * beta))
    return {name: np.asarray(value) for name, value in found.items()}


def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    found: dict[str, Claim] = {}
    others = [name for name in LOSSES if name != "r_dpo"]
    exact = result["r_dpo_regrets"][1][result["r_dpo_swept"] == result["lam"]].max()
    found["R-DPO with α = λ takes the gain out: regret"] = below(abs(exact), 1e-12)
    found["R-DPO, trained on short strings, finds the optimum of quality over all: KL"] = below(
        result["kl_all_r_dpo"], 1e-10)
    found["trained alike, DPO does not: KL"] = above(result["kl_all_dpo"], 0.1)
    found["R-DPO with another α loses the square of the error: regret over (α - λ)² Var|y|/(2β)"] = near(
        result["wrong_alpha"], 1, 1e-3)
    found["no other fix does, nor a larger β: least regret"] = above(
        min(result[f"best_regret_{name}"] for name in others), 0.05)
    plain = [abs(result["unbiased_regret_dpo"]), abs(result["unbiased_best_regret_ld_dpo"]),
             abs(result["unbiased_best_regret_r_dpo"])]
    found["without the gain DPO is exact, as are its kin at α = 0 and LD-DPO at α = 1: largest regret"] = below(
        max(plain), 1e-12)
    found["but dividing by lengths is not exact: least regret of LN-DPO and SimPO"] = above(
        min(result["unbiased_best_regret_ln_dpo"], result["unbiased_best_regret_simpo"]), 0.005)
    true, raw, controlled = (result[f"{kind}win_dpo"] for kind in ("", "raw_", "controlled_"))
    longer = result["mean_length_dpo"] - result["mean_length_quality"]
    with np.errstate(divide="ignore", invalid="ignore"):
        taken = (result["mean_length_dpo"] - result["ld_dpo_lengths"][1].min()) / longer
        mended = abs(controlled - true) / abs(raw - true)
    found["LD-DPO hardly shortens: share of the gain's tokens that any α takes back"] = below(taken, 0.25)
    found["length control mends a judge with the gain: error of DPO's win rate over the raw one"] = below(mended, 0.25)
    return found


# ---- pictures

def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """Regret against E|y| along each hyper-parameter: labels gain λ a token; returns the axes"""
    return _curves(result, 1, f"Labels gain {result['lam']:g} a token", ax)


def _without(result: dict[str, Array], ax: Any = None) -> Any:
    """The same of labels without the gain"""
    return _curves(result, 0, "Labels of quality alone", ax)


def _curves(result: dict[str, Array], labels: int, title: str, ax: Any) -> Any:
    ax, prefix = axes(ax), ("unbiased_", "")[labels]
    for name, (label, color) in SHOWN.items():
        ax.plot(result[f"{name}_lengths"][labels], result[f"{name}_regrets"][labels], color=color, label=label)
        ax.plot(result[f"{prefix}mean_length_{name}"], result[f"{prefix}regret_{name}"], "o", ms=6, color=color)
    ax.plot(result["mean_length_quality"], 0, "*", ms=15, color=OPTIMUM, label="optimum of quality")
    ax.plot(result["mean_length_ref"], result["regret_ref"], "s", ms=6, color=REFERENCE, label="reference")
    high = 2 * max(result["regret_dpo"], result["regret_ref"])
    ax.set(xlabel="E|y|, tokens (dots: as configured)", ylabel="J*(quality) - J, reward", ylim=(-0.05 * high, high),
           title=title)
    ax.legend(fontsize=8, loc="lower right")
    return ax


def _win_rate_bars(result: dict[str, Array], ax: Any = None) -> Any:
    """Win rates against the reference, as configured, by three judges"""
    ax, rows = axes(ax), np.arange(len(LOSSES))
    judges = {"": ("quality alone", OPTIMUM), "raw_": ("judge with the gain", COLORS[1]),
              "controlled_": ("the same, length-controlled", COLORS[2])}
    wins = np.array([[result[f"{kind}win_{name}"] for name in LOSSES] for kind in judges])
    for shift, (each, (label, color)) in enumerate(zip(wins, judges.values(), strict=True)):
        ax.bar(rows + 0.27 * (shift - 1), each, 0.25, color=color, label=label)
    ax.axhline(0.5, color=REFERENCE, lw=1, ls="--")
    ax.set(xticks=rows, xticklabels=[SHOWN[name][0].split(",")[0] for name in LOSSES],
           ylim=(min(0.45, wins.min() - 0.02), wins.max() + 0.04), ylabel="win rate against the reference",
           title="Length control mends the judge, not the policy")
    ax.legend(fontsize=8, loc="upper left", ncols=3)
    return ax


PANELS = (plot, _without, _win_rate_bars)
