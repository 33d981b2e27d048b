"""Length has a critical temperature: labels that gain λ a token have an optimum for β > λ/(-log ρ(T)) alone, towards
which E|y| grows without end; labels without any gain lengthen what is fitted to few of them, on average.

ρ(T) is the factor by which the reference's longer strings get rarer, a token. A bigram over two letters and an end,
whose expected lengths are sums over all strings; |y| counts the tokens before the end, while losses count the end too.
What fixes leave of a gain in the labels is the subject of `length_of_labels`. Here:

    length alone     E|y| against β, also of strings of at most L tokens, and of min(|y|, cap), which is bounded and has
                     no such β; DPO trained on short strings finds the optimum of all strings or, below β_c, no end
    coin flips       labels that know nothing, n of them: DPO's minimum is ref e^{r̂/β}/Z with noise r̂ of order 1/√n,
                     so that β√n alone counts. Symmetric noise lengthens more than it shortens, by tr(F⁻¹H)/(β²n) on
                     average, H the curvature of E|y| in the log-ratios, F their Fisher information; and where Z of
                     such a reward diverges, there is no minimum, and strings get ever longer
    two rewards      chosen shorter on average and the optimum longer, and the other way round; only for large β does
                     one decide on the other, as dE|y|/d(1/β) = Cov(|y|, r). On the way length falls first, then rises
    labels           quality, a sum over tokens in context, plus λ|y|: E|y| of the optimum at the config's β, and what
                     it loses of J of quality, which is β KL to the optimum of quality alone

Rafailov et al. 2023, arXiv:2305.18290.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from math import inf, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, softmax

import dpo_numpy as dn
from analytic import ngram, optimum

from ..ngram import NGram
from ..worlds import strings
from ._claims import Claim, above, below, near
from ._config import require, streams
from ._figure import COLORS, OPTIMUM, POLICY, REFERENCE, axes
from ._lengths import QUALITY, REF, TOKEN, drawn, every_short, fitted, lengths, limited_lengths, quantile, summed

__all__ = ["PANELS", "REPLICATED", "Config", "claims", "plot", "run"]

Array = NDArray[Any]

# rows: begin, a, b; columns: end, a, b
# chosen shorter and the optimum longer; chosen longer and the optimum shorter
TURNING = np.array([[[-1.0, 0.0, -1.2], [-0.7, -1.6, 0.9], [-1.2, -0.2, -1.8]],
                    [[-1.5, -0.7, 2.2], [-0.4, 0.2, -0.9], [2.1, 0.0, -0.3]]])
RADIUS = 0.4 + sqrt(0.06)  # of [[0.4, 0.3], [0.2, 0.4]]

# β√n of coin flips: mostly no optimum, mostly longer, hardly so, and where the curvature says it all
CLAIMED = (1.4, 4.2, 30.0, 100.0)

REPLICATED = ("coin_length", "coin_mirrored", "overshoot")


@dataclass(frozen=True)
class Config:
    """What labels gain by length, and what is fitted to them

    beta               reward that a nat of KL costs: of labels with the gain, and of coin flips
    lam                what labels gain a token, λ
    ratios             β/β_c of a reward of length alone
    longest            tokens of limited strings
    cap                of the bounded reward min(|y|, cap)
    letters            of the strings that losses are minimized on
    n                  labelled pairs of a data set
    widths             β√n of coin flips, and four more that claims are about
    turning_beta       of the two rewards whose labels say one thing and whose optimum does another
    steps              of each training
    replicates, seed   data sets, and what draws them
    """

    beta: float = 1.0
    lam: float = 0.5
    ratios: tuple[float, ...] = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.001, 1.003, 1.01, 1.02, 1.04, 1.07, 1.1, 1.15,
                                 1.3, 1.6, 2.0, 3.0)
    longest: int = 160
    cap: int = 5
    letters: int = 4
    n: int = 200
    widths: tuple[float, ...] = (2.2, 3.2, 6.5, 9.5, 14.1, 55.0)
    turning_beta: float = 0.3
    steps: int = 500
    replicates: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, positive=("beta", "ratios", "widths", "turning_beta"), nonnegative=("lam",),
                least={"longest": 1, "cap": 1, "letters": 2, "n": 20, "steps": 100, "replicates": 2})


# ---- length alone

def _alone(config: Config) -> dict[str, Array]:
    beta_c = ngram.critical_beta(REF, 1.0)
    betas = np.array(config.ratios) * beta_c
    tilt = TOKEN / betas[:, None, None]
    edge = 1.001 * beta_c
    pmf = ngram.length_pmf(REF)
    capped = np.minimum(np.arange(len(pmf)), config.cap)
    beyond = np.arange(len(pmf)) >= config.cap
    everywhere = optimum.boltzmann(pmf / pmf.sum(), capped / np.r_[betas, beta_c / 100][:, None], 1.0)
    return {
        "beta_c_token": np.array(beta_c), "ratio": np.array(config.ratios), "all_length": lengths(tilt),
        "limited_length": limited_lengths(tilt, config.longest), "longest": np.array(config.longest),
        "pinned": config.longest - limited_lengths(2 * TOKEN / beta_c, config.longest),
        "growth": lengths(TOKEN / edge) * (1 / beta_c - 1 / edge),
        "bounded_length": everywhere[:-1] @ np.arange(len(pmf)), "bounded_cold": everywhere[-1] @ np.arange(len(pmf)),
        "cap": np.array(config.cap), "bounded_limit": pmf[beyond] @ np.flatnonzero(beyond) / pmf[beyond].sum(),
    }


def _trained(config: Config) -> dict[str, Array]:
    """DPO of strings of at most three letters, rewarded by length, above β_c and below; four starts side by side"""
    policy, world = NGram(vocab=3), strings(3, 4, lambda y: float(len(y) - 1))
    pairs = world.population().with_reference(policy, {"W": np.log(REF)})
    start = np.log(REF) + 0.3 * np.random.default_rng(config.seed).normal(size=(4, 3, 3))
    beta_c = ngram.critical_beta(REF, 1.0)
    found = {}
    for name, ratio in (("warm", 1.5), ("cold", 0.8)):
        beta = ratio * beta_c
        walk = dn.train(policy, {"W": start}, repeat(pairs, config.steps), dn.LOSSES["dpo"](beta=beta),
                        dn.momentum(3.5 / beta**2, 0.9))
        half, end = (now.params["W"] for step, now in enumerate(walk, 1) if step in (config.steps // 2, config.steps))
        found[name] = np.array([_length(half), _length(end)])
        if name == "warm":
            best, _ = ngram.optimum(REF, TOKEN, beta)
            found["warm_kl"] = np.array([ngram.kl(p, best) for p in softmax(end, axis=-1)])
    return found


def _length(W: Array) -> Array:
    """E|y| of tables of logits (..., 3, 3)"""
    return lengths(log_softmax(W, axis=-1) - np.log(REF))


# ---- coin flips

def _coins(config: Config) -> dict[str, Array]:
    noise, judged = [], []
    for rng in streams(config.seed, config.replicates):
        pairs = summed(drawn(2 * config.n, rng)).reshape(config.n, 2, 9)
        apart, u = pairs[:, 0] - pairs[:, 1], rng.random((2, config.n, 1))
        noise.append(np.where(u[0] < 0.5, apart, -apart))
        judged.append(np.where(u[1] < expit(apart @ TURNING[0].reshape(9, 1)), apart, -apart))
    reward, learned = fitted(np.array(noise)), fitted(np.array(judged))
    widths = np.union1d(config.widths, CLAIMED)
    tilt = sqrt(config.n) * reward[:, None] / widths[:, None, None]
    own, mirrored = lengths(tilt), lengths(-tilt)
    here = lengths(reward / config.beta)
    overshoot = lengths(learned / config.turning_beta)
    here = here[~np.isnan(here)] if not np.isnan(here).all() else np.full(1, np.nan)
    return {
        "width": widths, "coin_length": own, "coin_mirrored": mirrored,
        "median_length": quantile(here, 0.5), "share_longer": np.mean(here > lengths(np.zeros((3, 3)))),
        "share_endless": np.mean(here == inf), "overshoot": overshoot,
        "share_overshoot_endless": np.mean(overshoot == inf),
        "excess_limit": _excess(),
    }


def _excess() -> Array:
    """tr(F⁻¹H): β²n times what coin flips add to E|y| on average; the covariance of r̂ is 2F⁻¹/n"""
    basis, h = np.eye(9), 1e-3
    # θ with E_ref θ = 0 in each context: of such log-ratios F is the information of one string
    tangent = (basis.reshape(9, 3, 3) - (basis.reshape(9, 3, 3) * REF).sum(axis=-1, keepdims=True)).reshape(9, 9)

    def moved(a: float, b: float) -> Array:
        return lengths(h * (a * tangent[:, None] + b * tangent).reshape(9, 9, 3, 3))

    H = (moved(1, 1) - moved(1, -1) - moved(-1, 1) + moved(-1, -1)) / (4 * h * h)
    F = np.zeros((9, 9))
    for row, block in enumerate(ngram.fisher(REF)):
        F[3 * row:3 * row + 3, 3 * row:3 * row + 3] = block
    excess: Array = np.trace(np.linalg.pinv(F, rcond=1e-10, hermitian=True) @ H)
    return excess


# ---- two rewards

def _two_rewards(config: Config) -> dict[str, Array]:
    short = every_short(config.letters)
    beta, policy, start = config.turning_beta, NGram(vocab=3), {"W": np.log(REF)}
    reward = short.summed @ TURNING.reshape(2, 9, 1)
    i, j = short.pairs
    longer = short.length[i] - short.length[j]
    # in expectation over a label, chosen less rejected is (2p - 1) of first less second
    gap = np.tanh((reward[:, i, 0] - reward[:, j, 0]) / 2) @ (short.met * longer)
    known = dict(zip(short.texts, reward[0, :, 0].tolist(), strict=True))
    world = strings(3, config.letters + 1, lambda y: known[tuple(y[:-1])])
    pairs = world.population(short.ref).with_reference(policy, start)
    marks = {round(step) for step in np.geomspace(1, config.steps, 40)}
    walk = dn.train(policy, start, repeat(pairs, config.steps), dn.LOSSES["dpo"](beta=beta), dn.sgd(3.6 / beta**2))
    kept = [(0, start["W"])] + [(step, now.params["W"]) for step, now in enumerate(walk, 1) if step in marks]
    step, W = zip(*kept, strict=True)
    hot, betas = 1e4, beta * np.geomspace(1, 300, 60)
    covariance = [(ngram.variance(REF, TOKEN + r) - ngram.variance(REF, TOKEN - r)) / 4 for r in TURNING]
    return {
        "chosen_longer": gap, "turning_length": lengths(TURNING / beta), "turning_betas": betas,
        "turning_lengths": lengths(TURNING / betas[:, None, None, None]),
        "path": np.column_stack([step, _length(np.array(W))]),
        "hot_change": hot * (lengths(TURNING / hot) - lengths(np.zeros((3, 3)))), "covariance": np.array(covariance),
    }


# ---- labels with a gain

def _gain(config: Config) -> dict[str, Array]:
    """NaN where there is no optimum"""
    beta, gained = config.beta, QUALITY + config.lam * TOKEN
    found = {"beta": beta, "beta_c": ngram.critical_beta(REF, gained), "mean_length_ref": ngram.expected_length(REF)}
    found |= dict.fromkeys(("mean_length", "mean_length_quality", "regret_quality", "kl_quality"), np.nan)
    if beta > ngram.critical_beta(REF, QUALITY):
        best, log_z = ngram.optimum(REF, QUALITY, beta)
        found["mean_length_quality"] = ngram.expected_length(best)
        if beta > found["beta_c"]:
            pi, _ = ngram.optimum(REF, gained, beta)
            found |= {"mean_length": ngram.expected_length(pi), "kl_quality": ngram.kl(pi, best),
                      "regret_quality": beta * log_z - ngram.value(pi, REF, QUALITY, beta)}
    return {name: np.array(value) for name, value in found.items()}


# ---- the experiment

def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured, by name; lengths in tokens before the end, of all strings unless limited

    beta_c                        of labels with the gain; beta_c_token: of a reward of 1 a token
    mean_length                   of their optimum, NaN where there is none; mean_length_ref, _quality: of the
                                  reference, and of the optimum of quality alone
    regret_quality, kl_quality    of their optimum: J*(quality) - J, and KL from the optimum of quality
    all_length, limited_length    at each ratio: inf where there is no optimum; of limited strings; bounded_length
    warm, cold                    of training at 1.5 and 0.8 β_c: (after half of the steps and all, starts)
    coin_length, coin_mirrored    (replicates, widths), and of the same data with every label turned round
    median_length, share_longer   of coin flips at the config's β and n; share_endless: of data without an optimum
    overshoot                     of n labels of the first of the two rewards, (replicates,), and
    share_overshoot_endless       of data without an optimum
    chosen_longer                 E|chosen| - E|rejected| of pairs of short strings, two rewards
    turning_length                of their optima, and turning_lengths: at turning_betas
    path                          (step, E|y|)
    """
    config = config or Config()
    parts = _alone(config), _trained(config), _coins(config), _two_rewards(config), _gain(config)
    return {name: np.asarray(value) for part in parts for name, value in part.items()}


