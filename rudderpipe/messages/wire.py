"""The wire form of messages: the parts of every message, and whole messages, which the Node SDK accepts too."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from msgspec import UNSET, Raw

from rudderpipe import encoder
from rudderpipe._version import LIBRARY, VERSION
from rudderpipe.errors import EventError
from rudderpipe.messages import encode, validate
from rudderpipe.messages.ids import MessageIds

CHANNEL = "server"
LIBRARY_PART = {"name": LIBRARY, "version": VERSION}
CONTEXT = Raw(encoder.encode({"library": LIBRARY_PART}))
"""The context of a message without a context of its own."""
message_ids = MessageIds()


def context(given: Any, traits: Any = UNSET) -> Any:
    """Return the context in plain types, with rudderpipe as its library and with an identify's traits.

    ``traits`` replace any traits in the context, and must have plain types already.
    """
    whole = validate.mapping("context", given)
    if whole is UNSET:
        if traits is UNSET:
            return CONTEXT
        whole = {}
    if traits is not UNSET:
        whole["traits"] = traits
    whole["library"] = LIBRARY_PART
    return whole


def encoded(message: dict[str, Any], *, was_encoded: bool = False) -> bytes:
    """Return the JSON of a message of any values; raise ``EventError`` with the path of a value that JSON cannot hold.

    ``was_encoded`` is True for a message that was encoded here before. Its context may contain traits, which are one
    level deeper there than where the caller gave them.
    """
    return encode.encode_message(encode.nested(message, "", depth=-1 if was_encoded else 0))


_TEXTS = ("category", "name", "event")
_MAPPINGS = ("properties", "traits", "integrations")
_MOMENTS = ("timestamp", "originalTimestamp")


def from_wire(kind: str, message: Mapping[str, Any], *others: Any) -> bytes:
    """Return the JSON of a whole message in wire names; unknown keys are kept.

    Same as the Node SDK: ``type``, ``channel`` and ``context.library`` are always set here; ``messageId`` and
    ``originalTimestamp`` only if the caller gave none.
    """
    if any(other is not None for other in others):
        raise EventError("message", "is a whole message, so no other argument may be given")
    given = encode.shallow(message, "message")
    user_id, anonymous_id = given.pop("userId", None), given.pop("anonymousId", None)
    own: dict[str, Any] = {}
    if kind == "alias":
        user_id = validate.required_id("userId", user_id)
        own["previousId"] = validate.required_id("previousId", given.pop("previousId", None))
    elif kind == "group":
        own["groupId"] = validate.required_id("groupId", given.pop("groupId", None))
    own["userId"], own["anonymousId"] = validate.ids(user_id, anonymous_id, ("userId", "anonymousId"))
    for name in _TEXTS:
        if name in given:
            checked = validate.text(name, given[name], required=kind == "track" and name == "event")
            given[name] = given[name] if checked is UNSET else checked
    if kind == "track" and "event" not in given:
        validate.text("event", None, required=True)
    for name in _MAPPINGS:
        if given.get(name) is not None:
            own[name] = validate.mapping(name, given.pop(name))
    for name in _MOMENTS:
        if not _is_missing(at := given.pop(name, None)):
            own[name] = validate.moment(name, at)
    traits = own.get("traits", UNSET) if kind == "identify" else UNSET
    own["context"] = context(given.pop("context", None), traits)
    own.setdefault("originalTimestamp", datetime.now(timezone.utc))
    message_id = given.pop("messageId", None)
    own["messageId"] = message_ids.new() if _is_missing(message_id) else validate.message_id(message_id)
    own |= {"type": kind, "channel": CHANNEL}
    for name in ("sentAt", *own):
        given.pop(name, None)
    rest = encode.nested(given, "", depth=0) if given else given
    return encode.encode_message({**rest, **{name: value for name, value in own.items() if value is not UNSET}})


def _is_missing(value: Any) -> bool:
    """Return True if JavaScript treats the value as missing, because it is falsy."""
    return value is None or (type(value) in (str, int, float, bool) and not value)
