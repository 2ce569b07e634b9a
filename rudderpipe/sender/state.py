"""The state that the threads of a sender share. Each field has one writer."""

from __future__ import annotations

from typing import Literal

from rudderpipe.queue.active_job import ActiveJob
from rudderpipe.sender.counts import SenderCounts
from rudderpipe.service import health


class SenderState:
    """A sender's state. Any thread may read it at any time, because each field is one value that is replaced whole."""

    # Written by the sender's own thread.
    state: Literal["starting", "standby", "active"] = "starting"
    fencing_token: str = ""
    held: tuple[ActiveJob, ...] = ()
    """The jobs that were taken and whose result is not yet in Redis, in order."""
    token: str = ""
    """The token of the locks on ``held``; empty until the token changes."""
    backoff_until_s: float = float("-inf")
    # Written by the heartbeat's thread.
    waiting_jobs: int | None = None
    """Jobs in line, held by this sender, or active without a lock. None while Redis does not respond."""
    stranded_at_s: float = float("-inf")
    """The moment at which a job was last seen active without a lock."""
    paused: bool = False
    redis_seen_at_s: float | None = None
    lost: str = ""
    """The fencing token that a renewal found to be lost."""
    # Written when the process must stop.
    stopping: bool = False

    def __init__(self, now_s: float, stall_timeout_s: float) -> None:
        self.progress = health.Progress(now_s)
        self.counts = SenderCounts()
        self._stall_timeout_s = stall_timeout_s

    def health(self, now_s: float) -> health.Vitals:
        """Return the state from which health and readiness are decided."""
        active: Literal["held", "none"] = "held" if self.fencing_token else "none"
        return health.Vitals(
            now_s=now_s,
            waiting_jobs=self.waiting_jobs,
            paused=self.paused,
            in_backoff=now_s < self.backoff_until_s,
            moved_at_s=self.progress.moved_at_s,
            lease="standby" if self.state == "standby" else active,
            redis_seen_at_s=self.redis_seen_at_s,
            stall_timeout_s=self._stall_timeout_s,
            stopping=self.stopping,
        )
