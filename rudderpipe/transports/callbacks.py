"""The one thread that an application's callbacks run on; there is none before the first callback."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rudderpipe import log_text
from rudderpipe.process import fork
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import ThrottledLog

Callback = Callable[..., Any]
"""Called once with ``(error, more)``, error being None when all is well; or with ``(error)``, if it takes no more."""
STEP_S = 0.005
THREAD_NAME = "rudderpipe-callbacks"

logger = log_text.logger()


class Callbacks:
    """Calls what it is given, one after the other, and looks at what it is to watch every few milliseconds.

    A daemon thread: what has not been called when the process ends never is. A forked child calls nothing of its
    parent's.
    """

    def __init__(self) -> None:
        self._log = ThrottledLog(logger, Clock())
        self.forget()
        fork.forget_in_children(self)

    def forget(self) -> None:
        """In a forked child: the thread is the parent's, and so is what waits for it."""
        self._inbox: Any = None
        self._thread: Any = None

    def call(self, callback: Callback, error: Exception | None, *more: Any) -> None:
        """Have it called soon, and never from here. May be called from a signal handler."""
        self._put(lambda: self._run(callback, error, more))

    def watch(self, poll: Callable[[], bool]) -> None:
        """Have ``poll`` called until it answers True."""
        self._put(poll)

    def _put(self, task: Callable[[], bool]) -> None:
        if not fork.PAGE[0]:
            fork.renew()
        inbox = self._inbox
        if inbox is None:
            try:
                inbox = self._start()
            except RuntimeError as error:  # the interpreter is ending, or there are too many threads
                self._log.warning("callback", f"no callback will be called: {error}")
                return
        inbox.put(task)

    def _start(self) -> Any:
        # Here, so that gevent and eventlet have put theirs in place by now. Its put may be entered again by a signal
        # handler, unlike a condition's lock.
        import queue
        import threading

        inbox: Any = queue.SimpleQueue()
        thread = threading.Thread(target=self._serve, args=(inbox,), name=THREAD_NAME, daemon=True)
        thread.start()
        self._inbox, self._thread = inbox, thread
        return inbox

    def _serve(self, inbox: Any) -> None:
        import queue

        watched: list[Callable[[], bool]] = []
        ends: list[_End] = []
        while True:
            try:
                tasks = [inbox.get(timeout=STEP_S if watched or ends else None)]
            except queue.Empty:
                tasks = []
            ends += [task for task in tasks if isinstance(task, _End)]
            watched = [task for task in watched + tasks if not isinstance(task, _End) and not self._is_over(task)]
            tasks = []  # while it waits for the next, the last must not keep a ring in memory
            if ends and not watched and inbox.empty():
                for end in ends:
                    end.reached = True
                ends = []

    def _is_over(self, task: Callable[[], bool]) -> bool:
        try:
            return task()
        except Exception as error:  # noqa: BLE001  # the thread must live on for the others
            self._log.error("callback", f"watching for a callback failed: {type(error).__name__}")
            return True

    def _run(self, callback: Callback, error: Exception | None, more: tuple[Any, ...]) -> bool:
        try:
            callback(error, *more[: accepted(callback) - 1])
        except BaseException as raised:  # noqa: BLE001  # not even sys.exit may stop the other callbacks
            name = getattr(callback, "__qualname__", type(callback).__name__)
            self._log.error("callback", f"the callback {name} raised {type(raised).__name__}")
        return True

    def wait(self, timeout_s: float) -> bool:
        """Wait until all that was asked for has been called; False when it took longer, or when a callback asks."""
        inbox, thread = self._inbox, self._thread
        if inbox is None:
            return True
        import threading

        if thread is threading.current_thread():
            return False
        end, deadline_s = _End(), time.monotonic() + timeout_s
        inbox.put(end)
        while not end.reached and time.monotonic() < deadline_s:
            time.sleep(STEP_S)
        return end.reached


class _End:
    """Reached once nothing is left to be called or watched."""

    reached = False


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
