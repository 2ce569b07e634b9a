"""The watch over events until they have left the ring for good, for the callbacks that wait for that."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from rudderpipe.errors import DeliveryError
from rudderpipe.ring import failures, reasons
from rudderpipe.ring.failures import Failure
from rudderpipe.ring.fence import fence
from rudderpipe.ring.ring import Ring
from rudderpipe.transports.callbacks import Callback, callbacks

UNKNOWN = "the data plane refused it, or all attempts failed; `rudderpipe failed` shows it and the reason"


class Place(msgspec.Struct, frozen=True):
    """The place of an event: it is one of the slot's events after ``before`` and up to ``after``, usually alone."""

    ring: Ring
    slot: int
    before: int
    after: int


class _Waiting(msgspec.Struct, gc=False):
    place: Place
    callback: Callback | None
    on_error: Callback | None
    message: Callable[[], object]


class _Failed(msgspec.Struct):
    """The events that failed for one reason, for one ``on_error``."""

    on_error: Callback
    error: DeliveryError
    messages: list[object]


class Watch:
    """The watch over one slot. Failures of the slot's earlier producers lie before every place that is watched."""

    def __init__(self, ring: Ring, slot: int) -> None:
        self._ring = ring
        self._slot = slot
        self._read = failures.oldest(ring)
        self._failures: dict[int, Failure] = {}
        """The failures of the slot by their numbers, as long as an event that they concern may wait."""
        self._waiting: deque[_Waiting] = deque()
        self._polled = False

    def add(
        self, place: Place, callback: Callback | None, on_error: Callback | None, message: Callable[[], object]
    ) -> None:
        """Call ``callback`` once the event at this place has left the ring, and ``on_error`` if it has failed."""
        self._waiting.append(_Waiting(place, callback, on_error, message))
        if not self._polled:
            self._polled = True
            callbacks.watch(self._poll)  # two threads may both do this at one moment, which is harmless

    def _poll(self) -> bool:
        """Run the callbacks of events that have left; return True if no callback is left."""
        ring, waiting = self._ring, self._waiting
        drained = ring.words[ring.layout.drained + self._slot]
        fence()  # Order: read DRAINED, then the failures, because the flusher records failures before it moves DRAINED
        found, self._read, whole = failures.since(ring, self._read)
        first = self._read - len(found)
        self._failures |= {first + n: failure for n, failure in enumerate(found) if failure.slot == self._slot}
        errors: dict[int | None, DeliveryError] = {}
        failed: dict[tuple[int, int | None], _Failed] = {}
        while waiting and waiting[0].place.after <= drained:
            one = waiting.popleft()
            number, error = self._failure_of(one.place), None
            if number is not None or not whole:  # if failures were overwritten, this may have been one of them
                if number not in errors:
                    errors[number] = self._error(number)
                error = errors[number]
                if one.on_error is not None:
                    group = failed.setdefault((id(one.on_error), number), _Failed(one.on_error, error, []))
                    group.messages.append(one.message())
            if one.callback is not None:
                callbacks.call(one.callback, error, one.message())
        for each in failed.values():
            callbacks.call(each.on_error, each.error, each.messages)
        self._failures = {number: failure for number, failure in self._failures.items() if failure.end > drained}
        if not waiting:
            self._polled = False
            if not waiting:  # Order: checked again after _polled is False, because an add in between saw it still True
                return True
            self._polled = True
        return False

    def _failure_of(self, place: Place) -> int | None:
        """Return the number of the failure of the event at this place; None if the event has not failed."""
        for number, failure in self._failures.items():
            if failure.first < place.after and place.before < failure.end:
                return number
        return None

    def _error(self, number: int | None) -> DeliveryError:
        reason = None if number is None else reasons.of(self._ring, number)
        return DeliveryError(UNKNOWN) if reason is None else DeliveryError(reason.text, reason.status)
