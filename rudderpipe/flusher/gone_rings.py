"""The spills of rings that are gone, as after a restart of the machine, which empties shared memory and keeps disks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

from rudderpipe import log_text
from rudderpipe.errors import QueueUnavailable, RingUnavailable
from rudderpipe.flusher import spill
from rudderpipe.flusher.queue_sink import Sink
from rudderpipe.process import runtime_dir
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.ring import layout as at
from rudderpipe.ring import location, memory
from rudderpipe.ring.memory import Segment, Shared
from rudderpipe.ring.ring import RingView
from rudderpipe.settings import Settings

RETRY_S = 1.0

logger = log_text.logger("rudderpipe.flusher")


class GoneRings:
    """Work of the process beside its rings: to give the queues what the spills of gone rings have.

    The events of the rings that are there wait meanwhile, because they are later.
    """

    def __init__(self, settings: Settings, make: Callable[[RingView], Sink], clock: Clock) -> None:
        """``make`` returns the sink of a ring that takes no more events."""
        self._settings = settings
        self._make = make
        self._clock = clock
        self._log = ThrottledLog(logger, clock, RARELY_S)
        self._epochs: list[int] | None = None
        """The epochs of the rings that are left; None before they were looked for."""
        self._ring: RingView | None = None
        self._sink: Sink | None = None
        self._retry_at_s = float("-inf")

    @property
    def is_busy(self) -> bool:
        """True while the spills of gone rings may have events that the queues lack."""
        return self._epochs is None or bool(self._epochs)

    def work(self) -> int:
        """Give the queues some events. Return how many they have now."""
        now_s = self._clock.monotonic_s()
        if not self.is_busy or now_s < self._retry_at_s:
            return 0
        try:
            if self._epochs is None:
                found = spill.unused(self._settings)
                living = _living(self._settings) if found else ()
                self._epochs = [epoch for epoch in found if epoch not in living]
                if self._epochs:
                    said = "rings are gone, the queue gets what their spills have before other events rings=%d"
                    logger.warning(said, len(self._epochs))
            return self._move() if self._epochs else 0
        except (MemoryError, OSError, RingUnavailable) as error:
            said = "the spill of a ring that is gone cannot be read now, other events wait, trying again error=%s"
            self._log.error(type(error).__name__, said, getattr(error, "strerror", None) or error)
            self._retry_at_s = now_s + RETRY_S
            self._leave()
            return 0

    def _move(self) -> int:
        assert self._epochs
        if self._sink is None or self._ring is None:
            self._ring = _stand_in(self._settings, self._epochs[0])
            self._sink = self._make(self._ring)
        result = self._sink.commit((), ())
        if result.trouble is not None:
            said = "the queue takes nothing now, the spill of a ring that is gone waits, trying again error=%s"
            self._log.warning("queue", said, result.trouble)
        if not self._sink.has_spilled:
            try:
                self._sink.ended(self._ring)
            except QueueUnavailable:
                logger.warning("a ring that is gone ended, redis keeps its offsets until they expire, nothing to do")
            self._epochs.pop(0)
            self._leave()
        return result.replayed

    def _leave(self) -> None:
        if self._sink is not None:
            self._sink.close()
        self._sink = self._ring = None


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
