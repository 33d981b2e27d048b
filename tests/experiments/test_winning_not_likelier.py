"""Winning is not being likelier: each claim can fail; the numbers are those of loops and programs."""

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import linprog, minimize
from scipy.special import expit, log_softmax, softmax

import dpo_numpy as dn
from analytic import metrics
from toy_models import NGram, Tabular, bandit
from toy_models.experiments import winning_not_likelier as experiment
from toy_models.experiments.winning_not_likelier import Config

SMALL = Config(replicates=3, responses=4, pairs=(2, 6), table_steps=40, problems=3, longest=2, steps=30)


@pytest.fixture(scope="module")
def small():
    return experiment.run(SMALL)


def changed(result, name, at, value):
    found = np.array(result[name], copy=True)
    found[at] = value
    return {**result, name: found}


#: the beginning of a claim's name; what is put in the place of a measurement
BROKEN = {
    "below the crossover": lambda r: changed(r, "ratio", (3, 0), 0.1),
    "above the crossover": lambda r: changed(r, "ratio", (-3, 0), -0.1),
    "descent on all pairs": lambda r: changed(r, "trained", 1, -12.9),
    "random problems": lambda r: {**r, "below": np.array(0.9)},
    "shared features": lambda r: changed(r, "feature_rates", (1, 0), 0.5),
    "a memoryless model": lambda r: {**r, "language_chosen": np.array(0.5)},
    "where p(a) + p(end)": lambda r: {**r, "twin_chosen": np.array(-0.5)},
    "a bigram, no context twice": lambda r: changed(r, "bigram_wrong", (2, 0), 1),
    "a bigram that comes back": lambda r: changed(r, "bigram_wrong", (slice(None), 1), 0),
    "tables of one pair": lambda r: changed(r, "fell", (4, 0), 1.0),
    "tables of several": lambda r: changed(r, "fell", (slice(0, None, 2), slice(1, None)), 0.0),
    "DPO + α NLL lifts": lambda r: {**r, "rpo_chosen": np.array(-0.1)},
    "DPO + α NLL leaves π*": lambda r: {**r, "rpo_regret": np.array(0.01)},
    "no remedy": lambda r: changed(r, "dpop_curve_chosen", 2, 0.2),
    "DPOP stays": lambda r: {**r, "leaves": np.array(1.01)},
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_claim_can_fail_alone(name, result):
    found = experiment.claims(BROKEN[name](result))
    failed, = (key for key, claim in found.items() if not claim.holds)
    assert failed.startswith(name)


def test_there_is_a_way_to_break_every_claim(result):
    found = experiment.claims(result)
    assert [key for key in found if sum(key.startswith(name) for name in BROKEN) != 1] == []


# ---- the optimum

def test_known_figures(result):
    for name, golden, digits in (("crossover", 1.15677, 5e-6), ("crossover_distinct", 0.71162, 5e-6),
                                 ("chosen", -6.18, 5e-3), ("rejected", -11.62, 5e-3),
                                 ("chosen_distinct", -4.82, 5e-3), ("rejected_distinct", -12.98, 5e-3)):
        assert result[name] == pytest.approx(golden, abs=digits), name
    assert result["crossover_little"] == pytest.approx(1, abs=1e-7)
    assert_allclose(result["feature_rates"], [[0.25, -0.75, 2.25], [-0.5, -1.5, 1.5]], rtol=0, atol=1e-14)
    assert result["rate"][0, 0] == pytest.approx(-0.715, abs=1e-14)
    assert_allclose(result["rate"][:, 0], result["rate_theory"], rtol=0, atol=1e-14)
    assert experiment._at_the_optimum(Config(reward=(1e-4, 0.0, -1e-4)))["crossover_distinct"] == pytest.approx(2 / 3)


def test_mean_log_ratios_are_those_of_an_enumeration(result):
    r = np.array([1.0, 0.0, -1.0])
    for k, beta in ((0, 0.03), (25, experiment.BETAS[25])):
        u = r / beta - np.log(np.exp(r / beta).mean())
        chosen = sum(expit(r[i] - r[j]) * u[i] + expit(r[j] - r[i]) * u[j] for i, j in product(range(3), repeat=2)) / 9
        assert result["ratio"][k, 0] == pytest.approx(chosen, abs=1e-12)




@pytest.mark.parametrize("sharp", [0.0, 0.7, -0.5, 5.0, -5.0])
def test_the_threshold_of_dpop_is_that_of_a_linear_program(sharp):
    """max (c - l)·d over π_ref·d = 0 and Σ c max(0, -d) <= 1, d = up - down"""
    found = experiment._at_the_optimum(Config(reward=(1.0, 0.3, -0.2, -1.0), sharp=sharp))
    r = np.array([1.0, 0.3, -0.2, -1.0])
    ref = softmax(sharp * r)
    c, lost = metrics.pairs(ref, r, distinct=True)
    best = linprog(-np.concatenate([c - lost, lost - c]), A_ub=[np.concatenate([np.zeros(4), c])], b_ub=[1],
                   A_eq=[np.concatenate([ref, -ref])], b_eq=[0])
    assert found["threshold"] == pytest.approx(-best.fun, rel=1e-8)
    assert found["leaves"] == pytest.approx(1, abs=1e-4)


def test_the_optimum_of_dpop_is_below_all_that_a_simplex_finds(rng):
    r, beta, lam = np.array([1.0, 0.0, -1.0]), 0.5, 2.0
    ref, pairs = np.full(3, 1 / 3), bandit([r]).population()
    wins = np.zeros((3, 3))
    wins[*pairs.index.T] = pairs.weight
    loss = dn.LOSSES["dpop"](beta=beta, lam=lam)

    def value(x):
        log_p = log_softmax([*x, 0.0])
        return float(pairs.weight @ loss(log_p[pairs.index], ref_logp=np.log(ref)[pairs.index])[0])

    found = experiment._dpop(ref, wins, beta, lam)
    at = np.log(found / found[2])[:2]
    ends = [minimize(value, start, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 2000})
            for start in (np.zeros(2), at, rng.normal(size=2))]
    assert value(at) <= min(end.fun for end in ends) + 1e-12
    assert_allclose(at, min(ends, key=lambda end: end.fun).x, rtol=0, atol=1e-4)
    assert abs(at).max() > 0.1


