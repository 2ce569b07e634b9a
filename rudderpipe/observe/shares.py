"""The shares of the events that the queues of the current generation get."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from rudderpipe.observe.pipe_queues import PipeQueue

RECENT_S = 300.0
"""Over how long the shares are taken, where the queues are read again and again."""
NOTED_EVERY_S = 10.0
FEWEST_EVENTS = 200
"""The shares of fewer events say nothing."""
UNEVEN = 2.0
"""A queue that gets so many times an equal share has a user with very many events, or a few such users."""


class ShareMeter:
    """The shares of one pipe, from the accounts of its queues. One thread may call it.

    They are those of the last ``RECENT_S``. At the first look, and where too few events came since then, they are those
    of all events since the generation was made. Events of other SDKs are not counted.
    """

    def __init__(self) -> None:
        self._noted: deque[_Noted] = deque()
        """Totals of the last ``RECENT_S``; the first is the last one that is at least so old."""

    def note(self, queues: Sequence[PipeQueue], at_s: float) -> list[PipeQueue]:
        """Return the queues with their shares; without, if there is only one, or if one of them cannot be read."""
        added = {each.name: each.state.events_gone for each in queues if each.is_current and each.state is not None}
        if len(added) < sum(each.is_current for each in queues) or len(added) < 2:
            return list(queues)
        noted, now = self._noted, _Noted(at_s, added)
        if not noted or at_s - noted[-1].at_s >= NOTED_EVERY_S:
            noted.append(now)
        while len(noted) > 1 and at_s - noted[1].at_s >= RECENT_S:
            noted.popleft()
        shares = between(noted[0].added, added) or between({}, added)
        return [msgspec.structs.replace(each, share=shares.get(each.name)) for each in queues]


class _Noted(NamedTuple):
    at_s: float
    added: Mapping[str, int]


def between(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, float]:
    """Return the share of each queue in the events that were added between two looks; none if they are too few."""
    grown = {name: count - before.get(name, 0) for name, count in now.items()}
    events = sum(grown.values())
    if min(grown.values()) < 0 or events < FEWEST_EVENTS:  # a total falls when Redis has lost data
        return {}
    return {name: count / events for name, count in grown.items()}


def is_uneven(share: float | None, queues: int) -> bool:
    """Return True if one of so many queues gets far more than an equal share."""
    return share is not None and share > UNEVEN / queues
