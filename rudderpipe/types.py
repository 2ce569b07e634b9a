"""The wire form of the messages of the six calls, for calls that give a whole message."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, TypedDict
from uuid import UUID

Kind = Literal["identify", "track", "page", "screen", "group", "alias"]
"""The name of a call, and the ``type`` of its message."""
Id = str | int | float | Decimal | UUID
Moment = datetime | date | str | int | float
"""A point in time: text is ISO 8601, a number is milliseconds since 1970."""


class _Common(TypedDict, total=False):
    userId: Id
    anonymousId: Id
    context: Mapping[str, Any]
    timestamp: Moment
    originalTimestamp: Moment
    integrations: Mapping[str, Any]
    messageId: str


class _Event(TypedDict):
    event: str


class _Group(TypedDict):
    groupId: Id


class _Alias(TypedDict):
    userId: Id
    previousId: Id


class TrackMessage(_Event, _Common, total=False):
    """The message of ``track``; it must have ``userId`` or ``anonymousId``."""

    properties: Mapping[str, Any]


class IdentifyMessage(_Common, total=False):
    """The message of ``identify``; its traits are added to the context too."""

    traits: Mapping[str, Any]


class PageMessage(_Common, total=False):
    """The message of ``page`` and of ``screen``."""

    category: str
    name: str
    properties: Mapping[str, Any]


class GroupMessage(_Group, _Common, total=False):
    """The message of ``group``; its traits describe the group."""

    traits: Mapping[str, Any]


class AliasMessage(_Alias, total=False):
    """The message of ``alias``; both ids must be given."""

    context: Mapping[str, Any]
    timestamp: Moment
    originalTimestamp: Moment
    integrations: Mapping[str, Any]
    messageId: str
