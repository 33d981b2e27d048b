"""One look for all pictures: the style file beside this one, and what a color means.

    plt.style.use(STYLE)      for a notebook, or a whole program
    @styled                   for a function that draws
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

__all__ = ["CHOSEN", "COLORS", "OPTIMUM", "POLICY", "REFERENCE", "REJECTED", "STYLE", "styled"]

P = ParamSpec("P")
R = TypeVar("R")

#: the style file, as Matplotlib finds it in a package
STYLE = "dpo_numpy.figures"

#: after Okabe & Ito: told apart by color-blind readers too
CHOSEN, REJECTED, REFERENCE, OPTIMUM, POLICY = "#0072B2", "#D55E00", "#7f7f7f", "#009E73", "#CC79A7"
#: for what is none of these, in the style file's order
COLORS = ("#000000", "#E69F00", "#56B4E9", CHOSEN, REJECTED, OPTIMUM, POLICY, REFERENCE)


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """`draw`, whose figures have the project's look and leave the caller's settings alone

    >>> @styled
    ... def width():
    ...     import matplotlib
    ...     return matplotlib.rcParams["figure.figsize"][0]
    >>> width()
    7.0
    """
    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        from matplotlib import style

        with style.context(STYLE):
            return draw(*args, **kwargs)

    return inside
