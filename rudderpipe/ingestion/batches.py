"""Lines ``{"batch": […]}``, as SDKs send them: each event of a line is a record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from rudderpipe.ingestion.block import Block, Position, reject
from rudderpipe.ingestion.input import Input
from rudderpipe.ingestion.lines import groups, offsets_of


class _Body(msgspec.Struct):
    batch: list[msgspec.Raw] | None = None


_decode = msgspec.json.Decoder(_Body).decode


def blocks(source: Input, start: Position) -> Iterator[Block]:
    """Yield a block for each line; a line without a ``batch`` is one record itself.

    The number of a record is that of its line, and its offset that of its own text. Of the first line the first
    ``start.step`` events are left out.
    """
    done = start.step
    for lines, place, end, rejects in groups(source, start):
        number = place.number
        offsets = offsets_of(lines, place.offset)()
        for line, offset in zip(lines, offsets, strict=True):
            number += 1
            after = Position(number, offset + len(line) + 1) if number < end.number else end
            if line.strip():
                yield _of_line(line, number - 1, offset, after, done)
            done = 0
        if rejects:
            yield Block([], (), (), end, rejects=rejects)


def _of_line(line: bytes, number: int, offset: int, end: Position, done: int) -> Block:
    try:
        events = _decode(line).batch
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Block([], (), (), end, rejects=[reject(number, offset, "is not a JSON object with a batch", line)])
    if events is None:
        return Block([line], [number], [offset], end)
    texts = [bytes(each) for each in events]
    found = find_all(line, texts)
    count = len(texts) - done
    return Block(
        texts[done:],
        [number] * count,
        [offset + each for each in found[done:]],
        end,
        starts=[offset] * count,
        steps=range(done, done + count),
    )


def find_all(whole: bytes, texts: Sequence[bytes], at: int = 0) -> list[int]:
    """Return the place of each text in ``whole``, where they follow one another from ``at`` on."""
    found = []
    for text in texts:
        at = whole.index(text, at)
        found.append(at)
        at += len(text)
    return found
