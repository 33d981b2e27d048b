"""Training: what a step holds, resuming, and that descent ends where theory says."""

import itertools

import numpy as np
import pytest

import dpo_numpy as dn
from dpo_numpy.gradient import read
from dpo_numpy.policy import exact_kl
from dpo_numpy.preferences import pad
from toy_models import NGram, Tabular, bandit, strings

OPTIMIZERS = {
    "sgd": dn.sgd(0.3),
    "momentum": dn.momentum(0.1),
    "adam": dn.adam(0.05),
    "clip": dn.clip(dn.adam(0.05), 0.01),
}


def small():
    policy = NGram(vocab=3)
    params = policy.init(np.random.default_rng(0))
    pairs = dn.Preferences.of([[0]] * 4, [[1, 2, 0], [1, 0], [2, 0], [1, 1, 0]], [[2, 0], [2, 2, 0], [0], [2, 1, 0]])
    return policy, params, pairs.with_reference(policy, params)


# ---- a step

def test_a_step_holds_what_came_after_it_and_the_loss_before():
    policy, params, pairs = small()
    loss = dn.LOSSES["dpo"](beta=1.0)
    at = params
    for n, step in enumerate(dn.train(policy, params, [pairs] * 3, loss, dn.sgd(0.3))):
        value, grad = dn.value_and_grad(policy, at, pairs, loss)
        assert step.value == value
        np.testing.assert_array_equal(step.grad["W"], grad["W"])
        np.testing.assert_array_equal(step.params["W"], at["W"] - 0.3 * grad["W"])
        assert step.state["step"] == n + 1
        at = step.params
    assert n == 2


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_to_resume_from_any_step_is_never_to_have_stopped(name):
    policy, params, pairs = small()
    loss, rng = dn.LOSSES["dpo"](beta=1.0), np.random.default_rng(1)
    batches = list(itertools.islice(pairs.batches(2, rng), 9))
    whole = list(dn.train(policy, params, batches, loss, OPTIMIZERS[name]))
    for n in range(9):
        rest = list(dn.train(policy, whole[n].params, batches[n + 1:], loss, OPTIMIZERS[name], whole[n].state))
        assert len(rest) == 8 - n
        for one, other in zip(rest, whole[n + 1:], strict=True):
            assert one.params["W"].tobytes() == other.params["W"].tobytes()
            assert one.value == other.value
            assert all(one.state[k].tobytes() == other.state[k].tobytes() for k in other.state)
    if name != "sgd":  # fails when the state is forgotten
        forgot = list(dn.train(policy, whole[4].params, batches[5:], loss, OPTIMIZERS[name]))
        assert (forgot[-1].params["W"] != whole[-1].params["W"]).any()


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_is_changed_in_place_and_dtypes_stay(name, dtype):
    policy, params, pairs = small()
    params = {"W": params["W"].astype(dtype)}
    pairs = pairs.with_reference(policy, params)
    state = OPTIMIZERS[name].init(params)
    for array in (*params.values(), *state.values()):
        array.setflags(write=False)
    kept = params["W"].copy()
    steps = list(dn.train(policy, params, [pairs] * 4, dn.LOSSES["dpo"](), OPTIMIZERS[name], state))
    np.testing.assert_array_equal(params["W"], kept)
    assert {step.params["W"].dtype for step in steps} == {np.dtype(dtype)}
    assert len({step.params["W"].tobytes() for step in steps}) == 4


def test_a_batch_may_be_a_function_of_the_current_parameters():
    policy, params, pairs = small()
    seen = []

    def batch(now):
        seen.append(now)
        return pairs.with_reference(policy, now)  # the reference follows: the margin is 0 each time

    steps = list(dn.train(policy, params, [batch, pairs, batch], dn.LOSSES["dpo"](beta=1.0), dn.sgd(0.3)))
    assert seen[0] is params
    assert seen[1] is steps[1].params
    assert steps[0].value == steps[2].value == pytest.approx(np.log(2), rel=1e-15)
    assert steps[1].value < np.log(2) - 1e-3


def test_training_is_lazy_and_ends_with_its_batches():
    policy, params, pairs = small()
    steps = dn.train(policy, params, pairs.batches(2, np.random.default_rng(0)), dn.LOSSES["dpo"](), dn.sgd(0.1))
    assert len(list(itertools.islice(steps, 7))) == 7
    assert list(dn.train(policy, params, [], dn.LOSSES["dpo"](), dn.sgd(0.1))) == []


def test_replicates_train_side_by_side():
    policy, params, pairs = small()
    many = {"W": np.stack([params["W"], 2 * params["W"], -params["W"]])}
    loss = dn.LOSSES["dpo"](beta=1.0)
    *_, together = dn.train(policy, many, [pairs] * 5, loss, dn.adam(0.1))
    for i in range(3):
        *_, alone = dn.train(policy, {"W": many["W"][i]}, [pairs] * 5, loss, dn.adam(0.1))
        np.testing.assert_allclose(together.params["W"][i], alone.params["W"], rtol=1e-12)
        assert together.value[i] == pytest.approx(alone.value, rel=1e-13)


# ---- a bandit

REWARD = np.array([[3.0, 0.3, -0.5, -2.0]])
BETA = 0.5
POLICY = Tabular(vocab=4)
REF = {"W": np.random.default_rng(2).normal(size=(1, 4))}
BEST = {"W": REF["W"] + REWARD / BETA}  # π* = π_ref e^{r/β} / Z


