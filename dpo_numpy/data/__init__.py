"""Preference files in every format, and the tokenizers that make `Preferences` of them.

    files       bytes to records: JSON, JSONL, CSV, Parquet, gzip
    formats     records to rows: (prompt, chosen, rejected), labelled completions; a table of formats
    tokenizers  bytes, words
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..preferences import Preferences, Responses
from .files import records
from .formats import SCORED, Drop, Outcome, Row, Tie, battles_with_votes, recognize
from .tokenizers import Bytes, Tokenizer, Words

__all__ = ["Bytes", "Examples", "Row", "Tokenizer", "Words", "load", "to_preferences"]


@dataclass(frozen=True)
class Examples:
    """What a file holds: rows to learn from, ties kept apart, and what was dropped, reason -> where each stood."""

    format: str
    rows: tuple[Row, ...]
    ties: tuple[Row, ...] = ()
    dropped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scored: Mapping[str, NDArray[np.float64]] | None = None

    def describe(self) -> str:
        """The format recognized, what was kept, what was dropped and why, one row of each named."""
        kept = len(next(iter(self.scored.values()))) if self.scored else len(self.rows)
        noun = "completions" if self.rows and self.rows[0].label is not None else "pairs"
        votes = sum(row.weight for row in self.rows)
        lines = [
            f"format   {self.format}",
            f"kept     {kept:,} {noun}" + (f", {votes:,.0f} votes" if votes != len(self.rows) and self.rows else ""),
        ]
        if self.ties:
            tied = sum(row.weight for row in self.ties)
            lines.append(
                f"ties     {len(self.ties):,} kept apart"
                + (f", {tied:,.0f} votes" if tied != len(self.ties) else "")
                + f" (the first: {self.ties[0].where})"
            )
        lines += [f"dropped  {len(where):,} {reason} (the first: {where[0]})" for reason, where in self.dropped.items()]
        return "\n".join(lines)


def load(path: str | Path, votes: str | Path | None = None, strict: bool = False) -> Examples:
    """Read a preference file of any format; the first row decides which, and every other row must be of it.

    votes  : the file of votes that belongs to a file of battles
    strict : rows that teach nothing (blank or identical responses, different prompts, ties) are errors, not dropped

    Raises `ValueError`, one sentence naming file, row and key, on broken files, and where nothing is left to learn
    from.
    """
    found = records(path)
    if not found:
        raise ValueError(f"{path} holds no rows; expected preference data")
    try:
        form = recognize(found[0][1])
    except ValueError as error:
        raise ValueError(f"{path}, {found[0][0]} {error}") from None
    if votes is not None:
        if form.name != "model battles with votes":
            raise ValueError(
                f"votes were given, but {path} holds {form.name}; expected battles with result_x and result_y"
            )
        try:
            outcomes = list(battles_with_votes(found, records(votes), str(votes)))
        except ValueError as error:
            raise ValueError(str(error) if str(votes) in str(error) else f"{path}, {error}") from None
    else:
        outcomes = []
        for where, record in found:
            try:
                outcomes += form.convert(where, record)
            except ValueError as error:
                raise ValueError(f"{path}, {where} {error}") from None
    return _sorted(str(path), form.name, outcomes, strict)


def _sorted(path: str, name: str, outcomes: list[Outcome], strict: bool) -> Examples:
    rows = tuple(outcome for outcome in outcomes if isinstance(outcome, Row))
    ties = tuple(outcome.row for outcome in outcomes if isinstance(outcome, Tie))
    lost: dict[str, list[str]] = {}
    for outcome in outcomes:
        if isinstance(outcome, Drop):
            lost.setdefault(outcome.reason, []).append(outcome.where)
    dropped = {reason: tuple(where) for reason, where in lost.items()}
    if strict and (dropped or ties):
        reason, where = next(iter(dropped.items()), ("tie", tuple(row.where for row in ties)))
        raise ValueError(f"{path}, {where[0]}: {reason} ({len(where)} such in all); expected none with strict")
    if not rows:
        why = "; ".join(f"{len(where)} {reason}" for reason, where in dropped.items()) or f"{len(ties)} ties"
        raise ValueError(f"{path} has no pair left to learn from: {why}")
    if not rows[0].responses:
        return Examples(name, (), scored={key: np.array([row.facts[key] for row in rows]) for key in SCORED})
    return Examples(name, rows, ties, dropped)


def to_preferences(rows: Iterable[Row], tokenizer: Tokenizer, dtype: Any = np.float64) -> Preferences:
    """Rows as `Preferences`: tokens 0, prompt, 0, response, 0 (0 the boundary), masked on the response and its closing
    0

    Each distinct (prompt, response) stands once; weights are the rows', made to sum to 1; facts that every row has go
    along.

    Raises `ValueError` where there is no row, and where labelled and compared rows are mixed.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("rows is empty; expected at least one")
    if len({(len(row.responses), row.label is None) for row in rows}) > 1:
        raise ValueError("rows mix pairs and labelled completions; expected one kind")
    seen: dict[tuple[str, str], int] = {}
    index = np.array(
        [[seen.setdefault((row.prompt, response), len(seen)) for response in row.responses] for row in rows]
    )
    prompts = {prompt: np.array([0, *tokenizer.encode(prompt), 0], np.int32) for prompt, _ in seen}
    responses = [np.array([*tokenizer.encode(response), 0], np.int32) for _, response in seen]
    width = max(len(prompts[prompt]) + len(response) for (prompt, _), response in zip(seen, responses, strict=True))
    tokens, mask = np.zeros((len(seen), width), np.int32), np.zeros((len(seen), width), bool)
    for row, ((prompt, _), response) in enumerate(zip(seen, responses, strict=True)):
        begin = len(prompts[prompt])
        tokens[row, :begin], tokens[row, begin:begin + len(response)] = prompts[prompt], response
        mask[row, begin:begin + len(response)] = True
    weight = np.array([row.weight for row in rows])
    shared = set.intersection(*(set(row.facts) for row in rows))
    facts = {name: np.array([row.facts[name] for row in rows], dtype) for name in sorted(shared)}
    if rows[0].label is not None:
        facts["label"] = np.array([row.label for row in rows])
    return Preferences(Responses(tokens, mask), index, (weight / weight.sum()).astype(dtype), facts)
