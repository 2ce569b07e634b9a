"""The heartbeat of a flusher, also while its one thread waits for a response of Redis or of the data plane."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rudderpipe import log_text
from rudderpipe.process.clock import Clock
from rudderpipe.ring import flusher_lock
from rudderpipe.ring.ring import Ring

INTERVAL_S = 0.2
PATIENCE_S = 60.0
"""How long one cycle may take. No sink waits so long for a response, so the heartbeat stops then: nothing moves."""

logger = log_text.logger("rudderpipe.flusher")


class Heartbeat:
    """A thread that writes the heartbeat of all rings that this process serves, and calls ``on_tick`` as often."""

    def __init__(self, clock: Clock, on_tick: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._on_tick = on_tick
        self._rings: dict[int, Ring] = {}
        self._stopped = threading.Event()
        self._at_work_s = clock.monotonic_s()

    def start(self) -> None:
        """Start the thread. When no thread can be started, only the flusher's cycles write the heartbeat."""
        try:
            threading.Thread(target=self._run, name="rudderpipe-heartbeat", daemon=True).start()
        except RuntimeError as error:
            logger.warning(
                "heartbeat has no thread, events still move, producers may report no flusher error=%s", error
            )

    def beat(self, ring: Ring) -> None:
        """Write this ring's heartbeat now, and from now on in the thread too."""
        self._rings[id(ring)] = ring
        self._at_work_s = self._clock.monotonic_s()
        flusher_lock.beat(ring, self._clock)

    def leave(self, ring: Ring) -> None:
        """Stop writing this ring's heartbeat."""
        self._rings.pop(id(ring), None)

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            if self._clock.monotonic_s() - self._at_work_s < PATIENCE_S:
                for ring in tuple(self._rings.values()):
                    flusher_lock.beat(ring, self._clock)
            self._on_tick()
