"""What DPO does to responses that no label mentions is a property of the parametrization: shared parameters carry what
was learned to all of them, a table leaves each where gradients that sum to 0 leave it.

language   Labels of the strings of at most `longest` letters, r a sum over tokens. A bigram, whose loss is not convex,
           ends at π* over all strings, from every start. A table of strings gives those that are one letter longer the
           plain mean of the rewards of the others. A reward that no bigram has leaves the bigram above the floor.
coverage   K responses, of which `covered` are compared. Every policy with the right ratios among these has the least
           loss; their J differ, without bound as π_ref of the rest falls. Plain descent picks one of them. Features
           that express r, spanned by what is compared, leave one policy: π*. Song et al. 2024, arXiv:2406.01462.
tree       A few pairs of paths down a tree of choices. Mass on paths in no pair falls where every node has its own
           parameters, and rises in many draws of shared features. Rafailov et al. 2024, arXiv:2406.02900.
online     The peak is where π_ref seldom is. With features, n labels of pairs from the policy all but find it, where a
           table gains little. With many labels (exact) J* - J per label is largest for pairs from π_ref and least for
           uniform ones: those from π* cover less. Tajwar et al. 2024, arXiv:2404.14367.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dpo_numpy as dn
from analytic import graph, loglinear, ngram, optimum, population
from dpo_numpy.gradient import read
from dpo_numpy.numerics import log_softmax, sigmoid
from dpo_numpy.preferences import Preferences

from ..ngram import NGram
from ..tabular import Tabular
from ..worlds import World, bandit, strings
from ._claims import Claim, above, below
from ._config import require, streams
from ._figure import COLORS, POLICY, REFERENCE, axes
from ._online import X, rounds
from ._tree import Tree, leaves, nodes

__all__ = ["PANELS", "REPLICATED", "Config", "claims", "plot", "run"]

Array = NDArray[Any]

# rows: begin, a, b, c; columns: end, a, b, c
TOKEN_REF = np.array([[0.25, 0.35, 0.2, 0.2], [0.4, 0.2, 0.3, 0.1], [0.35, 0.25, 0.1, 0.3], [0.45, 0.15, 0.25, 0.15]])
TOKEN_REWARD = np.array([[-0.3, 0.5, -0.2, 0.1], [0.2, -0.5, 0.2, -0.1], [0.0, 0.2, -0.6, 0.1], [0.1, -0.1, 0.3, -0.7]])


@dataclass(frozen=True)
class Config:
    """Four worlds, and how much of them is labelled

    seed             of all that is drawn
    replicates       worlds of coverage, features of the tree, data sets online
    starts           of the bigram
    beta             nats of reward that a nat of KL costs
    longest          letters of the strings that are labelled
    steps            of training the bigram and tables
    K, covered       responses of a world of coverage, and how many are compared
    dimensions       of the features that express its reward
    depth, actions   of the tree: choices to a leaf, and of each choice
    pairs            of its leaves that are labelled, none of them twice
    shared           dimensions of its shared features
    slope            π_ref ∝ e^{-slope x}, r = 0.4 x², 25 x from 0 to 4, online
    n, rounds        labels of a data set there, and how often new ones are drawn
    """

    seed: int = 0
    replicates: int = 32
    starts: int = 8
    beta: float = 0.5
    longest: int = 3
    steps: int = 200
    K: int = 6
    covered: int = 4
    dimensions: int = 2
    depth: int = 3
    actions: int = 3
    pairs: int = 3
    shared: int = 4
    slope: float = 2.0
    n: int = 400
    rounds: int = 8

    def __post_init__(self) -> None:
        require(self, positive=("beta", "slope"), least={
            "replicates": 2, "starts": 1, "longest": 1, "steps": 10, "K": 3, "covered": 2, "dimensions": 1, "depth": 1,
            "actions": 2, "pairs": 1, "shared": 1, "n": 1, "rounds": 1})
        if not self.dimensions < self.covered < self.K:
            raise ValueError(f"dimensions, covered and K are {self.dimensions}, {self.covered} and {self.K}; "
                             "expected each to be less than the next")
        if self.K - self.covered > 10:
            raise ValueError(f"covered leaves {self.K - self.covered} of K out; expected at most 10")
        if 2 * self.pairs >= self.actions**self.depth:
            raise ValueError(f"pairs is {self.pairs}; expected less than half of the {self.actions**self.depth} leaves")
        if self.rounds > self.n:
            raise ValueError(f"rounds is {self.rounds}; expected at most n, {self.n}")


def _streams(config: Config, world: int) -> list[np.random.Generator]:
    """Each world draws for itself: what is set of one leaves the others as they are"""
    return [rng.spawn(world + 1)[world] for rng in streams(config.seed, config.replicates)]


# ---- language

def _local(y: Any) -> float:
    return float(sum(TOKEN_REWARD[c, v] for c, v in zip([0, *y], y, strict=False)))


def _first_is_last(y: Any) -> float:
    """No sum over neighbors."""
    return float(len(y) > 2 and y[0] == y[-2])


def _floor(world: World) -> float:
    """The annotators' own entropy."""
    pairs = world.population()
    p = sigmoid(world.reward[pairs.index[:, 0]] - world.reward[pairs.index[:, 1]])
    return float(pairs.weight @ -np.log(p))


