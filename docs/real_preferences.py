"""Writes docs/real-preferences.md and docs/real-preferences.png: length, labels and votes in three public files.

    DPO_NUMPY_DATA=/where/they/are python docs/real_preferences.py

The numbers are those of `toy_models.experiments.human_votes` and `longer_wins`; of the texts themselves none is shown.
"""

from __future__ import annotations

import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from dpo_numpy.data import load
from dpo_numpy.figures import styled
from toy_models.experiments import human_votes, longer_wins
from toy_models.experiments._figure import COLORS, REFERENCE, axes
from toy_models.experiments._real import files, llmfao

PAGE = Path(__file__).with_name("real-preferences.md")
FIGURE = PAGE.with_suffix(".png")
TIED = human_votes.Config(ties="davidson", replicates=1, steps=2)
PARTS = 20  # of the trees, each left out once
SETTINGS = ((1, 10), (1, 30), (1, 100), (2, 10), (2, 30), (2, 100), (3, 10))  # order and steps, of bytes
FOLDINGS = 3
Z = human_votes.Z

HEAD = """# What three files of real preferences say of length

Made by `python docs/real_preferences.py` from `toy_models/experiments/longer_wins.py` and `human_votes.py`, whose
claims are asserted by tests of the same names. A ± is half of a 95% interval, and each table says what it is
clustered by: what hangs together counts as one voice. Lengths are in characters. No text of these files is shown.

| file | what | source | license |
| --- | --- | --- | --- |
| OASST | 100 conversation trees, replies ranked by people | LAION-AI/Open-Assistant | Apache-2.0 |
| LLMFAO | 59 models on 13 prompts, 8,931 votes of people and GPT-4's | dustalov/llmfao | CC-BY 4.0 |
| HH | harmless-base, test: pairs of replies | anthropics/hh-rlhf | MIT |

![Four pictures](real-preferences.png)

## How often the longer one wins

"""

WINS = """In OASST replies of one parent stand in several pairs, so that intervals are by tree; as if pairs were
independent they would be {narrow:.0%} narrower. In HH nearly every pair has a prompt of its own, and it makes no
difference. γ is the slope of the log-odds, a nat of log length.

"""

BINS = """The same by how many times longer it is, in five bins of equal numbers. In HH the longer one loses the more,
the longer it is.

"""

BYTES = """An n-gram of bytes, by default a bigram of {steps} steps, is trained by DPO (β = 0.1) and asked which
reply of a pair it prefers, by the sum of log π/π_ref or by its mean a byte. Held out are whole trees, or pairs at
random, whose replies it has then read in other pairs. *fresh*: how often it prefers the longer of replies it has
not read. Intervals are by tree, of HH by prompt; naive: as if pairs were independent.

"""

FRESH = """
A sum over bytes loses with every byte that was not expected, so that the shorter of fresh replies is preferred:
where the longer one wins it is wrong, and where the shorter one wins, in HH, right. The mean a byte has no such
lean. What a random split adds in OASST is reading, and HH has nothing to leak.

"""

VOTES = """## Votes: does length count

LLMFAO: {pairs:,} pairs of answers, {votes:,} votes of people, GPT-4's one a pair; {empty} pairs have an empty answer.
γ: log-odds for the left answer a nat of log((1 + |left|)/(1 + |right|)), with the strengths of the {models} models
fitted beside it or not. Decided votes are Bradley-Terry; Davidson has a parameter for ties. By vote is the model's own
interval, by pair counts votes on one pair as one voice, by voter those of one of {voters} people; by prompt there are
{prompts} voices, and Student's factor.

"""

