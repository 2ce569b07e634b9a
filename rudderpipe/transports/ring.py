"""The transport into the ring: it appends events, handles a full ring, and checks that a flusher drains the ring."""

from __future__ import annotations

import atexit
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple
from weakref import WeakSet, WeakValueDictionary

import msgspec

from rudderpipe import log_text
from rudderpipe.errors import EventRefused, EventTooLarge, RingFull, RingUnavailable, RudderpipeError
from rudderpipe.process import fork
from rudderpipe.process.clock import Clock
from rudderpipe.process.handlers import let_through
from rudderpipe.process.log_limit import ThrottledLog
from rudderpipe.ring import counters, flusher_lock, served_settings
from rudderpipe.ring import layout as at
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.ring import Ring, find, open_ring
from rudderpipe.ring.slot import ENTER_TIMEOUT_S, Position
from rudderpipe.settings import Settings
from rudderpipe.transports.autostart import Autostart
from rudderpipe.transports.base import Encoded, FastPath
from rudderpipe.transports.callbacks import Callback, callbacks
from rudderpipe.transports.confirms import Place, Watch
from rudderpipe.transports.failure_log import FailureLog
from rudderpipe.transports.flush import Done, Flush, Stuck, Until
from rudderpipe.transports.ring_flush import RingFlush, Since

UNDRAINED_S = 30.0
BLOCK_STEP_S = 0.002

logger = log_text.logger()


class Waiting(NamedTuple):
    """The number of this process's events in the ring, and whether the ring has reached its cap."""

    events: int = 0
    is_full: bool = False


class _Still:
    """A ring with waiting events from which no event has left since ``since_ms``."""

    def __init__(self, mark: tuple[int, int], since_ms: int) -> None:
        """Store ``mark``, which changes when an event leaves the ring or another ring takes its place."""
        self.mark = mark
        self.since_ms = since_ms
        self.told = False


class _Own:
    """What one process knows about the events that it has sent."""

    def __init__(self) -> None:
        self.watches: dict[tuple[int, int], Watch] = {}
        self.since: Since | None = None
        self.still: _Still | None = None
        self.refused: Counter[str] = Counter()
        self.accepted_before = 0
        """The number of events that were accepted before ``shut``."""


