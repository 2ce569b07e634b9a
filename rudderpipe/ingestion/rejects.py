"""The file of rejects: the records that cannot be sent, with their reasons, and their count by kind."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import BinaryIO

import msgspec

from rudderpipe.errors import IngestionError
from rudderpipe.ingestion.block import Reject
from rudderpipe.ingestion.source import Source

KINDS_AT_MOST = 100
OTHERS = "other reasons"
_encode = msgspec.json.Encoder().encode


class Kind(msgspec.Struct):
    """One kind of reject: how many there were, and where the first one was."""

    count: int
    source: str
    number: int


class RejectLine(msgspec.Struct, omit_defaults=True):
    """One line of the file."""

    source: str
    line: int
    """The number of the record, from 1: its line, row or place in an array."""
    reason: str
    text: str | None = None
    """The record as text, or only its beginning if it has ``size_bytes``."""
    base64: str | None = None
    """The record in base64, if it is not UTF-8."""
    size_bytes: int | None = None
    """The bytes of a record of which only the beginning is here."""


class Rejects:
    """The rejects of a run, counted in bounded memory, and written if there is a file for them."""

    def __init__(self, path: str | None, *, kept_bytes: int | None = None) -> None:
        """Prepare the file, which is created when the first reject comes.

        ``kept_bytes`` is the size that the file had when a checkpoint was written, for a run that goes on there: what
        was written later is rejected again. Raises ``IngestionError`` for a file that is there without ``kept_bytes``,
        because it belongs to another run, and for one that is shorter.
        """
        self.kinds: dict[str, Kind] = {}
        """The rejects by kind, at most ``KINDS_AT_MOST`` kinds and ``OTHERS``."""
        self._path = path
        self._kept_bytes = kept_bytes
        self._file: BinaryIO | None = None
        if path is None:
            return
        if not (found := Path(path)).exists():
            if not found.parent.is_dir():
                raise IngestionError(path, "cannot be created: there is no such folder")
            if kept_bytes:
                raise IngestionError(path, "the rejects of the run that goes on are gone")
            self._kept_bytes = None
        elif kept_bytes is None:
            raise IngestionError(path, "is there already, perhaps with the rejects of another run; name another file")
        elif found.stat().st_size < kept_bytes:
            raise IngestionError(path, f"is shorter than the {kept_bytes:,} bytes of the run that goes on")

    @property
    def count(self) -> int:
        """The number of rejects of this run."""
        return sum(kind.count for kind in self.kinds.values())

    @property
    def writes(self) -> bool:
        """True if there is a file for them."""
        return self._path is not None

    def add(self, source: Source, reject: Reject) -> None:
        """Count a reject and write it; raise ``IngestionError`` when the file cannot be written."""
        name = reject.kind if reject.kind in self.kinds or len(self.kinds) < KINDS_AT_MOST else OTHERS
        if (kind := self.kinds.get(name)) is None:
            self.kinds[name] = Kind(1, source.path, reject.number)
        else:
            kind.count += 1
        if self._path is None:
            return
        line = RejectLine(source.path, reject.number, reject.reason)
        try:
            line.text = reject.text.decode()
        except UnicodeDecodeError:
            line.base64 = base64.b64encode(reject.text).decode()
        if len(reject.text) < reject.size_bytes:
            line.size_bytes = reject.size_bytes
        try:
            if self._file is None:
                self._file = self._opened(self._path)
            self._file.write(_encode(line) + b"\n")
        except OSError as error:
            raise _unwritable(self._path, error) from None

    def flush(self) -> int:
        """Write all rejects so far, and return the size of the file for a checkpoint, in bytes."""
        if self._file is None:
            return self._kept_bytes or 0
        try:
            self._file.flush()
        except OSError as error:
            raise _unwritable(str(self._path), error) from None
        return self._file.tell()

    def close(self) -> None:
        """Write all rejects, and close the file."""
        if self._file is not None:
            self.flush()
            self._file.close()

    def _opened(self, path: str) -> BinaryIO:
        if self._kept_bytes is None:
            return Path(path).open("xb")
        file = Path(path).open("r+b")  # noqa: SIM115  # close() closes it
        file.truncate(self._kept_bytes)
        file.seek(self._kept_bytes)
        return file


def _unwritable(path: str, error: OSError) -> IngestionError:
    return IngestionError(path, f"cannot be written: {error.strerror or type(error).__name__}")
