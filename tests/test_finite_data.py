"""analytic.finite_data: K - 1, NumPy's pseudoinverse, and fits to drawn labels."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from analytic import finite_data, optimum, population

REF = np.array([0.3, 0.05, 0.25, 0.1, 0.3])
REWARD = np.array([0.5, -0.8, 0.3, 1.2, -0.2])
CHAIN = np.eye(5, k=1) + np.eye(5, k=-1)
SKEWED = np.outer([0.9, 0.09, 0.009, 9e-4, 1e-4], [0.9, 0.09, 0.009, 9e-4, 1e-4])
#: far from Bradley-Terry: 0 over 1 over 2 over 0, by nine comparisons in ten
CYCLE = np.array([[0, 0.09, 0.01], [0.01, 0, 0.95], [0.09, 0.05, 0]])


@pytest.mark.parametrize("pairs", [None, CHAIN, SKEWED], ids=["uniform", "chain", "skewed"])
def test_bradley_terry_labels_cost_half_a_nat_a_parameter_whichever_pairs_are_met(pairs):
    """(K-1)/(2n): tr(F⁺ F) is the rank of F."""
    wins = population.bradley_terry_wins(REWARD, pairs)
    assert_allclose(finite_data.excess_loss(wins, 50), 4 / 100, rtol=1e-10)
    assert_allclose(finite_data.excess_loss(7 * wins, 50), 4 / 100, rtol=1e-10)


def test_other_labels_cost_something_else():
    assert finite_data.excess_loss(CYCLE, 1) > 1.5  # (K-1)/2 is 1
    W = CYCLE + CYCLE.T
    explained = population.bradley_terry_wins(population.newton(CYCLE, 1.0), W)
    assert_allclose(finite_data.excess_loss(explained, 1), 1, rtol=1e-12)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_regret_is_the_trace_of_two_laplacians(beta):
    """tr((diag π* - π* π*ᵀ) F⁺)/(2βn) for Bradley-Terry labels, with NumPy's pseudoinverse of Σ W P P' (e-e')(e-e')ᵀ"""
    pi, F = optimum.boltzmann(REF, REWARD, beta), np.zeros((5, 5))
    for i, j in zip(*np.tril_indices(5, -1), strict=True):
        edge = np.eye(5)[i] - np.eye(5)[j]
        p = 1 / (1 + np.exp(REWARD[j] - REWARD[i]))
        F += p * (1 - p) / 10 * np.outer(edge, edge)  # ten pairs
    expected = np.trace((np.diag(pi) - np.outer(pi, pi)) @ np.linalg.pinv(F)) / (2 * beta * 300)
    assert_allclose(finite_data.regret(REF, population.bradley_terry_wins(REWARD), beta, 300), expected, rtol=1e-10)


@pytest.mark.parametrize("labels", ["bradley_terry", "cycle"])
def test_fits_to_drawn_labels_cost_what_the_laws_say(labels, rng):
    """4000 sets of 20 000 comparisons. The loss is a sum of K-1 squares, whose mean scatters by √(2/(K-1)/4000) or, of
    unequal ones, up to √(K-1) times that; 3.5 of it is 8%. By the law of Bradley-Terry labels the cycle is off by 38%.
    """
    wins = population.bradley_terry_wins(REWARD) if labels == "bradley_terry" else CYCLE / CYCLE.sum()
    k, n, beta, reps = len(wins), 20_000, 0.5, 4000
    ref, best = REF[:k] / REF[:k].sum(), population.newton(wins, beta)
    drawn = rng.multinomial(n, wins.ravel(), size=reps).reshape(reps, k, k) / n
    u = np.tile(best, (reps, 1))
    for _ in range(7):  # all fits at once, Newton's from the truth
        slope, bend = population.gradient(u, drawn, beta)[:, 1:], population.hessian(u, drawn, beta)[:, 1:, 1:]
        u[:, 1:] -= np.linalg.solve(bend, slope[..., None])[..., 0]
    assert abs(slope).max() < 1e-15
    excess = population.objective(u, wins, beta) - population.objective(best, wins, beta)
    r = best * beta
    lost = optimum.optimal_value(ref, r, beta) - optimum.value(population.policy(u, ref), ref, r, beta)
    room = 3.5 * np.sqrt(2 / reps)
    assert excess.mean() == pytest.approx(float(finite_data.excess_loss(wins, n)), rel=room)
    assert lost.mean() == pytest.approx(float(finite_data.regret(ref, wins, beta, n)), rel=room)


def test_comparisons_of_a_response_with_itself_are_among_the_n():
    wins = population.bradley_terry_wins(REWARD)
    idle = wins + np.eye(5) / 5  # half of them, and half of L
    assert_allclose(finite_data.excess_loss(idle, 100), finite_data.excess_loss(wins, 50) / 2, rtol=1e-12)
    assert_allclose(finite_data.regret(REF, idle, 0.3, 100), finite_data.regret(REF, wins, 0.3, 50), rtol=1e-12)


def test_leading_axes_are_problems_of_their_own(rng):
    wins, ref = rng.random((2, 3, 4, 4)), rng.dirichlet(np.ones(4), size=(2, 1))
    excess, lost = finite_data.excess_loss(wins, 9), finite_data.regret(ref, wins, 0.4, 9)
    assert excess.shape == lost.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        assert_allclose(excess[i, j], finite_data.excess_loss(wins[i, j], 9), rtol=1e-12)
        assert_allclose(lost[i, j], finite_data.regret(ref[i, 0], wins[i, j], 0.4, 9), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: finite_data.excess_loss(np.eye(2), 1),
         "wins never compares responses [0] and [1]; expected comparisons that connect all of them"),
        (lambda: finite_data.excess_loss([[0, 1], [0, 0]], 1),
         "wins has no minimizer: responses [0] never lose to the others; expected all to lose"),
        (lambda: finite_data.excess_loss([[0]], 1), "the sum of wins is 0.0; expected comparisons"),
        (lambda: finite_data.excess_loss([[0, 1], [1, 0]], 0), "n is 0; expected one finite number above 0"),
        (lambda: finite_data.regret([0.5, 0.5], [[0, 1], [1, 0]], 0, 9),
         "beta is 0; expected one finite number above 0"),
        (lambda: finite_data.regret([1], [[0, 1], [1, 0]], 1, 9),
         "the shapes of ref (1,) and wins (2,) do not fit; expected (..., K) with one K, responses last"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
        call()
    assert str(raised.value) == sentence
