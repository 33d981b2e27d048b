"""A class of policies that holds π* has it as DPO's optimum, whichever pairs are met; in one that does not, the
distribution of the pairs picks the answer, and the answer may be worse than the reference.

DPO fits differences of r by differences of β log π/π_ref, pair by pair. Where a class cannot fit all of them, it fits
those that are met most often. Four worlds, each beside a class that holds π*:

    arms      π ∝ e^t, e^-t, 1 and r = (1, 2, 0): the share of pairs {1, 3} decides on the sign of t. With these alone
              βt = r₁ - r₃, whatever β, and E r is below the reference's. Gopalan et al. 2025, arXiv:2510.20413
    modes     π ∝ e^{tx}, a reward with a mode at either end: J has a maximum for each, the DPO loss is convex and stays
              between. Ji et al. 2024, arXiv:2402.00856
    strings   a bigram whose reward looks at the last letter but one; a trigram holds it
    peak      r = c x² and the one feature x, the peak where π_ref hardly ever is. Tajwar et al. 2024, arXiv:2404.14367

Pairs that are drawn from the policy as it is follow it: then the gradient of DPO is nearly that of J, as σ(Δ) - σ(Δr)
is nearly (Δ - Δr)/4. DPO rests near a maximum of J, which need not be the highest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from scipy.special import expit, softmax

import dpo_numpy as dn
from analytic import loglinear, ngram, optimum, population
from dpo_numpy.preferences import Preferences

from ..linear import LogLinear
from ..ngram import NGram
from ..worlds import World, bandit, strings
from ._claims import Claim, above, below, between, near
from ._config import require
from ._figure import COLORS, OPTIMUM, POLICY, REFERENCE, axes

__all__ = ["PANELS", "Config", "claims", "plot", "run"]

Array = NDArray[Any]

THIRD = np.full(3, 1 / 3)
ARMS = np.array([[1.0], [-1.0], [0.0]])  # features: log π/π_ref = t, -t, 0, up to a constant
ARM_REWARD = np.array([1.0, 2.0, 0.0])
RATIOS = np.geomspace(0.1, 1000, 33)  # n13/n

LETTERS, LONGEST = 4, 4  # tokens: the end and three letters; of a string, its end included
# rows: begin, a, b, c; columns: end, a, b, c
BIGRAM = np.array([[0.4, 0.3, 0.2, 0.1], [0.5, 0.1, 0.2, 0.2], [0.4, 0.1, 0.2, 0.3], [0.6, 0.2, 0.1, 0.1]])

WARMER = 40  # times β: there J is concave near enough that one maximum is all it has
FAR = 1.5  # times the tilt: there the policy's own pairs never meet the peak

SAMPLERS = ("the reference", "all x alike", "π*", "the policy")


@dataclass(frozen=True)
class Config:
    """Each world has its β, the reward that a nat of KL costs

    arms_beta     of the three arms
    ratio         comparisons of arms 1 and 3 for one of 1 and 2, and one of 2 and 3
    modes_beta    of the reward with two modes
    width         of a mode, where x is from -1 to 1
    second        height of the lower mode; the other's is 1
    strings_beta  of the strings
    echo          reward of a letter that is the last but one again
    peak_beta     of the reward r = c x², x from 0 to 4
    curve         its c
    tilt          π_ref ∝ e^{-tilt x}
    steps         of each training
    """

    arms_beta: float = 10.0
    ratio: float = 10.0
    modes_beta: float = 0.1
    width: float = 0.2
    second: float = 0.9
    strings_beta: float = 1.0
    echo: float = 1.0
    peak_beta: float = 0.5
    curve: float = 0.4
    tilt: float = 2.0
    steps: int = 700

    def __post_init__(self) -> None:
        require(self, least={"steps": 1}, nonnegative=("tilt", "second"), positive=(
            "arms_beta", "ratio", "modes_beta", "width", "strings_beta", "echo", "peak_beta", "curve"))
        if not self.curve <= 5 * self.peak_beta:  # e^(-16 c/β): pairs from π* would hold one response alone
            raise ValueError(f"curve is {self.curve} at peak_beta {self.peak_beta}; expected at most 5 times as much")


def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured, by name, that of each world after the world's; `regret` is J* - J

    arms_t, _regret, _met    at `ratio`, the last is E r; arms_reward (R,): at each of `ratio_axis`; root: where t is 0
    modes_t, modes_regret    with all pairs alike; modes_maxima those of J, modes_rests where pairs of the policy lead
    strings_excess (2,)      loss of the bigram over the labels' entropy, pairs all alike, and drawn from the reference
    peak_regret (4,)         at `sampler`, and as peak_regret_reference ...; peak_least the least of the class
    """
    config = config or Config()
    parts = {"arms": _arms(config), "modes": _modes_of(config), "strings": _strings(config), "peak": _peak_of(config)}
    found = {f"{part}_{name}": np.asarray(x) for part, values in parts.items() for name, x in values.items()}
    scalars = zip(("reference", "even", "optimum", "policy"), found["peak_regret"], strict=True)
    return {"ratio_axis": RATIOS, "sampler": np.array(SAMPLERS)} | found | {
        f"peak_regret_{name}": np.asarray(lost) for name, lost in scalars}


