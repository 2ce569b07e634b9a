"""The choice of the sink: the queue, or in direct mode the data plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rudderpipe.flusher import dead_letters
from rudderpipe.flusher.queue_sink import QueueSink, Sink
from rudderpipe.process.clock import Clock
from rudderpipe.ring.ring import Ring
from rudderpipe.settings import Settings

if TYPE_CHECKING:
    from rudderpipe.delivery.data_plane import DataPlane


def direct_plane(settings: Settings) -> DataPlane | None:
    """Return the data plane of direct mode; None with a queue, because that flusher does not load the HTTP modules."""
    if settings.redis is not None:
        return None
    from rudderpipe.delivery.data_plane import DataPlane

    return DataPlane(settings)


def make_sink(settings: Settings, ring: Ring, plane: DataPlane | None, clock: Clock) -> Sink:
    """Return the sink of one ring. ``plane`` comes from ``direct_plane``."""
    letters = dead_letters.of(settings)
    if plane is None:
        return QueueSink(settings, ring, letters, clock)
    from rudderpipe.flusher.direct_sink import DirectSink

    return DirectSink(settings, ring.segment.epoch, plane, letters, clock)
