"""What was found, for people and for machines."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from .seams import FAIL, NOTE, OK, SKIPPED, Line, Question

__all__ = ["Report"]


class Report(NamedTuple):
    """The lines of a verification; prints as a table.

    agrees : every line is ok (or a note, unless `strict`)
    code   : 0 agrees, 1 differs, 2 could not be judged
    """

    question: Question
    seam: str
    lines: list[Line]
    unjudged: str
    strict: bool = False
    unjudged_mistake: str = ""

    @property
    def code(self) -> int:
        """As the command exits: 0 agrees, 1 differs, 2 could not be judged"""
        if self.unjudged:
            return 2
        wrong = (FAIL, NOTE) if self.strict else (FAIL,)
        return int(any(line.verdict in wrong for line in self.lines))

    @property
    def agrees(self) -> bool:
        """No test failed; with `strict`, no note either"""
        return self.code == 0

    @property
    def mistakes(self) -> tuple[str, ...]:
        """What went wrong, by name, each once"""
        found = [line.mistake for line in self.lines if line.mistake and line.verdict == FAIL]
        return tuple(dict.fromkeys([*found, *filter(None, [self.unjudged_mistake])]))

    @property
    def subject(self) -> str:
        """What was judged: the loss, its hyper-parameters, seam, framework and dtype"""
        q = self.question
        hyper = ", ".join(f"{name}={f'{x:g}' if isinstance(x, float) else x}" for name, x in q.hyper.items())
        return f"{q.name}({hyper}), seam {self.seam}, {q.framework.name} {q.dtype.name}"

    def __str__(self) -> str:
        if self.unjudged:
            return f"{self.subject}\ncould not be judged: {self.unjudged}"
        width = max(len(line.test) for line in self.lines)
        rows = [self.subject]
        for line in self.lines:
            worst = "" if line.verdict == SKIPPED else "inf" if math.isinf(line.worst) else f"{line.worst:.3g}"
            rows.append(f"{line.verdict:4}  {line.test:{width}}  {worst:>8}  {line.says}".rstrip())
            if line.example and line.verdict in (FAIL, NOTE):
                rows.append(f"{'':{width + 18}}at {line.example}")
        verdict = {0: "agrees", 1: "differs"}[self.code]
        rows.append(
            f"{verdict}: {sum(line.verdict == FAIL for line in self.lines)} of {len(self.lines)} tests failed, "
            f"{sum(line.verdict == NOTE for line in self.lines)} notes; 1.0 is what an ulp on each input does"
        )
        return "\n".join(rows)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: infinite errors are the string "inf"."""
        q = self.question
        return {
            "loss": q.name,
            "hyper": q.hyper,
            "seam": self.seam,
            "framework": q.framework.name,
            "dtype": q.dtype.name,
            "verdict": {0: "agrees", 1: "differs", 2: "could not be judged"}[self.code],
            "code": self.code,
            "why": self.unjudged,
            "mistakes": list(self.mistakes),
            "passed_by_name": q.call.hyper,
            "left_at_default": list(q.call.left),
            "tests": [
                {
                    "test": line.test,
                    "verdict": {OK: "ok", SKIPPED: "skipped"}.get(line.verdict, line.verdict.lower()),
                    "worst": line.worst if math.isfinite(line.worst) else "inf",
                    "says": line.says,
                    "example": line.example,
                    "mistake": line.mistake,
                }
                for line in self.lines
            ],
        }

    def json(self) -> str:
        """`as_dict`, as text"""
        return json.dumps(self.as_dict(), ensure_ascii=False, indent=1)
