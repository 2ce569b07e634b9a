"""A caller's values, copied to plain types before anything is encoded.

msgspec walks a container in C, and relies on the container not changing during the walk. A value's own code (a
property, a zone's ``utcoffset``, a ``__del__`` that the garbage collector runs) can change the container. Therefore the
encoder only gets copies, made of types that it encodes without running any Python code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from msgspec import Raw

from rudderpipe.encoder import encode, encode_into
from rudderpipe.errors import EventError, EventTooLarge
from rudderpipe.log_text import one_line
from rudderpipe.messages import foreign
from rudderpipe.messages.foreign import NoForm
from rudderpipe.process.handlers import let_through
from rudderpipe.settings import EVENT_LIMIT_BYTES

Default = Callable[[Any], Any]
DEEPEST = 200
"""The most levels of nested containers in properties, traits, context and so on; the message itself is not a level."""
SHOWN = 120
"""The most characters of a path that are shown."""
SCALARS = frozenset((str, float, bool, type(None)))
"""Types whose values msgspec encodes without running any Python code, alone or in a copied dict.

The same holds for an ``int`` from ``INT_FROM`` to ``INT_TO``; a larger ``int`` may have any number of digits.
"""
INT_FROM, INT_TO = -(1 << 63), (1 << 64) - 1
ROOM_BYTES = 2048
"""A size that most messages fit into; ``plain`` copies larger messages, and counts their bytes."""

_AS_THEY_ARE = frozenset((float, bool, type(None)))
_PLAIN = SCALARS | {int, datetime, date, time, timedelta, Decimal, UUID, bytes, dict, list}
_INT_END = 10**4300
_FEW = 100
_CERTAIN_DIGITS = 15
"""A number of at most so many characters does not change when it becomes a float."""
_CONVERSIONS = 50
"""The most conversions of one value until it is plain, because a value that becomes itself would never end."""
_OPEN = (None, None, 0, 0)
_surrogates = re.compile("[\ud800-\udfff]")


def encode_message(message: Any) -> bytes | bytearray:
    """Return the JSON of a dict or a ``Struct`` whose parts come from ``nested`` or ``plain``."""
    room = bytearray(ROOM_BYTES)
    held = memoryview(room)  # noqa: F841  # while it is held, the encoder cannot grow room for text of any length
    try:
        encode_into(message, room)
    except Exception as error:  # noqa: BLE001  # the message is large, or contains a lone surrogate
        let_through(error)
        return encode_any(message)
    return room


def encode_any(message: Any) -> bytes:
    """Return the JSON as ``encode_message`` does, but check each part; raise ``EventError`` with the value's path.

    The depth limit is one level higher here, because an identify's traits are in the context too, one level deeper than
    where the caller gave them.
    """
    if isinstance(message, dict):
        encoded = {name: part for name, part in message.items() if type(part) is Raw}  # not a caller's, and checked
        return encode(plain(message | dict.fromkeys(encoded), "", depth=-1) | encoded)
    for name in message.__struct_fields__:
        part = getattr(message, name)
        if type(part) is dict or type(part) is str:
            setattr(message, name, plain(part, name, depth=0))
    return encode(message)


def plain(value: Any, path: str, default: Default | None = None, *, depth: int = 1) -> Any:
    """Return a copy in plain types, made by a walk in Python.

    ``default`` gets a value of unknown type first, like the ``default`` of ``json.dumps``. ``depth`` is the level of
    the value itself. Raises ``EventError`` with the path of a value that cannot be sent, never with the value, and
    ``EventTooLarge`` if the JSON would be longer than any event may be.
    """
    try:
        return _Copier(default).copy(value, depth)
    except NoForm as error:
        raise EventError(_shown(path, error.steps), error.reason) from None
    except RecursionError:
        raise EventError(path or "event", "is nested too deeply") from None


def shallow(value: Any, path: str) -> dict[str, Any]:
    """Return a dict of a mapping's unchanged values by their keys as text; raise ``EventError``."""
    try:
        own = value.copy() if type(value) is dict else _Copier(None).converted(value)
        if type(own) is dict:
            return {
                key if type(key) is str and key.isascii() else _Copier(None).key(key): child
                for key, child in own.items()
            }
    except NoForm as error:
        raise EventError(path, error.reason) from None
    raise EventError(path, f"must be a mapping, not {type(value).__name__}")


