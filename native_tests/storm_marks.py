"""A file of one byte for each event of a thread, which says what became of the event even after a kill."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import NamedTuple

ATTEMPTED, ACCEPTED, REFUSED = 1, 2, 3
MOST = 1 << 18
"""The most events that one thread may number."""
_PID = slice(0, 8)
_ENDED = 8
_FIRST = 16


class Marks:
    """The marks of one thread, which marks each event before its call and again with the result.

    The file is a shared mapping, so a store is in the page cache at once. A killed process therefore leaves at most one
    event undecided, whose call was under way.
    """

    def __init__(self, directory: Path, producer: str, thread: int) -> None:
        fd = os.open(directory / f"{producer}-{thread}.marks", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, _FIRST + MOST)
            self._memory = mmap.mmap(fd, _FIRST + MOST)
        finally:
            os.close(fd)
        self._memory[_PID] = os.getpid().to_bytes(8, "little")

    def attempt(self, number: int) -> None:
        """Mark an event whose call is about to be made."""
        self._memory[_FIRST + number] = ATTEMPTED

    def decide(self, number: int, *, accepted: bool) -> None:
        """Mark an event whose call has returned."""
        self._memory[_FIRST + number] = ACCEPTED if accepted else REFUSED

    def end(self) -> None:
        """Mark that the thread ended by itself."""
        self._memory[_ENDED] = 1


class Record(NamedTuple):
    """One thread's marks, read back."""

    producer: str
    thread: int
    pid: int
    ended: bool
    marks: bytes
    """One of the three marks for each number, up to the last attempted event."""


def read(path: Path) -> Record:
    """Read the marks of one file.

    There are none when the producer was killed while it made the file.
    """
    content = path.read_bytes().ljust(_FIRST, b"\0")
    producer, _, thread = path.stem.rpartition("-")
    pid = int.from_bytes(content[_PID], "little")
    return Record(producer, int(thread), pid, bool(content[_ENDED]), content[_FIRST:].rstrip(b"\0"))
