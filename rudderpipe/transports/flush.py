"""What a flush answers."""

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
    """What has become of the pipe's events since the last complete flush, or this process's first event.

    Those of other processes on this host are among them. True when the flush was complete: all that was there when it
    began got where it was to get, within the time. ``queued``: put into Redis; with ``until="delivered"`` what is not
    delivered yet. ``failed``: will not be tried again by itself; ``rudderpipe failed`` shows it. ``pending``: still
    in the ring, of what was there when the flush began. ``reason``: why the ring could not be asked at all; empty
    when it could.
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
        """Why it will never be complete, so that nobody waits for it; None when it may be."""

    def poll(self) -> FlushResult:
        """How far it is; complete once it is at its end. Never waits."""


class Done:
    """A flush of what holds nothing."""

    trouble = None

    def poll(self) -> FlushResult:
        """Complete."""
        return FlushResult()


class Stuck:
    """A flush of a ring that cannot be opened."""

    def __init__(self, trouble: RudderpipeError) -> None:
        self.trouble = trouble

    def poll(self) -> FlushResult:
        """Never complete."""
        return FlushResult(complete=False, reason=str(self.trouble))


def wait(flush: Flush, timeout_s: float, clock: Clock, sleep: Callable[[float], None]) -> FlushResult:
    """Its result once it is complete, or that of the moment when the time was over."""
    deadline_s = clock.monotonic_s() + timeout_s
    while not (result := flush.poll()).complete and flush.trouble is None:
        left_s = deadline_s - clock.monotonic_s()
        if left_s <= 0:
            break
        sleep(min(STEP_S, left_s))
    return result


async def wait_in_turn(flush: Flush, timeout_s: float, clock: Clock) -> FlushResult:
    """``wait`` for asyncio."""
    import asyncio

    deadline_s = clock.monotonic_s() + timeout_s
    while not (result := flush.poll()).complete and flush.trouble is None and clock.monotonic_s() < deadline_s:
        await asyncio.sleep(STEP_S)
    return result


def teller(flush: Flush, timeout_s: float, clock: Clock, callback: Callback) -> Callable[[], bool]:
    """What the thread for callbacks is to watch, so that this one is called with ``(error, result)``."""
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
