"""The flow through each ring of this user on this host, whichever pipe it belongs to."""

from __future__ import annotations

from collections import deque

import msgspec

from rudderpipe.errors import RingUnavailable, RudderpipeError
from rudderpipe.observe import findings, host_rings, snapshot
from rudderpipe.observe.account import PipeRing
from rudderpipe.observe.finding import Finding
from rudderpipe.observe.rates import WINDOW_S
from rudderpipe.process.clock import Clock
from rudderpipe.ring import counters, location


class RingRow(msgspec.Struct, frozen=True):
    """One ring, with its rates; a rate is None at the first look."""

    ring: str
    trouble: str = ""
    """Why the ring cannot be read; the other fields say nothing then."""
    fill: float = 0.0
    events: int = 0
    in_per_s: float | None = None
    out_per_s: float | None = None
    """Events that left the ring."""
    refused_per_s: float | None = None
    age_s: float | None = None
    producers: int = 0
    flusher_pid: int | None = None
    findings: list[Finding] = []

    @property
    def is_stuck(self) -> bool:
        """True when events wait and no process serves the ring, or when the ring cannot be read."""
        return bool(self.trouble) or (self.events > 0 and self.flusher_pid is None)


class HostWatch:
    """The rings of this user, read again and again. One thread may call it."""

    def __init__(self, runtime_dir: str | None, clock: Clock) -> None:
        self._directories = host_rings.directories(runtime_dir)
        self._clock = clock
        self._totals: dict[int, deque[tuple[float, int, int, int]]] = {}
        """For each ring, by its epoch: the moment, and the events accepted, gone and refused."""

    def read(self) -> list[RingRow]:
        """Return a row for each ring by its name, those with a trouble first."""
        places = {stem: each for each in reversed(self._directories) for stem in location.stems(each)}
        rows = []
        epochs = set()
        for stem, directory in sorted(places.items()):
            try:
                found = host_rings.opened(stem, directory)
                if found is not None:
                    ring = PipeRing(*found)
                    epochs.add(ring.view.segment.epoch)
                    rows.append(self._row(stem, ring))
            except (RudderpipeError, OSError) as error:
                reason = error.reason if isinstance(error, RingUnavailable) else str(error)
                rows.append(RingRow(stem, trouble=reason))
        self._totals = {epoch: totals for epoch, totals in self._totals.items() if epoch in epochs}
        return sorted(rows, key=lambda row: not row.trouble and not row.findings)

    def _row(self, stem: str, ring: PipeRing) -> RingRow:
        now = counters.read(ring.view)
        state = snapshot.ring_state(ring, now, self._clock)
        totals = self._totals.setdefault(now.epoch, deque())
        last = self._clock.monotonic_s(), now.accepted, now.left, sum(now.refused.values())
        totals.append(last)
        while len(totals) > 2 and last[0] - totals[1][0] >= WINDOW_S:
            totals.popleft()
        first = totals[0]
        passed_s = last[0] - first[0]
        rates = [(after - before) / passed_s if passed_s else None for before, after in zip(first, last, strict=True)]
        return RingRow(
            ring=stem,
            fill=findings.fill(now),
            events=now.in_ring,
            in_per_s=rates[1],
            out_per_s=rates[2],
            refused_per_s=rates[3],
            age_s=state.oldest_event_age_s,
            producers=state.producers,
            flusher_pid=state.flusher_pid,
            findings=list(findings.of_rings([state], "unknown")),
        )
