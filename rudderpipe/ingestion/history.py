"""Warnings about the times of events: those in the future, and an order that goes backwards."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec

from rudderpipe.ingestion.conversion import Unfit, as_time
from rudderpipe.ingestion.source import Source
from rudderpipe.log_text import counted

FUTURE_H = 1
"""The hours that an event's time may be ahead of this machine's clock."""

_SECONDS = len("2024-01-02T03:04:05")


class Trouble(msgspec.Struct):
    """How many records have it, and the number of the first one."""

    count: int = 0
    first: int = 0

    def add(self, number: int) -> None:
        """Count a record."""
        self.count += 1
        self.first = self.first or number


class History:
    """The times of one source's records, in their order; nothing but counts is kept."""

    def __init__(self, source: Source, now: datetime) -> None:
        self._source = source
        self.future = Trouble()
        """Records more than ``FUTURE_H`` hours ahead of ``now``."""
        self.backwards = Trouble()
        """Records that are older than the one before them."""
        self._latest = _key(now + timedelta(hours=FUTURE_H))
        self._before = ""

    def see(self, message: dict[str, Any], number: int) -> None:
        """Look at the time of the next message; a message without a time that can be read does not count."""
        self.see_time(message.get("originalTimestamp") or message.get("timestamp"), number)

    def see_time(self, moment: Any, number: int) -> None:
        """Look at the time of the next message, None if it has none."""
        if type(moment) is str and moment[-1:] == "Z" and moment[10:11] == "T":
            key = moment[:-1]
        elif moment is None or (key := _of_any(moment)) == "":
            return
        if len(key) > _SECONDS:  # so that .6 and .600 are the same time
            key = key.rstrip("0").rstrip(".")
        if key < self._before:
            self.backwards.add(number)
        if key > self._latest:
            self.future.add(number)
        self._before = key

    def warnings(self) -> list[str]:
        """Return one line for each trouble that was seen."""
        name = self._source.path
        found = []
        if self.future.count:
            events = counted(self.future.count, "event")
            hours = counted(FUTURE_H, "hour")
            found.append(
                f"{name}: more than {hours} in the future: {events}, the first one in line {self.future.first:,}"
            )
        if self.backwards.count:
            events = counted(self.backwards.count, "event")
            found.append(
                f"{name}: older than the event before: {events}, the first one in line {self.backwards.first:,}"
            )
        return found


def _of_any(moment: Any) -> str:
    """Return the key of a time in another form than that of UTC in ISO 8601; nothing if it cannot be read."""
    try:
        text = as_time(moment)
        if text.endswith("Z"):
            return text[:-1]
        whole = datetime.fromisoformat(f"{text[:19]}{text[-6:]}")
        fraction = text[19:-6]
        return f"{_key(whole)}{fraction}"
    except (Unfit, ValueError, OverflowError):
        return ""


def _key(moment: datetime) -> str:
    """Return the whole seconds of a time in UTC; keys are in the order of their times."""
    return moment.astimezone(timezone.utc).isoformat(timespec="seconds")[:_SECONDS]
