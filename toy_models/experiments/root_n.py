"""What n labels teach is known to 1/(β √n) in log π: regret falls as 1/n, and a low β buys variance.

n comparisons of random pairs, labelled by Bradley-Terry, are fitted exactly; F is the information of one (a Laplacian):

    √n (r̂ - r) -> N(0, F⁺)        E[J* - J] ≈ tr(S F⁺)/(2βn),   S = diag π* - π*π*ᵀ        excess loss ≈ (K-1)/(2n)

Features that tell the rewards with d numbers in place of K - 1 leave d/(2n); features that cannot tell them leave a
regret that n does not touch. A ranking of K equals is worth 2 (K - H_K) pairs. And where labels are few, J at a price
of β is best served by training at a larger β. Means are over data sets that have a fit (Ford 1957).
White 1982, "Maximum likelihood estimation of misspecified models"; Zhu et al. 2023, arXiv:2301.11270.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analytic import bradley_terry, finite_data, optimum, population

from ._claims import Claim, above, below, near
from ._config import require, streams
from ._figure import COLORS, OPTIMUM, POLICY, axes
from ._fits import average, draw, fit, lost, waves

__all__ = ["PANELS", "REPLICATED", "Config", "claims", "plot", "run"]

Array = NDArray[Any]

REPLICATED = ("regret", "shared_regret", "missing_regret", "excess", "shared_excess")
RANKED = 5  # responses, at most, whose rankings are all written down


@dataclass(frozen=True)
class Config:
    """The world and its labels

    responses   K
    features    d: what tells the rewards of all
    spread      standard deviation of the rewards over the responses, nats
    beta        nats of reward that a nat of KL costs
    betas       at which the error of the policy is measured, of the most labels
    times       trainings at these multiples of beta, all judged at the price beta
    counts      n: numbers of labels, in any order
    replicates  data sets of each number
    seed        of the labels
    """

    seed: int = 0
    responses: int = 8
    features: int = 2
    spread: float = 0.7
    beta: float = 0.5
    betas: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    times: tuple[float, ...] = (0.5, 0.63, 0.8, 1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0)
    counts: tuple[int, ...] = (100, 300, 1000, 3000, 10000)
    replicates: int = 2000

    def __post_init__(self) -> None:
        require(self, positive=("spread", "beta", "betas", "times"),
                least={"responses": 3, "features": 1, "counts": 1, "replicates": 2})
        waves(self.responses, self.features, self.spread)


def world(config: Config) -> tuple[Array, Array, Array]:
    """Features (K, d), waves over the responses; rewards in their span; a reference that often says what earns little

    >>> [x.shape for x in world(Config())]
    [(8, 2), (8,), (8,)]
    """
    often = 1 / np.arange(1, config.responses + 1)
    return *waves(config.responses, config.features, config.spread), often / often.sum()


def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured, by name; rows (replicates, counts), NaN where a data set has no fit

    regret, shared_regret, missing_regret   J* - J of a table, of all features, and of all but the last
    excess, shared_excess                   loss on the population less the least
    theory, shared_theory                   (counts): what regret tends to
    covariance                              (counts): ‖n Cov r̂ - F⁺‖ over its root mean square in Gaussian samples
    unfitted                                (counts): share of data sets without a fit
    kl_of_beta, kl_theory                   (betas): KL(π̂ || π*), of the most labels
    by_times                                (counts, times): mean regret at the price beta, trained at times x beta
    best_times                              (counts): where that is least
    spread_*                                standard deviation of a quantity over its mean, in theory
    """
    config = config or Config()
    phi, r, ref = world(config)
    wins, beta, n = population.bradley_terry_wins(r), config.beta, np.array(sorted(config.counts))
    rngs = streams(config.seed, config.replicates)
    data = np.stack([draw(wins, each, rngs) for each in n], axis=1)
    F = bradley_terry.fisher(r)
    cov, best = bradley_terry.covariance(F), optimum.boltzmann(ref, r, beta)
    S = np.diag(best) - np.outer(best, best)
    small = np.linalg.inv(phi.T @ F @ phi)  # of θ
    table, shared = fit(data), fit(data, phi)
    missing = fit(data, phi[:, :-1]) if config.features > 1 else np.full(table.shape, np.nan)
    fits = {"": table, "shared_": shared, "missing_": missing}
    regret = {f"{name}regret": lost(ref, r, r_hat, beta) for name, r_hat in fits.items()}
    excess = {f"{name}excess": _excess(r, fits[name], wins) for name in ("", "shared_")}
    theory = np.array([finite_data.regret(ref, wins, beta, float(each)) for each in n])
    tilted = [optimum.boltzmann(ref, r, b) for b in config.betas]
    curved = [np.trace((np.diag(p) - np.outer(p, p)) @ cov) for p in tilted]
    by_times = np.stack([average(lost(ref, r, table, beta * t, beta)) for t in config.times], axis=1)
    found = regret | excess | {
        "counts": n, "K": config.responses, "d": config.features, "theory": theory,
        "shared_theory": np.trace(phi.T @ S @ phi @ small) / (2 * beta * n), "reward": r, "ref": ref,
        "covariance": _covariances(table, cov, n), "unfitted": np.isnan(table[..., 0]).mean(axis=0),
        "betas": np.array(config.betas), "kl_theory": np.array(curved) / (2 * np.square(config.betas) * n[-1]),
        "kl_of_beta": np.stack([average(lost(ref, r, table[:, -1], b, b)) / b for b in config.betas]),
        "times": np.array(config.times), "by_times": by_times,
        "best_times": np.where(np.isfinite(by_times[:, 0]), np.array(config.times)[by_times.argmin(axis=1)], np.nan),
        "spread_excess": np.sqrt(2 / (config.responses - 1)), "spread_shared": np.sqrt(2 / config.features),
        "spread_regret": _spread(S, cov), "spread_shared_regret": _spread(phi.T @ S @ phi, small),
        "spread_kl": np.array([_spread(np.diag(p) - np.outer(p, p), cov) for p in tilted]),
    } | _rankings(r[:RANKED])
    last = {name: average(found[name])[-1] for name in REPLICATED}
    found |= {f"mean_{name}": value for name, value in last.items()} | {"tuned_times": found["best_times"][0]}
    return {name: np.asarray(x) for name, x in found.items()}


