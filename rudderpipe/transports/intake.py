"""A client's way in: messages are made, shaped and counted, and handed to the transport in use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet

import msgspec

from rudderpipe import log_text
from rudderpipe.errors import DeliveryError, EventError, EventTooLarge, RingFull, RingUnavailable
from rudderpipe.messages import build
from rudderpipe.messages.defaults import Maker
from rudderpipe.messages.processors import Shaper
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import ThrottledLog
from rudderpipe.settings import LOG_LEVELS, Settings
from rudderpipe.transports.base import NullTransport, Transport
from rudderpipe.transports.callbacks import Callback, accepted
from rudderpipe.transports.flush import Flush, Stuck, Until

ErrorHandler = Callable[[Exception, list[dict[str, Any]]], Any]

HOST_ERRORS = (OSError, MemoryError, RingUnavailable)
"""What a call may meet that is neither its caller's fault nor the event's."""

logger = log_text.logger()
_intakes: WeakSet[Intake] = WeakSet()
_diverted: Transport | None = None


class Intake:
    """The slow path of every call: ``call`` makes a message, ``put`` shapes it, and the transport takes it.

    While ``is_fast``, a caller that has an event's JSON may spare itself the rest: it calls ``append``, and
    ``refused`` with the reason that this returns.
    """

    settings: Settings

    def __init__(self, clock: Clock, maker: Maker, shaper: Shaper | None, on_error: ErrorHandler | None) -> None:
        self._clock = clock
        self._maker = maker
        self._shaper = shaper
        self._on_error = on_error
        self._log = ThrottledLog(logger, clock)
        self.is_shut = False

    def use(self, settings: Settings) -> None:
        """Send events where these settings say. Raise ``SettingsError``, or ``RingUnavailable`` for want of memory."""
        settings.require("write_key", "data_plane_url")
        if settings.log_level is not None:
            logger.setLevel(LOG_LEVELS[settings.log_level])
        self.settings = settings
        self._own = self._make_transport(settings)
        self.route()
        _intakes.add(self)

    def _make_transport(self, settings: Settings) -> Transport:
        if settings.dry_run or not settings.enable:
            return NullTransport(shows=settings.dry_run)
        try:
            if settings.sync_mode:
                from rudderpipe.transports.sync import SyncTransport

                return SyncTransport(settings, self._clock)
            # Not with the module: shared memory takes as long to load as all the rest.
            from rudderpipe.transports import ring
        except (OSError, MemoryError) as error:  # no descriptor is left to read a module with
            raise self.prevented(error) from error
        return ring.shared(settings.for_processes(), self._clock)

    def route(self) -> None:
        """Take the transport that is in use now: the client's own, unless events are diverted."""
        transport = self._transport = self._own if _diverted is None else _diverted
        fast = transport.fast_path()
        more = self._maker.adds or self._shaper is not None or self._on_error is not None
        self.is_fast = fast is not None and not more and not self.is_shut
        if fast is not None:
            self.append, self.refused = fast

    @property
    def has_ring(self) -> bool:
        """Whether events go into a ring."""
        return self._transport.fast_path() is not None

    def call(self, kind: str, callback: Callback | None, *given: Any) -> bool:
        """Make the message of one of the six calls, given its arguments in the order of the call, and put it."""
        first, second, *_ = arguments = dict(zip(build.ARGUMENTS[kind], given, strict=True))
        try:
            if callback is None and callable(arguments[second]) and isinstance(arguments[first], Mapping):
                callback, arguments[second] = arguments[second], None  # the Node SDK's form: message, callback
            _check_callback(callback)
            data = self._maker.encoded(kind, arguments)
        except Exception as error:  # noqa: BLE001  # no call raises for what is wrong with an event
            return self.refuse(error, callback if callable(callback) else None)
        return self.put(data, callback)

    def put(self, data: bytes, callback: Callback | None = None) -> bool:
        """Take a message that is complete, and JSON already."""
        if self.is_shut:
            return self._refuse_late(callback)
        if self._shaper is not None:
            try:
                shaped = self._shaper.shape(data)
            except Exception as error:  # noqa: BLE001  # as in call
                return self.refuse(error, callback)
            if shaped is None:
                return self._transport.refuse("dropped", None, callback)
            data = shaped
        if self._on_error is not None:
            callback = _both(callback, self._on_error, data)
        try:
            taken: bool = self._transport.put(data, callback)  # or the message, with dry_run
        except HOST_ERRORS as error:
            return self.cannot_take(error, callback)
        return taken

    def cannot_take(self, error: Exception, callback: Callback | None = None) -> bool:
        """Refuse an event because of what the host does not have: memory, mostly."""
        if isinstance(error, RingUnavailable):  # the transport counted it, and was asked to raise it
            raise error
        trouble = self.prevented(error)
        self._transport.refuse("ring", None, callback)
        if self.settings.strict or self.settings.when_full == "raise":
            raise trouble
        return False

    def prevented(self, error: Exception) -> RingUnavailable:
        """Log what the host prevented, once a second."""
        if not isinstance(error, RingUnavailable):
            reason = (error.strerror if isinstance(error, OSError) else None) or "out of memory"
            error = RingUnavailable("ring", f"cannot be used: {reason}")
        self._log.warning("host", str(error))
        return error

    def refuse(self, error: Exception, callback: Callback | None = None) -> bool:
        """Count and log a message that could not be made; raise the error when ``strict``."""
        if not isinstance(error, EventError):
            error = EventError("event", f"cannot be read: it raises {type(error).__name__}")
        reason = "too_large" if isinstance(error, EventTooLarge) else "invalid"
        try:
            self._transport.refuse(reason, error, callback)
        except MemoryError:
            pass  # there is none to say so with
        if self.settings.strict or (reason == "too_large" and self.settings.when_full == "raise"):
            raise error
        return False

    def _refuse_late(self, callback: Callback | None) -> bool:
        self._transport.refuse("closed", EventError("event", "comes after shutdown()"), callback)
        if self.settings.strict or self.settings.when_full == "raise":
            raise RingFull("closed")
        return False

    def counts(self) -> Mapping[str, int]:
        """Return the events of this process: ``accepted``, and refused by reason."""
        return self._transport.counts()

    def begin_flush(self, until: Until) -> Flush:
        """Begin to flush; a flush that is stuck where the host prevents it."""
        try:
            return self._transport.flush(until)
        except HOST_ERRORS as error:
            return Stuck(self.prevented(error))

    def warm_up(self) -> None:
        """Have what the first event would have to wait for."""
        try:
            self._transport.warm_up()
        except HOST_ERRORS as error:
            self.prevented(error)

    def leave(self) -> None:
        """Give the transport up, as another one is to be used."""
        self._own.shut()

    def shut(self) -> None:
        """Take no more events, for good."""
        if self.is_shut:  # another call has done it: a second share of the pipe would be another client's
            return
        self.is_shut, self.is_fast = True, False
        try:
            self._own.shut()
        except HOST_ERRORS as error:
            self.prevented(error)


def _check_callback(callback: object) -> None:
    if callback is not None and not callable(callback):
        raise EventError("callback", f"must be callable, not {type(callback).__name__}")


def _both(callback: Callback | None, on_error: Callable[..., Any], data: bytes) -> Callback:
    def told(error: Exception | None, message: Any) -> None:
        try:
            if callback is not None:
                callback(error, *[message][: accepted(callback) - 1])
        finally:
            if isinstance(error, DeliveryError):
                on_error(error, *[[msgspec.json.decode(data)]][: accepted(on_error) - 1])

    return told


def divert(transport: Transport | None) -> None:
    """Have all clients, also those to be made, put their events there; None: back to where they belong."""
    global _diverted  # of the process, as tests need it
    _diverted = transport
    for intake in list(_intakes):
        intake.route()
