"""The kit on the zoo: every broken animal is flagged, nine in ten mistakes are named, no correct one raises an alarm;
and correct ones are told from all other losses.

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
    for part in ("before", "after", "third"):
        import_module(f"zoo.{framework}_{part}")
    return [(animal, dtype) for animal in zoo.ANIMALS if animal.framework == framework for dtype in animal.dtypes]


def held(animal, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dn.verify(animal.function, animal.loss, seam=animal.seam, framework=animal.framework, dtype=dtype,
                         **animal.options, **animal.hyper)


def name_of(animal):
    """Some are objects, which have none"""
    return getattr(animal.function, "__name__", type(animal.function).__name__)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_no_alarm_on_correct_ones(framework):
    for animal, dtype in animals(framework):
        if not animal.mistakes:
            found = held(animal, dtype)
            assert found.code == 0, f"{name_of(animal)}\n{found}"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_broken_one_is_flagged_and_nine_in_ten_are_named(framework):
    misnamed, broken = [], 0
    for animal, dtype in animals(framework):
        if animal.mistakes:
            found, broken = held(animal, dtype), broken + 1
            assert found.code, f"{name_of(animal)} {dtype}: {animal.mistakes}\n{found}"
            if not found.mistakes or found.mistakes[0] not in animal.mistakes:
                misnamed.append(f"{name_of(animal)} {dtype}: {found.mistakes}, is {animal.mistakes}")
    print(f"{framework}: {broken - len(misnamed)} of {broken} mistakes named")
    assert len(misnamed) <= broken / 10, "\n".join(misnamed)


@pytest.mark.parametrize("framework", FRAMEWORKS[:2])
def test_correct_ones_are_identified(framework):
    """By name, among all losses of their seam: as the first, or as one that is the same at these settings"""
    unknown, tried = [], set()
    for animal, dtype in animals(framework):
        if not animal.mistakes and id(animal) not in tried:
            tried.add(id(animal))
            found = dn.identify(animal.function, seam=animal.seam, framework=framework, dtype=dtype, **animal.options,
                                **animal.hyper)
            if not found.exact or not any(one.startswith(f"{animal.loss}(") for one in str(found).split("also ")):
                unknown.append(f"{name_of(animal)}, {animal.loss}: {found}")
    assert not unknown, "\n".join(unknown)


def test_the_zoo_is_as_large_as_it_says():
    """Counted where all frameworks are"""
    for framework in FRAMEWORKS:
        animals(framework)
    broken = [animal for animal in zoo.ANIMALS if animal.mistakes]
    assert (len(broken), len(zoo.ANIMALS) - len(broken)) == (194, 100)
    assert len({animal.mistakes[0] for animal in zoo.ANIMALS if animal.mistakes}) >= 40
