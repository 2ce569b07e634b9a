"""The memory fence between processes, for processors that reorder loads and stores (arm64).

``docs/ring.md``, "The order of stores", lists every pair of accesses that needs one.
"""

from __future__ import annotations

import platform
from _thread import RLock

NEEDED = platform.machine().lower() not in ("x86_64", "amd64", "i686", "i386")
"""True if the processor may show stores in another order than they were made in."""


def fence() -> None:
    """Keep loads and stores in order: none after this call is made before one that precedes the call.

    A lock is released and then acquired, at about 150 ns. It is one of the interpreter's own, because a lock that
    gevent or eventlet put in its place orders no memory.
    """
    lock = RLock()
    lock.acquire()
    lock.release()
    lock.acquire()
