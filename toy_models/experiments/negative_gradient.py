"""A response that is pushed down alone feeds the likeliest of the others; the two of a DPO pair feed each other, and
squeeze only where the rejected has been more often than the chosen, or where weights are shared.

    alone      descent on log π(y_l) in a table: bystander k rises, at first, iff π_k > |π|² - π_l. Squeezing: Ren &
               Sutherland 2024, arXiv:2407.10490
    a pair     the terms -π of both cancel: all other responses keep their ratios, and change at π_l - π_w each; unseen
               ones rise until π_w = π_l, to ref/(2 √(ref_w ref_l) + ref), and then fall
    strings    a context's -p stays with the factor n_w - n_l, visits of the chosen less those of the rejected. By its
               sign it is squeezed or flattened; and a pair is convex in the logits iff no context has it below 0, if
               there are three outcomes or more (here: least eigenvalues at random logits)
    weights    a neural trigram and pairs that differ in one token: tokens whose context does not hold the edit are
               pushed down too, which a table of trigrams leaves alone. DPOP: Pal et al. 2024, arXiv:2402.13228
    units      in probabilities the rejected is pulled π_w/π_l times as hard as the chosen, in log-probabilities as hard
               (Feng et al. 2024, arXiv:2404.04626): the imbalance is one of coordinates
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

import dpo_numpy as dn
from dpo_numpy.gradient import read
from dpo_numpy.policy import Params

from ..mlp import MLP
from ..ngram import NGram
from ..tabular import Tabular
from ..worlds import bandit, strings
from ._claims import Claim, above, below, near
from ._config import require, streams
from ._figure import CHOSEN, COLORS, POLICY, REFERENCE, REJECTED, axes

__all__ = ["Config", "claims", "plot", "run"]

Array = NDArray[Any]

SIZES = (0.01, 0.1, 1.0, 3.0, 10.0, 100.0)  # of a single step
# begin, a, b, c, d by end, a, b, c, d; chosen "ca", rejected "ba": the rows of b and c are alike
LANGUAGE = np.array([[0.1, 0.1, 0.2, 0.2, 0.4], [0.3, 0.1, 0.1, 0.2, 0.3], [0.1, 0.1, 0.2, 0.5, 0.1],
                     [0.1, 0.1, 0.2, 0.5, 0.1], [0.2, 0.2, 0.2, 0.2, 0.2]])
CHOSEN_STRING, REJECTED_STRING = [3, 1, 0], [2, 1, 0]
UNSEEN = np.array([[0.1, 0.2, 0.7], [0.2, 0.1, 0.7]])  # chosen, rejected, in no pair; and the twin
# one token apart, at the third
EDITED = [1, 2, 3, 4, 5, 6, 1, 0], [1, 2, 2, 4, 5, 6, 1, 0]
VOCAB, ORDER = 7, 3
REMEDIES = ("dpo", "dpop", "rpo")


@dataclass(frozen=True)
class Config:
    """What is pushed, and how far

    ref                           probabilities of the responses of the table
    chosen, rejected              which of them a pair holds; the second is pushed down alone, too
    beta                          of every DPO loss
    push                          nats by which a step moves the rejected's logit: alone, and, at first, in the pair
    steps                         of the table
    language_lr, language_steps   of the bigram, and of the table with an unseen response
    width, hidden                 of the neural trigrams
    network_lr, network_steps     of their training; the remedies take a sixth of that step
    lam, alpha                    λ of DPOP, weight of the chosen's likelihood
    problems                      random tables of five responses whose first step is looked at
    longest                       letters of the strings whose pairs are looked at for convexity
    replicates                    neural trigrams, and random logits of each pair
    seed                          of all that is drawn
    """

    seed: int = 0
    replicates: int = 24
    ref: tuple[float, ...] = (0.70, 0.20, 0.08, 0.02)
    chosen: int = 1
    rejected: int = 3
    beta: float = 0.1
    push: float = 0.1
    steps: int = 80
    language_lr: float = 1.0
    language_steps: int = 300
    width: int = 3
    hidden: int = 6
    network_lr: float = 0.3
    network_steps: int = 150
    lam: float = 50.0
    alpha: float = 1.0
    problems: int = 200
    longest: int = 3

    def __post_init__(self) -> None:
        require(self, positive=("ref", "beta", "push", "language_lr", "network_lr"), nonnegative=("lam", "alpha"),
                least={"replicates": 2, "steps": 1, "language_steps": 1, "network_steps": 1, "width": 1, "hidden": 1,
                       "problems": 1, "longest": 1, "chosen": 0, "rejected": 0})
        if len(self.ref) < 4 or abs(sum(self.ref) - 1) > 1e-9:
            raise ValueError(f"ref holds {len(self.ref)} numbers of sum {sum(self.ref):g}; expected 4 or more of sum 1")
        if self.chosen == self.rejected or max(self.chosen, self.rejected) >= len(self.ref):
            raise ValueError(f"chosen and rejected are {self.chosen} and {self.rejected}; expected two different ones "
                             f"of 0 to {len(self.ref) - 1}")


def _path(policy: Any, params: Params, batch: dn.Preferences, loss: dn.Loss, lr: float, steps: int) -> Array:
    """Logits W before and after each step, (steps + 1, ...)"""
    told = batch.with_reference(policy, params)
    walk = dn.train(policy, params, repeat(told, steps), loss, dn.sgd(lr))
    return np.array([params["W"], *(step.params["W"] for step in walk)])


# ---- a table

def _table(config: Config) -> dict[str, Any]:
    """One response pushed down alone, and in a pair: log π after each step, and how far bystanders' ratios went"""
    K, beta, ref = len(config.ref), config.beta, np.array(config.ref)
    policy, start, every = Tabular(K), {"W": np.log(ref)[None]}, bandit(np.zeros((1, K))).responses
    down, pair = (dn.Preferences(every, np.array([rows])) for rows in ([config.rejected],
                                                                       [config.chosen, config.rejected]))
    alone = _path(policy, start, down, -1.0 * dn.LOSSES["sft"](), config.push, config.steps)[:, 0]
    lr = 2 * config.push / beta
    both, mixed = (_path(policy, start, pair, loss, lr, config.steps)[:, 0] for loss in (
        dn.LOSSES["dpo"](beta=beta), dn.LOSSES["rpo"](beta=beta, alpha=0.1)))
    others = np.delete(np.arange(K), [config.chosen, config.rejected])

    def apart(path: Array) -> Any:
        """Between bystanders: the largest change of a log-ratio"""
        return np.ptp((path - path[0])[:, others], axis=1).max()

    once = [_path(policy, start, down, -1.0 * dn.LOSSES["sft"](), eta, 1)[-1, 0] for eta in (1.0, 3.0)]
    return {"alone": log_softmax(alone, axis=1), "pair": log_softmax(both, axis=1), "once": softmax(once, axis=1),
            "alone_ratio": apart(alone), "pair_ratio": apart(both), "nll_ratio": apart(mixed),
            "fed_alone": softmax(alone[-1])[others].max(), "fed_pair": softmax(both[-1])[others].max(),
            "role": np.where(np.arange(K) == config.chosen, "chosen",
                             np.where(np.arange(K) == config.rejected, "rejected", "bystander"))}


