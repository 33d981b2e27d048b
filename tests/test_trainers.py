"""Expectations are exact: every group that could be drawn is, and counts by its probability."""

import re
from itertools import islice, repeat

import numpy as np
import pytest
from test_rollouts import Forced, groups

import dpo_numpy as dn
from analytic import bradley_terry, ngram, optimum, population, temperature
from dpo_numpy import trainers
from dpo_numpy.check import check_gradient
from dpo_numpy.preferences import Preferences
from dpo_numpy.rollouts import Task, rollout
from toy_models import GPT, LogLinear, NGram, Tabular, bandit, brackets, modular_sums, strings
from toy_models.experiments import train_exact_gradient

EPS = np.finfo(float).eps
P, REF = np.array([0.5, 0.2, 0.3]), np.array([0.1, 0.6, 0.3])
REWARD, BETA = np.array([1.0, 0.25, -2.0]), 0.7
TABLE, NOW, START = Tabular(3), {"W": np.log(P)[None]}, {"W": np.log(REF)[None]}
TASK = bandit(REWARD[None]).task()
SGD = dn.sgd(lr=1.0)


def expected(train, size, **options):
    """E of the first step's gradient, over all groups of `size` of three responses"""
    total = np.zeros(3)
    for _, probability, draws in groups(P, size):
        step = next(train(TABLE, NOW, TASK, SGD, Forced(draws), reference=START, group=size, **options))
        total += probability * step.grad["W"][0]
    return total


def ppo(policy, params, task, optimizer, rng, *, critic_params=None, critic_optimizer=SGD, **options):
    """With a critic of the same kind"""
    critic_params = policy.init(np.random.default_rng(5)) if critic_params is None else critic_params
    return dn.train_ppo(policy, params, policy, critic_params, task, optimizer, critic_optimizer, rng, **options)


# ---- which way a step goes on average

ASCENT = optimum.gradient(P, REF, REWARD, BETA)  # of J


@pytest.mark.parametrize("size", [2, 3])
def test_rloo_is_of_J(size):
    np.testing.assert_allclose(expected(dn.train_rloo, size, beta=BETA), -ASCENT, rtol=64 * EPS)


@pytest.mark.parametrize("size", [2, 3])
def test_grpo_is_of_J_but_for_a_factor_if_nothing_is_divided(size):
    grad = expected(dn.train_grpo, size, beta=BETA, scale="none", loss=dn.SURROGATES["dr_grpo"](max_length=1))
    np.testing.assert_allclose(grad, -ASCENT * (size - 1) / size, rtol=64 * EPS)
    k2 = dn.SURROGATES["grpo"](beta=BETA, estimator="k2")  # in the loss it is not divided by K
    grad = expected(dn.train_grpo, size, scale="none", loss=k2)
    of_reward = P * (REWARD - P @ REWARD)
    np.testing.assert_allclose(grad, -of_reward * (size - 1) / size - (ASCENT - of_reward), rtol=64 * EPS)


def test_grpo_as_published_is_not():
    """Its deviation makes it another direction, and k3 is of the KL the other way around."""
    for options in ({"beta": BETA, "loss": dn.SURROGATES["grpo"](beta=0.0)},
                    {"scale": "none", "loss": dn.SURROGATES["grpo"](beta=BETA)}):
        grad = -expected(dn.train_grpo, 3, **options)
        off = grad - ASCENT * (grad @ ASCENT) / (ASCENT @ ASCENT)
        assert np.linalg.norm(off) > 0.05 * np.linalg.norm(grad)


@pytest.mark.parametrize("critic", [[3.0, -1.0, 0.4], [0.0, 0.0, 0.0]])
@pytest.mark.parametrize("lam", [0.3, 1.0])
def test_ppo_is_of_J_whatever_the_value_of_the_prompt(critic, lam):
    grad = expected(ppo, 2, beta=BETA, lam=lam, critic_params={"W": np.array([critic])})
    np.testing.assert_allclose(grad, -ASCENT, rtol=64 * EPS)


@pytest.mark.parametrize("size", [2, 3])
def test_online_dpo_is_of_the_pairs_that_the_policy_makes(size):
    """Any two of a group are independent draws: the population's gradient, i and j being met with 2 π_i π_j"""
    wins = 2 * P[:, None] * P * bradley_terry.probabilities(REWARD)
    of_u = population.gradient(np.log(P / REF), wins * (1 - np.eye(3)), BETA)
    grad = expected(dn.train_online_dpo, size, loss=dn.LOSSES["dpo"](beta=BETA))
    np.testing.assert_allclose(grad, of_u - P * of_u.sum(), rtol=128 * EPS, atol=4 * EPS)


