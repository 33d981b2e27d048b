"""What the page shows of the numbers of `evaluate`: `show(params)` returns both, the parts by their id.

A part is the inside of the element of that id: for the page as built, and again whenever a reader moves something. So a
number is written in one place, whether a server, a browser's own Python or nobody at all is behind the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from .drawing import Line, chart, number, number_line, table
from .evaluation import evaluate

__all__ = ["show"]

Numbers = Mapping[str, Any]
SIDES = ("chosen", "rejected")
ROUNDING = 1e-12
KEY = {side: f'<span class="key {side}"></span>{side}' for side in SIDES}


def show(params: Mapping[str, Any]) -> dict[str, Any]:
    """{"numbers": evaluate(params), "parts": {id: markup}}

    >>> from dpo_numpy.playground.evaluation import DEFAULTS
    >>> print(show(DEFAULTS["pair"])["parts"]["pair-said"].partition(";")[0])
    Loss 0.5892
    """
    numbers = evaluate(params)
    return {"numbers": numbers, "parts": PARTS[params["panel"]](numbers)}


# ---- (a)

def settled(x: Any) -> Any:
    """The same without what rounding left where 0 is meant: each machine's own, and no number to read"""
    if isinstance(x, Mapping):
        return {name: settled(value) for name, value in x.items()}
    if isinstance(x, list):
        return [settled(value) for value in x]
    return 0.0 if isinstance(x, float) and abs(x) < ROUNDING else x


def _derivation(n: Numbers) -> dict[str, str]:
    n = settled(n)
    beta, names = n["beta"], [escape(name) for name in n["responses"]]
    pi, ref, r, ratio = n["optimum"]["pi"], n["ref"], n["reward"], n["implied"]["log_ratio"]
    called = {"reference": "the reference itself", "greedy": "reward alone", "optimum": "π*"}
    steps = [
        table(["policy", "E r", "KL from π<sub>ref</sub>", "J = E r − β KL"],
              [[called[k], *(number(v[key]) for key in ("reward", "kl", "value"))] for k, v in n["objective"].items()]),
        table(["response", "π<sub>ref</sub>", "r", "π<sub>ref</sub> e<sup>r/β</sup>", "divided by Z: π*"],
              [[name, number(ref[i]), number(r[i], 1, True), number(n["optimum"]["unnormalized"][i]), number(pi[i])]
               for i, name in enumerate(names)])
        + both("J(π*)", number(n["objective"]["optimum"]["value"], 6), "β log Z", number(n["beta_log_z"], 6)),
        table(["response", "β log π*/π<sub>ref</sub>", "+ β log Z", "sum", "r"],
              [[name, number(beta * ratio[i]), number(n["beta_log_z"]), number(n["implied"]["reward"][i]),
                number(r[i])] for i, name in enumerate(names)]),
        both("r<sub>w</sub> − r<sub>l</sub>", number(n["bradley_terry"]["difference"]), "margin, without Z",
             number(n["bradley_terry"]["margin"]))
        + both("σ(r<sub>w</sub> − r<sub>l</sub>)", number(n["bradley_terry"]["from_reward"], 6), "σ(margin)",
               number(n["bradley_terry"]["from_policy"], 6)),
        both("LOSSES[\"dpo\"]", number(n["loss"]["value"], 6), "minimal.dpo_loss", number(n["loss"]["minimal"], 6))
        + both("LOSSES[\"dpo\"]", number(n["loss"]["value"], 6), "−log_sigmoid(margin)",
               number(n["loss"]["log_sigmoid"], 6)),
        table(["logit of", "∇ log π<sub>w</sub>", "∇ log π<sub>l</sub>", "formula", "=", "backward pass"],
              [[name, *(number(n["gradient"][key][i], 4, True) for key in ("score_chosen", "score_rejected")),
                number(n["gradient"]["formula"][i], 5, True), "=", number(n["gradient"]["backward"][i], 5, True)]
               for i, name in enumerate(names)])
        + f'<p class="small">β = {beta:g}, σ(−margin) = {number(n["gradient"]["weight"])}.</p>',
        table(["at", "loss", "largest slope"],
              [["π*" if k == "optimum" else "the reference", number(v["value"], 6),
                number(v["largest_slope"], 6) if v["largest_slope"] else "0, up to rounding"]
               for k, v in n["minimum"].items()]),
    ]
    return {f"step-{i}": step for i, step in enumerate(steps, 1)} | {
        "derivation-said": f"With β = {beta:g}: π* is " + ", ".join(number(p, 3) for p in pi)
        + f"; J(π*) = β log Z = {number(n['beta_log_z'])}."}


