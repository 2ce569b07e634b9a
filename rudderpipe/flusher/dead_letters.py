"""The dead letters of a pipe: a directory with one file for each batch that failed in direct mode or was damaged.

A file is written under another name, synced and renamed, so every file is whole. Unlinking a file removes its batch.
Commands that put back or remove a batch hold ``flock`` on its file. The kernel releases the lock when they die.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Raw

from rudderpipe import log_text
from rudderpipe.encoder import encode
from rudderpipe.process import locks, runtime_dir, state_dir
from rudderpipe.ring.consumer import Batch
from rudderpipe.settings import Settings

SUFFIX, PART_SUFFIX, MOVING_SUFFIX, DIRECTORY_SUFFIX = ".json", ".part", ".moving", ".failed"
AGAIN_SUFFIX = f".again{SUFFIX}"
"""The end of the name of a batch that is sent again when the data plane is back."""
SENT_AGAIN = ", sent again when the data plane is back"
"""The end of the reason of such a batch, for people."""
ABANDONED_S = 3600.0
"""The age at which a file that was never renamed is removed."""
PAGE_BYTES = 4096
"""The least room that a file takes, in memory or on a disk."""
_WRITING, _EDITING = range(2)
"""The two locks of the single file in which earlier versions kept failed batches."""
PATIENCE_S = 10.0
STEP_S = 0.01
_MOMENT_END = 10**13 - 1
_SAFE = re.compile(r"[A-Za-z0-9_-]{1,150}")
_EPOCH = re.compile(r"([0-9a-f]{16})-\d+-\d+")

logger = log_text.logger("rudderpipe.flusher")


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One failed batch. ``ranges`` are the (tenure, first, end) of its events in the ring."""

    id: str
    failed_at_ms: int = msgspec.field(name="failedAt")
    reason: str
    attempts: int
    events: list[Raw]
    ranges: list[tuple[int, int, int]] = msgspec.field(name="marks", default_factory=list)
    damaged: str = ""
    """The bytes of an event that is not JSON, in base64."""
    recovered: int = 0
    """The ring's count of recovered events that includes those which were delivered out of this record."""

    @property
    def epoch(self) -> int | None:
        """The epoch of the ring that the events come from; None for a record of unknown origin."""
        match = _EPOCH.match(self.id)
        return int(match[1], 16) if match else None

    @property
    def is_whole(self) -> bool:
        """True if the ranges say where each event was in the ring."""
        return sum(end - first for _, first, end in self.ranges) == len(self.events)

    def part(self, start: int, count: int) -> Record:
        """Return a record of ``count`` events, without the first ``start``. Only for a record that is whole."""
        places = [(sequence, place) for sequence, first, end in self.ranges for place in range(first, end)]
        ranges: list[tuple[int, int, int]] = []
        for sequence, place in places[start : start + count]:
            if ranges and ranges[-1][::2] == (sequence, place):
                ranges[-1] = (sequence, ranges[-1][1], place + 1)
            else:
                ranges.append((sequence, place, place + 1))
        events = self.events[start : start + count]
        return msgspec.structs.replace(self, events=events, ranges=ranges)

    @property
    def damaged_bytes(self) -> bytes:
        """The bytes that the ring held in the place of an event."""
        return b64decode(self.damaged)


class _Event(msgspec.Struct):
    id: str = msgspec.field(name="messageId")
    type: str


_decode_record = msgspec.json.Decoder(Record).decode
_decode_event = msgspec.json.Decoder(_Event).decode


def record_of(batch: Batch, events: Sequence[Raw], epoch: int, failed_at_ms: int, reason: str, attempts: int) -> Record:
    """Return the record of a failed batch. Its id is the place of its first event in the ring, in every process."""
    return Record(_id_of(batch, epoch), failed_at_ms, reason, attempts, list(events), _ranges_of(batch))


def damaged_record_of(batch: Batch, epoch: int, found_at_ms: int) -> Record:
    """Return the record of an event that is not JSON."""
    reason = "damaged in shared memory, not JSON"
    text = b64encode(batch.data).decode()
    return Record(_id_of(batch, epoch), found_at_ms, reason, 0, [], _ranges_of(batch), text)


def _id_of(batch: Batch, epoch: int) -> str:
    return f"{epoch:016x}-{batch.ranges[0].sequence}-{batch.ranges[0].start}"


def _ranges_of(batch: Batch) -> list[tuple[int, int, int]]:
    return [(each.sequence, each.start, each.end) for each in batch.ranges]


