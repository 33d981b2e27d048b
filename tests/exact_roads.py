"""Exact results on the roads to a policy: reward models, policy gradients, and when each wins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, product, repeat
from typing import Any

import numpy as np
from exact import Row, entry
from scipy.optimize import brentq
from scipy.special import expit, logit, softmax

import dpo_numpy as dn
from analytic import bradley_terry, graph, loglinear, optimum, population, sampling
from dpo_numpy.gradient import read
from toy_models import LogLinear, NGram, Tabular, bandit, modular_sums
from toy_models.experiments import train_exact_gradient

Array = np.ndarray
Params = dict[str, Array]
DPO, SURROGATES = dn.LOSSES["dpo"], dn.SURROGATES
PLAIN = SURROGATES["reinforce"]()


# ---- trainings

def after(steps: Iterable[Any], n: int) -> Params:
    params: Params = next(islice(steps, n - 1, None)).params
    return params


def probabilities(policy: Any, params: Params, responses: dn.Responses) -> Array:
    return np.exp(read(policy, params, responses, np.arange(len(responses)), ["logp"])[0]["logp"])


def dpo(policy: Any, ref: Params, pairs: dn.Preferences, beta: float, lr: float, steps: int, loss: Any = None,
        start: Params | None = None) -> Array:
    """What training on `pairs` ends at, as probabilities; lr in units of 1/β², so that it suits every β"""
    batches = repeat(pairs.with_reference(policy, ref))
    end = after(dn.train(policy, start or ref, batches, loss or DPO(beta=beta), dn.sgd(lr / beta**2)), steps)
    return probabilities(policy, end, pairs.responses)


def reward(policy: Any, start: Params, pairs: dn.Preferences, lr: float, steps: int) -> Array:
    """The rewards of all responses by a model trained on `pairs`"""
    end = after(dn.train_reward_model(policy, start, repeat(pairs), dn.sgd(lr)), steps)
    return dn.reward_model(policy, end)(pairs.responses)


def counts(pairs: dn.Preferences) -> Array:
    wins = np.zeros((len(pairs.responses),) * 2)
    np.add.at(wins, tuple(pairs.index.T), pairs.weight)
    return wins


def every(policy: Any, responses: dn.Responses, ref: Params,
          advantage: Callable[[Array, Array], Array]) -> Callable[[Params], dn.Preferences]:
    """In place of samples all responses, each as often as the policy draws it; `advantage` is told π and log π/π_ref"""
    rows = np.arange(len(responses))
    ref_logp = read(policy, ref, responses, rows, ["token_logp"])[0]["token_logp"]

    def batch(params: Params) -> dn.Preferences:
        logp = read(policy, params, responses, rows, ["token_logp"])[0]["token_logp"]
        told = responses.with_facts(old_token_logp=logp, ref_token_logp=ref_logp)
        pi = np.exp(logp.sum(axis=1))
        return dn.Preferences(told, rows[:, None], pi,
                              {"advantage": advantage(pi, (logp - ref_logp).sum(axis=1))[:, None]})

    return batch


def apart(p: Array, q: Array) -> float:
    return float(abs(p - q).max())


# ---- the same labels

@entry("A reward model smooths no noise that DPO does not")
def smoothing() -> Iterator[Row]:
    """It is said that a reward model averages the noise of labels away and that DPO takes them at face value. What
    averages is shared features: with the same features, a reward model followed by π_ref e^{r/β} is DPO, on the same
    noisy pairs and after every step of descent (from rewards of 0, steps being 1/β² as large for DPO). Below: max
    |difference of probabilities| of the two roads on 300 pairs, a quarter of whose labels are flipped, β = 0.5; and n
    (J* - J) on clean pairs, to which n → ∞ gives ½ tr(C F⁺)/β, C the covariance of the features (or of the responses of
    a table) under π* and F the information of a pair, measured as the mean over 200 samples of n = 4,000. Twelve
    responses, two features.
    """
    rng, K, beta = np.random.default_rng(0), 12, 0.5
    phi, ref = rng.normal(size=(K, 2)), rng.dirichlet(np.full(K, 5.0))
    r = phi @ [0.8, -0.5]
    world, zero, logits = bandit([r]), {"W": np.zeros((1, K))}, {"W": np.log([ref])}
    pairs = world.sample(300, rng, flip=0.25)
    assert graph.mle_exists(counts(pairs))
    for steps in (5, 1500):
        judged = optimum.boltzmann(ref, reward(Tabular(K), zero, pairs, 16.0, steps), beta)
        direct = dpo(Tabular(K), logits, pairs, beta, 16.0, steps)
        yield Row(f"a table, {steps:,} steps", 0, apart(judged, direct), 1e-12)
    fit = optimum.boltzmann(ref, bradley_terry.fit(counts(pairs)), beta)
    yield Row("a table, at the end: DPO, against Newton's rewards", 0, apart(direct, fit), 1e-12)
    raw, tilted, theta = LogLinear(phi), LogLinear(phi, base=np.log([ref])), {"theta": np.zeros(2)}
    judged = optimum.boltzmann(ref, reward(raw, theta, pairs, 2.0, 300), beta)
    yield Row("two features, at the end", 0, apart(judged, dpo(tilted, theta, pairs, beta, 2.0, 300)), 1e-12)
    yield Row("a reward model with features, DPO in a table", 0, apart(judged, direct), 0.03, holds=False)
    best, n = optimum.boltzmann(ref, r, beta), 4000
    C, F = np.diag(best) - np.outer(best, best), bradley_terry.fisher(r)
    i, j = np.nonzero(1 - np.eye(K))
    drawn = rng.multinomial(n, population.bradley_terry_wins(r)[i, j], size=200)
    wins = np.zeros((200, K, K))
    wins[:, i, j] = drawn
    thetas = np.array([loglinear.newton(phi, each, beta) for each in wins])
    for name, predicted, fitted in (
        ("a table", np.trace(C @ bradley_terry.covariance(F)), population.newton(wins, beta)),
        ("two features", np.trace(phi.T @ C @ phi @ np.linalg.inv(phi.T @ F @ phi)), thetas @ phi.T),
    ):
        lost = n * (optimum.optimal_value(ref, r, beta)
                    - optimum.value(population.policy(fitted, ref), ref, r, beta))
        yield Row(f"{name}: n (J* - J)", predicted / (2 * beta), lost.mean(), 3 * lost.std() / np.sqrt(200))


@entry("What flips and contradictions leave, both roads keep")
def flipped() -> Iterator[Row]:
    """Labels that are flipped with probability ε have a bias that no amount of them removes, by either road: of two
    responses both learn the log-odds of what they are told, logit((1-ε)σ(Δ) + ε(1-σ(Δ))). rDPO that knows ε (Chowdhury
    et al. 2024, arXiv:2403.00409) removes it, also where there are more responses. Annotators who contradict each other
    leave the reference. Measured: trained on exact populations, β = 0.5, ε = 0.25.
    """
    beta, eps, ref, gap = 0.5, 0.25, np.array([0.3, 0.7]), 1.2
    told = logit((1 - eps) * expit(gap) + eps * expit(-gap))
    pairs, logits, zero = bandit([[gap, 0.0]]).population(flip=eps), {"W": np.log([ref])}, {"W": np.zeros((1, 2))}
    by_hand = expit(logit(ref[0]) + told / beta)
    yield Row("two responses: π(1) by DPO", by_hand, dpo(Tabular(2), logits, pairs, beta, 2.0, 200)[0], 1e-12)
    judged = optimum.boltzmann(ref, reward(Tabular(2), zero, pairs, 2.0, 200), beta)[0]
    yield Row("by a reward model", by_hand, judged, 1e-12)
    yield Row("π*(1)", by_hand, optimum.boltzmann(ref, [gap, 0.0], beta)[0], 0.1, holds=False)
    rng, r, ref = np.random.default_rng(1), np.array([0.8, 0.3, -0.2, -0.9]), np.array([0.1, 0.2, 0.3, 0.4])
    pairs, logits = bandit([r]).population(flip=eps), {"W": np.log([ref])}
    best = optimum.boltzmann(ref, r, beta)
    known = dpo(Tabular(4), logits, pairs, beta, 4.0, 400, dn.LOSSES["rdpo"](beta=beta, eps=eps))
    yield Row("four responses: max |π - π*| of rDPO, ε known", 0, apart(known, best), 1e-12)
    yield Row("of DPO", 0, apart(dpo(Tabular(4), logits, pairs, beta, 4.0, 400), best), 0.1, holds=False)
    for share in (0.5, 0.7):
        mixed = bandit([r]).population(flip=1 - share)  # the other annotator's labels are the opposite
        start = Tabular(4).init(rng)
        direct = dpo(Tabular(4), logits, mixed, beta, 4.0, 800, start=start)
        judged = optimum.boltzmann(ref, reward(Tabular(4), start, mixed, 4.0, 800), beta)
        yield Row(f"annotators of r and of -r, {share:.0%} and {1 - share:.0%}: |π - π_ref|, the larger of both", 0,
                  max(apart(direct, ref), apart(judged, ref)), 1e-10 if share == 0.5 else 0.1, holds=share == 0.5)


@entry("A peak that the reference hardly meets: a class that misses the reward needs other pairs, a table more of them")
def unlikely_peak() -> Iterator[Row]:
    """It is said that on-policy data win where the reward peaks at what the reference rarely says (Tajwar et al. 2024,
    arXiv:2404.14367). In a class that cannot express the reward they do, and for exact populations: nine responses x =
    0, ½ ... 4, r = 0.4 x², π_ref ∝ e^{-2x}, one feature x, β = 0.5. Pairs from π_ref fit the slope where π_ref is;
    pairs from the policy as it is move with it; but differences that are large and rare count less for labels σ(Δr),
    which saturate, than for the policy gradient. Where features express r, and in a table, the minimum is π* whichever
    pairs are met; what differs is the number of pairs that it takes, n (J* - J) → ½ tr(C F⁺)/β for large n, measured as
    the mean over 200 samples of n = 10⁹.
    """
    x, beta = np.linspace(0, 4, 9), 0.5
    r, phi = 0.4 * x**2, x[:, None]

    def lost(pi: Array, ref: Array) -> float:
        return float(optimum.optimal_value(ref, r, beta) - optimum.value(pi, ref, r, beta))

    def met(mu: Array) -> Array:
        W = np.outer(mu, mu) * (1 - np.eye(9))
        return (W + W.T) / W.sum()

    def slope(theta: float, ref: Array) -> float:
        pi = loglinear.policy([theta], phi, ref)
        return float(loglinear.gradient([theta], phi, population.bradley_terry_wins(r, met(pi)), beta)[0])

    ref, world, start = softmax(-2 * x), bandit([r]), {"theta": np.zeros(1)}
    policy = LogLinear(phi, base=np.log([ref]))

    def online(policy: LogLinear) -> Array:
        def batch(params: Params) -> dn.Preferences:
            pairs = world.population(probabilities(policy, params, world.responses))
            return pairs.with_reference(policy, start)

        end = after(dn.train(policy, start, repeat(batch), DPO(beta=beta), dn.sgd(4.0)), 700)
        return probabilities(policy, end, world.responses)

    theta = loglinear.newton(phi, population.bradley_terry_wins(r, met(ref)), beta)
    offline = dpo(policy, start, world.population(ref), beta, 2.0, 1000)
    yield Row("J* - J of DPO on pairs from π_ref", lost(loglinear.policy(theta, phi, ref), ref), lost(offline, ref),
              1e-9)
    theta = brentq(slope, 5, 7, args=(ref,), xtol=1e-14)
    yield Row("of DPO on pairs from the policy", lost(loglinear.policy([theta], phi, ref), ref),
              lost(online(policy), ref), 1e-9)
    for name, q in (("", ref), ("π_ref ∝ e^{-3x}: ", softmax(-3 * x))):
        policy = LogLinear(phi, base=np.log([q]))
        J = loglinear.best_in_class(phi, q, r, beta, starts=np.array([[0.0], [2.0], [5.0]])).value
        ascent = every(policy, world.responses, start, lambda pi, u: r - beta * u)
        end = after(dn.train(policy, start, repeat(ascent), PLAIN, dn.sgd(0.3)), 1500)
        least = float(optimum.optimal_value(q, r, beta)) - J
        yield Row(f"{name}of the policy gradient: the least of the class", least,
                  lost(probabilities(policy, end, world.responses), q), 1e-9)
    yield Row(f"{name}of DPO on pairs from the policy, which finds no peak", least, lost(online(policy), q), 0.1,
              holds=False)
    both = np.column_stack([x, x**2])
    theta = loglinear.newton(both, population.bradley_terry_wins(r, met(ref)), beta)
    best = optimum.boltzmann(ref, r, beta)
    yield Row("features x and x²: max |π - π*|, pairs from π_ref", 0,
              apart(loglinear.policy(theta, both, ref), best), 1e-9)
    rng, n, (i, j) = np.random.default_rng(2), 10**9, np.nonzero(1 - np.eye(9))
    C = np.diag(best) - np.outer(best, best)
    for name, mu in (("π_ref", ref), ("π*", best), ("π* of 0.8 β", optimum.boltzmann(ref, r, 0.8 * beta))):
        wins = np.zeros((200, 9, 9))
        wins[:, i, j] = rng.multinomial(n, population.bradley_terry_wins(r, met(mu))[i, j], size=200)
        pi = population.policy(population.newton(wins, beta), ref)
        regret = n * (optimum.optimal_value(ref, r, beta) - optimum.value(pi, ref, r, beta))
        predicted = np.trace(C @ bradley_terry.covariance(bradley_terry.fisher(r, met(mu)))) / (2 * beta)
        yield Row(f"a table, pairs from {name}: n (J* - J)", predicted, regret.mean(), 3 * regret.std() / np.sqrt(200))


# ---- what pairs say

@entry("What pairs say of several objectives, and what they cannot say")
def objectives() -> Iterator[Row]:
    """It is said that DPO cannot trade objectives off and policy gradients can. What is traded off is in the labels:
    annotators who judge by 0.6 r₁ + 0.4 r₂ make π* of that sum the minimum, for two prompts here, β = 0.5; annotators
    who judge by one of the two each, 60 to 40, do not, and their reward model leads where their DPO does. What no pair
    shows is a constant a prompt: neither π* nor the expected policy gradient depends on it; the mean square of sampled
    gradients does, by Σ π(y) (2 c r + c²) |∂ log π(y)|². A cycle is explained by no reward: both roads stay at the
    reference while its pairs are met equally often, and otherwise go, together, where the frequencies lead.
    """
    rng, beta, share = np.random.default_rng(3), 0.5, np.array([0.6, 0.4])
    r, ref = rng.normal(size=(2, 2, 4)), rng.dirichlet(np.ones(4), size=2)
    table, logits, zero = Tabular(4, prompts=2), {"W": np.log(ref)}, {"W": np.zeros((2, 4))}
    both = np.tensordot(share, r, axes=1)
    best = optimum.boltzmann(ref, both, beta)
    together = bandit(both).population()
    judged = dpo(table, logits, together, beta, 8.0, 1000).reshape(2, 4)
    yield Row("judged by the sum: max |π - π*| of DPO", 0, apart(judged, best), 1e-12)
    climbed = after(train_exact_gradient(table, logits, both, beta, dn.sgd(1 / beta), natural=True), 1)
    yield Row("of the policy gradient of the sum", 0, apart(softmax(climbed["W"], axis=1), best), 1e-12)
    one, other = (bandit(part).population() for part in r)
    mixed = dn.Preferences(one.responses, one.index, share[0] * one.weight + share[1] * other.weight)
    judged = dpo(table, logits, mixed, beta, 8.0, 1000).reshape(2, 4)
    yield Row("judged by one of the two: of DPO", 0, apart(judged, best), 0.03, holds=False)
    rewards = reward(table, zero, mixed, 8.0, 1000).reshape(2, 4)
    yield Row("by a reward model: max |difference from DPO|", 0,
              apart(optimum.boltzmann(ref, rewards, beta), judged), 1e-12)

    pi, c = softmax(rng.normal(size=4)), 5.0
    scores = np.eye(4) - pi

    def sampled(r: Array) -> tuple[Array, float]:
        """The mean over samples of the gradient, and of its square"""
        each = [dn.value_and_grad(Tabular(4), {"W": np.log([pi])}, dn.Preferences(
            bandit([r]).responses, np.array([[y]]), facts={"advantage": [[r[y]]]}), PLAIN)[1]["W"][0]
            for y in range(4)]
        return pi @ each, float(pi @ (np.array(each) ** 2).sum(axis=1))

    (mean, square), (same, more) = sampled(r[0, 0]), sampled(r[0, 0] + c)
    yield Row("rewards + 5: max |change of the pairs, and of the expected gradient|", 0,
              max(apart(mean, same), apart(together.weight, bandit(both + c).population().weight)), 1e-14)
    yield Row("of the mean square of sampled gradients",
              float(pi @ ((2 * c * r[0, 0] + c**2) * (scores**2).sum(axis=1))), more - square, 1e-12)
    cycle, ref = np.array([[0, 0.8, 0.2], [0.2, 0, 0.8], [0.8, 0.2, 0]]), np.array([0.5, 0.3, 0.2])
    start = Tabular(3).init(rng)
    for name, met in (("met equally often", np.ones(3)), ("3 : 2 : 1", np.array([3.0, 2.0, 1.0]))):
        often = np.array([[0, met[0], met[2]], [met[0], 0, met[1]], [met[2], met[1], 0]]) / met.sum()
        index = np.argwhere(cycle)
        pairs = dn.Preferences(bandit(np.zeros((1, 3))).responses, index, (often * cycle)[tuple(index.T)])
        direct = dpo(Tabular(3), {"W": np.log([ref])}, pairs, beta, 4.0, 400, start=start)
        judged = optimum.boltzmann(ref, reward(Tabular(3), start, pairs, 4.0, 400), beta)
        equal = name == "met equally often"
        yield Row(f"a cycle, {name}: max |π - π_ref| by a reward model", 0, apart(judged, ref),
                  1e-10 if equal else 0.05, holds=equal)
        yield Row(f"a cycle, {name}: from there to DPO", 0, apart(judged, direct), 1e-10)


# ---- rewards that are 0 or 1

def groups(policy: Any, params: Params, responses: dn.Responses, r: Array,
           size: int) -> Iterator[tuple[float, dn.Preferences]]:
    """All groups of `size` that the policy may draw, and with which probability"""
    pi = probabilities(policy, params, responses)
    logp = read(policy, params, responses, np.arange(len(responses)), ["token_logp"])[0]["token_logp"]
    for drawn in product(range(len(responses)), repeat=size):
        index = np.array([drawn])
        yield float(pi[index].prod()), dn.Preferences(responses.with_facts(old_token_logp=logp), index,
                                                      facts={"reward": r[index]})


@entry("Groups that agree are silent: for GRPO, and as pairs for DPO")
def silent() -> Iterator[Row]:
    """Of G answers each is right with probability p: all agree with probability p^G + (1-p)^G. Then GRPO's step is
    exactly 0, and so is that of the pairs that the group leaves. A baseline that does not come from the group is not
    silenced. Measured: all 2⁸ groups of a two-armed bandit, and 3,600 groups for sums mod 3 of a uniform 4-gram.
    """
    G, p = 8, 0.1
    r, arm, params = np.array([1.0, 0.0]), bandit([[1.0, 0.0]]).responses, {"W": np.log([[p, 1 - p]])}
    quiet = dict.fromkeys(("GRPO", "pairs", "REINFORCE less p"), 0.0)
    for chance, group in groups(Tabular(2), params, arm, r, G):
        given = np.asarray(group.facts["reward"])
        for name, advantage in (("GRPO", dn.group_advantage(given)), ("REINFORCE less p", given - p)):
            _, grad = dn.value_and_grad(Tabular(2), params, group.with_facts(advantage=advantage),
                                        SURROGATES["grpo"](beta=0.0))
            quiet[name] += chance * (not grad["W"].any())
        quiet["pairs"] += chance * (not dn.ranked_pairs(group, "sign").weight.any())
    for name in ("GRPO", "pairs"):
        yield Row(f"share of groups without a step, p = 0.1, {name}", float(sampling.no_signal(p, G)), quiet[name],
                  1e-12)
    yield Row("share of groups without a step, p = 0.1, REINFORCE less p", float(sampling.no_signal(p, G)),
              quiet["REINFORCE less p"], 0.1, holds=False)
    task, rng, policy = modular_sums(3), np.random.default_rng(4), NGram(vocab=5, order=4)
    flat = {"W": np.zeros((125, 5))}
    drawn = [np.asarray(dn.rollout(policy, flat, task, G, rng).facts["reward"]) for _ in range(400)]
    share = np.mean([each.std(axis=1) == 0 for each in drawn])
    expected = float(sampling.no_signal(1 / 25, G))
    yield Row("share of silent groups of `rollout`, p = 1/25", expected, share,
              3 * np.sqrt(expected * (1 - expected) / 3600))
    step = next(dn.train_grpo(policy, flat, dn.Task(task.prompts, lambda y: np.ones(len(y)), 2), dn.sgd(1.0), rng))
    yield Row("`train_grpo`, all answers right: the largest entry of its gradient", 0, abs(step.grad["W"]).max(), 0)


@entry("The deviation of a group of G lifts rare successes, and rare failures, by √G at most")
def deviation() -> Iterator[Row]:
    """Along the log-odds of success the policy gradient is p(1-p). GRPO's, in expectation over groups, is E √(k(G-k))
    √(G-1)/G^{3/2}, k ~ Bin(G, p), where ddof = 1 and ε → 0: as p → 0 the (G-1)/√G-fold, 2.47 for G = 8, and not the
    1/√(p(1-p)) of large groups. Without a deviation it is (G-1)/G, and 1 for RLOO. Measured: all 2⁸ groups, ε = 10⁻⁹.
    """
    G, r, arm = 8, np.array([1.0, 0.0]), bandit([[1.0, 0.0]]).responses
    k, choose = np.arange(G + 1), np.array([1, 8, 28, 56, 70, 56, 28, 8, 1])
    gain = {}
    for p, scale in ((1e-4, "std"), (0.1, "std"), (0.5, "std"), (0.9, "std"), (0.1, "none"),
                     (0.1, "rloo")):
        params, total = {"W": np.log([[p, 1 - p]])}, 0.0
        for chance, group in groups(Tabular(2), params, arm, r, G):
            given = group.facts["reward"]
            told = group.with_facts(advantage=dn.rloo_advantage(given) if scale == "rloo" else
                                    dn.group_advantage(given, scale=scale, eps=1e-9))
            total -= chance * dn.value_and_grad(Tabular(2), params, told, SURROGATES["grpo"](beta=0.0))[1]["W"][0, 0]
        gain[p, scale] = total / (p * (1 - p))
    for p in (0.1, 0.5, 0.9):
        odds = choose * p**k * (1 - p)**(G - k)
        yield Row(f"expected GRPO over p(1-p), p = {p}",
                  float(odds @ np.sqrt(k * (G - k) * (G - 1) / G**3)) / (p * (1 - p)), gain[p, "std"], 1e-7)
    yield Row("p = 0.0001: (G-1)/√G", 7 / np.sqrt(8), gain[1e-4, "std"], 1e-2)
    yield Row("p = 0.0001: 1/√(p(1-p))", 1 / np.sqrt(1e-4 * (1 - 1e-4)), gain[1e-4, "std"], 10, holds=False)
    yield Row("without a deviation, p = 0.1: (G-1)/G", 7 / 8, gain[0.1, "none"], 1e-12)
    yield Row("RLOO, p = 0.1", 1, gain[0.1, "rloo"], 1e-12)


@entry("Right or wrong: where DPO ends, and where whitened GRPO does")
def verifiable() -> Iterator[Row]:
    """p₀ = 0.2 under the reference, β = 3, rewards 1 and 0, labels by σ(Δr): DPO ends at p₀ e^{1/β}/(p₀ e^{1/β} + 1 -
    p₀), as the policy gradient of J does. Advantages (r - p)/√(p(1-p) + 10⁻⁵), of large groups, with k2 in the loss end
    at the fixed point of Mroueh 2025, arXiv:2503.06639: π* of βs, s the deviation at the end, the larger gain. Where
    labels are certain DPO has no end. Measured: trained, on exact expectations.
    """
    p0, beta, r = 0.2, 3.0, np.array([1.0, 0.0])
    table, world, ref = Tabular(2), bandit([r]), {"W": np.log([[p0, 1 - p0]])}
    ends = float(sampling.success_rate(p0, beta))
    yield Row("DPO: p", ends, dpo(table, ref, world.population(), beta, 4.0, 300)[0], 1e-12)

    def trained(advantage: Callable[[Array, Array], Array], loss: dn.Loss) -> float:
        batch = every(table, world.responses, ref, advantage)
        end = after(dn.train(table, ref, repeat(batch), loss, dn.sgd(1.0)), 300)
        return float(probabilities(table, end, world.responses)[0])

    yield Row("the policy gradient of J", ends, trained(lambda pi, u: r - beta * u, PLAIN), 1e-12)
    limit = float(sampling.grpo_limit(p0, p0, beta))
    loss = SURROGATES["grpo"](beta=beta, estimator="k2")
    yield Row("GRPO, k2 in the loss", limit,
              trained(lambda pi, u: (r - pi[0]) / np.sqrt(pi[0] * pi[1] + 1e-5), loss), 1e-9)
    yield Row("π* of βs", float(sampling.success_rate(p0, beta * np.sqrt(limit * (1 - limit) + 1e-5))), limit, 1e-9)
    yield Row("GRPO without the deviation", limit, trained(lambda pi, u: r - pi[0], loss), 0.05, holds=False)
    certain = dn.Preferences(world.responses, np.array([[0, 1]]))
    yield Row("DPO, certain labels", ends, dpo(table, ref, certain, beta, 4.0, 300)[0], 0.1, holds=False)


# ---- support

@entry("Responses that no pair connects: neither road knows, the true reward does")
def disjoint() -> Iterator[Row]:
    """It is said that DPO fails where a reward model and PPO do not because it is free outside of its pairs (Xu et al.
    2024, arXiv:2404.10719). Free are its minimizers; descent from π_ref leaves the mean log-ratio of each connected
    group of responses where it was, and a reward model on the same pairs leaves its mean reward, as long as responses
    share nothing. What reaches π* is a reward that knows the others, or one comparison with them. Six responses, pairs
    among 1, 2, 3 and among 4, 5, 6, the best is 5, β = 0.5. Predicted J* - J: from `graph.settled_reward`.
    """
    beta, ref = 0.5, np.array([0.3, 0.25, 0.25, 0.1, 0.05, 0.05])
    r = np.array([0.5, 0.0, -0.5, 0.6, 2.0, 0.4])
    table, world, logits, zero = Tabular(6), bandit([r]), {"W": np.log([ref])}, {"W": np.zeros((1, 6))}

    def lost(pi: Array) -> float:
        return float(optimum.optimal_value(ref, r, beta) - optimum.value(pi, ref, r, beta))

    def among(*linked: tuple[int, int]) -> dn.Preferences:
        W = np.kron(np.eye(2), np.ones((3, 3))) * (1 - np.eye(6))
        for i, j in linked:
            W[i, j] = W[j, i] = 1
        wins = population.bradley_terry_wins(r, W / W.sum())
        return dn.Preferences(world.responses, np.argwhere(wins), wins[wins > 0])

    islands = among()
    settled = optimum.boltzmann(ref, graph.settled_reward(r, counts(islands)), beta)
    apart_from = dpo(table, logits, islands, beta, 8.0, 600)
    yield Row("pairs: J* - J of DPO", lost(settled), lost(apart_from), 1e-10)
    rewards = reward(table, zero, islands, 8.0, 600)
    yield Row("of a reward model, and the best policy for it", lost(settled),
              lost(optimum.boltzmann(ref, rewards, beta)), 1e-10)
    yield Row("its mean reward of 1, 2, 3, and of 4, 5, 6: the larger", 0,
              abs(rewards.reshape(2, 3).mean(axis=1)).max(), 1e-12)
    u = np.log(apart_from / ref).reshape(2, 3).mean(axis=1)
    yield Row("mean log-ratio of 1, 2, 3 less that of 4, 5, 6", 0, u[0] - u[1], 1e-12)
    climbed = after(train_exact_gradient(table, logits, [r], beta, dn.sgd(4.0)), 1500)
    yield Row("J* - J of the policy gradient of the true reward", 0, lost(softmax(climbed["W"])[0]), 1e-10)
    yield Row("of DPO, with one comparison of 1 and 4 besides", 0,
              lost(dpo(table, logits, among((0, 3)), beta, 8.0, 4000)), 1e-10)
    yield Row("of DPO without it", 0, lost(apart_from), 0.1, holds=False)
    moved = settled * np.array([1.0, 1.0, 1.0, 0.01, 0.01, 0.01])
    moved /= moved.sum()
    yield Row("of another minimizer of the DPO loss", 0, lost(moved), 0.5, holds=False)
    wins = counts(islands)
    yield Row("its loss, less the annotators' entropy", 0, float(
        population.objective(np.log(moved / ref), wins, beta) - population.entropy(wins)), 1e-12)


@entry("What the reference never says, no KL to it lets in; the DPO loss does not mind")
def never() -> Iterator[Row]:
    """Four responses, π_ref(4) = 0, the largest reward, β = 0.5: J is -∞ wherever π(4) > 0, so that nothing that
    ascends it begins to say 4. Pairs of the others do not show what π(4) is.
    """
    ref, r, beta = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.0, 0.5, 1.0, 9.0]), 0.5
    with np.errstate(divide="ignore"):
        logits = {"W": np.log([ref])}
    best = optimum.boltzmann(ref, r, beta)
    climbed = after(train_exact_gradient(Tabular(4), logits, [r], beta, dn.sgd(2.0)), 600)
    yield Row("the policy gradient: π(4)", 0, softmax(climbed["W"])[0, 3], 0)
    yield Row("max |π - π* of the other three|", 0, apart(softmax(climbed["W"])[0, :3], best[:3]), 1e-10)
    task, rng = bandit([r]).task(), np.random.default_rng(5)
    drawn = after(dn.train_rloo(Tabular(4), logits, task, dn.sgd(0.5), rng, beta=beta), 200)
    yield Row("RLOO, 200 steps: π(4)", 0, softmax(drawn["W"])[0, 3], 0)
    pairs = bandit([r]).population([1, 1, 1, 0]).with_reference(Tabular(4), logits)
    half = np.append(best[:3] / 2, 0.5)
    least = -float(pairs.weight @ np.log(expit((r[pairs.index] * [1, -1]).sum(axis=1))))
    yield Row("a policy with π(4) = ½: its DPO loss on pairs of the others, less the least", 0,
              dn.value_and_grad(Tabular(4), {"W": np.log([half])}, pairs, DPO(beta=beta))[0] - least, 1e-12)
    yield Row("its e^{-KL to π_ref}", 0, float(np.exp(-optimum.kl(half, ref))), 0)
    little = np.append(ref[:3] - 1e-9, 3e-9)
    tempted = {"W": np.log([little])}
    climbed = after(train_exact_gradient(Tabular(4), tempted, [r], beta, dn.sgd(1 / beta), natural=True), 1)
    yield Row("the policy gradient where π_ref(4) = 3·10⁻⁹: π(4)", 0, softmax(climbed["W"])[0, 3], 0.01, holds=False)


# ---- policy gradients, as published

@entry("Where the KL stands, its estimator and a deviation decide on the optimum")
def penalties() -> Iterator[Row]:
    """GRPO in expectation, large groups, β = 0.5, four responses. k2 in the loss and k1 in the reward have π*. k3 in
    the loss has the gradient of KL(π_ref || π), and the optimum π_ref β/(λ - r); k1 in the loss has none: the end is
    greedy, each step that of β = 0. Advantages over the deviation s of r, and k2 in the loss: π* of βs; where β is
    small s falls to 0, the penalty with it, and the end is greedy. With the penalty in the reward the deviation moves
    no optimum, as at π* the rewards r - β log π/π_ref of every group are equal. Distances are max |difference of
    probabilities|.
    """
    beta, ref, r = 0.5, np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.0, 0.5, 1.0, 0.8])
    table, responses, logits = Tabular(4), bandit([r]).responses, {"W": np.log([ref])}

    def trained(loss: dn.Loss, scaled: bool = False, penalty: float = 0.0, steps: int = 600, lr: float = 4.0) -> Array:
        def advantage(pi: Array, u: Array) -> Array:
            paid = r - penalty * u
            centered = paid - pi @ paid
            return centered / np.sqrt(pi @ centered**2) if scaled else centered

        batch = every(table, responses, logits, advantage)
        return probabilities(table, after(dn.train(table, logits, repeat(batch), loss, dn.sgd(lr)), steps), responses)

    best = optimum.boltzmann(ref, r, beta)
    grpo = SURROGATES["grpo"]
    yield Row("k2 in the loss, from π*", 0, apart(trained(grpo(beta=beta, estimator="k2")), best), 1e-10)
    yield Row("k1 in the reward, from π*", 0, apart(trained(grpo(beta=0.0), penalty=beta), best), 1e-10)
    lam = brentq(lambda lam: (beta * ref / (lam - r)).sum() - 1, r.max() + beta * ref.min() / 4, r.max() + beta)
    third = trained(grpo(beta=beta, estimator="k3"))
    yield Row("k3 in the loss, from π_ref β/(λ - r)", 0, apart(third, beta * ref / (lam - r)), 1e-10)
    yield Row("k3 in the loss, from π*", 0, apart(third, best), 0.02, holds=False)
    first = trained(grpo(beta=beta, estimator="k1"))
    yield Row("k1 in the loss, from β = 0", 0, apart(first, trained(grpo(beta=0.0))), 1e-12)
    yield Row("k1 in the loss: π(3)", 1, first[2], 0.01)
    s, pi = 1.0, ref
    for _ in range(100):  # damped, as s and π call for each other
        pi = optimum.boltzmann(ref, r, 2 * s)
        s = (s + np.sqrt(pi @ (r - pi @ r)**2)) / 2
    whitened = trained(grpo(beta=2.0, estimator="k2"), scaled=True, lr=1.0)
    yield Row(f"β = 2, k2 in the loss, over the deviation: from π* of βs, s = {s:.4f}", 0, apart(whitened, pi), 1e-10)
    yield Row("from π*", 0, apart(whitened, optimum.boltzmann(ref, r, 2.0)), 0.05, holds=False)
    yield Row("β = 0.5, k2 in the loss, over the deviation: π(3)", 1,
              trained(grpo(beta=beta, estimator="k2"), scaled=True)[2], 1e-4)
    at, u = {"W": np.log([best])}, np.log(best / ref)
    for name, paid, loss in (("k1 in the reward", r - beta * u, grpo(beta=0.0)),
                             ("k2 in the loss", r, grpo(beta=beta, estimator="k2"))):
        moved = np.zeros(4)
        for chance, group in groups(table, at, responses, paid, 4):
            told = group.with_facts(advantage=dn.group_advantage(group.facts["reward"]))
            told = told.with_reference(table, logits, "token_logp")
            moved += chance * dn.value_and_grad(table, at, told, loss)[1]["W"][0]
        yield Row(f"groups of 4, over their deviation, {name}: the expected gradient at π*", 0, abs(moved).max(),
                  1e-10 if name == "k1 in the reward" else 0.01, holds=name == "k1 in the reward")


@entry("1/|y| lets failures grow long")
def long_failures() -> Iterator[Row]:
    """Three answers, one right, two wrong, which are as likely and differ in length alone: 2 and 5 tokens, their end
    included; all but the first token follows. The policy gradient keeps their ratio. Divided by |y| token by token, the
    log-odds of long against short drift at π(w) (a/5 - a/2), a the advantage of failures, and failures become long.
    That comes from the sequence mean of GRPO; one length for all (Dr. GRPO) does not do it.
    """
    # 1 end, 2 end, 3 4 5 6 end
    W = np.full((7, 7), -np.inf)
    W[0, 1:4] = np.log([0.2, 0.4, 0.4])
    for now, then in ((1, 0), (2, 0), (3, 4), (4, 5), (5, 6), (6, 0)):
        W[now, then] = 0.0
    policy, start = NGram(vocab=7), {"W": W}
    answers = dn.Preferences.of([[0]] * 3, [[1, 0], [2, 0], [3, 4, 5, 6, 0]]).responses
    r = np.array([1.0, 0.0, 0.0])
    batch = every(policy, answers, start, lambda pi, u: r - pi @ r)
    for name, loss in (("sequence mean", SURROGATES["grpo"](beta=0.0)),
                       ("one length", SURROGATES["dr_grpo"](max_length=5))):
        steps = dn.train(policy, start, repeat(batch), loss, dn.sgd(1.0))
        first = next(steps)
        drift = -(first.grad["W"][0, 3] - first.grad["W"][0, 2])
        pi = probabilities(policy, after(steps, 300), answers)
        if name == "sequence mean":
            yield Row(f"drift of the log-odds, {name}", 0.4 * (-0.2 / 5 + 0.2 / 2), drift, 1e-12)
            x = np.log([0.2, 0.4, 0.4])
            for _ in range(301):  # the same steps in three logits
                p = softmax(x)
                g = p * (r - p[0]) / [2, 2, 5]
                x = x + g - p * g.sum()
            yield Row(f"long failures for each short one after 301 steps, {name}", np.exp(x[2] - x[1]), pi[2] / pi[1],
                      1e-10)
        yield Row(f"long failures for each short one, 1 before, {name}", 1, pi[2] / pi[1],
                  1e-12 if name == "one length" else 0.3, holds=name == "one length")


@entry("λ = 1 needs no value model that is right; λ < 1 does")
def estimation() -> Iterator[Row]:
    """The expected gradient by `dn.gae`, over all strings of at most three tokens of a bigram over {a, b, end}, those
    that are cut off included; random rewards of strings, a penalty of β = 0.3 by token. Distances: max |difference|
    from finite differences of J, which are near 0.1.
    """
    rng, policy, beta = np.random.default_rng(6), NGram(vocab=3), 0.3
    params, ref = policy.init(rng), policy.init(rng)
    all_ = dn.enumerate_responses(policy, [0], 3)
    r, rows = rng.normal(size=len(all_)), np.arange(len(all_))
    logp, ref_logp = (read(policy, at, all_, rows, ["token_logp"])[0]["token_logp"] for at in (params, ref))
    pi, paid = np.exp(logp.sum(axis=1)), dn.penalized_reward(r, logp, ref_logp, all_.mask, beta)

    def J(W: Array) -> float:
        at = {"W": W.reshape(3, 3)}
        return float(probabilities(policy, at, all_) @ r - beta * dn.exact_kl(policy, at, policy, ref, [0], 3))

    numeric = np.array([(J(params["W"].ravel() + 1e-5 * e) - J(params["W"].ravel() - 1e-5 * e)) / 2e-5
                        for e in np.eye(9)]).reshape(3, 3)
    right, wrong = np.zeros(all_.tokens.shape), np.zeros(all_.tokens.shape)
    ahead = np.cumsum(paid[:, ::-1], axis=1)[:, ::-1]
    for t in range(1, all_.tokens.shape[1]):
        for y in np.flatnonzero(all_.mask[:, t]):
            same = all_.mask[:, t] & (all_.tokens[:, :t] == all_.tokens[y, :t]).all(axis=1)
            right[y, t] = pi[same] @ ahead[same, t] / pi[same].sum()
            wrong[y, t] = np.sin(all_.tokens[y, :t] @ [3.0, 5.0, 7.0][:t] + t)  # of what stands before the token

    def off(value: Array, lam: float, loss: dn.Loss = PLAIN) -> float:
        advantage, _ = dn.gae(paid, value, all_.mask, 1.0, lam)
        told = all_.with_facts(advantage=advantage, old_token_logp=logp)
        grad = dn.value_and_grad(policy, params, dn.Preferences(told, rows[:, None], pi), loss)[1]["W"]
        return apart(-grad * (pi @ all_.length if loss.name.startswith("ppo_clip") else 1.0), numeric)

    yield Row("λ = 1, any values", 0, off(wrong, 1.0), 1e-8)
    yield Row("λ = 0.5, the right values", 0, off(right, 0.5), 1e-8)
    yield Row("λ = 0, the right values", 0, off(right, 0.0), 1e-8)
    yield Row("λ = 0.95, any values", 0, off(wrong, 0.95), 1e-3, holds=False)
    yield Row("λ = 0.5, the right values + 1", 0, off(right + all_.mask, 0.5), 1e-2, holds=False)
    yield Row("λ = 1, any values, a first step of PPO's clip times E|y|, ends counted", 0,
              off(wrong, 1.0, SURROGATES["ppo_clip"]()), 1e-8)


@entry("At π* no sample says anything: sampled roads come to rest there, without smaller steps")
def rest() -> Iterator[Row]:
    """With the penalty in the reward, r - β log π/π_ref is the same for all responses at π*, and so is the advantage of
    every one, 0; DPO on labels by σ(Δr) has no gradient there on any pair. So constant steps and a few samples each end
    at π* itself, and not around it. RLOO on a reward model of noisy pairs ends where DPO on these pairs does. Three
    responses, β = 0.5, the largest distance of probabilities from π*.
    """
    beta, r, ref = 0.5, np.array([0.5, 0.0, -0.5]), np.array([0.3, 0.3, 0.4])
    table, task, logits = Tabular(3), bandit([r]).task(), {"W": np.log([ref])}
    best, flat = optimum.boltzmann(ref, r, beta), {"W": np.zeros((1, 3))}

    def rng() -> np.random.Generator:
        return np.random.default_rng(7)

    def off(steps: Iterable[Any], n: int, from_: Array = best) -> float:
        return apart(softmax(after(steps, n)["W"])[0], from_)

    plain, drift = SURROGATES["dr_grpo"](max_length=1), SURROGATES["grpo"](beta=beta, estimator="k2")
    paired = {"group": 4, "loss": DPO(beta=beta)}
    for name, steps in (
        ("RLOO", dn.train_rloo(table, logits, task, dn.sgd(2.0), rng(), beta=beta)),
        ("GRPO, the penalty in the reward, no deviation", dn.train_grpo(
            table, logits, task, dn.sgd(2.0), rng(), loss=plain, scale="none", beta=beta)),
        ("PPO and its critic", dn.train_ppo(
            table, logits, table, flat, task, dn.sgd(2.0), dn.sgd(1.0), rng(), group=8, beta=beta, epochs=1,
            critic_loss=SURROGATES["value_clip"](eps=9.0))),
        ("online DPO", dn.train_online_dpo(table, logits, task, dn.sgd(8.0), rng(), **paired)),
        ("RSO, 24 responses kept", dn.train_rso(table, logits, task, dn.sgd(16.0), rng(), beta=beta, keep=24)),
    ):
        yield Row(name, 0, off(steps, 300), 1e-10)
    pairs = bandit([r]).sample(60, rng(), flip=0.25)
    learned = after(dn.train_reward_model(table, flat, repeat(pairs), dn.sgd(4.0)), 400)
    judged = dn.Task(task.prompts, dn.reward_model(table, learned))
    yield Row("60 pairs, a quarter flipped, a reward model, RLOO: from DPO on the pairs", 0, off(
        dn.train_rloo(table, logits, judged, dn.sgd(2.0), rng(), beta=beta), 300,
        dpo(table, logits, pairs, beta, 4.0, 400)), 1e-10)
    twice = dn.train_iterative_dpo(table, logits, task, dn.sgd(16.0), rng(), group=12, loss=DPO(beta=beta), epochs=300)
    yield Row("iterative DPO, two rounds of 300 steps, from π* of β/2", 0,
              off(twice, 600, optimum.boltzmann(ref, r, beta / 2)), 1e-10)
    for name, steps in (
        ("GRPO, k2 in the loss, no deviation",
         dn.train_grpo(table, logits, task, dn.sgd(2.0), rng(), loss=drift, scale="none")),
        ("online DPO, labels drawn",
         dn.train_online_dpo(table, logits, task, dn.sgd(8.0), rng(), labels="sampled", **paired)),
    ):
        yield Row(name, 0, off(steps, 300), 1e-3, holds=False)
