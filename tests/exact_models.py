"""Exact results on policies whose responses share parameters, and on strings."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import numpy as np
from exact import Row, entry
from scipy.optimize import minimize
from scipy.special import expit, softmax

import dpo_numpy as dn
from analytic import flow, ngram
from dpo_numpy.gradient import read
from toy_models import MLP, NGram, Tabular, World, bandit, strings

Params = dict[str, np.ndarray]


# ---- trainings

def trained(policy: Any, params: Params, pairs: dn.Preferences, loss: dn.Loss, lr: float, steps: int) -> Params:
    batches = repeat(pairs.with_reference(policy, params), steps)
    return deque(dn.train(policy, params, batches, loss, dn.sgd(lr)), maxlen=1).pop().params


def log_probs(policy: Any, params: Params, responses: dn.Responses) -> np.ndarray:
    return np.asarray(read(policy, params, responses, np.arange(len(responses)), ["logp"])[0]["logp"])


def rates(policy: Any, params: Params, pairs: dn.Preferences) -> np.ndarray:
    """d log π(y) along the gradient of log π(chosen) - log π(rejected), for chosen and rejected of a single pair"""
    scores = dn.scores_matrix(policy, params, pairs.responses, pairs.index[0])
    return np.asarray(scores @ (scores[0] - scores[1]))


def one_pair(chosen: list[int], rejected: list[int]) -> dn.Preferences:
    return dn.Preferences.of([[0]], [chosen], [rejected])


DPO = dn.LOSSES["dpo"]


# ---- likelihood displacement

@entry("The smallest language model whose chosen response falls")
def smallest() -> Iterator[Row]:
    """Memoryless over {a, end}; chosen "a", rejected "". Along the margin's gradient log π(chosen) changes at
    (1 - 2p)/(1 - p) of the margin's rate, p = p(a): it falls for every p > 1/2, and the mass goes to longer strings.
    """
    policy, pair = NGram(vocab=2, order=1), one_pair([1, 0], [0])
    for p in (0.6, 0.4):
        params = {"W": np.log([[1 - p, p]])}
        chosen, rejected = rates(policy, params, pair)
        yield Row(f"rate of log π(chosen) over that of the margin, p = {p}", (1 - 2 * p) / (1 - p),
                  chosen / (chosen - rejected), 1e-12)
    start = {"W": np.log([[0.4, 0.6]])}
    end = trained(policy, start, pair, DPO(beta=0.5), 0.25, 2000)
    x = np.log(1.5)  # the logit of p alone: two logits that move apart move it twice as far
    for _ in range(2000):
        h = -np.log1p(np.exp(-x)) - np.log(0.6)
        x += 0.5 * 0.5 * expit(-0.5 * h) * expit(-x)
    fallen = -np.log1p(np.exp(-x)) - np.log1p(np.exp(x))
    longer = ngram.expected_length(softmax(end["W"], axis=1)) - ngram.expected_length([[0.4, 0.6]])
    yield Row("log π(chosen) after 2000 steps from -1.43, β = 0.5, p = 0.6", fallen,
              log_probs(policy, end, pair.responses)[0], 1e-9)
    yield Row("change of E|y|, p/(1-p)", np.exp(x) - 1.5, longer, 1e-6)


@entry("A bystander takes the mass of both")
def bystander() -> Iterator[Row]:
    """Memoryless over {a, b, end}; chosen "", rejected "a": log π(chosen) changes at p(a) + p(end) - |p|²"""
    policy, pair = NGram(vocab=3, order=1), one_pair([0], [1, 0])
    for p in ([0.05, 0.05, 0.9], [0.4, 0.4, 0.2]):
        params = {"W": np.log([p])}
        yield Row(f"rate at p = {p}", p[0] + p[1] - sum(q * q for q in p), rates(policy, params, pair)[0], 1e-12)
    end = trained(policy, {"W": np.log([[0.05, 0.05, 0.9]])}, pair, DPO(beta=0.5), 0.5, 2000)
    before, after = np.log(0.05), log_probs(policy, end, pair.responses)[0]
    yield Row("sign of the change after 2000 steps, β = 0.5, lr = 0.5", -1, np.sign(after - before), 0)
    yield Row("p(b) then", 1, softmax(end["W"])[0, 2], 2e-3)
    end = trained(policy, {"W": np.log([[0.4, 0.4, 0.2]])}, pair, DPO(beta=0.5), 0.5, 2000)
    yield Row("the same where p(a) + p(end) > |p|²: sign of the change", -1,
              np.sign(log_probs(policy, end, pair.responses)[0] - np.log(0.4)), 1, holds=False)


@entry("A bigram displaces where the rejected response comes back to a context")
def repeated() -> Iterator[Row]:
    """Chosen "a", rejected "aaa", p(·|a) = (0.05, 0.05, 0.9): rates -1.43 and -8.29, worked out by hand"""
    policy, pair = NGram(vocab=3), one_pair([1, 0], [1, 1, 1, 0])
    W = np.log([[0.2, 0.6, 0.2], [0.05, 0.05, 0.9], [1 / 3, 1 / 3, 1 / 3]])
    # begin: the same token each. In a the chosen sees e₀ - p, the rejected e₀ - p + 2 (e₁ - p)
    p = np.array([0.05, 0.05, 0.9])
    w, l_ = np.array([1, 0, 0]) - p, np.array([1, 2, 0]) - 3 * p
    chosen, rejected = rates(policy, {"W": W}, pair)
    yield Row("rate of log π(chosen)", w @ (w - l_), chosen, 1e-12)
    yield Row("rate of log π(rejected)", l_ @ (w - l_), rejected, 1e-12)
    end = trained(policy, {"W": W}, pair, DPO(beta=0.5), 0.5, 2000)
    yield Row("sign of the change of log π(chosen) after 2000 steps", -1,
              np.sign(log_probs(policy, end, pair.responses)[0] - np.log(0.6 * 0.05)), 0)
    yield Row("p(b|a) then", 1, softmax(end["W"], axis=1)[1, 2], 2e-3)
    rng, fell = np.random.default_rng(0), 0
    for _ in range(300):  # any single pair in which no context comes twice to either response
        w, l_ = (list(rng.permutation(4)[:rng.integers(4)] + 1) for _ in range(2))
        if w != l_:
            policy, pair = NGram(vocab=5), one_pair([*w, 0], [*l_, 0])
            chosen, rejected = rates(policy, policy.init(rng), pair)
            fell += chosen < 0 or rejected > 0
    yield Row("random pairs without a repeated context whose chosen falls or rejected rises, of about 300", 0, fell, 0)


@entry("Post-edit tokens: sharing weights displaces what a table leaves alone")
def edited() -> Iterator[Row]:
    """Chosen and rejected differ in one token; of a trigram only contexts that hold it have a gradient"""
    chosen, rejected = [1, 2, 3, 4, 5, 6, 1, 0], [1, 2, 2, 4, 5, 6, 1, 0]
    pair, rng = one_pair(chosen, rejected), np.random.default_rng(0)
    table = NGram(vocab=7, order=3)
    start = table.init(rng)
    _, grad = dn.value_and_grad(table, start, pair.with_reference(table, start), DPO(beta=0.1))
    behind, _ = table.logits({"W": abs(grad["W"])}, pair.responses.tokens)  # at each position, its row of the gradient
    yield Row("gradient of a trigram behind the edit", 0, behind[0, 5:8].max(), 0)
    yield Row("and at the edit", 0, behind[0, 2].max(), 1e-6, holds=False)
    shared = MLP(vocab=7, order=3, width=3, hidden=6)
    params = {name: rng.normal(size=p.shape) for name, p in shared.init(rng).items()}
    values, _ = read(shared, params, pair.responses, np.arange(2), ["token_logp"])
    _, grad = dn.value_and_grad(shared, params, pair.with_reference(shared, params), DPO(beta=0.1))
    moved = {name: p - 1e-6 * grad[name] for name, p in params.items()}
    change = read(shared, moved, pair.responses, np.arange(2), ["token_logp"])[0]["token_logp"] - values["token_logp"]
    yield Row("the same tokens of a neural n-gram: |change| over 1e-6", 0, abs(change[0, 6:9]).max() / 1e-6, 1e-3,
              holds=False)


@entry("Where weights are shared the chosen response may fall as a whole; a penalty on that prevents it")
def penalized() -> Iterator[Row]:
    """Ten random neural n-grams, a pair that differs in one token, 1,500 steps of 0.1 of DPO and of DPOP (Pal et al.
    2024, arXiv:2402.13228), λ = 50, from the same start.
    """
    pair, policy, fallen = one_pair([1, 2, 3, 4, 1, 3, 0], [1, 2, 2, 4, 1, 3, 0]), MLP(5, 3, 3, 6), {}
    for name, loss in (("DPOP", dn.LOSSES["dpop"](beta=0.1, lam=50.0)), ("DPO", DPO(beta=0.1))):
        falls, apart = 0, 0
        for seed in range(10):
            rng = np.random.default_rng(seed)
            start = {name: rng.normal(size=p.shape) for name, p in policy.init(rng).items()}
            end = trained(policy, start, pair, loss, 0.1, 1500)
            change = log_probs(policy, end, pair.responses) - log_probs(policy, start, pair.responses)
            falls, apart = falls + (change[0] < -0.05), apart + (change[0] > change[1])
        fallen[name] = falls
        yield Row(f"of 10, those whose margin grew under {name}", 10, apart, 0)
    yield Row("of 10, those whose chosen response fell by 0.05 nats or more under DPOP", 0, fallen["DPOP"], 0)
    yield Row("under DPO", 0, fallen["DPO"], 2, holds=False)


# ---- where the negative gradient goes

@entry("Squeezing")
def squeezing() -> Iterator[Row]:
    """Descent on +log π(rejected) from p = (0.70, 0.20, 0.08, 0.02); Ren & Sutherland 2024, arXiv:2407.10490"""
    policy, p = Tabular(vocab=4), np.array([0.70, 0.20, 0.08, 0.02])
    down = dn.Preferences(bandit(np.zeros((1, 4))).responses, np.array([[3]]), np.ones(1))
    for eta, golden in ((1.0, (0.8064, 0.1397, 0.0496, 0.0043)), (3.0, (0.9244, 0.0589, 0.0164, 0.0002))):
        now = next(iter(dn.train(policy, {"W": np.log(p)[None]}, [down], -1.0 * dn.LOSSES["sft"](), dn.sgd(eta))))
        for k, q in enumerate(softmax(now.params["W"])[0]):
            yield Row(f"π(response {k + 1}) after a step of {eta:g}", golden[k], q, 5e-5)
    rng, wrong = np.random.default_rng(1), 0
    for p in rng.dirichlet(np.ones(5), size=200):
        change = (np.eye(5) - p) @ -(np.eye(5)[0] - p)  # d log π along the step
        wrong += int(((change > 0) != (p > p @ p - p[0]))[1:].sum())
    yield Row("of 800 bystanders, those that rise although π <= |π|² - π(rejected), or fall although not", 0, wrong, 0)


@entry("A pair in one softmax leaves bystanders their ratios; a context that only the rejected visits does not")
def same_context() -> Iterator[Row]:
    policy, W = Tabular(vocab=4), np.log([[0.70, 0.20, 0.08, 0.02]])
    pair = dn.Preferences(bandit(np.zeros((1, 4))).responses, np.array([[1, 3]]), np.ones(1))
    end = softmax(trained(policy, {"W": W}, pair, DPO(beta=0.1), 5.0, 300)["W"])[0]
    yield Row("π(1)/π(3) after 300 steps, 8.75 before", 8.75, end[0] / end[2], 1e-11)
    bigram, W = NGram(vocab=3), np.log([[0.2, 0.4, 0.4], [0.3, 0.3, 0.4], [0.2, 0.2, 0.6]])
    end = softmax(trained(bigram, {"W": W}, one_pair([1, 0], [2, 1, 0]), DPO(beta=0.5), 1.0, 500)["W"], axis=1)
    yield Row("p(b|b), where only the rejected has been: 0.6 before", 0.6, end[2, 2], 0.1, holds=False)
    yield Row("p(end|b)/p(b|b) there, 1/3 before", 1 / 3, end[2, 0] / end[2, 2], 1e-2, holds=False)


@entry("Gradients in probabilities and in logits")
def imbalance() -> Iterator[Row]:
    """At π = (0.3, 0.1, 0.6): in probability coordinates |∂L/∂π_w|/|∂L/∂π_l| = π_l/π_w, in log-probs 1, and what a
    table's logits do is (1 - π_w + π_l) : -(1 + π_w - π_l); everything else changes at π_l - π_w
    """
    p = np.array([0.3, 0.1, 0.6])
    _, grad = DPO(beta=0.1)(np.log(p[None, :2]), np.log([[0.2, 0.2]]))
    yield Row("in probabilities", p[1] / p[0], abs(grad[0, 0] / p[0]) / abs(grad[0, 1] / p[1]), 1e-14)
    yield Row("in log-probs", 1, abs(grad[0, 0] / grad[0, 1]), 1e-14)
    every = bandit(np.zeros((1, 3))).responses
    scores = dn.scores_matrix(Tabular(vocab=3), {"W": np.log(p)[None]}, every, np.arange(3))
    moved = scores @ (scores[0] - scores[1])
    yield Row("rate of log π(chosen)", 1 - p[0] + p[1], moved[0], 1e-14)
    yield Row("rate of log π(rejected)", -(1 + p[0] - p[1]), moved[1], 1e-14)
    yield Row("rate of log π(a third)", p[1] - p[0], moved[2], 1e-14)


@entry("An unseen response: its transient maximum, and its end")
def unseen() -> Iterator[Row]:
    """Descent on one pair from a table: π(3) peaks at ref₃/(2 √(ref₁ ref₂) + ref₃) where ref₂ > ref₁, and ends at 0"""
    pair = dn.Preferences(bandit(np.zeros((1, 3))).responses, np.array([[0, 1]]), np.ones(1))
    for ref in ((0.2, 0.7, 0.1), (0.05, 0.85, 0.1), (0.7, 0.2, 0.1)):
        policy, start = Tabular(vocab=3), {"W": np.log([ref])}
        steps = dn.train(policy, start, repeat(pair.with_reference(policy, start), 500), DPO(beta=1.0), dn.sgd(0.08))
        most = max([ref[2], *(softmax(step.params["W"])[0, 2] for step in steps)])
        top = ref[2] / (2 * np.sqrt(ref[0] * ref[1]) + ref[2]) if ref[1] > ref[0] else ref[2]
        yield Row(f"largest π(3) on the way from {ref}", top, most, 2e-6)  # steps of 0.08 pass the top this closely
    end = trained(policy, start, pair, DPO(beta=1.0), 0.01, 4000)  # from the last of these
    u = float(flow.dpo_margin(40.0, 1.0)) / 2  # what the pair's logits have moved, each its way
    there = np.array(ref) * np.exp([u, -u, 0])
    yield Row("π(3) after t = 40, by `flow.dpo_margin`", there[2] / there.sum(), softmax(end["W"])[0, 2], 1e-5)
    end = trained(policy, start, pair, DPO(beta=1.0), 50.0, 4000)
    yield Row("π(3) after 4,000 steps of 50", 0, softmax(end["W"])[0, 2], 1e-3)


@entry("A single pair is convex in an n-gram's logits if and only if no context is the rejected's more often")
def convexity() -> Iterator[Row]:
    rng, policy = np.random.default_rng(2), NGram(vocab=3)
    loss, wrong, cases = DPO(beta=1.0), 0, 0
    for _ in range(60):
        w, l_ = (list(rng.integers(1, 3, size=rng.integers(4))) for _ in range(2))
        if w == l_:
            continue
        params, pair = policy.init(rng), one_pair([*w, 0], [*l_, 0])
        pair = pair.with_reference(policy, policy.init(rng))

        def slope(x: np.ndarray, pair: dn.Preferences = pair) -> np.ndarray:
            return np.asarray(dn.value_and_grad(policy, {"W": x.reshape(3, 3)}, pair, loss)[1]["W"].ravel())

        H = np.stack([slope(params["W"].ravel() + 1e-30j * e).imag for e in np.eye(9)]) / 1e-30
        least = np.linalg.eigvalsh((H + H.T) / 2)[0]
        visits = [np.bincount([0, *y], minlength=3) for y in (w, l_)]
        convex = bool((visits[0] >= visits[1]).all())
        wrong += convex != (least > -1e-13)
        cases += 1
    yield Row(f"cases of {cases} in which the least eigenvalue of the Hessian contradicts the rule", 0, wrong, 0)


# ---- language models with an end

REF = np.array([[0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.4, 0.2, 0.4]])  # begin, a, b by end, a, b
REWARD = np.array([[0.0, 0.5, -0.5], [0.3, -0.4, 0.2], [0.0, 0.3, -0.6]])


def local(y: Any) -> float:
    return float(sum(REWARD[c, v] for c, v in zip([0, *y], y, strict=False)))


def fitted(world: World, policy: Any, start: np.ndarray, ref: Params, beta: float) -> tuple[np.ndarray, float]:
    """The minimum of the population loss that SciPy finds from `start`: the logits, and the loss"""
    pairs = world.population().with_reference(policy, ref)

    def f(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = dn.value_and_grad(policy, {"W": x.reshape(start.shape)}, pairs, DPO(beta=beta))
        return value, grad["W"].ravel()

    found = minimize(f, start.ravel(), jac=True, method="BFGS", options={"gtol": 1e-12, "maxiter": 3000})
    return found.x.reshape(start.shape), float(found.fun)


@entry("Beyond the data: short strings fix the policy on all strings")
def beyond() -> Iterator[Row]:
    """Pairs of the 15 strings of at most 3 letters, a reward that is a sum over tokens; the loss is not convex"""
    policy, world = NGram(vocab=3), strings(3, 4, local)
    best, _ = ngram.optimum(REF, REWARD, 0.5)
    pairs, rng = world.population().with_reference(policy, {"W": np.log(REF)}), np.random.default_rng(3)
    for start in range(3):
        W = rng.normal(size=(3, 3))
        if not start:
            H = np.stack([dn.value_and_grad(policy, {"W": W + 1e-30j * e}, pairs, DPO(beta=0.5))[1]["W"].ravel().imag
                          for e in np.eye(9).reshape(9, 3, 3)]) / 1e-30
            yield Row("convex there: the least eigenvalue of the Hessian, if below 0", 0,
                      min(0.0, np.linalg.eigvalsh((H + H.T) / 2)[0]), 1e-3, holds=False)
        W, _ = fitted(world, policy, W, {"W": np.log(REF)}, 0.5)
        p = softmax(W, axis=1)
        yield Row(f"KL(π || π*) over all strings, random start {start + 1}", 0, ngram.kl(p, best), 1e-10)
        yield Row("E|y|", ngram.expected_length(best), ngram.expected_length(p), 1e-6)
    first_and_last = strings(3, 4, lambda y: float(len(y) > 2 and y[0] == y[-2]))  # no sum over neighbours
    _, loss = fitted(first_and_last, policy, np.log(REF), {"W": np.log(REF)}, 0.5)
    r = first_and_last.reward
    pairs = first_and_last.population()
    floor = float(pairs.weight @ -np.log(expit(r[pairs.index[:, 0]] - r[pairs.index[:, 1]])))
    yield Row("a reward that is none: the least loss, against the annotators' entropy", floor, loss, 1e-3, holds=False)


@entry("One solve sums over all strings")
def dynamic_programming() -> Iterator[Row]:
    """Bigram over {a, b, end}, a reward that is a sum over tokens, β = 0.5. Measured: enumeration of all 2¹⁹ - 1
    strings of at most 18 letters, finite differences.
    """
    beta = 0.5
    best, log_z = ngram.optimum(REF, REWARD, beta)
    totals: list[tuple[np.ndarray, np.ndarray]] = []
    state, r, lp = np.zeros(1, int), np.zeros(1), np.zeros(1)  # of every prefix
    for _ in range(19):
        totals.append((lp + np.log(REF[state, 0]), r + REWARD[state, 0]))
        state, r, lp = (np.concatenate(part) for part in zip(*[
            (np.full(len(state), v), r + REWARD[state, v], lp + np.log(REF[state, v])) for v in (1, 2)], strict=True))
    logs, rewards = (np.concatenate(part) for part in zip(*totals, strict=True))
    weights = np.exp(logs + rewards / beta)
    yield Row("log Z, less the tail of longer strings", log_z, np.log(weights.sum()), 1e-3)
    values = ngram.optimal_values(REF, REWARD, beta)
    token = beta * np.log(best / REF) - (values.Q - values.V[:, None])
    yield Row("token by token, β log π*/π_ref = Q* - V*: max |difference|", 0, abs(token).max(), 1e-12)
    yield Row("J* = β log Z", beta * log_z, ngram.value(best, REF, REWARD, beta), 1e-12)
    rng, h = np.random.default_rng(5), 1e-5
    W = np.log(REF) + 0.3 * rng.normal(size=(3, 3))

    def J(W: np.ndarray) -> float:
        return float(ngram.value(softmax(W, axis=1), REF, REWARD, beta))

    numeric = np.array([(J(W + h * e) - J(W - h * e)) / (2 * h) for e in np.eye(9).reshape(9, 3, 3)]).reshape(3, 3)
    yield Row("policy gradient: max |∂J/∂W - differences|", 0,
              abs(ngram.policy_gradient(softmax(W, axis=1), REF, REWARD, beta) - numeric).max(), 1e-8)
    step = ngram.natural_gradient(softmax(W, axis=1), REF, REWARD, beta)
    yield Row("KL(π || π*) after a natural step of 1/β: it arrives, as in a table", 0,
              ngram.kl(softmax(W + step / beta, axis=1), best), 1e-6, holds=False)


@entry("Length has a critical temperature")
def critical() -> Iterator[Row]:
    """Reward 1 a token: E|y| under π* grows without end as β falls to β_c = 1/(-log ρ(T)), and below it Z diverges"""
    per_token = np.array([[0.0, 1.0, 1.0]] * 3)
    T = np.zeros((3, 3))
    T[:, 1:] = REF[:, 1:]
    beta_c = 1 / -np.log(abs(np.linalg.eigvals(T)).max())
    yield Row("β_c, printed", 2.2800645465, beta_c, 5e-11)
    yield Row("by `ngram.critical_beta`", beta_c, ngram.critical_beta(REF, per_token), 1e-9)
    lengths = {}
    for factor in (1.001, 1.01):
        best, _ = ngram.optimum(REF, per_token, factor * beta_c)
        lengths[factor] = ngram.expected_length(best)
    # E|y| ~ 1/(1 - e^{1/β} ρ), and 1/β = (1/β_c)/factor
    yield Row("E|y| at 1.001 β_c over that at 1.01 β_c", (1 - 1 / 1.01) / (1 - 1 / 1.001),
              lengths[1.001] / lengths[1.01], 0.3)
    # masses of the lengths go as a geometric series of ratio q = ρ e^{1/β}: below β_c it piles up at the longest
    q = np.exp(1 / (0.5 * beta_c) - 1 / beta_c)
    mass, x = [], np.array([1.0, 0, 0])
    for _ in range(161):
        mass.append(x @ REF[:, 0])
        x = x @ T * np.exp(1 / (0.5 * beta_c))
    yield Row("β_c/2, strings of at most 160 tokens: 160 - E|y| = 1/(q - 1), q = ρ e^{1/β}", 1 / (q - 1),
              160 - np.array(mass) @ np.arange(161) / np.sum(mass), 1e-9)
    best, _ = ngram.optimum(REF, per_token, 2 * beta_c)
    yield Row("2 β_c, strings of any length: 160 - E|y|", 1 / (q - 1), 160 - ngram.expected_length(best), 100,
              holds=False)


@entry("Chosen responses may be shorter and the optimum longer; on the way, length may fall first")
def shorter_and_longer() -> Iterator[Row]:
    """A bigram and a reward that is a sum over tokens, β = 0.3; pairs from the reference among strings of at most 5
    letters
    """
    judged = np.array([[-1.0, 0.0, -1.2], [-0.7, -1.6, 0.9], [-1.2, -0.2, -1.8]])
    world = strings(3, 6, lambda y: float(sum(judged[c, v] for c, v in zip([0, *y], y, strict=False))))
    policy, ref = NGram(vocab=3), {"W": np.log(REF)}
    pairs = world.population(np.exp(log_probs(policy, ref, world.responses)))
    length = world.responses.length[pairs.index]
    before, best = ngram.expected_length(REF), ngram.expected_length(ngram.optimum(REF, judged, 0.3)[0])
    yield Row("sign of E|chosen| - E|rejected|", -1, np.sign(pairs.weight @ (length[:, 0] - length[:, 1])), 0)
    yield Row("sign of E|y| under π* less that under the reference, over all strings", 1, np.sign(best - before), 0)
    walk = dn.train(policy, ref, repeat(pairs.with_reference(policy, ref), 2000), DPO(beta=0.3), dn.sgd(5.0))
    at = {step: ngram.expected_length(softmax(now.params["W"], axis=1)) for step, now in enumerate(walk, 1)
          if step in (30, 2000)}
    yield Row("sign of the change of E|y| after 30 steps", -1, np.sign(at[30] - before), 0)
    yield Row("E|y| after 2000", best, at[2000], 0.1)
    yield Row("after 30", best, at[30], 0.1, holds=False)


@entry("Length from noise alone")
def noise() -> Iterator[Row]:
    """Pairs from the reference with coin-flip labels, the loss minimized: E|y| grows while β √n is small"""
    policy, ref = NGram(vocab=3), {"W": np.log(REF)}
    exact = ngram.expected_length(REF)

    def median(beta: float, n: int, seeds: int) -> float:
        lengths = []
        for seed in range(seeds):
            rng = np.random.default_rng([seed, n])
            drawn = dn.sample(policy, ref, [[0]] * (2 * n), rng, 60)
            keys, inverse = np.unique(drawn.tokens, axis=0, return_inverse=True)
            first = np.array([np.flatnonzero(inverse == k)[0] for k in range(len(keys))])
            index, count = np.unique(inverse.reshape(-1, 2), axis=0, return_counts=True)
            pairs = dn.Preferences(drawn.take(first), index, count / n).with_reference(policy, ref)

            def f(x: np.ndarray, pairs: dn.Preferences = pairs) -> tuple[float, np.ndarray]:
                value, grad = dn.value_and_grad(policy, {"W": x.reshape(3, 3)}, pairs, DPO(beta=beta))
                return value, grad["W"].ravel()

            W = minimize(f, ref["W"].ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300}).x.reshape(3, 3)
            try:
                lengths.append(ngram.expected_length(softmax(W, axis=1)))
            except ValueError:  # it need not end, to rounding
                lengths.append(np.inf)
        return float(np.median(lengths))

    yield Row("median E|y| of 15 seeds over the reference's, β √n = 40", 1, median(2.0, 400, 15) / exact, 0.05)
    yield Row("the same at β √n = 3", 1, median(0.15, 400, 15) / exact, 0.3, holds=False)


@entry("The first step is predicted, the last is not")
def three_pairs() -> Iterator[Row]:
    """Three random pairs of a random bigram: signs of the changes of log-probs, predicted by inner products of scores
    """
    rng, policy, loss = np.random.default_rng(4), NGram(vocab=4), DPO(beta=0.5)
    right = {1: [], 100: []}
    for _ in range(60):
        ys = [[*rng.integers(1, 4, size=rng.integers(1, 4)), 0] for _ in range(6)]
        if len({tuple(y) for y in ys}) < 6:
            continue
        params = policy.init(rng)
        pairs = dn.Preferences.of([[0]] * 3, ys[:3], ys[3:]).with_reference(policy, params)
        every = pairs.index.ravel()
        _, grad = dn.value_and_grad(policy, params, pairs, loss)
        predicted = -dn.scores_matrix(policy, params, pairs.responses, every) @ grad["W"].ravel()
        before = log_probs(policy, params, pairs.responses)[every]
        for step, now in enumerate(dn.train(policy, params, repeat(pairs, 100), loss, dn.sgd(0.1)), 1):
            if step in right:
                after = log_probs(policy, now.params, pairs.responses)[every]
                right[step].append(np.mean(np.sign(after - before) == np.sign(predicted)))
    yield Row("share of signs right at step 1", 1, np.mean(right[1]), 0.01)
    yield Row("at step 100", 1, np.mean(right[100]), 0.01, holds=False)
