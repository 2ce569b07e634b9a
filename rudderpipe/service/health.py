"""The decision whether a sender is alive and ready. It depends only on ``Facts``."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from rudderpipe.service.http import Answer


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a sender. All moments are of one monotonic clock."""

    now_s: float
    waiting_jobs: int | None
    """The jobs in line, held, or active without a lock, at the last look; None if Redis was not reached."""
    paused: bool
    in_backoff: bool
    """True while a job waits for the moment of its next attempt."""
    moved_at_s: float
    """``Progress.moved_at_s``."""
    lease: Literal["held", "standby", "none"]
    """``none`` while the sender has taken no lease, and always where several senders work at once."""
    redis_seen_at_s: float | None
    """The moment of the last response of Redis; None before the first."""
    redis_fresh_s: float = 10.0
    """How long a response counts. Longer than the longest pause between two calls."""
    stall_timeout_s: float = 120.0
    """Longer than the longest request."""
    stopping: bool = False


class Progress:
    """The moment since which nothing has moved although something should.

    Each method has one writer. A reader on another thread sees a value that was true at some moment.
    """

    def __init__(self, now_s: float) -> None:
        self._moved_at_s = self._idle_at_s = now_s

    def moved(self, now_s: float) -> None:
        """Record that a job was taken, settled, failed or put back."""
        self._moved_at_s = now_s

    def looked(self, facts: Facts) -> None:
        """Record a look at the queue. Call it after each one. Time in which nothing should move does not count."""
        if not _is_due(facts):
            self._idle_at_s = facts.now_s

    @property
    def moved_at_s(self) -> float:
        """The later of the last movement and the last look at which nothing had to move."""
        return max(self._moved_at_s, self._idle_at_s)


def _is_due(facts: Facts) -> bool:
    # A Redis that is away is no reason for a restart, because a new process would not reach it either.
    return bool(facts.waiting_jobs) and not facts.paused and not facts.in_backoff and facts.lease != "standby"


def is_stalled(facts: Facts) -> bool:
    """Return whether only a restart can help. The watchdog is served exactly while this is False."""
    return _is_due(facts) and facts.now_s - facts.moved_at_s >= facts.stall_timeout_s


def not_ready(facts: Facts) -> str:
    """Return why the sender cannot work or take over now; "" if it can."""
    if facts.stopping:
        return "stopping"
    if facts.redis_seen_at_s is None:
        return "Redis has not responded yet"
    silent_s = facts.now_s - facts.redis_seen_at_s
    return f"Redis has not responded for {silent_s:.0f} s" if silent_s > facts.redis_fresh_s else ""


def healthz(facts: Facts) -> Answer:
    """Return the liveness response: 503 exactly when the sender is stalled."""
    stalled = is_stalled(facts)
    reason = f"jobs wait, and nothing has moved for {facts.now_s - facts.moved_at_s:.0f} s" if stalled else ""
    return _answer("stalled" if stalled else "alive", reason, facts)


def readyz(facts: Facts) -> Answer:
    """Return the readiness response: 503 during a stop or while Redis does not respond. A standby sender is ready."""
    reason = not_ready(facts)
    return _answer("not ready" if reason else "ready", reason, facts)


def _answer(status: str, reason: str, facts: Facts) -> Answer:
    shown: dict[str, Any] = {"status": status, **({"reason": reason} if reason else {})}
    shown |= {name: getattr(facts, name) for name in ("waiting_jobs", "paused", "in_backoff", "lease", "stopping")}
    shown["moved_ago_s"] = round(facts.now_s - facts.moved_at_s, 3)
    shown["redis_seen_ago_s"] = facts.redis_seen_at_s and round(facts.now_s - facts.redis_seen_at_s, 3)
    return Answer(503 if reason else 200, shown)
