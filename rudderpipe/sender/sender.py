"""The sender. Each cycle takes jobs from the queue, has them delivered, and writes the results to Redis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from rudderpipe import log_text
from rudderpipe.delivery.dispatcher import Dispatcher
from rudderpipe.delivery.request_size import USUAL_BATCHES
from rudderpipe.errors import AnotherDataPlane, LeaseLost, QueueUnavailable
from rudderpipe.process.clock import Clock, Every
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.queue.lease import Lease
from rudderpipe.queue.queue import LOCK_MS, Queue, Whose, new_token
from rudderpipe.sender.held_jobs import HeldJobs, Room
from rudderpipe.sender.maintenance import Upkeep
from rudderpipe.sender.state import SenderState
from rudderpipe.service.calls import Calls
from rudderpipe.settings import Settings

RETRY_MIN_S, RETRY_MAX_S = 0.05, 2.0
LOOK_S = 0.05
"""How long to wait for the end of an attempt before the next look for new jobs, and for a stop."""
MOST_JOBS = 1000
"""The most jobs that a script takes."""
STANDBY_S = 0.2
OTHER_PLANE_S = 5.0
"""The pause before a queue that has jobs for another data plane is tried again."""
AWAY_S = 600.0
"""How long a sender without a parent waits for a Redis that is away. The next sender delivers what is in it."""

logger = log_text.logger("rudderpipe.sender")


class Sender:
    """A sender delivers at least once and in order, because it takes no job before those it holds are settled.

    With several lanes it takes jobs earlier, and ``HeldJobs`` keeps the order of each lane.

    ``lease`` is None where several senders work. Once ``abandoned`` returns True, because the parent process has ended,
    the sender ends after the queue has been empty for ``linger_s``, or at once while another sender has the lease.
    """

    def __init__(
        self,
        queue: Queue,
        dispatchers: Sequence[Dispatcher],
        lease: Lease | None,
        settings: Settings,
        clock: Clock,
        *,
        state: SenderState | None = None,
        abandoned: Callable[[], bool] = lambda: False,
        couriers: Calls | None = None,
    ) -> None:
        """``dispatchers`` and ``couriers`` are those of ``HeldJobs``."""
        self._queue = queue
        self._lease = lease
        self._settings = settings
        self._clock = clock
        self._abandoned = abandoned
        self._log = ThrottledLog(logger, clock, RARELY_S)
        self._state = state or SenderState(clock.monotonic_s(), settings.stall_timeout_s)
        self._held = HeldJobs(queue, dispatchers, self._state, clock, self._look_for_free, couriers)
        self._upkeep = Upkeep(queue, settings)
        self._to_recover: Whose | None = "all" if lease else None
        """The active jobs that must be put back in line before anything else happens."""
        self._recovered_at_s = float("-inf")
        self._is_careful = False
        """True after an error of this host: the next take is of one job, because more may be too much for the host."""
        sure_ms = min(LOCK_MS, settings.lease_ms) if lease else LOCK_MS
        self._sure_s = sure_ms / 1000 / 2
        """Seconds after a script confirmed the locks in which a request needs no new check."""
        self._confirmed_at_s = self._not_before_s = float("-inf")
        self._retry_s = RETRY_MIN_S
        self._busy_at_s = clock.monotonic_s()
        self._is_held_up = False
        """True from a cycle in which the queue could not be used until the next one in which it could."""
        self._is_ours = False
        """True once the queue was seen to have no jobs for another data plane. Until then nothing in it is changed."""
        self._found_empty = False
        """True if the last take found no job; False before the first take."""
        self._looking = Every(LOOK_S)

    def work(self) -> int:
        """Run one cycle, with one request or with a wait for the end of an attempt. Return how much was done."""
        now_s = self._clock.monotonic_s()
        if now_s < max(self._not_before_s, self._held.paused_until_s()):
            return 0
        try:
            done = self._cycle(now_s) if self._may_work(now_s) else 0
        except LeaseLost:
            self._forgo()
            return 1  # not 0, so that the next cycle looks at the lease at once
        except AnotherDataPlane as error:
            self._log.warning("plane", "no job is taken, jobs stay in redis, trying again error=%s", error)
            self._is_held_up = True
            self._stand_aside(now_s)
            return 0
        except QueueUnavailable as error:
            self._log.warning("queue", "redis cannot be used, jobs stay in it, trying again error=%s", error)
            self._is_held_up = True
            self._wait_for_redis(now_s)
            return 0
        except Exception as error:  # noqa: BLE001  # an error of this host, such as MemoryError, not of a job
            self._log.error(type(error).__name__, "cannot work on this host now, jobs stay in redis, trying again")
            self._queue.unsure = self._is_careful = True
            self._wait_for_redis(now_s)
            return 0
        finally:
            self._held.show()
        if self._is_held_up:
            self._log.over("plane", "the queue has no jobs for another data plane any more")
            self._log.over("queue", "redis can be used again")
        self._is_held_up = False
        self._retry_s = RETRY_MIN_S
        return done

    def _wait_for_redis(self, now_s: float) -> None:
        self._not_before_s = now_s + self._retry_s
        self._found_empty = False  # the queue of a Redis that is away is not known
        self._retry_s = min(RETRY_MAX_S, self._retry_s * 2)

    def _stand_aside(self, now_s: float) -> None:
        """Leave the queue and the held jobs to the sender of another data plane, because the queue has jobs for it."""
        self._is_ours = False
        self._let_go(self._lease.number if self._lease else 0)
        self._to_recover = "all" if self._lease else None  # as at the start, because a refused take took nothing
        self._state.state = "standby"
        self._state.progress.moved(now_s)
        self._not_before_s = now_s + OTHER_PLANE_S
        if self._lease is not None:
            with suppress(QueueUnavailable):  # a lease that is not released lapses
                self._lease.release()

    def _look_for_free(self) -> None:
        """Have jobs that no sender holds put back in line, before the next jobs are taken."""
        if self._lease is not None:
            self._to_recover = self._to_recover or "free"

    def _forgo(self) -> None:
        """Give the lease up after a script found it lost: it lapsed, or another data plane adopted the queue."""
        assert self._lease is not None
        self._lease.lost()
        self._is_ours = False

    def _may_work(self, now_s: float) -> bool:
        state, lease = self._state, self._lease
        if lease is not None and lease.held and state.lost == state.fencing_token:  # a renewal found the lease lost
            self._forgo()
        if not self._is_ours:
            self._queue.check_owner()
            self._is_ours = True
        if lease is None:
            state.state = "active"
            if self._queue.unsure:
                self._take_new_token()
            return True
        if lease.held and not self._queue.unsure:
            state.state = "active"
            return True
        before = lease.number
        if not lease.take(above=before if self._queue.unsure else 0):
            if state.state != "standby":
                _, _, host, pid, *_ = [*lease.others.split(" "), "?", "?", "?"]
                said = "standing by, another sender has the lease holder_host=%s holder_pid=%s lapses_in_ms=%d"
                logger.info(said, host, pid, lease.lapses_in_ms)
            state.state = "standby"
            state.progress.moved(now_s)
            self._let_go(before)
            self._not_before_s = now_s + STANDBY_S
            return False
        if not lease.kept:
            self._let_go(before)
            self._to_recover = "all"
        elif self._queue.unsure:
            self._to_recover = self._to_recover or "free"
        self._queue.unsure = False
        said = "lease kept number=%d" if lease.kept else "lease taken number=%d"
        logger.info(said, lease.number)
        state.state, state.fencing_token, state.lost = "active", self._queue.fencing_token, ""
        return True

    def _take_new_token(self) -> None:
        """Take a new lock token, so that a call that is still under way finds none of this sender's jobs.

        Order: results are written under the old token, then the jobs that are left under it are put back.
        """
        self._held.acks.write()
        put_back = self._queue.recover((), "ours").jobs
        logger.warning("a response of redis was lost, active jobs are first in line again jobs=%d", put_back)
        self._held.drop()
        self._queue.token = self._state.token = new_token()
        self._queue.unsure = False

    def _cycle(self, now_s: float) -> int:
        held = self._held
        next_s = float("inf")
        if self._state.stranded_at_s > self._recovered_at_s:
            self._look_for_free()
        if self._to_recover and held.are_busy:
            # Order: all attempts end before jobs are recovered and taken again, so that none of these is in an attempt.
            held.record(LOOK_S)
            return held.acks.write() or 1
        done = self._recover() if self._to_recover else 0
        room = held.room()
        is_due = not (self._found_empty and held.acks.is_empty and held.are_busy) or self._looking.is_due(now_s)
        done += self._take(now_s, room) if room.batches and is_due else held.acks.write()
        if held.jobs:
            # Order: the clock is read after the take, because the process may have been stopped before its response.
            now_s = self._clock.monotonic_s()
            if now_s - self._confirmed_at_s > self._sure_s:
                held.renew()
                self._confirmed_at_s = now_s
        if held.jobs:
            self._busy_at_s = now_s
            next_s = held.begin(now_s)
        if done:
            self._state.progress.moved(self._clock.monotonic_s())
        if held.are_busy:
            may_take = room.batches and not self._found_empty
            held.record(0.0 if may_take else max(0.0, min(LOOK_S, next_s - now_s)))
            return done or 1  # not 0, because the cycle has waited
        return done

    def _recover(self) -> int:
        """Put the active jobs of ``_to_recover`` first in line. Return how many results were written before."""
        done = self._held.acks.write()
        whose = self._to_recover
        recovered = self._queue.recover(self._held.jobs, whose or "free")
        self._to_recover = None
        self._recovered_at_s = self._clock.monotonic_s()
        if recovered.jobs:
            self._state.counts.recovered_jobs += recovered.jobs
            said = "recovered active jobs, they are first in line again jobs=%d broken_locks=%d"
            logger.warning(said, recovered.jobs, recovered.broken_locks)
            self._state.progress.moved(self._recovered_at_s)
        return done

    def _take(self, now_s: float, room: Room) -> int:
        """Write the results to Redis and take the next jobs. Return how many results were written."""
        self._upkeep.work(now_s)
        # Order: before the take. A take whose response is lost leaves unknown jobs active, which are recovered then.
        self._to_recover = "free" if self._lease else None
        # With several senders the jobs of a dead one wait for 30 s and more, so that each takes few at once.
        at_most = min(room.batches, MOST_JOBS if self._lease else USUAL_BATCHES)
        written, taken = self._held.acks.write_and_take(1 if self._is_careful else at_most, room.bytes)
        self._to_recover = None
        self._is_careful = False
        self._found_empty = not taken
        self._confirmed_at_s = now_s
        if taken:
            self._state.progress.moved(now_s)
        self._held.add(taken)
        return written

    def _let_go(self, number: int) -> None:
        """Drop the jobs and results held under lease ``number``. They are another sender's, or will be recovered."""
        self._held.let_go(number)
        self._queue.unsure = False
        self._not_before_s = float("-inf")

    def lanes_wait_s(self) -> dict[str, float]:
        """Return for each of several lanes how long its next attempt has to wait. Any thread may call it."""
        return self._held.lanes_wait_s(self._clock.monotonic_s())

    def rest_s(self) -> float:
        """Return how long this sender has nothing to do unless a job is in line; 0 if it must go on looking."""
        state, now_s = self._state, self._clock.monotonic_s()
        if not self._found_empty or not self._held.is_empty or state.state != "active" or state.paused:
            return 0.0
        if self._abandoned():
            return max(0.0, self._busy_at_s + self._settings.linger_s - now_s)
        return self._upkeep.rest_s(now_s)

    def finished(self) -> bool:
        """Return True once the parent process has ended and this sender is no longer needed. Never without a parent."""
        if not self._held.is_empty or not self._abandoned():
            return False
        if not self._is_ours and self._state.state == "standby":  # no job of the queue is for this data plane
            return True
        if self._state.state == "standby":  # the other sender delivers what the parent left in the queue
            return self._lease is None or self._lease.others_live
        idle_s = self._clock.monotonic_s() - self._busy_at_s
        return idle_s >= (self._settings.linger_s if self._found_empty else AWAY_S)

    def drain(self, deadline_s: float) -> None:
        """Wait for the attempts, write the results, put unfinished jobs back first in line, and release the lease.

        Tries until ``deadline_s`` of the monotonic clock.
        """
        logger.info("draining, unfinished jobs go back first in line jobs=%d", len(self._held.jobs))
        while True:
            try:
                if self._has_something() and self._may_work(self._clock.monotonic_s()):
                    while self._held.are_busy and self._clock.monotonic_s() < deadline_s:
                        self._held.record(LOOK_S)
                    if self._to_recover:
                        self._recover()
                    self._held.acks.write()
                    if self._held.jobs:
                        logger.info("put back first in line jobs=%d", self._queue.put_back(self._held.jobs))
                if self._lease is not None:
                    self._lease.release()
                return
            except LeaseLost:
                self._forgo()
            except AnotherDataPlane:
                return  # the sender of that data plane has the jobs
            except QueueUnavailable as error:
                self._log.warning("put back", "cannot put back jobs, the next sender recovers them error=%s", error)
            if self._clock.monotonic_s() >= deadline_s:
                return
            self._clock.sleep(0.1)

    def _has_something(self) -> bool:
        """Return whether this sender has jobs or results of the queue, or may have them."""
        return not self._held.is_empty or self._queue.unsure or self._to_recover == "free"

    def close(self) -> None:
        """Close the connection."""
        self._queue.close()
