"""The messages of rudder-sdk-python 2.1, key by key, and its refusals (its ``client.py`` and ``utils.py``)."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any

from rudderpipe.compat.errors import WrongCall
from rudderpipe.errors import EventError
from rudderpipe.messages import foreign, wire

_JUST_NOW = timedelta(seconds=5)
_UNCHANGED = frozenset((str, int, float, bool, type(None)))


def require(name: str, value: Any, kind: type | tuple[type, ...]) -> None:
    """Raise ``WrongCall`` unless the value is of this type."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise WrongCall(name, f"must be a {' or a '.join(each.__name__ for each in kinds)}, not {type(value).__name__}")


def require_id(name: str, value: Any) -> None:
    """Raise ``WrongCall`` unless the value can be an id."""
    require(name, value, (str, numbers.Number))


def completed(
    message: dict[str, Any], all_integrations: Mapping[str, Any], library: Mapping[str, str]
) -> dict[str, Any]:
    """Return the message in its wire form; the caller's mappings are copied, never changed.

    ``library`` is what the context says of the SDK.
    """
    timestamp = message["timestamp"]
    integrations = message["integrations"] or all_integrations
    require("integrations", integrations, dict)
    require("timestamp", datetime.now(timezone.utc) if timestamp is None else timestamp, datetime)
    require("context", message["context"], dict)
    whole = {name: cleaned(value) for name, value in message.items()}
    whole["integrations"] = cleaned(integrations)
    moment = datetime.now(timezone.utc) if timestamp is None else foreign.moment(_zoned(timestamp))
    whole["timestamp"] = None if moment is None else moment.isoformat()
    whole["context"]["library"] = dict(library)
    for name in ("userId", "anonymousId"):
        value = message.get(name)
        whole[name] = None if value is None else str(value)
    given = message["messageId"]
    whole["messageId"] = wire.message_ids.new() if given is None else str(given)
    whole["channel"] = wire.CHANNEL
    return whole


def check(message: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Raise ``EventError`` if the server would refuse the whole batch for this message, or misread the message.

    ``message`` is complete. ``given`` holds the ids as the caller gave them, because NaN must not become the text
    "nan", which would be the id of many users.
    """
    if message["timestamp"] is None:
        raise EventError("timestamp", "is pandas' NaT, which is not a point in time")
    for name in ("userId", "anonymousId", "groupId", "previousId", "messageId"):
        value = given.get(name)
        if type(value) is str or value is None:  # most ids
            continue
        if isinstance(value, bool) or (isinstance(value, numbers.Number) and not _is_finite(value)):
            raise EventError(name, "must be a finite number or text")


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, OverflowError):  # complex, a signalling NaN, or an int too large for a float
        return isinstance(value, int)


def _zoned(moment: datetime) -> datetime:
    """Return the moment with a zone. Same as rudder-sdk-python: without a zone it is UTC, or local if made just now."""
    if moment.tzinfo is not None and moment.tzinfo.utcoffset(moment) is not None:
        return moment
    age = datetime.now() - moment.replace(tzinfo=None)  # noqa: DTZ005  # the question is whether it is local time
    return moment.astimezone() if age < _JUST_NOW else moment.replace(tzinfo=timezone.utc)


def cleaned(value: Any) -> Any:
    """Return a copy with UTF-8 bytes as text, Enum members as their values, and tuples and sets as lists.

    Unlike rudder-sdk-python, a value of another type stays, so that the encoder encodes or refuses it.
    """
    if type(value) in _UNCHANGED:
        return value
    if isinstance(value, dict):
        return {key: cleaned(child) for key, child in value.copy().items()}
    if isinstance(value, (list, tuple, set)):
        return [cleaned(child) for child in tuple(value)]
    if isinstance(value, Enum):
        return cleaned(value.value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value
