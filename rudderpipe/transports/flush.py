"""A flush and its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import msgspec

from rudderpipe.errors import DeliveryError, FlushTimeout, RudderpipeError
from rudderpipe.process.clock import Clock
from rudderpipe.transports.callbacks import Callback, Checkpoint, callbacks

Until = Literal["queued", "delivered"]
STEP_S = 0.005


class FlushResult(msgspec.Struct, frozen=True):
    """Counts of the pipe's events since the last complete flush, or since this process's first event.

    Events of other processes on this host are included. The result is true if all is well: every event that was in the
    ring when the flush began reached its destination within the time, and none has failed.
    """

    queued: int = 0
    """Events in Redis; with ``until="delivered"`` only those that are not delivered yet."""
    delivered: int = 0
    """Events that the data plane has accepted."""
    failed: int = 0
    """Events that ``rudderpipe failed`` shows. Direct mode sends those again that were only tried too often."""
    pending: int = 0
    """Events that were in the ring when the flush began, and are still there."""
    complete: bool = True
    """False while events are pending."""
    reason: str = ""
    """Why events failed last, why they stay in the ring, or why the ring could not be flushed; empty otherwise."""

    def __bool__(self) -> bool:
        return self.complete and not self.failed


FlushCallback = Callable[[], Any] | Callable[[Exception | None], Any] | Callable[[Exception | None, FlushResult], Any]


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


class Wait:
    """The wait for a flush and for the callbacks of what was flushed, of at most ``timeout_s``."""

    def __init__(self, flush: Flush, timeout_s: float, clock: Clock, *, callbacks_too: bool = True) -> None:
        self._flush = flush
        self._clock = clock
        self._timeout_s = timeout_s
        self._deadline_s = clock.monotonic_s() + timeout_s
        self._callbacks_too = callbacks_too
        self._checkpoint: Checkpoint | None = None
        self.result = FlushResult(complete=False)

    def is_over(self) -> bool:
        """Return whether the wait is over; ``result`` has the counts then."""
        if self._checkpoint is None:
            self.result = self._flush.poll()
            if self._flush.trouble is not None:
                return True
            if self.result.complete:
                if not self._callbacks_too:
                    return True
                self._checkpoint = callbacks.checkpoint()
        if self._checkpoint is not None and self._checkpoint.reached:
            return True
        return self._clock.monotonic_s() >= self._deadline_s

    def error(self) -> RudderpipeError | None:
        """Return the error of a wait that is over; None if all events arrived."""
        result = self.result
        if self._flush.trouble is not None:
            return self._flush.trouble
        if not result.complete:
            return FlushTimeout(self._timeout_s, result.pending + result.queued)
        return DeliveryError(f"{result.failed:,} events failed: {result.reason}") if result.failed else None


def wait_for(flush: Flush, timeout_s: float, clock: Clock, sleep: Callable[[float], None]) -> FlushResult:
    """Return the complete result, or after ``timeout_s`` the result at that moment; do not wait for a stuck flush."""
    waiting = Wait(flush, timeout_s, clock, callbacks_too=not callbacks.is_within())
    while not waiting.is_over():
        sleep(STEP_S)
    return waiting.result


async def wait_in_turn(flush: Flush, timeout_s: float, clock: Clock) -> FlushResult:
    """Wait as ``wait_for`` does, for asyncio."""
    import asyncio

    waiting = Wait(flush, timeout_s, clock)
    while not waiting.is_over():
        await asyncio.sleep(STEP_S)
    return waiting.result


def report_to(flush: Flush, timeout_s: float, clock: Clock, callback: Callback) -> Callable[[], bool]:
    """Return the function that the callback thread polls, and that calls ``callback`` with ``(error, result)``."""
    waiting = Wait(flush, timeout_s, clock)

    def poll() -> bool:
        is_over = waiting.is_over()
        if is_over:
            callbacks.call(callback, waiting.error(), waiting.result)
        return is_over

    return poll
