"""13: which way log-probs go, from inner products."""

from __future__ import annotations

import numpy as np

from ..exercises import Exercise

__all__ = ["EXERCISES"]


def _score(now, following, vocab):
    from toy_models import NGram

    from ... import Preferences, read

    policy, tokens = NGram(vocab=vocab, order=2), [now[0], *following]
    pairs = Preferences.of([tokens[:1]], [tokens[1:]], [tokens[1:2]])
    _, pullback = read(policy, {"W": np.zeros((vocab, vocab))}, pairs.responses, pairs.index[:, 0], ["logp"])
    return pullback({"logp": np.ones(1)})["W"]


def score(now, following, vocab):
    C = np.zeros((vocab, vocab))
    np.add.at(C, (now, following), 1)
    visits = C.sum(axis=1, keepdims=True)
    return C - visits / vocab


def _counts(now, following, vocab):
    C = np.zeros((vocab, vocab))
    np.add.at(C, (now, following), 1)
    return C


def first_order(scores, weights, beta, lr):
    step = np.zeros(scores.shape[-1])
    for (chosen, rejected), weight in zip(scores, weights, strict=True):
        step += lr * beta * weight * 0.5 * (chosen - rejected)  # σ(0) = 1/2
    return scores @ step


def _first_order(scores, weights, beta, lr):
    """By the library: logits that are linear in the parameters, as if each response were a row of its own"""
    from ... import LOSSES

    slope = LOSSES["dpo"](beta=beta)(np.zeros(scores.shape[:2]), np.zeros(scores.shape[:2]), weight=weights)[1]
    return -lr * np.einsum("bkn,n->bk", scores, np.einsum("bk,bkn->n", slope, scores))


def _two_answers():
    """By the library: the first steps of many tables"""
    from ... import LOSSES, sequence_logp

    rng = np.random.default_rng(0)
    tokens, mask = np.array([[0, 1], [0, 2]]), np.array([[False, True]] * 2)
    tables = np.repeat(rng.normal(scale=3.0, size=(200, 1, 1, 4)), 4, axis=1).reshape(200, 2, 2, 4)  # K, T: the same
    logp, pullback = sequence_logp(tables, tokens, mask)
    step = -pullback(LOSSES["dpo"](beta=0.1)(logp, logp)[1]).sum(axis=(1, 2))
    moved, _ = sequence_logp(tables + 1e-6 * step[:, None, None], tokens, mask)
    wrong = (moved[:, 0] < logp[:, 0]).any(), (moved[:, 1] > logp[:, 1]).any()
    return {(True, True): "both", (True, False): "chosen", (False, True): "rejected", (False, False): "neither"}[wrong]


def wrong_way():
    # ⟨onehot_w - p, onehot_w - onehot_l⟩ = 1 - p_w + p_l, and p_w < 1: it rises; so does -log π_l, likewise
    return "neither"


RNG = np.random.default_rng(13)
BATCHES = [(RNG.normal(size=(3, 2, 5)), np.full(3, 1 / 3), 0.1, 2.0),
           (RNG.normal(size=(2, 2, 4)), np.array([0.25, 0.75]), 0.5, 1.0)]


EXERCISES = (
    Exercise(
        "capstone_score",
        "Write score(now, following, vocab): an answer visits the symbols `now` and goes on to `following` (two lists "
        "of the same length, beginning with the start). Return the derivative of its log-prob with respect to the "
        "table W of a bigram whose logits are all 0, (vocab, vocab).",
        "Each visit of row c adds onehot(next) - softmax(W[c]), and softmax(0) is 1/vocab everywhere.",
        _score, score,
        {"what is expected counts once a visit: subtract visits/vocab in each row, so that rows never visited stay 0":
            lambda now, following, vocab: _counts(now, following, vocab) - 1 / vocab,
         "that counts, and forgets the normalisation: log softmax has the slope onehot - softmax": _counts,
         "rows and columns are swapped: the row is what was there, the column what follows":
            lambda now, following, vocab: score(now, following, vocab).T,
         "rows are what was there, columns what follows: C[now, following], not C[following, now]":
            lambda now, following, vocab: score(following, now, vocab),
         "what follows twice counts twice: NumPy's C[now, following] += 1 adds it once; take a loop, or np.add.at":
            lambda now, following, vocab: np.minimum(C := _counts(now, following, vocab), 1) - np.minimum(C, 1).sum(
                axis=1, keepdims=True) / vocab,
         "every row sums to 0 here: a visit takes 1/vocab from each entry of its row, the one that followed too":
            lambda now, following, vocab: np.where(_counts(now, following, vocab) > 0, _counts(now, following, vocab),
                                                   score(now, following, vocab))},
        [([0, 3, 2, 2], [3, 2, 2, 0], 4), ([0, 1], [1, 0], 3), ([0, 2, 2, 2], [2, 2, 2, 0], 3)],
    ),
    Exercise(
        "capstone_first_order",
        "Write change(scores, weights, beta, lr): scores (B, 2, n) of chosen and rejected, weights (B,) of pairs in "
        "the loss, and the policy is the reference. Return the first-order change of all log-probs, (B, 2).",
        "The gradient is Σ_b weight_b · (-β σ(-margin_b)) (score_w - score_l). What is every margin?",
        _first_order, first_order,
        {"σ(-margin) is missing: all margins are 0 here, so every pair pulls with weight 1/2":
            lambda scores, weights, beta, lr: 2 * first_order(scores, weights, beta, lr),
         "the sign is turned: descent goes against the gradient":
            lambda scores, weights, beta, lr: -first_order(scores, weights, beta, lr),
         "beta is missing: the margin is β times the difference":
            lambda scores, weights, beta, lr: first_order(scores, weights, 1.0, lr),
         "the pairs' weights are missing: the loss is their weighted sum":
            lambda scores, weights, beta, lr: first_order(scores, np.ones_like(weights), beta, lr),
         "weights are those of pairs in the loss: no division by their number is left to do":
            lambda scores, weights, beta, lr: first_order(scores, weights, beta, lr) / len(scores),
         "lr is missing: that is the direction of the step, not its change":
            lambda scores, weights, beta, lr: first_order(scores, weights, beta, 1.0),
         "each pair is moved by its own push alone: all pairs move the one table that all share":
            lambda scores, weights, beta, lr: np.stack([
                first_order(scores[b : b + 1], weights[b : b + 1], beta, lr)[0] for b in range(len(scores))])},
        BATCHES,
    ),
    Exercise(
        "capstone_two_answers",
        "One prompt, a softmax table over K > 2 whole answers, and one pair. Which of the two log-probs can the first "
        "step of DPO, taken small, ever move the wrong way: 'chosen', 'rejected', 'both' or 'neither'?",
        "With probabilities p a score is onehot - p. What is score_w · (score_w - score_l), and score_l · the same?",
        _two_answers, wrong_way,
        {"score_w · (score_w - score_l) = 1 - p_w + p_l is never below 0: the chosen rises": lambda: "chosen",
         "score_l · (score_w - score_l) = -(1 - p_l + p_w) is never above 0: the rejected falls": lambda: "rejected",
         "the chosen moves by score_w · (score_w - score_l) = 1 - p_w + p_l, never below 0; so does -log π of rejected":
            lambda: "both"},
    ),
)
