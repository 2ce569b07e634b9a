"""The text that Prometheus reads, and the collector of its client library (extra ``metrics``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from rudderpipe.client import living
from rudderpipe.errors import ExtraMissing, RudderpipeError
from rudderpipe.observe.metrics.of_pipe import build_info, of_queues, of_rings
from rudderpipe.observe.metrics.table import METRICS, Metric
from rudderpipe.observe.metrics.values import Value, Values, buckets
from rudderpipe.observe.reader import Reader
from rudderpipe.queue.keys import Keys
from rudderpipe.service.histogram import Histogram
from rudderpipe.service.http import Response
from rudderpipe.settings import Settings

_readers: dict[str, Reader] = {}


class Exposition(NamedTuple):
    """The metrics as text, and its type."""

    content: bytes
    """The text, in UTF-8."""
    content_type: str
    """The value of the header ``Content-Type``."""


def text(settings: Settings | None = None, accept: str = "") -> Exposition:
    """Return the metrics of the pipe of these settings, or of all pipes that this process has clients of.

    ``accept`` is the header of the request. It chooses OpenMetrics; without it the text has the format 0.0.4. Raise
    ``ExtraMissing`` without prometheus-client, and ``RingUnavailable`` if a ring cannot be read.
    """
    return exposed(lambda: _of_application(settings), accept)


def collector(settings: Settings | None = None) -> Any:
    """Return a collector for a registry of prometheus-client: ``REGISTRY.register(collector())``.

    The arguments and the errors are those of ``text``.
    """
    need_library()
    return Collector(lambda: _of_application(settings), [each for each in METRICS if each.source in ("ring", "queue")])


def queue_of(settings: Settings) -> str:
    """Return the name of the queue as it is in Redis; empty in direct mode."""
    return Keys(settings.prefix, settings.queue_name).base.removesuffix(":") if settings.redis is not None else ""


def of_pipe_and_queue(settings: Settings, reader: Reader) -> Values:
    """Return the metrics of a pipe's rings and of its queue. Raise ``RingUnavailable``."""
    view = reader.read()
    found = of_rings(view)
    found.add(of_queues(view.snapshot, settings.lanes_in_use))
    return found


def _of_application(settings: Settings | None) -> Values:
    each = [settings] if settings is not None else [client.settings for client in living()]
    pipes = {one.pipe_name: one for one in each if one.enable and not one.sync_mode}
    found = build_info("application")
    queues: set[str] = set()
    for one in pipes.values():
        reader = _readers.setdefault(one.pipe_name, Reader(one))
        view = reader.read()
        found.add(of_rings(view))
        queue = queue_of(one)
        if queue not in queues:
            queues.add(queue)
            found.add(of_queues(view.snapshot, one.lanes_in_use))
    return found


def need_library() -> None:
    """Raise ``ExtraMissing`` without prometheus-client."""
    try:
        import prometheus_client  # noqa: F401  # imported here, because only who exports metrics needs it
    except ImportError:
        raise ExtraMissing("metrics", "prometheus-client") from None


def exposed(read: Callable[[], Values], accept: str = "") -> Exposition:
    """Return the text of values. Raise ``ExtraMissing``, and what ``read`` raises."""
    need_library()
    from prometheus_client.exposition import choose_encoder

    encode, content_type = choose_encoder(accept)
    return Exposition(encode(Collector(read)), content_type)


def served(read: Callable[[], Values], accept: str = "") -> Response:
    """Return the HTTP response with the text of values: 501 without prometheus-client, 503 if a ring cannot be read."""
    try:
        return Response(200, *exposed(read, accept))
    except ExtraMissing as error:
        return _said(501, error)
    except RudderpipeError as error:
        return _said(503, error)


def _said(status: int, error: RudderpipeError) -> Response:
    return Response(status, f"{error}\n".encode(), "text/plain; charset=utf-8")


def of_application(accept: str = "") -> Response:
    """Return the HTTP response with the metrics of all pipes that this process has clients of."""
    return served(lambda: _of_application(None), accept)


class Collector:
    """A custom collector of prometheus-client, whose families are made of values that are read now.

    Unlike the library's own metrics, it writes no file where PROMETHEUS_MULTIPROC_DIR is set.
    """

    def __init__(self, read: Callable[[], Values], described: Sequence[Metric] = METRICS) -> None:
        self._read = read
        self._described = described

    def describe(self) -> Iterator[Any]:
        """Yield the families without values, so that a registry finds names that it has already."""
        return (_family(metric, ()) for metric in self._described)

    def collect(self) -> Iterator[Any]:
        """Yield the families with their values."""
        return (_family(metric, values) for metric, values in self._read().known())


def _family(metric: Metric, values: Sequence[Value]) -> Any:
    from prometheus_client import core

    kinds: dict[str, Any] = {
        "counter": core.CounterMetricFamily,
        "gauge": core.GaugeMetricFamily,
        "histogram": core.HistogramMetricFamily,
    }
    family = kinds[metric.kind](metric.name, metric.help, labels=metric.label_names)
    for labels, value in values:
        if isinstance(value, Histogram):
            family.add_metric(labels, buckets(value), value.total)
        else:
            family.add_metric(labels, value)
    return family
