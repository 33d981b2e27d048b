"""From a question to the lines of a report: every case is asked, held against the exact answer, and explained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .exact import Answer
from .frameworks import DTYPES
from .seams import (
    FAIL,
    NOTE,
    OK,
    Case,
    Evidence,
    Got,
    Hypothesis,
    Line,
    Problem,
    Question,
    Seam,
    Verdicts,
    compare,
)

__all__ = ["explain", "failures", "fitting", "judge", "side_by_side", "verdicts", "wrong"]

Array = NDArray[Any]
SHRUNK = 2  # failing tests whose example is made simple; the rest most often fail for the same reason
ENOUGH = 0.98  # of the numbers
#: mistakes beside which wrong numbers need no explanation of their own
STRUCTURAL = ("not-deterministic", "batch-coupled", "mutates-inputs", "python-float", "nan-hidden", "wrong-shape")


def judge(seam: Seam, question: Question) -> list[Line]:
    """The lines of the report.

    Raises `Problem` where the function gives no answer to the first, ordinary question.
    """
    lines: list[Line] = []
    seen: dict[str, list[Evidence]] = {}
    first: Problem | None = None
    for case in seam.cases(question):
        try:
            got = seam.ask(question, case)
        except Problem as problem:
            first = first or problem
            if case.test not in {line.test for line in lines}:
                lines.append(Line(case.test, NOTE if case.lenient else FAIL, np.inf, str(problem), "", problem.mistake))
            continue
        seen.setdefault(case.test, []).append(Evidence(case, got, fitting(seam.truth(question, case), got, case)))
    if first and not seen:
        raise first
    if "ordinary" not in seen:
        lines = [line._replace(mistake=line.mistake or "broadcast") for line in lines]
        return lines + [_line(seam, question, test, evidence, False) for test, evidence in seen.items()]
    broken = {line.test for line in lines}
    for test, evidence in seen.items():
        if test not in broken:
            shrink = sum(line.verdict == FAIL for line in lines) < SHRUNK
            lines.append(_line(seam, question, test, evidence, shrink))
    lines += seam.structure(question, seen)
    if any(line.verdict == FAIL for line in lines):
        lines = _diagnosed(seam, question, lines, seen)
    return lines


def fitting(right: Answer, got: Got, case: Case) -> Answer:
    """With the room of the case; the mean over rows, where that is what came"""
    right = _scaled(right, case.room)
    if got.value.ndim or not right.value.ndim:
        return right
    B = len(right.value)
    return Answer(
        right.value.mean(),
        {name: g / B for name, g in right.grads.items()},
        right.unit.mean() + right.unit.max() / B,
        {name: u / B + u.max() / B for name, u in right.units.items()},
        np.max(right.size),
        {name: np.max(s) for name, s in right.sizes.items()},
    )


def verdicts(question: Question, got: Got, right: Answer) -> dict[str, Verdicts]:
    """By "value", and the name of each reading whose gradient it is"""
    found = {"value": compare(got.value, right.value, right.unit, right.size, question.dtype)}
    for name, grad in right.grads.items():
        if got.grads is not None and name in got.grads:
            found[name] = compare(got.grads[name], grad, right.units[name], right.sizes.get(name, 0.0), question.dtype)
    for name, grad in (got.grads or {}).items():
        if name not in right.grads:  # a gradient in what should carry none
            found[name] = compare(grad, 0 * grad, question.dtype.ulp(0 * grad), 0.0, question.dtype)
    return found


def side_by_side(got: Got, answer: Answer) -> Iterator[tuple[Array, Array, Array | float]]:
    """Theirs, ours, and the size of what is near: values, then each gradient that both have"""
    yield got.value, answer.value, answer.size
    for name, grad in answer.grads.items():
        if got.grads is not None and name in got.grads:
            yield got.grads[name], grad, abs(grad).max(initial=0)


def _line(seam: Seam, question: Question, test: str, evidence: list[Evidence], shrink: bool) -> Line:
    worst: tuple[Any, ...] = ()
    for at, (case, got, right) in enumerate(evidence):
        for name, found in verdicts(question, got, right).items():
            excused = case.lenient or (case.finite and np.isfinite(got.value).all())
            verdict = FAIL if found.fails.any() and not excused else NOTE if (found.fails | found.notes).any() else OK
            marked = found.fails if found.fails.any() else found.notes if found.notes.any() else found.units >= 0
            k = np.unravel_index(int(np.argmax(np.where(marked, found.units, -1))), found.units.shape)
            worst = max(
                worst, ((OK, NOTE, FAIL).index(verdict), float(found.units[k]), -at, name, k), key=lambda x: x[:2]
            )
    rank, units, at, name, k = worst
    if rank == 0:
        return Line(test, OK, units)
    case, got, right = evidence[-at]
    row = int(k[0]) if k and got.value.ndim else 0
    example, says = seam.describe(question, case, row), said(name, k, got, right)
    if rank == 2 and shrink and (simpler := seam.shrunk(question, case, row)) is not None:
        example, says = seam.describe(question, simpler, 0), failures(seam, question, simpler)
    return Line(test, (OK, NOTE, FAIL)[rank], units, says, example)


def failures(seam: Seam, question: Question, case: Case) -> str:
    """What is wrong in a case; "" if nothing is"""
    try:
        got = seam.ask(question, case)
    except Problem as problem:
        return str(problem)
    right = fitting(seam.truth(question, case), got, case)
    for name, found in verdicts(question, got, right).items():
        if found.fails.any():
            k = np.unravel_index(int(np.argmax(np.where(found.fails, found.units, -1))), found.units.shape)
            return said(name, k, got, right)
    return ""


def said(name: str, k: tuple[Any, ...], got: Got, right: Answer) -> str:
    """The numbers of the worst failure"""
    if name == "value":
        what, theirs, exact = "value", got.value[k], right.value[k]
    else:
        what, theirs = f"gradient in {_place(name, k[1:])}", (got.grads or {})[name][k]
        exact = right.grads[name][k] if name in right.grads else 0.0
    return f"{what} {float(theirs):.9g}, should be {float(exact):.9g}"


def _place(name: str, k: tuple[Any, ...]) -> str:
    if name in ("logp", "reward", "kl") and len(k) == 1:
        return f"the {('chosen', 'rejected')[int(k[0])]}'s {name}" if int(k[0]) < 2 else name
    return f"{name}{list(map(int, k)) if k else ''}"


# ---- why


def _diagnosed(seam: Seam, question: Question, lines: list[Line], seen: dict[str, list[Evidence]]) -> list[Line]:
    """The same lines; what one mistake explains is said once, where it is seen first."""
    evidence = [one for ones in seen.values() for one in ones]
    told = any(line.mistake in STRUCTURAL for line in lines)
    found = explain(seam, question, evidence, probing=not told) if wrong(question, evidence) else None
    if any(line.mistake == "not-deterministic" for line in lines) and found and found[0] != "reference-stale":
        found = None  # what changes from call to call may look like anything
    # what is wrong at ordinary numbers already has not its cause in rounding or overflow
    told = told or not _roughly_right(one for one in evidence if one.case.test == "ordinary")
    done, given = [], False
    for line in lines:
        if line.verdict == FAIL and not line.mistake:
            mistake = found or (None if told else seam.numeric(question, line, seen))
            if mistake:
                if not (found and given):
                    line = line._replace(says=f"{mistake[1]}: {line.says}", mistake=mistake[0])
                    given = bool(found)
                else:
                    line = line._replace(mistake=mistake[0])
        done.append(line)
    return done


def explain(
    seam: Seam, question: Question, evidence: list[Evidence], probing: bool = True
) -> tuple[str, str] | None:
    """The first hypothesis under which (nearly) all numbers of (nearly) all cases are right

    Where there is none: a factor, a constant, other coefficients, a hypothesis that is right but for digits that are
    lost besides; and, if `probing`, whatever changes nothing.
    """
    plain = [one for one in evidence if not (one.case.lenient or one.case.finite)]
    for one in plain:
        for name, grad in (one.got.grads or {}).items():
            if name not in one.right.grads and grad.any():
                return "detach-missing", f"a gradient flows into {name}, which should count as a constant"
    ordinary = [one for one in plain if one.case.test in ("ordinary", "other hyper-parameters")]
    for sample in (ordinary, plain):
        failing = wrong(question, sample)
        if not failing:
            continue
        for hypothesis in seam.hypotheses(question):
            if _explains(question, sample, hypothesis, failing):
                return hypothesis.mistake, hypothesis.says
        for hypothesis in seam.hypotheses(question):
            if hypothesis.mistake == "another-loss" and _explains(question, sample, hypothesis, failing, constant=True):
                return hypothesis.mistake, f"{hypothesis.says}, up to a constant"
        if sample is ordinary:
            first = [one for one in sample if one.case.test == "ordinary"]
            if not wrong(question, first):
                return None
            return (
                _fitted(question, first)
                or _combined(seam, question, first)
                or _roughly(seam, question, sample)
                or (seam.probe(question, first) if probing else None)
            )
    return None


def _combined(seam: Seam, question: Question, evidence: list[Evidence]) -> tuple[str, str] | None:
    """Are they sums of the loss's terms (and of one more) with other coefficients?"""
    if not all(np.isfinite(one.got.value).all() for one in evidence):
        return None
    for parts in seam.parts(question):
        blocks: dict[str, list[Array]] = {}
        for case, got, _ in evidence:
            with np.errstate(all="ignore"):
                ours = [fitting(answer(case), got, case) for answer in parts.answers]
            blocks.setdefault("value", []).append(
                np.stack([np.ravel(x) for x in (*(one.value for one in ours), got.value)], axis=-1)
            )
            for name, grad in (got.grads or {}).items():
                columns = [np.ravel(one.grads.get(name, 0 * grad)) for one in ours]
                blocks.setdefault(name, []).append(np.stack([*columns, np.ravel(grad)], axis=-1))
        system = np.concatenate(
            [np.concatenate(rows) / max(abs(np.concatenate(rows)[:, -1]).max(), 1e-300) for rows in blocks.values()]
        ).astype(float)
        if len(system) < len(parts.names) + 3 or not np.isfinite(system).all():
            continue
        c, _, rank, _ = np.linalg.lstsq(system[:, :-1], system[:, -1])
        if rank < len(c) or abs(system[:, :-1] @ c - system[:, -1]).max() > 1024 * question.dtype.eps:
            continue
        for name, is_, should in zip(parts.names, c, parts.coefficients, strict=True):
            if abs(is_ - should) <= 1e-3 * max(abs(should), 1e-3):
                continue
            if not should:
                return "another-loss", f"{name} is added, times {is_:.4g}"
            if abs(is_) < 1e-6:
                return "another-loss", f"{name} is missing"
            if abs(is_ + should) < 1e-6:
                return "sign-flipped", f"{name} has the wrong sign"
            return "factor", f"{name} counts {is_:.4g} times, should {should:.4g}"
    return None


