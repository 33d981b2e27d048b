"""Sphinx's settings for the site; `make docs` runs docs/website.py, which lays out the pages and calls Sphinx."""

from __future__ import annotations

import inspect
import posixpath
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from docstrings import to_rst  # noqa: E402
from website import MATHJAX, PACKAGES, public_modules, said_of_data  # noqa: E402

import dpo_numpy  # noqa: E402

project = "dpo-numpy"
author = copyright = "dpo-numpy contributors"  # Sphinx asks for this name
version = release = dpo_numpy.__version__
root_doc = "docs/index"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx.ext.mathjax"]
highlight_language = "text"
# Two classes may have one name, and annotations have no more than that.
suppress_warnings = ["myst.mathjax", "ref.python"]

# Python: signatures as they are written; what is not ours cannot be linked to, offline.
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("Array", "ArrayLike", "NDArray", "DTypeLike", "Params", "Record")}
autodoc_use_type_comments = False
add_module_names = False
maximum_signature_line_length = 90
python_use_unqualified_type_names = True
nitpick_ignore_regex = [("py:.*", r"(?!(dpo_numpy|toy_models|analytic)\b).*")]
viewcode_line_numbers = True

# Notebooks come with their outputs.
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, Any] = {}
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

# Formulas are drawn as SVG: browsers that refuse fonts from file:// show them too.
mathjax_path = f"mathjax/{MATHJAX}"
mathjax3_config = {"options": {"enableMenu": False}}

html_theme = "furo"
html_title = "dpo-numpy"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_search_summary = False  # it would fetch the pages found, which browsers refuse from file://
pygments_style, pygments_dark_style = "tango", "monokai"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#0072B2"},
    "dark_css_variables": {"color-brand-primary": "#56B4E9", "color-brand-content": "#56B4E9"},
}


def as_written(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text; data without one are as their module or package says, not as their type does."""
    text = inspect.cleandoc("\n".join(lines))
    if what == "data" and text == inspect.getdoc(type(obj)):
        text = said_of_data(name.rpartition(".")[0], name.rpartition(".")[2])
    lines[:] = to_rst(text) if text else []


def skipped(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """The fields of named tuples say only which number they have; the class says what they are."""
    field = type(obj).__name__ == "_tuplegetter" or str(inspect.getdoc(obj)).startswith("Alias for field number")
    return True if field else None


def as_doctest(app: Any, name: str, source: list[str]) -> None:
    source[0] = re.sub(r"^```python\n(>>>.*?)\n*^```$", r"```pycon\n\1\n```", source[0], flags=re.MULTILINE | re.DOTALL)


def to_source(app: Any, doctree: Any, name: str) -> None:
    """A link to a module of ours leads to its page of source code; every other file is offered as it is."""
    from docutils import nodes
    from sphinx import addnodes

    modules = set(public_modules())
    for node in list(doctree.findall(addnodes.download_reference)):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), node["reftarget"]))
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        if path.endswith(".py") and module in modules:
            page = f"_modules/{module.replace('.', '/')}"
            link = nodes.reference("", "", *node.children, internal=True,
                                   refuri=app.builder.get_relative_uri(name, page))
            node.replace_self(link)


def stay(app: Any, module: str, attribute: str) -> str | None:
    """The source of a constant is where it is, not where its type is."""
    found = getattr(import_module(module), attribute.partition(".")[0], None)
    return None if str(getattr(found, "__module__", "")).startswith(PACKAGES) else module


def private(app: Any, env: Any, node: Any, shown: Any) -> Any:
    """A type of ours that is there, but not public, is named without a link; one that is not there is a warning."""
    module, _, name = node.get("reftarget", "").rpartition(".")
    ours = node.get("refdomain") == "py" and module.startswith(PACKAGES)
    return shown if ours and hasattr(import_module(module), name) else None


def setup(app: Any) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", as_written)
    app.connect("autodoc-skip-member", skipped)
    app.connect("source-read", as_doctest)
    app.connect("missing-reference", private)
    app.connect("viewcode-follow-imported", stay)
    app.connect("doctree-resolved", to_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
