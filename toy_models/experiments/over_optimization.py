"""Gold need not fall as a proxy is optimized: with Gaussian error it rises all the way. It peaks and falls where errors
have a heavy tail or an adversary, and few labels make such errors, which a larger β delays.

Proxies. `responses` responses are equally likely; gold g and error e are drawn for each, the proxy is p = g + e, and
π ∝ e^{p/β} runs along the frontier of the proxy as β falls. Its gold depends on E[g | p] alone, in closed form:

    gaussian      e normal, independent of g     E[g | p] = b p, b = s_g²/(s_g² + s_e²): gold rises as the proxy does
    correlated    e normal, correlation ρ        b = (s_g² + ρ s_g s_e)/Var p: below 0, gold falls, where ρ < -s_g/s_e
    heavy         e = Student's t, scaled        E[g | p] → 0 as p grows: what looks best is what errs most
    adversarial   gaussian, but the best `share` of proxies have gold -`harm`

Single draws of 1,000 responses do dip under Gaussian error, many of them, and little. Where errors have a
heavy tail or an adversary, the best of n has more gold than π ∝ e^{p/β} at the same KL: π/π_ref is at most n.

Labels. K responses, pairs drawn from π_ref, n Bradley-Terry labels of r = g; DPO from π_ref by plain descent. In steps
of η/β² its β log π/π_ref is one path for every β. Few labels have no best fit: responses that were met seldom and never
lost rise without end; at small β they are soon all there is, at a larger one later. Gold falls by as much as these are
worse than others, so by more where π_ref knows that they are (`agreement`). More labels help, and stopping early: it
has more gold than the last log-ratios have at a larger β, which is where PPO with that reward model ends. Smoothed
labels bound the margins, and do not help.

Gao et al. 2023, arXiv:2210.10760; Kwa et al. 2024, arXiv:2407.14503; Rafailov et al. 2024, arXiv:2406.02900.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

import dpo_numpy as dn
from analytic import graph, optimum, population, sampling

from ._claims import Claim, above, below, near
from ._config import require, streams
from ._figure import COLORS, OPTIMUM, POLICY, REFERENCE, axes
from ._proxies import KINDS, Proxies, draw, frontier, slope, slope_error
from ._tables import descended, growing

__all__ = ["KINDS", "PANELS", "REPLICATED", "Config", "claims", "plot", "run"]

Array = NDArray[Any]

BEST_OF = (2, 4, 8, 16, 64, 256)
TIMES = (1, 4)  # as many labels


@dataclass(frozen=True)
class Config:
    """Errors of proxies, and labels for DPO

    seed                    of all that is drawn
    replicates              draws of gold and error, and data sets
    error                   gaussian, correlated, heavy or adversarial: which one `peak_gold` and its kin tell of
    responses               that proxies rank, equally likely
    gold_size, error_size   standard deviations s_g and s_e of what is normal
    correlation             ρ of gold and error, of the correlated kind
    freedom                 degrees of freedom of Student's t: moments below that order are finite
    scale                   of Student's t, what multiplies it
    share                   of responses, those of the best proxies, that an adversary owns
    harm                    minus the gold of these
    K                       responses that labels compare, whose gold r are normal quantiles
    spread                  standard deviation of log π_ref over them
    agreement               correlation of log π_ref with r
    n                       labels of a data set
    beta                    of DPO
    smoothing               ε of smoothed labels
    steps                   of each training; they grow, to 1.5/λ, λ the largest curvature of all data sets
    """

    seed: int = 0
    replicates: int = 40
    error: str = "adversarial"
    responses: int = 1000
    gold_size: float = 1.0
    error_size: float = 1.25
    correlation: float = -0.9
    freedom: float = 2.0
    scale: float = 0.5
    share: float = 0.01
    harm: float = 2.0
    K: int = 40
    spread: float = 1.25
    agreement: float = 0.5
    n: int = 240
    beta: float = 0.1
    smoothing: float = 0.1
    steps: int = 120

    def __post_init__(self) -> None:
        require(self, positive=("gold_size", "error_size", "freedom", "scale", "beta"), nonnegative=("spread",),
                shares=("share",), least={"replicates": 2, "responses": 10, "K": 3, "n": 1, "steps": 10},
                choices={"error": KINDS})
        for name in ("correlation", "agreement"):
            if not -1 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected above -1 and below 1")
        if not 0 < self.smoothing < 0.5:
            raise ValueError(f"smoothing is {self.smoothing}; expected above 0 and below 0.5")


# ---- proxies

def _owned(config: Config) -> int:
    """How many responses are the adversary's: at least as many as its share."""
    return ceil(round(config.share * config.responses, 9))


