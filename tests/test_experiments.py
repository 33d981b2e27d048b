"""The experiments as a package: what it offers is what its page names, and importing the models does not import it."""

import subprocess
import sys

from toy_models import experiments


def test_its_page_names_what_it_offers():
    offered = {name for name in experiments.__all__ if name[0].islower()}
    assert offered == {"bands", "check_convergence", "sweep", "train_exact_gradient"}
    assert all(name in experiments.__doc__ for name in offered)


def test_models_come_without_experiments_and_without_closed_forms():
    code = "import sys, toy_models; print({'toy_models.experiments', 'analytic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
