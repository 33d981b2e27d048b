"""How long until the optimum is there: KL(π* || π) below 1e-10 nats, from π = π_ref, on an exact population.

A bandit: every pair of K responses in both orders. An n-gram: distinct strings of the reference, every pair of these in
both orders, labelled by a reward that is added up over transitions; the policy is a table of transitions, and KL sums
over all strings there are. There the margin of a pair is linear in the rewards of transitions, so Newton's method finds
these, and normalizing gives π*. All begin at the reference. For a bandit `population.newton` by default begins at mean
log-odds, which are the rewards themselves where labels are exactly Bradley-Terry's, as here: that stands beside it.

The peer may know π*: which learning rate is best and how many steps it takes were found beforehand, and that many are
timed, without a look at KL. Adam is full-batch descent in float64; L-BFGS has torch's strong Wolfe line search. The
loss is over a square of differences or over pairs i < j, a triangle, whichever was faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from analytic import loglinear, ngram, optimum, population
from analytic._solvers import Pulls, PullsOnFeatures
from benchmarks.harness import Case, Run

Array = NDArray[Any]
BETA, NEAR = 0.5, 1e-10
RATES = (0.1, 0.3)  # of Adam, each tried


def case(name: str, target: float, small: dict[str, int], form: str = "square", **sizes: int) -> Case:
    # total variation is at most √(KL/2): no probability is off by more than 7.1e-6 on either side
    sooner = {"ours, from mean log-odds": None} if "responses" in sizes else {}
    return Case(name, "optimum", {"sizes": sizes, "form": form, **sizes}, small={"sizes": small}, rtol=0, atol=1.5e-5,
                targets={"torch L-BFGS": target, "torch Adam": target, **sooner, "one step": None})


CASES = [
    *(case(f"bandit, {K:,} responses", 20, {"responses": 4}, "square" if K < 1000 else "triangle", responses=K)
      for K in (10, 100, 1000)),
    case("bigram, V = 16, 600 strings", 20, {"vocab": 3, "strings": 12}, vocab=16, strings=600),
]
SCALING = {"optimum": ("responses", "responses", lambda result, label: None if label == "one step" else label)}


class World(NamedTuple):
    ref: Array  # (K,), or a table (V, V)
    wins: Array  # (K, K)
    best: Array  # π*, shaped like ref
    counts: Array | None  # of transitions, (strings, V²)
    kl: Callable[[Array], float]  # KL(π* || π)


def bandit(responses: int) -> World:
    rng = np.random.default_rng(0)
    reward, ref = rng.normal(size=responses), softmax(rng.normal(size=responses))
    best = optimum.boltzmann(ref, reward, BETA)
    return World(ref, population.bradley_terry_wins(reward), best, None, lambda pi: float(optimum.kl(best, pi)))


def bigram(vocab: int, strings: int) -> World:
    """The reward of ending is 0 in all contexts but the first: what another has can be moved to the transitions before.

    Strings are drawn until there are so many distinct ones.
    """
    rng, V = np.random.default_rng(0), vocab
    ref = np.append(np.full((V, 1), 0.25), 0.75 * softmax(rng.normal(0, 0.3, (V, V - 1)), axis=1), axis=1)
    reward = np.append(np.zeros((V, 1)), rng.normal(0, 0.2, (V, V - 1)), axis=1)
    best, _ = ngram.optimum(ref, reward, BETA)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < strings:
        y = [0]
        while len(y) == 1 or y[-1]:
            y.append(int(rng.choice(V, p=ref[y[-1]])))
        found[tuple(y)] = None
    counts = np.zeros((strings, V * V))
    for row, y in zip(counts, found, strict=True):
        np.add.at(row, np.array(y[:-1]) * V + y[1:], 1)
    wins = population.bradley_terry_wins(counts @ reward.ravel())
    return World(ref, wins, best, counts, lambda pi: ngram.kl(best, pi))


def world(sizes: dict[str, int]) -> World:
    return bandit(**sizes) if "responses" in sizes else bigram(**sizes)


def found(given: World, pi: Array, **facts: Any) -> tuple[Callable[[], dict[str, Any]], dict[str, Any]]:
    kl = given.kl(pi)
    return lambda: {"policy": pi, "near": np.array(0 <= kl < NEAR, float)}, {"kl": kl, **facts}


def from_mean_log_odds(**params: Any) -> Run:
    """Where `population.newton` begins by default: with labels of Bradley and Terry that is the optimum already"""
    return ours(start=None, **params)


def ours(sizes: dict[str, int], start: float | None = 0.0, **_: Any) -> Run:
    given = world(sizes)

    def solve() -> Array:
        if given.counts is None:
            begin = None if start is None else np.full(len(given.wins), start)
            return population.policy(population.newton(given.wins, BETA, start=begin), given.ref)
        u = np.zeros(given.ref.size)
        u[free(given)] = loglinear.newton(given.counts[:, free(given)], given.wins, BETA)
        return ngram.optimum(given.ref, BETA * u.reshape(given.ref.shape), BETA)[0]

    numbers, facts = found(given, solve())
    return Run(solve, numbers, facts=facts)


def one_step(sizes: dict[str, int], **_: Any) -> Run:
    """A slope, a Hessian and a step of Newton's, from the reference: no way by second derivatives takes less"""
    given = world(sizes)
    features = None if given.counts is None else given.counts[None, :, free(given)]

    def work() -> None:
        pulls = Pulls(given.wins) if features is None else PullsOnFeatures(features, given.wins[None])
        pulls.at(np.zeros(len(given.wins) if features is None else features.shape[-1]))
        pulls.step()

    return Run(work, None)


