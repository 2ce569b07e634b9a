"""Asks for the status of every pipe again and again while the storm blows, and remembers what it was told."""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Callable

from rudderpipe import RingUnavailable
from rudderpipe.observe.snapshot import Snapshot

EVERY_S = 0.3


class Watch:
    """A thread of its own, as a status may take seconds: the holder of the claim lock may be stopped."""

    def __init__(self, read: Callable[[], Snapshot], name: str) -> None:
        self.told: Counter[str] = Counter()
        self.trouble: list[str] = []
        self.flusher_pid = 0
        self._read = read
        self._name = name
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        """Ask no more."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(EVERY_S):
            try:
                self._note(self._read())
            except RingUnavailable:
                self.told["ring busy"] += 1
            except Exception:  # noqa: BLE001  # whatever it is, it is told at the end
                self._tell(traceback.format_exc())

    def _note(self, status: Snapshot) -> None:
        if status.queue_trouble:
            self.told["redis away"] += 1
            return
        ring = status.ring
        if ring is None:
            self.told["no ring"] += 1
            return
        self.flusher_pid = ring.flusher_pid
        if ring.corrupt:
            self._tell(f"{ring.corrupt} events are corrupt")
        self.told["balanced" if status.events.balanced else "unbalanced"] += 1
        if not status.events.balanced:
            self._tell(f"the account does not balance: {status}")

    def _tell(self, what: str) -> None:
        if len(self.trouble) < 3:
            self.trouble.append(f"{self._name}: {what}")
