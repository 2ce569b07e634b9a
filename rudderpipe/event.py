"""The six calls' messages: checked, completed and encoded once, to the JSON that travels all the way.

What is put into a message, and which calls are refused, is what rudder-sdk-node 3 does; unlike it, a blank id is
missing (the server trims ids and refuses the whole batch), and ``sentAt`` is left to the sender.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from itertools import chain, repeat
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from rudderpipe import forks
from rudderpipe.errors import EventError
from rudderpipe.version import LIBRARY, VERSION

Traits = Mapping[str, Any]
Id = str | int | float
Maybe = Any | UnsetType

CHANNEL = "server"
_LIBRARY = {"name": LIBRARY, "version": VERSION}
_encode = msgspec.json.Encoder().encode
_CONTEXT = Raw(_encode({"library": _LIBRARY}))
_HEX = tuple(f"{number:03x}" for number in range(4096))
_utc = timezone.utc
_now = datetime.now


class _Message(Struct, gc=False):
    userId: Maybe  # noqa: N815  # wire names, here and below
    anonymousId: Maybe  # noqa: N815
    context: Any
    channel: str
    originalTimestamp: datetime  # noqa: N815
    messageId: str  # noqa: N815
    timestamp: Maybe
    integrations: Maybe


class _Track(_Message, tag_field="type", tag="track", gc=False):
    event: str
    properties: Maybe


class _Identify(_Message, tag_field="type", tag="identify", gc=False):
    traits: Maybe


class _Page(_Message, tag_field="type", tag="page", gc=False):
    category: Maybe
    name: Maybe
    properties: Maybe


class _Screen(_Page, tag_field="type", tag="screen", gc=False):
    pass


class _Group(_Message, tag_field="type", tag="group", gc=False):
    groupId: str  # noqa: N815
    traits: Maybe


class _Alias(_Message, tag_field="type", tag="alias", gc=False):
    previousId: str  # noqa: N815


class MessageIds:
    """Random UUIDs (version 4), 4,096 of which share all but their last three digits: 60 ns each."""

    next: Callable[[], str]
    """An id that no other call anywhere gets."""

    def __init__(self) -> None:
        forks.forget_in_children(self)
        self.forget()

    def forget(self) -> None:
        """Start from new random bits; forked workers with the same ones would make the same ids."""
        # No generator: it could not be entered again from a signal handler.
        self.next = chain.from_iterable(map(_family, repeat(16))).__next__


def _family(size_bytes: int) -> Iterator[str]:
    digits = os.urandom(size_bytes).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    prefix = f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:29]}"
    return map(prefix.__add__, _HEX)


_message_ids = MessageIds()


def track(
    user_id: Any,
    event: Any,
    properties: Any,
    context: Any,
    timestamp: Any,
    anonymous_id: Any,
    integrations: Any,
    message_id: Any,
) -> bytes:
    """A track message; raises ``EventError`` naming the argument, or the path of a value that JSON cannot hold."""
    # A first character that is visible ASCII makes an id that the server's trimming leaves: the ordinary case.
    if type(user_id) is not str or not "!" <= user_id < "\x7f" or anonymous_id is not None:
        if isinstance(user_id, Mapping):
            return from_wire("track", user_id, event, properties, context, timestamp, anonymous_id, integrations)
        user_id, anonymous_id = _ids(user_id, anonymous_id)
    else:
        anonymous_id = UNSET
    if type(event) is not str or not event:
        event = _text("event", event, required=True)
    if type(properties) is not dict:
        properties = _mapping("properties", properties)
    message = _Track(
        user_id,
        anonymous_id,
        _CONTEXT if context is None else _context(context),
        CHANNEL,
        _now(_utc),
        _message_ids.next() if message_id is None else _message_id(message_id),
        UNSET if timestamp is None else _moment("timestamp", timestamp),
        UNSET if integrations is None else _mapping("integrations", integrations),
        event,
        properties,
    )
    try:
        return _encode(message)
    except Exception as error:  # noqa: BLE001  # whatever a value raises: found again below, and named
        raise _explain(message, error) from None


def identify(
    user_id: Any, traits: Any, context: Any, timestamp: Any, anonymous_id: Any, integrations: Any, message_id: Any
) -> bytes:
    """An identify message; its traits are in the context too, where they replace any given there."""
    if isinstance(user_id, Mapping):
        return from_wire("identify", user_id, traits, context, timestamp, anonymous_id, integrations, message_id)
    traits = _mapping("traits", traits)
    common = _common(user_id, anonymous_id, _context(context, traits), timestamp, integrations, message_id)
    return _encoded(_Identify(*common, traits))


def page(*arguments: Any) -> bytes:
    """A page message; the arguments are those of ``_viewed``."""
    return _viewed(_Page, *arguments)


def screen(*arguments: Any) -> bytes:
    """A screen message; the arguments are those of ``_viewed``."""
    return _viewed(_Screen, *arguments)


def _viewed(
    kind: type[_Page],
    user_id: Any,
    category: Any,
    name: Any,
    properties: Any,
    context: Any,
    timestamp: Any,
    anonymous_id: Any,
    integrations: Any,
    message_id: Any,
) -> bytes:
    if isinstance(user_id, Mapping):
        others = (category, name, properties, context, timestamp, anonymous_id, integrations, message_id)
        return from_wire("page" if kind is _Page else "screen", user_id, *others)
    common = _common(user_id, anonymous_id, _context(context), timestamp, integrations, message_id)
    return _encoded(kind(*common, _text("category", category), _text("name", name), _mapping("properties", properties)))


def group(
    user_id: Any,
    group_id: Any,
    traits: Any,
    context: Any,
    timestamp: Any,
    anonymous_id: Any,
    integrations: Any,
    message_id: Any,
) -> bytes:
    """A group message."""
    if isinstance(user_id, Mapping):
        others = (group_id, traits, context, timestamp, anonymous_id, integrations, message_id)
        return from_wire("group", user_id, *others)
    common = _common(user_id, anonymous_id, _context(context), timestamp, integrations, message_id)
    return _encoded(_Group(*common, _required_id("group_id", group_id), _mapping("traits", traits)))


def alias(
    previous_id: Any, user_id: Any, context: Any, timestamp: Any, integrations: Any, message_id: Any
) -> bytes:
    """An alias message."""
    if isinstance(previous_id, Mapping):
        return from_wire("alias", previous_id, user_id, context, timestamp, integrations, message_id)
    user_id = _required_id("user_id", user_id)
    common = _common(user_id, None, _context(context), timestamp, integrations, message_id)
    return _encoded(_Alias(*common, _required_id("previous_id", previous_id)))


def from_wire(kind: str, message: Mapping[str, Any], *others: Any) -> bytes:
    """The message of one call given whole, in wire names; keys that rudderpipe does not know travel along.

    As the Node SDK: ``type``, ``channel`` and ``context.library`` are always ours, ``messageId`` and
    ``originalTimestamp`` only where the caller gave none.
    """
    if any(other is not None for other in others):
        raise EventError("message", "is a whole message, so no other argument may be given")
    user_id, anonymous_id = message.get("userId"), message.get("anonymousId")
    if kind == "alias":
        user_id = _required_id("userId", user_id)
        previous_id = _required_id("previousId", message.get("previousId"))
    ids = _ids(user_id, anonymous_id, ("userId", "anonymousId"))
    whole: dict[str, Any] = dict(message)
    whole.pop("sentAt", None)
    for name, value in zip(("userId", "anonymousId"), ids, strict=True):
        if value is UNSET:
            whole.pop(name, None)
        else:
            whole[name] = value
    for name in ("category", "name"):
        _text(name, message.get(name))
    for name in ("properties", "traits", "integrations"):
        _mapping(name, message.get(name))
    if kind == "track":
        _text("event", message.get("event"), required=True)
    elif kind == "group":
        whole["groupId"] = _required_id("groupId", message.get("groupId"))
    elif kind == "alias":
        whole["previousId"] = previous_id
    for name in ("timestamp", "originalTimestamp"):
        if message.get(name):
            whole[name] = _moment(name, message[name])
    whole["type"] = kind
    whole["context"] = _context(message.get("context"), message.get("traits") if kind == "identify" else UNSET)
    whole["channel"] = CHANNEL
    whole["originalTimestamp"] = whole.get("originalTimestamp") or _now(_utc)
    given = message.get("messageId")
    whole["messageId"] = _message_ids.next() if not given else _message_id(given)
    return _encoded(whole)


def _common(
    user_id: Any, anonymous_id: Any, context: Any, timestamp: Any, integrations: Any, message_id: Any
) -> tuple[Any, ...]:
    return (
        *_ids(user_id, anonymous_id),
        context,
        CHANNEL,
        _now(_utc),
        _message_ids.next() if message_id is None else _message_id(message_id),
        UNSET if timestamp is None else _moment("timestamp", timestamp),
        _mapping("integrations", integrations),
    )


def _encoded(message: Any) -> bytes:
    try:
        return _encode(message)
    except Exception as error:  # noqa: BLE001  # whatever a value raises: found again below, and named
        raise _explain(message, error) from None


def _ids(user_id: Any, anonymous_id: Any, names: tuple[str, str] = ("user_id", "anonymous_id")) -> tuple[Any, Any]:
    user_id, anonymous_id = _id(names[0], user_id), _id(names[1], anonymous_id)
    if user_id is UNSET and anonymous_id is UNSET:
        raise EventError(names[0], f"is missing or blank, and so is {names[1]}; one of them is needed")
    return user_id, anonymous_id


def _id(name: str, value: Any) -> str | UnsetType:
    if value is None:
        return UNSET
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        if not hasattr(value, "hex") or not hasattr(value, "urn"):  # a UUID is an id to everybody
            raise EventError(name, f"must be a string or a number, not {type(value).__name__}")
    text = str(value)
    # The server drops invisible characters and blanks from an id before it asks whether there is one.
    return text if any(c.isprintable() and not c.isspace() for c in text) else UNSET


def _required_id(name: str, value: Any) -> str:
    text = _id(name, value)
    if text is UNSET:
        raise EventError(name, "is missing or blank")
    return text


def _text(name: str, value: Any, *, required: bool = False) -> Any:
    if value is None or value == "":
        if required:
            raise EventError(name, "is missing or blank")
        return UNSET
    if not isinstance(value, str):
        raise EventError(name, f"must be a string, not {type(value).__name__}")
    return value


def _mapping(name: str, value: Any) -> Any:
    if value is None or value is UNSET:
        return UNSET
    if not isinstance(value, Mapping):
        raise EventError(name, f"must be a mapping, not {type(value).__name__}")
    return value if isinstance(value, dict) else dict(value)


def _context(context: Any, traits: Any = UNSET) -> Any:
    given = _mapping("context", context)
    if given is UNSET and not traits:
        return _CONTEXT
    whole = {} if given is UNSET else dict(given)
    if traits:
        whole["traits"] = traits
    whole["library"] = _LIBRARY
    return whole


def _moment(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=_utc)
    if isinstance(value, str):
        return value
    raise EventError(name, f"must be a datetime or an ISO 8601 string, not {type(value).__name__}")


def _message_id(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    return _required_id("message_id", value)


def _explain(message: Any, error: Exception) -> EventError:
    values = msgspec.structs.asdict(message) if isinstance(message, Struct) else message
    path, culprit, reason = _culprit(values, "", error, set())
    if isinstance(reason, RecursionError):
        return EventError(path or "event", "refers to itself, or is nested too deeply")
    if isinstance(reason, UnicodeError):
        return EventError(path, "is text that UTF-8 cannot hold (a lone surrogate)")
    if isinstance(reason, OverflowError) or isinstance(culprit, int):
        return EventError(path, "is an integer of more than 64 bits")
    return EventError(path, f"is of type {type(culprit).__name__}, which JSON cannot hold")


def _culprit(value: Any, path: str, error: Exception, above: set[int]) -> tuple[str, Any, Exception]:
    """The innermost value that cannot be encoded by itself, and what it raises."""
    if id(value) in above:
        return path, value, RecursionError()
    children: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                failure = _failure({key: None})
                if failure:
                    return f"{path}[key of type {type(key).__name__}]".lstrip("."), key, failure
        children = [(f"{path}.{key}".lstrip("."), child) for key, child in value.items()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        children = [(f"{path}[{number}]", child) for number, child in enumerate(value)]
    for child_path, child in children:
        failure = _failure(child)
        if failure and len(above) < 200:
            return _culprit(child, child_path, failure, above | {id(value)})
    return path, value, error


def _failure(value: Any) -> Exception | None:
    if value is UNSET:
        return None
    try:
        _encode(value)
    except Exception as error:  # noqa: BLE001  # a value's own code may raise anything
        return error
    return None
