"""A fixture that keeps a loss right in a project's own tests; pytest finds it where dpo-numpy is installed.

    def test_my_loss(conforms):
        conforms(my_loss, "dpo", beta=0.1, framework="torch", dtype="float32")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .report import Report
from .verification import verify

__all__ = ["conforms"]


@pytest.fixture
def conforms() -> Callable[..., Report]:
    """`dn.verify`, failing the test with the report where the function differs or could not be judged"""

    def check(theirs: Callable[..., Any], loss: str = "dpo", **options: Any) -> Report:
        report = verify(theirs, loss, **options)
        if not report.agrees:
            pytest.fail(str(report), pytrace=False)
        return report

    return check