def test_from_the_threshold_on_dpop_is_the_reference_whatever_beta(result):
    assert result["dpop_chosen"] == pytest.approx(0, abs=1e-9)  # λ = 50, λ₀ = 6.3
    assert result["dpop_regret"] == pytest.approx(result["reference_regret"], abs=1e-9)
    other = experiment._at_the_optimum(Config(beta=1.0, lam=5.0))
    assert other["threshold"] == pytest.approx(result["threshold"], rel=1e-12)
    assert other["dpop_regret"] < other["reference_regret"] - 1e-3


def test_training_on_dpop_with_steps_that_shrink_stays_at_the_reference():
    policy, start, pairs = Tabular(3), {"W": np.zeros((1, 3))}, bandit([[1.0, 0.0, -1.0]]).population()
    told = pairs.with_reference(policy, start)
    moved = {}
    for lam in (50.0, 2.0):
        *_, last = dn.train(policy, start, [told] * 400, dn.LOSSES["dpop"](beta=0.5, lam=lam),
                            dn.sgd(lambda step: 2 / (1 + step / 10)))
        moved[lam] = abs(log_softmax(last.params["W"][0]) + np.log(3)).max()
    # a step is at most 2/41 β (1 + λ)/2
    assert moved[50.0] < 2 / 41 * 0.5 * 51 / 2
    assert moved[2.0] > 0.3 > moved[50.0]


