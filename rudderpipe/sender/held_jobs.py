"""The jobs that a sender holds, from the take until their results are in Redis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from rudderpipe import log_text
from rudderpipe.delivery.dispatcher import Batch, Decision, Dispatcher
from rudderpipe.delivery.request_size import RequestSize
from rudderpipe.errors import JobUnreadable, QueueUnavailable
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.queue.active_job import ActiveJob
from rudderpipe.queue.queue import Queue
from rudderpipe.sender.acks import FailedJob, PendingAcks
from rudderpipe.sender.state import SenderState

logger = log_text.logger("rudderpipe.sender")


class HeldJobs:
    """The dispatcher's store of a sender: taken jobs in order, and the results that Redis does not know yet.

    Order: every result is noted here before the next call to Redis, so that an unreachable Redis makes none forgotten.
    """

    def __init__(
        self, queue: Queue, dispatcher: Dispatcher, state: SenderState, clock: Clock, on_loss: Callable[[], None]
    ) -> None:
        """Hold nothing yet. ``on_loss`` is called when some held jobs are found to be no longer this sender's."""
        self._queue = queue
        self._dispatcher = dispatcher
        self._state = state
        self._clock = clock
        self._on_loss = on_loss
        self._rare_log = ThrottledLog(logger, clock, RARELY_S)
        self.jobs: list[ActiveJob] = []
        """The jobs without a result."""
        self.acks = PendingAcks(queue)

    @property
    def size(self) -> RequestSize:
        """How many jobs and bytes the next request may hold."""
        return self._dispatcher.size

    @property
    def is_empty(self) -> bool:
        """True if no job is held and every result is in Redis."""
        return not self.jobs and self.acks.is_empty

    def show(self) -> None:
        """Have the heartbeat renew the locks of jobs whose result is not in Redis."""
        self._state.held = (*self.acks.delivered, *self.jobs)

    def add(self, taken: Sequence[ActiveJob]) -> None:
        """Hold jobs that were just taken. Those that cannot be delivered fail at once."""
        for job in {job.id: job for job in taken}.values():  # because a tool may have put an id in line twice
            if job.job is None:
                self._give_up(job, job.trouble)
            elif not job.job.events:
                self._give_up(job, "the job's batch is empty")
            else:
                self.jobs.append(job)

    def renew(self) -> None:
        """Renew the locks, and drop the jobs that are no longer this sender's."""
        self._keep(self.jobs, self._queue.renew(self.jobs))

    def deliver(self) -> None:
        """Make one attempt with the first jobs, and record what became of them."""
        self.show()  # Order: before the request, which may take longer than the locks hold (test_sender_answers.py)
        self._dispatcher.run([_batch_of(job) for job in self.jobs], self)

    def delivered(self, decision: Decision) -> None:
        """Note the jobs as done; the next write or take tells Redis."""
        self._moved()
        self.acks.delivered += self.jobs[: decision.count]
        del self.jobs[: decision.count]

    def retry(self, decision: Decision) -> None:
        """Count an attempt, here and in Redis, and begin a pause."""
        self._moved()
        group = self.jobs[: decision.count]
        events = sum(job.events for job in group)
        where = f"job={group[0].id} jobs={len(group)} events={events} attempt={decision.attempts}"
        said = "attempt failed, the same jobs are sent again %s next_in_s=%g reason=%s"
        logger.warning(said, where, decision.wait_s, decision.outcome.reason)
        # Order: counted and paused here before Redis counts it, so that a Redis that refuses the call neither adds
        # attempts nor sends the jobs again at once (tests/test_sender_trouble.py).
        tried = [msgspec.structs.replace(job, attempts_made=job.attempts_made + 1) for job in group]
        self.jobs[: len(group)] = tried
        self._pause(decision.wait_s)
        self._keep(group, self._queue.retry_later(group))

    def blocked(self, decision: Decision) -> None:
        """Begin a pause."""
        wait_s = decision.wait_s
        said = f"cannot deliver until the cause is corrected, jobs wait, no attempt is counted next_in_s={wait_s:g}"
        self._rare_log.error(decision.outcome.reason, said)
        self._pause(wait_s)

    def stopped(self, decision: Decision) -> None:
        """Begin a pause. The drain, which does not wait for its end, puts the jobs back."""
        self._pause(decision.wait_s)

    def failed(self, decision: Decision) -> None:
        """Note the first job as failed; the next write or take tells Redis."""
        self._moved()
        self._give_up(self.jobs.pop(0), decision.reason, decision.outcome.status)

    def split(self, decision: Decision) -> None:
        """Split the first job in Redis, and hold both halves in its place."""
        self._moved()
        job, reason = self.jobs[0], decision.outcome.reason
        said = "a job was refused, sending its halves job=%s events=%d reason=%s"
        logger.warning(said, job.id, job.events, reason)
        try:
            halves = self._queue.split(job)
        except JobUnreadable as error:  # raised for any job whose data cannot be rewritten
            del self.jobs[0]
            self._dispatcher.forget()
            self._give_up(job, f"{reason}; {error.reason}", decision.outcome.status)
        except QueueUnavailable:
            if self._queue.unsure:  # only Redis knows which jobs exist now, so all are taken again, in order
                self.drop()
            raise
        else:
            if halves is None:
                self._keep([job], [])
            else:
                self.jobs[:1] = halves

    def fewer(self, decision: Decision) -> None:
        """Log it; the same jobs are offered again in the next cycle."""
        self._moved()
        said = "a request was refused, the next one has fewer jobs jobs=%d reason=%s"
        logger.warning(said, decision.count, decision.outcome.reason)

    def drop(self) -> None:
        """Forget the jobs without a result, because they are, or will be, in line again."""
        self.jobs = []
        self._dispatcher.forget()

    def let_go(self, number: int) -> None:
        """Forget jobs and results held under lease ``number``. They are another sender's, or will be recovered."""
        if not self.is_empty:
            said = "lease lost, the jobs held here are left to the next sender number=%d jobs=%d"
            logger.warning(said, number, len(self.jobs))
        self.drop()
        self.acks.forget()
        self._state.backoff_until_s = float("-inf")

    def _moved(self) -> None:
        self._state.progress.moved(self._clock.monotonic_s())

    def _pause(self, wait_s: float) -> None:
        self._state.backoff_until_s = self._clock.monotonic_s() + wait_s

    def _keep(self, asked: Sequence[ActiveJob], ours: Sequence[ActiveJob]) -> None:
        """Drop the held jobs in ``asked`` that are not in ``ours``, because they are no longer this sender's."""
        lost = {job.id for job in asked} - {job.id for job in ours}
        if not lost:
            return
        logger.warning("another sender or a tool has taken over jobs, leaving them alone jobs=%d", len(lost))
        self.jobs = [job for job in self.jobs if job.id not in lost]
        self._dispatcher.forget()
        self._on_loss()

    def _give_up(self, job: ActiveJob, reason: str, status: int = 0) -> None:
        said = "a job failed and is not sent again, see rudderpipe failed job=%s events=%d reason=%s"
        logger.error(said, job.id, job.events, reason)
        self.acks.failed.append(FailedJob(job, reason, status))


def _batch_of(taken: ActiveJob) -> Batch:
    job = taken.job
    assert job is not None
    return Batch(job.events, len(taken.data), job.write_key, job.timeout_s, taken.attempts)