def _problems(config: Config) -> dict[str, Any]:
    """Random tables: first-order changes of all log-probs, and steps of many sizes"""
    p = np.array([rng.dirichlet(np.ones(5)) for rng in streams(config.seed, config.problems)])
    policy, params, every = Tabular(5), {"W": np.log(p)[:, None]}, bandit(np.zeros((1, 5))).responses
    down = dn.Preferences(every, np.array([[0]]))
    loss = -1.0 * dn.LOSSES["sft"]()

    def change(grad: Array) -> Array:
        """Of log π, where logits change by -grad"""
        found: Array = (p * grad).sum(axis=1, keepdims=True) - grad
        return found

    rates = change(dn.value_and_grad(policy, params, down, loss)[1]["W"][:, 0])
    rises = p > (p**2).sum(axis=1, keepdims=True) - p[:, :1]
    largest = 1 + p[:, 1:].argmax(axis=1)
    steps = np.array([log_softmax(next(iter(dn.train(policy, params, [down], loss, dn.sgd(size)))).params["W"][:, 0],
                                  axis=1) - np.log(p) for size in SIZES])
    fed = np.take_along_axis(steps, largest[None, :, None], axis=2)
    # a pair, chosen 0 and rejected 1; whatever the reference, the margin's rate is 2 of the same unit
    pair = dn.Preferences(every, np.array([[0, 1]])).with_reference(policy, {"W": np.zeros((1, 5))})
    of_pair = change(dn.value_and_grad(policy, params, pair, dn.LOSSES["dpo"](beta=config.beta))[1]["W"][:, 0])
    of_pair *= 2 / (of_pair[:, :1] - of_pair[:, 1:2])
    gap = p[:, 1] - p[:, 0]
    theory = np.column_stack([1 + gap, gap - 1, gap, gap, gap])
    return {"wrong_sign": ((rates > 0) != rises)[:, 1:].sum(), "falls": (rates < 0)[:, 1:].mean(),
            "against": max(steps[:, :, 0].max(), -fed.min()), "rates_off": abs(of_pair - theory).max(),
            "units_off": _units(p, config.beta)}


