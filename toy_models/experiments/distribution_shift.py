"""Which pairs are met decides on nothing at all, unless one of five things is amiss: the comparisons leave responses
unconnected, labels are few, the class misses π*, no reward explains the labels, or training stops early.

K responses at x from -1 to 1, r = x + bend x², π_ref falling with x. A pair is two draws from μ ∝ π_ref e^{-s r/β}: s =
0 are pairs of the reference, s = -1 those of π* (on-policy data, at its end), s > 0 those of a policy that does worse
than the reference. With all switches off every s ends at π*, and so does a bare chain of pairs. Each switch, by itself,
makes a loss J* - J that is known:

    disconnected       two groups that are never compared: each ends at its own mean of r, and s says nothing. Features
                       that both groups share connect them
    finite n           n labels: tr(S F⁺)/(2βn) of the Fisher information F of those pairs; White 1982
    wrong class        few powers of x: the minimum of the loss so weighted
    not Bradley-Terry  P = σ(Δr) + what goes around in a circle, so that pairs of the reference say r, and others do not
    finite steps       T steps of 2/β², which no pairs make too large: 1 - 2λ/β² for each eigenvalue λ of the Hessian

All 2⁵ combinations are measured at s = 0 and at s = `shift`: a factorial design of six factors. What is done about it
in practice is to draw new pairs from the policy, round after round, which mends some of the five and not others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice, product, repeat
from math import ceil, log
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

import dpo_numpy as dn
from analytic import finite_data, graph, loglinear, optimum, population
from dpo_numpy.preferences import Preferences

from ..linear import LogLinear
from ..worlds import bandit
from ._claims import Claim, above, below, between
from ._config import require, streams
from ._figure import COLORS, REFERENCE, axes
from ._shift import World, descended, drawn, policies

__all__ = ["CHANNELS", "PANELS", "REPLICATED", "SHIFTS", "Config", "claims", "plot", "run"]

Array = NDArray[Any]

#: by which a shift can cost something
CHANNELS = ("disconnected", "finite n", "wrong class", "not Bradley-Terry", "finite steps")
#: s of the sweep
SHIFTS = np.linspace(-1, 1, 9)
REPLICATED = ("drawn_regret", "drawn_rounds")


@dataclass(frozen=True)
class Config:
    """The switches set which cell of the factorial `regret` and `kl` are of; all cells are measured

    disconnected       no pair has one response of each of two groups
    finite_n           n labelled pairs, and not the population of them
    wrong_class        log π/π_ref is a sum of the first `features` powers of x, and not any function
    not_bradley_terry  preferences that go around in circles besides
    finite_steps       `steps` steps of descent from the reference, and not its end
    shift              s: pairs are drawn from μ ∝ π_ref e^{-s r/β}
    K                  responses
    beta               reward that a nat of KL costs
    bend               of the reward x + bend x²
    tilt               of the reference, ∝ e^{-tilt x}
    n                  labelled pairs of a data set
    features           powers of x in the wrong class; two hold this reward
    twist              share of what is possible of the preferences that go around in a circle
    steps              of descent, each 2/β²
    rounds             of drawing new pairs from the policy
    replicates         data sets
    seed               of their labels
    """

    disconnected: bool = False
    finite_n: bool = False
    wrong_class: bool = False
    not_bradley_terry: bool = False
    finite_steps: bool = False
    shift: float = 0.5
    K: int = 6
    beta: float = 0.5
    bend: float = 0.6
    tilt: float = 0.5
    n: int = 2000
    features: int = 1
    twist: float = 0.8
    steps: int = 30
    rounds: int = 6
    replicates: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, positive=("beta",), shares=("twist",), least={
            "K": 6, "n": 1, "features": 1, "steps": 1, "rounds": 1, "replicates": 2})
        if self.features >= self.K:
            raise ValueError(f"features is {self.features} for {self.K} responses; expected fewer than these")

    @property
    def cell(self) -> tuple[int, ...]:
        """Of the factorial, at the shift"""
        return (1, *map(int, (self.disconnected, self.finite_n, self.wrong_class, self.not_bradley_terry,
                              self.finite_steps)))


def _world(config: Config) -> World:
    K, beta = config.K, config.beta
    x = np.linspace(-1, 1, K)
    reward, ref = x + config.bend * x**2, softmax(-config.tilt * x)
    order = np.roll(np.arange(K), K // 3)
    groups = order[:K // 2], order[K // 2:]
    around, within = np.zeros((K, K)), np.zeros((K, K), bool)
    for group in groups:
        around[group, np.roll(group, -1)] = 1
        within[np.ix_(group, group)] = True
    plain = expit(reward[:, None] - reward)
    # as much flows in as out, where pairs are the reference's: there the gradient at r does not see it
    met = population.drawn_pairs(ref)
    circles = np.divide(around - around.T, met, out=np.zeros((K, K)), where=met > 0)
    circles *= config.twist / (abs(circles) / np.minimum(plain, plain.T)).max()
    powers = np.vander(x, config.features + 1, increasing=True)
    return World(x, ref, reward, beta, optimum.boltzmann(ref, reward, beta), within, (plain, plain + circles),
                 (np.eye(K), np.linalg.qr(powers)[0][:, 1:]))


def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured, by name; losses are J* - J, in units of reward

    regret, kl, fits   of the cell that is switched on: J* - J, KL(π || π_ref) and the share of data sets that have a
                       fit, NaN where some have none; shift_adds J* - J less that of the same cell at s = 0
    cells              (2,)⁶ J* - J: shift, then `CHANNELS`; alone (5, 2) of a single channel, without shift and with,
                       and with as alone_finite_n ...; effect (6, 6) the mean change by each factor, and by how much
                       two differ from their sum
    sweep (5, S)       of each channel alone, at `shifts`; theory (5, S) what is predicted; drawn_regret (R, S) of each
                       data set, drawn_spread (S,) its deviation, predicted; none (S,) with all switches off, enough
                       (S,) with two powers of x, shared (S,) so and disconnected; least of the wrong class
    rounds (L, rounds) of drawing new pairs from the policy, `line` by line; drawn_rounds (R, rounds) of data sets
    """
    config = config or Config()
    world, rngs = _world(config), streams(config.seed, config.replicates)
    parts = (_factorial, _sweep, _rounds, _steps)
    found: dict[str, Any] = {"channel": np.array(CHANNELS), "shifts": SHIFTS, "shift": config.shift,
                             "whichever": _whichever(world)}
    for part in parts:
        found |= part(config, world, rngs)
    return {name: np.asarray(x) for name, x in found.items()}


