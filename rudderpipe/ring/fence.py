"""The order of memory between processes, on processors that would change it (arm64)."""

from __future__ import annotations

from _thread import allocate_lock


def fence() -> None:
    """No load or store below is made before one above.

    A release followed by an acquire of a lock of the interpreter's own, at about 150 ns.
    """
    lock = allocate_lock()
    lock.acquire()
    lock.release()
    lock.acquire()
