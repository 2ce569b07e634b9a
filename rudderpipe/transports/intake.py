"""The way of a client's calls: messages are made, shaped and counted, and passed to the transport in use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakSet

import msgspec

from rudderpipe import log_text
from rudderpipe.errors import (
    AnotherDataPlane,
    DeliveryError,
    EventError,
    EventRefused,
    EventTooLarge,
    RingUnavailable,
    RudderpipeError,
    SettingsError,
)
from rudderpipe.messages.defaults import Defaults
from rudderpipe.messages.processors import Shaper
from rudderpipe.process import unix
from rudderpipe.process.clock import Clock
from rudderpipe.process.handlers import let_through
from rudderpipe.process.log_limit import ThrottledLog
from rudderpipe.settings import EVENT_LIMIT_BYTES, LOG_LEVELS, Settings
from rudderpipe.transports.base import Encoded, NullTransport, Transport
from rudderpipe.transports.callbacks import Callback, callbacks
from rudderpipe.transports.flush import Flush, Stuck, Until
from rudderpipe.transports.sending import CHUNK_EVENTS, Sending
from rudderpipe.types import Sent

ErrorHandler = Callable[[Exception, list[dict[str, Any]]], Any]

HOST_ERRORS = (OSError, MemoryError, RingUnavailable)
"""Errors of the host, which neither the caller nor the event caused."""

logger = log_text.logger()
_intakes: WeakSet[Intake] = WeakSet()
_diverted: Transport | None = None


class Intake:
    """The slow path of every call: ``call`` makes a message, ``put`` shapes it, and the transport takes it.

    While ``is_fast`` is True, a caller that has an event's JSON may use the fast path instead: it calls ``append``. If
    ``append`` returns a reason, the caller calls ``refused`` with that reason.
    """

    settings: Settings

    def __init__(self, clock: Clock, defaults: Defaults, shaper: Shaper | None, on_error: ErrorHandler | None) -> None:
        self._clock = clock
        self.defaults = defaults
        self.shaper = shaper
        self._on_error = on_error
        self._log = ThrottledLog(logger, clock)
        self.is_shut = False

    def use(self, settings: Settings) -> None:
        """Send events to the destination in these settings.

        Raises ``SettingsError``, or ``RingUnavailable`` if the host has no memory or descriptor left.
        """
        settings.require("write_key", "data_plane_url")
        if settings.log_level is not None:
            logger.setLevel(LOG_LEVELS[settings.log_level])
        self.settings = settings
        self.defaults.use_trace(is_used=settings.trace_context)
        self._own = self._make_transport(settings)
        self.route()
        _intakes.add(self)

    def _make_transport(self, settings: Settings) -> Transport:
        if not settings.enable:
            return NullTransport()
        try:
            if settings.sync_mode:
                from rudderpipe.transports.sync import SyncTransport

                return SyncTransport(settings, self._clock)
            lacking = unix.lacking()
            if lacking is not None and _diverted is not None:
                return NullTransport()  # a test captures the events, so that they need no ring
            if lacking is not None:
                raise SettingsError(
                    "sync_mode",
                    f"must be true here, because this system has no {lacking} for a ring in shared memory; or set "
                    "enable to false, which checks the calls and sends nothing",
                )
            # Imported here, because the modules for shared memory take as long to load as all the others.
            from rudderpipe.transports import ring
        except (OSError, MemoryError) as error:  # no memory or descriptor is left to load a module
            raise self.prevented(error) from error
        return ring.shared(settings.for_processes(), self._clock, self)

    def route(self) -> None:
        """Select the transport: the client's own, unless events are diverted."""
        transport = self._transport = self._own if _diverted is None else _diverted
        fast = self._fast_path = transport.fast_path()
        self.is_fast = self._skips_put and not self.defaults.adds
        if fast is not None:
            self.append = fast.append

    @property
    def _skips_put(self) -> bool:
        """True if nothing happens to an event between its making and the ring."""
        return self.has_ring and self.shaper is None and self._on_error is None and not self.is_shut

    @property
    def transport(self) -> Transport:
        """The transport in use."""
        return self._transport

    @property
    def has_ring(self) -> bool:
        """True if events go into a ring."""
        return self._fast_path is not None

    def refused(self, reason: str, data: Encoded) -> bool:
        """Return the result of a call whose event ``append`` did not take, or raise."""
        assert self._fast_path is not None
        return self._result(self._fast_path.refusal(reason, data))

    def call(
        self,
        kind: str,
        callback: Callback | None,
        own: dict[str, Any],
        anonymous_id: Any,
        context: Any,
        timestamp: Any,
        integrations: Any,
        message_id: Any,
    ) -> bool:
        """Make the message of one of the six calls and put it.

        ``own`` has the call's own arguments by their names on the wire. The first one may be a whole message, and the
        second one its callback, as in the Node SDK.
        """
        try:
            _check_callback(callback)
            if anonymous_id is not None:
                own["anonymousId"] = anonymous_id
            if not context is timestamp is integrations is message_id is None:
                own["context"], own["timestamp"] = context, timestamp
                own["integrations"], own["messageId"] = integrations, message_id
            data = self.defaults.usual(kind, own)
            if data is None:
                callback = _taken_callback(own) if callback is None else callback
                data = self.defaults.general(kind, own)
        except Exception as error:  # noqa: BLE001  # no call raises because of a wrong event
            return self.refuse(error, callback if callable(callback) else None)
        if callback is not None or not self.is_fast:
            return self.put(data, callback)
        try:
            reason = self.append(data)
            return reason is None or self.refused(reason, data)
        except HOST_ERRORS as error:
            return self.cannot_take(error)

    def put(self, data: Encoded, callback: Callback | None = None) -> bool:
        """Take a complete message that is JSON already."""
        return self._result(self._refusal(data, callback))

    def _result(self, error: RudderpipeError | None) -> bool:
        """Return a call's result; raise the error if the settings ask for that."""
        if error is not None and self._raises(error):
            raise error
        return error is None

    def _raises(self, error: RudderpipeError) -> bool:
        if isinstance(error, (EventError, DeliveryError)) and not isinstance(error, EventTooLarge):
            return self.settings.strict
        is_dropped = isinstance(error, EventRefused) and error.reason == "dropped"
        return not is_dropped and (self.settings.strict or self.settings.when_full == "raise")

    def _refusal(self, data: Encoded, callback: Callback | None = None) -> RudderpipeError | None:
        """Take a message that is JSON already; return None, or the error if it was refused and counted."""
        if self.is_shut:
            late = EventRefused("closed")
            self._transport.refuse("closed", late, callback)
            return late
        if self.shaper is not None:
            try:
                shaped = self.shaper.shape(data)
            except Exception as error:  # noqa: BLE001  # as in call
                return self._refusal_of_wrong(error, callback)
            if shaped is None:
                dropped = EventRefused("dropped")
                self._refuse_silently("dropped", dropped, callback)
                return dropped
            data = shaped
        try:
            return self._transport.put(data, callback, self._on_error)
        except HOST_ERRORS as error:
            return self._refusal_by_host(error, callback)

    def send_many(self, messages: Iterable[object]) -> Sent:
        """Make and take many messages; see ``Client.send_many``."""
        most = CHUNK_EVENTS if self._skips_put else 1  # other events go their way one by one, as those of single calls
        sending = Sending(self._take_some, self._wrong, self._clock, most)
        return sending.run(messages, self.defaults.encoded_whole)

    def _wrong(self, error: Exception) -> RudderpipeError:
        """Count and log a message that could not be made, and return its error; raise it when ``strict``."""
        refusal = self._refusal_of_wrong(error)
        self._result(refusal)
        return refusal

    def _take_some(self, events: Sequence[Encoded]) -> tuple[int, RudderpipeError | None]:
        """Take the first of several events; return how many, and the error of the next one if that was refused."""
        number = 0
        error: RudderpipeError | None = None
        if self._fast_path is None or not self._skips_put:
            error = self._refusal(events[0])
        else:
            try:
                number, reason = self._fast_path.append_chunk(events)
                if reason is not None:
                    error = self._fast_path.refusal(reason, events[0])
            except HOST_ERRORS as trouble:
                error = self._refusal_by_host(trouble)
        return (number, None) if number else (int(self._result(error)), error)

    def preview(self, kind: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """Return the message that ``call`` would pass on, or None if it would drop the event; raise ``EventError``.

        ``arguments`` are as for ``wire.fields``.
        """
        try:
            _taken_callback(arguments)
            data: Encoded | None = self.defaults.encoded(kind, arguments)
            if data is not None and self.shaper is not None:
                data = self.shaper.shape(data)
        except Exception as error:
            let_through(error)
            raise _event_error(error) from error
        if data is None:
            return None
        if len(data) > EVENT_LIMIT_BYTES:
            raise EventTooLarge(len(data), EVENT_LIMIT_BYTES)
        message: dict[str, Any] = msgspec.json.decode(data)
        return message

    def cannot_take(self, error: Exception) -> bool:
        """Refuse the event of a fast call because of an error of the host, mostly a lack of memory."""
        if isinstance(error, RingUnavailable):  # ``refused`` has raised it
            raise error
        return self._result(self._refusal_by_host(error))

    def _refusal_by_host(self, error: Exception, callback: Callback | None = None) -> RingUnavailable:
        trouble = self.prevented(error)
        self._refuse_silently("ring", trouble, callback)
        return trouble

    def prevented(self, error: Exception) -> RingUnavailable:
        """Log an error of the host, at most once a second; return it as ``RingUnavailable``."""
        let_through(error)
        if not isinstance(error, RingUnavailable):
            reason = (error.strerror if isinstance(error, OSError) else None) or "out of memory"
            error = RingUnavailable("ring", f"cannot be used: {reason}")
        self._log.warning("host", "%s", error)
        return error

    def refuse(self, error: Exception, callback: Callback | None = None) -> bool:
        """Count and log a message that could not be made; raise the error when ``strict``."""
        return self._result(self._refusal_of_wrong(error, callback))

    def _refusal_of_wrong(self, error: Exception, callback: Callback | None = None) -> EventError:
        let_through(error)
        error = _event_error(error)
        reason = "too_large" if isinstance(error, EventTooLarge) else "invalid"
        try:
            self._transport.refuse(reason, error, callback)
        except MemoryError:
            pass  # no memory is left for the log line
        return error

    def _refuse_silently(self, reason: str, error: Exception, callback: Callback | None) -> None:
        """Count an event whose refusal needs no log line, or has one already."""
        self._transport.refuse(reason, None)
        if callback is not None:
            callbacks.call(callback, error, {})

    def counts(self) -> Mapping[str, int]:
        """Return the number of this process's events: ``accepted``, and refused by reason."""
        return self._transport.counts()

    def begin_flush(self, until: Until) -> Flush:
        """Begin to flush; return a stuck flush if an error of the host prevents it. Raises ``SettingsError``."""
        if until not in ("queued", "delivered"):
            raise SettingsError("until", 'must be "queued" or "delivered"')
        try:
            return self._transport.flush(until)
        except HOST_ERRORS as error:
            return Stuck(self.prevented(error))

    def warm_up(self) -> None:
        """Prepare now what the first event would otherwise have to wait for; log an error of the host."""
        try:
            self._transport.warm_up()
        except HOST_ERRORS as error:
            self.prevented(error)

    def check_queue(self, callback: Callback | None) -> None:
        """Check that the queue in Redis can be used, if events go into a ring; pass the error or None to ``callback``.

        Without ``callback``, raise ``QueueUnavailable`` when ``strict``, and ``AnotherDataPlane`` with any settings.
        """
        error = None
        if self.has_ring:
            from rudderpipe.transports import queue_check  # here, because only a client with a queue needs it

            error = queue_check.trouble(self.settings)
        if callback is not None:
            callbacks.call(callback, error)
        elif error is not None and (self.settings.strict or isinstance(error, AnotherDataPlane)):
            raise error

    def leave(self) -> None:
        """Release the transport, because the client will use another one."""
        self._own.shut(self)

    def shut(self, pending: int = 0) -> None:
        """Refuse all later events and release the transport; log that ``pending`` events stay in the ring."""
        if self.is_shut:
            return
        self.is_shut, self.is_fast = True, False
        if pending:
            said = "shut down before all events had left the ring, they stay in the ring for the flusher events=%d"
            logger.warning(said, pending)
        try:
            self._own.shut(self)
        except HOST_ERRORS as error:
            self.prevented(error)


def _event_error(error: Exception) -> EventError:
    if isinstance(error, EventError):
        return error
    return EventError("event", f"cannot be read: it raises {type(error).__name__}")


def _taken_callback(arguments: dict[str, Any]) -> Callback | None:
    """Take the callback out of the arguments, where it may follow a whole message as in the Node SDK."""
    first, second, *_ = arguments
    if not callable(arguments[second]) or not isinstance(arguments[first], Mapping):
        return None
    callback: Callback = arguments[second]
    arguments[second] = None
    return callback


def _check_callback(callback: object) -> None:
    if callback is not None and not callable(callback):
        raise EventError("callback", f"must be callable, not {type(callback).__name__}")


def divert(transport: Transport | None) -> None:
    """Divert the events of all clients, also of later ones, to ``transport``; None restores each client's own."""
    global _diverted  # one for the process, because tests divert every client in it
    _diverted = transport
    for intake in list(_intakes):
        intake.route()
