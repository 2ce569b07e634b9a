"""The file that direct mode keeps failed batches in: a record a line, bounded, for its owner alone.

A line is appended by one write, under a lock; a line that was cut short (its writer was killed, the disk was full) is
no JSON, is passed over by readers, and is never continued. A record is removed by its first byte, which becomes ``#``:
one store, so that a kill leaves it there or gone. Whoever removed some writes the file anew without them.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Raw

from rudderpipe import locks
from rudderpipe.locks import LockFile
from rudderpipe.ring.consumer import Cut
from rudderpipe.settings import Settings

REMOVED = b"#"
BEGINNING = b'{"id":"'
WRITING, EDITING = range(2)
"""Bytes of the lock file: who appends or writes the file anew; who puts records back or removes them (a command)."""


class Record(msgspec.Struct, frozen=True):
    """One failed batch; ``marks`` are (tenancy, first, end) of where in the ring its events lay."""

    id: str
    failed_at_ms: int = msgspec.field(name="failedAt")
    reason: str
    attempts: int
    events: list[Raw]
    marks: list[tuple[int, int, int]] = []


class _Event(msgspec.Struct):
    id: str = msgspec.field(name="messageId")
    type: str


_decode_record = msgspec.json.Decoder(Record).decode
_decode_event = msgspec.json.Decoder(_Event).decode


def record_of(cut: Cut, events: Sequence[Raw], epoch: int, failed_at_ms: int, reason: str, attempts: int) -> Record:
    """A batch as it is kept; its id is that of its first event's place in the ring, and the same whoever makes it."""
    first = cut.marks[0]
    marks = [(mark.sequence, mark.start, mark.end) for mark in cut.marks]
    return Record(f"{epoch:016x}-{first.sequence}-{first.start}", failed_at_ms, reason, attempts, list(events), marks)


def parse(line: bytes) -> Record | None:
    """The record of a line; None for one that was removed or cut short. A plain event is what 0.1 had kept at first."""
    try:
        return _decode_record(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    try:
        _decode_event(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    event = line.strip()
    name = hashlib.sha256(event).hexdigest()[:16]
    return Record(f"event-{name}", 0, "not known: it was kept without a reason", 0, [Raw(event)])


class Spool:
    """The spool of one pipe; it keeps nothing when ``limit_bytes`` is 0."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.path = path
        self.limit_bytes = limit_bytes

    @property
    def guard(self) -> LockFile:
        """The file whose bytes are its locks; not named as a ring's is, whatever the pipe is called."""
        return locks.shared(self.path.with_suffix(".guard"))

    def keep(self, record: Record) -> bool:
        """Have it on the disk; False while a command writes the file anew. Raises ``OSError``: it cannot be kept."""
        line = msgspec.json.encode(record)
        if b"\n" in line or b"\r" in line:
            line = msgspec.json.format(line, indent=-1)
        line += b"\n"
        if len(line) > self.limit_bytes:
            raise _full(self.limit_bytes)
        guard = self.guard
        try:
            if not guard.lock(WRITING, 0.0):
                return False
            self._append(line)
        finally:
            guard.release(WRITING)
        return True

    def _append(self, line: bytes) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.path, flags, 0o600)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                line = b"\n" + line
            if size + len(line) > self.limit_bytes:
                raise _full(self.limit_bytes)
            if os.write(fd, line) < len(line):
                os.ftruncate(fd, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
        finally:
            os.close(fd)
        if not size:
            sync_directory(self.path.parent)

    def lines(self, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
        """Each line that is there now, with the byte it begins at."""
        end, at = os.fstat(file.fileno()).st_size, 0
        for line in file:
            if at >= end:
                return
            yield at, line
            at += len(line)

    def records(self, beginning: bytes = b"") -> Iterator[Record]:
        """What is kept, oldest first; ``beginning`` is that of the lines that are looked at."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            for _, line in self.lines(file):
                if line.startswith(beginning) and (record := parse(line)) is not None:
                    yield record

    def reached(self, epoch: int) -> dict[int, int]:
        """How far into each of its tenancies the events of that ring are kept. Raises ``OSError``."""
        reached: dict[int, int] = {}
        for record in self.records(BEGINNING + f"{epoch:016x}-".encode()):
            for sequence, _, end in record.marks:
                reached[sequence] = max(reached.get(sequence, 0), end)
        return reached


def _full(limit_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"max_spool_bytes is {limit_bytes:,}")


def sync_directory(path: Path) -> None:
    """Have the names in a directory on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def of(settings: Settings) -> Spool:
    """The spool of the pipe that these settings name. Raises ``RingUnavailable`` without a directory for it."""
    directory = locks.runtime_dir(settings.runtime_dir)
    return Spool(directory / f"{settings.pipe_name}.failed.ndjson", settings.max_spool_bytes)
