"""Exact results on tables: one logit a response, endless or sampled comparisons."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
from exact import Row, entry, relative
from scipy.integrate import quad
from scipy.optimize import brentq, minimize
from scipy.special import entr, expit, log_softmax, logit, softmax
from scipy.stats import norm

import dpo_numpy as dn
from analytic import (
    bradley_terry,
    finite_data,
    flow,
    graph,
    loglinear,
    metrics,
    minimizers,
    optimum,
    population,
    sampling,
    temperature,
    voting,
)
from toy_models import Tabular, bandit
from toy_models.experiments import check_convergence, five_roads

R = np.array([1.0, 0.0, -1.0])
FLAT = np.full(3, 1 / 3)
DPO = dn.LOSSES["dpo"]


def descended(ref, wins, loss, steps=1000):
    """The policy where the registry's loss on all pairs is least, by SciPy alone: logits, no formula of `analytic`"""
    K = len(ref)
    index = np.array([(i, j) for i in range(K) for j in range(K) if i != j and wins[i, j] > 0])
    weight = wins[index[:, 0], index[:, 1]]

    def f(x):
        logp = log_softmax(x)
        value, grad = loss(logp[index], ref_logp=np.log(ref)[index], length=np.ones(index.shape), weight=weight)
        d = np.bincount(index.ravel(), grad.ravel(), K)
        return float(weight @ value), d - softmax(x) * d.sum()

    return softmax(minimize(f, np.log(ref), jac=True, method="BFGS", options={"gtol": 1e-13, "maxiter": steps}).x)


def last(steps):
    """The table of logits after the last step"""
    return deque(steps, maxlen=1).pop().params["W"]


# ---- the optimum

@entry("π* = π_ref e^{r/β}/Z, and J(π) = β log Z - β KL(π || π*)")
def boltzmann() -> Iterator[Row]:
    """Rewards 1, 0, -1 and a uniform reference. Measured: the first response's probability where SciPy finds J largest.
    """
    for beta, golden, log_z in ((0.5, 0.86681333, 1.0443193398), (1.0, 0.66524096, 0.3089936758),
                                (2.0, 0.50648039, 0.0816573820)):
        def loss(x, beta=beta):
            return -float(softmax(x) @ (R - beta * (log_softmax(x) - np.log(FLAT))))

        found = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-10})
        yield Row(f"π*(1) at β = {beta:g}", golden, softmax(found.x)[0], 1e-7)
        yield Row(f"J* = β log Z at β = {beta:g}", beta * log_z, -found.fun, 1e-10)
    rng, worst = np.random.default_rng(0), 0.0
    for beta in (0.05, 0.3, 1.0, 3.0, 20.0):
        ref, pi, r = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6)), rng.normal(size=6)
        best = optimum.boltzmann(ref, r, beta)
        J = pi @ r - beta * (pi @ np.log(pi / ref))
        worst = max(worst, abs(J - beta * np.log(ref @ np.exp(r / beta)) + beta * (pi @ np.log(pi / best))))
    yield Row("J(π) - β log Z + β KL(π || π*), the largest of five", 0, worst, 1e-12)


@entry("Z is never needed: r + c(x) changes nothing")
def gauge() -> Iterator[Row]:
    rng = np.random.default_rng(1)
    ref, r = rng.dirichlet(np.ones(5)), rng.normal(size=5)
    shifted = optimum.boltzmann(ref, r + 7.0, 0.3)
    yield Row("max |change of π*|", 0, abs(shifted - optimum.boltzmann(ref, r, 0.3)).max(), 1e-14)
    logp, ref_logp = rng.normal(size=(2, 4, 2))
    one, other = DPO(beta=0.3)(logp, ref_logp), DPO(beta=0.3)(logp + rng.normal(size=(4, 1)), ref_logp)
    yield Row("max |change of loss and gradient|, any constant added to both log-probs", 0,
              max(abs(a - b).max() for a, b in zip(one, other, strict=True)), 1e-14)


@entry("The reward-KL frontier has slope β")
def frontier() -> Iterator[Row]:
    """dE r/d(1/β) = Var r,  dKL/d(1/β) = Var r/β,  dJ*/dβ = -KL; measured by central differences in β"""
    rng = np.random.default_rng(2)
    ref, r, beta, h = rng.dirichlet(np.ones(20)), rng.normal(size=20), 0.7, 1e-4
    at = {b: optimum.boltzmann(ref, r, b) for b in (beta, 1 / (1 / beta + h), 1 / (1 / beta - h), beta + h, beta - h)}
    E = {b: float(p @ r) for b, p in at.items()}
    KL = {b: float(p @ np.log(p / ref)) for b, p in at.items()}
    J = {b: E[b] - b * KL[b] for b in at}
    var = float(at[beta] @ (r - E[beta]) ** 2)
    up, down = 1 / (1 / beta + h), 1 / (1 / beta - h)
    yield relative("dE r/d(1/β)", var, (E[up] - E[down]) / (2 * h), 1e-6)
    yield relative("dKL/d(1/β)", var / beta, (KL[up] - KL[down]) / (2 * h), 1e-6)
    yield relative("dE r/dKL", beta, (E[up] - E[down]) / (KL[up] - KL[down]), 1e-6)
    yield relative("dJ*/dβ", -KL[beta], (J[beta + h] - J[beta - h]) / (2 * h), 1e-6)
    every = rng.dirichlet(np.full(20, 0.5), size=2000)
    above = every @ r - temperature.frontier(ref, r, (every * np.log(every / ref)).sum(axis=1)).reward
    yield Row("policies of 2,000 random ones above the frontier", 0, (above > 1e-9).sum(), 0)
    ref, r = rng.dirichlet(np.full(5, 3.0)), rng.normal(size=5)
    learners = [make() for make in dn.LOSSES.values() if set(make().needs) <= {"ref_logp", "length"}
                and make().reads == ("logp",)]
    trained = [descended(ref, population.bradley_terry_wins(r), loss, steps=60) for loss in learners]
    trained += [sampling.best_of_n(ref, r, n) for n in (2, 5, 50)]
    above = [pi @ r - temperature.frontier(ref, r, optimum.kl(pi, ref)).reward for pi in trained]
    yield Row(f"of {len(learners)} losses of the registry, minimized from here, and best of n", 0,
              (np.array(above) > 1e-9).sum(), 0)
    x = np.linspace(-12, 12, 40001)
    q = norm.pdf(x) / norm.pdf(x).sum()
    p = softmax(np.log(q) + 2 * x)
    yield relative("Gaussian r: E r = √(2 KL)", np.sqrt(2 * (p @ np.log(p / q))), p @ x, 1e-6)


# ---- DPO on a population