def _units(p: Array, beta: float) -> Any:
    """|∂L/∂π_w| : |∂L/∂π_l|, by complex steps of -log σ(β log π_w/π_l), over π_l : π_w; and in log π, over 1; less 1"""
    _, of_logs = dn.LOSSES["dpo"](beta=beta)(np.log(p[:, :2]), ref_logp=np.zeros((len(p), 2)))
    slopes = [np.log1p(((p[:, 1] + 1e-30j * k) / (p[:, 0] + 1e-30j * (1 - k))) ** beta).imag for k in (0, 1)]
    in_probabilities = abs(slopes[0] / slopes[1]) * p[:, 0] / p[:, 1]
    return abs(np.array([in_probabilities, abs(of_logs[:, 0] / of_logs[:, 1])]) - 1).max()


def _unseen(config: Config) -> dict[str, Any]:
    """π of chosen, rejected and unseen, from two references, and π_ref e^{±margin/2} normalized"""
    every, found, off = bandit(np.zeros((1, 3))).responses, [], []
    for ref in UNSEEN:
        log_p = log_softmax(_path(Tabular(3), {"W": np.log(ref)[None]}, dn.Preferences(every, np.array([[0, 1]])),
                                  dn.LOSSES["dpo"](beta=config.beta), config.language_lr, config.language_steps)[:, 0],
                            axis=1)
        margin = log_p[:, 0] - log_p[:, 1] - np.log(ref[0] / ref[1])
        found.append(np.exp(log_p))
        off.append(abs(log_p - log_softmax(np.log(ref) + margin[:, None] * [0.5, -0.5, 0], axis=1)).max())
    first, second, third = UNSEEN.T
    return {"unseen": np.array(found), "unseen_off": max(off), "unseen_end": found[0][-1, 2],
            "unseen_top": np.where(second > first, third / (2 * np.sqrt(first * second) + third), third)}


# ---- strings

def _language(W: Array, chosen: list[int], rejected: list[int], beta: float, lr: float, steps: int) -> Array:
    """log p of a bigram, before and after each step on one pair: (steps + 1, contexts, tokens)"""
    pair = dn.Preferences.of([[0]], [chosen], [rejected])
    log_p: Array = log_softmax(_path(NGram(vocab=len(W)), {"W": W}, pair, dn.LOSSES["dpo"](beta=beta), lr, steps),
                               axis=2)
    return log_p


def _contexts(config: Config) -> dict[str, Any]:
    path = _language(np.log(LANGUAGE), CHOSEN_STRING, REJECTED_STRING, config.beta, config.language_lr / config.beta,
                     config.language_steps)
    changed = path[-1] - path[0]
    # neither says end, b or d after begin, nor anything but end after a, but a after b and c
    kept = [changed[0, [0, 1, 4]], changed[1, 1:], changed[4]]
    return {"language": np.exp(path), "kept_ratio": max(np.ptp(part) for part in kept),
            "squeezed": changed[2, 3], "flattened": changed[3, 3]}


