"""In OASST the longer reply wins 70% of the time, and DPO on its labels makes replies longer: with a strong penalty by
what the labels say, with a weak one in good part by fitting noise, as labels tossed by a coin make them longer too.

100 conversation trees, replies ranked by people. A reply stands in several pairs, so errors are clustered by tree, and
pairs are held out by tree: a bigram of bytes that DPO trains is no better than a coin there, since what it has not read
loses log π/π_ref with every byte, and better where pairs are split at random, as it has read the replies. In HH
(harmless) it is the shorter one that wins.

What labels do to length is exact in a language of eight signs: the end and kinds of characters. Its bigram π_ref is fit
to the replies, DPO trains it on pairs labelled by people, by length, by people reversed, by people with weights that
leave length no say (as much weight on pairs that the shorter one won as on those that the longer one won, among pairs
of like ratios of lengths), and by coins. E|y| is a sum over all strings (`analytic.ngram`). At π_ref the gradient is
-β/2 Σ w (∇log π(chosen) - ∇log π(rejected)), odd in the labels: coins move E|y| by nothing on average, to first order,
and what they add comes later. R-DPO (Park et al. 2024, arXiv:2403.19159), LN-DPO and SimPO (Meng et al. 2024,
arXiv:2405.14734) learn from the labels of people; the β of the last two, of means over tokens, is that of DPO times the
mean length.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import dpo_numpy as dn
from analytic import ngram, vote_model
from dpo_numpy.data import Bytes, Row, load, to_preferences
from dpo_numpy.losses import Loss
from dpo_numpy.numerics import log_softmax
from dpo_numpy.policy import Params
from dpo_numpy.preferences import Preferences

from ..ngram import NGram
from ._claims import Claim, above, below, near
from ._config import require, streams
from ._figure import COLORS, POLICY, REFERENCE, axes
from ._real import files

__all__ = ["PANELS", "REPLICATED", "Config", "claims", "plot", "run"]

Array = NDArray[Any]

Z = 1.959964  # of a 95% interval
RECORDS = 20  # of a training
REPLICATED = ("coin_length",)
LABELS = ("people", "the longer one", "people, reversed", "people, lengths balanced")


@dataclass(frozen=True)
class Config:
    """What is trained, and how

    seed        of folds and of coins
    replicates  sets of labels that coins make
    betas       reward that a nat of KL costs; the other losses are compared at the first
    alpha       of R-DPO, nats of margin a character
    steps, lr   of Adam, for the language of kinds
    bins        of the ratio of lengths, in which wins are counted and labels balanced
    folds       that pairs of bytes are held out in
    order       of the n-gram of bytes
    byte_steps  of Adam, for bytes
    score_hh    whether bytes are scored on HH too, which takes as long as all else
    """

    seed: int = 0
    replicates: int = 5
    betas: tuple[float, ...] = (1.0, 0.1)
    alpha: float = 0.002
    steps: int = 200
    lr: float = 0.005
    bins: int = 5
    folds: int = 3
    order: int = 2
    byte_steps: int = 30
    score_hh: bool = False

    def __post_init__(self) -> None:
        require(self, positive=("betas", "lr"), nonnegative=("alpha",), least={
            "replicates": 1, "steps": RECORDS, "bins": 1, "folds": 2, "order": 1, "byte_steps": 1})


class _Kinds(dict[str, int]):
    def __missing__(self, c: str) -> int:
        kinds = (c.islower(), c.isupper(), c.isdigit(), c == " ", c == "\n", c in ".!?", True)
        return self.setdefault(c, 1 + kinds.index(True))


class Kinds:
    """The end, lower case, upper case, digits, spaces, new lines, full stops and their kin, all else"""

    vocab, kinds = 8, _Kinds()

    def encode(self, text: str) -> list[int]:
        return [self.kinds[c] for c in text.strip()]

    def decode(self, ids: Any) -> str:
        return "".join("\0aA0 \n.#"[i] for i in ids)


# ---- how often the longer one wins

def _lengths(rows: tuple[Row, ...]) -> Array:
    return np.array([[len(text) for text in row.responses] for row in rows])


def _share(won: ArrayLike, group: Array) -> tuple[Any, Any]:
    """And its standard error, clustered"""
    won = np.asarray(won, float)
    return won.mean(), np.sqrt((np.bincount(group, won - won.mean()) ** 2).sum()) / len(won)


def _like(size: Array, bins: int) -> Array:
    """In which of bins of equal numbers each is"""
    return np.searchsorted(np.quantile(size, np.arange(1, bins) / bins), size)


def _wins(rows: tuple[Row, ...], group: Array, bins: int) -> dict[str, Any]:
    length = _lengths(rows)
    longer, ratio = np.sign(length[:, 0] - length[:, 1]), np.log(length[:, 0] / length[:, 1])
    won, kind = (longer + 1) / 2, _like(abs(ratio), bins)
    share, error = _share(won, group)
    alone = np.arange(len(rows))
    each = np.array([[*_share(won[kind == k], group[kind == k]), _share(won[kind == k], alone[kind == k])[1]]
                     if (kind == k).any() else [np.nan] * 3 for k in range(bins)])
    none = np.zeros(len(rows), int)
    found = vote_model.fit(none + 1, none, none, ratio)
    return {"share": share, "error": error, "alone": _share(won, alone)[1],
            "times": np.exp(np.quantile(abs(ratio), np.arange(bins + 1) / bins)),
            "share_by_times": each[:, 0], "error_by_times": each[:, 1], "alone_by_times": each[:, 2],
            "gamma": found.gamma[0], "gamma_error": np.sqrt(vote_model.clustered(found, group)[1, 1])}


# ---- bytes, held out

def _score(pairs: Preferences, fold: Array, config: Config) -> Array:
    """(2, B): whether DPO without a pair's fold prefers the chosen one, ½ where it does not care; and a byte"""
    few = config.order < 3  # contexts, so that all of them are kept
    policy = NGram(257, config.order) if few else NGram.seen(257, config.order, pairs.responses)
    right, length = np.empty((2, len(pairs))), pairs.responses.length
    everything = np.arange(len(pairs.responses))
    for k in range(config.folds):
        learn = fold != k
        read = np.isin(everything, pairs.index[learn])
        start = policy.fit(pairs.responses, read)
        told = Preferences(pairs.responses, pairs.index, learn / learn.sum()).with_reference(policy, start)
        path = dn.train(policy, start, repeat(told), dn.LOSSES["dpo"](beta=0.1), dn.adam(0.01))
        *_, last = islice(path, config.byte_steps)
        h = policy.logp(last.params, pairs.responses, everything)[0] - told.responses.facts["ref_logp"]
        for row, x in zip(right, (h, h / length), strict=True):
            row[~learn] = (1 + np.sign(x[pairs.index[:, 0]] - x[pairs.index[:, 1]]))[~learn] / 2
    return right