def _proxies(config: Config) -> dict[str, Array]:
    drawn = draw(streams(config.seed, config.replicates), config.responses, config.gold_size, config.error_size,
                 config.correlation, config.freedom, config.scale, _owned(config), config.harm)
    kl = np.linspace(0, 1, 57) ** 2 * log(config.responses)
    ref = np.full(config.responses, 1 / config.responses)
    best = [sampling.best_of_n(ref, drawn.proxy, n) for n in BEST_OF]
    best_kl = np.array([optimum.kl(pi[0, 0], ref) for pi in best])  # of ranks alone
    b = np.array([(drawn.gold[:, k] * drawn.proxy[:, k]).sum() / (drawn.proxy[:, k] ** 2).sum() for k in (0, 1)])
    sizes, correlations = (config.gold_size, config.error_size), (0.0, config.correlation)
    worst = drawn.proxy[:, 3].argsort(axis=1)[:, len(ref) - _owned(config):]
    return {
        "proxies.kl": kl, **{f"proxies.{name}": x for name, x in frontier(drawn, kl).items()},
        "proxies.measured_slope": b,
        "proxies.slope": np.array([slope(*sizes, rho) for rho in correlations]),
        "proxies.slope_error": np.array([slope_error(*sizes, rho, config.replicates * len(ref))
                                         for rho in correlations]),
        "best_of_n.n": np.array(BEST_OF), "best_of_n.kl": best_kl,
        "best_of_n.gold": np.stack([(pi * drawn.expected).sum(axis=-1) for pi in best], axis=-1),
        "best_of_n.boltzmann": frontier(drawn, best_kl)["expected"],
        "best_of_n.owned": np.stack([np.take_along_axis(pi[:, 3], worst, axis=1).sum(axis=1) for pi in best], axis=-1),
    }


# ---- labels

class _Data(NamedTuple):
    """Data sets: of n labels, of 4 n, and last what all labels there are would say"""

    wins: Array  # (data sets, K, K), each of sum 1
    reward: Array  # (K,)
    ref: Array


def _world(config: Config) -> tuple[Array, Array]:
    """r and π_ref (K,): r and what log π_ref does not share with it are normal quantiles, in orders of their own"""
    reward = ndtri((np.arange(config.K) + 0.5) / config.K)
    own = reward[np.argsort(np.arange(config.K) * (np.sqrt(5) - 1) / 2 % 1)]
    own = own - own @ reward / (reward @ reward) * reward
    a = config.agreement
    log_ref = config.spread * (a * reward / reward.std() + np.sqrt(1 - a**2) * own / own.std())
    return reward, population.policy(log_ref, np.full(config.K, 1 / config.K))


def _data(config: Config) -> _Data:
    reward, ref = _world(config)
    met = population.bradley_terry_wins(reward, np.outer(ref, ref) * (1 - np.eye(config.K)))
    everything = met / met.sum()
    generators = [rng.spawn(1)[0] for rng in streams(config.seed, config.replicates)]
    wins = np.array([rng.multinomial(times * config.n, everything.ravel()) / (times * config.n)
                     for times in TIMES for rng in generators])
    wins = np.concatenate([wins.reshape(-1, config.K, config.K), everything[None]])
    return _Data(wins, reward, ref)


