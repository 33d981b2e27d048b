"""Reward models, policy gradients plain and natural, PPO, RLOO, GRPO, RSO and DPO end at one policy, π_ref e^{r/β}/Z.

Each maximizes J = E r - β KL(π || π_ref), by a detour or without one. What differs is conditioning, what is sampled,
and what is held in memory. Two worlds, in which the distance to that policy π* is an exact sum:

    table      two prompts with four responses each, in independent copies
    language   a bigram over all strings of two letters, rewarded by token and context; responses are drawn until they
               end, or are cut where less than 1e-6 of them go on

Where a road is told r itself, sampling leaves no noise at π*: there r - β log π/π_ref is the same for every response,
so that advantages are 0, whatever is drawn, and expected Bradley-Terry labels agree with π* pair by pair. Such a road
gets nearer by a factor a step, at a constant step size, as if it drew nothing. What does leave noise, and an error that
falls as 1/n, is the judge: labels that are drawn, rewards that are noisy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from math import log
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import dpo_numpy as dn
from analytic import finite_data, ngram, optimum, population, temperature
from dpo_numpy.accounts import Memory
from dpo_numpy.policy import Params
from dpo_numpy.preferences import Responses
from dpo_numpy.rollouts import Task

from ..ngram import NGram
from ..tabular import Tabular
from ..worlds import bandit, strings
from ._ascent import train_exact_gradient
from ._claims import Claim, above, below, near
from ._config import require
from ._figure import COLORS, POLICY, axes
from ._roads import MILD, SLANTED, WITHIN, conditioning, policies, published

__all__ = ["MILD", "SLANTED", "Config", "claims", "conditioning", "plot", "published", "run"]

Array = NDArray[Any]

# prompts, responses
REWARD = np.array([[1.0, 0.2, 0.0, -0.3], [-0.4, 1.0, 0.1, 0.3]])
REF = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.3, 0.2]])
# rows: begin, a, b; columns: end, a, b
TOKEN_REWARD = np.array([[0.0, 0.5, 0.2], [0.3, -0.2, 0.1], [0.0, 0.4, -0.5]])
TOKEN_REF = np.array([[0.3, 0.4, 0.3], [0.4, 0.3, 0.3], [0.5, 0.2, 0.3]])
LONGEST = 5  # strings of DPO's pairs, their ends included

NEAR = 1e-9  # nats: there


@dataclass(frozen=True)
class Config:
    """What is trained, and for how long

    beta                            nats of reward that a nat of KL costs
    copies                          of the table
    group, language_group           responses drawn for a prompt at a step
    steps, language_steps           of the sampled roads; labelled pairs are as many as fit in what these draw
    noise                           standard deviation of a noisy reward
    cut                             tokens of a response of the language
    betas                           at which conditioning is measured
    seed                            of all that is drawn
    """

    seed: int = 0
    beta: float = 0.5
    copies: int = 12
    group: int = 4
    steps: int = 200
    noise: float = 1.0
    language_group: int = 16
    language_steps: int = 150
    cut: int = 60
    betas: tuple[float, ...] = (3.0, 1.0, 0.3, 0.1)

    def __post_init__(self) -> None:
        require(self, positive=("beta", "noise", "betas"), least={
            "copies": 2, "group": 2, "steps": 60, "language_group": 2, "language_steps": 60, "cut": 1})

    @property
    def pairs(self) -> int:
        """As many pairs as roads draw answers, two to a pair"""
        return self.group * self.steps // 2

    @property
    def language_pairs(self) -> int:
        """The same, of strings"""
        return self.language_group * self.language_steps // 2


# ---- what a road is, and what is measured on it

class Road(NamedTuple):
    name: str
    held: Memory  # a parameter of the policy
    steps: int
    drawn: float  # responses a step, of each prompt
    path: Iterator[Array]  # the policy after each step
    told: str = "r"  # what it learns of the reward: "r", "labels", "noise", or "" where it does not aim at π*
    drawn_before: int = 0


class World(NamedTuple):
    """Functions of a policy; each value (copies x prompts,)."""

    ref: Array
    best: Array
    kl: Callable[[Array], Array]  # KL(π || π*)
    reward: Callable[[Array], Array]
    regret: Callable[[Array], Array]  # J* - J
    below: Callable[[Array], Array]  # the frontier, at the policy's own KL to the reference


def _followed(world: World, roads: list[Road]) -> dict[str, Array]:
    longest = max(road.steps for road in roads)
    path, ends, first = np.full((len(roads), longest + 1), np.nan), [], []
    for row, road in zip(path, roads, strict=True):
        row[0], pi, near = world.kl(world.ref).mean(), world.ref, -1
        for step, pi in enumerate(islice(road.path, road.steps), 1):
            if step % 10 == 0 or (near < 0 and road.told == "r"):
                row[step] = world.kl(pi).mean()
                near = step if near < 0 and row[step] < WITHIN else near
        ends.append(pi)
        first.append(near)
    kl = np.array([world.kl(pi) for pi in ends])
    return {
        "road": np.array([road.name for road in roads]), "told": np.array([road.told for road in roads]), "path": path,
        "policy": np.array(ends), "kl": kl.mean(axis=1), "spread": kl.std(axis=1) / np.sqrt(kl.shape[1]),
        "apart": np.array([abs(pi - world.best).max() for pi in ends]),
        "regret": np.array([world.regret(pi).mean() for pi in ends]),
        "reward": np.array([world.reward(pi).mean() for pi in ends]),
        "below": np.array([world.below(pi).mean() for pi in ends]),
        "steps": np.array([road.steps for road in roads]), "within": np.array(first),
        "samples": np.array([round(road.drawn * road.steps) + road.drawn_before for road in roads]),
        "models": np.array([" + ".join(m.role + "*" * m.trained for m in _largest(road.held)) for road in roads]),
        "weights": np.array([road.held.weights for road in roads]),
        "state": np.array([road.held.state for road in roads]),
    }


def _largest(held: Memory) -> Any:
    return max(held.phases, key=lambda phase: phase.state).models


def _falling(first: float, half: float) -> Callable[[int], float]:
    """first/(1 + t/half): sums without end, squares do not"""
    return lambda step: first / (1 + step / half)


def _noisy(task: Task, deviation: float, rng: np.random.Generator) -> Task:
    return task._replace(reward=lambda y: np.asarray(task.reward(y)) + deviation * rng.normal(size=len(y)))


# ---- the table

def _table(config: Config) -> dict[str, Array]:
    beta, group, steps = config.beta, config.group, config.steps
    reward, ref = np.tile(REWARD, (config.copies, 1)), np.tile(REF, (config.copies, 1))
    rows, K = reward.shape
    world, policy, start = bandit(reward), Tabular(K, rows), {"W": np.log(ref)}
    best, task, DPO = optimum.boltzmann(ref, reward, beta), world.task(), dn.LOSSES["dpo"](beta=beta)
    everything = world.population().with_reference(policy, start)
    streams = iter(np.random.default_rng(config.seed).spawn(20))

    def lr(step: float) -> Any:
        """A batch is the mean over prompts: as many times the step that each of them takes."""
        return dn.sgd(rows * step)

    def boltzmann(steps: Any) -> Iterator[Array]:
        return (optimum.boltzmann(ref, step.params["W"], beta) for step in steps)

    def modelled(pairs: Any) -> Any:
        return dn.train_reward_model(policy, {"W": np.zeros((rows, K))}, repeat(pairs), lr(5.0))

    def rso() -> Iterator[Array]:
        """Of one copy: 64 kept responses make 2,016 pairs, and few of them would leave a response out."""
        one = {"W": np.log(REF)}
        path = policies(dn.train_rso(Tabular(K, len(REF)), one, bandit(REWARD).task(), dn.sgd(20.0), next(streams),
                                     beta=beta, keep=64, candidates=group * steps))
        return (np.tile(pi, (config.copies, 1)) for pi in path)

    def gradient(task: Task, step: Any = 4.0) -> Iterator[Array]:
        rate = step if callable(step) else lambda t: step
        return policies(dn.train_rloo(policy, start, task, dn.sgd(lambda t: rows * rate(t)), next(streams),
                                      group=group, beta=beta))

    labels = next(streams)
    few, many = (world.sample(n * rows, labels).with_reference(policy, start)
                 for n in (config.pairs // 4, config.pairs))
    *_, last = islice(modelled(many), steps)
    judge = {"W": last.params["W"]}
    *_, fewer = islice(policies(dn.train(policy, start, repeat(few), DPO, lr(20.0))), steps)

    noisy = next(streams)
    drawn_labels = dn.train_online_dpo(policy, start, task, dn.sgd(lambda t: rows * _falling(12.0, 10.0)(t)),
                                       next(streams), group=group, loss=DPO, labels="sampled")
    ppo = dn.train_ppo(policy, start, policy, {"W": np.zeros((rows, K))}, task, lr(2.0), lr(K / 2), next(streams),
                       group=group, beta=beta, epochs=2)
    of_J = dn.train_grpo(policy, start, task, lr(4.0), next(streams), group=group, beta=beta, scale="none",
                         loss=dn.SURROGATES["dr_grpo"](max_length=1))
    as_published = dn.train_grpo(policy, start, task, dn.sgd(lambda t: rows * _falling(1.0, 20.0)(t)), next(streams),
                                 group=group, loss=dn.SURROGATES["grpo"](beta=beta))
    online = dn.train_online_dpo(policy, start, task, lr(16.0), next(streams), group=group, loss=DPO)
    memory, pairs = dn.memory, config.pairs
    roads = [
        Road("reward model of every pair, then e^{r/β}", memory("rm", 1), steps, 0, boltzmann(modelled(everything))),
        Road("policy gradient, exact", memory("rloo", 1), steps, 0,
             policies(train_exact_gradient(policy, start, reward, beta, lr(8.0)))),
        Road("natural policy gradient, exact", memory("rloo", 1), 2, 0,
             policies(train_exact_gradient(policy, start, reward, beta, dn.sgd(1 / beta), natural=True))),
        Road("RLOO", memory("rloo", 1), steps, group, gradient(task)),
        Road("GRPO, no deviation, KL in the reward", memory("grpo", 1), steps, group, policies(of_J)),
        Road("PPO", memory("ppo", 1), steps, group / 2, policies(ppo)),
        Road("RSO", memory("rso", 1), steps, 0, rso(), drawn_before=group * steps),
        Road("online DPO, expected labels", memory("online_dpo", 1), steps, group, policies(online)),
        Road("DPO, every pair", memory("dpo", 1), steps, 0,
             policies(dn.train(policy, start, repeat(everything), DPO, lr(20.0)))),
        Road("reward model of n labels, then e^{r/β}", memory("rm", 1), steps, 0, boltzmann(modelled(many)), "labels",
             2 * pairs),
        Road("reward model of n labels, then RLOO", memory("rloo", 1), steps, group,
             gradient(task._replace(reward=dn.reward_model(policy, judge))), "labels", 2 * pairs),
        Road("DPO, n labels", memory("dpo", 1), steps, 0,
             policies(dn.train(policy, start, repeat(many), DPO, lr(20.0))), "labels", 2 * pairs),
        Road("online DPO, drawn labels, falling steps", memory("online_dpo", 1), 2 * steps, group,
             policies(drawn_labels), "labels"),
        Road("RLOO, noisy rewards, falling steps", memory("rloo", 1), steps, group,
             gradient(_noisy(task, config.noise, noisy), _falling(4.0, 10.0)), "noise"),
        Road("GRPO as published, falling steps", memory("grpo", 1), steps, group, policies(as_published), ""),
    ]

    def below(pi: Array) -> Array:
        gap: Array = temperature.frontier(ref, reward, optimum.kl(pi, ref)).reward - (pi * reward).sum(axis=-1)
        return gap

    found = _followed(World(
        ref, best, lambda pi: optimum.kl(pi, best), lambda pi: (pi * reward).sum(axis=-1),
        lambda pi: optimum.optimal_value(ref, reward, beta) - optimum.value(pi, ref, reward, beta), below), roads)
    wins = population.bradley_terry_wins(REWARD)
    return found | {
        "best": best, "fewer": optimum.kl(fewer, best).mean(),
        "theory": finite_data.regret(REF, wins, beta, config.pairs).mean() / beta,
        "published": np.array([published(p, r, beta, group) for p, r in zip(REF, REWARD, strict=True)]),
    }


# ---- the language

class _Prefix:
    """A value model that knows what has been said: its tokens' rewards so far, and V (S,) of the latest one

    The reward comes at the end, but is of all tokens: V of the context alone, as a bigram has it, is not the value.
    """

    vocab, eos = 3, 0

    def init(self, rng: np.random.Generator) -> Params:
        return {"V": rng.normal(size=self.vocab)}

    def logits(self, params: Params, tokens: Array) -> tuple[Array, Callable[[Array], Params]]:
        earned = np.zeros(tokens.shape)
        earned[..., 1:] = TOKEN_REWARD[tokens[..., :-1], tokens[..., 1:]].cumsum(axis=-1)
        value = earned + params["V"][tokens]

        def pullback(dlogits: Array) -> Params:
            return {"V": np.bincount(tokens.ravel(), dlogits.sum(axis=-1).ravel(), self.vocab)}

        return np.repeat(value[..., None], self.vocab, axis=-1), pullback


def _earned(text: Any) -> float:
    """r(y) of a response, its end included"""
    return float(sum(TOKEN_REWARD[a, b] for a, b in zip([0, *text], text, strict=False)))


def _language(config: Config) -> dict[str, Array]:
    beta, group, steps, cut = config.beta, config.language_group, config.language_steps, config.cut
    policy, start = NGram(vocab=3), {"W": np.log(TOKEN_REF)}
    best, log_z = ngram.optimum(TOKEN_REF, TOKEN_REWARD, beta)
    DPO, streams = dn.LOSSES["dpo"](beta=beta), iter(np.random.default_rng(config.seed).spawn(20))
    task = Task([[0]], _rewarded, cut)
    world = strings(3, LONGEST, _earned)
    everything = world.population().with_reference(policy, start)
    many = world.sample(config.language_pairs, next(streams)).with_reference(policy, start)
    zero = {"W": np.zeros((3, 3))}

    def boltzmann(pairs: Any) -> Iterator[Array]:
        models = dn.train_reward_model(policy, zero, repeat(pairs), dn.momentum(0.5, 0.8))
        return (ngram.optimum(TOKEN_REF, step.params["W"], beta)[0] for step in models)

    def ppo(critic: Any, critic_params: Params, step: Any, critic_step: Any, lam: float) -> Iterator[Array]:
        return policies(dn.train_ppo(policy, start, critic, critic_params, task, dn.sgd(step), dn.sgd(critic_step),
                                     next(streams), group=group, beta=beta, epochs=2, lam=lam))

    def of_the_last_token(lam: float) -> Iterator[Array]:
        return ppo(policy, zero, _falling(4.0, 20.0), _falling(5.0, 100.0), lam)

    of_J = dn.train_grpo(policy, start, task, dn.sgd(2.0), next(streams), group=group, beta=beta, scale="none",
                         loss=dn.SURROGATES["dr_grpo"](max_length=1))
    as_published = dn.train_grpo(policy, start, task, dn.sgd(_falling(2.0, 10.0)), next(streams), group=group,
                                 loss=dn.SURROGATES["grpo"](beta=beta))
    rloo = dn.train_rloo(policy, start, task, dn.sgd(2.0), next(streams), group=group, beta=beta)
    rso = dn.train_rso(policy, start, task, dn.momentum(2.0), next(streams), beta=beta, keep=96,
                       candidates=group * steps)
    online = dn.train_online_dpo(policy, start, task, dn.sgd(10.0), next(streams), group=group, loss=DPO)
    memory, longer = dn.memory, 4 * steps // 3
    roads = [
        Road("reward model of every pair, then e^{r/β}", memory("rm", 1), longer, 0, boltzmann(everything)),
        Road("policy gradient, exact", memory("rloo", 1), steps, 0,
             policies(train_exact_gradient(policy, start, TOKEN_REWARD, beta, dn.sgd(4.0)))),
        Road("natural policy gradient, exact", memory("rloo", 1), 6, 0,
             policies(train_exact_gradient(policy, start, TOKEN_REWARD, beta, dn.sgd(1 / beta), natural=True))),
        Road("RLOO", memory("rloo", 1), steps, group, policies(rloo)),
        Road("GRPO, no deviation, KL in the reward", memory("grpo", 1), steps, group, policies(of_J)),
        Road("PPO, values of what was said", memory("ppo", 1), steps, group / 2,
             ppo(_Prefix(), {"V": np.zeros(3)}, 4.0, 1.0, 0.95)),
        Road("RSO", memory("rso", 1), 5 * steps // 3, 0, policies(rso), drawn_before=group * steps),
        Road("online DPO, expected labels", memory("online_dpo", 1), steps, group, policies(online)),
        Road("DPO, every pair", memory("dpo", 1), longer, 0,
             policies(dn.train(policy, start, repeat(everything), DPO, dn.momentum(3.0, 0.8)))),
        Road("reward model of n labels, then e^{r/β}", memory("rm", 1), longer, 0, boltzmann(many), "labels",
             2 * config.language_pairs),
        Road("DPO, n labels", memory("dpo", 1), longer, 0,
             policies(dn.train(policy, start, repeat(many), DPO, dn.momentum(3.0, 0.8))), "labels",
             2 * config.language_pairs),
        Road("PPO, values of the last token, λ = 1, falling steps", memory("ppo", 1), steps, group / 2,
             of_the_last_token(1.0), "noise"),
        Road("PPO, values of the last token, λ = ½, falling steps", memory("ppo", 1), steps, group / 2,
             of_the_last_token(0.5), ""),
        Road("GRPO as published, falling steps", memory("grpo", 1), steps, group, policies(as_published), ""),
    ]
    found = _followed(World(
        TOKEN_REF, best, lambda pi: np.array([ngram.kl(pi, best)]), lambda pi: np.array([ngram.expected(
            pi, TOKEN_REWARD)]),
        lambda pi: beta * log_z - np.array([ngram.value(pi, TOKEN_REF, TOKEN_REWARD, beta)]),
        lambda pi: np.full(1, np.nan)), roads)
    begun = [1 - ngram.length_pmf(p, longest=cut - 1).sum() for p in (TOKEN_REF, best, *found["policy"])]
    return found | {"best": best, "goes_on": np.array(begun)}


def _rewarded(responses: Responses) -> Array:
    here = responses.mask[:, 1:]
    total: Array = (TOKEN_REWARD[responses.tokens[:, :-1], responses.tokens[:, 1:]] * here).sum(axis=1)
    return total


# ---- the experiment

def run(config: Config | None = None) -> dict[str, Array]:
    """Everything measured, by name: "table.kl", "language.kl", "conditioning.steps" ...; a row for each road

    road, told, models   names; a star: trained          kl, spread   KL(π || π*), mean over copies, standard error
    path                 KL after a step, or NaN         apart        max |π - π*|
    regret               J* - J                          below        the frontier of reward against KL, in reward
    steps, within        taken, and until KL < 1e-6      samples      responses drawn, of each prompt
    weights, state       bytes a parameter, in all

    Raises `ValueError` where labels are so few that Z diverges for the reward model that fits them.
    """
    config = config or Config()
    parts = {"table": _table(config), "language": _language(config), "conditioning": conditioning(config.betas)}
    return {"beta": np.array(config.beta)} | {
        f"{part}.{name}": np.asarray(value) for part, found in parts.items() for name, value in found.items()}


def claims(result: dict[str, Array]) -> dict[str, Claim]:
    """Each claim: whether it holds, by which number"""
    def of(part: str, name: str, road: str) -> Any:
        row, = np.flatnonzero(result[f"{part}.road"] == road)
        return result[f"{part}.{name}"][row]

    found: dict[str, Claim] = {}
    beta = result["beta"]
    for part in ("table", "language"):
        identity = abs(result[f"{part}.regret"] - beta * result[f"{part}.kl"]).max()
        found[f"{part}: J* - J = β KL(π || π*): max |difference|"] = below(identity, 1e-12)
        told, kl = result[f"{part}.told"], result[f"{part}.kl"]
        worst = kl[told == "r"].max()
        found[f"{part}: told r, every road ends at π*: largest KL"] = below(worst, NEAR)
        two = (of(part, "policy", road) for road in ("reward model of n labels, then e^{r/β}", "DPO, n labels"))
        apart = abs(np.subtract(*two)).max()
        found[f"{part}: of the same labels, reward model and DPO make one policy: max |difference|"] = below(
            apart, 1e-6)
        astray = of(part, "kl", "GRPO as published, falling steps")
        found[f"{part}: GRPO as published ends elsewhere: KL"] = above(astray, 0.02)
        path = of(part, "path", "RLOO")
        shrunk = path[60] / path[30]
        found[f"{part}: noise dies at π*, KL of RLOO after 60 steps over 30 (1/n: ½)"] = below(shrunk, 0.05)

    one = of("table", "path", "natural policy gradient, exact")[1]
    found["table: one natural step of 1/β is enough: KL"] = below(one, NEAR)
    policies = [of("table", "policy", f"reward model of n labels, then {end}") for end in ("e^{r/β}", "RLOO")]
    apart = abs(policies[0] - policies[1]).max()
    found["table: RLOO on a reward model ends at its e^{r/β}: max |difference|"] = below(apart, 1e-6)
    labelled, theory = of("table", "kl", "DPO, n labels"), result["table.theory"]
    # a mean of as many squares as there are log-odds: three standard deviations of it
    likely = 3 * np.sqrt(2 / result["table.best"][:, 1:].size)
    found["table: n labels leave the KL that theory says: ratio"] = near(
        labelled / theory, 1, likely)
    falls = {"DPO": result["table.fewer"] / labelled}
    for name, road in (("online DPO", "online DPO, drawn labels, falling steps"),
                       ("noisy RLOO", "RLOO, noisy rewards, falling steps")):
        path = of("table", "path", road)
        steps = np.flatnonzero(np.isfinite(path))[-1]
        falls[name] = path[10 * (steps // 40)] / path[steps]
    # two such means: three standard deviations of the exponent are about 0.6
    for name, ratio in falls.items():
        found[f"table: {name} falls as n^-1: exponent"] = near(log(ratio, 4), 1, 0.6)
    ends = result["table.policy"][result["table.road"] == "GRPO as published, falling steps"][0]
    mean = ends.reshape(-1, *result["table.published"].shape).mean(axis=0)
    off = abs(mean - result["table.published"]).max()
    found["table: GRPO as published ends where enumeration says: max |difference|"] = below(off, 0.03)
    least = result["table.below"].min()
    found["table: no road is above the frontier: least distance"] = above(least, -1e-12)
    under = result["table.below"][result["table.told"] == "r"].max()
    found["table: told r, they are on it: largest distance"] = below(under, NEAR)

    ppo, dpo = ({name: of("table", name, road) for name in ("weights", "state")} for road in ("PPO", "DPO, every pair"))
    found["memory: PPO's models over those of DPO, weights: ratio"] = near(ppo["weights"] / dpo["weights"], 2, 0)
    found["memory: and in training: ratio"] = near(ppo["state"] / dpo["state"], 2, 0)
    found["memory: but in training DPO holds more than weights: ratio"] = above(dpo["state"] / dpo["weights"], 4)

    cut = result["language.goes_on"].max()
    found["language: what the cut leaves out, of every policy"] = below(cut, 1e-6)
    noise, bias = (of("language", "kl", f"PPO, values of the last token, λ = {lam}, falling steps") for lam in "1½")
    found["language: a value model that cannot know the values leaves PPO noise: KL"] = above(noise, 1e-5)
    found["language: and, for λ < 1, another end: KL at λ = ½ over that at 1"] = above(bias / noise, 5)

    condition, counted = result["conditioning.condition"], result["conditioning.counted"]
    varies = np.ptp(condition[:, 1]) / condition[0, 1]
    found["conditioning: that of DPO does not know β: relative range"] = below(varies, 1e-9)
    grows = condition[-1, 0] / condition[:, 0].min()
    found["conditioning: that of policy gradient grows as β falls: factor"] = above(grows, 10)
    alike = abs(np.log(result["conditioning.online"] / condition[:, 0])).max()
    found["conditioning: DPO on pairs drawn from π* has nearly that of policy gradient: |log ratio|"] = below(
        alike, 0.2)
    off = abs(result["conditioning.measured"] - result["conditioning.factor"]).max()
    found["conditioning: factors a step, measured less predicted"] = below(off, 0.01)
    over = (counted / np.ceil(result["conditioning.steps"])).max()
    found["conditioning: steps to KL < 1e-6, counted over what the rate says, at most"] = below(over, 1.5)
    natural = result["conditioning.natural"].max()
    found["conditioning: one natural step at every β: KL"] = below(natural, NEAR)
    ratio = counted[-1, 0] / counted[-1, 1]
    found["conditioning: steps of policy gradient over those of DPO, at the least β"] = above(ratio, 10)
    return found


def plot(result: dict[str, Array], ax: Any = None) -> Any:
    """KL(π || π*) against steps, of the table; returns the axes"""
    ax = axes(ax)
    black, orange, sky, *_ = COLORS  # a color a family: exact, samples of rewards, samples clipped, pairs
    shown = {
        "policy gradient, exact": (black, "-"), "RLOO": (orange, "-"), "PPO": (sky, "-"),
        "DPO, every pair": (POLICY, "-"), "online DPO, expected labels": (POLICY, "-."),
        "DPO, n labels": (POLICY, "--"), "RLOO, noisy rewards, falling steps": (orange, "--"),
        "GRPO as published, falling steps": (sky, "--"),
    }
    for road, path in zip(result["table.road"], result["table.path"], strict=True):
        if road in shown:
            color, style = shown[road]
            there = np.flatnonzero(np.isfinite(path))
            ax.semilogy(there, path[there], style, color=color, lw=1.5, label=road)
    ax.set(xlabel="gradient steps", ylabel="KL(π || π*), nats", xlim=(0, 200), ylim=(1e-15, 2))
    ax.legend(fontsize=8, loc="center right")
    return ax
