"""Experiments run once: the tests of each stand side by side, so that one process has them, and keeps the result."""

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


def experiment_of(item):
    """The one that a test names, or else the one its file is named after"""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return params.get("experiment", item.path.stem.removeprefix("test_"))


def pytest_collection_modifyitems(items):
    places = [i for i, item in enumerate(items) if HERE in item.path.parents]
    for i, item in zip(places, sorted((items[i] for i in places), key=experiment_of), strict=True):
        items[i] = item


@pytest.fixture
def result(request):
    """What `run()` gives"""
    return of_defaults(experiment_of(request.node))


@pytest.fixture
def defaults():
    """What `run()` of the experiment of a name gives: for a test of more than one."""
    return of_defaults
