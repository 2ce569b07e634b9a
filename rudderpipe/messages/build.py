"""The messages of the six calls, checked, completed and encoded once to the JSON that travels to the data plane.

Same as rudder-sdk-node 3: the content of a message, and the calls that are refused. Unlike rudder-sdk-node 3: a blank
id counts as missing, because the server trims ids and refuses the whole batch, and the sender adds ``sentAt``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from rudderpipe.encoder import encode_into
from rudderpipe.messages import encode, validate, wire
from rudderpipe.messages.encode import INT_FROM, INT_TO, ROOM_BYTES, SCALARS, encode_message
from rudderpipe.messages.wire import CHANNEL, CONTEXT, message_ids
from rudderpipe.process.fork import PAGE

Maybe = Any | UnsetType

_utc = timezone.utc
_now = datetime.now


class _Message(Struct, gc=False):
    userId: Maybe
    anonymousId: Maybe
    context: Any
    channel: str
    originalTimestamp: datetime
    messageId: str
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
    groupId: str
    traits: Maybe


class _Alias(_Message, tag_field="type", tag="alias", gc=False):
    previousId: str


def track(
    user_id: Any,
    event: Any,
    properties: Any,
    context: Any,
    timestamp: Any,
    anonymous_id: Any,
    integrations: Any,
    message_id: Any,
) -> bytes | bytearray:
    """Return the JSON of a track message.

    Raises ``EventError``, which names the argument or the path of a value that JSON cannot hold.
    """
    # The usual case: an id whose first character is visible ASCII is not blank after the server has trimmed it.
    if type(user_id) is not str or not "!" <= user_id < "\x7f" or anonymous_id is not None:
        if isinstance(user_id, Mapping):
            others = (event, properties, context, timestamp, anonymous_id, integrations, message_id)
            return wire.from_wire("track", user_id, *others)
        user_id, anonymous_id = validate.ids(user_id, anonymous_id)
    if type(event) is not str or not event:
        event = validate.text("event", event, required=True)
    if type(properties) is dict:
        own = properties.copy()  # only the copy is encoded, because the caller's dict may change at any time
        for key, value in own.items():
            if type(key) is not str or (
                type(value) not in SCALARS and (type(value) is not int or not INT_FROM <= value <= INT_TO)
            ):
                own = encode.nested(properties, "properties")
                break
    else:
        own = validate.mapping("properties", properties)
    if anonymous_id is context is timestamp is integrations is message_id is None:  # most calls
        new_id = message_ids.next() if PAGE[0] else message_ids.new()
        message = _Track(user_id, UNSET, CONTEXT, CHANNEL, _now(_utc), new_id, UNSET, UNSET, event, own)
    else:
        message = _Track(
            user_id,
            UNSET if anonymous_id is None else anonymous_id,
            CONTEXT if context is None else wire.context(context),
            CHANNEL,
            _now(_utc),
            message_ids.new() if message_id is None else validate.message_id(message_id),
            UNSET if timestamp is None else validate.moment("timestamp", timestamp),
            UNSET if integrations is None else validate.mapping("integrations", integrations),
            event,
            own,
        )
    # Same as encode.encode_message, but without the cost of a call.
    room = bytearray(ROOM_BYTES)
    held = memoryview(room)  # noqa: F841  # while it is held, the encoder cannot grow room for text of any length
    try:
        encode_into(message, room)
    except Exception:  # noqa: BLE001  # the message is large, or contains a lone surrogate
        return encode.encode_any(message)
    return room


def identify(
    user_id: Any,
    traits: Any,
    context: Any,
    timestamp: Any,
    anonymous_id: Any,
    integrations: Any,
    message_id: Any,
) -> bytes:
    """Return the JSON of an identify message; its traits also replace any traits in the context."""
    if isinstance(user_id, Mapping):
        return wire.from_wire("identify", user_id, traits, context, timestamp, anonymous_id, integrations, message_id)
    traits = validate.mapping("traits", traits)
    common = _common(user_id, anonymous_id, wire.context(context, traits), timestamp, integrations, message_id)
    return encode_message(_Identify(**common, traits=traits))


def page(*arguments: Any) -> bytes:
    """Return the JSON of a page message; the arguments are those of ``_viewed``."""
    return _viewed(_Page, *arguments)


def screen(*arguments: Any) -> bytes:
    """Return the JSON of a screen message; the arguments are those of ``_viewed``."""
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
        return wire.from_wire("page" if kind is _Page else "screen", user_id, *others)
    common = _common(user_id, anonymous_id, wire.context(context), timestamp, integrations, message_id)
    return encode_message(
        kind(
            **common,
            category=validate.text("category", category),
            name=validate.text("name", name),
            properties=validate.mapping("properties", properties),
        )
    )


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
    """Return the JSON of a group message."""
    if isinstance(user_id, Mapping):
        others = (group_id, traits, context, timestamp, anonymous_id, integrations, message_id)
        return wire.from_wire("group", user_id, *others)
    common = _common(user_id, anonymous_id, wire.context(context), timestamp, integrations, message_id)
    return encode_message(
        _Group(**common, groupId=validate.required_id("group_id", group_id), traits=validate.mapping("traits", traits))
    )


def alias(previous_id: Any, user_id: Any, context: Any, timestamp: Any, integrations: Any, message_id: Any) -> bytes:
    """Return the JSON of an alias message."""
    if isinstance(previous_id, Mapping):
        return wire.from_wire("alias", previous_id, user_id, context, timestamp, integrations, message_id)
    user_id = validate.required_id("user_id", user_id)
    common = _common(user_id, None, wire.context(context), timestamp, integrations, message_id)
    return encode_message(_Alias(**common, previousId=validate.required_id("previous_id", previous_id)))


_COMMON = ("context", "timestamp", "anonymous_id", "integrations", "message_id")
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "track": ("user_id", "event", "properties", *_COMMON),
    "identify": ("user_id", "traits", *_COMMON),
    "page": ("user_id", "category", "name", "properties", *_COMMON),
    "screen": ("user_id", "category", "name", "properties", *_COMMON),
    "group": ("user_id", "group_id", "traits", *_COMMON),
    "alias": ("previous_id", "user_id", "context", "timestamp", "integrations", "message_id"),
}
"""The names of each call's arguments, in their order."""


def _common(
    user_id: Any, anonymous_id: Any, context: Any, timestamp: Any, integrations: Any, message_id: Any
) -> dict[str, Any]:
    user_id, anonymous_id = validate.ids(user_id, anonymous_id)
    return {
        "userId": user_id,
        "anonymousId": anonymous_id,
        "context": context,
        "channel": CHANNEL,
        "originalTimestamp": _now(_utc),
        "messageId": message_ids.new() if message_id is None else validate.message_id(message_id),
        "timestamp": UNSET if timestamp is None else validate.moment("timestamp", timestamp),
        "integrations": validate.mapping("integrations", integrations),
    }
