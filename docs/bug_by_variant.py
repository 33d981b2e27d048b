"""Writes docs/bug_by_variant.md and docs/bug_by_variant.png: what each loss leaves of regret on each bug of the data.

    python docs/bug_by_variant.py

The numbers are those of `toy_models.experiments.bug_by_variant`, tuned, which takes minutes.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from dpo_numpy.figures import styled
from toy_models.experiments import bug_by_variant
from toy_models.experiments.bug_by_variant import Config, band

PAGE = Path(__file__).with_suffix(".md")
FIGURE = Path(__file__).with_suffix(".png")
CONFIG = Config(replicates=48, tuning=96, tuned=True, steps=40)

HEAD = """# Which loss for which bug

Choose the zero that matches your bug. Each cell is J(π\\*) - J(π) = β KL(π || π\\*) of the policy that a loss trains on
labels with a bug, J being of the reward that was meant, β = {beta:g}: the median of {replicates} random problems of
{responses} responses, and in small print an interval that holds that median with 95 %. **0** is below 5e-4. That of
the reference, before any training, is {reference:.2f}. Training is gradient flow to t = {time:,.0f}; where labels are
certain DPO and its like have no minimum, and that row says where so much time has brought them. Made by `python
docs/bug_by_variant.py` from `toy_models/experiments/bug_by_variant.py`, which says what each bug and each column is.

## What to take from it

- **Flipped labels, a known share of them:** rDPO, exactly. DPO at the smaller β (1 - 2ε) undoes most of it too, since
  flips of weak preferences are preferences of a smaller reward: tuned, {dpo_flips} is left of {dpo_flips_before}. Take
  that if the share is a guess.
- **A judge who likes length:** R-DPO, exactly, and it is the only one: the best of all others, tuned, is left with
  {length}. Dividing by length does something else.
- **Certain labels, one for each pair:** cDPO or, tuned, IPO: their optima are finite. DPO's margins have no end,
  rDPO's loss has no bottom; a larger β helps little.
- **Few pairs:** nothing is exact, and what is lost is noise. A larger β than J's takes off a part: tuned, DPO's
  {few_before} is {few}.
- **Responses in no pair:** no loss knows of them, {unseen} at best. Collect pairs.
- **Skewed pairs, two judges:** no bug for DPO, or hardly one. Its optimum does not know how often a pair is met, and
  the mean of two judges' labels is nearly a label of the mean of their rewards. KTO does know how often.
- **Log-probs of a wrong reference:** look for the mistake. A loss without a reference does not notice; CPO, whose
  reference is uniform, is then among those that lose the least, {wrong} tuned.
- **No bug:** DPO. What cures an illness costs where there is none: cDPO, rDPO and R-DPO, told of one, leave
  {cost_low} to {cost_high}.

Two warnings. A cure is exact only at the bug's own size, see below. And most of what a table of one common β shows is
not about bugs: IPO of τ is DPO of β = 4τ where preferences are weak, SimPO's β is per token, and once each is tuned
IPO, cDPO, DPO + NLL and DPOP, the last two with weak penalties, are within {near} of DPO on clean labels. What tuning
cannot give is what a loss cannot say: ORPO and SimPO do not know the reference, KTO drops what loses more often than it
wins, the hinge stops at a margin that is the same for all pairs.

"""

PARTS = {
    "published": """## As published

The registry's hyper-parameters, which are the papers', but for β and τ, which are J's β where log-ratios are sums.
DPOP's λ makes it hop over its kink to the end: rounding alone moves the numbers of its line by some hundredths.
""",
    "matched": """## Told the bug's size

ε = {eps:g} and R-DPO's α = {alpha:g}, the sizes of the bugs, on all rows; DPO + NLL and CPO of α = 0.3, DPOP and ORPO
of λ = 1; β = {per_token:g} where log-probs are per token, 3 of them on average, and no margin γ.
""",
    "tuned": """## Tuned

For each cell, of a grid, what has the least median regret on {tuning} other problems with the same bug. That takes the
true reward, which nobody has who tunes. Grids are in `toy_models/experiments/_variants.py`; they hold the bugs'
own sizes.
""",
}

CURVES = """## The size has to be right

Regret of rDPO and cDPO told that a share ε of the labels is flipped, where {flip:g} are, and of R-DPO told α of reward
a token, where it is {bias:g}; medians. rDPO forgives too small a share, and not too large a one: where labels are surer
than such flips allow, its loss has no minimum. cDPO is no estimate of what flips hide: it smooths once more. R-DPO pays
for π\\* of r + (bias - α) |y|, by the square of the difference.

