"""What became of every event: the producers' marks against the jobs in Redis."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Set
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from native_tests.storm_marks import ACCEPTED, ATTEMPTED, REFUSED, Record
from native_tests.storm_marks import read as read_marks
from rudderpipe.errors import JobUnreadable
from rudderpipe.queue import job
from rudderpipe.queue.keys import Keys

KEYS = Keys("rudder", "rudderEventsQueue")
BASE = KEYS.base
AT_ONCE = 200
SHOWN = 5


class _Properties(msgspec.Struct):
    who: str
    thread: int
    n: int


class _Event(msgspec.Struct):
    properties: _Properties


class Verdict(msgspec.Struct):
    """Counts of events, and what is wrong, each in a line."""

    accepted: int = 0
    refused: int = 0
    undecided: int = 0
    undecided_but_there: int = 0
    jobs: int = 0
    threads: int = 0
    rings: int = 0
    problems: list[str] = msgspec.field(default_factory=list)


def _batches(redis: Any, verdict: Verdict) -> Iterator[list[msgspec.Raw]]:
    """The events of each job, in the queue's order."""
    ids = redis.lrange(f"{BASE}wait", 0, -1)[::-1]
    for start in range(0, len(ids), AT_ONCE):
        pipe = redis.pipeline(transaction=False)
        for number in ids[start : start + AT_ONCE]:
            pipe.hget(f"{BASE}{number}", "data")
        for data in pipe.execute():
            try:
                yield job.read(data.encode()).events
            except (JobUnreadable, AttributeError):  # no hash at all
                verdict.problems.append(f"a job that nobody can read: {str(data)[:200]}")


def _in_redis(redis: Any, verdict: Verdict) -> dict[tuple[str, int], list[int]]:
    """The numbers of each thread, in the queue's order."""
    decode = msgspec.json.Decoder(_Event).decode
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    events = 0
    for batch in _batches(redis, verdict):
        verdict.jobs += 1
        events += len(batch)
        for raw in batch:
            event = decode(raw).properties
            found[event.who, event.thread].append(event.n)
    rings = [
        int(redis.hget(key, "queued") or 0) for key in redis.keys(f"{KEYS.account}:*") if key != KEYS.failed_events
    ]
    account = int(redis.hget(KEYS.account, "queued") or 0)
    verdict.rings = len(rings)
    if not events == account == sum(rings):
        verdict.problems.append(
            f"{events} events in jobs, {account} in the account, {sum(rings)} in those of the rings"
        )
    return found


def _judge(record: Record, found: list[int], verdict: Verdict) -> Iterator[tuple[str, list[int]]]:
    """Each way to be wrong, with the numbers that are."""
    times = Counter(found)
    by_mark: dict[int, list[int]] = {ATTEMPTED: [], ACCEPTED: [], REFUSED: [], 0: []}
    for number, mark in enumerate(record.marks):
        by_mark[mark].append(number)
    verdict.accepted += len(by_mark[ACCEPTED])
    verdict.refused += len(by_mark[REFUSED])
    verdict.undecided += len(by_mark[ATTEMPTED])
    verdict.undecided_but_there += sum(number in times for number in by_mark[ATTEMPTED])
    yield "lost", [number for number in by_mark[ACCEPTED] if number not in times]
    yield "twice", [number for number, count in times.items() if count > 1]
    yield "refused but there", [number for number in by_mark[REFUSED] if number in times]
    yield "never attempted but there", [number for number in times if number >= len(record.marks)]
    yield "out of order", [after for before, after in pairwise(found) if after < before]
    yield "badly marked", by_mark[0] + [number for number in by_mark[ATTEMPTED] if number < len(record.marks) - 1]


def reach(home: Path, redis: Any, killed: Set[int]) -> Verdict:
    """Compare all of it; ``killed`` are those who need not have come to an end."""
    verdict = Verdict()
    found = _in_redis(redis, verdict)
    for path in sorted(home.glob("*.marks")):
        record = read_marks(path)
        verdict.threads += 1
        for wrong, numbers in _judge(record, found.pop((record.who, record.thread), []), verdict):
            if numbers:
                verdict.problems.append(
                    f"{wrong}: {len(numbers)} of producer {record.who}, thread {record.thread}: {numbers[:SHOWN]}"
                )
        if not record.ended and record.pid not in killed:
            verdict.problems.append(f"producer {record.who}, thread {record.thread} ended neither by itself nor by us")
    verdict.problems += [f"nobody's events: {len(numbers)} of {key}" for key, numbers in found.items()]
    return verdict