def _excess(r: Array, fitted: Array, wins: Array) -> Array:
    there = np.isfinite(fitted[..., :1])
    above: Array = population.objective(np.where(there, fitted, 0), wins, 1.0) - population.objective(r, wins, 1.0)
    return np.where(there[..., 0], above, np.nan)


def _covariances(fitted: Array, cov: Array, n: Array) -> Array:
    """Of R Gaussian samples E‖S - Σ‖² = (tr² Σ + tr Σ²)/R"""
    off = []
    for each, size in zip(np.moveaxis(fitted, 1, 0), n, strict=True):
        x = each[np.isfinite(each[:, 0])]
        typical = np.sqrt((np.trace(cov) ** 2 + np.trace(cov @ cov)) / max(len(x), 1))
        off.append(np.linalg.norm(size * np.cov(x.T) - cov) / typical if len(x) > 1 else np.nan)
    return np.array(off)


def _spread(S: Array, cov: Array) -> float:
    """√Var over mean of xᵀSx, x Gaussian: √(2 tr M²)/tr M, M = S cov"""
    M = S @ cov
    return float(np.sqrt(2 * np.trace(M @ M)) / np.trace(M))


def _rankings(r: Array) -> dict[str, Array]:
    """How many comparisons of random pairs have the information of a ranking, on average over the K - 1 directions"""
    K = len(r)
    every = np.array([*permutations(range(K))])

    def worth(r: Array) -> float:
        chance = np.exp(bradley_terry.ranking_log_probability(r, every))
        F = bradley_terry.ranking_fisher(r, every, chance)
        return float(np.trace(F @ bradley_terry.covariance(bradley_terry.fisher(r))) / (K - 1))

    return {"ranking_worth": np.array(worth(r)), "equals_worth": np.array(worth(np.zeros(K))),
            "equals_theory": np.array(2 * (K - (1 / np.arange(1, K + 1)).sum()))}


# ---- the experiment

