"""The threads on which a flusher calls several queues at once."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from rudderpipe import log_text

logger = log_text.logger("rudderpipe.flusher")


class Ended(NamedTuple):
    """A call that has ended, and its result or the exception that ended it."""

    owner: Any
    result: Any


class QueueCalls:
    """A thread for each queue that was called. On a host that allows no thread, a call runs on the flusher's own.

    All methods are for the flusher's thread. A thread in a call ends with the process, because a call cannot be ended
    from outside.
    """

    def __init__(self) -> None:
        self._threads: dict[Hashable, queue.SimpleQueue[Callable[[], Any] | None]] = {}
        """For each owner that has a thread, the calls that the thread must make."""
        self._ended: deque[Ended] = deque()
        self._changed = threading.Condition()

    def begin(self, owner: Hashable, call: Callable[[], Any]) -> None:
        """Begin a call. Only for an owner without a call under way."""
        due = self._threads.get(owner) or self._start(owner)
        if due is None:
            self._ended.append(Ended(owner, _result_of(call)))
        else:
            due.put(call)

    def _start(self, owner: Hashable) -> queue.SimpleQueue[Callable[[], Any] | None] | None:
        """Start the thread of an owner; return None if the host allows none now."""
        due: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        try:
            threading.Thread(target=self._serve, args=(owner, due), name="rudderpipe-queue", daemon=True).start()
        except (RuntimeError, MemoryError) as error:
            logger.warning("a queue has no thread, other queues wait for its calls error=%s", error)
            return None
        self._threads[owner] = due
        return due

    def next(self, wait_s: float) -> Ended | None:
        """Return a call that has ended, the first one first; None if none ends within so many seconds."""
        with self._changed:
            if not self._ended and wait_s > 0:
                self._changed.wait(wait_s)
            return self._ended.popleft() if self._ended else None

    def _serve(self, owner: Hashable, due: queue.SimpleQueue[Callable[[], Any] | None]) -> None:
        while (call := due.get()) is not None:
            result = _result_of(call)
            with self._changed:
                self._ended.append(Ended(owner, result))
                self._changed.notify()

    def close(self) -> None:
        """End each thread after the call that it makes."""
        for due in self._threads.values():
            due.put(None)
        self._threads = {}


def _result_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # noqa: BLE001  # the flusher's own thread handles it
        return error
