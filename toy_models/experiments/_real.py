"""Real preferences: the folder that DPO_NUMPY_DATA names."""

from __future__ import annotations

import os
from pathlib import Path

from ._claims import Skipped

__all__ = ["files"]


def files(*names: str) -> list[Path]:
    """The paths of these files. Raises `Skipped`, a sentence, where there is no folder, or one of them is not in it."""
    folder = os.environ.get("DPO_NUMPY_DATA")
    where = "(README.md says where to get them)"
    if not folder or not Path(folder).is_dir():
        raise Skipped("DPO_NUMPY_DATA names no folder of real preferences: "
                      f"expected one with {', '.join(names)} {where}")
    missing = [name for name in names if not (Path(folder) / name).is_file()]
    if missing:
        raise Skipped(f"DPO_NUMPY_DATA names a folder without {', '.join(missing)}: expected them there {where}")
    return [Path(folder) / name for name in names]
