"""A histogram of plain integers, which one thread counts and any thread reads."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """How many values were at most as large as each bound, and their sum. Only one thread may call ``note``."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """The values above the bound before and up to this bound; the last number is of those above all bounds."""
        self.total = 0.0

    def note(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def values(self) -> int:
        """How many values were counted."""
        return sum(self.counts)


def merged(histograms: Sequence[Histogram]) -> Histogram:
    """Return the sum of histograms with the same bounds, at least one."""
    found = Histogram(histograms[0].bounds)
    found.counts = [sum(each) for each in zip(*(one.counts for one in histograms), strict=True)]
    found.total = sum(one.total for one in histograms)
    return found