def part(value: dict[Any, Any], path: str, *, depth: int = 1) -> dict[str, Any]:
    """Return the plain copy of a dict as ``nested`` does, but faster if all of its values are scalars."""
    own = value.copy()
    for key, child in own.items():
        if type(key) is not str or (
            type(child) not in SCALARS and (type(child) is not int or not INT_FROM <= child <= INT_TO)
        ):
            return nested(value, path, depth=depth)
    return own


def nested(value: dict[Any, Any], path: str, *, depth: int = 1) -> dict[str, Any]:
    """Return the plain copy of a dict as ``plain`` does, but faster if the dict is small and its values are usual.

    Only for ``encode_message``, because the lengths of texts are not checked here.
    """
    own = value.copy()
    try:
        _replace(own, _FEW)
    except Exception as error:  # noqa: BLE001  # _Unusual, or an error of a zone, which plain meets again and names
        let_through(error)
        own = plain(value, path, depth=depth)
    return own


class _Unusual(Exception):
    """A value that only ``plain`` can copy."""


def _replace(own: Any, left: int) -> int:
    """Replace a container's values by plain copies; return the number of containers that are still allowed."""
    if left < 0 or len(own) > _FEW:
        raise _Unusual
    is_dict = type(own) is dict
    for key, child in own.items() if is_dict else enumerate(own):
        kind = type(child)
        if type(key) is not str and is_dict:
            raise _Unusual
        if kind in SCALARS or (kind is int and INT_FROM <= child <= INT_TO):
            continue
        if kind is dict or kind is list:
            own[key] = copy = child.copy()
            left = _replace(copy, left - 1)
        elif kind is datetime:
            own[key] = foreign.moment(child)
        elif kind is Decimal and child.is_finite():
            own[key] = Raw(str(child).encode())
        else:
            raise _Unusual
    return left


