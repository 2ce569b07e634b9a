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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from msgspec import Raw

from rudderpipe import log_text
from rudderpipe.errors import RingUnavailable
from rudderpipe.flusher import spill_record
from rudderpipe.flusher.spill_record import Record
from rudderpipe.process import runtime_dir
from rudderpipe.process.runtime_dir import private, sync_directory
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import RingView
from rudderpipe.settings import Settings

DIRECTORY_SUFFIX, SUFFIX, DAMAGED_SUFFIX = ".spill", ".segment", ".damaged"
SEGMENT_BYTES = 16 << 20
"""A segment that is at least so large gets no more records. Its file is removed when every queue has its events."""
NUMBERS = 10**10
"""Numbers of segments are lower, because a name has ten digits and names are in the order of the numbers."""
_EPOCH = re.compile(r"[0-9a-f]{16}")

logger = log_text.logger("rudderpipe.flusher")


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


def tenure_of(number: int) -> int:
    """Return the tenure of a segment. No block of a ring ever has it."""
    return at.SEQUENCE_END + number


def directory_of(settings: Settings) -> Path | None:
    """Return the directory of a pipe's spills, one for each ring; None without ``spill_dir``. Nothing is made."""
    if settings.spill_dir is None or settings.redis is None:
        return None
    return Path(settings.spill_dir) / f"{settings.pipe_name}{DIRECTORY_SUFFIX}"


def has_unread(ring: RingView) -> bool:
    """Return True if events of the ring are in a spill that a queue must still get."""
    return ring.words[at.H_SPILLED] > 0 and ring.words[at.H_SPILL_SEGMENT] > 0


def size_bytes(paths: Iterable[Path]) -> int:
    """Return the size of these files of spills. Raises ``OSError``."""
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):  # every queue has its events by now
            total += path.stat().st_size
    return total


def files(directory: Path, suffix: str = "") -> list[Path]:
    """Return the files of a pipe's spills whose names end so, in order. Raises ``OSError``."""
    return [path for spill in _names(directory) for path in _names(spill) if path.name.endswith(suffix)]


def unused(settings: Settings) -> list[int]:
    """Return the epochs of a pipe's spills that no process is known to have open, the oldest first.

    Raises ``OSError``.
    """
    directory = directory_of(settings)
    paths = [path for path in _names(directory) if _EPOCH.fullmatch(path.name)] if directory is not None else []
    epochs = []
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        try:
            if (fd := _locked(path)) is None:
                continue
            os.close(fd)
        except OSError:
            pass  # the process that opens it says why it cannot be read
        epochs.append(int(path.name, 16))
    return epochs


