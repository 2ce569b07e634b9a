"""The queue's byte budget: says when nothing may be added because too much is there."""

from __future__ import annotations

from rudderpipe.errors import QueueFull
from rudderpipe.queue.queue import Queue

MEASURE_S = 1.0
PART = 16
"""Measured again at the latest when a flusher has added this part of the budget."""


class Budget:
    """``max_queue_bytes`` as one flusher keeps it.

    The size is that of a second ago at the most, so several flushers of one queue may together pass the budget by what
    they add in that time, at most a sixteenth of it each.
    """

    def __init__(self, queue: Queue, max_bytes: int | None) -> None:
        self._queue = queue
        self._max_bytes = max_bytes
        self._size_bytes = self._added_bytes = 0
        self._measured_s = float("-inf")

    def check(self, adding_bytes: int) -> None:
        """Before adding that much. Raises ``QueueFull`` and ``QueueUnavailable``."""
        if self._max_bytes is None:
            return
        now_s = self._queue.clock.monotonic_s()
        full = self._size_bytes + self._added_bytes + adding_bytes > self._max_bytes
        if full or now_s - self._measured_s >= MEASURE_S or self._added_bytes > self._max_bytes // PART:
            self._size_bytes, self._added_bytes = self._queue.size_bytes(), 0
            self._measured_s = now_s
            # An empty queue takes anything: a batch larger than the budget would else wait for ever.
            if self._size_bytes and self._size_bytes + adding_bytes > self._max_bytes:
                raise QueueFull(self._queue.place, self._size_bytes, self._max_bytes)
        self._added_bytes += adding_bytes
