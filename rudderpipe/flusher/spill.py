"""The spill of one ring: a log on a disk of events that left the ring although a queue that must get them was away.

The log is a directory of numbered segments. A segment is like a block of the ring: it has a tenure of its own, which is
its number above every tenure of a block, and each event in it has an offset. A queue is given a segment's events as it
is given those of a block, so what it has of them is known after a kill.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
from msgspec import Raw

from rudderpipe import log_text
from rudderpipe.errors import RingUnavailable
from rudderpipe.process import runtime_dir
from rudderpipe.process.runtime_dir import private, sync_directory
from rudderpipe.ring import layout as at
from rudderpipe.settings import Settings

DIRECTORY_SUFFIX, SUFFIX, DAMAGED_SUFFIX = ".spill", ".segment", ".damaged"
SEGMENT_BYTES = 16 << 20
"""A segment that is at least so large gets no more records. Its file is removed when every queue has its events."""
_EPOCH = re.compile(r"[0-9a-f]{16}")
_FRAME = struct.Struct("<III")
"""In front of each record: its bytes, its events, and the CRC-32 of these two numbers and of the record."""

logger = log_text.logger("rudderpipe.flusher")


class Record(msgspec.Struct, frozen=True, array_like=True):
    """Events that left the ring together.

    ``places`` are the (tenure, first, end) of the events in the ring, in the order of the events. ``reached`` are the
    (tenure, end) of all events that left with them, of which the queues had the others. ``users`` are the hashes of the
    events' users.
    """

    places: list[tuple[int, int, int]]
    reached: list[tuple[int, int]]
    users: list[int]
    events: list[bytes]


class Position(NamedTuple):
    """A place between two records: a segment, the byte in it, and the offset of the next event."""

    number: int = 0
    byte: int = 0
    offset: int = 0


class Found(NamedTuple):
    """What is at a position: a record, or None if it is damaged; how many events it has; and the position behind it."""

    at: Position
    record: Record | None
    events: int
    behind: Position


class SpillPlan(NamedTuple):
    """What one queue must get next from the spill, as a ``Plan``.

    ``behind`` is the position behind it, and ``passed`` the number of events up to there that are the queue's, whether
    it lacks them or not.
    """

    events: list[Raw]
    users: list[int]
    marks: dict[int, tuple[int, int]]
    behind: Position
    passed: int


class _Segment:
    """One segment: how far it is written, and the tenures of the ring that its events are from."""

    def __init__(self, number: int, path: Path) -> None:
        self.number = number
        self.path = path
        self.size_bytes = 0
        self.events = 0
        self.tenures: set[int] = set()
        self.is_damaged = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def tenure_of(number: int) -> int:
    """Return the tenure of a segment. No block of a ring ever has it."""
    return at.SEQUENCE_END + number


def directory_of(settings: Settings) -> Path | None:
    """Return the directory of a pipe's spills, one for each ring; None without ``spill_dir``. Nothing is made."""
    if settings.spill_dir is None or settings.redis is None:
        return None
    return Path(settings.spill_dir) / f"{settings.pipe_name}{DIRECTORY_SUFFIX}"


def size_bytes(directory: Path, suffix: str = "") -> int:
    """Return the size of the files of a pipe's spills whose names end so. Raises ``OSError``."""
    total = 0
    for spill in _names(directory):
        for path in (path for path in _names(spill) if path.name.endswith(suffix)):
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                pass  # every queue has its events by now
    return total


def gone(settings: Settings, living: Collection[int]) -> list[int]:
    """Return the epochs of a pipe's spills whose ring is not among the living ones, without those in use.

    Raises ``OSError``.
    """
    directory = directory_of(settings)
    paths = [path for path in _names(directory) if _EPOCH.fullmatch(path.name)] if directory is not None else []
    epochs = []
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        if int(path.name, 16) not in living and (fd := _locked(path)) is not None:
            os.close(fd)
            epochs.append(int(path.name, 16))
    return epochs


