"""The choice of the sink: the queue, or in direct mode the data plane."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rudderpipe import log_text
from rudderpipe.errors import RingUnavailable
from rudderpipe.flusher import dead_letters, route_file, spill
from rudderpipe.flusher.counts import SCRIPTS, FlusherCounts
from rudderpipe.flusher.queue_sink import QueueSink, Sink
from rudderpipe.flusher.route_file import RouteFile
from rudderpipe.process import runtime_dir
from rudderpipe.process.clock import Clock
from rudderpipe.ring.ring import Ring, RingView
from rudderpipe.settings import Settings

if TYPE_CHECKING:
    from rudderpipe.flusher.gone_rings import GoneRings
    from rudderpipe.flusher.queues_sink import QueuesSink
    from rudderpipe.flusher.redelivery import Redelivery
    from rudderpipe.queue.meter import RedisMeter
    from rudderpipe.queue.route import QueuePlace

logger = log_text.logger("rudderpipe.flusher")


def direct(settings: Settings, clock: Clock) -> Redelivery | None:
    """Return the redelivery of direct mode, with its data plane.

    None with a queue, because that flusher does not load the HTTP modules. Raises ``RingUnavailable``.
    """
    if settings.redis is not None:
        return None
    from rudderpipe.delivery.data_plane import DataPlane
    from rudderpipe.flusher.redelivery import Redelivery

    return Redelivery(settings, DataPlane(settings), dead_letters.of(settings), clock)


def make_sink(
    settings: Settings,
    ring: Ring,
    redelivery: Redelivery | None,
    clock: Clock,
    counts: FlusherCounts | None = None,
    must_wait: Callable[[QueuePlace], bool] = lambda _place: False,
    on_route: Callable[[], None] = lambda: None,
) -> Sink:
    """Return the sink of one ring. ``redelivery`` is that of ``direct``; the last two are those of ``QueuesSink``."""
    has_spill = settings.spill_dir is not None or spill.has_unread(ring)
    if redelivery is None and (settings.queues > 1 or has_spill or route_file.path_of(ring.locks.path).exists()):
        return make_queues_sink(settings, ring, clock, counts, must_wait, on_route)
    if redelivery is None:
        return QueueSink(settings, ring, dead_letters.of(settings), clock, _meter_of(counts))
    from rudderpipe.flusher.direct_sink import DirectSink

    redelivery.enter(ring)
    return DirectSink(settings, ring.segment.epoch, redelivery, clock)


def make_queues_sink(
    settings: Settings,
    ring: RingView,
    clock: Clock,
    counts: FlusherCounts | None = None,
    must_wait: Callable[[QueuePlace], bool] = lambda _place: False,
    on_route: Callable[[], None] = lambda: None,
) -> QueuesSink:
    """Return the sink of one ring for several queues, for one whose number was changed, or for one with a spill."""
    from rudderpipe.flusher.queues_sink import QueuesSink

    letters, meter = dead_letters.of(settings), _meter_of(counts)
    file = RouteFile(ring, settings) if isinstance(ring, Ring) else None
    return QueuesSink(settings, ring, letters, clock, meter, must_wait=must_wait, route_file=file, on_route=on_route)


def gone_rings(settings: Settings, clock: Clock, counts: FlusherCounts) -> GoneRings | None:
    """Return the spills of rings that are gone; None without ``spill_dir`` or without a queue."""
    if spill.directory_of(settings) is None:
        return None
    from rudderpipe.flusher.gone_rings import GoneRings

    try:
        runtime_dir.ensure(settings.spill_dir, "spill_dir")
    except RingUnavailable as error:
        said = "nothing can be put into the spill, the ring alone holds events while redis is away error=%s"
        logger.error(said, error.reason)
    return GoneRings(settings, lambda ring, waits: make_queues_sink(settings, ring, clock, counts, waits), clock)


def _meter_of(counts: FlusherCounts | None) -> RedisMeter:
    from rudderpipe.queue.meter import RedisMeter

    counts = counts or FlusherCounts()
    counts.redis = counts.redis or RedisMeter(SCRIPTS)
    return counts.redis
