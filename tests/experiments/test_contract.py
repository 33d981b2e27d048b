"""What every experiment owes: adding one to the folder brings these tests along."""

import json
from dataclasses import FrozenInstanceError, fields, is_dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from toy_models import experiments
from toy_models.experiments import EXPERIMENTS, Claim, Skipped
from toy_models.experiments._config import explained

FOLDER = Path(experiments.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
each = pytest.mark.parametrize("experiment", NAMES)


def module(name):
    return import_module(f"toy_models.experiments.{name}")


def test_every_experiment_is_in_the_mapping():
    assert sorted(EXPERIMENTS) == NAMES
    assert all(EXPERIMENTS[name] is module(name) for name in NAMES)


@each
def test_it_states_its_claim_first(experiment):
    first = module(experiment).__doc__.split("\n\n")[0]
    assert first.rstrip().endswith(".") and len(first.split()) > 4


@each
def test_its_config_is_frozen_and_explains_every_field(experiment):
    config = module(experiment).Config()
    assert is_dataclass(config)
    for field in fields(config):
        assert isinstance(getattr(config, field.name), (bool, int, float, str, tuple)), field.name
        with pytest.raises(FrozenInstanceError):
            setattr(config, field.name, field.default)
    assert {field.name for field in fields(config)} == set(explained(type(config)))


@each
def test_every_claim_holds(experiment, result):
    found = module(experiment).claims(result)
    assert len(found) > 0
    assert {sentence: claim for sentence, claim in found.items() if not claim.holds} == {}


@each
def test_its_claims_are_claims(experiment, result):
    for sentence, claim in module(experiment).claims(result).items():
        assert isinstance(claim, Claim) and claim.evaluated and claim.expected, sentence
        assert isinstance(claim.holds, bool) and isinstance(claim.number, float), sentence
    json.dumps({sentence: claim._asdict() for sentence, claim in module(experiment).claims(result).items()})


@each
def test_its_result_is_arrays_that_a_file_can_hold(experiment, result):
    for name, x in result.items():
        assert isinstance(x, np.ndarray), name
        assert x.dtype.kind in "biufU", name
    for name in getattr(module(experiment), "REPLICATED", ()):
        assert len(result[name]) == module(experiment).Config().replicates, name


@each
def test_nothing_is_measured_by_claims_or_pictures(experiment, result):
    before = {name: x.copy() for name, x in result.items()}
    module(experiment).claims(result)
    panels = getattr(module(experiment), "PANELS", (module(experiment).plot,))
    assert panels[0] is module(experiment).plot
    for draw in panels:
        axes = Figure().subplots()
        assert draw(result, axes) is axes
        assert axes.has_data() and axes.get_xlabel() + axes.get_title()
    for name, x in result.items():
        np.testing.assert_array_equal(x, before[name], err_msg=name)


@each
def test_a_seed_that_is_not_one_is_refused(experiment):
    config = module(experiment).Config
    if "seed" in {field.name for field in fields(config)}:
        with pytest.raises(ValueError, match="seed is -1; expected a whole number, at least 0"):
            config(seed=-1)


@each
@pytest.mark.slow
def test_its_pictures_can_be_drawn_without_axes_of_ours(experiment, result):
    import matplotlib.pyplot as plt

    for draw in getattr(module(experiment), "PANELS", (module(experiment).plot,)):
        axes = draw(result)
        axes.figure.draw_without_rendering()
        plt.close(axes.figure)


@each
@pytest.mark.slow
def test_the_same_config_makes_the_same_arrays(experiment, result):
    again = module(experiment).run(module(experiment).Config())
    assert again.keys() == result.keys()
    for name, x in result.items():
        np.testing.assert_array_equal(again[name], x, err_msg=name)


@each
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_every_claim_holds_for_other_seeds(experiment, seed):
    config = module(experiment).Config
    if "seed" not in {field.name for field in fields(config)}:
        pytest.skip("nothing is drawn")
    try:
        found = module(experiment).claims(module(experiment).run(config(seed=seed)))
    except Skipped as reason:
        pytest.skip(str(reason))
    assert {sentence: claim for sentence, claim in found.items() if not claim.holds} == {}
