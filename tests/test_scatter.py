"""The pullback of a table look-up: against a loop, in every dtype that a policy may be asked for."""

import numpy as np
import pytest

from toy_models._scatter import add_rows


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble, np.complex128])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_rows_add_up_where_their_index_says(dtype, lead, rng):
    rows, index = rng.integers(-9, 10, size=(*lead, 7, 2)).astype(dtype), np.array([3, 0, 3, 3, 1, 0, 3])
    expected = np.zeros((*lead, 5, 2), dtype)
    for m, i in enumerate(index):
        expected[..., i, :] += rows[..., m, :]
    got = add_rows(rows, index, 5)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, expected)  # whole numbers: no rounding


def test_no_rows_are_a_table_of_zeros():
    assert add_rows(np.zeros((0, 2)), np.zeros(0, int), 3).tolist() == [[0.0, 0.0]] * 3
