"""Where a client's events go, and by which way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet

import msgspec

from rudderpipe import log_text
from rudderpipe.errors import DeliveryError, EventError, EventTooLarge, RingFull, RingUnavailable
from rudderpipe.messages.defaults import Maker
from rudderpipe.messages.processors import Shaper
from rudderpipe.process.clock import Clock
from rudderpipe.process.log_limit import ThrottledLog
from rudderpipe.settings import LOG_LEVELS, Settings
from rudderpipe.transports.base import Nowhere, Outlet
from rudderpipe.transports.callbacks import Callback, accepted

ErrorHandler = Callable[[Exception, list[dict[str, Any]]], Any]

HOST_ERRORS = (OSError, MemoryError, RingUnavailable)
"""What a call may meet that is neither its caller's fault nor the event's."""

logger = log_text.logger()
_clients: WeakSet[ClientBase] = WeakSet()
_diverted: Outlet | None = None


class ClientBase:
    """Plain calls go straight to the ring, by ``_append`` and ``_refused``; what is more than that goes the long way.

    That is: ``_call`` makes the message, ``_put`` shapes it, and the outlet takes it.
    """

    settings: Settings

    def __init__(self, maker: Maker, shaper: Shaper | None, on_error: ErrorHandler | None) -> None:
        self._maker = maker
        self._shaper = shaper
        self._on_error = on_error
        self._clock = Clock()
        self._log = ThrottledLog(logger, self._clock)
        self._is_shut = False

    def _use(self, settings: Settings) -> None:
        settings.require("write_key", "data_plane_url")
        if settings.log_level is not None:
            logger.setLevel(LOG_LEVELS[settings.log_level])
        self.settings = settings
        self._own = self._make_outlet(settings)
        self._route()
        _clients.add(self)

    def _make_outlet(self, settings: Settings) -> Outlet:
        if settings.dry_run or not settings.enable:
            return Nowhere(shows=settings.dry_run)
        try:
            if settings.sync_mode:
                from rudderpipe.transports.sync import InTheCall

                return InTheCall(settings, self._clock)
            # Not with the module: shared memory takes as long to load as all the rest.
            from rudderpipe.transports import pipes
        except (OSError, MemoryError) as error:  # no descriptor is left to read a module with
            raise self._prevented(error) from error
        return pipes.shared(settings.for_processes(), self._clock)

    def _route(self) -> None:
        outlet = self._outlet = self._own if _diverted is None else _diverted
        short = outlet.short_way()
        more = self._maker.adds or self._shaper is not None or self._on_error is not None
        self._plain = short is not None and not more and not self._is_shut
        if short is not None:
            self._append, self._refused = short

    def _call(self, kind: str, callback: Callback | None, **arguments: Any) -> bool:
        """The long way of all six calls, and the usual one of the five that are rare."""
        first, second, *_ = arguments
        try:
            if callback is None and callable(arguments[second]) and isinstance(arguments[first], Mapping):
                callback, arguments[second] = arguments[second], None  # the Node SDK's form: message, callback
            _check_callback(callback)
            data = self._maker.encoded(kind, arguments)
        except Exception as error:  # noqa: BLE001  # no call raises for what is wrong with an event
            return self._invalid(error, callback if callable(callback) else None)
        return self._put(data, callback)

    def _put(self, data: bytes, callback: Callback | None) -> bool:
        if self._is_shut:
            return self._late(callback)
        if self._shaper is not None:
            try:
                shaped = self._shaper.shape(data)
            except Exception as error:  # noqa: BLE001  # as in _call
                return self._invalid(error, callback)
            if shaped is None:
                return self._outlet.refuse("dropped", None, callback)
            data = shaped
        if self._on_error is not None:
            callback = _both(callback, self._on_error, data)
        try:
            answer: bool = self._outlet.put(data, callback)  # or the message, with dry_run
        except HOST_ERRORS as error:
            return self._cannot_take(error, callback)
        return answer

    def _cannot_take(self, error: Exception, callback: Callback | None) -> bool:
        """Refuse an event because of what the host does not have: memory, mostly."""
        if isinstance(error, RingUnavailable):  # the outlet counted it, and was asked to raise it
            raise error
        trouble = self._prevented(error)
        self._outlet.refuse("ring", None, callback)
        if self.settings.strict or self.settings.when_full == "raise":
            raise trouble
        return False

    def _prevented(self, error: Exception) -> RingUnavailable:
        """Say what the host prevented, once a second."""
        if not isinstance(error, RingUnavailable):
            reason = (error.strerror if isinstance(error, OSError) else None) or "out of memory"
            error = RingUnavailable("ring", f"cannot be used: {reason}")
        self._log.warning("host", str(error))
        return error

    def _invalid(self, error: Exception, callback: Callback | None = None) -> bool:
        if not isinstance(error, EventError):
            error = EventError("event", f"cannot be read: it raises {type(error).__name__}")
        reason = "too_large" if isinstance(error, EventTooLarge) else "invalid"
        try:
            self._outlet.refuse(reason, error, callback)
        except MemoryError:
            pass  # there is none to say so with
        if self.settings.strict or (reason == "too_large" and self.settings.when_full == "raise"):
            raise error
        return False

    def _late(self, callback: Callback | None) -> bool:
        self._outlet.refuse("closed", EventError("event", "comes after shutdown()"), callback)
        if self.settings.strict or self.settings.when_full == "raise":
            raise RingFull("closed")
        return False

    def put_encoded(self, data: bytes, callback: Callback | None = None) -> bool:
        """Send a message that is complete, and JSON already; for what speaks for another SDK. Answers as ``track``."""
        return self._put(data, callback)

    def refuse(self, error: EventError, callback: Callback | None = None) -> bool:
        """Count and log a message that could not be made; raises the error when ``strict``."""
        return self._invalid(error, callback)

    def counts(self) -> Mapping[str, int]:
        """Events of this process: ``accepted``, and refused by reason. With the pipe, since it took its slot."""
        return self._outlet.counts()


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


def living() -> list[ClientBase]:
    """The clients of this process that were not shut down."""
    return [client for client in list(_clients) if not client._is_shut]  # noqa: SLF001  # its own module


def divert(outlet: Outlet | None) -> None:
    """Have all clients, also those to be made, put their events there; None: back to where they belong."""
    global _diverted  # of the process, as tests need it
    _diverted = outlet
    for client in list(_clients):
        client._route()  # noqa: SLF001  # its own module
