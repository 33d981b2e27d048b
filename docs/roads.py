"""Writes docs/roads.md and docs/roads.png: how far from π* each road ends, what it samples, what it holds in memory.

    python docs/roads.py

The numbers are those of `toy_models.experiments.five_roads` and of `dn.memory`.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

import dpo_numpy as dn
from toy_models.experiments import five_roads

PAGE = Path(__file__).with_suffix(".md")
FIGURE = Path(__file__).with_suffix(".png")
BILLION = 1e9
FLOOR = 1e-9  # below it digits are rounding, and differ from one processor to the next

HEAD = """# One answer, many roads

A reward model and a policy gradient, PPO, RLOO, GRPO, rejection sampling, DPO: each is a way to the largest J = E r - β
KL(π || π_ref), and that is at one policy, π\\* = π_ref e^{r/β}/Z, with J\\* - J = β KL(π || π\\*). In two worlds
small enough to know every distance to π\\*, whose policies can be π\\*, each was trained from π_ref by the trainers of
this package. Made by `python docs/roads.py` from `toy_models/experiments/five_roads.py`, whose claims are asserted by
`tests/experiments/test_five_roads.py`.

What differs is not where the roads end. It is

- **the judge.** A road that is told the rewards themselves arrives exactly, and that it samples its responses leaves no
  error at all: at π\\*, r - β log π/π_ref is the same number for every response, so that every advantage is 0 whatever
  is drawn, and an expected label agrees with π\\* whichever pair is drawn. Its distance falls by a factor a step, at a
  constant step size. Labels that are drawn and rewards that are noisy leave an error of 1/n, whichever the road.
- **conditioning.** Policy gradient slows down as β falls, and so does DPO on pairs of its own; on fixed pairs DPO does
  not, and the natural gradient needs a single step of a table.
- **what is held in memory,** and by which settings a method of that name still maximizes J.

"""

TABLE = """## A table

Two prompts with four responses, β = {beta:g}, {copies} copies of each, of which numbers are the mean; exact roads
take all responses, with their probabilities. *samples*: responses drawn, of each prompt. *steps*: gradient steps
taken, and how many it took until KL(π || π\\*) < 1e-6. *below*: how far E r is below the frontier, the largest that
any policy has at the same KL(π || π_ref). KL(π_ref || π\\*) is {start:.2f}.

"""

TABLE_NOTES = """
The same n = {pairs} labelled pairs make the same policy, through a reward model or by DPO, and RLOO on that reward
model only adds samples: what labels say too little of is lost at the first step of either road. Theory says a KL of
{theory:.3f} for so many pairs (`analytic.finite_data.regret` over β); with a quarter of them it was {fewer:.2f}.

GRPO is of J if the deviation is left out, if lengths do not divide and if the KL is in the reward. As published,
advantages over the group's deviation and k3 in the loss, it ends elsewhere, at the same β: on the mean of copies
within {off:.3f} of where an enumeration of all groups of {group} says (`five_roads.published`), far from π\\* and
below the frontier.

![KL against steps](roads.png)

Straight lines: a factor a step. Dashed: what a judge's noise, or another objective, leaves.

"""

LANGUAGE = """## A language

A bigram over all strings of two letters; π\\*, KL and J are sums over all strings. Rewards are of tokens in
context, so that a bigram read as a reward can be right, and its policy is `ngram.optimum`. Responses are drawn
until they end, or cut at {cut} tokens, beyond which at most {goes_on:.0e} of them go on. DPO's pairs are of the
{strings} strings of at most five tokens, the end included. KL(π_ref || π\\*) is {start:.2f}.

"""

LANGUAGE_NOTES = """
Here one natural step does not do: advantages are those of the policy as it is, and each step of 1/β is one of soft
policy iteration. PPO has the noiseless end only if its values can be right. The reward comes at the end and is of
the whole response, so that a value is of all that was said; a value model that sees the last token leaves noise at
λ = 1, and with λ < 1 a bias, which no falling steps remove.

"""

CONDITIONING = """## Conditioning

