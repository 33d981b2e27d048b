"""The README's picture: one pair and its two pushes, a training run against its predicted rate, and where it ends.

    python docs/picture.py
"""

from itertools import repeat
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dpo_numpy as dn
from analytic import optimum, population
from dpo_numpy import figures, minimal
from toy_models import Tabular, bandit

FIGURE = Path(__file__).with_suffix(".png")
REWARD, REFERENCE, BETA, LR, STEPS = np.array([[2.0, 1.0, 0.0, -1.0]]), np.array([[0.1, 0.2, 0.3, 0.4]]), 0.5, 24.0, 34


def run():
    """π after each step, the reference first, (steps + 1, 4), and π*, (4,)"""
    policy, reference = Tabular(vocab=4), {"W": np.log(REFERENCE)}
    pairs = bandit(REWARD).population().with_reference(policy, reference)
    best = optimum.boltzmann(REFERENCE, REWARD, BETA)
    path = [REFERENCE[0]]
    for step in dn.train(policy, reference, repeat(pairs, STEPS), dn.LOSSES["dpo"](beta=BETA), dn.sgd(lr=LR)):
        shifted = np.exp(step.params["W"][0] - step.params["W"].max())
        path.append(shifted / shifted.sum())
    return np.array(path), best[0]


def predicted(best):
    """The factor a step by which the distance to π* shrinks near it: of the Hessian there"""
    wins = population.bradley_terry_wins(REWARD[0])
    return population.linear_rate(population.hessian(REWARD[0] / BETA, wins, BETA)).at(LR)


def kl(path, best):
    return (path * np.log(path / best)).sum(axis=-1)


@figures.styled
def draw():
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.5, 3.3), width_ratios=(1, 1.1, 1.1))
    _pair(left)
    path, best = run()
    _way(middle, kl(path, best), predicted(best))
    _end(right, path, best)
    return figure


def _pair(ax):
    """What the policy gives each answer less what the reference does, and the push on it"""
    loss, *grads = minimal.dpo_loss(-2.1, -4.5, -3.0, -3.2, beta=0.1)
    for x, name, ratio, grad, color in zip((0, 1), ("chosen", "rejected"), (0.9, -1.3), grads,
                                           (figures.CHOSEN, figures.REJECTED), strict=True):
        ax.bar(x, ratio, 0.5, color=color, alpha=0.35)
        ax.annotate("", (x, ratio - 20 * grad), (x, ratio), arrowprops={"arrowstyle": "-|>", "color": color, "lw": 2.5})
        ax.text(x + 0.1, ratio - 12 * grad, f"{-grad:+.4f}", color=color, va="center")
        ax.text(x, 0.1 if ratio < 0 else -0.1, name, color=color, ha="center", va="bottom" if ratio < 0 else "top")
    ax.axhline(0, color=figures.REFERENCE, lw=1)
    ax.set(title=f"one pair: loss {loss:.3f}, equal pushes", ylabel="log-ratio to the reference, nats", xticks=[],
           xlim=(-0.5, 1.75), ylim=(-2.6, 2.2))


def _way(ax, far, factor):
    steps = np.arange(len(far))
    ax.semilogy(steps, far, "o", ms=4, color=figures.POLICY, label="measured")
    ax.semilogy(steps[8:], far[24] * factor ** (2 * (steps[8:] - 24)), color="black", lw=1, label="slope, from theory")
    ax.legend()
    ax.set(title="training converges to the optimum", xlabel="step", ylabel="KL(π || π*), nats")


def _end(ax, path, best):
    x = np.arange(4)
    for shift, width, policy, color, label in ((-0.27, 0.25, path[0], figures.REFERENCE, "reference"),
                                               (0, 0.25, path[-1], figures.POLICY, "trained"),
                                               (0.27, 0.25, best, figures.OPTIMUM, "π* = π_ref exp(r/β)/Z")):
        ax.bar(x + shift, policy, width, color=color, label=label)
    ax.set(title="and ends there", xticks=x, xticklabels=[f"r = {r:g}" for r in REWARD[0]], ylabel="probability")
    ax.legend()


if __name__ == "__main__":
    draw().savefig(FIGURE, metadata={"Software": None})
