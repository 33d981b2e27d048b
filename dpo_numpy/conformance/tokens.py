"""Per token: surrogates of policy gradients, estimators of the KL divergence, advantages.

surrogates   f(logps (B, T), old_logps, advantages (B,), mask, ref_logps, eps=...) -> a number
k1, k2, k3   f(logps, ref_logps) -> (B, T)
advantages   f(rewards (P, G)) -> (P, G), or flat with num_generations; gae: f(rewards (B, T), values, gamma, lam)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..losses import Loss
from ..surrogates import ESTIMATORS, SURROGATES
from . import foreign
from .exact import Answer, of_rows
from .frameworks import Dtype
from .functions import FUNCTIONS, PER_TOKEN
from .judging import wrong
from .probing import ignored, of_positions, of_rows_scaled
from .seams import Case, Evidence, Got, Hypothesis, Line, Parts, Problem, Question, asked, outputs_of, usual
from .symptoms import lost_digits
from .token_mistakes import ALTERED, of_functions, variants

__all__ = ["TOKEN"]

Array = NDArray[Any]
WIDE = np.longdouble
ROLES = ("logps", "old_logps", "advantages", "mask", "ref_logps")
FACT = {
    "logps": "token_logp",
    "old_logps": "old_token_logp",
    "advantages": "advantage",
    "mask": "mask",
    "ref_logps": "ref_token_logp",
}


class PerToken:
    """A seam: what is computed from log-probs of tokens."""

    name = "token"
    signature = (
        "f(logps (B, T), old_logps, advantages (B,), mask (B, T), ref_logps, eps=...) -> a number; k1, k2, k3: "
        "f(logps, ref_logps) -> (B, T); group_advantage, rloo: f(rewards (P, G)) -> (P, G); gae: "
        "f(rewards (B, T), values, gamma, lam)"
    )

    def losses(self) -> Mapping[str, Callable[..., Any]]:
        return {**{name: SURROGATES[name] for name in PER_TOKEN}, **FUNCTIONS}

    def arrays(self, name: str, hyper: Mapping[str, Any]) -> list[str]:
        if name in ESTIMATORS:
            return ["logps", "ref_logps"]
        if name in FUNCTIONS:
            return ["rewards", "values"] if name == "gae" else ["rewards"]
        return [role for role in ROLES if FACT[role] in (*SURROGATES[name](**hyper).needs, "token_logp")]

    def orders(self, name: str, hyper: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        return [self.arrays(name, hyper)]

    def role(self, parameter: str, name: str, hyper: Mapping[str, Any]) -> str | None:
        """Also what the loss does not need and the function asks for"""
        said = foreign.words(parameter)
        if name in FUNCTIONS and name not in ESTIMATORS:
            if parameter in ("rewards", "reward", "r", "scores", "token_level_rewards"):
                return "rewards"
            if parameter in ("values", "value", "vf", "v"):
                return "values" if name == "gae" else None
            if parameter in ("num_generations", "group_size", "n_samples", "num_samples", "k"):
                return "group_size"
            return "mask" if "mask" in parameter else None
        if "mask" in parameter:
            return "mask"
        if parameter.startswith("adv"):
            return None if name in ESTIMATORS else "advantages"
        if "old" in said and name in ESTIMATORS:
            return None
        if ("log" in parameter and ("prob" in parameter or "logp" in parameter)) or parameter in ("logps", "logp"):
            return "old_logps" if "old" in said else "ref_logps" if "reference" in said else "logps"
        return None

    # ---- numbers

    def cases(self, question: Question) -> Iterator[Case]:
        if question.name in FUNCTIONS:
            yield from self._of_function(question)
            return
        rng = np.random.default_rng(50)

        def case(
            test: str,
            B: int,
            T: int,
            spread: float,
            lengths: Sequence[int] | None = None,
            ref: float = 0.3,
            hyper: dict[str, Any] | None = None,
            **how: Any,
        ) -> Case:
            logp = -rng.uniform(0.5, 3.0, (B, 1, T)) - 2 * spread
            old = logp - spread * rng.uniform(-1, 1, (B, 1, T))
            count = np.array(lengths if lengths is not None else np.resize([T, max(1, T // 2), T - 1, 1], B))
            told = {
                "token_logp": logp,
                "old_token_logp": old,
                "ref_token_logp": logp - ref * rng.normal(size=logp.shape),
                "advantage": rng.normal(size=(B, 1)) * np.resize([1, -1], (B, 1)),
            }
            told = {
                name: question.dtype.round(np.minimum(x, 0) if name.endswith("logp") else x) for name, x in told.items()
            }
            return Case(test, {**told, "mask": np.arange(T) < count[:, None, None]}, hyper or question.hyper, **how)

        yield case("ordinary", 4, 7, 0.1)
        yield case("ordinary", 5, 6, 0.2)
        for name in dict.fromkeys(question.call.hyper.values()):
            x = question.hyper[name]
            if isinstance(x, (int, float)) and not isinstance(x, bool):
                yield case("other hyper-parameters", 4, 7, 0.2, hyper={**question.hyper, name: 0.5 * x if x else 0.25})
        yield case("on-policy", 4, 7, 0.0)
        yield case("the reference's own samples", 4, 7, 0.1, ref=0.0)
        yield case("clipped on either side", 6, 8, 1.0)
        yield case("responses of one length", 4, 5, 0.2, [5] * 4)
        yield case("one response", 1, 6, 0.2, [4])
        yield case("as many responses as tokens", 6, 6, 0.2)
        yield case("far from the policy that sampled", 4, 6, 4.0)
        yield case("a response without tokens", 4, 6, 0.2, [6, 0, 3, 2], finite=True)

    def _of_function(self, question: Question) -> Iterator[Case]:
        rng = np.random.default_rng(51)
        hyper = question.hyper

        def case(
            test: str, told: dict[str, Array], setting: dict[str, Any] | None = None, lenient: bool = False
        ) -> Case:
            return Case(
                test, {name: question.dtype.round(x) for name, x in told.items()}, setting or hyper, lenient=lenient
            )

        if question.name in ESTIMATORS:
            for test, spread, shape in (
                ("ordinary", 0.7, (4, 6)),
                ("ordinary", 0.2, (3, 5)),
                ("tiny differences", 1e-3, (3, 5)),
                ("far apart", 12.0, (4, 6)),
                ("as many responses as tokens", 0.7, (4, 4)),
            ):
                logp = -rng.uniform(1, 3, shape) - 3 * spread
                yield case(
                    test, {"token_logp": logp, "ref_token_logp": np.minimum(logp - spread * rng.normal(size=shape), 0)}
                )
            logp = -rng.uniform(1, 3, (2, 3))
            yield case("the reference itself", {"token_logp": logp, "ref_token_logp": logp})
            return
        settings = [
            {**hyper, name: (0 if hyper[name] else 1) if name == "ddof" else 0.5 * hyper[name]}
            for name in dict.fromkeys(question.call.hyper.values())
        ]
        for test, shape in (
            ("ordinary", (3, 4)),
            ("ordinary", (2, 6)),
            ("as many groups as members", (4, 4)),
            ("one group", (1, 5)),
        ):
            yield case(test, self._rewards(rng, shape, question))
        for setting in settings:
            yield case("other hyper-parameters", self._rewards(rng, (3, 4), question), setting)
        if question.name != "gae":
            level = {"rewards": np.full((2, 4), 0.5)}
            yield case("all rewards alike", level)
            yield case("two members", self._rewards(rng, (3, 2), question))
            yield case("rewards of 0 and 1", {"rewards": np.array([[0, 1, 1, 0.0], [1, 0, 0, 0]])})

    def _rewards(self, rng: np.random.Generator, shape: tuple[int, int], question: Question) -> dict[str, Array]:
        told = {
            "rewards": rng.normal(size=shape) + 3 * rng.normal(size=(shape[0], 1)),
            "values": rng.normal(size=shape),
        }
        return told if question.name == "gae" else {"rewards": told["rewards"]}

    # ---- answers

    def truth(self, question: Question, case: Case) -> Answer:
        if question.name in FUNCTIONS:
            return self._function(FUNCTIONS[question.name](**case.hyper), question, case)
        return surrogate(SURROGATES[question.name](**case.hyper), case, question.dtype)

    def _function(self, f: Callable[..., Any], question: Question, case: Case) -> Answer:
        def at(told: Mapping[str, Array]) -> tuple[Array, Array | None]:
            found = f(told)
            return found if isinstance(found, tuple) else (found, None)

        value, slope = at(case.told)
        unit = question.dtype.ulp(value)
        units = None if slope is None else question.dtype.ulp(slope)
        for name, x in case.told.items():
            for where in [...] if slope is not None else list(np.ndindex(x.shape)):
                for sign in (-1, 1):
                    moved = x.copy()
                    moved[where] += sign * question.dtype.ulp(x)[where]
                    v, s = at({**case.told, name: moved})
                    unit = unit + abs(v - value) / 2
                    units = None if s is None or units is None else units + abs(s - slope) / 2
        size = 1.0 if slope is not None else abs(case.told["rewards"]).max() + abs(value).max()
        if slope is None or units is None:
            return Answer(value, {}, unit, {}, size)
        return Answer(value, {"token_logp": slope}, unit, {"token_logp": units}, size, {"token_logp": 1.0})

    def ask(self, question: Question, case: Case) -> Got:
        told, wrt = self._handed(question, case)
        found = asked(question, told, case.hyper, wrt)
        outputs, with_gradient = outputs_of(found, question)
        value = outputs[0]
        like = case.told["rewards" if "rewards" in case.told else "token_logp"]
        if question.name in FUNCTIONS:
            if value.size != like.size or (value.shape != like.shape and value.ndim != 1):
                raise Problem(f"given {like.shape} it returns shape {value.shape}", "wrong-shape")
            value = value.reshape(like.shape)
        elif value.size != 1:
            raise Problem(f"it returns shape {value.shape}; expected a number", "wrong-shape")
        else:
            value = value.reshape(())
        if question.name in FUNCTIONS and not wrt:
            return Got(value, {}, outputs[1:], found.dtype, "")
        grads = found.grads
        if with_gradient and len(outputs) > 1:
            grads = {"logps": outputs[1]}
        if grads is None:
            return Got(value, None, outputs[1:], found.dtype, found.no_gradient)
        shown: dict[str, Array] = {}
        for role, grad in grads.items():
            if role == "logps":
                grad = np.zeros(like.shape) if grad is None else grad
                if not isinstance(grad, np.ndarray) or grad.size != like.size:
                    raise Problem(
                        f"its gradient has shape {getattr(grad, 'shape', None)}; expected {told['logps'].shape}",
                        "wrong-shape",
                    )
                shown["token_logp"] = grad.reshape(like.shape)
            elif grad is not None and np.any(grad):
                shown[role] = grad
        return Got(value, shown, outputs[1:], found.dtype, "")

    def _handed(self, question: Question, case: Case) -> tuple[dict[str, Any], list[str]]:
        taken = set(question.call.arrays.values())
        if "rewards" in case.told:
            flat = "group_size" in taken
            given: dict[str, Any] = {
                "rewards": case.told["rewards"].reshape(-1) if flat else case.told["rewards"],
                "values": case.told.get("values"),
                "group_size": case.told["rewards"].shape[-1],
                "mask": np.ones(case.told["rewards"].shape, bool),
            }
            return {name: given[name] for name in taken}, []
        if question.name in ESTIMATORS:
            given = {
                "logps": case.told["token_logp"],
                "ref_logps": case.told["ref_token_logp"],
                "mask": np.ones(case.told["token_logp"].shape, bool),
            }
            return {name: given[name] for name in taken}, ["logps"]
        given = {role: case.told[fact].reshape(len(case.told["mask"]), -1) for role, fact in FACT.items()}
        given["advantages"] = case.told["advantage"][:, 0]
        return {name: given[name] for name in taken}, ["logps"]

    def structure(self, question: Question, seen: dict[str, list[Evidence]]) -> Iterator[Line]:
        case, got, _ = seen["ordinary"][0]
        yield from usual(question, got, lambda: self.ask(question, case), self._handed(question, case))

    # ---- what may have been done instead

    def hypotheses(self, question: Question) -> Iterator[Hypothesis]:
        if question.name in FUNCTIONS:
            for mistake, says, f in of_functions(question.name):
                yield Hypothesis(mistake, says, partial(self._instead, f, question))
            return
        for mistake, says, make in variants(question.name):
            yield Hypothesis(mistake, says, partial(_built_answer, make, question.dtype))
        for mistake, says, alter in ALTERED:
            yield Hypothesis(mistake, says, partial(self._altered, question, alter))

    def _instead(self, f: Callable[..., Any], question: Question, case: Case) -> Answer:
        return self._function(lambda told: f(told, case.hyper), question, case)

    def _altered(
        self, question: Question, alter: Callable[[Mapping[str, Array]], dict[str, Array]], case: Case
    ) -> Answer:
        return self.truth(question, case._replace(told={**case.told, **alter(case.told)}))

    def parts(self, question: Question) -> Iterator[Parts]:
        return iter(())

    def probe(self, question: Question, evidence: list[Evidence]) -> tuple[str, str] | None:
        if question.name in FUNCTIONS:
            return ignored(self, question, evidence[0].case)
        return (
            of_positions(evidence, "token_logp", shifted=False)
            or of_rows_scaled(evidence, "token_logp")
            or ignored(self, question, evidence[0].case)
        )

    def numeric(self, question: Question, line: Line, seen: dict[str, list[Evidence]]) -> tuple[str, str] | None:
        if line.test == "a response without tokens":
            return "empty-row", "a response without tokens is 0/0"
        if question.name in ESTIMATORS and (stop := _stop(seen.get(line.test, []))):
            return "epsilon-in-log", f"values stop at {stop:.4g}, and their gradient is 0 there: they are clamped"
        # with the reference's own samples ratios are not 1: digits that are lost are lost there too
        own = seen.get("the reference's own samples", [])
        if own and not wrong(question, own) and wrong(question, seen["ordinary"]):
            return None
        lost = lost_digits(question, seen.get("ordinary", []))
        if (
            line.test == "one response"
            and question.name in SURROGATES
            and not lost
            and not wrong(question, seen["ordinary"])
        ):
            return "wrong-shape", "a batch of one is squeezed"
        return lost

    def shrunk(self, question: Question, case: Case, row: int) -> Case | None:
        """Its cases are small as they are"""
        return None

    def describe(self, question: Question, case: Case, row: int) -> str:
        if "rewards" in case.told:
            return f"rewards {_short(case.told['rewards'][min(row, len(case.told['rewards']) - 1)])}"
        first = {
            role: case.told[fact]
            for role, fact in FACT.items()
            if fact in case.told and role in set(question.call.arrays.values())
        }
        return ", ".join(f"{role} {_short(x[min(row, len(x) - 1)])}" for role, x in first.items())


#: log-probs and advantages of tokens -> a loss of policy gradients
TOKEN = PerToken()


def _short(x: Array) -> str:
    shown = [f"{float(v):.6g}" for v in np.ravel(x)[:6]]
    return f"[{', '.join(shown)}{', ...' if x.size > 6 else ''}]"


def _stop(evidence: list[Evidence]) -> float | None:
    """The number at which all values that should be larger stop"""
    far = [abs(got.value)[abs(right.value) > 1.01 * abs(got.value)] for _, got, right in evidence]
    top = np.concatenate([*far, np.zeros(0)])
    return float(top[0]) if len(top) > 1 and np.ptp(top) <= 1e-6 * top[0] else None


def _built_answer(make: Callable[[Case], Loss], dtype: Dtype, case: Case) -> Answer:
    return surrogate(make(case), case, dtype)


def surrogate(loss: Loss, case: Case, dtype: Dtype) -> Answer:
    """The mean over responses, one a row"""
    told = {name: x for name, x in case.told.items() if name in (*loss.reads, *loss.needs)}
    found = of_rows(loss, told, dtype)
    A = abs(case.told["advantage"]).max()
    B, count = len(found.value), max(1, int(case.told["mask"].sum()))
    size = max(float(A), 1.0)
    ulp = dtype.ulp(abs(found.value).max())
    return Answer(
        found.value.mean(),
        {name: g / B for name, g in found.grads.items()},
        found.unit.mean() + ulp,
        {name: u / B for name, u in found.units.items()},
        size * max(1.0, float(abs(found.value).max())),
        {name: size * max(1.0 / count, float(abs(g).max()) / B) for name, g in found.grads.items()},
    )


