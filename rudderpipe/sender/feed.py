"""The lines that a sender writes for its manager: what it counts, while it is not stalled."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from rudderpipe import log_text

EVERY_S = 1.0
logger = log_text.logger("rudderpipe.sender")


class Feed:
    """A thread that writes a line each second. The manager reads them, and kills a sender that is silent for long.

    The thread waits while the manager does not read, and nothing else of the sender waits with it.
    """

    def __init__(
        self, to: int, line: Callable[[], bytes], is_stalled: Callable[[], bool], on_end: Callable[[], None]
    ) -> None:
        """``to`` is the descriptor of a pipe. ``on_end`` is called once its reader has ended."""
        self._to = to
        self._line = line
        self._is_stalled = is_stalled
        self._on_end = on_end

    def start(self) -> None:
        """Start the thread. It ends with the process."""
        threading.Thread(target=self._run, name="rudderpipe-feed", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                if not self._is_stalled():
                    self._write(self._line() + b"\n")
            except OSError:
                break
            except Exception as error:  # noqa: BLE001  # such as MemoryError; the next line may be written
                logger.debug("a line for the manager cannot be made, trying again error=%r", error)
            time.sleep(EVERY_S)
        self._on_end()

    def _write(self, line: bytes) -> None:
        while line:
            line = line[os.write(self._to, line) :]
