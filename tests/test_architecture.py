"""What the source must look like: who imports whom, and when; names; what no file may contain.

Each rule is a function from source text to a list of complaints. It is applied to the whole project, and to a few lines
that break it.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Collection
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("dpo_numpy", "analytic", "toy_models")


def module_name(path: Path) -> str:
    """dpo_numpy/cli/__init__.py -> dpo_numpy.cli"""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
SCRIPTS = [path for folder in ("tests", "benchmarks", "notebooks") for path in sorted((ROOT / folder).rglob("*.py"))]
TEXTS = [*MODULES.values(), *SCRIPTS, *sorted(ROOT.glob("*.md")), *sorted((ROOT / "notebooks").glob("*.md")),
         *(ROOT / name for name in ("Makefile", "setup.cfg", "pyproject.toml", ".ci/run"))]


def test_there_is_something_to_look_at() -> None:
    assert {*PACKAGES, "dpo_numpy.losses"} <= MODULES.keys()
    assert Path(__file__) in SCRIPTS
    assert all(path.is_file() for path in TEXTS)


# Imports


class Import(NamedTuple):
    name: str  # absolute, down to what is imported: dpo_numpy.losses.dpo
    at_import: bool  # carried out when the importing module is itself imported
    line: int


@cache
def imports(source: str, module: str, is_package: bool = False) -> list[Import]:
    """Every import in the source of `module`; those in functions or for type checkers are not carried out at import."""
    parents = module.split(".") if is_package else module.split(".")[:-1]
    found = []

    def visit(node: ast.AST, at_import: bool) -> None:
        later: list[ast.AST] = []
        match node:
            case ast.Import(names=names):
                found.extend(Import(alias.name, at_import, node.lineno) for alias in names)
            case ast.ImportFrom(module=base, names=names, level=level):
                prefix = [*parents[: len(parents) + 1 - level], *filter(None, [base])] if level else [base]
                found.extend(Import(".".join([*prefix, alias.name]), at_import, node.lineno) for alias in names)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(str(target)), *_]):
                if name in ("import_module", "__import__") and not target.startswith("."):
                    found.append(Import(target, at_import, node.lineno))
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                later = [*ast.iter_child_nodes(node)]
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"), body=body):
                later = [*body]
        for child in ast.iter_child_nodes(node):
            visit(child, at_import and child not in later)

    visit(ast.parse(source), at_import=True)
    return found


class Rule(NamedTuple):
    """What a part of the project may import, besides the standard library."""

    when_imported: Collection[str]
    never: Collection[str] = ()  # not even in a function
    nothing_else: bool = False  # functions are bound by `when_imported` too


CORE = ("dpo_numpy", "dpo_numpy.minimal", "numpy")
MODELS = (*CORE, "toy_models", "scipy")
FRONT = Rule((*CORE, "dpo_numpy.cli", "dpo_numpy.playground", "dpo_numpy.teach"))

# A module belongs to the longest of these names that begins its own.
RULES = {
    "dpo_numpy": Rule(CORE, never=("toy_models", "toy_models.experiments", "analytic")),
    "dpo_numpy.minimal": Rule(("numpy",), nothing_else=True),
    "dpo_numpy.cli": FRONT,
    "dpo_numpy.conformance.pytest_plugin": Rule((*CORE, "pytest")),
    "dpo_numpy.playground": FRONT,
    "dpo_numpy.teach": FRONT,
    "dpo_numpy.__main__": FRONT,
    "analytic": Rule(("analytic", "numpy", "scipy"), nothing_else=True),
    "toy_models": Rule(MODELS, nothing_else=True),
    "toy_models.experiments": Rule((*MODELS, "toy_models.experiments", "analytic", "matplotlib")),
}


def part(name: str) -> str:
    """The part of the project that a dotted name belongs to, or else its top-level package."""
    homes = [home for home in RULES if f"{name}.".startswith(f"{home}.")]
    return max(homes, key=len, default=name.partition(".")[0])


def broken_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    rule = RULES[part(module)]
    complaints = []
    for name, at_import, line in imports(source, module, is_package):
        target = part(name)
        if target in sys.stdlib_module_names or target in rule.when_imported:
            continue
        if target in rule.never or rule.nothing_else:
            complaints.append(f"{module}:{line} may not import {name}")
        elif at_import:
            complaints.append(f"{module}:{line} may import {name} in a function only")
    return complaints


def test_imports_go_one_way() -> None:
    complaints = []
    for module, path in MODULES.items():
        complaints += broken_imports(path.read_text("utf-8"), module, path.name == "__init__.py")
    assert complaints == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dpo_numpy.losses", "import scipy"),
        ("dpo_numpy.losses", "import scipy.special as sp"),
        ("dpo_numpy.losses", "try:\n    from tqdm import tqdm\nexcept ImportError:\n    pass"),
        ("dpo_numpy.data", "class Reader:\n    import pyarrow.parquet"),
        ("dpo_numpy.losses", "def f():\n    import analytic.optimum"),
        ("dpo_numpy.losses", "if TYPE_CHECKING:\n    from toy_models import Tabular"),
        ("dpo_numpy.losses", "if TYPE_CHECKING:\n    pass\nelse:\n    import scipy"),
        ("dpo_numpy.losses", "from importlib import import_module\ndef f():\n    import_module('toy_models.worlds')"),
        ("dpo_numpy.losses", "import importlib\nimportlib.import_module('scipy')"),
        ("dpo_numpy.losses", "def f():\n    __import__('toy_models.experiments.drift')"),
        ("dpo_numpy.losses", "from . import cli"),
        ("dpo_numpy.losses", "from .playground.server import serve"),
        ("dpo_numpy.conformance.verify", "import torch"),
        ("dpo_numpy.conformance.verify", "from ..cli import main"),
        ("dpo_numpy.minimal", "from .numerics import log_sigmoid"),
        ("dpo_numpy.minimal", "def f():\n    from dpo_numpy import losses"),
        ("dpo_numpy.cli.demo", "import matplotlib.pyplot as plt"),
        ("dpo_numpy.cli", "import toy_models"),
        ("dpo_numpy.playground.server", "from analytic import optimum"),
        ("analytic.flow", "import dpo_numpy"),
        ("analytic.flow", "def f():\n    import dpo_numpy"),
        ("analytic.flow", "from toy_models import Tabular"),
        ("toy_models.gpt", "import analytic"),
        ("toy_models.gpt", "import dpo_numpy_extras"),
        ("toy_models.gpt", "def f():\n    import analytic.ngram"),
        ("toy_models.gpt", "from .experiments import drift"),
        ("toy_models.gpt", "from dpo_numpy import cli"),
        ("toy_models.gpt", "def f():\n    import matplotlib"),
        ("toy_models.experiments.drift", "from tqdm import tqdm"),
        ("toy_models.experiments.drift", "from dpo_numpy.cli import main"),
    ],
)
def test_the_import_rule_can_fail(module: str, source: str) -> None:
    assert len(broken_imports(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dpo_numpy.losses", "from __future__ import annotations\nimport numpy as np, math\nfrom .links import margin"),
        ("dpo_numpy.data", "def f():\n    import pyarrow.parquet\n    from tqdm import tqdm"),
        ("dpo_numpy.conformance.verify", "from .. import LOSSES\nfrom ..numerics import sigmoid\nfrom .c import C"),
        ("dpo_numpy.losses", "from importlib import import_module\nimport_module('.links', __package__)"),
        ("dpo_numpy.cli", "if TYPE_CHECKING:\n    from matplotlib.figure import Figure"),
        ("dpo_numpy.minimal", "import numpy as np"),
        ("dpo_numpy.__main__", "from .cli import main"),
        ("dpo_numpy.cli.demo", "def f():\n    import analytic, toy_models.experiments\n    import matplotlib.pyplot"),
        ("analytic.flow", "from scipy.integrate import solve_ivp\nfrom .optimum import gibbs"),
        ("toy_models.gpt", "import dpo_numpy as dn\nfrom dpo_numpy.numerics import sigmoid\nfrom .ngram import NGram"),
        ("toy_models.experiments.drift", "import analytic.flow\nfrom .. import NGram\nfrom ._convergence import check"),
    ],
)
def test_the_import_rule_can_pass(module: str, source: str) -> None:
    assert broken_imports(source, module) == []


def test_relative_imports_start_at_the_package() -> None:
    source = "from . import a\nfrom .b import c\nfrom ..d import e"
    assert [found.name for found in imports(source, "p.q.r")] == ["p.q.a", "p.q.b.c", "p.d.e"]
    assert [found.name for found in imports(source, "p.q", is_package=True)] == ["p.q.a", "p.q.b.c", "p.d.e"]


def loaded_after(statement: str) -> set[str]:
    """The top-level packages in `sys.modules` after the statement, in an interpreter of its own."""
    program = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(run.stdout.split())


@pytest.mark.parametrize("statement", ["import dpo_numpy", "from dpo_numpy import *"])
def test_dpo_numpy_loads_numpy_alone(statement: str) -> None:
    loaded = loaded_after(statement)
    assert "dpo_numpy" in loaded
    assert not loaded & {"scipy", "matplotlib", "tqdm", "pyarrow", "toy_models", "analytic"}


def test_the_loading_rule_can_fail() -> None:
    assert "scipy" in loaded_after("import scipy.special")


# Names


def shadowed(modules: Collection[str], package: str, public: dict[str, object]) -> list[str]:
    """Modules named like a public object of their package: importing the module would put it in the object's place."""
    names = {f"{package}.{name}" for name, value in public.items() if not isinstance(value, ModuleType)}
    return [module for module in modules if module in names]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_is_named_like_a_public_function(package: str) -> None:
    home = import_module(package)
    assert shadowed(MODULES, package, {name: getattr(home, name) for name in getattr(home, "__all__", [])}) == []


