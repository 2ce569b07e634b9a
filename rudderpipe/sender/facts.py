"""What the threads of a sender tell each other; each field has one writer."""

from __future__ import annotations

from typing import Literal

from rudderpipe.queue.taken import Taken


class Facts:
    """Read by any thread at any moment: single values, replaced whole."""

    # Written by the sender's own thread.
    state: Literal["starting", "standby", "active"] = "starting"
    fence: str = ""
    held: tuple[Taken, ...] = ()
    """Taken and not settled, in order."""
    backoff_until_s: float = float("-inf")
    moved_at_s: float
    """When the last job was taken or settled, or there was none."""
    # Written by the keeper.
    waiting_jobs: int | None = None
    """None while Redis does not answer."""
    paused: bool = False
    redis_seen_at_s: float = float("-inf")
    lost: str = ""
    """The fence that a renewal found to be lost."""
    # Written when a stop took too long.
    aborting: bool = False

    def __init__(self, now_s: float) -> None:
        self.moved_at_s = now_s

    def moved(self, now_s: float) -> None:
        """The sender has done something, or found nothing to do."""
        self.moved_at_s = now_s
