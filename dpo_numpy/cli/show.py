"""`dpo-numpy show LOSS`: its docstring, what it takes; of preferences, value and slopes around policy = reference."""

from __future__ import annotations

import argparse
import inspect
import math
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..figures import CHOSEN, POLICY, REFERENCE, REJECTED, styled
from ..losses import LOSSES, Loss
from .losses import FACTORIES, kind
from .options import _flags, _hyperparameters

__all__ = ["Curve", "add_parser", "curve", "run"]

Array = NDArray[Any]
TOKENS, PROMPT = 10, 4  # of every response and of its prompt
FORMATS = (".png", ".svg", ".pdf")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "show",
        help="a loss: its docstring, what it takes, a table and a picture of value and slope",
        description="Prints all there is to say of a loss and, if it is one of preferences, its value and slopes where "
        "the log-probs move away from policy = reference.",
    )
    parser.add_argument("loss", metavar="LOSS", help="as in dpo-numpy losses")
    parser.add_argument("--span", type=float, metavar="NATS", help="how far to go to either side")
    parser.add_argument("--output", type=Path, metavar="FILE", help="draw value and slope there: .png, .svg or .pdf")
    group = parser.add_argument_group("hyper-parameters", "those of the loss; the others belong to other losses")
    for name in _flags(FACTORIES):
        group.add_argument(f"--{name}", dest=f"loss_{name}", default=None, metavar="X")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    hyper = _hyperparameters(args, FACTORIES)
    if args.loss not in LOSSES and {args.span, args.output} != {None}:
        raise ValueError(f"{args.loss} is a loss of tokens, shown in words; expected neither --span nor --output")
    if args.output is not None and args.output.suffix.lower() not in FORMATS:
        raise ValueError(f"output is {args.output}; expected a name that ends in {', '.join(FORMATS[:-1])} or "
                         f"{FORMATS[-1]}")
    if args.span is not None and not (math.isfinite(args.span) and args.span > 0):
        raise ValueError(f"span is {args.span}; expected a finite number above 0")
    print("\n".join([FACTORIES[args.loss](**hyper).name, "", inspect.getdoc(FACTORIES[args.loss]) or "", "",
                     *takes(args.loss, hyper)]))
    if args.loss in LOSSES:
        print("\n".join(["", *table(curve(args.loss, hyper, args.span, 9))]))
    if args.output is not None:
        figure = picture(curve(args.loss, hyper, args.span, 801))
        try:
            figure.savefig(args.output, dpi=150)
        except OSError as error:
            raise ValueError(f"output: {args.output} cannot be written: {error.strerror}") from error
        print(f"\nfigure: {args.output}")
    return 0


def takes(name: str, hyper: dict[str, Any]) -> list[str]:
    """What it reads and needs; each hyper-parameter, its default, and what may stand there"""
    loss = FACTORIES[name](**hyper)
    said = {
        "reads": ", ".join(loss.reads),
        "needs": ", ".join(loss.needs) or "nothing else",
        "coupled": "yes: a value depends on the rest of the batch" if loss.coupled else "no: each comparison by itself",
    }
    for key, found in inspect.signature(FACTORIES[name]).parameters.items():
        changed = "" if hyper[key] == found.default else f"; default: {_shown(found.default)}"
        said[key] = f"{_shown(hyper[key])} ({_expected(name, key)}{changed})"
    width = max(map(len, said)) + 2
    return [f"{key:<{width}}{what}" for key, what in said.items()]


def _expected(name: str, key: str) -> str:
    """What the factory asks for, in the words of its own errors"""
    for wrong in (-1.0, None):
        try:
            FACTORIES[name](**{key: wrong})
        except ValueError as error:
            return str(error).partition("expected ")[2].replace("True or False", "true or false")
    raise AssertionError(f"{name} takes None as its {key}")


def _shown(x: Any) -> str:
    return str(x).lower() if isinstance(x, bool) else f"{x:g}" if isinstance(x, float) else str(x)


# ---- around policy = reference

class Curve(NamedTuple):
    """Value and slopes over x, for each way that the log-probs may go."""

    name: str
    x: Array  # (N,)
    value: dict[str, Array]  # label -> (N,)
    slopes: dict[str, Array]  # label -> (N,)
    axis: str
    note: str


