"""Somebody else's function: found, and called by the names of its own parameters.

What a seam hands over has canonical names (`policy_chosen_logps`, `logits` ...). A parameter is met by that name, or by
what its words say: `pi_logps_w`, `ref_rejected_logprobs`, `win_logps`, `label_smoothing`. Where names say nothing, as
many required parameters as the seam has arrays are taken in the canonical order.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["HYPER", "Call", "bind", "load"]

#: what others call the hyper-parameters of ours; -> (our name, how theirs becomes ours is told by `CONVERTED`)
HYPER: dict[str, tuple[str, ...]] = {
    "beta": ("beta", "pref_beta", "dpo_beta", "temperature", "tau"),
    "tau": ("tau", "beta", "pref_beta", "ipo_tau"),
    "eps": ("eps", "epsilon", "label_smoothing", "eps_label", "clip_eps", "cliprange", "clip_range", "epsilon_low"),
    "eps_low": ("eps_low", "epsilon_low", "clip_low", "eps", "epsilon"),
    "eps_high": ("eps_high", "epsilon_high", "clip_high"),
    "gamma": ("gamma", "simpo_gamma", "margin", "target_reward_margin"),
    "lam": (
        "lam",
        "lambda_",
        "lambd",
        "lmbda",
        "dpop_lambda",
        "orpo_lambda",
        "beta",
        "alpha",
        "gae_lambda",
        "lambda_orpo",
    ),
    "alpha": (
        "alpha",
        "rpo_alpha",
        "cpo_alpha",
        "ld_alpha",
        "alpha_coef",
        "nll_weight",
        "sft_weight",
        "pref_ftx",
        "ent_coef",
        "alpha_divergence",
    ),
    "delta": ("delta", "margin", "slic_delta"),
    "lam_d": ("lam_d", "lambda_d", "desirable_weight", "lambda_desirable", "chosen_weight"),
    "lam_u": ("lam_u", "lambda_u", "undesirable_weight", "lambda_undesirable", "rejected_weight"),
    "center": ("center", "center_rewards_coefficient", "centering"),
    "max_length": ("max_length", "max_completion_length", "max_len", "max_tokens"),
    "dual": ("dual", "dual_clip", "clip_ratio_c"),
    "ddof": ("ddof", "correction"),
    "eta": ("eta", "reward_scale"),
    "w_p": ("w_p",),
    "w_q": ("w_q",),
    "w_g": ("w_g",),
    "floor": ("floor",),
    "discount": ("discount", "gamma"),
    "coefficient": ("coefficient", "entropy_coef"),
}
RATIO = ("gamma_beta_ratio", "gamma_ratio")  # γ/β


class Call(NamedTuple):
    """How a function is called."""

    f: Callable[..., Any]
    arrays: dict[str, str]  # its parameter -> the seam's name
    hyper: dict[str, str]  # its parameter -> our hyper-parameter
    left: tuple[str, ...]  # parameters left at their defaults

    def keywords(self, arrays: Mapping[str, Any], hyper: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, by the names of its own parameters; a ratio γ/β where it takes one"""
        told = {theirs: arrays[ours] for theirs, ours in self.arrays.items()}
        for theirs, ours in self.hyper.items():
            told[theirs] = hyper["gamma"] / hyper["beta"] if theirs in RATIO else hyper[ours]
        return told


def load(where: str) -> Callable[..., Any]:
    """`pkg.module:function` or `path/to/file.py:function` (`Class.method` and instances too); runs that module.

    Raises `ValueError` where there is no such file, module or function, or where its import fails.
    """
    home, colon, name = where.rpartition(":")
    if not (colon and home and name):
        raise ValueError(f"function is {where!r}; expected module:function or path/to/file.py:function")
    try:
        module = _from_path(Path(home)) if home.endswith(".py") else _by_name(home)
    except Exception as error:
        raise ValueError(f"{home} cannot be imported: {type(error).__name__}: {error}") from None
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [x for x, value in vars(module).items() if callable(value) and not x.startswith("_")]
            there = f"; it has {', '.join(sorted(public)[:12])}" if public else ""
            raise ValueError(f"{home} has no {name}{there}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{where} is a {type(found).__name__}; expected a function")
    return found  # type: ignore[no-any-return]


