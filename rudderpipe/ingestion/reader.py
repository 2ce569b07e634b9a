"""The reader of one source: what its format is, and its records as blocks."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from rudderpipe.errors import IngestionError
from rudderpipe.ingestion import batches, formats, json_array, json_text, lines
from rudderpipe.ingestion.block import Block, Position
from rudderpipe.ingestion.input import Input
from rudderpipe.ingestion.mapping import Mapping
from rudderpipe.ingestion.parquet import ParquetRows
from rudderpipe.ingestion.source import Identity, Source, identity
from rudderpipe.ingestion.table import Table


class Reader:
    """The records of one source, to be read once.

    Opening raises ``IngestionError`` with one sentence for a file that cannot be read, or that is in a wrong format.
    """

    def __init__(
        self,
        source: Source,
        *,
        format: str | None = None,  # noqa: A002  # the name of the option
        mapping: Mapping | None = None,
    ) -> None:
        """Open a source and find its format, unless ``format`` names one of ``formats.FORMATS``."""
        self.source = source
        self._mapping = mapping
        self._input = Input(source)
        try:
            head, is_whole = self._input.head(formats.HEAD_BYTES)
            self.format = format or formats.format_of(
                source.path, head, is_whole=is_whole, is_mapped=mapping is not None
            )
            """One of ``formats.FORMATS``."""
            self._table = self._table_of(head, is_whole=is_whole)
            self._parquet = self._parquet_of()
            if mapping is not None and self.format in (formats.NDJSON, formats.BATCH):
                mapping.check_keys(formats.objects_in(head.split(b"\n")))
        except BaseException:
            self._input.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def compression(self) -> str:
        """``none``, ``gzip``, ``zstd``, ``bz2`` or ``xz``."""
        return self._input.compression

    @property
    def read_bytes(self) -> int:
        """The bytes of the file, as it is on the disk, that have been read."""
        if self._parquet is not None:
            return self._parquet.read_bytes(self._input.size_bytes or 0)
        return self._input.raw_bytes

    @property
    def size_bytes(self) -> int | None:
        """The bytes of the file, as it was on the disk when it was opened; None for a pipe."""
        return self._input.size_bytes

    @property
    def file_id(self) -> tuple[int, int] | None:
        """Device and inode of the file that was opened; None for a pipe."""
        return self._input.file_id

    def identity(self) -> Identity | None:
        """Return what a checkpoint keeps of the file; None for a pipe."""
        if self.size_bytes is None:
            return None
        return identity(self.source, self.read_bytes if self._parquet is None else self.size_bytes)

    def blocks(self, start: Position | None = None) -> Iterator[Block]:
        """Yield the records from a place on; only one call.

        Raises ``IngestionError`` where the file is damaged, after the records before the damage.
        """
        if self._parquet is not None:
            return self._parquet.blocks(start or Position())
        self._input.skip_mark()
        first = Position(1, self._input.offset) if self._table is None else self._table.start
        if start is None or start.offset < first.offset:
            start = first
        self._input.go_to(start.offset)
        if self._table is not None:
            return self._table.blocks(self._input, start)
        if self.format == formats.ARRAY:
            found = json_array.blocks(self._input, start, is_open=start.offset > first.offset)
        elif self.format == formats.BATCH:
            found = batches.blocks(self._input, start)
        else:
            found = lines.blocks(self._input, start)
        return found if self._mapping is None else json_text.mapped(found, self._mapping.for_records())

    def close(self) -> None:
        """Close the file."""
        if self._parquet is not None:
            self._parquet.close()
        self._input.close()

    def _table_of(self, head: bytes, *, is_whole: bool) -> Table | None:
        if self.format not in (formats.CSV, formats.TSV) or not head.strip():
            return None
        if self._mapping is None:
            raise IngestionError(self.source.path, f"a mapping is needed for {self.format}: give --map")
        delimiter = "\t" if self.format == formats.TSV else None
        return Table(self.source.path, head, is_whole=is_whole, delimiter=delimiter, mapping=self._mapping)

    def _parquet_of(self) -> ParquetRows | None:
        if self.format != formats.PARQUET:
            return None
        if self._mapping is None:
            raise IngestionError(self.source.path, "a mapping is needed for parquet: give --map")
        if self.size_bytes is None or self.compression != "none":
            raise IngestionError(self.source.path, "Parquet must be a plain file, not a pipe or a compressed file")
        return ParquetRows(self.source, self._mapping)