A table of one prompt, r = ({reward}), π_ref = ({ref}). κ is the condition number of the Hessian at π\\*: β (diag
π\\* - π\\* π\\*ᵀ) for -J in logits; for DPO on all pairs alike, β² times a matrix that does not depend on β.
*factor*: of the error a step, at the best constant step size, (κ - 1)/(κ + 1), and as trained near π\\*. *steps*:
from π_ref to KL(π || π\\*) < 1e-6, as if that factor held all the way, and as trained.

"""

CONDITIONING_NOTES = """
The natural gradient takes one step at every β. DPO owes its κ to the pairs, not to being DPO: where both responses
of a pair are drawn from π\\*, as online at the end, its Hessian is Σ πᵢ πⱼ σ'(rᵢ - rⱼ) over the edges, that of
policy gradient but for the factors σ', and its κ is {online}.

"""

MEMORY = """## Memory

A star: trained. Weights in bfloat16 are 2 bytes a parameter; a trained model is 16 with its gradient, its master
copy and Adam's moments (Rajbhandari et al. 2020, arXiv:1910.02054, section 3.1). Activations, caches, other
optimizers, adapters and sharding are not counted. One size for all models unless the line says otherwise; of
phases, the largest. `dn.memory`.

"""

MEMORY_NOTES = """
Tutorials compare PPO's {ppo_weights:g} GB with DPO's {dpo_weights:g} GB. Those are weights alone, in which nothing
is trained: with gradients and optimizer it is {ppo:g} GB against {dpo:g}, and {stored:g} once the reference's
log-probs are stored. The ratio of two survives because PPO's value model is trained as well. GRPO with a rule in
place of a reward model holds what DPO holds. A reward model has to be trained too, before: {rm:g} GB, at another
time.
"""

HELD: tuple[tuple[str, str, dict[str, float]], ...] = (
    ("PPO", "ppo", {}), ("PPO, value model of 1e9", "ppo", {"value_model": BILLION}),
    ("RLOO, GRPO", "grpo", {}), ("GRPO, a rule judges", "grpo", {"reward_model": 0}),
    ("GRPO, a rule judges, no penalty", "grpo", {"reward_model": 0, "reference": 0}),
    ("online DPO", "online_dpo", {}), ("DPO", "dpo", {}), ("DPO, reference log-probs stored", "dpo", {"reference": 0}),
    ("iterative DPO, RSO", "rso", {}), ("best of n, distilled", "best_of_n", {}), ("reward model", "rm", {}),
    ("SFT", "sft", {}),
)


def small(x: Any) -> str:
    return f"< {FLOOR:.0e}".replace("e-0", "e-") if abs(x) < FLOOR else f"{x:.2g}"


def escaped(text: str) -> str:
    return text.replace("*", r"\*").replace("|", r"\|")


def wrapped(text: str) -> str:
    """Paragraphs filled in, to 120 columns"""
    return "\n\n".join(textwrap.fill(part, 120, break_long_words=False, break_on_hyphens=False)
                       for part in text.strip("\n").split("\n\n")) + "\n\n"


def table(columns: dict[str, list[str]]) -> str:
    """A column of text, and columns of numbers"""
    lines = [list(columns), ["---", *["---:"] * (len(columns) - 1)], *zip(*columns.values(), strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def roads(result: dict[str, Any], part: str, frontier: bool) -> str:
    found = {name.removeprefix(f"{part}."): x for name, x in result.items() if name.startswith(f"{part}.")}
    below = {"below": [small(x) for x in found["below"]]} if frontier else {}
    return table({
        "road": [escaped(str(name)) for name in found["road"]],
        r"KL(π \|\| π\*)": [small(x) for x in found["kl"]],
        r"max \|π - π\*\|": [small(x) for x in found["apart"]],
        r"J\* - J": [small(x) for x in found["regret"]],
        "E r": [f"{x:.3f}" for x in found["reward"]], **below,
        "samples": [f"{n:,}" if n else "" for n in found["samples"]],
        "steps": [f"{n}" for n in found["steps"]],
        "to 1e-6": [f"{n}" if n >= 0 else "" for n in found["within"]],
        "models": [escaped(str(name)) for name in found["models"]],
        "bytes": [f"{w:g}, {s:g}" for w, s in zip(found["weights"], found["state"], strict=True)],
    })


def conditions(result: dict[str, Any]) -> str:
    found = {name.removeprefix("conditioning."): x for name, x in result.items()}
    columns = {"β": [f"{beta:g}" for beta in found["beta"]]}
    for k, road in enumerate(("policy gradient", "DPO")):
        columns[f"{road}: κ"] = [f"{x:.2f}" for x in found["condition"][:, k]]
        columns[f"{road}: factor, trained" if k else "factor, trained"] = [
            f"{a:.3f}, {b:.3f}" for a, b in zip(found["factor"][:, k], found["measured"][:, k], strict=True)]
        columns[f"{road}: steps, trained" if k else "steps, trained"] = [
            f"{a:.0f}, {b:.0f}" for a, b in zip(np.ceil(found["steps"][:, k]), found["counted"][:, k], strict=True)]
    return table(columns)


def memories() -> str:
    held = [dn.memory(method, 7 * BILLION, **sizes) for _, method, sizes in HELD]
    largest = [max(one.phases, key=lambda phase: phase.state) for one in held]
    return table({
        "method": [name for name, _, _ in HELD],
        "held": [escaped(" + ".join(m.role + "*" * m.trained for m in phase.models)) for phase in largest],
        "bytes a parameter: weights": [f"{one.weights / 7e9:.3g}" for one in held],
        "in training": [f"{one.state / 7e9:.3g}" for one in held],
        "GB of 7e9: weights": [f"{one.weights / 1e9:g}" for one in held],
        "GB in training": [f"{one.state / 1e9:g}" for one in held],
    })


def page(result: dict[str, Any], config: five_roads.Config | None = None) -> str:
    config = config or five_roads.Config()
    claims = five_roads.claims(result)
    gb = {name: dn.memory(method, 7 * BILLION, **sizes).state / 1e9 for name, method, sizes in (
        ("ppo", "ppo", {}), ("dpo", "dpo", {}), ("stored", "dpo", {"reference": 0}), ("rm", "rm", {}))}
    weights = {f"{method}_weights": dn.memory(method, 7 * BILLION).weights / 1e9 for method in ("ppo", "dpo")}
    online = [f"{kappa:.3g} at β = {beta:g}" for beta, kappa in zip(
        result["conditioning.beta"], result["conditioning.online"], strict=True)]
    return "".join([
        HEAD,
        wrapped(TABLE.format(beta=config.beta, copies=config.copies, start=result["table.path"][0, 0])),
        roads(result, "table", frontier=True), "\n",
        wrapped(TABLE_NOTES.format(
            pairs=config.pairs, group=config.group, theory=float(result["table.theory"]),
            fewer=float(result["table.fewer"]),
            off=claims["table: GRPO as published ends where enumeration says: max |difference|"][1])),
        wrapped(LANGUAGE.format(cut=config.cut, strings=2**five_roads.LONGEST - 1,
                                goes_on=result["language.goes_on"].max(),
                                start=result["language.path"][0, 0])),
        roads(result, "language", frontier=False), "\n",
        wrapped(LANGUAGE_NOTES),
        wrapped(CONDITIONING.format(reward=", ".join(f"{x:g}" for x in five_roads.MILD),
                                    ref=", ".join(f"{x:g}" for x in five_roads.SLANTED))),
        conditions(result), "\n",
        wrapped(CONDITIONING_NOTES.format(online=", ".join(online[:-1]) + f" and {online[-1]}")),
        wrapped(MEMORY), memories(), "\n", wrapped(MEMORY_NOTES.format(**gb, **weights)).rstrip("\n"), "\n",
    ])


if __name__ == "__main__":
    measured = five_roads.run()
    PAGE.write_text(page(measured), encoding="utf-8")
    five_roads.plot(measured).figure.savefig(FIGURE, dpi=110, metadata={"Software": None})
