"""The ``Client`` of rudder-sdk-python, with its arguments, positions, defaults, results and exceptions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from rudderpipe import client as ours
from rudderpipe import log_text
from rudderpipe.compat import arguments, messages
from rudderpipe.compat.errors import APIError, MessageTooLarge, api_error
from rudderpipe.errors import DeliveryError, EventError, EventTooLarge, SettingsError
from rudderpipe.messages import trace, wire
from rudderpipe.settings import EVENT_LIMIT_BYTES, Settings
from rudderpipe.transports.callbacks import callbacks

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rudderpipe.settings.arguments import DropInArguments
    from rudderpipe.transports.ring import Waiting

VERSION = "2.1.9"
"""The version of rudder-sdk-python whose place this client takes."""
STUCK_S = 10.0
"""Seconds that a flush waits while no event moves and no ``on_error`` returns."""
LOOK_S = 1.0
"""Seconds after which a flush looks again whether something moves."""
STEP_S = 0.005
OnError = Callable[[Exception, list[dict[str, Any]]], Any]
Result = tuple[bool, dict[str, Any]]

logger = log_text.logger()


class DefaultConfig:
    """The defaults of the client's arguments."""

    write_key: str | None = None
    host: str | None = None
    on_error: OnError | None = None
    debug = False
    send = True
    sync_mode = False
    max_queue_size = 10_000
    gzip = True
    timeout: float = 15
    max_retries = 10
    proxies: str | Mapping[str, str] | None = None
    thread = 1
    upload_interval = 0.5
    upload_size = 100


class Queue:
    """The counts of this process's events in the ring, by the names of the ``queue.Queue`` of rudder-sdk-python."""

    def __init__(self, maxsize: Any, waiting: Callable[[], Waiting | None]) -> None:
        self.maxsize = maxsize
        self._waiting = waiting

    def qsize(self) -> int:
        """Return how many events of this process have not left the ring."""
        waiting = self._waiting()
        return 0 if waiting is None else waiting.events

    def empty(self) -> bool:
        """Return True if all events of this process have left the ring."""
        return not self.qsize()

    def full(self) -> bool:
        """Return True if the ring takes no further event, because all processes together have ``max_queue_size``."""
        waiting = self._waiting()
        return waiting is not None and waiting.is_full


class _Destination(NamedTuple):
    """A client of rudderpipe, the settings that were given for it, and the reason why it takes no event."""

    given: dict[str, Any]
    client: ours.Client
    trouble: EventError | None


class _Progress:
    """The moment at which something last moved."""

    def __init__(self) -> None:
        self._mark: object = None
        self._since_s = time.monotonic()

    def has_ended(self, mark: object) -> bool:
        """Return True if the mark, which changes when something moves, is the same for ``STUCK_S``."""
        now_s = time.monotonic()
        if mark != self._mark:
            self._mark, self._since_s = mark, now_s
        return now_s - self._since_s >= STUCK_S