def curve(name: str, hyper: dict[str, Any], span: float | None = None, points: int = 9) -> Curve:
    """Responses of 10 tokens each. Pairs: the chosen rises by x/2 and the rejected falls by as much; rankings of three:
    the best and the worst; single responses: x is the log-ratio. A slope is that in a log-prob, or in a reward.
    """
    loss = LOSSES[name](**hyper)
    what = kind(loss)
    K = 1 if what == "single" else 3 if _ranks(loss) else 2
    x = np.linspace(-1, 1, points) * (span or _span(name, hyper))
    share = np.linspace(0.5, -0.5, K) if K > 1 else np.ones(1)
    level = 0.0 if what == "reward" else -max(2.0 * TOKENS, 1.25 * abs(x).max())  # low: log-probs stay below 0
    moved = level + x[:, None, None] * share  # (N, 1, K): each comparison a batch of its own
    read = {"logp": moved, "reward": moved, "full_logp": moved - PROMPT, "kl": np.zeros_like(moved),
            "token_logp": np.repeat(moved[..., None] / TOKENS, TOKENS, axis=-1)}
    told = {fact: x for fact, x in _facts(K, level).items() if fact in loss.needs}

    def at(**more: Any) -> tuple[Array, Array]:
        value, grad = loss({reading: read[reading] for reading in loss.reads}, **{**told, **more})
        slopes = (grad[r].mean(axis=-1) if r == "token_logp" else grad[r] for r in loss.reads if r != "kl")
        return value[:, 0], sum(slopes, start=np.zeros_like(moved))[:, 0]

    if what == "single":
        both = {label: at(label=[label == "desired"]) for label in ("desired", "undesired")}
        value = {label: found for label, (found, _) in both.items()}
        slopes = {f"∂/∂ {label}": found[:, 0] for label, (_, found) in both.items()}
    else:
        found, ds = at()
        columns = ("chosen", "rejected") if K == 2 else ("best", "middle", "worst")
        value, slopes = {"value": found}, {f"∂/∂ {column}": ds[:, k] for k, column in enumerate(columns)}

    axis = "reward" if what == "reward" else "log-prob" if what == "free" else "log-ratio"
    axis += {1: "", 2: " of the chosen less that of the rejected", 3: " of the best less that of the worst"}[K]
    silent = ("ref_logp", "ref_token_logp", "mask", "label", "present")
    note = [f"{fact} = {_told(x)}" for fact, x in told.items() if fact not in silent]
    note += ["kl = 0"] * ("kl" in loss.reads) + [f"{TOKENS} tokens each"] * ("mask" in told)
    note += [f"log-probs of {level:g} at x = 0"] * (what == "free" or "nll" in hyper)
    return Curve(loss.name, x, value, slopes, axis + ("" if what == "reward" else " (nats)"), ", ".join(note))


def _ranks(loss: Loss) -> bool:
    """rankings, of rewards too; `sft` takes any number of columns, but looks at the first alone"""
    return bool({"present", "score"} & set(loss.needs)) and {term.link.columns for term in loss.terms} == {None}


def _span(name: str, hyper: dict[str, Any]) -> float:
    """To σ(±4) where the loss has a sigmoid of β times x, to a like place where not"""
    if name in ("f_dpo_forward_kl", "f_dpo_alpha", "f_dpo_chi2"):
        return 8.0  # e⁴
    per_token = name in ("alphapo", "ln_dpo", "orpo", "simpo") or hyper.get("reduction") == "mean"
    return 4 / float(hyper.get("beta", hyper.get("tau", 1.0))) * (TOKENS if per_token else 1)


def _facts(K: int, level: float) -> dict[str, Any]:
    """What a loss may be told, of one comparison of K responses: as harmless as it goes"""
    tokens = np.full((1, K, TOKENS), level / TOKENS)
    return {
        "ref_logp": np.full((1, K), level), "ref_token_logp": tokens, "mask": np.ones(tokens.shape, bool),
        "length": np.full((1, K), TOKENS), "full_length": np.full((1, K), TOKENS + PROMPT),
        "delta": 0.0, "margin": 0.0, "m0": 0.0, "z0": 0.0, "keep": [True], "label": [True],
        "present": np.ones((1, K), bool), "w": np.full((1, K), 0.9),
        "score": np.arange(K, 0.0, -1)[None], "reward": np.arange(K, 0.0, -1)[None],
        "win_rate": np.linspace(0.9, 0.1, K)[None],
    }


def _told(x: Any) -> str:
    numbers = np.asarray(x).ravel()
    return " ".join(_shown(each.item()) for each in (numbers[:1] if (numbers == numbers[0]).all() else numbers))


# ---- shown

def table(found: Curve) -> list[str]:
    told = f"x: {found.axis}" + (f"; {found.note}" if found.note else "")
    columns = [found.x, *found.value.values(), *found.slopes.values()]
    rows = ([f"{x:g}", *(f"{each:.6g}" for each in rest)] for x, *rest in zip(*columns, strict=True))
    return [*textwrap.wrap(told, 120), "", _row(["x", *found.value, *found.slopes]), *map(_row, rows)]


def _row(cells: Iterable[str]) -> str:
    return "".join(f"{cell:>16}" for cell in cells)


#: as in the demo; what is neither chosen nor rejected stands between
LINES = {"chosen": CHOSEN, "best": CHOSEN, "desired": CHOSEN, "rejected": REJECTED, "worst": REJECTED,
         "undesired": REJECTED, "middle": REFERENCE, "value": POLICY}


@styled
def picture(found: Curve) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4))  # drawn by Agg, and nobody's to close
    axes = figure.subplots(1, 2)
    slope = "∂L/∂ reward" if found.axis.startswith("reward") else "∂L/∂ log π"
    for axis, curves, title in zip(axes, (found.value, found.slopes), ("value L", f"slope {slope}"), strict=True):
        for dashes, (label, y) in zip(("-", "--", "-."), curves.items(), strict=False):  # equal ones show
            name = label.split()[-1]
            axis.plot(found.x, y, color=LINES[name], ls=dashes, lw=2, label=name)
        axis.axvline(0, color="0.85", zorder=0)
        axis.set(xlabel=found.axis, title=title, xlim=(found.x[0], found.x[-1]))
        if len(curves) > 1:
            axis.legend()
    axes[1].axhline(0, color="0.85", zorder=0)
    figure.suptitle("\n".join(textwrap.wrap(found.name + (f";  {found.note}" if found.note else ""), 110)))
    return figure
