"""docs/peers.md from what the two scripts of this folder wrote.

    python tests/peers/report.py --out docs/peers.md *.json

Results of `trl_losses.py` and of `trl_trainer.py`, in any number and order; the newest TRL comes first.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

INTRO = """# Real peers

TRL itself, in 1.16 and in 0.28, the last before its DPO trainer was rewritten, on the same numbers as
ours: the library's own trainers are called, and none of their code is repeated. `make peers` does it again, makes this
page of it, and fails where what is said below is no longer so, a disagreement that has vanished included.
"""

LOSSES = """## Losses

Value and gradient of every preference loss, on random inputs and at the edges: policy equal to the reference, ties, one
pair of one token each, 150 tokens, log-ratios of hundreds (of thousands too, where nothing else is said), the kinks
exactly; in float64 and in float32. Theirs by autograd; ours in float64, on the very numbers that they got. The gradient
is that in the log-probs of tokens or of sequences, in the logits, or in the rewards.

An error of 1 is what rounding each input once may do: eps (1 + |L| + Σ |∂L/∂x| |x|) for the value, x being the
log-probs, and eps max|∂L| (1 + max Σ |x|) for the gradient. Up to {tolerance:g} is agreement.
"""

TRAINING = """## Training

One toy, a bigram of {vocab} tokens, trained twice: by TRL's trainer, which gets it as a `PreTrainedModel` with a
tokenizer and {pairs} pairs as text, and by `dn.train`: {steps} steps of plain SGD, the same batches of {batch} in the
same order. How far apart the parameters ever are, max|ΔW| / (eps max|W|), and how far for each step made: up to
{per_step:g} is the same path. The last column is the same with our β 1% larger. Where the reference follows, it is
moved 0.6 of the way to the policy every 5 steps (TR-DPO). KTO's reference point comes from their mismatched pairs and
is above 0 in most steps. The fused head of 1.16 computes in float32 whatever the model is.
"""

REST = """## Not compared

Their online trainers (which sample what they train on), Liger's kernels, encoder-decoders, images, several devices,
and bfloat16. BCO's density-ratio weights need a classifier of prompts. An f-divergence with a loss that averages over
tokens has no name here.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    results = []
    for path in args.results:
        with open(path) as file:
            results.append(json.load(file))
    results.sort(key=lambda r: [int(part) for part in r["trl"].split(".") if part.isdigit()], reverse=True)
    losses = [r for r in results if "tolerance" in r]
    trained = [r for r in results if "steps" in r]
    text = [INTRO, LOSSES.format(**losses[0]), *map(losses_of, losses)]
    if trained:
        text += [TRAINING.format(**trained[0]), table(
            ["TRL", "trainer", "model", "eps of", "W moved", "worst", "per step", "β 1% off"],
            [[r["trl"], line["trainer"], line["dtype"], line["eps"], f"{line['moved']:.2g}", number(max(line["off"])),
              number(line["a_step"]), number(max(line["control"]))] for r in trained for line in r["rows"]])]
    with open(args.out, "w") as file:
        file.write("\n".join([*text, REST]))


def losses_of(r: dict[str, Any]) -> str:
    lines = r["rows"]
    agree, differ = ([x for x in lines if (x["verdict"] == "agrees") is same] for same in (True, False))
    head = (f"### TRL {r['trl']}\n\ntransformers {r['transformers']}, PyTorch {r['torch']}, NumPy {r['numpy']}. "
            f"{len(agree)} agree, {len(differ)} differ.\n")
    columns = ["trainer, option", "ours", "value", "gradient", ""]
    agreed = table(columns, [[code(x["option"]), code(x["ours"]), number(x["value"]), number(x["gradient"]), x["note"]]
                             for x in agree])
    differed = table(["trainer, option", "ours", "differs by", "what they do", "so said, to"],
                     [[code(x["option"]), code(x["ours"]), x["verdict"].removeprefix("differs: ") or "not as on record",
                       x["note"], number(x["instead"])] for x in differ])
    return "\n".join([head, "What differs, and how far they are from what is said, where that is an expression:\n",
                      differed, "What agrees:\n", agreed])


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def code(text: str) -> str:
    option, bracket, where = text.partition(" [")
    return f"`{option}`" + (f" ({where[:-1]})" if bracket else "")


def number(x: float | None) -> str:
    if x is None:
        return ""
    return "∞" if math.isinf(x) else f"{x:.1g}" if x < 100 else f"{x:.0e}"


if __name__ == "__main__":
    main()
