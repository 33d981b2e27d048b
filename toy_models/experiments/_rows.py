"""A CSV that grows by a row at a time, and that a kill at any moment leaves whole but for its last line."""

from __future__ import annotations

import csv
import io
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

__all__ = ["RowFile"]

Row = dict[str, Any]


class RowFile:
    """The rows of a sweep, by the cell they belong to: the values of `names`, `replicate` and `seed`

    A last line that was not finished is dropped: its cell is computed again. A file that is damaged elsewhere is kept
    under another name, its good rows are taken over, and a `UserWarning` says so.

    Raises `ValueError` where the file holds something else than rows of such a grid, or cannot be written.
    """

    def __init__(self, path: str | PathLike[str], names: Sequence[str]) -> None:
        self.path, self.names = Path(path), tuple(names)
        self.columns: list[str] = []
        self.rows: dict[str, Row] = {}
        try:
            damaged = self._read(self.path.read_bytes()) if self.path.exists() else None
            if damaged is not None:
                aside = self._aside()
                os.replace(self.path, aside)
                warnings.warn(f"{self.path} is damaged {damaged}: kept as {aside}, its {len(self.rows)} good rows are "
                              "taken over", UserWarning, stacklevel=4)
            self._file = open(self.path, "ab")  # noqa: SIM115 (open for as long as the sweep)
            if damaged is not None:
                self._begin()
                for row in self.rows.values():
                    self._write(row)
        except OSError as error:
            raise ValueError(f"{self.path} cannot be written: {error.strerror}") from error

    def get(self, key: str) -> Row | None:
        return self.rows.get(key)

    def append(self, row: Mapping[str, Any]) -> None:
        """On the disk when this returns"""
        try:
            if not self.columns or not set(row) <= set(self.columns):
                self._widen(row)
            self._write(row)
            self._file.flush()
            os.fsync(self._file.fileno())
            self.rows[self._key(row)] = dict(row)
        except OSError as error:
            raise ValueError(f"{self.path} cannot be written: {error.strerror}; rows before this one are kept"
                             ) from error

    def close(self) -> None:
        with suppress(OSError):  # of a row that did not fit on the disk: `append` has said so
            self._file.close()

    # ---- lines

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(_line([_said(row.get(name)) for name in self.columns]))

    def _begin(self) -> None:
        self._file.write(_line(self.columns))

    def _widen(self, row: Mapping[str, Any]) -> None:
        """New columns: the whole file again, under another name until it is complete

        The first row may be of a cell that failed, and have no numbers.
        """
        self.columns += [name for name in row if name not in self.columns]
        fresh = self.path.with_name(f".{self.path.name}.tmp")
        self._file.close()
        self._file = open(fresh, "wb")  # noqa: SIM115
        self._begin()
        for held in self.rows.values():
            self._write(held)
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(fresh, self.path)

    def _read(self, raw: bytes) -> str | None:
        """Fills columns and rows; where the file is damaged, or None. An unfinished last line is cut off."""
        whole = raw[:raw.rfind(b"\n") + 1]
        if not whole:
            if raw:
                self._cut(0)
            return None
        lines = whole.split(b"\n")[:-1]
        head = _fields(lines[0])
        wanted = [*self.names, "replicate", "seed", "error"]
        if head is None or not set(wanted) <= set(head):
            raise ValueError(f"{self.path} holds no rows of a sweep over {', '.join(self.names)}: name another file")
        self.columns, damaged = head, None
        for number, line in enumerate(lines[1:], 2):
            row = self._row(line)
            if row is None:
                damaged = damaged or f"in line {number}"
            else:
                self.rows[self._key(row)] = row
        if damaged is None and len(whole) < len(raw):
            self._cut(len(whole))
        return damaged

    def _cut(self, length: int) -> None:
        with open(self.path, "r+b") as file:
            file.truncate(length)

    def _row(self, line: bytes) -> Row | None:
        fields = _fields(line)
        if fields is None:
            return None
        try:
            row = {name: self._value(name, text) for name, text in zip(self.columns, fields, strict=True)
                   if text or name == "error"}
            return row if {*self.names, "replicate", "seed", "error"} <= set(row) else None
        except ValueError:
            return None

    def _value(self, name: str, text: str) -> Any:
        """Raises `ValueError` where a number is none; a grid may have words"""
        try:
            return text if name == "error" else json.loads(text)
        except ValueError:
            if name in self.names:
                return text
            raise

    def _key(self, row: Mapping[str, Any]) -> str:
        return json.dumps([[name, row[name]] for name in self.names] + [row["replicate"], row["seed"]])

    def _aside(self) -> Path:
        n = 1
        while (aside := self.path.with_name(f"{self.path.stem}.damaged-{n}{self.path.suffix}")).exists():
            n += 1
        return aside


def _said(value: Any) -> str:
    """As JSON writes it, NaN and Infinity too, so that it is read as the same bits; an error as it is"""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _line(fields: Sequence[str]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(fields)
    return out.getvalue().encode()


def _fields(line: bytes) -> list[str] | None:
    try:
        found = list(csv.reader([line.decode()], strict=True))
    except (UnicodeDecodeError, csv.Error):
        return None
    return found[0] if len(found) == 1 else None
