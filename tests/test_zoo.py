"""The kit on the zoo: every broken animal is flagged, nine in ten mistakes are named, no correct one raises an alarm.

Animals live in modules by framework. Without torch and JAX their halves are skipped here; `make zoo` has both.
"""

import warnings
from importlib import import_module
from importlib.util import find_spec

import pytest
import zoo

import dpo_numpy as dn

pytestmark = pytest.mark.slow
FRAMEWORKS = ("numpy", "torch", "jax")


def animals(framework):
    """[(animal, dtype)]"""
    if framework != "numpy" and find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed: make zoo")
    for half in ("before", "after"):
        import_module(f"zoo.{framework}_{half}")
    return [(animal, dtype) for animal in zoo.ANIMALS if animal.framework == framework for dtype in animal.dtypes]


def held(animal, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dn.verify(animal.function, animal.loss, seam=animal.seam, framework=animal.framework, dtype=dtype,
                         **animal.options, **animal.hyper)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_no_alarm_on_correct_ones(framework):
    for animal, dtype in animals(framework):
        if not animal.mistakes:
            found = held(animal, dtype)
            assert found.code == 0, f"{animal.function.__name__}\n{found}"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_broken_one_is_flagged_and_nine_in_ten_are_named(framework):
    misnamed, broken = [], 0
    for animal, dtype in animals(framework):
        if animal.mistakes:
            found, broken = held(animal, dtype), broken + 1
            assert found.code, f"{animal.function.__name__} {dtype}: {animal.mistakes}\n{found}"
            if not found.mistakes or found.mistakes[0] not in animal.mistakes:
                misnamed.append(f"{animal.function.__name__} {dtype}: {found.mistakes}, is {animal.mistakes}")
    print(f"{framework}: {broken - len(misnamed)} of {broken} mistakes named")
    assert len(misnamed) <= broken / 10, "\n".join(misnamed)


def test_the_zoo_is_as_large_as_it_says():
    """60 broken ones and 25 correct ones at least, each half; counted where all frameworks are"""
    for framework in FRAMEWORKS:
        animals(framework)
    kinds = {(animal.function.__name__, bool(animal.mistakes)) for animal in zoo.ANIMALS}
    assert sum(broken for _, broken in kinds) >= 100
    assert sum(not broken for _, broken in kinds) >= 45
    assert len({animal.mistakes[0] for animal in zoo.ANIMALS if animal.mistakes}) >= 40
