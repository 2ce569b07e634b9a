"""The normaliser of messages, which checks, copies and encodes a whole message with the names of the wire.

Every message passes here, except those of usual calls (``messages/build.py``). Same as rudder-sdk-node 3: the
content of a message, and the calls that are refused. Unlike rudder-sdk-node 3: a blank id counts as missing, because
the server trims ids and refuses the whole batch, and the sender adds ``sentAt``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

from msgspec import UNSET, Raw, UnsetType

from rudderpipe import encoder
from rudderpipe._version import LIBRARY, VERSION
from rudderpipe.errors import EventError
from rudderpipe.messages import encode, validate
from rudderpipe.messages.ids import MessageIds
from rudderpipe.messages.validate import SHORT

CHANNEL = "server"
MARKED_CHANNEL = Raw(encoder.encode(CHANNEL) + encoder.MARK)
"""The channel of every message, with the mark at which the sender inserts ``sentAt``."""
LIBRARY_PART = {"name": LIBRARY, "version": VERSION}
CONTEXT = Raw(encoder.encode({"library": LIBRARY_PART}))
"""The context of a message without a context of its own."""
message_ids = MessageIds()

Names = Mapping[str, str]
"""The caller's names of fields, where they are not the names of the wire; errors use them."""
ARGUMENT_NAMES: Names = {
    "userId": "user_id",
    "anonymousId": "anonymous_id",
    "groupId": "group_id",
    "previousId": "previous_id",
    "messageId": "message_id",
}
"""The names of Python's arguments."""
WIRE_NAMES = {argument: name for name, argument in ARGUMENT_NAMES.items()}
"""The names on the wire of Python's arguments, where they differ."""

_now = datetime.now
_utc = timezone.utc
_Checks = Mapping[str, Callable[[str, Any], Any]]
_TEXTS = ("event", "category", "name")
_IDS = ("userId", "anonymousId")
_MOMENTS = ("timestamp", "originalTimestamp")
_STRINGS = frozenset(("type", "channel", "messageId", *_TEXTS, *_IDS))
_MAPPINGS = frozenset(("properties", "traits", "context", "integrations"))
_OF_ARGUMENTS: _Checks = {
    **dict.fromkeys(_TEXTS, validate.text),
    **dict.fromkeys(_IDS, validate.one_id),
    "messageId": validate.message_id,
    **dict.fromkeys(_MOMENTS, validate.moment),
    **dict.fromkeys(_MAPPINGS, validate.mapping),
}
"""The check of each known field, which returns the field's plain copy, or ``UNSET`` for a field without a value."""
_OF_WHOLE: _Checks = {
    **_OF_ARGUMENTS,
    **dict.fromkeys(_TEXTS, validate.falsy_or_text),
    "messageId": validate.usable_message_id,
    **dict.fromkeys(("context", "integrations"), validate.falsy_or_mapping),
    **dict.fromkeys(("properties", "traits"), validate.anything),
}
_OF_COMPLETE: _Checks = {**_OF_WHOLE, **dict.fromkeys(("type", "channel", "messageId"), validate.text)}
REQUIRED = {"track": ("event",), "group": ("groupId",), "alias": ("userId", "previousId")}
"""The fields that the message of a call must have besides the id of a user."""
_OPTIONAL_TEXTS = ("category", "name")
SET_BY_US = ("type", "channel", "sentAt")


class Form(NamedTuple):
    """A form in which callers give the fields of a message: their names of the fields, and the checks of each call."""

    names: Names
    checks: Mapping[str, _Checks]


def _by_call(checks: _Checks, other_id: Callable[[str, Any], Any]) -> Mapping[str, _Checks]:
    return {
        **dict.fromkeys(("identify", "track", "page", "screen"), checks),
        "group": {**checks, "groupId": other_id},
        "alias": {**checks, "previousId": other_id},
    }


ARGUMENTS = Form(ARGUMENT_NAMES, _by_call(_OF_ARGUMENTS, validate.one_id))
WHOLE = Form({}, _by_call(_OF_WHOLE, validate.id_or_text))
"""The form of a whole message. Same as the Node SDK: less is checked than in arguments."""


def from_arguments(kind: str, arguments: dict[str, Any]) -> bytes:
    """Return the JSON of a call; ``arguments`` is as for ``fields``. Raise ``EventError``."""
    return from_fields(kind, *fields(arguments))


def fields(arguments: dict[str, Any]) -> tuple[dict[str, Any], Form]:
    """Return the given fields of a message by their names on the wire, and the form in which they were given.

    ``arguments`` has the names of the wire, in the order of the call. Its first value may be a whole message instead.
    An argument that is None, an empty category and an empty name count as missing.
    """
    first = next(iter(arguments.values()))
    given = {name: value for name, value in arguments.items() if value is not None}
    if type(first) is not str and isinstance(first, Mapping):
        if len(given) > 1:
            raise EventError("message", "is a whole message, so no other argument may be given")
        return fields_of_whole(first), WHOLE
    for name in _OPTIONAL_TEXTS:
        if type(value := given.get(name)) is str and not value:
            del given[name]
    return given, ARGUMENTS