def _scores(rows: tuple[Row, ...], group: Array, config: Config, rng: np.random.Generator) -> dict[str, Any]:
    pairs = to_preferences([row._replace(prompt="") for row in rows], Bytes())
    apart = rng.permutation(group.max() + 1) % config.folds
    right = dict(zip(("score", "per_byte"), _score(pairs, apart[group], config), strict=True))
    right["mixed"] = _score(pairs, rng.permutation(len(rows)) % config.folds, config)[0]
    right["leak"] = right["mixed"] - right["score"]
    length = _lengths(rows)
    right["fresh_longer"] = np.where(length[:, 0] > length[:, 1], right["score"], 1 - right["score"])
    return {f"{name}{end}": x for name, won in right.items()
            for end, x in zip(("", "_error"), _share(won, group), strict=True)}


# ---- what labels do to length

class _Language:
    """The replies in kinds of characters, and the bigram that is fit to them"""

    def __init__(self, rows: tuple[Row, ...]) -> None:
        pairs = to_preferences([row._replace(prompt="") for row in rows], Kinds())
        self.policy = NGram(Kinds.vocab, 2)
        self.start = self.policy.fit(pairs.responses)
        self.people = pairs.with_reference(self.policy, self.start)
        self.ref = _probabilities(self.start)
        length = (pairs.responses.length - 1)[pairs.index]
        self.mean_length = float((pairs.responses.length - 1).mean())
        self.longer, self.ratio = np.sign(length[:, 0] - length[:, 1]), np.log(length[:, 0] / length[:, 1])
        # ∂E|y|/∂W at the reference; the end, which comes once, adds a constant
        self.lengthens = ngram.policy_gradient(self.ref, self.ref, np.ones(self.ref.shape), 1.0)

    def labelled(self, by: Array, weight: Array | None = None) -> Preferences:
        """Pairs as people labelled them where `by` is above 0, the other way round where it is below"""
        index = np.where((by < 0)[:, None], self.people.index[:, ::-1], self.people.index)
        return Preferences(self.people.responses, index, self.people.weight if weight is None else weight)

    def balanced(self, bins: int) -> Array:
        """Weights of pairs, (B,): of like ratios of lengths, those that the longer one won weigh as much as the rest"""
        kind = _like(abs(self.ratio), bins)
        won, lost = (np.bincount(kind, self.longer == side, bins)[kind] for side in (1, -1))
        weight = np.where(self.longer > 0, lost / np.maximum(won, 1), np.where(won > 0, 1.0, 0.0))
        return np.asarray(weight / weight.sum())

    def pull(self, pairs: Preferences, loss: Loss) -> float:
        """dE|y| along the first step of plain gradient descent, per unit of its rate"""
        _, gradient = dn.value_and_grad(self.policy, self.start, pairs, loss)
        return float(-(gradient["W"] * self.lengthens).sum())

    def trained(self, pairs: Preferences, loss: Loss, config: Config) -> list[Array]:
        """π at each record"""
        path, kept = dn.train(self.policy, self.start, repeat(pairs), loss, dn.adam(config.lr)), _recorded(config.steps)
        return [_probabilities(step.params) for k, step in enumerate(islice(path, config.steps), 1) if k in kept]


