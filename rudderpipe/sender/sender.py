"""One duty cycle of the sender: take what waits, have it delivered, write down what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from rudderpipe import log_text
from rudderpipe.delivery.dispatcher import Courier, Parcel, Verdict
from rudderpipe.errors import AnotherDataPlane, JobUnreadable, LeaseLost, QueueUnavailable
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.queue.active_job import Taken
from rudderpipe.queue.lease import Lease
from rudderpipe.queue.queue import LOCK_MS, Queue, Whose, new_token
from rudderpipe.sender.acks import Ledger
from rudderpipe.sender.maintenance import Upkeep
from rudderpipe.sender.state import Facts
from rudderpipe.settings import Settings

RETRY_MIN_S, RETRY_MAX_S = 0.05, 2.0
STANDBY_S = 0.2
OTHER_PLANE_S = 5.0
"""How long to leave a queue alone that has jobs for another data plane."""
AWAY_S = 600.0
"""How long a sender that nobody needs waits for a Redis that is away; what is in it is delivered by the next one."""

logger = log_text.logger("rudderpipe.sender")


class Sender:
    """Delivers at least once, in order: nothing is taken before what was taken is settled.

    ``lease`` is None where several senders work. ``abandoned`` says whether who started us is gone; then we end once
    the queue has been empty for ``linger_s``, or at once while another sender has the lease.
    """

    def __init__(
        self,
        queue: Queue,
        courier: Courier,
        lease: Lease | None,
        settings: Settings,
        clock: Clock,
        *,
        facts: Facts | None = None,
        abandoned: Callable[[], bool] = lambda: False,
    ) -> None:
        self._queue = queue
        self._courier = courier
        self._lease = lease
        self._settings = settings
        self._clock = clock
        self._abandoned = abandoned
        self._log = ThrottledLog(logger, clock)
        self._rare_log = ThrottledLog(logger, clock, RARELY_S)
        self._facts = facts or Facts(clock.monotonic_s(), settings.stall_timeout_s)
        self._ledger = Ledger(queue)
        self._upkeep = Upkeep(queue, settings)
        self._held: list[Taken] = []
        self._to_recover: Whose | None = "all" if lease else None
        """What is to be put back in line before anything else happens."""
        self._recovered_at_s = float("-inf")
        self._is_careful = False
        """Take one job at a time: the host could not handle more."""
        sure_ms = min(LOCK_MS, settings.lease_ms) if lease else LOCK_MS
        self._sure_s = sure_ms / 1000 / 2
        """So long after a script has said that the jobs are ours, no request needs another look."""
        self._confirmed_at_s = self._not_before_s = float("-inf")
        self._retry_s = RETRY_MIN_S
        self._busy_at_s = clock.monotonic_s()
        self._is_ours = False
        """Whether the queue was seen to have no jobs for another data plane; only then anything of it is touched."""
        self._found_empty = False
        """The last look at the queue found nothing; False until there was one."""

    def work(self) -> int:
        """One request at the most; how many jobs were settled."""
        now_s = self._clock.monotonic_s()
        if now_s < self._not_before_s:
            return 0
        try:
            done = self._cycle(now_s) if self._may_work(now_s) else 0
        except LeaseLost:
            self._forgo()
            return 1  # look at once who has it
        except AnotherDataPlane as error:
            self._log.warning("plane", f"nothing is taken: {error}")
            self._stand_aside(now_s)
            return 0
        except QueueUnavailable as error:
            self._log.warning("queue", f"waiting for redis: {error}")
            self._wait_for_redis(now_s)
            return 0
        except Exception as error:  # noqa: BLE001  # of this host, such as MemoryError: no job's doing
            self._rare_log.error(type(error).__name__, "cannot work, trying again")
            self._queue.unsure = self._is_careful = True
            self._wait_for_redis(now_s)
            return 0
        finally:
            self._show_held()
        self._retry_s = RETRY_MIN_S
        return done

    def _wait_for_redis(self, now_s: float) -> None:
        self._not_before_s = max(self._not_before_s, now_s + self._retry_s)
        self._found_empty = False  # what waits in a Redis that is away is not known
        self._retry_s = min(RETRY_MAX_S, self._retry_s * 2)

    def _stand_aside(self, now_s: float) -> None:
        """Leave a queue whose jobs are for another data plane to that one's sender, those that we hold included."""
        self._is_ours = False
        self._let_go(self._lease.number if self._lease else 0)
        self._to_recover = "all" if self._lease else None  # as at the start: a take that was refused took nothing
        self._facts.state = "standby"
        self._facts.progress.moved(now_s)
        self._not_before_s = now_s + OTHER_PLANE_S
        if self._lease is not None:
            with suppress(QueueUnavailable):  # then it lapses
                self._lease.release()

    def _show_held(self) -> None:
        """Have the keeper renew the locks of what is not settled in Redis."""
        self._facts.held = (*self._ledger.delivered, *self._held)

    def _forgo(self) -> None:
        """A script has said that the lease is not ours: it has lapsed, or another data plane has adopted the queue."""
        assert self._lease is not None
        self._lease.lost()
        self._is_ours = False

    def _may_work(self, now_s: float) -> bool:
        facts, lease = self._facts, self._lease
        if lease is not None and lease.held and facts.lost == facts.fence:  # a script of the keeper has said so
            self._forgo()
        if not self._is_ours:
            self._queue.check_owner()
            self._is_ours = True
        if lease is None:
            facts.state = "active"
            if self._queue.unsure:
                self._take_new_token()
            return True
        if lease.held and not self._queue.unsure:
            facts.state = "active"
            return True
        before = lease.number
        if not lease.take(above=before if self._queue.unsure else 0):
            if facts.state != "standby":
                _, _, host, pid, *_ = [*lease.others.split(" "), "?", "?", "?"]
                logger.info("standing by host=%s pid=%s lapses_in_ms=%d", host, pid, lease.lapses_in_ms)
            facts.state = "standby"
            facts.progress.moved(now_s)
            self._let_go(before)
            self._not_before_s = now_s + STANDBY_S
            return False
        if not lease.kept:
            self._let_go(before)
            self._to_recover = "all"
        elif self._queue.unsure:
            self._to_recover = self._to_recover or "free"
        self._queue.unsure = False
        logger.info("lease %s number=%d", "kept" if lease.kept else "taken", lease.number)
        facts.state, facts.fence, facts.lost = "active", self._queue.fence, ""
        return True

    def _take_new_token(self) -> None:
        """A call may still be under way: let it find a token that holds nothing which we know of.

        Order: what was delivered is written down under the old token, then what is left under it is put back.
        """
        self._ledger.write()
        put_back = self._queue.recover((), "ours").jobs
        logger.warning("an answer of redis was lost, put back jobs=%d", put_back)
        self._held = []
        self._courier.forget()
        self._queue.token = self._facts.token = new_token()
        self._queue.unsure = False

    def _cycle(self, now_s: float) -> int:
        if self._lease is not None and self._facts.stranded_at_s > self._recovered_at_s:
            self._to_recover = self._to_recover or "free"
        done = self._recover() if self._to_recover else 0
        done += self._ledger.write() if self._held else self._take(now_s)
        if self._held:
            # Order: the clock is read after the take, whose answer may be old: we may have been stopped meanwhile.
            now_s = self._clock.monotonic_s()
            if now_s - self._confirmed_at_s > self._sure_s:
                self._keep(self._held, self._queue.renew(self._held))
                self._confirmed_at_s = now_s
        if self._held:
            self._busy_at_s = now_s
            self._show_held()
            self._attempt()
        if done:
            self._facts.progress.moved(self._clock.monotonic_s())
        return done

    def _recover(self) -> int:
        """Put what is active and held by no sender first in line; how many jobs were written down before."""
        done = self._ledger.write()
        whose = self._to_recover
        recovered = self._queue.recover(self._held, whose or "free")
        self._to_recover = None
        self._recovered_at_s = self._clock.monotonic_s()
        if recovered.jobs:
            logger.warning("recovered jobs=%d broken_locks=%d", recovered.jobs, recovered.broken_locks)
            self._facts.progress.moved(self._recovered_at_s)
        return done

    def _take(self, now_s: float) -> int:
        """Write down what is known and take what is next; how many jobs were written down."""
        self._upkeep.work(now_s)
        # Order: a take whose answer is lost leaves jobs active that we do not know of; they are recovered then.
        self._to_recover = "free" if self._lease else None
        max_jobs = 1 if self._is_careful else self._settings.max_jobs_per_request
        written, taken = self._ledger.write_and_take(max_jobs, self._settings.max_request_bytes)
        self._to_recover = None
        self._is_careful = False
        self._found_empty = not taken
        self._confirmed_at_s = now_s
        if taken:
            self._facts.progress.moved(now_s)
        for job in {job.id: job for job in taken}.values():  # a tool may have put an id in line twice
            if job.job is None:
                self._give_up(job, job.trouble)
            elif not job.job.events:
                self._give_up(job, "the job's batch is empty")
            else:
                self._held.append(job)
        return written

    def _keep(self, asked: Sequence[Taken], ours: Sequence[Taken]) -> None:
        """Go on with those that are still ours, in their order."""
        lost = {taken.id for taken in asked} - {taken.id for taken in ours}
        if not lost:
            return
        logger.warning("another sender or a tool has taken over jobs=%d", len(lost))
        self._held = [taken for taken in self._held if taken.id not in lost]
        self._courier.forget()
        if self._lease is not None:
            self._to_recover = self._to_recover or "free"

    def _attempt(self) -> None:
        verdict = self._courier.attempt([_parcel(taken) for taken in self._held])
        if verdict.kind != "blocked":
            self._facts.progress.moved(self._clock.monotonic_s())
        group = self._held[: verdict.count]
        if verdict.kind == "delivered":
            self._ledger.delivered += group
            del self._held[: len(group)]
        elif self._facts.aborting:
            return  # cut off by our own stop: no attempt
        elif verdict.kind == "blocked":
            self._rare_log.error(verdict.outcome.reason, "cannot deliver, jobs wait and no attempt is counted")
            self._not_before_s = self._facts.backoff_until_s = self._clock.monotonic_s() + verdict.wait_s
        elif verdict.kind == "retry":
            self._retry(group, verdict)
        elif verdict.kind == "failed":
            del self._held[0]
            self._give_up(group[0], verdict.reason)
        elif verdict.kind == "split":
            self._split(group[0], verdict)
        else:
            logger.warning("refused, sending fewer at once jobs=%d reason=%s", verdict.count, verdict.outcome.reason)

    def _retry(self, group: list[Taken], verdict: Verdict) -> None:
        events = sum(taken.events for taken in group)
        where = f"job={group[0].id} jobs={len(group)} events={events} attempt={verdict.attempts}"
        logger.warning("attempt failed %s next_in_s=%g reason=%s", where, verdict.wait_s, verdict.outcome.reason)
        # Order: counted here before Redis is asked to, so that an unreachable Redis does not add attempts.
        tried = [msgspec.structs.replace(taken, attempts_made=taken.attempts_made + 1) for taken in group]
        self._held[: len(group)] = tried
        self._not_before_s = self._facts.backoff_until_s = self._clock.monotonic_s() + verdict.wait_s
        self._keep(group, self._queue.retry_later(group))

    def _split(self, taken: Taken, verdict: Verdict) -> None:
        reason = verdict.outcome.reason
        logger.warning("refused, sending its halves job=%s events=%d reason=%s", taken.id, taken.events, reason)
        try:
            halves = self._queue.split(taken)
        except JobUnreadable as error:  # the one place for what a job does to those who rewrite it
            del self._held[0]
            self._courier.forget()
            self._give_up(taken, f"{reason}; {error.reason}")
        except QueueUnavailable:
            if self._queue.unsure:  # which jobs there are now, Redis alone knows: all are taken anew, in their order
                self._held = []
                self._courier.forget()
            raise
        else:
            if halves is None:
                self._keep([taken], [])
            else:
                self._held[:1] = halves

    def _give_up(self, taken: Taken, reason: str) -> None:
        logger.error("job failed job=%s events=%d reason=%s", taken.id, taken.events, reason)
        self._ledger.failed.append((taken, reason))

    def _let_go(self, number: int) -> None:
        """What we had under the lease of this number is another's, or will be recovered."""
        if self._held or not self._ledger.is_empty:
            logger.warning("lease lost number=%d jobs=%d", number, len(self._held))
        self._held = []
        self._ledger.forget()
        self._courier.forget()
        self._queue.unsure = False
        self._not_before_s = self._facts.backoff_until_s = float("-inf")

    def finished(self) -> bool:
        """True when nobody needs us any more."""
        if self._held or not self._ledger.is_empty or not self._abandoned():
            return False
        if not self._is_ours and self._facts.state == "standby":  # no job of the queue is for our data plane
            return True
        if self._facts.state == "standby":  # the other one delivers what our parent left in the queue
            return self._lease is None or self._lease.others_live
        idle_s = self._clock.monotonic_s() - self._busy_at_s
        return idle_s >= (self._settings.linger_s if self._found_empty else AWAY_S)

    def drain(self, deadline_s: float) -> None:
        """Write down what is known; what is not finished is first in line again, and another may have the queue."""
        logger.info("draining jobs=%d", len(self._held))
        while True:
            try:
                if self._has_something() and self._may_work(self._clock.monotonic_s()):
                    if self._to_recover:
                        self._recover()
                    self._ledger.write()
                    if self._held:
                        logger.info("put back jobs=%d", self._queue.put_back(self._held))
                if self._lease is not None:
                    self._lease.release()
                return
            except LeaseLost:
                self._forgo()
            except AnotherDataPlane:
                return  # its sender has them
            except QueueUnavailable as error:
                self._log.warning("queue", f"cannot put back, the next sender recovers: {error}")
            if self._clock.monotonic_s() >= deadline_s:
                return
            self._clock.sleep(0.1)

    def _has_something(self) -> bool:
        """Whether something of the queue is ours, or may be."""
        return bool(self._held or not self._ledger.is_empty or self._queue.unsure or self._to_recover == "free")

    def close(self) -> None:
        """Close the connection."""
        self._queue.close()


def _parcel(taken: Taken) -> Parcel:
    job = taken.job
    assert job is not None
    return Parcel(job.events, len(taken.data), job.write_key, job.timeout_s, taken.attempts)
