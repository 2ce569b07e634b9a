"""The spills of rings that are gone, as after a restart of the machine, which empties shared memory and keeps disks."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from rudderpipe import log_text
from rudderpipe.errors import QueueUnavailable, RingUnavailable
from rudderpipe.flusher import spill
from rudderpipe.process import runtime_dir
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.ring import layout as at
from rudderpipe.ring import location, memory
from rudderpipe.ring.memory import Segment, Shared
from rudderpipe.ring.ring import RingView
from rudderpipe.settings import Settings

if TYPE_CHECKING:
    from rudderpipe.flusher.queues_sink import QueuesSink
    from rudderpipe.queue.route import QueuePlace

RETRY_S = 1.0
FAILED = "spill"

logger = log_text.logger("rudderpipe.flusher")


class _GoneRing(NamedTuple):
    """A ring that is gone, and the sink that gives the queues what its spill has."""

    ring: RingView
    sink: QueuesSink


class GoneRings:
    """Work of the process beside its rings: to give the queues what the spills of gone rings have.

    A queue gets these events before those of the rings that are there, because they are earlier. What cannot be read
    now is not waited for: it may stay so for as long as its disk does, and only the events of one ring are promised to
    be in order.
    """

    def __init__(
        self, settings: Settings, make: Callable[[RingView, Callable[[QueuePlace], bool]], QueuesSink], clock: Clock
    ) -> None:
        """``make`` returns the sink of a ring that takes no more events. It gets ``must_wait`` of that sink, too."""
        self._settings = settings
        self._make = make
        self._clock = clock
        self._log = ThrottledLog(logger, clock, RARELY_S)
        self._left: list[_GoneRing] | None = None
        """The rings that are left, the oldest first; None while it is not known which."""
        self._has_failed = False
        """True from an error of this host until work goes on."""
        self._retry_at_s = float("-inf")

    @property
    def is_busy(self) -> bool:
        """True while the spills of gone rings may have events that the queues lack."""
        return self._left is None or bool(self._left)

    def are_ahead(self, place: QueuePlace, ring: RingView | None = None) -> bool:
        """Return True while a queue must get events of gone rings before those of ``ring``, which may be gone too."""
        if self._left is None:
            return not self._has_failed
        earlier = itertools.takewhile(lambda each: each.ring is not ring, self._left)
        return any(each.sink.spill_is_ahead(place) for each in earlier)

    def work(self) -> int:
        """Give the queues some events. Return how many they have now."""
        now_s = self._clock.monotonic_s()
        if not self.is_busy or now_s < self._retry_at_s:
            return 0
        try:
            if self._left is None:
                self._left = self._find()
            done = sum(map(self._move, tuple(self._left)))
        except (MemoryError, OSError, RingUnavailable) as error:
            said = "the spills of rings that are gone cannot be read now, later events go on, trying again error=%s"
            self._log.error(FAILED, said, getattr(error, "strerror", None) or error)
            self._retry_at_s, self._has_failed = now_s + RETRY_S, True
            for gone in self._left or ():
                gone.sink.close()
            self._left = None
            return 0
        self._has_failed = False
        self._log.over(FAILED, "the spills of rings that are gone can be read again")
        return done

    def _find(self) -> list[_GoneRing]:
        found = spill.unused(self._settings)
        living = _living(self._settings) if found else ()
        rings = [_stand_in(self._settings, epoch) for epoch in found if epoch not in living]
        if rings:
            said = "rings are gone, each queue gets what their spills have before other events rings=%d"
            self._log.warning("gone", said, len(rings))
        return [_GoneRing(ring, self._make(ring, partial(self.are_ahead, ring=ring))) for ring in rings]

    def _move(self, gone: _GoneRing) -> int:
        assert self._left is not None
        gone.sink.keep_house()
        result = gone.sink.commit((), ())
        reason = f"queue {gone.ring.segment.name}"
        if result.trouble is not None:
            said = "the queue takes nothing now, the spill of a ring that is gone waits, trying again error=%s"
            self._log.warning(reason, said, result.trouble)
        else:
            self._log.over(reason, "the spill of a ring that is gone does not wait any more")
        if not gone.sink.has_spilled:
            try:
                gone.sink.ended(gone.ring)
            except QueueUnavailable:
                logger.warning("a ring that is gone ended, redis keeps its offsets until they expire, nothing to do")
            gone.sink.close()
            self._left.remove(gone)
        return result.replayed


def _living(settings: Settings) -> set[int]:
    """Return the epochs of the pipe's rings that are there.

    Raises ``RingUnavailable`` if one of them cannot be read, because Redis would take nothing more of a ring that was
    taken for gone.
    """
    segments = [memory.attach(where.segment, removes=False) for where in location.of_pipe(settings)]
    return {segment.epoch for segment in segments if segment is not None}


def _stand_in(settings: Settings, epoch: int) -> RingView:
    """Return a ring of this process alone that has no events, in the place of one that is gone.

    Raises ``OSError`` or ``RingUnavailable``.
    """
    layout = at.for_blocks(1)
    with tempfile.TemporaryFile(dir=runtime_dir.ensure(settings.runtime_dir)) as file:
        os.ftruncate(file.fileno(), layout.size_bytes)
        shared = Shared(os.dup(file.fileno()), layout.size_bytes)
    segment = Segment(f"{epoch:016x}", shared, layout)
    if not segment.reserve(0, layout.data):
        raise RingUnavailable(segment.name, "no room in shared memory")
    for index, value in ((at.H_EPOCH, epoch), (at.H_TERM, 1), (at.H_SLOTS_USED_CHECK, at.ALL_BITS)):
        segment.words[index] = value
    return RingView(segment)
