"""Whether length counts is decided by who is asked, and what else is held fixed: once the strength of each model is
known, people at most lean against long answers, GPT-4 does so clearly, and 289 empty answers turn the sign.

LLMFAO: 59 models answered 13 prompts; people voted several times on each of 2,139 pairs of answers (left, right or
tie), GPT-4 once. A vote is Bradley-Terry with d = s_left - s_right + γ log((1 + |left|)/(1 + |right|)), s the strengths
of the models (`analytic.vote_model`). Votes on one pair hang together, and so may those on one prompt, or of one voter:
errors are clustered by each.

Two who decide for a side agree with probability A. If each pair had a true order and each vote a flip with probability
ε, A = 1 - 2ε(1 - ε). Under Bradley-Terry disagreement is not noise but the margin itself: A = E[p² + (1 - p)²]. Four
votes a pair tell these apart: u = p(1 - p) is the same for all pairs only if ε is. That ε is what robust DPO asks for
(Ray Chowdhury et al. 2024, arXiv:2403.00409); here it and DPO learn a table of the models from one vote a pair, from
the majority, and from all votes, and are asked about votes on other pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, stdtrit

import dpo_numpy as dn
from analytic import graph, vote_model
from dpo_numpy.losses import Loss

from ..tabular import Tabular
from ..worlds import bandit
from ._claims import Claim, above, below, between, near
from ._config import require, streams
from ._figure import COLORS, POLICY, REFERENCE, axes
from ._real import UNITS, Votes, llmfao, of_rows

__all__ = ["PANELS", "REPLICATED", "Config", "claims", "plot", "run"]

Array = NDArray[Any]

CLUSTERS = ("vote", "pair", "voter", "prompt")
Z = 1.959964  # of a 95% interval
REPLICATED = ("heldout_loss", "heldout_accuracy", "limits")
# to two digits; characters, decided votes; every answer and then none that is empty, without strengths and with them
STATED = np.array([[-0.02, 0.06], [-0.21, -0.08]])


@dataclass(frozen=True)
class Config:
    """How votes are read, and what learns from them

    seed        of the splits, and of the one vote of each pair
    replicates  splits of the pairs into those to learn from and those to be asked about
    unit        of lengths: characters, bytes or words
    ties        decided leaves ties out; davidson and rao_kupper have a parameter for them
    share       of the pairs to learn from
    steps       of each training
    eps         flips that robust and conservative DPO are told; 0 is what the agreement of voters says
    """

    seed: int = 0
    replicates: int = 4
    unit: str = "characters"
    ties: str = "decided"
    share: float = 0.5
    steps: int = 100
    eps: float = 0.0

    def __post_init__(self) -> None:
        require(self, positive=("share",), shares=("share", "eps"), least={"replicates": 1, "steps": 2},
                choices={"unit": UNITS, "ties": ("decided", "davidson", "rao_kupper")})
        if not self.eps < 0.5:
            raise ValueError(f"eps is {self.eps}; expected below 0.5")


# ---- does length count

def _fit(votes: Votes, strengths: bool, ties: str, side: bool = False) -> vote_model.VoteFit:
    """γ of length, the first, and where asked that of being on the left"""
    x = np.column_stack([votes.longer, np.ones(len(votes.pair))])[:, :1 + side]
    return vote_model.fit(votes.outcome, strengths * votes.left, strengths * votes.right, x,
                          ties="davidson" if ties == "decided" else ties)


def _errors(found: vote_model.VoteFit, votes: Votes, k: int) -> list[float]:
    """Of covariate k: of the model, and clustered; NaN where all votes are one cluster"""
    at = len(found.strength) + k
    errors = [np.sqrt(found.covariance[at, at])]
    for cluster in (votes.pair, votes.voter, votes.prompt):
        apart = np.ptp(cluster) > 0
        errors.append(np.sqrt(vote_model.clustered(found, cluster)[at, at]) if apart else np.nan)
    return errors


def _pull(votes: Votes, ties: str, pairs: int) -> Array:
    """(pairs,): how far the votes on each pair move γ of length"""
    found = _fit(votes, True, ties)
    return np.bincount(votes.pair, found.scores @ found.covariance[:, len(found.strength)], pairs)


def _length(voters: tuple[Votes, Votes], ties: str, pairs: int) -> dict[str, Array]:
    kept = [of_rows(votes, votes.outcome != 0) if ties == "decided" else votes for votes in voters]
    effect, error = np.empty((2, 2, 2)), np.empty((len(CLUSTERS), 2, 2, 2))
    side, side_error, pull = np.empty(2), np.empty((len(CLUSTERS), 2)), np.empty((2, pairs))
    for v, votes in enumerate(kept):
        said = of_rows(votes, ~votes.empty)
        for a, rows in enumerate((votes, said)):
            for s in (0, 1):
                found = _fit(rows, bool(s), ties)
                effect[v, a, s], error[:, v, a, s] = found.gamma[0], _errors(found, rows, 0)
        found = _fit(said, True, ties, side=True)
        side[v], side_error[:, v] = found.gamma[1], _errors(found, said, 1)
        pull[v] = _pull(said, ties, pairs)
    return {"effect": effect, "error": error, "side": side, "side_error": side_error,
            "length_effect": effect[0, 1, 1], "length_error": error[1, 0, 1, 1],
            "apart": effect[1, 1, 1] - effect[0, 1, 1],
            "apart_error": _root(pull[1] - pull[0])}


# ---- do voters agree

def _agreement(human: Votes, gpt4: Votes, pairs: int) -> dict[str, Any]:
    left, right = (np.bincount(human.pair, human.outcome == side, pairs) for side in (1, -1))
    n = left + right
    same, met = left * (left - 1) + right * (right - 1), n * (n - 1)
    empty, judged = np.zeros(pairs, bool), np.zeros(pairs)
    empty[human.pair], judged[gpt4.pair] = human.empty, gpt4.outcome
    agreement, pull = _ratio(same, met)
    with_gpt4, other = _ratio(np.where(judged > 0, left, right) * (judged != 0), n * (judged != 0))
    gap = [_ratio(same * rows, met * rows) for rows in (empty, ~empty)]
    decided = of_rows(human, human.outcome != 0)
    p = vote_model.probabilities(_fit(decided, True, "decided"), decided.left, decided.right, decided.longer)
    doubt = np.zeros(pairs)
    doubt[decided.pair] = p[:, 0] * p[:, 2]
    return {
        "agreement": agreement, "agreement_error": _root(pull), "explained": (met * (1 - 2 * doubt)).sum() / met.sum(),
        "eps": _flips(agreement),
        "eps_error": _root(pull) / (2 * np.sqrt(2 * agreement - 1)) if agreement > 0.5 else np.nan,
        "empty_gap": gap[0][0] - gap[1][0], "empty_gap_error": _root(gap[0][1] - gap[1][1]),
        "gpt4_agreement": with_gpt4, "less": agreement - with_gpt4, "less_error": _root(pull - other),
    } | _four_votes(left, right, ~empty, doubt)


def _four_votes(left: Array, right: Array, rows: Array, doubt: Array) -> dict[str, Any]:
    """Of pairs with four decided votes and more, u = p(1 - p) and its square without bias"""
    rows = rows & (left + right >= 4)
    a, b, n = left[rows], right[rows], (left + right)[rows]
    u = a * b / (n * (n - 1))
    squared = a * (a - 1) * b * (b - 1) / (n * (n - 1) * (n - 2) * (n - 3))
    return {
        # E u² - (E u)², the latter without the error of the mean
        "spread": squared.mean() - u.mean() ** 2 + u.var(ddof=1) / len(u),
        "spread_error": (squared - 2 * u.mean() * u).std() / np.sqrt(len(u)),
        "split": _split(u.mean(), squared.mean()), "split_one_eps": _split(u.mean(), u.mean() ** 2),
        "split_strengths": _split(doubt[rows].mean(), (doubt[rows] ** 2).mean()),
    }


def _split(u: Any, squared: Any) -> Array:
    """p⁴ + q⁴, 4 p q (p² + q²), 6 p² q²: four voters 4 : 0, 3 : 1, 2 : 2"""
    return np.array([1 - 4 * u + 2 * squared, 4 * (u - 2 * squared), 6 * squared])


def _ratio(part: Array, of: Array) -> tuple[Any, Array]:
    """Σ part/Σ of, and how far each pair moves it"""
    ratio = part.sum() / of.sum()
    return ratio, (part - ratio * of) / of.sum()


def _root(pull: Array) -> Any:
    return np.sqrt((pull**2).sum())


def _flips(agreement: Any) -> Any:
    """ε of A = 1 - 2ε(1 - ε); ½ where voters agree by chance or less"""
    return (1 - np.sqrt(max(2 * agreement - 1, 0))) / 2


# ---- what learns from them

def _splits(human: Votes, models: int, pairs: int, config: Config) -> tuple[dict[str, Array], Array]:
    """Weights of (winner, loser), (replicates, models, models): what is learned from, by name, and held-out votes"""
    left, right = (np.bincount(human.pair, human.outcome == side, pairs) for side in (1, -1))
    model = np.zeros((2, pairs), int)
    model[:, human.pair] = human.left, human.right
    share = left / np.maximum(left + right, 1)
    told: dict[str, list[Array]] = {"one vote": [], "majority": [], "all votes": []}
    asked = []
    for rng in streams(config.seed, config.replicates):
        learn, one = rng.random(pairs) < config.share, rng.random(pairs) < share
        for name, p in (("one vote", one), ("majority", (np.sign(left - right) + 1) / 2), ("all votes", share)):
            told[name].append(_table(model, p, learn & (left + right > 0), models))
        asked.append(_table(model, share, ~learn & (left + right > 0), models))
    return {name: np.array(x) for name, x in told.items()}, np.array(asked)


def _table(model: Array, p: Array, rows: Array, models: int) -> Array:
    wins = np.zeros((models, models))
    np.add.at(wins, (model[0, rows], model[1, rows]), p[rows])
    np.add.at(wins, (model[1, rows], model[0, rows]), 1 - p[rows])
    return wins


def _trained(wins: Array, loss: Loss, steps: int) -> Array:
    """(steps, replicates, models): log-odds of a table with a prompt for each replicate, step by step"""
    rows, K, _ = wins.shape
    policy, start = Tabular(K, rows), {"W": np.zeros((rows, K))}
    at, i, j = np.nonzero(wins)
    weight = (wins / wins.sum(axis=(1, 2), keepdims=True))[at, i, j] / rows
    pairs = dn.Preferences(bandit(np.zeros((rows, K))).responses, np.column_stack([at * K + i, at * K + j]), weight)
    pairs = pairs.with_reference(policy, start)
    path = dn.train(policy, start, repeat(pairs), loss, dn.momentum(10.0 * rows, 0.7))
    return np.array([step.params["W"] for step in islice(path, steps)])


def _learned(human: Votes, models: int, pairs: int, eps: float, config: Config) -> dict[str, Array]:
    told, asked = _splits(human, models, pairs, config)
    DPO, LOSSES = dn.LOSSES["dpo"](beta=1.0), dn.LOSSES
    methods = {
        "DPO, one vote": ("one vote", DPO), "cDPO, one vote": ("one vote", LOSSES["cdpo"](beta=1.0, eps=eps)),
        "rDPO, one vote": ("one vote", LOSSES["rdpo"](beta=1.0, eps=eps)), "DPO, majority": ("majority", DPO),
        "DPO, all votes": ("all votes", DPO),
    }
    losses, accuracy, size = [], [], []
    share = asked / asked.sum(axis=(1, 2), keepdims=True)
    for data, loss in methods.values():
        r = _trained(told[data], loss, config.steps)
        d = r[..., :, None] - r[..., None, :]
        losses.append(-(share * log_expit(d)).sum(axis=(-2, -1)))
        accuracy.append((share * ((d > 0) + (d == 0) / 2)).sum(axis=(-2, -1)))
        size.append(r.std(axis=-1).mean(axis=1))
    everything = np.sum([told["all votes"][0], asked[0]], axis=0)
    return {
        "method": np.array(list(methods)), "heldout_loss": np.array(losses).transpose(2, 0, 1),
        "heldout_accuracy": np.array(accuracy).transpose(2, 0, 1), "size": np.array(size),
        "limits": graph.largest_flip(told["one vote"]), "limit": graph.largest_flip(everything),
        "asked": asked.sum(axis=(1, 2)).min(),
        "dpo_loss": losses[0][-1].mean(), "cdpo_loss": losses[1][-1].mean(), "rdpo_loss": losses[2][-1].mean(),
    }


# ---- the experiment

def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured, by name

    effect           γ of log length: people and GPT-4, every pair and those without an empty answer, without strengths
                     and with them
    error            of these, in front an axis of clusters: vote (the model's own), pair, voter, prompt
    side             γ of being on the left              ties       share, of people and of GPT-4
    agreement, eps   of two who decide                   explained  agreement that strengths and length make
    empty_gap        agreement where an answer is empty, less elsewhere
    spread           variance of u over pairs            split     4:0, 3:1, 2:2 among four who decide, and what one ε
                     without an empty answer                       and the fit of strengths and length make of it
    heldout_loss, heldout_accuracy   replicates, methods, steps; nats a vote, share of votes
    size             standard deviation of the log-odds  limits     ε from which rDPO has no minimum; limit of all votes
    length_effect    of people, no empty answer, strengths known; its error by pair
    dpo_loss, cdpo_loss, rdpo_loss   held out, one vote a pair, at the end

    Raises `Skipped` where there are no such data.
    """
    config = config or Config()
    human, gpt4, models = llmfao(config.unit)
    pairs = int(human.pair.max()) + 1
    found = _agreement(human, gpt4, pairs)
    eps = config.eps or float(found["eps"])
    result = _length((human, gpt4), config.ties, pairs) | found | _learned(human, models, pairs, eps, config) | {
        "pairs": pairs, "votes": len(human.pair), "models": models, "told_eps": eps,
        "prompts": len(np.unique(human.prompt)),
        "empty": len(np.unique(human.pair[human.empty])),
        "ties": np.array([np.mean(votes.outcome == 0) for votes in (human, gpt4)]),
        "cluster": np.array(CLUSTERS),
    }
    return {name: np.asarray(x) for name, x in result.items()}


