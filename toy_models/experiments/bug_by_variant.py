"""Told how large the bug is, rDPO leaves no regret on flipped labels, and R-DPO none where the judge likes length; each
costs regret where there is no bug, and no loss is right on all rows.

Rows are bugs of labels, pairs or references, columns are losses of the registry. A cell is J(π*) - J(π) = β KL(π || π*)
of the policy that a loss trains, J being that of the reward which the labels were meant to tell. A problem: K
responses, rewards N(0, 1), log π_ref N(0, 0.7²) up to a constant, lengths of 1 to 5 tokens.

    clean        labels are Bradley-Terry of r, all pairs, each as often
    certain      the better response always wins
    flips        labels are the opposite of those with probability `flip`
    length       the judge adds `bias` to r for a token
    few pairs    `pairs` labelled pairs are drawn
    unseen       the pairs leave `unseen` of the responses out
    two judges   half of the labels come from each of two judges, and J is of the mean of their rewards
    skewed pairs pair (i, j) is met in proportion to μᵢ μⱼ, log μ N(0, 0.8²)
    wrong π_ref  the loss is told the log-probs of another reference

Three protocols set the hyper-parameters, the same on all rows in the first two:

    published    the registry's, which are the papers', but for β and τ, which are J's β where log-ratios are sums
    matched      ε = `eps`, R-DPO's α = `alpha`, the bugs' own sizes by default; losses of log-probs per token take 3β,
                 as 3 tokens are the mean length, and no margin γ; weights of NLL are 0.3, λ of DPOP and ORPO 1
    tuned        of a grid, for each cell, those of the least median regret on `tuning` problems of their own

Training is gradient flow in the logits from π_ref, π = softmax(W), dW/dt = -∂L/∂W, up to t = `time`, as plain descent
would be in `time`/η steps of a small size η: at the minimum where there is one, on the way to infinity where there is
none, as of DPO on certain labels. Losses with kinks, DPOP and the hinge, descend in ten times as many plain steps, the
second half of them falling to 1e-4 of the first. Papers: see the losses' docstrings; Rafailov et al. 2023,
arXiv:2305.18290.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dpo_numpy as dn
from analytic import minimizers, optimum, population
from dpo_numpy.numerics import log_softmax

from ._claims import Claim, above, below, near
from ._config import require, streams
from ._figure import COLORS, OPTIMUM, axes
from ._table_flow import Problems, train
from ._variants import MEAN_LENGTH, Column, columns

__all__ = ["BUGS", "COLUMNS", "PANELS", "REPLICATED", "Config", "claims", "plot", "run", "table"]

Array = NDArray[Any]

#: the failures, and none
BUGS = ("clean", "certain", "flips", "length", "few pairs", "unseen", "two judges", "skewed pairs", "wrong π_ref")
REPLICATED = ("regret", "reference", "curve", "tilted", "rescaled")


@dataclass(frozen=True)
class Config:
    """How large the bugs are, and what the losses are told

    seed        of the problems
    replicates  problems that cells are medians of
    beta        nats of reward that a nat of KL costs
    responses   of a problem
    flip        probability that a label is the opposite
    bias        of reward a token, that the length-biased judge adds
    pairs       drawn for the row of few pairs
    unseen      responses in no pair
    eps         what cDPO and rDPO assume `flip` to be, where matched
    alpha       what R-DPO assumes `bias` to be, where matched
    time        of gradient flow
    steps       of training, of losses with kinks ten times as many
    assumed     ε and α over the bugs' own sizes, of the curves
    tuned       whether to tune too, which takes a minute
    tuning      problems to tune on
    """

    seed: int = 0
    replicates: int = 12
    beta: float = 0.5
    responses: int = 8
    flip: float = 0.2
    bias: float = 0.3
    pairs: int = 100
    unseen: int = 3
    eps: float = 0.2
    alpha: float = 0.3
    time: float = 40_000.0
    steps: int = 30
    assumed: tuple[float, ...] = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
    tuned: bool = False
    tuning: int = 12

    def __post_init__(self) -> None:
        require(self, positive=("beta", "time"), nonnegative=("assumed",), shares=("flip", "eps"),
                least={"replicates": 1, "responses": 3, "pairs": 1, "unseen": 0, "steps": 10, "tuning": 1})
        for name in ("flip", "eps"):
            if getattr(self, name) >= 0.5:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 0 and below 0.5")
        if self.unseen > self.responses - 2:
            raise ValueError(f"unseen is {self.unseen}; expected at most {self.responses - 2}, as two of the "
                             f"{self.responses} responses have to be compared")


#: the losses, by name
COLUMNS = tuple(columns(1.0, 0.0, 0.0))


# ---- problems

def problem(config: Config, rng: np.random.Generator) -> Problems:
    """One, with each bug: leading axis (bugs,)"""
    K, pairs = config.responses, ~np.eye(config.responses, dtype=bool)
    r, other = rng.normal(size=(2, K))
    log_ref, log_other = log_softmax(0.7 * rng.normal(size=(2, K)))
    length = rng.integers(1, 2 * int(MEAN_LENGTH), size=K)
    mu = np.exp(0.8 * rng.normal(size=K))
    flat, seen = pairs / pairs.sum() * 2, np.arange(K) < K - config.unseen
    skewed, covered = np.outer(mu, mu) * pairs, np.outer(seen, seen) * pairs
    clean = population.bradley_terry_wins(r)
    wins = {
        "clean": clean, "certain": flat * (r[:, None] > r), "flips": (1 - config.flip) * clean + config.flip * clean.T,
        "length": population.bradley_terry_wins(r + config.bias * length),
        "few pairs": rng.multinomial(config.pairs, clean.ravel() / clean.sum()).reshape(K, K) / config.pairs,
        "unseen": population.bradley_terry_wins(r, covered * 2 / covered.sum()),
        "two judges": (clean + population.bradley_terry_wins(other)) / 2,
        "skewed pairs": population.bradley_terry_wins(r, skewed * 2 / skewed.sum()), "wrong π_ref": clean,
    }
    told, meant = {"wrong π_ref": log_other}, {"two judges": (r + other) / 2}
    return Problems(*map(np.array, zip(*(
        (wins[bug], told.get(bug, log_ref), np.exp(log_ref), meant.get(bug, r), length) for bug in BUGS), strict=True)))


def problems(config: Config, rngs: list[np.random.Generator]) -> Problems:
    """Leading axes (problems, bugs)"""
    return Problems(*map(np.array, zip(*(problem(config, rng) for rng in rngs), strict=True)))


# ---- the experiment

class _Trained:
    """Policies of losses by name and hyper-parameters, trained once each"""

    def __init__(self, given: Problems, config: Config) -> None:
        self.given, self.config = given, config
        self.known: dict[tuple[Any, ...], Array] = {}

    def log_policy(self, column: Column, hyper: Mapping[str, Any]) -> Array:
        key = (column.name, *sorted(hyper.items()))
        if key not in self.known:
            steepness = 1 + hyper.get("lam", 0.0) if column.kinks else 0.0
            self.known[key] = train(
                dn.LOSSES[column.name](**hyper), self.given, self.config.time, self.config.steps, steepness)
        return self.known[key]

    def regret(self, column: Column, hyper: Mapping[str, Any]) -> Array:
        """J(π*) - J(π), of the leading shape of the problems"""
        best = self.given.best(self.config.beta)
        regret: Array = self.config.beta * optimum.kl(np.exp(self.log_policy(column, hyper)), best)
        return regret


def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured, by name

    protocol, bug, loss  names, of the axes of
    regret               J(π*) - J(π), (replicates, protocols, bugs, losses)
    reference            that of π_ref, (replicates, bugs)
    chosen               what tuning chose, (bugs, losses), where it was done
    curve, curves        regret of (loss, bug) told `assumed` times the bug's size, (replicates, curves, assumed); names
    tilted               the last curve by its closed form
    rescaled             regret of DPO at β (1 - 2 `flip`) on flips, (replicates,)
    closed, apart        closed forms of policies, by name, and max |π - π'| over all problems
    regret_dpo_clean ... medians over problems, matched: DPO's on each bug, and of the cells that match
    """
    config = config or Config()
    given = problems(config, streams(config.seed, config.replicates))
    every, trained = columns(config.beta, config.eps, config.alpha), _Trained(given, config)
    protocols = {"published": [trained.regret(c, c.published) for c in every.values()],
                 "matched": [trained.regret(c, {**c.published, **c.matched}) for c in every.values()]}
    found: dict[str, Array] = {}
    if config.tuned:
        protocols["tuned"], found["chosen"] = _tuned(config, every, trained)
    regret = np.array([*protocols.values()]).transpose(2, 0, 3, 1)
    best = given.best(config.beta)
    median = dict(zip(product(BUGS, every), np.median(regret[:, 1], axis=0).ravel(), strict=True))
    scalars = {f"regret_dpo_{bug}": median[bug, "DPO"] for bug in BUGS} | {
        "regret_rdpo_flips": median["flips", "rDPO"], "regret_rdpo_clean": median["clean", "rDPO"],
        "regret_r_dpo_length": median["length", "R-DPO"], "regret_r_dpo_clean": median["clean", "R-DPO"],
        "regret_cdpo_certain": median["certain", "cDPO"], "regret_kto_flips": median["flips", "KTO"],
        "regret_reference": np.median(config.beta * optimum.kl(given.ref, best)[:, 0])}
    return found | _assumed(config, given) | _closed(config, trained) | {
        "protocol": np.array([*protocols]), "bug": np.array(BUGS), "loss": np.array([*every]), "regret": regret,
        "reference": config.beta * optimum.kl(given.ref, best), "beta": np.array(config.beta),
        "assumed": np.array(config.assumed), "rescaled": trained.regret(
            every["DPO"], {"beta": config.beta * (1 - 2 * config.flip)})[:, BUGS.index("flips")],
    } | {name.replace(" ", "_").replace("π_ref", "reference"): np.array(x) for name, x in scalars.items()}


