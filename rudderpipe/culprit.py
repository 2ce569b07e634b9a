"""Which value inside a message cannot be encoded, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from rudderpipe.errors import EventError

DEEPEST = 200
_encode = msgspec.json.Encoder().encode


def explain(message: Any, error: Exception) -> EventError:
    """The error for a message whose encoding raised ``error``: it names the path of the value, never the value."""
    values = msgspec.structs.asdict(message) if isinstance(message, Struct) else message
    path, culprit, reason = _culprit(values, "", error, set())
    if isinstance(reason, RecursionError):
        return EventError(path or "event", "refers to itself, or is nested too deeply")
    if isinstance(reason, UnicodeError):
        return EventError(path, "is text that UTF-8 cannot hold (a lone surrogate)")
    if isinstance(reason, OverflowError) or isinstance(culprit, int):
        return EventError(path, "is an integer of more than 64 bits")
    return EventError(path, f"is of type {type(culprit).__name__}, which JSON cannot hold")


def _culprit(value: Any, path: str, error: Exception, above: set[int]) -> tuple[str, Any, Exception]:
    """The innermost value that cannot be encoded by itself, and what it raises."""
    if id(value) in above:
        return path, value, RecursionError()
    children: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                failure = _failure({key: None})
                if failure:
                    return f"{path}[key of type {type(key).__name__}]".lstrip("."), key, failure
        children = [(f"{path}.{key}".lstrip("."), child) for key, child in value.items()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        children = [(f"{path}[{number}]", child) for number, child in enumerate(value)]
    for child_path, child in children:
        failure = _failure(child)
        if failure and len(above) < DEEPEST:
            return _culprit(child, child_path, failure, above | {id(value)})
    return path, value, error


def _failure(value: Any) -> Exception | None:
    if value is UNSET:
        return None
    try:
        _encode(value)
    except Exception as error:  # noqa: BLE001  # a value's own code may raise anything
        return error
    return None
