"""The rings that one flusher process serves: all rings of its pipe, and removed rings that producers still use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from rudderpipe import log_text
from rudderpipe.errors import RingUnavailable
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.flusher.state import FlusherState
from rudderpipe.process import locks
from rudderpipe.process.clock import Clock, Every
from rudderpipe.process.log_limit import ThrottledLog
from rudderpipe.ring import flusher_lock, location, wake_pipe
from rudderpipe.ring import layout as at
from rudderpipe.ring.location import RingLocation
from rudderpipe.ring.ring import OPEN_TIMEOUT_S, Ring, find_at, open_ring
from rudderpipe.settings import Settings

TROUBLE_LOG_S = 60.0
LOOK_S = 0.5
"""The interval between two searches for new rings of the pipe."""
PATIENCE_S = 0.01
"""How long a search waits for the claim lock of a ring. The rings that are served wait meanwhile."""
ENTRY_PATIENCE_S = 0.1
"""How long a lock is tried at the beginning and at the end, because a producer that probes it holds it for an instant.
"""
SERVING_SUFFIX = ".flusher"
"""The suffix of the lock file that belongs to the flusher process of a pipe and layout, not to a ring."""
SERVING = 0
"""The byte of the pipe's own lock file that its flusher holds."""
logger = log_text.logger("rudderpipe.flusher")


class MakeFlusher(Protocol):
    """The function that makes the flusher of one ring."""

    def __call__(self, ring: Ring, *, lingers: bool) -> Flusher:
        """Return the flusher of ``ring``. With ``lingers`` it must end after its ring's last producer."""


class BesideRings(Protocol):
    """Work of the process that belongs to no single ring, and that takes turns with the rings."""

    @property
    def is_busy(self) -> bool:
        """True while the process must not end."""

    def work(self) -> int:
        """Run one bounded cycle. Return how much was done."""


class _Served(msgspec.Struct):
    location: RingLocation
    ring: Ring
    flusher: Flusher


