"""The application's log of events that failed after they were accepted, with the reason that stands in the ring."""

from __future__ import annotations

from rudderpipe.process.log_limit import ThrottledLog
from rudderpipe.ring import layout as at
from rudderpipe.ring import reasons
from rudderpipe.ring.ring import Ring


class FailureLog:
    """The log of one pipe's failed events, of all processes on this host, from the first look of this process on."""

    def __init__(self, log: ThrottledLog) -> None:
        self._log = log
        self._epoch: int | None = None
        self._told = 0
        """The failed events that were logged, or were there at the first look."""

    def look(self, ring: Ring) -> None:
        """Log how many events have failed since the last look, and why the last of them did."""
        words = ring.words
        failed = words[at.H_FAILED] + words[at.H_CORRUPT] + words[at.H_ACKED_FAILED]
        if self._epoch != words[at.H_EPOCH]:
            self._epoch, self._told = words[at.H_EPOCH], failed
        more, self._told = failed - self._told, failed  # fewer when failed jobs were retried or deleted
        if more > 0:
            reason = reasons.latest(ring)
            said = "events failed, see `rudderpipe failed`"
            self._log.error("failed", *((f"{said}: %s", reason.text) if reason is not None else (said,)), count=more)
