"""The choice of the sink: the queue, or in direct mode the data plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rudderpipe.flusher import dead_letters
from rudderpipe.flusher.counts import SCRIPTS, FlusherCounts
from rudderpipe.flusher.queue_sink import QueueSink, Sink
from rudderpipe.process.clock import Clock
from rudderpipe.ring.ring import Ring
from rudderpipe.settings import Settings

if TYPE_CHECKING:
    from rudderpipe.flusher.redelivery import Redelivery
    from rudderpipe.queue.meter import RedisMeter


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
) -> Sink:
    """Return the sink of one ring. ``redelivery`` comes from ``direct``."""
    if redelivery is None and settings.queues > 1:
        return make_queues_sink(settings, ring, clock, counts)
    if redelivery is None:
        return QueueSink(settings, ring, dead_letters.of(settings), clock, _meter_of(counts))
    from rudderpipe.flusher.direct_sink import DirectSink

    redelivery.enter(ring)
    return DirectSink(settings, ring.segment.epoch, redelivery, clock)


def make_queues_sink(settings: Settings, ring: Ring, clock: Clock, counts: FlusherCounts | None = None) -> Sink:
    """Return the sink of one ring for several queues, or for the several that a change of their number has made."""
    from rudderpipe.flusher.queues_sink import QueuesSink

    return QueuesSink(settings, ring, dead_letters.of(settings), clock, _meter_of(counts))


def _meter_of(counts: FlusherCounts | None) -> RedisMeter:
    from rudderpipe.queue.meter import RedisMeter

    counts = counts or FlusherCounts()
    counts.redis = counts.redis or RedisMeter(SCRIPTS)
    return counts.redis
