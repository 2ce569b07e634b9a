"""The lock and the heartbeat of a ring's only flusher, and the choice of the process that starts a flusher."""

from __future__ import annotations

from rudderpipe.process import identity
from rudderpipe.process.clock import Clock
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import Ring

FRESH_MS = 500
"""A heartbeat younger than this needs no look at the lock."""
START_MS = 3_000
"""How long a started flusher has to take its lock before another flusher may be started."""
RETRY_MS = 1_000
"""How long after a failed start any process may try the next one."""
TAKE_TIMEOUT_S = 2.0


def take(ring: Ring, clock: Clock, patience_s: float = TAKE_TIMEOUT_S) -> bool:
    """Become the flusher of this ring for life; return False if another process is its flusher.

    It tries for ``patience_s``, because a producer that checks whether the lock is free holds it for an instant.
    """
    deadline_s = clock.monotonic_s() + patience_s
    while not ring.locks.try_lock(at.LOCK_FLUSHER):
        if clock.monotonic_s() >= deadline_s:
            return False
        clock.sleep(0.01)
    words, me = ring.words, identity.me()
    words[at.H_PID_START], words[at.H_NAMESPACE] = me.start, me.namespace
    at.bump(words, at.H_TERM)  # a call to Redis by an earlier flusher may still be under way
    at.bump(words, at.H_STARTS)
    words[at.H_PID] = me.pid
    store_asleep(ring, 0)
    beat(ring, clock)
    try:
        if ring.locks.lock(at.LOCK_CLAIM, TAKE_TIMEOUT_S):
            words[at.H_START_MS] = 0  # the start is over: if this flusher dies, another may start at once
    finally:
        ring.locks.release(at.LOCK_CLAIM)
    return True


def close_unused(ring: Ring) -> bool:
    """End a ring into which nothing was put, so that no flusher ever came to end it; return whether it ended."""
    if not ring.locks.try_lock(at.LOCK_FLUSHER):
        return False
    try:
        return ring.try_close()
    finally:
        ring.locks.unlock(at.LOCK_FLUSHER)


def beat(ring: Ring, clock: Clock) -> None:
    """Store the heartbeat in the form that the version which made the ring can read."""
    ring.words[at.H_HEARTBEAT_MS] = clock.monotonic_ms() if ring.layout.format.has_starts else clock.time_ms()


def store_asleep(ring: Ring, number: int) -> None:
    """Store the number of the flusher's sleep, or 0 when it is awake. Producers of another layout do not read it."""
    if ring.layout.format.wakes:
        ring.words[at.H_ASLEEP] = number


def is_kept(ring: Ring, clock: Clock, *, sure: bool = False) -> bool:
    """Return whether a flusher has the ring. The flusher itself must never call it.

    ``sure`` tries the lock, even if a fresh heartbeat shows that a flusher had the ring a moment ago.
    """
    # A heartbeat of another time namespace is not fresh. Then the lock decides.
    age_ms = clock.monotonic_ms() - ring.heartbeat_ms(clock)
    return (not sure and 0 <= age_ms < FRESH_MS) or ring.locks.is_held(at.LOCK_FLUSHER)


def start_failed(ring: Ring) -> None:
    """Let any process try again ``RETRY_MS`` after the failed start.

    Only for the process to which ``may_start`` returned True.
    """
    started_ms = ring.words[at.H_START_MS]
    ring.words[at.H_START_MS] = max(1, started_ms - START_MS + RETRY_MS)


def may_start(ring: Ring, clock: Clock, *, sure: bool = False) -> bool:
    """Return True to the one process that should start a flusher now."""
    if is_kept(ring, clock, sure=sure):
        return False
    try:
        if not ring.locks.lock(at.LOCK_CLAIM, 0.005):
            return False
        now_ms = clock.monotonic_ms()
        started_ms = ring.words[at.H_START_MS]
        if started_ms and 0 <= now_ms - started_ms < START_MS:
            return False
        ring.words[at.H_START_MS] = now_ms
        return True
    finally:
        try:
            ring.locks.release(at.LOCK_CLAIM)
        except BaseException:
            ring.locks.release(at.LOCK_CLAIM)  # a signal handler may raise before the first line of the call
            raise
