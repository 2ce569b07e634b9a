"""The failed batches of direct mode, in the spool, as the ``failed`` command handles them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from rudderpipe.cli.put import put
from rudderpipe.clock import Clock
from rudderpipe.errors import SettingsError
from rudderpipe.flusher import spool as spools
from rudderpipe.flusher.spool import BEGINNING, EDITING, REMOVED, WRITING
from rudderpipe.pipe import Pipe
from rudderpipe.queue.failed import FailedJob, Selection
from rudderpipe.queue.job import Job
from rudderpipe.ring import layout as at
from rudderpipe.settings import Settings

PATIENCE_S = 10.0
STEP_S = 0.01


class _Look:
    """One file, which others may replace by a new one, and where in it each record begins."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file  # kept open, so that its inode is not given to another
        self.places: dict[str, list[int]] = {}
        self.events: dict[str, int] = {}

    def holds(self, name: str) -> bool:
        """Whether a record is there and was not removed."""
        fd = self.file.fileno()
        return any(os.pread(fd, 1, place) == BEGINNING[:1] for place in self.places.get(name, ()))


class SpooledJobs:
    """The spool of one pipe; has the methods of the queue's ``FailedJobs``. Each raises ``OSError``."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        if settings.pipe is None:
            settings.require("write_key", "data_plane_url")
        self._settings = settings
        self._clock = clock
        self._spool = spools.of(settings)
        self._looks: list[_Look] = []
        self._pipe: Pipe | None = None
        self._is_worn = False
        """The file holds records that were removed."""

    def find(self, selection: Selection, *, newest_first: bool = False) -> Iterator[FailedJob]:
        """Those of the selection, oldest first; batches that fail meanwhile are not among them."""
        if newest_first:
            raise SettingsError("--first", "needs a queue: in direct mode events go back into the ring, behind others")
        try:
            look = _Look(self._spool.path.open("rb"))
        except FileNotFoundError:
            return
        self._looks.append(look)
        for place, line in self._spool.lines(look.file):
            self._is_worn = self._is_worn or line.startswith(REMOVED)
            record = spools.parse(line)
            if record is None:
                continue
            places = look.places.setdefault(record.id, [])
            places.append(place)
            look.events[record.id] = len(record.events)
            job = Job(record.events, write_key="", attempts=record.attempts, epoch=0, timeout_s=None)
            failed = FailedJob(record.id, record.failed_at_ms, record.reason, line.strip(), job)
            if len(places) == 1 and selection.takes(failed):
                yield failed

    def retry(self, chosen: Sequence[FailedJob], *, first: bool = False) -> int:  # noqa: ARG002  # refused by find
        """Put their events into the ring; each is removed once all of them are there. How many really were put."""
        self._settings.require("write_key", "data_plane_url")
        back = 0
        for failed in chosen:
            with self._editing():
                look = self._look()
                events = [bytes(event) for event in failed.job.events] if failed.job else []
                if look is None or not look.holds(failed.id) or any(len(e) > at.EVENT_MAX_BYTES for e in events):
                    continue
                if self._pipe is None:
                    self._pipe = Pipe(self._settings, self._clock)
                for event in events:
                    put(self._pipe, event)
                self._cross_out(look, failed.id)  # Order: when all are in the ring; a kill before repeats them
                back += 1
        return back

    def remove(self, ids: Sequence[str]) -> tuple[int, int]:
        """Delete them for good; how many batches and how many events that were."""
        removed = events = 0
        with self._editing():
            look = self._look()
            for name in ids:
                if look is not None and look.holds(name):
                    self._cross_out(look, name)
                    removed += 1
                    events += look.events[name]
        return removed, events

    @contextmanager
    def _editing(self) -> Iterator[None]:
        """Only one command at a time puts back or removes."""
        guard, deadline_s = self._spool.guard, self._clock.monotonic_s() + PATIENCE_S
        while not guard.try_lock(EDITING):
            if self._clock.monotonic_s() > deadline_s:
                raise TimeoutError(f"{self._spool.path}: another command is changing it")
            time.sleep(STEP_S)
        try:
            yield
        finally:
            guard.unlock(EDITING)

    def _look(self) -> _Look | None:
        """The latest look, when that is still the file; else a new one. Only while editing."""
        look = self._looks[-1] if self._looks else None
        try:
            if look is not None and os.path.samestat(os.fstat(look.file.fileno()), self._spool.path.stat()):
                return look
        except FileNotFoundError:
            return None
        for _ in self.find(Selection()):
            pass
        return self._looks[-1] if self._looks else None

    def _cross_out(self, look: _Look, name: str) -> None:
        fd = os.open(f"/proc/self/fd/{look.file.fileno()}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            for place in look.places[name]:
                os.pwrite(fd, REMOVED, place)
        finally:
            os.close(fd)
        self._is_worn = True

    def _renew(self) -> None:
        """Write the file anew without what was removed or cut short; remove it when nothing is left."""
        path, guard = self._spool.path, self._spool.guard
        part = path.with_suffix(".part")
        with self._editing():
            try:
                if not guard.lock(WRITING, PATIENCE_S):
                    return  # the next command does it
                part.unlink(missing_ok=True)
                fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(fd, "wb") as new, path.open("rb") as old:
                    for _, line in self._spool.lines(old):
                        if spools.parse(line) is not None:
                            new.write(line)
                    new.flush()
                    os.fsync(new.fileno())
                    size = new.tell()
                if size:
                    part.replace(path)
                else:
                    path.unlink()
                    part.unlink()
                spools.sync_directory(path.parent)
            except FileNotFoundError:
                pass
            finally:
                guard.release(WRITING)

    def close(self) -> None:
        """Leave the ring, and no trace of what was removed."""
        if self._pipe is not None:
            self._pipe.shut()
        if self._is_worn:
            self._renew()
        for look in self._looks:
            look.file.close()
