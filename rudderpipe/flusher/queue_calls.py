"""The calls to the queues of a ring: those of different queues are under way together, and one of each queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rudderpipe import log_text
from rudderpipe.flusher.queue_cursor import Kind, QueueCursor, UnderWay
from rudderpipe.process.clock import Clock
from rudderpipe.service.calls import Calls

PATIENCE_S = 0.05
"""How long a call is waited for. The other queues go on without a call that takes longer."""

logger = log_text.logger("rudderpipe.flusher")


class QueueCalls:
    """The calls that one sink makes. Each result goes to ``note``, on the thread of the sink."""

    def __init__(
        self, clock: Clock, note: Callable[[QueueCursor, UnderWay, Any], None], calls: Calls | None = None
    ) -> None:
        """``note`` gets the cursor, its call that has ended, and the result, or the exception that ended the call."""
        self._clock = clock
        self._note = note
        self._calls = calls or Calls("rudderpipe-queue", _note_no_thread)
        self._calling: set[QueueCursor] = set()

    def may_begin(self, cursor: QueueCursor) -> bool:
        """Return True if no call of the queue is under way, and no pause after a failure."""
        return cursor.under_way is None and self._clock.monotonic_s() >= cursor.retry_at_s

    def begin(self, cursor: QueueCursor, kind: Kind, call: Callable[[], Any], **details: Any) -> None:
        """Begin a call. ``details`` are fields of ``UnderWay``."""
        cursor.under_way = UnderWay(kind, self._clock.monotonic_s(), **details)
        self._calling.add(cursor)
        self._calls.begin(cursor, call)

    def take(self, wait_s: float = 0.0) -> bool:
        """Note the results that have come, after a wait for one of them. Return False if there is none."""
        ended = self._calls.next(wait_s)
        has_any = ended is not None
        while ended is not None:
            cursor: QueueCursor = ended.owner
            call, cursor.under_way = cursor.under_way, None
            assert call is not None
            self._calling.discard(cursor)
            self._note(cursor, call, ended.result)
            ended = self._calls.next(0.0)
        return has_any

    def wait(self, deadline_s: float = float("inf")) -> bool:
        """Note results, after a wait for one of a call that has not been under way for long.

        Return False if there is no such call.
        """
        begun = [cursor.under_way.begun_s for cursor in self._calling if cursor.under_way]
        wait_s = min(max(begun, default=float("-inf")) + PATIENCE_S, deadline_s) - self._clock.monotonic_s()
        return wait_s > 0 and self.take(wait_s)

    def wait_for_all(self) -> None:
        """Note the result of each call that has not been under way for long."""
        while self.wait():
            pass

    def close(self) -> None:
        """End each thread after the call that it makes."""
        self._calls.close()


def _note_no_thread(error: Exception) -> None:
    logger.warning("a queue has no thread, other queues wait for its calls error=%s", error)
