"""Only the gap is trained: the chosen response falls at the exact optimum below a crossover in β, and it can fall in a
language model whose contexts come back, while its margin over the rejected one grows.

    the optimum     r, π_ref ∝ e^{sharp r}, pairs of π_ref: Σ_y c(y) log π*(y)/π_ref(y) = (E_c r - J*)/β, c(y) how often
                    y is the chosen one; β_× where E_c r = J*, which tends to 1 as rewards come together
    one pair        the chosen falls where what it shares with the rejected is worth more to others: in a log-linear
                    policy, in a memoryless language model, in a bigram; never in a table, nor in a bigram in which
                    neither response comes back to a context (there each context adds 1 - p_w + p_l, |e - p|² or 0)
    several pairs   tables of `responses` responses and n pairs with one label each, `replicates` tables for each n
    remedies        DPO + α NLL (Pang et al. 2024, arXiv:2404.19733) and DPOP (Pal et al. 2024, arXiv:2402.13228) on the
                    same pairs: they move the optimum. No policy lifts the chosen by more than KL(c || π_ref). DPOP
                    stays at π_ref for λ >= λ₀ = max_k (π_ref(k) max_i (cᵢ - lᵢ)/π_ref(i) - c_k + l_k)/c_k, l of the
                    rejected, whatever β: there the chosen cannot rise unless another one falls

Likelihood displacement: Razin et al. 2024, arXiv:2410.08847. Changes are in nats, rates are along the gradient of the
margin log π(chosen) - log π(rejected).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

import dpo_numpy as dn
from analytic import loglinear, metrics, minimizers, optimum
from dpo_numpy.policy import Params

from ..linear import LogLinear
from ..ngram import NGram
from ..tabular import Tabular
from ..worlds import bandit, strings
from ._claims import Claim, above, below, near
from ._config import require, streams
from ._figure import CHOSEN, COLORS, OPTIMUM, POLICY, REFERENCE, REJECTED, axes

__all__ = ["Config", "claims", "plot", "run"]

Array = NDArray[Any]

BETAS = np.geomspace(0.03, 30, 61)
ALPHAS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
SHARES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # of λ₀
FEATURES = np.array([[1.0, 1.0], [0.0, 1.0], [3.0, 0.0]])  # chosen, rejected, a third
BASES = np.array([[0.45, 0.45, 0.1], [0.3, 0.3, 0.4]])
# end, a, b: p of three memoryless models; the chosen response is "", the rejected "a"
TWIN = (0.4, 0.4, 0.2)


@dataclass(frozen=True)
class Config:
    """What the optimum is of, and what is trained

    beta              of the optimum, and of the tables of several pairs: nats of reward that a nat of KL costs
    reward            of the responses of the optimum
    sharp             π_ref ∝ e^{sharp r}: what the reference knows already
    alpha             weight of the chosen's likelihood
    lam               λ of DPOP
    p_end, p_a        the memoryless model before training; b has the rest
    language_beta, lr, steps   of its training
    responses         of each of the tables
    pairs             so many in each of `replicates` tables
    table_steps       of the tables' training, 0.5/β² each
    problems          of a replicate, whose crossover is looked for: 20 random rewards and a random reference each
    longest           letters of the bigrams' strings, of three letters
    replicates        of the tables, of random bigrams, of sets of problems
    seed              of all that is drawn
    """

    seed: int = 0
    replicates: int = 32
    beta: float = 0.1
    reward: tuple[float, ...] = (1.0, 0.0, -1.0)
    sharp: float = 0.0
    alpha: float = 1.0
    lam: float = 50.0
    p_end: float = 0.05
    p_a: float = 0.05
    language_beta: float = 0.5
    lr: float = 1.0
    steps: int = 400
    responses: int = 10
    pairs: tuple[int, ...] = (1, 2, 5, 10, 30)
    table_steps: int = 200
    problems: int = 6
    longest: int = 3

    def __post_init__(self) -> None:
        require(self, positive=("beta", "alpha", "language_beta", "lr", "p_end", "p_a"), nonnegative=("lam",), least={
            "replicates": 2, "steps": 1, "responses": 2, "pairs": 1, "table_steps": 1, "problems": 1, "longest": 2})
        if len(set(self.reward)) < 2:
            raise ValueError(f"reward holds {self.reward[0]} alone; expected two that differ")
        span = max(self.reward) - min(self.reward)
        if span > 20 or span > 700 * self.beta or abs(self.sharp) * span > 10:
            raise ValueError(f"reward spans {span:g} at beta {self.beta:g} and sharp {self.sharp:g}; expected at most "
                             "20, 700 beta and 10/sharp: probabilities beyond are rounding alone")
        if self.p_end + self.p_a >= 1:
            raise ValueError(f"p_end and p_a are {self.p_end} and {self.p_a}; expected a sum below 1")


def _trained(policy: Any, params: Params, pairs: dn.Preferences, loss: dn.Loss, lr: float, steps: int) -> Iterator[Any]:
    return dn.train(policy, params, repeat(pairs.with_reference(policy, params), steps), loss, dn.sgd(lr))


# ---- the optimum

def _at_the_optimum(config: Config) -> dict[str, Any]:
    r, beta = np.array(config.reward), config.beta
    ref = softmax(config.sharp * r)
    kept, distinct = metrics.pairs(ref, r), metrics.pairs(ref, r, distinct=True)
    share = np.array([kept.chosen, kept.rejected, distinct.chosen, distinct.rejected])
    ratio = metrics.mean_log_ratio(share, ref, r, beta)
    policy, start, pairs = Tabular(len(r)), {"W": np.log(ref)[None]}, bandit([r]).population(ref)
    *_, last = _trained(policy, start, pairs, dn.LOSSES["dpo"](beta=beta), 4 / beta**2, 200)
    u = log_softmax(last.params["W"][0]) - np.log(ref)
    little = 1e-4 * r
    return {
        "crossover": metrics.crossover(kept.chosen, ref, r),
        "crossover_distinct": metrics.crossover(distinct.chosen, ref, r),
        "crossover_little": metrics.crossover(metrics.pairs(ref, little).chosen, ref, little),
        "chosen": ratio[0], "rejected": ratio[1], "chosen_distinct": ratio[2], "rejected_distinct": ratio[3],
        "trained": pairs.weight @ u[pairs.index],
        "betas": BETAS, "ratio": metrics.mean_log_ratio(share, ref, r, BETAS[:, None]),
        **_remedies(config, ref, r, pairs, distinct),
    }


def _problems(config: Config, rngs: list[np.random.Generator]) -> dict[str, Any]:
    """Crossovers of random problems (replicates, problems), and the share whose chosen has fallen at π*"""
    ref = np.array([rng.dirichlet(np.ones(20), size=config.problems) for rng in rngs])
    r = np.array([rng.normal(size=(config.problems, 20)) for rng in rngs])
    share = metrics.pairs(ref, r).chosen
    fallen = metrics.mean_log_ratio(share, ref, r, config.beta) < 0
    return {"crossovers": metrics.crossover(share, ref, r), "below": fallen.mean()}


def _remedies(config: Config, ref: Array, r: Array, pairs: dn.Preferences, share: metrics.Pairs) -> dict[str, Any]:
    """Optima of DPO + α NLL and of DPOP: the mean log-ratio of the chosen, and J* - J"""
    beta, chosen = config.beta, share.chosen
    wins = np.zeros((len(r), len(r)))
    wins[*pairs.index.T] = pairs.weight
    threshold = ((ref * ((chosen - share.rejected) / ref).max() - chosen + share.rejected) / chosen).max()
    lams = threshold * np.array(SHARES)
    rpo = np.array([minimizers.rpo(ref, wins, beta, alpha) for alpha in (config.alpha, *ALPHAS)])
    dpop = np.array([_dpop(ref, wins, beta, lam) for lam in (config.lam, *lams)])
    policy, start = Tabular(len(r)), {"W": np.log(ref)[None]}
    *_, last = _trained(policy, start, pairs, dn.LOSSES["rpo"](beta=beta, alpha=config.alpha), 1 / config.alpha, 200)
    best = optimum.optimal_value(ref, r, beta)
    found = {"rpo": rpo[0], "rpo_curve": rpo[1:], "dpop": dpop[0], "dpop_curve": dpop[1:]}
    return {
        "threshold": threshold, "lams": lams, "alphas": np.array(ALPHAS), "ceiling": optimum.kl(chosen, ref),
        "leaves": _leaves(ref, pairs, beta, threshold),
        "reference_regret": best - optimum.value(ref, ref, r, beta),
        "rpo_apart": abs(softmax(last.params["W"][0]) - rpo[0]).max(),
    } | {f"{name}_chosen": np.log(pi / ref) @ chosen for name, pi in found.items()} | {
        f"{name}_regret": best - optimum.value(pi, ref, r, beta) for name, pi in found.items()}


def _leaves(ref: Array, pairs: dn.Preferences, beta: float, lam: float) -> Any:
    """λ, over lam, from which on the DPOP loss falls nowhere from π_ref: the last falls are one up, one down"""
    up, down = np.nonzero(~np.eye(len(ref), dtype=bool))
    log_pi = np.diag(1 / ref)[up] - np.diag(1 / ref)[down]
    policy, start = Tabular(len(ref)), {"W": np.log(ref)[None]}
    moved, told = {"W": start["W"] + 1e-9 * log_pi[:, None]}, pairs.with_reference(policy, start)
    grads = (dn.value_and_grad(policy, moved, told, dn.LOSSES["dpop"](beta=beta, lam=x * lam))[1] for x in (0.99, 1.01))
    low, high = (np.vecdot(log_pi, grad["W"][:, 0]) for grad in grads)
    return (0.99 + 0.02 * low / (low - high)).max()  # slopes are straight in λ


def _dpop(ref: Array, wins: Array, beta: float, lam: float) -> Array:
    """argmin Σ wins (-log σ(β (uᵢ - uⱼ + λ sᵢ))), sᵢ <= 0 and sᵢ <= uᵢ = log π/π_ref: convex; in x = βu and βs"""
    K = len(ref)

    def loss(z: Array) -> tuple[float, Array]:
        gap = z[:K, None] - z[:K] + lam * z[K:, None]
        slope = -wins * np.exp(-np.logaddexp(0, gap))
        grad = np.concatenate([slope.sum(axis=1) - slope.sum(axis=0), lam * slope.sum(axis=1)])
        return float((wins * np.logaddexp(0, -gap)).sum()), grad

    def slack(z: Array) -> Any:
        u = beta * (log_softmax(np.log(ref) + z[:K] / beta) - np.log(ref))
        return np.concatenate([-z[K:], u - z[K:]])

    def bend(z: Array) -> Any:
        pi = softmax(np.log(ref) + z[:K] / beta)
        return np.block([[np.zeros((K, K)), -np.eye(K)], [np.eye(K) - pi, -np.eye(K)]])

    found = minimize(loss, np.zeros(2 * K), jac=True, method="SLSQP", options={"ftol": 1e-15, "maxiter": 400},
                     constraints={"type": "ineq", "fun": slack, "jac": bend})
    pi: Array = softmax(np.log(ref) + found.x[:K] / beta)
    return pi


# ---- one pair

def _shared_features() -> dict[str, Any]:
    """Rates of the three log-probs from two references: measured, and (φ - E φ)·(φ_w - φ_l)"""
    every, start, rates = bandit(np.zeros((1, 3))).responses, {"theta": np.zeros(2)}, []
    for base in BASES:
        scores = dn.scores_matrix(LogLinear(FEATURES, np.log(base)[None]), start, every, np.arange(3))
        rates.append(scores @ (scores[0] - scores[1]))
    return {"feature_rates": np.array(rates),
            "feature_drift": np.array([loglinear.drift(base, FEATURES, FEATURES[0] - FEATURES[1]) for base in BASES])}


def _memoryless(config: Config) -> dict[str, Any]:
    """Chosen "", rejected "a", from p and from its twin; and from p with the likelihood of the chosen"""
    policy, pair, beta = NGram(vocab=3, order=1), dn.Preferences.of([[0]], [[0]], [[1, 0]]), config.language_beta
    p = np.array([[config.p_end, config.p_a, 1 - config.p_end - config.p_a], TWIN])
    starts = [{"W": np.log(row)[None]} for row in p]

    def trained(params: Params, loss: dn.Loss) -> Array:
        """log π of "", of "a", and log p(b), before and after each step"""
        steps = _trained(policy, params, pair, loss, config.lr, config.steps)
        end, a, b = log_softmax([params["W"][0], *(step.params["W"][0] for step in steps)], axis=-1).T
        return np.column_stack([end, a + end, b])

    scores = [dn.scores_matrix(policy, params, pair.responses, pair.index[0]) for params in starts]
    path = np.array([trained(params, dn.LOSSES["dpo"](beta=beta)) for params in starts])
    change = path[:, -1] - path[:, 0]
    with_nll = trained(starts[0], dn.LOSSES["rpo"](beta=beta, alpha=config.alpha))
    return {"path": path, "rate": np.array([s @ (s[0] - s[1]) for s in scores]),
            "rate_theory": p[:, :2].sum(axis=1) - (p**2).sum(axis=1), "language_chosen": change[0, 0],
            "language_margin": change[0, 0] - change[0, 1], "twin_chosen": change[1, 0],
            "nll_path": with_nll, "language_nll": with_nll[-1, 0] - with_nll[0, 0]}


def _bigrams(config: Config, rngs: list[np.random.Generator]) -> dict[str, Any]:
    """Of random bigrams and all pairs of their strings, those whose chosen falls or whose rejected rises"""
    policy = NGram(vocab=4)
    every = strings(4, config.longest + 1, lambda y: 0.0).responses
    repeats = np.array([len(set(y := tokens[mask].tolist())) < len(y) for tokens, mask in zip(
        every.tokens, every.mask, strict=True)])
    apart = ~np.eye(len(every), dtype=bool)
    once = apart & ~(repeats[:, None] | repeats)
    wrong = []
    for rng in rngs:
        scores = dn.scores_matrix(policy, policy.init(rng), every, np.arange(len(every)))
        inner = scores @ scores.T
        own = np.diag(inner)
        bad = (own[:, None] < inner) | (inner > own)  # entry [w, l]: s_w·(s_w - s_l) < 0, or s_l·(s_w - s_l) > 0
        wrong.append([bad[once].sum(), bad[apart & ~once].sum()])
    return {"bigram_wrong": np.array(wrong), "bigram_pairs": np.array([once.sum(), (apart & ~once).sum()])}


# ---- several pairs

def _tables(config: Config, rngs: list[np.random.Generator]) -> dict[str, Any]:
    """Share of a table's pairs whose chosen is below the reference, after a step, at the end, and by how much"""
    K = config.responses
    W: list[Array] = []
    index: list[Array] = []
    for rng in rngs:
        for n in config.pairs:
            prompt, r = len(W), rng.normal(size=K)
            first = rng.integers(K, size=n)
            second = (first + rng.integers(1, K, size=n)) % K
            wins = rng.random(n) < 1 / (1 + np.exp(r[second] - r[first]))
            W.append(np.log(rng.dirichlet(np.ones(K))))
            index.append(prompt * K + np.column_stack([np.where(wins, first, second), np.where(wins, second, first)]))
    policy, start = Tabular(K, len(W)), {"W": np.array(W)}  # each table a prompt of its own, with its own mean loss
    rows, size = np.concatenate(index), np.array([len(i) for i in index])
    pairs = dn.Preferences(bandit(np.zeros((len(W), K))).responses, rows, np.repeat(1 / size, size))
    steps = [now.params["W"] for now in _trained(
        policy, start, pairs, dn.LOSSES["dpo"](beta=config.beta), 0.5 / config.beta**2, config.table_steps)]
    first, end = ((log_softmax(table, axis=1) - start["W"]).ravel()[rows[:, 0]] for table in (steps[0], steps[-1]))

    def mean(each: Array) -> Array:
        found: Array = (np.add.reduceat(each, np.cumsum(size) - size, dtype=float) / size).reshape(len(rngs), -1)
        return found

    return {"pairs": np.array(config.pairs), "fell_first": mean(first < 0), "fell": mean(end < 0),
            "change": mean(end), "fallen": mean(end < 0)[:, -1].mean()}


