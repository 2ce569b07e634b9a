"""The state of a flusher that its admin address and its watchdog look at, and the decision whether it is alive."""

from __future__ import annotations

import msgspec

from rudderpipe.service.health import response_of
from rudderpipe.service.http import Response


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a flusher at one moment. All durations are in seconds."""

    worked_ago_s: float
    """The time since the last cycle began or ended. A cycle ends in seconds, and one begins twice a second at least."""
    moved_ago_s: float
    """The time since events left a ring, or since the last look at which no event was due."""
    stall_timeout_s: float
    waiting: int
    """Events that waited in the rings at the last look."""
    rings: int
    serves: bool
    stopping: bool


class FlusherState:
    """A flusher's state. Each field is replaced whole by one thread, so any thread may read it at any time."""

    serves = False
    """True once this process is the pipe's flusher."""
    stopping = False
    waiting = 0
    rings = 0

    def __init__(self, now_s: float, stall_timeout_s: float) -> None:
        self._worked_at_s = self._moved_at_s = now_s
        self._stall_timeout_s = stall_timeout_s

    def begun(self, now_s: float) -> None:
        """Note the beginning of a cycle. Only for the flusher's own thread, as ``ended``."""
        self._worked_at_s = now_s

    def ended(self, now_s: float, *, moved: bool, waiting: int, rings: int) -> None:
        """Note the end of a cycle. ``moved`` is True if events left a ring, or if none had to."""
        self._worked_at_s = now_s
        self.waiting, self.rings = waiting, rings
        if moved:
            self._moved_at_s = now_s

    def vitals(self, now_s: float) -> Vitals:
        """Return the state from which health and readiness are decided."""
        return Vitals(
            worked_ago_s=now_s - self._worked_at_s,
            moved_ago_s=now_s - self._moved_at_s,
            stall_timeout_s=self._stall_timeout_s,
            waiting=self.waiting,
            rings=self.rings,
            serves=self.serves,
            stopping=self.stopping,
        )


def stalled(vitals: Vitals) -> str:
    """Return why only a restart can help; "" if it cannot. The watchdog is served exactly while it is "".

    A Redis or a data plane that is away is no reason, because a new process would not reach it either.
    """
    if vitals.worked_ago_s >= vitals.stall_timeout_s:
        return f"no cycle has ended for {vitals.worked_ago_s:.0f} s"
    if vitals.moved_ago_s >= vitals.stall_timeout_s:
        return f"events are due, and none has left a ring for {vitals.moved_ago_s:.0f} s"
    return ""


def healthz(vitals: Vitals) -> Response:
    """Return the liveness response: 503 exactly when the flusher is stalled."""
    reason = stalled(vitals)
    return _answer("stalled" if reason else "alive", reason, vitals)


def readyz(vitals: Vitals) -> Response:
    """Return the readiness response: 503 before the flusher serves the pipe, and during a stop.

    It is 200 while Redis is away, because a pod whose flusher is not ready would get no requests either.
    """
    reason = "stopping" if vitals.stopping else "" if vitals.serves else "another flusher serves the pipe, or none yet"
    return _answer("not ready" if reason else "ready", reason, vitals)


def _answer(status: str, reason: str, vitals: Vitals) -> Response:
    shown = {
        "waiting_events": vitals.waiting,
        "rings": vitals.rings,
        "stopping": vitals.stopping,
        "worked_ago_s": round(vitals.worked_ago_s, 3),
        "moved_ago_s": round(vitals.moved_ago_s, 3),
    }
    return response_of(status, reason, shown)
