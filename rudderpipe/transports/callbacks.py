"""The one thread that runs an application's callbacks; it starts at the first callback."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from rudderpipe import log_text
from rudderpipe.process import fork
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import ThrottledLog

Callback = Callable[..., Any]
"""Called once with as many of ``(error, more)`` as it takes. ``error`` is None on success."""
STEP_S = 0.005
THREAD_NAME = "rudderpipe-callbacks"

logger = log_text.logger()


class _Worker(NamedTuple):
    """The thread, and the queue that it reads; untyped, because their modules are imported late."""

    inbox: Any
    thread: Any


class Callbacks:
    """A queue of callbacks, run one after the other, and of functions to poll every few milliseconds.

    The thread is a daemon, so callbacks that have not run when the process ends never run. A forked child does not run
    its parent's callbacks.
    """

    def __init__(self) -> None:
        self._log = ThrottledLog(logger, Clock())
        self._worker: fork.Local[_Worker | None] = fork.Local(lambda: None)

    def call(self, callback: Callback, error: Exception | None, *more: Any) -> None:
        """Run the callback soon, never within this call. A signal handler may call this method."""
        self._put(lambda: self._run(callback, error, more))

    def watch(self, poll: Callable[[], bool]) -> None:
        """Call ``poll`` repeatedly until it returns True."""
        self._put(poll)

    def _put(self, task: Callable[[], bool]) -> None:
        worker = self._worker.value
        if worker is None:
            try:
                worker = self._worker.value = self._start()
            except RuntimeError as error:  # the interpreter is ending, or there are too many threads
                self._log.warning("callback", "no callback will be called: %s", error)
                return
        worker.inbox.put(task)

    def _start(self) -> _Worker:
        # Imported here, because gevent and eventlet have replaced both modules by now. SimpleQueue, because a signal
        # handler may re-enter its put; a condition's lock cannot be entered again.
        import queue
        import threading

        inbox: Any = queue.SimpleQueue()
        thread = threading.Thread(target=self._serve, args=(inbox,), name=THREAD_NAME, daemon=True)
        thread.start()
        return _Worker(inbox, thread)

    def _serve(self, inbox: Any) -> None:
        import queue

        watched: list[Callable[[], bool]] = []
        ends: list[Checkpoint] = []
        while True:
            try:
                tasks = [inbox.get(timeout=STEP_S if watched or ends else None)]
            except queue.Empty:
                tasks = []
            checkpoints = [task for task in tasks if isinstance(task, Checkpoint)]
            ends += [checkpoint for checkpoint in checkpoints if checkpoint.is_end]
            watched = [task for task in watched + tasks if not isinstance(task, Checkpoint) and not self._is_over(task)]
            tasks = []  # because the last task must not keep a ring in memory while this thread waits
            for checkpoint in checkpoints:
                if not checkpoint.is_end:
                    inbox.put(checkpoint.set)  # behind the callbacks that this round has found
            if ends and not watched and inbox.empty():
                for end in ends:
                    end.set()
                ends = []

    def _is_over(self, task: Callable[[], bool]) -> bool:
        try:
            return task()
        except Exception as error:  # noqa: BLE001  # the thread must go on for the other callbacks
            self._log.error("callback", "watching for a callback failed: %s", type(error).__name__)
            return True

    def _run(self, callback: Callback, error: Exception | None, more: tuple[Any, ...]) -> bool:
        try:
            callback(*(error, *more)[: accepted(callback)])
        except BaseException as raised:  # noqa: BLE001  # not even sys.exit may stop the other callbacks
            name = getattr(callback, "__qualname__", type(callback).__name__)
            self._log.error("callback", "the callback %s raised %s", name, type(raised).__name__)
        return True

    def wait(self, timeout_s: float) -> bool:
        """Wait until every callback has run; return False after ``timeout_s``, or if a callback calls this method."""
        worker = self._worker.value
        if worker is None:
            return True
        if self.is_within():
            return False
        end, deadline_s = Checkpoint(is_end=True), time.monotonic() + timeout_s
        worker.inbox.put(end)
        while not end.reached and time.monotonic() < deadline_s:
            time.sleep(STEP_S)
        return end.reached

    def checkpoint(self) -> Checkpoint:
        """Put a checkpoint into the queue, and return it."""
        checkpoint, worker = Checkpoint(), self._worker.value
        if worker is None:
            checkpoint.set()
        else:
            worker.inbox.put(checkpoint)
        return checkpoint

    def is_within(self) -> bool:
        """Return whether the caller is a callback, which must not wait for callbacks."""
        worker = self._worker.value
        if worker is None:
            return False
        import threading

        return worker.thread is threading.current_thread()


class Checkpoint:
    """A point in the queue of callbacks, to wait for.

    ``reached`` becomes True once the callbacks of all events have run that had left the ring when it was put there.
    With ``is_end`` it becomes True once no callback is left to run, and nothing is left to poll.
    """

    def __init__(self, *, is_end: bool = False) -> None:
        self.is_end = is_end
        self.reached = False

    def set(self) -> bool:
        """Note that it is reached; return True, as a task that is over."""
        self.reached = True
        return True


def accepted(callback: Callback) -> int:
    """Return how many positional arguments a callback takes, at most 2; as in JavaScript, it may take fewer."""
    import inspect

    try:
        parameters = inspect.signature(callback).parameters.values()
    except (TypeError, ValueError):
        return 2
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return 2
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return min(2, sum(parameter.kind in by_position for parameter in parameters))


callbacks = Callbacks()
