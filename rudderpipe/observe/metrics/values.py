"""The values of metrics at one moment, by metric and labels."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import msgspec

from rudderpipe.observe.metrics.table import BY_NAME, METRICS, Metric
from rudderpipe.service.histogram import Histogram


class Value(NamedTuple):
    """The value of a metric for one combination of labels."""

    labels: tuple[str, ...]
    value: float | Histogram


class Values:
    """The values that one program exports. A metric without any is absent, because it is not known."""

    def __init__(self) -> None:
        self._found: dict[str, list[Value]] = {}

    def put(self, name: str, value: float | Histogram, *labels: str) -> None:
        """Add one value. ``name`` is that of the table, without the prefix of all of them."""
        metric = BY_NAME[name if name in BY_NAME else f"rudderpipe_{name}"]
        assert len(labels) == len(metric.label_names), f"{name}: {labels}"
        self._found.setdefault(metric.name, []).append(Value(labels, value))

    def put_all(self, name: str, first: tuple[str, ...], counted: dict[tuple[str, ...], int]) -> None:
        """Add a value for each combination of labels that the table lists, 0 where nothing was counted."""
        metric = BY_NAME[f"rudderpipe_{name}"]
        for labels in product(*metric.labels.values()):
            self.put(name, counted.get(labels, 0), *first, *labels)

    def add(self, other: Values) -> None:
        """Add the values of another pipe."""
        for name, values in other._found.items():  # of the same class
            self._found.setdefault(name, []).extend(values)

    def known(self) -> list[tuple[Metric, list[Value]]]:
        """Return the metrics that have values, in the order of the table."""
        return [(metric, self._found[metric.name]) for metric in METRICS if metric.name in self._found]

    def packed(self) -> bytes:
        """Return the values for another process, which ``unpacked`` reads."""
        return msgspec.json.encode(
            [
                (name, labels, (value.bounds, value.counts, value.total) if isinstance(value, Histogram) else value)
                for name, values in self._found.items()
                for labels, value in values
            ]
        )

    def as_json(self) -> list[dict[str, Any]]:
        """Return one object for each value."""
        return [
            {
                "name": metric.name,
                "type": metric.kind,
                "labels": dict(zip(metric.label_names, labels, strict=True)),
                **_number(value),
            }
            for metric, values in self.known()
            for labels, value in values
        ]


_Packed = list[tuple[str, tuple[str, ...], float | tuple[list[float], list[int], float]]]


def unpacked(line: bytes) -> Values:
    """Return the values that ``packed`` has written. Raise ``ValueError`` if they are none."""
    found = Values()
    for name, labels, value in msgspec.json.decode(line, type=_Packed):  # msgspec's error is a ValueError
        if isinstance(value, tuple):
            histogram = Histogram(value[0])
            histogram.counts, histogram.total = value[1], value[2]
            found.put(name, histogram, *labels)
        else:
            found.put(name, value, *labels)
    return found


def _number(value: float | Histogram) -> dict[str, Any]:
    if not isinstance(value, Histogram):
        return {"value": value}
    return {"count": value.values, "sum": value.total, "buckets": buckets(value)}


def buckets(histogram: Histogram) -> list[tuple[str, int]]:
    """Return each upper bound, as Prometheus writes it, with the number of values up to it."""
    found, below = [], 0
    for bound, count in zip([*map(float, histogram.bounds), float("inf")], histogram.counts, strict=True):
        below += count
        found.append(("+Inf" if bound == float("inf") else str(bound), below))
    return found
