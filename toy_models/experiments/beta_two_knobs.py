"""β sets where DPO ends, and how fast it gets there: at the optimum a small β moves most, in T steps it hardly moves.

In implied rewards x = β log π/π_ref plain descent is x ← x - ηβ² ∇L(x), where L does not know β: every β walks one
path to x = r, and β is the clock, β² a step. The policy is told x/β, so that β is the scale too: π* = π_ref e^{r/β}/Z
is the farther away the smaller β is. In a given number of steps T the two work against each other. The β that moves
most goes to c/√(ηT), c = argmax_s gap(x(s²))/s, where x(τ) is the gradient flow and gap the lead of its best response.
Adam divides the clock out at first; steps of η/β² do so for good.

And β holds the policy to a reference as long as this stands still. A reference that is the policy itself at each step,
by mistake, leaves every margin at 0: the loss is log 2 for ever, and logits drift by ηβ d a step without end, dᵢ =
Σⱼ Wᵢⱼ (Pᵢⱼ - ½), which is Borda's count where pairs are met evenly. TR-DPO (Gorbatovski et al. 2024, arXiv:2404.09656)
moves the reference on purpose, once a round: k rounds, each to its optimum, are one of β/k.

The reference is uniform, rewards are drawn, and labels are Bradley-Terry, every pair with its probability.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

import dpo_numpy as dn
from analytic import optimum, population, temperature
from dpo_numpy.numerics import log_softmax
from dpo_numpy.optim import Optimizer

from ..tabular import Tabular
from ..worlds import bandit
from ._claims import Claim, below, near
from ._config import require, streams
from ._figure import COLORS, OPTIMUM, POLICY, REFERENCE, axes

__all__ = ["PANELS", "REPLICATED", "Config", "claims", "plot", "run"]

Array = NDArray[Any]

EARLY = 10  # steps: where Adam is looked at, and the first order of small β
WITHIN = 0.01  # nats of implied reward: where steps are counted to
SLOW = 100  # steps: fewer have too much of rounding, and of the last step, in them
SHADES = (0.35, 0.65, 1.0)  # of one color: the longer, the darker
#: three responses, the best of which is seldom met
UNEVEN, MET = np.array([1.0, 0.8, -3.0]), np.array([0.05, 1.0, 1.0])

REPLICATED = ("rewards", "most", "limit", "first_order", "drift_off")


@dataclass(frozen=True)
class Config:
    """What is drawn, and how one trains.

    beta        nats of reward that a nat of KL costs: of the scalars, and of references that move
    betas       that are compared
    lr          of plain descent
    adam_lr     of Adam
    steps       after which trainings are looked at
    horizons    steps at which the gradient flow is asked which β has moved most
    responses   of a world
    rounds      of TR-DPO
    alpha       share of the policy in the reference after a round of its soft update
    replicates  worlds that are drawn
    seed        of all that is drawn
    """

    seed: int = 0
    replicates: int = 5
    beta: float = 0.3
    betas: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 3.0)
    lr: float = 1.0
    adam_lr: float = 0.01
    steps: tuple[int, ...] = (100, 500)
    horizons: tuple[int, ...] = (100, 1000, 10_000, 100_000)
    responses: int = 10
    rounds: int = 3
    alpha: float = 0.5

    def __post_init__(self) -> None:
        require(self, positive=("beta", "betas", "lr", "adam_lr"), shares=("alpha",), least={
            "replicates": 1, "steps": 1, "horizons": 1, "responses": 3, "rounds": 1})
        if list(self.betas) != sorted(set(self.betas)) or len(self.betas) < 2:
            raise ValueError(f"betas is {self.betas}; expected at least two, each larger than the one before")


def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured. Axes: replicates R, betas B, steps S (`EARLY`, then those of the config), horizons H

    rewards                (R, K)
    kl_trained             (S, B, R): KL(π || π_ref) after so many steps of `lr`        kl_flow: of the gradient flow
    kl_scaled              (S, B, R): after as many of lr/β²
    kl_best                (B, R): KL(π* || π_ref)
    most, limit            (R, H) the β that has moved most, times √T; (R,) what that goes to
    counted                (B, R): steps until implied rewards are right within 0.01 nats; NaN where more are needed
    one_path               max |difference| of implied rewards of three β, trained with lr/β², after `EARLY` steps
    first_order            (R,): KL of the least β over ½ Var_ref (lr T β d), after `EARLY` steps
    adam                   (2, R): KL after `EARLY` steps of Adam, of the least and of the largest β up to 1
    hard, soft             (rounds,): max |π - π*| of TR-DPO and the β that theory says
    unfrozen_loss          of each step, where the reference is the policy
    drift_off              (R,): max |π - π_ref e^{ηβtd}/Z| after those steps
    drift_scaled           max |change of π| where β is twice, and the step half as large
    uneven                 π of three responses whose best is seldom met: unfrozen, frozen, π*
    road, way              (roads,) names; (roads, steps) KL to the first reference, mean over R
    kl, kl_optimum, moved  at `beta`: means over R after the first of `steps`, at the optimum, and their ratio
    beta_most              mean over R of the β that has moved most after the first of `horizons`
    """
    config = config or Config()
    draws = [rng.normal(size=config.responses) for rng in streams(config.seed, config.replicates)]
    r = np.stack(draws)
    found = {"beta": config.beta, "betas": config.betas, "steps": (EARLY, *config.steps),
             "horizons": config.horizons, "rewards": r}
    found |= _clock(config, r) | _flow(config, r) | _adam(config, r) | _moving(config, r) | _uneven(config)
    return {name: np.asarray(x) for name, x in found.items()}


