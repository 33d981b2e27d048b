"""The page as it stands before anybody touches it, with every number and formula in place: `assets/index.html`.

    python -m dpo_numpy.playground.build      writes that file
    archive()                                 python.zip: this package's sources, for a browser that runs Python
    export(folder)                            the whole page, for a host that serves files and nothing else
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from html import escape
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO, Any, NamedTuple

from .drawing import MINUS, formula, number
from .evaluation import CHOICES, DEFAULTS, LIMITS, RATES, Number
from .view import show
from .world import PAIRS, RESPONSES, SFT_STEPS, WORDS

__all__ = ["archive", "export", "page"]

ASSETS = ("index.html", "style.css", "play.js")
EPOCH = (1980, 1, 1, 0, 0, 0)  # an archive of the same sources is the same, to the byte


class Step(NamedTuple):
    title: str
    formula: str
    text: str
    computed_by: Sequence[str]  # name and file


STEPS = (
    Step("What is wanted", "J(π) = E_{y∼π} r(y) - β KL(π ‖ π_{ref})",
         "Much reward, and not far from the reference: β is the price of a nat of KL. Reward alone takes the best "
         "answer always and pays for it; π* below earns less and is worth more. No policy has a larger J than π*.",
         ("exact_kl", "policy.py")),
    Step("Its best policy", "π^*(y) = \\frac{1}{Z} π_{ref}(y) e^{r(y)/β}\nZ = Σ_{y} π_{ref}(y) e^{r(y)/β}",
         "Each answer of the reference is made more or less frequent by its own reward. What π* is worth is β log Z: a "
         "sum over all answers, which for a language model nobody can form.",
         ("log_softmax, log_normalizer", "numerics.py")),
    Step("Read backwards", "r(y) = β log \\frac{π^*(y)}{π_{ref}(y)} + β log Z",
         "The same equation, solved for the reward. A policy says which reward it is best for, but for one number that "
         "is the same for every answer.",
         ("log_softmax, log_normalizer", "numerics.py")),
    Step("Compare two answers", "P(y_w ≻ y_l) = σ(r(y_w) - r(y_l))\n= σ(β log \\frac{π^*(y_w)}{π_{ref}(y_w)} - "
         "β log \\frac{π^*(y_l)}{π_{ref}(y_l)})",
         "Bradley and Terry: who wins depends on the difference of rewards. β log Z stands in both, and cancels. What "
         "is left is called the margin. Here the first answer is the chosen one, w, the last the rejected, l.",
         ("sigmoid", "numerics.py")),
    Step("One negative log-sigmoid", "L = -log σ([margin])",
         "Maximum likelihood of the choices that people made. No reward model is left: logistic regression on "
         "log-ratios. Two functions of this package, written apart from each other, and the formula:",
         ("dpo_loss", "minimal.py")),
    Step("Its gradient", "∇L = -β σ(-[margin]) (∇ log π(y_w) - ∇ log π(y_l))",
         "The chosen up, the rejected down, as hard as the implicit reward is sure of the wrong order. On the left of "
         "= the formula, on the right the backward pass through logits and softmax, for the logit of each answer.",
         ("value_and_grad, scores_matrix", "gradient.py")),
    Step("Where it ends", "∇L(π^*) = 0",
         "All pairs of the three answers, each labeled as the rewards would have it: at the reference there is a "
         "slope, at π* none but rounding. DPO and the objective of step 1 have the same best policy.",
         ("value_and_grad", "gradient.py")),
)
QUESTIONS = {
    "harder": ("Which of the two log-probs does descent push harder?",
               {"chosen": "the chosen", "rejected": "the rejected", "equally": "both alike"}),
    "beta": ("β is doubled, all else stays. The push on this pair",
             {"stronger": "grows", "weaker": "shrinks", "unchanged": "stays"}),
    "swapped": ("Somebody swaps the label: the rejected answer is now the chosen one. The push",
                {"stronger": "grows", "weaker": "shrinks", "unchanged": "stays"}),
}


@cache
def page() -> str:
    """index.html, whole"""
    shown = {panel: show(defaults) for panel, defaults in DEFAULTS.items()}
    parts = {name: part for each in shown.values() for name, part in each["parts"].items()}
    numbers = {key: shown["run"]["numbers"][key] for key in ("steps", "value", "log_ratio", "margin", "accuracy")}
    sections = "\n".join((derivation(parts), pair(parts), curves(parts), run(parts)))
    return PAGE.format(sections=sections, numbers=json.dumps(_short(numbers), separators=(",", ":")))


def _short(value: Any) -> Any:
    """Numbers to six decimals: a picture shows no more"""
    if isinstance(value, Mapping):
        return {name: _short(x) for name, x in value.items()}
    return [_short(x) for x in value] if isinstance(value, list) else round(value, 6)


def part(parts: Mapping[str, str], name: str, tag: str = "div", classes: str = "") -> str:
    of = f' class="{classes}"' if classes else ""
    return f'<{tag} id="{name}"{of}>{parts[name]}</{tag}>'


def said(parts: Mapping[str, str], panel: str) -> str:
    return f'<p id="{panel}-said" class="said" role="status" aria-live="polite">{parts[f"{panel}-said"]}</p>'


def slider(panel: str, name: str, label: str, value: float, step: float = 0.1, place: int | None = None,
           limit: Number | None = None, of: str = "") -> str:
    """A slider of a parameter; β moves by its logarithm. `place`: where it stands in a list. `of`: in another panel"""
    found = limit or LIMITS[panel][name]
    assert isinstance(found, Number)
    low, high, at, text = found.low, found.high, value, f"{value:.1f}" if step < 1 else f"{value:g}"
    ident = f"{of or panel}-{name}" + ("" if place is None else f"-{place}")
    extra = "" if place is None else f' data-place="{place}"'
    if name == "beta":
        low, high, step, text = math.log10(low), math.log10(high), 0.05, f"{value:g}"
        at = round(math.log10(value) / step) * step
        extra += ' data-scale="log10"'
    return (f'<div class="slider"><label for="{ident}">{label}</label><input type="range" id="{ident}" '
            f'data-panel="{panel}" data-name="{name}"{extra} min="{low:g}" max="{high:g}" step="{step:g}" '
            f'value="{at:g}" autocomplete="off"><output for="{ident}">{text.replace("-", MINUS)}</output></div>')


def choice(panel: str, name: str, label: str, words: Iterable[str], chosen: str,
           rates: Mapping[str, float] | None = None) -> str:
    """A list to choose from; with `rates`, what is chosen sets the panel's learning rate."""
    rate = {word: f' data-lr="{x:g}"' for word, x in (rates or {}).items()}
    options = "".join(f'<option{rate.get(word, "")}{" selected" if word == chosen else ""}>{word}</option>'
                      for word in words)
    return (f'<div class="slider"><label for="{panel}-{name}">{label}</label><select id="{panel}-{name}" '
            f'data-panel="{panel}" data-name="{name}" autocomplete="off">{options}</select></div>')


