"""Axes for a picture, where the caller brings none."""

from __future__ import annotations

from typing import Any

from dpo_numpy.figures import CHOSEN, COLORS, OPTIMUM, POLICY, REFERENCE, REJECTED, styled

__all__ = ["CHOSEN", "COLORS", "OPTIMUM", "POLICY", "REFERENCE", "REJECTED", "axes"]


@styled
def axes(ax: Any = None) -> Any:
    """`ax`, or the axes of a new figure"""
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots()[1]
    return ax
