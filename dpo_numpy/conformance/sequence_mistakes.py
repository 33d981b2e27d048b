"""Known mistakes between logits and log-probs of sequences: what is scored in place of the response's tokens.

A reading tells, by position of the logits, which token is scored there and whether it counts. The seams that start at
logits try each: a shift, the prompt, padding, EOS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["EOS", "Scored", "following", "readings_of", "truly"]

Array = NDArray[Any]
#: tokens, mask ... -> targets and counts, by position of logits
Scored = Callable[[Mapping[str, Array]], tuple[Array, Array]]
#: its id in every case
EOS = 2


def following(x: Array, fill: Any = 0) -> Array:
    """x of the token that each position scores"""
    return np.concatenate([x[:, 1:], np.full_like(x[:, :1], fill)], axis=1)


def truly(told: Mapping[str, Array]) -> tuple[Array, Array]:
    """The targets and the counts that are right, by position of logits"""
    return following(told["tokens"]), following(told["mask"])


def readings_of() -> Iterator[tuple[str, str, Scored]]:
    """What may be scored in place of what should be: a mistake, its name, targets and counts by position of logits"""

    def counted(keep: Callable[[Mapping[str, Array]], Array]) -> Scored:
        return lambda told: (following(told["tokens"]), following(keep(told) & (np.arange(told["mask"].shape[1]) > 0)))

    def last(mask: Array) -> Array:
        return np.asarray(mask & ~following(mask, False))

    def first(mask: Array) -> Array:
        return np.asarray(mask & (np.cumsum(mask, axis=1) == 1))

    def until(mask: Array) -> Array:
        return np.asarray(np.cumsum(mask[:, ::-1], axis=1)[:, ::-1] > 0)

    def since(mask: Array) -> Array:
        return np.asarray(np.cumsum(mask, axis=1) > 0)

    at = np.arange
    yield (
        "shift-off-by-one",
        "each position's logits are asked for its own token, not the next",
        lambda told: (told["tokens"], told["mask"]),
    )
    yield (
        "shift-off-by-one",
        "tokens are shifted and the mask is not",
        lambda told: (
            following(told["tokens"]),
            np.where(at(told["mask"].shape[1]) < told["mask"].shape[1] - 1, told["mask"], False),
        ),
    )
    yield (
        "shift-off-by-one",
        "the mask is shifted and tokens are not",
        lambda told: (told["tokens"], following(told["mask"])),
    )
    yield (
        "shift-off-by-one",
        "tokens are shifted twice",
        lambda told: (
            following(following(told["tokens"])),
            following(told["mask"]) & (at(told["mask"].shape[1]) < told["mask"].shape[1] - 2),
        ),
    )
    yield (
        "shift-off-by-one",
        "labels are shifted twice",
        lambda told: (following(following(told["tokens"])), following(following(told["mask"]))),
    )
    yield (
        "prompt-included",
        "the prompt's last token counts too",
        counted(lambda told: told["mask"] | following(told["mask"])),
    )
    yield "prompt-included", "the prompt's tokens count too", counted(lambda told: told["real"])
    yield "prompt-included", "all up to the response's end counts", counted(lambda told: until(told["mask"]))
    yield "padding-counted", "padding counts too", counted(lambda told: told["mask"] | ~told["real"])
    yield (
        "padding-counted",
        "all from the response's start on counts, padding too",
        counted(lambda told: since(told["mask"])),
    )
    yield "padding-counted", "every token counts, prompt and padding", counted(lambda told: np.ones_like(told["mask"]))
    yield (
        "padding-counted",
        "one token after the response's end counts too",
        counted(
            lambda told: (
                told["mask"] | np.concatenate([told["mask"][:, :1] & False, last(told["mask"])[:, :-1]], axis=1)
            )
        ),
    )
    yield (
        "last-token-dropped",
        "the batch's last column is dropped",
        counted(lambda told: told["mask"] & (at(told["mask"].shape[1]) < told["mask"].shape[1] - 1)),
    )
    yield (
        "eos-masked",
        "the response's last token, its EOS, does not count",
        counted(lambda told: told["mask"] & ~last(told["mask"])),
    )
    yield (
        "shift-off-by-one",
        "the response's first token does not count",
        counted(lambda told: told["mask"] & ~first(told["mask"])),
    )
    yield (
        "pad-is-eos",
        "tokens that have the id of padding do not count, a response's EOS among them",
        counted(lambda told: told["mask"] & (told["tokens"] != told["pad"])),
    )
    yield "eos-masked", "EOS does not count", counted(lambda told: told["mask"] & (told["tokens"] != EOS))
    yield (
        "token-0-dropped",
        "tokens whose id is 0 do not count",
        counted(lambda told: told["mask"] & (told["tokens"] != 0)),
    )
    yield (
        "pad-is-eos",
        "what counts is found by the id of padding",
        counted(lambda told: since(told["mask"]) & (told["tokens"] != told["pad"])),
    )
