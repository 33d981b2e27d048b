"""Per token: surrogates of policy gradients, estimators of the KL divergence, advantages.

surrogates   f(logps (B, T), old_logps, advantages (B,), mask, ref_logps, eps=...) -> a number
k1, k2, k3   f(logps, ref_logps) -> (B, T)
advantages   f(rewards (P, G)) -> (P, G), or flat with num_generations; gae: f(rewards (B, T), values, gamma, lam)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..advantages import gae, group_advantage, rloo_advantage
from ..losses import Loss, between, finite, term
from ..scores import Score
from ..surrogates import (
    ESTIMATORS,
    REDUCTIONS,
    SURROGATES,
    clipped,
    fixed,
    of_sequence,
    old_log_ratio,
    reduced,
    ref_log_ratio,
    reinforce_token,
    weighed,
)
from . import foreign
from .exact import Answer, of_rows
from .frameworks import Dtype
from .judging import wrong
from .seams import Case, Evidence, Got, Hypothesis, Line, Problem, Question, asked, outputs_of, usual
from .symptoms import lost_digits

__all__ = ["TOKEN"]

Array = NDArray[Any]
WIDE = np.longdouble
READS = [name for name, make in SURROGATES.items() if make().reads == ("token_logp",) and name != "kl"]
ROLES = ("logps", "old_logps", "advantages", "mask", "ref_logps")
FACT = {
    "logps": "token_logp",
    "old_logps": "old_token_logp",
    "advantages": "advantage",
    "mask": "mask",
    "ref_logps": "ref_token_logp",
}


# ---- advantages: functions of rewards


def _group(reward: Array, ddof: float = 1, eps: float = 1e-4, scale: str = "std") -> Array:
    return group_advantage(reward, scale=scale, ddof=int(ddof), eps=eps)


def _gae(rewards: Array, values: Array, gamma: float = 1.0, lam: float = 0.95) -> Array:
    return gae(rewards, values, np.ones(rewards.shape, bool), between("gamma", gamma, -1, 2), finite("lam", lam))[0]


def group(ddof: float = 1, eps: float = 1e-4) -> Callable[..., Array]:
    """(r - mean)/(std + ε) over the group"""
    return lambda told: _group(told["rewards"], ddof, eps)


def rloo() -> Callable[..., Array]:
    """r less the mean of the others' rewards"""
    return lambda told: rloo_advantage(told["rewards"])


def generalized(gamma: float = 1.0, lam: float = 0.95) -> Callable[..., Array]:
    """Σ (γλ)ˡ δₜ₊ₗ, δₜ = rₜ + γVₜ₊₁ - Vₜ, V = 0 after the end"""
    return lambda told: _gae(told["rewards"], told["values"], gamma, lam)


def estimate(kind: str) -> Callable[[], Callable[..., Any]]:
    return lambda: lambda told: ESTIMATORS[kind](told["token_logp"] - told["ref_token_logp"])


