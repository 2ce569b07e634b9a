"""What an application calls."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any

import msgspec

from rudderpipe import event as messages
from rudderpipe import program
from rudderpipe import settings as settings_module
from rudderpipe.clock import Clock
from rudderpipe.errors import QueueUnavailable, SettingsError
from rudderpipe.pipe import Pipe
from rudderpipe.redis_address import RedisAddress
from rudderpipe.settings import Settings

CHECK_TIMEOUT_S = 20.0

UserId = str | int | float | None
Message = Mapping[str, Any]


class Client:
    """Sends events to RudderStack, through shared memory and a process of its own.

    Made before or after a fork, used from any process and thread. It starts no thread and opens no socket here; the
    first event starts the flusher, unless ``autostart`` is off. Every setting can be given by name; what is not given
    comes from ``RUDDERPIPE_*`` variables, then from the TOML file ``config``. Raises ``SettingsError``.
    """

    def __init__(
        self,
        write_key: str | None = None,
        data_plane_url: str | None = None,
        *,
        config: str | None = None,
        **settings: Any,
    ) -> None:
        self._explicit = {"write_key": write_key, "data_plane_url": data_plane_url, **settings}
        self._config = config
        self._clock = Clock()
        self._use(settings_module.load(self._explicit, config=config))

    def __reduce__(self) -> tuple[Any, ...]:
        """What another process makes its own client of (``multiprocessing`` with spawn); holds the write key."""
        return _remade, (self._explicit, self._config)

    def _use(self, settings: Settings) -> None:
        settings.require("write_key", "data_plane_url")
        self.settings = settings
        self._pipe = Pipe(settings, self._clock)
        self._append = self._pipe.producer.append
        self._refused = self._pipe.refused

    def create_persistence_queue(
        self,
        redis: str | Mapping[str, Any] | RedisAddress | None = None,
        *,
        callback: Callable[[Exception | None], Any] | None = None,
        **settings: Any,
    ) -> None:
        """Send events through a queue in Redis, which Bull's tools and RudderStack's Node SDK understand.

        ``redis`` is a URL or a mapping of host, port, db, username, password; ``queue_name``, ``prefix``,
        ``is_multi_processor``, ``max_attempts`` and the like are settings too. Call it before the first event.

        Raises ``QueueUnavailable`` when Redis cannot be reached (or calls ``callback`` with it; with None when all is
        well). From then on events go to the queue all the same: they are kept in the ring until Redis is there.
        """
        explicit = {**self._explicit, **settings}
        if redis is not None:
            explicit["redis"] = redis
        chosen = settings_module.load(explicit, config=self._config)
        if chosen.redis is None:
            raise SettingsError("redis", "is missing: where is the queue to be?")
        self._explicit = explicit
        if chosen != self.settings:
            self._pipe.shut()
            self._use(chosen)
        error = self._check_queue()
        if callback is not None:
            callback(error)
        elif error is not None:
            raise error

    def _check_queue(self) -> QueueUnavailable | None:
        # In a process of its own: an application's process opens no socket to Redis, nor loads a client for it.
        payload = msgspec.json.encode(self.settings)
        child = program.start("rudderpipe.flusher", payload, "--check", output=subprocess.PIPE)
        try:
            child.stdin = None  # closed by now; communicate would use it
            _, text = child.communicate(timeout=CHECK_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            text = b"no answer in time"
        if child.returncode == 0:
            return None
        lines = text.decode("utf-8", "replace").strip().splitlines()
        return QueueUnavailable(self.settings.redis_place, lines[-1] if lines else f"exit code {child.returncode}")

    # The six calls. Each answers True when the event was accepted, False when it was refused and counted.

    def identify(
        self,
        user_id: UserId | Message = None,
        traits: Message | None = None,
        context: Message | None = None,
        timestamp: datetime | str | None = None,
        anonymous_id: UserId = None,
        integrations: Message | None = None,
        message_id: str | None = None,
    ) -> bool:
        """Tie a user to an id and to traits; or give the whole message as one mapping in wire names.

        Raises ``EventError`` naming the argument. The same goes for the other five calls.
        """
        return self._put(messages.identify(user_id, traits, context, timestamp, anonymous_id, integrations, message_id))

    def track(
        self,
        user_id: UserId | Message = None,
        event: str | None = None,
        properties: Message | None = None,
        context: Message | None = None,
        timestamp: datetime | str | None = None,
        anonymous_id: UserId = None,
        integrations: Message | None = None,
        message_id: str | None = None,
    ) -> bool:
        """Say that a user did something: ``client.track("123456", "Item Viewed", {"revenue": 19.95})``."""
        data = messages.track(user_id, event, properties, context, timestamp, anonymous_id, integrations, message_id)
        reason = self._append(data)
        return reason is None or self._refused(reason, data)

    def page(
        self,
        user_id: UserId | Message = None,
        category: str | None = None,
        name: str | None = None,
        properties: Message | None = None,
        context: Message | None = None,
        timestamp: datetime | str | None = None,
        anonymous_id: UserId = None,
        integrations: Message | None = None,
        message_id: str | None = None,
    ) -> bool:
        """Say that a user saw a page."""
        return self._put(
            messages.page(
                user_id,
                category,
                name,
                properties,
                context,
                timestamp,
                anonymous_id,
                integrations,
                message_id,
            )
        )

    def screen(
        self,
        user_id: UserId | Message = None,
        category: str | None = None,
        name: str | None = None,
        properties: Message | None = None,
        context: Message | None = None,
        timestamp: datetime | str | None = None,
        anonymous_id: UserId = None,
        integrations: Message | None = None,
        message_id: str | None = None,
    ) -> bool:
        """Say that a user saw a screen of an app."""
        return self._put(
            messages.screen(
                user_id,
                category,
                name,
                properties,
                context,
                timestamp,
                anonymous_id,
                integrations,
                message_id,
            )
        )

    def group(
        self,
        user_id: UserId | Message = None,
        group_id: UserId = None,
        traits: Message | None = None,
        context: Message | None = None,
        timestamp: datetime | str | None = None,
        anonymous_id: UserId = None,
        integrations: Message | None = None,
        message_id: str | None = None,
    ) -> bool:
        """Say that a user belongs to a group."""
        return self._put(
            messages.group(user_id, group_id, traits, context, timestamp, anonymous_id, integrations, message_id)
        )

    def alias(
        self,
        previous_id: UserId | Message = None,
        user_id: UserId = None,
        context: Message | None = None,
        timestamp: datetime | str | None = None,
        integrations: Message | None = None,
        message_id: str | None = None,
    ) -> bool:
        """Say that two ids are one user."""
        return self._put(messages.alias(previous_id, user_id, context, timestamp, integrations, message_id))

    def _put(self, data: bytes) -> bool:
        reason = self._append(data)
        return reason is None or self._refused(reason, data)

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Have everything that the pipe holds now taken out of the ring, and wait for that; False when it took longer.

        Out of the ring means in Redis; without a persistence queue, delivered or given up. Events need no flush to be
        safe: the ring outlives this process.
        """
        return self._pipe.flush(timeout_s)

    def shutdown(self) -> None:
        """Flush, for ``shutdown_timeout_s`` at the most, and let go of the ring. Later events are refused."""
        self._pipe.flush(self.settings.shutdown_timeout_s)
        self._pipe.shut()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()


def _remade(explicit: dict[str, Any], config: str | None) -> Client:
    return Client(config=config, **explicit)
