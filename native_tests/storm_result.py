"""What became of every event: the producers' marks compared with what the data plane took and what failed."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import msgspec

from native_tests.storm_marks import ACCEPTED, ATTEMPTED, REFUSED, Record
from native_tests.storm_marks import read as read_marks
from native_tests.storm_plane import SeenRequest
from native_tests.storm_processes import Interruption
from rudderpipe.queue.failed_jobs import FailedJob

SHOWN = 5
SLACK_S = 0.5
"""Clocks are read a little before or after the moment that they time."""

Name = tuple[str, int, int]
"""An event's producer, thread and number."""

_read_line = msgspec.json.Decoder(SeenRequest).decode
_TAKEOVER = re.compile(r"^(\S+ \S+) rudderpipe\.sender \w+ (?:\[\S+\] )?lease taken", re.MULTILINE)
_ALARM = re.compile(r"^\S+ \S+ rudderpipe\S* (?:WARNING|ERROR|CRITICAL) (.*)$", re.MULTILINE)
NEVER_TRUE = (
    "corrupt",
    "not JSON",
    "cannot be kept",
    "letter cannot be read",
    "letters cannot be read",
    "route in Redis cannot be read",
    "cannot be started",
    "another data plane",
    "no flusher has drained",
    "events are lost",
    "lost its data",
    "deleted the oldest",
)
"""Parts of log lines that nothing in a storm explains."""


class _Properties(msgspec.Struct):
    producer: str
    thread: int
    n: int


class _Event(msgspec.Struct):
    properties: _Properties


class StormResult(msgspec.Struct):
    """Counts of events, and what is wrong, one line each."""

    accepted: int = 0
    refused: int = 0
    undecided: int = 0
    undecided_but_there: int = 0
    delivered: int = 0
    failed: int = 0
    lost: int = 0
    repeated: int = 0
    threads: int = 0
    kinds: Counter[str] = msgspec.field(default_factory=Counter)
    """What the data plane did with each request, by kind."""
    problems: list[str] = msgspec.field(default_factory=list)

    def add(self, what: str, names: Sequence[object]) -> None:
        """Note a problem if there are any cases of it."""
        if names:
            self.problems.append(f"{what}: {len(names)}, such as {names[:SHOWN]}")


class TakenAt(msgspec.Struct, frozen=True):
    """One request in which the data plane took an event."""

    at_s: float
    seen: bool


class PlaneLog:
    """What the data plane took, in its order."""

    def __init__(self, path: Path) -> None:
        self.kinds: Counter[str] = Counter()
        self.taken: dict[Name, list[TakenAt]] = {}
        self.order: dict[tuple[str, int], list[int]] = defaultdict(list)
        """The numbers of each thread, in the order in which the data plane first took them."""
        for text in path.read_bytes().splitlines():
            line = _read_line(text)
            self.kinds[line.kind] += 1
            if line.taken:
                self._take(line)

    def _take(self, line: SeenRequest) -> None:
        taken = TakenAt(line.at_s, line.seen)
        for name in line.events:
            times = self.taken.setdefault(name, [])
            if not times:
                self.order[name[0], name[1]].append(name[2])
            times.append(taken)


def failed_events(jobs: Iterable[FailedJob], result: StormResult) -> Iterator[Name]:
    """Yield the events of failed jobs, and note each job without a reason."""
    decode = msgspec.json.Decoder(_Event).decode
    for job in jobs:
        if not job.reason:
            result.problems.append(f"job {job.id} failed without a reason")
        if job.job is None:
            result.problems.append(f"job {job.id} failed and cannot be read: {job.reason}")
            continue
        for raw in job.job.events:
            event = decode(raw).properties
            yield event.producer, event.thread, event.n


class Excuses:
    """The moments in which a process was killed, stopped or asked to end, or a lease changed hands.

    Only such a moment excuses an event that the data plane took twice.
    """

    def __init__(self, interruptions: Iterable[Interruption], logs: Iterable[str]) -> None:
        spans = [(each.start_s, each.end_s) for each in interruptions]
        for text in logs:
            for found in _TAKEOVER.finditer(text):
                at_s = datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()
                spans.append((at_s, at_s))
        self._spans = sorted(spans)
        self._starts = [start_s for start_s, _ in self._spans]
        self._longest_s = max((end_s - start_s for start_s, end_s in spans), default=0.0)

    def has(self, start_s: float, end_s: float) -> bool:
        """Return True if one of the moments lies between the two."""
        first = bisect_left(self._starts, start_s - self._longest_s - SLACK_S)
        for start, end in self._spans[first:]:
            if start > end_s + SLACK_S:
                return False
            if end >= start_s - SLACK_S:
                return True
        return False


def alarms(logs: Iterable[str]) -> Iterator[str]:
    """Yield the alarms in the logs that nothing in a storm explains."""
    for text in logs:
        for found in _ALARM.finditer(text):
            if any(each in found[1] for each in NEVER_TRUE):
                yield found[1]


def judge(
    home: Path,
    plane: PlaneLog,
    failed: Set[Name],
    excuses: Excuses,
    killed: Set[int],
    result: StormResult,
    *,
    in_order: bool,
) -> set[Name]:
    """Compare the marks of one pipe with all that arrived or failed, and return the attempted events."""
    attempted: set[Name] = set()
    for path in sorted(home.glob("*.marks")):
        record = read_marks(path)
        result.threads += 1
        thread = record.producer, record.thread
        order = plane.order.get(thread, [])
        for what, names in _judge(record, plane, failed, excuses, result):
            result.add(f"{what}, producer {record.producer} thread {record.thread}", names)
        if in_order:
            result.add(
                f"out of order, producer {thread}", [after for before, after in pairwise(order) if after < before]
            )
        if not record.ended and record.pid not in killed:
            result.problems.append(f"producer {thread} ended neither by itself nor by us")
        attempted |= {(*thread, number) for number in range(len(record.marks))}
    return attempted


def _judge(
    record: Record, plane: PlaneLog, failed: Set[Name], excuses: Excuses, result: StormResult
) -> Iterator[tuple[str, list[int]]]:
    """Yield each way to be wrong, with the numbers of the events."""
    by_mark: dict[int, list[int]] = {ATTEMPTED: [], ACCEPTED: [], REFUSED: [], 0: []}
    for number, mark in enumerate(record.marks):
        by_mark[mark].append(number)
    there: set[int] = set()
    twice: list[int] = []
    for number in range(len(record.marks)):
        name = record.producer, record.thread, number
        taken, has_failed = plane.taken.get(name, []), name in failed
        if taken or has_failed:
            there.add(number)
        result.delivered += bool(taken)
        result.failed += has_failed
        result.repeated += max(0, len(taken) - 1)
        for first, second in pairwise(taken):
            if first.seen and not excuses.has(first.at_s, second.at_s):
                twice.append(number)
    result.accepted += len(by_mark[ACCEPTED])
    result.refused += len(by_mark[REFUSED])
    result.undecided += len(by_mark[ATTEMPTED])
    result.undecided_but_there += sum(number in there for number in by_mark[ATTEMPTED])
    lost = [number for number in by_mark[ACCEPTED] if number not in there]
    result.lost += len(lost)
    yield "lost", lost
    yield "twice without an excuse", twice
    yield "refused but there", [number for number in by_mark[REFUSED] if number in there]
    yield "badly marked", by_mark[0] + [number for number in by_mark[ATTEMPTED] if number < len(record.marks) - 1]
