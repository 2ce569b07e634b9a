"""Calls that wait for another host, such as Redis or the data plane, several at once: one thread for each owner."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

RETRY_S = 0.05
"""Time between two tries to hand a result over while no memory is left."""


class Ended(NamedTuple):
    """A call that has ended, and its result or the exception that ended it."""

    owner: Any
    result: Any


class _Thread:
    """The thread of one owner, as the thread that begins its calls sees it."""

    __slots__ = ("call", "due")

    def __init__(self) -> None:
        self.call: Callable[[], Any] | None = None
        """The call that is due. The thread ends when it is woken without one."""
        self.due = threading.Semaphore(0)


class Calls:
    """A thread for each owner that has made a call. Only the call itself runs on it.

    On a host that allows no thread, a call runs on the thread that begins it, so that the owners take turns.
    ``refused`` is then called with the reason, once until a thread can be started again.

    All methods are for one thread. The other threads end with the process, because a call cannot be ended from outside,
    for example while the host's resolver is asked for a name.
    """

    def __init__(self, name: str, refused: Callable[[Exception], None]) -> None:
        """``name`` is that of the threads."""
        self._name = name
        self._refused = refused
        self._threads: dict[Hashable, _Thread] = {}
        self._ended: deque[Ended] = deque()
        self._changed = threading.Condition()
        self._has_threads = True
        """False while the last thread could not be started."""

    def begin(self, owner: Hashable, call: Callable[[], Any]) -> bool:
        """Begin a call. Only for an owner without a call under way.

        Return False if the call was made here and has ended.
        """
        thread = self._threads.get(owner) or self._start(owner)
        if thread is None:
            self._ended.append(Ended(owner, _result_of(call)))
            return False
        thread.call = call
        thread.due.release()
        return True

    def _start(self, owner: Hashable) -> _Thread | None:
        """Start the thread of an owner; return None if the host allows none now."""
        try:
            made = _Thread()
            threading.Thread(target=self._serve, args=(owner, made), name=self._name, daemon=True).start()
        except (RuntimeError, MemoryError) as error:
            if self._has_threads:
                self._refused(error)
            self._has_threads = False
            return None
        self._has_threads = True
        self._threads[owner] = made
        return made

    def next(self, wait_s: float) -> Ended | None:
        """Return a call that has ended, the first one first; None if none ends within so many seconds."""
        with self._changed:
            if not self._ended and wait_s > 0:
                self._changed.wait(wait_s)
            return self._ended.popleft() if self._ended else None

    def _serve(self, owner: Hashable, thread: _Thread) -> None:
        while True:
            thread.due.acquire()
            call, thread.call = thread.call, None
            if call is None:
                return
            result = _result_of(call)
            while not self._hand_over(owner, result):
                time.sleep(RETRY_S)

    def _hand_over(self, owner: Hashable, result: Any) -> bool:
        """Give a result to the thread that began the call; return False if no memory is left for that.

        Without the result the owner would never have another call.
        """
        try:
            with self._changed:
                self._changed.notify()
                # Order: last, because a result that is handed over must not be handed over again.
                self._ended.append(Ended(owner, result))
        except MemoryError:
            return False
        return True

    def close(self) -> None:
        """End each thread after the call that it makes."""
        for thread in self._threads.values():
            thread.due.release()
        self._threads = {}


def _result_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # noqa: BLE001  # the thread that began the call handles it
        return error