def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    found: dict[str, Claim] = {}
    ref = result["mean_length_ref"]
    beta_c = -1 / log(RADIUS)
    found["length alone has a critical β, λ/(-log ρ(T)): β_c for λ = 1"] = near(result["beta_c_token"], beta_c, 1e-10)
    found["towards β_c, E|y| grows as 1/(λ/β_c - λ/β): their ratio at 1.001 β_c"] = near(result["growth"], 1, 0.02)
    found["below β_c, limited strings are as long as they may be: L - E|y| at β_c/2"] = near(
        result["pinned"], 1 / (1 / RADIUS - 1), 1e-9)
    found["a bounded reward has no critical β: E|y| at β_c/100"] = near(
        result["bounded_cold"], result["bounded_limit"], 1e-9)
    found["above β_c, DPO of short strings ends at the optimum of all: largest KL"] = below(
        result["warm_kl"].max(), 1e-10)
    found["below β_c, such training never ends: least gain of E|y| in its second half"] = above(
        (result["cold"][1] - result["cold"][0]).min(), 30)

    rows = [int(np.flatnonzero(result["width"] == width)[0]) for width in CLAIMED]
    own, mirrored = (result[name][:, rows].T for name in ("coin_length", "coin_mirrored"))
    sigmas = (np.mean(own[1] > ref) - 0.5) * 2 * sqrt(len(own[1]))
    found["coin flips lengthen while β√n is 4.2: longer data sets less half, in standard errors"] = above(sigmas, 3)
    found["coin flips hardly do while β√n is 30: |median E|y|/reference - 1|"] = below(
        abs(quantile(own[2], 0.5) / ref - 1), 0.02)
    found["coin flips may leave no optimum: share at β√n = 1.4 less that at 30"] = above(
        np.mean(own[0] == inf) - np.mean(own[2] == inf), 0.3)
    with np.errstate(divide="ignore", invalid="ignore"):
        wide, widest = np.log((own[2:] + mirrored[2:]).mean(axis=1) / 2 - ref)
        exponent = (wide - widest) / log(CLAIMED[2] / CLAIMED[3])
    found["what coins and the same coins turned over add to E|y| falls as 1/(β²n): exponent of β√n"] = near(
        exponent, -2, 0.05)

    gap, turned = result["chosen_longer"], result["turning_length"] - ref
    contrary = min(-gap[0], turned[0], gap[1], -turned[1])
    found["shorter chosen may lengthen, longer shorten: least of four differences, tokens"] = above(contrary, 0.3)
    agreeing = (np.sign(gap) * result["hot_change"]).min()
    found["at large β the optimum follows the chosen: least change of β E|y| in the direction of the chosen"] = above(
        agreeing, 0.1)
    ratio = result["hot_change"] / result["covariance"]
    found["at large β E|y| moves by Cov(|y|, r)/β: ratio of both, farthest from 1"] = near(
        ratio[abs(ratio - 1).argmax()], 1, 1e-3)
    path = result["path"][:, 1]
    found["length may fall first and rise later: least of both changes, tokens"] = above(
        min(ref - path.min(), path[-1] - ref), 0.5)

    found["what a gain in the labels costs is a distance: regret less β KL"] = near(
        result["regret_quality"], result["beta"] * result["kl_quality"], 1e-10)
    return found


