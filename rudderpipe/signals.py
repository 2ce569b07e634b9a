"""TERM and INT become one flag; the handler does nothing else."""

from __future__ import annotations

import os
import signal
from types import FrameType

EXIT_OK = 0
EXIT_FAILED = 1  # the command ran, and something it was asked for did not come about
EXIT_USAGE = 2  # settings or arguments are wrong; starting again will not help
EXIT_RUNNING = 3  # another one holds the lock
EXIT_UNAVAILABLE = 4  # Redis or the shared memory cannot be reached; starting again may help
EXIT_STOPPED_NOW = 5  # a second signal: stopped before the drain was over


class StopFlag:
    """Raised by the first TERM or INT; the second one leaves at once, which is safe: what was not finished is still
    in the ring or in the queue.
    """

    def __init__(self) -> None:
        self.raised = False

    def install(self) -> None:
        """Only for programs of our own, never in an application's process."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.raised:
            os.write(2, f"rudderpipe: second {signal.Signals(number).name}: leaving now\n".encode())
            os._exit(EXIT_STOPPED_NOW)
        self.raised = True
