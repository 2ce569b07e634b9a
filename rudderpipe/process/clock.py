"""Time of day, monotonic time and sleep in one object, so that tests can replace them; a timer for regular work."""

from __future__ import annotations

import math
import select
import time
from collections.abc import Sequence
from datetime import datetime, timezone


class Clock:
    """The machine's clock."""

    def time_ms(self) -> int:
        """Return the milliseconds since 1970; they may jump when the machine's clock is set."""
        return time.time_ns() // 1_000_000

    monotonic_s = staticmethod(time.monotonic)
    """Return the seconds since an arbitrary moment; they never jump."""

    def monotonic_ms(self) -> int:
        """Return the same in milliseconds.

        All processes of a host share this clock, so one process may compare a moment that another one stored.
        """
        return int(self.monotonic_s() * 1000)

    def sleep(self, seconds: float) -> None:
        """Wait for so many seconds."""
        time.sleep(seconds)

    def wait(self, files: Sequence[int], seconds: float) -> list[int]:
        """Wait until one of the descriptors can be read, for so many seconds. Return those that can be read."""
        # The system counts milliseconds, and may round them down, which is a moment too early for what is due then.
        ready, _, _ = select.select(files, [], [], math.ceil(seconds * 1000) / 1000)
        return ready


class Every:
    """A timer that is due at once, and again when ``seconds`` have passed since it was last due.

    Time that passed unseen is not made up for: after a long pause the timer is due once.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """The interval. It may change at any time, and counts from the moment when the timer was last due."""
        self._last_s = float("-inf")

    def is_due(self, now_s: float) -> bool:
        """Return True at most once in an interval; ``now_s`` is of the monotonic clock."""
        if now_s - self._last_s < self.seconds:
            return False
        self._last_s = now_s
        return True

    def rest_s(self, now_s: float) -> float:
        """Return the seconds until the timer is due; 0 if it is due now."""
        return max(0.0, self._last_s + self.seconds - now_s)

    def restart(self, now_s: float) -> None:
        """Begin the interval at ``now_s``, as if the timer had just been due."""
        self._last_s = now_s

    def at_once(self) -> None:
        """Make the timer due at the next look."""
        self._last_s = float("-inf")


def iso_ms(time_ms: int) -> str:
    """Format a moment as the Node SDK does: ``2026-11-23T09:55:22.688Z``."""
    moment = datetime.fromtimestamp(time_ms / 1000, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