def test_best_of_n_is_of_its_law():
    total = np.zeros(3)
    for _, probability, draws in groups(REF, 2):
        step = next(dn.train_best_of_n(TABLE, NOW, TASK, SGD, Forced(draws), n=2, reference=START))
        total += probability * step.grad["W"][0]
    law = np.array([1 - 0.9**2, 0.9**2 - 0.3**2, 0.3**2])  # rewards fall from the first to the last
    np.testing.assert_allclose(total, P - law, rtol=64 * EPS)


@pytest.mark.parametrize("train", [dn.train_rloo, ppo], ids=["rloo", "ppo"])
def test_of_strings_too(train):
    """A bigram, all strings: 12,000 responses against the sum over all; 4 standard errors of 40 batches, each entry"""
    policy, rng = NGram(3), np.random.default_rng(0)
    params, reference = ({"W": rng.normal(size=(3, 3)) - [[0.0, 1.0, 1.0]]} for _ in range(2))
    rho = rng.normal(size=(3, 3))
    p, ref = (np.exp(x["W"]) / np.exp(x["W"]).sum(axis=1, keepdims=True) for x in (params, reference))
    task = Task([[0]], lambda responses: dn.reward_model(policy, {"W": rho})(responses), max_length=64)
    options = {"lam": 1.0, "loss": dn.SURROGATES["ppo_clip"](reduction="sequence_sum")} if train is ppo else {}
    # each of the 40 begins again: a step moves the policy
    grads = np.array([next(train(policy, params, task, SGD, rng, group=300, beta=0.4, reference=reference,
                                 **options)).grad["W"] for _ in range(40)])
    error = grads.std(axis=0, ddof=1) / np.sqrt(len(grads))
    exact = -ngram.policy_gradient(p, ref, rho, 0.4)
    assert (abs(grads.mean(axis=0) - exact) < 4 * error).all()
    assert (error < 0.1 * abs(exact).max()).all()


# ---- where it ends

def probabilities(params):
    W = params["W"]
    return np.exp(W) / np.exp(W).sum(axis=-1, keepdims=True)


BEST = optimum.boltzmann(REF, REWARD, BETA)


@pytest.mark.parametrize("size", [2, 5])
def test_online_dpo_stays_at_the_optimum_whatever_it_draws(size):
    """Labels without noise: each pair is where it should be."""
    steps = dn.train_online_dpo(TABLE, {"W": np.log(BEST)[None]}, TASK, SGD, np.random.default_rng(0), group=size,
                                loss=dn.LOSSES["dpo"](beta=BETA), reference=START)
    for step in islice(steps, 20):
        assert abs(step.grad["W"]).max() < 16 * EPS
        np.testing.assert_allclose(probabilities(step.params)[0], BEST, rtol=1e-13)


def test_certain_labels_have_no_optimum():
    steps = dn.train_online_dpo(TABLE, {"W": np.log(BEST)[None]}, TASK, SGD, np.random.default_rng(0), group=5,
                                loss=dn.LOSSES["dpo"](beta=BETA), reference=START, labels="sign")
    last = list(islice(steps, 50))[-1]
    assert optimum.kl(probabilities(last.params)[0], BEST) > 0.1


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_iterative_dpo_divides_beta_by_the_rounds(rounds):
    task = bandit([[0.3, 0.0, -0.2]]).task()
    steps = dn.train_iterative_dpo(TABLE, START, task, dn.sgd(lr=12.0), np.random.default_rng(1), group=60,
                                   loss=dn.LOSSES["dpo"](beta=BETA), epochs=300)
    last = list(islice(steps, 300 * rounds))[-1]
    beta = temperature.trust_region_beta(BETA, rounds)
    best = optimum.boltzmann(REF, [0.3, 0.0, -0.2], beta)
    np.testing.assert_allclose(probabilities(last.params)[0], best, rtol=1e-8)


