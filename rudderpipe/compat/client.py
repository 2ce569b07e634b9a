"""The ``Client`` of rudder-sdk-python, with its arguments, positions, defaults, results and exceptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rudderpipe import client as ours
from rudderpipe import log_text
from rudderpipe.compat import messages
from rudderpipe.errors import EventError, EventTooLarge, SettingsError
from rudderpipe.messages import wire
from rudderpipe.settings import EVENT_LIMIT_BYTES

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rudderpipe.settings.arguments import DropInArguments

STUCK_S = 10.0
"""Seconds that a flush waits while no event moves."""
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


class Client:
    """The client ``rudderstack.analytics.client.Client``; ``settings`` are rudderpipe's own, such as ``redis``.

    ``thread`` has no effect, because no thread exists. ``on_error(error, batch)`` is called with this process's events
    that the data plane refused or that failed after all retries; it may raise. With ``sync_mode`` a call delivers its
    event, with the same retries, and raises ``DeliveryError`` when the delivery failed.
    """

    DefaultConfig = DefaultConfig
    _host = "https://api.rudderstack.com"
    _traits_in_context = True
    _integrations: Mapping[str, Any] = {"All": True}

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
        **settings: Unpack[DropInArguments],
    ) -> None:
        messages.require("write_key", write_key, str)
        self.write_key, self.on_error, self.debug, self.send, self.sync_mode = (
            write_key,
            on_error,
            debug,
            send,
            sync_mode,
        )
        self.gzip, self.timeout, self.proxies, self.thread = gzip, timeout, proxies, thread
        self.host = host or self._host
        connect_s, read_s = timeout if isinstance(timeout, tuple) else (None, timeout)
        mapped: dict[str, Any] = {
            "connect_timeout_s": connect_s,
            "timeout_s": 600.0 if read_s is None else float(read_s),
            "max_internal_queue_size": max_queue_size,
            "max_attempts": max_retries + 1,
            "flush_at": upload_size,
            "flush_interval_ms": round(upload_interval * 1000),
            "proxy_url": _proxy_url(proxies, self.host),
            "log_level": "debug" if debug else None,
        }
        self.client = ours.Client(
            write_key,
            self.host,
            on_error=self._tell if on_error is not None else None,
            **{
                **mapped,
                "gzip": bool(gzip),
                "enable": bool(send),
                "sync_mode": bool(sync_mode),
                "strict": bool(sync_mode),
            },
            **settings,
        )

    def _tell(self, error: Exception, batch: list[dict[str, Any]]) -> None:
        if self.on_error is not None:
            self.on_error(error, batch)

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
        message = messages.completed(given, self._integrations)
        try:
            messages.check(message, given)
            data = wire.encoded(message, wire.ARGUMENT_NAMES)
        except EventTooLarge as error:
            raise messages.MessageTooLarge(error.size_bytes, EVENT_LIMIT_BYTES) from None
        except EventError as error:
            return self.client.refuse(error), message
        if len(data) > EVENT_LIMIT_BYTES:
            raise messages.MessageTooLarge(len(data), EVENT_LIMIT_BYTES)
        return self.client.put_encoded(data), message

    def flush(self) -> None:
        """Wait until the events have left the ring, but give up when none has moved for ``STUCK_S``.

        The events that stay are delivered without this process.
        """
        seen, since_s = -1, 0.0
        while not (result := self.client.flush(1.0)) and not result.reason:
            since_s = 0.0 if result.pending != seen else since_s + 1.0
            seen = result.pending
            if since_s >= STUCK_S:
                logger.warning("flush: %d events have not moved for %.0f s; they are delivered later", seen, since_s)
                return

    def join(self) -> None:
        """Do the same as ``flush``, because there is no thread to wait for."""
        self.flush()

    def shutdown(self) -> None:
        """Flush, and release the ring. Later events are refused."""
        self.flush()
        self.client.shutdown()


def _viewed(user_id: Any, category: Any, name: Any, properties: Any, anonymous_id: Any) -> dict[str, Any]:
    messages.require_id("user_id or anonymous_id", user_id or anonymous_id)
    messages.require("properties", properties or {}, dict)
    for argument, value in (("name", name), ("category", category)):
        if value:
            messages.require(argument, value, str)
    ids = {"anonymousId": anonymous_id, "userId": user_id}
    return {**ids, "category": category, "name": name, "properties": properties or {}}


def _proxy_url(proxies: str | Mapping[str, str] | None, host: str) -> str | None:
    """Return the proxy that ``requests`` would use: that of this host, of its scheme, or of all."""
    if isinstance(proxies, str):
        chosen: str | None = proxies
    else:
        url = urlsplit(host)
        names = (f"{url.scheme}://{url.hostname}", url.scheme, f"all://{url.hostname}", "all")
        chosen = next((proxies[name] for name in names if name in proxies), None) if proxies else None
    if chosen is None or "://" in chosen:
        return chosen
    if not chosen:
        raise SettingsError("proxies", "holds an empty address")
    return f"http://{chosen}"
