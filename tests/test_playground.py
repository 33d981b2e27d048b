"""The page's seam, its parts, and the page as built; the server is tested in test_server.py, all of it in a browser."""

import json
import math
import re
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import mpmath
import numpy as np
import pytest

import dpo_numpy as dn
from analytic import optimum
from dpo_numpy import figures, minimal
from dpo_numpy.playground import build, drawing, evaluate, evaluation, export, view, world
from dpo_numpy.playground.evaluation import CHOICES, DEFAULTS, LIMITS, PANELS, RATES
from toy_models import NGram

ASSETS = Path(build.__file__).parent / "assets"
EPS = float(np.finfo(float).eps)
PAIR = DEFAULTS["pair"]


# ---- the numbers

def test_a_pair_is_the_papers_formula():
    found = evaluate({**PAIR, "beta": 0.3, "chosen": -7.5, "rejected": -1.25})
    with mpmath.workdps(40):
        h = (mpmath.mpf("-7.5") + 3) - (mpmath.mpf("-1.25") + mpmath.mpf("3.2"))
        z = mpmath.mpf("0.3") * h
        weight = 1 / (1 + mpmath.exp(z))
        value = mpmath.log(1 + mpmath.exp(-z))
    assert found["margin"] == pytest.approx(float(z), rel=8 * EPS)
    assert found["value"] == pytest.approx(float(value), rel=8 * EPS)
    assert found["weight"] == pytest.approx(float(weight), rel=8 * EPS)
    assert found["grad"] == pytest.approx([float(-0.3 * weight), float(0.3 * weight)], rel=8 * EPS)
    assert found["reward"] == pytest.approx([0.3 * -4.5, 0.3 * 1.95], rel=8 * EPS)


@pytest.mark.parametrize("loss", CHOICES)
def test_gradients_of_a_pair_are_differences_of_its_value(loss):
    """(L(x + d) - L(x - d)) / 2d: error d², and rounding by L/d"""
    given, d = {**PAIR, "loss": loss, "beta": 0.4}, 1e-5
    found = evaluate(given)
    for k, name in enumerate(("chosen", "rejected")):
        up, down = (evaluate({**given, name: given[name] + sign * d})["value"] for sign in (1, -1))
        assert found["grad"][k] == pytest.approx((up - down) / (2 * d), abs=1e-7 * (1 + abs(found["value"])))


@pytest.mark.parametrize("loss", CHOICES)
def test_what_is_said_of_other_pairs_is_so(loss):
    given = {**PAIR, "loss": loss, "beta": 0.2}
    found = evaluate(given)
    assert found["doubled"] == {"beta": 0.4, "grad": evaluate({**given, "beta": 0.4})["grad"]}
    turned = dict(given)
    for prefix in ("", "ref_", "length_"):
        turned[f"{prefix}chosen"], turned[f"{prefix}rejected"] = given[f"{prefix}rejected"], given[f"{prefix}chosen"]
    assert found["swapped"]["grad"] == evaluate(turned)["grad"][::-1]


@pytest.mark.parametrize("loss", CHOICES)
def test_the_curves_go_through_the_pair(loss):
    """At a point of the grid the curve is what the pair itself gives; the chosen gains what the rejected loses."""
    given = {**PAIR, "loss": loss, "beta": 0.2, "chosen": -3.0, "rejected": -4.0, "ref_chosen": -4.0,
             "ref_rejected": -4.0}
    curves = evaluate({**given, "panel": "curves"})
    assert curves["h"][0] == -40 and curves["h"][-1] == 40
    for h in (1.0, 3.0, -3.0):  # the chosen at -3.5 + h/2, the rejected at -3.5 - h/2
        k = curves["h"].index(h)
        pair = evaluate({**given, "chosen": -3.5 + h / 2, "rejected": -3.5 - h / 2})
        assert pair["h"] == h
        assert curves["value"][k] == pytest.approx(pair["value"], rel=4 * EPS)
        assert [curves["grad_chosen"][k], curves["grad_rejected"][k]] == pytest.approx(pair["grad"], rel=8 * EPS)
    assert curves["at"]["h"] == 1.0 and curves["at"]["value"] == pytest.approx(evaluate(given)["value"], rel=4 * EPS)