def test_rso_trains_on_what_it_kept():
    """Labels without noise: between responses that were kept, the optimum's ratios; the others' mean logit stays."""
    step = next(islice(dn.train_rso(TABLE, START, TASK, dn.momentum(lr=10.0), np.random.default_rng(2), beta=BETA,
                                    candidates=200, keep=100), 400, None))
    np.testing.assert_allclose(probabilities(step.params)[0], BEST, rtol=1e-8)
    few = bandit(np.array([[1.0, 0.25, -40.0]])).task()  # the last is never kept
    step = next(islice(dn.train_rso(TABLE, START, few, dn.momentum(lr=10.0), np.random.default_rng(2), beta=BETA,
                                    candidates=200, keep=20), 500, None))
    u = step.params["W"][0] - START["W"][0]
    assert u[0] - u[1] == pytest.approx(0.75 / BETA, rel=1e-8)
    assert u[2] == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_rloo_and_ppo_end_near_the_optimum():
    """800 steps of 16 responses, the step falling; the expected squared error of the last is about lr/(2·16)"""
    falling = dn.sgd(lambda step: 1 / (1 + step / 40))
    for train, options in ((dn.train_rloo, {}), (ppo, {"lam": 1.0, "epochs": 1})):
        steps = train(TABLE, START, TASK, falling, np.random.default_rng(3), group=16, beta=BETA, **options)
        last = list(islice(steps, 800))[-1]
        assert optimum.kl(probabilities(last.params)[0], BEST) < 0.003
    assert optimum.kl(REF, BEST) > 0.5


def accuracy(policy, params, task):
    """P(the answer is right), the mean over prompts: a sum over all answers"""
    right = []
    for prompt in task.prompts:
        every = dn.enumerate_responses(policy, prompt, task.max_length)
        logp = dn.read(policy, params, every, np.arange(len(every)), ["logp"])[0]["logp"]
        right.append(np.exp(logp) @ task.reward(every))
    return np.mean(right)


@pytest.mark.parametrize(("policy", "task", "low", "high"), [
    (NGram(5, order=4), modular_sums(3), 0.99, 1.0),
    (NGram(3, order=4), brackets(4, depth=2), 0.99, 1.0),
    (NGram(3, order=2), brackets(4, depth=2), 0.45, 0.5),  # it cannot tell one open bracket from two
], ids=["sums", "brackets", "brackets, short of sight"])
def test_grpo_learns_what_a_rule_can_check(policy, task, low, high):
    """From a uniform policy, which is right once in 25 sums and in 11 brackets; ten seeds differ by 0.003"""
    start = {"W": np.zeros((policy.rows, policy.vocab))}
    assert accuracy(policy, start, task) < 0.1
    steps = dn.train_grpo(policy, start, task, dn.adam(lr=0.06), np.random.default_rng(0), group=32,
                          loss=dn.SURROGATES["grpo"](beta=0.0))
    assert low < accuracy(policy, next(islice(steps, 250, None)).params, task) <= high


def test_a_reward_model_of_a_table_is_the_maximum_likelihood():
    """That of `analytic`, by Newton; and what it makes of it is what DPO makes of the same pairs"""
    pairs = bandit(REWARD[None]).sample(60, np.random.default_rng(0))
    wins = np.zeros((3, 3))
    wins[tuple(pairs.index.T)] = pairs.weight
    table, flat = Tabular(3), {"W": np.zeros((1, 3))}
    *_, step = trainers.train_reward_model(table, flat, [pairs] * 300, dn.momentum(lr=2.0))
    np.testing.assert_allclose(step.params["W"][0], bradley_terry.fit(wins), atol=1e-9)
    told = pairs.with_reference(TABLE, START)
    *_, by_dpo = dn.train(TABLE, START, repeat(told, 300), dn.LOSSES["dpo"](beta=BETA), dn.momentum(lr=2 / BETA**2))
    of_model = optimum.boltzmann(REF, dn.reward_model(table, step.params)(pairs.responses)[:3], BETA)
    np.testing.assert_allclose(probabilities(by_dpo.params)[0], of_model, atol=1e-9)


def test_a_reward_models_sum_may_be_held():
    """The gradient is that of the loss with that coefficient."""
    pairs, params = bandit(REWARD[None]).population(), {"W": np.array([[1.0, 2.0, 3.0]])}
    step = next(dn.train_reward_model(TABLE, params, [pairs], SGD, center=0.2))
    value, grad = dn.value_and_grad(TABLE, params, pairs, dn.LOSSES["bt_rm"](center=0.2))
    assert step.value == value > dn.value_and_grad(TABLE, params, pairs, dn.LOSSES["bt_rm"]())[0] + 1
    np.testing.assert_array_equal(step.grad["W"], grad["W"])


