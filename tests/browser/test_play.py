"""The page of `dpo-numpy play` in a real browser, as readers meet it: by mouse, by keyboard, small, without script."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import dpo_numpy as dn
from dpo_numpy.playground import build, evaluate, server, view
from dpo_numpy.playground.drawing import number
from dpo_numpy.playground.evaluation import CHOICES, DEFAULTS

pytestmark = pytest.mark.browser
PAIR = DEFAULTS["pair"]
SAY = ("pair-harder", "pair-beta", "pair-swapped")


@pytest.fixture
def served():
    with server.Server() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def play(page, served):
    page.goto(served.url)
    return page


def text(page, selector):
    return re.sub(r"\s+", " ", page.locator(selector).inner_text()).strip()


def move(page, ident, value):
    """What a pointer does to a slider, as far as the page can tell."""
    page.locator(f"#{ident}").evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", value)


def settles(page, selector, expected):
    page.wait_for_function(
        "([s, t]) => document.querySelector(s).innerText.replace(/\\s+/g, ' ').includes(t)", arg=[selector, expected])


def predict(page, panel, words):
    for key, word in words.items():
        page.locator(f'input[name="{key}"][value="{word}"]').check()
    page.locator(f"[data-reveal={panel}]").click()


# ---- (a)

def test_the_derivation_by_clicks(play):
    titles = [step.title for step in build.STEPS]
    seen = []
    assert play.locator(".step:visible").count() == 7  # to be read without touching
    assert play.locator("[aria-current=step]").count() == 0
    play.locator("#step-next").click()
    for i in range(len(titles)):
        assert play.locator(".step:visible").count() == 1
        seen.append(text(play, ".step:visible h3"))
        assert play.locator("[aria-current=step]").inner_text() == str(i + 1)
        assert text(play, "#step-said") == f"Step {i + 1} of 7"
        if i + 1 < len(titles):
            play.locator("#step-next").click()
    assert seen == [f"{i}. {title}" for i, title in enumerate(titles, 1)]
    assert play.locator("#step-next").get_attribute("aria-disabled") == "true"
    play.locator("#step-back").click()
    assert text(play, ".step:visible h3").startswith("6.")
    play.locator("[data-step='3']").click()
    assert text(play, ".step:visible h3").startswith("3.")
    play.locator("#step-all").click()
    assert play.locator(".step:visible").count() == 7
    assert all(box.locator("math:visible").count() for box in play.locator(".step").all())


def test_the_derivation_by_arrow_keys(play):
    play.locator("[data-step='1']").focus()
    for key, step in (("ArrowRight", 2), ("ArrowDown", 3), ("ArrowLeft", 2), ("End", 7), ("ArrowRight", 7), ("Home", 1),
                      ("ArrowUp", 1)):
        play.keyboard.press(key)
        assert text(play, ".step:visible h3").startswith(f"{step}."), key
        assert play.evaluate("document.activeElement.dataset.step") == str(step)


def test_the_derivation_follows_its_sliders(play):
    move(play, "derivation-reward-0", 2.5)
    move(play, "derivation-beta", 0)  # β = 1
    n = evaluate({**DEFAULTS["derivation"], "beta": 1.0, "reward": [2.5, 0.5, -1.0]})
    settles(play, "#derivation-said", number(n["beta_log_z"]))
    for i, markup in view.show({"panel": "derivation", "beta": 1.0, "reward": [2.5, 0.5, -1.0], "ref": n["ref"]})[
            "parts"].items():
        if i.startswith("step"):
            assert play.locator(f"#{i}").evaluate("e => e.innerText") == play.evaluate(
                "m => { const e = document.createElement('div'); e.innerHTML = m; document.body.append(e);"
                " const t = e.innerText; e.remove(); return t; }", markup), i


# ---- (b) and (c)

def shown_pair(page):
    rows = page.locator("#pair-table tbody tr").all()
    cells = [[cell.inner_text() for cell in row.locator("td").all()] for row in rows]
    return cells, [each.inner_text() for each in page.locator("#pair-table dd").all()]


def test_sliders_show_what_the_library_computes(play):
    play.locator("[data-skip=pair]").click()
    given = {"chosen": -6.3, "rejected": -0.4, "ref_chosen": -2.0, "ref_rejected": -5.5, "length_chosen": 7,
             "length_rejected": 2}
    for name, value in given.items():
        move(play, f"pair-{name}", value)
    move(play, "pair-beta", 0.3)  # 10^0.3 = 2.0
    n = evaluate({**PAIR, **given, "beta": 2.0})
    value, grad = dn.LOSSES["dpo"](beta=2.0)([[-6.3, -0.4]], [[-2.0, -5.5]])
    assert (n["value"], n["grad"]) == (value[0], grad[0].tolist())
    settles(play, "#pair-table", number(n["value"], 6))
    cells, facts = shown_pair(play)
    assert [row[2] for row in cells] == [number(g, 6, True) for g in grad[0]]
    assert [row[3] for row in cells] == ["▲ up", "▼ down"]
    assert facts == [number(n["value"], 6), number(n["margin"], 4, True), number(n["weight"], 6)]
    assert text(play, "#pair-beta + output") == "2" and text(play, "#pair-chosen + output") == "−6.3"
    assert play.locator("#pair-chosen").get_attribute("aria-valuetext") == "−6.3"


@pytest.mark.parametrize("loss", CHOICES)
def test_every_loss_of_the_list(loss, play):
    play.locator("[data-skip=pair]").click()
    move(play, "pair-chosen", -5.0)
    play.locator("#pair-loss").select_option(loss)
    n = evaluate({**PAIR, "chosen": -5.0, "loss": loss})
    settles(play, "#pair-table", number(n["value"], 6))
    assert [row[2] for row in shown_pair(play)[0]] == [number(g, 6, True) for g in n["grad"]]
    settles(play, "#curves-said", n["name"])


def test_the_dot_moves_along_the_curve(play):
    def dot():
        return [float(play.locator("#curve-loss circle").get_attribute(a)) for a in ("cx", "cy")]

    before = dot()
    move(play, "curves-chosen", -10)
    settles(play, "#curves-said", "at h = −5.70")
    after = dot()
    assert after[0] < before[0] and after[1] < before[1]  # to the left, and up
    assert play.locator("#pair-chosen").input_value() == "-10"  # one pair, two places to move it
    assert "−10.0" in text(play, "#pair-chosen + output")
    move(play, "pair-beta", 0)
    play.wait_for_function("() => document.querySelector('#curves-beta').value == '0'")
    settles(play, "#curves-said", "dpo(beta=1)")


def test_many_moves_end_at_the_last(play):
    play.locator("[data-skip=pair]").click()
    play.locator("#pair-chosen").evaluate("""e => {
        for (let k = 0; k < 40; k += 1) {  // faster than anybody answers
            e.value = -k / 10;
            e.dispatchEvent(new Event('input', {bubbles: true}));
        } }""")
    settles(play, "#pair-table", number(evaluate({**PAIR, "chosen": -3.9})["value"], 6))


def test_predict_a_pair_then_see(play):
    answer, verdicts = play.locator("#answer-harder"), play.locator("#pair .verdict")
    assert not answer.is_visible() and not play.locator("#pair-table").is_visible()
    play.locator("[data-reveal=pair]").click()  # nothing said yet
    assert not answer.is_visible() and text(play, "[data-note=pair]") == "3 questions have no answer of yours yet."
    predict(play, "pair", dict(zip(SAY, ("equally", "weaker", "stronger"), strict=True)))
    assert verdicts.all_inner_texts() == ["You said: both alike. ✓ Right.", "You said: shrinks. ✗ Not so.",
                                          "You said: grows. ✓ Right."]
    assert "equally hard" in answer.inner_text() and play.locator("#pair-table").is_visible()
    assert text(play, "[data-note=pair]") == "Right: 2 of your 3 predictions."
    move(play, "pair-beta", 1)  # at 10 a larger β pushes less: what was said stays, what is so is new
    settles(play, "[data-question=pair-beta] .verdict", "You said: shrinks. ✓ Right.")
    settles(play, "[data-note=pair]", "Right: 3 of your 3 predictions.")  # the count too
    assert verdicts.nth(0).inner_text() == "You said: both alike. ✓ Right."
    play.locator("[data-clear=pair]").click()
    assert not answer.is_visible() and verdicts.all_inner_texts() == ["", "", ""]
    assert play.locator("#pair input:checked").count() == 0
    assert text(play, "[data-note=pair]") == "Your answers are cleared."


def test_one_prediction_opens_one_answer(play):
    predict(play, "pair", {"pair-beta": "stronger"})
    assert play.locator("#answer-beta").is_visible() and not play.locator("#answer-harder").is_visible()


# ---- (d)

RUN = [f"run-run-{b}-{side}" for b in range(3) for side in ("chosen", "rejected")]


def test_predict_a_run_then_see_it_replayed(play):
    assert not play.locator("#run-chart-0").is_visible()
    play.locator("[data-reveal=run]").click()
    assert text(play, "[data-note=run]") == "6 questions have no answer of yours yet."
    assert play.evaluate("document.activeElement.name") == RUN[0]
    predict(play, "run", dict.fromkeys(RUN, "rises") | {RUN[1]: "falls"})
    assert text(play, "[data-note=run]") == "Right: 2 of your 6 predictions."
    settles(play, "#replay", "Play")  # it has come to its end
    n = evaluate(DEFAULTS["run"])
    assert play.locator("#replay-step").input_value() == "100"
    assert text(play, "[data-cell='2-0']") == number(n["log_ratio"][100][2][0], 2, True)
    assert play.locator("#run .verdict").all_inner_texts() == [
        f"You said: {word}. {'✓ Right.' if right else '✗ Not so.'}"
        for word, right in (("rises", 1), ("falls", 1), ("rises", 0), ("rises", 0), ("rises", 0), ("rises", 0))]


def test_the_replay_by_its_slider(play):
    play.locator("[data-skip=run]").click()
    play.locator("#replay").click()  # pause
    n = evaluate(DEFAULTS["run"])
    for k in (0, 1, 37, 100):
        move(play, "replay-step", k)
        for b in range(3):
            for i in (0, 1):
                x = n["log_ratio"][k][b][i]
                assert text(play, f"[data-cell='{b}-{i}']") == ("0.00" if round(x, 2) == 0 else number(x, 2, True)), k
        assert text(play, "[data-cell=value]") == number(n["value"][k]) and text(play, "[data-cell=step]") == str(k)
        points = play.locator("#run-chart-0 .line.chosen").get_attribute("d").count("L")
        assert points == k
        assert play.locator("#run-chart-0 .dot").first.is_visible() == (k == 100)


def test_another_run(play):
    play.locator("[data-skip=run]").click()
    play.locator("#run-loss").select_option("dpop")
    settles(play, "#run-said", "dpop(beta=0.1")
    assert "it rises" in text(play, "#answer-run-1-chosen")
    move(play, "replay-step", 50)
    n = evaluate({**DEFAULTS["run"], "loss": "dpop"})
    assert text(play, "[data-cell='1-0']") == number(n["log_ratio"][50][1][0], 2, True)
    play.locator("#run-loss").select_option("ipo")  # with a learning rate of its own
    settles(play, "#run-said", "steps of ipo(tau=0.1")
    assert text(play, "output[for=run-lr]") == "0.1"
    move(play, "run-lr", 2)
    settles(play, "#notice", "expected a smaller lr")
    settles(play, "[data-note=run]", "expected a smaller lr")
    assert not play.locator("#run-chart-0").is_visible() and not play.locator("#answer-run-0-chosen").is_visible()
    assert len(play.complaints) == 1 and "400" in play.complaints.pop()  # the browser's own word on that answer
    move(play, "run-lr", 0.1)
    play.locator("#notice").wait_for(state="hidden")
    assert "steps of ipo(tau=0.1" in text(play, "#run-said") and play.locator("#run-chart-0").is_visible()


def test_a_prediction_is_held_against_the_settings_that_it_was_made_for(play):
    play.evaluate("""() => { const fast = fetch;
        window.fetch = async (...a) => { await new Promise(r => setTimeout(r, 300)); return fast(...a); }; }""")
    play.locator("#run-loss").select_option("dpop")  # under dpo this answer falls
    predict(play, "run", dict.fromkeys(RUN, "rises"))
    settles(play, "[data-question=run-run-1-chosen] .verdict", "You said: rises. ✓ Right.")
    play.locator("[data-clear=run]").click()
    play.locator("#run-loss").select_option("ipo")
    move(play, "run-lr", 2)
    settles(play, "#notice", "expected a smaller lr")
    predict(play, "run", dict.fromkeys(RUN, "rises"))
    settles(play, "[data-note=run]", "expected a smaller lr")
    assert play.locator("#run .verdict").all_inner_texts() == [""] * 6
    assert not play.locator("#run-chart-0").is_visible()
    play.complaints.clear()


# ---- for everybody

def test_every_control_is_reached_by_keyboard_in_order_and_shows_it(play):
    play.locator("[data-skip=pair]").click()
    play.locator("[data-skip=run]").click()
    settles(play, "#replay", "Play")
    expected = play.evaluate("""() => {
        const groups = new Set();
        return [...document.querySelectorAll('a[href], button, select, input')].filter(e => {
            if (e.type !== 'radio') return true;
            const first = !groups.has(e.name);
            groups.add(e.name);
            return first;
        }).map(e => e.id || e.name || e.textContent); }""")
    play.evaluate("() => window.scrollTo(0, 0)")
    play.mouse.click(3, 3)  # from where Tab sets out
    seen = []
    for _ in range(len(expected) + 12):  # and boxes that scroll may be stops too
        play.keyboard.press("Tab")
        name, outline = play.evaluate("""() => { const e = document.activeElement, s = getComputedStyle(e);
            return [['A', 'BUTTON', 'SELECT', 'INPUT'].includes(e.tagName) ? e.id || e.name || e.textContent : '',
                    s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2]; }""")
        if name:
            seen.append(name)
            assert outline, name
        if seen and seen[-1] == expected[-1]:
            break
    assert seen == expected


def test_keyboard_alone_moves_predicts_and_replays(play):
    play.locator("#pair-chosen").focus()
    play.keyboard.press("ArrowLeft")
    settles(play, "#pair-chosen + output", "−2.2")
    for name in SAY:
        play.locator(f"input[name={name}]").first.focus()
        play.keyboard.press("Space")
        play.keyboard.press("ArrowRight")  # to the second
    play.keyboard.press("Enter")  # a form is sent by it
    assert "You said: shrinks." in text(play, "[data-question=pair-beta]")
    assert number(evaluate({**PAIR, "chosen": -2.2})["value"], 6) in text(play, "#pair-table")
    play.locator("[data-skip=run]").focus()
    play.keyboard.press("Enter")
    play.locator("#replay-step").focus()
    play.keyboard.press("Home")
    assert text(play, "[data-cell=step]") == "0"


@pytest.mark.parametrize("width", [320, 360, 390, 768])
def test_a_narrow_screen_scrolls_one_way(width, new_page, served):
    page = new_page(viewport={"width": width, "height": 740})
    page.goto(served.url)
    page.locator("[data-skip=pair]").click()
    page.locator("[data-skip=run]").click()
    page.locator("#pair-loss").select_option("dpop")
    settles(page, "#pair-said", "Loss")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate("""w => [...document.querySelectorAll('h1, h2, h3, p, svg, input, button, select, output')]
        .filter(e => e.getClientRects().length && e.getBoundingClientRect().right > w + 0.5)
        .map(e => e.outerHTML)""", width)
    assert outside == []
    if width >= 390:  # a table that is cut hides what it compares: step 6 its last column
        assert page.evaluate("""() => [...document.querySelectorAll('.wide')]
            .filter(e => e.scrollWidth > e.clientWidth).map(e => e.textContent)""") == []


def test_reduced_motion_replays_at_once(new_page, served):
    page = new_page(reduced_motion="reduce")
    page.goto(served.url)
    page.locator("[data-skip=run]").click()
    assert page.locator("#replay-step").input_value() == "100" and text(page, "#replay") == "Play"
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


def test_motion_is_there_where_nobody_minds(play):
    play.locator("[data-skip=run]").click()
    assert text(play, "#replay") == "Pause" and int(play.locator("#replay-step").input_value()) < 100
    assert play.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "smooth"


def test_without_script_all_numbers_are_there_to_read(new_page, served):
    page = new_page(java_script_enabled=False)
    page.goto(served.url)
    body = text(page, "body")
    for defaults in DEFAULTS.values():
        for name, markup in view.show(defaults)["parts"].items():
            assert page.locator(f"#{name}").is_visible(), name
            for found in re.findall(r"<b>([^<]+)</b>", markup):
                assert found in body, name
    assert "0.589185" in body and "0.445221" in body and "Without JavaScript" in body
    assert page.locator("button:visible, input:visible, select:visible").count() == 0  # nothing that does nothing
    assert page.locator("math:visible").count() >= 7


CONTRAST = """() => {
    const channel = c => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
    const parse = c => c.match(/[\\d.]+/g).map(Number);
    const light = c => { const [r, g, b] = parse(c).map(channel); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const behind = e => {
        for (; e; e = e.parentElement) {
            const c = getComputedStyle(e).backgroundColor;
            if (c !== 'transparent' && parse(c)[3] !== 0) return c;
        }
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const e = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !e.getClientRects().length) continue;
        const style = getComputedStyle(e);
        const a = light(e.closest('svg') ? style.fill : style.color), b = light(behind(e));
        found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(scheme, new_page, served):
    """At least 4.5 to 1, as WCAG 2 asks of text."""
    page = new_page(color_scheme=scheme)
    page.goto(served.url)
    page.locator("[data-skip=pair]").click()
    page.locator("[data-skip=run]").click()
    found = page.evaluate(CONTRAST)
    assert len(found) > 300
    assert [(ratio, words) for ratio, words in found if ratio < 4.5] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_are_those_of_the_project_and_not_alone(scheme, new_page, served):
    page = new_page(color_scheme=scheme)
    page.goto(served.url)
    page.locator("[data-skip=run]").click()

    def style(selector, name):
        return page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{name}")

    assert style("#run-chart-0 .line.chosen", "stroke") == "rgb(0, 114, 178)"
    assert style("#run-chart-0 .line.rejected", "stroke") == "rgb(213, 94, 0)"
    assert style("#run-chart-0 .line.chosen", "strokeDasharray") == "none"
    assert style("#run-chart-0 .line.rejected", "strokeDasharray") != "none"
    for mark in ("circle.dot.chosen", "rect.dot.rejected"):
        assert page.locator(f"#run-chart-0 {mark}").count() == 1


def test_controls_have_names_and_parts_that_change_speak(play):
    nameless = play.evaluate("""() => [...document.querySelectorAll('input, select, button')].filter(
        e => !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label'))).map(e => e.outerHTML)""")
    assert nameless == []
    for panel in ("derivation", "pair", "curves", "run"):
        said = play.locator(f"#{panel}-said")
        assert said.get_attribute("aria-live") == "polite" and said.get_attribute("role") == "status"


# ---- where nobody answers, and where the browser does

def test_a_server_that_went_away_is_a_sentence(page):
    words = [sys.executable, "-m", "dpo_numpy", "play", "--port", "0", "--no-browser"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            page.goto(re.search(r"http://\S+", process.stdout.readline())[0])
            page.locator("[data-skip=pair]").click()
            before = text(page, "#pair-table")
        finally:
            process.kill()
    page.locator("#run").scroll_into_view_if_needed()
    move(page, "pair-chosen", -7)
    settles(page, "#notice", "Nobody answers: the numbers stay as they are.")
    assert text(page, "#pair-table") == before
    assert 0 <= page.locator("#notice").bounding_box()["y"] < 100  # in sight, wherever one reads
    move(page, "run-lr", 0.5)
    page.locator("[data-skip=run]").click()
    settles(page, "[data-note=run]", "Nobody answers")
    assert not page.locator("#run-chart-0").is_visible()  # it would be the run of other settings
    page.expected.append("ERR_CONNECTION")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture
def hosted(tmp_path):
    """A host of files, and its folder: the page as exported."""
    build.export(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}/", tmp_path
        found.shutdown()
        thread.join()


def test_a_hosted_copy_is_readable_and_says_how_to_make_it_live(hosted, page):
    page.goto(hosted[0])
    page.locator("[data-skip=pair]").click()
    assert "0.589185" in text(page, "#pair-table")
    page.locator("[data-skip=run]").click()  # the replay needs nobody
    settles(page, "#replay", "Play")
    move(page, "replay-step", 10)
    assert text(page, "[data-cell='0-0']") == number(evaluate(DEFAULTS["run"])["log_ratio"][10][0][0], 2, True)
    move(page, "pair-chosen", -7)
    settles(page, "#notice", "run dpo-numpy play, or add ?pyodide=")
    page.expected.append("501")  # the console may say so later than the page


def test_a_copy_opened_as_a_file_is_readable(hosted, page):
    page.goto((hosted[1] / "index.html").as_uri())
    page.locator("[data-step='2']").click()
    assert text(page, ".step:visible h3").startswith("2.")
    move(page, "pair-chosen", -7)
    settles(page, "#notice", "This copy of the page has no Python behind it")
    page.complaints.clear()


STAND_IN = """
// Not Python: answers as if, so that what the page does with a Pyodide can be seen without one.
export async function loadPyodide({ indexURL }) {
  const log = window.standIn = [indexURL];
  return {
    async loadPackage(name) { log.push(name); },
    unpackArchive(buffer, kind) { log.push(kind, buffer.byteLength); },
    runPython(code) {
      log.push(code);
      return (text) => { log.push(text); return JSON.stringify(ANSWER); };
    },
  };
}
"""


def test_python_in_the_browser_is_given_the_sources_and_asked(hosted, page):
    url, folder = hosted
    changed = {**PAIR, "chosen": -7}
    (folder / "pyodide").mkdir()
    (folder / "pyodide" / "pyodide.mjs").write_text(
        STAND_IN.replace("ANSWER", json.dumps(view.show(changed))), encoding="utf-8")
    page.goto(f"{url}?pyodide=pyodide")
    page.wait_for_function("() => document.documentElement.dataset.engine == 'pyodide'")
    page.locator("[data-skip=pair]").click()
    move(page, "pair-chosen", -7)
    settles(page, "#pair-table", number(evaluate(changed)["value"], 6))
    log = page.evaluate("window.standIn")
    assert log[:4] == [f"{url}pyodide/", "numpy", "zip", len(build.archive())]
    assert "from dpo_numpy.playground.view import show" in log[4] and json.loads(log[5])["panel"] in ("pair", "curves")
    assert {"panel": "pair", **changed} in [json.loads(text) for text in log[5:]]


def test_a_pyodide_that_is_not_there_is_a_sentence(hosted, page):
    page.goto(f"{hosted[0]}?pyodide=nowhere/")
    settles(page, "#notice", "Python did not start in this browser: ")
    assert page.locator("h1").is_visible()
    page.complaints.clear()


def test_who_asked_before_python_failed_to_start_is_answered_by_the_server(served, page):
    held = []
    page.route("**/pyodide.mjs", lambda route: held.append(route))  # which cannot be a builtin
    page.goto(f"{served.url}?pyodide={served.url}p/", wait_until="commit")
    page.locator("[data-skip=pair]").click()
    move(page, "pair-chosen", -7)
    settles(page, "#notice", "Python is on its way")
    held.pop().abort()
    settles(page, "#pair-table", number(evaluate({**PAIR, "chosen": -7})["value"], 6))
    page.complaints.clear()


def test_another_hosts_pyodide_is_not_asked_for_unless_the_export_names_it(hosted, page):
    page.goto(f"{hosted[0]}?pyodide=https://beyond.example/p/")
    settles(page, "#notice", "Python did not start in this browser: ")
    assert page.outside == []
    page.complaints.clear()
    build.export(hosted[1], pyodide="https://beyond.example/p/")
    page.goto(hosted[0])
    settles(page, "#notice", "Python did not start in this browser: ")
    assert page.outside == ["https://beyond.example/p/pyodide.mjs"]
    page.outside.clear()
    page.complaints.clear()


def test_the_real_pyodide_computes_the_same(hosted, page):
    """DPO_NUMPY_PYODIDE: a folder with the npm package pyodide, unpacked, and the NumPy wheel its lock file names."""
    folder = os.environ.get("DPO_NUMPY_PYODIDE")
    if not folder:
        pytest.skip("DPO_NUMPY_PYODIDE names no folder with Pyodide and its NumPy wheel")
    lock = json.loads((Path(folder) / "pyodide-lock.json").read_text("utf-8"))
    wheel = lock["packages"]["numpy"]["file_name"]
    if not (Path(folder) / wheel).exists():
        pytest.skip(f"the folder that DPO_NUMPY_PYODIDE names has no {wheel}")
    url, target = hosted
    shutil.copytree(folder, target / "pyodide")
    page.goto(f"{url}?pyodide=pyodide/")
    page.wait_for_function("() => document.documentElement.dataset.engine == 'pyodide'", timeout=120_000)
    page.locator("[data-skip=pair]").click()
    move(page, "pair-chosen", -7)
    settles(page, "#pair-table", number(evaluate({**PAIR, "chosen": -7})["value"], 6))
    move(page, "run-lr", 1)
    settles(page, "#run-said", number(evaluate({**DEFAULTS["run"], "lr": 1.0})["value"][-1]))


# ---- pictures to look at

@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_pictures(width, scheme, new_page, served, screenshots):
    page = new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
    page.goto(served.url)
    predict(page, "pair", dict(zip(SAY, ("chosen", "stronger", "stronger"), strict=True)))
    page.locator("[data-skip=run]").click()
    picture = screenshots / f"play_{width}_{scheme}.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 50_000