# ---- what all trainings share

class _Table:
    """Worlds as rows of one table, every pair with its probability; π_ref is uniform, and W is log π/π_ref"""

    def __init__(self, r: Array, mu: Array | None = None) -> None:
        self.rows, self.K = r.shape
        self.policy, self.start = Tabular(self.K, self.rows), {"W": np.zeros(r.shape)}
        self.pairs = bandit(r).population(mu).with_reference(self.policy, self.start)

    def train(self, batches: Iterable[Any], beta: float, optimizer: Optimizer, start: Any = None) -> Any:
        return dn.train(self.policy, start or self.start, batches, dn.LOSSES["dpo"](beta=beta), optimizer)

    def arrive(self, beta: float) -> Optimizer:
        """Curvature is at most β²/(2 (K-1)) in a row, and a row weighs 1/rows"""
        return dn.momentum(2 * self.rows * (self.K - 1) / beta**2, 0.7)


def _drift(r: Array) -> Array:
    """dᵢ = Σⱼ Wᵢⱼ (Pᵢⱼ - ½), every pair met as often"""
    return -population.gradient(np.zeros(r.shape), population.bradley_terry_wins(r), 1.0)


def _pi(u: Array) -> Array:
    p: Array = np.exp(log_softmax(u))
    return p


def _kl(u: Array) -> Array:
    """KL(softmax(u) || uniform): log K less the entropy"""
    kl: Array = np.log(u.shape[-1]) - _entropy(u)
    return kl


def _entropy(u: Array) -> Array:
    logp = log_softmax(u)
    entropy: Array = -(np.exp(logp) * logp).sum(axis=-1)
    return entropy


def _each(lr: Array) -> Optimizer:
    """Plain descent, a step size for each row of a table"""
    one = dn.sgd(1.0)

    def update(grad: Any, state: Any, params: Any) -> Any:
        return one.update({name: lr[:, None] * g for name, g in grad.items()}, state, params)

    return Optimizer(one.init, update)


# ---- the two knobs

