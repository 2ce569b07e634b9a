"""Exactly one flusher per ring: its lock, its heartbeat, and who may start it when it is gone."""

from __future__ import annotations

from rudderpipe.process import identity
from rudderpipe.process.clock import Clock
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import Ring

FRESH_MS = 500
"""A heartbeat younger than this needs no second look."""
START_MS = 3_000
"""How long a flusher that was started has to take its lock before another one is."""
RETRY_MS = 1_000
"""How long after a start that failed the next one may be tried, by whichever process."""
TAKE_TIMEOUT_S = 2.0


def take(ring: Ring, clock: Clock, patience_s: float = TAKE_TIMEOUT_S) -> bool:
    """Become the flusher of this ring, for life; False when another one is.

    Tries for a moment: a producer that looks whether the lock is free holds it for an instant.
    """
    deadline_s = clock.monotonic_s() + patience_s
    while not ring.locks.try_lock(at.LOCK_FLUSHER):
        if clock.monotonic_s() >= deadline_s:
            return False
        clock.sleep(0.01)
    words, me = ring.words, identity.me()
    words[at.H_PID_START], words[at.H_NAMESPACE] = me.start, me.namespace
    at.bump(words, at.H_TERM)  # a call of a flusher before us may still be under way
    at.bump(words, at.H_STARTS)
    words[at.H_PID] = me.pid
    beat(ring, clock)
    try:
        if ring.locks.lock(at.LOCK_CLAIM, TAKE_TIMEOUT_S):
            words[at.H_START_MS] = 0  # the start is over: when we die, another one may follow at once
    finally:
        ring.locks.release(at.LOCK_CLAIM)
    return True


def close_unused(ring: Ring) -> bool:
    """End a ring that nothing was put into, so that no flusher ever came to end it."""
    if not ring.locks.try_lock(at.LOCK_FLUSHER):
        return False
    try:
        return ring.try_close()
    finally:
        ring.locks.unlock(at.LOCK_FLUSHER)


def beat(ring: Ring, clock: Clock) -> None:
    """Say that the flusher is there, so that the version which made the ring can read it."""
    ring.words[at.H_HEARTBEAT_MS] = clock.monotonic_ms() if ring.layout.format.has_starts else clock.time_ms()


def is_kept(ring: Ring, clock: Clock, *, sure: bool = False) -> bool:
    """Whether a flusher has the ring; ``sure``: not only had it a moment ago. Never asked by the flusher itself."""
    # A moment of another time namespace is not fresh: the lock tells then.
    age_ms = clock.monotonic_ms() - ring.heartbeat_ms(clock)
    return (not sure and 0 <= age_ms < FRESH_MS) or ring.locks.is_held(at.LOCK_FLUSHER)


def start_failed(ring: Ring) -> None:
    """Another may try a second after the start that failed. Only for the process that ``may_start`` told so."""
    started_ms = ring.words[at.H_START_MS]
    ring.words[at.H_START_MS] = max(1, started_ms - START_MS + RETRY_MS)


def may_start(ring: Ring, clock: Clock, *, sure: bool = False) -> bool:
    """True for the one process that should start a flusher now."""
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
        ring.locks.release(at.LOCK_CLAIM)