# ---- pictures

def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """E|y| against β/β_c of a reward of length alone; returns the axes"""
    ax = axes(ax)
    order = np.argsort(result["ratio"])
    ratio, every, limited, bounded = (result[name][order] for name in (
        "ratio", "all_length", "limited_length", "bounded_length"))
    ax.axvline(1, color="black", lw=1, ls=":")
    ax.axhline(result["mean_length_ref"], color=REFERENCE, lw=1, ls="--", label="reference")
    ax.loglog(ratio[ratio > 1], every[ratio > 1], "o-", ms=4, color=OPTIMUM, label="optimum over all strings")
    ax.loglog(ratio, limited, color=COLORS[2], label=f"optimum over at most {result['longest']} tokens")
    ax.loglog(ratio, bounded, color=COLORS[1], label=f"reward bounded: min(|y|, {result['cap']})")
    ax.set_xticks(ticks := [x for x in (0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10) if ratio[0] <= x <= ratio[-1]],
                  [f"{x:g}" for x in ticks])
    ax.minorticks_off()
    ax.annotate("no optimum", (0.97, 1.2), ha="right", fontsize=9)
    ax.set(xlabel="β / β_c", ylabel="E|y|, tokens", title="Length has a critical temperature", ylim=(1, None))
    ax.legend(fontsize=8, loc="upper right")
    return ax


