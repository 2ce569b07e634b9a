"""What a flusher counts for its metrics: plain integers, once for each batch or call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rudderpipe.service.histogram import Histogram

if TYPE_CHECKING:
    from rudderpipe.queue.meter import RedisMeter

BATCH_EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
SCRIPTS = ("add_jobs", "count_jobs", "restore_account", "measure_jobs", "end_ring")
"""The scripts that a flusher calls."""


class FlusherCounts:
    """The counts of all rings of a flusher process. Its one thread counts, and any thread may read."""

    def __init__(self) -> None:
        self.batch_events = Histogram(BATCH_EVENTS)
        """How many events each batch had that left a ring."""
        self.bytes = 0
        """The bytes of these batches."""
        self.redis: RedisMeter | None = None
        """The calls to Redis; None in direct mode, which does not load its client."""