def _whichever(world: World) -> Array:
    """max |π - π*| of pairs that are uniform, the reference's, of a response met 8e-6 as often, and a bare chain"""
    K = len(world.ref)
    rare = np.geomspace(1, 8e-6, K)
    weights = [population.drawn_pairs(mu) for mu in (np.full(K, 1 / K), world.ref, rare / rare.sum())]
    weights.append((np.eye(K, k=1) + np.eye(K, k=-1)) / (K - 1))
    wins = np.array([population.bradley_terry_wins(world.reward, W) for W in weights])
    off: Array = abs(population.policy(population.newton(wins, world.beta), world.ref) - world.best).max(axis=-1)
    return off


def _factorial(config: Config, world: World, rngs: Sequence[np.random.Generator]) -> dict[str, Any]:
    wins = np.array([[[world.wins(world.sampler(s), apart, circles) for circles in (False, True)]
                      for apart in (False, True)] for s in (0.0, config.shift)])
    labels = wins[None], drawn(repeat(wins), config.n, rngs)
    regret, kl, fits = np.empty((3, 2, 2, 2, 2, 2, 2))
    for finite, wrong, stopped in product((0, 1), repeat=3):
        pi = policies(world, labels[finite], bool(wrong), config.steps * stopped)
        at = (slice(None), slice(None), finite, wrong, slice(None), stopped)
        regret[at] = world.regret(pi).mean(axis=0)
        kl[at] = optimum.kl(np.nan_to_num(pi, nan=1 / config.K), world.ref).mean(axis=0)
        fits[at] = np.isfinite(pi).all(axis=-1).mean(axis=0)
    kl[np.isnan(regret)] = np.nan
    alone = np.array([[regret[(s, *one)] for s in (0, 1)] for one in np.eye(5, dtype=int)])
    shifted = {"alone_" + name.lower().replace(" ", "_").replace("-", "_"): lost
               for name, lost in zip(CHANNELS, alone[:, 1], strict=True)}
    return shifted | {
        "cells": regret, "regret": regret[config.cell], "kl": kl[config.cell], "fits": fits[config.cell],
        "shift_adds": regret[config.cell] - regret[(0, *config.cell[1:])],
        "alone": alone, "effect": _effects(regret),
    }


