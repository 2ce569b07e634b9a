"""One duty cycle of the sender: take what waits, post it, write down what came of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from rudderpipe.clock import Clock, iso_ms
from rudderpipe.delivery import request
from rudderpipe.delivery.backoff import before_retry_s
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.delivery.post import DataPlane
from rudderpipe.errors import QueueUnavailable
from rudderpipe.queue.queue import LOCK_MS, Queue
from rudderpipe.queue.taken import Taken
from rudderpipe.sender.upkeep import Upkeep
from rudderpipe.settings import Settings
from rudderpipe.throttle import ThrottledLog

RENEW_S = LOCK_MS / 1000 / 3
RETRY_MIN_S, RETRY_MAX_S = 0.05, 2.0
AWAY_S = 600.0
"""How long a sender that nobody needs waits for a Redis that is away; what is in it is delivered by the next one."""

logger = logging.getLogger("rudderpipe.sender")


class Sender:
    """Delivers at least once, in order: nothing is taken before what was taken is settled.

    ``abandoned`` says whether who started us is gone; then we end once the queue has been empty for ``linger_s``.
    """

    def __init__(
        self,
        queue: Queue,
        plane: DataPlane,
        settings: Settings,
        clock: Clock,
        *,
        abandoned: Callable[[], bool] = lambda: False,
    ) -> None:
        self._queue = queue
        self._plane = plane
        self._settings = settings
        self._clock = clock
        self._abandoned = abandoned
        self._log = ThrottledLog(logger, clock)
        self._held: list[Taken] = []
        """Taken and not settled, in order."""
        self._delivered: list[Taken] = []
        """Delivered, and Redis does not know it yet."""
        self._failed: list[tuple[Taken, str]] = []
        """Not to be tried again, and Redis does not know it yet."""
        self._alone = 0
        """How many of the held are sent one by one, as a request that they shared was refused."""
        self._must_recover = not settings.is_multi_processor
        self._upkeep = Upkeep(queue, settings)
        self._not_before_s = self._renewed_s = float("-inf")
        self._retry_s = RETRY_MIN_S
        self._busy_at_s = clock.monotonic_s()
        self._found_empty = False
        """The last look at the queue found nothing; False until there was one."""

    def work(self) -> int:
        """One request at the most; how many jobs were settled."""
        now_s = self._clock.monotonic_s()
        try:
            if now_s < self._not_before_s:
                self._renew(now_s)
                return 0
            done = self._take(now_s) if not self._held else self._write_down()
            if self._held:
                self._busy_at_s = now_s
                self._attempt()
        except QueueUnavailable as error:
            self._log.warning("queue", f"waiting for redis: {error}")
            self._not_before_s = max(self._not_before_s, now_s + self._retry_s)
            self._found_empty = False  # what waits in a Redis that is away is not known
            self._retry_s = min(RETRY_MAX_S, self._retry_s * 2)
            return 0
        self._retry_s = RETRY_MIN_S
        return done

    def _take(self, now_s: float) -> int:
        """Write down what is known and take what is next; how many jobs were written down."""
        self._upkeep.work(now_s)
        if self._failed:
            self._write_down()
        if self._must_recover:
            self._write_down()
            recovered = self._queue.recover()
            self._must_recover = False
            if recovered:
                logger.warning("recovered jobs=%d", recovered)
        # Order: a take whose answer is lost leaves jobs active that we do not know of; they are recovered then.
        self._must_recover = not self._settings.is_multi_processor
        limits = self._settings.max_jobs_per_request, self._settings.max_request_bytes
        done = len(self._delivered)
        if done:
            kept, taken = self._queue.complete_and_take(self._delivered, *limits)
            self._completed(kept)
        else:
            taken = self._queue.take(*limits)
        self._must_recover = False
        self._found_empty = not taken
        self._renewed_s = now_s
        for job in taken:
            if job.job is None:
                self._failed.append((job, job.trouble))
            elif not job.job.events:
                self._failed.append((job, "the job's batch is empty"))
            else:
                self._held.append(job)
        return done + len(self._failed)

    def _completed(self, kept: int) -> None:
        if kept < len(self._delivered):
            logger.warning("delivered, but no longer ours to complete jobs=%d", len(self._delivered) - kept)
        self._delivered = []

    def _attempt(self) -> None:
        group = self._group()
        first = group[0].job
        assert first is not None
        events = [event for taken in group if taken.job for event in taken.job.events]
        body = request.body(events, iso_ms(self._clock.time_ms()))
        outcome = self._plane.post(body, first.write_key, first.timeout_s)
        if outcome.kind == "delivered":
            self._delivered += group
            self._settled(group)
        elif outcome.kind == "retry":
            self._retry(group, outcome)
        elif len(group) > 1:
            self._alone = len(group)
            logger.warning("shared request refused, sending its jobs one by one jobs=%d %s", len(group), outcome.reason)
        else:
            self._give_up(group[0], outcome.reason, group[0].attempts + 1)

    def _group(self) -> list[Taken]:
        """The next jobs that may travel together: one write key, and small enough."""
        group, size = [self._held[0]], len(self._held[0].data)
        if self._alone:
            return group
        first = self._held[0].job
        for taken in self._held[1 : self._settings.max_jobs_per_request]:
            size += len(taken.data)
            same = (
                first and taken.job and (taken.job.write_key, taken.job.timeout_s) == (first.write_key, first.timeout_s)
            )
            if not same or size > self._settings.max_request_bytes:
                break
            group.append(taken)
        return group

    def _settled(self, group: list[Taken]) -> None:
        self._held = self._held[len(group) :]
        self._alone = max(0, self._alone - len(group))

    def _retry(self, group: list[Taken], outcome: Outcome) -> None:
        attempts = group[0].attempts + 1
        if attempts >= self._settings.max_attempts:
            self._give_up(group[0], outcome.reason, attempts)
            return
        wait_s = before_retry_s(attempts)
        logger.warning(
            "attempt failed job=%s jobs=%d attempt=%d next_in_s=%g %s",
            group[0].id,
            len(group),
            attempts,
            wait_s,
            outcome.reason,
        )
        # Order: counted here before Redis is asked to, so that an unreachable Redis does not add attempts.
        tried = [msgspec.structs.replace(taken, attempts_made=taken.attempts_made + 1) for taken in group]
        self._held[: len(group)] = tried
        self._not_before_s = self._clock.monotonic_s() + wait_s
        if self._queue.retry_later(group) < len(group):
            self._lost()

    def _give_up(self, taken: Taken, reason: str, attempts: int) -> None:
        reason = f"{reason} (after {attempts} attempt{'s' if attempts > 1 else ''})"
        logger.error("job failed job=%s events=%d %s", taken.id, taken.events, reason)
        self._failed.append((taken, reason))
        self._settled([taken])

    def _write_down(self) -> int:
        done = 0
        if self._delivered:
            done += len(self._delivered)
            self._completed(self._queue.complete(self._delivered))
        while self._failed:
            taken, reason = self._failed[0]
            if not self._queue.fail(taken, reason):
                logger.warning("failed, but no longer ours to say so job=%s", taken.id)
            self._failed.pop(0)
            done += 1
        return done

    def _renew(self, now_s: float) -> None:
        if self._held and now_s - self._renewed_s >= RENEW_S:
            self._renewed_s = now_s
            if self._queue.renew(self._held) < len(self._held):
                self._lost()

    def _lost(self) -> None:
        logger.warning("another sender has taken over, letting go jobs=%d", len(self._held))
        self._held = []
        self._alone = 0
        self._not_before_s = float("-inf")

    def finished(self) -> bool:
        """True when nobody needs us any more."""
        if self._held or self._delivered or self._failed:
            return False
        idle_s = self._clock.monotonic_s() - self._busy_at_s
        return idle_s >= (self._settings.linger_s if self._found_empty else AWAY_S) and self._abandoned()

    def drain(self, deadline_s: float) -> None:
        """Write down what is known; what is not finished is first in line again."""
        while self._clock.monotonic_s() < deadline_s:
            try:
                self._write_down()
                if self._held:
                    logger.info("putting back jobs=%d", self._queue.put_back(self._held))
                return
            except QueueUnavailable as error:
                self._log.warning("queue", f"cannot put back, the next sender recovers: {error}")
                self._clock.sleep(0.1)

    def close(self) -> None:
        """Close the connections."""
        self._plane.close()
        self._queue.close()
