"""A loss is a voting rule: DPO on pairs drawn alike elects by Borda, in a cycle it stays at the reference, and what it
makes of several judges depends on whether their rewards or their labels are added.

Preferences are a matrix P[i, j] of the share of judges who prefer i to j, arbitrary, or a reward's. Four parts:

    votes      random P, K responses. All pairs alike: the order of log π/π_ref is that of Borda's score, Σⱼ P[i, j], as
               Σⱼ σ(β(uᵢ - uⱼ)) = Σⱼ P[i, j] at the minimum. Pairs drawn twice from μ: Borda's against μ, by DPO and IPO
               alike. Other weights: neither. Siththaranjan et al. 2023, arXiv:2312.08358
    cycle      0 beats 1 beats 2 beats 0: DPO and IPO stay, self-play (SPPO, arXiv:2405.00675) goes around Nash
    judges     two rewards r, s. Labels of λr + (1-λ)s; labels of r with probability λ, else of s; a geometric mixture
               of the policies of either (Zhou et al. 2023, arXiv:2310.03708; Shi et al. 2024, arXiv:2406.18853)
    verifier   a reward of 0 or 1: P(r = 1) after DPO on Bradley-Terry labels, on certain ones, GRPO's iteration (Mroueh
               2025, arXiv:2503.06639), best of n

DPO, IPO and KTO are trained, by gradient flow of the registry's losses, all else is `analytic`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dpo_numpy as dn
from analytic import optimum, population, sampling, temperature, voting
from dpo_numpy.losses import Loss
from dpo_numpy.numerics import log_softmax, sigmoid

from ._claims import Claim, above, below, near
from ._config import require, streams
from ._figure import COLORS, OPTIMUM, POLICY, REFERENCE, axes
from ._table_flow import Problems, train

__all__ = ["PANELS", "REPLICATED", "Config", "claims", "plot", "run"]

Array = NDArray[Any]

REPLICATED = ("order", "elected", "winner", "kto_losers", "dpo_losers", "combined", "mixed", "mixture", "naive")
WEIGHTS = ("all pairs alike", "pairs of μ", "other weights")
TIME, STEPS = 1e8, 40  # of training: to the minimum


@dataclass(frozen=True)
class Config:
    """Who votes, and how

    seed          of what is random
    replicates    random P, and random pairs of judges
    responses     of each
    beta          of DPO, and of J
    tau           of IPO, and of regularized Nash
    strength      P(0 beats 1) of the cycle
    eta, rounds   of self-play
    copies        of a response that all dislike, where clones vote
    lam           weight of the first judge
    spread        the second judge's β over the first's, of policies that are mixed
    success       P(r = 1) under the reference
    grpo_beta     of GRPO's iteration
    best_of       n of best of n
    group         responses to a prompt, of which none or all may be right
    """

    seed: int = 0
    replicates: int = 400
    responses: int = 5
    beta: float = 0.5
    tau: float = 0.5
    strength: float = 0.8
    eta: float = 0.5
    rounds: int = 200
    copies: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    lam: float = 0.4
    spread: float = 4.0
    success: float = 0.2
    grpo_beta: float = 3.0
    best_of: int = 4
    group: int = 8

    def __post_init__(self) -> None:
        require(self, positive=("beta", "tau", "eta", "spread", "success", "grpo_beta", "lam"),
                shares=("strength", "lam", "success"),
                least={"replicates": 2, "responses": 3, "rounds": 1, "copies": 0, "best_of": 1, "group": 1})


def trained(loss: Loss, wins: Array, ref: Array) -> Array:
    """Log-ratios (..., K) of mean 0 where the loss is least, wins (..., K, K)"""
    ref = np.broadcast_to(ref, wins.shape[:-1])
    told = Problems(wins, np.log(ref), ref, reward=np.zeros(ref.shape), length=np.ones(ref.shape))
    u = train(loss, told, TIME, STEPS) - told.told
    centered: Array = u - u.mean(axis=-1, keepdims=True)
    return centered


def _normed(weight: Array) -> Array:
    """Off the diagonal, of sum 1 over pairs"""
    weight = weight * ~np.eye(weight.shape[-1], dtype=bool)
    normed: Array = weight / (weight.sum(axis=(-2, -1), keepdims=True) / 2)
    return normed


def softmax(x: Array) -> Array:
    pi: Array = np.exp(log_softmax(x))
    return pi


# ---- votes

def _votes(config: Config, rngs: list[np.random.Generator]) -> dict[str, Array]:
    K = config.responses
    draws = [(rng.random((K, K)), rng.dirichlet(np.ones(K)), rng.random((K, K))) for rng in rngs]
    P, mu, W = (np.array(x) for x in zip(*draws, strict=True))
    upper = np.triu(np.ones((K, K), bool), 1)
    P = np.where(upper, P, np.where(upper.T, 1 - P.mT, 0.5))
    mu = (mu + 0.02) / (1 + 0.02 * K)  # none is never met
    weight = np.stack([np.ones(P.shape), mu[..., None] * mu[:, None, :], W + W.mT], axis=1)
    wins = _normed(weight) * P[:, None]
    dpo, ipo = (trained(loss, wins, np.full(K, 1 / K)) for loss in (
        dn.LOSSES["dpo"](beta=config.beta), dn.LOSSES["ipo"](tau=config.tau)))
    score = np.stack([voting.borda(P), voting.borda(P, mu), voting.borda(P)], axis=1)
    orders = [(np.argsort(u) == np.argsort(score)).all(axis=-1) for u in (dpo, ipo)]
    m = config.beta * (dpo[:, 0, :, None] - dpo[:, 0, None, :])
    linear = ipo[:, 1] - score[:, 1] / config.tau
    winner = voting.condorcet(P)
    losers = score[:, 0] < 0.5
    kto = trained(dn.LOSSES["kto"](beta=config.beta), wins[:, :1], np.full(K, 1 / K))[:, 0]
    share = {f"{name}_losers": (softmax(u) * losers).sum(axis=-1) for name, u in (("kto", kto), ("dpo", dpo[:, 0]))}
    return share | {
        "order": np.stack(orders, axis=-1), "winner": winner, "elected": dpo[:, 0].argmax(axis=-1),
        "moved": (np.argsort(score[:, 1]) != np.argsort(score[:, 0])).any(axis=-1).mean(),
        "borda_gap": abs(sigmoid(m).mean(axis=-1) - score[:, 0]).max(),
        "ipo_gap": np.ptp(linear, axis=-1).max(),
    }


EXAMPLE = np.array([[0.5, 0.6, 0.7], [0.4, 0.5, 1.0], [0.3, 0.0, 0.5]])  # 0 beats both, 1 beats 2 by more


def _clones(config: Config) -> dict[str, Array]:
    """log-odds of 0 over 1 when there are n copies of 2, which tie with each other; and what Nash gives 0"""
    gap, nash = [], []
    for n in config.copies:
        who = np.array([0, 1, *[2] * n])
        P = EXAMPLE[np.ix_(who, who)]
        u = trained(dn.LOSSES["dpo"](beta=1.0), _normed(np.ones(P.shape)) * P, np.full(len(who), 1 / len(who)))
        gap.append(u[0] - u[1])
        nash.append(voting.nash(P)[0])
    return {"copies": np.array(config.copies), "clone_gap": np.array(gap), "clone_nash": np.array(nash)}


# ---- cycle

def _cycle(config: Config) -> dict[str, Array]:
    s, ref = config.strength, np.array([0.5, 0.3, 0.2])
    P = np.array([[0.5, s, 1 - s], [1 - s, 0.5, s], [s, 1 - s, 0.5]])
    wins = _normed(np.ones((3, 3))) * P
    stays = [abs(trained(loss, wins, ref)).max() for loss in (
        dn.LOSSES["dpo"](beta=config.beta), dn.LOSSES["ipo"](tau=config.tau))]
    path, nash = voting.self_play(P, ref, config.eta, config.rounds), voting.nash(P)
    mean = path[:-1].mean(axis=0)
    return {"cycle_stays": np.array(stays), "cycle_ref": ref, "cycle_nash": nash, "cycle_path": path,
            "cycle_regularized": voting.regularized_nash(ref, P, config.tau),
            "cycle_kl": optimum.kl(nash, path), "cycle_mean": voting.exploitability(mean, P),
            "cycle_last": voting.exploitability(path[-1], P),
            "cycle_bound": np.array(-np.log(ref.min()) / (config.eta * config.rounds) + config.eta / 8)}


# ---- judges

STAKES = np.array([[3.0, 0.0], [-8.0, 0.0]])  # rewards: three of five judges are for 0 by 3, two are for 1 by 8

def _judges(config: Config, rngs: list[np.random.Generator]) -> dict[str, Array]:
    K, b = config.responses, config.beta
    lam = np.array([config.lam, 1 - config.lam])
    draws = [(rng.normal(size=(2, K)), rng.dirichlet(np.full(K, 3.0))) for rng in rngs]
    rewards, ref = (np.array(x) for x in zip(*draws, strict=True))
    total = (lam[:, None] * rewards).sum(axis=1)
    best = optimum.boltzmann(ref, total, b)
    labels = population.bradley_terry_wins(total), (
        lam[:, None, None] * population.bradley_terry_wins(rewards)).sum(axis=1)
    combined, mixed = (population.policy(trained(dn.LOSSES["dpo"](beta=b), wins, ref), ref) for wins in labels)
    betas = b * np.array([1.0, config.spread])
    own = np.array([optimum.boltzmann(ref, rewards[:, k], betas[k]) for k in range(2)])
    weight, at = temperature.mixture_weights(lam, betas)
    target = optimum.boltzmann(ref, total, at)
    off = {"combined": combined - best, "mixed": mixed - best,
           "mixture": temperature.geometric_mixture(ref, own, weight) - target,
           "naive": temperature.geometric_mixture(ref, own, lam) - target}
    labels_of = [0.6 * population.bradley_terry_wins(STAKES[0]) + 0.4 * population.bradley_terry_wins(STAKES[1]),
                 population.bradley_terry_wins(0.6 * STAKES[0] + 0.4 * STAKES[1])]
    odds = trained(dn.LOSSES["dpo"](beta=1.0), np.array(labels_of), np.full(2, 0.5))
    return {name: abs(x).max(axis=-1) for name, x in off.items()} | {
        "mixed_regret": b * optimum.kl(mixed, best).mean(), "ref_regret": b * optimum.kl(ref, best).mean(),
        "stakes": odds[:, 0] - odds[:, 1]}


# ---- verifier

def _verifier(config: Config, rng: np.random.Generator) -> dict[str, Array]:
    p0, b = config.success, config.beta
    r, ref = np.array([1.0, 1.0, 0.0, 0.0]), np.array([0.6 * p0, 0.4 * p0, 0.7 * (1 - p0), 0.3 * (1 - p0)])
    right = (np.sign(r[:, None] - r) + 1) / 2
    dpo, certain = (population.policy(trained(dn.LOSSES["dpo"](beta=b), wins, ref), ref) @ r for wins in (
        population.bradley_terry_wins(r), _normed(np.ones((4, 4))) * right))
    grpo = [_rest(start, p0, config.grpo_beta) for start in (p0, 1 - 1e-6)]
    p, pi = p0, ref
    for _ in range(400):  # the inner problem, of all four responses
        pi = optimum.boltzmann(ref, (r - pi @ r) / np.sqrt(pi @ r * (1 - pi @ r) + 1e-5), config.grpo_beta)
        p = float(pi @ r)
    grid = np.linspace(0.02, 0.98, 97)
    drawn = rng.random((20_000, config.group)) < p0
    return {
        "dpo_success": dpo, "dpo_certain": certain, "grpo_success": grpo[0], "grpo_sure": grpo[1],
        "grpo_iterated": np.array(p), "best_success": sampling.best_of_n(ref, r, config.best_of) @ r,
        "grid": grid, "grid_dpo": sampling.success_rate(grid, b),
        "grid_kl": sampling.success_rate(grid, config.grpo_beta),
        "grid_grpo": np.array([_rest(q, q, config.grpo_beta) for q in grid]),
        "grid_best": 1 - (1 - grid)**config.best_of,
        "silent": np.mean(drawn.all(axis=1) | ~drawn.any(axis=1)), "silent_draws": np.array(len(drawn)),
    }


def _rest(start: float, p0: float, beta: float) -> float:
    """NaN where the iteration swings for ever"""
    try:
        return float(sampling.grpo_limit(start, p0, beta))
    except ArithmeticError:
        return np.nan


# ---- the experiment

def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured, by name

    order (replicates, 3, 2)      whether the order of log-ratios is Borda's: of WEIGHTS, by DPO and by IPO
    elected, winner               DPO's first, all pairs alike; Condorcet's winner, or -1
    kto_losers, dpo_losers        π of responses that win less than half of their pairs
    moved                         share of P whose Borda order against μ is not that against all
    borda_gap, ipo_gap            |mean σ(βh) - Borda's score|, and the range of log-ratio - P(y ≻ μ)/τ, at most
    copies, clone_gap, clone_nash of response 2: log-odds of 0 over 1 by DPO, and what Nash gives 0
    cycle_*                       largest log-ratios of DPO and IPO; Nash policies; self-play's path, its KL from Nash,
                                  exploitability of its mean and of its last, and the bound on that of the mean
    combined, mixed               max |π - π*| by labels of the mean reward, and by mixed labels
    mixture, naive                the same by mixed policies, weights λβ/Σλβ, and λ
    mixed_regret, ref_regret      mean J(π*) - J(π), of mixed labels and of the reference
    stakes                        log-odds of 0 over 1 that DPO takes from votes, and from labels of the mean reward
    dpo_*, grpo_*, best_success   P(r = 1): by Bradley-Terry labels and certain ones; from `success`, from near 1, and
                                  by solving each inner problem; best of n. grid, grid_*: for other `success`
    silent, silent_draws          share of drawn groups whose rewards are all alike, groups drawn
    """
    config = config or Config()
    rngs = streams(config.seed, config.replicates)
    chance = np.random.default_rng([config.seed, config.replicates, 1])
    found = _votes(config, rngs) | _clones(config) | _cycle(config) | _judges(config, rngs) | _verifier(config, chance)
    missed = found["elected"] != found["winner"]
    there = found["winner"] >= 0
    scalars = {
        "broken": 1 - found["order"][:, 2, 0].mean(), "missed": missed[there].mean() if there.any() else np.nan,
        "mixed_error": np.median(found["mixed"]), "naive_error": np.median(found["naive"]),
        "success": config.success, "beta": config.beta, "group": config.group,
        "best_of": config.best_of, "grpo_beta": config.grpo_beta}
    return {name: np.asarray(x) for name, x in (found | scalars).items()}


