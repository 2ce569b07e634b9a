"""The conversion of values of other types: each becomes a plain value, or a new dict or list of its contents.

A value's own code may run here, because no container is being encoded now. A value that may be endless is read only up
to ``room_bytes``, the number of bytes that the event's JSON may still grow by.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set, ValuesView
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from itertools import islice
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw

from rudderpipe.errors import EventTooLarge
from rudderpipe.settings import EVENT_LIMIT_BYTES

_utc = timezone.utc
_MINUTE = timedelta(minutes=1)
_TRIES = 10


class NoForm(Exception):
    """A value cannot be sent; ``steps`` are the keys and indices from the given value to it, the last one first."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[Any] = []


def known(value: Any, kind: type, room_bytes: int) -> Any:
    """Return the plain form of a value of a built-in type or a subclass of it; ``NotImplemented`` for other types.

    A subclass of a container is read through the container's own C methods, never through those of the subclass.
    """
    if issubclass(kind, tuple):
        _check(len(value) if kind is tuple else tuple.__len__(value), 2, room_bytes)
        return [*tuple.__getitem__(value, slice(None))]
    if issubclass(kind, list):
        _check(list.__len__(value), 2, room_bytes)
        return list.copy(value)
    if issubclass(kind, dict):
        _check(dict.__len__(value), 5, room_bytes)
        return _contents(value, kind)
    if issubclass(kind, set):
        _check(set.__len__(value), 2, room_bytes)
        return [*set().union(value)]
    if issubclass(kind, frozenset):
        _check(frozenset.__len__(value), 2, room_bytes)
        return [*set().union(value)]
    if issubclass(kind, datetime):
        return moment(value)
    if issubclass(kind, date):
        return date(value.year, value.month, value.day)
    if issubclass(kind, time):
        return time_of_day(value)
    if issubclass(kind, timedelta):
        return timedelta(value.days, value.seconds, value.microseconds)
    if issubclass(kind, Decimal):
        return Decimal(value)
    if issubclass(kind, UUID):
        return UUID.__str__(value)
    if issubclass(kind, memoryview):
        _check(value.nbytes, 1, room_bytes)
        return bytes(value)
    if issubclass(kind, (bytes, bytearray)):
        base = bytes if issubclass(kind, bytes) else bytearray
        _check(base.__len__(value), 1, room_bytes)
        return b"".join((value,))
    if kind is Raw:
        return _parsed(value, room_bytes)
    return NotImplemented


def by_its_own_means(value: Any, kind: type, room_bytes: int) -> Any:
    """Return a converted form of a value of another type, to convert again if needed; else ``NotImplemented``."""
    if issubclass(kind, type):
        return NotImplemented
    if issubclass(kind, Enum):
        return value._value_
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int):
        return int.__int__(value)
    if issubclass(kind, float):
        return float.__float__(value)
    if (fields := _fields(value, kind)) is not NotImplemented:
        return fields
    package = kind.__module__.partition(".")[0]
    if package == "numpy":
        return _from_numpy(value, room_bytes)
    if package == "pandas" and kind.__name__ in ("NAType", "NaTType"):
        return None
    for method in ("model_dump", "to_list", "tolist"):  # pydantic; pandas; arrays
        if callable(convert := getattr(value, method, None)):
            if method != "model_dump":
                _check(len(value), 2, room_bytes)
            return convert()
    if isinstance(value, Mapping):
        return {key: value[key] for key in _bounded(value, room_bytes)}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind.__module__ in ("ipaddress", "django.utils.functional"):  # the second one is a lazy translation
        return str(value)
    if isinstance(value, (Sequence, Set, ValuesView)):  # not an iterator, because it gives its values only once
        return _bounded(value, room_bytes)
    return NotImplemented


def moment(value: datetime) -> datetime | None:
    """Return a datetime whose zone is Python's own ``timezone``: UTC if it has no offset. pandas' ``NaT`` is None."""
    zone = value.tzinfo
    if zone is _utc and type(value) is datetime:
        return value
    if value != value:
        return None
    exact = datetime(value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond)  # noqa: DTZ001  # its zone is added below
    offset = None if zone is None else value.utcoffset()
    if not offset:
        return exact.replace(tzinfo=_utc)
    if offset % _MINUTE:  # because an offset in ISO 8601 has no seconds
        return (exact - offset).replace(tzinfo=_utc)
    return exact.replace(tzinfo=timezone(offset))


