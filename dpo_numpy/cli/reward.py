"""`--method rm`: a policy trained as a reward model, and taken as one by the methods that sample."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..gradient import read
from ..policy import Params
from ..preferences import Preferences
from .loop import Run
from .models import Problem, Trained, load_trained
from .run_folder import CONFIG, PROGRAM, REPORT

__all__ = ["RewardRun", "checked", "load_reward_model", "unbiased"]

Array = NDArray[Any]


class RewardRun(Run):
    """Under the names of TRL's RewardTrainer. It begins at 0: all responses are worth the same."""

    def evaluate(self, params: Params) -> dict[str, float]:
        return self._held(params) | (self.problem.exact.of(params) if self.problem.exact else {})

    def score(self, params: Params, pairs: Preferences) -> Array:
        """r, (B, K)"""
        responses = pairs.responses
        reward = read(self.problem.policy, params, responses, np.arange(len(responses)), ["reward"])[0]["reward"]
        return np.asarray(reward.astype(float)[pairs.index])

    def _metrics(self, pairs: Preferences) -> dict[str, float]:
        reward, share = self.loss.read.astype(float), np.asarray(pairs.weight, float)
        share = share / share.sum()
        margin = reward[:, 0] - reward[:, 1]
        return {"accuracy": float(share @ (margin > 0)), "margin": float(share @ margin),
                "min_reward": float(reward.min()), "mean_reward": float(share @ reward.mean(axis=1)),
                "max_reward": float(reward.max())}


def unbiased(problem: Problem) -> Problem:
    """The same comparisons for a reward model, which begins at 0"""
    return replace(problem, reference={name: np.zeros_like(p) for name, p in problem.reference.items()})


def checked(folder: Path) -> Path:
    """The params.npz of a finished run of --method rm on a file; `ValueError` where the folder holds none."""
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        config = {}
    if not isinstance(config, dict) or config.get("program") != PROGRAM or not (folder / REPORT).is_file():
        raise ValueError(f"reward_model is {folder}, which holds no finished run; expected the output folder of "
                         f"dpo-numpy train FILE --method rm")
    if config.get("method") != "rm" or config.get("world"):
        what = f"--world {config['world']}" if config.get("world") else f"--method {config.get('method', 'dpo')}"
        raise ValueError(f"reward_model is {folder}, a run of {what}; expected one of --method rm on a FILE")
    return folder / "params.npz"


def load_reward_model(folder: Path, meta: Mapping[str, Any]) -> Trained:
    """Of an n-gram that sees as far and reads the same tokens as the policy, which `meta` describes"""
    path = checked(folder)
    try:
        judge = load_trained(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if judge.meta["model"] != "ngram":
        raise ValueError(f"reward_model is {folder}, a table of the responses it was shown; expected an n-gram")
    theirs, own = (f"{told['order']}-gram of {told['tokenizer']}" for told in (judge.meta, meta))
    if theirs != own:
        raise ValueError(f"reward_model is {folder}, a {theirs}, and the policy would be a {own}: expected the same "
                         f"--order and --tokenizer")
    if judge.meta.get("pieces") != meta.get("pieces"):
        raise ValueError(f"reward_model is {folder}, which knows other words than the policy would: expected one of "
                         f"the same FILE, --vocab_limit, --eval_fraction and --seed")
    return judge