def _tuned(config: Config, every: Mapping[str, Column], test: _Trained) -> tuple[list[Array], Array]:
    """Regrets of the test problems under what is best on others, for each column; and what that is, (bugs, losses)"""
    own = _Trained(problems(config, _apart(config.seed, config.tuning)), config)
    regrets, chosen = [], []
    for column in every.values():
        grid = [dict(zip(column.grid, values, strict=True)) for values in product(*column.grid.values())]
        pick = np.median([own.regret(column, hyper) for hyper in grid], axis=1).argmin(axis=0)
        regrets.append(np.stack([test.regret(column, grid[k])[:, bug] for bug, k in enumerate(pick)], axis=1))
        chosen.append([_said(grid[k]) for k in pick])
    return regrets, np.array(chosen).T


def _apart(seed: int, count: int) -> list[np.random.Generator]:
    """Generators that are none of `streams`"""
    return [np.random.default_rng([seed, r, 1]) for r in range(count)]


def _said(hyper: Mapping[str, Any]) -> str:
    letters = {"beta": "β", "tau": "τ", "eps": "ε", "alpha": "α", "lam": "λ", "lam_u": "λ_U", "gamma": "γ"}
    return ", ".join(f"{letters[name]} = {value:.3g}" for name, value in hyper.items() if name in letters)


