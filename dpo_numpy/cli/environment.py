"""Where a run took place: env.json."""

from __future__ import annotations

import platform
import sys
from typing import Any

import numpy as np

from .. import __version__

__all__ = ["environment"]


def environment() -> dict[str, Any]:
    """What the bits may depend on."""
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    built: Any = np.show_config(mode="dicts")
    return {
        "dpo_numpy": __version__,
        "python": sys.version,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": platform.processor(),
        "numpy": np.__version__,
        **{name: installed(name) for name in ("scipy", "matplotlib")},
        "simd": built.get("SIMD Extensions", {}),
        "blas": {key: built.get("Build Dependencies", {}).get("blas", {}).get(key) for key in ("name", "version")},
    }
