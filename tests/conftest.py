"""What every test may use: `rng`, `threading`, `data_dir`, `sketched`, and Hypothesis without a clock."""

import gc
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from dpo_numpy import parallel

#: doctests are looked for in every file; some need torch and JAX, and of the conftests one name would hide another
collect_ignore_glob = ["zoo/torch_*.py", "zoo/jax_*.py", "conftest.py", "*/conftest.py"]

os.environ["MPLBACKEND"] = "Agg"  # before Matplotlib is imported, here and in every process that a test starts

# A deadline would measure the machine. CI says the same of a commit each time; elsewhere new examples are welcome.
hypothesis.settings.register_profile("dpo-numpy", deadline=None, derandomize="CI" in os.environ, print_blob=True)
hypothesis.settings.load_profile("dpo-numpy")


def pytest_collection_finish() -> None:
    """Thousands of tests were made, and stay: the garbage collector need not look at them again and again.

    Not `gc.freeze`: Hypothesis looks for who refers to its generator, and among what is frozen it finds nobody.
    """
    gc.collect()
    gc.set_threshold(50_000, 50, 100)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that depend on the test's name, parameters included, and on nothing else."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture
def threading() -> Iterator[Callable[[int], None]]:
    """`set_threads`, undone after the test."""
    before = parallel.threads()
    yield parallel.set_threads
    parallel.set_threads(before)


@pytest.fixture
def rendered() -> None:
    """Asks for true pictures where `sketched` would leave them out."""


@pytest.fixture
def sketched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are put together and not rendered, unless a test is slow or asks for `rendered`.

    Of a training of a few steps the rendering takes nine tenths.
    """
    if "rendered" in request.fixturenames or request.node.get_closest_marker("slow"):
        return
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **options: file.write(b"a picture"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real preference files that DPO_NUMPY_DATA names."""
    folder = os.environ.get("DPO_NUMPY_DATA")
    if not folder:
        pytest.skip("DPO_NUMPY_DATA names no folder of real preference data")
    path = Path(folder)
    assert path.is_dir(), f"DPO_NUMPY_DATA = {folder!r} is not a folder"
    return path
