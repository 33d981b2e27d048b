import os
import platform
import subprocess
import sys
import threading as std
import time
import warnings

import numpy as np
import pytest

from dpo_numpy import parallel
from dpo_numpy.parallel import over_blocks, set_threads


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize(("rows", "step"), [(0, 4), (1, 4), (4, 4), (5, 4), (100, 7), (100, 1000)])
def test_every_row_is_visited_once(n, rows, step, threading):
    threading(n)
    seen, workers = np.zeros(rows, int), set()

    def visit(block):
        workers.add(std.get_ident())
        assert 0 < block.stop - block.start <= step
        seen[block] += 1

    over_blocks(visit, rows, step)
    assert (seen == 1).all()
    assert len(workers) <= min(n, -(-rows // step))


def test_threads_work_at_the_same_time(threading):
    threading(3)
    meeting = std.Barrier(3, timeout=30)  # passed only where three threads wait at once

    over_blocks(lambda block: meeting.wait(), 3, 1)


@pytest.mark.parametrize("n", [1, 2])
def test_the_error_state_holds_in_every_thread(n, threading):
    threading(n)

    def visit(block):
        np.log(np.zeros(3))

    with warnings.catch_warnings(), np.errstate(divide="ignore"):
        warnings.simplefilter("error")
        over_blocks(visit, 50, 1)
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        over_blocks(visit, 50, 1)


def test_an_exception_in_a_helping_thread_arrives(threading):
    threading(2)
    meeting, caller = std.Barrier(2, timeout=30), std.get_ident()

    def visit(block):
        meeting.wait()
        if std.get_ident() != caller:
            raise KeyError("far away")

    with pytest.raises(KeyError, match="far away"):
        over_blocks(visit, 2, 1)


def test_blocks_within_blocks_end(threading):
    """Every thread of the pool asks the pool for help: who waits for help that cannot come would wait for ever"""
    threading(3)
    total, lock = np.zeros(20), std.Lock()

    def outer(block):
        def inner(part):
            with lock:
                total[block] += part.stop - part.start

        over_blocks(inner, 10, 3)

    over_blocks(outer, 20, 1)
    assert (total == 10).all()


def test_n_is_a_number_of_threads():
    for n in (0, -1, 1.5, "2", True):
        with pytest.raises(ValueError, match=r"^n is .*; expected a whole number of threads, at least 1$"):
            set_threads(n)


@pytest.mark.parametrize(("told", "expected"), [("3", 3), ("3,2", 3), ("", None), ("none", None), ("0", None)])
def test_the_environment_says_how_many_at_first(told, expected):
    code = "from dpo_numpy import parallel; print(parallel.threads())"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": told}, text=True,
                          capture_output=True, check=True)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert int(done.stdout) == (expected or available)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes by fork here")
def test_a_forked_child_starts_threads_of_its_own():
    code = """
import os, numpy as np
from dpo_numpy.parallel import over_blocks, set_threads
set_threads(2)
out = np.zeros(10)
def visit(block):
    out[block] += 1
over_blocks(visit, 10, 1)
child = os.fork()
if not child:
    over_blocks(visit, 10, 1)
    os._exit(int(out.sum()))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], text=True, capture_output=True, timeout=60,
                          check=True)
    assert int(done.stdout) == 20


def test_no_pool_is_made_for_one_block(threading, monkeypatch):
    threading(4)
    monkeypatch.setattr(parallel, "_helpers", lambda: pytest.fail("asked for help"))
    over_blocks(lambda block: None, 10, 10)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks of glibc's allocator")
@pytest.mark.parametrize(("first", "fewest", "most"), [("", 1000, np.inf), ("import dpo_numpy.parallel", 0, 100)])
def test_freed_memory_is_there_for_the_next_step(first, fewest, most):
    """Sixteen arrays of 1 MB, of 256 pages each, are freed and asked for again, five times"""
    code = f"""
import resource
import numpy as np
{first}
faults = []
for step in range(6):
    held = [np.ones(1 << 18, np.float32) for part in range(16)]
    del held
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print((faults[-1] - faults[0]) / 5)
"""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=plain).stdout
    assert fewest <= float(out) <= most


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_after_an_error_no_block_is_begun(n, error, threading):
    threading(n)
    begun = []

    def visit(block):
        begun.append(block.start)
        if len(begun) == 5:
            raise error
        time.sleep(1e-3)  # so that whoever meets the error is not outrun

    with pytest.raises(error):
        over_blocks(visit, rows=1000, step=1)
    assert len(begun) < 5 + n + 1
