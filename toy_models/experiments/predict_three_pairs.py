"""Inner products of scores tell whether a response will rise or fall in the first steps of DPO, but not how it ends.

A first step of size η changes log π(i) by ηβ/2 Σ_p w_p (G_{i,w} - G_{i,l}) + O(η²): G is the Gram matrix of the scores
∂ log π/∂W of the six responses of three pairs, w_p = 1/3, and σ(-m) = 1/2 as the policy is the reference. Of a bigram
G_{ij} = Σ_c (C_i[c] - n_i[c] p_c)·(C_j[c] - n_j[c] p_c), where C counts what follows context c and n the visits to it.
Steps turn p and the weights σ(-m): of what rises at first, much falls in the end. That the chosen rises is a guess that
is worse from the first step on, that the gap widens is none.

    problems   random bigrams, three random pairs each, side by side: signs predicted, and those of training
    named      (cbb, a, bc) against (ca, c, bb), a uniform bigram over a, b, c and the end: G by hand

G is the neural tangent kernel of six log-probs; a step is taken apart so in Ren & Sutherland 2024, arXiv:2407.10490.
Held fixed, it can be followed to any step, and is no better a prediction of signs there than the first order is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dpo_numpy as dn
from dpo_numpy.numerics import log_softmax, sigmoid
from dpo_numpy.policy import Params
from dpo_numpy.preferences import Responses, pad

from ._claims import Claim, above, below, near
from ._config import require, streams
from ._figure import CHOSEN, COLORS, REFERENCE, REJECTED, axes

__all__ = ["PANELS", "REPLICATED", "Config", "claims", "plot", "run"]

Array = NDArray[Any]

PAIRS = 3
#: chosen and rejected strings of the named problem, and what G says of them by hand, in units of ηβ/6
NAMED = (("cbb", "a", "bc"), ("ca", "c", "bb"))
BY_HAND = np.array([[-0.5, -2.0], [1.0, -1.0], [0.75, -0.5]])

REPLICATED = ("predicted", "start", "chosen", "rejected", "kernel", "rises", "widens", "loss_change")


@dataclass(frozen=True)
class Config:
    """What is drawn, and how it is trained.

    beta        nats of reward that a nat of KL costs
    lr          of plain descent
    steps       after which signs are compared, each larger than the one before
    letters     of the alphabet, besides the end
    longest     letters of a string; each length from 1 on is as likely
    replicates  problems that are drawn
    seed        of all that is drawn
    """

    seed: int = 0
    replicates: int = 300
    beta: float = 0.5
    lr: float = 0.1
    steps: tuple[int, ...] = (1, 10, 100, 1000)
    letters: int = 3
    longest: int = 3

    def __post_init__(self) -> None:
        require(self, positive=("beta", "lr"), least={"replicates": 2, "steps": 1, "letters": 2, "longest": 2})
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"steps is {self.steps}; expected each larger than the one before")
        if self.letters == 2 and self.longest == 2:
            raise ValueError("letters is 2 and longest is 2; expected more strings than the six of a problem")


def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured. Axes: replicates R, steps S, pairs 3, chosen and rejected 2; changes in nats

    predicted        (R, 3, 2): change of log π a step, to first order
    change           (S, R, 3, 2): of log π since the start, by training
    start            (R, V, V): logits of the bigrams
    chosen, rejected, kernel, rises, widens   (R, S): shares of a problem's pairs: the chosen, the rejected did as
                     predicted; the chosen did as G, held fixed, has it; the chosen rose; the gap grew
    loss_change      (R,): of the loss, from the start to the last step
    order            |change - predicted|/η of a step, over that of half the step: 2, as what is left is O(η²)
    named_predicted  (3, 2) and named_change (steps, 3, 2), after every step: of the named problem
    chosen_right, rejected_right, naive_right, widened   means of `chosen`, `rejected`, `rises`, `widens` at the end
    """
    config = config or Config()
    draws = [_drawn(config, rng) for rng in streams(config.seed, config.replicates)]
    start = np.stack([W for W, _ in draws])
    problems = _Problems([ys for _, ys in draws], config.letters + 1)
    predicted, kernel = _first_order(problems, start, config), _held_fixed(problems, start, config)
    change, losses = _trained(problems, start, config, config.steps)
    errors = []
    for h in (1e-3, 5e-4):
        one, _ = _trained(problems, start, replace(config, lr=h), (1,))
        errors.append(np.linalg.norm(one[0] / h - predicted / config.lr))
    right = np.sign(change) == np.sign(predicted)
    shares = {name: of_pairs.mean(axis=-1).T for name, of_pairs in {
        "chosen": right[..., 0], "rejected": right[..., 1], "rises": change[..., 0] > 0,
        "kernel": np.sign(kernel[..., 0]) == np.sign(change[..., 0]),
        "widens": change[..., 0] > change[..., 1]}.items()}
    found = {
        "steps": config.steps, "beta": config.beta, "lr": config.lr, "start": start, "predicted": predicted,
        "change": change, "loss_change": losses, "order": errors[0] / errors[1],
    } | shares | _of_named(config)
    for name, share in (("chosen_right", "chosen"), ("rejected_right", "rejected"), ("naive_right", "rises"),
                        ("widened", "widens")):
        found[name] = shares[share][:, -1].mean()
    return {name: np.asarray(x) for name, x in found.items()}