def _language(config: Config) -> dict[str, Any]:
    beta, policy, ref = config.beta, NGram(vocab=4), {"W": np.log(TOKEN_REF)}
    best, _ = ngram.optimum(TOKEN_REF, TOKEN_REWARD, beta)
    starts = np.array([rng.normal(size=(4, 4)) for rng in streams(config.seed, config.starts)])

    def descended(reward: Callable[[Any], float], start: Array) -> Any:
        world = strings(4, config.longest + 1, reward)
        pairs = world.population().with_reference(policy, ref)
        trained = dn.train(policy, {"W": start}, repeat(pairs, config.steps), dn.LOSSES["dpo"](beta=beta),
                           dn.momentum(6 / beta**2, 0.8))
        steps = [*trained]
        return [np.exp(log_softmax(step.params["W"])) for step in steps], np.array(steps[-1].value) - _floor(world)

    path, excess = descended(_local, starts)
    _, misfit = descended(_first_is_last, np.log(TOKEN_REF))
    every = np.unique(np.append(np.arange(0, config.steps, 20), config.steps - 1))
    return {
        "steps": every + 1, "kl": np.array([[_kl(p, best) for p in path[step]] for step in every]).T,
        "end_kl": np.array([_kl(p, best) for p in path[-1]]),
        "length": np.array([ngram.expected_length(p) for p in path[-1]]),
        "best_length": ngram.expected_length(best), "excess": excess, "misfit": misfit, **_table(config),
    }


def _kl(p: Array, q: Array) -> float:
    """inf where p does not end, or hardly"""
    return float(ngram.kl(p, q)) if ngram.spectral_radius(p) < 0.999 else np.inf


def _table(config: Config) -> dict[str, Any]:
    """Strings of one letter more than are labelled, each a row of a table"""
    beta, world = config.beta, strings(4, config.longest + 2, _local)
    policy = NGram(vocab=4)
    logp = read(policy, {"W": np.log(TOKEN_REF)}, world.responses, np.arange(len(world.responses)), ["logp"])[0]["logp"]
    ref = np.exp(log_softmax(logp))
    labelled = world.responses.length <= config.longest + 1
    flat, start = bandit(world.reward[None]), {"W": np.log(ref)[None]}
    table = Tabular(len(ref))
    pairs = flat.population(labelled.astype(float)).with_reference(table, start)
    *_, last = dn.train(table, start, repeat(pairs, config.steps), dn.LOSSES["dpo"](beta=beta),
                        dn.sgd(2 * (labelled.sum() - 1) / beta**2))
    end = np.exp(log_softmax(last.params["W"][0]))
    settled = graph.settled_reward(world.reward, np.outer(labelled, labelled) * (1.0 - np.eye(len(ref))))
    best = optimum.boltzmann(ref, world.reward, beta)
    return {"strings": len(ref), "labelled": labelled.sum(), "table_off": abs(end - optimum.boltzmann(
        ref, settled, beta)).max(), "table_kl": optimum.kl(end, best), "table_unseen": end[~labelled].sum(),
        "best_unseen": best[~labelled].sum()}


# ---- coverage