def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    wrong = 1 - result["order"].mean(axis=0)
    p0, beta, group = (float(result[name]) for name in ("success", "beta", "group"))
    quiet = p0**group + (1 - p0)**group
    deviation = np.sqrt(quiet * (1 - quiet) / result["silent_draws"])
    path = result["cycle_kl"]
    copies, gap = result["copies"], result["clone_gap"]
    return {
        "all pairs alike: DPO and IPO order as Borda does: share of P where they do not": below(wrong[0].max(), 1e-12),
        "pairs of μ: DPO and IPO order as Borda does against μ: share of P where they do not": below(
            wrong[1].max(), 1e-12),
        "pairs of μ: who is met decides: share of P in another order than with all alike": above(result["moved"], 0.3),
        "other weights: DPO does not order as Borda does: share of P": above(wrong[2, 0], 0.3),
        "DPO does not always elect Condorcet's winner: share of P that have one": above(result["missed"], 0.01),
        "clones: without response 2 DPO is for 0, which beats 1: log-odds": above(
            max(gap[copies == 0], default=np.nan), 0.1),
        "clones: with copies of what 1 beats by more, for 1: log-odds with the most": below(gap[copies.argmax()], -0.1),
        "clones: Nash is for 0 however many there are: largest share of others": below(
            1 - result["clone_nash"].min(), 1e-9),
        "KTO drops what wins less than half: its largest share": below(result["kto_losers"].max(), 0.01),
        "DPO does not drop them: median share": above(np.median(result["dpo_losers"]), 0.01),
        "cycle: DPO and IPO stay at the reference: largest |log-ratio|": below(result["cycle_stays"].max(), 1e-12),
        "cycle: self-play leaves Nash at every step: least rise of KL(Nash || π)": above(np.diff(path).min(), 0),
        "cycle: but the mean of self-play's policies comes near Nash: exploitability over its bound": below(
            result["cycle_mean"] / result["cycle_bound"], 1),
        "judges: labels of λr + (1-λ)s make its π*: max |difference|": below(result["combined"].max(), 1e-9),
        "judges: labels of r or s do not: median of max |difference|": above(np.median(result["mixed"]), 0.01),
        "judges: policies mixed with weights λβ/Σλβ make its π* at β = Σλβ: max |difference|": below(
            result["mixture"].max(), 1e-12),
        "judges: mixed with weights λ they do not make that: median of max |difference|": above(
            np.median(result["naive"]), 0.01),
        "judges: votes count heads, 3 of 5 for 0 by 3 outvote 2 for 1 by 8: log-odds of 0": above(
            result["stakes"][0], 0.1),
        "judges: labels of the mean reward count stakes: log-odds of 0": near(result["stakes"][1], -1.4, 1e-9),
        "verifier: DPO on Bradley-Terry labels is at p e^{1/β}/(p e^{1/β} + 1 - p): |difference|": below(
            abs(result["dpo_success"] - p0 * np.exp(1 / beta) / (p0 * np.exp(1 / beta) + 1 - p0)), 1e-9),
        "verifier: on certain labels DPO leaves nothing wrong: 1 - P(r = 1)": below(1 - result["dpo_certain"], 1e-6),
        "verifier: GRPO's iteration ends above where it began: least rise": above(
            np.nanmin(result["grid_grpo"] - result["grid"]), 0),
        "verifier: GRPO's iteration, begun near 1, stays there: P(r = 1)": above(result["grpo_sure"], 0.999),
        "verifier: groups all right or all wrong have no advantage, and no pair: drawn share less predicted": below(
            abs(result["silent"] - quiet), float(4 * deviation)),
    }