def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number. Means are judged by four standard errors, those of theory"""
    n, R = result["counts"], len(result["regret"])
    K, d = int(result["K"]), int(result["d"])
    error = 4 / np.sqrt(R)
    regret, shared, missing = (average(result[f"{name}regret"]) for name in ("", "shared_", "missing_"))
    spread = result["spread_regret"]
    steps = np.log(n[-1] / n[-2]) if len(n) > 1 else np.nan
    slope = np.log(regret[-1] / regret[-2]) / steps if len(n) > 1 else np.nan
    stays = missing[-1] / missing[-2] if len(n) > 1 else np.nan
    off = (result["kl_of_beta"] / result["kl_theory"] - 1) / result["spread_kl"]
    rises = result["kl_of_beta"][result["betas"].argmin()] / result["kl_of_beta"][result["betas"].argmax()]
    return {
        "the covariance of √n r̂ is F⁺: distance, over that of Gaussian samples": below(result["covariance"][-1], 2),
        "excess loss of a table is (K-1)/(2n): ratio":
            near(2 * n[-1] * result["mean_excess"] / (K - 1), 1, error * result["spread_excess"]),
        "regret is tr(S F⁺)/(2βn): ratio": near(regret[-1] / result["theory"][-1], 1, error * spread),
        "it falls as 1/n: exponent": near(slope, -1, error * spread * np.sqrt(2) / steps),
        "KL to π* is tr(S F⁺)/(2β²n) at every β: largest deviation, in units of its spread":
            below(abs(off).max(), error),
        "a low β buys variance: KL to π* at the least β over that at the largest": above(rises, 10),
        "features leave d/(2n) of excess loss: ratio":
            near(2 * n[-1] * result["mean_shared_excess"] / d, 1, error * result["spread_shared"]),
        "regret of features is what theory says: ratio": near(
            shared[-1] / result["shared_theory"][-1], 1, error * result["spread_shared_regret"]),
        "sharing is worth labels: regret of the table over that of features": above(regret[-1] / shared[-1], 1.5),
        "features that cannot tell r leave what n does not touch: regret of the most labels over the number before":
            above(stays, 0.9),
        "and yet beat a table where labels are few: regret of the table over theirs": above(regret[0] / missing[0], 1),
        "few labels are best trained at more than the price: times β": above(result["best_times"][0], 1.1),
        "many at the price itself: times β": near(result["best_times"][-1], 1, within=0.26),
        "a ranking of K equals is worth 2 (K - H_K) pairs: ratio":
            near(result["equals_worth"] / result["equals_theory"], 1, 1e-12),
        "and that of unequals another number of them: |ratio - 1|":
            above(abs(result["ranking_worth"] / result["equals_theory"] - 1), 0.01),
    }


def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """Mean regret against n, of a table, of features and of too few, beside theory; returns the axes"""
    ax = axes(ax)
    n = result["counts"]
    shown = (("", "theory", POLICY, f"table, K = {int(result['K'])}"),
             ("shared_", "shared_theory", COLORS[3], f"{int(result['d'])} features"),
             ("missing_", None, COLORS[4], "one feature too few"))
    for name, theory, color, label in shown:
        regret = result[f"{name}regret"]
        mean = average(regret)
        error = 2 * np.sqrt(average((regret - mean) ** 2) / len(regret))
        ax.errorbar(n, mean, error, fmt="o", color=color, capsize=3, label=label)
        if theory:
            ax.plot(n, result[theory], color=color, lw=1.2)
    ax.plot([], [], color="k", lw=1.2, label="lines: what 1/n laws say")
    ax.set(xscale="log", yscale="log", xlabel="labels n", ylabel="regret J* - J, reward", title="Regret falls as 1/n")
    ax.legend(fontsize=9)
    return ax


def _beta(result: dict[str, Array], ax: Any = None) -> Any:
    """KL(π̂ || π*) of the most labels against β"""
    ax = axes(ax)
    beta, order = result["betas"], np.argsort(result["betas"])
    ax.loglog(beta[order], result["kl_theory"][order], color=OPTIMUM, lw=1.5, label="tr(S F⁺)/(2β²n)")
    ax.loglog(beta, result["kl_of_beta"], "o", color=POLICY, label=f"measured, n = {result['counts'][-1]:,}")
    ax.set(xlabel="β", ylabel="KL(π̂ || π*), nats", title="A low β buys variance")
    _ticks(ax, beta)
    ax.legend(fontsize=9)
    return ax


def _times(result: dict[str, Array], ax: Any = None) -> Any:
    """Regret at the price β, of trainings at multiples of it: over the least of each n"""
    ax = axes(ax)
    order = np.argsort(result["times"])
    for k, (n, mean) in enumerate(zip(result["counts"], result["by_times"], strict=True)):
        color = COLORS[(4, 1, 2, 5, 3, 6)[k % 6]]
        ax.loglog(result["times"][order], mean[order], "o-", ms=4, color=color, label=f"n = {n:,}")
        ax.loglog(result["best_times"][k], mean.min(), "o", ms=11, mfc="none", color=color)
    ax.set(xlabel="β of training, over the price of a nat", ylabel="regret at the price", ylim=(None, None),
           title="Few labels: train at more than the price")
    _ticks(ax, result["times"])
    ax.legend(fontsize=9)
    return ax


def _ticks(ax: Any, values: Array) -> None:
    ax.set_xticks(values, [f"{x:g}" for x in values])
    ax.set_xticks([], minor=True)


PANELS = (plot, _beta, _times)
