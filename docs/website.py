"""Lays out the pages of the site, draws its pictures and calls Sphinx: `make docs`.

    python docs/website.py build/docs

Markdown and notebooks are committed and read well where they are; docs/index.md lists them, section by section.
Added here: the pages of the API and of each loss, made from the docstrings, and MathJax, out of a package, so that the
site opens offline. The layout keeps the repository's folders, so links stay as they are.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from posixpath import join, normpath
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import unquote

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PACKAGES = ("dpo_numpy", "toy_models", "analytic")
COMMAND = ("dpo_numpy.cli", "dpo_numpy.__main__")  # not to be imported; `--help` speaks for them
MATHJAX = "tex-svg-full.js"
PLAY = "`dpo-numpy play`"  # in docs/index.md, where only the site has a page to link to

sys.path.insert(0, str(ROOT))


# ---- what is public

@cache
def public_modules() -> tuple[str, ...]:
    """By their files, packages first: no part of the name begins with _, and it is not the command."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if not re.search(r"\._", name) and not f"{name}.".startswith(tuple(f"{part}." for part in COMMAND)):
                found.append(name)
    return tuple(sorted(found, key=lambda name: (PACKAGES.index(name.partition(".")[0]), name)))


class Name(NamedTuple):
    """A public name of a module: what it is there, and the public module that it comes from."""

    name: str
    kind: str  # class, function, data, module
    home: str


def public_names(module: str) -> list[Name]:
    """`__all__`; where there is none, what is defined there and does not begin with _"""
    found = import_module(module)
    own = [name for name, x in vars(found).items()
           if not name.startswith("_") and getattr(x, "__module__", None) == module and callable(x)]
    return [_described(module, name, getattr(found, name)) for name in getattr(found, "__all__", own)]


def _described(module: str, name: str, x: Any) -> Name:
    if isinstance(x, ModuleType):
        return Name(name, "module", x.__name__)
    kind = "class" if inspect.isclass(x) else "function" if inspect.isfunction(inspect.unwrap(x)) else "data"
    home = getattr(x, "__module__", module) if kind != "data" else _home_of_data(module, name)
    return Name(name, kind, home if home in public_modules() and _lists(home, name) else module)


def _lists(home: str, name: str) -> bool:
    found = import_module(home)
    return name in getattr(found, "__all__", vars(found))


def _home_of_data(module: str, name: str) -> str:
    """dpo_numpy keeps a table of them; data of other packages stay where they are."""
    homes = getattr(import_module(module), "_HOME", {})
    return f"{module}.{homes[name]}" if name in homes else module


def said_of_data(module: str, name: str) -> str:
    """What is said of a constant: in a table `NAME   words` of its module or package, or in a comment `#:` above it"""
    package = module.rpartition(".")[0]
    for home in filter(None, (module, package)):
        found = re.search(rf"^( *{name} {{2,}})(\S.*(?:\n +\S.*)*)", import_module(home).__doc__ or "", re.MULTILINE)
        if found:
            first, *more = found[2].splitlines()
            indent = re.compile(f" {{{len(found[1])}}}\\S")
            return " ".join([first, *(line.strip() for line in takewhile(indent.match, more))])
    path = Path(import_module(module).__file__ or "")
    for each in (path, *sorted(path.parent.glob("_[a-z]*.py"))):
        above = re.search(rf"((?:^#: .*\n)+)(?:\w+, )*{name}\b", each.read_text("utf-8"), re.MULTILINE)
        if above:
            return above[1].replace("#: ", "").strip()
    return ""


# ---- the pages made from docstrings

def first_sentence(module: str) -> str:
    text = " ".join((import_module(module).__doc__ or "").split("\n\n")[0].split())
    return re.split(r"(?<=[^A-Z])\. |:$|\.$", text)[0]


def title(text: str, line: str = "=") -> list[str]:
    return [text, line * len(text), ""]


def api_page(module: str) -> str:
    """The module's docstring, then its names in order: described where they are at home, else a link."""
    lines = [*title(module), f".. automodule:: {module}", ""]
    for found in public_names(module):
        if found.kind == "module":
            lines += [f"- :doc:`{found.home}`", ""]
        elif found.home != module:
            lines += [f"- :py:obj:`{found.name} <{found.home}.{found.name}>`, of :doc:`{found.home}`", ""]
        else:
            lines += [f".. auto{found.kind}:: {module}.{found.name}"]
            lines += [*{"class": ["   :members:"], "data": ["   :no-value:"]}.get(found.kind, []), ""]
    if inside := submodules(module):
        lines += [".. toctree::", "   :hidden:", "", *(f"   {each.rpartition('.')[2]} <{each}>" for each in inside)]
    return "\n".join(lines) + "\n"


def submodules(module: str) -> list[str]:
    return [each for each in public_modules() if each.rpartition(".")[0] == module]