@pytest.mark.parametrize(("beta", "reward", "ref"), [
    (0.5, [1.0, 0.5, -1.0], [0.2, 0.5, 0.3]), (0.01, [3.0, -3.0, 2.9], [0.01, 0.98, 0.01]),
    (10, [0.0, 0.0, 0.0], [0.3, 0.3, 0.4]),
])
def test_both_sides_of_the_derivation(beta, reward, ref):
    n = evaluate({"panel": "derivation", "beta": beta, "reward": reward, "ref": ref})
    best = optimum.boltzmann(ref, reward, beta)
    scale = 64 * EPS * (1 + 6 / beta)  # e^x has the error of x, and x is a reward over β
    assert n["optimum"]["pi"] == pytest.approx(best, rel=scale)
    assert n["optimum"]["log_z"] == pytest.approx(optimum.log_partition(ref, reward, beta), rel=scale, abs=scale)
    for name, pi in (("reference", ref), ("optimum", best)):
        found = n["objective"][name]
        assert found["value"] == pytest.approx(optimum.value(pi, ref, reward, beta), rel=scale, abs=scale)
        assert found["kl"] == pytest.approx(optimum.kl(pi, ref), rel=scale, abs=scale)
    top = [r == max(reward) for r in reward]
    assert n["objective"]["greedy"]["kl"] == pytest.approx(-math.log(np.dot(ref, top)), abs=scale)
    assert n["objective"]["optimum"]["value"] == pytest.approx(n["beta_log_z"], rel=scale, abs=scale)
    assert max(v["value"] for v in n["objective"].values()) <= n["beta_log_z"] + scale
    assert n["implied"]["reward"] == pytest.approx(reward, abs=scale)
    assert n["bradley_terry"]["margin"] == pytest.approx(reward[0] - reward[2], abs=scale)
    assert n["bradley_terry"]["from_policy"] == pytest.approx(1 / (1 + math.exp(reward[2] - reward[0])), rel=scale)
    assert n["loss"]["value"] == pytest.approx(-math.log(n["bradley_terry"]["from_reward"]), rel=1e-13, abs=scale)
    assert n["loss"]["minimal"] == pytest.approx(n["loss"]["log_sigmoid"], rel=scale, abs=scale)
    gradient = n["gradient"]
    expected = -beta * (1 - n["bradley_terry"]["from_reward"]) * np.array([1.0, 0.0, -1.0])
    assert gradient["formula"] == pytest.approx(expected, abs=beta * 8 * scale)
    assert gradient["backward"] == pytest.approx(expected, abs=beta * 8 * scale)
    assert np.subtract(gradient["score_chosen"], gradient["score_rejected"]) == pytest.approx([1, 0, -1], abs=8 * EPS)
    assert n["minimum"]["optimum"]["largest_slope"] < beta * scale
    assert n["minimum"]["optimum"]["value"] <= n["minimum"]["reference"]["value"] == pytest.approx(math.log(2), rel=EPS)


def bigram_batch():
    pairs = world.pairs()
    sides = [(pairs.responses.tokens[pairs.index[:, k]], pairs.responses.mask[pairs.index[:, k]]) for k in (0, 1)]
    return sides


def test_the_run_is_minimal_dpo_step_for_step():
    """`minimal.py`, which shares nothing with the library, makes the same run."""
    n = evaluate({**DEFAULTS["run"], "beta": 0.3, "lr": 1.5, "steps": 20})
    chosen, rejected = bigram_batch()
    ref = world.reference()["W"]
    W = ref
    for step in range(20):
        loss, W = minimal.dpo_step(W, ref, chosen, rejected, 0.3, 1.5)
        assert n["value"][step] == pytest.approx(loss, rel=1e-12)
        for k, (tokens, mask) in enumerate((chosen, rejected)):
            moved = minimal.sequence_logps(W[tokens], tokens, mask)[0]
            moved = moved - minimal.sequence_logps(ref[tokens], tokens, mask)[0]
            assert [row[k] for row in n["log_ratio"][step + 1]] == pytest.approx(moved, rel=1e-11, abs=1e-12)
    assert n["accuracy"][0] == 0 and n["accuracy"][-1] == np.mean(np.array(n["margin"][-1]) > 0)
    assert n["log_ratio"][0] == [[0, 0]] * 3


