"""The loop of a long-lived process: work, idle, until the flag is up; then drain, then close."""

from __future__ import annotations

from typing import Protocol

from rudderpipe.process.clock import Clock
from rudderpipe.service.signals import StopFlag

IDLE_MIN_S = 0.001
IDLE_MAX_S = 0.06
"""A wake-up costs 90 us of CPU on a virtual machine; what is due waits no longer than this."""


class Duty(Protocol):
    """What a long-lived process does."""

    def work(self) -> int:
        """One bounded cycle; how much was done. Never sleeps."""

    def finished(self) -> bool:
        """True when there will never be anything to do again."""

    def drain(self, deadline_s: float) -> None:
        """Finish what was begun, until that moment of the monotonic clock."""

    def close(self) -> None:
        """Give everything back."""


class Idle:
    """How long to sleep between cycles: short after work, doubling up to a bound while there is none."""

    def __init__(self, clock: Clock, max_s: float = IDLE_MAX_S) -> None:
        self._clock = clock
        self._max_s = max_s
        self._next_s = IDLE_MIN_S

    def after(self, done: int) -> None:
        """Sleep as befits a cycle that did so much."""
        if done:
            self._next_s = IDLE_MIN_S
            return
        self._clock.sleep(self._next_s)
        self._next_s = min(self._max_s, self._next_s * 1.25)


def run(duty: Duty, stop: StopFlag, clock: Clock, *, shutdown_timeout_s: float, idle: Idle | None = None) -> None:
    """Run a duty until it is finished or the flag is up."""
    idle = idle or Idle(clock)
    try:
        while not stop.raised and not duty.finished():
            idle.after(duty.work())
        duty.drain(clock.monotonic_s() + shutdown_timeout_s)
    finally:
        duty.close()