def test_likelihood_alone_lifts_the_chosen_to_the_bound(result):
    strong = experiment._at_the_optimum(Config(alpha=1e4))
    assert strong["rpo_chosen"] == pytest.approx(strong["ceiling"], abs=1e-6)
    weak = experiment._at_the_optimum(Config(alpha=1e-7))
    assert weak["rpo_chosen"] == pytest.approx(result["chosen_distinct"], abs=1e-3)
    assert weak["rpo_regret"] == pytest.approx(0, abs=1e-9)
    assert result["rpo_apart"] < 1e-12


# ---- trainings

def test_the_memoryless_path_is_that_of_a_loop(small):
    p = np.array([0.05, 0.05, 0.9])
    W, start = np.log(p), np.log(p)
    for step in range(30):
        q = softmax(W)
        log_q = np.log(q)
        assert_allclose(small["path"][0, step], [log_q[0], log_q[0] + log_q[1], log_q[2]], rtol=0, atol=1e-12)
        margin = -(log_q[1] - start[1])  # log π("") - log π("a"), less the reference's
        W = W + 0.5 * expit(-0.5 * margin) * (q - [0, 1, 0])
    assert small["language_chosen"] == pytest.approx(np.log(softmax(W)[0] / 0.05), abs=1e-12)


def test_with_likelihood_it_is_that_of_a_loop_too(small):
    p = np.array([0.05, 0.05, 0.9])
    W = np.log(p)
    for _ in range(30):
        q = softmax(W)
        margin = -np.log(q[1] / 0.05)
        W = W + 0.5 * expit(-0.5 * margin) * (q - [0, 1, 0]) + (np.array([1, 0, 0]) - q)
    assert small["language_nll"] == pytest.approx(np.log(softmax(W)[0] / 0.05), abs=1e-12)


def test_shares_of_tables_are_those_of_loops(small):
    """One table after the other, one pair after the other"""
    for replicate in range(3):
        rng = np.random.default_rng([0, replicate])
        for column, n in enumerate((2, 6)):
            r, first = rng.normal(size=4), rng.integers(4, size=n)
            second = (first + rng.integers(1, 4, size=n)) % 4
            wins = rng.random(n) < expit(r[first] - r[second])
            ref = rng.dirichlet(np.ones(4))
            labelled = [(i, j) if won else (j, i) for i, j, won in zip(first, second, wins, strict=True)]
            W, shares = np.log(ref), []
            for _ in range(40):
                u, up = log_softmax(W) - np.log(ref), np.zeros(4)
                for w, lost in labelled:
                    push = 0.1 * expit(-0.1 * (u[w] - u[lost])) / n
                    up[w] += push
                    up[lost] -= push
                W = W + 50 * up
                shares.append(np.mean([log_softmax(W)[w] < np.log(ref[w]) for w, _ in labelled]))
            assert small["fell_first"][replicate, column] == shares[0]
            assert small["fell"][replicate, column] == shares[-1]
            change = np.mean([log_softmax(W)[w] - np.log(ref[w]) for w, _ in labelled])
            assert small["change"][replicate, column] == pytest.approx(change, abs=1e-10)


def test_bigram_counts_are_those_of_contexts_one_by_one(small):
    """Without a context that comes back: 1 - p_w + p_l or 0 where both have been, |e - p|² or 0 where one has"""
    policy, strings = NGram(vocab=4), [y for n in range(3) for y in product((1, 2, 3), repeat=n)]
    rngs = [np.random.default_rng([0, replicate]) for replicate in range(3)]
    experiment._tables(SMALL, rngs)  # which draw first
    for replicate, rng in enumerate(rngs):
        p = softmax(policy.init(rng)["W"], axis=1)

        def score(y, p=p):
            s = np.zeros((4, 4))
            for c, v in zip((0, *y), (*y, 0), strict=True):
                s[c, v] += 1
                s[c] -= p[c]
            return s

        wrong = [0, 0]
        for w, lost in product(strings, repeat=2):
            if w == lost:
                continue
            a, b = score(w), score(lost)
            again = len(set(w)) < len(w) or len(set(lost)) < len(lost)
            rate = (a * (a - b)).sum()
            if not again:
                follows = [dict(zip((0, *y), (*y, 0), strict=True)) for y in (w, lost)]
                by_context = sum(
                    (follows[1].get(c) != v) * (1 - p[c, v] + p[c, follows[1][c]]) if c in follows[1]
                    else ((np.eye(4)[v] - p[c]) ** 2).sum() for c, v in follows[0].items())
                assert rate == pytest.approx(by_context, abs=1e-12)
            wrong[again] += rate < 0 or (b * (a - b)).sum() > 0
        assert small["bigram_wrong"][replicate].tolist() == wrong
    assert small["bigram_pairs"].tolist() == [10 * 9, 13 * 12 - 10 * 9]