def test_first_order_is_the_limit_of_small_steps():
    small = evaluate({**DEFAULTS["run"], "lr": 0.01, "steps": 1})
    assert np.array(small["first_order"]) == pytest.approx(np.array(small["log_ratio"][1]), rel=0.01, abs=1e-6)


def test_what_the_default_run_teaches():
    """Up and down; both down; and a chosen answer that first rises and then falls."""
    n = evaluate(DEFAULTS["run"])
    first, last = np.sign(n["log_ratio"][1]), np.sign(n["log_ratio"][-1])
    assert first.tolist() == [[1, -1], [-1, -1], [1, -1]] and last.tolist() == [[1, -1], [-1, -1], [-1, -1]]
    assert n["accuracy"][-1] == 1


def test_the_bigram_is_that_of_toy_models(rng):
    V = len(world.WORDS)
    params, pairs = {"W": rng.normal(size=(V, V))}, world.pairs()
    rows = pairs.index.ravel()
    ours, back = dn.read(world.Bigram(V), params, pairs.responses, rows, ["logp"])
    theirs, their_back = dn.read(NGram(V), params, pairs.responses, rows, ["logp"])
    d = rng.normal(size=len(rows))
    assert ours["logp"] == pytest.approx(theirs["logp"], rel=32 * EPS)
    assert back({"logp": d})["W"] == pytest.approx(their_back({"logp": d})["W"], abs=64 * EPS * abs(d).sum())
    assert world.Bigram(V).init(rng)["W"].shape == (V, V)


def test_the_reference_learned_the_chosen_answers():
    policy, pairs = world.Bigram(len(world.WORDS)), world.pairs()
    flat = {"W": np.zeros((len(world.WORDS),) * 2)}
    before, after = (dn.read(policy, params, pairs.responses, pairs.index[:, 0], ["logp"])[0]["logp"]
                     for params in (flat, world.reference()))
    assert (after > before).all()


def test_a_larger_beta_pushes_harder_on_the_wrong_side_and_lets_go_on_the_right():
    pushes = []
    for beta in (0.1, 0.3, 1.0):
        n = evaluate({**PAIR, "panel": "curves", "beta": beta})
        pushes.append([-n["grad_chosen"][n["h"].index(h)] for h in (-10.0, 0.0, 10.0, 40.0)])
    wrong, even, _, right = np.array(pushes).T
    assert (np.diff(wrong) > 0).all() and (np.diff(even) > 0).all() and (np.diff(right) < 0).all()
    assert wrong[-1] == pytest.approx(1.0, abs=1e-4)


# ---- refusals

@pytest.mark.parametrize("panel", PANELS)
def test_every_parameter_is_asked_for_and_no_other(panel):
    defaults = DEFAULTS[panel]
    assert defaults.keys() == {"panel", *LIMITS[panel]}
    for name in defaults:
        with pytest.raises(ValueError, match=rf"^{name} is missing; expected "):
            evaluate({key: value for key, value in defaults.items() if key != name})
    with pytest.raises(ValueError, match=f"^'gamma' is no parameter of {panel}; expected "):
        evaluate({**defaults, "gamma": 1.0})


WRONG = [None, True, False, "0.1", "", [], {}, [0.1], float("nan"), float("inf"), -float("inf"), 10**400, -(10**400),
         1e308, -1e308, "\ud800", "x" * 10_000, 10**5000, {"a": 1}, [[0.1]]]


