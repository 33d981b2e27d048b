"""The page that `dpo-numpy play` serves: four panels on DPO, each number of which `evaluate` computes.

    world.py        the little worlds of the page
    evaluation.py   evaluate(params) -> numbers: the one seam between page and library; loads NumPy alone
    drawing.py      mathematics, tables and pictures of numbers, as markup
    view.py         show(params): the numbers, and the parts of the page that change with them
    build.py        the page as it is before anything was touched; the sources for a browser that runs Python; export
    server.py       the page and `show` on the loopback address
    DEFAULTS        what each panel is asked before anything was touched
    assets          index.html (made by build.py), style.css, play.js
"""

from __future__ import annotations

from pathlib import Path

from .evaluation import DEFAULTS, evaluate

__all__ = ["DEFAULTS", "evaluate", "export"]


def export(folder: str | Path, pyodide: str | None = None) -> list[Path]:
    """Write the whole page into `folder`, for a host that serves files and nothing else; see `build.export`."""
    from .build import export as written  # later: `python -m dpo_numpy.playground.build` imports this module first

    return written(folder, pyodide)
