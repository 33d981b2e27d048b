"""Which option of which library is which loss: `conventions.json`, read; `CONVENTIONS.md`, written.

    python -m dpo_numpy.conformance.conventions        # writes CONVENTIONS.md

An entry of `conventions.json`, one a line:

    topic      what readers look under
    library    and `versions`, "" where the source is all that was read
    option     as the library spells it
    options    its settings by name, and the numbers that CONVENTIONS.md tries them at
    ours       terms {"loss", "coefficient" = 1, "hyper" = {}, "facts" = {}} that add up to theirs; null where none do.
               A hyper-parameter is a number, a word of ours, or the name of one of the `options`
    source     {"repository", "at": commit or release, "where": file and lines, or a thread}
    note       a sentence, or ""

`load` gives them, `loss_of` makes a loss of one at any setting of its options. `aspects` gives the entries of
`batches.json`: how a library makes a number of a batch, by `profile` (a name in `profiles.json`) and `aspect`, each
with `where` that is to be seen.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..losses import LOSSES, OF_TOKENS, Loss

__all__ = ["INPUTS", "Aspect", "Convention", "Term", "aspects", "facts_of", "load", "loss_of", "markdown", "value"]

Array = NDArray[Any]


class Term(NamedTuple):
    """A loss of `LOSSES`, with hyper-parameters and facts, times a coefficient."""

    loss: str
    coefficient: float = 1.0
    hyper: Mapping[str, Any] = {}
    facts: Mapping[str, Any] = {}


class Convention(NamedTuple):
    """What one option of one library means: `ours`, terms that add up to it; None where we have none.

    options     its keywords and their values
    versions    of the library, in words; empty: all that were read
    source      repository, commit and place
    """

    topic: str
    library: str
    versions: str
    option: str
    options: Mapping[str, float]
    ours: tuple[Term, ...] | None
    source: Mapping[str, str]
    note: str


class Aspect(NamedTuple):
    """One thing about how a library makes a number of a batch: which tokens count, what is summed, what divides"""

    profile: str
    aspect: str
    value: str
    where: str
    note: str

    def __str__(self) -> str:
        note = f". {self.note[:1].upper()}{self.note[1:]}" if self.note else ""
        return f"{self.aspect:24} {self.value}{note}\n{'':25}{self.where}"


def load(text: str | None = None) -> list[Convention]:
    """All conventions, from the package's file or from JSON text.

    Raises `ValueError`, naming the entry, where a loss or a keyword is not ours.

    >>> found = load()
    >>> [c.library for c in found if c.option == "gamma_beta_ratio"]
    ['SimPO code', 'open-instruct']
    """
    text = text or files(__package__).joinpath("conventions.json").read_text(encoding="utf-8")
    return [_entry(number, given) for number, given in enumerate(json.loads(text), 1)]


@cache
def aspects() -> list[Aspect]:
    """All of `batches.json`"""
    text = files(__package__).joinpath("batches.json").read_text(encoding="utf-8")
    return [Aspect(**entry) for entry in json.loads(text)]


def _entry(number: int, given: Mapping[str, Any]) -> Convention:
    here = f"entry {number}, {given.get('library')} {given.get('option')!r},"
    if set(given) != set(Convention._fields):
        raise ValueError(f"{here} has the fields {', '.join(given)}; expected {', '.join(Convention._fields)}")
    ours = given["ours"]
    for term in ours or ():
        if term["loss"] not in LOSSES:
            raise ValueError(f"{here} names the loss {term['loss']!r}; expected one of {', '.join(LOSSES)}")
        takes = inspect.signature(LOSSES[term["loss"]]).parameters
        for name in term.get("hyper", {}):
            if name not in takes:
                raise ValueError(f"{here} sets {name!r} of {term['loss']}; expected one of {', '.join(takes)}")
    return Convention(**{**given, "ours": ours and tuple(Term(**term) for term in ours)})


def loss_of(convention: Convention, **options: float) -> Loss:
    """Our loss at the library's settings; those not given stand at the numbers of the entry.

    Raises `ValueError` on an option that the entry has not, and where no sum of ours is theirs.

    >>> simpo = next(c for c in load() if c.option == "gamma_beta_ratio")
    >>> loss_of(simpo, beta=2.5, gamma_beta_ratio=0.3)
    simpo(beta=2.5, gamma=0.3, scale=ratio, eps=0)
    """
    unknown = [name for name in options if name not in convention.options]
    if unknown:
        raise ValueError(f"{convention.library} {convention.option} has no option {unknown[0]!r}; "
                         f"expected one of {', '.join(convention.options) or 'none'}")
    if convention.ours is None:
        raise ValueError(f"{convention.library} {convention.option} is no sum of losses here: {convention.note}")
    told = {**convention.options, **options}
    first, *more = (term.coefficient * _made(term, told) if term.coefficient != 1 else _made(term, told)
                    for term in convention.ours)
    return sum(more, start=first)


def _made(term: Term, told: Mapping[str, float]) -> Loss:
    return LOSSES[term.loss](**{name: told.get(value, value) if isinstance(value, str) else value
                                for name, value in term.hyper.items()})


def facts_of(convention: Convention) -> dict[str, Any]:
    """The facts that the entry fixes."""
    return {name: fact for term in convention.ours or () for name, fact in term.facts.items()}


#: the numbers on which CONVENTIONS.md sets options side by side: two pairs of unequal lengths, their prompts 5 tokens
INPUTS: dict[str, Any] = {
    "logp": np.array([[-12.0, -15.5], [-20.0, -9.0]]),
    "ref_logp": np.array([[-13.0, -15.0], [-18.5, -10.0]]),
    "length": np.array([[6, 9], [10, 4]]),
    "full_logp": np.array([[-22.0, -25.5], [-28.0, -17.0]]),
    "full_length": np.array([[10, 13], [14, 8]]),
    "kl": np.array([[0.25, 0.5], [0.125, 0.75]]),
    "w": np.array([[0.9, 1.4], [1.2, 0.5]]),
    "reward": np.array([[1.25, 0.25], [0.125, 0.5]]),
    "score": np.array([[1.25, 0.25], [0.625, 0.5]]),
}


def _inputs() -> dict[str, Any]:
    """`INPUTS`, and each response's log-prob spread evenly over its tokens"""
    mask = np.arange(11) <= INPUTS["length"][..., None]
    mask[..., 0] = False
    tokens = {name: mask * (INPUTS[of] / INPUTS["length"])[..., None]
              for name, of in (("token_logp", "logp"), ("ref_token_logp", "ref_logp"))}
    return {**INPUTS, **tokens, "mask": mask}