def test_a_reward_model_of_rankings_is_plackett_luce():
    ranking = np.array([[0, 1, 2], [1, 0, 2], [2, 0, 1], [0, 2, 1]])
    batch = Preferences(bandit(REWARD[None]).responses, ranking)
    *_, step = trainers.train_reward_model(TABLE, {"W": np.zeros((1, 3))}, [batch] * 300, dn.momentum(lr=0.5))
    np.testing.assert_allclose(step.params["W"][0], bradley_terry.fit_rankings(ranking), atol=1e-9)


def test_a_reward_model_of_an_ngram_adds_up():
    """Trained on strings of at most three tokens: it is right about longer ones too, up to the constant of a prompt"""
    rho = np.array([[0.0, 1.0, -0.5], [0.5, -1.0, 0.3], [0.0, 0.2, -0.8]])

    def reward(text):
        return float(sum(rho[one, other] for one, other in zip([0, *text[:-1]], text, strict=True)))

    model, world = NGram(3), strings(3, 3, reward)
    *_, step = dn.train_reward_model(model, {"W": np.zeros((3, 3))}, [world.population()] * 2500, dn.momentum(4.0))
    longer = strings(3, 6, reward)
    off = dn.reward_model(model, step.params)(longer.responses) - longer.reward
    np.testing.assert_allclose(off, off[0], atol=1e-6)


# ---- steps

ONLINE = {"rloo": dn.train_rloo, "grpo": dn.train_grpo, "ppo": ppo, "online_dpo": dn.train_online_dpo,
          "iterative_dpo": dn.train_iterative_dpo}
OWN = {**ONLINE, "rso": dn.train_rso, "best_of_n": dn.train_best_of_n}


def small(name):
    """Two steps a rollout, and few responses"""
    options = {"rso": {"candidates": 6, "keep": 3}, "best_of_n": {"n": 3}, "ppo": {"group": 4, "epochs": 2}}
    return options.get(name, {"group": 4, "epochs": 2})


@pytest.mark.parametrize("name", ONLINE)
def test_epochs_are_steps_on_the_same_responses(name):
    steps = list(islice(ONLINE[name](TABLE, START, TASK, dn.sgd(lr=0.1), np.random.default_rng(0), **small(name)), 4))
    assert steps[0].rollout is steps[1].rollout
    assert steps[1].rollout is not steps[2].rollout
    assert steps[2].rollout is steps[3].rollout
    # each rollout is of the policy as it is when drawn
    for step, params in ((steps[0], START), (steps[2], steps[1].params)):
        own = dn.read(TABLE, params, step.rollout.responses, np.arange(4), ["token_logp"])[0]["token_logp"]
        np.testing.assert_array_equal(step.rollout.responses.facts["old_token_logp"], own)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_transformer_in_its_dtype(name, dtype):
    """Several tokens, several prompts; what is given is left as it is"""
    policy, task = GPT(vocab=3, context=12, width=4, heads=2, depth=1, hidden=4), brackets(4, depth=2)
    params = {key: p.astype(dtype) for key, p in policy.init(np.random.default_rng(0)).items()}
    before = {key: p.copy() for key, p in params.items()}
    steps = OWN[name](policy, params, task, dn.sgd(lr=0.1), np.random.default_rng(1), **small(name))
    for step in islice(steps, 3):
        assert {p.dtype for p in step.params.values()} == {g.dtype for g in step.grad.values()} == {np.dtype(dtype)}
        assert all(np.isfinite(g).all() for g in step.grad.values())
    for key, p in params.items():
        np.testing.assert_array_equal(p, before[key])


