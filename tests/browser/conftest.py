"""A real browser for the tests marked `browser`: Debian's Chromium, driven by Playwright; nothing leaves the machine.

    page                 a fresh page
    new_page(**options)  one with options of its own: viewport, color_scheme, reduced_motion, java_script_enabled ...

`page.outside` lists the requests that would have left 127.0.0.1, and were stopped; `page.complaints` what the console
and the page's scripts said went wrong. A test ends with both lists empty, or fails; but for complaints that hold a word
of `page.expected`, which may come whenever they like.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def inside(url: str) -> bool:
    """Whether a request stays on this machine."""
    parts = urlsplit(url)
    return parts.scheme in ("file", "data", "blob", "about") or parts.hostname in ("127.0.0.1", "localhost")


def missing() -> str | None:
    """What there is not, in words, of what these tests need."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "the package playwright is not installed: pip install 'dpo-numpy[browser]'"
    return None if executable() else f"none of {', '.join(CHROMIUM)} is installed (DPO_NUMPY_CHROMIUM can name one)"


def executable() -> str | None:
    return os.environ.get("DPO_NUMPY_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)


def required(config: pytest.Config) -> bool:
    """Where CI runs `make browser`, a missing browser is a failure, and a missing site."""
    return config.option.markexpr == "browser" and os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


@pytest.fixture(scope="session")
def without(pytestconfig: pytest.Config) -> Callable[[str], Any]:
    """What becomes of a test that lacks something: `without(reason)`"""
    return pytest.fail if required(pytestconfig) else pytest.skip


@pytest.fixture(scope="session")
def browser(without: Callable[[str], Any]) -> Iterator[Any]:
    if reason := missing():
        without(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def new_page(browser: Any) -> Iterator[Callable[..., Any]]:
    contexts, pages = [], []

    def make(**options: Any) -> Any:
        context = browser.new_context(service_workers="block", **options)
        contexts.append(context)
        outside: list[str] = []

        def meet(route: Any) -> None:
            if inside(route.request.url):
                route.continue_()
            else:
                outside.append(route.request.url)
                route.abort()

        def meet_socket(route: Any) -> None:
            outside.append(route.url)
            route.close()

        context.route("**/*", meet)
        context.route_web_socket("**/*", meet_socket)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.outside, page.complaints, page.expected = outside, [], []
        page.on("console", lambda said: page.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        pages.append(page)
        return page

    yield make
    for context in contexts:
        context.close()
    assert [page.outside for page in pages] == [[] for _ in pages]
    left = [[said for said in page.complaints if not any(word in said for word in page.expected)] for page in pages]
    assert left == [[] for _ in pages]


@pytest.fixture
def page(new_page: Callable[..., Any]) -> Any:
    return new_page()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where pictures go: the folder that DPO_NUMPY_SCREENSHOTS names, or one that is thrown away."""
    folder = Path(os.environ.get("DPO_NUMPY_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
