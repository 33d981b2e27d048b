"""What the site is made of, without building it: every public name has its docstring and its place, every link its end.

Each rule is a function that lists complaints. It is applied to the whole project, and to a little that breaks it.
"""

import ast
import doctest
import inspect
import json
import re
import sys
from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import dpo_numpy as dn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import docstrings  # noqa: E402
import website  # noqa: E402

# Docstrings


def of_a_named_tuple(x: object) -> bool:
    return type(x).__name__ == "_tuplegetter"


def undocumented(module: ModuleType, source: str, elsewhere: Collection[str] = ()) -> list[str]:
    """Public names without a docstring of their own; of constants, without a comment `#:` or a line in a docstring"""
    name, complaints = module.__name__, [] if module.__doc__ else [module.__name__]
    own = [key for key, x in vars(module).items()
           if not key.startswith("_") and callable(x) and getattr(x, "__module__", "") == name]
    for key in getattr(module, "__all__", own):
        x = getattr(module, key)
        if key in elsewhere:
            continue
        if inspect.isclass(x):
            made = re.match(rf"{x.__name__}\(", x.__doc__ or "")  # by NamedTuple or dataclass
            if not x.__doc__ or made:
                complaints.append(f"{name}.{key}")
            for inner, member in vars(x).items():
                public = not inner.startswith("_") and not of_a_named_tuple(member)
                known = callable(member) or isinstance(member, (property, classmethod, staticmethod))
                if public and known and not inspect.getdoc(getattr(x, inner)):
                    complaints.append(f"{name}.{key}.{inner}")
        elif inspect.isfunction(inspect.unwrap(x)):
            complaints += [] if inspect.getdoc(x) else [f"{name}.{key}"]
        elif not isinstance(x, ModuleType):
            commented = re.search(rf"^#: .*\n(?:\w+, )*{key}\b", source, re.MULTILINE)
            told = getattr(x, "__dict__", {}).get("__doc__")  # its own: what an array says depends on NumPy's version
            if not (commented or told or website.said_of_data(name, key)):
                complaints.append(f"{name}.{key}")
    return complaints


@pytest.mark.parametrize("module", website.public_modules())
def test_every_public_name_has_a_docstring(module):
    elsewhere = [found.name for found in website.public_names(module) if found.home != module]
    assert undocumented(import_module(module), inspect.getsource(import_module(module)), elsewhere) == []


SYNTHETIC = '''
"""A module."""
from typing import NamedTuple
import numpy as np
__all__ = ["C", "N", "f", "K", "W", "L", "M"]
class C:
    """Documented."""
    def said(self):
        """said"""
    def silent(self): ...
    @property
    def quiet(self): ...
    @classmethod
    def mute(cls): ...
    def _private(self): ...
class N(NamedTuple):
    x: int
def f(): ...
K = 1
W = np.ones(1)
#: one
L = 1
M = 1
'''


def test_the_docstring_rule_can_fail(monkeypatch, tmp_path):
    module = ModuleType("synthetic")
    module.__file__ = str(tmp_path / "synthetic.py")
    Path(module.__file__).write_text(SYNTHETIC)
    monkeypatch.setitem(sys.modules, "synthetic", module)
    exec(SYNTHETIC, module.__dict__)
    module.__doc__ = "A module.\n\n    M    a constant"
    found = undocumented(module, SYNTHETIC)
    assert found == [f"synthetic.{name}" for name in ("C.silent", "C.quiet", "C.mute", "N", "f", "K", "W")]
    assert "synthetic.f" not in undocumented(module, SYNTHETIC, elsewhere=["f"])
    module.__doc__ = None
    assert "synthetic" in undocumented(module, SYNTHETIC)


# The list of the API


def test_every_module_is_public_private_or_of_the_command():
    files = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
             for package in ("dpo_numpy", "toy_models", "analytic") for path in (ROOT / package).rglob("*.py")}
    rest = files - set(website.public_modules())
    assert rest
    assert all("._" in name or name.startswith("dpo_numpy.cli") for name in rest)
    assert {"dpo_numpy", "dpo_numpy.losses", "analytic.ngram", "toy_models.experiments.noise"} <= files - rest


def unlisted(names: Collection[str], page: str) -> list[str]:
    """Names that the page neither describes nor links to"""
    return [name for name in names if not re.search(rf"^(\.\. auto\w+:: .*|- :py:obj:`.*|- :doc:`.*)\b{name}\b", page,
                                                   re.MULTILINE)]


def in_all(source: str) -> list[str]:
    """`__all__`, as it is written; where it is computed or missing, nothing"""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value)) if isinstance(node.value, ast.List) else []
    return []


