"""What an application calls: clients, and the default one of the process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any
from weakref import WeakSet

import msgspec

from rudderpipe import settings as settings_module
from rudderpipe.errors import EventError, SettingsError
from rudderpipe.messages import encode, node_names
from rudderpipe.messages.build import track as _track
from rudderpipe.messages.context import current
from rudderpipe.messages.defaults import Maker
from rudderpipe.messages.processors import BeforeSend, Sampling, Shaper
from rudderpipe.messages.scrubber import Scrubber
from rudderpipe.process.clock import Clock
from rudderpipe.settings import Settings
from rudderpipe.settings.redis_url import RedisAddress
from rudderpipe.transports import flush as receipts
from rudderpipe.transports.callbacks import Callback, callbacks
from rudderpipe.transports.flush import Flush, FlushResult, Until
from rudderpipe.transports.intake import HOST_ERRORS, ErrorHandler, Intake
from rudderpipe.types import AliasMessage, GroupMessage, Id, IdentifyMessage, Moment, PageMessage, TrackMessage

UserId = Id | None
EventCallback = Callable[[Exception | None], Any] | Callable[[Exception | None, dict[str, Any]], Any]
FlushCallback = Callable[[Exception | None], Any] | Callable[[Exception | None, FlushResult], Any]
QueueCallback = Callable[[Exception | None], Any]
Message = Mapping[str, Any]

_ambient = current.get
_clients: WeakSet[Client] = WeakSet()
_default: Client | None = None


class Client:
    """Sends events to RudderStack, through shared memory and a process of its own.

    Made before or after a fork, used from any process and thread. It starts no thread and opens no socket here; the
    first event starts the flusher, unless ``autostart`` is off. Every setting can be given by name; what is not given
    comes from ``RUDDERPIPE_*`` variables, then from the TOML file ``config``. ``options`` are settings as a mapping, by
    our names or the Node SDK's. Two clients with the same settings share one pipe. Raises ``SettingsError``, and
    ``RingUnavailable`` where the host has nothing left to load our modules with.

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
        default: encode.Default | None = None,
        on_error: ErrorHandler | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(data_plane_url, Mapping):
            options = {**data_plane_url, **(options or {})}
            data_plane_url = None
        if options is not None and not isinstance(options, Mapping):
            raise SettingsError("options", f"must be a mapping, not {type(options).__name__}")
        given = node_names.settings_of(options or {})
        on_error = given.pop("on_error", None) if on_error is None else on_error
        self._explicit = {**given, **settings}
        self._explicit |= {
            name: value
            for name, value in (("write_key", write_key), ("data_plane_url", data_plane_url))
            if value is not None
        }
        self._config = config
        self._hosted = options is not None
        steps = (before_send,) if callable(before_send) or not isinstance(before_send, Iterable) else tuple(before_send)
        _check_callable("before_send", *steps)
        _check_callable("default", *([] if default is None else [default]))
        _check_callable("on_error", *([] if on_error is None else [on_error]))
        if scrubber is not None and not isinstance(scrubber, Scrubber):
            raise SettingsError("scrubber", f"must be a rudderpipe.Scrubber, not {type(scrubber).__name__}")
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
        maker = Maker(context, integrations, default)
        self._clock = Clock()
        self._intake = Intake(self._clock, maker, Shaper(sampling, steps, scrubber) if shapes else None, on_error)
        self._intake.use(self._load(self._explicit))
        _clients.add(self)
        if options is not None:
            self._explicit.setdefault("data_plane_url", self.settings.data_plane_url)

    def __reduce__(self) -> tuple[Any, ...]:
        """What another process makes its own client of (``multiprocessing`` with spawn); holds the write key."""
        return _remade, (self._explicit, self._config, self._more)

    @property
    def settings(self) -> Settings:
        """The settings in use."""
        return self._intake.settings

    def _load(self, explicit: Mapping[str, Any]) -> Settings:
        settings = settings_module.load(explicit, config=self._config)
        if self._hosted and not settings.data_plane_url:
            settings = msgspec.structs.replace(settings, data_plane_url=node_names.HOSTED)
        return settings

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
            self._intake.leave()
            self._intake.use(chosen)
        error = None
        if self._intake.has_ring:
            from rudderpipe.transports import queue_check

            error = queue_check.trouble(chosen)
        if callback is not None:
            callbacks.call(callback, error)
        elif error is not None:
            raise error

    def createPersistenceQueue(self, queueOpts: Mapping[str, Any], callback: QueueCallback | None = None) -> None:  # noqa: N802, N803  # the Node SDK's names
        """``create_persistence_queue`` by the Node SDK's names: ``redisOpts``, ``queueName``, ``jobOpts`` and so on."""
        self.create_persistence_queue(callback=callback, **node_names.queue_settings_of(queueOpts))

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
        return self._intake.call(
            "identify", callback, user_id, traits, context, timestamp, anonymous_id, integrations, message_id
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
        around, intake = _ambient(), self._intake
        if intake.is_fast and callback is None and (around is None or type(user_id) is str):
            try:
                if around is not None:
                    context = {**around, **(context or {})}
                data = _track(user_id, event, properties, context, timestamp, anonymous_id, integrations, message_id)
            except Exception:  # noqa: BLE001, S110  # whatever it is, the slow path meets it again, and says so
                pass
            else:
                try:
                    reason = intake.append(data)
                    return reason is None or intake.refused(reason, data)
                except HOST_ERRORS as error:
                    return intake.cannot_take(error)
        return self._intake.call(
            "track", callback, user_id, event, properties, context, timestamp, anonymous_id, integrations, message_id
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
        return self._intake.call(
            "page",
            callback,
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
        return self._intake.call(
            "screen",
            callback,
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
        return self._intake.call(
            "group", callback, user_id, group_id, traits, context, timestamp, anonymous_id, integrations, message_id
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
        return self._intake.call("alias", callback, previous_id, user_id, context, timestamp, integrations, message_id)

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
        callbacks.watch(receipts.teller(flush, timeout_s, self._clock, callback))
        return flush.poll()

    async def aflush(self, timeout_s: float = 10.0, until: Until = "queued") -> FlushResult:
        """``flush`` for asyncio: other tasks go on meanwhile."""
        return await receipts.wait_in_turn(self._begin_flush(until), timeout_s, self._clock)

    def _begin_flush(self, until: Until) -> Flush:
        if until not in ("queued", "delivered"):
            raise SettingsError("until", 'must be "queued" or "delivered"')
        return self._intake.begin_flush(until)

    def warm_up(self) -> None:
        """Claim a slot and start the flusher now, so that the first event does not pay for it."""
        self._intake.warm_up()

    def counts(self) -> Mapping[str, int]:
        """Return the events of this process: ``accepted``, and refused by reason; in a pipe, since it took its slot."""
        return self._intake.counts()

    def put_encoded(self, data: bytes, callback: Callback | None = None) -> bool:
        """Send a message that is complete, and JSON already; for what speaks for another SDK. Answers as ``track``."""
        return self._intake.put(data, callback)

    def refuse(self, error: EventError, callback: Callback | None = None) -> bool:
        """Count and log a message that could not be made; raise the error when ``strict``."""
        return self._intake.refuse(error, callback)

    def shutdown(self, timeout_s: float | None = None) -> None:
        """Flush, let callbacks be called, and let go of the ring, within ``shutdown_timeout_s`` or the time given.

        May be called again.

        Later events are refused. Nothing needs it: what was accepted is delivered without this process.
        """
        if self._intake.is_shut:
            return
        timeout_s = self.settings.shutdown_timeout_s if timeout_s is None else timeout_s
        deadline_s = self._clock.monotonic_s() + timeout_s
        self.flush(timeout_s)
        callbacks.wait(max(0.0, deadline_s - self._clock.monotonic_s()))
        self._intake.shut()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()


def _check_callable(name: str, *values: object) -> None:
    for value in values:
        if not callable(value):
            raise SettingsError(name, f"must be callable, not {type(value).__name__}")


def _remade(explicit: dict[str, Any], config: str | None, more: dict[str, Any]) -> Client:
    return Client(config=config, **explicit, **more)


def living() -> list[Client]:
    """Return the clients of this process that were not shut down."""
    return [client for client in list(_clients) if not client._intake.is_shut]  # noqa: SLF001  # its own module


def configure(*arguments: Any, **settings: Any) -> Client:
    """Make the default client; arguments and errors are those of ``Client``. One made before is shut down."""
    global _default  # that is what it is
    before, _default = _default, Client(*arguments, **settings)
    if before is not None:
        before.shutdown()
    return _default


def default_client() -> Client:
    """Return the client that ``configure`` made, else one by ``RUDDERPIPE_*`` variables. Raise ``SettingsError``."""
    global _default  # as above
    if _default is None:
        _default = Client()
    return _default
