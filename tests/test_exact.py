"""Every line of docs/exact.md, computed again; and the page lists them."""

import exact
import exact_models  # noqa: F401 - fills ENTRIES
import exact_roads  # noqa: F401
import exact_tables  # noqa: F401
import pytest
from exact import ENTRIES, Row

#: simulations and long descents, which the page's maker and the slow tests run
SLOW = {
    "best_of_n", "beta_of_steps", "bystander", "certain", "penalized", "repeated", "root_n", "three_pairs", "unseen",
}


def entries():
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in sorted(ENTRIES)]


@pytest.mark.parametrize("name", entries())
def test_what_theory_predicts_is_measured_and_its_twin_is_not(name):
    rows, page = list(ENTRIES[name].rows()), exact.PAGE.read_text(encoding="utf-8")
    assert any(row.holds for row in rows)
    assert [row.what for row in rows if f"| {exact.labelled(row)} |" not in page] == []
    assert [row for row in rows if not row.right] == []


def test_a_row_is_right_within_its_tolerance_and_a_twin_beyond_it():
    assert Row("", 1.0, 1.5, 0.5).right
    assert not Row("", 1.0, 1.6, 0.5).right
    assert not Row("", 1.0, float("nan"), 0.5).right
    assert Row("", 1.0, 1.6, 0.5, holds=False).right
    assert not Row("", 1.0, 1.4, 0.5, holds=False).right


def test_the_page_lists_every_result():
    text = exact.PAGE.read_text(encoding="utf-8")
    assert text.startswith(exact.HEAD)
    titles = [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")]
    assert sorted(titles) == sorted(exact.escaped(entry.title) for entry in ENTRIES.values())
    for entry in ENTRIES.values():
        assert exact.escaped(entry.text) in text


def test_the_page_is_made_of_the_rows(monkeypatch):
    @exact.entry("A result")
    def made():
        """Of nothing*"""
        yield Row("one |y|", 1.0, 1.25, 0.5)
        yield Row("two", 2.0, 3.0, 0.5, holds=False)

    made.__module__ = "exact_tables"
    try:
        only = {"made": ENTRIES["made"]}
    finally:
        del ENTRIES["made"]
    monkeypatch.setattr(exact, "ENTRIES", only)
    page = exact.page()
    assert "### A result\n\nOf nothing\\*\n" in page
    assert r"| one \|y\| | 1 | 1.25 | 0.5 |" in page
    assert "| but not: two | 2 | 3 | 0.5 |" in page