class Rings:
    """A duty that combines the duties of one ``Flusher`` for each ring of the pipe.

    With ``stays`` (managed) this process makes the pipe's ring and does not end with it; else it ends with its last
    ring. Rings of other interpreters and of the previous layout always end after their last producer.
    """

    def __init__(
        self,
        settings: Settings,
        make: MakeFlusher,
        clock: Clock,
        *,
        stays: bool,
        beside: BesideRings | None = None,
        state: FlusherState | None = None,
        on_end: Callable[[Ring], None] = lambda _ring: None,
    ) -> None:
        """``on_end`` is called with each ring that is not served any more."""
        self._settings = settings
        self._make = make
        self._clock = clock
        self._stays = stays
        self._beside = beside
        self._state = state or FlusherState(clock.monotonic_s(), settings.stall_timeout_s)
        self._on_end = on_end
        self._main = location.own(settings)
        """The ring of the main interpreter, in which this process runs."""
        self._log = ThrottledLog(logger, clock, TROUBLE_LOG_S)
        self._served: list[_Served] = []
        self._looking = Every(LOOK_S)
        self._told: set[int] = set()
        """The rings of another process that were logged already."""

    def enter(self) -> bool:
        """Serve every ring of the pipe. Return False if another process serves them. Raises ``RingUnavailable``."""
        if not self._take_pipe():
            return False
        self._looking.restart(self._clock.monotonic_s())
        main = self._main_ring()
        if main is not None and not self._take(*main, flusher_lock.TAKE_TIMEOUT_S) and self._stays:
            self.close()
            return False
        self._look(ENTRY_PATIENCE_S)
        return True

    def _take_pipe(self) -> bool:
        """Become, until this process ends, the one flusher process of the pipe that reads these layouts."""
        path = self._main.lock_file.with_suffix(SERVING_SUFFIX)
        deadline_s = self._clock.monotonic_s() + flusher_lock.TAKE_TIMEOUT_S
        while True:
            self._guard = locks.shared(path)
            if self._guard.try_lock(SERVING):
                if self._guard.is_current():
                    return True
            elif self._clock.monotonic_s() > deadline_s:
                return False
            self._clock.sleep(0.01)

    def _main_ring(self) -> tuple[RingLocation, Ring] | None:
        """Return the ring of the main interpreter; None if there is none. Only a managed flusher makes it."""
        # A short wait, because the rings that are served wait meanwhile.
        wait_s = PATIENCE_S if self._served else OPEN_TIMEOUT_S
        ring = open_ring(self._settings, self._clock, wait_s=wait_s) if self._stays else find_at(self._main, wait_s)
        return (self._main, ring) if ring is not None else None

    def _take(self, where: RingLocation, ring: Ring, patience_s: float) -> bool:
        if not flusher_lock.take(ring, self._clock, patience_s):
            if ring.segment.epoch not in self._told:
                self._told.add(ring.segment.epoch)
                logger.warning("another flusher serves this ring, leaving it alone ring=%s", ring.segment.name)
            return False
        logger.info("serving ring=%s", ring.segment.name)
        lingers = not self._stays or where != self._main
        self._served.append(_Served(where, ring, self._make(ring, lingers=lingers)))
        return True

    def _look(self, patience_s: float = 0.0) -> None:
        """Serve the rings that are new since the last look. A ring that cannot be opened is logged and tried again."""
        for where in location.of_pipe(self._settings):
            if where.layout > at.VERSION or any(
                one.location == where and not one.flusher.removed for one in self._served
            ):
                continue
            try:
                ring = find_at(where, max(PATIENCE_S, patience_s))
                if ring is not None and all(one.ring.segment.epoch != ring.segment.epoch for one in self._served):
                    self._take(where, ring, patience_s)
            except (RingUnavailable, OSError, MemoryError) as error:
                reason = str(error) or type(error).__name__
                said = "a ring cannot be served, its events stay in it, trying again ring=%s error=%s"
                self._log.warning(where.stem, said, where.stem, reason)

    def _move_on(self) -> None:
        """Make the pipe's ring again after it was removed.

        The flusher does it at once, because an idle producer notices the removal only at its next event.
        """
        try:
            main = self._main_ring()
        except RingUnavailable as error:
            if not self._served:
                raise
            self._log.warning("ring", "the ring was removed and no new one can be made, trying again error=%s", error)
            return
        if main is not None:
            self._take(*main, 0.0)

    @property
    def _has_main(self) -> bool:
        return any(one.location == self._main and not one.flusher.removed for one in self._served)

    def work(self) -> int:
        """Run one cycle of each flusher. Return how many events left the rings, plus how many rings are new."""
        before, now_s = len(self._served), self._clock.monotonic_s()
        self._state.begun(now_s)
        if self._looking.is_due(now_s):
            if self._stays and not self._has_main:
                self._move_on()
            self._look()
        done = len(self._served) - before  # a new ring ends the sleep, which its producers do not know of
        # Only when each dead letter is counted in its ring; a flusher that an error cut short may have left one.
        if self._beside is not None and not any(one.flusher.is_broken for one in self._served):
            done += self._beside.work()
        for one in self._served:
            done += one.flusher.work()
        moved = done > 0 or not any(one.flusher.is_due for one in self._served)
        self._state.ended(self._clock.monotonic_s(), moved=moved, waiting=self.waiting, rings=len(self._served))
        return done

    def rest_s(self, now_s: float) -> float:
        """Return how long nothing becomes due unless a producer wakes this process; 0 if it must go on looking."""
        if self._beside is not None and self._beside.is_busy:
            return 0.0
        return min((one.flusher.rest_s(now_s) for one in self._served), default=LOOK_S)

    @property
    def waiting(self) -> int:
        """How many events waited at the last look."""
        return sum(one.flusher.waiting for one in self._served)

    def wake_paths(self) -> set[Path]:
        """Return the paths of the FIFOs by which producers of the rings wake this process."""
        return {wake_pipe.path_of(one.ring.locks.path) for one in self._served if one.flusher.closed_s is None}

    def store_asleep(self, number: int) -> None:
        """Show the producers of all rings that this process sleeps or dozes, or with 0 that it is awake."""
        for one in self._served:
            flusher_lock.store_asleep(one.ring, number)

    def note_wake_up(self) -> None:
        """Count the age of events from now on in rings that were empty, because a producer ended the sleep."""
        for one in self._served:
            one.flusher.note_wake_up()

    def finished(self) -> bool:
        """Return True once every ring has ended and there is no new one. Never with ``stays``."""
        if self._beside is not None and self._beside.is_busy:
            return False
        ended = [one for one in self._served if one.flusher.finished()]
        for one in ended:
            self._on_end(one.ring)
            one.flusher.close()
            self._served.remove(one)
        if self._served or self._stays:
            return False
        self._look(ENTRY_PATIENCE_S)  # a ring may have been made since the last look
        return not self._served

    def drain(self, deadline_s: float) -> None:
        """Hand over everything that is committed now, ring by ring, until ``deadline_s`` of the monotonic clock."""
        for one in self._served:
            one.flusher.drain(deadline_s)

    def close(self) -> None:
        """Close the flushers and remove the pipe's lock file."""
        for one in self._served:
            one.flusher.close()
        if self._guard.is_current():
            self._guard.remove()
