"""One JSON array over a whole text: its elements, without the array in memory.

Most pieces are cut behind an element that a separator follows, and msgspec reads all of their elements at once. A piece
for which that does not work is read element by element.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import msgspec

from rudderpipe.errors import IngestionError
from rudderpipe.ingestion.batches import find_all
from rudderpipe.ingestion.block import PREVIEW_BYTES, RECORD_LIMIT_BYTES, Block, Position, Reject, too_long
from rudderpipe.ingestion.input import Input

_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode
_BLANK = b" \t\r\n"
_BETWEEN = _BLANK + b","
_TRIES = 4
_GROUP = 200
"""The most elements of one block that are read one by one."""
_separator = re.compile(rb'(\s*,\s*\{)\s*"[^"\\]{1,100}"\s*:')
_outside = re.compile(rb'["{}\[\],]')
_inside = re.compile(rb'["\\]')


def blocks(source: Input, start: Position, *, is_open: bool) -> Iterator[Block]:
    """Yield the elements of an array; ``source`` stands at ``start.offset``, which is behind the ``[`` if ``is_open``.

    The number of a record is its place in the array, from 1. Raises ``IngestionError`` for a text that goes on behind
    the array, or ends within it, after its whole elements.
    """
    return _Array(source, start, is_open=is_open).blocks()


class _Array:
    def __init__(self, source: Input, start: Position, *, is_open: bool) -> None:
        self._source = source
        self._number = start.number
        self._offset = start.offset
        """The offset of ``_text``."""
        self._text = b""
        self._is_open = is_open
        self._reads = 0
        self._separators = [b"},"]
        """What stood between two elements, from the end of the first one; the best one is first."""

    def blocks(self) -> Iterator[Block]:
        while True:
            self._strip(_BETWEEN if self._is_open else _BLANK)
            if not self._text:
                if not self._read():
                    break
            elif not self._is_open:
                if not self._text.startswith(b"["):
                    raise self._error("is no JSON array: its first character is no [")
                self._drop(1)
                self._is_open = True
            elif self._text.startswith(b"]"):
                self._end()
                return
            elif (block := self._many()) is not None:
                yield block
            else:
                yield from self._one_by_one()
        if self._is_open:
            raise self._cut_off()

    def _many(self) -> Block | None:
        """Return a block of all elements up to the last separator of the text; None if they cannot be told."""
        for cut in self._cuts():
            whole = self._text[: cut + 1]
            try:
                raws = _elements(b"[%b]" % whole)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
            texts = [bytes(each) for each in raws]
            number, offset = self._number, self._offset
            self._number += len(texts)
            self._drop(len(whole))
            end = Position(self._number, self._offset)
            return Block(texts, range(number, self._number), partial(_places, whole, texts, offset), end)
        return None

    def _cuts(self) -> Iterator[int]:
        """Yield places of the text that may be the end of an element, the most likely one first."""
        for separator in self._separators:
            cut = len(self._text)
            for _ in range(_TRIES):
                cut = self._text.rfind(separator, 0, cut)
                if cut < 0:
                    break
                yield cut

    def _one_by_one(self) -> Iterator[Block]:
        """Yield the elements in the text, or the one that the text begins, with as much more as it takes."""
        texts: list[bytes] = []
        offsets: list[int] = []
        number, reads = self._number, self._reads
        while True:
            offset = self._offset
            found = self._element()
            if len(self._separators) == 1 and (match := _separator.match(self._text)):
                self._separators = [b"}" + match[0], b"}" + match[1], *self._separators]
            if isinstance(found, bytes):
                texts.append(found)
                offsets.append(offset)
            self._number += 1
            end = Position(self._number, self._offset)
            if isinstance(found, Reject):
                yield Block(texts, range(number, number + len(texts)), offsets, end, rejects=[found])
                return
            self._strip(_BETWEEN)
            if not self._text or self._text.startswith(b"]") or len(texts) >= _GROUP or self._reads > reads:
                yield Block(texts, range(number, number + len(texts)), offsets, end)
                return

    def _element(self) -> bytes | Reject:
        """Take the element that the text begins: up to the comma or bracket behind it, by counting brackets."""
        held: list[bytes] = []
        size_bytes = at = depth = 0
        is_inside = False
        offset = self._offset
        while True:
            match = (_inside if is_inside else _outside).search(self._text, at)
            if match is None or (match[0] == b"\\" and match.end() == len(self._text)):
                rest = b"" if match is None else self._text[match.start() :]
                taken = self._text[: len(self._text) - len(rest)]
                held.append(taken)
                size_bytes += len(taken)
                self._drop(len(taken))
                if size_bytes > RECORD_LIMIT_BYTES:
                    held = [b"".join(held)[:PREVIEW_BYTES]]
                if not self._read():
                    raise self._cut_off()
                at = 0
                continue
            at = match.end()
            sign = match[0]
            if is_inside:
                if sign == b"\\":
                    at += 1
                else:
                    is_inside = False
            elif sign == b'"':
                is_inside = True
            elif sign in b"{[":
                depth += 1
            elif depth and sign in b"}]":
                depth -= 1
            elif not depth:  # the comma or the bracket behind the element
                text = b"".join((*held, self._text[: match.start()]))
                size_bytes += match.start()
                self._drop(match.start())
                if size_bytes > RECORD_LIMIT_BYTES:
                    return too_long(self._number, offset, text, size_bytes)
                return text.rstrip(_BLANK)

    def _end(self) -> None:
        """Read what is behind the array."""
        self._drop(1)
        while self._read():
            pass
        if self._text.strip(_BLANK):
            raise self._error("goes on behind the end of its JSON array; the records of the array have been read")

    def _read(self) -> bool:
        piece = self._source.read()
        self._text += piece
        self._reads += 1
        return bool(piece)

    def _drop(self, size_bytes: int) -> None:
        self._text = self._text[size_bytes:]
        self._offset += size_bytes

    def _strip(self, blank: bytes) -> None:
        self._drop(len(self._text) - len(self._text.lstrip(blank)))

    def _cut_off(self) -> IngestionError:
        return self._error("ends within its JSON array, so it may be cut off; the records before have been read")

    def _error(self, reason: str) -> IngestionError:
        return IngestionError(self._source.source.path, f"{reason} (byte {self._offset:,} of its text)", None)


def _places(whole: bytes, texts: list[bytes], offset: int) -> list[int]:
    return [offset + each for each in find_all(whole, texts)]
