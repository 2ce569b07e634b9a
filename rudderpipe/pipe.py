"""One pipe as a client uses it: events in, what happens when it is full, and seeing that somebody drains it."""

from __future__ import annotations

import logging
import time

import msgspec

from rudderpipe import locks, program
from rudderpipe.clock import Clock
from rudderpipe.errors import EventTooLarge, RingFull, RingUnavailable
from rudderpipe.ring import account, keeper
from rudderpipe.ring import layout as at
from rudderpipe.ring.producer import Producer
from rudderpipe.ring.ring import Ring, find, open_ring
from rudderpipe.ring.seat import ENTER_TIMEOUT_S
from rudderpipe.settings import Settings
from rudderpipe.throttle import ThrottledLog

UNDRAINED_S = 30.0
BLOCK_STEP_S = 0.002
FLUSH_STEP_S = 0.005

logger = logging.getLogger("rudderpipe")


class Pipe:
    """The producer's end of the pipe that these settings name."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock
        self._log = ThrottledLog(logger, clock)
        self._told_undrained = False
        self._undrained_since_s: float | None = None
        self.producer = Producer(self._open_ring, self._look_around, clock, self._tell_large)

    def _open_ring(self) -> Ring:
        return open_ring(self.settings, self._clock, wait_s=ENTER_TIMEOUT_S)

    def refused(self, reason: str, data: bytes) -> bool:
        """What ``when_full`` says about an event that the ring did not take; True when it took it in the end.

        Raises ``EventTooLarge``, and ``RingFull`` when ``when_full`` is ``"raise"``.
        """
        if reason == "too_large":
            self.producer.count_refused(reason)
            raise EventTooLarge(len(data), at.EVENT_MAX_BYTES)
        if self.settings.when_full == "block" and reason != "closed":
            left = self._block(data)
            if left is None:
                return True
            reason = left
        self.producer.count_refused(reason)
        trouble = self.producer.trouble if reason in ("ring", "no_slot") else None
        self._log.warning(reason, f"events refused: {trouble}" if trouble else "events refused")
        if self.settings.when_full == "raise":
            raise trouble or RingFull(reason)
        return False

    def _block(self, data: bytes) -> str | None:
        deadline_s = self._clock.monotonic_s() + self.settings.block_timeout_ms / 1000
        while True:
            self._clock.sleep(BLOCK_STEP_S)
            reason = self.producer.append(data)
            if reason is None or self._clock.monotonic_s() >= deadline_s:
                return reason

    def _look_around(self, ring: Ring, *, sure: bool = False) -> None:
        """See that there is a flusher, and start one where that is ours to do. Never raises: it runs within a call."""
        try:
            program.reap()
            if self.settings.autostart and keeper.may_start(ring, self._clock, sure=sure):
                self._start_flusher(ring)
            self._tell_undrained(ring)
        except Exception as error:  # noqa: BLE001  # whatever it is, the event has been accepted
            self._log.warning("start", f"cannot see whether there is a flusher: {error}")

    def _start_flusher(self, ring: Ring) -> None:
        try:
            log = locks.log_file(self.settings)
            payload = msgspec.json.encode(self.settings)
            program.start_detached("rudderpipe.flusher", payload, "--log", str(log), log=log)
        except Exception as error:  # noqa: BLE001  # gevent's Popen, too, refuses in some threads
            keeper.start_failed(ring)
            self._log.warning("start", f"the flusher cannot be started: {error}")

    def _tell_large(self, size_bytes: int) -> None:
        self._log.warning("large", f"an event of {size_bytes:,} bytes, over {at.LARGE_BYTES:,}: keep events small")

    def _tell_undrained(self, ring: Ring) -> None:
        """Say once that events have been accepted for half a minute while nobody took them."""
        now_s = self._clock.monotonic_s()
        age_ms = self._clock.time_ms() - ring.words[at.H_HEARTBEAT_MS]
        if self._told_undrained or age_ms < keeper.FRESH_MS:
            self._undrained_since_s = None
            return
        since_s = self._undrained_since_s = now_s if self._undrained_since_s is None else self._undrained_since_s
        waiting = account.read(ring).in_ring
        if now_s - since_s >= UNDRAINED_S and waiting:
            self._told_undrained = True
            logger.error(
                "no flusher has drained the ring for %.0f s: events wait in it events=%d ring=%s autostart=%s",
                now_s - since_s,
                waiting,
                ring.segment.name,
                self.settings.autostart,
            )

    def flush(self, timeout_s: float) -> bool:
        """Have everything that the pipe holds now taken out of the ring, and wait for it; False when it took longer.

        Out of the ring means: in Redis, or in direct mode delivered or given up.
        """
        ring = self.producer.ring
        if ring is None:
            try:
                ring = find(self.settings)
            except RingUnavailable as error:
                self._log.warning("ring", f"cannot flush: {error}")
                return False
            if ring is None:
                return True
        deadline_s = self._clock.monotonic_s() + timeout_s
        targets = account.accepted_by_slot(ring)
        asked = self.producer.ask_flush()
        if asked is not None and asked is not ring:
            ring, targets = asked, account.accepted_by_slot(asked)  # the one we knew had ended
        self._look_around(ring, sure=True)  # an empty ring, too, needs somebody who ends it
        while True:
            drained = account.drained_by_slot(ring)
            if all(drained.get(slot, 0) >= target for slot, target in targets.items()):
                return True
            self._look_around(ring)
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                return False
            time.sleep(min(FLUSH_STEP_S, left_s))

    def shut(self) -> None:
        """Give the slot up: later events are refused, and what is in the ring is drained without us."""
        self.producer.leave()
