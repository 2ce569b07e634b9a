"""The dead letters of a pipe, as the ``failed`` command handles them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rudderpipe.cli.put import put
from rudderpipe.errors import SettingsError
from rudderpipe.flusher import dead_letters
from rudderpipe.process.clock import Clock
from rudderpipe.queue.failed_jobs import FailedJob, Selection
from rudderpipe.queue.job import Job
from rudderpipe.ring import layout as at
from rudderpipe.settings import Settings
from rudderpipe.transports.ring import Pipe


class SpooledJobs:
    """Has the methods of the queue's ``FailedJobs``. Each raises ``OSError``."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        if settings.pipe is None:
            settings.require("write_key", "data_plane_url")
        self._settings = settings
        self._clock = clock
        self._letters = dead_letters.of(settings)
        self._letters.take_over()
        self._names: dict[str, list[str]] = {}
        """The files of each id that was found."""
        self._pipe: Pipe | None = None

    def find(self, selection: Selection, *, newest_first: bool = False) -> Iterator[FailedJob]:
        """Those of the selection, oldest first; batches that fail meanwhile are not among them."""
        if newest_first:
            raise SettingsError("--first", "needs a queue: in direct mode events go back into the ring, behind others")
        for name in self._letters.names():
            record = self._letters.read(name)
            if record is None:
                continue
            names = self._names.setdefault(record.id, [])
            if name not in names:
                names.append(name)
            job = Job(record.events, write_key="", attempts=record.attempts, epoch=0, timeout_s=None)
            data = record.damaged_bytes or b",".join(bytes(event) for event in record.events)
            failed = FailedJob(record.id, record.failed_at_ms, record.reason, data, None if record.damaged else job)
            if names[0] == name and selection.takes(failed):
                yield failed

    def retry(self, chosen: Sequence[FailedJob], *, first: bool = False) -> int:  # noqa: ARG002  # refused by find
        """Put their events into the ring; each is removed once all of them are there. How many really were put."""
        self._settings.require("write_key", "data_plane_url")
        back = 0
        for failed in chosen:
            events = [bytes(event) for event in failed.job.events] if failed.job else []
            if not events or any(len(event) > at.EVENT_MAX_BYTES for event in events):
                continue
            with self._letters.held(self._names[failed.id][0]) as is_there:
                if not is_there:
                    continue
                if self._pipe is None:
                    self._pipe = Pipe(self._settings, self._clock)
                for event in events:
                    put(self._pipe, event)
                self._remove(failed.id)  # Order: when all are in the ring; a kill before repeats them
                back += 1
        return back

    def remove(self, ids: Sequence[str]) -> tuple[int, int]:
        """Delete them for good; how many batches and how many events that were."""
        removed = events = 0
        for failed_id in ids:
            name = self._names[failed_id][0]
            with self._letters.held(name) as is_there:
                record = self._letters.read(name) if is_there else None
                if record is None:
                    continue
                self._remove(failed_id)
                removed += 1
                events += len(record.events)
        return removed, events

    def _remove(self, failed_id: str) -> None:
        for name in self._names[failed_id]:
            self._letters.remove(name)

    def close(self) -> None:
        """Leave the ring."""
        if self._pipe is not None:
            self._pipe.shut()
