"""The types of the calls: their arguments, whole messages in their wire form, and what became of many of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypedDict, TypeVar, overload
from uuid import UUID

import msgspec

Kind = Literal["identify", "track", "page", "screen", "group", "alias"]
"""The name of a call, and the ``type`` of its message."""
Id = str | int | float | Decimal | UUID
UserId = Id | None
Moment = datetime | date | str | int | float
"""A point in time: text is ISO 8601, a number is milliseconds since 1970."""
Message = Mapping[str, Any]
EventCallback = (
    Callable[[], Any] | Callable[[Exception | None], Any] | Callable[[Exception | None, dict[str, Any]], Any]
)
"""Called with the error or None, and with the message if it takes two arguments."""


class _Shared(TypedDict, total=False):
    anonymousId: Id
    context: Mapping[str, Any]
    timestamp: Moment
    originalTimestamp: Moment
    integrations: Mapping[str, Any]
    messageId: str


class _Common(_Shared, total=False):
    userId: Id


class _Event(TypedDict):
    event: str


class _Group(TypedDict):
    groupId: Id


class _Alias(TypedDict):
    userId: Id
    previousId: Id


class TrackMessage(_Event, _Common, total=False):
    """The message of ``track``; it must have ``userId`` or ``anonymousId``."""

    type: Literal["track"]
    properties: Mapping[str, Any]


class IdentifyMessage(_Common, total=False):
    """The message of ``identify``; its traits are added to the context too."""

    type: Literal["identify"]
    traits: Mapping[str, Any]


class PageMessage(_Common, total=False):
    """The message of ``page`` and of ``screen``."""

    type: Literal["page", "screen"]
    category: str
    name: str
    properties: Mapping[str, Any]


class GroupMessage(_Group, _Common, total=False):
    """The message of ``group``; its traits describe the group."""

    type: Literal["group"]
    traits: Mapping[str, Any]


class AliasMessage(_Alias, _Shared, total=False):
    """The message of ``alias``; both ids must be given, and its traits describe the user."""

    type: Literal["alias"]
    traits: Mapping[str, Any]


WholeMessage = TrackMessage | IdentifyMessage | PageMessage | GroupMessage | AliasMessage | Message
"""A message with the names of the wire; ``send_many`` takes its call from ``type``, and each call ignores ``type``."""


class Sent(msgspec.Struct, frozen=True):
    """What became of the messages of one ``send_many``; it is true if none was refused."""

    accepted: int = 0
    """How many messages were accepted."""
    refused: dict[int, str] = {}
    """Why each of the other messages was refused, by its index in the iterable."""

    def __bool__(self) -> bool:
        return not self.refused


# Both decorators return the function itself; only type checkers see a difference.

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", contravariant=True)


class _Call(Protocol[P, M]):
    @overload
    def __call__(self, *arguments: P.args, **named: P.kwargs) -> bool: ...

    @overload
    def __call__(self, message: M | Message, /, callback: EventCallback | None = None) -> bool: ...


class _Method(Protocol[P, M]):
    def __get__(self, client: object, kind: type | None = None, /) -> _Call[P, M]: ...


def or_message(kind: type[M]) -> Callable[[Callable[Concatenate[Any, P], bool]], _Method[P, M]]:
    """Give a method a second form, which takes a whole message (best of this ``kind``) and a callback."""
    del kind
    return _itself


def arguments_of(function: Callable[P, R]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Give a function, which passes its arguments on, the parameters of ``function``."""
    del function
    return _itself


def _itself(function: Any) -> Any:
    return function