def _lost(pi: Array, ref: Array, reward: Array, beta: float) -> Array:
    """J* - J(π) = β KL(π || π*), with the digits of the KL"""
    return beta * optimum.kl(pi, optimum.boltzmann(ref, reward, beta))


def _trained(policy: LogLinear, batch: Any, beta: float, steps: int) -> Array:
    """Logits of each response at the end, of descent from θ = 0"""
    start = {"theta": np.zeros(np.shape(policy.features)[-1])}
    told = ((lambda now: batch(now).with_reference(policy, start)) if callable(batch)
            else batch.with_reference(policy, start))
    *_, last = islice(dn.train(policy, start, repeat(told), dn.LOSSES["dpo"](beta=beta), dn.sgd(1 / beta**2)), steps)
    return last.params["theta"]


def _compared(world: World, wins: Array) -> Preferences:
    return Preferences(world.responses, np.argwhere(wins), wins[wins > 0])


# ---- three arms

def threshold(reward: Iterable[float] = ARM_REWARD) -> float:
    """n13/n at which t = 0, (2 (σ(r₂ - r₁) - ½) + σ(r₂ - r₃) - ½)/(σ(r₁ - r₃) - ½): the gradient at the reference is 0

    >>> round(threshold(), 6)
    3.648...
    """
    one, two, three = reward
    return float((2 * (expit(two - one) - 0.5) + expit(two - three) - 0.5) / (expit(one - three) - 0.5))


def _arm_wins(ratio: float, others: float = 1.0) -> Array:
    W = np.full((3, 3), others)
    W[0, 2] = W[2, 0] = ratio
    return population.bradley_terry_wins(ARM_REWARD, W / (ratio + 2 * others))


def _arms(config: Config) -> dict[str, Any]:
    beta, alone = config.arms_beta, _arm_wins(1.0, 0.0)

    def t(wins: Array, beta: float = beta) -> float:
        return float(loglinear.newton(ARMS, wins, beta)[0])

    def policy(t: Any) -> Array:
        return loglinear.policy(np.asarray(t)[..., None], ARMS, THIRD)

    path = np.array([t(_arm_wins(ratio)) for ratio in RATIOS])
    table = population.newton(np.array([_arm_wins(ratio) for ratio in RATIOS]), beta)
    best = loglinear.best_in_class(ARMS, THIRD, ARM_REWARD, beta, np.array([[-1.0], [1.0]]))
    at = t(_arm_wins(config.ratio))
    trained, = _trained(LogLinear(ARMS, np.log([THIRD])), _compared(bandit([ARM_REWARD]), alone), beta, 200)
    return {
        "t": at, "regret": _lost(policy(at), THIRD, ARM_REWARD, beta), "path": path,
        "reward": policy(path) @ ARM_REWARD, "met": policy(at) @ ARM_REWARD,
        "alone": policy(t(alone)) @ ARM_REWARD,
        "best": policy(best.theta[0]) @ ARM_REWARD, "reference": THIRD @ ARM_REWARD,
        "optimum": optimum.boltzmann(THIRD, ARM_REWARD, beta) @ ARM_REWARD, "margin": beta * trained,
        "margins": np.array([b * t(alone, b) for b in (0.1, 1.0, 10.0)]), "threshold": threshold(),
        "root": np.exp(brentq(lambda x: t(_arm_wins(np.exp(x))), np.log(0.1), np.log(1000), xtol=1e-13)),
        "table": abs(population.policy(table, THIRD) - optimum.boltzmann(THIRD, ARM_REWARD, beta)).max(),
    }


# ---- two modes

