"""The loop of a long-lived process: work and sleep until the stop flag is raised, then drain, then close."""

from __future__ import annotations

from typing import Protocol

from rudderpipe.process.clock import Clock
from rudderpipe.service.signals import StopFlag

IDLE_MIN_S = 0.001
IDLE_MAX_S = 0.05
"""The longest sleep between two cycles, which delays what is due. A wake-up costs 90 us of CPU on a virtual machine."""


class Duty(Protocol):
    """The work of a long-lived process."""

    def work(self) -> int:
        """Run one bounded cycle without a sleep. Return how much was done."""

    def finished(self) -> bool:
        """Return True once there will never be work again."""

    def drain(self, deadline_s: float) -> None:
        """Finish the work that was begun, until ``deadline_s`` of the monotonic clock."""

    def close(self) -> None:
        """Release everything, such as connections."""


class Sleep(Protocol):
    """The idle part of the loop."""

    def after(self, done: int) -> None:
        """Return at once after a cycle that did something; else sleep until there may be something to do."""


class Idle:
    """The sleep between cycles. It is short after work, and grows by a quarter up to ``max_s`` while there is none."""

    def __init__(self, clock: Clock, max_s: float = IDLE_MAX_S) -> None:
        self._clock = clock
        self._max_s = max_s
        self._next_s = IDLE_MIN_S

    def after(self, done: int) -> None:
        """Sleep after a cycle that did nothing; return at once after one that did something."""
        if done:
            self._next_s = IDLE_MIN_S
            return
        self._clock.sleep(self._next_s)
        self._next_s = min(self._max_s, self._next_s * 1.25)


def run(duty: Duty, stop: StopFlag, clock: Clock, *, shutdown_timeout_s: float, idle: Sleep | None = None) -> None:
    """Run a duty until it is finished or ``stop`` is raised; then drain and close it."""
    idle = idle or Idle(clock)
    try:
        while not stop.raised and not duty.finished():
            idle.after(duty.work())
        duty.drain(clock.monotonic_s() + shutdown_timeout_s)
    finally:
        duty.close()
