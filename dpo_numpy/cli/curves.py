"""A run in four pictures, and its log as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..figures import CHOSEN, POLICY, REFERENCE, REJECTED, styled
from .loop import Loop, Run
from .reward import RewardRun

__all__ = ["draw", "metrics_csv"]

Line = Mapping[str, Any]
TITLE = 110  # characters a line
CUT = 0.01  # more samples than that are cut short: their means are not those of whole responses


def metrics_csv(lines: Sequence[Line]) -> str:
    """A row a step, a column for every name that any step has; empty where a step has none."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


@styled
def draw(lines: Sequence[Line], run: Loop, file: IO[bytes]) -> None:
    """curves.png: what one looks at for the method; solid the training part, dashed the held-out one"""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7))
    axes = figure.subplots(2, 2).flat
    for panel, axis in zip(_panels(run), axes, strict=True):
        panel(axis, lines, run)
        axis.set_xlabel("step")
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    o, meta = run.options, run.model.meta
    hyper = ", ".join(f"{name}={value}" for name, value in o.hyperparameters.items())
    what = f"a {meta['order']}-gram of {meta.get('tokenizer', 'tokens')}" if meta["model"] == "ngram" else "a table"
    where = "judged by a reward model" if not isinstance(run, Run) else f"{len(run.problem.train):,} training rows"
    title = [f"{o.loss or o.method}({hyper})", f" on {what}, {o.world or where}"]
    figure.suptitle(("\n" if len("".join(title)) > TITLE else "").join(title), fontsize="medium")
    figure.savefig(file, format="png")


def _panels(run: Loop) -> tuple[Callable[[Any, Sequence[Line], Any], None], ...]:
    if isinstance(run, RewardRun):
        return _loss, _reward_margin, _accuracy, _error if run.model.exact else _range
    if isinstance(run, Run):
        return (_ratios, _margins, _value, _kl) if run.model.exact else (_ratios, _margins, _accuracy, _length)
    last = _critic if run.critic_params else _spread
    return _value, _kl, _gradient if run.model.policy.eos is None else _length, last


def _both(axis: Any, lines: Sequence[Line], name: str, color: str, label: str, scale: float = 1.0) -> None:
    for prefix, style, where in (("", "-", "training"), ("eval_", "--", "held out")):
        steps, values = _series(lines, prefix + name)
        if len(steps):
            axis.plot(steps, values * scale, style, color=color, lw=1.5, label=f"{label}, {where}")


