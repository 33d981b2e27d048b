"""An experiment by name, and its Config from flags: what `run`, `sweep` and `report` share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import ModuleType
from typing import Any

from .methods import named

__all__ = ["add_fields", "claim_of", "config_of", "experiment", "read_field"]


def experiment(name: str) -> ModuleType:
    """The module of that name, - and _ alike; `ValueError` with the nearest where there is none"""
    from toy_models.experiments import EXPERIMENTS

    return EXPERIMENTS[named("experiment", name.replace("-", "_"), EXPERIMENTS)]


def claim_of(module: ModuleType) -> str:
    """The first paragraph of its docstring, on one line"""
    return " ".join((module.__doc__ or "").split("\n\n")[0].split())


def add_fields(parser: argparse.ArgumentParser, module: ModuleType, skip: Sequence[str] = ()) -> None:
    """A flag for each field of its Config"""
    from toy_models.experiments._config import explained

    meaning = explained(module.Config)
    group = parser.add_argument_group("settings of the experiment")
    for field in fields(module.Config):
        if field.name in skip:
            continue
        default: Any = field.default
        more: dict[str, Any] = {}
        if isinstance(default, tuple):
            more, default = {"nargs": "+"}, " ".join(map(str, default))
        elif isinstance(default, bool):
            more, default = {"nargs": "?", "const": "true"}, str(default).lower()
        group.add_argument(f"--{field.name}", dest=f"field_{field.name}", default=None, metavar="X", **more,
                           help=f"{meaning[field.name]} (default: {default})".replace("%", "%%"))


def config_of(args: argparse.Namespace, module: ModuleType, **fixed: Any) -> Any:
    """Its Config, of the flags that were given; `ValueError` where a value makes no sense"""
    given = {field.name: getattr(args, f"field_{field.name}", None) for field in fields(module.Config)}
    return module.Config(**fixed, **{
        name: read_field(module, name, words) for name, words in given.items() if words is not None})


def read_field(module: ModuleType, name: str, words: str | Sequence[str]) -> Any:
    """The value of a field, as its default is: a number, a word, true or false, or a tuple of these

    Raises `ValueError` where the words do not say one.
    """
    defaults: Mapping[str, Any] = {field.name: field.default for field in fields(module.Config)}
    default = defaults[name]
    if isinstance(default, tuple):
        parts = [part for word in ([words] if isinstance(words, str) else words) for part in word.split(",") if part]
        return tuple(_value(name, part, default[0]) for part in parts)
    assert isinstance(words, str)
    return _value(name, words, default)


def _value(name: str, word: str, default: Any) -> Any:
    if isinstance(default, bool):
        if word.lower() not in ("true", "false"):
            raise ValueError(f"{name} is {word!r}; expected true or false")
        return word.lower() == "true"
    if isinstance(default, str):
        return word
    try:
        return int(word) if isinstance(default, int) else float(word)
    except ValueError:
        what = "a whole number" if isinstance(default, int) else "a number"
        raise ValueError(f"{name} is {word!r}; expected {what}") from None
