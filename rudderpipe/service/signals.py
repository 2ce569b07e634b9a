"""The stop flag that SIGTERM and SIGINT raise, for rudderpipe's own programs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

EXIT_OK = 0
EXIT_FAILED = 1  # the command ran, and part of it failed
EXIT_USAGE = 2  # settings or arguments are wrong; a new start does not help
EXIT_RUNNING = 3  # another process holds the lock
EXIT_UNAVAILABLE = 4  # Redis or the shared memory cannot be reached; a new start may help
EXIT_STOPPED_NOW = 5  # the process ended before the drain, after a second signal or because the stop took too long
GRACE_S = 2.0
_STOPPING = (signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """The flag that the first SIGTERM or SIGINT raises. The second one ends the process at once.

    Nothing is lost then, because unfinished events are still in the ring or in the queue.
    """

    def __init__(self, *, exits_with: int = EXIT_STOPPED_NOW, hears_once: bool = False) -> None:
        """``exits_with`` is the exit code of a program that ends at once.

        With ``hears_once`` later signals change nothing. It is for a process that is signalled twice in any stop: by
        its parent, and by a service manager that signals all processes of the parent's group.
        """
        self.raised = False
        self._exits_with = exits_with
        self._hears_once = hears_once
        self._timeout_s = float("inf")
        self._overdue: Callable[[], None] = lambda: None
        self._wake: Callable[[], None] = lambda: None

    def install(self) -> None:
        """Start the thread that waits for the signals. Only for rudderpipe's own programs, never in an application.

        A thread is used because a signal handler runs only when the main thread is back in Python code. A host name
        that does not resolve can keep the main thread in the system's library for a minute. The signals stay blocked
        in programs that this process starts, until those install their own flag.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        for number in _STOPPING:
            signal.signal(number, signal.SIG_DFL)  # the parent process may have set it to be ignored
        threading.Thread(target=self._wait, name="rudderpipe-signals", daemon=True).start()

    def bound(self, timeout_s: float, overdue: Callable[[], None]) -> None:
        """Call ``overdue`` in its own thread ``timeout_s`` after the flag is raised.

        If the program still runs ``GRACE_S`` later, it ends as after a second signal.
        """
        self._timeout_s, self._overdue = timeout_s, overdue

    def wakes(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` in the flag's own thread once the flag is raised, so that the program sees it at once."""
        self._wake = wake

    def _wait(self) -> None:
        signal.sigwait(_STOPPING)
        self.raised = True
        self._wake()
        if self._timeout_s != float("inf"):
            for after_s, do in ((self._timeout_s, self._overdue), (self._timeout_s + GRACE_S, self._give_up)):
                timer = threading.Timer(after_s, do)
                timer.daemon = True
                timer.start()
        while self._hears_once:
            signal.sigwait(_STOPPING)
        self._leave(f"second {signal.Signals(signal.sigwait(_STOPPING)).name}")

    def _give_up(self) -> None:
        self._leave(f"not stopped {self._timeout_s + GRACE_S:g} s after the signal")

    def parent_ended(self) -> None:
        """Stop as after a signal, because the parent process has ended; end at once if the flag is raised already."""
        if self.raised:
            self._leave("the parent process has ended")
        os.kill(os.getpid(), signal.SIGTERM)

    def _leave(self, why: str) -> None:
        os.write(2, f"rudderpipe: {why}, ending now; unfinished events stay in the ring or in redis\n".encode())
        os._exit(self._exits_with)
