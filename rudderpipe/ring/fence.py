"""The order of memory between processes, on processors that would change it (arm64)."""

from __future__ import annotations

from _thread import RLock


def fence() -> None:
    """No load or store below is made before one above.

    A release followed by an acquire of a lock of the interpreter's own (not one that gevent or eventlet put in its
    place), at about 150 ns.
    """
    lock = RLock()
    lock.acquire()
    lock.release()
    lock.acquire()
