"""Pairs from a sampler that can be moved, and where training on them ends, for many data sets at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analytic import graph, optimum, population

__all__ = ["World", "descended", "drawn", "policies", "settled"]

Array = NDArray[Any]

FLAT = 1e-13  # curvature over β², of pairs whose weights sum to 1: what is flatter, float64 cannot tell from flat


class World(NamedTuple):
    x: Array
    ref: Array
    reward: Array
    beta: float
    best: Array
    within: Array  # (K, K): pairs of one group
    preferred: tuple[Array, Array]  # P (K, K), Bradley-Terry's, and with circles
    features: tuple[Array, Array]  # (K, d), orthonormal, of a table and of the wrong class

    def sampler(self, shift: float) -> Array:
        return optimum.boltzmann(self.ref, -shift * self.reward, self.beta)

    def wins(self, mu: Array, disconnected: bool = False, circles: bool = False) -> Array:
        """The population of labelled pairs, (..., K, K), of sum 1"""
        W = population.drawn_pairs(mu)
        if disconnected:
            W = W * self.within
            W = 2 * W / W.sum(axis=(-2, -1), keepdims=True)
        return W * self.preferred[circles]

    def policy(self, theta: Array, wrong: bool = False) -> Array:
        return population.policy(theta @ self.features[wrong].T, self.ref)

    def regret(self, pi: Array) -> Array:
        """J* - J; NaN where there is no policy"""
        there = np.asarray(np.isfinite(pi).all(axis=-1))
        lost = self.beta * optimum.kl(np.where(there[..., None], pi, self.best), self.best)
        return np.where(there, lost, np.nan)


def settled(features: Array, wins: Array, beta: float) -> Array:
    """θ (..., d) where descent from the reference comes to rest; NaN where the loss falls without end, or all but

    features (K, d), wins (..., K, K). Newton's method in the directions that pairs see; the others stay at 0, as they
    do in descent. A step that moves margins by d at most is taken log(1 + d)/d of the way: so a sum of logistic losses
    falls from anywhere (Sun & Tran-Dinh 2019, "Generalized self-concordant functions").
    """
    sizes, directions = np.linalg.eigh(features.T @ graph.laplacian((wins + wins.mT > 0).astype(float)) @ features)
    unseen = (directions * (sizes < 1e-9)[..., None, :]) @ directions.mT
    theta = np.zeros((*wins.shape[:-2], features.shape[-1]))
    fits = lost = np.zeros(wins.shape[:-2], bool)
    for _ in range(60):
        u = theta @ features.T
        slope = population.gradient(u, wins, beta) @ features
        bend = features.T @ population.hessian(u, wins, beta) @ features
        curves, axis = np.linalg.eigh(bend / beta**2 + unseen)
        along = (axis.mT @ slope[..., None])[..., 0] / np.maximum(curves, FLAT) / beta**2
        step = (axis @ along[..., None])[..., 0]
        move = beta * np.ptp(step @ features.T, axis=-1)
        part = np.divide(np.log1p(move), move, out=np.ones_like(move), where=move > 0)
        theta = theta - part[..., None] * step
        fits, lost = move < 1e-9, curves[..., 0] <= FLAT  # where the loss falls without end, it flattens
        if (fits | lost).all():
            break
    return np.where((fits & ~lost)[..., None], theta, np.nan)


def descended(features: Array, wins: Array, beta: float, steps: int, theta: Array | None = None) -> Array:
    """θ (..., d) after so many steps of 2/β², from the reference or from θ"""
    theta = np.zeros((*wins.shape[:-2], features.shape[-1])) if theta is None else theta
    for _ in range(steps):
        theta = theta - 2 / beta**2 * population.gradient(theta @ features.T, wins, beta) @ features
    return theta


def policies(world: World, wins: Array, wrong: bool = False, steps: int = 0) -> Array:
    """Where descent ends, or is after so many steps; NaN where it has no end"""
    features = world.features[wrong]
    theta = (descended(features, wins, world.beta, steps) if steps else settled(features, wins, world.beta))
    pi = world.policy(np.nan_to_num(theta), wrong)
    return np.where(np.isfinite(theta).all(axis=-1, keepdims=True), pi, np.nan)


def drawn(wins: Iterable[Array], n: int, rngs: Sequence[np.random.Generator]) -> Array:
    """The wins of n labels (R, ..., K, K): of data set r those of wins[r] (..., K, K), by rngs[r]"""
    return np.array([rng.multinomial(n, p.reshape(*p.shape[:-2], -1)).reshape(p.shape) / n
                     for rng, p in zip(rngs, wins, strict=False)])
