"""A flush and its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from rudderpipe.errors import FlushTimeout, RudderpipeError
from rudderpipe.process.clock import Clock
from rudderpipe.transports.callbacks import Callback, callbacks

Until = Literal["queued", "delivered"]
STEP_S = 0.005


class FlushResult(msgspec.Struct, frozen=True):
    """Counts of the pipe's events since the last complete flush, or since this process's first event.

    Events of other processes on this host are included. The result is true if the flush was complete: every event that
    was in the ring when the flush began reached its destination within the time.

    ``queued`` events are in Redis; with ``until="delivered"`` only those that are not delivered yet count. ``failed``
    events are not tried again automatically; ``rudderpipe failed`` shows them. ``pending`` events were in the ring when
    the flush began and are still there. ``reason`` says why the ring could not be flushed at all; it is empty if it
    could.
    """

    queued: int = 0
    delivered: int = 0
    failed: int = 0
    pending: int = 0
    complete: bool = True
    reason: str = ""

    def __bool__(self) -> bool:
        return self.complete


class Flush(Protocol):
    """A flush under way."""

    @property
    def trouble(self) -> RudderpipeError | None:
        """The reason why this flush can never be complete, so that no caller waits for it; None if it can be."""

    def poll(self) -> FlushResult:
        """Return the counts at this moment; the result is complete once the flush is. Never waits."""


class Done:
    """A flush of a transport that holds no event."""

    trouble = None

    def poll(self) -> FlushResult:
        """Return a complete result."""
        return FlushResult()


class Stuck:
    """A flush that can never be complete, because the ring cannot be used or has no flusher."""

    def __init__(self, trouble: RudderpipeError) -> None:
        self.trouble = trouble

    def poll(self) -> FlushResult:
        """Return a result that is not complete, with the reason."""
        return FlushResult(complete=False, reason=str(self.trouble))


def wait(flush: Flush, timeout_s: float, clock: Clock, sleep: Callable[[float], None]) -> FlushResult:
    """Return the complete result, or after ``timeout_s`` the result at that moment; do not wait for a stuck flush."""
    deadline_s = clock.monotonic_s() + timeout_s
    while not (result := flush.poll()).complete and flush.trouble is None:
        left_s = deadline_s - clock.monotonic_s()
        if left_s <= 0:
            break
        sleep(min(STEP_S, left_s))
    return result


async def wait_in_turn(flush: Flush, timeout_s: float, clock: Clock) -> FlushResult:
    """Wait as ``wait`` does, for asyncio."""
    import asyncio

    deadline_s = clock.monotonic_s() + timeout_s
    while not (result := flush.poll()).complete and flush.trouble is None and clock.monotonic_s() < deadline_s:
        await asyncio.sleep(STEP_S)
    return result


def teller(flush: Flush, timeout_s: float, clock: Clock, callback: Callback) -> Callable[[], bool]:
    """Return the function that the callback thread polls, and that calls ``callback`` with ``(error, result)``."""
    deadline_s = clock.monotonic_s() + timeout_s

    def poll() -> bool:
        result = flush.poll()
        late = not result.complete and clock.monotonic_s() >= deadline_s
        error = flush.trouble
        if error is None and late:
            error = FlushTimeout(timeout_s, result.pending + result.queued)
        over = result.complete or error is not None
        if over:
            callbacks.call(callback, error, result)
        return over

    return poll
