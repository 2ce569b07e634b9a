"""The transport for ``sync_mode``: this process delivers an event within the call.

It is meant for functions and scripts that end at once.
"""

from __future__ import annotations

from _thread import RLock
from typing import TYPE_CHECKING

import msgspec

from rudderpipe import log_text
from rudderpipe.errors import DeliveryError, EventTooLarge, RudderpipeError
from rudderpipe.process import fork
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import ThrottledLog
from rudderpipe.settings import EVENT_LIMIT_BYTES, Settings
from rudderpipe.transports.base import Encoded, LocalTransport
from rudderpipe.transports.callbacks import Callback, callbacks

if TYPE_CHECKING:
    from rudderpipe.delivery.data_plane import DataPlane
    from rudderpipe.delivery.dispatcher import Decision


class _Connection:
    """The connection of one process, and whether a call is using it."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.busy = False
        self.plane: DataPlane | None = None


class SyncTransport(LocalTransport):
    """The transport that delivers by the sender's rules: ``timeout_s`` per attempt, ``max_attempts``, the same waits.

    A failed event is refused and not kept. Threads wait for each other. A call from a signal handler in the middle of
    another call uses a separate connection.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        super().__init__()
        self._settings = settings
        self._clock = clock
        self._own = fork.Local(_Connection)
        for line in settings.ignored:
            log_text.logger().warning("%s", line)

    def _new_plane(self) -> DataPlane:
        # Imported here, because only sync_mode needs the HTTP modules in an application's process.
        from rudderpipe.delivery.data_plane import DataPlane

        return DataPlane(self._settings)

    def shut(self, user: object = None) -> None:  # noqa: ARG002  # it has one user
        """Close the connection; a later event would open another one."""
        own = self._own.value
        with own.lock:
            plane, own.plane = own.plane, None
            if plane is not None:
                plane.close()

    def put(
        self, data: Encoded, callback: Callback | None = None, on_error: Callback | None = None
    ) -> RudderpipeError | None:
        """Deliver the event; return None, or ``DeliveryError`` or ``EventTooLarge`` if it was not delivered."""
        own = self._own.value
        if len(data) > EVENT_LIMIT_BYTES:
            return self._failed("too_large", EventTooLarge(len(data), EVENT_LIMIT_BYTES), callback)
        with own.lock:
            nested, own.busy = own.busy, True
            try:
                error = self._deliver_nested(data) if nested else self._deliver_over(own, data)
            finally:
                own.busy = nested
        if error is not None:
            if on_error is not None:
                callbacks.call(on_error, error, [msgspec.json.decode(data)])
            return self._failed("failed", error, callback)
        self._counts["accepted"] += 1
        if callback is not None:
            callbacks.call(callback, None, msgspec.json.decode(data))
        return None

    def _deliver_over(self, own: _Connection, data: Encoded) -> DeliveryError | None:
        if own.plane is None:
            own.plane = self._new_plane()
        return self._deliver(own.plane, data)

    def _deliver_nested(self, data: Encoded) -> DeliveryError | None:
        plane = self._new_plane()
        try:
            return self._deliver(plane, data)
        finally:
            plane.close()

    def _deliver(self, plane: DataPlane, data: Encoded) -> DeliveryError | None:
        from rudderpipe.delivery.dispatcher import Batch, Dispatcher

        dispatcher, event = Dispatcher(plane, self._settings, self._clock), _OneEvent(self._log, self._clock)
        while not event.is_settled:
            batch = Batch([msgspec.Raw(data)], len(data), self._settings.current_write_key, attempts=event.attempts)
            dispatcher.run([batch], event)
        return event.error

    def _failed(self, reason: str, error: RudderpipeError, callback: Callback | None) -> RudderpipeError:
        self.refuse(reason, error, callback)
        return error


class _OneEvent:
    """The dispatcher's store of one event, which waits within the call for the next attempt."""

    def __init__(self, log: ThrottledLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self.attempts = 0
        self.is_settled = False
        self.error: DeliveryError | None = None
        """The error with which the event failed; None while it has not failed."""

    def delivered(self, decision: Decision) -> None:  # noqa: ARG002  # no other event was in the request
        self.is_settled = True

    def retry(self, decision: Decision) -> None:
        self.attempts = decision.attempts
        said = "attempt failed attempt=%d next_in_s=%g %s"
        self._log.warning("attempt", said, self.attempts, decision.wait_s, decision.outcome.reason)
        self._clock.sleep(decision.wait_s)

    def failed(self, decision: Decision) -> None:
        self.is_settled, self.error = True, DeliveryError(decision.reason, decision.outcome.status)

    blocked = failed  # a call cannot wait until an operator repairs the host
    stopped = split = fewer = failed  # never for one event: nothing stops the call, and it cannot be divided
