"""The rings that one flusher process serves: the pipe's, and those that were removed while producers still had them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from rudderpipe.clock import Clock
from rudderpipe.errors import RingUnavailable
from rudderpipe.flusher.flusher import Flusher
from rudderpipe.throttle import ThrottledLog

RETRY_S = 1.0
logger = logging.getLogger("rudderpipe.flusher")


class Rings:
    """A duty made of those of one ``Flusher`` for each ring.

    ``follow`` (managed): when the pipe's ring was removed, the one that takes its place is served too, at once, for a
    producer that is idle leaves a removed ring only at its next event. ``open_next`` answers None when another flusher
    has that ring.
    """

    def __init__(self, open_next: Callable[[], Flusher | None], clock: Clock, *, follow: bool) -> None:
        self._open_next = open_next
        self._clock = clock
        self._follow = follow
        self._log = ThrottledLog(logger, clock)
        self._served: list[Flusher] = []
        self._newest: Flusher | None = None
        self._again_at_s = float("-inf")

    def enter(self) -> bool:
        """Serve the pipe's ring; False when another flusher does. Raises ``RingUnavailable``."""
        self._newest = self._open_next()
        if self._newest is not None:
            self._served.append(self._newest)
        return self._newest is not None

    @property
    def _is_followed(self) -> bool:
        """Whether another ring is to be served after the newest."""
        return self._follow and self._newest is not None and self._newest.removed

    def work(self) -> int:
        """One cycle of each; how many events left the rings."""
        if self._is_followed:
            self._move_on()
        return sum(flusher.work() for flusher in self._served)

    def _move_on(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s < self._again_at_s:
            return
        self._again_at_s = now_s + RETRY_S
        try:
            self.enter()
        except RingUnavailable as error:
            if not self._served:
                raise
            self._log.warning("ring", f"a removed ring cannot be followed by another: {error}")

    def finished(self) -> bool:
        """True once every ring has ended and none follows."""
        ended = [flusher for flusher in self._served if flusher.finished()]
        for flusher in ended:
            flusher.close()
            self._served.remove(flusher)
        return not self._served and not self._is_followed

    def drain(self, deadline_s: float) -> None:
        """Hand over everything that is committed now, in each."""
        for flusher in self._served:
            flusher.drain(deadline_s)

    def close(self) -> None:
        """Give connections back."""
        for flusher in self._served:
            flusher.close()
