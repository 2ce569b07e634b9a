"""The flusher of one ring. Each cycle reads the ring and hands the batches that are due to the sink."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter

from rudderpipe import log_text
from rudderpipe.errors import AnotherDataPlane, QueueBehind, QueueSealed, QueueUnavailable
from rudderpipe.flusher.acknowledging import ACKNOWLEDGE_S, Acknowledging
from rudderpipe.flusher.counts import FlusherCounts
from rudderpipe.flusher.heartbeat import Heartbeat
from rudderpipe.flusher.queue_sink import Sink
from rudderpipe.process.clock import Clock, Every
from rudderpipe.process.log_limit import RARELY_S, ThrottledLog
from rudderpipe.ring import layout as at
from rudderpipe.ring import memory, reasons, served_settings
from rudderpipe.ring.consumer import Batch, Consumer
from rudderpipe.ring.fence import fence
from rudderpipe.ring.reclaim import Reclaimer
from rudderpipe.ring.ring import OPEN_TIMEOUT_S, Ring
from rudderpipe.settings import Settings

BYTES_AT_ONCE = 4 << 20
HOUSEKEEPING_S = 0.5
SHORT_HOUSEKEEPING_S = 0.02
"""The interval while a producer finds no room or few blocks are free, because dead producers may hold blocks."""
RETRY_MIN_S, RETRY_MAX_S = 0.05, 2.0
OTHER_PLANE_S = 5.0
"""The pause before a queue that has jobs for another data plane is tried again."""
END_PATIENCE_S = 0.01
"""How long the end of a ring waits for the claim lock. Its holder may be stopped, and other rings wait meanwhile."""
ENDING_S = 60.0
"""How long an ended ring waits for a Redis that is away, because Redis would else know its offsets for 30 days."""

logger = log_text.logger("rudderpipe.flusher")


class Flusher:
    """The mover of one ring's events to a sink. Only for the process that holds the ring's flusher lock.

    With ``lingers`` (autostarted) it ends and removes the ring once the ring is empty and has had no producer for
    ``linger_s``. ``look_after`` is called a few times a second, to keep a sender running. ``heartbeat`` goes on while
    the sink waits for a response.
    """

    def __init__(
        self,
        ring: Ring,
        sink: Sink,
        settings: Settings,
        clock: Clock,
        *,
        lingers: bool = False,
        look_after: Callable[[], None] = lambda: None,
        heartbeat: Heartbeat | None = None,
        counts: FlusherCounts | None = None,
        next_sink: Callable[[], Sink] | None = None,
    ) -> None:
        """``next_sink`` returns the sink that takes the place of one that raises ``QueueSealed``."""
        self._next_sink = next_sink
        self._ring = ring
        served_settings.record(ring, settings)
        self._sink = sink
        self._settings = settings
        self._clock = clock
        self._lingers = lingers
        self._look_after = look_after
        self._heartbeat = heartbeat or Heartbeat(clock)
        self._counts = counts or FlusherCounts()
        self._log = ThrottledLog(logger, clock, RARELY_S)
        self._consumer = self._consume()
        self.is_broken = False
        """True after a cycle that an error cut short, because it is not known what it handed out or released."""
        self._reclaimer = Reclaimer(ring)
        self._held: list[Batch] = []
        self._freed: list[int] = []
        self._living = 0
        self._acknowledging = Acknowledging(ring, clock)
        self._starved = self._ring.asked(at.S_STARVED)
        self._is_starved = False
        """True if a producer found no room since the events in the ring last became due."""
        self._forced = False
        """True if all events are due, because a flush was requested or only dead producers are left."""
        self._handed = self._left = 0
        """How many events were ever held, and how many of these are not held any more."""
        self._serving: deque[tuple[int, int]] = deque()
        """Tickets, each with how many events must have left before they are served."""
        self.removed = False
        """True once the ring was removed. It is drained, and another ring takes its place."""
        self._ended = False
        self.closed_s: float | None = None  # when the ring was closed, which the sink must then forget
        self._housekeeping = Every(HOUSEKEEPING_S)
        self._retry_at_s = float("-inf")
        self._retry_s = RETRY_MIN_S
        self._not_before_s = float("-inf")
        """The moment before which nothing is offered to the sink."""
        now_s = clock.monotonic_s()
        self._waiting_since_s = self._busy_at_s = now_s
        self.waiting = 0
        """How many events the last look for due ones left in the ring."""

    def _consume(self) -> Consumer:
        """Return a consumer that begins at the offsets in the ring and in the sink, as that of a new flusher does."""
        consumer = Consumer(self._ring)
        consumer.read_to(self._sink.known(), at.H_FAILED)
        return consumer

    def work(self) -> int:
        """Move the events that are due. Return how many events left the ring."""
        now_s = self._clock.monotonic_s()
        if self.closed_s is not None:
            return 0
        try:
            self._heartbeat.beat(self._ring)
            if self.is_broken:
                if now_s < self._retry_at_s:
                    return 0
                self._begin_again()
            return self._cycle(now_s)
        except (MemoryError, OSError) as error:  # errors of this host, not of an event
            self.is_broken = True
            self._log.error(type(error).__name__, "cannot work on this host now, events stay in the ring, trying again")
            self._wait(now_s)
            return 0

    def _begin_again(self) -> None:
        self._drop_held()
        self._consumer = self._consume()
        at.bump(self._ring.words, at.H_TERM)  # the call that was cut short may be in Redis, or arrive there later
        self._forced = True  # the batches that were handed out were due
        self.is_broken = False

    def _drop_held(self) -> None:
        self._held, self._left = [], self._handed
        self._serving.clear()

    def _replace_sink(self) -> None:
        """Go on with another sink, because events go to other queues now. It begins as that of a new flusher does."""
        assert self._next_sink is not None
        logger.info("events go to other queues from now on ring=%s", self._ring.segment.name)
        self._sink.close()
        self._sink = self._next_sink()
        self._begin_again()

    def _cycle(self, now_s: float) -> int:
        starved, tickets = self._ring.asked(at.S_STARVED), self._ring.asked(at.S_TICKET)
        if starved != self._starved:
            self._starved, self._is_starved = starved, True
        is_short = self._is_starved or self._consumer.free_blocks() < self._ring.layout.blocks // 2
        self._housekeeping.seconds = SHORT_HOUSEKEEPING_S if is_short else HOUSEKEEPING_S
        keeps_house = self._housekeeping.is_due(now_s)
        fence()  # Order: tickets before the events that were appended before each ticket
        # Order: a slow claim is visible by now; a ticket must not be served without its events.
        asked = tickets != self._ring.words[at.H_TICKETS_SERVED]
        self._consumer.refresh(whole=keeps_house or asked)
        self._freed += self._consumer.tidy()
        if keeps_house:
            self._reclaimer.work()
            self._living = self._reclaimer.living()
            self._see_removal()
            self._look_after()
            try:
                self._sink.keep_house()
            except QueueSealed:
                self._replace_sink()
        if self._living:
            self._busy_at_s = now_s
        try:
            self._acknowledging.work(self._sink)
        except QueueSealed:
            self._replace_sink()
        if now_s < max(self._retry_at_s, self._not_before_s):
            return 0
        if len(self._held) <= self._sink.kept:
            self._collect(now_s, tickets)
        if not self._held and not self._sink.has_spilled:
            return 0
        self._busy_at_s = now_s
        return self._commit(now_s)

    def _see_removal(self) -> None:
        linked = self._ring.segment.is_linked()
        if linked and not self._ring.locks.is_current():
            # With a new lock file no process could enter this ring while its users live, so all move to a new ring.
            memory.remove(self._ring.segment.name)
            linked = False
        if not linked and not self.removed:
            name = self._ring.segment.name
            logger.warning(
                "the ring or its lock file was removed, draining it, producers move to a new one ring=%s", name
            )
            self.removed = True

    def _collect(self, now_s: float, tickets: int) -> None:
        events, size = self._consumer.pending()
        self.waiting = events
        if not events:
            self._waiting_since_s = now_s
            self._forced = self._is_starved = False
            self._serve_after(tickets)
            return
        if not self._living:
            self._living = self._reclaimer.living()
        words, settings = self._ring.words, self._settings
        asked = tickets != words[at.H_TICKETS_SERVED]
        self._forced = self._forced or asked or not self._living
        waited_ms = (now_s - self._waiting_since_s) * 1000
        everything = (
            self._forced
            or waited_ms >= settings.flush_interval_ms
            or size >= settings.max_batch_bytes * self._sink.queues
            or self._is_full()
        )
        at_least, at_most = settings.flush_at * self._sink.queues, self._sink.kept + self._sink.batches_at_once
        if not everything and events < at_least:
            return
        taken = 0
        while len(self._held) < at_most and taken < BYTES_AT_ONCE:
            if events < at_least and not everything:
                break
            batch = self._consumer.next_batch(at_least, settings.max_batch_bytes)
            if batch is None:
                break
            self._held.append(batch)
            self._handed += batch.count
            events -= batch.count
            taken += len(batch.data)
        self.waiting = max(0, events)
        self._waiting_since_s = now_s
        self._is_starved = self._is_starved and events > 0
        self._forced = self._forced and events > 0
        if events <= 0:
            self._serve_after(tickets)

    def _is_full(self) -> bool:
        """Return whether all events are due, because the ring takes no more, has few blocks, or refused an event."""
        if self._is_starved or self._ring.room() <= 0:
            return True
        return self._consumer.free_blocks() < self._ring.layout.blocks // 4

    def _serve_after(self, tickets: int) -> None:
        """Serve these tickets once all events that are held now have left the ring."""
        if not self._serving or self._serving[-1][0] != tickets:
            self._serving.append((tickets, self._handed))
        self._serve()

    def _serve(self) -> None:
        while self._serving and self._serving[0][1] <= self._left:
            self._store_served(self._serving.popleft()[0])

    def _store_served(self, tickets: int) -> None:
        """Store that all events that were in the ring when these tickets were counted have left it.

        A new flusher then serves only later tickets.
        """
        if self._ring.words[at.H_TICKETS_SERVED] != tickets:
            self._ring.words[at.H_TICKETS_SERVED] = tickets

    def _commit(self, now_s: float) -> int:
        try:
            answer = self._sink.commit(self._held, self._freed)
        except QueueBehind as behind:
            self._log.warning(
                "behind", "redis has some of these events already, they are not added again error=%s", behind
            )
            self._consumer.read_to(behind.read)
            self._consumer.rewind()
            self._drop_held()
            self._retry_at_s = now_s + RETRY_MIN_S
            return 0
        except QueueSealed:
            self._replace_sink()
            return 0
        except QueueUnavailable as error:
            self._say_down(down=True)
            self._log.warning(
                "queue", "the queue takes nothing now, events stay in the ring, trying again error=%s", error
            )
            self._wait(now_s, OTHER_PLANE_S if isinstance(error, AnotherDataPlane) else 0.0)
            return 0
        # A queue that is away does not matter while no event waits for it: no later commit would say that it is back.
        waits = len(answer.committed) < len(self._held) or self._sink.has_spilled
        is_held_up = answer.trouble is not None and waits
        self._say_down(down=answer.wait_s > 0 or is_held_up)
        if answer.trouble is not None:
            said = "one of the queues takes nothing now, its events stay in the ring, trying again error=%s"
            self._log.warning("one queue", said, answer.trouble)
        elif not answer.wait_s:
            self._log.over("queue", "the queue takes events again")
            self._log.over("one queue", "every queue takes events again")
        self._retry_s = RETRY_MIN_S
        self._not_before_s = self._clock.monotonic_s() + answer.wait_s
        self._freed = []
        moved = answer.replayed
        if answer.reason is not None:
            reasons.record(self._ring, answer.reason)  # Order: before the events leave, because readers look then
        for counter, group in groupby(zip(answer.committed, self._held, strict=False), itemgetter(0)):
            moved += self._consumer.release([batch for _, batch in group], counter)
        for batch in self._held[: len(answer.committed)]:
            self._counts.batch_events.note(batch.count)
            self._counts.bytes += len(batch.data)
        self._left += sum(batch.count for batch in self._held[: len(answer.committed)])
        self._held = self._held[len(answer.committed) :]
        if answer.halve:
            self._held[:1] = self._consumer.halves(self._held[0])
        self._serve()
        return moved

    def _wait(self, now_s: float, at_least_s: float = 0.0) -> None:
        self._retry_at_s = now_s + max(at_least_s, self._retry_s)
        self._retry_s = min(RETRY_MAX_S, self._retry_s * 2)

    def _say_down(self, *, down: bool) -> None:
        words = self._ring.words
        words[at.H_DOWN_MS] = (words[at.H_DOWN_MS] or self._clock.time_ms()) if down else 0

    @property
    def is_due(self) -> bool:
        """True while events must leave the ring now, and the sink takes events as far as it is known."""
        return self.is_broken or (bool(self._held) and not self._ring.words[at.H_DOWN_MS])

    def rest_s(self, now_s: float) -> float:
        """Return how long nothing becomes due unless a producer wakes the flusher.

        0 if the flusher must go on looking. What is only due twice a second is left out, because no sleep is longer.
        """
        if not self._ring.layout.format.wakes:
            return 0.0
        if self._housekeeping.seconds == SHORT_HOUSEKEEPING_S:
            return SHORT_HOUSEKEEPING_S
        if self._acknowledging.is_awaited(now_s):
            return ACKNOWLEDGE_S
        pause_s = max(self._retry_at_s, self._not_before_s) - now_s
        if pause_s > 0:
            return pause_s
        if self.is_broken or self._held or self._sink.has_spilled:
            return 0.0
        if self.waiting:
            return max(0.0, self._waiting_since_s + self._settings.flush_interval_ms / 1000 - now_s)
        return float("inf")

    def note_wake_up(self) -> None:
        """Begin the flush interval now if the ring was empty, because a producer has just ended the sleep."""
        if not self.waiting:
            self._waiting_since_s = self._clock.monotonic_s()

    def finished(self) -> bool:
        """Return True once the ring has ended, because it lingered long enough or was removed and is drained."""
        if self._ended:
            return True
        if self.closed_s is None:
            if self.is_broken or self._living or self._held or self._sink.has_spilled or self._consumer.pending()[0]:
                return False
            idle_s = self._clock.monotonic_s() - self._busy_at_s
            if not self.removed and not (self._lingers and idle_s >= self._settings.linger_s):
                return False
        closed_s = self._clock.monotonic_s() if self.closed_s is None else self.closed_s
        self._ended = self._end(END_PATIENCE_S, closed_s + ENDING_S)
        return self._ended

    def _end(self, wait_s: float, until_s: float) -> bool:
        """Close the ring, and have the sink forget it. Return False if the ring is in use, or to be called again.

        After ``until_s`` of the monotonic clock the ring ends without the sink.
        """
        now_s = self._clock.monotonic_s()
        if self.closed_s is None:
            if not self._ring.try_close(wait_s):
                return False
            self.closed_s, self._retry_at_s, self.removed = now_s, now_s, True
        if now_s < min(until_s, self._retry_at_s):
            return False
        try:
            self._sink.ended(self._ring)
        except QueueUnavailable:
            if now_s < until_s:
                self._wait(now_s)
                return False
            said = "an empty ring ended, redis keeps its offsets until they expire, nothing to do ring=%s"
            logger.warning(said, self._ring.segment.name)
        return True

    def drain(self, deadline_s: float, *, waits: bool = False) -> None:
        """Hand over everything that is committed now, due or not. What is left at ``deadline_s`` stays in the ring.

        Only with ``waits`` the pause that the sink asked for is waited for.
        """
        while not self._ended and (now_s := self._clock.monotonic_s()) < deadline_s:
            if now_s < self._not_before_s and not waits:
                break
            self._forced = True
            done = self.work()
            if not (self.is_broken or self._held or self._sink.has_spilled or self._consumer.pending()[0]):
                break
            if not done:
                self._clock.sleep(0.01)
        left = self._consumer.pending()[0] + sum(batch.count for batch in self._held)
        if left:
            logger.warning("stopping, events stay in the ring for the next flusher events=%d", left)
        elif not self._ended and not self.is_broken and not self._sink.has_spilled:
            self._reclaimer.work()
            self._consumer.refresh()
            self._consumer.tidy()
            self._reclaimer.work()
            while not self._end(OPEN_TIMEOUT_S, deadline_s) and self.closed_s is not None:
                self._clock.sleep(0.01)

    def close(self) -> None:
        """Stop the heartbeat and close the sink. The flusher lock is released when the process ends."""
        self._heartbeat.leave(self._ring)
        self._sink.close()
