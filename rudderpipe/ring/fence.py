"""The order of memory between processes, on processors that would change it (arm64)."""

from __future__ import annotations

import platform
from _thread import RLock

NEEDED = platform.machine().lower() not in ("x86_64", "amd64", "i686", "i386")
"""Whether the processor would show stores in another order than they were made in."""


def fence() -> None:
    """No load or store below is made before one above.

    A release followed by an acquire of a lock of the interpreter's own (not one that gevent or eventlet put in its
    place), at about 150 ns.
    """
    lock = RLock()
    lock.acquire()
    lock.release()
    lock.acquire()