@pytest.mark.parametrize(("panel", "name"), [(panel, name) for panel in PANELS for name in ("panel", *LIMITS[panel])])
def test_wrong_values_are_one_sentence(panel, name):
    for value in WRONG:
        with pytest.raises(ValueError, match=rf"^{name}(\[\d\])? (is|adds up to) ") as caught:
            evaluate({**DEFAULTS[panel], name: value})
        sentence = str(caught.value)
        assert "; expected " in sentence and len(sentence) < 300 and sentence.isascii() and "\n" not in sentence


@pytest.mark.parametrize(("change", "sentence"), [
    ({"beta": 0}, "beta is 0; expected a number from 0.01 to 10"),
    ({"beta": 10.1}, "beta is 10.1; expected a number from 0.01 to 10"),
    ({"chosen": 0.1}, "chosen is 0.1; expected a number from -12 to 0"),
    ({"length_chosen": 1.5}, "length_chosen is 1.5; expected a whole number from 1 to 100"),
    ({"length_chosen": 0}, "length_chosen is 0; expected a whole number from 1 to 100"),
    ({"loss": "kto"}, "loss is 'kto'; expected one of dpo, ipo, "),
    ({"beta": 10**400}, "beta is a whole number of 1329 bits; expected"),
    ({"beta": []}, "beta is a list of 0; expected"),
    ({"beta": {"a": 1}}, "beta is an object of 1; expected"),
    ({3: 1}, "3 is no parameter of pair"),
])
def test_sentences_of_a_pair(change, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        evaluate({**PAIR, **change})


@pytest.mark.parametrize(("change", "sentence"), [
    ({"reward": [1.0, 2.0]}, "reward is a list of 2; expected a list of 3 numbers"),
    ({"reward": [1.0, 2.0, 3.1]}, "reward[2] is 3.1; expected a number from -3 to 3"),
    ({"reward": [1.0, True, 3]}, "reward[1] is True; expected a number from -3 to 3"),
    ({"ref": [0.2, 0.5, 0.2]}, "ref adds up to 0.9; expected 1"),
    ({"ref": [0.0, 0.5, 0.5]}, "ref[0] is 0.0; expected a number from 0.01 to 0.98"),
])
def test_sentences_of_the_derivation(change, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        evaluate({**DEFAULTS["derivation"], **change})


@pytest.mark.parametrize("params", [None, 3, "pair", [], True])
def test_params_are_an_object(params):
    with pytest.raises(ValueError, match=r"^params is .*; expected an object"):
        evaluate(params)


def test_a_run_that_diverges_says_so():
    with pytest.raises(ValueError, match=r"^lr is 2: with ipo.* 10000 nats at step \d+; expected a smaller lr$"):
        evaluate({**DEFAULTS["run"], "loss": "ipo"})


def corners():
    for panel, limits in LIMITS.items():
        for name, limit in limits.items():
            if isinstance(limit, evaluation.Number):
                for end in (limit.low, limit.high):
                    yield {**DEFAULTS[panel], name: end}
            elif isinstance(limit, evaluation.Word):
                yield from ({**DEFAULTS[panel], name: word, **({"lr": 0.02} if panel == "run" else {})}
                            for word in limit.of)


@pytest.mark.parametrize("params", [*corners()], ids=str)
def test_the_ends_of_every_range_have_finite_numbers_and_parts(params):
    both = view.show(params)
    json.dumps(both, allow_nan=False)
    assert both["numbers"] == evaluate(params) == json.loads(json.dumps(both["numbers"]))
    for name, markup in both["parts"].items():
        assert "nan" not in markup.lower() and "inf" not in re.sub("<[^>]*>", "", markup).lower(), name
        well_formed(markup)


def test_random_sliders_have_finite_numbers(rng):
    for _ in range(300):
        params = {**PAIR, "panel": "curves", "loss": str(rng.choice(list(CHOICES))),
                  "beta": float(10 ** rng.uniform(-2, 1))}
        params |= {name: float(rng.uniform(-12, 0)) for name in ("chosen", "rejected", "ref_chosen", "ref_rejected")}
        json.dumps(view.show(params), allow_nan=False)
        json.dumps(view.show({**params, "panel": "pair"}), allow_nan=False)


# ---- markup

def well_formed(markup):
    for name in ("nbsp", "shy"):
        assert f"&{name};" not in markup
    return ElementTree.fromstring(f"<div>{markup}</div>".replace("<br>", "<br/>"))


@pytest.mark.parametrize(("x", "options", "text"), [
    (0.0, {}, "0.0000"), (-0.0, {"digits": 2}, "0.00"), (1.005, {"digits": 1}, "1.0"), (-2.5, {"digits": 1}, "−2.5"),
    (3.0, {"digits": 0, "sign": True}, "+3"), (2.5e-17, {}, "2.5 × 10⁻¹⁷"), (-1e7, {}, "−1.0 × 10⁷"),
    (0.00004, {"digits": 4}, "4.0 × 10⁻⁵"), (0.00006, {"digits": 4}, "0.0001"),
])
def test_numbers_to_read(x, options, text):
    assert drawing.number(x, **options) == text


@pytest.mark.parametrize(("text", "inside"), [
    ("a_b", "<msub><mi>a</mi><mi>b</mi></msub>"),
    ("e^{r/β}", "<msup><mi>e</mi><mrow><mi>r</mi><mo>/</mo><mi>β</mi></mrow></msup>"),
    ("\\frac{a}{2}", "<mfrac><mrow><mi>a</mi></mrow><mrow><mn>2</mn></mrow></mfrac>"),
    ("[margin] - 1.5", "<mtext>margin</mtext><mo>−</mo><mn>1.5</mn>"),
    ("a < b", "<mi>a</mi><mo>&lt;</mo><mi>b</mi>"),
])
def test_formulas(text, inside):
    assert drawing.formula(text, block=False) == f"<math><mrow>{inside}</mrow></math>"


def test_a_formula_with_a_brace_too_many():
    with pytest.raises(ValueError, match=r"^formula is 'a\}'; expected matching braces"):
        drawing.formula("a}")


def test_a_chart_has_its_points_where_they_belong():
    svg = ElementTree.fromstring(drawing.chart("t <", [0.0, 10.0], [drawing.Line("chosen", [0.0, 1.0])], "x", 10.0,
                                               [("chosen", 1.0), ("rejected", 0.0)], zero=False))
    path = next(p for p in svg.iter("path") if p.get("class") == "line chosen").get("d")
    (x0, y0), (x1, y1) = ([float(v) for v in point.split()] for point in path[1:].split("L"))
    assert x0 == drawing.LEFT and x1 == drawing.WIDTH - drawing.RIGHT and y1 < y0
    dot = svg.find("circle")
    assert [float(dot.get("cx")), float(dot.get("cy"))] == [x1, y1]
    square = next(r for r in svg.iter("rect") if "dot" in r.get("class"))
    assert float(square.get("y")) + 5 == pytest.approx(y0, abs=0.11)
    assert svg.get("aria-label") == "t <"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-40, 40), (-1e-5, 3e-5), (0, 2025), (-0.31, 0.09), (99.9, 100.1)])