@pytest.mark.parametrize("module", website.public_modules())
def test_every_public_name_is_on_its_page(module):
    assert unlisted(in_all(inspect.getsource(import_module(module))), website.api_page(module)) == []


def test_the_package_lists_its_names_and_links_lead_to_what_is_described():
    page = website.api_page("dpo_numpy")
    assert unlisted(dn.__all__, page) == []
    assert unlisted(["dpo_loss", "dpo_step", "sequence_logps"], website.api_page("dpo_numpy.minimal")) == []
    pages = "".join(map(website.api_page, website.public_modules()))
    described = {*re.findall(r"^\.\. auto(?:class|function|data):: (\S+)", pages, re.MULTILINE)}
    linked = {*re.findall(r":py:obj:`\w+ <([\w.]+)>`", pages)}
    assert linked and linked <= described


def test_the_list_rule_can_fail():
    page = ".. autofunction:: p.f\n.. autodata:: p.K\n- :py:obj:`g <p.q.g>`, of :doc:`p.q`"
    assert unlisted(["f", "K", "g", "h", "fo"], page) == ["h", "fo"]


@pytest.mark.parametrize("name", ["dpo_numpy", "toy_models", "analytic"])
def test_every_module_is_reached_from_its_package(name):
    below, waiting = set(), [name]
    while waiting:
        inside = website.submodules(waiting.pop())
        below |= {*inside}
        waiting += inside
    assert below == {module for module in website.public_modules() if module.startswith(f"{name}.")}


# Docstrings on a page


@pytest.mark.parametrize("module", website.public_modules())
def test_a_page_loses_nothing_of_a_docstring(module):
    """Every letter, digit and sign, in order; but for the signs that mark up a page"""
    found = import_module(module)
    for x in (found, *(getattr(found, each.name) for each in website.public_names(module) if each.kind != "data")):
        text = inspect.getdoc(x) or ""
        lines = [line for line in docstrings.to_rst(text) if not re.match(r"\s*(\.\. |:class:|:widths:)", line)]
        kept = re.compile(r"[\s`\\:*-]")
        assert kept.sub("", "\n".join(lines)) == kept.sub("", text)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Words *as* they_ `are`s: |y|.", [r"\Words \*as\* they\_ \ ``are``\ s\: \|y\|.", ""]),
        ("- one\n- two `x`\n  and more", ["- \\one", r"- \two \ ``x``\  and more", ""]),
        ("f(x) = 1\nf(y) = 2", [".. code-block:: text", "   :class: formula", "", "   f(x) = 1", "   f(y) = 2", ""]),
        ("Here:\n\n    a   1  2\n      b",
         [r"\Here\:", "", "", ".. code-block:: text", "   :class: columns", "", "   a   1  2", "     b", ""]),
        ("beta    reward a nat\nlam     what a token\n        gains",
         [".. list-table::", "   :class: defined", "   :widths: auto", "", "   * - ``beta``",
          r"     - \reward a nat", "   * - ``lam``", r"     - \what a token gains", ""]),
        ("So:\n>>> 1\n1", [r"\So\:", "", "", ".. code-block:: pycon", "", "   >>> 1", "   1", ""]),
    ],
)
def test_a_docstring_as_a_page_has_it(text, lines):
    assert docstrings.to_rst(text) == lines


def test_the_examples_of_the_scripts():
    assert doctest.testmod(docstrings).failed == 0 < doctest.testmod(docstrings).attempted


# The folder


def test_only_an_older_site_is_cleared_away(tmp_path):
    new, empty, site, mine = (tmp_path / name for name in ("new", "empty", "site", "mine"))
    for folder in (empty, site, mine):
        folder.mkdir()
    (site / ".buildinfo").touch()
    (mine / "thesis.tex").touch()
    for folder in (new, empty, site):
        website.clear(folder)
        assert not folder.exists()
    for folder in (mine, mine / "thesis.tex"):
        with pytest.raises(ValueError, match="which holds something else than a site; expected a new folder"):
            website.clear(folder)
    assert (mine / "thesis.tex").exists()


# Losses


def test_every_loss_is_in_the_table_with_formula_and_page():
    table = website.loss_table()
    for name in {*dn.LOSSES, *dn.SURROGATES}:
        assert f":doc:`{name} <losses/{name}>`" in table
        assert (f".. image:: losses/{name}.png" in table) == (name in dn.LOSSES)
    assert "``L = (h - 1/(2τ))²``" in table and "`arXiv:2310.12036 <https://arxiv.org/abs/2310.12036>`__" in table
    assert sorted(website.all_losses()) == sorted({*dn.LOSSES, *dn.SURROGATES})


