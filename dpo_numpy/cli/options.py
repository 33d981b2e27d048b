"""What `train` can be asked: flags in TRL's spelling, those of the losses made from their factories' signatures."""

from __future__ import annotations

import argparse
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..losses import LOSSES, Loss, positive, within

__all__ = ["Options", "add_options", "make_loss"]

OPTIMIZERS = ("sgd", "momentum", "adam")
Factories = Mapping[str, Callable[..., Loss]]
STEPS = 200
EVALUATIONS = 20


@dataclass(frozen=True)
class Options:
    """The options as given; None where the data decide, until `resolved`."""

    model: str = "ngram"
    order: int = 2
    smoothing: float = 1.0
    tokenizer: str = "bytes"
    vocab_limit: int = 1000
    reference_data: str = "all"
    loss: str = "dpo"
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "adam"
    learning_rate: float = 0.005
    max_grad_norm: float | None = None
    batch_size: int | None = None
    max_steps: int | None = None
    num_train_epochs: float | None = None
    eval_fraction: float | None = None
    eval_steps: int | None = None
    max_new_tokens: int = 1000
    seed: int = 0
    dtype: str = "float64"
    strict: bool = False

    @classmethod
    def of(cls, args: argparse.Namespace) -> Options:
        """Raises `ValueError` on whatever can be told from the options alone."""
        given = {name: getattr(args, name) for name in cls.__dataclass_fields__ if name != "hyperparameters"}
        options = cls(**given, hyperparameters=_hyperparameters(args))
        for name in ("order", "vocab_limit", "batch_size", "max_steps", "eval_steps", "max_new_tokens"):
            value = getattr(options, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        for name in ("smoothing", "learning_rate", "max_grad_norm", "num_train_epochs"):
            if getattr(options, name) is not None:
                positive(name, getattr(options, name))
        if options.seed < 0:
            raise ValueError(f"seed is {options.seed}; expected at least 0")
        if options.eval_fraction is not None:
            within("eval_fraction", options.eval_fraction, 0, 1)
        if options.max_steps is not None and options.num_train_epochs is not None:
            raise ValueError("max_steps and num_train_epochs both say when to stop: give one of them")
        if options.model == "tabular" and options.eval_fraction:
            raise ValueError(
                f"eval_fraction is {options.eval_fraction}: a table knows only its training prompts and can say "
                f"nothing about held-out ones; expected 0, or --model ngram"
            )
        make_loss(options)
        return options

    def resolved(self, train: int) -> Options:
        """What the number of training rows decides."""
        size = min(self.batch_size or train, train)
        epochs = self.num_train_epochs
        steps = self.max_steps or (STEPS if epochs is None else max(1, math.ceil(epochs * math.ceil(train / size))))
        return replace(
            self, batch_size=size, max_steps=steps, eval_steps=self.eval_steps or max(1, steps // EVALUATIONS)
        )

    def config(self) -> dict[str, Any]:
        """Flat, in the order of the fields: the loss's hyper-parameters after its name."""
        flat: dict[str, Any] = {}
        for name, value in asdict(self).items():
            flat.update(value if name == "hyperparameters" else {name: value})
        return flat


def make_loss(options: Options) -> Loss:
    return LOSSES[options.loss](**options.hyperparameters)


def add_options(parser: argparse.ArgumentParser) -> None:
    default = {name: found.default for name, found in Options.__dataclass_fields__.items()}

    def add(group: Any, name: str, what: str, *others: str, **more: Any) -> None:
        shown = "" if default.get(name) is None else f" (default: {default[name]})"
        group.add_argument(f"--{name}", *others, dest=name, default=default.get(name), help=what + shown, **more)

    add(parser, "votes", "the CSV of votes that belongs to a file of model battles", type=Path, metavar="FILE")
    parser.add_argument("--strict", action="store_true", help="rows that teach nothing are errors, not dropped")

    group = parser.add_argument_group("model")
    add(
        group,
        "model",
        "an n-gram language model, or a table of each prompt's whole responses",
        choices=("ngram", "tabular"),
    )
    add(group, "order", "of the n-gram: 2 is the bigram", type=int, metavar="N")
    add(
        group,
        "smoothing",
        "mass given to the next shorter context when the reference is fitted",
        type=float,
        metavar="S",
    )
    add(group, "tokenizer", "what a token is", choices=("bytes", "words"))
    add(group, "vocab_limit", "with words: how many to know", type=int, metavar="N")
    add(
        group,
        "reference_data",
        "responses that the reference is fitted to: all of the training part (so that it covers what is compared), or "
        "the chosen ones only",
        choices=("all", "chosen"),
    )
    add(group, "dtype", "of the parameters and all that is computed from them", choices=("float32", "float64"))

    group = parser.add_argument_group(
        "loss", "hyper-parameters left out have the default of the paper; `--loss NAME` says which it takes"
    )
    add(group, "loss", f"one of {', '.join(LOSSES)}", "--loss_type", metavar="NAME")
    for name, takers in _flags().items():
        defaults = ", ".join(f"{loss} {value}" for loss, value in takers.items())
        group.add_argument(
            f"--{name}", dest=f"loss_{name}", default=None, metavar="X", help=f"default: {defaults}".replace("%", "%%")
        )

    group = parser.add_argument_group("training")
    add(group, "optimizer", "which", choices=OPTIMIZERS)
    add(group, "learning_rate", "a constant", type=float, metavar="LR")
    add(group, "max_grad_norm", "gradients longer than this are cut to it (default: never)", type=float, metavar="NORM")
    add(
        group,
        "batch_size",
        "comparisons a step (default: all of them)",
        "--per_device_train_batch_size",
        type=int,
        metavar="N",
    )
    add(group, "max_steps", f"steps to take (default: {STEPS})", type=int, metavar="N")
    add(group, "num_train_epochs", "passes over the data, instead of --max_steps", type=float, metavar="N")
    add(
        group,
        "eval_fraction",
        "share of the groups (trees, else prompts) held out (default: 0.2)",
        type=float,
        metavar="SHARE",
    )
    add(
        group,
        "eval_steps",
        f"steps between evaluations (default: so that there are {EVALUATIONS})",
        type=int,
        metavar="N",
    )
    add(group, "max_new_tokens", "of a sampled response", type=int, metavar="N")
    add(group, "seed", "of the split, the order of batches and the samples", type=int, metavar="N")

    group = parser.add_argument_group("output")
    group.add_argument(
        "--output_dir", type=Path, default=Path("dpo-output"), metavar="FOLDER", help="default: dpo-output"
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint in the output folder, to the same bits; with nothing there, start",
    )
    group.add_argument(
        "--overwrite_output_dir", action="store_true", help="remove what an earlier run wrote there, and nothing else"
    )
    group.add_argument(
        "--save_seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="at least this long between checkpoints (default: 1)",
    )
    group.add_argument("--no_progress", action="store_true", help="no progress bar")


def _flags(factories: Factories = LOSSES) -> dict[str, dict[str, Any]]:
    """flag -> {loss: default}, over all losses"""
    found: dict[str, dict[str, Any]] = {}
    for loss, factory in factories.items():
        for name, parameter in inspect.signature(factory).parameters.items():
            found.setdefault(name, {})[loss] = parameter.default
    return found


def _hyperparameters(args: argparse.Namespace, factories: Factories = LOSSES) -> dict[str, Any]:
    """All that the chosen loss takes, given or default."""
    loss = args.loss
    if loss not in factories:
        near = get_close_matches(loss, factories, 1)
        raise ValueError(
            f"no loss is called {loss!r}"
            + (f"; did you mean {near[0]}?" if near else ".")
            + f" There are {', '.join(factories)}"
        )
    takes = inspect.signature(factories[loss]).parameters
    for name in _flags(factories):
        if getattr(args, f"loss_{name}") is not None and name not in takes:
            raise ValueError(
                f"{loss} takes no --{name}; it takes {', '.join(f'--{key}' for key in takes) or 'no hyper-parameters'}"
            )
    chosen = {}
    for name, parameter in takes.items():
        text = getattr(args, f"loss_{name}")
        if text is None and parameter.default is parameter.empty:
            raise ValueError(f"{loss} needs --{name}")
        chosen[name] = parameter.default if text is None else _read(name, text, parameter.default)
    return chosen


def _read(name: str, text: str, default: Any) -> Any:
    """Of the type of the default; numbers where there is none."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{name} is {text!r}; expected true or false")
        return text.lower() == "true"
    try:
        return int(text) if isinstance(default, int) else float(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}; expected a number") from None
