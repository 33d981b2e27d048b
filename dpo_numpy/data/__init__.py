"""Preference files in every format, and the tokenizers that make `Preferences` of them.

    files       bytes to records: JSON, JSONL, CSV, Parquet, gzip
    formats     records to rows: (prompt, chosen, rejected), labelled completions; a table of formats
    tokenizers  bytes, words
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..preferences import Preferences, Responses
from .files import Record, records
from .formats import BATTLES, SCORED, Drop, Format, Outcome, Row, Scored, Tie, battle, identified, recognize, vote
from .tokenizers import Bytes, Tokenizer, Words

__all__ = ["Bytes", "Examples", "Row", "Tokenizer", "Words", "load", "to_preferences"]


@dataclass(frozen=True, eq=False)
class Examples:
    """What a file holds: rows to learn from, ties kept apart, and what was dropped, reason -> where each stood.

    scored : of a file that holds log-probs and no text, its four columns, each (rows,); then `rows` is empty
    """

    format: str
    rows: tuple[Row, ...]
    ties: tuple[Row, ...] = ()
    dropped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scored: Mapping[str, NDArray[np.float64]] | None = None

    def describe(self) -> str:
        """The format recognized, what was kept, what was dropped and why, one row of each named.

        >>> print(Examples("prompt, chosen, rejected", (Row("Is it?", ("Yes", "No"), "Is it?", "row 1", 3.0),),
        ...                dropped={"empty or blank response": ("row 2", "row 5")}).describe())
        format   prompt, chosen, rejected
        kept     1 pairs, 3 votes
        dropped  2 empty or blank response (the first: row 2)
        """
        kept = len(self.rows) if self.scored is None else len(self.scored[SCORED[0]])
        noun = "completions" if self.rows and self.rows[0].label is not None else "pairs"
        lines = [f"format   {self.format}", f"kept     {kept:,} {noun}{_votes(self.rows)}"]
        if self.ties:
            lines.append(f"ties     {len(self.ties):,} kept apart{_votes(self.ties)} (the first: {self.ties[0].where})")
        return "\n".join([*lines, *(f"dropped  {len(where):,} {reason} (the first: {where[0]})"
                                    for reason, where in self.dropped.items())])


def _votes(rows: Sequence[Row]) -> str:
    votes = sum(row.weight for row in rows)
    return "" if votes == len(rows) else f", {votes:,.0f} votes"


def load(path: str | Path, votes: str | Path | None = None, strict: bool = False) -> Examples:
    """Read a preference file of any format; the first row decides which, and every other row must be of it.

    votes  : the file of votes that belongs to a file of battles
    strict : rows that teach nothing (blank or identical responses, different prompts, ties) are errors, not dropped

    Raises `ValueError`, one sentence naming file, row and key, on broken files, and where nothing is left to learn.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "pairs.csv"
    ...     _ = path.write_text("chosen,rejected\\nIs it? Yes.,Is it? No.\\n")
    ...     [row] = load(path).rows
    >>> row.prompt, row.responses, row.where
    ('Is it? ', ('Yes.', 'No.'), 'row 2')
    """
    found = records(path)
    if not found:
        raise ValueError(f"{path} holds no rows; expected preference data")
    with _naming(f"{path}, {found[0][0]}"):
        form = recognize(found[0][1])
    if votes is None:
        outcomes = _converted(path, found, form)
    elif form is BATTLES:
        outcomes = _voted(path, found, votes)
    else:
        raise ValueError(f"votes were given, but {path} holds {form.name}; "
                         f"expected battles with result_x and result_y")
    return _examples(path, form.name, outcomes, strict)


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """What goes wrong inside begins its sentence with the place."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place} {error}") from None


def _converted(path: str | Path, found: Sequence[tuple[str, Record]], form: Format) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for where, record in found:
        with _naming(f"{path}, {where}"):
            outcomes += form.convert(where, record)
            if (other := recognize(record)) is not form:
                raise ValueError(f"is of the format '{other.name}'; expected '{form.name}' as in {found[0][0]}")
    return outcomes


def _voted(path: str | Path, found: Sequence[tuple[str, Record]], votes: str | Path) -> list[Outcome]:
    counts: dict[str, Counter[str]] = {}
    for where, record in found:
        with _naming(f"{path}, {where}"):
            name = identified(record)
            if name in counts:
                raise ValueError(f"key 'id' is {name!r}, as in an earlier row; expected one row for each")
            counts[name] = Counter()
    for where, record in records(votes):
        with _naming(f"{votes}, {where}:"):
            vote(record, counts)
    outcomes: list[Outcome] = []
    for where, record in found:
        with _naming(f"{path}, {where}"):
            outcomes += battle(record, counts)
    return outcomes


