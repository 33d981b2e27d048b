"""Many fits at once are those of `analytic`, one by one; and where there is none, NaN."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import log_expit

from analytic import bradley_terry, graph, loglinear, optimum, population
from toy_models.experiments._fits import average, draw, fit, has_fit, lost, waves

R = np.array([0.8, 0.3, 0.0, -0.2, -0.9])


def counts(rng, n, replicates, r=R):
    return draw(population.bradley_terry_wins(r), n, rng.spawn(replicates))


def test_each_is_the_fit_of_bradley_terry(rng):
    wins = counts(rng, 200, 20)
    assert_allclose(fit(wins), bradley_terry.fit(wins), rtol=0, atol=1e-10)


def test_leading_axes_are_kept(rng):
    wins = counts(rng, 200, 6).reshape(2, 3, 5, 5)
    assert_allclose(fit(wins)[1, 2], fit(wins[1, 2]), rtol=0, atol=1e-12)


def test_steep_chains_are_fitted_too():
    wins = np.diag(np.full(4, 1e4), 1) + np.diag(np.ones(4), -1)
    assert_allclose(fit(wins), np.log(1e4) * np.array([2.0, 1, 0, -1, -2]), rtol=1e-9, atol=1e-9)


def test_few_comparisons_have_a_fit_if_and_only_if_they_are_strongly_connected(rng):
    wins = counts(rng, 14, 400)
    exists = graph.mle_exists(wins)
    assert 0.05 < exists.mean() < 0.95
    assert (np.isfinite(fit(wins)).all(axis=1) == exists).all()
    assert (has_fit(wins) == exists).all()


def test_with_features_it_is_the_log_linear_fit(rng):
    phi = rng.normal(size=(5, 2))
    wins = counts(rng, 300, 5)
    for found, each in zip(fit(wins, phi), wins, strict=True):
        u = phi @ loglinear.newton(phi, each, 1.0)
        assert_allclose(found, u - u.mean(), rtol=0, atol=1e-9)


def test_features_that_say_the_same_twice_have_no_one_fit(rng):
    phi = rng.normal(size=(5, 1)) * [1.0, 2.0]
    assert np.isnan(fit(counts(rng, 300, 2), phi)).all()


def test_labels_corrected_for_flips_are_fitted_where_scipy_finds_the_minimum(rng):
    wins = counts(rng, 60, 60)
    corrected = (0.8 * wins - 0.2 * wins.mT) / 0.6
    assert (corrected < 0).any()
    exists = has_fit(corrected)
    assert 0.1 < exists.mean() < 1
    found = fit(corrected)
    assert (np.isfinite(found).all(axis=1) == exists).all()
    at = np.argmax(exists)
    end = minimize(lambda x: -(corrected[at] * log_expit(x[:, None] - x)).sum(), np.zeros(5), options={"gtol": 1e-7}).x
    assert_allclose(found[at], end - end.mean(), rtol=0, atol=1e-4)


def test_where_no_fit_is_the_loss_falls_along_the_group_that_does_not_lose():
    wins = np.array([[0.0, 5, 5], [-1, 0, 2], [-1, 2, 0]])  # 1 loses less than nothing
    assert not has_fit(wins)
    assert np.isnan(fit(wins)).all()
    losses = [population_loss(wins, t * np.array([1.0, 0, 0])) for t in (10, 100, 1000)]
    assert_allclose(np.diff(losses), [-180, -1800], rtol=1e-3)


def population_loss(wins, r):
    return -(wins * log_expit(r[:, None] - r)).sum()


def test_a_group_that_breaks_even_has_no_fit_whatever_the_rounding():
    wins = np.array([[0.0, 4], [1, 0]])
    corrected = (0.8 * wins - 0.2 * wins.mT) / 0.6
    assert not has_fit(corrected)
    assert np.isnan(fit(corrected)).all()


def test_draws_have_the_measures_mean_and_know_their_stream_alone():
    wins = population.bradley_terry_wins(R)
    many = draw(wins, 1000, [np.random.default_rng([3, r]) for r in range(400)])
    assert (many.sum(axis=(1, 2)) == 1000).all()
    # four standard errors of the largest share, of 400,000 draws
    assert_allclose(many.mean(axis=0) / 1000, wins, rtol=0, atol=4 * np.sqrt(wins.max() / 400_000))
    few = draw(wins, 1000, [np.random.default_rng([3, r]) for r in range(5)])
    np.testing.assert_array_equal(few, many[:5])


def test_too_many_responses_for_all_groups_are_refused():
    with pytest.raises(ValueError, match="wins has 13 responses; expected at most 12"):
        has_fit(np.ones((13, 13)))


def test_waves_are_orthogonal_and_tell_the_rewards():
    phi, r = waves(7, 3, 0.7)
    assert_allclose(phi.T @ phi, 3.5 * np.eye(3), atol=1e-12)
    assert r.std() == pytest.approx(0.7) and r.mean() == pytest.approx(0, abs=1e-15)
    assert_allclose(phi @ np.linalg.lstsq(phi, r, rcond=None)[0], r, atol=1e-12)
    with pytest.raises(ValueError, match="features is 7; expected at most 6, as a table of 7 responses has"):
        waves(7, 7, 1.0)


def test_what_is_lost_is_the_objective_of_the_optimum_less_that_of_the_policy():
    ref, r, beta = np.array([0.2, 0.3, 0.5]), np.array([1.0, 0.0, -1.0]), 0.5
    fitted = np.array([[0.5, 0.1, 0.0], [np.nan] * 3])
    pi = optimum.boltzmann(ref, fitted[0], 2 * beta)
    expected = optimum.optimal_value(ref, r, beta) - optimum.value(pi, ref, r, beta)
    found = lost(ref, r, fitted, 2 * beta, beta)
    assert found[0] == pytest.approx(expected, rel=1e-12) and np.isnan(found[1])
    assert lost(ref, r, fitted, beta)[0] == lost(ref, r, fitted, beta, beta)[0]


def test_averages_leave_out_what_is_not_there():
    assert_allclose(average(np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])), [2.0, 5.0, np.nan])