def _recorded(steps: int) -> Array:
    return np.linspace(0, steps, RECORDS + 1).round().astype(int)[1:]


def _probabilities(params: Params) -> Array:
    p: Array = np.exp(log_softmax(params["W"]))
    return p


def _expected_lengths(path: list[Array]) -> list[float]:
    return [ngram.expected_length(p) for p in path]


def _lengthened(rows: tuple[Row, ...], config: Config) -> dict[str, Any]:
    language = _Language(rows)
    people, side = language.people, np.ones(len(rows))
    labelled = dict(zip(LABELS, (people, language.labelled(language.longer), language.labelled(-side),
                                 language.labelled(side, language.balanced(config.bins))), strict=True))
    coins = [language.labelled(rng.choice([-1, 1], len(rows))) for rng in streams(config.seed, config.replicates)]
    losses = [dn.LOSSES["dpo"](beta=beta) for beta in config.betas]
    paths = [[language.trained(pairs, loss, config) for pairs in labelled.values()] for loss in losses]
    length = np.array([[_expected_lengths(path) for path in row] for row in paths])
    coin = np.array([[_expected_lengths(language.trained(pairs, loss, config)) for loss in losses] for pairs in coins])
    beta, each = config.betas[0], config.betas[0] * language.mean_length
    others = {"DPO": losses[0], "R-DPO": dn.LOSSES["r_dpo"](beta=beta, alpha=config.alpha),
              "LN-DPO": dn.LOSSES["ln_dpo"](beta=each), "SimPO": dn.LOSSES["simpo"](beta=each, gamma=1.0)}
    compared = [paths[0][0], *(language.trained(people, loss, config) for loss in list(others.values())[1:])]
    start = ngram.expected_length(language.ref)
    growth, noise = np.log(length[..., -1] / start), np.log(coin[..., -1] / start)
    spread = noise.std(axis=0, ddof=1) / np.sqrt(len(noise)) if len(noise) > 1 else np.full(len(losses), np.nan)
    return {
        "label": np.array(LABELS), "beta": np.array(config.betas), "start": start, "mean": language.mean_length,
        "length": length, "growth": growth, "coin_length": coin,
        "noise": noise.mean(axis=0), "noise_error": spread, "from_labels": growth[0, 0] - noise[:, 0].mean(),
        "from_noise": noise[:, 0].mean(),
        "pull": np.array([language.pull(pairs, losses[0]) for pairs in labelled.values()]),
        "loss": np.array(list(others)), "loss_length": np.array([_expected_lengths(path) for path in compared]),
        "loss_kl": np.array([[ngram.kl(p, language.ref) for p in path] for path in compared]),
        "steps": _recorded(config.steps),
    } | {f"{name.lower().replace('-', '_')}_length": ngram.expected_length(path[-1])
         for name, path in zip(others, compared, strict=True)}


# ---- the experiment

