"""The dead letters of a pipe, as a store of failed jobs for the command ``failed`` and the page."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from rudderpipe.errors import EventTooLarge, RingFull, SettingsError
from rudderpipe.flusher import dead_letters
from rudderpipe.process.clock import Clock
from rudderpipe.queue.failed_jobs import SEARCHED_AT_MOST, FailedJob, Page, Selection
from rudderpipe.queue.job import Job
from rudderpipe.ring import layout as at
from rudderpipe.settings import Settings
from rudderpipe.transports.ring import Pipe

WAIT_S = 0.002


class DeadLetterJobs:
    """Dead letters with the methods of the queue's ``FailedJobs``; every method may raise ``OSError``.

    ``patience_s`` is how long one event of a retry waits for room in the ring.
    """

    away: Mapping[str, str] = {}
    """Queues that cannot be read and are left out: none here."""

    def __init__(self, settings: Settings, clock: Clock, patience_s: float = float("inf")) -> None:
        if settings.pipe is None:
            settings.require("write_key", "data_plane_url")
        self._settings = settings
        self._clock = clock
        self._patience_s = patience_s
        self._letters = dead_letters.of(settings)
        self._letters.take_over()
        self._names: dict[str, list[str]] = {}
        """Names of the files of each id that ``find`` has read."""
        self._pipe: Pipe | None = None

    def find(self, selection: Selection, *, newest_first: bool = False) -> Iterator[FailedJob]:
        """Yield the selected batches, oldest first, without batches that fail meanwhile."""
        if newest_first:
            raise SettingsError(
                "--first", "needs a queue, because in direct mode the events go back into the ring, after other events"
            )
        for _, failed in self._read(self._letters.names(), selection):
            yield failed

    def page(self, selection: Selection, after: str | None, limit: int) -> Page:
        """Return the next ``limit`` of the selected batches after a page's ``next``, newest first.

        Without a reason, only the files of the page are read, and the total counts files that cannot be read too.
        """
        since_ms, until_ms = selection.since_ms or 0, selection.until_ms
        names = [
            name
            for name in reversed(self._letters.names())
            if since_ms <= dead_letters.moment_ms(name) <= (sys.maxsize if until_ms is None else until_ms)
        ]
        if selection.reason is not None:
            names = [name for name, _ in self._read(names[:SEARCHED_AT_MOST], selection)]
        place = None if after is None else dead_letters.order(after)
        behind = [name for name in names if place is None or dead_letters.order(name) < place]
        found = list(islice(self._read(behind, selection), limit + 1))
        return Page([failed for _, failed in found[:limit]], found[limit - 1][0] if found[limit:] else None, len(names))

    def _read(self, names: Sequence[str], selection: Selection) -> Iterator[tuple[str, FailedJob]]:
        """Yield the selected batches of these files, each with the name of its file."""
        for name in names:
            record = self._letters.read(name)
            if record is None or not (record.events or record.damaged):
                continue
            names_of_it = self._names.setdefault(record.id, [])
            if name not in names_of_it:
                names_of_it.append(name)
            job = Job(record.events, write_key="", attempts=record.attempts, epoch=0, timeout_s=None)
            data = record.damaged_bytes or b",".join(bytes(event) for event in record.events)
            reason = record.reason + (dead_letters.SENT_AGAIN if name.endswith(dead_letters.AGAIN_SUFFIX) else "")
            failed = FailedJob(record.id, record.failed_at_ms, reason, data, None if record.damaged else job)
            if names_of_it[0] == name and selection.takes(failed):
                yield name, failed

    def retry(
        self,
        chosen: Sequence[FailedJob],
        *,
        first: bool = False,  # noqa: ARG002  # refused by find
        write_key: str | None = None,  # noqa: ARG002  # a dead letter has no key; the flusher uses that of its settings
    ) -> int:
        """Append the events of the batches to the ring, and remove each batch once all its events are there.

        Return the number of removed batches. Raise ``RingFull`` when the ring has no room in time; the batch whose
        events are partly in the ring then stays a dead letter.
        """
        self._settings.require("write_key", "data_plane_url")
        back = 0
        for failed in chosen:
            name = self._names[failed.id][0]
            with self._letters.held(name) as is_there:
                record = self._letters.read(name) if is_there else None  # the flusher may have sent a part meanwhile
                events = [bytes(event) for event in record.events] if record else []
                if not events or any(len(event) > at.EVENT_MAX_BYTES for event in events):
                    continue
                if self._pipe is None:
                    self._pipe = Pipe(self._settings, self._clock)
                for event in events:
                    self._append(event)
                self._remove(failed.id)  # Order: after all are in the ring; a kill before this line sends them twice
                back += 1
        return back

    def _append(self, event: bytes) -> None:
        """Append one event to the ring, and wait until the ring accepts it.

        Raise ``EventTooLarge``, ``RingFull``, and ``RingUnavailable`` when the ring cannot be opened.
        """
        assert self._pipe is not None
        producer, deadline_s = self._pipe.producer, time.monotonic() + self._patience_s
        while (reason := producer.append(event)) is not None:
            if reason == "too_large":
                raise EventTooLarge(len(event), at.EVENT_MAX_BYTES)
            if reason == "ring" and producer.trouble is not None:
                raise producer.trouble
            if time.monotonic() > deadline_s:
                raise RingFull(reason)
            time.sleep(WAIT_S)

    def remove(self, ids: Sequence[str]) -> tuple[int, int]:
        """Delete batches permanently. Return the number of deleted batches and of their events."""
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
        """Release this process's slot in the ring."""
        if self._pipe is not None:
            self._pipe.shut()
