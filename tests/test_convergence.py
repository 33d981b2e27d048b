"""check_convergence: each verdict on a world made for it, beside a twin that converges; its rates, measured."""

import re

import numpy as np
import pytest

import dpo_numpy as dn
from analytic import graph, loglinear, optimum, population
from toy_models import GPT, LogLinear, NGram, Tabular, World, bandit, strings
from toy_models.experiments import check_convergence

ROW = np.array([[1.0, 0.0, -1.0]])
FLAT = {"W": np.zeros((1, 3))}
TABLE = Tabular(vocab=3)
DPO = dn.LOSSES["dpo"](beta=0.5)
# a bigram, begin, a and b by end, a and b; a reward that is a sum over its tokens
REF = np.array([[0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.4, 0.2, 0.4]])
REWARD = np.array([[0.0, 0.5, -0.5], [0.3, -0.4, 0.2], [0.0, 0.3, -0.6]])


def local(y):
    return sum(REWARD[c, v] for c, v in zip([0, *y], y, strict=False))


def test_a_table_converges_at_the_rate_of_the_comparison_graph():
    reward, ref = np.array([[2.0, 0.5, 0.0, -1.0]]), np.array([[0.1, 0.2, 0.3, 0.4]])
    found = check_convergence(Tabular(vocab=4), bandit(reward), DPO, 0.5, {"W": np.log(ref)}, lr=3.0)
    assert found.converged
    best = optimum.boltzmann(ref, reward, 0.5)
    np.testing.assert_allclose(found.optimum, best, rtol=1e-12)
    np.testing.assert_allclose(found.policy, best, atol=2e-4)  # KL 1e-8 is 1e-4 in probabilities
    np.testing.assert_allclose(found.minimum, best, atol=1e-12)
    # independent of the training and of the Hessian by complex steps: the closed form
    wins = population.bradley_terry_wins(reward[0])
    rate = population.linear_rate(population.hessian(reward[0] / 0.5, wins, 0.5))
    assert found.predicted == pytest.approx(rate.at(3.0), rel=1e-10)
    assert found.limit == pytest.approx(rate.limit, rel=1e-10)
    assert found.measured == pytest.approx(rate.at(3.0), rel=1e-3)
    assert found.loss == pytest.approx(population.entropy(wins), rel=1e-6)


def test_a_language_model_converges_where_its_class_holds_the_optimum_and_not_where_it_does_not():
    world = strings(vocab=3, max_length=4, reward=local)
    found = check_convergence(NGram(vocab=3), world, DPO, 0.5, {"W": np.log(REF)})
    assert found.converged
    assert found.measured == pytest.approx(found.predicted, rel=1e-3)
    short = check_convergence(NGram(vocab=3, order=1), world, DPO, 0.5, {"W": np.log(REF[:1])}, tolerance=1e-6)
    assert short.verdict == "not realisable"
    assert short.measured == pytest.approx(short.predicted, rel=1e-3)
    # the nearest of the class is nearer than what the loss finds, and no random one is nearer still
    nearest = optimum.kl(short.best, short.optimum)
    assert 0.1 < nearest < optimum.kl(short.minimum, short.optimum) < short.kl[0]
    p = np.exp(np.random.default_rng(0).normal(size=(200, 3)) * 2)
    y = world.responses
    words = np.log(p / p.sum(axis=1, keepdims=True)) @ np.stack(
        [((y.tokens == v) & y.mask).sum(axis=1) for v in range(3)])
    others = np.exp(words) / np.exp(words).sum(axis=1, keepdims=True)
    assert (optimum.kl(others, short.optimum) > nearest).all()


