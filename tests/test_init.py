"""Names that load themselves."""

import importlib
import subprocess
import sys

import pytest

import dpo_numpy as dn


@pytest.mark.parametrize("name", dn.__all__)
def test_every_name_is_there_and_is_its_modules(name):
    if name in ("Examples", "Bytes", "Words", "load", "to_preferences"):
        pytest.importorskip("dpo_numpy.data")
    namespace = {}
    exec(f"from dpo_numpy import {name}", namespace)
    module = importlib.import_module(f"dpo_numpy.{dn._HOME[name]}")
    assert namespace[name] is getattr(module, name)
    assert name in module.__all__
    assert name in dir(dn)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'dpo_numpy' has no attribute 'dpo'"):
        dn.dpo  # noqa: B018
    with pytest.raises(ImportError):
        exec("from dpo_numpy import dpo")
    assert not hasattr(dn, "__path_to_nowhere__")


def test_all_is_sorted_and_there_is_a_version():
    assert dn.__all__ == sorted(set(dn.__all__))
    assert dn.__version__.count(".") == 2
    assert "__version__" in dir(dn)


def test_a_name_is_looked_up_once():
    dn.__dict__.pop("sgd", None)
    assert "sgd" not in vars(dn)
    first = dn.sgd
    assert vars(dn)["sgd"] is first


def test_import_alone_loads_no_module_of_the_package_nor_scipy():
    code = ("import sys, dpo_numpy\n"
            "print(sorted(m for m in sys.modules if m.startswith(('dpo_numpy.', 'scipy', 'matplotlib'))))\n"
            "dpo_numpy.sgd\n"
            "print('dpo_numpy.optim' in sys.modules, 'dpo_numpy.gradient' in sys.modules)")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
    assert out[0] == "[]"
    assert out[1] == "True False"
