"""One look for all pictures: what a color means, how axes are made."""

from __future__ import annotations

from typing import Any

__all__ = ["CHOSEN", "COLORS", "OPTIMUM", "POLICY", "REFERENCE", "REJECTED", "axes"]

# after Okabe & Ito: told apart by color-blind readers too
CHOSEN, REJECTED, REFERENCE, OPTIMUM, POLICY = "#0072B2", "#D55E00", "#7f7f7f", "#009E73", "#CC79A7"
#: for what is none of these
COLORS = ("#000000", "#E69F00", "#56B4E9", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7f7f7f")


def axes(ax: Any = None) -> Any:
    """`ax`, or the axes of a new figure; without the frame's upper and right line"""
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots(figsize=(7.0, 4.5), layout="constrained")[1]
    ax.spines[["top", "right"]].set_visible(False)
    return ax
