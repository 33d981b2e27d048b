"""Experiments run once: the tests of each go to one process, which keeps what its defaults give."""

from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from toy_models.experiments import Skipped

HERE = Path(__file__).parent


@cache
def of_defaults(name):
    try:
        return import_module(f"toy_models.experiments.{name}").run()
    except Skipped as reason:
        pytest.skip(str(reason))


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            named = getattr(getattr(item, "callspec", None), "params", {}).get("experiment")
            item.add_marker(pytest.mark.xdist_group(named or item.path.stem.removeprefix("test_")))


@pytest.fixture
def result(request):
    """What `run()` gives: of the experiment that a test names, or else of the one its file is named after."""
    named = request.node.callspec.params.get("experiment") if hasattr(request.node, "callspec") else None
    return of_defaults(named or request.node.path.stem.removeprefix("test_"))


@pytest.fixture
def defaults():
    """What `run()` of the experiment of a name gives: for a test of more than one."""
    return of_defaults
