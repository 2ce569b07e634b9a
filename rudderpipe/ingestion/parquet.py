"""Parquet files, through pyarrow, a few rows of a row group at a time."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from rudderpipe import encoder
from rudderpipe.errors import EventError, IngestionError
from rudderpipe.ingestion.block import Block, Position, Reject, reject
from rudderpipe.ingestion.conversion import Unfit
from rudderpipe.ingestion.mapping import Mapping
from rudderpipe.ingestion.source import Source
from rudderpipe.messages import encode

ROWS = 500
"""The most rows of a block."""
_BUFFER_BYTES = 1 << 16


class ParquetRows:
    """The rows of one file.

    The number of a record is its row from 1, its offset the row from 0, and its text the JSON object of the mapped
    columns in the order of the file.
    """

    def __init__(self, source: Source, mapping: Mapping) -> None:
        """Open the file; raise ``IngestionError``, and ``SettingsError`` for a mapped column that it does not have."""
        self._source = source
        try:
            parquet = importlib.import_module("pyarrow.parquet")
        except ImportError:
            reason = "looks like Parquet; install the extra for it: pip install 'rudderpipe[parquet]'"
            raise IngestionError(source.path, reason) from None
        try:
            self._file = parquet.ParquetFile(source.path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        except (OSError, ValueError) as error:
            raise self._damaged(error) from None
        names = self._file.schema_arrow.names
        self._columns = mapping.top_columns(names)
        self._to_message = mapping.for_records()
        self._done = 0

    def read_bytes(self, size_bytes: int) -> int:
        """Return how many of the file's bytes have been read, by the number of rows."""
        count = self._file.metadata.num_rows
        return size_bytes * self._done // count if count else size_bytes

    def blocks(self, start: Position) -> Iterator[Block]:
        """Yield the rows from one on; raise ``IngestionError`` for a damaged file, after the rows before the damage."""
        first, self._done = 0, start.offset
        for group in range(self._file.num_row_groups):
            count = self._file.metadata.row_group(group).num_rows
            if first + count > start.offset:
                yield from self._group(group, first, max(0, start.offset - first))
            first += count

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _group(self, group: int, first: int, skipped: int) -> Iterator[Block]:
        batches = self._file.iter_batches(ROWS, row_groups=[group], columns=self._columns, use_threads=False)
        at = first
        while True:
            try:
                batch = next(batches, None)
                if batch is None:
                    return
                end = at + batch.num_rows
                left_out = min(batch.num_rows, max(0, first + skipped - at))
                rows = _rows(batch.slice(left_out))
            except (OSError, ValueError) as error:  # those of pyarrow are subclasses
                raise self._damaged(error) from None
            if rows:
                yield self._block(rows, at + left_out)
            at = end

    def _block(self, rows: list[dict[str, Any]], first: int) -> Block:
        texts: list[bytes] = []
        offsets: list[int] = []
        messages: list[dict[str, Any]] = []
        rejects: list[Reject] = []
        for at, row in enumerate(rows, first):
            text = b""
            try:
                text = encoder.encode(encode.plain(row, ""))
                messages.append(self._to_message(row))
            except Unfit as error:
                rejects.append(reject(at + 1, at, str(error), text))
            except EventError as error:
                rejects.append(reject(at + 1, at, f"column {error.field} {error.reason}", text))
            else:
                texts.append(text)
                offsets.append(at)
        self._done = end = first + len(rows)
        numbers = [at + 1 for at in offsets]
        return Block(texts, numbers, offsets, Position(end + 1, end), messages=messages, rejects=rejects)

    def _damaged(self, error: Exception) -> IngestionError:
        return IngestionError(self._source.path, f"cannot be read as Parquet: {error}")


def _rows(batch: Any) -> list[dict[str, Any]]:
    """Return the rows as dicts; times in nanoseconds, which Python's datetime does not have, lose the last three."""
    arrow = importlib.import_module("pyarrow")
    columns = []
    for column in batch.columns:
        kind = column.type
        if arrow.types.is_timestamp(kind) and kind.unit == "ns":
            column = column.cast(arrow.timestamp("us", kind.tz), safe=False)
        columns.append(column.to_pylist())
    names = batch.schema.names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