def _of_named(config: Config) -> dict[str, Array]:
    """The steps of one problem are few: it is looked at after each"""
    letters = {letter: k for k, letter in enumerate("abc", 1)}
    named = _Problems([[[*(letters[x] for x in y), 0] for pair in zip(*NAMED, strict=True) for y in pair]], 4)
    uniform = np.zeros((1, 4, 4))
    path, _ = _trained(named, uniform, config, range(1, max(config.steps) + 1))
    return {"named_predicted": _first_order(named, uniform, config)[0], "named_change": path[:, 0]}


# ---- problems side by side

class _Problems:
    """Bigrams that share nothing: W (R, V, V) has a block a problem; response 6k + 2p + (0 chosen, 1 rejected) is of k

    log π = Σ C log p,   ∂ log π/∂W = C - n p: C (R, 6, V V) counts pairs of successive tokens, n what they begin with.
    """

    eos = 0

    def __init__(self, strings: Sequence[Sequence[Sequence[int]]], vocab: int) -> None:
        self.vocab, self.count = vocab, len(strings)
        self.C = np.zeros((self.count, 2 * PAIRS, vocab, vocab))
        for k, ys in enumerate(strings):
            for i, y in enumerate(ys):
                np.add.at(self.C, (k, i, [0, *y[:-1]], list(y)), 1)
        self.flat = self.C.reshape(self.count, 2 * PAIRS, -1)
        responses = pad([((0,), y) for ys in strings for y in ys])
        pairs = np.arange(len(responses)).reshape(-1, 2)
        # a problem's loss is the mean over its pairs, and the loss of all is their sum
        self.pairs = dn.Preferences(responses, pairs, np.full(len(pairs), 1 / PAIRS))

    def init(self, rng: np.random.Generator) -> Params:
        return {"W": rng.normal(size=(self.count, self.vocab, self.vocab))}

    def logits(self, params: Params, tokens: Array) -> Any:
        raise NotImplementedError("whole responses alone are read")

    def logp(self, params: Params, responses: Responses, rows: Array) -> tuple[Array, Callable[[Array], Params]]:
        log_p = log_softmax(params["W"])
        value: Array = (self.flat @ log_p.reshape(self.count, -1, 1)).reshape(-1)

        def pullback(d: Array) -> Params:
            each = np.zeros(len(value))
            each[rows] = d
            counts = (each.reshape(self.count, 1, -1) @ self.flat).reshape(log_p.shape)
            return {"W": counts - counts.sum(axis=-1, keepdims=True) * np.exp(log_p)}

        return value[rows], pullback

    def gram(self, W: Array) -> Array:
        """⟨∂ log π(i)/∂W, ∂ log π(j)/∂W⟩, (R, 6, 6)"""
        scores = self.C - self.C.sum(axis=-1, keepdims=True) * np.exp(log_softmax(W))[:, None]
        flat = scores.reshape(self.flat.shape)
        G: Array = flat @ flat.mT
        return G


