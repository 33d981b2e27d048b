"""What is said of roads without samples: how well their descent is conditioned, where published GRPO comes to rest.

    conditioning   policy gradient and DPO of one table against β, predicted and as trained
    published      where the group's deviation and k3 in the loss come to rest
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement, islice, repeat
from math import factorial, log
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import root

import dpo_numpy as dn
from analytic import optimum, population
from dpo_numpy.numerics import log_softmax
from dpo_numpy.policy import Params

from ..tabular import Tabular
from ..worlds import bandit
from ._ascent import train_exact_gradient

__all__ = ["MILD", "SLANTED", "WITHIN", "conditioning", "policies", "published"]

Array = NDArray[Any]

#: rewards and reference of one prompt
MILD, SLANTED = np.array([0.3, 0.1, -0.1, -0.3]), np.array([0.1, 0.2, 0.3, 0.4])
WITHIN = 1e-6  # nats: where steps are counted to


def policies(steps: Any) -> Iterator[Array]:
    """softmax(W) after each step"""
    for step in steps:
        p: Array = np.exp(log_softmax(step.params["W"]))
        yield p


def conditioning(betas: ArrayLike, reward: ArrayLike = MILD, ref: ArrayLike = SLANTED,
                 most: int = 5000) -> dict[str, Array]:
    """Policy gradient and DPO of one table, both at their best constant step 2/(λ_min + λ_max); (betas, 2) each

    condition         κ = λ_max/λ_min of the Hessians at π*, β (diag π* - π* π*ᵀ) and β² Σ σ'(rᵢ - rⱼ) over the edges of
                      all pairs
    factor, measured  of the error a step: (κ - 1)/(κ + 1), and that of training that begins near π*
    steps, counted    from the reference to KL(π || π*) < 1e-6: log(KL/1e-6)/(-2 log factor), as if the rate were that
                      of the end all the way, and those of training; -1 where `most` are not enough
    natural           (betas,) KL after one natural step of 1/β from the reference
    online            (betas,) κ of DPO where both responses of a pair are drawn from π*
    """
    reward, ref = np.asarray(reward, float), np.asarray(ref, float)
    policy, start, world = Tabular(len(ref)), {"W": np.log(ref)[None]}, bandit(reward[None])
    wins = population.bradley_terry_wins(reward)
    pairs = world.population().with_reference(policy, start)
    rows, natural, online = [], [], []
    for beta in np.asarray(betas, float).tolist():
        best, loss = optimum.boltzmann(ref, reward, beta), dn.LOSSES["dpo"](beta=beta)

        def ascent(begin: Params, step: float, natural: bool = False, beta: float = beta) -> Iterator[Array]:
            return policies(train_exact_gradient(policy, begin, reward[None], beta, dn.sgd(step), reference=start,
                                                 natural=natural))

        def descent(begin: Params, step: float, loss: dn.Loss = loss) -> Iterator[Array]:
            return policies(dn.train(policy, begin, repeat(pairs), loss, dn.sgd(step)))

        def distances(path: Iterator[Array], steps: int, best: Array = best) -> Iterator[float]:
            return (float(optimum.kl(pi[0], best)) for pi in islice(path, steps))

        columns = []
        for train, H in ((ascent, optimum.curvature(best, beta)),
                         (descent, population.hessian(reward / beta, wins, beta))):
            rate = population.linear_rate(H)
            near = {"W": np.log(best) + 1e-4 * np.log(ref / best)[None]}
            kl = np.array([*distances(train(near, rate.best_step), 60)])
            late = np.flatnonzero(kl > 1e-24)[-20:]
            measured = (kl[late[-1]] / kl[late[0]]) ** (0.5 / (late[-1] - late[0])) if len(late) > 1 else 0.0
            path = enumerate(distances(train(start, rate.best_step), most), 1)
            columns.append((rate.fastest / rate.slowest, rate.factor, measured,
                            log(float(optimum.kl(ref, best)) / WITHIN) / (-2 * log(max(rate.factor, 1e-16))),
                            next((step for step, kl in path if kl < WITHIN), -1)))
        rows.append(np.array(columns).T)
        natural.append(next(distances(ascent(start, 1 / beta, natural=True), 1)))
        met = population.bradley_terry_wins(reward, np.outer(best, best))
        rate = population.linear_rate(population.hessian(reward / beta, met, beta))
        online.append(rate.fastest / rate.slowest)
    names = "condition", "factor", "measured", "steps", "counted"
    return {"beta": np.asarray(betas, float), "natural": np.array(natural), "online": np.array(online),
            **dict(zip(names, np.array(rows).swapaxes(0, 1), strict=True))}


def published(ref: ArrayLike, reward: ArrayLike, beta: float, group: int) -> Array:
    """Where GRPO as published comes to rest, (K,):   π(y) E[A | y] + β (π_ref(y) - π(y)) = 0

    A = (r - r̄)/(s + 1e-4) of a group of G, s² = Σ (r - r̄)²/(G - 1), its mean by enumeration of all groups; the other
    term is the gradient of -β KL(π_ref || π), which is what k3 penalizes in expectation. Of single tokens.

    Raises `ArithmeticError` where the search does not come to rest.

    >>> published([0.5, 0.5], [1.0, 0.0], beta=5.0, group=2).round(3)  # π = ½ + π (1 - π) √½/5
    array([0.535, 0.465])
    """
    ref, reward = np.asarray(ref, float), np.asarray(reward, float)
    groups = np.array([np.bincount(drawn, minlength=len(ref))
                       for drawn in combinations_with_replacement(range(len(ref)), group)])
    ways = np.array([factorial(group) / np.prod([float(factorial(n)) for n in row]) for row in groups])
    mean = groups @ reward / group
    apart = reward - mean[:, None]
    advantage = apart / (np.sqrt((groups * apart**2).sum(axis=1) / (group - 1))[:, None] + 1e-4)

    def slope(x: Array) -> Array:
        pi = np.exp(log_softmax(np.append(x, 0.0)))
        chance = ways * (pi**groups).prod(axis=1)
        gain: Array = chance @ (groups * advantage) / group + beta * (ref - pi)
        return gain[:-1]

    x = np.log(ref[:-1] / ref[-1])
    for _ in range(200):  # uphill for a while: of several places of rest, the one that training comes to
        x = x + slope(x)
    found = root(slope, x, tol=1e-13)
    if not abs(slope(found.x)).max() < 1e-9:
        raise ArithmeticError(f"GRPO has not come to rest from the reference: slope {slope(found.x)}")
    end: Array = np.exp(log_softmax(np.append(found.x, 0.0)))
    return end