def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    effect, error = result["effect"], result["error"]
    by_pair, by_prompt = Z * error[1], _few(result) * error[3]
    found = {"2,139 pairs, 289 of them with an empty answer: number": near(result["empty"], 289, 0)}
    off = abs(effect[0] - STATED)
    found["people, γ is -0.02, with strengths 0.06, and without empty answers -0.21, -0.08: largest "
          "difference"] = below(off.max(), 0.00501)
    found["people, strengths known, with empty answers length speaks for an answer: lower end of γ"] = above(
        effect[0, 0, 1] - by_pair[0, 0, 1], 0)
    found["people, strengths known, without them it speaks against: upper end of γ"] = below(
        effect[0, 1, 1] + by_pair[0, 1, 1], 0)
    found["but 13 prompts cannot tell: its upper end, clustered by prompt"] = above(
        effect[0, 1, 1] + by_prompt[0, 1, 1], 0)
    found["GPT-4 is sure even so: upper end of γ, clustered by prompt"] = below(effect[1, 1, 1] + by_prompt[1, 1, 1], 0)
    found["and GPT-4 is harder on length than people: upper end of the difference"] = below(
        result["apart"] + Z * result["apart_error"], 0)
    side, side_error = result["side"], Z * result["side_error"]
    found["people lean to the left answer: lower end of γ, clustered by voter"] = above(side[0] - side_error[2, 0], 0)
    found["GPT-4 leans to the right one: upper end of γ"] = below(side[1] + side_error[1, 1], 0)
    found["ties are a tenth as frequent with GPT-4: ratio"] = between(result["ties"][1] / result["ties"][0], 0.05, 0.15)
    found["voters agree more than strengths and length explain: standard errors"] = above(
        (result["agreement"] - result["explained"]) / result["agreement_error"], 3)
    found["no one ε for all pairs: agreement where an answer is empty less elsewhere, in standard errors"] = above(
        result["empty_gap"] / result["empty_gap_error"], 3)
    found["but elsewhere four votes a pair do not refute one: variance of p(1 - p), in standard errors"] = between(
        result["spread"] / result["spread_error"], -3, 3)
    found["GPT-4 agrees with a person less than another person does: lower end of the difference"] = above(
        result["less"] - Z * result["less_error"], 0)
    loss = dict(zip(result["method"].tolist(), result["heldout_loss"][..., -1].T, strict=True))
    right = dict(zip(result["method"].tolist(), result["heldout_accuracy"][..., -1].T, strict=True))
    size = dict(zip(result["method"].tolist(), result["size"], strict=True))
    half = result["size"].shape[1] // 2
    found["rDPO at that ε has no minimum: largest ε that would leave one, of the splits"] = below(
        result["limits"].max(), float(result["told_eps"]))
    found["rDPO's log-odds grow on: those at the end over those halfway"] = above(
        size["rDPO, one vote"][-1] / size["rDPO, one vote"][half - 1], 1.2)
    found["those of DPO on the same votes do not"] = below(
        size["DPO, one vote"][-1] / size["DPO, one vote"][half - 1], 1.05)
    found["rDPO costs held-out votes: loss over that of DPO, least of the splits"] = above(
        (loss["rDPO, one vote"] - loss["DPO, one vote"]).min(), 0)
    found["but rDPO leaves the order: held-out accuracy less that of DPO, in standard errors of one"] = between(
        _widest((right["rDPO, one vote"] - right["DPO, one vote"]) / np.sqrt(0.25 / result["asked"])), -3, 3)
    found["all votes of a pair tell more than one: held-out loss of one less, least of the splits"] = above(
        (loss["DPO, one vote"] - loss["DPO, all votes"]).min(), 0)
    return found


