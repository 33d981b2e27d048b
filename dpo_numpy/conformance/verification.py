"""`verify` and `identify`: is this function that loss, and if not, which is it and where does it break?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from .batches import BATCH
from .foreign import bind
from .frameworks import DTYPES, Converters, framework_of
from .judging import judge
from .profiles import translate
from .report import Report
from .rows import PAIR, UNPAIRED
from .seams import OK, Line, Problem, Question, Seam
from .sequences import SEQUENCE
from .tokens import TOKEN

__all__ = ["SEAMS", "verify"]

#: by name
SEAMS: dict[str, Seam] = {seam.name: seam for seam in (PAIR, SEQUENCE, BATCH, UNPAIRED, TOKEN)}


def verify(
    theirs: Callable[..., Any],
    loss: str = "dpo",
    *,
    seam: str = "pair",
    framework: str | Converters = "numpy",
    dtype: str | None = None,
    device: str = "cpu",
    gradient: str = "auto",
    layout: str = "halves",
    strict: bool = False,
    profile: str | None = None,
    **hyper: Any,
) -> Report:
    """Hold a function against one of our losses: where does it break, and why?

    theirs     called by the names of its parameters; what they may be called, `docs/verify.md` tells. What a
               `functools.partial` has been given stays as it is
    loss       a name of `dn.LOSSES` (of `dn.SURROGATES` and k1, k2, k3, group_advantage, rloo, gae at the seam "token";
               logp, mean_logp, token_logp at "sequence"), and its hyper-parameters by our names; passed on where theirs
               takes them
    seam       "pair": log-probs to losses; "sequence": logits to log-probs; "batch": logits to the mean loss;
               "unpaired": log-probs, labels and a KL baseline to losses; "token": per-token losses of policy gradients
    framework  "numpy", "torch", "jax", "dlpack:MODULE", or a pair of functions, to its arrays and back
    dtype      "float64" (in NumPy), "float32" (elsewhere), "float16", "bfloat16"
    gradient   "auto": its framework's autograd, or what a NumPy function returns after the losses; "returned": as in
               NumPy; "none": values alone are judged
    layout     of the seam "batch": "halves", chosen rows first, or "interleaved"
    strict     notes fail too
    profile    take `loss` as that library means it: `dpo-numpy profiles`

    The report prints as a table; `report.agrees`, `report.code` (0 agrees, 1 differs, 2 could not be judged),
    `report.mistakes`, `report.json()`.

    Errors count in units of unavoidable rounding: 1 is the distance by which the exact answer moves when every input
    moves by one ulp. A number fails beyond 16 units and 4 eps of the size that values or slopes have at the reference;
    beyond the first alone it is a note.

    Raises `ValueError` on a name, a setting or a parameter of theirs that is not known.

    >>> import numpy as np
    >>> def mine(pc, pr, rc, rr):
    ...     return np.log(1 + np.exp(-0.1 * ((pc - pr) - (rc - rr))))
    >>> report = verify(mine, "dpo", beta=0.1)
    >>> report.agrees, report.mistakes
    (False, ('exp-overflow',))
    """
    if profile is not None:
        loss, hyper = translate(profile, loss, hyper)
    question = ask(theirs, loss, seam, framework, dtype, device, gradient, layout, hyper)
    there, taken = SEAMS[seam], set(question.call.arrays.values())
    question, problem = suited(there, question)
    first, hint = [], ""
    if question.masks == "floats":
        first = [Line("masks of 0. and 1.", OK, 0.0, f"with booleans, {problem}")]
    elif problem and "advantages" in taken and not _refused(there, question._replace(advantages="tokens")):
        hint = "; given advantages (B, T), one a token, it runs: if it takes them so, say so in an adaptor"
    try:
        lines = judge(there, question)
    except Problem as error:
        return Report(question, seam, [], f"{error}{hint}", strict, error.mistake)
    lines = [line._replace(says=f"{line.says}{hint}") if line.test == "ordinary" else line for line in lines]
    return Report(question, seam, [*first, *lines], "", strict)


def suited(seam: Seam, question: Question) -> tuple[Question, Problem | None]:
    """With masks of 0. and 1. where it runs on those alone; and what it made of the question as it came"""
    problem = _refused(seam, question)
    if problem and {"mask", "attention_mask"} & set(question.call.arrays.values()):
        floats = question._replace(masks="floats")
        if not _refused(seam, floats):
            return floats, problem
    return question, problem


def _refused(seam: Seam, question: Question) -> Problem | None:
    """What it makes of the first, ordinary question, if that is no answer"""
    try:
        seam.ask(question, next(iter(seam.cases(question))))
    except Problem as problem:
        return problem
    return None


def ask(
    theirs: Callable[..., Any],
    loss: str,
    seam: str,
    framework: str | Converters,
    dtype: str | None,
    device: str,
    gradient: str,
    layout: str,
    hyper: Mapping[str, Any],
) -> Question:
    """The question, or `ValueError`: a name that is not known, a hyper-parameter out of its domain."""
    one_of("seam", seam, SEAMS)
    one_of("gradient", gradient, ("auto", "returned", "none"))
    one_of("layout", layout, ("halves", "interleaved"))
    there = SEAMS[seam]
    losses = there.losses()
    if loss not in losses:
        raise ValueError(f"loss is {loss!r}; of the seam {seam!r} there are {', '.join(losses)}")
    make = losses[loss]
    known = {name: p.default for name, p in inspect.signature(make).parameters.items()}
    for name in hyper:
        if name not in known:
            raise ValueError(f"{loss} has no hyper-parameter {name!r}; it has {', '.join(known) or 'none'}")
    settings = {**known, **hyper}
    make(**settings)
    their = framework_of(framework, device)
    dtype = dtype or ("float32" if their.gradient else "float64")
    one_of("dtype", dtype, their.dtypes)
    call = bind(theirs, lambda name: there.role(name, loss, settings), there.orders(loss, settings), settings)
    return Question(loss, settings, DTYPES[dtype], their, call, gradient, layout)


def one_of(name: str, value: Any, choices: Any) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected {', '.join(choices)}")