class DeadLetters:
    """The dead letters of one pipe. None is kept when ``limit_bytes`` is 0. Every method raises ``OSError``."""

    def __init__(self, path: Path, limit_bytes: int, former: Sequence[Path] = ()) -> None:
        """``take_over`` imports ``former``: directories like this one, and the single files of earlier versions."""
        self.path = path
        self.limit_bytes = limit_bytes
        self._former = former
        self._size_bytes: int | None = None
        """An upper bound of the room that the files take; None until it was counted."""

    def keep(self, record: Record, *, again: bool = False) -> None:
        """Store a record durably. Raises ``OSError`` when it cannot be stored.

        With ``again`` the batch is sent again when the data plane is back.
        """
        if record.damaged and self.names(f"-{record.id}{SUFFIX}"):
            return  # a flusher stored it, and was killed before it counted the event
        data = encode(record)
        size_bytes = _space(len(data))
        if self._size_bytes is None or self._size_bytes + size_bytes > self.limit_bytes:
            self._size_bytes = self.size_bytes()  # commands may have removed files
        if self._size_bytes + size_bytes > self.limit_bytes:
            raise OSError(errno.EFBIG, f"no room, max_spool_bytes is {self.limit_bytes:,}")
        self._write(f"{_stem(record)}{AGAIN_SUFFIX if again else SUFFIX}", data)
        self._size_bytes += size_bytes

    def refuse(self, record: Record, reason: str) -> None:
        """Store a part of a batch as one that is not sent again, whatever room is left. The batch itself has the room.

        A part that was stored before, by a process that was killed, is replaced.
        """
        sequence, first, _ = record.ranges[0]
        changed = msgspec.structs.replace(
            record, id=f"{record.epoch or 0:016x}-{sequence}-{first}-refused", reason=reason, recovered=0
        )
        self._write(f"{_stem(changed)}{SUFFIX}", encode(changed))

    def replace(self, name: str, record: Record) -> None:
        """Store another record in a file. Only while the caller has it ``held``; the new file is not held any more."""
        self._write(name, encode(record))

    def _write(self, name: str, data: bytes, suffix: str = "") -> None:
        self.path.mkdir(mode=0o700, exist_ok=True)
        part = self.path / f"{name}-{os.getpid()}{PART_SUFFIX}"
        try:
            with open(part, "wb", opener=runtime_dir.private) as file:  # Path.open takes no opener
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path / f"{name}{suffix}")
        except OSError:
            part.unlink(missing_ok=True)
            raise
        runtime_dir.sync_directory(self.path)

    def names(self, part: str = "") -> list[str]:
        """Return the names of the files that contain ``part``, oldest first. Equal moments: by place in the ring."""
        return sorted((name for name in self._all_names(SUFFIX) if part in name), key=order)

    def names_again(self) -> list[str]:
        """Return the names of the files that are sent again, oldest first."""
        return sorted(self._all_names(AGAIN_SUFFIX), key=order)

    def _all_names(self, suffix: str) -> list[str]:
        try:
            return [name for name in os.listdir(self.path) if name.endswith(suffix)]  # noqa: PTH208  # names only
        except FileNotFoundError:
            return []

    def read(self, name: str) -> Record | None:
        """Return the record in a file; None if the file is gone or holds no record."""
        try:
            return _decode_record((self.path / name).read_bytes())
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, ValueError, RecursionError):
            logger.warning("a dead letter cannot be read, it is skipped and its file stays path=%s", self.path / name)
            return None

    def records(self) -> Iterator[Record]:
        """Yield the records that can be read, oldest first."""
        for name in self.names():
            record = self.read(name)
            if record is not None:
                yield record

    def recovered(self, epoch: int) -> int:
        """Return the greatest count of recovered events that a killed flusher noted for a ring."""
        records = (self.read(name) for name in self.names_again() if f"-{epoch:016x}-" in name)
        return max((record.recovered for record in records if record is not None), default=0)

    @contextmanager
    def held(self, name: str) -> Iterator[bool]:
        """Lock a file against other commands. Yield False if another command holds it or the file is gone."""
        try:
            fd = os.open(self.path / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            yield False
            return
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield os.fstat(fd).st_nlink > 0
        finally:
            os.close(fd)

    def remove(self, name: str) -> None:
        """Delete a file forever. Only while the caller has it ``held``."""
        (self.path / name).unlink(missing_ok=True)
        runtime_dir.sync_directory(self.path)

    def size_bytes(self) -> int:
        """Return the room that the files take, in bytes, each rounded up to ``PAGE_BYTES``."""
        total = 0
        try:
            entries = list(os.scandir(self.path))
        except FileNotFoundError:
            return 0
        for entry in entries:
            try:
                total += _space(entry.stat(follow_symlinks=False).st_size)
            except FileNotFoundError:
                pass  # a command removed it
        return total

    def size_of(self, name: str) -> int:
        """Return the size of one file in bytes; 0 if it is gone."""
        try:
            return (self.path / name).stat().st_size
        except FileNotFoundError:
            return 0

    def reached(self, epoch: int) -> dict[int, int]:
        """Return for each tenure of a ring the end of the last range of events that failed and are stored here."""
        reached: dict[int, int] = {}
        for name in self.names(f"-{epoch:016x}-"):
            record = self.read(name)
            if record is None or record.damaged:
                continue
            for sequence, _, end in record.ranges:
                reached[sequence] = max(reached.get(sequence, 0), end)
        return reached

    def take_over(self) -> None:
        """Import dead letters from where they stood before, and remove files that a killed process left unfinished."""
        for path in self._former:
            if path.is_dir():
                self._move(DeadLetters(path, 0))
            elif path.exists():
                self._import(path)
        for name in self._all_names(PART_SUFFIX):
            part = self.path / name
            try:
                if time.time() - part.stat().st_mtime > ABANDONED_S:
                    part.unlink()
            except FileNotFoundError:
                pass

    def _move(self, source: DeadLetters) -> None:
        """Move the files of another directory, which may be on another disk.

        A file that was copied has its name only when the source is gone, so that a process that dies in between leaves
        each batch in one place.
        """
        for name in self._all_names(MOVING_SUFFIX):
            if not (source.path / name.removesuffix(MOVING_SUFFIX)).exists():
                self._arrive(name)
        for name in source.names():
            with source.held(name) as is_there:
                if is_there:
                    self._write(name, (source.path / name).read_bytes(), MOVING_SUFFIX)
                    source.remove(name)
                    self._arrive(f"{name}{MOVING_SUFFIX}")
        with suppress(OSError):
            source.path.rmdir()  # it may hold files of another kind

    def _arrive(self, name: str) -> None:
        with suppress(FileNotFoundError):  # another process was quicker
            (self.path / name).rename(self.path / name.removesuffix(MOVING_SUFFIX))
            runtime_dir.sync_directory(self.path)

    def _import(self, path: Path) -> None:
        """Write a file for each line of the single file, then delete the single file.

        A process that dies in between leaves the single file, and the import is done again. Both locks of the single
        file are held, so that no flusher or command of an earlier version changes it meanwhile.
        """
        guard = locks.shared(path.with_suffix(".guard"))
        deadline_s = time.monotonic() + PATIENCE_S
        while not (guard.try_lock(_WRITING) and guard.try_lock(_EDITING)):
            if time.monotonic() > deadline_s:
                raise TimeoutError(errno.ETIMEDOUT, f"{path}: another process keeps it locked")
            time.sleep(STEP_S)
        try:
            with path.open("rb") as file:
                for record in filter(None, map(_parse_line, file)):
                    self._write(f"{_stem(record)}{SUFFIX}", encode(record))
            path.unlink()
            guard.remove()
        except FileNotFoundError:
            pass  # another process imported it
        finally:
            guard.unlock(_WRITING)
            guard.unlock(_EDITING)


def _parse_line(line: bytes) -> Record | None:
    """Return the record in a line; None if it was removed or cut short. The first version kept plain events."""
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
    return Record(f"event-{name}", 0, "unknown, the event was kept without a reason", 0, [Raw(event)])


def moment_ms(name: str) -> int:
    """Return when the batch of a file failed; 0 for a name of another kind."""
    moment = name.partition("-")[0]
    return int(moment) if moment.isdecimal() else 0


def order(name: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key: moment, ring, tenure and first event. Digits compare by value, other text as text."""
    moment, _, rest = name.removesuffix(SUFFIX).removesuffix(".again").partition("-")
    epoch, _, place = rest.partition("-")
    numbers = [(int(part), part) if part.isdigit() else (0, part) for part in (moment, *place.split("-"))]
    return (numbers[0], (0, epoch), *numbers[1:])


def _stem(record: Record) -> str:
    name = record.id
    if not _SAFE.fullmatch(name):  # only an imported record can have such an id
        name = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"{min(max(record.failed_at_ms, 0), _MOMENT_END):013d}-{name}"


def _space(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES


def of_other_pipes(settings: Settings) -> dict[str, int]:
    """Return the numbers of dead letters of this user's other pipes in the same directories, by pipe name.

    The write key is part of a pipe's name, so the dead letters of an earlier key are under another name.
    """
    counts: Counter[str] = Counter()
    for directory in {of(settings).path.parent, runtime_dir.ensure(settings.runtime_dir)}:
        for path in directory.glob(f"*{DIRECTORY_SUFFIX}"):
            counts[path.name.removesuffix(DIRECTORY_SUFFIX)] += len(DeadLetters(path, 0).names())
    return {pipe: count for pipe, count in sorted(counts.items()) if count and pipe != settings.pipe_name}


def of(settings: Settings) -> DeadLetters:
    """Return the dead letters of the settings' pipe. Raises ``RingUnavailable`` without a runtime directory."""
    name = f"{settings.pipe_name}{DIRECTORY_SUFFIX}"
    runtime, state = runtime_dir.ensure(settings.runtime_dir), state_dir.ensure(settings)
    former = [runtime / f"{name}.failed.ndjson" for name in settings.pipe_names]
    if state != runtime:
        former.append(runtime / name)
    return DeadLetters(state / name, settings.max_spool_bytes, former)