def test_what_is_never_compared_is_named_and_ends_where_the_graph_says():
    reward = np.array([[1.0, 0.0, -1.0, 2.0]])
    ref = np.array([[0.4, 0.3, 0.2, 0.1]])
    found = check_convergence(Tabular(vocab=4), bandit(reward), DPO, 0.5, {"W": np.log(ref)}, mu=[1, 1, 0, 0])
    assert found.verdict == "disconnected"
    assert "responses [0, 1] and [2] and [3] are never compared" in found.reason
    assert found.components.tolist() == [0, 0, 2, 3]
    settled = graph.settled_reward(reward[0], [[0, 1, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4])
    np.testing.assert_allclose(found.policy, optimum.boltzmann(ref, settled[None], 0.5), atol=1e-10)
    # a chain of comparisons is enough
    chain = Tabular(vocab=4)
    assert check_convergence(chain, bandit(reward), DPO, 0.5, {"W": np.log(ref)}, mu=[1, 1e-2, 1, 1]).converged


def test_components_are_a_prompts_own():
    world = bandit([[1.0, 0.0, -1.0], [0.0, 1.0, 2.0]])
    policy, reference = Tabular(vocab=3, prompts=2), {"W": np.zeros((2, 3))}
    found = check_convergence(policy, world, DPO, 0.5, reference, mu=[1, 1, 1, 1, 1, 0])
    assert found.verdict == "disconnected"
    assert "responses [3, 4] and [5] are never compared" in found.reason
    assert check_convergence(policy, world, DPO, 0.5, reference).converged


def test_prompts_may_have_different_numbers_of_responses():
    tokens = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]])
    world = World(dn.Responses(tokens, np.tile([False, True], (5, 1))), tokens[:, 0], [1.0, 0.0, -1.0, 0.0, 1.0])
    reference = {"W": np.array([[0.0, 0.0, 0.0], [0.0, 0.0, -np.inf]])}
    found = check_convergence(Tabular(vocab=3, prompts=2), world, DPO, 0.5, reference)
    assert found.converged
    np.testing.assert_allclose(found.minimum[1], [1 / (1 + np.exp(2)), 1 / (1 + np.exp(-2)), 0], atol=1e-12)


def test_a_step_too_large_is_told_its_limit_and_a_step_below_it_converges():
    limit = check_convergence(TABLE, bandit(ROW), DPO, 0.5, FLAT, steps=1).limit
    over = check_convergence(TABLE, bandit(ROW), DPO, 0.5, FLAT, lr=1.5 * limit, steps=300)
    assert over.verdict == "step too large"
    assert f"{limit:.4g} at the minimum" in over.reason
    # next to the reference, where the loss itself hardly tells whether a step is too large
    close = check_convergence(TABLE, bandit(1e-3 * ROW), DPO, 0.5, FLAT, steps=1).limit
    near = check_convergence(TABLE, bandit(1e-3 * ROW), DPO, 0.5, FLAT, lr=1.05 * close, steps=300)
    assert near.verdict == "step too large"
    under = check_convergence(TABLE, bandit(1e-3 * ROW), DPO, 0.5, FLAT, lr=0.95 * close, steps=300)
    assert under.converged
    assert under.predicted == pytest.approx(0.9, rel=1e-9)