def _roughly(seam: Seam, question: Question, evidence: list[Evidence]) -> tuple[str, str] | None:
    """A hypothesis that is right to the digits of float32, in float64: two mistakes"""
    if question.dtype.name != "float64":
        return None
    single = question._replace(dtype=DTYPES["float32"])
    scale = single.dtype.eps / question.dtype.eps
    loose = [one._replace(right=_scaled(one.right, scale)) for one in evidence]
    failing = wrong(single, loose)
    for hypothesis in seam.hypotheses(question) if failing else ():
        if _explains(single, loose, hypothesis, failing, scale=scale):
            return hypothesis.mistake, f"{hypothesis.says}; and it is computed in float32"
    return None


def _scaled(answer: Answer, by: float) -> Answer:
    return answer._replace(unit=by * answer.unit, units={name: by * u for name, u in answer.units.items()})


def _roughly_right(evidence: Iterable[Evidence]) -> bool:
    """To within the rounding of bfloat16"""
    return all(
        np.all(abs(theirs - exact) <= 0.05 * (abs(exact) + np.asarray(size)))
        for _, got, right in evidence
        for theirs, exact, size in side_by_side(got, right)
    )


def wrong(question: Question, evidence: Iterable[Evidence]) -> int:
    """How many numbers fail"""
    return sum(
        int(found.fails.sum()) for _, got, right in evidence for found in verdicts(question, got, right).values()
    )


