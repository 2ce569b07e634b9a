"""Where the flusher puts batches; the queue is one such place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import Raw

from rudderpipe import log_text
from rudderpipe.errors import QueueBehind, QueueUnavailable
from rudderpipe.flusher.dead_letters import DeadLetters, damaged_record_of
from rudderpipe.process.clock import Clock, iso_ms
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Cut, Mark
from rudderpipe.ring.ring import Ring
from rudderpipe.settings import Settings

_decode_events = msgspec.json.Decoder(list[Raw]).decode
logger = log_text.logger("rudderpipe.flusher")


class Answer(msgspec.Struct, frozen=True):
    """What a sink says to the batches that it was offered; those it has not settled are offered again, in order."""

    settled: Sequence[int] = ()
    """For each of the first batches the counter of the ring under which its events now belong."""
    halve: bool = False
    """The first is to be offered as two halves; only when it holds two events or more."""
    wait_s: float = 0.0
    """How long nothing is to be offered; a flusher that is told to stop meanwhile does not wait for it."""


class Sink(Protocol):
    """Takes batches for good, in order."""

    def known(self) -> dict[int, int]:
        """How far the sink has events of the ring's tenures that failed, as a predecessor may not have said.

        Asked once, before anything is offered.
        """

    def settle(self, cuts: Sequence[Cut], freed: Sequence[int]) -> Answer:
        """Do something about the first of these.

        Raises ``QueueUnavailable``, or ``QueueBehind`` when some were taken before without our knowing.
        """

    def seen_off(self) -> tuple[int, int] | None:
        """Of the ring's events that were handed on: how many have come to an end, and how many of them by failing.

        None where settling is the end. Raises ``QueueUnavailable``.
        """

    def ended(self, ring: Ring) -> None:
        """The ring is empty and gone."""

    def close(self) -> None:
        """Give connections back."""


def events_of(cut: Cut) -> list[Raw]:
    """Return the events of a batch; none when its bytes are not so many JSON values in UTF-8."""
    try:
        cut.data.decode()  # the parser does not look at the encoding of what it passes over
        events = _decode_events(b"[%b]" % cut.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    return events if len(events) == cut.count else []


class Damaged:
    """What becomes of events that are not what a producer wrote: they must not stop those behind them."""

    def __init__(self, dead_letters: DeadLetters, epoch: int, clock: Clock) -> None:
        self._dead_letters = dead_letters
        self._epoch = epoch
        self._clock = clock
        self._last: Mark | None = None
        """Of the event that was kept last: it is met again while Redis is away."""

    def pass_over(self, cut: Cut) -> int:
        """Keep the bytes as a dead letter; the counter under which the events belong."""
        if cut.marks[0] == self._last:
            return at.H_CORRUPT
        kept = "as a dead letter"
        try:
            self._dead_letters.keep(damaged_record_of(cut, self._epoch, self._clock.time_ms()))
        except OSError as error:
            kept = f"no: {error.strerror}"
        logger.error("the ring holds what is no JSON, passing over it events=%d kept=%s", cut.count, kept)
        self._last = cut.marks[0]
        return at.H_CORRUPT


class QueueSink:
    """Every batch becomes a job."""

    def __init__(self, settings: Settings, ring: Ring, dead_letters: DeadLetters, clock: Clock) -> None:
        from rudderpipe.queue import job
        from rudderpipe.queue.queue import Queue
        from rudderpipe.queue.size_limit import Budget

        self._build = job.build
        self._queue = Queue(settings, clock)
        self._budget = Budget(self._queue, settings.max_queue_bytes)
        self._write_key = settings.write_key
        self._ring = ring
        self._clock = clock
        self._damaged = Damaged(dead_letters, ring.segment.epoch, clock)
        self._has_seen_redis = False
        self._lost: int | None = None
        """Events of the ring that Redis had lost at the last look."""
        self._handed: int | None = None
        """Events of the ring that Redis had been given by then."""

    def known(self) -> dict[int, int]:
        """Nothing: Redis says so when the next events are added."""
        return {}

    def settle(self, cuts: Sequence[Cut], freed: Sequence[int]) -> Answer:
        """All or none, in one script; up to a batch that holds damaged events, which is taken apart."""
        epoch, sent_at = self._ring.segment.epoch, iso_ms(self._clock.time_ms())
        marks: dict[int, tuple[int, int]] = {}
        batches: list[tuple[str, int]] = []
        settled: list[int] = []
        for cut in cuts:
            if events_of(cut):
                batches.append((self._build(cut.data, self._write_key, sent_at, epoch), cut.count))
                settled.append(at.H_QUEUED)
            elif cut.count == 1:
                settled.append(self._damaged.pass_over(cut))
            else:
                break
        if not settled:
            return Answer(halve=True)
        for cut in cuts[: len(settled)]:
            for mark in cut.marks:
                start, _ = marks.get(mark.sequence, (mark.start, 0))
                marks[mark.sequence] = (start, mark.end)
        self._budget.check(sum(len(data) for data, _ in batches))
        words = self._ring.words
        self._watch_eviction()
        try:
            self._queue.add(epoch, batches, marks, freed, words[at.H_TERM])
        except QueueUnavailable as error:
            # Order: before the next call. Redis may get this one after that one, and must refuse it then.
            if not error.answered:
                at.bump(words, at.H_TERM)
            raise
        except QueueBehind as behind:
            # Redis knows a later term than the ring's word: never an equal one, a call of that term may be under way.
            if later := behind.read.get(0, 0):
                words[at.H_TERM] = max(words[at.H_TERM], later) + 1
            raise
        return Answer(settled)

    def _watch_eviction(self) -> None:
        """Say once that Redis may throw away what it is given."""
        if not self._has_seen_redis:
            if trouble := self._queue.eviction():
                logger.warning("redis %s must be set", trouble)
            self._has_seen_redis = True

    def seen_off(self) -> tuple[int, int] | None:
        """As Redis has counted them; another SDK's worker counts nothing, and is seen once nothing waits."""
        words = self._ring.words
        # The smaller of two words that are the same unless one is damaged.
        epoch, handed = self._ring.segment.epoch, min(words[at.H_QUEUED], self._ring.drained())
        counts = self._queue.counts(epoch)
        lost = counts.events_lost if self._lost is None else self._lost
        if counts.events_gone < handed:
            ended = max(0, words[at.H_SEEN_OFF] - words[at.H_SEEN_FAILED])
            if missing := self._queue.restore(epoch, handed, ended, max(0, handed - (self._handed or handed))):
                logger.error("redis does not know of all the events that it had taken missing=%d", missing)
            counts = self._queue.counts(epoch)
        self._lost, self._handed = counts.events_lost, handed
        if self._lost > lost:
            logger.error("redis has lost its data, and events that were queued with them events=%d", self._lost - lost)
        return counts.events_gone - counts.events_queued, counts.events_failed + counts.events_lost

    def ended(self, ring: Ring) -> None:
        """Its positions in Redis go with the last of its jobs."""
        self._queue.end_ring(ring.segment.epoch)

    def close(self) -> None:
        """Close the connections."""
        self._queue.close()