def both(left: str, value: str, right: str, other: str) -> str:
    """Two sides of an equation, each over its number"""
    return (f'<p class="both"><span><b>{value}</b><small>{left}</small></span><i>=</i>'
            f"<span><b>{other}</b><small>{right}</small></span></p>")


# ---- (b)

def _pair(n: Numbers) -> dict[str, str]:
    grad, beta = n["grad"], n["beta"]
    parameter = "τ" if n["loss"] == "ipo" else "β"
    weighed = "weight σ(−margin)" if n["loss"] == "dpo" else "DPO's weight σ(−margin)"  # no other loss has it in front
    rows = [[KEY[side], number(n["log_ratio"][k], 2, True), number(n["reward"][k], 4, True), number(grad[k], 6, True),
             pushed(grad[k])] for k, side in enumerate(SIDES)]
    size, doubled, swapped = (sum(map(abs, g)) for g in (grad, n["doubled"]["grad"], n["swapped"]["grad"]))
    return {
        "pair-table": table(["", "log-ratio", "implicit reward", "∂L/∂ log π", "push"], rows)
        + '<dl class="facts">' + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in (
            ("loss", number(n["value"], 6)), ("margin", number(n["margin"], 4, True)),
            (weighed, number(n["weight"], 6)))) + "</dl>",
        "pair-figure": _figure(n),
        "pair-said": f"Loss {number(n['value'])}; margin {number(n['margin'], 3, True)}; descent pushes the chosen "
                     f"{pushed(grad[0])} with {number(abs(grad[0]))}, the rejected {pushed(grad[1])} with "
                     f"{number(abs(grad[1]))}.",
        "answer-harder": answer(compared(abs(grad[0]), abs(grad[1]), ("chosen", "rejected", "equally")),
                                {"chosen": "the chosen is pushed harder", "rejected": "the rejected is pushed harder",
                                 "equally": "equally hard"},
                                f"{number(abs(grad[0]), 6)} against {number(abs(grad[1]), 6)}"),
        "answer-beta": answer(compared(doubled, size, ("stronger", "weaker", "unchanged")),
                              {"stronger": "the push grows", "weaker": "the push shrinks",
                               "unchanged": "the push stays"},
                              f"Both slopes together: {number(size, 6)} at {parameter} = {beta:g}, "
                              f"{number(doubled, 6)} at {2 * beta:g}"),
        "answer-swapped": answer(compared(swapped, size, ("stronger", "weaker", "unchanged")),
                                 {"stronger": "the other label pushes harder", "weaker": "the other label pushes less",
                                  "unchanged": "both labels push alike"},
                                 f"Both slopes together: {number(size, 6)} as it is, {number(swapped, 6)} swapped"),
    }


def pushed(grad: float) -> str:
    return "nowhere" if grad == 0 else "▲ up" if grad < 0 else "▼ down"


def compared(a: float, b: float, words: tuple[str, str, str]) -> str:
    """The first word where a is larger, the second where b is, the third where they differ by rounding only"""
    return words[2] if abs(a - b) <= 1e-9 * max(a, b) else words[0] if a > b else words[1]


def answer(truth: str, words: Mapping[str, str], why: str) -> str:
    return f'<span data-truth="{truth}"><b>It is so: {words[truth]}.</b> {why}.</span>'