def _explains(
    question: Question,
    evidence: list[Evidence],
    hypothesis: Hypothesis,
    failing: int,
    constant: bool = False,
    scale: float = 1.0,
) -> bool:
    """Are nearly all the numbers right under it, and nearly all that failed? Values up to a `constant` a setting"""
    bad = total = differs = bad_values = values = 0
    for case, got, right in evidence:
        try:
            instead = fitting(hypothesis.answer(case), got, case)
        except (KeyError, ValueError):
            return False
        if constant:
            if not got.grads and got.value.size < 6:
                return False
            shift = np.median(got.value - instead.value)
            instead = instead._replace(value=instead.value + shift, unit=instead.unit + question.dtype.ulp(shift))
        # a mistake's own rounding is not ours to count: some slack
        loose = _scaled(instead, 4 * scale)._replace(
            size=4 * np.asarray(right.size),
            sizes={n: 4 * np.asarray(s) for n, s in right.sizes.items()},
        )
        for name, found in verdicts(question, got, loose).items():
            bad += int(found.fails.sum())
            total += found.fails.size
            if name == "value":
                bad_values += int(found.fails.sum())
                values += found.fails.size
        if bad > failing / 10 or bad > (1 - ENOUGH) * max(total, 50) or bad_values > (1 - ENOUGH) * values:
            return False
        meant = verdicts(question, Got(instead.value, instead.grads, [], "", ""), right)
        differs += sum(int(found.fails.sum()) for found in meant.values())
    return differs > failing / 2