# ---- pictures

def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """What copies of a response do to the order of two others; returns the axes"""
    ax = axes(ax)
    ax.axhline(0.5, color=REFERENCE, lw=1)
    ax.plot(result["copies"], result["clone_nash"], "s-", color=OPTIMUM, label="Nash")
    ax.plot(result["copies"], sigmoid(result["clone_gap"]), "o-", color=POLICY, label="DPO, β = 1: Borda's order")
    ax.set(xlabel="copies of response 2, which loses to 1 always, to 0 in 70 %", ylim=(0, 1.05),
           ylabel="share of 0, of what 0 and 1 have", title="60 % prefer 0 to 1")
    ax.set_xticks(result["copies"])
    ax.legend(fontsize=9, loc="center right")
    return ax


def _around(result: dict[str, Array], ax: Any = None) -> Any:
    """A cycle: DPO stays at the reference, self-play goes around Nash; corners are the responses"""
    ax = axes(ax)
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
    outline = corners[[0, 1, 2, 0]]
    ax.plot(*outline.T, color="black", lw=1)
    path = result["cycle_path"] @ corners
    ax.plot(*path.T, "-", color=POLICY, lw=1, label="self-play")
    for name, color, mark, label in (
            ("cycle_ref", REFERENCE, "o", "reference, DPO, IPO"),
            ("cycle_regularized", COLORS[1], "D", "regularized Nash"), ("cycle_nash", OPTIMUM, "*", "Nash")):
        ax.plot(*(result[name] @ corners), mark, color=color, ms=10, label=label, zorder=3)
    for k, (x, y) in enumerate(corners):
        ax.annotate(f"{k}", (x, y), textcoords="offset points", xytext=((-10, 0), (10, 0), (0, 6))[k], ha="center")
    ax.set(aspect="equal", xticks=[], yticks=[], title="0 beats 1 beats 2 beats 0", ylim=(-0.05, 0.95))
    ax.spines[:].set_visible(False)
    ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(0.72, 1.0))
    return ax