VOTES_NOTES = """
By pair, people speak for length where strengths are known and empty answers count, and against it where they do not:
an empty answer loses, and is short. By prompt no γ of people is more than chance. GPT-4's is below 0 by vote and by
pair in every specification, by prompt where no answer is empty, and below that of people by {apart} (by pair;
strengths, none empty, decided).

Ties: people {tie} (by pair; {tie_prompt} by prompt), GPT-4 {tie4}. Being on the left adds {side} to the log-odds of
people (by voter; {side_prompt} by prompt) and {side4} to those of GPT-4 (by pair; {side4_prompt} by prompt); strengths,
none empty, decided.

## Votes: do voters agree

Two people who decide on one pair agree with probability {agreement}, a person and GPT-4 with {gpt4:.3f}, which is
less by {less} (by pair, all three). If every pair had one true order and every vote were flipped with probability ε,
1 - 2ε(1 - ε) = {agreed:.3f} would make ε = {eps}.

That is not a measurement of noise. Bradley-Terry has voters disagree without a flip, the more the closer two answers
are: strengths and length alone make {explained:.3f} of votes agree. One ε for all pairs is refuted: where an answer
is empty, voters agree more by {gap} (by pair). Among the other pairs it is not: four voters who decide fall 4 : 0,
3 : 1, 2 : 2 with shares

| | 4 : 0 | 3 : 1 | 2 : 2 |
| --- | ---: | ---: | ---: |
| votes | {split} |
| one ε for all pairs | {one} |
| Bradley-Terry of strengths and length | {strengths} |

and p(1 - p) has a variance of {spread} over pairs (by pair), as if there were one ε, or many of a like size. Whichever
it is, DPO's own σ(margin) allows for that disagreement once already.

Told that ε on top, robust DPO has no minimum. Of one vote a pair it would keep one up to an ε of {low:.3f} to
{high:.3f} (of {splits} splits), of all votes up to {limit:.3f}; told {told:.3f}, its log-odds grow on and on. A table
of the models, trained {steps} steps on half of the pairs, asked about the other half; least and largest of the splits,
which share pairs and so give no interval:

"""

GROWTH = """
## What labels do to the length of a toy language model

A bigram of kinds of characters (`longer_wins`), π_ref fitted to the replies of OASST: E|y| is {start:.0f} characters
before, a sum over all strings, and what DPO makes of it in {steps} steps of Adam is

"""

COINS = """
Coins are the mean of {coins} sets, of log E|y|. Their log growth is {noise} (Student's, of {coins} sets; nothing
is clustered). What coins add is no one's taste, and a part of what people's labels add at the least β.

"""

LOSSES = """Other losses on the labels of people at β = {beta:g} (R-DPO α = {alpha:g}; the β of LN-DPO and SimPO, of
means over tokens, is that times the mean length):

"""

TREES = """Log growth of E|y| with intervals by tree: of {parts} parts of the trees each is left out once, π_ref, labels
and trainings made anew (a jackknife, Student's factor of {free} degrees of freedom). How much of the growth is left
where lengths are balanced, and whether R-DPO and SimPO undo it, {trees} trees do not tell.

"""

ELSEWHERE = """
## Where this differs from what is said elsewhere of these files

**Bytes on OASST, 0.46 to 0.57 held out by tree, 0.59 to 0.68 split at random.** Here the default says {tree} and
{mixed}, by the sum; by the mean a byte {byte} held out. The rest is settings, and how folds are made, which the
intervals leave out. Least and largest of {foldings} ways to make folds:

"""

ELSEWHERE_VOTES = """
By the sum, bigrams and trigrams are below a coin here, and a memoryless model is near it; by the mean a byte nothing
is below. What is said elsewhere fits if both scores and several orders are in it; which they were, it does not say.

**Length in LLMFAO, γ of people -0.02, 0.06, -0.21, -0.08, ± 0.03.** These are decided votes, in this order:

| specification | said | γ, ± by pair | standard error by vote | by pair | by voter | by prompt |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""

ELSEWHERE_END = """
The figures agree. The ± 0.03 is one standard error of the last, by pair, and half of its 95% interval is twice that;
by prompt it is {prompt:.2f}. That the sign turns is known of these {prompts} prompts, and not of others.