@entry("The minimum of the DPO loss is π*, whichever pairs are met")
def minimum() -> Iterator[Row]:
    """Distance: max |π - π*|. The least loss is the annotators' own entropy."""
    rng = np.random.default_rng(3)
    ref, r, beta = rng.dirichlet(np.ones(5)), rng.normal(size=5), 0.5
    best, P = optimum.boltzmann(ref, r, beta), expit(r[:, None] - r)
    chain = np.diag(np.ones(4), 1) + np.diag(np.ones(4), -1)
    for name, weight in (("uniform pairs", np.ones((5, 5))), ("from the reference", np.outer(ref, ref)),
                         ("a bare chain", chain)):
        found = population.policy(population.newton(weight * P * (1 - np.eye(5)), beta), ref)
        yield Row(f"{name}, Newton", 0, abs(found - best).max(), 1e-12)
        yield Row(f"{name}, the registry's loss by BFGS", 0,
                  abs(descended(ref, weight * P * (1 - np.eye(5)) / weight.sum(), DPO(beta=beta)) - best).max(), 1e-6)
    wins = P * (1 - np.eye(5)) / 20 * 2
    least = (entr(P) * wins / P).sum()  # Σ wins (-log P)
    yield Row("the least loss", least, population.objective(np.log(best / ref), wins, beta), 1e-12)
    broken = chain.copy()
    broken[1, 2] = broken[2, 1] = 0
    yield Row("a chain with one link cut, BFGS from the reference", 0,
              abs(descended(ref, broken * P, DPO(beta=beta)) - best).max(), 1e-2, holds=False)


@entry("Gradient and Hessian are those of a graph")
def laplacian() -> Iterator[Row]:
    rng = np.random.default_rng(4)
    W = rng.random((6, 6))
    wins, u, h = (W + W.T) * expit(rng.normal(size=(6, 6))), rng.normal(size=6), 1e-5
    numeric = [(population.objective(u + h * e, wins, 0.7) - population.objective(u - h * e, wins, 0.7)) / (2 * h)
               for e in np.eye(6)]
    yield Row("max |∂L/∂u - differences|", 0, abs(population.gradient(u, wins, 0.7) - numeric).max(), 1e-8)
    H = population.hessian(u, wins, 0.7)
    numeric = [(population.gradient(u + h * e, wins, 0.7) - population.gradient(u - h * e, wins, 0.7)) / (2 * h)
               for e in np.eye(6)]
    yield Row("max |H - differences|", 0, abs(H - numeric).max(), 1e-8)
    yield Row("max |H 1|", 0, abs(H.sum(axis=1)).max(), 1e-14)
    yield Row("least eigenvalue", 0, np.linalg.eigvalsh(H)[0], 1e-14)


@entry("Gradient descent loses the factor that the comparison graph dictates")
def descent_rate() -> Iterator[Row]:
    """Factor (λ_max - λ₂)/(λ_max + λ₂) a step at the best step size; measured on the registry's loss"""
    K, beta = 6, 1.0
    path = np.diag(np.ones(K - 1), 1)
    star = np.zeros((K, K))
    star[0, 1:] = 1
    cliques = np.triu(np.kron(np.eye(2), np.ones((3, 3))), 1)
    cliques[2, 3] = 0.1
    r = np.array([0.8, -0.3, 0.5, 0.0, -0.9, 0.2])
    ref = {"W": np.zeros((1, K))}
    for name, edges in (("path", path), ("star", star), ("two cliques and a weak bridge", cliques)):
        weight = (edges + edges.T) / edges.sum()
        wins = weight * expit(r[:, None] - r)
        rate = population.linear_rate(population.hessian(r / beta, wins, beta))
        index = np.argwhere(wins > 0)
        pairs = dn.Preferences(bandit([r]).responses, index, wins[tuple(index.T)])
        pairs = pairs.with_reference(Tabular(K), ref)
        errors, best = [], r - r.mean()
        for now in dn.train(Tabular(K), ref, [pairs] * 300, DPO(beta=beta), dn.sgd(rate.best_step)):
            errors.append(np.linalg.norm(now.params["W"][0] - best))
        late = [k for k in range(2, 300) if 1e-11 < errors[k] < 1e-2 * errors[0]][-40:]
        measured = (errors[late[-1]] / errors[late[0]]) ** (1 / (late[-1] - late[0]))
        yield relative(name, rate.factor, measured, 0.01)
    small = 1e-3 * R  # π* next to the reference, so that the curvature is the same all the way
    limit = population.linear_rate(population.hessian(small, population.bradley_terry_wins(small), 1.0)).limit
    for share, holds in ((0.975, True), (1.025, False)):
        found = check_convergence(Tabular(3), bandit([small]), DPO(beta=1.0), 1.0, {"W": np.zeros((1, 3))},
                                  lr=share * limit, steps=400)
        yield Row(f"converges at {share} of 2/λ_max (1: yes)", 1, found.converged, 0.5, holds)


@entry("Steps scale as β⁻²: the eigenvalues at the optimum do")
def steps() -> Iterator[Row]:
    r = 0.02 * np.array([0.5, 0.1, -0.2, -0.4])  # small, so that the first steps go at the last steps' rate
    wins = population.bradley_terry_wins(r)
    rates = {beta: population.linear_rate(population.hessian(r / beta, wins, beta)) for beta in (1.0, 0.25)}
    yield relative("λ₂ at β = 1 over that at ¼", 16, rates[1.0].slowest / rates[0.25].slowest, 1e-12)
    counted = {}
    for beta in (1.0, 0.25):
        u, n = np.zeros(4), 0
        while abs(u - r / beta).max() > 1e-6 * abs(r / beta).max():
            u, n = u - 0.1 * population.gradient(u, wins, beta), n + 1
        counted[beta] = n
        yield relative(f"steps of 0.1 that leave a millionth of the error, β = {beta:g}",
                       np.log(1e-6) / np.log(rates[beta].at(0.1)), n, 0.01)
    yield relative("their ratio", 16, counted[0.25] / counted[1.0], 0.02)


@entry("The β that moves most after T steps scales as T^-½")
def beta_of_steps() -> Iterator[Row]:
    """KL(π_T || π_ref) of plain descent from the reference, K = 10: small β has not moved yet, large β may not move"""
    rng = np.random.default_rng(5)
    r, beta = rng.normal(size=10), np.geomspace(0.02, 3, 300)[:, None]
    P = expit(r[:, None] - r)
    u, most = np.zeros((300, 10)), {}
    for t in range(1, 10001):
        # ∂L/∂u = β Σⱼ W (σ(m) - P), W = 2/(K (K-1)) a pair
        u = u - beta * (expit(beta[..., None] * (u[:, :, None] - u[:, None])) - P).sum(axis=-1) / 45
        if t in (100, 1000, 10000):
            pi = softmax(u, axis=1)
            most[t] = beta[(pi * np.log(pi * 10)).sum(axis=1).argmax(), 0]
    for t in (100, 1000):
        yield relative(f"argmax β at {t} steps over that at {10 * t}", np.sqrt(10), most[t] / most[10 * t], 0.1)