def test_the_naming_rule_can_fail() -> None:
    modules = ("dpo_numpy.verify", "dpo_numpy.cli.verify", "dpo_numpy.losses")
    assert shadowed(modules, "dpo_numpy", {"verify": loaded_after, "losses": ast}) == ["dpo_numpy.verify"]


# Tests

TESTED_IN = {"dpo_numpy.__main__": ["test_cli"], "dpo_numpy.conformance": ["test_conventions"]}


def untested(modules: Collection[str], tests: dict[str, str]) -> list[str]:
    """Modules without a test file that imports their package.

    `p.name` is tested in test_name or test_p_name; `p.q.name` in test_name, test_q_name or, with all of q, test_q.
    """
    complaints = []
    for package, *below, stem in (module.split(".") for module in modules if module not in PACKAGES):
        module = ".".join([package, *below, stem])
        name, owner = stem.strip("_"), [package, *below][-1]
        candidates = [f"test_{name}", f"test_{owner}_{name}", *(f"test_{inner}" for inner in below)]
        candidates = TESTED_IN.get(module, candidates)
        imported = {found.name.partition(".")[0] for test in candidates for found in imports(tests.get(test, ""), test)}
        if package not in imported:
            complaints.append(f"{module}: no {' or '.join(candidates)} imports {package}")
    return complaints


