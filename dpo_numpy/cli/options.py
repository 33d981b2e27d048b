"""What `train` can be asked: flags in TRL's spelling, those of the losses made from their factories' signatures."""

from __future__ import annotations

import argparse
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..losses import LOSSES, Loss, positive, within
from .methods import FACTORIES, GIVEN, METHODS, ONLINE, WORLD_BETA, WORLDS, Online, named

__all__ = ["Options", "add_options", "make_loss", "make_method"]

OPTIMIZERS = ("sgd", "momentum", "adam")
Factories = Mapping[str, Callable[..., Any]]
STEPS, EVALUATIONS = 200, 20
RATES = {"file": 0.005, "world": 0.1}
SAMPLED = 256  # tokens of a response that a method samples
PROMPTS = 4  # a step, where there is one prompt only
MEANING = {
    "num_generations": "responses to each prompt a step; ",
    "num_iterations": "steps on each rollout; ",
    "epsilon": "of the clip; ",
    "scale_rewards": "divide by the deviation of a group's rewards; ",
    "vf_learning_rate": "of the critic; ",
    "beta": "of methods that sample, the coefficient of the KL; worlds: "
    + ", ".join(f"{world} {beta}" for world, beta in WORLD_BETA.items()) + "; ",
    "gamma": "of ppo, the discount; ",
    "lam": "of ppo, that of its advantages; ",
    "labels": "of online_dpo: expected, sampled or sign; ",
}
ALIASES = {"num_generations": ("--group_size",), "num_iterations": ("--num_ppo_epochs",)}
OF_FILES = ("votes", "strict", "model", "order", "smoothing", "tokenizer", "vocab_limit", "reference_data",
            "eval_fraction", "reward_model")


@dataclass(frozen=True)
class Options:
    """The options as given; None where the method or the data decide, until `resolved`."""

    method: str = "dpo"
    world: str | None = None
    model: str = "ngram"
    order: int = 2
    smoothing: float = 1.0
    tokenizer: str = "bytes"
    vocab_limit: int = 1000
    reference_data: str = "all"
    loss: str | None = "dpo"
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
        given = {name: value for name, value in given.items() if value is not None}
        method = given["method"] = named("method", given.get("method", "dpo").replace("-", "_"), METHODS)
        _source(args, given, method)
        given["loss"] = _loss(method, given)
        for name in ("learning_rate", "max_new_tokens"):
            given.setdefault(name, _default(name, method, "world" in given))
        beta = {"beta": WORLD_BETA[given["world"]]} if "world" in given else {}
        own = given["loss"] if method == "dpo" else method
        if method == "dpo":
            own = named("loss", own, LOSSES)
            beta = beta if own == "dpo" else {}
        hyperparameters = _chosen(args, own, FACTORIES, beta)
        options = cls(**given, hyperparameters=hyperparameters)
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
        if options.online:
            make_method(options)
        else:
            make_loss(options)
        return options

    @property
    def online(self) -> bool:
        return self.method in ONLINE

    @property
    def kl_coefficient(self) -> float | None:
        """β of J, where the method has one"""
        if not self.online and "ref_logp" not in make_loss(self).needs:
            return None
        found = self.hyperparameters.get("beta", self.hyperparameters.get("tau"))
        return None if found is None else float(found)

    def resolved(self, train: int) -> Options:
        """What the number of training rows decides; of prompts a step, where the method makes its own data."""
        size = self.batch_size or train
        size = size if self.online else min(size, train)
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
    return LOSSES[options.loss or ""](**options.hyperparameters)


def make_method(options: Options) -> Online:
    return ONLINE[options.method](**options.hyperparameters)


