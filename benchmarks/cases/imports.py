"""`import dpo_numpy` beside `import numpy`, each in a fresh interpreter.

Names are loaded when they are first used, so that the import alone does not even import NumPy; what one pays for losses
and training is a case of its own, and so is everything.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.harness import Case, Run

WAYS = {"import dpo_numpy": 1 / 1.3, "from dpo_numpy import LOSSES, train": 1 / 1.3, "from dpo_numpy import *": None}
CASES = [Case(way, "imports", {"statement": way}, targets={"import numpy": target}) for way, target in WAYS.items()]


def importing(statement: str) -> Run:
    return Run(lambda: subprocess.run([sys.executable, "-c", statement], check=True), numbers=None)


def plain(**_: str) -> Run:
    return importing("import numpy")


SIDES = {"numpy": ("numpy", importing), "import numpy": ("numpy", plain)}
