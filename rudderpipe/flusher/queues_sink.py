"""The sink that spreads a ring's events over several queues, each user's into one of them.

``docs/scaling.md`` says why no event is lost or added twice, whatever is killed or delayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from rudderpipe import log_text
from rudderpipe.errors import AnotherDataPlane, QueueBehind, QueueSealed, QueueUnavailable
from rudderpipe.flusher import queue_sink
from rudderpipe.flusher.dead_letters import DeadLetters
from rudderpipe.flusher.new_jobs import jobs_of
from rudderpipe.flusher.queue_calls import QueueCalls
from rudderpipe.flusher.queue_cursor import QueueCursor, UnderWay, missing_of
from rudderpipe.flusher.queue_sink import Acknowledged, CommitResult, Damaged
from rudderpipe.flusher.ring_queues import RingQueues
from rudderpipe.flusher.route_file import RouteFile
from rudderpipe.flusher.spill import SpillPlan
from rudderpipe.flusher.spilling import RETRY_S, Spilling
from rudderpipe.flusher.window import Plan, Window
from rudderpipe.process.clock import Clock, Every, iso_ms
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.queue import route
from rudderpipe.queue.active_job import QueueCounts
from rudderpipe.queue.meter import RedisMeter
from rudderpipe.queue.route import QueuePlace, Route
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Batch
from rudderpipe.ring.ring import RingView
from rudderpipe.service.calls import Calls
from rudderpipe.settings import Settings

BATCHES_AT_ONCE, BYTES_AT_ONCE = 50, 4 << 20
FULL_JOBS_AT_ONCE = 500
"""A call gets no more bytes than so many full jobs have, because Redis takes less than 8,000 jobs in one call."""
COMMIT_S = 0.2
"""How long a commit lasts at most, because the flusher has other work."""
OTHER_PLANE_S = 5.0
ROUTE_S, CHANGING_S = 10.0, 5.0
"""How often the route is read and old offsets are deleted: usually, and while an earlier generation lives."""
BEHIND_SPILL = "it gets the events of rings that are gone first, from their spill"
UNROUTED = "a queue is sealed, and the route has no later queues; `rudderpipe scale` makes some"
ALL_RULES = frozenset(("term", "own", "cas", "barrier"))

logger = log_text.logger("rudderpipe.flusher")


class QueuesSink:
    """A sink that puts each event into its user's queue, and lets a batch leave once every queue has its part.

    A queue that is away holds only its own part: the others go on until the ring is full. ``rules`` are all in use,
    except in tests that show what each of them is for.
    """

    def __init__(
        self,
        settings: Settings,
        ring: RingView,
        dead_letters: DeadLetters,
        clock: Clock,
        meter: RedisMeter | None = None,
        *,
        calls: Calls | None = None,
        rules: frozenset[str] = ALL_RULES,
        must_wait: Callable[[QueuePlace], bool] = lambda _place: False,
        route_file: RouteFile | None = None,
        on_route: Callable[[], None] = lambda: None,
    ) -> None:
        """``must_wait`` returns True while a queue must get other events before those of this ring.

        ``route_file`` remembers the route. ``on_route`` is called when events go to other queues than the home.
        """
        self._settings = settings
        self._ring = ring
        max_bytes = min(BYTES_AT_ONCE, FULL_JOBS_AT_ONCE * settings.max_batch_bytes)
        self._at_once = BATCHES_AT_ONCE * settings.flush_at, max_bytes  # events and bytes of one call
        self._clock = clock
        self._epoch = ring.segment.epoch
        self._damaged = Damaged(dead_letters, ring.segment.epoch, clock)
        self._calls = QueueCalls(clock, self._end, calls)
        self._rules = rules
        self._must_wait = must_wait
        self._spilling = Spilling(settings, ring, clock)
        self._log = ThrottledLog(logger, clock, RARELY_S)
        home = QueuePlace(settings.prefix)
        self.used = RingQueues(lambda place: QueueCursor(place, settings, clock, meter), home, route_file, on_route)
        """The queues that have events of the ring, or get them."""
        self._reads_route = True
        """True while the route must be read, because it is not known or may have changed."""
        self._is_sealed = False
        """True from the moment when a current queue turned out to be sealed until the next route is read."""
        self._handed: int | None = None  # the events that had left the ring when a look at all counts began
        self._missing = 0  # how many of them the queues did not know at the last look
        self._window: Window | None = None
        """None while it is not known to which queues events go, or what the queues of earlier generations have."""
        self._housekeeping = Every(ROUTE_S)
        self._housekeeping.restart(clock.monotonic_s())

    # what the flusher asks

    @property
    def queues(self) -> int:
        """How many queues share the events that are due."""
        return len(self.used.current) or self._settings.queues

    @property
    def batches_at_once(self) -> int:
        """How many batches may be offered at once besides those that are kept."""
        return BATCHES_AT_ONCE

    @property
    def kept(self) -> int:
        """How many of the offered batches only wait for queues that are behind the others."""
        return max(cursor.done for cursor in self.used.current) - self._window.first if self._window else 0

    @property
    def has_spilled(self) -> bool:
        """True while events that left the ring may wait in the spill."""
        return self._spilling.has_events

    def spill_is_ahead(self, place: QueuePlace) -> bool:
        """Return True if a queue must get events of the spill that can be read, or if it is not known."""
        cursors = [each for each in self.used.current if each.place == place] or self.used.current
        return self._spilling.is_readable and (not cursors or any(map(self._spilling.is_ahead, cursors)))

    def known(self) -> dict[int, int]:
        """Return nothing, because each queue has offsets of its own."""
        return {}

    def commit(self, batches: Sequence[Batch], freed: Sequence[int]) -> CommitResult:
        """Add what the queues lack of these batches. The first ones leave that every queue has."""
        self._free(self._spilling.kept_back(freed))
        if not self._spilling.is_open and not self._spilling.open():
            return CommitResult(wait_s=RETRY_S)
        self._free(self._spilling.tidy(self.used.current))
        self._calls.take()
        if self._window is not None and not self._window.begins(batches):
            self._begin_window()
        deadline_s = self._clock.monotonic_s() + COMMIT_S
        while True:
            self._enter(batches)
            self._begin_calls()
            if not self._calls.wait(deadline_s):
                break
        trouble = next((cursor.trouble for cursor in self.used.in_use if cursor.trouble), None)
        self._ring.words[at.H_UNCONFIRMED_MS] = self.used.unconfirmed_since_ms
        window = self._window
        left = window.leave(min(cursor.done for cursor in self.used.current)) if window is not None else 0
        if is_nearly_full := self._spilling.is_due():
            left += self._spill(batches[left:])
        committed, halves = [at.H_QUEUED] * left, False
        is_first = not window.entries if window is not None else is_nearly_full
        if not committed and is_first and batches and not queue_sink.decoded(batches[0]):
            halves = batches[0].count > 1
            if not halves:
                committed.append(self._damaged.pass_over(batches[0]))
        return CommitResult(committed, halve=halves, trouble=trouble, replayed=self._spilling.take_passed())

    def acknowledged(self) -> Acknowledged | None:
        """Return what all queues have counted; of a queue that does not answer, what it last counted."""
        self._calls.take()
        if self.used.route is None:
            self._begin_calls()
            self._calls.wait_for_all()
        begins = self._handed is None
        handed = self._handed = queue_sink.handed_of(self._ring) if self._handed is None else self._handed
        for cursor in self.used.all:
            cursor.has_new_counts = cursor.has_new_counts and not begins
            if self._calls.may_begin(cursor):
                self._calls.begin(cursor, "count", partial(cursor.queue.counts, self._epoch))
        self._calls.wait_for_all()
        counts = [cursor.counts for cursor in self.used.all if cursor.counts is not None]
        if self.used.route is None or len(counts) < len(self.used.all):
            lacking = [self.used.home, *(each for each in self.used.all if each.counts is None)]
            if troubles := [each.trouble for each in lacking if each.trouble is not None]:
                raise troubles[-1]
            return None  # calls are under way, as after a start or a change of the number of queues
        if all(cursor.has_new_counts for cursor in self.used.all):
            self._missing, self._handed = handed - sum(each.events_known for each in counts), None
            self._restore()
        return queue_sink.acknowledged_of(QueueCounts.merged(counts))

    def keep_house(self) -> None:
        """Go on with what does not wait for events: a new route, and offsets that are not needed any more."""
        self._calls.take()
        self._ring.words[at.H_UNCONFIRMED_MS] = self.used.unconfirmed_since_ms
        if self._housekeeping.is_due(self._clock.monotonic_s()):
            self._reads_route = True
            left = self._ring.left()
            for cursor in self.used.past_cursors:
                cursor.free_final(left, self._spilling.needs)
            for cursor in self.used.all:
                is_due = cursor.must_hear(self._clock.monotonic_s(), is_current=cursor in self.used.current)
                if is_due and self._calls.may_begin(cursor):
                    self._begin_fence(cursor, None)
        self._begin_calls()

    def ended(self, ring: RingView) -> None:  # noqa: ARG002  # the sink knows its ring
        """Have all queues forget the ring's offsets, now or with the last of the ring's jobs."""
        if self._handed != queue_sink.handed_of(self._ring):
            self._handed = None  # a look that began before the last events says nothing of them
        # Order: before a queue forgets what it had, because nothing else would count losses.
        self.acknowledged()
        if not self._is_counted:
            self.acknowledged()  # sees whether what the first look missed is counted now
        self._calls.wait_for_all()
        for cursor in self.used.all:
            if self._is_counted and self._calls.may_begin(cursor):
                self._calls.begin(cursor, "end", partial(cursor.queue.end_ring, self._epoch))
        self._calls.wait_for_all()
        for cursor in self.used.all:
            if not self._is_counted or cursor.trouble or cursor.under_way:
                raise cursor.trouble or QueueUnavailable(cursor.queue.place, "no answer in time", answered=False)
        self.used.end()

    def close(self) -> None:
        """Close the connections, except those of calls that have not ended."""
        self._calls.close()
        self._spilling.close()
        for cursor in self.used.all:
            if cursor.under_way is None:
                cursor.queue.close()

    @property
    def _is_counted(self) -> bool:
        """True if the last look is complete, and found all events that the queues were given."""
        return self._handed is None and self._missing <= 0

    def _restore(self) -> None:
        """Have queues count the events that Redis had been given and no longer knows, if there are any."""
        if self._missing <= 0:
            return
        ended = self._ring.words[at.H_ACKED] - self._ring.words[at.H_ACKED_FAILED]
        for cursor, counted, over in missing_of(self.used.all, self.used.current[0], self._missing, ended):
            if self._calls.may_begin(cursor):
                self._calls.begin(cursor, "restore", partial(cursor.queue.restore, self._epoch, counted, over, 0))

    # the window

    def _begin_window(self) -> None:
        """Plan all batches anew, from what the queues are known to have."""
        self._window = Window(len(self.used.current), self.used.former, self._spilling.reached)
        for cursor in self.used.current:
            cursor.done = 0

    def _spill(self, batches: Sequence[Batch]) -> int:
        """Store what queues that are away lack of the first of these batches, up to what the others lack.

        Return how many batches may leave the ring now.
        """
        window, cursors, now_s = self._window, self.used.current, self._clock.monotonic_s()
        if window is not None:
            behind = [number for number, each in enumerate(cursors) if self._spilling.takes_for(each, now_s)]
            at_work = [each.done for number, each in enumerate(cursors) if number not in behind]
            end = min(at_work, default=window.end)
        else:  # it is not known which queue each event must go to
            behind = [0] if any(each.is_away(now_s) for each in self.used.in_use) else []
            window = Window(1, (), self._spilling.reached)
            window.enter(batches)
            end = window.end
        if not behind or end <= window.first or not self._spilling.keep(window.entries[: end - window.first], behind):
            return 0
        for cursor in cursors:
            cursor.done = max(cursor.done, end)
        return window.leave(end)

    def _enter(self, batches: Sequence[Batch]) -> None:
        """Add to the window the batches that it lacks, up to the first damaged one.

        Nothing is added before every queue of the earlier generations is sealed, and its offsets are read after that.
        """
        waits = "barrier" in self._rules and not all(cursor.is_final for cursor in self.used.past_cursors)
        if self.used.route is None or self._is_sealed or waits:
            return
        if self._window is None:
            self._begin_window()
        assert self._window is not None
        self._window.enter(batches)

    # calls

    def _free(self, tenures: Iterable[int]) -> None:
        """Have the queues delete the offsets of these tenures with their next calls."""
        for cursor in self.used.all:
            cursor.freed.update(tenure for tenure in tenures if tenure in cursor.offsets)

    def _begin_calls(self) -> None:
        """Begin what each queue that has no call under way must do next."""
        for generation, cursors in self.used.past:
            for cursor in cursors:
                if not cursor.is_final and self._calls.may_begin(cursor):
                    self._begin_fence(cursor, generation)
        # Order: behind the fences, or a route that is read again and again would hold up the home's own.
        if self._reads_route and self._calls.may_begin(self.used.home):
            makes = 1 if self.used.has_route else self._settings.queues
            call = partial(route.establish, self.used.home.queue, self._settings, makes)
            self._calls.begin(self.used.home, "route", call)
        begins: list[Callable[[], None]] = []
        for number, cursor in enumerate(self.used.current):
            if not self._calls.may_begin(cursor):
                continue
            is_ahead = self._spilling.is_ahead(cursor)
            # An event has one place in the ring and another one in the spill, so no call may be undecided in between.
            if not cursor.is_fenced or (is_ahead and cursor.is_unsure):
                self._begin_fence(cursor, None)
            elif self._must_wait(cursor.place):
                trouble = QueueUnavailable(cursor.queue.place, BEHIND_SPILL, answered=True)
                cursor.trouble = cursor.trouble or trouble
            elif self._window is not None:
                plan = self._replay(number, cursor) if is_ahead else self._next(number, cursor, self._window)
                if plan is not None:
                    begins.append(self._add_of(cursor, plan, self._window))
        # Order: all jobs are made before the first call, because Python runs one thread at a time.
        for begin in begins:
            begin()

    def _begin_fence(self, cursor: QueueCursor, generation: int | None) -> None:
        freed = tuple(cursor.freed)
        call = partial(cursor.fence, self._epoch, self._term, freed, generation)
        self._calls.begin(cursor, "fence", call, freed=freed, is_past=generation is not None)

    def _next(self, number: int, cursor: QueueCursor, window: Window) -> Plan | None:
        """Return what a queue must get next of the window; None if it has all of it."""
        plan = window.plan(number, cursor.done, cursor.offsets, *self._at_once)
        if plan.events:
            return plan
        cursor.done = plan.end
        return None

    def _replay(self, number: int, cursor: QueueCursor) -> SpillPlan | None:
        """Return what a queue must get next of the spill; None if it has what was read now."""
        used = self.used
        plan = self._spilling.plan(cursor, number, len(used.current), used.former, *self._at_once)
        if plan.events:
            return plan
        self._spilling.passed(cursor, plan)
        return None

    def _add_of(self, cursor: QueueCursor, plan: Plan | SpillPlan, window: Window) -> Callable[[], None]:
        """Return what begins the call that adds these events to a queue."""
        marks = plan.marks
        if "cas" not in self._rules:
            marks = {tenure: (1 << 52, to) for tenure, (_, to) in marks.items()}
        freed, sent_at = tuple(cursor.freed), iso_ms(self._clock.time_ms())
        jobs = jobs_of(plan.events, self._settings, sent_at, self._epoch, plan.users)
        call = partial(cursor.add, self._epoch, jobs, marks, freed, self._term)
        offsets = {tenure: to for tenure, (_, to) in marks.items()}
        return partial(self._calls.begin, cursor, "add", call, window=window, plan=plan, offsets=offsets, freed=freed)

    @property
    def _term(self) -> int:
        return int(self._ring.words[at.H_TERM]) if "term" in self._rules else 0

    # answers

    def _end(self, cursor: QueueCursor, call: UnderWay, result: Any) -> None:
        """Note what a call has done."""
        words, now_s = self._ring.words, self._clock.monotonic_s()
        if isinstance(result, QueueSealed):
            if cursor in self.used.current:
                self._is_sealed, self._window = True, None
            self._reads_route = True
        elif isinstance(result, QueueBehind):
            # If Redis knows a later term than the ring, take a term above it: a call of that term may be under way.
            if later := result.read.pop(0, 0):
                words[at.H_TERM] = max(words[at.H_TERM], later) + 1
            cursor.offsets.update(result.read)
        elif isinstance(result, Exception):
            answered = isinstance(result, QueueUnavailable) and result.answered
            # Order: before the next call. This call may reach Redis after the next one, and Redis must refuse it then.
            if call.kind == "add" and not answered and "own" in self._rules:
                at.bump(words, at.H_TERM)
            cursor.is_unsure = cursor.is_unsure or call.kind == "add"
            if not isinstance(result, QueueUnavailable):
                raise result
            cursor.failed(result, now_s, OTHER_PLANE_S if isinstance(result, AnotherDataPlane) else 0.0)
        else:
            if call.kind != "fence" or not cursor.is_unsure:
                cursor.succeeded()
            self._note(cursor, call, result)

    def _note(self, cursor: QueueCursor, call: UnderWay, result: Any) -> None:
        """Note the result of a call that has succeeded."""
        cursor.forget(call.freed)
        if call.kind == "route":
            self._adopt(result)
        elif call.kind == "fence":
            cursor.fenced_s = self._clock.monotonic_s()
            cursor.offsets = result
            cursor.is_fenced, cursor.is_unsure = True, False
            cursor.is_final = cursor.is_final or call.is_past
        elif call.kind == "add":
            cursor.offsets.update(call.offsets)
            if call.window is self._window:
                if isinstance(call.plan, Plan):
                    cursor.done = max(cursor.done, call.plan.end)
                elif call.plan is not None:
                    self._spilling.passed(cursor, call.plan)
        elif call.kind == "count":
            cursor.note_counts(result)
        elif call.kind == "restore":
            said = "redis no longer knows events it had taken, they count as queued until no job is left events=%d"
            if result:
                logger.error(said, result)
            cursor.before = None
            cursor.fenced_s = float("-inf")  # Redis may have forgotten the flusher, too

    def _adopt(self, found: Route) -> None:
        """Use a route. The queues of earlier generations must be sealed, and read, before anything is planned."""
        used = self.used
        if (known := used.forgotten(found)) is not None:
            self._log.error("route", "redis has forgotten the route to the queues, storing it again")
            call = partial(route.store_again, used.home.queue, self._settings, found, known)
            self._calls.begin(used.home, "route", call)
            return
        self._reads_route = False
        if used.route is not None and found.text == used.route.text:
            if self._is_sealed:  # a later route is stored before a queue is sealed
                self._reads_route = True
                trouble = QueueUnavailable(used.home.queue.place, UNROUTED, answered=True)
                used.home.failed(trouble, self._clock.monotonic_s())
            return
        self._is_sealed, self._window = False, None
        used.use(found, self._ring.words[at.H_CREATED_MS])
        self._housekeeping.seconds = CHANGING_S if used.past else ROUTE_S
        self._spilling.begin_again(used.current)
        if len(used.current) != self._settings.queues:
            said = "the setting queues is ignored, because the queues in use have another number queues=%d in_use=%d"
            logger.warning(said, self._settings.queues, len(used.current))