@entry("Natural policy gradient arrives in one step of 1/β; plain policy gradient is badly conditioned, DPO is not")
def conditioning() -> Iterator[Row]:
    """Hessian of -J at π* in logits: β (diag π* - π* π*ᵀ). Of the DPO loss on fixed pairs: β² times the same matrix at
    every β; on pairs drawn from π*, β² Σ πᵢ πⱼ σ'(rᵢ - rⱼ) over the edges, the matrix of -J but for the factors σ'."""
    rng = np.random.default_rng(6)
    ref, r = rng.dirichlet(np.ones(5)), rng.normal(size=5)

    def J(x, beta):
        return float(softmax(x) @ (r - beta * (log_softmax(x) - np.log(ref))))

    beta, h = 0.5, 1e-3
    best = optimum.boltzmann(ref, r, beta)
    x, e = np.log(best), np.eye(5)
    numeric = np.array([[(J(x + h * (a + b), beta) - J(x + h * (a - b), beta) - J(x - h * (a - b), beta)
                          + J(x - h * (a + b), beta)) / (4 * h * h) for b in e] for a in e])
    yield Row("max |Hessian of -J - differences|, β = 0.5", 0,
              abs(beta * (np.diag(best) - np.outer(best, best)) + numeric).max(), 1e-6)
    condition = {}
    for b in (1.0, 0.1):
        p = optimum.boltzmann(ref, r, b)
        spectrum = np.linalg.eigvalsh(np.diag(p) - np.outer(p, p))[1:]
        dpo = np.linalg.eigvalsh(population.hessian(r / b, population.bradley_terry_wins(r), b))[1:]
        condition[b] = spectrum[-1] / spectrum[0], dpo[-1] / dpo[0]
    yield relative("condition number of DPO at β = 0.1, that at 1", condition[1.0][1], condition[0.1][1], 1e-9)
    yield Row("of policy gradient", condition[1.0][0], condition[0.1][0], 10 * condition[1.0][0], holds=False)
    pi = rng.dirichlet(np.ones(5))
    F = np.diag(pi) - np.outer(pi, pi)
    slope = F @ (r - beta * np.log(pi / ref))  # ∂J/∂logits
    stepped = softmax(np.log(pi) + np.linalg.pinv(F) @ slope / beta)
    yield Row("max |π - π*| after one natural step of 1/β from a random policy", 0, abs(stepped - best).max(), 1e-12)
    plain = softmax(np.log(pi) + slope / beta)
    yield Row("after one plain step", 0, abs(plain - best).max(), 1e-2, holds=False)
    found = five_roads.conditioning((3.0, 1.0, 0.3, 0.1))
    for beta, factor, measured in zip(found["beta"], found["factor"], found["measured"], strict=True):
        for k, road in enumerate(("policy gradient", "DPO")):
            yield Row(f"factor a step of {road} as trained, r = (0.3, 0.1, -0.1, -0.3), β = {beta:g}", factor[k],
                      measured[k], 2e-3)
    for k, road in enumerate(("policy gradient", "DPO")):
        predicted = np.ceil(found["steps"][-1, k])
        yield Row(f"steps of {road} from the reference to KL < 1e-6, β = 0.1, had that factor held from the start",
                  predicted, found["counted"][-1, k], 0.5 * predicted)
    yield Row("as many for DPO as for policy gradient", found["counted"][-1, 0], found["counted"][-1, 1],
              0.5 * found["counted"][-1, 0], holds=False)
    yield relative("its condition number where pairs are drawn from π*, β = 0.1: that of policy gradient",
                   found["condition"][-1, 0], found["online"][-1], 0.1)


@entry("Root n: error, excess loss and regret of labels that were sampled")
def root_n() -> Iterator[Row]:
    """K = 6, n pairs, uniform and Bradley-Terry; 1,500 data sets, refitted. Tolerances are at least 3 standard errors.
    """
    rng = np.random.default_rng(7)
    K, n, reps, beta = 6, 4000, 1500, 0.5
    r, ref = np.array([0.6, 0.2, 0.0, -0.1, -0.3, -0.4]), np.full(6, 1 / 6)
    i, j = np.triu_indices(K, 1)
    P = expit(r[i] - r[j])
    met = rng.multinomial(n, np.full(15, 1 / 15), size=reps)
    won = rng.binomial(met, P)
    wins = np.zeros((reps, K, K))
    wins[:, i, j], wins[:, j, i] = won, met - won
    truth = population.bradley_terry_wins(r)
    fits = np.stack([bradley_terry.fit(w) for w in wins])
    cov = bradley_terry.covariance(bradley_terry.fisher(r))
    measured = n * np.cov(fits.T, bias=True)
    yield Row("relative error of the covariance of √n (r̂ - r), Frobenius", 0,
              np.linalg.norm(measured - cov) / np.linalg.norm(cov), 0.12)
    excess = population.objective(fits, truth, 1.0) - population.objective(r, truth, 1.0)
    yield Row("n E[excess loss] = (K-1)/2", (K - 1) / 2, n * excess.mean(), 3 * n * excess.std() / np.sqrt(reps) + 0.05)
    best = optimum.boltzmann(ref, r, beta)
    lost = optimum.optimal_value(ref, r, beta) - optimum.value(optimum.boltzmann(ref, fits, beta), ref, r, beta)
    predicted = float(finite_data.regret(ref, truth, beta, n))
    by_hand = np.trace((np.diag(best) - np.outer(best, best)) @ cov) / (2 * beta * n)
    yield relative("regret tr((diag π* - π*π*ᵀ) F⁺)/(2βn): by `finite_data.regret`", by_hand, predicted, 1e-9)
    yield relative("regret, mean over data sets", by_hand, lost.mean(), 0.08)


@entry("Bradley-Terry rewards have a fit if and only if the wins are strongly connected")
def existence() -> Iterator[Row]:
    wins = np.array([[0.0, 2, 1], [1, 0, 1], [1, 1, 0]])
    found = minimize(lambda x: -(wins * np.log(expit(x[:, None] - x))).sum(), np.zeros(3), options={"gtol": 1e-10}).x
    yield Row("r̂(1) of wins ((0,2,1),(1,0,1),(1,1,0))", bradley_terry.fit(wins)[0], (found - found.mean())[0], 1e-7)
    yield Row("the same, printed", 0.25435063, bradley_terry.fit(wins)[0], 5e-9)
    cycle = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    yield Row("a cycle: max |r̂|", 0, abs(bradley_terry.fit(cycle)).max(), 1e-12)
    rng, wrong = np.random.default_rng(8), 0
    for _ in range(300):  # along any direction the likelihood must fall in the end
        games = rng.poisson(0.7, size=(4, 4)) * (1 - np.eye(4))
        splits = [np.array([b >> k & 1 for k in range(4)], bool) for b in range(1, 15)]
        exists = all(games[np.ix_(~s, s)].any() for s in splits)  # each set of responses is beaten from outside of it
        wrong += bool(graph.mle_exists(games)) != exists
    yield Row("of 300 random tables, those in which the criterion by all subsets disagrees", 0, wrong, 0)