class Client:
    """The client ``rudderstack.analytics.client.Client``; ``settings`` are rudderpipe's own, such as ``redis``.

    ``thread`` has no effect, because no thread exists. ``on_error(error, batch)`` is called once for the events of this
    process that failed together; its error is an ``APIError``. It may raise. With ``sync_mode`` a call delivers its
    event, with the same retries, and raises ``APIError`` when the delivery failed.

    ``send`` and ``sync_mode`` may be changed at any time. In ``sync_mode`` the attributes ``write_key``, ``host``,
    ``gzip``, ``timeout`` and ``proxies`` may be changed too. ``original_library`` sends the name and the version of the
    other SDK as ``context.library``; the class has it too, as the default of all clients.
    """

    DefaultConfig = DefaultConfig
    log = logger
    original_library = False
    _host = "https://api.rudderstack.com"
    _traits_in_context = True
    _integrations: Mapping[str, Any] = {"All": True}
    _library: Mapping[str, str] = {"name": "analytics-python", "version": VERSION}
    _error_type = APIError
    _retries_may_be_endless = True

    def __init__(
        self,
        write_key: str | None = DefaultConfig.write_key,
        host: str | None = DefaultConfig.host,
        debug: bool = DefaultConfig.debug,
        max_queue_size: int = DefaultConfig.max_queue_size,
        send: bool = DefaultConfig.send,
        on_error: OnError | None = DefaultConfig.on_error,
        gzip: bool = DefaultConfig.gzip,
        max_retries: int = DefaultConfig.max_retries,
        sync_mode: bool = DefaultConfig.sync_mode,
        timeout: float | tuple[float, float] | None = DefaultConfig.timeout,
        proxies: str | Mapping[str, str] | None = DefaultConfig.proxies,
        thread: int = DefaultConfig.thread,
        upload_size: int = DefaultConfig.upload_size,
        upload_interval: float = DefaultConfig.upload_interval,
        *,
        original_library: bool | None = None,
        **settings: Unpack[DropInArguments],
    ) -> None:
        messages.require("write_key", write_key, str)
        if not sync_mode:
            range(thread)  # raises the TypeError of rudder-sdk-python
        self.write_key, self.on_error, self.debug, self.send, self.sync_mode = (
            write_key,
            on_error,
            debug,
            send,
            sync_mode,
        )
        self.host, self.gzip, self.timeout, self.proxies, self.thread = host, gzip, timeout, proxies, thread
        self.consumers: list[Any] = []
        self._max_queue_size = max_queue_size
        if original_library is not None:
            self.original_library = original_library
        defaults = self.DefaultConfig
        self._fixed: dict[str, Any] = {
            "max_internal_queue_size": arguments.queue_size(max_queue_size, defaults.max_queue_size),
            "max_attempts": arguments.attempts(max_retries, defaults.max_retries, endless=self._retries_may_be_endless),
            "flush_at": arguments.batch_size(upload_size, defaults.upload_size),
            "flush_interval_ms": arguments.interval_ms(upload_interval, defaults.upload_interval),
            "log_level": "debug" if debug else None,
        }
        self._settings: dict[str, Any] = dict(settings)
        taken = {"enable", "strict", *self._fixed, *self._from_attributes()}
        for name in self._settings:
            if name not in Settings.__struct_fields__ or name in taken:
                raise TypeError(f"Client() got an unexpected keyword argument {name!r}")
        self._settings.setdefault("max_jobs_per_request", 1)  # a batch has upload_size events, so a request has too
        handler: Any = on_error
        if handler and not callable(handler):
            logger.warning("on_error cannot be called and is ignored")
        self._handler: OnError | None = handler if callable(handler) else None
        self._told = 0
        """The number of calls of ``on_error`` that have returned."""
        self._null: _Destination | None = None
        self._ring: _Destination | None = None
        self._sync: _Destination | None = None
        self._at_first = self._from_attributes()
        self._destination()

    def _from_attributes(self) -> dict[str, Any]:
        """Return the settings that rudder-sdk-python takes from its attributes at each call with ``sync_mode``."""
        address = arguments.address(self.host, self._host)
        connect_s, read_s = arguments.timeouts(self.timeout)
        return {
            "write_key": self.write_key,
            "data_plane_url": address,
            "gzip": bool(self.gzip),
            "connect_timeout_s": connect_s,
            "timeout_s": read_s,
            "proxy_url": arguments.proxy(self.proxies, address),
        }

    @property
    def queue(self) -> Queue:
        """The counts of this process's events in the ring."""
        return Queue(self._max_queue_size, self._waiting)  # not stored, because it refers to the client

    @property
    def client(self) -> ours.Client:
        """The client of rudderpipe for the next event, by what ``send`` and ``sync_mode`` are now."""
        return self._destination().client

    def _destination(self) -> _Destination:
        if not self.send:
            if self._null is None:
                self._null = self._make(self._at_first, enable=False)
            return self._null
        if not self.sync_mode:
            if self._ring is None:
                told = self._tell if self._handler is not None else None
                self._ring = self._make(self._at_first, on_error=told)
            return self._ring
        given, before = self._from_attributes(), self._sync
        if before is not None and before.given == given:
            return before
        self._sync = self._make(given, sync_mode=True, strict=True)
        if before is not None:
            before.client.shutdown(0)
        return self._sync

    def _make(self, given: dict[str, Any], **more: Any) -> _Destination:
        """Return a client of rudderpipe; with a wrong argument or ``RUDDERPIPE_*`` variable, one that takes no event.

        Raises ``SettingsError`` for a setting that the caller gave by its own name.
        """
        try:
            return _Destination(given, ours.Client(**self._fixed, **given, **more, **self._settings), None)
        except SettingsError as error:
            if error.field.partition(".")[0] in self._settings:
                raise
            field, reason = error.field, error.reason
        if field == "data_plane_url":
            field = "host"
        elif field == "write_key" and not self.write_key:
            reason = "is empty"
        if self.send:
            logger.error("no event can be sent, %s: %s", field, reason)
        nowhere = Settings(write_key="-", data_plane_url="http://localhost", enable=False)
        return _Destination(given, ours.Client(settings=nowhere), EventError(field, reason) if self.send else None)

    def _tell(self, error: Exception, batch: list[dict[str, Any]]) -> None:
        assert self._handler is not None
        try:
            self._handler(api_error(error, self._error_type), batch)
        finally:
            self._told += 1

    def _waiting(self) -> Waiting | None:
        """Return what waits in the ring; None if this client has none."""
        if self._ring is None:
            return None
        from rudderpipe.transports import ring  # here, because a client without a ring works without shared memory

        return ring.waiting(self._ring.client.settings)

    def identify(
        self,
        user_id: Any = None,
        traits: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
        timestamp: datetime | None = None,
        anonymous_id: Any = None,
        integrations: dict[str, Any] | None = None,
        message_id: Any = None,
    ) -> Result:
        """Connect a user with an id and traits. Return whether the event was accepted, and the message."""
        messages.require_id("user_id or anonymous_id", user_id or anonymous_id)
        messages.require("traits", traits or {}, dict)
        messages.require("context", context or {}, dict)
        own = {"anonymousId": anonymous_id, "userId": user_id}
        if self._traits_in_context:
            context = {**(context or {}), "traits": traits or {}}
        else:
            own["traits"] = traits or {}
        return self._enqueue("identify", context, timestamp, integrations, message_id, **own)

    def track(
        self,
        user_id: Any = None,
        event: str | None = None,
        properties: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
        timestamp: datetime | None = None,
        anonymous_id: Any = None,
        integrations: dict[str, Any] | None = None,
        message_id: Any = None,
    ) -> Result:
        """Record an action of a user. Return whether the event was accepted, and the message."""
        messages.require_id("user_id or anonymous_id", user_id or anonymous_id)
        messages.require("properties", properties or {}, dict)
        messages.require("event", event, str)
        own = {"anonymousId": anonymous_id, "userId": user_id, "event": event, "properties": properties or {}}
        return self._enqueue("track", context, timestamp, integrations, message_id, **own)

    def alias(
        self,
        previous_id: Any = None,
        user_id: Any = None,
        context: dict[str, Any] | None = None,
        timestamp: datetime | None = None,
        integrations: dict[str, Any] | None = None,
        message_id: Any = None,
    ) -> Result:
        """Record that two ids are one user. Return whether the event was accepted, and the message."""
        messages.require_id("previous_id", previous_id)
        messages.require_id("user_id", user_id)
        own = {"previousId": previous_id, "userId": user_id}
        return self._enqueue("alias", context, timestamp, integrations, message_id, **own)

    def group(
        self,
        user_id: Any = None,
        group_id: Any = None,
        traits: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
        timestamp: datetime | None = None,
        anonymous_id: Any = None,
        integrations: dict[str, Any] | None = None,
        message_id: Any = None,
    ) -> Result:
        """Record that a user belongs to a group. Return whether the event was accepted, and the message."""
        messages.require_id("user_id or anonymous_id", user_id or anonymous_id)
        messages.require_id("group_id", group_id)
        messages.require("traits", traits or {}, dict)
        own = {"anonymousId": anonymous_id, "userId": user_id, "groupId": group_id, "traits": traits or {}}
        return self._enqueue("group", context, timestamp, integrations, message_id, **own)

    def page(
        self,
        user_id: Any = None,
        category: str | None = None,
        name: str | None = None,
        properties: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
        timestamp: datetime | None = None,
        anonymous_id: Any = None,
        integrations: dict[str, Any] | None = None,
        message_id: Any = None,
    ) -> Result:
        """Record that a user saw a page. Return whether the event was accepted, and the message."""
        own = _viewed(user_id, category, name, properties, anonymous_id)
        return self._enqueue("page", context, timestamp, integrations, message_id, **own)

    def screen(
        self,
        user_id: Any = None,
        category: str | None = None,
        name: str | None = None,
        properties: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
        timestamp: datetime | None = None,
        anonymous_id: Any = None,
        integrations: dict[str, Any] | None = None,
        message_id: Any = None,
    ) -> Result:
        """Record that a user saw a screen. Return whether the event was accepted, and the message."""
        own = _viewed(user_id, category, name, properties, anonymous_id)
        return self._enqueue("screen", context, timestamp, integrations, message_id, **own)

    def _enqueue(
        self, kind: str, context: Any, timestamp: Any, integrations: Any, message_id: Any, **own: Any
    ) -> Result:
        common = {"type": kind, "context": context or {}, "timestamp": timestamp, "integrations": integrations}
        given = {**common, "messageId": message_id, **own}
        library = self._library if self.original_library else wire.LIBRARY_PART
        message = messages.completed(given, self._integrations, library)
        destination = self._destination()
        if destination.client.settings.trace_context:
            message["context"] = {**trace.ids(), **message["context"]}
        try:
            messages.check(message, given)
            data = wire.encoded(message, wire.ARGUMENT_NAMES)
        except EventTooLarge as error:
            raise MessageTooLarge(error.size_bytes, EVENT_LIMIT_BYTES) from None
        except EventError as error:
            return destination.client.refuse(error), message
        if len(data) > EVENT_LIMIT_BYTES:
            raise MessageTooLarge(len(data), EVENT_LIMIT_BYTES)
        if destination.trouble is not None:
            if self.sync_mode:
                raise self._error_type(0, "unknown", str(destination.trouble))
            return destination.client.refuse(destination.trouble), message
        try:
            return destination.client.put_encoded(data), message
        except DeliveryError as error:
            raise api_error(error, self._error_type) from None

    def flush(self) -> None:
        """Wait until the events have left the ring and ``on_error`` has returned for those that failed.

        Give up when nothing has moved for 10 s. The events that stay are delivered without this process.
        """
        if self._ring is None:
            return
        client, progress = self._ring.client, _Progress()
        while not (result := client.flush(LOOK_S)).complete:
            if result.reason and not (result.pending or result.failed):
                return  # the ring cannot be used, which is in the log
            if progress.has_ended((result.pending, self._told)):
                said = "flush: %d events have not moved for %.0f s, they are delivered later: %s"
                logger.warning(said, result.pending, STUCK_S, result.reason or "no reason is known")
                return
        if callbacks.is_within():
            return
        checkpoint = callbacks.checkpoint()
        while not checkpoint.reached:
            if progress.has_ended(self._told):
                logger.warning("flush: on_error has not returned for %.0f s", STUCK_S)
                return
            time.sleep(STEP_S)

    def join(self) -> None:
        """Do the same as ``flush``, because there is no thread to wait for."""
        self.flush()

    def shutdown(self) -> None:
        """Flush, and release the ring. Later events are refused."""
        self.flush()
        for made in (self._null, self._ring, self._sync):
            if made is not None:
                made.client.shutdown(0)


def _viewed(user_id: Any, category: Any, name: Any, properties: Any, anonymous_id: Any) -> dict[str, Any]:
    messages.require_id("user_id or anonymous_id", user_id or anonymous_id)
    messages.require("properties", properties or {}, dict)
    for argument, value in (("name", name), ("category", category)):
        if value:
            messages.require(argument, value, str)
    ids = {"anonymousId": anonymous_id, "userId": user_id}
    return {**ids, "category": category, "name": name, "properties": properties or {}}
