"""The last hour of a pipe: its totals every ten seconds, in memory only."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

INTERVAL_S = 10
POINTS = 361
Point = tuple[int, int, int, int, "int | None", "float | None"]
"""Milliseconds since 1970; events accepted, delivered and refused; retries; age of the oldest event in seconds."""


class History:
    """The points of one process. Any thread may call every method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._points: deque[Point] = deque(maxlen=POINTS)
        self._noted_at_s = float("-inf")

    def note(self, flow: Mapping[str, Any]) -> None:
        """Store the totals of a flow, in the form of its JSON, unless the last ones are younger than the interval."""
        with self._lock:
            if flow["taken_at_s"] - self._noted_at_s < INTERVAL_S - 0.5:  # a little earlier, since no timer is exact
                return
            self._noted_at_s = flow["taken_at_s"]
            self._points.append(_point(flow))

    def points(self) -> list[Point]:
        """Return the points of the last hour, the oldest first."""
        with self._lock:
            return list(self._points)


def _point(flow: Mapping[str, Any]) -> Point:
    ring, queue, sender = (flow[name] or {} for name in ("ring", "queue_state", "sender"))
    ages_s = [age_s for age_s in (ring.get("oldest_age_s"), queue.get("oldest_job_age_s")) if age_s is not None]
    retries = (sender.get("report") or {}).get("attempts", {}).get("retry")
    account = flow["account"]
    return (
        *(flow["taken_at_ms"], account["accepted"], account["delivered"], flow["producers"]["refused"]),
        *(retries, max(ages_s, default=None)),
    )