def question(panel: str, key: str, text: str, words: Mapping[str, str], answer: str) -> str:
    options = "".join(
        f'<label><input type="radio" name="{panel}-{key}" value="{value}" autocomplete="off"> {word}</label>'
        for value, word in words.items())
    return (f'<fieldset class="question" data-question="{panel}-{key}"><legend>{text}</legend>'
            f'<div class="options live">{options}</div><p class="verdict" role="status"></p>'
            f'<p class="answer" id="answer-{key}">{answer}</p></fieldset>')


def derivation(parts: Mapping[str, str]) -> str:
    d, ref = DEFAULTS["derivation"], DEFAULTS["derivation"]["ref"]
    sliders = slider("derivation", "beta", "β", d["beta"]) + "".join(
        slider("derivation", "reward", f"reward of “{escape(name)}”", d["reward"][i], place=i, limit=Number(-3, 3))
        for i, name in enumerate(RESPONSES))
    items = "".join(
        f'<li class="step"><h3>{i}. {step.title}</h3>'
        f'{"".join(map(formula, step.formula.splitlines()))}<p>{step.text}</p>'
        f'{part(parts, f"step-{i}")}<p class="by">computed by <code>{step.computed_by[0]}</code> in '
        f"<code>dpo_numpy/{step.computed_by[1]}</code></p></li>" for i, step in enumerate(STEPS, 1))
    tabs = "".join(f'<button type="button" data-step="{i}" aria-label="step {i}: {step.title}">{i}</button>'
                   for i, step in enumerate(STEPS, 1))
    return f"""<section id="derivation" aria-labelledby="h-derivation">
<h2 id="h-derivation"><span>a</span> From an objective to a loss, in seven lines</h2>
<p>One prompt, “{PAIRS[0][0]}”, and three answers that a reference gives with probabilities {ref[0]}, {ref[1]} and
{ref[2]}. Each line of the derivation stands beside its numbers, both sides of the equals sign computed apart.</p>
<div class="controls live">{sliders}</div>
<nav class="stepper live" aria-label="steps of the derivation (arrow keys work)">
<span class="tabs">{tabs}</span><button type="button" id="step-back">Back</button>
<button type="button" id="step-next">Next</button>
<button type="button" id="step-all" aria-pressed="true">All at once</button></nav>
<p id="step-said" class="small live" role="status" aria-live="polite"></p>
<ol class="steps">{items}</ol>
{said(parts, "derivation")}
</section>"""