def test_every_module_has_its_tests() -> None:
    assert untested(MODULES, {path.stem: path.read_text("utf-8") for path in SCRIPTS}) == []


@pytest.mark.parametrize(
    ("module", "tests"),
    [
        ("dpo_numpy.losses", {}),
        ("dpo_numpy.losses", {"test_links": "import dpo_numpy"}),
        ("analytic.ngram", {"test_ngram": "from toy_models import NGram"}),
        ("toy_models.experiments._convergence", {"test_drift": "import toy_models"}),
    ],
)
def test_the_test_rule_can_fail(module: str, tests: dict[str, str]) -> None:
    assert len(untested([module], tests)) == 1


@pytest.mark.parametrize(
    ("module", "tests"),
    [
        ("dpo_numpy.losses", {"test_losses": "import dpo_numpy as dn"}),
        ("analytic.ngram", {"test_analytic_ngram": "from analytic.ngram import sequence_logp"}),
        ("toy_models.experiments._convergence", {"test_convergence": "from toy_models.experiments import check"}),
        ("toy_models.experiments.drift", {"test_experiments": "from toy_models import experiments"}),
    ],
)
def test_the_test_rule_can_pass(module: str, tests: dict[str, str]) -> None:
    assert untested([module], tests) == []


# What no file may contain


def global_randomness(source: str) -> list[str]:
    """Uses of NumPy's global generator, its seeding included; classes and default_rng make a Generator of one's own."""
    if not re.search(r"\brandom\b(?!\.(default_rng|Generator)\b)", source):
        return []  # nothing else is called random: no need to parse it
    used = [(found.line, found.name) for found in imports(source, "")]
    used += [(n.lineno, ast.unparse(n)) for n in ast.walk(ast.parse(source))
             if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Attribute) and n.value.attr == "random"]
    forbidden = re.compile(r"(np|numpy)\.random\.(RandomState|(?!default_rng\b)[a-z]\w*)")
    return [f"{line}: {name}" for line, name in used if forbidden.fullmatch(name)]


def test_no_file_touches_the_global_random_state() -> None:
    found = {path: global_randomness(path.read_text("utf-8")) for path in (*MODULES.values(), *SCRIPTS)}
    assert {str(path): complaints for path, complaints in found.items() if complaints} == {}


@pytest.mark.parametrize(
    "source",
    [
        "np.random.seed(0)",
        "x = numpy.random.normal(3)",
        "from numpy.random import seed",
        "np.random.RandomState(0)",
        "def f():\n    np.random.rand()",
    ],
)
def test_the_randomness_rule_can_fail(source: str) -> None:
    assert len(global_randomness(source)) == 1


def test_the_randomness_rule_can_pass() -> None:
    assert global_randomness("np.random.default_rng(0)\nfrom numpy.random import Generator\nnp.random.PCG64(1)") == []


MARKS = ("TO" + "DO", "FIX" + "ME", "X" * 3)
LEFT_OPEN = re.compile(rf"\b({'|'.join(MARKS)})\b")


def left_open(text: str) -> list[str]:
    return [f"{number}: {line.strip()}" for number, line in enumerate(text.splitlines(), 1) if LEFT_OPEN.search(line)]


def test_nothing_is_left_open() -> None:
    found = {path: left_open(path.read_text("utf-8")) for path in TEXTS}
    assert {str(path): lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize("mark", MARKS)
def test_the_open_ends_rule_can_fail(mark: str) -> None:
    assert left_open(f"x = 1\n# {mark}: more\nMAS{mark}N = 2") == [f"2: # {mark}: more"]