def _coverage(config: Config) -> dict[str, Array]:
    beta, K, c, R = config.beta, config.K, config.covered, config.replicates
    drawn = [(rng.dirichlet(np.ones(K)), rng.normal(size=(K, config.dimensions)), rng.normal(size=config.dimensions))
             for rng in _streams(config, 0)]
    ref, features, theta = (np.array(column) for column in zip(*drawn, strict=True))
    reward = np.einsum("rkd,rd->rk", features, theta)
    features /= np.ptp(reward, axis=1)[:, None, None]  # rewards of range 1
    reward = reward / np.ptp(reward, axis=1, keepdims=True)
    wins = population.bradley_terry_wins(reward)
    wins[:, c:], wins[:, :, c:] = 0, 0
    best, top = optimum.boltzmann(ref, reward, beta), optimum.optimal_value(ref, reward, beta)

    def lost(pi: Array) -> Array:
        gap: Array = top - optimum.value(pi, ref, reward, beta)
        return gap

    world, start = bandit(reward), {"W": np.log(ref)}
    known = np.tile(np.arange(K) < c, R).astype(float)
    pairs = world.population(known).with_reference(Tabular(K, R), start)
    *_, last = dn.train(Tabular(K, R), start, repeat(pairs, config.steps), dn.LOSSES["dpo"](beta=beta),
                        dn.sgd(2 * (c - 1) * R / beta**2))
    end = np.exp(log_softmax(last.params["W"]))
    within = np.where(np.arange(K) < c, best, 0) / best[:, :c].sum(axis=1, keepdims=True)
    share = np.linspace(0.02, 0.98, 49)[:, None, None]  # mass on what is compared; the rest as under π_ref
    rest = np.where(np.arange(K) < c, 0, ref) / ref[:, c:].sum(axis=1, keepdims=True)
    line = share * within + (1 - share) * rest
    floor = population.entropy(wins)
    excess = population.objective(np.log(line / ref), wins, beta) - floor
    low, high = reward[:, :c].min(axis=1), reward[:, :c].max(axis=1)
    guesses = [np.where(np.arange(K) < c, reward, np.append(np.zeros(c), corner) * (high - low)[:, None] + low[:, None])
               for corner in product((0.0, 1.0), repeat=K - c)]
    fitted = np.array([loglinear.policy(loglinear.newton(f, w, beta), f, p)
                       for f, w, p in zip(features, wins, ref, strict=True)])
    return {
        "share": share[:, 0, 0], "line": lost(line).T, "excess": excess.T, "descent_share": end[:, :c].sum(axis=1),
        "descent": lost(end), "guessed": lost(optimum.boltzmann(ref, np.array(guesses), beta)).max(axis=0),
        # J is concave, and lowest at a vertex of the set: all mass on one response that was not compared
        "worst": top - np.minimum((reward + beta * np.log(ref))[:, c:].min(axis=1),
                                  optimum.value(within, ref, reward, beta)),
        "off": abs(end - optimum.boltzmann(ref, graph.settled_reward(reward, wins), beta)).max(axis=1),
        "features_off": abs(fitted - best).max(axis=1),
    }


# ---- tree

def _tree(config: Config) -> dict[str, Array]:
    size, steps = nodes(config.actions, config.depth), 100
    responses = leaves(config.actions, config.depth)
    chosen = np.random.default_rng(config.seed).permutation(len(responses))[:2 * config.pairs]
    own = Tree(np.eye(size * config.actions).reshape(size, config.actions, -1))
    drawn = [rng.normal(size=(size, config.actions, config.shared)) for rng in _streams(config, 1)]
    shared = Tree(np.array(drawn))
    zero = np.zeros(own.features.shape[-1])  # every choice alike, as with all features where all parameters are 0
    pairs = Preferences(responses, chosen.reshape(-1, 2)).with_reference(own, {"theta": zero})

    def unseen(policy: Tree, theta: Array, rate: float) -> Any:
        others = np.setdiff1d(np.arange(len(responses)), chosen)
        trained = dn.train(policy, {"theta": theta}, repeat(pairs, steps), dn.LOSSES["dpo"](beta=config.beta),
                           dn.momentum(rate / config.beta**2, 0.9))
        path = [theta, *(step.params["theta"] for step in trained)]
        logp = [read(policy, {"theta": theta}, responses, others, ["logp"])[0]["logp"] for theta in path[::5]]
        return np.exp(logp).sum(axis=-1).T

    return {"steps": np.arange(0, steps + 1, 5), "table": unseen(own, zero, 0.15),
            "features": unseen(shared, np.zeros((config.replicates, config.shared)), 0.04)}


# ---- the experiment

REPLICATED = (
    *(f"coverage.{name}" for name in ("line", "excess", "descent_share", "descent", "guessed", "worst", "off",
                                      "features_off")),
    "tree.features", *(f"online.{way}_{name}" for way in ("offline", "online") for name in ("table", "features")),
)