def _mixed(result: dict[str, Array], ax: Any = None) -> Any:
    """How far from π* of λr + (1-λ)s, sorted over problems"""
    ax = axes(ax)
    share = np.arange(1, len(result["mixed"]) + 1) / len(result["mixed"])
    for name, color, label in (("combined", OPTIMUM, "labels of λr + (1-λ)s"),
                               ("mixed", COLORS[4], "labels of r or of s"),
                               ("mixture", COLORS[3], "mixture of policies, λβ/Σλβ"),
                               ("naive", COLORS[1], "mixture of policies, λ")):
        ax.semilogx(np.maximum(np.sort(result[name]), 1e-17), share, color=color, label=label, lw=2)
    ax.set(xlabel="max |π - π*|", ylabel="share of problems below", title="Two judges", xlim=(5e-18, 1))
    ax.legend(fontsize=9, loc="center")
    return ax


def _success(result: dict[str, Array], ax: Any = None) -> Any:
    """P(right) after training against P(right) before"""
    ax = axes(ax)
    b = result["grpo_beta"]
    for name, color, style, label in (
            ("grid_best", COLORS[5], "-", f"best of {result['best_of']}"),
            ("grid_dpo", COLORS[3], "-", f"DPO, Bradley-Terry labels, β = {result['beta']:g}"),
            ("grid_grpo", COLORS[4], "-", f"GRPO's iteration from the reference, β = {b:g}"),
            ("grid_kl", COLORS[4], ":", f"E r - β KL, β = {b:g}"), ("grid", REFERENCE, "--", "reference")):
        ax.plot(result["grid"], result[name], style, color=color, label=label, lw=2)
    ax.set(xlabel="P(r = 1) under the reference", ylabel="P(r = 1) after", title="A verifier: rewards 0 and 1")
    ax.legend(fontsize=9, loc="lower right")
    return ax


PANELS = (plot, _around, _mixed, _success)