def _effects(cells: Array) -> Array:
    """Entry [i, i]: the mean of cells with factor i less that without; [i, j]: by how much more with j than without"""
    found = np.empty((6, 6))
    for i, j in product(range(6), repeat=2):
        change = np.diff(cells, axis=i)
        found[i, j] = (change if i == j else np.diff(change, axis=j)).mean()
    return found


def _sweep(config: Config, world: World, rngs: Sequence[np.random.Generator]) -> dict[str, Any]:
    beta, mu = config.beta, np.array([world.sampler(s) for s in SHIFTS])
    wins, powers = world.wins(mu), world.features[1]
    circles, enough = world.wins(mu, circles=True), _world(replace(config, features=2))
    of_sets = world.regret(policies(world, drawn(repeat(wins), config.n, rngs)))
    apart = optimum.boltzmann(world.ref, graph.settled_reward(world.reward, world.within), beta)
    best = loglinear.best_in_class(powers, world.ref, world.reward, beta, 4 * np.vstack(
        [np.zeros(config.features), np.eye(config.features), -np.eye(config.features)]))
    return {
        "sweep": [
            world.regret(policies(world, world.wins(mu, disconnected=True))), of_sets.mean(axis=0),
            world.regret(policies(world, wins, True)), world.regret(policies(world, circles)),
            world.regret(policies(world, wins, steps=config.steps))],
        "theory": [
            np.full(len(SHIFTS), world.regret(apart)),
            _each(lambda w: finite_data.regret(world.ref, w, beta, config.n), wins),
            _each(lambda w: world.regret(world.policy(loglinear.newton(powers, w, beta), True)), wins),
            _each(lambda w: world.regret(population.policy(population.newton(w, beta), world.ref)), circles),
            _each(lambda w: world.regret(_modes(world, w, config.steps)), wins)],
        "drawn_regret": of_sets, "drawn_spread": _each(lambda w: _spread(world, w, config.n), wins),
        "least": optimum.optimal_value(world.ref, world.reward, beta) - best.value,
        "none": world.regret(policies(world, wins)), "enough": world.regret(policies(enough, wins, True)),
        "shared": world.regret(policies(enough, world.wins(mu, disconnected=True), True)),
    }


def _spread(world: World, wins: Array, n: int) -> Array:
    """√(2 tr M²), M = S F⁺/(2βn): the deviation of J* - J of a data set, a quadratic form of mean tr M"""
    inverse = graph.pseudoinverse(population.hessian(world.reward, wins, 1.0) * (np.eye(len(wins)) - 1))
    M = optimum.curvature(world.best, 1 / world.beta) @ inverse / (2 * n)
    return np.asarray(np.sqrt(2 * np.trace(M @ M)))


def _each(f: Callable[[Array], Array], wins: Array) -> Array:
    """f of each, NaN where float64 cannot tell weights so different"""
    found = np.full(len(wins), np.nan)
    for k, w in enumerate(wins):
        with suppress(ArithmeticError, ValueError):
            found[k] = f(w)
    return found


