"""A run in four pictures, and its log as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .loop import Run

__all__ = ["draw", "metrics_csv"]

Line = Mapping[str, Any]
CHOSEN, REJECTED, REFERENCE, POLICY = "#0072B2", "#D55E00", "#7f7f7f", "#CC79A7"


def metrics_csv(lines: Sequence[Line]) -> str:
    """A row a step, a column for every name that any step has; empty where a step has none."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def draw(lines: Sequence[Line], run: Run, file: IO[bytes]) -> None:
    """curves.png: log-ratios, margin, accuracy, length; solid the training part, dashed the held-out one"""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    ((ratios, margins), (accuracies, lengths)) = figure.subplots(2, 2)
    for name, color in (("chosen", CHOSEN), ("rejected", REJECTED)):
        _both(ratios, lines, f"rewards/{name}", color, name, 1 / run.beta)
    _zero(ratios)
    ratios.set(title="log-ratio to the reference", ylabel="nats")
    _both(margins, lines, "rewards/margins", "black", "chosen - rejected", 1 / run.beta)
    _zero(margins)
    margins.set(title="margin of the log-ratios", ylabel="nats")
    _accuracy(accuracies, lines)
    _length(lengths, lines, run)
    for axis in (ratios, margins, accuracies, lengths):
        axis.set_xlabel("step")
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize="small")
    o = run.options
    hyper = ", ".join(f"{name}={value}" for name, value in o.hyperparameters.items())
    figure.suptitle(
        f"{o.loss}({hyper}) on {f'a {o.order}-gram of {o.tokenizer}' if o.model == 'ngram' else 'a table'}, "
        f"{len(run.problem.train):,} training rows"
    )
    figure.savefig(file, format="png", dpi=130)


def _both(axis: Any, lines: Sequence[Line], name: str, color: str, label: str, scale: float = 1.0) -> None:
    for prefix, style, where in (("", "-", "training"), ("eval_", "--", "held out")):
        steps, values = _series(lines, prefix + name)
        if len(steps):
            axis.plot(steps, values * scale, style, color=color, lw=1.5, label=f"{label}, {where}")


def _series(lines: Sequence[Line], name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    found = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    return np.array([step for step, _ in found]), np.array([value for _, value in found], float)


def _zero(axis: Any) -> None:
    axis.axhline(0, color=REFERENCE, lw=1, zorder=0)


def _accuracy(axis: Any, lines: Sequence[Line]) -> None:
    _both(axis, lines, "rewards/accuracies", "black", "accuracy")
    if any("rewards/accuracies" in line for line in lines):
        axis.axhline(0.5, color=REFERENCE, lw=1, zorder=0)
        axis.set(title="chosen ranked above rejected", ylim=(-0.02, 1.02), ylabel="share of pairs")
    else:
        _both(axis, lines, "loss", "black", "loss")
        axis.set(title="loss")


def _length(axis: Any, lines: Sequence[Line], run: Run) -> None:
    axis.plot(*_series(lines, "length/policy"), "o-", ms=3, color=POLICY, label="the policy's responses")
    train = run.problem.train
    weight = np.asarray(train.weight, float)
    length = run.problem.length(train)
    if length.shape[1] == 2:
        for k, (name, color) in enumerate((("chosen", CHOSEN), ("rejected", REJECTED))):
            axis.axhline(weight @ length[:, k] / weight.sum(), color=color, lw=1, ls=":", label=f"{name}, training")
    axis.axhline(run.problem.whole(run.problem.reference).length, color=REFERENCE, lw=1, label="the reference's")
    axis.set(title="mean response length", ylabel=run.problem.unit)
