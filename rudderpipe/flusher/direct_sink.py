"""The sink of direct mode: it sends batches to the data plane and stores refused ones as dead letters."""

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
    """A sink that delivers by the sender's rules. Attempts are counted in memory, so a new flusher counts from 0."""

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
        """Attempts of the batches that were tried and are not committed, by the place of their first event."""

    def known(self) -> dict[int, int]:
        """Return the offsets of dead letters that a killed flusher stored and had not yet counted in the ring."""
        try:
            return self._dead_letters.reached(self._epoch)
        except OSError as error:
            logger.error(
                "dead letters cannot be read, batches that failed may be sent again path=%s error=%s",
                self._dead_letters.path,
                error.strerror,
            )
            return {}

    def settle(self, cuts: Sequence[Cut], freed: Sequence[int]) -> Answer:  # noqa: ARG002  # no offsets are kept here
        """Send at most one request, with the first of these batches."""
        parcels = self._parcels(cuts)
        if not parcels:
            return self._unreadable(cuts[0])
        verdict = self._courier.attempt(parcels)
        tried = cuts[: verdict.count]
        if verdict.kind == "retry":
            self._attempts.update((_place(cut), self._tried(cut) + 1) for cut in tried)
            logger.warning(
                "attempt failed, the same batches are sent again batches=%d attempt=%d next_in_s=%g reason=%s",
                verdict.count,
                verdict.attempts,
                verdict.wait_s,
                verdict.outcome.reason,
            )
            return Answer(wait_s=verdict.wait_s)
        if verdict.kind == "blocked":
            said = f"cannot deliver until the cause is corrected, events stay in the ring next_in_s={verdict.wait_s:g}"
            self._rare_log.error(verdict.outcome.reason, said)
            return Answer(wait_s=verdict.wait_s)
        if verdict.kind == "fewer":
            logger.warning(
                "a request was refused, the next one has fewer batches batches=%d reason=%s",
                verdict.count,
                verdict.outcome.reason,
            )
            return Answer()
        if verdict.kind == "failed":
            self._keep(cuts[0], verdict)
        for cut in tried:
            self._attempts.pop(_place(cut), None)
        if verdict.kind == "split":
            reason = verdict.outcome.reason
            logger.warning("a batch was refused, sending its halves events=%d reason=%s", cuts[0].count, reason)
            return Answer(halve=True)
        return Answer([at.H_DELIVERED if verdict.kind == "delivered" else at.H_FAILED] * verdict.count)

    def _parcels(self, cuts: Sequence[Cut]) -> list[Parcel]:
        """Return the first of these batches, as many as one request may hold, up to one that cannot be read."""
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
        """Halve a batch that is not JSON, so that in the end only its damaged events are skipped."""
        return Answer(halve=True) if cut.count > 1 else Answer([self._damaged.pass_over(cut)])

    def _keep(self, cut: Cut, verdict: Verdict) -> None:
        """Store a batch as a dead letter. A batch that cannot be stored is lost."""
        now_ms = self._clock.time_ms()
        record = spools.record_of(cut, events_of(cut), self._epoch, now_ms, verdict.reason, verdict.attempts)
        try:
            self._dead_letters.keep(record)
        except OSError as error:
            path = self._dead_letters.path
            said = f"failed events cannot be kept as dead letters and are lost error={error.strerror} path={path}"
            self._log.error("lost", said, cut.count)
        logger.error(
            "a batch failed and is not sent again, see rudderpipe failed id=%s events=%d reason=%s",
            record.id,
            cut.count,
            verdict.reason,
        )

    def seen_off(self) -> tuple[int, int] | None:
        """Return None, because a batch that is committed here has been delivered or has failed."""
        return None

    def ended(self, ring: Ring) -> None:
        """Do nothing, because no offsets are kept outside the ring."""

    def close(self) -> None:
        """Close the connection."""
        self._plane.close()


def _place(cut: Cut) -> tuple[int, int]:
    return cut.marks[0].sequence, cut.marks[0].start