def _clock(config: Config, r: Array) -> dict[str, Any]:
    """One training of x, at β = 1, is all of them: of `betas`, of `beta`, and with steps of lr/β². They differ by the
    size of their steps, and by x/β
    """
    betas, at = np.array([*config.betas, config.beta]), (EARLY, *config.steps)
    clock = config.lr * np.array([*betas**2, 1.0])
    table, shape = _Table(np.tile(r, (len(clock), 1))), (len(clock), *r.shape)
    steps = table.train(repeat(table.pairs, max(at)), 1.0, _each(table.rows * np.repeat(clock, len(r))))
    centered = r - r.mean(axis=-1, keepdims=True)
    seen, counted = {}, np.full(shape[:2], np.nan)
    for t, step in enumerate(steps, 1):
        x = step.params["W"].reshape(shape)
        counted[(abs(x - centered).max(axis=-1) < WITHIN) & np.isnan(counted)] = t
        if t in at:
            seen[t] = x
    x = np.stack([seen[t] for t in at])
    kl, kl_best = (_kl(y / betas[:, None, None]) for y in (x[:, :-1], centered))
    small = config.lr * EARLY * betas[0] * _drift(r)
    return {
        "kl_trained": kl[:, :-1], "kl_scaled": _kl(x[:, -1:] / betas[:-1, None, None]), "kl_best": kl_best[:-1],
        "counted": counted[:-2], "one_path": _one_path(config, r, seen[EARLY][-1]),
        "first_order": kl[0, 0] / (small.var(axis=-1) / 2), "kl": kl[1, -1].mean(), "kl_optimum": kl_best[-1].mean(),
        "moved": kl[1, -1].mean() / kl_best[-1].mean(),
    }


def _one_path(config: Config, r: Array, x: Array) -> Any:
    """How far three β end from x, each trained with its own steps of lr/β²"""
    table, off = _Table(r), []
    for b in (config.betas[0], config.beta, config.betas[-1]):
        *_, last = table.train(repeat(table.pairs, EARLY), b, dn.sgd(table.rows * config.lr / b**2))
        off.append(abs(b * last.params["W"] - x).max())
    return max(off)


def _flow(config: Config, r: Array) -> dict[str, Any]:
    """x(τ), τ = ηβ²T: all β and all T at once; which β has moved most is where the entropy is least"""
    rows, K = r.shape
    wins = population.bradley_terry_wins(r)
    betas, tau = np.array(config.betas), 2 * (K - 1) * np.geomspace(0.02, 1000, 1500)
    trained = config.lr * betas**2 * np.array((EARLY, *config.steps))[:, None]
    solution = solve_ivp(lambda _, x: -population.gradient(x.reshape(r.shape), wins, 1.0).ravel(),
                         (0, max(tau[-1], trained.max())), np.zeros(r.size), "DOP853", dense_output=True,
                         rtol=1e-9, atol=1e-11).sol

    def x(tau: Array) -> Array:
        """(..., R, K)"""
        at: Array = np.moveaxis(solution(tau.ravel()), 0, -1)
        return at.reshape(*tau.shape, rows, K)

    path, top = x(tau), np.sort(x(tau), axis=-1)
    most = []
    for T in config.horizons:
        b = np.sqrt(tau / (config.lr * T))
        most.append(b[_entropy(path / b[:, None, None]).argmin(axis=0)] * np.sqrt(T))
    lead = (top[..., -1] - top[..., -2]) / np.sqrt(tau)[:, None]
    return {"kl_flow": _kl(x(trained) / betas[:, None, None]), "most": np.stack(most, axis=-1),
            "limit": np.sqrt(tau / config.lr)[lead.argmax(axis=0)],
            "beta_most": (most[0] / np.sqrt(config.horizons[0])).mean()}


def _adam(config: Config, r: Array) -> dict[str, Any]:
    table, ends = _Table(r), []
    for b in (config.betas[0], max([b for b in config.betas if b <= 1], default=config.betas[-1])):
        *_, last = table.train(repeat(table.pairs, EARLY), b, dn.adam(config.adam_lr))
        ends.append(_kl(last.params["W"]))
    return {"adam": ends}


# ---- a reference that moves