# ---- certain labels, and time

@entry("Certain labels: DPO's margin grows like a logarithm, IPO's stops")
def certain() -> Iterator[Row]:
    """Gradient flow on one pair of a table: m + e^m = 1 + 2β²t; IPO h = (1 - e^-4t)/2τ. Measured: a thousand steps of
    descent, of t/1000 each.
    """
    pairs = dn.Preferences(bandit([[0.0, 0.0]]).responses, np.array([[0, 1]]))
    start = {"W": np.zeros((1, 2))}
    pairs = pairs.with_reference(Tabular(2), start)

    def walked(loss, t, lr):
        return last(dn.train(Tabular(2), start, [pairs] * round(t / lr), loss, dn.sgd(lr)))[0] @ [1, -1]

    yield Row("DPO, β = 1, margin at t = 5", flow.dpo_margin(5.0, 1.0), walked(DPO(beta=1.0), 5, 0.005), 5e-3)
    yield Row("m + e^m there", 11, float(np.exp(flow.dpo_margin(5.0, 1.0)) + flow.dpo_margin(5.0, 1.0)), 1e-12)
    yield Row("IPO, τ = 1, h at t = 0.5", (1 - np.exp(-2)) / 2, walked(dn.LOSSES["ipo"](tau=1.0), 0.5, 0.0005), 5e-4)
    yield Row("IPO, τ = 1, at t = 20", 0.5, walked(dn.LOSSES["ipo"](tau=1.0), 20, 0.02), 1e-9)
    yield Row("DPO at t = 20, where it was at t = 5", flow.dpo_margin(5.0, 1.0), walked(DPO(beta=1.0), 20, 0.02), 0.5,
              holds=False)
    yield Row("β = 0.1: gap m/β at t = 10⁴, against log(1 + 2β²t)/β = 53.0", 52.8, flow.dpo_margin(1e4, 0.1) / 0.1,
              0.05)


@entry("IPO: π_ref e^{P(y ≻ μ)/τ}/Z")
def ipo() -> Iterator[Row]:
    """Three responses in a total order, always judged so; both of a pair from the uniform reference, also twice the
    same. Azar et al. 2023, arXiv:2310.12036.
    """
    P = np.triu(np.ones((3, 3)), 1) + np.eye(3) / 2
    for tau, golden in ((0.1, 0.96437), (0.5, 0.56274), (1.0, 0.44844)):
        found = descended(FLAT, P / 9 * (1 - np.eye(3)), dn.LOSSES["ipo"](tau=tau))
        yield Row(f"π(best) at τ = {tau:g}", golden, found[0], 5e-6)
        yield Row("by `minimizers.ipo`", found[0], minimizers.ipo(FLAT, P.mean(axis=1), tau)[0], 1e-6)
    cycle = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]) / 3
    for name in ("ipo", "dpo"):
        loss = dn.LOSSES[name](tau=0.5) if name == "ipo" else DPO(beta=0.5)
        yield Row(f"a cycle: max |π - π_ref| under {name}", 0, abs(descended(FLAT, cycle, loss) - FLAT).max(), 1e-9)


def margin_at(loss, p, beta):
    """βh that minimizes p φ(h) + (1-p) φ(-h) for two responses of a uniform reference"""
    def slope(m):
        h = m / beta
        logp = np.log(expit([h, -h]))
        grads = [loss(logp[None, k], np.log([[0.5, 0.5]]))[1] for k in ([0, 1], [1, 0])]
        return p * grads[0][0, 0] - (1 - p) * grads[1][0, 0]
    return brentq(slope, -30, 30, xtol=1e-13)


@entry("Smoothed and flipped labels")
def noisy() -> Iterator[Row]:
    """Two responses: cDPO σ(m) = (1-ε)p + ε(1-p); rDPO m = logit((p-ε)/(1-2ε)), unbounded below where p > 1-ε"""
    for p in (0.7, 1.0):
        m = margin_at(dn.LOSSES["cdpo"](beta=0.5, eps=0.1), p, 0.5)
        yield Row(f"cDPO, ε = 0.1, p = {p:g}", logit(0.9 * p + 0.1 * (1 - p)), m, 1e-9)
    yield Row("log((1-ε)/ε), printed", 2.19722, float(minimizers.cdpo_margin(1.0, 0.1)), 5e-6)
    yield Row("rDPO, ε = 0.1, p = 0.8", logit(0.7 / 0.8), margin_at(dn.LOSSES["rdpo"](beta=0.5, eps=0.1), 0.8, 0.5),
              1e-9)
    for m in (10, 100, 1000):
        value, _ = dn.LOSSES["rdpo"](beta=1.0, eps=0.1)([[float(m), 0.0]], [[0.0, 0.0]])
        yield Row(f"rDPO of a certain label at m = {m}: -m ε/(1-2ε), and e^-m", -m / 8, value[0],
                  1.1 * np.exp(-m) + 1e-12)
    yield Row("cDPO there, m = 1000: it falls too", -1000 / 8, dn.LOSSES["cdpo"](beta=1.0, eps=0.1)([[1e3, 0.0]],
              [[0.0, 0.0]])[0][0], 1.0, holds=False)


@entry("f-DPO reaches the optimum of its own divergence")
def f_dpo() -> Iterator[Row]:
    """Wang et al. 2023, arXiv:2309.16240: argmax E r - β D_f(π || π_ref), where f'(0) = -∞; measured by training on BT
    labels"""
    rng = np.random.default_rng(9)
    ref, r = rng.dirichlet(np.full(4, 3.0)), 0.5 * rng.normal(size=4)
    wins = population.bradley_terry_wins(r)
    for name, divergence in (("f_dpo_forward_kl", "forward_kl"), ("f_dpo_js", "js"), ("f_dpo_alpha", "alpha")):
        pi = minimizers.f_dpo(ref, r, 1.0, divergence)
        found = descended(ref, wins, dn.LOSSES[name](beta=1.0))
        yield Row(f"{divergence}: max |π - optimum|", 0, abs(found - pi).max(), 1e-6)
        yield Row("and it is not π*", 0, abs(pi - optimum.boltzmann(ref, r, 1.0)).max(), 1e-3, holds=False)