def _convexity(config: Config) -> dict[str, Any]:
    """Pairs whose least eigenvalue contradicts the rule, of three outcomes; of two, violations that are convex here"""
    found: dict[int, tuple[Array, Array]] = {}
    for vocab, longest in ((3, config.longest), (2, config.longest + 3)):
        policy = NGram(vocab)
        every = strings(vocab, longest + 1, lambda y: 0.0).responses
        every = every.with_facts(ref_logp=np.zeros(len(every)))
        size = vocab * vocab
        W = np.array([policy.init(rng)["W"] for rng in streams(config.seed, config.replicates)])
        nudged = {"W": W[:, None] + 1e-30j * np.eye(size).reshape(size, vocab, vocab)}
        # the end is spoken as often as the beginning is visited, and both are 0
        visits = np.array([np.bincount(tokens[mask], minlength=vocab) for tokens, mask in zip(
            every.tokens, every.mask, strict=True)])
        least_of, convex_of = [], []
        for w, lost in permutations(range(len(every)), 2):
            pair = dn.Preferences(every, np.array([[w, lost]]))
            slopes = dn.value_and_grad(policy, nudged, pair, dn.LOSSES["dpo"](beta=1.0))[1]["W"].imag / 1e-30
            H = slopes.reshape(-1, size, size)
            spectrum = np.linalg.eigvalsh((H + H.mT) / 2)
            # two strings of the same bigrams: there is no margin, and H = 0
            least_of.append(spectrum[:, 0] / np.maximum(abs(spectrum).max(axis=1), np.finfo(float).tiny))
            convex_of.append((visits[w] >= visits[lost]).all())
        found[vocab] = np.array(least_of), np.array(convex_of)[:, None]
    (least, convex), (two, rule) = found[3], found[2]
    return {"convexity_wrong": ((least > -1e-12) != convex).sum(), "convexity_cases": np.array(least.size),
            "two_convex": np.array((two > -1e-12)[~rule[:, 0]].sum()), "two_cases": np.array((~rule).sum() * len(W))}


# ---- shared weights

def _edit(config: Config) -> dict[str, Any]:
    """What training on a pair that differs in one token makes of each token of the chosen, in nats"""
    pair = dn.Preferences.of([[0]], [EDITED[0]], [EDITED[1]])
    table, shared = NGram(VOCAB, ORDER), MLP(VOCAB, ORDER, config.width, config.hidden)
    drawn = [{name: rng.normal(size=p.shape) for name, p in shared.init(rng).items()}
             for rng in streams(config.seed, config.replicates)]
    start = {name: np.array([params[name] for params in drawn]) for name in drawn[0]}
    tables = {"W": shared.table(start)}  # the same policies, nothing shared
    losses = (dn.LOSSES["dpo"](beta=config.beta), dn.LOSSES["dpop"](beta=config.beta, lam=config.lam),
              dn.LOSSES["rpo"](beta=config.beta, alpha=config.alpha, nll="sum"))

    def change(policy: Any, params: Params, loss: dn.Loss, lr: float) -> Array:
        moved = _descended(policy, params, pair, loss, lr, config.network_steps)
        before, after = (read(policy, at, pair.responses, np.array([0]), ["token_logp"])[0]["token_logp"][:, 0, 1:]
                         for at in (params, moved))
        difference: Array = after - before
        return difference

    by_token = {name: change(shared, start, loss, config.network_lr / (1 if name == "dpo" else 6))
                for name, loss in zip(REMEDIES, losses, strict=True)}
    of_table = change(table, tables, losses[0], config.network_lr)
    edit = next(k for k, (a, b) in enumerate(zip(*EDITED, strict=True)) if a != b)
    far = np.array([not edit <= k < edit + ORDER for k in range(len(EDITED[0]))])
    return {"edit": np.array(edit), "far": far, "table_change": of_table} | {
        f"{name}_change": x for name, x in by_token.items()} | {
        f"{name}_far": x[:, far].mean() for name, x in by_token.items()} | {
        "chosen_change": by_token["dpo"].sum(axis=1).mean(), "chosen_falls": (by_token["dpo"].sum(axis=1) < 0).mean()}