"""


def number(x: float) -> str:
    return "**0**" if x < 5e-4 else f"{x:.3f}" if x < 0.01 else f"{x:.2f}"


def wrapped(text: str) -> str:
    """Paragraphs and items filled in, to 120 columns"""
    parts = []
    for part in text.strip("\n").split("\n\n"):
        items = [f"- {item}" if k or part.startswith("- ") else item
                 for k, item in enumerate(part.removeprefix("- ").split("\n- "))]
        parts.append("\n".join(textwrap.fill(" ".join(item.split()), 120, break_long_words=False,
                                             break_on_hyphens=False, subsequent_indent="  " * item.startswith("- "))
                               for item in items))
    return "\n\n".join(parts) + "\n\n"


def rows(head: list[str], lines: list[list[str]]) -> str:
    table = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in table) + "\n"


def matrix(result: dict[str, Any], k: int) -> str:
    regret = result["regret"][:, k]
    low, high, median = *band(regret), np.median(regret, axis=0)
    return rows(["loss", *result["bug"]], [
        [str(loss), *(number(median[bug, column]) + (
            "" if median[bug, column] < 5e-4 else f" <sub>{low[bug, column]:.2f}-{high[bug, column]:.2f}</sub>")
            for bug in range(len(result["bug"])))]
        for column, loss in enumerate(result["loss"])])


def page(result: dict[str, Any], config: Config = CONFIG) -> str:
    median = {protocol: np.median(result["regret"][:, k], axis=0) for k, protocol in enumerate(result["protocol"])}
    bug = {name: row for row, name in enumerate(result["bug"].tolist())}
    loss = {name: column for column, name in enumerate(result["loss"].tolist())}

    def of(protocol: str, row: str, *columns: str) -> list[float]:
        return [median[protocol][bug[row], loss[column]] for column in columns]

    others = [column for column in loss if column != "R-DPO"]
    cost = of("matched", "clean", "cDPO", "rDPO", "R-DPO")
    told = {"per_token": 3 * config.beta, "reference": float(result["regret_reference"])} | {
        name: number(x) for name, x in {
            "dpo_flips": of("tuned", "flips", "DPO")[0], "dpo_flips_before": of("matched", "flips", "DPO")[0],
            "length": min(of("tuned", "length", *others)), "few": of("tuned", "few pairs", "DPO")[0],
            "few_before": of("matched", "few pairs", "DPO")[0], "unseen": min(of("tuned", "unseen", *loss)),
            "wrong": of("tuned", "wrong π_ref", "CPO")[0], "cost_low": min(cost), "cost_high": max(cost),
            "near": max(of("tuned", "clean", "IPO", "cDPO", "DPO + NLL", "DPOP"))}.items()}
    text = [wrapped(HEAD.format(**{**vars(config), **told})), "![regret of losses on bugs](bug_by_variant.png)\n\n"]
    for k, protocol in enumerate(result["protocol"].tolist()):
        text += [wrapped(PARTS[protocol].format(**{**vars(config), **told})), matrix(result, k)]
    text += ["What was chosen:\n\n", rows(["loss", *result["bug"]], [
        [str(name), *result["chosen"][:, column]] for column, name in enumerate(result["loss"])])]
    curve = np.median(result["curve"], axis=0)
    text += [wrapped(CURVES.format(**vars(config))), rows(
        ["size assumed, over the bug's", *(f"{f:g}" for f in result["assumed"])],
        [[str(name), *map(number, line)] for name, line in zip(result["curves"], curve, strict=True)])]
    return "".join(text).rstrip("\n") + "\n"


@styled
def draw(result: dict[str, Any]) -> Any:
    import matplotlib.pyplot as plt

    figure, (matched, tuned) = plt.subplots(2, 1, figsize=(8.0, 9.0))
    untuned = {**result, "protocol": result["protocol"][:2], "regret": result["regret"][:, :2]}
    bug_by_variant.plot(untuned, matched)
    bug_by_variant.plot(result, tuned)
    return figure


if __name__ == "__main__":
    measured = bug_by_variant.run(CONFIG)
    PAGE.write_text(page(measured), encoding="utf-8")
    draw(measured).savefig(FIGURE, dpi=100, metadata={"Software": None})
