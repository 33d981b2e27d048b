"""Claims: what holds, what does not, and what cannot be said."""

from math import inf, nan

import numpy as np
import pytest

from toy_models.experiments._claims import above, below, between, near


@pytest.mark.parametrize(("claim", "holds", "expected"), [
    (below(0.5, 1), True, "< 1"), (below(1, 1), False, "< 1"), (below(-inf, 1), True, "< 1"),
    (above(2, 1), True, "> 1"), (above(1, 1), False, "> 1"), (above(np.float64(2), 1), True, "> 1"),
    (near(1.5, 2, 0.5), True, "2 ± 0.5"), (near(1.4, 2, 0.5), False, "2 ± 0.5"), (near(2.6, 2, 0.5), False, "2 ± 0.5"),
    (between(1.5, 1, 2), True, "1 to 2"), (between(1, 1, 2), False, "1 to 2"), (between(2, 1, 2), False, "1 to 2"),
])
def test_a_claim_says_whether_where_and_what(claim, holds, expected):
    assert claim.holds is holds and claim.expected == expected and claim.evaluated
    assert type(claim.number) is float


@pytest.mark.parametrize("claim", [below(nan, 1), above(nan, 1), near(nan, 1, 1), between(nan, 0, 1)])
def test_what_is_no_number_decides_nothing(claim):
    assert not claim.holds and not claim.evaluated
