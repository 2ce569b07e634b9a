"""The file of ``--rejects``: each record that could not be sent, as one JSON object a line."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from rudderpipe.errors import IngestionError
from rudderpipe.ingestion.block import Reject
from rudderpipe.ingestion.source import unreadable

_BUFFER_BYTES = 1 << 16


class RejectFile:
    """The rejected records of one ingestion, over all its runs.

    The file is made when the first record is rejected, for its owner's eyes alone. ``size_bytes`` is what an earlier
    run had written when its checkpoint was stored; what it wrote later is cut off, because those records come again.
    """

    def __init__(self, path: str, size_bytes: int | None = None) -> None:
        """Raise ``IngestionError`` if a file of another run is there, or if it cannot be written."""
        self.path = path
        self._size_bytes = size_bytes or 0
        self._file: BinaryIO | None = None
        found = Path(path)
        try:
            if not found.exists():
                if size_bytes:
                    raise IngestionError(path, "has the rejects of the earlier runs, but is not there any more")
                self._check_folder(found)
                return
            if size_bytes is None and found.stat().st_size:
                raise IngestionError(path, "exists already; give another file to --rejects, or remove it")
            self._open()
        except OSError as error:
            raise unreadable(path, error) from None

    @property
    def size_bytes(self) -> int:
        """The bytes of the file, after everything is written to it. Raises ``OSError``."""
        if self._file is not None:
            self._file.flush()
        return self._size_bytes

    def add(self, source: str, reject: Reject) -> None:
        """Write one record. Raises ``OSError``."""
        file = self._open() if self._file is None else self._file
        found: dict[str, Any] = {"source": source, "line": reject.number, "reason": reject.reason}
        if reject.size_bytes > len(reject.text):
            found["bytes"] = reject.size_bytes
        try:
            found["text"] = reject.text.decode()
        except UnicodeDecodeError:
            found["base64"] = base64.b64encode(reject.text).decode()
        line = msgspec.json.encode(found) + b"\n"
        file.write(line)
        self._size_bytes += len(line)

    def close(self) -> None:
        """Write what is left, and close the file. Raises ``OSError``."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _open(self) -> BinaryIO:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        file = self._file = os.fdopen(descriptor, "wb", buffering=_BUFFER_BYTES)
        if os.fstat(descriptor).st_size < self._size_bytes:
            raise IngestionError(self.path, "is shorter than the earlier run left it")
        os.truncate(descriptor, self._size_bytes)
        file.seek(self._size_bytes)
        return file

    @staticmethod
    def _check_folder(path: Path) -> None:
        if not path.parent.is_dir():
            raise IngestionError(str(path), "cannot be made, because its folder does not exist")
