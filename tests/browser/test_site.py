"""The site that `make docs` built, opened from its folder: nothing dead, nothing fetched, and legible on a phone.

DPO_NUMPY_SITE names the folder; else it is build/docs.
"""

import os
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
SITE = Path(os.environ.get("DPO_NUMPY_SITE") or ROOT / "build" / "docs").resolve()


@pytest.fixture(autouse=True)
def built(without: Callable[[str], Any]) -> None:
    if not (SITE / "index.html").is_file():
        without(f"there is no site in {SITE}: make docs builds it, DPO_NUMPY_SITE names another folder")


class Page(HTMLParser):
    """What a page links to or loads, and where one can link to in it"""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[tuple[str, str]] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("href", "src", "data") and value and not (tag == "link" and "canonical" in str(attributes)):
                self.targets.append((tag, value))
            elif name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value or "")


def dead(pages: dict[Path, Page]) -> Iterator[str]:
    """Links to files or anchors that are not there; and what a page would load from elsewhere"""
    for path, page in pages.items():
        for tag, target in page.targets:
            parts = urlsplit(target)
            if parts.scheme in ("data", "mailto"):
                continue
            if parts.scheme or parts.netloc:
                if tag != "a":
                    yield f"{path}: {tag} from {target}"
                continue
            found = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[found].anchors if found in pages else {unquote(parts.fragment)}
            if not found.is_file() or (parts.fragment and unquote(parts.fragment) not in anchors):
                yield f"{path}: {target}"


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    return {path: Page(path.read_text("utf-8")) for path in sorted(SITE.rglob("*.html"))}


def test_no_link_is_dead_and_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page]) -> None:
    complaints = [complaint.removeprefix(f"{SITE}/") for complaint in dead(pages)]
    assert len(pages) > 100
    assert complaints == []


def test_the_rule_can_fail(tmp_path: Path) -> None:
    text = ('<p id="a"><a href="#a">1</a><a href="#b">2</a><a href="x.html">3</a><a href="p.html#a">4</a>'
            '<img src="no.png"><a href="https://e.org">5</a><script src="https://e.org/x.js"></script>')
    page = tmp_path / "p.html"
    page.write_text(text)
    assert [complaint.rpartition(": ")[2] for complaint in dead({page: Page(text)})] == [
        "#b", "x.html", "no.png", "script from https://e.org/x.js"]


def shown() -> list[str]:
    """Front, all losses, one of them, the API, a page of its own; conventions, source; every lesson"""
    lessons = sorted(path.relative_to(SITE).as_posix() for path in (SITE / "notebooks").glob("[0-9]*.html"))
    return ["index.html", "docs/index.html", "docs/losses.html", "docs/losses/simpo.html", "docs/api.html",
            "docs/api/dpo_numpy.losses.html", "docs/api/toy_models.experiments.length.html", "docs/exact.html",
            "docs/command.html", "CONVENTIONS.html", "_modules/dpo_numpy/minimal.html", "search.html",
            "play/index.html", *lessons]


WIDE, PHONE = {"width": 1200, "height": 1400}, {"width": 390, "height": 844}


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("name", shown())
def test_a_page_is_whole(new_page, screenshots, name, viewport):
    page = new_page(viewport=viewport)
    page.goto((SITE / name).as_uri(), wait_until="load")
    page.wait_for_load_state("networkidle")
    if page.locator(".math").count():
        page.wait_for_selector("mjx-container")
        assert page.locator("mjx-container").count() >= page.locator("div.math, span.math").count()
        assert page.locator("mjx-merror, mjx-container [data-mjx-error]").count() == 0
    for picture in page.locator("img").all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth, () => 0)") > 0
    assert page.evaluate("document.body.scrollWidth") <= viewport["width"]
    page.evaluate("window.scrollTo(0, 0)")
    page.screenshot(path=screenshots / f"{re.sub(r'[/.]', '-', name)}-{viewport['width']}.png")


def test_the_front_page_has_its_formula_and_its_doors(page):
    page.goto((SITE / "index.html").as_uri())
    page.wait_for_url("**/docs/index.html")
    page.wait_for_selector("mjx-container svg")
    for door in ("learn", "verify", "experiment"):
        assert page.locator(f"a[href='#{door}']").count() and page.locator(f"section#{door} li a").count() > 1


def test_a_loss_is_found_from_the_table_and_its_source_from_there(page):
    page.goto((SITE / "docs/losses.html").as_uri())
    page.locator("table.losses a", has_text="simpo").first.click()
    page.wait_for_url("**/docs/losses/simpo.html")
    assert "Simple preference optimization" in page.locator("article").inner_text()
    page.locator(".viewcode-link").first.click()
    page.wait_for_url("**/_modules/dpo_numpy/losses.html#simpo")


def test_search_finds_a_function_offline(page):
    page.goto((SITE / "search.html").as_uri() + "?q=sequence_logp")
    page.wait_for_selector("#search-results li a")
    assert page.locator("#search-results li a").count() > 0


@pytest.mark.parametrize("name", [name for name in shown() if name.startswith("notebooks/")])
def test_the_code_of_a_lesson_is_seen_without_scrolling(new_page, name):
    page = new_page(viewport=WIDE)
    page.goto((SITE / name).as_uri())
    lines = page.locator("div.cell pre")
    assert lines.count() > 10
    cut = lines.evaluate_all("all => all.filter(x => x.scrollWidth > x.clientWidth + 1).map(x => x.innerText)")
    assert [text for text in cut if max(map(len, text.splitlines())) <= 100] == []