def test_too_few_steps_are_told_how_many_would_do():
    few = check_convergence(TABLE, bandit(ROW), DPO, 0.5, FLAT, lr=1.0, steps=20)
    assert few.verdict == "too few steps"
    needed = int(re.search(r"([\d,]+) would do", few.reason)[1].replace(",", ""))
    assert check_convergence(TABLE, bandit(ROW), DPO, 0.5, FLAT, lr=1.0, steps=needed).converged
    assert not check_convergence(TABLE, bandit(ROW), DPO, 0.5, FLAT, lr=1.0, steps=needed // 3).converged


@pytest.mark.parametrize(("name", "hyper", "flip", "verdict"), [
    ("dpo", {"beta": 0.5}, 0.2, "another optimum"),
    ("rdpo", {"beta": 0.5, "eps": 0.2}, 0.2, "converged"),
    ("ipo", {"tau": 0.5}, 0.0, "another optimum"),
    ("simpo", {}, 0.0, "another optimum"),
    ("pl_dpo", {"beta": 0.5}, 0.0, "converged"),
])
def test_what_other_losses_converge_to(name, hyper, flip, verdict):
    found = check_convergence(TABLE, bandit(ROW), dn.LOSSES[name](**hyper), 0.5, FLAT, flip=flip)
    assert found.verdict == verdict
    assert found.measured == pytest.approx(found.predicted, abs=2e-3) or found.predicted < 1e-9


def test_a_loss_without_a_minimum_is_told_so():
    certain = bandit([[9.0, 0.0, -9.0]])  # surer than labels of which a fifth is flipped can be
    found = check_convergence(TABLE, certain, dn.LOSSES["rdpo"](beta=0.5, eps=0.2), 0.5, FLAT, steps=200)
    assert found.verdict == "no minimum"
    assert np.isnan(found.minimum).all()
    assert np.isnan(found.predicted)
    flipped = check_convergence(TABLE, certain, dn.LOSSES["rdpo"](beta=0.5, eps=0.2), 0.5, FLAT, flip=0.2, most=10)
    assert flipped.verdict == "too few steps"


@pytest.mark.parametrize(("loss", "lr"), [
    (dn.LOSSES["hinge"](beta=0.5), 1.0),
    (dn.LOSSES["slic"](), None),
    (dn.LOSSES["dpop"](beta=0.5), 1e-3),
])
def test_a_minimum_on_an_edge_is_not_taken_for_none(loss, lr):
    """Each of these has a minimum, where its slope jumps: Newton's method says nothing of it."""
    found = check_convergence(TABLE, bandit(ROW), loss, 0.5, FLAT, lr=lr, steps=50)
    assert found.verdict == "undecided"
    assert "the search for it ended at" in found.reason
    assert np.isnan(found.minimum).all()
    assert np.isnan([found.predicted, found.limit]).all()


def test_a_loss_may_lead_far_from_the_optimum_and_the_class_still_hold_it():
    """The search for the policy nearest to π* is not lost where this loss ends: a response has next to nothing."""
    world, ref = bandit([[1.0, 0.0, 0.4]]), np.array([[0.2, 0.5, 0.3]])
    loss = dn.LOSSES["aot_unpaired"](beta=0.5)
    found = check_convergence(TABLE, world, loss, 0.5, {"W": np.log(ref)}, mu=ref[0], steps=500)
    assert found.verdict == "another optimum"
    assert found.minimum.min() < 1e-6
    np.testing.assert_allclose(found.best, found.optimum, atol=1e-4)


def test_more_parameters_than_responses():
    """A transformer holds π* many times over; the loss is nearly flat along most of what it can do, and Newton's steps
    lead away. But where the search began to stray, no more than this was left.
    """
    policy = GPT(vocab=3, context=6, width=3, heads=1, depth=1, hidden=3)
    world = strings(3, 4, lambda y: sum(v == 1 for v in y) - 0.5 * len(y))
    found = check_convergence(policy, world, DPO, 0.5, policy.init(np.random.default_rng(2)), steps=50)
    assert found.verdict == "too few steps"
    np.testing.assert_allclose(found.minimum, found.optimum, atol=1e-4)


def test_features_meet_the_closed_form_of_a_misspecified_class():
    features, reward = np.array([[1.0], [-1.0], [0.0]]), np.array([1.0, 2.0, 0.0])
    found = check_convergence(LogLinear(features), bandit(reward[None]), DPO, 0.5, {"theta": np.zeros(1)})
    assert found.verdict == "not realisable"
    theta = loglinear.newton(features, population.bradley_terry_wins(reward), 0.5)
    np.testing.assert_allclose(found.minimum[0], loglinear.policy(theta, features, np.full(3, 1 / 3)), atol=1e-12)


def test_the_callers_distance_is_recorded():
    found = check_convergence(TABLE, bandit(ROW), DPO, 0.5, FLAT, distance=lambda params: float(params["W"][0, 0]))
    assert len(found.distance) == len(found.step) == len(found.kl)
    assert found.distance[0] == 0
    assert found.distance[-1] == found.params["W"][0, 0]
    plain = check_convergence(TABLE, bandit(ROW), DPO, 0.5, FLAT)
    np.testing.assert_array_equal(plain.distance, plain.kl)


def test_its_string_is_a_report():
    lines = str(check_convergence(TABLE, bandit(ROW), DPO, 0.5, FLAT)).splitlines()
    assert [line.split("  ")[0].split(":")[0] for line in lines] == ["converged", "KL(π || π*)", "error a step"]


@pytest.mark.parametrize(("changed", "message"), [
    ({"lr": 0.0}, "lr is 0.0; expected a finite number above 0"),
    ({"beta": -1.0}, "beta is -1.0; expected a finite number above 0"),
    ({"loss": dn.LOSSES["hinge"](beta=0.5)}, "lr is None, and loss hinge(beta=0.5) has no curvature at the reference"),
    ({"loss": dn.LOSSES["kto"](beta=0.5)}, "expected (..., B, 1)"),
    ({"loss": dn.LOSSES["odpo"](beta=0.5)}, "needs score, which was not given"),
    ({"flip": 2.0}, "flip is 2.0; expected a probability"),
])
def test_what_cannot_be_checked_is_named(changed, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_convergence(TABLE, bandit(ROW), reference=FLAT, **{"loss": DPO, "beta": 0.5, **changed})


def test_a_policy_too_large_for_its_hessian_is_refused(rng):
    policy = GPT(vocab=3, context=8)
    with pytest.raises(ValueError, match=re.escape("expected at most 4,000: each takes a pass")):
        check_convergence(policy, strings(3, 3, len), DPO, 0.5, policy.init(rng))
