"""What a flush answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from rudderpipe.clock import Clock

Until = Literal["queued", "delivered"]
STEP_S = 0.005


class FlushResult(msgspec.Struct, frozen=True):
    """Where the events are that the pipe held when the flush began, those of other processes on this host included.

    True when the flush was complete: all of them got where they were to get, within the time. ``queued``: in Redis,
    not delivered yet as far as the flush looked. ``failed``: will not be tried again by themselves; ``rudderpipe
    failed`` shows them. ``pending``: still in the ring.
    """

    queued: int = 0
    delivered: int = 0
    failed: int = 0
    pending: int = 0
    complete: bool = True

    def __bool__(self) -> bool:
        return self.complete


class Flush(Protocol):
    """A flush under way."""

    def poll(self) -> FlushResult:
        """How far it is; complete once it is at its end. Never waits."""


class Done:
    """A flush of what holds nothing."""

    def poll(self) -> FlushResult:
        """Complete."""
        return FlushResult()


def wait(flush: Flush, timeout_s: float, clock: Clock, sleep: Callable[[float], None]) -> FlushResult:
    """Its result once it is complete, or that of the moment when the time was over."""
    deadline_s = clock.monotonic_s() + timeout_s
    while not (result := flush.poll()).complete:
        left_s = deadline_s - clock.monotonic_s()
        if left_s <= 0:
            break
        sleep(min(STEP_S, left_s))
    return result
