"""The training loop of `train`: a line of metrics a step, checkpoints, batches that can be taken up again."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import optim
from ..estimates import bco_shift, kl_baseline, wpo_weight
from ..gradient import read, value_and_grad
from ..losses import Loss
from ..metrics import preference_metrics
from ..optim import Optimizer, global_norm
from ..policy import Params
from ..preferences import Preferences
from ..training import train
from .models import Model, Problem
from .options import Options, make_loss
from .run_folder import Log, RunFolder

__all__ = ["Loop", "Run", "made", "part", "told"]

Array = NDArray[Any]
Done = tuple[dict[str, Array], dict[str, Any]]
Batch = Preferences | Callable[[Params], Preferences]


class Watched(Loss):
    """A loss that remembers what it last read: the log-probs, or rewards, that a step computes anyway."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(loss.name, loss.terms)
        self.read = np.zeros((0, 0))

    def __call__(
        self,
        logp: ArrayLike | Mapping[str, ArrayLike],
        ref_logp: ArrayLike | None = None,
        length: ArrayLike | None = None,
        weight: ArrayLike | None = None,
        **facts: ArrayLike,
    ) -> tuple[Array, Any]:
        if isinstance(logp, Mapping):
            whole = next((logp[name] for name in ("logp", "reward") if name in logp), None)
            self.read = np.asarray(np.asarray(logp["token_logp"]).sum(axis=-1) if whole is None else whole)
        return super().__call__(logp, ref_logp, length, weight, **facts)


class Batches:
    """`Preferences.epoch` after epoch, and where it stands: the generator before this epoch, the batches taken of it.

    One batch that holds everything is not shuffled: there is no order to draw.
    """

    def __init__(
        self, pairs: Preferences, size: int, rng: np.random.Generator, position: Mapping[str, Any] | None
    ) -> None:
        self.pairs, self.size, self.rng, self.taken = pairs, size, rng, 0
        self.now = pairs
        if position:
            rng.bit_generator.state, self.taken = position["rng"], position["taken"]
        self.began = rng.bit_generator.state

    @property
    def position(self) -> dict[str, Any]:
        return {"rng": self.began, "taken": self.taken}

    def __iter__(self) -> Iterator[Preferences]:
        while True:
            whole = self.size >= len(self.pairs)
            epoch = iter([self.pairs]) if whole else self.pairs.epoch(self.size, self.rng)
            for batch in islice(epoch, self.taken, None):
                self.now, self.taken = batch, self.taken + 1
                yield batch
            self.began, self.taken = self.rng.bit_generator.state, 0


class Loop(ABC):
    """One training run: what it is made of, and the loop, in which a method fills in the blanks."""

    params: Params

    def __init__(self, model: Model, options: Options) -> None:
        self.model, self.options = model, options
        self.optimizer = made(options, options.learning_rate)

    def steps(self, folder: RunFolder, log: Log, save_seconds: float, done: Done | None) -> Iterator[dict[str, Any]]:
        """The log's lines, one a step; `self.params` are then those after it."""
        options = self.options
        arrays, progress = done or ({}, {"step": 0})
        self.params = part(arrays, "params/") or self.model.reference
        number, last = progress["step"], options.max_steps or 0
        saved = -np.inf  # the first checkpoint is as early as it can be
        for step in islice(self.begin(arrays, progress), last - number):
            number += 1
            self.check(step, number)
            line = {"step": number, **self.line(step, number), "grad_norm": global_norm(step.grad),
                    "learning_rate": options.learning_rate}
            self.params = step.params
            if number % (options.eval_steps or 1) == 0 or number == last:
                line |= self.evaluate(self.params)
            log.append({key: x if np.isfinite(x) else None for key, x in line.items()})
            if (time.monotonic() - saved >= save_seconds and self.resumable(number)) or number == last:
                folder.save(self.kept(step), {"step": number, **self.position()}, log)
                saved = time.monotonic()
            yield line

    # ---- the blanks

    @abstractmethod
    def rehearse(self) -> None:
        """Whatever is wrong with the options or the data shows before a folder is made."""

    @abstractmethod
    def begin(self, arrays: Mapping[str, Array], progress: Mapping[str, Any]) -> Iterator[Any]:
        """Steps from `self.params` on, with what else a checkpoint holds"""

    @abstractmethod
    def line(self, step: Any, number: int) -> dict[str, Any]:
        """What a step says of itself, before the gradient's norm"""

    def evaluate(self, params: Params) -> dict[str, float]:
        """Of the whole policy, under our names: these are not estimates, where they can be helped."""
        whole = self.model.whole(params)
        return {"kl/reference": whole.kl, "length/policy": whole.length,
                **(self.model.exact.of(params) if self.model.exact else {})}

    def check(self, step: Any, number: int) -> None:
        if not np.isfinite(step.value) or _lost(step.params):
            raise ValueError(f"training diverged at step {number}, the loss being {step.value:g}: "
                             f"learning_rate {self.options.learning_rate:g} is too large; expected a smaller one")

    def resumable(self, number: int) -> bool:
        """Whether a checkpoint after this step would hold all that it takes"""
        return True

    def kept(self, step: Any) -> dict[str, Array]:
        return {f"params/{name}": p for name, p in step.params.items()} | {
            f"state/{name}": s for name, s in step.state.items()
        }

    def position(self) -> dict[str, Any]:
        return {}

    @property
    def critic_params(self) -> Params:
        return {}


