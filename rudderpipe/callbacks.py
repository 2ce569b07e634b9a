"""The one thread that an application's callbacks run on; there is none before the first callback."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from rudderpipe import forks
from rudderpipe.clock import Clock
from rudderpipe.throttle import ThrottledLog

Callback = Callable[..., Any]
"""Called once with ``(error, more)``, error being None when all is well; or with ``(error)``, if it takes no more."""
STEP_S = 0.005
THREAD_NAME = "rudderpipe-callbacks"

logger = logging.getLogger("rudderpipe")


class Callbacks:
    """Calls what it is given, one after the other, and looks at what it is to watch every few milliseconds.

    A daemon thread: what has not been called when the process ends never is. A forked child calls nothing of its
    parent's.
    """

    def __init__(self) -> None:
        self._log = ThrottledLog(logger, Clock())
        self.forget()
        forks.forget_in_children(self)

    def forget(self) -> None:
        """In a forked child: the thread is the parent's, and so is what waits for it."""
        self._inbox: Any = None
        self._asked = self._done = 0

    def call(self, callback: Callback, error: Exception | None, *more: Any) -> None:
        """Have it called soon, and never from here. May be called from a signal handler."""
        self._put(lambda: self._run(callback, error, more))

    def watch(self, poll: Callable[[], bool]) -> None:
        """Have ``poll`` called until it answers True."""
        self._put(poll)

    def _put(self, task: Callable[[], bool]) -> None:
        if not forks.PAGE[0]:
            forks.renew()
        inbox = self._inbox
        if inbox is None:
            inbox = self._start()
        self._asked += 1
        inbox.put(task)

    def _start(self) -> Any:
        # Here, so that gevent and eventlet have put theirs in place by now. Its put may be entered again by a signal
        # handler, unlike a condition's lock.
        import queue
        import threading

        inbox: Any = queue.SimpleQueue()
        self._inbox = inbox
        threading.Thread(target=self._serve, args=(inbox,), name=THREAD_NAME, daemon=True).start()
        return inbox

    def _serve(self, inbox: Any) -> None:
        import queue

        watched: list[Callable[[], bool]] = []
        while True:
            try:
                tasks = [inbox.get(timeout=STEP_S if watched else None)]
            except queue.Empty:
                tasks = []
            waiting = []
            for task in watched + tasks:
                if self._is_over(task):
                    self._done += 1
                else:
                    waiting.append(task)
            watched = waiting

    def _is_over(self, task: Callable[[], bool]) -> bool:
        try:
            return task()
        except Exception as error:  # noqa: BLE001  # the thread must live on for the others
            self._log.error("callback", f"watching for a callback failed: {type(error).__name__}")
            return True

    def _run(self, callback: Callback, error: Exception | None, more: tuple[Any, ...]) -> bool:
        try:
            callback(error, *more[: accepted(callback) - 1])
        except Exception as raised:  # noqa: BLE001  # an application's mistake must not stop the other callbacks
            name = getattr(callback, "__qualname__", type(callback).__name__)
            self._log.error("callback", f"the callback {name} raised {type(raised).__name__}")
        return True

    def wait(self, timeout_s: float) -> bool:
        """Wait until everything asked for has been called; False when it took longer."""
        deadline_s = time.monotonic() + timeout_s
        while self._asked != self._done and self._inbox is not None:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(STEP_S)
        return True


def accepted(callback: Callback) -> int:
    """How many arguments it can be given by position, up to two: JavaScript's ignore what they do not name."""
    import inspect

    try:
        parameters = inspect.signature(callback).parameters.values()
    except (TypeError, ValueError):
        return 2
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return 2
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return max(1, min(2, sum(parameter.kind in by_position for parameter in parameters)))


callbacks = Callbacks()