def pair(parts: Mapping[str, str]) -> str:
    d = DEFAULTS["pair"]
    labels = {"chosen": "log π(chosen)", "rejected": "log π(rejected)", "ref_chosen": "log π<sub>ref</sub>(chosen)",
              "ref_rejected": "log π<sub>ref</sub>(rejected)"}
    sliders = (choice("pair", "loss", "loss", CHOICES, d["loss"]) + slider("pair", "beta", "β", d["beta"])
               + "".join(slider("pair", name, label, d[name]) for name, label in labels.items())
               + "".join(slider("pair", f"length_{side}", f"tokens of the {side}", d[f"length_{side}"], 1)
                         for side in ("chosen", "rejected")))
    questions = "".join(question("pair", key, text, words, parts[f"answer-{key}"])
                        for key, (text, words) in QUESTIONS.items())
    at = {name: number(d[name], 1) for name in labels}
    return f"""<section id="pair" aria-labelledby="h-pair">
<h2 id="h-pair"><span>b</span> One pair, and where it is pushed</h2>
<p>“My order is late.” The policy gives the chosen answer a log-prob of {at["chosen"]} nats and the rejected one
{at["rejected"]}; the reference says {at["ref_chosen"]} and {at["ref_rejected"]}. What does one step of gradient descent
do with them? A loss of another name asks other questions of the same four numbers; lengths count where the loss looks
at them.</p>
<form class="predict" data-predict="pair"><h3>First say what you expect</h3>
<p class="small live">Your answers stay here while you move the sliders below; what is so is computed anew.</p>
{questions}
<p class="buttons live"><button type="submit" data-reveal="pair">Show what is so</button>
<button type="button" data-skip="pair">Show without predicting</button>
<button type="button" data-clear="pair">Clear my answers</button></p>
<p class="small live" role="status" data-note="pair"></p></form>
<div class="columns"><div class="controls live">{sliders}</div>
<div class="answer">{part(parts, "pair-figure")}
<p class="small">The arrows show where descent pushes, and how hard: a quarter of the line is a slope of β, or the
largest of this loss. The chosen is a circle, the rejected a square, the gray bar the reference.</p></div></div>
<div class="answer">{part(parts, "pair-table")}
<p class="by">computed by <code>LOSSES</code> in <code>dpo_numpy/losses.py</code></p>
{said(parts, "pair")}</div>
</section>"""


def curves(parts: Mapping[str, str]) -> str:
    d = DEFAULTS["pair"]
    return f"""<section id="curves" aria-labelledby="h-curves">
<h2 id="h-curves"><span>c</span> The same pair on its curves</h2>
<p>Let the chosen answer gain what the rejected one loses: h grows. The dot is the pair of panel b. A larger β bends
DPO's curve more sharply at 0: on the wrong side it pushes harder, on the right side it soon lets go.</p>
<div class="controls live">{slider("pair", "beta", "β", d["beta"], of="curves")}
{slider("pair", "chosen", "log π(chosen)", d["chosen"], of="curves")}</div>
<div class="charts"><figure><figcaption>loss</figcaption>{part(parts, "curve-loss")}</figure>
<figure><figcaption>push, −∂L/∂ log π: <span class="key chosen"></span>chosen,
<span class="key rejected"></span>rejected</figcaption>{part(parts, "curve-push")}</figure>
<figure><figcaption>DPO's weight σ(−βh): how sure the implicit reward is of the wrong order</figcaption>
{part(parts, "curve-weight")}</figure></div>
<p class="by">computed by <code>LOSSES</code> in <code>dpo_numpy/losses.py</code>, <code>sigmoid</code> in
<code>dpo_numpy/numerics.py</code></p>
{said(parts, "curves")}
</section>"""


