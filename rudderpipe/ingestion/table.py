"""CSV and TSV: rows with a header, quoted cells over several lines, and a mapping."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rudderpipe.errors import IngestionError
from rudderpipe.ingestion.block import RECORD_LIMIT_BYTES, Block, Position, Reject, reject
from rudderpipe.ingestion.conversion import Unfit
from rudderpipe.ingestion.formats import delimiter_of
from rudderpipe.ingestion.input import MARK, Input
from rudderpipe.ingestion.lines import groups, offsets_of
from rudderpipe.ingestion.mapping import Mapping, ToMessage

WRONG_WIDTH = "has more or fewer cells than the header"
UNCLOSED = "has a quote that is not closed"
UNREADABLE = "cannot be read as CSV"
_SEPARATOR = b"sep="
"""The beginning of a line before the header in which Excel names the delimiter."""
_Row = list[str] | str
"""The cells of a row, or the reason why it cannot be read."""


class Table:
    """The rows of a text with a header."""

    def __init__(self, name: str, head: bytes, *, is_whole: bool, delimiter: str | None, mapping: Mapping) -> None:
        """Read the header from the first bytes of the text.

        ``delimiter`` is found in the header if it is None. Raises ``IngestionError`` for a header that is not whole in
        ``head``, and ``SettingsError`` for a mapped column that it does not have.
        """
        skipped, number = (len(MARK) if head.startswith(MARK) else 0), 1
        first = head[skipped:].partition(b"\n")[0]
        if first.lower().startswith(_SEPARATOR) and len(first.rstrip(b"\r")) == len(_SEPARATOR) + 1:
            delimiter = chr(first[len(_SEPARATOR)])
            skipped, number = skipped + len(first) + 1, 2
        if b"\r" in first and b"\n" not in head:
            raise IngestionError(name, "its lines end with CR alone: convert it, for example with tr '\\r' '\\n'")
        lines = head[skipped:].split(b"\n")
        texts = [line.decode("utf-8", "replace") for line in lines]
        self._delimiter = delimiter or delimiter_of(texts[0]) or ","
        feed = _Feed(texts)
        try:
            names = next(csv.reader(feed.lines(), delimiter=self._delimiter), [])
        except csv.Error as error:
            raise IngestionError(name, f"its header cannot be read as CSV: {error}") from None
        if feed.is_used_up or (feed.taken == len(lines) and not is_whole):
            raise IngestionError(name, f"its header does not end within {len(head):,} bytes")
        self.columns = [each.strip() for each in names]
        size_bytes = skipped + sum(len(line) + 1 for line in lines[: feed.taken])
        self.start = Position(number + feed.taken, min(size_bytes, len(head)))
        """The place of the first row."""
        self._to_message = mapping.for_columns(self.columns)

    def blocks(self, source: Input, start: Position) -> Iterator[Block]:
        """Yield the rows with their messages; ``source`` stands at ``start.offset``. A blank line is no row.

        The number of a row is that of its first line. The memory is bounded by one row of ``RECORD_LIMIT_BYTES``.
        """
        held: list[bytes] = []
        place = end = start
        for lines, _, end, rejects in groups(source, start):
            held += lines
            before = Position(end.number - len(rejects), end.offset - sum(each.size_bytes + 1 for each in rejects))
            block, held = self._rows(held, place, before)
            place = block.end
            yield block
            if held and (rejects or end.offset - place.offset > RECORD_LIMIT_BYTES):
                yield self._each_line(held, place, before)
                held = []
            if not held:
                place = end
            if rejects:  # a line that is too long
                yield Block([], (), (), end, rejects=rejects)
        if held:
            yield self._each_line(held, place, end)

    def _rows(self, lines: list[bytes], place: Position, end: Position) -> tuple[Block, list[bytes]]:
        """Return a block of the rows that are whole, and the lines of the last row if it is not."""
        whole = b"\n".join(lines)
        if b'"' not in whole:
            return self._each_line(lines, place, end), []
        builder = _Builder(self._to_message, len(self.columns))
        feed = _Feed(whole.decode("utf-8", "surrogateescape").split("\n"))
        offsets = offsets_of(lines, place.offset)()
        before = 0
        with _long_cells():
            rows = csv.reader(feed.lines(), delimiter=self._delimiter)
            while True:
                try:
                    row: _Row | None = next(rows, None)
                except csv.Error:
                    row = UNREADABLE
                if row is None:
                    return builder.block(end), []
                if feed.is_used_up:
                    return builder.block(Position(place.number + before, offsets[before])), lines[before:]
                text = lines[before] if feed.taken == before + 1 else b"\n".join(lines[before : feed.taken])
                builder.add(row, place.number + before, offsets[before], text)
                before = feed.taken

    def _each_line(self, lines: list[bytes], place: Position, end: Position) -> Block:
        """Return a block of rows of one line each; a quote that is not closed in its line makes a reject."""
        builder = _Builder(self._to_message, len(self.columns))
        offsets = offsets_of(lines, place.offset)()
        texts = b"\n".join(lines).decode("utf-8", "surrogateescape").split("\n") if lines else []
        with _long_cells():
            rows: list[_Row]
            try:
                rows = list(csv.reader(texts, delimiter=self._delimiter, strict=True))
            except csv.Error:
                rows = []
            if len(rows) != len(texts):
                rows = [self._row(text) for text in texts]
        for index, row in enumerate(rows):
            builder.add(row, place.number + index, offsets[index], lines[index])
        return builder.block(end)

    def _row(self, text: str) -> _Row:
        feed = _Feed([text])
        try:
            row = next(csv.reader(feed.lines(), delimiter=self._delimiter), [])
        except csv.Error:
            return UNREADABLE
        return UNCLOSED if feed.is_used_up else row


class _Builder:
    """The rows of one block."""

    def __init__(self, to_message: ToMessage, width: int) -> None:
        self._to_message = to_message
        self._width = width
        self._texts: list[bytes] = []
        self._numbers: list[int] = []
        self._offsets: list[int] = []
        self._messages: list[dict[str, Any]] = []
        self._rejects: list[Reject] = []

    def add(self, row: _Row, number: int, offset: int, text: bytes) -> None:
        if not row:
            return
        try:
            if type(row) is str:
                raise Unfit(row)
            if len(row) != self._width:
                raise Unfit(WRONG_WIDTH)
            message = self._to_message(row)
            if not text.isascii():
                text.decode()
        except Unfit as error:
            self._rejects.append(reject(number, offset, str(error), text))
        except UnicodeDecodeError:
            self._rejects.append(reject(number, offset, "is not UTF-8", text))
        else:
            self._messages.append(message)
            self._texts.append(text)
            self._numbers.append(number)
            self._offsets.append(offset)

    def block(self, end: Position) -> Block:
        return Block(self._texts, self._numbers, self._offsets, end, messages=self._messages, rejects=self._rejects)


class _Feed:
    """Lines for ``csv.reader``, which takes another one as long as a quote is open."""

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts
        self.taken = 0
        self.is_used_up = False
        """True once a line was asked for that is not there."""

    def lines(self) -> Iterator[str]:
        for text in self._texts:
            self.taken += 1
            yield text + "\n"
        self.is_used_up = True


@contextmanager
def _long_cells() -> Iterator[None]:
    """Allow cells as long as a record; the limit belongs to the whole process, so it is set back."""
    before = csv.field_size_limit(RECORD_LIMIT_BYTES * 2)
    try:
        yield
    finally:
        csv.field_size_limit(before)
