"""A producer's means to wake the flusher. ``docs/ring.md``, "The flusher's sleep", says when it must."""

from __future__ import annotations

import os
import posix  # not os, because eventlet replaces its open and write: a full FIFO would stop the greenlet
import stat

from rudderpipe.ring.layout import H_ASLEEP
from rudderpipe.ring.slot import Slot


class Waker:
    """What one producer has seen of its flusher's sleep. It wakes the flusher at most once in each sleep."""

    __slots__ = ("_slot", "_woken", "seen")

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self.seen = 0
        """ASLEEP as the last event saw it. Only an event that sees another number calls ``see``."""
        self._woken = 0
        """ASLEEP as it was when this producer last woke the flusher."""

    def see(self) -> None:
        """Wake the flusher if an event must: an odd number means that only a request must."""
        ring = self._slot.ring
        if ring is not None:
            self.seen = ring.words[H_ASLEEP]
            if not self.seen & 1:
                self.wake()

    def wake(self) -> None:
        """Wake the flusher if it sleeps."""
        ring = self._slot.ring
        number = 0 if ring is None else ring.words[H_ASLEEP]
        # After a failure the next request tries again, because a sleep that goes on keeps its number.
        if ring is not None and number and number != self._woken and _write_byte(ring.fifo):
            self._woken = number


def _write_byte(path: str) -> bool:
    """Write one byte into the FIFO without waiting. Return False if the FIFO is missing or another file.

    The FIFO is opened for each byte, so that a producer keeps no descriptor, and a forked child needs none.
    """
    try:
        # Also for reading, or a write after the last reader's end would send SIGPIPE, which may end the application.
        fd = posix.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if not stat.S_ISFIFO(posix.fstat(fd).st_mode):
                return False
            posix.write(fd, b".")
        finally:
            posix.close(fd)
    except BlockingIOError:
        return True  # it is full, so the flusher finds a byte anyway
    except OSError:
        return False  # a lost wake-up
    return True
