"""The metrics that flusher and sender count themselves, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rudderpipe.delivery.attempts import AttemptCounts
from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.flusher.counts import FlusherCounts
from rudderpipe.observe.metrics.values import Values
from rudderpipe.queue.meter import RedisMeter
from rudderpipe.sender.state import SenderState
from rudderpipe.service.histogram import Histogram, merged


def of_flusher(counts: FlusherCounts, lost_events: int, pipe: str, queue: str) -> Values:
    """Return what a flusher counts. ``lost_events`` are those of direct mode."""
    found = Values()
    found.put("flush_batch_events", counts.batch_events, pipe)
    found.put("flush_bytes_total", counts.bytes, pipe)
    found.put("dead_letters_lost_events_total", lost_events, pipe)
    if counts.redis is not None:
        found.add(_of_redis([counts.redis], queue))
    return found


def _of_redis(meters: Sequence[RedisMeter], queue: str) -> Values:
    found = Values()
    calls: dict[str, list[Histogram]] = {}
    for meter in meters:
        for script, histogram in meter.calls.items():
            calls.setdefault(script, []).append(histogram)
    for script, histograms in calls.items():
        found.put("redis_call_seconds", merged(histograms), queue, script)
    errors: dict[tuple[str, ...], int] = {
        (name,): sum(meter.errors[name] for meter in meters) for name in meters[0].errors
    }
    found.put_all("redis_errors_total", (queue,), errors)
    return found


def of_attempts(counts: AttemptCounts, planes: Sequence[DataPlane], queue: str) -> Values:
    """Return what the attempts of a process were; ``planes`` made them."""
    found = Values()
    found.put_all("attempts_total", (queue,), counts.decisions)
    found.put("attempt_seconds", counts.seconds, queue)
    found.put("request_events", counts.request_events, queue)
    found.put("request_bytes_total", sum(plane.plain_bytes for plane in planes), queue, "plain")
    found.put("request_bytes_total", sum(plane.sent_bytes for plane in planes), queue, "sent")
    found.put("delivered_events_total", counts.delivered_events, queue)
    found.put_all("failed_events_total", (queue,), {(name,): each for name, each in counts.failed_events.items()})
    found.put("splits_total", counts.splits, queue)
    return found


def of_sender(state: SenderState, lanes_wait_s: Mapping[str, float], now_s: float, queue: str) -> Values:
    """Return what a sender counts besides its attempts, and its state now."""
    found, counts = Values(), state.counts
    found.put("sender_lease_held", int(state.state == "active"), queue)
    found.put("sender_backoff_seconds", max(0.0, state.backoff_until_s - now_s), queue)
    for lane, wait_s in lanes_wait_s.items():
        found.put("lane_backoff_seconds", wait_s, queue, lane.partition("/")[0])
    found.put("delivery_age_seconds", counts.age, queue)
    found.put("recovered_jobs_total", counts.recovered_jobs, queue)
    found.add(_of_redis([counts.redis, counts.keepers_redis], queue))
    return found
