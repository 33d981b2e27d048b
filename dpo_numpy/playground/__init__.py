"""The page that `dpo-numpy play` serves: four panels on DPO, each number of which `evaluate` computes.

    world.py        the little worlds of the page
    evaluation.py   evaluate(params) -> numbers: the one seam between page and library; loads NumPy alone
    drawing.py      mathematics, tables and pictures of numbers, as markup
    view.py         show(params): the numbers, and the parts of the page that change with them
    build.py        the page as it is before anything was touched; the sources for a browser that runs Python; export
    server.py       the page and `show` on the loopback address
    assets          index.html (made by build.py), style.css, play.js
"""

from __future__ import annotations

from .evaluation import evaluate

__all__ = ["evaluate"]
