"""The threads that make the attempts of several lanes at once."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import NamedTuple

from rudderpipe import log_text
from rudderpipe.delivery.dispatcher import Decision
from rudderpipe.sender.lane import Lane

RETRY_S = 0.05
"""Time between two tries to hand a result over while no memory is left."""

logger = log_text.logger("rudderpipe.sender")


class Ended(NamedTuple):
    """An attempt that has ended, and its decision or the exception that cut it short."""

    lane: Lane
    result: Decision | Exception


class Couriers:
    """A thread for each lane that has had an attempt. Only ``Lane.attempt`` runs on it.

    On a host that allows no thread it runs on the sender's own thread, so that the lanes take turns.

    All methods are for the sender's own thread. The threads end with the process, because an attempt cannot be ended
    from outside while the host's resolver is asked for a name.
    """

    def __init__(self) -> None:
        self._threads: dict[Lane, threading.Semaphore] = {}
        """For each lane that has a thread, the attempts that the thread must make."""
        self._ended: deque[Ended] = deque()
        self._changed = threading.Condition()
        self._has_threads = True
        """False while the last thread could not be started."""

    def begin(self, lane: Lane) -> bool:
        """Begin an attempt with the offered jobs of a lane. Only for a lane without an attempt under way.

        Return False if the attempt was made here and has ended.
        """
        due = self._threads.get(lane) or self._start(lane)
        if due is None:
            self._ended.append(Ended(lane, lane.attempt()))
            return False
        due.release()
        return True

    def _start(self, lane: Lane) -> threading.Semaphore | None:
        """Start the thread of a lane; return None if the host allows none now."""
        due = threading.Semaphore(0)
        thread = threading.Thread(target=self._serve, args=(lane, due), name="rudderpipe-courier", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            if self._has_threads:
                logger.warning("a lane has no thread, its requests are not beside those of other lanes error=%s", error)
            self._has_threads = False
            return None
        self._has_threads = True
        self._threads[lane] = due
        return due

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
            while not self._hand_over(lane, result):
                time.sleep(RETRY_S)

    def _hand_over(self, lane: Lane, result: Decision | Exception) -> bool:
        """Give a result to the sender's own thread; return False if no memory is left for that.

        Without the result the lane would never have another attempt.
        """
        try:
            with self._changed:
                self._changed.notify()
                # Order: last, because a result that is handed over must not be handed over again.
                self._ended.append(Ended(lane, result))
        except MemoryError:
            return False
        return True
