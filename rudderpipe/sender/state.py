"""What the threads of a sender tell each other; each field has one writer."""

from __future__ import annotations

from typing import Literal

from rudderpipe.queue.active_job import Taken
from rudderpipe.service import health


class Facts:
    """Read by any thread at any moment: single values, replaced whole."""

    # Written by the sender's own thread.
    state: Literal["starting", "standby", "active"] = "starting"
    fence: str = ""
    held: tuple[Taken, ...] = ()
    """Taken and not settled in Redis, in order."""
    token: str = ""
    """Whose locks they are; empty until it changes."""
    backoff_until_s: float = float("-inf")
    # Written by the keeper.
    waiting_jobs: int | None = None
    """In line, held by us, or active without a lock. None while Redis does not answer."""
    stranded_at_s: float = float("-inf")
    """When a job was last seen to be active without a lock."""
    paused: bool = False
    redis_seen_at_s: float | None = None
    lost: str = ""
    """The fence that a renewal found to be lost."""
    # Written when we are told to stop, and when that took too long.
    stopping: bool = False
    aborting: bool = False

    def __init__(self, now_s: float, stall_timeout_s: float) -> None:
        self.progress = health.Progress(now_s)
        self._stall_timeout_s = stall_timeout_s

    def health(self, now_s: float) -> health.Facts:
        """The same as an operator is told."""
        active: Literal["held", "none"] = "held" if self.fence else "none"
        return health.Facts(
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
