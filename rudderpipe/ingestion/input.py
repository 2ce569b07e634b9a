"""The text of a source, decompressed, in bounded pieces."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from typing import BinaryIO

from rudderpipe.errors import IngestionError
from rudderpipe.ingestion.compression import MAGIC_BYTES, STEP_BYTES, Compression, Decoder, compression_of
from rudderpipe.ingestion.source import STANDARD_INPUT, Source, unreadable

PIECE_BYTES = 1 << 18
_FILE_BYTES = 1 << 16
MARK = b"\xef\xbb\xbf"
"""The byte order mark of UTF-8."""


class Input:
    """The decompressed bytes of one source.

    ``read`` raises ``IngestionError`` when the file is damaged, after it has returned what comes before the damage.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.offset = 0
        """The offset of the next byte that ``read`` returns, in the decompressed text."""
        self.raw_bytes = 0
        """The bytes of the file, as it is on the disk, that have been read."""
        self.size_bytes: int | None = None
        """The size of the file when it was opened; None for a pipe."""
        self.file_id: tuple[int, int] | None = None
        """Device and inode of the file that was opened; None for a pipe."""
        self._is_over = False
        self._file = self._opened()
        start = b""
        while len(start) < MAGIC_BYTES and (more := self._read_file(MAGIC_BYTES - len(start))):
            start += more
        self._start = start
        self._compression = compression_of(start)
        self._pieces = self._plain() if self._compression is None else self._decompressed(self._compression)
        self._ahead: list[bytes] = []
        self._damage: IngestionError | None = None

    @property
    def compression(self) -> str:
        """The name of the compression, ``none`` for a plain file."""
        return "none" if self._compression is None else self._compression.name

    def head(self, size_bytes: int) -> tuple[bytes, bool]:
        """Return the first bytes of the text, and whether that is the whole text; ``read`` returns them again.

        Of a pipe it is the first line at least, because more may come late. Only before the first ``read``. An error
        of a damaged file is left to ``read``.
        """
        held = sum(map(len, self._ahead))
        while held < size_bytes:
            if not (piece := self._next_or_damage()):
                return b"".join(self._ahead), self._damage is None
            self._ahead.append(piece)
            held += len(piece)
            if self.size_bytes is None and b"\n" in piece:
                break
        return b"".join(self._ahead)[:size_bytes], False

    def read(self) -> bytes:
        """Return the next bytes of the text, at most ``PIECE_BYTES``; nothing at the end."""
        piece = self._ahead.pop(0) if self._ahead else next(self._pieces, b"")
        if not piece and self._damage is not None:
            raise self._damage
        self.offset += len(piece)
        return piece

    def skip_mark(self) -> None:
        """Go behind the mark of UTF-8 at the beginning of the text, if there is one."""
        if self.offset == 0 and self.head(len(MARK))[0] == MARK:
            self.go_to(len(MARK))

    def go_to(self, offset: int) -> None:
        """Make ``offset`` the place of the next byte: by a seek in a plain file, otherwise by reading up to it.

        ``offset`` must not be behind the current one. Raises ``IngestionError`` when the text ends before it.
        """
        while self._ahead and self.offset < offset:
            self._skip(self._ahead.pop(0), offset)
        if self.offset < offset and self._compression is None and self.size_bytes is not None:
            if offset > os.fstat(self._file.fileno()).st_size:
                raise self._too_short(offset)
            self._file.seek(offset)
            self._start = b""
            self.offset = self.raw_bytes = offset
        while self.offset < offset:
            if not (piece := next(self._pieces, b"")):
                raise self._damage or self._too_short(offset)
            self._skip(piece, offset)

    def close(self) -> None:
        """Close the file, but not standard input."""
        if self.source.path != STANDARD_INPUT:
            self._file.close()

    def _too_short(self, offset: int) -> IngestionError:
        return IngestionError(self.source.path, f"ends before byte {offset:,} of its text, where reading had to go on")

    def _skip(self, piece: bytes, offset: int) -> None:
        skipped = min(len(piece), offset - self.offset)
        self.offset += skipped
        if skipped < len(piece):
            self._ahead.insert(0, piece[skipped:])

    def _next_or_damage(self) -> bytes:
        try:
            return next(self._pieces, b"")
        except IngestionError as error:
            self._damage = error
            return b""

    def _opened(self) -> BinaryIO:
        if self.source.path == STANDARD_INPUT:
            return sys.stdin.buffer
        try:
            file = open(self.source.path, "rb", buffering=0)  # noqa: SIM115, PTH123  # close() closes it
        except OSError as error:
            raise unreadable(self.source.path, error) from None
        found = os.fstat(file.fileno())
        if stat.S_ISREG(found.st_mode):
            self.size_bytes = found.st_size
            self.file_id = found.st_dev, found.st_ino
        return file

    def _read_file(self, size_bytes: int) -> bytes:
        """Return what there is of the file, without waiting for more of a pipe; nothing at the end."""
        if self._is_over:  # a terminal would wait for another Ctrl-D
            return b""
        read = getattr(self._file, "read1", self._file.read)
        try:
            found: bytes = read(size_bytes)
        except OSError as error:
            raise unreadable(self.source.path, error) from None
        self._is_over = not found and self.size_bytes is None
        self.raw_bytes += len(found)
        return found

    def _plain(self) -> Iterator[bytes]:
        if self._start:
            yield self._start
        while piece := self._read_file(PIECE_BYTES):
            yield piece

    def _decompressed(self, compression: Compression) -> Iterator[bytes]:
        """Yield the text of all members of a compressed file; zero bytes between members are padding."""
        data = self._start
        while data:
            if not data.startswith(compression.magic):
                raise self._damaged(compression, "something else follows its compressed data", len(data))
            decoder = self._decoder(compression)
            yield from self._member(compression, decoder, data)
            data = decoder.unused_data.lstrip(b"\0")
            while len(data) < len(compression.magic) and (more := self._read_file(_FILE_BYTES)):
                data = (data + more).lstrip(b"\0")

    def _member(self, compression: Compression, decoder: Decoder, data: bytes) -> Iterator[bytes]:
        texts: list[bytes] = []
        held = 0
        trouble = None
        while not decoder.eof:
            if not data and decoder.needs_input and not (data := self._read_file(_FILE_BYTES)):
                trouble = self._damaged(compression, "the file is cut off", 0)
                break
            try:
                text = decoder.decompress(data, STEP_BYTES)
            except Exception as error:  # noqa: BLE001  # each library has errors of its own
                trouble = self._damaged(compression, str(error), 0)
                break
            data = b""
            texts.append(text)
            held += len(text)
            if held >= PIECE_BYTES:
                yield from _bounded(b"".join(texts))
                texts, held = [], 0
        yield from _bounded(b"".join(texts))
        if trouble is not None:
            raise trouble

    def _decoder(self, compression: Compression) -> Decoder:
        try:
            return compression.decoder()
        except ImportError:
            reason = f"is compressed with {compression.name}; {compression.when_missing}"
            raise IngestionError(self.source.path, reason) from None

    def _damaged(self, compression: Compression, why: str, unread_bytes: int) -> IngestionError:
        at = self.raw_bytes - unread_bytes
        return IngestionError(
            self.source.path,
            f"its {compression.name} data is damaged near byte {at:,} ({why}); the records before it have been read. "
            "Get the file again, and run the same command again",
            at,
        )


def _bounded(text: bytes) -> Iterator[bytes]:
    for start in range(0, len(text), PIECE_BYTES):
        yield text[start : start + PIECE_BYTES]
