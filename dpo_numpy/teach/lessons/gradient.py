"""03: the gradient of a whole table, and where it is 0."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from ...numerics import log_softmax, sigmoid
from ..exercises import Exercise

__all__ = ["EXERCISES"]


def _cases() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(3)
    pairs = [([0, 1, 1, 2, 0], [0, 1, 2, 2, 0]), ([0, 3, 0], [0, 2, 1, 0]), ([0, 2, 3, 0], [0, 1, 0])]
    return [(*rng.normal(size=(2, 4, 4)), pairs, 0.5), (*rng.normal(size=(2, 4, 4)), pairs[1:], 2.0)]


def right(W: Any, ref: Any, pairs: Any, beta: float) -> Any:
    import dpo_numpy as dn
    from toy_models import NGram

    policy, columns = NGram(len(W)), zip(*pairs, strict=True)
    told = dn.Preferences.of([y[:1] for y, _ in pairs], *([y[1:] for y in column] for column in columns))
    batch = told.with_reference(policy, {"W": ref})
    return dn.value_and_grad(policy, {"W": W}, batch, dn.LOSSES["dpo"](beta=beta))[1]["W"]


def gradient(W, ref, pairs, beta):
    def log_p(table, tokens):
        return sum(table[c, v] - np.log(np.exp(table[c]).sum()) for c, v in pairwise(tokens))

    total = np.zeros_like(W)
    for w, other in pairs:
        margin = beta * (log_p(W, w) - log_p(ref, w) - log_p(W, other) + log_p(ref, other))
        for sign, tokens in ((1, w), (-1, other)):
            for current, following in pairwise(tokens):
                push = -np.exp(W[current]) / np.exp(W[current]).sum()
                push[following] += 1
                total[current] -= sign * beta / (1 + np.exp(margin)) * push
    return total / len(pairs)


def _gained() -> Any:
    from analytic import population

    return -np.diff(population.newton([[0, 0.7], [0.3, 0]], beta=0.1))[0]


def _mistaken(weight: Any = lambda m: sigmoid(-m), scale: Any = lambda beta, pairs: beta / len(pairs),
              softmax: bool = True, shift: bool = True, mean: bool = False, reference: bool = True,
              both: bool = False, inside: bool = True, once: bool = False) -> Any:
    def steps(tokens: Any) -> Any:
        return zip(tokens[:-1] if shift else tokens[1:], tokens[1:], strict=True)

    def log_p(W: Any, tokens: Any) -> Any:
        return sum(log_softmax(W[c])[v] for c, v in steps(tokens)) / (len(tokens) - 1 if mean else 1)

    def score(W: Any, tokens: Any) -> Any:
        total = np.zeros_like(W)
        for c, v in steps(tokens):
            push = np.eye(len(W))[v] - (np.exp(log_softmax(W[c])) if softmax else 0)
            total[c] = push if once else total[c] + push
        return total / (len(tokens) - 1 if mean else 1)

    def of(W: Any, ref: Any, pairs: Any, beta: float) -> Any:
        total = np.zeros_like(W)
        for w, other in pairs:
            gap = log_p(W, w) - log_p(W, other) - (log_p(ref, w) - log_p(ref, other) if reference else 0)
            m = (beta if inside else 1.0) * gap
            way = score(W, w) - score(W, other) - (score(ref, w) - score(ref, other) if both else 0)
            total -= scale(beta, pairs) * weight(m) * way
        return total

    return of


def nats():
    return math.log(0.7 / 0.3) / 0.1


EXERCISES = (
    Exercise(
        "gradient_whole_table",
        "Write gradient(W, ref, pairs, beta): a bigram's logits W[current, next], those of the reference, and a list "
        "of (chosen, rejected), each a list of tokens that begins and ends with 0. Return ∂L/∂W of the mean DPO loss.",
        "Each pair adds -β σ(-margin) (score of the chosen - score of the rejected) / number of pairs, a score being "
        "the sum of onehot - softmax over an answer's tokens.",
        right, gradient,
        {"that is the gradient of the sum over pairs: divide by their number": _mistaken(scale=lambda beta, _: beta),
         "the softmax part is missing: a logit that goes up takes from all others of its row": _mistaken(softmax=False),
         "the logits of a token score that same token: the row is that of the token before it": _mistaken(shift=False),
         "the sign is turned, or chosen and rejected are: descent would go up the loss":
             _mistaken(scale=lambda beta, pairs: -beta / len(pairs)),
         "the weight is missing: each pair pulls by σ(-margin)": _mistaken(weight=lambda m: 1.0),
         "σ(margin) stands where σ(-margin) should: who is right already would pull most": _mistaken(weight=sigmoid),
         "a row visited twice was added to once: G[rows] += ... keeps the last, np.add.at adds all":
             _mistaken(once=True),
         "β is missing in the margin: it stands there and in front": _mistaken(inside=False),
         "β is missing in front": _mistaken(scale=lambda beta, pairs: 1 / len(pairs)),
         "the reference is missing in the margin": _mistaken(reference=False),
         "the reference was differentiated too: it is a constant, and only the margin's value knows it":
             _mistaken(both=True),
         "log-probs are means over tokens here: DPO sums them": _mistaken(mean=True)},
        _cases(),
    ),
    Exercise(
        "gradient_at_rest",
        "Seven of ten people prefer answer A to answer B. A policy that can express anything is trained on their "
        "labels to the end, with β = 0.1. By how many nats is its log π(A) - log π(B) above the reference's?",
        "At rest σ(margin) = 0.7, and the margin is β times what is asked for.",
        _gained, nats,
        {"that is the margin: the gap in log-ratios is the margin over β": lambda: math.log(7 / 3),
         "the margin was multiplied by β: divide": lambda: 0.1 * math.log(7 / 3),
         "0.7 is σ(margin), not the margin: take log(p / (1 - p)) first": lambda: 0.7 / 0.1,
         "the gap is finite: three of ten disagree, and they pull harder the wider it is": lambda: math.inf,
         "the sign is turned: more people prefer A, and its lead over B grows": lambda: -math.log(7 / 3) / 0.1,
         "log 0.7 is minus the loss of one label: the inverse of σ is log(p / (1 - p))": lambda: math.log(0.7) / 0.1},
        rtol=1e-2,
    ),
)
