"""The check of how the users' events are spread over queues and lanes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from msgspec import Raw

from rudderpipe.errors import JobUnreadable
from rudderpipe.flusher import lanes
from rudderpipe.log_text import counted, one_line
from rudderpipe.observe import shares
from rudderpipe.observe.doctor.check import Result, check, warn, worst
from rudderpipe.observe.doctor.examination import Examination, Skipped, counts_of
from rudderpipe.queue import job
from rudderpipe.queue.queue import Queue

EVENTS_LOOKED_AT = 200
JOBS_AT_ONCE = 5
MEASURED_S = 1.0
"""For how long new events are counted. If too few come, those since the queues were made are."""
AWAY_FIX = "look at check 16; the shares are known when all queues can be read"
FIX = "docs/runbook.md, RudderpipeQueueShare: more queues and lanes do not help one user"


@check(34, "users", "redis")
def users(pipe: Examination) -> Result:
    """Check that the users' events are spread over all queues, or over all lanes, and find a user with very many."""
    current = [each.examination for each in pipe.queues if each.is_current]
    if len(current) > 1:
        return _of_queues(pipe, current)
    queue, ways = pipe.queue, pipe.settings.lanes_in_use
    if ways == 1:
        raise Skipped("one queue with one lane")
    return worst(_of_lanes(pipe, queue, ways), f"no user has too many events for {ways} lanes")


def _of_queues(pipe: Examination, current: list[Examination]) -> Result:
    """Judge the queues that can be read. Those that cannot are named, and the shares are those of the others."""
    began_s, before = pipe.clock.monotonic_s(), _events(current)
    pipe.clock.sleep(max(0.0, MEASURED_S - (pipe.clock.monotonic_s() - began_s)))
    now = _events([each for each in current if each.settings.prefix in before])
    seen = [each for each in current if each.settings.prefix in now]
    away = [each.settings.prefix for each in current if each.settings.prefix not in now]
    before = {prefix: before[prefix] for prefix in now}
    of_all = f"the events of {counted(len(now), 'queue')}" if away else "the events"
    found = (shares.between(before, now) or shares.between({}, now)) if len(now) > 1 else {}
    said = [f"{', '.join(away)} cannot be read"] if away else []
    if not found:
        few = f"fewer than {shares.FEWEST_EVENTS} events have come"
        raise Skipped("; ".join([*said, few if len(now) > 1 else "nothing to compare"]))
    uneven = [
        warn(f"{each.settings.prefix} gets {share:.0%} of {of_all}; {_most_of(each, share)}", FIX)
        for each in seen
        if shares.is_uneven(share := found[each.settings.prefix], len(seen))
    ]
    unread = [warn(text, AWAY_FIX) for text in said]
    return worst([*uneven, *unread], ", ".join(f"{prefix} {share:.0%}" for prefix, share in found.items()))


def _events(queues: list[Examination]) -> dict[str, int]:
    """Return how many events each queue was given, by prefix, without the queues that cannot be read."""
    return {prefix: counts.events_gone for prefix, counts in counts_of(queues).items()}


def _most_of(one: Examination, share: float) -> str:
    """Return what the newest jobs of a queue say about its most frequent user."""
    events, user, count = _most_frequent(one.queue)
    if not events:
        return "no job is there to look at"
    part = count / events
    return f"{_named(one, user)} has {part:.0%} of its newest {events:,} events, about {part * share:.0%} of all"


def _named(one: Examination, user: str) -> str:
    if not user:
        return "events without userId and anonymousId: their user"
    return (
        f"the user {one_line(user, 100)!r}"
        if one.shows_user
        else f"the user with the checksum {lanes.user_of(user):08x}"
    )


def _of_lanes(pipe: Examination, queue: Queue, ways: int) -> list[Result]:
    events, user, count = _most_frequent(queue)
    if not events or not shares.is_uneven(count / events, ways):
        return []
    said = f"{_named(pipe, user)} has {count / events:.0%} of the newest {events:,} events, and one of {ways} lanes"
    return [warn(said, FIX)]


def _most_frequent(queue: Queue) -> tuple[int, str, int]:
    """Return how many of the newest events were looked at, the key of their most frequent user, and its events."""
    keys: Counter[str] = Counter()
    for event_list in _newest(queue):
        keys.update(lanes.keys_of(event_list[: EVENTS_LOOKED_AT - keys.total()]))
        if keys.total() >= EVENTS_LOOKED_AT:
            break
    ((user, count),) = keys.most_common(1) or [("", 0)]
    return keys.total(), user, count


def _newest(queue: Queue) -> Iterator[list[Raw]]:
    """Yield the events of the newest jobs, those in line first. Other programs' jobs are passed over."""
    keys = queue.keys

    def fill(pipe: Any) -> None:
        for name in (keys.wait, keys.paused, keys.active):
            pipe.lrange(name, 0, EVENTS_LOOKED_AT - 1)
        for name in (keys.completed, keys.failed):
            pipe.zrevrange(name, 0, EVENTS_LOOKED_AT - 1)

    ids = [each for found in queue.ask(fill) for each in found]
    base = keys.base.encode()
    for start in range(0, len(ids), JOBS_AT_ONCE):
        names = [base + each for each in ids[start : start + JOBS_AT_ONCE]]
        for data in queue.ask(lambda pipe, names=names: [pipe.hget(name, "data") for name in names]):  # type: ignore[misc]  # mypy does not know the default
            try:
                yield list(job.read(data or b"").events)
            except JobUnreadable:
                continue