def _labels(config: Config) -> dict[str, Array]:
    data, beta, R = _data(config), config.beta, config.replicates
    steepest = np.linalg.eigvalsh(graph.laplacian(data.wins + data.wins.mT))[:, -1].max() / 4
    sizes = 1.5 / steepest / beta**2 * growing(config.steps)
    few, DPO = data.wins[:R], dn.LOSSES["dpo"]

    def measured(u: Array) -> tuple[Array, Array]:
        """KL and gold above that of π_ref, (data sets, steps)"""
        pi = population.policy(u, data.ref)
        return optimum.kl(pi, data.ref).T, ((pi - data.ref) @ data.reward).T

    u = descended(data.wins, data.ref, DPO(beta=beta), sizes)
    tenfold = 10 * descended(few[:2], data.ref, DPO(beta=10 * beta), sizes / 100)
    last = u[-1, :R]
    paths = {
        "tenfold": u[:, :R] / 10,  # by the claim that β alone sets the scale of one path
        "smoothed": descended(few, data.ref, dn.LOSSES["cdpo"](beta=beta, eps=config.smoothing), sizes),
        # its curvature is 8 at most where theirs is β²
        "ipo": descended(few, data.ref, dn.LOSSES["ipo"](tau=beta), sizes * beta**2 / 8),
        "tempered": last * np.linspace(0, 1, 60)[:, None, None],
    }
    kl, gold = measured(u)
    won = (few.sum(axis=-1) > 0) & (few.sum(axis=-2) == 0)
    found = {
        "n": np.array(TIMES) * config.n, "time": np.append(0, sizes.cumsum()) * beta**2,
        "kl": kl[:-1].reshape(len(TIMES), R, -1).swapaxes(0, 1), "all_kl": kl[-1],
        "gold": gold[:-1].reshape(len(TIMES), R, -1).swapaxes(0, 1), "all_gold": gold[-1],
        "no_end": won.any(axis=1), "unbeaten": (population.policy(u[:, :R], data.ref) * won).sum(axis=-1).T,
        "apart": abs(u[:, :2] - tenfold).max() / abs(tenfold).max(),
    }
    for name, path in paths.items():
        found[f"{name}_kl"], found[f"{name}_gold"] = measured(path)
    best = np.stack([sampling.best_of_n(data.ref, last, n) for n in BEST_OF], axis=1)
    found |= {"best_kl": optimum.kl(best, data.ref), "best_gold": (best - data.ref) @ data.reward}
    return {f"labels.{name}": np.asarray(x) for name, x in found.items()}


# ---- the experiment

REPLICATED = (
    *(f"proxies.{name}" for name in Proxies._fields), "best_of_n.gold", "best_of_n.boltzmann", "best_of_n.owned",
    *(f"labels.{name}" for name in ("kl", "gold", "no_end", "unbeaten", "best_kl", "best_gold")),
    *(f"labels.{name}_{what}" for name in ("tenfold", "smoothed", "ipo", "tempered") for what in ("kl", "gold")),
)