def _moving(config: Config, r: Array) -> dict[str, Any]:
    """Rounds of as many steps as it takes to arrive; the unfrozen one takes plain steps"""
    table, beta, n, k = _Table(r), config.beta, 120, np.arange(1, config.rounds + 1)
    batches, flat = [table.pairs] * n * config.rounds, np.full(r.shape, 1 / table.K)

    def unfrozen(beta: float, lr: float, steps: int) -> tuple[Array, Array]:
        way = list(table.train(_itself(table, batches[:steps]), beta, dn.sgd(table.rows * lr)))
        return np.array([step.params["W"] for step in way]), np.array([step.value for step in way])

    roads = {
        "hard": (dn.staged_reference(table.policy, table.start, [[table.pairs] * n] * config.rounds), 1.0),
        "soft": (dn.trailing_reference(table.policy, table.start, batches, config.alpha, n), config.alpha),
    }
    ways, off = {}, {}
    for name, (road, alpha) in roads.items():
        ways[name] = np.array([step.params["W"] for step in table.train(road, beta, table.arrive(beta))])
        ends, told = _pi(ways[name][n - 1 :: n]), temperature.trust_region_beta(beta, k, alpha)
        off[name] = [abs(pi - optimum.boltzmann(flat, r, float(b))).max() for pi, b in zip(ends, told, strict=True)]
    ways["frozen"] = np.repeat(ways["hard"][:n], [1] * (n - 1) + [1 + n * (config.rounds - 1)], axis=0)
    ways["unfrozen"], losses = unfrozen(beta, config.lr, len(batches))
    other, _ = unfrozen(2 * beta, config.lr / 2, EARLY)
    greedy = optimum.boltzmann(flat, _drift(r), 1 / (config.lr * beta * len(batches)))
    return off | {
        "unfrozen_loss": losses, "drift_off": abs(_pi(ways["unfrozen"][-1]) - greedy).max(axis=-1),
        "drift_scaled": abs(_pi(other[-1]) - _pi(ways["unfrozen"][EARLY - 1])).max(),
        "road": list(ways), "way": [_kl(u).mean(axis=-1) for u in ways.values()],
    }


def _itself(table: _Table, batches: Any) -> Any:
    """The mistake: the reference is the policy as it is"""
    return dn.trailing_reference(table.policy, table.start, batches, alpha=1.0, every=1)


def _uneven(config: Config) -> dict[str, Any]:
    table, beta = _Table(UNEVEN[None], MET), config.beta
    *_, last = table.train(_itself(table, [table.pairs] * 100), beta, dn.sgd(0.3 / beta))
    u = population.newton(population.bradley_terry_wins(UNEVEN, MET[:, None] * MET), beta)
    return {"uneven": [_pi(last.params["W"])[0], _pi(u), optimum.boltzmann(np.full(3, 1 / 3), UNEVEN, beta)]}


# ---- the experiment

