"""Flipped labels bias DPO however many there are; a loss that knows the flips does not, and few labels do not repay it.

Each label is reported as its opposite with probability ε. What that does to each loss, at its optimum:

    DPO      of two responses m = logit((1-ε)σ(Δ) + ε σ(-Δ)); of more, nearly training at β/(1-2ε)
    cDPO     adds flips of its own: cDPO of clean labels is DPO of flipped ones    (Mitchell 2023)
    rDPO     π* where it assumes the right ε, another policy where it does not     (Chowdhury et al. 2024, 2403.00409)
    IPO      its log-ratios times 1-2ε, exactly: as if τ were τ/(1-2ε)              (Azar et al. 2023, 2310.12036)

A reward model smooths no noise: it and DPO make one policy of the same labels. What smooths is sharing, features in
place of a table, and that leaves the bias where it is.

n labels: the regret of rDPO falls as tr(S F⁺VF⁺)/(2βn), V the scatter of its corrected slopes, each by 1/(1-2ε) larger;
that of DPO falls to its bias. Below some n the bias is the smaller. And on few labels rDPO may have no optimum: it has
one if and only if every group of responses loses to the others, in corrected counts. Averages are over the data sets in
which all losses have an optimum, so that they compare the same labels; `unbounded` says how many rDPO is missing in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

import dpo_numpy as dn
from analytic import graph, loglinear, minimizers, optimum, population

from ..linear import LogLinear
from ..tabular import Tabular
from ..worlds import bandit
from ._claims import Claim, above, below, near
from ._config import require, streams
from ._figure import COLORS, OPTIMUM, POLICY, REFERENCE, axes
from ._fits import average, draw, fit, has_fit, lost, waves

__all__ = ["METHODS", "PANELS", "REPLICATED", "Config", "claims", "corrected", "flipped", "plot", "run", "world"]

Array = NDArray[Any]

#: what is fitted to the labels
METHODS = ("DPO", "cDPO", "rDPO", "IPO", "DPO at β(1-2ε)", "DPO, features", "rDPO, features")
TABLES = METHODS[:5]
REPLICATED = ("regret", "curve")
STEPS = 120  # of each training
SCALARS = ("dpo", "cdpo", "rdpo", "ipo", "lower_beta", "shared", "shared_rdpo")  # names of METHODS for tables


@dataclass(frozen=True)
class Config:
    """The world, its labels, and what the losses assume of them

    flip         ε, the probability that a label is reported as its opposite
    assumed      what cDPO, rDPO and DPO at β(1-2ε) take it for
    n            labels of the data sets that single numbers are of
    beta         nats of reward that a nat of KL costs; IPO has τ = β/4, with which it is DPO where labels are even
    responses    K
    features     d: what tells the rewards of all
    spread       standard deviation of the rewards over the responses, nats
    flips        of the grid, in which the losses assume what is
    assumptions  of rDPO, where `flip` is
    counts       numbers of labels, of the grid and of all curves
    replicates   data sets of each
    seed         of the labels
    """

    seed: int = 0
    flip: float = 0.2
    assumed: float = 0.2
    n: int = 1000
    beta: float = 0.5
    responses: int = 6
    features: int = 2
    spread: float = 0.7
    flips: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4)
    assumptions: tuple[float, ...] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
    counts: tuple[int, ...] = (100, 300, 1000, 3000, 10000)
    replicates: int = 300

    def __post_init__(self) -> None:
        require(self, positive=("beta", "spread"), shares=("flip", "assumed", "flips", "assumptions"),
                least={"n": 1, "responses": 2, "features": 1, "counts": 1, "replicates": 2})
        for name in ("flip", "assumed", "flips", "assumptions"):
            for x in np.atleast_1d(getattr(self, name)):
                if x >= 0.5:
                    raise ValueError(f"{name} is {x:g}; expected below 0.5, where labels still say something")
        if self.responses > 12:
            raise ValueError(f"responses is {self.responses}; expected at most 12, as all groups of them are tried")
        waves(self.responses, self.features, self.spread)


def world(config: Config) -> tuple[Array, Array, Array]:
    """Features (K, d), waves over the responses; rewards in their span; a reference that often says what earns little

    >>> [x.shape for x in world(Config())]
    [(6, 2), (6,), (6,)]
    """
    often = 1 / np.arange(1, config.responses + 1)
    return *waves(config.responses, config.features, config.spread), often / often.sum()


def flipped(wins: Array, eps: float) -> Array:
    """(1-ε) wins + ε winsᵀ: labels reported as their opposites; so does cDPO with its own

    >>> flipped(np.array([[0.0, 1.0], [0.0, 0.0]]), 0.25).tolist()
    [[0.0, 0.75], [0.25, 0.0]]
    """
    mixed: Array = (1 - eps) * wins + eps * wins.mT
    return mixed


def corrected(wins: Array, eps: float) -> Array:
    """((1-ε) wins - ε winsᵀ)/(1-2ε), the inverse of `flipped`: what rDPO fits, below 0 where labels are too sure

    >>> corrected(np.array([[0.0, 0.75], [0.25, 0.0]]), 0.25).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    mixed: Array = ((1 - eps) * wins - eps * wins.mT) / (1 - 2 * eps)
    return mixed