CURVES = {"rDPO, flips": ("rDPO", "eps"), "cDPO, flips": ("cDPO", "eps"), "R-DPO, length": ("R-DPO", "alpha")}


def _assumed(config: Config, given: Problems) -> dict[str, Array]:
    every, curves = columns(config.beta, config.eps, config.alpha), []
    for title, (name, knob) in CURVES.items():
        bug = BUGS.index(title.partition(", ")[2])
        trained = _Trained(Problems(*(x[:, bug] for x in given)), config)
        size = config.flip if knob == "eps" else config.bias
        curves.append([trained.regret(every[name], {**every[name].published, knob: f * size})
                       if knob != "eps" or f * size < 0.5 else np.full(config.replicates, np.nan)
                       for f in config.assumed])
    bug = BUGS.index("length")
    ref, reward, length = given.ref[:, bug], given.reward[:, bug], given.length[:, bug]
    best = optimum.boltzmann(ref, reward, config.beta)
    tilted = [optimum.boltzmann(ref, reward + (1 - f) * config.bias * length, config.beta) for f in config.assumed]
    return {"curves": np.array([*CURVES]), "curve": np.array(curves).transpose(2, 0, 1),
            "tilted": config.beta * np.array([optimum.kl(pi, best) for pi in tilted]).T}


