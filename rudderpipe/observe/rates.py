"""Rates of a pipe, from the totals of flows that were read one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from rudderpipe.observe.flow import Flow
from rudderpipe.queue.sender_report import SenderReport

WINDOW_S = 5.0
"""Over how long a rate is taken."""
ATTEMPTS_WINDOW_MS = 60_000
"""Over how long attempts count: longer, because a sender reports seldom."""


class Rates(msgspec.Struct, frozen=True):
    """Rates of a pipe now. None means that the rate is not known."""

    in_per_s: float | None = None
    """Events that calls handed over."""
    out_per_s: float | None = None
    """Events that were delivered."""
    refused_per_s: float | None = None
    retry_share: float | None = None
    """Share of the attempts that are made again."""
    p95_s: float | None = None
    """The time that 95 of 100 attempts take at most."""


class _Totals(msgspec.Struct, frozen=True):
    at_s: float
    accepted: int
    refused: int
    delivered: int | None


class RateMeter:
    """The rates of one pipe. One thread may call it."""

    def __init__(self) -> None:
        self._totals: deque[_Totals] = deque()
        self._reports: deque[SenderReport] = deque()

    def note(self, flow: Flow) -> Rates:
        """Note the totals of a flow, and return the rates."""
        is_known = flow.mode == "direct" or flow.queue_state is not None
        producers = flow.producers
        delivered = flow.account.delivered if is_known else None
        totals, now = self._totals, _Totals(flow.taken_at_s, producers.accepted, producers.refused, delivered)
        totals.append(now)
        while len(totals) > 2 and now.at_s - totals[1].at_s >= WINDOW_S:
            totals.popleft()
        first = totals[0]
        self._note_report(flow.sender.report if flow.sender is not None else None)
        return Rates(
            _rate(first, now, first.accepted, now.accepted),
            _rate(first, now, first.delivered, now.delivered),
            _rate(first, now, first.refused, now.refused),
            self._retry_share(),
            quantile(self._buckets(), 0.95),
        )

    def _note_report(self, report: SenderReport | None) -> None:
        reports = self._reports
        if report is None or (reports and report.started_ms != reports[-1].started_ms):
            reports.clear()  # another sender's totals begin at 0
        if report is not None and (not reports or report.written_ms != reports[-1].written_ms):
            reports.append(report)
        while len(reports) > 2 and reports[-1].written_ms - reports[1].written_ms >= ATTEMPTS_WINDOW_MS:
            reports.popleft()

    def _retry_share(self) -> float | None:
        if not self._reports:
            return None
        before, now = self._compared()
        grown = {kind: number - before.attempts.get(kind, 0) for kind, number in now.attempts.items()}
        attempts = sum(grown.values())
        return (grown.get("retry", 0) + grown.get("blocked", 0)) / attempts if attempts > 0 else 0.0

    def _buckets(self) -> list[tuple[float | None, int]]:
        if not self._reports:
            return []
        before, now = self._compared()
        numbers = [total for _, total in before.attempt_s_buckets]
        return [(bound, total - less) for (bound, total), less in zip(now.attempt_s_buckets, numbers, strict=False)]

    def _compared(self) -> tuple[SenderReport, SenderReport]:
        """Return two reports to compare; with only one, it is compared with the sender's start."""
        first, last = self._reports[0], self._reports[-1]
        if first is not last and sum(last.attempts.values()) > sum(first.attempts.values()):
            return first, last
        nothing = [(bound, 0) for bound, _ in last.attempt_s_buckets]
        return msgspec.structs.replace(last, attempts={}, attempt_s_buckets=nothing), last


def _rate(first: _Totals, now: _Totals, before: int | None, after: int | None) -> float | None:
    passed_s = now.at_s - first.at_s
    if before is None or after is None or passed_s <= 0 or after < before:
        return None
    return (after - before) / passed_s


def quantile(buckets: Sequence[tuple[float | None, int]], part: float) -> float | None:
    """Return a quantile of cumulative buckets, as Prometheus estimates it; None without a value."""
    wanted = part * buckets[-1][1] if buckets else 0.0
    lower, below = 0.0, 0
    for bound, total in buckets:
        if wanted > 0 and total >= wanted:
            return lower if bound is None else lower + (bound - lower) * (wanted - below) / (total - below)
        lower, below = bound or lower, total
    return None