@entry("Link functions: what a population makes of P = p")
def links() -> Iterator[Row]:
    """Two responses, GPO (Tang et al. 2024, arXiv:2402.05749): logistic logit(p), exponential ½ logit(p), square 2p -
    1, hinge sign(2p - 1)
    """
    p = 0.7
    yield Row("logistic", logit(p), margin_at(DPO(beta=0.5), p, 0.5), 1e-9)
    m = np.linspace(-3, 3, 6001)
    for link, phi, golden in (("exponential", lambda m: np.exp(-m), logit(p) / 2),
                              ("squared", lambda m: (m - 1) ** 2, 2 * p - 1),
                              ("hinge", lambda m: np.maximum(0, 1 - m), 1.0)):
        yield Row(link, golden, m[(p * phi(m) + (1 - p) * phi(-m)).argmin()], 1e-3)
        yield Row("by `minimizers.gpo_margin`", golden, float(minimizers.gpo_margin(p, link)), 1e-12)


@entry("SimPO, LN-DPO and R-DPO: length enters the optimum")
def lengths() -> Iterator[Row]:
    """|y| counts the end token. SimPO's optimum does not know the reference; R-DPO's is π* of r - α|y|."""
    rng = np.random.default_rng(10)
    ref, r, length = rng.dirichlet(np.ones(4)), rng.normal(size=4), np.array([1.0, 2, 3, 5])
    wins = population.bradley_terry_wins(r)
    index = np.argwhere(wins > 0)
    weight = wins[tuple(index.T)]

    def least(loss, ref):
        def f(x):
            logp = log_softmax(x)
            value, grad = loss(logp[index], ref_logp=np.log(ref)[index], length=length[index], weight=weight)
            d = np.bincount(index.ravel(), grad.ravel(), 4)
            return float(weight @ value), d - softmax(x) * d.sum()
        return softmax(minimize(f, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-12}).x)

    simpo = dn.LOSSES["simpo"](beta=2.0, gamma=0.0)
    yield Row("SimPO, γ = 0: e^{|y|(r/β + c)}", 0,
              abs(least(simpo, ref) - minimizers.simpo(r, length, 2.0)).max(), 1e-6)
    yield Row("another reference: max |change|", 0, abs(least(simpo, ref) - least(simpo, ref[::-1])).max(), 1e-6)
    ln = dn.LOSSES["ln_dpo"](beta=2.0)
    yield Row("LN-DPO: π_ref e^{|y|(r/β + c)}", 0,
              abs(least(ln, ref) - minimizers.length_normalized(ref, r, length, 2.0)).max(), 1e-6)
    rdpo = dn.LOSSES["r_dpo"](beta=0.5, alpha=0.1)
    yield Row("R-DPO: π* of r - α|y|", 0,
              abs(least(rdpo, ref) - optimum.boltzmann(ref, r - 0.1 * length, 0.5)).max(), 1e-6)
    yield Row("DPO of another reference: max |change|", 0,
              abs(least(DPO(beta=0.5), ref) - least(DPO(beta=0.5), ref[::-1])).max(), 1e-2, holds=False)
    x, g, a = np.exp(float(minimizers.simpo_margin(0.8, 1.4))), np.exp(1.4), 0.8
    yield Row("SimPO, γ = 1.4, p = a = 0.8, equal lengths: m = log x", 2.52460, np.log(x), 5e-6)
    yield Row("(1-a)x² + e^γ(1-2a)x - a there", 0, (1 - a) * x * x + g * (1 - 2 * a) * x - a, 1e-12)


@entry("KTO drops what is less liked than not; ORPO has no reference")
def kto() -> Iterator[Row]:
    """KTO with λ_D = λ_U and z₀ held: a response with P(desired) < ½ goes to 0 where another has more, for any β; DPO
    keeps it. ORPO of two one-token responses: between p (its likelihood term) and σ(½ logit p) (its odds term).
    """
    q = np.array([0.446, 0.6, 0.55])
    loss, index, label = dn.LOSSES["kto"](beta=0.5), np.repeat(np.arange(3), 2)[:, None], np.tile([True, False], 3)
    weight, x = np.stack([q, 1 - q], axis=1).ravel() / 3, np.zeros(3)
    for _ in range(4000):
        logp = log_softmax(x)
        _, grad = loss(logp[index], ref_logp=np.log(FLAT)[index], label=label, z0=0.0, weight=weight)
        d = np.bincount(index.ravel(), grad.ravel(), 3)
        x = x - 20 * (d - softmax(x) * d.sum())
    yield Row("KTO: π(response with q = 0.446)", 0, softmax(x)[0], 1e-3)
    keeps = optimum.boltzmann(FLAT, logit(q), 0.5)[0]
    yield Row("DPO on labels of rewards logit q", 0, keeps, 1e-3, holds=False)
    a = 0.8

    def risk(t, lam):
        logp = np.log([[expit(t), expit(-t)]])
        loss = dn.LOSSES["orpo"](lam=lam, nll="sum")
        facts = {"length": [[1, 1]], "full_logp": logp, "full_length": [[1, 1]]}
        needs = {name: facts[name] for name in loss.needs}
        return a * loss(logp, **needs)[0][0] + (1 - a) * loss(logp[:, ::-1], **needs)[0][0]

    for lam in (0.0, 1.0, 1e6):
        best = minimize(lambda t, lam=lam: risk(t[0], lam) / (1 + lam), [0.5], method="Nelder-Mead",
                        options={"xatol": 1e-9, "fatol": 1e-15}).x[0]
        predicted = {0.0: a, 1e6: expit(logit(a) / 2)}.get(lam, expit(float(minimizers.orpo_margin(a, lam))))
        yield Row(f"ORPO, p = 0.8, λ = {lam:g}: π(better)", predicted, expit(best), 1e-5)


@entry("Plackett-Luce: rankings reach π*, and one is worth 2(K - H_K) pairs at equal rewards")
def rankings() -> Iterator[Row]:
    from itertools import permutations

    rng = np.random.default_rng(11)
    ref, r, beta = rng.dirichlet(np.ones(4)), rng.normal(size=4), 0.5
    index = np.array(list(permutations(range(4))))
    strength = np.exp(r)[index]
    weight = (strength / strength[:, ::-1].cumsum(axis=1)[:, ::-1]).prod(axis=1)

    def f(x):
        logp = log_softmax(x)
        value, grad = dn.LOSSES["pl_dpo"](beta=beta)(logp[index], ref_logp=np.log(ref)[index], weight=weight,
                                                   present=np.ones(index.shape, bool))
        d = np.bincount(index.ravel(), grad.ravel(), 4)
        return float(weight @ value), d - softmax(x) * d.sum()

    found = softmax(minimize(f, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-12}).x)
    yield Row("max |π - π*|", 0, abs(found - optimum.boltzmann(ref, r, beta)).max(), 1e-6)
    pair = np.trace(np.linalg.pinv(bradley_terry.fisher(np.zeros(5))))
    every = np.array(list(permutations(range(5))))  # equally likely
    ranking = np.trace(np.linalg.pinv(bradley_terry.ranking_fisher(np.zeros(5), every, np.full(120, 1 / 120))))
    yield Row("K = 5: ratio of tr F⁺", 2 * (5 - sum(1 / k for k in range(1, 6))), pair / ranking, 1e-9)