def _drawn(config: Config, rng: np.random.Generator) -> tuple[Array, list[list[int]]]:
    """Logits, and six different strings, ends included"""
    W = rng.normal(size=(config.letters + 1, config.letters + 1))
    found: dict[tuple[int, ...], None] = {}
    while len(found) < 2 * PAIRS:
        y = rng.integers(1, config.letters + 1, size=rng.integers(1, config.longest + 1))
        found[(*y.tolist(), 0)] = None
    return W, [list(y) for y in found]


def _trained(problems: _Problems, start: Array, config: Config, steps: Sequence[int]) -> tuple[Array, Array]:
    """Changes of log π after `steps`, (S, R, 3, 2), and of each problem's loss by the last, (R,)"""
    shape = (problems.count, PAIRS, 2)
    params = {"W": start}
    every, pairs = np.arange(start.shape[0] * 2 * PAIRS), problems.pairs.with_reference(problems, params)
    before = problems.logp(params, pairs.responses, every)[0]
    changes, at = [], set(steps)
    way = dn.train(problems, params, repeat(pairs, max(at)), dn.LOSSES["dpo"](beta=config.beta), dn.sgd(config.lr))
    for t, step in enumerate(way, 1):
        if t in at:
            changes.append((problems.logp(step.params, pairs.responses, every)[0] - before).reshape(shape))
    margin = config.beta * (changes[-1][..., 0] - changes[-1][..., 1])
    return np.array(changes), np.logaddexp(0, -margin).mean(axis=-1) - np.log(2)


def _first_order(problems: _Problems, start: Array, config: Config) -> Array:
    """(R, 3, 2): every pair pulls with β/2 on its chosen and pushes its rejected as much"""
    pull = np.tile([1.0, -1.0], PAIRS) * config.lr * config.beta / 2 / PAIRS
    change: Array = (problems.gram(start) @ pull).reshape(-1, PAIRS, 2)
    return change


def _held_fixed(problems: _Problems, start: Array, config: Config) -> Array:
    """(S, R, 3, 2): the same, with σ(-m) as m grows, but G as it is at the start"""
    G, u, found = problems.gram(start), np.zeros((problems.count, 2 * PAIRS)), []
    for t in range(1, max(config.steps) + 1):
        pull = config.beta / PAIRS * sigmoid(-config.beta * (u[:, ::2] - u[:, 1::2]))
        u = u + config.lr * (G @ np.stack([pull, -pull], axis=-1).reshape(*u.shape, 1))[..., 0]
        if t in config.steps:
            found.append(u.reshape(-1, PAIRS, 2))
    return np.array(found)


# ---- the experiment

def _error(share: Array) -> Array:
    """Standard error of the mean over problems, whose pairs go together"""
    error: Array = share.std(axis=0, ddof=1) / np.sqrt(len(share))
    return error


def _in_errors(difference: Array) -> float:
    """The mean over problems, in its standard errors; NaN where all are alike"""
    error = _error(difference)
    return float(difference.mean() / error) if error > 0 else float("nan")


def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    chosen, rejected, rises, widens = (result[name] for name in ("chosen", "rejected", "rises", "widens"))
    foretold, path = result["named_predicted"], result["named_change"]
    unit = result["lr"] * result["beta"] / (2 * PAIRS)
    wrong = np.sign(path[-1]) != np.sign(foretold)
    return {
        "G is all of the first order: error of a step over that of half of it": near(result["order"], 2, 0.02),
        "after the first step chosen do as predicted: share": above(chosen[:, 0].mean(), 0.98),
        "after the first step rejected do as predicted: share": above(rejected[:, 0].mean(), 0.98),
        "but after the last fewer chosen do: how much fewer, in standard errors": above(
            _in_errors(chosen[:, 0] - chosen[:, -1]), 3),
        "while most rejected still do: share": above(rejected[:, -1].mean(), 0.85),
        "that every chosen rises is a worse guess of the first step than G's: by how much, in standard errors": above(
            _in_errors(chosen[:, 0] - rises[:, 0]), 3),
        "and a worse one of the last: by how much, in standard errors": above(
            _in_errors(chosen[:, -1] - rises[:, -1]), 3),
        "G held fixed and followed to the last step is not surely better there: by how much, in standard errors": below(
            _in_errors(result["kernel"][:, -1] - chosen[:, -1]), 3),
        "what is sure in the end is the gap: share of pairs where it has grown": above(widens[:, -1].mean(), 0.98),
        "but not at the first step, where pairs interfere: share": below(widens[:, 0].mean(), 0.995),
        "no problem's loss has grown: largest change": below(result["loss_change"].max(), 0),
        "the named problem is predicted by hand: max |difference| in units of ηβ/6": below(
            abs(foretold / unit - BY_HAND).max(), 1e-12),
        "there the first step is what is predicted, of all six: least ratio of change and prediction": above(
            (path[0] / foretold).min(), 0.98),
        "and in the end a chosen one that was to rise has fallen, alone of the six: signs that are wrong": near(
            wrong.sum() if wrong[2, 0] else np.nan, 1, 0),
    }


