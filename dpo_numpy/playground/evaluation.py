"""The seam between the page and the library: `evaluate(params)` takes JSON's values and returns them.

Four panels, `params["panel"]`: derivation, pair, curves, run. `DEFAULTS` holds what each takes, as the page first shows
it; `LIMITS` says what may stand there. The library computes; here its answers are asked for, and named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..gradient import read, scores_matrix, value_and_grad
from ..losses import LOSSES, Loss
from ..minimal import dpo_loss
from ..numerics import log_normalizer, log_sigmoid, log_softmax, sigmoid
from ..optim import sgd
from ..policy import exact_kl
from ..preferences import Preferences
from ..training import train
from .world import PAIRS, RESPONSES, WORDS, Bigram, pairs, reference

__all__ = ["DEFAULTS", "LIMITS", "PANELS", "RATES", "evaluate"]

Array = NDArray[Any]
minimal_loss: Callable[..., Any] = dpo_loss  # which has no types: it is a page to read

#: the losses of the page: of pairs, by their log-probs; with how each calls what the page calls beta
CHOICES = {name: "tau" if name == "ipo" else "beta" for name in (
    "dpo", "ipo", "cdpo", "rdpo", "hinge", "exo", "nca", "apo_zero", "apo_down", "dpop", "kto_pair", "r_dpo", "ln_dpo",
    "simpo", "cpo")}


class Number(NamedTuple):
    """A number from `low` to `high`, both included."""

    low: float
    high: float
    whole: bool = False

    def check(self, name: str, value: Any) -> float:
        kind = "whole number" if self.whole else "number"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} is {shown(value)}; expected a {kind} from {self.low:g} to {self.high:g}")
        if not self.low <= value <= self.high or (self.whole and value != int(value)):  # NaN is not between
            raise ValueError(f"{name} is {shown(value)}; expected a {kind} from {self.low:g} to {self.high:g}")
        return int(value) if self.whole else float(value)


class Numbers(NamedTuple):
    """A list of `size` of them; `total` is what they must add up to, if they must."""

    size: int
    each: Number
    total: float | None = None

    def check(self, name: str, value: Any) -> list[float]:
        if not isinstance(value, list | tuple) or len(value) != self.size:
            raise ValueError(f"{name} is {shown(value)}; expected a list of {self.size} numbers")
        found = [self.each.check(f"{name}[{i}]", x) for i, x in enumerate(value)]
        if self.total is not None and abs(math.fsum(found) - self.total) > 1e-9:
            raise ValueError(f"{name} adds up to {math.fsum(found):.6g}; expected {self.total:g}")
        return found


class Word(NamedTuple):
    """One of some words."""

    of: tuple[str, ...]

    def check(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in self.of:
            raise ValueError(f"{name} is {shown(value)}; expected one of {', '.join(self.of)}")
        return value


BETA, LOGP, LENGTH = Number(0.01, 10), Number(-12, 0), Number(1, 100, whole=True)
OF_PAIR: dict[str, Number | Numbers | Word] = {
    "loss": Word(tuple(CHOICES)), "beta": BETA, "chosen": LOGP, "rejected": LOGP, "ref_chosen": LOGP,
    "ref_rejected": LOGP, "length_chosen": LENGTH, "length_rejected": LENGTH,
}
#: of each panel its parameters, and what they may be
LIMITS: dict[str, dict[str, Number | Numbers | Word]] = {
    "derivation": {"beta": BETA, "reward": Numbers(3, Number(-3, 3)), "ref": Numbers(3, Number(0.01, 0.98), 1.0)},
    "pair": {**OF_PAIR},
    "curves": {**OF_PAIR},
    "run": {"loss": Word(tuple(CHOICES)), "beta": BETA, "lr": Number(0.01, 5), "steps": Number(1, 200, whole=True)},
}
PAIR: dict[str, Any] = {
    "loss": "dpo", "beta": 0.1, "chosen": -2.1, "rejected": -4.5, "ref_chosen": -3.0, "ref_rejected": -3.2,
    "length_chosen": 4, "length_rejected": 8,
}
#: of each panel what it shows before anything is touched
DEFAULTS: dict[str, dict[str, Any]] = {
    "derivation": {"panel": "derivation", "beta": 0.5, "reward": [1.0, 0.5, -1.0], "ref": [0.2, 0.5, 0.3]},
    "pair": {"panel": "pair", **PAIR},
    "curves": {"panel": "curves", **PAIR},
    "run": {"panel": "run", "loss": "dpo", "beta": 0.1, "lr": 2.0, "steps": 100},
}
#: a learning rate at which each loss trains in the panel `run`: IPO's square is far steeper at the start
RATES = {name: 0.1 if name == "ipo" else DEFAULTS["run"]["lr"] for name in CHOICES}


def evaluate(params: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a panel, as JSON would hold them: floats, lists, strings, dicts with string keys

    params holds `panel` and what `LIMITS` lists for that panel, all of it and nothing else. Log-probs are in nats,
    lengths in tokens. Raises `ValueError` on anything else, and where a training run leaves the floating-point numbers.

    >>> found = evaluate({"panel": "pair", "loss": "dpo", "beta": 0.1, "chosen": -2.1, "rejected": -4.5,
    ...                   "ref_chosen": -3.0, "ref_rejected": -3.2, "length_chosen": 4, "length_rejected": 8})
    >>> print(f"{found['value']:.6f} {found['weight']:.6f} {found['grad'][0]:.6f}")
    0.589185 0.445221 -0.044522
    """
    if not isinstance(params, Mapping):
        raise ValueError(f"params is {shown(params)}; expected an object with names and values")
    if "panel" not in params:
        raise ValueError(f"panel is missing; expected one of {', '.join(PANELS)}")
    panel = Word(tuple(PANELS)).check("panel", params["panel"])
    limits = LIMITS[panel]
    for name in params:
        if name != "panel" and name not in limits:
            raise ValueError(f"{shown(name)} is no parameter of {panel}; expected {', '.join(limits)}")
    for name, limit in limits.items():
        if name not in params:
            raise ValueError(f"{name} is missing; expected {_expected(limit)}")
    return PANELS[panel](**{name: limit.check(name, params[name]) for name, limit in limits.items()})