@entry("Temperature algebra: mixtures of optima are optima")
def temperatures() -> Iterator[Row]:
    rng = np.random.default_rng(12)
    ref, r, s, other = rng.dirichlet(np.ones(6)), rng.normal(size=6), rng.normal(size=6), rng.dirichlet(np.ones(6))

    def best(q, r, beta):
        p = q * np.exp(r / beta)
        return p / p.sum()

    def mixed(q, w, *policies):
        p = q * np.prod([(pi / q) ** k for pi, k in zip(policies, w, strict=True)], axis=0)
        return p / p.sum()

    yield Row("DeRa: π_ref^{1-λ} π*_β^λ is π* of β/λ, max |difference|", 0,
              abs(mixed(ref, [0.4], best(ref, r, 0.5)) - best(ref, r, 0.5 / 0.4)).max(), 1e-14)
    yield Row("a common β: weights λ", 0, abs(mixed(ref, [0.3, 0.7], best(ref, r, 0.5), best(ref, s, 0.5))
                                              - best(ref, 0.3 * r + 0.7 * s, 0.5)).max(), 1e-14)
    lam, beta = np.array([0.3, 0.7]), np.array([0.2, 1.0])
    w, b = temperature.mixture_weights(lam, beta)
    target = best(ref, 0.3 * r + 0.7 * s, float(b))
    pair = best(ref, r, 0.2), best(ref, s, 1.0)
    yield Row("β of 0.2 and 1: weights λβ/Σλβ, at Σλβ", 0, abs(mixed(ref, w, *pair) - target).max(), 1e-13)
    yield Row("weights λ", 0, abs(mixed(ref, lam, *pair) - target).max(), 1e-2, holds=False)
    q = ref
    for _ in range(4):
        q = best(q, r, 0.5)  # each round optimal for the last
    yield Row("TR-DPO, hard updates, 4 rounds: π* of β/4", 0, abs(q - best(ref, r, 0.5 / 4)).max(), 1e-14)
    yield Row("another reference: π* moves by exactly π_ref'/π_ref", 0,
              abs(temperature.rereferenced(best(ref, r, 0.5), ref, other) - best(other, r, 0.5)).max(), 1e-14)
    trained = best(ref, r, 0.3)
    lost = 0.5 * np.log(ref @ np.exp(r / 0.5)) - (trained @ r - 0.5 * trained @ np.log(trained / ref))
    yield Row("the wrong β: J* - J = β KL(π_wrong || π*)", float(temperature.cost(ref, r, 0.5, 0.3)), lost, 1e-13)


@entry("Best of n, and rejection sampling")
def best_of_n() -> Iterator[Row]:
    """Best of n: KL <= log n - (n-1)/n, win rate <= n/(n+1), both attained where rewards are continuous"""
    rng = np.random.default_rng(13)
    ref, r, n = rng.dirichlet(np.ones(6)), rng.normal(size=6), 4
    draws = rng.choice(6, size=(200_000, n), p=ref)
    best = draws[np.arange(200_000), r[draws].argmax(axis=1)]
    share, pmf = np.bincount(best, minlength=6) / 200_000, sampling.best_of_n(ref, r, n)
    error = np.sqrt(pmf * (1 - pmf) / 200_000)
    yield Row("largest deviation of 200,000 draws from the pmf, in standard errors", 0,
              (abs(share - pmf) / error).max(), 4)
    yield Row("KL, above its bound (1: yes)", 0, float(optimum.kl(pmf, ref)) > np.log(4) - 0.75, 0)
    yield Row("win rate, above its bound (1: yes)", 0, float(sampling.win_rate(pmf, ref, r)) > 4 / 5, 0)
    kl, cut = np.log(4) - 0.75, np.exp(-30.0)
    normal = quad(lambda x: 4 * norm.pdf(x) * norm.cdf(x) ** 3 * np.log(4 * max(norm.cdf(x), cut) ** 3), -8, 12)[0]
    yield Row("N(0,1) rewards, n = 4: KL by quadrature", kl, normal, 1e-6)
    wins = quad(lambda x: 4 * norm.pdf(x) * norm.cdf(x) ** 4, -10, 12)[0]
    yield Row("win rate by quadrature", sampling.best_of_n_bounds(4).win_rate, wins, 1e-9)
    mean = quad(lambda x: 4 * x * norm.pdf(x) * norm.cdf(x) ** 3, -10, 12)[0]
    yield Row("below the frontier √(2 KL) by", 0.0987, np.sqrt(2 * kl) - mean, 5e-5)
    kept = rng.random(200_000) < np.exp((r[draws[:, 0]] - r.max()) / 0.5)
    rate = float(sampling.acceptance_rate(ref, r, 0.5))
    yield Row("RSO accepts Z e^{-r_max/β}", rate, kept.mean(), 4 * np.sqrt(rate / 200_000))
    share = np.bincount(draws[kept, 0], minlength=6) / kept.sum()
    pi = optimum.boltzmann(ref, r, 0.5)
    yield Row("what it accepts is π*: largest deviation in standard errors", 0,
              (abs(share - pi) / np.sqrt(pi * (1 - pi) / kept.sum())).max(), 4)


@entry("GRPO on verifiable rewards: a fixed point above the start")
def grpo() -> Iterator[Row]:
    """Mroueh 2025, arXiv:2503.06639: p⁺ = 1/(1 + (1-p₀)/p₀ e^{-1/(β√(p(1-p)+ε))}), iterated. It depends on where one
    starts."""
    def step(p, p0=0.2, beta=3.0, eps=1e-5):
        return 1 / (1 + (1 - p0) / p0 * np.exp(-1 / (beta * np.sqrt(p * (1 - p) + eps))))

    for start, golden in ((0.2, 0.336114), (0.99, 0.336114), (1 - 1e-6, 1.0)):
        p = start
        for _ in range(3000):
            p = step(p)
        yield Row(f"limit from {start:g}, p₀ = 0.2, β = 3", golden, p, 5e-7)
        yield Row("by `sampling.grpo_limit`", p, float(sampling.grpo_limit(start, 0.2, 3.0)), 1e-9)
    # the inner problem, solved by enumeration: advantages whitened under the last policy, KL to the reference
    p, p0, beta = 0.3, 0.2, 3.0
    A = (np.array([1.0, 0.0]) - p) / np.sqrt(p * (1 - p) + 1e-5)
    inner = optimum.boltzmann([p0, 1 - p0], A, beta)[0]
    yield Row("one inner step from p = 0.3", step(0.3), inner, 1e-12)
    yield Row("groups of 8 without a signal, p = 0.01", 0.99**8 + 0.01**8, float(sampling.no_signal(0.01, 8)), 1e-14)
    dpo = optimum.boltzmann([0.8, 0.2], [0.0, 1.0], 0.5)[1]
    yield Row("DPO on pairs of such rewards, β = 0.5: p₀ e^{1/β}/(p₀ e^{1/β} + 1 - p₀)", dpo,
              float(sampling.success_rate(0.2, 0.5)), 1e-14)