def _modes(world: World, wins: Array, steps: int) -> Array:
    """u* + (I - 2H/β²)^{T-t} (u_t - u*): from half way, t = T/2, each mode of the Hessian at the end falls by itself"""
    beta, half, every = world.beta, steps // 2, np.eye(len(world.ref))
    end = (world.reward - world.reward.mean()) / beta
    left = every - 2 / beta**2 * population.hessian(end, wins, beta)
    gap = descended(every, wins, beta, half) - end
    return population.policy(end + np.linalg.matrix_power(left, steps - half) @ gap, world.ref)


def _rounds(config: Config, world: World, rngs: Sequence[np.random.Generator]) -> dict[str, Any]:
    """J* - J after each round: pairs of the sampler first, then of the policy that they have made; NaN without one"""
    start, R = world.sampler(config.shift), config.replicates

    def followed(fit: Any, mu: Array = start) -> Array:
        path = []
        for number in range(config.rounds):
            there = np.isfinite(mu)
            mu = np.where(there, fit(np.where(there, mu, start), number), np.nan)
            path.append(world.regret(mu))
        return np.array(path)

    def sets(mu: Array, number: int) -> Array:
        return policies(world, drawn(world.wins(mu), config.n, rngs))

    theta = {True: np.zeros(config.K), False: np.zeros(config.K)}

    def stopped(again: bool) -> Any:
        def fit(mu: Array, number: int) -> Array:
            wins = world.wins(mu if again else start)
            theta[again] = descended(np.eye(config.K), wins, config.beta, config.steps, theta[again])
            return world.policy(theta[again])
        return fit

    of_sets = followed(sets, np.tile(start, (R, 1))).T
    lines = {
        "disconnected, still": followed(lambda mu, k: policies(world, world.wins(mu, disconnected=True))),
        "disconnected, then across": followed(lambda mu, k: policies(world, world.wins(mu, disconnected=k == 0))),
        "finite n": of_sets.mean(axis=0),
        "wrong class": followed(lambda mu, k: policies(world, world.wins(mu), True)),
        "not Bradley-Terry": followed(lambda mu, k: policies(world, world.wins(mu, circles=True))),
        "finite steps": followed(stopped(True)),
        "finite steps, the same pairs": followed(stopped(False)),
    }
    on_policy, = _each(lambda w: finite_data.regret(world.ref, w, config.beta, config.n), world.wins(world.best)[None])
    return {"line": list(lines), "rounds": list(lines.values()), "drawn_rounds": of_sets, "on_policy": on_policy}


def _steps(config: Config, world: World, rngs: Sequence[np.random.Generator]) -> dict[str, Any]:
    """How fast the slowest mode falls, at -shift, 0 and shift, and training with the package"""
    beta, shifts = config.beta, (-config.shift, 0.0, config.shift)
    wins = np.array([world.wins(world.sampler(s)) for s in shifts])
    slowest = np.array([population.linear_rate(population.hessian(world.reward / beta, w, beta)).slowest for w in wins])
    predicted = 1 - 2 / beta**2 * slowest
    factor, end = [], (world.reward - world.reward.mean()) / beta
    for w, f in zip(wins, predicted, strict=True):
        late = descended(np.eye(config.K), w, beta, min(ceil(20 / -log(max(f, 1e-9))) if f < 1 else 5000, 5000))
        later = descended(np.eye(config.K), w, beta, 1, late)
        factor.append(np.linalg.norm(later - end) / np.linalg.norm(late - end))
    apart = []
    for wrong in (False, True):
        policy = LogLinear(world.features[wrong], np.log([world.ref]))
        start = {"theta": np.zeros(world.features[wrong].shape[-1])}
        pairs = Preferences(bandit([world.reward]).responses, np.argwhere(wins[2]), wins[2][wins[2] > 0])
        *_, last = islice(dn.train(policy, start, repeat(pairs.with_reference(policy, start)),
                                   dn.LOSSES["dpo"](beta=beta), dn.sgd(2 / beta**2)), config.steps)
        trained = world.policy(last.params["theta"], wrong)
        apart.append(abs(trained - policies(world, wins[2], wrong, config.steps)).max())
    return {"factor": factor, "factor_theory": predicted, "trained": apart}


