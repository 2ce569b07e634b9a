"""Lines of a text, one record each, split from large pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate

from rudderpipe.ingestion.block import PREVIEW_BYTES, RECORD_LIMIT_BYTES, Block, Position, Reject, too_long
from rudderpipe.ingestion.input import Input


def blocks(source: Input, start: Position) -> Iterator[Block]:
    """Yield the lines of an input from a place on; ``source`` stands at ``start.offset``.

    A blank line is no record, but is counted. A last line without an end counts.
    """
    for lines, place, end, rejects in groups(source, start):
        offsets = offsets_of(lines, place.offset)
        if all(lines) and not any(map(bytes.isspace, lines)):
            yield Block(lines, range(place.number, place.number + len(lines)), offsets, end, rejects=rejects)
            continue
        all_offsets = offsets()
        kept = [index for index, line in enumerate(lines) if line and not line.isspace()]
        numbers = [place.number + index for index in kept]
        texts = [lines[index] for index in kept]
        yield Block(texts, numbers, [all_offsets[index] for index in kept], end, rejects=rejects)


def offsets_of(lines: list[bytes], first: int) -> Callable[[], list[int]]:
    """Return a function that finds the offset of each line, because most blocks need none."""

    def find() -> list[int]:
        return list(accumulate((len(line) + 1 for line in lines[:-1]), initial=first)) if lines else []

    return find


def groups(source: Input, start: Position) -> Iterator[tuple[list[bytes], Position, Position, list[Reject]]]:
    """Yield groups of consecutive lines, each with its place and the place behind it.

    A line that is too long comes as a reject, in a group of its own. The memory is bounded by one piece of the input
    and one line of ``RECORD_LIMIT_BYTES``.
    """
    number, offset = start.number, start.offset
    begun = _Begun()
    while piece := source.read():
        lines = piece.split(b"\n")
        last = lines.pop()
        if lines:
            if begun.size_bytes:
                begun.add(lines[0])
                lines[0] = begun.text()
                if begun.size_bytes > RECORD_LIMIT_BYTES:
                    after = Position(number + 1, offset + begun.size_bytes + 1)
                    yield [], Position(number, offset), after, [too_long(number, offset, lines[0], begun.size_bytes)]
                    number, offset = after.number, after.offset
                    del lines[0]
            if lines:
                after = Position(number + len(lines), offset + sum(map(len, lines)) + len(lines))
                yield lines, Position(number, offset), after, []
                number, offset = after.number, after.offset
            begun = _Begun()
        if last:
            begun.add(last)
    if begun.size_bytes:
        place, after = Position(number, offset), Position(number + 1, offset + begun.size_bytes)
        if begun.size_bytes > RECORD_LIMIT_BYTES:
            yield [], place, after, [too_long(number, offset, begun.text(), begun.size_bytes)]
        else:
            yield [begun.text()], place, after, []


class _Begun:
    """A line whose end has not been read; only its beginning is kept once it is too long."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._pieces: list[bytes] = []

    def add(self, piece: bytes) -> None:
        self.size_bytes += len(piece)
        self._pieces.append(piece)
        if self.size_bytes > RECORD_LIMIT_BYTES:
            self._pieces = [self.text()[:PREVIEW_BYTES]]

    def text(self) -> bytes:
        return b"".join(self._pieces)
