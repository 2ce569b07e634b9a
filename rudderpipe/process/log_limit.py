"""A limit of one log line a period for each reason; each line gives the number of entries that it stands for."""

from __future__ import annotations

import atexit
import logging
from typing import NamedTuple
from weakref import WeakSet

from rudderpipe.process import fork
from rudderpipe.process.clock import Clock

PERIOD_S = 1.0
RARELY_S = 60.0
"""The period for a condition that stays until an operator mends it."""
REASONS = 100
"""How many reasons are remembered. Some contain text of a server or the system, so new ones may always come."""


class _Line(NamedTuple):
    """The latest line of a reason, the time of the last line that was logged, and how many were not logged since."""

    level: int
    message: str
    values: tuple[object, ...]
    logged_at_s: float
    unsaid: int
    is_over: bool = False
    """True for the line that said that the condition is over."""


class ThrottledLog:
    """A logger with that limit. Not exact under threads: a line more or less does no harm.

    What was not logged when the process ends is logged then, so that the counts of a reason's lines add up.
    """

    def __init__(self, logger: logging.Logger, clock: Clock, period_s: float = PERIOD_S) -> None:
        self._logger = logger
        self._clock = clock
        self._period_s = period_s
        self._lines: fork.Local[dict[str, _Line]] = fork.Local(dict)
        _all.add(self)

    def warning(self, reason: str, message: str, *values: object, count: int = 1) -> None:
        """Log ``message % values`` unless one with the same ``reason`` was logged within the period."""
        self._say(logging.WARNING, reason, message, values, count)

    def error(self, reason: str, message: str, *values: object, count: int = 1) -> None:
        """Log like ``warning``, as an error, when something is lost."""
        self._say(logging.ERROR, reason, message, values, count)

    def over(self, reason: str, message: str, *values: object) -> None:
        """Log, at level INFO, the end of a condition, if a line of this reason has said that it is there.

        If the condition comes back, it is logged again after ``PERIOD_S`` at the latest.
        """
        known = self._lines.value.get(reason)
        if known is not None and not known.is_over:
            line = _Line(logging.INFO, message, values, self._clock.monotonic_s(), 0, is_over=True)
            self._lines.value[reason] = line
            self._write(line.level, reason, message, values, known.unsaid)

    def _say(self, level: int, reason: str, message: str, values: tuple[object, ...], count: int) -> None:
        lines, now_s = self._lines.value, self._clock.monotonic_s()
        known = lines.get(reason)
        if known is not None:
            count += known.unsaid
            period_s = min(self._period_s, PERIOD_S) if known.is_over else self._period_s
            if now_s - known.logged_at_s < period_s:
                lines[reason] = _Line(level, message, values, known.logged_at_s, count, known.is_over)
                return
        elif len(lines) >= REASONS:
            self.say_rest()
            lines.clear()
        lines[reason] = _Line(level, message, values, now_s, 0)
        self._write(level, reason, message, values, count)

    def say_rest(self) -> None:
        """Log what was not logged since the last line of each reason."""
        lines = self._lines.value
        for reason, line in list(lines.items()):
            if line.unsaid:
                lines[reason] = line._replace(unsaid=0)
                self._write(line.level, reason, line.message, line.values, line.unsaid)

    def _write(self, level: int, reason: str, message: str, values: tuple[object, ...], count: int) -> None:
        self._logger.log(level, message + " reason=%s count=%d", *values, reason, count)


_all: WeakSet[ThrottledLog] = WeakSet()


@atexit.register
def _say_rest() -> None:
    for log in list(_all):
        log.say_rest()