def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    betas, kl, counted = result["betas"], result["kl_trained"], result["counted"]
    early = kl[1].mean(axis=-1)
    clock = [(c * betas**2)[c >= SLOW] for c in counted.T]
    ratios = [c[0] / c[-1] for c in clock if len(c) > 1]
    ratio = np.median(ratios) if ratios else np.nan
    greedy, frozen, best = result["uneven"]
    return {
        "at the optimum KL falls as β rises: largest rise from one β to the next": below(
            np.diff(result["kl_best"], axis=0).max(), 1e-12),
        "after few steps neither the least β has moved most nor the largest: KL of the farther over the most": below(
            max(early[0], early[-1]) / early.max(), 0.5),
        "the β that moves most goes to c/√T, c by the lead of the best response: ratio, median over worlds": near(
            np.median(result["most"][:, -1] / result["limit"]), 1, 0.02),
        "implied rewards walk one path, β² is the clock: max |difference|": below(result["one_path"], 1e-12),
        "steps of descent are near that path: max |difference of KL| from the flow": below(
            abs(kl - result["kl_flow"]).max(), 0.02),
        "steps to a given accuracy are as β^-2: their product with β², of the least β over the largest": near(
            ratio, 1, 0.03),
        "a β that is small moves by ½ Var(ηTβ d): KL over it": near(
            result["first_order"].mean(), 1, 0.01),
        "Adam can hardly tell at first: KL of the least β over that of the largest up to 1": near(
            np.divide(*result["adam"]).mean(), 1, 0.2),
        "with steps of η/β² KL falls as β rises, after any number of them: largest rise": below(
            np.diff(result["kl_scaled"], axis=1).max(), 1e-12),
        "TR-DPO's k rounds are one of β/k, soft ones of β/(1 + α(k - 1)): max |difference of π|": below(
            max(result["hard"].max(), result["soft"].max()), 1e-8),
        "an unfrozen reference has a loss of log 2 for ever: max |difference|": below(
            abs(result["unfrozen_loss"] - np.log(2)).max(), 1e-14),
        "and a policy that drifts, π_ref e^{ηβtd}/Z: max |difference of π|": below(result["drift_off"].max(), 1e-11),
        "so that β only scales its step: max |difference of π|": below(result["drift_scaled"], 1e-11),
        "an unfrozen one goes where pairs are met, be it not to the best: π(best) at its end": below(greedy[0], 1e-3),
        "but a frozen one has π*, wherever pairs are met: max |difference of π|": below(
            abs(frozen - best).max(), 1e-10),
    }


def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """KL to the reference against β, after some steps and at the optimum"""
    ax = axes(ax)
    betas = result["betas"]
    ax.loglog(betas, result["kl_best"].mean(axis=-1), "-o", ms=4, color=OPTIMUM, label="at the optimum")
    for k, steps in enumerate(result["steps"]):
        ax.loglog(betas, result["kl_trained"][k].mean(axis=-1), "-o", ms=4, color=POLICY, alpha=SHADES[k % 3],
                  label=f"{steps} steps")
    ax.loglog(betas, result["kl_scaled"][1].mean(axis=-1), "--", color=COLORS[1],
              label=f"{result['steps'][1]} steps of η/β²")
    ax.set(xlabel="β, nats of reward for a nat of KL", ylabel="KL(π || π_ref), nats", ylim=(1e-6, 5),
           title="Where β leads to, and how far it gets")
    ax.legend(loc="lower right")
    return ax


def _most(result: dict[str, Array], ax: Any = None) -> Any:
    """The β that has moved most against steps, each world a line"""
    ax = axes(ax)
    T = result["horizons"]
    for k, (most, c) in enumerate(zip(result["most"], result["limit"], strict=True)):
        ax.loglog(T, most / np.sqrt(T), "o", ms=4, color=POLICY, label="moved most" if not k else None)
        ax.loglog(T, c / np.sqrt(T), "-", lw=1, color=REFERENCE, label="c/√T, worlds" if not k else None, zorder=0)
    ax.set(xlabel="steps T of plain descent", ylabel="β that has moved most",
           title="The β that moves most depends on how long one trains")
    ax.legend()
    return ax


def _references(result: dict[str, Array], ax: Any = None) -> Any:
    """KL to the first reference, where the reference stands still, moves in rounds, and is never frozen"""
    ax = axes(ax)
    looks = {"frozen": (OPTIMUM, "-", "frozen: to π*"), "hard": (COLORS[1], "-", "TR-DPO, hard: to β/k"),
             "soft": (COLORS[2], "-", "TR-DPO, soft"), "unfrozen": (COLORS[0], "--", "unfrozen by mistake: drifts")}
    for road, way in zip(result["road"].tolist(), result["way"], strict=True):
        color, style, label = looks[road]
        ax.plot(np.arange(1, len(way) + 1), way, style, color=color, label=label)
    ax.set(xlabel="steps", ylabel="KL to the first reference, nats", title="β holds to a reference that stands still")
    ax.legend()
    return ax


PANELS = (plot, _most, _references)
