"""The sleep of the flusher process between two cycles, and the producers' means to end it."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path

from rudderpipe.flusher.ring_set import Rings
from rudderpipe.process.clock import Clock
from rudderpipe.ring.wake_pipe import WakePipe
from rudderpipe.service.loop import IDLE_MAX_S, IDLE_MIN_S
from rudderpipe.settings import Settings

GATHER_S = 0.02
"""The doze after a cycle that moved events, in which more of them gather, so that they share calls and requests."""
GATHERED = 500
"""So many events are worth a cycle at once."""
VISIBLE_S = 0.002
"""A store that a producer made before it read ASLEEP is visible after this time, whatever the processor reorders."""
DOZE_S = 0.05
"""The interval of looks while events come that are not due. It bounds how often producers wake the flusher."""
ASLEEP_MAX_S = 0.5
LATE_S = 0.05
"""A lost wake-up delays events by the flush interval and this at the most, and never by more than ``ASLEEP_MAX_S``."""


class _Depth(Enum):
    """What a producer can do about the flusher's sleep: nothing, end it by a request, or end it by any event."""

    AWAKE = 0
    DOZING = 1
    ASLEEP = 2


class Sleep:
    """The idle part of the flusher's loop: dozes that grow from ``GATHER_S`` to ``DOZE_S``, and then a sleep.

    A request, such as a flush, ends a doze, and an event does not. So a flusher that has just moved events, or that an
    event has woken, costs the producers of more events nothing. It falls asleep when no event came during a doze.

    The flusher stores ASLEEP and then works one more cycle, because a producer may have read the word just before. Only
    a doze is so short that it needs no wait of ``VISIBLE_S`` in between.
    """

    def __init__(self, rings: Rings, settings: Settings, clock: Clock) -> None:
        self._rings = rings
        self._clock = clock
        self._at_most_s = min(ASLEEP_MAX_S, settings.flush_interval_ms / 1000 + LATE_S)
        self._pause_s = IDLE_MIN_S
        self._doze_s = GATHER_S
        self._depth = _Depth.AWAKE
        self._number = 0
        """The even number of the last sleep or doze."""
        self._waiting: int | None = None
        """The events that waited when the doze began; None before it."""
        self._pipes: dict[Path, WakePipe] = {}
        self._ended, self._end = os.pipe()

    def after(self, done: int) -> None:
        """Return at once if there is more to do. Otherwise pause, doze or sleep."""
        if done:
            self._pause_s, self._doze_s, self._waiting = IDLE_MIN_S, GATHER_S, None
            if self._rings.waiting >= GATHERED:
                return
        rest_s = self._rings.rest_s(self._clock.monotonic_s())
        if rest_s <= 0 or not self._has_pipes():
            self._pause(done)
        elif self._depth is _Depth.AWAKE or (done and self._depth is _Depth.ASLEEP):
            self._sink_to(_Depth.DOZING)
        elif self._depth is _Depth.DOZING and self._waiting == self._rings.waiting:
            self._sink_to(_Depth.ASLEEP)
            self._clock.sleep(VISIBLE_S)
        elif self._depth is _Depth.DOZING:
            self._waiting = self._rings.waiting
            if self._wait(min(rest_s, self._doze_s)):
                self._sink_to(_Depth.DOZING)
            self._doze_s = min(DOZE_S, self._doze_s * 2)
        elif self._wait(min(rest_s, self._at_most_s)):
            self._doze_s = GATHER_S
            self._sink_to(_Depth.DOZING)
            self._rings.note_wake_up()

    def _pause(self, done: int) -> None:
        """Go on looking, because producers cannot say when there is something to do."""
        if self._depth is not _Depth.AWAKE:
            self._depth = _Depth.AWAKE
            self._rings.store_asleep(0)
        if done:
            return
        self._clock.sleep(self._pause_s)
        self._pause_s = min(IDLE_MAX_S, self._pause_s * 2)

    def _sink_to(self, depth: _Depth) -> None:
        """Show the producers by a new number that the flusher dozes (odd) or sleeps (even). A cycle must follow."""
        self._depth, self._waiting = depth, None
        # By the clock, because producers may know numbers of an earlier flusher.
        self._number = max(self._number + 2, self._clock.monotonic_ms() * 2)
        self._rings.store_asleep(self._number + (depth is _Depth.DOZING))

    def _has_pipes(self) -> bool:
        """Have one FIFO for each ring. Return False if one of them cannot be made."""
        wanted = self._rings.wake_paths()
        for path, pipe in list(self._pipes.items()):
            if path not in wanted or not pipe.is_current():
                del self._pipes[path]
                pipe.close()
        try:
            for path in wanted - self._pipes.keys():
                self._pipes[path] = WakePipe(path)
        except OSError:
            return False
        return True

    def _wait(self, seconds: float) -> bool:
        """Wait, at the most for so many seconds, for a byte of a producer. Return True if there was one."""
        ready = self._clock.wait([self._ended, *(pipe.fd for pipe in self._pipes.values())], seconds)
        for pipe in self._pipes.values():
            if pipe.fd in ready:
                pipe.empty()
        return bool(ready)

    def end(self) -> None:
        """End the sleep, and every later one, from any thread."""
        os.write(self._end, b".")
