"""Data: distinct responses, and a weighted measure on comparisons of them.

    Responses    tokens (N, T), mask (N, T), facts            each distinct response once
    Preferences  responses, index (B, K), weight (B,), facts  which responses are compared, and how much that counts

Column 0 is the chosen response, column 1 the rejected one, later columns are worse still; -1 stands where a ranking is
shorter than K. Unpaired data are K = 1 with the fact `label`. Soft labels, an exact population, a sample, a resample:
they differ in the weights only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from .policy import Params, Policy

__all__ = ["Preferences", "Reference", "Responses"]

Array = NDArray[Any]
Built = TypeVar("Built")


@dataclass(frozen=True)
class Reference:
    """A policy and the parameters it is frozen at, for what must be read from it again (the `kl` of TDPO)."""

    policy: Policy
    params: Params

    @classmethod
    def of(cls, policy: Policy, params: Params) -> Reference:
        """A copy: training that updates `params` in place must not move the reference."""
        return cls(policy, {name: np.array(p) for name, p in params.items()})


@dataclass(frozen=True, eq=False)
class Responses:
    """N tokenized responses, padded to T tokens.

    tokens : (N, T) integers. A row holds the prompt, then the response, then padding with any id that the policy knows.
    mask   : (N, T) booleans, true on the response tokens that count (the end-of-string token included). The first token
             has nothing before it to be predicted from, so `mask[:, 0]` is false.
    facts  : name -> (N,) one number per response (`ref_logp`) or (N, T) one per token, aligned with `tokens`.

    Raises `ValueError` on mismatched shapes, token ids that are not integers or are negative, and rows whose mask holds
    no response token.

    >>> r = Responses(np.array([[0, 1, 2, 0]]), np.array([[False, True, True, True]]))
    >>> len(r), r.length
    (1, array([3]))
    """

    tokens: Array
    mask: Array
    facts: Mapping[str, Array] = field(default_factory=dict)
    reference: Reference | None = None
    _memo: dict[Hashable, Any] = field(default_factory=dict, repr=False, init=False)

    def __post_init__(self) -> None:
        tokens, mask = np.asarray(self.tokens), np.asarray(self.mask)
        if tokens.ndim != 2:
            raise ValueError(f"tokens has shape {tokens.shape}; expected (N, T)")
        if tokens.dtype.kind not in "iu":
            raise ValueError(f"tokens has dtype {tokens.dtype}; expected integers")
        if mask.shape != tokens.shape:
            raise ValueError(f"mask has shape {mask.shape}; expected that of tokens, {tokens.shape}")
        if mask.dtype != bool:
            raise ValueError(f"mask has dtype {mask.dtype}; expected bool")
        if tokens.size and tokens.min() < 0:
            row = _first(np.asarray(tokens < 0))
            raise ValueError(f"tokens has the negative id {tokens.min()} in row {row}; pad with any valid id")
        if tokens.shape[1] and mask[:, 0].any():
            raise ValueError(
                f"mask counts the first token of row {_first(mask[:, :1])}, which nothing before it predicts"
            )
        silent = np.asarray(~mask.any(axis=1))
        if silent.any():
            raise ValueError(f"mask has no response token in row {_first(silent)}")
        facts = {name: np.asarray(fact) for name, fact in self.facts.items()}
        for name, fact in facts.items():
            if fact.shape not in (tokens.shape[:1], tokens.shape):
                raise ValueError(f"{name} has shape {fact.shape}; expected {tokens.shape[:1]} or {tokens.shape}")
        for name, value in (("tokens", _fixed(tokens)), ("mask", _fixed(mask)), ("facts", facts)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def length(self) -> Array:
        """Response tokens that count, (N,) integers."""
        return self.memo("length", lambda: self.mask.sum(axis=1))

    @property
    def width(self) -> Array:
        """Tokens up to the last that counts, prompt included, (N,) integers."""
        return self.memo("width", lambda: self.tokens.shape[1] - np.argmax(self.mask[:, ::-1], axis=1))

    @property
    def whole(self) -> Array:
        """True on all tokens up to the last that counts but the first, the prompt's among them, (N, T) booleans."""
        at = np.arange(self.tokens.shape[1])
        return self.memo("whole", lambda: (at > 0) & (at < self.width[:, None]))

    @property
    def every(self) -> Array:
        """The number of each row, (N,) integers."""
        return self.memo("every", lambda: np.arange(len(self)))

    def with_facts(self, **facts: ArrayLike) -> Responses:
        """The same responses, told more: arrays (N,) or (N, T) by name."""
        told = replace(self, facts={**self.facts, **{name: np.asarray(fact) for name, fact in facts.items()}})
        object.__setattr__(told, "_memo", self._memo)
        return told

    def take(self, rows: Array) -> Responses:
        """The given rows, in the given order, without the padding that no row of them needs."""
        width = int(self.width[rows].max(initial=1))
        facts = {name: fact[rows] if fact.ndim == 1 else fact[rows, :width] for name, fact in self.facts.items()}
        return Responses(self.tokens[rows, :width], self.mask[rows, :width], facts, self.reference)

    def memo(self, key: Hashable, build: Callable[[], Built]) -> Built:
        """What was derived from these responses before (a policy's counts, say), or `build()`, kept from now on."""
        if key not in self._memo:
            self._memo[key] = build()
        return self._memo[key]  # type: ignore[no-any-return]


