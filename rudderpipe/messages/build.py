"""The fast paths: one for a usual message of any call, and a faster one for ``track``, the call that is made most."""

from __future__ import annotations

from datetime import datetime, timezone
from operator import itemgetter
from typing import Any

from msgspec import UNSET, Raw, Struct, UnsetType

from rudderpipe.encoder import encode_into
from rudderpipe.messages import encode, validate, wire
from rudderpipe.messages.encode import INT_FROM, INT_TO, ROOM_BYTES, SCALARS
from rudderpipe.messages.wire import CONTEXT, LIBRARY_PART, MARKED_CHANNEL, REQUIRED, SET_BY_US, message_ids
from rudderpipe.process.fork import PAGE
from rudderpipe.process.handlers import let_through

_utc = timezone.utc
_now = datetime.now

Maybe = Any | UnsetType

_USUAL = ("userId", "event", "properties", "type")
_parts_of = itemgetter(*_USUAL[:-1])
_TEXTS = frozenset(("event", "category", "name"))
_STRINGS = {
    kind: _TEXTS | {"userId", "anonymousId", *other_id}
    for kind, other_id in {
        **dict.fromkeys(("identify", "track", "page", "screen"), ()),
        "group": ("groupId",),
        "alias": ("previousId",),
    }.items()
}
"""The fields of each call that are text in a usual message."""
_PARTS = frozenset(("properties", "traits"))


def usual(kind: str, arguments: dict[str, Any]) -> bytes | bytearray | None:
    """Return the JSON of a call with usual fields, the same to the byte as that of ``wire.from_arguments``.

    Usual fields are ids and other texts, properties and traits. ``arguments`` is as for ``wire.fields``. Return None if
    the call has anything else, or lacks a required field. Raises ``EventError`` for a value that JSON cannot hold.
    """
    first = next(iter(arguments.values()))
    is_whole = type(first) is dict
    if is_whole:
        for value in arguments.values():
            if value is not None and value is not first:
                return None
        arguments = first.copy()
    message: dict[str, Any] = {
        "type": kind,
        "channel": MARKED_CHANNEL,
        "context": CONTEXT,
        "originalTimestamp": _now(_utc),
        "messageId": message_ids.new(),
    }
    strings = _STRINGS[kind]
    for name, value in arguments.items():
        if value is None and not is_whole:
            continue
        own = type(value)
        if own is str and type(name) is str and name in strings:
            # An id whose first character is visible ASCII is not blank after the server has trimmed it.
            if not "!" <= value < "\x7f" and (not value or name not in _TEXTS):
                return None
            message[name] = value
        elif own is dict and type(name) is str and name in _PARTS:
            message[name] = encode.part(value, name)
        elif not is_whole or type(name) is not str or name not in SET_BY_US:
            return None
    for name in REQUIRED.get(kind, ()):
        if name not in message:
            return None
    if "userId" not in message and "anonymousId" not in message:
        return None
    if kind == "identify" and "traits" in message:
        message["context"] = {"traits": message["traits"], "library": LIBRARY_PART}
    return encode.encode_message(message)


class _Track(Struct, tag_field="type", tag="track", gc=False):
    # Order: the same as in wire.from_fields, so that both ways write the same bytes (tests/test_event.py).
    channel: Raw
    context: Any
    originalTimestamp: datetime
    messageId: str
    userId: str
    event: str
    properties: Maybe
    anonymousId: Maybe
    timestamp: Maybe
    integrations: Maybe


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
    """Return the JSON of a track message, which is the same to the byte as that of ``wire.from_arguments``.

    Raises ``EventError``, which names the argument or the path of a value that JSON cannot hold.
    """
    if not (
        # An id whose first character is visible ASCII is not blank after the server has trimmed it.
        type(user_id) is str
        and "!" <= user_id < "\x7f"
        and type(event) is str
        and event
        and (type(properties) is dict or properties is None)
    ):
        arguments = {
            "userId": user_id,
            "event": event,
            "properties": properties,
            "anonymousId": anonymous_id,
            "context": context,
            "timestamp": timestamp,
            "integrations": integrations,
            "messageId": message_id,
        }
        data = usual("track", arguments)
        return wire.from_arguments("track", arguments) if data is None else data
    own: Any = UNSET
    if properties is not None:
        own = properties.copy()  # only the copy is encoded, because the caller's dict may change at any time
        for key, value in own.items():
            if type(key) is not str or (
                type(value) not in SCALARS and (type(value) is not int or not INT_FROM <= value <= INT_TO)
            ):
                own = encode.nested(properties, "properties")
                break
    if context is timestamp is anonymous_id is integrations is message_id is None:  # most calls
        try:
            new_id = message_ids.next() if PAGE[0] else message_ids.new()
        except StopIteration:
            new_id = message_ids.new()
        message = _Track(MARKED_CHANNEL, CONTEXT, _now(_utc), new_id, user_id, event, own, UNSET, UNSET, UNSET)
    else:
        message = _Track(
            MARKED_CHANNEL,
            CONTEXT if context is None else wire.completed_context(validate.mapping("context", context)),
            _now(_utc),
            message_ids.new() if message_id is None else validate.message_id("message_id", message_id),
            user_id,
            event,
            own,
            validate.one_id("anonymous_id", anonymous_id),
            UNSET if timestamp is None else validate.moment("timestamp", timestamp),
            UNSET if integrations is None else validate.mapping("integrations", integrations),
        )
    # Same as encode.encode_message, but without the cost of a call.
    room = bytearray(ROOM_BYTES)
    held = memoryview(room)  # noqa: F841  # while it is held, the encoder cannot grow room for text of any length
    try:
        encode_into(message, room)
    except Exception as error:  # noqa: BLE001  # the message is large, or contains a lone surrogate
        let_through(error)
        return encode.encode_any(message)
    return room


def whole_track(message: dict[Any, Any]) -> bytes | bytearray | None:
    """Return the JSON of a usual whole message of ``track``; None if it is another one or has anything else.

    A usual message has ``type``, ``userId``, ``event`` and ``properties``. Raises ``EventError``.
    """
    if len(message) != len(_USUAL) or message.get("type") != "track":
        return None
    try:
        user_id, event, properties = _parts_of(message)
    except KeyError:
        return None
    if type(user_id) is str and "!" <= user_id < "\x7f" and type(event) is str and event and type(properties) is dict:
        return track(user_id, event, properties, None, None, None, None, None)
    return None
