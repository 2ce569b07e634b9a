"""The metrics of a pipe's rings and of its queue, as values of one view."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from rudderpipe._version import VERSION
from rudderpipe.observe.active_lanes import LaneState
from rudderpipe.observe.metrics.table import NO_LANE
from rudderpipe.observe.metrics.values import Values
from rudderpipe.observe.pipe_queues import QueueState
from rudderpipe.observe.reader import Totals, View
from rudderpipe.observe.snapshot import RingState, Snapshot
from rudderpipe.process import runtime_dir

SHM = "/dev/shm"  # noqa: S108  # where Linux keeps the segments


def build_info(component: str) -> Values:
    """Return what says which program exports metrics."""
    found = Values()
    found.put("build_info", 1, VERSION, platform.python_version(), component)
    return found


def of_rings(view: View) -> Values:
    """Return the metrics of the rings."""
    found, shown, pipe = Values(), view.snapshot, view.snapshot.pipe
    _put_totals(found, pipe, view.totals)
    rings, letters = shown.rings, shown.dead_letters
    blocks_used = sum(ring.counters.blocks_in_use for ring in rings)
    found.put("ring_events", sum(ring.counters.in_ring for ring in rings), pipe)
    found.put("ring_capacity_events", sum(ring.counters.cap for ring in rings), pipe)
    found.put("ring_blocks", blocks_used, pipe, "used")
    found.put("ring_blocks", sum(ring.counters.blocks for ring in rings) - blocks_used, pipe, "free")
    found.put("ring_reserved_bytes", sum(ring.used_bytes for ring in rings), pipe)
    found.put("ring_size_bytes", sum(ring.size_bytes for ring in rings), pipe)
    found.put("ring_oldest_event_age_seconds", max((ring.oldest_event_age_s or 0.0 for ring in rings), default=0), pipe)
    found.put("producers", sum(ring.producers for ring in rings), pipe)
    found.put("producer_slots_used", sum(ring.slots_used for ring in rings), pipe)
    found.put("sink_down_seconds", max((ring.sink_down_s for ring in rings), default=0), pipe)
    found.put("unconfirmed_seconds", shown.unconfirmed_s, pipe)
    if shown.spill is not None:
        found.put("spilled_events", shown.spill.events, pipe)
        found.put("spill_bytes", shown.spill.used_bytes, pipe)
        found.put("spill_capacity_bytes", shown.spill.max_bytes, pipe)
    found.put("account_balanced", int(shown.events.balanced), pipe)
    found.put("dead_letters_bytes", letters.used_bytes, pipe)
    found.put("dead_letters_capacity_bytes", letters.max_bytes, pipe)
    found.put("dead_letters_events", letters.events, pipe)
    if rings:
        found.put("ring_created_timestamp_seconds", min(ring.created_ms for ring in rings) / 1000, pipe)
        found.put("flusher_heartbeat_timestamp_seconds", _heartbeat_s(rings, shown), pipe)
    if str(runtime_dir.HOME) == SHM:
        with suppress(OSError):
            file_system = os.statvfs(SHM)
            found.put("shm_free_bytes", file_system.f_bavail * file_system.f_frsize, pipe, SHM)
    return found


def _put_totals(found: Values, pipe: str, totals: Totals) -> None:
    found.put("events_accepted_total", totals.accepted, pipe)
    found.put_all("events_refused_total", (pipe,), {(reason,): count for reason, count in totals.refused.items()})
    left = {
        "queued": totals.queued,
        "delivered": totals.delivered,
        "failed": totals.failed,
        "corrupt": totals.corrupt,
    }
    found.put_all("events_left_total", (pipe,), {(outcome,): count for outcome, count in left.items()})
    found.put("events_recovered_total", totals.recovered, pipe)
    found.put("flusher_starts_total", totals.starts, pipe)


def _heartbeat_s(rings: Sequence[RingState], shown: Snapshot) -> float:
    """Return the oldest heartbeat of the rings that hold events, or of all rings if none holds one."""
    moments = [
        shown.taken_at_ms / 1000 - ring.heartbeat_age_s if ring.heartbeat_age_s is not None else ring.created_ms / 1000
        for ring in [ring for ring in rings if ring.counters.in_ring] or rings
    ]
    return min(moments)


def of_queues(shown: Snapshot, lanes: int) -> Values:
    """Return the metrics of each queue; in direct mode none."""
    found = Values()
    sizes = Counter(queue.generation for queue in shown.queues)
    for queue in shown.queues:
        found.put("redis_up", int(queue.state is not None), queue.name)
        if shown.generations:
            found.put("queue_generation", queue.generation, queue.name)
            found.put("queue_current", int(queue.is_current), queue.name)
            found.put("generation_queues", sizes[queue.generation], queue.name)
        if queue.state is None:
            continue
        _put_queue(found, queue.state, queue.name)
        if queue.share is not None:
            found.put("queue_share", queue.share, queue.name)
        if queue.lease is not None:
            found.put("queue_lease_number", queue.lease.number, queue.name)
        if lanes > 1:
            _put_lanes(found, queue.state.lanes, queue.name, lanes)
    return found


def _put_queue(found: Values, queue: QueueState, name: str) -> None:
    jobs = {
        "waiting": queue.waiting,
        "active": queue.active,
        "delayed": queue.delayed,
        "failed": queue.failed,
        "completed": queue.completed,
    }
    ends = {
        "delivered": queue.events_delivered,
        "removed": queue.events_removed,
        "elsewhere": queue.events_elsewhere,
        "lost": queue.events_lost,
    }
    events = {"queued": queue.events_queued, "failed": queue.events_failed}
    for metric, counts in (("queue_jobs", jobs), ("queue_events", events), ("queue_events_left_total", ends)):
        found.put_all(metric, (name,), {(label,): count for label, count in counts.items()})
    found.put("queue_paused", int(queue.paused), name)
    if queue.oldest_job_age_s is not None or not queue.waiting + queue.active:
        found.put("queue_oldest_job_age_seconds", queue.oldest_job_age_s or 0, name)
    if queue.oldest_failed_age_s is not None or not queue.failed:
        found.put("queue_oldest_failed_age_seconds", queue.oldest_failed_age_s or 0, name)
    found.put("queue_bytes", queue.used_bytes, name)
    if queue.max_bytes is not None:
        found.put("queue_capacity_bytes", queue.max_bytes, name)


def _put_lanes(found: Values, shown: Sequence[LaneState], name: str, lanes: int) -> None:
    counted = {each.lane: each for each in shown}
    for number in range(lanes):
        each = counted.pop(f"{number}/{lanes}", LaneState("", 0, 0))
        found.put("lane_jobs", each.active - each.retrying, name, str(number), "active")
        found.put("lane_jobs", each.retrying, name, str(number), "retrying")
    retrying = sum(each.retrying for each in counted.values())
    found.put("lane_jobs", sum(each.active for each in counted.values()) - retrying, name, NO_LANE, "active")
    found.put("lane_jobs", retrying, name, NO_LANE, "retrying")