#: facts that responses know of themselves
DERIVED: dict[str, Callable[[Responses], Array]] = {
    "length": lambda responses: responses.length,
    "full_length": lambda responses: responses.width - 1,
    "mask": lambda responses: responses.mask,
}


@dataclass(frozen=True, eq=False)
class Preferences:
    """A weighted measure on comparisons.

    index  : (B, K) rows of `responses`: chosen, rejected, worse ...; -1 (at the end of a row only) where there is none.
    weight : (B,) non-negative; by default 1/B each, so that a loss is the mean over comparisons.
    facts  : name -> () one number for all, (B,) one a comparison (`label`), or (B, K) one a response of it.

    Raises `ValueError` on shapes that do not fit, indices out of range and weights that are negative or not finite.

    >>> pairs = Preferences.of([[0]], [[1, 2, 0]], [[2, 0]])
    >>> pairs.index, pairs.weight, pairs.responses.tokens.tolist()
    (array([[0, 1]]), array([1.]), [[0, 1, 2, 0], [0, 2, 0, 0]])
    """

    responses: Responses
    index: Array
    weight: Array = None  # type: ignore[assignment]  # an array from __post_init__ on
    facts: Mapping[str, Any] = field(default_factory=dict)
    _memo: dict[Hashable, Any] = field(default_factory=dict, repr=False, init=False)

    def __post_init__(self) -> None:
        index = np.asarray(self.index)
        if index.ndim != 2 or index.dtype.kind not in "iu":
            raise ValueError(f"index has shape {index.shape} and dtype {index.dtype}; expected (B, K) integers")
        if not len(index) or not index.shape[1]:
            raise ValueError(f"index has shape {index.shape}; expected at least one comparison of one response")
        outside = (index < -1) | (index >= len(self.responses)) | (index[:, :1] == -1)
        outside |= (index >= 0) & (np.minimum.accumulate(index, axis=1) == -1)
        if outside.any():
            raise ValueError(f"index row {_first(outside)} is {index[_first(outside)].tolist()}; expected rows of the "
                             f"{len(self.responses)} responses, and -1 only after the last of a shorter ranking")
        weight = np.full(len(index), 1 / len(index)) if self.weight is None else np.asarray(self.weight)
        if weight.shape != index.shape[:1] or weight.dtype.kind not in "fiu":
            raise ValueError(
                f"weight has shape {weight.shape} and dtype {weight.dtype}; expected {index.shape[:1]} numbers"
            )
        if not (np.isfinite(weight) & (weight >= 0)).all():
            row = _first(~(np.isfinite(weight) & (weight >= 0)))
            raise ValueError(f"weight is {weight[row]} in row {row}; expected a finite number, at least 0")
        facts = {name: np.asarray(fact) for name, fact in self.facts.items()}
        for name, fact in facts.items():
            if fact.shape not in ((), index.shape[:1], index.shape):
                raise ValueError(f"{name} has shape {fact.shape}; expected (), {index.shape[:1]} or {index.shape}")
        for name, value in (("index", _fixed(index)), ("weight", weight), ("facts", facts)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], *columns: Sequence[Sequence[int] | None],
           weight: ArrayLike | None = None, **facts: ArrayLike) -> Preferences:
        """From token ids: B prompts, then a column of B responses each: chosen, rejected, worse ...

        A prompt has at least one token (a lone boundary token will do: the first token is never predicted), a response
        at least one, its end-of-string token included. `None` stands where a ranking is shorter. One column, with
        `label=`, is unpaired data. Other facts by name. Warns, naming the rows, where a comparison holds the same
        response twice: it teaches nothing.
        """
        if not columns or any(len(column) != len(prompts) for column in columns):
            raise ValueError(
                f"got {len(prompts)} prompts and columns of {[len(c) for c in columns]} responses; expected as many"
            )
        seen: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        index = np.full((len(prompts), len(columns)), -1)
        for b, prompt in enumerate(prompts):
            if not len(prompt):
                raise ValueError(
                    f"the prompt of row {b} is empty; expected at least one token, a boundary token if nothing else"
                )
            for k, column in enumerate(columns):
                response = column[b]
                if response is None:
                    continue
                if not len(response):
                    raise ValueError(f"response {k} of row {b} is empty; expected at least its end-of-string token")
                index[b, k] = seen.setdefault((tuple(prompt), tuple(response)), len(seen))
        told = {name: np.asarray(fact) for name, fact in facts.items()}
        built = cls(pad(seen), index, facts=told) if weight is None else cls(pad(seen), index, np.asarray(weight), told)
        ordered = np.sort(index, axis=1)
        twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
        if twice.any():
            warnings.warn(f"a response is compared with itself in {twice.sum()} of {len(index)} comparisons "
                          f"(rows {_some(twice)}): nothing can be learned from them", stacklevel=2)
        return built

    def with_facts(self, **facts: ArrayLike) -> Preferences:
        """The same comparisons, told more: arrays (), (B,) or (B, K) by name."""
        return replace(self, facts={**self.facts, **{name: np.asarray(fact) for name, fact in facts.items()}})

    def with_reference(self, policy: Policy, params: Params, *readings: str) -> Preferences:
        """The same comparisons, told the reference's `ref_logp`, or `ref_` with each reading named (`logp` ...).

        `kl` keeps the frozen reference itself: its distributions are read again when the loss is, block by block.
        """
        from .gradient import read

        every = self.responses.every
        stored = [name for name in readings or ("logp",) if name != "kl"]
        values, _ = read(policy, params, self.responses, every, stored)
        responses = self.responses.with_facts(**{f"ref_{name}": value for name, value in values.items()})
        if "kl" in readings:
            responses = replace(responses, reference=Reference.of(policy, params))
        return replace(self, responses=responses)

    def fact(self, name: str) -> Array | None:
        """A fact aligned with the comparisons, (), (B,), (B, K) or, of tokens, (B, K, T); None if not told."""
        if name in self.facts:
            return np.asarray(self.facts[name])
        if name == "present":
            return self.index >= 0
        if name in DERIVED:
            table: Array | None = DERIVED[name](self.responses)
        else:
            table = self.responses.facts.get(name)
        if table is None:
            return None
        gathered = table.take(self.index, axis=0)  # of -1 the last row, of which nothing is left
        if self.shorter:
            absent = (self.index < 0).reshape(self.index.shape + (1,) * (gathered.ndim - 2))
            gathered = np.where(absent, np.ones((), gathered.dtype), gathered)
        return gathered

    @property
    def shorter(self) -> bool:
        """Whether a ranking is shorter than K"""
        return self.memo("shorter", lambda: bool((self.index < 0).any()))

    def distinct(self) -> tuple[Array, Array]:
        """(rows, where): the n responses that are compared, each once and in their order, and (B, K) the place of each
        among them, -1 where there is none
        """
        def build() -> tuple[Array, Array]:
            present = self.index >= 0
            rows, inverse = np.unique(self.index[present], return_inverse=True)
            where = np.full(self.index.shape, -1)
            where[present] = inverse
            return (self.responses.every if len(rows) == len(self.responses) else rows), where

        return self.memo("distinct", build)

    def memo(self, key: Hashable, build: Callable[[], Built]) -> Built:
        """What was derived from these comparisons before, or `build()`, kept from now on."""
        if key not in self._memo:
            self._memo[key] = build()
        return self._memo[key]  # type: ignore[no-any-return]

    def slice(self, rows: Array) -> Preferences:
        """Some of the comparisons with the weights they have here: parts add up to the whole."""
        facts = {name: fact if np.ndim(fact) == 0 else fact[rows] for name, fact in self.facts.items()}
        return Preferences(self.responses, self.index[rows], self.weight[rows], facts)

    def scaled(self, factor: float) -> Preferences:
        """The same comparisons, every weight times `factor`."""
        return replace(self, weight=self.weight * factor)

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[Preferences]:
        """Shuffled batches of `size`, epoch after epoch, without end.

        A slice's weights are scaled by n/size and not made to sum to one: so its loss and gradient are unbiased for the
        whole's, whatever the weights. (Renormalising each slice is biased as soon as weights differ.)
        """
        while True:
            yield from self.epoch(size, rng)

    def epoch(self, size: int, rng: np.random.Generator) -> Iterator[Preferences]:
        """One pass over the comparisons in shuffled batches, as in `batches`; the last one may be smaller."""
        if not 1 <= size:
            raise ValueError(f"size is {size}; expected at least 1")
        order = rng.permutation(len(self))
        for start in range(0, len(self), size):
            rows = order[start:start + size]
            yield self.slice(rows).scaled(len(self) / len(rows))


def pad(rows: Iterable[tuple[Sequence[int], Sequence[int]]], dtype: Any = np.int64) -> Responses:
    """Responses from (prompt, response) pairs of token ids, padded on the right with 0."""
    rows = list(rows)
    width = max((len(p) + len(r) for p, r in rows), default=0)
    tokens, mask = np.zeros((len(rows), width), dtype), np.zeros((len(rows), width), bool)
    for row, (prompt, response) in enumerate(rows):
        end, ids = len(prompt) + len(response), np.asarray([*prompt, *response])
        if ids.dtype.kind not in "iu":
            raise ValueError(
                f"prompt {prompt} and response {response} hold tokens of dtype {ids.dtype}; expected integers"
            )
        tokens[row, :end] = ids
        mask[row, len(prompt):end] = True
    return Responses(tokens, mask)


def _fixed(x: Array) -> Array:
    """x, which cannot be written to from here on: what is derived from it is kept"""
    x = x.view()
    x.flags.writeable = False
    return x


def _first(bad: Array) -> int:
    """The first row that holds a true entry."""
    return int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))


def _some(bad: Array) -> str:
    rows = np.flatnonzero(bad)
    return ", ".join(map(str, rows[:5])) + (" ..." if len(rows) > 5 else "")
