"""analytic.metrics: pairs one by one, mpmath's root, grids of β, and the library's own loss on 10 000 policies."""

import numpy as np
import pytest
from mpmath import mp
from numpy.testing import assert_allclose

import dpo_numpy as dn
from analytic import metrics, optimum

EPS = np.finfo(float).eps
UNIFORM, REWARD = np.full(3, 1 / 3), np.array([1.0, 0.0, -1.0])


def softmax(x):
    p = np.exp(x - x.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def one_by_one(ref, reward, distinct):
    """Shares of the chosen and of the rejected; every two draws in turn."""
    chosen, rejected = np.zeros(len(ref)), np.zeros(len(ref))
    for i, j in np.ndindex(len(ref), len(ref)):
        if not (distinct and i == j):
            first_wins = 1 / (1 + np.exp(reward[j] - reward[i]))
            for w, loser, p in ((i, j, first_wins), (j, i, 1 - first_wins)):
                chosen[w] += ref[i] * ref[j] * p
                rejected[loser] += ref[i] * ref[j] * p
    return chosen / chosen.sum(), rejected / rejected.sum()


@pytest.mark.parametrize("distinct", [False, True])
def test_pairs_one_by_one(distinct, rng):
    ref, reward = softmax(rng.normal(size=(3, 5))), 2 * rng.normal(size=(3, 5))
    ref[0] = [0.5, 0, 0.25, 0.25, 0]
    found = metrics.pairs(ref, reward, distinct)
    for k in range(3):
        assert_allclose([found.chosen[k], found.rejected[k]], one_by_one(ref[k], reward[k], distinct), rtol=1e-13)
    if not distinct:
        assert_allclose((found.chosen + found.rejected) / 2, ref, rtol=1e-14)


def exact_mean(distinct, chosen, beta):
    """The mean log-ratio in the three-response world, in 50 digits: Σ share (r/β - log Z)."""
    with mp.workdps(50):
        share = [mp.mpf(0)] * 3
        for i, j in np.ndindex(3, 3):
            if not (distinct and i == j):
                share[i] += 1 / (1 + mp.exp((j - i if chosen else i - j) * mp.mpf(-1)))
        log_z = mp.log(sum(mp.exp(r / mp.mpf(beta)) for r in (1, 0, -1)) / 3)
        return sum(s / sum(share) * r for s, r in zip(share, (1, 0, -1), strict=True)) / mp.mpf(beta) - log_z


@pytest.mark.parametrize(
    ("distinct", "chosen", "rejected", "crossing"),
    [(False, -6.18, -11.62, 1.15677), (True, -4.82, -12.98, 0.71162)],
)
def test_at_the_exact_optimum_of_a_small_beta_the_chosen_have_fallen(distinct, chosen, rejected, crossing):
    """r = (1, 0, -1), uniform reference. The printed digits follow from the definition, and the code from both."""
    exact = [float(exact_mean(distinct, c, "0.1")) for c in (True, False)]
    assert_allclose(exact, [chosen, rejected], rtol=0, atol=5e-3)
    shares = metrics.pairs(UNIFORM, REWARD, distinct)
    assert_allclose(metrics.mean_log_ratio([*shares], UNIFORM, REWARD, 0.1), exact, rtol=32 * EPS)
    with mp.workdps(50):
        root = float(mp.findroot(lambda beta: exact_mean(distinct, True, beta), 1))
    assert_allclose(root, crossing, rtol=0, atol=5e-6)
    assert_allclose(metrics.crossover(shares.chosen, UNIFORM, REWARD), root, rtol=64 * EPS)
    assert metrics.crossover(shares.rejected, UNIFORM, REWARD) == np.inf


def test_the_mean_log_ratio_is_that_of_the_policies(rng):
    ref, reward, beta = softmax(rng.normal(size=(4, 5))), rng.normal(size=(4, 5)), np.array([0.1, 0.5, 2.0, 30.0])
    share = softmax(rng.normal(size=(4, 5)))
    for k in range(4):
        mean = share[k] @ np.log(optimum.boltzmann(ref[k], reward[k], beta[k]) / ref[k])
        assert_allclose(metrics.mean_log_ratio(share, ref, reward, beta)[k], mean, rtol=0, atol=1e-14)
    assert metrics.mean_log_ratio([0.5, 0.5, 0], [0.5, 0.5, 0], [1, 1, 9], 1) == 0
    assert metrics.mean_log_ratio([0.5, 0.5], [0.5, 0.5], [1, 0], 1e-310) == -np.inf


def test_of_two_independent_draws_there_is_one_crossover_and_of_distinct_ones_there_may_be_none(rng):
    """Signs on a grid of 60 β, 200 problems, some with very skewed references."""
    ref = softmax(np.repeat([1.0, 4.0], 100)[:, None] * rng.normal(size=(200, 8)))
    reward = rng.normal(size=(200, 8)) * 10 ** rng.uniform(-1, 1, size=(200, 1))
    grid = np.geomspace(1e-3, 1e3, 60)[:, None]
    kinds = {}
    for distinct in (False, True):
        chosen, rejected = metrics.pairs(ref, reward, distinct)
        positive = metrics.mean_log_ratio(chosen, ref, reward, grid) > 0
        at = metrics.crossover(chosen, ref, reward)
        assert (positive == (grid > at)).all()
        kinds[distinct] = np.isinf(at).sum()
        if not distinct:
            assert (metrics.mean_log_ratio(rejected, ref, reward, grid) < 0).all()
    assert kinds[False] == 0 < kinds[True]
    # the reference knows already: two that differ say less for the best than one draw does
    common = np.array([0.98, 0.01, 0.01])
    assert metrics.crossover(metrics.pairs(common, REWARD, distinct=True).chosen, common, REWARD) == np.inf
    assert metrics.crossover(metrics.pairs(common, REWARD).chosen, common, REWARD) < 1


def test_as_rewards_come_together_the_crossover_tends_to_1_and_of_distinct_pairs_to_what_they_leave(rng):
    """Next order: a square, of rewards 1e-3; rounding leaves ε/1e-3."""
    ref, reward = softmax(rng.normal(size=(20, 6))), 1e-3 * rng.normal(size=(20, 6))
    assert_allclose(metrics.crossover(metrics.pairs(ref, reward).chosen, ref, reward), 1, rtol=0, atol=2e-3)
    small = metrics.crossover(metrics.pairs(UNIFORM, 1e-3 * REWARD).chosen, UNIFORM, 1e-3 * REWARD)
    assert_allclose(small, 1, rtol=0, atol=1e-6)
    for k in (2, 3, 10):
        even, reward = np.full(k, 1 / k), 1e-3 * np.linspace(-1, 1, k)
        at = metrics.crossover(metrics.pairs(even, reward, distinct=True).chosen, even, reward)
        assert_allclose(at, (k - 1) / k, rtol=0, atol=1e-6)


def test_where_nothing_changes_sign():
    assert metrics.crossover([1, 0, 0], UNIFORM, REWARD) == 0  # the best alone
    assert metrics.crossover(UNIFORM, UNIFORM, [2, 2, 2]) == 0
    assert metrics.crossover([0, 0.5, 0.5], UNIFORM, REWARD) == np.inf
    assert metrics.crossover([0.5, 0.5, 0], [0.25, 0.75, 0], [1, 0, 9]) == pytest.approx(
        float(metrics.crossover([0.5, 0.5], [0.25, 0.75], [1, 0])))


# Ranking


def test_the_exact_optimum_ranks_pairs_wrong_that_its_implicit_rewards_rank_right(rng):
    """50 responses, labels certain. Accuracy falls from 1 to that of the reference; one pair at a time."""
    ref, reward = softmax(2 * rng.normal(size=50)), rng.normal(size=50)
    labels = (reward[:, None] > reward).astype(float)
    accuracies = []
    for beta in (1e-4, 0.05, 0.1, 0.3, 1.0, 3.0, 1e6):
        log_pi = optimum.log_boltzmann(ref, reward, beta)
        right = [log_pi[i] > log_pi[j] for i, j in np.ndindex(50, 50) if reward[i] > reward[j]]
        accuracies.append(float(metrics.ranking_accuracy(log_pi, labels)))
        assert accuracies[-1] == pytest.approx(np.mean(right))
        assert metrics.ranking_accuracy(log_pi - np.log(ref), labels) == 1
    assert accuracies[0] == 1 and accuracies[-1] == pytest.approx(metrics.ranking_accuracy(ref, labels))
    assert (np.diff(accuracies) <= 0).all() and accuracies[-1] < 0.7


def test_ties_are_half_right_and_a_comparison_with_itself_is_none():
    wins = [[9, 1, 2], [0, 9, 0], [1, 0, 9]]
    assert metrics.ranking_accuracy([1, 1, 0], wins) == (0.5 * 1 + 2) / 4
    assert metrics.ranking_accuracy([-np.inf, -np.inf, np.inf], wins) == (0.5 + 1) / 4
    assert_allclose(metrics.ranking_accuracy([[1, 1, 0], [0, 1, 2]], [wins, wins]), [0.625, 0.25])


def test_how_far_the_loss_must_fall_before_the_pair_is_ranked_right():
    """-log σ(βc): c = 5 and 30 nats at β = 0.1, in mpmath."""
    for c, digits in ((5, 0.474077), (30, 0.048587)):
        with mp.workdps(30):
            exact = float(mp.log(1 + mp.exp(-mp.mpf(c) / 10)))
        assert_allclose(exact, digits, rtol=0, atol=5e-7)
        ref = softmax(np.array([0.0, c]))
        assert_allclose(metrics.ranking_loss(ref, 0.1)[0, 1], exact, rtol=16 * EPS)


def test_a_pair_is_ranked_right_just_if_the_loss_is_below(rng):
    """`dn.LOSSES["dpo"]` on 10 000 policies; at the reference's own odds the two are equal."""
    ref, beta = softmax(2 * rng.normal(size=4)), 0.3
    log_pi = np.log(softmax(3 * rng.normal(size=(10_000, 4))))
    pair = rng.permuted(np.tile(np.arange(4), (10_000, 1)), axis=1)[:, :2]
    logp, ref_logp = np.take_along_axis(log_pi, pair, axis=1), np.log(ref)[pair]
    threshold = metrics.ranking_loss(ref, beta)[pair[:, 0], pair[:, 1]]
    loss = dn.LOSSES["dpo"](beta=beta)(logp, ref_logp)[0]
    right = loss < threshold
    assert (right == (logp[:, 0] > logp[:, 1])).all() and 0.3 < right.mean() < 0.7
    tied = dn.LOSSES["dpo"](beta=beta)(np.full((10_000, 2), -1.0), ref_logp)[0]
    assert_allclose(tied, threshold, rtol=16 * EPS)


HALF = [0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: metrics.pairs([1, 0], [0, 1], distinct=True),
         "the number of responses with mass in ref is 1; expected two that differ"),
        (lambda: metrics.pairs(HALF, [0, np.nan]), "reward is nan at [1]; expected finite numbers"),
        (lambda: metrics.pairs(HALF, [0, 1, 2]),
         "the shapes of ref (2,) and reward (3,) do not fit; expected (..., K) with one K, responses last"),
        (lambda: metrics.mean_log_ratio(HALF, [1, 0], [0, 1], 1), "share is 0.5 at [1]; expected 0 wherever ref is"),
        (lambda: metrics.mean_log_ratio(HALF, HALF, [0, 1], [1, -1]),
         "beta is -1.0 at [1]; expected finite numbers above 0"),
        (lambda: metrics.mean_log_ratio([HALF] * 2, HALF, [0, 1], [1, 2, 3]),
         "the leading shapes of share (2,) and reward () and beta (3,) do not fit; expected them to broadcast"),
        (lambda: metrics.crossover([0.5, 0.25], HALF, [0, 1]), "the sum of share is 0.75; expected 1"),
        (lambda: metrics.crossover([HALF] * 2, HALF, [[0, 1]] * 3),
         "the leading shapes of share (2,) and reward (3,) do not fit; expected them to broadcast"),
        (lambda: metrics.crossover([1], HALF, [0, 1]),
         "the shapes of share (1,) and ref (2,) do not fit; expected (..., K) with one K, responses last"),
        (lambda: metrics.ranking_accuracy([0, np.nan], np.ones((2, 2))), "score is nan at [1]; expected numbers"),
        (lambda: metrics.ranking_accuracy([0, 1], np.eye(2)),
         "the sum of wins off its diagonal is 0.0; expected comparisons"),
        (lambda: metrics.ranking_accuracy([0, 1, 2], np.ones((2, 2))),
         "the shapes of score (3,) and wins (2,) do not fit; expected (..., K) with one K, responses last"),
        (lambda: metrics.ranking_loss([1, 0], 1), "ref is 0.0 at [1]; expected probabilities above 0"),
        (lambda: metrics.ranking_loss(HALF, 0), "beta is 0; expected one finite number above 0"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
        call()
    assert str(raised.value) == sentence
