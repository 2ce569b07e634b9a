"""The reader of one source: what its format is, and its records as blocks."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from rudderpipe.ingestion import formats, lines
from rudderpipe.ingestion.block import Block, Position
from rudderpipe.ingestion.input import Input
from rudderpipe.ingestion.source import Identity, Source, identity


class Reader:
    """The records of one source, to be read once.

    Opening raises ``IngestionError`` with one sentence for a file that cannot be read, or that is in a wrong format.
    """

    def __init__(self, source: Source, *, format: str | None = None) -> None:  # noqa: A002  # the name of the option
        self.source = source
        self._input = Input(source)
        try:
            head, is_whole = self._input.head(formats.HEAD_BYTES)
            self.format = format or formats.format_of(source.path, head, is_whole=is_whole, is_mapped=False)
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
        return self._input.raw_bytes

    @property
    def size_bytes(self) -> int | None:
        """The bytes of the file, as it was on the disk when it was opened; None for a pipe."""
        return self._input.size_bytes

    def identity(self) -> Identity | None:
        """Return what a checkpoint keeps of the file; None for a pipe."""
        return identity(self.source, self.read_bytes) if self.size_bytes is not None else None

    def blocks(self, start: Position | None = None) -> Iterator[Block]:
        """Yield the records from a place on; only one call.

        Raises ``IngestionError`` where the file is damaged, after the records before the damage.
        """
        self._input.skip_mark()
        if start is None or start.offset <= self._input.offset:
            start = Position(1, self._input.offset)
        self._input.go_to(start.offset)
        return lines.blocks(self._input, start)

    def close(self) -> None:
        """Close the file."""
        self._input.close()