def shown(value: Any) -> str:
    """A value in an error message: short, whatever was sent"""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**20:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, Mapping | list | tuple):
        names = {Mapping: "an object", list: "a list", tuple: "a list"}
        return f"{next(text for kind, text in names.items() if isinstance(value, kind))} of {len(value)}"
    text = ascii(value) if isinstance(value, str | int | float) or value is None else type(value).__name__
    return text if len(text) <= 40 else text[:37] + "..."


def _expected(limit: Number | Numbers | Word) -> str:
    if isinstance(limit, Word):
        return f"one of {', '.join(limit.of)}"
    if isinstance(limit, Numbers):
        return f"a list of {limit.size} numbers"
    return f"a {'whole number' if limit.whole else 'number'} from {limit.low:g} to {limit.high:g}"


# ---- (a) the derivation, on three responses

def _derivation(beta: float, reward: list[float], ref: list[float]) -> dict[str, Any]:
    """Both sides of each line, computed apart from each other: what is beside an equals sign is not copied across it.

    The three responses are the outcomes of one step of a policy, whose parameters are the log-probs.
    """
    policy, r, log_ref = Bigram(3, eos=None), np.array(reward), np.log(np.array(ref))

    def table(logits: Array) -> dict[str, Array]:  # a prompt is token 0, whose row holds the three responses
        return {"W": np.stack([logits, np.zeros(3), np.zeros(3)])}

    tilted = log_ref + r / beta
    log_optimum = log_softmax(tilted)
    top, rest = log_normalizer(tilted.copy())
    log_z = float((top + rest).squeeze())
    optimum, reference_params = np.exp(log_optimum), table(log_ref)

    def objective(logits: Array) -> dict[str, float]:
        expected = float(np.exp(log_softmax(logits)) @ r)
        kl = exact_kl(policy, table(logits), policy, reference_params, [0], 1)
        return {"reward": expected, "kl": kl, "value": expected - beta * kl}

    greedy = np.where(r == r.max(), log_ref, -np.inf)  # what the reward alone would choose
    candidates = {"reference": log_ref, "greedy": greedy, "optimum": log_optimum}

    pair = Preferences.of([[0]], [[0]], [[2]]).with_reference(policy, reference_params)
    logp = log_optimum[[0, 2]][None]
    loss = LOSSES["dpo"](beta=beta)
    value, grad = loss(logp, log_ref[[0, 2]][None])
    log_ratio = log_optimum - log_ref
    margin = float(beta * (log_ratio[0] - log_ratio[2]))
    minimal, up, down = minimal_loss(log_optimum[0], log_optimum[2], log_ref[0], log_ref[2], beta)

    _, dparams = value_and_grad(policy, table(log_optimum), pair, loss)
    scores = scores_matrix(policy, table(log_optimum), pair.responses, pair.index.ravel())[:, :3]
    weight = float(sigmoid(np.array(-margin)))

    index = np.array([[i, j] for i in range(3) for j in range(3) if i != j])
    wins = sigmoid(r[index[:, 0]] - r[index[:, 1]]) / 3  # each of three pairs as often as the others
    labelled = Preferences.of([[0]] * 6, index[:, :1].tolist(), index[:, 1:].tolist(), weight=wins)
    whole = labelled.with_reference(policy, reference_params)
    losses = {name: value_and_grad(policy, table(logits), whole, loss)
              for name, logits in (("reference", log_ref), ("optimum", log_optimum))}
    return {
        "beta": beta, "responses": list(RESPONSES), "reward": r.tolist(), "ref": np.exp(log_ref).tolist(),
        "objective": {name: objective(logits) for name, logits in candidates.items()},
        "beta_log_z": beta * log_z,
        "optimum": {
            "unnormalized": np.exp(tilted).tolist(), "z": math.exp(log_z), "pi": optimum.tolist(), "log_z": log_z,
        },
        "implied": {"log_ratio": log_ratio.tolist(), "reward": (beta * log_ratio + beta * log_z).tolist()},
        "bradley_terry": {
            "difference": float(r[0] - r[2]), "margin": margin,
            "from_reward": float(sigmoid(r[0] - r[2])), "from_policy": float(sigmoid(np.array(margin))),
        },
        "loss": {"value": float(value[0]), "minimal": float(minimal),
                 "log_sigmoid": float(-log_sigmoid(np.array(margin)))},
        "gradient": {
            "weight": weight, "grad": grad[0].tolist(), "minimal": [float(up), float(down)],
            "score_chosen": scores[0].tolist(), "score_rejected": scores[1].tolist(),
            "formula": (-beta * weight * (scores[0] - scores[1])).tolist(),
            "backward": dparams["W"][0].tolist(),
        },
        "minimum": {name: {"value": float(total), "largest_slope": float(abs(d["W"][0]).max())}
                    for name, (total, d) in losses.items()},
    }


