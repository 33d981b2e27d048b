"""The harness must see what it is there to see: a page that asks beyond the machine, and one that breaks."""

import pytest

pytestmark = pytest.mark.browser


def test_a_quiet_page_is_no_matter(page):
    page.goto("data:text/html,<h1>here</h1>")
    assert page.locator("h1").inner_text() == "here"


@pytest.mark.parametrize("html", [
    "<img src='https://beyond.example/a.png'>",
    "<link rel=stylesheet href='https://beyond.example/a.css'>",
    "<script>fetch('https://beyond.example/a').catch(() => 0)</script>",
    "<script>new WebSocket('wss://beyond.example/a')</script>",
])
def test_requests_beyond_the_machine_are_stopped_and_counted(html, page):
    page.goto(f"data:text/html,{html}")
    page.wait_for_function("document.readyState == 'complete'")
    page.wait_for_timeout(100)
    assert len(page.outside) == 1 and "beyond.example/a" in page.outside[0]
    if "WebSocket" not in html:  # stopped here, and not for want of a network
        assert "ERR_FAILED" in page.complaints[0]
    page.outside.clear()
    page.complaints.clear()


def test_errors_of_a_page_are_heard(page):
    page.goto("data:text/html,<script>console.error('said'); throw new Error('thrown')</script>")
    page.wait_for_timeout(100)
    assert page.complaints[0] == "said" and "thrown" in page.complaints[1]
    page.complaints.clear()
