"""The fast path of ``track``, the call that applications make most."""

from __future__ import annotations

from datetime import datetime, timezone
from operator import itemgetter
from typing import Any

from msgspec import UNSET, Raw, Struct, UnsetType

from rudderpipe.encoder import encode_into
from rudderpipe.messages import encode, validate, wire
from rudderpipe.messages.encode import INT_FROM, INT_TO, ROOM_BYTES, SCALARS
from rudderpipe.messages.wire import CONTEXT, MARKED_CHANNEL, message_ids
from rudderpipe.process.fork import PAGE

_utc = timezone.utc
_now = datetime.now

Maybe = Any | UnsetType

_USUAL = ("userId", "event", "properties", "type")
_parts_of = itemgetter(*_USUAL[:-1])


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
        return wire.from_arguments(
            "track",
            {
                "userId": user_id,
                "event": event,
                "properties": properties,
                "anonymousId": anonymous_id,
                "context": context,
                "timestamp": timestamp,
                "integrations": integrations,
                "messageId": message_id,
            },
        )
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
        new_id = message_ids.next() if PAGE[0] else message_ids.new()
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
    except Exception:  # noqa: BLE001  # the message is large, or contains a lone surrogate
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
