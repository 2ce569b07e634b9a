"""The checks of a call's arguments; each returns the value for the message, or ``UNSET`` for a missing argument."""

from __future__ import annotations

import math
import re
from datetime import date, datetime, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from msgspec import UNSET, Raw, UnsetType

from rudderpipe.errors import EventError
from rudderpipe.messages import encode

_SHORT = 1000
"""Texts of at most so many characters are accepted without counting bytes."""
_MS_FROM, _MS_TO = 10**11, 10**14  # 1973 to 5138, so that a number of seconds is not mistaken for milliseconds
IDS = (str, int, float, Decimal, UUID, Enum)
"""The types of an id; a bool is refused although it is an int."""
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.[0-9]+)?)?"
    r"(?:[Zz]|[+-]([0-9]{2})(?::?([0-9]{2}))?)?)?"
)


def ids(user_id: Any, anonymous_id: Any, names: tuple[str, str] = ("user_id", "anonymous_id")) -> tuple[Any, Any]:
    """Return both ids as text; raise ``EventError`` if both are missing or blank."""
    user_id, anonymous_id = one_id(names[0], user_id), one_id(names[1], anonymous_id)
    if user_id is UNSET and anonymous_id is UNSET:
        raise EventError(names[0], f"is missing or blank, and so is {names[1]}; one of them must be given")
    return user_id, anonymous_id


def one_id(name: str, value: Any) -> str | UnsetType:
    """Return an id as text. Same as the Node SDK: a number becomes text."""
    if value is None:
        return UNSET
    kind = type(value)
    if kind is str and len(value) <= _SHORT and "!" <= value < "\x7f" and value.isascii():  # most ids
        return str(value)
    if issubclass(kind, IDS) or kind.__module__.partition(".")[0] in ("numpy", "pandas"):
        if isinstance(value, Decimal) and not value.is_finite():
            raise EventError(name, f"must be a finite number, not {value}")
        own = encode.plain(value, name)
    elif isinstance(getattr(value, "urn", None), str):  # a UUID of another library
        own = encode.plain(str(value), name)
    else:
        own = value
    if own is None:  # NA of a data frame
        return UNSET
    if type(own) is int:
        own = str(own)
    elif type(own) is float:
        own = _number(name, own)
    elif type(own) is Raw:  # a Decimal, or an int of more than 64 bits
        own = bytes(own).decode()
    elif type(own) is not str:
        raise EventError(name, f"must be a string or a number, not {kind.__name__}")
    # The server removes invisible characters and blanks from an id before it checks that the id is there.
    return own if any(c.isprintable() and not c.isspace() for c in own) else UNSET


def _number(name: str, value: float) -> str:
    """Return a float as JavaScript writes it, so that 5.0 is the id "5"; refuse NaN and infinity."""
    if not math.isfinite(value):
        raise EventError(name, f"must be a finite number, not {value}")
    if value == 0:
        return "0"
    exact = Decimal(repr(value)).normalize()
    if -7 < exact.adjusted() < 21:
        return format(exact, "f")
    digits, _, exponent = format(exact, "e").partition("e")
    return f"{digits}e{exponent}"


def required_id(name: str, value: Any) -> str:
    """Return an id as text; raise ``EventError`` if it is missing or blank."""
    text = one_id(name, value)
    if text is UNSET:
        raise EventError(name, "is missing or blank")
    return text


def text(name: str, value: Any, *, required: bool = False) -> Any:
    """Return a string; an empty string counts as missing."""
    if type(value) is str and value and len(value) <= _SHORT and value.isascii():  # most texts
        return value
    if value is None or value == "":
        if required:
            raise EventError(name, "is missing or blank")
        return UNSET
    own = encode.plain(value, name) if isinstance(value, str) else value
    if type(own) is not str:
        raise EventError(name, f"must be a string, not {type(value).__name__}")
    return own


def mapping(name: str, value: Any) -> Any:
    """Return a mapping, or a model that becomes one, as a dict of plain values."""
    if value is None or value is UNSET:
        return UNSET
    kind = type(value)
    if kind is dict:
        return encode.nested(value, name)
    if not issubclass(kind, (str, bytes, list, tuple, int, float)):
        own = encode.plain(value, name)
        if type(own) is dict:
            return own
    raise EventError(name, f"must be a mapping, not {kind.__name__}")


def moment(name: str, value: Any) -> datetime | str:
    """Return a point in time. Same as RudderStack's Python SDK: a time without a zone is UTC.

    Text must be ISO 8601, because the server cannot read other text, and would date the event by its receipt.
    """
    own = value
    if type(value) is str and _is_iso(value):
        return value
    if isinstance(value, (str, date)) or type(value).__module__.partition(".")[0] in ("numpy", "pandas"):
        own = encode.plain(value, name)
    kind = type(own)
    if kind is datetime:
        return own  # type: ignore[no-any-return]  # the line above checks its type
    if kind is date:
        return datetime(own.year, own.month, own.day, tzinfo=timezone.utc)
    if kind is str and _is_iso(own):
        return own  # type: ignore[no-any-return]  # the line above checks its type
    if (kind is int or kind is float) and _MS_FROM <= own < _MS_TO:
        return datetime.fromtimestamp(own / 1000, timezone.utc)
    raise EventError(name, "must be a date, a datetime, ISO 8601 text or milliseconds since 1970")


def _is_iso(value: str) -> bool:
    match = _ISO.fullmatch(value)
    if match is None:
        return False
    year, month, day, hour, minute, second, *offset = (int(part or 0) for part in match.groups())
    try:
        datetime(year, month, day, hour, minute, second)  # noqa: DTZ001  # the value is not used; only its errors are
    except ValueError:
        return False
    return offset[0] < 24 and offset[1] < 60


def message_id(value: Any) -> str:
    """Return the caller's id for the message; raise ``EventError`` if it is missing or blank."""
    if isinstance(value, str) and value:
        own: str = encode.plain(value, "message_id")
        return own
    return required_id("message_id", value)