def test_ticks_are_few_and_inside(low, high):
    found = drawing.ticks(low, high)
    assert 3 <= len(found) <= 9 and low <= found[0] and found[-1] <= high and found == sorted(found)


# ---- what is said of the numbers

@pytest.mark.parametrize(("change", "truth"), [
    ({}, {"harder": "equally", "beta": "stronger", "swapped": "stronger"}),
    ({"beta": 2.0}, {"harder": "equally", "beta": "weaker", "swapped": "stronger"}),
    ({"chosen": -4.5, "rejected": -2.1, "ref_chosen": -3.0, "ref_rejected": -3.0}, {"swapped": "weaker"}),
    ({"chosen": -3.0, "rejected": -3.2}, {"swapped": "unchanged", "beta": "stronger"}),
    ({"loss": "ln_dpo"}, {"harder": "chosen"}),
    ({"loss": "ln_dpo", "length_chosen": 9, "length_rejected": 3}, {"harder": "rejected"}),
    ({"loss": "hinge", "beta": 1.0}, {"harder": "equally", "beta": "unchanged", "swapped": "stronger"}),
])
def test_truths_of_a_pair(change, truth):
    parts = view.show({**PAIR, **change})["parts"]
    for key, word in truth.items():
        assert f'data-truth="{word}"' in parts[f"answer-{key}"], key