def _coin_flips(result: dict[str, Array], ax: Any = None) -> Any:
    """E|y| of what is fitted to coin flips, quantiles of data sets, against β√n"""
    ax = axes(ax)
    width, every = result["width"], result["coin_length"]
    ref, top = result["mean_length_ref"], 100.0
    low, middle, high = (np.minimum(quantile(every, share), 2 * top) for share in (0.1, 0.5, 0.9))
    ax.fill_between(width, low, high, color=POLICY, alpha=0.25, lw=0, label="80% of data sets")
    ax.loglog(width, middle, "o-", ms=4, color=POLICY, label="median")
    ax.loglog(width, ref + result["excess_limit"] / width**2, color="black", lw=1, ls="--",
              label="mean at large β√n, tr(F⁻¹H)/(β²n)")
    ax.axhline(ref, color=REFERENCE, lw=1, ls="--", label="reference")
    for x, share in zip(width, np.mean(every == inf, axis=0), strict=True):
        if share > 0.01:
            ax.annotate(f"{share:.0%}", (x, top), ha="center", va="top", fontsize=8)
    ax.set(xlabel="β√n  (percent: data sets without an optimum)", ylabel="E|y|, tokens", ylim=(1, top),
           title="Labels that know nothing lengthen")
    ax.legend(fontsize=8, loc="center right")
    return ax