def _source(args: argparse.Namespace, given: Mapping[str, Any], method: str) -> None:
    """One of a file and a world, and nothing that the other would be asked."""
    world = given.get("world")
    if (args.file is None) == (world is None):
        raise ValueError("train takes either FILE or --world NAME, and got "
                         + ("both" if world else "neither (dpo-numpy train --help lists the worlds)"))
    online = method in ONLINE
    if world is not None:
        named("world", world, WORLDS)
        for name in OF_FILES:
            if getattr(args, name) not in (None, False):
                raise ValueError(f"--world {world} takes no --{name}, which is for a FILE")
    if online and "num_train_epochs" in given:
        raise ValueError(f"{method} makes its own data and knows no epochs: expected --max_steps")
    if online and world is None and given.get("model") == "tabular":
        raise ValueError(f"{method} on a FILE samples from an n-gram: expected --model ngram")
    if args.reward_model is not None and not online:
        raise ValueError(f"{method} takes no --reward_model: its data are judged; expected {', '.join(ONLINE)}")
    if args.reward_model is None and online and world is None:
        raise ValueError(f"{method} on a FILE needs --reward_model, the output folder of an earlier run of --method rm")


def _loss(method: str, given: Mapping[str, Any]) -> str | None:
    if method == "dpo":
        return str(given.get("loss", "dpo"))
    if "loss" in given:
        raise ValueError(f"{method} takes no --loss: expected --method dpo, whose losses are {', '.join(LOSSES)}")
    return GIVEN.get(method)


def _default(name: str, method: str, world: bool) -> Any:
    if name == "learning_rate":
        return RATES["world" if world else "file"]
    return SAMPLED if method in ONLINE else Options.max_new_tokens


def add_options(parser: argparse.ArgumentParser) -> None:
    default = {name: found.default for name, found in Options.__dataclass_fields__.items()}

    def add(group: Any, name: str, what: str, *others: str, shown: str = "", **more: Any) -> None:
        shown = shown or ("" if default.get(name) is None else str(default[name]))
        group.add_argument(f"--{name}", *others, dest=name, default=None,
                           help=what + (f" (default: {shown})" if shown else ""), **more)

    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="preference data; or --world")
    parser.add_argument("--votes", type=Path, metavar="FILE",
                        help="the CSV of votes that belongs to a file of model battles")
    parser.add_argument("--strict", action="store_true", help="rows that teach nothing are errors, not dropped")

    group = parser.add_argument_group("method", _listed(METHODS))
    add(group, "method", "one of these", metavar="NAME")
    methods = _flags(ONLINE)
    add(group, "reward_model", f"for {', '.join(ONLINE)} on a FILE: the output folder of an earlier --method rm",
        type=Path, metavar="FOLDER")
    for name in (name for name in methods if name not in _flags()):
        _add_hyperparameter(group, name, methods[name], MEANING[name])

    group = parser.add_argument_group("world", _listed(WORLDS))
    add(group, "world", "in place of FILE, one of these; dpo, sft and rm need the annotators of bandit and strings",
        metavar="NAME")

    group = parser.add_argument_group("model")
    add(group, "model", "an n-gram language model, or a table of each prompt's whole responses",
        choices=("ngram", "tabular"))
    add(group, "order", "of the n-gram: 2 is the bigram", type=int, metavar="N")
    add(group, "smoothing", "mass given to the next shorter context when the reference is fitted", type=float,
        metavar="S")
    add(group, "tokenizer", "what a token is", choices=("bytes", "words"))
    add(group, "vocab_limit", "with words: how many to know", type=int, metavar="N")
    add(group, "reference_data", "responses that the reference is fitted to: all of the training part (so that it "
        "covers what is compared), or the chosen ones only", choices=("all", "chosen"))
    add(group, "dtype", "of the parameters and all that is computed from them", choices=("float32", "float64"))

    group = parser.add_argument_group(
        "loss", "hyper-parameters left out have the default of the paper; `--loss NAME` says which it takes"
    )
    add(group, "loss", f"of --method dpo, one of {', '.join(LOSSES)}", "--loss_type", metavar="NAME")
    for name, takers in _flags().items():
        _add_hyperparameter(group, name, {**methods.get(name, {}), **takers}, MEANING.get(name, ""))

    group = parser.add_argument_group("training")
    add(group, "optimizer", "which", choices=OPTIMIZERS)
    add(group, "learning_rate", "a constant", type=float, metavar="LR",
        shown=", ".join(f"{rate} for a {where}" for where, rate in RATES.items()))
    add(group, "max_grad_norm", "gradients longer than this are cut to it (default: never)", type=float, metavar="NORM")
    add(group, "batch_size", "comparisons a step (default: all of them); prompts a step for methods that sample "
        f"(default: all of a world's, {PROMPTS} on a file)", "--per_device_train_batch_size", type=int, metavar="N")
    add(group, "max_steps", f"steps to take (default: {STEPS})", type=int, metavar="N")
    add(group, "num_train_epochs", "passes over the data, instead of --max_steps", type=float, metavar="N")
    add(group, "eval_fraction", "share of the groups (trees, else prompts) held out (default: 0.2)", type=float,
        metavar="SHARE")
    add(group, "eval_steps", f"steps between evaluations (default: so that there are {EVALUATIONS})", type=int,
        metavar="N")
    add(group, "max_new_tokens", "of a sampled response", "--max_completion_length", type=int, metavar="N",
        shown=f"{Options.max_new_tokens}; {SAMPLED} for methods that sample")
    add(group, "seed", "of the split, the order of batches and the samples", type=int, metavar="N")

    group = parser.add_argument_group("output")
    group.add_argument("--output_dir", type=Path, default=Path("dpo-output"), metavar="FOLDER",
                       help="default: dpo-output")
    group.add_argument("--resume", action="store_true",
                       help="go on from the last checkpoint in the output folder, to the same bits; with nothing "
                       "there, start")
    group.add_argument("--overwrite_output_dir", action="store_true",
                       help="remove what an earlier run wrote there, and nothing else")
    group.add_argument("--save_seconds", type=float, default=1.0, metavar="S",
                       help="at least this long between checkpoints (default: 1)")
    group.add_argument("--no_progress", action="store_true", help="no progress bar")