def time_of_day(value: time) -> time:
    """Return a time whose zone is Python's own ``timezone``, or None."""
    offset = None if value.tzinfo is None else value.utcoffset()
    zone = None if offset is None else timezone(offset)
    return time(value.hour, value.minute, value.second, value.microsecond, zone)


def _check(items: int, item_bytes: int, room_bytes: int) -> None:
    """Raise ``EventTooLarge`` before a copy of more items than an event can carry."""
    if items * item_bytes > room_bytes:
        raise EventTooLarge(EVENT_LIMIT_BYTES - room_bytes + items * item_bytes, EVENT_LIMIT_BYTES)


def _bounded(value: Any, room_bytes: int) -> list[Any]:
    items = list(islice(value, room_bytes // 2 + 2))
    _check(len(items), 2, room_bytes)
    return items


def _contents(value: Any, kind: type) -> dict[Any, Any]:
    if kind.__iter__ is dict.__iter__:  # type: ignore[attr-defined]  # kind is a subclass of dict
        return dict.copy(value)
    # dict.copy would call the __iter__ of a subclass that defines one.
    for _ in range(_TRIES):
        try:
            return dict(list(dict.items(value)))
        except RuntimeError:  # another thread has changed the dict
            continue
    raise NoForm(f"is of type {kind.__name__}, which changes while it is read")


def parsed(data: bytes) -> Any:
    """Return the value of a JSON text, with each number as a ``Decimal``; raise ``ValueError``.

    Unlike msgspec it accepts the escape of a lone surrogate, which JSON's grammar allows.
    """
    import json  # here, because few processes need it

    return json.loads(data.decode(), parse_int=Decimal, parse_float=Decimal, parse_constant=_refuse_constant)


def _parsed(value: Raw, room_bytes: int) -> Any:
    data = bytes(value)
    _check(len(data), 1, room_bytes)
    try:
        return parsed(data)
    except ValueError:
        raise NoForm("is a msgspec.Raw that is not JSON") from None


def _refuse_constant(constant: str) -> None:
    raise ValueError(constant)


def _fields(value: Any, kind: type) -> Any:
    if issubclass(kind, msgspec.Struct):
        return _struct(value, kind)
    if hasattr(kind, "__dataclass_fields__"):
        import dataclasses  # free here, because it is loaded already if a dataclass exists

        names = [field.name for field in dataclasses.fields(value)]
    elif hasattr(kind, "__attrs_attrs__"):
        names = [attribute.name for attribute in kind.__attrs_attrs__]
    else:
        return NotImplemented
    found = {name: getattr(value, name, UNSET) for name in names if not name.startswith("_")}
    return {name: child for name, child in found.items() if child is not UNSET}


def _struct(value: Any, kind: Any) -> Any:
    """Return the list or dict that msgspec would encode by the options of the struct's class."""
    config, names = kind.__struct_config__, kind.__struct_fields__
    children = [getattr(value, name) for name in names]
    tag = [] if config.tag is None else [(config.tag_field or "type", config.tag)]
    if config.array_like:
        return [*(each for _, each in tag), *(None if child is UNSET else child for child in children)]
    defaults = kind.__struct_defaults__ if config.omit_defaults else ()
    required = len(names) - len(defaults)
    found = dict(tag)
    for number, (name, child) in enumerate(zip(kind.__struct_encode_fields__, children, strict=True)):
        if child is UNSET or (number >= required and _is_default(child, defaults[number - required])):
            continue
        found[name] = child
    return found


def _is_default(child: Any, default: Any) -> bool:
    """Return True if msgspec would omit the value: it is the default itself, or empty like a default container."""
    if child is default:
        return True
    factory = getattr(default, "factory", None)
    return factory in (list, dict, set) and type(child) is factory and not child


def _from_numpy(value: Any, room_bytes: int) -> Any:
    """Return a list for an array, and Python's own scalar for a scalar."""
    _check(value.size, 2, room_bytes)
    kind = value.dtype.kind
    if kind not in "mM":
        return value.tolist()
    value = value.astype("datetime64[us]" if kind == "M" else "timedelta64[us]")
    if any(type(each) is int for each in value.ravel().tolist()):  # numpy's only sign of a value out of range
        raise NoForm("is a date or a duration that Python's datetime cannot hold")
    return value.tolist()
