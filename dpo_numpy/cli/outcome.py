"""An experiment that was run: its claims as lines, its arrays as a table, its pictures as one figure."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..figures import styled
from .settings import claim_of

__all__ = ["Outcome", "carried_out", "draw", "save_figure", "tidy"]

Array = NDArray[Any]
COLUMNS = 2  # of pictures


@dataclass(frozen=True)
class Outcome:
    """skipped: why there is no result; unevaluated: why there are no claims"""

    module: ModuleType
    config: Any
    result: Mapping[str, Array]
    claims: Mapping[str, Any]
    seconds: float
    skipped: str = ""
    unevaluated: str = ""

    @property
    def name(self) -> str:
        return self.module.__name__.rpartition(".")[2]

    @property
    def holds(self) -> bool:
        """Nothing was claimed that does not hold, or cannot be told."""
        return not self.unevaluated and all(claim.holds for claim in self.claims.values())

    def lines(self) -> list[str]:
        """One a claim: verdict, number, where it has to be, sentence"""
        rows = [("ok" if claim.holds else "FAIL", f"{claim.number:.4g}", claim.expected, sentence)
                for sentence, claim in self.claims.items()]
        wide = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        found = [f"{a:<{wide[0]}}  {b:>{wide[1]}}  {c:<{wide[2]}}  {d}" for a, b, c, d in rows]
        if self.skipped:
            return [f"skipped: {self.skipped}"]
        if self.unevaluated:
            return [*found, f"FAIL  the claims cannot be evaluated: {self.unevaluated}"]
        return [*found, *(f"cannot be evaluated at these settings: {sentence}"
                          for sentence, claim in self.claims.items() if not claim.evaluated)]

    def summary(self) -> str:
        if self.skipped:
            return "skipped"
        held = sum(claim.holds for claim in self.claims.values())
        return f"{held} of {len(self.claims)} claims hold, {self.seconds:.1f} s"

    def to_json(self) -> dict[str, Any]:
        return {
            "experiment": self.name, "claim": claim_of(self.module), "config": _plain(self.config),
            "holds": self.holds, "skipped": self.skipped or None, "unevaluated": self.unevaluated or None,
            "seconds": round(self.seconds, 3),
            "claims": [{"claim": sentence, "holds": claim.holds, "expected": claim.expected,
                        "number": claim.number if math.isfinite(claim.number) else str(claim.number)}
                       for sentence, claim in self.claims.items()],
        }


def carried_out(module: ModuleType, config: Any) -> Outcome:
    """Run, and judged. Raises `ValueError` where it cannot be run at these settings."""
    from toy_models.experiments import Skipped

    begun = time.perf_counter()
    try:
        result = module.run(config)
    except Skipped as reason:
        return Outcome(module, config, {}, {}, time.perf_counter() - begun, skipped=str(reason))
    except ArithmeticError as error:
        raise ValueError(f"{module.__name__.rpartition('.')[2]} cannot be run at these settings: {error}") from error
    try:
        claims, unevaluated = module.claims(result), ""
    except (ArithmeticError, ValueError, LookupError) as error:
        claims, unevaluated = {}, f"{type(error).__name__}: {error}"
    return Outcome(module, config, result, claims, time.perf_counter() - begun, unevaluated=unevaluated)


def _plain(config: Any) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(config).items()}


def tidy(result: Mapping[str, Array]) -> str:
    """name,index,value: a row for each entry of each array; index "2 0" is row 2, column 0, and empty of a number"""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("name", "index", "value"))
    for name, x in result.items():
        values = np.asarray(x)
        writer.writerows((name, " ".join(map(str, index)), values[index].item()) for index in np.ndindex(values.shape))
    return out.getvalue()


@styled
def draw(outcome: Outcome) -> Any:
    """Its panels as one figure"""
    from matplotlib.figure import Figure

    panels = getattr(outcome.module, "PANELS", (outcome.module.plot,))
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(7.0 * columns, 4.5 * rows))
    every = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for panel, axes in zip(panels, every, strict=False):
        panel(outcome.result, axes)
    for axes in every[len(panels):]:
        axes.set_axis_off()
    return figure


def save_figure(figure: Any, name: str, kind: str, file: IO[bytes]) -> None:
    """png or svg, the same bytes for the same figure"""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else {"Software": None})
