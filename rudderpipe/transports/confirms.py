"""Which events left the ring for good, for the callbacks that wait for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from rudderpipe.errors import DeliveryError
from rudderpipe.ring import failures
from rudderpipe.ring.failures import Failure
from rudderpipe.ring.fence import fence
from rudderpipe.ring.ring import Ring
from rudderpipe.transports.callbacks import Callback, callbacks

FAILED = "the data plane refused it, or all attempts failed; `rudderpipe failed` shows it and the reason"


class Place(msgspec.Struct, frozen=True):
    """An event's: it is one of those after ``before`` and up to ``after``, mostly the only one."""

    ring: Ring
    slot: int
    before: int
    after: int


class _Waiting(msgspec.Struct, gc=False):
    place: Place
    callback: Callback
    message: Callable[[], object]


class Watch:
    """Over one slot. What its earlier producers had fail lies before any place of ours."""

    def __init__(self, ring: Ring, slot: int) -> None:
        self._ring = ring
        self._slot = slot
        self._read = failures.oldest(ring)
        self._failures: list[Failure] = []
        self._waiting: deque[_Waiting] = deque()
        self._polled = False

    def add(self, place: Place, callback: Callback, message: Callable[[], object]) -> None:
        """Have it called once the event there has left."""
        self._waiting.append(_Waiting(place, callback, message))
        if not self._polled:
            self._polled = True
            callbacks.watch(self._poll)  # by two threads at one moment twice, which does no harm

    def _poll(self) -> bool:
        """Call those whose time has come; True when none is left."""
        ring, waiting = self._ring, self._waiting
        drained = ring.words[ring.layout.drained + self._slot]
        fence()  # Order: DRAINED, then the failures, which were recorded before it moved
        found, self._read, whole = failures.since(ring, self._read)
        self._failures += [failure for failure in found if failure.slot == self._slot]
        while waiting and waiting[0].place.after <= drained:
            one = waiting.popleft()
            error = None if whole and not self._has_failed(one.place) else DeliveryError(FAILED)
            callbacks.call(one.callback, error, one.message())
        self._failures = [failure for failure in self._failures if failure.end > drained]
        if not waiting:
            self._polled = False
            if not waiting:  # Order: asked again after that; who added one in between saw that it is polled
                return True
            self._polled = True
        return False

    def _has_failed(self, place: Place) -> bool:
        return any(failure.first < place.after and place.before < failure.end for failure in self._failures)
