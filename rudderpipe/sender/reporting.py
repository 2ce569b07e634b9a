"""The report of a sender, which the thread that renews lease and locks writes into Redis."""

from __future__ import annotations

from collections import Counter

import msgspec

from rudderpipe.delivery.attempts import AttemptCounts
from rudderpipe.errors import QueueUnavailable
from rudderpipe.process import identity
from rudderpipe.process.clock import Clock
from rudderpipe.queue import sender_report
from rudderpipe.queue.queue import Queue
from rudderpipe.queue.sender_report import SenderReport
from rudderpipe.sender.state import SenderState

SHORTEST_S = 2.0
LONGEST_S = 10.0
"""A report is written again after so long, although nothing has changed, so that it does not lapse."""
REFUSED_S = 300.0
"""The pause after Redis refused a report, for example by its access control list."""


class Reporting:
    """The reports of one sender. Nothing depends on them, so an error has no effect but a pause."""

    def __init__(self, queue: Queue, state: SenderState, clock: Clock) -> None:
        """``queue`` must be that of the calling thread."""
        self._queue = queue
        self._state = state
        self._clock = clock
        self._host, pid, _ = identity.address().split(" ")
        self._pid = int(pid)
        self._started_ms = clock.time_ms()
        self._not_before_s = self._written_at_s = float("-inf")
        self._written: SenderReport | None = None

    def work(self) -> None:
        """Write a report if one is due: seldom while nothing changes, and never while Redis is away. Never raise."""
        state, now_s = self._state, self._clock.monotonic_s()
        if now_s < self._not_before_s or state.state != "active" or state.waiting_jobs is None:
            return
        try:
            report = self._report(now_s)
            if self._is_like_the_last(report) and now_s - self._written_at_s < LONGEST_S:
                return
            sender_report.write(self._queue, self._host, self._pid, report)
        except QueueUnavailable as error:
            self._not_before_s = now_s + (REFUSED_S if error.answered else LONGEST_S)
        except Exception:  # noqa: BLE001  # such as MemoryError; the lease is renewed by the same thread
            self._not_before_s = now_s + REFUSED_S
        else:
            self._written, self._written_at_s, self._not_before_s = report, now_s, now_s + SHORTEST_S

    def _is_like_the_last(self, report: SenderReport) -> bool:
        last = self._written
        if last is None or bool(last.retry_in_s) != bool(report.retry_in_s):
            return False
        same = msgspec.structs.replace(report, written_ms=last.written_ms, retry_in_s=last.retry_in_s)
        return same == last

    def _report(self, now_s: float) -> SenderReport:
        counts: AttemptCounts = self._state.counts.attempts
        kinds: Counter[str] = Counter()
        classes: Counter[str] = Counter()
        for (kind, class_), number in counts.decisions.items():
            kinds[kind] += number
            if number:
                classes[class_] += number
        buckets: list[tuple[float | None, int]] = []
        total = 0
        for bound, number in zip((*counts.seconds.bounds, None), counts.seconds.counts, strict=True):
            total += number
            buckets.append((bound, total))
        return SenderReport(
            written_ms=self._clock.time_ms(),
            started_ms=self._started_ms,
            retry_in_s=round(max(0.0, self._state.backoff_until_s - now_s), 3),
            delivered_events=counts.delivered_events,
            attempts=dict(kinds),
            classes=dict(classes),
            attempt_s_buckets=buckets,
            last_class=counts.last_class,
            last_reason=counts.last_reason,
        )