def _path(result: dict[str, Array], ax: Any = None) -> Any:
    """E|y| on the way, where chosen responses are the shorter ones"""
    ax = axes(ax)
    step, length = result["path"].T
    ax.plot(np.maximum(step, 0.7), length, "o-", ms=3, color=POLICY, label="DPO, exact population")
    ax.axhline(result["mean_length_ref"], color=REFERENCE, lw=1, ls="--", label="reference")
    ax.axhline(result["turning_length"][0], color=OPTIMUM, lw=1, ls="--", label="optimum")
    ax.set(xscale="log", xlabel="gradient steps (reference at the left edge)", ylabel="E|y|, tokens", ylim=(0, None),
           title=f"Chosen are shorter by {-result['chosen_longer'][0]:.2f} tokens on average")
    ax.legend(fontsize=8, loc="lower right")
    return ax


def _turning(result: dict[str, Array], ax: Any = None) -> Any:
    """E|y| of the optima of two rewards against β, whose chosen are shorter and longer on average"""
    ax = axes(ax)
    for gap, mean, color in zip(result["chosen_longer"], result["turning_lengths"].T, COLORS[1:3], strict=True):
        word = "longer" if gap > 0 else "shorter"
        ax.semilogx(result["turning_betas"], mean, color=color, label=f"optimum; chosen {abs(gap):.2f} tokens {word}")
    ax.axhline(result["mean_length_ref"], color=REFERENCE, lw=1, ls="--", label="reference")
    ax.set(xlabel="β, reward a nat", ylabel="E|y|, tokens", ylim=(0, None),
           title="Which responses win says how long the policy gets at large β alone")
    ax.legend(fontsize=8, loc="upper right")
    return ax


PANELS = (plot, _coin_flips, _path, _turning)