@pytest.mark.parametrize("name", ONLINE)
def test_it_goes_on_from_a_rollout_as_if_never_stopped(name):
    optimizer = dn.adam(lr=0.05)
    more = {} if name == "iterative_dpo" else {"reference": START}
    more |= {"critic_optimizer": optimizer} if name == "ppo" else {}

    def steps(rng, params=START, **more):
        return ONLINE[name](TABLE, params, TASK, optimizer, rng, **small(name), **more)

    whole = list(islice(steps(np.random.default_rng(7), **more), 6))
    rng = np.random.default_rng(7)
    half = list(islice(steps(rng, **more), 4))[-1]
    if name == "ppo":
        more |= {"critic_params": half.critic_params, "critic_state": half.critic_state}
    rest = list(islice(steps(rng, half.params, state=half.state, **more), 2))
    for one, other in zip(whole[4:], rest, strict=True):
        np.testing.assert_array_equal(one.params["W"], other.params["W"])
        assert one.value == other.value
        if name == "ppo":
            np.testing.assert_array_equal(one.critic_params["W"], other.critic_params["W"])


@pytest.mark.parametrize("name", sorted(set(OWN) - {"iterative_dpo", "rso"}))
def test_the_reference_is_frozen(name):
    """Changing the arrays that were given changes nothing later."""
    mine, given = ({"W": START["W"].copy()} for _ in range(2))
    steps = OWN[name](TABLE, mine, TASK, SGD, np.random.default_rng(0), reference=given, **small(name))
    again = OWN[name](TABLE, START, TASK, SGD, np.random.default_rng(0), **small(name))
    next(steps)
    next(again)
    given["W"] += [[5.0, 0.0, 0.0]]
    for one, other in islice(zip(steps, again, strict=True), 3):
        np.testing.assert_array_equal(one.params["W"], other.params["W"])


def test_two_steps_of_ppo_spelled_out():
    """Rewards by token, values, advantages, returns and both losses of a rollout of strings, in loops"""
    policy, beta, gamma, lam, lr = NGram(3), 0.3, 0.9, 0.6, 0.5
    params, reference, critic = (policy.init(np.random.default_rng(seed)) for seed in range(3))
    task = Task([[0]], lambda responses: responses.length**0.5, max_length=6)
    first, second = islice(dn.train_ppo(policy, params, policy, critic, task, dn.sgd(lr), dn.sgd(lr),
                                        np.random.default_rng(0), group=5, beta=beta, gamma=gamma, lam=lam, epochs=2,
                                        reference=reference), 2)
    said = first.rollout.responses

    def logp(params, before, token):
        return params["W"][before, token] - np.log(np.exp(params["W"][before]).sum())

    steps, count = [], said.mask.sum()  # (context, token, A, R, V) of each token of each response
    for tokens, mask in zip(said.tokens, said.mask, strict=True):
        where = [(int(tokens[t - 1]), int(tokens[t])) for t in np.flatnonzero(mask)]
        paid = [-beta * (logp(params, *at) - logp(reference, *at)) for at in where]
        paid[-1] += len(where)**0.5
        value = [critic["W"][before].mean() for before, _ in where]
        error = [r + gamma * ahead - v for r, ahead, v in zip(paid, [*value[1:], 0], value, strict=True)]
        for t, at in enumerate(where):
            advantage = sum((gamma * lam)**(u - t) * error[u] for u in range(t, len(where)))
            steps.append((*at, advantage, advantage + value[t], value[t]))
    for step, now, judge in ((first, params, critic), (second, first.params, first.critic_params)):
        loss, of_values, dW, dV = 0.0, 0.0, np.zeros((3, 3)), np.zeros((3, 3))
        for before, token, advantage, target, old in steps:
            ratio = np.exp(logp(now, before, token) - logp(params, before, token))
            loss -= min(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage) / count
            if not (ratio >= 1.2 if advantage >= 0 else ratio <= 0.8):
                p = np.exp(now["W"][before]) / np.exp(now["W"][before]).sum()
                dW[before] -= ratio * advantage * (np.eye(3)[token] - p) / count
            value = judge["W"][before].mean()
            held = old + np.clip(value - old, -0.2, 0.2)
            of_values += max((value - target)**2, (held - target)**2) / 2 / count
            if abs(value - old) <= 0.2 or (held - target)**2 < (value - target)**2:
                dV[before] += (value - target) / 3 / count
        assert step.value == pytest.approx(loss, rel=1e-12)
        assert step.critic_value == pytest.approx(of_values, rel=1e-12)
        np.testing.assert_allclose(step.params["W"], now["W"] - lr * dW, rtol=1e-12)
        np.testing.assert_allclose(step.critic_params["W"], judge["W"] - lr * dV, rtol=1e-12)
    assert abs(second.critic_params["W"] - first.critic_params["W"]).max() > 0.01


