"""The heartbeat of a flusher whose one thread waits for an answer of Redis or of the data plane."""

from __future__ import annotations

import threading

from rudderpipe import log_text
from rudderpipe.process.clock import Clock
from rudderpipe.ring import flusher_lock
from rudderpipe.ring.ring import Ring

INTERVAL_S = 0.2
PATIENCE_S = 60.0
"""How long one cycle may take: no sink waits so long for an answer. Past it the heart stops, because nothing moves."""

logger = log_text.logger("rudderpipe.flusher")


class Heartbeat:
    """Beats for all rings that this process serves, from a thread of its own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rings: dict[int, Ring] = {}
        self._stopped = threading.Event()
        self._at_work_s = clock.monotonic_s()

    def start(self) -> None:
        """Begin; without a thread only each cycle of the flusher beats."""
        try:
            threading.Thread(target=self._run, name="rudderpipe-heartbeat", daemon=True).start()
        except RuntimeError as error:
            logger.warning("no thread for the heartbeat, producers may say that no flusher is there error=%s", error)

    def beat(self, ring: Ring) -> None:
        """Beat now, and for this ring from now on."""
        self._rings[id(ring)] = ring
        self._at_work_s = self._clock.monotonic_s()
        flusher_lock.beat(ring, self._clock)

    def leave(self, ring: Ring) -> None:
        """Beat for this ring no more."""
        self._rings.pop(id(ring), None)

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            if self._clock.monotonic_s() - self._at_work_s < PATIENCE_S:
                for ring in tuple(self._rings.values()):
                    flusher_lock.beat(ring, self._clock)