def value(convention: Convention) -> float:
    """The mean over the rows of `INPUTS`; of single responses, all four, the chosen desired."""
    loss, known = loss_of(convention), _inputs()
    if "label" in loss.needs:
        known = {name: x.reshape(-1, 1) for name, x in known.items() if name not in OF_TOKENS}
        known["label"] = np.array([True, False, True, False])
    facts = {name: fact for name, fact in {**known, **facts_of(convention)}.items() if name in loss.needs}
    return float(loss({name: known[name] for name in loss.reads}, **facts)[0].mean())


# ---- CONVENTIONS.md

OPENING = """# Conventions

The same name in different libraries, and in one library's versions, side by side on the same numbers. *ours* is what
theirs is in the names of `dpo_numpy.LOSSES`; *value*, its mean over two pairs (a row each, the chosen response first;
where single responses are judged, over all four):

{inputs}

*ours* also says what a loss is told beside these (`delta=0` ...). A dash: no sum of our losses is theirs, and the note
says why. `a; b 0.1` is the option `a` with the setting `b` at 0.1. Libraries are cited at the commit or release that
was read, with lines where they were noted. Made of [conventions.json](dpo_numpy/conformance/conventions.json) by
`python -m dpo_numpy.conformance.conventions`; corrections are welcome there.

"""
#: options of TRL that have another number since 0.29
CHANGED = (
    "loss_type=sigmoid label_smoothing", "alpha_divergence", "loss_type=bco_pair", "ld_alpha", "use_weighting",
)