def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured, by name

    peak_kl, peak_gold, final_gold, hump   of the mean E[g | p] of `error`, over draws, along KL; hump: peak less final
    data_ and the same                     of the mean gold of DPO on n labels, over data sets, along its steps
    proxies.*                              at KL = proxies.kl, (replicates, kinds, KL): proxy, gold, and expected, its
                                           mean given the proxies; slope b of the first two kinds, as measured too
    best_of_n.*                            E[g | p] of the best of n and of π ∝ e^{p/β} at its KL, (replicates, kinds,
                                           n), and how often it is the adversary's (replicates, n)
    labels.kl, gold                        (replicates, sizes, steps), sizes `labels.n`; all_: the population's; time:
                                           Σ η β², the same for every β; gold is counted from that of π_ref
    labels.unbeaten, no_end                the mass of responses that were met and never lost, n labels; whether there
                                           are any, so that their rewards have no best fit and rise without end
    labels.apart                           log-ratios at β less ten times those at 10 β, largest, over the largest
    labels.tempered_*, best_*              π_ref e^{cu}, u of the last step, c up to 1, and the best of n by that u
    """
    config = config or Config()
    found = {**_proxies(config), **_labels(config),
             "share": np.array(_owned(config) / config.responses),
             "harm": np.array(config.harm)}
    kind = KINDS.index(config.error)
    for before, kl, gold in (("", found["proxies.kl"], found["proxies.expected"][:, kind]),
                             ("data_", found["labels.kl"][:, 0].mean(axis=0), found["labels.gold"][:, 0])):
        mean = gold.mean(axis=0)
        found |= {f"{before}peak_kl": kl[mean.argmax()], f"{before}peak_gold": mean.max(),
                  f"{before}final_gold": mean[-1], f"{before}hump": mean.max() - mean[-1]}
    return {name: np.asarray(x) for name, x in found.items()}


def _fall(gold: Array) -> Array:
    """From the peak of the mean over replicates to the end, of each replicate"""
    fall: Array = gold[:, gold.mean(axis=0).argmax()] - gold[:, -1]
    return fall


def _sure(x: Array) -> Any:
    """Mean over replicates in standard errors of it"""
    return x.mean() / max(x.std(ddof=1) / np.sqrt(len(x)), 1e-300)


def _over(fall: Any, whole: Any) -> float:
    """What part of it, NaN where there is no whole"""
    return float(fall / whole) if whole > 0 else np.nan


def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    found: dict[str, Claim] = {}
    expected = dict(zip(KINDS, result["proxies.expected"].swapaxes(0, 1), strict=True))
    drawn = dict(zip(KINDS, result["proxies.gold"].swapaxes(0, 1), strict=True))
    for i, kind in enumerate(KINDS[:2]):
        found[f"{kind} error: E[g | p] = b p: Σ g p/Σ p² of all responses"] = near(
            result["proxies.measured_slope"][i], result["proxies.slope"][i], 4 * result["proxies.slope_error"][i])
    off = max(abs(_sure((drawn[kind] - expected[kind])[:, at])) for kind in KINDS
              for at in range(0, expected[kind].shape[1], 8))
    found["E[g | p] says what gold is, on average: largest difference, in standard errors"] = below(off, 5)
    least = np.diff(expected["gaussian"], axis=1).min()
    found["gaussian error: no draw's E[g | p] falls as KL grows: least step"] = above(least, -1e-12)
    dip = (np.maximum.accumulate(drawn["gaussian"], axis=1) - drawn["gaussian"]).max(axis=1)
    fell = (dip > 1e-12).mean()
    found["gaussian error: gold that was drawn falls somewhere: share of draws, less three standard errors"] = above(
        fell - 3 * np.sqrt(fell * (1 - fell) / len(dip)), 0)
    found["gaussian error: but little: median deepest fall over the mean peak"] = below(
        _over(np.median(dip), expected["gaussian"].mean(axis=0).max()), 0.05)
    most = np.diff(expected["correlated"], axis=1).max()
    found["error correlated below -s_g/s_e: E[g | p] only falls: largest step"] = below(most, 1e-12)
    found["heavy-tailed error: E[g | p] peaks and falls: fall, in standard errors"] = above(
        _sure(_fall(expected["heavy"])), 4)
    found["adversarial error: gold peaks, too: peak above its start, in standard errors"] = above(
        _sure(expected["adversarial"][:, expected["adversarial"].mean(axis=0).argmax()]
              - expected["adversarial"][:, 0]), 4)
    found["adversarial error: and ends where the adversary wants it: gold at the largest KL"] = near(
        drawn["adversarial"][:, -1].mean(), -result["harm"], 1e-6)

    gap = result["best_of_n.gold"] - result["best_of_n.boltzmann"]
    caught = abs(result["best_of_n.owned"] - (1 - (1 - result["share"]) ** result["best_of_n.n"])).max()
    found["best of n: the adversary's with probability 1 - (1 - share)^n: max |difference|"] = below(caught, 1e-12)
    found["best of n: less gold than Boltzmann at its KL, Gaussian error: largest mean difference"] = below(
        gap[:, KINDS.index("gaussian")].mean(axis=0).max(), 0)
    for kind in KINDS[2:]:
        found[f"best of n: more gold than Boltzmann at its KL, {kind} error, n = 16: least difference"] = above(
            gap[:, KINDS.index(kind), BEST_OF.index(16)].min(), 0)

    few, more = result["labels.gold"].swapaxes(0, 1)[:2]
    fall = _fall(few).mean()
    found["labels: one path for every β in steps of 1/β²: largest difference of log-ratios, relative"] = below(
        result["labels.apart"], 1e-9)
    found["labels: n of them have no best fit, some response never lost: share of data sets"] = above(
        result["labels.no_end"].mean(), 0.5)
    found["labels: n of them, gold peaks and falls: fall, in standard errors"] = above(_sure(_fall(few)), 3)
    found["labels: with 4 n it falls less: fall over that with n"] = below(_over(_fall(more).mean(), fall), 0.4)
    found["labels: with all there are it hardly does: fall over that with n"] = below(
        _over(_fall(result["labels.all_gold"][None]).mean(), fall), 0.01)
    found["labels: at 10 β it has not come to fall yet: fall over that at β"] = below(
        _over(_fall(result["labels.tenfold_gold"]).mean(), fall), 0.05)
    peak = few.mean(axis=0).argmax()
    found["labels: what takes over never lost: its mass at the end less that at the peak, in standard errors"] = above(
        _sure(result["labels.unbeaten"][:, -1] - result["labels.unbeaten"][:, peak]), 3)
    found["labels: smoothed, they fall as well: fall, in standard errors"] = above(
        _sure(_fall(result["labels.smoothed_gold"])), 3)
    found["labels: IPO falls less: fall over DPO's"] = below(
        _over(_fall(result["labels.ipo_gold"]).mean(), fall), 0.5)
    at = result["labels.kl"][:, 0, peak].mean()
    stopped, tempered = (np.array([np.interp(at, *path) for path in zip(kl, gold, strict=True)]) for kl, gold in (
        (result["labels.kl"][:, 0], few), (result["labels.tempered_kl"], result["labels.tempered_gold"])))
    found["labels: stopped early beats tempered late, at the peak's KL: difference, in standard errors"] = above(
        _sure(stopped - tempered), 3)
    return found


# ---- pictures

LOOKS = dict(zip(KINDS, (COLORS[0], COLORS[1], COLORS[2], COLORS[4]), strict=True))
FEW, MORE = COLORS[4], COLORS[2]


def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """Gold against KL for the four kinds of error, of π ∝ e^{p/β} and of the best of n; returns the axes"""
    ax = axes(ax)
    kl = result["proxies.kl"]
    ax.plot(kl, result["proxies.proxy"][:, 0].mean(axis=0), ":", color=REFERENCE, label="proxy, Gaussian error")
    for i, kind in enumerate(KINDS):
        ax.plot(kl, result["proxies.expected"][:, i].mean(axis=0), color=LOOKS[kind], label=f"gold, {kind} error")
        ax.plot(result["best_of_n.kl"], result["best_of_n.gold"][:, i].mean(axis=0), "o", ms=4, color=LOOKS[kind])
    ax.plot([], [], "ko", ms=4, label=f"best of {', '.join(map(str, BEST_OF))}")
    ax.axhline(0, color="k", lw=0.5)
    gold = result["proxies.expected"].mean(axis=0)
    ax.set(xlabel="KL(π || π_ref), nats", ylabel="mean over draws", ylim=(gold.min() - 0.2, 1.5 * gold.max()),
           title="Gold as a proxy is optimized")
    ax.legend(fontsize=8, loc="lower left")
    return ax


def _draws(result: dict[str, Array], ax: Any = None) -> Any:
    """Gold of single draws against KL, Gaussian error; returns the axes"""
    ax = axes(ax)
    kl, gold = result["proxies.kl"], result["proxies.gold"][:, 0]
    ax.plot(kl, gold[:12].T, color=REFERENCE, lw=0.8, alpha=0.7)
    ax.plot([], [], color=REFERENCE, lw=0.8, label="gold, one draw of all responses")
    ax.plot(kl, gold.mean(axis=0), color=POLICY, label=f"gold, mean of {len(gold)}")
    ax.plot(kl, result["proxies.slope"][0] * result["proxies.proxy"][:, 0].mean(axis=0), "--", color=OPTIMUM,
            label="proxy times s_g²/(s_g² + s_e²)")
    ax.set(xlabel="KL(π || π_ref), nats", ylabel="gold", title="Gaussian error: dips of a draw, none of the mean")
    ax.legend(fontsize=8, loc="lower right")
    return ax


def _band(ax: Any, x: Array, gold: Array, color: str, label: str) -> None:
    mean, error = gold.mean(axis=0), gold.std(axis=0, ddof=1) / np.sqrt(len(gold))
    ax.fill_between(x, mean - error, mean + error, color=color, alpha=0.2, lw=0)
    ax.plot(x, mean, color=color, label=label)


def _data_sets(result: dict[str, Array], ax: Any = None) -> Any:
    """Gold against KL of DPO on labels, means over data sets after each step and their standard errors"""
    ax = axes(ax)
    for i, color in zip(range(len(TIMES)), (FEW, MORE), strict=True):
        _band(ax, result["labels.kl"][:, i].mean(axis=0), result["labels.gold"][:, i], color,
              f"DPO, {result['labels.n'][i]} labels")
    ax.plot(result["labels.all_kl"], result["labels.all_gold"], color=OPTIMUM, label="DPO, all there are")
    for name, style, label in (("tempered", "--", "Boltzmann of the last log-ratios"), ("smoothed", "-.", "smoothed"),
                               ("ipo", ":", "IPO")):
        ax.plot(result[f"labels.{name}_kl"].mean(axis=0), result[f"labels.{name}_gold"].mean(axis=0), style,
                color=FEW, label=f"{label}, {result['labels.n'][0]} labels")
    ax.plot(result["labels.best_kl"].mean(axis=0), result["labels.best_gold"].mean(axis=0), "o", ms=4, color=FEW,
            label="best of n by them")
    ax.set(xlabel="KL(π || π_ref), nats", ylabel="gold above that of π_ref", title="Few labels are a proxy")
    ax.legend(fontsize=8, loc="lower right")
    return ax


def _time(result: dict[str, Array], ax: Any = None) -> Any:
    """The same against steps, at β and at 10 β, with the mass of what never lost"""
    ax = axes(ax)
    time = result["labels.time"]
    few, n = result["labels.gold"][:, 0], result["labels.n"]
    _band(ax, time, few, FEW, f"gold, {n[0]} labels")
    _band(ax, time, result["labels.gold"][:, 1], MORE, f"gold, {n[1]} labels")
    ax.plot(time, result["labels.tenfold_gold"].mean(axis=0), "--", color=FEW, label=f"gold, {n[0]} labels, 10 β")
    ax.plot(time, result["labels.unbeaten"].mean(axis=0), color="k", lw=0.8,
            label=f"mass of what never lost, {n[0]} labels")
    ax.axvline(time[few.mean(axis=0).argmax()], color=REFERENCE, ls=":", label="the best time to stop")
    ax.set(xscale="log", xlim=(time[8], time[-1]), ylim=(-0.05, 1.5 * few.mean(axis=0).max()),
           xlabel="steps times η β²", ylabel="gold above that of π_ref; mass", title="When gold falls: stopping early")
    ax.legend(fontsize=8, loc="upper left", ncols=2)
    return ax


PANELS = (plot, _draws, _data_sets, _time)