def _crossings(f: Callable[[Array], Array], low: float, high: float) -> Array:
    """Where f, of many t at once, falls through 0"""
    t = np.linspace(low, high, 801)
    y = f(t)
    return np.array([brentq(lambda s: float(f(np.array([s]))[0]), t[k], t[k + 1], xtol=1e-13)
                     for k in np.flatnonzero((y[:-1] > 0) & (y[1:] <= 0))])


def _descent(x: Array, ref: Array, reward: Array, beta: float) -> Callable[[Array], Array]:
    """-∂L/∂t of π ∝ π_ref e^{tx}, pairs drawn from the policy as it is"""
    def slope(t: Array) -> Array:
        u = t[:, None] * x
        wins = population.bradley_terry_wins(reward, population.drawn_pairs(population.policy(u, ref)))
        return -population.gradient(u, wins, beta) @ x
    return slope


def _ascent(x: Array, ref: Array, reward: Array, beta: float) -> Callable[[Array], Array]:
    """∂J/∂t"""
    return lambda t: optimum.gradient(population.policy(t[:, None] * x, ref), ref, reward, beta) @ x


def _modes_of(config: Config) -> dict[str, Any]:
    x = np.linspace(-1, 1, 21)
    ref = np.full(21, 1 / 21)
    reward = np.exp(-((x - 1) / config.width) ** 2 / 2) + config.second * np.exp(-((x + 1) / config.width) ** 2 / 2)
    t_axis = np.linspace(-3, 3, 241) / config.modes_beta

    def fitted(features: Array, mu: Array, beta: float) -> Array:
        wins = population.bradley_terry_wins(reward, population.drawn_pairs(mu))
        return loglinear.newton(features, wins, beta)

    def of(beta: float) -> tuple[float, Array, Array]:
        far = min(8 / beta, 4000.0)  # farther out, float64 knows one response alone
        return (float(fitted(x[:, None], ref, beta)[0]), _crossings(_ascent(x, ref, reward, beta), -far, far),
                _crossings(_descent(x, ref, reward, beta), -far, far))

    def value(t: Any, beta: float) -> Array:
        pi = loglinear.policy(np.asarray(t)[..., None], x[:, None], ref)
        return optimum.value(pi, ref, reward, beta)

    def share(t: float, maxima: Array, beta: float) -> float:
        """Of what the class can gain over the reference"""
        own, *gains = value(np.array([t, *maxima]), beta) - value(0.0, beta)
        most = max(gains, default=0.0)
        return float(own / most) if most > 0 else np.nan

    beta, warm = config.modes_beta, WARMER * config.modes_beta
    (t, maxima, rests), (warm_t, warm_maxima, _) = of(beta), of(warm)
    both, best = np.column_stack([x, reward]), optimum.boltzmann(ref, reward, beta)
    right = (x > 0) / (x > 0).sum()
    same = [loglinear.policy(fitted(both, mu, beta), both, ref) for mu in (ref, best, right)]
    pi = loglinear.policy([t], x[:, None], ref)
    return {
        "t": t, "regret": _lost(pi, ref, reward, beta), "maxima": maxima, "rests": rests,
        "t_axis": t_axis, "value": value(t_axis, beta), "value_dpo": value(t, beta), "value_rests": value(rests, beta),
        "value_maxima": value(maxima, beta), "value_reference": value(0.0, beta),
        "right_t": fitted(x[:, None], right, beta)[0], "value_right": value(fitted(x[:, None], right, beta)[0], beta),
        "share": share(t, maxima, beta), "warm_share": share(warm_t, warm_maxima, warm), "warm_maxima": warm_maxima,
        "apart": abs(rests / maxima - 1).max() if len(rests) == len(maxima) > 0 else np.nan,
        "same": abs(np.array(same) - best).max(),
    }


# ---- strings

