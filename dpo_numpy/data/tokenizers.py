"""Text to token ids and back. Id 0 is the boundary: it begins and ends every string, and no text encodes to it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

__all__ = ["Bytes", "Tokenizer", "Words"]

PIECES = re.compile(r" ?\w+| ?[^\w\s]+|\s+")


class Tokenizer(Protocol):
    """Text to ids and back; id 0 is the boundary, which no text has."""

    @property
    def vocab(self) -> int:
        """How many ids there are, the boundary included"""

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without boundaries"""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without boundaries"""


@dataclass(frozen=True)
class Bytes:
    """UTF-8 bytes: byte b is token b + 1, so 257 tokens with the boundary.

    >>> Bytes().encode("né")
    [111, 196, 170]
    >>> Bytes().decode([111, 196, 170, 0])
    'né'
    """

    vocab = 257

    def encode(self, text: str) -> list[int]:
        """b + 1 for each byte b"""
        return [byte + 1 for byte in text.encode("utf-8")]

    def decode(self, ids: Sequence[int]) -> str:
        """Boundaries are dropped, what is not UTF-8 becomes U+FFFD. Raises `ValueError` on ids out of range."""
        _check(ids, self.vocab)
        return bytes(i - 1 for i in ids if i > 0).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class Words:
    """Words with the space before them, runs of punctuation, runs of white space; id 1 is any other piece.

    Lossless on text whose pieces are all known. `Words.fit` keeps the `limit` most frequent pieces, of equally frequent
    ones the first in the alphabet.

    >>> words = Words.fit(["to be or not to be"], limit=3)
    >>> words.pieces, words.encode("to be, to")
    ((' be', ' not', ' or'), [1, 2, 1, 1])
    >>> words.decode([2, 1, 0])
    ' be\\ufffd'
    """

    pieces: tuple[str, ...]

    @classmethod
    def fit(cls, texts: Iterable[str], limit: int) -> Words:
        """The `limit` most frequent pieces of these texts. Raises `ValueError` where `limit` is below 1."""
        if limit < 1:
            raise ValueError(f"limit is {limit}; expected at least 1")
        count = Counter(piece for text in texts for piece in PIECES.findall(text))
        return cls(tuple(sorted(count, key=lambda piece: (-count[piece], piece))[:limit]))

    @cached_property
    def _id(self) -> dict[str, int]:
        return {piece: i for i, piece in enumerate(self.pieces, 2)}

    @property
    def vocab(self) -> int:
        """The pieces, the boundary and the id of any other piece"""
        return len(self.pieces) + 2

    def encode(self, text: str) -> list[int]:
        """The id of each piece, 1 where it is not known"""
        return [self._id.get(piece, 1) for piece in PIECES.findall(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Boundaries are dropped, id 1 becomes U+FFFD. Raises `ValueError` on ids out of range."""
        _check(ids, self.vocab)
        return "".join("\ufffd" if i == 1 else self.pieces[i - 2] for i in ids if i > 0)


def _check(ids: Sequence[int], vocab: int) -> None:
    for i in ids:
        if not 0 <= i < vocab:
            raise ValueError(f"id {i} is not in the vocabulary; expected 0 to {vocab - 1}")