def eigenvalues(batch):
    """The Hessian at the optimum, β² Σ w σ'(r_i - r_j) (e_i - e_j)(e_i - e_j)ᵀ: its second smallest and its largest"""
    H = np.zeros((4, 4))
    for (i, j), w in zip(batch.index, batch.weight, strict=True):
        q = 1 / (1 + np.exp(REWARD[0, j] - REWARD[0, i]))
        d = np.eye(4)[i] - np.eye(4)[j]
        H += BETA**2 * w * q * (1 - q) * np.outer(d, d)
    return np.linalg.eigvalsh(H)[[1, -1]]


def kl_to_the_optimum(lr, steps, flip=0.0):
    batch = bandit(REWARD).population(flip=flip).with_reference(POLICY, REF)
    return np.array([exact_kl(POLICY, step.params, POLICY, BEST, [0], 1)
                     for step in dn.train(POLICY, REF, [batch] * steps, dn.LOSSES["dpo"](beta=BETA), dn.sgd(lr))])


def test_dpo_on_the_population_of_a_bandit_reaches_the_optimum_at_the_predicted_rate():
    """With lr = 2/(λ₂ + λ_max) the error shrinks by (λ_max - λ₂)/(λ_max + λ₂) a step, and the KL by its square"""
    slow, fast = eigenvalues(bandit(REWARD).population())
    rate = (fast - slow) / (fast + slow)
    assert rate > 0.5
    steps = int(np.log(1e-12) / np.log(rate**2)) + 20  # from a KL of about 1 to 1e-12, and 20 steps to come near
    kl = kl_to_the_optimum(2 / (slow + fast), steps)
    assert kl[-1] < 1e-12
    late = np.flatnonzero((kl < 1e-6) & (kl > 1e-20))
    # two modes shrink alike and one changes its sign each time: an even number of steps apart they are in phase
    last = late[-1] - (late[-1] - late[0]) % 2
    assert (kl[last] / kl[late[0]]) ** (1 / (2 * (last - late[0]))) == pytest.approx(rate, rel=0.01)


def test_steps_of_2_over_the_largest_eigenvalue_are_the_limit():
    _, fast = eigenvalues(bandit(REWARD).population())
    assert kl_to_the_optimum(0.9 * 2 / fast, 500)[-1] < 1e-20
    assert kl_to_the_optimum(1.1 * 2 / fast, 500)[-1] > 1e-4


def test_annotators_who_err_lead_elsewhere():
    lr = 2 / sum(eigenvalues(bandit(REWARD).population()))
    assert kl_to_the_optimum(lr, 200, flip=0.1)[-1] > 1e-2
    assert kl_to_the_optimum(lr, 200)[-1] < 1e-20


# ---- strings

def strings_run(reward, steps=1000):
    rng = np.random.default_rng(0)
    policy, W = NGram(vocab=4), rng.normal(size=(4, 4)) / 2
    W[:, 0] += 1
    ref = {"W": W}
    world = strings(4, 4, reward)
    batch = world.population().with_reference(policy, ref)
    both = batch.weight.reshape(2, -1)
    floor = -(batch.weight * np.log((both / both.sum(axis=0)).ravel())).sum()
    *_, step = dn.train(policy, ref, [batch] * steps, dn.LOSSES["dpo"](beta=1.0), dn.sgd(8.0))
    return policy, ref, step, step.value - floor


TABLE = 0.6 * np.random.default_rng(3).normal(size=(4, 4))


def local(y):
    return float(sum(TABLE[a, b] for a, b in zip([0, *y], y, strict=False)))


def test_a_bigram_taught_by_short_strings_is_optimal_on_all_of_them():
    """r is local, so π* is a bigram too: log π/π_ref = r - log Z also where no pair was ever seen"""
    policy, ref, step, excess = strings_run(local)
    assert abs(excess) < 1e-14  # the loss is a sum of numbers about 1
    longer = pad([([0], [*np.random.default_rng(n).integers(1, 4, size=n), 0]) for n in range(12)])
    ratio = (read(policy, step.params, longer, np.arange(12), ["logp"])[0]["logp"]
             - read(policy, ref, longer, np.arange(12), ["logp"])[0]["logp"])
    reward = [local(tokens[mask].tolist()) for tokens, mask in zip(longer.tokens, longer.mask, strict=True)]
    # Σ over all strings of π_ref eʳ, by one solve: v = (I - A)⁻¹ a, over states that have not ended
    A = np.exp(ref["W"] - np.log(np.exp(ref["W"]).sum(axis=1, keepdims=True)) + TABLE)
    assert max(abs(np.linalg.eigvals(A[1:, 1:]))) < 1  # Z is finite
    v = np.linalg.solve(np.eye(3) - A[1:, 1:], A[1:, 0])
    log_z = np.log(A[0, 0] + A[0, 1:] @ v)
    np.testing.assert_allclose(ratio, reward - log_z, atol=1e-9)


def test_a_reward_that_is_not_local_is_out_of_its_reach():
    def skip(y):  # the first token and the third
        return 2.0 * (len(y) > 3 and y[0] == y[2])

    assert strings_run(skip)[3] > 1e-3
    assert strings_run(lambda y: 0.3 * len(y))[3] < 1e-9