def test_the_page_of_a_loss_says_what_show_says():
    page = website.loss_page("ipo")
    assert ".. autofunction:: dpo_numpy.losses.ipo\n" in page and ".. image:: ipo.png" in page
    assert re.search(r"needs +ref_logp", page)
    assert ".. image::" not in website.loss_page("grpo")


# Pages and links


def headings(text: str) -> list[str]:
    """As anchors, in GitHub's way"""
    prose = re.sub(r"^(```+).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    found: list[str] = []
    for words in re.findall(r"^#{1,6} +(.*?) *$", prose, re.MULTILINE):
        words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", words)
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{sum(each.startswith(slug) for each in found)}")
    return found


def dead(name: str, text: str, pages: dict[str, str]) -> list[str]:
    """Links of a page to files or headings that are not there"""
    complaints = []
    for _, target in website.links(text):
        if re.match(r"[a-z]+:", target):
            continue
        path = website.from_root(str(Path(name).parent), target) if not target.startswith("#") else name
        anchor = target.partition("#")[2]
        missing = path not in pages and not (ROOT / path).is_file()
        if missing or (anchor and path in pages and anchor not in headings(pages[path])):
            complaints.append(f"{name}: {target}")
    return complaints


PAGES = dict(website.texts())


def test_pages_are_found():
    assert {"README.md", "docs/index.md", "docs/libraries/README.md"} <= PAGES.keys()


@pytest.mark.parametrize("name", PAGES)
def test_every_link_has_its_end(name):
    assert dead(name, PAGES[name], PAGES) == []


def test_the_link_rule_can_fail():
    text = ("[a](../README.md) [b](nowhere.md) [c](#here) [d](#there) ![e](no.png) [f](https://e.org)\n\n"
            "# Here\n\n```\n[g](code.md)\n```\n\n"
            "`[h](code.md)` [i](../README.md#learn) [j](../README.md#unlearn) [k](..)\n")
    pages = {**PAGES, "docs/synthetic.md": text}
    assert dead("docs/synthetic.md", text, pages) == [
        f"docs/synthetic.md: {target}" for target in ("nowhere.md", "#there", "no.png", "../README.md#unlearn", "..")]


def test_headings_are_anchors_as_they_are_elsewhere():
    assert headings("# One: `two`\n## a_b, c-d\n## π*\n```\n# no\n```\n# [x](y) z\n# One two") == [
        "one-two", "a_b-c-d", "π", "x-z", "one-two-1"]


def unreached(pages: Collection[str], index: str, lists: Collection[tuple[str, str]]) -> list[str]:
    """Pages that neither the index nor a page that lists others links to"""
    linked = {website.from_root("docs", target) for _, target in website.links(index)}
    linked |= {website.from_root(str(Path(name).parent), target)
               for name, text in lists for _, target in website.links(text)}
    return [page for page in pages if page not in linked]


def test_every_page_is_in_the_index():
    pages = [name for name in PAGES if name.endswith(".md") and name != "docs/index.md"]
    lists = [("docs/libraries/README.md", PAGES["docs/libraries/README.md"])]
    assert unreached(pages, PAGES["docs/index.md"], lists) == []
    listed = [page for section in website.sections(PAGES["docs/index.md"]) for page in section.pages.values()]
    assert len(set(listed)) == len(listed) and set(listed) <= PAGES.keys()
    assert [section.title for section in website.sections(PAGES["docs/index.md"])] == [
        "Learn", "Verify", "Experiment", "Reference"]


def test_the_index_rule_can_fail():
    found = unreached(["docs/a.md", "docs/b.md", "c.md"], "[a](a.md)", [("docs/x/y.md", "[c](../../c.md)")])
    assert found == ["docs/b.md"]


def test_notebooks_are_read_cell_by_cell(tmp_path, monkeypatch):
    cells = [{"cell_type": "markdown", "source": ["[a](b.md)\n", "x"]}, {"cell_type": "code", "source": ["[c](d.md)"]}]
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_x.ipynb").write_text(json.dumps({"cells": cells}))
    monkeypatch.setattr(website, "ROOT", tmp_path)
    monkeypatch.setattr(website, "DOCS", tmp_path)
    (_, text), = website.texts()
    assert website.links(text) == [("a", "b.md")]


def test_the_front_page_says_what_is_so():
    found = doctest.testfile(str(ROOT / "docs" / "index.md"), module_relative=False)
    assert found.failed == 0 < found.attempted
