"""What an application calls."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any
from weakref import WeakSet

import msgspec

from rudderpipe import event as messages
from rudderpipe import node_names, receipts, values
from rudderpipe import settings as settings_module
from rudderpipe.callbacks import Callback, callbacks
from rudderpipe.callbacks import accepted as accepted_arguments
from rudderpipe.checks import mapping as checked_mapping
from rudderpipe.clock import Clock
from rudderpipe.errors import (
    DeliveryError,
    EventError,
    FlushTimeout,
    QueueUnavailable,
    RingFull,
    RingUnavailable,
    SettingsError,
)
from rudderpipe.outlets import Nowhere, Outlet
from rudderpipe.receipts import Flush, FlushResult, Until
from rudderpipe.redis_address import RedisAddress
from rudderpipe.settings import LOG_LEVELS, Settings
from rudderpipe.shape.ambient import current as ambient
from rudderpipe.shape.sampling import Sampling
from rudderpipe.shape.scrubber import Scrubber
from rudderpipe.shape.shaper import BeforeSend, Shaper
from rudderpipe.types import AliasMessage, GroupMessage, Id, IdentifyMessage, Moment, PageMessage, TrackMessage

CHECK_TIMEOUT_S = 20.0

UserId = Id | None
EventCallback = Callable[[Exception | None], Any] | Callable[[Exception | None, dict[str, Any]], Any]
FlushCallback = Callable[[Exception | None], Any] | Callable[[Exception | None, FlushResult], Any]
QueueCallback = Callable[[Exception | None], Any]
ErrorHandler = Callable[[Exception, list[dict[str, Any]]], Any]
Message = Mapping[str, Any]

logger = logging.getLogger("rudderpipe")
_clients: WeakSet[Client] = WeakSet()
_diverted: Outlet | None = None


class Client:
    """Sends events to RudderStack, through shared memory and a process of its own.

    Made before or after a fork, used from any process and thread. It starts no thread and opens no socket here; the
    first event starts the flusher, unless ``autostart`` is off. Every setting can be given by name; what is not given
    comes from ``RUDDERPIPE_*`` variables, then from the TOML file ``config``. ``options`` are settings as a mapping, by
    our names or the Node SDK's. Two clients with the same settings share one pipe. Raises ``SettingsError``.

    No call raises for what is wrong with an event: that is logged (one line a second), counted, and answered by False.
    With ``strict`` it is raised, for tests. With ``dry_run`` each call answers the message, a ``dict``, which the type
    of its answer does not say: that is for trying things.

    ``context`` and ``integrations`` are added to every message that has none of its own under the same key.
    ``sample_events``, ``sample_users``, ``before_send`` and ``scrubber`` say what is sent, in that order; see
    ``docs/client.md``. ``default`` is asked for values of unknown type, as that of ``json.dumps``. ``on_error(error,
    messages)`` is told of events of this process that will not be delivered, as far as that is decided before they
    are in a queue.
    """

    def __init__(
        self,
        write_key: str | None = None,
        data_plane_url: str | Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        config: str | None = None,
        before_send: BeforeSend | Iterable[BeforeSend] = (),
        sample_events: Mapping[str, float] | None = None,
        sample_users: float = 1.0,
        scrubber: Scrubber | None = None,
        context: Message | None = None,
        integrations: Message | None = None,
        default: values.Default | None = None,
        on_error: ErrorHandler | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(data_plane_url, Mapping):
            options = {**data_plane_url, **(options or {})}
            data_plane_url = None
        given = node_names.settings_of(options or {})
        on_error = on_error or given.pop("on_error", None)
        self._explicit = {**given, **settings}
        self._explicit |= {
            name: value
            for name, value in (("write_key", write_key), ("data_plane_url", data_plane_url))
            if value is not None
        }
        self._config = config
        self._hosted = options is not None
        steps = (before_send,) if callable(before_send) else tuple(before_send)
        self._more = {
            "before_send": steps,
            "sample_events": sample_events,
            "sample_users": sample_users,
            "scrubber": scrubber,
            "context": context,
            "integrations": integrations,
            "default": default,
            "on_error": on_error,
        }
        sampling = Sampling(sample_events, sample_users)
        shapes = sample_events or sample_users != 1.0 or steps or scrubber is not None
        self._shaper = Shaper(sampling, steps, scrubber) if shapes else None
        self._context = _part("context", context)
        self._integrations = _part("integrations", integrations)
        self._default = default
        self._on_error = on_error
        self._clock = Clock()
        self._is_shut = False
        self._use(self._load(self._explicit))
        _clients.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """What another process makes its own client of (``multiprocessing`` with spawn); holds the write key."""
        return _remade, (self._explicit, self._config, self._more)

    def _load(self, explicit: Mapping[str, Any]) -> Settings:
        settings = settings_module.load(explicit, config=self._config)
        if self._hosted and not settings.data_plane_url:
            settings = msgspec.structs.replace(settings, data_plane_url=node_names.HOSTED)
        return settings

    def _use(self, settings: Settings) -> None:
        settings.require("write_key", "data_plane_url")
        if settings.log_level is not None:
            logger.setLevel(LOG_LEVELS[settings.log_level])
        self.settings = settings
        self._own = self._make_outlet(settings)
        self._route()

    def _make_outlet(self, settings: Settings) -> Outlet:
        if settings.dry_run or not settings.enable:
            return Nowhere(shows=settings.dry_run)
        if settings.sync_mode:
            from rudderpipe.sync import InTheCall

            return InTheCall(settings, self._clock)
        # Not with the module: shared memory and psutil take as long to load as all the rest.
        from rudderpipe import pipe

        return pipe.shared(settings.for_processes(), self._clock)

    def _route(self) -> None:
        """Plain calls go straight to the ring; all that is more than that goes the long way, through ``_put``."""
        outlet = self._outlet = self._own if _diverted is None else _diverted
        extras = (self._shaper, self._context, self._integrations, self._default, self._on_error)
        short = outlet.short_way()
        self._plain = short is not None and not any(extras) and not self._is_shut
        if short is not None:
            self._append, self._refused = short

    def create_persistence_queue(
        self,
        redis: str | Mapping[str, Any] | RedisAddress | None = None,
        callback: QueueCallback | None = None,
        **settings: Any,
    ) -> None:
        """Send events through a queue in Redis, which Bull's tools and RudderStack's Node SDK understand.

        ``redis`` is a URL or a mapping of host, port, db, username, password; ``queue_name``, ``prefix``,
        ``is_multi_processor``, ``max_attempts`` and the like are settings too. Call it before the first event.

        Raises ``QueueUnavailable`` when Redis cannot be reached (or has ``callback`` called with it; with None when all
        is well). From then on events go to the queue all the same: they are kept in the ring until Redis is there.
        """
        explicit = {**self._explicit, **settings}
        if redis is not None:
            explicit["redis"] = redis
        chosen = self._load(explicit)
        if chosen.redis is None:
            raise SettingsError("redis", "is missing: where is the queue to be?")
        self._explicit = explicit
        if chosen != self.settings:
            self._own.shut()
            self._use(chosen)
        error = None if self._outlet.short_way() is None else self._check_queue()
        if callback is not None:
            callbacks.call(callback, error)
        elif error is not None:
            raise error

    def createPersistenceQueue(self, queueOpts: Mapping[str, Any], callback: QueueCallback | None = None) -> None:  # noqa: N802, N803  # the Node SDK's names
        """``create_persistence_queue`` by the Node SDK's names: ``redisOpts``, ``queueName``, ``jobOpts`` and so on."""
        self.create_persistence_queue(callback=callback, **node_names.queue_settings_of(queueOpts))

    def _check_queue(self) -> QueueUnavailable | None:
        # In a process of its own: an application's process opens no socket to Redis, nor loads a client for it.
        import subprocess

        from rudderpipe import program

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

    # The six calls.

    def identify(
        self,
        user_id: UserId | IdentifyMessage | Message = None,
        traits: Message | EventCallback | None = None,
        context: Message | None = None,
        timestamp: Moment | None = None,
        anonymous_id: UserId = None,
        integrations: Message | None = None,
        message_id: str | None = None,
        callback: EventCallback | None = None,
    ) -> bool:
        """Tie a user to an id and to traits: ``client.identify("123456", {"email": "name@domain.com"})``.

        The traits are also in the message's context. Arguments and answer are those of ``track``.
        """
        return self._call(
            "identify",
            callback,
            user_id=user_id,
            traits=traits,
            context=context,
            timestamp=timestamp,
            anonymous_id=anonymous_id,
            integrations=integrations,
            message_id=message_id,
        )

    def track(
        self,
        user_id: UserId | TrackMessage | Message = None,
        event: str | EventCallback | None = None,
        properties: Message | None = None,
        context: Message | None = None,
        timestamp: Moment | None = None,
        anonymous_id: UserId = None,
        integrations: Message | None = None,
        message_id: str | None = None,
        callback: EventCallback | None = None,
    ) -> bool:
        """Say that a user did something: ``client.track("123456", "Item Viewed", {"price": 19.95})``.

        ``user_id`` or ``anonymous_id`` is needed, as text or number. ``timestamp``: when it happened, now if not given;
        a datetime without a zone is UTC. ``message_id``: the server may drop a second event with the same one. Or give
        the whole message as one mapping in wire names: ``client.track({"userId": "123456", "event": …})``.

        True: the event is accepted, and will not be lost whatever happens to this process. False: it was refused,
        which is counted and logged; nothing is raised unless ``when_full="raise"`` or ``strict`` ask for it.

        ``callback(error, message)`` is called once, on a thread of its own, when the event has left this host's ring
        for good: it is in Redis, or in direct mode delivered or failed. It is not called if the process ends before.
        """
        if self._plain and callback is None and type(event) is str and ambient.get() is None:
            try:
                data = messages.track(
                    user_id, event, properties, context, timestamp, anonymous_id, integrations, message_id
                )
            except Exception as error:  # noqa: BLE001  # no call raises for what is wrong with an event
                return self._invalid(error)
            reason = self._append(data)
            return reason is None or self._refused(reason, data)
        return self._call(
            "track",
            callback,
            user_id=user_id,
            event=event,
            properties=properties,
            context=context,
            timestamp=timestamp,
            anonymous_id=anonymous_id,
            integrations=integrations,
            message_id=message_id,
        )

    def page(
        self,
        user_id: UserId | PageMessage | Message = None,
        category: str | EventCallback | None = None,
        name: str | None = None,
        properties: Message | None = None,
        context: Message | None = None,
        timestamp: Moment | None = None,
        anonymous_id: UserId = None,
        integrations: Message | None = None,
        message_id: str | None = None,
        callback: EventCallback | None = None,
    ) -> bool:
        """Say that a user saw a page: ``client.page("123456", "Docs", "Queue", {"path": "/docs/queue"})``.

        Neither category nor name is needed. The other arguments and the answer are those of ``track``.
        """
        return self._call(
            "page",
            callback,
            user_id=user_id,
            category=category,
            name=name,
            properties=properties,
            context=context,
            timestamp=timestamp,
            anonymous_id=anonymous_id,
            integrations=integrations,
            message_id=message_id,
        )

    def screen(
        self,
        user_id: UserId | PageMessage | Message = None,
        category: str | EventCallback | None = None,
        name: str | None = None,
        properties: Message | None = None,
        context: Message | None = None,
        timestamp: Moment | None = None,
        anonymous_id: UserId = None,
        integrations: Message | None = None,
        message_id: str | None = None,
        callback: EventCallback | None = None,
    ) -> bool:
        """Say that a user saw a screen of an app; as ``page``."""
        return self._call(
            "screen",
            callback,
            user_id=user_id,
            category=category,
            name=name,
            properties=properties,
            context=context,
            timestamp=timestamp,
            anonymous_id=anonymous_id,
            integrations=integrations,
            message_id=message_id,
        )

    def group(
        self,
        user_id: UserId | GroupMessage | Message = None,
        group_id: UserId | EventCallback = None,
        traits: Message | None = None,
        context: Message | None = None,
        timestamp: Moment | None = None,
        anonymous_id: UserId = None,
        integrations: Message | None = None,
        message_id: str | None = None,
        callback: EventCallback | None = None,
    ) -> bool:
        """Say that a user belongs to a group: ``client.group("123456", "acme", {"plan": "pro"})``.

        ``traits`` are the group's. The other arguments and the answer are those of ``track``.
        """
        return self._call(
            "group",
            callback,
            user_id=user_id,
            group_id=group_id,
            traits=traits,
            context=context,
            timestamp=timestamp,
            anonymous_id=anonymous_id,
            integrations=integrations,
            message_id=message_id,
        )

    def alias(
        self,
        previous_id: UserId | AliasMessage | Message = None,
        user_id: UserId | EventCallback = None,
        context: Message | None = None,
        timestamp: Moment | None = None,
        integrations: Message | None = None,
        message_id: str | None = None,
        callback: EventCallback | None = None,
    ) -> bool:
        """Say that two ids are one user: ``client.alias("anonymous-1", "123456")``.

        The other arguments and the answer are those of ``track``.
        """
        return self._call(
            "alias",
            callback,
            previous_id=previous_id,
            user_id=user_id,
            context=context,
            timestamp=timestamp,
            integrations=integrations,
            message_id=message_id,
        )

    # How a call that is more than plain goes on.

    def _call(self, kind: str, callback: Callback | None, **arguments: Any) -> bool:
        """The long way of all six calls, and the short one of the five that are rare."""
        first, second, *_ = arguments
        if callback is None and callable(arguments[second]) and isinstance(arguments[first], Mapping):
            callback, arguments[second] = arguments[second], None  # the Node SDK's form: message, callback
        try:
            data = self._encoded(kind, first, arguments)
        except Exception as error:  # noqa: BLE001  # no call raises for what is wrong with an event
            return self._invalid(error, callback)
        return self._put(data, callback)

    def _encoded(self, kind: str, first: str, arguments: dict[str, Any]) -> bytes:
        if self._default is not None:
            for name in ("properties", "traits", "context", "integrations", first):
                if arguments.get(name) is not None:
                    arguments[name] = values.plain(arguments[name], "" if name == first else name, self._default)
        context = {**self._context, **(ambient.get() or {})}
        whole = arguments[first] if isinstance(arguments[first], Mapping) else None
        if whole is not None and (context or self._integrations):
            added = {"context": context, "integrations": self._integrations}
            merged = {name: _merged(name, mine, whole.get(name)) for name, mine in added.items() if mine}
            arguments[first] = {**whole, **merged}
        elif whole is None:
            if context:
                arguments["context"] = _merged("context", context, arguments["context"])
            if self._integrations:
                arguments["integrations"] = _merged("integrations", self._integrations, arguments["integrations"])
        data: bytes = getattr(messages, kind)(*arguments.values())
        return data

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
        answer: bool = self._outlet.put(data, callback)  # or the message, with dry_run
        return answer

    def _invalid(self, error: Exception, callback: Callback | None = None) -> bool:
        if not isinstance(error, EventError):
            error = EventError("event", f"cannot be read: it raises {type(error).__name__}")
        self._outlet.refuse("invalid", error, callback)
        if self.settings.strict:
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

    def flush(
        self, timeout_s: float | FlushCallback = 10.0, until: Until = "queued", *, callback: FlushCallback | None = None
    ) -> FlushResult:
        """Have everything that the pipe holds now taken out of the ring, and wait for that, ``timeout_s`` at the most.

        Out of the ring means in Redis; without a persistence queue, delivered or failed. ``until="delivered"`` waits
        for the queue's events too. Events need no flush to be safe: the ring outlives this process.

        With ``callback`` (or that in place of the time) it does not wait: ``callback(error, result)`` is called later.
        """
        if callable(timeout_s):
            callback, timeout_s = timeout_s, 10.0
        flush = self._begin_flush(until)
        if callback is None:
            return receipts.wait(flush, timeout_s, self._clock, time.sleep)
        deadline_s = self._clock.monotonic_s() + timeout_s

        def poll() -> bool:
            result = flush.poll()
            late = not result.complete and self._clock.monotonic_s() >= deadline_s
            if result.complete or late:
                error = FlushTimeout(timeout_s, result.pending + result.queued) if late else None
                callbacks.call(callback, error, result)
            return result.complete or late

        callbacks.watch(poll)
        return flush.poll()

    def _begin_flush(self, until: Until) -> Flush:
        if until not in ("queued", "delivered"):
            raise SettingsError("until", 'must be "queued" or "delivered"')
        try:
            return self._outlet.flush(until)
        except RingUnavailable as error:
            logger.warning("cannot flush: %s", error)
            return _Stuck()

    async def aflush(self, timeout_s: float = 10.0, until: Until = "queued") -> FlushResult:
        """``flush`` for asyncio: other tasks go on meanwhile."""
        import asyncio

        flush = self._begin_flush(until)
        deadline_s = self._clock.monotonic_s() + timeout_s
        while not (result := flush.poll()).complete and self._clock.monotonic_s() < deadline_s:
            await asyncio.sleep(receipts.STEP_S)
        return result

    def shutdown(self) -> None:
        """Flush, let callbacks be called, and let go of the ring, within ``shutdown_timeout_s``; may be called again.

        Later events are refused. Nothing needs it: what was accepted is delivered without this process.
        """
        if self._is_shut:
            return
        deadline_s = self._clock.monotonic_s() + self.settings.shutdown_timeout_s
        self.flush(self.settings.shutdown_timeout_s)
        callbacks.wait(max(0.0, deadline_s - self._clock.monotonic_s()))
        self._is_shut, self._plain = True, False
        self._own.shut()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()


