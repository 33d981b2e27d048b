"""The demo's numbers, asserted; and the command itself, as a newcomer runs it."""

import numpy as np
import pytest

from dpo_numpy.cli import demo


def test_descent_on_the_exact_population_reaches_the_boltzmann_policy_at_the_predicted_rate():
    run = demo.convergence()
    assert run.kl[-1] < 1e-20
    assert abs(run.policy - run.optimum).max() < 1e-10
    at = run.found.step
    late = (at >= 300) & (at <= 900)  # KL is second order in the error: half its logarithm's slope
    rate = np.exp(np.polyfit(at[late], np.log(run.kl[late]), 1)[0] / 2)
    assert rate == pytest.approx(run.found.predicted, rel=1e-4)
    assert run.found.measured == pytest.approx(run.found.predicted, rel=1e-4)
    assert run.found.converged
    assert run.found.loss == pytest.approx(run.floor, abs=1e-12)


def test_the_same_descent_stopped_early_is_not_there_yet():
    assert demo.convergence(steps=100, lr=0.2).kl[-1] > 1e-3


def test_the_gradient_of_a_step_meets_complex_steps_to_rounding():
    for found in demo.gradient_checks(directions=3):
        assert found.units < (4 if "complex" in found.name else 2000), found  # differences keep 12 of 19 digits


def test_first_steps_are_as_predicted_and_most_chosen_answers_fall_in_the_end():
    found = demo.predictions()
    right = np.sign(found.first_order) == np.sign(found.change)
    assert right[0].all()
    assert (found.change[-1][:, 0] < 0).mean() > 0.5
    assert (found.change[-1][:, 0] > found.change[-1][:, 1]).all()
    assert found.change[0] == pytest.approx(demo.LR * found.first_order, rel=0.2, abs=0.01)


def test_the_command_writes_its_figures_and_says_where(tmp_path, capsys):
    from dpo_numpy.cli import main

    assert main(["demo", "--output_dir", str(tmp_path / "figures")]) == 0
    out = capsys.readouterr().out
    for expected in ("-log σ(0.22) = 0.589185", "-0.044522", "+0.044522", "weight   σ(-0.22) = 0.445221"):
        assert expected in out
    figures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert figures == ["1_pair.png", "2_gradient.png", "3_convergence.png", "4_predictions.png"]
    assert all(name in out for name in figures)


def test_a_file_in_the_way_is_one_sentence(tmp_path, capsys):
    from dpo_numpy.cli import main

    (tmp_path / "figures").write_text("mine")
    assert main(["demo", "--output_dir", str(tmp_path / "figures")]) == 2
    assert "a file; expected a folder" in capsys.readouterr().err
    assert (tmp_path / "figures").read_text() == "mine"
