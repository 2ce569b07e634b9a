"""The jobs that a sender holds, from the take until their results are in Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from rudderpipe import log_text
from rudderpipe.delivery.attempts import UNREADABLE
from rudderpipe.delivery.dispatcher import Dispatcher
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.queue.active_job import ActiveJob
from rudderpipe.queue.queue import Queue
from rudderpipe.sender.acks import FailedJob, PendingAcks
from rudderpipe.sender.lane import Lane
from rudderpipe.sender.state import SenderState
from rudderpipe.service.calls import Calls

logger = log_text.logger("rudderpipe.sender")

JOBS_A_LANE = 64
"""How many jobs may be held for each of several lanes, so that each lane finds some of its own among them."""

MOST_HELD = 4096
"""How many jobs several lanes may hold. Scripts look at 5,000 active jobs, and Lua passes 8,000 values in one call."""


class Room(NamedTuple):
    """How many more jobs, with how many bytes, may be taken."""

    batches: int
    bytes: int


class HeldJobs:
    """The taken jobs in the order of the queue, their lanes, and the results that Redis does not know yet.

    The first of the dispatchers is for jobs without a lane, or of another number of lanes, which are barriers. There is
    one more for each lane, if there are several lanes. Held jobs form stretches, of barriers alone or of jobs of the
    lanes alone. Only the first stretch is worked on, so that a barrier neither overtakes a job nor is overtaken. With
    one lane every job is a barrier.

    A job is known by the object and not by its place or id, because a job may be dropped, and taken again, while an
    attempt with it is under way.

    Order: every result is noted here before the next call to Redis, so that an unreachable Redis makes none forgotten.
    """

    def __init__(
        self,
        queue: Queue,
        dispatchers: Sequence[Dispatcher],
        state: SenderState,
        clock: Clock,
        on_loss: Callable[[], None],
        couriers: Calls | None = None,
    ) -> None:
        """Hold nothing yet. ``on_loss`` is called when some held jobs are found to be no longer this sender's.

        ``couriers`` make the attempts of several lanes. With one lane the caller's thread does.
        """
        self._queue = queue
        self._state = state
        self._on_loss = on_loss
        rare_log = ThrottledLog(logger, clock, RARELY_S)
        self._lanes = [Lane(each, self, queue, state.progress, clock, rare_log, state.counts) for each in dispatchers]
        count = len(dispatchers) - 1
        self._by_name = {f"{number}/{count}": lane for number, lane in enumerate(self._lanes[1:])}
        self._couriers = couriers or Calls("rudderpipe-courier", _note_no_thread)
        self.jobs: list[ActiveJob] = []
        """The jobs without a result."""
        self.acks = PendingAcks(queue)

    @property
    def is_empty(self) -> bool:
        """True if no job is held and every result is in Redis."""
        return not self.jobs and self.acks.is_empty

    @property
    def are_busy(self) -> bool:
        """True while the attempt of a lane is under way, or its decision is not recorded."""
        return any(lane.offered for lane in self._lanes)

    def _first_stretch(self) -> dict[Lane, list[ActiveJob]]:
        """Return the jobs that may be sent now, by lane."""
        barrier = self._lanes[0]
        if not self._by_name:
            return {barrier: self.jobs} if self.jobs else {}
        found: dict[Lane, list[ActiveJob]] = {}
        for job in self.jobs:
            lane = self._by_name.get(job.lane, barrier)
            if found and (lane is barrier) is not (barrier in found):
                break
            found.setdefault(lane, []).append(job)
        return found

    def show(self) -> None:
        """Have the heartbeat renew the locks, and show whether the sender waits for the next attempt of a lane."""
        self._state.held = (*self.acks.delivered, *self.jobs)
        pauses = [] if self.are_busy else [lane.not_before_s for lane in self._first_stretch()]
        self._state.backoff_until_s = max(pauses, default=float("-inf"))

    def room(self) -> Room:
        """Return how many jobs may be taken now. With one lane no job is taken before those held are settled."""
        if not self._by_name:
            size = self._lanes[0].size
            return Room(0, 0) if self.jobs else Room(size.batches, size.bytes)
        sizes = [lane.size for lane in self._lanes[1:]]
        most = min(MOST_HELD, max(JOBS_A_LANE * len(sizes), 2 * sum(size.batches for size in sizes)))
        batches = most - len(self.jobs) - len(self.acks.delivered)
        # 1.5 times: twice is not faster, and takes 8 MB more memory.
        size_bytes = 3 * sum(size.bytes for size in sizes) // 2 - sum(len(job.data) for job in self.jobs)
        return Room(batches, size_bytes) if min(batches, size_bytes) > 0 else Room(0, 0)

    def lanes_wait_s(self, now_s: float) -> dict[str, float]:
        """Return for each of several lanes how long its next attempt has to wait. Any thread may call it."""
        return {name: max(0.0, lane.not_before_s - now_s) for name, lane in self._by_name.items()}

    def paused_until_s(self) -> float:
        """Return the moment before which no lane can do anything; minus infinity if there is something to do."""
        if not self.jobs or not self.acks.is_empty or self.are_busy or self.room().batches:
            return float("-inf")
        return min(lane.not_before_s for lane in self._first_stretch())

    def add(self, taken: Sequence[ActiveJob]) -> None:
        """Hold jobs that were just taken. Those that cannot be delivered fail at once."""
        new = {job.id: job for job in taken}  # because a tool may have put an id in line twice
        if again := [job for job in self.jobs if job.id in new]:  # a tool has put held jobs in line again
            self.keep(again, [])
        for job in new.values():
            if job.job is None:
                self._state.counts.failed(job, UNREADABLE)
                self.fail(job, job.trouble)
            elif not job.job.events:
                self._state.counts.failed(job, UNREADABLE)
                self.fail(job, "the job's batch is empty")
            else:
                self.jobs.append(job)
        self._note_backlog()

    def _note_backlog(self) -> None:
        """Tell each lane without an attempt how much it could send next."""
        jobs: dict[Lane, list[ActiveJob]] = {lane: [] for lane in self._lanes if not lane.offered}
        for job in self.jobs:
            lane = self._by_name.get(job.lane, self._lanes[0])
            if lane in jobs:
                jobs[lane].append(job)
        for lane, waiting in jobs.items():
            lane.size.note_taken(len(waiting), sum(len(job.data) for job in waiting))

    def begin(self, now_s: float) -> float:
        """Begin an attempt in each lane that may send. Return the moment of the next attempt of the other lanes."""
        self.show()  # Order: before the request, which may take longer than the locks hold (test_sender_answers.py)
        next_s = float("inf")
        stretch, barrier = self._first_stretch(), self._lanes[0]
        if any(lane.offered and (lane is barrier) is not (barrier in stretch) for lane in self._lanes):
            return next_s  # an attempt is with jobs of the stretch before, which are no longer held but may arrive
        for lane, jobs in stretch.items():
            if lane.offered:
                continue
            if now_s < lane.not_before_s:
                next_s = min(next_s, lane.not_before_s)
                continue
            lane.offered = jobs
            if not self._by_name:
                lane.end(lane.attempt())
            elif not self._couriers.begin(lane, lane.attempt):
                return now_s  # the cycle goes on after each attempt that it has waited for
        return next_s

    def record(self, wait_s: float) -> None:
        """Record the decisions of the attempts that have ended. Wait for the first of them for so many seconds."""
        while (ended := self._couriers.next(wait_s)) is not None:
            ended.owner.end(ended.result)
            wait_s = 0.0

    def those_in(self, jobs: Iterable[ActiveJob]) -> list[ActiveJob]:
        """Return those of these jobs that are still held."""
        here = set(map(id, self.jobs))
        return [job for job in jobs if id(job) in here]

    def deliver(self, jobs: Sequence[ActiveJob]) -> None:
        """Note held jobs as delivered; the next write or take tells Redis."""
        self.acks.delivered += jobs
        self._remove(jobs)

    def fail(self, job: ActiveJob, reason: str, status: int = 0) -> None:
        """Note a job as failed; the next write or take tells Redis."""
        said = "a job failed and is not sent again, see rudderpipe failed job=%s events=%d reason=%s"
        logger.error(said, job.id, job.events, reason)
        self.acks.failed.append(FailedJob(job, reason, status))
        self._remove([job])

    def replace(self, job: ActiveJob, *others: ActiveJob) -> None:
        """Hold other jobs in the place of a held one."""
        place = next(place for place, held in enumerate(self.jobs) if held is job)
        self.jobs[place : place + 1] = others

    def renew(self) -> None:
        """Renew the locks, and drop the jobs that are no longer this sender's."""
        self.keep(self.jobs, self._queue.renew(self.jobs))

    def keep(self, asked: Sequence[ActiveJob], ours: Sequence[ActiveJob]) -> None:
        """Drop the held jobs in ``asked`` that are not in ``ours``, because they are no longer this sender's."""
        lost = {job.id for job in asked} - {job.id for job in ours}
        if not lost:
            return
        logger.warning("another sender or a tool has taken over jobs, leaving them alone jobs=%d", len(lost))
        self.jobs = [job for job in self.jobs if job.id not in lost]
        self._forget()
        self._on_loss()

    def drop(self) -> None:
        """Drop the jobs without a result, because they are, or will be, in line again."""
        self.jobs = []
        self._forget()

    def drop_idle(self) -> None:
        """Drop the jobs that are in no attempt, because only Redis knows which jobs exist: all are taken again."""
        self.jobs = self.those_in([job for lane in self._lanes for job in lane.offered])
        self._forget()

    def let_go(self, number: int) -> None:
        """Drop jobs and results held under lease ``number``. They are another sender's, or will be recovered."""
        if not self.is_empty:
            said = "lease lost, the jobs held here are left to the next sender number=%d jobs=%d"
            logger.warning(said, number, len(self.jobs))
        self.drop()
        self.acks.forget()
        for lane in self._lanes:
            lane.not_before_s = float("-inf")

    def _forget(self) -> None:
        for lane in self._lanes:
            lane.forget()

    def _remove(self, jobs: Sequence[ActiveJob]) -> None:
        gone = set(map(id, jobs))
        self.jobs = [job for job in self.jobs if id(job) not in gone]


def _note_no_thread(error: Exception) -> None:
    logger.warning("a lane has no thread, its requests are not beside those of other lanes error=%s", error)
