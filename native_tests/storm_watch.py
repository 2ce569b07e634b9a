"""A thread that reads the status of a pipe again and again while the storm blows, and notes what is wrong."""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Callable

from rudderpipe import RingUnavailable
from rudderpipe.observe.snapshot import Snapshot

EVERY_S = 0.3


class Watch:
    """A thread of its own, because a status may take seconds while the holder of the claim lock is stopped."""

    def __init__(self, read: Callable[[], Snapshot], name: str) -> None:
        self.statuses: Counter[str] = Counter()
        self.trouble: list[str] = []
        self.flusher_pid = 0
        self._read = read
        self._name = name
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        """Stop reading, and wait for the thread."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(EVERY_S):
            try:
                self._note(self._read())
            except RingUnavailable:
                self.statuses["ring busy"] += 1
            except Exception:  # noqa: BLE001  # the storm's end shows any exception
                self._report(traceback.format_exc())

    def _note(self, status: Snapshot) -> None:
        if status.queue_trouble:
            self.statuses["redis away"] += 1
            return
        ring = status.ring
        if ring is None:
            self.statuses["no ring"] += 1
            return
        self.flusher_pid = ring.flusher_pid
        if ring.corrupt:
            self._report(f"{ring.corrupt} events are corrupt")
        self.statuses["balanced" if status.events.balanced else "unbalanced"] += 1
        if not status.events.balanced:
            self._report(f"the account does not balance: {status}")

    def _report(self, what: str) -> None:
        if len(self.trouble) < 3:
            self.trouble.append(f"{self._name}: {what}")