class Pipe:
    """The producer's end of a pipe, which the settings name."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.users: WeakSet[object] = WeakSet()
        """Those who share the pipe, without those who were dropped."""
        self.settings = settings
        self._clock = clock
        self._log = ThrottledLog(logger, clock)
        log = self._log
        self._autostart = fork.Local(lambda: Autostart(settings, clock, log))
        self._own = fork.Local(_Own)
        self._failures = FailureLog(self._log)
        self._compared: tuple[int, int] | None = None
        self._differing: list[str] = []
        """The differing settings that were logged; a forked child keeps them, so that it does not log them again."""
        self.producer = Producer(self._open_ring, self._look_around, clock, self._tell_large)
        _all.add(self)

    def __del__(self) -> None:
        """Release the slot if the last client was dropped without ``shutdown``.

        Otherwise the slot would stay taken until this process ends, and a program that makes a client for each request
        would use up all slots.
        """
        try:
            self.producer.abandon()
        except Exception:  # noqa: BLE001, S110  # the interpreter is ending, or the constructor failed
            pass

    @staticmethod
    def _since_last(own: _Own, ring: Ring) -> Since:
        if own.since is None or own.since.ring is not ring:
            own.since = Since(ring)
        return own.since

    def _open_ring(self) -> Ring:
        return open_ring(self.settings, self._clock, wait_s=ENTER_TIMEOUT_S)

    def fast_path(self) -> FastPath | None:
        """Return the functions that append to the ring directly."""
        return FastPath(self.producer.append, self.producer.append_chunk, self.refusal)

    def put(
        self, data: Encoded, callback: Callback | None = None, on_error: Callback | None = None
    ) -> RudderpipeError | None:
        """Append an event; ``callback`` is called when it has left the ring for good, or with the error if refused."""
        if callback is None and on_error is None:
            reason = self.producer.append(data)
            return None if reason is None else self.refusal(reason, data)
        reason, before, after = self.producer.append_placed(data)
        error = None if reason is None else self.refusal(reason, data)
        if error is None:
            after = after if reason is None else self.producer.slot.position()
            self._watch(before, after, callback, on_error, data)
        elif callback is not None:
            callbacks.call(callback, error, msgspec.json.decode(data))
        return error

    def _watch(
        self,
        before: Position | None,
        after: Position | None,
        callback: Callback | None,
        on_error: Callback | None,
        data: Encoded,
    ) -> None:
        assert after is not None
        ring, slot, end = after.ring, after.slot, after.end
        is_same = before is not None and before.ring is ring and before.slot == slot
        start = before.end if before is not None and is_same and before.end < end else end - 1
        key = ring.segment.epoch, slot
        watches = self._own.value.watches
        watch = watches.get(key)
        if watch is None:
            if len(watches) > 1:  # one slot is for calls, one for calls from within calls; others are outdated
                watches.clear()
            watch = watches[key] = Watch(ring, slot)
        watch.add(Place(ring, slot, start, end), callback, on_error, lambda: msgspec.json.decode(data))

    def counts(self) -> Mapping[str, int]:
        """Return the number of this process's events: accepted since it took its slots, and refused by reason.

        Events that were refused while this process had no slot are included.
        """
        own = self._own.value
        accepted = own.accepted_before + self._accepted()
        return {"accepted": accepted, **own.refused} if accepted or own.refused else {}

    def _accepted(self) -> int:
        positions = self.producer.positions()
        return sum(counters.read(each.ring).producers[each.slot].accepted for each in positions)

    def waiting(self) -> Waiting:
        """Return how many events of this process are in the ring; the cap holds for all processes of the host."""
        positions = self.producer.positions()
        if not positions:
            return Waiting()
        read = {id(each.ring): counters.read(each.ring) for each in positions}
        events = sum(read[id(each.ring)].producers[each.slot].in_ring for each in positions)
        return Waiting(events, any(each.in_ring >= each.cap for each in read.values()))

    def _count_refused(self, reason: str) -> None:
        self._own.value.refused[reason] += 1
        self.producer.count_refused(reason)

    def refuse(self, reason: str, error: Exception | None, callback: Callback | None = None) -> None:
        """Count an event that is refused without ``put``; log ``error``, as ``LocalTransport.refuse``."""
        self._count_refused(reason)
        if error is not None:
            self._log.warning(reason, "event refused: %s", error)
        if callback is not None:
            callbacks.call(callback, error, {})

    def refusal(self, reason: str, data: Encoded) -> RudderpipeError | None:
        """Count and log an event that the ring did not take, and return the error.

        With ``when_full="block"``, wait for room first, and return None if the ring then took the event.
        """
        if reason == "too_large":
            error = EventTooLarge(len(data), at.EVENT_MAX_BYTES)
            self.refuse(reason, error)
            return error
        # A call from within a call does not wait, because the outer call may hold the claim lock meanwhile.
        if self.settings.when_full == "block" and reason != "closed" and not self.producer.is_in_a_call:
            left = self._block(data)
            if left is None:
                return None
            reason = left
        self._count_refused(reason)
        trouble = self.producer.trouble if reason in ("ring", "no_slot") else None
        if trouble is None:
            self._log.warning(reason, "events refused")
        else:
            self._log.warning(reason, "events refused: %s", trouble)
        if trouble is not None:
            return RingUnavailable(*trouble.args)  # a copy, because the caller may raise it
        return RingFull() if reason == "full" else EventRefused(reason)

    def _block(self, data: Encoded) -> str | None:
        deadline_s = self._clock.monotonic_s() + self.settings.block_timeout_ms / 1000
        while True:
            self._clock.sleep(BLOCK_STEP_S)
            reason = self.producer.append(data)
            if reason is None or self._clock.monotonic_s() >= deadline_s:
                return reason

    def _look_around(self, ring: Ring, *, sure: bool = False) -> None:
        """Check that a flusher runs, and start one if this process may. Never raises, because it runs within a call."""
        try:
            own = self._own.value
            self._since_last(own, ring)
            self._autostart.value.look(ring, sure=sure)
            self._tell_undrained(own, ring)
            self._compare_settings(ring)
            self._failures.look(ring)
        except Exception as error:  # noqa: BLE001  # no error here matters to the event, which has been accepted
            let_through(error)
            self._log.warning("start", "cannot check whether a flusher runs: %s", error)

    def _tell_large(self, size_bytes: int) -> None:
        self._log.warning(
            "large", "an event has %s bytes, more than %s; keep events small", f"{size_bytes:,}", f"{at.LARGE_BYTES:,}"
        )

    def _tell_undrained(self, own: _Own, ring: Ring) -> None:
        """Log once that no event has left the ring for ``UNDRAINED_S`` while events of this process waited in it."""
        now_ms = self._clock.monotonic_ms()
        age_ms = now_ms - ring.words[at.H_HEARTBEAT_MS]
        is_fresh = 0 <= age_ms < flusher_lock.FRESH_MS  # the usual case, and the cheap test
        position = self.producer.slot.position()
        if is_fresh or position is None or ring.words[ring.layout.drained + position.slot] >= position.end:
            own.still = None
            return
        # Only events that leave the ring decide, because a busy flusher may drain without a recent heartbeat.
        mark = ring.words[at.H_EPOCH], ring.drained()
        if own.still is None or own.still.mark != mark:
            own.still = _Still(mark, now_ms)
        still_s = (now_ms - own.still.since_ms) / 1000
        if still_s < UNDRAINED_S or own.still.told:
            return
        own.still.told = True
        logger.error(
            "no flusher has drained the ring for %.0f s and events wait in it events=%d ring=%s autostart=%s",
            still_s,
            counters.read(ring).in_ring,
            ring.segment.name,
            self.settings.autostart,
        )

    def _compare_settings(self, ring: Ring) -> None:
        """Log once which settings differ from the flusher's, which the process that started the flusher was given."""
        starts = ring.words[at.H_STARTS]
        if not starts or (flusher := (ring.segment.epoch, starts)) == self._compared:
            return
        differing = served_settings.differing(ring, self.settings)
        if differing is None:
            return
        self._compared = flusher
        if differing and differing != self._differing:
            logger.warning(
                "the flusher of this pipe uses other settings than this client: %s; give all processes the same "
                "settings, and restart those that have others ring=%s",
                ", ".join(differing),
                ring.segment.name,
            )
        self._differing = differing

    def warm_up(self) -> None:
        """Create or open the ring, claim a slot, and start a flusher if this process may; never raises."""
        ring = self.producer.enter()
        if ring is not None:
            self._look_around(ring)

    def flush(self, until: Until = "queued") -> Flush:
        """Make the flusher drain every event that the ring holds now.

        A drained event is in Redis; in direct mode it is delivered or failed. The flush is stuck if the ring cannot be
        created, if this process cannot use it, or if it can have no flusher.
        """
        try:
            asked = self.producer.ring or find(self.settings)
            if asked is not None or self.producer.trouble is not None:
                asked = self.producer.ask_flush() or asked  # another ring, if the known one had ended
            # With a slot, an earlier trouble is over.
            trouble = None if self.producer.slot.is_taken else self.producer.trouble
        except RingUnavailable as error:
            trouble, asked = error, None
        if trouble is not None:
            self._log.warning("flush", "cannot flush: %s", trouble)
            return Stuck(trouble)
        if asked is None:
            return Done()
        self._look_around(asked, sure=True)  # even an empty ring needs a flusher, which ends the ring
        prevented = self._autostart.value.prevented(asked)
        if prevented is not None and counters.read(asked).in_ring:
            self._log.warning("flush", "cannot flush: %s", prevented)
            return Stuck(prevented)
        queue = self.settings.redis is not None
        since = self._since_last(self._own.value, asked)
        return RingFlush(since, self.producer, self._look_around, until, self._clock, queue=queue)

    def look_once_more(self) -> None:
        """Move the events of a removed ring, and log the events that have failed."""
        self.producer.look()
        ring = self.producer.ring
        if ring is not None:
            self._failures.look(ring)

    def shut(self, user: object = None) -> None:
        """Release the slot, unless another user than ``user`` shares the pipe.

        Later events are refused, and the flusher drains the ring without this process.
        """
        if user is not None:
            self.users.discard(user)
        if self.users:
            return
        if _open.get(self.settings) is self:
            del _open[self.settings]
        own = self._own.value
        own.accepted_before += self._accepted()
        self.producer.leave()
        self._log.say_rest()
        # Each of these keeps the ring and its descriptors.
        own.since = None
        own.watches.clear()
        self._autostart.forget()