def markdown() -> str:
    """The page."""
    found = load()
    topics = list(dict.fromkeys(c.topic for c in found))
    lines = [f"- [{topic}](#{_anchor(topic)})" for topic in topics]
    lines.append("- [one library, one name, other numbers](#one-library-one-name-other-numbers)")
    lines.append("- [from a batch to a number](#from-a-batch-to-a-number)")
    shown = "\n".join(f"    {name:11} {x.tolist()}" for name, x in INPUTS.items())
    text = OPENING.format(inputs=shown) + "\n".join(lines) + "\n"
    for topic in topics:
        text += f"\n## {topic}\n\n| library | option | ours | value | source |\n| --- | --- | --- | --- | --- |\n"
        text += "".join(_row(c) for c in found if c.topic == topic)
    text += ("\n## one library, one name, other numbers\n\nTRL 0.28 and 1.16, the same option at the same setting. "
             "Everything changed in one release, 0.29.\n\n| option | <= 0.28 | >= 0.29 |\n| --- | --- | --- |\n")
    for option in CHANGED:
        before, after = (next(c for c in found if c.library == "TRL" and c.option == option and c.versions == when)
                         for when in ("<= 0.28", ">= 0.29"))
        text += f"| `{option}` | {_brief(before)} | {_brief(after)} |\n"
    return text + _of_batches()


#: columns of the table of batches
SHOWN = {"layout": "layout", "prompt": "prompt", "EOS": "EOS", "log-probs of dpo": "dpo", "log-probs of ipo": "ipo",
         "log-probs of orpo": "orpo", "log-probs of simpo": "simpo", "log-probs of kto": "kto", "NLL": "NLL over",
         "log-softmax": "log-softmax in", "row without a response": "row without a response"}


def _of_batches() -> str:
    by = {(one.profile, one.aspect): one.value for one in aspects()}
    text = ("\n## from a batch to a number\n\nWhich tokens count, whether a loss takes sums or means of log-probs, and "
            "what divides the likelihood term, by default. All average over pairs (KTO over rows). A dash: no such "
            "loss there, or refused. `dpo-numpy profiles NAME` has the source of each cell, and exceptions.\n\n"
            f"| profile | {' | '.join(SHOWN.values())} |\n|{' --- |' * (1 + len(SHOWN))}\n")
    for profile in dict.fromkeys(one.profile for one in aspects()):
        text += f"| {profile} | {' | '.join(by.get((profile, aspect), '-') for aspect in SHOWN)} |\n"
    return text


def _anchor(topic: str) -> str:
    return topic.lower().replace(" ", "-")


def _expression(c: Convention) -> str:
    told = dict(c.options)

    def one(term: Term) -> str:
        hyper = {name: told.get(x, x) if isinstance(x, str) else x for name, x in term.hyper.items()}
        call = f"{term.loss}({', '.join(f'{name}={_number(x)}' for name, x in hyper.items())})"
        return call if term.coefficient == 1 else f"{_number(term.coefficient)} * {call}"

    if c.ours is None:
        return "-"
    facts = "".join(f", {name}={_number(fact)}" for name, fact in facts_of(c).items())
    return f"`{' + '.join(map(one, c.ours))}`{facts}"


def _number(x: Any) -> str:
    return repr(x) if isinstance(x, (str, bool)) else f"{x:g}"


def _brief(c: Convention) -> str:
    return (f"{_expression(c)}: {value(c):.6f}" if c.ours else "-") + (f" ({c.note[:-1]})" if c.note else "")


def _row(c: Convention) -> str:
    set_to = ", ".join(f"`{name}` {x:g}" for name, x in c.options.items())
    option = f"`{c.option}`" + (f"; {set_to}" if set_to else "") + (f". {c.note}" if c.note else "")
    source = c.source
    at = source["repository"] + ("@" + source["at"] if source["at"] else "")
    number = "" if c.ours is None else f"{value(c):.6f}"
    where = f"{at} {source['where']}".strip()
    library = f"{c.library} {c.versions}".strip()
    return f"| {library} | {option} | {_expression(c)} | {number} | {where} |\n"


def main() -> None:
    page = Path("CONVENTIONS.md")
    scratch = page.with_suffix(".tmp")
    scratch.write_text(markdown(), encoding="utf-8")
    os.replace(scratch, page)
    print(f"{page}: {len(load())} entries")


if __name__ == "__main__":
    main()