def test_both_of_ppos_models_learn():
    """The value model, from returns: it comes to know the prompt's value J at the policy as it is"""
    still = dn.sgd(lr=1e-12)
    steps = dn.train_ppo(TABLE, NOW, TABLE, {"W": np.zeros((1, 3))}, TASK, still, dn.sgd(lambda step: 3 / (1 + step)),
                         np.random.default_rng(0), group=64, beta=BETA, epochs=1, reference=START,
                         critic_loss=dn.SURROGATES["value_clip"](eps=1e3))
    last = list(islice(steps, 250))[-1]  # the running mean of 16,000 returns: 4 standard errors
    gain = REWARD - BETA * np.log(P / REF)
    spread = np.sqrt(P @ gain**2 - (P @ gain)**2)
    assert last.critic_params["W"].mean() == pytest.approx(P @ gain, abs=4 * spread / np.sqrt(16_000))


def test_ppos_losses_in_one_model():
    """Clip, value and entropy of one transformer: the gradient of their sum, by differences"""
    policy, task = GPT(vocab=3, context=12, width=4, heads=2, depth=1, hidden=4), brackets(4, depth=2)
    rng = np.random.default_rng(0)
    params = {key: p + rng.normal(size=p.shape) / 3 for key, p in policy.init(rng).items()}
    batch = rollout(policy, params, task, 3, rng)
    old, responses = batch.responses.facts["old_token_logp"], batch.responses
    told = responses.with_facts(old_token_logp=old + responses.mask * rng.normal(size=old.shape) / 4, **{
        name: rng.normal(size=old.shape) for name in ("advantage", "old_token_value", "token_return")})
    batch = Preferences(told, batch.index, batch.weight)
    loss = (dn.SURROGATES["ppo_clip"]() + 0.5 * dn.SURROGATES["value_clip"]()
            + dn.SURROGATES["entropy_bonus"](coefficient=0.1))
    _, grad = dn.value_and_grad(policy, params, batch, loss)
    check = check_gradient(lambda x: dn.value_and_grad(policy, x, batch, loss)[0], params, grad, rng)
    assert abs(check.claimed - check.measured) < 1e-10 * abs(check.claimed)


def test_sft_is_of_the_chosen_alone():
    policy = NGram(3)
    pairs, alone = (dn.Preferences.of([[0], [0]], *columns, weight=[0.7, 0.1]) for columns in (
        ([[1, 2, 0], [2, 0]], [[2, 0], [0]]), ([[1, 2, 0], [2, 0]],)))
    params = policy.init(np.random.default_rng(0))
    step = next(dn.train_sft(policy, params, [pairs], SGD))
    value, grad = dn.value_and_grad(policy, params, alone, dn.LOSSES["sft"]())
    assert step.value == pytest.approx(value, rel=4 * EPS)
    np.testing.assert_allclose(step.grad["W"], grad["W"], rtol=8 * EPS)


# ---- without samples

def test_the_natural_gradient_of_a_table_arrives_in_one_step():
    reward = np.array([[1.0, 0.25, -2.0], [0.0, 3.0, 0.0]])
    start = {"W": np.log([[0.1, 0.6, 0.3], [0.5, 0.0, 0.5]], where=[[1, 1, 1], [1, 0, 1]],
                         out=np.full((2, 3), -np.inf))}
    away = {"W": start["W"] + [[0.3, -1.0, 0.0], [2.0, 0.0, 1.0]]}
    step = next(train_exact_gradient(Tabular(3, prompts=2), away, reward, BETA, dn.sgd(lr=1 / BETA), natural=True,
                                     reference=start))
    np.testing.assert_allclose(probabilities(step.params), optimum.boltzmann(probabilities(start), reward, BETA),
                               rtol=1e-13)


def test_the_natural_gradient_of_a_table_is_the_gradient_over_its_fisher_information():
    """F⁺ ∂J/∂W by the pseudo-inverse, rows of mean 0; of an n-gram `analytic` says the same of its own"""
    reward, table = np.array([[1.0, 0.25, -2.0], [0.0, 3.0, 0.0]]), Tabular(3, prompts=2)
    params, flat = table.init(np.random.default_rng(0)), {"W": np.zeros((2, 3))}
    grads = [next(train_exact_gradient(table, params, reward, BETA, SGD, natural=natural, reference=flat)).grad["W"]
             for natural in (False, True)]
    for p, plain, natural in zip(probabilities(params), *grads, strict=True):
        fisher = (np.diag(p) - np.outer(p, p)) / 2  # each of two prompts is asked half of the time
        np.testing.assert_allclose(natural, np.linalg.pinv(fisher, rcond=1e-12) @ plain, rtol=1e-12)
        assert abs(natural).max() > 0.1