def api_list() -> str:
    """For docs/api.md: each module and its first sentence"""
    lines = []
    for package in PACKAGES:
        lines += ["", f"## {package}", ""]
        lines += [f"- [{name}](api/{name}.rst): {markdown(first_sentence(name))}" for name in public_modules()
                  if name.partition(".")[0] == package]
    return "\n".join(lines) + "\n"


def markdown(text: str) -> str:
    """Plain text with `names` in backticks, as Markdown that means no more than that"""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if k % 2 else re.sub(r"([\\*_|<>$\[\]])", r"\\\1", part) for k, part in enumerate(parts))


def loss_page(name: str) -> str:
    """What `dpo-numpy show NAME` says"""
    from docstrings import inline

    from dpo_numpy.cli import show
    from dpo_numpy.cli.losses import FACTORIES, LOSSES, entry

    factory, about = FACTORIES[name], entry(name)
    hyper = about.hyperparameters
    lines = [*title(name), rf"One of :doc:`all losses </docs/losses>`\: {inline(about.section)}.", "",
             f".. autofunction:: {factory.__module__}.{factory.__name__}", ""]
    if name in LOSSES:
        lines += [f".. image:: {name}.png", f"   :alt: value and slope of {name}", ""]
    said = show.takes(name, hyper)
    if name in LOSSES:
        said += ["", *show.table(show.curve(name, hyper, None, 9))]
    return "\n".join([*lines, ".. code-block:: text", "   :class: columns", "",
                      *(f"   {line}".rstrip() for line in said)]) + "\n"


def loss_table() -> str:
    """For docs/losses.md: section by section a table, one row a loss"""
    from docstrings import inline

    from dpo_numpy.cli.losses import LOSSES, entries

    found, lines = entries(), []
    for section in dict.fromkeys(each.section for each in found):
        drawn = not section.startswith("policy gradients")
        lines += ["", f"## {section[0].upper()}{section[1:]}", "", "```{eval-rst}", ".. list-table::",
                  "   :class: losses", "   :header-rows: 1", "   :widths: auto", "",
                  "   * - Loss", "     - Formula, what it is, where it comes from"]
        lines += ["     - Value and slope"] * drawn
        for each in (each for each in found if each.section == section):
            paper = re.sub(r"arXiv:(\d{4}\.\d{5})", r"`arXiv:\1 <https://arxiv.org/abs/\1>`__", each.paper)
            lines += [f"   * - :doc:`{each.name} <losses/{each.name}>`", f"     - ``{each.formula}``", "",
                      f"       {inline(each.what)}", "", f"       {paper}"]
            if each.name in LOSSES:
                lines += [f"     - .. image:: losses/{each.name}.png",
                          f"          :alt: value and slope of {each.name}",
                          f"          :target: losses/{each.name}.html"]
        lines += ["```"]
    return "\n".join(lines) + "\n"


def command_page() -> str:
    """`--help` of the command and of each subcommand"""
    from dpo_numpy import cli

    lines = ["# The command", "", "What `dpo-numpy COMMAND --help` prints.", ""]
    for name in ("", *cli.COMMANDS):
        lines += [f"## dpo-numpy {name}".rstrip(), "", "```text", helped(name), "```", ""]
    return "\n".join(lines)


def helped(name: str) -> str:
    import os
    from contextlib import redirect_stdout, suppress
    from io import StringIO

    from dpo_numpy import cli

    said = StringIO()
    os.environ["COLUMNS"] = "100"
    with redirect_stdout(said), suppress(SystemExit):
        cli.parser().parse_args([*filter(None, [name]), "--help"])
    return said.getvalue().rstrip()


def draw(folder: Path) -> None:
    """The picture of each loss of preferences, as `dpo-numpy show NAME --output` draws it"""
    from dpo_numpy.cli import show
    from dpo_numpy.cli.losses import LOSSES, entry

    for name in LOSSES:
        hyper = entry(name).hyperparameters
        show.picture(show.curve(name, hyper, None, 801)).savefig(folder / f"{name}.png", dpi=110)


# ---- links

class Section(NamedTuple):
    """A heading of docs/index.md and the pages that its list links to"""

    title: str
    pages: dict[str, str]  # words of the link -> page, from the root, with suffix


LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\[\]]*\])*+)\]\(<?([^()<>\s]+)>?\)")


def links(text: str) -> list[tuple[str, str]]:
    """Words and target of the links and pictures of Markdown; not of what is code"""
    prose = re.sub(r"^(```+|~~~+).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^ {4,}.*$", "", prose, flags=re.MULTILINE)
    prose = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "code", prose, flags=re.DOTALL)
    return LINK.findall(prose)


def sections(index: str) -> list[Section]:
    found = []
    for part in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        listed = [link for line in body.splitlines() if line.startswith("- ") for link in links(line)]
        pages = {words: from_root("docs", target) for words, target in listed if is_page(target)}
        found.append(Section(heading, pages))
    return found


def is_page(target: str) -> bool:
    return target.endswith((".md", ".ipynb")) and not re.match(r"[a-z]+:", target)


