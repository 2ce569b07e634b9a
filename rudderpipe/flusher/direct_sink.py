"""The sink of direct mode: it sends batches to the data plane and stores refused ones as dead letters."""

from __future__ import annotations

from collections.abc import Sequence

from rudderpipe import log_text
from rudderpipe.delivery import dispatcher
from rudderpipe.delivery.attempts import class_of
from rudderpipe.delivery.dispatcher import Decision, Dispatcher
from rudderpipe.delivery.outcome import before_retry_s
from rudderpipe.delivery.request_size import USUAL_BATCHES
from rudderpipe.flusher import dead_letters
from rudderpipe.flusher.dead_letters import record_of
from rudderpipe.flusher.queue_sink import Acknowledged, CommitResult, Damaged, events_of
from rudderpipe.flusher.redelivery import Redelivery
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Batch
from rudderpipe.ring.reasons import Reason
from rudderpipe.ring.ring import RingView
from rudderpipe.settings import Settings

REFUSED = "a batch failed and is not sent again, see rudderpipe failed"
logger = log_text.logger("rudderpipe.flusher")


class DirectSink:
    """The sink that delivers by the sender's rules, and the store of its dispatcher.

    Attempts are counted in memory, so a new flusher counts from 0.
    """

    def __init__(self, settings: Settings, epoch: int, redelivery: Redelivery, clock: Clock) -> None:
        self._settings = settings
        self._epoch = epoch
        self._redelivery = redelivery
        self._dispatcher = Dispatcher(redelivery.plane, settings, clock)
        self._dead_letters = redelivery.dead_letters
        self._damaged = Damaged(redelivery.dead_letters, epoch, clock)
        self._clock = clock
        self._log = ThrottledLog(logger, clock)
        self._rare_log = ThrottledLog(logger, clock, RARELY_S)
        self._attempts: dict[tuple[int, int], int] = {}
        """Attempts of the batches that were tried and are not committed, by the place of their first event."""
        self._offered: Sequence[Batch] = ()
        """The batches of the last ``commit``."""

    queues = 1
    kept = 0
    has_spilled = False

    @property
    def batches_at_once(self) -> int:
        """How many batches a request may hold now, and the usual number at least."""
        return max(USUAL_BATCHES, self._dispatcher.size.batches)

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

    def commit(self, batches: Sequence[Batch], freed: Sequence[int]) -> CommitResult:  # noqa: ARG002  # no offsets are kept here
        """Send at most one request, with the first of these batches."""
        posted = self._batches_of(batches)
        if not posted:
            return self._unreadable(batches[0])
        self._offered = batches
        return self._dispatcher.run(posted, self, self._redelivery.attempts.note)

    def delivered(self, decision: Decision) -> CommitResult:
        """Commit the batches as delivered."""
        self._redelivery.plane_delivered()
        self._redelivery.attempts.delivered_events += sum(each.count for each in self._offered[: decision.count])
        return self._committed(at.H_DELIVERED, decision.count)

    def retry(self, decision: Decision) -> CommitResult:
        """Count an attempt, and ask for a pause."""
        self._redelivery.plane_failed()
        tried = self._offered[: decision.count]
        self._attempts.update((_place(batch), self._tried(batch) + 1) for batch in tried)
        logger.warning(
            "attempt failed, the same batches are sent again batches=%d attempt=%d next_in_s=%g reason=%s",
            decision.count,
            decision.attempts,
            decision.wait_s,
            decision.outcome.reason,
        )
        return CommitResult(wait_s=decision.wait_s)

    def blocked(self, decision: Decision) -> CommitResult:
        """Ask for a pause."""
        said = "cannot deliver until the cause is corrected, events stay in the ring next_in_s=%g"
        self._rare_log.error(decision.outcome.reason, said, decision.wait_s)
        return CommitResult(wait_s=decision.wait_s)

    def stopped(self, decision: Decision) -> CommitResult:
        """Ask for a pause, which ends the drain. The events stay in the ring."""
        return CommitResult(wait_s=decision.wait_s)

    def failed(self, decision: Decision) -> CommitResult:
        """Store the first batch as a dead letter, and commit it as failed.

        A batch that was tried too often is sent again as a dead letter, and stays in the ring if there is no room for
        it. A refused batch that cannot be stored is lost, and so is every one if ``max_spool_bytes`` is 0.
        """
        batch, again = self._offered[0], decision.outcome.kind == "retry"
        if again:
            self._redelivery.plane_failed()
        now_ms = self._clock.time_ms()
        record = record_of(batch, events_of(batch), self._epoch, now_ms, decision.reason, decision.attempts)
        # Order: stored before the flusher counts it in the ring. ``known`` tells the flusher after a kill in between.
        try:
            self._dead_letters.keep(record, again=again)
        except OSError as error:
            path = self._dead_letters.path
            if again and self._dead_letters.limit_bytes:
                wait_s = before_retry_s(decision.attempts, decision.outcome.retry_after_s)
                said = (
                    "events cannot be delivered nor kept as dead letters, they stay in the ring, trying again "
                    "error=%s path=%s attempt_reason=%s"
                )
                self._rare_log.error("room", said, error.strerror, path, decision.reason)
                return CommitResult(wait_s=wait_s)
            said = "failed events cannot be kept as dead letters and are lost error=%s path=%s"
            self._log.error("lost", said, error.strerror, path, count=batch.count)
            self._redelivery.lost_events += batch.count
            failed = "a batch failed and is lost"
        else:
            failed = "a batch failed and is sent again when the data plane is back" if again else REFUSED
        logger.error(failed + " id=%s events=%d reason=%s", record.id, batch.count, decision.reason)
        self._redelivery.attempts.failed_events[class_of(decision.outcome)] += batch.count
        why = decision.reason + (dead_letters.SENT_AGAIN if again else "")
        reason = Reason(batch.count, decision.outcome.status, now_ms, why)
        return self._committed(at.H_FAILED, 1, reason)

    def split(self, decision: Decision) -> CommitResult:
        """Ask for the halves of the first batch."""
        batch = self._offered[0]
        logger.warning(
            "a batch was refused, sending its halves events=%d reason=%s", batch.count, decision.outcome.reason
        )
        self._attempts.pop(_place(batch), None)
        return CommitResult(halve=True)

    def fewer(self, decision: Decision) -> CommitResult:
        """Log it, and ask for nothing."""
        said = "a request was refused, the next one has fewer batches batches=%d reason=%s"
        logger.warning(said, decision.count, decision.outcome.reason)
        return CommitResult()

    def _committed(self, counter: int, count: int, reason: Reason | None = None) -> CommitResult:
        for batch in self._offered[:count]:
            self._attempts.pop(_place(batch), None)
        return CommitResult([counter] * count, reason=reason)

    def _batches_of(self, batches: Sequence[Batch]) -> list[dispatcher.Batch]:
        """Return the first of these batches, as many as one request may hold, up to one that cannot be read."""
        posted: list[dispatcher.Batch] = []
        size_bytes = 0
        size = self._dispatcher.size
        size.note_taken(len(batches), sum(len(batch.data) for batch in batches))
        for batch in batches[: size.batches]:
            size_bytes += len(batch.data)
            if posted and size_bytes > size.bytes:
                break
            events = events_of(batch)
            if not events:
                break
            posted.append(
                dispatcher.Batch(events, len(batch.data), self._settings.current_write_key, attempts=self._tried(batch))
            )
        return posted

    def _tried(self, batch: Batch) -> int:
        return self._attempts.get(_place(batch), 0)

    def _unreadable(self, batch: Batch) -> CommitResult:
        """Halve a batch that is not JSON, so that in the end only its damaged events are skipped."""
        return CommitResult(halve=True) if batch.count > 1 else CommitResult([self._damaged.pass_over(batch)])

    def acknowledged(self) -> Acknowledged | None:
        """Return None, because a batch that is committed here has been delivered or has failed."""
        return None

    def keep_house(self) -> None:
        """Do nothing, because the pipe's one redelivery keeps house."""

    def ended(self, ring: RingView) -> None:
        """Do nothing, because no offsets are kept outside the ring."""

    def close(self) -> None:
        """Close the connection, and leave the redelivery."""
        self._redelivery.leave(self._epoch)
        self._redelivery.plane.close()


def _place(batch: Batch) -> tuple[int, int]:
    return batch.ranges[0].sequence, batch.ranges[0].start
