"""One lane of a sender: its jobs are delivered in order, one request after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from rudderpipe import log_text
from rudderpipe.delivery.attempts import class_of
from rudderpipe.delivery.dispatcher import Batch, Decision, Dispatcher
from rudderpipe.delivery.request_size import RequestSize
from rudderpipe.errors import JobUnreadable, QueueUnavailable
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import ThrottledLog
from rudderpipe.queue.active_job import ActiveJob
from rudderpipe.queue.queue import Queue
from rudderpipe.sender.counts import SenderCounts
from rudderpipe.service.health import Progress

logger = log_text.logger("rudderpipe.sender")


class Holder(Protocol):
    """The holder of the jobs of all lanes."""

    def those_in(self, jobs: Iterable[ActiveJob]) -> list[ActiveJob]:
        """Return those of these jobs that are still held."""

    def deliver(self, jobs: Sequence[ActiveJob]) -> None:
        """Note held jobs as delivered."""

    def fail(self, job: ActiveJob, reason: str, status: int = 0) -> None:
        """Note a held job as failed."""

    def replace(self, job: ActiveJob, *others: ActiveJob) -> None:
        """Hold other jobs in the place of a held one."""

    def keep(self, asked: Sequence[ActiveJob], ours: Sequence[ActiveJob]) -> None:
        """Drop the held jobs in ``asked`` that are not in ``ours``."""

    def drop_idle(self) -> None:
        """Drop the jobs that are in no attempt, because only Redis knows which jobs exist: all are taken again."""


class Lane:
    """A lane, with at most one attempt under way. It is the store of its dispatcher.

    ``attempt`` alone may be called by another thread. Every decision is recorded by the sender's own thread.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        held: Holder,
        queue: Queue,
        progress: Progress,
        clock: Clock,
        rare_log: ThrottledLog,
        counts: SenderCounts,
    ) -> None:
        self._dispatcher = dispatcher
        self.size: RequestSize = dispatcher.size
        """How many jobs and bytes the next request may hold."""
        self._held = held
        self._queue = queue
        self._progress = progress
        self._clock = clock
        self._rare_log = rare_log
        self._counts = counts
        self.not_before_s = float("-inf")
        """The moment of the next attempt."""
        self.offered: Sequence[ActiveJob] = ()
        """The jobs of the attempt under way; none while there is no attempt."""
        self._tried: Sequence[ActiveJob] = ()
        """Those of the jobs that the last decision is about that are still held."""
        self._must_forget = False
        """True if jobs of this lane were dropped during the attempt under way."""

    def attempt(self) -> Decision | Exception:
        """Make one attempt with the first of the offered jobs. An exception is returned, for ``end``."""
        try:
            return self._dispatcher.attempt([_batch_of(job) for job in self.offered])
        except Exception as error:  # noqa: BLE001  # ``end`` raises it, on the sender's own thread
            return error

    def end(self, ended: Decision | Exception) -> None:
        """Record the decision of the attempt, or raise the exception that cut it short."""
        offered, self.offered = self.offered, ()
        try:
            if isinstance(ended, Exception):
                raise ended
            self._counts.attempts.note(ended)
            if ended.kind not in ("blocked", "stopped"):  # the same attempt is made again, which is no progress
                self._progress.moved(self._clock.monotonic_s())
            self._tried = self._held.those_in(offered[: ended.count])
            if self._tried:
                ended.tell(self)
        finally:
            if self._must_forget:
                self.forget()

    def forget(self) -> None:
        """Forget what earlier refusals say about the next jobs, because some jobs were dropped."""
        self._must_forget = bool(self.offered)  # the dispatcher belongs to the attempt until that has ended
        if not self._must_forget:
            self._dispatcher.forget()

    def delivered(self, decision: Decision) -> None:  # noqa: ARG002  # the jobs are known
        """Note the jobs as delivered."""
        self._counts.delivered(self._tried, self._clock.time_ms() / 1000)
        self._held.deliver(self._tried)

    def retry(self, decision: Decision) -> None:
        """Count an attempt, here and in Redis, and begin a pause."""
        group = self._tried
        events = sum(job.events for job in group)
        said = "attempt failed, the same jobs are sent again job=%s jobs=%d events=%d attempt=%d next_in_s=%g reason=%s"
        where = group[0].id, len(group), events, decision.attempts
        logger.warning(said, *where, decision.wait_s, decision.outcome.reason)
        # Order: counted and paused here before Redis counts it, so that a Redis that refuses the call neither adds
        # attempts nor sends the jobs again at once (tests/test_sender_trouble.py).
        for job in group:
            self._held.replace(job, msgspec.structs.replace(job, attempts_made=job.attempts_made + 1))
        self._pause(decision.wait_s)
        self._held.keep(group, self._queue.retry_later(group))

    def blocked(self, decision: Decision) -> None:
        """Begin a pause."""
        wait_s = decision.wait_s
        said = "cannot deliver until the cause is corrected, jobs wait, no attempt is counted next_in_s=%g"
        self._rare_log.error(decision.outcome.reason, said, wait_s)
        self._pause(wait_s)

    def stopped(self, decision: Decision) -> None:
        """Begin a pause. The drain, which does not wait for its end, puts the jobs back."""
        self._pause(decision.wait_s)

    def failed(self, decision: Decision) -> None:
        """Note the job as failed."""
        self._counts.failed(self._tried[0], class_of(decision.outcome))
        self._held.fail(self._tried[0], decision.reason, decision.outcome.status)

    def split(self, decision: Decision) -> None:
        """Split the job in Redis, and hold both halves in its place."""
        job, reason = self._tried[0], decision.outcome.reason
        said = "a job was refused, sending its halves job=%s events=%d reason=%s"
        logger.warning(said, job.id, job.events, reason)
        try:
            halves = self._queue.split(job)
        except JobUnreadable as error:  # raised for any job whose data cannot be rewritten
            self._dispatcher.forget()
            self._counts.failed(job, class_of(decision.outcome))
            self._held.fail(job, f"{reason}; {error.reason}", decision.outcome.status)
        except QueueUnavailable:
            if self._queue.unsure:
                self._held.drop_idle()
            raise
        else:
            if halves is None:
                self._held.keep([job], [])
            else:
                self._held.replace(job, *halves)

    def fewer(self, decision: Decision) -> None:
        """Log it; the same jobs are offered again in the next cycle."""
        said = "a request was refused, the next one has fewer jobs jobs=%d reason=%s"
        logger.warning(said, decision.count, decision.outcome.reason)

    def _pause(self, wait_s: float) -> None:
        self.not_before_s = self._clock.monotonic_s() + wait_s


def _batch_of(taken: ActiveJob) -> Batch:
    job = taken.job
    assert job is not None
    return Batch(job.events, len(taken.data), job.write_key, job.timeout_s, taken.attempts)