@entry("Training on the chosen responses alone")
def sft() -> Iterator[Row]:
    """π(y) = 2 μ(y) P(y ≻ μ), both responses from μ = π_ref, equal draws labelled by a coin: inside of the frontier for
    K >= 3, on it for K = 2
    """
    rng = np.random.default_rng(14)
    for K in (2, 5):
        ref, r = rng.dirichlet(np.ones(K)), rng.normal(size=K)
        pi = 2 * ref * (expit(r[:, None] - r) @ ref)
        yield Row(f"K = {K}: `minimizers.sft`, max |difference|", 0,
                  abs(minimizers.sft(ref, expit(r[:, None] - r) @ ref) - pi).max(), 1e-14)
        gap = float(temperature.frontier(ref, r, optimum.kl(pi, ref)).reward) - pi @ r
        yield Row(f"K = {K}: below the frontier by", 0, gap, 1e-9 if K == 2 else 1e-6, holds=K == 2)


# ---- what optimal looks like

@entry("A falling chosen log-prob is what the exact optimum looks like, below a crossover in β")
def crossover() -> Iterator[Row]:
    """r = (1, 0, -1), uniform reference, both responses from it: E log π*/π_ref of the chosen, by enumeration of the
    nine pairs
    """
    beta = 0.1
    P = expit(R[:, None] - R)
    u = np.log(optimum.boltzmann(FLAT, R, beta) * 3)
    joint = P / 9 * 2  # i chosen over j; equal draws are chosen and rejected at once
    joint[np.diag_indices(3)] = 1 / 9
    joint /= joint.sum()
    share = metrics.pairs(FLAT, R)
    chosen = float(metrics.mean_log_ratio(share.chosen, FLAT, R, beta))
    yield Row("β = 0.1: chosen", float(joint.sum(axis=1) @ u), chosen, 1e-12)
    yield Row("the same, printed", -6.18, chosen, 5e-3)
    yield Row("rejected", -11.62, float(metrics.mean_log_ratio(share.rejected, FLAT, R, beta)), 5e-3)
    at = brentq(lambda b: joint.sum(axis=1) @ np.log(optimum.boltzmann(FLAT, R, b) * 3), 0.3, 5)
    yield Row("it changes sign at β", 1.15677, at, 5e-6)
    yield Row("by `metrics.crossover`", at, float(metrics.crossover(share.chosen, FLAT, R)), 1e-9)
    distinct = metrics.pairs(FLAT, R, distinct=True)
    yield Row("two different responses: sign changes at", 0.71162,
              float(metrics.crossover(distinct.chosen, FLAT, R)), 5e-6)
    yield Row("small rewards, both from the reference: 1", 1, float(metrics.crossover(
        metrics.pairs(FLAT, 1e-4 * R).chosen, FLAT, 1e-4 * R)), 1e-3)


@entry("Ranking accuracy is not what DPO optimizes")
def ranking() -> Iterator[Row]:
    """Correct if and only if loss <= -log σ(βc), c = log π_ref(rejected)/π_ref(chosen). Chen et al. 2024,
    arXiv:2405.19534."""
    for c, golden in ((5.0, 0.474077), (30.0, 0.048587)):
        odds = metrics.ranking_loss(np.array([1.0, np.exp(c)]) / (1 + np.exp(c)), 0.1)[0, 1]
        yield Row(f"threshold at β = 0.1, c = {c:g}", golden, float(odds), 5e-7)
    rng, wrong = np.random.default_rng(15), 0
    logp, ref_logp = rng.normal(size=(2, 4000, 2)) * 5
    value, _ = DPO(beta=0.3)(logp, ref_logp)
    wrong = ((logp[:, 0] >= logp[:, 1]) != (value <= -np.log(expit(0.3 * (ref_logp[:, 1] - ref_logp[:, 0]))))).sum()
    yield Row("of 4,000 random pairs, those that break the rule", 0, wrong, 0)
    r, ref = rng.normal(size=50), softmax(2 * rng.normal(size=50))
    wins = population.bradley_terry_wins(r)
    sure = (wins > wins.T).astype(float)
    best = optimum.boltzmann(ref, r, 1.0)
    yield Row("π* orders implicit rewards as r does: share of pairs", 1,
              float(metrics.ranking_accuracy(np.log(best / ref), sure)), 0)
    yield Row("π* orders log-probs as r does", 1, float(metrics.ranking_accuracy(np.log(best), sure)), 0.1, holds=False)


@entry("What no comparison reaches: descent gives it the plain mean")
def unseen_mean() -> Iterator[Row]:
    """Steps along the gradient leave the mean logit of each component of the comparisons where it was"""
    ref, r = np.array([0.3, 0.1, 0.2, 0.4]), np.array([1.0, -0.5, 0.2, 5.0])
    world, start = bandit([r]), {"W": np.log([ref])}
    pairs = world.population([1, 1, 1, 0]).with_reference(Tabular(4), start)
    end = softmax(last(dn.train(Tabular(4), start, [pairs] * 400, DPO(beta=0.5), dn.sgd(20.0))))[0]
    rlhf = optimum.boltzmann(ref, [1.0, -0.5, 0.2, np.mean([1.0, -0.5, 0.2])], 0.5)
    yield Row("max |π - RLHF's with the unseen reward at the mean of the others|", 0, abs(end - rlhf).max(), 1e-12)
    weighted = optimum.boltzmann(ref, [1.0, -0.5, 0.2, ref[:3] @ r[:3] / ref[:3].sum()], 0.5)
    yield Row("at their mean under the reference", 0, abs(end - weighted).max(), 1e-3, holds=False)
    end = softmax(last(dn.train(Tabular(4), start, [pairs] * 2000, DPO(beta=0.5), dn.adam(0.02))))[0]
    yield Row("trained by Adam", 0, abs(end - rlhf).max(), 1e-3, holds=False)


