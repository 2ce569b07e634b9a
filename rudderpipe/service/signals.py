"""TERM and INT become one flag, in programs of our own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

EXIT_OK = 0
EXIT_FAILED = 1  # the command ran, and something it was asked for did not come about
EXIT_USAGE = 2  # settings or arguments are wrong; starting again will not help
EXIT_RUNNING = 3  # another one holds the lock
EXIT_UNAVAILABLE = 4  # Redis or the shared memory cannot be reached; starting again may help
EXIT_STOPPED_NOW = 5  # a second signal, or a stop that took too long: left before the drain was over
GRACE_S = 2.0
_STOPPING = (signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """Raised by the first TERM or INT. The second one leaves at once, which is safe: what was not finished is still in
    the ring or in the queue.
    """

    def __init__(self, *, exits_with: int = EXIT_STOPPED_NOW) -> None:
        """``exits_with`` is the exit code of a program that leaves at once."""
        self.raised = False
        self._exits_with = exits_with
        self._timeout_s = float("inf")
        self._overdue: Callable[[], None] = lambda: None

    def install(self) -> None:
        """Only for programs of our own, never in an application's process.

        A thread waits for the signals: a handler would run only when the main thread comes back to Python, and a name
        that nobody resolves can hold it in the system's library for a minute. They stay blocked in programs that we
        start, until those install a flag of their own.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        for number in _STOPPING:
            signal.signal(number, signal.SIG_DFL)  # whoever started us may have had it ignored
        threading.Thread(target=self._wait, name="rudderpipe-signals", daemon=True).start()

    def bound(self, timeout_s: float, overdue: Callable[[], None]) -> None:
        """``overdue`` is called, in a thread of its own, that long after the flag was raised.

        If the program still runs ``GRACE_S`` later, it leaves as with a second signal.
        """
        self._timeout_s, self._overdue = timeout_s, overdue

    def _wait(self) -> None:
        signal.sigwait(_STOPPING)
        self.raised = True
        if self._timeout_s != float("inf"):
            for after_s, do in ((self._timeout_s, self._overdue), (self._timeout_s + GRACE_S, self._give_up)):
                timer = threading.Timer(after_s, do)
                timer.daemon = True
                timer.start()
        self._leave(f"second {signal.Signals(signal.sigwait(_STOPPING)).name}")

    def _give_up(self) -> None:
        self._leave(f"not stopped {self._timeout_s + GRACE_S:g} s after the signal")

    def _leave(self, why: str) -> None:
        os.write(2, f"rudderpipe: {why}: leaving now\n".encode())
        os._exit(self._exits_with)
