"""The sink of direct mode: it sends batches to the data plane and stores refused ones as dead letters."""

from __future__ import annotations

from collections.abc import Sequence

from rudderpipe import log_text
from rudderpipe.delivery import dispatcher
from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.delivery.dispatcher import Decision, Dispatcher
from rudderpipe.flusher import dead_letters as spools
from rudderpipe.flusher.dead_letters import DeadLetters
from rudderpipe.flusher.queue_sink import CommitResult, Damaged, events_of
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Batch
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
        self._dispatcher = Dispatcher(plane, settings, clock)
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

    def commit(self, batches: Sequence[Batch], freed: Sequence[int]) -> CommitResult:  # noqa: ARG002  # no offsets are kept here
        """Send at most one request, with the first of these batches."""
        posted = self._batches_of(batches)
        if not posted:
            return self._unreadable(batches[0])
        decision = self._dispatcher.attempt(posted)
        tried = batches[: decision.count]
        if decision.kind == "retry":
            self._attempts.update((_place(batch), self._tried(batch) + 1) for batch in tried)
            logger.warning(
                "attempt failed, the same batches are sent again batches=%d attempt=%d next_in_s=%g reason=%s",
                decision.count,
                decision.attempts,
                decision.wait_s,
                decision.outcome.reason,
            )
            return CommitResult(wait_s=decision.wait_s)
        if decision.kind == "blocked":
            said = f"cannot deliver until the cause is corrected, events stay in the ring next_in_s={decision.wait_s:g}"
            self._rare_log.error(decision.outcome.reason, said)
            return CommitResult(wait_s=decision.wait_s)
        if decision.kind == "fewer":
            logger.warning(
                "a request was refused, the next one has fewer batches batches=%d reason=%s",
                decision.count,
                decision.outcome.reason,
            )
            return CommitResult()
        if decision.kind == "failed":
            self._keep(batches[0], decision)
        for batch in tried:
            self._attempts.pop(_place(batch), None)
        if decision.kind == "split":
            reason = decision.outcome.reason
            logger.warning("a batch was refused, sending its halves events=%d reason=%s", batches[0].count, reason)
            return CommitResult(halve=True)
        return CommitResult([at.H_DELIVERED if decision.kind == "delivered" else at.H_FAILED] * decision.count)

    def _batches_of(self, batches: Sequence[Batch]) -> list[dispatcher.Batch]:
        """Return the first of these batches, as many as one request may hold, up to one that cannot be read."""
        posted: list[dispatcher.Batch] = []
        size_bytes = 0
        for batch in batches[: self._settings.max_jobs_per_request]:
            size_bytes += len(batch.data)
            if posted and size_bytes > self._settings.max_request_bytes:
                break
            events = events_of(batch)
            if not events:
                break
            posted.append(
                dispatcher.Batch(events, len(batch.data), self._settings.write_key, attempts=self._tried(batch))
            )
        return posted

    def _tried(self, batch: Batch) -> int:
        return self._attempts.get(_place(batch), 0)

    def _unreadable(self, batch: Batch) -> CommitResult:
        """Halve a batch that is not JSON, so that in the end only its damaged events are skipped."""
        return CommitResult(halve=True) if batch.count > 1 else CommitResult([self._damaged.pass_over(batch)])

    def _keep(self, batch: Batch, decision: Decision) -> None:
        """Store a batch as a dead letter. A batch that cannot be stored is lost."""
        now_ms = self._clock.time_ms()
        record = spools.record_of(batch, events_of(batch), self._epoch, now_ms, decision.reason, decision.attempts)
        try:
            self._dead_letters.keep(record)
        except OSError as error:
            path = self._dead_letters.path
            said = f"failed events cannot be kept as dead letters and are lost error={error.strerror} path={path}"
            self._log.error("lost", said, batch.count)
            failed = "a batch failed and is lost"
        else:
            failed = "a batch failed and is not sent again, see rudderpipe failed"
        logger.error("%s id=%s events=%d reason=%s", failed, record.id, batch.count, decision.reason)

    def acknowledged(self) -> tuple[int, int] | None:
        """Return None, because a batch that is committed here has been delivered or has failed."""
        return None

    def ended(self, ring: Ring) -> None:
        """Do nothing, because no offsets are kept outside the ring."""

    def close(self) -> None:
        """Close the connection."""
        self._plane.close()


def _place(batch: Batch) -> tuple[int, int]:
    return batch.ranges[0].sequence, batch.ranges[0].start