def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured, by name; "oasst_" and "hh_" in front of what files say

    share, error      of pairs that the longer one wins, clustered by tree; alone: as if pairs were independent
    times             edges of bins by how many times longer; share_by_times, error_by_times, alone_by_times in them
    gamma             log-odds of winning a nat of log length          pairs, groups, empty   how many
    score, mixed      of bytes: pairs held out by tree, at random; leak the latter less the former; by tree too,
                      per_byte by the mean a byte, and fresh_longer the share that prefers the longer one; NaN if not
                      asked for
    start, mean       E|y| of the reference, of the replies            length  E|y|: betas, labels, records
    growth            log E|y|/start at the end: betas, labels         coin_length  replicates, betas, records
    noise             growth by coins, mean, of each beta              from_labels, from_noise  of it at the first beta
    pull              dE|y| of a first step at the first beta          loss_length, loss_kl  losses, records
    dpo_length, r_dpo_length, ln_dpo_length, simpo_length              E|y| at the end, labels by people

    Raises `Skipped` where there are no such data.
    """
    config = config or Config()
    result: dict[str, Any] = {}
    oasst, hh = (load(path) for path in files("oasst_en_100_tree.jsonl.gz", "hh_harmless_test.jsonl.gz"))
    rng = np.random.default_rng(config.seed)
    for name, found, asked in (("oasst", oasst, True), ("hh", hh, config.score_hh)):
        group = np.unique([row.group for row in found.rows], return_inverse=True)[1]
        measured = _wins(found.rows, group, config.bins) | {
            "pairs": len(found.rows), "groups": group.max() + 1,
            "empty": len(found.dropped.get("empty or blank response", ())),
            "dropped": sum(map(len, found.dropped.values()))}
        for key in ("score", "per_byte", "mixed", "leak", "fresh_longer"):
            measured |= {key: np.nan, f"{key}_error": np.nan}
        if asked:
            measured |= _scores(found.rows, group, config, rng)
        result |= {f"{name}_{key}": x for key, x in measured.items()}
    return {key: np.asarray(x) for key, x in (result | _lengthened(oasst.rows, config)).items()}


def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    def end(name: str, side: int) -> Any:
        return result[name] + side * Z * result[f"{name}_error" if "share" not in name else name[:-5] + "error"]

    within = float(Z * result["oasst_error"])
    found = {
        "OASST: the longer one wins 70% of 754 pairs: share": near(result["oasst_share"], 0.70, within),
        "trees are fewer than pairs: standard error by tree over that of independent pairs": above(
            result["oasst_error"] / result["oasst_alone"], 1.1),
        "log-odds rise with log length: lower end of the slope": above(end("oasst_gamma", -1), 0),
        "HH: the longer one loses: upper end of its share": below(end("hh_share", 1), 0.5),
        "4 pairs of HH have an empty answer: number": near(result["hh_empty"], 4, 0),
        "bytes, held out by tree, are no better than a coin: score less ½, in standard errors": below(
            (result["oasst_score"] - 0.5) / result["oasst_score_error"], 3),
        "as bytes prefer the shorter of fresh replies: share of the longer one": below(
            result["oasst_fresh_longer"], 0.5),
        "bytes, pairs split at random, are better: lower end of the difference": above(end("oasst_leak", -1), 0),
    }
    growth, noise, pull = result["growth"], result["noise"], result["pull"]
    found["the bigram's E|y| is the mean length of replies: ratio"] = near(
        result["start"] / result["mean"], 1, 0.01)
    found["at the reference the pull on E|y| is odd in the labels: relative sum"] = below(
        abs(pull[0] + pull[2]) / abs(pull[0]), 1e-12)
    found["people's labels make replies longer, at every β: least log growth"] = above(growth[:, 0].min(), 0)
    found["reversed, they make them shorter: largest log growth"] = below(growth[:, 2].max(), 0)
    found["balanced by length, they add less: largest growth over that of all labels"] = below(
        (growth[:, 3] / growth[:, 0]).max(), 0.6)
    strong, weak = result["beta"].argmax(), result["beta"].argmin()
    found["at the largest β little is noise: growth by coins over that by people"] = below(
        noise[strong] / growth[strong, 0], 1 / 3)
    found["at the least β much is noise: growth by coins over that by people"] = above(
        noise[weak] / growth[weak, 0], 1 / 3)
    length, kl = (dict(zip(result["loss"].tolist(), result[name][:, -1], strict=True))
                  for name in ("loss_length", "loss_kl"))
    found["R-DPO undoes the growth: E|y| over that of the reference"] = below(length["R-DPO"] / result["start"], 1)
    found["LN-DPO halves it: log growth over that of DPO"] = below(
        np.log(length["LN-DPO"] / result["start"]) / growth[0, 0], 0.5)
    found["SimPO, without a reference, leaves it: KL over that of DPO"] = above(kl["SimPO"] / kl["DPO"], 10)
    return found


# ---- pictures

def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """E|y| in training, at the first β; returns the axes"""
    ax = axes(ax)
    steps = np.append(0, result["steps"])

    def line(length: Array, **style: Any) -> None:
        ax.plot(steps, np.append(result["start"], length), **style)

    for k, length in enumerate(result["coin_length"][:, 0]):
        line(length, color=REFERENCE, lw=0.7, label="coins" if k == 0 else None)
    looks = ((COLORS[0], "-"), (COLORS[2], "-"), (COLORS[0], "--"), (COLORS[1], "-"))
    for name, length, (color, dashes) in zip(LABELS, result["length"][0], looks, strict=True):
        line(length, color=color, ls=dashes, lw=2, label=name)
    ax.axhline(result["start"], color=REFERENCE, lw=0.8, ls=":")
    ax.set(xlabel="steps of Adam", ylabel="E|y|, characters",
           title=f"Length and who labels (β = {result['beta'][0]:g})")
    ax.legend(fontsize=8, frameon=False, title="labels by", loc="upper left")
    return ax


def _parts(result: dict[str, Array], ax: Any = None) -> Any:
    ax = axes(ax)
    x, growth, noise = np.arange(len(result["beta"])), result["growth"], result["noise"]
    for k, (height, color, name) in enumerate(((growth[:, 0], COLORS[0], "people"), (
            growth[:, 3], COLORS[1], "people, lengths balanced"), (noise, REFERENCE, "coins"))):
        ax.bar(x + 0.27 * (k - 1), height, 0.25, color=color, label=name,
               yerr=Z * result["noise_error"] if name == "coins" else None)
    ax.axhline(0, color=COLORS[0], lw=0.8)
    ax.set(xticks=x, xticklabels=[f"β = {beta:g}" for beta in result["beta"]], ylabel="log growth of E|y|",
           title="What of the growth is noise", ylim=(None, 1.3 * growth[:, 0].max()))
    ax.legend(frameon=False, ncols=3, title="labels by", loc="upper center")
    return ax


def _losses(result: dict[str, Array], ax: Any = None) -> Any:
    ax = axes(ax)
    for name, length, kl, color in zip(result["loss"].tolist(), result["loss_length"], result["loss_kl"],
                                       (POLICY, COLORS[2], COLORS[1], COLORS[0]), strict=True):
        ax.semilogx(kl, length, "o-", ms=3, color=color, label=name)
    ax.axhline(result["start"], color=REFERENCE, lw=0.8, ls=":", label="reference")
    ax.set(xlabel="KL(π || π_ref), nats", ylabel="E|y|, characters", title="Length and distance, labels by people")
    ax.legend(frameon=False)
    return ax


def _files(result: dict[str, Array], ax: Any = None) -> Any:
    ax = axes(ax)
    shown = [(f"{file}: {what}", result[f"{key}_{name}"], result[f"{key}_{error}"])
             for file, key in (("OASST", "oasst"), ("HH", "hh"))
             for what, name, error in (("longer one wins", "share", "error"), ("bytes, held out by group", "score",
                                       "score_error"), ("bytes, split at random", "mixed", "mixed_error"))]
    shown = [row for row in shown if np.isfinite(row[1])]
    y = np.arange(len(shown))[::-1]
    ax.errorbar([row[1] for row in shown], y, xerr=[Z * row[2] for row in shown], fmt="o", color="black", elinewidth=2)
    ax.axvline(0.5, color=REFERENCE, lw=0.8, ls=":")
    ax.set(yticks=y, yticklabels=[row[0] for row in shown], ylim=(-0.6, len(shown) - 0.4), xlabel="share of pairs",
           title="Right how often (95%)")
    return ax


PANELS = (plot, _parts, _losses, _files)
