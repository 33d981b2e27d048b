"""The reward is hiding in the log-ratio: r = β log π*/π_ref + β log Z, and no pair of one prompt ever meets Z.

π* = π_ref e^{r/β}/Z is what maximizes J(π) = E_π r - β KL(π || π_ref), and J(π) = β log Z - β KL(π || π*) for every π.
Z sums over all responses, so that nobody computes it; but it is one number a prompt, and a comparison of two responses
of a prompt takes it away. So does it a reward r + c(x), which has the same π*, and a constant added to both log-probs.
Whatever is not a function of the margin alone keeps the constant: the likelihood term of CPO, the desirable and
undesirable responses of KTO, a pair across two prompts.

    drawn     random rewards, references and policies: the identities; DPO trained on every pair of them, its rewards
    printed   r = (1, 0, -1), a uniform reference, three β
    losses    of the registry: what a constant, added to the log-probs of both responses, does to loss and gradient

Rafailov et al. 2023, arXiv:2305.18290, section 4 and appendix A.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dpo_numpy as dn
from analytic import optimum
from dpo_numpy.numerics import log_softmax

from ..tabular import Tabular
from ..worlds import bandit
from ._claims import Claim, above, below
from ._config import require, streams
from ._figure import COLORS, OPTIMUM, REFERENCE, axes

__all__ = ["PANELS", "REPLICATED", "Config", "claims", "plot", "run"]

Array = NDArray[Any]

REWARD, BETAS = np.array([1.0, 0.0, -1.0]), (0.5, 1.0, 2.0)
#: π* and log Z of it at these β, to the digits given
PRINTED = np.array([[0.86681333, 0.11731043, 0.01587624], [0.66524096, 0.24472847, 0.09003057],
                    [0.50648039, 0.30719589, 0.18632372]])
PRINTED_LOG_Z = np.array([1.0443193398, 0.3089936758, 0.0816573820])

#: losses of h = log π(w)/π(l) - log π_ref(w)/π_ref(l), and losses that see more than h
OF_MARGIN = ("dpo", "cdpo", "rdpo", "ipo", "hinge", "exo", "discopop", "r_dpo", "aot")
OF_MORE = ("kto", "kto_pair", "nca", "apo_zero", "sppo", "f_dpo_js", "cpo", "slic", "orpo", "sft", "rpo")

REPLICATED = ("duality", "implied", "log_z", "across", "within", "regret")


@dataclass(frozen=True)
class Config:
    """What is drawn, and how long DPO is trained.

    beta        nats of reward that a nat of KL costs
    responses   of a prompt
    prompts     of a world
    policies    random ones, for which the duality is measured
    shift       standard deviation of c(x), and the mean of what is taken from both log-probs of a pair
    steps       of training
    replicates  worlds that are drawn
    seed        of all that is drawn
    """

    seed: int = 0
    replicates: int = 20
    beta: float = 0.5
    responses: int = 5
    prompts: int = 2
    policies: int = 8
    shift: float = 3.0
    steps: int = 600

    def __post_init__(self) -> None:
        require(self, positive=("beta", "shift"), least={
            "replicates": 1, "responses": 2, "prompts": 2, "policies": 1, "steps": 1})


def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured. Axes: replicates R, prompts P, responses K; rewards in nats

    reward, ref, best, trained   (R, P, K): r, π_ref, π*, and the policy of DPO after its steps
    learned                      (R, P, K): β log π/π_ref of the trained policy
    log_z                        (R, P)
    duality, regret              (R,): max |J - β log Z + β KL(π || π*)| and least J* - J, of random policies
    implied                      (R,): max |r - β log π*/π_ref - β log Z|
    across                       (R, 2): r(x, y) - r(x', y') less what π* has of it, and β log Z(x)/Z(x')
    within                       (R,): max |the same| of two responses of one prompt
    moved, log_z_moved           max |change| of π*, and of log Z less c/β, where r + c(x) is in the place of r
    retrained                    max |change| of DPO's policy by it
    printed, printed_log_z       of (1, 0, -1)
    loss, of_margin, change      a row a loss: its name, whether it is of h alone, max |change of loss or gradient|
    apart, hidden                max |error| of learned differences, and of β log Z as r - learned
    kl, expected, value          means of KL(π* || π_ref), E r and J* over worlds and prompts
    """
    config = config or Config()
    beta = config.beta
    draws = [_drawn(config, rng) for rng in streams(config.seed, config.replicates)]
    reward, ref, c, policies = (np.stack(part) for part in zip(*draws, strict=True))
    shifted = reward + c[..., None]
    best, log_z = optimum.boltzmann(ref, reward, beta), optimum.log_partition(ref, reward, beta)
    optima, others = best[:, None], ref[:, None]
    J = (policies * (reward[:, None] - beta * np.log(policies / others))).sum(axis=-1)
    top = beta * log_z[:, None]
    trained, again = (_trained(config, r, ref) for r in (reward, shifted))
    score, learned = beta * np.log(best / ref), beta * np.log(trained / ref)
    missing = reward[:, 0, 0] - reward[:, 1, 0] - (score[:, 0, 0] - score[:, 1, 0])
    flat = np.full(3, 1 / 3)
    found = {
        "beta": beta, "reward": reward, "ref": ref, "best": best, "trained": trained, "learned": learned,
        "log_z": log_z, "regret": (top - J).min(axis=(1, 2)),
        "duality": abs(J - top + beta * optimum.kl(policies, optima)).max(axis=(1, 2)),
        "implied": abs(reward - score - beta * log_z[..., None]).max(axis=(1, 2)),
        "across": np.stack([missing, beta * (log_z[:, 0] - log_z[:, 1])], axis=-1),
        "within": abs(np.diff(reward - score, axis=-1)).max(axis=(1, 2)),
        "moved": abs(optimum.boltzmann(ref, shifted, beta) - best).max(),
        "log_z_moved": abs(optimum.log_partition(ref, shifted, beta) - log_z - c / beta).max(),
        "retrained": abs(again - trained).max(),
        "printed": np.array([optimum.boltzmann(flat, REWARD, b) for b in BETAS]),
        "printed_log_z": np.array([optimum.log_partition(flat, REWARD, b) for b in BETAS]),
        "loss": np.array([*OF_MARGIN, *OF_MORE]), "of_margin": np.isin([*OF_MARGIN, *OF_MORE], OF_MARGIN),
        "change": _changes(config),
        "apart": np.ptp(learned - reward, axis=-1).max(),
        "hidden": abs(reward - learned - beta * log_z[..., None]).max(),
        "kl": optimum.kl(best, ref).mean(), "expected": (best * reward).sum(axis=-1).mean(), "value": top.mean(),
    }
    return {name: np.asarray(x) for name, x in found.items()}