def _series(lines: Sequence[Line], name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    found = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    return np.array([step for step, _ in found]), np.array([value for _, value in found], float)


def _rollouts(axis: Any, lines: Sequence[Line], run: Loop, name: str, color: str, label: str) -> None:
    """A dot for each rollout, at the first of the steps that it served"""
    cut = any(line.get("completions/clipped_ratio", 0) > CUT for line in lines)
    label += f", cut at {run.options.max_new_tokens} {run.model.unit}" if cut and not run.options.world else ""
    first = {line["samples"]: line for line in reversed(lines) if "samples" in line}
    steps, values = _series([*first.values()], name)
    if len(steps):
        axis.plot(steps, values, ".", ms=3, color=color, alpha=0.4, label=label)


def _exact(axis: Any, lines: Sequence[Line], run: Loop, name: str, color: str, label: str) -> None:
    """From step 0, the reference, on"""
    exact = run.model.exact
    begin = exact.of(run.model.reference) if exact is not None else {}
    steps, values = _series([{"step": 0, **begin}, *lines], name)
    if len(steps):
        axis.plot(steps, values, "o-", ms=3, color=color, label=label)


def _zero(axis: Any) -> None:
    axis.axhline(0, color=REFERENCE, lw=1, zorder=0)


# ---- of pairs

def _ratios(axis: Any, lines: Sequence[Line], run: Run) -> None:
    for name, color in (("chosen", CHOSEN), ("rejected", REJECTED)):
        _both(axis, lines, f"rewards/{name}", color, name, 1 / run.beta)
    _zero(axis)
    axis.set(title="log-ratio to the reference", ylabel="nats")


def _margins(axis: Any, lines: Sequence[Line], run: Run) -> None:
    _both(axis, lines, "rewards/margins", "black", "chosen - rejected", 1 / run.beta)
    _zero(axis)
    axis.set(title="margin of the log-ratios", ylabel="nats")


def _accuracy(axis: Any, lines: Sequence[Line], run: Run) -> None:
    name = next((name for name in ("rewards/accuracies", "accuracy") if any(name in line for line in lines)), None)
    if name is None:
        _loss(axis, lines, run)
        return
    _both(axis, lines, name, "black", "accuracy")
    axis.axhline(0.5, color=REFERENCE, lw=1, zorder=0)
    axis.set(title="chosen ranked above rejected", ylim=(-0.02, 1.02), ylabel="share of pairs")


def _loss(axis: Any, lines: Sequence[Line], _: Loop) -> None:
    _both(axis, lines, "loss", "black", "loss")
    axis.set(title="loss")


# ---- of reward models

def _reward_margin(axis: Any, lines: Sequence[Line], _: Loop) -> None:
    _both(axis, lines, "margin", "black", "chosen - rejected")
    _zero(axis)
    axis.set(title="margin of the rewards", ylabel="nats")


def _range(axis: Any, lines: Sequence[Line], _: Loop) -> None:
    for name, color in (("max", CHOSEN), ("mean", "black"), ("min", REJECTED)):
        axis.plot(*_series(lines, f"{name}_reward"), "-", color=color, lw=1.5, label=name)
        axis.plot(*_series(lines, f"eval_{name}_reward"), "--", color=color, lw=1.5)
    axis.set(title="rewards, dashed: held out", ylabel="nats")


def _error(axis: Any, lines: Sequence[Line], _: Loop) -> None:
    axis.plot(*_series(lines, "reward/error"), "o-", ms=3, color=POLICY)
    axis.set(title="distance to the world's rewards (root mean square)", ylabel="nats", yscale="log")


# ---- of policies whose reward is known, or sampled

def _value(axis: Any, lines: Sequence[Line], run: Loop) -> None:
    _rollouts(axis, lines, run, "reward", CHOSEN, "reward of a rollout")
    for name, color, label in (("reward/expected", CHOSEN, "E r, exact"), ("J", POLICY, "J = E r - β KL, exact")):
        _exact(axis, lines, run, name, color, label)
    exact = run.model.exact
    if exact is not None and exact.best is not None:
        axis.axhline(exact.best, color=POLICY, lw=1, ls=":", label="J*, the largest J")
    axis.set(title="reward")


def _kl(axis: Any, lines: Sequence[Line], run: Loop) -> None:
    _rollouts(axis, lines, run, "kl", REFERENCE, "from the reference, a rollout")
    axis.plot(*_series(lines, "kl/reference"), "o-", ms=3, color="black", label="from the reference")
    _exact(axis, lines, run, "kl/optimum", POLICY, "to the optimum π*")
    axis.set(title="KL of the policy", ylabel="nats a response")
    _, far = _series(lines, "kl/optimum")
    if len(far) and 0 < far[-1] < 1e-3 * far[0]:
        axis.set(yscale="log")
    else:
        _zero(axis)


def _length(axis: Any, lines: Sequence[Line], run: Loop) -> None:
    _rollouts(axis, lines, run, "completions/mean_length", REFERENCE, "of a rollout")
    axis.plot(*_series(lines, "length/policy"), "o-", ms=3, color=POLICY, label="the policy's responses")
    if isinstance(run, Run):
        train = run.problem.train
        weight = np.asarray(train.weight, float)
        length = run.problem.length(train)
        for k, (name, color) in enumerate((("chosen", CHOSEN), ("rejected", REJECTED)) if length.shape[1] == 2 else ()):
            axis.axhline(weight @ length[:, k] / weight.sum(), color=color, lw=1, ls=":", label=f"{name}, training")
    axis.axhline(run.model.whole(run.model.reference).length, color=REFERENCE, lw=1, label="the reference's")
    axis.set(title="mean response length", ylabel=run.model.unit)


def _critic(axis: Any, lines: Sequence[Line], _: Loop) -> None:
    axis.plot(*_series(lines, "loss/value_avg"), "-", lw=1, color="black", label="before each step")
    axis.set(title="loss of the critic", yscale="log")


def _gradient(axis: Any, lines: Sequence[Line], _: Loop) -> None:
    axis.plot(*_series(lines, "grad_norm"), "-", lw=1, color="black")
    axis.set(title="norm of the gradient", ylim=(0, None))


def _spread(axis: Any, lines: Sequence[Line], _: Loop) -> None:
    axis.plot(*_series(lines, "reward_std"), "-", lw=1, color="black", label="deviation of its rewards")
    axis.plot(*_series(lines, "frac_reward_zero_std"), ".", ms=3, color=REJECTED, label="share of groups all alike")
    axis.set(title="a group of samples")
