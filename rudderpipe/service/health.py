"""Whether the sender is alive and ready, decided from facts alone."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from rudderpipe.service.http import Answer


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a sender; all moments are of one monotonic clock."""

    now_s: float
    waiting_jobs: int | None
    """In line or active, at the last look; None: Redis was not reached."""
    paused: bool
    in_backoff: bool
    """A job waits for its next attempt, the moment of which is still to come."""
    moved_at_s: float
    """``Progress.moved_at_s``."""
    lease: Literal["held", "standby", "none"]
    """``none``: several senders at once, which need none."""
    redis_seen_at_s: float | None
    """The last answer of Redis; None: there was none yet."""
    redis_fresh_s: float = 10.0
    """An answer counts for so long; above the longest pause between two questions."""
    stall_timeout_s: float = 120.0
    """Above the longest that one request may take."""
    stopping: bool = False


class Progress:
    """Since when nothing has moved although something should.

    One writer for each method; a reader on another thread sees some moment that was true.
    """

    def __init__(self, now_s: float) -> None:
        self._moved_at_s = self._idle_at_s = now_s

    def moved(self, now_s: float) -> None:
        """A job was taken, settled, failed or put back."""
        self._moved_at_s = now_s

    def looked(self, facts: Facts) -> None:
        """After each look at the queue: as long as nothing should move, the time does not count."""
        if not _is_due(facts):
            self._idle_at_s = facts.now_s

    @property
    def moved_at_s(self) -> float:
        """The later of the last movement and the last look at which there was nothing to do."""
        return max(self._moved_at_s, self._idle_at_s)


def _is_due(facts: Facts) -> bool:
    # A Redis that is away is no reason to start again: the next one would not reach it either.
    return bool(facts.waiting_jobs) and not facts.paused and not facts.in_backoff and facts.lease != "standby"


def is_stalled(facts: Facts) -> bool:
    """Whether only a restart can help; the watchdog is served exactly while this is False."""
    return _is_due(facts) and facts.now_s - facts.moved_at_s >= facts.stall_timeout_s


def not_ready(facts: Facts) -> str:
    """Why it would not take over work now; empty when it would."""
    if facts.stopping:
        return "stopping"
    if facts.redis_seen_at_s is None:
        return "Redis was not reached yet"
    silent_s = facts.now_s - facts.redis_seen_at_s
    return f"Redis has not answered for {silent_s:.0f} s" if silent_s > facts.redis_fresh_s else ""


def healthz(facts: Facts) -> Answer:
    """Liveness: 503 exactly when the sender is stalled."""
    stalled = is_stalled(facts)
    reason = f"jobs wait, and nothing has moved for {facts.now_s - facts.moved_at_s:.0f} s" if stalled else ""
    return _answer("stalled" if stalled else "alive", reason, facts)


def readyz(facts: Facts) -> Answer:
    """Readiness: 503 while stopping or without a Redis that answers; one that stands by is ready."""
    reason = not_ready(facts)
    return _answer("not ready" if reason else "ready", reason, facts)


def _answer(status: str, reason: str, facts: Facts) -> Answer:
    shown: dict[str, Any] = {"status": status, **({"reason": reason} if reason else {})}
    shown |= {name: getattr(facts, name) for name in ("waiting_jobs", "paused", "in_backoff", "lease", "stopping")}
    shown["moved_ago_s"] = round(facts.now_s - facts.moved_at_s, 3)
    shown["redis_seen_ago_s"] = facts.redis_seen_at_s and round(facts.now_s - facts.redis_seen_at_s, 3)
    return Answer(503 if reason else 200, shown)
