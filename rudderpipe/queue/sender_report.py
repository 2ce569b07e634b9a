"""What a sender says about its attempts, kept in Redis for programs on any host that show the queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from rudderpipe.errors import QueueUnavailable

if TYPE_CHECKING:  # the struct is also read where no Redis client is needed
    from rudderpipe.queue.queue import Queue

LAPSE_MS = 30_000
"""How long a report is kept after it was written."""


class SenderReport(msgspec.Struct, frozen=True):
    """The totals of one sender since its start, and the result of its last attempt."""

    written_ms: int
    """Milliseconds since 1970, as ``started_ms``, by the sender's clock."""
    started_ms: int
    retry_in_s: float
    """How long the next attempt had to wait when the report was written."""
    delivered_events: int
    attempts: dict[str, int]
    """Number of attempts, by what became of them."""
    classes: dict[str, int]
    """Number of attempts, by the class of their outcome; classes without an attempt are absent."""
    attempt_s_buckets: list[tuple[float | None, int]]
    """Number of attempts that took at most so many seconds. The last one, with None, counts all."""
    last_class: str
    """Class of the last attempt; empty before the first one."""
    last_reason: str
    """Why the last attempt that did not deliver failed, in at most 200 characters; empty if there was none."""


class Sender(msgspec.Struct, frozen=True):
    """A sender with its report."""

    host: str
    pid: int
    report: SenderReport


def write(queue: Queue, host: str, pid: int, report: SenderReport) -> None:
    """Store a report, which lapses by itself. Raise ``QueueUnavailable``."""
    text = msgspec.json.encode(report)
    queue.call("report_sender", [queue.keys.senders], f"{host} {pid}", text, report.written_ms, LAPSE_MS)


def read(queue: Queue) -> list[Sender]:
    """Return the reports that have not lapsed, the latest first; none if this user of Redis may not read them.

    Raise ``QueueUnavailable`` if Redis does not answer.
    """
    try:
        (found,) = queue.ask(lambda pipe: pipe.hgetall(queue.keys.senders))
    except QueueUnavailable as error:
        if not error.answered:
            raise
        return []
    oldest_ms = queue.clock.time_ms() - 2 * LAPSE_MS
    senders = [_sender(name, value) for name, value in found.items()]
    living = [each for each in senders if each is not None and each.report.written_ms >= oldest_ms]
    return sorted(living, key=lambda each: -each.report.written_ms)


def _sender(name: bytes, value: bytes) -> Sender | None:
    """Return one field of the hash; None if another version has written it in another form."""
    host, _, pid = name.decode(errors="replace").partition(" ")
    try:
        return Sender(host, int(pid), msgspec.json.decode(value.partition(b" ")[2], type=SenderReport))
    except ValueError:  # also msgspec's errors
        return None


def merged(reports: Sequence[SenderReport]) -> SenderReport | None:
    """Return the sum of reports, of which the first is the latest, or None without a report."""
    if len(reports) < 2:
        return reports[0] if reports else None
    buckets = [[total for _, total in each.attempt_s_buckets] for each in reports]
    bounds = [bound for bound, _ in reports[0].attempt_s_buckets]
    return msgspec.structs.replace(
        reports[0],
        started_ms=min(each.started_ms for each in reports),
        retry_in_s=max(each.retry_in_s for each in reports),
        delivered_events=sum(each.delivered_events for each in reports),
        attempts=_sums([each.attempts for each in reports]),
        classes=_sums([each.classes for each in reports]),
        attempt_s_buckets=list(zip(bounds, map(sum, zip(*buckets, strict=False)), strict=False)),
    )


def _sums(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for each in counts for name in each)
    return {name: sum(each.get(name, 0) for each in counts) for name in names}