def _few(result: dict[str, Array]) -> Any:
    """Student's for Z: prompts are so few"""
    return stdtrit(result["prompts"] - 1, 0.975)


def _widest(x: Array) -> Any:
    return x[abs(x).argmax()]


# ---- pictures

def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """γ of log length with 95% intervals, thick by pair, thin by prompt; returns the axes"""
    ax = axes(ax)
    names = [f"{answers}, {strengths}" for answers in ("every answer", "none empty") for strengths in (
        "no strengths", "strengths")]
    for v, (voter, color) in enumerate((("people", COLORS[0]), ("GPT-4", COLORS[1]))):
        y = np.arange(4)[::-1] + 0.12 - 0.24 * v
        for cluster, width, times in ((3, 1, _few(result)), (1, 4, Z)):
            ax.errorbar(result["effect"][v].ravel(), y, xerr=times * result["error"][cluster, v].ravel(), fmt="none",
                        ecolor=color, elinewidth=width)
        ax.plot(result["effect"][v].ravel(), y, "o", color=color, label=voter)
    ax.axvline(0, color=REFERENCE, lw=0.8)
    ax.set(yticks=np.arange(4)[::-1], yticklabels=names, ylim=(-0.6, 3.6), xlabel="γ, nats a nat of log length",
           title="Length and votes; 95%: thick by pair, thin by prompt")
    ax.legend(loc="upper left", frameon=False)
    return ax