@pytest.mark.slow
@pytest.mark.parametrize(("responses", "n"), [(5, 10), (10, 30), (10, 10), (30, 60)])
def test_most_chosen_responses_of_sparse_tables_end_below_the_reference(responses, n):
    rngs = [np.random.default_rng([8, replicate]) for replicate in range(32)]
    found = experiment._tables(Config(responses=responses, pairs=(n,), table_steps=2000), rngs)
    error = found["fell"].std(ddof=1) / np.sqrt(len(found["fell"]))
    assert found["fallen"] - 3 * error > 0.4
    assert found["fell_first"].mean() + 3 * error < found["fallen"]


# ---- other settings

@pytest.mark.parametrize("setting", [
    {"beta": 3.0, "sharp": 1.0, "lam": 1.0, "pairs": (1,)},
    {"reward": (2.0, 1.0, 0.3, 0.0, -1.0), "beta": 0.5, "pairs": (3, 5), "p_end": 0.4, "p_a": 0.4, "seed": 3},
    {"reward": (1.0, 1.0, 0.0), "sharp": -1.0, "pairs": (1, 2), "steps": 1, "table_steps": 1},
])
def test_other_settings(setting):
    found = experiment.run(Config(**{**vars(SMALL), **setting}))
    claims = experiment.claims(found)
    assert {key for key, claim in claims.items() if not claim.evaluated} <= {
        key for key in claims if key.startswith("tables of")}
    assert np.isfinite(found["ratio"]).all() and np.isfinite(found["path"]).all()
    assert found["fell"].shape == (3, len(found["pairs"]))
    assert (found["chosen"] < 0) == (found["beta"] < found["crossover"])
    assert claims["no remedy lifts the chosen by more than KL(c || π_ref): largest excess, nats"].holds
    assert claims["a bigram, no context twice: pairs whose chosen falls or whose rejected rises at first"].holds


def test_what_is_not_drawn_decides_on_nothing():
    found = experiment.claims(experiment.run(Config(**{**vars(SMALL), "pairs": (1,)})))
    name, = (key for key in found if key.startswith("tables of several"))
    assert not found[name].evaluated and not found[name].holds


@pytest.mark.parametrize(("setting", "message"), [
    ({"beta": 0.0}, "beta is 0.0; expected a finite number above 0"),
    ({"lam": -1.0}, "lam is -1.0; expected a finite number, at least 0"),
    ({"reward": (1.0, 1.0)}, "reward holds 1.0 alone; expected two that differ"),
    ({"reward": (30.0, 0.0)}, "reward spans 30 at beta 0.1 and sharp 0; expected at most 20, 700 beta and 10/sharp"),
    ({"beta": 0.001}, "reward spans 2 at beta 0.001 and sharp 0; expected at most 20, 700 beta and 10/sharp"),
    ({"sharp": -6.0}, "reward spans 2 at beta 0.1 and sharp -6; expected at most 20, 700 beta and 10/sharp"),
    ({"p_end": 0.5, "p_a": 0.6}, "p_end and p_a are 0.5 and 0.6; expected a sum below 1"),
    ({"pairs": (0,)}, "pairs holds 0; expected a whole number, at least 1"),
    ({"replicates": 1}, "replicates is 1; expected a whole number, at least 2"),
])
def test_a_config_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Config(**setting)