def test_truths_of_a_run():
    parts = view.show(DEFAULTS["run"])["parts"]
    words = [re.search('data-truth="([a-z]+)"', parts[f"answer-run-{b}-{side}"])[1]
             for b in range(3) for side in ("chosen", "rejected")]
    assert words == ["rises", "falls", "falls", "falls", "falls", "falls"]
    assert ["It turned on the way" in parts[f"answer-run-{b}-chosen"] for b in range(3)] == [False, False, True]
    assert "Less probable than before: 2 of the 3 chosen answers." in parts["run-said"]


def test_what_rounding_leaves_is_no_number_to_read():
    assert view.settled({"a": [1e-17, -1e-17, 0.5], "b": {"c": 2e-12}, "d": "x"}) == {
        "a": [0.0, 0.0, 0.5], "b": {"c": 2e-12}, "d": "x"}
    parts = view.show(DEFAULTS["derivation"])["parts"]
    assert "0, up to rounding" in parts["step-7"] and "×" not in "".join(parts.values())


def test_which_way_a_gradient_pushes():
    assert [view.pushed(g) for g in (-1.0, 1.0, 0.0)] == ["▲ up", "▼ down", "nowhere"]


# ---- the page

def test_the_committed_page_is_what_the_script_writes():
    """`python -m dpo_numpy.playground.build` (make pages) writes it."""
    assert (ASSETS / "index.html").read_text("utf-8") == build.page()


def text_of(markup):
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", markup))


def test_the_page_holds_all_default_numbers_before_any_script():
    page = build.page()
    for defaults in DEFAULTS.values():
        for name, markup in view.show(defaults)["parts"].items():
            assert f'id="{name}"' in page and markup in page, name
    assert "0.589185" in text_of(page) and "0.445221" in text_of(page)


def test_the_page_has_no_inline_script_style_or_handler_and_asks_nobody():
    page = build.page()
    scripts = re.findall("<script([^>]*)>", page)
    assert scripts == [' src="play.js" defer', ' type="application/json" id="run-numbers"']
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page)
    assert re.findall('(?:src|href)="([^"#]+)"', page) == ["data:,", "style.css", "play.js"]
    for name in ("style.css", "play.js"):
        code = re.sub(r"(?m)^\s*//.*$|  // .*$", "", (ASSETS / name).read_text("utf-8"))
        assert not re.search(r"https?:|//[a-z]|@import|url\(", code)


def test_ids_are_unique_and_labels_have_their_controls():
    page = build.page()
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'\sfor="([^"]+)"', page)) | set(re.findall(r'aria-labelledby="([^"]+)"', page)) <= set(ids)
    controls = re.findall(r'<(?:input type="range"|select) id="([^"]+)"', page)
    assert set(controls) <= set(re.findall(r'<label for="([^"]+)"', page)) and len(controls) > 15


def test_the_functions_that_the_page_names_are_where_it_says():
    from importlib import import_module

    for step in build.STEPS:
        names, file = step.computed_by
        module = import_module(f"dpo_numpy.{file.removesuffix('.py')}")
        assert all(callable(getattr(module, name)) for name in names.split(", "))


def test_the_sliders_stand_where_the_defaults_are():
    page = build.page()
    for panel, ident, value in (("pair", "pair-beta", -1), ("run", "run-lr", 2), ("pair", "pair-chosen", -2.1),
                                ("derivation", "derivation-reward-2", -1)):
        assert re.search(rf'id="{ident}" data-panel="{panel}"[^>]* value="{value}"', page), ident
    assert all(f'"{name}"' in (ASSETS / "play.js").read_text() or f'data-name="{name}"' in page
               for limits in LIMITS.values() for name in limits if name not in ("ref", "steps"))