# ---- (b) one pair, (c) the curves it lies on

def _loss(name: str, beta: float) -> Loss:
    return LOSSES[name](**{CHOICES[name]: beta})


def _told(loss: Loss, ref_chosen: float, ref_rejected: float, length_chosen: int, length_rejected: int
          ) -> dict[str, Any]:
    facts = {"ref_logp": [[ref_chosen, ref_rejected]], "length": [[length_chosen, length_rejected]]}
    return {name: fact for name, fact in facts.items() if name in loss.needs}


def _pair(loss: str, beta: float, chosen: float, rejected: float, ref_chosen: float, ref_rejected: float,
          length_chosen: int, length_rejected: int) -> dict[str, Any]:
    """Value and both gradients of the loss; and, of the score that its first term compares, rewards and margin."""
    asked = _loss(loss, beta)
    told = _told(asked, ref_chosen, ref_rejected, length_chosen, length_rejected)
    logp = np.array([[chosen, rejected]])
    value, grad = asked(logp, **told)
    first = next(term for term in asked.terms if term.score.reads == ("logp",))
    score = first.score.fn({"logp": logp}, {name: np.array(fact) for name, fact in told.items()})[0][0]
    reward = beta * score
    margin = reward[0] - reward[1]
    doubled = _loss(loss, 2 * beta)(logp, **told)[1]
    swapped = asked(logp[:, ::-1], **{name: np.array(fact)[:, ::-1] for name, fact in told.items()})[1]
    return {
        "loss": loss, "name": asked.name, "needs": list(asked.needs), "beta": beta,
        "logp": [chosen, rejected], "ref_logp": [ref_chosen, ref_rejected],
        "log_ratio": [chosen - ref_chosen, rejected - ref_rejected],
        "h": (chosen - ref_chosen) - (rejected - ref_rejected),
        "score": score.tolist(), "reward": reward.tolist(), "margin": float(margin),
        "weight": float(sigmoid(-margin)), "value": float(value[0]), "grad": grad[0].tolist(),
        "doubled": {"beta": 2 * beta, "grad": doubled[0].tolist()},
        "swapped": {"grad": swapped[0, ::-1].tolist()},  # of the same two responses, in the same order
    }