class _Stuck:
    """A flush of a ring that cannot be opened."""

    def poll(self) -> FlushResult:
        """Never complete."""
        return FlushResult(complete=False)


def _remade(explicit: dict[str, Any], config: str | None, more: dict[str, Any]) -> Client:
    return Client(config=config, **explicit, **more)


def _part(name: str, value: Message | None) -> dict[str, Any]:
    try:
        return {} if value is None else values.plain(checked_mapping(name, value), name)
    except EventError as error:
        raise SettingsError(error.field, error.reason) from None


def _merged(name: str, mine: Mapping[str, Any], given: Any) -> dict[str, Any]:
    return dict(mine) if given is None else {**mine, **checked_mapping(name, given)}


def _both(callback: Callback | None, on_error: Callable[..., Any], data: bytes) -> Callback:
    def told(error: Exception | None, message: Any) -> None:
        try:
            if callback is not None:
                callback(error, *[message][: accepted_arguments(callback) - 1])
        finally:
            if isinstance(error, DeliveryError):
                on_error(error, *[[msgspec.json.decode(data)]][: accepted_arguments(on_error) - 1])

    return told


def divert(outlet: Outlet | None) -> None:
    """Have all clients, also those to be made, put their events there; None: back to where they belong."""
    global _diverted  # of the process, as tests need it
    _diverted = outlet
    for client in list(_clients):
        client._route()  # noqa: SLF001  # its own module
