"""The queue's byte budget, which stops flushers from adding jobs to a full queue."""

from __future__ import annotations

from rudderpipe.errors import QueueFull
from rudderpipe.queue.queue import Queue

MEASURE_S = 1.0
PART = 16
"""The queue is measured again at the latest when a flusher has added 1/16 of the budget."""


class Budget:
    """``max_queue_bytes`` as one flusher enforces it.

    The measured size is at most one second old. So several flushers of one queue may together exceed the budget by the
    bytes that they add in that second, at most 1/16 of the budget each.
    """

    def __init__(self, queue: Queue, max_bytes: int | None) -> None:
        self._queue = queue
        self._max_bytes = max_bytes
        self._size_bytes = self._added_bytes = 0
        self._measured_s = float("-inf")

    def check(self, adding_bytes: int) -> None:
        """Count ``adding_bytes`` as added. Raise ``QueueFull`` if they exceed the budget, or ``QueueUnavailable``."""
        if self._max_bytes is None:
            return
        now_s = self._queue.clock.monotonic_s()
        full = self._size_bytes + self._added_bytes + adding_bytes > self._max_bytes
        if full or now_s - self._measured_s >= MEASURE_S or self._added_bytes > self._max_bytes // PART:
            self._size_bytes, self._added_bytes = self._queue.size_bytes(), 0
            self._measured_s = now_s
            # An empty queue accepts any batch, or a batch larger than the budget would wait forever.
            if self._size_bytes and self._size_bytes + adding_bytes > self._max_bytes:
                raise QueueFull(self._queue.place, self._size_bytes, self._max_bytes)
        self._added_bytes += adding_bytes
