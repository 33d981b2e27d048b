"""What a run says for itself: a page in the terminal, kept as report.txt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import Row
from ..metrics import accuracy_interval
from ..policy import Params
from ..preferences import Preferences
from ..rollouts import rollout
from .loop import Loop, Run
from .models import DRAWN, Whole
from .online import OnlineRun
from .reward import RewardRun
from .run_folder import OURS
from .worlds import RULED

__all__ = ["auc_interval", "report"]

Array = NDArray[Any]
Interval = tuple[float, float, float]

SAMPLES, SHOWN = 5, 100
EXPECT = {"ngram": "Expect little: an n-gram sees a few tokens at a time, knows no prompt and no meaning.",
          "tabular": "A table learns its own pairs by heart and nothing else."}


def report(run: Loop, about: Sequence[str], held_rows: Sequence[Row], folder: Path) -> str:
    model, options = run.model, run.options
    lines = [*about, "", *_what(run), *([] if options.world else [EXPECT[options.model]]), ""]
    if isinstance(run, Run):
        lines += _ranking(run, held_rows)
    if isinstance(run, RewardRun):
        lines += [_line("error of the reward", f"{error:.6f}   root of its mean square, prompts' means aside")
                  for error in (model.exact.of(run.params).values() if model.exact else ())]
    else:
        before, after = model.whole(model.reference), model.whole(run.params)
        lines += _rewards(run)
        if isinstance(run, Run):
            lines += [*_movement(run), _lengths(run, before, after)]
        else:
            lines.append(_length(run, before, after))
        lines += [_kl(after), ""]
        texts = [(name, model.draw(params, SAMPLES, np.random.default_rng([options.seed, 2])))
                 for name, params in (("before", model.reference), ("after", run.params))]
        for name, drawn in texts:
            lines += [f"samples {name} training", *(f"  {shown(text)}" for text in drawn)]
    return "\n".join([*lines, "", f"written to {folder}: {', '.join(OURS)}"]) + "\n"


def shown(text: str) -> str:
    """On one line, cut, and without what could steer a terminal."""
    cut = text[:SHOWN]
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut) + (
        f" ... ({len(text):,} characters)" if len(text) > SHOWN else ""
    )


def _what(run: Loop) -> list[str]:
    o, model = run.options, run.model
    hyper = ", ".join(f"{name}={value}" for name, value in o.hyperparameters.items())
    parameters = sum(p.size for p in run.params.values())
    kind = f"{model.meta['order']}-gram of {model.unit}" if model.meta["model"] == "ngram" else "table of responses"
    how = f"{o.max_steps:,} steps of {o.optimizer}, learning rate {o.learning_rate:g}, "
    what = f"{o.loss or o.method}({hyper}) on a {kind}, {parameters:,} parameters: {how}"
    if isinstance(run, OnlineRun):
        each = run.method.group * len(run.arena.task.prompts)
        rollouts = -(-(o.max_steps or 0) // run.method.epochs)
        return [f"{what}{run.method.epochs} on each rollout",
                f"sampled {each * rollouts:,} responses, {each:,} a rollout"]
    if not isinstance(run, Run):
        return [what]
    held = run.problem.held
    out = f", {len(held):,} held out by group (seed {o.seed})" if held is not None else ", none held out"
    rows = "pairs, each with its exact probability" if o.world else f"rows{out}"
    return [f"{what}batches of {o.batch_size:,}", f"trained on {len(run.problem.train):,} {rows}"]


# ---- what the policy is worth

def _rewards(run: Loop) -> list[str]:
    """Before and after: E r, and with a β J and the KL to π*"""
    exact = run.model.exact
    before, after = ((exact.of(params) if exact else {}) for params in (run.model.reference, run.params))
    lines = []
    if "reward/expected" in before and "reward/expected" in after:
        lines.append(_line("accuracy" if run.options.world in RULED else "reward",
                           f"{before['reward/expected']:.4f} before, {after['reward/expected']:.4f} after   exact"))
    elif isinstance(run, OnlineRun):
        told = [_sampled_reward(run, params) for params in (run.model.reference, run.params)]
        lines.append(_line("reward", f"{told[0]} before, {told[1]} after   standard errors of {DRAWN:,} samples"))
    if exact is None or exact.beta is None:
        return lines
    if "J" in before and "J" in after:
        best = f"   J* = {exact.best:.4f}, the largest of any policy" if exact.best is not None else ""
        lines.append(_line(f"J = E r - {exact.beta:g} KL", f"{before['J']:.4f} before, {after['J']:.4f} after{best}"))
    if exact.best is None:
        lines.append(_line("no optimum", exact.why))
    elif "kl/optimum" in after:
        moved = f"{before['kl/optimum']:.3g} nats before, {after['kl/optimum']:.3g} after"
        lines.append(_line("KL to the optimum", moved))
    return lines


def _sampled_reward(run: OnlineRun, params: Params) -> str:
    arena, prompts = run.arena, [run.arena.task.prompts[0]] * DRAWN
    drawn = rollout(arena.policy, params, arena.task._replace(prompts=prompts), 1,
                    np.random.default_rng([run.options.seed, 4]))
    reward = np.asarray(drawn.facts["reward"], float)
    return f"{reward.mean():.3f} ± {reward.std(ddof=1) / np.sqrt(reward.size):.3f}"


# ---- how well it ranks

def _ranking(run: Run, rows: Sequence[Row]) -> list[str]:
    held = run.problem.held
    if held is None:
        right = run.score(run.params, run.problem.train)
        return (
            []
            if right.shape[1] < 2
            else [
                _line(
                    "accuracy on its pairs",
                    f"{_share(right[:, 0] > right[:, 1], run.problem.train):.3f}   (held-out accuracy: none held out)",
                )
            ]
        )
    score = run.score(run.params, held)
    group, weight = np.array([row.group for row in rows]), np.asarray(held.weight, float)
    characters = np.array([[len(text) for text in row.responses] for row in rows], float)
    if score.shape[1] == 2:
        ours = accuracy_interval(score[:, 0] > score[:, 1], group, weight)
        longer = accuracy_interval(_wins(characters), group, weight)
        margin = run.beta * float(weight @ (score[:, 0] - score[:, 1]) / weight.sum())
        what = "reward" if isinstance(run, RewardRun) else "implicit reward"
        return [
            _interval("held-out accuracy", ours, f"95%, clustered in {len(set(group.tolist()))} groups"),
            _interval("the longer one wins", longer, "in characters; a tie counts half"),
            _line("held-out margin", f"{margin:+.3f}   mean {what} of the chosen minus that of the rejected"),
        ]
    label = np.array([row.label for row in rows], bool)
    if label.all() or not label.any():
        return [_line("held-out accuracy", "none: the held-out completions all have the same label")]
    ours, longer = (auc_interval(x[:, 0], label, group) for x in (score, characters))
    return [
        _interval("held-out ranking", ours, "desired above undesired, over all such pairs; 95%, clustered by group"),
        _interval("the longer one wins", longer, "in characters; a tie counts half"),
    ]


def auc_interval(score: Array, label: Array, group: Array) -> Interval:
    """P(score of a desired > score of an undesired) + P(equal)/2, with a 95% interval for rows that come in groups.

    se² = G/(G-1) Σ_g (Σ_{i in g} ψᵢ)², ψᵢ the row's influence: (its share of wins - AUC) / (rows of its label).
    DeLong et al. 1988 for independent rows.

    >>> auc_interval(np.array([2.0, 1.0, 1.0, 0.0]), np.array([True, True, False, False]), np.arange(4))[0]
    0.875
    """
    wins = (score[label][:, None] > score[~label]) + 0.5 * (score[label][:, None] == score[~label])
    area = float(wins.mean())
    influence = np.zeros(len(score))
    influence[label] = (wins.mean(axis=1) - area) / label.sum()
    influence[~label] = (wins.mean(axis=0) - area) / (~label).sum()
    _, inverse = np.unique(group, return_inverse=True)
    total = np.bincount(inverse, influence)
    if len(total) < 2:
        return area, float("nan"), float("nan")
    se = float(np.sqrt(len(total) / (len(total) - 1) * total @ total))
    return area, max(0.0, area - 1.96 * se), min(1.0, area + 1.96 * se)


def _wins(x: Array) -> Array:
    return np.asarray((x[:, 0] > x[:, 1]) + 0.5 * (x[:, 0] == x[:, 1]))


def _share(right: Array, pairs: Preferences) -> float:
    weight = np.asarray(pairs.weight, float)
    return float(weight @ right / weight.sum())


# ---- what moved

def _movement(run: Run) -> list[str]:
    lines = []
    for name, pairs in (("training", run.problem.train), ("held-out", run.problem.held)):
        if pairs is None:
            continue
        ratio = run.score(run.params, pairs)
        parts = []
        for what, rows in _sides(ratio, pairs):
            column, weight = ratio[rows], np.broadcast_to(np.asarray(pairs.weight, float)[:, None], ratio.shape)[rows]
            if weight.sum() > 0:
                mean, fell = float(weight @ column / weight.sum()), float(weight @ (column < 0) / weight.sum())
                parts.append(f"{what} {'rose' if mean > 0 else 'fell'} by {abs(mean):.2f} nats ({fell:.0%} fell)")
        lines.append(_line(f"log-probs, {name}", "; ".join(parts)))
    return lines


def _sides(ratio: Array, pairs: Preferences) -> list[tuple[str, Array]]:
    """Where chosen and rejected stand in a (B, K) array."""
    where = np.zeros(ratio.shape, bool)
    if ratio.shape[1] == 1:
        where[:, 0] = pairs.facts["label"]
    else:
        where[:, 0] = True
    return [("chosen", where), ("rejected", ~where)]


def _lengths(run: Run, before: Whole, after: Whole) -> str:
    train = run.problem.train
    length = run.problem.length(train)
    weight = np.broadcast_to(np.asarray(train.weight, float)[:, None], length.shape)
    parts = [
        f"{what} {weight[rows] @ length[rows] / weight[rows].sum():,.1f}"
        for what, rows in _sides(length, train)
        if weight[rows].sum() > 0
    ]
    return _length(run, before, after, parts)


def _length(run: Loop, before: Whole, after: Whole, parts: Sequence[str] = ()) -> str:
    told = [
        f"{name} {whole.length:,.1f}" + (f" ± {whole.length_error:.1f}" if whole.samples else "")
        for name, whole in (("reference", before), ("policy", after))
    ]
    how = f"means of {after.samples:,} samples of at most {run.options.max_new_tokens:,}" if after.samples else "exact"
    every = "; ".join(filter(None, [", ".join(parts), ", ".join(told)]))
    return _line("mean length", f"{every} {run.model.unit} ({how})")


def _kl(after: Whole) -> str:
    if after.samples:
        return _line(
            "KL from the reference",
            f"{after.kl:.3f} ± {after.kl_error:.3f} nats a response, standard error of {after.samples:,} samples",
        )
    return _line("KL from the reference", f"{after.kl:.3f} nats a response, exact")


def _line(name: str, text: str) -> str:
    return f"{name:<22} {text}"


def _interval(name: str, found: Interval, how: str) -> str:
    share, low, high = found
    bounds = f"[{low:.3f}, {high:.3f}]" if np.isfinite(low) else "[one group: no interval]"
    return _line(name, f"{share:.3f}   {bounds}   {how}")