FUNCTIONS: dict[str, Callable[..., Callable[..., Any]]] = {
    **{kind: estimate(kind) for kind in ESTIMATORS},
    "group_advantage": group,
    "rloo": rloo,
    "gae": generalized,
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
        return {**{name: SURROGATES[name] for name in READS}, **FUNCTIONS}

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
        if parameter.startswith("adv"):
            return "advantages"
        if "mask" in parameter:
            return "mask"
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
                ("far apart", 9.0, (3, 5)),
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
            yield from self._other_functions(question)
            return
        for mistake, says, make in variants(question.name):
            yield Hypothesis(mistake, says, partial(_built_answer, make, question.dtype))
        for mistake, says, alter in ALTERED:
            yield Hypothesis(mistake, says, partial(self._altered, question, alter))

    def _altered(
        self, question: Question, alter: Callable[[Mapping[str, Array]], dict[str, Array]], case: Case
    ) -> Answer:
        return self.truth(question, case._replace(told={**case.told, **alter(case.told)}))

    def _other_functions(self, question: Question) -> Iterator[Hypothesis]:
        def of(mistake: str, says: str, f: Callable[..., Any]) -> Hypothesis:
            return Hypothesis(
                mistake, says, lambda case: self._function(lambda told: f(told, case.hyper), question, case)
            )

        if question.name in ESTIMATORS:
            for kind in ESTIMATORS:
                kernel = ESTIMATORS[kind]
                if kind != question.name:
                    yield of("estimator", f"it computes {kind}", partial(_estimated, kernel, 1))
                yield of("estimator", f"{kind} with the ratio upside down", partial(_estimated, kernel, -1))
            return
        if question.name == "gae":
            yield of(
                "hyper-ignored",
                "lam is ignored: 1 in its place",
                lambda told, h: _gae(told["rewards"], told["values"], h["gamma"], 1.0),
            )
            yield of(
                "hyper-ignored",
                "lam is ignored: 0 in its place",
                lambda told, h: _gae(told["rewards"], told["values"], h["gamma"], 0.0),
            )
            yield of(
                "hyper-ignored",
                "gamma is ignored: 1 in its place",
                lambda told, h: _gae(told["rewards"], told["values"], 1.0, h["lam"]),
            )
            yield of(
                "hyper-misread",
                "gamma and lam are exchanged",
                lambda told, h: _gae(told["rewards"], told["values"], h["lam"], h["gamma"]),
            )
            yield of(
                "hyper-misread",
                "errors are carried on by lam alone, not gamma lam",
                lambda told, h: _carried(told, h["gamma"], h["lam"], h["lam"], 0.0),
            )
            yield of(
                "hyper-misread",
                "errors are carried on by gamma alone, not gamma lam",
                lambda told, h: _carried(told, h["gamma"], h["lam"], h["gamma"], 0.0),
            )
            yield of(
                "padding-counted",
                "the last value is carried past the end",
                lambda told, h: _carried(told, h["gamma"], h["lam"], h["gamma"] * h["lam"], 1.0),
            )
            yield of(
                "another-loss",
                "it returns the returns, advantages plus values",
                lambda told, h: _gae(told["rewards"], told["values"], h["gamma"], h["lam"]) + told["values"],
            )
            yield of(
                "shift-off-by-one",
                "the value of the token itself is taken for that of the next",
                lambda told, h: _carried(told, h["gamma"], h["lam"], h["gamma"] * h["lam"], None),
            )
            return

        def centered(r: Array) -> Array:
            return np.asarray(r - r.mean(axis=-1, keepdims=True))

        def std(r: Array, ddof: float, axis: Any = -1) -> Array:
            return np.asarray(r.std(axis=axis, keepdims=True, ddof=ddof))

        yield of(
            "ddof",
            "the population's deviation, not the sample's (or the reverse)",
            lambda told, h: _group(told["rewards"], 1 - h.get("ddof", 1), h.get("eps", 0.0)),
        )
        yield of(
            "another-loss",
            "the group's mean is subtracted and nothing divides",
            lambda told, h: centered(told["rewards"]),
        )
        yield of("another-loss", "it is divided by the deviation", lambda told, h: _group(told["rewards"]))
        yield of(
            "another-loss", "the mean of the others is subtracted", lambda told, h: rloo_advantage(told["rewards"])
        )
        yield of("hyper-ignored", "eps is ignored", lambda told, h: _group(told["rewards"], h.get("ddof", 1), 0.0))
        for eps in (1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
            yield of("hyper-ignored", f"eps is {eps:g} whatever is passed", partial(_with_eps, eps))
        yield of(
            "hyper-misread",
            "eps is added to the variance, inside the root",
            lambda told, h: (
                centered(told["rewards"]) / np.sqrt(std(told["rewards"], h.get("ddof", 1)) ** 2 + h.get("eps", 0.0))
            ),
        )
        yield of(
            "hyper-misread",
            "divided by the variance, not its root",
            lambda told, h: (
                centered(told["rewards"]) / (std(told["rewards"], h.get("ddof", 1)) ** 2 + h.get("eps", 0.0))
            ),
        )
        yield of(
            "batch-coupled",
            "mean and deviation of the whole batch",
            lambda told, h: (
                (told["rewards"] - told["rewards"].mean())
                / (told["rewards"].std(ddof=int(h.get("ddof", 1))) + h.get("eps", 0.0))
            ),
        )
        yield of(
            "batch-coupled",
            "the deviation is the whole batch's",
            lambda told, h: (
                centered(told["rewards"]) / (told["rewards"].std(ddof=int(h.get("ddof", 1))) + h.get("eps", 0.0))
            ),
        )
        yield of(
            "batch-coupled", "the mean is the whole batch's", lambda told, h: told["rewards"] - told["rewards"].mean()
        )
        yield of(
            "batch-coupled",
            "the baseline is the mean of all the others in the batch",
            lambda told, h: told["rewards"] - (told["rewards"].sum() - told["rewards"]) / (told["rewards"].size - 1),
        )
        yield of(
            "broadcast",
            "the statistics run across groups, not within them",
            lambda told, h: (
                (told["rewards"] - told["rewards"].mean(axis=0))
                / (
                    told["rewards"].std(axis=0, ddof=min(int(h.get("ddof", 1)), len(told["rewards"]) - 1))
                    + h.get("eps", 0.0)
                )
            ),
        )
        yield of("sign-flipped", "advantages have the wrong sign", lambda told, h: -FUNCTIONS[question.name](**h)(told))

    def numeric(self, question: Question, line: Line, seen: dict[str, list[Evidence]]) -> tuple[str, str] | None:
        if line.test == "a response without tokens":
            return "empty-row", "a response without tokens is 0/0"
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


TOKEN = PerToken()


def _short(x: Array) -> str:
    shown = [f"{float(v):.6g}" for v in np.ravel(x)[:6]]
    return f"[{', '.join(shown)}{', ...' if x.size > 6 else ''}]"


def _estimated(kernel: Any, sign: int, told: Mapping[str, Array], h: Any) -> tuple[Array, Array]:
    value, slope = kernel(sign * (told["token_logp"] - told["ref_token_logp"]))
    return value, sign * slope


def _with_eps(eps: float, told: Mapping[str, Array], h: Mapping[str, Any]) -> Array:
    return _group(told["rewards"], h.get("ddof", 1), eps)


def _carried(told: Mapping[str, Array], gamma: float, lam: float, rate: float, beyond: float | None) -> Array:
    """GAE with another rate, or another value after the end"""
    r, v = told["rewards"], told["values"]
    after = v if beyond is None else np.concatenate([v[:, 1:], beyond * v[:, -1:]], axis=1)
    delta, ahead, found = r + gamma * after - v, np.zeros(len(r), WIDE), np.zeros_like(r)
    for t in range(r.shape[1] - 1, -1, -1):
        ahead = delta[:, t] + rate * ahead
        found[:, t] = ahead
    return found


# ---- surrogates, and what may stand in their place


def _after(mask: Array) -> Array:
    return np.concatenate([mask[..., 1:], mask[..., :1] & False], axis=-1)


ALTERED: tuple[tuple[str, str, Callable[[Mapping[str, Array]], dict[str, Array]]], ...] = (
    (
        "reference-ignored",
        "the policy that sampled is ignored: every ratio is 1",
        lambda told: {"old_token_logp": told["token_logp"]},
    ),
    (
        "estimator",
        "the ratio is upside down",
        lambda told: {"old_token_logp": 2 * told["token_logp"] - told["old_token_logp"]},
    ),
    ("sign-flipped", "advantages have the wrong sign", lambda told: {"advantage": -told["advantage"]}),
    ("padding-counted", "the mask is ignored", lambda told: {"mask": np.ones_like(told["mask"])}),
    (
        "eos-masked",
        "the last token of each response is dropped",
        lambda told: {"mask": told["mask"] & _after(told["mask"])},
    ),
    (
        "shift-off-by-one",
        "the first token of each response is dropped",
        lambda told: {"mask": told["mask"] & (np.arange(told["mask"].shape[-1]) > 0)},
    ),
)


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


def variants(name: str) -> Iterator[tuple[str, str, Callable[[Case], Loss]]]:
    """One thing changed: the kernel, the KL term, or the reduction"""
    for mistake, says, kernel in CLIPS:
        yield mistake, says, partial(_built, name, kernel=kernel)
    for reduction, says in _REDUCED.items():
        yield (
            "length-with-padding" if "padded" in reduction else "reduction",
            f"tokens are averaged otherwise: {says}",
            partial(_built, name, reduction=reduction),
        )
    if name in ("grpo", "bnpo"):
        for mistake, says, kl in KL_TERMS:
            yield mistake, says, partial(_built, name, kl=kl)
    if name == "cispo":
        yield "detach-missing", "the clipped ratio is differentiated too", partial(_built, name, kernel=_weight_trained)
    if name == "gspo":
        yield "another-loss", "the ratio is each token's, not the response's", partial(_built, name, sequence=False)
        yield (
            "sum-for-mean",
            "the response's ratio is the product over tokens, not their geometric mean",
            partial(_built, name, product=True),
        )
    elif name != "reinforce":
        yield "another-loss", "the ratio is the response's, not each token's", partial(_built, name, sequence=True)
    for other in READS:
        if other != name:
            yield "another-loss", f"it computes {other}", partial(_of_name, other)


def _of_name(other: str, case: Case) -> Loss:
    takes = inspect.signature(SURROGATES[other]).parameters
    return SURROGATES[other](**{key: x for key, x in case.hyper.items() if key in takes})


_REDUCED = {
    "sequence_mean": "over each response, then over responses",
    "sequence_sum": "not at all: a sum over tokens, a mean over responses",
    "tokens": "over all tokens of the batch",
    "padded": "over the width of the batch, padding included",
    "fixed": "over max_length",
    "batch sum": "not at all: a sum over the batch",
    "responses": "a sum over responses of their means",
}
KL_TERMS = (
    ("hyper-ignored", "the KL term is missing", "none"),
    ("sign-flipped", "the KL term has the wrong sign", "minus"),
    ("estimator", "the KL term is k1", "k1"),
    ("estimator", "the KL term is k2", "k2"),
    ("estimator", "k3 has its ratio upside down", "inverted"),
    ("reference-ignored", "the KL is taken from the policy that sampled", "old"),
    ("hyper-ignored", "beta is missing: the KL term counts in full", "full"),
)


def _times(d: Array, factor: Array) -> tuple[Array, Array]:
    value = np.exp(d) * factor
    return value, value


def _no_minimum(d: Array, A: Array, low: float, high: float) -> tuple[Array, Array]:
    ratio = np.exp(d)
    held = (ratio < 1 - low) | (ratio > 1 + high)
    return -np.clip(ratio, 1 - low, 1 + high) * A, np.where(held, 0, -ratio * A)


def _maximum(d: Array, A: Array, low: float, high: float) -> tuple[Array, Array]:
    ratio = np.exp(d)
    kept = np.clip(ratio, 1 - low, 1 + high)
    held = (kept != ratio) & (kept * A > ratio * A)
    return -np.maximum(ratio * A, kept * A), np.where(held, 0, -ratio * A)


def _weight_trained(logp: Array, old: Array, A: Array, low: float, high: float) -> tuple[Array, Array]:
    ratio = np.exp(logp - old)
    kept = np.clip(ratio, 1 - low, 1 + high)
    return -kept * A * logp, -kept * A - np.where(kept == ratio, ratio * A * logp, 0)


def _detached(d: Array, A: Array, low: float, high: float) -> tuple[Array, Array]:
    value, slope = clipped(d, A, low, high)
    return value, 0 * slope


CLIPS: tuple[tuple[str, str, Any], ...] = (
    ("clip-side", "ratios are not clipped", lambda d, A, low, high: _times(d, -A)),
    ("clip-side", "ratios are clipped and no minimum is taken", _no_minimum),
    ("clip-side", "the maximum where the minimum should be", _maximum),
    ("clip-side", "ratios are clipped from above only", lambda d, A, low, high: clipped(d, A, 0.999999999, high)),
    ("clip-side", "ratios are clipped from below only", lambda d, A, low, high: clipped(d, A, low, 1e9)),
    ("hyper-ignored", "the lower bound's width is used on both sides", lambda d, A, low, high: clipped(d, A, low, low)),
    (
        "hyper-ignored",
        "the upper bound's width is used on both sides",
        lambda d, A, low, high: clipped(d, A, min(high, 0.999), high),
    ),
    ("detach-misplaced", "the ratio is detached", _detached),
    ("another-loss", "it is REINFORCE: no ratio at all", lambda d, A, low, high: _times(0 * d, -A)),
)


def _weights(which: str, max_length: float) -> Any:
    if which in REDUCTIONS:
        return REDUCTIONS[which]
    return {
        "padded": lambda mask, w: mask / WIDE(mask.shape[-1]),
        "fixed": fixed(max_length),
        "batch sum": lambda mask, w: mask * WIDE(len(mask)),
        "responses": lambda mask, w: REDUCTIONS["sequence_mean"](mask, w) * len(mask),
    }[which]


def _built(
    name: str,
    case: Case,
    kernel: Any = clipped,
    reduction: str = "",
    kl: str = "",
    sequence: bool | None = None,
    product: bool = False,
) -> Loss:
    """The family once more, with something changed"""
    h = case.hyper
    low = float(h.get("eps", h.get("eps_low", 0.2)))
    high = float(h.get("eps_high") or h.get("eps", 0.28))
    usual_reduction = {
        "grpo": "sequence_mean",
        "gspo": "sequence_mean",
        "dr_grpo": "fixed",
        "reinforce": "sequence_sum",
    }
    weights = _weights(
        reduction or h.get("reduction") or usual_reduction.get(name, "tokens"), h.get("max_length", 1024.0)
    )
    if name == "reinforce":
        return term(name, _LOGP, reduced(weights, reinforce_token, "advantage"))
    if name == "cispo" and kernel is _weight_trained:
        return term(name, _LOGP, reduced(weights, _weight_trained, "old_token_logp", "advantage", low=low, high=high))
    if name == "cispo":
        if kernel is not clipped:
            raise ValueError("of cispo, reductions alone")
        return term(name, _LOGP, reduced(weights, weighed, "old_token_logp", "advantage", low=low, high=high))
    whole = name == "gspo" if sequence is None else sequence
    score = _product() if product else of_sequence(old_log_ratio) if whole else old_log_ratio
    if product:
        weights = REDUCTIONS["sequence_mean"]
    loss = term(name, score, reduced(weights, kernel, "advantage", low=low, high=high))
    beta = float(h.get("beta", 0.0))
    if kl == "none" or (not beta and not kl):
        return loss
    estimator = h.get("estimator", "k3")
    ratio = ref_log_ratio if kl != "old" else old_log_ratio
    kernel_of: Any = ESTIMATORS.get(kl, ESTIMATORS[estimator])
    if kl == "inverted":
        kernel_of = _inverted
    coefficient = {"minus": -beta, "full": 1.0}.get(kl, beta)
    return loss + coefficient * term("kl", ratio, reduced(weights, kernel_of))


def _inverted(d: Array) -> tuple[Array, Array]:
    value, slope = ESTIMATORS["k3"](-d)
    return value, -slope


def _product() -> Score:
    def fn(x: Any, facts: Any) -> Any:
        s, back = old_log_ratio.fn(x, facts)
        mask = facts["mask"]
        return np.broadcast_to(s.sum(axis=-1, keepdims=True), s.shape), lambda ds: back(
            mask * ds.sum(axis=-1, keepdims=True)
        )

    return Score(fn, old_log_ratio.reads, old_log_ratio.needs)


_LOGP = SURROGATES["reinforce"]().terms[0].score
