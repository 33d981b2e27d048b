"""Real preferences: the folder that DPO_NUMPY_DATA names, and the votes of LLMFAO in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpo_numpy.data.files import records

from ._claims import Skipped

__all__ = ["UNITS", "Votes", "files", "llmfao", "of_rows"]

Array = NDArray[Any]

UNITS: dict[str, Callable[[str], int]] = {
    "characters": len, "bytes": lambda text: len(text.encode()), "words": lambda text: len(text.split())}
SIDES = {"left": 1, "tie": 0, "right": -1}


def files(*names: str) -> list[Path]:
    """The paths of these files. Raises `Skipped`, a sentence, where there is no folder, or one of them is not in it."""
    folder = os.environ.get("DPO_NUMPY_DATA")
    where = "(docs/experiment.md says where to get them)"
    if not folder or not Path(folder).is_dir():
        raise Skipped("DPO_NUMPY_DATA names no folder of real preferences: "
                      f"expected one with {', '.join(names)} {where}")
    missing = [name for name in names if not (Path(folder) / name).is_file()]
    if missing:
        raise Skipped(f"DPO_NUMPY_DATA names a folder without {', '.join(missing)}: expected them there {where}")
    return [Path(folder) / name for name in names]


class Votes(NamedTuple):
    """A row a vote; pair and prompt number them, left and right are models, longer is the difference of log lengths."""

    pair: Array
    left: Array
    right: Array
    outcome: Array
    voter: Array
    prompt: Array
    longer: Array
    empty: Array  # whether an answer of the pair is


def llmfao(unit: str) -> tuple[Votes, Votes, int]:
    """Votes of people, of GPT-4, and how many models there are; lengths in this unit of `UNITS`"""
    compared, human, gpt4 = (records(path) for path in files(
        "llmfao_pairs.jsonl.gz", "llmfao_crowd_comparisons.csv.gz", "llmfao_gpt4_crowd_comparisons.csv.gz"))
    pairs = [row for _, row in compared]
    number = {str(row["id"]): k for k, row in enumerate(pairs)}
    names = sorted({row[side] for row in pairs for side in ("model_x", "model_y")})
    index = {name: k for k, name in enumerate(names)}
    texts = [(row["result_x"], row["result_y"]) for row in pairs]
    log_length = np.log1p([[UNITS[unit](text) for text in two] for two in texts])
    of_pair = {
        "left": np.array([index[row["model_x"]] for row in pairs]),
        "right": np.array([index[row["model_y"]] for row in pairs]),
        "prompt": np.array([row["prompt"] for row in pairs]),
        "longer": log_length[:, 0] - log_length[:, 1],
        "empty": np.array([not (x.strip() and y.strip()) for x, y in texts]),
    }

    def cast(rows: Any) -> Votes:
        pair = np.array([number[row["id"]] for _, row in rows])
        return Votes(pair=pair, outcome=np.array([SIDES[row["winner"]] for _, row in rows]),
                     voter=np.array([int(row.get("worker", 0)) for _, row in rows]),
                     **{name: x[pair] for name, x in of_pair.items()})

    return cast(human), cast(gpt4), len(names)


def of_rows(votes: Votes, rows: Array) -> Votes:
    """Those votes alone: `rows` is a mask or indices"""
    return Votes(*(x[rows] for x in votes))