_all: WeakSet[Pipe] = WeakSet()


@atexit.register
def _look_once_more() -> None:
    """Do at the end of the process what a look at the ring would do in a moment."""
    for pipe in list(_all):
        pipe.look_once_more()


logger = log_text.logger()
_open: WeakValueDictionary[Settings, Pipe] = WeakValueDictionary()


def shared(settings: Settings, clock: Clock, user: object) -> Pipe:
    """Return the pipe of these settings; create it if needed. The ``shut`` of its last living user closes it.

    A second pipe with the same name but other settings of ring or flusher is logged, because both share one ring.
    """
    pipe = _open.get(settings)
    if pipe is None:
        _warn_of_another(settings)
        pipe = _open[settings] = Pipe(settings, clock)
    pipe.users.add(user)
    return pipe


def waiting(settings: Settings) -> Waiting:
    """Return what waits in the ring of the pipe of these settings, as far as this process uses that pipe."""
    pipe = _open.get(settings.for_processes())
    return Waiting() if pipe is None else pipe.waiting()


def _warn_of_another(settings: Settings) -> None:
    for other in [pipe.settings for pipe in _open.values()]:
        if (other.pipe_name, other.runtime_dir) == (settings.pipe_name, settings.runtime_dir):
            names = (*served_settings.NAMES, "ring_bytes", "max_internal_queue_size")
            differing = [name for name in names if getattr(other, name) != getattr(settings, name)]
            if differing:
                logger.warning(
                    "two clients of one pipe differ in %s, but share one ring and one flusher; give them the same "
                    "settings, or a pipe each",
                    ", ".join(differing),
                )
            return