def fields_of_whole(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a caller's whole message, less those that only rudderpipe sets.

    Same as the Node SDK: a falsy message id or time counts as missing, and an id of a user that is null or false.
    """
    given = encode.shallow(message, "message")
    for name in SET_BY_US:
        given.pop(name, None)
    if validate.is_falsy(given.get("messageId")):
        given.pop("messageId", None)
    for name in _MOMENTS:
        value = given.get(name)
        if validate.is_falsy(value) and value == value:  # NaN is the time of an event that has none, so it is refused
            given.pop(name, None)
    for name in _IDS:
        if given.get(name) is None or given[name] is False:
            given.pop(name, None)
    return given


def from_fields(kind: str, given: dict[str, Any], form: Form = WHOLE) -> bytes:
    """Return the JSON of a call's message, completed by what every message has; unknown fields are kept.

    ``type``, ``channel`` and ``context.library`` are always set here. ``messageId`` and ``originalTimestamp`` are set
    if the caller gave none. Raises ``EventError`` with the caller's name of the field.
    """
    # Order: the same as the fields of build.track, whose JSON is the same to the byte (tests/test_event.py).
    message: dict[str, Any] = {
        "type": kind,
        "channel": MARKED_CHANNEL,
        "context": None,
        "originalTimestamp": None,
        "messageId": None,
    }
    _normalise(given, message, form.checks[kind], form.names)
    _require(REQUIRED.get(kind, ()), message, form.names)
    traits = message.get("traits") if kind == "identify" else None
    if traits is not None and validate.is_falsy(traits):
        traits = None
    message["context"] = completed_context(message["context"], traits)
    if message["originalTimestamp"] is None:
        message["originalTimestamp"] = _now(_utc)
    if not message["messageId"]:
        message["messageId"] = message_ids.new()
    return bytes(encode.encode_message(message))


def completed_context(given: dict[str, Any] | UnsetType | None, traits: Any = None) -> Any:
    """Return the context with rudderpipe as its library, and with an identify's traits; both are plain copies."""
    if traits is not None:
        return {**(given or {}), "traits": traits, "library": LIBRARY_PART}
    return {**given, "library": LIBRARY_PART} if given else CONTEXT


def encoded(complete: dict[str, Any], names: Names = WHOLE.names, required: Iterable[str] = ()) -> bytes:
    """Return the JSON of a message that has all its parts already; nothing is added to it.

    Raises ``EventError`` with the caller's name of a field that cannot be sent, or that is required and missing.
    """
    message: dict[str, Any] = {}
    _normalise(complete, message, _OF_COMPLETE, names, depth=0)
    _require(required, message, names)
    if message.get("channel") == CHANNEL:
        message["channel"] = MARKED_CHANNEL
    return bytes(encode.encode_message(message))


def _normalise(
    given: Mapping[str, Any], message: dict[str, Any], checks: _Checks, names: Names, *, depth: int = 1
) -> None:
    """Add plain copies of the given fields to a message; raise ``EventError`` for a field that cannot be sent.

    ``depth`` is the level of properties and so on in the count of nested containers.
    """
    unknown = {}
    for name, value in given.items():
        kind = type(value)
        if kind is str and name in _STRINGS and "!" <= value < "\x7f" and len(value) <= SHORT and value.isascii():
            message[name] = value  # most ids and texts
        elif kind is dict and name in _MAPPINGS:
            message[name] = encode.part(value, name, depth=depth)
        elif (check := checks.get(name)) is None:
            unknown[name] = value
        elif value is None:
            message[name] = None
        else:
            own = check(names.get(name, name), value)
            if own is not UNSET:
                message[name] = own
    if not message.get("userId") and not message.get("anonymousId"):
        user_id, anonymous_id = (names.get(name, name) for name in ("userId", "anonymousId"))
        hint = _meant("userId", given, names) or _meant("anonymousId", given, names)
        raise EventError(user_id, f"is missing or blank, and so is {anonymous_id}; one of them must be given{hint}")
    if unknown:
        message |= encode.nested(unknown, "", depth=depth - 1)


def _require(required: Iterable[str], message: Mapping[str, Any], names: Names) -> None:
    for name in required:
        if not message.get(name):
            raise EventError(names.get(name, name), f"is missing or blank{_meant(name, message, names)}")


def _meant(name: str, given: Mapping[str, Any], names: Names) -> str:
    other = misspelt(name, given)
    return f"; {other} is no field of a message, did you mean {names.get(name, name)}?" if other else ""


def misspelt(name: str, given: Mapping[str, Any]) -> str:
    """Return the key that was given for a missing field, such as ``user_id``; an empty text if there is none.

    The key differs from the field only in its case, underscores and hyphens.
    """
    if name in given:
        return ""
    keys = (key for key in given if type(key) is str)
    return next((key for key in keys if key.replace("_", "").replace("-", "").lower() == name.lower()), "")