SPAN, POINTS = 40.0, 161


def _curves(loss: str, beta: float, chosen: float, rejected: float, **facts: Any) -> dict[str, Any]:
    """Value and gradients along h = (log-ratio of the chosen) - (that of the rejected), whose sum stays the pair's."""
    asked = _loss(loss, beta)
    here = _pair(loss, beta, chosen, rejected, **facts)
    h = np.linspace(-SPAN, SPAN, POINTS)
    move = (h - here["h"])[:, None, None] * np.array([0.5, -0.5])
    value, grad = asked(np.array([[chosen, rejected]]) + move, **_told(asked, **facts))  # each h a batch of its own
    return {
        "loss": loss, "name": asked.name, "h": h.tolist(), "value": value[:, 0].tolist(),
        "grad_chosen": grad[:, 0, 0].tolist(), "grad_rejected": grad[:, 0, 1].tolist(),
        "weight": sigmoid(-beta * h).tolist(),
        "at": {"h": here["h"], "value": here["value"], "grad": here["grad"], "weight": float(sigmoid(
            np.array(-beta * here["h"])))},
    }


# ---- (d) a training run

FARTHEST = 1e4  # nats: training that went so far has diverged

def _run(loss: str, beta: float, lr: float, steps: int) -> dict[str, Any]:
    """Plain gradient descent of the bigram on the three pairs: log-ratios, loss, margins and accuracy, step by step."""
    policy, start, asked = Bigram(len(WORDS)), reference(), _loss(loss, beta)
    batch = pairs().with_reference(policy, start)
    rows = batch.index.ravel()

    def logp(params: dict[str, Array]) -> Array:
        return read(policy, params, batch.responses, rows, ["logp"])[0]["logp"].reshape(-1, 2)

    origin = logp(start)
    _, grad = value_and_grad(policy, start, batch, asked)
    first = -lr * (scores_matrix(policy, start, batch.responses, rows) @ grad["W"].ravel()).reshape(-1, 2)
    values, moved, params = [], [np.zeros_like(origin)], start
    with np.errstate(over="ignore", invalid="ignore"):
        for step in train(policy, start, repeat(batch, steps), asked, sgd(lr)):
            values.append(step.value)
            params = step.params
            moved.append(logp(params) - origin)
        values.append(value_and_grad(policy, params, batch, asked)[0])
    change = np.stack(moved)  # (steps + 1, pairs, 2): the log-ratios, as training begins at the reference
    margin = beta * (change[..., 0] - change[..., 1])
    sane = (abs(change) < FARTHEST).all(axis=(1, 2)) & np.isfinite(values)  # NaN is not
    if not sane.all():
        raise ValueError(f"lr is {lr:g}: with {asked.name} log-probs have moved by more than {FARTHEST:g} nats at step "
                         f"{int(np.argmin(sane))}; expected a smaller lr")
    return {
        "name": asked.name, "lr": lr, "beta": beta, "steps": steps,
        "pairs": [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in PAIRS],
        "ref_logp": origin.tolist(), "first_order": first.tolist(),
        "value": [float(value) for value in values],
        "log_ratio": change.tolist(), "margin": margin.tolist(),
        "accuracy": [float((row > 0).mean()) for row in margin],
    }


#: name -> parameters -> numbers
PANELS: dict[str, Callable[..., dict[str, Any]]] = {
    "derivation": _derivation, "pair": _pair, "curves": _curves, "run": _run,
}