def _figure(n: Numbers) -> str:
    grad, (chosen, rejected) = n["grad"], n["logp"]
    full = max(n["beta"], *map(abs, grad))
    return number_line(
        f"The two log-probs on a line: chosen {chosen:g}, pushed {pushed(grad[0])}; rejected {rejected:g}, pushed "
        f"{pushed(grad[1])}", -12,
        [(side, n["logp"][k], n["ref_logp"][k], -grad[k]) for k, side in enumerate(SIDES)], full)


# ---- (c)

def _curves(n: Numbers) -> dict[str, str]:
    at, h = n["at"], n["h"]
    axis = "h = log-ratio of chosen − of rejected (nats)"
    return {
        "curve-loss": chart(f"Loss {n['name']} against h", h, [Line("loss", n["value"])], axis, at["h"],
                            [("loss", at["value"])]),
        "curve-push": chart(f"Push on chosen and rejected by {n['name']} against h", h,
                            [Line("chosen", [-g for g in n["grad_chosen"]]),
                             Line("rejected", [-g for g in n["grad_rejected"]])], axis, at["h"],
                            [("chosen", -at["grad"][0]), ("rejected", -at["grad"][1])]),
        "curve-weight": chart("Weight sigma of minus margin against h", h, [Line("weight", n["weight"])], axis, at["h"],
                              [("weight", at["weight"])]),
        "curves-said": f"{escape(n['name'])} at h = {number(at['h'], 2, True)} nats: loss {number(at['value'])}, push "
                       f"{number(-at['grad'][0], 4, True)} on the chosen and {number(-at['grad'][1], 4, True)} on the "
                       f"rejected, weight σ(−βh) {number(at['weight'])}.",
    }


# ---- (d)

def _run(n: Numbers) -> dict[str, str]:
    steps, x = n["steps"], [float(k) for k in range(n["steps"] + 1)]
    parts = {}
    for b, row in enumerate(n["pairs"]):
        moved = [[at[b][k] for at in n["log_ratio"]] for k in (0, 1)]
        parts[f"run-chart-{b}"] = chart(
            f"Log-ratios while training on: {row['prompt']}", x,
            [Line(side, moved[k]) for k, side in enumerate(SIDES)], "step", x[-1],
            [(side, moved[k][-1]) for k, side in enumerate(SIDES)], name=str(b))
        for k, side in enumerate(SIDES):
            first, last = moved[k][1], moved[k][-1]
            turned = " It turned on the way." if first * last < 0 else ""
            parts[f"answer-run-{b}-{side}"] = answer(
                "rises" if last > 0 else "falls" if last < 0 else "stays",
                {"rises": "it rises", "falls": "it falls", "stays": "it stays"},
                f"{number(first, 3, True)} nats after the first step (first order: "
                f"{number(n['first_order'][b][k], 3, True)}), {number(last, 2, True)} after {steps}").replace(
                    "</span>", f"{turned}</span>")
    parts["run-table"] = table(
        ["pair", KEY["chosen"], KEY["rejected"], "margin"],
        [[escape(row["prompt"]), *(f'<span data-cell="{b}-{k}">{number(n["log_ratio"][-1][b][k], 2, True)}</span>'
                                   for k in (0, 1)),
          f'<span data-cell="{b}-margin">{number(n["margin"][-1][b], 3, True)}</span>']
         for b, row in enumerate(n["pairs"])])
    fallen = sum(n["log_ratio"][-1][b][0] < 0 for b in range(len(n["pairs"])))
    parts["run-said"] = (f"After {steps} steps of {escape(n['name'])} the loss went from {number(n['value'][0])} to "
                         f"{number(n['value'][-1])}, {number(100 * n['accuracy'][-1], 0)} % of the pairs are in order. "
                         f"Less probable than before: {fallen} of the {len(n['pairs'])} chosen answers.")
    return parts


PARTS = {"derivation": _derivation, "pair": _pair, "curves": _curves, "run": _run}