def _of_gradient(question: Question, evidence: list[Evidence], c: float | None) -> tuple[str, str]:
    """The values are right: what of their gradient?"""
    taken = bool(question.framework.gradient) and question.gradient == "auto"
    lost = [
        (name, k)
        for name, right in evidence[0].right.grads.items()
        for k in range(np.shape(right)[-1])
        if all((one.got.grads or {})[name][..., k].any() == 0 for one in evidence)
        and any(one.right.grads[name][..., k].any() for one in evidence)
    ]
    if lost:
        sides = " and ".join(_place(name, (k,)) for name, k in lost[:2])
        return (
            "detach-misplaced" if taken else "wrong-gradient",
            f"the values are right, but no gradient flows into {sides}",
        )
    if c is not None:
        return "wrong-gradient", "the gradient has the wrong sign" if abs(c + 1) < 1e-6 else (
            f"the gradient is {c:.6g} times what it should be"
        )
    return "detach-misplaced" if taken else "wrong-gradient", (
        "the values are right, their gradient is another's"
        + (": something is detached that should not be, or the reverse" if taken else "")
    )


def _fitted(question: Question, evidence: list[Evidence]) -> tuple[str, str] | None:
    """A factor or a constant, of the values or of the gradients alone"""

    def gathered(of: str) -> tuple[Array, Array]:
        theirs, ours = [], []
        for _, got, right in evidence:
            if of == "value":
                theirs.append(np.ravel(got.value))
                ours.append(np.ravel(right.value))
            elif got.grads is not None:
                for name, grad in right.grads.items():
                    if name in got.grads:
                        theirs.append(np.ravel(got.grads[name]))
                        ours.append(np.ravel(grad))
        return np.concatenate([*theirs, np.zeros(0)]), np.concatenate([*ours, np.zeros(0)])

    room = 256 * question.dtype.eps
    value, right = gathered("value")
    grad, slope = gathered("gradient")
    if not np.isfinite(value).all():
        return None
    values_right = bool(np.all(abs(value - right) <= room * (abs(right) + abs(right).max(initial=0))))

    def constant_ratio(x: Array, y: Array) -> float | None:
        big = abs(y) > 1e-3 * abs(y).max(initial=0)
        if not big.any() or not np.isfinite(x).all():
            return None
        c = float(np.median(x[big] / y[big]))
        return c if np.all(abs(x - c * y) <= 4 * room * abs(c) * abs(y).max()) else None

    if values_right:
        return None if not grad.size else _of_gradient(question, evidence, constant_ratio(grad, slope))
    c = constant_ratio(value, right)
    if c is not None and (not grad.size or constant_ratio(grad, slope) is not None):
        return (
            ("sign-flipped", "the loss has the wrong sign: it is maximized")
            if c < 0
            else ("factor", f"the loss is {c:.6g} times what it should be")
        )
    off = abs(value - right) > 64 * room * (abs(right) + 1)
    if 1 < off.sum() < off.size and np.ptp(value[off]) <= room * abs(value[off]).max() and np.ptp(right[off]) > 0.1:
        return "clip-side", f"values stop at {float(value[off][0]):.4g}: they are clamped"
    offset = value - right
    if np.ptp(offset) <= room * (abs(right).max(initial=0) + abs(offset).max(initial=0)):
        return "constant", f"a constant, {float(np.median(offset)):.6g}, is added"
    return None
