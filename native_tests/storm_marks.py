"""What became of each event of one thread, one byte an event, in a file that no kill can blur."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import NamedTuple

ATTEMPTED, ACCEPTED, REFUSED = 1, 2, 3
MOST = 1 << 18
"""Events that one thread may number."""
_PID = slice(0, 8)
_ENDED = 8
_FIRST = 16


class Marks:
    """Written by one thread: an event is marked before its call, and again with the answer.

    A shared mapping of a file: a store is in the page cache at once, so a killed process leaves at most the one event
    whose call was under way undecided.
    """

    def __init__(self, directory: Path, who: str, thread: int) -> None:
        fd = os.open(directory / f"{who}-{thread}.marks", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, _FIRST + MOST)
            self._memory = mmap.mmap(fd, _FIRST + MOST)
        finally:
            os.close(fd)
        self._memory[_PID] = os.getpid().to_bytes(8, "little")

    def attempt(self, number: int) -> None:
        """The call is about to be made."""
        self._memory[_FIRST + number] = ATTEMPTED

    def decide(self, number: int, *, accepted: bool) -> None:
        """The call has answered."""
        self._memory[_FIRST + number] = ACCEPTED if accepted else REFUSED

    def end(self) -> None:
        """The thread is done, by itself."""
        self._memory[_ENDED] = 1


class Record(NamedTuple):
    """One thread's marks, read back."""

    who: str
    thread: int
    pid: int
    ended: bool
    marks: bytes
    """One of the three for each number, up to the last that was attempted."""


def read(path: Path) -> Record:
    """The marks in one file; none when its maker was killed at making it."""
    content = path.read_bytes().ljust(_FIRST, b"\0")
    who, _, thread = path.stem.rpartition("-")
    pid = int.from_bytes(content[_PID], "little")
    return Record(who, int(thread), pid, bool(content[_ENDED]), content[_FIRST:].rstrip(b"\0"))