# ---- what is claimed, and seen

def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    with np.errstate(all="ignore"):  # where a setting leaves nothing to divide by, the claim is not evaluated
        return _claims(result)


def _claims(result: dict[str, Array]) -> dict[str, Claim]:
    r, line, last = result, dict(zip(result["line"].tolist(), result["rounds"], strict=True)), -1
    sweep, theory = (dict(zip(CHANNELS, result[name], strict=True)) for name in ("sweep", "theory"))
    at = {s: int(np.flatnonzero(r["shifts"] == s)[0]) for s in (-1.0, -0.5, 0.0, 0.5, 1.0)}
    exact = [name for name in CHANNELS if name not in ("finite n", "finite steps")]

    def z(found: Array, expected: Any, deviation: Any) -> Any:
        """Largest distance of means over data sets, in standard errors"""
        return abs((found.mean(axis=0) - expected) / (deviation / np.sqrt(len(found)))).max()

    middle = slice(at[-0.5], at[0.5] + 1)
    labels = theory["finite n"]
    return {
        "nothing amiss: uniform, reference's, rare (8e-6) and chained pairs end at π*: max |π - π*|": below(
            r["whichever"].max(), 1e-12),
        "nothing amiss, a table or two powers of x: J* - J at any s": below(
            max(r["none"].max(), r["enough"].max()), 1e-12),
        "disconnected, wrong class, not Bradley-Terry: J* - J is what is predicted at each s: max |difference|": below(
            max(abs(sweep[name] - theory[name]).max() for name in exact), 1e-10),
        "disconnected: two powers of x, shared by both groups, connect them: J* - J at any s": below(
            r["shared"].max(), 1e-12),
        "finite n: J* - J is tr(S F⁺)/(2βn), |s| <= ½: largest distance in standard errors": below(
            z(r["drawn_regret"][:, middle], labels[middle], r["drawn_spread"][middle]), 4),
        "finite n: labels say more half way from the reference to π* than at either: J* - J over the lesser of theirs":
            below(labels[at[-0.5]] / min(labels[at[0.0]], labels[at[-1.0]]), 0.9),
        "wrong class: s decides: J* - J at s = 1 over that at -1": above(
            sweep["wrong class"][at[1.0]] / sweep["wrong class"][at[-1.0]], 5),
        "not Bradley-Terry: pairs of the reference say r: J* - J at s = 0": below(
            sweep["not Bradley-Terry"][at[0.0]], 1e-12),
        "not Bradley-Terry: those of π* do not: J* - J at s = -1": above(sweep["not Bradley-Terry"][at[-1.0]], 0.05),
        "finite steps: the slowest mode falls by 1 - 2λ/β²: largest |relative difference| of its logarithm": below(
            abs(np.log(r["factor"]) / np.log(r["factor_theory"]) - 1).max(), 0.01),
        "finite steps: those of training, in the table and the class: max |difference|": below(
            r["trained"].max(), 1e-12),
        "new pairs from the policy connect what was not, once they cross: J* - J": below(
            line["disconnected, then across"][last], 1e-12),
        "new pairs take a wrong class to nearly its least J* - J: ratio": between(
            line["wrong class"][last] / r["least"], 1, 1.1),
        "new pairs, n of them, leave J* - J of pairs of π*: distance in standard errors": below(
            z(r["drawn_rounds"][:, last], r["on_policy"], r["drawn_spread"][at[-1.0]]), 4),
        "new pairs make circles worse: J* - J over that of the first round": above(
            line["not Bradley-Terry"][last] / line["not Bradley-Terry"][0], 3),
        "new pairs hasten descent: J* - J over that of as many steps on the same pairs": below(
            line["finite steps"][last] / line["finite steps, the same pairs"][last], 0.1),
    }


LOOK = dict(zip(CHANNELS, (COLORS[0], COLORS[3], COLORS[4], COLORS[5], COLORS[6]), strict=True))