class Run(Loop):
    """On given comparisons."""

    def __init__(self, problem: Problem, options: Options) -> None:
        super().__init__(problem, options)
        self.problem = problem
        self.loss = Watched(make_loss(options))
        self.beta = float(options.hyperparameters.get("beta", options.hyperparameters.get("tau", 1.0)))

    def rehearse(self) -> None:
        some = self.problem.train.slice(np.arange(min(2, len(self.problem.train))))
        value_and_grad(
            self.problem.policy, self.problem.reference, self._batch(some)(self.problem.reference), self.loss
        )

    def begin(self, arrays: Mapping[str, Array], progress: Mapping[str, Any]) -> Iterator[Any]:
        problem, options = self.problem, self.options
        size = options.batch_size or len(problem.train)
        rng = np.random.default_rng([options.seed, 1])
        self._batches = Batches(problem.train, size, rng, progress.get("batches"))
        every = map(self._batch, self._batches)
        return train(problem.policy, self.params, every, self.loss, self.optimizer, part(arrays, "state/") or None)

    def line(self, step: Any, number: int) -> dict[str, Any]:
        return {"epoch": self._epoch(number), "loss": step.value, **self._metrics(self._batches.now)}

    def position(self) -> dict[str, Any]:
        return {"batches": self._batches.position}

    def score(self, params: Params, pairs: Preferences) -> Array:
        """What ranks responses, (B, K): log π/π_ref, in nats"""
        responses = pairs.responses
        logp = read(self.problem.policy, params, responses, np.arange(len(responses)), ["logp"])[0]["logp"]
        return np.asarray((logp.astype(float) - responses.facts["ref_logp"])[pairs.index])

    def evaluate(self, params: Params) -> dict[str, float]:
        """Of the held-out part, under TRL's names; of the whole policy, under ours."""
        return self._held(params) | super().evaluate(params)

    def _held(self, params: Params) -> dict[str, float]:
        if self.problem.held is None:
            return {}
        value, _ = value_and_grad(self.problem.policy, params, self._batch(self.problem.held)(params), self.loss)
        return {"eval_loss": value, **{f"eval_{name}": x for name, x in self._metrics(self.problem.held).items()}}

    def _epoch(self, step: int) -> float:
        n, size = len(self.problem.train), self.options.batch_size or len(self.problem.train)
        whole, more = divmod(step, -(-n // size))
        return whole + more * size / n

    def _metrics(self, pairs: Preferences) -> dict[str, float]:
        return measured(self.loss.read, pairs, self.problem.length(pairs), self.beta)

    def _batch(self, pairs: Preferences) -> Callable[[Params], Preferences]:
        """The batch as the loss needs it, with the facts that the policy itself decides, under the current one."""
        if not {"z0", "delta", "w"} & {*self.loss.needs}:
            return lambda params: pairs
        return lambda params: pairs.with_facts(**self._estimates(pairs, params))

    def _estimates(self, pairs: Preferences, params: Params) -> dict[str, Any]:
        """KTO's reference point, BCO's shift and WPO's weights.

        KTO's is max(0, mean log-ratio) of completions after prompts that are not theirs. An n-gram gives a completion
        the same probability after every prompt, so these are the log-ratios of the batch itself.
        """
        policy, weight = self.problem.policy, np.asarray(pairs.weight, float)
        rows, where = np.unique(pairs.index, return_inverse=True)
        where = where.reshape(pairs.index.shape)
        found: dict[str, Any] = {}
        if "w" in self.loss.needs:
            part = pairs.responses.take(rows)
            found["w"] = wpo_weight(policy.logits(params, part.tokens)[0], part.tokens, part.mask)[where]
        if {"z0", "delta"} & {*self.loss.needs}:
            ratio = read(policy, params, pairs.responses, rows, ["logp"])[0]["logp"][where] - pairs.fact("ref_logp")
            found["z0"] = kl_baseline(ratio[:, 0], weight)
            chosen = np.broadcast_to([True, False], ratio.shape) if ratio.shape[1] == 2 else pairs.fact("label")
            label = np.asarray(chosen).reshape(-1)
            shared = np.repeat(weight, ratio.shape[1])
            both = 0 < shared[label].sum() < shared.sum()  # a small batch of completions may hold one kind only
            found["delta"] = bco_shift(self.beta * ratio.reshape(-1), label, shared, pooled=not both)
        return {name: fact for name, fact in found.items() if name in self.loss.needs}


def told(problem: Problem, options: Options) -> Problem:
    """The same problem, its comparisons told what the loss needs of the reference."""
    loss = make_loss(options)
    readings = [
        "logp",
        *(name.removeprefix("ref_") for name in loss.needs if name.startswith("ref_") and name != "ref_logp"),
        *(["kl"] if "kl" in loss.reads else []),
    ]
    policy, reference = problem.policy, problem.reference

    def tell(pairs: Preferences | None, *names: str) -> Any:
        return pairs and pairs.with_reference(policy, reference, *names)

    return replace(problem, train=tell(problem.train, *readings), held=tell(problem.held, *readings))


def measured(logp: Array, pairs: Preferences, length: Array, beta: float) -> dict[str, float]:
    """TRL's metrics of a batch, `length/` beside them; of labelled completions, means over those of each label."""
    ref_logp, weight = np.asarray(pairs.fact("ref_logp")), np.asarray(pairs.weight, float)
    if logp.shape[1] == 2:
        share = weight / weight.sum()
        return {
            **preference_metrics(logp, ref_logp, beta, weight),
            "length/chosen": float(share @ length[:, 0]),
            "length/rejected": float(share @ length[:, 1]),
        }
    label = np.asarray(pairs.facts["label"], bool)
    reward = beta * (logp - ref_logp)[:, 0].astype(float)
    found: dict[str, float] = {}
    for name, rows in (("chosen", label), ("rejected", ~label)):
        if weight[rows].sum() > 0:
            share = weight[rows] / weight[rows].sum()
            found |= {
                f"rewards/{name}": float(share @ reward[rows]),
                f"logps/{name}": float(share @ logp[rows, 0].astype(float)),
                f"length/{name}": float(share @ length[rows, 0]),
            }
    if "rewards/chosen" in found and "rewards/rejected" in found:
        found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
    return found


def made(options: Options, rate: float) -> Optimizer:
    optimizer: Optimizer = getattr(optim, options.optimizer)(rate)
    return optimizer if options.max_grad_norm is None else optim.clip(optimizer, options.max_grad_norm)


def part(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _lost(params: Params) -> bool:
    return any(bool((np.isnan(p) | np.isposinf(p)).any()) for p in params.values())