def _by_name(name: str) -> Any:
    if os.getcwd() not in sys.path:  # as python -m does
        sys.path.insert(0, os.getcwd())
    return import_module(name)


def _from_path(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # its neighbours, as when it is run
        sys.path.insert(0, folder)
    name = f"_{path.stem}_{hashlib.sha1(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# ---- names

WORDS = {
    "chosen": ("chosen", "w", "win", "winner", "preferred", "positive", "pos", "yw", "accepted"),
    "rejected": ("rejected", "reject", "l", "lose", "loser", "dispreferred", "negative", "neg", "yl", "loss"),
    "reference": ("ref", "reference", "refs"),
    "policy": ("policy", "pi", "model", "actor", "pol", "theta"),
    "KL": ("kl",),
    "old": ("old", "prev", "behavior", "behaviour", "sampling", "rollout"),
    "length": ("length", "lengths", "len", "lens", "num_tokens", "size"),
}


def words(name: str) -> set[str]:
    """{"policy", "chosen"} of `policy_chosen_logps`, `pi_w` or `chosenLogps`"""
    parts = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower().replace("rewards", "reward").split("_")
    return {concept for concept, spellings in WORDS.items() if any(part in spellings for part in parts)}


def bind(
    f: Callable[..., Any], role: Callable[[str], str | None], order: Sequence[Sequence[str]], hyper: Mapping[str, Any]
) -> Call:
    """Match the parameters of f to a seam's arrays by what their names say, to hyper-parameters, or all by order.

    role    the array that a name stands for, or None
    order   signatures by position, one of which a function whose names say nothing may follow

    What a `functools.partial` has been given by name is left as it is.

    Raises `ValueError` naming the parameter that nothing is known for.
    """
    if not callable(f):
        raise ValueError(f"function is {f!r}; expected something that can be called")
    try:
        parameters = list(inspect.signature(f).parameters.values())
        bare = all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
        if bare and callable(getattr(f, "forward", None)):  # a torch module, whose __call__ takes anything
            parameters = list(inspect.signature(f.forward).parameters.values())  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise ValueError(
            f"the signature of {_name(f)} cannot be read; wrap it: lambda {', '.join(order[0])}: ..."
        ) from None
    fixed = f.keywords if isinstance(f, partial) else {}
    plain = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in fixed]
    found: dict[str, str] = {}
    told: dict[str, str] = {}
    left, unknown = [], []
    for p in plain:
        if (array := role(p.name)) and array not in found.values():
            found[p.name] = array
        elif (ours := _hyper(p.name, hyper)) and ours not in told.values():
            told[p.name] = ours
        elif p.default is p.empty:
            unknown.append(p)
        else:
            left.append(p.name)
    if unknown or not found:
        required = [p for p in plain if p.default is p.empty and p.name not in told]
        fits = [names for names in order if len(names) == len(required)]
        if not fits or any(p.kind is p.KEYWORD_ONLY for p in required) or found:
            what = ", ".join(p.name for p in unknown) or "nothing"
            raise ValueError(
                f"{_name(f)} takes {what}, and it is not known what that is; expected ({', '.join(order[0])}) or names "
                f"like these: write an adaptor, lambda {', '.join(order[0])}: {_name(f)}(...)"
            )
        found = {p.name: name for p, name in zip(required, fits[0], strict=True)}
    positional = [p.name for p in plain if p.kind is p.POSITIONAL_ONLY]
    call = Call(f, found, told, tuple(left))
    return call._replace(f=_by_position(f, positional)) if positional else call


def _by_position(f: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    def called(**told: Any) -> Any:
        first = [told.pop(name) for name in names if name in told]
        return f(*first, **told)

    called.__name__ = _name(f)
    return called


def _hyper(name: str, hyper: Mapping[str, Any]) -> str | None:
    if name in hyper:
        return name
    if name in RATIO and {"gamma", "beta"} <= set(hyper):
        return "gamma"
    return next((ours for ours in hyper if name in HYPER.get(ours, ())), None)


def _name(f: Callable[..., Any]) -> str:
    return getattr(f, "__name__", type(f).__name__)
