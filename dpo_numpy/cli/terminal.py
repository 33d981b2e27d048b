"""What a long command says while it runs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

__all__ = ["progress", "tell", "warnings_as_sentences"]


def tell(text: str) -> None:
    """To standard output, whose reader may have gone: that must not stop a run. `ValueError` where its disk is full."""
    from . import discard_output

    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard_output()
    except OSError as error:
        discard_output()
        raise ValueError(f"standard output cannot be written: {error.strerror}") from error


def progress(total: int, begun: int, unwanted: bool, unit: str = "step") -> Any:
    """A bar, or None where nobody looks or nobody can draw one"""
    if not unwanted and sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            return nullcontext()
        return tqdm(total=total, initial=begun, unit=unit)
    return nullcontext()


@contextmanager
def warnings_as_sentences() -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            print(f"dpo-numpy: {warning.message}", file=sys.stderr)