def _locked(path: Path) -> int | None:
    """Return a descriptor of a directory, which is locked until it is closed; None if another process has it locked."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if os.fstat(fd).st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "the directory belongs to another user")
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
        self._damaged: set[int] = set()
        """The numbers of the segments that are known to be damaged."""
        self._lock = -1
        self._fd = -1
        """The file of the last segment, if this process writes it."""
        self._is_cut = True
        """False while a record could be neither stored nor cut off, so that nothing may come behind it."""

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

    def open(self, counted: int = 0) -> bool:
        """Read the log. Return False if another process has it open.

        ``counted`` events are known to have been in it. If it has these, a last record that is not whole was never
        counted, because a process was killed while it wrote, and is cut off. Otherwise the record is damaged.
        """
        if self.path.is_dir() and not self._take():
            return False
        self._segments = [
            _Segment(int(path.stem), path)
            for path in _names(self.path)
            if path.suffix == SUFFIX and path.stem.isdecimal()
        ]
        for segment in self._segments:
            self._scan(segment)
        if self._segments:
            self._end(self._segments[-1], is_whole=self.events >= counted)
        self.is_open = True
        return True

    def _take(self) -> bool:
        """Lock the directory. The kernel releases the lock when this process ends."""
        if self._lock < 0 and (fd := _locked(self.path)) is not None:
            self._lock = fd
        return self._lock >= 0

    def _scan(self, segment: _Segment) -> None:
        segment.size_bytes = size = segment.path.stat().st_size
        end = Position(segment.number)
        for found in self._records(segment, end):
            if found.record is None and found.behind.byte >= size and segment is self._segments[-1]:
                break
            end = found.behind
            segment.events += found.events
            if found.record is None:
                self._note_damage(segment, found.events)
            else:
                self._note(segment, found.record)
        segment.size_bytes = end.byte

    def _end(self, segment: _Segment, *, is_whole: bool) -> None:
        """Note what is behind the whole records of the last segment, and remove it if it has none."""
        is_cut_short = segment.size_bytes < segment.path.stat().st_size
        if is_cut_short and not is_whole:
            self._note_damage(segment, 0)
            if not segment.size_bytes:
                self._remove_last()
            return
        if is_cut_short:
            said = "a record of the spill was not whole and is cut off, its events had not left the ring path=%s"
            logger.warning(said, segment.path)
        if is_cut_short or not segment.size_bytes:
            with suppress(OSError):  # the whole records can be read all the same, and ``mend`` tries again
                self._cut_last()

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
        self.mend()
        frames = [frame for record in records for frame in spill_record.framed(record)]
        size, limit = sum(map(len, frames)), self._settings.max_spill_bytes
        if size_bytes(files(self.directory)) + size > limit:
            raise OSError(errno.EFBIG, f"no room, max_spill_bytes is {limit:,}")
        if self.needs_segment:
            self._begin(max(number, self.last_number + 1))
        segment = self._segments[-1]
        try:
            _write(self._fd, b"".join(frames))
            os.fsync(self._fd)
        except BaseException:
            with suppress(OSError):
                self._cut_last()
            if not self._is_cut:  # another process may find the records whole, when the queues have their events
                segment.tenures.update(tenure for record in records for tenure, _, _ in record.places)
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

    def mend(self) -> None:
        """Cut off what could not be cut off before."""
        if not self._is_cut:
            self._cut_last()

    def _cut_last(self) -> None:
        """Cut off what is behind the last whole record. What is written next is in another segment."""
        segment = self._segments[-1]
        self._end_writing()
        self._is_cut = False
        _cut(segment)
        if not segment.size_bytes:
            self._remove_last()
        self._is_cut = True

    def _remove_last(self) -> None:
        self._remove(self._segments[-1])
        self._segments.pop()

    # reading

    def is_behind(self, position: Position) -> bool:
        """Return True if there are records behind a position."""
        return any(
            segment.number >= position.number
            and segment.size_bytes > (position.byte if segment.number == position.number else 0)
            for segment in self._segments
        )

    def read(self, position: Position) -> Iterator[Found]:
        """Yield the records behind a position, in order."""
        for segment in tuple(self._segments):
            if segment.number >= position.number:
                start = position if segment.number == position.number else Position(segment.number)
                for found in self._records(segment, start):
                    if found.record is None:
                        self._note_damage(segment, found.events)
                    yield found

    @staticmethod
    def _records(segment: _Segment, start: Position) -> Iterator[Found]:
        """Yield the records of a segment."""
        end = segment.size_bytes
        with open(segment.path, "rb", opener=private) as file:  # Path.open takes no opener
            while start.byte < end:
                record, events, byte = spill_record.read(file, start.byte, end)
                found = Found(start, record, events, Position(segment.number, byte, start.offset + events))
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
            self._remove(segment)
        # Order: before the queues forget what they have of these segments, which must not come back after a crash.
        sync_directory(self.path)
        self._segments = self._segments[len(gone) :]
        tenures = {tenure for segment in gone for tenure in (*segment.tenures, tenure_of(segment.number))}
        return [tenure for tenure in tenures if not self.holds(tenure)]

    def _remove(self, segment: _Segment) -> None:
        with suppress(FileNotFoundError):  # an earlier call removed it and failed after that
            if segment.number in self._damaged:
                segment.path.rename(segment.path.with_suffix(DAMAGED_SUFFIX))
            else:
                segment.path.unlink()

    def _note_damage(self, segment: _Segment, events: int) -> None:
        if segment.number not in self._damaged:
            self._damaged.add(segment.number)
            said = "a record of the spill is damaged, its events are lost, the file stays path=%s events=%d"
            logger.error(said, segment.path.with_suffix(DAMAGED_SUFFIX), events)

    def remove(self) -> None:
        """Remove the directory of a log without segments."""
        if self.path.is_dir() and not any(_names(self.path)):
            self.path.rmdir()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _cut(segment: _Segment) -> None:
    fd = private(str(segment.path), os.O_WRONLY)
    try:
        os.ftruncate(fd, segment.size_bytes)
        os.fsync(fd)
    finally:
        os.close(fd)