@pytest.mark.parametrize("name", ["CHOSEN", "REJECTED", "REFERENCE", "OPTIMUM", "POLICY"])
def test_colors_are_those_of_every_figure(name):
    style = (ASSETS / "style.css").read_text("utf-8")
    assert re.findall(rf"--{name.lower()}: (#[0-9a-f]+);", style) == [getattr(figures, name).lower()]  # in dark too


# ---- for a browser that runs Python

def test_the_archive_is_the_same_each_time_and_enough(tmp_path):
    """In a process that has NumPy and the archive, and in which SciPy and its like cannot be imported."""
    first = build.archive()
    build.archive.cache_clear()
    assert build.archive() == first
    zipfile.ZipFile(BytesIO(first)).extractall(tmp_path)
    program = ("import sys, json; sys.path.insert(0, sys.argv[1])\n"
               "for name in ('scipy', 'matplotlib', 'tqdm', 'toy_models', 'analytic'): sys.modules[name] = None\n"
               "from dpo_numpy.playground.view import show; from dpo_numpy.playground.evaluation import DEFAULTS\n"
               "import dpo_numpy; assert dpo_numpy.__file__.startswith(sys.argv[1]), dpo_numpy.__file__\n"
               "print(json.dumps({panel: show(given) for panel, given in DEFAULTS.items()}))")
    words = [sys.executable, "-I", "-c", program, str(tmp_path)]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == {panel: view.show(given) for panel, given in DEFAULTS.items()}


def test_export_writes_the_whole_page(tmp_path):
    written = export(tmp_path / "a" / "play")
    assert sorted(path.name for path in written) == ["index.html", "play.js", "python.zip", "style.css"]
    page = (tmp_path / "a" / "play" / "index.html").read_text("utf-8").replace("&#x27;", "'")
    assert "content=\"default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; " in page
    assert "frame-ancestors" not in page and page.count("<meta") == build.page().count("<meta") + 1
    assert (tmp_path / "a" / "play" / "python.zip").read_bytes() == build.archive()
    build.export(tmp_path, pyodide="https://host.example:8443/pyodide/v1/")
    page = (tmp_path / "index.html").read_text("utf-8").replace("&#x27;", "'")
    assert "connect-src 'self' https://host.example:8443;" in page
    assert '<meta name="pyodide" content="https://host.example:8443/pyodide/v1/">' in page
    with pytest.raises(ValueError, match=r"^pyodide is 'javascript:x'; expected a URL"):
        build.export(tmp_path, pyodide="javascript:x")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file cannot be made: File exists"):
        build.export(tmp_path / "file")


def test_main_writes_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "__file__", str(tmp_path / "build.py"))
    (tmp_path / "assets").mkdir()
    build.main()
    assert (tmp_path / "assets" / "index.html").read_text("utf-8") == build.page()
    assert "index.html" in capsys.readouterr().out


@pytest.mark.parametrize("loss", RATES)
def test_each_loss_trains_at_its_learning_rate(loss):
    n = evaluate({**DEFAULTS["run"], "loss": loss, "lr": RATES[loss]})
    assert n["accuracy"][-1] == 1.0 and np.abs(n["log_ratio"]).max() < 100


def test_ipo_needs_one_of_its_own():
    with pytest.raises(ValueError, match="expected a smaller lr"):
        evaluate({**DEFAULTS["run"], "loss": "ipo"})


def test_a_weight_that_is_not_the_losss_own_is_called_dpos():
    table = {loss: view.show({**DEFAULTS["pair"], "loss": loss})["parts"]["pair-table"] for loss in ("dpo", "ipo")}
    assert "DPO's weight" in table["ipo"] and "<dt>weight" in table["dpo"]