def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """J* - J by each channel alone, and by all of them, without shift and with; returns the axes"""
    ax = axes(ax)
    names = ["none", *CHANNELS, "all five"]
    lost = np.array([[result["cells"][(s, *[0] * 5)] for s in (0, 1)], *result["alone"],
                     [result["cells"][(s, *[1] * 5)] for s in (0, 1)]])
    y = np.arange(len(names))
    ax.barh(y - 0.2, lost[:, 0], 0.38, color=REFERENCE, label="pairs of the reference, s = 0")
    ax.barh(y + 0.2, lost[:, 1], 0.38, color=COLORS[1], label=f"shifted pairs, s = {float(result['shift']):g}")
    for k, row in enumerate(lost):
        for value, place in zip(row, (-0.2, 0.2), strict=True):
            said = "no fit" if np.isnan(value) else f"{value:.2g}" if value > 1e-9 else "0"
            ax.text(np.nan_to_num(value), k + place, f" {said}", va="center", fontsize=8)
    ax.set_yticks(y, names)
    ax.invert_yaxis()
    ax.set(xlabel="J* - J, in reward", title="Which channel hurts, and which lets the shift in")
    ax.legend(fontsize=8, loc="upper right")
    return ax


def _shifts(result: dict[str, Array], ax: Any = None) -> Any:
    """J* - J of each channel alone against the shift"""
    ax = axes(ax)
    for name, found, predicted in zip(CHANNELS, result["sweep"], result["theory"], strict=True):
        ax.semilogy(result["shifts"], predicted, "--" if name.startswith("finite") else "-", color=LOOK[name], lw=1.2)
        ax.semilogy(result["shifts"], found, "o", color=LOOK[name], ms=5, label=name)
    ax.axvline(0, color=REFERENCE, lw=0.8)
    ax.set(xlabel="s: -1 pairs of π*, 0 of the reference, 1 of the anti-optimum", ylabel="J* - J, in reward",
           ylim=(1e-5, 1), title="Each channel alone (dots), and what is predicted (lines)")
    ax.legend(fontsize=8, loc="lower right")
    return ax


def _effect(result: dict[str, Array], ax: Any = None) -> Any:
    """Main effects, and how much more two factors cost than the sum of both"""
    ax = axes(ax)
    names, effect = ["shift", *CHANNELS], result["effect"]
    most = max(float(np.nanmax(abs(effect), initial=0.0)), 1e-12)
    ax.imshow(effect, cmap="PuOr_r", vmin=-most, vmax=most)
    for i, j in product(range(6), repeat=2):
        said = "no fit" if np.isnan(effect[i, j]) else f"{effect[i, j]:+.3f}"
        ax.text(j, i, said, ha="center", va="center", fontsize=9, weight="bold" if i == j else None,
                color="white" if abs(effect[i, j]) > 0.6 * most else "black")
    ax.set_xticks(range(6), names, rotation=25, ha="right", fontsize=8)
    ax.set_yticks(range(6), names, fontsize=8)
    ax.set_title("Change of J* - J by a factor (diagonal); by two, beyond their sum", fontsize=11)
    return ax


def _resampled(result: dict[str, Array], ax: Any = None) -> Any:
    """J* - J after each round of new pairs from the policy"""
    ax = axes(ax)
    for name, path in zip(result["line"].tolist(), result["rounds"], strict=True):
        of, _, how = name.partition(", ")
        ax.semilogy(np.arange(1, len(path) + 1), np.maximum(path, 1e-10), {"": "o-", "still": "s--"}.get(how, "^:"),
                    color=LOOK[of], ms=5, lw=1.2, label=name)
    ax.axhline(result["least"], color=LOOK["wrong class"], lw=0.8)
    ax.set(xlabel="round: pairs of the shifted sampler first, then of the policy",
           ylabel="J* - J, in reward; 0 at 1e-10", ylim=(5e-11, 1), title="New pairs from the policy: what they mend")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


PANELS = (plot, _shifts, _effect, _resampled)
