"""The decision whether a sender is alive and ready. It depends only on ``Vitals``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from rudderpipe.service.http import Response


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
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

    def looked(self, vitals: Vitals) -> None:
        """Record a look at the queue. Call it after each one. Time in which nothing should move does not count."""
        if not _is_due(vitals):
            self._idle_at_s = vitals.now_s

    @property
    def moved_at_s(self) -> float:
        """The later of the last movement and the last look at which nothing had to move."""
        return max(self._moved_at_s, self._idle_at_s)


def _is_due(vitals: Vitals) -> bool:
    # A Redis that is away is no reason for a restart, because a new process would not reach it either.
    return bool(vitals.waiting_jobs) and not vitals.paused and not vitals.in_backoff and vitals.lease != "standby"


def is_stalled(vitals: Vitals) -> bool:
    """Return whether only a restart can help. The watchdog is served exactly while this is False."""
    return _is_due(vitals) and vitals.now_s - vitals.moved_at_s >= vitals.stall_timeout_s


def not_ready(vitals: Vitals) -> str:
    """Return why the sender cannot work or take over now; "" if it can."""
    if vitals.stopping:
        return "stopping"
    if vitals.redis_seen_at_s is None:
        return "Redis has not responded yet"
    silent_s = vitals.now_s - vitals.redis_seen_at_s
    return f"Redis has not responded for {silent_s:.0f} s" if silent_s > vitals.redis_fresh_s else ""


def healthz(vitals: Vitals) -> Response:
    """Return the liveness response: 503 exactly when the sender is stalled."""
    stalled = is_stalled(vitals)
    reason = f"jobs wait, and nothing has moved for {vitals.now_s - vitals.moved_at_s:.0f} s" if stalled else ""
    return _answer("stalled" if stalled else "alive", reason, vitals)


def readyz(vitals: Vitals) -> Response:
    """Return the readiness response: 503 during a stop or while Redis does not respond. A standby sender is ready."""
    reason = not_ready(vitals)
    return _answer("not ready" if reason else "ready", reason, vitals)


def _answer(status: str, reason: str, vitals: Vitals) -> Response:
    shown = {name: getattr(vitals, name) for name in ("waiting_jobs", "paused", "in_backoff", "lease", "stopping")}
    shown["moved_ago_s"] = round(vitals.now_s - vitals.moved_at_s, 3)
    shown["redis_seen_ago_s"] = vitals.redis_seen_at_s and round(vitals.now_s - vitals.redis_seen_at_s, 3)
    return response_of(status, reason, shown)


def response_of(status: str, reason: str, shown: Mapping[str, Any]) -> Response:
    """Return the response of a health check: 503 if there is a reason why it fails."""
    return Response(503 if reason else 200, {"status": status, **({"reason": reason} if reason else {}), **shown})