@entry("Misspecified, the pairs decide")
def misspecified() -> Iterator[Row]:
    """π ∝ (e^t, e^-t, 1), r = (1, 2, 0), uniform reference: pairs of 1 and 3 alone give βt = 1, whatever β"""
    features, r = np.array([[1.0], [-1.0], [0.0]]), np.array([1.0, 2.0, 0.0])
    weight = np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]])
    for beta in (1.0, 10.0):
        wins = weight * expit(r[:, None] - r)
        yield Row(f"βt at β = {beta:g}", 1, beta * loglinear.newton(features, wins, beta)[0], 1e-9)
    pi = loglinear.policy(loglinear.newton(features, weight * expit(r[:, None] - r), 10.0), features, FLAT)
    yield Row("β = 10: E r, below the reference's 1 (1: yes)", 1, float(pi @ r) < 1, 0)
    full = population.bradley_terry_wins(r)
    pi = loglinear.policy(loglinear.newton(features, full, 10.0), features, FLAT)
    yield Row("with every pair", 1, float(pi @ r) < 1, 0.5, holds=False)
    one = population.policy(population.newton(weight * expit(r[:, None] - r) + 1e-3 * full, 1.0), FLAT)
    yield Row("a table, these pairs a thousand times as often: max |π - π*|", 0,
              abs(one - optimum.boltzmann(FLAT, r, 1.0)).max(), 1e-9)


@entry("The set of minimizers that unseen responses leave")
def coverage() -> Iterator[Row]:
    """Six responses, four of them compared: every policy with the right ratios among these has the least loss, and
    their J differ; descent picks one
    """
    rng = np.random.default_rng(16)
    ref, r, beta = rng.dirichlet(np.ones(6)), rng.random(6), 0.5
    wins = population.bradley_terry_wins(r)
    wins[4:], wins[:, 4:] = 0, 0
    best = optimum.boltzmann(ref, r, beta)
    losses, values = [], []
    for mass in (0.05, 0.5, 0.95):
        pi = np.concatenate([mass * best[:4] / best[:4].sum(), (1 - mass) * ref[4:] / ref[4:].sum()])
        losses.append(float(population.objective(np.log(pi / ref), wins, beta)))
        values.append(float(optimum.value(pi, ref, r, beta)))
    yield Row("the largest loss, less the annotators' entropy", 0, max(losses) - float(population.entropy(wins)), 1e-12)
    yield Row("range of the loss", 0, np.ptp(losses), 1e-12)
    yield Row("range of J", 0, np.ptp(values), 0.05, holds=False)


# ---- whose preferences

@entry("Uniform pairs vote by Borda; other pairs need not, and Condorcet's winner need not win")
def borda() -> Iterator[Row]:
    rng, wrong, skewed = np.random.default_rng(17), 0, 0
    for _ in range(200):
        P = rng.random((5, 5))
        P = np.where(np.triu(np.ones((5, 5)), 1) > 0, P, 1 - P.T)
        P[np.diag_indices(5)] = 0.5
        W = rng.random((5, 5))
        order = np.argsort(P.sum(axis=1))
        wrong += not np.array_equal(np.argsort(bradley_terry.fit(P * (1 - np.eye(5)))), order)
        skewed += not np.array_equal(np.argsort(bradley_terry.fit((W + W.T) * P * (1 - np.eye(5)))), order)
    yield Row("of 200 random P, orders of the rewards that are not Borda's", 0, wrong, 0)
    yield Row("the same with pairs of unequal weights", 0, skewed, 20, holds=False)
    P = np.array([[0.5, 0.51, 0.51], [0.49, 0.5, 0.99], [0.49, 0.01, 0.5]])
    yield Row("an example: Condorcet's winner", 0, float(voting.condorcet(P)), 0)
    yield Row("the reward that is largest there", 0, bradley_terry.fit(P * (1 - np.eye(3))).argmax(), 0.5, holds=False)


@entry("A cycle: DPO stays at the reference, self-play goes around Nash")
def cycle() -> Iterator[Row]:
    """Self-play is SPPO's iteration, η = ½, from the reference: it leaves Nash, and its mean comes near."""
    P = np.array([[0.5, 0.8, 0.2], [0.2, 0.5, 0.8], [0.8, 0.2, 0.5]])
    ref = np.array([0.5, 0.3, 0.2])
    found = descended(ref, P * (1 - np.eye(3)) / 6, DPO(beta=0.5))
    yield Row("max |π - π_ref| of DPO", 0, abs(found - ref).max(), 1e-9)
    nash = voting.nash(P)
    yield Row("Nash: max |π - uniform|", 0, abs(nash - FLAT).max(), 1e-9)
    path, pi = [ref], ref
    for _ in range(2000):
        pi = pi * np.exp(0.5 * (P @ pi))
        pi = pi / pi.sum()
        path.append(pi)
    yield Row("2,000 steps of self-play: max |difference|", 0,
              abs(voting.self_play(P, ref, 0.5, 2000) - path).max(), 1e-9)
    yield Row("those on which KL(Nash || π) fell", 0, (np.diff(-np.log(path).mean(axis=1)) < 0).sum(), 0)
    yield Row("by how much the best answer beats their mean", 0, (P @ np.mean(path, axis=0)).max() - 0.5, 0.01)
    yield Row("by how much it beats the last", 0, (P @ path[-1]).max() - 0.5, 0.01, holds=False)
    tau, pi = 0.5, ref
    for _ in range(3000):  # the fixed point by damped iteration
        pi = softmax(0.5 * np.log(pi) + 0.5 * (np.log(ref) + P @ pi / tau))
    yield Row("regularized Nash, τ = 0.5: max |difference|", 0, abs(voting.regularized_nash(ref, P, tau) - pi).max(),
              1e-9)


@entry("Mixed samplers make plain descent Newton's method")
def samplers() -> Iterator[Row]:
    """Pairs weighted by 1/(σ(m)σ(-m)) of the current policy, step Z/(β²K): errors square. Shi et al. 2024,
    arXiv:2409.19605.
    """
    r, beta = np.array([0.9, 0.4, 0.1, -0.5, -0.9]), 1.0
    P, u, errors = expit(r[:, None] - r), np.zeros(5), []
    for _ in range(5):
        mixed = population.mixed_pairs(u, beta)
        u = u - mixed.step * population.gradient(u, mixed.weight * P, beta)
        errors.append(abs((u - u.mean()) - (r - r.mean()) / beta).max())
    yield Row("error after 5 steps", 0, errors[-1], 1e-12)
    yield Row("log error(4)/log error(3): 2", 2, np.log(errors[3]) / np.log(errors[2]), 0.5)
    u = np.zeros(5)
    rate = population.linear_rate(population.hessian(r, population.bradley_terry_wins(r), beta))
    for _ in range(5):
        u = u - rate.best_step * population.gradient(u, population.bradley_terry_wins(r), beta)
    yield Row("uniform pairs at the best step", 0, abs(u - r / beta).max(), 1e-6, holds=False)
