"""Direct mode's sink: batches go to the data plane from here, what is refused goes to the spool."""

from __future__ import annotations

from collections.abc import Sequence

from rudderpipe import log_text
from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.delivery.dispatcher import Courier, Parcel, Verdict
from rudderpipe.flusher import dead_letters as spools
from rudderpipe.flusher.dead_letters import DeadLetters
from rudderpipe.flusher.queue_sink import Answer, Damaged, events_of
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Cut
from rudderpipe.ring.ring import Ring
from rudderpipe.settings import Settings

logger = log_text.logger("rudderpipe.flusher")


class DirectSink:
    """Delivers with the sender's rules. Attempts are counted here alone: another flusher begins anew."""

    def __init__(
        self, settings: Settings, epoch: int, plane: DataPlane, dead_letters: DeadLetters, clock: Clock
    ) -> None:
        self._settings = settings
        self._epoch = epoch
        self._plane = plane
        self._courier = Courier(plane, settings, clock)
        self._dead_letters = dead_letters
        self._damaged = Damaged(dead_letters, epoch, clock)
        self._clock = clock
        self._log = ThrottledLog(logger, clock)
        self._rare_log = ThrottledLog(logger, clock, RARELY_S)
        self._attempts: dict[tuple[int, int], int] = {}
        """Of the batches that were tried and are not settled, by the place of their first event."""

    def known(self) -> dict[int, int]:
        """What a predecessor had kept when it died before it said so in the ring."""
        try:
            return self._dead_letters.reached(self._epoch)
        except OSError as error:
            logger.error("dead letters cannot be read path=%s error=%s", self._dead_letters.path, error.strerror)
            return {}

    def settle(self, cuts: Sequence[Cut], freed: Sequence[int]) -> Answer:  # noqa: ARG002  # nothing to forget here
        """One request at the most, with the first of these."""
        parcels = self._parcels(cuts)
        if not parcels:
            return self._unreadable(cuts[0])
        verdict = self._courier.attempt(parcels)
        tried = cuts[: verdict.count]
        if verdict.kind == "retry":
            self._attempts.update((_place(cut), self._tried(cut) + 1) for cut in tried)
            logger.warning(
                "attempt failed batches=%d attempt=%d next_in_s=%g %s",
                verdict.count,
                verdict.attempts,
                verdict.wait_s,
                verdict.outcome.reason,
            )
            return Answer(wait_s=verdict.wait_s)
        if verdict.kind == "blocked":
            self._rare_log.error(verdict.outcome.reason, "cannot deliver, events stay in the ring")
            return Answer(wait_s=verdict.wait_s)
        if verdict.kind == "fewer":
            logger.warning("refused, sending fewer at once batches=%d %s", verdict.count, verdict.outcome.reason)
            return Answer()
        if verdict.kind == "failed":
            self._keep(cuts[0], verdict)
        for cut in tried:
            self._attempts.pop(_place(cut), None)
        if verdict.kind == "split":
            logger.warning("batch refused, halving it events=%d %s", cuts[0].count, verdict.outcome.reason)
            return Answer(halve=True)
        return Answer([at.H_DELIVERED if verdict.kind == "delivered" else at.H_FAILED] * verdict.count)

    def _parcels(self, cuts: Sequence[Cut]) -> list[Parcel]:
        """The first of these, as many as one request may hold, up to one that cannot be read."""
        parcels: list[Parcel] = []
        size_bytes = 0
        for cut in cuts[: self._settings.max_jobs_per_request]:
            size_bytes += len(cut.data)
            if parcels and size_bytes > self._settings.max_request_bytes:
                break
            events = events_of(cut)
            if not events:
                break
            parcels.append(Parcel(events, len(cut.data), self._settings.write_key, attempts=self._tried(cut)))
        return parcels

    def _tried(self, cut: Cut) -> int:
        return self._attempts.get(_place(cut), 0)

    def _unreadable(self, cut: Cut) -> Answer:
        """A batch that is no JSON: only those of its events that are none are passed over."""
        return Answer(halve=True) if cut.count > 1 else Answer([self._damaged.pass_over(cut)])

    def _keep(self, cut: Cut, verdict: Verdict) -> None:
        """Make a batch a dead letter. A batch that cannot be kept is lost."""
        now_ms = self._clock.time_ms()
        record = spools.record_of(cut, events_of(cut), self._epoch, now_ms, verdict.reason, verdict.attempts)
        try:
            self._dead_letters.keep(record)
        except OSError as error:
            path = self._dead_letters.path
            self._log.error("lost", f"failed events cannot be kept error={error.strerror} path={path}", cut.count)
        logger.error("batch failed id=%s events=%d %s", record.id, cut.count, verdict.reason)

    def seen_off(self) -> tuple[int, int] | None:
        """Settled is the end here."""
        return None

    def ended(self, ring: Ring) -> None:
        """Nothing is kept elsewhere."""

    def close(self) -> None:
        """Close the connection."""
        self._plane.close()


def _place(cut: Cut) -> tuple[int, int]:
    return cut.marks[0].sequence, cut.marks[0].start