@pytest.mark.parametrize("natural", [False, True])
def test_exact_gradients_of_strings_arrive(natural):
    rho = np.array([[0.0, 1.0, -0.5], [0.5, -1.0, 0.3], [0.0, 0.2, -0.8]])
    policy, start = NGram(3), {"W": np.log([[0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.4, 0.2, 0.4]])}
    best, log_z = ngram.optimum(np.exp(start["W"]), rho, BETA)
    steps = train_exact_gradient(policy, start, rho, BETA, dn.sgd(1 / BETA if natural else 1.5), natural=natural)
    last = next(islice(steps, 12 if natural else 400, None))
    np.testing.assert_allclose(probabilities(last.params), best, rtol=1e-9)
    assert -last.value == pytest.approx(BETA * log_z, rel=1e-9)


@pytest.mark.parametrize("policy", [Tabular(3, prompts=2), NGram(3)], ids=["table", "bigram"])
def test_the_exact_gradient_is_that_of_its_value(policy):
    rng = np.random.default_rng(0)
    params, reference = policy.init(rng), policy.init(rng)
    reward = rng.normal(size=params["W"].shape) - 1

    def at(x):
        step = next(train_exact_gradient(policy, x, reward, BETA, SGD, reference=reference))
        return step.value, step.grad

    value, grad = at(params)
    d = rng.normal(size=params["W"].shape)
    ahead, behind = (at({"W": params["W"] + h * d})[0] for h in (1e-5, -1e-5))
    assert (ahead - behind) / 2e-5 == pytest.approx(float((grad["W"] * d).sum()), rel=1e-7)
    assert value != ahead


# ---- errors

@pytest.mark.parametrize(("call", "message"), [
    (lambda: next(dn.train_rloo(TABLE, START, TASK, SGD, np.random.default_rng(0), group=1)),
     "reward has shape (1, 1); expected (..., K), K at least 2"),
    (lambda: next(dn.train_rloo(TABLE, START, TASK, SGD, np.random.default_rng(0), beta=-1.0)),
     "beta is -1.0; expected at least 0"),
    (lambda: next(dn.train_grpo(TABLE, START, TASK, SGD, np.random.default_rng(0), epochs=0)),
     "epochs is 0; expected at least 1"),
    (lambda: next(ppo(TABLE, START, TASK, SGD, np.random.default_rng(0), epochs=0)),
     "epochs is 0; expected at least 1"),
    (lambda: next(dn.train_online_dpo(TABLE, START, TASK, SGD, np.random.default_rng(0), group=1)),
     "judged has groups of 1; expected at least 2 responses to compare"),
    (lambda: next(dn.train_rso(TABLE, START, TASK, SGD, np.random.default_rng(0), candidates=3)),
     "keep is 8; expected 1 to 3, the candidates of a group"),
    (lambda: next(train_exact_gradient(LogLinear([[1.0], [0.0]]), {"theta": np.zeros(1)}, [[0.0, 1.0]], 1.0, SGD)),
     "policy is LogLinear; expected Tabular or NGram, whose sums are known"),
    (lambda: next(dn.train_rloo(TABLE, START, bandit([[1.0, 0.0]]).task(), SGD,
                                Forced(np.full(4, 0.99)))),
     "the world has no response [2] to prompt [0]; expected one of its own, or `outside`, a reward for others"),
    *[(lambda train=train: next(train(TABLE, START, TASK, SGD, Forced(np.full(4, 0.99)), group=4,
                                      reference={"W": np.array([[0.0, 0.0, -np.inf]])})),
       "reference has probability 0 for the response [2], which the policy gave; expected one that can say whatever "
       "the policy can") for train in (dn.train_rloo, dn.train_grpo, dn.train_online_dpo, ppo)],
    (lambda: next(dn.train_rloo(TABLE, {"W": np.zeros((5, 1, 3))}, TASK, SGD, np.random.default_rng(0))),
     "params give logits of shape (5, 4, 3); expected (N, V), those of one policy"),
])
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
