"""The fast path of records that are whole messages in JSON: checked, completed and encoded without a copy.

The values were just decoded and nothing else holds them, so they need no copy. A message that is unusual in any way is
left to ``messages/wire.py``, which makes the same event (``tests/test_ingestion_events.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from rudderpipe.encoder import encode_into
from rudderpipe.messages import encode, validate
from rudderpipe.messages.wire import CONTEXT, LIBRARY_PART, MARKED_CHANNEL

LONGEST = 100_000
"""A longer record goes the general way, which counts its bytes."""
_ROOM_BYTES = 512
"""By how much an event may be longer than its record."""
_NESTED_FROM = 2 * encode.DEEPEST
"""A shorter text cannot be nested too deeply."""
_MAPPINGS = frozenset((dict, type(UNSET)))
_now = datetime.now
_utc = timezone.utc


class Whole(Struct, forbid_unknown_fields=True, gc=False):
    """The fields of a usual message; the names that rudderpipe sets are among them, so that they may be given."""

    type: Any = UNSET
    channel: Any = UNSET
    context: Any = UNSET
    originalTimestamp: Any = UNSET  # noqa: N815  # as on the wire
    messageId: Any = UNSET  # noqa: N815  # as on the wire
    userId: Any = UNSET  # noqa: N815  # as on the wire
    anonymousId: Any = UNSET  # noqa: N815  # as on the wire
    groupId: Any = UNSET  # noqa: N815  # as on the wire
    event: Any = UNSET
    category: Any = UNSET
    name: Any = UNSET
    properties: Any = UNSET
    traits: Any = UNSET
    timestamp: Any = UNSET
    integrations: Any = UNSET
    sentAt: Any = UNSET  # noqa: N815  # as on the wire


_decoder = msgspec.json.Decoder(Whole, float_hook=encode.number)


def decoded(texts: Sequence[bytes]) -> list[Whole | None]:
    """Return the messages in these texts, and None for each that is unusual."""
    joined = b"\n".join(texts)
    # One call decodes all of them. If each text begins with { and ends with }, no value can begin in one text and end
    # in another, and two values in one text are one too many.
    is_aligned = joined[:1] == b"{" and joined[-1:] == b"}" and joined.count(b"\n") == len(texts) - 1
    if is_aligned and joined.count(b"}\n{") == len(texts) - 1:
        try:
            found = _decoder.decode_lines(joined)
        except (ValueError, ArithmeticError, RecursionError):
            pass
        else:
            if len(found) == len(texts):
                return found  # type: ignore[return-value]  # it knows the type of lines as Any
    return [_decoded(text) for text in texts]


def _decoded(text: bytes) -> Whole | None:
    try:
        return _decoder.decode(text)
    except (ValueError, ArithmeticError, RecursionError):
        return None


def event_of(whole: Whole, text: bytes) -> bytearray | None:
    """Return the event of a message, or None if only the general way can make it.

    The message must have its id already.
    """
    kind, user, anonymous = whole.type, whole.userId, whole.anonymousId
    if type(user) is str:
        # An id whose first character is visible ASCII is not blank after the server has trimmed it.
        if not "!" <= user < "\x7f" or (anonymous is not UNSET and not _is_id(anonymous)):
            return None
    elif user is not UNSET or not _is_id(anonymous):
        return None
    context, traits = whole.context, whole.traits
    if context is not UNSET and type(context) is not dict:
        return None
    if kind == "track":
        if type(whole.event) is not str or not whole.event or whole.groupId is not UNSET:
            return None
    elif kind == "group":
        if not _is_id(whole.groupId):
            return None
    elif kind not in ("identify", "page", "screen") or whole.groupId is not UNSET:
        return None
    moment, original = whole.timestamp, whole.originalTimestamp
    if moment is not UNSET and not _is_time(moment):
        return None
    if original is not UNSET and not _is_time(original):
        return None
    if type(whole.properties) not in _MAPPINGS or type(traits) not in _MAPPINGS:
        return None
    if type(whole.integrations) not in _MAPPINGS or not _are_texts(whole):
        return None
    size = len(text)
    if size >= _NESTED_FROM and (size > LONGEST or text.count(b"{") + text.count(b"[") > encode.DEEPEST):
        return None
    if kind == "identify" and traits is not UNSET:
        context = {} if context is UNSET else context
        context["traits"] = traits
    if context:
        context["library"] = LIBRARY_PART
        whole.context = context
    else:
        whole.context = CONTEXT
    whole.channel = MARKED_CHANNEL
    whole.sentAt = UNSET
    if original is UNSET:
        whole.originalTimestamp = _now(_utc)
    room = bytearray(size + _ROOM_BYTES)
    held = memoryview(room)  # noqa: F841  # while it is held, the encoder cannot grow room
    try:
        encode_into(whole, room)
    except Exception:  # noqa: BLE001  # the event is longer than expected
        return None
    return room


def _is_id(value: Any) -> bool:
    return type(value) is str and "!" <= value < "\x7f"


def _is_time(value: Any) -> bool:
    return type(value) is str and validate.is_iso(value)


def _are_texts(whole: Whole) -> bool:
    """Return whether the fields with texts have texts or are missing."""
    event, category, name = whole.event, whole.category, whole.name
    return (
        (category is UNSET or type(category) is str)
        and (name is UNSET or type(name) is str)
        and (event is UNSET or type(event) is str)
    )