def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured, by name; J* - J in units of reward, `off` a largest difference of probabilities

    kl, length                the bigram's KL(π || π*) over all strings, the largest of its starts, and mean length
    table_kl                  of the table, over strings of `longest` + 1 letters at most
    coverage_descent, _worst  J* - J where descent ends, and the largest with the least loss; means over worlds
    tree_table, tree_shared   mass on leaves in no pair at the end; of shared features the mean over draws
    gain_table, _features     by how much less J* - J is at the end where pairs are drawn from the policy; means
    language.*                kl (starts, steps), end_kl, length and excess loss (starts,); misfit: that of a reward
                              that no bigram has; table_off: from where descent ends by theory; table_unseen,
                              best_unseen: mass
    coverage.*                line, excess: J* - J and excess loss (worlds, share) of least-loss policies with that
                              `share` on what is compared; of descent, of the worst guess that a reward model may
                              make within the range of what it saw, of the worst of all; off: as above; features_off
    tree.*                    mass on leaves in no pair after `steps`: table (steps,), features (draws, steps)
    online.*                  J* - J after each round, of so many `labels`; many_: n (J* - J) for pairs from π_ref,
                              uniform, from π*
    """
    config = config or Config()
    parts = {"language": _language(config), "coverage": _coverage(config), "tree": _tree(config),
             "online": rounds(_streams(config, 2), np.exp(log_softmax(-config.slope * X)), config.beta, config.n,
                              config.rounds)}
    found = {f"{part}.{name}": np.asarray(value) for part, values in parts.items() for name, value in values.items()}
    gain = {name: (found[f"online.offline_{name}"] - found[f"online.online_{name}"])[:, -1].mean()
            for name in ("table", "features")}
    return found | {name: np.asarray(value) for name, value in {
        "kl": found["language.end_kl"].max(), "length": found["language.length"].mean(),
        "table_kl": found["language.table_kl"], "coverage_descent": found["coverage.descent"].mean(),
        "coverage_worst": found["coverage.worst"].mean(), "tree_table": found["tree.table"][-1],
        "tree_shared": found["tree.features"][:, -1].mean(), "gain_table": gain["table"],
        "gain_features": gain["features"]}.items()}


def _sure(x: Array) -> Any:
    """Mean over replicates in standard errors of it"""
    return x.mean() / max(x.std(ddof=1) / np.sqrt(len(x)), 1e-300)


def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    found: dict[str, Claim] = {}
    found["language: from every start the bigram ends at π* over all strings: largest KL"] = below(result["kl"], 1e-9)
    longer = abs(result["language.length"] - result["language.best_length"]).max()
    found["language: and at its mean length: largest difference"] = below(longer, 1e-5)
    found["language: no start is left above the floor of the loss: largest excess"] = below(
        result["language.excess"].max(), 1e-9)
    found["language: a reward that no bigram has leaves it there: excess"] = above(result["language.misfit"], 1e-3)
    found["language: a table gives unseen strings the plain mean of the rewards: max |π - theory|"] = below(
        result["language.table_off"], 1e-9)
    found["language: and is not at π*: KL"] = above(result["language.table_kl"], 1e-3)

    found["coverage: what has the right ratios among what is compared has the least loss: largest excess"] = below(
        abs(result["coverage.excess"]).max(), 1e-12)
    found["coverage: but not one J: the worst J* - J over that of descent, means"] = above(
        result["coverage.worst"].mean() / result["coverage.descent"].mean(), 3)
    found["coverage: descent gives the rest the plain mean of the rewards: max |π - theory|"] = below(
        result["coverage.off"].max(), 1e-9)
    found["coverage: and loses less than the worst guess in the range of the others: largest ratio"] = below(
        (result["coverage.descent"] / result["coverage.guessed"]).max(), 1)
    found["coverage: where features express r, the same labels leave π* alone: max |π - π*|"] = below(
        result["coverage.features_off"].max(), 1e-9)

    table, shared = result["tree.table"], result["tree.features"]
    found["tree: in a table mass on leaves in no pair falls: its part that is left"] = below(table[-1] / table[0], 0.6)
    found["tree: shared features leave more, in standard errors of the mean over draws"] = above(
        _sure(shared[:, -1] - table[-1]), 3)
    more = (shared[:, -1] > shared[:, 0]).mean()
    found["tree: and many draws bring more than there was: their share, less three standard errors"] = above(
        more - 3 * np.sqrt(more * (1 - more) / len(shared)), 0.1)

    gain = {name: (result[f"online.offline_{name}"] - result[f"online.online_{name}"])[:, -1]
            for name in ("table", "features")}
    found["online: features gain by pairs from the policy: in standard errors"] = above(_sure(gain["features"]), 3)
    found["online: a table gains less from as many labels: difference, in standard errors"] = above(
        _sure(gain["features"] - gain["table"]), 3)
    for name in ("table", "features"):
        ref, uniform, best = result[f"online.many_{name}"]
        found[f"online: many labels, {name}: pairs from π* beat those from π_ref: J* - J over that"] = below(
            best / ref, 1)
        found[f"online: many labels, {name}: and lose to uniform ones: J* - J over that"] = above(best / uniform, 1)
    return found


# ---- pictures

def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """KL(π || π*) of the bigram over all strings against steps, from each start, and of the table; returns the axes"""
    ax = axes(ax)
    ax.semilogy(result["language.steps"], result["language.kl"].T, color=POLICY, lw=0.8)
    ax.plot([], [], color=POLICY, label=f"bigram from {len(result['language.kl'])} starts, all strings")
    ax.axhline(float(result["language.table_kl"]), color=COLORS[1],
               label=f"table, {result['language.strings']} strings, {result['language.labelled']} of them labelled")
    ax.set(xlabel="gradient steps", ylabel="KL(π || π*), nats", ylim=(1e-14, 10),
           title=f"Labels of {result['language.labelled']} strings")
    ax.legend(fontsize=8, loc="lower left")
    return ax


def _worlds(result: dict[str, Array], ax: Any = None) -> Any:
    """J* - J of what has the least loss, in each world: all of it, the worst guess, where descent ends"""
    ax = axes(ax)
    order = np.argsort(result["coverage.worst"])
    at = np.arange(len(order))
    ax.vlines(at, 1e-5, result["coverage.worst"][order], color=REFERENCE, lw=4, alpha=0.4, label="every least loss")
    ax.plot(at, result["coverage.guessed"][order], "_", color=COLORS[4], ms=8, mew=2, label="worst guess within range")
    ax.plot(at, result["coverage.descent"][order], "o", color=POLICY, ms=5, label="where descent ends")
    ax.set(yscale="log", ylim=(1e-5, None), xlabel="world, by the worst of its least losses",
           ylabel="J* - J, units of reward", title="One loss, many values")
    ax.legend(fontsize=8, loc="lower center", ncols=3, framealpha=1)
    return ax


def _mass(result: dict[str, Array], ax: Any = None) -> Any:
    """Mass on leaves in no pair against steps: a table, and draws of shared features; returns the axes"""
    ax = axes(ax)
    steps, shared = result["tree.steps"], result["tree.features"]
    ax.fill_between(steps, *np.quantile(shared, [0.25, 0.75], axis=0), color=COLORS[2], alpha=0.3, lw=0,
                    label="shared features, middle half of draws")
    ax.plot(steps, np.median(shared, axis=0), color=COLORS[2], label="their median")
    ax.plot(steps, result["tree.table"], color=COLORS[1], label="a table: parameters of each node")
    ax.set(xlabel="gradient steps", ylabel="mass on leaves in no pair", ylim=(0, 1.03), title="Down a tree of choices")
    ax.legend(fontsize=8, loc="lower left")
    return ax


def _labels(result: dict[str, Array], ax: Any = None) -> Any:
    """J* - J after each round of labels, mean and standard error over data sets; returns the axes"""
    ax = axes(ax)
    for name, color in (("table", COLORS[1]), ("features", COLORS[2])):
        for way, style in (("offline", "--"), ("online", "-")):
            lost = result[f"online.{way}_{name}"]
            mean, error = lost.mean(axis=0), lost.std(axis=0, ddof=1) / np.sqrt(len(lost))
            at = result["online.labels"]
            ax.fill_between(at, mean - error, mean + error, color=color, alpha=0.2, lw=0)
            drawn = "from the policy" if way == "online" else "from π_ref"
            ax.plot(at, mean, style, color=color, label=f"{name}, pairs {drawn}")
    ax.set(xlabel="labels of a data set", ylabel="J* - J, units of reward", ylim=(0, None),
           title="The peak is where π_ref seldom is")
    ax.legend(fontsize=8, loc="lower left")
    return ax


PANELS = (plot, _worlds, _mass, _labels)