**The longer one wins 0.67 to 0.72 of OASST.** Here {share}.
"""


# ---- numbers as they are printed

def interval(x: Any, half: Any) -> str:
    """x ± half, to two digits of the half; nothing where there is no number, x alone where there is no half"""
    if not np.isfinite(x):
        return ""
    if not np.isfinite(half):
        return f"{x:.3g}"
    digits = max(0, 1 - int(np.floor(np.log10(half))))
    return f"{x:.{digits}f} ± {half:.{digits}f}"


def three(x: Any) -> str:
    return f"{float(f'{x:.3g}'):,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def wrapped(text: str) -> str:
    """Paragraphs filled in, to 120 columns; tables and pictures as they are"""
    parts = text.strip("\n").split("\n\n")
    return "\n\n".join(part if part[0] in "|!#" else textwrap.fill(
        part, 120, break_long_words=False, break_on_hyphens=False) for part in parts) + "\n\n"


def table(columns: dict[str, list[str]]) -> str:
    """A column of text, and columns of numbers"""
    lines = [list(columns), ["---", *["---:"] * (len(columns) - 1)], *zip(*columns.values(), strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# ---- what the defaults do not measure

def slowly() -> dict[str, Any]:
    """Bytes of HH, bytes of OASST at other settings, and trainings without a part of the trees: half a minute"""
    rows = load(files("oasst_en_100_tree.jsonl.gz")[0]).rows
    group = np.unique([row.group for row in rows], return_inverse=True)[1]
    hh = longer_wins.run(longer_wins.Config(score_hh=True, replicates=1, betas=(1.0,), steps=longer_wins.RECORDS))
    scores = np.array([[[found[name] for name in ("score", "per_byte", "mixed")] for found in (
        longer_wins._scores(rows, group, longer_wins.Config(order=order, byte_steps=steps), np.random.default_rng(seed))
        for seed in range(FOLDINGS))] for order, steps in SETTINGS])
    without = [longer_wins._lengthened(tuple(row for row, k in zip(rows, group, strict=True) if k % PARTS != part),
                                       longer_wins.Config(replicates=1)) for part in range(PARTS)]
    return {"hh": hh, "scores": scores, "growth": jackknife(np.array([found["growth"] for found in without])),
            "losses": jackknife(np.array([np.log(found["loss_length"][:, -1] / found["start"]) for found in without]))}


def jackknife(without: NDArray[Any]) -> Any:
    """t √((G - 1)/G Σ (θ₋ᵍ - mean)²), half of a 95% interval: row g of `without` is θ without part g, of G"""
    G = len(without)
    return student.ppf(0.975, G - 1) * np.sqrt((G - 1) / G * ((without - without.mean(axis=0))**2).sum(axis=0))


# ---- tables

def wins(result: dict[str, Any]) -> str:
    found = [{name: result[f"{key}_{name}"] for name in ("pairs", "groups", "share", "error", "alone", "gamma",
                                                        "gamma_error")} for key in ("oasst", "hh")]
    return table({
        "file": ["OASST, by tree", "HH, by prompt"],
        "pairs": [f"{x['pairs']:,}" for x in found], "trees or prompts": [f"{x['groups']:,}" for x in found],
        "longer one wins": [interval(x["share"], Z * x["error"]) for x in found],
        "as if independent": [interval(x["share"], Z * x["alone"]) for x in found],
        "γ": [interval(x["gamma"], Z * x["gamma_error"]) for x in found],
    })


def bins(result: dict[str, Any]) -> str:
    columns: dict[str, list[str]] = {}
    for name, key, by in (("OASST", "oasst", "tree"), ("HH", "hh", "prompt")):
        times, share = result[f"{key}_times"], result[f"{key}_share_by_times"]
        columns[f"{name}: times longer"] = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(times)]
        for head, error in ((f"{name}: it wins, by {by}", "error"), (f"{name}: as if independent", "alone")):
            columns[head] = [interval(x, Z * e) for x, e in zip(share, result[f"{key}_{error}_by_times"], strict=True)]
    return table(columns)


def scored(result: dict[str, Any], key: str, name: str) -> list[str]:
    """A row of the table of bytes"""
    def shown(what: str) -> str:
        return interval(result[f"{key}_{what}"], Z * result[f"{key}_{what}_error"])

    score = result[f"{key}_score"]
    naive = interval(score, Z * np.sqrt(score * (1 - score) / result[f"{key}_pairs"]))
    return [name, shown("score"), naive, *map(shown, ("per_byte", "mixed", "leak", "fresh_longer"))]


def read(result: dict[str, Any], slow: dict[str, Any] | None) -> str:
    heads = ("file", "held out", "naive", "held out, mean a byte", "split at random", "more than held out", "fresh")
    rows = [scored(result, "oasst", "OASST"), *([scored(slow["hh"], "hh", "HH")] if slow else [])]
    return table({head: [row[k] for row in rows] for k, head in enumerate(heads)})


def voted(votes: dict[str, Any], tied: dict[str, Any]) -> str:
    rows: list[list[str]] = []
    few = student.ppf(0.975, votes["prompts"] - 1)
    for v, voter in enumerate(("people", "GPT-4")):
        for ties, found in (("decided", votes), ("Davidson", tied)):
            for a, answers in enumerate(("every answer", "none empty")):
                for s, strengths in enumerate(("no strengths", "strengths")):
                    half = [(few if by == "prompt" else Z) * error for by, error in zip(
                        found["cluster"].tolist(), found["error"][:, v, a, s], strict=True)]
                    gamma = found["effect"][v, a, s]
                    rows.append([f"{voter}, {ties}, {answers}, {strengths}",
                                 *(interval(gamma, x) if np.isfinite(x) else "" for x in half)])
    heads = ("γ of", *(f"by {name}" for name in votes["cluster"].tolist()))
    return table({head: [row[k] for row in rows] for k, head in enumerate(heads)})


def learned(votes: dict[str, Any]) -> str:
    loss, right = (votes[name][..., -1] for name in ("heldout_loss", "heldout_accuracy"))
    return table({
        "trained by, on": votes["method"].tolist(),
        **{head: [f"{x.mean():.3f} ({x.min():.3f} to {x.max():.3f})" for x in found.T] for head, found in (
            ("held-out nats a vote", loss), ("held-out accuracy", right))},
        "deviation of log-odds": [f"{x:.2f}" for x in votes["size"][:, -1]],
    })


def grown(result: dict[str, Any]) -> str:
    coins = result["start"] * np.exp(result["noise"])
    return table({"labels by": [*result["label"].tolist(), "coins"],
                  **{f"E\\|y\\| at β = {beta:g}": [three(x) for x in (*length, coin)] for beta, length, coin in zip(
                      result["beta"], result["length"][..., -1], coins, strict=True)}})


def compared(result: dict[str, Any]) -> str:
    return table({"loss": result["loss"].tolist(), "E\\|y\\|": [three(x) for x in result["loss_length"][:, -1]],
                  "KL(π \\|\\| π_ref), nats": [three(x) for x in result["loss_kl"][:, -1]]})


def by_tree(result: dict[str, Any], slow: dict[str, Any]) -> str:
    rows = [[f"{label}, β = {beta:g}", interval(result["growth"][b, k], slow["growth"][b, k])]
            for b, beta in enumerate(result["beta"]) for k, label in enumerate(result["label"].tolist())]
    growth = np.log(result["loss_length"][:, -1] / result["start"])
    rows += [[f"people, {name}", interval(growth[k], slow["losses"][k])]
             for k, name in enumerate(result["loss"].tolist()) if k]
    return table({"labels by": [row[0] for row in rows], "log growth": [row[1] for row in rows]})


def settings(slow: dict[str, Any]) -> str:
    heads = ("held out by tree, sum", "held out by tree, mean a byte", "split at random, sum")
    return table({"n-gram, steps": [f"n = {order}, {steps}" for order, steps in SETTINGS],
                  **{head: [f"{x[:, k].min():.2f} to {x[:, k].max():.2f}" for x in slow["scores"]]
                     for k, head in enumerate(heads)}})


def specified(votes: dict[str, Any]) -> str:
    lines = []
    for a, answers in enumerate(("every answer", "none empty")):
        for s, strengths in enumerate(("no strengths", "strengths")):
            gamma, error = votes["effect"][0, a, s], votes["error"][:, 0, a, s]
            lines.append(f"| {answers}, {strengths} | {human_votes.STATED[a, s]:.2f} | "
                         f"{interval(gamma, Z * error[1])} | {' | '.join(f'{x:.3f}' for x in error)} |\n")
    return "".join(lines)


# ---- the page

def of_votes(votes: dict[str, Any]) -> dict[str, str]:
    """What the paragraphs on LLMFAO say, by name"""
    human, gpt4, _ = llmfao("characters")
    few = student.ppf(0.975, votes["prompts"] - 1)
    tie, tie4 = (longer_wins._share(cast.outcome == 0, cast.pair) for cast in (human, gpt4))
    side, error = votes["side"], votes["side_error"]
    found = {
        "apart": interval(-votes["apart"], Z * votes["apart_error"]),
        "tie": interval(tie[0], Z * tie[1]), "tie4": interval(tie4[0], Z * tie4[1]),
        "tie_prompt": f"± {few * longer_wins._share(human.outcome == 0, human.prompt)[1]:.2g}",
        "side": interval(side[0], Z * error[2, 0]), "side_prompt": f"± {few * error[3, 0]:.2g}",
        "side4": interval(side[1], Z * error[1, 1]), "side4_prompt": f"± {few * error[3, 1]:.2g}",
        "gap": interval(votes["empty_gap"], Z * votes["empty_gap_error"]),
        "split": " | ".join(f"{x:.3f}" for x in votes["split"]),
        "one": " | ".join(f"{x:.3f}" for x in votes["split_one_eps"]),
        "strengths": " | ".join(f"{x:.3f}" for x in votes["split_strengths"]),
    }
    return found | {name: interval(votes[name], Z * votes[f"{name}_error"])
                    for name in ("agreement", "less", "eps", "spread")}


def page(votes: dict[str, Any], tied: dict[str, Any], longer: dict[str, Any], slow: dict[str, Any] | None) -> str:
    """Of `human_votes`, of it with ties in the model, of `longer_wins`; without `slow` its lines are left out"""
    config, coins = longer_wins.Config(), len(longer["coin_length"])
    few = student.ppf(0.975, votes["prompts"] - 1)
    noise = [f"{interval(x, student.ppf(0.975, coins - 1) * e)} at β = {beta:g}" for x, e, beta in zip(
        longer["noise"], longer["noise_error"], longer["beta"], strict=True)]
    said = {name: interval(longer[f"oasst_{name}"], Z * longer[f"oasst_{name}_error"])
            for name in ("score", "per_byte", "mixed")}
    parts = [
        HEAD, wrapped(WINS.format(narrow=float(1 - longer["oasst_alone"] / longer["oasst_error"]))), wins(longer), "\n",
        wrapped(BINS), bins(longer), "\n", wrapped(BYTES.format(steps=config.byte_steps)), read(longer, slow), "\n",
        wrapped(FRESH),
        wrapped(VOTES.format(**{name: int(votes[name]) for name in ("pairs", "votes", "empty", "models", "prompts")},
                             voters=len(np.unique(llmfao("characters")[0].voter)))),
        voted(votes, tied), "\n",
        wrapped(VOTES_NOTES.format(
            **of_votes(votes), gpt4=float(votes["gpt4_agreement"]), agreed=float(votes["agreement"]),
            explained=float(votes["explained"]), low=votes["limits"].min(), high=votes["limits"].max(),
            limit=float(votes["limit"]), told=float(votes["told_eps"]), splits=len(votes["limits"]),
            steps=votes["heldout_loss"].shape[-1])),
        learned(votes), "\n",
        wrapped(GROWTH.format(start=float(longer["start"]), steps=config.steps)), grown(longer), "\n",
        wrapped(COINS.format(coins=coins, noise=" and ".join(noise))),
        wrapped(LOSSES.format(beta=config.betas[0], alpha=config.alpha)), compared(longer), "\n",
        wrapped(TREES.format(parts=PARTS, free=PARTS - 1, trees=int(longer["oasst_groups"]))),
        by_tree(longer, slow) + "\n" if slow else "",
        wrapped(ELSEWHERE.format(tree=said["score"], mixed=said["mixed"], byte=said["per_byte"], foldings=FOLDINGS)),
        settings(slow) + "\n" if slow else "",
        wrapped(ELSEWHERE_VOTES).rstrip("\n"), "\n", specified(votes), "\n",
        wrapped(ELSEWHERE_END.format(
            prompt=few * votes["error"][3, 0, 1, 1], prompts=int(votes["prompts"]),
            share=interval(longer["oasst_share"], Z * longer["oasst_error"]))).rstrip("\n"), "\n",
    ]
    return "".join(parts)


def by_times(result: dict[str, Any], ax: Any = None) -> Any:
    """How often the longer one wins, by how many times longer it is; returns the axes"""
    ax = axes(ax)
    for name, key, color in (("OASST, by tree", "oasst", COLORS[0]), ("HH, by prompt", "hh", COLORS[1])):
        times = result[f"{key}_times"]
        middle = np.sqrt(times[:-1] * times[1:])
        middle[-1] = times[-2] * 1.5  # the last bin goes on to where few are
        ax.errorbar(middle, result[f"{key}_share_by_times"], yerr=Z * result[f"{key}_error_by_times"], fmt="o-",
                    color=color, label=name)
    ax.axhline(0.5, color=REFERENCE, lw=0.8, ls=":")
    ax.set(xscale="log", xlabel="times longer, the middle of a bin", ylabel="share that the longer one wins",
           ylim=(0, 1), title="The longer, the more it wins, or loses (95%)")
    ax.set_xticks([1, 2, 3, 5], labels=["1", "2", "3", "5"])
    ax.minorticks_off()
    ax.legend(frameon=False, loc="lower left")
    return ax


@styled
def figure(votes: dict[str, Any], longer: dict[str, Any]) -> Any:
    import matplotlib.pyplot as plt

    made, ((a, b), (c, d)) = plt.subplots(2, 2, figsize=(12, 8))
    by_times(longer, a)
    longer_wins.plot(longer, b)
    human_votes.plot(votes, c)
    human_votes._heldout(votes, d)
    return made


if __name__ == "__main__":
    human, lengths = human_votes.run(), longer_wins.run()
    PAGE.write_text(page(human, human_votes.run(TIED), lengths, slowly()), encoding="utf-8")
    figure(human, lengths).savefig(FIGURE, dpi=90, metadata={"Software": None})