def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured, by name; regrets are J* - J, rows of methods as in `method`

    regret, curve      (replicates, methods), (replicates, counts, methods) at `flip` and `assumed`: NaN without optimum
    mean_regret, mean_curve   of those data sets in which every table has an optimum
    dpo_regret ...     of `mean_regret`: cdpo, rdpo, ipo, lower_beta, shared, shared_rdpo;  no_mle, unbounded: shares of
                       data sets in which DPO has no optimum, and in which rDPO has none though DPO has
    grid               (flips, counts, methods): as mean_curve, each loss told ε;  grid_unbounded (flips, counts)
    assuming           (assumptions, counts): mean regret of rDPO;  assuming_bias: of the population;  best_assumption
                       (counts): that of least mean regret;  assuming_unbounded: share without an optimum
    bias               (methods): regret of the population at `flip`;  bias_of_flips (flips, methods)
    theory             (counts): what rDPO's regret tends to, NaN where `assumed` is not `flip`;  theory_spread: its
                       standard deviation over its mean
    worth              how many clean labels a flipped one is worth to rDPO;  equals_worth: (1-2ε)², of equal rewards
    disagree           data sets where Newton's method and the criterion of groups differ about rDPO's optimum
    same_*             max |difference| of probabilities, of two ways to one policy
    """
    config = config or Config()
    phi, r, ref = world(config)
    clean = population.bradley_terry_wins(r)

    def regrets(wins: Array, assumed: float) -> Array:
        """(..., methods)"""
        return np.stack([lost(ref, r, x, config.beta) for x in _fits(wins, phi, config, assumed)], axis=-1)

    rows = [_drawn(clean, flip, assumed, config, regrets) for flip, assumed in
            [(config.flip, config.assumed), *((flip, flip) for flip in config.flips)]]
    main, *others = rows
    found: dict[str, Any] = {
        "method": np.array(METHODS), "counts": np.array(config.counts), "flips": np.array(config.flips),
        "true_flip": config.flip, "assumed_flip": config.assumed, "reward": r, "ref": ref,
        "regret": main["regret"][:, 0], "curve": main["regret"][:, 1:], "mean_regret": main["mean"][0],
        "mean_curve": main["mean"][1:], "no_mle": main["no_mle"][0], "unbounded": main["unbounded"][0],
        "curve_unbounded": main["unbounded"][1:], "grid": np.stack([row["mean"][1:] for row in others]),
        "grid_unbounded": np.stack([row["unbounded"][1:] for row in others]),
        "disagree": sum(row["disagree"] for row in rows),
    }
    found |= {f"{name}_regret": x for name, x in zip(SCALARS, found["mean_regret"], strict=True)}
    found |= _population(clean, config, regrets) | _assumed(clean, r, ref, config) | _theory(r, ref, config)
    found |= _identities(config, clean, r, ref, phi)
    return {name: np.asarray(x) for name, x in found.items()}


def _fits(wins: Array, phi: Array, config: Config, assumed: float) -> list[Array]:
    """Of each of METHODS the rewards, in nats at β, that its policy is optimal for: (..., K), NaN where it has none"""
    dpo, right = fit(wins), corrected(wins, assumed)
    return [dpo, fit(flipped(wins, assumed)), fit(right), ipo_rewards(wins, config.beta), dpo / (1 - 2 * assumed),
            fit(wins, phi), fit(right, phi)]


def ipo_rewards(wins: Array, beta: float) -> Array:
    """β log π/π_ref of IPO with τ = β/4, of mean 0: NaN where the comparisons do not connect all responses

    >>> ipo_rewards(np.array([[[0.0, 3.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]), 0.5).round(6)
    array([[ 0.5, -0.5],
           [ nan,  nan]])
    """
    u, connected = np.full(wins.shape[:-1], np.nan), np.equal(graph.components(wins).max(axis=-1), 0)
    if connected.any():
        flat = np.full(wins.shape[-1], 1 / wins.shape[-1])
        log_ratio = np.log(minimizers.ipo_pairs(flat, wins[connected], beta / 4))
        u[connected] = beta * (log_ratio - log_ratio.mean(axis=-1, keepdims=True))
    return u


# ---- n labels

def _drawn(clean: Array, flip: float, assumed: float, config: Config, regrets: Callable[..., Array]) -> dict[str, Any]:
    """Of n, then of each of `counts`: regret (replicates, counts + 1, methods), its mean, and what has no optimum"""
    rngs = streams(config.seed, config.replicates)
    wins = np.stack([draw(flipped(clean, flip), n, rngs) for n in (config.n, *config.counts)], axis=1)
    regret = regrets(wins, assumed)
    none = np.isnan(regret)
    every = ~none[..., :len(TABLES)].any(axis=-1)
    without = none[..., METHODS.index("rDPO")]
    return {"regret": regret, "mean": average(np.where(np.asarray(every)[..., None], regret, np.nan)),
            "no_mle": none[..., 0].mean(axis=0), "unbounded": (without & ~none[..., 0]).mean(axis=0),
            "disagree": int((has_fit(corrected(wins, assumed)) == without).sum())}


def _assumed(clean: Array, r: Array, ref: Array, config: Config) -> dict[str, Array]:
    """rDPO at each assumption, of the same labels, mean over those that leave it an optimum, fewer if more flips"""
    rngs = streams(config.seed, config.replicates)
    wins = np.stack([draw(flipped(clean, config.flip), n, rngs) for n in config.counts], axis=1)
    regret = np.stack([lost(ref, r, fit(corrected(wins, a)), config.beta) for a in config.assumptions])
    told, mean = flipped(clean, config.flip), np.stack([average(each) for each in regret])
    bias = np.array([lost(ref, r, fit(corrected(told, a)), config.beta) for a in config.assumptions])
    return {"assumptions": np.array(config.assumptions), "assuming_bias": bias,
            "assuming": mean, "best_assumption": np.array(config.assumptions)[np.where(
                np.isfinite(mean), mean, np.inf).argmin(axis=0)],
            "assuming_unbounded": np.isnan(regret).mean(axis=1)}


def _theory(r: Array, ref: Array, config: Config) -> dict[str, Any]:
    """A label for i moves rDPO's slope in rᵢ - rⱼ by -(σ(-m) + c), one for j by σ(m) + c, c = ε/(1-2ε)"""
    best = optimum.boltzmann(ref, r, config.beta)
    S = np.diag(best) - np.outer(best, best)
    K = len(r)
    W = np.full((K, K), 2 / (K * (K - 1))) * (1 - np.eye(K))
    P = expit(r[:, None] - r)
    F_inverse = graph.pseudoinverse(W * P * P.mT)

    def noise(eps: float) -> Array:
        q = (1 - eps) * P + eps * P.mT
        pull = q * (P.mT + eps / (1 - 2 * eps)) ** 2
        return F_inverse @ graph.laplacian(W * (pull + pull.mT)) @ F_inverse

    M = S @ noise(config.flip)
    price = float(np.trace(M)) if config.assumed == config.flip else np.nan
    return {"theory": price / (2 * config.beta * np.array(config.counts)),
            "theory_spread": np.sqrt(2 * np.trace(M @ M)) / np.trace(M),
            "worth": np.trace(S @ noise(0.0)) / np.trace(M), "equals_worth": (1 - 2 * config.flip) ** 2}


# ---- all labels

def _population(clean: Array, config: Config, regrets: Callable[..., Array]) -> dict[str, Any]:
    def bias(flip: float, assumed: float) -> Array:
        return regrets(flipped(clean, flip), assumed)

    here = bias(config.flip, config.assumed)
    return {"bias": here, "bias_of_flips": np.stack([bias(flip, config.assumed) for flip in config.flips]),
            "dpo_bias": here[0], "rdpo_bias": here[2]}


def _identities(config: Config, clean: Array, r: Array, ref: Array, phi: Array) -> dict[str, Any]:
    """Two ways to one policy: max |difference of probabilities|. Losses of the registry are trained, not solved."""
    eps, beta, told = config.flip, config.beta, flipped(clean, config.flip)

    def policy(x: Array) -> Array:
        return optimum.boltzmann(ref, x, beta)

    def apart(p: Array, q: Array) -> float:
        return float(abs(p - q).max())

    table, start, zero = Tabular(len(r)), {"W": np.log([ref])}, {"W": np.zeros((1, len(r)))}

    def trained(wins: Array, loss: dn.Loss) -> Array:
        step = population.linear_rate(population.hessian(zero["W"][0], wins, beta)).best_step
        batches = repeat(_pairs(wins).with_reference(table, start))
        u: Array = _last(dn.train(table, start, batches, loss, dn.sgd(step)))["W"][0] - start["W"][0]
        return u

    cdpo = trained(clean, dn.LOSSES["cdpo"](beta=beta, eps=eps))
    rdpo = trained(told, dn.LOSSES["rdpo"](beta=beta, eps=eps))
    drawn = draw(told, config.n, streams(config.seed, 1))[0] / config.n
    step = population.linear_rate(population.hessian(zero["W"][0], drawn, 1.0)).best_step
    judge = _last(dn.train_reward_model(table, zero, repeat(_pairs(drawn)), dn.sgd(step)))["W"][0]
    raw, tilted, theta = LogLinear(phi), LogLinear(phi, base=np.log([ref])), {"theta": np.zeros(phi.shape[1])}
    curved = np.linalg.eigvalsh(loglinear.hessian(theta["theta"], phi, drawn, 1.0))
    step = 2 / (curved[0] + curved[-1])
    judged = _last(dn.train_reward_model(raw, theta, repeat(_pairs(drawn)), dn.sgd(step)))["theta"]
    dpo = _last(dn.train(tilted, theta, repeat(_pairs(drawn).with_reference(tilted, theta)),
                         dn.LOSSES["dpo"](beta=beta), dn.sgd(step / beta**2)))["theta"]
    two = fit(flipped(population.bradley_terry_wins([config.spread, -config.spread]), eps))
    return {
        "same_table": apart(policy(judge), policy(beta * trained(drawn, dn.LOSSES["dpo"](beta=beta)))),
        "same_features": apart(policy(phi @ judged), policy(beta * phi @ dpo)),
        "other_features": apart(policy(phi @ judged), policy(judge)),
        "same_cdpo": apart(policy(beta * cdpo), policy(fit(told))), "same_rdpo": apart(policy(beta * rdpo), policy(r)),
        "same_ipo": apart(policy(ipo_rewards(told, beta)), policy((1 - 2 * eps) * ipo_rewards(clean, beta))),
        "same_two": abs(two[0] - two[1] - minimizers.cdpo_margin(expit(2 * config.spread), eps))}


def _pairs(wins: Array) -> dn.Preferences:
    index = np.argwhere(wins > 0)
    return dn.Preferences(bandit([np.zeros(len(wins))]).responses, index, wins[tuple(index.T)])


def _last(steps: Iterator[Any]) -> dict[str, Array]:
    *_, end = islice(steps, STEPS)
    params: dict[str, Array] = end.params
    return params


# ---- the experiment

def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    of = {name: k for k, name in enumerate(METHODS)}
    curve, bias, counts = result["mean_curve"], result["bias"], result["counts"]
    few, many = curve[counts.argmin()], curve[counts.argmax()]
    error = 4 * result["theory_spread"] / np.sqrt(len(result["regret"]))
    wrong = result["assuming_bias"][abs(result["assumptions"] - result["true_flip"]) > 0.04]
    wrong = wrong[np.isfinite(wrong)]  # some leave it no optimum at all
    return {
        "two responses: DPO learns the log-odds of what is reported: |difference|, nats":
            below(result["same_two"], 1e-9),
        "rDPO that is told ε ends at π*: max |difference|": below(result["same_rdpo"], 1e-9),
        "and elsewhere if it is told another, at least 0.05 off: least regret": above(
            wrong.min() if len(wrong) else np.nan, 1e-4),
        "cDPO of clean labels is DPO of flipped ones: max |difference|": below(result["same_cdpo"], 1e-9),
        "so that it adds to flips: its regret of all labels over DPO's": above(bias[of["cDPO"]] / bias[of["DPO"]], 1.2),
        "flips shrink IPO by 1-2ε: max |difference|": below(result["same_ipo"], 1e-12),
        "and DPO nearly: regret at β(1-2ε) over that at β, of all labels":
            below(bias[of["DPO at β(1-2ε)"]] / bias[of["DPO"]], 0.2),
        "reward model, then e^{r/β}, and DPO make one policy, of a table and of features: max |difference|":
            below(max(result["same_table"], result["same_features"]), 1e-9),
        "what smooths is sharing: rDPO's regret in a table over that of features, few labels": above(
            few[of["rDPO"]] / few[of["rDPO, features"]], 1.5),
        "and the bias stays: regret of features, most labels, over a table's of all labels":
            above(many[of["DPO, features"]] / bias[of["DPO"]], 0.9),
        "rDPO of n labels has the regret that theory says: ratio, most labels":
            near(many[of["rDPO"]] / result["theory"][counts.argmax()], 1, error),
        "most labels repay rDPO: its regret over DPO's": below(many[of["rDPO"]] / many[of["DPO"]], 0.5),
        "few labels do not repay rDPO: its regret over DPO's": above(few[of["rDPO"]] / few[of["DPO"]], 1),
        "rDPO has an optimum if every group loses, in corrected counts, and else none: data sets that disagree":
            near(result["disagree"], 0, within=0),
        "few labels: data sets in which rDPO has no optimum, though DPO has one: share":
            above(result["curve_unbounded"][counts.argmin()], 0.005),
    }


def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """Mean regret against n, of each loss, beside what theory says of rDPO and the bias of DPO; returns the axes"""
    ax = axes(ax)
    n, order = result["counts"], np.argsort(result["counts"])
    for k, (name, mean) in enumerate(zip(METHODS, result["mean_curve"].T, strict=True)):
        style = "o--" if "features" in name else "o-"
        ax.loglog(n[order], mean[order], style, ms=4, lw=1.5, color=COLORS[(3, 4, 5, 1, 2, 3, 5)[k]], label=name)
    ax.loglog(n[order], result["theory"][order], "k:", lw=1.2, label="rDPO, theory")
    ax.axhline(result["bias"][0], color=REFERENCE, lw=1, label="DPO, all labels")
    ax.set(xlabel="labels n", ylabel="regret J* - J, reward",
           title=f"{100 * result['true_flip']:.0f} % of labels flipped, {100 * result['assumed_flip']:.0f} % assumed")
    ax.legend(fontsize=8, ncols=2)
    return ax


def _assuming(result: dict[str, Array], ax: Any = None) -> Any:
    """Regret of rDPO against the flips that it assumes, of n labels and of all"""
    ax = axes(ax)
    x, order = result["assumptions"], np.argsort(result["assumptions"])
    for k, (n, regret) in enumerate(zip(result["counts"], result["assuming"].T, strict=True)):
        color = COLORS[(4, 1, 2, 3, 6)[k % 5]]
        ax.semilogy(x[order], regret[order], "o-", ms=4, color=color, label=f"n = {n:,}")
        if np.isfinite(regret).any():
            ax.plot(x[np.nanargmin(regret)], np.nanmin(regret), "o", ms=11, mfc="none", color=color)
    bias = np.where(result["assuming_bias"] > 1e-12, result["assuming_bias"], np.nan)
    ax.semilogy(x[order], bias[order], "k.:", lw=1.2, label="all labels")
    ax.axvline(result["true_flip"], color=OPTIMUM, ls="--", lw=1, label="what is flipped")
    ax.set(xlabel="flips that rDPO assumes", ylabel="regret J* - J, reward", title="What to assume depends on n",
           ylim=(max(1e-4, np.nanmin(result["assuming"]) / 3), None))
    ax.legend(fontsize=8, ncols=2)
    return ax


def _grid(result: dict[str, Array], ax: Any = None) -> Any:
    """Regret of rDPO that is told the flips over that of DPO, for each share of flips and number of labels"""
    ax = axes(ax)
    of = [METHODS.index(name) for name in ("rDPO", "DPO")]
    with np.errstate(invalid="ignore"):
        ratio = np.log2(result["grid"][..., of[0]] / result["grid"][..., of[1]])
    ax.imshow(np.clip(ratio, -3, 3), cmap="PiYG_r", vmin=-3, vmax=3, aspect="auto", origin="lower")
    for (row, column), x in np.ndenumerate(ratio):
        none = result["grid_unbounded"][row, column]
        text = (f"{2**x:.2f}" if np.isfinite(x) else "-") + (f"\nnone: {100 * none:.0f} %" if none > 0.005 else "")
        ax.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if abs(x) > 2 else "black")
    ax.set_xticks(range(len(result["counts"])), [f"{n:,}" for n in result["counts"]])
    ax.set_yticks(range(len(result["flips"])), [f"{100 * x:.0f} %" for x in result["flips"]])
    ax.set(xlabel="labels n", ylabel="flipped", title="Regret of rDPO over DPO's; none: share without rDPO's optimum")
    return ax


def _flips(result: dict[str, Array], ax: Any = None) -> Any:
    """Regret of all labels against the flips, the losses assuming what they do"""
    ax = axes(ax)
    x, order = result["flips"], np.argsort(result["flips"])
    for k, name in enumerate(TABLES):
        bias = result["bias_of_flips"][:, k]
        ax.plot(x[order], bias[order], "o-", ms=4, lw=1.5, color=COLORS[(3, 4, 5, 1, 2)[k]], label=name)
    ax.axvline(result["assumed_flip"], color=POLICY, ls="--", lw=1, label="what losses assume")
    ax.set(xlabel="share of labels that are flipped", ylabel="regret of all labels J* - J, reward",
           title="The bias that no number of labels removes")
    ax.legend(fontsize=9)
    return ax


PANELS = (plot, _assuming, _grid, _flips)
