"""Values that JSON has no form for: what they become, or the path at which a message cannot be sent."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence, Set, ValuesView
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from rudderpipe.errors import EventError

Default = Callable[[Any], Any]
DEEPEST = 200
"""Containers within each other; a server that reads JSON by recursion gives up some time, too."""
SHOWN = 120
"""Characters of a path that are shown."""
_NATIVE = (datetime, date, time, timedelta, bytes, bytearray, memoryview)
_surrogates = re.compile("[\ud800-\udfff]")


class _Unknown(TypeError):
    """A value of a type that nobody has a form for."""


def foreign(value: Any) -> Any:
    """What msgspec cannot encode, as something that it can, or that comes back here; raises ``TypeError``."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, _NATIVE):
        return _native(value)
    return _by_its_own_means(value)


def _native(value: Any) -> Any:
    """Of a subclass what msgspec knows, and a datetime with a zone."""
    if isinstance(value, datetime):
        return _moment(value)
    if isinstance(value, date):
        return date(value.year, value.month, value.day)
    if isinstance(value, time):
        return time(value.hour, value.minute, value.second, value.microsecond, value.tzinfo)
    if isinstance(value, timedelta):
        return timedelta(value.days, value.seconds, value.microseconds)
    return bytes(value)


def _moment(value: datetime) -> Any:
    if value != value:  # pandas' NaT
        return None
    tz = value.tzinfo or timezone.utc
    return datetime(
        value.year,
        value.month,
        value.day,
        value.hour,
        value.minute,
        value.second,
        value.microsecond,
        tz,
        fold=value.fold,
    )


def _by_its_own_means(value: Any) -> Any:
    kind = type(value)
    if kind.__module__.partition(".")[0] == "numpy":
        if kind.__name__ == "datetime64":
            value = value.astype("datetime64[us]")
        return value.tolist()  # of an array a list, of a scalar Python's own
    if kind.__module__.partition(".")[0] == "pandas" and kind.__name__ in ("NAType", "NaTType"):
        return None
    for method in ("model_dump", "to_list", "tolist"):  # pydantic; pandas; arrays
        if callable(convert := getattr(value, method, None)):
            return convert()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind.__module__ in ("uuid", "ipaddress", "django.utils.functional"):  # the last: a lazy translation
        return str(value)
    if isinstance(value, (Sequence, Set, ValuesView)):  # an iterator would give what it has only once
        return list(value)
    raise _Unknown


encode = msgspec.json.Encoder(enc_hook=foreign, decimal_format="number").encode
_zoneless = re.compile(rb'T[0-9][0-9]:[0-9][0-9]:[0-9][0-9][.0-9]*"').search


def needs_care(data: bytes) -> bool:
    """Whether that part of ``encode``'s answer looks as if it held what msgspec should not have written as it stood.

    That is a datetime without a zone, or a ``Decimal`` that is no number.
    """
    # A character is found in 30 ns, anything longer in hundreds: this is asked at every call.
    return (
        (ord("T") in data and _zoneless(data) is not None)
        or (ord("N") in data and b"NaN" in data)
        or (ord("I") in data and b"Infinity" in data)
    )


def carefully(message: Any) -> bytes:
    """The JSON of a message for which ``encode`` failed, or ``needs_care``; raises ``EventError`` with the path."""
    values = msgspec.structs.asdict(message) if isinstance(message, msgspec.Struct) else message
    whole = {name: value for name, value in values.items() if value is not UNSET}
    if isinstance(message, msgspec.Struct):
        whole = {"type": message.__struct_config__.tag, **whole}
    return encode(plain(whole, ""))


def plain(value: Any, path: str, default: Default | None = None) -> Any:
    """The same in types that JSON has; raises ``EventError`` with the path of what has no form, never the value.

    ``default`` is asked first about a value of a type that is not known, as that of ``json.dumps``.
    """
    try:
        return _plain(value, path, default, ())
    except RecursionError:
        raise EventError(_shown(path) or "event", "is nested too deeply") from None


def _plain(value: Any, path: str, default: Default | None, above: tuple[int, ...]) -> Any:
    kind = type(value)
    if kind is str:
        return _text(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return _whole_number(value, path)
    if kind is float:
        return value if math.isfinite(value) else None
    if id(value) in above:
        raise EventError(_shown(path) or "event", "refers to itself")
    if len(above) >= DEEPEST:
        raise EventError(_shown(path), f"is nested more than {DEEPEST} deep")
    below = (*above, id(value))
    if kind is dict:
        return {
            _key(key, path): _plain(child, f"{path}.{key}".lstrip("."), default, below) for key, child in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(child, f"{path}[{number}]", default, below) for number, child in enumerate(value)]
    if kind is Raw:
        return value
    if kind is Decimal:
        return Raw(str(value).encode()) if value.is_finite() else None
    if isinstance(value, _NATIVE):
        return _native(value)
    return _plain(_converted(value, path, default), path, default, below)


def _converted(value: Any, path: str, default: Default | None) -> Any:
    try:
        if default is not None:
            try:
                answer = default(value)
                if answer is not NotImplemented:
                    return answer
            except TypeError:
                pass  # it does not know this type either
        if (
            isinstance(value, msgspec.Struct)
            or hasattr(value, "__dataclass_fields__")
            or hasattr(value, "__attrs_attrs__")
        ):
            return _fields(value)
        return foreign(value)
    except _Unknown:
        reason = f"is of type {type(value).__name__}, which JSON cannot hold"
    except Exception as error:  # noqa: BLE001  # a value's own code may raise anything
        reason = f"is of type {type(value).__name__}, and raises {type(error).__name__} when it is read"
    raise EventError(_shown(path) or "event", reason) from None


def _fields(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        config, fields = (
            value.__struct_config__,
            zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True),
        )
        found = {encoded: child for encoded, name in fields if (child := getattr(value, name)) is not UNSET}
        return found if config.tag is None else {config.tag_field or "type": config.tag, **found}
    names = getattr(value, "__dataclass_fields__", None)
    if names is None:
        names = [attribute.name for attribute in value.__attrs_attrs__]
    return {name: getattr(value, name) for name in names if not name.startswith("_")}


def _text(value: str) -> str:
    """A lone surrogate has no UTF-8; it becomes U+FFFD, as it would when the server reads the escape of it."""
    return value if value.isascii() else _surrogates.sub("\ufffd", value)


def _whole_number(value: int, path: str) -> Any:
    if -(1 << 63) <= value < 1 << 64:
        return value
    try:
        return Raw(str(value).encode())
    except ValueError:
        limit = sys.get_int_max_str_digits() if hasattr(sys, "get_int_max_str_digits") else 4300
        raise EventError(_shown(path), f"is an integer of more than {limit:,} digits") from None


def _key(key: Any, path: str) -> str:
    if type(key) is str:
        return _text(key)
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    try:
        (name,) = msgspec.json.decode(encode({key: None}))
    except Exception:  # noqa: BLE001  # a key's own code may raise anything
        reason = f"has a key of type {type(key).__name__}, which JSON cannot hold"
        raise EventError(_shown(path) or "event", reason) from None
    return str(name)


def _shown(path: str) -> str:
    return path if len(path) <= SHOWN else f"{path[:SHOWN]}…"
