"""analytic.voting: definitions pair by pair, exact games, slow iterations that end where Newton does, DPO's own fit."""

from itertools import combinations, permutations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from analytic import minimizers, optimum, population, voting

EPS = np.finfo(float).eps


def sigma(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def softmax(x):
    p = np.exp(x - x.max())
    return p / p.sum()


def preferences(rng, K, size=1.0):
    """P of any kind, ties apart"""
    x = rng.normal(size=(K, K)) * size
    return sigma(x - x.T)


def cycle(a, b, c):
    """0 beats 1 by a, 1 beats 2 by b, 2 beats 0 by c"""
    return 0.5 + np.array([[0, a, -c], [-a, 0, b], [c, -b, 0]])


def uniform_pairs(P):
    return np.where(np.eye(len(P), dtype=bool), 0, P)


#: 0 beats both of the others, narrowly; 1 beats 2 by far
NARROW = 0.5 + np.array([[0, 0.01, 0.01], [-0.01, 0, 0.49], [-0.01, -0.49, 0]])


# Votes


def test_votes_pair_by_pair(rng):
    for K in (1, 2, 3, 6):
        P, mu = np.round(preferences(rng, K) * 4) / 4, rng.dirichlet(np.ones(K))
        share = [sum(mu[j] * P[i, j] for j in range(K)) for i in range(K)]
        assert_allclose(voting.borda(P, mu), share, rtol=8 * EPS)
        assert_allclose(voting.borda(P), P.mean(axis=1), rtol=8 * EPS)
        beaten = [sum(float(P[i, j] > 0.5) + (P[i, j] == 0.5) / 2 for j in range(K) if j != i) for i in range(K)]
        assert voting.copeland(P).tolist() == beaten
        winners = [i for i in range(K) if all(P[i, j] > 0.5 for j in range(K) if j != i)]
        assert voting.condorcet(P) == (winners[0] if winners else -1)


def test_a_condorcet_winner_need_not_be_there():
    assert voting.condorcet(cycle(0.1, 0.2, 0.3)) == -1
    assert voting.condorcet(np.full((2, 2), 0.5)) == -1
    assert [int(voting.condorcet(cycle(0.1, x, -0.2))) for x in (0.3, -0.3)] == [0, 0]


def test_the_order_of_the_best_fit_is_bordas_where_all_pairs_weigh_the_same(rng):
    """Σⱼ σ(rᵢ - rⱼ) = Σⱼ Pᵢⱼ at the fit."""
    for _ in range(40):
        P = preferences(rng, rng.integers(2, 8), 2)
        reward = population.newton(uniform_pairs(P), 1.0)
        assert_allclose(sigma(reward[:, None] - reward).mean(axis=1), voting.borda(P), rtol=1e-12)
        assert (np.argsort(reward) == np.argsort(voting.borda(P))).all()


def test_other_weights_can_have_another_order():
    """2 loses to 0 only. Pairs of 0 and 2 met often: rated by them, 2 falls below 1, which it beats."""
    P = np.array([[0.5, 0.5, 0.9], [0.5, 0.5, 0.2], [0.1, 0.8, 0.5]])
    order = [np.argsort(population.newton(uniform_pairs(W * P), 1.0)).tolist()
             for W in (np.ones((3, 3)), np.array([[1, 1, 20], [1, 1, 1], [20, 1, 1]]))]
    assert order[0] == np.argsort(voting.borda(P)).tolist() == [1, 2, 0]
    assert order[1] == [2, 1, 0]


def test_the_condorcet_winner_need_not_come_first():
    """0.51 + 0.51 < 0.49 + 0.99: DPO and Borda prefer 1, the game and Copeland 0."""
    assert voting.condorcet(NARROW) == voting.copeland(NARROW).argmax() == 0
    reward = population.newton(uniform_pairs(NARROW), 1.0)
    assert voting.borda(NARROW).argmax() == reward.argmax() == 1
    assert_allclose(voting.nash(NARROW), [1, 0, 0], rtol=0, atol=1e-12)
    wide = np.array([0.3, 0.0, -0.2])  # Bradley-Terry labels, and all agree
    P = sigma(wide[:, None] - wide)
    assert voting.condorcet(P) == voting.borda(P).argmax() == population.newton(uniform_pairs(P), 1.0).argmax() == 0


def test_dpo_leaves_the_reference_as_it_is_on_a_symmetric_cycle_and_on_no_other():
    ref = np.array([0.2, 0.3, 0.5])
    for beta in (0.1, 1.0):
        symmetric, skew = (population.newton(uniform_pairs(cycle(0.4, 0.4, c)), beta) for c in (0.4, 0.1))
        assert (symmetric == 0).all()
        assert_allclose(population.policy(symmetric, ref), ref, rtol=4 * EPS)
        assert abs(population.policy(skew, ref) - ref).max() > 0.05
        assert_allclose(minimizers.ipo(ref, voting.borda(cycle(0.4, 0.4, 0.4)), beta), ref, rtol=4 * EPS)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_annotators_of_opposite_rewards_are_flipped_labels(share):
    """A share ε of -r among those of r: of two responses cDPO's margin, (1-ε) σ(r) + ε σ(-r) = σ(m). Halves cancel."""
    reward = np.array([1.5, 0.0, -0.7])
    both = [sigma(r[:, None] - r) for r in (reward, -reward)]
    P = (1 - share) * both[0] + share * both[1]
    for i, j in combinations(range(3), 2):
        wins = uniform_pairs(P[np.ix_([i, j], [i, j])])
        fit = population.newton(wins, 1.0)
        margin = minimizers.cdpo_margin(both[0][i, j], share) if share < 0.5 else 0
        assert_allclose(fit[0] - fit[1], margin, rtol=0, atol=1e-12)
    if share == 0.5:
        assert_allclose(population.newton(uniform_pairs(P), 1.0), 0, atol=1e-12)
    logit = np.log(P / (1 - P))
    explained = abs(logit[0, 1] + logit[1, 2] - logit[0, 2]) < 1e-12
    assert explained == (share != 0.2)  # a mixture of rewards is in general no reward


def test_many_who_care_little_outvote_few_who_care_much():
    """Nine in ten prefer 0 by 1, one in ten 1 by 10: labels count votes, and rewards' mean is of another sign."""
    share, lead = np.array([0.9, 0.1]), np.array([1.0, -10.0])
    assert share @ lead < 0 < population.newton(uniform_pairs(_pair(share @ sigma(lead))), 1.0)[0]
    assert share @ [1.0, -8.0] > 0 and share @ sigma([1.0, -8.0]) > 0.5  # and here they agree


def _pair(p):
    return np.array([[0.5, p], [1 - p, 0.5]])


# The game


def by_supports(P):
    """The Nash policies of a game without ties, support by support: S π = 0 on it, S π <= 0 off it."""
    found = []
    for size in range(1, len(P) + 1):
        for support in combinations(range(len(P)), size):
            inside = np.ix_(support, support)
            A = np.vstack([(P - 0.5)[inside], np.ones(size)])
            x, _, rank, _ = np.linalg.lstsq(A, [0.0] * size + [1], rcond=None)
            if rank == size and (x > 1e-9).all() and abs(A[:-1] @ x).max() < 1e-12:
                pi = np.zeros(len(P))
                pi[list(support)] = x
                if (P @ pi <= 0.5 + 1e-12).all():
                    found.append(pi)
    return found


@pytest.mark.parametrize("K", [1, 2, 3, 4, 5, 6])
def test_nash_is_the_one_policy_that_a_search_of_all_supports_finds(K, rng):
    for size in (1e-6, 1.0, 5.0):
        P = preferences(rng, K, size)
        (pi,) = by_supports(P)
        assert_allclose(voting.nash(P), pi, rtol=0, atol=1e-9)  # 1e-6 of rounding of P over its size
        assert abs(voting.exploitability(voting.nash(P), P)) <= 64 * EPS


@pytest.mark.parametrize(("a", "b", "c"), [(0.1, 0.1, 0.1), (0.25, 0.25, 0.5), (0.5, 0.01, 0.2)])
def test_on_a_cycle_each_has_the_lead_between_the_other_two(a, b, c):
    assert_allclose(voting.nash(cycle(a, b, c)), np.array([b, c, a]) / (a + b + c), rtol=1e-13)


def test_ties_leave_a_choice_and_nash_makes_one():
    clones = np.array([[0.5, 0.5, 0.9], [0.5, 0.5, 0.9], [0.1, 0.1, 0.5]])
    pi = voting.nash(clones)
    assert_allclose(pi[:2].sum(), 1, rtol=4 * EPS)
    assert voting.exploitability(pi, clones) <= 4 * EPS
    assert_allclose(voting.nash(np.full((3, 3), 0.5)).sum(), 1, rtol=4 * EPS)


def test_exploitability_is_the_lead_of_the_best_answer(rng):
    P, pi = preferences(rng, 5), rng.dirichlet(np.ones(5))
    assert_allclose(voting.exploitability(pi, P), max(P[y] @ pi - 0.5 for y in range(5)), rtol=0, atol=4 * EPS)
    assert voting.exploitability(pi, P) > 0


# The regularized game


@pytest.mark.parametrize("tau", [0.1, 0.3, 2.0])
def test_regularized_nash_is_where_mirror_descent_ends(tau, rng):
    """π ← π^(1-ητ) π_ref^(ητ) e^(ηP(y ≻ π)) has it as fixed point for any η, and attracts for a small one."""
    for K in (2, 5):
        P, ref, eta = preferences(rng, K), rng.dirichlet(np.ones(K)), 0.2
        log_pi = np.log(ref)
        for _ in range(int(40 / (eta * tau))):
            log_pi = np.log(softmax((1 - eta * tau) * log_pi + eta * tau * np.log(ref) + eta * P @ np.exp(log_pi)))
        assert_allclose(voting.regularized_nash(ref, P, tau), np.exp(log_pi), rtol=0, atol=1e-12 / tau)


@pytest.mark.parametrize("tau", [1e-9, 1e-4, 0.01, 1.0, 1e3])
def test_no_policy_gains_on_it(tau, rng):
    """The best answer, by `optimum`, gains nothing; and without the KL it gains at most -τ log π_ref."""
    for K in (1, 2, 4, 9):
        P, ref = preferences(rng, K, 3), rng.dirichlet(np.ones(K))
        pi = voting.regularized_nash(ref, P, tau)
        best, value = optimum.optimal_value(ref, P @ pi, tau), optimum.value(pi, ref, P @ pi, tau)
        assert_allclose(value, best, rtol=0, atol=64 * EPS * (1 + tau))
        assert voting.exploitability(pi, P) <= -tau * np.log(ref).min() + 64 * EPS


def test_its_limits_are_the_reference_and_a_nash_policy(rng):
    for _ in range(3):
        P, ref = preferences(rng, 5), rng.dirichlet(np.ones(5))
        assert_allclose(voting.regularized_nash(ref, P, 1e6), ref, rtol=2e-6)  # |P - ½|/τ and its mean
        assert_allclose(voting.regularized_nash(ref, P, 1e-8), voting.nash(P), rtol=0, atol=1e-5)  # τ over a lead


def test_of_many_nash_policies_it_tends_to_the_nearest_to_the_reference():
    """Stone twice, scissors, paper: a third each, and the two stones share as in the reference. So do the best two."""
    stones = np.array([0, 0, 1, 2])
    ref = np.array([0.1, 0.3, 0.4, 0.2])
    pi = voting.regularized_nash(ref, cycle(0.4, 0.4, 0.4)[np.ix_(stones, stones)], 1e-7)
    assert_allclose(pi, [1 / 12, 1 / 4, 1 / 3, 1 / 3], rtol=0, atol=1e-5)
    best = voting.regularized_nash(ref, NARROW[np.ix_(stones, stones)], 1e-4)
    assert_allclose(best, [0.25, 0.75, 0, 0], rtol=0, atol=1e-12)


def test_nash_md_with_a_fixed_step_stops_short_and_where_everything_is_symmetric_does_not():
    """Published: log π ← (1-ητ) log π + ητ log π_ref + η P(y ≻ π'), π' ∝ π^(1-ητ) π_ref^(ητ)."""
    tau = 0.2

    def nash_md(P, ref, eta):
        log_pi = np.log(ref)
        for _ in range(int(30 / (eta * tau))):
            mixed = softmax((1 - eta * tau) * log_pi + eta * tau * np.log(ref))
            log_pi = np.log(softmax(np.log(mixed) + eta * P @ mixed))
        return np.exp(log_pi), mixed

    ref = np.array([0.6, 0.3, 0.1])
    P = cycle(0.4, 0.3, 0.2)
    exact, off = voting.regularized_nash(ref, P, tau), {}
    for eta in (0.2, 0.1, 0.05):
        pi, mixed = nash_md(P, ref, eta)
        assert_allclose(pi, softmax(np.log(ref) + P @ mixed / tau), rtol=1e-9)
        off[eta] = abs(pi - exact).max()
    assert off[0.1] > 1e-3
    assert_allclose([off[0.2] / off[0.1], off[0.1] / off[0.05]], 2, rtol=0.05)  # O(η), the next term O(η²)
    pi, _ = nash_md(cycle(0.4, 0.4, 0.4), np.full(3, 1 / 3), 0.2)
    assert_allclose(pi, 1 / 3, rtol=1e-12)


def test_what_the_reference_cannot_say_is_not_said():
    pi = voting.regularized_nash([0.5, 0.5, 0.0], cycle(0.4, 0.4, 0.4), 0.1)
    assert pi[2] == 0
    assert_allclose(pi[:2], voting.regularized_nash([0.5, 0.5], _pair(0.9), 0.1), rtol=1e-13)


# Self-play


def test_self_play_leaves_the_nash_policy_of_a_cycle_and_its_mean_comes_close(rng):
    P, start, eta, T = cycle(0.4, 0.2, 0.3), np.array([0.5, 0.3, 0.2]), 0.5, 1000
    star, path = voting.nash(P), voting.self_play(P, start, eta, T)
    weights = path[:-1] * np.exp(eta * path[:-1] @ P.T)
    assert_allclose(path[1:], weights / weights.sum(axis=1, keepdims=True), rtol=1e-12, atol=1e-280)
    away, lead = optimum.kl(star, path), path @ (P - 0.5).T
    jump = np.log((path * np.exp(eta * lead)).sum(axis=1))
    assert_allclose(np.diff(away), jump[:-1], rtol=0, atol=1e-10)  # KL up to 100, rounded
    assert (jump > -4 * EPS).all() and away[-1] > 5 * away[0]
    gap = voting.exploitability(path[:-1].mean(axis=0), P)
    assert gap <= -np.log(start.min()) / (eta * T) + eta / 8
    # that is Hedge's bound; this is what it bounds: log π_T/π_0 = η Σ (P(y ≻ π_t) - ½) - Σ jumps
    log_path = np.log(path[-1]) - np.log(start) + jump[:-1].sum()
    assert_allclose(gap, log_path.max() / (eta * T), rtol=0, atol=1e-12)
    assert gap < 0.1 * voting.exploitability(path[-300:], P).max()


def test_self_play_circles_at_a_distance_for_small_steps_and_stays_at_the_nash_policy():
    """KL rises by O(η²) a step, so by O(η) in time 1/η: continuous time conserves it."""
    P, start = cycle(0.4, 0.4, 0.4), np.array([0.5, 0.3, 0.2])
    rise = []
    for eta in (0.02, 0.01):
        away = optimum.kl(np.full(3, 1 / 3), voting.self_play(P, start, eta, int(10 / eta)))
        rise.append(away[-1] - away[0])
    assert_allclose(rise[0] / rise[1], 2, rtol=0.02)
    assert_allclose(voting.self_play(P, np.full(3, 1 / 3), 0.5, 50), 1 / 3, rtol=1e-12)


def test_self_play_gives_all_to_a_condorcet_winner():
    path = voting.self_play(NARROW, [0.2, 0.5, 0.3], 10.0, 400)
    assert path[1].argmax() == 1  # at first the one that beats 2 by far
    assert_allclose(path[-1], [1, 0, 0], rtol=0, atol=1e-12)
    assert (voting.self_play(NARROW, [0.0, 0.5, 0.5], 1.0, 20)[:, 0] == 0).all()


# All of them


def test_leading_axes_are_problems_of_their_own(rng):
    P = np.array([[preferences(rng, 4)], [preferences(rng, 4)]])
    ref = rng.dirichlet(np.ones(4), size=3)
    for f in (voting.borda, voting.copeland, voting.condorcet, voting.nash):
        assert_allclose(f(P), [[f(P[i, 0])] for i in range(2)], rtol=4 * EPS, atol=1e-15)
    for f in (
        voting.borda,
        lambda P, ref: voting.exploitability(ref, P),
        lambda P, ref: voting.regularized_nash(ref, P, 0.1),
        lambda P, ref: np.moveaxis(voting.self_play(P, ref, 0.5, 3), 0, -1),
    ):
        together = f(P, ref)
        for i, j in np.ndindex(2, 3):
            assert_allclose(together[i, j], f(P[i, 0], ref[j]), rtol=1e-13)


def test_names_of_responses_do_not_matter(rng):
    P, ref = preferences(rng, 3), rng.dirichlet(np.ones(3))
    for order in permutations(range(3)):
        again, refs = P[np.ix_(order, order)], ref[list(order)]
        assert_allclose(voting.nash(again), voting.nash(P)[list(order)], rtol=0, atol=1e-14)
        assert_allclose(voting.regularized_nash(refs, again, 0.1), voting.regularized_nash(ref, P, 0.1)[list(order)],
                        rtol=1e-12)


def test_rows_of_single_precision_are_welcome():
    P = np.array([[0.5, 0.7], [0.3, 0.5]], np.float32)
    assert_allclose(voting.borda(P), [0.6, 0.4], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: voting.borda([[0.5, 0.7], [0.4, 0.5]]), "preference + its transpose is 1.1 at [0, 1]; expected 1"),
        (lambda: voting.nash([[0.0]]), "preference + its transpose is 0.0 at [0, 0]; expected 1"),
        (
            lambda: voting.copeland([[0.5, 1.5], [-0.5, 0.5]]),
            "preference is 1.5 at [0, 1]; expected probabilities, from 0 to 1",
        ),
        (
            lambda: voting.condorcet([[0.5, np.nan], [0, 0.5]]),
            "preference is nan at [0, 1]; expected probabilities, from 0 to 1",
        ),
        (lambda: voting.nash([0.5]), "preference has shape (1,); expected (..., K, K)"),
        (lambda: voting.nash(np.full((2, 3), 0.5)), "preference has shape (2, 3); expected (..., K, K)"),
        (lambda: voting.nash(np.ones((0, 0))), "preference has shape (0, 0); expected (..., K, K)"),
        (lambda: voting.borda(_pair(0.5), [0.5, 0.25]), "the sum of mu is 0.75; expected 1"),
        (lambda: voting.exploitability([0.5, 0.25], _pair(0.5)), "the sum of pi is 0.75; expected 1"),
        (
            lambda: voting.exploitability([1.0], _pair(0.5)),
            "the shapes of preference (2,) and pi (1,) do not fit; expected (..., K) with one K, responses last",
        ),
        (
            lambda: voting.regularized_nash([0.5, 0.5], _pair(0.5), 0.0),
            "tau is 0.0; expected one finite number above 0",
        ),
        (lambda: voting.regularized_nash([0.5, 0.6], _pair(0.5), 1), "the sum of ref is 1.1; expected 1"),
        (lambda: voting.self_play(_pair(0.5), [1.0, 0.0], -1, 1), "eta is -1; expected one finite number above 0"),
        (
            lambda: voting.self_play(_pair(0.5), [1.0, 0.0], 1, 0),
            "steps is 0; expected one whole number, at least 1",
        ),
        (lambda: voting.self_play(_pair(0.5), [1.0, 1.0], 1, 1), "the sum of start is 2.0; expected 1"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
        call()
    assert str(raised.value) == sentence