class _Copier:
    """One walk over a value.

    The walk never holds an iterator over a caller's list or dict. One call to C copies each container, and the walk
    reads the copy. The walk counts the minimum length of the JSON, so that it ends soon for every value.
    """

    __slots__ = ("_copies", "_deepest", "_default", "_left_bytes")

    def __init__(self, default: Default | None) -> None:
        self._default = default
        self._left_bytes = EVENT_LIMIT_BYTES
        self._deepest = 0
        self._copies: dict[int, tuple[Any, Any, int, int]] = {}
        """The finished copies by the id of the container: container, copy, minimum length in bytes, and height.

        The container is kept so that no other object gets its id. Without this memory, lists that contain one list many
        times would take forever.
        """

    def copy(self, value: Any, depth: int) -> Any:
        """Return the plain copy of any value; raise ``NoForm`` or ``EventTooLarge``."""
        # One frame for each level, so that 200 levels fit into the stack that an application's own calls leave free.
        kind = type(value)
        if kind is not dict and kind is not list and kind in _PLAIN:
            return self._scalar(value, kind)
        known = self._copies.get(id(value))
        if known is _OPEN:
            raise NoForm("refers to itself")
        if known is not None:
            _, copy, size_bytes, height = known
            self._descend(depth + height)
            self._spend(size_bytes)
            return copy
        own, before_bytes, before_depth = value, self._left_bytes, self._deepest
        self._copies[id(value)] = _OPEN
        if kind is not dict and kind is not list:
            own = self.converted(value)
            kind = type(own)
        if kind is not dict and kind is not list:
            del self._copies[id(value)]
            return self._scalar(own, kind)
        self._deepest = depth
        self._descend(depth)
        step: Any = None
        copy = own.copy()
        try:
            if kind is dict:
                self._spend(2 + 5 * len(copy))
                pairs = copy.items()
                copy = {}
                for key, child in pairs:
                    if type(key) is str and key.isascii():
                        step = key
                    else:
                        step = None
                        step = self.key(key)
                    self._left_bytes -= len(step)
                    kind = type(child)
                    if kind is str and child.isascii():
                        self._left_bytes -= len(child)
                        copy[step] = child
                    elif kind in _AS_THEY_ARE or (kind is int and INT_FROM <= child <= INT_TO):
                        copy[step] = child
                    else:
                        copy[step] = self.copy(child, depth + 1)
            else:
                self._spend(2 + 2 * len(copy))
                for step, child in enumerate(copy):
                    kind = type(child)
                    if kind is str and child.isascii():
                        self._left_bytes -= len(child)
                    elif kind not in _AS_THEY_ARE and not (kind is int and INT_FROM <= child <= INT_TO):
                        copy[step] = self.copy(child, depth + 1)
        except NoForm as error:
            error.steps.append(step)
            raise
        self._spend(0)
        self._copies[id(value)] = (value, copy, before_bytes - self._left_bytes, self._deepest - depth)
        self._deepest = max(before_depth, self._deepest)
        return copy

    def _descend(self, depth: int) -> None:
        if depth > DEEPEST:
            raise NoForm(f"is nested more than {DEEPEST} levels deep")
        self._deepest = max(self._deepest, depth)

    def _spend(self, size_bytes: int) -> None:
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise EventTooLarge(EVENT_LIMIT_BYTES - self._left_bytes, EVENT_LIMIT_BYTES)

    def _scalar(self, value: Any, kind: type) -> Any:
        """Return the value to encode for a value whose type is exactly ``kind``, one of ``_PLAIN``."""
        if kind is str:
            self._spend(len(value))
            return text(value)
        if kind is int:
            return value if INT_FROM <= value <= INT_TO else self._long(value)
        if kind in _AS_THEY_ARE:
            return value
        if kind is Decimal:
            return self._raw(str(value)) if value.is_finite() else None
        if kind is datetime or kind is time:
            try:
                return foreign.moment(value) if kind is datetime else foreign.time_of_day(value)
            except Exception as error:  # noqa: BLE001  # the code of its zone may raise any error
                let_through(error)
                raise _raised(kind, error) from None
        if kind is UUID:
            return str(value)
        if kind is bytes:
            self._spend(len(value))
        return value  # bytes, a date, a timedelta

    def _raw(self, number: str) -> Raw:
        self._spend(len(number))
        return Raw(number.encode())

    def _long(self, value: int) -> Raw:
        if not -_INT_END < value < _INT_END:
            raise NoForm("is an integer of more than 4,300 digits")
        return self._raw(str(Decimal(value)))  # because the application may have lowered the limit of str(int)

    def converted(self, value: Any) -> Any:
        """Return the value as a scalar that ``_scalar`` knows, or as a new dict or list of its contents."""
        for _ in range(_CONVERSIONS):
            value = self._next(value)
            if type(value) in _PLAIN:
                return value
        raise NoForm("refers to itself")

    def _next(self, value: Any) -> Any:
        kind = type(value)
        try:
            own = foreign.known(value, kind, self._left_bytes)
            if own is not NotImplemented:
                return own
            if self._default is not None:
                try:
                    answer = self._default(value)
                    if answer is not NotImplemented:
                        return answer
                except TypeError:
                    pass  # default does not know this type either
            own = foreign.by_its_own_means(value, kind, self._left_bytes)
            if own is not NotImplemented:
                return own
        except (NoForm, EventTooLarge, RecursionError):
            raise
        except Exception as error:  # noqa: BLE001  # a value's own code may raise any error
            let_through(error)
            raise _raised(kind, error) from None
        raise NoForm(f"is of type {kind.__name__}, which JSON cannot hold")

    def key(self, key: Any) -> str:
        """Return a key as text; a key of another type becomes the text of its JSON."""
        if type(key) is str:
            return text(key)
        try:
            own = self.copy(key, DEEPEST)
        except NoForm:
            own = {}
        if type(own) is str:
            return own
        if type(own) is dict or type(own) is list:
            raise NoForm(f"has a key of type {type(key).__name__}, which JSON cannot hold")
        return encode(own).decode().strip('"')


def _raised(kind: type, error: Exception) -> NoForm:
    return NoForm(f"is of type {kind.__name__}, and raises {type(error).__name__} when it is read")


def number(digits: str) -> float | Decimal:
    """Return the number in a JSON text: a float if no digit changes, else a ``Decimal``."""
    found = float(digits)
    if len(digits) <= _CERTAIN_DIGITS and "e" not in digits and "E" not in digits:
        return found
    exact = Decimal(digits)
    return found if Decimal(repr(found)) == exact else exact


def text(value: str) -> str:
    """Return the text with U+FFFD for each lone surrogate, which has no UTF-8; servers read its escape as U+FFFD."""
    return value if value.isascii() else _surrogates.sub("\ufffd", value)


def _shown(path: str, steps: list[Any]) -> str:
    for step in reversed(steps):
        if len(path) > SHOWN:
            break
        path += f"[{step}]" if type(step) is int else f".{step}" if type(step) is str else ""
    return one_line(path.lstrip("."), SHOWN) or "event"
