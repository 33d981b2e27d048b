"""The sentences of analytic: they name the argument, what came and where, and what was expected."""

import numpy as np
import pytest

from analytic import optimum, population

HALF = [0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: optimum.boltzmann([HALF, [-0.5, 1.5]], [0, 0], 1),
            "ref is -0.5 at [1, 0]; expected probabilities, at least 0",
        ),
        (lambda: optimum.boltzmann([0.5, np.nan], [0, 0], 1), "ref is nan at [1]; expected probabilities, at least 0"),
        (lambda: optimum.boltzmann([HALF, [0.5, 0.75]], [0, 0], 1), "the sum of ref is 1.25 at [1]; expected 1"),
        (lambda: optimum.boltzmann([0.25, 0.25], [0, 0], 1), "the sum of ref is 0.5; expected 1"),
        (lambda: optimum.boltzmann(1.0, 0.0, 1), "ref has shape (); expected (..., K), probabilities of K responses"),
        (lambda: optimum.boltzmann([], [], 1), "ref has shape (0,); expected (..., K), probabilities of K responses"),
        (lambda: optimum.kl(HALF, [0.5, 0.25]), "the sum of q is 0.75; expected 1"),
        (lambda: optimum.kl([0.5, 0.25], HALF), "the sum of p is 0.75; expected 1"),
        (lambda: optimum.value([0.5, 0.25], HALF, [0, 0], 1), "the sum of pi is 0.75; expected 1"),
        (lambda: optimum.implied_reward([0.5, 0.25], HALF, 1), "the sum of pi is 0.75; expected 1"),
        (lambda: population.policy([0, 0], [0.5, 0.25]), "the sum of ref is 0.75; expected 1"),
        (lambda: optimum.log_partition(HALF, [0, np.inf], 1), "reward is inf at [1]; expected finite numbers"),
        (lambda: optimum.value(HALF, HALF, [np.nan, 0], 1), "reward is nan at [0]; expected finite numbers"),
        (lambda: optimum.implied_reward(HALF, HALF, 1, np.nan), "log_z is nan; expected finite numbers"),
        (lambda: population.policy([0, -np.inf], HALF), "u is -inf at [1]; expected finite numbers"),
        (lambda: optimum.optimal_value(HALF, [0, 0], 0.0), "beta is 0.0; expected one finite number above 0"),
        (lambda: optimum.value(HALF, HALF, [0, 0], np.nan), "beta is nan; expected one finite number above 0"),
        (lambda: optimum.implied_reward(HALF, HALF, np.inf), "beta is inf; expected one finite number above 0"),
        (lambda: population.newton([[0, 1], [1, 0]], -1), "beta is -1; expected one finite number above 0"),
        (lambda: optimum.boltzmann(HALF, [0, 0], [1, 2]), "beta is [1, 2]; expected one finite number above 0"),
        (
            lambda: optimum.boltzmann(HALF, [1, 2, 3], 1),
            "the shapes of ref (2,) and reward (3,) do not fit; expected (..., K) with one K, responses last",
        ),
        (
            lambda: optimum.boltzmann([HALF] * 2, np.zeros((3, 2)), 1),
            "the shapes of ref (2, 2) and reward (3, 2) do not fit; expected (..., K) with one K, responses last",
        ),
        (
            lambda: optimum.value(HALF, HALF, [3.0], 1),
            "the shapes of pi (2,) and reward (1,) do not fit; expected (..., K) with one K, responses last",
        ),
        (
            lambda: optimum.kl(HALF, [1.0]),
            "the shapes of p (2,) and q (1,) do not fit; expected (..., K) with one K, responses last",
        ),
        (
            lambda: optimum.implied_reward(HALF, [1.0], 1),
            "the shapes of pi (2,) and ref (1,) do not fit; expected (..., K) with one K, responses last",
        ),
        (
            lambda: population.policy(0.0, HALF),
            "the shapes of u () and ref (2,) do not fit; expected (..., K) with one K, responses last",
        ),
        (
            lambda: population.objective([0, 0], [[0, -1], [1, 0]], 1),
            "wins is -1.0 at [0, 1]; expected weights, at least 0",
        ),
        (lambda: population.entropy([[0, np.inf], [1, 0]]), "wins is inf at [0, 1]; expected finite numbers"),
        (lambda: population.hessian([0, 0], [1, 1], 1), "wins has shape (2,); expected (..., K, K)"),
        (lambda: population.newton(np.ones((2, 3)), 1), "wins has shape (2, 3); expected (..., K, K)"),
        (
            lambda: population.gradient([0, 0], np.ones((3, 3)), 1),
            "u has shape (2,); expected (..., 3) as wins has 3 responses",
        ),
        (
            lambda: population.gradient(0, np.ones((3, 3)), 1),
            "u has shape (); expected (..., 3) as wins has 3 responses",
        ),
        (lambda: population.bradley_terry_wins([1.0]), "reward has shape (1,); expected (..., K) with K at least 2"),
        (lambda: population.bradley_terry_wins(1.0), "reward has shape (); expected (..., K) with K at least 2"),
        (lambda: population.bradley_terry_wins([0, np.nan]), "reward is nan at [1]; expected finite numbers"),
        (
            lambda: population.bradley_terry_wins([0, 1], np.ones((3, 3))),
            "weight has shape (3, 3); expected (..., 2, 2) as reward has 2 responses",
        ),
        (
            lambda: population.bradley_terry_wins([0, 1], [[0, 1], [3, 0]]),
            "weight differs from its transpose by 2.0; expected a symmetric one",
        ),
        (
            lambda: population.bradley_terry_wins([0, 1], [[0, -1], [-1, 0]]),
            "weight is -1.0 at [0, 1]; expected weights, at least 0",
        ),
        (lambda: population.linear_rate([1.0, 2.0]), "hessian has shape (2,); expected (..., K, K)"),
        (lambda: population.linear_rate(np.ones((1, 2))), "hessian has shape (1, 2); expected (..., K, K)"),
        (lambda: population.linear_rate(np.ones((0, 2, 2))), "hessian has shape (0, 2, 2); expected (..., K, K)"),
        (lambda: population.linear_rate([[1, np.nan], [0, 1]]), "hessian is nan at [0, 1]; expected finite numbers"),
        (
            lambda: population.linear_rate([[1, 5], [0, 1]]),
            "hessian differs from its transpose by 5.0; expected a symmetric one",
        ),
        (
            lambda: population.linear_rate([[1, 0], [0, -2]]),
            "hessian has eigenvalues from -2 to 1; expected none below 0, one above",
        ),
        (
            lambda: population.linear_rate(np.zeros((2, 2))),
            "hessian has eigenvalues from 0 to 0; expected none below 0, one above",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole sentence is compared
        call()
    assert str(raised.value) == sentence


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_may_be_off_by_the_rounding_of_their_dtype_and_by_no_more(dtype):
    third = np.full(3, 1 / 3, dtype)
    eps = np.finfo(dtype).eps
    assert optimum.kl(third, np.full(3, 1 / 3)) < 1e-14  # (1e-8)^2 and more
    off = np.array([0.5, 0.25, 0.25], dtype)
    off[0] += 100 * eps
    with pytest.raises(ValueError, match=r"the sum of p is 1\.0000\d+; expected 1"):
        optimum.kl(off, third)


def test_whole_numbers_lists_and_no_prompts_at_all_are_welcome():
    assert optimum.boltzmann([0, 1], [5, 3], 2).tolist() == [0, 1]
    assert population.objective([0, 0], [[0, 2], [1, 0]], 1) == pytest.approx(3 * np.log(2), rel=1e-15)
    assert optimum.boltzmann(np.zeros((0, 3)), np.zeros((0, 3)), 1.0).shape == (0, 3)