# ---- the experiment

def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured, by name

    crossover, crossover_distinct  β_×: equal draws kept, and not     chosen, rejected   mean log-ratios at π*
    trained (2,)                   of chosen and rejected, by descent on the distinct pairs
    threshold                      λ₀ of DPOP                         ceiling            KL(c || π_ref)
    rpo_, dpop_                    of α, of λ, and along a curve: `chosen` the mean log-ratio, `regret` J* - J
    path (2, steps, 3)             log π of "", log π of "a", log p(b), of the memoryless model and its twin
    fell (replicates, n)           share of pairs whose chosen is below the reference at the end; `change`, in nats;
                                   `fallen`, the mean share of the last n
    """
    config = config or Config()
    rngs = streams(config.seed, config.replicates)
    found = {
        "beta": config.beta, "alpha": config.alpha, "lam": config.lam, **_at_the_optimum(config), **_shared_features(),
        **_memoryless(config), **_tables(config, rngs), **_bigrams(config, rngs), **_problems(config, rngs),
    }
    return {name: np.asarray(value) for name, value in found.items()}


REPLICATED = ("crossovers", "bigram_wrong", "fell_first", "fell", "change")


def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    r = result
    chosen, n = r["ratio"][:, 0], r["pairs"]
    under, over = r["betas"] < 0.99 * r["crossover"], r["betas"] > 1.01 * r["crossover"]
    at_the_end = np.array([r["chosen_distinct"], r["rejected_distinct"]])
    one, several = r["fell"][:, n == 1], r["fell"][:, n > 1]
    least = several.mean() - 3 * several.mean(axis=1).std(ddof=1) / np.sqrt(len(several)) if several.size else np.nan
    curves = np.concatenate([r[f"{name}_curve_chosen"] for name in ("rpo", "dpop")])
    once, again = r["bigram_wrong"].sum(axis=0)
    tried = len(r["bigram_wrong"]) * r["bigram_pairs"][1]
    by_hand = np.array([0.25, -0.5]) - r["feature_rates"][:, 0]
    return {
        "below the crossover in β the chosen has fallen at π*: largest mean log-ratio, nats": below(
            chosen[under].max() if under.any() else np.nan, 0),
        "above the crossover it has risen: least mean log-ratio, nats": above(
            chosen[over].min() if over.any() else np.nan, 0),
        "descent on all pairs ends at the log-ratios of π*: max |difference|, nats": below(
            abs(r["trained"] - at_the_end).max(), 1e-8),
        "random problems whose chosen has fallen at π*: share": above(r["below"], 0.99),
        "shared features: rates from two references, of the chosen ¼ and -½: max |difference|": below(
            max(abs(r["feature_rates"] - r["feature_drift"]).max(), abs(by_hand).max()), 1e-12),
        "a memoryless model: the chosen falls while the margin grows: change, nats": below(r["language_chosen"], 0),
        "where p(a) + p(end) > |p|² it rises: change, nats": above(r["twin_chosen"], 0),
        "a bigram, no context twice: pairs whose chosen falls or whose rejected rises at first": near(once, 0, 0),
        "a bigram that comes back to a context: share of such pairs": above(again / tried, 0),
        "tables of one pair: share of chosen below the reference": near(one.mean() if one.size else np.nan, 0, 0),
        "tables of several: share of chosen below the reference, less three standard errors": above(least, 0.25),
        "DPO + α NLL lifts the chosen: mean log-ratio at its optimum, nats": above(r["rpo_chosen"], 0),
        "DPO + α NLL leaves π*: its regret over that of the reference": above(
            r["rpo_regret"] / r["reference_regret"], 0.1),
        "no remedy lifts the chosen by more than KL(c || π_ref): largest excess, nats": below(
            (curves - r["ceiling"]).max(), 1e-9),
        "DPOP stays at the reference from λ₀ on: λ where its last fall there ends, over λ₀": near(
            r["leaves"], 1, 1e-4),
    }


# ---- pictures

def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """log π of the chosen, of the rejected and of what takes their mass, against steps; returns the axes"""
    ax = axes(ax)
    path, nll = result["path"][0], result["nll_path"]
    steps = np.arange(len(path))
    for row, (color, label) in enumerate(((CHOSEN, "chosen, “”"), (REJECTED, "rejected, “a”"),
                                          (COLORS[0], "token b, in neither"))):
        ax.plot(steps, path[:, row], color=color, lw=1.8, label=label)
    ax.plot(steps, nll[:, 0], "--", color=CHOSEN, lw=1.5, label=f"chosen, with {result['alpha']:g} NLL")
    ax.plot(steps, path[:, 0] - path[:, 1] - path[0, 0] + path[0, 1], ":", color=POLICY, lw=1.8,
            label="margin, from 0")
    ax.set(xscale="symlog", xlim=(0, len(path)), xlabel="gradient steps", ylabel="nats",
           title="One pair, a memoryless model of a, b, end: the gap grows, both fall")
    ax.legend(fontsize=8, loc="lower left")
    return ax


def _crossover(result: dict[str, Array], ax: Any = None) -> Any:
    """Mean log-ratios at π* against β"""
    ax = axes(ax)
    for columns, style, kind in (((0, 1), "-", "equal draws kept"), ((2, 3), "--", "two that differ")):
        for column, color, who in zip(columns, (CHOSEN, REJECTED), ("chosen", "rejected"), strict=True):
            ax.plot(result["betas"], result["ratio"][:, column], style, color=color, lw=1.8, label=f"{who}, {kind}")
    ax.axhline(0, color=REFERENCE, lw=0.8)
    for name, style in (("crossover", "-"), ("crossover_distinct", "--")):
        if np.isfinite(result[name]) and result[name] > 0:
            ax.axvline(result[name], ls=style, color=OPTIMUM, lw=1, label=f"β = {result[name]:.3f}")
    ax.set(xscale="log", xlim=(0.1, 30), ylim=(-3, 0.5), xlabel="β, reward a nat", ylabel="mean log π*/π_ref, nats",
           title="At the exact optimum, on its own training pairs")
    ax.legend(fontsize=8, loc="lower right")
    return ax


def _remedied(result: dict[str, Array], ax: Any = None) -> Any:
    """What remedies do to the chosen at the optimum, against what they cost"""
    ax = axes(ax)
    share = result["reference_regret"]
    for name, label, color, values, up in (("rpo", "DPO + α NLL", COLORS[0], result["alphas"], -9),
                                           ("dpop", "DPOP, λ", COLORS[1], result["lams"], 6)):
        x, y = result[f"{name}_curve_regret"] / share, result[f"{name}_curve_chosen"]
        ax.plot(x, y, marker="o", color=color, lw=1.2, ms=4, label=label)
        for k in range(0, len(x), 2):
            ax.annotate(f"{values[k]:.2g}", (x[k], y[k]), (6, up), fontsize=7, color=color,
                        textcoords="offset points")
    ax.plot(0, result["chosen_distinct"], "*", color=OPTIMUM, ms=12, label="DPO: π*")
    ax.plot(1, 0, "D", color=REFERENCE, ms=7, label="π_ref")
    ax.axhline(result["ceiling"], color=CHOSEN, ls=":", lw=1, label="KL(c || π_ref): no policy is above")
    ax.set(xlabel="J* - J, of that of π_ref", ylabel="mean log π/π_ref of the chosen, nats",
           title="A chosen response that does not fall costs regret")
    ax.legend(fontsize=8, loc="center right")
    return ax


def _several(result: dict[str, Array], ax: Any = None) -> Any:
    """Share of chosen responses below the reference, against the number of pairs"""
    ax = axes(ax)
    n = result["pairs"]
    for name, color, label in (("fell_first", COLORS[2], "after one step"), ("fell", POLICY, "at the end")):
        values = 100 * result[name]
        error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
        ax.errorbar(n, values.mean(axis=0), 2 * error, color=color, marker="o", ms=4, lw=1.5, capsize=3, label=label)
    ax.set(xscale="log", xticks=n, xlabel="pairs a table, one label each", ylim=(-3, 103),
           ylabel="pairs whose chosen is below π_ref, %", title="Tables share a normalizer: one pair never, many do")
    ax.set_xticks(n, [str(k) for k in n])
    ax.minorticks_off()
    ax.legend(fontsize=8)
    return ax


PANELS = (plot, _crossover, _remedied, _several)