def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """Shares of signs that were predicted right, against steps, with their standard errors"""
    ax = axes(ax)
    for name, color, style, label in (
        ("rejected", REJECTED, "-", "rejected, predicted by G"), ("chosen", CHOSEN, "-", "chosen, predicted by G"),
        ("rises", CHOSEN, ":", "chosen, guess: it rises"), ("widens", REFERENCE, "--", "gap, guess: it grows"),
    ):
        share = result[name]
        ax.errorbar(result["steps"], share.mean(axis=0), _error(share), fmt=style, marker="o", ms=4, color=color,
                    label=label, capsize=2)
    ax.set(xscale="log", xlabel="steps", ylabel="share of signs that are right", ylim=(None, 1.01),
           title="The gradient tells the first steps, not the ending")
    ax.legend(loc="lower left")
    return ax


def _named(result: dict[str, Array], ax: Any = None) -> Any:
    """The named problem: six log-probs, and what the first order says of them"""
    ax = axes(ax)
    path, predicted = result["named_change"], result["named_predicted"]
    steps = np.arange(1, len(path) + 1)
    for p, style in enumerate(("-", "--", "-.")):
        for k, color in enumerate((CHOSEN, REJECTED)):
            ax.plot(steps, path[:, p, k], style, color=color, label=f"{NAMED[k][p]}, {('chosen', 'rejected')[k]}")
            ax.plot(steps, steps * predicted[p, k], color=color, lw=0.7, alpha=0.5)
    ax.axhline(0, color="0.85", zorder=0)
    ax.set(xscale="log", xlabel="steps", ylabel="change of log π, nats", ylim=np.array([1.15, 1.3]) * [
        path.min(), max(path.max(), 1)], title="Three pairs of a uniform bigram (thin: first order)")
    ax.legend(fontsize=8, loc="lower left", ncols=3)
    return ax


def _scatter(result: dict[str, Array], ax: Any = None) -> Any:
    """Change a step so far, against what was predicted of the first; chosen responses"""
    ax = axes(ax)
    x = result["predicted"][..., 0].ravel()
    shown = sorted({0, len(result["steps"]) // 2, len(result["steps"]) - 1})
    for k, color in zip(shown, (REFERENCE, COLORS[1], CHOSEN), strict=False):
        steps = result["steps"][k]
        ax.plot(x, result["change"][k, ..., 0].ravel() / steps, ".", ms=4, color=color, alpha=0.6,
                label=f"mean of {steps} steps" if steps > 1 else "first step")
    ends = np.array([x.min(), x.max()])
    ax.plot(ends, ends, lw=0.7, color="0.3", label="as predicted")
    ax.axhline(0, color="0.85", zorder=0)
    ax.axvline(0, color="0.85", zorder=0)
    ax.set_xscale("symlog", linthresh=1e-3)
    ax.set_yscale("symlog", linthresh=1e-3)
    ax.set(xlabel="predicted change of log π(chosen) a step, nats", ylabel="measured, nats",
           title="Chosen responses: predicted and measured, linear within ±0.001")
    ax.legend()
    return ax


PANELS = (plot, _named, _scatter)