def _listed(names: Mapping[str, str]) -> str:
    return "\n".join(f"{name:<11} {what}" for name, what in names.items())


def _add_hyperparameter(group: Any, name: str, takers: Mapping[str, Any], meaning: str) -> None:
    defaults = ", ".join(f"{taker} {value}" for taker, value in takers.items())
    group.add_argument(f"--{name}", *ALIASES.get(name, ()), dest=f"loss_{name}", default=None, metavar="X",
                       help=f"{meaning}default: {defaults}".replace("%", "%%"))


def _flags(factories: Factories = LOSSES) -> dict[str, dict[str, Any]]:
    """flag -> {loss: default}, over all losses, or whatever else has hyper-parameters"""
    found: dict[str, dict[str, Any]] = {}
    for loss, factory in factories.items():
        for name, parameter in inspect.signature(factory).parameters.items():
            found.setdefault(name, {})[loss] = parameter.default
    return found


def _hyperparameters(args: argparse.Namespace, factories: Factories = LOSSES) -> dict[str, Any]:
    """All that the chosen loss takes, given or default."""
    return _chosen(args, named("loss", args.loss, factories), factories)


def _chosen(args: argparse.Namespace, name: str, factories: Factories, instead: Mapping[str, Any] | None = None
            ) -> dict[str, Any]:
    """What `factories[name]` takes, given or default, or the default that stands `instead` of its own."""
    takes = inspect.signature(factories[name]).parameters
    for flag in _flags(factories):
        if getattr(args, f"loss_{flag}") is not None and flag not in takes:
            raise ValueError(
                f"{name} takes no --{flag}; it takes {', '.join(f'--{key}' for key in takes) or 'no hyper-parameters'}"
            )
    chosen = {}
    for key, parameter in takes.items():
        text, default = getattr(args, f"loss_{key}"), (instead or {}).get(key, parameter.default)
        if text is None and default is parameter.empty:
            raise ValueError(f"{name} needs --{key}")
        chosen[key] = default if text is None else _read(key, text, parameter.default)
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