def _four(result: dict[str, Array], ax: Any = None) -> Any:
    ax = axes(ax)
    x = np.arange(3)
    for k, (name, color, label) in enumerate((("split", COLORS[0], "votes"), (
            "split_one_eps", REFERENCE, "one ε for all pairs"), (
            "split_strengths", COLORS[1], "Bradley-Terry of strengths and length"))):
        ax.bar(x + 0.27 * (k - 1), result[name], 0.25, color=color, label=label)
    ax.set(xticks=x, xticklabels=["4 : 0", "3 : 1", "2 : 2"], xlabel="four voters who decide", ylabel="share",
           ylim=(0, 1.3 * max(result["split"].max(), result["split_strengths"].max())),
           title="How four votes on one pair fall (no empty answer)")
    ax.legend(frameon=False)
    return ax


def _heldout(result: dict[str, Array], ax: Any = None) -> Any:
    ax = axes(ax)
    loss = result["heldout_loss"].mean(axis=0)
    looks = {"DPO, one vote": (POLICY, "-"), "cDPO, one vote": (COLORS[1], "-"), "rDPO, one vote": (COLORS[0], "-"),
             "DPO, majority": (COLORS[2], "-"), "DPO, all votes": (POLICY, "--")}
    for name, path in zip(result["method"].tolist(), loss, strict=True):
        color, style = looks[name]
        ax.plot(np.arange(1, len(path) + 1), path, style, color=color, label=name)
    ax.axhline(np.log(2), color=REFERENCE, lw=0.8, ls=":", label="a coin, log 2")
    ax.set(xlabel="steps", ylabel="nats a vote on other pairs", ylim=(0.6, 1.0),
           title=f"Told ε = {result['told_eps']:.2f}, rDPO runs off")
    ax.legend(fontsize=8, frameon=False)
    return ax


PANELS = (plot, _four, _heldout)