def _drawn(config: Config, rng: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    """r, π_ref (P, K), c (P,) and policies (M, P, K)"""
    shape, flat = (config.prompts, config.responses), np.ones(config.responses)
    return (rng.normal(size=shape), rng.dirichlet(2 * flat, size=shape[0]), config.shift * rng.normal(size=shape[0]),
            rng.dirichlet(flat, size=(config.policies, shape[0])))


def _trained(config: Config, reward: Array, ref: Array) -> Array:
    """DPO on every pair of every world; each world's prompts are rows of one table"""
    rows, K = reward.size // reward.shape[-1], reward.shape[-1]
    policy, start = Tabular(K, rows), {"W": np.log(ref).reshape(rows, K)}
    pairs = bandit(reward.reshape(rows, K)).population().with_reference(policy, start)
    # a row's curvature is at most β²/(2 (K-1)), and it weighs 1/rows
    optimizer = dn.momentum(rows * 2 * (K - 1) / config.beta**2, 0.9)
    steps = dn.train(policy, start, repeat(pairs, config.steps), dn.LOSSES["dpo"](beta=config.beta), optimizer)
    W: Array = deque(steps, maxlen=1).pop().params["W"]
    pi: Array = np.exp(log_softmax(W)).reshape(reward.shape)
    return pi


def _changes(config: Config) -> Array:
    """max |change| of each loss and its gradient, eight pairs, where a pair's log-probs both fall by one constant"""
    rng = np.random.default_rng(config.seed)
    logp, ref_logp = rng.normal(-5, 1, size=(2, 8, 2))
    length, c = rng.integers(2, 9, size=(8, 2)), -config.shift * np.linspace(0.5, 1.5, 8)[:, None]
    facts: dict[str, Any] = {"label": np.arange(16) % 2 == 0, "z0": 0.0}

    def told(name: str, logp: Array) -> tuple[Any, Any]:
        loss = dn.LOSSES[name]()
        if "label" in loss.needs:  # unpaired: a column
            return loss(logp.reshape(-1, 1), ref_logp.reshape(-1, 1), **facts)
        return loss(logp, ref_logp, length)

    return np.array([max(abs(a - b).max() for a, b in zip(told(name, logp), told(name, logp + c), strict=True))
                     for name in (*OF_MARGIN, *OF_MORE)])


def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    change, of_margin, across = result["change"], result["of_margin"], result["across"]
    off = abs(across[:, 0] - across[:, 1]).max()
    return {
        "π* of r = (1, 0, -1) at β = ½, 1, 2: max |difference from what is printed|": below(
            abs(result["printed"] - PRINTED).max(), 5.1e-9),
        "log Z of it: max |difference from what is printed|": below(
            abs(result["printed_log_z"] - PRINTED_LOG_Z).max(), 5.1e-11),
        "J(π) = β log Z - β KL(π || π*), whatever π is: max |difference|": below(result["duality"].max(), 1e-12),
        "so that no policy is above β log Z: least J* - J of random ones": above(result["regret"].min(), 0),
        "r = β log π*/π_ref + β log Z: max |difference|": below(result["implied"].max(), 1e-12),
        "r + c(x) has the same π*: max |change|": below(result["moved"], 1e-12),
        "log Z of r + c(x) is larger by c/β: max |difference|": below(result["log_z_moved"], 1e-11),
        "the pairs cannot tell, DPO learns the same from r + c(x): max |change of its policy|": below(
            result["retrained"], 1e-10),
        "trained DPO, which never computed Z, has the rewards' differences: max |error|": below(
            result["apart"], 1e-8),
        "what r has beyond its log-ratios is β log Z: max |error|": below(result["hidden"], 1e-8),
        "a loss of the margin sees no constant in both log-probs: largest change of loss and gradient": below(
            change[of_margin].max(), 1e-12),
        "but a loss that sees more does: least change": above(change[~of_margin].min(), 1e-5),
        "a pair across two prompts lacks β log Z(x)/Z(x'): max |difference|": below(off, 1e-12),
        "which is not 0 across prompts: root mean square": above(np.sqrt((across[:, 0] ** 2).mean()), 0.05),
        "but a pair of one prompt lacks nothing: max |difference|": below(result["within"].max(), 1e-12),
    }


def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """r against what DPO learned of it: each prompt has a line of slope 1, and β log Z is where it begins"""
    ax = axes(ax)
    K = result["reward"].shape[-1]
    few = (result["learned"].reshape(-1, K), result["reward"].reshape(-1, K), result["beta"] * result["log_z"].ravel())
    for x, r, log_z, color in zip(*(part[:4] for part in few), COLORS, strict=False):
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, ends + log_z, color=color, lw=1, zorder=1)
        ax.plot(x, r, "o", color=color, label=f"β log Z = {log_z:.2f}")
    ax.plot(*[np.array(ax.get_xlim())] * 2, ":", color=REFERENCE, zorder=0, label="β log Z = 0")
    ax.set(xlabel="β log π/π_ref of trained DPO, nats", ylabel="reward r, nats",
           title="The log-ratio is the reward, up to a constant a prompt")
    ax.legend(title="prompts", fontsize=9)
    return ax


