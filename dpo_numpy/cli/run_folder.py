"""A run's folder: files appear whole or not at all, a kill at any moment leaves something to resume from.

config.json is written first and removed last: where it is missing or someone else's, nothing there is touched.
What is written last, report.txt of a training, tells that the run is finished.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RunFolder", "write_whole"]

Array = NDArray[Any]

PROGRAM = "dpo-numpy train"
CONFIG, LOG, CHECKPOINT, REPORT = "config.json", "log.jsonl", "checkpoint.npz", "report.txt"
OURS = (REPORT, CHECKPOINT, LOG, "metrics.csv", "params.npz", "curves.png", "env.json", CONFIG)


class RunFolder:
    """The output folder of one run; nothing is made before `open`.

    program: who writes it; ours: the names it may write, first what is
    written last, last config.json; resumes: whether it can go on with a run
    """

    def __init__(self, path: Path, program: str = PROGRAM, ours: Sequence[str] = OURS, resumes: bool = True) -> None:
        self.path, self.program, self.ours, self.resumes, self._lock = path, program, tuple(ours), resumes, -1

    # ---- before the run: may it be written, and is it the same run?

    def check(self, resume: bool, overwrite: bool) -> None:
        """Raises `ValueError` where the folder cannot be used; changes nothing."""
        if resume and overwrite:
            raise ValueError(
                "--resume goes on with what is there and --overwrite_output_dir removes it: give one of them"
            )
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"output_dir is {self.path}, a file; expected a folder")
        nearest = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise ValueError(f"output_dir is {self.path}, but {nearest} is a file")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise ValueError(f"output_dir is {self.path}, but {nearest} cannot be written to")
        self.config()
        there = [name for name in self._names() if not self._is_temporary(name)]
        foreign = [name for name in there if name not in self.ours]
        if there and not (resume or overwrite):
            goes_on = "--resume goes on with the run that is there, " if self.resumes else ""
            raise ValueError(f"output_dir {self.path} is not empty: {goes_on}--overwrite_output_dir removes it, "
                             "or name another --output_dir")
        if resume and foreign and CONFIG not in there:
            raise ValueError(
                f"output_dir {self.path} holds no run to resume, but {foreign[0]}: name another --output_dir"
            )

    def config(self) -> dict[str, Any] | None:
        """What the run that is there was asked, or None; `ValueError` where a file of that name is someone else's."""
        ours = [name for name in self._names() if name in self.ours]
        if CONFIG not in ours:
            if ours:
                raise ValueError(
                    f"output_dir {self.path} holds {ours[0]} but no {CONFIG}, so it is not ours: name another"
                )
            return None
        try:
            found = json.loads((self.path / CONFIG).read_text("utf-8"))
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict) or found.get("program") != self.program:
            raise ValueError(f"{self.path / CONFIG} was not written by {self.program}: name another --output_dir")
        return found

    @property
    def finished(self) -> bool:
        return (self.path / self.ours[0]).is_file()

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.path)) if self.path.is_dir() else []
        except OSError as error:
            raise ValueError(f"output_dir {self.path} cannot be read: {error.strerror}") from error

    # ---- the run

    def open(self, config: Mapping[str, Any], env: Mapping[str, Any], resume: bool) -> None:
        """Make the folder, or take over what is there: with `resume` its checkpoint and log stay.

        A lock keeps a second process out for as long as this one lives. What fails half-way is undone.
        """
        made = [path for path in (self.path, *self.path.absolute().parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock_out_others()
            for name in self._names():
                if self._is_temporary(name) or (not resume and name in self.ours and name != CONFIG):
                    (self.path / name).unlink()
            self.write_json(CONFIG, {"program": self.program, **config})
            self.write_json("env.json", env)
        except (OSError, ValueError) as error:
            self.close()
            for path in made:
                for name in self.ours if path == self.path else ():
                    (path / name).unlink(missing_ok=True)
                if path.is_dir():
                    path.rmdir()
            if isinstance(error, OSError):
                raise ValueError(f"output_dir {self.path} cannot be written: {error.strerror}") from error
            raise

    def write(self, name: str, fill: Callable[[IO[bytes]], object]) -> None:
        write_whole(self.path / name, fill)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        self.write(name, lambda file: file.write(text.encode()))

    def save(self, arrays: Mapping[str, Array], progress: Mapping[str, Any], log: Log) -> None:
        """A checkpoint: arrays, and `progress` with the log's length, which is on the disk before it is vouched for."""
        told = np.array(json.dumps({**progress, "log_bytes": log.sync()}))
        held: dict[str, Any] = {**arrays, "progress": told}
        self.write(CHECKPOINT, lambda file: np.savez(file, **held))

    def checkpoint(self) -> tuple[dict[str, Array], dict[str, Any]] | None:
        """(arrays, progress) as `save` was given them, or None."""
        path = self.path / CHECKPOINT
        if not path.is_file():
            return None
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as held:
                arrays = {name: held[name] for name in held.files}
            return arrays, json.loads(str(arrays.pop("progress")))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} cannot be read ({error}): start again with --overwrite_output_dir") from error

    def log(self, length: int = 0) -> Log:
        """log.jsonl, cut to its first `length` bytes."""
        try:
            return Log(self.path / LOG, length)
        except OSError as error:
            raise ValueError(f"{self.path / LOG} cannot be written: {error.strerror}") from error

    def _is_temporary(self, name: str) -> bool:
        return name.startswith(".") and name.endswith(".tmp") and name[1:-4] in self.ours

    def _lock_out_others(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"output_dir {self.path} is being written by another process") from error

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class Log:
    """One JSON object a line, appended."""

    def __init__(self, path: Path, length: int) -> None:
        self._file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115 (open for as long as the run)
        self._file.seek(0, os.SEEK_END)
        if self._file.tell() < length:
            self._file.close()
            raise ValueError(
                f"{path} is shorter than the checkpoint remembers: start again with --overwrite_output_dir"
            )
        self._file.truncate(length)
        self._file.seek(length)

    def append(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Everything to the disk; the length in bytes."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def lines(self) -> list[dict[str, Any]]:
        self._file.seek(0)
        read = [json.loads(line) for line in self._file]
        self._file.seek(0, os.SEEK_END)
        return read

    def close(self) -> None:
        self._file.close()


def write_whole(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """`fill(file)` under a temporary name; `path` is given once all is on the disk. `ValueError` if that fails."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(f"{path} cannot be written: {error.strerror or error}") from error


def _sync(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