def _closed(config: Config, trained: _Trained) -> dict[str, Array]:
    every, b = columns(config.beta, config.eps, config.alpha), config.beta
    given, at = trained.given, {bug: BUGS.index(bug) for bug in BUGS}
    ref, r, length = given.ref[:, 0], given.reward[:, 0], given.length[:, 0]
    other = np.exp(given.told[:, at["wrong π_ref"]])

    def apart(title: str, bug: str, policy: Array) -> Any:
        column = every[title]
        log_pi = trained.log_policy(column, {**column.published, **column.matched})[:, at[bug]]
        return abs(np.exp(log_pi) - policy).max()

    per_token = MEAN_LENGTH * b
    found = {
        "DPO, wrong π_ref": apart("DPO", "wrong π_ref", optimum.boltzmann(other, r, b)),
        "R-DPO, clean": apart("R-DPO", "clean", minimizers.r_dpo(ref, r, length, b, config.alpha)),
        "LN-DPO, clean": apart("LN-DPO", "clean", minimizers.length_normalized(ref, r, length, per_token)),
        "SimPO, clean": apart("SimPO", "clean", minimizers.simpo(r, length, per_token)),
        "χPO, clean": apart("χPO", "clean", minimizers.f_dpo(ref, r, b, "mixed_chi2")),
        "IPO, skewed pairs": apart("IPO", "skewed pairs", minimizers.ipo_pairs(
            ref, given.wins[:, at["skewed pairs"]], b)),
    }
    return {"closed": np.array([*found]), "apart": np.array([*found.values()])}


def _cells(result: Mapping[str, Array], protocol: str = "matched") -> dict[tuple[str, str], Array]:
    """(bug, loss): the regret of each problem"""
    k, = np.flatnonzero(result["protocol"] == protocol)
    names = product(result["bug"].tolist(), result["loss"].tolist())
    return dict(zip(names, result["regret"][:, k].reshape(len(result["regret"]), -1).T, strict=True))


