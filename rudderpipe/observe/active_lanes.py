"""The lanes of the jobs that are being sent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from rudderpipe.errors import QueueUnavailable

if TYPE_CHECKING:
    from rudderpipe.queue.queue import Queue

LANES_SAMPLE = 1000
"""How many active jobs are looked at for their lanes."""
_LANE = re.compile(rb'"lane":"(\d+/\d+)"')


class LaneState(msgspec.Struct, frozen=True):
    """The active jobs of one lane."""

    lane: str
    """The number of the lane, and of how many lanes, such as ``3/8``; empty for jobs without a lane."""
    active: int
    retrying: int
    """Jobs of these that had an attempt, and are tried again."""


def lane_states(queue: Queue) -> list[LaneState]:
    """Return the lanes of the oldest active jobs. The jobs may move while they are read."""
    base, active = queue.keys.base.encode(), queue.keys.active
    try:
        (ids,) = queue.ask(lambda pipe: pipe.lrange(active, -LANES_SAMPLE, -1))
        rows = queue.ask(lambda pipe: [pipe.hmget(base + each, "opts", "attemptsMade") for each in reversed(ids)])
    except QueueUnavailable as error:
        if not error.answered:
            raise
        return []  # this user of Redis may not read jobs
    found: dict[str, list[bool]] = {}
    for opts, made in rows:
        if opts is not None:  # else the job was delivered meanwhile
            lane = _LANE.search(opts)
            found.setdefault(lane[1].decode() if lane else "", []).append((made or b"0") != b"0")
    return [LaneState(lane, len(retried), sum(retried)) for lane, retried in found.items()] if any(found) else []


def merged(lanes: Sequence[LaneState]) -> list[LaneState]:
    """Return the lanes of several queues, those of the same number as one."""
    found: dict[str, LaneState] = {}
    for each in lanes:
        before = found.get(each.lane, LaneState(each.lane, 0, 0))
        found[each.lane] = LaneState(each.lane, before.active + each.active, before.retrying + each.retrying)
    return list(found.values())
