"""The threads that make the attempts of several lanes at once."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from rudderpipe.delivery.dispatcher import Decision
from rudderpipe.sender.lane import Lane


class Ended(NamedTuple):
    """An attempt that has ended, and its decision or the exception that cut it short."""

    lane: Lane
    result: Decision | Exception


class Couriers:
    """A thread for each lane that has had an attempt. Only ``Lane.attempt`` runs on it.

    All methods are for the sender's own thread. The threads end with the process, because an attempt cannot be ended
    from outside while the host's resolver is asked for a name.
    """

    def __init__(self) -> None:
        self._threads: dict[Lane, threading.Semaphore] = {}
        """For each lane that has a thread, the attempts that the thread must make."""
        self._ended: deque[Ended] = deque()
        self._changed = threading.Condition()

    def begin(self, lane: Lane) -> None:
        """Begin an attempt with the offered jobs of a lane. Only for a lane without an attempt under way."""
        due = self._threads.get(lane)
        if due is None:
            due = self._threads[lane] = threading.Semaphore(0)
            threading.Thread(target=self._serve, args=(lane, due), name="rudderpipe-courier", daemon=True).start()
        due.release()

    def next(self, wait_s: float) -> Ended | None:
        """Return an attempt that has ended, the first one first; None if none ends within so many seconds."""
        with self._changed:
            if not self._ended and wait_s > 0:
                self._changed.wait(wait_s)
            return self._ended.popleft() if self._ended else None

    def _serve(self, lane: Lane, due: threading.Semaphore) -> None:
        while True:
            due.acquire()
            result = lane.attempt()
            with self._changed:
                self._ended.append(Ended(lane, result))
                self._changed.notify()