def _strings(config: Config) -> dict[str, Any]:
    """In the tables of a trigram, row 4 a + b follows the letters a, b"""
    beta, row = config.strings_beta, np.arange(LETTERS**2)
    ref3, reward = BIGRAM[row % LETTERS], np.zeros((LETTERS**2, LETTERS))
    reward[row, row // LETTERS] = config.echo * (row >= LETTERS)
    best, _ = ngram.optimum(ref3, reward, beta)
    world = strings(LETTERS, LONGEST, lambda y: config.echo * (len(y) == LONGEST and y[0] == y[2]))
    two, three = NGram(LETTERS), NGram(LETTERS, 3)
    loss = dn.LOSSES["dpo"](beta=beta)
    logp, _ = dn.read(two, {"W": np.log(BIGRAM)}, world.responses, np.arange(len(world.reward)), ["logp"])
    excess, slopes, ends = [], [], []
    for mu in (None, np.exp(logp["logp"])):
        pairs = world.population(mu)
        at = pairs.with_reference(three, {"W": np.log(ref3)})
        least, slope = dn.value_and_grad(three, {"W": np.log(best)}, at, loss)
        slopes.append(abs(slope["W"]).max())
        at = pairs.with_reference(two, {"W": np.log(BIGRAM)})

        def f(w: Array, pairs: Preferences = at) -> tuple[float, Array]:
            value, grad = dn.value_and_grad(two, {"W": w.reshape(BIGRAM.shape)}, pairs, loss)
            return value, grad["W"].ravel()

        end = minimize(f, np.log(BIGRAM).ravel(), jac=True, method="BFGS", options={"gtol": 1e-9})
        ends.append(softmax(end.x.reshape(BIGRAM.shape), axis=1))
        excess.append(end.fun - least)
    return {
        "excess": excess, "slope": slopes, "apart": ngram.kl(*ends),
        "regret": [beta * ngram.kl(end[row % LETTERS], best) for end in ends],
    }


# ---- a peak that the reference hardly meets

def _peak_of(config: Config) -> dict[str, Any]:
    x, beta = np.linspace(0, 4, 9), config.peak_beta
    reward = config.curve * x**2
    steepest = 8 * config.curve / beta  # of r/β, at the last x

    def rest(ref: Array) -> float:
        return float(_crossings(_descent(x, ref, reward, beta), 0.0, steepest)[0])

    def least(ref: Array) -> float:
        best = loglinear.best_in_class(x[:, None], ref, reward, beta, np.linspace(0, steepest, 5)[:, None])
        return float(optimum.optimal_value(ref, reward, beta)) - best.value

    def lost(t: Any, ref: Array) -> Array:
        return _lost(loglinear.policy(np.asarray(t)[..., None], x[:, None], ref), ref, reward, beta)

    ref, far = softmax(-config.tilt * x), softmax(-FAR * config.tilt * x)
    best, both = optimum.boltzmann(ref, reward, beta), np.column_stack([x, x**2])
    wins = [population.bradley_terry_wins(reward, population.drawn_pairs(mu)) for mu in (ref, np.full(9, 1 / 9), best)]
    t = np.array([*(loglinear.newton(x[:, None], w, beta)[0] for w in wins), rest(ref)])
    same = [loglinear.policy(loglinear.newton(both, w, beta), both, ref) for w in wins]
    world, policy = bandit([reward]), LogLinear(x[:, None], np.log([ref]))
    trained, = _trained(
        policy, lambda now: world.population(softmax(np.log(ref) + now["theta"] * x)), beta, config.steps)
    return {
        "x": x, "gain": reward / beta, "ref": ref, "t": t, "regret": lost(t, ref), "least": least(ref),
        "trained": trained, "far": lost(rest(far), far), "far_least": least(far), "same": abs(same - best).max(),
        "mu": np.array([ref, np.full(9, 1 / 9), best, loglinear.policy(t[3:], x[:, None], ref)]),
    }


# ---- what is claimed, and seen

def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    r, lost = result, dict(zip(result["sampler"].tolist(), result["peak_regret"], strict=True))
    held = max(r["arms_table"], r["modes_same"], r["peak_same"])
    apart = min(r["arms_reference"] - r["arms_alone"], r["arms_best"] - r["arms_reference"])
    return {
        "a class that holds π* ends there, whichever pairs are met (arms, modes, peak): max |π - π*|": below(
            held, 1e-10),
        "arms: of pairs {1, 3} alone βt is r₁ - r₃, trained, and fitted at other β: the largest βt": near(
            np.max([r["arms_margin"], *r["arms_margins"]]), ARM_REWARD[0] - ARM_REWARD[2], 1e-9),
        "arms: t is 0 where the gradient at the reference is: n13/n": near(r["arms_root"], r["arms_threshold"], 1e-9),
        "arms: of those pairs alone E r is below the reference's, of the class's best above: lesser difference": above(
            apart, 0.01),
        "arms: and with all pairs met, {1, 3} more often: E r below the reference's by": above(
            r["arms_reference"] - r["arms_met"], 1e-3),
        "modes: J has a maximum at either end: how many": near(len(r["modes_maxima"]), 2, 0),
        "modes: DPO stays between: share of the gain over the reference": below(r["modes_share"], 0.05),
        f"modes: at {WARMER} β J has one maximum, and DPO is there: share of the gain": above(
            r["modes_warm_share"], 0.95),
        "modes: pairs of the policy lead to each maximum of J: largest |relative difference of t|": below(
            r["modes_apart"], 0.02),
        "strings: a trigram holds the reward, and pairs all alike or of π_ref leave it at π*: max |gradient|": below(
            r["strings_slope"].max(), 1e-12),
        "strings: a bigram misses it: least loss above the entropy": above(r["strings_excess"].min(), 1e-3),
        "strings: and moves with the pairs: KL between its ends": above(r["strings_apart"], 1e-3),
        "peak: pairs of the reference lose more than those of the policy: ratio of J* - J": above(
            lost["the reference"] / lost["the policy"], 100),
        "peak: pairs of the policy cost nearly the least of the class: ratio of J* - J": between(
            lost["the policy"] / r["peak_least"], 1, 1.1),
        "peak: training on pairs of the policy ends where their slope is 0: |difference of t|": below(
            abs(r["peak_trained"] - r["peak_t"][-1]), 1e-8),
        "peak: a reference still farther away hides it from the policy too: ratio of J* - J": above(
            r["peak_far"] / r["peak_far_least"], 2),
    }


def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """E r of the three arms against the share of pairs {1, 3}; returns the axes"""
    ax = axes(ax)
    ax.semilogx(result["ratio_axis"], result["arms_reward"], color=POLICY, lw=2, label="DPO, π ∝ e^t, e^-t, 1")
    ax.axhline(result["arms_optimum"], color=OPTIMUM, lw=2, label="a table: π*, whichever pairs")
    ax.axhline(result["arms_best"], color=OPTIMUM, ls="--", label="the best J of the class")
    ax.axhline(result["arms_reference"], color=REFERENCE, lw=1, label="reference")
    ax.plot(result["arms_threshold"], result["arms_reference"], "o", color=REFERENCE, label="t = 0, by the formula")
    ax.set(xlabel="pairs of arms 1 and 3, for one of 1 and 2 and one of 2 and 3", ylabel="E r",
           title="Three arms: more pairs of 1 and 3, and DPO falls below the reference")
    ax.legend(fontsize=8, loc="lower left")
    return ax


def _modes(result: dict[str, Array], ax: Any = None) -> Any:
    """J against t where the reward has two modes"""
    ax = axes(ax)
    ax.plot(result["modes_t_axis"], result["modes_value"], color=COLORS[0], lw=1.5, label="J of π ∝ e^{tx}")
    ax.plot(result["modes_rests"], result["modes_value_rests"], "D", color=POLICY, label="DPO, pairs from the policy")
    ax.plot(result["modes_maxima"], result["modes_value_maxima"], "^", color=OPTIMUM, ms=5, label="maxima of J")
    ax.plot(result["modes_t"], result["modes_value_dpo"], "o", color=POLICY, label="DPO, all pairs alike")
    ax.plot(result["modes_right_t"], result["modes_value_right"], "s", color=POLICY, label="DPO, pairs from x > 0")
    ax.set(xlabel="t", ylabel="J = E r - β KL", title="Two modes: J has two maxima, the DPO loss one minimum")
    ax.legend(fontsize=8)
    return ax


def _peak(result: dict[str, Array], ax: Any = None) -> Any:
    """log π/π_ref against x, for each sampler, laid through the mean of its pairs"""
    ax = axes(ax)
    x, gain = result["peak_x"], result["peak_gain"]
    ax.plot(x, gain, "o-", color=OPTIMUM, lw=2, label="r/β: π*")
    for name, t, mu, color in zip(result["sampler"], result["peak_t"], result["peak_mu"], COLORS, strict=False):
        lost = result["peak_regret"][result["sampler"] == name][0]
        ax.plot(x, mu @ gain + t * (x - mu @ x), color=color, lw=1.5, label=f"pairs from {name}: J* - J = {lost:.2g}")
    ax.set(xlabel="x", ylabel="log π/π_ref + constant, nats", ylim=(-3, 1.1 * gain[-1]),
           title="One feature: the line that fits where the pairs are")
    ax.legend(fontsize=8, loc="upper left")
    return ax


PANELS = (plot, _modes, _peak)
