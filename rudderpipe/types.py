"""The wire form of the six calls' messages, for those who give a message whole."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypedDict
from uuid import UUID

Id = str | int | float | Decimal | UUID
Moment = datetime | date | str | int | float
"""Text is ISO 8601; a number counts milliseconds since 1970."""


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
    """``userId`` or ``anonymousId`` is needed, here and below."""

    properties: Mapping[str, Any]


class IdentifyMessage(_Common, total=False):
    """The traits are put into the context too."""

    traits: Mapping[str, Any]


class PageMessage(_Common, total=False):
    """Also a screen's."""

    category: str
    name: str
    properties: Mapping[str, Any]


class GroupMessage(_Group, _Common, total=False):
    """The traits are the group's."""

    traits: Mapping[str, Any]


class AliasMessage(_Alias, total=False):
    """Both ids are needed."""

    context: Mapping[str, Any]
    timestamp: Moment
    originalTimestamp: Moment
    integrations: Mapping[str, Any]
    messageId: str