def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number; protocol "matched" """
    of = _cells(result)
    median = {cell: float(np.median(x)) for cell, x in of.items()}

    def least(bug: str, *but: str) -> float:
        return min(x for (row, loss), x in median.items() if row == bug and loss not in but)

    found = {
        "clean labels: DPO ends at π*: largest regret": below(of["clean", "DPO"].max(), 1e-9),
        "flips: rDPO, told how many, ends at π*: largest regret": below(of["flips", "rDPO"].max(), 1e-9),
        "flips: DPO does not: median regret": above(median["flips", "DPO"], 0.01),
        "flips: nor does any other loss at the common β: least median regret": above(least("flips", "rDPO"), 0.01),
        "flips: most of what they do is undone by the β (1 - 2 flip) of weak preferences: ratio of medians": below(
            np.median(result["rescaled"]) / median["flips", "DPO"], 0.25),
        "length: R-DPO, told the bias, ends at π*: largest regret": below(of["length", "R-DPO"].max(), 1e-9),
        "length: DPO does not: median regret": above(median["length", "DPO"], 0.01),
        "length: nor does any other loss at the common β: least median regret": above(least("length", "R-DPO"), 0.01),
        "a cure costs where there is no illness: least median regret of cDPO, rDPO and R-DPO on clean labels": above(
            min(median["clean", loss] for loss in ("cDPO", "rDPO", "R-DPO")), 0.01),
        "certain labels: DPO is left with more regret than cDPO: ratio of medians": above(
            median["certain", "DPO"] / median["certain", "cDPO"], 2),
        "skewed pairs: DPO ends at π* all the same: largest regret": below(of["skewed pairs", "DPO"].max(), 1e-6),
        "skewed pairs: they move KTO: median |change of regret|": above(
            np.median(abs(of["skewed pairs", "KTO"] - of["clean", "KTO"])), 0.02),
        "flips: they scale KTO's slopes and hardly move where it ends: median |change of regret|": below(
            np.median(abs(of["flips", "KTO"] - of["clean", "KTO"])), 2e-3),
        "wrong π_ref: SimPO, CPO and ORPO never ask for it: largest |change of regret|": below(
            max(abs(of["wrong π_ref", loss] - of["clean", loss]).max() for loss in ("SimPO", "CPO", "ORPO")), 1e-9),
        "unseen responses: no loss knows of them: least median regret": above(least("unseen"), 0.02),
        "trained policies are the closed forms, where there is one: max |difference|": below(
            result["apart"].max(), 1e-6),
    }
    curve = np.median(result["curve"], axis=0)
    f = result["assumed"]
    for title in ("rDPO, flips", "R-DPO, length"):
        row, = np.flatnonzero(result["curves"] == title)
        found[f"{title}: the size assumed that leaves the least regret, over the bug's own"] = near(
            f[np.nan_to_num(curve[row], nan=np.inf).argmin()] if 1 in f else np.nan, 1, 1e-12)
    row, = np.flatnonzero(result["curves"] == "R-DPO, length")
    found["R-DPO told another size pays for π* of r + (bias - α)|y|: largest |difference|"] = below(
        abs(result["curve"][:, row] - result["tilted"]).max(), 1e-8)
    return found | (_tuned_claims(result) if "tuned" in result["protocol"] else {})


def _tuned_claims(result: dict[str, Array]) -> dict[str, Claim]:
    median = {cell: np.median(x) for cell, x in _cells(result, "tuned").items()}
    untuned = {cell: np.median(x) for cell, x in _cells(result).items()}
    least = {bug: min(median[bug, loss] for loss in result["loss"].tolist() if loss != "R-DPO") for bug in BUGS}
    return {
        "tuned: of flips β alone undoes most: DPO's median regret, over that of the common β": below(
            median["flips", "DPO"] / untuned["flips", "DPO"], 0.25),
        "tuned: IPO is near π* on clean labels: median regret over that of the common τ": below(
            median["clean", "IPO"] / untuned["clean", "IPO"], 0.25),
        "tuned: length is R-DPO's alone: least median regret of the others": above(least["length"], 0.02),
        "tuned: nothing knows of unseen responses: least median regret": above(least["unseen"], 0.02),
    }


def band(regret: Array) -> tuple[Array, Array]:
    """The order statistics between which the median lies with a probability of at least 95 %, or the extremes

    regret (replicates, ...). The kth of n is above it with the probability of less than k heads among n coins.
    """
    n = len(regret)
    below_kth = np.cumsum([comb(n, k) / 2**n for k in range(n)])  # of at most k heads
    k = max(int(np.searchsorted(below_kth, 0.025, side="right")) - 1, 0)
    ordered = np.sort(regret, axis=0)
    return ordered[k], ordered[n - 1 - k]


def table(result: dict[str, Array]) -> str:
    """Medians as text, a block for each protocol, bugs down, losses across; * is below 5e-4"""
    lines = []
    for k, protocol in enumerate(result["protocol"]):
        median = np.median(result["regret"][:, k], axis=0)
        lines += [f"{protocol}: median regret", " " * 13 + " ".join(f"{loss:>9}" for loss in result["loss"])]
        lines += [f"{bug:<13}" + " ".join("        *" if x < 5e-4 else f"{x:9.3f}" for x in row)
                  for bug, row in zip(result["bug"], median, strict=True)] + [""]
    return "\n".join(lines)


# ---- pictures

def _matrix(result: dict[str, Array], protocol: str, ax: Any) -> Any:
    from matplotlib.colors import PowerNorm

    ax = axes(ax)
    k, = np.flatnonzero(result["protocol"] == protocol)
    median = np.median(result["regret"][:, k], axis=0)
    ax.imshow(median, cmap="cividis_r", norm=PowerNorm(0.5, 0, 0.7), aspect="auto")
    for (row, column), x in np.ndenumerate(median):
        zero = x < 5e-4
        said = f"{x:.2f}" if x >= 0.01 else f"{x:.3f}"
        ax.text(column, row, "0" if zero else said.removeprefix("0"), ha="center", va="center", fontsize=8,
                fontweight="bold" if zero else None, color="white" if x > 0.2 else "black")
        if zero:
            ax.add_patch(_frame(column, row))
    ax.set_xticks(range(len(result["loss"])), result["loss"], rotation=45, ha="right", fontsize=8)
    ax.set_yticks(range(len(result["bug"])), result["bug"], fontsize=8)
    ax.tick_params(length=0)
    ax.set_title(f"J(π*) - J(π), median of {len(result['regret'])} problems, {protocol}", fontsize=10)
    return ax


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=OPTIMUM, linewidth=2)


def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """Bugs, losses and their median regrets, tuned where they were, else matched; returns the axes"""
    return _matrix(result, str(result["protocol"][-1]), ax)


def _published(result: dict[str, Array], ax: Any = None) -> Any:
    """The same with the hyper-parameters of the papers"""
    return _matrix(result, "published", ax)


def _sizes(result: dict[str, Array], ax: Any = None) -> Any:
    """Regret against the size that a loss assumes of a bug"""
    ax = axes(ax)
    low, high = band(result["curve"])
    median = np.median(result["curve"], axis=0)
    for k, (title, color) in enumerate(zip(result["curves"], (COLORS[3], COLORS[1], COLORS[5]), strict=True)):
        ax.plot(result["assumed"], median[k], "o-", color=color, label=title)
        ax.fill_between(result["assumed"], low[k], high[k], color=color, alpha=0.15, lw=0)
    ax.set(xlabel="size that the loss assumes, over the bug's", ylabel="J(π*) - J(π), median", ylim=(0, None))
    ax.legend(fontsize=9)
    return ax


PANELS = (plot, _published, _sizes)
