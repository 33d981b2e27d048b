"""Files to records: JSON, JSONL, CSV and Parquet, gzip alike, each record a dict with the place it stood at."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["Record", "contents", "kind", "records", "shown"]

Record = dict[str, Any]

LONGEST_CELL = 1 << 30  # the csv module's own limit, 128 KiB, is shorter than a long conversation


def records(path: str | Path) -> list[tuple[str, Record]]:
    """[(where, record)]: the kind of file is told by its contents, gzip by its first bytes, never by the name.

    `where` is "row 17", from 1: a line of JSONL (blank lines are skipped, but counted), the last line of a record of
    CSV, the place in the list of JSON or in the table of Parquet.

    Raises `ValueError`, one sentence that names the file and where it can the row: a missing file, a folder, no
    permission, a truncated or damaged gzip, bytes that are not UTF-8, broken JSON or CSV, rows that are not objects, an
    empty file, Parquet without pyarrow.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "pairs"
    ...     _ = path.write_bytes(gzip.compress(b'{"chosen": "yes", "rejected": "no"}'))
    ...     records(path)
    [('row 1', {'chosen': 'yes', 'rejected': 'no'})]
    """
    path = Path(path)
    raw = _unzipped(path, contents(path))
    if raw.startswith(b"PAR1"):
        return _parquet(path, raw)
    text = _text(path, raw)
    if not text.strip():
        raise ValueError(f"{path} is empty; expected preference data")
    read = {"[": _json_array, "{": _json_lines}.get(text.lstrip()[0], _csv)
    return list(read(path, text))


def contents(path: Path) -> bytes:
    """The bytes of a file; `ValueError`, one sentence, where it cannot be read."""
    try:
        return path.read_bytes()
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; expected a file") from None
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:  # "embedded null byte", which does not say of what
        raise ValueError(f"{str(path)!r} cannot be the name of a file") from None


def _unzipped(path: Path, raw: bytes) -> bytes:
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    try:
        return gzip.decompress(raw)
    except EOFError:
        raise ValueError(f"{path} is a gzip file that ends too early: it is truncated") from None
    except (OSError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file: {error}") from None


def _text(path: Path, raw: bytes) -> str:
    try:
        # Not "utf-8-sig": its errors count from behind the mark.
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        row = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, row {row}: byte {error.start} ({raw[error.start]:#04x}) is not UTF-8; "
                         f"expected UTF-8 text") from None


def _loads(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise ValueError(f"{what} is not valid JSON: {error.msg.removesuffix(' at')} at {line}"
                         f"column {error.colno}") from None
    except (RecursionError, ValueError):  # nested too deep; an integer of too many digits
        raise ValueError(f"{what} is not valid JSON: nested too deep, or a number too long") from None


def _object(path: Path, row: int, value: Any) -> tuple[str, Record]:
    if not isinstance(value, dict):
        raise ValueError(f"{path}, row {row} is {kind(value)}; expected an object with keys")
    return f"row {row}", value


def _json_array(path: Path, text: str) -> Iterator[tuple[str, Record]]:
    rows = _loads(text, str(path))
    if not rows:
        raise ValueError(f"{path} is an empty list; expected preference data")
    return (_object(path, row, value) for row, value in enumerate(rows, 1))


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, Record]]:
    # Not splitlines(), which also splits at U+2028, and JSON strings may hold that.
    for row, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _object(path, row, _loads(line, f"{path}, row {row}"))


def _csv(path: Path, text: str) -> Iterator[tuple[str, Record]]:
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        yield from _csv_records(path, csv.DictReader(io.StringIO(text, newline=""), strict=True))
    finally:
        csv.field_size_limit(before)


def _csv_records(path: Path, reader: csv.DictReader[str]) -> Iterator[tuple[str, Record]]:
    try:
        columns = list(reader.fieldnames or [])
        twice = next((name for name in columns if columns.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{path} has two columns {twice!r}; expected different names")
        other = next((mark for mark in ";\t|" if mark in columns[0]), None) if len(columns) == 1 else None
        if other is not None:
            raise ValueError(f"{path} has one column {columns[0]!r}, split by {other!r}; expected commas")
        for record in reader:
            row = reader.line_num
            if None in record or None in record.values():
                raise ValueError(f"{path}, row {row} has another number of columns than the header; "
                                 f"expected {len(columns)}")
            yield f"row {row}", record
    except csv.Error as error:
        raise ValueError(f"{path}, near row {reader.line_num + 1} is not valid CSV: {error}") from None


def _parquet(path: Path, raw: bytes) -> list[tuple[str, Record]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError(f"{path} is a Parquet file; reading it needs pyarrow: "
                         f"pip install 'dpo-numpy[parquet]'") from None
    try:
        table = parquet.read_table(io.BytesIO(raw)).to_pylist()
    except Exception as error:  # pyarrow's own kinds, whatever they derive from
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is a damaged Parquet file: {reason}") from None
    return [(f"row {row}", record) for row, record in enumerate(table, 1)]


def kind(value: Any) -> str:
    """What came, in words for an error message.

    >>> kind(None), kind(True), kind([])
    ('null', 'true or false', 'an empty list')
    """
    if isinstance(value, list) and not value:
        return "an empty list"
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a string",
             list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def shown(value: Any) -> str:
    """A number or a string itself, cut if long, of anything else its kind."""
    if not isinstance(value, (int, float, str)):
        return kind(value)
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + " ..."
