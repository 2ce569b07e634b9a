"""The types of ``--map``: each converts the text of a cell, or a value of JSON or Parquet."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec

from rudderpipe import encoder
from rudderpipe.messages import encode

Convert = Callable[[Any], Any]
EPOCH_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0}
"""The microseconds of each unit of an epoch; a nanosecond is a thousandth of one."""
_CERTAIN_DIGITS = 15
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TRUE = frozenset(("true", "t", "yes", "y", "on", "1"))
_FALSE = frozenset(("false", "f", "no", "n", "off", "0"))
_int = re.compile(r"\s*([+-]?[0-9]+)(?:\.0*)?\s*")
_number = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")
_iso = re.compile(
    r"\s*([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}:[0-9]{2})(:[0-9]{2})?(?:[.,]([0-9]{1,9})[0-9]*)?"
    r" ?(Z|z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?)?)?\s*"
)
_decode = msgspec.json.Decoder(float_hook=encode.number).decode


class Unfit(Exception):
    """A value does not fit the type; the text says so without the value."""


def as_text(value: Any) -> str:
    """Return a value as text; a value that is no text becomes its JSON."""
    if type(value) is str:
        return value
    return encoder.encode(encode.plain(value, "")).decode().strip('"')


def as_int(value: Any) -> int:
    """Return a whole number, such as that of ``42`` or ``42.0``."""
    if type(value) is int:
        return value
    if type(value) is str and (match := _int.fullmatch(value)):
        return int(Decimal(match[1]))  # because the application may have lowered the limit of int(str)
    if isinstance(value, (float, Decimal)) and value == value and abs(value) != math.inf and value == int(value):
        return int(value)
    raise Unfit("is not a whole number")


def as_float(value: Any) -> float | Decimal | int:
    """Return a number with all its digits; a comma or a sign of a currency is no part of one."""
    kind = type(value)
    if kind is str:
        try:
            found = float(value)
        except ValueError:
            raise Unfit("is not a number") from None
        if not math.isfinite(found) or "_" in value:
            raise Unfit("is not a number")
        return found if len(value) <= _CERTAIN_DIGITS else encode.number(value.strip())
    if kind is float or kind is int or kind is Decimal:
        return value  # type: ignore[no-any-return]  # the line above checks its type
    raise Unfit("is not a number")


def as_bool(value: Any) -> bool:
    """Return a truth value from true, t, yes, y, on, 1 and their opposites, in upper or lower case."""
    if type(value) is bool:
        return value
    word = str(value).strip().lower() if isinstance(value, (str, int)) else ""
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise Unfit("is neither true nor false")


def as_json(value: Any) -> Any:
    """Return the value of a JSON text; a value that is no text stays as it is."""
    if type(value) is not str:
        return value
    try:
        return _decode(value)
    except (ValueError, ArithmeticError, RecursionError):
        raise Unfit("is not JSON") from None


def time_converter(time_format: str | None) -> Convert:
    """Return the conversion to a time.

    ``time_format`` is a format of ``strptime``, the unit of an epoch (``s``, ``ms``, ``us``, ``ns``), or None for
    ISO 8601 and for epochs whose unit is found by their size.
    """
    if time_format is None:
        return as_time
    if time_format in EPOCH_UNITS:
        return lambda value: _of_epoch(value, time_format)

    def formatted(value: Any) -> Any:
        if type(value) is not str:
            return as_time(value)
        try:
            found = datetime.strptime(value.strip(), time_format)  # noqa: DTZ007  # a time without a zone is UTC, below
        except ValueError:
            raise Unfit("is not a time of the given format") from None
        return _text_of(found)

    return formatted


def as_time(value: Any) -> str:
    """Return a time in ISO 8601 with the digits and the offset that it was given; without an offset it is UTC.

    It may be ISO 8601 with a ``T`` or a blank before the time, also as databases write it (``2024-01-02 03:04:05 UTC``,
    ``… -0500``), or an epoch of at least eight digits after the first of March 1973: its unit is found by its size.
    """
    if type(value) is str:
        if match := _iso.fullmatch(value):
            return _canonical(match)
        if not _number.fullmatch(text := value.strip()):
            raise Unfit("is not a time in ISO 8601 and not an epoch; give --timestamp-format")
        value = Decimal(text)
    if isinstance(value, datetime):
        return _text_of(value)
    if isinstance(value, date):
        return f"{value.isoformat()}T00:00:00Z"
    if type(value) is bool or not isinstance(value, (int, float, Decimal)):
        raise Unfit("is not a time")
    for unit, end in (("s", 10**11), ("ms", 10**14), ("us", 10**17), ("ns", 10**20)):
        if 10**8 <= value < end:
            return _of_epoch(value, unit)
    raise Unfit("is a number that may be no epoch; give --timestamp-format")


def _canonical(match: re.Match[str]) -> str:
    day, minutes, seconds, fraction, zone = match.groups()
    if minutes is None:
        day, minutes = day, "00:00"
    try:
        datetime.fromisoformat(f"{day}T{minutes}{seconds or ':00'}")
    except ValueError:
        raise Unfit("is not a time that exists") from None
    if zone is None or zone in "zZUTCGMT":
        zone = "Z"
    elif len(zone) == 3:
        zone += ":00"
    elif len(zone) == 5:
        zone = f"{zone[:3]}:{zone[3:]}"
    return f"{day}T{minutes}{seconds or ':00'}{f'.{fraction}' if fraction else ''}{zone}"


def _of_epoch(value: Any, unit: str) -> str:
    try:
        number = Decimal(value.strip() if type(value) is str else str(value))
        micro_s = number / 1000 if unit == "ns" else number * EPOCH_UNITS[unit]
        return _text_of(_EPOCH + timedelta(microseconds=int(micro_s)))
    except (ArithmeticError, ValueError, AttributeError):
        raise Unfit("is not an epoch of the given unit") from None


def _text_of(moment: datetime) -> str:
    own = moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
    timespec = "microseconds" if own.microsecond % 1000 else "milliseconds"
    text = own.isoformat(timespec=timespec)
    return text[:-6] + "Z" if text.endswith("+00:00") else text


CONVERTERS: dict[str, Convert] = {
    "str": as_text,
    "int": as_int,
    "float": as_float,
    "bool": as_bool,
    "json": as_json,
    "datetime": as_time,
}
"""The types by their names in ``--map``."""