def _descended(policy: Any, params: Params, pair: dn.Preferences, loss: dn.Loss, lr: float, steps: int) -> Params:
    """`dn.train` on one pair, each replicate its own reference: facts of `Responses` are the same for all of them"""
    rows = pair.index[0]
    ref = read(policy, params, pair.responses, rows, ["logp"])[0]["logp"][..., None, :]
    for _ in range(steps):
        values, to_params = read(policy, params, pair.responses, rows, ["logp"])
        _, grad = loss(values["logp"][..., None, :], ref_logp=ref)
        slope = to_params({"logp": grad[..., 0, :]})
        params = {name: p - lr * slope[name] for name, p in params.items()}
    return params


# ---- the experiment

def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured, by name

    alone, pair (steps, K)         log π of the table: the rejected pushed down alone, and in a pair
    *_ratio                        largest change of a log-ratio of two bystanders       fed_*   the likeliest, then
    unseen (2, steps, 3)           π of chosen, rejected and unseen, from two references; `unseen_top` by theory
    language (steps, 5, 5)         p of the bigram; squeezed, flattened: change of log p(c|b) and log p(c|c)
    *_change (replicates, tokens)  of the chosen's tokens, of neural trigrams by loss, and of tables; `far`: the edit is
                                   not in the context; *_far, their mean
    """
    config = config or Config()
    found = {"beta": config.beta, **_table(config), **_problems(config), **_unseen(config), **_contexts(config),
             **_convexity(config), **_edit(config)}
    return {name: np.asarray(value) for name, value in found.items()}


REPLICATED = ("dpo_change", "dpop_change", "rpo_change", "table_change")


def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    r, far = result, result["far"]
    unseen = r["unseen"][:, :, 2]
    each = {name: r[f"{name}_change"][:, far].mean(axis=1) for name in REMEDIES}

    def error(x: Array) -> Any:
        return 3 * x.std(ddof=1) / np.sqrt(len(x))

    return {
        "alone, the pushed never rises and the likeliest other never falls, whatever the step: nats against": below(
            r["against"], 1e-12),
        "alone, a bystander rises iff π_k > |π|² - π_l: exceptions": near(r["wrong_sign"], 0, 0),
        "alone, bystanders go apart: largest change of a log-ratio": above(r["alone_ratio"], 0.1),
        "in a pair they keep their ratios: largest change of a log-ratio": below(r["pair_ratio"], 1e-11),
        "the imbalance is one of coordinates: chosen to rejected π_l : π_w, 1 : 1 in logs: max |ratio - 1|": below(
            r["units_off"], 1e-12),
        "an unseen response rises while the rejected is likelier: its top": near(
            unseen[0].max(), r["unseen_top"][0], 1e-4),
        "from where the chosen is likelier it only falls: largest change by a step": below(
            np.diff(unseen[1]).max(), 1e-15),
        "strings: contexts that both visit as often keep ratios: largest change of a log-ratio": below(
            r["kept_ratio"], 1e-11),
        "strings: where only the rejected has been its likeliest other token rises: nats": above(r["squeezed"], 0),
        "strings: where only the chosen has been, it falls: nats": below(r["flattened"], 0),
        "a pair is convex iff no context is the rejected's more often: exceptions": near(r["convexity_wrong"], 0, 0),
        "of two outcomes it need not be so: other pairs that are convex at some logits": above(r["two_convex"], 0),
        "a table of trigrams leaves tokens without the edit alone: largest change, nats": near(
            abs(r["table_change"][:, far]).max(), 0, 0),
        "shared weights push them down: mean change of such a token, and three standard errors, nats": below(
            each["dpo"].mean() + error(each["dpo"]), 0),
        "the chosen's likelihood holds them up: mean change of such a token, less three standard errors, nats": above(
            each["rpo"].mean() - error(each["rpo"]), 0),
    }


# ---- pictures

def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """Probabilities of a table against what the rejected has lost, alone and in a pair; returns the axes"""
    ax = axes(ax)
    last = int(np.argmax(result["role"] == "rejected"))
    bystanders = iter(COLORS[:3] * len(result["role"]))
    for k, role in enumerate(result["role"]):
        color = {"chosen": CHOSEN, "rejected": REJECTED}.get(role) or next(bystanders)
        for name, style in (("alone", "-"), ("pair", "--")):
            log_p = result[name]
            ax.plot(log_p[0, last] - log_p[:, last], np.exp(log_p[:, k]), style, color=color, lw=1.8,
                    label=f"{role} {k + 1}" if style == "-" else None)
    ax.plot([], [], "--", color=REFERENCE, label="in a DPO pair")
    ax.set(xlabel="what the rejected has lost, nats", ylabel="π", ylim=(-0.02, 1.02), title=(
        "Pushed down alone (lines) it feeds the likeliest, in a pair (dashes) the chosen"),
           xlim=(0, min(result[name][0, last] - result[name][-1, last] for name in ("alone", "pair"))))
    ax.title.set_fontsize(10)
    ax.legend(fontsize=8, loc="center right")
    return ax


def _fates(result: dict[str, Array], ax: Any = None) -> Any:
    """The same row in two contexts of a bigram: that of the rejected, and that of the chosen"""
    ax = axes(ax)
    path = result["language"]
    for context, color, name in ((2, REJECTED, "b, rejected"), (3, CHOSEN, "c, chosen")):
        ax.plot(path[:, context, 3], color=color, lw=1.8, label=f"p(c | {name}): in neither string")
        ax.plot(path[:, context, 1], "--", color=color, lw=1.8, label=f"p(a | {name}): what it says")
    ax.set(xscale="symlog", xlim=(0, len(path)), ylim=(-0.02, 1.02), xlabel="gradient steps", ylabel="probability",
           title="Chosen “ca”, rejected “ba”: one row, two fates")
    ax.legend(fontsize=8, loc="upper left")
    return ax


def _third(result: dict[str, Array], ax: Any = None) -> Any:
    """An unseen response against the margin, from two references"""
    ax = axes(ax)
    for path, top, style, note in zip(result["unseen"], result["unseen_top"], ("-", "--"),
                                      ("rejected likelier at first", "chosen likelier at first"), strict=True):
        margin = np.log(path[:, 0] / path[:, 1]) - np.log(path[0, 0] / path[0, 1])
        for k, (color, who) in enumerate(((CHOSEN, "chosen"), (REJECTED, "rejected"), (COLORS[0], "unseen"))):
            ax.plot(margin, path[:, k], style, color=color, lw=1.6, label=f"{who}, {note}")
        if style == "-":
            ax.axhline(top, color=REFERENCE, ls=":", lw=1.2, label=f"theory's top, {top:.4f}")
    ax.set(xlabel="growth of the margin, nats", ylabel="π", ylim=(-0.02, 1.02),
           title="What no pair holds rises while the rejected is likelier")
    ax.legend(fontsize=8, loc="center right")
    return ax


def _tokens(result: dict[str, Array], ax: Any = None) -> Any:
    """Change of each token of the chosen, by loss"""
    ax = axes(ax)
    at = np.arange(len(result["far"]))
    bars = (("table", REFERENCE, "a table of trigrams, DPO"), ("dpo", POLICY, "neural trigram, DPO"),
            ("dpop", COLORS[1], "with DPOP"), ("rpo", COLORS[2], "with NLL"))
    for k, (name, color, label) in enumerate(bars):
        change = result[f"{name}_change"]
        ax.bar(at + 0.2 * (k - 1.5), change.mean(axis=0), 0.2, color=color, label=label,
               yerr=2 * change.std(axis=0, ddof=1) / np.sqrt(len(change)), error_kw={"lw": 0.8})
    near_edit = at[~result["far"]]
    ax.axvspan(near_edit[0] - 0.5, near_edit[-1] + 0.5, color=REFERENCE, alpha=0.12, lw=0)
    ax.axhline(0, color=REFERENCE, lw=0.8)
    names = ["edit" if k == result["edit"] else f"{k - result['edit']:+d}" for k in at]
    ax.set_xticks(at, names)
    ax.margins(y=0.2)
    ax.set(xlabel="token of the chosen, from the edit; shaded: the edit, or in its context",
           ylabel="change of log p, nats", title="Where weights are shared, tokens far from the edit pay")
    ax.legend(fontsize=8, loc="lower right")
    return ax


PANELS = (plot, _fates, _third, _tokens)