def run(parts: Mapping[str, str]) -> str:
    d, end = DEFAULTS["run"], show(DEFAULTS["run"])["numbers"]
    words = {"rises": "rises", "falls": "falls"}
    blocks = "".join(
        f'<article class="run-pair"><h3>“{escape(prompt)}”</h3><p><span class="key chosen"></span>chosen: '
        f'“{escape(good)}”<br><span class="key rejected"></span>rejected: “{escape(bad)}”</p>'
        + "".join(question("run", f"run-{b}-{side}", f"log π of the {side}", words, parts[f"answer-run-{b}-{side}"])
                  for side in ("chosen", "rejected"))
        + f'<div class="answer"><p class="small">log-ratio, nats above or below the reference</p>'
        f'{part(parts, f"run-chart-{b}")}</div></article>'
        for b, (prompt, good, bad) in enumerate(PAIRS))
    controls = (choice("run", "loss", "loss", CHOICES, d["loss"], RATES) + slider("run", "beta", "β", d["beta"])
                + slider("run", "lr", "learning rate", d["lr"], limit=Number(0.1, 5)))
    return f"""<section id="run" aria-labelledby="h-run">
<h2 id="h-run"><span>d</span> A training run, predicted and replayed</h2>
<p>A bigram over the {len(WORDS) - 1} words below has learned the chosen answers a little, by {SFT_STEPS} steps of
supervised fine-tuning: that is the reference. Then {d["steps"]} steps of gradient descent on the three pairs together.
Say for each answer whether its log-prob ends above or below where it began.</p>
<div class="controls live">{controls}</div>
<form class="predict" data-predict="run"><div class="run-pairs">{blocks}</div>
<p class="buttons live"><button type="submit" data-reveal="run">Run the training</button>
<button type="button" data-skip="run">Show without predicting</button>
<button type="button" data-clear="run">Clear my answers</button></p>
<p class="small live" role="status" data-note="run"></p></form>
<div class="answer"><div class="replay live"><button type="button" id="replay">Play</button>
<div class="slider"><label for="replay-step">step</label><input type="range" id="replay-step" min="0"
max="{d["steps"]}" step="1" value="{d["steps"]}" autocomplete="off"><output for="replay-step">{d["steps"]}</output>
</div></div>
<p class="small">Log-ratios, nats above or below the reference, at step <span data-cell="step">{d["steps"]}</span>:
loss <span data-cell="value">{end["value"][-1]:.4f}</span>, in order
<span data-cell="accuracy">{100 * end["accuracy"][-1]:.0f}</span> %</p>
{part(parts, "run-table")}
{said(parts, "run")}</div>
<p class="by">computed by <code>train</code> in <code>dpo_numpy/training.py</code>, <code>scores_matrix</code> in
<code>dpo_numpy/gradient.py</code></p>
</section>"""


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>DPO, to play with</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="style.css">
<script src="play.js" defer></script>
</head>
<body>
<a class="skip" href="#derivation">Skip to the first panel</a>
<header>
<h1>Direct preference optimization, to play with</h1>
<p class="lead">Where the loss comes from, what it does to one pair, and when even the chosen answers become less
probable. Every number here is computed by <code>dpo_numpy</code>: NumPy, each derivative by hand.</p>
<nav class="contents" aria-label="panels"><a href="#derivation">derivation</a> <a href="#pair">one pair</a>
<a href="#curves">curves</a> <a href="#run">training run</a></nav>
<noscript><p class="notice">Without JavaScript the page shows its default numbers, and all answers.</p></noscript>
</header>
<p id="notice" class="notice" role="status" hidden></p>
<main>
{sections}
</main>
<footer><p>Rafailov et al. 2023, arXiv:2305.18290. Log-probs in nats, summed over an answer's tokens; log is the natural
logarithm; σ(z) = 1/(1 + e<sup>−z</sup>).</p></footer>
<script type="application/json" id="run-numbers">{numbers}</script>
</body>
</html>
"""


# ---- for a browser that runs Python, and for hosting

@cache
def archive() -> bytes:
    """A zip of the package's Python sources, the same bytes for the same sources"""
    root = files("dpo_numpy")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in sorted(_sources(root, "dpo_numpy/")):
            made.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _sources(folder: Traversable, path: str) -> Iterable[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name not in ("__pycache__", "cli", "conformance"):
            yield from _sources(entry, f"{path}{entry.name}/")
        elif entry.name.endswith(".py"):
            yield path + entry.name, entry.read_bytes()


def export(folder: str | Path, pyodide: str | None = None) -> list[Path]:
    """Write index.html, style.css, play.js and python.zip into `folder`, which is made if need be; the files written

    The page then shows its numbers as they were built; with `?pyodide=FOLDER` in its address it runs this Python in the
    reader's browser, where the host itself serves a Pyodide with NumPy in that folder. Another host's must be named
    here, as `pyodide`, a URL: the policy in the page lets it ask nobody else.

    Raises `ValueError` where `pyodide` is no URL, or the folder cannot be written.
    """
    from ..cli.run_folder import write_whole
    from .server import policy

    allowed = policy(pyodide, wasm=True).partition("; frame-ancestors")[0]  # which only a header may say
    head = f'<meta http-equiv="Content-Security-Policy" content="{escape(allowed)}">\n'
    head += f'<meta name="pyodide" content="{escape(pyodide)}">\n' if pyodide else ""
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"folder {folder} cannot be made: {error.strerror}") from error
    contents = {name: files(__package__).joinpath("assets", name).read_bytes() for name in ASSETS}
    contents["index.html"] = page().replace('<meta name="viewport"', head + '<meta name="viewport"', 1).encode()
    contents["python.zip"] = archive()
    for name, content in contents.items():
        write_whole(target / name, partial(_put, content))
    return [target / name for name in contents]


def _put(content: bytes, file: IO[bytes]) -> int:
    return file.write(content)


def main() -> None:
    target = Path(__file__).parent / "assets" / "index.html"
    target.write_text(page(), encoding="utf-8", newline="\n")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
