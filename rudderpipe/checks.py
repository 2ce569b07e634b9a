"""Whether an argument of a call can be sent; what comes back is as it goes into the message, ``UNSET`` if left out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from msgspec import UNSET, UnsetType

from rudderpipe import values
from rudderpipe.errors import EventError

_MS_FROM, _MS_TO = 10**11, 10**14  # 1973 to 5138: a number of seconds is not taken for one of milliseconds


def ids(user_id: Any, anonymous_id: Any, names: tuple[str, str] = ("user_id", "anonymous_id")) -> tuple[Any, Any]:
    """One of the two ids is needed; both come back as text."""
    user_id, anonymous_id = one_id(names[0], user_id), one_id(names[1], anonymous_id)
    if user_id is UNSET and anonymous_id is UNSET:
        raise EventError(names[0], f"is missing or blank, and so is {names[1]}; one of them is needed")
    return user_id, anonymous_id


def one_id(name: str, value: Any) -> str | UnsetType:
    """An id as text; a number becomes text, as in the Node SDK."""
    if value is None:
        return UNSET
    is_uuid = hasattr(value, "hex") and hasattr(value, "urn")  # without importing uuid
    if isinstance(value, bool) or not (isinstance(value, (str, int, float)) or is_uuid):
        raise EventError(name, f"must be a string or a number, not {type(value).__name__}")
    text = str(value)
    # The server drops invisible characters and blanks from an id before it asks whether there is one.
    return text if any(c.isprintable() and not c.isspace() for c in text) else UNSET


def required_id(name: str, value: Any) -> str:
    """An id that must be there."""
    text = one_id(name, value)
    if text is UNSET:
        raise EventError(name, "is missing or blank")
    return text


def text(name: str, value: Any, *, required: bool = False) -> Any:
    """A string; an empty one counts as left out."""
    if value is None or value == "":
        if required:
            raise EventError(name, "is missing or blank")
        return UNSET
    if not isinstance(value, str):
        raise EventError(name, f"must be a string, not {type(value).__name__}")
    return value


def mapping(name: str, value: Any) -> Any:
    """A mapping, as a dict."""
    if value is None or value is UNSET:
        return UNSET
    if isinstance(value, dict):
        return value
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, (str, bytes, list, tuple, int, float)):
        value = values.plain(value, name)  # a dataclass, a model
        if isinstance(value, dict):
            return value
    raise EventError(name, f"must be a mapping, not {type(value).__name__}")


def moment(name: str, value: Any) -> Any:
    """A point in time; a datetime without a zone is UTC, as in RudderStack's Python SDK."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=timezone.utc)
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and _MS_FROM <= value < _MS_TO:
        return datetime.fromtimestamp(value / 1000, timezone.utc)
    raise EventError(name, "must be a datetime, an ISO 8601 string or milliseconds since 1970")


def message_id(value: Any) -> str:
    """The caller's own id for the message."""
    if isinstance(value, str) and value:
        return value
    return required_id("message_id", value)