def _locked(path: Path) -> int | None:
    """Return a descriptor of a directory, which is locked until it is closed; None if another process has it locked."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return fd


def _names(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


class Spill:
    """The log of one ring, which one process at a time has open. Every method raises ``OSError``."""

    def __init__(self, settings: Settings, epoch: int) -> None:
        directory = directory_of(settings)
        assert directory is not None
        self._settings = settings
        self.directory = directory
        self.path = directory / f"{epoch:016x}"
        self.is_open = False
        self.reached: dict[int, int] = {}
        """For each tenure of the ring, an offset: every event below it that a queue lacks is in the log, also if the
        ring's words do not say yet that it has left. The caller removes what they say."""
        self._segments: list[_Segment] = []
        self._lock = -1
        self._fd = -1
        """The file of the last segment, if this process writes it."""
        self._is_broken = False
        """True once a record could be neither stored nor cut off, so that nothing may come behind it."""

    # the whole log

    @property
    def events(self) -> int:
        """How many events are in the segments that are there."""
        return sum(segment.events for segment in self._segments)

    @property
    def last_number(self) -> int:
        """The number of the last segment; 0 without one."""
        return self._segments[-1].number if self._segments else 0

    @property
    def needs_segment(self) -> bool:
        """True if the next records begin a segment."""
        return self._fd < 0 or self._segments[-1].size_bytes >= SEGMENT_BYTES

    def holds(self, tenure: int) -> bool:
        """Return True if events of this tenure may be in the log. Their offsets in the queues are needed then."""
        return any(tenure in segment.tenures or tenure == tenure_of(segment.number) for segment in self._segments)

    def open(self) -> bool:
        """Read the log, and cut off a last record that is not whole. Return False if another process has it open."""
        if self.path.is_dir() and not self._take():
            return False
        self._segments = [
            _Segment(int(path.stem), path)
            for path in _names(self.path)
            if path.suffix == SUFFIX and path.stem.isdecimal()
        ]
        for segment in self._segments:
            self._scan(segment)
        self.is_open = True
        return True

    def _take(self) -> bool:
        """Lock the directory. The kernel releases the lock when this process ends."""
        if self._lock < 0 and (fd := _locked(self.path)) is not None:
            self._lock = fd
        return self._lock >= 0

    def _scan(self, segment: _Segment) -> None:
        is_last = segment is self._segments[-1]
        size = segment.path.stat().st_size
        segment.size_bytes = size
        end = Position(segment.number)
        for found in self._records(segment, end):
            if found.record is None and is_last and found.behind.byte >= size:
                break
            end = found.behind
            segment.events += found.events
            if found.record is None:
                _note_damage(segment, found.events)
            else:
                self._note(segment, found.record)
        if end.byte < size and is_last:  # a process was killed while it wrote
            segment.size_bytes = end.byte
            fd = os.open(segment.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                _cut(fd, end.byte)
            finally:
                os.close(fd)
            said = "a record of the spill was not whole and is cut off, its events are still in the ring path=%s"
            logger.warning(said, segment.path)

    def _note(self, segment: _Segment, record: Record) -> None:
        segment.tenures.update(tenure for tenure, _, _ in record.places)
        for tenure, end in record.reached:
            self.reached[tenure] = max(end, self.reached.get(tenure, 0))

    def close(self) -> None:
        """Close the files, and let another process have the log."""
        for fd in (self._fd, self._lock):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock = -1
        self.is_open = False

    # writing

    def append(self, records: Sequence[Record], number: int) -> None:
        """Store records durably, or none of them. A segment that is begun for them gets this number or a higher one."""
        if self._is_broken:
            raise OSError(errno.EIO, "the last record could not be cut off")
        frames = [frame for record in records for frame in _framed(record)]
        size, limit = sum(map(len, frames)), self._settings.max_spill_bytes
        if size_bytes(self.directory) + size > limit:
            raise OSError(errno.EFBIG, f"no room, max_spill_bytes is {limit:,}")
        if self.needs_segment:
            self._begin(max(number, self.last_number + 1))
        segment = self._segments[-1]
        try:
            _write(self._fd, b"".join(frames))
            os.fsync(self._fd)
        except OSError:
            self._cut_last(segment)
            raise
        segment.size_bytes += size
        for record in records:
            segment.events += len(record.events)
            self._note(segment, record)

    def _begin(self, number: int) -> None:
        try:
            runtime_dir.ensure(self._settings.spill_dir, "spill_dir")
        except RingUnavailable as error:
            raise OSError(errno.EACCES, error.reason) from None
        for path in (self.directory, self.path):
            try:
                path.mkdir(mode=0o700)
            except FileExistsError:
                continue
            sync_directory(path.parent)
        if not self._take():
            raise OSError(errno.EAGAIN, "another process has the spill of this ring")
        path = self.path / f"{number:010d}{SUFFIX}"
        fd = private(str(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        try:
            sync_directory(self.path)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        self._end_writing()
        self._fd = fd
        self._segments.append(_Segment(number, path))

    def _end_writing(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _cut_last(self, segment: _Segment) -> None:
        """Cut off what an append may have written. What is written next is in another segment."""
        try:
            _cut(self._fd, segment.size_bytes)
        except OSError:
            self._is_broken = True
        self._end_writing()

    # reading

    def is_behind(self, position: Position) -> bool:
        """Return True if there are records behind a position."""
        return any(
            segment.number > position.number
            or (segment.number == position.number and segment.size_bytes > position.byte)
            for segment in self._segments
        )

    def read(self, position: Position) -> Iterator[Found]:
        """Yield the records behind a position, in order."""
        for segment in tuple(self._segments):
            if segment.number >= position.number:
                start = position if segment.number == position.number else Position(segment.number)
                for found in self._records(segment, start):
                    if found.record is None:
                        _note_damage(segment, found.events)
                    yield found

    @staticmethod
    def _records(segment: _Segment, start: Position) -> Iterator[Found]:
        """Yield the records of a segment. What cannot be read is a damaged record up to the next one or to the end."""
        end = segment.size_bytes
        with open(segment.path, "rb", opener=private) as file:  # Path.open takes no opener
            while start.byte < end:
                file.seek(start.byte)
                head = file.read(_FRAME.size)
                record, events, behind = None, 0, end
                if len(head) == _FRAME.size:
                    size, events, checksum = _FRAME.unpack(head)
                    behind = start.byte + _FRAME.size + size
                    if behind <= end:
                        record = _record(head, file.read(size), events, checksum)
                    if record is None and not _is_record(file, behind, end):
                        events, behind = 0, end
                found = Found(start, record, events, Position(segment.number, behind, start.offset + events))
                yield found
                start = found.behind

    # removal

    def has_before(self, position: Position) -> bool:
        """Return True if all records of a segment are before a position."""
        return bool(self._before(position))

    def _before(self, position: Position) -> list[_Segment]:
        return [
            segment
            for segment in self._segments
            if segment.number < position.number
            or (segment.number == position.number and segment.size_bytes <= position.byte)
        ]

    def remove_before(self, position: Position) -> list[int]:
        """Remove the segments whose records are all before a position.

        Return the tenures, of segments and of the ring, whose events are not in the log any more.
        """
        gone = self._before(position)
        if gone[-1] is self._segments[-1]:
            self._end_writing()
        for segment in gone:
            if segment.is_damaged:
                segment.path.rename(segment.path.with_suffix(DAMAGED_SUFFIX))
            else:
                segment.path.unlink(missing_ok=True)
        # Order: before the queues forget what they have of these segments, which must not come back after a crash.
        sync_directory(self.path)
        self._segments = self._segments[len(gone) :]
        tenures = {tenure for segment in gone for tenure in (*segment.tenures, tenure_of(segment.number))}
        return [tenure for tenure in tenures if not self.holds(tenure)]

    def remove(self) -> None:
        """Remove the directory of a log without segments."""
        if self.path.is_dir() and not any(_names(self.path)):
            self.path.rmdir()


def _framed(record: Record) -> tuple[bytes, bytes]:
    data = _encode(record)
    return _FRAME.pack(len(data), len(record.events), _checksum(len(data), len(record.events), data)), data


def _checksum(size: int, events: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(b"%d %d" % (size, events)))


def _record(head: bytes, data: bytes, events: int, checksum: int) -> Record | None:
    if _checksum(_FRAME.unpack(head)[0], events, data) != checksum:
        return None
    try:
        return _decode(data)
    except msgspec.MsgspecError:
        return None


def _is_record(file: BinaryIO, byte: int, end: int) -> bool:
    """Return True if a whole record begins at a byte."""
    file.seek(byte)
    head = file.read(_FRAME.size)
    if len(head) < _FRAME.size:
        return False
    size, events, checksum = _FRAME.unpack(head)
    return byte + _FRAME.size + size <= end and _record(head, file.read(size), events, checksum) is not None


def _note_damage(segment: _Segment, events: int) -> None:
    if not segment.is_damaged:
        segment.is_damaged = True
        said = "a record of the spill is damaged, its events are lost, the file stays path=%s events=%d"
        logger.error(said, segment.path.with_suffix(DAMAGED_SUFFIX), events)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _cut(fd: int, size: int) -> None:
    os.ftruncate(fd, size)
    os.fsync(fd)