def from_root(folder: str, target: str) -> str:
    """A relative link of a page in that folder, without its anchor"""
    return normpath(join(folder, unquote(target.partition("#")[0])))


def texts() -> Iterator[tuple[str, str]]:
    """Path from the root and Markdown, of every page and every notebook"""
    for path in [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "notebooks").glob("*.md"))]:
        yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")
    for path in notebooks():
        cells = json.loads(path.read_text("utf-8"))["cells"]
        prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        yield path.relative_to(ROOT).as_posix(), "\n\n".join(prose)


def notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


# ---- the site

def toctree(pages: Iterable[str] | Mapping[str, str], caption: str = "", hidden: bool = True) -> str:
    """Of pages named from the root, with or without suffix; of a mapping, under its words"""
    options = [f":caption: {caption}"] * bool(caption) + [":hidden:"] * hidden + [":maxdepth: 1"]
    paths = pages.values() if isinstance(pages, Mapping) else pages
    entries = ["/" + re.sub(r"\.(md|ipynb|rst)$", "", path) for path in paths]
    if isinstance(pages, Mapping):
        entries = [f"{words} <{entry}>" for words, entry in zip(pages, entries, strict=True)]
    return "\n".join(["", "```{toctree}", *options, "", *entries, "```", ""])


def lay_out(folder: Path) -> None:
    """The source of the site, into a new folder"""
    for name, text in texts():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
        for _, link in links(text):
            shipped = from_root(str(Path(name).parent), link)
            if not is_page(link) and not re.match(r"[a-z]+:|#", link) and (ROOT / shipped).is_file():
                (folder / shipped).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / shipped, folder / shipped)

    docs = folder / "docs"
    (docs / "api").mkdir()
    for module in public_modules():
        (docs / "api" / f"{module}.rst").write_text(api_page(module), "utf-8")
    (docs / "losses").mkdir()
    for name in all_losses():
        (docs / "losses" / f"{name}.rst").write_text(loss_page(name), "utf-8")
    draw(docs / "losses")
    (docs / "command.md").write_text(command_page(), "utf-8")

    index = (docs / "index.md").read_text("utf-8")
    (docs / "index.md").write_text(index.replace(PLAY, f'<a href="../play/index.html">{PLAY}</a>'), "utf-8")
    for section in sections(index):
        more = {"The command": "docs/command.md"} if section.title == "Reference" else {}
        append(docs / "index.md", toctree(section.pages | more, section.title))
    append(folder / "notebooks/README.md", toctree(path.relative_to(ROOT).as_posix() for path in notebooks()))
    append(docs / "losses.md", loss_table() + toctree(f"docs/losses/{name}" for name in all_losses()))
    append(docs / "api.md", api_list() + toctree(f"docs/api/{package}" for package in PACKAGES))
    libraries = sorted(path.relative_to(folder).as_posix() for path in (docs / "libraries").glob("[a-z]*.md"))
    append(docs / "libraries/README.md", toctree(libraries))


def append(page: Path, text: str) -> None:
    page.write_text(f"{page.read_text('utf-8').rstrip()}\n{text}", "utf-8")


def all_losses() -> list[str]:
    from dpo_numpy.cli.losses import entries

    return [each.name for each in entries()]


REDIRECT = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>dpo-numpy</title>
<meta http-equiv="refresh" content="0; url=docs/index.html"></head>
<body><p><a href="docs/index.html">dpo-numpy</a></p></body></html>
"""


def clear(output: Path) -> None:
    """Away with an older site: what was read before is of no use. `ValueError` if something else is there"""
    if output.exists() and not (output / ".buildinfo").exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"output is {output}, which holds something else than a site; expected a new folder")
    shutil.rmtree(output, ignore_errors=True)


def build(output: Path) -> int:
    from importlib.resources import files

    from dpo_numpy.playground.build import export

    clear(output)
    with TemporaryDirectory() as scratch:
        layout, doctrees = Path(scratch, "source"), Path(scratch, "doctrees")
        lay_out(layout)
        options = ["-j", "2", "-b", "html", "-W", "--keep-going", "-n", "-q", "-c", str(DOCS), "-d", str(doctrees)]
        code = subprocess.call([sys.executable, "-m", "sphinx", *options, str(layout), str(output)])
    if code:
        return code
    package = files("mathjax").joinpath("static", "mathjax")  # Apache-2.0
    (output / "_static/mathjax").mkdir()
    for path in (package / "es5" / MATHJAX, package / "LICENSE"):
        (output / "_static/mathjax" / path.name).write_bytes(path.read_bytes())
    export(output / "play")
    (output / "index.html").write_text(REDIRECT, "utf-8")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output", type=Path, nargs="?", default=ROOT / "build" / "docs")
    output = parser.parse_args().output.resolve()
    try:
        code = build(output)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if not code:
        print(f"open {output / 'index.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
