"""A block: consecutive records of one source, in the form in which the reader hands them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from rudderpipe.settings import EVENT_LIMIT_BYTES

RECORD_LIMIT_BYTES = EVENT_LIMIT_BYTES
"""The most bytes of one record; a longer one is rejected without being held in memory."""
PREVIEW_BYTES = 1_000
"""The first bytes of a record that is too long, which its reject keeps."""


class Position(msgspec.Struct, frozen=True):
    """A place between two records, where reading can go on."""

    number: int = 1
    """The number of the next record: its line, its row in a table's file, or its place in an array; from 1."""
    offset: int = 0
    """The offset of the next record in bytes of the decompressed file; in a Parquet file, its row from 0."""
    step: int = 0
    """The records of the line at ``offset`` that are done: only for a line that holds several."""


class Reject(msgspec.Struct, frozen=True):
    """A record that cannot be sent."""

    number: int
    """The number of its first line, its row or its place in an array; from 1."""
    offset: int
    kind: str
    """The reason without what differs from record to record, by which a summary counts."""
    reason: str
    """What is wrong, for people; it holds no part of the record."""
    text: bytes
    """The record's bytes; only the first ``PREVIEW_BYTES`` if it is too long."""
    size_bytes: int
    """The length of the record; greater than that of ``text`` if ``text`` is only its beginning."""


class Block:
    """Consecutive records of one source, without those that the reader rejects itself."""

    __slots__ = ("_offsets", "_starts", "_steps", "end", "messages", "numbers", "rejects", "texts")

    def __init__(
        self,
        texts: list[bytes],
        numbers: Sequence[int],
        offsets: Sequence[int] | Callable[[], Sequence[int]],
        end: Position,
        *,
        messages: list[dict[str, Any]] | None = None,
        rejects: list[Reject] | None = None,
        starts: Sequence[int] | None = None,
        steps: Sequence[int] | None = None,
    ) -> None:
        self.texts = texts
        """The bytes of each record as they are in the file, without the end of the line."""
        self.numbers = numbers
        """The number of each record: the first line, the row, or the place in the array; from 1."""
        self.messages = messages
        """The mapped message of each record, or None if the texts are the messages' JSON."""
        self.rejects = rejects or []
        """The records between the first one and ``end`` that cannot be sent."""
        self.end = end
        """The place behind the last record."""
        self._offsets = offsets
        self._starts = starts
        self._steps = steps

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def offsets(self) -> Sequence[int]:
        """The offset of each record's text in the decompressed file, in bytes; in a Parquet file, its row from 0."""
        if callable(self._offsets):
            self._offsets = self._offsets()
        return self._offsets

    def position(self, index: int) -> Position:
        """Return the place before a record of this block, or ``end`` for the index behind the last one."""
        if index >= len(self.texts):
            return self.end
        start = (self.offsets if self._starts is None else self._starts)[index]
        return Position(self.numbers[index], start, 0 if self._steps is None else self._steps[index])

    def without(self, refused: dict[int, Reject]) -> Block:
        """Return the block without some records, by their indices, with their rejects; it has no messages."""
        kept = [index for index in range(len(self.texts)) if index not in refused]

        def of(values: Sequence[int]) -> list[int]:
            return [values[index] for index in kept]

        return Block(
            [self.texts[index] for index in kept],
            of(self.numbers),
            of(self.offsets),
            self.end,
            rejects=sorted((*self.rejects, *refused.values()), key=lambda each: each.offset),
            starts=None if self._starts is None else of(self._starts),
            steps=None if self._steps is None else of(self._steps),
        )


def too_long(number: int, offset: int, text: bytes, size_bytes: int) -> Reject:
    """Return the reject of a record of more than ``RECORD_LIMIT_BYTES``; ``text`` is at least its beginning."""
    reason = f"has {size_bytes:,} bytes, the limit is {RECORD_LIMIT_BYTES:,}"
    return Reject(number, offset, "is too large", reason, text[:PREVIEW_BYTES], size_bytes)


def reject(number: int, offset: int, kind: str, text: bytes, reason: str = "") -> Reject:
    """Return the reject of a record; ``reason`` is the kind if there is nothing more to say."""
    return Reject(number, offset, kind, reason or kind, text, len(text))
