"""The sink that spreads a ring's events over several queues, each user's into one of them.

``docs/scaling.md`` says why no event is lost or added twice, whatever is killed or delayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from rudderpipe import log_text
from rudderpipe.errors import AnotherDataPlane, QueueBehind, QueueSealed, QueueUnavailable
from rudderpipe.flusher import lanes, queue_sink
from rudderpipe.flusher.dead_letters import DeadLetters
from rudderpipe.flusher.queue_cursor import Kind, QueueCursor, UnderWay
from rudderpipe.flusher.queue_sink import KEEP_S, Acknowledged, CommitResult, Damaged
from rudderpipe.flusher.window import Plan, Window
from rudderpipe.process.clock import Clock, Every, iso_ms
from rudderpipe.queue import job, route
from rudderpipe.queue.active_job import QueueCounts
from rudderpipe.queue.meter import RedisMeter
from rudderpipe.queue.queue import NewJob
from rudderpipe.queue.route import QueuePlace, Route
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Batch
from rudderpipe.ring.ring import Ring
from rudderpipe.service.calls import Calls
from rudderpipe.settings import Settings

BATCHES_AT_ONCE = 50
BYTES_AT_ONCE = 4 << 20
PATIENCE_S = 0.05
"""How long a call is waited for. The other queues go on without a call that takes longer."""
COMMIT_S = 0.2
"""How long a commit lasts at most, because the flusher has other work."""
OTHER_PLANE_S = 5.0
ROUTE_S, CHANGING_S = 10.0, 5.0
"""The intervals at which the route is read again, and at which offsets that are not needed are deleted: usually, and
while an earlier generation may still hold events."""
UNCOUNTED = "the queue has not counted its events yet"
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
        ring: Ring,
        dead_letters: DeadLetters,
        clock: Clock,
        meter: RedisMeter | None = None,
        *,
        calls: Calls | None = None,
        rules: frozenset[str] = ALL_RULES,
    ) -> None:
        self._settings = settings
        self._ring = ring
        self._clock = clock
        self._meter = meter
        self._epoch = ring.segment.epoch
        self._damaged = Damaged(dead_letters, ring.segment.epoch, clock)
        self._calls = calls or Calls("rudderpipe-queue", _note_no_thread)
        self._rules = rules
        self._cursors: dict[QueuePlace, QueueCursor] = {}
        self._home = self._cursor(QueuePlace(settings.prefix))
        self._route: Route | None = None
        self._reads_route = True
        """True while the route must be read, because it is not known or may have changed."""
        self._is_sealed = False
        """True from the moment when a current queue turned out to be sealed until the next route is read."""
        self.past: list[tuple[int, list[QueueCursor]]] = []
        """The earlier generations that may still hold events, each with its number."""
        self._queues: list[QueueCursor] = []
        """The queues that new events go to."""
        self._window: Window | None = None
        """None until it is known what the queues of the earlier generations have."""
        self._housekeeping = Every(ROUTE_S)
        self._housekeeping.restart(clock.monotonic_s())

    # what the flusher asks

    @property
    def queues(self) -> int:
        """How many queues share the events that are due."""
        return len(self._queues) or self._settings.queues

    @property
    def batches_at_once(self) -> int:
        """How many batches may be offered at once besides those that are kept."""
        return BATCHES_AT_ONCE

    @property
    def kept(self) -> int:
        """How many of the offered batches only wait for queues that are behind the others."""
        return max(cursor.done for cursor in self._queues) - self._window.first if self._window else 0

    def known(self) -> dict[int, int]:
        """Return nothing, because each queue has offsets of its own."""
        return {}

    def commit(self, batches: Sequence[Batch], freed: Sequence[int]) -> CommitResult:
        """Add what the queues lack of these batches. The first ones leave that every queue has."""
        for cursor in self._cursors.values():
            cursor.freed.update(tenure for tenure in freed if tenure in cursor.offsets)
        self._take_answers()
        if self._window is not None and not self._window.begins(batches):
            self._begin_window()
        deadline_s = self._clock.monotonic_s() + COMMIT_S
        while True:
            self._enter(batches)
            self._begin_calls()
            if not self._wait(deadline_s):
                break
        used = (self._home, *self._past_cursors(), *self._queues)
        trouble = next((cursor.trouble for cursor in used if cursor.trouble), None)
        since = [cursor.unconfirmed_since_ms for cursor in used if cursor.unconfirmed_since_ms]
        self._ring.words[at.H_UNCONFIRMED_MS] = min(since, default=0)
        window = self._window
        if window is None:
            return CommitResult(trouble=trouble)
        done = min(cursor.done for cursor in self._queues)
        committed = [at.H_QUEUED] * (done - window.first)
        window.leave(done)
        if not committed and window.first == window.end and not queue_sink.decoded(batches[0]):
            if batches[0].count > 1:
                return CommitResult(halve=True, trouble=trouble)
            committed.append(self._damaged.pass_over(batches[0]))
        return CommitResult(committed, trouble=trouble)

    def acknowledged(self) -> Acknowledged | None:
        """Return what all queues have counted; of a queue that does not answer, what it last counted."""
        words = self._ring.words
        handed = min(words[at.H_QUEUED], self._ring.drained())
        self._take_answers()
        if self._route is None:
            self._begin_calls()
            self._wait_for_all()
        for cursor in self._cursors.values():
            cursor.has_new_counts = False
            if self._is_idle(cursor):
                self._begin(cursor, "count", partial(cursor.queue.counts, self._epoch))
        self._wait_for_all()
        counts = [cursor.counts for cursor in self._cursors.values() if cursor.counts is not None]
        if self._route is None or len(counts) < len(self._cursors):
            lacks = self._home if self._route is None else next(self._uncounted())
            raise lacks.trouble or QueueUnavailable(lacks.queue.place, UNCOUNTED, answered=True)
        if all(cursor.has_new_counts for cursor in self._cursors.values()):
            self._restore(handed - sum(each.events_gone for each in counts))
        return queue_sink.acknowledged_of(QueueCounts.merged(counts))

    def keep_house(self) -> None:
        """Go on with what does not wait for events: a new route, and offsets that are not needed any more."""
        self._take_answers()
        if self._housekeeping.is_due(self._clock.monotonic_s()):
            self._reads_route = True
            left = self._ring.left()
            # Order: only final offsets, because an add whose answer was lost may have moved others meanwhile.
            for cursor in filter(attrgetter("is_final"), self._past_cursors()):
                cursor.freed.update(
                    tenure for tenure, final in cursor.offsets.items() if left.get(tenure, final) >= final
                )
            for cursor in self._cursors.values():
                if (self._must_keep(cursor) or (cursor.freed and cursor.is_fenced)) and self._is_idle(cursor):
                    self._begin_fence(cursor, None)
        self._begin_calls()

    def ended(self, ring: Ring) -> None:  # noqa: ARG002  # the sink knows its ring
        """Have all queues forget the ring's offsets, now or with the last of the ring's jobs."""
        self._take_answers()
        self._begin_calls()
        self._wait_for_all()
        for cursor in self._cursors.values():
            if self._is_idle(cursor):
                self._begin(cursor, "end", partial(cursor.queue.end_ring, self._epoch))
        self._wait_for_all()
        for cursor in self._cursors.values():
            if self._route is None or cursor.trouble or cursor.under_way:
                raise cursor.trouble or QueueUnavailable(cursor.queue.place, "no answer in time", answered=False)

    def close(self) -> None:
        """Close the connections, except those of calls that have not ended."""
        self._calls.close()
        for cursor in self._cursors.values():
            if cursor.under_way is None:
                cursor.queue.close()

    def _uncounted(self) -> Iterator[QueueCursor]:
        return (cursor for cursor in self._cursors.values() if cursor.counts is None)

    def _must_keep(self, cursor: QueueCursor) -> bool:
        """Return whether a queue would forget the ring, or what it has counted of it."""
        is_old = self._clock.monotonic_s() - cursor.fenced_s >= KEEP_S
        has_counted = cursor.counts is not None and cursor.counts.events_gone > 0
        return is_old and (has_counted or cursor in self._queues)

    def _restore(self, missing: int) -> None:
        """Have queues count the events that Redis had been given and no longer knows, if there are any."""
        if missing <= 0:
            return
        said = "redis no longer knows events it had taken, they count as queued until no job is left events=%d"
        logger.error(said, missing)
        counted = [(cursor, cursor.counts) for cursor in self._cursors.values() if cursor.counts is not None]
        parts = [
            (cursor, now, max(0, before.events_gone - now.events_gone), before.events_over)
            for cursor, now in counted
            if (before := cursor.before) is not None
        ]
        if not parts:  # an earlier flusher had counted them, and nothing says in which queue
            words, (cursor, now) = self._ring.words, next(each for each in counted if each[0] is self._queues[0])
            ended = words[at.H_ACKED] - words[at.H_ACKED_FAILED] - sum(each.events_over for _, each in counted)
            parts = [(cursor, now, missing, now.events_over + max(0, ended))]
        for number, (cursor, now, lost, over) in enumerate(parts, 1):
            part = missing if number == len(parts) else min(missing, lost)
            missing -= part
            if part and self._is_idle(cursor):
                call = partial(cursor.queue.restore, self._epoch, now.events_gone + part, over, 0)
                self._begin(cursor, "restore", call)

    # the window

    def _begin_window(self) -> None:
        """Plan all batches anew, from what the queues are known to have."""
        former = [[cursor.offsets for cursor in cursors] for _, cursors in self.past]
        self._window = Window(len(self._queues), former)
        for cursor in self._queues:
            cursor.done = 0

    def _enter(self, batches: Sequence[Batch]) -> None:
        """Add to the window the batches that it lacks, up to the first damaged one.

        Nothing is added before every queue of the earlier generations is sealed, and its offsets are read after that.
        """
        waits = "barrier" in self._rules and not all(cursor.is_final for cursor in self._past_cursors())
        if self._route is None or self._is_sealed or waits:
            return
        if self._window is None:
            self._begin_window()
        window = self._window
        assert window is not None
        for batch in batches[window.end - window.first :]:
            events = queue_sink.decoded(batch)
            if not events:
                break
            window.add(batch, events)

    # calls

    def _cursor(self, place: QueuePlace) -> QueueCursor:
        if place not in self._cursors:
            self._cursors[place] = QueueCursor(place, self._settings, self._clock, self._meter)
        return self._cursors[place]

    def _past_cursors(self) -> Iterator[QueueCursor]:
        for _, cursors in self.past:
            yield from cursors

    def _is_idle(self, cursor: QueueCursor) -> bool:
        return cursor.under_way is None and self._clock.monotonic_s() >= cursor.retry_at_s

    def _begin(self, cursor: QueueCursor, kind: Kind, call: Callable[[], Any], **details: Any) -> None:
        cursor.under_way = UnderWay(kind, self._clock.monotonic_s(), **details)
        self._calls.begin(cursor, call)

    def _begin_calls(self) -> None:
        """Begin what each queue that has no call under way must do next."""
        for generation, cursors in self.past:
            for cursor in cursors:
                if not cursor.is_final and self._is_idle(cursor):
                    self._begin_fence(cursor, generation)
        # Order: behind the fences, or a route that is read again and again would hold up the home's own.
        if self._reads_route and self._is_idle(self._home):
            makes = self._settings.queues if self._route is None or not self._route.text else 1
            call = partial(route.establish, self._home.queue, self._settings, makes)
            self._begin(self._home, "route", call)
        begins: list[Callable[[], None]] = []
        for number, cursor in enumerate(self._queues):
            if not self._is_idle(cursor):
                continue
            if not cursor.is_fenced:
                self._begin_fence(cursor, None)
            elif self._window is not None and not self._is_sealed:
                begins += self._add_of(number, cursor, self._window)
        # Order: all jobs are made before the first call, because Python runs one thread at a time.
        for begin in begins:
            begin()

    def _begin_fence(self, cursor: QueueCursor, generation: int | None) -> None:
        freed = tuple(cursor.freed)
        call = partial(cursor.fence, self._epoch, self._term, freed, generation)
        self._begin(cursor, "fence", call, freed=freed, is_past=generation is not None)

    def _add_of(self, number: int, cursor: QueueCursor, window: Window) -> Iterator[Callable[[], None]]:
        """Yield what begins the call that adds a queue's next events, if there are any."""
        at_once = BATCHES_AT_ONCE * self._settings.flush_at
        plan = window.plan(number, cursor.done, cursor.offsets, at_once, BYTES_AT_ONCE)
        if not plan.events:
            cursor.done = plan.end
            return
        marks = plan.marks
        if "cas" not in self._rules:
            marks = {tenure: (1 << 52, to) for tenure, (_, to) in marks.items()}
        freed = tuple(cursor.freed)
        offsets = {tenure: to for tenure, (_, to) in marks.items()}
        call = partial(cursor.add, self._epoch, self._jobs_of(plan), marks, freed, self._term)
        yield partial(self._begin, cursor, "add", call, window=window, end=plan.end, offsets=offsets, freed=freed)

    @property
    def _term(self) -> int:
        return int(self._ring.words[at.H_TERM]) if "term" in self._rules else 0

    def _jobs_of(self, plan: Plan) -> list[NewJob]:
        settings, count = self._settings, self._settings.lanes_in_use
        max_bytes = min(settings.max_batch_bytes, settings.lane_bytes)
        key, sent_at = settings.current_write_key, iso_ms(self._clock.time_ms())
        jobs: list[NewJob] = []
        for part in lanes.parts_of(plan.events, count, settings.flush_at, max_bytes, plan.users):
            text = job.build(b",".join(part.events), key, sent_at, self._epoch)
            jobs.append((text, len(part.events)) if count == 1 else (text, len(part.events), f"{part.lane}/{count}"))
        return jobs

    # answers

    def _wait(self, deadline_s: float) -> bool:
        """Wait for a call that has not been under way for long. Return False if there is none."""
        now_s = self._clock.monotonic_s()
        begun = [cursor.under_way.begun_s for cursor in self._cursors.values() if cursor.under_way]
        wait_s = min(max(begun, default=float("-inf")) + PATIENCE_S, deadline_s) - now_s
        if wait_s <= 0 or (ended := self._calls.next(wait_s)) is None:
            return False
        self._end(ended.owner, ended.result)
        self._take_answers()
        return True

    def _wait_for_all(self) -> None:
        """Wait for each call that has not been under way for long."""
        while self._wait(float("inf")):
            pass

    def _take_answers(self) -> None:
        while ended := self._calls.next(0):
            self._end(ended.owner, ended.result)

    def _end(self, cursor: QueueCursor, result: Any) -> None:
        """Note what a call has done."""
        call, cursor.under_way = cursor.under_way, None
        assert call is not None
        words, now_s = self._ring.words, self._clock.monotonic_s()
        if isinstance(result, QueueSealed):
            self._is_sealed = self._is_sealed or cursor in self._queues
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
            if not isinstance(result, QueueUnavailable):
                raise result
            cursor.failed(result, now_s, OTHER_PLANE_S if isinstance(result, AnotherDataPlane) else 0.0)
        else:
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
            cursor.is_fenced = True
            cursor.is_final = cursor.is_final or call.is_past
        elif call.kind == "add":
            cursor.offsets.update(call.offsets)
            if call.window is self._window:
                cursor.done = max(cursor.done, call.end)
        elif call.kind == "count":
            cursor.note_counts(result)
        elif call.kind == "restore":
            cursor.before = None
            cursor.fenced_s = float("-inf")  # Redis may have forgotten the flusher, too

    def _adopt(self, found: Route) -> None:
        """Use a route. The queues of earlier generations must be sealed, and read, before anything is planned."""
        if self._route is not None and self._route.is_ahead_of(found):
            logger.error("redis has forgotten the route to the queues, storing it again")
            call = partial(route.store, self._home.queue, self._settings, found, self._route)
            self._begin(self._home, "route", call)
            return
        self._reads_route = False
        if self._route is not None and found.text == self._route.text:
            if self._is_sealed:  # a later route is stored before a queue is sealed
                self._reads_route = True
                trouble = QueueUnavailable(self._home.queue.place, UNROUTED, answered=True)
                self._home.failed(trouble, self._clock.monotonic_s())
            return
        self._route, self._is_sealed, self._window = found, False, None
        *past, current = found.living
        self._housekeeping.seconds = CHANGING_S if past else ROUTE_S
        self.past = [(each.number, [self._cursor(place) for place in each.queues]) for each in past]
        self._queues = [self._cursor(place) for place in current.queues]
        # The queues of retired generations are only counted.
        counted = found.counted(self._ring.words[at.H_CREATED_MS])
        used = {self._home, *(self._cursor(place) for each in counted for place in each.queues)}
        self._cursors = {place: cursor for place, cursor in self._cursors.items() if cursor in used}
        if len(current.queues) != self._settings.queues:
            said = "the setting queues differs from the number of queues in use, which counts queues=%d in_use=%d"
            logger.warning(said, self._settings.queues, len(current.queues))


def _note_no_thread(error: Exception) -> None:
    logger.warning("a queue has no thread, other queues wait for its calls error=%s", error)
