"""A bounded file of the events that the data plane refused in direct mode, one JSON a line."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec
from msgspec import Raw

LIMIT_BYTES = 64 << 20
logger = logging.getLogger("rudderpipe.flusher")
_split = msgspec.json.Decoder(list[Raw]).decode


class Spool:
    """``rudderpipe send FILE`` reads it back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def split(batch: bytes) -> list[Raw]:
        """The events of a batch."""
        return _split(b"[%b]" % batch)

    def keep(self, batch: bytes) -> bool:
        """Append a batch's events; False, and a line in the log, when the file is as large as it may be."""
        lines = b"".join(bytes(event) + b"\n" for event in self.split(batch))
        try:
            return self._append(lines)
        except OSError as error:
            logger.error("spool cannot be written, events lost bytes=%d error=%s", len(lines), error.strerror)
            return False

    def _append(self, lines: bytes) -> bool:
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size + len(lines) > LIMIT_BYTES:
                logger.error("spool full, events lost bytes=%d path=%s", len(lines), self.path)
                return False
            os.write(fd, lines)
        finally:
            os.close(fd)
        return True
