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

__all__ = ["Record", "records"]

Record = dict[str, Any]


def records(path: str | Path) -> list[tuple[str, Record]]:
    """[(where, record)]: the kind of file is told by its contents, gzip by its first bytes, never by the name alone.

    Raises `ValueError`, one sentence that names the file and where it can the row: a missing file, a folder, no
    permission, a truncated or damaged gzip, bytes that are not UTF-8, broken JSON, rows that are not objects, an empty
    file, Parquet without pyarrow.
    """
    path = Path(path)
    raw = _unzipped(path, _bytes(path))
    if raw.startswith(b"PAR1"):
        return _parquet(path)
    text = _text(path, raw)
    if not text.strip():
        raise ValueError(f"{path} is empty; expected preference data")
    first = text.lstrip()[0]
    if first == "[":
        return list(_json_array(path, text))
    if first == "{":
        return list(_json_lines(path, text))
    return list(_csv(path, text))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; expected a file") from None
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


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
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, row {row}: byte {error.start} ({raw[error.start]:#04x}) is not UTF-8; expected UTF-8 text"
        ) from None


def _loads(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{what} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
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
    for row, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _object(path, row, _loads(line, f"{path}, row {row}"))


def _csv(path: Path, text: str) -> Iterator[tuple[str, Record]]:
    csv.field_size_limit(1 << 30)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for record in reader:
            row = reader.line_num
            if None in record or None in record.values():
                raise ValueError(
                    f"{path}, row {row} has another number of columns than the header; expected "
                    f"{len(reader.fieldnames or [])}"
                )
            yield f"row {row}", record
    except csv.Error as error:
        raise ValueError(f"{path}, near row {reader.line_num + 1} is not valid CSV: {error}") from None


def _parquet(path: Path) -> list[tuple[str, Record]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError(
            f"{path} is a Parquet file; reading it needs pyarrow: pip install 'dpo-numpy[parquet]'"
        ) from None
    try:
        return [(f"row {row}", record) for row, record in enumerate(parquet.read_table(path).to_pylist(), 1)]
    except Exception as error:  # pyarrow's own kinds, whatever they derive from
        raise ValueError(f"{path} is a damaged Parquet file: {' '.join(str(error).split())[:200]}") from None


def kind(value: Any) -> str:
    """What came, in words for an error message."""
    names = {
        type(None): "null",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), f"a {type(value).__name__}")