def _tilt(result: dict[str, Array], ax: Any = None) -> Any:
    """The reference and π* at three β"""
    ax = axes(ax)
    at = np.arange(len(REWARD))
    shades = ("#004D38", OPTIMUM, "#8FD3BF")
    ax.bar(at - 0.3, np.full(3, 1 / 3), 0.19, color=REFERENCE, label="π_ref, log Z = 0")
    for k, (pi, log_z, beta, color) in enumerate(zip(
            result["printed"], result["printed_log_z"], BETAS, shades, strict=True)):
        ax.bar(at - 0.1 + 0.2 * k, pi, 0.19, color=color, label=f"π*, β = {beta:g}, log Z = {log_z:.3f}")
    ax.set_xticks(at, [f"r = {r:g}" for r in REWARD])
    ax.set(ylabel="probability", title="π* tilts the reference by e^{r/β}")
    ax.legend()
    return ax


def _constants(result: dict[str, Array], ax: Any = None) -> Any:
    """What a constant in both log-probs changes, loss by loss"""
    ax = axes(ax)
    at, floor = np.arange(len(result["loss"])), 1e-17
    colors = np.where(result["of_margin"], COLORS[2], COLORS[1])
    ax.hlines(at, floor, np.maximum(result["change"], floor), color=colors, lw=2)
    ax.scatter(np.maximum(result["change"], floor), at, color=colors, zorder=2)
    ax.set_yticks(at, result["loss"])
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="largest change of loss or gradient (0 is drawn at 1e-17)",
           title="A constant in both log-probs: losses of the margin, and others")
    return ax


PANELS = (plot, _tilt, _constants)
