"""Losses of log-probs, row by row: pairs, and single responses with their label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..losses import LOSSES, Loss
from . import foreign, symptoms
from .exact import Answer, of_rows
from .judging import failures
from .mistakes import of_rows as suspects
from .mistakes import parts_of
from .numbers import KL_ROWS, MARGINS, NEUTRAL, OF_RESPONSES, SIDES, Numbers, sizes
from .probing import ignored
from .seams import (
    FAIL,
    NOTE,
    OK,
    Case,
    Evidence,
    Got,
    Hypothesis,
    Line,
    Parts,
    Problem,
    Question,
    Seam,
    asked,
    compare,
    outputs_of,
    usual,
)

__all__ = ["PAIR", "UNPAIRED", "Rows"]

Array = NDArray[Any]
WIDE = np.longdouble
#: what a number may become: the first that fails still is taken
SIMPLER: tuple[Callable[[Any], Any], ...] = (
    lambda x: -1 if x < 0 else 1,
    lambda x: 100 * np.rint(x / 100),
    lambda x: 10 * np.rint(x / 10),
    np.rint,
)


class Rows(Seam):
    """A seam: `K` log-probs a row, and what a loss is told beside them."""

    def __init__(self, name: str, K: int, signature: str) -> None:
        self.name, self.K, self.signature = name, K, signature

    def __repr__(self) -> str:
        return self.name

    # ---- what it takes

    def losses(self) -> Mapping[str, Callable[..., Loss]]:
        return {name: make for name, make in LOSSES.items() if self._takes(make())}

    def _takes(self, loss: Loss) -> bool:
        columns = {term.link.columns for term in loss.terms} - {None}
        return (
            columns <= {self.K}
            and "token_logp" not in loss.reads
            and "full_logp" not in loss.reads
            and not (self.K == 1 and "label" not in loss.needs)
        )

    def arrays(self, loss: Loss) -> list[str]:
        """The canonical names, in order"""
        if self.K == 1:
            needed = ["policy_logps", "reference_logps", "labels"]
            return needed + [name for name in loss.needs if name not in ("ref_logp", "label", "length")]
        names = []
        for reading in loss.reads:
            names += (
                ["policy_chosen_logps", "policy_rejected_logps"]
                if reading == "logp"
                else [f"{side}_{reading}" for side in SIDES]
            )
            if reading == "logp" and "ref_logp" in loss.needs:
                names += ["reference_chosen_logps", "reference_rejected_logps"]
        for fact in loss.needs:
            if fact != "ref_logp":
                names += [f"{side}_{fact}" for side in SIDES] if fact in OF_RESPONSES else [fact]
        return names

    def orders(self, name: str, hyper: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        loss = LOSSES[name](**hyper)
        names = self.arrays(loss)
        required = [x for x in names if _fact(x) not in NEUTRAL]
        return [names] if required == names else [names, required]

    def role(self, parameter: str, name: str, hyper: Mapping[str, Any]) -> str | None:
        loss = LOSSES[name](**hyper)
        if parameter in self.arrays(loss):
            return parameter
        said = foreign.words(parameter)
        return self._single(parameter, said, loss) if self.K == 1 else self._of_pair(said, loss, parameter)

    def _of_pair(self, said: set[str], loss: Loss, parameter: str) -> str | None:
        side = said & set(SIDES)
        if len(side) != 1 or "weight" in parameter:
            return None
        here = side.pop()
        for fact in (*loss.reads, *loss.needs):
            if fact in OF_RESPONSES and fact in parameter:
                return f"{here}_{fact}"
        if "length" in said:
            return f"{here}_length"
        if "logp" not in loss.reads:
            return f"{here}_{loss.reads[0]}"
        return f"{'reference' if 'reference' in said else 'policy'}_{here}_logps"

    def _single(self, parameter: str, said: set[str], loss: Loss) -> str | None:
        who = "reference" if "reference" in said else "policy"
        side = said & set(SIDES)
        shift = next((fact for fact in ("z0", "delta") if fact in loss.needs), None)
        if "KL" in said and (said & {"policy", "reference"}):
            return f"{who}_KL_logps"
        if parameter in ("labels", "label", "desirable", "is_chosen", "is_desirable", "preferred"):
            return "labels"
        if parameter in ("kl", "z0", "kl_baseline", "reference_point", "baseline", "delta", "shift", "kl_estimate"):
            return shift or ("delta" if parameter in ("delta", "shift") else "z0")
        if len(side) == 1 and "weight" not in parameter:
            return f"{who}_{side.pop()}_logps"
        return f"{who}_logps" if said & {"policy", "reference"} or parameter in ("logps", "logp") else None

    # ---- numbers

    def cases(self, question: Question) -> Iterator[Case]:
        """From the ordinary to the far ends."""
        draw = Numbers(question, self.K)
        yield draw.case("ordinary", draw.margins(np.linspace(-2.5, 2.5, 8), wander=True))
        yield draw.case("ordinary", draw.margins(np.linspace(-1.5, 1.5, 8), wander=True))
        yield draw.case("policy = reference", draw.margins(np.zeros(8)))
        yield draw.case(
            "close to the reference", draw.margins(np.array([1e-2, -1e-3, 1e-4, -1e-6, 0.1, -0.05, 3e-5, -2e-3]))
        )
        for hyper in draw.settings():
            yield draw.case("other hyper-parameters", draw.margins(np.linspace(-2, 2, 8), wander=True), hyper)
        far = np.array([z for z in MARGINS if z <= draw.reach])
        yield draw.case("right, and sure of it", draw.margins(far))
        yield draw.case("wrong, and sure of it", draw.margins(-far))
        # what is computed as the exponential of a logarithm k is off by k/2 ulps: 23 of 1e-20
        yield draw.case("log-probs near 0", draw.near_zero(), room=3.0)
        yield draw.case("log-probs of exactly 0", draw.zero(), lenient=True)
        # a mean is no larger for being of more tokens; it may be that of tokens whose probability underflows
        base = 1.25 * -question.dtype.least * np.log(2) if draw.per_token else 8000.0
        test = "improbable responses" if draw.per_token else "long responses"
        yield draw.case(test, draw.margins(np.linspace(-2, 2, 8), base=base))
        yield draw.case("one row at a time", draw.margins(np.array([0.7]), wander=True))
        yield draw.case("two rows", draw.margins(np.array([-0.4, 0.7]), wander=True))
        yield draw.case(
            "the mean over the batch", draw.margins(np.array([-1.0, 0.3, 0.7, 1.9, 2.4]), wander=True), whole=True
        )

    def truth(self, question: Question, case: Case) -> Answer:
        loss = LOSSES[question.name](**case.hyper)
        told = {name: x for name, x in case.told.items() if name in (*loss.reads, *loss.needs)}
        by = {}
        if "policy_KL_logps" in question.call.arrays.values():
            kl = case.told["KL_logp"], case.told["KL_ref_logp"]
            by["z0"] = sum(question.dtype.ulp(x).mean() for x in kl) + question.dtype.ulp(case.told["z0"])
        answer = of_rows(loss, told, question.dtype, by)
        size, slopes = sizes(question, loss, case.told)
        return answer._replace(size=size, sizes=slopes)

    # ---- asking

    def ask(self, question: Question, case: Case) -> Got:
        """The value (B,) of each row: a function that returns their mean is asked for one at a time."""
        B = len(case.told[next(iter(LOSSES[question.name](**case.hyper).reads))])
        first = self._once(question, case, B)
        if first.value.ndim and question.name.startswith("aot"):  # of sorted rows, the mean alone is defined
            grads = None if first.grads is None else {name: g / B for name, g in first.grads.items()}
            return first._replace(value=first.value.mean(), grads=grads)
        if first.value.shape == (B,) or case.whole:
            return first
        if LOSSES[question.name](**case.hyper).coupled:
            return first
        got = [self._once(question, _row(case, b), 1) for b in range(B)]
        if np.isfinite(first.value).all() and all(np.isnan(g.value).any() for g in got):
            raise Problem(
                "it is a number for a batch and NaN for each of its rows alone"
                + (": desired and undesired are averaged apart" if self.K == 1 else ""),
                "reduction",
            )
        grads = (
            None
            if any(g.grads is None for g in got)
            else {name: np.concatenate([g.grads[name] for g in got if g.grads]) for name in got[0].grads or {}}
        )
        return Got(np.array([g.value.reshape(()) for g in got]), grads, [], first.dtype, first.no_gradient)

    def _once(self, question: Question, case: Case, B: int) -> Got:
        told, wrt = self._handed(question, case)
        found = asked(question, told, case.hyper, wrt)
        outputs, with_gradient = outputs_of(found, question)
        value = outputs[0]
        if value.shape == (B, 1) and B > 1:
            raise Problem(f"for {B} rows it returns shape ({B}, 1); expected ({B},) or a number", "wrong-shape")
        if value.shape not in ((B,), (), (1,)):
            square = " (a row and a column were broadcast)" if value.shape == (B, B) else ""
            raise Problem(
                f"for {B} rows it returns shape {value.shape}; expected ({B},) or a number{square}",
                "broadcast" if square else "wrong-shape",
            )
        grads: dict[str, Array | None] | None = found.grads
        extras = outputs[1:]
        why = found.no_gradient
        if with_gradient:
            names = [name for name in question.call.arrays.values() if name in wrt and "KL" not in name]
            if extras and getattr(extras[0], "shape", ()) == (B, len(names)) and len(names) > 1:
                extras = [*extras[0].T, *extras[1:]]
            elif B == len(outputs) > 1 and all(getattr(x, "shape", None) == () for x in outputs):
                raise Problem(f"it returns a list of {B} numbers; expected an array ({B},)", "wrong-shape")
            if len(extras) >= len(names) and all(
                isinstance(x, np.ndarray) and x.shape == (len(told[name]),)
                for name, x in zip(names, extras, strict=False)
            ):
                grads, extras = dict(zip(names, extras, strict=False)), extras[len(names) :]
            elif extras or question.gradient == "returned":
                shown = [getattr(x, "shape", type(x).__name__) for x in extras]
                raise Problem(
                    f"beside losses it returns {shown}; expected gradients of {', '.join(names)}, each ({B},)",
                    "wrong-shape",
                )
        gathered = None if grads is None else self._gathered(question, case, grads, B)
        return Got(value.reshape((B,) if value.shape != () else ()), gathered, extras, found.dtype, why)

    def _handed(self, question: Question, case: Case) -> tuple[dict[str, Any], list[str]]:
        """The arrays by canonical name, and those that a gradient is wanted in"""
        loss = LOSSES[question.name](**case.hyper)
        told, taken = case.told, set(question.call.arrays.values())
        given: dict[str, Any] = {}
        wrt: list[str] = []
        if self.K == 1:
            given = {
                "policy_logps": told["logp"][:, 0],
                "reference_logps": told["ref_logp"][:, 0],
                "labels": told["label"],
                "policy_KL_logps": told.get("KL_logp"),
                "reference_KL_logps": told.get("KL_ref_logp"),
            }
            for k, side in enumerate(SIDES):
                at = told["label"] == (k == 0)
                given |= {
                    f"policy_{side}_logps": told["logp"][at, 0],
                    f"reference_{side}_logps": told["ref_logp"][at, 0],
                }
            given |= {name: np.asarray(told[name]) for name in (*loss.needs, "z0", "delta") if name in told}
            wrt = [
                name
                for name in ("policy_logps", "policy_chosen_logps", "policy_rejected_logps", "policy_KL_logps")
                if name in taken
            ]
            return {name: given[name] for name in taken}, wrt
        for reading in dict.fromkeys((*loss.reads, *loss.needs, "ref_logp", "length")):
            x = told[reading]
            if reading in ("logp", "ref_logp") or reading in OF_RESPONSES:
                for k, side in enumerate(SIDES):
                    name = {"logp": f"policy_{side}_logps", "ref_logp": f"reference_{side}_logps"}.get(
                        reading, f"{side}_{reading}"
                    )
                    given[name] = x[:, k]
                    if reading in loss.reads and name in taken:
                        wrt.append(name)
            else:
                given[reading] = x
        return {name: given[name] for name in taken}, wrt

    def _gathered(self, question: Question, case: Case, grads: Mapping[str, Array | None], B: int) -> dict[str, Array]:
        """By reading, (B, K); where no gradient flows, 0"""
        loss = LOSSES[question.name](**case.hyper)
        if self.K == 1:
            if "policy_logps" in grads:
                whole = _or_zero(grads["policy_logps"], B)
            else:
                whole = np.zeros(B, WIDE)
                for k, side in enumerate(SIDES):
                    at = case.told["label"] == (k == 0)
                    whole[at] = _or_zero(grads.get(f"policy_{side}_logps"), int(at.sum()))
            found = {"logp": whole[:, None]}
            if grads.get("policy_KL_logps") is not None:
                found["KL_logp"] = _or_zero(grads["policy_KL_logps"], KL_ROWS)
            return found
        return {
            reading: np.stack(
                [
                    _or_zero(grads.get(f"policy_{side}_logps" if reading == "logp" else f"{side}_{reading}"), B)
                    for side in SIDES
                ],
                axis=-1,
            )
            for reading in loss.reads
        }

    # ---- what is not a number

    def structure(self, question: Question, seen: dict[str, list[Evidence]]) -> Iterator[Line]:
        """Does it repeat itself, leave its inputs alone, keep NaN and the dtype, and rows apart?"""
        case, got, _ = seen["ordinary"][0]
        loss = LOSSES[question.name](**case.hyper)
        yield from usual(question, got, lambda: self.ask(question, case), self._handed(question, case))
        if got.value.ndim and not loss.coupled and len(seen["ordinary"]) > 1:
            yield self._apart(question, *seen["ordinary"][:2])
        yield self._nan(question, case, coupled=loss.coupled)
        if got.extras and question.framework.gradient and "ref_logp" in loss.needs and "beta" in case.hyper:
            yield from self._rewards(question, case, got)

    def _apart(self, question: Question, one: Evidence, other: Evidence) -> Line:
        """The rows of one batch after those of another, in reverse"""
        test = "rows in other company"
        told = {
            name: np.concatenate([other.case.told[name], x[::-1]]) if x.ndim and not name.startswith("KL_") else x
            for name, x in one.case.told.items()
        }
        if self.K == 1:  # desired first: where chosen and rejected come apart
            order = np.argsort(~told["label"], kind="stable")
            told = {name: x[order] if x.ndim and not name.startswith("KL_") else x for name, x in told.items()}
        case = one.case._replace(told=told)
        try:
            got = self.ask(question, case)
        except Problem as problem:
            return Line(test, FAIL, np.inf, str(problem), mistake=problem.mistake)
        right = self.truth(question, case)
        found = compare(got.value, right.value, right.unit, right.size, question.dtype)
        worst = float(found.units.max())
        alone = all(
            not compare(x.got.value, x.right.value, x.right.unit, x.right.size, question.dtype).fails.any()
            for x in (one, other)
        )
        if not found.fails.any() or not alone:
            return Line(test, OK, worst)
        return Line(test, FAIL, worst, "a row's loss depends on which others are in the batch", mistake="batch-coupled")

    def _nan(self, question: Question, case: Case, coupled: bool) -> Line:
        """A NaN must come out as one: a hidden one trains on."""
        told = {name: x.copy() for name, x in case.told.items()}
        first = LOSSES[question.name](**case.hyper).reads[0]
        told[first][0, 0] = np.nan
        try:
            got = self.ask(question, case._replace(told=told, whole=True))
        except Problem as problem:
            return Line("NaN goes through", FAIL, np.inf, str(problem), mistake=problem.mistake)
        hidden = any(np.isnan(grad).any() for grad in (got.grads or {}).values())
        kept = np.isnan(got.value[0] if got.value.ndim and not coupled else got.value).any()
        others = not got.value.ndim or coupled or np.isfinite(got.value[1:]).all()
        if kept and others:
            return Line("NaN goes through", OK, 0.0)
        if not kept:
            return Line(
                "NaN goes through",
                FAIL,
                np.inf,
                "a log-prob of NaN gives a loss that is a number" + (", and gradients of NaN" if hidden else ""),
                mistake="nan-hidden",
            )
        return Line(
            "NaN goes through", FAIL, np.inf, "a NaN in one row spoils the losses of others", mistake="batch-coupled"
        )

    def _rewards(self, question: Question, case: Case, got: Got) -> Iterator[Line]:
        """β log-ratio, where a tuple goes on with two of (B,)"""
        B = len(case.told["logp"])
        shown = [x for x in got.extras if isinstance(x, np.ndarray) and x.shape == (B,)]
        if len(shown) < 2 or self.K != 2:
            return
        right = float(case.hyper["beta"]) * (case.told["logp"] - case.told["ref_logp"])
        room = (
            64 * question.dtype.eps * float(case.hyper["beta"]) * (abs(case.told["logp"]) + abs(case.told["ref_logp"]))
        )
        off = [abs(x - right[:, k]) > room[:, k] for k, x in enumerate(shown[:2])]
        if any(x.any() for x in off):
            b = int(np.argmax(off[0] | off[1]))
            yield Line(
                "rewards beside the loss",
                NOTE,
                np.inf,
                f"{float(shown[0][b]):.6g} and {float(shown[1][b]):.6g}; "
                f"beta * log-ratio is {float(right[b, 0]):.6g} and {float(right[b, 1]):.6g}",
            )
        else:
            yield Line("rewards beside the loss", OK, 0.0)

    def numeric(self, question: Question, line: Line, seen: dict[str, list[Evidence]]) -> tuple[str, str] | None:
        return symptoms.of_rows(question, line, seen)

    # ---- what may have been done instead

    def hypotheses(self, question: Question) -> Iterator[Hypothesis]:
        return suspects(self, question)

    def parts(self, question: Question) -> Iterator[Parts]:
        return parts_of(question, any("length" in role for role in question.call.arrays.values()))

    def probe(self, question: Question, evidence: list[Evidence]) -> tuple[str, str] | None:
        return ignored(self, question, evidence[0].case)

    def shrunk(self, question: Question, case: Case, row: int) -> Case | None:
        """The row alone, its log-probs as simple as they may be for it to fail still; None where alone it does not"""
        if case.whole or LOSSES[question.name](**case.hyper).coupled:
            return None
        now = _row(case, row)
        if not failures(self, question, now):
            return None
        for name in ("length", "logp", "ref_logp", "reward"):
            for k in range(self.K if name in now.told else 0):
                for simple in SIMPLER:
                    told = now.told[name].copy()
                    told[0, k] = simple(told[0, k])
                    tried = now._replace(
                        told={**now.told, name: question.dtype.round(told) if told.dtype.kind == "f" else told}
                    )
                    # 0 is another question: a response of no tokens, or a certain one
                    if told[0, k] not in (0, now.told[name][0, k]) and failures(self, question, tried):
                        now = tried
                        break
        return now

    def describe(self, question: Question, case: Case, b: int) -> str:
        """Row b as one would type it"""
        told, _ = self._handed(question, _row(case, b))
        shown = []
        for name in question.call.arrays.values():
            x = np.asarray(told[name])
            shown.append(f"{name} {_short(x)}")
        return ", ".join(shown)


#: log-probs of chosen and rejected -> losses
PAIR = Rows(
    "pair",
    2,
    "f(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, "
    "reference_rejected_logps, chosen_length, rejected_length, beta=...) -> losses (B,)",
)
#: log-probs of responses with labels -> losses
UNPAIRED = Rows("unpaired", 1, "f(policy_logps, reference_logps, labels, kl, beta=...) -> losses (B,)")


def _fact(name: str) -> str:
    return name.removeprefix("chosen_").removeprefix("rejected_")


def _or_zero(grad: Array | None, size: int) -> Array:
    return np.zeros(size, WIDE) if grad is None else grad


def _row(case: Case, b: int) -> Case:
    told = {name: x[b : b + 1] if x.ndim and not name.startswith("KL_") else x for name, x in case.told.items()}
    return case._replace(told=told, margin=None if case.margin is None else case.margin[b : b + 1])


def _short(x: Array) -> str:
    numbers = [repr(bool(v)) if x.dtype == bool else f"{float(v):.9g}" for v in x.reshape(-1)[:6]]
    return numbers[0] if x.size == 1 else f"[{', '.join(numbers)}]"
