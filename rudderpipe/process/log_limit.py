"""A limit of one log line a period for each reason; each line gives the number of lines that it stands for."""

from __future__ import annotations

import logging

from rudderpipe.process.clock import Clock

PERIOD_S = 1.0
RARELY_S = 60.0
"""The period for a condition that stays until an operator mends it."""
REASONS = 100
"""How many reasons are remembered. Some contain text of a server or the system, so new ones may always come."""


class ThrottledLog:
    """A logger with that limit. Not exact under threads: a line more or less does no harm."""

    def __init__(self, logger: logging.Logger, clock: Clock, period_s: float = PERIOD_S) -> None:
        self._logger = logger
        self._clock = clock
        self._period_s = period_s
        self._last_s: dict[str, float] = {}
        self._since: dict[str, int] = {}

    def warning(self, reason: str, message: str, count: int = 1) -> None:
        """Log ``message`` unless one with the same ``reason`` was logged within the period."""
        self._say(logging.WARNING, reason, message, count)

    def error(self, reason: str, message: str, count: int = 1) -> None:
        """Log like ``warning``, as an error, when something is lost."""
        self._say(logging.ERROR, reason, message, count)

    def _say(self, level: int, reason: str, message: str, count: int) -> None:
        total = self._since.get(reason, 0) + count
        now_s = self._clock.monotonic_s()
        if now_s - self._last_s.get(reason, float("-inf")) < self._period_s:
            self._since[reason] = total
            return
        if len(self._last_s) >= REASONS and reason not in self._last_s:
            self._last_s.clear()
            self._since.clear()
        self._last_s[reason] = now_s
        self._since[reason] = 0
        self._logger.log(level, "%s reason=%s count=%d", message, reason, total)
