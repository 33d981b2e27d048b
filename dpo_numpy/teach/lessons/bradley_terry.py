"""05: the slope of a Bradley-Terry fit, and when there is one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..exercises import Exercise

__all__ = ["EXERCISES"]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


# ---- the slope

def slope(s, wins):
    K = len(s)
    found = np.zeros(K)
    for i in range(K):
        for j in range(K):
            games = wins[i, j] + wins[j, i]
            found[i] += wins[i, j] - games / (1 + math.exp(s[j] - s[i]))
    return found


def right_slope(s: Any, wins: Any) -> Any:
    from analytic import population

    return -population.gradient(s, wins, 1.0)


def _slope(of: Any) -> Any:
    """Of a function of differences, wins and games"""
    return lambda s, wins: of(s[:, None] - s, wins, wins + wins.T).sum(axis=1)


# ---- whether there is a fit

def has_fit(wins):
    beaten = wins > 0  # directly
    for _ in range(len(wins)):  # or through others
        beaten = beaten | (beaten.astype(int) @ beaten.astype(int) > 0)
    return "yes" if (beaten | np.eye(len(wins), dtype=bool)).all() else "no"


def right_fit(wins: Any) -> str:
    from analytic import graph

    return "yes" if graph.mle_exists(wins) else "no"


def _connected(wins: Any) -> Any:
    return has_fit(wins + wins.T)


def _won_and_lost(wins: Any) -> str:
    return "yes" if wins.any(axis=0).all() and wins.any(axis=1).all() else "no"


def _each_pair(wins: Any) -> str:
    return "yes" if (wins[~np.eye(len(wins), dtype=bool)] > 0).all() else "no"


STRENGTHS = np.array([0.7, -0.1, -0.6])
TABLES = (np.array([[0, 4, 3], [2, 0, 5], [1, 1, 0]]), np.array([[0, 1, 6], [3, 0, 2], [2, 2, 0]]))
CYCLE, UNBEATEN = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]), np.array([[0, 1, 1], [0, 0, 1], [0, 1, 0]])
PATH = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
TWO_LEAGUES = np.array([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])  # one lost no game to the other

EXERCISES = (
    Exercise(
        "bt_slope",
        "Write slope(s, wins): strengths (K,) and wins (K, K), where wins[i, j] says how often i beat j. Return the K "
        "slopes of the log-likelihood of Bradley-Terry in s.",
        "Of each team: the games that it won, less the games that it should have won, over all opponents.",
        right_slope, slope,
        {"the sign is turned: that is the slope of the loss, and ascent of the likelihood goes the other way":
            _slope(lambda d, wins, games: games * sigmoid(d) - wins),
         "lost games are missing: each of them pulls down by σ(sᵢ - sⱼ)":
            _slope(lambda d, wins, games: wins * sigmoid(-d)),
         "σ(sⱼ - sᵢ) is the probability that j wins; i is expected to win σ(sᵢ - sⱼ) of their games":
            _slope(lambda d, wins, games: wins - games * sigmoid(-d)),
         "wins is turned: what i won is its row, wins[i, j], and not its column":
            _slope(lambda d, wins, games: wins.T - games * sigmoid(d)),
         "half of the games are expected of equals alone: how much stronger i is has to count":
            _slope(lambda d, wins, games: wins - games / 2),
         "σ(sᵢ - sⱼ) is of one game: times the number of games that i and j played":
            _slope(lambda d, wins, games: wins - (games > 0) * sigmoid(d))},
        cases=[(STRENGTHS, TABLES[0]), (-STRENGTHS, TABLES[1])],
    ),
    Exercise(
        "bt_has_fit",
        "Write has_fit(wins), where wins[i, j] says how often i beat j: return \"yes\" where Bradley-Terry has one "
        "fit, and but for a constant only one, else \"no\".",
        "Who was beaten directly, by whom those were beaten, and so on: everybody must reach everybody.",
        right_fit, has_fit,
        {"connected is not enough: who never lost to the rest rises without end": _connected,
         "that each has won and lost is not enough: a group that never lost to the rest rises without end":
            _won_and_lost,
         "not each pair has to meet, nor to win once each: it goes through others too": _each_pair},
        cases=[(CYCLE,), (UNBEATEN,), (PATH,), (TWO_LEAGUES,)],
    ),
)