def _examples(path: str | Path, name: str, outcomes: Sequence[Outcome], strict: bool) -> Examples:
    rows = tuple(outcome for outcome in outcomes if isinstance(outcome, Row))
    ties = tuple(outcome.row for outcome in outcomes if isinstance(outcome, Tie))
    logps = [outcome.logps for outcome in outcomes if isinstance(outcome, Scored)]
    lost: dict[str, list[str]] = {}
    for outcome in outcomes:
        if isinstance(outcome, Drop):
            lost.setdefault(outcome.reason, []).append(outcome.where)
    dropped = {reason: tuple(where) for reason, where in lost.items()}
    if strict and (dropped or ties):
        reason, places = next(iter(dropped.items()), ("tie", tuple(row.where for row in ties)))
        raise ValueError(f"{path}, {places[0]}: {reason} ({len(places)} such in all); expected none with strict")
    if not rows and not logps:
        why = [f"{len(where)} {reason}" for reason, where in dropped.items()] + [f"{len(ties)} ties"] * bool(ties)
        raise ValueError(f"{path} has no pair left to learn from: {'; '.join(why) or 'it compares nothing'}")
    scored = {key: np.array([row[key] for row in logps]) for key in SCORED} if logps else None
    return Examples(name, rows, ties, dropped, scored)


def to_preferences(rows: Iterable[Row], tokenizer: Tokenizer, dtype: Any = np.float64) -> Preferences:
    """Rows as `Preferences`: tokens 0, prompt, 0, response, 0 (0 the boundary); the mask is on the response and its
    closing 0.

    Each distinct (prompt, response) stands once; weights are the rows', made to sum to 1; facts that every row has go
    along, `label` of labelled completions among them.

    Raises `ValueError` where there is no row, where labelled and compared rows are mixed, and naming the row on a
    response that is blank, compared with itself or not Unicode text, and on weights and facts that are not finite.

    >>> pairs = to_preferences([Row("?", ("no", "n"), "?", "row 1")], Bytes())
    >>> pairs.responses.tokens.tolist()
    [[0, 64, 0, 111, 112, 0], [0, 64, 0, 111, 0, 0]]
    >>> pairs.index, pairs.weight
    (array([[0, 1]]), array([1.]))
    """
    rows = list(rows)
    _check(rows)
    seen: dict[tuple[str, str], int] = {}
    index = np.array([[seen.setdefault((row.prompt, text), len(seen)) for text in row.responses] for row in rows])
    weight = np.array([row.weight for row in rows])
    names = set.intersection(*(set(row.facts) for row in rows))
    facts = {name: np.array([row.facts[name] for row in rows], dtype) for name in sorted(names)}
    if rows[0].label is not None:
        facts["label"] = np.array([row.label for row in rows])
    return Preferences(_tokenized(list(seen), tokenizer), index, (weight / weight.sum()).astype(dtype), facts)


def _check(rows: Sequence[Row]) -> None:
    if not rows:
        raise ValueError("rows is empty; expected at least one")
    if len({(len(row.responses), row.label is None) for row in rows}) > 1:
        raise ValueError("rows mix pairs and labelled completions; expected one kind")
    for row in rows:
        if not row.responses or not all(response.strip() for response in row.responses):
            raise ValueError(f"{row.where} has an empty or blank response; expected text")
        if len(set(row.responses)) < len(row.responses):
            raise ValueError(f"{row.where} compares a response with itself; expected different ones")
        try:
            "".join([row.prompt, *row.responses]).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"{row.where} has a lone surrogate; expected Unicode text") from None
        for name, number in {"weight": row.weight, **row.facts}.items():
            if not np.isfinite(number) or (name == "weight" and number < 0):
                raise ValueError(f"{row.where} has the {name} {number}; expected a finite number"
                                 + (", at least 0" if name == "weight" else ""))
    if not any(row.weight for row in rows):
        raise ValueError("the weights of all rows are 0; expected some that count")


def _tokenized(texts: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> Responses:
    prompts = {prompt: np.array([0, *tokenizer.encode(prompt), 0], np.int32) for prompt, _ in texts}
    responses = [np.array([*tokenizer.encode(response), 0], np.int32) for _, response in texts]
    width = max(len(prompts[prompt]) + len(response) for (prompt, _), response in zip(texts, responses, strict=True))
    tokens, mask = np.zeros((len(texts), width), np.int32), np.zeros((len(texts), width), bool)
    for row, ((prompt, _), response) in enumerate(zip(texts, responses, strict=True)):
        begin = len(prompts[prompt])
        tokens[row, :begin], tokens[row, begin:begin + len(response)] = prompts[prompt], response
        mask[row, begin:begin + len(response)] = True
    return Responses(tokens, mask)
