"""Time of day, monotonic time and sleep as one object, so that tests can own them."""

from __future__ import annotations

import time
from datetime import datetime, timezone


class Clock:
    """The machine's clock."""

    def time_ms(self) -> int:
        """Milliseconds since 1970; may jump when the machine's clock is set."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds since some moment; never jumps."""
        return time.monotonic()

    def monotonic_ms(self) -> int:
        """The same in milliseconds: one clock for all processes of a host, so that one may read another's moment."""
        return int(self.monotonic_s() * 1000)

    def sleep(self, seconds: float) -> None:
        """Wait that long."""
        time.sleep(seconds)


def iso_ms(time_ms: int) -> str:
    """A moment as the Node SDK writes it: ``2026-11-23T09:55:22.688Z``."""
    moment = datetime.fromtimestamp(time_ms / 1000, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