def free(given: World) -> Array:
    """A transition's reward is free but for those that end a string: (V²,)"""
    return np.arange(given.ref.size) % len(given.ref) > 0


def torch_problem(given: World, form: str) -> tuple[Any, Callable[[], Any]]:
    """Logits that begin at the reference, and the loss on the whole population"""
    import torch

    W, log_ref = (torch.tensor(np.log(given.ref), requires_grad=grad) for grad in (True, False))
    counts = None if given.counts is None else torch.as_tensor(given.counts)
    wins, softplus = given.wins, torch.nn.functional.softplus

    def log_ratio() -> Any:
        u = torch.log_softmax(W, -1) - log_ref
        return u if counts is None else counts @ u.reshape(-1)

    if form == "square":
        weight = torch.as_tensor(wins)

        def loss() -> Any:
            u = BETA * log_ratio()
            return (weight * softplus(u - u[:, None])).sum()
    else:  # each pair once: Σ both log(1 + e^m) - won m, and the sum of won m is one of responses
        i, j = np.triu_indices(len(wins), 1)
        first, second, both = torch.as_tensor(i), torch.as_tensor(j), torch.as_tensor((wins + wins.T)[i, j])
        lead = torch.as_tensor(np.triu(wins, 1).sum(1) - np.triu(wins, 1).sum(0))

        def loss() -> Any:
            u = BETA * log_ratio()
            return both @ softplus(u.index_select(0, first) - u.index_select(0, second)) - lead @ u
    return W, loss


def policy_of(W: Any) -> Array:
    pi: Array = softmax(W.detach().numpy(), axis=-1)
    return pi


def torch_lbfgs(sizes: dict[str, int], form: str = "square", history: int = 100, **_: Any) -> Run:
    import torch

    given = world(sizes)

    def descent(steps: int) -> tuple[Any, Callable[[], Any]]:
        W, loss = torch_problem(given, form)
        optimizer = torch.optim.LBFGS([W], max_iter=steps, max_eval=100 * steps, history_size=history,
                                      tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe")

        def closure() -> Any:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        return W, lambda: optimizer.step(closure)

    W, on = descent(1)
    steps = until_near(given, W, on, 1000)
    W, once = descent(steps)
    once()

    def work() -> None:
        descent(steps)[1]()

    numbers, facts = found(given, policy_of(W), steps=steps)
    return Run(work, numbers, facts=facts)


def torch_adam(sizes: dict[str, int], form: str = "square", **_: Any) -> Run:
    import torch

    given = world(sizes)

    def descent(rate: float) -> tuple[Any, Callable[[], Any]]:
        W, loss = torch_problem(given, form)
        optimizer = torch.optim.Adam([W], lr=rate, eps=1e-15, fused=True)

        def on() -> None:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

        return W, on

    steps, best = 2000, 0.0
    for rate in RATES:
        if (needed := until_near(given, *descent(rate), steps - 1)) < steps:
            steps, best = needed, rate

    def work() -> Any:
        W, on = descent(best)
        for _ in range(steps):
            on()
        return W

    numbers, facts = found(given, policy_of(work()), steps=steps, rate=best)
    return Run(work, numbers, facts=facts)


def until_near(given: World, W: Any, on: Callable[[], Any], most: int) -> int:
    """Steps until the policy is near, or most + 1"""
    for steps in range(1, most + 1):
        on()
        if given.kl(policy_of(W)) < NEAR:
            return steps
    return most + 1


SIDES = {"numpy": ("numpy", ours), "ours, from mean log-odds": ("numpy", from_mean_log_odds),
         "one step": ("numpy", one_step),
         "torch L-BFGS": ("torch", torch_lbfgs), "torch Adam": ("torch", torch_adam)}
