"""The watch over events until they have left the ring for good, for the callbacks that wait for that."""

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
    """The place of an event: it is one of the slot's events after ``before`` and up to ``after``, usually alone."""

    ring: Ring
    slot: int
    before: int
    after: int


class _Waiting(msgspec.Struct, gc=False):
    place: Place
    callback: Callback
    message: Callable[[], object]


class Watch:
    """The watch over one slot. Failures of the slot's earlier producers lie before every place that is watched."""

    def __init__(self, ring: Ring, slot: int) -> None:
        self._ring = ring
        self._slot = slot
        self._read = failures.oldest(ring)
        self._failures: list[Failure] = []
        self._waiting: deque[_Waiting] = deque()
        self._polled = False

    def add(self, place: Place, callback: Callback, message: Callable[[], object]) -> None:
        """Call ``callback`` once the event at this place has left the ring."""
        self._waiting.append(_Waiting(place, callback, message))
        if not self._polled:
            self._polled = True
            callbacks.watch(self._poll)  # two threads may both do this at one moment, which is harmless

    def _poll(self) -> bool:
        """Run the callbacks of events that have left; return True if no callback is left."""
        ring, waiting = self._ring, self._waiting
        drained = ring.words[ring.layout.drained + self._slot]
        fence()  # Order: read DRAINED, then the failures, because the flusher records failures before it moves DRAINED
        found, self._read, whole = failures.since(ring, self._read)
        self._failures += [failure for failure in found if failure.slot == self._slot]
        while waiting and waiting[0].place.after <= drained:
            one = waiting.popleft()
            error = None if whole and not self._has_failed(one.place) else DeliveryError(FAILED)
            callbacks.call(one.callback, error, one.message())
        self._failures = [failure for failure in self._failures if failure.end > drained]
        if not waiting:
            self._polled = False
            if not waiting:  # Order: checked again after _polled is False, because an add in between saw it still True
                return True
            self._polled = True
        return False

    def _has_failed(self, place: Place) -> bool:
        return any(failure.first < place.after and place.before < failure.end for failure in self._failures)
