"""The sleep of the sender between two cycles: a wait in Redis for the next job, or pauses where that is refused."""

from __future__ import annotations

from collections.abc import Callable

from rudderpipe import log_text
from rudderpipe.errors import QueueUnavailable
from rudderpipe.process.clock import Clock
from rudderpipe.queue.job_wait import JobWait
from rudderpipe.service.loop import IDLE_MIN_S
from rudderpipe.settings import Settings

PAUSE_MAX_S = 0.2
"""The longest pause. Jobs wait in Redis and not in the ring, so a slow poll only adds latency."""
WAIT_MAX_S = 2.0
REFUSED_S = 60.0
"""How long the sender pauses, and does not wait in Redis, after such a wait failed."""
logger = log_text.logger("rudderpipe.sender")


def longest_wait_s(settings: Settings) -> float:
    """Return how long one wait may last: at the most a third of the lease."""
    return min(WAIT_MAX_S, settings.lease_ms / 1000 / 3)


class Sleep:
    """The idle part of the sender's loop. ``rest_s`` returns how long the sender has nothing to do without a job."""

    def __init__(self, wait: JobWait, rest_s: Callable[[], float], longest_s: float, clock: Clock) -> None:
        self._wait = wait
        self._rest_s = rest_s
        self._longest_s = longest_s
        self._clock = clock
        self._pause_s = IDLE_MIN_S
        self._was_woken = False
        """True if the last wait found a job in line. If the cycle after it took none, the next one follows a pause."""
        self._refused_until_s = float("-inf")

    def after(self, done: int) -> None:
        """Return at once after a cycle that did something. After another one, wait for a job, or pause."""
        if done:
            self._pause_s, self._was_woken = IDLE_MIN_S, False
            return
        rest_s = min(self._rest_s(), self._longest_s)
        now_s = self._clock.monotonic_s()
        if rest_s > 0 and not self._was_woken and now_s >= self._refused_until_s:
            try:
                self._was_woken = self._wait.wait(rest_s)
            except QueueUnavailable as error:
                self._refused_until_s = now_s + REFUSED_S
                logger.info("cannot wait in redis for jobs, looking for them several times a second error=%s", error)
            else:
                if not self._was_woken:
                    self._pause_s = IDLE_MIN_S
            return
        self._was_woken = False
        self._clock.sleep(self._pause_s)
        self._pause_s = min(PAUSE_MAX_S, self._pause_s * 1.25)
