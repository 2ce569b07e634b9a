"""The checks of a message's fields; each returns the field's plain copy, or ``UNSET`` for a field without a value."""

from __future__ import annotations

import math
import re
from datetime import date, datetime, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from msgspec import UNSET, Raw, UnsetType

from rudderpipe.errors import EventError, EventTooLarge
from rudderpipe.messages import encode

SHORT = 1000
"""Texts of at most so many characters are accepted without counting bytes."""
_MS_FROM, _MS_TO = 10**11, 10**14  # 1973 to 5138, so that a number of seconds is not mistaken for milliseconds
IDS = (str, int, float, Decimal, UUID, Enum)
"""The types of an id; a bool is refused although it is an int."""
_HOUR, _MINUTE = "(?:[01][0-9]|2[0-3])", "[0-5][0-9]"
_ISO = re.compile(
    rf"([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})"
    rf"(?:[Tt ]{_HOUR}:{_MINUTE}(?::{_MINUTE}(?:\.[0-9]+)?)?(?:[Zz]|[+-]{_HOUR}(?::?{_MINUTE})?)?)?"
)
"""A date, and perhaps a time with an offset, in ISO 8601; the group is the date."""


def one_id(name: str, value: Any) -> str | UnsetType:
    """Return an id as text; a blank id counts as missing. Same as the Node SDK: a number becomes text."""
    if value is None:
        return UNSET
    kind = type(value)
    if kind is str and len(value) <= SHORT and "!" <= value < "\x7f" and value.isascii():  # most ids
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


def text(name: str, value: Any) -> str:
    """Return a string, which may be empty."""
    if type(value) is str and len(value) <= SHORT and value.isascii():  # most texts
        return value
    own = encode.plain(value, name) if isinstance(value, str) else value
    if type(own) is not str:
        raise EventError(name, f"must be a string, not {type(value).__name__}")
    return own


def falsy_or_text(name: str, value: Any) -> Any:
    """Return a field of a whole message that has a string or no value. Same as the Node SDK: a falsy value is sent."""
    return _missing(value) if is_falsy(value) else text(name, value)


def falsy_or_mapping(name: str, value: Any) -> Any:
    """Return a field of a whole message that has a mapping or no value. Same as the Node SDK: a falsy value is sent."""
    return _missing(value) if is_falsy(value) else mapping(name, value)


def anything(name: str, value: Any) -> Any:
    """Return the plain copy of any value. Same as the Node SDK: properties and traits need not be a mapping."""
    return UNSET if value is UNSET else encode.plain(value, name)


def is_falsy(value: Any) -> bool:
    """Return True if JavaScript treats the value as missing."""
    return value is None or (type(value) in (str, int, float, bool) and (not value or value != value))


def _missing(value: Any) -> Any:
    return None if value != value else value  # NaN has no JSON


def mapping(name: str, value: Any) -> Any:
    """Return a mapping, or a model that becomes one, as a dict of plain values."""
    if value is UNSET:
        return UNSET
    kind = type(value)
    if kind is dict:
        return encode.part(value, name)
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
    if type(value) is str and is_iso(value):
        return value
    if isinstance(value, (str, date)) or type(value).__module__.partition(".")[0] in ("numpy", "pandas"):
        own = encode.plain(value, name)
    kind = type(own)
    if kind is datetime:
        return own  # type: ignore[no-any-return]  # the line above checks its type
    if kind is date:
        return datetime(own.year, own.month, own.day, tzinfo=timezone.utc)
    if kind is str and is_iso(own):
        return own  # type: ignore[no-any-return]  # the line above checks its type
    if (kind is int or kind is float) and _MS_FROM <= own < _MS_TO:
        return datetime.fromtimestamp(own / 1000, timezone.utc)
    raise EventError(name, "must be a date, a datetime, ISO 8601 text or milliseconds since 1970")


def is_iso(value: str) -> bool:
    """Return True for a date, perhaps with a time and an offset, in ISO 8601."""
    match = _ISO.fullmatch(value)
    try:
        return match is not None and bool(date.fromisoformat(match[1]))
    except ValueError:  # no such day
        return False


def id_or_text(name: str, value: Any) -> str | UnsetType:
    """Return an id in a whole message that is not the user's; the server does not require it, so it may be blank."""
    return text(name, value) if isinstance(value, str) else one_id(name, value)


def usable_message_id(name: str, value: Any) -> str | UnsetType:
    """Return the message id in a whole message, or ``UNSET`` for a value that the server would replace.

    The server's own id would be another one at each attempt to deliver the event.
    """
    try:
        return id_or_text(name, value)
    except EventTooLarge:
        raise
    except EventError:
        return UNSET


def message_id(name: str, value: Any) -> str:
    """Return the caller's id for the message; raise ``EventError`` if it is missing or blank."""
    if isinstance(value, str) and value:
        return text(name, value)
    as_id = one_id(name, value)
    if as_id is UNSET:
        raise EventError(name, "is missing or blank")
    return as_id
