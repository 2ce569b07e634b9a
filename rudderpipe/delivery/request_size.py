"""How much one request may hold: more while batches queue up, less when the data plane cannot take so much at once."""

from __future__ import annotations

from rudderpipe.delivery.outcome import Outcome
from rudderpipe.process.clock import Clock
from rudderpipe.settings import Settings

USUAL_BATCHES = 50
USUAL_BYTES = 460_800
"""The size at the start. It keeps a request short, and what is sent again after a lost response small."""
BACKLOG_S = 5.0
"""How long batches must have queued up before requests grow."""
GATEWAY_TIMEOUT = 504
SMALLEST, LARGEST = 1 / 64, 32
"""The bounds of the size, in usual sizes: from one batch up to more than any setting allows."""


class RequestSize:
    """The number of batches and bytes that a request may hold now.

    Both double with each good and quick response while batches have queued up for ``BACKLOG_S``, up to
    ``max_jobs_per_request`` and ``max_request_bytes``. Both are halved when a response was not there in time. Below the
    usual size they grow with each good response.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._clock = clock
        self._timeout_s = settings.timeout_s
        self._max_batches = settings.max_jobs_per_request
        self._max_bytes = settings.max_request_bytes
        self._backlog_since_s: float | None = None
        self._resize(1)

    def note_taken(self, batches: int, size_bytes: int) -> None:
        """Note how much could be taken for the next request. A backlog is what fills the request."""
        is_backlog = batches >= self.batches or 2 * size_bytes >= self.bytes
        if not is_backlog:
            self._backlog_since_s = None
        elif self._backlog_since_s is None:
            self._backlog_since_s = self._clock.monotonic_s()

    def learn(self, outcome: Outcome, took_s: float, timeout_s: float | None) -> None:
        """Grow or shrink after an attempt that took so long."""
        limit_s = timeout_s or self._timeout_s
        if outcome.status == GATEWAY_TIMEOUT or (outcome.status == 0 and took_s >= limit_s):
            self._resize(max(SMALLEST, self._usuals / 2))
        elif outcome.kind == "delivered" and took_s <= limit_s / 4 and (self._usuals < 1 or self._has_backlog()):
            self._resize(min(LARGEST, self._usuals * 2))

    def _has_backlog(self) -> bool:
        since_s = self._backlog_since_s
        return since_s is not None and self._clock.monotonic_s() - since_s >= BACKLOG_S

    def _resize(self, usuals: float) -> None:
        self._usuals = usuals
        self.batches = max(1, min(int(usuals * USUAL_BATCHES), self._max_batches))
        self.bytes = max(1, min(int(usuals * USUAL_BYTES), self._max_bytes))
