"""The client that an application calls, and the default client of the process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, get_args
from weakref import WeakSet

import msgspec

from rudderpipe import settings as settings_module
from rudderpipe.errors import EventError, SettingsError
from rudderpipe.messages import encode, node_names, wire
from rudderpipe.messages.build import track as _track
from rudderpipe.messages.context import current
from rudderpipe.messages.defaults import Defaults
from rudderpipe.messages.processors import BeforeSend, check_callable, shaper_of, steps_of
from rudderpipe.messages.scrubber import Scrubber
from rudderpipe.process.clock import Clock
from rudderpipe.process.handlers import let_through
from rudderpipe.settings import Settings
from rudderpipe.settings.redis_url import RedisAddress
from rudderpipe.transports.callbacks import Callback, callbacks
from rudderpipe.transports.flush import FlushCallback, FlushResult, Until, report_to, wait_for, wait_in_turn
from rudderpipe.transports.intake import HOST_ERRORS, ErrorHandler, Intake, logger
from rudderpipe.types import (
    AliasMessage,
    EventCallback,
    GroupMessage,
    IdentifyMessage,
    Kind,
    Message,
    Moment,
    PageMessage,
    Sent,
    TrackMessage,
    UserId,
    WholeMessage,
    arguments_of,
    or_message,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack  # only type checkers need it, and Python 3.10 has none of its own

    from rudderpipe.settings.arguments import QueueArguments, SettingsArguments

QueueCallback = Callable[[], Any] | Callable[[Exception | None], Any]

_context_of_request = current.get
_clients: WeakSet[Client] = WeakSet()
_default: Client | None = None


class Client:
    """A client, which sends events to RudderStack through shared memory and a separate flusher process.

    A client may be created before or after a fork, and used from any process and thread. It starts no thread and opens
    no socket in this process, except for callbacks and ``sync_mode``. The first event starts the flusher, unless
    ``autostart`` is off. Every setting may be given by name. A setting that is not given comes from its
    ``RUDDERPIPE_*`` variable, then from the TOML file ``config``; or, if the value ``settings`` is given, from that
    alone. ``options`` is a mapping of settings, by the names of rudderpipe or of the Node SDK. Two clients with the
    same settings share one pipe. The constructor raises ``SettingsError``, and ``RingUnavailable`` if the host has no
    memory or descriptor left to load a module.

    A call does not raise if its event is wrong: the error is logged (one line a second), the event is counted, and the
    call returns False. With ``strict``, meant for tests, the call raises the error.

    ``context`` and ``integrations`` are added to every message, except for keys that the message has itself.
    ``sample_events``, ``sample_users``, ``before_send`` and ``scrubber`` decide in this order what is sent; see
    ``docs/client.md``. ``default`` converts values of unknown type, like the ``default`` of ``json.dumps``.
    ``on_error(error, messages)`` is called for events of this process that will not be delivered, if that is decided
    before the events are in a queue.
    """

    def __init__(
        self,
        write_key: str | None = None,
        data_plane_url: str | Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        settings: Settings | None = None,
        config: str | None = None,
        before_send: BeforeSend | Iterable[BeforeSend] = (),
        sample_events: Mapping[str, float] | None = None,
        sample_users: float = 1.0,
        scrubber: Scrubber | None = None,
        context: Message | None = None,
        integrations: Message | None = None,
        default: encode.Default | None = None,
        on_error: ErrorHandler | None = None,
        **more: Unpack[SettingsArguments],
    ) -> None:
        data_plane_url, options = node_names.url_and_options(data_plane_url, options)
        given = node_names.settings_of(options or {})
        on_error = given.pop("on_error", None) if on_error is None else on_error
        first = {"write_key": write_key, "data_plane_url": data_plane_url}
        self._explicit = {**given, **more, **{name: value for name, value in first.items() if value is not None}}
        self._base, self._config = settings, config
        self._hosted = options is not None
        steps = steps_of(before_send)
        check_callable("default", default)
        check_callable("on_error", on_error)
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
        self._clock = Clock()
        shaper = shaper_of(sample_events, sample_users, steps, scrubber)
        self._intake = Intake(self._clock, Defaults(context, integrations, default), shaper, on_error)
        self._intake.use(self._load(self._explicit))
        _clients.add(self)
        if options is not None:
            self._explicit.setdefault("data_plane_url", self.settings.data_plane_url)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the arguments from which another process makes its client; they contain the write key.

        ``multiprocessing`` with spawn uses this.
        """
        return _remade, (self._explicit, self._base, self._config, self._more)

    @property
    def settings(self) -> Settings:
        """The settings in use."""
        return self._intake.settings

    def _load(self, explicit: Mapping[str, Any]) -> Settings:
        settings = settings_module.load(explicit, config=self._config, base=self._base)
        if self._hosted and not settings.data_plane_url:
            settings = msgspec.structs.replace(settings, data_plane_url=node_names.HOSTED)
        return settings

    def create_persistence_queue(
        self,
        redis: str | Mapping[str, Any] | RedisAddress | Sequence[str | Mapping[str, Any] | RedisAddress] | None = None,
        callback: QueueCallback | None = None,
        **settings: Unpack[QueueArguments],
    ) -> None:
        """Send events through a queue in Redis, which Bull's tools and RudderStack's Node SDK can read.

        ``redis`` is a URL or a mapping of host, port, db, username and password. ``settings`` are settings by name,
        such as ``queue_name``, ``prefix``, ``is_multi_processor`` and ``max_attempts``. Call this method before the
        first event.

        A Redis that cannot be used is a warning in the log, because events wait in the ring until Redis is available.
        Raises ``QueueUnavailable`` for it only when ``strict``, and ``AnotherDataPlane`` when the queue belongs to
        another data plane. With ``callback``, either error is passed to ``callback`` instead, or None on success.
        """
        explicit = {**self._explicit, **settings}
        if redis is not None:
            explicit["redis"] = redis
        chosen = self._load(explicit)
        if chosen.redis is None:
            raise SettingsError("redis", "is missing; give the address of the Redis server for the queue")
        self._explicit = explicit
        if chosen != self.settings:
            self._intake.leave()
            self._intake.use(chosen)
        self._intake.check_queue(callback)

    def createPersistenceQueue(self, queueOpts: Mapping[str, Any], callback: QueueCallback | None = None) -> None:  # noqa: N802, N803  # the Node SDK's names
        """Call ``create_persistence_queue`` with the Node SDK's names, such as ``redisOpts`` and ``queueName``.

        With ``callback``, a ``SettingsError`` is logged and passed to ``callback`` too.
        """
        try:
            self.create_persistence_queue(callback=callback, **node_names.queue_settings_of(queueOpts))
        except SettingsError as error:
            if callback is None:
                raise
            logger.error("no queue was created, because its options are wrong: %s", error)
            callbacks.call(callback, error)

    @or_message(IdentifyMessage)
    def identify(
        self,
        user_id: UserId = None,
        traits: Message | None = None,
        context: Message | None = None,
        timestamp: Moment | None = None,
        anonymous_id: UserId = None,
        integrations: Message | None = None,
        message_id: str | None = None,
        callback: EventCallback | None = None,
    ) -> bool:
        """Record who a user is: ``client.identify("123456", {"email": "name@domain.com"})``.

        The traits are also added to the message's context. The other arguments and the result are those of ``track``.
        """
        own = {"userId": user_id, "traits": traits}
        return self._intake.call("identify", callback, own, anonymous_id, context, timestamp, integrations, message_id)

    @or_message(TrackMessage)
    def track(
        self,
        user_id: UserId = None,
        event: str | None = None,
        properties: Message | None = None,
        context: Message | None = None,
        timestamp: Moment | None = None,
        anonymous_id: UserId = None,
        integrations: Message | None = None,
        message_id: str | None = None,
        callback: EventCallback | None = None,
    ) -> bool:
        """Record what a user did: ``client.track("123456", "Item Viewed", {"price": 19.95})``.

        ``user_id`` or ``anonymous_id`` must be given, as text or as a number. ``timestamp`` is the time of the event;
        the default is now, and a datetime without a time zone is UTC. ``message_id`` identifies the event; the server
        may drop a second event with the same id. The whole message may be given as one mapping with the names of the
        wire instead: ``client.track({"userId": "123456", "event": …})``.

        Return True if the event is accepted. An accepted event is not lost, whatever happens to this process. Return
        False if the event is refused; a refused event is counted and logged. The call raises only with
        ``when_full="raise"`` or ``strict``.

        ``callback(error, message)`` is called once, on a separate thread, when the event has left this host's ring:
        the event is then in Redis, or in direct mode delivered or failed. The callback is not called if the process
        ends first.
        """
        in_request, intake = _context_of_request(), self._intake
        if intake.is_fast and callback is None and (in_request is None or type(user_id) is str):
            try:
                if in_request is not None:
                    context = {**in_request, **(context or {})}
                data = _track(user_id, event, properties, context, timestamp, anonymous_id, integrations, message_id)
            except Exception as error:  # noqa: BLE001  # the slow path raises the same error again, and logs it
                let_through(error)
            else:
                try:
                    reason = intake.append(data)
                    return reason is None or intake.refused(reason, data)
                except HOST_ERRORS as error:
                    return intake.cannot_take(error)
        own = {"userId": user_id, "event": event, "properties": properties}
        return self._intake.call("track", callback, own, anonymous_id, context, timestamp, integrations, message_id)

    @or_message(PageMessage)
    def page(
        self,
        user_id: UserId = None,
        category: str | None = None,
        name: str | None = None,
        properties: Message | None = None,
        context: Message | None = None,
        timestamp: Moment | None = None,
        anonymous_id: UserId = None,
        integrations: Message | None = None,
        message_id: str | None = None,
        callback: EventCallback | None = None,
    ) -> bool:
        """Record that a user saw a page: ``client.page("123456", "Docs", "Queue", {"path": "/docs/queue"})``.

        ``category`` and ``name`` are optional. The other arguments and the result are those of ``track``.
        """
        own = {"userId": user_id, "category": category, "name": name, "properties": properties}
        return self._intake.call("page", callback, own, anonymous_id, context, timestamp, integrations, message_id)

    @or_message(PageMessage)
    def screen(
        self,
        user_id: UserId = None,
        category: str | None = None,
        name: str | None = None,
        properties: Message | None = None,
        context: Message | None = None,
        timestamp: Moment | None = None,
        anonymous_id: UserId = None,
        integrations: Message | None = None,
        message_id: str | None = None,
        callback: EventCallback | None = None,
    ) -> bool:
        """Record that a user saw a screen of an app; the arguments and the result are those of ``page``."""
        own = {"userId": user_id, "category": category, "name": name, "properties": properties}
        return self._intake.call("screen", callback, own, anonymous_id, context, timestamp, integrations, message_id)

    @or_message(GroupMessage)
    def group(
        self,
        user_id: UserId = None,
        group_id: UserId = None,
        traits: Message | None = None,
        context: Message | None = None,
        timestamp: Moment | None = None,
        anonymous_id: UserId = None,
        integrations: Message | None = None,
        message_id: str | None = None,
        callback: EventCallback | None = None,
    ) -> bool:
        """Record that a user belongs to a group: ``client.group("123456", "acme", {"plan": "pro"})``.

        ``traits`` describe the group. The other arguments and the result are those of ``track``.
        """
        own = {"userId": user_id, "groupId": group_id, "traits": traits}
        return self._intake.call("group", callback, own, anonymous_id, context, timestamp, integrations, message_id)

    @or_message(AliasMessage)
    def alias(
        self,
        previous_id: UserId = None,
        user_id: UserId = None,
        context: Message | None = None,
        timestamp: Moment | None = None,
        integrations: Message | None = None,
        message_id: str | None = None,
        traits: Message | None = None,
        anonymous_id: UserId = None,
        callback: EventCallback | None = None,
    ) -> bool:
        """Record that two ids belong to one user: ``client.alias("anonymous-1", "123456")``.

        Both ids must be given. ``traits`` describe the user; the other arguments and the result are those of ``track``.
        """
        own = {"previousId": previous_id, "userId": user_id, "traits": traits}
        return self._intake.call("alias", callback, own, anonymous_id, context, timestamp, integrations, message_id)

    def send_many(self, messages: Iterable[WholeMessage]) -> Sent:
        """Send whole messages: ``client.send_many({"type": "track", "userId": u, "event": "Import"} for u in users)``.

        ``type`` names the call of a message, and each message is handled as in that call. Their order is kept.
        ``result.accepted`` counts the accepted messages, and ``result.refused`` has the reasons of the others by index.

        Events go into the ring in chunks, because that costs less. An event is accepted once its chunk is in the ring,
        and not already when the iterable is asked for the next message. A chunk has at most 64 events and 32 KiB, and
        ends when 10 ms have passed since the last one. So up to 63 events wait while the iterable waits; use single
        calls for messages from such a source. With other steps than ``context`` before the ring, no event waits.

        Where a call would raise (``strict``, ``when_full="raise"``), this method raises at the first refused message.
        An exception of the iterable is raised once the messages before it are sent. Either has the result as ``sent``.
        """
        return self._intake.send_many(messages)

    def preview(self, kind: Kind, *arguments: Any, **named: Any) -> dict[str, Any] | None:
        """Return the message that a call would send: ``client.preview("track", "123456", "Item Viewed")``.

        ``kind`` is the name of the call, and the other arguments are the call's. Nothing is sent, counted or started,
        and no callback is called. The message is as it stands after the context, sampling, ``before_send`` and the
        scrubber; the sender adds ``sentAt``. Return None if sampling or ``before_send`` drops the event. Raises
        ``EventError`` if the event is wrong.
        """
        import inspect  # here, because no other call needs it

        if kind not in get_args(Kind):
            raise EventError("kind", f"must be one of {', '.join(get_args(Kind))}")
        bound = inspect.signature(getattr(Client, kind)).bind(self, *arguments, **named)
        bound.apply_defaults()
        _, *given, _ = bound.arguments.items()  # without self and callback
        return self._intake.preview(kind, {wire.WIRE_NAMES.get(name, name): value for name, value in given})

    def flush(
        self, timeout_s: float | FlushCallback = 10.0, until: Until = "queued", *, callback: FlushCallback | None = None
    ) -> FlushResult:
        """Make the flusher drain the events that the ring holds now, and wait at most ``timeout_s`` for that.

        A drained event is in Redis; without a persistence queue it is delivered or failed. ``until="delivered"`` also
        waits for the events in the queue. Calling ``flush`` is optional, because accepted events outlive this process.

        With ``callback`` (also in place of ``timeout_s``) the call does not wait: ``callback(error, result)`` is called
        later.
        """
        if callable(timeout_s):
            callback, timeout_s = timeout_s, 10.0
        flush = self._intake.begin_flush(until)
        if callback is None:
            return wait_for(flush, timeout_s, self._clock, self._clock.sleep)
        callbacks.watch(report_to(flush, timeout_s, self._clock, callback))
        return flush.poll()

    async def aflush(self, timeout_s: float = 10.0, until: Until = "queued") -> FlushResult:
        """Flush as ``flush`` does, for asyncio: other tasks run during the wait."""
        return await wait_in_turn(self._intake.begin_flush(until), timeout_s, self._clock)

    def warm_up(self) -> None:
        """Claim a slot and start the flusher now, so that the first event does not pay for it."""
        self._intake.warm_up()

    def counts(self) -> Mapping[str, int]:
        """Return the number of this process's events: ``accepted``, and refused by reason.

        With a ring, accepted events are counted since this process took its slot.
        """
        return self._intake.counts()

    def put_encoded(self, data: bytes, callback: Callback | None = None) -> bool:
        """Send a complete message that is JSON already, as other SDKs' drop-ins do; the result is that of ``track``."""
        return self._intake.put(data, callback)

    def refuse(self, error: EventError, callback: Callback | None = None) -> bool:
        """Count and log a message that could not be made; raise the error when ``strict``."""
        return self._intake.refuse(error, callback)

    def shutdown(self, timeout_s: float | None = None) -> None:
        """Flush, wait for callbacks, and release the ring, within ``timeout_s`` or ``shutdown_timeout_s``.

        Later events are refused. This method may be called again. Calling it is optional, because accepted events are
        delivered without this process.
        """
        if self._intake.is_shut:
            return
        timeout_s = self.settings.shutdown_timeout_s if timeout_s is None else timeout_s
        deadline_s = self._clock.monotonic_s() + timeout_s
        result = self.flush(timeout_s)
        callbacks.wait(max(0.0, deadline_s - self._clock.monotonic_s()))
        self._intake.shut(result.pending if timeout_s else 0)  # a caller that does not wait knows

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()


def _remade(explicit: dict[str, Any], settings: Settings | None, config: str | None, more: dict[str, Any]) -> Client:
    return Client(settings=settings, config=config, **explicit, **more)


def living() -> list[Client]:
    """Return the clients of this process that were not shut down."""
    return [client for client in list(_clients) if not client._intake.is_shut]  # noqa: SLF001  # same module


@arguments_of(Client)
def configure(*arguments: Any, **settings: Any) -> Client:
    """Create the default client and shut down the previous one; arguments and errors are those of ``Client``."""
    global _default  # one default client for the process
    before, _default = _default, Client(*arguments, **settings)
    if before is not None:
        before.shutdown()
    return _default


def default_client() -> Client:
    """Return the default client; without ``configure``, create it from ``RUDDERPIPE_*`` variables.

    Raises ``SettingsError``.
    """
    global _default  # as above
    if _default is None:
        _default = Client()
    return _default
