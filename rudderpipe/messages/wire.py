"""The wire form of a message: what every message holds, and one that is given whole, as the Node SDK takes it."""

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
"""The context of a message that was given none."""
message_ids = MessageIds()


def context(given: Any, traits: Any = UNSET) -> Any:
    """Return the context in plain types, with our library in it, and an identify's traits, which replace any there.

    The traits must be plain already.
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
    """Return the JSON of a message of any values; raises ``EventError`` with the path of what JSON cannot hold.

    ``was_encoded``: it is a message of ours, decoded and changed, whose context may hold traits one deeper than given.
    """
    return encode.encode_message(encode.nested(message, "", depth=-1 if was_encoded else 0))


_TEXTS = ("category", "name", "event")
_MAPPINGS = ("properties", "traits", "integrations")
_MOMENTS = ("timestamp", "originalTimestamp")


def from_wire(kind: str, message: Mapping[str, Any], *others: Any) -> bytes:
    """Return the JSON of one call's message given whole, in wire names; keys that are not known travel along.

    As the Node SDK: ``type``, ``channel`` and ``context.library`` are always ours, ``messageId`` and
    ``originalTimestamp`` only where the caller gave none.
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
    """Return whether JavaScript takes the value for none."""
    return value is None or (type(value) in (str, int, float, bool) and not value)
