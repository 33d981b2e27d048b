"""Threads over blocks of rows: NumPy lets other threads run while it is inside of one of its loops.

Blocks are cut by size alone, and what is computed for one does not depend on another: results are the same to the last
bit whatever the number of threads. BLAS has threads of its own, in matrix products, which wait for these and these for
them: set OPENBLAS_NUM_THREADS=1 before NumPy is imported where blocks are full of products, as a transformer's are.

Importing this also asks the allocator to keep what is freed: `_keep_pages`.
"""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["over_blocks", "set_threads", "threads"]


def set_threads(n: int) -> None:
    """From now on, n threads at most for work on large arrays; 1: none but the caller's

    Before the first call it is the environment's OMP_NUM_THREADS, as for BLAS, or else the number of processors that
    this process may use. Raises `ValueError` below 1.

    >>> before = threads()
    >>> set_threads(2)
    >>> threads()
    2
    >>> set_threads(before)
    """
    global _threads
    if isinstance(n, bool) or not hasattr(n, "__index__") or operator.index(n) < 1:
        raise ValueError(f"n is {n!r}; expected a whole number of threads, at least 1")
    _threads = operator.index(n)
    _forget()


def threads() -> int:
    """How many threads `over_blocks` may use"""
    return _threads


def over_blocks(visit: Callable[[slice], None], rows: int, step: int) -> None:
    """visit(block) for slices of `step` rows each, in any order, each once, on several threads

    A visit writes what it finds where it belongs. Where all rows are one block, or there is one thread, the caller's
    does all. NumPy's error state holds in every thread; an exception in one is raised, and no block begun after it.

    >>> import numpy as np
    >>> x, out = np.arange(5.0), np.empty(5)
    >>> def visit(block):
    ...     np.square(x[block], out=out[block])
    >>> over_blocks(visit, rows=5, step=2)
    >>> out
    array([ 0.,  1.,  4.,  9., 16.])
    """
    if rows <= step:
        if rows:
            visit(slice(0, rows))
        return
    blocks = iter([slice(start, min(start + step, rows)) for start in range(0, rows, step)])

    def work() -> None:
        try:
            for block in blocks:  # whoever is ready takes the next
                visit(block)
        except BaseException:
            for _ in blocks:  # and nobody any after that
                pass
            raise

    others = min(_threads, -(-rows // step)) - 1
    helping = [_helpers().submit(copy_context().run, work) for _ in range(others)]
    try:
        work()
    finally:
        # one that has not begun has nothing left to do: waiting for it, where it waits for this thread, would not end
        begun = [task for task in helping if not task.cancel()]
        for task in begun:
            task.exception()
    for task in begun:
        task.result()


def _available() -> int:
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if told.isdecimal() and int(told):
        return int(told)
    if sys.platform == "emscripten":  # which has no threads to start
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _helpers() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        from concurrent.futures import ThreadPoolExecutor  # here: it would be most of `import dpo_numpy`

        _pool = ThreadPoolExecutor(max(_threads - 1, 1), "dpo_numpy")
    return _pool


def _forget() -> None:
    global _pool
    _pool = None  # its threads end when they have nothing to do


def _keep_pages() -> None:
    """Tell the C library's allocator not to return what is freed to the system, up to 64 MB.

    A step frees its arrays and asks for as many again. Pages that went back in between are found one page fault at a
    time, and cost as much as the arithmetic. glibc draws its limits anew when a block is freed that it had from the
    system: 32 MB is the largest that it heeds. Zeros that nobody reads are no pages yet, so this costs microseconds.
    """
    bytes((1 << 25) - (1 << 16))


if sys.platform == "linux":
    _keep_pages()
_threads = _available()
_pool: ThreadPoolExecutor | None = None
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)  # a child has the pool, but not its threads
