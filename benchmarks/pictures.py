"""Draws benchmarks/scaling_*.png from benchmarks/results.json: how many times as long each peer takes, against size.

`SCALING` of a module of cases: {picture: (what the axis is, its parameter, (result, label) -> curve's name or None)}.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from dpo_numpy.figures import COLORS, styled


def curves(members: list[Mapping[str, Any]], axis: str, pick: Any) -> dict[str, list[tuple[float, list[float]]]]:
    """{curve: [(size, quartiles of the ratio)]}; of several cases of one size the medians' least, median and most."""
    points: dict[str, dict[float, list[list[float]]]] = {}
    for result in members:
        for label, peer in result["peers"].items() if axis in result["params"] else ():
            curve = pick(result, label)
            if "ratio" in peer and curve is not None:
                points.setdefault(curve, {}).setdefault(result["params"][axis], []).append(peer["ratio"])
    return {curve: [(size, ratios[0] if len(ratios) == 1 else
                     np.percentile([r[1] for r in ratios], [0, 50, 100]).tolist())
                    for size, ratios in sorted(sizes.items())] for curve, sizes in points.items()}


@styled
def draw(results: Mapping[str, Any], folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter

    modules: dict[str, list[Any]] = {}
    for result in results["cases"].values():
        modules.setdefault(result["module"], []).append(result)
    for module, members in modules.items():
        for picture, (what, axis, pick) in getattr(import_module(module), "SCALING", {}).items():
            lines = curves(members, axis, pick)
            if not lines:
                continue
            fig, ax = plt.subplots()
            for color, (label, points) in zip(COLORS, lines.items(), strict=False):
                x = [size for size, _ in points]
                low, middle, high = np.transpose([q for _, q in points])
                ax.plot(x, middle, marker="o", color=color, label=label)
                ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
            ax.axhline(1, color="#bbbbbb", linewidth=1, zorder=0)
            ax.set(xscale="log", yscale="log", xlabel=what, ylabel="peer's time / ours")
            x = sorted({size for points in lines.values() for size, _ in points})
            ax.set_xticks(x, [f"{size:,}" for size in x])
            ax.minorticks_off()
            low, high = ax.get_ylim()
            ticks = [t for t in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= t <= high]
            ax.set_yticks(ticks)
            ax.yaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{t:g}"))
            ax.legend()
            fig.savefig(folder / f"scaling_{picture}.png")
            plt.close(fig)
